//! The word of a slot whose rows several nodes share: what the node holds of the row, and whose turn it is to get it.
//!
//! A node holds a row until another one wants it. While nobody is inside, the word still has the row's tag and the mode in which the node
//! holds it: *kept*. What the node does not hold has to be asked for, by the slot's *home*: the one party of the node that
//! talks to other nodes about this slot. To the word the home is a core like any other, [`HOME`]. It comes in when its turn has come, alone, and
//! stays as long as it takes to give rows back and to get others; so a row that is wanted elsewhere is given up after at most one turn of
//! each core, and a core that asks for a row that is not there waits for its turn as ever.
//!
//! | word | means |
//! |---|---|
//! | 0 | nothing is held |
//! | tag, held, nobody inside, nobody waits | kept |
//! | nobody inside, some wait, turn is a core | promised to that core, which has been told |
//! | nobody inside, some wait, turn is the home | the home is in |
//! | readers or a writer inside | as ever; the node holds the row for what they do |
//!
//! Where dirty data goes from node to node, a row's drives are not up to date while it is on its way: then the writer leaves the row to the home and to nobody
//! else ([`LockWord::release_to_home`]), and the home makes a core the writer inside, without a turn for anybody between ([`LockWord::pass_home`]).

use super::word::{
    LockWord, READER, READERS, TAG_SHIFT, TURN_MASK, TURN_SHIFT, WAITING, WRITER, may_join, next_turn,
    tag_of, turn, waiting,
};
use super::{Acquire, CORES_MAX, Held, Mode, WakeMask};

#[cfg(loom)]
use ::loom::sync::atomic::Ordering;
#[cfg(not(loom))]
use std::sync::atomic::Ordering;

/// The party that talks to other nodes, among the cores that wait.
pub const HOME: u16 = CORES_MAX - 1;

const HELD_SHIFT: u32 = 31;
const HELD: u64 = 0b11 << HELD_SHIFT;

/// How the home stands after it has asked to come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Entry {
    /// It is in, and nobody else is.
    In,
    /// It was in already, and has been told so or will be: by a core that wants a row, or because its turn has come.
    Called,
    /// It will be told when its turn has come.
    Busy {
        /// The core whose writer is inside: it may keep the row for its dirty data and must be told that it is wanted.
        recall: Option<u16>,
    },
}

fn held_of(word: u64) -> Held {
    match (word & HELD) >> HELD_SHIFT {
        0 => Held::Nothing,
        1 => Held::Read,
        _ => Held::Write,
    }
}

fn bits_of(tag: u32, held: Held) -> u64 {
    let held = match held {
        Held::Nothing => return 0,
        Held::Read => 1,
        Held::Write => 2,
    };
    u64::from(tag) << TAG_SHIFT | held << HELD_SHIFT
}

fn is_inside(word: u64) -> bool {
    word & (READERS | WRITER) != 0
}

fn is_home_in(word: u64) -> bool {
    !is_inside(word) && turn(word) == HOME && word & 1 << HOME != 0
}

fn with_turn(word: u64, core: u16) -> u64 {
    word & !(TURN_MASK << TURN_SHIFT) | u64::from(core) << TURN_SHIFT
}

/// Nobody is inside any more: the row is kept, and the turn goes to the next who waits.
fn pass_on(word: u64) -> (u64, WakeMask) {
    match next_turn(word) {
        None => (word, WakeMask(0)),
        Some(next) => (with_turn(word, next), WakeMask(1 << next)),
    }
}

impl LockWord {
    /// Replaces the word by what `change` makes of it, until nobody was faster.
    #[inline]
    fn update<R>(&self, change: impl Fn(u64) -> (u64, R)) -> R {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (new, answer) = change(word);
            match self
                .word
                .compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return answer,
                Err(now) => word = now,
            }
        }
    }

    /// See [`super::LockTable::try_acquire`]. Not inlined, so that tables that nobody shares are as fast as without it.
    #[inline(never)]
    pub fn try_acquire_shared(&self, tag: u32, mode: Mode, core: u16) -> Acquire {
        assert!(
            core < HOME,
            "a core has a bit of its own, and the home another one"
        );
        let own = 1 << core;
        let inside = match mode {
            Mode::Read => READER,
            Mode::Write => WRITER,
        };
        self.update(|word| {
            let covers = tag_of(word) == u64::from(tag) && held_of(word).covers(mode);
            let others = word & WAITING & !own;
            let is_promised = word & WAITING != 0 && turn(word) == core;
            if !is_inside(word) && (word & WAITING == 0 || is_promised) {
                if covers {
                    // Readers call the others in; a writer will when it leaves.
                    let wake = if mode.is_write() {
                        WakeMask(0)
                    } else {
                        waiting(others & !(1 << HOME))
                    };
                    let entered = with_turn(word & !own, core) + inside;
                    return (entered, Acquire::Acquired { wake });
                }
                return (with_turn(word | own | 1 << HOME, HOME), Acquire::Absent);
            }
            let joins = mode == Mode::Read && may_join(word, tag);
            if joins && (word & WAITING == 0 || word & own != 0) {
                return ((word + READER) & !own, Acquire::Acquired { wake: WakeMask(0) });
            }
            let recall = (word & own == 0 && word & WRITER != 0).then(|| turn(word));
            (word | own, Acquire::Busy { recall })
        })
    }

    /// See [`super::LockTable::try_read`].
    pub fn try_read_shared(&self, tag: u32, core: u16) -> bool {
        assert!(
            core < HOME,
            "a core has a bit of its own, and the home another one"
        );
        self.update(|word| {
            let covers = tag_of(word) == u64::from(tag) && held_of(word).covers(Mode::Read);
            let may = word & WAITING == 0 && covers && (!is_inside(word) || may_join(word, tag));
            if !may {
                (word, false)
            } else if is_inside(word) {
                (word + READER, true)
            } else {
                (with_turn(word, core) + READER, true)
            }
        })
    }

    /// See [`super::LockTable::release`].
    #[inline(never)]
    pub fn release_shared(&self, tag: u32, mode: Mode) -> WakeMask {
        if mode.is_write() {
            self.changed();
        }
        self.update(|word| {
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
            if is_inside(left) {
                (left, WakeMask(0))
            } else {
                pass_on(left)
            }
        })
    }

    /// See [`super::LockTable::release_to_home`].
    pub fn release_to_home(&self, tag: u32) -> Option<WakeMask> {
        self.changed();
        self.update(|word| {
            assert_eq!(tag_of(word), u64::from(tag), "a lock that is released is held");
            assert!(word & WRITER != 0, "a writer that leaves is inside");
            if word & 1 << HOME == 0 {
                return (word, None);
            }
            (with_turn(word & !WRITER, HOME), Some(WakeMask(1 << HOME)))
        })
    }

    /// See [`super::LockTable::withdraw`].
    pub fn withdraw_shared(&self, core: u16) -> WakeMask {
        assert!(
            core < HOME,
            "a core has a bit of its own, and the home another one"
        );
        let own = 1 << core;
        self.update(|word| {
            if word & own == 0 {
                return (word, WakeMask(0));
            }
            let left = word & !own;
            let is_promised = !is_inside(word) && turn(word) == core;
            if is_promised {
                pass_on(left)
            } else {
                (left, WakeMask(0))
            }
        })
    }

    /// The home wants to come in.
    pub fn enter_home(&self) -> Entry {
        self.update(|word| {
            if is_home_in(word) {
                return (word, Entry::Called);
            }
            let asked = word | 1 << HOME;
            if !is_inside(word) && word & WAITING == 0 {
                return (with_turn(asked, HOME), Entry::In);
            }
            let recall = (word & WRITER != 0).then(|| turn(word));
            (asked, Entry::Busy { recall })
        })
    }

    /// What the node holds: tag and mode. Exact for the home while it is in.
    pub fn held(&self) -> (u32, Held) {
        let word = self.word.load(Ordering::Acquire);
        let tag = u32::try_from(tag_of(word)).expect("a tag has 27 bits");
        (tag, held_of(word))
    }

    /// The home, which is in, says what the node holds from now on; whatever it held before may have been changed elsewhere.
    pub fn set_held(&self, tag: u32, held: Held) {
        if held == Held::Nothing {
            self.changed();
        }
        self.update(|word| {
            assert!(is_home_in(word), "the home is in when it changes what is held");
            let others = word & (TURN_MASK << TURN_SHIFT | WAITING);
            (bits_of(tag, held) | others, ())
        });
    }

    /// See [`super::LockTable::pass_home`].
    pub fn pass_home(&self, tag: u32, core: u16) {
        assert!(
            core < HOME,
            "a core has a bit of its own, and the home another one"
        );
        self.changed();
        self.update(|word| {
            assert!(is_home_in(word), "the home is in when it passes a row on");
            let names = word & WAITING & !(1 << HOME);
            let inside = bits_of(tag, Held::Write) | WRITER;
            (with_turn(inside | names, core), ())
        });
    }

    /// The home leaves. The turn goes to `next` if that core waits, else to the next that does.
    pub fn leave_home(&self, next: Option<u16>) -> WakeMask {
        self.update(|word| {
            assert!(is_home_in(word), "the home is in when it leaves");
            let left = word & !(1 << HOME);
            match next.filter(|core| left & 1 << core != 0) {
                Some(core) => (with_turn(left, core), WakeMask(1 << core)),
                None => pass_on(left),
            }
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ACQUIRED: Acquire = Acquire::Acquired { wake: WakeMask(0) };
    const BUSY: Acquire = Acquire::Busy { recall: None };
    const NOBODY: WakeMask = WakeMask(0);
    const HOMES: WakeMask = WakeMask(1 << HOME);
    const ROW: u32 = 5;
    const OTHER: u32 = 9;

    /// A word whose row the node holds.
    fn kept(held: Held) -> LockWord {
        let word = LockWord::new();
        assert_eq!(word.enter_home(), Entry::In);
        word.set_held(ROW, held);
        assert_eq!(word.leave_home(None), NOBODY);
        word
    }

    #[test]
    fn what_is_not_held_is_asked_for_and_kept() {
        let word = LockWord::new();
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 3), Acquire::Absent);
        assert_eq!(
            word.try_acquire_shared(ROW, Mode::Read, 2),
            BUSY,
            "the home is in"
        );
        assert_eq!(word.enter_home(), Entry::Called);
        assert_eq!(word.held(), (0, Held::Nothing));
        word.set_held(ROW, Held::Write);
        assert_eq!(
            word.leave_home(Some(3)),
            WakeMask(1 << 3),
            "who asked comes first"
        );
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 3), ACQUIRED);
        assert_eq!(word.release_shared(ROW, Mode::Write), WakeMask(1 << 2));
        assert_eq!(word.try_acquire_shared(ROW, Mode::Read, 2), ACQUIRED);
        assert_eq!(word.release_shared(ROW, Mode::Read), NOBODY);
        assert_eq!(word.held(), (ROW, Held::Write));
        assert!(word.is_idle());
        assert_eq!(
            word.try_acquire_shared(ROW, Mode::Write, 0),
            ACQUIRED,
            "it asks nobody"
        );
        assert_eq!(word.release_shared(ROW, Mode::Write), NOBODY);
    }

    #[test]
    fn what_is_held_for_reading_lets_no_writer_in() {
        let word = kept(Held::Read);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Read, 0), ACQUIRED);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Read, 1), ACQUIRED);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 2), BUSY);
        assert_eq!(
            word.try_acquire_shared(ROW, Mode::Read, 3),
            BUSY,
            "it does not overtake"
        );
        assert_eq!(word.release_shared(ROW, Mode::Read), NOBODY);
        assert_eq!(word.release_shared(ROW, Mode::Read), WakeMask(1 << 2));
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 2), Acquire::Absent);
        assert_eq!(word.held(), (ROW, Held::Read), "the home gives it back first");
        word.set_held(ROW, Held::Write);
        assert_eq!(word.leave_home(Some(2)), WakeMask(1 << 2));
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 2), ACQUIRED);
        assert_eq!(word.release_shared(ROW, Mode::Write), WakeMask(1 << 3));
    }

    #[test]
    fn a_row_that_is_wanted_elsewhere_goes_after_one_turn_of_each_core() {
        let word = kept(Held::Write);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 4), ACQUIRED);
        assert_eq!(
            word.try_acquire_shared(ROW, Mode::Write, 7),
            Acquire::Busy { recall: Some(4) }
        );
        assert_eq!(
            word.enter_home(),
            Entry::Busy { recall: Some(4) },
            "it may keep the row"
        );
        assert!(word.is_awaited());
        assert_eq!(word.release_shared(ROW, Mode::Write), WakeMask(1 << 7));
        assert_eq!(
            word.try_acquire_shared(ROW, Mode::Write, 4),
            BUSY,
            "it waits again"
        );
        assert_eq!(word.enter_home(), Entry::Busy { recall: None });
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 7), ACQUIRED);
        assert_eq!(word.release_shared(ROW, Mode::Write), HOMES);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 7), BUSY);
        assert_eq!(word.enter_home(), Entry::Called);
        let version = word.version();
        word.set_held(0, Held::Nothing);
        assert_ne!(
            word.version(),
            version,
            "what is remembered of it is worth nothing"
        );
        assert_eq!(word.leave_home(None), WakeMask(1 << 4));
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 4), Acquire::Absent);
    }

    #[test]
    fn another_row_of_the_slot_is_absent_and_leaves_what_is_kept() {
        let word = kept(Held::Write);
        assert!(!word.try_read_shared(OTHER, 0));
        assert_eq!(word.try_acquire_shared(OTHER, Mode::Read, 0), Acquire::Absent);
        assert!(!word.try_read_shared(ROW, 1), "the home is in");
        assert_eq!(word.held(), (ROW, Held::Write));
        word.set_held(OTHER, Held::Read);
        assert_eq!(word.leave_home(Some(0)), WakeMask(1));
        assert_eq!(word.try_acquire_shared(OTHER, Mode::Read, 0), ACQUIRED);
        assert!(word.join_read(OTHER) && word.try_read_shared(OTHER, 1));
        for _ in 0..3 {
            assert_eq!(word.release_shared(OTHER, Mode::Read), NOBODY);
        }
        assert!(word.try_read_shared(OTHER, 1), "it is kept");
        assert_eq!(word.release_shared(OTHER, Mode::Read), NOBODY);
    }

    #[test]
    fn readers_that_wait_are_called_in_and_the_home_is_not() {
        let word = kept(Held::Write);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 0), ACQUIRED);
        for core in [1, 2] {
            let _ = word.try_acquire_shared(ROW, Mode::Read, core);
        }
        assert_eq!(word.enter_home(), Entry::Busy { recall: Some(0) });
        assert_eq!(word.release_shared(ROW, Mode::Write), WakeMask(1 << 1));
        let called = Acquire::Acquired {
            wake: WakeMask(1 << 2),
        };
        assert_eq!(word.try_acquire_shared(ROW, Mode::Read, 1), called);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Read, 2), ACQUIRED);
        assert_eq!(
            word.try_acquire_shared(ROW, Mode::Read, 3),
            BUSY,
            "the home waits"
        );
        assert_eq!(word.release_shared(ROW, Mode::Read), NOBODY);
        assert_eq!(
            word.release_shared(ROW, Mode::Read),
            WakeMask(1 << 3),
            "one turn round"
        );
        assert_eq!(word.withdraw_shared(3), HOMES);
        assert_eq!(word.enter_home(), Entry::Called);
        word.set_held(ROW, Held::Read);
        assert_eq!(word.leave_home(None), NOBODY);
        assert!(word.try_read_shared(ROW, 1), "demoted, it may still be read");
    }

    #[test]
    fn a_writer_leaves_a_row_to_the_home_and_to_nobody_before_it() {
        let word = kept(Held::Write);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 4), ACQUIRED);
        let _ = word.try_acquire_shared(ROW, Mode::Read, 5);
        assert_eq!(word.enter_home(), Entry::Busy { recall: Some(4) });
        let version = word.version();
        assert_eq!(
            word.release_to_home(ROW),
            Some(HOMES),
            "core 5 would be the next one"
        );
        assert_ne!(word.version(), version);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Read, 5), BUSY);
        assert!(!word.try_read_shared(ROW, 6));
        assert_eq!(word.withdraw_shared(5), NOBODY);
        assert_eq!(word.enter_home(), Entry::Called);
        word.set_held(0, Held::Nothing);
        assert_eq!(word.leave_home(None), NOBODY);
        assert_eq!(word.held(), (0, Held::Nothing));
    }

    #[test]
    fn nothing_is_left_to_a_home_that_has_not_asked() {
        let word = kept(Held::Write);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 4), ACQUIRED);
        let _ = word.try_acquire_shared(ROW, Mode::Read, 5);
        assert_eq!(word.release_to_home(ROW), None);
        assert!(!word.is_idle(), "it is inside as before");
        assert_eq!(word.release_shared(ROW, Mode::Write), WakeMask(1 << 5));
    }

    /// In one step: nobody who waits, the new writer among them, has a turn before it is inside.
    #[test]
    fn the_home_makes_a_core_the_writer_inside() {
        let word = kept(Held::Read);
        assert_eq!(word.try_acquire_shared(OTHER, Mode::Write, 3), Acquire::Absent);
        assert_eq!(word.try_acquire_shared(ROW, Mode::Read, 2), BUSY);
        let version = word.version();
        word.pass_home(OTHER, 3);
        assert_ne!(word.version(), version, "another row had the slot");
        assert_eq!(word.held(), (OTHER, Held::Write));
        assert!(word.is_awaited(), "names stay, also its own");
        assert_eq!(word.try_acquire_shared(OTHER, Mode::Read, 2), BUSY);
        assert_eq!(
            word.enter_home(),
            Entry::Busy { recall: Some(3) },
            "the home is out, and may come again"
        );
        assert_eq!(word.withdraw_shared(3), NOBODY);
        assert_eq!(word.release_shared(OTHER, Mode::Write), HOMES);
    }

    #[test]
    fn a_core_that_does_not_wait_is_made_the_writer_all_the_same() {
        let word = LockWord::new();
        assert_eq!(word.enter_home(), Entry::In);
        word.pass_home(ROW, 7);
        assert!(!word.is_awaited());
        assert_eq!(
            word.try_acquire_shared(ROW, Mode::Write, 1),
            Acquire::Busy { recall: Some(7) }
        );
        assert_eq!(word.release_shared(ROW, Mode::Write), WakeMask(1 << 1));
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 1), ACQUIRED);
    }

    #[test]
    #[should_panic(expected = "the home is in when it passes a row on")]
    fn a_home_that_is_not_in_passes_nothing_on() {
        kept(Held::Write).pass_home(ROW, 0);
    }

    #[test]
    fn who_gives_up_while_the_home_is_in_leaves_it_there() {
        let word = LockWord::new();
        assert_eq!(word.try_acquire_shared(ROW, Mode::Write, 3), Acquire::Absent);
        assert_eq!(word.withdraw_shared(3), NOBODY);
        word.set_held(ROW, Held::Write);
        assert_eq!(word.leave_home(Some(3)), NOBODY);
        assert_eq!(word.held(), (ROW, Held::Write));
    }
}
