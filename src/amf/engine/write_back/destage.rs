//! Destaging: dirty data of a row goes to its place, by way of a journal record of the row's new check data.

use super::super::Action;
use super::super::machine::Engine;
use super::super::piece::{self, Piece, Work};
use super::super::rebuild::REBUILDS_MAX;
use super::{WriteBack, push_copies, ring_place};
use crate::amf::cache::EntryIndex;
use crate::amf::geometry::RowPiece;
use crate::amf::journal::Entry;
use crate::amf::journal::lane::Obligation;
use crate::amf::row::{Area, EXTENTS_MAX, PlanError, RowExtent, RowPlan};

/// Rows of one core that are destaged at a time. More than [`REBUILDS_MAX`]: each row that is rebuilt and awaits its turn may keep
/// one waiting, and the row that they all wait for may need one more.
pub(in crate::amf::engine) const DESTAGES_MAX: u32 = 32;

const _: () = assert!(DESTAGES_MAX as usize > REBUILDS_MAX);

/// Ticks after which dirty data is destaged in any case: about a second.
const AGE_TICKS: u64 = 10;

/// Adjacent dirty rows that go along with the oldest.
const RUN_ROWS_MAX: u32 = 8;

impl WriteBack {
    /// Whether a row has to be destaged that is not on its way.
    fn is_due(&self, entry: EntryIndex) -> bool {
        self.now >= self.rows.dirty_since(entry) + AGE_TICKS || self.is_pressed(entry)
    }

    /// Whether this row, and all that became dirty before it, has to be on its way, for want of space or because somebody waits
    /// for it.
    ///
    /// What is on its way counts as gone: younger rows are left alone, because the rest of what makes them whole may be about to
    /// come, and a whole row costs the drives least.
    fn is_pressed(&self, entry: EntryIndex) -> bool {
        let since = self.holds[entry.0 as usize].since;
        let left = self.lane.used_from(since.place);
        let starved = !self.room_waiters.is_empty();
        let idle_rows = self.rows.dirty_count() - self.destages_running;
        // Each destage that ends lets the tail move on, so that one after the other makes room for whoever waits.
        let idle = self.destages_running == 0 && self.retire.is_idle() && self.lane.owes_its_oldest();
        // Once it begins it goes on for a while, so that records of several rows share a batch.
        let (much, of) = if self.destages_running > 0 { (3, 8) } else { (1, 2) };
        of * left > much * self.lane.capacity()
            || starved && (idle || 4 * left > self.lane.capacity())
            || 2 * idle_rows > super::ROWS_MAX
            || 2 * self.dirty.extents_total() > super::EXTENTS_MAX
            || !self.drain_waiters.is_empty()
            || self.is_hurried_below(since.seq)
    }
}

impl Engine {
    /// Starts the destages that are due. True if a piece was let in.
    pub(super) fn start_destages(&mut self, out: &mut Vec<Action>) -> bool {
        let mut any = false;
        loop {
            let write_back = self.write_back.as_mut().expect("there is a lane");
            if write_back.destages_running >= DESTAGES_MAX || write_back.stuck {
                return any;
            }
            if write_back.destages.is_empty() {
                self.choose_destages();
            }
            let write_back = self.write_back.as_mut().expect("there is a lane");
            let Some(entry) = write_back.destages.first().map(EntryIndex) else {
                return any;
            };
            write_back.hold_links.remove(&mut write_back.destages, entry.0);
            write_back.destages_running += 1;
            write_back.holds[entry.0 as usize].runs();
            let row = write_back.rows.row(entry);
            let index = write_back
                .free_pieces
                .pop()
                .expect("one for each destage that may run");
            let row = RowPiece {
                row,
                start_blocks: 0,
                blocks: self.layout.geometry_of_row(row).row_blocks(),
                skipped_blocks: 0,
            };
            self.pieces[index as usize] = Piece::new(self.own_command(), Work::Destage, row);
            any = true;
            if self.enter_hold(index, entry) {
                self.begin(index, out);
            }
        }
    }

    /// Makes the oldest rows' destages due if space is short, they are old, or somebody waits for them.
    fn choose_destages(&mut self) {
        let write_back = self.write_back.as_mut().expect("there is a lane");
        // Those before it in the list are under way already, at most as many as may run.
        let oldest = write_back
            .rows
            .dirty_rows()
            .find(|entry| write_back.is_idle(*entry));
        let Some(oldest) = oldest else { return };
        if !write_back.is_due(oldest) {
            return;
        }
        // Those that are still being filled stay behind.
        let layout = &self.layout;
        let is_whole = |entry| {
            let row_blocks = layout.geometry_of_row(write_back.rows.row(entry)).row_blocks();
            write_back.dirty.is_whole_row(entry, row_blocks)
        };
        let (first, rows) = write_back.rows.dirty_run(oldest, RUN_ROWS_MAX, |entry| {
            write_back.is_idle(entry) && (is_whole(entry) || write_back.is_due(entry))
        });
        for row in first.0..first.0 + u64::from(rows) {
            let entry = write_back
                .rows
                .find(crate::amf::RowIndex(row))
                .expect("a run consists of rows that are there");
            write_back.destage_soon(entry);
        }
    }

    /// The plan of a destage: the same each time, because nothing is appended to the row meanwhile.
    ///
    /// A row that becomes zeroes needs none: all of its members are zeroed, check data with the rest, since zeroes sum to
    /// zeroes.
    pub(in crate::amf::engine) fn plan_destage(
        &self,
        piece: &Piece,
        plan: &mut RowPlan,
    ) -> Result<(), PlanError> {
        let entry = piece.hold.expect("a destage is inside a hold");
        let write_back = self.write_back.as_ref().expect("a hold belongs to it");
        let geometry = self.layout.geometry_of_row(piece.row.row);
        if write_back.dirty.is_all_zero_row(entry, geometry.row_blocks()) {
            return plan.zero_row(geometry, piece.members);
        }
        let mut extents = [RowExtent {
            start_blocks: 0,
            blocks: 0,
        }; EXTENTS_MAX];
        let mut count = 0;
        for (extent, run) in extents.iter_mut().zip(write_back.dirty.coverage_runs(entry)) {
            (extent.start_blocks, extent.blocks) = (run.start_blocks, run.blocks);
            count += 1;
        }
        plan.write_extents(
            geometry,
            piece.row.row,
            &extents[..count],
            piece.members,
            piece.avoid,
        )
    }

    /// All that the plan wanted to read is there: the dirty data is laid in, check data computed and journaled.
    pub(in crate::amf::engine) fn destage_read(&mut self, index: u32, plan: &RowPlan, out: &mut Vec<Action>) {
        let shift = self.geometry.block().shift();
        let piece = self.pieces[index as usize];
        let entry = piece.hold.expect("a destage is inside a hold");
        let strip = self.geometry.strip_blocks();
        let write_back = self.write_back.as_ref().expect("a hold belongs to it");
        for fill in &plan.filled {
            for dirty in write_back.dirty.overlay(entry, fill.start_blocks, fill.blocks) {
                push_copies(&dirty, strip, shift, out, |done| {
                    let at = fill.scratch_block + (dirty.start_blocks - fill.start_blocks) + done;
                    piece::place(&piece, shift, Area::Scratch(at))
                });
            }
        }
        piece::push_steps(&piece, shift, &plan.steps, out);
        self.journal_destage(index, plan, out);
    }

    /// Appends the row's new check data and the word that it is now written in place.
    ///
    /// Of a row that is dirty as a whole all data is in the journal, until the row is retired, so that replay can compute its
    /// check data from it: none is journaled.
    fn journal_destage(&mut self, index: u32, plan: &RowPlan, out: &mut Vec<Action>) {
        let shift = self.geometry.block().shift();
        let piece = self.pieces[index as usize];
        let entry = piece.hold.expect("a destage is inside a hold");
        let row = piece.row.row;
        let geometry = self.row_geometry(index);
        let (members, row_blocks) = (geometry.members(), geometry.row_blocks());
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        let check_ios = if write_back.dirty.is_whole_row(entry, row_blocks) {
            &[]
        } else {
            &plan.checks[..]
        };
        let hold = &mut write_back.holds[entry.0 as usize];
        let (_, cut) = hold.newest.expect("a dirty row has entries");
        let lane = &mut write_back.lane;
        // What it may take was promised when its writes were.
        lane.release(std::mem::take(&mut hold.reserved));
        let blocks = check_ios.iter().map(|check| check.blocks).sum();
        lane.prepare(check_ios.len() + 1, blocks);
        let seq = lane.number();
        for check in check_ios {
            let appended = lane.push(seq, check.blocks, |seq, payload_block| Entry::Check {
                members,
                row,
                index: check.index,
                offset_blocks: check.offset_blocks,
                blocks: check.blocks,
                seq,
                payload_block,
            });
            out.push(Action::Copy {
                into: ring_place(appended.ring_block, shift),
                from: piece::place(&piece, shift, Area::Scratch(check.scratch_block)),
                bytes: check.blocks << shift,
            });
        }
        let checks = u8::try_from(check_ios.len()).expect("as many as fit a header");
        let appended = lane.push(seq, 0, |seq, _| Entry::Destage {
            members,
            row,
            cut,
            checks,
            seq,
        });
        self.pieces[index as usize].journaled = true;
        self.await_commit(index, appended.batch);
    }

    /// The record is committed: from here on the row may be half written, whatever happens.
    pub(super) fn destage_committed(&mut self, index: u32, out: &mut Vec<Action>) {
        if !self.pieces[index as usize].journaled {
            // Only the row's writes were, in `ram`: now it begins.
            return self.begin(index, out);
        }
        let piece = self.pieces[index as usize];
        let entry = piece.hold.expect("a destage is inside a hold");
        let row_blocks = self.row_geometry(index).row_blocks();
        if self.write_back().dirty.is_all_zero_row(entry, row_blocks) {
            // Zeroes were journaled without saying whether their space was to be given back, and that it may be is all that
            // either kind asks for.
            return self.zero_row(index, true, false, out);
        }
        let mut plan = std::mem::take(&mut self.plan);
        self.plan_destage(&piece, &mut plan)
            .expect("the plan that was made once can be made again");
        self.issue_writes(index, &plan.writes, false, out);
        self.plan = plan;
    }

    /// A destage has ended, well or not; it is still inside its hold.
    pub(in crate::amf::engine) fn destage_ended(&mut self, index: u32, ok: bool) {
        if ok {
            self.heal_destaged(index);
        }
        let entry = self.pieces[index as usize]
            .hold
            .expect("a destage is inside a hold");
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        write_back.destages_running -= 1;
        let hold = &mut write_back.holds[entry.0 as usize];
        hold.destaged();
        if !ok {
            // The group is lost, or will be heard of again when its members change: the data stays dirty, here and in the journal.
            write_back.stuck = true;
            return;
        }
        let (_, cut) = hold.newest.take().expect("a dirty row has entries");
        let obligation: Obligation = hold.obligation.take().expect("a dirty row owes its data");
        write_back.dirty.clear_up_to(entry, cut);
        write_back.rows.mark_clean(entry);
        let (row, now) = (write_back.rows.row(entry), write_back.now);
        write_back.retire.push(obligation, row, now);
    }

    /// Takes the piece of a destage back.
    pub(in crate::amf::engine) fn end_destage_piece(&mut self, index: u32, out: &mut Vec<Action>) {
        self.pieces[index as usize] = Piece::FREE;
        self.write_back().free_pieces.push(index);
        self.kept.look |= self.kept.is_held();
        self.drained(out);
    }

    /// In `ram`: what a destage covers has to be committed before its record is even appended.
    pub(in crate::amf::engine) fn await_writes_of_row(&mut self, index: u32) -> bool {
        let entry = self.pieces[index as usize]
            .hold
            .expect("a destage is inside a hold");
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        let newest = write_back.holds[entry.0 as usize].newest;
        let (batch, _) = newest.expect("a dirty row has entries");
        if write_back.lane.is_committed(batch) {
            return false;
        }
        self.await_commit(index, batch);
        true
    }
}
