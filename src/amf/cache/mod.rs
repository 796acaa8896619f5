//! What a core remembers of the group's data: what is dirty, what is clean, and what will be wanted next.
//!
//! Owns plain data structures only. [`RowTable`] says which rows have an entry, [`DirtyMap`] which blocks of such a row are
//! newer than the drives and where their data is, [`CleanCache`] which pages are in memory as the drives have them;
//! [`ReadAhead`] guesses which will be asked for. Invariants: all memory is taken by `new`; each answer depends on the calls
//! before it only.
//! Deliberately knows neither locks, journal nor drives: the engine that owns them says what is written, committed and destaged.

mod clean;
mod dirty;
mod index;
mod read_ahead;
mod rows;

pub use clean::{CleanCache, CleanCounts, CleanLimits, Found, PageIndex, PageKey, Reference};
pub use dirty::{
    Coverage, DirtyExtent, DirtyLimits, DirtyMap, DirtyRun, DirtySnapshot, DirtySource, Extents, ROW_RUNS_MAX,
};
pub use index::KeyIndex;
pub use read_ahead::{Observed, ReadAhead, ReadAheadLimits, STREAMS_MAX};
pub use rows::{DirtyRows, RowTable};

/// An entry of a [`RowTable`], and of the [`DirtyMap`] beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryIndex(pub u32);
