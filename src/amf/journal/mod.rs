//! The journal: what closes the write hole, also for a power cut of everything followed by lost drives.
//!
//! Owns the format of the journal on the member drives, the sequence that all cores share and the
//! replay that runs before a group opens. Every member has the journal's region at the same place:
//! one lane a core, and behind them the *recovery lane* that only replay writes: rounds of rows, and
//! *marks* for the next replay.
//!
//! A *batch* is a header of one block and its payload, contiguous in a lane, never across its end. It
//! is written with FUA to [`copies_written`] members and is *committed* when every one of them has it
//! or has durably failed, and at least one has it. What the writer of a lane upholds, and replay
//! builds on:
//!
//! - A sequence number is taken under the row's lock, so that for each row the order of numbers is the
//!   order of the operations. A row's data that is not in place yet comes from one lane only: a core
//!   destages a row before another core gets it.
//! - A [`Entry::Destage`] is submitted only when every write that it covers is committed or is in the
//!   same batch: replay that found the destage but not its data would heal the row with the wrong
//!   check data. Its [`Entry::Check`]s stand directly before it, in the same batch.
//! - In-place writes start only when the destage is committed, and its entries are *retired* only
//!   when all members have flushed those writes.
//! - A header's `tail` says that every entry with a lower number, in any lane, is retired. The space of
//!   a batch is used again only after a later header *of the same lane* is committed whose tail lies
//!   beyond the batch's entries; so a lane's newest committed header is never lost.
//! - In-place writes of one row do not overlap in time.
//! - A new incarnation begins with every opening of the group, after replay, and makes every record of
//!   an earlier one dead.
//!
//! Deliberately knows neither cores nor time: the live lane and the program drive it.

mod codec;
pub mod lane;
mod mark;
pub mod replay;
pub mod scan;
mod shared;

pub use codec::{
    Batch, BatchHeader, ENTRIES_MAX, Entry, HEADER_BYTES, JournalLayout, ParseError, WRITE_BYTES_MAX, encode,
    entries_max, lane_blocks_min, parse,
};
pub use shared::JournalShared;

use super::geometry::Geometry;

/// To how many members each batch goes: one more than may be lost, as far as there are so many live ones.
pub fn copies_written(geometry: &Geometry, live: u32) -> u32 {
    (geometry.losses_max() + 1).min(live)
}
