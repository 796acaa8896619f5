//! Finding groups on drives, from what the drives themselves say.
//!
//! The newest record wins. Whoever composed it had brought every member that it calls active to its
//! `previous` generation. So such a member is current if its drive has the newest record; and also if it
//! has less, down to `previous`: then the newest was never announced, and no data was written under it.
//! Any other drive has old data and is never read before it is rebuilt (PROTOCOL H33): wholly, or only the rows that were
//! written meanwhile, if the write-intent bitmap has been kept since the drive was current.
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
use crate::amf::expansion::{ExpansionRecord, Restore};
use crate::amf::geometry::Level;
use crate::amf::intent::{IntentLoad, IntentMap};
use crate::amf::journal::JournalLayout;
use crate::amf::journal::replay::{LivingNodes, Replay};
use crate::amf::lost::{LostList, PAGE_OFFSETS};
use crate::amf::reserving::{PLACE_BYTES, Pages, Table};
use crate::amf::superblock::{
    Foreign, Found, GroupRecord, MemberRecord, MemberState, Name, ParityState, RECORD_BYTES, Scan,
    Superblock, Uuid,
};
use crate::amf::{MemberIndex, MemberSet, ParityTrust};

/// How strict assembly is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssembleOptions {
    /// Groups for which the operator accepts that blocks written last may be old or wrong, by name.
    pub accept_dirty_degraded: Vec<Name>,
    /// Groups for which the operator accepts that writes are lost that were acknowledged from memory, by name.
    pub accept_lost_writes: Vec<Name>,
    /// The caller replays the journals before it starts groups, so that an unclean stop leaves nothing unproven.
    pub replays: bool,
    /// Several nodes share these drives: groups for one node alone are refused, and the other way round.
    pub shared: bool,
    /// The group is open here, and nobody but this node writes its superblocks: nobody has gone on without it.
    pub goes_on: bool,
    /// Other nodes have the group open: what they have acknowledged from memory is not lost.
    pub is_open_elsewhere: bool,
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
    /// A spare of a group.
    #[error("spare drive of group {group}")]
    Spare {
        /// The group.
        group: Name,
        /// Its UUID.
        uuid: Uuid,
    },
    /// Another drive has taken its place.
    #[error("was part of group {group}, where another drive has its place by now: it can be used with force")]
    Former {
        /// The group.
        group: Name,
        /// Its UUID.
        uuid: Uuid,
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
    /// Power went while writes were in memory alone.
    #[error(
        "power went while acknowledged writes were in memory alone (durability \"ram\"), and those that were not flushed are lost: restore the data, or accept the loss"
    )]
    LostWrites,
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
    /// Every spare, in the record's order.
    pub spares: Vec<SpareFinding>,
}

/// A spare drive of a group that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpareFinding {
    /// Its drive, if it is there: place in the configuration, label, bytes.
    pub drive: Option<(u16, String, u64)>,
    /// Its newest generation, 0 if its drive is not there.
    pub generation: u64,
}

/// One copy of a page of a write-intent bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntentPage {
    /// Which page.
    pub page: usize,
    /// The drive that has the copy, by its place in the configuration.
    pub drive: u16,
    /// Where it is, in bytes from the start of the drive; 4096 bytes long.
    pub offset_bytes: u64,
}

/// Where a copy of the list of lost blocks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// The drive that has the copy, by its place in the configuration.
    pub drive: u16,
    /// Where it is, in bytes from the start of the drive; 4096 bytes long.
    pub offset_bytes: u64,
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

    /// What has to be done with the scratch area of an expansion before anything else, step by step: afterwards
    /// [`super::Event::Restored`] makes it durable, and the group is assembled once more. `None` if there is nothing in it.
    pub fn restore(&self) -> Option<Restore> {
        let expansion = self.record.expansion.filter(ExpansionRecord::awaits_restore)?;
        let area = self.record.scratch_area()?;
        let layout = self.record.layout();
        Some(Restore::new(&layout, expansion, area, self.lost_mask()))
    }

    /// Whether any member is lost or has to be rebuilt.
    pub fn is_degraded(&self) -> bool {
        self.lost_mask() != 0
    }

    /// The copies of the list of lost blocks that [`Self::load_lost`] wants to see: both of every current member.
    pub fn lost_pages(&self) -> Vec<ListPage> {
        let copies = |drive: u16| PAGE_OFFSETS.map(|offset_bytes| ListPage { drive, offset_bytes });
        self.current_drives().into_iter().flat_map(copies).collect()
    }

    /// The list of lost blocks, as the newest copy has it. `read` gives the bytes of a copy, or `None` if it cannot be read.
    pub fn load_lost(&self, mut read: impl FnMut(ListPage) -> Option<Vec<u8>>) -> LostList {
        let mut found = LostList::default();
        for bytes in self.lost_pages().into_iter().filter_map(&mut read) {
            found.take(self.record.group, &bytes);
        }
        found
    }

    /// The newest reservations of the group's virtual disks. `read` gives so many bytes at this offset of a drive, or `None` if they cannot be read.
    pub fn load_pages(&self, mut read: impl FnMut(u16, u64, usize) -> Option<Vec<u8>>) -> Vec<Table> {
        let mut pages = Pages::default();
        for drive in self.current_drives() {
            let places = Pages::places().filter_map(|offset| read(drive, offset, PLACE_BYTES));
            places.for_each(|copies| pages.take(&copies));
        }
        let disks: Vec<Uuid> = self.record.vdisks.iter().map(|vdisk| vdisk.uuid).collect();
        pages.of(&disks)
    }

    /// Takes members that come back for lost: they are not filled again while nodes share the group, which would have to agree on how far that is.
    pub fn leave_out_returning(&mut self) {
        for member in &mut self.members {
            if let MemberRole::Returning { .. } = member.role {
                member.role = MemberRole::Lost(LossReason::Stale {
                    generation: member.generation,
                });
            }
        }
    }

    /// Drives of members that have all data, by their places in the configuration.
    fn current_drives(&self) -> Vec<u16> {
        let lines = self.members.iter().zip(&self.record.members);
        let current = lines.filter(|(finding, line)| {
            line.state == MemberState::Active
                && matches!(finding.role, MemberRole::Current | MemberRole::Behind)
        });
        current
            .filter_map(|(finding, _)| finding.drive.as_ref().map(|(index, _, _)| *index))
            .collect()
    }

    /// Members that are lost or not usable, wholly or in part.
    fn lost_mask(&self) -> u32 {
        self.record.failed_mask() | mask_of(self.lost().iter())
    }

    /// The replay of the group's journal, to be run before the group is opened; `None` if it has none.
    pub fn replay(&self) -> Option<Replay> {
        let journal = self.record.journal.filter(|journal| journal.lanes > 0)?;
        let unusable = (0..).zip(&self.members).filter(|(_, member)| match member.role {
            MemberRole::Current | MemberRole::Behind | MemberRole::Rebuilding { .. } => false,
            // A member that was away is filled again later: until then it holds nothing that counts.
            MemberRole::Returning { .. } | MemberRole::Lost(_) => true,
        });
        let missing = unusable.fold(0, |mask, (index, _): (u32, _)| mask | 1 << index);
        let recorded = self.record.member_set();
        let members = MemberSet {
            failed: recorded.failed | missing,
            rebuilding: recorded.rebuilding & !missing,
            // A member whose loss is not durable may come back with what it held, and where nobody has written check data that defines
            // something else would be believed then.
            parity: if missing & !recorded.failed != 0 && !recorded.parity.is_everywhere() {
                ParityTrust::Nowhere
            } else {
                recorded.parity
            },
            ..recorded
        };
        let layout = JournalLayout {
            start: journal.start,
            lane_blocks: journal.lane_blocks,
            lanes: journal.lanes,
            incarnation: journal.incarnation,
            group: self.record.group,
            block: self.record.block,
        };
        Some(Replay::new(layout, self.record.layout(), members).with_floors(journal.floors))
    }

    /// As [`Self::replay`], while other nodes have the group open and go on: brings the rows up to date that a node which is gone may have left half-written. Afterwards
    /// the group goes on with [`super::Event::TakeOver`], or [`super::Event::LanesOver`] where it is open here.
    pub fn replay_among(&self, living: LivingNodes) -> Option<Replay> {
        Some(self.replay()?.among_living(living))
    }

    /// The copies of the write-intent bitmap that [`Self::load_intent`] wants to see; none if nothing has been kept.
    pub fn intent_pages(&self) -> Vec<IntentPage> {
        let Some(intent) = self.record.intent.filter(|intent| intent.since_generation != 0) else {
            return Vec::new();
        };
        let pages = usize::try_from(intent.pages(self.record.rows)).expect("a region has few pages");
        let drives = self.current_drives();
        let start = intent.start.0 << self.record.block.shift();
        let copy = |page: usize, drive: u16| IntentPage {
            page,
            drive,
            offset_bytes: start + page as u64 * RECORD_BYTES as u64,
        };
        (0..pages)
            .flat_map(|page| drives.iter().map(move |drive| copy(page, *drive)))
            .collect()
    }

    /// The bitmap as all current members together have it. `read` gives the bytes of a copy, or `None` if it cannot be read.
    /// `None` if the group keeps none.
    pub fn load_intent(&self, mut read: impl FnMut(IntentPage) -> Option<Vec<u8>>) -> Option<IntentMap> {
        let intent = self.record.intent?;
        let mut load = IntentLoad::new(self.record.group, self.record.rows, &intent);
        for copy in self.intent_pages() {
            load.take(copy.page, read(copy).as_deref());
        }
        Some(load.finish())
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

impl MemberFinding {
    /// Place in the configuration of its drive, if it is there.
    pub fn drive_index(&self) -> Option<u16> {
        self.drive.as_ref().map(|(index, _, _)| *index)
    }
}

/// What a member is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// Has the newest record, in the head and in the tail.
    Current,
    /// Has all the data, and lacks the newest record, which was never announced, or one of its two copies.
    Behind,
    /// Is being rebuilt: has the data of the rows that the record says, and its rebuild goes on there.
    Rebuilding {
        /// Lacks the newest record, like [`MemberRole::Behind`].
        behind: bool,
    },
    /// Was away and has old data: is rebuilt from the start.
    Returning {
        /// Only rows that were written meanwhile.
        partial: bool,
    },
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
    let mut newest_records: BTreeMap<Uuid, &GroupRecord> = BTreeMap::new();
    let mut groups: Vec<GroupFinding> = Vec::with_capacity(by_group.len());
    for (&uuid, parts) in &by_group {
        let record = newest(parts);
        if let Ok(record) = record {
            newest_records.insert(uuid, record);
        }
        let outcome = check_identities(parts).and_then(|()| assemble_group(record?, parts, options));
        groups.push(GroupFinding {
            name: parts[0].record().name.clone(),
            uuid,
            outcome,
        });
    }
    groups.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
    refuse_conflicts(&mut groups);
    let finding = |facts: &DriveFacts| drive_finding(facts, &newest_records);
    Assembly {
        groups,
        drives: drives.iter().map(finding).collect(),
    }
}

fn drive_finding(facts: &DriveFacts, records: &BTreeMap<Uuid, &GroupRecord>) -> DriveFinding {
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
        Found::Braid(scan) => group_role(scan, records.get(&scan.superblock.record.group).copied()),
    };
    DriveFinding {
        index: facts.index,
        label: facts.label.clone(),
        role,
    }
}

/// What a drive with a good superblock is, as the newest record of its group says; its own if there is none.
fn group_role(scan: &Scan, newest: Option<&GroupRecord>) -> DriveRole {
    let own = &scan.superblock.record;
    let record = newest.unwrap_or(own);
    let (group, uuid, drive) = (own.name.clone(), own.group, scan.superblock.drive());
    if record.spares.contains(&drive) {
        return DriveRole::Spare { group, uuid };
    }
    let member = (0u8..).zip(&record.members).find(|(_, line)| line.drive == drive);
    match member {
        Some((member, _)) => DriveRole::Member {
            group,
            uuid,
            member: MemberIndex(member),
            generation: own.generation,
            damaged_copies: scan.damaged.count_ones(),
        },
        None => DriveRole::Former { group, uuid },
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

fn assemble_group(
    record: &GroupRecord,
    parts: &[Part<'_>],
    options: &AssembleOptions,
) -> Result<Candidate, Refusal> {
    let taken_back;
    let (mut record, mut members) = (record, judge_members(record, parts));
    if let Some(narrow) = without_expansion(record, &members) {
        taken_back = narrow;
        record = &taken_back;
        members = judge_members(record, parts);
    }
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
    if !record.survives(record.failed_mask() | mask_of(lost.iter())) {
        return Err(Refusal::TooManyLost {
            members: members.len(),
            survives: record.losses_max(),
            lost,
        });
    }
    let accept_dirty_degraded = options.accept_dirty_degraded.contains(&record.name);
    if !accept_dirty_degraded {
        refuse_unproven(record, &lost, options)?;
    }
    let is_lost = record.dirty_ram && !options.is_open_elsewhere;
    if is_lost && !options.accept_lost_writes.contains(&record.name) {
        return Err(Refusal::LostWrites);
    }
    Ok(Candidate {
        record: record.clone(),
        accept_dirty_degraded,
        members,
        spares: record
            .spares
            .iter()
            .map(|spare| judge_spare(*spare, parts))
            .collect(),
    })
}

/// The record without an expansion over whose new members nothing is laid out yet, if one of them is not usable: power went before
/// all of them had become members, and there is nothing to lose by forgetting about it. The scratch area has to be clean first: it is
/// a part of the journal.
fn without_expansion(record: &GroupRecord, members: &[MemberFinding]) -> Option<GroupRecord> {
    let untouched = |expansion: &ExpansionRecord| record.is_untouched() && !expansion.awaits_restore();
    let old_members = record.expansion.filter(untouched)?.old_members;
    let is_there = |finding: &MemberFinding| matches!(finding.role, MemberRole::Current | MemberRole::Behind);
    let (_, new) = members.split_at(usize::from(old_members));
    if new.iter().all(is_there) {
        return None;
    }
    let mut narrow = record.clone();
    narrow.expansion = None;
    narrow.members.truncate(usize::from(old_members));
    if narrow.rebuilding_mask() == 0 {
        (narrow.rebuilt_rows, narrow.rebuild_partial) = (0, false);
    }
    let whole = narrow.failed_mask() == 0;
    if let Some(intent) = narrow.intent.as_mut().filter(|_| whole) {
        intent.since_generation = 0;
    }
    Some(narrow)
}

fn judge_members(record: &GroupRecord, parts: &[Part<'_>]) -> Vec<MemberFinding> {
    let members = (0u8..).zip(&record.members);
    members
        .map(|(member, _)| judge_member(record, MemberIndex(member), parts))
        .collect()
}

/// Refuses what only the operator can accept.
fn refuse_unproven(
    record: &GroupRecord,
    lost: &[LostMember],
    options: &AssembleOptions,
) -> Result<(), Refusal> {
    let state = |lost: &LostMember| record.members[usize::from(lost.member.0)].state;
    let away = |lost: &&LostMember| state(lost) == MemberState::Active && lost.reason == LossReason::Missing;
    let present = !mask_of(lost.iter().filter(away));
    if !options.goes_on && record.survives(present & record.members_mask()) {
        return Err(Refusal::OthersMayBeNewer { lost: lost.to_vec() });
    }
    let stopped_uncleanly = !record.clean && !options.replays;
    let unproven = matches!(record.parity, ParityState::Resync { .. }) || stopped_uncleanly;
    let degraded = !lost.is_empty() || record.failed_mask() != 0;
    if degraded && unproven {
        return Err(Refusal::DirtyDegraded { lost: lost.to_vec() });
    }
    Ok(())
}

/// Refuses clones, and records that disagree about what never changes.
fn check_identities(parts: &[Part<'_>]) -> Result<(), Refusal> {
    for (at, part) in parts.iter().enumerate() {
        for other in &parts[..at] {
            let (first, second) = (other.label(), part.label());
            if part.superblock().drive() == other.superblock().drive() {
                return Err(Refusal::DuplicateDrive { first, second });
            }
            // Over the generations one drive takes another's place, but in each of them a place has one.
            let together = part.record().generation == other.record().generation;
            let one_place = part.superblock().carrier == other.superblock().carrier;
            if !same_shape(part.record(), other.record()) || (together && one_place) {
                return Err(Refusal::Contradiction { first, second });
            }
        }
    }
    Ok(())
}

/// Whether records agree about what never changes. Expansions add members; one that never began may have left records of more
/// members, even of the same generation.
fn same_shape(a: &GroupRecord, b: &GroupRecord) -> bool {
    let shape = |record: &GroupRecord| {
        let size = (record.strip_blocks, record.block, record.data_start, record.rows);
        let journal = record.journal.map(|journal| (journal.start, journal.blocks));
        let intent = record
            .intent
            .map(|intent| (intent.start, intent.blocks, intent.rows_per_bit));
        (
            (record.array, record.group, record.name.clone()),
            (record.level, size),
            (record.exclusive_local, record.durability, journal, intent),
        )
    };
    shape(a) == shape(b)
}

/// The line of a drive in a record's table of members.
fn line_of(record: &GroupRecord, drive: Uuid) -> Option<&MemberRecord> {
    record.members.iter().find(|line| line.drive == drive)
}

/// The record that counts.
///
/// Two starts that each left out others may have written different records of one generation. One
/// that somebody who should have it does not have was never announced. If that is true of all,
/// nothing was written under any of them and each would do, but rotten copies may look like that too:
/// then the one that most drives have, or that trusts fewer of them. If of all but one, that one counts.
/// Spares have no say: they may have missed anything, and hold nothing.
fn newest<'a>(parts: &[Part<'a>]) -> Result<&'a GroupRecord, Refusal> {
    let is_member = |part: &&Part<'a>| part.superblock().member().is_some();
    let members: Vec<&Part<'a>> = parts.iter().filter(is_member).collect();
    let voters: Vec<&Part<'a>> = if members.is_empty() {
        parts.iter().collect()
    } else {
        members
    };
    let generation = voters
        .iter()
        .map(|part| part.record().generation)
        .max()
        .expect("a group has a drive");
    let mut holders: Vec<&Part<'a>> = Vec::new();
    for part in voters
        .iter()
        .filter(|part| part.record().generation == generation)
    {
        if !holders.iter().any(|holder| holder.record() == part.record()) {
            holders.push(part);
        }
    }
    let announced = |holder: &&&Part<'a>| {
        let record = holder.record();
        let lacks = |part: &&Part<'a>| {
            let line = line_of(record, part.superblock().drive());
            line.is_some_and(|line| line.state.takes_part()) && part.record() != record
        };
        !voters.iter().any(lacks)
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
                let copies = voters.iter().filter(|part| part.record() == record).count();
                (
                    copies,
                    record.failed_mask().count_ones(),
                    holder.superblock().carrier,
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
            // What a start needs, it needs of the old layout, too.
            u32::from(record.data_members()) * 2 <= record.old_members_mask().count_ones()
        }
    }
}

fn mask_of<'a>(lost: impl Iterator<Item = &'a LostMember>) -> u32 {
    lost.fold(0, |mask, lost| mask | 1 << lost.member.0)
}

fn judge_member(record: &GroupRecord, member: MemberIndex, parts: &[Part<'_>]) -> MemberFinding {
    let line = &record.members[usize::from(member.0)];
    let Some(part) = parts.iter().find(|part| part.superblock().drive() == line.drive) else {
        let reason = match line.state {
            MemberState::Active | MemberState::Missing | MemberState::Rebuilding => LossReason::Missing,
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
    MemberFinding {
        drive: Some((facts.index, facts.label.clone(), facts.bytes)),
        role: judge_drive(record, line, part),
        generation: part.record().generation,
        rewrite: part.scan.damaged != 0 || part.superblock().drive_bytes != facts.bytes,
    }
}

/// What the drive of a member is good for.
fn judge_drive(record: &GroupRecord, line: &MemberRecord, part: &Part<'_>) -> MemberRole {
    let generation = part.record().generation;
    let newest = part.record() == record && part.scan.whole;
    // It has the record before, or a later one that never counted; it took part in both, so it has the data.
    let took_part = generation >= record.previous;
    // Half of a full rebuild is no data to go on from.
    let filled = line.state != MemberState::Rebuilding || record.rebuild_partial;
    let returning = MemberRole::Returning {
        partial: filled && misses_only_marked(record, line, generation),
    };
    match line.state {
        // It erred, or an operator took it out: only an operator brings it back.
        MemberState::Failed => MemberRole::Lost(LossReason::Earlier {
            generation: line.current_at,
        }),
        MemberState::Active | MemberState::Missing | MemberState::Rebuilding if !fits(record, part.facts) => {
            MemberRole::Lost(LossReason::Unfit)
        }
        MemberState::Active | MemberState::Rebuilding if part.facts.left_out => returning,
        MemberState::Active if newest => MemberRole::Current,
        MemberState::Active if took_part => MemberRole::Behind,
        // A drive that was still a spare when power went has no row yet.
        MemberState::Rebuilding
            if took_part && (part.superblock().member().is_some() || record.rebuilt_rows == 0) =>
        {
            MemberRole::Rebuilding { behind: !newest }
        }
        MemberState::Active | MemberState::Missing | MemberState::Rebuilding => returning,
    }
}

/// Whether a drive with a record of this generation has everything but the rows that are marked in the write-intent bitmap.
///
/// Marks must have been kept since then. And the drive must not have gone further than this group knows of: then it has gone on
/// alone, and nobody has marked what was written there.
pub(super) fn misses_only_marked(record: &GroupRecord, line: &MemberRecord, generation: u64) -> bool {
    let since = record.intent.map_or(0, |intent| intent.since_generation);
    since != 0 && (since..=line.current_at).contains(&generation)
}

fn judge_spare(spare: Uuid, parts: &[Part<'_>]) -> SpareFinding {
    let part = parts.iter().find(|part| part.superblock().drive() == spare);
    SpareFinding {
        drive: part.map(|part| (part.facts.index, part.facts.label.clone(), part.facts.bytes)),
        generation: part.map_or(0, |part| part.record().generation),
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
            let reason = match finding.role {
                MemberRole::Lost(reason) => reason,
                MemberRole::Returning { .. } => LossReason::Stale {
                    generation: finding.generation,
                },
                MemberRole::Current | MemberRole::Behind | MemberRole::Rebuilding { .. } => return None,
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
