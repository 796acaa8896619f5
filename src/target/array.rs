//! Carries out what the engines of a core ask for: drive commands, parity, wake-ups, completions.

use std::sync::Arc;

use nvme::io::IoRequest;
use nvme::status::Status;
use reactor::parity::{OUTPUTS_MAX, SOURCES_MAX};
use reactor::{Errno, Io, Span};

use super::command::{COMMANDS_MAX, InternalCommand, Owner};
use super::core::Core;
use super::drives::{DriveCommand, Kind, Outcome};
use super::message::{ControlMessage, Message, Repair};
use super::share::Lease;
use super::window::Window;
use crate::amf::engine::{
    Action, CommandId, Engine, EngineConfig, GroupError, HandOverCounts, IoTag, Place, ReadCacheConfig,
    ReadCacheCounts, Request, ScratchHold, WriteBackConfig,
};
use crate::amf::expansion::Layout;
use crate::amf::geometry::Geometry;
use crate::amf::journal::lane::BatchNumber;
use crate::amf::lock::{HOME, LockTable};
use crate::amf::peering::note::FlushName;
use crate::amf::replica::Keeping;
use crate::amf::{MemberIndex, MemberSet, RowIndex};
use crate::drive::DriveError;
use crate::drive::block::{BlockSize, MemberLba};
use crate::icl::Epoch;
use crate::target::message::Hand;

/// Row operations under way in one engine.
const PIECES_MAX: u32 = 4096;

/// Where the scratch memory of a group's engines comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScratchMemory {
    /// From each core's memory, which was sized for it before the start.
    Own,
    /// What each core has kept for one group that is made while it runs, when its memory may be in pieces.
    Spare,
}

/// What all cores share of one group.
pub struct GroupShared {
    /// Index among the node's groups.
    pub index: u16,
    /// Name, for the log.
    pub name: String,
    /// Its shape with all members that it had when it was opened.
    pub geometry: Geometry,
    /// Where each block was then.
    pub layout: Layout,
    /// The node's locks on the group's rows.
    pub lock: Arc<LockTable>,
    /// Drive of each member when the group was opened, as an index into the node's drives; `None` for a missing member.
    pub drives: Vec<Option<u16>>,
    /// Bytes of scratch memory that an engine gets.
    pub scratch_bytes: u32,
    /// Where they come from.
    pub memory: ScratchMemory,
    /// What each core remembers of what it reads.
    pub read_cache: ReadCacheConfig,
    /// Whether writes may complete before they are on stable media.
    pub volatile: bool,
    /// The journal that its writes end in first, if it has one.
    pub journal: Option<WriteBackConfig>,
    /// Lanes of each node, if several nodes serve the group.
    pub lanes_each: Option<u16>,
}

impl GroupShared {
    /// Whether other nodes may hold its rows.
    pub const fn is_shared(&self) -> bool {
        self.lanes_each.is_some()
    }

    /// The lane of core 0.
    fn first_lane(&self) -> u16 {
        self.journal.as_ref().map_or(0, |journal| journal.first_lane)
    }
}

/// What a core has acknowledged and fewer nodes have in memory than are to.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReducedCopies {
    /// Groups of which that is so.
    pub groups: u64,
    /// Bytes of the journal, of all of them.
    pub bytes: u64,
}

/// One core's part of a group.
pub struct GroupBinding {
    pub(super) shared: Arc<GroupShared>,
    pub(super) engine: Engine,
    /// Drive of each member as far as this core knows. It learns of another one only when no command for the old one can be
    /// planned any more, and before any for the new one is.
    drives: Vec<Option<u16>>,
    block: BlockSize,
    scratch: Span,
    /// The image of this core's lane of the journal.
    ring: Option<Span>,
    /// What the engine remembers of what it read. The system gives it real memory only as it is used.
    clean: Box<[u8]>,
    /// The dirty data that is being adopted.
    handed: Vec<u8>,
    pub(super) actions: Vec<Action>,
    /// The vector that was just carried out, kept for its memory.
    spare: Vec<Action>,
    /// Whether actions are being carried out further up the stack.
    pumping: bool,
    /// The hold of rows that it was asked for last.
    pub(super) held_wave: u64,
    /// Nodes serve the group, or are going to.
    is_served: bool,
    /// What hosts saw since the last tick.
    pub(super) hosts: Window,
}

impl GroupBinding {
    /// A drive has let scratch memory go that was held for it.
    pub(super) fn release_scratch(&mut self, hold: ScratchHold) {
        self.engine.release_scratch(hold, &mut self.actions);
    }
}

/// The only place where a failed group operation becomes an NVMe status.
pub fn status_of(error: GroupError, request: &IoRequest) -> Status {
    match error {
        GroupError::CompareFailed => Status::COMPARE_FAILURE,
        GroupError::FusedCompareFailed => Status::ABORTED_FAILED_FUSED,
        GroupError::Aborted => Status::COMMAND_ABORT_REQUESTED,
        GroupError::NotServed => Status::ANA_INACCESSIBLE,
        GroupError::TooLong => Status::INVALID_FIELD.do_not_retry(),
        GroupError::OutOfRange => Status::LBA_OUT_OF_RANGE.do_not_retry(),
        GroupError::TooManyMembersLost
        | GroupError::ParityNotTrusted
        | GroupError::MemberFailed
        | GroupError::Unreadable => match request {
            IoRequest::Read { .. } | IoRequest::Compare { .. } => Status::UNRECOVERED_READ_ERROR,
            IoRequest::Write { .. }
            | IoRequest::WriteZeroes { .. }
            | IoRequest::Flush
            | IoRequest::DatasetManagement { .. } => Status::WRITE_FAULT,
        },
    }
}

/// What a failed system call says about a drive.
pub fn drive_error(errno: Errno) -> DriveError {
    match errno.0 {
        libc::EIO | libc::EILSEQ | libc::ENODATA => DriveError::Media,
        libc::ENODEV | libc::ENXIO | libc::ETIMEDOUT => DriveError::Gone,
        libc::ENOSPC | libc::EFBIG => DriveError::OutOfRange,
        errno => DriveError::Io { errno },
    }
}

impl Core {
    /// Binds this core to a group.
    pub(super) fn add_group(&mut self, io: &mut Io<Message>, shared: Arc<GroupShared>, members: MemberSet) {
        assert_eq!(
            usize::from(shared.index),
            self.groups.len(),
            "groups are added in order on every core"
        );
        let scratch = match shared.memory {
            ScratchMemory::Own => io.arena_mut().alloc(shared.scratch_bytes),
            ScratchMemory::Spare => self.spare_scratch.take(),
        };
        let scratch =
            scratch.expect("the memory was checked before the start, and the spare is given out once");
        let mut engine = Engine::new(EngineConfig {
            layout: shared.layout,
            core: self.index.0,
            lock: Arc::clone(&shared.lock),
            commands_max: COMMANDS_MAX,
            pieces_max: PIECES_MAX,
            scratch_bytes: shared.scratch_bytes,
            members,
            write_back: shared.journal.clone(),
        });
        let ring = shared.journal.as_ref().map(|journal| {
            let bytes = journal.layout.lane_blocks << shared.geometry.block().shift();
            let ring = match shared.memory {
                ScratchMemory::Own => io.arena_mut().alloc(bytes),
                ScratchMemory::Spare => self.spare_ring.take(),
            };
            ring.expect("the memory was checked before the start, and the spare is given out once")
        });
        engine.set_read_cache(shared.read_cache);
        self.groups.push(GroupBinding {
            clean: vec![0; shared.read_cache.bytes as usize].into(),
            handed: Vec::new(),
            block: shared.geometry.block(),
            drives: shared.drives.clone(),
            shared,
            engine,
            scratch,
            ring,
            actions: Vec::with_capacity(256),
            spare: Vec::with_capacity(256),
            pumping: false,
            held_wave: 0,
            is_served: true,
            hosts: Window::default(),
        });
    }

    /// Gives an engine a request and carries out what it asks for.
    pub(super) fn submit_group(
        &mut self,
        io: &mut Io<Message>,
        group: u16,
        command: CommandId,
        request: Request,
    ) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.submit(command, request, &mut binding.actions);
        self.begin_in_group(io, group, command);
    }

    /// Carries out what an engine asks for that was given a request. Where no node serves the group it gets only as far as it can without others.
    fn begin_in_group(&mut self, io: &mut Io<Message>, group: u16, command: CommandId) {
        let binding = &mut self.groups[usize::from(group)];
        if !binding.is_served && matches!(self.commands.owner(command), Owner::Host(..)) {
            binding.engine.refuse(command, &mut binding.actions);
        }
        self.pump(io, group);
    }

    /// No node serves the group any more, or one does again. What hosts' commands wait for will not come: they end, now and until then.
    pub(super) fn set_served(&mut self, io: &mut Io<Message>, group: u16, is_served: bool) {
        let Some(binding) = self.groups.get_mut(usize::from(group)) else {
            return;
        };
        binding.is_served = is_served;
        if !is_served {
            for command in self.commands.of_hosts() {
                binding.engine.refuse(command, &mut binding.actions);
            }
        }
        self.pump(io, group);
    }

    /// The same for a write of which the first blocks are there.
    pub(super) fn submit_part_to_group(
        &mut self,
        io: &mut Io<Message>,
        group: u16,
        command: CommandId,
        (request, arrived_blocks): (Request, u32),
    ) {
        let binding = &mut self.groups[usize::from(group)];
        binding
            .engine
            .submit_part(command, request, arrived_blocks, &mut binding.actions);
        self.begin_in_group(io, group, command);
    }

    /// More of a write's data is there.
    pub(super) fn arrived_for_group(
        &mut self,
        io: &mut Io<Message>,
        group: u16,
        command: CommandId,
        blocks: u32,
    ) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.arrived(command, blocks, &mut binding.actions);
        self.pump(io, group);
    }

    /// Gives an engine a request of the control core's; [`Self::run_queued`] carries out what it asks for, once the
    /// control machines can hear of it.
    pub(super) fn queue_group(&mut self, group: u16, command: CommandId, request: Request) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.submit(command, request, &mut binding.actions);
    }

    /// Sees to it that queued requests are carried out in this turn.
    pub(super) fn run_queued(&mut self, io: &mut Io<Message>, group: u16) {
        self.tell(io, self.index, Message::Pump { group });
    }

    /// Tries to abort a request that no drive has seen.
    pub(super) fn abort_in_group(&mut self, io: &mut Io<Message>, group: u16, command: CommandId) -> bool {
        let binding = &mut self.groups[usize::from(group)];
        let aborted = binding.engine.abort(command, &mut binding.actions);
        self.pump(io, group);
        aborted
    }

    /// The host is gone: nothing more of its request is begun; what is half-way is finished.
    pub(super) fn give_up_in_group(&mut self, io: &mut Io<Message>, group: u16, command: CommandId) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.give_up(command, &mut binding.actions);
        self.pump(io, group);
    }

    /// A new generation of members is durable.
    pub(super) fn set_members(&mut self, io: &mut Io<Message>, group: u16, set: MemberSet) {
        let Some(binding) = self.groups.get_mut(usize::from(group)) else {
            return;
        };
        binding.engine.set_members(set, &mut binding.actions);
        let heard = binding.engine.heard();
        self.pump(io, group);
        if self.control.is_some() {
            self.with_control(io, |control, core, io| {
                control.members_heard(core, io, group, heard)
            });
        }
    }

    /// Another drive carries a lost member, as soon as its old one has answered everything or was given up: its answers must not
    /// count for the new one.
    pub(super) fn set_member_drive(
        &mut self,
        io: &mut Io<Message>,
        group: u16,
        member: MemberIndex,
        drive: u16,
    ) {
        self.moving.push((group, member, drive));
        self.move_members(io);
    }

    /// Puts drives in their places as far as that may be.
    pub(super) fn move_members(&mut self, io: &mut Io<Message>) {
        for (group, member, drive) in std::mem::take(&mut self.moving) {
            let binding = &mut self.groups[usize::from(group)];
            let at = usize::from(member.0);
            if at >= binding.drives.len() {
                binding.drives.resize(at + 1, None); // An expansion brings members.
            }
            let old = binding.drives[at];
            if old.is_some_and(|old| self.flights.owe_engine(old, group)) {
                self.moving.push((group, member, drive));
                continue;
            }
            binding.drives[at] = Some(drive);
            self.tell_control(io, ControlMessage::MemberDriveSet { group });
        }
    }

    /// Another core released a row.
    pub(super) fn wake_row(&mut self, io: &mut Io<Message>, group: u16, row: RowIndex) {
        let Some(binding) = self.groups.get_mut(usize::from(group)) else {
            return;
        };
        binding.engine.wake(row, &mut binding.actions);
        self.pump(io, group);
    }

    /// A drive answered.
    pub(super) fn drive_answered(
        &mut self,
        io: &mut Io<Message>,
        group: u16,
        tag: IoTag,
        result: Result<(), DriveError>,
    ) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.drive_done(tag, result, &mut binding.actions);
        self.pump(io, group);
    }

    /// Carries out a group's actions until none is left. Actions that come up meanwhile are carried out by the
    /// outermost call, so the stack stays flat however long the chain is.
    pub(super) fn pump(&mut self, io: &mut Io<Message>, group: u16) {
        let g = usize::from(group);
        if self.groups[g].pumping {
            return;
        }
        self.groups[g].pumping = true;
        while !self.groups[g].actions.is_empty() {
            let binding = &mut self.groups[g];
            let mut actions = std::mem::replace(&mut binding.actions, std::mem::take(&mut binding.spare));
            let mut done = 0;
            while done < actions.len() {
                let summed = self.sums.gather(&actions[done..]);
                if summed > 0 {
                    self.compute(io, g);
                } else {
                    self.act(io, group, actions[done]);
                }
                done += summed.max(1);
            }
            actions.clear();
            self.groups[g].spare = actions;
        }
        self.groups[g].pumping = false;
    }

    /// Where a place of a group's engine lies in memory; `bytes` long.
    fn locate(&self, group: usize, place: Place, bytes: u32) -> Span {
        match place {
            Place::Command {
                command,
                offset_bytes,
            } => self.commands.span(command).part(offset_bytes, bytes),
            Place::Scratch { offset_bytes } => self.groups[group].scratch.part(offset_bytes, bytes),
            Place::Ring { offset_bytes } => self.groups[group]
                .ring
                .expect("only engines with a journal know its ring")
                .part(offset_bytes, bytes),
            Place::Clean { .. } | Place::Handed { .. } => {
                unreachable!("what was read, or came, is only copied")
            }
            Place::Zeroes => self.zeroes.expect("allocated at start").part(0, bytes),
        }
    }

    /// Compares two places and tells the engine at once.
    fn compare(&mut self, io: &Io<Message>, group: usize, tag: IoTag, a: Place, b: Place, bytes: u32) {
        let (a, b) = (self.locate(group, a, bytes), self.locate(group, b, bytes));
        let equal = io.arena().equal(a, b);
        let binding = &mut self.groups[group];
        binding.engine.compared(tag, equal, &mut binding.actions);
    }

    /// What became of dirty rows of this core that other nodes wanted or had.
    pub(super) fn hand_over_counts(&self) -> HandOverCounts {
        let counts = self.groups.iter().map(|group| group.engine.hand_over_counts());
        counts.fold(HandOverCounts::default(), HandOverCounts::plus)
    }

    /// Groups in which this core has acknowledged writes that fewer nodes have in memory than are to, and the drives not yet; and how many bytes of journal these are.
    pub(super) fn reduced_copies(&self) -> ReducedCopies {
        let reduced = self.groups.iter().filter(|group| !group.engine.is_restored());
        reduced.fold(ReducedCopies::default(), |sum, group| ReducedCopies {
            groups: sum.groups + 1,
            bytes: sum.bytes + group.engine.bytes_to_restore(),
        })
    }

    /// What the engines of this core have done from memory.
    pub(super) fn read_cache_counts(&self) -> ReadCacheCounts {
        let counts = self.groups.iter().map(|group| group.engine.read_cache_counts());
        counts.fold(ReadCacheCounts::default(), ReadCacheCounts::plus)
    }

    /// Copies one place to another; what was read is in memory of its own, which no drive touches.
    fn copy(&mut self, io: &mut Io<Message>, group: usize, into: Place, from: Place, bytes: u32) {
        let range = |offset: u32| offset as usize..offset as usize + bytes as usize;
        match (into, from) {
            (Place::Clean { offset_bytes }, from) => {
                let from = self.locate(group, from, bytes);
                let clean = &mut self.groups[group].clean[range(offset_bytes)];
                io.arena().copy_out(from, 0, clean);
            }
            (into, Place::Clean { offset_bytes }) => {
                let into = self.locate(group, into, bytes);
                let clean = &self.groups[group].clean[range(offset_bytes)];
                io.arena_mut().copy_in(into, 0, clean);
            }
            (into, Place::Handed { offset_bytes }) => {
                let into = self.locate(group, into, bytes);
                let handed = &self.groups[group].handed[range(offset_bytes)];
                io.arena_mut().copy_in(into, 0, handed);
            }
            (into, from) => {
                let (into, from) = (self.locate(group, into, bytes), self.locate(group, from, bytes));
                io.arena_mut().copy(into, from);
            }
        }
    }

    /// Computes the sums that were just gathered.
    fn compute(&self, io: &mut Io<Message>, group: usize) {
        let sums = &self.sums;
        let first = self.locate(group, sums.outputs[0], sums.bytes);
        let mut outputs = [first; OUTPUTS_MAX];
        let outputs = &mut outputs[..sums.outputs.len()];
        for (span, place) in outputs.iter_mut().zip(&sums.outputs).skip(1) {
            *span = self.locate(group, *place, sums.bytes);
        }
        let mut sources = [first; SOURCES_MAX];
        let sources = &mut sources[..sums.sources.len()];
        for (span, place) in sources.iter_mut().zip(&sums.sources) {
            *span = self.locate(group, *place, sums.bytes);
        }
        match (sums.is_xor(), sums.accumulate, &sources[..]) {
            (true, false, sources) => io.arena_mut().xor_into(outputs[0], sources),
            (true, true, [source]) => io.arena_mut().xor(outputs[0], *source),
            (_, accumulate, sources) => {
                io.arena_mut()
                    .combine(outputs, sources, &sums.factors, accumulate);
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each action")]
    fn act(&mut self, io: &mut Io<Message>, group: u16, action: Action) {
        let g = usize::from(group);
        match action {
            Action::DriveRead {
                io: tag,
                member,
                lba,
                blocks,
                into,
            } => self.ask_drive(io, g, tag, Kind::Read, (member, lba, blocks), Some(into)),
            Action::DriveWrite {
                io: tag,
                member,
                lba,
                blocks,
                from,
                fua,
            } => self.ask_drive(io, g, tag, Kind::Write { fua }, (member, lba, blocks), Some(from)),
            // A file's hole and a discarded range of a device read as zeroes: both kinds of zeroing are done alike.
            Action::DriveZero {
                io: tag,
                member,
                lba,
                blocks,
                deallocate: _,
                fua,
            } => self.ask_drive(io, g, tag, Kind::Zero { fua }, (member, lba, blocks), None),
            Action::DriveFlush { io: tag, member } => {
                self.ask_drive(io, g, tag, Kind::Flush, (member, MemberLba(0), 0), None);
            }
            Action::Xor { .. } | Action::MulAdd { .. } => unreachable!("sums are computed together"),
            Action::Copy { into, from, bytes } => self.copy(io, g, into, from, bytes),
            Action::Compare { io: tag, a, b, bytes } => self.compare(io, g, tag, a, b, bytes),
            Action::Seal {
                slot,
                offset_bytes,
                payload_bytes,
            } => self.seal_batch(io, g, slot, offset_bytes, payload_bytes),
            Action::Keep {
                offer,
                reports,
                offset_bytes,
                bytes,
            } => {
                let from = self.locate(g, Place::Ring { offset_bytes }, bytes);
                let batch = io.arena().with_bytes(from, |batch| Arc::from(batch));
                let copy = Box::new(offer.with(batch));
                self.tell_control(io, ControlMessage::Keep { group, copy, reports });
            }
            Action::RecallCore { core, row } => {
                self.tell(io, reactor::CoreIndex(core), Message::Recall { group, row });
            }
            Action::HurryCores { below } => self.hurry_cores(io, group, below),
            Action::CommitCores { flush } => {
                let lane = self.lane_of(g);
                for core in self.other_lanes(g) {
                    self.tell(io, core, Message::Commit { group, lane, flush });
                }
                if self.groups[g].shared.is_shared() {
                    let name = FlushName { lane, flush };
                    self.tell_control(io, ControlMessage::CommitNodes { group, name });
                }
            }
            Action::Committed { core: lane, flush } => {
                let core = lane.checked_sub(self.groups[g].shared.first_lane());
                match core.filter(|core| *core < io.cores()) {
                    Some(core) => {
                        let committed = Message::Committed { group, flush };
                        self.tell(io, reactor::CoreIndex(core), committed);
                    }
                    None => {
                        let name = FlushName { lane, flush };
                        self.tell_control(io, ControlMessage::CommittedFor { group, name });
                    }
                }
            }
            Action::TailMoved { mask } => self.lanes_moved(io, group, u32::from(mask)),
            Action::WakeCores { mask, row } => self.wake_cores(io, group, mask, row),
            Action::WantRow { row, mode, takes } => {
                let from = self.index;
                self.tell_control(
                    io,
                    ControlMessage::WantRow {
                        group,
                        from,
                        row,
                        mode,
                        takes,
                    },
                );
            }
            Action::Give { row } => self.give_row(io, group, row),
            Action::Taken { row } => self.tell_control(io, ControlMessage::RowSecured { group, row }),
            Action::ReportMedia {
                member,
                row,
                offset_blocks,
                blocks,
            } => {
                let repair = Repair::new(group, member, row, offset_blocks, blocks);
                self.tell_control(io, ControlMessage::Media(repair));
            }
            Action::Scrubbed { row, outcome } => {
                self.with_control(io, |control, _, _| control.scrubbed(group, row, outcome));
            }
            Action::RangeHeld => self.rows_held(io, group),
            Action::RamWanted => self.tell_control(io, ControlMessage::RamWanted { group }),
            Action::RamCommitted => {
                let from = self.index;
                self.tell_control(io, ControlMessage::RamCommitted { group, from });
            }
            Action::KeptAgain(epoch) => {
                let from = self.index;
                self.tell_control(io, ControlMessage::KeptAgain { group, from, epoch });
            }
            Action::PersistLost => {
                let from = self.index;
                self.tell_control(io, ControlMessage::PersistLost { group, from });
            }
            Action::PersistIntent => {
                let from = self.index;
                self.tell_control(io, ControlMessage::PersistIntent { group, from });
            }
            Action::ReportFault { member, error } => {
                self.tell_control(io, ControlMessage::Fault { group, member, error });
            }
            Action::Complete { command, result } => self.complete_request(io, group, command, result),
        }
    }

    /// Another core wants a row that this one may keep for its dirty data.
    pub(super) fn recall_row(&mut self, io: &mut Io<Message>, group: u16, row: RowIndex) {
        let Some(binding) = self.groups.get_mut(usize::from(group)) else {
            return;
        };
        binding.engine.recall(row, &mut binding.actions);
        self.pump(io, group);
    }

    /// A row goes to its home with its dirty data.
    fn give_row(&mut self, io: &mut Io<Message>, group: u16, row: RowIndex) {
        let g = usize::from(group);
        let data = self.groups[g].engine.lay_out(row, |offset_bytes, bytes, out| {
            let from = self.locate(g, Place::Ring { offset_bytes }, bytes);
            let start = out.len();
            out.resize(start + bytes as usize, 0);
            io.arena().copy_out(from, 0, &mut out[start..]);
        });
        let (from, data) = (self.index, Box::new(data));
        let given = ControlMessage::RowGiven {
            group,
            from,
            row,
            data,
        };
        self.tell_control(io, given);
    }

    /// What a row's home says of its dirty data.
    pub(super) fn hand(&mut self, io: &mut Io<Message>, group: u16, row: RowIndex, hand: &Hand) {
        let Some(binding) = self.groups.get_mut(usize::from(group)) else {
            return;
        };
        let out = &mut binding.actions;
        match hand {
            Hand::Recall { gives } => binding.engine.recall_for(row, *gives, out),
            Hand::Answer => binding.engine.answer(row, out),
            Hand::Adopt(data) => {
                let pieces = data.extents().filter_map(|(_, piece)| piece);
                binding.handed.clear();
                pieces.for_each(|piece| binding.handed.extend(piece));
                binding.engine.adopt(row, data, out);
            }
            Hand::Restore => binding.engine.restore(row, out),
            Hand::Settle => binding.engine.settle_given(row, out),
        }
        self.pump(io, group);
    }

    /// Other nodes are there to keep what this core writes, or none are.
    pub(super) fn keep_copies(&mut self, io: &mut Io<Message>, group: u16, keeping: Keeping, epoch: Epoch) {
        if let Some(binding) = self.groups.get_mut(usize::from(group)) {
            binding.engine.keep(keeping, epoch, &mut binding.actions);
            self.pump(io, group);
        }
    }

    /// This batch was sent to all nodes that are to keep it.
    pub(super) fn copy_sent(&mut self, io: &mut Io<Message>, group: u16, batch: u64) {
        if let Some(binding) = self.groups.get_mut(usize::from(group)) {
            binding.engine.sent(BatchNumber(batch), &mut binding.actions);
            self.pump(io, group);
        }
    }

    /// Other nodes keep this batch.
    pub(super) fn copy_kept(&mut self, io: &mut Io<Message>, group: u16, batch: u64) {
        if let Some(binding) = self.groups.get_mut(usize::from(group)) {
            binding.engine.kept(BatchNumber(batch), &mut binding.actions);
            self.pump(io, group);
        }
    }

    /// This core's lane is full and waits for the others.
    fn hurry_cores(&mut self, io: &mut Io<Message>, group: u16, below: u64) {
        let g = usize::from(group);
        let lane = self.lane_of(g);
        for core in self.other_lanes(g) {
            self.tell(io, core, Message::Hurry { group, lane, below });
        }
        if self.groups[g].shared.is_shared() {
            self.tell_control(io, ControlMessage::HurryNodes { group, lane, below });
        }
    }

    /// This core has retired what these lanes wait for.
    fn lanes_moved(&mut self, io: &mut Io<Message>, group: u16, lanes: u32) {
        let shared = &self.groups[usize::from(group)].shared;
        let (first, is_shared) = (shared.first_lane(), shared.is_shared());
        let own = (lanes >> first) & ((1 << io.cores()) - 1);
        for core in (0..io.cores()).filter(|core| own >> core & 1 == 1) {
            self.tell(io, reactor::CoreIndex(core), Message::TailMoved { group });
        }
        let lanes = lanes & !(own << first);
        if is_shared && lanes != 0 {
            self.tell_control(io, ControlMessage::LanesMoved { group, lanes });
        }
    }

    /// This core's lane of a group's journal.
    fn lane_of(&self, group: usize) -> u16 {
        self.groups[group].shared.first_lane() + self.index.0
    }

    /// The other cores of this node that have lanes of a group's journal: all of them, if it has one.
    fn other_lanes(&self, group: usize) -> impl Iterator<Item = reactor::CoreIndex> + use<> {
        let own = self.index;
        let shared = &self.groups[group].shared;
        let lanes = match (&shared.journal, shared.lanes_each) {
            (None, _) => 0,
            (Some(journal), None) => journal.layout.lanes,
            (Some(_), Some(each)) => each,
        };
        (0..lanes)
            .map(reactor::CoreIndex)
            .filter(move |core| *core != own)
    }

    /// The group is about to be closed: what is dirty here goes to its place.
    pub(super) fn drain_group(&mut self, io: &mut Io<Message>, group: u16) {
        match self
            .commands
            .insert(Owner::Internal(InternalCommand::Drain), None)
        {
            Some(command) => self.submit_group(io, group, command, Request::Drain),
            None => self.tell_control(
                io,
                ControlMessage::GroupDrained {
                    group,
                    drained: false,
                },
            ),
        }
    }

    /// A member is rebuilt, and the group is about to rely on it: what is in this core's lane by now goes to its place.
    pub(super) fn retire_group(&mut self, io: &mut Io<Message>, group: u16) {
        let owner = Owner::Internal(InternalCommand::Retire);
        match self.commands.insert(owner, None) {
            Some(command) => self.submit_group(io, group, command, Request::Retire),
            None => {
                let retired = false;
                self.tell_control(io, ControlMessage::GroupRetired { group, retired });
            }
        }
    }

    /// Another core has a flush under way.
    pub(super) fn commit_lane(&mut self, io: &mut Io<Message>, group: u16, lane: u16, flush: u32) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.commit(lane, flush, &mut binding.actions);
        self.pump(io, group);
    }

    /// Another core has committed its share of a flush of this core.
    pub(super) fn lane_committed(&mut self, io: &mut Io<Message>, group: u16, flush: u32) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.committed_elsewhere(flush, &mut binding.actions);
        self.pump(io, group);
    }

    /// Another core waits for this one's lane to retire what it owes.
    pub(super) fn hurry_lane(&mut self, io: &mut Io<Message>, group: u16, lane: u16, below: u64) {
        let Some(binding) = self.groups.get_mut(usize::from(group)) else {
            return;
        };
        binding.engine.hurry(lane, below, &mut binding.actions);
        self.pump(io, group);
    }

    /// Another core's lane has retired what this one waited for.
    pub(super) fn tail_moved(&mut self, io: &mut Io<Message>, group: u16) {
        let Some(binding) = self.groups.get_mut(usize::from(group)) else {
            return;
        };
        binding.engine.tail_moved(&mut binding.actions);
        self.pump(io, group);
    }

    /// Whether this core may acknowledge writes of a group from memory.
    pub(super) fn allow_ram(&mut self, io: &mut Io<Message>, group: u16, allowed: bool) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.allow_ram(allowed, &mut binding.actions);
        self.pump(io, group);
    }

    /// What this core had marked in a group's write-intent bitmap is durable.
    pub(super) fn intent_durable(&mut self, io: &mut Io<Message>, group: u16) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.intent_durable(&mut binding.actions);
        self.pump(io, group);
    }

    /// A group's list of lost blocks is durable as this core had it.
    pub(super) fn lost_durable(&mut self, io: &mut Io<Message>, group: u16) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.lost_durable(&mut binding.actions);
        self.pump(io, group);
    }

    /// Says what was withheld for want of a lease, if there is one again.
    pub(super) fn say_withheld(&mut self, io: &mut Io<Message>) {
        let covers = |lease: &Arc<Lease>| lease.covers(reactor::now());
        if self.withheld.is_empty() || !self.lease.as_ref().is_none_or(covers) {
            return;
        }
        for (queue, slot, result) in std::mem::take(&mut self.withheld) {
            self.request_done(io, queue, slot, result);
        }
    }

    /// Lets the engines know that time goes by.
    pub(super) fn tick_groups(&mut self, io: &mut Io<Message>) {
        for group in 0..u16::try_from(self.groups.len()).expect("a node has at most 128 groups") {
            let binding = &mut self.groups[usize::from(group)];
            binding.engine.tick(&mut binding.actions);
            self.pump(io, group);
        }
    }

    /// Puts the header of a journal batch before its payload.
    fn seal_batch(
        &mut self,
        io: &mut Io<Message>,
        group: usize,
        slot: u8,
        offset_bytes: u32,
        payload_bytes: u32,
    ) {
        let block = self.groups[group].block.bytes();
        let header = self.locate(group, Place::Ring { offset_bytes }, block);
        let offset_bytes = offset_bytes + block;
        let crc = if payload_bytes == 0 {
            0
        } else {
            let payload = self.locate(group, Place::Ring { offset_bytes }, payload_bytes);
            io.arena().with_bytes(payload, |bytes| super::crc32c(0, bytes))
        };
        let engine = &self.groups[group].engine;
        io.arena_mut()
            .with_bytes_mut(header, |bytes| engine.seal(slot, crc, bytes));
    }

    /// Begins a drive command of a group's engine: on these blocks of a member, with its data in this place.
    fn ask_drive(
        &mut self,
        io: &mut Io<Message>,
        group: usize,
        tag: IoTag,
        kind: Kind,
        (member, lba, blocks): (MemberIndex, MemberLba, u32),
        place: Option<Place>,
    ) {
        let binding = &self.groups[group];
        let shift = binding.block.shift();
        let bytes = blocks << shift;
        let command = DriveCommand {
            // A missing member's commands never get here.
            drive: binding.drives[usize::from(member.0)],
            group: binding.shared.index,
            tag,
            kind,
            at: lba.0 << shift,
            bytes,
            memory: place.map(|place| (place, self.locate(group, place, bytes))),
        };
        match self.start_drive(io, command) {
            Outcome::Pending => {}
            Outcome::Done(result) => {
                let binding = &mut self.groups[group];
                binding.engine.drive_done(tag, result, &mut binding.actions);
            }
        }
    }

    fn wake_cores(&mut self, io: &mut Io<Message>, group: u16, mask: u16, row: RowIndex) {
        let is_shared = self.groups[usize::from(group)].shared.is_shared();
        for core in (0..16u16).filter(|core| mask >> core & 1 == 1) {
            if is_shared && core == HOME {
                self.tell_control(io, ControlMessage::HomeTurn { group, row });
            } else if core == self.index.0 {
                let binding = &mut self.groups[usize::from(group)];
                binding.engine.wake(row, &mut binding.actions);
            } else {
                self.tell(io, reactor::CoreIndex(core), Message::Wake { group, row });
            }
        }
    }

    fn complete_request(
        &mut self,
        io: &mut Io<Message>,
        group: u16,
        command: CommandId,
        result: Result<(), GroupError>,
    ) {
        match self.commands.owner(command) {
            Owner::Host(queue, slot) => {
                // After what is said was looked up: a pause of this process since then is noticed.
                if self
                    .lease
                    .as_ref()
                    .is_none_or(|lease| lease.covers(reactor::now()))
                {
                    return self.request_done(io, queue, slot, result);
                }
                self.withheld.push((queue, slot, result));
            }
            Owner::Internal(InternalCommand::Drain) => {
                self.commands.remove(command);
                let drained = result.is_ok();
                self.tell_control(io, ControlMessage::GroupDrained { group, drained });
            }
            Owner::Internal(InternalCommand::Retire) => {
                self.commands.remove(command);
                let retired = result.is_ok();
                self.tell_control(io, ControlMessage::GroupRetired { group, retired });
            }
            Owner::Internal(internal) => {
                self.commands.remove(command);
                self.with_control(io, |control, core, io| {
                    control.internal_done(core, io, group, internal, result)
                });
            }
        }
    }
}
