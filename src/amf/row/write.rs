//! Writing parts of a row, and bringing its check data up to date by reading as little as possible.

use super::super::code::{self, Solution};
use super::{
    Area, CheckIo, EXTENTS_MAX, Fill, Geometry, Interval, Members, PlanError, RowExtent, RowIndex, RowIo,
    RowPiece, RowPlan, Scratch, Shape, Source, Sum, bits, merge,
};
use crate::amf::ParityTrust;

/// How check data of one interval is brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// There is no check data to keep: the level has none, or its members are lost.
    DataOnly,
    /// Old data of the touched columns and old check data are read.
    ReadModifyWrite,
    /// The untouched columns are read; none if all are touched.
    Reconstruct,
    /// Everything that can be read is read, and untouched columns that cannot are regenerated.
    Regenerate,
}

/// What is lost and what cannot be read in a row.
struct Losses {
    /// Columns that cannot be read.
    columns: u32,
    /// Check strips that are written.
    live_checks: u8,
    /// Check strips that can be read.
    readable_checks: u8,
    /// Check strips that fit the row's data and one another may be brought up to date by what changes.
    modify: bool,
    trust: ParityTrust,
}

/// Where new data of a write comes from.
#[derive(Clone, Copy)]
enum NewData<'a> {
    Piece(&'a RowPiece),
    Zeroes,
    Filled,
}

impl RowPlan {
    /// Plans a write of a row piece, reading nothing of the members in `unreadable`.
    ///
    /// Per interval it takes the method that reads fewest blocks, and on a tie the one that does not
    /// build on old check data. A column that cannot be read and is written needs reconstruct-write, one that is not
    /// written needs read-modify-write, both together need everything that is left; lost check data needs none of
    /// that. Check data that is not trusted is never read. Where it is trusted only in places that were written, none is brought up to
    /// date by what changes: it is computed from all columns, lost ones as the first check strips define them, so that afterwards
    /// all of it fits.
    ///
    /// Errs when more is lost than the level survives, or when a lost column hangs on untrusted check data.
    pub fn write(
        &mut self,
        geometry: &Geometry,
        piece: &RowPiece,
        source: Source,
        members: Members,
        unreadable: u32,
    ) -> Result<(), PlanError> {
        self.clear();
        let extent = RowExtent {
            start_blocks: piece.start_blocks,
            blocks: piece.blocks,
        };
        let new = match source {
            Source::User => NewData::Piece(piece),
            Source::Zeroes => NewData::Zeroes,
        };
        self.write_to(geometry, piece.row, &[extent], new, members, unreadable)
    }

    /// Plans a write of several runs of the row's user data, which the caller puts into scratch where `filled` says, after the reads
    /// and before the steps; nothing of the members in `unreadable` is read.
    ///
    /// The extents are ascending and not adjacent, at most [`EXTENTS_MAX`]. New check data is listed in `checks`, so that
    /// it can be made durable before anything is written in place; that of a lost member is neither computed nor listed,
    /// because nothing will ever be written from it: its strip is rebuilt as a whole. Errs as [`RowPlan::write`] does.
    pub fn write_extents(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        extents: &[RowExtent],
        members: Members,
        unreadable: u32,
    ) -> Result<(), PlanError> {
        self.clear();
        assert!(
            !extents.is_empty() && extents.len() <= EXTENTS_MAX,
            "a write has 1 to 64 extents"
        );
        for extent in extents {
            self.filled.push(Fill {
                start_blocks: extent.start_blocks,
                blocks: extent.blocks,
                scratch_block: self.scratch_blocks,
            });
            self.scratch_blocks += extent.blocks;
        }
        self.write_to(geometry, row, extents, NewData::Filled, members, unreadable)
    }

    fn write_to(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        extents: &[RowExtent],
        new: NewData<'_>,
        members: Members,
        unreadable: u32,
    ) -> Result<(), PlanError> {
        if !geometry.survives(members.failed) {
            return Err(PlanError::TooManyMembersLost);
        }
        if !geometry.level().is_mirror() {
            self.write_checks(geometry, row, extents, new, members, unreadable)?;
        }
        for extent in extents {
            self.write_data(geometry, row, extent, new, members.failed);
        }
        Ok(())
    }

    /// All that a write does to keep check data up to date; nothing where none is live.
    fn write_checks(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        extents: &[RowExtent],
        new: NewData<'_>,
        members: Members,
        unreadable: u32,
    ) -> Result<(), PlanError> {
        let shape = Shape::new(geometry, row);
        let (columns, checks) = shape.held_by(members.failed | unreadable);
        let live_checks = shape.all_checks() & !shape.held_by(members.failed).1;
        let losses = Losses {
            columns,
            live_checks,
            readable_checks: shape.all_checks() & !checks,
            modify: match members.parity {
                ParityTrust::Nowhere => false,
                // Where nobody has written, check strips define what is lost if each is needed for that, and nothing is left to fit.
                ParityTrust::WhereWritten => {
                    shape.held_by(members.failed).0.count_ones() == live_checks.count_ones()
                }
                ParityTrust::Everywhere => true,
            },
            trust: members.parity,
        };
        if losses.live_checks == 0 {
            return Ok(());
        }
        self.cut(geometry, extents);
        let mut intervals = std::mem::take(&mut self.intervals);
        let chosen = intervals.iter_mut().try_for_each(|interval| {
            interval.method = losses.method(&shape, interval.touched)?;
            Ok(())
        });
        if chosen.is_ok() {
            let solution = Solution::new(losses.columns, losses.readable_checks);
            let scratch = self.lay_and_read(&shape, &losses, solution.as_ref(), &intervals);
            for interval in &intervals {
                self.sum_checks(
                    geometry,
                    &shape,
                    &losses,
                    &scratch,
                    solution.as_ref(),
                    interval,
                    new,
                );
            }
            self.scratch_blocks = scratch.used;
            self.write_check_strips(&shape, &losses, &scratch, &intervals, new);
        }
        self.intervals = intervals;
        chosen
    }

    /// Gives each strip that is read or computed its place in scratch, and reads.
    fn lay_and_read(
        &mut self,
        shape: &Shape,
        losses: &Losses,
        solution: Option<&Solution>,
        intervals: &[Interval],
    ) -> Scratch {
        let all = intervals.iter().copied();
        let mut scratch = Scratch::new(self.scratch_blocks);
        for column in 0..shape.columns {
            let held = all
                .clone()
                .filter(|i| i.method.holds_column(i, losses.columns, column));
            let read = held.clone().filter(|_| losses.columns >> column & 1 == 0);
            scratch.lay(column, held);
            self.read_merged(shape.member(column), read, |offset| scratch.area(column, offset));
        }
        for check in bits(u32::from(losses.live_checks)) {
            let strip = shape.columns + check;
            let solves = solution.is_some_and(|solution| solution.checks().contains(&check));
            let read = all.clone().filter(|i| match i.method {
                Method::ReadModifyWrite => true,
                Method::Regenerate => solves,
                Method::DataOnly | Method::Reconstruct => false,
            });
            scratch.lay(strip, all.clone());
            self.read_merged(shape.check(check), read, |offset| scratch.area(strip, offset));
        }
        scratch
    }

    /// The steps that give an interval's new check data.
    #[expect(clippy::too_many_arguments, reason = "all of it is the context of one write")]
    fn sum_checks(
        &mut self,
        geometry: &Geometry,
        shape: &Shape,
        losses: &Losses,
        scratch: &Scratch,
        solution: Option<&Solution>,
        interval: &Interval,
        new: NewData<'_>,
    ) {
        if interval.method == Method::Regenerate {
            let solution = solution.expect("the method was chosen because there is one");
            self.sum_lost(shape, scratch, solution, interval);
        }
        for check in bits(u32::from(losses.live_checks)) {
            let mut sum = Sum {
                steps: &mut self.steps,
                into: scratch.area(shape.columns + check, interval.offset),
                blocks: interval.blocks,
                // Read-modify-write has the old check data there already.
                filled: interval.method == Method::ReadModifyWrite,
            };
            for column in 0..shape.columns {
                let factor = code::factor(check, column);
                let touched = interval.touched >> column & 1 == 1;
                if touched == (interval.method == Method::ReadModifyWrite) {
                    sum.add(scratch.area(column, interval.offset), factor);
                }
                let position = u32::from(column) * geometry.strip_blocks() + interval.offset;
                if touched && let Some(area) = new_data(new, &self.filled, position) {
                    sum.add(area, factor);
                }
            }
            sum.finish();
        }
    }

    /// Sums up the untouched columns that cannot be read, from all the old data that can.
    fn sum_lost(&mut self, shape: &Shape, scratch: &Scratch, solution: &Solution, interval: &Interval) {
        let lost = solution.columns().iter().fold(0, |mask, lost| mask | 1 << lost);
        for (index, column) in solution.columns().iter().enumerate() {
            if interval.touched >> column & 1 == 1 {
                continue;
            }
            let mut sum = Sum {
                steps: &mut self.steps,
                into: scratch.area(*column, interval.offset),
                blocks: interval.blocks,
                filled: false,
            };
            for (source, check) in solution.checks().iter().enumerate() {
                let area = scratch.area(shape.columns + check, interval.offset);
                sum.add(area, solution.check_factor(index, source));
            }
            for live in bits(shape.all_columns() & !lost) {
                let area = scratch.area(live, interval.offset);
                sum.add(area, solution.column_factor(index, live));
            }
            sum.finish();
        }
    }

    fn write_check_strips(
        &mut self,
        shape: &Shape,
        losses: &Losses,
        scratch: &Scratch,
        intervals: &[Interval],
        new: NewData<'_>,
    ) {
        let (writes, checks) = (&mut self.writes, &mut self.checks);
        for index in bits(u32::from(losses.live_checks)) {
            let member = shape.check(index);
            merge(intervals.iter().copied(), |offset_blocks, blocks| {
                let scratch_block = scratch.block(shape.columns + index, offset_blocks);
                writes.push(RowIo {
                    member,
                    offset_blocks,
                    blocks,
                    area: Area::Scratch(scratch_block),
                });
                if matches!(new, NewData::Filled) {
                    checks.push(CheckIo {
                        index,
                        member,
                        offset_blocks,
                        blocks,
                        scratch_block,
                    });
                }
            });
        }
    }

    /// Writes an extent to all live members that hold it.
    fn write_data(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        extent: &RowExtent,
        new: NewData<'_>,
        failed: u32,
    ) {
        let piece = RowPiece {
            row,
            start_blocks: extent.start_blocks,
            blocks: extent.blocks,
            skipped_blocks: 0,
        };
        for segment in geometry.segments(&piece) {
            let position = extent.start_blocks + segment.skipped_blocks;
            let area = new_data(new, &self.filled, position).unwrap_or(Area::Zeroes);
            for copy in 0..geometry.copies() {
                let place = geometry.copy_place(row, segment.column, copy);
                if failed >> place.member.0 & 1 == 0 {
                    self.writes.push(RowIo {
                        member: place.member,
                        offset_blocks: place.start_blocks + segment.offset_blocks,
                        blocks: segment.blocks,
                        area,
                    });
                }
            }
        }
    }
}

impl Losses {
    fn method(&self, shape: &Shape, touched: u32) -> Result<Method, PlanError> {
        let untouched = shape.all_columns() & !touched;
        let unreadable_checks = self.live_checks & !self.readable_checks;
        let modify = self.modify && touched & self.columns == 0 && unreadable_checks == 0;
        let reconstruct = untouched & self.columns == 0;
        let regenerate =
            self.trust.regenerates() && self.columns.count_ones() <= self.readable_checks.count_ones();
        let choices = [
            (reconstruct, untouched.count_ones(), Method::Reconstruct),
            (
                modify,
                touched.count_ones() + self.live_checks.count_ones(),
                Method::ReadModifyWrite,
            ),
            // As many check strips are read as columns cannot be.
            (regenerate, u32::from(shape.columns), Method::Regenerate),
        ];
        let possible = choices.into_iter().filter(|(possible, ..)| *possible);
        match possible.min_by_key(|(_, reads, _)| *reads) {
            Some((_, _, method)) => Ok(method),
            None if self.trust.regenerates() => Err(PlanError::TooManyMembersLost),
            None => Err(PlanError::ParityNotTrusted),
        }
    }
}

impl Method {
    /// Whether old data of a column is in scratch: read, or regenerated if it is among the `lost`.
    fn holds_column(self, interval: &Interval, lost: u32, column: u8) -> bool {
        let touched = interval.touched >> column & 1 == 1;
        match self {
            Self::DataOnly => false,
            Self::ReadModifyWrite => touched,
            Self::Reconstruct => !touched,
            Self::Regenerate => !touched || lost >> column & 1 == 0,
        }
    }
}

/// Where the new data of a block of the row's user data is; `None` for zeroes.
fn new_data(new: NewData<'_>, filled: &[Fill], position: u32) -> Option<Area> {
    match new {
        NewData::Piece(piece) => Some(Area::User(position - piece.start_blocks)),
        NewData::Zeroes => None,
        NewData::Filled => {
            let behind = filled.partition_point(|fill| fill.start_blocks <= position);
            let fill = filled[behind - 1];
            Some(Area::Scratch(fill.scratch_block + position - fill.start_blocks))
        }
    }
}
