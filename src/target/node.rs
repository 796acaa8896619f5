//! A node: its drives opened, its groups found, its cores started, its management socket served.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use config::Config;
use nvme::subsystem;
use reactor::{CoreIndex, Facts, JoinError, Remote, Running};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;

use super::assemble;
use super::control::ManageCall;
use super::core::CONTROL_CORE;
use super::council::manage::KeyError;
use super::council::{self, Council, Setup};
use super::fabric::Tenure;
use super::fabric::session::Sessions;
use super::manage::{Manage, ManageError, Reply, Request};
use super::message::Message;
use super::observe::{Observation, ObserveCall};
use super::plant::{Plant, Started, Work};
use super::rpc::{Runtime, Server, ServerError, ServerOptions};
use super::share::{Lives, Present};
use super::storage::{self, StorageError};
use crate::amf::superblock::LANES_MAX;

/// How long a management call may take: superblocks of a slow drive are written meanwhile.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the groups may take to open: each writes a few blocks to each of its drives.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Tries to post to a full inbox, a millisecond apart.
const POST_TRIES_MAX: u32 = 1000;

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
    Core(#[from] JoinError),
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
    /// None for one that shares its groups: its cores come and go.
    started: Option<Started>,
    manage: Arc<NodeManage>,
    addresses: Vec<SocketAddr>,
    stop_requests: Receiver<()>,
    stop: SyncSender<()>,
}

/// The management plane's way to the control core.
struct NodeManage {
    /// None while a node that shares its groups has no cores.
    remote: Present,
    /// The node's part in an array that it shares with others.
    council: Option<Council>,
    /// Operators may cut links.
    may_cut: bool,
}

/// Starts a node and waits until hosts may connect; one that shares its groups serves them when enough of the others are there.
pub fn start(config: &Config) -> Result<RunningNode, NodeError> {
    let (stop, stop_requests) = mpsc::sync_channel(1);
    let plant = Plant::new(config, stop.clone())?;
    if config.array.is_some() {
        return start_sharing(plant, stop, stop_requests);
    }
    let incarnation = storage::random_bytes().map_err(|error| NodeError::System {
        what: "no random bytes from the system",
        error,
    })?;
    let sessions = Sessions::connect(&config.shelves, &Tenure::Alone { incarnation }, plant.cores);
    let found = match assemble::find(config, &sessions) {
        Ok(found) => found,
        Err(error) => {
            sessions.abandon();
            return Err(error);
        }
    };
    let (ready, is_ready) = mpsc::sync_channel(1);
    let work = Work {
        found,
        shelves: sessions.shelves(),
        ready,
        share: None,
    };
    sessions.end();
    let started = plant.start(work)?;
    let remote = tell_facts(&started.cores, plant.cores);
    let node = RunningNode {
        started: Some(started),
        manage: Arc::new(NodeManage {
            remote: Arc::new(Mutex::new(Some(remote))),
            council: join_array(config, None)?,
            may_cut: config.health.allow_fault_injection,
        }),
        addresses: plant.addresses,
        stop_requests,
        stop,
    };
    match is_ready.recv_timeout(READY_TIMEOUT) {
        Ok(Ok(())) => Ok(node),
        Ok(Err(why)) => Err(NodeError::NotReady(why)),
        Err(_) => Err(node.end_early()),
    }
}

/// Starts a node whose cores run while it is a member of its array.
fn start_sharing(
    plant: Plant,
    stop: SyncSender<()>,
    stop_requests: Receiver<()>,
) -> Result<RunningNode, NodeError> {
    let config = plant.config.clone();
    check_lanes(&config, plant.cores)?;
    let addresses = plant.addresses.clone();
    let remote = Present::default();
    let council = join_array(&config, Some((plant, Arc::clone(&remote))))?;
    Ok(RunningNode {
        started: None,
        manage: Arc::new(NodeManage {
            remote,
            council,
            may_cut: config.health.allow_fault_injection,
        }),
        addresses,
        stop_requests,
        stop,
    })
}

/// Refuses more cores over all slots than a journal can have lanes.
fn check_lanes(config: &Config, cores: u16) -> Result<(), NodeError> {
    let Some(array) = &config.array else { return Ok(()) };
    let peers = array.peers.iter().map(|peer| peer.slot);
    let slots = u16::from(peers.fold(array.slot, u8::max)) + 1;
    if slots * cores <= LANES_MAX {
        return Ok(());
    }
    let most = LANES_MAX / slots;
    Err(NodeError::Groups(format!(
        "{cores} cores of each of {slots} slots are more than the {LANES_MAX} that may write to the journal of a shared group. Set `cores` in [reactor] to at most {most}, in the files of all nodes alike"
    )))
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

/// Takes part in the array that the configuration names, with cores of its own for each life if it shares groups.
fn join_array(config: &Config, shared: Option<(Plant, Present)>) -> Result<Option<Council>, NodeError> {
    let Some(array) = &config.array else {
        return Ok(None);
    };
    let setup = Setup::of(array, &config.groups)?;
    let lives = shared.map(|(plant, present)| Arc::new(Lives::new(plant, setup.clone(), present)));
    let council = Council::start(setup, lives).map_err(|error| NodeError::Listen {
        address: array.listen,
        error,
    })?;
    Ok(Some(council))
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
        if let Some(council) = &self.manage.council {
            council.stop();
        }
        self.started.take().map_or(Ok(()), |started| Ok(end(started)?))
    }

    /// Ends a node that did not get ready, and says why.
    fn end_early(mut self) -> NodeError {
        let Some(started) = self.started.take() else {
            return NodeError::NotReady("it has ended".to_owned());
        };
        started.cores.stop();
        match started.join() {
            Ok(()) => NodeError::NotReady(
                "its groups did not open in time; the log says which drive is slow".to_owned(),
            ),
            Err(error) => NodeError::Core(error),
        }
    }
}

/// Has cores bring everything to its place, and waits for their end.
fn end(started: Started) -> Result<(), JoinError> {
    if !post_patiently(&started.cores.handle(), Message::Stop) {
        started.cores.stop();
    }
    started.join()
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        // Who wants to know calls `stop`.
        let _ = self.started.take().map(end);
    }
}

/// Posts to the control core; its inbox is full only for moments. False if it takes nothing any more.
pub(super) fn post_patiently(remote: &Remote<Message>, message: Message) -> bool {
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
        let remote = locked(&self.remote).clone().ok_or_else(outside)?;
        if matches!(request, Request::Latency | Request::Counters) {
            let mut observations = observe(remote).ok_or_else(busy)?;
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
        remote
            .post(CONTROL_CORE, Message::Manage(call))
            .map_err(|_| busy())?;
        // Else what cores that end now have not read would be kept, and the call not be known to be lost.
        drop(remote);
        match answer.recv_timeout(CALL_TIMEOUT) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(busy()),
            Err(RecvTimeoutError::Disconnected) => Err(ManageError::new(
                ManageError::BUSY,
                "the node has stopped, or has been left out of its array, before it answered",
                "see whether it was done, and ask again if it was not",
            )),
        }
    }
}

/// Asks every core what it observed.
fn observe(remote: Remote<Message>) -> Option<Vec<Observation>> {
    let cores = remote.cores();
    let (answer, answers): (SyncSender<Observation>, _) = mpsc::sync_channel(usize::from(cores));
    for core in 0..cores {
        let call = ObserveCall {
            answer: answer.clone(),
        };
        remote.post(CoreIndex(core), Message::Observe(call)).ok()?;
    }
    drop((answer, remote));
    (0..cores)
        .map(|_| answers.recv_timeout(CALL_TIMEOUT).ok())
        .collect()
}

/// What operators are told while a node that shares its groups has no cores.
fn outside() -> ManageError {
    ManageError::new(
        ManageError::BUSY,
        "this node is no member of its array at the moment, and serves nothing",
        "`braid array show` says why; `braid array create` makes the array, once, and `braid node join` takes back a node that has left",
    )
}

fn locked(present: &Mutex<Option<Remote<Message>>>) -> std::sync::MutexGuard<'_, Option<Remote<Message>>> {
    present.lock().unwrap_or_else(PoisonError::into_inner)
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
