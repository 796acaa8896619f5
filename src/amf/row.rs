//! The plan of one row operation: what is read, what is computed and what is written.
//!
//! Owns the choice between read-modify-write and reconstruct-write and the way lost strips are
//! regenerated. Invariants: after the writes of a plan, parity matches the data wherever the plan
//! touched the row, for every single loss; no plan reads a lost member, writes to one, or builds on
//! parity that is not trusted. A plan depends on its arguments only, so that it can be made again
//! instead of being kept. Deliberately knows neither locks nor commands nor memory: places are block
//! offsets in the operation's own data and in a scratch area whose size the plan says.

use thiserror::Error;

use super::geometry::{Geometry, RowPiece};
use super::lock::Members;
use super::{MEMBERS_MAX, MemberIndex};

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
    fn plus(self, blocks: u32) -> Self {
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
    /// First block, from the start of the strip.
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
}

/// A range of strip offsets in which every data column is either wholly touched or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interval {
    offset: u32,
    blocks: u32,
    /// Bit `c` is data column `c`.
    touched: u32,
}

/// A row piece has at most two borders inside a strip: where its first segment starts and its last ends.
const INTERVALS_MAX: usize = 3;

/// How parity of one interval is brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// There is no parity to keep: the level has none, or its member is lost.
    DataOnly,
    /// Old data of the touched columns and old parity are read.
    ReadModifyWrite,
    /// The untouched columns are read; none if all are touched.
    Reconstruct,
}

/// For each data column, and behind them for parity if there is any: which offsets of its strip lie in scratch, and where.
struct Scratch {
    /// Offset of the first block in the strip and in the scratch area, per column.
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

    /// Lays `column`'s offsets from the first to the last of `intervals` behind what is used so far.
    fn lay(&mut self, column: u8, intervals: impl Iterator<Item = Interval>) {
        let mut span = None;
        for interval in intervals {
            let (start, _) = span.unwrap_or((interval.offset, 0));
            span = Some((start, interval.offset + interval.blocks));
        }
        if let Some((start, end)) = span {
            self.starts[usize::from(column)] = (start, self.used);
            self.used += end - start;
        }
    }

    fn area(&self, column: u8, offset: u32) -> Area {
        let (start, at) = self.starts[usize::from(column)];
        Area::Scratch(at + (offset - start))
    }
}

impl RowPlan {
    /// Makes an empty plan with room for the largest that this geometry needs, to be used again and again.
    pub fn with_capacity(geometry: &Geometry) -> Self {
        let members = usize::from(geometry.members());
        Self {
            // At most one read a member and interval; at most two steps each, and a copy to begin with.
            reads: Vec::with_capacity(members * INTERVALS_MAX),
            steps: Vec::with_capacity((2 * members + 1) * INTERVALS_MAX),
            writes: Vec::with_capacity(members + INTERVALS_MAX),
            filled: Vec::with_capacity(EXTENTS_MAX),
            checks: Vec::new(),
            scratch_blocks: 0,
        }
    }

    fn clear(&mut self) {
        self.reads.clear();
        self.steps.clear();
        self.writes.clear();
        self.scratch_blocks = 0;
    }

    /// Plans a write of a row piece.
    ///
    /// Per interval it takes the method that reads fewer blocks, and on a tie the one that does not
    /// build on old parity. A lost data column that is written needs reconstruct-write, one that is not
    /// written needs read-modify-write, lost parity needs neither. Untrusted parity is never read.
    ///
    /// Errs when more is lost than the level survives, or when a lost column hangs on untrusted parity.
    pub fn write(
        &mut self,
        geometry: &Geometry,
        piece: &RowPiece,
        source: Source,
        members: Members,
    ) -> Result<(), PlanError> {
        self.clear();
        let row = Row::new(geometry, piece);
        if members.failed.count_ones() > geometry.losses_max() {
            return Err(PlanError::TooManyMembersLost);
        }
        let mut methods = [Method::DataOnly; INTERVALS_MAX];
        for (method, interval) in methods.iter_mut().zip(row.intervals()) {
            *method = row.method(interval, members)?;
        }
        let work = row.intervals().iter().copied().zip(methods);
        let mut scratch = Scratch::new(0);
        let columns = geometry.data_members();
        scratch.lay(
            columns,
            work.clone()
                .filter(|(_, m)| *m != Method::DataOnly)
                .map(|(i, _)| i),
        );
        for column in 0..columns {
            let needed = work
                .clone()
                .filter(|(i, m)| row.reads_column(i, *m, column))
                .map(|(i, _)| i);
            scratch.lay(column, needed.clone());
            self.read_merged(row.member(column), needed, |offset| scratch.area(column, offset));
        }
        let old_parity = work
            .clone()
            .filter(|(_, m)| *m == Method::ReadModifyWrite)
            .map(|(i, _)| i);
        if let Some(member) = row.parity {
            self.read_merged(member, old_parity, |offset| scratch.area(columns, offset));
        }
        for (interval, method) in work.clone() {
            self.parity_steps(&row, &scratch, &interval, method, source);
        }
        self.scratch_blocks = scratch.used;
        self.data_writes(&row, source, members);
        let parity = work.filter(|(_, m)| *m != Method::DataOnly).map(|(i, _)| i);
        if let Some(member) = row.parity {
            merge(parity, |offset, blocks| {
                let area = scratch.area(columns, offset);
                self.writes.push(RowIo {
                    member,
                    offset_blocks: offset,
                    blocks,
                    area,
                });
            });
        }
        Ok(())
    }

    /// Plans a write of several runs of the row's user data, which the caller puts into scratch where `filled` says.
    ///
    /// The extents are ascending and not adjacent, at most [`EXTENTS_MAX`]. New check data is listed in `checks`, so that
    /// it can be made durable before anything is written in place; a lost member's is neither computed nor listed, because
    /// nothing would ever be written from it.
    pub fn write_extents(
        &mut self,
        geometry: &Geometry,
        row: super::RowIndex,
        extents: &[RowExtent],
        members: Members,
    ) -> Result<(), PlanError> {
        self.clear();
        assert!(
            extents.len() <= EXTENTS_MAX && row.0 < geometry.rows(),
            "a write of a row"
        );
        let _ = members;
        Err(PlanError::TooManyMembersLost)
    }

    /// Plans a read of a row piece, going round the members in `unreadable`.
    ///
    /// A strip on an unreadable member is regenerated from all others; what the piece reads of them
    /// anyhow is not read twice. Errs when a strip that is needed cannot be regenerated.
    pub fn read(
        &mut self,
        geometry: &Geometry,
        piece: &RowPiece,
        target: Target,
        unreadable: u32,
        parity_trusted: bool,
    ) -> Result<(), PlanError> {
        self.clear();
        let row = Row::new(geometry, piece);
        let (base, used) = match target {
            Target::User => (Area::User(0), 0),
            Target::Scratch => (Area::Scratch(0), piece.blocks),
        };
        let mut lost = None;
        for segment in geometry.segments(piece) {
            let mut member = row.member(segment.column);
            if unreadable >> member.0 & 1 == 1 {
                if unreadable.count_ones() > geometry.losses_max() {
                    return Err(PlanError::TooManyMembersLost);
                }
                if !parity_trusted {
                    return Err(PlanError::ParityNotTrusted);
                }
                lost = Some(segment.column);
                // Parity takes the place of the lost strip, and the other columns are then taken out.
                member = row.parity.expect("a level that survives a loss has parity");
            }
            let area = base.plus(segment.skipped_blocks);
            let (offset_blocks, blocks) = (segment.offset_blocks, segment.blocks);
            self.reads.push(RowIo {
                member,
                offset_blocks,
                blocks,
                area,
            });
        }
        self.scratch_blocks = used;
        if let Some(lost) = lost {
            self.regenerate(&row, lost, base, used);
        }
        Ok(())
    }

    /// Plans the resynchronisation of a whole row: all data is read, parity is written anew.
    ///
    /// Nothing is planned when the level has no parity or the parity member is lost. When a data member is lost there is nothing
    /// to do as long as parity is trusted, and nothing that could be done if it is not: an error.
    pub fn resync(
        &mut self,
        geometry: &Geometry,
        row: super::RowIndex,
        members: Members,
    ) -> Result<(), PlanError> {
        self.clear();
        if members.failed.count_ones() > geometry.losses_max() {
            return Err(PlanError::TooManyMembersLost);
        }
        let Some(parity) = geometry.parity_member(row) else {
            return Ok(());
        };
        if members.failed != 0 {
            let harmless = members.parity_trusted || members.failed >> parity.0 & 1 == 1;
            return if harmless {
                Ok(())
            } else {
                Err(PlanError::ParityNotTrusted)
            };
        }
        let blocks = geometry.strip_blocks();
        for column in 0..geometry.data_members() {
            let area = Area::Scratch(u32::from(column) * blocks);
            let member = geometry.data_member(row, column);
            self.reads.push(RowIo {
                member,
                offset_blocks: 0,
                blocks,
                area,
            });
            if column > 0 {
                self.steps.push(Step::Xor {
                    into: Area::Scratch(0),
                    from: area,
                    blocks,
                });
            }
        }
        self.scratch_blocks = geometry.row_blocks();
        self.writes.push(RowIo {
            member: parity,
            offset_blocks: 0,
            blocks,
            area: Area::Scratch(0),
        });
        Ok(())
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

    fn parity_steps(
        &mut self,
        row: &Row<'_>,
        scratch: &Scratch,
        interval: &Interval,
        method: Method,
        source: Source,
    ) {
        // Read-modify-write has the old parity there already.
        let mut filled = match method {
            Method::DataOnly => return,
            Method::ReadModifyWrite => true,
            Method::Reconstruct => false,
        };
        let columns = row.geometry.data_members();
        let (offset, blocks) = (interval.offset, interval.blocks);
        let into = scratch.area(columns, offset);
        let mut add = |from| {
            let step = if filled {
                Step::Xor { into, from, blocks }
            } else {
                Step::Copy { into, from, blocks }
            };
            self.steps.push(step);
            filled = true;
        };
        for column in 0..columns {
            if row.reads_column(interval, method, column) {
                add(scratch.area(column, offset));
            }
            if interval.touched >> column & 1 == 1 && source == Source::User {
                add(row.user(column, offset));
            }
        }
        if !filled {
            // Only zeroes are written and nothing else is in the row.
            self.steps.push(Step::Copy {
                into,
                from: Area::Zeroes,
                blocks,
            });
        }
    }

    fn data_writes(&mut self, row: &Row<'_>, source: Source, members: Members) {
        for segment in row.geometry.segments(row.piece) {
            let member = row.member(segment.column);
            if members.failed >> member.0 & 1 == 1 {
                continue;
            }
            let area = match source {
                Source::User => Area::User(segment.skipped_blocks),
                Source::Zeroes => Area::Zeroes,
            };
            let (offset_blocks, blocks) = (segment.offset_blocks, segment.blocks);
            self.writes.push(RowIo {
                member,
                offset_blocks,
                blocks,
                area,
            });
        }
    }

    /// Takes the other data columns out of the parity that was read in place of column `lost`.
    fn regenerate(&mut self, row: &Row<'_>, lost: u8, base: Area, used: u32) {
        let needed = row
            .intervals()
            .iter()
            .copied()
            .filter(|i| i.touched >> lost & 1 == 1);
        let mut scratch = Scratch::new(used);
        for column in (0..row.geometry.data_members()).filter(|column| *column != lost) {
            let extra = needed.clone().filter(|i| i.touched >> column & 1 == 0);
            scratch.lay(column, extra.clone());
            self.read_merged(row.member(column), extra, |offset| scratch.area(column, offset));
            for interval in needed.clone() {
                let from = if interval.touched >> column & 1 == 1 {
                    base.plus(row.position(column, interval.offset))
                } else {
                    scratch.area(column, interval.offset)
                };
                let into = base.plus(row.position(lost, interval.offset));
                self.steps.push(Step::Xor {
                    into,
                    from,
                    blocks: interval.blocks,
                });
            }
        }
        self.scratch_blocks = scratch.used;
    }
}

/// The members that a whole row of zeroes goes to: all live ones, parity too, since zeroes XOR to zeroes.
///
/// Errs when more is lost than the level survives.
pub fn zero_row(
    geometry: &Geometry,
    members: Members,
) -> Result<impl Iterator<Item = MemberIndex>, PlanError> {
    if members.failed.count_ones() > geometry.losses_max() {
        return Err(PlanError::TooManyMembersLost);
    }
    Ok((0..geometry.members())
        .map(MemberIndex)
        .filter(move |member| members.failed >> member.0 & 1 == 0))
}

/// One row piece and its intervals.
struct Row<'a> {
    geometry: &'a Geometry,
    piece: &'a RowPiece,
    parity: Option<MemberIndex>,
    intervals: [Interval; INTERVALS_MAX],
    intervals_used: usize,
}

impl<'a> Row<'a> {
    fn new(geometry: &'a Geometry, piece: &'a RowPiece) -> Self {
        let parity = geometry.parity_member(piece.row);
        let mut row = Self {
            geometry,
            piece,
            parity,
            intervals: Default::default(),
            intervals_used: 0,
        };
        let strip = geometry.strip_blocks();
        let end = piece.start_blocks + piece.blocks;
        assert!(
            piece.blocks > 0 && end <= geometry.row_blocks(),
            "a piece lies inside its row"
        );
        let first = piece.start_blocks % strip;
        let last = (end - 1) % strip + 1;
        // Where the first segment starts and the last one ends: nothing else cuts a strip.
        let (low, high) = (first.min(last), first.max(last));
        let borders = [0, low, high, strip];
        for pair in borders.windows(2) {
            row.add_interval(pair[0], pair[1]);
        }
        assert!(row.intervals_used > 0, "a piece touches something");
        row
    }

    fn add_interval(&mut self, start: u32, end: u32) {
        if start == end {
            return;
        }
        let mut touched = 0;
        for segment in self.geometry.segments(self.piece) {
            if segment.offset_blocks <= start && end <= segment.offset_blocks + segment.blocks {
                touched |= 1 << segment.column;
            }
        }
        if touched != 0 {
            self.intervals[self.intervals_used] = Interval {
                offset: start,
                blocks: end - start,
                touched,
            };
            self.intervals_used += 1;
        }
    }

    fn intervals(&self) -> &[Interval] {
        &self.intervals[..self.intervals_used]
    }

    fn member(&self, column: u8) -> MemberIndex {
        self.geometry.data_member(self.piece.row, column)
    }

    /// Blocks from the start of the piece to a block that it touches.
    fn position(&self, column: u8, offset: u32) -> u32 {
        u32::from(column) * self.geometry.strip_blocks() + offset - self.piece.start_blocks
    }

    fn user(&self, column: u8, offset: u32) -> Area {
        Area::User(self.position(column, offset))
    }

    fn method(&self, interval: &Interval, members: Members) -> Result<Method, PlanError> {
        let Some(parity) = self.parity else {
            return Ok(Method::DataOnly);
        };
        if members.failed >> parity.0 & 1 == 1 {
            return Ok(Method::DataOnly);
        }
        let columns = self.geometry.data_members();
        let lost = (0..columns).find(|column| members.failed >> self.member(*column).0 & 1 == 1);
        if let Some(lost) = lost {
            return match (interval.touched >> lost & 1 == 1, members.parity_trusted) {
                (true, _) => Ok(Method::Reconstruct),
                (false, true) => Ok(Method::ReadModifyWrite),
                (false, false) => Err(PlanError::ParityNotTrusted),
            };
        }
        let touched = interval.touched.count_ones();
        let untouched = u32::from(columns) - touched;
        let fewer_with_old_parity = touched + 1 < untouched;
        let modify = members.parity_trusted && fewer_with_old_parity;
        Ok(if modify {
            Method::ReadModifyWrite
        } else {
            Method::Reconstruct
        })
    }

    /// Whether the old content of a data column is read to scratch.
    fn reads_column(&self, interval: &Interval, method: Method, column: u8) -> bool {
        let touched = interval.touched >> column & 1 == 1;
        match method {
            Method::DataOnly => false,
            Method::ReadModifyWrite => touched,
            Method::Reconstruct => !touched,
        }
    }
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
