//! One life of a node that shares its groups: its cores, from its first epoch to its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reactor::{Remote, Running};

use super::open::Stock;
use super::{Born, Heard, Lease, ShareOrder};
use crate::amf::peering::Recovery;
use crate::amf::superblock::Name;
use crate::icl::Incarnation;
use crate::icl::Node;
use crate::icl::link::{Lane, LinkConfig};
use crate::target::control::ShareSetup;
use crate::target::council::{Setup, ToSeat};
use crate::target::fabric::{Life as Tenant, Tenure};
use crate::target::icl::{PortSetup, address_of_lane};
use crate::target::message::Message;
use crate::target::node::{NodeError, post_patiently};
use crate::target::plant::Plant;
use crate::target::sockets;

/// Connections of other nodes that wait to be accepted.
const BACKLOG: i32 = 64;

/// How long a life waits for its drives before its membership begins without its cores, and how often it looks.
const DRIVES_WAIT: Duration = Duration::from_secs(3);
const DRIVES_AGAIN: Duration = Duration::from_millis(100);

/// Where operators reach the cores of the life that goes on, if one does.
pub type Present = Arc<Mutex<Option<Remote<Message>>>>;

/// Begins lives.
pub struct Lives {
    plant: Plant,
    setup: Setup,
    present: Present,
    /// A life of this process has.
    has_begun: AtomicBool,
}

/// A life whose thread runs.
pub struct Stopped(JoinHandle<()>);

impl Stopped {
    /// Waits until nothing of it is left, after [`Heard::End`].
    pub fn wait(self) {
        if self.0.join().is_err() {
            tracing::error!("the thread that stands between membership and the cores has failed");
        }
    }
}

impl Lives {
    /// Lives of a node with this configuration, all of which operators reach by `present`.
    pub const fn new(plant: Plant, setup: Setup, present: Present) -> Self {
        Self {
            plant,
            setup,
            present,
            has_begun: AtomicBool::new(false),
        }
    }

    /// Begins one, before its membership does. If all drives are there its cores are started at once: that takes the whole process's memory for itself for so long that a
    /// member could be taken for silent.
    ///
    /// Errs if they cannot be started although the drives are there.
    pub fn begin(self: &Arc<Self>, born: Born, lease: &Arc<Lease>) -> Result<Beginning, NodeError> {
        let mut life = Life {
            lives: Arc::clone(self),
            incarnation: born.incarnation,
            ear: born.ear,
            seat: None,
            lease: Arc::clone(lease),
            usable: Vec::new(),
            body: None,
            is_drained: false,
            is_first: !self.has_begun.swap(true, Ordering::Relaxed),
        };
        let end = Instant::now() + DRIVES_WAIT;
        while life.body.is_none() && Instant::now() < end {
            match life.look() {
                Ok(stock) if stock.is_whole() => life.grow(stock)?,
                Ok(_) | Err(_) => std::thread::sleep(DRIVES_AGAIN),
            }
        }
        Ok(Beginning(life))
    }
}

/// A life whose membership is about to begin.
pub struct Beginning(Life);

impl Beginning {
    /// Its membership begins, and reaches it by the ear that it was born with.
    pub fn go(self, hears: Receiver<Heard>, seat: ToSeat) -> std::io::Result<Stopped> {
        let Self(mut life) = self;
        life.seat = Some(seat);
        let thread = std::thread::Builder::new().name("shared-groups".to_owned());
        // With the end of the thread the life ends, and all that is left of it.
        thread.spawn(move || life.live(&hears)).map(Stopped)
    }
}

/// The cores of a life, and the drives as they know them.
struct Body {
    cores: Running<Message>,
    stock: Stock,
    groups: Vec<Name>,
}

struct Life {
    lives: Arc<Lives>,
    incarnation: Incarnation,
    ear: Sender<Heard>,
    seat: Option<ToSeat>,
    lease: Arc<Lease>,
    usable: Vec<bool>,
    body: Option<Body>,
    is_drained: bool,
    /// Of this process.
    is_first: bool,
}

impl Life {
    fn live(&mut self, hears: &Receiver<Heard>) {
        while let Ok(heard) = hears.recv() {
            match heard {
                Heard::End => break,
                // What others hold does not concern a node that is about to go, and it holds nothing.
                Heard::Barrier(record, _) if self.is_drained => self.seat().barrier_done(record.epoch),
                Heard::Recover(epoch, _) if self.is_drained => self.seat().recovered(epoch),
                Heard::Barrier(record, usable) => {
                    self.usable = usable;
                    if let Err(error) = self.have_grown() {
                        let why = format!("the cores of this node cannot be started: {error}");
                        self.seat().failed(&why);
                        break;
                    }
                    self.tell(ShareOrder::Enter(record));
                }
                Heard::Recover(epoch, usable) => {
                    self.usable = usable;
                    self.tell(ShareOrder::Recover(epoch));
                }
                Heard::Opened(epoch) => self.tell(ShareOrder::Opened(epoch)),
                Heard::Suspect(slots) => self.tell(ShareOrder::Suspect(slots)),
                Heard::Cut(peer, cut) => self.tell(ShareOrder::Cut(peer, cut)),
                Heard::Unlinked(peer) => self.seat().unlinked(peer),
                Heard::Linked(peer) => self.seat().linked(peer),
                Heard::Over(node) => self.tell(ShareOrder::Over(node)),
                Heard::BarrierDone(epoch) => self.seat().barrier_done(epoch),
                Heard::Recovered(epoch) => self.seat().recovered(epoch),
                Heard::RecoverGroup(at, recovery) => self.recover(at, recovery),
                Heard::Fenced => self.seat().preempted(),
                Heard::Failed(why) => self.seat().failed(&why),
                Heard::Unfit(why) => self.seat().unfit(&why),
                Heard::Drain => self.drain(),
                Heard::Stopped => {
                    self.fall();
                    self.is_drained = true;
                    self.seat().drained();
                }
            }
        }
    }

    fn seat(&self) -> &ToSeat {
        self.seat.as_ref().expect("a life that goes has a membership")
    }

    /// Looks at the drives.
    fn look(&self) -> Result<Stock, NodeError> {
        let Lives { plant, setup, .. } = &*self.lives;
        let tenure = Tenure::Shared(Tenant {
            hostnqn: setup.host_nqn(setup.slot),
            hostid: setup.host_id(setup.slot, self.incarnation),
        });
        let mut config = plant.config.clone();
        if !self.is_first {
            // What is lost after that nobody has spoken of.
            let groups = config.groups.iter_mut();
            groups.for_each(|group| group.accepts_loss_once = false);
        }
        Stock::open(&config, tenure, plant.cores)
    }

    /// Starts the cores if they do not run, with the drives that are there.
    fn have_grown(&mut self) -> Result<(), NodeError> {
        if self.body.is_some() {
            return Ok(());
        }
        self.look().and_then(|stock| self.grow(stock))
    }

    /// Starts the cores.
    fn grow(&mut self, stock: Stock) -> Result<(), NodeError> {
        let Lives { plant, setup, .. } = &*self.lives;
        let peers = setup.peers.iter().map(|peer| peer.slot.number());
        let slots = peers.chain([setup.slot.number()]).max().unwrap_or(0);
        let slots = u16::from(slots) + 1;
        let nodes = setup
            .peers
            .iter()
            .map(|peer| peer.slot)
            .chain([setup.slot])
            .collect();
        let address = address_of_lane(setup.listen, Lane(0)).unwrap_or(setup.listen);
        let listener =
            sockets::listen(address, BACKLOG).map_err(|error| NodeError::Listen { address, error })?;
        let local = Node {
            slot: setup.slot,
            incarnation: self.incarnation,
        };
        let groups = stock.groups();
        let names = groups.iter().map(|group| group.name.clone()).collect();
        let share = ShareSetup {
            slot: setup.slot,
            slots,
            nodes,
            port: PortSetup {
                link: LinkConfig::new(setup.array(), local, Lane(0), crate::target::crc32c),
                key: setup.key,
                encryption: setup.encryption,
                terms: setup.terms,
                peers: setup.peers.clone(),
                token: link_token,
            },
            listener,
            ports: plant.ports().to_vec(),
            groups,
            ear: self.ear.clone(),
        };
        let cores = plant.start_sharing(&stock, share, self.ear.clone(), &self.lease)?;
        tracing::info!(array = %setup.name, slot = %setup.slot, "cores are started for this life of the node");
        let remote = cores.handle();
        *self.lives.present.lock().unwrap_or_else(PoisonError::into_inner) = Some(remote);
        self.body = Some(Body {
            cores,
            stock,
            groups: names,
        });
        Ok(())
    }

    fn tell(&self, order: ShareOrder) {
        let Some(body) = &self.body else { return };
        if !post_patiently(&body.cores.handle(), Message::Share(order)) {
            self.seat()
                .failed("the cores of this node take no orders any more");
        }
    }

    /// Reads and writes what the recovery of a group takes.
    fn recover(&self, at: usize, recovery: Recovery) {
        let Some(body) = &self.body else { return };
        let epoch = recovery.epoch;
        let outcome = body.stock.recover(&body.groups[at], recovery, &self.usable);
        self.tell(ShareOrder::GroupRecovered(at, epoch, Box::new(outcome)));
    }

    /// Has everything brought to its place; [`Heard::Stopped`] follows. Until then epochs may change.
    fn drain(&mut self) {
        match &self.body {
            Some(body) if post_patiently(&body.cores.handle(), Message::Stop) => {}
            Some(_) => self
                .seat()
                .failed("the cores of this node take no orders any more"),
            None => {
                self.is_drained = true;
                self.seat().drained();
            }
        }
    }

    /// Takes the cores down as they are.
    fn fall(&mut self) {
        if let Some(Body { cores, .. }) = self.body.take() {
            self.forget();
            cores.stop();
            if let Err(error) = cores.join() {
                tracing::error!(%error, "a core has failed");
            }
        }
    }

    fn forget(&self) {
        *self.lives.present.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.lease.set(0);
        self.fall();
    }
}

fn link_token(payload: u64) -> reactor::Token {
    crate::target::core::token(crate::target::core::TokenKind::Link, payload)
}
