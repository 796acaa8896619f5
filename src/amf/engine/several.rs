//! Engines of several nodes over the same drives, with the real lock protocol between them.

mod copies;
mod modes;
mod pipelined;
mod survivors;
mod sweep;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::executor::{Owed, Random, Shape, World};
use super::tests::{Run, any_shape};
use super::{Durability, RowIndex};
use crate::amf::arbiter::message::Message;
use crate::amf::arbiter::{Arbitration, Config, FixedMap, HOLD_NS_MIN, LastWriter, QueueOrder, Rule, Token};
use crate::amf::hand_over::HandedOver;
use crate::amf::homes::{Context, HomeAction, Homes};
use crate::amf::journal::JournalShared;
use crate::amf::lock::{LockTable, Mode};
use crate::amf::replica::{Copy, Name, Replication};
use crate::icl::{Epoch, Slot, SlotSet};

const EPOCH: Epoch = Epoch(1);

/// What a node says to another one.
enum Mail {
    Lock(Message),
    /// Dirty data, which goes with a row's lock.
    Data(RowIndex, Token, HandedOver),
    /// A core wants numbers below this to be retired.
    Hurry {
        core: usize,
        below: u64,
    },
    /// That was done for this core.
    TailMoved {
        core: usize,
    },
    /// To keep.
    Copy(Copy),
    /// It is kept, or there is no room.
    Kept(Name, bool),
    /// A batch of this node's was sent to another one.
    Sent(Name, Slot),
    /// Nothing but what every message says.
    Beat,
}

/// What is on its way to a node, each with the epoch in which it was said.
type Link = VecDeque<(Epoch, Context, Mail)>;

/// The homes of each node, and what is on its way between them: in order between the same two.
pub struct Several {
    homes: Vec<Homes>,
    locks: Vec<Arc<LockTable>>,
    numbers: Vec<Arc<JournalShared>>,
    /// Which nodes live.
    living: Vec<bool>,
    /// In which epoch each node is, and which it has reported.
    epochs: Vec<Epoch>,
    reported: Vec<Epoch>,
    links: BTreeMap<(usize, usize), Link>,
    /// Of which nodes' memory a batch is to be in.
    replication: Replication,
    keepers: Vec<copies::Keeper>,
    counts: copies::Counts,
    now_ns: u64,
    messages: u64,
    adopted: u64,
    restored: u64,
    forgotten: u64,
}

fn slot(node: usize) -> Slot {
    Slot::new(u8::try_from(node).expect("few nodes")).expect("few nodes")
}

fn home(node: usize, lock: &Arc<LockTable>, numbers: &Arc<JournalShared>) -> Homes {
    let config = Config {
        local: slot(node),
        order: QueueOrder::Fifo,
        hold_ns_min: HOLD_NS_MIN,
        holder_limit: 48,
        arbiter_limit: 400,
        queue_max: 64,
    };
    let arbitration = Arbitration::new(config);
    Homes::new(slot(node), Arc::clone(lock), Arc::clone(numbers), arbitration)
}

fn rule(nodes: usize) -> Rule {
    if nodes <= 2 {
        Rule::LastWriter(LastWriter)
    } else {
        Rule::FixedMap(FixedMap)
    }
}

impl Several {
    pub fn new(locks: &[Arc<LockTable>], numbers: &[Arc<JournalShared>]) -> Self {
        let homes = locks.iter().zip(numbers).enumerate();
        let homes = homes.map(|(node, (lock, numbers))| home(node, lock, numbers));
        Self {
            homes: homes.collect(),
            locks: locks.to_vec(),
            numbers: numbers.to_vec(),
            living: vec![true; locks.len()],
            epochs: vec![EPOCH; locks.len()],
            reported: vec![Epoch(0); locks.len()],
            links: BTreeMap::new(),
            replication: Replication::new(1),
            keepers: locks.iter().map(|_| copies::Keeper::new()).collect(),
            counts: copies::Counts::default(),
            now_ns: 0,
            messages: 0,
            adopted: 0,
            restored: 0,
            forgotten: 0,
        }
    }

    /// Whether a node lives.
    pub fn lives(&self, node: usize) -> bool {
        self.living[node]
    }

    /// Nodes that live.
    fn living(&self) -> Vec<usize> {
        (0..self.living.len()).filter(|node| self.living[*node]).collect()
    }

    /// Whether nobody holds a row in the lock table of any node that lives.
    pub fn locks_are_idle(&self) -> bool {
        self.living().into_iter().all(|node| self.locks[node].is_idle())
    }

    fn send(&mut self, from: usize, to: usize, mail: Mail) {
        if !self.living[to] {
            return;
        }
        let context = self.homes[from].context();
        let context = Context::parse(&context.encode()).expect("it is read as it was written");
        self.messages += 1;
        self.links
            .entry((from, to))
            .or_default()
            .push_back((self.epochs[from], context, mail));
    }
}

impl World {
    fn several(&mut self) -> &mut Several {
        self.several.as_mut().expect("there are several nodes")
    }

    /// All nodes enter the first epoch.
    fn found_array(&mut self) {
        let nodes = self.several().homes.len();
        let members: SlotSet = (0..nodes).map(slot).collect();
        let rule = rule(nodes);
        for node in 0..nodes {
            self.with_homes(node, |homes, now_ns, out| {
                homes.enter(now_ns, EPOCH, members, SlotSet::EMPTY, rule, out);
                homes.recovered(now_ns, EPOCH, out);
            });
        }
    }

    fn with_homes(&mut self, node: usize, act: impl FnOnce(&mut Homes, u64, &mut Vec<HomeAction>)) {
        let several = self.several();
        let mut out = Vec::new();
        act(&mut several.homes[node], several.now_ns, &mut out);
        for action in out {
            match action {
                HomeAction::WakeCores { mask, row } => self.wake_cores(node, mask, row),
                HomeAction::RecallCore { core, row, gives } => {
                    self.owe(node, core, Owed::RecallFor(row, gives));
                }
                HomeAction::Send { to, message } => {
                    self.several()
                        .send(node, usize::from(to.number()), Mail::Lock(message));
                }
                HomeAction::Reported(epoch) => self.several().reported[node] = epoch,
                HomeAction::NeedsRecovery { holder, .. } => {
                    let holder = usize::from(holder.number());
                    assert!(!self.several().living[holder], "only who is gone is recovered");
                }
                HomeAction::Answer { core, row } => self.owe(node, core, Owed::Answer(row)),
                HomeAction::Adopt { core, row, data } => {
                    self.several().adopted += 1;
                    let core = node * self.cores_each + usize::from(core);
                    self.bring_data(core, row, data);
                }
                HomeAction::Restore { core, row } => {
                    self.several().restored += 1;
                    self.owe(node, core, Owed::Restore(row));
                }
                HomeAction::Settle { core, row } => self.owe(node, core, Owed::Settle(row)),
                // Its entries stay until it is forgotten.
                HomeAction::Void { .. } => {}
                HomeAction::Forget { core, row } => {
                    self.several().forgotten += 1;
                    self.owe(node, core, Owed::Settle(row));
                }
                HomeAction::SendData { to, row, token, data } => {
                    let mail = Mail::Data(row, token, data);
                    self.several().send(node, usize::from(to.number()), mail);
                }
                HomeAction::Misbehaved { .. } => panic!("all nodes keep to the rules: {action:?}"),
            }
        }
    }

    fn owe(&mut self, node: usize, core: u16, owed: Owed) {
        self.cores[node * self.cores_each + usize::from(core)]
            .owed
            .push(owed);
    }

    fn local(&self, core: usize) -> u16 {
        u16::try_from(core % self.cores_each).expect("few cores")
    }

    /// A core has left a row to its home, with this dirty data.
    pub fn given_to_nodes(&mut self, core: usize, row: RowIndex, data: HandedOver) {
        let local = self.local(core);
        self.with_homes(core / self.cores_each, |homes, _, _| {
            homes.given(row, local, data)
        });
    }

    /// A core has what it adopted in its journal.
    pub fn taken_from_nodes(&mut self, core: usize, row: RowIndex) {
        self.with_homes(core / self.cores_each, |homes, now_ns, out| {
            homes.secured(now_ns, row, out);
        });
    }

    pub fn want_from_nodes(&mut self, core: usize, (row, mode): (RowIndex, Mode), takes: bool) {
        let local = self.local(core);
        self.with_homes(core / self.cores_each, |homes, now_ns, out| {
            homes.want(now_ns, local, row, mode, takes, out);
        });
    }

    pub fn home_turn(&mut self, core: usize, row: RowIndex) {
        self.with_homes(core / self.cores_each, |homes, now_ns, out| {
            homes.turn(now_ns, row, out)
        });
    }

    /// The other cores of a core's node.
    pub fn others_of(&self, core: usize) -> impl Iterator<Item = usize> + use<> {
        let first = core / self.cores_each * self.cores_each;
        (first..first + self.cores_each).filter(move |other| *other != core)
    }

    /// The lane of a core is full: the other nodes hear of it, too.
    pub fn hurry_nodes(&mut self, core: usize, below: u64) {
        let own = core / self.cores_each;
        let Some(several) = &mut self.several else { return };
        for to in several.living().into_iter().filter(|to| *to != own) {
            several.send(own, to, Mail::Hurry { core, below });
        }
    }

    /// What a core waited for is retired by another one.
    pub fn tail_moved(&mut self, by: usize, core: usize) {
        let (from, to) = (by / self.cores_each, core / self.cores_each);
        if from == to {
            self.cores[core].owed.push(Owed::TailMoved);
        } else {
            self.several().send(from, to, Mail::TailMoved { core });
        }
    }

    /// Some time goes by, and a message arrives. True if anything is left to happen.
    pub fn nodes_go_on(&mut self) -> bool {
        let later_ns = self.random.below(100_000);
        let several = self.several();
        several.now_ns += later_ns;
        for node in several.living() {
            self.with_homes(node, |homes, now_ns, out| homes.tick(now_ns, out));
            self.forget_retired(node);
        }
        let several = self.several();
        let links = several.links.iter();
        let busy: Vec<(usize, usize)> = links
            .filter(|((_, to), link)| {
                // What is said in an epoch that a node has not heard of waits for that.
                link.front()
                    .is_some_and(|(epoch, ..)| *epoch <= several.epochs[*to])
            })
            .map(|(name, _)| *name)
            .collect();
        if busy.is_empty() {
            return several
                .living()
                .into_iter()
                .any(|node| !several.homes[node].is_idle());
        }
        let (from, to) = busy[self.random.index(busy.len())];
        self.arrive(from, to);
        true
    }

    fn arrive(&mut self, from: usize, to: usize) {
        let several = self.several();
        let link = several.links.get_mut(&(from, to)).expect("it was listed");
        let (epoch, context, mail) = link.pop_front().expect("it is not empty");
        let first = to * self.cores_each;
        if self.several().homes[to].learn(slot(from), &context) {
            for core in first..first + self.cores_each {
                self.cores[core].owed.push(Owed::TailMoved);
            }
        }
        match mail {
            Mail::Lock(message) => self.with_homes(to, |homes, now_ns, out| {
                homes.received(now_ns, slot(from), epoch, message, out);
            }),
            // Data counts in the epoch in which it was sent.
            Mail::Data(..) if epoch != self.several().epochs[to] => {}
            Mail::Data(row, token, data) => self.with_homes(to, |homes, now_ns, out| {
                homes.data_came(now_ns, slot(from), row, token, data, out);
            }),
            Mail::Hurry { core: asker, below } => {
                let lane = u16::try_from(asker).expect("few lanes");
                for core in first..first + self.cores_each {
                    self.cores[core].owed.push(Owed::Hurry { core: lane, below });
                }
            }
            Mail::TailMoved { core } => self.cores[core].owed.push(Owed::TailMoved),
            Mail::Copy(_) | Mail::Kept(..) | Mail::Sent(..) if epoch != self.several().epochs[to] => {}
            Mail::Copy(copy) => self.copy_came(from, to, copy),
            Mail::Kept(name, keeps) => self.copy_kept(from, to, name, keeps),
            Mail::Sent(name, at) => self.copy_sent(to, name, at),
            Mail::Beat => {}
        }
    }

    /// As often as not all nodes say what they know, whether or not anything else is to be said.
    pub fn nodes_beat(&mut self) {
        let Some(several) = &mut self.several else { return };
        let living = several.living();
        for (from, to) in living
            .iter()
            .flat_map(|from| living.iter().map(move |to| (*from, *to)))
        {
            if from != to {
                several.send(from, to, Mail::Beat);
            }
        }
    }
}

/// CHECKLIST B1, B2, B3, B8, B9, PROTOCOL H13: hosts read and write the same blocks through all nodes; all commands end, and what each of them
/// reads, and the drives hold in the end, is what was written last, wherever that was.
#[test]
fn nodes_that_share_a_group_serve_it_as_one() {
    let (mut messages, mut adopted) = (0, 0);
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let nodes = 2 + u16::try_from(random.below(3)).expect("small");
        let shape = any_shape(&mut random);
        let shape = Shape {
            nodes,
            cores: nodes * (1 + shape.cores % 2),
            // More rows than slots, at times.
            rows: if seed % 5 == 0 { 150 } else { shape.rows },
            journal: shape.journal.map(|_| Durability::Journal),
            ..shape
        };
        let mut run = Run::new(&shape, seed);
        if seed % 3 == 0 {
            run.world.remember_reads(40, 8192);
        }
        run.world.found_array();
        // A member is lost at some moment in half of the runs; nodes hear of it at different times.
        let moment = u32::try_from(run.world.random.below(4000)).expect("small");
        let member = run.world.random.index(run.world.drives.len());
        let is_redundant = shape.level.is_redundant();
        run.run(2000, |run, step| {
            if step == moment && is_redundant {
                run.world.fail_members(1 << member);
            }
        });
        run.check_contents();
        let several = run.world.several.take().expect("there are several nodes");
        assert!(
            several.homes.iter().all(Homes::is_idle),
            "whoever asked was answered"
        );
        messages += several.messages;
        adopted += several.adopted;
    }
    assert!(messages > 100_000 && adopted > 100, "{messages} {adopted}");
}

/// CHECKLIST B6: hosts at two nodes that write different rows are served at the same time: each node has drive commands under way before any of the
/// other's is done.
#[test]
fn different_rows_are_written_on_different_nodes_at_once() {
    let shape = Shape {
        cores: 2,
        nodes: 2,
        journal: Some(Durability::Journal),
        ..Shape::SMALL
    };
    let mut run = Run::new(&shape, 1);
    run.world.found_array();
    let row = run.world.geometry.row_blocks() as usize;
    run.submit(0, 0, 1, 4, 1..3);
    run.submit(1, 0, 1, 4, row + 1..row + 3);
    let is_drive = |owed: &Owed| matches!(owed, Owed::Drive(_));
    let is_served = |world: &World| world.cores.iter().all(|core| core.owed.iter().any(is_drive));
    for _ in 0..1000 {
        run.world.nodes_go_on();
        for core in 0..2 {
            if let Some(at) = run.world.cores[core].owed.iter().position(|owed| !is_drive(owed)) {
                run.world.pay(core, at);
            }
        }
    }
    assert!(
        is_served(&run.world),
        "neither waits for a drive command of the other"
    );
    run.world.settle();
    run.check_done();
    assert!(run.running.is_empty(), "both are done");
    run.world.drain();
    run.check_contents();
}
