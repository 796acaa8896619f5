//! What an association is told to be, what happens to it, and what it wants done.

use thiserror::Error;

use super::drain::Drain;
use crate::command::{CompletionEntry, SubmissionEntry};
use crate::log::DiscoveryEntry;
use crate::nqn::Nqn;
use crate::status::Status;

/// What kind of controller is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One with namespaces.
    Io,
    /// A discovery controller.
    Discovery,
}

/// What is wanted of an association.
#[derive(Clone, Debug)]
pub struct Config {
    /// The subsystem.
    pub subnqn: Nqn,
    /// Who we are.
    pub hostnqn: Nqn,
    /// Likewise.
    pub hostid: [u8; 16],
    /// What kind of controller is wanted.
    pub kind: Kind,
    /// I/O queues, `1..=1024`; the controller may grant fewer. Ignored for discovery.
    pub io_queues: u16,
    /// Entries of an I/O queue, at least 2; the controller may allow fewer.
    pub queue_entries: u16,
    /// Entries of the admin queue, at least 32 (so that hosts' habits and ours agree).
    pub admin_entries: u16,
    /// Keep alive timeout in milliseconds; 0 for none.
    pub kato_ms: u32,
    /// How often Keep Alive is sent, if there is a timeout: often enough for that, and to find a silent connection early.
    pub keep_alive_ns: u64,
    /// Whether commands of earlier controllers are to be ended, and [`Action::Drain`] to say how far that is.
    pub drain: bool,
    /// Whether submission queue flow control is used. Without, Linux's target saves response capsules.
    pub flow_control: bool,
    /// Data bytes of a command at most; the controller may allow fewer.
    pub max_transfer_bytes: u32,
    /// How long an admin command, or opening a queue, may take.
    pub command_timeout_ns: u64,
    /// Wait before the first attempt to reconnect; it doubles with each failure.
    pub reconnect_min_ns: u64,
    /// Longest wait between attempts.
    pub reconnect_max_ns: u64,
    /// How long to try to reconnect before giving up for good; `None` for ever.
    pub loss_timeout_ns: Option<u64>,
}

/// Why the runtime says that a queue is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFault {
    /// The connection could not be made.
    Unreachable,
    /// The connection ended.
    Lost,
    /// A user's command took too long: the controller is to be reset.
    TimedOut,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Connect. To be sent once.
    Start,
    /// The transport connection of a queue is ready for commands.
    QueueUp {
        /// Queue.
        qid: u16,
    },
    /// The transport connection of a queue is gone, or could not be made, or is to be given up.
    QueueDown {
        /// Queue.
        qid: u16,
        /// Why.
        fault: QueueFault,
    },
    /// A command that [`Action::Submit`] asked for is over. Others may be reported too; they are ignored.
    Completion {
        /// Queue.
        qid: u16,
        /// Its completion; a corrupt transfer is reported as [`Status::TRANSIENT_TRANSPORT_ERROR`].
        entry: CompletionEntry,
        /// The data that came, at most `read_bytes`.
        data: &'a [u8],
    },
    /// Time has passed. To be sent about every 100 ms.
    Tick,
    /// Shut the controller down and stay down.
    Stop,
}

/// Why the association is down and will be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DownReason {
    /// A queue is gone.
    #[error("queue {qid}: {fault:?}")]
    Queue {
        /// Queue.
        qid: u16,
        /// Why.
        fault: QueueFault,
    },
    /// An admin command or the opening of a queue took too long.
    #[error("no answer on queue {qid} within the command timeout")]
    CommandTimeout {
        /// Queue.
        qid: u16,
    },
    /// A command that the association cannot do without failed.
    #[error("command failed: {0}")]
    CommandFailed(Status),
    /// The controller did not become ready within CAP.TO.
    #[error("the controller did not become ready in time")]
    NotReady,
    /// CSTS.CFS is set.
    #[error("the controller reports a fatal error")]
    ControllerFatal,
    /// Less data came than the command asked for.
    #[error("the controller sent less data than was asked for")]
    ShortData,
    /// The discovery log changed whenever it was read.
    #[error("the discovery log does not stand still")]
    LogUnstable,
    /// The host was told to stop.
    #[error("stopped")]
    Stopped,
}

/// Why the association is given up for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FailReason {
    /// Connect was refused with Do Not Retry.
    #[error("connect refused: {0}")]
    Refused(Status),
    /// The controller wants authentication, which this host does not have.
    #[error("the controller requires authentication")]
    AuthenticationRequired,
    /// Identify contradicts Connect: the answers come from different controllers.
    #[error("Identify names controller {identify:#06x}, Connect named {connect:#06x}")]
    ControllerMismatch {
        /// From Connect.
        connect: u16,
        /// From Identify.
        identify: u16,
    },
    /// The controller lacks what a host needs; the text names the Identify field.
    #[error("the controller's {0} is of no use over fabrics")]
    Incompatible(&'static str),
    /// Reconnecting took longer than the loss timeout.
    #[error("not reachable for longer than the loss timeout")]
    LossTimeout,
}

/// What the runtime is to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the transport connection of a queue, then say `QueueUp` or `QueueDown`.
    OpenQueue {
        /// Queue; 0 is the admin queue.
        qid: u16,
        /// Its entries: so many commands may be in flight.
        entries: u16,
    },
    /// Close it, forget its commands, and say nothing more of it.
    CloseQueue {
        /// Queue.
        qid: u16,
    },
    /// Submit a command.
    Submit {
        /// Queue.
        qid: u16,
        /// The command; the data pointer is left to the transport.
        entry: SubmissionEntry,
        /// Data to the controller; empty for none.
        payload: Vec<u8>,
        /// Data wanted from the controller; 0 for none.
        read_bytes: u32,
    },
    /// The controller is ready and its I/O queues are connected. Namespaces follow.
    Live {
        /// Controller.
        cntlid: u16,
        /// I/O queues: `1..=io_queues`; 0 for discovery.
        io_queues: u16,
        /// Entries of each.
        queue_entries: u16,
        /// Data bytes of a command at most.
        max_transfer_bytes: u32,
        /// Data bytes in the capsule of an I/O command, to be set on each I/O queue's connection.
        in_capsule_bytes: u32,
        /// Whether writes need Flush or FUA to be durable.
        volatile_write_cache: bool,
        /// ONCS: optional commands.
        oncs: u16,
        /// FUSES: fused commands.
        fuses: u16,
    },
    /// What is known of commands that earlier controllers have left behind: said after `Live` and whenever it changes.
    Drain(Drain),
    /// A namespace is there, or has changed.
    Namespace {
        /// Namespace.
        nsid: u32,
        /// Its size.
        blocks: u64,
        /// Bytes of a block.
        block_bytes: u32,
        /// NGUID; zeroes for none.
        nguid: [u8; 16],
        /// UUID; zeroes for none.
        uuid: [u8; 16],
    },
    /// A namespace is no longer there.
    NamespaceRemoved {
        /// Namespace.
        nsid: u32,
    },
    /// The controller says that namespaces have changed; they are being read again.
    NamespacesChanged,
    /// All namespaces have been reported.
    Scanned {
        /// How many there are.
        namespaces: u32,
    },
    /// A discovery log has been read whole, within one generation.
    Discovered {
        /// GENCTR.
        generation: u64,
        /// The entries that make sense to us.
        entries: Vec<DiscoveryEntry>,
    },
    /// Not usable from here on; all queues are closed.
    Down {
        /// Why.
        reason: DownReason,
        /// When the next attempt starts; `None` after `Stop`.
        will_retry_at_ns: Option<u64>,
    },
    /// Given up for good; all queues are closed.
    Failed {
        /// Why.
        reason: FailReason,
    },
}
