//! One slot of the lock table: a single atomic word, and beside it how often writers have left.
//!
//! Owns the word's layout and its few transitions. Deliberately knows rows only by their tag.

#[cfg(loom)]
use ::loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Acquire, CORES_MAX, Mode, WakeMask};

// Layout, from the top:
//   63..37 tag: the row that holds the slot, 0 = none
//   36..33 turn: the core whose turn it is, or was when the present holders came in
//   32..31 held by this node: 0 none, 1 read, 2 write; the cores of one node share the node's hold. Always write where the row is no other
//          node's; see `shared` for the others
//   30..19 readers inside
//   18     writer inside
//   17..16 unused
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

pub(super) const TAG_SHIFT: u32 = 37;
pub(super) const TURN_SHIFT: u32 = 33;
pub(super) const TURN_MASK: u64 = 0xF;
const HELD_WRITE: u64 = 2 << 31;
pub(super) const READER: u64 = 1 << 19;
pub(super) const READERS: u64 = 0xFFF << 19;
pub(super) const WRITER: u64 = 1 << 18;
pub(super) const WAITING: u64 = 0xFFFF;

const _: () = assert!(CORES_MAX as u32 == WAITING.count_ones() && TURN_MASK + 1 == CORES_MAX as u64);
const _: () = assert!((TAG_KEY_MASK as u64 + 1) << TAG_SHIFT >> TAG_SHIFT == TAG_KEY_MASK as u64 + 1);

/// Aligned so that word and version share a cache line.
#[derive(Debug)]
#[repr(align(16))]
pub struct LockWord {
    pub(super) word: AtomicU64,
    /// Changed by the one writer that is inside, read by those who are inside: the word orders all of that.
    version: AtomicU64,
}

impl LockWord {
    pub fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            version: AtomicU64::new(0),
        }
    }

    /// See [`super::LockTable::try_acquire`].
    #[inline]
    pub fn try_acquire(&self, tag: u32, mode: Mode, core: u16) -> Acquire {
        assert!(core < CORES_MAX, "a core has a bit of its own");
        let alone = holding(tag, mode) | u64::from(core) << TURN_SHIFT;
        // Guessing that the slot is free saves a load, and a cache line that is fetched twice.
        match self
            .word
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
                return Acquire::Busy { recall: None };
            } else {
                // A writer may have done its work and keep the row for its dirty data: it is asked for it once.
                let recall = (word & WRITER != 0).then(|| turn(word));
                (word | own, Acquire::Busy { recall })
            };
            match self
                .word
                .compare_exchange_weak(word, new, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return answer,
                Err(now) => word = now,
            }
        }
    }

    /// See [`super::LockTable::join_read`].
    pub fn join_read(&self, tag: u32) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while may_join(word, tag) {
            match self
                .word
                .compare_exchange_weak(word, word + READER, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// See [`super::LockTable::try_read`].
    pub fn try_read(&self, tag: u32, core: u16) -> bool {
        assert!(core < CORES_MAX, "a core has a bit of its own");
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let new = if word == 0 {
                holding(tag, Mode::Read) | u64::from(core) << TURN_SHIFT
            } else if may_join(word, tag) && word & WAITING == 0 {
                word + READER
            } else {
                return false;
            };
            match self
                .word
                .compare_exchange_weak(word, new, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// See [`super::LockTable::version`].
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// See [`super::LockTable::changed`]. Nobody else changes it: a load and a store do.
    #[inline]
    pub fn changed(&self) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
    }

    /// See [`super::LockTable::release`].
    #[inline]
    pub fn release(&self, tag: u32, mode: Mode) -> WakeMask {
        if mode.is_write() {
            self.changed();
        }
        let mut word = self.word.load(Ordering::Relaxed);
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
                .word
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
        let mut word = self.word.load(Ordering::Relaxed);
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
                .word
                .compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return wake,
                Err(now) => word = now,
            }
        }
        WakeMask(0)
    }

    pub fn is_idle(&self) -> bool {
        self.word.load(Ordering::Acquire) & (READERS | WRITER | WAITING) == 0
    }

    /// See [`super::LockTable::is_awaited`].
    pub fn is_awaited(&self) -> bool {
        self.word.load(Ordering::Relaxed) & WAITING != 0
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

pub(super) fn tag_of(word: u64) -> u64 {
    word >> TAG_SHIFT
}

pub(super) fn turn(word: u64) -> u16 {
    u16::try_from(word >> TURN_SHIFT & TURN_MASK).expect("four bits fit")
}

pub(super) fn waiting(word: u64) -> WakeMask {
    WakeMask(u16::try_from(word & WAITING).expect("sixteen bits fit"))
}

/// Whether readers of this row are inside and one more can be counted.
pub(super) fn may_join(word: u64, tag: u32) -> bool {
    tag_of(word) == u64::from(tag) && word & READERS != 0 && word & READERS != READERS
}

/// Nobody is inside any more: the slot is free, or promised to the next waiting core round from `turn`.
fn pass_on(word: u64) -> (u64, WakeMask) {
    match next_turn(word) {
        None => (0, WakeMask(0)),
        Some(next) => (
            u64::from(next) << TURN_SHIFT | word & WAITING,
            WakeMask(1 << next),
        ),
    }
}

/// The waiting core whose turn comes after the present one's.
pub(super) fn next_turn(word: u64) -> Option<u16> {
    let waiting = waiting(word).0;
    let start = u32::from(turn(word)) + 1;
    // Sixteen bits rotate as a ring: bit 0 of `ring` is the core after `turn`.
    let ring = waiting.rotate_right(start);
    let next = (ring.trailing_zeros() + start) % u32::from(CORES_MAX);
    (waiting != 0).then(|| u16::try_from(next).expect("below 16"))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const ACQUIRED: Acquire = Acquire::Acquired { wake: WakeMask(0) };
    /// Busy with readers, or told before.
    const BUSY: Acquire = Acquire::Busy { recall: None };
    const NOBODY: WakeMask = WakeMask(0);

    /// Busy with a writer of this core, which is to be asked.
    fn busy(recall: u16) -> Acquire {
        Acquire::Busy { recall: Some(recall) }
    }

    fn acquired(wake: u16) -> Acquire {
        Acquire::Acquired { wake: WakeMask(wake) }
    }

    #[test]
    fn a_writer_is_alone() {
        let word = LockWord::new();
        assert_eq!(word.try_acquire(5, Mode::Write, 0), ACQUIRED);
        assert!(!word.is_awaited());
        assert_eq!(word.try_acquire(5, Mode::Write, 1), busy(0));
        assert!(word.is_awaited());
        assert_eq!(
            word.try_acquire(5, Mode::Write, 1),
            BUSY,
            "the writer is asked once"
        );
        assert!(!word.join_read(5), "nobody joins a writer");
        assert_eq!(word.release(5, Mode::Write), WakeMask(0b10));
    }

    #[test]
    fn only_writers_that_leave_make_a_new_version() {
        let word = LockWord::new();
        assert_eq!(word.try_acquire(5, Mode::Read, 0), ACQUIRED);
        assert_eq!(word.release(5, Mode::Read), NOBODY);
        assert_eq!(word.version(), 0);
        assert_eq!(word.try_acquire(5, Mode::Write, 0), ACQUIRED);
        word.changed();
        assert_eq!(word.version(), 1, "what a writer has done before it leaves");
        assert_eq!(word.release(5, Mode::Write), NOBODY);
        assert_eq!(word.version(), 2);
    }

    /// Whoever reads ahead comes in where nobody is in the way, and else leaves no trace.
    #[test]
    fn a_reader_without_need_neither_waits_nor_overtakes() {
        let word = LockWord::new();
        assert!(word.try_read(5, 0) && word.try_read(5, 1), "readers are together");
        assert!(!word.try_read(9, 1), "another row");
        assert_eq!(word.try_acquire(5, Mode::Write, 2), BUSY);
        assert!(!word.try_read(5, 0), "a writer waits");
        assert_eq!(word.release(5, Mode::Read), NOBODY);
        assert_eq!(word.release(5, Mode::Read), WakeMask(0b100));
        assert!(!word.try_read(5, 0), "it is core 2's turn");
        assert_eq!(word.try_acquire(5, Mode::Write, 2), ACQUIRED);
        assert!(!word.try_read(5, 0) && !word.is_awaited());
        assert_eq!(word.release(5, Mode::Write), NOBODY);
        assert!(word.is_idle());
    }

    #[test]
    fn readers_are_together_and_the_last_one_frees_the_word() {
        let word = LockWord::new();
        for core in 0..4 {
            assert_eq!(word.try_acquire(5, Mode::Read, core), ACQUIRED);
        }
        assert!(word.join_read(5));
        for _ in 0..5 {
            assert!(!word.is_idle());
            assert_eq!(word.release(5, Mode::Read), NOBODY);
        }
        assert!(word.is_idle());
    }

    /// While somebody waits, a core that does not wait too cannot come in, not even to read with readers.
    #[test]
    fn newcomers_do_not_overtake() {
        let word = LockWord::new();
        assert_eq!(word.try_acquire(5, Mode::Read, 0), ACQUIRED);
        assert_eq!(word.try_acquire(5, Mode::Write, 1), BUSY);
        assert_eq!(word.try_acquire(5, Mode::Read, 2), BUSY);
        assert_eq!(
            word.release(5, Mode::Read),
            WakeMask(0b10),
            "the next core round from 0"
        );
        assert_eq!(word.try_acquire(5, Mode::Write, 0), BUSY, "it is core 1's turn");
        assert_eq!(word.try_acquire(5, Mode::Read, 2), BUSY);
        assert_eq!(word.try_acquire(5, Mode::Write, 1), ACQUIRED);
        assert_eq!(word.release(5, Mode::Write), WakeMask(0b100));
        assert_eq!(
            word.try_acquire(5, Mode::Read, 2),
            acquired(0b1),
            "core 0 may join if it reads"
        );
        assert_eq!(word.try_acquire(5, Mode::Read, 0), ACQUIRED);
        assert_eq!(word.release(5, Mode::Read), NOBODY);
        assert_eq!(word.release(5, Mode::Read), NOBODY);
        assert!(word.is_idle());
    }

    #[test]
    fn a_turn_that_is_not_wanted_goes_to_the_next() {
        let word = LockWord::new();
        assert_eq!(word.try_acquire(5, Mode::Write, 3), ACQUIRED);
        for core in [0, 7, 15] {
            assert_eq!(word.try_acquire(9, Mode::Write, core), busy(3));
        }
        assert_eq!(word.withdraw(7), NOBODY, "it was not its turn");
        assert_eq!(word.release(5, Mode::Write), WakeMask(1 << 15));
        assert_eq!(word.withdraw(15), WakeMask(1));
        assert_eq!(word.withdraw(15), NOBODY, "only once");
        assert_eq!(word.withdraw(0), NOBODY);
        assert!(word.is_idle());
    }

    /// More readers than the word can count wait instead of spilling into the turn.
    #[test]
    fn the_count_of_readers_is_bounded() {
        let word = LockWord::new();
        for _ in 0..0xFFF {
            assert_eq!(word.try_acquire(5, Mode::Read, 1), ACQUIRED);
        }
        assert_eq!(word.try_acquire(5, Mode::Read, 2), BUSY);
        assert!(!word.join_read(5));
        for _ in 1..0xFFF {
            assert_eq!(word.release(5, Mode::Read), NOBODY);
        }
        assert_eq!(word.release(5, Mode::Read), WakeMask(0b100));
    }

    #[test]
    #[should_panic(expected = "a lock that is released is held")]
    fn releasing_what_nobody_holds_is_a_bug() {
        let _ = LockWord::new().release(5, Mode::Write);
    }

    #[test]
    #[should_panic(expected = "a reader that leaves is inside")]
    fn releasing_in_the_wrong_mode_is_a_bug() {
        let word = LockWord::new();
        assert_eq!(word.try_acquire(5, Mode::Write, 0), ACQUIRED);
        let _ = word.release(5, Mode::Read);
    }

    /// A core as the engine is one: its waiters in order, newcomers behind them.
    #[derive(Default)]
    struct Core {
        waiting: VecDeque<(u32, Mode)>,
        holding: Vec<(u32, Mode)>,
        /// Wake-ups that were sent and have not arrived.
        wakes: u32,
        /// The turn at which it began to wait.
        since: Option<u64>,
    }

    struct Model {
        word: LockWord,
        cores: Vec<Core>,
        turns: u64,
        seed: u64,
    }

    impl Model {
        fn new(seed: u64) -> Self {
            let cores = (0..CORES_MAX).map(|_| Core::default()).collect();
            Self {
                word: LockWord::new(),
                cores,
                turns: 0,
                seed: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            }
        }

        fn below(&mut self, end: usize) -> usize {
            self.seed ^= self.seed << 13;
            self.seed ^= self.seed >> 7;
            self.seed ^= self.seed << 17;
            usize::try_from(self.seed >> 33).expect("31 bits") % end
        }

        fn tell(&mut self, wake: WakeMask) {
            for (core, state) in self.cores.iter_mut().enumerate() {
                state.wakes += u32::from(wake.0 >> core & 1);
            }
        }

        fn number(core: usize) -> u16 {
            u16::try_from(core).expect("16 cores")
        }

        fn enter(&mut self, core: usize, tag: u32, mode: Mode) {
            self.cores[core].holding.push((tag, mode));
            let inside: Vec<_> = self.cores.iter().flat_map(|core| &core.holding).collect();
            let alone = inside.len() == 1;
            assert!(
                alone
                    || inside
                        .iter()
                        .all(|(other, mode)| *other == tag && *mode == Mode::Read)
            );
        }

        fn arrive(&mut self, core: usize, tag: u32, mode: Mode) {
            if self.cores[core].waiting.is_empty() {
                if let Acquire::Acquired { wake } = self.word.try_acquire(tag, mode, Self::number(core)) {
                    assert_eq!(wake, NOBODY, "a newcomer comes in only when nobody waits");
                    return self.enter(core, tag, mode);
                }
                self.cores[core].since = Some(self.turns);
            }
            self.cores[core].waiting.push_back((tag, mode));
        }

        fn woken(&mut self, core: usize) {
            self.cores[core].wakes -= 1;
            while let Some(&(tag, mode)) = self.cores[core].waiting.front() {
                let Acquire::Acquired { wake } = self.word.try_acquire(tag, mode, Self::number(core)) else {
                    return;
                };
                self.tell(wake);
                self.cores[core].waiting.pop_front();
                self.cores[core].since = Some(self.turns);
                self.enter(core, tag, mode);
                while mode == Mode::Read && self.cores[core].waiting.front() == Some(&(tag, mode)) {
                    assert!(self.word.join_read(tag));
                    self.cores[core].waiting.pop_front();
                    self.enter(core, tag, mode);
                }
            }
            self.cores[core].since = None;
            let wake = self.word.withdraw(Self::number(core));
            self.pass(wake);
        }

        fn leave(&mut self, core: usize) {
            let held = self.cores[core].holding.len();
            let pick = self.below(held);
            let (tag, mode) = self.cores[core].holding.swap_remove(pick);
            let wake = self.word.release(tag, mode);
            self.pass(wake);
        }

        /// A turn begins.
        fn pass(&mut self, wake: WakeMask) {
            if wake == NOBODY {
                return;
            }
            assert_eq!(wake.0.count_ones(), 1, "a turn is one core's");
            self.turns += 1;
            for core in &self.cores {
                let waited = core.since.map_or(0, |since| self.turns - since);
                assert!(waited <= u64::from(CORES_MAX) + 1, "waits for {waited} turns");
            }
            self.tell(wake);
        }

        /// One random step; core 0 hears its wake-ups as late as can be if it is the `slow` one.
        fn step(&mut self, slow: bool, arrivals: bool) -> bool {
            let core = self.below(self.cores.len());
            let others = self
                .cores
                .iter()
                .skip(1)
                .any(|c| c.wakes > 0 || !c.holding.is_empty());
            let late = slow && core == 0 && others;
            match self.below(3) {
                0 if arrivals && self.cores[core].waiting.len() < 4 => {
                    let tag = if self.below(8) == 0 { 9 } else { 5 };
                    let mode = if self.below(4) == 0 {
                        Mode::Write
                    } else {
                        Mode::Read
                    };
                    self.arrive(core, tag, mode);
                }
                1 if self.cores[core].wakes > 0 && !late => self.woken(core),
                2 if !self.cores[core].holding.is_empty() => self.leave(core),
                _ => return false,
            }
            true
        }
    }

    /// Sixteen cores in random order, one of them as slow as can be: exclusion holds, every wait is over
    /// after a bounded number of turns, and in the end nobody is left waiting.
    #[test]
    fn no_core_starves_and_no_wake_up_is_lost() {
        for seed in 0..40 {
            let mut model = Model::new(seed);
            for _ in 0..20_000 {
                model.step(seed % 2 == 0, true);
            }
            let mut idle = 0;
            while idle < 2_000 {
                idle = if model.step(false, false) { 0 } else { idle + 1 };
            }
            assert!(
                model.cores.iter().all(|core| core.waiting.is_empty()),
                "nobody waits for ever"
            );
            assert!(model.word.is_idle() && model.turns > 100, "{} turns", model.turns);
        }
    }
}
