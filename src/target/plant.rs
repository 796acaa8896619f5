//! What a node's cores are started with, and their start: once, or once for each life of a node that shares its groups.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use config::{Config, Poll};
use nvme::identify::Transport;
use nvme::subsystem::{self, HostAccess, PORTS_MAX, Port, PortId};
use nvme::tcp::target::{Limits, Success};
use reactor::{CoreIndex, JoinError, Options, PollMode, Running};

use super::assemble::{self, Found};
use super::command_log::{CommandLog, Note};
use super::control::{Control, ControlSetup, DriveFound, Expelled, Listener, NodeFacts, Ready, ShareSetup};
use super::core::{CONTROL_CORE, Core, TransportLimits};
use super::drives::DriveSpec;
use super::fabric::{Fabric, Shelf};
use super::host::Target;
use super::message::Message;
use super::node::NodeError;
use super::share::{Heard, Lease, Stock};
use super::storage;
use crate::amf::superblock;
use crate::icl::Slot;

/// Connections that wait to be accepted, per listener.
const BACKLOG: i32 = 1024;
/// Descriptors that a core may hold.
const FILES_MAX: u32 = 8192;
/// Controller identifiers of one slot: all nodes that share groups are one subsystem (PROTOCOL H43).
const CNTLIDS_EACH: u16 = 2040;
/// How long after the loss of an association its commands may still take effect, in ms (PROTOCOL 3.1).
pub const COMMAND_QUIESCE_MS: u16 = 2000;

/// Everything of a node that outlives its cores.
pub struct Plant {
    /// Its configuration.
    pub config: Config,
    /// Its cores.
    pub cores: u16,
    sockets: Vec<OwnedFd>,
    ports: Vec<Port>,
    /// Where it listens: ports that the system chose are filled in.
    pub addresses: Vec<SocketAddr>,
    stop: SyncSender<()>,
}

/// Cores that run, and what ends with them.
pub struct Started {
    /// The cores.
    pub cores: Running<Message>,
    drives: Arc<Vec<DriveSpec>>,
    /// Writes the command log of a shelf that has one, until the cores are gone.
    log_writer: Option<JoinHandle<()>>,
}

impl Started {
    /// Waits until all cores have ended. If they left nothing under way, whoever opens the drives next finds them free.
    pub fn join(self) -> Result<(), JoinError> {
        let joined = self.cores.join();
        if joined.is_ok() {
            storage::release(&self.drives);
        }
        // What was noted is in the file when the shelf has stopped.
        self.log_writer.map(JoinHandle::join);
        joined
    }
}

/// What cores find to serve.
pub struct Work {
    /// The drives, the groups, and what there is to say of them.
    pub found: Found,
    /// The shelves that some of the drives are on.
    pub shelves: Vec<Shelf>,
    /// Told when hosts may connect, or why that never will be.
    pub ready: Ready,
    /// Of groups that are shared: their part of the control core, what is called when the drives are lost, and the lease.
    pub share: Option<(ShareSetup, Expelled, Arc<Lease>)>,
}

impl Plant {
    /// Opens the listeners.
    pub fn new(config: &Config, stop: SyncSender<()>) -> Result<Self, NodeError> {
        let mut plant = Self {
            cores: core_count(config),
            config: config.clone(),
            sockets: Vec::new(),
            ports: Vec::new(),
            addresses: Vec::new(),
            stop,
        };
        // No two nodes of an array have a port of the same number.
        let slot = config.array.as_ref().map_or(0, |array| u16::from(array.slot));
        let first = slot * u16::try_from(PORTS_MAX).expect("it is 64");
        for (at, listen) in config.listeners.iter().enumerate() {
            let failed = |error| NodeError::Listen {
                address: listen.address,
                error,
            };
            let socket = super::sockets::listen(listen.address, BACKLOG).map_err(failed)?;
            let address = super::sockets::local_address(&socket).map_err(failed)?;
            let id = first + u16::try_from(at).expect("a configuration has at most 64 listeners");
            plant.ports.push(Port {
                id: PortId(id),
                transport: Transport::Tcp,
                address: listen.advertise.unwrap_or_else(|| address.ip()).to_string(),
                service: address.port().to_string(),
                discovery_only: listen.discovery_only,
            });
            plant.sockets.push(socket);
            plant.addresses.push(address);
        }
        Ok(plant)
    }

    /// The ports where hosts reach it.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Starts cores that share groups with other nodes.
    pub fn start_sharing(
        &self,
        stock: &Stock,
        share: ShareSetup,
        ear: Sender<Heard>,
        lease: &Arc<Lease>,
    ) -> Result<Running<Message>, NodeError> {
        // Nobody waits for groups that open when the others are there.
        let (ready, _) = mpsc::sync_channel(1);
        let drives = stock.drives();
        let blank = |_: &DriveSpec| DriveFound {
            existing: superblock::examine(None, None),
            finding: None,
        };
        let found = Found {
            found: drives.iter().map(blank).collect(),
            drives,
            groups: Vec::new(),
            notes: stock.notes().to_vec(),
        };
        let expelled: Expelled = Box::new(move || drop(ear.send(Heard::Fenced)));
        let work = Work {
            found,
            shelves: stock.shelves(),
            ready,
            share: Some((share, expelled, Arc::clone(lease))),
        };
        self.start(work).map(|started| started.cores)
    }

    /// Starts cores, and with them the thread that writes the command log of a shelf that has one.
    pub fn start(&self, work: Work) -> Result<Started, NodeError> {
        let Work {
            found:
                Found {
                    drives,
                    found,
                    groups,
                    mut notes,
                },
            shelves,
            ready,
            share,
        } = work;
        let config = &self.config;
        notes.extend(config.notes.iter().map(|note| note.text.clone()));
        notes.iter().for_each(|note| tracing::info!(note = %note, "note"));
        let drives = Arc::new(drives);
        let slots = share.as_ref().map(|(share, ..)| slots(share));
        let (share, expelled, lease) = match share {
            Some((share, expelled, lease)) => (Some(share), Some(expelled), Some(lease)),
            None => (None, None, None),
        };
        let setup = ControlSetup {
            subsystem: subsystem_config(config, self.ports.clone(), slots.unwrap_or_default())?,
            listeners: self.listeners()?,
            drives: Arc::clone(&drives),
            found,
            groups,
            vdisks: assemble::vdisk_plans(config)?,
            node: node_facts(config, &self.addresses, notes),
            health: config.health,
            cores: self.cores,
            ready,
            memory_mib: assemble::engines_mib(config),
            is_shelf: config.shelf.is_some(),
            read_cache_mib: config.reactor.read_cache_mib,
            stop: self.stop.clone(),
            shelves,
            expelled,
            share,
        };
        let targets: Arc<[Target]> = setup.shelves.iter().map(|shelf| shelf.target.clone()).collect();
        let (command_log, log_writer) = open_command_log(config, setup.subsystem.instance)?;
        let control = std::sync::Mutex::new(Some(Box::new(Control::new(setup)?)));
        let limits = transport_limits(config);
        let spare_bytes = assemble::spare_bytes(config.reactor.memory_mib);
        let io_retries = config.health.io_retries;
        let specs = Arc::clone(&drives);
        let cores = reactor::run(reactor_options(config, self.cores), move |index: CoreIndex| {
            let control = (index == CONTROL_CORE)
                .then(|| control.lock().ok()?.take())
                .flatten();
            let fabric = (!targets.is_empty()).then(|| Box::new(Fabric::new(Arc::clone(&targets), &specs)));
            Core::new(
                index,
                limits,
                Arc::clone(&specs),
                spare_bytes,
                io_retries,
                control,
                fabric,
                command_log.clone(),
                lease.clone(),
            )
        })?;
        Ok(Started {
            cores,
            drives,
            log_writer,
        })
    }

    /// The listeners once more: those of cores that have ended are closed with them.
    fn listeners(&self) -> Result<Vec<Listener>, NodeError> {
        let again = |(socket, port): (&OwnedFd, &Port)| {
            let socket = socket.try_clone().map_err(|error| NodeError::System {
                what: "no descriptor is left",
                error,
            })?;
            Ok(Listener {
                socket,
                port: port.id,
            })
        };
        self.sockets.iter().zip(&self.ports).map(again).collect()
    }
}

/// Opens the command log of a shelf that has one.
fn open_command_log(
    config: &Config,
    instance: [u8; 16],
) -> Result<(Option<CommandLog>, Option<JoinHandle<()>>), NodeError> {
    let path = config.shelf.as_ref().and_then(|shelf| shelf.command_log.as_ref());
    let Some(path) = path else {
        return Ok((None, None));
    };
    let (log, writer) = CommandLog::open(path).map_err(|error| NodeError::CommandLog {
        path: path.clone(),
        error,
    })?;
    log.note(reactor::now(), Note::Started { instance });
    Ok((Some(log), Some(writer)))
}

fn node_facts(config: &Config, addresses: &[SocketAddr], notes: Vec<String>) -> NodeFacts {
    let listeners = addresses.iter().zip(&config.listeners);
    NodeFacts {
        name: config.node.name.clone(),
        poll: poll_name(config.reactor.poll).to_owned(),
        listen: listeners
            .map(|(address, listen)| (address.to_string(), listen.discovery_only))
            .collect(),
        notes,
    }
}

/// Controller identifiers of a slot (PROTOCOL H43).
fn cntlids_of(slot: u16) -> RangeInclusive<u16> {
    slot * CNTLIDS_EACH + 1..=(slot + 1) * CNTLIDS_EACH
}

/// The slot whose node has this controller.
pub fn slot_of(cntlid: u16) -> Option<Slot> {
    Slot::new(u8::try_from(cntlid.checked_sub(1)? / CNTLIDS_EACH).ok()?)
}

/// This node's slot, and the others'.
fn slots(share: &ShareSetup) -> (u16, Vec<u16>) {
    let others = share.port.peers.iter().map(|peer| u16::from(peer.slot.number()));
    (u16::from(share.slot.number()), others.collect())
}

/// What hosts see of a node that has a slot, beside others.
fn subsystem_config(
    config: &Config,
    ports: Vec<Port>,
    (slot, others): (u16, Vec<u16>),
) -> Result<subsystem::Config, NodeError> {
    let subsystem = &config.subsystem;
    let drawn: [u8; 24] = storage::random_bytes().map_err(|error| NodeError::System {
        what: "no random bytes from the system",
        error,
    })?;
    let (instance, seed) = drawn.split_first_chunk().expect("24 are more than 16");
    let seed = seed.first_chunk().expect("8 are left");
    Ok(subsystem::Config {
        nqn: subsystem.nqn.clone(),
        serial: subsystem.serial.clone(),
        model: subsystem.model.clone(),
        firmware: subsystem.firmware.clone(),
        oui: subsystem.oui,
        cntlids: cntlids_of(slot),
        cntlids_elsewhere: others.into_iter().map(cntlids_of).collect(),
        controllers_max: subsystem.controllers_max.min(CNTLIDS_EACH),
        io_queues_max: subsystem.io_queues_max,
        queue_entries_max: subsystem.queue_entries_max,
        in_capsule_bytes: subsystem.in_capsule_kib * 1024,
        max_transfer_bytes: subsystem.max_transfer_kib * 1024,
        compare_write_blocks_max: super::control::COMPARE_WRITE_BLOCKS,
        atomic_write_blocks: 1,
        atomic_write_blocks_power_fail: 1,
        command_quiesce_ms: COMMAND_QUIESCE_MS,
        allow: match &subsystem.hosts {
            config::Hosts::Any => HostAccess::Any,
            config::Hosts::List(hosts) => HostAccess::List(hosts.clone()),
        },
        ports,
        instance: *instance,
        seed: u64::from_le_bytes(*seed),
    })
}

fn transport_limits(config: &Config) -> TransportLimits {
    let subsystem = &config.subsystem;
    let max_transfer_bytes = subsystem.max_transfer_kib * 1024;
    TransportLimits {
        machine: Limits {
            in_capsule_bytes: subsystem.in_capsule_kib * 1024,
            max_h2c_bytes: max_transfer_bytes,
            max_transfer_bytes,
            header_digest: subsystem.header_digest,
            data_digest: subsystem.data_digest,
            // Admin queues may have more entries than the configuration gives I/O queues.
            slots_max: subsystem
                .queue_entries_max
                .max(nvme::subsystem::ADMIN_ENTRIES_MAX),
        },
        success: match subsystem.c2h_success {
            config::C2hSuccess::WithoutFlowControl => Success::WithoutFlowControl,
            config::C2hSuccess::Always => Success::Always,
            config::C2hSuccess::Never => Success::Never,
        },
    }
}

fn reactor_options(config: &Config, cores: u16) -> Options {
    Options {
        cores,
        cpus: config.reactor.cpus.clone(),
        poll: match config.reactor.poll {
            Poll::Busy => PollMode::Busy,
            Poll::Adaptive { spin_us } => PollMode::Adaptive {
                spin: Duration::from_micros(u64::from(spin_us)),
            },
            Poll::Interrupt => PollMode::Interrupt,
        },
        arena_bytes: (config.reactor.memory_mib as usize) << 20,
        files_max: FILES_MAX,
        ..Options::default()
    }
}

const fn poll_name(poll: Poll) -> &'static str {
    match poll {
        Poll::Busy => "busy",
        Poll::Adaptive { .. } => "adaptive",
        Poll::Interrupt => "interrupt",
    }
}

fn core_count(config: &Config) -> u16 {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    config.reactor.core_count(cpus)
}
