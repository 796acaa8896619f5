//! A node: its drives opened, its groups found, its cores started, its management socket served.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use config::{Config, Poll};
use nvme::identify::Transport;
use nvme::subsystem::{self, HostAccess, Port, PortId};
use nvme::tcp::target::{Limits, Success};
use reactor::{CoreIndex, Facts, Options, PollMode, Remote, Running};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;

use super::assemble::{self, Found};
use super::command_log::{CommandLog, Note};
use super::control::{Control, ControlSetup, Listener, ManageCall, NodeFacts};
use super::core::{CONTROL_CORE, Core, TransportLimits};
use super::council::manage::KeyError;
use super::council::{self, Council, Setup};
use super::drives::DriveSpec;
use super::fabric::Fabric;
use super::fabric::session::Sessions;
use super::host::Target;
use super::manage::{Manage, ManageError, Reply, Request};
use super::message::Message;
use super::observe::{Observation, ObserveCall};
use super::rpc::{Runtime, Server, ServerError, ServerOptions};
use super::storage::{self, StorageError};

/// Connections that wait to be accepted, per listener.
const BACKLOG: i32 = 1024;
/// How long a management call may take: superblocks of a slow drive are written meanwhile.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the groups may take to open: each writes a few blocks to each of its drives.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Tries to post to a full inbox, a millisecond apart.
const POST_TRIES_MAX: u32 = 1000;
/// Descriptors that a core may hold.
const FILES_MAX: u32 = 8192;
/// This node's controller identifiers: slot 0 of the array's slices (PROTOCOL H43).
const CNTLIDS: std::ops::RangeInclusive<u16> = 1..=2040;
/// How long after the loss of an association its commands may still take effect, in ms (PROTOCOL 3.1).
const COMMAND_QUIESCE_MS: u16 = 2000;

/// Why a node does not run.
#[derive(Debug, Error)]
pub enum NodeError {
    /// A drive cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The groups cannot be opened or created.
    #[error("{0}")]
    Groups(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}. Choose another address or stop who uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// A number of the configuration does not fit the protocol.
    #[error("the subsystem cannot be made: {0}")]
    Subsystem(#[from] subsystem::ConfigError),
    /// The cores could not be started.
    #[error("the cores could not be started: {0}")]
    Cores(#[from] reactor::StartError),
    /// A core ended by itself.
    #[error("a core failed: {0}")]
    Core(#[from] reactor::JoinError),
    /// The management socket could not be made.
    #[error(transparent)]
    Rpc(#[from] ServerError),
    /// The command log cannot be opened.
    #[error("the command log {path} cannot be opened: {error}", path = path.display())]
    CommandLog {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The key of the array is not there.
    #[error(transparent)]
    ArrayKey(#[from] KeyError),
    /// It did not get ready.
    #[error("the node did not get ready: {0}")]
    NotReady(String),
    /// The operating system refused something small.
    #[error("{what}: {error}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// What it said.
        error: std::io::Error,
    },
}

/// A node that runs.
pub struct RunningNode {
    cores: Option<Running<Message>>,
    manage: Arc<NodeManage>,
    addresses: Vec<SocketAddr>,
    stop_requests: Receiver<()>,
    stop: SyncSender<()>,
    /// Writes the command log, if there is one, until the cores are gone.
    log_writer: Option<JoinHandle<()>>,
}

/// The management plane's way to the control core.
struct NodeManage {
    remote: Remote<Message>,
    /// The node's part in an array that it shares with others.
    council: Option<Council>,
    /// Operators may cut links.
    may_cut: bool,
}

/// Starts a node and waits until hosts may connect.
pub fn start(config: &Config) -> Result<RunningNode, NodeError> {
    let cores = core_count(config);
    let incarnation = storage::random_bytes().map_err(|error| NodeError::System {
        what: "no random bytes from the system",
        error,
    })?;
    let sessions = Sessions::connect(&config.shelves, incarnation, cores);
    match prepare(config, cores, &sessions) {
        Ok(prepared) => {
            sessions.end();
            run_cores(config, cores, prepared)
        }
        Err(error) => {
            sessions.abandon();
            Err(error)
        }
    }
}

/// What a node's cores are started with.
struct Prepared {
    control: Box<Control>,
    drives: Arc<Vec<DriveSpec>>,
    targets: Arc<[Target]>,
    addresses: Vec<SocketAddr>,
    is_ready: Receiver<Result<(), String>>,
    stop: SyncSender<()>,
    stop_requests: Receiver<()>,
    command_log: Option<CommandLog>,
    log_writer: Option<JoinHandle<()>>,
}

/// Finds the groups, opens the listeners and makes the control machines.
fn prepare(config: &Config, cores: u16, sessions: &Sessions) -> Result<Prepared, NodeError> {
    let Found {
        drives,
        found,
        groups,
        mut notes,
    } = assemble::find(config, sessions)?;
    let Listening {
        listeners,
        ports,
        addresses,
    } = listen(config)?;
    notes.extend(config.notes.iter().map(|note| note.text.clone()));
    notes.iter().for_each(|note| tracing::info!(note = %note, "note"));
    let (ready, is_ready) = mpsc::sync_channel(1);
    let (stop, stop_requests) = mpsc::sync_channel(1);
    let drives = Arc::new(drives);
    let setup = ControlSetup {
        subsystem: subsystem_config(config, ports)?,
        listeners,
        drives: Arc::clone(&drives),
        found,
        groups,
        vdisks: assemble::vdisk_plans(config)?,
        node: node_facts(config, &addresses, notes),
        health: config.health,
        cores,
        ready,
        memory_mib: assemble::engines_mib(config),
        is_shelf: config.shelf.is_some(),
        read_cache_mib: config.reactor.read_cache_mib,
        stop: stop.clone(),
        shelves: sessions.shelves(),
    };
    let targets = setup.shelves.iter().map(|shelf| shelf.target.clone());
    let (command_log, log_writer) = open_command_log(config, setup.subsystem.instance)?;
    Ok(Prepared {
        targets: targets.collect(),
        control: Box::new(Control::new(setup)?),
        drives,
        addresses,
        is_ready,
        stop,
        stop_requests,
        command_log,
        log_writer,
    })
}

/// Starts the cores and waits until hosts may connect.
fn run_cores(config: &Config, cores: u16, prepared: Prepared) -> Result<RunningNode, NodeError> {
    let Prepared {
        control,
        drives,
        targets,
        addresses,
        is_ready,
        stop,
        stop_requests,
        command_log,
        log_writer,
    } = prepared;
    let control = std::sync::Mutex::new(Some(control));
    let limits = transport_limits(config);
    let spare_bytes = (
        assemble::spare_scratch_bytes(config.reactor.memory_mib),
        assemble::spare_ring_bytes(config.reactor.memory_mib),
    );
    let io_retries = config.health.io_retries;
    let running = reactor::run(reactor_options(config, cores), move |index: CoreIndex| {
        let control = (index == CONTROL_CORE)
            .then(|| control.lock().ok()?.take())
            .flatten();
        let fabric = (!targets.is_empty()).then(|| Box::new(Fabric::new(Arc::clone(&targets), &drives)));
        Core::new(
            index,
            limits,
            Arc::clone(&drives),
            spare_bytes,
            io_retries,
            control,
            fabric,
            command_log.clone(),
        )
    })?;
    let remote = tell_facts(&running, cores);
    let node = RunningNode {
        cores: Some(running),
        manage: Arc::new(NodeManage {
            remote,
            council: join_array(config)?,
            may_cut: config.health.allow_fault_injection,
        }),
        addresses,
        stop_requests,
        stop,
        log_writer,
    };
    match is_ready.recv_timeout(READY_TIMEOUT) {
        Ok(Ok(())) => Ok(node),
        Ok(Err(why)) => Err(NodeError::NotReady(why)),
        Err(_) => Err(node.end_early()),
    }
}

/// Says what the cores got; the way to them.
fn tell_facts(running: &Running<Message>, cores: u16) -> Remote<Message> {
    let facts: Vec<Facts> = (0..cores)
        .map(|core| running.facts(CoreIndex(core)).clone())
        .collect();
    let remote = running.handle();
    log_facts(&facts, &remote);
    remote
}

/// Takes part in the array that the configuration names.
fn join_array(config: &Config) -> Result<Option<Council>, NodeError> {
    let Some(array) = &config.array else {
        return Ok(None);
    };
    let council = Council::start(Setup::of(array)?).map_err(|error| NodeError::Listen {
        address: array.listen,
        error,
    })?;
    Ok(Some(council))
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

fn core_count(config: &Config) -> u16 {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    config.reactor.core_count(cpus)
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

/// Runs a node until it is told to stop: by SIGTERM, SIGINT or `node.shutdown`, or, if `stop_at_eof`, by the end of standard input.
pub fn run(config: Config, stop_at_eof: bool) -> Result<(), NodeError> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| NodeError::System {
        what: "signals cannot be caught",
        error,
    })?;
    let signals_handle = signals.handle();
    let node = start(&config)?;
    let socket = Runtime::of_this_process().socket(&config.node);
    let server = Server::start(
        &socket,
        Arc::clone(&node.manage) as Arc<dyn Manage>,
        ServerOptions::default(),
    )?;
    for address in &node.addresses {
        tracing::info!(%address, nqn = %config.subsystem.nqn, "listening for NVMe/TCP");
    }
    let role = if config.shelf.is_some() { "shelf" } else { "node" };
    println!("braid {role} {} is ready", config.node.name);
    let asked = node.stop.clone();
    let waiter = std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                tracing::info!(signal, "asked to stop");
                let _ = asked.try_send(());
            }
        })
        .map_err(no_thread)?;
    if stop_at_eof {
        let asked = node.stop.clone();
        // Not waited for: it ends with the process, if standard input does not end before.
        std::thread::Builder::new()
            .name("standard-input".to_owned())
            .spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                tracing::info!("standard input has ended");
                let _ = asked.try_send(());
            })
            .map_err(no_thread)?;
    }
    node.wait_for_stop();
    let stopped = node.stop();
    server.stop();
    signals_handle.close();
    drop(waiter.join());
    stopped
}

fn no_thread(error: std::io::Error) -> NodeError {
    NodeError::System {
        what: "a thread cannot be started",
        error,
    }
}

impl RunningNode {
    /// Addresses that hosts may connect to, in the order of the configuration; ports that the system chose are filled in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Carries out one management request.
    pub fn call(&self, request: Request) -> Result<Reply, ManageError> {
        self.manage.call(request)
    }

    /// The management plane's view of the node, to serve on a socket.
    pub fn manage(&self) -> Arc<dyn Manage> {
        Arc::clone(&self.manage) as Arc<dyn Manage>
    }

    /// Waits until someone wants the node to stop.
    fn wait_for_stop(&self) {
        // An error would mean that no sender is left, but the node itself holds one.
        let _ = self.stop_requests.recv();
    }

    /// Stops cleanly: hosts are told, their commands drained, the groups closed.
    pub fn stop(mut self) -> Result<(), NodeError> {
        let Some(cores) = self.cores.take() else {
            return Ok(());
        };
        if let Some(council) = &self.manage.council {
            council.stop();
        }
        if !post_patiently(&self.manage.remote, Message::Stop) {
            cores.stop();
        }
        let joined = cores.join().map_err(NodeError::from);
        // What was noted is in the file when the shelf has stopped.
        self.log_writer.take().map(JoinHandle::join);
        joined
    }

    /// Ends a node that did not get ready, and says why.
    fn end_early(mut self) -> NodeError {
        let Some(cores) = self.cores.take() else {
            return NodeError::NotReady("it has ended".to_owned());
        };
        cores.stop();
        match cores.join() {
            Ok(()) => NodeError::NotReady(
                "its groups did not open in time; the log says which drive is slow".to_owned(),
            ),
            Err(error) => NodeError::Core(error),
        }
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        if let Some(cores) = self.cores.take() {
            if !post_patiently(&self.manage.remote, Message::Stop) {
                cores.stop();
            }
            drop(cores.join());
        }
    }
}

/// Posts to the control core; its inbox is full only for moments. False if it takes nothing any more.
fn post_patiently(remote: &Remote<Message>, message: Message) -> bool {
    let mut message = message;
    for _ in 0..POST_TRIES_MAX {
        match remote.post(CONTROL_CORE, message) {
            Ok(()) => return true,
            Err(back) => message = back,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

impl Manage for NodeManage {
    fn call(&self, request: Request) -> Result<Reply, ManageError> {
        let busy = || {
            ManageError::new(
                ManageError::BUSY,
                "the node is stopping or overloaded",
                "try again later",
            )
        };
        if let Request::Array(request) = &request {
            return council::manage::answer(self.council.as_ref(), request, self.may_cut);
        }
        if matches!(request, Request::Latency | Request::Counters) {
            let mut observations = self.observe().ok_or_else(busy)?;
            observations.sort_by_key(|observation| observation.counters.core);
            let observations = observations.into_iter();
            return Ok(if request == Request::Latency {
                Reply::Latency(
                    observations
                        .flat_map(|observation| observation.latencies)
                        .collect(),
                )
            } else {
                Reply::Counters(observations.map(|observation| observation.counters).collect())
            });
        }
        let entropy = storage::random_bytes().map_err(|_| busy())?;
        let (reply, answer) = mpsc::sync_channel(1);
        let call = ManageCall {
            request,
            entropy,
            reply,
        };
        self.remote
            .post(CONTROL_CORE, Message::Manage(call))
            .map_err(|_| busy())?;
        answer.recv_timeout(CALL_TIMEOUT).unwrap_or_else(|_| Err(busy()))
    }
}

impl NodeManage {
    /// Asks every core what it observed.
    fn observe(&self) -> Option<Vec<Observation>> {
        let cores = self.remote.cores();
        let (answer, answers): (SyncSender<Observation>, _) = mpsc::sync_channel(usize::from(cores));
        for core in 0..cores {
            let call = ObserveCall {
                answer: answer.clone(),
            };
            self.remote.post(CoreIndex(core), Message::Observe(call)).ok()?;
        }
        drop(answer);
        (0..cores)
            .map(|_| answers.recv_timeout(CALL_TIMEOUT).ok())
            .collect()
    }
}

/// The listeners of a node, in the order of the configuration.
struct Listening {
    listeners: Vec<Listener>,
    ports: Vec<Port>,
    addresses: Vec<SocketAddr>,
}

/// Opens the listeners and names them as ports.
fn listen(config: &Config) -> Result<Listening, NodeError> {
    let mut listeners = Vec::new();
    let mut ports = Vec::new();
    let mut addresses = Vec::new();
    for (at, listen) in config.listeners.iter().enumerate() {
        let failed = |error| NodeError::Listen {
            address: listen.address,
            error,
        };
        let socket = reactor::listener(listen.address, BACKLOG).map_err(failed)?;
        let address = super::sockets::local_address(&socket).map_err(failed)?;
        let id = PortId(u16::try_from(at).expect("a configuration has at most 64 listeners"));
        ports.push(Port {
            id,
            transport: Transport::Tcp,
            address: listen.advertise.unwrap_or_else(|| address.ip()).to_string(),
            service: address.port().to_string(),
            discovery_only: listen.discovery_only,
        });
        listeners.push(Listener { socket, port: id });
        addresses.push(address);
    }
    Ok(Listening {
        listeners,
        ports,
        addresses,
    })
}

fn subsystem_config(config: &Config, ports: Vec<Port>) -> Result<subsystem::Config, NodeError> {
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
        cntlids: CNTLIDS,
        controllers_max: subsystem.controllers_max.min(*CNTLIDS.end()),
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

/// Says what the cores got and what they do without, and lets `node.show` say so as well.
fn log_facts(facts: &[Facts], remote: &Remote<Message>) {
    let mut notes: Vec<String> = facts.iter().flat_map(|facts| facts.notes.clone()).collect();
    notes.sort();
    notes.dedup();
    for note in &notes {
        tracing::info!(note = %note, "core");
    }
    post_patiently(remote, Message::Notes(notes));
}
