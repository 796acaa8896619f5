//! The byte layout of a batch header, and where lanes lie on a member.
//!
//! All integers are little-endian. The header fills one block of the group; its CRC-32C covers the
//! whole block but the four bytes of the CRC itself. Bytes that no field owns are zero, and a header in
//! which they are not is refused.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `BRAIDJL1` |
//! | 8..12 | CRC-32C of the header |
//! | 12..14, 14..16 | format version, lane |
//! | 16..32 | group UUID |
//! | 32..64 | incarnation, batch number, tail, 8 bytes each; position and payload in blocks, 4 bytes each |
//! | 64..68, 68..70 | CRC-32C of the payload, number of entries |
//! | 96.. | entries of 32 bytes |
//!
//! | bytes of an entry | field |
//! |---|---|
//! | 0, 1 | kind; index of the check strip, or number of checks of a destage |
//! | 2 | members of the layout that the row has |
//! | 4..8 | first block in the payload |
//! | 8..12, 12..16 | first block and length; of a destage both together its cut |
//! | 16..24, 24..32 | row, sequence number |

use nvme::crc32c;
use thiserror::Error;

use crate::amf::geometry::Geometry;
use crate::amf::superblock::Uuid;
use crate::amf::{MEMBERS_MAX, RowIndex};
use crate::drive::block::{BlockSize, MemberLba};

const MAGIC: [u8; 8] = *b"BRAIDJL1";
const VERSION: u16 = 3;

/// Bytes of a header before its first entry.
pub const HEADER_BYTES: usize = 96;

const CRC_AT: usize = 8;
const VERSION_AT: usize = 12;
const LANE_AT: usize = 14;
const GROUP_AT: usize = 16;
const INCARNATION_AT: usize = 32;
const BATCH_AT: usize = 40;
const TAIL_AT: usize = 48;
const POSITION_AT: usize = 56;
const PAYLOAD_BLOCKS_AT: usize = 60;
const PAYLOAD_CRC_AT: usize = 64;
const ENTRY_COUNT_AT: usize = 68;
const RESERVED_AT: usize = 70;
const ENTRY_BYTES: usize = 32;

const KIND_WRITE: u8 = 1;
const KIND_ZERO: u8 = 2;
const KIND_CHECK: u8 = 3;
const KIND_DESTAGE: u8 = 4;

/// Most entries of any header: that of a 4 KiB block.
pub const ENTRIES_MAX: usize = entries_max(BlockSize::B4096);

/// Most user data that one [`Entry::Write`] carries: 1 MiB.
pub const WRITE_BYTES_MAX: u32 = 1 << 20;

/// Most entries of a header of this block size: 13 or 125.
pub const fn entries_max(block: BlockSize) -> usize {
    // Widening; `From` is not const.
    (block.bytes() as usize - HEADER_BYTES) / ENTRY_BYTES
}

/// Where the journal lies on every member, and what marks its records as this group's and this opening's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLayout {
    /// First block of the region.
    pub start: MemberLba,
    /// Length of a lane.
    pub lane_blocks: u32,
    /// Lanes that cores write; the recovery lane lies behind them.
    pub lanes: u16,
    /// Records of any other incarnation are dead.
    pub incarnation: u64,
    /// Whose journal it is.
    pub group: Uuid,
    /// The group's block size, which is also the size of a header.
    pub block: BlockSize,
}

impl JournalLayout {
    /// The lane that only replay writes.
    pub const fn recovery_lane(&self) -> u16 {
        self.lanes
    }

    /// First block of a lane, the recovery lane included. Panics if there is no such lane.
    pub fn lane_start(&self, lane: u16) -> MemberLba {
        assert!(
            lane <= self.lanes,
            "a lane is one of the cores' or the recovery lane"
        );
        MemberLba(self.start.0 + u64::from(lane) * u64::from(self.lane_blocks))
    }

    /// The address on a member of a block of a lane. Panics if the lane has no such block.
    pub fn lba(&self, lane: u16, position: u32) -> MemberLba {
        assert!(position < self.lane_blocks, "a position lies inside its lane");
        MemberLba(self.lane_start(lane).0 + u64::from(position))
    }

    /// Length of the whole region: all lanes, the recovery lane included.
    pub const fn region_blocks(&self) -> u64 {
        // Widening; `From` is not const.
        (self.lanes as u64 + 1) * self.lane_blocks as u64
    }
}

/// Fewest blocks of a lane: four times the largest write of one row, its largest destage record and a header for each.
pub fn lane_blocks_min(geometry: &Geometry) -> u32 {
    let write = geometry
        .row_blocks()
        .min(WRITE_BYTES_MAX / geometry.block().bytes());
    let checks = u32::from(geometry.level().check_strips()) * geometry.strip_blocks();
    // At most 4 * (2^11 + 32 * 2^11 + 2): far from overflowing.
    4 * (write + 1 + checks + 1)
}

/// What a header says beside its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Whose journal it is.
    pub group: Uuid,
    /// Which opening of the group wrote it.
    pub incarnation: u64,
    /// The lane that it lies in.
    pub lane: u16,
    /// Grows by one with each batch of the lane; in the recovery lane with each round of batches.
    pub batch: u64,
    /// First block of the batch in its lane: the header's.
    pub position: u32,
    /// Every entry with a lower sequence number, in any lane, is retired.
    pub tail: u64,
    /// Blocks behind the header.
    pub payload_blocks: u32,
}

/// One thing that a batch says of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// User data of one row, at most 1 MiB.
    Write {
        /// Members of the layout that the row has.
        members: u8,
        /// The row.
        row: RowIndex,
        /// First block, counted through the row's user data.
        start_blocks: u32,
        /// Length, at least 1.
        blocks: u32,
        /// Sequence number.
        seq: u64,
        /// Where its data starts in the payload.
        payload_block: u32,
    },
    /// Zeroes over user data of one row; no payload.
    Zero {
        /// Members of the layout that the row has.
        members: u8,
        /// The row.
        row: RowIndex,
        /// First block, counted through the row's user data.
        start_blocks: u32,
        /// Length, at least 1.
        blocks: u32,
        /// Sequence number.
        seq: u64,
    },
    /// What a check strip of the row holds after the destage that follows in the same batch.
    Check {
        /// Members of the layout that the row has.
        members: u8,
        /// The row.
        row: RowIndex,
        /// Which check strip: 0 is P, 1 is Q, 2 is R.
        index: u8,
        /// First block, from the start of the strip.
        offset_blocks: u32,
        /// Length, at least 1.
        blocks: u32,
        /// Sequence number.
        seq: u64,
        /// Where the check data starts in the payload.
        payload_block: u32,
    },
    /// From here on the row is written in place, with all its writes and zeroes up to `cut`.
    Destage {
        /// Members of the layout that the row has.
        members: u8,
        /// The row.
        row: RowIndex,
        /// Last sequence number that it covers.
        cut: u64,
        /// How many [`Entry::Check`]s of the row stand directly before it.
        checks: u8,
        /// Sequence number.
        seq: u64,
    },
}

impl Entry {
    /// Its row.
    pub const fn row(&self) -> RowIndex {
        match *self {
            Self::Write { row, .. }
            | Self::Zero { row, .. }
            | Self::Check { row, .. }
            | Self::Destage { row, .. } => row,
        }
    }

    /// How many members the layout has under which it was written. A row that has another by now has moved since, and what
    /// was said of it before is in its place.
    pub const fn members(&self) -> u8 {
        match *self {
            Self::Write { members, .. }
            | Self::Zero { members, .. }
            | Self::Check { members, .. }
            | Self::Destage { members, .. } => members,
        }
    }

    /// Its sequence number.
    pub const fn seq(&self) -> u64 {
        match *self {
            Self::Write { seq, .. }
            | Self::Zero { seq, .. }
            | Self::Check { seq, .. }
            | Self::Destage { seq, .. } => seq,
        }
    }

    /// First block and length of its part of the payload, if it has one.
    pub const fn payload(&self) -> Option<(u32, u32)> {
        match *self {
            Self::Write {
                payload_block,
                blocks,
                ..
            }
            | Self::Check {
                payload_block,
                blocks,
                ..
            } => Some((payload_block, blocks)),
            Self::Zero { .. } | Self::Destage { .. } => None,
        }
    }

    /// Whether it names blocks that rows of this geometry have.
    pub fn fits(&self, geometry: &Geometry) -> bool {
        let within = |start: u32, blocks: u32, end: u32| start.checked_add(blocks).is_some_and(|e| e <= end);
        let inside = match *self {
            Self::Write {
                start_blocks, blocks, ..
            } => {
                blocks <= WRITE_BYTES_MAX / geometry.block().bytes()
                    && within(start_blocks, blocks, geometry.row_blocks())
            }
            Self::Zero {
                start_blocks, blocks, ..
            } => within(start_blocks, blocks, geometry.row_blocks()),
            Self::Check {
                index,
                offset_blocks,
                blocks,
                ..
            } => {
                index < geometry.level().check_strips()
                    && within(offset_blocks, blocks, geometry.strip_blocks())
            }
            Self::Destage { .. } => true,
        };
        inside && self.row().0 < geometry.rows()
    }
}

/// A header as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What it says beside its entries.
    pub header: BatchHeader,
    /// CRC-32C that its payload has to have.
    pub payload_crc: u32,
    /// In the order in which their parts of the payload follow one another.
    pub entries: Vec<Entry>,
}

/// Why a block is not a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Neither 512 nor 4096 bytes.
    #[error("a journal header has 512 or 4096 bytes, not {0}: read one block")]
    Length(usize),
    /// The magic is not there.
    #[error("no journal header here")]
    Magic,
    /// The CRC does not fit: torn, damaged, or data that looks like a header.
    #[error("checksum of the journal header does not fit")]
    Checksum,
    /// Written by another version of Braid.
    #[error(
        "journal format version {0}, this program knows {VERSION}: use the program that opened the group"
    )]
    Version(u16),
    /// A field that no sound writer writes.
    #[error("journal header with an impossible {0}: the record was not written by a sound program")]
    Field(Field),
}

/// A field of a header or entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Field {
    /// Number of entries.
    #[error("number of entries")]
    EntryCount,
    /// Kind of an entry.
    #[error("kind of entry")]
    Kind,
    /// Members of a layout: none, or more than a group has.
    #[error("number of members")]
    Members,
    /// Length of an entry: 0, or beyond what 32 bits count.
    #[error("length")]
    Blocks,
    /// The entries' parts of the payload overlap, go backwards or leave the payload.
    #[error("place in the payload")]
    Payload,
    /// A sequence number below the tail, or the last one that there is.
    #[error("sequence number")]
    Sequence,
    /// A check without its destage, or a destage without its checks.
    #[error("order of checks and destages")]
    Destage,
    /// Bytes that ought to be zero are not.
    #[error("reserved byte")]
    Reserved,
}

/// Encodes a header of exactly one block into `out`.
///
/// Panics if `out` is not one block, or if the entries are not what [`parse`] accepts: nothing that
/// cannot be read back is ever written.
pub fn encode(header: &BatchHeader, entries: &[Entry], payload_crc: u32, out: &mut [u8]) {
    let room = block_of(out).map(entries_max).expect("a header is one block");
    assert!(entries.len() <= room, "the entries fit their header");
    check(header, entries).expect("only sound batches are written");
    out.fill(0);
    out[..CRC_AT].copy_from_slice(&MAGIC);
    out[VERSION_AT..LANE_AT].copy_from_slice(&VERSION.to_le_bytes());
    out[LANE_AT..GROUP_AT].copy_from_slice(&header.lane.to_le_bytes());
    out[GROUP_AT..INCARNATION_AT].copy_from_slice(&header.group.0);
    put_u64(out, INCARNATION_AT, header.incarnation);
    put_u64(out, BATCH_AT, header.batch);
    put_u64(out, TAIL_AT, header.tail);
    put_u32(out, POSITION_AT, header.position);
    put_u32(out, PAYLOAD_BLOCKS_AT, header.payload_blocks);
    put_u32(out, PAYLOAD_CRC_AT, payload_crc);
    let count = u16::try_from(entries.len()).expect("at most 125 entries");
    out[ENTRY_COUNT_AT..RESERVED_AT].copy_from_slice(&count.to_le_bytes());
    let places = out[HEADER_BYTES..].chunks_exact_mut(ENTRY_BYTES);
    for (place, entry) in places.zip(entries) {
        put_entry(place, entry);
    }
    let crc = checksum(out);
    put_u32(out, CRC_AT, crc);
}

/// Parses one block. Errs for anything that [`encode`] would not have written; never panics.
pub fn parse(bytes: &[u8]) -> Result<Batch, ParseError> {
    let block = block_of(bytes).ok_or(ParseError::Length(bytes.len()))?;
    if bytes[..CRC_AT] != MAGIC {
        return Err(ParseError::Magic);
    }
    if checksum(bytes) != u32_at(bytes, CRC_AT) {
        return Err(ParseError::Checksum);
    }
    let version = u16_at(bytes, VERSION_AT);
    if version != VERSION {
        return Err(ParseError::Version(version));
    }
    let mut group = [0; 16];
    group.copy_from_slice(&bytes[GROUP_AT..INCARNATION_AT]);
    let header = BatchHeader {
        group: Uuid(group),
        incarnation: u64_at(bytes, INCARNATION_AT),
        lane: u16_at(bytes, LANE_AT),
        batch: u64_at(bytes, BATCH_AT),
        position: u32_at(bytes, POSITION_AT),
        tail: u64_at(bytes, TAIL_AT),
        payload_blocks: u32_at(bytes, PAYLOAD_BLOCKS_AT),
    };
    let count = usize::from(u16_at(bytes, ENTRY_COUNT_AT));
    if count > entries_max(block) {
        return Err(ParseError::Field(Field::EntryCount));
    }
    let (used, rest) = bytes[HEADER_BYTES..].split_at(count * ENTRY_BYTES);
    let unused = bytes[RESERVED_AT..HEADER_BYTES].iter().chain(rest);
    if unused.copied().any(|byte| byte != 0) {
        return Err(ParseError::Field(Field::Reserved));
    }
    let entries: Result<Vec<_>, _> = used.chunks_exact(ENTRY_BYTES).map(parse_entry).collect();
    let entries = entries.map_err(ParseError::Field)?;
    check(&header, &entries).map_err(ParseError::Field)?;
    Ok(Batch {
        header,
        payload_crc: u32_at(bytes, PAYLOAD_CRC_AT),
        entries,
    })
}

/// Whether a header of any version is of this opening of a group: where these fields lie has never changed.
pub fn is_of(bytes: &[u8], group: Uuid, incarnation: u64) -> bool {
    bytes[GROUP_AT..INCARNATION_AT] == group.0 && u64_at(bytes, INCARNATION_AT) == incarnation
}

/// What holds for the entries of every batch: no number lies below the tail, payloads follow one
/// another, and checks stand directly before the destage of their row.
fn check(header: &BatchHeader, entries: &[Entry]) -> Result<(), Field> {
    let mut payload_free = 0;
    let mut checks: Option<(RowIndex, u8)> = None;
    for entry in entries {
        // A batch's own entries are not retired when it is written, and the next number has to exist.
        if entry.seq() < header.tail || entry.seq() == u64::MAX {
            return Err(Field::Sequence);
        }
        if let Some((start, blocks)) = entry.payload() {
            let end = start.checked_add(blocks).ok_or(Field::Payload)?;
            if start < payload_free || end > header.payload_blocks {
                return Err(Field::Payload);
            }
            payload_free = end;
        }
        checks = match *entry {
            Entry::Write {
                start_blocks, blocks, ..
            }
            | Entry::Zero {
                start_blocks, blocks, ..
            } => {
                check_range(start_blocks, blocks)?;
                if checks.is_some() {
                    return Err(Field::Destage);
                }
                None
            }
            Entry::Check {
                row,
                offset_blocks,
                blocks,
                ..
            } => {
                check_range(offset_blocks, blocks)?;
                let (of, count) = checks.unwrap_or((row, 0));
                if of != row {
                    return Err(Field::Destage);
                }
                Some((row, count.checked_add(1).ok_or(Field::Destage)?))
            }
            Entry::Destage {
                row,
                cut,
                checks: said,
                seq,
                ..
            } => {
                if checks.unwrap_or((row, 0)) != (row, said) || cut > seq {
                    return Err(Field::Destage);
                }
                None
            }
        };
    }
    if checks.is_some() {
        return Err(Field::Destage);
    }
    Ok(())
}

fn check_range(start: u32, blocks: u32) -> Result<(), Field> {
    if blocks == 0 || start.checked_add(blocks).is_none() {
        return Err(Field::Blocks);
    }
    Ok(())
}

fn put_entry(place: &mut [u8], entry: &Entry) {
    let (kind, index, range) = match *entry {
        Entry::Write {
            start_blocks, blocks, ..
        } => (KIND_WRITE, 0, range(start_blocks, blocks)),
        Entry::Zero {
            start_blocks, blocks, ..
        } => (KIND_ZERO, 0, range(start_blocks, blocks)),
        Entry::Check {
            index,
            offset_blocks,
            blocks,
            ..
        } => (KIND_CHECK, index, range(offset_blocks, blocks)),
        Entry::Destage { cut, checks, .. } => (KIND_DESTAGE, checks, cut),
    };
    (place[0], place[1], place[2]) = (kind, index, entry.members());
    put_u32(place, 4, entry.payload().map_or(0, |(start, _)| start));
    put_u64(place, 8, range);
    put_u64(place, 16, entry.row().0);
    put_u64(place, 24, entry.seq());
}

/// Start and length as the eight bytes that they take in an entry.
const fn range(start: u32, blocks: u32) -> u64 {
    // Widening; `From` is not const.
    (blocks as u64) << 32 | start as u64
}

fn parse_entry(place: &[u8]) -> Result<Entry, Field> {
    let (kind, index, members) = (place[0], place[1], place[2]);
    if members == 0 || usize::from(members) > MEMBERS_MAX {
        return Err(Field::Members);
    }
    let payload_block = u32_at(place, 4);
    let (start_blocks, blocks, cut) = (u32_at(place, 8), u32_at(place, 12), u64_at(place, 8));
    let (row, seq) = (RowIndex(u64_at(place, 16)), u64_at(place, 24));
    let entry = match kind {
        KIND_WRITE => Entry::Write {
            members,
            row,
            start_blocks,
            blocks,
            seq,
            payload_block,
        },
        KIND_ZERO => Entry::Zero {
            members,
            row,
            start_blocks,
            blocks,
            seq,
        },
        KIND_CHECK => Entry::Check {
            members,
            row,
            index,
            offset_blocks: start_blocks,
            blocks,
            seq,
            payload_block,
        },
        KIND_DESTAGE => Entry::Destage {
            members,
            row,
            cut,
            checks: index,
            seq,
        },
        _ => return Err(Field::Kind),
    };
    // What a sound writer makes of these fields is these bytes: nothing hides in between.
    let mut again = [0; ENTRY_BYTES];
    put_entry(&mut again, &entry);
    if again == *place {
        Ok(entry)
    } else {
        Err(Field::Reserved)
    }
}

/// CRC-32C of the header without the four bytes that hold it.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::portable(crc32c::portable(0, &bytes[..CRC_AT]), &bytes[VERSION_AT..])
}

fn block_of(bytes: &[u8]) -> Option<BlockSize> {
    u32::try_from(bytes.len()).ok().and_then(BlockSize::from_bytes)
}

pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

const _: () = assert!(entries_max(BlockSize::B512) == 13 && ENTRIES_MAX == 125);

#[cfg(test)]
mod tests;
