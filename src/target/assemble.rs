//! Finds the groups of a configuration on its drives, and plans those that are to be made, before any core starts.

use std::collections::BTreeMap;

use config::Config;

use super::absent;
use super::control::{DriveFound, GroupPlan, GroupSource, VdiskPlan};
use super::drives::DriveSpec;
use super::fabric::session::Sessions;
use super::node::NodeError;
use super::replay;
use super::restore::{self, Outcome};
use super::shelf;
use super::storage::{self, Opened};
use crate::amf::RowIndex;
use crate::amf::background::Limits;
use crate::amf::engine::{Engine, ReadCacheConfig};
use crate::amf::geometry::{Geometry, Level};
use crate::amf::group::{
    AssembleOptions, Assembly, Candidate, CreateIds, DriveFacts, DriveFinding, DriveRole, GroupFinding,
    GroupSpec, MemberFinding, Refusal, assemble, plan_create,
};
use crate::amf::journal::lane_blocks_min;
use crate::amf::journal::replay::{ReplayError, Report as ReplayReport};
use crate::amf::lost::LostList;
use crate::amf::replication::ReplicationMode;
use crate::amf::superblock::{self, Durability, HEAD_READ_BYTES, Name, PORTS_ALL, TAIL_READ_BYTES, Uuid};
use crate::drive::block::BlockSize;
use crate::icl::Slot;

/// What the drives of a configuration hold.
pub struct Found {
    /// The drives, open.
    pub drives: Vec<DriveSpec>,
    /// What was found on each.
    pub found: Vec<DriveFound>,
    /// Groups to open or make.
    pub groups: Vec<GroupPlan>,
    /// What is worth knowing, as sentences.
    pub notes: Vec<String>,
}

/// Opens the drives, reads their superblocks and decides which groups are there and which are to be made.
pub fn find(config: &Config, sessions: &Sessions) -> Result<Found, NodeError> {
    let present = absent::open(config, sessions)?;
    let (config, opened) = (&present.config, &present.drives);
    storage::check_distinct(opened)?;
    let mut facts = (0..)
        .zip(opened)
        .map(|(index, drive)| examine(index, drive))
        .collect::<Vec<DriveFacts>>();
    shelf::check_drives(config.shelf.is_some(), opened, &facts)?;
    let options = options_of(config)?;
    let mut notes = present.notes.clone();
    notes.extend(opened.iter().flat_map(|drive| drive.notes.clone()));
    let (assembly, mut replays) = assemble_and_replay(&mut facts, &options, opened, &mut notes)?;
    let (mut groups, mut unusable) = (Vec::new(), Vec::new());
    for GroupFinding { name, uuid, outcome } in assembly.groups {
        match outcome {
            Ok(_) if replays.refused.contains_key(&uuid) => {
                tracing::error!("{}", replays.refused[&uuid]);
                notes.push(replays.refused[&uuid].clone());
                unusable.push(name);
            }
            Ok(candidate) => {
                let (replayed, rows, lost) = match replays.done.remove(&uuid) {
                    Some(Replayed { report, rows, lost }) => (Some(report), rows, lost),
                    None => (None, Vec::new(), storage::load_lost(&candidate, opened)),
                };
                groups.push(GroupPlan {
                    limits: limits_of(config, candidate.record().name.as_str()),
                    spares: planned_spares(config, &name)?,
                    intent: storage::load_intent(&candidate, &rows, opened),
                    lost,
                    reserved: Vec::new(),
                    source: GroupSource::Found(Box::new(candidate)),
                    header: None,
                    replayed,
                });
            }
            Err(refusal) => {
                // A group that the configuration names must come up; one that it does not may stay down.
                let sentence = refused(&name, uuid, &refusal);
                if config
                    .groups
                    .iter()
                    .any(|group| group.name == name.as_str() && !retry_creation(&refusal, group))
                {
                    return Err(NodeError::Groups(sentence));
                }
                notes.push(sentence);
            }
        }
    }
    plan_missing(&present, &facts, &unusable, &mut groups, &mut notes)?;
    if config.shelf.is_some() {
        shelf::read_headers(&mut groups, opened)?;
    }
    check_scratch(&groups, config.reactor.memory_mib, engines_mib(config))?;
    let findings = assembly.drives;
    let found = facts
        .into_iter()
        .zip(findings)
        .map(|(facts, finding)| found_on(facts, &finding))
        .collect();
    let drives = present.drives.into_iter().map(|drive| drive.spec).collect();
    Ok(Found {
        drives,
        found,
        groups,
        notes,
    })
}

/// Plans the groups of the configuration that are not on the drives.
fn plan_missing(
    present: &absent::Present,
    facts: &[DriveFacts],
    unusable: &[Name],
    groups: &mut Vec<GroupPlan>,
    notes: &mut Vec<String>,
) -> Result<(), NodeError> {
    for group in &present.config.groups {
        let is_there = |plan: &GroupPlan| plan.name().as_str() == group.name;
        // It is there, although it cannot be used.
        let is_kept = unusable.iter().any(|name| name.as_str() == group.name);
        if !is_kept && !groups.iter().any(is_there) {
            // Never made of fewer drives than it is to have: the others may hold it.
            if let Some(lacks) = present.lacks(&group.name) {
                if present.config.shelf.is_some() {
                    notes.push(format!("{lacks}: the shelf exports the others"));
                    continue;
                }
                return Err(NodeError::Groups(format!(
                    "group {} is not on the drives that are there, and {lacks}. Bring that one back; a file is made if it is given `size_mib`",
                    group.name
                )));
            }
            groups.push(plan_group(group, false, facts, &present.drives, notes)?);
        }
    }
    Ok(())
}

/// What the configuration lets a start take for granted.
pub(super) fn options_of(config: &Config) -> Result<AssembleOptions, NodeError> {
    let accepted = config.groups.iter().filter(|group| group.accept_dirty_degraded);
    let accepts = |group: &&config::Group| group.accept_lost_writes || group.accepts_loss_once;
    let lost_writes = config.groups.iter().filter(accepts);
    Ok(AssembleOptions {
        accept_dirty_degraded: accepted
            .map(|group| name(&group.name))
            .collect::<Result<_, _>>()?,
        accept_lost_writes: lost_writes
            .map(|group| name(&group.name))
            .collect::<Result<_, _>>()?,
        replays: true,
        shared: config.array.is_some(),
        goes_on: false,
        is_open_elsewhere: false,
    })
}

/// That a group is not started, why, and what to do about it.
fn refused(name: &Name, uuid: Uuid, refusal: &Refusal) -> String {
    let mut sentence = format!("group {name} ({uuid}) is not started: {refusal}");
    if *refusal == Refusal::LostWrites {
        sentence += &format!(
            ". What was flushed before is all there. To serve the group without what was not: braid node --config FILE --accept-loss {name}"
        );
    }
    sentence
}

/// What became of a journal, and the rows that it named.
struct Replayed {
    report: ReplayReport,
    rows: Vec<RowIndex>,
    lost: LostList,
}

/// What became of the journals, and of groups whose journals cannot be used why not: they stay as they are, and the others start.
#[derive(Default)]
struct Replays {
    done: BTreeMap<Uuid, Replayed>,
    refused: BTreeMap<Uuid, String>,
}

/// Assembles the groups and replays their journals. A drive that fails meanwhile counts as unreadable, and everything is looked at
/// again without it: replay may be run as often as it takes.
fn assemble_and_replay(
    facts: &mut [DriveFacts],
    options: &AssembleOptions,
    opened: &[Opened],
    notes: &mut Vec<String>,
) -> Result<(Assembly, Replays), NodeError> {
    'again: loop {
        let assembly = assemble(facts, options);
        let mut replays = Replays::default();
        for finding in &assembly.groups {
            let Ok(candidate) = &finding.outcome else { continue };
            if restore_scratch(candidate, facts, opened, notes)? {
                continue 'again;
            }
            let Some(machine) = candidate.replay() else {
                continue;
            };
            let mut machine = machine.with_lost(storage::load_lost(candidate, opened));
            let record = candidate.record();
            let drives: Vec<Option<u16>> = candidate
                .members
                .iter()
                .map(|member| member.drive_index())
                .collect();
            let specs: Vec<_> = drives
                .iter()
                .map(|drive| drive.map(|drive| &opened[usize::from(drive)].spec))
                .collect();
            match replay::run(&mut machine, record.name.as_str(), record.block, &specs) {
                Ok(report) => {
                    if report.rows > 0 {
                        notes.push(format!(
                            "group {}: the journal was replayed, {} rows brought up to date",
                            record.name, report.rows
                        ));
                    }
                    let rows = machine.rows().to_vec();
                    let lost = machine.into_lost();
                    replays.done.insert(finding.uuid, Replayed { report, rows, lost });
                }
                Err(error @ (ReplayError::Member { member, .. } | ReplayError::LeftOut { member })) => {
                    let drive = drives[usize::from(member.0)].map(usize::from);
                    let drive = drive.expect("replay asks only members that are there");
                    notes.push(format!(
                        "drive \"{}\" is left out of group {}: {error}",
                        opened[drive].spec.name, record.name
                    ));
                    leave_out(&mut facts[drive], &error);
                    continue 'again;
                }
                Err(error) => {
                    let sentence = format!(
                        "group {} is not started: its journal cannot be replayed: {error}",
                        record.name
                    );
                    replays.refused.insert(finding.uuid, sentence);
                }
            }
        }
        return Ok((assembly, replays));
    }
}

/// Has the group assembled anew without a drive: it is filled again if it has only missed something.
pub(super) fn leave_out(facts: &mut DriveFacts, error: &ReplayError) {
    if matches!(error, ReplayError::LeftOut { .. }) {
        facts.left_out = true;
    } else {
        facts.existing = superblock::examine(None, None);
    }
}

/// Does the next step of what an expansion has left in the scratch area, and looks at the drives of the group once more. False if
/// nothing is left.
fn restore_scratch(
    candidate: &Candidate,
    facts: &mut [DriveFacts],
    opened: &[Opened],
    notes: &mut Vec<String>,
) -> Result<bool, NodeError> {
    let specs: Vec<&DriveSpec> = opened.iter().map(|drive| &drive.spec).collect();
    let name = &candidate.record().name;
    let Some(outcome) = restore::step(candidate, &specs) else {
        return Ok(false);
    };
    let members = candidate
        .members
        .iter()
        .filter_map(MemberFinding::drive_index)
        .collect::<Vec<u16>>();
    let spares = candidate.spares.iter().filter_map(|spare| spare.drive.as_ref());
    let spares: Vec<u16> = spares.map(|(index, ..)| *index).collect();
    for index in members.into_iter().chain(spares) {
        facts[usize::from(index)] = examine(index, &opened[usize::from(index)]);
    }
    match outcome {
        Outcome::Done => {}
        Outcome::DriveFailed(drive, error) => {
            let drive = usize::from(drive);
            notes.push(format!(
                "drive \"{}\" failed while rows of group {name} were put in their place ({error}): the group is started without it",
                opened[drive].spec.name
            ));
            facts[drive].existing = superblock::examine(None, None);
        }
        Outcome::Failed(why) => {
            let sentence = format!("rows of group {name} cannot be put in their place: {why}");
            return Err(NodeError::Groups(sentence));
        }
    }
    Ok(true)
}

/// Whether a refused group is one whose creation was interrupted and which the configuration wants made anew.
fn retry_creation(refusal: &Refusal, group: &config::Group) -> bool {
    group.create && matches!(refusal, Refusal::CreationInterrupted { .. })
}

/// What a drive says about itself.
pub(super) fn examine(index: u16, drive: &Opened) -> DriveFacts {
    let spec = &drive.spec;
    let head = storage::read_region(spec, 0, HEAD_READ_BYTES).ok();
    let tail = superblock::tail_start(spec.bytes)
        .and_then(|start| storage::read_region(spec, start, TAIL_READ_BYTES).ok());
    DriveFacts {
        index,
        label: spec.name.clone(),
        bytes: spec.bytes,
        logical_block: spec.logical_block_bytes,
        in_use: false,
        left_out: false,
        existing: superblock::examine(head.as_deref(), tail.as_deref()),
    }
}

fn found_on(facts: DriveFacts, finding: &DriveFinding) -> DriveFound {
    let finding = match finding.role {
        DriveRole::Blank | DriveRole::Member { .. } | DriveRole::Spare { .. } => None,
        DriveRole::Foreign(_)
        | DriveRole::Damaged(_)
        | DriveRole::Mixed { .. }
        | DriveRole::Former { .. }
        | DriveRole::Unreadable => Some(finding.role.to_string()),
    };
    DriveFound {
        finding,
        existing: facts.existing,
    }
}

/// Plans a group that the configuration wants made, for this node alone or for all that share the drives.
pub(super) fn plan_group(
    group: &config::Group,
    is_shared: bool,
    facts: &[DriveFacts],
    opened: &[Opened],
    notes: &mut Vec<String>,
) -> Result<GroupPlan, NodeError> {
    if !group.create {
        return Err(NodeError::Groups(format!(
            "group {} is not on its drives. Set `create = true` to have it made, or correct the list of drives",
            group.name
        )));
    }
    let ids = CreateIds {
        array: random_uuid()?,
        group: random_uuid()?,
        drives: group
            .drives
            .iter()
            .map(|_| random_uuid())
            .collect::<Result<_, _>>()?,
    };
    let spec = GroupSpec {
        name: name(&group.name)?,
        level: level_of(group.level),
        strip_bytes: group.strip_kib * 1024,
        block: BlockSize::from_bytes(group.block_bytes).expect("the configuration was checked"),
        durability: match group.durability {
            None => Durability::None,
            Some(config::Durability::Journal) => Durability::Journal,
            Some(config::Durability::Ram) => Durability::Ram,
        },
        journal_bytes: group.journal_mib.map(|mib| u64::from(mib) << 20),
        exclusive_local: !is_shared,
        force: false,
        zeroed: group.drives.iter().all(|drive| opened[*drive].spec.fresh),
        drives: group.drives.iter().map(|drive| facts[*drive].clone()).collect(),
    };
    let creation = plan_create(&spec, &ids)
        .map_err(|error| NodeError::Groups(format!("group {} cannot be created: {error}", group.name)))?;
    notes.extend(
        creation
            .warnings
            .iter()
            .map(|warning| format!("group {}: {warning}", group.name)),
    );
    Ok(GroupPlan {
        spares: fresh_identities(&group.spares)?,
        source: GroupSource::New(Box::new(creation)),
        header: None,
        limits: limits_from(group),
        replayed: None,
        intent: None,
        lost: LostList::default(),
        reserved: Vec::new(),
    })
}

/// How fast the background work of a group may go; as fast as it can if the configuration does not name the group.
pub(super) fn limits_of(config: &Config, name: &str) -> Limits {
    let group = config.groups.iter().find(|group| group.name == name);
    group.map(limits_from).unwrap_or_default()
}

fn limits_from(group: &config::Group) -> Limits {
    let config::Background {
        rate_mib_s,
        latency_target_us,
    } = group.background;
    Limits {
        rate: rate_mib_s.map(|mib| u64::from(mib.get()) << 20),
        latency_target_ns: latency_target_us.map(|us| u64::from(us.get()) * 1000),
    }
}

/// Drives that the configuration wants as spares of this group.
fn planned_spares(config: &Config, group: &Name) -> Result<Vec<(u16, Uuid)>, NodeError> {
    let named = config.groups.iter().find(|wanted| wanted.name == group.as_str());
    named.map_or(Ok(Vec::new()), |group| fresh_identities(&group.spares))
}

fn fresh_identities(drives: &[usize]) -> Result<Vec<(u16, Uuid)>, NodeError> {
    let index = |drive: usize| u16::try_from(drive).expect("a node has at most 1024 drives");
    drives
        .iter()
        .map(|&drive| Ok((index(drive), random_uuid()?)))
        .collect()
}

/// The virtual disks that the configuration wants, in reverse: they are made from the end.
pub fn vdisk_plans(config: &Config) -> Result<Vec<VdiskPlan>, NodeError> {
    let mut plans = Vec::new();
    for vdisk in config.vdisks.iter().rev() {
        plans.push(VdiskPlan {
            group: name(&config.groups[vdisk.group].name)?,
            name: name(&vdisk.name)?,
            bytes: match vdisk.size {
                config::VdiskSize::Mib(mib) => Some(mib << 20),
                config::VdiskSize::Rest => None,
            },
            nsid: vdisk.nsid,
            ports: vdisk.ports.as_ref().map_or(PORTS_ALL, |slots| {
                slots.iter().filter_map(|slot| Slot::new(*slot)).collect()
            }),
            replication: match vdisk.replication {
                config::Replication::Sync => ReplicationMode::Sync,
                config::Replication::PseudoSync => ReplicationMode::PseudoSync,
                config::Replication::Async => ReplicationMode::Async,
            },
            entropy: random()?,
        });
    }
    // What takes the rest of a group comes after all that have a size.
    plans.sort_by_key(|plan| plan.bytes.is_some());
    Ok(plans)
}

/// Scratch memory of an engine for a group of this shape, on a core with this much memory: a sixteenth of the memory, but
/// at least what the longest row operation takes. A power of two, as the arena hands out.
pub fn scratch_bytes(geometry: &Geometry, memory_mib: u32) -> u32 {
    let least = Engine::scratch_bytes_min(geometry);
    least.max(spare_scratch_bytes(memory_mib)).next_power_of_two()
}

/// Scratch memory that a core keeps for one group that is made while it runs.
pub fn spare_scratch_bytes(memory_mib: u32) -> u32 {
    1 << (memory_mib << 16).ilog2()
}

/// Memory of a core for its lane of the journal of a group of this shape, a power of two: a sixteenth of the memory, but at least what
/// the group's longest rows need. 0 without a journal.
pub fn ring_bytes(geometry: &Geometry, memory_mib: u32) -> u32 {
    if !geometry.level().is_redundant() {
        return 0;
    }
    let least = lane_blocks_min(geometry) << geometry.block().shift();
    least.next_power_of_two().max(spare_scratch_bytes(memory_mib))
}

/// How far a core reads ahead of a sequential stream at most.
const READ_AHEAD_BYTES: u32 = 2 << 20;

/// What a core remembers of what it reads from a group.
pub fn read_cache(read_cache_mib: u32) -> ReadCacheConfig {
    ReadCacheConfig {
        bytes: read_cache_mib << 20,
        window_bytes: READ_AHEAD_BYTES,
    }
}

/// Memory that a core keeps for the journal of one group that is made while it runs: enough for strips of usual lengths.
fn spare_ring_bytes(memory_mib: u32) -> u32 {
    spare_scratch_bytes(memory_mib).max(8 << 20)
}

/// Both: what a core keeps for one group that is made while it runs.
pub fn spare_bytes(memory_mib: u32) -> (u32, u32) {
    (spare_scratch_bytes(memory_mib), spare_ring_bytes(memory_mib))
}

/// Memory by which what engines get is measured: the groups of a shelf are many, and compute nothing.
pub fn engines_mib(config: &Config) -> u32 {
    let memory_mib = config.reactor.memory_mib;
    match &config.shelf {
        Some(_) => (memory_mib / 8).max(1),
        None => memory_mib,
    }
}

/// Refuses groups that would leave hosts without buffers: their engines take at most half of a core's memory.
fn check_scratch(groups: &[GroupPlan], memory_mib: u32, engines_mib: u32) -> Result<(), NodeError> {
    let engines = groups.iter().map(|plan| {
        let geometry = plan.geometry();
        u64::from(scratch_bytes(&geometry, engines_mib)) + u64::from(ring_bytes(&geometry, engines_mib))
    });
    let (scratch, ring) = spare_bytes(memory_mib);
    let spare = u64::from(scratch) + u64::from(ring);
    let wanted_mib = (engines.sum::<u64>() + spare).div_ceil(1 << 20);
    if wanted_mib <= u64::from(memory_mib / 2) {
        return Ok(());
    }
    Err(NodeError::Groups(format!(
        "the groups' row operations need {wanted_mib} MiB of each core's {memory_mib} MiB. Set `memory_mib` in [reactor] to {} or more",
        (wanted_mib * 4).next_power_of_two()
    )))
}

fn name(text: &str) -> Result<Name, NodeError> {
    Name::parse(text).map_err(|error| NodeError::Groups(format!("\"{text}\": {error}")))
}

fn random<const N: usize>() -> Result<[u8; N], NodeError> {
    storage::random_bytes().map_err(|error| NodeError::System {
        what: "no random bytes from the system",
        error,
    })
}

fn random_uuid() -> Result<Uuid, NodeError> {
    Ok(Uuid(
        uuid::Builder::from_random_bytes(random()?)
            .into_uuid()
            .into_bytes(),
    ))
}

/// The level that a word of the configuration stands for.
pub const fn level_of(level: config::Level) -> Level {
    match level {
        config::Level::Raid0 => Level::Raid0,
        config::Level::Raid1 => Level::Raid1,
        config::Level::Raid10 => Level::Raid10,
        config::Level::Raid5 => Level::Raid5,
        config::Level::Raid6 => Level::Raid6,
        config::Level::RaidTp => Level::RaidTp,
    }
}
