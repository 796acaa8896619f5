//! The byte layout of a superblock record.
//!
//! All integers are little-endian. A CRC-32C covers the whole record but itself. Bytes that no
//! field owns are zero, and a record in which they are not is refused: its writer knew more than we.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `BRAIDSB1` |
//! | 8..10 | format version |
//! | 10..13 | level, block shift, members |
//! | 13 | who carries the record: a member's index, or 128 and a spare's place |
//! | 14..16 | virtual disks, flags |
//! | 16..64 | array, group and drive UUID |
//! | 64..96, 96 | name and its length |
//! | 97..100 | state of the parity (always trusted where the level has none), durability, spares |
//! | 100..104 | strip in blocks |
//! | 104..152 | data start, rows, generation, previous generation, resync row, drive bytes: 8 bytes each |
//! | 152..168 | rebuilt rows, scrub row: 8 bytes each |
//! | 168..208 | journal start, blocks, incarnation; intent start, since generation: 8 bytes each |
//! | 208..222 | lane blocks, intent blocks, rows per bit: 4 bytes each; lanes: 2 bytes |
//! | 222..240 | members before the expansion that is going on (0: none), state of its scratch area; frontier, end of what is in the area: 8 bytes each |
//! | 240..368 | 8 spares of 16 bytes: drive UUID |
//! | 368..504 | 17 floors of lanes, 8 bytes each |
//! | 508..512 | CRC-32C |
//! | 512..1536 | 32 members of 32 bytes: drive UUID, generation it last took part in, state |
//! | 1536..4000 | 28 virtual disks of 88 bytes: UUID, NGUID, name, start, blocks, NSID, name length, nodes that do not serve it (bit `i`: slot `i`), whether it is leaving, replication |
//!
//! Version 3 is for groups that are being expanded, or in which an expansion has left virtual disks that share a row; programs that
//! know version 2 alone must not touch those. Version 4 is for groups whose journal has lanes that are over: whoever does not know that
//! would replay what others have overtaken. Version 5 is for groups with a virtual disk that some node does not serve, or that is leaving: whoever does not know
//! that would serve it. Version 6 is for groups with a virtual disk whose replication is not synchronous: whoever does not know that would promise more than others keep, or less.
//! All other records are of version 2.

use nvme::crc32c;
use thiserror::Error;

use super::{
    Carrier, Durability, GroupRecord, IntentRecord, JournalRecord, LANES_MAX, LaneFloors, MEMBERS_MAX,
    MemberRecord, MemberState, NAME_BYTES_MAX, Name, PORTS_ALL, ParityState, RECORD_BYTES, RecordError,
    SPARES_MAX, Superblock, Uuid, VDISKS_MAX, VdiskRecord,
};
use crate::amf::MemberIndex;
use crate::amf::expansion::{ExpansionRecord, ScratchState};
use crate::amf::geometry::Level;
use crate::amf::replication::ReplicationMode;
use crate::drive::block::{BlockSize, GroupLba, MemberLba};
use crate::icl::SlotSet;

pub(super) const MAGIC: [u8; 8] = *b"BRAIDSB1";
const VERSION: u16 = 2;
const VERSION_EXPANDED: u16 = 3;
const VERSION_FLOORS: u16 = 4;
const VERSION_PORTS: u16 = 5;
const VERSION_REPLICATION: u16 = 6;

const LEVEL_AT: usize = 10;
const BLOCK_SHIFT_AT: usize = 11;
const MEMBERS_AT: usize = 12;
const CARRIER_AT: usize = 13;
const VDISKS_AT: usize = 14;
const FLAGS_AT: usize = 15;
const NAME_AT: usize = 64;
const NAME_LENGTH_AT: usize = 96;
const PARITY_AT: usize = 97;
const DURABILITY_AT: usize = 98;
const SPARES_AT: usize = 99;
const LANE_BLOCKS_AT: usize = 208;
const INTENT_BLOCKS_AT: usize = 212;
const ROWS_PER_BIT_AT: usize = 216;
const LANES_AT: usize = 220;
const OLD_MEMBERS_AT: usize = 222;
const SCRATCH_AT: usize = 223;
const FRONTIER_AT: usize = 224;
const SCRATCH_TO_AT: usize = 232;
const SPARE_TABLE_AT: usize = 240;
const SPARE_BYTES: usize = 16;
const FLOORS_AT: usize = 368;
const CRC_AT: usize = 508;
const MEMBER_TABLE_AT: usize = 512;
const MEMBER_BYTES: usize = 32;
const VDISK_TABLE_AT: usize = 1536;
const VDISK_BYTES: usize = 88;
const VDISK_TABLE_END: usize = VDISK_TABLE_AT + VDISKS_MAX * VDISK_BYTES;

/// Set in the carrier's byte for a spare.
const CARRIER_SPARE: u8 = 128;

const FLAG_CLEAN: u8 = 1;
const FLAG_FORMING: u8 = 1 << 1;
const FLAG_EXCLUSIVE_LOCAL: u8 = 1 << 2;
const FLAG_DIRTY_RAM: u8 = 1 << 3;
const FLAG_REBUILD_PARTIAL: u8 = 1 << 4;
const FLAGS: u8 = FLAG_CLEAN | FLAG_FORMING | FLAG_EXCLUSIVE_LOCAL | FLAG_DIRTY_RAM | FLAG_REBUILD_PARTIAL;

const _: () = assert!(SPARE_TABLE_AT + SPARES_MAX * SPARE_BYTES <= FLOORS_AT);
const _: () = assert!(FLOORS_AT + size_of::<LaneFloors>() <= CRC_AT);
const _: () = assert!(MEMBER_TABLE_AT + MEMBERS_MAX * MEMBER_BYTES == VDISK_TABLE_AT);
const _: () = assert!(VDISK_TABLE_END <= RECORD_BYTES);

/// Why bytes are not a superblock record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Not 4096 bytes.
    #[error("record has {0} bytes instead of {RECORD_BYTES}: read it whole")]
    Length(usize),
    /// The magic is not there: no Braid record.
    #[error("no Braid superblock here")]
    Magic,
    /// The CRC does not fit: torn or rotten.
    #[error("checksum does not fit: the copy is torn or damaged; another copy or drive has to serve")]
    Checksum,
    /// Written by another version of Braid.
    #[error(
        "format version {0}, this program knows {VERSION} to {VERSION_REPLICATION}: use the program that created the group"
    )]
    Version(u16),
    /// A field has a value that this version does not know.
    #[error("{field} has the unknown value {value}: use the program that created the group")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u8,
    },
    /// A name is not one.
    #[error("{0} is not a legal name: the copy was not written by Braid")]
    Name(&'static str),
    /// Bytes that ought to be zero are not.
    #[error("reserved bytes are in use: use the program that created the group")]
    Reserved,
    /// Fields do not fit each other.
    #[error("{0}: the copy was not written by a sound program")]
    Record(#[from] RecordError),
}

/// Encodes the record of one member.
///
/// Panics if the record fails its own check: nothing that cannot be read back is ever written.
pub fn encode(superblock: &Superblock) -> Box<[u8; RECORD_BYTES]> {
    superblock.check().expect("only sound records are written");
    let record = &superblock.record;
    let mut bytes = Box::new([0; RECORD_BYTES]);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&version_of(record).to_le_bytes());
    bytes[LEVEL_AT] = level_code(record.level);
    bytes[BLOCK_SHIFT_AT] = u8::try_from(record.block.shift()).expect("a shift is below 64");
    bytes[MEMBERS_AT] = u8::try_from(record.members.len()).expect("checked: at most 32");
    bytes[CARRIER_AT] = match superblock.carrier {
        Carrier::Member(member) => member.0,
        Carrier::Spare(spare) => CARRIER_SPARE | spare,
    };
    bytes[VDISKS_AT] = u8::try_from(record.vdisks.len()).expect("checked: at most 28");
    bytes[FLAGS_AT] = flag(FLAG_CLEAN, record.clean)
        | flag(FLAG_FORMING, record.forming)
        | flag(FLAG_EXCLUSIVE_LOCAL, record.exclusive_local)
        | flag(FLAG_DIRTY_RAM, record.dirty_ram)
        | flag(FLAG_REBUILD_PARTIAL, record.rebuild_partial);
    bytes[16..32].copy_from_slice(&record.array.0);
    bytes[32..48].copy_from_slice(&record.group.0);
    bytes[48..64].copy_from_slice(&superblock.drive().0);
    bytes[NAME_LENGTH_AT] = put_name(&mut bytes[NAME_AT..NAME_LENGTH_AT], &record.name);
    bytes[PARITY_AT] = parity_code(record.parity);
    bytes[DURABILITY_AT] = durability_code(record.durability);
    bytes[SPARES_AT] = u8::try_from(record.spares.len()).expect("checked: at most 8");
    put_u32(&mut bytes[100..], record.strip_blocks);
    put_numbers(&mut bytes[..], superblock);
    if let Some(expansion) = &record.expansion {
        let (scratch, scratch_to) = match expansion.scratch {
            ScratchState::Clean => (0, 0),
            ScratchState::Dirty => (1, 0),
            ScratchState::Holds { to } => (2, to),
        };
        (bytes[OLD_MEMBERS_AT], bytes[SCRATCH_AT]) = (expansion.old_members, scratch);
        put_u64(&mut bytes[FRONTIER_AT..], expansion.frontier);
        put_u64(&mut bytes[SCRATCH_TO_AT..], scratch_to);
    }
    for (index, spare) in record.spares.iter().enumerate() {
        bytes[SPARE_TABLE_AT + index * SPARE_BYTES..][..SPARE_BYTES].copy_from_slice(&spare.0);
    }
    for (index, member) in record.members.iter().enumerate() {
        put_member(
            &mut bytes[MEMBER_TABLE_AT + index * MEMBER_BYTES..][..MEMBER_BYTES],
            member,
        );
    }
    for (index, vdisk) in record.vdisks.iter().enumerate() {
        put_vdisk(
            &mut bytes[VDISK_TABLE_AT + index * VDISK_BYTES..][..VDISK_BYTES],
            vdisk,
        );
    }
    let crc = checksum(&bytes[..]);
    bytes[CRC_AT..MEMBER_TABLE_AT].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Parses and checks one copy of a record. Errs for anything that this version would not have written.
pub fn parse(bytes: &[u8]) -> Result<Superblock, ParseError> {
    if bytes.len() != RECORD_BYTES {
        return Err(ParseError::Length(bytes.len()));
    }
    if bytes[..8] != MAGIC {
        return Err(ParseError::Magic);
    }
    if checksum(bytes) != u32_at(bytes, CRC_AT) {
        return Err(ParseError::Checksum);
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    if !(VERSION..=VERSION_REPLICATION).contains(&version) {
        return Err(ParseError::Version(version));
    }
    let flags = bytes[FLAGS_AT];
    if flags & !FLAGS != 0 {
        return Err(ParseError::Unknown {
            field: "flags",
            value: flags,
        });
    }
    let record = GroupRecord {
        array: uuid_at(bytes, 16),
        group: uuid_at(bytes, 32),
        name: name_at(bytes, NAME_AT, bytes[NAME_LENGTH_AT], "group")?,
        level: parse_level(bytes[LEVEL_AT])?,
        strip_blocks: u32_at(bytes, 100),
        block: parse_block(bytes[BLOCK_SHIFT_AT])?,
        data_start: MemberLba(u64_at(bytes, 104)),
        rows: u64_at(bytes, 112),
        generation: u64_at(bytes, 120),
        previous: u64_at(bytes, 128),
        clean: flags & FLAG_CLEAN != 0,
        forming: flags & FLAG_FORMING != 0,
        exclusive_local: flags & FLAG_EXCLUSIVE_LOCAL != 0,
        parity: parse_parity(bytes[PARITY_AT], u64_at(bytes, 136))?,
        durability: parse_durability(bytes[DURABILITY_AT])?,
        journal: parse_journal(bytes),
        dirty_ram: flags & FLAG_DIRTY_RAM != 0,
        intent: parse_intent(bytes),
        rebuilt_rows: u64_at(bytes, 152),
        rebuild_partial: flags & FLAG_REBUILD_PARTIAL != 0,
        scrub_row: u64_at(bytes, 160),
        expansion: parse_expansion(bytes)?,
        members: parse_members(bytes)?,
        spares: parse_spares(bytes)?,
        vdisks: parse_vdisks(bytes)?,
    };
    let carrier = match bytes[CARRIER_AT] {
        spare if spare & CARRIER_SPARE != 0 => Carrier::Spare(spare & !CARRIER_SPARE),
        member => Carrier::Member(MemberIndex(member)),
    };
    let superblock = Superblock {
        record,
        carrier,
        drive_bytes: u64_at(bytes, 144),
    };
    superblock.check()?;
    if uuid_at(bytes, 48) != superblock.drive() {
        return Err(ParseError::Record(RecordError::MemberIndex));
    }
    // What a sound writer makes of these fields is these bytes: nothing hides in between.
    if encode(&superblock)[..] == *bytes {
        Ok(superblock)
    } else {
        Err(ParseError::Reserved)
    }
}

/// Encodes what all members agree on, for another node rather than for a drive: as the copy of the first member that takes part, on a drive
/// of any size.
///
/// Panics if the record fails its own check.
pub fn encode_shared(record: &GroupRecord) -> Box<[u8; RECORD_BYTES]> {
    let carries = |line: &MemberRecord| line.state.takes_part();
    let first = record.members.iter().position(carries);
    let first = first.expect("a group that can be started has members that take part");
    encode(&Superblock {
        carrier: Carrier::Member(MemberIndex(u8::try_from(first).expect("at most 32 members"))),
        drive_bytes: u64::MAX,
        record: record.clone(),
    })
}

/// What [`encode_shared`] has encoded. Errs for anything that it would not have written.
pub fn parse_shared(bytes: &[u8]) -> Result<GroupRecord, ParseError> {
    let record = parse(bytes)?.record;
    if encode_shared(&record)[..] == *bytes {
        Ok(record)
    } else {
        Err(ParseError::Reserved)
    }
}

/// The oldest version whose readers understand the record.
fn version_of(record: &GroupRecord) -> u16 {
    let is_plain = |vdisk: &VdiskRecord| vdisk.ports == PORTS_ALL && !vdisk.leaving;
    let is_sync = |vdisk: &VdiskRecord| vdisk.replication == ReplicationMode::Sync;
    if !record.vdisks.iter().all(is_sync) {
        VERSION_REPLICATION
    } else if !record.vdisks.iter().all(is_plain) {
        VERSION_PORTS
    } else if record
        .journal
        .is_some_and(|journal| journal.floors != NO_JOURNAL.floors)
    {
        VERSION_FLOORS
    } else if record.expansion.is_some() || record.has_shared_rows() {
        VERSION_EXPANDED
    } else {
        VERSION
    }
}

/// CRC-32C of the record without the four bytes that hold it.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::portable(crc32c::portable(0, &bytes[..CRC_AT]), &bytes[MEMBER_TABLE_AT..])
}

const fn flag(bit: u8, set: bool) -> u8 {
    if set { bit } else { 0 }
}

/// The number of the RAID level; three check strips, which has none, is 7.
const fn level_code(level: Level) -> u8 {
    match level {
        Level::Raid0 => 0,
        Level::Raid1 => 1,
        Level::Raid5 => 5,
        Level::Raid6 => 6,
        Level::RaidTp => 7,
        Level::Raid10 => 10,
    }
}

const fn parse_level(value: u8) -> Result<Level, ParseError> {
    match value {
        0 => Ok(Level::Raid0),
        1 => Ok(Level::Raid1),
        5 => Ok(Level::Raid5),
        6 => Ok(Level::Raid6),
        7 => Ok(Level::RaidTp),
        10 => Ok(Level::Raid10),
        _ => Err(ParseError::Unknown {
            field: "level",
            value,
        }),
    }
}

fn parse_block(shift: u8) -> Result<BlockSize, ParseError> {
    let unknown = ParseError::Unknown {
        field: "block shift",
        value: shift,
    };
    1u32.checked_shl(u32::from(shift))
        .and_then(BlockSize::from_bytes)
        .ok_or(unknown)
}

const fn parity_code(parity: ParityState) -> u8 {
    match parity {
        ParityState::Trusted => 1,
        ParityState::Initial { .. } => 2,
        ParityState::Resync { .. } => 3,
    }
}

const fn parse_parity(value: u8, next_row: u64) -> Result<ParityState, ParseError> {
    match value {
        1 => Ok(ParityState::Trusted),
        2 => Ok(ParityState::Initial { next_row }),
        3 => Ok(ParityState::Resync { next_row }),
        _ => Err(ParseError::Unknown {
            field: "state of the parity",
            value,
        }),
    }
}

const fn durability_code(durability: Durability) -> u8 {
    match durability {
        Durability::None => 1,
        Durability::Journal => 2,
        Durability::Ram => 3,
    }
}

const fn parse_durability(value: u8) -> Result<Durability, ParseError> {
    match value {
        1 => Ok(Durability::None),
        2 => Ok(Durability::Journal),
        3 => Ok(Durability::Ram),
        _ => Err(ParseError::Unknown {
            field: "durability",
            value,
        }),
    }
}

/// Writes the fields from byte 104 to 222, and the floors.
fn put_numbers(bytes: &mut [u8], superblock: &Superblock) {
    let record = &superblock.record;
    let journal = record.journal.unwrap_or(NO_JOURNAL);
    let intent = record.intent.unwrap_or(NO_INTENT);
    let numbers = [
        record.data_start.0,
        record.rows,
        record.generation,
        record.previous,
        record.parity.next_row().unwrap_or(0),
        superblock.drive_bytes,
        record.rebuilt_rows,
        record.scrub_row,
        journal.start.0,
        journal.blocks,
        journal.incarnation,
        intent.start.0,
        intent.since_generation,
    ];
    for (index, number) in numbers.into_iter().enumerate() {
        put_u64(&mut bytes[104 + index * 8..], number);
    }
    put_u32(&mut bytes[LANE_BLOCKS_AT..], journal.lane_blocks);
    put_u32(&mut bytes[INTENT_BLOCKS_AT..], intent.blocks);
    put_u32(&mut bytes[ROWS_PER_BIT_AT..], intent.rows_per_bit);
    bytes[LANES_AT..LANES_AT + 2].copy_from_slice(&journal.lanes.to_le_bytes());
    for (lane, floor) in journal.floors.into_iter().enumerate() {
        put_u64(&mut bytes[FLOORS_AT + lane * 8..], floor);
    }
}

/// What the fields hold if there is no journal.
const NO_JOURNAL: JournalRecord = JournalRecord {
    start: MemberLba(0),
    blocks: 0,
    lane_blocks: 0,
    lanes: 0,
    incarnation: 0,
    floors: [0; LANES_MAX as usize + 1],
};

/// What the fields hold if there is no write-intent bitmap.
const NO_INTENT: IntentRecord = IntentRecord {
    start: MemberLba(0),
    blocks: 0,
    since_generation: 0,
    rows_per_bit: 0,
};

fn parse_journal(bytes: &[u8]) -> Option<JournalRecord> {
    let journal = JournalRecord {
        start: MemberLba(u64_at(bytes, 168)),
        blocks: u64_at(bytes, 176),
        incarnation: u64_at(bytes, 184),
        lane_blocks: u32_at(bytes, LANE_BLOCKS_AT),
        lanes: u16::from_le_bytes([bytes[LANES_AT], bytes[LANES_AT + 1]]),
        floors: std::array::from_fn(|lane| u64_at(bytes, FLOORS_AT + lane * 8)),
    };
    (journal != NO_JOURNAL).then_some(journal)
}

fn parse_intent(bytes: &[u8]) -> Option<IntentRecord> {
    let intent = IntentRecord {
        start: MemberLba(u64_at(bytes, 192)),
        since_generation: u64_at(bytes, 200),
        blocks: u32_at(bytes, INTENT_BLOCKS_AT),
        rows_per_bit: u32_at(bytes, ROWS_PER_BIT_AT),
    };
    (intent != NO_INTENT).then_some(intent)
}

fn parse_expansion(bytes: &[u8]) -> Result<Option<ExpansionRecord>, ParseError> {
    let scratch = match bytes[SCRATCH_AT] {
        0 => ScratchState::Clean,
        1 => ScratchState::Dirty,
        2 => ScratchState::Holds {
            to: u64_at(bytes, SCRATCH_TO_AT),
        },
        value => {
            return Err(ParseError::Unknown {
                field: "state of an expansion",
                value,
            });
        }
    };
    let expansion = ExpansionRecord {
        old_members: bytes[OLD_MEMBERS_AT],
        frontier: u64_at(bytes, FRONTIER_AT),
        scratch,
    };
    Ok((expansion.old_members != 0).then_some(expansion))
}

fn parse_spares(bytes: &[u8]) -> Result<Vec<Uuid>, ParseError> {
    let count = usize::from(bytes[SPARES_AT]);
    if count > SPARES_MAX {
        return Err(ParseError::Record(RecordError::Spares));
    }
    Ok((0..count)
        .map(|spare| uuid_at(bytes, SPARE_TABLE_AT + spare * SPARE_BYTES))
        .collect())
}

fn parse_members(bytes: &[u8]) -> Result<Vec<MemberRecord>, ParseError> {
    let count = usize::from(bytes[MEMBERS_AT]);
    if count > MEMBERS_MAX {
        return Err(ParseError::Record(RecordError::Members));
    }
    let table = bytes[MEMBER_TABLE_AT..VDISK_TABLE_AT].chunks_exact(MEMBER_BYTES);
    let parse_one = |entry: &[u8]| {
        let state = match entry[24] {
            1 => MemberState::Active,
            2 => MemberState::Failed,
            3 => MemberState::Missing,
            4 => MemberState::Rebuilding,
            value => {
                return Err(ParseError::Unknown {
                    field: "state of a member",
                    value,
                });
            }
        };
        Ok(MemberRecord {
            drive: uuid_at(entry, 0),
            state,
            current_at: u64_at(entry, 16),
        })
    };
    table.take(count).map(parse_one).collect()
}

fn put_member(entry: &mut [u8], member: &MemberRecord) {
    entry[..16].copy_from_slice(&member.drive.0);
    put_u64(&mut entry[16..], member.current_at);
    entry[24] = match member.state {
        MemberState::Active => 1,
        MemberState::Failed => 2,
        MemberState::Missing => 3,
        MemberState::Rebuilding => 4,
    };
}

fn parse_vdisks(bytes: &[u8]) -> Result<Vec<VdiskRecord>, ParseError> {
    let count = usize::from(bytes[VDISKS_AT]);
    if count > VDISKS_MAX {
        return Err(ParseError::Record(RecordError::Vdisks));
    }
    let parse_one = |entry: &[u8]| {
        let mut nguid = [0; 16];
        nguid.copy_from_slice(&entry[16..32]);
        Ok(VdiskRecord {
            nsid: u32_at(entry, 80),
            name: name_at(entry, 32, entry[84], "virtual disk")?,
            uuid: uuid_at(entry, 0),
            nguid,
            start: GroupLba(u64_at(entry, 64)),
            blocks: u64_at(entry, 72),
            ports: PORTS_ALL.minus(SlotSet(entry[85])),
            leaving: parse_leaving(entry[86])?,
            replication: parse_replication(entry[87])?,
        })
    };
    bytes[VDISK_TABLE_AT..VDISK_TABLE_END]
        .chunks_exact(VDISK_BYTES)
        .take(count)
        .map(parse_one)
        .collect()
}

fn put_vdisk(entry: &mut [u8], vdisk: &VdiskRecord) {
    entry[..16].copy_from_slice(&vdisk.uuid.0);
    entry[16..32].copy_from_slice(&vdisk.nguid);
    entry[84] = put_name(&mut entry[32..64], &vdisk.name);
    put_u64(&mut entry[64..], vdisk.start.0);
    put_u64(&mut entry[72..], vdisk.blocks);
    put_u32(&mut entry[80..], vdisk.nsid);
    entry[85] = PORTS_ALL.minus(vdisk.ports).0;
    entry[86] = u8::from(vdisk.leaving);
    entry[87] = vdisk.replication.code();
}

fn parse_replication(value: u8) -> Result<ReplicationMode, ParseError> {
    ReplicationMode::parse(value).ok_or(ParseError::Unknown {
        field: "replication of a virtual disk",
        value,
    })
}

const fn parse_leaving(value: u8) -> Result<bool, ParseError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(ParseError::Unknown {
            field: "state of a virtual disk",
            value,
        }),
    }
}

/// Writes a name and returns its length in bytes.
fn put_name(field: &mut [u8], name: &Name) -> u8 {
    let text = name.as_str().as_bytes();
    field[..text.len()].copy_from_slice(text);
    u8::try_from(text.len()).expect("a name has at most 32 bytes")
}

fn name_at(bytes: &[u8], at: usize, length: u8, field: &'static str) -> Result<Name, ParseError> {
    let length = usize::from(length);
    if length > NAME_BYTES_MAX {
        return Err(ParseError::Name(field));
    }
    let text = std::str::from_utf8(&bytes[at..at + length]).map_err(|_| ParseError::Name(field))?;
    Name::parse(text).map_err(|_| ParseError::Name(field))
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&bytes[at..at + 16]);
    Uuid(uuid)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

fn put_u32(bytes: &mut [u8], value: u32) {
    bytes[..4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], value: u64) {
    bytes[..8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::samples::{expanding, full, small, striped};
    use super::*;

    /// Puts the right checksum onto a record that was tampered with.
    fn sign(bytes: &mut [u8]) {
        let crc = checksum(bytes);
        bytes[CRC_AT..MEMBER_TABLE_AT].copy_from_slice(&crc.to_le_bytes());
    }

    /// Tampers with a good record and returns what the parser says.
    fn tampered(at: usize, patch: &[u8]) -> Result<Superblock, ParseError> {
        let mut bytes = encode(&small());
        bytes[at..at + patch.len()].copy_from_slice(patch);
        sign(&mut bytes[..]);
        parse(&bytes[..])
    }

    #[test]
    fn what_is_written_is_read_back() {
        for superblock in [small(), full(), expanding(), striped(1), striped(2), striped(32)] {
            assert_eq!(parse(&encode(&superblock)[..]), Ok(superblock));
        }
        for parity in [
            ParityState::Trusted,
            ParityState::Initial { next_row: 32 },
            ParityState::Resync { next_row: 0 },
        ] {
            for flags in 0..8 {
                let mut superblock = small();
                superblock.record.parity = parity;
                superblock.record.exclusive_local = flags & 1 == 1;
                superblock.record.clean = flags & 2 == 2 || flags & 4 == 4;
                superblock.record.forming = flags & 4 == 4;
                if superblock.record.forming {
                    superblock.record.vdisks.clear();
                }
                assert_eq!(parse(&encode(&superblock)[..]), Ok(superblock));
            }
        }
    }

    const LAYOUT_STRIPED: u32 = 375_805_922;
    const LAYOUT_SMALL: u32 = 49_545_769;
    const LAYOUT_FULL: u32 = 794_152_543;

    /// The layout is a promise to drives that exist: this fails if a byte of it moves.
    #[test]
    fn layout_is_frozen() {
        assert_eq!(crc32c::portable(0, &encode(&small())[..]), LAYOUT_SMALL);
        assert_eq!(crc32c::portable(0, &encode(&full())[..]), LAYOUT_FULL);
        assert_eq!(crc32c::portable(0, &encode(&striped(1))[..]), LAYOUT_STRIPED);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for superblock in [small(), full(), expanding(), striped(1)] {
            let mut bytes = encode(&superblock);
            for at in 0..RECORD_BYTES {
                for bit in 0..8 {
                    bytes[at] ^= 1 << bit;
                    assert!(parse(&bytes[..]).is_err(), "byte {at} bit {bit}");
                    bytes[at] ^= 1 << bit;
                }
            }
        }
    }

    /// A byte that is wrong under a right checksum is refused, or is another sound record in full.
    #[test]
    fn every_changed_byte_under_a_right_checksum_is_checked() {
        let mut accepted = 0;
        for superblock in [small(), full(), expanding(), striped(1), striped(4)] {
            for at in 0..RECORD_BYTES {
                for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                    let mut bytes = encode(&superblock);
                    bytes[at] = value;
                    sign(&mut bytes[..]);
                    if let Ok(parsed) = parse(&bytes[..]) {
                        assert_eq!(parsed.check(), Ok(()));
                        assert_eq!(encode(&parsed), bytes, "byte {at} = {value}");
                        accepted += 1;
                    }
                }
            }
        }
        assert!(accepted > 1000, "identities may be anything: {accepted}");
    }

    #[test]
    fn random_bytes_never_panic_and_are_never_accepted() {
        let mut state = 0x1234_5678_9abc_def1_u64;
        let mut bytes = [0; RECORD_BYTES];
        for round in 0..3000 {
            for byte in &mut bytes {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state.to_le_bytes()[3];
            }
            if round % 3 > 0 {
                bytes[..10].copy_from_slice(&encode(&small())[..10]);
            }
            if round % 3 == 2 {
                // Plausible counts, so that the tables are looked at.
                let (level, members) = if bytes[10] & 1 == 0 { (0, 1) } else { (5, 2) };
                let counts = [
                    level,
                    12,
                    members + bytes[12] % 31,
                    bytes[13] % 32,
                    bytes[14] % 33,
                    bytes[15] % 8,
                ];
                bytes[10..16].copy_from_slice(&counts);
                sign(&mut bytes);
            }
            assert!(parse(&bytes).is_err());
        }
    }

    #[test]
    fn wrong_length_magic_and_version_are_told_apart() {
        assert_eq!(parse(&[]), Err(ParseError::Length(0)));
        assert_eq!(parse(&encode(&small())[..4095]), Err(ParseError::Length(4095)));
        assert_eq!(parse(&[0; RECORD_BYTES]), Err(ParseError::Magic));
        let error = tampered(8, &[1, 0]).unwrap_err();
        assert_eq!(error, ParseError::Version(1));
        assert!(
            error
                .to_string()
                .contains("use the program that created the group")
        );
    }

    /// A program that knows no expansions must not take such a group for one that lies as it always did.
    #[test]
    fn what_older_programs_would_misread_has_a_version_of_its_own() {
        let version = |superblock: &Superblock| encode(superblock)[8];
        assert_eq!(
            (version(&small()), version(&full()), version(&expanding())),
            (2, 2, 3)
        );
        let mut over = expanding();
        over.record.expansion = None;
        assert_eq!(version(&over), 3, "64 is not on a row of 48 blocks");
        over.record.vdisks.pop();
        assert_eq!(version(&over), 2);
        let refused = |superblock: &Superblock, version: u8| {
            let mut bytes = encode(superblock);
            bytes[8] = version;
            sign(&mut bytes[..]);
            parse(&bytes[..])
        };
        assert_eq!(refused(&expanding(), 2), Err(ParseError::Reserved));
        assert_eq!(refused(&small(), 3), Err(ParseError::Reserved));
        assert_eq!(refused(&small(), 4), Err(ParseError::Reserved));
        assert_eq!(refused(&small(), 5), Err(ParseError::Reserved));
        assert_eq!(refused(&small(), 6), Err(ParseError::Reserved));
        assert_eq!(refused(&small(), 7), Err(ParseError::Version(7)));
        assert_eq!(version(&with_floors()), 4);
        for older in [2, 3] {
            assert_eq!(refused(&with_floors(), older), Err(ParseError::Reserved));
        }
    }

    /// CHECKLIST A10: which nodes serve a virtual disk is kept with the array, and whoever knows nothing of that does not serve it everywhere. What was written
    /// before there were ports is served by all.
    #[test]
    fn ports_of_virtual_disks_are_kept_and_older_records_mean_all_nodes() {
        let mut superblock = small();
        for record in [&small().record, &full().record, &with_floors().record] {
            assert!(
                record
                    .vdisks
                    .iter()
                    .all(|vdisk| vdisk.ports == PORTS_ALL && !vdisk.leaving)
            );
        }
        for (ports, leaving, version) in [
            (PORTS_ALL, false, 2),
            (SlotSet(0b101), false, 5),
            (SlotSet::EMPTY, false, 5),
            (PORTS_ALL, true, 5),
            (SlotSet(0b10), true, 5),
        ] {
            let vdisk = &mut superblock.record.vdisks[1];
            (vdisk.ports, vdisk.leaving) = (ports, leaving);
            let mut bytes = encode(&superblock);
            assert_eq!(bytes[8], version);
            assert_eq!(parse(&bytes[..]).as_ref(), Ok(&superblock));
            assert_eq!(
                parse_shared(&encode_shared(&superblock.record)[..]).as_ref(),
                Ok(&superblock.record)
            );
            bytes[8] = 7 - version;
            sign(&mut bytes[..]);
            assert_eq!(
                parse(&bytes[..]),
                Err(ParseError::Reserved),
                "no version for another"
            );
        }
        let unknown = Err(ParseError::Unknown {
            field: "state of a virtual disk",
            value: 2,
        });
        assert_eq!(tampered(VDISK_TABLE_AT + 86, &[2]), unknown);
    }

    /// CHECKLIST C7, C8: when writes are done is kept with the array, and whoever knows nothing of that serves none of it.
    #[test]
    fn replication_of_virtual_disks_is_kept() {
        for (replication, version) in [
            (ReplicationMode::Sync, 2),
            (ReplicationMode::PseudoSync, 6),
            (ReplicationMode::Async, 6),
        ] {
            let mut superblock = small();
            superblock.record.vdisks[1].replication = replication;
            let mut bytes = encode(&superblock);
            assert_eq!(bytes[8], version);
            assert_eq!(parse(&bytes[..]).as_ref(), Ok(&superblock));
            bytes[8] = 8 - version;
            sign(&mut bytes[..]);
            assert_eq!(parse(&bytes[..]), Err(ParseError::Reserved));
        }
        let unknown = Err(ParseError::Unknown {
            field: "replication of a virtual disk",
            value: 3,
        });
        assert_eq!(tampered(VDISK_TABLE_AT + 87, &[3]), unknown);
    }

    /// The first of three lanes is over, and so is the one for recovery.
    fn with_floors() -> Superblock {
        let mut superblock = small();
        let journal = superblock.record.journal.as_mut().expect("it has one");
        journal.raise_floors(0b1001, 77);
        superblock
    }

    /// PROTOCOL H19: lanes of a node that is gone are never replayed again, and the lanes of the next opening begin anew.
    #[test]
    fn floors_of_lanes_are_kept_and_belong_to_the_lanes_that_there_are() {
        let superblock = with_floors();
        let read = parse(&encode(&superblock)[..]).expect("sound");
        assert_eq!(read, superblock);
        let mut journal = read.record.journal.expect("it has one");
        assert_eq!(journal.floors[..5], [77, 0, 0, 77, 0]);
        journal.raise_floors(0b0011, 50);
        assert_eq!(journal.floors[..5], [77, 50, 0, 77, 0], "no floor sinks");
        let cut = journal.with_lanes(2, 1, read.record.block).expect("it fits");
        assert_eq!(cut.floors, [0; 17]);
        let mut beyond = superblock;
        beyond.record.journal.as_mut().expect("it has one").floors[4] = 1;
        assert_eq!(beyond.check(), Err(RecordError::Journal));
    }

    #[test]
    fn what_other_nodes_are_told_is_the_record_alone() {
        let mut lost = full().record;
        lost.members.swap(0, 31);
        for record in [
            small().record,
            full().record,
            expanding().record,
            striped(1).record,
            lost,
        ] {
            let bytes = encode_shared(&record);
            assert_eq!(parse_shared(&bytes[..]), Ok(record));
        }
        assert_eq!(
            parse_shared(&encode(&small())[..]),
            Err(ParseError::Reserved),
            "a drive's copy is something else"
        );
    }

    #[test]
    fn unknown_values_are_refused_by_field() {
        let unknown = |field, value| Err(ParseError::Unknown { field, value });
        assert_eq!(tampered(LEVEL_AT, &[8]), unknown("level", 8));
        assert_eq!(tampered(BLOCK_SHIFT_AT, &[10]), unknown("block shift", 10));
        assert_eq!(tampered(BLOCK_SHIFT_AT, &[200]), unknown("block shift", 200));
        assert_eq!(tampered(FLAGS_AT, &[32]), unknown("flags", 32));
        assert_eq!(tampered(DURABILITY_AT, &[0]), unknown("durability", 0));
        assert_eq!(tampered(SCRATCH_AT, &[3]), unknown("state of an expansion", 3));
        assert_eq!(tampered(DURABILITY_AT, &[4]), unknown("durability", 4));
        assert_eq!(tampered(PARITY_AT, &[0]), unknown("state of the parity", 0));
        assert_eq!(
            tampered(MEMBER_TABLE_AT + 24, &[0]),
            unknown("state of a member", 0)
        );
    }

    #[test]
    fn counts_names_and_reserved_bytes_are_checked() {
        assert_eq!(
            tampered(MEMBERS_AT, &[33]),
            Err(ParseError::Record(RecordError::Members))
        );
        assert_eq!(
            tampered(MEMBERS_AT, &[1]),
            Err(ParseError::Record(RecordError::Members))
        );
        assert_eq!(
            tampered(VDISKS_AT, &[29]),
            Err(ParseError::Record(RecordError::Vdisks))
        );
        assert_eq!(
            tampered(SPARES_AT, &[9]),
            Err(ParseError::Record(RecordError::Spares))
        );
        assert_eq!(
            tampered(CARRIER_AT, &[CARRIER_SPARE | 1]),
            Err(ParseError::Record(RecordError::MemberIndex)),
            "there is one spare"
        );
        assert_eq!(
            tampered(CARRIER_AT, &[3]),
            Err(ParseError::Record(RecordError::MemberIndex))
        );
        assert_eq!(
            tampered(CARRIER_AT, &[0]),
            Err(ParseError::Record(RecordError::MemberIndex))
        );
        assert_eq!(tampered(NAME_LENGTH_AT, &[33]), Err(ParseError::Name("group")));
        assert_eq!(tampered(NAME_LENGTH_AT, &[0]), Err(ParseError::Name("group")));
        assert_eq!(tampered(NAME_AT, &[0xff]), Err(ParseError::Name("group")));
        assert_eq!(
            tampered(VDISK_TABLE_AT + 32, b"/"),
            Err(ParseError::Name("virtual disk"))
        );
        for reserved in [
            223,
            224,
            239,
            SPARE_TABLE_AT + 16,
            368,
            507,
            MEMBER_TABLE_AT + 25,
            MEMBER_TABLE_AT + 3 * 32,
            VDISK_TABLE_AT + 87,
            VDISK_TABLE_END,
            4095,
        ] {
            assert_eq!(
                tampered(reserved, &[1]),
                Err(ParseError::Reserved),
                "byte {reserved}"
            );
        }
    }
}
