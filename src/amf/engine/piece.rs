//! The engine's row operations: what each is, how it begins and how it ends.

use super::machine::Engine;
use super::relayout::MovePhase;
use super::scratch::Span;
use super::scrub::Scan;
use super::tag::{next_tag, tag};
use super::write_back::Room;
use super::{Action, CommandId, GroupError, Place};
use crate::amf::cache::EntryIndex;
use crate::amf::geometry::{Geometry, RowPiece};
use crate::amf::journal::lane::BatchNumber;
use crate::amf::lock::{Members, Mode};
use crate::amf::row::{self, Area, PlanError, RowIo, RowPlan, Source, Step, Target};
use crate::amf::{MEMBERS_MAX, MemberIndex, ParityTrust};
use crate::drive::block::MemberLba;

/// What a row operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Read,
    /// What a stream will want next, into the cache.
    Prefetch,
    Compare,
    /// Becomes `Write` when the comparison succeeds.
    CompareThenWrite {
        write: CommandId,
        fua: bool,
    },
    Write {
        source: Source,
        fua: bool,
    },
    ZeroRow {
        deallocate: bool,
        fua: bool,
    },
    Resync,
    Rebuild {
        only_marked: bool,
    },
    Scrub {
        repair: bool,
    },
    Repair {
        member: MemberIndex,
        offset_blocks: u32,
        blocks: u32,
    },
    /// A row is laid out anew. It needs no lock: its rows are held on all cores.
    Move {
        phase: MovePhase,
    },
    Flush,
    /// All live members are flushed, also where there is a journal.
    FlushDrives,
    /// Dirty data of the row goes to its place.
    Destage,
    /// Waits until nothing is dirty and nothing is owed to the drives.
    Drain {
        /// Only what has a lower number in the journal.
        below: Option<u64>,
    },
}

impl Work {
    /// The lock it needs on its row; a flush has no row.
    pub(super) fn mode(self) -> Option<Mode> {
        match self {
            Self::Read | Self::Prefetch | Self::Compare | Self::Scrub { repair: false } => Some(Mode::Read),
            Self::CompareThenWrite { .. }
            | Self::Write { .. }
            | Self::ZeroRow { .. }
            | Self::Resync
            | Self::Rebuild { .. }
            | Self::Scrub { repair: true }
            | Self::Repair { .. } => Some(Mode::Write),
            // It is the hold's own, which has the lock.
            Self::Destage => Some(Mode::Write),
            Self::Move { .. } | Self::Flush | Self::FlushDrives | Self::Drain { .. } => None,
        }
    }

    /// Whether it is a host's write, which the journal takes where there is one.
    pub(super) fn is_host_write(self) -> bool {
        match self {
            Self::Write { .. } | Self::ZeroRow { .. } | Self::CompareThenWrite { .. } => true,
            Self::Read
            | Self::Prefetch
            | Self::Compare
            | Self::Resync
            | Self::Rebuild { .. }
            | Self::Scrub { .. }
            | Self::Repair { .. }
            | Self::Move { .. }
            | Self::Flush
            | Self::FlushDrives
            | Self::Destage
            | Self::Drain { .. } => false,
        }
    }
}

impl Work {
    /// Whether it writes in place inside of a hold; what hosts write goes to the journal there.
    fn changes_held_row(self) -> bool {
        self.mode().is_some_and(Mode::is_write) && !self.is_host_write()
    }
}

/// In order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// A write, before it has anything else: for room in the journal.
    AwaitingRoom,
    AwaitingLock,
    /// Its row is held by this core, and others are inside.
    AwaitingHold,
    /// A read: for what is being read ahead.
    AwaitingPrefetch,
    /// Has its lock; others with scratch never wait for it, so they end and give theirs back.
    AwaitingScratch,
    Reading,
    Comparing,
    /// It is in the journal's lane: for the drives to have it.
    AwaitingCommit,
    /// A flush, for what is in the lanes of all cores.
    AwaitingCommits,
    AwaitingDrain,
    /// A member failed before anything was written: it is planned anew once that is durable.
    AwaitingMembersToPlan,
    /// Nothing is planned anew from here on: the row may be in between.
    Writing,
    /// A repair reads back what it wrote.
    Verifying,
    /// All that could be written is; it ends once it is durable that the rest is not to be trusted.
    AwaitingMembersToEnd,
    /// Its row is to be mended: for another one of this core.
    AwaitingMend,
    /// Its row is being mended: for what is lost of it to be durably known.
    AwaitingLost,
    /// A row is rebuilt; its lock is kept until those before it are, too.
    AwaitingTurn,
}

/// A row operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) state: State,
    pub(super) work: Work,
    /// Index of its command; no command has the number of a free piece.
    pub(super) command: u32,
    /// Whose buffer it works on.
    pub(super) buffer: CommandId,
    pub(super) row: RowPiece,
    /// Its lock slot, while it waits for that; or the piece that reads ahead, while it waits for that one.
    pub(super) slot: u32,
    /// Answers that are still to come.
    pub(super) pending: u32,
    /// What its plan was made for, so that the same plan can be made again.
    pub(super) members: Members,
    /// Members that gave errors to this piece's reads: gone round without being failed.
    pub(super) avoid: u32,
    /// Members that gave errors in this phase.
    pub(super) errors: u32,
    /// Members of which blocks could not be read in this phase, though they answer.
    pub(super) unreadable: u32,
    /// Members of which blocks could not be read in any phase; they are among `avoid`.
    pub(super) media: u32,
    /// Members that a rebuild writes.
    pub(super) targets: u32,
    /// How far a scrub has looked.
    pub(super) scan: Scan,
    pub(super) scratch: Option<Span>,
    /// One strip of one live member, straight into the buffer: there is no plan to make again.
    pub(super) direct: bool,
    /// The hold that it is inside of or waits for.
    pub(super) hold: Option<EntryIndex>,
    /// Room in the lane that was promised to it.
    pub(super) room: Room,
    /// What it waits for to be committed.
    pub(super) batch: BatchNumber,
    /// Of a destage: its record is in the lane.
    pub(super) journaled: bool,
    /// It mends its row, before anything else.
    pub(super) mending: bool,
    /// How often it has done so.
    pub(super) mends: u8,
    /// Of a read that goes on block by block: all of it.
    pub(super) whole: Option<RowPiece>,
}

impl Piece {
    pub(super) const FREE: Self = Self {
        state: State::Free,
        work: Work::Flush,
        command: u32::MAX,
        buffer: CommandId(u32::MAX),
        row: RowPiece {
            row: crate::amf::RowIndex(0),
            start_blocks: 0,
            blocks: 0,
            skipped_blocks: 0,
        },
        slot: 0,
        pending: 0,
        members: Members {
            failed: 0,
            parity: ParityTrust::Nowhere,
        },
        avoid: 0,
        errors: 0,
        unreadable: 0,
        media: 0,
        targets: 0,
        scan: Scan::START,
        scratch: None,
        direct: false,
        hold: None,
        room: Room::NONE,
        batch: BatchNumber(0),
        journaled: false,
        mending: false,
        mends: 0,
        whole: None,
    };

    /// So many answers are to come.
    pub(super) fn await_answers(&mut self, count: u32) {
        assert!(self.pending == 0, "it waits for nothing else");
        self.pending = count;
    }

    /// One of them has come. True if it was the last.
    pub(super) fn answered(&mut self) -> bool {
        assert!(self.pending > 0, "no more answers come than were to come");
        self.pending -= 1;
        self.pending == 0
    }

    pub(super) fn new(command: u32, work: Work, row: RowPiece) -> Self {
        Self {
            command,
            work,
            row,
            buffer: CommandId(command),
            ..Self::FREE
        }
    }
}

impl From<PlanError> for GroupError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::TooManyMembersLost => Self::TooManyMembersLost,
            PlanError::ParityNotTrusted => Self::ParityNotTrusted,
        }
    }
}

impl Engine {
    /// Plans a piece under its lock, by the members of this instant, and issues its first phase.
    pub(super) fn begin(&mut self, index: u32, out: &mut Vec<Action>) {
        if !self.try_begin(index, self.scratch_waiters.is_empty(), out) {
            self.pieces[index as usize].state = State::AwaitingScratch;
            self.piece_links.push_back(&mut self.scratch_waiters, index);
        }
    }

    /// Lets the first in line try for scratch again.
    pub(super) fn retry_scratch(&mut self, out: &mut Vec<Action>) {
        let Some(index) = self.scratch_waiters.first() else {
            return;
        };
        self.piece_links.remove(&mut self.scratch_waiters, index);
        if self.try_begin(index, true, out) {
            self.scratch_retry = true;
        } else {
            self.piece_links.push_front(&mut self.scratch_waiters, index);
        }
    }

    /// False if it has to wait for scratch, which it may take only when it is its turn.
    pub(super) fn try_begin(&mut self, index: u32, scratch_turn: bool, out: &mut Vec<Action>) -> bool {
        let members = self.members_of(index);
        let piece = &mut self.pieces[index as usize];
        assert!(
            piece.pending == 0 && piece.errors == 0 && piece.unreadable == 0,
            "a piece begins with nothing in flight"
        );
        piece.members = members;
        if self.write_back.is_some() && self.begin_write_back(index, out) {
            return true;
        }
        if self.pieces[index as usize].mending {
            return self.begin_mend(index, scratch_turn, out);
        }
        let goes_its_way = match self.pieces[index as usize].work {
            Work::Read | Work::Compare | Work::CompareThenWrite { .. } if self.reads_lost(index) => {
                self.finish(index, Err(GroupError::Unreadable), out);
                true
            }
            Work::Read => {
                let cached = self.read_cache.is_some() && self.read_from_memory(index, out);
                cached || self.read_one_strip(index, out)
            }
            Work::ZeroRow { deallocate, fua } => {
                self.zero_row(index, deallocate, fua, out);
                true
            }
            Work::Flush | Work::FlushDrives => {
                self.flush(index, out);
                true
            }
            Work::Rebuild { only_marked } => !self.begin_rebuild(index, only_marked, out),
            Work::Repair { member, .. } if members.failed >> member.0 & 1 == 1 => {
                self.finish(index, Ok(()), out);
                true
            }
            Work::Resync | Work::Repair { .. } | Work::Scrub { .. } if self.is_dead(index) => {
                self.end_dead(index, out);
                true
            }
            Work::Move { phase } => match self.refuse_move(index, phase) {
                Some(error) => {
                    self.finish(index, Err(error), out);
                    true
                }
                None => self.zero_moved(index, phase, out),
            },
            Work::Prefetch
            | Work::Compare
            | Work::CompareThenWrite { .. }
            | Work::Write { .. }
            | Work::Resync
            | Work::Scrub { .. }
            | Work::Repair { .. }
            | Work::Destage => false,
            Work::Drain { .. } => unreachable!("it is over when there is no lane"),
        };
        if goes_its_way {
            return true;
        }
        self.begin_planned(index, scratch_turn, out)
    }

    fn begin_planned(&mut self, index: u32, scratch_turn: bool, out: &mut Vec<Action>) -> bool {
        let mut plan = std::mem::take(&mut self.plan);
        let begun = match self.make_plan(index, &mut plan) {
            Err(_) if self.split_read(index) => {
                self.granted.push_back(index);
                true
            }
            Err(_) if self.may_mend(index) => self.begin_mend(index, scratch_turn, out),
            Err(error) => {
                let error = self.unreadable_or(index, error.into());
                self.finish(index, Err(error), out);
                true
            }
            Ok(()) if self.take_scratch(index, plan.scratch_blocks, scratch_turn) => {
                if plan.reads.is_empty() {
                    self.reads_done(index, &plan, out);
                } else {
                    self.issue_reads(index, &plan.reads, out);
                }
                true
            }
            Ok(()) => false,
        };
        self.plan = plan;
        begun
    }

    /// What a piece goes by: under the row's lock, so at least as new as what the row's last writer knew. A flush has no
    /// row, and goes to all that are written.
    pub(super) fn members_of(&self, index: u32) -> Members {
        let piece = &self.pieces[index as usize];
        match piece.work {
            Work::Flush | Work::FlushDrives | Work::Drain { .. } => Members {
                failed: self.lock.lost(),
                ..self.lock.members()
            },
            Work::Move { .. } => self.lock.members(),
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
            | Work::Destage => {
                let row = piece.row.row;
                let members = self.lock.members_at(row);
                Members {
                    failed: members.failed & self.layout.members_of_row(row),
                    ..members
                }
            }
        }
    }

    /// The one transfer that a read inside one strip is, if it is that and the strip or a copy of it can be read.
    #[inline]
    pub(super) fn direct_read(&self, piece: &Piece) -> Option<RowIo> {
        let RowPiece {
            row,
            start_blocks,
            blocks,
            ..
        } = piece.row;
        let geometry = self.layout.geometry_of_row(row);
        let strip = geometry.strip_blocks();
        let offset = start_blocks % strip;
        if offset + blocks > strip {
            return None;
        }
        let column = u8::try_from(start_blocks / strip).expect("a row has at most 32 data columns");
        let unreadable = piece.members.failed | piece.avoid;
        let trust = piece.members.parity;
        let place = row::choose_copy(geometry, row, column, offset, unreadable, trust)?;
        Some(RowIo {
            member: place.member,
            offset_blocks: place.start_blocks + offset,
            blocks,
            area: Area::User(0),
        })
    }

    /// The shortest way, for most reads: one strip of one live member.
    #[inline]
    fn read_one_strip(&mut self, index: u32, out: &mut Vec<Action>) -> bool {
        let Some(RowIo {
            member,
            offset_blocks,
            blocks,
            area,
        }) = self.direct_read(&self.pieces[index as usize])
        else {
            return false;
        };
        let piece = &mut self.pieces[index as usize];
        piece.direct = true;
        piece.state = State::Reading;
        piece.pending = 1;
        self.commands[piece.command as usize].issued = true;
        let io = tag(index, 0, member);
        let into = place(piece, self.geometry.block().shift(), area);
        out.push(Action::DriveRead {
            io,
            member,
            lba: self
                .layout
                .geometry_of_row(piece.row.row)
                .member_lba(piece.row.row, offset_blocks),
            blocks,
            into,
        });
        true
    }

    pub(super) fn zero_row(&mut self, index: u32, deallocate: bool, fua: bool, out: &mut Vec<Action>) {
        let row = self.pieces[index as usize].row.row;
        let geometry = *self.layout.geometry_of_row(row);
        let lba = geometry.member_lba(row, 0);
        self.issue_zeroes(index, &geometry, lba, (deallocate, fua), out);
    }

    /// Zeroes what the live members give to a piece's row, or as much of each elsewhere.
    pub(super) fn issue_zeroes(
        &mut self,
        index: u32,
        geometry: &Geometry,
        lba: MemberLba,
        (deallocate, fua): (bool, bool),
        out: &mut Vec<Action>,
    ) {
        let piece = &mut self.pieces[index as usize];
        let members = match row::zero_row(geometry, piece.members) {
            Ok(members) => members,
            Err(error) => return self.finish(index, Err(error.into()), out),
        };
        self.commands[piece.command as usize].issued = true;
        piece.state = State::Writing;
        let blocks = geometry.member_row_blocks();
        for member in members {
            piece.pending += 1;
            let io = tag(index, 0, member);
            out.push(Action::DriveZero {
                io,
                member,
                lba,
                blocks,
                deallocate,
                fua,
            });
        }
    }

    fn flush(&mut self, index: u32, out: &mut Vec<Action>) {
        let piece = &mut self.pieces[index as usize];
        let failed = piece.members.failed;
        if !self.layout.survives(self.lock.members().failed) {
            return self.finish(index, Err(GroupError::TooManyMembersLost), out);
        }
        self.commands[piece.command as usize].issued = true;
        piece.state = State::Writing;
        for member in (0..self.geometry.members()).map(MemberIndex) {
            if failed >> member.0 & 1 == 0 {
                piece.pending += 1;
                out.push(Action::DriveFlush {
                    io: tag(index, 0, member),
                    member,
                });
            }
        }
    }

    /// The plan of a piece's current work: the same each time until something fails.
    pub(super) fn make_plan(&self, index: u32, plan: &mut RowPlan) -> Result<(), PlanError> {
        let Piece {
            work,
            row,
            members,
            avoid,
            targets,
            ..
        } = &self.pieces[index as usize];
        let geometry = self.layout.geometry_of_row(row.row);
        let mut read = |target| plan.read(geometry, row, target, members.failed | avoid, members.parity);
        match *work {
            Work::Read => read(Target::User),
            Work::Prefetch | Work::Compare | Work::CompareThenWrite { .. } => read(Target::Scratch),
            Work::Write { source, .. } => plan.write(geometry, row, source, *members, *avoid),
            Work::Resync => plan.resync(geometry, row.row, *members, *avoid),
            Work::Rebuild { .. } => plan.rebuild(geometry, row.row, *targets, *members, *avoid),
            Work::Scrub { .. } => {
                plan.scrub(geometry, row.row, members.failed | avoid);
                Ok(())
            }
            Work::Repair {
                member,
                offset_blocks,
                blocks,
            } => {
                let target = RowIo {
                    member,
                    offset_blocks,
                    blocks,
                    area: Area::Scratch(0),
                };
                plan.repair(geometry, row.row, target, *members, *avoid)
            }
            Work::Move { phase } => {
                self.plan_move(&self.pieces[index as usize], phase, plan);
                Ok(())
            }
            Work::Destage => self.plan_destage(&self.pieces[index as usize], plan),
            Work::ZeroRow { .. } | Work::Flush | Work::FlushDrives | Work::Drain { .. } => {
                unreachable!("these have nothing to plan")
            }
        }
    }

    /// Why a piece cannot be planned: members are lost, or blocks of members that are live cannot be read.
    fn unreadable_or(&self, index: u32, error: GroupError) -> GroupError {
        let piece = &self.pieces[index as usize];
        let lost = self.lock.members().failed | (piece.avoid & !piece.media);
        if piece.media & !lost != 0 && self.layout.survives(lost) {
            GroupError::Unreadable
        } else {
            error
        }
    }

    pub(super) fn take_scratch(&mut self, index: u32, blocks: u32, turn: bool) -> bool {
        let piece = &mut self.pieces[index as usize];
        assert!(piece.scratch.is_none(), "a piece that begins holds no scratch");
        if blocks == 0 {
            return true;
        }
        if turn {
            piece.scratch = self.scratch.alloc(blocks << self.geometry.block().shift());
        }
        piece.scratch.is_some()
    }

    pub(super) fn drop_scratch(&mut self, index: u32) {
        if let Some(span) = self.pieces[index as usize].scratch.take() {
            self.give_scratch_back(span);
        }
    }

    fn issue_reads(&mut self, index: u32, reads: &[RowIo], out: &mut Vec<Action>) {
        let piece = &mut self.pieces[index as usize];
        self.commands[piece.command as usize].issued = true;
        piece.state = State::Reading;
        piece.pending = u32::try_from(reads.len()).expect("at most a few hundred");
        let piece = &self.pieces[index as usize];
        let mut runs = [0; MEMBERS_MAX];
        for read in reads {
            let (_, lba) = self.source_of(piece, read);
            out.push(Action::DriveRead {
                io: next_tag(index, read.member, &mut runs),
                member: read.member,
                lba,
                blocks: read.blocks,
                into: place(piece, self.geometry.block().shift(), read.area),
            });
        }
    }

    /// Has steps of a piece computed.
    pub(super) fn compute(&self, index: u32, steps: &[Step], out: &mut Vec<Action>) {
        let piece = &self.pieces[index as usize];
        push_steps(piece, self.geometry.block().shift(), steps, out);
    }

    pub(super) fn issue_writes(&mut self, index: u32, writes: &[RowIo], fua: bool, out: &mut Vec<Action>) {
        if writes.is_empty() {
            return self.finish(index, Ok(()), out);
        }
        let piece = &mut self.pieces[index as usize];
        self.commands[piece.command as usize].issued = true;
        piece.state = State::Writing;
        piece.pending = u32::try_from(writes.len()).expect("at most a few hundred");
        let piece = &self.pieces[index as usize];
        let mut runs = [0; MEMBERS_MAX];
        for write in writes {
            out.push(Action::DriveWrite {
                io: next_tag(index, write.member, &mut runs),
                member: write.member,
                lba: self.target_of(piece, write),
                blocks: write.blocks,
                from: place(piece, self.geometry.block().shift(), write.area),
                fua,
            });
        }
    }

    /// Gives everything back that a piece holds, and ends it.
    pub(super) fn finish(&mut self, index: u32, result: Result<(), GroupError>, out: &mut Vec<Action>) {
        assert!(
            self.pieces[index as usize].pending == 0,
            "no lock is released with I/O outstanding"
        );
        self.leave_mend(index);
        self.drop_scratch(index);
        if result.is_ok() && self.read_on(index) {
            return self.granted.push_back(index);
        }
        self.give_room_back(index);
        let work = self.pieces[index as usize].work;
        if work == Work::Destage {
            self.destage_ended(index, result.is_ok());
        }
        // All drives have answered: another core may use the row from here on.
        self.unlock(index, out);
        if work == Work::Destage {
            self.end_destage_piece(index, out);
        } else if work == Work::Prefetch {
            self.end_prefetch(index);
        } else {
            self.end_piece(index, result, out);
        }
    }

    fn unlock(&mut self, index: u32, out: &mut Vec<Action>) {
        let piece = &self.pieces[index as usize];
        if let Some(entry) = piece.hold {
            if piece.work.changes_held_row() {
                // The lock stays here, and with it what this core may remember of the row.
                self.lock.changed(piece.row.row);
            }
            self.leave_hold(index, entry, out);
        } else if let Some(mode) = piece.work.mode() {
            let row = piece.row.row;
            let wake = self.lock.release(row, mode);
            self.tell(wake, row, out);
        }
    }
}

/// Where an area of a piece is in the runtime's memory.
pub(super) fn place(piece: &Piece, block_shift: u32, area: Area) -> Place {
    match area {
        Area::User(blocks) => {
            let skipped = u32::try_from(piece.row.skipped_blocks).expect("a buffer has at most 2^16 blocks");
            Place::Command {
                command: piece.buffer,
                offset_bytes: (skipped + blocks) << block_shift,
            }
        }
        Area::Scratch(blocks) => {
            let span = piece.scratch.expect("a plan with scratch has been given some");
            let offset = blocks << block_shift;
            assert!(
                offset < span.bytes,
                "a plan stays inside the scratch that it asked for"
            );
            Place::Scratch {
                offset_bytes: span.offset_bytes + offset,
            }
        }
        Area::Zeroes => Place::Zeroes,
    }
}

/// Has the computations of a plan made.
pub(super) fn push_steps(piece: &Piece, shift: u32, steps: &[Step], out: &mut Vec<Action>) {
    for step in steps {
        out.push(match *step {
            Step::Copy { into, from, blocks } => Action::Copy {
                into: place(piece, shift, into),
                from: place(piece, shift, from),
                bytes: blocks << shift,
            },
            Step::Xor { into, from, blocks } => Action::Xor {
                into: place(piece, shift, into),
                from: place(piece, shift, from),
                bytes: blocks << shift,
            },
            Step::MulAdd {
                into,
                from,
                factor,
                blocks,
            } => Action::MulAdd {
                into: place(piece, shift, into),
                from: place(piece, shift, from),
                factor,
                bytes: blocks << shift,
            },
        });
    }
}
