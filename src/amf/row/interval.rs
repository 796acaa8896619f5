//! The shape of a row, and the parts into which the borders of what is touched cut its strips.

use super::write::Method;
use super::{Geometry, MemberIndex, RowExtent, RowIndex, RowPlan};

/// A range of strip offsets in which every data column is either wholly touched or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) offset: u32,
    pub(super) blocks: u32,
    /// Bit `c` is data column `c`.
    pub(super) touched: u32,
    /// How a write brings its check data up to date.
    pub(super) method: Method,
}

/// Which member holds what, in a row of a level without copies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// The member of the first check strip; the others and then the data follow, round the members.
    first: u8,
    members: u8,
    pub(super) checks: u8,
    pub(super) columns: u8,
}

impl Shape {
    pub(super) fn new(geometry: &Geometry, row: RowIndex) -> Self {
        assert!(!geometry.level().is_mirror(), "rows of copies have no such shape");
        Self {
            first: geometry.parity_member(row).map_or(0, |parity| parity.0),
            members: geometry.members(),
            checks: geometry.check_strips(),
            columns: geometry.data_members(),
        }
    }

    fn turned(&self, distance: u8) -> MemberIndex {
        MemberIndex((self.first + distance) % self.members)
    }

    pub(super) fn member(&self, column: u8) -> MemberIndex {
        self.turned(self.checks + column)
    }

    pub(super) fn check(&self, index: u8) -> MemberIndex {
        self.turned(index)
    }

    /// The columns and the check strips that these members hold, as masks.
    pub(super) fn held_by(&self, members: u32) -> (u32, u8) {
        let twice = u64::from(members) | u64::from(members) << self.members;
        let turned = twice >> self.first & ((1 << self.members) - 1);
        let columns = u32::try_from(turned >> self.checks).expect("at most 32 members");
        let checks = u8::try_from(turned & ((1 << self.checks) - 1)).expect("at most three check strips");
        (columns, checks)
    }

    /// All check strips, as a mask.
    pub(super) fn all_checks(&self) -> u8 {
        (1 << self.checks) - 1
    }

    /// All columns, as a mask.
    pub(super) fn all_columns(&self) -> u32 {
        u32::MAX >> (u32::BITS - u32::from(self.columns))
    }
}

impl RowPlan {
    /// Cuts the strips where extents begin and end, and keeps the parts in which something is touched.
    ///
    /// Panics if the extents are not ascending or leave the row.
    pub(super) fn cut(&mut self, geometry: &Geometry, extents: &[RowExtent]) {
        let strip = geometry.strip_blocks();
        self.borders.extend([0, strip]);
        let mut last = 0;
        for extent in extents {
            let end = extent.start_blocks + extent.blocks;
            assert!(
                extent.blocks > 0 && extent.start_blocks >= last,
                "extents are ascending"
            );
            assert!(end <= geometry.row_blocks(), "an extent lies inside its row");
            last = end;
            self.borders.extend([extent.start_blocks % strip, end % strip]);
        }
        self.borders.sort_unstable();
        self.borders.dedup();
        for pair in self.borders.windows(2) {
            let (offset, blocks) = (pair[0], pair[1] - pair[0]);
            let touched = extents.iter().fold(0, |mask, extent| {
                mask | columns_inside(extent, strip, offset, blocks)
            });
            if touched != 0 {
                self.intervals.push(Interval {
                    offset,
                    blocks,
                    touched,
                    method: Method::DataOnly,
                });
            }
        }
        assert!(!self.intervals.is_empty(), "a write or read touches something");
    }
}

/// The columns that have these offsets inside of the extent, as a mask.
fn columns_inside(extent: &RowExtent, strip: u32, offset: u32, blocks: u32) -> u32 {
    let end = extent.start_blocks + extent.blocks;
    let Some(room) = end.checked_sub(offset + blocks) else {
        return 0;
    };
    let first = extent.start_blocks.saturating_sub(offset).div_ceil(strip);
    let last = room / strip;
    if first > last {
        return 0;
    }
    // Columns `first` to `last`.
    u32::MAX >> (31 - last) & u32::MAX << first
}
