//! Membership of this node in an array that it shares with others, bound to shelves and to the other nodes.
//!
//! | file | part |
//! |---|---|
//! | `seat` | one life of the node in the array: a program on a reactor of its own |
//! | `drives` | which namespaces of the shelves are drives of the array, by their labels |
//! | `manage` | what the configuration and operators ask for |
//! | `survey` | which arrays there are on shelves, for tools that are no node |
//! | `admission` | whether a target keeps what the array relies on, tried out before it is made |
//! | `rebirth` | how long a node waits between two lives |
//! | `desk` | what the machine asks of drives as NVMe commands, and what their answers mean |
//!
//! A life runs on a thread of its own, which sleeps between its beats, so that no load on the cores of the data path delays a heartbeat. When
//! the machine halts, because others have gone on without this node, the life ends with everything that belongs to it, and a new one
//! begins with another incarnation, which has to join.
//!
//! Deliberately decides nothing: who is a member, who is fenced and who may answer hosts is [`crate::icl::membership`].

pub mod admission;
mod desk;
mod drives;
pub mod manage;
mod rebirth;
mod seat;
pub mod survey;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use config::Encryption;
use nvme::nqn::Nqn;
use reactor::{CoreIndex, Options, PollMode, Remote};
use uuid::Uuid;

use super::icl::Peer;
use super::manage::{ArrayCut, ArrayDriveStatus, ArrayPeerStatus, ArrayStatus};
use super::share::{Born, Heard, Lease, Lives};
use crate::icl::Epoch;
use crate::icl::link::hmac::MAC_BYTES;
use crate::icl::{ArrayId, Incarnation, Slot};
use admission::{Finding, Hold, Refusal};
use rebirth::{Pause, Rebirth};
use seat::{LEAVING, Order, SETTLING, Seat};

pub use drives::NamespaceName;

/// How long a question to the thread may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an array may take to be made: a few blocks on each drive, and one epoch.
const CREATE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a node that stops waits for an epoch that is just beginning to open, so that it can leave it: what takes longest is another node's lease.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(8);
/// How often it asks meanwhile.
const SETTLE_AGAIN: Duration = Duration::from_millis(20);
/// How long a node that stops waits until the others go on without it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// The same where hosts' commands and dirty data are brought to an end first.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Drives that are tried out at once: each has two hosts, with 16 MiB of memory each.
const TRIED_AT_ONCE: usize = 4;
/// Memory for what is read from drives.
const ARENA_BYTES: usize = 16 << 20;

/// A shelf whose drives belong to the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShelfSpec {
    /// Its name in the configuration.
    pub name: String,
    /// Where it listens, in the order in which the addresses are tried; at least one.
    pub addresses: Vec<SocketAddr>,
    /// Its subsystem.
    pub nqn: Nqn,
}

/// The way from a life's cores to its membership.
pub struct ToSeat(Remote<Order>);

impl ToSeat {
    fn post(&self, order: Order) {
        if self.0.post(CoreIndex(0), order).is_err() {
            tracing::debug!("membership of this life is over");
        }
    }

    /// The link for locks has not heard a member for a while.
    pub fn unlinked(&self, peer: Slot) {
        self.post(Order::Unlinked(peer));
    }

    /// It hears it.
    pub fn linked(&self, peer: Slot) {
        self.post(Order::Linked(peer));
    }

    /// The barrier is done.
    pub fn barrier_done(&self, epoch: Epoch) {
        self.post(Order::BarrierDone(epoch));
    }

    /// All groups are recovered.
    pub fn recovered(&self, epoch: Epoch) {
        self.post(Order::Recovered(epoch));
    }

    /// Nothing of this node is left on any drive.
    pub fn drained(&self) {
        self.post(Order::Drained);
    }

    /// A drive has refused this life.
    pub fn preempted(&self) {
        self.post(Order::Preempted);
    }

    /// This node cannot serve what the others do, and why.
    pub fn unfit(&self, why: &str) {
        self.post(Order::Unfit(why.to_owned()));
    }

    /// This life cannot serve, and why.
    pub fn failed(&self, why: &str) {
        self.post(Order::Failed(why.to_owned()));
    }
}

/// A drive of the array as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveSpec {
    /// Its name in the configuration.
    pub name: String,
    /// Which of the shelves has it.
    pub shelf: u16,
    /// Which of the shelf's namespaces it is.
    pub namespace: NamespaceName,
}

/// What a node knows of its array from its configuration.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What people call the array.
    pub name: String,
    /// This node's slot.
    pub slot: Slot,
    /// The key that all nodes of the array have.
    pub key: [u8; MAC_BYTES],
    /// Drives that may be lost: how many vote, when the array is made, follows from it.
    pub failures: u32,
    /// What protects the connections to the other nodes.
    pub encryption: Encryption,
    /// Stands for what the configurations of all nodes have to say alike: two that differ are, in all likelihood, two numbers.
    pub terms: u32,
    /// Where this node listens for the others.
    pub listen: SocketAddr,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// The shelves.
    pub shelves: Vec<ShelfSpec>,
    /// The drives.
    pub drives: Vec<DriveSpec>,
}

/// An array follows from its key and its name, so that nodes with another key belong to another array.
pub fn array_id(key: &[u8; MAC_BYTES], name: &str) -> ArrayId {
    let secret = super::icl::hmac_sha256(key, &[b"braid array"]);
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = secret;
    let space = Uuid::from_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]);
    ArrayId(*Uuid::new_v5(&space, name.as_bytes()).as_bytes())
}

impl Setup {
    /// The array.
    pub fn array(&self) -> ArrayId {
        array_id(&self.key, &self.name)
    }

    /// Who a life of a slot is to the drives (PROTOCOL 1, decision 5).
    pub fn host_id(&self, slot: Slot, incarnation: Incarnation) -> [u8; 16] {
        let life = format!("slot {slot} incarnation {:016x}", incarnation.0);
        *Uuid::new_v5(&Uuid::from_bytes(self.array().0), life.as_bytes()).as_bytes()
    }

    /// Tries out all drives, a few at once; what was found of each. One of them is held until the array is made.
    fn admit(&self) -> Result<(Vec<String>, Hold), String> {
        let held = self.drive_to_hold()?;
        let drive = &self.drives[held];
        let is_it = |namespace: &_| drive.namespace.names(namespace);
        let hold = Hold::take(&self.admission_target(drive.shelf), is_it);
        let mut hold = hold.map_err(|refusal| unfit(drive, &refusal))?;
        let found = self.admit_all(held, &hold);
        let prepared = found.and_then(|found| {
            let prepared = hold.prepare().map_err(|refusal| unfit(drive, &refusal));
            prepared.map(|()| found)
        });
        match prepared {
            Ok(found) => Ok((found, hold)),
            Err(why) => {
                hold.release();
                Err(why)
            }
        }
    }

    /// Tries out all drives, of which this one is held.
    fn admit_all(&self, held: usize, hold: &Hold) -> Result<Vec<String>, String> {
        let admit = |drive: &DriveSpec, hold: Option<&Hold>| {
            let target = self.admission_target(drive.shelf);
            let mut found = Vec::new();
            let tell = |finding: Finding| found.push(finding.found);
            let result = match hold {
                Some(hold) => hold.examine(&target, tell),
                None => admission::examine(&target, |namespace| drive.namespace.names(namespace), tell),
            };
            result.map_err(|refusal| unfit(drive, &refusal))?;
            let found = found.join("; ");
            tracing::info!(drive = %drive.name, %found, "drive is fit for an array");
            Ok(found)
        };
        let mut found: Vec<Result<String, String>> = Vec::new();
        for drives in self.drives.chunks(TRIED_AT_ONCE) {
            let at = found.len();
            std::thread::scope(|scope| {
                let try_out = |(at, drive)| (at != held).then(|| scope.spawn(move || admit(drive, None)));
                let tried: Vec<_> = (at..).zip(drives).map(try_out).collect();
                for (drive, tried) in drives.iter().zip(tried) {
                    found.push(match tried {
                        Some(tried) => tried.join().unwrap_or_else(|_| {
                            Err(format!(
                                "drive \"{}\" could not be tried out: report this",
                                drive.name
                            ))
                        }),
                        None => admit(drive, Some(hold)),
                    });
                }
            });
        }
        found.into_iter().collect()
    }

    /// The drive that all nodes would hold, in whatever order their configurations name the drives.
    fn drive_to_hold(&self) -> Result<usize, String> {
        let mut lowest: Option<([u8; 16], usize)> = None;
        for (number, shelf) in (0..).zip(&self.shelves) {
            let drives = self.drives.iter().enumerate();
            let drives: Vec<_> = drives.filter(|(_, drive)| drive.shelf == number).collect();
            if drives.is_empty() {
                continue;
            }
            let found = admission::namespaces(&self.admission_target(number))
                .map_err(|refusal| format!("shelf \"{}\" is not fit for an array: {refusal}", shelf.name))?;
            let uuid_of = |drive: &DriveSpec| {
                let namespace = found.iter().find(|namespace| drive.namespace.names(namespace));
                namespace.map(|namespace| namespace.uuid)
            };
            let known = drives
                .into_iter()
                .filter_map(|(at, drive)| Some((uuid_of(drive)?, at)));
            lowest = known.chain(lowest).min();
        }
        let lowest = lowest.ok_or("no shelf has any of the drives that the configuration names")?;
        Ok(lowest.1)
    }

    /// A shelf as it is tried out.
    fn admission_target(&self, shelf: u16) -> config::RemoteShelf {
        let shelf = &self.shelves[usize::from(shelf)];
        config::RemoteShelf {
            name: shelf.name.clone(),
            addresses: shelf.addresses.clone(),
            nqn: shelf.nqn.clone(),
            host_nqn: self.admission_nqn(),
            header_digest: false,
            data_digest: false,
            take_over: false,
        }
    }

    /// Who tries drives out: lives of it are nobody's past.
    fn admission_nqn(&self) -> Nqn {
        let array = Uuid::from_bytes(self.array().0);
        let name = format!("nqn.2026-01.io.braid:array:{array}:admission");
        Nqn::parse(&name).expect("it has the form of an NQN and is short")
    }

    /// The name of a slot to the shelves: the same in all its lives.
    pub fn host_nqn(&self, slot: Slot) -> Nqn {
        let array = Uuid::from_bytes(self.array().0);
        let name = format!("nqn.2026-01.io.braid:array:{array}:slot:{slot}");
        Nqn::parse(&name).expect("it has the form of an NQN and is short")
    }
}

fn unfit(drive: &DriveSpec, refusal: &Refusal) -> String {
    format!("drive \"{}\" is not fit for an array: {refusal}", drive.name)
}

/// A node's part in its array, running.
pub struct Council {
    setup: Arc<Setup>,
    present: Arc<Mutex<Present>>,
    wish: SyncSender<Wish>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// What was found of each drive when the array was made here.
    admitted: Mutex<Vec<String>>,
    /// Held while the array is made here.
    creating: Mutex<()>,
    /// How long a stop waits until the others go on without this node.
    leave_timeout: Duration,
}

/// What is wanted of the thread that begins new lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Come back after having left.
    Join,
    /// Come to an end.
    Stop,
}

/// How a life has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    /// It left, as asked.
    Left,
    /// It was stopped, as asked.
    Stopped,
    /// Others go on without it, or it could not go on.
    Lost(String),
    /// It cannot serve, which may pass.
    Failed(String),
    /// It cannot serve what the others do, and would not next time either.
    Unfit(String),
}

/// What there is of this node in the array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// A life goes on, or begins.
    #[default]
    Living,
    /// One has ended, and another one follows.
    Between,
    /// It left, as asked, and stays outside until it is asked to join.
    Left,
    /// It was asked to join after it had left, and a life is about to begin.
    Joining,
}

/// The life that runs.
#[derive(Default)]
struct Present {
    phase: Phase,
    remote: Option<Remote<Order>>,
    /// How the last one ended.
    ended: Option<String>,
    /// When the next one begins, between two of them.
    next_at: Option<Instant>,
    lives: u32,
    /// No other life is to go on.
    stops: bool,
}

impl Present {
    /// One word for [`ArrayStatus::stage`] while no life can be asked.
    const fn stage(&self) -> &'static str {
        match self.phase {
            Phase::Living | Phase::Joining => "beginning",
            Phase::Between => "halted",
            Phase::Left => "left",
        }
    }
}

/// Why something about an array could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CouncilError {
    /// Between two lives, or in the midst of something.
    #[error("membership does not answer: it may just begin anew")]
    Silent,
    /// It cannot be done, and why.
    #[error("{0}")]
    Refused(String),
}

impl Council {
    /// Joins the array, as far as it exists, and goes on until it is stopped. `lives` serve the array's groups, if this node does.
    ///
    /// Errs if the address cannot be listened on.
    pub fn start(setup: Setup, lives: Option<Arc<Lives>>) -> std::io::Result<Self> {
        let setup = Arc::new(setup);
        let listener = super::sockets::listen(setup.listen, 64)?;
        let present = Arc::new(Mutex::new(Present::default()));
        let (wish, wishes) = mpsc::sync_channel(2);
        let thread = {
            let (setup, present) = (Arc::clone(&setup), Arc::clone(&present));
            let name = "membership".to_owned();
            let lives = lives.clone();
            let live = move || live_on(&setup, &listener, &present, &wishes, lives.as_ref());
            std::thread::Builder::new().name(name).spawn(live)?
        };
        Ok(Self {
            leave_timeout: if lives.is_some() {
                DRAIN_TIMEOUT
            } else {
                LEAVE_TIMEOUT
            },
            setup,
            present,
            wish,
            thread: Mutex::new(Some(thread)),
            admitted: Mutex::default(),
            creating: Mutex::default(),
        })
    }

    fn ask<R: Send + 'static>(
        &self,
        timeout: Duration,
        order: impl FnOnce(SyncSender<R>) -> Order,
    ) -> Result<R, CouncilError> {
        let (answer, answers) = mpsc::sync_channel(1);
        let (remote, phase) = {
            let present = locked(&self.present);
            (present.remote.clone(), present.phase)
        };
        let remote = remote.ok_or_else(|| match phase {
            Phase::Left => CouncilError::Refused(
                "this node has left the array; `braid node join` has it come back".to_owned(),
            ),
            Phase::Living | Phase::Between | Phase::Joining => CouncilError::Silent,
        })?;
        let posted = remote.post(CoreIndex(0), order(answer));
        posted.map_err(|_| CouncilError::Silent)?;
        answers.recv_timeout(timeout).map_err(|_| CouncilError::Silent)
    }

    /// What there is to say of the array and of this node in it.
    pub fn status(&self) -> Result<ArrayStatus, CouncilError> {
        let asked = self.ask(CALL_TIMEOUT, Order::Status);
        let present = locked(&self.present);
        let mut status = match asked {
            Ok(status) => status,
            // A life may also have ended while it was asked.
            Err(_) if present.remote.is_none() => self.outside(present.stage()),
            Err(error) => return Err(error),
        };
        status.ended_before.clone_from(&present.ended);
        let now = Instant::now();
        status.next_life_s = present
            .next_at
            .map(|at| at.saturating_duration_since(now).as_secs());
        status.lives = present.lives;
        let admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        for (drive, found) in status.drives.iter_mut().zip(admitted.iter()) {
            drive.admission = Some(found.clone());
        }
        Ok(status)
    }

    /// What there is to say while no life of this node goes on.
    fn outside(&self, stage: &str) -> ArrayStatus {
        let setup = &self.setup;
        let drives = setup.drives.iter().map(|drive| ArrayDriveStatus {
            name: drive.name.clone(),
            shelf: setup.shelves[usize::from(drive.shelf)].name.clone(),
            place: None,
            votes: false,
            in_use: false,
            state: "this node takes no part".to_owned(),
            admission: None,
        });
        let peers = setup.peers.iter().map(|peer| ArrayPeerStatus {
            slot: peer.slot.number(),
            addresses: peer.addresses.iter().map(ToString::to_string).collect(),
            incarnation: None,
            paths_up: 0,
        });
        ArrayStatus {
            array: setup.name.clone(),
            uuid: Uuid::from_bytes(setup.array().0).to_string(),
            slot: setup.slot.number(),
            stage: stage.to_owned(),
            encryption: setup.encryption.name().to_owned(),
            drives: drives.collect(),
            peers: peers.collect(),
            ..ArrayStatus::default()
        }
    }

    /// Makes the array on its drives, which have to be blank, and to keep what an array relies on.
    pub fn create(&self) -> Result<(), CouncilError> {
        // One at a time: whoever tries drives out fences everybody from them, and the array that another caller has just made would suffer.
        let _alone = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let drives = self.status()?.drives;
        let mut hold = None;
        // Whoever has labels was tried out before; what else is in the way the thread says.
        if !drives.is_empty() && drives.iter().all(|drive| drive.state == "blank") {
            let (found, held) = self.setup.admit().map_err(CouncilError::Refused)?;
            *self.admitted.lock().unwrap_or_else(PoisonError::into_inner) = found;
            hold = Some(held);
        }
        let made = self.ask(CREATE_TIMEOUT, Order::Create);
        // By now the labels are there, for whoever is asked next.
        if let Some(hold) = hold {
            hold.release();
        }
        made?.map_err(CouncilError::Refused)
    }

    /// Joins again after having left, or at once where another life would begin later.
    pub fn join(&self) -> Result<(), CouncilError> {
        let mut present = locked(&self.present);
        match present.phase {
            Phase::Left | Phase::Between => {}
            Phase::Joining => return Ok(()), // It was asked before.
            Phase::Living => {
                return Err(CouncilError::Refused("this node has not left".to_owned()));
            }
        }
        self.wish.try_send(Wish::Join).map_err(|_| CouncilError::Silent)?;
        present.phase = Phase::Joining;
        Ok(())
    }

    /// Leaves the array: others go on without this node at once.
    pub fn leave(&self) -> Result<(), CouncilError> {
        self.ask(CALL_TIMEOUT, Order::Leave)?
            .map_err(CouncilError::Refused)
    }

    /// Cuts this node off from another one, in one direction or both, to see what follows.
    pub fn cut(&self, peer: Slot, cut: ArrayCut) -> Result<(), CouncilError> {
        self.ask(CALL_TIMEOUT, |answer| Order::Cut { peer, cut, answer })
    }

    /// What the configuration says.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Ends this node's part in the array: leaves it, if that is soon done, and drops all connections.
    pub fn stop(&self) {
        if self.leaves_in_time() {
            let end = Instant::now() + self.leave_timeout;
            while locked(&self.present).remote.is_some() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.end();
    }

    /// Leaves the array as soon as an epoch is open. Whoever ended while one begins would have the others wait for its lease, and its hosts for them.
    fn leaves_in_time(&self) -> bool {
        let end = Instant::now() + SETTLE_TIMEOUT;
        loop {
            if self.leave().is_ok() {
                return true;
            }
            let stage = self.status().map(|status| status.stage).unwrap_or_default();
            if stage == LEAVING {
                return true; // It was asked before.
            }
            if stage != SETTLING || Instant::now() >= end {
                return false;
            }
            std::thread::sleep(SETTLE_AGAIN);
        }
    }

    fn end(&self) {
        let _ = self.wish.try_send(Wish::Stop); // The thread may have ended by itself.
        let remote = {
            let mut present = locked(&self.present);
            present.stops = true; // For a life that is just beginning.
            present.remote.clone()
        };
        if let Some(remote) = remote {
            let _ = remote.post(CoreIndex(0), Order::Stop); // Likewise.
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join(); // It has said why it ended.
        }
    }
}

impl Drop for Council {
    fn drop(&mut self) {
        self.end();
    }
}

/// One life after the other, until it is enough.
fn live_on(
    setup: &Arc<Setup>,
    listener: &OwnedFd,
    present: &Arc<Mutex<Present>>,
    wishes: &Receiver<Wish>,
    lives: Option<&Arc<Lives>>,
) {
    let mut rebirth = Rebirth::default();
    loop {
        let begun = Instant::now();
        let wish = match live(setup, listener, present, lives) {
            Ending::Stopped => return,
            Ending::Left => {
                tracing::info!(array = %setup.name, slot = %setup.slot, "this node has left the array");
                stay_outside(present, wishes, "left, as asked".to_owned())
            }
            Ending::Unfit(why) => {
                tracing::error!(array = %setup.name, slot = %setup.slot, "this node stays outside of the array until `braid node join`: {why}");
                stay_outside(present, wishes, why)
            }
            Ending::Lost(why) => pause_for(setup, present, wishes, why, rebirth.lost()),
            Ending::Failed(why) => {
                let pause = rebirth.failed(&why, begun.elapsed());
                pause_for(setup, present, wishes, why, pause)
            }
        };
        if wish == Wish::Stop {
            return;
        }
    }
}

/// Waits until somebody wants this node back.
fn stay_outside(present: &Mutex<Present>, wishes: &Receiver<Wish>, why: String) -> Wish {
    let mut left = locked(present);
    left.ended = Some(why);
    left.phase = Phase::Left;
    drop(left);
    wishes.recv().unwrap_or(Wish::Stop)
}

/// Waits until another life is due, or wanted.
fn pause_for(
    setup: &Setup,
    present: &Mutex<Present>,
    wishes: &Receiver<Wish>,
    why: String,
    pause: Pause,
) -> Wish {
    let (array, slot, pause_s) = (&setup.name, setup.slot, pause.time.as_secs());
    if pause.is_known {
        tracing::debug!(%array, %slot, pause_s, "membership ended as before: {why}; a new life begins after a pause");
    } else {
        tracing::error!(%array, %slot, pause_s, "membership ended: {why}; a new life begins after a pause");
    }
    let mut between = locked(present);
    between.ended = Some(why);
    between.phase = Phase::Between;
    between.next_at = Some(Instant::now() + pause.time);
    drop(between);
    let wish = wishes.recv_timeout(pause.time);
    let mut between = locked(present);
    between.phase = Phase::Joining;
    between.next_at = None;
    match wish {
        Ok(wish) => wish,
        Err(RecvTimeoutError::Disconnected) => Wish::Stop,
        // Whoever has wanted something in this moment has said so before the phase was another one.
        Err(RecvTimeoutError::Timeout) => wishes.try_recv().unwrap_or(Wish::Join),
    }
}

/// One life, from its birth until it halts or is stopped.
fn live(
    setup: &Arc<Setup>,
    listener: &OwnedFd,
    present: &Arc<Mutex<Present>>,
    lives: Option<&Arc<Lives>>,
) -> Ending {
    let bytes = Uuid::new_v4().into_bytes();
    let incarnation = Incarnation(u64::from_le_bytes(*bytes.first_chunk().expect("16 bytes")) | 1);
    let random = u32::from_le_bytes([bytes[9], bytes[10], bytes[11], 0]);
    let listener = match listener.try_clone() {
        Ok(listener) => listener,
        Err(error) => return Ending::Lost(format!("no descriptor is left: {error}")),
    };
    let (ended, endings) = mpsc::sync_channel(1);
    let (ear, hears) = mpsc::channel();
    let lease = Arc::new(Lease::default());
    let share = lives.map(|_| (ear.clone(), Arc::clone(&lease)));
    let born = Born {
        incarnation,
        ear: ear.clone(),
    };
    let life = match lives.map(|lives| lives.begin(born, &lease)).transpose() {
        Ok(life) => life,
        // The others hear nothing of a life that could not serve.
        Err(error) => return Ending::Failed(format!("the cores of this node cannot be started: {error}")),
    };
    let seat = Mutex::new(Some(Seat::new(
        Arc::clone(setup),
        incarnation,
        random,
        listener,
        ended,
        share,
    )));
    let options = Options {
        poll: PollMode::Interrupt,
        arena_bytes: ARENA_BYTES,
        files_max: 1024,
        operations_max: 8192,
        ..Options::default()
    };
    let running = reactor::run(options, move |_| {
        let seat = seat.lock().unwrap_or_else(PoisonError::into_inner).take();
        seat.expect("there is one core")
    });
    let running = match running {
        Ok(running) => running,
        Err(error) => return Ending::Lost(format!("its thread could not be started: {error}")),
    };
    let seat = ToSeat(running.handle());
    let life = match life.map(|life| life.go(hears, seat)).transpose() {
        Ok(life) => life,
        Err(error) => return Ending::Lost(format!("its thread could not be started: {error}")),
    };
    {
        let mut present = locked(present);
        present.remote = Some(running.handle());
        present.phase = Phase::Living;
        present.lives += 1;
        if present.stops {
            let _ = running.handle().post(CoreIndex(0), Order::Stop); // The mailbox of a new life is empty.
        }
    }
    // A thread that fails drops its end.
    let ending = endings.recv().unwrap_or(Ending::Stopped);
    lease.set(0);
    locked(present).remote = None;
    running.stop();
    if let Some(life) = life {
        let _ = ear.send(Heard::End); // It may have ended by itself.
        life.wait();
    }
    if let Err(error) = running.join() {
        return Ending::Lost(format!("its thread failed: {error}"));
    }
    ending
}

fn locked(present: &Mutex<Present>) -> std::sync::MutexGuard<'_, Present> {
    present.lock().unwrap_or_else(PoisonError::into_inner)
}
