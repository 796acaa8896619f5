//! The end of a repair: what was written anew is read back and compared.

use super::machine::Engine;
use super::piece::{State, Work, place};
use super::tag::tag;
use super::{Action, GroupError};
use crate::amf::row::Area;
use crate::drive::DriveError;

impl Engine {
    /// Reads what was written to the end of the piece's scratch.
    pub(super) fn issue_read_back(&mut self, index: u32, out: &mut Vec<Action>) {
        let geometry = self.row_geometry(index);
        let into = self.read_back_area(index).0;
        let piece = &mut self.pieces[index as usize];
        let Work::Repair {
            member,
            offset_blocks,
            blocks,
        } = piece.work
        else {
            unreachable!("only a repair reads back");
        };
        piece.state = State::Verifying;
        piece.pending = 1;
        out.push(Action::DriveRead {
            io: tag(index, 0, member),
            member,
            lba: geometry.member_lba(piece.row.row, offset_blocks),
            blocks,
            into: place(piece, geometry.block().shift(), into),
        });
    }

    /// Where a repair has what it reads back, and what it wrote.
    fn read_back_area(&mut self, index: u32) -> (Area, Area) {
        let Work::Repair { blocks, .. } = self.pieces[index as usize].work else {
            unreachable!("only a repair reads back");
        };
        let mut plan = std::mem::take(&mut self.plan);
        self.make_plan(index, &mut plan)
            .expect("the plan that was made once can be made again");
        let areas = (Area::Scratch(plan.scratch_blocks - blocks), plan.writes[0].area);
        self.plan = plan;
        areas
    }

    /// The member has answered the read.
    pub(super) fn read_back(&mut self, index: u32, read: bool, out: &mut Vec<Action>) {
        let piece = &mut self.pieces[index as usize];
        if !read && piece.errors == 0 {
            // Still unreadable, or another block of it is by now: as before, the others have what it should give back.
            piece.unreadable = 0;
            self.drop_scratch(index);
            return self.finish(index, Err(GroupError::Unreadable), out);
        }
        if !read {
            return self.writes_failed(index, out);
        }
        let (a, b) = self.read_back_area(index);
        let shift = self.geometry.block().shift();
        let piece = &mut self.pieces[index as usize];
        let Work::Repair { member, blocks, .. } = piece.work else {
            unreachable!("only a repair reads back");
        };
        piece.state = State::Comparing;
        piece.pending = 1;
        out.push(Action::Compare {
            io: tag(index, 0, member),
            a: place(piece, shift, a),
            b: place(piece, shift, b),
            bytes: blocks << shift,
        });
    }

    /// A member that gives back something else than what was just written is not to be believed.
    pub(super) fn verified(&mut self, index: u32, equal: bool, out: &mut Vec<Action>) {
        let Work::Repair { member, .. } = self.pieces[index as usize].work else {
            unreachable!("only a repair reads back");
        };
        if equal {
            return self.finish(index, Ok(()), out);
        }
        self.pieces[index as usize].errors |= 1 << member.0;
        let error = DriveError::Media;
        out.push(Action::ReportFault { member, error });
        // The row stays locked until nobody reads that member any more.
        self.writes_failed(index, out);
    }
}
