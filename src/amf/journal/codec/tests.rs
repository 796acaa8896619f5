use super::*;
use crate::amf::geometry::Level;

const GROUP: Uuid = Uuid([7; 16]);

fn header() -> BatchHeader {
    BatchHeader {
        group: GROUP,
        incarnation: 3,
        lane: 2,
        batch: 99,
        position: 40,
        tail: 1000,
        payload_blocks: 12,
    }
}

fn entries() -> Vec<Entry> {
    let row = RowIndex(5);
    vec![
        Entry::Write {
            members: 4,
            row: RowIndex(9),
            start_blocks: 3,
            blocks: 8,
            seq: 1001,
            payload_block: 0,
        },
        Entry::Zero {
            members: 4,
            row: RowIndex((1 << 32) - 1),
            start_blocks: 0,
            blocks: 1 << 16,
            seq: 1002,
        },
        Entry::Check {
            members: 4,
            row,
            index: 0,
            offset_blocks: 6,
            blocks: 2,
            seq: 1003,
            payload_block: 8,
        },
        Entry::Check {
            members: 4,
            row,
            index: 1,
            offset_blocks: 6,
            blocks: 2,
            seq: 1004,
            payload_block: 10,
        },
        Entry::Destage {
            members: 4,
            row,
            cut: 990,
            checks: 2,
            seq: 1005,
        },
        Entry::Destage {
            members: 4,
            row: RowIndex(6),
            cut: 991,
            checks: 0,
            seq: 1006,
        },
    ]
}

fn encoded(block: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; block];
    encode(&header(), &entries(), 0xfeed_beef, &mut bytes);
    bytes
}

/// Puts the right checksum onto a header that was tampered with.
fn sign(bytes: &mut [u8]) {
    let crc = checksum(bytes);
    put_u32(bytes, CRC_AT, crc);
}

fn tampered(at: usize, patch: &[u8]) -> Result<Batch, ParseError> {
    let mut bytes = encoded(512);
    bytes[at..at + patch.len()].copy_from_slice(patch);
    sign(&mut bytes);
    parse(&bytes)
}

/// H23: a header is one block of the drive, whichever size that has.
#[test]
fn what_is_written_is_read_back() {
    for block in [512, 4096] {
        let batch = parse(&encoded(block)).expect("a sound header");
        assert_eq!((batch.header, batch.payload_crc), (header(), 0xfeed_beef));
        assert_eq!(batch.entries, entries());
    }
    let mut bytes = vec![0; 512];
    encode(&header(), &[], 0, &mut bytes);
    assert_eq!(parse(&bytes).expect("only a tail").entries, []);
}

/// H36: an entry says which layout its row has; one that says none is not a sound writer's.
#[test]
fn an_entry_has_a_layout() {
    let at = HEADER_BYTES + 2;
    for members in [0, 33, 255] {
        let wrong = Err(ParseError::Field(Field::Members));
        assert_eq!(tampered(at, &[members]), wrong, "{members} members");
    }
    let batch = tampered(at, &[32]).expect("a group may have 32 members");
    assert_eq!(batch.entries[0].members(), 32);
}

#[test]
fn a_full_header_is_read_back() {
    for (block, count) in [(512, 13), (4096, 125)] {
        let full: Vec<_> = (0..count)
            .map(|index| Entry::Zero {
                members: 4,
                row: RowIndex(index),
                start_blocks: 1,
                blocks: 2,
                seq: 1000 + index,
            })
            .collect();
        let mut bytes = vec![0; block];
        encode(&header(), &full, 0, &mut bytes);
        assert_eq!(parse(&bytes).expect("a full header").entries, full);
        put_u32(
            &mut bytes,
            ENTRY_COUNT_AT,
            u32::try_from(count).expect("small") + 1,
        );
        sign(&mut bytes);
        assert_eq!(parse(&bytes), Err(ParseError::Field(Field::EntryCount)));
    }
}

/// The layout is a promise to drives that exist: this fails if a byte of it moves.
#[test]
fn layout_is_frozen() {
    assert_eq!(crc32c::portable(0, &encoded(512)), LAYOUT_512);
    assert_eq!(crc32c::portable(0, &encoded(4096)), LAYOUT_4096);
}

const LAYOUT_512: u32 = 274_058_868;
const LAYOUT_4096: u32 = 914_426_721;

#[test]
fn every_flipped_bit_is_noticed() {
    for block in [512, 4096] {
        let mut bytes = encoded(block);
        for at in 0..block {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(parse(&bytes).is_err(), "byte {at} bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

/// A checksum proves nothing about its writer: whatever the bytes under it, the parser answers and what it
/// accepts it would have written itself.
#[test]
fn signed_nonsense_never_panics_and_nothing_hides_in_it() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut accepted = 0;
    for round in 0..60_000 {
        let mut bytes = encoded(512);
        for _ in 0..1 + round % 3 {
            let at = usize::try_from(random() % 512).expect("small");
            bytes[at] = if random() & 1 == 0 {
                random().to_le_bytes()[0]
            } else {
                bytes[at] ^ (1 << (random() % 8))
            };
        }
        sign(&mut bytes);
        if let Ok(batch) = parse(&bytes) {
            accepted += 1;
            let mut again = vec![0; 512];
            encode(&batch.header, &batch.entries, batch.payload_crc, &mut again);
            assert_eq!(again, bytes);
        }
    }
    assert!(accepted > 1000, "the test reaches what is accepted too");
    for length in [0, 1, 511, 513, 4095, 8192] {
        assert_eq!(parse(&vec![0; length]), Err(ParseError::Length(length)));
    }
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..512).map(|_| random().to_le_bytes()[0]).collect();
        assert_eq!(parse(&bytes), Err(ParseError::Magic));
    }
}

#[test]
fn impossible_fields_are_named() {
    let entry = |index: usize, at: usize| HEADER_BYTES + index * ENTRY_BYTES + at;
    assert_eq!(tampered(0, b"BRAIDSB1"), Err(ParseError::Magic));
    assert_eq!(tampered(VERSION_AT, &[4, 0]), Err(ParseError::Version(4)));
    let field = |field| Err(ParseError::Field(field));
    assert_eq!(tampered(RESERVED_AT, &[1]), field(Field::Reserved));
    assert_eq!(tampered(511, &[1]), field(Field::Reserved));
    assert_eq!(tampered(entry(0, 3), &[1]), field(Field::Reserved));
    assert_eq!(
        tampered(entry(0, 1), &[1]),
        field(Field::Reserved),
        "a write has no index"
    );
    assert_eq!(
        tampered(entry(1, 4), &[1]),
        field(Field::Reserved),
        "zeroes have no payload"
    );
    assert_eq!(tampered(entry(0, 0), &[0]), field(Field::Kind));
    assert_eq!(tampered(entry(0, 0), &[5]), field(Field::Kind));
    assert_eq!(tampered(entry(0, 12), &[0]), field(Field::Blocks));
    assert_eq!(tampered(entry(1, 8), &[255; 4]), field(Field::Blocks));
    assert_eq!(
        tampered(entry(0, 4), &[5]),
        field(Field::Payload),
        "into the next one's part"
    );
    assert_eq!(tampered(entry(0, 12), &[255; 4]), field(Field::Payload));
    assert_eq!(tampered(PAYLOAD_BLOCKS_AT, &[11]), field(Field::Payload));
    assert_eq!(tampered(TAIL_AT, &1002u64.to_le_bytes()), field(Field::Sequence));
    assert_eq!(tampered(entry(0, 24), &[255; 8]), field(Field::Sequence));
}

#[test]
fn checks_stand_directly_before_their_destage() {
    let entry = |index: usize, at: usize| HEADER_BYTES + index * ENTRY_BYTES + at;
    let wrong = Err(ParseError::Field(Field::Destage));
    assert_eq!(tampered(entry(2, 16), &[6]), wrong, "of another row");
    assert_eq!(tampered(entry(4, 16), &[6]), wrong, "destage of another row");
    assert_eq!(tampered(entry(4, 1), &[1]), wrong, "two stand there");
    assert_eq!(tampered(entry(5, 1), &[1]), wrong, "none stands there");
    assert_eq!(
        tampered(entry(4, 8), &1006u64.to_le_bytes()),
        wrong,
        "a cut in the future"
    );
    assert_eq!(
        tampered(ENTRY_COUNT_AT, &[4]),
        Err(ParseError::Field(Field::Reserved))
    );
    let mut bytes = vec![0; 512];
    encode(&header(), &entries(), 0, &mut bytes);
    bytes[entry(4, 0)..].fill(0);
    bytes[ENTRY_COUNT_AT] = 4;
    sign(&mut bytes);
    assert_eq!(parse(&bytes), wrong, "checks without a destage");
    let mut between = entries();
    between.swap(1, 3);
    let verdict = check(&header(), &[between[2], between[3], between[4]]);
    assert_eq!(verdict, Err(Field::Destage), "zeroes between check and destage");
}

#[test]
fn entries_outside_of_the_group_do_not_fit() {
    let geometry = Geometry::new(Level::Raid5, 4, 8, MemberLba(1000), 10, BlockSize::B4096).expect("legal");
    let write = |row, start_blocks, blocks| Entry::Write {
        members: 4,
        row: RowIndex(row),
        start_blocks,
        blocks,
        seq: 1,
        payload_block: 0,
    };
    let check = |index, offset_blocks, blocks| Entry::Check {
        members: 4,
        row: RowIndex(9),
        index,
        offset_blocks,
        blocks,
        seq: 1,
        payload_block: 0,
    };
    for (entry, fits) in [
        (write(9, 0, 24), true),
        (write(9, 23, 1), true),
        (write(10, 0, 1), false),
        (write(9, 24, 1), false),
        (write(9, 1, 24), false),
        (write(0, u32::MAX, 1), false),
        (check(0, 0, 8), true),
        (check(0, 1, 8), false),
        (check(1, 0, 8), false),
    ] {
        assert_eq!(entry.fits(&geometry), fits, "{entry:?}");
    }
    let long = Geometry::new(Level::Raid5, 32, 256, MemberLba(0), 1, BlockSize::B4096).expect("legal");
    assert!(
        write(0, 0, 256).fits(&long) && !write(0, 0, 257).fits(&long),
        "1 MiB at most"
    );
}

#[test]
fn lanes_follow_one_another_and_hold_what_they_must() {
    let layout = JournalLayout {
        start: MemberLba(256),
        lane_blocks: 100,
        lanes: 4,
        incarnation: 1,
        group: GROUP,
        block: BlockSize::B4096,
    };
    assert_eq!(layout.lane_start(0), MemberLba(256));
    assert_eq!(layout.lba(3, 99), MemberLba(256 + 399));
    assert_eq!(layout.lane_start(layout.recovery_lane()), MemberLba(256 + 400));
    assert_eq!(layout.region_blocks(), 500);
    let geometry = Geometry::new(Level::Raid5, 4, 16, MemberLba(1000), 10, BlockSize::B4096).expect("legal");
    assert_eq!(lane_blocks_min(&geometry), 4 * (48 + 1 + 16 + 1));
    let wide = Geometry::new(Level::Raid5, 32, 16, MemberLba(1000), 10, BlockSize::B4096).expect("legal");
    assert_eq!(lane_blocks_min(&wide), 4 * (256 + 1 + 16 + 1));
}
