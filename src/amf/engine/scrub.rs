//! Scrubbing a row: what was read is compared, and if it does not fit, block by block it is found out which strip is wrong.
//!
//! Data fits its check strips if nothing is left of these when the data is taken out (the plan's steps do that). With
//! one check strip a difference cannot be located, and data is believed. With more, a wrong column `c` leaves
//! `2^(i * c)` times the same error in each check strip `i`, and a wrong check strip leaves nothing in the others. Of
//! three copies and more the majority is believed, of two the first. Engines never see bytes: each question is a
//! comparison, and the answer leads to the next.

use super::machine::Engine;
use super::piece::{State, Work, place};
use super::tag::tag;
use super::{Action, Place, ScrubOutcome};
use crate::amf::code;
use crate::amf::geometry::{Geometry, Role};
use crate::amf::row::{Area, RowPlan, Step};
use crate::amf::{MemberIndex, RowIndex};

/// How far a scrub has looked, and what it has found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    stage: Stage,
    /// The data column whose copies are compared.
    column: u8,
    /// First block of what is compared, from the start of the strip.
    block: u32,
    /// The check strip or the copy that is compared.
    strip: u8,
    /// The column that may be wrong, or the copy that may be right.
    candidate: u8,
    /// Check strips of which something is left, columns whose copies differ, or copies that equal the candidate.
    mask: u32,
    /// Copies that equal the first one.
    like_first: u32,
    /// Columns in which copies differ somewhere.
    differing: u32,
    /// Members with wrong strips.
    bad: u32,
    located: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Whole strips: do they all fit?
    Whole,
    /// One block: which strips do not fit?
    Block,
    /// One block of which all check strips differ: is it this column?
    Column,
}

/// What a scan does next.
enum Next {
    /// Compares a block or strip with another, or with zeroes.
    Compare { a: Area, b: Option<Area>, blocks: u32 },
    /// Tries a column: the error that it would leave in a check strip is taken out there and must leave nothing.
    Try { check: u8 },
    /// Nothing more to compare.
    Conclude,
}

impl Scan {
    pub(super) const START: Self = Self {
        stage: Stage::Whole,
        column: 0,
        block: 0,
        strip: 0,
        candidate: 0,
        mask: 0,
        like_first: 0,
        differing: 0,
        bad: 0,
        located: true,
    };

    fn next_block(&mut self) {
        self.block += 1;
        self.begin_block();
    }

    fn begin_block(&mut self) {
        (self.stage, self.strip, self.candidate) = (Stage::Block, 0, 0);
        (self.mask, self.like_first) = (0, 0);
    }
}

impl Engine {
    /// Everything that can be read is in scratch.
    pub(super) fn begin_scan(&mut self, index: u32, out: &mut Vec<Action>) {
        let geometry = self.row_geometry(index);
        let piece = &mut self.pieces[index as usize];
        piece.scan = Scan::START;
        let unreadable = piece.members.failed | piece.avoid;
        if unreadable != 0 || !geometry.level().is_redundant() || !piece.members.parity.is_everywhere() {
            return self.scrubbed(index, ScrubOutcome::Unchecked, out);
        }
        if geometry.level().is_mirror() {
            piece.scan.strip = 1;
        }
        self.scan_next(index, out);
    }

    /// A comparison is answered.
    pub(super) fn scan_on(&mut self, index: u32, equal: bool, out: &mut Vec<Action>) {
        let geometry = self.row_geometry(index);
        let piece = &mut self.pieces[index as usize];
        let row = piece.row.row;
        let fix = if geometry.level().is_mirror() {
            piece.scan.copy_compared(&geometry, row, equal)
        } else {
            piece.scan.check_compared(&geometry, row, equal)
        };
        if let (Some(fix), Work::Scrub { repair: true }) = (fix, piece.work) {
            self.fix_block(index, fix, out);
        }
        self.scan_next(index, out);
    }

    fn scan_next(&mut self, index: u32, out: &mut Vec<Action>) {
        let geometry = self.row_geometry(index);
        let shift = geometry.block().shift();
        let piece = &mut self.pieces[index as usize];
        let next = if geometry.level().is_mirror() {
            piece.scan.next_copy(&geometry)
        } else {
            piece.scan.next_check(&geometry)
        };
        piece.state = State::Comparing;
        piece.pending = 1;
        let io = tag(index, 0, MemberIndex(0));
        match next {
            Next::Compare { a, b, blocks } => out.push(Action::Compare {
                io,
                a: place(piece, shift, a),
                b: b.map_or(Place::Zeroes, |b| place(piece, shift, b)),
                bytes: blocks << shift,
            }),
            Next::Try { check } => {
                let scan = piece.scan;
                let steps = try_column(&geometry, &scan, check);
                let a = place(piece, shift, spare_block(&geometry));
                self.compute(index, &steps, out);
                out.push(Action::Compare {
                    io,
                    a,
                    b: Place::Zeroes,
                    bytes: 1 << shift,
                });
            }
            Next::Conclude => {
                piece.pending = 0;
                self.conclude(index, out);
            }
        }
    }

    /// Makes a block in scratch what it has to be.
    fn fix_block(&mut self, index: u32, fix: Fix, out: &mut Vec<Action>) {
        let geometry = self.row_geometry(index);
        let at = |role, block| RowPlan::scrub_area(&geometry, role).plus(block);
        match fix {
            Fix::Column { column, block } => {
                let step = Step::Xor {
                    into: at(Role::Data { column }, block),
                    from: at(Role::Check { index: 0 }, block),
                    blocks: 1,
                };
                self.compute(index, &[step], out);
            }
            Fix::Copies {
                column,
                block,
                right,
                wrong,
            } => {
                for copy in (0..geometry.copies()).filter(|copy| wrong >> copy & 1 == 1) {
                    let step = Step::Copy {
                        into: at(Role::Copy { column, copy }, block),
                        from: at(Role::Copy { column, copy: right }, block),
                        blocks: 1,
                    };
                    self.compute(index, &[step], out);
                }
            }
        }
    }

    fn conclude(&mut self, index: u32, out: &mut Vec<Action>) {
        let geometry = self.row_geometry(index);
        let piece = &self.pieces[index as usize];
        let (Scan { bad, located, .. }, row) = (piece.scan, piece.row.row);
        if bad == 0 {
            return self.scrubbed(index, ScrubOutcome::Clean, out);
        }
        if piece.work != (Work::Scrub { repair: true }) {
            let outcome = ScrubOutcome::Mismatch {
                members: bad,
                located,
                repaired: false,
            };
            return self.scrubbed(index, outcome, out);
        }
        let mut plan = std::mem::take(&mut self.plan);
        plan.rewrite(&geometry, row, bad);
        self.compute(index, &plan.steps, out);
        self.issue_writes(index, &plan.writes, false, out);
        self.plan = plan;
    }

    /// What was wrong is written.
    pub(super) fn scrub_repaired(&mut self, index: u32, out: &mut Vec<Action>) {
        let Scan { bad, located, .. } = self.pieces[index as usize].scan;
        let outcome = ScrubOutcome::Mismatch {
            members: bad,
            located,
            repaired: true,
        };
        self.scrubbed(index, outcome, out);
    }

    fn scrubbed(&mut self, index: u32, outcome: ScrubOutcome, out: &mut Vec<Action>) {
        let row = self.pieces[index as usize].row.row;
        out.push(Action::Scrubbed { row, outcome });
        self.finish(index, Ok(()), out);
    }
}

/// How a block becomes right.
enum Fix {
    /// What it leaves in the parity is taken out of it.
    Column { column: u8, block: u32 },
    /// One copy goes over others.
    Copies {
        column: u8,
        block: u32,
        right: u8,
        wrong: u32,
    },
}

/// A block behind the strips of a row.
fn spare_block(geometry: &Geometry) -> Area {
    let strips = u32::from(geometry.data_members() + geometry.check_strips());
    Area::Scratch(strips * geometry.strip_blocks())
}

/// What is left of a block of a check strip when the error that the parity shows is taken out as the candidate column's.
fn try_column(geometry: &Geometry, scan: &Scan, check: u8) -> [Step; 2] {
    let left = |index| RowPlan::scrub_area(geometry, Role::Check { index }).plus(scan.block);
    let (into, from) = (spare_block(geometry), left(0));
    let copy = Step::Copy {
        into,
        from: left(check),
        blocks: 1,
    };
    let add = match code::factor(check, scan.candidate) {
        1 => Step::Xor {
            into,
            from,
            blocks: 1,
        },
        factor => Step::MulAdd {
            into,
            from,
            factor,
            blocks: 1,
        },
    };
    [copy, add]
}

/// Rows with check strips.
impl Scan {
    fn next_check(&self, geometry: &Geometry) -> Next {
        let blocks = match self.stage {
            Stage::Whole if self.strip == geometry.check_strips() => return Next::Conclude,
            Stage::Whole => geometry.strip_blocks(),
            Stage::Block if self.block == geometry.strip_blocks() => return Next::Conclude,
            Stage::Block => 1,
            Stage::Column => return Next::Try { check: self.strip },
        };
        let strip = RowPlan::scrub_area(geometry, Role::Check { index: self.strip });
        Next::Compare {
            a: strip.plus(self.block),
            b: None,
            blocks,
        }
    }

    fn check_compared(&mut self, geometry: &Geometry, row: RowIndex, equal: bool) -> Option<Fix> {
        let checks = geometry.check_strips();
        if self.stage == Stage::Column {
            return self.column_tried(geometry, row, equal);
        }
        if !equal {
            self.mask |= 1 << self.strip;
        }
        self.strip += 1;
        if self.strip < checks || self.mask == 0 && self.stage == Stage::Whole {
            return None;
        }
        if self.stage == Stage::Whole {
            if checks == 1 {
                self.believe_data(geometry, row);
            } else {
                self.begin_block();
            }
            return None;
        }
        match self.mask.count_ones() {
            0 => self.next_block(),
            1 => {
                let index = u8::try_from(self.mask.trailing_zeros()).expect("three check strips at most");
                self.bad |= check_bit(geometry, row, index);
                self.next_block();
            }
            found if found == u32::from(checks) => {
                (self.stage, self.strip, self.candidate) = (Stage::Column, 1, 0);
            }
            // A wrong column would show in all of them.
            _ => {
                self.believe_data(geometry, row);
                self.next_block();
            }
        }
        None
    }

    fn column_tried(&mut self, geometry: &Geometry, row: RowIndex, fits: bool) -> Option<Fix> {
        if fits {
            self.strip += 1;
            if self.strip < geometry.check_strips() {
                return None;
            }
            let (column, block) = (self.candidate, self.block);
            self.bad |= 1 << geometry.data_member(row, column).0;
            self.next_block();
            return Some(Fix::Column { column, block });
        }
        self.strip = 1;
        self.candidate += 1;
        if self.candidate == geometry.data_members() {
            self.believe_data(geometry, row);
            self.next_block();
        }
        None
    }

    /// Nothing says which strip is wrong: all check strips are then made to fit.
    fn believe_data(&mut self, geometry: &Geometry, row: RowIndex) {
        self.located = false;
        for index in 0..geometry.check_strips() {
            self.bad |= check_bit(geometry, row, index);
        }
    }
}

fn check_bit(geometry: &Geometry, row: RowIndex, index: u8) -> u32 {
    let member = geometry.check_member(row, index);
    1 << member.expect("the level has this check strip").0
}

/// Rows of copies.
impl Scan {
    fn next_copy(&self, geometry: &Geometry) -> Next {
        if self.column == geometry.data_members() {
            return Next::Conclude;
        }
        let column = self.column;
        let at = |copy| RowPlan::scrub_area(geometry, Role::Copy { column, copy }).plus(self.block);
        let blocks = match self.stage {
            Stage::Whole => geometry.strip_blocks(),
            Stage::Block | Stage::Column => 1,
        };
        Next::Compare {
            a: at(self.strip),
            b: Some(at(self.candidate)),
            blocks,
        }
    }

    fn copy_compared(&mut self, geometry: &Geometry, row: RowIndex, equal: bool) -> Option<Fix> {
        if self.stage == Stage::Whole {
            if !equal {
                self.differing |= 1 << self.column;
            }
            self.strip += 1;
            if self.strip == geometry.copies() {
                (self.strip, self.column) = (1, self.column + 1);
            }
            if self.column == geometry.data_members() && self.differing != 0 {
                self.begin_column(geometry, 0);
            }
            return None;
        }
        if equal {
            self.mask |= 1 << self.strip;
        }
        self.strip += 1;
        if self.strip == self.candidate {
            self.strip += 1;
        }
        if self.strip < geometry.copies() {
            return None;
        }
        self.candidate_compared(geometry, row)
    }

    /// It is known which copies are like the candidate.
    fn candidate_compared(&mut self, geometry: &Geometry, row: RowIndex) -> Option<Fix> {
        let copies = geometry.copies();
        let alike = self.mask | 1 << self.candidate;
        if self.candidate == 0 {
            self.like_first = alike;
        }
        let majority = alike.count_ones() * 2 > u32::from(copies);
        if !majority && copies > 2 && self.candidate + 1 < copies {
            self.candidate += 1;
            (self.strip, self.mask) = (0, 0);
            return None;
        }
        let (right, alike) = if majority {
            (self.candidate, alike)
        } else {
            self.located = false;
            (0, self.like_first)
        };
        let (column, block) = (self.column, self.block);
        let wrong = (0..copies).filter(|copy| alike >> copy & 1 == 0);
        let wrong = wrong.fold(0, |mask, copy| {
            self.bad |= 1 << geometry.copy_place(row, column, copy).member.0;
            mask | 1 << copy
        });
        self.next_block();
        self.strip = 1;
        if self.block == geometry.strip_blocks() {
            self.begin_column(geometry, column + 1);
        }
        (wrong != 0).then_some(Fix::Copies {
            column,
            block,
            right,
            wrong,
        })
    }

    /// The next column in which copies differ, from its first block.
    fn begin_column(&mut self, geometry: &Geometry, from: u8) {
        let differs = |column: &u8| self.differing >> column & 1 == 1;
        self.column = (from..geometry.data_members())
            .find(differs)
            .unwrap_or(geometry.data_members());
        self.block = 0;
        self.begin_block();
        self.strip = 1;
    }
}
