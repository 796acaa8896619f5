//! One NVMe/TCP connection on its core: the protocol machine, its commands' buffers, and what is to be sent.

use std::net::SocketAddr;

use nvme::command::SubmissionEntry;
use nvme::io::{FuseKind, IoRequest, fuse_kind};
use nvme::reservation::{HostId, HostName, Life as HostLife};
use nvme::status::Status;
use nvme::subsystem::QueueId;
use nvme::tcp::target::{self, Outbox, Part, Slot};
use reactor::{Nanos, SendBatch, SocketId, Span};

use crate::amf::engine::CommandId;

/// Most bytes that are composed while a send is on its way before parsing stops: replies of a deep queue of large reads.
const UNSENT_BYTES_MAX: u64 = 2 << 20;

/// What a connection is, once its first capsule has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// No Connect was accepted yet: every capsule goes to the control core.
    Fresh,
    /// An admin queue: every capsule goes to the control core.
    Admin,
    /// An I/O queue: its commands run here.
    Io,
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It serves.
    Open,
    /// Nothing more is parsed or executed; what runs is drained, what is composed is sent.
    Draining,
    /// The socket is being taken off the ring.
    Leaving,
}

/// Where one command of a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandState {
    /// The slot is not in use.
    Free,
    /// No buffer was free; it stands in the core's queue for one.
    AwaitingBuffer,
    /// Data of the host is on its way.
    AwaitingData,
    /// One half of a fused pair waits for the other.
    AwaitingPartner,
    /// The control core has it.
    AtControl,
    /// The array works on it.
    Running,
}

/// What remains to be done when the current request of a command is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: complete the command.
    Complete,
    /// The range with this index of a Dataset Management command.
    Range(u16),
    /// For a Flush of all namespaces: this group is being flushed, then the next one that has namespaces.
    FlushGroup(u16),
    /// The read itself, after the flush that forced unit access asks for.
    Read,
}

/// A write of so many bytes begins when its first part is there: shorter ones would gain nothing.
const PART_BYTES_MIN: u32 = 128 << 10;

/// One command slot.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Where it stands.
    pub state: CommandState,
    /// The command as it came in.
    pub entry: SubmissionEntry,
    /// What it asks for, once parsed; `None` for commands of the control core.
    pub request: Option<IoRequest>,
    /// Its buffer.
    pub span: Option<Span>,
    /// Bytes that it moves.
    pub transfer_bytes: u32,
    /// Group that works on it.
    pub group: u16,
    /// What follows the current request.
    pub next: Next,
    /// The other half of a fused pair.
    pub partner: Option<Slot>,
    /// It was given up while its data was on the way, and ends with this status when that is here.
    pub end_with: Option<Status>,
    /// Its name towards the engines, while they have it.
    pub id: Option<CommandId>,
    /// When its capsule was parsed.
    pub started: Nanos,
    /// When it was handed to an engine.
    pub submitted: Nanos,
    /// Its number in the command log, 0 for none.
    pub logged: u64,
}

impl Command {
    /// A slot that is not in use.
    pub fn free() -> Self {
        Self {
            state: CommandState::Free,
            entry: SubmissionEntry::new(0, 0),
            request: None,
            span: None,
            transfer_bytes: 0,
            group: 0,
            next: Next::Complete,
            partner: None,
            end_with: None,
            id: None,
            started: 0,
            submitted: 0,
            logged: 0,
        }
    }

    /// Whether it begins while its data is still coming: a write that is long enough to gain by that, and stands for itself.
    pub fn comes_in_parts(&self) -> bool {
        self.transfer_bytes >= PART_BYTES_MIN
            && matches!(self.request, Some(IoRequest::Write { .. }))
            && fuse_kind(&self.entry) == FuseKind::None
    }

    /// Whole blocks among so many bytes of its data; 0 unless it writes.
    pub fn blocks_in(&self, bytes: u32) -> u32 {
        match self.request {
            Some(IoRequest::Write { blocks, .. }) => bytes / (self.transfer_bytes / blocks.max(1)).max(1),
            Some(
                IoRequest::Flush
                | IoRequest::Read { .. }
                | IoRequest::Compare { .. }
                | IoRequest::WriteZeroes { .. }
                | IoRequest::DatasetManagement { .. },
            )
            | None => 0,
        }
    }
}

/// A connection and everything that belongs to it on its core.
pub struct Connection {
    /// Its name towards the control core.
    pub queue: QueueId,
    /// Its socket on the ring.
    pub socket: SocketId,
    /// The host's end.
    pub peer: SocketAddr,
    /// The protocol.
    pub machine: target::Connection,
    /// What it is.
    pub role: Role,
    /// Its host was told that there is no volatile write cache.
    pub write_through: bool,
    /// Its host, once its Connect was accepted.
    pub host: HostLife,
    /// How far its end has come.
    pub life: Life,
    /// Command slots, indexed by `Slot`.
    pub commands: Vec<Command>,
    /// Bytes that came in while a command without a buffer blocked the parser.
    pub backlog: Vec<u8>,
    /// The command whose in-capsule data the parser waits with, because there is no buffer for it.
    pub blocked: Option<Slot>,
    /// First half of a fused pair whose second half has not come yet.
    pub fused: Option<Slot>,
    /// Commands in the hands of an engine.
    pub running: u32,
    /// When its end began.
    pub closing_since: Nanos,
    /// When the send that is on its way was handed over.
    pub sent_at: Nanos,
    /// Whether this connection stands in the core's list of those that have something to send.
    pub dirty: bool,
    /// What the next send will carry.
    composing: Box<SendBatch>,
    /// Buffers that are free again once the batch that is being composed was sent.
    composing_spans: Vec<Span>,
    /// A batch to compose into while the other is on its way; `None` while a send is in flight.
    spare: Option<Box<SendBatch>>,
    /// Buffers of the send in flight.
    sending_spans: Vec<Span>,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(
        queue: QueueId,
        socket: SocketId,
        peer: SocketAddr,
        machine: target::Connection,
        slots: u16,
    ) -> Self {
        Self {
            queue,
            socket,
            peer,
            machine,
            role: Role::Fresh,
            write_through: true,
            host: HostLife {
                name: HostName::default(),
                host: HostId([0; 16]),
            },
            life: Life::Open,
            commands: vec![Command::free(); usize::from(slots)],
            backlog: Vec::new(),
            blocked: None,
            fused: None,
            running: 0,
            closing_since: 0,
            sent_at: 0,
            dirty: false,
            composing: Box::new(SendBatch::new()),
            composing_spans: Vec::new(),
            spare: Some(Box::new(SendBatch::new())),
            sending_spans: Vec::new(),
        }
    }

    /// Whether a command of this namespace is anywhere between its capsule and its completion.
    pub fn uses(&self, nsid: u32) -> bool {
        let is_its = |command: &Command| command.request.is_some() && command.entry.nsid() == nsid;
        self.commands.iter().any(is_its)
    }

    /// The command in a slot.
    pub fn command(&mut self, slot: Slot) -> &mut Command {
        &mut self.commands[usize::from(slot.0)]
    }

    /// Takes over what the machine wants sent; `payload` is the buffer that its payload parts are about.
    ///
    /// The buffer is kept until the batch was sent.
    pub fn compose(&mut self, outbox: &mut Outbox, payload: Option<Span>) {
        for part in &outbox.parts {
            match *part {
                Part::Bytes { start, end } => {
                    self.composing
                        .push_bytes(&outbox.bytes[start as usize..end as usize]);
                }
                Part::Payload {
                    offset_bytes,
                    length_bytes,
                    ..
                } => {
                    let span =
                        payload.expect("a machine names payload only when it was given a buffer for it");
                    self.composing.push_span(span.part(offset_bytes, length_bytes));
                }
            }
        }
        outbox.clear();
        self.composing_spans.extend(payload);
    }

    /// Like [`Self::compose`], for a payload that is copied along with the headers.
    pub fn compose_bytes(&mut self, outbox: &mut Outbox, payload: &[u8]) {
        for part in &outbox.parts {
            match *part {
                Part::Bytes { start, end } => {
                    self.composing
                        .push_bytes(&outbox.bytes[start as usize..end as usize]);
                }
                Part::Payload {
                    offset_bytes,
                    length_bytes,
                    ..
                } => {
                    let start = offset_bytes as usize;
                    self.composing
                        .push_bytes(&payload[start..start + length_bytes as usize]);
                }
            }
        }
        outbox.clear();
    }

    /// Whether the host takes its replies so slowly that nothing more of it is parsed for now.
    pub fn is_congested(&self) -> bool {
        self.spare.is_none() && self.composing.total_bytes() > UNSENT_BYTES_MAX
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
        assert!(
            self.sending_spans.is_empty(),
            "the buffers of the last send were given back"
        );
        std::mem::swap(&mut self.composing_spans, &mut self.sending_spans);
        std::mem::replace(&mut self.composing, spare)
    }

    /// The batch is on the wire (or lost): its buffers are free.
    pub fn sent(&mut self, mut batch: Box<SendBatch>) -> std::vec::Drain<'_, Span> {
        assert!(
            self.spare.is_none(),
            "a batch comes back only after it was handed out"
        );
        batch.clear();
        self.spare = Some(batch);
        self.sending_spans.drain(..)
    }

    /// The connection is lost: forgets what was composed and gives its buffers back.
    pub fn forget_composed(&mut self) -> std::vec::Drain<'_, Span> {
        self.composing.clear();
        self.composing_spans.drain(..)
    }
}
