//! The world of one run: clock, and what happens next.

mod drives;
mod faults;
mod lives;
mod network;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::hosts::Hosts;
use super::node::{Effect, Heard, Mail, Node};
use super::oracle::Oracle;
use super::recovery::Recovering;
use super::{Counters, Setting};
use crate::amf::RowIndex;
use crate::amf::lock::Held;
use crate::drive::DriveError;
use crate::icl::membership::record::EpochRecord;
use crate::icl::{DriveSet, Epoch, Slot, SlotSet};
use crate::sim::drive::Drive;
use crate::sim::node::Asker;
use crate::sim::random::Random;
use crate::sim::stamp::Block;
use crate::sim::trace::Trace;
use crate::sim::world::Violation;

/// Events of one run; a run that needs more has got stuck.
const EVENTS_MAX: u64 = 3_000_000;
pub(super) const MS: u64 = 1_000_000;
/// How often engines are told that time goes by.
const TICK_NS: u64 = 10 * MS;
/// How long anything may take once nothing goes wrong any more: many beats, fences and leases.
const LIVENESS_NS: u64 = 6_000 * MS;
/// What a lease covers beyond the last renewal.
const LEASE_NS: u64 = 30 * MS;

/// What a run did, and what was wrong with it.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was reached.
    pub counters: Counters,
    /// Digest of everything that happened.
    pub trace: u64,
    /// What happened, line by line, if that was asked for.
    pub lines: Vec<String>,
    /// What went wrong.
    pub violation: Option<Violation>,
}

/// Something that will happen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A drive carries out a command.
    Drive(u64),
    /// Its answer comes to a life that was paused meanwhile.
    Answer(Box<(Flight, Result<Vec<Block>, DriveError>)>),
    /// A message between cores of a life arrives.
    Mail { life: u64, to: u16, mail: Mail },
    /// A packet from one life to another one arrives.
    Packet { from: u64, to: u64, packet: Vec<u8> },
    /// Two lives may reach each other, the older first.
    Connect(u64, u64),
    /// A host asks.
    Host(u16),
    /// Engines of a life are told that time goes by.
    Tick(u64),
    /// Locks of a life have waited for this.
    Locks(u64),
    /// The thread of a life has something to do.
    Thread(u64),
    /// Membership of a life has something for its thread.
    Order { life: u64, order: Order },
    /// A life hears of a decided epoch.
    Learn { life: u64, epoch: Epoch },
    /// A drive fences a life.
    Fence { drive: u8, victim: u64 },
    /// An epoch may have come further.
    Progress(Epoch),
    /// The leader of an epoch hears that the group is recovered.
    Open(Epoch),
    /// The thread of a life has looked at the drives.
    Assemble(u64),
    /// A life is over.
    End(u64),
    /// A life begins.
    Start(Slot),
    /// Membership decides.
    Decide,
    /// Something goes wrong.
    Trouble,
    /// Something goes wrong with a drive in the midst of a recovery.
    Strike,
    /// All nodes of the replication group of a life go at once.
    EndGroup(u64),
    /// Nothing goes wrong any more.
    Heal,
}

impl Event {
    /// The life that does not notice while it is paused.
    fn of_life(&self) -> Option<u64> {
        match self {
            Self::Answer(answer) => Some(answer.0.life),
            Self::Mail { life, .. } | Self::Order { life, .. } | Self::Learn { life, .. } => Some(*life),
            Self::Packet { to, .. } => Some(*to),
            Self::Tick(life) | Self::Locks(life) | Self::Thread(life) | Self::Assemble(life) => Some(*life),
            Self::Drive(_)
            | Self::Connect(..)
            | Self::Host(_)
            | Self::Fence { .. }
            | Self::Progress(_)
            | Self::Open(_)
            | Self::End(_)
            | Self::Start(_)
            | Self::Decide
            | Self::Trouble
            | Self::Strike
            | Self::EndGroup(_)
            | Self::Heal => None,
        }
    }
}

/// What the thread of a life does, in order.
#[derive(Clone, Debug)]
pub(super) enum Order {
    Barrier(Box<EpochRecord>),
    Recover(Epoch, DriveSet),
    Opened(Epoch),
    Suspect(SlotSet),
    Drain,
    Control(Heard),
}

/// A command that a drive has not answered.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) life: u64,
    pub(super) drive: u16,
    pub(super) asker: Asker,
    is_write: bool,
    /// It was under way when its life was fenced, and is carried out all the same.
    is_late: bool,
    /// Somewhere on the way it is held back until then.
    held_until: u64,
}

/// A drive, and whom it refuses.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) drive: Drive,
    pub(super) fenced: BTreeSet<u64>,
}

/// One life of a node, as the world sees it.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) slot: Slot,
    /// Its cores, until they have ended.
    pub(super) node: Option<Node>,
    /// The newest epoch that it has heard of.
    pub(super) learned: Epoch,
    pub(super) orders: VecDeque<Order>,
    pub(super) recovering: Option<Recovering>,
    /// What its recoveries have asked of drives, and not been answered.
    pub(super) replay_asked: u32,
    /// Drives in use, as it was told last.
    pub(super) usable: DriveSet,
    /// A drive has refused it.
    pub(super) is_expelled: bool,
    pub(super) is_leaving: bool,
    pub(super) is_drained: bool,
    /// Its lease is not renewed any more, and ends then.
    pub(super) lapses: Option<u64>,
    /// It is paused until then, and notices nothing.
    pub(super) paused_until: u64,
    /// What it may not say without one.
    pub(super) withheld: Vec<Effect>,
    locks_at: u64,
}

/// What the run is waiting for, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Things go wrong.
    Trouble,
    /// Nothing goes wrong any more; hosts end.
    Healing,
    /// All nodes leave.
    Leaving,
    /// One node starts alone after a power cut.
    Last,
    /// Over.
    Over,
}

/// One run.
pub(super) struct World {
    pub(super) setting: Setting,
    pub(super) random: Random,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    pub(super) drives: Vec<Shared>,
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) lives: BTreeMap<u64, Life>,
    pub(super) next_life: u64,
    /// Lives that reach one another, the older first.
    paths: BTreeSet<(u64, u64)>,
    /// Packets from one slot to another one get lost until then.
    cut_until: BTreeMap<(Slot, Slot), u64>,
    mailed: BTreeMap<(u64, u16, u16), u64>,
    pub(super) oracle: Oracle,
    pub(super) hosts: Hosts,
    pub(super) stage: Stage,
    healed_at: u64,
    /// Members of the group that were ever lost since it was found whole.
    pub(super) harmed: u32,
    /// More of them were than the group survives, since the last start.
    pub(super) was_too_much: bool,
    /// The group was last looked for without members that could have gone on alone.
    pub(super) may_be_newer: bool,
    /// A node may have gone with all copies of what it has acknowledged.
    pub(super) was_reckless: bool,
    pub(super) counters: Counters,
    pub(super) trace: Trace,
    violation: Option<Violation>,
}

/// Carries a setting out. The same setting always gives the same report.
pub fn run(setting: &Setting, readable: bool) -> Report {
    let mut world = World::new(setting.clone(), readable);
    world.go_on();
    Report {
        counters: world.counters,
        trace: world.trace.digest(),
        lines: world.trace.into_lines(),
        violation: world.violation,
    }
}

impl World {
    fn new(setting: Setting, readable: bool) -> Self {
        let shape = &setting.shape;
        let bytes = setting.drive_bytes();
        let drive = |_| Shared {
            drive: Drive::new(bytes, shape.cache, 1),
            fenced: BTreeSet::new(),
        };
        Self {
            random: Random::new(shape.seed, 12),
            now: 0,
            queue: BTreeMap::new(),
            queued: 0,
            drives: (0..shape.members).map(drive).collect(),
            flights: BTreeMap::new(),
            lives: BTreeMap::new(),
            next_life: 1,
            paths: BTreeSet::new(),
            cut_until: BTreeMap::new(),
            mailed: BTreeMap::new(),
            oracle: Oracle::default(),
            hosts: Hosts::default(),
            stage: Stage::Trouble,
            healed_at: 0,
            harmed: 0,
            was_too_much: false,
            may_be_newer: false,
            was_reckless: false,
            counters: Counters::default(),
            trace: Trace::new(readable),
            violation: None,
            setting,
        }
    }

    fn go_on(&mut self) {
        for number in 0..self.setting.nodes {
            let delay = self.random.below(20 * MS);
            self.later(delay, Event::Start(slot(number)));
        }
        self.later(30 * MS, Event::Trouble);
        self.later(self.setting.trouble_ns, Event::Heal);
        for host in 0..self.setting.shape.hosts * self.setting.shape.depth {
            let delay = self.random.below(20 * MS);
            self.later(delay, Event::Host(host));
        }
        while self.violation.is_none() && self.stage != Stage::Over {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                return self.stuck("nothing will ever happen any more");
            };
            self.now = at;
            self.step(event);
            let is_late = self.stage != Stage::Trouble && self.now > self.healed_at + LIVENESS_NS;
            if is_late || self.trace.events() > EVENTS_MAX {
                return self.stuck("what goes on does not end");
            }
        }
        if self.violation.is_none()
            && let Err(contradiction) = self.hosts.judge()
        {
            self.violate(Violation::Contradiction(contradiction));
        }
    }

    fn stuck(&mut self, what: &str) {
        let lives: Vec<String> = self
            .lives
            .iter()
            .map(|(life, it)| {
                let node = it.node.as_ref().map(Node::unfinished).unwrap_or_default();
                format!(
                    "life {life} of {}: learned {} leaving {} drained {} expelled {} orders {:?}; {node}",
                    it.slot, it.learned, it.is_leaving, it.is_drained, it.is_expelled, it.orders
                )
            })
            .collect();
        let what = format!(
            "{what} in {:?}: {}; {}\n{}",
            self.stage,
            self.hosts.unfinished(),
            self.oracle.unfinished(),
            lives.join("\n")
        );
        self.violate(Violation::Stuck(what));
    }

    pub(super) fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    pub(super) fn later(&mut self, delay: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + delay, self.queued), event);
    }

    pub(super) fn note(&mut self, numbers: &[u64], line: impl FnOnce() -> String) {
        let now = self.now;
        self.trace.note(numbers, || format!("{now} {}", line()));
    }

    fn step(&mut self, event: Event) {
        let paused = event.of_life().and_then(|life| self.lives.get(&life));
        if let Some(until) = paused.map(|it| it.paused_until).filter(|until| *until > self.now) {
            return self.later(until - self.now, event);
        }
        match event {
            Event::Drive(number) => self.drive_acts(number),
            Event::Answer(answer) => self.answer(answer.0, answer.1),
            Event::Mail { life, to, mail } => {
                self.note(&[self.now, 2, life, u64::from(to)], || {
                    format!("life {life} core {to} gets {mail:?}")
                });
                self.with_node(life, |node, out| node.deliver(to, mail, out));
            }
            Event::Packet { from, to, packet } => self.arrive(from, to, &packet),
            Event::Connect(a, b) => self.connect(a, b),
            Event::Host(host) => self.host_asks(host),
            Event::Tick(life) => {
                if self.lives.contains_key(&life) {
                    self.with_node(life, Node::tick);
                    self.say_withheld(life);
                    self.later(TICK_NS, Event::Tick(life));
                }
            }
            Event::Locks(life) => {
                if let Some(it) = self.lives.get_mut(&life) {
                    it.locks_at = u64::MAX;
                }
                self.with_node(life, Node::tick_locks);
            }
            Event::Thread(life) => self.thread_turn(life),
            Event::Order { life, order } => {
                if self.is_due(life, &order) {
                    self.order(life, order);
                }
            }
            Event::Learn { life, epoch } => self.learn(life, epoch),
            Event::Fence { drive, victim } => self.fence(drive, victim),
            Event::Progress(epoch) => self.progress(epoch),
            Event::Open(epoch) => self.open(epoch),
            Event::Assemble(life) => self.assemble(life),
            Event::End(life) => self.end_life(life),
            Event::Start(slot) => self.start_life(slot),
            Event::Decide => self.decide(),
            Event::Trouble => self.trouble(),
            Event::Strike => self.strike(),
            Event::EndGroup(life) => self.end_group_now(life),
            Event::Heal => self.heal(),
        }
        self.look_around();
    }

    /// Lets a node do something, and carries out what it wants.
    pub(super) fn with_node(&mut self, life: u64, act: impl FnOnce(&mut Node, &mut Vec<Effect>)) {
        let now = self.now;
        let Some(node) = self.lives.get_mut(&life).and_then(|it| it.node.as_mut()) else {
            return;
        };
        let mut effects = Vec::new();
        node.set_now(now);
        act(node, &mut effects);
        node.end_turn(&mut effects);
        let wake = node.wake_at().max(now + 1);
        for effect in effects {
            self.carry_out(life, effect);
        }
        if let Some(it) = self.lives.get_mut(&life)
            && wake < it.locks_at
        {
            it.locks_at = wake;
            self.later(wake - now, Event::Locks(life));
        }
    }

    fn carry_out(&mut self, life: u64, effect: Effect) {
        match effect {
            Effect::Drive {
                drive,
                command,
                asker,
            } => {
                if matches!(asker, Asker::Superblock(_)) && self.random.chance(3) {
                    // An epoch may begin while superblocks are under way.
                    let delay = self.random.below(MS / 2);
                    self.later(delay, Event::Decide);
                }
                self.ask_drive(life, drive, command, asker);
            }
            Effect::Mail { from, to, mail } => self.post(life, from, to, mail),
            Effect::Packet { to, packet } => self.send(life, to, packet),
            Effect::HangUp(slot) => {
                if let Some(other) = self.reached(life, slot) {
                    self.hang_up(life, other);
                }
            }
            Effect::Done { .. } => self.say(life, effect),
            Effect::Heard(heard) => {
                self.order(life, Order::Control(heard));
            }
            Effect::Row(row) => self.check_row(life, row),
            Effect::Restored(epoch) => self.oracle.restored(life, epoch),
            Effect::Serves(epoch) => {
                self.note(&[self.now, 8, life, u64::from(epoch.0)], || {
                    format!("life {life} serves in epoch {epoch}")
                });
                if !self.oracle.is_open(epoch) {
                    let what =
                        format!("life {life} grants locks in epoch {epoch} before it is recovered (I15)");
                    self.violate(Violation::Redundancy(what));
                }
            }
        }
    }

    fn post(&mut self, life: u64, from: u16, to: u16, mail: Mail) {
        let delay = if self.random.chance(5) {
            self.random.below(200_000)
        } else {
            self.random.below(4_000)
        };
        let last = self.mailed.get(&(life, from, to)).copied().unwrap_or(0);
        let at = (self.now + delay).max(last);
        self.mailed.insert((life, from, to), at);
        self.later(at - self.now, Event::Mail { life, to, mail });
    }

    /// At most one writer of a row in an epoch, and no reader beside it (I1).
    fn check_row(&mut self, life: u64, row: RowIndex) {
        let Some(node) = self.lives.get(&life).and_then(|it| it.node.as_ref()) else {
            return;
        };
        let Some(record) = node.record() else { return };
        let held_by = |node: &Node| {
            let held = node.table().held(node.table().slot(row));
            held.filter(|(held, _)| *held == row)
                .map_or(Held::Nothing, |(_, held)| held)
        };
        let (mut writers, mut readers) = (0, 0);
        for member in &record.members {
            let it = self.lives.get(&member.incarnation.0);
            let peer = it.and_then(|it| it.node.as_ref());
            match peer.filter(|peer| peer.epoch() == record.epoch).map(held_by) {
                Some(Held::Write) => writers += 1,
                Some(Held::Read) => readers += 1,
                Some(Held::Nothing) | None => {}
            }
        }
        if writers > 1 || writers == 1 && readers > 0 {
            let what = format!("row {row:?} has {writers} writers and {readers} readers (I1)");
            self.violate(Violation::Redundancy(what));
        }
    }
}

pub(super) fn slot(number: u16) -> Slot {
    Slot::new(u8::try_from(number).expect("few slots")).expect("an array has eight slots")
}
