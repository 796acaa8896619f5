//! The byte layout of a superblock record.
//!
//! All integers are little-endian. A CRC-32C covers the whole record but itself. Bytes that no
//! field owns are zero, and a record in which they are not is refused: its writer knew more than we.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `BRAIDSB1` |
//! | 8..10 | format version |
//! | 10..16 | level, block shift, members, member index, virtual disks, flags |
//! | 16..64 | array, group and drive UUID |
//! | 64..96, 96 | name and its length |
//! | 97 | state of the parity |
//! | 100..104 | strip in blocks |
//! | 104..152 | data start, rows, generation, previous generation, resync row, drive bytes: 8 bytes each |
//! | 252..256 | CRC-32C |
//! | 256..1280 | 32 members of 32 bytes: drive UUID, generation it was current at, state |
//! | 1280..4096 | 32 virtual disks of 88 bytes: UUID, NGUID, name, start, blocks, NSID, name length |

use nvme::crc32c;
use thiserror::Error;

use super::{
    GroupRecord, MEMBERS_MAX, MemberRecord, MemberState, NAME_BYTES_MAX, Name, ParityState, RECORD_BYTES,
    RecordError, Superblock, Uuid, VDISKS_MAX, VdiskRecord,
};
use crate::amf::MemberIndex;
use crate::amf::geometry::Level;
use crate::drive::block::{BlockSize, GroupLba, MemberLba};

pub(super) const MAGIC: [u8; 8] = *b"BRAIDSB1";
const VERSION: u16 = 1;

const LEVEL_AT: usize = 10;
const BLOCK_SHIFT_AT: usize = 11;
const MEMBERS_AT: usize = 12;
const MEMBER_AT: usize = 13;
const VDISKS_AT: usize = 14;
const FLAGS_AT: usize = 15;
const NAME_AT: usize = 64;
const NAME_LENGTH_AT: usize = 96;
const PARITY_AT: usize = 97;
const CRC_AT: usize = 252;
const MEMBER_TABLE_AT: usize = 256;
const MEMBER_BYTES: usize = 32;
const VDISK_TABLE_AT: usize = 1280;
const VDISK_BYTES: usize = 88;

const FLAG_CLEAN: u8 = 1;
const FLAG_FORMING: u8 = 1 << 1;
const FLAG_EXCLUSIVE_LOCAL: u8 = 1 << 2;

const _: () = assert!(MEMBER_TABLE_AT + MEMBERS_MAX * MEMBER_BYTES == VDISK_TABLE_AT);
const _: () = assert!(VDISK_TABLE_AT + VDISKS_MAX * VDISK_BYTES == RECORD_BYTES);

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
    #[error("format version {0}, this program knows {VERSION}: use the program that created the group")]
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
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[LEVEL_AT] = level_code(record.level);
    bytes[BLOCK_SHIFT_AT] = u8::try_from(record.block.shift()).expect("a shift is below 64");
    bytes[MEMBERS_AT] = u8::try_from(record.members.len()).expect("checked: at most 32");
    bytes[MEMBER_AT] = superblock.member.0;
    bytes[VDISKS_AT] = u8::try_from(record.vdisks.len()).expect("checked: at most 32");
    bytes[FLAGS_AT] = flag(FLAG_CLEAN, record.clean)
        | flag(FLAG_FORMING, record.forming)
        | flag(FLAG_EXCLUSIVE_LOCAL, record.exclusive_local);
    bytes[16..32].copy_from_slice(&record.array.0);
    bytes[32..48].copy_from_slice(&record.group.0);
    bytes[48..64].copy_from_slice(&superblock.drive().0);
    bytes[NAME_LENGTH_AT] = put_name(&mut bytes[NAME_AT..NAME_LENGTH_AT], &record.name);
    bytes[PARITY_AT] = parity_code(record.parity);
    bytes[100..104].copy_from_slice(&record.strip_blocks.to_le_bytes());
    let numbers = [
        record.data_start.0,
        record.rows,
        record.generation,
        record.previous,
        record.parity.next_row().unwrap_or(0),
        superblock.drive_bytes,
    ];
    for (index, number) in numbers.into_iter().enumerate() {
        put_u64(&mut bytes[104 + index * 8..], number);
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
    if version != VERSION {
        return Err(ParseError::Version(version));
    }
    let flags = bytes[FLAGS_AT];
    if flags & !(FLAG_CLEAN | FLAG_FORMING | FLAG_EXCLUSIVE_LOCAL) != 0 {
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
        members: parse_members(bytes)?,
        vdisks: parse_vdisks(bytes)?,
    };
    let superblock = Superblock {
        record,
        member: MemberIndex(bytes[MEMBER_AT]),
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

/// CRC-32C of the record without the four bytes that hold it.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::portable(crc32c::portable(0, &bytes[..CRC_AT]), &bytes[MEMBER_TABLE_AT..])
}

const fn flag(bit: u8, set: bool) -> u8 {
    if set { bit } else { 0 }
}

const fn level_code(level: Level) -> u8 {
    match level {
        Level::Raid5 => 5,
    }
}

const fn parse_level(value: u8) -> Result<Level, ParseError> {
    match value {
        5 => Ok(Level::Raid5),
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
        })
    };
    bytes[VDISK_TABLE_AT..]
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
    entry[80..84].copy_from_slice(&vdisk.nsid.to_le_bytes());
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

fn put_u64(bytes: &mut [u8], value: u64) {
    bytes[..8].copy_from_slice(&value.to_le_bytes());
}
