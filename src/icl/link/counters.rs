//! What a link counts, for metrics and for the comparison with gathering off.

/// Why a packet was dropped unread.
///
/// Source: PROTOCOL section 1, decision 6, and H10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// It is no packet, or not all of one.
    Malformed,
    /// It is of another array.
    WrongArray,
    /// It is of another lane, or from or for another slot.
    WrongPeer,
    /// It is from another life of the sender, or for another life of this node.
    WrongIncarnation,
    /// It is of another epoch.
    WrongEpoch,
    /// It came on a path that is not up, such as one that was closed a moment ago.
    PathDown,
    /// Its sender broke a rule of the session.
    Misbehaved,
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = 7;
}

/// Counts of one link to one peer since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were taken to be sent.
    pub messages_submitted: u64,
    /// Messages in packets that left, those that were sent again included.
    pub messages_sent: u64,
    /// Of those, the ones that were sent again.
    pub messages_resent: u64,
    /// Packets with messages that left.
    pub packets_sent: u64,
    /// Packets without messages that left: pings, answers, acknowledgements, grants.
    pub bare_packets_sent: u64,
    /// Bytes of all packets that left.
    pub bytes_sent: u64,
    /// Messages that were handed to their addressees.
    pub messages_delivered: u64,
    /// Packets that were of this session.
    pub packets_received: u64,
    /// Bytes of those.
    pub bytes_received: u64,
    /// Messages that had come before.
    pub duplicates_dropped: u64,
    /// Messages that came before one that precedes them.
    pub gaps_dropped: u64,
    /// Turns at whose end messages waited for the peer to grant more.
    pub credit_stalls: u64,
    /// Messages that were refused because the queue was full.
    pub refused_full: u64,
    /// Times that sending began again with the oldest message that was not acknowledged.
    pub rewinds: u64,
    /// Times that another path took over.
    pub failovers: u64,
    /// Times that the peer was suspected.
    pub suspicions: u64,
    dropped: [u64; DropReason::COUNT],
}

impl Counters {
    /// Packets that were dropped for a reason.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    pub(super) const fn count_drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    /// Messages per packet that carried any, in thousandths; `None` before the first. 1000 with gathering off.
    pub const fn messages_per_packet_milli(&self) -> Option<u64> {
        (self.messages_sent * 1000).checked_div(self.packets_sent)
    }
}
