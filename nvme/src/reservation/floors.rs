//! Keys that are too old to be registered: the shelf's own look at the epochs of an array (PROTOCOL H07).
//!
//! An array's key is the epoch in which its node was admitted (bits 63:32), the node's slot (31:24) and random bits. A slot has one life at a
//! time, and a later life is admitted in a later epoch, so that for each slot there is a *floor*: the lowest epoch that may still
//! register. It rises
//!
//! - when a key is preempted, to the epoch after that of the key: neither the victim nor an earlier life of its slot comes back, and the next
//!   one, which is admitted later, does;
//! - when a key is registered, to its epoch: an earlier life of this slot has been left behind, whether or not it was registered here;
//! - for all slots, when everybody is preempted (PRKEY 0), to the epoch of the preempting key: this is how an array starts after all of
//!   its nodes were down, with keys of that epoch or later for all, and who was admitted before and never got round to registering
//!   is out. A record that fences everyone therefore gives each of its members a new key.
//!
//! Other slots keep their floors when a victim is fenced, because their members keep keys of earlier epochs. A key that is registered stays
//! good, and may be registered again.
//!
//! Ordinary hosts choose keys as they like, so a namespace is held to this only if a host has asked for it: vendor specific feature C0h, by
//! namespace, bit 0 of its value. It is kept with the reservations, also where those do not persist.

use crate::status::Status;

use super::Key;

/// Slots of an array.
pub const SLOTS: usize = 8;

/// The epoch and the slot of an array's key; `None` if it is none.
fn parts(key: Key) -> Option<(u32, usize)> {
    let [e3, e2, e1, e0, slot, ..] = key.0.to_be_bytes();
    let epoch = u32::from_be_bytes([e3, e2, e1, e0]);
    let slot = usize::from(slot);
    (epoch > 0 && slot < SLOTS).then_some((epoch, slot))
}

/// The lowest epoch that each slot may register with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floors(pub [u32; SLOTS]);

impl Floors {
    /// Whether this key may become somebody's. Only keys of an array may.
    pub fn check(&self, key: Key) -> Result<(), Status> {
        match parts(key) {
            Some((epoch, slot)) if epoch >= self.0[slot] => Ok(()),
            Some(_) | None => Err(Status::RESERVATION_CONFLICT.do_not_retry()),
        }
    }

    /// A key was registered.
    pub(super) fn registered(&mut self, key: Key) {
        if let Some((epoch, slot)) = parts(key) {
            self.raise(slot, epoch);
        }
    }

    /// A key was preempted.
    pub(super) fn preempted(&mut self, key: Key) {
        if let Some((epoch, slot)) = parts(key) {
            self.raise(slot, epoch.saturating_add(1));
        }
    }

    /// Everybody but the host of this key was preempted.
    pub(super) fn preempted_all(&mut self, by: Key) {
        if let Some((epoch, _)) = parts(by) {
            (0..SLOTS).for_each(|slot| self.raise(slot, epoch));
        }
    }

    fn raise(&mut self, slot: usize, epoch: u32) {
        self.0[slot] = self.0[slot].max(epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(epoch: u32, slot: u8) -> Key {
        Key(u64::from(epoch) << 32 | u64::from(slot) << 24 | 0x5555)
    }

    #[test]
    fn neither_a_victim_nor_an_earlier_life_of_its_slot_comes_back() {
        let mut floors = Floors::default();
        floors.preempted(key(5, 2));
        for epoch in 1..=5 {
            assert!(floors.check(key(epoch, 2)).is_err(), "{epoch}");
        }
        floors.check(key(6, 2)).unwrap();
    }

    #[test]
    fn members_of_other_slots_are_as_good_as_before() {
        let mut floors = Floors::default();
        floors.registered(key(1, 0));
        floors.preempted(key(5, 2));
        floors.preempted(key(7, 3));
        floors.check(key(1, 0)).unwrap();
        floors.check(key(1, 1)).unwrap();
    }

    #[test]
    fn a_later_life_leaves_the_earlier_ones_behind() {
        let mut floors = Floors::default();
        floors.registered(key(9, 4));
        assert!(floors.check(key(8, 4)).is_err());
        floors.check(key(9, 4)).unwrap();
        floors.registered(key(3, 4));
        assert!(floors.check(key(8, 4)).is_err(), "floors never sink");
    }

    #[test]
    fn who_was_admitted_before_everybody_was_fenced_is_out() {
        let mut floors = Floors::default();
        floors.preempted_all(key(6, 1));
        for slot in 0..8 {
            assert!(floors.check(key(5, slot)).is_err());
            floors.check(key(6, slot)).unwrap();
        }
    }

    #[test]
    fn keys_of_no_array_are_refused_and_move_nothing() {
        let mut floors = Floors::default();
        for other in [Key(0x1111), key(0, 3), key(5, 8), key(5, 255)] {
            assert!(floors.check(other).is_err(), "{other:?}");
            floors.preempted(other);
            floors.preempted_all(other);
            floors.registered(other);
        }
        assert_eq!(floors, Floors::default());
        floors.preempted(key(u32::MAX, 0));
        assert_eq!(floors.0[0], u32::MAX, "the last epoch that there can be");
    }
}
