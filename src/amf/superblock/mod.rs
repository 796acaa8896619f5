//! The superblock: what each member drive says about its redundancy group.
//!
//! Owns the 4 KiB record, its four places on a drive and its byte layout. Every shared field of the
//! records of one generation is the same on all drives; only who carries it and the drive's size
//! differ. Knows no group at work: `group` decides what is written, and when.
//!
//! Invariants: a record that parses describes a group that could be started (shapes, extents and
//! member states fit each other), and a member's two newest records never share a slot, so that a
//! torn write leaves the one before it.

mod codec;
mod examine;
mod expanding;
mod extents;
mod regions;
#[cfg(test)]
mod samples;

use crate::amf::ParityTrust;
use std::fmt;

use thiserror::Error;

use super::expansion::ExpansionRecord;
use super::geometry::{Geometry, Level, ROWS_MAX};
use super::replication::ReplicationMode;
use super::{MEMBERS_MAX, MemberIndex, MemberSet};
use crate::drive::block::{BlockSize, GroupLba, MemberLba};
use crate::icl::SlotSet;

pub use codec::{ParseError, encode, encode_shared, parse, parse_shared};
pub use examine::{Foreign, Found, HEAD_READ_BYTES, Scan, TAIL_READ_BYTES, examine, signature};
pub use regions::{
    Durability, INTENT_PAGE_BITS, INTENT_PAGE_HEADER_BYTES, IntentRecord, JournalRecord, LANES_MAX,
    LaneFloors,
};

/// Bytes of one record: one block of a 4 KiB drive (PROTOCOL H23).
pub const RECORD_BYTES: usize = 4096;

/// Bytes at the start of each drive that hold its superblocks and nothing else.
pub const HEAD_BYTES: u64 = 1 << 20;

/// Bytes at the end of each member that hold no user data.
pub const TAIL_BYTES: u64 = 1 << 20;

/// Most virtual disks of one group: what the record has room for beside 32 members.
pub const VDISKS_MAX: usize = 28;

/// Most spare drives of one group: they wait for a member to fail, and more than a few wait in vain.
pub const SPARES_MAX: usize = 8;

/// Longest name of a group or virtual disk, in bytes.
pub const NAME_BYTES_MAX: usize = 32;

/// Smallest and largest strip, in bytes.
pub const STRIP_BYTES: std::ops::RangeInclusive<u64> = 4096..=1 << 20;

/// Largest generation: one a nanosecond would take a century to get there.
pub const GENERATION_MAX: u64 = 1 << 62;

/// Copies of the record on one drive: two slots in the head, two in the tail.
pub const COPIES: usize = 4;

/// Generations by which an ordinary update moves on.
pub(crate) const STEP: u64 = 1;

/// Generations by which a start moves on that leaves out a member the last record called active: that
/// member may hold an update that nobody else took, and must not look newer. Odd, so that slots alternate.
pub(crate) const STEP_WITHOUT_MEMBER: u64 = 3;

/// Where the tail region of a drive of this many bytes starts; `None` if the drive has no room for head and tail.
pub const fn tail_start(drive_bytes: u64) -> Option<u64> {
    let whole = drive_bytes & !(RECORD_BYTES as u64 - 1);
    if whole < HEAD_BYTES + TAIL_BYTES {
        None
    } else {
        Some(whole - TAIL_BYTES)
    }
}

/// Byte offsets of the four copies: head slot 0 and 1, tail slot 0 and 1. Slot `generation % 2` takes a record.
pub const fn copy_offsets(drive_bytes: u64) -> Option<[u64; COPIES]> {
    match tail_start(drive_bytes) {
        Some(tail) => Some([4096, 8192, tail + 4096, tail + 8192]),
        None => None,
    }
}

/// A universally unique identifier as 16 bytes in network order; made elsewhere, because making one needs randomness.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// All zeros: names nothing.
    pub const NIL: Self = Self([0; 16]);
}

impl fmt::Display for Uuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                formatter.write_str("-")?;
            }
            write!(formatter, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The name of a group or virtual disk: 1 to 32 bytes of letters, digits, `-`, `_` and `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Empty or too long.
    #[error("a name has 1 to {NAME_BYTES_MAX} bytes, this one {0}: choose a shorter one")]
    Length(usize),
    /// A byte that no name may have.
    #[error("a name has letters, digits, '-', '_' and '.' only: replace byte {0:#04x}")]
    Byte(u8),
}

impl Name {
    /// Checks a text; errs if it is no name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(NameError::Length(text.len()));
        }
        let wrong = text
            .bytes()
            .find(|byte| !byte.is_ascii_alphanumeric() && !b"-_.".contains(byte));
        wrong.map_or_else(|| Ok(Self(text.to_owned())), |byte| Err(NameError::Byte(byte)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// What a record says about one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Holds current data.
    Active,
    /// Failed while the group ran; its data is old.
    Failed,
    /// Was not there when the group started; its data is old.
    Missing,
    /// Is being filled: holds current data below the record's `rebuilt_rows`, and counts as lost beyond.
    Rebuilding,
}

impl MemberState {
    /// Whether the member's drive takes every record: it is in use, wholly or in part.
    pub const fn takes_part(self) -> bool {
        match self {
            Self::Active | Self::Rebuilding => true,
            Self::Failed | Self::Missing => false,
        }
    }
}

/// One line of a record's table of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// Identity of the drive, given to it when it came into the group.
    pub drive: Uuid,
    /// What the member is.
    pub state: MemberState,
    /// Generation at which the drive last took part; of an active member, and one that is rebuilt, the record's own.
    pub current_at: u64,
}

/// One virtual disk: a run of strips of the group, on rows of its own when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdiskRecord {
    /// Namespace identifier, `1..=0xffff_fffe`, unique in the group.
    pub nsid: u32,
    /// Name, unique in the group.
    pub name: Name,
    /// UUID of the namespace.
    pub uuid: Uuid,
    /// NGUID of the namespace.
    pub nguid: [u8; 16],
    /// First block, at the start of a strip.
    pub start: GroupLba,
    /// Blocks that hosts see. The rest of the last strip stays reserved and unused.
    pub blocks: u64,
    /// The nodes that serve it, among those that there are; see [`PORTS_ALL`].
    pub ports: SlotSet,
    /// It is on its way out: no node begins to serve it any more.
    pub leaving: bool,
    /// When a host's write is done, where that is acknowledged from memory.
    pub replication: ReplicationMode,
}

/// Ports of a virtual disk that every node serves, also one that comes later.
pub const PORTS_ALL: SlotSet = SlotSet(u8::MAX);

/// How far the check data of the group can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParityState {
    /// Every row's check data fits its data, or the level has none.
    Trusted,
    /// Never computed for rows from `next_row` on, but every row written since fits: losing a member loses no host's data.
    Initial {
        /// First row that still has to be computed.
        next_row: u64,
    },
    /// The group stopped uncleanly: any row from `next_row` on may not fit its check data.
    Resync {
        /// First row that still has to be resynchronised.
        next_row: u64,
    },
}

impl ParityState {
    /// First row to resynchronise, if any has to be.
    pub const fn next_row(self) -> Option<u64> {
        match self {
            Self::Trusted => None,
            Self::Initial { next_row } | Self::Resync { next_row } => Some(next_row),
        }
    }
}

/// What the records of all members of one generation agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The array that the group belongs to.
    pub array: Uuid,
    /// The group.
    pub group: Uuid,
    /// Its name.
    pub name: Name,
    /// How it protects its data.
    pub level: Level,
    /// Blocks of one strip, a power of two.
    pub strip_blocks: u32,
    /// Size of a block.
    pub block: BlockSize,
    /// First block of user data on each member.
    pub data_start: MemberLba,
    /// Rows, each of one strip per member.
    pub rows: u64,
    /// Version of this record; grows by one or three with each change.
    pub generation: u64,
    /// The generation that was durable on every active member before this one was written.
    pub previous: u64,
    /// The group stopped in good order, or has never run.
    pub clean: bool,
    /// Being created: no host has ever seen it.
    pub forming: bool,
    /// Drives that one node alone may open (PROTOCOL 3.6).
    pub exclusive_local: bool,
    /// How far check data can be believed.
    pub parity: ParityState,
    /// When a host's write counts as done.
    pub durability: Durability,
    /// Where the journal is; every group with redundancy has one.
    pub journal: Option<JournalRecord>,
    /// Writes may have been acknowledged that are in memory alone (PROTOCOL H45).
    pub dirty_ram: bool,
    /// Where the write-intent bitmap is; every group with redundancy has one.
    pub intent: Option<IntentRecord>,
    /// Rows below this one have been rebuilt onto the members under rebuild, durably; 0 if there are none.
    pub rebuilt_rows: u64,
    /// The members under rebuild have their old data: only rows with a set bit in the write-intent bitmap are rebuilt.
    pub rebuild_partial: bool,
    /// The row at which a scrub goes on that was interrupted; 0 if none was.
    pub scrub_row: u64,
    /// The group is being laid out anew over all members that it has now.
    pub expansion: Option<ExpansionRecord>,
    /// One line per member, from the fewest of the level to 32.
    pub members: Vec<MemberRecord>,
    /// Drives that wait to take a failed member's place.
    pub spares: Vec<Uuid>,
    /// Virtual disks, in order of their extents.
    pub vdisks: Vec<VdiskRecord>,
}

/// Who carries a copy of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    /// A member.
    Member(MemberIndex),
    /// A spare drive, by its place in the list of spares.
    Spare(u8),
}

/// The record of one drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// What all drives agree on.
    pub record: GroupRecord,
    /// Which of them this is.
    pub carrier: Carrier,
    /// Size of the drive when the record was written; the tail region ends there.
    pub drive_bytes: u64,
}

impl Superblock {
    /// Identity of the drive that carries this record.
    ///
    /// Panics if the carrier is not in the tables, which `parse` rules out.
    pub fn drive(&self) -> Uuid {
        match self.carrier {
            Carrier::Member(member) => self.record.members[usize::from(member.0)].drive,
            Carrier::Spare(spare) => self.record.spares[usize::from(spare)],
        }
    }

    /// Which member the drive is; `None` for a spare.
    pub const fn member(&self) -> Option<MemberIndex> {
        match self.carrier {
            Carrier::Member(member) => Some(member),
            Carrier::Spare(_) => None,
        }
    }

    /// Checks the record and this drive's part of it.
    pub fn check(&self) -> Result<(), RecordError> {
        self.record.check()?;
        match self.carrier {
            Carrier::Member(member) => {
                let own = self.record.members.get(usize::from(member.0));
                if !own.ok_or(RecordError::MemberIndex)?.state.takes_part() {
                    return Err(RecordError::OwnMemberLost);
                }
            }
            Carrier::Spare(spare) if usize::from(spare) >= self.record.spares.len() => {
                return Err(RecordError::MemberIndex);
            }
            Carrier::Spare(_) => {}
        }
        if self.record.fits_drive(self.drive_bytes) {
            Ok(())
        } else {
            Err(RecordError::DriveBytes)
        }
    }
}

/// Why the fields of a record do not fit each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A UUID is nil.
    #[error("an identifier is nil")]
    NilUuid,
    /// Too few or too many members.
    #[error("number of members is below what the level needs or above 32")]
    Members,
    /// The drive's place is not in the tables.
    #[error("place of the drive is beyond the table of members or spares")]
    MemberIndex,
    /// Two members or spares name one drive.
    #[error("two members or spares are the same drive")]
    DriveTwice,
    /// The drive's own line calls it lost.
    #[error("record calls its own drive lost")]
    OwnMemberLost,
    /// A member's generation contradicts its state.
    #[error("a member's generation contradicts its state")]
    MemberGeneration,
    /// More members are lost than the level survives.
    #[error("more members are lost than the level survives")]
    TooManyLost,
    /// Strip is no power of two within 4 KiB to 1 MiB.
    #[error("strip is not a power of two within 4 KiB to 1 MiB")]
    Strip,
    /// Data starts inside the head region or off a 4 KiB boundary.
    #[error("data does not start on a 4 KiB boundary after the first MiB")]
    DataStart,
    /// No rows, or more than can be counted.
    #[error("number of rows is zero or too large")]
    Size,
    /// Rows do not fit the drive.
    #[error("rows do not fit the size of the drive")]
    DriveBytes,
    /// Generation out of range or not a legal step after the previous one.
    #[error("generation is not a legal step after the previous one")]
    Generation,
    /// Resync position beyond the last row, or parity to be computed where the group is degraded or has none.
    #[error("state of the parity contradicts the rows or the members")]
    Parity,
    /// Durability and level, or durability and journal, contradict each other.
    #[error("durability does not fit the level or the journal")]
    Durability,
    /// The journal's region or its lanes.
    #[error("journal is not between head and data, or its lanes do not fit it")]
    Journal,
    /// The write-intent bitmap's region or its scale.
    #[error("write-intent bitmap is not between head and data, or does not cover the rows")]
    Intent,
    /// The position of a rebuild or scrub.
    #[error("position of a rebuild or scrub contradicts the rows or the members")]
    Progress,
    /// An expansion that goes nowhere, or is further than it can be.
    #[error("state of an expansion contradicts the members, the rows or the journal")]
    Expansion,
    /// Too many spares.
    #[error("more than {SPARES_MAX} spare drives")]
    Spares,
    /// A forming group with virtual disks or an open one.
    #[error("group is being created and already has virtual disks or is open")]
    Forming,
    /// Too many virtual disks.
    #[error("more than {VDISKS_MAX} virtual disks")]
    Vdisks,
    /// Namespace identifier is 0 or FFFFFFFFh.
    #[error("namespace identifier is 0 or FFFFFFFFh")]
    Nsid,
    /// Two virtual disks share name, NSID, UUID or NGUID.
    #[error("two virtual disks share an identity")]
    VdiskTwice,
    /// A virtual disk that overlaps another, is empty, off a row, or beyond the group.
    #[error("extent of a virtual disk is not inside the group, on strips of its own")]
    Extent,
}

impl GroupRecord {
    /// Members of one row that hold data, in the layout by which capacity is counted.
    pub fn data_members(&self) -> u8 {
        self.level.data_columns(self.host_width())
    }

    /// How many members may be lost, whichever they are.
    pub fn losses_max(&self) -> u8 {
        u8::try_from(self.level.losses_max(self.width())).expect("fewer than 32 members")
    }

    /// All members, as a mask.
    pub fn members_mask(&self) -> u32 {
        u32::MAX >> (u32::BITS - u32::from(self.width()))
    }

    fn width(&self) -> u8 {
        u8::try_from(self.members.len()).expect("a record has at most 32 members")
    }

    /// Blocks of user data of one row, in the layout by which capacity is counted.
    pub fn row_blocks(&self) -> u64 {
        u64::from(self.data_members()) * u64::from(self.strip_blocks)
    }

    /// Blocks of user data of the group; until an expansion is over, as many as before it.
    pub fn capacity_blocks(&self) -> u64 {
        self.rows * self.row_blocks()
    }

    /// Whether a member may be lost at all.
    pub fn is_redundant(&self) -> bool {
        self.level.is_redundant()
    }

    /// The members that are lost, wholly or from the rebuilt rows on, as a mask.
    pub fn failed_mask(&self) -> u32 {
        self.mask_of(|state| state != MemberState::Active)
    }

    /// The members that are being rebuilt, as a mask; a part of those that are lost.
    pub fn rebuilding_mask(&self) -> u32 {
        self.mask_of(|state| state == MemberState::Rebuilding)
    }

    fn mask_of(&self, is_meant: impl Fn(MemberState) -> bool) -> u32 {
        let members = self.members.iter().enumerate();
        let meant = members.filter(|(_, member)| is_meant(member.state));
        meant.fold(0, |mask, (index, _)| mask | 1 << index)
    }

    /// What the engines are told once this record is durable.
    pub fn member_set(&self) -> MemberSet {
        MemberSet {
            generation: self.generation,
            failed: self.failed_mask(),
            parity: match self.parity {
                ParityState::Trusted => ParityTrust::Everywhere,
                ParityState::Initial { .. } => ParityTrust::WhereWritten,
                ParityState::Resync { .. } => ParityTrust::Nowhere,
            },
            rebuilding: self.rebuilding_mask(),
            rebuilt_rows: self.rebuilt_rows,
        }
    }

    /// Where the blocks of this group live: over all members, whether or not an expansion has got there yet.
    ///
    /// Panics if the record was never checked.
    pub fn geometry(&self) -> Geometry {
        Geometry::new(
            self.level,
            self.width(),
            self.strip_blocks,
            self.data_start,
            self.rows,
            self.block,
        )
        .expect("a checked record describes a geometry")
    }

    /// Whether a drive of this many bytes has room for a member of this group.
    pub fn fits_drive(&self, drive_bytes: u64) -> bool {
        self.data_end_bytes()
            .zip(tail_start(drive_bytes))
            .is_some_and(|(end, tail)| end <= tail)
    }

    /// Smallest drive that can be a member of this group.
    ///
    /// Panics if the record was never checked.
    pub fn drive_bytes_min(&self) -> u64 {
        let end = self
            .data_end_bytes()
            .expect("a checked record's data ends somewhere");
        end.next_multiple_of(RECORD_BYTES as u64) + TAIL_BYTES
    }

    /// Bytes from the start of a member to the end of its data.
    fn data_end_bytes(&self) -> Option<u64> {
        let strips = self
            .rows
            .checked_mul(u64::from(self.level.member_strips(self.width())))?;
        let blocks = strips.checked_mul(u64::from(self.strip_blocks))?;
        blocks
            .checked_add(self.data_start.0)?
            .checked_mul(u64::from(self.block.bytes()))
    }

    /// Checks every field against every other; `Ok` means that the group could be started from it.
    pub fn check(&self) -> Result<(), RecordError> {
        self.check_shape()?;
        self.check_widening()?;
        self.check_members()?;
        self.check_spares()?;
        let step = self
            .generation
            .checked_sub(self.previous)
            .ok_or(RecordError::Generation)?;
        let first = self.generation == 1 && self.previous == 0;
        if self.generation > GENERATION_MAX || !(first || step == STEP || step == STEP_WITHOUT_MEMBER) {
            return Err(RecordError::Generation);
        }
        let beyond = self.parity.next_row().is_some_and(|row| row > self.rows);
        let fits = match self.parity {
            ParityState::Trusted => true,
            ParityState::Initial { .. } => self.level.is_redundant(),
            // A degraded group lives by its check data.
            ParityState::Resync { .. } => self.level.is_redundant() && self.failed_mask() == 0,
        };
        if beyond || !fits {
            return Err(RecordError::Parity);
        }
        if self.forming && !(self.clean && self.vdisks.is_empty()) {
            return Err(RecordError::Forming);
        }
        self.check_regions()?;
        self.check_progress()?;
        self.check_expansion()?;
        self.check_vdisks()
    }

    fn check_shape(&self) -> Result<(), RecordError> {
        if self.array == Uuid::NIL || self.group == Uuid::NIL {
            return Err(RecordError::NilUuid);
        }
        let members_min = usize::from(self.level.members_min());
        if !(members_min..=MEMBERS_MAX).contains(&self.members.len()) {
            return Err(RecordError::Members);
        }
        let strip_bytes = u64::from(self.strip_blocks) * u64::from(self.block.bytes());
        if !self.strip_blocks.is_power_of_two() || !STRIP_BYTES.contains(&strip_bytes) {
            return Err(RecordError::Strip);
        }
        let start = self
            .data_start
            .0
            .checked_mul(u64::from(self.block.bytes()))
            .ok_or(RecordError::DataStart)?;
        if start < HEAD_BYTES || !start.is_multiple_of(RECORD_BYTES as u64) {
            return Err(RecordError::DataStart);
        }
        // The whole group in bytes has to fit 64 bits, so that no product below can overflow.
        let strips = self.members.len() as u64 * u64::from(self.level.member_strips(self.width()));
        let row_bytes = strip_bytes * strips;
        let rows = 1..=ROWS_MAX;
        if !rows.contains(&self.rows)
            || self.rows.checked_mul(row_bytes).is_none()
            || self.data_end_bytes().is_none()
        {
            return Err(RecordError::Size);
        }
        Ok(())
    }

    fn check_regions(&self) -> Result<(), RecordError> {
        let journaled = self.durability != Durability::None;
        let complete = self.journal.is_some() == journaled && self.intent.is_some() == journaled;
        if journaled != self.is_redundant()
            || !complete
            || (self.dirty_ram && self.durability != Durability::Ram)
        {
            return Err(RecordError::Durability);
        }
        regions::check_places(
            self.journal.as_ref(),
            self.intent.as_ref(),
            self.data_start,
            self.block,
        )?;
        if let Some(journal) = &self.journal {
            journal.check(self.block)?;
        }
        if let Some(intent) = &self.intent {
            intent.check(self.rows, self.generation, self.block)?;
            // A lost member may come back: what it misses is kept from the moment on at which it was lost.
            if (self.failed_mask() != 0) != (intent.since_generation != 0) {
                return Err(RecordError::Intent);
            }
        }
        Ok(())
    }

    fn check_progress(&self) -> Result<(), RecordError> {
        let rebuilding = self.rebuilding_mask() != 0;
        let sound = self.rebuilt_rows <= self.rows
            && (rebuilding || (self.rebuilt_rows == 0 && !self.rebuild_partial));
        if sound && self.scrub_row <= self.rows {
            Ok(())
        } else {
            Err(RecordError::Progress)
        }
    }

    fn check_spares(&self) -> Result<(), RecordError> {
        if self.spares.len() > SPARES_MAX {
            return Err(RecordError::Spares);
        }
        for (index, spare) in self.spares.iter().enumerate() {
            if *spare == Uuid::NIL {
                return Err(RecordError::NilUuid);
            }
            if self.spares[..index].contains(spare)
                || self.members.iter().any(|member| member.drive == *spare)
            {
                return Err(RecordError::DriveTwice);
            }
        }
        Ok(())
    }

    fn check_members(&self) -> Result<(), RecordError> {
        for (index, member) in self.members.iter().enumerate() {
            if member.drive == Uuid::NIL {
                return Err(RecordError::NilUuid);
            }
            if self.members[..index]
                .iter()
                .any(|other| other.drive == member.drive)
            {
                return Err(RecordError::DriveTwice);
            }
            let fits = match member.state {
                MemberState::Active => member.current_at == self.generation,
                MemberState::Rebuilding => member.current_at == self.generation,
                MemberState::Failed | MemberState::Missing => member.current_at < self.generation,
            };
            if !fits {
                return Err(RecordError::MemberGeneration);
            }
        }
        if !self.survives(self.failed_mask()) {
            return Err(RecordError::TooManyLost);
        }
        Ok(())
    }
}

const _: () = assert!(
    STEP % 2 == 1 && STEP_WITHOUT_MEMBER % 2 == 1,
    "newest and second newest use different slots"
);

#[cfg(test)]
mod tests {
    use super::samples::{full, small, striped};
    use super::*;

    /// Changes one thing in a sound record and returns what the check says.
    fn broken(change: impl FnOnce(&mut Superblock)) -> Result<(), RecordError> {
        let mut superblock = small();
        change(&mut superblock);
        superblock.check()
    }

    #[test]
    fn sound_records_pass() {
        for superblock in [small(), full(), striped(1), striped(3), striped(32)] {
            assert_eq!(superblock.check(), Ok(()));
            let geometry = superblock.record.geometry();
            assert_eq!(geometry.capacity_blocks(), superblock.record.capacity_blocks());
            assert_eq!(u64::from(geometry.row_blocks()), superblock.record.row_blocks());
        }
    }

    #[test]
    fn without_redundancy_no_member_is_lost_and_there_is_no_parity_to_compute() {
        let broken = |change: fn(&mut Superblock)| {
            let mut superblock = striped(2);
            change(&mut superblock);
            superblock.check()
        };
        let none = broken(|s| s.record.members.clear());
        assert_eq!(none, Err(RecordError::Members));
        for state in [MemberState::Failed, MemberState::Missing] {
            let mut lost = striped(2);
            (lost.record.members[0].state, lost.record.members[0].current_at) = (state, 1);
            assert_eq!(lost.check(), Err(RecordError::TooManyLost));
        }
        let initial = broken(|s| s.record.parity = ParityState::Initial { next_row: 0 });
        let resync = broken(|s| s.record.parity = ParityState::Resync { next_row: 32 });
        assert_eq!(
            (initial, resync),
            (Err(RecordError::Parity), Err(RecordError::Parity))
        );
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        assert_eq!(broken(|s| s.record.array = Uuid::NIL), Err(RecordError::NilUuid));
        assert_eq!(broken(|s| s.record.group = Uuid::NIL), Err(RecordError::NilUuid));
        assert_eq!(
            broken(|s| s.record.members.truncate(1)),
            Err(RecordError::Members)
        );
        for strip_blocks in [0, 3, 512, 1 << 31] {
            assert_eq!(
                broken(|s| s.record.strip_blocks = strip_blocks),
                Err(RecordError::Strip)
            );
        }
        for start in [0, 255, u64::MAX, 1 << 60] {
            let error = broken(|s| s.record.data_start = MemberLba(start)).unwrap_err();
            assert!(matches!(
                error,
                RecordError::DataStart | RecordError::Size | RecordError::DriveBytes
            ));
        }
        for rows in [0, ROWS_MAX + 1, u64::MAX] {
            assert_eq!(broken(|s| s.record.rows = rows), Err(RecordError::Size));
        }
    }

    #[test]
    fn rows_that_do_not_fit_the_drive_are_refused() {
        assert_eq!(broken(|s| s.drive_bytes -= 1), Err(RecordError::DriveBytes));
        assert_eq!(broken(|s| s.drive_bytes = 0), Err(RecordError::DriveBytes));
        assert_eq!(broken(|s| s.record.rows += 1), Err(RecordError::DriveBytes));
        assert_eq!(broken(|s| s.drive_bytes = u64::MAX), Ok(()));
    }

    #[test]
    fn members_that_contradict_the_record_are_refused() {
        let lost = |state, current_at| {
            move |s: &mut Superblock| {
                s.record.parity = ParityState::Trusted;
                (s.record.members[0].state, s.record.members[0].current_at) = (state, current_at);
                let intent = s.record.intent.as_mut().unwrap();
                intent.since_generation = current_at;
            }
        };
        assert_eq!(broken(lost(MemberState::Failed, 8)), Ok(()));
        assert_eq!(
            broken(lost(MemberState::Failed, 9)),
            Err(RecordError::MemberGeneration)
        );
        assert_eq!(
            broken(lost(MemberState::Active, 8)),
            Err(RecordError::MemberGeneration)
        );
        assert_eq!(
            broken(|s| s.carrier = Carrier::Member(MemberIndex(3))),
            Err(RecordError::MemberIndex)
        );
        let twice = broken(|s| s.record.members[0].drive = s.record.members[2].drive);
        assert_eq!(twice, Err(RecordError::DriveTwice));
        let nil = broken(|s| s.record.members[0].drive = Uuid::NIL);
        assert_eq!(nil, Err(RecordError::NilUuid));
        let own = broken(|s| {
            lost(MemberState::Missing, 1)(s);
            s.carrier = Carrier::Member(MemberIndex(0));
        });
        assert_eq!(own, Err(RecordError::OwnMemberLost));
        let two = broken(|s| {
            lost(MemberState::Missing, 1)(s);
            (s.record.members[2].state, s.record.members[2].current_at) = (MemberState::Failed, 1);
        });
        assert_eq!(two, Err(RecordError::TooManyLost));
    }

    #[test]
    fn generations_go_in_legal_steps() {
        for (previous, legal) in [
            (9, false),
            (8, true),
            (7, false),
            (6, true),
            (5, false),
            (10, false),
            (0, false),
        ] {
            let verdict = broken(|s| s.record.previous = previous);
            assert_eq!(
                verdict,
                if legal {
                    Ok(())
                } else {
                    Err(RecordError::Generation)
                }
            );
        }
        let far = broken(|s| {
            (s.record.generation, s.record.previous) = (GENERATION_MAX + 1, GENERATION_MAX);
            s.record
                .members
                .iter_mut()
                .for_each(|member| member.current_at = GENERATION_MAX + 1);
        });
        assert_eq!(far, Err(RecordError::Generation));
    }

    #[test]
    fn parity_and_forming_fit_the_rest() {
        let beyond = broken(|s| s.record.parity = ParityState::Initial { next_row: 33 });
        assert_eq!(beyond, Err(RecordError::Parity));
        let degraded = broken(|s| {
            (s.record.members[0].state, s.record.members[0].current_at) = (MemberState::Failed, 1)
        });
        assert_eq!(
            degraded,
            Err(RecordError::Parity),
            "a degraded group lives by its parity"
        );
        assert_eq!(broken(|s| s.record.forming = true), Err(RecordError::Forming));
        let open = broken(|s| {
            s.record.vdisks.clear();
            (s.record.forming, s.record.clean) = (true, false);
        });
        assert_eq!(open, Err(RecordError::Forming));
    }

    #[test]
    fn virtual_disks_have_identities_and_extents_of_their_own() {
        assert_eq!(broken(|s| s.record.vdisks[0].nsid = 0), Err(RecordError::Nsid));
        assert_eq!(
            broken(|s| s.record.vdisks[0].nsid = u32::MAX),
            Err(RecordError::Nsid)
        );
        assert_eq!(
            broken(|s| s.record.vdisks[0].nsid = 2),
            Err(RecordError::VdiskTwice)
        );
        assert_eq!(
            broken(|s| s.record.vdisks[0].nguid = [2; 16]),
            Err(RecordError::VdiskTwice)
        );
        assert_eq!(
            broken(|s| s.record.vdisks[0].uuid = Uuid([2; 16])),
            Err(RecordError::VdiskTwice)
        );
        assert_eq!(
            broken(|s| s.record.vdisks[0].uuid = Uuid::NIL),
            Err(RecordError::NilUuid)
        );
        let same_name = broken(|s| s.record.vdisks[0].name = s.record.vdisks[1].name.clone());
        assert_eq!(same_name, Err(RecordError::VdiskTwice));
        for (blocks, legal) in [(0, false), (64, true), (65, false), (u64::MAX, false)] {
            let verdict = broken(|s| s.record.vdisks[0].blocks = blocks);
            assert_eq!(
                verdict.is_ok(),
                legal,
                "{blocks} blocks from the start of the group"
            );
        }
        for start in [1, 32, 65, 96, 1024, u64::MAX - 31] {
            assert_eq!(
                broken(|s| s.record.vdisks[1].start = GroupLba(start)),
                Err(RecordError::Extent)
            );
        }
        let many = broken(|s| s.record.vdisks = vec![s.record.vdisks[0].clone(); VDISKS_MAX + 1]);
        assert_eq!(many, Err(RecordError::Vdisks));
    }

    #[test]
    fn copies_lie_in_head_and_tail_of_every_drive() {
        assert_eq!(tail_start((2 << 20) - 1), None);
        assert_eq!(copy_offsets(0), None);
        for bytes in [2 << 20, (2 << 20) + 4095, 5_000_000_000, u64::MAX] {
            let [a, b, c, d] = copy_offsets(bytes).unwrap();
            assert_eq!((a, b), (4096, 8192));
            assert!(c >= HEAD_BYTES && c.is_multiple_of(4096) && d == c + 4096);
            assert!(d.checked_add(RECORD_BYTES as u64).unwrap() <= bytes);
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "g0", "A-b_c.9", &"x".repeat(32)] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(Name::parse(""), Err(NameError::Length(0)));
        assert_eq!(Name::parse(&"x".repeat(33)), Err(NameError::Length(33)));
        for bad in ["a b", "a/b", "ä", "a\0"] {
            assert!(matches!(Name::parse(bad), Err(NameError::Byte(_))), "{bad:?}");
        }
    }

    #[test]
    fn identifiers_are_written_as_everywhere() {
        let uuid = Uuid([
            0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8,
        ]);
        assert_eq!(uuid.to_string(), "12345678-9abc-def0-0102-030405060708");
    }
}
