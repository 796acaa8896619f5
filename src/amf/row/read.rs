//! Reading a row piece, round the members that cannot be read.

use super::super::code::Solution;
use super::{
    Area, Geometry, PlanError, RowExtent, RowIo, RowPiece, RowPlan, Scratch, Shape, Sum, Target, bits,
    choose_copy,
};
use crate::amf::ParityTrust;

impl RowPlan {
    /// Plans a read of a row piece, going round the members in `unreadable`.
    ///
    /// Of copies one that can be read is read. A strip that is lost is regenerated from others; what the piece reads of them
    /// anyhow is not read twice. Errs when a strip that is needed cannot be regenerated.
    pub fn read(
        &mut self,
        geometry: &Geometry,
        piece: &RowPiece,
        target: Target,
        unreadable: u32,
        trust: ParityTrust,
    ) -> Result<(), PlanError> {
        self.clear();
        let (base, used) = match target {
            Target::User => (Area::User(0), 0),
            Target::Scratch => (Area::Scratch(0), piece.blocks),
        };
        self.scratch_blocks = used;
        if geometry.level().is_mirror() {
            return self.read_copies(geometry, piece, base, unreadable, trust);
        }
        let shape = Shape::new(geometry, piece.row);
        let (lost, lost_checks) = shape.held_by(unreadable);
        let mut needed = 0;
        for segment in geometry.segments(piece) {
            if lost >> segment.column & 1 == 1 {
                needed |= 1 << segment.column;
                continue;
            }
            self.reads.push(RowIo {
                member: shape.member(segment.column),
                offset_blocks: segment.offset_blocks,
                blocks: segment.blocks,
                area: base.plus(segment.skipped_blocks),
            });
        }
        if needed == 0 {
            return Ok(());
        }
        let solution = Solution::new(lost, shape.all_checks() & !lost_checks)
            .filter(|_| geometry.survives(unreadable))
            .ok_or(PlanError::TooManyMembersLost)?;
        if !trust.regenerates() {
            return Err(PlanError::ParityNotTrusted);
        }
        self.regenerate(geometry, piece, &shape, base, needed, &solution);
        Ok(())
    }

    fn read_copies(
        &mut self,
        geometry: &Geometry,
        piece: &RowPiece,
        base: Area,
        unreadable: u32,
        trust: ParityTrust,
    ) -> Result<(), PlanError> {
        for segment in geometry.segments(piece) {
            let (column, offset) = (segment.column, segment.offset_blocks);
            let place = choose_copy(geometry, piece.row, column, offset, unreadable, trust)
                .ok_or(PlanError::TooManyMembersLost)?;
            self.reads.push(RowIo {
                member: place.member,
                offset_blocks: place.start_blocks + offset,
                blocks: segment.blocks,
                area: base.plus(segment.skipped_blocks),
            });
        }
        Ok(())
    }

    /// Sums the lost columns in `needed` up in the places of their data.
    fn regenerate(
        &mut self,
        geometry: &Geometry,
        piece: &RowPiece,
        shape: &Shape,
        base: Area,
        needed: u32,
        solution: &Solution,
    ) {
        let extent = RowExtent {
            start_blocks: piece.start_blocks,
            blocks: piece.blocks,
        };
        self.cut(geometry, &[extent]);
        let intervals = std::mem::take(&mut self.intervals);
        let wanted = intervals.iter().copied().filter(|i| i.touched & needed != 0);
        let position = |column: u8, offset: u32| {
            base.plus(u32::from(column) * geometry.strip_blocks() + offset - piece.start_blocks)
        };
        let mut scratch = Scratch::new(self.scratch_blocks);
        let live = shape.all_columns() & !solution.columns().iter().fold(0, |mask, lost| mask | 1 << lost);
        for column in bits(live) {
            let extra = wanted.clone().filter(|i| i.touched >> column & 1 == 0);
            scratch.lay(column, extra.clone());
            self.read_merged(shape.member(column), extra, |offset| scratch.area(column, offset));
        }
        // The parity of a single lost column is read to where that is summed up.
        let in_place = solution.checks() == [0];
        for check in solution.checks() {
            let strip = shape.columns + check;
            if !in_place {
                scratch.lay(strip, wanted.clone());
            }
            let place = |offset| match in_place {
                true => position(solution.columns()[0], offset),
                false => scratch.area(strip, offset),
            };
            self.read_merged(shape.check(*check), wanted.clone(), place);
        }
        for interval in wanted {
            let from = |column: u8| match interval.touched >> column & 1 == 1 {
                true => position(column, interval.offset),
                false => scratch.area(column, interval.offset),
            };
            for (index, lost) in solution.columns().iter().enumerate() {
                if interval.touched >> lost & 1 == 0 {
                    continue;
                }
                let mut sum = Sum {
                    steps: &mut self.steps,
                    into: position(*lost, interval.offset),
                    blocks: interval.blocks,
                    filled: in_place,
                };
                if !in_place {
                    for (source, check) in solution.checks().iter().enumerate() {
                        let area = scratch.area(shape.columns + check, interval.offset);
                        sum.add(area, solution.check_factor(index, source));
                    }
                }
                for column in bits(live) {
                    sum.add(from(column), solution.column_factor(index, column));
                }
                sum.finish();
            }
        }
        self.scratch_blocks = scratch.used;
        self.intervals = intervals;
    }

    /// Sums up whole strips that are laid one after another in scratch, `blocks` each: the lost columns in `needed` from the
    /// others and the check strips of the solution.
    pub(super) fn sum_columns(&mut self, shape: &Shape, solution: &Solution, needed: u32, blocks: u32) {
        let area = |strip: u8| Area::Scratch(u32::from(strip) * blocks);
        let lost = solution.columns().iter().fold(0, |mask, lost| mask | 1 << lost);
        for (index, column) in solution.columns().iter().enumerate() {
            if needed >> column & 1 == 0 {
                continue;
            }
            let mut sum = Sum {
                steps: &mut self.steps,
                into: area(*column),
                blocks,
                filled: false,
            };
            for (source, check) in solution.checks().iter().enumerate() {
                sum.add(area(shape.columns + check), solution.check_factor(index, source));
            }
            for live in bits(shape.all_columns() & !lost) {
                sum.add(area(live), solution.column_factor(index, live));
            }
            sum.finish();
        }
    }
}
