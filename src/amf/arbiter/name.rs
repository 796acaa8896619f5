//! Names of what is locked, of what is held of it, and of requests and grants.

use crate::amf::RowIndex;
use crate::icl::Epoch;

/// What one lock covers: a stripe row, or as many adjacent ones as [`Granularity`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource(pub u64);

/// How many adjacent rows one lock covers: a power of two, the same on all nodes of a group (B5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Granularity {
    row_bits: u32,
}

impl Granularity {
    /// One lock a row.
    pub const ROW: Self = Self { row_bits: 0 };
    /// Most rows that one lock may cover.
    pub const ROWS_MAX: u64 = 1 << 16;

    /// So many rows a lock; `None` unless it is a power of two, at most [`Self::ROWS_MAX`].
    pub const fn new(rows: u64) -> Option<Self> {
        if rows.is_power_of_two() && rows <= Self::ROWS_MAX {
            let row_bits = rows.trailing_zeros();
            Some(Self { row_bits })
        } else {
            None
        }
    }

    /// Rows a lock.
    pub const fn rows(self) -> u64 {
        1 << self.row_bits
    }

    /// What covers a row.
    pub const fn resource(self, row: RowIndex) -> Resource {
        Resource(row.0 >> self.row_bits)
    }

    /// The first row that a lock covers; the others follow.
    ///
    /// Panics if there can be no such resource.
    pub const fn first_row(self, resource: Resource) -> RowIndex {
        let row = resource.0 << self.row_bits;
        assert!(
            row >> self.row_bits == resource.0,
            "a row has a number of 64 bits"
        );
        RowIndex(row)
    }
}

/// The number of a write grant: grows with every write grant of a resource, across epochs and arbiters, and so orders dirty data of
/// one row by age (PROTOCOL H19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// The epoch of the grant.
    pub epoch: Epoch,
    /// Counts the write grants of one arbiter in that epoch, those that came to it with a moved arbitership included.
    pub serial: u64,
}

/// The number of a request, and of the grant that answers it: never used again in one life of its node, so that a message which
/// belongs to an earlier request or an earlier hold is recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub u64);

/// Further resources that a request names: bit `i` is the one `i + 1` behind the one that it is about.
///
/// Source: US patent application in `seed/`, section "Resource Prefetching".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefetch(pub u64);

impl Prefetch {
    /// None.
    pub const NONE: Self = Self(0);

    /// The next `count` resources; all 64 that can be named if it is more.
    pub const fn next(count: u32) -> Self {
        if count >= u64::BITS {
            Self(u64::MAX)
        } else {
            Self((1 << count) - 1)
        }
    }

    /// How many.
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Those named by a request for `first`, ascending, each with its bit. What lies beyond the last number is left out.
    pub fn resources(self, first: Resource) -> impl Iterator<Item = (Self, Resource)> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros();
            left &= left.checked_sub(1)?;
            let resource = Resource(first.0.checked_add(u64::from(bit) + 1)?);
            Some((Self(1 << bit), resource))
        })
    }

    /// With those of another one.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it names all that the other one names.
    pub const fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B5: the unit of locking is a power of two of rows.
    #[test]
    fn rows_map_to_resources_of_any_granularity() {
        for rows in [1, 2, 64, Granularity::ROWS_MAX] {
            let granularity = Granularity::new(rows).unwrap();
            for row in [0, 1, rows - 1, rows, 12_345_678] {
                let resource = granularity.resource(RowIndex(row));
                let first = granularity.first_row(resource).0;
                assert!((first..first + granularity.rows()).contains(&row), "{rows} {row}");
            }
        }
        assert_eq!(Granularity::new(1), Some(Granularity::ROW));
        assert_eq!(Granularity::new(3), None);
        assert_eq!(Granularity::new(0), None);
        assert_eq!(Granularity::new(2 * Granularity::ROWS_MAX), None);
    }

    #[test]
    fn tokens_grow_across_epochs() {
        let token = |epoch, serial| Token {
            epoch: Epoch(epoch),
            serial,
        };
        assert!(token(1, u64::MAX) < token(2, 0) && token(2, 0) < token(2, 1));
    }

    #[test]
    fn a_prefetch_names_what_comes_behind() {
        let named = |prefetch: Prefetch, first| -> Vec<u64> {
            prefetch
                .resources(Resource(first))
                .map(|(_, resource)| resource.0)
                .collect()
        };
        assert_eq!(named(Prefetch::next(3), 7), [8, 9, 10]);
        assert_eq!(named(Prefetch(0b101), 7), [8, 10]);
        assert_eq!(named(Prefetch::next(4), u64::MAX - 2), [u64::MAX - 1, u64::MAX]);
        assert_eq!(named(Prefetch::next(64), 0).len(), 64);
        assert_eq!(named(Prefetch::NONE, 0), [0; 0]);
    }
}
