//! A map from 64-bit keys to places in a slab, of fixed size.

/// Marks a slot without a key. No place is as large.
const EMPTY: u32 = u32::MAX;

/// At most half of the slots are ever taken, so that a search soon meets an empty one.
const SLOTS_PER_KEY: usize = 2;

/// 2^64 divided by the golden ratio, odd.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: u64,
    place: u32,
}

/// Open addressing with linear probing; a removal moves what lies behind it, so no slot is ever merely marked as removed.
///
/// Keys are spread by a fixed function: a host that works at it can make its own look-ups slow, not wrong.
#[derive(Debug)]
pub struct KeyIndex {
    slots: Box<[Slot]>,
    keys: usize,
    keys_max: usize,
    /// 64 less log2 of the number of slots.
    shift: u32,
}

impl KeyIndex {
    /// Room for `keys_max` keys, 16 bytes a slot and two to four slots a key.
    pub fn new(keys_max: u32) -> Self {
        assert!(keys_max < EMPTY, "the last place means an empty slot");
        let slots = (keys_max as usize * SLOTS_PER_KEY).max(2).next_power_of_two();
        Self {
            slots: vec![Slot { key: 0, place: EMPTY }; slots].into_boxed_slice(),
            keys: 0,
            keys_max: keys_max as usize,
            shift: u64::BITS - slots.trailing_zeros(),
        }
    }

    /// The place of a key, if it is there.
    #[inline]
    pub fn find(&self, key: u64) -> Option<u32> {
        let slot = self.slots[self.search(key)];
        (slot.place != EMPTY).then_some(slot.place)
    }

    /// Panics if the key is there already or the index is full.
    pub fn insert(&mut self, key: u64, place: u32) {
        assert!(place < EMPTY, "the last place means an empty slot");
        assert!(self.keys < self.keys_max, "there is room for one more key");
        let at = self.search(key);
        assert!(self.slots[at].place == EMPTY, "a key is put in once");
        self.slots[at] = Slot { key, place };
        self.keys += 1;
    }

    /// Takes a key out and gives the place that it had.
    pub fn remove(&mut self, key: u64) -> Option<u32> {
        let mut hole = self.search(key);
        let removed = self.slots[hole].place;
        if removed == EMPTY {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.place == EMPTY {
                break;
            }
            // A key may move into the hole unless that lies before the slot where its search begins.
            let from_home = at.wrapping_sub(self.home(slot.key)) & mask;
            let from_hole = at.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole].place = EMPTY;
        self.keys -= 1;
        Some(removed)
    }

    /// The slot that has the key, or the empty one where it belongs. Ends because half of the slots are empty.
    #[inline]
    fn search(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.home(key);
        loop {
            let slot = self.slots[at];
            if slot.place == EMPTY || slot.key == key {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    /// Where the search for a key begins.
    #[inline]
    fn home(&self, key: u64) -> usize {
        let spread = key.wrapping_mul(SPREAD);
        // Once more, because the upper bits of one product hardly depend on the upper bits of the key.
        let spread = (spread ^ spread >> 32).wrapping_mul(SPREAD);
        usize::try_from(spread >> self.shift).expect("as many bits are left as number the slots")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Random insertions and removals against a `BTreeMap`, with keys that collide often.
    #[test]
    fn it_agrees_with_a_map() {
        let mut index = KeyIndex::new(48);
        let mut model = BTreeMap::new();
        let mut seed = 5_u64;
        for step in 0..60_000_u32 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let key = (seed >> 40) % 64 * (1 << 26);
            if model.contains_key(&key) {
                assert_eq!(index.remove(key), model.remove(&key));
            } else if model.len() < 48 {
                index.insert(key, step);
                model.insert(key, step);
            }
            assert_eq!(index.keys, model.len());
            if step % 16 == 0 {
                for key in (0..64).map(|i| i * (1 << 26)) {
                    assert_eq!(index.find(key), model.get(&key).copied());
                }
            }
        }
    }

    /// Rows that a host reads in steps of a power of two must not crowd into one corner of the slots.
    #[test]
    fn strides_are_spread() {
        for stride_bits in 0..40 {
            let mut index = KeyIndex::new(1 << 12);
            for i in 0..1 << 12 {
                index.insert(i << stride_bits, 0);
            }
            let mut longest = 0;
            let mut taken = 0;
            for slot in &index.slots {
                taken = if slot.place == EMPTY { 0 } else { taken + 1 };
                longest = longest.max(taken);
            }
            assert!(longest < 128, "stride 2^{stride_bits}: {longest} slots in a row");
        }
    }

    #[test]
    #[should_panic(expected = "put in once")]
    fn a_key_twice_is_a_bug() {
        let mut index = KeyIndex::new(4);
        index.insert(7, 0);
        index.insert(7, 1);
    }

    #[test]
    #[should_panic(expected = "room for one more")]
    fn one_key_too_many_is_a_bug() {
        let mut index = KeyIndex::new(1);
        index.insert(7, 0);
        index.insert(8, 1);
    }
}
