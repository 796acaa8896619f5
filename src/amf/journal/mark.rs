//! Marks: what a replay says in the recovery lane to whoever replays the same journal after it.
//!
//! Two things may not be done twice, or by everybody, and nothing else in the journal tells them. Destages of a row that
//! are in place must not be done once more when newer data of the row is in place, too: it came there by a round whose
//! record is lost with the next one. And a member that a replay went on without has missed what was written, whatever
//! superblocks say that are older than that.
//!
//! A mark is a header of one block and a list of rows, in one of two *slots* at the end of the recovery lane that rounds
//! leave alone. Each says all that the one before it said, as far as it still matters, and is written to the other slot,
//! to all members that are there: so a torn one leaves the one before it whole. All integers are little-endian; bytes
//! that no field owns are zero.
//!
//! | bytes of the header | field |
//! |---|---|
//! | 0..8 | magic `BRAIDJM1` |
//! | 8..12 | CRC-32C of the header |
//! | 12..16 | CRC-32C of the rows |
//! | 16..32 | group UUID |
//! | 32..56 | incarnation, number of the mark, sequence number, 8 bytes each |
//! | 56..60, 60..64 | position in the lane, members that it was written without |
//! | 64..68 | number of rows |
//!
//! A row takes 16 bytes: its index, and the sequence number of its newest destage that is in place. Rows ascend.

use std::collections::BTreeMap;

use nvme::crc32c;

use super::codec::{JournalLayout, put_u32, put_u64, u32_at, u64_at};
use crate::amf::RowIndex;

const MAGIC: [u8; 8] = *b"BRAIDJM1";
const CRC_AT: usize = 8;
const ROWS_CRC_AT: usize = 12;
const GROUP_AT: usize = 16;
const INCARNATION_AT: usize = 32;
const NUMBER_AT: usize = 40;
const SEQ_AT: usize = 48;
const POSITION_AT: usize = 56;
const WITHOUT_AT: usize = 60;
const COUNT_AT: usize = 64;
const END: usize = 68;
const ROW_BYTES: usize = 16;

/// Numbers that no sound writer reaches: those that follow on a mark have to exist.
const NUMBERS_MAX: u64 = u64::MAX / 2;

/// Of a lane each slot takes this part, and at least a header and a block of rows.
const SLOT_PART: u32 = 8;
const SLOT_BLOCKS_MIN: u32 = 2;

/// What a replay leaves for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Grows with each; its parity names the slot.
    pub number: u64,
    /// Members that missed what was written since, as a mask.
    pub without: u32,
    /// Its own sequence number: it is over when entries below a higher one are, in the recovery lane.
    pub seq: u64,
    /// Destages of these rows are in place on all other members, up to this sequence number, in whichever lane.
    pub in_place: BTreeMap<RowIndex, u64>,
}

/// A header as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// As in [`Mark`].
    pub number: u64,
    without: u32,
    /// As in [`Mark`].
    pub seq: u64,
    rows: u32,
    /// CRC-32C of the blocks behind the header.
    pub rows_crc: u32,
    /// Blocks behind the header.
    pub payload_blocks: u32,
}

/// Blocks of a slot.
const fn slot_blocks(journal: &JournalLayout) -> u32 {
    let part = journal.lane_blocks / SLOT_PART;
    if part < SLOT_BLOCKS_MIN {
        SLOT_BLOCKS_MIN
    } else {
        part
    }
}

/// Blocks at the start of the recovery lane that rounds may take.
pub const fn round_blocks(journal: &JournalLayout) -> u32 {
    journal.lane_blocks.saturating_sub(2 * slot_blocks(journal))
}

/// Where the mark with this number lies in the recovery lane.
pub const fn position(journal: &JournalLayout, number: u64) -> u32 {
    let slot = if number.is_multiple_of(2) { 0 } else { 1 };
    round_blocks(journal) + slot * slot_blocks(journal)
}

/// Most rows of a mark.
pub fn rows_max(journal: &JournalLayout) -> usize {
    (slot_blocks(journal) - 1) as usize * (journal.block.bytes() as usize / ROW_BYTES)
}

/// A mark as blocks of the recovery lane, to be written at its [`position`].
///
/// Panics if it has more than [`rows_max`] rows.
pub fn encode(mark: &Mark, journal: &JournalLayout) -> Vec<u8> {
    assert!(mark.in_place.len() <= rows_max(journal), "a mark fits its slot");
    let block = journal.block.bytes() as usize;
    let mut bytes = vec![0; block];
    for (row, seq) in &mark.in_place {
        bytes.extend(row.0.to_le_bytes());
        bytes.extend(seq.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(block), 0);
    let rows_crc = crc32c::portable(0, &bytes[block..]);
    let count = u32::try_from(mark.in_place.len()).expect("a slot has few rows");
    let head = &mut bytes[..block];
    head[..CRC_AT].copy_from_slice(&MAGIC);
    head[GROUP_AT..INCARNATION_AT].copy_from_slice(&journal.group.0);
    put_u32(head, ROWS_CRC_AT, rows_crc);
    put_u64(head, INCARNATION_AT, journal.incarnation);
    put_u64(head, NUMBER_AT, mark.number);
    put_u64(head, SEQ_AT, mark.seq);
    put_u32(head, POSITION_AT, position(journal, mark.number));
    put_u32(head, WITHOUT_AT, mark.without);
    put_u32(head, COUNT_AT, count);
    let crc = checksum(head);
    put_u32(head, CRC_AT, crc);
    bytes
}

/// The header of a mark of this journal, if the block is one and lies where it says. `None` for anything else; never panics.
pub fn parse(block: &[u8], at: u32, journal: &JournalLayout) -> Option<Head> {
    if block.len() < END || block[..CRC_AT] != MAGIC || checksum(block) != u32_at(block, CRC_AT) {
        return None;
    }
    let rows = u32_at(block, COUNT_AT);
    let block_bytes = journal.block.bytes() as usize;
    let payload = (rows as usize).checked_mul(ROW_BYTES)?.div_ceil(block_bytes);
    let head = Head {
        number: u64_at(block, NUMBER_AT),
        without: u32_at(block, WITHOUT_AT),
        seq: u64_at(block, SEQ_AT),
        rows,
        rows_crc: u32_at(block, ROWS_CRC_AT),
        payload_blocks: u32::try_from(payload).ok()?,
    };
    let is_ours = block[GROUP_AT..INCARNATION_AT] == journal.group.0
        && u64_at(block, INCARNATION_AT) == journal.incarnation;
    let is_placed = u32_at(block, POSITION_AT) == at && at == position(journal, head.number);
    let is_sound = rows as usize <= rows_max(journal)
        && head.seq <= NUMBERS_MAX
        && head.number <= NUMBERS_MAX
        && block[END..].iter().all(|byte| *byte == 0);
    (is_ours && is_placed && is_sound).then_some(head)
}

impl Head {
    /// The whole mark, with the blocks behind the header; `None` if they are not what was written with it.
    pub fn with_rows(&self, payload: &[u8]) -> Option<Mark> {
        if crc32c::portable(0, payload) != self.rows_crc {
            return None;
        }
        let (rows, rest) = payload.split_at_checked(self.rows as usize * ROW_BYTES)?;
        let places = rows.chunks_exact(ROW_BYTES);
        let in_place: BTreeMap<_, _> = places
            .map(|place| (RowIndex(u64_at(place, 0)), u64_at(place, 8)))
            .collect();
        let ascending = rows
            .chunks_exact(ROW_BYTES)
            .is_sorted_by(|left, right| u64_at(left, 0) < u64_at(right, 0));
        let is_sound = ascending && rest.iter().all(|byte| *byte == 0);
        is_sound.then_some(Mark {
            number: self.number,
            without: self.without,
            seq: self.seq,
            in_place,
        })
    }
}

/// CRC-32C of the header without the four bytes that hold it.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::portable(crc32c::portable(0, &bytes[..CRC_AT]), &bytes[ROWS_CRC_AT..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amf::superblock::Uuid;
    use crate::drive::block::{BlockSize, MemberLba};

    fn journal(lane_blocks: u32) -> JournalLayout {
        JournalLayout {
            start: MemberLba(0),
            lane_blocks,
            lanes: 2,
            incarnation: 7,
            group: Uuid([3; 16]),
            block: BlockSize::B512,
        }
    }

    fn mark(rows: u64) -> Mark {
        Mark {
            number: 5,
            without: 0b100,
            seq: 900,
            in_place: (0..rows).map(|row| (RowIndex(3 * row), 100 + row)).collect(),
        }
    }

    fn read_back(bytes: &[u8], journal: &JournalLayout, at: u32) -> Option<Mark> {
        let head = parse(&bytes[..512], at, journal)?;
        assert_eq!(bytes.len(), 512 * (1 + head.payload_blocks as usize));
        head.with_rows(&bytes[512..])
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (lane_blocks, rows) in [(16, 0), (16, 1), (16, 32), (80, 33), (80, 288)] {
            let journal = journal(lane_blocks);
            assert!(u64::try_from(rows_max(&journal)).expect("small") >= rows);
            let bytes = encode(&mark(rows), &journal);
            let at = position(&journal, 5);
            assert_eq!(read_back(&bytes, &journal, at), Some(mark(rows)), "{rows} rows");
            let end = at + u32::try_from(bytes.len() / 512).expect("small");
            assert!(end <= lane_blocks, "it lies in the lane");
        }
    }

    /// Rounds and both slots lie one behind the other.
    #[test]
    fn a_slot_is_nobody_elses() {
        for lane_blocks in [16, 17, 80, 2048] {
            let journal = journal(lane_blocks);
            let room = u32::try_from(rows_max(&journal) / 32).expect("small") + 1;
            let [even, odd] = [position(&journal, 4), position(&journal, 5)];
            assert_eq!(even, round_blocks(&journal));
            assert!(
                even + room <= odd && odd + room <= lane_blocks,
                "{lane_blocks} blocks"
            );
            assert!(round_blocks(&journal) >= lane_blocks / 2);
        }
    }

    /// Every flipped bit, another group, another incarnation, another place: it is no mark then.
    #[test]
    fn anything_else_is_no_mark() {
        let journal = journal(16);
        let at = position(&journal, 5);
        let bytes = encode(&mark(2), &journal);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_back(&bytes, &journal, at), None, "bit {bit}");
        }
        assert_eq!(parse(&bytes[..512], at - 1, &journal), None);
        assert_eq!(parse(&bytes[..512], position(&journal, 4), &journal), None);
        assert_eq!(parse(&[], at, &journal), None);
        let mut other = journal;
        other.incarnation = 8;
        assert_eq!(parse(&bytes[..512], at, &other), None);
        other = journal;
        other.group = Uuid([4; 16]);
        assert_eq!(parse(&bytes[..512], at, &other), None);
    }

    /// Whoever goes on with the numbers of a mark does not come to their end.
    #[test]
    fn numbers_without_successors_are_no_marks() {
        let journal = journal(16);
        let last = Mark {
            number: u64::MAX - 2,
            ..mark(1)
        };
        let bytes = encode(&last, &journal);
        assert_eq!(read_back(&bytes, &journal, position(&journal, last.number)), None);
        let last = Mark {
            seq: u64::MAX - 1,
            ..mark(1)
        };
        let bytes = encode(&last, &journal);
        assert_eq!(read_back(&bytes, &journal, position(&journal, last.number)), None);
    }

    /// The bytes are on people's drives.
    #[test]
    fn layout_is_frozen() {
        let bytes = encode(&mark(2), &journal(16));
        assert_eq!(crc32c::portable(0, &bytes), 2_126_900_761);
    }
}
