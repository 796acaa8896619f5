//! Nodes that acknowledge from memory once others keep what they write, and nodes that die with what only others have: what hosts were told is there.

use std::sync::Arc;

use super::super::executor::{BLOCK, Shape, World};

use super::super::{Action, Durability};
use super::survivors::{Array, shape_of};
use super::{Mail, slot};
use crate::amf::journal::lane::BatchNumber;
use crate::amf::replica::{Asked, Copies, Copy, Name, partners};
use crate::amf::replication::ReplicationMode;
use crate::icl::{Slot, SlotSet};

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
        let partners = partners(slot(node), members, several.copies);
        several.keepers[node].asked.enter(partners);
        for core in node * self.cores_each..(node + 1) * self.cores_each {
            let mut out = Vec::new();
            self.cores[core].engine.keep(partners != SlotSet::EMPTY, &mut out);
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

    /// Whether all that a node has acknowledged is on the drives, or with nodes that keep it now.
    fn is_restored(&self, node: usize) -> bool {
        let cores = &self.cores[node * self.cores_each..(node + 1) * self.cores_each];
        cores.iter().all(|core| core.engine.is_restored())
    }
}

/// One life of an array whose nodes acknowledge from memory: of each batch there are so many copies, and so many nodes but one die at a moment.
fn live(seed: u64) -> Array {
    let shape = shape_of(seed);
    let shape = Shape {
        journal: Some(Durability::Ram),
        ..shape
    };
    let mut array = Array::new(&shape, seed);
    let nodes = u8::try_from(shape.nodes).expect("few nodes");
    let copies = 2 + u8::try_from(array.run.random().below(u64::from(nodes) - 1)).expect("few nodes");
    array.run.world.several().copies = copies;
    let mode = array.run.random().index(ReplicationMode::ALL.len());
    array.run.replication = ReplicationMode::ALL[mode];
    array.run.world.allow_ram();
    array.serve_all();
    let members = array.run.world.drives.len();
    let loss = array.run.random().below(6000);
    let member = array.run.random().index(members);
    for step in 0..3000 {
        array.step();
        if step == loss {
            array.run.world.fail_members(1 << member);
        }
        let living = array.living();
        let is_restored = |node: &usize| array.run.world.is_restored(*node);
        let may_die = !array.is_changing() && living.iter().all(is_restored);
        if may_die && living.len() > 1 && array.run.random().below(1000) < 4 {
            let most = usize::from(copies - 1).min(living.len() - 1);
            for _ in 0..=array.run.random().index(most) {
                let living = array.living();
                let node = living[array.run.random().index(living.len())];
                array.kill(node);
            }
        } else if !array.is_changing() && array.run.random().below(1000) < 40 {
            let away = (0..usize::from(shape.nodes)).find(|node| !living.contains(node));
            if let Some(node) = away {
                array.rejoin(node);
            }
        }
    }
    array
}

/// CHECKLIST C3, C6, C7, C8, PROTOCOL H17, H18, H19, H21, H22: nodes acknowledge what others keep in memory, or are about to, and die, as many at a moment as there are copies but one, when all is
/// kept: what hosts were told is there, also where it was in no journal on the drives.
#[test]
fn what_others_keep_in_memory_outlives_nodes() {
    let mut sum = Counts::default();
    let mut replays = 0;
    let more = std::env::var("BRAID_SURVIVOR_SEEDS").ok();
    let seeds = more.map_or(300, |more| more.parse().expect("a number of seeds"));
    for seed in 0..seeds {
        let mut array = live(seed);
        array.settle();
        replays += array.replays();
        let counts = array.run.world.several().counts;
        sum.asked += counts.asked;
        sum.kept += counts.kept;
        sum.refused += counts.refused;
        sum.read += counts.read;
        sum.sent += counts.sent;
    }
    println!("{seeds} seeds: {replays} replays, {sum:?}");
    let often = [
        sum.asked / 10,
        sum.kept / 10,
        10 * sum.refused,
        sum.read,
        sum.sent,
    ];
    assert!(
        replays > 300 && often.iter().all(|count| *count > seeds / 4),
        "{replays} {sum:?}"
    );
}
