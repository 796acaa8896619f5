//! Waves of an expansion: rows are kept from everybody else, moved, and looked up anew.
//!
//! How a wave of [`Waves`](crate::amf::expansion::Waves) is driven, by whoever knows all cores and the superblocks:
//!
//! 1. Once, at the start: [`Engine::set_layout`] on every core with the layout at frontier 0, after it is durable that the new
//!    members belong to the group, and before any member set names them.
//! 2. [`Engine::hold_range`] with [`Waves::held`](crate::amf::expansion::Waves::held) on every core; wait for
//!    [`Action::RangeHeld`] of all of them.
//! 3. On one core [`Request::Move`](super::Request::Move) for every row of the wave, in any order and any number at a time, in one phase after
//!    the other with a [`Request::FlushDrives`](super::Request::FlushDrives) behind each:
//!    [`MovePhase::InPlace`] or [`MovePhase::Clear`] for a wave that is no scratch wave; otherwise, once the record says
//!    `Dirty`, [`MovePhase::ToScratch`], then persist `Holds`, then [`MovePhase::FromScratch`].
//! 4. Persist the frontier. Then [`Engine::set_layout`] on every core, which ends the hold.
//!
//! Behind the last scratch wave [`MovePhase::Wipe`] for its rows and a flush, before a record says `Clean`. The rows that were wiped
//! need no hold: nobody else knows of the scratch area while the group is open.
//!
//! If a [`Request::Move`](super::Request::Move) fails in `InPlace`, `Clear` or `ToScratch`, the wave is given up: when all of its commands have completed,
//! `set_layout` with the layout as it was ends the hold, and nothing has changed. [`GroupError::Unreadable`] calls for the repair that
//! [`Action::ReportMedia`] has asked for; [`GroupError::Aborted`] and [`GroupError::MemberFailed`] for a rebuild first
//! (PROTOCOL H36). `FromScratch` goes round members that fail, and fails only with the group.

use super::machine::Engine;
use super::piece::{Piece, State, Work};
use super::{Action, GroupError, ScrubOutcome};
use crate::amf::ParityTrust;
use crate::amf::RowIndex;
use crate::amf::expansion::{HeldRows, Layout};
use crate::amf::geometry::Geometry;
use crate::amf::list::List;
use crate::amf::row::{self, Area, RowIo, RowPlan};
use crate::drive::block::MemberLba;

/// What is done to a row of the new layout; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovePhase {
    /// Its data is read where the old layout has it, check data is computed, and all of it is written in place.
    InPlace,
    /// The same, but it is written to the scratch area.
    ToScratch {
        /// First block on each member.
        at: MemberLba,
    },
    /// What each member has of it in the scratch area goes to its place. May be done again.
    FromScratch {
        /// First block on each member.
        at: MemberLba,
    },
    /// Zeroes, check data included.
    Clear,
    /// Zeroes over what is in the scratch area; the row itself is not touched.
    Wipe {
        /// First block on each member.
        at: MemberLba,
    },
}

/// The rows that are held, and who waits for them.
#[derive(Debug)]
pub(super) struct Kept {
    rows: Option<HeldRows>,
    /// Something in them has ended since they were looked at.
    pub(super) look: bool,
    /// That they are held was said.
    said: bool,
    /// Commands whose next row is among them, in order.
    waiters: List,
}

impl Kept {
    pub(super) const NOTHING: Self = Self {
        rows: None,
        look: false,
        said: false,
        waiters: List::EMPTY,
    };

    pub(super) const fn is_held(&self) -> bool {
        self.rows.is_some()
    }

    pub(super) fn contains(&self, row: RowIndex) -> bool {
        self.rows.is_some_and(|rows| rows.contains(row))
    }
}

impl Engine {
    /// Lets no further operation begin in these rows, and brings what is dirty there to its place. When nothing is left,
    /// which may be at once, [`Action::RangeHeld`] says so, once. The hold ends with [`Engine::set_layout`].
    ///
    /// Panics if rows are held already.
    pub fn hold_range(&mut self, rows: HeldRows, out: &mut Vec<Action>) {
        assert!(self.kept.rows.is_none(), "one wave at a time");
        self.kept.rows = Some(rows);
        self.kept.look = true;
        self.kept.said = false;
        for row in rows.rows() {
            self.recall_held(row, out);
        }
        self.settle(out);
    }

    /// From here on blocks are looked up in this layout, also those of commands that waited for a hold, which ends.
    ///
    /// Panics if the layout is another expansion's or goes back, if rows change their layout without having been held, if a
    /// [`Request::Move`](super::Request::Move) is under way, or if the scratch memory is too small for the layout's
    /// rows ([`Engine::has_scratch_for`]).
    pub fn set_layout(&mut self, layout: Layout, out: &mut Vec<Action>) {
        assert!(
            self.has_scratch_for(layout.widest()),
            "any one row operation fits the scratch"
        );
        assert!(
            self.pieces
                .iter()
                .all(|piece| piece.state == State::Free || !matches!(piece.work, Work::Move { .. })),
            "moves are over before their rows are used"
        );
        self.check_change(&layout);
        if self.layout.widest() != layout.widest() {
            self.plan = RowPlan::with_capacity(layout.widest());
        }
        if let Some(write_back) = &mut self.write_back {
            write_back.widen(&layout);
        }
        let (from, to) = (self.layout.frontier(), layout.frontier());
        let widens = self.layout.widest() != layout.widest();
        self.geometry = *layout.widest();
        self.layout = layout;
        if widens {
            self.clear_read_cache();
        } else {
            self.forget_rows(from..to);
        }
        self.kept.rows = None;
        self.kept.look = false;
        self.end_waits_for_hold();
        self.settle(out);
    }

    /// Lets all commands that wait for the end of the hold go on.
    pub(super) fn end_waits_for_hold(&mut self) {
        while let Some(command) = self.kept.waiters.first() {
            self.command_links.remove(&mut self.kept.waiters, command);
            self.commands[command as usize].kept = false;
            self.line_up(command);
        }
    }

    /// Rows whose geometry changes were held, and nobody is in them.
    fn check_change(&self, layout: &Layout) {
        let rows = layout.widest().rows();
        assert!(
            rows == self.geometry.rows(),
            "an expansion leaves the number of rows"
        );
        let widens = layout.widest() != self.layout.widest();
        if widens {
            assert!(
                self.layout.is_over() && layout.frontier() == 0,
                "an expansion begins at the first row of a group that is not being expanded"
            );
            return;
        }
        let (from, to) = (self.layout.frontier(), layout.frontier());
        assert!(from <= to, "a frontier never goes back");
        for row in (from..to).map(RowIndex) {
            assert!(
                self.kept.contains(row),
                "rows are held when they change their layout"
            );
        }
        assert!(
            from == to || self.is_range_free(),
            "nobody is in rows that change"
        );
    }

    /// Whether the scratch memory suffices for rows of this shape.
    pub fn has_scratch_for(&self, geometry: &Geometry) -> bool {
        self.scratch_bytes >= Self::scratch_bytes_min(geometry)
    }

    /// The layout that blocks are looked up in.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the group has lost so much that its rows cannot be put in order.
    pub(super) fn is_lost(&self) -> bool {
        !self.layout.survives(self.lock.members().failed)
    }

    /// Whether an operation has to wait until a hold ends.
    pub(super) fn is_held_back(&self, work: Work, row: RowIndex) -> bool {
        work.mode().is_some() && self.kept.contains(row)
    }

    /// Lets a command wait for the end of the hold if its next piece lies in it. True if it waits. In a lost group the hold may last
    /// until the next start, so that nobody waits for that.
    pub(super) fn wait_for_hold(&mut self, command: u32, work: Work, row: RowIndex) -> bool {
        if !self.is_held_back(work, row) || self.is_lost() {
            return false;
        }
        self.commands[command as usize].kept = true;
        self.command_links.push_back(&mut self.kept.waiters, command);
        true
    }

    /// Takes a command out of the queue that it is in.
    pub(super) fn unlist(&mut self, command: u32) {
        let slot = &mut self.commands[command as usize];
        let list = if std::mem::take(&mut slot.kept) {
            &mut self.kept.waiters
        } else {
            &mut self.starved
        };
        self.command_links.remove(list, command);
    }

    /// Says that the rows are held, if that has just become true.
    pub(super) fn look_at_held(&mut self, out: &mut Vec<Action>) {
        self.kept.look = false;
        if self.is_range_free() && !std::mem::replace(&mut self.kept.said, true) {
            out.push(Action::RangeHeld);
        }
    }

    /// Whether no operation is in a held row, and nothing in one is dirty here.
    fn is_range_free(&self) -> bool {
        let Some(rows) = self.kept.rows else {
            return false;
        };
        let inside = |piece: &Piece| {
            piece.state != State::Free && piece.work.mode().is_some() && rows.contains(piece.row.row)
        };
        !self.pieces.iter().any(inside) && !rows.rows().any(|row| self.keeps_row(row))
    }

    /// How a move ends before it asks a drive for anything, if it does.
    pub(super) fn refuse_move(&self, index: u32, phase: MovePhase) -> Option<GroupError> {
        let Piece {
            members, row, avoid, ..
        } = self.pieces[index as usize];
        if !self.layout.survives(members.failed) {
            return Some(GroupError::TooManyMembersLost);
        }
        match phase {
            MovePhase::FromScratch { .. } | MovePhase::Wipe { .. } => return None,
            MovePhase::InPlace | MovePhase::ToScratch { .. } | MovePhase::Clear if members.failed != 0 => {
                return Some(GroupError::Aborted);
            }
            MovePhase::Clear => return None,
            MovePhase::InPlace | MovePhase::ToScratch { .. } => {}
        }
        let mut columns = 0..self.geometry.data_members();
        let unreadable = columns.any(|column| {
            self.layout.source(row.row, column).is_some_and(|(row, column)| {
                row::choose_copy(
                    self.layout.oldest(),
                    row,
                    column,
                    0,
                    avoid,
                    ParityTrust::Everywhere,
                )
                .is_none()
            })
        });
        unreadable.then_some(GroupError::Unreadable)
    }

    /// Zeroes a row in place or in the scratch area. False if the phase is another.
    pub(super) fn zero_moved(&mut self, index: u32, phase: MovePhase, out: &mut Vec<Action>) -> bool {
        let row = self.pieces[index as usize].row.row;
        let (lba, deallocate) = match phase {
            MovePhase::Clear => (self.geometry.member_lba(row, 0), true),
            MovePhase::Wipe { at } => (at, false),
            MovePhase::InPlace | MovePhase::ToScratch { .. } | MovePhase::FromScratch { .. } => return false,
        };
        let geometry = self.geometry;
        self.issue_zeroes(index, &geometry, lba, (deallocate, false), out);
        true
    }

    /// The plan of a move that reads and writes: the same each time for the same members.
    pub(super) fn plan_move(&self, piece: &Piece, phase: MovePhase, plan: &mut RowPlan) {
        let new = &self.geometry;
        let row = piece.row.row;
        let live = !piece.members.failed;
        match phase {
            MovePhase::InPlace | MovePhase::ToScratch { .. } => {
                plan.whole_row(new, row, |column| {
                    let (row, column) = self.layout.source(row, column)?;
                    row::choose_copy(
                        self.layout.oldest(),
                        row,
                        column,
                        0,
                        piece.avoid,
                        ParityTrust::Everywhere,
                    )
                });
            }
            MovePhase::FromScratch { .. } => plan.same_places(new, live),
            MovePhase::Clear | MovePhase::Wipe { .. } => unreachable!("these have nothing to plan"),
        }
    }

    /// The row and the address that a piece reads by a transfer of its plan.
    pub(super) fn source_of(&self, piece: &Piece, read: &RowIo) -> (RowIndex, MemberLba) {
        let row = piece.row.row;
        let here = |geometry: &Geometry| (row, geometry.member_lba(row, read.offset_blocks));
        match piece.work {
            Work::Move {
                phase: MovePhase::InPlace | MovePhase::ToScratch { .. },
            } => {
                let Area::Scratch(at) = read.area else {
                    unreachable!("a move has no buffer");
                };
                let column = u8::try_from(at / self.geometry.strip_blocks()).expect("at most 32 columns");
                let source = self.layout.source(row, column);
                let (row, _) = source.expect("only columns with a source are read");
                (row, self.layout.oldest().member_lba(row, read.offset_blocks))
            }
            Work::Move {
                phase: MovePhase::FromScratch { at },
            } => (row, MemberLba(at.0 + u64::from(read.offset_blocks))),
            Work::Move {
                phase: MovePhase::Clear | MovePhase::Wipe { .. },
            } => unreachable!("these do not read"),
            Work::Read
            | Work::Prefetch
            | Work::Compare
            | Work::CompareThenWrite { .. }
            | Work::Write { .. }
            | Work::ZeroRow { .. }
            | Work::Resync
            | Work::Rebuild { .. }
            | Work::Scrub { .. }
            | Work::Repair { .. }
            | Work::Flush
            | Work::FlushDrives
            | Work::Destage
            | Work::Drain { .. } => here(self.layout.geometry_of_row(row)),
        }
    }

    /// The address that a piece writes by a transfer of its plan.
    pub(super) fn target_of(&self, piece: &Piece, write: &RowIo) -> MemberLba {
        if let Work::Move {
            phase: MovePhase::ToScratch { at },
        } = piece.work
        {
            return MemberLba(at.0 + u64::from(write.offset_blocks));
        }
        // A row has the same place in both layouts.
        self.layout
            .geometry_of_row(piece.row.row)
            .member_lba(piece.row.row, write.offset_blocks)
    }

    /// All that a move reads is there.
    pub(super) fn write_moved(&mut self, index: u32, plan: &RowPlan, out: &mut Vec<Action>) {
        let Piece { work, members, .. } = self.pieces[index as usize];
        let revocable = matches!(work, Work::Move { phase } if phase.is_revocable());
        if revocable && self.members_of(index).failed != members.failed {
            // A member was lost meanwhile: the wave is given up anyway.
            return self.finish(index, Err(GroupError::Aborted), out);
        }
        self.issue_writes(index, &plan.writes, false, out);
    }

    /// The reads of a move have failed; nothing of the row has been written.
    pub(super) fn move_reads_failed(&mut self, index: u32, phase: MovePhase, out: &mut Vec<Action>) {
        let piece = &mut self.pieces[index as usize];
        match phase {
            // Nobody needs what it would have written.
            MovePhase::InPlace | MovePhase::ToScratch { .. } if piece.errors != 0 => {
                self.finish(index, Err(GroupError::MemberFailed), out);
            }
            // Another copy is as good, if there is one.
            MovePhase::InPlace | MovePhase::ToScratch { .. } => self.begin(index, out),
            MovePhase::FromScratch { .. } => self.plan_without_failed(index, out),
            MovePhase::Clear | MovePhase::Wipe { .. } => unreachable!("these do not read"),
        }
    }
}

impl Engine {
    /// Whether the piece's row holds no data any more, nor yet.
    pub(super) fn is_dead(&self, index: u32) -> bool {
        self.layout.is_dead(self.pieces[index as usize].row.row)
    }

    /// The geometry that the piece's row has now.
    pub(super) fn row_geometry(&self, index: u32) -> Geometry {
        *self.layout.geometry_of_row(self.pieces[index as usize].row.row)
    }

    /// Ends an operation that looks after redundancy in a row which has nothing to lose.
    pub(super) fn end_dead(&mut self, index: u32, out: &mut Vec<Action>) {
        let Piece { work, row, .. } = self.pieces[index as usize];
        if matches!(work, Work::Scrub { .. }) {
            out.push(Action::Scrubbed {
                row: row.row,
                outcome: ScrubOutcome::Clean,
            });
        }
        self.finish(index, Ok(()), out);
    }
}

impl MovePhase {
    /// Whether it may be given up, because nobody relies on what it writes before the wave is over.
    pub(super) const fn is_revocable(self) -> bool {
        match self {
            Self::InPlace | Self::ToScratch { .. } | Self::Clear => true,
            Self::FromScratch { .. } | Self::Wipe { .. } => false,
        }
    }
}
