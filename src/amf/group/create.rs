//! Planning a new group: which drives, which shape.

use thiserror::Error;

use super::DriveFacts;
use crate::amf::MEMBERS_MAX;
use crate::amf::geometry::{Geometry, Level, ROWS_MAX};
use crate::amf::journal::lane_blocks_min;
use crate::amf::superblock::{
    Durability, Found, GroupRecord, HEAD_BYTES, INTENT_PAGE_BITS, IntentRecord, JournalRecord, LaneFloors,
    MemberRecord, MemberState, Name, ParityState, RECORD_BYTES, STRIP_BYTES, TAIL_BYTES, Uuid, tail_start,
};
use crate::drive::block::{BlockSize, MemberLba};

/// Smallest drive of any group: head, tail and one of the smallest strips.
pub const DRIVE_BYTES_MIN: u64 = HEAD_BYTES + TAIL_BYTES + *STRIP_BYTES.start();

/// Most pages of a write-intent bitmap: 256 KiB are soon read and written, and two million bits are fine enough.
const INTENT_PAGES_MAX: u64 = 64;

/// Lanes that a new group's journal has room for if nobody says otherwise.
const DEFAULT_LANES: u16 = 4;

/// Most bytes of a journal if nobody says otherwise.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// A group to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Its name.
    pub name: Name,
    /// How it protects its data.
    pub level: Level,
    /// Bytes of a strip: a power of two, 4 KiB to 1 MiB.
    pub strip_bytes: u32,
    /// Size of a block.
    pub block: BlockSize,
    /// When a host's write counts as done; `None` exactly where the level has no redundancy.
    pub durability: Durability,
    /// Bytes of the journal on each member; what suits the drives if `None`.
    pub journal_bytes: Option<u64>,
    /// One node alone will open these drives (PROTOCOL 3.6).
    pub exclusive_local: bool,
    /// Every drive is known to hold only zeroes, whose parity is right as it is: there is nothing to resynchronise.
    /// Means nothing where the level has no parity.
    pub zeroed: bool,
    /// Overwrite what is on the drives.
    pub force: bool,
    /// Its drives, in order of members.
    pub drives: Vec<DriveFacts>,
}

/// Fresh identities, made where randomness is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateIds {
    /// The array.
    pub array: Uuid,
    /// The group.
    pub group: Uuid,
    /// One per drive.
    pub drives: Vec<Uuid>,
}

/// One member of a new group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CreationMember {
    pub(super) index: u16,
    pub(super) label: String,
    pub(super) bytes: u64,
    /// Other signatures have to go.
    pub(super) wipe: bool,
}

/// A checked plan; `Group::form` carries it out. Nothing has been written yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    pub(super) record: GroupRecord,
    pub(super) members: Vec<CreationMember>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
}

impl Creation {
    /// What the group will be.
    pub const fn record(&self) -> &GroupRecord {
        &self.record
    }
}

/// Legal, and maybe not what was meant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Warning {
    /// Part of a drive stays unused.
    #[error("drive {label}: {unused_bytes} bytes stay unused, because the smallest drive decides")]
    Unused {
        /// Which drive.
        label: String,
        /// How much.
        unused_bytes: u64,
    },
    /// A block may be torn by a power cut.
    #[error(
        "drive {label} writes {logical_block} bytes whole: a power cut may tear a block of {block_bytes}; use a drive with larger blocks or a group with smaller ones"
    )]
    Torn {
        /// Which drive.
        label: String,
        /// What it writes whole, in bytes.
        logical_block: u32,
        /// Block of the group in bytes.
        block_bytes: u32,
    },
    /// Something is overwritten.
    #[error("drive {label}: {what} is overwritten")]
    Overwritten {
        /// Which drive.
        label: String,
        /// What was there.
        what: String,
    },
}

/// Why a group cannot be created.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CreateError {
    /// Too few drives.
    #[error("{} needs {needed} or more drives, {given} are given: add drives", level.name())]
    TooFewDrives {
        /// The level.
        level: Level,
        /// How many it needs.
        needed: usize,
        /// How many are given.
        given: usize,
    },
    /// Too many drives.
    #[error("a group has at most {MEMBERS_MAX} drives, {given} are given: make two groups")]
    TooManyDrives {
        /// How many are given.
        given: usize,
    },
    /// The strip is no legal length.
    #[error(
        "a strip of {strip_bytes} bytes: choose a power of two from 4096 to 1048576 that is a multiple of the block ({block_bytes})"
    )]
    Strip {
        /// What was asked for.
        strip_bytes: u32,
        /// Block of the group in bytes.
        block_bytes: u32,
    },
    /// A drive is given twice.
    #[error("drive {label} is given twice: name each drive once")]
    DriveTwice {
        /// Which drive.
        label: String,
    },
    /// A drive is too small.
    #[error("drive {label} has {bytes} bytes, at least {needed} are needed: use a larger drive")]
    DriveTooSmall {
        /// Which drive.
        label: String,
        /// Its size.
        bytes: u64,
        /// What is needed.
        needed: u64,
    },
    /// A drive's blocks are larger than the group's.
    #[error(
        "drive {label} has blocks of {logical_block} bytes, the group of {block_bytes}: choose that block size"
    )]
    BlockTooSmall {
        /// Which drive.
        label: String,
        /// Its block in bytes.
        logical_block: u32,
        /// Block of the group in bytes.
        block_bytes: u32,
    },
    /// A running group uses the drive.
    #[error("drive {label} is in use by a group of this node: stop that group first")]
    InUse {
        /// Which drive.
        label: String,
    },
    /// The drive belongs to a group.
    #[error(
        "drive {label} belongs to group {group} ({uuid}): choose another drive, or use force to destroy that group"
    )]
    BelongsToGroup {
        /// Which drive.
        label: String,
        /// Name of the group.
        group: Name,
        /// The group.
        uuid: Uuid,
    },
    /// The drive has records of two groups.
    #[error(
        "drive {label} carries superblocks of two groups: find out which one is right, or use force to destroy both"
    )]
    TwoGroups {
        /// Which drive.
        label: String,
    },
    /// The drive carries something else.
    #[error("drive {label} carries {what}: choose another drive, or use force to destroy it")]
    Foreign {
        /// Which drive.
        label: String,
        /// What is there.
        what: String,
    },
    /// The drive cannot be read.
    #[error("drive {label} cannot be read: check or replace it")]
    Unreadable {
        /// Which drive.
        label: String,
    },
    /// The durability does not fit the level.
    #[error("durability {} with level {}: levels with redundancy have \"journal\" or \"ram\", others \"none\"", durability.name(), level.name())]
    Durability {
        /// The level.
        level: Level,
        /// What was asked for.
        durability: Durability,
    },
    /// The journal is too small, or leaves no room for data.
    #[error("a journal of {given} bytes on each drive: the group needs {least} to {most}")]
    Journal {
        /// What was asked for.
        given: u64,
        /// The least that holds the longest row operation.
        least: u64,
        /// The most that leaves room for a row.
        most: u64,
    },
    /// More rows than can be counted.
    #[error("the drives have more than 2^32 strips: choose a longer strip")]
    TooManyRows,
}

/// Checks what an operator asks for and plans the group. Writes nothing.
///
/// Panics if `ids` does not have one fresh identity for each drive.
pub fn plan_create(spec: &GroupSpec, ids: &CreateIds) -> Result<Creation, CreateError> {
    check_shape(spec)?;
    assert_eq!(
        ids.drives.len(),
        spec.drives.len(),
        "the caller makes one identity for each drive"
    );
    let mut warnings = Vec::new();
    let mut members = Vec::with_capacity(spec.drives.len());
    for (at, drive) in spec.drives.iter().enumerate() {
        let twin = |other: &DriveFacts| other.index == drive.index || other.label == drive.label;
        if spec.drives[..at].iter().any(twin) {
            return Err(CreateError::DriveTwice {
                label: drive.label.clone(),
            });
        }
        check_drive(spec, drive, &mut warnings)?;
        let wipe = check_content(drive, spec.force, &mut warnings)?;
        members.push(CreationMember {
            index: drive.index,
            label: drive.label.clone(),
            bytes: drive.bytes,
            wipe,
        });
    }
    let regions = plan_regions(spec)?;
    let rows = plan_rows(spec, regions.data_start_bytes(spec), &mut warnings)?;
    let record = compose(spec, ids, &regions, rows);
    record
        .check()
        .expect("the plan was checked field by field, and identities are fresh");
    Ok(Creation {
        record,
        members,
        warnings,
    })
}

/// The first record of a group.
fn compose(spec: &GroupSpec, ids: &CreateIds, regions: &Regions, rows: u64) -> GroupRecord {
    let block_bytes = spec.block.bytes();
    let member = |&drive: &Uuid| MemberRecord {
        drive,
        state: MemberState::Active,
        current_at: 1,
    };
    GroupRecord {
        array: ids.array,
        group: ids.group,
        name: spec.name.clone(),
        level: spec.level,
        strip_blocks: spec.strip_bytes / block_bytes,
        block: spec.block,
        data_start: MemberLba(regions.data_start_bytes(spec) / u64::from(block_bytes)),
        rows,
        generation: 1,
        previous: 0,
        clean: true,
        forming: true,
        exclusive_local: spec.exclusive_local,
        parity: if spec.zeroed || !spec.level.is_redundant() {
            ParityState::Trusted
        } else {
            ParityState::Initial { next_row: 0 }
        },
        durability: spec.durability,
        journal: regions.journal,
        dirty_ram: false,
        intent: regions.intent,
        rebuilt_rows: 0,
        rebuild_partial: false,
        scrub_row: 0,
        expansion: None,
        members: ids.drives.iter().map(member).collect(),
        spares: Vec::new(),
        vdisks: Vec::new(),
    }
}

/// What lies between head and data.
struct Regions {
    journal: Option<JournalRecord>,
    intent: Option<IntentRecord>,
    /// Left free before the data.
    scratch_bytes: u64,
}

impl Regions {
    fn data_start_bytes(&self, spec: &GroupSpec) -> u64 {
        let journal = self.journal.map_or(0, |journal| journal.blocks);
        let intent = self.intent.map_or(0, |intent| u64::from(intent.blocks));
        HEAD_BYTES + (journal + intent) * u64::from(spec.block.bytes()) + self.scratch_bytes
    }
}

/// Finds sizes and places of write-intent bitmap and journal, in this order behind the head.
fn plan_regions(spec: &GroupSpec) -> Result<Regions, CreateError> {
    if spec.durability == Durability::None {
        return Ok(Regions {
            journal: None,
            intent: None,
            scratch_bytes: scratch_bytes(spec),
        });
    }
    let block_bytes = u64::from(spec.block.bytes());
    let row_bytes = member_row_bytes(spec);
    let usable = usable_bytes(spec);
    let rows_most = (usable / row_bytes).max(1);
    let rows_per_bit = rows_most
        .div_ceil(INTENT_PAGE_BITS * INTENT_PAGES_MAX)
        .next_power_of_two();
    let mut intent = IntentRecord {
        start: MemberLba(HEAD_BYTES / block_bytes),
        blocks: 0,
        since_generation: 0,
        rows_per_bit: u32::try_from(rows_per_bit).expect("2^32 rows on 64 pages are 2^12 a bit"),
    };
    let intent_bytes = intent.pages(rows_most) * RECORD_BYTES as u64;
    intent.blocks = u32::try_from(intent_bytes / block_bytes).expect("64 pages are few blocks");
    let lane = lane_bytes_min(spec);
    let least = 2 * lane;
    let most = usable.saturating_sub(intent_bytes).saturating_sub(row_bytes);
    let wanted = spec
        .journal_bytes
        .unwrap_or_else(|| suitable_journal_bytes(usable, lane));
    if wanted < least || wanted > most {
        return Err(CreateError::Journal {
            given: wanted,
            least,
            most,
        });
    }
    let whole = JournalRecord {
        start: MemberLba(intent.start.0 + u64::from(intent.blocks)),
        blocks: (wanted - wanted % RECORD_BYTES as u64) / block_bytes,
        lane_blocks: 0,
        lanes: 0,
        incarnation: 0,
        floors: LaneFloors::default(),
    };
    let lane_blocks = u32::try_from(lane / block_bytes).expect("a lane's least is some MiB");
    let journal = (1..=DEFAULT_LANES)
        .rev()
        .find_map(|lanes| whole.with_lanes(lanes, lane_blocks, spec.block));
    Ok(Regions {
        journal: Some(journal.expect("the region has room for one lane and the one for recovery")),
        intent: Some(intent),
        scratch_bytes: 0,
    })
}

/// Room for the first rows of an expansion where no journal has any: as many as ever overlap their sources, one for each member that
/// there can be; on tiny drives a sixteenth at most, and maybe nothing.
fn scratch_bytes(spec: &GroupSpec) -> u64 {
    let row_bytes = member_row_bytes(spec);
    let rows = (usable_bytes(spec) / 16 / row_bytes).min(MEMBERS_MAX as u64);
    rows * row_bytes
}

/// Bytes of a drive for its journal if nobody says otherwise: a 64th, at least some lanes of the shortest kind, at most 1 GiB; on
/// tiny drives not more than a quarter.
fn suitable_journal_bytes(usable: u64, lane: u64) -> u64 {
    let some_lanes = (u64::from(DEFAULT_LANES) + 1) * lane;
    let suits = (usable / 64).clamp(some_lanes, JOURNAL_BYTES_MAX.max(some_lanes));
    suits.min(usable / 4).max(2 * lane)
}

/// Shortest lane of a group like this, a multiple of 4 KiB.
fn lane_bytes_min(spec: &GroupSpec) -> u64 {
    let members = u8::try_from(spec.drives.len()).expect("at most 32 drives");
    let block_bytes = u64::from(spec.block.bytes());
    let geometry = Geometry::new(
        spec.level,
        members,
        spec.strip_bytes / spec.block.bytes(),
        MemberLba(HEAD_BYTES / block_bytes),
        1,
        spec.block,
    );
    let geometry = geometry.expect("the shape was checked");
    (u64::from(lane_blocks_min(&geometry)) * block_bytes).next_multiple_of(RECORD_BYTES as u64)
}

/// Bytes behind the head of the smallest drive.
fn usable_bytes(spec: &GroupSpec) -> u64 {
    let usable = spec.drives.iter().map(usable_of);
    usable.min().expect("every level has at least one drive")
}

fn usable_of(drive: &DriveFacts) -> u64 {
    tail_start(drive.bytes).expect("too small drives were refused") - HEAD_BYTES
}

fn check_shape(spec: &GroupSpec) -> Result<(), CreateError> {
    let (given, needed) = (spec.drives.len(), drives_min(spec.level));
    if given < needed {
        return Err(CreateError::TooFewDrives {
            level: spec.level,
            needed,
            given,
        });
    }
    if given > MEMBERS_MAX {
        return Err(CreateError::TooManyDrives { given });
    }
    let (strip_bytes, block_bytes) = (spec.strip_bytes, spec.block.bytes());
    let legal = strip_bytes.is_power_of_two() && STRIP_BYTES.contains(&u64::from(strip_bytes));
    if !legal || !strip_bytes.is_multiple_of(block_bytes) {
        return Err(CreateError::Strip {
            strip_bytes,
            block_bytes,
        });
    }
    if (spec.durability == Durability::None) != spec.level.is_redundant() {
        Ok(())
    } else {
        Err(CreateError::Durability {
            level: spec.level,
            durability: spec.durability,
        })
    }
}

/// Drives that a level needs to be worth its name. Of two that may go on alone, either could claim to be the newer one.
/// Fewest drives of which a group of this level is made.
pub const fn drives_min(level: Level) -> usize {
    match level {
        Level::Raid0 => 1,
        Level::Raid1 => 2,
        Level::Raid10 | Level::Raid5 => 3,
        Level::Raid6 => 4,
        Level::RaidTp => 5,
    }
}

fn check_drive(spec: &GroupSpec, drive: &DriveFacts, warnings: &mut Vec<Warning>) -> Result<(), CreateError> {
    let label = || drive.label.clone();
    if drive.in_use {
        return Err(CreateError::InUse { label: label() });
    }
    let needed = HEAD_BYTES + TAIL_BYTES + member_row_bytes(spec);
    if drive.bytes < needed {
        return Err(CreateError::DriveTooSmall {
            label: label(),
            bytes: drive.bytes,
            needed,
        });
    }
    let (logical_block, block_bytes) = (drive.logical_block, spec.block.bytes());
    if logical_block > block_bytes {
        return Err(CreateError::BlockTooSmall {
            label: label(),
            logical_block,
            block_bytes,
        });
    }
    if logical_block < block_bytes {
        warnings.push(Warning::Torn {
            label: label(),
            logical_block,
            block_bytes,
        });
    }
    Ok(())
}

/// Whether what is on the drive may be overwritten, and whether there is anything to wipe.
fn check_content(drive: &DriveFacts, force: bool, warnings: &mut Vec<Warning>) -> Result<bool, CreateError> {
    let label = || drive.label.clone();
    let (what, refusal) = match &drive.existing {
        Found::Blank => return Ok(false),
        Found::Unreadable => return Err(CreateError::Unreadable { label: label() }),
        // Left over from a creation that was interrupted: no host ever saw that group.
        Found::Braid(scan) if scan.superblock.record.forming => return Ok(true),
        Found::Braid(scan) => {
            let (group, uuid) = (scan.superblock.record.name.clone(), scan.superblock.record.group);
            (
                format!("a member of group {group}"),
                CreateError::BelongsToGroup {
                    label: label(),
                    group,
                    uuid,
                },
            )
        }
        Found::Mixed { .. } => (
            "superblocks of two groups".to_owned(),
            CreateError::TwoGroups { label: label() },
        ),
        Found::Foreign(foreign) => (
            foreign.0.to_owned(),
            CreateError::Foreign {
                label: label(),
                what: foreign.0.to_owned(),
            },
        ),
        Found::Damaged(error) => {
            let what = format!("a damaged Braid superblock ({error})");
            (what.clone(), CreateError::Foreign { label: label(), what })
        }
    };
    if !force {
        return Err(refusal);
    }
    warnings.push(Warning::Overwritten { label: label(), what });
    Ok(true)
}

/// What each member gives to a row.
fn member_row_bytes(spec: &GroupSpec) -> u64 {
    let members = u8::try_from(spec.drives.len()).expect("at most 32 members");
    u64::from(spec.strip_bytes) * u64::from(spec.level.member_strips(members))
}

/// Rows that fit the smallest drive behind the regions.
fn plan_rows(
    spec: &GroupSpec,
    data_start_bytes: u64,
    warnings: &mut Vec<Warning>,
) -> Result<u64, CreateError> {
    let behind = data_start_bytes - HEAD_BYTES;
    let row_bytes = member_row_bytes(spec);
    let rows = (usable_bytes(spec) - behind) / row_bytes;
    for drive in &spec.drives {
        let unused_bytes = usable_of(drive) - behind - rows * row_bytes;
        if unused_bytes >= row_bytes {
            warnings.push(Warning::Unused {
                label: drive.label.clone(),
                unused_bytes,
            });
        }
    }
    assert!(rows > 0, "a drive that was not refused has room for a strip");
    if rows > ROWS_MAX {
        Err(CreateError::TooManyRows)
    } else {
        Ok(rows)
    }
}
