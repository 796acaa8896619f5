//! Nodes that acknowledge from memory once others keep what they write, and nodes that die with what only others have: what hosts were told is there.

use std::sync::Arc;

use super::super::executor::{BLOCK, Owed, Shape, World};
use super::super::{Action, Durability};
use super::survivors::{Array, shape_of};
use super::{Mail, slot};
use crate::amf::journal::lane::BatchNumber;
use crate::amf::replica::{Asked, Copies, Copy, Keeping, Name, Replication};
use crate::amf::replication::ReplicationMode;
use crate::icl::{Epoch, Slot, SlotSet};

/// What a node keeps for others, and has asked others to keep.
pub(super) struct Keeper {
    kept: Copies,
    asked: Asked,
}

impl Keeper {
    /// One with room for whatever it is asked to keep.
    pub(super) fn roomy() -> Self {
        Self {
            kept: Copies::new(usize::MAX),
            ..Self::new()
        }
    }

    pub(super) fn new() -> Self {
        Self {
            kept: Copies::new(40 * BLOCK as usize),
            asked: Asked::default(),
        }
    }
}

/// How often what may happen has happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    asked: u64,
    kept: u64,
    refused: u64,
    /// Batches of which their writer heard that they were sent.
    sent: u64,
    /// Copies that a replay was given.
    read: u64,
    /// Such that fewer nodes were asked to keep than are wanted.
    few: u64,
    /// Replication groups that died at once with more nodes than there are copies but one.
    groups: u64,
}

impl World {
    /// An engine wants others to keep a batch.
    pub fn keep_copies(&mut self, core: usize, action: &Action) {
        let Action::Keep {
            offer,
            reports,
            offset_bytes,
            bytes,
        } = *action
        else {
            unreachable!("it was matched")
        };
        let node = core / self.cores_each;
        let copy = offer.with(self.batch_bytes(core, offset_bytes, bytes));
        let several = self.several();
        let keeper = &mut several.keepers[node];
        if keeper.asked.partners() == SlotSet::EMPTY {
            return;
        }
        keeper.asked.ask(copy.name);
        several.counts.asked += 1;
        if reports {
            keeper.asked.watch(copy.name);
        }
        let partners = several.keepers[node].asked.partners();
        several.counts.few += u64::from(several.replication.keeping(partners) == Keeping::Few);
        for to in several.keepers[node].asked.partners().iter() {
            several.send(node, usize::from(to.number()), Mail::Copy(copy.clone()));
            if reports {
                several.send(node, node, Mail::Sent(copy.name, to));
            }
        }
    }

    pub(super) fn copy_came(&mut self, from: usize, to: usize, copy: Copy) {
        let name = copy.name;
        let several = self.several();
        let keeps = several.keepers[to].kept.keep(copy);
        several.counts.kept += u64::from(keeps);
        several.counts.refused += u64::from(!keeps);
        several.send(to, from, Mail::Kept(name, keeps));
    }

    pub(super) fn copy_kept(&mut self, by: usize, at: usize, name: Name, keeps: bool) {
        let several = self.several();
        if several.keepers[at].asked.answered(name, slot(by), keeps) {
            let (core, mut out) = (usize::from(name.lane), Vec::new());
            self.cores[core].engine.kept(BatchNumber(name.batch), &mut out);
            self.act(core, out);
        }
    }

    pub(super) fn copy_sent(&mut self, at: usize, name: Name, to: Slot) {
        let several = self.several();
        if several.keepers[at].asked.sent(name, to) {
            let (core, mut out) = (usize::from(name.lane), Vec::new());
            several.counts.sent += 1;
            self.cores[core].engine.sent(BatchNumber(name.batch), &mut out);
            self.act(core, out);
        }
    }

    /// A node asks nobody any more, or partners of its epoch.
    pub(super) fn ask_partners(&mut self, node: usize, members: SlotSet) {
        let several = self.several();
        let partners = several.replication.partners(slot(node), members);
        let keeping = several.replication.keeping(partners);
        several.keepers[node].asked.enter(partners);
        for core in node * self.cores_each..(node + 1) * self.cores_each {
            let mut out = Vec::new();
            self.cores[core].engine.keep(keeping, Epoch(1), &mut out);
            self.act(core, out);
        }
    }

    /// What nodes that live have kept of lanes that are not among these, as a mask.
    pub(super) fn copies_of_gone(&mut self, living: u32) -> Vec<Arc<[u8]>> {
        let several = self.several();
        let nodes = several.living().into_iter();
        let keepers: Vec<&Keeper> = nodes.map(|node| &several.keepers[node]).collect();
        let copies = keepers.iter().flat_map(|keeper| keeper.kept.of(!living));
        let copies: Vec<Arc<[u8]>> = copies.map(|copy| Arc::clone(&copy.bytes)).collect();
        several.counts.read += copies.len() as u64;
        copies
    }

    /// What was left by these lanes is in its place.
    pub(super) fn copies_are_over(&mut self, lanes: u32) {
        let several = self.several();
        for keeper in &mut several.keepers {
            for lane in (0..32).filter(|lane| lanes >> lane & 1 == 1) {
                keeper.kept.forget_below(lane, u64::MAX);
            }
        }
    }

    /// A node forgets what nodes that live have retired of their own: nobody needs it any more.
    pub(super) fn forget_retired(&mut self, node: usize) {
        let lanes = self
            .living_cores()
            .into_iter()
            .fold(0, |lanes, lane| lanes | 1 << lane);
        let several = self.several();
        let retired = several.homes[node].retired();
        several.keepers[node].kept.forget_retired(lanes, retired);
    }

    /// Whether all that a node has acknowledged is on the drives, or with nodes that keep it now.
    fn is_kept(&self, node: usize) -> bool {
        let cores = &self.cores[node * self.cores_each..(node + 1) * self.cores_each];
        cores.iter().all(|core| core.engine.is_kept())
    }

    /// The same, with as many nodes as are wanted.
    fn is_restored(&self, node: usize) -> bool {
        let cores = &self.cores[node * self.cores_each..(node + 1) * self.cores_each];
        cores.iter().all(|core| core.engine.is_restored())
    }
}

impl Array {
    /// From now on batches are acknowledged once so many nodes have them in memory.
    pub(super) fn acknowledge_from_memory(&mut self, copies: u8) {
        self.run.world.several().replication = Replication::new(copies);
        self.run.world.allow_ram();
        self.serve_all();
    }

    /// Whether there are as many copies as there are to be of all that was acknowledged and is not on the drives.
    pub(super) fn is_restored(&mut self) -> bool {
        let living = self.living();
        !self.is_changing() && living.into_iter().all(|node| self.run.world.is_kept(node))
    }

    /// All is in its place, and nodes hear of it: nobody keeps anything for others any more.
    fn assert_nothing_is_kept(&mut self) {
        self.run.world.settle();
        let several = self.run.world.several();
        for node in several.living() {
            assert_eq!(several.keepers[node].kept.bytes(), 0, "node {node}");
        }
    }

    /// Copies that replays were given.
    pub(super) fn copies_read(&mut self) -> u64 {
        self.run.world.several().counts.read
    }
}

/// Who dies at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deaths {
    /// As many nodes as others keep what they have, or fewer.
    Any,
    /// All of a replication group: the nodes below this one, or the others.
    Group(usize),
}

/// Nodes of two replication groups, HOST and EXT, which send each other their copies.
fn host_and_ext(nodes: usize, hosts: usize, copies: u8) -> Replication {
    let [host, ext] = [0..hosts, hosts..nodes].map(|group| group.map(slot).collect::<SlotSet>());
    let mut replication = Replication::new(copies);
    for node in (0..nodes).map(slot) {
        let keepers = if host.contains(node) { ext } else { host };
        replication = replication.kept_by(node, keepers);
    }
    replication
}

/// An array whose nodes acknowledge from memory, and who of them dies at a moment.
fn found(seed: u64, in_groups: bool) -> (Array, Deaths) {
    let shape = shape_of(seed);
    let shape = Shape {
        journal: Some(Durability::Ram),
        ..shape
    };
    let mut array = Array::new(&shape, seed);
    let mode = array.run.random().index(ReplicationMode::ALL.len());
    array.run.replication = ReplicationMode::ALL[mode];
    let nodes = usize::from(shape.nodes);
    let random = array.run.random();
    let hosts = 1 + random.index(nodes - 1);
    let most = if in_groups {
        hosts.min(nodes - hosts)
    } else {
        nodes - 1
    };
    let copies = 2 + u8::try_from(random.index(most)).expect("few nodes");
    let least = 2 + u8::try_from(random.index(usize::from(copies) - 1)).expect("few nodes");
    let (replication, deaths) = if in_groups {
        (host_and_ext(nodes, hosts, copies), Deaths::Group(hosts))
    } else {
        (Replication::new(copies), Deaths::Any)
    };
    array.run.world.several().replication = replication.at_least(least);
    array.run.world.allow_ram();
    array.serve_all();
    (array, deaths)
}

/// Nodes that can all be gone at a moment, of those that live, and nothing is lost; at least one, and not all.
fn victims(array: &mut Array, deaths: Deaths) -> Vec<usize> {
    let mut living = array.living();
    match deaths {
        Deaths::Any => {
            let several = array.run.world.several();
            let partners = living.iter().map(|node| several.keepers[*node].asked.partners());
            // Of whoever has no partners all is on the drives.
            let kept = partners.map(|partners| partners.count() as usize);
            let most = kept.filter(|count| *count > 0).min().unwrap_or(usize::MAX);
            let most = most.min(living.len() - 1);
            let count = 1 + array.run.random().index(most);
            while living.len() > count {
                let at = array.run.random().index(living.len());
                living.swap_remove(at);
            }
            living
        }
        Deaths::Group(hosts) => {
            let (host, ext): (Vec<usize>, Vec<usize>) = living.iter().partition(|node| **node < hosts);
            match (host.is_empty(), ext.is_empty()) {
                (false, false) if array.run.random().chance(50) => host,
                (false, false) => ext,
                (true, _) | (_, true) => vec![living[0]],
            }
        }
    }
}

/// One life of an array whose nodes acknowledge from memory: what they have is kept by so many others, and as many nodes die at a moment, or a whole replication group.
fn live(seed: u64, in_groups: bool) -> Array {
    let (mut array, deaths) = found(seed, in_groups);
    let nodes = array.living().len();
    let members = array.run.world.drives.len();
    let loss = array.run.random().below(6000);
    let member = array.run.random().index(members);
    for step in 0..3000 {
        array.step();
        if step == loss {
            array.run.world.fail_members(1 << member);
        }
        let living = array.living();
        let may_die = array.is_restored();
        if may_die && living.len() > 1 && array.run.random().below(1000) < 4 {
            let victims = victims(&mut array, deaths);
            let several = array.run.world.several();
            several.counts.groups +=
                u64::from(in_groups && victims.len() > usize::from(several.replication.copies() - 1));
            for node in victims {
                array.kill(node);
            }
        } else if !array.is_changing() && array.run.random().below(1000) < 40 {
            let away = (0..nodes).find(|node| !living.contains(node));
            if let Some(node) = away {
                array.rejoin(node);
            }
        }
    }
    array
}

/// Lives of so many seeds; how many replays there were, and what has happened.
fn lives(seeds: u64, in_groups: bool) -> (u32, Counts) {
    let (mut sum, mut replays) = (Counts::default(), 0);
    for seed in 0..seeds {
        let mut array = live(seed, in_groups);
        array.settle();
        array.assert_nothing_is_kept();
        replays += array.replays();
        let counts = array.run.world.several().counts;
        sum.asked += counts.asked;
        sum.kept += counts.kept;
        sum.refused += counts.refused;
        sum.read += counts.read;
        sum.sent += counts.sent;
        sum.few += counts.few;
        sum.groups += counts.groups;
    }
    println!("{seeds} seeds: {replays} replays, {sum:?}");
    (replays, sum)
}

fn seeds() -> u64 {
    let more = std::env::var("BRAID_SURVIVOR_SEEDS").ok();
    more.map_or(300, |more| more.parse().expect("a number of seeds"))
}

/// CHECKLIST C3, C6, C7, C8, PROTOCOL H17, H18, H19, H21, H22: nodes acknowledge what others keep in memory, or are about to, also fewer others than wanted, and die, as many at a moment as there are
/// copies but one, when all is kept: what hosts were told is there, also where it was in no journal on the drives.
#[test]
fn what_others_keep_in_memory_outlives_nodes() {
    let seeds = seeds();
    let (replays, sum) = lives(seeds, false);
    let often = [
        sum.asked / 10,
        sum.kept / 10,
        10 * sum.refused,
        sum.read,
        sum.sent,
        4 * sum.few,
    ];
    assert!(
        replays > 300 && often.iter().all(|count| *count > seeds / 4),
        "{replays} {sum:?}"
    );
}

/// CHECKLIST A5, C5, PROTOCOL H17, H19: given nodes in replication groups HOST and EXT, when all of the one die at once, however many they are, then the other one has every acknowledged write.
#[test]
fn what_another_replication_group_keeps_outlives_a_whole_one() {
    let seeds = seeds();
    let (replays, sum) = lives(seeds, true);
    let often = [sum.asked / 10, sum.kept / 10, sum.read, 4 * sum.groups];
    assert!(
        replays > 300 && often.iter().all(|count| *count > seeds / 4),
        "{replays} {sum:?}"
    );
}

/// Three nodes; the first one holds the first row and is about to write to it.
fn three(copies: u8, seed: u64) -> Array {
    let shape = Shape {
        cores: 3,
        nodes: 3,
        journal: Some(Durability::Ram),
        ..Shape::SMALL
    };
    let mut array = Array::new(&shape, seed);
    array.acknowledge_from_memory(copies);
    array.run.submit(0, 0, 1, 4, 0..4);
    array.run.world.settle();
    array.run.check_done();
    array.run.submit(0, 0, 1, 4, 1..3);
    array
}

impl Array {
    /// Everything happens but what drives do, and messages other than these.
    fn without_drives(&mut self, links: &[(usize, usize)]) {
        for _ in 0..STEPS_MAX {
            let mut goes_on = false;
            for (from, to) in links.iter().copied() {
                let several = self.run.world.several();
                let known = several.epochs[to];
                let link = several.links.get(&(from, to));
                if link.is_some_and(|link| link.front().is_some_and(|(epoch, ..)| *epoch <= known)) {
                    self.run.world.arrive(from, to);
                    goes_on = true;
                }
            }
            for core in self.run.world.living_cores() {
                let owed = self.run.world.cores[core].owed.iter();
                if let Some(at) = owed.clone().position(|owed| !matches!(owed, Owed::Drive(_))) {
                    self.run.world.pay(core, at);
                    goes_on = true;
                }
            }
            if !goes_on {
                return self.run.check_done();
            }
        }
        panic!("messages alone never end");
    }

    /// Whether the host of the first node was told.
    fn is_told(&self) -> bool {
        self.run.running.is_empty()
    }

    /// Whether the first node waits for drives.
    fn waits_for_drives(&self) -> bool {
        let owed = self.run.world.cores[0].owed.iter();
        owed.clone().any(|owed| matches!(owed, Owed::Drive(_)))
    }
}

/// More than anything takes here.
const STEPS_MAX: u32 = 20_000;

/// There and back.
const WITH_NEXT: [(usize, usize); 2] = [(0, 1), (1, 0)];
const WITH_LAST: [(usize, usize); 2] = [(0, 2), (2, 0)];

/// Hosts force about a third of these writes to the drives.
const WRITES: u64 = 20;
const TOLD: std::ops::RangeInclusive<u32> = 10..=19;

/// CHECKLIST C6, PROTOCOL H17: one of two partners is slow: a host is told when both keep its write, and not before, whatever the drives do; with forced unit access the drives decide.
#[test]
fn a_host_is_told_when_the_slowest_partner_keeps_its_write() {
    let mut told = 0;
    for seed in 0..WRITES {
        let mut array = three(3, seed);
        array.without_drives(&[]);
        assert!(!array.is_told(), "nobody has it");
        array.without_drives(&WITH_NEXT);
        assert!(!array.is_told(), "one of two has it");
        // It has come there, and the answer is on its way.
        array.without_drives(&WITH_LAST[..1]);
        assert!(!array.is_told(), "nobody knows that the other one has it");
        array.without_drives(&WITH_LAST);
        assert!(array.waits_for_drives(), "they have yet to do anything");
        told += u32::from(array.is_told());
        array.settle();
    }
    assert!(TOLD.contains(&told), "{told}");
}

/// PROTOCOL H22, H17: a partner has no room, or dies before it has what was sent, or all of them do: nothing is acknowledged before the drives have it, and then it is.
#[test]
fn what_partners_do_not_keep_waits_for_the_drives() {
    type Trouble = fn(&mut Array);
    let troubles: [(u8, Trouble); 4] = [
        (2, |array| {
            array.run.world.several().keepers[1].kept = Copies::new(0)
        }),
        (3, |array| {
            array.run.world.several().keepers[2].kept = Copies::new(0)
        }),
        (3, |array| array.kill(2)),
        (3, |array| {
            array.kill(1);
            array.kill(2);
        }),
    ];
    for (trouble, (copies, begin)) in troubles.into_iter().enumerate() {
        for seed in 0..WRITES {
            let mut array = three(copies, seed);
            array.without_drives(&[]);
            begin(&mut array);
            array.without_drives(&[WITH_NEXT, WITH_LAST].concat());
            assert!(!array.is_told() && array.waits_for_drives(), "trouble {trouble}");
            array.settle();
            assert!(array.is_told());
        }
    }
}

/// CHECKLIST A12, PROTOCOL H18: a partner dies that has kept what the drives have yet to do. There are too few copies until they have done it, whatever becomes of the epoch meanwhile; and then there
/// are as many again.
#[test]
fn too_few_copies_are_confessed_until_there_are_as_many_again() {
    for seed in 0..WRITES {
        let mut array = three(2, seed);
        array.without_drives(&WITH_NEXT);
        assert!(array.run.world.is_restored(0) && array.waits_for_drives());
        array.kill(1);
        for _ in 0..300 {
            array.change_goes_on();
            array.without_drives(&WITH_LAST);
            let has_entered = array.run.world.several().epochs[0] > super::EPOCH;
            assert_eq!(array.run.world.is_restored(0), !has_entered, "seed {seed}");
        }
        assert!(array.run.world.several().epochs[0] > super::EPOCH);
        let mut steps = 0;
        while !array.is_restored() {
            array.recovery_step();
            steps += 1;
            assert!(steps < STEPS_MAX, "seed {seed}: there are as many copies again");
        }
        array.settle();
    }
}
