//! What management shows of a group: plain data.

use thiserror::Error;

use super::FailReason;
use crate::amf::MemberIndex;
use crate::amf::expansion::ExpansionRecord;
use crate::amf::geometry::Level;
use crate::amf::superblock::{Durability, JournalRecord, Name, Uuid};
use crate::drive::DriveError;
use crate::drive::block::{BlockSize, GroupLba};
use crate::drive::health::Reason;

/// What a group is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// Found, and not yet open.
    Opening,
    /// Open with every member.
    Healthy,
    /// Open with fewer members, and no data lost.
    Degraded,
    /// Closed because it could not go on.
    Failed(FailReason),
    /// Closed on request.
    Stopped,
}

/// Why a member is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LossReason {
    /// No configured drive carries it.
    #[error("no drive carries it")]
    Missing,
    /// Its drive is there with old data.
    #[error("its drive was away and has old data of generation {generation}")]
    Stale {
        /// Generation that it was last current at.
        generation: u64,
    },
    /// Its drive is too small or has too large blocks.
    #[error("its drive does not fit the group any more")]
    Unfit,
    /// An earlier run recorded it as lost.
    #[error("it failed in an earlier run, at generation {generation}")]
    Earlier {
        /// Generation that it was last current at.
        generation: u64,
    },
    /// Its drive failed on user data.
    #[error("its drive failed: {0}")]
    Drive(DriveError),
    /// Its drive answered no more, or too slowly, or erred too often.
    #[error("its drive was given up: {0}")]
    Health(Reason),
    /// Its drive could not take a superblock.
    #[error("its drive could not take a superblock: {0}")]
    Superblock(DriveError),
    /// An operator took it out.
    #[error("taken out by an operator")]
    Operator,
}

impl LossReason {
    /// The drive is just not there, or was not for a while: if it comes back it may be rebuilt without being asked for.
    pub const fn is_absence(self) -> bool {
        match self {
            Self::Missing | Self::Stale { .. } => true,
            Self::Drive(DriveError::Gone) | Self::Superblock(DriveError::Gone) => true,
            Self::Unfit | Self::Earlier { .. } | Self::Operator => false,
            Self::Drive(_) | Self::Superblock(_) | Self::Health(_) => false,
        }
    }
}

/// Whether a member is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberStatus {
    /// In use.
    Active,
    /// Being rebuilt: in use for the rows that are done.
    Rebuilding,
    /// Out, and why.
    Lost(LossReason),
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSnapshot {
    /// Which member.
    pub member: MemberIndex,
    /// Identity of its drive.
    pub drive_uuid: Uuid,
    /// Place of its drive in the configuration, if it is there.
    pub drive: Option<u16>,
    /// What the operator calls the drive, if it is there.
    pub label: Option<String>,
    /// Whether it is in use.
    pub status: MemberStatus,
    /// The last generation that is durable on it.
    pub generation: u64,
}

/// How far a resynchronisation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncSnapshot {
    /// First row that is left.
    pub next_row: u64,
    /// Rows of the group.
    pub rows: u64,
    /// After an unclean stop, and not just because the group is new.
    pub unclean: bool,
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildSnapshot {
    /// Names the work.
    pub wave: u64,
    /// The members, as a mask.
    pub members: u32,
    /// First row that is left.
    pub next_row: u64,
    /// Rows of the group.
    pub rows: u64,
    /// Only rows that were written while the member was away.
    pub partial: bool,
}

/// One spare drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpareSnapshot {
    /// Its identity.
    pub drive_uuid: Uuid,
    /// Place of its drive in the configuration, if it is there.
    pub drive: Option<u16>,
    /// What the operator calls the drive, if it is there.
    pub label: Option<String>,
}

/// One virtual disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdiskSnapshot {
    /// Namespace identifier.
    pub nsid: u32,
    /// Name.
    pub name: Name,
    /// UUID.
    pub uuid: Uuid,
    /// NGUID.
    pub nguid: [u8; 16],
    /// First block in the group.
    pub start: GroupLba,
    /// Blocks that hosts see.
    pub blocks: u64,
    /// Being deleted.
    pub leaving: bool,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// Its name.
    pub name: Name,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it is able to do.
    pub state: GroupState,
    /// How it protects its data.
    pub level: Level,
    /// Bytes of a block.
    pub block: BlockSize,
    /// Blocks of a strip.
    pub strip_blocks: u32,
    /// Rows.
    pub rows: u64,
    /// Blocks for virtual disks.
    pub capacity_blocks: u64,
    /// Blocks that no virtual disk has reserved.
    pub free_blocks: u64,
    /// The last generation that is durable on every live member.
    pub generation: u64,
    /// When a host's write counts as done.
    pub durability: Durability,
    /// The journal's region and lanes.
    pub journal: Option<JournalRecord>,
    /// Writes may have been acknowledged that are in memory alone.
    pub dirty_ram: bool,
    /// A resynchronisation that is going on or due.
    pub resync: Option<ResyncSnapshot>,
    /// A rebuild that is going on.
    pub rebuild: Option<RebuildSnapshot>,
    /// The row at which a scrub goes on.
    pub scrub_row: u64,
    /// How far an expansion is that is going on.
    pub expansion: Option<ExpansionRecord>,
    /// Every spare drive.
    pub spares: Vec<SpareSnapshot>,
    /// Every member, in order.
    pub members: Vec<MemberSnapshot>,
    /// Every virtual disk, in order of extents.
    pub vdisks: Vec<VdiskSnapshot>,
}
