//! One redundancy group as a thing that is created, assembled, opened, changed and stopped.
//!
//! Owns the group's membership and its table of virtual disks, and decides what every superblock
//! says and when. Events come in and actions go out; the runtime writes what it is told to write.
//! Knows nothing of host commands: those are the engines' business, which are told the members.
//!
//! Invariants:
//! - A [`MemberSet`] leaves this module only when its generation is durable on every member that it
//!   calls live. The one exception ends the group ([`Action::GroupFailed`]) and is never written.
//! - A member that was lost stays lost: no later generation calls it active, and no start reads it.
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

use super::superblock::{Found, Name, RECORD_BYTES, Uuid, VdiskRecord};
use super::{MemberIndex, MemberSet};
use crate::drive::DriveError;
use crate::drive::health::Reason;

pub use assemble::{
    AssembleOptions, Assembly, Candidate, DriveFinding, DriveRole, GroupFinding, MemberFinding, MemberRole,
    Refusal, assemble,
};
pub use create::{
    CreateError, CreateIds, Creation, DRIVE_BYTES_MIN, GroupSpec, Warning, drives_min, plan_create,
};
pub use machine::{Group, REQUESTS_MAX};
pub use status::{
    GroupSnapshot, GroupState, LossReason, MemberSnapshot, MemberStatus, ResyncSnapshot, VdiskSnapshot,
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
    /// What [`super::superblock::examine`] made of it.
    pub existing: Found,
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
}

/// What happens to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Open the group. Once.
    Start,
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
    /// An operator wants a virtual disk gone, and its data with it.
    DeleteVdisk {
        /// Names the request.
        request: RequestId,
        /// Which one.
        nsid: u32,
    },
    /// No command of a removed virtual disk is in flight any more; answers [`Action::VdiskRemoved`].
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
    /// Close the group: host commands have drained and the members were flushed afterwards.
    Stop,
}

/// What the runtime has to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write a record with Force Unit Access and answer [`Event::SuperblockWritten`].
    WriteSuperblock {
        /// Names the write.
        io: SuperblockIo,
        /// To which member.
        member: MemberIndex,
        /// Where, in bytes from the start of the drive; a multiple of 4096.
        offset_bytes: u64,
        /// What.
        record: Box<[u8; RECORD_BYTES]>,
    },
    /// These members are usable from now on; durable. Goes to every engine.
    Members(MemberSet),
    /// Host commands are welcome.
    Started,
    /// A virtual disk is there.
    VdiskAdded(VdiskRecord),
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
    /// A fact for the log and the counters.
    Report(Report),
}

/// A request that was carried out, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The virtual disk as it is.
    VdiskCreated(VdiskRecord),
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
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The group is opening, stopping or stopped.
    #[error("the group is not open: wait for it, or start it")]
    NotOpen,
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
    #[error("the group has 32 virtual disks, which is the most: delete one first")]
    TooManyVdisks,
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
