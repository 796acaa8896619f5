//! Mending rows: an operation that needs more of a row than single unreadable blocks leave makes the row whole first.
//!
//! Members are gone round as wholes, which is quick and nearly always enough. When it is not, the row is looked at block by block:
//! whatever any combination of strips gives back is written anew, and what nothing gives back is *lost*. Lost blocks are put on the
//! list of [`lost`](crate::amf::lost), durably, and only then are check data that knows them as zeroes and the zeroes themselves
//! written, in this order. So the row has its redundancy again, and reads of lost blocks are refused until hosts write them.
//!
//! The operation keeps its lock all the time. One row is mended at a time on each core: it is rare, and takes scratch for a whole row.

use std::collections::{BTreeSet, VecDeque};

use super::machine::Engine;
use super::piece::{Piece, State, Work, place};
use super::tag::{member_of, tag};
use super::{Action, GroupError, IoTag};
use crate::amf::list::List;
use crate::amf::row::{Area, MemberBlock, MendPlan, RowIo};
use crate::amf::{MEMBERS_MAX, MemberIndex, RowIndex};
use crate::drive::DriveError;
use crate::drive::block::GroupLba;

/// How often one operation has its row mended: blocks that cannot be read right after they were written are a matter of the member.
const MENDS_MAX: u8 = 8;

/// What a member is being asked while the row is looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Probe {
    /// Where it goes on, from the start of what the member gives to the row.
    next: u32,
    /// What was asked for last.
    blocks: u32,
}

/// The row that is being mended.
#[derive(Debug)]
struct Mend {
    index: u32,
    probes: [Probe; MEMBERS_MAX],
    bad: BTreeSet<MemberBlock>,
    /// What is still to be written in this phase, and what in the next.
    writes: VecDeque<RowIo>,
    last: VecDeque<RowIo>,
}

/// What a core has to do with lost blocks, beside the list that all share.
#[derive(Debug)]
pub(super) struct Mends {
    current: Option<Mend>,
    /// Pieces that wait for their turn.
    waiters: List,
    /// The list was asked to be made durable, and whether it has changed since.
    asked: bool,
    again: bool,
    /// A flush that retires rows waits for it.
    retiring: bool,
    /// Blocks were taken off the list, and rows of theirs must not be retired before that is durable.
    healed: bool,
}

impl Mends {
    pub(super) const NONE: Self = Self {
        current: None,
        waiters: List::EMPTY,
        asked: false,
        again: false,
        retiring: false,
        healed: false,
    };
}

impl Engine {
    fn has_list(&self) -> bool {
        self.write_back
            .as_ref()
            .is_some_and(|write_back| write_back.lost.is_some())
    }

    /// The first block of a row in the group.
    fn first_block(&self, row: RowIndex) -> u64 {
        row.0 * u64::from(self.layout.geometry_of_row(row).row_blocks())
    }

    /// Whether a piece would read a lost block that is not dirty here.
    pub(super) fn reads_lost(&self, index: u32) -> bool {
        let write_back = self.write_back.as_ref();
        let Some(lost) = write_back.and_then(|write_back| write_back.lost.as_ref()) else {
            return false;
        };
        if lost.is_empty() {
            return false;
        }
        let Piece { row, hold, .. } = &self.pieces[index as usize];
        let first = self.first_block(row.row);
        let mut any = false;
        let start = GroupLba(first + u64::from(row.start_blocks));
        lost.for_each_in(start, row.blocks, |lba| {
            let at = u32::try_from(lba.0 - first).expect("it lies in the row");
            let is_dirty = hold.is_some_and(|entry| {
                write_back.is_some_and(|write_back| write_back.dirty.covers(entry, at, 1))
            });
            any |= !is_dirty;
        });
        any
    }

    /// A read goes round members as wholes, and that leaves too little: from its first block on it goes on block by block, because
    /// members that cannot read different blocks have lost nothing. False if that would not help.
    pub(super) fn split_read(&mut self, index: u32) -> bool {
        let redundant = self.geometry.level().is_redundant();
        let piece = &mut self.pieces[index as usize];
        let is_long = piece.whole.is_none() && piece.row.blocks > 1;
        if piece.work != Work::Read || piece.media == 0 || !is_long || !redundant {
            return false;
        }
        piece.whole = Some(piece.row);
        piece.row.blocks = 1;
        (piece.avoid, piece.media) = (0, 0);
        true
    }

    /// A block of such a read is there. False if it was the last.
    pub(super) fn read_on(&mut self, index: u32) -> bool {
        let piece = &mut self.pieces[index as usize];
        let Some(whole) = piece.whole else { return false };
        piece.row.start_blocks += 1;
        piece.row.skipped_blocks += 1;
        (piece.avoid, piece.media, piece.direct) = (0, 0, false);
        let more = piece.row.start_blocks < whole.start_blocks + whole.blocks;
        if !more {
            piece.row = whole;
        }
        more
    }

    /// A row was destaged: what was lost of it and is written now is lost no more.
    pub(super) fn heal_destaged(&mut self, index: u32) {
        let Piece { row, hold, .. } = self.pieces[index as usize];
        let first = self.first_block(row.row);
        let write_back = self.write_back.as_ref().expect("a destage has a journal");
        let (Some(lost), Some(entry)) = (write_back.lost.as_ref(), hold) else {
            return;
        };
        let mut healed = false;
        lost.for_each_in(GroupLba(first), row.blocks, |lba| {
            let at = u32::try_from(lba.0 - first).expect("it lies in the row");
            if write_back.dirty.covers(entry, at, 1) {
                healed |= lost.remove(lba, 1);
            }
        });
        self.mends.healed |= healed;
    }

    /// Whether the piece can have its row mended instead of ending with what its plan says.
    pub(super) fn may_mend(&self, index: u32) -> bool {
        let piece = &self.pieces[index as usize];
        let mends = match piece.work {
            Work::Destage | Work::Resync | Work::Rebuild { .. } | Work::Repair { .. } => true,
            Work::Read
            | Work::Prefetch
            | Work::Compare
            | Work::CompareThenWrite { .. }
            | Work::Write { .. }
            | Work::ZeroRow { .. }
            | Work::Scrub { .. }
            | Work::Move { .. }
            | Work::Flush
            | Work::FlushDrives
            | Work::Drain { .. } => false,
        };
        let decides = piece.members.parity.regenerates() || piece.members.failed == 0;
        let survives = self.layout.survives(self.lock.members().failed);
        // A repair goes round its own blocks without having met them.
        let meets = piece.avoid != 0 || matches!(piece.work, Work::Repair { .. });
        mends && decides && meets && survives && self.has_list()
    }

    /// Begins to mend the piece's row, or lets it wait for its turn. False if it has to wait for scratch.
    pub(super) fn begin_mend(&mut self, index: u32, scratch_turn: bool, out: &mut Vec<Action>) -> bool {
        let piece = &mut self.pieces[index as usize];
        if piece.mends == MENDS_MAX {
            self.end_unmended(index, out);
            return true;
        }
        match &self.mends.current {
            Some(mend) if mend.index != index => {
                piece.state = State::AwaitingMend;
                self.piece_links.push_back(&mut self.mends.waiters, index);
                return true;
            }
            Some(_) => {}
            None => {
                piece.mending = true;
                self.mends.current = Some(Mend {
                    index,
                    probes: [Probe::default(); MEMBERS_MAX],
                    bad: BTreeSet::new(),
                    writes: VecDeque::new(),
                    last: VecDeque::new(),
                });
            }
        }
        let geometry = self.row_geometry(index);
        let blocks = u32::from(geometry.members()) * geometry.member_row_blocks();
        if !self.take_scratch(index, blocks, scratch_turn) {
            return false;
        }
        self.pieces[index as usize].state = State::Reading;
        let failed = self.pieces[index as usize].members.failed;
        for member in (0..geometry.members()).map(MemberIndex) {
            if failed >> member.0 & 1 == 0 {
                self.probe(index, member, geometry.member_row_blocks(), out);
            }
        }
        true
    }

    fn mend(&mut self) -> &mut Mend {
        self.mends.current.as_mut().expect("a row is being mended")
    }

    /// Asks a member for the next blocks of the row.
    fn probe(&mut self, index: u32, member: MemberIndex, blocks: u32, out: &mut Vec<Action>) {
        let geometry = self.row_geometry(index);
        let probe = &mut self.mend().probes[usize::from(member.0)];
        probe.blocks = blocks;
        let offset = probe.next;
        let piece = &mut self.pieces[index as usize];
        piece.pending += 1;
        let area = Area::Scratch(u32::from(member.0) * geometry.member_row_blocks() + offset);
        out.push(Action::DriveRead {
            io: tag(index, 0, member),
            member,
            lba: geometry.member_lba(piece.row.row, offset),
            blocks,
            into: place(piece, geometry.block().shift(), area),
        });
    }

    /// A drive has answered a piece that mends its row.
    pub(super) fn mend_io_done(
        &mut self,
        index: u32,
        io: IoTag,
        result: Result<(), DriveError>,
        out: &mut Vec<Action>,
    ) {
        let member = member_of(io);
        let piece = &mut self.pieces[index as usize];
        assert!(piece.pending > 0, "a drive answers what it was asked, once");
        piece.pending -= 1;
        let reading = piece.state == State::Reading;
        match result {
            Ok(()) if reading => self.probed(index, member, true, out),
            Err(DriveError::Media) if reading => self.probed(index, member, false, out),
            Ok(()) => self.write_mended(index, Some(member), out),
            Err(error) => {
                piece.errors |= 1 << member.0;
                if self.lock.lost() >> member.0 & 1 == 0 {
                    out.push(Action::ReportFault { member, error });
                }
            }
        }
        let piece = &self.pieces[index as usize];
        if piece.pending > 0 {
            return;
        }
        if piece.errors != 0 {
            // The row fits as far as it is written, or is mended once more, without those that failed.
            self.leave_mend(index);
            self.drop_scratch(index);
            return self.plan_without_failed(index, out);
        }
        if !reading {
            return self.mended_phase(index, out);
        }
        if self.commands[piece.command as usize].given_up {
            return self.finish(index, Err(GroupError::Aborted), out);
        }
        self.solve(index, out);
    }

    /// A member has given back what it was asked for, or could not. A part that it cannot give back as a whole is asked for block by
    /// block.
    fn probed(&mut self, index: u32, member: MemberIndex, ok: bool, out: &mut Vec<Action>) {
        let whole = self.row_geometry(index).member_row_blocks();
        let mend = self.mend();
        let probe = &mut mend.probes[usize::from(member.0)];
        if ok {
            probe.next += probe.blocks;
        } else if probe.blocks == 1 {
            mend.bad.insert((member, probe.next));
            probe.next += 1;
        }
        if probe.next < whole {
            self.probe(index, member, 1, out);
        }
    }

    /// All of the row was looked at: decides what is lost, and makes that durable.
    fn solve(&mut self, index: u32, out: &mut Vec<Action>) {
        let geometry = self.row_geometry(index);
        let Piece { row, members, .. } = self.pieces[index as usize];
        let plan = MendPlan::new(&geometry, row.row, members, &self.mend().bad);
        self.compute(index, &plan.steps, out);
        let mend = self.mend();
        mend.writes = plan.first.into();
        mend.last = plan.last.into();
        if plan.lost.is_empty() {
            return self.write_all_mended(index, out);
        }
        // What a committed write replaces is not lost: the journal has it until it is in its place.
        let lost: Vec<u32> = plan
            .lost
            .into_iter()
            .filter(|at| !self.is_committed_dirty(index, *at))
            .collect();
        let first = self.first_block(row.row);
        let list = self
            .write_back
            .as_ref()
            .and_then(|write_back| write_back.lost.clone());
        let list = list.expect("only then rows are mended");
        let fits = lost
            .iter()
            .all(|at| list.add(GroupLba(first + u64::from(*at)), 1));
        if !fits {
            // A group whose drives lose so much cannot promise anything any more.
            return self.end_unmended(index, out);
        }
        // A member that is away misses the zeroes.
        self.mark_row(row.row);
        self.pieces[index as usize].state = State::AwaitingLost;
        self.persist_lost(out);
    }

    /// Whether the block is dirty here, by a write that is committed.
    fn is_committed_dirty(&self, index: u32, at: u32) -> bool {
        let Some(entry) = self.pieces[index as usize].hold else {
            return false;
        };
        let write_back = self.write_back.as_ref().expect("a hold belongs to it");
        write_back.dirty.covers(entry, at, 1) && write_back.is_hold_committed(entry)
    }

    /// Has the list made durable as it is now; [`Engine::lost_durable`] answers.
    fn persist_lost(&mut self, out: &mut Vec<Action>) {
        if std::mem::replace(&mut self.mends.asked, true) {
            self.mends.again = true;
        } else {
            out.push(Action::PersistLost);
        }
    }

    /// The list of lost blocks is durable as it was when [`Action::PersistLost`] asked for it.
    ///
    /// Panics if that was not asked for.
    pub fn lost_durable(&mut self, out: &mut Vec<Action>) {
        assert!(
            std::mem::replace(&mut self.mends.asked, false),
            "what was asked for is answered once"
        );
        if std::mem::replace(&mut self.mends.again, false) {
            self.persist_lost(out);
            return self.settle(out);
        }
        let mending = self.mends.current.as_ref().map(|mend| mend.index);
        if let Some(index) = mending.filter(|index| self.pieces[*index as usize].state == State::AwaitingLost)
        {
            self.write_all_mended(index, out);
        }
        if std::mem::replace(&mut self.mends.retiring, false) {
            self.retire_marked(out);
        }
        self.settle(out);
    }

    /// Before a flush retires rows: true if it has to wait until it is durable which blocks of theirs are lost no more.
    pub(super) fn persist_healed(&mut self, out: &mut Vec<Action>) -> bool {
        if !std::mem::replace(&mut self.mends.healed, false) {
            return false;
        }
        self.mends.retiring = true;
        self.persist_lost(out);
        true
    }

    /// Begins to write the first phase.
    fn write_all_mended(&mut self, index: u32, out: &mut Vec<Action>) {
        self.pieces[index as usize].state = State::Writing;
        self.write_mended(index, None, out);
        if self.pieces[index as usize].pending == 0 {
            self.mended_phase(index, out);
        }
    }

    /// Sends a member its next write, or every member its first.
    fn write_mended(&mut self, index: u32, member: Option<MemberIndex>, out: &mut Vec<Action>) {
        let geometry = self.row_geometry(index);
        let mut asked = 0_u32;
        let mut at = 0;
        while let Some(io) = self.mend().writes.get(at).copied() {
            if asked >> io.member.0 & 1 == 1 || member.is_some_and(|member| member != io.member) {
                at += 1;
                continue;
            }
            self.mend().writes.remove(at);
            asked |= 1 << io.member.0;
            let piece = &mut self.pieces[index as usize];
            piece.pending += 1;
            out.push(Action::DriveWrite {
                io: tag(index, 0, io.member),
                member: io.member,
                lba: geometry.member_lba(piece.row.row, io.offset_blocks),
                blocks: io.blocks,
                from: place(piece, geometry.block().shift(), io.area),
                fua: true,
            });
        }
    }

    /// A phase of writes is over: the zeroes come next, and then the piece begins anew.
    fn mended_phase(&mut self, index: u32, out: &mut Vec<Action>) {
        let mend = self.mend();
        assert!(mend.writes.is_empty(), "each write was asked for");
        mend.writes = std::mem::take(&mut mend.last);
        if !mend.writes.is_empty() {
            return self.write_all_mended(index, out);
        }
        self.leave_mend(index);
        self.drop_scratch(index);
        let piece = &mut self.pieces[index as usize];
        piece.avoid = 0;
        piece.mends += 1;
        let work = piece.work;
        self.lock.changed(piece.row.row);
        match work {
            // What it was to write anew is whole, or lost.
            Work::Repair { .. } => self.finish(index, Ok(()), out),
            Work::Read
            | Work::Prefetch
            | Work::Compare
            | Work::CompareThenWrite { .. }
            | Work::Write { .. }
            | Work::ZeroRow { .. }
            | Work::Resync
            | Work::Rebuild { .. }
            | Work::Scrub { .. }
            | Work::Move { .. }
            | Work::Flush
            | Work::FlushDrives
            | Work::Destage
            | Work::Drain { .. } => self.begin(index, out),
        }
    }

    /// The row cannot be mended: the members that make it so have failed.
    fn end_unmended(&mut self, index: u32, out: &mut Vec<Action>) {
        let Piece { avoid, work, .. } = self.pieces[index as usize];
        let own = if let Work::Repair { member, .. } = work {
            1 << member.0
        } else {
            0
        };
        let avoid = (avoid | own) & !self.lock.lost();
        let members = (0..self.geometry.members()).map(MemberIndex);
        for member in members.filter(|member| avoid >> member.0 & 1 == 1) {
            out.push(Action::ReportFault {
                member,
                error: DriveError::Media,
            });
        }
        self.finish(index, Err(GroupError::Unreadable), out);
    }

    /// The piece does not mend any more: the next one may.
    pub(super) fn leave_mend(&mut self, index: u32) {
        if !std::mem::replace(&mut self.pieces[index as usize].mending, false) {
            return;
        }
        let mend = self.mends.current.take();
        assert_eq!(
            mend.map(|mend| mend.index),
            Some(index),
            "only one piece mends its row"
        );
        if let Some(next) = self.mends.waiters.first() {
            self.piece_links.remove(&mut self.mends.waiters, next);
            self.granted.push_back(next);
        }
    }

    /// A piece gives up its place in the queue of those whose rows are to be mended.
    pub(super) fn leave_mend_queue(&mut self, index: u32) {
        self.piece_links.remove(&mut self.mends.waiters, index);
    }

    /// The group is lost: nothing will be durable any more.
    pub(super) fn fail_mends(&mut self, out: &mut Vec<Action>) {
        let lost = Err(GroupError::TooManyMembersLost);
        while let Some(index) = self.mends.waiters.first() {
            self.leave_mend_queue(index);
            self.finish(index, lost, out);
        }
        let mending = self.mends.current.as_ref().map(|mend| mend.index);
        if let Some(index) = mending.filter(|index| self.pieces[*index as usize].state == State::AwaitingLost)
        {
            self.finish(index, lost, out);
        }
    }
}
