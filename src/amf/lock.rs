//! The node's lock table for one redundancy group: which operation may touch which stripe row.
//!
//! Owns one atomic word per slot, shared by the node's cores; a row maps to one slot and a slot that
//! is busy with another row is a conflict like any other, so memory is bounded by the slots and a row
//! that nobody uses leaves its slot. It also owns the group's member set as all cores must see it:
//! whoever takes a row's lock sees at least the members that its last holder worked with.
//!
//! Invariants: a writer is alone on its row, readers are together; a core that was told `Busy` is
//! named in the word before it hears so, and is told when its turn has come; no core waits for more
//! than one turn of each other core. Deliberately knows neither operations nor drives: a core keeps
//! its own waiters, in order, and names itself in the word for all of them.

#[cfg(all(test, loom))]
mod loom;
mod shared;
mod word;

use std::sync::Arc;

pub use shared::{Entry, HOME};
use word::LockWord;

#[cfg(loom)]
use ::loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

use super::{MemberSet, ParityTrust, RowIndex};

/// Most cores that may share a table: one bit each in the word's waiting mask.
pub const CORES_MAX: u16 = 16;

/// Fewest slots of a table: the word's tag leaves out the 6 bits that the slot number says.
const SLOTS_MIN: usize = 1 << 6;

/// 2^32 divided by the golden ratio, odd.
const SPREAD: u32 = 0x9E37_79B9;
/// Times [`SPREAD`] it is 1.
const SPREAD_INVERSE: u32 = {
    let mut inverse = SPREAD;
    // Newton's method doubles the right bits; three are right at first.
    let mut round = 0;
    while round < 4 {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(SPREAD.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
};
const _: () = assert!(SPREAD.wrapping_mul(SPREAD_INVERSE) == 1);

/// Most slots of a table: 256 MiB of words.
const SLOTS_MAX: usize = 1 << 24;

/// What an operation wants to do with the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Only look: any number at once.
    Read,
    /// Change: alone.
    Write,
}

impl Mode {
    /// Whether it excludes all others.
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Write)
    }
}

/// Cores that must be told to try again; bit `i` is core `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a core that is not woken waits for ever"]
pub struct WakeMask(pub u16);

/// The outcome of an attempt to take a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Acquire {
    /// The lock is held. The cores in `wake` may be able to join in and must be told.
    Acquired {
        /// Cores to tell.
        wake: WakeMask,
    },
    /// Another holds it, or it is another core's turn. This core is named as waiting and will be told.
    Busy {
        /// The core whose writer holds the slot, when this core has just been named: it may keep the row
        /// for its dirty data and must be told that it is wanted. Another who waits has told it before.
        recall: Option<u16>,
    },
    /// The node does not hold the row, or not for this. This core is named as waiting, nobody is inside, and the slot's home is in: it has to be
    /// told what is wanted ([`LockTable::held`]), and will tell this core.
    Absent,
}

/// What a node holds of a row that other nodes may hold, too; in the order of what it may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Held {
    /// Nothing: others may change the row.
    #[default]
    Nothing,
    /// Nobody changes the row.
    Read,
    /// No other node is in the row.
    Write,
}

impl Held {
    /// Whether an operation needs nothing more.
    pub const fn covers(self, mode: Mode) -> bool {
        match self {
            Self::Nothing => false,
            Self::Read => !mode.is_write(),
            Self::Write => true,
        }
    }
}

impl From<Mode> for Held {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Read => Self::Read,
            Mode::Write => Self::Write,
        }
    }
}

/// The lock table of one group, shared by the node's cores.
#[derive(Debug)]
pub struct LockTable {
    words: Box<[LockWord]>,
    /// Other nodes hold rows, too.
    is_shared: bool,
    /// log2 of the number of slots.
    slot_bits: u32,
    members: MembersWord,
    rebuild: RebuildWord,
}

impl LockTable {
    /// Makes a table of at least `slots` slots, rounded up to a power of two in `64..=2^24`; 16 bytes each.
    ///
    /// Four times the operations that may be in flight keeps chance conflicts rare.
    pub fn new(slots: usize) -> Arc<Self> {
        Self::with_sharing(slots, false)
    }

    /// The same for rows that other nodes may hold, too: nothing is held before a slot's home has said so. At most [`HOME`] cores.
    pub fn shared(slots: usize) -> Arc<Self> {
        Self::with_sharing(slots, true)
    }

    fn with_sharing(slots: usize, is_shared: bool) -> Arc<Self> {
        let slots = slots.clamp(SLOTS_MIN, SLOTS_MAX).next_power_of_two();
        let words = (0..slots).map(|_| LockWord::new()).collect();
        Arc::new(Self {
            words,
            is_shared,
            slot_bits: slots.trailing_zeros(),
            members: MembersWord::new(),
            rebuild: RebuildWord::new(),
        })
    }

    /// Number of slots, a power of two.
    pub fn slots(&self) -> usize {
        self.words.len()
    }

    /// The slot of a row. Rows of one slot wait for each other.
    ///
    /// Panics if the row is 2^32 or more, which [`super::geometry::ROWS_MAX`] excludes.
    pub fn slot(&self, row: RowIndex) -> u32 {
        self.place(row).0
    }

    /// Tries to take the row's lock for `core`: one compare-and-swap when nobody is in the way.
    ///
    /// `Busy` has named the core as waiting, so that the wake-up cannot be lost. A core that has
    /// waiters for a slot must not try for newcomers: it would take its own waiters' turn from them.
    pub fn try_acquire(&self, row: RowIndex, mode: Mode, core: u16) -> Acquire {
        let (slot, tag) = self.place(row);
        let word = &self.words[slot as usize];
        if self.is_shared {
            word.try_acquire_shared(tag, mode, core)
        } else {
            word.try_acquire(tag, mode, core)
        }
    }

    /// Adds one more reader to a row that the calling core has just been granted for reading, for the
    /// readers that waited right behind the first. False when the word can count no more of them.
    pub fn join_read(&self, row: RowIndex) -> bool {
        let (slot, tag) = self.place(row);
        self.words[slot as usize].join_read(tag)
    }

    /// Takes the row's lock for reading if that is free, or has readers and nobody waiting. Else nothing happens: for those who
    /// read what nobody has asked for yet.
    #[must_use]
    pub fn try_read(&self, row: RowIndex, core: u16) -> bool {
        let (slot, tag) = self.place(row);
        let word = &self.words[slot as usize];
        if self.is_shared {
            word.try_read_shared(tag, core)
        } else {
            word.try_read(tag, core)
        }
    }

    /// The version of what the drives hold of this row, and of all others of its slot: it is another one whenever that may have
    /// changed. Exact for whoever holds the row's lock, in either mode.
    #[inline]
    pub fn version(&self, row: RowIndex) -> u64 {
        self.words[self.slot(row) as usize].version()
    }

    /// The caller, who has the row's write lock and keeps it, has changed the row in place. Giving a write lock back says the same.
    pub fn changed(&self, row: RowIndex) {
        self.words[self.slot(row) as usize].changed();
    }

    /// Gives the row's lock back; the caller tells the cores in the answer.
    ///
    /// Panics if nobody holds it in this mode: that is a bug of ours.
    pub fn release(&self, row: RowIndex, mode: Mode) -> WakeMask {
        let (slot, tag) = self.place(row);
        let word = &self.words[slot as usize];
        if self.is_shared {
            word.release_shared(tag, mode)
        } else {
            word.release(tag, mode)
        }
    }

    /// `core` has nobody waiting any more for the row's slot; its turn, if it has come, goes to the next.
    pub fn withdraw(&self, row: RowIndex, core: u16) -> WakeMask {
        let word = &self.words[self.slot(row) as usize];
        if self.is_shared {
            word.withdraw_shared(core)
        } else {
            word.withdraw(core)
        }
    }

    /// The home of a slot wants to be alone in it, to give back or to get rows. In the table of a group that nobody shares there is no home.
    pub fn enter_home(&self, slot: u32) -> Entry {
        assert!(self.is_shared, "only shared rows have a home");
        self.words[slot as usize].enter_home()
    }

    /// The row of a slot that the node holds something of, and what. Exact for the home while it is in.
    pub fn held(&self, slot: u32) -> Option<(RowIndex, Held)> {
        let (tag, held) = self.words[slot as usize].held();
        (held != Held::Nothing).then(|| (self.row_of(slot, tag), held))
    }

    /// The home of the row's slot, which is in, has got this for the node. What the node held in this slot before is given up.
    pub fn set_held(&self, row: RowIndex, held: Held) {
        let (slot, tag) = self.place(row);
        self.words[slot as usize].set_held(tag, held);
    }

    /// The home of the row's slot, which is in, leaves, and `core` is inside of the row as its writer, in one step and whether or not it waits: the node holds the
    /// row for writing, and its data is that core's to lay in before anybody else sees it. All who wait stay named, `core` too if it is, and no one of them is
    /// told: as always a core that keeps a row looks first whether it is awaited.
    pub fn pass_home(&self, row: RowIndex, core: u16) {
        let (slot, tag) = self.place(row);
        self.words[slot as usize].pass_home(tag, core);
    }

    /// As [`Self::release`] of a writer whose data is not on the drives and stays with the home: the turn is the home's, whoever else waits. `None`, and nothing has happened, if the home
    /// does not wait: what it had asked for is over. The data has to be with the home before it is told of its turn.
    pub fn release_to_home(&self, row: RowIndex) -> Option<WakeMask> {
        let (slot, tag) = self.place(row);
        self.words[slot as usize].release_to_home(tag)
    }

    /// The home leaves a slot. The turn goes to the core `next`, if that waits, or round to whoever does; the caller tells the cores in the answer.
    pub fn leave_home(&self, slot: u32, next: Option<u16>) -> WakeMask {
        self.words[slot as usize].leave_home(next)
    }

    /// Whether any core waits for the row's slot. A core that keeps a row looks here before it settles down with it: who
    /// comes later tells it.
    pub fn is_awaited(&self, row: RowIndex) -> bool {
        self.words[self.slot(row) as usize].is_awaited()
    }

    /// Whether nobody holds or awaits any lock.
    pub fn is_idle(&self) -> bool {
        self.words.iter().all(LockWord::is_idle)
    }

    /// Makes a durable member set known to all cores, unless they know a newer one.
    ///
    /// The members' word changes before the rebuild's, and is read after it: so a member whose rebuild has ended
    /// is live in one or the other at every instant, and no writer leaves it out. Of two cores that publish, the one
    /// with the newer set has the last word on the rebuild.
    pub fn publish(&self, members: MemberSet) {
        assert!(
            members.rebuilding & !members.failed == 0,
            "a member is rebuilt because it had failed"
        );
        // Also if another core was faster: it may be between the two words, and this one goes on by both.
        self.members.publish(members);
        let newest = || self.members.generation() == members.generation & GENERATION_MASK;
        self.rebuild
            .publish(members.rebuilding, members.rebuilt_rows, newest);
    }

    /// The set of members as it is known here, its generation modulo 2^30: what other nodes are told, who publish it as it is.
    pub fn known(&self) -> MemberSet {
        // Before the members: a member whose rebuild has ended is live in one or the other.
        let rebuild = self.rebuild.load();
        let Members { failed, parity } = self.members.load();
        MemberSet {
            generation: self.members.generation(),
            failed,
            parity,
            rebuilding: rebuild.members & failed,
            rebuilt_rows: rebuild.rows,
        }
    }

    /// Failed members and trust in parity as the newest published set says, members under rebuild among the failed.
    #[inline]
    pub fn members(&self) -> Members {
        self.members.load()
    }

    /// Failed members and trust in parity for one row: members under rebuild count as live below the frontier.
    ///
    /// Whoever read it under the row's lock knows at least what the row's last writer knew: that writer
    /// read it before it released the lock. This is what keeps a core that has not yet heard of a
    /// failed member from reading the stale strip there (PROTOCOL H29), and one that has not heard of a rebuilt
    /// strip from leaving that out of a write (PROTOCOL H34).
    #[inline]
    pub fn members_at(&self, row: RowIndex) -> Members {
        // Before the members: see `publish`.
        let rebuild = self.rebuild.load();
        let members = self.members.load();
        Members {
            failed: members.failed & !rebuild.live_at(row),
            ..members
        }
    }

    /// The members that get no writes at all: failed or missing, and not being rebuilt.
    #[inline]
    pub fn lost(&self) -> u32 {
        let rebuild = self.rebuild.load();
        self.members.load().failed & !rebuild.members
    }

    /// The members that are being rebuilt and the rows that are done, durable or not.
    #[inline]
    pub fn rebuild(&self) -> Rebuild {
        self.rebuild.load()
    }

    /// The strips of the members `rebuilding` are right in row `rows - 1`, and so in all rows below `rows`; false, and nothing changes,
    /// if others are being rebuilt by now, or the rows in front of it are not done for all of them. The caller holds the write lock of row `rows - 1` and has held that of each row before it until
    /// it had said the same of that one.
    #[must_use]
    pub fn advance_rebuilt(&self, rebuilding: u32, rows: u64) -> bool {
        self.rebuild.advance(rebuilding, rows)
    }

    /// The row that has this slot and tag: what [`Self::place`] does, undone.
    fn row_of(&self, slot: u32, tag: u32) -> RowIndex {
        let key = slot << (u32::BITS - self.slot_bits) | (tag - 1);
        RowIndex(u64::from(key.wrapping_mul(SPREAD_INVERSE)))
    }

    /// Slot and tag of a row. The product with an odd number is a permutation of the 32-bit numbers
    /// that spreads neighbours evenly; its upper bits are the slot and its lower 26 the tag, which
    /// overlap or touch, so that the two name the row.
    fn place(&self, row: RowIndex) -> (u32, u32) {
        let row = u32::try_from(row.0).expect("geometry admits rows below 2^32 only");
        let key = row.wrapping_mul(SPREAD);
        (
            key >> (u32::BITS - self.slot_bits),
            (key & word::TAG_KEY_MASK) + 1,
        )
    }
}

/// The part of a member set that decides how a row is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Members {
    /// Bit `i` is set when member `i` has failed or is missing.
    pub failed: u32,
    /// Which check data may be built upon (PROTOCOL H27).
    pub parity: ParityTrust,
}

/// The newest member set in one word: failed 63..32, trust in parity 31..30, generation modulo 2^30 29..0.
#[derive(Debug)]
struct MembersWord(AtomicU64);

const TRUST_SHIFT: u32 = 30;
const GENERATION_MASK: u64 = (1 << TRUST_SHIFT) - 1;
/// Trust by its two bits.
const TRUSTS: [ParityTrust; 3] = [
    ParityTrust::Nowhere,
    ParityTrust::WhereWritten,
    ParityTrust::Everywhere,
];

impl MembersWord {
    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Changes nothing if this set or a newer one is known already.
    fn publish(&self, members: MemberSet) {
        let trust = (0u64..)
            .zip(TRUSTS)
            .find_map(|(bits, trust)| (trust == members.parity).then_some(bits))
            .expect("each kind of trust has its bits");
        let new =
            u64::from(members.failed) << 32 | trust << TRUST_SHIFT | (members.generation & GENERATION_MASK);
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            let ahead = new.wrapping_sub(old) & GENERATION_MASK;
            // Zero is a table that was never told. Half of the circle ahead is newer, the rest is older.
            if old != 0 && (ahead == 0 || ahead > GENERATION_MASK / 2) {
                return;
            }
            match self
                .0
                .compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    fn generation(&self) -> u64 {
        self.0.load(Ordering::Acquire) & GENERATION_MASK
    }

    #[inline]
    fn load(&self) -> Members {
        let word = self.0.load(Ordering::Acquire);
        let failed = u32::try_from(word >> 32).expect("the upper half of 64 bits is 32 bits");
        Members {
            failed,
            parity: TRUSTS[(word >> TRUST_SHIFT & 0b11) as usize],
        }
    }
}

/// The members that are being rebuilt and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuild {
    /// Bit `i` is set while member `i` is being rebuilt.
    pub members: u32,
    /// In rows below this one their strips are right.
    pub rows: u64,
}

impl Rebuild {
    /// The members under rebuild that are live in a row.
    const fn live_at(self, row: RowIndex) -> u32 {
        if row.0 < self.rows { self.members } else { 0 }
    }
}

/// The rebuild in one word: members 63..32, rows 31..0. A group has fewer than 2^32 rows.
#[derive(Debug)]
struct RebuildWord(AtomicU64);

impl RebuildWord {
    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// What is durable lags behind what is known here, except for members that were not being rebuilt before.
    fn publish(&self, members: u32, rows: u64, newest: impl Fn() -> bool) {
        loop {
            // Before `newest`: whoever publishes a newer set after that changes this word, too.
            let old = self.0.load(Ordering::Acquire);
            if !newest() {
                return;
            }
            let known = Self::unpack(old);
            let begins = members & !known.members != 0;
            let rows = if begins { rows } else { rows.max(known.rows) };
            let rows = if members == 0 { 0 } else { rows };
            if self.replace(old, Rebuild { members, rows }).is_ok() {
                return;
            }
        }
    }

    fn advance(&self, members: u32, rows: u64) -> bool {
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            let known = Self::unpack(old);
            if known.members & !members != 0 || known.members == 0 {
                return false;
            }
            assert!(rows > known.rows, "rows are rebuilt in ascending order");
            if rows > known.rows + 1 {
                return false;
            }
            match self.replace(old, Rebuild { rows, ..known }) {
                Ok(()) => return true,
                Err(now) => old = now,
            }
        }
    }

    fn replace(&self, old: u64, new: Rebuild) -> Result<(), u64> {
        let rows = u32::try_from(new.rows).expect("geometry admits fewer than 2^32 rows");
        let new = u64::from(new.members) << 32 | u64::from(rows);
        self.0
            .compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed)
            .map(|_| ())
    }

    #[inline]
    fn load(&self) -> Rebuild {
        Self::unpack(self.0.load(Ordering::Acquire))
    }

    fn unpack(word: u64) -> Rebuild {
        Rebuild {
            members: u32::try_from(word >> 32).expect("the upper half of 64 bits is 32 bits"),
            rows: word & u64::from(u32::MAX),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const ACQUIRED: Acquire = Acquire::Acquired { wake: WakeMask(0) };

    /// No two rows share slot and tag, for the smallest and a larger table.
    #[test]
    fn slot_and_tag_name_the_row() {
        for slots in [1, 64, 4096] {
            let table = LockTable::new(slots);
            let mut rows = BTreeMap::new();
            for step in [1_u64, 64, 4096, 1 << 26] {
                for row in (0..2000).map(|i| (i * step) % (1 << 32)) {
                    let other = rows.insert(table.place(RowIndex(row)), row);
                    assert!(
                        other.is_none_or(|other| other == row),
                        "rows {other:?} and {row} look alike"
                    );
                }
            }
        }
    }

    #[test]
    fn neighbouring_rows_have_slots_of_their_own() {
        let table = LockTable::new(1024);
        let mut slots: Vec<u32> = (5000..5256).map(|row| table.slot(RowIndex(row))).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(
            slots.len(),
            256,
            "a run of a quarter of the slots has no conflict"
        );
    }

    #[test]
    fn a_slot_busy_with_another_row_is_a_conflict() {
        let table = LockTable::new(64);
        let first = RowIndex(0);
        let second = (1..)
            .map(RowIndex)
            .find(|row| table.slot(*row) == table.slot(first))
            .expect("64 slots");
        assert_eq!(table.try_acquire(first, Mode::Read, 0), ACQUIRED);
        assert_eq!(
            table.try_acquire(second, Mode::Read, 1),
            Acquire::Busy { recall: None }
        );
        assert_eq!(table.release(first, Mode::Read), WakeMask(0b10));
        assert_eq!(table.try_acquire(second, Mode::Read, 1), ACQUIRED);
        assert_eq!(table.release(second, Mode::Read), WakeMask(0));
        assert!(table.is_idle(), "rows that nobody uses leave the table");
    }

    #[test]
    fn an_older_member_set_never_replaces_a_newer_one() {
        let table = LockTable::new(64);
        let set = |generation, failed| MemberSet {
            generation,
            failed,
            parity: ParityTrust::Everywhere,
            rebuilding: 0,
            rebuilt_rows: 0,
        };
        table.publish(set(7, 0b1));
        table.publish(set(6, 0));
        table.publish(set(7, 0));
        assert_eq!(
            table.members(),
            Members {
                failed: 0b1,
                parity: ParityTrust::Everywhere
            }
        );
        table.publish(MemberSet {
            generation: (1 << 30) + 8,
            failed: 0b11,
            parity: ParityTrust::Nowhere,
            rebuilding: 0,
            rebuilt_rows: 0,
        });
        assert_eq!(
            table.members(),
            Members {
                failed: 0b11,
                parity: ParityTrust::Nowhere
            }
        );
    }

    fn rebuilding(generation: u64, failed: u32, rebuilding: u32, rebuilt_rows: u64) -> MemberSet {
        MemberSet {
            generation,
            failed,
            parity: ParityTrust::Everywhere,
            rebuilding,
            rebuilt_rows,
        }
    }

    /// PROTOCOL H34: live below the frontier, failed from it on, and the durable frontier only lags behind.
    #[test]
    fn members_under_rebuild_are_live_below_the_frontier() {
        let table = LockTable::new(64);
        let failed_at = |row| table.members_at(RowIndex(row)).failed;
        table.publish(rebuilding(1, 0b101, 0b100, 3));
        assert_eq!([2, 3].map(failed_at), [0b001, 0b101]);
        assert!(
            !table.advance_rebuilt(0b100, 10),
            "a row in front of it is not done"
        );
        assert!((4..=10).all(|rows| table.advance_rebuilt(0b100, rows)));
        table.publish(rebuilding(2, 0b101, 0b100, 5));
        assert_eq!([9, 10].map(failed_at), [0b001, 0b101]);
        assert_eq!((table.members().failed, table.lost()), (0b101, 0b001));
        // The rebuild has ended.
        table.publish(rebuilding(3, 0b001, 0, 0));
        assert_eq!([0, 10, 99].map(failed_at), [0b001; 3]);
        assert!(!table.advance_rebuilt(0b100, 11), "nobody is rebuilt any more");
    }

    #[test]
    fn a_member_that_joins_a_rebuild_begins_where_the_set_says() {
        let table = LockTable::new(64);
        table.publish(rebuilding(1, 0b001, 0b001, 0));
        assert!((1..=8).all(|rows| table.advance_rebuilt(0b001, rows)));
        table.publish(rebuilding(2, 0b011, 0b011, 0));
        assert_eq!(
            table.rebuild(),
            Rebuild {
                members: 0b011,
                rows: 0
            }
        );
        assert!(
            !table.advance_rebuilt(0b001, 9),
            "the row has no strip of the second yet"
        );
        assert!(table.advance_rebuilt(0b011, 1));
        // One of them fails again: the other goes on.
        table.publish(rebuilding(3, 0b011, 0b010, 0));
        assert_eq!(
            table.rebuild(),
            Rebuild {
                members: 0b010,
                rows: 1
            }
        );
        assert_eq!(table.members_at(RowIndex(0)).failed, 0b001);
        assert!(table.advance_rebuilt(0b011, 2), "its row has the strips of both");
    }

    #[test]
    fn an_older_set_changes_no_rebuild() {
        let table = LockTable::new(64);
        table.publish(rebuilding(5, 0b1, 0b1, 7));
        table.publish(rebuilding(4, 0b1, 0, 0));
        assert_eq!(
            table.rebuild(),
            Rebuild {
                members: 0b1,
                rows: 7
            }
        );
    }
}
