//! One connection of the host on its core: the protocol machine, the commands in flight with their buffers, and what
//! is to be sent.

use nvme::command::{CompletionEntry, SubmissionEntry};
use nvme::tcp::initiator::{self, Outbox, Part, Payload};
use reactor::{Arena, Nanos, OperationId, SendBatch, SocketId, Span};

use super::job::{Job, QueueName};

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Awaits the TCP handshake.
    Connecting {
        /// The handshake, to call it off; `None` if it was refused at once.
        operation: Option<OperationId>,
        /// It is not wanted any more.
        cancelled: bool,
    },
    /// Awaits ICResp, then serves.
    Open,
    /// Awaits the sending of what ends the connection, until then at the latest.
    Terminating {
        /// When to close it all the same.
        until: Nanos,
    },
    /// Awaits that the ring has done with the socket.
    Leaving,
}

/// Whose a command is.
#[derive(Clone, Copy, Debug)]
pub enum Owner {
    /// The identifier is free.
    Nobody,
    /// The association's own.
    Association,
    /// The workload's.
    Workload(Job),
    /// It is over, but the kernel has not yet done with sending its data.
    Lingering,
}

/// One command identifier.
struct Command {
    owner: Owner,
    span: Option<Span>,
    deadline: Nanos,
    /// Sends in preparation or on their way that carry a part of `span`.
    sends: u16,
}

/// A command that is over: who asked, and the buffer with its data.
pub struct Ended {
    /// Whose it was.
    pub owner: Owner,
    /// Its identifier, to be released when the data was looked at.
    pub cid: u16,
    /// Its buffer.
    pub span: Option<Span>,
}

/// A connection and everything that belongs to it on its core.
pub struct Queue {
    /// Which queue it is.
    pub name: QueueName,
    /// The control core's number for this opening of it.
    pub epoch: u32,
    /// How far it has come.
    pub life: Life,
    /// Its socket, once connected.
    pub socket: Option<SocketId>,
    /// The protocol.
    pub machine: initiator::Connection,
    /// Jobs may be submitted.
    pub ready: bool,
    /// Data bytes of a job at most, as the controller allows; set when it gets ready.
    pub max_transfer_bytes: u32,
    /// A job that waits for a buffer.
    pub held: Option<Job>,
    /// Whether it stands in the core's list of those that have something to send.
    pub dirty: bool,
    commands: Vec<Command>,
    free: Vec<u16>,
    /// Jobs in flight, and how many there may be.
    jobs: u16,
    jobs_max: u16,
    composing: Box<SendBatch>,
    composing_cids: Vec<u16>,
    /// A batch to compose into while the other is on its way; `None` while a send is in flight.
    spare: Option<Box<SendBatch>>,
    sending_cids: Vec<u16>,
}

impl Queue {
    /// A connection that is being made. Identifiers below `reserved` belong to the association, and `jobs_max` jobs
    /// may be in flight.
    pub fn new(
        name: QueueName,
        epoch: u32,
        life: Life,
        reserved: u16,
        jobs_max: u16,
        digests: (bool, bool),
    ) -> Self {
        // Twice as many identifiers as jobs: those whose data is still being sent keep theirs for a moment.
        let commands_max = jobs_max.saturating_mul(2).saturating_add(reserved);
        let options = initiator::Options {
            header_digest: digests.0,
            data_digest: digests.1,
            commands_max,
            in_capsule_bytes: if name.qid == 0 {
                nvme::tcp::target::ADMIN_IN_CAPSULE_BYTES
            } else {
                0
            },
        };
        let command = || Command {
            owner: Owner::Nobody,
            span: None,
            deadline: Nanos::MAX,
            sends: 0,
        };
        Self {
            name,
            epoch,
            life,
            socket: None,
            machine: initiator::Connection::new(options, crate::target::crc32c),
            ready: false,
            max_transfer_bytes: 0,
            held: None,
            dirty: false,
            commands: (0..commands_max).map(|_| command()).collect(),
            free: (reserved..commands_max).rev().collect(),
            jobs: 0,
            jobs_max,
            composing: Box::new(SendBatch::new()),
            composing_cids: Vec::new(),
            spare: Some(Box::new(SendBatch::new())),
            sending_cids: Vec::new(),
        }
    }

    /// Whether a job would be sent at once.
    pub fn has_room(&self) -> bool {
        self.ready && self.life == Life::Open && self.jobs < self.jobs_max && !self.free.is_empty()
    }

    /// Jobs in flight.
    pub fn jobs(&self) -> u16 {
        self.jobs
    }

    /// Sends a job whose data, if any, is in `span` or comes there. Panics unless it has room.
    pub fn submit_job(
        &mut self,
        arena: &Arena,
        job: Job,
        span: Option<Span>,
        deadline: Nanos,
        out: &mut Outbox,
    ) {
        assert!(self.has_room());
        let cid = self.free.pop().expect("has_room() says so");
        self.jobs += 1;
        let mut entry = job.entry;
        entry.set_cid(cid);
        self.submit(arena, entry, job.data, Owner::Workload(job), span, deadline, out);
    }

    /// Sends a command of the association. Panics if its identifier is in use.
    pub fn submit_own(
        &mut self,
        arena: &Arena,
        entry: SubmissionEntry,
        payload: Payload,
        span: Option<Span>,
        out: &mut Outbox,
    ) {
        self.submit(arena, entry, payload, Owner::Association, span, Nanos::MAX, out);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is one field of the command or its bookkeeping"
    )]
    fn submit(
        &mut self,
        arena: &Arena,
        entry: SubmissionEntry,
        payload: Payload,
        owner: Owner,
        span: Option<Span>,
        deadline: Nanos,
        out: &mut Outbox,
    ) {
        let cid = entry.cid();
        let command = &mut self.commands[usize::from(cid)];
        assert!(
            matches!(command.owner, Owner::Nobody),
            "an identifier is used once at a time"
        );
        assert!(command.sends == 0 && command.span.is_none());
        *command = Command {
            owner,
            span,
            deadline,
            sends: 0,
        };
        let commands = &self.commands;
        let mut crc = |cid, offset, bytes| payload_crc(commands, arena, cid, offset, bytes);
        self.machine.submit(entry, payload, &mut crc, out);
        self.compose(arena, out);
    }

    /// Takes the next event out of `input`; what is to be sent is composed. Data of commands goes to their buffers.
    pub fn next<'a>(
        &mut self,
        arena: &mut Arena,
        input: &mut &'a [u8],
        out: &mut Outbox,
    ) -> Option<initiator::Event<'a>> {
        let commands = &self.commands;
        let shared = &*arena;
        let mut crc = |cid, offset, bytes| payload_crc(commands, shared, cid, offset, bytes);
        let event = self.machine.next(input, &mut crc, out);
        if !out.is_empty() {
            self.compose(shared, out);
        }
        if let Some(initiator::Event::Data {
            cid,
            offset_bytes,
            bytes,
        }) = event
        {
            let span = self.commands[usize::from(cid)]
                .span
                .expect("a command that reads has a buffer");
            arena.copy_in(span, offset_bytes, bytes);
        }
        event
    }

    /// A command is over. Panics if the identifier is free: the machine names only commands in flight.
    pub fn end(&mut self, cid: u16) -> Ended {
        let command = &mut self.commands[usize::from(cid)];
        let owner = std::mem::replace(&mut command.owner, Owner::Lingering);
        match owner {
            Owner::Association => {}
            Owner::Workload(_) => self.jobs -= 1,
            Owner::Nobody | Owner::Lingering => unreachable!("a command ends once"),
        }
        Ended {
            owner,
            cid,
            span: command.span,
        }
    }

    /// Frees the identifier of a command that is over, and its buffer, unless the kernel still sends its data:
    /// then that happens when it has done so. Whether it was freed.
    pub fn release(&mut self, arena: &mut Arena, cid: u16) -> bool {
        let command = &mut self.commands[usize::from(cid)];
        assert!(
            matches!(command.owner, Owner::Lingering),
            "only what is over is released"
        );
        if command.sends > 0 {
            return false;
        }
        if let Some(span) = command.span.take() {
            arena.free(span);
        }
        command.owner = Owner::Nobody;
        if cid >= self.reserved() {
            self.free.push(cid);
        }
        true
    }

    fn reserved(&self) -> u16 {
        if self.name.qid == 0 {
            nvme::host::ADMIN_CIDS_RESERVED
        } else {
            1
        }
    }

    /// Whether a job is older than it may be.
    pub fn has_expired(&self, now: Nanos) -> bool {
        let expired =
            |command: &Command| matches!(command.owner, Owner::Workload(_)) && now >= command.deadline;
        self.jobs > 0 && self.commands.iter().any(expired)
    }

    /// A command that is in flight although the connection is gone, ended; `None` when there are no more.
    pub fn end_any(&mut self) -> Option<Ended> {
        let in_flight = |command: &Command| matches!(command.owner, Owner::Association | Owner::Workload(_));
        let at = self.commands.iter().position(in_flight)?;
        Some(self.end(u16::try_from(at).expect("identifiers have 16 bits")))
    }

    /// Moves what the machine wants sent into the batch.
    fn compose(&mut self, arena: &Arena, out: &mut Outbox) {
        for part in &out.parts {
            match *part {
                Part::Bytes { start, end } => self
                    .composing
                    .push_bytes(&out.bytes[start as usize..end as usize]),
                Part::Payload {
                    slot,
                    offset_bytes,
                    length_bytes,
                } => {
                    let command = &mut self.commands[usize::from(slot.0)];
                    let span = command.span.expect("a command that writes has a buffer");
                    let part = span.part(offset_bytes, length_bytes);
                    if matches!(command.owner, Owner::Association) {
                        // Small, and its identifier is used again as soon as the answer has come.
                        arena.with_bytes(part, |bytes| self.composing.push_bytes(bytes));
                        continue;
                    }
                    self.composing.push_span(part);
                    command.sends += 1;
                    self.composing_cids.push(slot.0);
                }
            }
        }
        out.clear();
    }

    /// Sends ICReq.
    pub fn start(&mut self, arena: &Arena, out: &mut Outbox) {
        self.machine.start(out);
        self.compose(arena, out);
    }

    /// Whether a batch is composed and none is on its way.
    pub fn can_send(&self) -> bool {
        self.spare.is_some() && !self.composing.is_empty()
    }

    /// Whether anything is composed or on its way.
    pub fn is_sending(&self) -> bool {
        self.spare.is_none() || !self.composing.is_empty()
    }

    /// Hands out the composed batch; `sent` brings it back.
    pub fn take_batch(&mut self) -> Box<SendBatch> {
        let spare = self
            .spare
            .take()
            .expect("one send at a time: the caller asked can_send()");
        assert!(self.sending_cids.is_empty(), "the last send was accounted for");
        std::mem::swap(&mut self.composing_cids, &mut self.sending_cids);
        std::mem::replace(&mut self.composing, spare)
    }

    /// The batch is on the wire (or lost). Whether that made room.
    pub fn sent(&mut self, arena: &mut Arena, mut batch: Box<SendBatch>) -> bool {
        assert!(
            self.spare.is_none(),
            "a batch comes back only after it was handed out"
        );
        batch.clear();
        self.spare = Some(batch);
        let mut cids = std::mem::take(&mut self.sending_cids);
        let freed = self.unsend(arena, &cids);
        cids.clear();
        self.sending_cids = cids;
        freed
    }

    /// The connection is gone: nothing that was composed will be sent.
    pub fn forget_composed(&mut self, arena: &mut Arena) {
        self.composing.clear();
        let cids = std::mem::take(&mut self.composing_cids);
        self.unsend(arena, &cids);
    }

    fn unsend(&mut self, arena: &mut Arena, cids: &[u16]) -> bool {
        let mut freed = false;
        for &cid in cids {
            let command = &mut self.commands[usize::from(cid)];
            command.sends -= 1;
            if command.sends == 0 && matches!(command.owner, Owner::Lingering) {
                freed |= self.release(arena, cid);
            }
        }
        freed
    }
}

/// CRC-32C of a part of a command's data.
fn payload_crc(commands: &[Command], arena: &Arena, cid: u16, offset_bytes: u32, bytes: u32) -> u32 {
    let span = commands[usize::from(cid)]
        .span
        .expect("only commands that write are asked for");
    arena.with_bytes(span.part(offset_bytes, bytes), |bytes| {
        crate::target::crc32c(0, bytes)
    })
}

/// The completion that stands for data whose digest was wrong.
pub fn corrupt(cid: u16) -> CompletionEntry {
    CompletionEntry {
        result: 0,
        sqhd: 0,
        cid,
        status: nvme::status::Status::TRANSIENT_TRANSPORT_ERROR,
    }
}
