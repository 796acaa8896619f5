//! One connection of the host on its core: the protocol machine, the commands in flight with their buffers, and what
//! is to be sent.

use nvme::command::{CompletionEntry, SubmissionEntry};
use nvme::tcp::initiator::{self, Outbox, Part, Payload};
use reactor::{Arena, Nanos, OperationId, SendBatch, SocketId, Span};

use super::job::QueueName;

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

/// A command of whoever owns the core, before it has an identifier.
#[derive(Clone, Copy, Debug)]
pub struct Submission<J> {
    /// What the owner knows it by.
    pub job: J,
    /// The command.
    pub entry: SubmissionEntry,
    /// Its data. The direction agrees with the opcode.
    pub data: Payload,
    /// Where that is, or comes to: the owner's, lent until [`Happened::Released`](super::queues::Happened::Released).
    pub span: Option<Span>,
    /// When the connection is given up if it is not over.
    pub deadline: Nanos,
}

/// Whose a command is.
#[derive(Clone, Copy, Debug)]
pub enum Owner<J> {
    /// The identifier is free.
    Nobody,
    /// The association's own.
    Association,
    /// The core's owner's.
    Job(J),
    /// The core's owner's, and over; but the kernel has not yet done with sending its data.
    Lingering(J),
}

/// One command identifier.
struct Command<J> {
    owner: Owner<J>,
    span: Option<Span>,
    deadline: Nanos,
    /// Sends in preparation or on their way that carry a part of `span`.
    sends: u16,
}

/// A command that is over.
pub enum Ended<J> {
    /// One of the association's, with the buffer of its data, which is the caller's now.
    Own(Option<Span>),
    /// A job.
    Job {
        /// Which one.
        job: J,
        /// The kernel has nothing of its data any more. Otherwise `sent` or `forget_composed` tell when that is so.
        released: bool,
    },
}

/// A connection and everything that belongs to it on its core.
pub struct Queue<J> {
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
    /// Whether it stands in the core's list of those that have something to send.
    pub dirty: bool,
    commands: Vec<Command<J>>,
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

impl<J: Copy> Queue<J> {
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

    /// Sends a job. Panics unless it has room.
    pub fn submit_job(&mut self, arena: &Arena, submission: Submission<J>, out: &mut Outbox) {
        assert!(self.has_room());
        let cid = self.free.pop().expect("has_room() says so");
        self.jobs += 1;
        let mut submission = submission;
        submission.entry.set_cid(cid);
        let owner = Owner::Job(submission.job);
        self.submit(arena, owner, &submission, out);
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
        let submission = Submission {
            job: (),
            entry,
            data: payload,
            span,
            deadline: Nanos::MAX,
        };
        self.submit(arena, Owner::Association, &submission, out);
    }

    fn submit<T>(&mut self, arena: &Arena, owner: Owner<J>, submission: &Submission<T>, out: &mut Outbox) {
        let cid = submission.entry.cid();
        let command = &mut self.commands[usize::from(cid)];
        assert!(
            matches!(command.owner, Owner::Nobody),
            "an identifier is used once at a time"
        );
        assert!(command.sends == 0 && command.span.is_none());
        *command = Command {
            owner,
            span: submission.span,
            deadline: submission.deadline,
            sends: 0,
        };
        let commands = &self.commands;
        let mut crc = |cid, offset, bytes| payload_crc(commands, arena, cid, offset, bytes);
        self.machine
            .submit(submission.entry, submission.data, &mut crc, out);
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

    /// A command is over, and its identifier free as soon as the kernel has nothing of its data any more. Panics if the identifier is
    /// free: the machine names only commands in flight.
    pub fn end(&mut self, cid: u16) -> Ended<J> {
        let command = &mut self.commands[usize::from(cid)];
        match command.owner {
            Owner::Association => {
                let span = command.span.take();
                assert_eq!(command.sends, 0, "what it sends is copied");
                self.release(cid);
                Ended::Own(span)
            }
            Owner::Job(job) => {
                command.owner = Owner::Lingering(job);
                self.jobs -= 1;
                let released = command.sends == 0;
                if released {
                    self.release(cid);
                }
                Ended::Job { job, released }
            }
            Owner::Nobody | Owner::Lingering(_) => unreachable!("a command ends once"),
        }
    }

    fn release(&mut self, cid: u16) {
        let command = &mut self.commands[usize::from(cid)];
        assert_eq!(command.sends, 0, "the kernel has nothing of it");
        command.span = None;
        command.owner = Owner::Nobody;
        if cid >= self.reserved() {
            self.free.push(cid);
        }
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
            |command: &Command<J>| matches!(command.owner, Owner::Job(_)) && now >= command.deadline;
        self.jobs > 0 && self.commands.iter().any(expired)
    }

    /// A command that is in flight although the connection is gone, ended; `None` when there are no more.
    pub fn end_any(&mut self) -> Option<Ended<J>> {
        let in_flight = |command: &Command<J>| matches!(command.owner, Owner::Association | Owner::Job(_));
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

    /// The batch is on the wire (or lost). Jobs that are over and whose data the kernel has let go thereby are given to `released`.
    pub fn sent(&mut self, mut batch: Box<SendBatch>, released: impl FnMut(J)) {
        assert!(
            self.spare.is_none(),
            "a batch comes back only after it was handed out"
        );
        batch.clear();
        self.spare = Some(batch);
        let mut cids = std::mem::take(&mut self.sending_cids);
        self.unsend(&cids, released);
        cids.clear();
        self.sending_cids = cids;
    }

    /// The connection is gone: nothing that was composed will be sent.
    pub fn forget_composed(&mut self, released: impl FnMut(J)) {
        self.composing.clear();
        let cids = std::mem::take(&mut self.composing_cids);
        self.unsend(&cids, released);
    }

    fn unsend(&mut self, cids: &[u16], mut released: impl FnMut(J)) {
        for &cid in cids {
            let command = &mut self.commands[usize::from(cid)];
            command.sends -= 1;
            if command.sends > 0 {
                continue;
            }
            if let Owner::Lingering(job) = command.owner {
                self.release(cid);
                released(job);
            }
        }
    }
}

/// CRC-32C of a part of a command's data.
fn payload_crc<J>(commands: &[Command<J>], arena: &Arena, cid: u16, offset_bytes: u32, bytes: u32) -> u32 {
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
