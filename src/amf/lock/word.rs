//! One slot of the lock table: a single atomic word.
//!
//! Owns the word's layout and its few transitions. Deliberately knows rows only by their tag.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Acquire, CORES_MAX, Mode, WakeMask};

// Layout, from the top:
//   63..37 tag: the row that holds the slot, 0 = none
//   36..33 turn: the core whose turn it is, or was when the present holders came in
//   32..31 held by this node: 0 none, 1 read, 2 write; the cores of one node share the node's hold
//   30..19 readers inside
//   18     writer inside
//   17     recall pending: reserved for the lock protocol between nodes, always 0 here
//   16     release when done: likewise
//   15..0  waiting: bit i is core i
//
// States: all zero is free. Tag 0 with waiting cores is promised to core `turn`, which is one of them
// and has been told. Any other tag is held, by readers or by one writer.
//
// Fairness: while a core waits, a core that does not wait too may not come in. When the last holder
// leaves, the turn goes round to the next waiting core, which alone may come in next. If it comes to
// read, the cores that wait as well are told, and those that want to read join it. A core takes its
// name out by coming in, so it can come in again before the next turn only if it was told meanwhile:
// at most once a turn. Hence turns end, and a core waits for at most CORES_MAX - 1 of them.

/// The bits of a row's key that its tag keeps.
pub const TAG_KEY_MASK: u32 = (1 << 26) - 1;

const TAG_SHIFT: u32 = 37;
const TURN_SHIFT: u32 = 33;
const TURN_MASK: u64 = 0xF;
const HELD_WRITE: u64 = 2 << 31;
const READER: u64 = 1 << 19;
const READERS: u64 = 0xFFF << 19;
const WRITER: u64 = 1 << 18;
const WAITING: u64 = 0xFFFF;

const _: () = assert!(CORES_MAX as u32 == WAITING.count_ones() && TURN_MASK + 1 == CORES_MAX as u64);
const _: () = assert!((TAG_KEY_MASK as u64 + 1) << TAG_SHIFT >> TAG_SHIFT == TAG_KEY_MASK as u64 + 1);

#[derive(Debug)]
pub struct LockWord(AtomicU64);

impl LockWord {
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// See [`super::LockTable::try_acquire`].
    #[inline]
    pub fn try_acquire(&self, tag: u32, mode: Mode, core: u16) -> Acquire {
        assert!(core < CORES_MAX, "a core has a bit of its own");
        let alone = holding(tag, mode) | u64::from(core) << TURN_SHIFT;
        // Guessing that the slot is free saves a load, and a cache line that is fetched twice.
        match self
            .0
            .compare_exchange(0, alone, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Acquire::Acquired { wake: WakeMask(0) },
            Err(word) => self.try_acquire_used(word, tag, mode, core),
        }
    }

    /// The slot was not free when it was looked at.
    #[cold]
    fn try_acquire_used(&self, mut word: u64, tag: u32, mode: Mode, core: u16) -> Acquire {
        let own = 1 << core;
        loop {
            let (new, answer) = if word == 0 {
                let alone = holding(tag, mode) | u64::from(core) << TURN_SHIFT;
                (alone, Acquire::Acquired { wake: WakeMask(0) })
            } else if tag_of(word) == 0 && turn(word) == core {
                // Our promised turn. Readers call the others in; a writer will when it leaves.
                let others = word & WAITING & !own;
                let wake = match mode {
                    Mode::Read => waiting(others),
                    Mode::Write => WakeMask(0),
                };
                (
                    holding(tag, mode) | word & TURN_MASK << TURN_SHIFT | others,
                    Acquire::Acquired { wake },
                )
            } else if mode == Mode::Read && may_join(word, tag) && (word & WAITING == 0 || word & own != 0) {
                ((word + READER) & !own, Acquire::Acquired { wake: WakeMask(0) })
            } else if word & own != 0 {
                // Whoever changes this word sees our name in it: nothing to add.
                return Acquire::Busy;
            } else {
                (word | own, Acquire::Busy)
            };
            match self
                .0
                .compare_exchange_weak(word, new, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return answer,
                Err(now) => word = now,
            }
        }
    }

    /// See [`super::LockTable::join_read`].
    pub fn join_read(&self, tag: u32) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        while may_join(word, tag) {
            match self
                .0
                .compare_exchange_weak(word, word + READER, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// See [`super::LockTable::release`].
    #[inline]
    pub fn release(&self, tag: u32, mode: Mode) -> WakeMask {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            assert_eq!(tag_of(word), u64::from(tag), "a lock that is released is held");
            let left = match mode {
                Mode::Read => {
                    assert!(word & READERS != 0, "a reader that leaves is inside");
                    word - READER
                }
                Mode::Write => {
                    assert!(word & WRITER != 0, "a writer that leaves is inside");
                    word & !WRITER
                }
            };
            let (new, wake) = if left & READERS == 0 {
                pass_on(left)
            } else {
                (left, WakeMask(0))
            };
            match self
                .0
                .compare_exchange_weak(word, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return wake,
                Err(now) => word = now,
            }
        }
    }

    /// See [`super::LockTable::withdraw`].
    pub fn withdraw(&self, core: u16) -> WakeMask {
        assert!(core < CORES_MAX, "a core has a bit of its own");
        let own = 1 << core;
        let mut word = self.0.load(Ordering::Relaxed);
        while word & own != 0 {
            let left = word & !own;
            let promised = tag_of(word) == 0 && turn(word) == core;
            let (new, wake) = if promised {
                pass_on(left)
            } else {
                (left, WakeMask(0))
            };
            // Release: a turn that is passed on carries along what the last holder wrote.
            match self
                .0
                .compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return wake,
                Err(now) => word = now,
            }
        }
        WakeMask(0)
    }

    pub fn is_idle(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// The word of a slot that one operation holds and nobody awaits, without the turn.
fn holding(tag: u32, mode: Mode) -> u64 {
    assert!(tag != 0 && tag <= TAG_KEY_MASK + 1, "a tag fits its field");
    let inside = match mode {
        Mode::Read => READER,
        Mode::Write => WRITER,
    };
    u64::from(tag) << TAG_SHIFT | HELD_WRITE | inside
}

fn tag_of(word: u64) -> u64 {
    word >> TAG_SHIFT
}

fn turn(word: u64) -> u16 {
    u16::try_from(word >> TURN_SHIFT & TURN_MASK).expect("four bits fit")
}

fn waiting(word: u64) -> WakeMask {
    WakeMask(u16::try_from(word & WAITING).expect("sixteen bits fit"))
}

/// Whether readers of this row are inside and one more can be counted.
fn may_join(word: u64, tag: u32) -> bool {
    tag_of(word) == u64::from(tag) && word & READERS != 0 && word & READERS != READERS
}

/// Nobody is inside any more: the slot is free, or promised to the next waiting core round from `turn`.
fn pass_on(word: u64) -> (u64, WakeMask) {
    let waiting = waiting(word).0;
    if waiting == 0 {
        return (0, WakeMask(0));
    }
    let start = u32::from(turn(word)) + 1;
    // Sixteen bits rotate as a ring: bit 0 of `ring` is the core after `turn`.
    let ring = waiting.rotate_right(start);
    let next = (ring.trailing_zeros() + start) % u32::from(CORES_MAX);
    let wake = WakeMask(1 << next);
    (u64::from(next) << TURN_SHIFT | u64::from(waiting), wake)
}
