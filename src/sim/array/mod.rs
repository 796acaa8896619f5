//! Several whole nodes that serve one group together: engines, locks, group machines, journals and recoveries of two to eight nodes over the same drives, hosts
//! that read and write the same blocks through all of them, and epochs that begin at any moment.
//!
//! | file | part |
//! |---|---|
//! | `node` | one life of a node, wired as `target` wires it |
//! | `world` | clock, drives, network, threads of lives, and what happens to them when |
//! | `oracle` | who is a member: keeps to what [`crate::icl::membership`] promises, and decides at any moment |
//! | `recovery` | what the thread of a life reads and writes on drives when its node leads |
//! | `hosts` | what hosts ask and are told |
//! | `audit` | what the drives hold in the end |
//! | `check` | many runs, and mutants |
//!
//! What hosts are told is judged as in [`super::world`]. Membership is an oracle, because its machine has a random world of its own ([`super::membership`]).

mod audit;
mod check;
mod counters;
mod hosts;
mod node;
mod oracle;
mod recovery;
#[cfg(test)]
mod tests;
mod world;

use std::fmt;

use super::node::drive_bytes;
use super::random::Random;
use super::scenario::Scenario;
use crate::amf::geometry::Level;
use crate::amf::group::drives_min;
use crate::amf::replica::Replication;
use crate::amf::replication::ReplicationMode;
use crate::icl::membership::record::{EpochRecord, Member};
use crate::icl::{Slot, SlotSet};

pub use check::{Summary, seeds_to_catch, try_setting};
pub use counters::Counters;
pub use world::{Report, run};

/// What a seed decides beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Nodes that there may be.
    pub nodes: u16,
    /// Cores of each.
    pub cores: u16,
    /// Level, members, rows, and what hosts ask; its cores are those of all nodes.
    pub shape: Scenario,
    /// How long things go wrong.
    pub trouble_ns: u64,
    /// More members may be lost than the group survives.
    pub may_fail: bool,
    /// In the end the power of all fails; else all leave in good order.
    pub ends_dark: bool,
    /// What is done wrong on purpose.
    pub mutant: Mutant,
    /// Which nodes have writes in memory when they are acknowledged; the writer alone if they are when they are in the journal.
    pub replication: Replication,
    /// Replication groups: nodes that may all go at once. None if nodes are in none.
    pub groups: Vec<SlotSet>,
    /// When a write of a host is done, where there are copies.
    pub mode: ReplicationMode,
    /// The group is led by another node than membership, as it may be where not all nodes share all groups.
    pub leads_apart: bool,
    /// Drives fail and come back in the midst of recoveries.
    pub strikes: bool,
    /// Nodes go whether or not there are copies of everything. What is lost with them has to be said (H45).
    pub is_reckless: bool,
}

impl Setting {
    /// The setting of a seed in which nodes acknowledge from memory. Nodes go one at a time, and where they are in replication groups also a group at a time, once there are copies of everything
    /// again.
    pub fn in_memory(seed: u64, nodes: Option<u16>) -> Self {
        let mut setting = Self::random(seed, nodes);
        let mut random = Random::new(seed, 12);
        let most = u32::from(setting.nodes).min(4);
        let copies = u8::try_from(random.between(2, most)).expect("few nodes");
        setting.replication = Replication::new(copies);
        setting.shape.ram = true;
        if random.chance(30) {
            setting.mode = ReplicationMode::ALL[1 + random.index(2)];
        }
        (setting.may_fail, setting.ends_dark) = (false, false);
        setting.is_reckless = setting.mode == ReplicationMode::Sync && Random::new(seed, 15).chance(20);
        let mut random = Random::new(seed, 13);
        if setting.nodes > 2 && random.chance(70) {
            setting.group_nodes(copies, &mut random);
        }
        let copies = setting.replication.copies();
        if random.chance(50) {
            let least = u8::try_from(random.between(2, u32::from(copies))).expect("few nodes");
            setting.replication = setting.replication.at_least(least);
        }
        setting
    }

    /// Puts nodes in two to four replication groups. Some send their copies to one other group alone. No more copies are wanted than all nodes can keep.
    fn group_nodes(&mut self, copies: u8, random: &mut Random) {
        let most = self.nodes.min(4);
        let count = usize::try_from(random.between(2, u32::from(most))).expect("few groups");
        let mut groups = vec![SlotSet::EMPTY; count];
        for number in 0..usize::from(self.nodes) {
            // None is empty.
            let group = if number < count {
                number
            } else {
                random.index(count)
            };
            let slot = u8::try_from(number).ok().and_then(Slot::new);
            groups[group] = groups[group].with(slot.expect("few nodes"));
        }
        let all = groups.iter().fold(SlotSet::EMPTY, |all, group| all.or(*group));
        let keepers: Vec<SlotSet> = (0..count)
            .map(|group| match (group + 1 + random.index(count - 1)) % count {
                to if random.chance(30) => groups[to],
                _ => all.minus(groups[group]),
            })
            .collect();
        let fewest = keepers.iter().map(|keepers| keepers.count()).min();
        let most = u8::try_from(fewest.expect("there are groups")).expect("few nodes") + 1;
        let mut replication = Replication::new(copies.min(most));
        for (group, keepers) in groups.iter().zip(keepers) {
            for slot in group.iter() {
                replication = replication.kept_by(slot, keepers);
            }
        }
        (self.replication, self.groups) = (replication, groups);
    }

    /// The setting of a seed. `nodes`: so many, or any number.
    pub fn random(seed: u64, nodes: Option<u16>) -> Self {
        let mut random = Random::new(seed, 11);
        let small = |random: &mut Random, low, high| u16::try_from(random.between(low, high)).expect("small");
        let levels = [Level::Raid1, Level::Raid5, Level::Raid5, Level::Raid6];
        let level = levels[random.index(levels.len())];
        let least = u8::try_from(drives_min(level)).expect("small");
        let drawn = match random.below(10) {
            0..4 => 2,
            4..7 => 3,
            7..9 => 4,
            _ => small(&mut random, 5, 8),
        };
        let nodes = nodes.unwrap_or(drawn);
        let cores = small(&mut random, 1, 2);
        let shape = Scenario {
            seed,
            level,
            members: least + u8::try_from(random.below(2)).expect("small"),
            rows: small(&mut random, 2, 10),
            cores: nodes * cores,
            hosts: small(&mut random, 2, 4),
            depth: small(&mut random, 1, 4),
            commands: random.between(80, 300),
            span: random.between(4, 60),
            cache: random.chance(75),
            journal: true,
            ..Scenario::PLAIN
        };
        Self {
            nodes,
            cores,
            shape,
            trouble_ns: 1_000_000 * u64::from(random.between(200, 1200)),
            may_fail: random.chance(10),
            ends_dark: random.chance(60),
            mutant: Mutant::None,
            replication: Replication::new(1),
            groups: Vec::new(),
            mode: ReplicationMode::Sync,
            leads_apart: Random::new(seed, 14).chance(40),
            strikes: Random::new(seed, 16).chance(30),
            is_reckless: false,
        }
    }

    /// Who leads the group in an epoch: who leads the way into it, or the last of those that were members before.
    fn group_leader<'a>(&self, record: &'a EpochRecord) -> &'a Member {
        let seniors = record.seniors();
        let mut last = record.members.iter().rev();
        let last = last.find(|member| seniors == SlotSet::EMPTY || seniors.contains(member.slot));
        match last {
            Some(last) if self.leads_apart => last,
            Some(_) | None => record.senior_leader(),
        }
    }

    /// Whether writes are acknowledged from memory.
    const fn is_in_memory(&self) -> bool {
        self.replication.copies() > 1
    }

    /// Lanes of the journal: one for each core of each node.
    const fn lanes(&self) -> u16 {
        self.nodes * self.cores
    }

    fn drive_bytes(&self) -> u64 {
        drive_bytes(&self.shape)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nodes,
            cores,
            shape,
            replication,
            groups,
            mode,
            leads_apart,
            strikes,
            is_reckless,
            ..
        } = self;
        let copies = replication.copies();
        write!(
            f,
            "{nodes} nodes with {cores} cores, {copies} copies, {}",
            mode.name()
        )?;
        if !groups.is_empty() {
            write!(f, ", {} replication groups", groups.len())?;
        }
        if *leads_apart {
            f.write_str(", the group is led apart")?;
        }
        if *strikes {
            f.write_str(", drives fail in recoveries")?;
        }
        if *is_reckless {
            f.write_str(", nodes go with all copies")?;
        }
        write!(f, "; {shape}")
    }
}

/// A mistake in the wiring. Each has to be caught (PROTOCOL 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// No mistake.
    None,
    /// A write is acknowledged when it arrives.
    EarlyAcknowledge,
    /// A drive's write is answered when it is asked for, so that locks are released with I/O outstanding.
    EarlyRelease,
    /// A node answers reads from what an earlier read has brought, whoever has the row since.
    RememberedRead,
    /// Locks are granted before what others have left is replayed.
    NoBarrier,
    /// The replay is not told which rows the living hold.
    HeldRows,
    /// What a fenced life had under way at a drive is carried out later.
    LateWrite,
    /// The pen is put down while superblocks are under way.
    PenKept,
    /// A life that came to a slot in an epoch which a node has skipped counts as the one before it.
    SameSlot,
    /// The replay is not told what others have kept in memory.
    NoCopies,
    /// Partners are in the writer's own replication group, too.
    OwnGroup,
}

impl Mutant {
    /// Every one but none, and how many seeds may go by until it is caught.
    pub const ALL: [(Self, u64); 10] = [
        (Self::EarlyAcknowledge, 20),
        (Self::EarlyRelease, 20),
        (Self::RememberedRead, 20),
        (Self::NoBarrier, 60),
        (Self::HeldRows, 1000),
        (Self::LateWrite, 200),
        (Self::PenKept, 1000),
        (Self::SameSlot, 1000),
        (Self::NoCopies, 300),
        (Self::OwnGroup, 1000),
    ];
}
