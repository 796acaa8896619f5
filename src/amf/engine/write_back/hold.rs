//! Holds: the rows that a core keeps, and the order of its own operations inside them.

use super::super::Action;
use super::super::machine::Engine;
use super::super::piece::{State, Work};
use super::WriteBack;
use crate::amf::RowIndex;
use crate::amf::cache::EntryIndex;
use crate::amf::journal::lane::{Appended, BatchNumber, Lane, Obligation};
use crate::amf::list::List;
use crate::amf::lock::Mode;

/// How an operation is inside a row that this core holds. Operations of one kind are together unless they are alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::amf::engine) enum Inside {
    /// Looks. Everything that was appended before is committed.
    Read,
    /// Appends to the journal, and stays until that is committed.
    Append,
    /// Compares and then writes, destages, rebuilds: nobody else.
    Alone,
}

/// Whether the row's dirty data is on its way to the drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destaging {
    Idle,
    /// In the queue of due destages.
    Due,
    /// A piece works on it or waits for its turn inside.
    Running,
}

/// The first entry that keeps a row dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since {
    /// See [`Lane::place`].
    pub(super) place: u64,
    /// Its number.
    pub(super) seq: u64,
}

/// What a core knows of a row that it holds.
#[derive(Clone, Debug)]
pub(in crate::amf::engine) struct Hold {
    slot: u32,
    /// Who is inside, and how many.
    inside: Option<(Inside, u32)>,
    /// Pieces of this core that wait to come in, in order.
    waiters: List,
    /// Another core wants the slot.
    recalled: bool,
    /// It is another node, which takes the row's dirty data.
    pub(super) gives: bool,
    destaging: Destaging,
    /// What is dirty is owed to the drives.
    pub(super) obligation: Option<Obligation>,
    /// Where in the lane and with which number that begins.
    pub(super) since: Since,
    /// Room in the lane for its destage.
    pub(super) reserved: u64,
    /// Batch and number of its newest entry.
    pub(super) newest: Option<(BatchNumber, u64)>,
}

impl Hold {
    pub(super) const FREE: Self = Self {
        slot: 0,
        inside: None,
        waiters: List::EMPTY,
        recalled: false,
        gives: false,
        destaging: Destaging::Idle,
        obligation: None,
        since: Since { place: 0, seq: 0 },
        reserved: 0,
        newest: None,
    };

    /// One that was just taken.
    pub(super) const fn of(slot: u32, inside: Option<(Inside, u32)>, recalled: bool) -> Self {
        Self {
            slot,
            inside,
            recalled,
            ..Self::FREE
        }
    }

    /// Something was appended for the row.
    pub(super) fn appended(&mut self, destage_room: u64, appended: Appended, lane: &mut Lane) {
        self.reserved += destage_room;
        self.newest = Some((appended.batch, appended.seq));
        if self.obligation.is_none() {
            self.since = Since {
                place: lane.place(appended.batch),
                seq: appended.seq,
            };
            self.obligation = Some(lane.oblige(appended.seq));
        }
    }

    /// The destage that was due or running is over.
    pub(super) fn destaged(&mut self) {
        assert!(self.destaging == Destaging::Running, "a destage ends once");
        self.destaging = Destaging::Idle;
    }

    pub(super) fn runs(&mut self) {
        assert!(self.destaging == Destaging::Due, "a destage that starts was due");
        self.destaging = Destaging::Running;
    }
}

impl Work {
    /// How it is inside a row that its core holds.
    fn inside(self) -> Inside {
        match self {
            Self::Read | Self::Prefetch | Self::Compare | Self::Scrub { repair: false } => Inside::Read,
            Self::Write { .. } | Self::ZeroRow { .. } => Inside::Append,
            Self::CompareThenWrite { .. }
            | Self::Resync
            | Self::Rebuild { .. }
            | Self::Scrub { repair: true }
            | Self::Repair { .. }
            | Self::Destage => Inside::Alone,
            Self::Move { .. } | Self::Flush | Self::FlushDrives | Self::Drain { .. } => {
                unreachable!("these touch no row")
            }
        }
    }
}

impl Engine {
    /// The hold on a row, if this core has it and nobody else wants the row.
    pub(in crate::amf::engine) fn find_hold(&self, row: RowIndex) -> Option<EntryIndex> {
        let write_back = self.write_back.as_ref()?;
        let entry = write_back.rows.find(row)?;
        (!write_back.holds[entry.0 as usize].recalled).then_some(entry)
    }

    /// The row's lock was just taken for this piece. A journaled write makes it a hold, with the piece inside.
    pub(in crate::amf::engine) fn hold_row(&mut self, index: u32) {
        let piece = &mut self.pieces[index as usize];
        if self.write_back.is_none() || !piece.work.is_host_write() {
            return;
        }
        let (row, inside) = (piece.row.row, piece.work.inside());
        let write_back = self.write_back.as_mut().expect("it was looked at");
        let entry = write_back
            .rows
            .insert(row)
            .expect("a write with room has room for its row");
        let slot = self.lock.slot(row);
        write_back.slots.insert(u64::from(slot), entry.0);
        let recalled = self.kept.contains(row);
        write_back.holds[entry.0 as usize] = Hold::of(slot, Some((inside, 1)), recalled);
        piece.hold = Some(entry);
    }

    /// Lets a piece into a hold of this core, or into its queue. True if it is inside.
    pub(in crate::amf::engine) fn enter_hold(&mut self, index: u32, entry: EntryIndex) -> bool {
        let piece = &mut self.pieces[index as usize];
        piece.hold = Some(entry);
        let work = piece.work;
        let inside = work.inside();
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        let admitted = write_back.admits(entry, work);
        let hold = &mut write_back.holds[entry.0 as usize];
        // The first in line may be a write that waits for what a destage makes room for.
        let first = work == Work::Destage;
        if admitted && (first || hold.waiters.is_empty()) {
            hold.inside = Some((inside, hold.inside.map_or(0, |(_, count)| count) + 1));
            return true;
        }
        piece.state = State::AwaitingHold;
        if first {
            self.piece_links.push_front(&mut hold.waiters, index);
        } else {
            self.piece_links.push_back(&mut hold.waiters, index);
        }
        false
    }

    /// A piece leaves its hold: those that wait come in, or the row is given up if nothing keeps it.
    pub(in crate::amf::engine) fn leave_hold(
        &mut self,
        index: u32,
        entry: EntryIndex,
        out: &mut Vec<Action>,
    ) {
        self.pieces[index as usize].hold = None;
        self.leave_inside(entry, out);
    }

    /// One fewer is inside of a hold.
    pub(super) fn leave_inside(&mut self, entry: EntryIndex, out: &mut Vec<Action>) {
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        let hold = &mut write_back.holds[entry.0 as usize];
        let (inside, count) = hold.inside.expect("who leaves is inside");
        hold.inside = (count > 1).then_some((inside, count - 1));
        self.let_waiters_in(entry);
        self.settle_hold(entry, out);
    }

    /// The piece that has waited longest for its turn in a hold.
    pub(in crate::amf::engine) fn first_in_hold_queue(&self, entry: u32) -> Option<u32> {
        let write_back = self.write_back.as_ref()?;
        write_back.holds[entry as usize].waiters.first()
    }

    /// A piece gives up its place in a hold's queue; those behind it may come in now.
    pub(in crate::amf::engine) fn leave_hold_queue(&mut self, index: u32, out: &mut Vec<Action>) {
        let entry = self.pieces[index as usize]
            .hold
            .take()
            .expect("it waits for a hold");
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        self.piece_links
            .remove(&mut write_back.holds[entry.0 as usize].waiters, index);
        self.let_waiters_in(entry);
        self.settle_hold(entry, out);
    }

    fn let_waiters_in(&mut self, entry: EntryIndex) {
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        while let Some(index) = write_back.holds[entry.0 as usize].waiters.first() {
            let work = self.pieces[index as usize].work;
            let inside = work.inside();
            if !write_back.admits(entry, work) {
                return;
            }
            let hold = &mut write_back.holds[entry.0 as usize];
            hold.inside = Some((inside, hold.inside.map_or(0, |(_, count)| count) + 1));
            self.piece_links.remove(&mut hold.waiters, index);
            self.granted.push_back(index);
        }
    }

    /// Decides what becomes of a hold that nobody is inside of.
    pub(super) fn settle_hold(&mut self, entry: EntryIndex, out: &mut Vec<Action>) {
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        let row = write_back.rows.row(entry);
        let hold = &mut write_back.holds[entry.0 as usize];
        if hold.inside.is_some() {
            return;
        }
        if write_back.rows.is_dirty(entry) {
            if hold.gives && hold.waiters.is_empty() && self.give(entry, out) {
                return;
            }
            let write_back = self.write_back.as_mut().expect("a hold belongs to it");
            let hold = &mut write_back.holds[entry.0 as usize];
            // Who came to wait while we were busy may have asked for a hold that was not there yet.
            hold.recalled |= self.lock.is_awaited(row);
            if hold.recalled || !hold.waiters.is_empty() {
                // Who waits although nobody is inside waits for room in the row.
                write_back.destage_soon(entry);
            }
            return;
        }
        assert!(
            hold.waiters.is_empty(),
            "a clean row that is free lets its first waiter in"
        );
        assert!(
            hold.destaging == Destaging::Idle,
            "only a destage makes a row clean"
        );
        assert!(
            hold.obligation.is_none() && hold.reserved == 0,
            "a clean row owes nothing"
        );
        self.free_hold(entry);
        let wake = self.lock.release(row, Mode::Write);
        self.tell(wake, row, out);
    }

    /// A clean row is nobody's here any more.
    pub(super) fn free_hold(&mut self, entry: EntryIndex) {
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        let hold = std::mem::replace(&mut write_back.holds[entry.0 as usize], Hold::FREE);
        write_back.rows.remove(entry);
        write_back.slots.remove(u64::from(hold.slot));
        self.kept.look |= self.kept.is_held();
    }

    /// Another core, or a piece of our own, wants the slot of this row: if we hold it, it is destaged and given up. Harmless otherwise.
    pub fn recall(&mut self, row: RowIndex, out: &mut Vec<Action>) {
        self.recall_slot(self.lock.slot(row), out);
        self.settle(out);
    }

    pub(in crate::amf::engine) fn recall_slot(&mut self, slot: u32, out: &mut Vec<Action>) {
        let Some(write_back) = self.write_back.as_mut() else {
            return;
        };
        let Some(entry) = write_back.slots.find(u64::from(slot)).map(EntryIndex) else {
            return;
        };
        write_back.holds[entry.0 as usize].recalled = true;
        self.settle_hold(entry, out);
    }

    /// A wave wants this row: as [`Engine::recall`], for this row alone.
    pub(in crate::amf::engine) fn recall_held(&mut self, row: RowIndex, out: &mut Vec<Action>) {
        if self.keeps_row(row) {
            self.recall_slot(self.lock.slot(row), out);
        }
    }

    /// Whether this core keeps a row's lock for what is or was dirty there.
    pub(in crate::amf::engine) fn keeps_row(&self, row: RowIndex) -> bool {
        let write_back = self.write_back.as_ref();
        write_back.is_some_and(|write_back| write_back.rows.find(row).is_some())
    }

    /// Looks whether what was just appended makes the row's destage due.
    pub(super) fn look_at_row(&mut self, entry: EntryIndex) {
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        let row_blocks = self
            .layout
            .geometry_of_row(write_back.rows.row(entry))
            .row_blocks();
        if write_back.dirty.is_whole_row(entry, row_blocks) || !write_back.has_runs_left(entry, 1) {
            write_back.destage_soon(entry);
        }
    }
}

impl WriteBack {
    /// Whether an operation may come in beside those that are inside.
    fn admits(&self, entry: EntryIndex, work: Work) -> bool {
        let inside = work.inside();
        let (others, count) = match self.holds[entry.0 as usize].inside {
            None => (inside, 0),
            Some((Inside::Alone, _)) => return false,
            Some((others, count)) => (others, count),
        };
        // Each of those that are inside to append may not have done so yet.
        others == inside && (!work.is_host_write() || self.has_runs_left(entry, count + 1))
    }

    /// Whether so many more writes fit into the row before it is destaged.
    fn has_runs_left(&self, entry: EntryIndex, writes: u32) -> bool {
        self.dirty.room_for(entry, writes) && self.dirty.runs(entry) + writes <= self.runs_max
    }

    /// Puts a row's destage into the queue, unless it is there or under way.
    pub(super) fn destage_soon(&mut self, entry: EntryIndex) {
        let hold = &mut self.holds[entry.0 as usize];
        if hold.destaging == Destaging::Idle && self.rows.is_dirty(entry) {
            hold.destaging = Destaging::Due;
            self.hold_links.push_back(&mut self.destages, entry.0);
        }
    }

    /// Whether everything that was appended for a row is committed.
    pub(in crate::amf::engine) fn is_hold_committed(&self, entry: EntryIndex) -> bool {
        let newest = self.holds[entry.0 as usize].newest;
        newest.is_none_or(|(batch, _)| self.lane.is_committed(batch))
    }

    /// Whether a row's destage is neither due nor under way.
    pub(super) fn is_idle(&self, entry: EntryIndex) -> bool {
        self.holds[entry.0 as usize].destaging == Destaging::Idle
    }
}
