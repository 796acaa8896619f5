//! Online expansion: the rows of a group are laid out anew over more members while hosts go on.
//!
//! Owns the arithmetic of it: which rows of the new layout may be written together without overwriting what is still
//! needed ([`Waves`]), and where each block is at every instant ([`Layout`]). Knows no locks, drives or superblocks.
//!
//! In the old layout a row holds `old` user strips, in the new one `new`, which is more. Strips of a row lie at the
//! same address on all members, on members that exist in both layouts as in the new ones, so writing new row `r`
//! destroys old row `r`, and only that one. Its sources are the old rows that hold user strips `r * new` to
//! `(r + 1) * new - 1`: they are all at or behind `r`, and from row `old` on behind it altogether. Hence:
//!
//! - The *frontier* `x` parts the rows: new rows below it are written and durable, and everything from user strip
//!   `x * new` on is still where the old layout has it. Old rows whose strips have all moved, those below
//!   `x * new / old`, are free to be overwritten.
//! - A *wave* `[x, y)` of new rows may be written in any order, in parallel and again after a crash, if no row of it is
//!   a source of the wave: its sources begin with old row `x * new / old`, so `y` is at most that. Waves grow by
//!   `new / old` each: 4 to 5 data members take 1.25 times as many rows each time.
//! - The first rows overlap their own sources, since `x * new / old` is not beyond `x`. They go through a *scratch* area:
//!   the rows of such a wave are written there whole first, flushed, and the superblock says so; then in place. After a crash they
//!   are copied again from there (PROTOCOL H35).
//! - The last rows get no data and still hold what the old layout had there. They are *cleared*, check data included, so
//!   that they fit and no host reads what was another's.
//!
//! How a wave is carried out (see [`super::engine::relayout`] for whom to ask for what):
//!
//! 1. Every core holds the rows of the wave and of its sources ([`Waves::held`]): hosts' commands for them wait, what is
//!    dirty there goes to its place. So no host's write is lost between its copy and the switch.
//! 2. For a scratch wave: persist [`ScratchState::Dirty`], since what lies there may look like a record of the journal; copy the rows
//!    there, flush, persist [`ScratchState::Holds`].
//! 3. Write the new rows in place on all members of the new layout, and flush.
//! 4. Persist the frontier `y` in the superblocks (PROTOCOL I13: no capacity beyond the old one is visible before the last
//!    wave is through).
//! 5. Publish the layout with the new frontier to all cores, which end their holds: what waited is cut anew.
//!
//! A frontier persisted but not published is harmless, since the rows below it are written; a wave that was not
//! persisted is written again from sources that nothing has touched. While a member is lost no further wave begins
//! (PROTOCOL H36). Since a host's range may be parted by the frontier, it is cut at [`Layout::frontier_block`] first.

mod layout;
mod record;
mod restore;

pub use layout::{Layout, Side};
pub use record::{ExpansionRecord, ScratchArea, ScratchState};
pub use restore::Restore;

use thiserror::Error;

use super::RowIndex;

/// Rows of one wave at most: hosts wait for all of them at once.
pub const WAVE_ROWS_MAX: u64 = 64;

/// Why a group cannot be laid out anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExpansionError {
    /// A row would not hold more.
    #[error("a row would hold {new} strips of data and holds {old}: add members")]
    NotWider {
        /// Data members before.
        old: u8,
        /// Data members afterwards.
        new: u8,
    },
    /// Level, strip, block or place differ.
    #[error("only the number of members may change")]
    OtherShape,
    /// Pairs of copies go round an even number of members in one strip each, and round an odd one in two: rows would
    /// change their places.
    #[error("a group of level raid10 with {old} members may grow by an even number of members, not to {new}")]
    OtherHeight {
        /// Members before.
        old: u8,
        /// Members afterwards.
        new: u8,
    },
    /// The scratch area would hold no row.
    #[error("the area for the first rows has no room for one")]
    NoScratch,
}

/// What is written into the rows of a wave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaveKind {
    /// Data from old rows that lie behind the wave.
    Moves,
    /// The same, but some of the sources lie in the wave: it goes through the scratch area.
    MovesThroughScratch,
    /// Zeroes: all data has moved, and what these rows held is old.
    Clears,
}

/// Rows of the new layout that are written together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wave {
    /// First row of the new layout.
    pub from_row: u64,
    /// The row behind the last one.
    pub to_row: u64,
    /// What is written there.
    pub kind: WaveKind,
}

/// The order in which the rows of the new layout are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waves {
    old: u64,
    new: u64,
    /// Rows of either layout.
    rows: u64,
    scratch_rows: u64,
}

impl Waves {
    /// Plans for `rows` rows that widen from `old` to `new` data strips; `scratch_rows` rows of the new layout fit into
    /// the scratch area.
    pub fn new(old: u8, new: u8, rows: u64, scratch_rows: u64) -> Result<Self, ExpansionError> {
        if old == 0 || new <= old {
            return Err(ExpansionError::NotWider { old, new });
        }
        if scratch_rows == 0 {
            return Err(ExpansionError::NoScratch);
        }
        Ok(Self {
            old: u64::from(old),
            new: u64::from(new),
            rows,
            scratch_rows,
        })
    }

    /// Rows of the new layout into which data moves; those behind them are cleared. The strips of the last one that
    /// have no source are zeroes too.
    pub const fn moved_rows(&self) -> u64 {
        // At most 2^32 rows of 32 strips: the product stays far below 2^64.
        (self.rows * self.old).div_ceil(self.new)
    }

    /// The old rows from which new row `row` is made, first and last; `None` for a row that is cleared.
    pub const fn sources(&self, row: u64) -> Option<(u64, u64)> {
        if row >= self.moved_rows() {
            return None;
        }
        let last = ((row + 1) * self.new - 1) / self.old;
        let last = if last < self.rows { last } else { self.rows - 1 };
        Some((self.needed_from(row), last))
    }

    /// The first old row that is still needed when all new rows below `frontier` are written.
    pub const fn needed_from(&self, frontier: u64) -> u64 {
        frontier * self.new / self.old
    }

    /// What is written next when all new rows below `frontier` are written; `None` at the end.
    pub fn next(&self, frontier: u64) -> Option<Wave> {
        if frontier >= self.rows {
            return None;
        }
        let moved = self.moved_rows();
        let free = self.needed_from(frontier);
        let (kind, most) = if frontier >= moved {
            (WaveKind::Clears, self.rows)
        } else if free <= frontier {
            (
                WaveKind::MovesThroughScratch,
                moved.min(frontier + self.scratch_rows),
            )
        } else {
            (WaveKind::Moves, moved.min(free))
        };
        Some(Wave {
            from_row: frontier,
            to_row: most.min(frontier + WAVE_ROWS_MAX),
            kind,
        })
    }

    /// The rows from which a wave keeps everybody else: its own and those of its sources in the old layout. Rows of
    /// one number share their place in both layouts.
    pub fn held(&self, wave: Wave) -> HeldRows {
        let first = self
            .sources(wave.from_row)
            .map_or(wave.to_row, |(first, _)| first);
        let behind = self
            .sources(wave.to_row - 1)
            .map_or(wave.to_row, |(_, last)| last + 1);
        HeldRows {
            targets: (wave.from_row, wave.to_row),
            sources: (first.max(wave.to_row), behind.max(wave.to_row)),
        }
    }
}

/// Rows that only a wave may touch while it runs; see [`super::engine::Engine::hold_range`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldRows {
    /// First row that is written and the one behind the last.
    pub targets: (u64, u64),
    /// First row that is read and the one behind the last, without those that are written, too.
    pub sources: (u64, u64),
}

impl HeldRows {
    /// Whether a row is among them.
    pub const fn contains(&self, row: RowIndex) -> bool {
        let (targets, sources) = (self.targets, self.sources);
        targets.0 <= row.0 && row.0 < targets.1 || sources.0 <= row.0 && row.0 < sources.1
    }

    /// All of them, ascending and each once.
    pub fn rows(&self) -> impl Iterator<Item = RowIndex> + use<> {
        let (targets, sources) = (self.targets, self.sources);
        (targets.0..targets.1).chain(sources.0..sources.1).map(RowIndex)
    }
}

#[cfg(test)]
mod tests;
