//! The names of nodes, drives and epochs, and sets of them.

use std::fmt;

use nvme::reservation::Key;

/// Slots of an array: the most nodes that share it.
pub const SLOTS: usize = 8;

/// How many of `count` voters are more than half of them.
pub const fn majority(count: u32) -> u32 {
    count / 2 + 1
}

/// UUID of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArrayId(pub [u8; 16]);

/// A version of the membership. 0 is before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch that follows.
    ///
    /// Panics after 2^32 epochs: one a second takes 136 years.
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("epochs last for 136 years"))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// One life of a node's process: random, never 0, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// The place of a node in an array, below [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The slot of this number, if there is one.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < SLOTS {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All of them, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..8).map(Self)
    }

    /// The key under which a node registers: epoch of admission (32 bits), slot (8), random (24); never 0.
    ///
    /// Panics in epoch 0, in which nobody is admitted. Of `random` the lower 24 bits count.
    pub const fn key(self, admission: Epoch, random: u32) -> Key {
        assert!(admission.0 > 0, "nobody is admitted before the first epoch");
        Key((admission.0 as u64) << 32 | (self.0 as u64) << 24 | (random & 0xff_ffff) as u64)
    }

    /// The epoch and slot in a key; `None` if the key is none of ours.
    pub fn of_key(key: Key) -> Option<(Epoch, Self)> {
        let [e3, e2, e1, e0, slot, ..] = key.0.to_be_bytes();
        let epoch = u32::from_be_bytes([e3, e2, e1, e0]);
        let slot = Self::new(slot)?;
        (epoch > 0).then_some((Epoch(epoch), slot))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// One life of one node: what an epoch's membership is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its place.
    pub slot: Slot,
    /// Its life.
    pub incarnation: Incarnation,
}

/// A drive of an array: its place in the array's list of drives, below [`DriveSet::DRIVES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriveIndex(u8);

impl DriveIndex {
    /// The drive of this number, if there can be one.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as u32) < DriveSet::DRIVES_MAX {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for DriveIndex {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Defines a set of small numbers, one bit each.
macro_rules! index_set {
    ($(#[$doc:meta])* $set:ident, $bits:ty, $of:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $set(pub $bits);

        impl $set {
            /// Nothing.
            pub const EMPTY: Self = Self(0);

            /// Whether it has this one.
            pub const fn contains(self, one: $of) -> bool {
                self.0 >> one.0 & 1 == 1
            }

            /// Whether it has none.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// How many it has.
            pub const fn count(self) -> u32 {
                self.0.count_ones()
            }

            /// With this one.
            #[must_use]
            pub const fn with(self, one: $of) -> Self {
                Self(self.0 | 1 << one.0)
            }

            /// Without this one.
            #[must_use]
            pub const fn without(self, one: $of) -> Self {
                Self(self.0 & !(1 << one.0))
            }

            /// What both have.
            #[must_use]
            pub const fn and(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// What either has.
            #[must_use]
            pub const fn or(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// What this has and the other one has not.
            #[must_use]
            pub const fn minus(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Whether it has all that the other one has.
            pub const fn covers(self, other: Self) -> bool {
                other.0 & !self.0 == 0
            }

            /// What it has, ascending.
            pub fn iter(self) -> impl Iterator<Item = $of> {
                (0..8 * u8::try_from(size_of::<$bits>()).expect("a few bytes"))
                    .map($of)
                    .filter(move |one| self.contains(*one))
            }

            /// The lowest that it has.
            pub fn first(self) -> Option<$of> {
                self.iter().next()
            }
        }

        impl FromIterator<$of> for $set {
            fn from_iter<I: IntoIterator<Item = $of>>(all: I) -> Self {
                all.into_iter().fold(Self::EMPTY, Self::with)
            }
        }
    };
}

index_set!(
    /// Drives of an array.
    DriveSet,
    u64,
    DriveIndex
);
index_set!(
    /// Slots of an array.
    SlotSet,
    u8,
    Slot
);

impl DriveSet {
    /// Most drives of an array: 32 members and their spares, and room.
    pub const DRIVES_MAX: u32 = 64;

    /// Whether it has more than half of these voters.
    pub const fn has_majority_of(self, voters: Self) -> bool {
        self.and(voters).count() >= majority(voters.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_when_and_where_its_owner_was_admitted() {
        let slot = Slot::new(5).unwrap();
        let key = slot.key(Epoch(9), 0xffab_cdef);
        assert_eq!(key, Key(0x0000_0009_05ab_cdef));
        assert_eq!(Slot::of_key(key), Some((Epoch(9), slot)));
        assert_eq!(Slot::of_key(Key(0x0000_0009_08ab_cdef)), None, "no such slot");
        assert_eq!(Slot::of_key(Key(7)), None, "no epoch");
        assert_eq!((Slot::new(8), DriveIndex::new(64)), (None, None));
    }

    #[test]
    fn two_majorities_meet() {
        for count in 1..10 {
            assert!(2 * majority(count) > count);
            assert!(2 * (majority(count) - 1) <= count);
        }
        assert!(DriveSet(0b011).has_majority_of(DriveSet(0b111)));
        assert!(!DriveSet(0b1001).has_majority_of(DriveSet(0b111)));
    }

    #[test]
    fn sets_are_sets() {
        let set: SlotSet = Slot::all().filter(|slot| slot.number() % 2 == 1).collect();
        assert_eq!((set.0, set.count(), set.first()), (0b1010_1010, 4, Slot::new(1)));
        assert_eq!(set.minus(SlotSet(0b10)).or(SlotSet(1)).0, 0b1010_1001);
        assert!(set.covers(SlotSet(0b1000)) && !set.covers(SlotSet(0b1)));
        assert_eq!(DriveSet(u64::MAX).iter().count(), 64);
    }
}
