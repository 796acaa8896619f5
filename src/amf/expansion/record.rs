//! What is durable of an expansion, and where rows are kept that overlap their own sources.

use crate::amf::RowIndex;
use crate::amf::geometry::Geometry;
use crate::amf::journal::JournalLayout;
use crate::drive::block::MemberLba;

/// What the superblocks say of an expansion as long as it lasts. When `frontier` is the number of rows it is over: the record goes
/// away in the same update that shows the new capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpansionRecord {
    /// Members of the old layout; the new one has all members of the group.
    pub old_members: u8,
    /// Rows of the new layout below it are written and durable.
    pub frontier: u64,
    /// What the scratch area holds.
    pub scratch: ScratchState,
}

/// What the scratch area holds.
///
/// Where there is a journal it is the recovery lane. Before the first row is copied there this is `Dirty`, durably,
/// because users' data may look like a record of the journal; replay may use the lane only when it is `Clean` again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScratchState {
    /// Nothing of an expansion.
    Clean,
    /// Rows that nobody needs; they are overwritten with zeroes before a replay.
    Dirty,
    /// The new rows from the frontier to this one, whole: they have to be copied to their place before anything else
    /// is done to the group. Then the frontier is `to`.
    Holds {
        /// The row behind the last one.
        to: u64,
    },
}

impl ExpansionRecord {
    /// An expansion that begins.
    pub const fn begin(old_members: u8) -> Self {
        Self {
            old_members,
            frontier: 0,
            scratch: ScratchState::Clean,
        }
    }

    /// Whether a [`super::Restore`] has to run before the journal is replayed.
    pub const fn awaits_restore(&self) -> bool {
        !matches!(self.scratch, ScratchState::Clean)
    }
}

/// A part of every member, at the same place, where new rows are kept that overlap their own sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScratchArea {
    /// First block.
    pub start: MemberLba,
    /// Length.
    pub blocks: u32,
}

impl ScratchArea {
    /// The area of a group with a journal: the recovery lane, which nobody but replay writes.
    pub fn of_journal(layout: &JournalLayout) -> Self {
        Self {
            start: layout.lane_start(layout.recovery_lane()),
            blocks: layout.lane_blocks,
        }
    }

    /// How many rows of this shape fit; the number for [`super::Waves::new`]. At least 1 for any lane of a journal
    /// ([`crate::amf::journal::lane_blocks_min`]).
    pub const fn rows(&self, geometry: &Geometry) -> u64 {
        // Widening; `From` is not const.
        (self.blocks / geometry.member_row_blocks()) as u64
    }

    /// Where each member keeps its part of a row of a wave that begins at row `from_row`.
    ///
    /// Panics if the area has no room for the row.
    pub fn place(&self, geometry: &Geometry, from_row: u64, row: RowIndex) -> MemberLba {
        let number = row.0.checked_sub(from_row).expect("a row of the wave");
        assert!(number < self.rows(geometry), "a wave fits the scratch area");
        MemberLba(self.start.0 + number * u64::from(geometry.member_row_blocks()))
    }
}
