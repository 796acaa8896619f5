//! What happens to the links of a node, and what they want done.

use super::name::{Address, PathId};
use super::packet::PacketError;
use crate::icl::{Epoch, Incarnation, Node, Slot};

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The node enters an epoch, greater than the last, with these members, itself among them. All that was queued,
    /// sent or received in the last is forgotten, on both sides (H10): the AMFs ask again for what they still need.
    NewEpoch {
        /// The epoch.
        epoch: Epoch,
        /// Its members, each slot once.
        members: &'a [Node],
    },
    /// A connection to a peer was made and the handshake is over; the next bytes on it are packets.
    PathUp {
        /// The peer.
        peer: Slot,
        /// Which way; it must not be up.
        path: PathId,
        /// What the handshake proved.
        incarnation: Incarnation,
    },
    /// A connection is lost. One that is not up, because it was closed from here, may be named.
    PathDown {
        /// The peer.
        peer: Slot,
        /// Which way.
        path: PathId,
    },
    /// One whole packet came in, as [`super::Stream`] cuts it from a stream, or one datagram.
    Received {
        /// Who is at the other end of the path.
        peer: Slot,
        /// Which way.
        path: PathId,
        /// The bytes, to which [`Action::Deliver`] refers.
        packet: &'a [u8],
    },
    /// Bytes of [`Action::Send`] have left: what the path takes next may be composed.
    Sent {
        /// To whom.
        peer: Slot,
        /// Which way.
        path: PathId,
        /// How many.
        bytes: u32,
    },
    /// The addressees are done with messages that were delivered, so that as many more may come.
    Consumed {
        /// From whom they came.
        peer: Slot,
        /// In which epoch they came; what is of an earlier one is ignored.
        epoch: Epoch,
        /// How many.
        frames: u32,
        /// Bytes of their payloads.
        payload_bytes: u64,
    },
    /// Time has passed: at least every few milliseconds, or as [`super::Links::wake_at_ns`] says, and after what came in
    /// was handed over. Looks at the timers; what is due leaves with the end of the turn.
    Tick,
    /// The turn is over: what it has produced leaves.
    EndOfTurn,
}

/// Why a path is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer at its other end is not a member, or another life of it is (I20).
    NotMember,
    /// Nothing came in on it for so long.
    Silent {
        /// How long.
        silence_ns: u64,
    },
    /// It brings packets, but no ping that was sent on it for so long was answered: only one way works.
    Unanswered {
        /// How long.
        silence_ns: u64,
    },
    /// What came in is no packet; a stream cannot go on after that.
    Malformed(PacketError),
    /// The peer broke a rule of the session.
    Misbehaved(Misbehaviour),
}

/// What a peer must not do in well-formed packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misbehaviour {
    /// It acknowledged what was never sent.
    AckBeyondSent {
        /// The number that it acknowledged.
        ack: u64,
        /// The highest that was sent.
        sent: u64,
    },
    /// It sent more than it was granted.
    BeyondCredit {
        /// The first number of its packet.
        first: u64,
    },
}

/// What is to be done, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send `start..end` of what the same [`super::Outbox`] has composed, one packet: [`super::Outbox::pieces`]. Answer
    /// [`Event::Sent`] once so many bytes have left.
    Send {
        /// To whom.
        peer: Slot,
        /// Which way.
        path: PathId,
        /// Its first byte.
        start: u32,
        /// Byte after the last one.
        end: u32,
    },
    /// Hand bytes `start..end` of the packet of this [`Event::Received`] to their addressee; answer [`Event::Consumed`]
    /// once it is done with them.
    Deliver {
        /// From whom.
        peer: Slot,
        /// For whom.
        address: Address,
        /// The message's type.
        kind: u16,
        /// First byte of the payload.
        start: u32,
        /// Byte after the last one.
        end: u32,
    },
    /// Nothing was heard of a peer for so long. A suspicion, never more: only a decision on the drives takes a peer's
    /// rights away (H01, E1).
    Suspect {
        /// Who.
        peer: Slot,
        /// How long.
        silence_ns: u64,
    },
    /// A peer is heard for the first time in this epoch, or again after a suspicion.
    Heard {
        /// Who.
        peer: Slot,
    },
    /// A peer is in a greater epoch than this node: the drives are to be asked. A hint of a peer, not a decision.
    NewerEpoch {
        /// Who.
        peer: Slot,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The queue to a peer that was full is half empty: what was refused may be submitted again.
    Room {
        /// To whom.
        peer: Slot,
    },
    /// Close a connection; nothing more is to be said of it until it is up again.
    ClosePath {
        /// To whom.
        peer: Slot,
        /// Which way.
        path: PathId,
        /// Why.
        reason: CloseReason,
    },
}
