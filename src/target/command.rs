//! Commands of hosts on their core: from the capsule to the array and back to the completion.

use nvme::command::{Direction, Sgl, SubmissionEntry};
use nvme::io::{FuseKind, IoLimits, IoRequest, fuse_kind};
use nvme::reservation::wire::is_reservation;
use nvme::status::Status;
use nvme::subsystem::QueueId;
use nvme::tcp::target::{Event, Slot};
use reactor::{Io, Nanos, Span};

use super::array::status_of;
use super::connection::{Command, CommandState, Life, Next, Role};
use super::core::{Core, queue_index};
use super::message::{ControlMessage, Message};
use super::namespaces::Namespace;
use crate::amf::background::Process;
use crate::amf::engine::{CommandId, GroupError, Request};
use crate::drive::block::{GroupLba, NamespaceLba};
use crate::vdisk::VirtualDisk;

/// Namespace identifier that means all namespaces.
const NSID_ALL: u32 = 0xffff_ffff;

/// Most failed commands that one core reports to the error log in a tick; a host may cause any number.
const FAILURES_PER_TICK_MAX: u32 = 16;
/// Most data that an admin or Fabrics command brings.
const ADMIN_DATA_BYTES_MAX: u32 = nvme::tcp::target::ADMIN_IN_CAPSULE_BYTES;

/// Most commands of one core in the hands of its engines; further ones wait like those without a buffer.
///
/// Buffers are at least 4 KiB, so this many take 32 MiB of a core's memory.
pub const COMMANDS_MAX: u32 = 8192;

/// Whose a command is that an engine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A host's, in this slot of this connection.
    Host(QueueId, Slot),
    /// The control core's own.
    Internal(InternalCommand),
}

/// What the control core asks of its own engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InternalCommand {
    /// Do a row of this background process. Groups have at most 2^32 rows.
    Row(Process, u32),
    /// Move this row in a wave of an expansion.
    Move(u32),
    /// Make what a wave of an expansion has done durable.
    MoveFlush,
    /// Make what background work has done durable.
    BackgroundFlush,
    /// Write blocks anew that a member could not read.
    Repair {
        /// Names the repair.
        number: u32,
    },
    /// Bring this core's dirty data to its place before the group is closed.
    Drain,
    /// Bring what is in this core's lane by now to its place, before the group relies on a rebuilt member.
    Retire,
    /// Make everything durable before the group is closed.
    Close,
}

/// The commands that a core's engines have, by their names: the names are dense, as engines want them.
pub struct Commands {
    owners: Vec<Option<Owner>>,
    /// Buffer of each command.
    spans: Vec<Option<Span>>,
    free: Vec<u32>,
}

impl Default for Commands {
    fn default() -> Self {
        let count = COMMANDS_MAX as usize;
        Self {
            owners: vec![None; count],
            spans: vec![None; count],
            free: (0..COMMANDS_MAX).rev().collect(),
        }
    }
}

impl Commands {
    /// Names a command; `None` when there are as many as there may be.
    pub fn insert(&mut self, owner: Owner, span: Option<Span>) -> Option<CommandId> {
        let id = self.free.pop()?;
        self.owners[id as usize] = Some(owner);
        self.spans[id as usize] = span;
        Some(CommandId(id))
    }

    /// Whose the command is. Panics if nobody's: engines name only what they were given.
    pub fn owner(&self, id: CommandId) -> Owner {
        self.owners[id.0 as usize].expect("an engine names only commands that it was given")
    }

    /// Those of hosts, whichever engines have them.
    pub fn of_hosts(&self) -> impl Iterator<Item = CommandId> {
        let all = (0..).map(CommandId).zip(&self.owners);
        all.filter(|(_, owner)| matches!(owner, Some(Owner::Host(..))))
            .map(|(id, _)| id)
    }

    /// The command's buffer. Panics if it has none: engines ask for buffers only of commands that move data.
    pub fn span(&self, id: CommandId) -> Span {
        self.spans[id.0 as usize].expect("a command that moves data has a buffer")
    }

    /// The command has another buffer from now on.
    pub fn replace_span(&mut self, id: CommandId, span: Span) {
        let old = self.spans[id.0 as usize].replace(span);
        assert!(old.is_some(), "only a command with a buffer gets another one");
    }

    /// Forgets a command.
    pub fn remove(&mut self, id: CommandId) {
        assert!(
            self.owners[id.0 as usize].take().is_some(),
            "a command is forgotten once"
        );
        self.spans[id.0 as usize] = None;
        self.free.push(id.0);
    }
}

/// Whether a command of an I/O queue is the control core's: Fabrics and reservation commands.
const fn is_for_control(opcode: u8) -> bool {
    opcode == nvme::command::io_opcode::FABRICS || is_reservation(opcode)
}

/// What a command of a host asks of an engine, beside what stands in it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The host was told that what is written is durable when it is done.
    durable: bool,
    /// The write of a fused pair, and whether it forces unit access.
    write: Option<(CommandId, bool)>,
    /// What other commands wrote may still be volatile in the drives: a read that forces unit access makes it durable first.
    flushes_first: bool,
}

impl Asked {
    fn of(self, namespace: &Namespace, request: IoRequest) -> Result<Request, Status> {
        let Namespace {
            disk, replication, ..
        } = *namespace;
        let base = |slba: u64, blocks: u64| {
            disk.group_range(NamespaceLba(slba), blocks)
                .map_err(|_| Status::LBA_OUT_OF_RANGE.do_not_retry())
        };
        Ok(match request {
            IoRequest::Read { .. } if self.flushes_first => Request::Flush,
            IoRequest::Read { slba, blocks, fua } => {
                read_request(base(slba, u64::from(blocks))?, blocks, fua, disk)
            }
            IoRequest::Write { slba, blocks, fua } => Request::Write {
                lba: base(slba, u64::from(blocks))?,
                blocks,
                fua: fua || self.durable,
                replication,
            },
            IoRequest::Compare { slba, blocks } => {
                let lba = base(slba, u64::from(blocks))?;
                match self.write {
                    Some((write, fua)) => Request::CompareWrite {
                        lba,
                        blocks,
                        write,
                        fua,
                    },
                    None => Request::Compare { lba, blocks },
                }
            }
            IoRequest::WriteZeroes {
                slba,
                blocks,
                deallocate,
                fua,
            } => Request::Zero {
                lba: base(slba, u64::from(blocks))?,
                blocks: u64::from(blocks),
                deallocate,
                fua: fua || self.durable,
                replication,
            },
            IoRequest::Flush | IoRequest::DatasetManagement { .. } => {
                unreachable!("they are of no one range")
            }
        })
    }
}

/// A host's read. Forced unit access is to see what the medium has.
fn read_request(lba: GroupLba, blocks: u32, fua: bool, disk: VirtualDisk) -> Request {
    if fua {
        return Request::Read { lba, blocks };
    }
    Request::CachedRead {
        lba,
        blocks,
        disk_end: disk.group_end(),
    }
}

impl Core {
    /// Parses what a host sent. Returns how many bytes at the end were not consumed, because a command that
    /// brings its data in the capsule found no buffer.
    pub(super) fn parse(&mut self, io: &mut Io<Message>, queue: QueueId, bytes: &[u8]) -> usize {
        let mut input = bytes;
        let mut outbox = std::mem::take(&mut self.outbox);
        let mut composed = false;
        while let Some(connection) = self.connections.find(queue) {
            if connection.blocked.is_some() || connection.is_congested() || connection.life != Life::Open {
                break;
            }
            let event = connection.machine.next(&mut input, &mut outbox);
            if !outbox.is_empty() {
                connection.compose(&mut outbox, None);
                composed = true;
            }
            match event {
                None => break,
                Some(Event::Data {
                    slot,
                    offset_bytes,
                    bytes,
                }) => {
                    let command = connection.command(slot);
                    let span = command.span.expect("data flows only to an admitted command");
                    io.arena_mut().copy_in(span, offset_bytes, bytes);
                    if command.comes_in_parts() {
                        self.outbox = outbox;
                        self.part_arrived(io, queue, slot);
                        outbox = std::mem::take(&mut self.outbox);
                    }
                }
                Some(Event::Command {
                    slot,
                    entry,
                    direction,
                    transfer_bytes,
                }) => {
                    self.outbox = outbox;
                    self.take_command(io, queue, slot, entry, direction, transfer_bytes);
                    outbox = std::mem::take(&mut self.outbox);
                }
                Some(Event::DataDone { slot }) => {
                    self.outbox = outbox;
                    self.data_done(io, queue, slot);
                    outbox = std::mem::take(&mut self.outbox);
                }
                Some(Event::DataCorrupt { slot }) => {
                    self.outbox = outbox;
                    self.data_corrupt(io, queue, slot);
                    outbox = std::mem::take(&mut self.outbox);
                }
                Some(Event::Close { reason }) => {
                    tracing::warn!(
                        peer = %connection.peer,
                        ?reason,
                        "connection ended: the host broke the protocol"
                    );
                    self.outbox = outbox;
                    self.begin_close(io, queue);
                    outbox = std::mem::take(&mut self.outbox);
                }
            }
        }
        self.outbox = outbox;
        if composed {
            self.mark_dirty(queue_index(queue));
        }
        input.len()
    }

    /// A capsule arrived: decides what it needs and gets it started.
    fn take_command(
        &mut self,
        io: &mut Io<Message>,
        queue: QueueId,
        slot: Slot,
        entry: SubmissionEntry,
        direction: Direction,
        transfer_bytes: u32,
    ) {
        let started = io.now();
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        let is_io = connection.role == Role::Io && !is_for_control(entry.opcode());
        *connection.command(slot) = Command {
            entry,
            transfer_bytes,
            started,
            ..Command::free()
        };
        if is_io {
            let checked = self
                .pair_fused(io, queue, slot, &entry)
                .and_then(|()| self.parse_io(queue, slot, &entry, transfer_bytes))
                .and_then(|()| self.check_pair(queue, slot));
            if let Err(status) = checked {
                // What is not even known is forbidden like a write (PROTOCOL H08).
                let refused = self.is_refused(queue, slot);
                let status = if refused { self.conflict() } else { status };
                return self.end_pair(io, queue, slot, status);
            }
        } else if direction == Direction::FromHost && transfer_bytes > ADMIN_DATA_BYTES_MAX {
            // No admin or Fabrics command brings as much: nobody gets such a buffer without an association.
            return self.end_command(io, queue, slot, Status::DATA_SGL_LENGTH_INVALID.do_not_retry());
        }
        let needs_buffer = is_io || (transfer_bytes > 0 && direction == Direction::FromHost);
        if needs_buffer && !self.give_buffer(io, queue, slot) {
            let connection = self.connections.find(queue).expect("looked up above");
            connection.command(slot).state = CommandState::AwaitingBuffer;
            if direction == Direction::FromHost && matches!(entry.sgl(), Sgl::InCapsule { .. }) {
                connection.blocked = Some(slot);
            }
            self.awaiting_buffer.push_back((queue, slot));
            return;
        }
        self.with_buffer(io, queue, slot);
    }

    /// Reads an I/O command into the slot, against its namespace.
    fn parse_io(
        &mut self,
        queue: QueueId,
        slot: Slot,
        entry: &SubmissionEntry,
        bytes: u32,
    ) -> Result<(), Status> {
        let nsid = if entry.nsid() == NSID_ALL && entry.opcode() == nvme::command::io_opcode::FLUSH {
            self.namespaces
                .first_of_lowest_group()
                .ok_or(Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry())?
        } else {
            entry.nsid()
        };
        let namespace = self
            .namespaces
            .find(nsid)
            .ok_or(Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry())?;
        // What has begun before its port is deleted goes on.
        let refusal = namespace.access.refusal();
        if let Some(status) = refusal.filter(|_| entry.nsid() != NSID_ALL) {
            return Err(status);
        }
        let limits = IoLimits {
            max_transfer_bytes: self.limits.machine.max_transfer_bytes,
            compare_write_blocks_max: namespace.compare_write_blocks_max,
        };
        let request = IoRequest::parse(entry, bytes, &namespace.format, &limits)?;
        let group = namespace.group;
        let next = match request {
            IoRequest::Flush if entry.nsid() == NSID_ALL => Next::FlushGroup(group),
            IoRequest::Read { fua: true, .. } => Next::Read,
            IoRequest::DatasetManagement { .. } => Next::Range(0),
            IoRequest::Flush
            | IoRequest::Read { .. }
            | IoRequest::Write { .. }
            | IoRequest::Compare { .. }
            | IoRequest::WriteZeroes { .. } => Next::Complete,
        };
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let command = connection.command(slot);
        command.request = Some(request);
        command.group = group;
        command.next = next;
        Ok(())
    }

    /// Allocates the buffer of a command; false when there is none now.
    fn give_buffer(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot) -> bool {
        if !self.awaiting_buffer.is_empty() {
            return false; // First come, first served.
        }
        self.take_buffer(io, queue, slot)
    }

    fn take_buffer(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot) -> bool {
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let command = connection.command(slot);
        let span = match command.transfer_bytes {
            0 => None,
            bytes => match io.arena_mut().alloc(bytes) {
                Some(span) => Some(span),
                None => return false,
            },
        };
        if command.request.is_some() {
            command.id = self.commands.insert(Owner::Host(queue, slot), span);
            if command.id.is_none() {
                if let Some(span) = span {
                    self.give_back(io, span);
                }
                return false;
            }
        }
        command.span = span;
        true
    }

    /// The command has the buffer that it needs: asks for its data, or runs it.
    fn with_buffer(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot) {
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let command = connection.command(slot);
        if command.transfer_bytes > 0 && command.entry.direction() == Direction::FromHost {
            command.state = CommandState::AwaitingData;
            let mut outbox = std::mem::take(&mut self.outbox);
            connection.machine.admit(slot, &mut outbox);
            if !outbox.is_empty() {
                connection.compose(&mut outbox, None);
                self.mark_dirty(queue_index(queue));
            }
            self.outbox = outbox;
        } else {
            self.run_command(io, queue, slot);
        }
    }

    /// Gives buffers that became free to the commands that wait for them, in order.
    pub(super) fn serve_buffer_queue(&mut self, io: &mut Io<Message>) {
        while let Some(&(queue, slot)) = self.awaiting_buffer.front() {
            let waits = self.connections.find(queue).is_some_and(|connection| {
                connection.life == Life::Open
                    && connection.command(slot).state == CommandState::AwaitingBuffer
            });
            if waits && !self.take_buffer(io, queue, slot) {
                return;
            }
            self.awaiting_buffer.pop_front();
            if waits {
                self.with_buffer(io, queue, slot);
                let open = self.connections.find(queue);
                if open.is_some_and(|connection| connection.blocked == Some(slot)) {
                    self.resume_parsing(io, queue);
                }
            }
        }
    }

    /// All data of a command is here.
    fn data_done(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot) {
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let command = connection.command(slot);
        if let Some(status) = command.end_with {
            return self.end_pair(io, queue, slot, status);
        }
        if command.state == CommandState::Running {
            // What the array takes is not what the host took to send it.
            command.submitted = io.now();
            return self.more_arrived(io, queue, slot);
        }
        self.run_command(io, queue, slot);
    }

    /// Some of the data of a long write is here: what is right of it goes on its way while the rest comes (patent application, Figure 12).
    fn part_arrived(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot) {
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let sound_bytes = connection.machine.sound_bytes(slot);
        let command = connection.command(slot);
        let is_part = (1..command.transfer_bytes).contains(&sound_bytes) && command.end_with.is_none();
        match command.state {
            CommandState::AwaitingData if is_part => self.run_command(io, queue, slot),
            CommandState::Running if is_part => self.more_arrived(io, queue, slot),
            CommandState::Free
            | CommandState::AwaitingBuffer
            | CommandState::AwaitingData
            | CommandState::AwaitingPartner
            | CommandState::Running
            | CommandState::AtControl => {}
        }
    }

    /// More of the data of a write is here that an engine has begun.
    fn more_arrived(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot) {
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let sound_bytes = connection.machine.sound_bytes(slot);
        let command = connection.command(slot);
        let (group, id) = (command.group, command.id.expect("an engine has it"));
        let blocks = command.blocks_in(sound_bytes);
        self.arrived_for_group(io, group, id, blocks);
    }

    /// A digest of a command's data was wrong. What had come before it may be written already, and the host hears that its command has failed.
    fn data_corrupt(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot) {
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let command = connection.command(slot);
        if command.state != CommandState::Running {
            return self.end_pair(io, queue, slot, Status::TRANSIENT_TRANSPORT_ERROR);
        }
        command.end_with = Some(Status::TRANSIENT_TRANSPORT_ERROR);
        let (group, id) = (command.group, command.id.expect("an engine has it"));
        self.give_up_in_group(io, group, id);
    }

    /// The command has all that it needs: hands it to the control core or to its group's engine.
    fn run_command(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot) {
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let command = connection.command(slot);
        let Some(request) = command.request else {
            command.state = CommandState::AtControl;
            let entry = command.entry;
            let span = command.span.take();
            let data = span
                .map(|span| io.arena().with_bytes(span, <[u8]>::to_vec))
                .unwrap_or_default();
            if let Some(span) = span {
                self.give_back(io, span);
            }
            return self.tell_control(
                io,
                ControlMessage::Capsule {
                    queue,
                    slot: slot.0,
                    entry,
                    data,
                },
            );
        };
        if fuse_kind(&command.entry) != FuseKind::None {
            return self.run_fused(io, queue, slot);
        }
        if self.is_refused(queue, slot) {
            let status = self.conflict();
            return self.end_pair(io, queue, slot, status);
        }
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let command = connection.command(slot);
        command.state = CommandState::Running;
        self.note_begin(io, queue, slot);
        self.submit(io, queue, slot, request);
    }

    /// Hands one request of a command to its group's engine.
    pub(super) fn submit(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot, request: IoRequest) {
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let nsid = connection.command(slot).entry.nsid();
        let namespace = self.namespaces.find(nsid);
        // A host that was told that there is no volatile write cache does not flush, also where there is one since (PROTOCOL H39).
        let durable = connection.write_through && namespace.is_some_and(|namespace| namespace.volatile);
        let write = connection.command(slot).partner.map(|partner| {
            let command = connection.command(partner);
            let fua = durable || matches!(command.request, Some(IoRequest::Write { fua: true, .. }));
            (command.id.expect("given with its buffer"), fua)
        });
        let command = connection.command(slot);
        command.submitted = io.now();
        let group = command.group;
        let id = command.id.expect("given with its buffer");
        if let IoRequest::DatasetManagement { ranges, deallocate } = request {
            return self.next_range(io, queue, slot, ranges, deallocate);
        }
        let flushes_first = command.next == Next::Read;
        let asked = Asked {
            durable,
            write,
            flushes_first,
        };
        // A flush may be of all namespaces.
        let request = if request == IoRequest::Flush {
            Ok(Request::Flush)
        } else {
            namespace
                .ok_or(Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry())
                .and_then(|namespace| asked.of(namespace, request))
        };
        let sound_bytes = connection.machine.sound_bytes(slot);
        let command = connection.command(slot);
        let is_part = command.comes_in_parts() && sound_bytes < command.transfer_bytes;
        let arrived_blocks = is_part.then(|| command.blocks_in(sound_bytes));
        match request {
            Ok(request) => {
                connection.running += if write.is_some() { 2 } else { 1 };
                match arrived_blocks {
                    Some(blocks) => self.submit_part_to_group(io, group, id, (request, blocks)),
                    None => self.submit_group(io, group, id, request),
                }
            }
            Err(status) => self.fail_submit(io, queue, slot, status),
        }
    }

    /// Completes a command, and its other half, that turned out not to fit its namespace any more.
    fn fail_submit(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot, status: Status) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        if !connection.machine.can_complete(slot) {
            return Self::fail_when_sent(connection.command(slot), status);
        }
        if let Some(partner) = connection.command(slot).partner {
            self.finish_one(io, queue, partner, Status::ABORTED_FAILED_FUSED);
        }
        self.finish_one(io, queue, slot, status);
    }

    /// A command has failed while its host still sends its data: the host hears of it when it has sent all.
    const fn fail_when_sent(command: &mut Command, status: Status) {
        (command.state, command.end_with) = (CommandState::AwaitingData, Some(status));
    }

    /// Submits the next range of a Dataset Management command, or completes it after the last.
    fn next_range(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot, count: u16, deallocate: bool) {
        let connection = self
            .connections
            .find(queue)
            .expect("the caller holds this connection");
        let command = connection.command(slot);
        let id = command.id.expect("given with its buffer");
        let Next::Range(mut range) = command.next else {
            unreachable!("a DSM command goes range by range")
        };
        let span = command.span.expect("its ranges are in its buffer");
        let (nsid, group) = (command.entry.nsid(), command.group);
        let Some(namespace) = self.namespaces.find(nsid) else {
            return self.finish_one(
                io,
                queue,
                slot,
                Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry(),
            );
        };
        // The other attributes are hints that change nothing here.
        while deallocate && range < count {
            let parsed = io.arena().with_bytes(span, |bytes| {
                nvme::io::parse_dsm_ranges(bytes, count, &namespace.format)
                    .map(|mut all| all.nth(usize::from(range)))
            });
            range += 1;
            let parsed = match parsed {
                Ok(parsed) => parsed.expect("the range is below their number"),
                Err(status) => return self.finish_one(io, queue, slot, status),
            };
            if parsed.blocks == 0 {
                continue;
            }
            let Ok(lba) = namespace
                .disk
                .group_range(NamespaceLba(parsed.slba), u64::from(parsed.blocks))
            else {
                return self.finish_one(io, queue, slot, Status::LBA_OUT_OF_RANGE.do_not_retry());
            };
            command.next = Next::Range(range);
            connection.running += 1;
            let request = Request::Zero {
                lba,
                blocks: u64::from(parsed.blocks),
                deallocate: true,
                fua: connection.write_through && namespace.volatile,
                replication: namespace.replication,
            };
            return self.submit_group(io, group, id, request);
        }
        self.finish_one(io, queue, slot, Status::SUCCESS);
    }

    /// An engine completed one request of a host's command.
    pub(super) fn request_done(
        &mut self,
        io: &mut Io<Message>,
        queue: QueueId,
        slot: Slot,
        result: Result<(), GroupError>,
    ) {
        let refused = self.is_refused(queue, slot);
        let connection = self
            .connections
            .find(queue)
            .expect("a connection stays until its commands are done");
        assert!(
            connection.running > 0,
            "an engine completes only what it was given"
        );
        connection.running -= 1;
        let draining = connection.life != Life::Open;
        let command = connection.command(slot);
        let request = command.request.expect("engines get I/O commands only");
        let next = command.next;
        let id = command.id.expect("an engine has it");
        let goes_on = matches!(next, Next::Range(_) | Next::Read) && result.is_ok() && !draining;
        if goes_on && refused {
            // Its host lost the right to it while it was under way: what is left of it does not begin.
            let status = self.conflict();
            return self.finish_one(io, queue, slot, status);
        }
        if goes_on {
            match (next, request) {
                (Next::Range(_), IoRequest::DatasetManagement { ranges, deallocate }) => {
                    return self.next_range(io, queue, slot, ranges, deallocate);
                }
                (Next::Read, read) => {
                    command.next = Next::Complete;
                    return self.submit(io, queue, slot, read);
                }
                (Next::Complete | Next::Range(_) | Next::FlushGroup(_), _) => {}
            }
        }
        let mut status = match result {
            Ok(()) => Status::SUCCESS,
            Err(error) => status_of(error, &request),
        };
        if command.comes_in_parts() {
            status = command.end_with.unwrap_or(status);
        }
        if let Next::FlushGroup(flushed) = next {
            // Every group is flushed, also after one of them could not be; the first error counts.
            status = command.end_with.unwrap_or(status);
            command.end_with = (!status.is_success()).then_some(status);
            if let Some(group) = self.namespaces.group_after(flushed).filter(|_| !draining) {
                command.next = Next::FlushGroup(group);
                command.group = group;
                connection.running += 1;
                return self.submit_group(io, group, id, Request::Flush);
            }
        }
        if !draining && !connection.machine.can_complete(slot) {
            return Self::fail_when_sent(connection.command(slot), status);
        }
        self.finish_one(io, queue, slot, status);
        self.continue_close(io, queue);
    }

    /// Completes one command towards its host and gives its buffer back.
    pub(super) fn finish_one(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot, status: Status) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        let is_io = connection.role == Role::Io;
        let host = connection.host;
        let command = std::mem::replace(connection.command(slot), Command::free());
        let mut free = command.span;
        if let Some(id) = command.id {
            self.commands.remove(id);
        }
        if connection.life == Life::Open {
            let mut outbox = std::mem::take(&mut self.outbox);
            let reads = matches!(command.request, Some(IoRequest::Read { .. }));
            if reads && status.is_success() {
                let span = free
                    .take()
                    .expect("a read has a buffer")
                    .part(0, command.transfer_bytes);
                let crc = connection
                    .machine
                    .digests()
                    .1
                    .then(|| io.arena().with_bytes(span, |bytes| super::crc32c(0, bytes)));
                connection
                    .machine
                    .complete_with_data(slot, 0, command.transfer_bytes, crc, &mut outbox);
                connection.compose(&mut outbox, command.span);
            } else {
                connection.machine.complete(slot, 0, status, &mut outbox);
                connection.compose(&mut outbox, None);
            }
            self.outbox = outbox;
            self.mark_dirty(queue_index(queue));
            let now = reactor::now();
            self.latencies.command(&command, now);
            self.note_array_latency(&command, now);
        }
        self.note_end(io, &command, host, status);
        self.count(&command, status);
        if let Some(span) = free {
            self.give_back(io, span);
        }
        if !status.is_success() && is_io {
            self.report_failure(io, queue, &command, status);
        }
        self.tend_orders(io);
    }

    /// Notes for how long a group has had a read or write, for background work that makes way for hosts.
    fn note_array_latency(&mut self, command: &Command, now: Nanos) {
        let counts = matches!(
            command.request,
            Some(IoRequest::Read { .. } | IoRequest::Write { .. })
        );
        if counts
            && command.submitted > 0
            && let Some(binding) = self.groups.get_mut(usize::from(command.group))
        {
            binding.hosts.record(now.saturating_sub(command.submitted));
        }
    }

    /// Adds a completed command to the traffic counters.
    fn count(&mut self, command: &Command, status: Status) {
        if !status.is_success() {
            return;
        }
        match command.request {
            Some(IoRequest::Read { .. } | IoRequest::Compare { .. }) => {
                self.traffic.read_commands += 1;
                self.traffic.read_bytes += u64::from(command.transfer_bytes);
            }
            Some(IoRequest::Write { .. }) => {
                self.traffic.write_commands += 1;
                self.traffic.write_bytes += u64::from(command.transfer_bytes);
            }
            Some(IoRequest::WriteZeroes { .. } | IoRequest::Flush | IoRequest::DatasetManagement { .. })
            | None => {}
        }
    }

    fn report_failure(&mut self, io: &mut Io<Message>, queue: QueueId, command: &Command, status: Status) {
        // What the host asked for or got in the ordinary course of things is no error of this controller.
        let ordinary = [
            Status::COMMAND_ABORT_REQUESTED,
            Status::COMPARE_FAILURE,
            Status::ANA_INACCESSIBLE,
            Status::ABORTED_FAILED_FUSED,
            Status::ABORTED_BY_PREEMPTION,
            Status::RESERVATION_CONFLICT,
        ];
        if ordinary.iter().any(|known| status.same_code(*known)) || self.failures >= FAILURES_PER_TICK_MAX {
            return;
        }
        self.failures += 1;
        let slba = command.entry.qword(10);
        let (cid, nsid) = (command.entry.cid(), command.entry.nsid());
        self.tell_control(
            io,
            ControlMessage::Failed {
                queue,
                cid,
                status,
                nsid,
                slba,
            },
        );
    }

    /// Sends the control core's answer to a capsule.
    pub(super) fn complete_control(
        &mut self,
        queue: QueueId,
        slot: Slot,
        result: u64,
        status: Status,
        data: &[u8],
    ) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        if connection.life != Life::Open || connection.command(slot).state != CommandState::AtControl {
            return;
        }
        *connection.command(slot) = Command::free();
        let mut outbox = std::mem::take(&mut self.outbox);
        if data.is_empty() || !status.is_success() {
            connection.machine.complete(slot, result, status, &mut outbox);
            connection.compose(&mut outbox, None);
        } else {
            let length = u32::try_from(data.len()).expect("log pages and structures are small");
            let crc = connection.machine.digests().1.then(|| super::crc32c(0, data));
            connection
                .machine
                .complete_with_data(slot, result, length, crc, &mut outbox);
            connection.compose_bytes(&mut outbox, data);
        }
        self.outbox = outbox;
        self.mark_dirty(queue_index(queue));
    }

    /// Tries to abort a command: true only when it will not take effect any more.
    pub(super) fn abort_command(&mut self, io: &mut Io<Message>, queue: QueueId, cid: u16) -> bool {
        let Some(connection) = self.connections.find(queue) else {
            return false;
        };
        let Some(slot) = connection.machine.find(cid) else {
            return false;
        };
        match connection.command(slot).state {
            CommandState::AwaitingBuffer | CommandState::AwaitingPartner | CommandState::AwaitingData => {
                self.end_pair(io, queue, slot, Status::COMMAND_ABORT_REQUESTED);
                true
            }
            CommandState::Running => {
                let command = connection.command(slot);
                let (group, id) = (command.group, command.id.expect("an engine has it"));
                self.abort_in_group(io, group, id)
            }
            CommandState::Free | CommandState::AtControl => false,
        }
    }

    /// Ends the commands of a closing connection that no engine has begun.
    pub(super) fn abandon_commands(&mut self, io: &mut Io<Message>, queue: QueueId) {
        let slots = self.limits.machine.slots_max;
        for slot in (0..slots).map(Slot) {
            let Some(connection) = self.connections.find(queue) else {
                return;
            };
            let command = *connection.command(slot);
            match command.state {
                CommandState::Running => {
                    self.give_up_in_group(io, command.group, command.id.expect("an engine has it"));
                }
                CommandState::AwaitingBuffer
                | CommandState::AwaitingData
                | CommandState::AwaitingPartner
                | CommandState::AtControl => {
                    let host = connection.host;
                    *connection.command(slot) = Command::free();
                    if let Some(status) = command.end_with.filter(|_| command.logged > 0) {
                        self.note_end(io, &command, host, status);
                    }
                    if let Some(span) = command.span {
                        self.give_back(io, span);
                    }
                    if let Some(id) = command.id {
                        self.commands.remove(id);
                    }
                }
                CommandState::Free => {}
            }
        }
    }
}
