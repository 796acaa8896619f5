//! Lives of nodes that are over.

use crate::icl::{Incarnation, Node, SLOTS};

/// Lives of each slot that are remembered: who was replaced longer ago than that has long been told that it is over.
const KEPT: usize = 4;

/// The last lives of each slot that are known to be over: left out of an epoch, replaced in one, or halted.
///
/// A convenience, not a fence: it tells an old life early and by name why nobody talks to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastLives {
    /// The latest first; 0 for none.
    slots: [[Incarnation; KEPT]; SLOTS],
}

impl Default for PastLives {
    fn default() -> Self {
        Self {
            slots: [[Incarnation(0); KEPT]; SLOTS],
        }
    }
}

impl PastLives {
    /// Whether this life is over.
    pub fn contains(&self, node: Node) -> bool {
        self.slots[node.slot.index()].contains(&node.incarnation)
    }

    /// This life is over.
    pub fn add(&mut self, node: Node) {
        if self.contains(node) {
            return;
        }
        let lives = &mut self.slots[node.slot.index()];
        lives.rotate_right(1);
        lives[0] = node.incarnation;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icl::Slot;

    #[test]
    fn the_last_lives_of_each_slot_are_remembered() {
        let node = |slot, life| Node {
            slot: Slot::new(slot).expect("there is such a slot"),
            incarnation: Incarnation(life),
        };
        let mut past = PastLives::default();
        for life in 1..=5 {
            past.add(node(1, life));
            past.add(node(1, life));
        }
        let known: Vec<u64> = (1..8).filter(|life| past.contains(node(1, *life))).collect();
        assert_eq!(known, [2, 3, 4, 5]);
        assert!(!past.contains(node(2, 5)));
    }
}
