//! Finding groups on drives, from what the drives themselves say.
//!
//! The newest record wins. Whoever composed it had brought every member that it calls active to its
//! `previous` generation. So such a member is current if its drive has the newest record; and also if it
//! has less, down to `previous`: then the newest was never announced, and no data was written under it.
//! Any other drive has old data and is never read (PROTOCOL H33).
//!
//! The newest is the right one although a start may have left out members that held something nobody
//! else had: it skipped the numbers that those could hold (`STEP_WITHOUT_MEMBER`), so at worst two
//! records have the same number, and of these at most one was announced. And with more members than
//! twice what may be lost, any two sets of members that can start have one in common. Only where
//! that is not so, with two members, could another set have gone on unseen; see `OthersMayBeNewer`.
//! Without redundancy all members have to be there, and there is only ever one history.

use std::collections::BTreeMap;

use thiserror::Error;

use super::DriveFacts;
use super::status::LossReason;
use crate::amf::MemberIndex;
use crate::amf::geometry::Level;
use crate::amf::superblock::{
    Foreign, Found, GroupRecord, MemberState, Name, ParityState, Scan, Superblock, Uuid,
};

/// How strict assembly is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssembleOptions {
    /// Groups for which the operator accepts that blocks written last may be old or wrong, by name.
    pub accept_dirty_degraded: Vec<Name>,
    /// Several nodes share these drives: groups for one node alone are refused, and the other way round.
    pub shared: bool,
}

/// What was found on all drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembly {
    /// Groups, by name and UUID.
    pub groups: Vec<GroupFinding>,
    /// Drives, in the order given.
    pub drives: Vec<DriveFinding>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFinding {
    /// Its name.
    pub name: Name,
    /// Its UUID.
    pub uuid: Uuid,
    /// Whether it can be started.
    pub outcome: Result<Candidate, Refusal>,
}

/// One drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveFinding {
    /// Its place in the configuration.
    pub index: u16,
    /// What the operator calls it.
    pub label: String,
    /// What it is.
    pub role: DriveRole,
}

/// What a drive is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DriveRole {
    /// Empty.
    #[error("blank: a group can be created on it")]
    Blank,
    /// Carries something else.
    #[error("carries {}: no part of any group; create one with force if it may go", .0.0)]
    Foreign(Foreign),
    /// No good copy of the superblock.
    #[error("all copies of the superblock are bad ({0}): the drive is left alone")]
    Damaged(crate::amf::superblock::ParseError),
    /// Superblocks of two groups.
    #[error(
        "carries superblocks of two groups, {first} and {second}: the drive is left alone; find out which one is right"
    )]
    Mixed {
        /// One of them.
        first: Uuid,
        /// The other.
        second: Uuid,
    },
    /// Cannot be read.
    #[error("cannot be read: check or replace the drive")]
    Unreadable,
    /// A member of a group.
    #[error("member {} of group {group}, generation {generation}", member.0)]
    Member {
        /// The group.
        group: Name,
        /// Its UUID.
        uuid: Uuid,
        /// Which member.
        member: MemberIndex,
        /// Newest generation on the drive.
        generation: u64,
        /// Copies of the superblock that are bad; they are rewritten when the group starts.
        damaged_copies: u32,
    },
}

/// Why a group is not started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A drive and its clone.
    #[error(
        "drives {first} and {second} carry the same identity, one is a copy of the other: remove the copy"
    )]
    DuplicateDrive {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// Records disagree about what never changes.
    #[error(
        "drives {first} and {second} disagree about the shape of the group: remove the one that is wrong"
    )]
    Contradiction {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// Two histories of one group.
    #[error(
        "drives {first} and {second} have both gone on alone, at generation {generation}: remove the one whose data shall be dropped"
    )]
    Diverged {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// The generation that both have.
        generation: u64,
    },
    /// Too few members are usable.
    #[error("{} of {members} members are not usable, the level survives any {survives}: {}", lost.len(), list(lost))]
    TooManyLost {
        /// Members of the group.
        members: usize,
        /// How many may be lost.
        survives: u8,
        /// Which are.
        lost: Vec<LostMember>,
    },
    /// Those that are missing could have gone on without us.
    #[error(
        "the drives that are not there could have gone on alone and be newer: {}; bring them back, or accept a dirty degraded start",
        list(lost)
    )]
    OthersMayBeNewer {
        /// Who they are.
        lost: Vec<LostMember>,
    },
    /// Unclean and degraded.
    #[error(
        "the group stopped uncleanly and is degraded, so blocks that were being written may come out wrong: bring back {}, or accept a dirty degraded start",
        list(lost)
    )]
    DirtyDegraded {
        /// Who is lost.
        lost: Vec<LostMember>,
    },
    /// Creation did not end.
    #[error(
        "creating the group was interrupted and {} did not get its superblock: create it again",
        list(lost)
    )]
    CreationInterrupted {
        /// Who lacks it.
        lost: Vec<LostMember>,
    },
    /// For one node alone.
    #[error(
        "the group belongs to one node alone (exclusive-local): start it on a node without shared drives"
    )]
    ExclusiveLocal,
    /// For several nodes.
    #[error("the group is shared by several nodes: reach its drives through a shelf")]
    Shared,
    /// Another group has this name.
    #[error("two groups are called {name}: take the drives of one of them away")]
    NameTaken {
        /// The name.
        name: Name,
    },
    /// Another group has a namespace of this number.
    #[error("namespace {nsid} exists in group {other} as well: take the drives of one of them away")]
    NsidTaken {
        /// The namespace.
        nsid: u32,
        /// The other group.
        other: Name,
    },
}

/// A member that is not usable, for sentences.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("member {} (drive {}): {reason}", member.0, label.clone().unwrap_or_else(|| drive.to_string()))]
pub struct LostMember {
    /// Which member.
    pub member: MemberIndex,
    /// Identity of its drive.
    pub drive: Uuid,
    /// What the operator calls the drive, if it is there.
    pub label: Option<String>,
    /// Why it is not usable.
    pub reason: LossReason,
}

fn list(lost: &[LostMember]) -> String {
    lost.iter()
        .map(LostMember::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// A group that can be started; `Group::assembled` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub(super) record: GroupRecord,
    pub(super) accept_dirty_degraded: bool,
    /// Every member, in order.
    pub members: Vec<MemberFinding>,
}

impl Candidate {
    /// The newest record.
    pub const fn record(&self) -> &GroupRecord {
        &self.record
    }

    /// Members that are not usable.
    pub fn lost(&self) -> Vec<LostMember> {
        lost_members(&self.record, &self.members)
    }
}

/// One member of a group that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFinding {
    /// Its drive, if it is there: place in the configuration, label, bytes.
    pub drive: Option<(u16, String, u64)>,
    /// What it is good for.
    pub role: MemberRole,
    /// Its newest generation, 0 if its drive is not there.
    pub generation: u64,
    /// Copies of its record have to be rewritten.
    pub rewrite: bool,
}

/// What a member is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// Has the newest record, in the head and in the tail.
    Current,
    /// Has all the data, and lacks the newest record, which was never announced, or one of its two copies.
    Behind,
    /// Is not used.
    Lost(LossReason),
}

/// One drive of the group at hand.
#[derive(Clone, Copy)]
struct Part<'a> {
    facts: &'a DriveFacts,
    scan: &'a Scan,
}

impl<'a> Part<'a> {
    const fn superblock(&self) -> &'a Superblock {
        &self.scan.superblock
    }

    const fn record(&self) -> &'a GroupRecord {
        &self.scan.superblock.record
    }

    fn label(&self) -> String {
        self.facts.label.clone()
    }
}

/// Finds every group on these drives and says whether it can be started, and if not, why.
pub fn assemble(drives: &[DriveFacts], options: &AssembleOptions) -> Assembly {
    let mut by_group: BTreeMap<Uuid, Vec<Part<'_>>> = BTreeMap::new();
    for facts in drives {
        if let Found::Braid(scan) = &facts.existing {
            by_group
                .entry(scan.superblock.record.group)
                .or_default()
                .push(Part { facts, scan });
        }
    }
    let finding = |(&uuid, parts): (&Uuid, &Vec<Part<'_>>)| {
        let name = parts[0].record().name.clone();
        GroupFinding {
            name,
            uuid,
            outcome: assemble_group(parts, options),
        }
    };
    let mut groups: Vec<GroupFinding> = by_group.iter().map(finding).collect();
    groups.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
    refuse_conflicts(&mut groups);
    Assembly {
        groups,
        drives: drives.iter().map(drive_finding).collect(),
    }
}

fn drive_finding(facts: &DriveFacts) -> DriveFinding {
    let role = match &facts.existing {
        Found::Blank => DriveRole::Blank,
        Found::Foreign(foreign) => DriveRole::Foreign(*foreign),
        Found::Damaged(error) => DriveRole::Damaged(*error),
        Found::Mixed {
            groups: [first, second],
        } => DriveRole::Mixed {
            first: *first,
            second: *second,
        },
        Found::Unreadable => DriveRole::Unreadable,
        Found::Braid(scan) => DriveRole::Member {
            group: scan.superblock.record.name.clone(),
            uuid: scan.superblock.record.group,
            member: scan.superblock.member,
            generation: scan.superblock.record.generation,
            damaged_copies: scan.damaged.count_ones(),
        },
    };
    DriveFinding {
        index: facts.index,
        label: facts.label.clone(),
        role,
    }
}

/// Names and namespace numbers are unique on a node; groups that clash are refused, both of one name.
fn refuse_conflicts(groups: &mut [GroupFinding]) {
    let names: Vec<Name> = groups.iter().map(|group| group.name.clone()).collect();
    let mut taken: BTreeMap<u32, Name> = BTreeMap::new();
    for group in groups {
        if names.iter().filter(|&name| *name == group.name).count() > 1 {
            group.outcome = Err(Refusal::NameTaken {
                name: group.name.clone(),
            });
        }
        let Ok(candidate) = &group.outcome else { continue };
        let nsids: Vec<u32> = candidate.record.vdisks.iter().map(|vdisk| vdisk.nsid).collect();
        if let Some((nsid, other)) = nsids
            .iter()
            .find_map(|nsid| taken.get(nsid).map(|other| (*nsid, other)))
        {
            group.outcome = Err(Refusal::NsidTaken {
                nsid,
                other: other.clone(),
            });
            continue;
        }
        taken.extend(nsids.into_iter().map(|nsid| (nsid, group.name.clone())));
    }
}

fn assemble_group(parts: &[Part<'_>], options: &AssembleOptions) -> Result<Candidate, Refusal> {
    check_identities(parts)?;
    let record = newest(parts)?;
    let members: Vec<MemberFinding> = (0u8..)
        .zip(&record.members)
        .map(|(member, _)| judge_member(record, MemberIndex(member), parts))
        .collect();
    let lost = lost_members(record, &members);
    if record.exclusive_local && options.shared {
        return Err(Refusal::ExclusiveLocal);
    }
    if !record.exclusive_local && !options.shared {
        return Err(Refusal::Shared);
    }
    if record.forming && !lost.is_empty() {
        return Err(Refusal::CreationInterrupted { lost });
    }
    if !record.survives(mask_of(lost.iter())) {
        return Err(Refusal::TooManyLost {
            members: members.len(),
            survives: record.losses_max(),
            lost,
        });
    }
    let accept_dirty_degraded = options.accept_dirty_degraded.contains(&record.name);
    let unproven = matches!(record.parity, ParityState::Resync { .. }) || !record.clean;
    if !accept_dirty_degraded {
        let state = |lost: &LostMember| record.members[usize::from(lost.member.0)].state;
        let away =
            |lost: &&LostMember| state(lost) == MemberState::Active && lost.reason == LossReason::Missing;
        let present = !mask_of(lost.iter().filter(away));
        if record.survives(present & record.members_mask()) {
            return Err(Refusal::OthersMayBeNewer { lost });
        }
        if !lost.is_empty() && unproven {
            return Err(Refusal::DirtyDegraded { lost });
        }
    }
    Ok(Candidate {
        record: record.clone(),
        accept_dirty_degraded,
        members,
    })
}

/// Refuses clones, and records that disagree about what never changes.
fn check_identities(parts: &[Part<'_>]) -> Result<(), Refusal> {
    for (at, part) in parts.iter().enumerate() {
        for other in &parts[..at] {
            let (first, second) = (other.label(), part.label());
            if part.superblock().drive() == other.superblock().drive() {
                return Err(Refusal::DuplicateDrive { first, second });
            }
            if !same_shape(part.record(), other.record())
                || part.superblock().member == other.superblock().member
            {
                return Err(Refusal::Contradiction { first, second });
            }
        }
    }
    Ok(())
}

fn same_shape(a: &GroupRecord, b: &GroupRecord) -> bool {
    let shape = |record: &GroupRecord| {
        let size = (record.strip_blocks, record.block, record.data_start, record.rows);
        (
            record.array,
            record.group,
            record.name.clone(),
            record.level,
            size,
            record.exclusive_local,
        )
    };
    let drives = |record: &GroupRecord| {
        record
            .members
            .iter()
            .map(|member| member.drive)
            .collect::<Vec<_>>()
    };
    shape(a) == shape(b) && drives(a) == drives(b)
}

/// The record that counts.
///
/// Two starts that each left out others may have written different records of one generation. One
/// that somebody who should have it does not have was never announced. If that is true of all,
/// nothing was written under any of them and each would do, but rotten copies may look like that too:
/// then the one that most drives have, or that trusts fewer of them. If of all but one, that one counts.
fn newest<'a>(parts: &[Part<'a>]) -> Result<&'a GroupRecord, Refusal> {
    let generation = parts
        .iter()
        .map(|part| part.record().generation)
        .max()
        .expect("a group has a drive");
    let mut holders: Vec<&Part<'a>> = Vec::new();
    for part in parts.iter().filter(|part| part.record().generation == generation) {
        if !holders.iter().any(|holder| holder.record() == part.record()) {
            holders.push(part);
        }
    }
    let announced = |holder: &&&Part<'a>| {
        let record = holder.record();
        let lacks = |part: &Part<'a>| {
            let state = record.members[usize::from(part.superblock().member.0)].state;
            state == MemberState::Active && part.record() != record
        };
        !parts.iter().any(lacks)
    };
    let mut possible = holders.iter().filter(announced);
    match (possible.next(), possible.next()) {
        (Some(first), Some(second)) if halves(first.record()) => Err(Refusal::Diverged {
            first: first.label(),
            second: second.label(),
            generation,
        }),
        // Both lack the member that would tell: so few are there that either is refused.
        (Some(either), _) => Ok(either.record()),
        (None, _) => {
            let likely = |holder: &&&Part<'a>| {
                let record = holder.record();
                let copies = parts.iter().filter(|part| part.record() == record).count();
                (
                    copies,
                    record.failed_mask().count_ones(),
                    holder.superblock().member,
                )
            };
            let best = holders.iter().max_by_key(likely);
            Ok(best.expect("the largest generation has a holder").record())
        }
    }
}

/// Whether two sets of members without a common one could each start the group.
fn halves(record: &GroupRecord) -> bool {
    match record.level {
        // One copy of everything each.
        Level::Raid1 => true,
        // Round an odd number of members no two sets without a common one hold everything.
        Level::Raid10 => record.members.len().is_multiple_of(2),
        Level::Raid0 | Level::Raid5 | Level::Raid6 | Level::RaidTp => {
            usize::from(record.data_members()) * 2 <= record.members.len()
        }
    }
}

fn mask_of<'a>(lost: impl Iterator<Item = &'a LostMember>) -> u32 {
    lost.fold(0, |mask, lost| mask | 1 << lost.member.0)
}

fn judge_member(record: &GroupRecord, member: MemberIndex, parts: &[Part<'_>]) -> MemberFinding {
    let line = record.members[usize::from(member.0)];
    let Some(part) = parts.iter().find(|part| part.superblock().drive() == line.drive) else {
        let reason = match line.state {
            MemberState::Active | MemberState::Missing => LossReason::Missing,
            MemberState::Failed => LossReason::Earlier {
                generation: line.current_at,
            },
        };
        return MemberFinding {
            drive: None,
            role: MemberRole::Lost(reason),
            generation: 0,
            rewrite: false,
        };
    };
    let facts = part.facts;
    let generation = part.record().generation;
    let role = match line.state {
        MemberState::Failed => MemberRole::Lost(LossReason::Earlier {
            generation: line.current_at,
        }),
        MemberState::Missing => MemberRole::Lost(LossReason::Stale { generation }),
        MemberState::Active if !fits(record, facts) => MemberRole::Lost(LossReason::Unfit),
        MemberState::Active if part.record() == record && part.scan.whole => MemberRole::Current,
        // It has the record before, or a later one that never counted; it took part in both, so it has the data.
        MemberState::Active if generation >= record.previous => MemberRole::Behind,
        MemberState::Active => MemberRole::Lost(LossReason::Stale { generation }),
    };
    MemberFinding {
        drive: Some((facts.index, facts.label.clone(), facts.bytes)),
        role,
        generation,
        rewrite: part.scan.damaged != 0 || part.superblock().drive_bytes != facts.bytes,
    }
}

/// Whether the drive still has room for its part, and small enough blocks.
fn fits(record: &GroupRecord, facts: &DriveFacts) -> bool {
    record.fits_drive(facts.bytes) && facts.logical_block <= record.block.bytes()
}

fn lost_members(record: &GroupRecord, members: &[MemberFinding]) -> Vec<LostMember> {
    let lost = (0u8..)
        .zip(members.iter().zip(&record.members))
        .filter_map(|(member, (finding, line))| {
            let MemberRole::Lost(reason) = finding.role else {
                return None;
            };
            let label = finding.drive.as_ref().map(|(_, label, _)| label.clone());
            Some(LostMember {
                member: MemberIndex(member),
                drive: line.drive,
                label,
                reason,
            })
        });
    lost.collect()
}
