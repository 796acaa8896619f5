//! Where every block is at every instant of an expansion.

use super::{ExpansionError, ExpansionRecord, ScratchState, Waves};
use crate::amf::RowIndex;
use crate::amf::geometry::{Geometry, RowPiece};
use crate::drive::block::GroupLba;

/// Which layout holds a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It has not moved yet.
    Old,
    /// It has moved.
    New,
}

/// Where every block is while a group is being laid out anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    old: Geometry,
    new: Geometry,
    frontier: u64,
    /// Something is on the new members that is nowhere else: rows have moved, or are about to be copied over their sources.
    has_begun: bool,
}

impl Layout {
    /// The layout of a group that is not being laid out anew.
    pub const fn fixed(geometry: Geometry) -> Self {
        Self {
            old: geometry,
            new: geometry,
            frontier: geometry.rows(),
            has_begun: true,
        }
    }

    /// The layout of a group of this shape, with all members that it has, and what its superblock says of an expansion.
    pub fn of(geometry: Geometry, record: Option<ExpansionRecord>) -> Result<Self, ExpansionError> {
        let Some(record) = record else {
            return Ok(Self::fixed(geometry));
        };
        let old = geometry.with_members(record.old_members);
        let old = old.map_err(|_| ExpansionError::OtherShape)?;
        if record.frontier > geometry.rows() {
            return Err(ExpansionError::OtherShape);
        }
        let layout = Self::expanding(old, geometry, record.frontier)?;
        let has_begun = layout.has_begun || matches!(record.scratch, ScratchState::Holds { .. });
        Ok(Self { has_begun, ..layout })
    }

    /// The layout with new rows below `frontier` written. Errs unless only the number of members differs, and grows.
    pub fn expanding(old: Geometry, new: Geometry, frontier: u64) -> Result<Self, ExpansionError> {
        let same = old.level() == new.level()
            && old.strip_blocks() == new.strip_blocks()
            && old.data_start() == new.data_start()
            && old.rows() == new.rows()
            && old.block() == new.block();
        if !same {
            return Err(ExpansionError::OtherShape);
        }
        let (members, more) = (old.members(), new.members());
        if old.level().member_strips(members) != new.level().member_strips(more) {
            return Err(ExpansionError::OtherHeight {
                old: members,
                new: more,
            });
        }
        if new.data_members() <= old.data_members() {
            return Err(ExpansionError::NotWider {
                old: old.data_members(),
                new: new.data_members(),
            });
        }
        Ok(Self {
            old,
            new,
            frontier,
            has_begun: frontier > 0,
        })
    }

    /// The waves that lead to the end.
    pub fn waves(&self, scratch_rows: u64) -> Result<Waves, ExpansionError> {
        let (old, new) = (self.old.data_members(), self.new.data_members());
        Waves::new(old, new, self.old.rows(), scratch_rows)
    }

    /// New rows below it are written.
    pub const fn frontier(&self) -> u64 {
        self.frontier
    }

    /// The first block that has not moved; hosts' ranges are cut here.
    pub fn frontier_block(&self) -> GroupLba {
        GroupLba((self.frontier * u64::from(self.new.row_blocks())).min(self.old.capacity_blocks()))
    }

    /// Advances the frontier over a wave that is durable.
    ///
    /// Panics if it would go back or leave the group.
    pub fn advance(&mut self, frontier: u64) {
        assert!(frontier > self.frontier, "a frontier only advances");
        assert!(frontier <= self.new.rows(), "a frontier stays inside the group");
        self.frontier = frontier;
        self.has_begun = true;
    }

    /// Whether the last wave is through: the new layout alone says where blocks are, and its whole capacity may be
    /// shown once that is durable (PROTOCOL I13).
    pub const fn is_over(&self) -> bool {
        self.frontier == self.new.rows()
    }

    /// What hosts may use, in blocks: no more than before until the end.
    pub fn capacity_blocks(&self) -> u64 {
        if self.is_over() {
            self.new.capacity_blocks()
        } else {
            self.old.capacity_blocks()
        }
    }

    /// The layout that holds a block now.
    ///
    /// Panics if the block is beyond the capacity.
    pub fn side(&self, lba: GroupLba) -> Side {
        assert!(
            lba.0 < self.capacity_blocks(),
            "a block outside of the group has no place"
        );
        if self.is_over() || lba < self.frontier_block() {
            Side::New
        } else {
            Side::Old
        }
    }

    /// The geometry that a row has now: of rows that are neither, the old one.
    #[inline]
    pub const fn geometry_of_row(&self, row: RowIndex) -> &Geometry {
        if row.0 < self.frontier {
            &self.new
        } else {
            &self.old
        }
    }

    /// The geometry with all members.
    pub const fn widest(&self) -> &Geometry {
        &self.new
    }

    /// The members that may hold the only copies of something: those that are new do not before the first row has moved.
    pub const fn relied_on(&self) -> &Geometry {
        if self.has_begun { &self.new } else { &self.old }
    }

    /// The geometry with so many members, if any row may have that.
    pub fn with_members(&self, members: u8) -> Option<&Geometry> {
        [&self.new, &self.old]
            .into_iter()
            .find(|geometry| geometry.members() == members)
    }

    /// The geometry of what has not moved.
    pub const fn oldest(&self) -> &Geometry {
        &self.old
    }

    /// Whether no data lies in a row any more, nor yet: all of it has moved, and nobody cares what is there.
    pub fn is_dead(&self, row: RowIndex) -> bool {
        let (old, new) = (
            u64::from(self.old.data_members()),
            u64::from(self.new.data_members()),
        );
        self.frontier <= row.0 && row.0 < self.frontier * new / old
    }

    /// The members that hold something in a row; bit `i` is member `i`.
    #[inline]
    pub fn members_of_row(&self, row: RowIndex) -> u32 {
        mask(self.geometry_of_row(row).members())
    }

    /// Whether all data can still be had without the members in `failed`, wherever it is now; bit `i` is member `i`.
    #[inline]
    pub fn survives(&self, failed: u32) -> bool {
        let is_left = |geometry: &Geometry| geometry.survives(failed & mask(geometry.members()));
        (!self.has_begun || is_left(&self.new)) && (self.is_over() || is_left(&self.old))
    }

    /// Whether hosts may use all of these blocks.
    pub fn contains(&self, lba: GroupLba, blocks: u64) -> bool {
        lba.0
            .checked_add(blocks)
            .is_some_and(|end| end <= self.capacity_blocks())
    }

    /// The first piece of a block range: the part of it that lies in the row of its first block, as far as that has moved or not.
    ///
    /// Panics if `lba` is beyond the capacity or `blocks` is 0.
    #[inline]
    pub fn first_piece(&self, lba: GroupLba, blocks: u64) -> RowPiece {
        match self.side(lba) {
            Side::New if self.is_over() => self.new.first_piece(lba, blocks),
            Side::New => {
                let moved = self.frontier_block().0 - lba.0;
                self.new.first_piece(lba, blocks.min(moved))
            }
            Side::Old => self.old.first_piece(lba, blocks),
        }
    }

    /// The old row and column that hold what belongs into a column of a new row; `None` if that gets zeroes.
    ///
    /// Panics if there is no such column.
    pub fn source(&self, row: RowIndex, column: u8) -> Option<(RowIndex, u8)> {
        assert!(column < self.new.data_members(), "a row has data_members columns");
        let old = u64::from(self.old.data_members());
        let strip = row.0 * u64::from(self.new.data_members()) + u64::from(column);
        let column = u8::try_from(strip % old).expect("a remainder of at most 32 fits");
        (strip / old < self.old.rows()).then_some((RowIndex(strip / old), column))
    }

    /// The geometry of one side.
    pub const fn geometry(&self, side: Side) -> &Geometry {
        match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        }
    }
}

/// The first `members` members.
const fn mask(members: u8) -> u32 {
    // At least one member, at most 32.
    u32::MAX >> (32 - members as u32)
}
