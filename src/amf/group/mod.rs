//! One redundancy group as a thing that is created, assembled, opened, changed and stopped.
//!
//! Owns the group's membership and its table of virtual disks, and decides what every superblock
//! says and when. Events come in and actions go out; the runtime writes what it is told to write.
//! Knows nothing of host commands: those are the engines' business, which are told the members.
//!
//! Invariants:
//! - A [`MemberSet`] leaves this module only when its generation is durable on every member that it
//!   calls live. The one exception ends the group ([`Action::GroupFailed`]) and is never written.
//! - A member that was lost is active again only after a rebuild: no start reads it before, beyond the rows that are rebuilt.
//! - A lost member's place is filled only when its loss is durable and announced.
//! - No host write is allowed before "not clean" is durable; "clean" is the last thing written.
//! - Before a generation is written, the one before it is durable on every member that stays. So two
//!   members that a record calls active are never more than that one update apart.

mod assemble;
mod create;
mod machine;
mod status;
#[cfg(test)]
mod tests;
mod vdisks;

use thiserror::Error;

use super::expansion::{ExpansionRecord, Layout, ScratchState};
use super::replication::ReplicationMode;
use super::superblock::{Found, GroupRecord, Name, RECORD_BYTES, SPARES_MAX, Uuid, VDISKS_MAX, VdiskRecord};
use super::{MEMBERS_MAX, MemberIndex, MemberSet};
use crate::drive::DriveError;
use crate::drive::health::Reason;
use crate::icl::{Slot, SlotSet};

pub use assemble::{
    AssembleOptions, Assembly, Candidate, DriveFinding, DriveRole, GroupFinding, IntentPage, ListPage,
    MemberFinding, MemberRole, Refusal, SpareFinding, assemble,
};
pub use create::{
    CreateError, CreateIds, Creation, DRIVE_BYTES_MIN, GroupSpec, Warning, drives_min, plan_create,
};
pub use machine::{Group, REQUESTS_MAX};
pub use status::{
    GroupSnapshot, GroupState, LossReason, MemberSnapshot, MemberStatus, RebuildSnapshot, ResyncSnapshot,
    SpareSnapshot, VdiskSnapshot,
};
pub use vdisks::free_nsid;

/// Everything that creation and assembly want to know of one configured drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveFacts {
    /// Place of the drive in the configuration; names it towards the runtime.
    pub index: u16,
    /// What the operator calls it: its name or path, for sentences.
    pub label: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Size of its logical block in bytes: what it writes whole.
    pub logical_block: u32,
    /// A group of this process is using it right now.
    pub in_use: bool,
    /// It has missed what a replay wrote that went on without it, whatever superblocks say.
    pub left_out: bool,
    /// What [`super::superblock::examine`] made of it.
    pub existing: Found,
}

/// How a group is opened: what has been done before, and what the engines will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Cores that write to the journal, each to a lane of its own.
    pub lanes: u16,
    /// Longest lane that a core has memory for, unless the group's rows need a longer one.
    pub lane_blocks_max: u32,
    /// What became of the journal.
    pub replay: Replay,
    /// The engines mark each row in [`Group::intent`] before it is written in place while a member is lost; and when one gets lost,
    /// all rows that were written since the last flush.
    pub marks_intent: bool,
}

impl Opening {
    /// One core that writes straight through: whatever an unclean stop left behind has to be resynchronised.
    pub const WRITE_THROUGH: Self = Self {
        lanes: 1,
        lane_blocks_max: u32::MAX,
        replay: Replay::None,
        marks_intent: false,
    };
}

/// What became of the journal before a group is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It was not replayed.
    None,
    /// It was replayed whole, and all members flushed: every row fits its check data (PROTOCOL H25 to H27).
    Done {
        /// Rows that were brought up to date; each is marked in [`Group::intent`].
        rows: u64,
    },
}

/// Entries of the journal that are over: a node is gone, all rows that it may have left half-written are up to date, and all living nodes have retired what they had of
/// such entries. So these are all lanes, also those of living nodes: an older entry of theirs must not outlive a newer one of the node that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanesOver {
    /// Which lanes, as a mask; the bit behind those of the cores is the recovery lane.
    pub lanes: u32,
    /// Their entries with lower numbers are never replayed any more.
    pub below: u64,
}

/// How a group is opened that other nodes have open, because the node that led it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeOver {
    /// As at any opening. How many lanes it asks for does not count: they stay as they are, because nodes write to them.
    pub opening: Opening,
    /// What a replay beside living nodes has brought up to date.
    pub over: LanesOver,
}

/// Names one superblock write until its answer comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SuperblockIo(pub u32);

/// Names one request of an operator until its [`Action::Reply`]. The caller chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// How large a virtual disk shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VdiskSize {
    /// This many blocks are what hosts see; whole rows are reserved for them.
    Blocks(u64),
    /// All of the largest free extent.
    LargestFree,
}

/// A virtual disk to be created. UUID and NGUID are injected, because making them needs randomness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdiskSpec {
    /// Its name, unique in the group.
    pub name: Name,
    /// Its size.
    pub size: VdiskSize,
    /// Namespace identifier; the lowest that is free in this group if `None`. A caller with several groups asks [`free_nsid`].
    pub nsid: Option<u32>,
    /// UUID of the namespace.
    pub uuid: Uuid,
    /// NGUID of the namespace.
    pub nguid: [u8; 16],
    /// The nodes that serve it.
    pub ports: SlotSet,
    /// When a host's write is done, where that is acknowledged from memory.
    pub replication: ReplicationMode,
}

/// What may change of a virtual disk beside its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VdiskChange {
    /// One more node serves it, or one less.
    Port(Slot, PortChange),
    /// When a host's write is done.
    Replication(ReplicationMode),
}

/// What becomes of a virtual disk's port at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChange {
    /// That node serves it from now on.
    Add,
    /// That node stops to.
    Delete {
        /// The nodes that there are: the port of the last of them stays, unless `force` says otherwise.
        nodes: SlotSet,
        /// Also the last one.
        force: bool,
    },
}

/// A page of a virtual disk's reservations that shall be durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageWrite {
    /// Names the request.
    pub request: RequestId,
    /// Its place.
    pub place: u8,
    /// Which of the pages of that place it is.
    pub pages: u64,
    /// What it holds.
    pub page: Box<[u8; RECORD_BYTES]>,
}

/// What happens to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Open the group. Once; the journal has been replayed before if it can be.
    Start(Opening),
    /// Instead of [`Event::Start`]: go on with a group that other nodes have open. Its journal keeps its lanes and its incarnation.
    TakeOver(TakeOver),
    /// A node is gone, others go on, and what it left was brought up to date by this node, which leads the open group: makes that durable. Ignored unless
    /// the group is open.
    LanesOver(LanesOver),
    /// The node that leads the group has made this record durable, and announced it. For a group that was made by [`Group::followed`], and ignored if it
    /// knows that one or a newer one.
    Followed(Box<GroupRecord>),
    /// A superblock write has ended; each [`Action::WriteSuperblock`] is answered exactly once.
    SuperblockWritten {
        /// Which write.
        io: SuperblockIo,
        /// Whether the record is on the medium.
        result: Result<(), DriveError>,
    },
    /// An engine could not read or write a member.
    MemberFault {
        /// Which member.
        member: MemberIndex,
        /// What the drive said.
        error: DriveError,
    },
    /// What a node that is gone has left was brought up to date without these members, as a mask: what they hold is worth nothing from now on (PROTOCOL H02,
    /// H19). All of them at once, because the group is quiet until the loss of one that counts is durable, and not before.
    LeftOut {
        /// Which members; some may be lost already.
        members: u32,
    },
    /// A member is judged too bad to be used, whatever the group can do without it.
    Evict {
        /// Which member.
        member: MemberIndex,
        /// Why.
        reason: Reason,
    },
    /// An operator wants a member out.
    FailMember {
        /// Names the request.
        request: RequestId,
        /// Which member.
        member: MemberIndex,
        /// Do it even if the group fails or data may be lost.
        force: bool,
    },
    /// An operator wants a virtual disk.
    CreateVdisk {
        /// Names the request.
        request: RequestId,
        /// What it shall be.
        spec: VdiskSpec,
    },
    /// An operator wants a virtual disk larger, where it is.
    ResizeVdisk {
        /// Names the request.
        request: RequestId,
        /// Which one.
        nsid: u32,
        /// How large, at least what it is; [`VdiskSize::LargestFree`] takes all that is free behind it.
        size: VdiskSize,
    },
    /// An operator wants a virtual disk gone, and its data with it.
    DeleteVdisk {
        /// Names the request.
        request: RequestId,
        /// Which one.
        nsid: u32,
    },
    /// The same where other nodes serve it, too: that it goes is durable before any node is told. Its blocks are free when it has drained on all of them.
    LeaveVdisk {
        /// Names the request.
        request: RequestId,
        /// Which one.
        nsid: u32,
    },
    /// An operator wants a virtual disk served by other nodes, or its writes done at another time.
    ChangeVdisk {
        /// Names the request.
        request: RequestId,
        /// Which one.
        nsid: u32,
        /// What changes.
        change: VdiskChange,
    },
    /// No command of a removed virtual disk is in flight any more; answers [`Action::VdiskRemoved`]. Ignored for one that is not about to go.
    VdiskDrained {
        /// Which one.
        nsid: u32,
    },
    /// Rows below `next_row` have been resynchronised and flushed.
    ResyncProgress {
        /// First row that is left.
        next_row: u64,
    },
    /// Every row has been resynchronised, and the members were flushed afterwards.
    ResyncDone,
    /// An engine wants to acknowledge writes from memory; nothing of the kind happens before [`Action::RamAllowed`].
    RamDirty,
    /// All that was acknowledged from memory is committed, and nothing more is before another [`Event::RamDirty`].
    RamClean,
    /// An operator puts a drive into a lost member's place, or brings a lost member's own drive back.
    ReplaceMember {
        /// Names the request.
        request: RequestId,
        /// Which member.
        member: MemberIndex,
        /// The drive: blank, a spare of this group, or the member's own.
        drive: Box<DriveFacts>,
        /// A fresh identity for a drive that has none in this group.
        identity: Uuid,
        /// Take it whatever is on it.
        force: bool,
    },
    /// An operator gives the group a spare drive.
    AddSpare {
        /// Names the request.
        request: RequestId,
        /// The drive.
        drive: Box<DriveFacts>,
        /// A fresh identity for it.
        identity: Uuid,
        /// Take it whatever is on it.
        force: bool,
    },
    /// An operator takes a spare drive away.
    RemoveSpare {
        /// Names the request.
        request: RequestId,
        /// Its identity.
        spare: Uuid,
    },
    /// An operator gives the group more members, over which its rows are laid out anew.
    Expand {
        /// Names the request.
        request: RequestId,
        /// The drives, in order of the new members.
        drives: Vec<DriveFacts>,
        /// A fresh identity for each.
        identities: Vec<Uuid>,
        /// Take them whatever is on them.
        force: bool,
    },
    /// This is in the scratch area of an expansion, flushed on all members; or is about to be there: [`ScratchState::Dirty`] is durable
    /// before anything is written there.
    ExpansionScratch(ScratchState),
    /// Rows below `frontier` are laid out anew, and all members were flushed afterwards.
    ExpansionProgress {
        /// First row that is left.
        frontier: u64,
    },
    /// A [`Restore`](crate::amf::expansion::Restore) has come this far with what an expansion had left in the scratch area; instead of
    /// [`Event::Start`].
    Restored(ExpansionRecord),
    /// Rows below `rows` have been rebuilt onto the members under rebuild, which were flushed afterwards.
    RebuildProgress {
        /// Which work, as [`Action::RebuildNeeded`] called it; ignored if that is over.
        wave: u64,
        /// First row that is left.
        rows: u64,
    },
    /// Every row has been rebuilt, and the members were flushed afterwards.
    RebuildDone {
        /// Which work, as [`Action::RebuildNeeded`] called it; ignored if that is over.
        wave: u64,
    },
    /// A scrub has come to this row; 0 once it is through.
    ScrubProgress {
        /// First row that is left.
        row: u64,
    },
    /// What is marked in [`Group::intent`] at this moment shall be durable.
    PersistIntent {
        /// Names the request.
        request: RequestId,
    },
    /// The list of lost blocks ([`Group::lost_blocks`]) as it is at this moment shall be durable.
    PersistLost {
        /// Names the request.
        request: RequestId,
    },
    /// A page of a virtual disk's reservations shall be durable ([`super::reserving`]).
    PersistPage(PageWrite),
    /// Close the group: host commands have drained and the members were flushed afterwards.
    Stop,
}

/// What the runtime has to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write a record, a page of the write-intent bitmap or of reservations, or the list of lost blocks, with Force Unit Access and answer [`Event::SuperblockWritten`].
    WriteSuperblock {
        /// Names the write.
        io: SuperblockIo,
        /// To which drive, by its place in the configuration.
        drive: u16,
        /// Where, in bytes from the start of the drive; a multiple of 4096.
        offset_bytes: u64,
        /// What.
        record: Box<[u8; RECORD_BYTES]>,
    },
    /// From the next [`Action::Members`] on another drive carries this member, which is lost until then. No command for the
    /// old drive may be under way when the change is made.
    MemberDrive {
        /// Which member.
        member: MemberIndex,
        /// Its drive, by its place in the configuration.
        drive: u16,
    },
    /// From the [`Action::Members`] that follows on blocks lie like this; durable. Engines are told unless only what is in the
    /// scratch area differs.
    Layout {
        /// Where every block is.
        layout: Layout,
        /// What the superblocks say of the expansion; `None` when it is over.
        expansion: Option<ExpansionRecord>,
    },
    /// The answer to [`Event::Restored`]: all writes were answered, and the group is to be assembled once more.
    Restored,
    /// These members are usable from now on; durable. Goes to every engine.
    Members(MemberSet),
    /// Writes may be acknowledged from memory: it is durable that they may be lost.
    RamAllowed,
    /// It is durable that no acknowledged write can be lost.
    RamCleared,
    /// The answer to [`Event::LanesOver`]: that is durable.
    LanesOver(LanesOver),
    /// Everything that was marked in [`Group::intent`] when this was asked for is durable.
    IntentDurable {
        /// Which request.
        request: RequestId,
    },
    /// The list of lost blocks is durable as it was when this was asked for.
    LostDurable {
        /// Which request.
        request: RequestId,
    },
    /// The page is durable.
    PageDurable {
        /// Which request.
        request: RequestId,
    },
    /// Host commands are welcome.
    Started,
    /// A virtual disk is there.
    VdiskAdded(VdiskRecord),
    /// A virtual disk has got larger.
    VdiskResized(VdiskRecord),
    /// Other nodes serve a virtual disk than before, or its writes are done at another time.
    VdiskChanged(VdiskRecord),
    /// A virtual disk goes: take the namespace away, drain its commands, then send [`Event::VdiskDrained`].
    VdiskRemoved {
        /// Which one.
        nsid: u32,
    },
    /// The answer to a request.
    Reply {
        /// Which request.
        request: RequestId,
        /// How it ended.
        result: Result<Answer, RequestError>,
    },
    /// The group cannot go on. Nothing is written any more; engines take `members`, under which no write succeeds.
    GroupFailed {
        /// Why.
        why: FailReason,
        /// What engines are told. Not durable, and meant not to be.
        members: MemberSet,
    },
    /// The group is closed.
    Stopped {
        /// Whether "clean" is durable on all live members.
        clean: bool,
    },
    /// Rows have to be rebuilt onto members; whatever an earlier one of these asked for is over.
    RebuildNeeded(RebuildWork),
    /// The members of this work are rebuilt, or lost.
    RebuildOver {
        /// Which work.
        wave: u64,
    },
    /// A fact for the log and the counters.
    Report(Report),
}

/// Members that are to be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildWork {
    /// Names this work: a member that is lost and replaced once more begins another.
    pub wave: u64,
    /// The members, as a mask.
    pub members: u32,
    /// First row that is left.
    pub from_row: u64,
    /// Only rows that are marked in [`Group::intent`] need it.
    pub partial: bool,
}

/// A request that was carried out, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The virtual disk as it is.
    VdiskCreated(VdiskRecord),
    /// The virtual disk as it is by now.
    VdiskResized(VdiskRecord),
    /// The virtual disk as it is by now.
    VdiskChanged(VdiskRecord),
    /// The group has its new members, and its rows are being laid out anew.
    Expanding,
    /// The virtual disk is gone and its extent free.
    VdiskDeleted {
        /// Which one.
        nsid: u32,
    },
    /// The member is out.
    MemberFailed {
        /// Which one.
        member: MemberIndex,
    },
    /// The member has its drive and is being rebuilt.
    MemberReplaced {
        /// Which one.
        member: MemberIndex,
        /// Only rows that were written meanwhile.
        partial: bool,
    },
    /// The drive is a spare.
    SpareAdded {
        /// Its identity.
        spare: Uuid,
    },
    /// The drive is blank and free.
    SpareRemoved {
        /// What its identity was.
        spare: Uuid,
    },
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The group is opening, stopping or stopped.
    #[error("the group is not open: wait for it, or start it")]
    NotOpen,
    /// Another node leads the group.
    #[error("another node leads this group: ask that one")]
    Led,
    /// The group has failed.
    #[error("the group has failed: see its reason, repair its drives and restart it")]
    GroupFailed,
    /// Too many requests at once.
    #[error("{REQUESTS_MAX} requests are waiting already: try again later")]
    Busy,
    /// No such member.
    #[error("the group has no member {0}: list it to see its members")]
    NoSuchMember(u8),
    /// The member is out already.
    #[error("member {0} is out already")]
    AlreadyLost(u8),
    /// Without this member the data is gone.
    #[error(
        "without member {0} the group would lose its data: bring lost members back first if there are any, or use force"
    )]
    WouldLoseData(u8),
    /// The parity does not yet fit the data.
    #[error(
        "the group is resynchronising after an unclean stop and needs member {0} for that: wait for the end, or use force"
    )]
    Resynchronising(u8),
    /// No such virtual disk.
    #[error("the group has no virtual disk with namespace {0}: list them to see their numbers")]
    NoSuchVdisk(u32),
    /// It is being deleted already.
    #[error("namespace {0} is being deleted already")]
    AlreadyLeaving(u32),
    /// The node serves it already.
    #[error("the virtual disk has a port at node {0} already")]
    PortExists(Slot),
    /// The node does not serve it.
    #[error("the virtual disk has no port at node {0}: list its ports to see where it has some")]
    NoSuchPort(Slot),
    /// No other node serves it.
    #[error(
        "node {0} has the last port of the virtual disk, and no host could use it any more: add another one first, or use --force"
    )]
    LastPort(Slot),
    /// The name is taken.
    #[error("a virtual disk of this name exists: choose another name, or delete it first")]
    NameTaken,
    /// The NSID is taken.
    #[error("namespace {0} exists: choose another number, or leave it out")]
    NsidTaken(u32),
    /// The NSID is 0 or FFFFFFFFh.
    #[error("namespace numbers are 1 to 4294967294, not {0}")]
    Nsid(u32),
    /// UUID nil, or UUID or NGUID taken.
    #[error("the UUID or NGUID is nil or belongs to another virtual disk: use fresh ones")]
    Identity,
    /// Zero blocks.
    #[error("a virtual disk has at least one block: ask for a larger one")]
    Empty,
    /// No free extent is large enough.
    #[error("no free extent is large enough: the largest has {largest_free_blocks} blocks")]
    NoSpace {
        /// Blocks of the largest free extent.
        largest_free_blocks: u64,
    },
    /// The table is full.
    #[error("the group has {VDISKS_MAX} virtual disks, which is the most: delete one first")]
    TooManyVdisks,
    /// It would get smaller, or stay as it is.
    #[error("the virtual disk has {blocks} blocks, and only grows: ask for more")]
    Shrinks {
        /// What it has.
        blocks: u64,
    },
    /// Something is behind it.
    #[error(
        "the virtual disk can have {blocks_max} blocks at most where it is: delete the one behind it, or expand the group"
    )]
    NoSpaceBehind {
        /// The most that it can have.
        blocks_max: u64,
    },
    /// An expansion is going on.
    #[error("an expansion of the group is going on: wait for its end")]
    ExpansionRunning,
    /// More members would not hold more.
    #[error("members of a raid1 group all hold the same: copy the data to a new raid10 group instead")]
    NotExpandable,
    /// No drive was named.
    #[error("an expansion needs drives: name at least one")]
    NoDrives,
    /// More than 32.
    #[error("a group has at most {MEMBERS_MAX} members: add fewer")]
    TooManyMembers,
    /// Rows of an even and of an odd number of members differ.
    #[error("a raid10 group grows by an even number of drives: add one more, or one less")]
    OddNumber,
    /// A member is lost or being rebuilt, or check data is still being computed.
    #[error(
        "the group is degraded, being rebuilt or being synchronised: an expansion begins when every member is in use and that is over"
    )]
    NotHealthy,
    /// One drive twice.
    #[error("a drive is named twice: name each once")]
    DriveTwice,
    /// The group was made without room for it.
    #[error(
        "the group was made without room for the first rows of an expansion: copy the data to a new group with more drives"
    )]
    NoScratch,
    /// Longer rows do not fit the journal.
    #[error(
        "the journal is too small for rows over so many drives: restart the node with fewer cores, or copy the data to a new group"
    )]
    ShortLanes,
    /// The group is tiny.
    #[error("the group has too few rows to be laid out over so many drives: copy the data to a new group")]
    TooFewRows,
    /// The level has no redundancy.
    #[error("the group has no redundancy, so that nothing could be rebuilt: make a group of another level")]
    NoRedundancy,
    /// The member is in use.
    #[error("member {0} is in use: fail it first")]
    NotLost(u8),
    /// Another member is being rebuilt.
    #[error("a member is being rebuilt: wait for its end")]
    RebuildRunning,
    /// The drive serves already.
    #[error("the drive is in use by a group of this node: choose another one")]
    DriveInUse,
    /// The drive is too small.
    #[error("the drive has {bytes} bytes, a member of this group {needed}: use a larger one")]
    DriveTooSmall {
        /// Its size.
        bytes: u64,
        /// What is needed.
        needed: u64,
    },
    /// The drive's blocks are too large.
    #[error(
        "the drive has blocks of {logical_block} bytes, the group of {block}: use a drive with smaller ones"
    )]
    DriveBlock {
        /// Its block in bytes.
        logical_block: u32,
        /// Block of the group in bytes.
        block: u32,
    },
    /// Something is on the drive.
    #[error("the drive carries {what}: choose another one, or use force to destroy that")]
    DriveNotBlank {
        /// What.
        what: DriveContent,
    },
    /// The drive cannot be read.
    #[error("the drive cannot be read: check or replace it")]
    DriveUnreadable,
    /// All places for spares are taken.
    #[error("the group has {SPARES_MAX} spare drives, which is the most: remove one first")]
    TooManySpares,
    /// No such spare.
    #[error("the drive is no spare of this group: list them to see their names")]
    NoSuchSpare,
    /// The drive did not take its superblock.
    #[error("the drive could not be written: check or replace it")]
    DriveRefused,
}

/// What is on a drive that ought to be blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DriveContent {
    /// Of another program.
    #[error("{0}")]
    Foreign(&'static str),
    /// A superblock that cannot be read.
    #[error("a damaged Braid superblock")]
    Damaged,
    /// Two groups.
    #[error("superblocks of two groups")]
    Mixed,
    /// A member or spare of another group.
    #[error("a part of another group ({0})")]
    OtherGroup(Uuid),
    /// Another member's data.
    #[error("data of another member of this group")]
    OtherMember,
}

/// Why a group cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FailReason {
    /// More members are lost than the level survives.
    #[error("more members are lost than the level survives: bring them back, then restart the group")]
    TooManyMembersLost,
    /// A member was lost before the parity could be made to fit the data after an unclean stop.
    #[error(
        "a member was lost while the parity was not yet resynchronised: bring it back, or accept a dirty degraded start"
    )]
    ParityUntrusted,
    /// A drive failed while the group was being created.
    #[error("a drive failed while the group was being created: replace it and create the group again")]
    CreationFailed,
    /// The journal has no room for so many cores.
    #[error(
        "the journal is too small for {0} cores: start with fewer cores, or make the group again with a larger journal"
    )]
    JournalTooSmall(u16),
    /// The generation counter is at its end.
    #[error("the generation counter is used up: copy the data to a new group")]
    GenerationsUsedUp,
}

/// Facts for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A member is on its way out.
    MemberLost {
        /// Which one.
        member: MemberIndex,
        /// Why.
        reason: LossReason,
    },
    /// A member lagged one update behind and is being brought up to date.
    MemberRolledForward {
        /// Which one.
        member: MemberIndex,
    },
    /// Copies of a member's record were damaged, and are rewritten.
    CopiesRewritten {
        /// Which one.
        member: MemberIndex,
    },
    /// A generation is durable.
    Durable(MemberSet),
    /// The journal was replayed.
    Replayed {
        /// Rows that were brought up to date.
        rows: u64,
    },
    /// Writes that were acknowledged from memory alone are lost, as the operator accepted.
    LostWritesAccepted,
    /// A spare drive takes a lost member's place.
    SpareTaken {
        /// Which member.
        member: MemberIndex,
        /// The drive, by its place in the configuration.
        drive: u16,
    },
    /// A spare drive could not take a superblock and is none any more.
    SpareLost {
        /// Its identity.
        spare: Uuid,
        /// What the drive said.
        error: DriveError,
    },
    /// A member is rebuilt and in use.
    MemberRebuilt {
        /// Which one.
        member: MemberIndex,
    },
    /// Rows have to be resynchronised, from this one on.
    ResyncNeeded {
        /// First row.
        from_row: u64,
        /// After an unclean stop, and not just because the group is new.
        unclean: bool,
    },
    /// Parity that may not fit the data is taken as it is, because the operator accepted that.
    DirtyDegradedAccepted,
}
