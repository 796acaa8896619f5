//! Who waits for one resource, in the order in which they will be served.
//!
//! A node has one request for a resource at most, so there are never more than slots. By priority, nobody is passed more than
//! [`PASSED_MAX`] times, so that all are served (B10).

use super::message::Waiter;
use super::name::{Number, Prefetch};
use crate::icl::{SLOTS, Slot};

/// In which order requests are served.
///
/// Source: US patent application in `seed/`, Figure 18a: "any well known algorithm".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueueOrder {
    /// First come, first served.
    Fifo,
    /// The higher [`Waiter::priority`] first, then first come, first served; bounded by [`PASSED_MAX`].
    Priority,
}

/// How many later requests may pass an earlier one: as many as there are other nodes.
pub const PASSED_MAX: u8 = 7;

/// One request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// Who.
    pub slot: Slot,
    /// What.
    pub waiter: Waiter,
    /// What else, if it is free when this one is served.
    pub prefetch: Prefetch,
    passed: u8,
}

impl Waiting {
    /// A request that has come.
    pub const fn new(slot: Slot, waiter: Waiter, prefetch: Prefetch) -> Self {
        Self {
            slot,
            waiter,
            prefetch,
            passed: 0,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Queue {
    /// The first `count` are used.
    places: [Option<Waiting>; SLOTS],
    count: usize,
}

impl Queue {
    /// Whether nobody waits.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Who is next.
    pub fn first(&self) -> Option<&Waiting> {
        self.iter().next()
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.places.iter().flatten()
    }

    /// The request of a node.
    pub fn number_of(&self, slot: Slot) -> Option<Number> {
        let of_slot = self.iter().find(|waiting| waiting.slot == slot);
        of_slot.map(|waiting| waiting.waiter.number)
    }

    /// Puts a request into the queue. With `is_first_pinned` the first one stays the first.
    ///
    /// Panics if its node waits already.
    pub fn insert(&mut self, waiting: Waiting, order: QueueOrder, is_first_pinned: bool) {
        assert!(
            self.number_of(waiting.slot).is_none(),
            "a node has one request for a resource"
        );
        assert!(self.count < SLOTS, "there are no more nodes than slots");
        let mut at = self.count;
        let first = usize::from(is_first_pinned);
        while order == QueueOrder::Priority && at > first {
            let Some(before) = &mut self.places[at - 1] else {
                break;
            };
            if before.waiter.priority >= waiting.waiter.priority || before.passed >= PASSED_MAX {
                break;
            }
            before.passed += 1;
            at -= 1;
        }
        self.places[at..=self.count].rotate_right(1);
        self.places[at] = Some(waiting);
        self.count += 1;
    }

    /// Takes the first one out.
    pub fn take_first(&mut self) -> Option<Waiting> {
        self.take(0)
    }

    /// Takes the request of a node out.
    pub fn remove(&mut self, slot: Slot) -> Option<Waiting> {
        let at = self.iter().position(|waiting| waiting.slot == slot)?;
        self.take(at)
    }

    fn take(&mut self, at: usize) -> Option<Waiting> {
        let taken = self.places[at].take()?;
        self.places[at..self.count].rotate_left(1);
        self.count -= 1;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amf::lock::Mode;

    fn waiting(slot: u8, priority: u8) -> Waiting {
        let waiter = Waiter {
            mode: Mode::Write,
            priority,
            number: Number(1),
            takes: false,
        };
        Waiting::new(Slot::new(slot).unwrap(), waiter, Prefetch::NONE)
    }

    fn served(queue: &mut Queue) -> Vec<u8> {
        std::iter::from_fn(|| queue.take_first())
            .map(|waiting| waiting.slot.number())
            .collect()
    }

    /// B10: 8 requests are served in the order in which they came, or by priority.
    #[test]
    fn b10_first_come_or_priority() {
        let priorities = [3, 9, 3, 1, 9, 200, 0, 3];
        for (order, expected) in [
            (QueueOrder::Fifo, [0, 1, 2, 3, 4, 5, 6, 7]),
            (QueueOrder::Priority, [5, 1, 4, 0, 2, 7, 3, 6]),
        ] {
            let mut queue = Queue::default();
            for (slot, priority) in (0..).zip(priorities) {
                queue.insert(waiting(slot, priority), order, false);
            }
            assert_eq!(served(&mut queue), expected);
            assert!(queue.is_empty());
        }
    }

    /// B10: none starves, however many more important ones come.
    #[test]
    fn b10_nobody_is_passed_for_ever() {
        let mut queue = Queue::default();
        queue.insert(waiting(0, 0), QueueOrder::Priority, false);
        let mut turns = 0;
        for round in 0.. {
            queue.insert(waiting(1 + round % 7, 9), QueueOrder::Priority, false);
            turns += 1;
            let first = queue.take_first().unwrap();
            if first.slot.number() == 0 {
                break;
            }
        }
        assert_eq!(turns, usize::from(PASSED_MAX) + 1);
    }

    #[test]
    fn who_was_named_as_the_next_stays_the_next() {
        let mut queue = Queue::default();
        queue.insert(waiting(4, 0), QueueOrder::Priority, false);
        queue.insert(waiting(5, 9), QueueOrder::Priority, true);
        queue.insert(waiting(6, 10), QueueOrder::Priority, true);
        assert_eq!(
            queue.remove(Slot::new(5).unwrap()).map(|gone| gone.passed),
            Some(1)
        );
        assert_eq!(queue.remove(Slot::new(5).unwrap()), None);
        assert_eq!(served(&mut queue), [4, 6]);
    }
}
