//! Answers of drives and comparisons: the last one of a phase leads a piece to its next, or to its end.

use super::machine::{Engine, PIECES_MAX};
use super::piece::{State, Work, place, push_steps};
use super::relayout::MovePhase;
use super::tag::{IO_TAG_SHIFT, member_of, run_of, tag};
use super::{Action, GroupError, IoTag};
use crate::amf::row::{Area, RowIo, RowPlan, Source, Target};
use crate::amf::{MemberIndex, ParityTrust};
use crate::drive::DriveError;

impl Engine {
    /// A drive's answer: the last one of a phase leads to the next.
    #[inline]
    pub(super) fn member_done(&mut self, io: IoTag, result: Result<(), DriveError>, out: &mut Vec<Action>) {
        let index = io.0 >> IO_TAG_SHIFT;
        if index > PIECES_MAX {
            return self.write_back_io_done(io, result, out);
        }
        let piece = &mut self.pieces[index as usize];
        if piece.mending {
            return self.mend_io_done(index, io, result, out);
        }
        assert!(piece.pending > 0, "a drive answers what it was asked, once");
        piece.pending -= 1;
        if let Err(error) = result {
            self.note_error(io, error, out);
        }
        let piece = &self.pieces[index as usize];
        if piece.pending > 0 {
            return;
        }
        match (piece.state, piece.errors | piece.unreadable == 0) {
            // Nothing of it is written, so nothing has to be: its host may write there another way.
            (State::Reading, _) if self.commands[piece.command as usize].given_up => {
                self.finish(index, Err(GroupError::Aborted), out);
            }
            (State::Reading, true) if piece.direct => {
                self.remember_read(index, out);
                self.overlay(index, Target::User, out);
                self.finish(index, Ok(()), out);
            }
            (State::Reading, true) => {
                let mut plan = std::mem::take(&mut self.plan);
                self.make_plan(index, &mut plan)
                    .expect("the plan that was made once can be made again");
                self.reads_done(index, &plan, out);
                self.plan = plan;
            }
            (State::Reading, false) => self.reads_failed(index, out),
            (State::Writing, true) => self.writes_done(index, out),
            (State::Writing, false) => self.writes_failed(index, out),
            (State::Verifying, read) => self.read_back(index, read, out),
            (
                State::Free
                | State::AwaitingRoom
                | State::AwaitingLock
                | State::AwaitingHold
                | State::AwaitingPrefetch
                | State::AwaitingScratch
                | State::Comparing
                | State::AwaitingCommit
                | State::AwaitingCommits
                | State::AwaitingDrain
                | State::AwaitingMembersToPlan
                | State::AwaitingMembersToEnd
                | State::AwaitingMend
                | State::AwaitingLost
                | State::AwaitingTurn,
                _,
            ) => unreachable!("a piece with a drive's answer to come reads or writes"),
        }
    }

    fn writes_done(&mut self, index: u32, out: &mut Vec<Action>) {
        match self.pieces[index as usize].work {
            Work::Rebuild { .. } => self.await_turn(index),
            Work::Repair { .. } => self.issue_read_back(index, out),
            Work::Scrub { .. } => self.scrub_repaired(index, out),
            Work::Flush | Work::FlushDrives => {
                let lives = self.layout.survives(self.missed_by_flush(index));
                let result = lives.then_some(()).ok_or(GroupError::TooManyMembersLost);
                self.finish(index, result, out);
            }
            Work::Write { .. } | Work::ZeroRow { .. } | Work::Resync | Work::Move { .. } | Work::Destage => {
                self.finish(index, Ok(()), out);
            }
            Work::Read
            | Work::Prefetch
            | Work::Compare
            | Work::CompareThenWrite { .. }
            | Work::Drain { .. } => {
                unreachable!("these do not write")
            }
        }
    }

    /// Blocks that a member cannot give back are no failure of the member: others have them too.
    fn note_error(&mut self, io: IoTag, error: DriveError, out: &mut Vec<Action>) {
        let index = io.0 >> IO_TAG_SHIFT;
        let member = member_of(io);
        let piece = &mut self.pieces[index as usize];
        let phase = match piece.work {
            Work::Move { phase } => Some(phase),
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
            | Work::Drain { .. } => None,
        };
        // In the scratch area each member has what nobody else has: one that cannot give it back has failed.
        let is_kept_elsewhere = phase.is_none_or(MovePhase::is_revocable);
        let is_read = matches!(piece.state, State::Reading | State::Verifying);
        if error == DriveError::Media && is_read && is_kept_elsewhere {
            piece.unreadable |= 1 << member.0;
            // A repair has its result. If it reported what it meets, repairs of two blocks that need each other
            // would call each other for ever.
            if matches!(piece.work, Work::Repair { .. }) {
                return;
            }
            let read = self.read_of(io);
            let (row, _) = self.source_of(&self.pieces[index as usize], &read);
            out.push(Action::ReportMedia {
                member,
                row,
                offset_blocks: read.offset_blocks,
                blocks: read.blocks,
            });
            return;
        }
        let is_lost = self.lock.lost() >> member.0 & 1 == 1;
        if is_lost && matches!(piece.work, Work::Flush | Work::FlushDrives) {
            // Without a row, and so without a lock that keeps a rebuild from being over before the flush is: see `excuse`.
            piece.members.failed |= 1 << member.0;
            return;
        }
        piece.errors |= 1 << member.0;
        if !is_lost {
            out.push(Action::ReportFault { member, error });
        }
    }

    /// The members that a flush which has all its answers did not make durable.
    ///
    /// A member that was lost when it began, and is none of the failed ones any more, has been rebuilt meanwhile: what was written before the
    /// flush is on its new drive, and that was flushed before it counted.
    fn missed_by_flush(&self, index: u32) -> u32 {
        let piece = &self.pieces[index as usize];
        piece.errors | self.lock.lost() | piece.members.failed & self.lock.members().failed
    }

    /// A flush need not reach a member that was durably lost after the flush had begun, and goes on needing that no more when another
    /// drive has the member's place: what was written before is rebuilt there from the others.
    fn excuse(&mut self, lost: u32) {
        for piece in &mut self.pieces {
            if matches!(piece.work, Work::Flush | Work::FlushDrives) && piece.errors & lost != 0 {
                piece.members.failed |= piece.errors & lost;
                piece.errors &= !lost;
            }
        }
    }

    /// The read that has this tag: the plan is made again to see which it was.
    fn read_of(&mut self, io: IoTag) -> RowIo {
        let index = io.0 >> IO_TAG_SHIFT;
        let piece = &self.pieces[index as usize];
        if piece.direct {
            return self.direct_read(piece).expect("it was found once");
        }
        let mut plan = std::mem::take(&mut self.plan);
        self.make_plan(index, &mut plan)
            .expect("the plan that was made once can be made again");
        let run = run_of(io);
        let mut reads = plan.reads.iter().filter(|read| read.member == member_of(io));
        let read = *reads.nth(run as usize).expect("it was asked for");
        self.plan = plan;
        read
    }

    /// All that the plan wanted to read is there.
    pub(super) fn reads_done(&mut self, index: u32, plan: &RowPlan, out: &mut Vec<Action>) {
        let shift = self.geometry.block().shift();
        let piece = &self.pieces[index as usize];
        if piece.work == Work::Destage {
            return self.destage_read(index, plan, out);
        }
        push_steps(piece, shift, &plan.steps, out);
        let piece = *piece;
        match piece.work {
            Work::Read => {
                self.remember_read(index, out);
                self.overlay(index, Target::User, out);
                self.finish(index, Ok(()), out);
            }
            Work::Prefetch => {
                self.prefetched(index, out);
                self.finish(index, Ok(()), out);
            }
            Work::Compare | Work::CompareThenWrite { .. } => {
                self.overlay(index, Target::Scratch, out);
                self.pieces[index as usize].state = State::Comparing;
                self.pieces[index as usize].pending = 1;
                out.push(Action::Compare {
                    io: tag(index, 0, MemberIndex(0)),
                    a: place(&piece, shift, Area::Scratch(0)),
                    b: place(&piece, shift, Area::User(0)),
                    bytes: piece.row.blocks << shift,
                });
            }
            Work::Write { fua, .. } => self.issue_writes(index, &plan.writes, fua, out),
            Work::Resync | Work::Rebuild { .. } | Work::Repair { .. } => {
                self.issue_writes(index, &plan.writes, false, out);
            }
            Work::Move { .. } => self.write_moved(index, plan, out),
            Work::Scrub { .. } => self.begin_scan(index, out),
            Work::ZeroRow { .. } | Work::Flush | Work::FlushDrives | Work::Destage | Work::Drain { .. } => {
                unreachable!("these do not read, or were sent on")
            }
        }
    }

    pub(super) fn comparison_done(&mut self, io: IoTag, equal: bool, out: &mut Vec<Action>) {
        let index = io.0 >> IO_TAG_SHIFT;
        let piece = &mut self.pieces[index as usize];
        assert!(
            piece.state == State::Comparing && piece.pending == 1,
            "a comparison is answered once"
        );
        piece.pending = 0;
        if self.commands[piece.command as usize].given_up {
            return self.finish(index, Err(GroupError::Aborted), out);
        }
        match piece.work {
            Work::Scrub { .. } => return self.scan_on(index, equal, out),
            Work::Repair { .. } => return self.verified(index, equal, out),
            Work::Compare
            | Work::CompareThenWrite { .. }
            | Work::Read
            | Work::Prefetch
            | Work::Write { .. }
            | Work::ZeroRow { .. }
            | Work::Resync
            | Work::Rebuild { .. }
            | Work::Move { .. }
            | Work::Destage
            | Work::Drain { .. }
            | Work::Flush
            | Work::FlushDrives => {}
        }
        if !equal {
            return self.finish(index, Err(GroupError::CompareFailed), out);
        }
        let Work::CompareThenWrite { write, fua } = piece.work else {
            return self.finish(index, Ok(()), out);
        };
        // The lock stays: nothing may come in between.
        piece.work = Work::Write {
            source: Source::User,
            fua,
        };
        piece.buffer = write;
        piece.avoid = 0;
        self.commands[piece.command as usize].compared = true;
        self.drop_scratch(index);
        self.begin(index, out);
    }

    /// Nothing has been written, so the piece can start over without the members that failed it.
    fn reads_failed(&mut self, index: u32, out: &mut Vec<Action>) {
        self.drop_scratch(index);
        let piece = &mut self.pieces[index as usize];
        piece.direct = false;
        piece.media |= piece.unreadable;
        piece.avoid |= std::mem::take(&mut piece.unreadable);
        if piece.work == Work::Resync && self.awaits_repair(index) {
            return self.finish(index, Err(GroupError::Unreadable), out);
        }
        let piece = &mut self.pieces[index as usize];
        match piece.work {
            // Nobody needs it.
            Work::Prefetch => {
                piece.errors = 0;
                self.finish(index, Err(GroupError::Aborted), out);
            }
            Work::Read | Work::Compare | Work::CompareThenWrite { .. } => {
                // Reading around a member promises nothing about it, so this need not wait.
                piece.avoid |= std::mem::take(&mut piece.errors);
                self.begin(index, out);
            }
            Work::Write { .. }
            | Work::Resync
            | Work::Rebuild { .. }
            | Work::Scrub { .. }
            | Work::Repair { .. }
            | Work::Destage => self.plan_without_failed(index, out),
            Work::Move { phase } => self.move_reads_failed(index, phase, out),
            Work::ZeroRow { .. } | Work::Flush | Work::FlushDrives | Work::Drain { .. } => {
                unreachable!("these do not read")
            }
        }
    }

    /// Whether a row that is made to fit for the first time has to be done again when blocks of it are repaired that could not be read.
    ///
    /// Going round them defines what they hold, by check strips that never fitted, while the drive may give back what they held
    /// before, as long as the repair is not durable. A repair that has been written before the row is read is covered by the flush that
    /// makes the row count as done.
    fn awaits_repair(&mut self, index: u32) -> bool {
        let piece = &self.pieces[index as usize];
        if piece.media == 0 || self.members_of(index).parity != ParityTrust::WhereWritten {
            return false;
        }
        let mut plan = std::mem::take(&mut self.plan);
        let can_be_repaired = self.make_plan(index, &mut plan).is_ok();
        self.plan = plan;
        can_be_repaired
    }

    /// Plans a piece anew that has written nothing, once it is durable that the members which failed it have failed.
    pub(super) fn plan_without_failed(&mut self, index: u32, out: &mut Vec<Action>) {
        let durable = self.members_of(index).failed;
        let piece = &mut self.pieces[index as usize];
        if !self.layout.survives(durable | piece.errors) {
            self.finish(index, Err(GroupError::TooManyMembersLost), out);
        } else if piece.errors & !durable == 0 {
            piece.errors = 0;
            self.begin(index, out);
        } else {
            piece.state = State::AwaitingMembersToPlan;
            self.piece_links.push_back(&mut self.members_waiters, index);
        }
    }

    /// What could be written is written. Success may be told only once it is durable that the strips
    /// which could not be written will not be believed (PROTOCOL H29, H33).
    pub(super) fn writes_failed(&mut self, index: u32, out: &mut Vec<Action>) {
        self.drop_scratch(index);
        let durable = self.members_of(index).failed;
        let piece = &mut self.pieces[index as usize];
        let revocable = matches!(piece.work, Work::Move { phase } if phase.is_revocable());
        if revocable || matches!(piece.work, Work::Rebuild { .. }) {
            // Nobody believes what these write before they say that they are done.
            return self.finish(index, Err(GroupError::MemberFailed), out);
        }
        if piece.errors & !durable != 0 {
            piece.state = State::AwaitingMembersToEnd;
            self.piece_links.push_back(&mut self.members_waiters, index);
            return;
        }
        let lost = match piece.work {
            Work::Flush | Work::FlushDrives => self.missed_by_flush(index),
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
            | Work::Move { .. }
            | Work::Destage
            | Work::Drain { .. } => piece.members.failed | piece.errors | durable,
        };
        if !self.layout.survives(lost) {
            return self.finish(index, Err(GroupError::TooManyMembersLost), out);
        }
        match self.pieces[index as usize].work {
            Work::Repair { .. } => self.finish(index, Err(GroupError::MemberFailed), out),
            Work::Scrub { .. } => self.scrub_repaired(index, out),
            Work::Read
            | Work::Prefetch
            | Work::Compare
            | Work::CompareThenWrite { .. }
            | Work::Write { .. }
            | Work::ZeroRow { .. }
            | Work::Resync
            | Work::Rebuild { .. }
            | Work::Move { .. }
            | Work::Destage
            | Work::Drain { .. }
            | Work::Flush
            | Work::FlushDrives => self.finish(index, Ok(()), out),
        }
    }

    /// Lets those go on whose failed members are now durably failed; `lost` have been, and may have another drive already.
    pub(super) fn members_changed(&mut self, lost: u32, out: &mut Vec<Action>) {
        self.excuse(lost | self.lock.lost());
        let mut next = self.members_waiters.first();
        while let Some(index) = next {
            next = self.piece_links.next(index);
            let durable = self.members_of(index).failed;
            let piece = &mut self.pieces[index as usize];
            if piece.errors & !durable != 0 {
                continue;
            }
            self.piece_links.remove(&mut self.members_waiters, index);
            if piece.state == State::AwaitingMembersToPlan {
                piece.errors = 0;
                self.granted.push_back(index);
            } else {
                assert!(
                    piece.state == State::AwaitingMembersToEnd,
                    "only these wait for members"
                );
                self.writes_failed(index, out);
            }
        }
    }
}
