//! Operations on whole rows and on members' strips: resynchronisation, rebuild, scrub, repair.

use super::super::code::{self, Solution};
use super::super::geometry::Role;
use super::{
    Area, Geometry, MemberIndex, Members, PlanError, RowIndex, RowIo, RowPlan, Shape, Step, StripPlace, Sum,
    bits, choose_copy,
};
use crate::amf::ParityTrust;

/// A range of each strip.
#[derive(Clone, Copy)]
struct Range {
    offset: u32,
    blocks: u32,
}

impl Range {
    const fn whole(geometry: &Geometry) -> Self {
        Self {
            offset: 0,
            blocks: geometry.strip_blocks(),
        }
    }
}

/// The place of a strip of `blocks` blocks among strips that lie one after another.
fn strip_area(strip: u8, blocks: u32) -> Area {
    Area::Scratch(u32::from(strip) * blocks)
}

impl RowPlan {
    /// Plans nothing, for a row that is zeroed as a whole; see [`zero_row`](super::zero_row) for the members.
    ///
    /// Errs when more is lost than the level survives.
    pub fn zero_row(&mut self, geometry: &Geometry, members: Members) -> Result<(), PlanError> {
        self.clear();
        super::zero_row(geometry, members).map(|_| ())
    }

    /// Plans the resynchronisation of a whole row: all data is read, check data is written anew; or the first copy that
    /// can be read is written over the others.
    ///
    /// Nothing is planned when there is no live check data. When a data member is lost or unreadable there is nothing
    /// to do as long as check data is trusted, and nothing that could be done if it is not: an error. If it is trusted only
    /// where hosts have written, what is lost is what the first check strips say, and the others are written to fit.
    pub fn resync(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        members: Members,
        unreadable: u32,
    ) -> Result<(), PlanError> {
        self.clear();
        if !geometry.survives(members.failed) {
            return Err(PlanError::TooManyMembersLost);
        }
        if geometry.level().is_mirror() {
            let first = Members {
                parity: ParityTrust::Nowhere,
                ..members
            };
            let range = Range::whole(geometry);
            return self.copy_strips(geometry, row, range, !members.failed, first, unreadable);
        }
        let shape = Shape::new(geometry, row);
        let (lost, _) = shape.held_by(members.failed | unreadable);
        let checks = shape.all_checks() & !shape.held_by(members.failed).1;
        if checks == 0 {
            return Ok(());
        }
        let range = Range::whole(geometry);
        if lost == 0 {
            self.read_columns(&shape, range, shape.all_columns());
            self.compute_checks(&shape, range, checks);
        } else {
            match members.parity {
                ParityTrust::Nowhere => return Err(PlanError::ParityNotTrusted),
                ParityTrust::Everywhere => return Ok(()),
                ParityTrust::WhereWritten => {
                    self.fit_other_checks(geometry, row, checks, lost, unreadable)?
                }
            }
        }
        self.scratch_blocks = u32::from(shape.columns + shape.checks) * range.blocks;
        Ok(())
    }

    /// Makes the check strips that are not needed to define the lost columns fit what the others define.
    fn fit_other_checks(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        checks: u8,
        lost: u32,
        unreadable: u32,
    ) -> Result<(), PlanError> {
        let shape = Shape::new(geometry, row);
        let range = Range::whole(geometry);
        let readable = checks & !shape.held_by(unreadable).1;
        let solution = Solution::new(lost, readable).ok_or(PlanError::TooManyMembersLost)?;
        let defining = solution
            .checks()
            .iter()
            .fold(0, |mask, check| mask | 1_u8 << check);
        if checks & !defining == 0 {
            return Ok(());
        }
        self.read_columns(&shape, range, shape.all_columns() & !lost);
        for check in solution.checks() {
            let area = strip_area(shape.columns + check, range.blocks);
            self.read_strip(shape.check(*check), range.offset, range.blocks, area, 0);
        }
        self.sum_columns(&shape, &solution, lost, range.blocks);
        self.compute_checks(&shape, range, checks & !defining);
        Ok(())
    }

    /// Plans the rebuild of a row: the strips of the members in `targets`, which are among the failed, are regenerated and written
    /// to them.
    ///
    /// Errs when too much else is lost, or lost data hangs on check data that is not trusted.
    pub fn rebuild(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        targets: u32,
        members: Members,
        unreadable: u32,
    ) -> Result<(), PlanError> {
        assert!(targets & !members.failed == 0, "what is rebuilt is not believed");
        self.clear();
        self.regenerate_strips(
            geometry,
            row,
            Range::whole(geometry),
            targets,
            members,
            unreadable,
        )
    }

    /// Plans the repair of a range of a member's part of a row, inside one of its strips: it is regenerated from the others and written
    /// there. The scratch area has room for the range once more, at its end.
    ///
    /// Panics if the range leaves the strip. Errs as [`RowPlan::rebuild`] does.
    pub fn repair(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        target: RowIo,
        members: Members,
        unreadable: u32,
    ) -> Result<(), PlanError> {
        self.clear();
        let strip = geometry.strip_blocks();
        let range = Range {
            offset: target.offset_blocks % strip,
            blocks: target.blocks,
        };
        assert!(
            range.blocks > 0 && range.offset + range.blocks <= strip,
            "a repair lies inside a strip"
        );
        let member = 1 << target.member.0;
        self.regenerate_strips(geometry, row, range, member, members, unreadable | member)?;
        // The member may have another strip in the row, which is left alone.
        self.writes.retain(|io| io.offset_blocks == target.offset_blocks);
        assert_eq!(self.writes.len(), 1, "a repair is one transfer");
        self.scratch_blocks += range.blocks;
        Ok(())
    }

    /// Plans the reads of a scrub: every strip that can be read, one after another. Data columns come first, then check strips;
    /// with copies, the copies of the first column, then of the next. If all of it can be read, steps turn each check strip
    /// into what is left of it when its data is taken out: zeroes if it fits.
    ///
    /// True if all of it can be read and there is something to compare.
    pub fn scrub(&mut self, geometry: &Geometry, row: RowIndex, unreadable: u32) -> bool {
        self.clear();
        let blocks = geometry.strip_blocks();
        let complete = unreadable == 0 && geometry.level().is_redundant();
        if geometry.level().is_mirror() {
            let copies = geometry.copies();
            for column in 0..geometry.data_members() {
                for copy in 0..copies {
                    let place = geometry.copy_place(row, column, copy);
                    let area = strip_area(column * copies + copy, blocks);
                    self.read_strip(place.member, place.start_blocks, blocks, area, unreadable);
                }
            }
            self.scratch_blocks = u32::from(copies * geometry.data_members()) * blocks;
            return complete;
        }
        let shape = Shape::new(geometry, row);
        for column in 0..shape.columns {
            let area = strip_area(column, blocks);
            self.read_strip(shape.member(column), 0, blocks, area, unreadable);
        }
        for check in 0..shape.checks {
            let into = strip_area(shape.columns + check, blocks);
            self.read_strip(shape.check(check), 0, blocks, into, unreadable);
            if !complete {
                continue;
            }
            let mut sum = Sum {
                steps: &mut self.steps,
                into,
                blocks,
                filled: true,
            };
            for column in 0..shape.columns {
                sum.add(strip_area(column, blocks), code::factor(check, column));
            }
        }
        // The last block is for trying out what a strip would have to be.
        self.scratch_blocks = u32::from(shape.columns + shape.checks) * blocks + 1;
        complete
    }

    /// Plans a whole row made of strips that `source` finds elsewhere, column by column; columns without a source are
    /// zeroes. Check data is computed, and all members are written.
    ///
    /// Reads come in the order of columns, and each has the scratch place of its column: that many strips from the start.
    pub fn whole_row(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        source: impl Fn(u8) -> Option<StripPlace>,
    ) {
        self.clear();
        let blocks = geometry.strip_blocks();
        for column in 0..geometry.data_members() {
            let area = strip_area(column, blocks);
            match source(column) {
                Some(place) => self.read_strip(place.member, place.start_blocks, blocks, area, 0),
                None => self.steps.push(Step::Copy {
                    into: area,
                    from: Area::Zeroes,
                    blocks,
                }),
            }
            for copy in 0..geometry.copies() {
                let place = geometry.copy_place(row, column, copy);
                self.writes.push(RowIo {
                    member: place.member,
                    offset_blocks: place.start_blocks,
                    blocks,
                    area,
                });
            }
        }
        if geometry.check_strips() > 0 {
            let shape = Shape::new(geometry, row);
            self.compute_checks(&shape, Range::whole(geometry), shape.all_checks());
        }
        self.scratch_blocks = u32::from(geometry.data_members() + geometry.check_strips()) * blocks;
    }

    /// Plans a copy of all that each member in `members` gives to a row from one place to another.
    pub fn same_places(&mut self, geometry: &Geometry, members: u32) {
        self.clear();
        let blocks = geometry.member_row_blocks();
        for member in (0..geometry.members()).filter(|member| members >> member & 1 == 1) {
            let io = RowIo {
                member: MemberIndex(member),
                offset_blocks: 0,
                blocks,
                area: strip_area(member, blocks),
            };
            self.reads.push(io);
            self.writes.push(io);
        }
        self.scratch_blocks = u32::from(geometry.members()) * blocks;
    }

    fn read_strip(
        &mut self,
        member: MemberIndex,
        offset_blocks: u32,
        blocks: u32,
        area: Area,
        unreadable: u32,
    ) {
        if unreadable >> member.0 & 1 == 0 {
            self.reads.push(RowIo {
                member,
                offset_blocks,
                blocks,
                area,
            });
        }
    }

    fn regenerate_strips(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        range: Range,
        targets: u32,
        members: Members,
        unreadable: u32,
    ) -> Result<(), PlanError> {
        let unreadable = members.failed | unreadable;
        if !geometry.survives(members.failed) {
            return Err(PlanError::TooManyMembersLost);
        }
        if geometry.level().is_mirror() {
            return self.copy_strips(geometry, row, range, targets, members, unreadable);
        }
        let shape = Shape::new(geometry, row);
        let (lost, lost_checks) = shape.held_by(unreadable);
        let (columns, checks) = shape.held_by(targets);
        // Check data is the sum of all columns.
        let needed = if checks == 0 { columns } else { lost };
        if needed != 0 {
            let solution = Solution::new(lost, shape.all_checks() & !lost_checks)
                .ok_or(PlanError::TooManyMembersLost)?;
            if !members.parity.regenerates() {
                return Err(PlanError::ParityNotTrusted);
            }
            self.read_columns(&shape, range, shape.all_columns() & !lost);
            for check in solution.checks() {
                let area = strip_area(shape.columns + check, range.blocks);
                self.read_strip(shape.check(*check), range.offset, range.blocks, area, 0);
            }
            self.sum_columns(&shape, &solution, needed, range.blocks);
        } else if checks != 0 {
            self.read_columns(&shape, range, shape.all_columns());
        }
        for column in bits(columns) {
            self.writes.push(RowIo {
                member: shape.member(column),
                offset_blocks: range.offset,
                blocks: range.blocks,
                area: strip_area(column, range.blocks),
            });
        }
        self.compute_checks(&shape, range, checks);
        self.scratch_blocks = u32::from(shape.columns + shape.checks) * range.blocks;
        Ok(())
    }

    fn read_columns(&mut self, shape: &Shape, range: Range, columns: u32) {
        for column in bits(columns) {
            let area = strip_area(column, range.blocks);
            self.read_strip(shape.member(column), range.offset, range.blocks, area, 0);
        }
    }

    /// Sums up check strips from all columns, and writes them.
    fn compute_checks(&mut self, shape: &Shape, range: Range, checks: u8) {
        for check in bits(u32::from(checks)) {
            let into = strip_area(shape.columns + check, range.blocks);
            let mut sum = Sum {
                steps: &mut self.steps,
                into,
                blocks: range.blocks,
                filled: false,
            };
            for column in 0..shape.columns {
                sum.add(strip_area(column, range.blocks), code::factor(check, column));
            }
            sum.finish();
            self.writes.push(RowIo {
                member: shape.check(check),
                offset_blocks: range.offset,
                blocks: range.blocks,
                area: into,
            });
        }
    }

    /// Writes a copy that can be read over those on `targets`, column by column.
    fn copy_strips(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        range: Range,
        targets: u32,
        members: Members,
        unreadable: u32,
    ) -> Result<(), PlanError> {
        for column in 0..geometry.data_members() {
            let area = strip_area(column, range.blocks);
            let places = (0..geometry.copies()).map(|copy| geometry.copy_place(row, column, copy));
            let mut targeted = places
                .filter(|place| targets >> place.member.0 & 1 == 1)
                .peekable();
            if targeted.peek().is_none() {
                continue;
            }
            let unreadable = members.failed | unreadable;
            let source = choose_copy(geometry, row, column, 0, unreadable, members.parity)
                .ok_or(PlanError::TooManyMembersLost)?;
            let offset = source.start_blocks + range.offset;
            self.read_strip(source.member, offset, range.blocks, area, 0);
            for place in targeted.filter(|place| *place != source) {
                self.writes.push(RowIo {
                    member: place.member,
                    offset_blocks: place.start_blocks + range.offset,
                    blocks: range.blocks,
                    area,
                });
            }
        }
        self.scratch_blocks = u32::from(geometry.data_members()) * range.blocks;
        Ok(())
    }

    /// Plans what a scrub writes: the strips of these members, from where it has read data and copies, or summed up anew.
    pub fn rewrite(&mut self, geometry: &Geometry, row: RowIndex, members: u32) {
        self.clear();
        let blocks = geometry.strip_blocks();
        for member in bits(members).map(MemberIndex) {
            for strip in 0..geometry.level().member_strips(geometry.members()) {
                let role = geometry.role(row, member, strip);
                if let Role::Check { index } = role {
                    let shape = Shape::new(geometry, row);
                    self.compute_checks(&shape, Range::whole(geometry), 1 << index);
                    continue;
                }
                self.writes.push(RowIo {
                    member,
                    offset_blocks: u32::from(strip) * blocks,
                    blocks,
                    area: Self::scrub_area(geometry, role),
                });
            }
        }
    }

    /// Where a scrub has a strip, by its role.
    pub fn scrub_area(geometry: &Geometry, role: Role) -> Area {
        let strip = match role {
            Role::Data { column } => column,
            Role::Check { index } => geometry.data_members() + index,
            Role::Copy { column, copy } => column * geometry.copies() + copy,
        };
        strip_area(strip, geometry.strip_blocks())
    }
}
