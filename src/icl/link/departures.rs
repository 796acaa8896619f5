//! What has left towards a peer, for those who have to know that: a write that is done once it was sent, whoever gets it.

use std::collections::{BTreeMap, VecDeque};

use crate::icl::Slot;

/// Messages to a peer in an epoch, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Departures {
    /// Submitted.
    pub queued: u64,
    /// In a packet that a path has taken.
    pub left: u64,
}

/// What is to be said when messages have left, by the peer that they go to.
#[derive(Debug)]
pub struct Departing<T> {
    waiting: BTreeMap<Slot, VecDeque<(u64, T)>>,
}

impl<T> Default for Departing<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
        }
    }
}

impl<T> Departing<T> {
    /// Another epoch begins: nothing of the last one counts.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// This is to be said when all has left that was submitted to a peer by now; never, if that is no member.
    pub fn watch(&mut self, peer: Slot, now: Option<Departures>, what: T) {
        let Some(now) = now else { return };
        let waiting = self.waiting.entry(peer).or_default();
        waiting.push_back((now.queued, what));
    }

    /// The next thing to be said.
    pub fn next(&mut self, departures: impl Fn(Slot) -> Option<Departures>) -> Option<(Slot, T)> {
        let has_left = |(peer, waiting): (&Slot, &mut VecDeque<(u64, T)>)| {
            let (number, _) = waiting.front()?;
            let is_due = departures(*peer).is_some_and(|now| *number <= now.left);
            let (_, what) = waiting.pop_front_if(|_| is_due)?;
            Some((*peer, what))
        };
        self.waiting.iter_mut().find_map(has_left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_left_is_said_once_in_order_and_of_this_epoch() {
        let slot = |number| Slot::new(number).unwrap();
        let at = |queued, left| Some(Departures { queued, left });
        let mut departing = Departing::default();
        departing.watch(slot(1), at(3, 0), "a");
        departing.watch(slot(1), at(5, 2), "b");
        departing.watch(slot(2), at(1, 0), "c");
        departing.watch(slot(3), None, "nobody");
        let mut said = |left: [u64; 2]| {
            let departures = |peer: Slot| at(9, *left.get(usize::from(peer.number()) - 1)?);
            std::iter::from_fn(|| departing.next(departures)).collect::<Vec<_>>()
        };
        assert_eq!(said([2, 0]), []);
        assert_eq!(said([4, 1]), [(slot(1), "a"), (slot(2), "c")]);
        assert_eq!(said([5, 1]), [(slot(1), "b")]);
        departing.watch(slot(2), at(2, 1), "d");
        departing.clear();
        assert_eq!(departing.next(|_| at(9, 9)), None);
    }
}
