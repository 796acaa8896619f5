//! The drives of the array, read and written while cores run or before they do: groups found, made, and brought up to the journals of lives that are over.
//!
//! Each time the shelves are connected to anew, as the same life. Blocks for as long as drives take.

use config::{Backing, Config};

use super::Outcome;
use crate::amf::group::{
    AssembleOptions, Candidate, DriveFacts, GroupFinding, LanesOver, LossReason, MemberRole, Refusal,
    assemble,
};
use crate::amf::journal::replay::{LivingNodes, Replay, ReplayError, Report};
use crate::amf::lost::LostList;
use crate::amf::peering::Recovery;
use crate::amf::superblock::{self, Name};
use crate::target::absent::{self, Present};
use crate::target::assemble::{examine, options_of, plan_group};
use crate::target::control::{GroupPlan, GroupSource, lanes_of, lanes_over};
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
    /// Slots that have lanes.
    slots: u16,
    /// What was there when the life began: the cores know these drives, by these numbers.
    present: Present,
    shelves: Vec<Shelf>,
    /// Where each drive of the configuration stands among them.
    places: Vec<Option<usize>>,
}

impl Stock {
    /// Looks which drives are there.
    pub fn open(config: &Config, tenure: Tenure, cores: u16, slots: u16) -> Result<Self, NodeError> {
        let sessions = Sessions::connect(&config.shelves, &tenure, cores);
        let present = absent::open(config, &sessions);
        let shelves = sessions.shelves();
        sessions.end();
        let present = present?;
        storage::check_distinct(&present.drives)?;
        let place = |drive: &config::Drive| {
            let mut drives = present.config.drives.iter();
            drives.position(|there| there.name == drive.name)
        };
        Ok(Self {
            places: config.drives.iter().map(place).collect(),
            config: config.clone(),
            tenure,
            cores,
            slots,
            present,
            shelves,
        })
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
            return Outcome::Nothing;
        }
        let sessions = Sessions::connect(&self.config.shelves, &self.tenure, self.cores);
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
        for (place, is_usable) in self.places.iter().zip(usable) {
            if let (Some(place), false) = (place, is_usable) {
                facts[*place].existing = superblock::examine(None, None);
            }
        }
        let lanes = self.slots * self.cores;
        let over = |report: Option<&Report>| LanesOver {
            lanes: report.map_or(0, |_| lanes_over(recovery.living, self.cores, lanes)),
            below: report.map_or(0, |report| report.next_seq),
        };
        let among = (!recovery.living.is_empty()).then(|| LivingNodes {
            lanes: lanes_of(recovery.living, self.cores),
            rows: recovery.rows.clone(),
            retired: recovery.retired,
        });
        let options = options_of(&self.config).map_err(|error| error.to_string())?;
        let found = find(name, &mut facts, &options, &opened, among.as_ref())?;
        let Some((candidate, report, lost)) = found else {
            if !recovery.living.is_empty() {
                return Err("others serve it, and its drives do not have it".to_owned());
            }
            return self.make(name, &facts, &opened).map(Outcome::Open);
        };
        if recovery.goes_on {
            let next = report.as_ref().map_or(1, |report| report.next_seq);
            return Ok(match over(report.as_ref()) {
                LanesOver { lanes: 0, .. } => Outcome::Nothing,
                over => Outcome::GoOn(over, next),
            });
        }
        let over = over(report.as_ref());
        let plan = GroupPlan {
            source: GroupSource::Found(Box::new(candidate)),
            header: None,
            limits: crate::amf::background::Limits::default(),
            spares: Vec::new(),
            replayed: report,
            intent: None,
            lost,
        };
        Ok(if recovery.living.is_empty() {
            Outcome::Open(plan)
        } else {
            Outcome::TakeOver(plan, over)
        })
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

fn fabric_of(drive: &Opened) -> &FabricDrive {
    match &drive.spec.medium {
        Medium::Fabric(drive) => drive,
        Medium::File { .. } | Medium::Memory(_) => {
            unreachable!("the configuration has drives of shelves alone")
        }
    }
}

/// Finds the group, and replays its journal: all of it, or what lanes hold whose nodes do not live.
#[expect(clippy::type_complexity, reason = "three things that are made together")]
fn find(
    name: &Name,
    facts: &mut [DriveFacts],
    options: &AssembleOptions,
    opened: &[Opened],
    among: Option<&LivingNodes>,
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
            Err(Refusal::CreationInterrupted { .. }) if among.is_none() => return Ok(None),
            Err(refusal) => return Err(refusal.to_string()),
        };
        leave_out_returning(&mut candidate);
        let lost = storage::load_lost(&candidate, opened);
        let machine = match among {
            Some(living) => candidate.replay_among(living.clone()),
            None => candidate.replay(),
        };
        let Some(machine) = machine else {
            return Ok(Some((candidate, None, lost)));
        };
        match run(machine.with_lost(lost), &candidate, opened) {
            Ok((report, lost)) => return Ok(Some((candidate, Some(report), lost))),
            Err(ReplayError::Member { member, error }) => {
                let drive = candidate.members[usize::from(member.0)].drive_index();
                let drive = usize::from(drive.expect("replay asks only members that are there"));
                let label = &opened[drive].spec.name;
                tracing::error!(drive = %label, %error, group = %name, "drive failed while the journal was replayed: the group goes on without it");
                facts[drive].existing = superblock::examine(None, None);
            }
            Err(error) => return Err(format!("its journal cannot be replayed: {error}")),
        }
    }
}

/// Drives that were away are not filled again while nodes share the group: nodes would have to agree on how far that is.
fn leave_out_returning(candidate: &mut Candidate) {
    for member in &mut candidate.members {
        if let MemberRole::Returning { .. } = member.role {
            member.role = MemberRole::Lost(LossReason::Stale {
                generation: member.generation,
            });
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
