//! What the subsystem is told and what it answers, as plain data.

use std::ops::RangeInclusive;

use thiserror::Error;

use crate::access::Access;
use crate::command::SubmissionEntry;
use crate::fabrics::{CNTLID_MAX, Connect, ConnectData, ConnectDataError, InvalidParameter};
use crate::identify::{ControllerKind, Reservable, Transport};
use crate::io::{IoLimits, NamespaceFormat};
use crate::log::Health;
use crate::nqn::Nqn;
use crate::reservation::{self, HostId, Notice, Order, State};
use crate::status::Status;

/// The runtime's name for one transport connection. It may be used again only after [`Event::Closed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueId(pub u32);

/// The listener that a connection came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, also PORTID in the discovery log.
    pub id: PortId,
    /// Its transport.
    pub transport: Transport,
    /// The IP address to advertise. A wildcard (`0.0.0.0`, `::`) is never advertised: the local address of
    /// the connection that asks takes its place.
    pub address: String,
    /// TCP or RDMA port number as text.
    pub service: String,
    /// Whether the port serves the discovery subsystem only.
    pub discovery_only: bool,
}

/// Most listeners of one process. A discovery log then has 65 KiB.
pub const PORTS_MAX: usize = 64;

/// Largest NSID, and so the number of namespaces (NN and MNAN in Identify Controller). The changed
/// namespace list holds as many.
pub const NAMESPACES_MAX: u32 = 1024;

/// Which hosts may use the subsystem. Discovery controllers are open to all, but show them nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAccess {
    /// Every host.
    Any,
    /// These hosts.
    List(Vec<Nqn>),
}

impl HostAccess {
    /// Whether this host may use the subsystem.
    pub fn allows(&self, host: &Nqn) -> bool {
        match self {
            Self::Any => true,
            Self::List(hosts) => hosts.contains(host),
        }
    }
}

/// What a subsystem is made from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the subsystem.
    pub nqn: Nqn,
    /// Serial number: up to 20 printable ASCII characters.
    pub serial: String,
    /// Model number: up to 40 printable ASCII characters.
    pub model: String,
    /// Firmware revision: up to 8 printable ASCII characters.
    pub firmware: String,
    /// OUI in the order that it is printed.
    pub oui: [u8; 3],
    /// This node's slice of the controller identifiers, within `1..=0xffef`. Slices of nodes never overlap.
    pub cntlids: RangeInclusive<u16>,
    /// The slices of the other nodes that serve the subsystem.
    pub cntlids_elsewhere: Vec<RangeInclusive<u16>>,
    /// Associations at once. A quarter of them, but at least one, may be discovery controllers.
    pub controllers_max: u16,
    /// I/O queues per controller.
    pub io_queues_max: u16,
    /// Entries of an I/O queue, at least 2.
    pub queue_entries_max: u16,
    /// In-capsule data of I/O queues in bytes, a multiple of 16.
    pub in_capsule_bytes: u32,
    /// Most data that one command moves: a power of two, 8 KiB to 1 GiB.
    pub max_transfer_bytes: u32,
    /// Blocks of a fused Compare and Write, `1..=65_535`.
    pub compare_write_blocks_max: u32,
    /// Blocks written atomically in normal operation, at least 1.
    pub atomic_write_blocks: u16,
    /// Blocks written atomically across a power failure, at least 1.
    pub atomic_write_blocks_power_fail: u16,
    /// Command quiesce time in milliseconds (CQT): how long after the loss of an association its commands
    /// may still take effect. 0 says nothing.
    pub command_quiesce_ms: u16,
    /// Hosts that may use the subsystem.
    pub allow: HostAccess,
    /// Listeners, up to [`PORTS_MAX`].
    pub ports: Vec<Port>,
    /// Names this start of the process; draw it anew at each.
    pub instance: [u8; 16],
    /// Source of the controllers' instance random numbers (CIRN); draw it anew at each start.
    pub seed: u64,
}

/// Why a subsystem cannot be made from a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The subsystem has the name of the discovery subsystem.
    #[error("the subsystem cannot have the name of the discovery subsystem")]
    DiscoveryNqn,
    /// An identity string is too long or not printable ASCII.
    #[error("{field} must have 1 to {bytes_max} printable ASCII characters")]
    Text {
        /// Which one.
        field: &'static str,
        /// How long it may be.
        bytes_max: usize,
    },
    /// The slice of controller identifiers is empty or leaves `1..=0xffef`, or is smaller than the number of
    /// controllers.
    #[error(
        "the controller identifiers must lie within 1 to 65519 and be as many as there may be controllers"
    )]
    Cntlids,
    /// A number is out of its range.
    #[error("{field} must be {range}")]
    Number {
        /// Which one.
        field: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// Too many listeners.
    #[error("there are more than {PORTS_MAX} ports")]
    Ports,
}

impl Config {
    /// What I/O commands are held to, as Identify tells it to hosts.
    pub fn io_limits(&self) -> IoLimits {
        IoLimits {
            max_transfer_bytes: self.max_transfer_bytes,
            compare_write_blocks_max: self.compare_write_blocks_max,
        }
    }

    /// Checks everything that a subsystem relies on.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.nqn == Nqn::DISCOVERY {
            return Err(ConfigError::DiscoveryNqn);
        }
        for (field, text, bytes_max) in [
            ("serial", &self.serial, 20),
            ("model", &self.model, 40),
            ("firmware", &self.firmware, 8),
        ] {
            let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            if text.is_empty() || text.len() > bytes_max || !printable {
                return Err(ConfigError::Text { field, bytes_max });
            }
        }
        let (first, last) = (*self.cntlids.start(), *self.cntlids.end());
        if first == 0
            || last > CNTLID_MAX
            || last < first
            || last - first < self.controllers_max.saturating_sub(1)
        {
            return Err(ConfigError::Cntlids);
        }
        if self.ports.len() > PORTS_MAX {
            return Err(ConfigError::Ports);
        }
        self.check_numbers()
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let transfer = self.max_transfer_bytes;
        let checks = [
            (self.controllers_max >= 1, "controllers_max", "1 or more"),
            (
                (1..u16::MAX).contains(&self.io_queues_max),
                "io_queues_max",
                "1 to 65534",
            ),
            (self.queue_entries_max >= 2, "queue_entries_max", "2 or more"),
            (
                self.in_capsule_bytes.is_multiple_of(16) && self.in_capsule_bytes <= 1 << 20,
                "in_capsule_bytes",
                "a multiple of 16, up to 1 MiB",
            ),
            (
                transfer.is_power_of_two() && (8192..=1 << 30).contains(&transfer),
                "max_transfer_bytes",
                "a power of two from 8 KiB to 1 GiB",
            ),
            (
                (1..=65_535).contains(&self.compare_write_blocks_max),
                "compare_write_blocks_max",
                "1 to 65535",
            ),
            (self.atomic_write_blocks >= 1, "atomic_write_blocks", "1 or more"),
            (
                self.atomic_write_blocks_power_fail >= 1,
                "atomic_write_blocks_power_fail",
                "1 or more",
            ),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, range)) => Err(ConfigError::Number { field, range }),
            None => Ok(()),
        }
    }
}

/// A namespace as every node shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its identifier, `1..=NAMESPACES_MAX`.
    pub nsid: u32,
    /// Its globally unique identifier; the same at every node and for ever.
    pub nguid: [u8; 16],
    /// Its UUID; the same at every node and for ever.
    pub uuid: [u8; 16],
    /// Size and block size.
    pub format: NamespaceFormat,
    /// Whether it can be used through this node; the one thing that may differ from node to node.
    pub access: Access,
    /// Blocks of a strip, a hint for aligned writes.
    pub strip_blocks: Option<u32>,
    /// Blocks of user data in a full stripe, a hint for the best write size.
    pub stripe_blocks: Option<u32>,
    /// Whether a write to it may complete before it is on stable media, for hosts that were told of a volatile write cache.
    pub volatile: bool,
    /// Whether hosts can reserve it.
    pub reservable: Reservable,
    /// The namespace beside it that also says which lives of hosts are admitted here, as the data of a shelf's drive does for its quorum
    /// area.
    pub admission_of: Option<u32>,
}

/// A reservation command that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservationPass {
    /// To be given back.
    pub number: u64,
    /// Which namespace.
    pub nsid: u32,
    /// The host.
    pub host: HostId,
    /// What it asks for.
    pub command: reservation::Command,
}

/// How a reservation command has ended that was passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationAnswer {
    /// As in [`Action::PassReservation`].
    pub number: u64,
    /// How it ended.
    pub status: Status,
    /// What it returns.
    pub data: Vec<u8>,
}

/// What nodes have made of the reservations of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationChange {
    /// Which one.
    pub nsid: u32,
    /// Registrants and reservation.
    pub state: State,
    /// Hosts that lost something, and what.
    pub notices: Vec<(HostId, Notice)>,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A transport connection is up and waits for its Connect.
    Opened {
        /// Its name.
        queue: QueueId,
        /// Where it came in.
        port: PortId,
        /// Its local IP address, without a port number.
        local_address: &'a str,
        /// When it was accepted. Connections may be reported in another order, when several cores take them over.
        accepted_ns: u64,
    },
    /// A command: every capsule of a connection that is no accepted I/O queue, and on I/O queues those with
    /// the Fabrics opcode.
    Capsule {
        /// Where it came in.
        queue: QueueId,
        /// The transport's name for the command until it is completed.
        slot: u16,
        /// The command.
        entry: SubmissionEntry,
        /// Data that came with it.
        data: &'a [u8],
    },
    /// A connection is gone, whoever closed it, and none of its commands is executing any more.
    Closed {
        /// Which one.
        queue: QueueId,
    },
    /// The answer to [`Action::Abort`].
    Aborted {
        /// As in the action.
        token: u32,
        /// Whether the command was caught before it took effect.
        aborted: bool,
    },
    /// An I/O command failed; feeds the error log of its controller.
    IoFailed {
        /// Queue that it came in on.
        queue: QueueId,
        /// Its identifier.
        cid: u16,
        /// How it failed.
        status: Status,
        /// Its namespace.
        nsid: u32,
        /// Its first block, 0 where blocks do not matter.
        slba: u64,
    },
    /// A namespace appeared.
    NamespaceAdded(Namespace),
    /// What was kept of the reservations of a namespace that was just added.
    ReservationRestored {
        /// Which one.
        nsid: u32,
        /// Registrants and reservation.
        state: State,
    },
    /// The answer to [`Action::EnforceReservation`]: all cores hold commands to the rules, and nothing that was to be aborted runs any more.
    ReservationEnforced {
        /// As in the action.
        number: u64,
    },
    /// The answer to [`Action::PersistReservation`].
    ReservationPersisted {
        /// As in the action.
        number: u64,
        /// Whether the state is on stable media.
        succeeded: bool,
    },
    /// The answer to [`Action::PassReservation`].
    ReservationAnswered(ReservationAnswer),
    /// The nodes that serve a namespace have changed its reservations, and commands are held to that here.
    ReservationChanged(ReservationChange),
    /// A namespace disappeared.
    NamespaceRemoved {
        /// Which one.
        nsid: u32,
    },
    /// A namespace changed its size.
    NamespaceResized {
        /// Which one.
        nsid: u32,
        /// Its size now.
        blocks: u64,
    },
    /// A namespace can be used through this node from now on, or cannot any more.
    AccessChanged {
        /// Which one.
        nsid: u32,
        /// How it can be used now.
        access: Access,
    },
    /// The nodes that serve the namespaces are others than before, or have agreed anew: hosts are to look at their paths once more.
    AccessRenewed,
    /// The listeners changed to these, [`PORTS_MAX`] at most.
    PortsChanged(Vec<Port>),
    /// The answer to [`Action::ResetElsewhere`].
    ResetElsewhere {
        /// As in the action.
        number: u64,
        /// What became of it.
        outcome: ResetOutcome,
    },
    /// A host of another node resets a controller of this one; [`Action::ResetAnswered`] says when it is through.
    ResetAsked {
        /// To be given back.
        number: u64,
        /// Which controller, and who asks.
        wish: ResetWish,
    },
    /// The allowed hosts changed; hosts that are not allowed any more lose their associations.
    HostsChanged(HostAccess),
    /// New measurements.
    Health(Health),
    /// Time passed. At least ten times a second.
    Tick,
    /// The process is to end: every connection is closed and none is taken any more.
    Shutdown,
}

/// What the runtime is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The connection is a queue from now on. Precedes the completion of its Connect.
    Accept {
        /// Which connection.
        queue: QueueId,
        /// Its queue identifier; 0 is the admin queue.
        qid: u16,
        /// Entries of its submission queue.
        entries: u16,
        /// Whether the host wants submission queue flow control.
        flow_control: bool,
        /// Whether this controller says that it has a volatile write cache. Where it does not, the host need not flush: each of its writes
        /// has to be on stable media before it completes, also in namespaces that were added later.
        volatile_write_cache: bool,
        /// Controller that it belongs to.
        cntlid: u16,
        /// Host at the other end.
        host: Nqn,
        /// Its identifier, by which reservations know it.
        hostid: HostId,
    },
    /// Complete a command.
    Complete {
        /// Queue that it came in on.
        queue: QueueId,
        /// As in [`Event::Capsule`].
        slot: u16,
        /// Dwords 0 and 1 of the completion.
        result: u64,
        /// How it ended.
        status: Status,
        /// Data for the host: exactly as many bytes as its data pointer asks for, or none.
        data: Vec<u8>,
    },
    /// Try to abort an I/O command and answer with [`Event::Aborted`].
    Abort {
        /// Queue that the command came in on.
        queue: QueueId,
        /// Its identifier.
        cid: u16,
        /// To be given back.
        token: u32,
    },
    /// Hold the commands of a namespace to these rules on all cores from the moment that they begin; end what the order ends; and answer with
    /// [`Event::ReservationEnforced`] when nothing of that runs any more.
    EnforceReservation(Order),
    /// Make what is to be kept of a namespace's reservations durable and answer with [`Event::ReservationPersisted`].
    PersistReservation {
        /// To be given back.
        number: u64,
        /// Which namespace.
        nsid: u32,
        /// What is to be kept.
        state: State,
    },
    /// Have the nodes that serve a namespace execute a reservation command, or the change of a feature that is kept with reservations, and answer with
    /// [`Event::ReservationAnswered`].
    PassReservation(ReservationPass),
    /// Have another node end a controller of its own, and answer with [`Event::ResetElsewhere`] when nothing that the controller had under way can
    /// take effect any more, or when that will not be known.
    ResetElsewhere {
        /// To be given back.
        number: u64,
        /// Which controller, and who asks.
        wish: ResetWish,
    },
    /// The answer to [`Event::ResetAsked`].
    ResetAnswered {
        /// As in the event.
        number: u64,
        /// What became of it.
        outcome: ResetOutcome,
    },
    /// Stop executing the connection's commands, drain them, flush what was completed, close, and answer
    /// with [`Event::Closed`]. Commands of it that are not completed yet never will be.
    Close {
        /// Which connection.
        queue: QueueId,
        /// For the log.
        reason: CloseReason,
    },
    /// Something to log.
    Report(Report),
}

/// A Cross-Controller Reset on its way to the node that has the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetWish {
    /// The controller (ICID).
    pub cntlid: u16,
    /// Its instance (CIU).
    pub instance: u8,
    /// The random number of that instance (CIRN).
    pub random: u64,
    /// The host that asks.
    pub host: Nqn,
}

/// What became of a Cross-Controller Reset at the node that has the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResetOutcome {
    /// Nothing that the controller had under way can take effect any more.
    Over,
    /// The controller is none of this host.
    Refused,
    /// It was not found out in time: what the controller had under way may still take effect.
    Unknown,
}

/// Why a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It sent no acceptable Connect in time.
    ConnectTimeout,
    /// There are too many connections without a Connect, and this was the oldest.
    TooManyUnconnected,
    /// It came in on a port that is not configured.
    UnknownPort,
    /// The host was silent for longer than its keep alive timeout.
    KeepAliveExpired,
    /// The host reset its controller.
    ControllerReset,
    /// The host shut its controller down.
    ControllerShutdown,
    /// Its host reset the controller through another one.
    CrossControllerReset,
    /// The association's admin queue is gone.
    AdminQueueGone,
    /// The host is not allowed any more.
    HostRevoked,
    /// The process ends.
    Shutdown,
}

/// Why a Connect was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Its record format is unknown.
    #[error("unknown record format")]
    RecordFormat,
    /// Its data is malformed.
    #[error("{0}")]
    Data(ConnectDataError),
    /// It names a subsystem that is not served at this port.
    #[error("no such subsystem at this port")]
    UnknownSubsystem,
    /// The host is not on the list.
    #[error("host is not allowed")]
    HostNotAllowed,
    /// The queue size is 0 or too large.
    #[error("queue size out of range")]
    QueueSize,
    /// An admin queue asks for a certain controller.
    #[error("controllers are allocated dynamically")]
    StaticController,
    /// There are as many controllers as there may be.
    #[error("no controller left")]
    Busy,
    /// The controller does not exist, or no longer.
    #[error("no such controller")]
    UnknownController,
    /// The controller belongs to a host of another name.
    #[error("controller belongs to another host")]
    OtherHostNqn,
    /// The controller belongs to a host of another identifier.
    #[error("controller belongs to another host identifier")]
    OtherHostId,
    /// The controller is not ready for I/O queues.
    #[error("controller is not enabled")]
    NotReady,
    /// The queue identifier is above what was granted.
    #[error("queue identifier out of range")]
    QueueIdentifier,
    /// The queue exists and was not torn down in time.
    #[error("queue exists already")]
    QueueExists,
    /// The connection is a queue already, or waits to become one.
    #[error("connection is connected already")]
    SecondConnect,
}

impl Refusal {
    /// Status of the refused Connect. Do Not Retry ends a host's attempts for good, so only a host that is
    /// not allowed gets it.
    pub fn status(self) -> Status {
        match self {
            Self::RecordFormat => Status::CONNECT_INCOMPATIBLE_FORMAT,
            Self::Data(ConnectDataError::Length { .. }) => Status::DATA_SGL_LENGTH_INVALID,
            Self::HostNotAllowed => Status::CONNECT_INVALID_HOST.do_not_retry(),
            Self::Busy => Status::CONNECT_CONTROLLER_BUSY,
            Self::NotReady | Self::QueueExists | Self::SecondConnect => Status::COMMAND_SEQUENCE_ERROR,
            Self::Data(ConnectDataError::SubNqn(_) | ConnectDataError::HostNqn(_))
            | Self::UnknownSubsystem
            | Self::QueueSize
            | Self::StaticController
            | Self::UnknownController
            | Self::OtherHostNqn
            | Self::OtherHostId
            | Self::QueueIdentifier => Status::CONNECT_INVALID_PARAMETERS,
        }
    }

    /// Dword 0 of the completion: which parameter is wrong, where one is.
    pub fn result(self) -> u64 {
        let place = match self {
            Self::Data(ConnectDataError::SubNqn(_)) | Self::UnknownSubsystem => {
                InvalidParameter::Data(ConnectData::SUBNQN_OFFSET)
            }
            Self::Data(ConnectDataError::HostNqn(_)) | Self::OtherHostNqn => {
                InvalidParameter::Data(ConnectData::HOSTNQN_OFFSET)
            }
            Self::StaticController | Self::UnknownController => {
                InvalidParameter::Data(ConnectData::CNTLID_OFFSET)
            }
            Self::OtherHostId => InvalidParameter::Data(ConnectData::HOSTID_OFFSET),
            Self::QueueSize => InvalidParameter::Entry(Connect::SQSIZE_OFFSET),
            Self::QueueIdentifier => InvalidParameter::Entry(Connect::QID_OFFSET),
            Self::RecordFormat
            | Self::Data(ConnectDataError::Length { .. })
            | Self::HostNotAllowed
            | Self::Busy
            | Self::NotReady
            | Self::QueueExists
            | Self::SecondConnect => return 0,
        };
        place.result()
    }
}

/// Something worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A host made an association.
    Connected {
        /// Its admin queue.
        queue: QueueId,
        /// Its controller.
        cntlid: u16,
        /// What the controller is for.
        kind: ControllerKind,
        /// The host.
        host: Nqn,
    },
    /// An association got an I/O queue.
    QueueConnected {
        /// The connection.
        queue: QueueId,
        /// Its controller.
        cntlid: u16,
        /// Its queue identifier.
        qid: u16,
    },
    /// A Connect was refused.
    Refused {
        /// The connection.
        queue: QueueId,
        /// The host, as far as it is known.
        host: Option<Nqn>,
        /// Why.
        why: Refusal,
    },
    /// A connection without a Connect is closed.
    Unconnected {
        /// The connection.
        queue: QueueId,
        /// Why.
        reason: CloseReason,
    },
    /// A controller became ready.
    Ready {
        /// Which one.
        cntlid: u16,
    },
    /// A host configured its controller in a way that we do not support.
    BadConfiguration {
        /// Which controller.
        cntlid: u16,
        /// What it wrote to CC.
        cc: u32,
    },
    /// A host reset its controller.
    Reset {
        /// Which one.
        cntlid: u16,
    },
    /// A host reset a controller of its own through another one.
    CrossReset {
        /// The one that is reset.
        cntlid: u16,
        /// The one that was asked.
        by: u16,
    },
    /// A host reset a controller of its own through another node.
    CrossResetElsewhere {
        /// The one that is reset.
        cntlid: u16,
        /// The host.
        host: Nqn,
    },
    /// A host shut its controller down.
    ShutDown {
        /// Which one.
        cntlid: u16,
    },
    /// A host was silent for too long.
    KeepAliveExpired {
        /// Its controller.
        cntlid: u16,
        /// The host.
        host: Nqn,
    },
    /// A host is not allowed any more.
    HostRevoked {
        /// Its controller.
        cntlid: u16,
        /// The host.
        host: Nqn,
    },
    /// An association is gone with all of its queues.
    Disconnected {
        /// Its controller.
        cntlid: u16,
        /// The host.
        host: Nqn,
    },
}

/// One association, for people to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Association<'a> {
    /// Its controller.
    pub cntlid: u16,
    /// What the controller is for.
    pub kind: ControllerKind,
    /// The host.
    pub host: &'a Nqn,
    /// The host's identifier.
    pub hostid: [u8; 16],
    /// Its I/O queues.
    pub io_queues: usize,
    /// Keep alive timeout in milliseconds, 0 for none.
    pub kato_ms: u32,
}
