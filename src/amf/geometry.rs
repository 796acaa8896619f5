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

/// Most stripe rows of a group, 2^32 - 1: a row number must fit the lock word's tag and slot together, and
/// the number of rows that are rebuilt must fit 32 bits. With 64 KiB strips that is 256 TiB a member.
pub const ROWS_MAX: u64 = (1 << 32) - 1;

/// How a redundancy group protects its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Striping without redundancy: the loss of any member loses data. One member is a plain drive.
    Raid0,
    /// Every member holds a copy of everything; survives the loss of all but one.
    Raid1,
    /// Striping over pairs of copies, as md's `near` layout with two copies; survives the loss of any
    /// member, and of several as long as no two neighbours that share a strip are among them.
    Raid10,
    /// One rotating check strip a row, left-symmetric; survives the loss of one member.
    Raid5,
    /// Two rotating check strips a row, left-symmetric; survives the loss of any two members.
    Raid6,
    /// Three rotating check strips a row, laid out like the two of RAID 6; survives the loss of any three members.
    RaidTp,
}

impl Level {
    /// Every level, from the fewest check strips to the most.
    pub const ALL: [Self; 6] = [
        Self::Raid0,
        Self::Raid1,
        Self::Raid10,
        Self::Raid5,
        Self::Raid6,
        Self::RaidTp,
    ];

    /// Check strips in each row. Copies are none: levels without check strips may still be redundant.
    pub const fn check_strips(self) -> u8 {
        match self {
            Self::Raid0 | Self::Raid1 | Self::Raid10 => 0,
            Self::Raid5 => 1,
            Self::Raid6 => 2,
            Self::RaidTp => 3,
        }
    }

    /// Whether the data is kept as copies of which each can be read alone.
    pub const fn is_mirror(self) -> bool {
        matches!(self, Self::Raid1 | Self::Raid10)
    }

    /// Whether any member may be lost at all.
    pub const fn is_redundant(self) -> bool {
        self.check_strips() > 0 || self.is_mirror()
    }

    /// Copies of each strip of data, 1 for levels that keep none.
    pub const fn copies(self, members: u8) -> u8 {
        match self {
            Self::Raid1 => members,
            Self::Raid10 => 2,
            Self::Raid0 | Self::Raid5 | Self::Raid6 | Self::RaidTp => 1,
        }
    }

    /// Data columns of a row.
    pub const fn data_columns(self, members: u8) -> u8 {
        match self {
            Self::Raid1 => 1,
            Self::Raid10 => members * self.member_strips(members) / 2,
            Self::Raid0 | Self::Raid5 | Self::Raid6 | Self::RaidTp => members - self.check_strips(),
        }
    }

    /// Strips that each member gives to a row: two when pairs of copies go round an odd number of members, because
    /// only then does a row end where the pairs do, and one otherwise.
    pub const fn member_strips(self, members: u8) -> u8 {
        match self {
            Self::Raid10 => 1 + members % 2,
            Self::Raid0 | Self::Raid1 | Self::Raid5 | Self::Raid6 | Self::RaidTp => 1,
        }
    }

    /// Fewest members of which a row can be made: one with data, and those with its check strips or second copy.
    pub const fn members_min(self) -> u8 {
        match self {
            Self::Raid1 | Self::Raid10 => 2,
            Self::Raid0 | Self::Raid5 | Self::Raid6 | Self::RaidTp => self.check_strips() + 1,
        }
    }

    /// How many members may be lost, whichever they are.
    pub const fn losses_max(self, members: u8) -> u32 {
        // Widening; `From` is not const.
        (self.check_strips() + self.copies(members) - 1) as u32
    }

    /// Whether all data can still be had without the members in `failed`; bit `i` is member `i`.
    pub const fn survives(self, members: u8, failed: u32) -> bool {
        match self {
            Self::Raid0 | Self::Raid1 | Self::Raid5 | Self::Raid6 | Self::RaidTp => {
                failed.count_ones() <= self.losses_max(members)
            }
            // Members 0 and 1 are a pair, 2 and 3, and so on.
            Self::Raid10 if members.is_multiple_of(2) => failed & failed >> 1 & 0x5555_5555 == 0,
            // Each member shares strips with both of its neighbours, the last one with the first.
            Self::Raid10 => {
                let neighbours = failed >> 1 | (failed & 1) << (members - 1);
                failed & neighbours == 0
            }
        }
    }

    /// What configuration and management call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raid0 => "raid0",
            Self::Raid1 => "raid1",
            Self::Raid10 => "raid10",
            Self::Raid5 => "raid5",
            Self::Raid6 => "raid6",
            Self::RaidTp => "raidtp",
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
    /// A group has at least one row and fewer than 2^32.
    #[error("a group has 1 to 2^32 - 1 rows, not {rows}: choose a longer strip")]
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

/// Where a strip of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripPlace {
    /// The member that holds it.
    pub member: MemberIndex,
    /// Blocks from the start of what the member gives to the row.
    pub start_blocks: u32,
}

/// What a strip of a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// User data of which this is the only copy.
    Data {
        /// The data column.
        column: u8,
    },
    /// Check data: the first is the parity.
    Check {
        /// `0..check_strips`.
        index: u8,
    },
    /// One copy of user data.
    Copy {
        /// The data column.
        column: u8,
        /// `0..copies`.
        copy: u8,
    },
}

/// Where one group block lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The stripe row.
    pub row: RowIndex,
    /// The data column, `0..data_members`.
    pub column: u8,
    /// The member that holds it, and with copies the first of them.
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
        // rows < 2^32 and at most two strips of 2^11 blocks: the product cannot overflow, the sum can.
        let strips = rows * u64::from(level.member_strips(members));
        if data_start
            .0
            .checked_add(strips * u64::from(strip_blocks))
            .is_none()
        {
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

    /// The same with another number of members.
    pub fn with_members(&self, members: u8) -> Result<Self, GeometryError> {
        let Self {
            level,
            strip_blocks,
            data_start,
            rows,
            block,
            ..
        } = *self;
        Self::new(level, members, strip_blocks, data_start, rows, block)
    }

    /// The level of protection.
    pub const fn level(&self) -> Level {
        self.level
    }

    /// Number of members, from [`Level::members_min`] to 32.
    pub const fn members(&self) -> u8 {
        self.members
    }

    /// Number of data columns in a row, at least 1.
    pub const fn data_members(&self) -> u8 {
        self.level.data_columns(self.members)
    }

    /// Check strips of a row, 0 to 3.
    pub const fn check_strips(&self) -> u8 {
        self.level.check_strips()
    }

    /// Copies of each data column, at least 1.
    pub const fn copies(&self) -> u8 {
        self.level.copies(self.members)
    }

    /// How many members may be lost without losing data, whichever they are.
    pub const fn losses_max(&self) -> u32 {
        self.level.losses_max(self.members)
    }

    /// Whether all data can still be had without the members in `failed`; bit `i` is member `i`.
    pub const fn survives(&self, failed: u32) -> bool {
        self.level.survives(self.members, failed)
    }

    /// Length of a strip in blocks.
    pub const fn strip_blocks(&self) -> u32 {
        self.strip_blocks
    }

    /// Length of a strip in bytes, at most 1 MiB.
    pub const fn strip_bytes(&self) -> u32 {
        self.strip_blocks * self.block.bytes()
    }

    /// Blocks that each member gives to a row: one strip, or two (see [`Level::member_strips`]).
    pub const fn member_row_blocks(&self) -> u32 {
        self.strip_blocks * self.level.member_strips(self.members) as u32
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
        let place = self.copy_place(row, column, 0);
        Placement {
            row,
            column,
            member: place.member,
            offset_blocks,
            lba: self.member_lba(row, place.start_blocks + offset_blocks),
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

    /// The member that holds the row's first check strip, which is its parity: it moves one to the left with each row.
    /// `None` for a level without check strips.
    ///
    /// Source: mdadm(8), option `--layout`: left-symmetric.
    pub fn parity_member(&self, row: RowIndex) -> Option<MemberIndex> {
        self.check_member(row, 0)
    }

    /// The member that holds check strip `index` of the row: the first where the parity of RAID 5 is, the others on
    /// the members after it. `None` if the level has no such check strip.
    ///
    /// Source: mdadm(8), option `--layout`: left-symmetric; Linux md, `raid5_compute_sector`, `ALGORITHM_LEFT_SYMMETRIC` of level 6.
    pub fn check_member(&self, row: RowIndex, index: u8) -> Option<MemberIndex> {
        (index < self.check_strips()).then(|| self.turned(row, index))
    }

    /// The member `distance` to the right of the row's first check strip.
    fn turned(&self, row: RowIndex, distance: u8) -> MemberIndex {
        let turn = u8::try_from(row.0 % u64::from(self.members)).expect("a remainder of at most 32 fits");
        MemberIndex((self.members - 1 - turn + distance) % self.members)
    }

    /// The member that holds one data column of the row, and with copies the first of them. Data starts on the
    /// member after the last check strip, and on the first one if there is none.
    ///
    /// Panics if there is no such column.
    ///
    /// Source: mdadm(8), option `--layout`: left-symmetric.
    pub fn data_member(&self, row: RowIndex, column: u8) -> MemberIndex {
        self.copy_place(row, column, 0).member
    }

    /// Where copy `copy` of a data column is; copy 0 is all there is in a level without copies.
    ///
    /// Panics if there is no such column or copy.
    ///
    /// Source: "Non-standard RAID levels" (Wikipedia), Linux MD RAID 10: the tables of the n2 layout on 2, 3 and 4 drives.
    pub fn copy_place(&self, row: RowIndex, column: u8, copy: u8) -> StripPlace {
        assert!(column < self.data_members(), "a row has data_members columns");
        assert!(copy < self.copies(), "a column has so many copies");
        let (member, strip) = match self.level {
            Level::Raid0 => (MemberIndex(column), 0),
            Level::Raid1 => (MemberIndex(copy), 0),
            Level::Raid10 => {
                let position = 2 * column + copy;
                (MemberIndex(position % self.members), position / self.members)
            }
            Level::Raid5 | Level::Raid6 | Level::RaidTp => {
                (self.turned(row, self.check_strips() + column), 0)
            }
        };
        StripPlace {
            member,
            start_blocks: u32::from(strip) * self.strip_blocks,
        }
    }

    /// What a member holds in one of the strips that it gives to the row; `strip` is below [`Level::member_strips`].
    ///
    /// Panics if the group has no such member or the member no such strip.
    pub fn role(&self, row: RowIndex, member: MemberIndex, strip: u8) -> Role {
        assert!(member.0 < self.members, "a member belongs to the group");
        assert!(
            strip < self.level.member_strips(self.members),
            "a member has so many strips in a row"
        );
        match self.level {
            Level::Raid0 => Role::Data { column: member.0 },
            Level::Raid1 => Role::Copy {
                column: 0,
                copy: member.0,
            },
            Level::Raid10 => {
                let position = strip * self.members + member.0;
                Role::Copy {
                    column: position / 2,
                    copy: position % 2,
                }
            }
            Level::Raid5 | Level::Raid6 | Level::RaidTp => {
                let parity = self.turned(row, 0);
                let distance = (member.0 + self.members - parity.0) % self.members;
                match distance.checked_sub(self.check_strips()) {
                    Some(column) => Role::Data { column },
                    None => Role::Check { index: distance },
                }
            }
        }
    }

    /// The data column that a member holds in this row, of several the first; `None` when it holds a check strip there.
    pub fn column_of(&self, row: RowIndex, member: MemberIndex) -> Option<u8> {
        match self.role(row, member, 0) {
            Role::Data { column } | Role::Copy { column, .. } => Some(column),
            Role::Check { .. } => None,
        }
    }

    /// The address, on every member alike, of a block of what the member gives to the row.
    ///
    /// Panics if row or offset are outside of the group.
    pub fn member_lba(&self, row: RowIndex, offset_blocks: u32) -> MemberLba {
        assert!(row.0 < self.rows, "a row lies inside the group");
        let height = self.member_row_blocks();
        assert!(
            offset_blocks < height,
            "an offset lies inside the member's part of the row"
        );
        MemberLba(self.data_start.0 + row.0 * u64::from(height) + u64::from(offset_blocks))
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
mod tests;
