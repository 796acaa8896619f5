//! Mending a row of which single blocks cannot be read: what gives them back, and what is left where nothing does.
//!
//! Looks at each block of the strips by itself: two members that cannot read different blocks of a row have lost nothing.

use std::collections::BTreeSet;

use super::super::code::{self, Solution};
use super::{Area, Geometry, MemberIndex, Members, RowIndex, RowIo, Shape, Step, Sum, bits};

/// A block of what a member gives to a row.
pub type MemberBlock = (MemberIndex, u32);

/// How a row is made whole whose readable blocks lie in scratch, member by member: that many blocks each as a member gives to a row.
///
/// All of `first` has to be durable before any of `last` is written. Until then a block that is lost stays unreadable, so that
/// nobody computes anything from it and from check data that knows it as zero, or the other way round.
#[derive(Debug, Default)]
pub struct MendPlan {
    /// Before the writes, in this order.
    pub steps: Vec<Step>,
    /// Blocks that were regenerated, and check data.
    pub first: Vec<RowIo>,
    /// Zeroes in the places of data that is lost.
    pub last: Vec<RowIo>,
    /// Blocks that nothing gives back, counted through the row's user data from its start; ascending.
    pub lost: Vec<u32>,
}

impl MendPlan {
    /// Plans for a row in which these blocks of live members cannot be read, besides all of the failed members.
    pub fn new(geometry: &Geometry, row: RowIndex, members: Members, bad: &BTreeSet<MemberBlock>) -> Self {
        let mut plan = Self::default();
        if geometry.level().is_mirror() {
            plan.mend_copies(geometry, row, members, bad);
        } else {
            let shape = Shape::new(geometry, row);
            for offset in 0..geometry.strip_blocks() {
                plan.mend_offset(geometry, &shape, members, bad, offset);
            }
        }
        plan.lost.sort_unstable();
        merge(&mut plan.first);
        merge(&mut plan.last);
        plan
    }

    fn mend_copies(
        &mut self,
        geometry: &Geometry,
        row: RowIndex,
        members: Members,
        bad: &BTreeSet<MemberBlock>,
    ) {
        let strip = geometry.strip_blocks();
        for at in 0..geometry.row_blocks() {
            let column = u8::try_from(at / strip).expect("a row has at most 32 columns");
            let places = (0..geometry.copies()).map(|copy| geometry.copy_place(row, column, copy));
            let live = places.filter(|place| members.failed >> place.member.0 & 1 == 0);
            let blocks = live.map(|place| (place.member, place.start_blocks + at % strip));
            let (broken, whole): (Vec<_>, Vec<_>) = blocks.partition(|block| bad.contains(block));
            if broken.is_empty() {
                continue;
            }
            match whole.first() {
                Some(source) => {
                    let area = area_of(geometry, *source);
                    self.first.extend(broken.into_iter().map(|block| io(block, area)));
                }
                None => {
                    self.lost.push(at);
                    for block in broken {
                        self.zero(geometry, block);
                    }
                }
            }
        }
    }

    /// What has these offsets in the strips of a level with check data.
    fn mend_offset(
        &mut self,
        geometry: &Geometry,
        shape: &Shape,
        members: Members,
        bad: &BTreeSet<MemberBlock>,
        offset: u32,
    ) {
        let all = (0..geometry.members()).map(MemberIndex);
        let broken = all
            .filter(|member| members.failed >> member.0 & 1 == 0 && bad.contains(&(*member, offset)))
            .fold(0, |mask, member| mask | 1_u32 << member.0);
        if broken == 0 {
            return;
        }
        let (lost, lost_checks) = shape.held_by(members.failed | broken);
        let readable_checks = shape.all_checks() & !lost_checks;
        let (failed_columns, failed_checks) = shape.held_by(members.failed);
        let live_checks = shape.all_checks() & !failed_checks;
        let area = |member: MemberIndex| area_of(geometry, (member, offset));
        let solvable =
            members.parity.regenerates() && lost.count_ones() <= readable_checks.count_ones() || lost == 0;
        let solution = Solution::new(lost, readable_checks).filter(|_| solvable && lost != 0);
        let mut checks = live_checks;
        if let Some(solution) = &solution {
            self.regenerate(shape, solution, area);
            let defining = solution
                .checks()
                .iter()
                .fold(0, |mask, check| mask | 1_u8 << check);
            // Where nobody has written check strips need not fit one another.
            if members.parity.is_everywhere() {
                checks &= lost_checks;
            } else {
                checks &= !defining;
            }
        } else if lost == 0 {
            checks &= lost_checks;
        }
        let is_lost = lost != 0 && solution.is_none();
        for column in bits(lost) {
            let block = (shape.member(column), offset);
            let is_live = failed_columns >> column & 1 == 0;
            if is_lost {
                self.lost
                    .push(u32::from(column) * geometry.strip_blocks() + offset);
                self.zero_in_scratch(geometry, block);
            }
            match (is_live, is_lost) {
                (true, true) => self.last.push(io(block, area_of(geometry, block))),
                (true, false) => self.first.push(io(block, area_of(geometry, block))),
                (false, _) => {}
            }
        }
        for check in bits(u32::from(checks)) {
            let block = (shape.check(check), offset);
            let mut sum = self.sum(area_of(geometry, block));
            for column in 0..shape.columns {
                sum.add(area(shape.member(column)), code::factor(check, column));
            }
            sum.finish();
            self.first.push(io(block, area_of(geometry, block)));
        }
    }

    fn regenerate(&mut self, shape: &Shape, solution: &Solution, area: impl Fn(MemberIndex) -> Area) {
        let lost = solution.columns().iter().fold(0, |mask, lost| mask | 1 << lost);
        for (index, column) in solution.columns().iter().enumerate() {
            let mut sum = self.sum(area(shape.member(*column)));
            for (source, check) in solution.checks().iter().enumerate() {
                sum.add(area(shape.check(*check)), solution.check_factor(index, source));
            }
            for live in bits(shape.all_columns() & !lost) {
                sum.add(area(shape.member(live)), solution.column_factor(index, live));
            }
            sum.finish();
        }
    }

    fn sum(&mut self, into: Area) -> Sum<'_> {
        Sum {
            steps: &mut self.steps,
            into,
            blocks: 1,
            filled: false,
        }
    }

    fn zero_in_scratch(&mut self, geometry: &Geometry, block: MemberBlock) {
        self.steps.push(Step::Copy {
            into: area_of(geometry, block),
            from: Area::Zeroes,
            blocks: 1,
        });
    }

    fn zero(&mut self, geometry: &Geometry, block: MemberBlock) {
        self.zero_in_scratch(geometry, block);
        self.last.push(io(block, area_of(geometry, block)));
    }
}

/// The scratch place of a block.
fn area_of(geometry: &Geometry, (member, offset): MemberBlock) -> Area {
    Area::Scratch(u32::from(member.0) * geometry.member_row_blocks() + offset)
}

const fn io((member, offset_blocks): MemberBlock, area: Area) -> RowIo {
    RowIo {
        member,
        offset_blocks,
        blocks: 1,
        area,
    }
}

/// Makes one transfer of neighbours.
fn merge(ios: &mut Vec<RowIo>) {
    ios.sort_unstable_by_key(|io| (io.member, io.offset_blocks));
    let mut merged: Vec<RowIo> = Vec::with_capacity(ios.len());
    for io in ios.drain(..) {
        match merged.last_mut() {
            Some(last)
                if last.member == io.member
                    && last.offset_blocks + last.blocks == io.offset_blocks
                    && last.area.plus(last.blocks) == io.area =>
            {
                last.blocks += io.blocks;
            }
            Some(_) | None => merged.push(io),
        }
    }
    *ios = merged;
}
