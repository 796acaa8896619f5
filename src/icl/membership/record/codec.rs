//! The byte layout of the records of the quorum area.
//!
//! All integers are little-endian. A CRC-32C in the last four bytes covers the rest. Bytes that no field owns are zero, and a record in
//! which they are not is refused. A block of zeros holds no record.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic: `BRAIDQPX`, `BRAIDQER`, `BRAIDQFC`, `BRAIDQHB` |
//! | 8..10, 10 | format version, slot |
//! | 12..28 | array |
//! | 28..508 | what the kind of record has |
//! | 508..512 | CRC-32C |
//!
//! From byte 28: a Paxos block has instance (4), mbal (8), bal (8), incarnation (8), whether there is a value (1), 3 unused, and the
//! value at 60; a decided record is a value at 28; a certificate has epoch (4), drive (1), all (1), victims (1), 1 unused, 16 keys
//! of 8; a heartbeat has epoch (4), incarnation (8), seq (8).
//!
//! A value has 432 bytes: epoch (4), flags (1), arbiter rule (1), members' slots as bits (1), victims (1), drives (8), voters (8), generation
//! (8), 8 members of incarnation and key (16 each, by slot), 16 victims of incarnation and key (16 each), slots of the victims (16).

use nvme::crc32c;

use super::{
    ArbiterRule, Ballot, Certificate, EpochRecord, Fault, Heartbeat, Kind, Member, PaxosBlock, QUORUM_BLOCKS,
    Quorum, RECORD_BYTES, RecordError, RecordFault, VICTIMS_MAX,
};
use crate::icl::membership::{ArrayId, DriveIndex, DriveSet, Epoch, Incarnation, Key, SLOTS, Slot, SlotSet};

const VERSION: u16 = 1;
const SLOT_AT: usize = 10;
const ARRAY_AT: usize = 12;
const CONTENT_AT: usize = 28;
const CRC_AT: usize = 508;
const VALUE_AT: usize = 60;

const MEMBERS_AT: usize = 32;
const MEMBER_BYTES: usize = 16;
const VICTIMS_AT: usize = MEMBERS_AT + SLOTS * MEMBER_BYTES;
const VICTIM_SLOTS_AT: usize = VICTIMS_AT + VICTIMS_MAX * MEMBER_BYTES;
/// Bytes of an epoch record inside another record or a message.
pub const VALUE_BYTES: usize = VICTIM_SLOTS_AT + VICTIMS_MAX;

const FLAG_CLEAN: u8 = 1;
const FLAG_DIRTY_RAM: u8 = 1 << 1;
const FLAG_FENCE_ALL: u8 = 1 << 2;
const FLAGS: u8 = FLAG_CLEAN | FLAG_DIRTY_RAM | FLAG_FENCE_ALL;

const _: () = assert!(VALUE_BYTES == 432);
const _: () = assert!(VALUE_AT + VALUE_BYTES <= CRC_AT);
const _: () = assert!(CONTENT_AT + 8 + VICTIMS_MAX * 8 <= CRC_AT);

type Bytes = [u8; RECORD_BYTES];

const fn magic(kind: Kind) -> [u8; 8] {
    match kind {
        Kind::Paxos => *b"BRAIDQPX",
        Kind::Decided => *b"BRAIDQER",
        Kind::Certificate => *b"BRAIDQFC",
        Kind::Heartbeat => *b"BRAIDQHB",
    }
}

/// Encodes a Paxos block.
///
/// Panics if it fails its own check: nothing that cannot be read back is ever written.
pub fn encode_paxos(array: ArrayId, block: &PaxosBlock) -> Bytes {
    block.check().expect("only sound blocks are written");
    let mut bytes = frame(Kind::Paxos, array, block.slot);
    put(&mut bytes, 28, &block.instance.0.to_le_bytes());
    put(&mut bytes, 32, &block.mbal.0.to_le_bytes());
    put(&mut bytes, 40, &block.bal.0.to_le_bytes());
    put(&mut bytes, 48, &block.incarnation.0.to_le_bytes());
    if let Some(value) = &block.value {
        bytes[56] = 1;
        put(&mut bytes, VALUE_AT, &encode_value(value));
    }
    sealed(bytes)
}

/// Parses a Paxos block; `None` if there is none yet.
pub fn parse_paxos(array: ArrayId, slot: Slot, bytes: &[u8]) -> Result<Option<PaxosBlock>, RecordError> {
    let parse = |bytes: &Bytes| {
        let value = match bytes[56] {
            0 => None,
            1 => Some(parse_value(&bytes[VALUE_AT..])?),
            value => return Err(unknown("presence of a value", value)),
        };
        let block = PaxosBlock {
            slot,
            incarnation: Incarnation(u64_at(bytes, 48)),
            instance: Epoch(u32_at(bytes, 28)),
            mbal: Ballot(u64_at(bytes, 32)),
            bal: Ballot(u64_at(bytes, 40)),
            value,
        };
        block.check()?;
        Ok(block)
    };
    parse_record(Kind::Paxos, array, slot, bytes, parse, encode_paxos)
}

/// Encodes the copy that `slot` keeps of a decided record.
///
/// Panics if it fails its own check.
pub fn encode_decided(array: ArrayId, slot: Slot, record: &EpochRecord) -> Bytes {
    let mut bytes = frame(Kind::Decided, array, slot);
    put(&mut bytes, CONTENT_AT, &encode_value(record));
    sealed(bytes)
}

/// Parses the copy that `slot` keeps of a decided record; `None` if it has none.
pub fn parse_decided(array: ArrayId, slot: Slot, bytes: &[u8]) -> Result<Option<EpochRecord>, RecordError> {
    let parse = |bytes: &Bytes| parse_value(&bytes[CONTENT_AT..]);
    let encode = |array, record: &EpochRecord| encode_decided(array, slot, record);
    parse_record(Kind::Decided, array, slot, bytes, parse, encode)
}

/// Encodes a certificate.
///
/// Panics if it fails its own check.
pub fn encode_certificate(array: ArrayId, certificate: &Certificate) -> Bytes {
    certificate.check().expect("only sound certificates are written");
    let mut bytes = frame(Kind::Certificate, array, certificate.slot);
    put(&mut bytes, 28, &certificate.epoch.0.to_le_bytes());
    bytes[32] = certificate.drive.number();
    bytes[33] = u8::from(certificate.all);
    bytes[34] = u8::try_from(certificate.victims.len()).expect("checked: at most 16");
    for (index, key) in certificate.victims.iter().enumerate() {
        put(&mut bytes, 36 + index * 8, &key.0.to_le_bytes());
    }
    sealed(bytes)
}

/// Parses a certificate; `None` if the slot has fenced nobody on this drive.
pub fn parse_certificate(
    array: ArrayId,
    slot: Slot,
    bytes: &[u8],
) -> Result<Option<Certificate>, RecordError> {
    let parse = |bytes: &Bytes| {
        let all = match bytes[33] {
            0 => false,
            1 => true,
            value => return Err(unknown("scope of a fence", value)),
        };
        let count = usize::from(bytes[34]);
        if count > VICTIMS_MAX {
            return Err(RecordFault::Victims.into());
        }
        let certificate = Certificate {
            slot,
            epoch: Epoch(u32_at(bytes, 28)),
            drive: DriveIndex::new(bytes[32]).ok_or(unknown("drive", bytes[32]))?,
            all,
            victims: (0..count)
                .map(|index| Key(u64_at(bytes, 36 + index * 8)))
                .collect(),
        };
        certificate.check()?;
        Ok(certificate)
    };
    parse_record(Kind::Certificate, array, slot, bytes, parse, encode_certificate)
}

/// Encodes a heartbeat.
pub fn encode_heartbeat(array: ArrayId, heartbeat: &Heartbeat) -> Bytes {
    let mut bytes = frame(Kind::Heartbeat, array, heartbeat.slot);
    put(&mut bytes, 28, &heartbeat.epoch.0.to_le_bytes());
    put(&mut bytes, 32, &heartbeat.incarnation.0.to_le_bytes());
    put(&mut bytes, 40, &heartbeat.seq.to_le_bytes());
    sealed(bytes)
}

/// Parses a heartbeat; `None` if the slot never had one.
pub fn parse_heartbeat(array: ArrayId, slot: Slot, bytes: &[u8]) -> Result<Option<Heartbeat>, RecordError> {
    let parse = |bytes: &Bytes| {
        Ok(Heartbeat {
            slot,
            incarnation: Incarnation(u64_at(bytes, 32)),
            epoch: Epoch(u32_at(bytes, 28)),
            seq: u64_at(bytes, 40),
        })
    };
    parse_record(Kind::Heartbeat, array, slot, bytes, parse, encode_heartbeat)
}

/// Parses the first [`QUORUM_BLOCKS`] blocks of an area, each `block_bytes` long.
///
/// One damaged record spoils the drive's answer: what it held might be what matters.
///
/// Panics if a block is smaller than a record.
pub fn parse_quorum(array: ArrayId, block_bytes: usize, bytes: &[u8]) -> Result<Quorum, RecordError> {
    assert!(block_bytes >= RECORD_BYTES, "a record fits into a block");
    let at = |kind: Kind, slot: Slot| {
        let block = kind.block(slot);
        assert!(block < QUORUM_BLOCKS, "heartbeats are read on their own");
        bytes
            .get(block * block_bytes..(block + 1) * block_bytes)
            .unwrap_or(&[])
    };
    let mut quorum = Quorum::default();
    for slot in Slot::all() {
        quorum
            .blocks
            .extend(parse_paxos(array, slot, at(Kind::Paxos, slot))?);
        let decided = parse_decided(array, slot, at(Kind::Decided, slot))?;
        quorum.decided.extend(decided.map(|record| (slot, record)));
        quorum
            .certificates
            .extend(parse_certificate(array, slot, at(Kind::Certificate, slot))?);
    }
    Ok(quorum)
}

/// Parses the last [`SLOTS`] blocks of an area, each `block_bytes` long. A damaged heartbeat counts as none.
///
/// Panics if a block is smaller than a record.
pub fn parse_heartbeats(array: ArrayId, block_bytes: usize, bytes: &[u8]) -> Vec<Heartbeat> {
    assert!(block_bytes >= RECORD_BYTES, "a record fits into a block");
    Slot::all()
        .filter_map(|slot| {
            let at = slot.index() * block_bytes;
            let block = bytes.get(at..at + block_bytes)?;
            parse_heartbeat(array, slot, block).ok().flatten()
        })
        .collect()
}

/// Encodes an epoch record as part of another record or of a message.
///
/// Panics if it fails its own check.
pub fn encode_value(record: &EpochRecord) -> [u8; VALUE_BYTES] {
    record.check().expect("only sound records are written");
    let mut bytes = [0; VALUE_BYTES];
    put(&mut bytes, 0, &record.epoch.0.to_le_bytes());
    bytes[4] = flag(FLAG_CLEAN, record.clean)
        | flag(FLAG_DIRTY_RAM, record.dirty_ram)
        | flag(FLAG_FENCE_ALL, record.fence_all);
    bytes[5] = match record.arbiter {
        ArbiterRule::LastWriter => 1,
        ArbiterRule::Map => 2,
    };
    bytes[6] = record.slots().0;
    bytes[7] = u8::try_from(record.victims.len()).expect("checked: at most 16");
    put(&mut bytes, 8, &record.drives.0.to_le_bytes());
    put(&mut bytes, 16, &record.voters.0.to_le_bytes());
    put(&mut bytes, 24, &record.generation.to_le_bytes());
    for member in &record.members {
        put_member(
            &mut bytes,
            MEMBERS_AT + member.slot.index() * MEMBER_BYTES,
            member,
        );
    }
    for (index, victim) in record.victims.iter().enumerate() {
        put_member(&mut bytes, VICTIMS_AT + index * MEMBER_BYTES, victim);
        bytes[VICTIM_SLOTS_AT + index] = victim.slot.number();
    }
    bytes
}

/// Parses an epoch record at the start of `bytes`.
pub fn parse_value(bytes: &[u8]) -> Result<EpochRecord, Fault> {
    let whole = bytes.get(..VALUE_BYTES).ok_or(Fault::Length(bytes.len()))?;
    let flags = whole[4];
    if flags & !FLAGS != 0 {
        return Err(unknown("flags", flags));
    }
    let victims = usize::from(whole[7]);
    if victims > VICTIMS_MAX {
        return Err(RecordFault::Victims.into());
    }
    let members = SlotSet(whole[6]).iter();
    let member_at = |slot: Slot, at: usize| Member {
        slot,
        incarnation: Incarnation(u64_at(whole, at)),
        key: Key(u64_at(whole, at + 8)),
    };
    let victim = |index: usize| {
        let number = whole[VICTIM_SLOTS_AT + index];
        let slot = Slot::new(number).ok_or(unknown("slot of a victim", number))?;
        Ok(member_at(slot, VICTIMS_AT + index * MEMBER_BYTES))
    };
    let record = EpochRecord {
        epoch: Epoch(u32_at(whole, 0)),
        members: members
            .map(|slot| member_at(slot, MEMBERS_AT + slot.index() * MEMBER_BYTES))
            .collect(),
        victims: (0..victims).map(victim).collect::<Result<_, Fault>>()?,
        fence_all: flags & FLAG_FENCE_ALL != 0,
        drives: DriveSet(u64_at(whole, 8)),
        voters: DriveSet(u64_at(whole, 16)),
        generation: u64_at(whole, 24),
        arbiter: match whole[5] {
            1 => ArbiterRule::LastWriter,
            2 => ArbiterRule::Map,
            value => return Err(unknown("arbiter rule", value)),
        },
        clean: flags & FLAG_CLEAN != 0,
        dirty_ram: flags & FLAG_DIRTY_RAM != 0,
    };
    record.check()?;
    if encode_value(&record)[..] == *whole {
        Ok(record)
    } else {
        Err(Fault::Reserved)
    }
}

fn put_member(bytes: &mut [u8], at: usize, member: &Member) {
    put(bytes, at, &member.incarnation.0.to_le_bytes());
    put(bytes, at + 8, &member.key.0.to_le_bytes());
}

/// A record without content and checksum.
fn frame(kind: Kind, array: ArrayId, slot: Slot) -> Bytes {
    let mut bytes = [0; RECORD_BYTES];
    put(&mut bytes, 0, &magic(kind));
    put(&mut bytes, 8, &VERSION.to_le_bytes());
    bytes[SLOT_AT] = slot.number();
    put(&mut bytes, ARRAY_AT, &array.0);
    bytes
}

fn sealed(mut bytes: Bytes) -> Bytes {
    let crc = crc32c::portable(0, &bytes[..CRC_AT]);
    put(&mut bytes, CRC_AT, &crc.to_le_bytes());
    bytes
}

/// Checks everything that all records have, and then that no bytes hide between the fields.
fn parse_record<T>(
    kind: Kind,
    array: ArrayId,
    slot: Slot,
    bytes: &[u8],
    parse: impl Fn(&Bytes) -> Result<T, Fault>,
    encode: impl Fn(ArrayId, &T) -> Bytes,
) -> Result<Option<T>, RecordError> {
    let checked = || -> Result<Option<T>, Fault> {
        let Some((record, rest)) = bytes.split_first_chunk::<RECORD_BYTES>() else {
            return Err(Fault::Length(bytes.len()));
        };
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if record[..8] != magic(kind) {
            return Err(Fault::Magic);
        }
        if crc32c::portable(0, &record[..CRC_AT]) != u32_at(record, CRC_AT) {
            return Err(Fault::Checksum);
        }
        let version = u16::from_le_bytes([record[8], record[9]]);
        if version != VERSION {
            return Err(Fault::Version(version));
        }
        if record[ARRAY_AT..CONTENT_AT] != array.0 {
            return Err(Fault::OtherArray);
        }
        if record[SLOT_AT] != slot.number() {
            return Err(Fault::OtherSlot(record[SLOT_AT]));
        }
        let parsed = parse(record)?;
        if encode(array, &parsed) != *record || rest.iter().any(|byte| *byte != 0) {
            return Err(Fault::Reserved);
        }
        Ok(Some(parsed))
    };
    checked().map_err(|fault| RecordError { kind, slot, fault })
}

const fn unknown(field: &'static str, value: u8) -> Fault {
    Fault::Unknown { field, value }
}

const fn flag(bit: u8, set: bool) -> u8 {
    if set { bit } else { 0 }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
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

#[cfg(test)]
mod tests {
    use super::*;

    const ARRAY: ArrayId = ArrayId([7; 16]);

    fn slot(number: u8) -> Slot {
        Slot::new(number).unwrap()
    }

    fn member(number: u8, epoch: u32, random: u32) -> Member {
        Member {
            slot: slot(number),
            incarnation: Incarnation(u64::from(random) << 32 | 5),
            key: slot(number).key(Epoch(epoch), random),
        }
    }

    fn record() -> EpochRecord {
        EpochRecord {
            epoch: Epoch(9),
            members: vec![member(0, 3, 11), member(2, 9, 12), member(7, 4, 13)],
            victims: vec![member(2, 5, 14), member(1, 6, 15)],
            fence_all: true,
            drives: DriveSet(0b1_1011),
            voters: DriveSet(0b111),
            generation: 77,
            arbiter: ArbiterRule::Map,
            clean: false,
            dirty_ram: true,
        }
    }

    fn full() -> EpochRecord {
        let victims = |epoch| (0..8).map(move |number| member(number, epoch, 100));
        EpochRecord {
            members: (0..8).map(|number| member(number, 9, 1)).collect(),
            victims: victims(3).chain(victims(4)).collect(),
            clean: true,
            dirty_ram: false,
            ..record()
        }
    }

    fn block() -> PaxosBlock {
        PaxosBlock {
            slot: slot(2),
            incarnation: Incarnation(44),
            instance: Epoch(9),
            mbal: Ballot(3 << 3 | 2),
            bal: Ballot(2 << 3 | 2),
            value: Some(record()),
        }
    }

    fn certificate() -> Certificate {
        Certificate {
            slot: slot(2),
            epoch: Epoch(9),
            drive: DriveIndex::new(4).unwrap(),
            all: true,
            victims: record().victims.iter().map(|victim| victim.key).collect(),
        }
    }

    fn heartbeat() -> Heartbeat {
        Heartbeat {
            slot: slot(2),
            incarnation: Incarnation(44),
            epoch: Epoch(9),
            seq: 1234,
        }
    }

    /// One record of each kind, and what a parser says of such bytes.
    type Sample = (Bytes, fn(&[u8]) -> Result<Option<Bytes>, RecordError>);

    fn samples() -> [Sample; 5] {
        let paxos: Sample = (encode_paxos(ARRAY, &block()), |bytes| {
            parse_paxos(ARRAY, slot(2), bytes).map(|it| it.map(|it| encode_paxos(ARRAY, &it)))
        });
        let decided: fn(&[u8]) -> _ = |bytes| {
            let parsed = parse_decided(ARRAY, slot(2), bytes);
            parsed.map(|it| it.map(|it| encode_decided(ARRAY, slot(2), &it)))
        };
        [
            paxos,
            (encode_decided(ARRAY, slot(2), &record()), decided),
            (encode_decided(ARRAY, slot(2), &full()), decided),
            (encode_certificate(ARRAY, &certificate()), |bytes| {
                let parsed = parse_certificate(ARRAY, slot(2), bytes);
                parsed.map(|it| it.map(|it| encode_certificate(ARRAY, &it)))
            }),
            (encode_heartbeat(ARRAY, &heartbeat()), |bytes| {
                parse_heartbeat(ARRAY, slot(2), bytes).map(|it| it.map(|it| encode_heartbeat(ARRAY, &it)))
            }),
        ]
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(
            parse_paxos(ARRAY, slot(2), &encode_paxos(ARRAY, &block())),
            Ok(Some(block()))
        );
        let fresh = PaxosBlock {
            bal: Ballot(0),
            value: None,
            ..block()
        };
        assert_eq!(
            parse_paxos(ARRAY, slot(2), &encode_paxos(ARRAY, &fresh)),
            Ok(Some(fresh))
        );
        for record in [record(), full()] {
            let bytes = encode_decided(ARRAY, slot(3), &record);
            assert_eq!(parse_decided(ARRAY, slot(3), &bytes), Ok(Some(record)));
        }
        let bytes = encode_certificate(ARRAY, &certificate());
        assert_eq!(parse_certificate(ARRAY, slot(2), &bytes), Ok(Some(certificate())));
        let bytes = encode_heartbeat(ARRAY, &heartbeat());
        assert_eq!(parse_heartbeat(ARRAY, slot(2), &bytes), Ok(Some(heartbeat())));
    }

    const LAYOUT: [u32; 5] = [
        3_146_235_241,
        631_240_564,
        2_306_160_949,
        4_084_057_219,
        2_460_016_260,
    ];

    /// The layout is a promise to drives that exist: this fails if a byte of it moves.
    #[test]
    fn layout_is_frozen() {
        assert_eq!(
            samples().map(|(bytes, _)| crc32c::portable(0, &bytes[..CRC_AT])),
            LAYOUT
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for (mut bytes, parse) in samples() {
            for at in 0..RECORD_BYTES {
                for bit in 0..8 {
                    bytes[at] ^= 1 << bit;
                    assert!(parse(&bytes).is_err(), "byte {at} bit {bit}");
                    bytes[at] ^= 1 << bit;
                }
            }
        }
    }

    /// A byte that is wrong under a right checksum is refused, or is another sound record in full.
    #[test]
    fn every_changed_byte_under_a_right_checksum_is_checked() {
        let mut accepted = 0;
        for (good, parse) in samples() {
            for at in 0..CRC_AT {
                for value in [0, 1, 2, 3, 0x7f, 0x80, 0xff] {
                    let mut bytes = good;
                    bytes[at] = value;
                    let bytes = sealed(bytes);
                    if let Ok(Some(parsed)) = parse(&bytes) {
                        assert_eq!(parsed, bytes, "byte {at} = {value}");
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
        for round in 0..4000 {
            for (mut bytes, parse) in samples() {
                for byte in &mut bytes[if round % 2 == 0 { 0 } else { 34 }..] {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    *byte = state.to_le_bytes()[3];
                }
                if round % 2 == 1 {
                    bytes = sealed(bytes);
                }
                assert!(parse(&bytes).is_err());
            }
        }
    }

    #[test]
    fn a_refusal_says_what_and_where() {
        let good = encode_paxos(ARRAY, &block());
        let says = |slot, bytes: &[u8]| parse_paxos(ARRAY, slot, bytes).unwrap_err();
        let error = says(slot(3), &good);
        assert_eq!(error.fault, Fault::OtherSlot(2));
        assert_eq!(
            error.to_string(),
            "Paxos block of slot 3: it belongs to slot 2: misdirected"
        );
        assert_eq!(says(slot(2), &good[..511]).fault, Fault::Length(511));
        let tampered = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            says(slot(2), &sealed(bytes)).fault
        };
        assert_eq!(tampered(0, b'X'), Fault::Magic);
        assert_eq!(tampered(8, 2), Fault::Version(2));
        assert_eq!(tampered(20, 1), Fault::OtherArray);
        assert_eq!(tampered(56, 2), unknown("presence of a value", 2));
        assert_eq!(tampered(VALUE_AT + 4, 128), unknown("flags", 128));
        assert_eq!(tampered(VALUE_AT + 5, 0), unknown("arbiter rule", 0));
        assert_eq!(tampered(VALUE_AT + 7, 17), Fault::Record(RecordFault::Victims));
        assert_eq!(tampered(VALUE_AT + 8, 1), Fault::Record(RecordFault::Drives));
        assert_eq!(tampered(VALUE_AT + 16, 3), Fault::Record(RecordFault::Voters));
        assert_eq!(tampered(500, 1), Fault::Reserved);
        let mut torn = good;
        torn[256..].fill(0);
        assert_eq!(says(slot(2), &torn).fault, Fault::Checksum);
        let mut padded = vec![0; 4096];
        assert_eq!(parse_paxos(ARRAY, slot(2), &padded), Ok(None));
        padded[..512].copy_from_slice(&good);
        assert_eq!(parse_paxos(ARRAY, slot(2), &padded), Ok(Some(block())));
        padded[4000] = 1;
        assert_eq!(says(slot(2), &padded).fault, Fault::Reserved);
    }

    #[test]
    fn an_area_is_read_as_a_whole() {
        for block_bytes in [512, 4096] {
            let mut area = vec![0; super::super::AREA_BLOCKS * block_bytes];
            let mut place = |kind: Kind, slot: Slot, bytes: &Bytes| {
                area[kind.block(slot) * block_bytes..][..RECORD_BYTES].copy_from_slice(bytes);
            };
            place(Kind::Paxos, slot(2), &encode_paxos(ARRAY, &block()));
            place(Kind::Decided, slot(5), &encode_decided(ARRAY, slot(5), &record()));
            place(
                Kind::Certificate,
                slot(2),
                &encode_certificate(ARRAY, &certificate()),
            );
            place(Kind::Heartbeat, slot(2), &encode_heartbeat(ARRAY, &heartbeat()));
            let split = QUORUM_BLOCKS * block_bytes;
            let quorum = parse_quorum(ARRAY, block_bytes, &area[..split]).unwrap();
            assert_eq!(quorum.blocks, [block()]);
            assert_eq!(quorum.newest(), Some(&record()));
            assert!(quorum.certifies(record().victims[0].key) && !quorum.certifies(Key(1)));
            assert_eq!(
                parse_heartbeats(ARRAY, block_bytes, &area[split..]),
                [heartbeat()]
            );
            area[Kind::Decided.block(slot(5)) * block_bytes + 100] ^= 1;
            let error = parse_quorum(ARRAY, block_bytes, &area[..split]).unwrap_err();
            assert_eq!(
                (error.kind, error.slot, error.fault),
                (Kind::Decided, slot(5), Fault::Checksum)
            );
        }
    }
}
