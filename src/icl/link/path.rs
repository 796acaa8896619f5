//! One way to a peer: whether it lives, how long a round takes, how much waits to leave on it.
//!
//! Each path has pings of its own, so that a spare one is known to work before it is needed. A ping and its answer are
//! stamps in the header of any packet: they take no credit and are never sent again.

use crate::icl::Incarnation;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Of the peer, as the handshake found it.
    pub incarnation: Incarnation,
    /// When anything of the peer came in on it, or when it came up.
    pub heard_ns: u64,
    /// When the next ping is due.
    pub ping_at_ns: u64,
    /// When the last ping left that was answered, or since when answers are expected: both ways work.
    pub answered_ns: u64,
    /// The stamp of the last ping while it is not answered.
    asked_ns: Option<u64>,
    /// The peer's stamp that is to be answered.
    pub answer_ns: Option<u64>,
    /// Smoothed time from a ping to its answer.
    pub round_trip_ns: Option<u64>,
    /// Bytes that were handed over and have not left.
    pub unsent_bytes: u32,
}

impl Path {
    /// A path that is up from now on. Its first ping is due at once.
    pub const fn new(incarnation: Incarnation, now_ns: u64) -> Self {
        Self {
            incarnation,
            heard_ns: now_ns,
            ping_at_ns: now_ns,
            answered_ns: now_ns,
            asked_ns: None,
            answer_ns: None,
            round_trip_ns: None,
            unsent_bytes: 0,
        }
    }

    /// The stamp to send along if a ping is due; the next is due `ping_ns` later.
    pub fn ask(&mut self, now_ns: u64, ping_ns: u64) -> Option<u64> {
        if now_ns < self.ping_at_ns {
            return None;
        }
        self.ping_at_ns = now_ns + ping_ns;
        let stamp = now_ns.max(1); // 0 says on the wire that there is none.
        self.asked_ns = Some(stamp);
        Some(stamp)
    }

    /// Takes an answer. One to anything but the last ping is old and measures nothing; how long ago both ways worked
    /// it says all the same, by the time at which its ping left.
    ///
    /// Source: RFC 6298, section 2: the smoothed time moves by an eighth.
    pub fn answered(&mut self, now_ns: u64, stamp: u64) {
        self.answered_ns = self.answered_ns.max(stamp.min(now_ns));
        if self.asked_ns != Some(stamp) {
            return;
        }
        self.asked_ns = None;
        let round_trip_ns = now_ns.saturating_sub(stamp);
        self.round_trip_ns = Some(match self.round_trip_ns {
            Some(smoothed) => smoothed - smoothed / 8 + round_trip_ns / 8,
            None => round_trip_ns,
        });
    }

    /// Forgets what belongs to the last epoch: the peer is to hear of the new one at once.
    pub const fn enter_epoch(&mut self, now_ns: u64) {
        self.ping_at_ns = now_ns;
        self.answered_ns = now_ns;
        self.asked_ns = None;
        self.answer_ns = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_last_ping_measures_a_round() {
        let mut path = Path::new(Incarnation(1), 0);
        assert_eq!(path.ask(0, 100), Some(1), "0 means none");
        assert_eq!(path.ask(50, 100), None);
        path.answered(41, 1);
        assert_eq!(path.round_trip_ns, Some(40));
        path.answered(90, 1);
        assert_eq!(path.round_trip_ns, Some(40), "an answer counts once");
        assert_eq!(path.ask(100, 100), Some(100));
        path.answered(220, 100);
        assert_eq!(path.round_trip_ns, Some(50));
        assert_eq!(path.ask(300, 100), Some(300));
        path.answered(310, 100);
        assert_eq!(path.round_trip_ns, Some(50), "a late answer to an older ping");
        assert_eq!(path.answered_ns, 100, "both ways worked then");
    }
}
