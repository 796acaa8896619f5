//! Where a block of a redundancy group lives: rows, columns, members.
//!
//! Owns the arithmetic between group blocks and member blocks; nothing is ever stored per block.
//! Invariant: every group block has exactly one place, and no two of them share one. Knows nothing
//! of failed members, locks or I/O.

use thiserror::Error;

use super::{MEMBERS_MAX, MemberIndex, RowIndex};
use crate::drive::block::{BlockSize, GroupLba, MemberLba};

/// Longest strip in bytes: 1 MiB.
pub const STRIP_BYTES_MAX: u32 = 1 << 20;

/// Most stripe rows of a group, 2^32: a row number must fit the lock word's tag and slot together.
/// With 64 KiB strips that is 256 TiB a member.
pub const ROWS_MAX: u64 = 1 << 32;

/// How a redundancy group protects its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Striping without redundancy: the loss of any member loses data. One member is a plain drive.
    Raid0,
    /// One rotating parity strip a row, left-symmetric; survives the loss of one member.
    Raid5,
}

impl Level {
    /// Every level, in order of their numbers.
    pub const ALL: [Self; 2] = [Self::Raid0, Self::Raid5];

    /// Check strips in each row, which is also how many members may be lost.
    pub const fn check_strips(self) -> u8 {
        match self {
            Self::Raid0 => 0,
            Self::Raid5 => 1,
        }
    }

    /// Fewest members of which a row can be made: one with data, and those with check strips.
    pub const fn members_min(self) -> u8 {
        self.check_strips() + 1
    }

    /// What configuration and management call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raid0 => "raid0",
            Self::Raid5 => "raid5",
        }
    }

    /// The level that has this name, if any has.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// Why a geometry cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GeometryError {
    /// Fewer members than the level needs, or more than 32.
    #[error("a group of level {} has {} to {MEMBERS_MAX} members, not {members}", level.name(), level.members_min())]
    Members {
        /// The level that was asked for.
        level: Level,
        /// How many were asked for.
        members: u8,
    },
    /// A strip holds at least one block and at most 1 MiB.
    #[error("a strip holds one block to 1 MiB, not {strip_blocks} blocks")]
    Strip {
        /// The strip that was asked for, in blocks.
        strip_blocks: u32,
    },
    /// A group has at least one row and at most 2^32.
    #[error("a group has 1 to 2^32 rows, not {rows}: choose a longer strip")]
    Rows {
        /// How many were asked for.
        rows: u64,
    },
    /// The last row would end beyond the last block that an address can name.
    #[error("the rows do not fit behind data start {data_start}")]
    DataStart {
        /// First data block on each member.
        data_start: u64,
    },
}

/// The shape of a redundancy group, checked once and constant from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    level: Level,
    members: u8,
    strip_blocks: u32,
    data_start: MemberLba,
    rows: u64,
    block: BlockSize,
}

/// Where one group block lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The stripe row.
    pub row: RowIndex,
    /// The data column, `0..data_members`.
    pub column: u8,
    /// The member that holds it.
    pub member: MemberIndex,
    /// Blocks from the start of the strip.
    pub offset_blocks: u32,
    /// Its address on the member.
    pub lba: MemberLba,
}

/// The part of a block range that lies in one stripe row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowPiece {
    /// The stripe row.
    pub row: RowIndex,
    /// First block, counted through the row's user data from its start.
    pub start_blocks: u32,
    /// Length, at least 1.
    pub blocks: u32,
    /// Blocks of the whole range that come before this piece.
    pub skipped_blocks: u64,
}

/// The part of a row piece that lies in one data strip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The data column, `0..data_members`.
    pub column: u8,
    /// First block, from the start of the strip.
    pub offset_blocks: u32,
    /// Length, at least 1.
    pub blocks: u32,
    /// Blocks of the piece that come before this segment.
    pub skipped_blocks: u32,
}

impl Geometry {
    /// Checks and builds a geometry.
    ///
    /// `strip_blocks` counts logical blocks; `data_start` is the first data block on each member and
    /// `rows` the number of strips that each member holds from there on. Errs when a number is
    /// outside of what [`GeometryError`] says.
    pub fn new(
        level: Level,
        members: u8,
        strip_blocks: u32,
        data_start: MemberLba,
        rows: u64,
        block: BlockSize,
    ) -> Result<Self, GeometryError> {
        if members < level.members_min() || usize::from(members) > MEMBERS_MAX {
            return Err(GeometryError::Members { level, members });
        }
        if strip_blocks == 0 || strip_blocks > STRIP_BYTES_MAX / block.bytes() {
            return Err(GeometryError::Strip { strip_blocks });
        }
        if rows == 0 || rows > ROWS_MAX {
            return Err(GeometryError::Rows { rows });
        }
        // rows <= 2^32 and strips <= 2^11 blocks: the product cannot overflow, the sum can.
        if data_start.0.checked_add(rows * u64::from(strip_blocks)).is_none() {
            return Err(GeometryError::DataStart {
                data_start: data_start.0,
            });
        }
        Ok(Self {
            level,
            members,
            strip_blocks,
            data_start,
            rows,
            block,
        })
    }

    /// The level of protection.
    pub const fn level(&self) -> Level {
        self.level
    }

    /// Number of members, from [`Level::members_min`] to 32.
    pub const fn members(&self) -> u8 {
        self.members
    }

    /// Number of data strips in a row, at least 1.
    pub const fn data_members(&self) -> u8 {
        self.members - self.level.check_strips()
    }

    /// How many members may be lost without losing data.
    pub const fn losses_max(&self) -> u32 {
        // Widening; `From` is not const.
        self.level.check_strips() as u32
    }

    /// Length of a strip in blocks.
    pub const fn strip_blocks(&self) -> u32 {
        self.strip_blocks
    }

    /// Length of a strip in bytes, at most 1 MiB.
    pub const fn strip_bytes(&self) -> u32 {
        self.strip_blocks * self.block.bytes()
    }

    /// User data of one row in blocks, at most 2^16.
    pub const fn row_blocks(&self) -> u32 {
        self.strip_blocks * self.data_members() as u32
    }

    /// First data block on each member.
    pub const fn data_start(&self) -> MemberLba {
        self.data_start
    }

    /// Number of stripe rows.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// The logical block size.
    pub const fn block(&self) -> BlockSize {
        self.block
    }

    /// User data of the whole group in blocks.
    pub const fn capacity_blocks(&self) -> u64 {
        self.rows * self.row_blocks() as u64
    }

    /// Whether `blocks` blocks from `lba` on lie inside the group.
    pub fn contains(&self, lba: GroupLba, blocks: u64) -> bool {
        lba.0
            .checked_add(blocks)
            .is_some_and(|end| end <= self.capacity_blocks())
    }

    /// Finds the place of one group block.
    ///
    /// Panics if `lba` is outside the group: the virtual disk refuses such commands first.
    ///
    /// Source: mdadm(8), option `--layout`: the RAID5 default there, left-symmetric.
    pub fn locate(&self, lba: GroupLba) -> Placement {
        let (row, in_row) = self.row_of(lba);
        let column = u8::try_from(in_row / self.strip_blocks).expect("a row has at most 32 data columns");
        let offset_blocks = in_row % self.strip_blocks;
        let member = self.data_member(row, column);
        Placement {
            row,
            column,
            member,
            offset_blocks,
            lba: self.member_lba(row, offset_blocks),
        }
    }

    /// The row of a group block, and the block's distance from the start of the row's user data.
    ///
    /// Panics if `lba` is outside the group.
    pub fn row_of(&self, lba: GroupLba) -> (RowIndex, u32) {
        assert!(
            lba.0 < self.capacity_blocks(),
            "a block outside of the group has no place"
        );
        let row_blocks = u64::from(self.row_blocks());
        let in_row =
            u32::try_from(lba.0 % row_blocks).expect("a remainder is smaller than its 32-bit divisor");
        (RowIndex(lba.0 / row_blocks), in_row)
    }

    /// The member that holds the row's parity strip: it moves one to the left with each row. `None` without redundancy.
    ///
    /// Source: mdadm(8), option `--layout`: left-symmetric.
    pub fn parity_member(&self, row: RowIndex) -> Option<MemberIndex> {
        match self.level {
            Level::Raid0 => None,
            Level::Raid5 => {
                let turn =
                    u8::try_from(row.0 % u64::from(self.members)).expect("a remainder of at most 32 fits");
                Some(MemberIndex(self.members - 1 - turn))
            }
        }
    }

    /// The member that holds one data column of the row: data starts on the member after parity, and
    /// on the first one if there is no parity.
    ///
    /// Panics if there is no such column.
    ///
    /// Source: mdadm(8), option `--layout`: left-symmetric.
    pub fn data_member(&self, row: RowIndex, column: u8) -> MemberIndex {
        self.data_member_after(self.parity_member(row), column)
    }

    /// Like [`Geometry::data_member`], for a caller that knows the row's parity member already.
    pub(super) fn data_member_after(&self, parity: Option<MemberIndex>, column: u8) -> MemberIndex {
        assert!(column < self.data_members(), "a row has data_members columns");
        parity.map_or(MemberIndex(column), |parity| {
            MemberIndex((parity.0 + 1 + column) % self.members)
        })
    }

    /// The data column that a member holds in this row; `None` when it holds parity there.
    pub fn column_of(&self, row: RowIndex, member: MemberIndex) -> Option<u8> {
        assert!(member.0 < self.members, "a member belongs to the group");
        let Some(parity) = self.parity_member(row) else {
            return Some(member.0);
        };
        let distance = (member.0 + self.members - parity.0) % self.members;
        distance.checked_sub(1)
    }

    /// The address, on every member alike, of a block of the row's strip.
    ///
    /// Panics if row or offset are outside of the group.
    pub fn member_lba(&self, row: RowIndex, offset_blocks: u32) -> MemberLba {
        assert!(row.0 < self.rows, "a row lies inside the group");
        assert!(
            offset_blocks < self.strip_blocks,
            "an offset lies inside the strip"
        );
        MemberLba(self.data_start.0 + row.0 * u64::from(self.strip_blocks) + u64::from(offset_blocks))
    }

    /// The first piece of a block range: the part of it that lies in the row of its first block.
    ///
    /// Panics if `lba` is outside the group or `blocks` is 0.
    pub fn first_piece(&self, lba: GroupLba, blocks: u64) -> RowPiece {
        assert!(blocks > 0, "an empty range has no pieces");
        let (row, start_blocks) = self.row_of(lba);
        let room = u64::from(self.row_blocks() - start_blocks);
        let blocks = u32::try_from(blocks.min(room)).expect("a row has at most 2^16 blocks");
        RowPiece {
            row,
            start_blocks,
            blocks,
            skipped_blocks: 0,
        }
    }

    /// Cuts a block range into its rows, in ascending order.
    ///
    /// Panics if the range leaves the group.
    pub fn pieces(&self, lba: GroupLba, blocks: u64) -> Pieces {
        assert!(self.contains(lba, blocks), "a range lies inside the group");
        Pieces {
            geometry: *self,
            next: lba,
            left: blocks,
            skipped: 0,
        }
    }

    /// Cuts a row piece into its strips, in ascending order of columns.
    ///
    /// Panics if the piece leaves its row.
    pub fn segments(&self, piece: &RowPiece) -> Segments {
        let end = piece.start_blocks + piece.blocks;
        assert!(end <= self.row_blocks(), "a piece lies inside its row");
        Segments {
            strip_blocks: self.strip_blocks,
            start: piece.start_blocks,
            next: piece.start_blocks,
            end,
        }
    }
}

/// The rows of a block range; see [`Geometry::pieces`].
#[derive(Clone, Debug)]
pub struct Pieces {
    geometry: Geometry,
    next: GroupLba,
    left: u64,
    skipped: u64,
}

impl Iterator for Pieces {
    type Item = RowPiece;

    fn next(&mut self) -> Option<RowPiece> {
        if self.left == 0 {
            return None;
        }
        let piece = self.geometry.first_piece(self.next, self.left);
        let blocks = u64::from(piece.blocks);
        let piece = RowPiece {
            skipped_blocks: self.skipped,
            ..piece
        };
        self.next.0 += blocks;
        self.skipped += blocks;
        self.left -= blocks;
        Some(piece)
    }
}

/// The strips of a row piece; see [`Geometry::segments`].
#[derive(Clone, Debug)]
pub struct Segments {
    strip_blocks: u32,
    start: u32,
    next: u32,
    end: u32,
}

impl Iterator for Segments {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.next == self.end {
            return None;
        }
        let offset_blocks = self.next % self.strip_blocks;
        let column = u8::try_from(self.next / self.strip_blocks).expect("a row has at most 32 data columns");
        let blocks = (self.strip_blocks - offset_blocks).min(self.end - self.next);
        let segment = Segment {
            column,
            offset_blocks,
            blocks,
            skipped_blocks: self.next - self.start,
        };
        self.next += blocks;
        Some(segment)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn geometry(members: u8, strip_blocks: u32, rows: u64) -> Geometry {
        shaped(Level::Raid5, members, strip_blocks, rows)
    }

    fn shaped(level: Level, members: u8, strip_blocks: u32, rows: u64) -> Geometry {
        Geometry::new(
            level,
            members,
            strip_blocks,
            MemberLba(256),
            rows,
            BlockSize::B512,
        )
        .expect("a legal geometry")
    }

    /// The example table of four members that every description of md's default shows.
    #[test]
    fn left_symmetric_is_as_md_lays_it_out() {
        let g = geometry(4, 1, 8);
        // Per row the data block of each member; `None` is parity.
        let table = [
            [Some(0), Some(1), Some(2), None],
            [Some(4), Some(5), None, Some(3)],
            [Some(8), None, Some(6), Some(7)],
            [None, Some(9), Some(10), Some(11)],
            [Some(12), Some(13), Some(14), None],
        ];
        for (row, members) in (0..).zip(table) {
            for (member, block) in (0..).zip(members) {
                let Some(block) = block else {
                    assert_eq!(g.parity_member(RowIndex(row)), Some(MemberIndex(member)));
                    assert_eq!(g.column_of(RowIndex(row), MemberIndex(member)), None);
                    continue;
                };
                let place = g.locate(GroupLba(block));
                assert_eq!((place.row, place.member), (RowIndex(row), MemberIndex(member)));
                assert_eq!(place.lba, MemberLba(256 + row));
                assert_eq!(
                    g.column_of(RowIndex(row), MemberIndex(member)),
                    Some(place.column)
                );
            }
        }
    }

    /// Without parity the strips go round the members, in order.
    #[test]
    fn striping_goes_round_the_members() {
        let g = shaped(Level::Raid0, 3, 2, 4);
        assert_eq!((g.capacity_blocks(), g.row_blocks(), g.losses_max()), (24, 6, 0));
        for block in 0..24 {
            let place = g.locate(GroupLba(block));
            let strip = block / 2;
            assert_eq!(u64::from(place.member.0), strip % 3);
            assert_eq!(place.lba, MemberLba(256 + strip / 3 * 2 + block % 2));
            assert_eq!(g.column_of(place.row, place.member), Some(place.column));
            assert_eq!(g.parity_member(place.row), None);
        }
    }

    /// A group of one member is that drive, block by block.
    #[test]
    fn one_member_is_a_plain_drive() {
        let g = shaped(Level::Raid0, 1, 8, 5);
        assert_eq!(g.capacity_blocks(), 40);
        for block in 0..40 {
            let place = g.locate(GroupLba(block));
            assert_eq!(
                (place.member, place.lba),
                (MemberIndex(0), MemberLba(256 + block))
            );
        }
    }

    /// Every level and width and several strips: each block has one place, no two share it, and together
    /// with the parity strips they fill the members without a gap.
    #[test]
    fn every_block_has_exactly_one_place() {
        for level in Level::ALL {
            for members in level.members_min()..=32 {
                for strip in [1, 2, 3, 7, 16] {
                    every_block_has_a_place(&shaped(level, members, strip, u64::from(members) * 2 + 1));
                }
            }
        }
    }

    fn every_block_has_a_place(g: &Geometry) {
        let mut taken = BTreeSet::new();
        for lba in 0..g.capacity_blocks() {
            let place = g.locate(GroupLba(lba));
            assert!(taken.insert((place.member, place.lba)), "two blocks in one place");
            assert_ne!(Some(place.member), g.parity_member(place.row));
            assert_eq!(place.lba, g.member_lba(place.row, place.offset_blocks));
            assert_eq!(place.member, g.data_member(place.row, place.column));
            assert_eq!(g.column_of(place.row, place.member), Some(place.column));
        }
        for row in (0..g.rows()).map(RowIndex) {
            for offset in 0..g.strip_blocks() {
                if let Some(parity) = g.parity_member(row) {
                    assert!(taken.insert((parity, g.member_lba(row, offset))));
                }
            }
        }
        let strips = u64::from(g.strip_blocks()) * g.rows();
        assert_eq!(taken.len() as u64, u64::from(g.members()) * strips);
        assert!(taken.iter().all(|(_, lba)| lba.0 >= 256 && lba.0 < 256 + strips));
    }

    /// Every range of small groups: the segments of its pieces are the range's blocks, in order.
    #[test]
    fn pieces_and_segments_cover_the_range_in_order() {
        for (members, strip) in [(2, 1), (2, 4), (3, 2), (4, 3), (5, 1)] {
            every_range_is_covered(&geometry(members, strip, 3));
        }
        for members in 1..=4 {
            for strip in 1..=3 {
                every_range_is_covered(&shaped(Level::Raid0, members, strip, 3));
            }
        }
    }

    fn every_range_is_covered(g: &Geometry) {
        for lba in 0..g.capacity_blocks() {
            for blocks in 0..=g.capacity_blocks() - lba {
                let mut next = lba;
                for piece in g.pieces(GroupLba(lba), blocks) {
                    assert_eq!(piece.skipped_blocks, next - lba);
                    let first = next;
                    for segment in g.segments(&piece) {
                        assert_eq!(u64::from(segment.skipped_blocks), next - first);
                        for i in 0..segment.blocks {
                            let place = g.locate(GroupLba(next));
                            assert_eq!(place.row, piece.row);
                            assert_eq!(place.column, segment.column);
                            assert_eq!(place.offset_blocks, segment.offset_blocks + i);
                            next += 1;
                        }
                    }
                    assert_eq!(next - first, u64::from(piece.blocks));
                }
                assert_eq!(next, lba + blocks);
            }
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let of = |level, members, strip, start, rows| {
            Geometry::new(level, members, strip, MemberLba(start), rows, BlockSize::B4096)
        };
        let new = |members, strip, start, rows| of(Level::Raid5, members, strip, start, rows);
        for (level, members) in [
            (Level::Raid5, 0),
            (Level::Raid5, 1),
            (Level::Raid5, 33),
            (Level::Raid0, 0),
            (Level::Raid0, 33),
        ] {
            assert_eq!(
                of(level, members, 1, 0, 1),
                Err(GeometryError::Members { level, members })
            );
        }
        assert_eq!(new(3, 0, 0, 1), Err(GeometryError::Strip { strip_blocks: 0 }));
        assert_eq!(new(3, 257, 0, 1), Err(GeometryError::Strip { strip_blocks: 257 }));
        assert_eq!(new(3, 1, 0, 0), Err(GeometryError::Rows { rows: 0 }));
        assert_eq!(
            new(3, 1, 0, ROWS_MAX + 1),
            Err(GeometryError::Rows { rows: ROWS_MAX + 1 })
        );
        assert_eq!(
            new(3, 1, u64::MAX, 1),
            Err(GeometryError::DataStart { data_start: u64::MAX })
        );
        let largest = new(32, 256, 0, ROWS_MAX).expect("the largest group is legal");
        assert_eq!(
            largest.locate(GroupLba(largest.capacity_blocks() - 1)).row,
            RowIndex(ROWS_MAX - 1)
        );
    }

    /// The one row of 2^16 blocks: 32 members without parity and the longest strip of the smallest blocks.
    #[test]
    fn the_longest_row_is_cut_right() {
        let g = shaped(Level::Raid0, 32, 2048, ROWS_MAX);
        assert_eq!(g.row_blocks(), 1 << 16);
        let last = GroupLba(g.capacity_blocks() - 1);
        assert_eq!(
            (g.locate(last).member, g.locate(last).row),
            (MemberIndex(31), RowIndex(ROWS_MAX - 1))
        );
        let piece = g.first_piece(GroupLba(1 << 16), u64::MAX >> 8);
        assert_eq!((piece.row, piece.blocks), (RowIndex(1), 1 << 16));
        assert_eq!(g.segments(&piece).count(), 32);
    }

    #[test]
    fn levels_are_known_by_name() {
        for level in Level::ALL {
            assert_eq!(Level::from_name(level.name()), Some(level));
        }
        assert_eq!(Level::from_name("raid6"), None);
        assert_eq!(Level::from_name(""), None);
    }

    #[test]
    fn ranges_that_leave_the_group_are_seen() {
        let g = geometry(3, 2, 5);
        assert_eq!(g.capacity_blocks(), 20);
        assert!(g.contains(GroupLba(0), 20));
        assert!(!g.contains(GroupLba(1), 20));
        assert!(!g.contains(GroupLba(u64::MAX), 2));
    }
}
