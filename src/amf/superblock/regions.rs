//! What a member holds between the head and its data: the write-intent bitmap and the journal.
//!
//! Both lie at the same place on every member. A group without redundancy has neither: its writes go straight to their
//! place, and a lost member cannot come back.

use super::{HEAD_BYTES, RECORD_BYTES, RecordError};
use crate::drive::block::{BlockSize, MemberLba};

/// Most lanes of a journal without the one for recovery: one a core.
pub const LANES_MAX: u16 = 16;

/// One number for each lane that a journal can have, the one for recovery among them.
pub type LaneFloors = [u64; LANES_MAX as usize + 1];

/// Bits of one 4 KiB page of the write-intent bitmap; the rest of the page says what it is and whether it is whole.
pub const INTENT_PAGE_BITS: u64 = 8 * (RECORD_BYTES as u64 - INTENT_PAGE_HEADER_BYTES as u64);

/// Bytes at the start of each page of the write-intent bitmap that are not bits.
pub const INTENT_PAGE_HEADER_BYTES: usize = 64;

/// When a host's write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it is in its place on the drives; a Flush makes it durable. Only where there is no redundancy to fall apart.
    None,
    /// When it is in the journals of as many members as may be lost, and one more.
    Journal,
    /// When it is in memory; a Flush brings it into the journals.
    Ram,
}

impl Durability {
    /// What configuration and management call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Journal => "journal",
            Self::Ram => "ram",
        }
    }
}

/// The journal's region, and how the lanes lie in it as of this incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalRecord {
    /// First block of the region on each member.
    pub start: MemberLba,
    /// Blocks of the region; never changes.
    pub blocks: u64,
    /// Blocks of one lane.
    pub lane_blocks: u32,
    /// Lanes for cores. One more, behind them, is for recovery.
    pub lanes: u16,
    /// Which lanes and which records these are: a new number with each start, so that older records are dead.
    pub incarnation: u64,
    /// Entries of each lane with lower numbers are over, whatever the drives hold: the node that wrote them is gone, and others have brought
    /// its rows up to date. The lane for recovery is the one behind the cores' lanes.
    pub floors: LaneFloors,
}

impl JournalRecord {
    /// The same region cut into another number of lanes, as large as they can be. What was over in the old ones is forgotten: the new ones
    /// come with a new incarnation.
    ///
    /// `None` if the lanes would get shorter than `lane_blocks_min`, or there would be more than [`LANES_MAX`].
    pub fn with_lanes(self, lanes: u16, lane_blocks_min: u32, block: BlockSize) -> Option<Self> {
        if lanes == 0 || lanes > LANES_MAX {
            return None;
        }
        let most = self.blocks / (u64::from(lanes) + 1);
        let whole = page_blocks(block);
        let lane_blocks = u32::try_from(most - most % whole).unwrap_or(u32::MAX - (u32::MAX % 8));
        let fits = lane_blocks > 0 && lane_blocks >= lane_blocks_min;
        fits.then_some(Self {
            lane_blocks,
            lanes,
            floors: [0; LANES_MAX as usize + 1],
            ..self
        })
    }

    /// The lanes that there are, as a mask; the highest bit is the one for recovery.
    pub const fn lanes_mask(&self) -> u32 {
        // At most 16 and one.
        u32::MAX >> (u32::BITS - 1 - self.lanes as u32)
    }

    /// Entries of these lanes with lower numbers than `below` are over. No floor ever sinks.
    ///
    /// Panics for a lane that there is not.
    pub fn raise_floors(&mut self, lanes: u32, below: u64) {
        assert_eq!(lanes & !self.lanes_mask(), 0, "only lanes that there are end");
        for (lane, floor) in self.floors.iter_mut().enumerate() {
            if lanes >> lane & 1 == 1 {
                *floor = below.max(*floor);
            }
        }
    }

    pub(super) fn check(&self, block: BlockSize) -> Result<(), RecordError> {
        let lanes = (u64::from(self.lanes) + 1) * u64::from(self.lane_blocks);
        let on_page = u64::from(self.lane_blocks).is_multiple_of(page_blocks(block));
        let sound = (1..=LANES_MAX).contains(&self.lanes) && self.lane_blocks > 0 && on_page;
        let beyond = self.floors.iter().skip(usize::from(self.lanes) + 1);
        let sound = sound && beyond.copied().all(|floor| floor == 0);
        if sound && lanes <= self.blocks && self.blocks.is_multiple_of(page_blocks(block)) {
            Ok(())
        } else {
            Err(RecordError::Journal)
        }
    }
}

/// The region of the write-intent bitmap, and since when it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntentRecord {
    /// First block of the region on each member.
    pub start: MemberLba,
    /// Blocks of the region.
    pub blocks: u32,
    /// Rows that were written under later generations than this one have their bits set. 0 while no member is lost and
    /// nothing is kept.
    pub since_generation: u64,
    /// Rows of one bit, a power of two.
    pub rows_per_bit: u32,
}

impl IntentRecord {
    /// Pages of the bitmap for a group of this many rows.
    pub const fn pages(&self, rows: u64) -> u64 {
        rows.div_ceil(self.rows_per_bit as u64).div_ceil(INTENT_PAGE_BITS)
    }

    pub(super) fn check(&self, rows: u64, generation: u64, block: BlockSize) -> Result<(), RecordError> {
        if !self.rows_per_bit.is_power_of_two() || self.since_generation > generation {
            return Err(RecordError::Intent);
        }
        let needed = self.pages(rows).checked_mul(page_blocks(block));
        let fits = needed.is_some_and(|needed| needed <= u64::from(self.blocks));
        if fits && u64::from(self.blocks).is_multiple_of(page_blocks(block)) {
            Ok(())
        } else {
            Err(RecordError::Intent)
        }
    }
}

/// Blocks of 4 KiB, by which regions are measured so that no two of them share a block of any drive.
pub(super) fn page_blocks(block: BlockSize) -> u64 {
    RECORD_BYTES as u64 / u64::from(block.bytes())
}

/// Checks that both regions lie between head and data and do not touch each other.
pub(super) fn check_places(
    journal: Option<&JournalRecord>,
    intent: Option<&IntentRecord>,
    data_start: MemberLba,
    block: BlockSize,
) -> Result<(), RecordError> {
    let head_blocks = HEAD_BYTES / u64::from(block.bytes());
    let inside = |start: MemberLba, blocks: u64| {
        let end = start.0.checked_add(blocks)?;
        let on_page = start.0.is_multiple_of(page_blocks(block));
        (start.0 >= head_blocks && on_page && end <= data_start.0).then_some((start.0, end))
    };
    let journal = journal.map(|journal| inside(journal.start, journal.blocks).ok_or(RecordError::Journal));
    let intent =
        intent.map(|intent| inside(intent.start, u64::from(intent.blocks)).ok_or(RecordError::Intent));
    let (journal, intent) = (journal.transpose()?, intent.transpose()?);
    match journal.zip(intent) {
        Some((a, b)) if a.0 < b.1 && b.0 < a.1 => Err(RecordError::Intent),
        Some(_) | None => Ok(()),
    }
}
