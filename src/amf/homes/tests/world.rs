//! Nodes that die, come back and enter epochs at different times, what is on its way between them and within them, and who recovers what is left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::super::*;
use super::Totals;
use super::engine::{Core, Entry};
use crate::amf::arbiter::{Config, QueueOrder};
use crate::icl::link::random::Random;

/// The home among the parties of a node.
pub(super) const HOME_PARTY: u16 = u16::MAX;
const CORES: u16 = 2;
/// Numbers that are left out after a replay.
const UNHEARD: u64 = 1 << 20;

/// What goes from party to party of a node: in order between the same two.
#[derive(Debug)]
pub(super) enum Mail {
    Want { row: RowIndex, mode: Mode, takes: bool },
    Given { row: RowIndex, data: HandedOver },
    Turn(RowIndex),
    Secured(RowIndex),
    Wake(RowIndex),
    Recall { row: RowIndex, gives: bool },
    Answer(RowIndex),
    Adopt { row: RowIndex, data: Arc<HandedOver> },
    Restore(RowIndex),
    Settle(RowIndex),
    Void(RowIndex),
    Forget(RowIndex),
    Hurry(u64),
}

/// What goes from node to node: in order between the same two, and lost with its epoch.
#[derive(Clone, Debug)]
enum Wire {
    Lock(Message),
    Data {
        row: RowIndex,
        token: Token,
        bytes: Vec<u8>,
    },
    Replayed {
        below: u64,
    },
    Beat,
}

struct Packet {
    epoch: Epoch,
    /// The life of the receiver that it is for.
    life: u64,
    context: Context,
    wire: Wire,
}

pub(super) struct Node {
    pub(super) homes: Homes,
    pub(super) table: Arc<LockTable>,
    pub(super) journal: Arc<JournalShared>,
    pub(super) entries: Vec<Entry>,
    pub(super) cores: Vec<Core>,
    life: u64,
    /// Index into the epochs, and 1.
    entered: usize,
    reported: Epoch,
    is_recovered: bool,
    /// It has had the group open: only then it has rows, and says which it holds and what others need.
    is_open: bool,
    /// What its newest entry says of the tail: what is below may have been written over.
    pub(super) written_tail: u64,
    /// What it said when it entered the epoch.
    held: BTreeSet<RowIndex>,
    tails: BTreeMap<Slot, u64>,
}

/// How far the newest epoch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reporting,
    Retiring(u64),
    Over,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) totals: Totals,
    pub(super) nodes: BTreeMap<u8, Node>,
    pub(super) drive: BTreeMap<RowIndex, u64>,
    pub(super) latest: BTreeMap<RowIndex, u64>,
    /// In thousandths: wants that take.
    pub(super) taking: u64,
    securing: u64,
    deaths: u64,
    rows: Vec<RowIndex>,
    slots: u8,
    /// Lanes of nodes that are gone, until they are over.
    left: Vec<Entry>,
    /// Somebody is gone whose lanes are not over.
    owes: bool,
    /// Below this the entries of all lanes are over.
    floor: u64,
    /// The life of each member.
    epochs: Vec<BTreeMap<u8, u64>>,
    phase: Phase,
    next_life: u64,
    mails: BTreeMap<(u8, u16, u16), VecDeque<Mail>>,
    links: BTreeMap<(u8, u8), VecDeque<Packet>>,
    now_ns: u64,
}

fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let table = LockTable::shared(64);
        // Some rows share a slot.
        let of_slot = |number: u32, count: usize| {
            let all = (0..20_000).map(RowIndex).filter(|row| table.slot(*row) == number);
            all.take(count).collect::<Vec<_>>()
        };
        let (first, second) = (1 + random.index(3), random.index(3));
        let rows = [of_slot(3, first), of_slot(9, second), of_slot(40, 1)].concat();
        let slots = 2 + u8::try_from(random.below(3)).unwrap();
        let mut world = Self {
            seed,
            totals: Totals::default(),
            nodes: BTreeMap::new(),
            drive: BTreeMap::new(),
            latest: BTreeMap::new(),
            taking: [1000, 700, 0][random.index(3).min(random.index(3))],
            securing: [30, 200, 800][random.index(3)],
            deaths: [0, 4, 10][random.index(3)],
            random,
            rows,
            slots,
            left: Vec::new(),
            owes: false,
            floor: 0,
            epochs: Vec::new(),
            phase: Phase::Reporting,
            next_life: 1,
            mails: BTreeMap::new(),
            links: BTreeMap::new(),
            now_ns: 0,
        };
        for number in 0..slots {
            world.boot(number);
        }
        world.decide();
        world
    }

    fn boot(&mut self, number: u8) {
        let table = LockTable::shared(64);
        let journal = Arc::new(JournalShared::joining(CORES, 1));
        let arbitration = Arbitration::new(Config {
            local: slot(number),
            order: QueueOrder::Fifo,
            hold_ns_min: [0, 50_000][self.random.index(2)],
            holder_limit: [64, 3][self.random.index(2)],
            arbiter_limit: 64,
            queue_max: 64,
        });
        let homes = Homes::new(slot(number), table.clone(), journal.clone(), arbitration);
        let node = Node {
            homes,
            table,
            journal,
            entries: Vec::new(),
            cores: (0..CORES).map(|_| Core::default()).collect(),
            life: self.next_life,
            entered: 0,
            reported: Epoch(0),
            is_recovered: false,
            is_open: false,
            written_tail: 0,
            held: BTreeSet::new(),
            tails: BTreeMap::new(),
        };
        self.next_life += 1;
        assert!(self.nodes.insert(number, node).is_none());
    }

    fn decide(&mut self) {
        let lives = self.nodes.iter().map(|(number, node)| (*number, node.life));
        self.epochs.push(lives.collect());
        self.phase = Phase::Reporting;
    }

    fn epoch(&self) -> Epoch {
        Epoch(u32::try_from(self.epochs.len()).unwrap())
    }

    fn kill(&mut self, number: u8) {
        let node = self.nodes.remove(&number).expect("it lives");
        let committed = node.entries.into_iter().filter(|entry| entry.is_committed);
        self.left.extend(committed);
        self.owes = true;
        self.floor = self.floor.max(node.written_tail);
        self.mails.retain(|(at, ..), _| *at != number);
        self.links.retain(|(_, to), _| *to != number);
    }

    pub(super) fn mail(&mut self, at: u8, from: u16, to: u16, mail: Mail) {
        self.mails.entry((at, from, to)).or_default().push_back(mail);
    }

    fn send(&mut self, from: u8, to: u8, wire: Wire) {
        let node = &self.nodes[&from];
        let epoch = node.homes.arbitration().epoch();
        let Some(members) = self.epochs.get(node.entered - 1) else {
            return;
        };
        let context = Context::parse(&node.homes.context().encode()).unwrap();
        let life = members.get(&to).copied().unwrap_or(0);
        let packet = |wire| Packet {
            epoch,
            life,
            context,
            wire,
        };
        // What is said twice is said twice in a row.
        let is_doubled = matches!(wire, Wire::Data { .. }) && self.random.chance(200);
        let link = self.links.entry((from, to)).or_default();
        link.extend(is_doubled.then(|| packet(wire.clone())));
        link.push_back(packet(wire));
    }

    fn with_homes(&mut self, at: u8, act: impl FnOnce(&mut Homes, u64, &mut Vec<HomeAction>)) {
        let mut out = Vec::new();
        let now_ns = self.now_ns;
        act(
            &mut self.nodes.get_mut(&at).expect("it lives").homes,
            now_ns,
            &mut out,
        );
        for action in out {
            let mut tell = |core, mail| self.mail(at, HOME_PARTY, core, mail);
            match action {
                HomeAction::WakeCores { mask, row } => self.wake_from_home(at, mask, row),
                HomeAction::RecallCore { core, row, gives } => tell(core, Mail::Recall { row, gives }),
                HomeAction::Answer { core, row } => tell(core, Mail::Answer(row)),
                HomeAction::Adopt { core, row, data } => tell(core, Mail::Adopt { row, data }),
                HomeAction::Restore { core, row } => tell(core, Mail::Restore(row)),
                HomeAction::Settle { core, row } => tell(core, Mail::Settle(row)),
                HomeAction::Void { core, row } => tell(core, Mail::Void(row)),
                HomeAction::Forget { core, row } => tell(core, Mail::Forget(row)),
                HomeAction::SendData { to, row, token, data } => {
                    let mut bytes = Vec::new();
                    data.encode(&mut bytes);
                    self.send(at, to.number(), Wire::Data { row, token, bytes });
                }
                HomeAction::Send { to, message } => self.send(at, to.number(), Wire::Lock(message)),
                HomeAction::Reported(epoch) => self.nodes.get_mut(&at).expect("it lives").reported = epoch,
                HomeAction::NeedsRecovery { .. } => {}
                HomeAction::Misbehaved { .. } => panic!("seed {}: {action:?}", self.seed),
            }
        }
    }

    fn enter(&mut self, at: u8) {
        let newest = self.epochs.len();
        let lives = self.epochs[newest - 1].clone();
        let node = &self.nodes[&at];
        if node.entered == newest || lives.get(&at) != Some(&node.life) {
            return;
        }
        let before = node.entered.checked_sub(1).map(|index| &self.epochs[index]);
        let stays = |number: &&u8| before.is_some_and(|before| before.get(*number) == lives.get(*number));
        let survivors: SlotSet = lives.keys().filter(stays).map(|number| slot(*number)).collect();
        let members: SlotSet = lives.keys().map(|number| slot(*number)).collect();
        let epoch = self.epoch();
        let node = self.nodes.get_mut(&at).expect("it lives");
        (node.entered, node.is_recovered) = (newest, false);
        self.with_homes(at, |homes, now_ns, out| {
            homes.enter(now_ns, epoch, members, survivors, Rule::preferred(members), out);
        });
        let node = self.nodes.get_mut(&at).expect("it lives");
        if !node.is_open {
            return;
        }
        node.held = node.homes.held_rows().into_iter().collect();
        node.tails = node.homes.retired_by_gone().collect();
        if node.homes.has_void() {
            node.tails.insert(slot(at), node.homes.own_tail());
        }
    }

    /// Goes on with the newest epoch, as far as its members have come.
    fn recover(&mut self) {
        let (newest, epoch) = (self.epochs.len(), self.epoch());
        let members = self.epochs[newest - 1].clone();
        let is_there = |(number, life): (&u8, &u64)| {
            let node = self.nodes.get(number);
            node.is_some_and(|node| node.life == *life && node.reported == epoch)
        };
        if !members.iter().all(is_there) {
            return;
        }
        let leader = *members.keys().next().expect("somebody lives");
        match self.phase {
            Phase::Reporting if !self.owes => {
                for at in members.keys() {
                    self.nodes[at].journal.raise(self.floor);
                }
                self.phase = Phase::Over;
            }
            Phase::Reporting => {
                let below = self.replay(leader);
                self.phase = Phase::Retiring(below);
                for to in members.keys().filter(|to| **to != leader) {
                    self.send(leader, *to, Wire::Replayed { below });
                }
                self.replayed(leader, below);
            }
            Phase::Retiring(below) if self.nodes[&leader].homes.retired() >= below => {
                let mut needed = self.nodes.values().flat_map(|node| &node.entries);
                let is_over = |entry: &Entry| entry.seq < below && !entry.is_retired;
                assert!(!needed.any(is_over), "seed {}: what is needed is over", self.seed);
                self.left.clear();
                self.owes = false;
                self.floor = below;
                self.phase = Phase::Over;
            }
            Phase::Retiring(_) => {}
            Phase::Over => {
                for at in members.keys() {
                    if !self.nodes[at].is_recovered && self.random.chance(300) {
                        let node = self.nodes.get_mut(at).expect("it lives");
                        (node.is_recovered, node.is_open) = (true, true);
                        self.with_homes(*at, |homes, now_ns, out| homes.recovered(now_ns, epoch, out));
                    }
                }
            }
        }
    }

    /// Brings in its place what lanes have of rows that nobody holds, from where on nodes that are gone need their entries. The number below which entries are to go.
    fn replay(&mut self, leader: u8) -> u64 {
        self.totals.replayed += 1;
        let mut most: BTreeMap<Slot, u64> = BTreeMap::new();
        for (slot, tail) in self.nodes.values().flat_map(|node| &node.tails) {
            let known = most.entry(*slot).or_default();
            *known = (*known).max(*tail);
        }
        let written = self.nodes.values().map(|node| node.written_tail).max();
        let retired = most.into_values().min().max(written).unwrap_or(0).max(self.floor);
        let living = self.nodes.values().flat_map(|node| &node.entries);
        let all = self.left.iter().chain(living.filter(|entry| entry.is_committed));
        let mut newest: BTreeMap<RowIndex, Entry> = BTreeMap::new();
        let mut next = retired;
        for entry in all.filter(|entry| entry.seq >= retired) {
            next = next.max(entry.seq + 1);
            let known = newest.entry(entry.row).or_insert(*entry);
            if entry.seq > known.seq {
                *known = *entry;
            }
        }
        newest.retain(|row, _| self.nodes.values().all(|node| !node.held.contains(row)));
        for row in newest.keys() {
            let is_dirty = |node: &Node| node.cores.iter().any(|core| core.dirty.contains_key(row));
            let is_owned = |node: &Node| node.homes.hands.is_giving(*row) || is_dirty(node);
            let mut all = self.nodes.values();
            assert!(
                !all.any(is_owned),
                "seed {}: {row:?} is replayed, and a node goes on with it",
                self.seed
            );
        }
        self.drive
            .extend(newest.into_iter().map(|(row, entry)| (row, entry.value)));
        let below = next.max(self.nodes[&leader].journal.entered()) + UNHEARD;
        self.nodes[&leader].journal.raise(below);
        below
    }

    fn replayed(&mut self, at: u8, below: u64) {
        self.nodes.get_mut(&at).expect("it lives").is_open = true;
        self.with_homes(at, |homes, _, out| homes.replayed(out));
        for core in 0..CORES {
            self.mail(at, HOME_PARTY, core, Mail::Hurry(below));
        }
    }

    fn deliver(&mut self, from: u8, to: u8) {
        let link = self.links.get_mut(&(from, to)).expect("it was listed");
        let packet = link.pop_front().expect("it was listed");
        let node = &self.nodes[&to];
        let is_here = node.homes.arbitration().epoch() == packet.epoch && node.life == packet.life;
        if !is_here {
            return;
        }
        self.nodes
            .get_mut(&to)
            .expect("it lives")
            .homes
            .learn(slot(from), &packet.context);
        let (from, epoch) = (slot(from), packet.epoch);
        match packet.wire {
            Wire::Lock(message) => self.with_homes(to, |homes, now_ns, out| {
                homes.received(now_ns, from, epoch, message, out);
            }),
            Wire::Data { row, token, bytes } => {
                let data = HandedOver::parse(&bytes).expect("it is read as it was written");
                self.with_homes(to, |homes, now_ns, out| {
                    homes.data_came(now_ns, from, row, token, data, out);
                });
            }
            Wire::Replayed { below } => self.replayed(to, below),
            Wire::Beat => {}
        }
    }

    fn home_receives(&mut self, at: u8, core: u16, mail: Mail) {
        match mail {
            Mail::Want { row, mode, takes } => self.with_homes(at, |homes, now_ns, out| {
                homes.want(now_ns, core, row, mode, takes, out);
            }),
            Mail::Given { row, data } => self.with_homes(at, |homes, _, _| homes.given(row, core, data)),
            Mail::Turn(row) => self.with_homes(at, |homes, now_ns, out| homes.turn(now_ns, row, out)),
            Mail::Secured(row) => self.with_homes(at, |homes, now_ns, out| homes.secured(now_ns, row, out)),
            Mail::Wake(_)
            | Mail::Recall { .. }
            | Mail::Answer(_)
            | Mail::Adopt { .. }
            | Mail::Restore(_)
            | Mail::Settle(_)
            | Mail::Void(_)
            | Mail::Forget(_)
            | Mail::Hurry(_) => unreachable!("that is for a core"),
        }
        let parted = self.nodes[&at].homes.hands.parted_count();
        self.totals.parted += u64::from(parted > 0);
    }

    /// Something of what is on its way arrives. False if nothing can.
    fn something_arrives(&mut self) -> bool {
        self.mails.retain(|_, queue| !queue.is_empty());
        self.links.retain(|_, queue| !queue.is_empty());
        let nodes = &self.nodes;
        let links = self.links.iter().filter(|((_, to), queue)| {
            // What is said in an epoch that a node has not entered waits for that.
            let is_early = |node: &Node| {
                queue.front().is_some_and(|first| {
                    first.epoch > node.homes.arbitration().epoch() && first.life == node.life
                })
            };
            nodes.get(to).is_some_and(|node| !is_early(node))
        });
        let links: Vec<(u8, u8)> = links.map(|(pair, _)| *pair).collect();
        let mails: Vec<(u8, u16, u16)> = self.mails.keys().copied().collect();
        let count = links.len() + mails.len();
        if count == 0 {
            return false;
        }
        let pick = self.random.index(count);
        if let Some((from, to)) = links.get(pick).copied() {
            self.deliver(from, to);
            return true;
        }
        let key = mails[pick - links.len()];
        let mail = self
            .mails
            .get_mut(&key)
            .and_then(VecDeque::pop_front)
            .expect("it was listed");
        let (at, from, to) = key;
        if to == HOME_PARTY {
            self.home_receives(at, from, mail);
        } else {
            self.core_receives(at, to, mail);
        }
        true
    }

    fn numbers(&self) -> Vec<u8> {
        self.nodes.keys().copied().collect()
    }

    fn step(&mut self, load: u64, securing: u64) {
        self.now_ns += self.random.below(40_000);
        for _ in 0..self.random.index(8) {
            self.something_arrives();
        }
        for at in self.numbers() {
            if self.nodes[&at].entered == 0 {
                continue;
            }
            if self.random.chance(100) {
                self.with_homes(at, |homes, now_ns, out| homes.tick(now_ns, out));
            }
            for to in self.numbers() {
                if to != at && self.random.chance(40) {
                    self.send(at, to, Wire::Beat);
                }
            }
            for core in 0..CORES {
                if self.random.chance(400) {
                    self.finish(at, core);
                }
                self.secure(at, core, securing);
                // Hosts come where the group is open.
                if self.random.chance(load) && self.nodes[&at].is_open {
                    let row = self.rows[self.random.index(self.rows.len())];
                    let mode = if self.random.chance(650) {
                        Mode::Write
                    } else {
                        Mode::Read
                    };
                    self.arrive(at, core, row, mode);
                }
            }
        }
        self.recover();
        self.check();
    }

    /// Two nodes never hold the same row, but for reading.
    fn check(&self) {
        for row in &self.rows {
            let held = |node: &Node| node.homes.arbitration().hold(Resource(row.0));
            let all: Vec<Held> = self
                .nodes
                .values()
                .map(held)
                .filter(|held| *held > Held::Nothing)
                .collect();
            let is_sound = all.len() <= 1 || all.iter().all(|held| *held == Held::Read);
            assert!(is_sound, "seed {}: {row:?} has two owners", self.seed);
        }
    }

    fn go_wrong(&mut self) {
        let number = self.numbers()[self.random.index(self.nodes.len())];
        if self.nodes.len() > 1 && self.random.chance(self.deaths) {
            self.kill(number);
        }
        let newest = self.epochs.last().expect("there is one");
        let lives: BTreeMap<u8, u64> = self.nodes.iter().map(|(at, node)| (*at, node.life)).collect();
        let has_changed = lives != *newest;
        if has_changed && self.random.chance(60) || self.random.chance(self.deaths) {
            let gone = (0..self.slots).find(|number| !self.nodes.contains_key(number));
            if let Some(gone) = gone.filter(|_| self.random.chance(500)) {
                self.boot(gone);
            }
            self.decide();
        }
        for at in self.numbers() {
            if self.random.chance(150) {
                self.enter(at);
            }
        }
    }

    pub(super) fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.go_wrong();
            self.step(120, self.securing);
        }
    }

    /// Ends all faults and lets all finish: nobody may be left waiting, and the drives have what was written last.
    pub(super) fn heal(&mut self) {
        let lives: BTreeMap<u8, u64> = self.nodes.iter().map(|(at, node)| (*at, node.life)).collect();
        if lives != *self.epochs.last().expect("there is one") {
            self.decide();
        }
        for at in self.numbers() {
            self.enter(at);
        }
        for _ in 0..6000 {
            self.step(0, 500);
            self.deliver_all(20);
            if self.is_over() {
                break;
            }
        }
        let all = self.nodes.values();
        let idle: Vec<bool> = all
            .map(|node| node.homes.is_idle() && node.cores.iter().all(Core::is_idle))
            .collect();
        assert!(
            idle.iter().all(|is_idle| *is_idle),
            "seed {}: somebody waits for ever: {idle:?}",
            self.seed
        );
        assert_eq!(
            self.phase,
            Phase::Over,
            "seed {}: the epoch does not open",
            self.seed
        );
        for node in self.nodes.values() {
            for (row, value) in node.cores.iter().flat_map(|core| &core.dirty) {
                self.drive.insert(*row, *value);
            }
            assert!(
                node.homes.own_tail() == node.journal.own_tail(),
                "seed {}: it stays frozen",
                self.seed
            );
        }
        assert_eq!(self.drive, self.latest, "seed {}", self.seed);
    }

    fn deliver_all(&mut self, most: usize) {
        for _ in 0..most {
            if !self.something_arrives() {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        let mut all = self.nodes.values();
        let is_done =
            |node: &Node| node.is_recovered && node.homes.is_idle() && node.cores.iter().all(Core::is_idle);
        all.all(is_done) && self.mails.values().all(VecDeque::is_empty)
    }
}
