//! The engine's commands: admission, cutting into row operations, completion, abort and giving up.

use std::collections::VecDeque;
use std::sync::Arc;

use super::clean::{PREFETCHES_MAX, ReadCache, Reading};
use super::hang::Held;
use super::mend::Mends;
use super::piece::{Piece, State, Work};
use super::rebuild::{REBUILDS_MAX, RowTurn};
use super::relayout::Kept;
use super::scratch::Scratch;
use super::tag::IO_TAG_SHIFT;
use super::write_back::{DESTAGES_MAX, WriteBack};
use super::{Action, CommandId, EngineConfig, GroupError, IoTag, Request};
use crate::amf::expansion::Layout;
use crate::amf::geometry::{Geometry, RowPiece};
use crate::amf::list::{Links, List};
use crate::amf::lock::{Acquire, CORES_MAX, LockTable, WakeMask};
use crate::amf::row::{RowPlan, Source, scratch_blocks_max};
use crate::amf::{MemberSet, RowIndex};
use crate::drive::DriveError;
use crate::drive::block::GroupLba;

/// Most row operations that one command has in flight: 8 rows of four 64 KiB data strips are 2 MiB,
/// more than any host's command, and a Zero of a whole group leaves room for others.
pub const PIECES_PER_COMMAND_MAX: u32 = 8;

/// Longest command with a buffer, in blocks: what the 16-bit NLB field of a host's command can say.
pub const COMMAND_BLOCKS_MAX: u32 = 1 << 16;

/// Most row operations of an engine: their number has to fit an [`IoTag`] beside member and run.
pub const PIECES_MAX: u32 = 1 << (u32::BITS - IO_TAG_SHIFT - 1);

/// The state of one group on one core.
///
/// Every call takes the list to which it adds what is to be done, in order. The runtime owns buffers
/// and drives, answers every drive command exactly once, and calls [`Engine::wake`] where told to.
/// A dropped engine leaves its locks taken: drain it first.
#[derive(Debug)]
pub struct Engine {
    /// The shape of the group with all its members; what a row has of it, the layout says.
    pub(super) geometry: Geometry,
    pub(super) layout: Layout,
    /// Rows that a wave of an expansion keeps.
    pub(super) kept: Kept,
    pub(super) core: u16,
    pub(super) lock: Arc<LockTable>,
    pub(super) commands: Box<[Command]>,
    /// Links `starved` and those that wait for the end of a hold.
    pub(super) command_links: Links,
    /// Commands that may start another row operation, each once, served in turn.
    pub(super) starved: List,
    pub(super) pieces: Box<[Piece]>,
    /// Links `lock_waiters`, `scratch_waiters` and `members_waiters`: a piece awaits one thing at a time.
    pub(super) piece_links: Links,
    free_pieces: Vec<u32>,
    /// Pieces that wait for a lock, in order, by the low bits of their slot.
    pub(super) lock_waiters: Box<[List]>,
    lock_waiting: u32,
    pub(super) scratch: Scratch,
    pub(super) scratch_bytes: u32,
    /// Spans of scratch that drives have not let go although their commands were given up.
    pub(super) held: Vec<Held>,
    pub(super) scratch_waiters: List,
    /// Scratch was given back, or its queue moved on, since its first waiter last tried.
    pub(super) scratch_retry: bool,
    pub(super) members_waiters: List,
    /// Pieces that have their lock, or need to start over under it.
    pub(super) granted: VecDeque<u32>,
    /// Rows whose slot may be free for this core.
    pub(super) woken: VecDeque<RowIndex>,
    pub(super) plan: RowPlan,
    /// Commands that rebuild rows, in order of their rows.
    pub(super) rebuilds: VecDeque<RowTurn>,
    /// Members under rebuild as this engine was told last.
    pub(super) rebuilding: u32,
    /// Generation of the newest member set that this core was told.
    pub(super) heard: u64,
    pub(super) in_flight: u32,
    /// Where writes end first, if the group has a journal.
    pub(super) write_back: Option<WriteBack>,
    /// What was read, if the core keeps any of it.
    pub(super) read_cache: Option<ReadCache>,
    pub(super) mends: Mends,
}

/// A command's slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    state: CommandState,
    pub(super) request: Request,
    /// Blocks that pieces have been made for.
    started_blocks: u64,
    total_blocks: u64,
    /// Blocks of the command's buffer that hold what the host sent, from the first on.
    arrived_blocks: u64,
    pieces: u32,
    /// A drive has been asked for something.
    pub(super) issued: bool,
    /// The comparison of a fused pair succeeded.
    pub(super) compared: bool,
    /// Nothing new of it is started, and what has not begun to write does not begin.
    pub(super) given_up: bool,
    /// It waits for the end of a hold, and for nothing else.
    pub(super) kept: bool,
    /// Whether it is read through the cache.
    pub(super) reading: Reading,
    error: Option<GroupError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommandState {
    Free,
    /// The write half of a fused pair; the other half does the work.
    Fused {
        compare: CommandId,
    },
    Active,
}

impl Command {
    const FREE: Self = Self {
        state: CommandState::Free,
        request: Request::Flush,
        started_blocks: 0,
        total_blocks: 0,
        arrived_blocks: u64::MAX,
        pieces: 0,
        issued: false,
        compared: false,
        given_up: false,
        kept: false,
        reading: Reading::Past,
        error: None,
    };

    fn wants_more(&self) -> bool {
        self.error.is_none() && self.started_blocks < self.total_blocks
    }
}

impl Engine {
    /// Lays out all memory that the engine will ever use.
    ///
    /// Panics on sizes that cannot work: no room for commands or pieces, less scratch than
    /// [`Engine::scratch_bytes_min`], a core of 16 or more, failed members that the group does not have.
    pub fn new(config: EngineConfig) -> Self {
        let EngineConfig {
            layout,
            core,
            lock,
            commands_max,
            pieces_max,
            scratch_bytes,
            members,
            write_back,
        } = config;
        let geometry = *layout.widest();
        assert!(core < CORES_MAX, "the lock word has room for {CORES_MAX} cores");
        assert!(commands_max > 0, "an engine without commands does nothing");
        assert!(
            pieces_max > 0 && pieces_max <= PIECES_MAX,
            "a piece's number fits its tags"
        );
        assert!(
            scratch_bytes >= Self::scratch_bytes_min(&geometry),
            "any one row operation fits the scratch"
        );
        assert!(
            u64::from(members.failed) >> geometry.members() == 0,
            "only members fail"
        );
        lock.publish(members);
        let own_pieces = write_back.as_ref().map_or(0, |_| DESTAGES_MAX) + PREFETCHES_MAX;
        let all_pieces = pieces_max + own_pieces;
        let mut commands = vec![Command::FREE; commands_max as usize + 1];
        // The last one stands for what the engine does by itself.
        commands[commands_max as usize].state = CommandState::Active;
        Self {
            write_back: write_back.map(|config| WriteBack::new(config, &layout, core, pieces_max)),
            geometry,
            layout,
            kept: Kept::NOTHING,
            core,
            lock,
            commands: commands.into(),
            command_links: Links::new(commands_max),
            starved: List::EMPTY,
            pieces: vec![Piece::FREE; all_pieces as usize].into(),
            piece_links: Links::new(all_pieces),
            free_pieces: (0..pieces_max).rev().collect(),
            lock_waiters: vec![List::EMPTY; pieces_max.next_power_of_two() as usize].into(),
            lock_waiting: 0,
            scratch: Scratch::new(scratch_bytes, all_pieces),
            scratch_bytes,
            held: Vec::new(),
            scratch_waiters: List::EMPTY,
            scratch_retry: false,
            members_waiters: List::EMPTY,
            granted: VecDeque::with_capacity(all_pieces as usize),
            // Each piece that ends wakes one row, and one more may be told from outside.
            woken: VecDeque::with_capacity(all_pieces as usize + 1),
            plan: RowPlan::with_capacity(&geometry),
            rebuilds: VecDeque::with_capacity(REBUILDS_MAX),
            rebuilding: members.rebuilding,
            heard: members.generation,
            in_flight: 0,
            read_cache: None,
            mends: Mends::NONE,
        }
    }

    /// The scratch in bytes that the largest row operation needs: the new and the old data of a row with its check
    /// data, at most 64 MiB. Several times as much lets operations run side by side.
    pub fn scratch_bytes_min(geometry: &Geometry) -> u32 {
        (scratch_blocks_max(geometry) << geometry.block().shift()).next_multiple_of(4096)
    }

    /// Takes a command. It completes by [`Action::Complete`], perhaps at once.
    ///
    /// Panics if the id is not below `commands_max` or still in use.
    #[inline]
    pub fn submit(&mut self, command: CommandId, request: Request, out: &mut Vec<Action>) {
        self.take(command, request, u64::MAX, out);
    }

    /// Takes a write of which the first blocks are in its buffer, and the others are on their way: [`Engine::arrived`] says how far they are. Each part begins when all of it is there, and holds
    /// nothing before (patent application, Figure 12).
    pub fn submit_part(
        &mut self,
        command: CommandId,
        request: Request,
        arrived_blocks: u32,
        out: &mut Vec<Action>,
    ) {
        assert!(matches!(request, Request::Write { .. }), "only writes bring data");
        self.take(command, request, u64::from(arrived_blocks), out);
    }

    /// More of a write's data has come: so many blocks are there by now. Nothing happens if the command is over, which whoever gave it may not know yet.
    pub fn arrived(&mut self, command: CommandId, blocks: u32, out: &mut Vec<Action>) {
        let slot = &mut self.commands[command.0 as usize];
        if slot.state != CommandState::Active {
            return;
        }
        assert!(slot.arrived_blocks <= u64::from(blocks), "data comes in order");
        slot.arrived_blocks = u64::from(blocks);
        self.line_up(command.0);
        self.settle(out);
    }

    fn take(&mut self, command: CommandId, request: Request, arrived_blocks: u64, out: &mut Vec<Action>) {
        let slot = &mut self.commands[command.0 as usize];
        assert!(
            slot.state == CommandState::Free,
            "a command's id is its own until it completes"
        );
        *slot = Command {
            state: CommandState::Active,
            request,
            arrived_blocks,
            ..Command::FREE
        };
        self.in_flight += 1;
        if let Request::CompareWrite { write, .. } = request {
            let fused = &mut self.commands[write.0 as usize];
            assert!(
                fused.state == CommandState::Free,
                "a command's id is its own until it completes"
            );
            fused.state = CommandState::Fused { compare: command };
        }
        match self.admit(&request) {
            Err(error) => self.commands[command.0 as usize].error = Some(error),
            Ok(blocks) => {
                self.commands[command.0 as usize].total_blocks = blocks;
                if let Request::Rebuild { row, wave, .. } = request {
                    self.line_up_rebuild(command, row, wave);
                }
            }
        }
        if !self.commands[command.0 as usize].wants_more() {
            // Refused, or nothing to do.
            return self.complete(command.0, out);
        }
        if self.read_cache.is_some() {
            self.commands[command.0 as usize].reading = self.observe_read(&request);
        }
        if self.starved.is_empty() && !self.free_pieces.is_empty() && self.may_start(command.0) {
            self.start_piece(command.0, out);
        }
        self.line_up(command.0);
        self.settle(out);
    }

    /// A drive has answered.
    ///
    /// Panics if the drive was not asked: a late or doubled answer is a bug of the runtime.
    #[inline]
    pub fn drive_done(&mut self, io: IoTag, result: Result<(), DriveError>, out: &mut Vec<Action>) {
        self.member_done(io, result, out);
        self.settle(out);
    }

    /// A comparison has been made.
    ///
    /// Panics if it was not asked for.
    pub fn compared(&mut self, io: IoTag, equal: bool, out: &mut Vec<Action>) {
        self.comparison_done(io, equal, out);
        self.settle(out);
    }

    /// Another core's engine said [`Action::WakeCores`] with this core and row. Harmless if nobody waits.
    pub fn wake(&mut self, row: RowIndex, out: &mut Vec<Action>) {
        self.woken.push_back(row);
        self.settle(out);
    }

    /// A new member set is durable. Operations that wait for it go on; those in flight end as planned.
    ///
    /// The set takes effect for all cores of the node at once, by the lock table; still every core's
    /// engine must be told, because only then does it look after its waiting operations. Every
    /// [`Action::ReportFault`] must be followed by a set that calls the member failed, also when the
    /// group is lost with it. A member that is no longer failed may be announced to an idle group only.
    pub fn set_members(&mut self, members: MemberSet, out: &mut Vec<Action>) {
        assert!(
            u64::from(members.failed) >> self.geometry.members() == 0,
            "only members fail"
        );
        self.lock.publish(members);
        self.rebuild_changed(members);
        // By now other cores may have heard of a newer set, in which whoever is lost in this one has a drive again.
        let lost = members.failed & !members.rebuilding;
        self.members_changed(lost, out);
        if self.write_back.is_some() {
            self.members_changed_for_write_back(lost, out);
        }
        if self.is_lost() {
            self.end_waits_for_hold();
        }
        self.settle(out);
    }

    /// Aborts a command if nothing of it has touched a drive: it then completes with
    /// [`GroupError::Aborted`], a fused pair as a whole. False if it goes on or is not there.
    pub fn abort(&mut self, command: CommandId, out: &mut Vec<Action>) -> bool {
        let Some(index) = self.active(command) else {
            return false;
        };
        if self.commands[index as usize].issued {
            return false;
        }
        self.commands[index as usize].error = Some(GroupError::Aborted);
        self.leave_off(index, out);
        assert!(
            self.commands[index as usize].state == CommandState::Free,
            "a command of which nothing was issued ends at once"
        );
        self.settle(out);
        true
    }

    /// Stops a command whose host has gone, so that it overwrites nothing that the host writes by
    /// another way (PROTOCOL H37). From here on the drives are asked for nothing more of it.
    ///
    /// What waits for a lock, scratch or members before it could write ends at once, what reads or
    /// compares ends with the answers that are still to come, and what has begun to write ends as
    /// always, so that no row stays half written. The command completes, at once or when the last of
    /// that has ended and its buffer is free: with [`GroupError::Aborted`] if anything was left off, or
    /// else with its result. A fused pair is given up as a whole, by either half, and each half
    /// completes; a comparison that had succeeded before says so. Nothing happens if the command is
    /// not there or was given up before.
    pub fn give_up(&mut self, command: CommandId, out: &mut Vec<Action>) {
        let Some(index) = self.active(command) else {
            return;
        };
        self.leave_off(index, out);
        self.settle(out);
    }

    /// No node serves the group any more, so that what waits for another one would wait for ever. As [`Self::give_up`], but the
    /// command's host is there and is told [`GroupError::NotServed`], whatever has been carried out. A flush that waits for lanes of
    /// other cores ends with their answers, which have to come.
    pub fn refuse(&mut self, command: CommandId, out: &mut Vec<Action>) {
        let Some(index) = self.active(command) else {
            return;
        };
        self.commands[index as usize].error = Some(GroupError::NotServed);
        self.leave_off(index, out);
        self.settle(out);
    }

    /// The command in whose name the engine does what nobody asked for.
    pub(super) fn own_command(&self) -> u32 {
        u32::try_from(self.commands.len() - 1).expect("commands_max is 32 bits")
    }

    /// The slot that works for a command: of a fused pair its comparison.
    fn active(&self, command: CommandId) -> Option<u32> {
        match self.commands.get(command.0 as usize)?.state {
            CommandState::Free => None,
            CommandState::Fused { compare } => Some(compare.0),
            CommandState::Active => Some(command.0),
        }
    }

    /// Ends what of a command waits before its writes, and lets nothing more of it begin.
    fn leave_off(&mut self, command: u32, out: &mut Vec<Action>) {
        // Between calls a piece is in the queue of what it awaits, or answers to it are still to come.
        assert!(
            self.granted.is_empty(),
            "what has been let in was begun before the call ended"
        );
        if self.command_links.is_listed(command) {
            self.unlist(command);
        }
        let slot = &mut self.commands[command as usize];
        slot.given_up = true;
        if slot.wants_more() {
            slot.error = Some(GroupError::Aborted);
        }
        // Rare, and the slab is small enough to look through.
        for piece in 0..u32::try_from(self.pieces.len()).expect("pieces_max is 32 bits") {
            if self.pieces[piece as usize].command == command {
                self.leave_off_piece(piece, out);
            }
        }
        let slot = &self.commands[command as usize];
        if slot.state == CommandState::Active && slot.pieces == 0 {
            // It had no piece, whose end would have completed it.
            self.complete(command, out);
        }
    }

    /// Commands taken and not completed, and what is read ahead; a fused pair counts as one.
    pub fn in_flight(&self) -> u32 {
        self.in_flight + self.prefetching()
    }

    /// How much memory each queue has: none of it may grow while commands run.
    #[cfg(test)]
    pub(super) fn rooms(&self) -> [usize; 6] {
        let RowPlan {
            reads, steps, writes, ..
        } = &self.plan;
        let plan = [reads.capacity(), steps.capacity(), writes.capacity()];
        [
            self.granted.capacity(),
            self.woken.capacity(),
            self.free_pieces.capacity(),
            plan[0],
            plan[1],
            plan[2],
        ]
    }

    /// How many blocks a request has, or why it is refused. Flush and resync count as one.
    fn admit(&self, request: &Request) -> Result<u64, GroupError> {
        let (lba, blocks) = match *request {
            Request::Flush | Request::FlushDrives | Request::Drain | Request::Retire => return Ok(1),
            Request::Resync { row }
            | Request::Rebuild { row, .. }
            | Request::Scrub { row, .. }
            | Request::Move { row, .. }
            | Request::Repair { row, .. }
                if row.0 >= self.geometry.rows() =>
            {
                return Err(GroupError::OutOfRange);
            }
            // A rebuild that waited would keep those behind it waiting in rows that the hold waits for.
            Request::Rebuild { row, .. } if self.kept.contains(row) => return Err(GroupError::Aborted),
            Request::Resync { .. }
            | Request::Rebuild { .. }
            | Request::Scrub { .. }
            | Request::Move { .. } => return Ok(1),
            Request::Repair {
                row,
                member,
                offset_blocks,
                blocks,
                ..
            } => {
                let geometry = self.layout.geometry_of_row(row);
                let strip = geometry.strip_blocks();
                let inside = offset_blocks < geometry.member_row_blocks()
                    && (1..=strip - offset_blocks % strip).contains(&blocks);
                return if member.0 < geometry.members() && inside {
                    Ok(1)
                } else {
                    Err(GroupError::OutOfRange)
                };
            }
            Request::Zero { lba, blocks, .. } => (lba, blocks),
            Request::Read { lba, blocks }
            | Request::CachedRead { lba, blocks, .. }
            | Request::Write { lba, blocks, .. }
            | Request::Compare { lba, blocks }
            | Request::CompareWrite { lba, blocks, .. } => {
                if blocks > COMMAND_BLOCKS_MAX {
                    return Err(GroupError::TooLong);
                }
                (lba, u64::from(blocks))
            }
        };
        if !self.layout.contains(lba, blocks) {
            return Err(GroupError::OutOfRange);
        }
        if matches!(request, Request::CompareWrite { .. }) && blocks > 0 {
            let first = self.layout.first_piece(lba, blocks);
            if u64::from(first.blocks) != blocks || first.blocks > self.write_blocks_max() {
                return Err(GroupError::TooLong);
            }
        }
        Ok(blocks)
    }

    /// Works off whatever the last event made possible. Ends, because each turn either starts or ends
    /// a piece or shortens one of the queues, and a piece that ends starts no more than one other.
    #[inline]
    pub(super) fn settle(&mut self, out: &mut Vec<Action>) {
        loop {
            if let Some(piece) = self.granted.pop_front() {
                self.begin(piece, out);
            } else if let Some(row) = self.woken.pop_front() {
                self.grant(row, out);
            } else if self.kept.look {
                self.look_at_held(out);
            } else if self.take_turn(out) {
                // A row is rebuilt, and the next one may be written already.
            } else if self.scratch_retry {
                self.scratch_retry = false;
                self.retry_scratch(out);
            } else if let Some(command) = self.starved.first()
                && !self.free_pieces.is_empty()
            {
                self.command_links.remove(&mut self.starved, command);
                // Its next piece may have got longer since, with its row.
                if self.may_start(command) {
                    self.start_piece(command, out);
                    self.line_up(command);
                }
            } else if self.start_prefetch(out) {
                // A part of what a stream will want is on its way.
            } else if self.write_back.is_none() || !self.poll_write_back(out) {
                return;
            }
        }
    }

    /// Whether a command has a piece left of which all data is there.
    fn may_start(&self, command: u32) -> bool {
        let slot = &self.commands[command as usize];
        let all_is_there = slot.arrived_blocks >= slot.total_blocks;
        slot.wants_more() && (all_is_there || self.next_has_arrived(slot))
    }

    fn next_has_arrived(&self, slot: &Command) -> bool {
        let (_, row) = next_piece(&self.layout, slot, self.write_blocks_max());
        slot.started_blocks + u64::from(row.blocks) <= slot.arrived_blocks
    }

    /// Lets a command wait for its turn to start another piece, if it has any left and may.
    pub(super) fn line_up(&mut self, command: u32) {
        let slot = &self.commands[command as usize];
        let open = slot.state == CommandState::Active && slot.pieces < PIECES_PER_COMMAND_MAX;
        if open && self.may_start(command) && !self.command_links.is_listed(command) {
            self.command_links.push_back(&mut self.starved, command);
        }
    }

    /// Makes the command's next piece and takes its lock, or lets it wait for that.
    fn start_piece(&mut self, command: u32, out: &mut Vec<Action>) {
        let write_blocks_max = self.write_blocks_max();
        let slot = &mut self.commands[command as usize];
        let (work, row) = next_piece(&self.layout, slot, write_blocks_max);
        if self.wait_for_hold(command, work, row.row) {
            return;
        }
        let slot = &mut self.commands[command as usize];
        let index = self.free_pieces.pop().expect("the caller saw a free piece");
        slot.started_blocks += u64::from(row.blocks);
        assert!(
            slot.started_blocks <= slot.arrived_blocks,
            "what is written has come"
        );
        slot.pieces += 1;
        let piece = &mut self.pieces[index as usize];
        assert!(piece.state == State::Free, "a free piece is free");
        *piece = Piece::new(command, work, row);
        let parted = matches!(work, Work::CompareThenWrite { .. }) && slot.started_blocks < slot.total_blocks;
        if parted {
            // It lay inside a row before its blocks moved.
            return self.end_piece(index, Err(GroupError::TooLong), out);
        }
        if self.is_lost() && (self.write_back.is_some() || self.is_held_back(work, row.row)) {
            // Rows with dirty data that has nowhere to go stay held, and so may those of a wave that cannot end: who came now would wait
            // for them for ever.
            return self.end_piece(index, Err(GroupError::TooManyMembersLost), out);
        }
        if self.take_room(index) {
            self.take_lock(index, out);
        }
    }

    /// Takes the row's lock for a piece, which then begins, or lets it wait for that.
    pub(super) fn take_lock(&mut self, index: u32, out: &mut Vec<Action>) {
        let Piece { work, row, .. } = self.pieces[index as usize];
        let Some(mode) = work.mode() else {
            return self.begin(index, out);
        };
        if let Some(entry) = self.find_hold(row.row) {
            if self.enter_hold(index, entry) {
                self.begin(index, out);
            }
            return;
        }
        let slot = self.lock.slot(row.row);
        let mut recall = None;
        // Behind others of this core that wait there: they were first.
        if self.lock_waiting == 0 || self.first_waiter(slot).is_none() {
            match self.lock.try_acquire(row.row, mode, self.core) {
                Acquire::Acquired { wake } => {
                    self.tell(wake, row.row, out);
                    self.hold_row(index);
                    return self.begin(index, out);
                }
                Acquire::Busy { recall: holder } => recall = holder,
                Acquire::Absent => self.want_row(row.row, mode, out),
            }
        }
        let piece = &mut self.pieces[index as usize];
        piece.state = State::AwaitingLock;
        piece.slot = slot;
        self.lock_waiting += 1;
        let bucket = self.bucket(slot);
        self.piece_links.push_back(&mut self.lock_waiters[bucket], index);
        self.ask_for(recall, row.row, out);
    }

    /// Asks the core that may keep a row without need to give it up.
    fn ask_for(&mut self, holder: Option<u16>, row: RowIndex, out: &mut Vec<Action>) {
        match holder {
            Some(core) if core == self.core => self.recall_slot(self.lock.slot(row), out),
            Some(core) => out.push(Action::RecallCore { core, row }),
            None => {}
        }
    }

    fn bucket(&self, slot: u32) -> usize {
        slot as usize & (self.lock_waiters.len() - 1)
    }

    /// The piece of this core that has waited longest for a slot.
    fn first_waiter(&self, slot: u32) -> Option<u32> {
        let mut next = self.lock_waiters[self.bucket(slot)].first();
        while let Some(piece) = next {
            if self.pieces[piece as usize].slot == slot {
                return Some(piece);
            }
            next = self.piece_links.next(piece);
        }
        None
    }

    pub(super) fn stop_waiting(&mut self, piece: u32) {
        let bucket = self.bucket(self.pieces[piece as usize].slot);
        self.piece_links.remove(&mut self.lock_waiters[bucket], piece);
        self.lock_waiting -= 1;
    }

    /// The row's slot may be free for us: lets our waiters in, in order, until one has to wait on.
    fn grant(&mut self, row: RowIndex, out: &mut Vec<Action>) {
        let slot = self.lock.slot(row);
        while let Some(index) = self.first_waiter(slot) {
            let row = self.pieces[index as usize].row.row;
            let mode = self.pieces[index as usize]
                .work
                .mode()
                .expect("only pieces with a lock await it");
            if let Some(entry) = self.find_hold(row) {
                // One before it has made the row ours.
                self.stop_waiting(index);
                if self.enter_hold(index, entry) {
                    self.granted.push_back(index);
                }
                continue;
            }
            let wake = match self.lock.try_acquire(row, mode, self.core) {
                Acquire::Acquired { wake } => wake,
                Acquire::Busy { recall } => return self.ask_for(recall, row, out),
                Acquire::Absent => return self.want_row(row, mode, out),
            };
            self.tell(wake, row, out);
            self.hold_row(index);
            self.let_in(index);
            if mode.is_write() {
                continue;
            }
            // The readers right behind it come along: they are one turn.
            while let Some(reader) = self.first_waiter(slot) {
                let Piece { row: other, work, .. } = self.pieces[reader as usize];
                let joins = other.row == row && work.mode().is_some_and(|mode| !mode.is_write());
                if !joins || !self.lock.join_read(row) {
                    break;
                }
                self.let_in(reader);
            }
        }
        // Nobody is left here, so our name must not stay in the word.
        let wake = self.lock.withdraw(row, self.core);
        self.tell(wake, row, out);
    }

    fn let_in(&mut self, piece: u32) {
        self.stop_waiting(piece);
        self.granted.push_back(piece);
    }

    /// Passes a wake-up on: to other cores by the runtime, to ourselves directly.
    pub(super) fn tell(&mut self, wake: WakeMask, row: RowIndex, out: &mut Vec<Action>) {
        if wake.0 == 0 {
            return;
        }
        let own = 1 << self.core;
        if wake.0 & own != 0 {
            self.woken.push_back(row);
        }
        if wake.0 & !own != 0 {
            out.push(Action::WakeCores {
                mask: wake.0 & !own,
                row,
            });
        }
    }

    fn leave_off_piece(&mut self, index: u32, out: &mut Vec<Action>) {
        let Piece { state, .. } = self.pieces[index as usize];
        match state {
            State::Free => unreachable!("no command has the number of a free piece"),
            State::AwaitingRoom | State::AwaitingLock | State::AwaitingHold => {
                self.leave_queue(index, Err(GroupError::Aborted), out);
            }
            State::AwaitingDrain => {
                let write_back = self
                    .write_back
                    .as_mut()
                    .expect("only there is something to drain");
                self.piece_links.remove(&mut write_back.drain_waiters, index);
                self.finish(index, Err(GroupError::Aborted), out);
            }
            State::AwaitingPrefetch => {
                self.leave_prefetch_queue(index);
                self.finish(index, Err(GroupError::Aborted), out);
            }
            State::AwaitingScratch => {
                self.piece_links.remove(&mut self.scratch_waiters, index);
                self.scratch_retry = true;
                self.finish(index, Err(GroupError::Aborted), out);
            }
            State::AwaitingMembersToPlan => {
                self.piece_links.remove(&mut self.members_waiters, index);
                self.finish(index, Err(GroupError::Aborted), out);
            }
            State::AwaitingMend => {
                self.leave_mend_queue(index);
                self.finish(index, Err(GroupError::Aborted), out);
            }
            // Their last answer ends these, and the others have begun to write.
            State::Reading
            | State::Comparing
            | State::AwaitingCommit
            | State::AwaitingCommits
            | State::Writing
            | State::Verifying
            | State::AwaitingMembersToEnd
            | State::AwaitingLost
            | State::AwaitingTurn => {}
        }
    }

    /// Ends a piece that waits for room, its lock or its turn in a hold.
    pub(super) fn leave_queue(&mut self, index: u32, result: Result<(), GroupError>, out: &mut Vec<Action>) {
        let Piece {
            state,
            slot,
            row,
            work,
            ..
        } = self.pieces[index as usize];
        match state {
            State::AwaitingRoom => self.leave_room_queue(index),
            State::AwaitingLock => {
                self.stop_waiting(index);
                if self.first_waiter(slot).is_none() {
                    let wake = self.lock.withdraw(row.row, self.core);
                    self.tell(wake, row.row, out);
                }
            }
            State::AwaitingHold if work == Work::Destage => {
                // It belongs to no command.
                self.destage_ended(index, result.is_ok());
                self.leave_hold_queue(index, out);
                return self.end_destage_piece(index, out);
            }
            State::AwaitingHold => self.leave_hold_queue(index, out),
            State::Free
            | State::AwaitingPrefetch
            | State::AwaitingScratch
            | State::Reading
            | State::Comparing
            | State::AwaitingCommit
            | State::AwaitingCommits
            | State::AwaitingDrain
            | State::AwaitingMembersToPlan
            | State::Writing
            | State::Verifying
            | State::AwaitingMembersToEnd
            | State::AwaitingMend
            | State::AwaitingLost
            | State::AwaitingTurn => unreachable!("it is in none of these queues"),
        }
        self.give_room_back(index);
        self.end_piece(index, result, out);
    }

    /// Takes a piece that holds neither lock nor scratch off its command; the last one completes it.
    pub(super) fn end_piece(&mut self, index: u32, result: Result<(), GroupError>, out: &mut Vec<Action>) {
        let command = self.pieces[index as usize].command;
        self.pieces[index as usize] = Piece::FREE;
        self.free_pieces.push(index);
        self.kept.look |= self.kept.is_held();
        let slot = &mut self.commands[command as usize];
        slot.pieces -= 1;
        if let Err(error) = result {
            slot.error.get_or_insert(error);
        }
        if slot.wants_more() {
            self.line_up(command);
        } else if slot.pieces == 0 {
            self.complete(command, out);
        }
    }

    fn complete(&mut self, command: u32, out: &mut Vec<Action>) {
        if self.command_links.is_listed(command) {
            // It failed while it waited to start more.
            self.unlist(command);
        }
        let slot = std::mem::replace(&mut self.commands[command as usize], Command::FREE);
        assert!(
            slot.state == CommandState::Active && slot.pieces == 0,
            "a command completes once, at its end"
        );
        self.in_flight -= 1;
        let result = slot.error.map_or(Ok(()), Err);
        if matches!(slot.request, Request::Rebuild { .. }) {
            self.leave_line(CommandId(command), result);
        }
        let Request::CompareWrite { write, .. } = slot.request else {
            out.push(Action::Complete {
                command: CommandId(command),
                result,
            });
            return;
        };
        self.commands[write.0 as usize] = Command::FREE;
        let compare = if slot.compared { Ok(()) } else { result };
        out.push(Action::Complete {
            command: CommandId(command),
            result: compare,
        });
        let result = match result {
            Err(GroupError::Aborted | GroupError::NotServed) | Ok(()) => result,
            Err(_) if slot.compared => result,
            Err(_) => Err(GroupError::FusedCompareFailed),
        };
        out.push(Action::Complete {
            command: write,
            result,
        });
    }
}

/// What a command does next and where.
fn next_piece(layout: &Layout, slot: &Command, write_blocks_max: u32) -> (Work, RowPiece) {
    let cut = |lba: GroupLba| {
        let next = GroupLba(lba.0 + slot.started_blocks);
        let first = layout.first_piece(next, slot.total_blocks - slot.started_blocks);
        RowPiece {
            skipped_blocks: slot.started_blocks,
            ..first
        }
    };
    match slot.request {
        Request::Read { lba, .. } | Request::CachedRead { lba, .. } => (Work::Read, cut(lba)),
        Request::Write { lba, fua, .. } => {
            let mut piece = cut(lba);
            piece.blocks = piece.blocks.min(write_blocks_max);
            let source = Source::User;
            (Work::Write { source, fua }, piece)
        }
        Request::Zero {
            lba, deallocate, fua, ..
        } => {
            let piece = cut(lba);
            let whole = piece.blocks == layout.geometry_of_row(piece.row).row_blocks();
            let work = if whole {
                Work::ZeroRow { deallocate, fua }
            } else {
                Work::Write {
                    source: Source::Zeroes,
                    fua,
                }
            };
            (work, piece)
        }
        Request::Compare { lba, .. } => {
            // A strip at a time, which bounds the scratch that a comparison holds.
            let mut piece = cut(lba);
            let strip = layout.widest().strip_blocks();
            piece.blocks = piece.blocks.min(strip - piece.start_blocks % strip);
            (Work::Compare, piece)
        }
        Request::CompareWrite { lba, write, fua, .. } => (Work::CompareThenWrite { write, fua }, cut(lba)),
        Request::Flush => (Work::Flush, whole_row(RowIndex(0))),
        Request::FlushDrives => (Work::FlushDrives, whole_row(RowIndex(0))),
        Request::Drain => (Work::Drain { below: None }, whole_row(RowIndex(0))),
        Request::Retire => (Work::Drain { below: Some(0) }, whole_row(RowIndex(0))),
        Request::Resync { row } => (Work::Resync, whole_row(row)),
        Request::Rebuild { row, only_marked, .. } => (Work::Rebuild { only_marked }, whole_row(row)),
        Request::Scrub { row, repair } => (Work::Scrub { repair }, whole_row(row)),
        Request::Move { row, phase } => (Work::Move { phase }, whole_row(row)),
        Request::Repair {
            row,
            member,
            offset_blocks,
            blocks,
        } => {
            let work = Work::Repair {
                member,
                offset_blocks,
                blocks,
            };
            (work, whole_row(row))
        }
    }
}

/// An operation on a whole row; its one block stands for all of it.
const fn whole_row(row: RowIndex) -> RowPiece {
    RowPiece {
        row,
        start_blocks: 0,
        blocks: 1,
        skipped_blocks: 0,
    }
}
