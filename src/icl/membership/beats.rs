//! Rounds of heartbeats that others have told of: since when a lease may be over that nobody renews any more.
//!
//! A node tells with each announcement which round of heartbeats it has issued last. Whoever has fenced it, and then reads its last heartbeat from a majority of the voters,
//! knows that no lease of it was begun after the round that it finds there; and that round was issued before somebody first heard of it, or of a later one.
//! So the wait for the lease counts from then, and not from the fence.

use std::collections::VecDeque;

use super::times::{HEARTBEAT_NS, LEASE_WAIT_NS};

/// Rounds that are remembered: what is older than a lease makes no difference.
const ROUNDS_MAX: usize = (LEASE_WAIT_NS / HEARTBEAT_NS) as usize + 2;

/// When rounds of heartbeats of one life were first heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Beats(VecDeque<Heard>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Heard {
    round: u64,
    at_ns: u64,
}

impl Beats {
    /// It was heard now that this round was issued.
    pub fn hear(&mut self, now_ns: u64, round: u64) {
        match self.0.back() {
            Some(last) if last.round == round => return,
            // A life counts up; one that does not is believed in nothing that it has said.
            Some(last) if last.round > round => self.0.clear(),
            Some(_) | None => {}
        }
        if self.0.len() == ROUNDS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Heard { round, at_ns: now_ns });
    }

    /// A moment at which this round was issued already. `None` if nobody has told of it, nor of a later one.
    pub fn issued_before_ns(&self, round: u64) -> Option<u64> {
        let heard = self.0.iter().find(|heard| heard.round >= round)?;
        Some(heard.at_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_was_issued_before_it_or_a_later_one_was_heard_of_first() {
        let mut beats = Beats::default();
        assert_eq!(beats.issued_before_ns(1), None);
        for (at_ns, round) in [(10, 1), (20, 1), (30, 2), (70, 5)] {
            beats.hear(at_ns, round);
        }
        let issued = |round| beats.issued_before_ns(round);
        assert_eq!(
            [1, 2, 3, 5, 6].map(issued),
            [Some(10), Some(30), Some(70), Some(70), None]
        );
    }

    #[test]
    fn what_is_forgotten_counts_as_issued_later() {
        let mut beats = Beats::default();
        for round in 1..=100 {
            beats.hear(round * 10, round);
        }
        let oldest = 100 - ROUNDS_MAX as u64 + 1;
        assert_eq!(beats.issued_before_ns(1), Some(oldest * 10));
        assert_eq!(beats.issued_before_ns(100), Some(1_000));
    }

    #[test]
    fn rounds_that_go_back_are_believed_anew() {
        let mut beats = Beats::default();
        beats.hear(10, 500);
        beats.hear(20, 3);
        assert_eq!(beats.issued_before_ns(3), Some(20));
        assert_eq!(beats.issued_before_ns(4), None);
    }
}
