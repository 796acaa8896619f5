//! A host: associations to NVMe/TCP targets, bound to the reactor.
//!
//! The admin queue of each target lives on core 0, its I/O queues are spread over all cores. What is asked of the
//! targets is the business of a [`Workload`], one value a core, which is asked for jobs whenever a queue has room. The
//! host owns connections, buffers (in the core's arena), timeouts, keep alive and reconnecting; it knows nothing of
//! what data means.
//!
//! Invariants: each job that a workload hands out ends in exactly one call of [`Workload::done`]; jobs in flight when
//! a queue is lost end with [`JobError::Lost`] once no byte of their buffers is with the kernel any more; a command in
//! flight is a place in a table, not a box.

pub mod ask;
pub mod associations;
mod core;
pub mod identity;
mod job;
pub mod ledger;
mod queue;
pub mod queues;
pub mod random;
pub mod stamp;

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use nvme::host::Drain;
use nvme::host::{DownReason, FailReason, Kind};
use nvme::log::DiscoveryEntry;
use nvme::nqn::Nqn;
use reactor::{CoreIndex, Nanos, Options, Remote, Running, StartError};
use thiserror::Error;

pub use self::job::{Answer, Job, JobError, Next, Outcome, QueueName, Workload};
pub use nvme::tcp::initiator::Payload;

use self::associations::Associations;
use self::core::{HostCore, Message};

/// How long a call into a workload may wait for its core.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long stopping may take before the connections are simply dropped; an association gives up after 5 s itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Makes the host identifier of an attempt to connect.
pub type HostIdOf = fn([u8; 16], u32) -> [u8; 16];

/// A subsystem to connect to, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where else, to be tried in turn.
    pub other_addresses: Vec<SocketAddr>,
    /// The subsystem.
    pub subnqn: Nqn,
    /// Who we are.
    pub hostnqn: Nqn,
    /// Likewise.
    pub hostid: [u8; 16],
    /// Makes the identifier of each attempt to connect, from 0, out of `hostid`; the same for all without it.
    pub hostid_of: Option<HostIdOf>,
    /// Whether it is a controller with namespaces or one for discovery.
    pub kind: Kind,
    /// I/O queues that are wanted, in `1..=1024`; the controller may grant fewer.
    pub io_queues: u16,
    /// Commands in flight on each of them, at least 1; the controller may allow fewer.
    pub depth: u16,
    /// CRC-32C over PDU headers.
    pub header_digest: bool,
    /// CRC-32C over PDU data.
    pub data_digest: bool,
    /// Whether what a lost association has left behind is ended over the next one, and [`TargetFacts::drain`] says how far that is.
    pub drain: bool,
    /// Whether submission queue flow control is used.
    pub flow_control: bool,
    /// Keep alive timeout in milliseconds; 0 for none.
    pub kato_ms: u32,
    /// How often the controller is asked whether it is there; half of the timeout if that is less.
    pub keep_alive: Duration,
    /// Data bytes of a job at most, in `4096..=2 MiB`; the controller may allow fewer.
    pub max_transfer_bytes: u32,
    /// How long a job may take before its controller is reset.
    pub job_timeout: Duration,
    /// How long an admin command, or opening a queue, may take.
    pub command_timeout: Duration,
    /// Wait before the first attempt to reconnect; it doubles with each failure, up to 5 s.
    pub reconnect: Duration,
    /// How long to try to reconnect before giving up; `None` for ever.
    pub loss_timeout: Option<Duration>,
}

impl Target {
    /// A subsystem with one queue of depth 1, no digests, and timeouts like Linux's.
    pub fn new(address: SocketAddr, subnqn: Nqn, hostnqn: Nqn, hostid: [u8; 16]) -> Self {
        Self {
            address,
            other_addresses: Vec::new(),
            subnqn,
            hostnqn,
            hostid,
            hostid_of: None,
            kind: Kind::Io,
            io_queues: 1,
            depth: 1,
            header_digest: false,
            data_digest: false,
            drain: false,
            flow_control: false,
            kato_ms: 10_000,
            keep_alive: Duration::from_secs(5),
            max_transfer_bytes: 1 << 20,
            job_timeout: Duration::from_secs(30),
            command_timeout: Duration::from_secs(10),
            reconnect: Duration::from_millis(200),
            loss_timeout: Some(Duration::from_secs(60)),
        }
    }
}

/// A namespace of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Namespace identifier.
    pub nsid: u32,
    /// Its size in blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// NGUID; zeroes for none.
    pub nguid: [u8; 16],
    /// UUID; zeroes for none.
    pub uuid: [u8; 16],
}

/// What a target turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetFacts {
    /// Which attempt to connect has led here, from 0.
    pub attempt: u32,
    /// Controller identifier of this association.
    pub cntlid: u16,
    /// I/O queues: their identifiers are `1..=io_queues`.
    pub io_queues: u16,
    /// Commands in flight on each at most.
    pub depth: u16,
    /// Data bytes of a command at most.
    pub max_transfer_bytes: u32,
    /// Data bytes that a capsule of an I/O queue carries at most.
    pub in_capsule_bytes: u32,
    /// Whether writes need Flush or FUA to be durable.
    pub volatile_write_cache: bool,
    /// ONCS: optional commands.
    pub oncs: u16,
    /// FUSES: fused commands.
    pub fuses: u16,
    /// What is known of commands that earlier associations have left behind.
    pub drain: Drain,
    /// Its namespaces, by ascending identifier.
    pub namespaces: Vec<Namespace>,
}

/// What became of an association.
#[derive(Clone, Debug)]
pub enum Event {
    /// Jobs run; also after each reconnect, when namespaces have changed and when more is known of [`TargetFacts::drain`].
    Ready {
        /// Index of the target.
        target: usize,
        /// What it is.
        facts: Arc<TargetFacts>,
    },
    /// The association is lost and will be tried again.
    Down {
        /// Index of the target.
        target: usize,
        /// Why.
        reason: DownReason,
    },
    /// The association is given up.
    Failed {
        /// Index of the target.
        target: usize,
        /// Why.
        reason: FailReason,
    },
    /// A discovery log was read whole.
    Discovered {
        /// Index of the target.
        target: usize,
        /// Its entries.
        entries: Vec<DiscoveryEntry>,
    },
    /// The association ended because the host stops.
    Stopped {
        /// Index of the target.
        target: usize,
    },
}

/// Why a host cannot be asked.
#[derive(Debug, Error)]
pub enum HostError {
    /// The cores could not be started.
    #[error("the host's cores could not be started: {0}")]
    Start(#[from] StartError),
    /// A core ended by itself.
    #[error("a core of the host failed: {0}")]
    Core(#[from] reactor::JoinError),
    /// A core did not answer.
    #[error("a core of the host does not answer")]
    Silent,
}

/// A host that runs. Dropping it closes its connections at once; [`Host::stop`] takes leave first.
pub struct Host<W: Workload> {
    running: Running<Message<W>>,
    remote: Remote<Message<W>>,
    events: Receiver<Event>,
}

impl<W: Workload> Host<W> {
    /// Starts the cores, which connect to all `targets`; `make` makes the workload of each core, on that core.
    pub fn start(
        options: Options,
        targets: Vec<Target>,
        make: impl Fn(CoreIndex) -> W + Send + Sync + 'static,
    ) -> Result<Self, HostError> {
        let (sender, events) = mpsc::channel();
        let targets: Arc<[Target]> = targets.into();
        let associations = Box::new(Associations::new(&targets, options.cores));
        let control = Mutex::new(Some((associations, sender)));
        let running = reactor::run(options, move |index| {
            let control = if index == CoreIndex(0) {
                control.lock().ok().and_then(|mut control| control.take())
            } else {
                None
            };
            HostCore::new(index, Arc::clone(&targets), control, make(index))
        })?;
        let remote = running.handle();
        Ok(Self {
            running,
            remote,
            events,
        })
    }

    /// What becomes of the associations.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Cores of the host.
    pub fn cores(&self) -> u16 {
        self.remote.cores()
    }

    /// Runs `act` on the workload of a core, and lets it hand out jobs afterwards. Panics if there is no such core.
    pub fn with<R: Send + 'static>(
        &self,
        core: CoreIndex,
        act: impl FnOnce(&mut W, Nanos) -> R + Send + 'static,
    ) -> Result<R, HostError> {
        let (answer, answers) = mpsc::sync_channel(1);
        let call = Message::Call(Box::new(move |workload: &mut W, now| {
            let _ = answer.send(act(workload, now)); // Who asked may have given up.
        }));
        self.remote.post(core, call).map_err(|_| HostError::Silent)?;
        answers.recv_timeout(CALL_TIMEOUT).map_err(|_| HostError::Silent)
    }

    /// Runs `act` on the workloads of all cores; their answers by core.
    pub fn with_all<R: Send + 'static>(
        &self,
        act: impl Fn(&mut W, Nanos) -> R + Clone + Send + 'static,
    ) -> Result<Vec<R>, HostError> {
        (0..self.cores())
            .map(|core| self.with(CoreIndex(core), act.clone()))
            .collect()
    }

    /// What a core counted, as it last published it.
    pub fn counters(&self, core: CoreIndex) -> reactor::Counters {
        self.remote.counters(core)
    }

    /// Shuts the controllers down, closes the connections and ends the cores. Jobs in flight are given up.
    pub fn stop(self) -> Result<(), HostError> {
        if self.remote.post(CoreIndex(0), Message::Stop).is_err() {
            self.running.stop();
        }
        let ended = std::time::Instant::now() + STOP_TIMEOUT;
        // The control core drops its sender when it ends.
        while let Some(left) = ended.checked_duration_since(std::time::Instant::now()) {
            match self.events.recv_timeout(left) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => self.running.stop(),
            }
        }
        self.running.join().map_err(HostError::from)
    }
}

#[cfg(test)]
mod tests;
