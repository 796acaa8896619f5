//! The plan of one row operation: what is read, what is computed and what is written.
//!
//! Owns the choice between read-modify-write and reconstruct-write, the choice of a copy, and the way lost
//! strips are regenerated. Invariants: after the writes of a plan, check data and copies match the data wherever
//! the plan touched the row, for every loss that the level survives; no plan reads a lost member, writes to one,
//! or builds on check data that is not trusted. A plan depends on its arguments only, so that it can be made again
//! instead of being kept. Deliberately knows neither locks nor commands nor memory: places are block
//! offsets in the operation's own data and in a scratch area whose size the plan says.

mod interval;
mod mend;
mod read;
mod whole;
mod write;

use crate::amf::ParityTrust;
use thiserror::Error;

use super::geometry::{Geometry, RowPiece, StripPlace};
use super::lock::Members;
use super::{MEMBERS_MAX, MemberIndex, RowIndex};
use interval::{Interval, Shape};

pub use mend::{MemberBlock, MendPlan};

/// Where blocks of an operation are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The operation's own data, in blocks from the start of its row piece.
    User(u32),
    /// The operation's scratch area, in blocks from its start.
    Scratch(u32),
    /// Zeroes, as many as needed, at most a strip. Only a source.
    Zeroes,
}

impl Area {
    /// The place so many blocks further on.
    pub fn plus(self, blocks: u32) -> Self {
        match self {
            Self::User(offset) => Self::User(offset + blocks),
            Self::Scratch(offset) => Self::Scratch(offset + blocks),
            Self::Zeroes => Self::Zeroes,
        }
    }
}

/// One transfer between a member's strip of the row and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowIo {
    /// Which member.
    pub member: MemberIndex,
    /// First block, from the start of what the member gives to the row.
    pub offset_blocks: u32,
    /// Length, at least 1.
    pub blocks: u32,
    /// Where the data goes to or comes from.
    pub area: Area,
}

/// One computation between reads and writes. The two areas never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `into = from`.
    Copy {
        /// Changed.
        into: Area,
        /// Read.
        from: Area,
        /// Length.
        blocks: u32,
    },
    /// `into ^= from`.
    Xor {
        /// Changed.
        into: Area,
        /// Read.
        from: Area,
        /// Length.
        blocks: u32,
    },
    /// `into ^= factor * from`, byte by byte in GF(2^8).
    MulAdd {
        /// Changed.
        into: Area,
        /// Read.
        from: Area,
        /// Neither 0 nor 1.
        factor: u8,
        /// Length.
        blocks: u32,
    },
}

/// A run of a row's user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowExtent {
    /// First block, counted through the row's user data from its start.
    pub start_blocks: u32,
    /// Length, at least 1.
    pub blocks: u32,
}

/// Where the caller of [`RowPlan::write_extents`] puts data, after the reads and before the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// First block, counted through the row's user data from its start.
    pub start_blocks: u32,
    /// Length, at least 1.
    pub blocks: u32,
    /// Its place in the scratch area.
    pub scratch_block: u32,
}

/// New check data of a row, in scratch once the steps are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckIo {
    /// Which check strip.
    pub index: u8,
    /// The member that holds it.
    pub member: MemberIndex,
    /// First block, from the start of the strip.
    pub offset_blocks: u32,
    /// Length, at least 1.
    pub blocks: u32,
    /// Its place in the scratch area.
    pub scratch_block: u32,
}

/// Most extents of one [`RowPlan::write_extents`].
pub const EXTENTS_MAX: usize = 64;

/// Where the data of a write comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operation's own data.
    User,
    /// Zeroes.
    Zeroes,
}

/// Where the data of a read goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The operation's own data.
    User,
    /// The start of the scratch area, for data that is only looked at.
    Scratch,
}

/// Why a row operation is impossible with the members that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// More members are lost than the level survives.
    #[error("too many members are lost")]
    TooManyMembersLost,
    /// A lost strip depends on parity that may not match (PROTOCOL H27, H28).
    #[error("a member is lost and parity is not trusted")]
    ParityNotTrusted,
}

/// All reads may go at once; then the steps in order; then all writes at once.
#[derive(Debug, Default)]
pub struct RowPlan {
    /// Before the steps.
    pub reads: Vec<RowIo>,
    /// Between reads and writes, in this order.
    pub steps: Vec<Step>,
    /// After the steps.
    pub writes: Vec<RowIo>,
    /// Of a write of extents: where their data goes before the steps.
    pub filled: Vec<Fill>,
    /// Of a write of extents: the check data among `writes`, which is new.
    pub checks: Vec<CheckIo>,
    /// Size of the scratch area, at most [`scratch_blocks_max`].
    pub scratch_blocks: u32,
    /// Work space: offsets at which something begins or ends in a strip.
    borders: Vec<u32>,
    /// Work space: the parts between them.
    intervals: Vec<Interval>,
}

/// The largest scratch area of any plan.
///
/// A write of extents holds the row's new data and, with a member lost, all of its old data and check strips; a scrub
/// holds everything that all members have.
pub const fn scratch_blocks_max(geometry: &Geometry) -> u32 {
    let write = 2 * geometry.row_blocks() + geometry.check_strips() as u32 * geometry.strip_blocks();
    let scrub = geometry.members() as u32 * geometry.member_row_blocks();
    if write > scrub { write } else { scrub }
}

impl RowPlan {
    /// Makes an empty plan with room for the largest that this geometry needs, to be used again and again.
    pub fn with_capacity(geometry: &Geometry) -> Self {
        let borders = 2 * EXTENTS_MAX + 2;
        let intervals = (geometry.strip_blocks() as usize).min(borders - 1);
        // Of several intervals a member has at most every other one for itself: neighbours are one transfer.
        let runs = intervals.div_ceil(2).max(2);
        let columns = usize::from(geometry.data_members());
        let checks = usize::from(geometry.check_strips());
        let copies = usize::from(geometry.copies());
        let members = usize::from(geometry.members());
        // An extent is cut where its columns end. A scrub reads every strip.
        let segments = EXTENTS_MAX + columns;
        let reads = (columns + checks) * runs;
        Self {
            reads: Vec::with_capacity(reads.max(2 * members)),
            // Each check strip has a start and two terms a column; each lost column as well one of each check strip.
            steps: Vec::with_capacity(intervals * checks * (2 * columns + checks + 3)),
            writes: Vec::with_capacity(segments * copies + checks * runs),
            filled: Vec::with_capacity(EXTENTS_MAX),
            checks: Vec::with_capacity(checks * runs),
            scratch_blocks: 0,
            borders: Vec::with_capacity(borders),
            intervals: Vec::with_capacity(intervals),
        }
    }

    fn clear(&mut self) {
        self.reads.clear();
        self.steps.clear();
        self.writes.clear();
        self.filled.clear();
        self.checks.clear();
        self.borders.clear();
        self.intervals.clear();
        self.scratch_blocks = 0;
    }

    fn read_merged(
        &mut self,
        member: MemberIndex,
        intervals: impl Iterator<Item = Interval>,
        area: impl Fn(u32) -> Area,
    ) {
        merge(intervals, |offset, blocks| {
            self.reads.push(RowIo {
                member,
                offset_blocks: offset,
                blocks,
                area: area(offset),
            });
        });
    }
}

/// The terms of one sum, in scratch or in the operation's data.
struct Sum<'a> {
    steps: &'a mut Vec<Step>,
    into: Area,
    blocks: u32,
    /// Whether the place holds a term already.
    filled: bool,
}

impl Sum<'_> {
    /// Adds `factor` times what is at `from`.
    fn add(&mut self, from: Area, factor: u8) {
        let (into, blocks) = (self.into, self.blocks);
        match (factor, self.filled) {
            (0, _) => return,
            (1, false) => self.steps.push(Step::Copy { into, from, blocks }),
            (1, true) => self.steps.push(Step::Xor { into, from, blocks }),
            (_, filled) => {
                if !filled {
                    self.clear();
                }
                self.steps.push(Step::MulAdd {
                    into,
                    from,
                    factor,
                    blocks,
                });
            }
        }
        self.filled = true;
    }

    fn clear(&mut self) {
        self.steps.push(Step::Copy {
            into: self.into,
            from: Area::Zeroes,
            blocks: self.blocks,
        });
    }

    /// A sum without terms is zero.
    fn finish(mut self) {
        if !self.filled {
            self.clear();
        }
    }
}

/// Which strip each column has in scratch, and behind the columns each check strip: the offsets that lie there, and where.
struct Scratch {
    /// Offset of the first block in the strip and in the scratch area.
    starts: [(u32, u32); MEMBERS_MAX],
    used: u32,
}

impl Scratch {
    fn new(used: u32) -> Self {
        Self {
            starts: [(0, 0); MEMBERS_MAX],
            used,
        }
    }

    /// Lays a strip's offsets from the first to the last of `intervals` behind what is used so far.
    fn lay(&mut self, strip: u8, intervals: impl Iterator<Item = Interval>) {
        let mut span = None;
        for interval in intervals {
            let (start, _) = span.unwrap_or((interval.offset, 0));
            span = Some((start, interval.offset + interval.blocks));
        }
        if let Some((start, end)) = span {
            self.starts[usize::from(strip)] = (start, self.used);
            self.used += end - start;
        }
    }

    fn block(&self, strip: u8, offset: u32) -> u32 {
        let (start, at) = self.starts[usize::from(strip)];
        at + (offset - start)
    }

    fn area(&self, strip: u8, offset: u32) -> Area {
        Area::Scratch(self.block(strip, offset))
    }
}

/// The copy of a column that is read at an offset: readers are spread over the copies that can be read. While copies are not
/// known to agree it is the first one, so that what was read once is read again (PROTOCOL I8).
pub(super) fn choose_copy(
    geometry: &Geometry,
    row: RowIndex,
    column: u8,
    offset_blocks: u32,
    unreadable: u32,
    trust: ParityTrust,
) -> Option<StripPlace> {
    let copies = geometry.copies();
    let first = if trust.is_everywhere() && copies > 1 {
        let turn = row.0 + u64::from(offset_blocks >> COPY_TURN_SHIFT);
        u8::try_from(turn % u64::from(copies)).expect("at most 32 copies")
    } else {
        0
    };
    (0..copies)
        .map(|turn| geometry.copy_place(row, column, (first + turn) % copies))
        .find(|place| unreadable >> place.member.0 & 1 == 0)
}

/// Readers of a strip turn to the next copy after so many blocks, as a power of two: 64 KiB of 4 KiB blocks.
const COPY_TURN_SHIFT: u32 = 4;

/// The members that a whole row of zeroes goes to: all live ones, with check data too, since zeroes sum to zeroes.
///
/// Errs when more is lost than the level survives.
pub fn zero_row(
    geometry: &Geometry,
    members: Members,
) -> Result<impl Iterator<Item = MemberIndex>, PlanError> {
    if !geometry.survives(members.failed) {
        return Err(PlanError::TooManyMembersLost);
    }
    Ok((0..geometry.members())
        .map(MemberIndex)
        .filter(move |member| members.failed >> member.0 & 1 == 0))
}

/// The numbers of the bits that are set.
fn bits(mask: u32) -> impl Iterator<Item = u8> + Clone {
    (0..32).filter(move |bit| mask >> bit & 1 == 1)
}

/// Calls `each` with offset and length of every run of adjacent intervals, which come in ascending order.
fn merge(intervals: impl Iterator<Item = Interval>, mut each: impl FnMut(u32, u32)) {
    let mut run: Option<(u32, u32)> = None;
    for interval in intervals {
        run = match run {
            Some((offset, blocks)) if offset + blocks == interval.offset => {
                Some((offset, blocks + interval.blocks))
            }
            Some((offset, blocks)) => {
                each(offset, blocks);
                Some((interval.offset, interval.blocks))
            }
            None => Some((interval.offset, interval.blocks)),
        };
    }
    if let Some((offset, blocks)) = run {
        each(offset, blocks);
    }
}

#[cfg(test)]
mod tests;
