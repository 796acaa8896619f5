//! The drives of the array, read and written while cores run or before they do: groups found, made, and brought up to the journals of lives that are over.
//!
//! Each time the shelves are connected to anew, as the same life. Blocks for as long as drives take.

use std::collections::BTreeSet;
use std::sync::Arc;

use config::{Backing, Config};

use super::{GoneOn, Outcome};
use crate::amf::background::Limits;
use crate::amf::group::{AssembleOptions, Candidate, DriveFacts, GroupFinding, Refusal, assemble};
use crate::amf::journal::replay::{LivingNodes, Replay, ReplayError, Report};
use crate::amf::lost::LostList;
use crate::amf::peering::{Recovery, lanes_of};
use crate::amf::replica::Replication;
use crate::amf::superblock::{self, Name, PORTS_ALL};
use crate::icl::{Slot, SlotSet};
use crate::target::absent::{self, Present};
use crate::target::assemble::{examine, leave_out, limits_of, options_of, plan_group};
use crate::target::control::{GroupPlan, GroupSource, SharedPlan, address_of};
use crate::target::drives::{DriveSpec, Medium};
use crate::target::fabric::session::Sessions;
use crate::target::fabric::{FabricDrive, Shelf, Tenure};
use crate::target::node::NodeError;
use crate::target::replay;
use crate::target::storage::{self, Opened};

/// The drives of one life of the node.
pub struct Stock {
    config: Config,
    tenure: Tenure,
    cores: u16,
    /// What was there when the life began: the cores know these drives, by these numbers.
    present: Present,
    shelves: Vec<Shelf>,
    names: BTreeSet<Name>,
    /// Where each drive of the configuration stands among them.
    places: Vec<Option<usize>>,
}

impl Stock {
    /// Looks which drives are there.
    pub fn open(config: &Config, tenure: Tenure, cores: u16) -> Result<Self, NodeError> {
        let sessions = Sessions::connect(&config.shelves, &tenure, cores);
        let present = absent::open(config, &sessions);
        let shelves = sessions.shelves();
        let names = present.as_ref().map(|present| found_on(&present.drives));
        sessions.end();
        let mut names = names.unwrap_or_default();
        let present = present?;
        storage::check_distinct(&present.drives)?;
        let slot = config.array.as_ref().map_or(0, |array| array.slot);
        let is_elsewhere =
            |group: &&config::Group| group.nodes.as_ref().is_some_and(|nodes| !nodes.contains(&slot));
        for group in config.groups.iter().filter(is_elsewhere) {
            names.retain(|name| name.as_str() != group.name);
        }
        for group in config.groups.iter().filter(|group| !is_elsewhere(group)) {
            let name = Name::parse(&group.name);
            names.insert(name.map_err(|error| NodeError::Groups(format!("\"{}\": {error}", group.name)))?);
        }
        let addresses: BTreeSet<u16> = names.iter().map(address_of).collect();
        if addresses.len() < names.len() {
            let what =
                "two groups have names that nodes cannot tell apart: choose another one for one of them";
            return Err(NodeError::Groups(what.to_owned()));
        }
        let place = |drive: &config::Drive| {
            let mut drives = present.config.drives.iter();
            drives.position(|there| there.name == drive.name)
        };
        Ok(Self {
            places: config.drives.iter().map(place).collect(),
            config: config.clone(),
            tenure,
            cores,
            present,
            shelves,
            names,
        })
    }

    /// Groups that are on the drives, and those that the configuration wants.
    pub fn groups(&self) -> Vec<SharedPlan> {
        let plan = |name: &Name| SharedPlan {
            name: name.clone(),
            limits: limits_of(&self.config, name.as_str()),
            nodes: nodes_of(&self.config, name.as_str()),
            replication: replication_of(&self.config, name.as_str()),
        };
        self.names.iter().map(plan).collect()
    }

    /// Whether all drives of the configuration are there.
    pub fn is_whole(&self) -> bool {
        self.places.iter().all(Option::is_some)
    }

    /// The drives that the cores are to know.
    pub fn drives(&self) -> Vec<DriveSpec> {
        let same = |drive: &Opened| drive.reached_as(fabric_of(drive).clone()).spec;
        self.present.drives.iter().map(same).collect()
    }

    /// The shelves that are there.
    pub fn shelves(&self) -> Vec<Shelf> {
        self.shelves.clone()
    }

    /// Sentences about what is not there.
    pub fn notes(&self) -> &[String] {
        &self.present.notes
    }

    /// Brings a group in order for the epoch that this node leads. `usable` says which drives of the configuration are in use in it.
    pub fn recover(&self, name: &Name, recovery: Recovery, usable: &[bool]) -> Outcome {
        if recovery.goes_on && !recovery.is_needed {
            let unused = self.unused(usable);
            return Outcome::GoOn(GoneOn { unused, next: None });
        }
        let sessions = Sessions::connect(&self.config.shelves, &self.tenure, 1);
        let outcome = self.recover_over(&sessions, name, recovery, usable);
        sessions.end();
        outcome.unwrap_or_else(Outcome::Refused)
    }

    fn recover_over(
        &self,
        sessions: &Sessions,
        name: &Name,
        recovery: Recovery,
        usable: &[bool],
    ) -> Result<Outcome, String> {
        let opened = self.reopen(sessions);
        let mut facts: Vec<DriveFacts> = (0..)
            .zip(&opened)
            .map(|(index, drive)| examine(index, drive))
            .collect();
        let unused = self.unused(usable);
        for drive in &unused {
            facts[usize::from(*drive)].existing = superblock::examine(None, None);
        }
        let among = (!recovery.living.is_empty()).then(|| LivingNodes {
            lanes: lanes_of(recovery.living, self.cores),
            rows: recovery.rows.clone(),
            retired: recovery.retired,
        });
        let mut options = options_of(&self.config).map_err(|error| error.to_string())?;
        options.goes_on = recovery.goes_on;
        options.is_open_elsewhere = !recovery.living.is_empty();
        if recovery.unkept != SlotSet::EMPTY {
            // Whoever accepted a loss at the start did not know of this one.
            options.is_open_elsewhere = false;
            options.accept_lost_writes = accepted_for_good(&self.config);
        }
        let beside = Beside {
            living: among.as_ref(),
            copies: &recovery.copies,
        };
        let found = find(name, &mut facts, &options, &opened, beside)
            .map_err(|why| with_unkept(name, recovery.unkept, why))?;
        let Some((candidate, report, lost)) = found else {
            if !recovery.living.is_empty() {
                return Err("others serve it, and its drives do not have it".to_owned());
            }
            return self.make(name, &facts, &opened).map(Outcome::Open);
        };
        if recovery.unkept != SlotSet::EMPTY && candidate.record().dirty_ram {
            let slots: Vec<u8> = recovery.unkept.iter().map(Slot::number).collect();
            tracing::error!(group = %name, ?slots, "nodes are gone together with all that kept copies for them: what they have acknowledged from memory and hosts have not flushed may be lost, which the configuration accepts");
        }
        if recovery.goes_on {
            let is_unread =
                |drive: &DriveFacts| drive.left_out || drive.existing == superblock::examine(None, None);
            let unused = facts
                .iter()
                .filter(|drive| is_unread(drive))
                .map(|drive| drive.index);
            return Ok(Outcome::GoOn(GoneOn {
                unused: unused.collect(),
                next: report.map(|report| report.next_seq),
            }));
        }
        let next = report.as_ref().map(|report| report.next_seq);
        let reserved = storage::load_pages(&candidate, &opened);
        let plan = GroupPlan {
            source: GroupSource::Found(Box::new(candidate)),
            header: None,
            limits: Limits::default(),
            spares: Vec::new(),
            replayed: report,
            intent: None,
            lost,
            reserved,
        };
        Ok(if recovery.living.is_empty() {
            Outcome::Open(plan)
        } else {
            Outcome::TakeOver(plan, next)
        })
    }

    /// Drives that are not in use in the epoch, as the cores number them.
    fn unused(&self, usable: &[bool]) -> Vec<u16> {
        let places = self.places.iter().zip(usable);
        let unused = places.filter(|(_, is_usable)| !**is_usable);
        let index = |place: &usize| u16::try_from(*place).expect("a node has at most 1024 drives");
        unused
            .filter_map(|(place, _)| place.as_ref().map(index))
            .collect()
    }

    /// The drives as the cores number them, reached by these sessions as far as they are there.
    fn reopen(&self, sessions: &Sessions) -> Vec<Opened> {
        let drives = self.present.drives.iter().zip(&self.present.config.drives);
        let reopen = |(drive, named): (&Opened, &config::Drive)| {
            let old = fabric_of(drive);
            let new = match &named.backing {
                Backing::Shelf(place) => sessions.open(place).ok(),
                Backing::Path { .. } | Backing::Memory(_) => None,
            };
            // What is not there any more is reached by a session that has ended, and so not at all.
            let new = new.filter(|new| new.namespace.uuid == old.namespace.uuid);
            drive.reached_as(new.unwrap_or_else(|| old.clone()))
        };
        drives.map(reopen).collect()
    }

    /// Plans the group as the configuration wants it.
    fn make(&self, name: &Name, facts: &[DriveFacts], opened: &[Opened]) -> Result<GroupPlan, String> {
        let mut groups = self.present.config.groups.iter();
        let wanted = groups.find(|group| group.name == name.as_str());
        let wanted = wanted.ok_or("the configuration does not have it")?;
        if let Some(lacks) = self.present.lacks(name.as_str()) {
            return Err(format!(
                "it is not on the drives that are there, and {lacks}. Bring that one back"
            ));
        }
        let mut notes = Vec::new();
        let plan = plan_group(wanted, true, facts, opened, &mut notes).map_err(|error| error.to_string())?;
        for note in notes {
            tracing::info!(%note, "note");
        }
        Ok(plan)
    }
}

/// The groups that drives belong to.
fn found_on(drives: &[Opened]) -> BTreeSet<Name> {
    let facts: Vec<DriveFacts> = (0..)
        .zip(drives)
        .map(|(index, drive)| examine(index, drive))
        .collect();
    let assembly = assemble(&facts, &AssembleOptions::default());
    assembly.groups.into_iter().map(|finding| finding.name).collect()
}

fn fabric_of(drive: &Opened) -> &FabricDrive {
    match &drive.spec.medium {
        Medium::Fabric(drive) => drive,
        Medium::File { .. } | Medium::Memory(_) => {
            unreachable!("the configuration has drives of shelves alone")
        }
    }
}

/// The nodes that serve a group when they are there: those that the configuration names, or all.
fn nodes_of(config: &Config, name: &str) -> SlotSet {
    let group = config.groups.iter().find(|group| group.name == name);
    let nodes = group.and_then(|group| group.nodes.as_ref());
    nodes.map_or(PORTS_ALL, |nodes| {
        nodes.iter().filter_map(|node| Slot::new(*node)).collect()
    })
}

/// Groups of which the configuration says that the loss of writes is accepted, whenever it happens.
fn accepted_for_good(config: &Config) -> Vec<Name> {
    let accepted = config.groups.iter().filter(|group| group.accept_lost_writes);
    accepted
        .filter_map(|group| Name::parse(&group.name).ok())
        .collect()
}

/// Why a group cannot go on, and what that has to do with those that are gone.
fn with_unkept(name: &Name, unkept: SlotSet, why: String) -> String {
    if unkept == SlotSet::EMPTY {
        return why;
    }
    let slots: Vec<String> = unkept.iter().map(|slot| slot.to_string()).collect();
    format!(
        "nodes are gone ({}), and so are all that kept copies for them: {why}. Then stop all nodes, and start them with --accept-loss {name}",
        slots.join(", ")
    )
}

/// What other nodes have that is not on the drives.
#[derive(Clone, Copy)]
struct Beside<'a> {
    /// Those that have the group open.
    living: Option<&'a LivingNodes>,
    /// What they have kept in memory for those that are gone.
    copies: &'a [Arc<[u8]>],
}

/// Of which nodes' memory a write is to be in before it is acknowledged from memory; the writer's alone where the configuration wants none acknowledged so.
fn replication_of(config: &Config, name: &str) -> Replication {
    let group = config.groups.iter().find(|group| group.name == name);
    let group = group.filter(|group| group.durability == Some(config::Durability::Ram));
    let (Some(group), Some(array)) = (group, &config.array) else {
        return Replication::new(1);
    };
    let replication = Replication::new(group.copies).at_least(group.copies_min);
    Slot::all().fold(replication, |replication, slot| {
        let keepers = array.keepers_of(slot.number());
        replication.kept_by(slot, keepers.into_iter().filter_map(Slot::new).collect())
    })
}

/// Finds the group, and replays its journal: all of it, or what lanes hold whose nodes do not live.
fn find(
    name: &Name,
    facts: &mut [DriveFacts],
    options: &AssembleOptions,
    opened: &[Opened],
    beside: Beside<'_>,
) -> Result<Option<(Candidate, Option<Report>, LostList)>, String> {
    // Ends: each round has one drive fewer.
    loop {
        let assembly = assemble(facts, options);
        let mut findings = assembly.groups.into_iter();
        let Some(GroupFinding { outcome, .. }) = findings.find(|finding| finding.name == *name) else {
            return Ok(None);
        };
        let mut candidate = match outcome {
            Ok(candidate) => candidate,
            Err(Refusal::CreationInterrupted { .. }) if beside.living.is_none() => return Ok(None),
            Err(refusal) => return Err(refusal.to_string()),
        };
        candidate.leave_out_returning();
        let lost = storage::load_lost(&candidate, opened);
        let machine = match beside.living {
            Some(living) => candidate.replay_among(living.clone()),
            None => candidate.replay(),
        };
        let Some(machine) = machine else {
            return Ok(Some((candidate, None, lost)));
        };
        let machine = machine.with_lost(lost).with_copies(beside.copies.to_vec());
        match run(machine, &candidate, opened) {
            Ok((report, lost)) => return Ok(Some((candidate, Some(report), lost))),
            Err(error @ (ReplayError::Member { member, .. } | ReplayError::LeftOut { member })) => {
                let drive = candidate.members[usize::from(member.0)].drive_index();
                let drive = usize::from(drive.expect("replay asks only members that are there"));
                let label = &opened[drive].spec.name;
                tracing::error!(drive = %label, %error, group = %name, "drive is left out while the journal is replayed: the group goes on without it");
                leave_out(&mut facts[drive], &error);
            }
            Err(error) => return Err(format!("its journal cannot be replayed: {error}")),
        }
    }
}

/// Runs a replay over the drives of a candidate.
fn run(
    mut machine: Replay,
    candidate: &Candidate,
    opened: &[Opened],
) -> Result<(Report, LostList), ReplayError> {
    let record = candidate.record();
    let drives = candidate.members.iter().map(|member| member.drive_index());
    let specs: Vec<Option<&DriveSpec>> = drives
        .map(|drive| drive.map(|drive| &opened[usize::from(drive)].spec))
        .collect();
    let report = replay::run(&mut machine, record.name.as_str(), record.block, &specs)?;
    if report.rows > 0 {
        tracing::info!(group = %record.name, rows = report.rows, blocks = report.blocks, "journal is replayed");
    }
    Ok((report, machine.into_lost()))
}
