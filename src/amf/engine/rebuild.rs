//! Rebuilding rows: in ascending order, several at a time, and counted as live one after the other.
//!
//! The frontier below which members under rebuild are live moves on from row to row, each under the row's own lock. So a row that is
//! written before those in front of it keeps its lock, though not its scratch, until its turn has come; a row that could
//! not be rebuilt stops all behind it.

use super::machine::Engine;
use super::piece::State;
use super::{Action, CommandId, GroupError};
use crate::amf::{MemberSet, RowIndex};

/// Most rows that are rebuilt at a time.
pub const REBUILDS_MAX: usize = 16;

/// A command that rebuilds a row, from its submission to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowTurn {
    command: CommandId,
    row: RowIndex,
    /// Generation of the member set that it belongs to.
    wave: u64,
    /// Its row is written: the piece that holds its lock.
    written: Option<u32>,
    /// A row in front of it was not rebuilt, or other members are being rebuilt by now.
    stale: bool,
}

/// What a rebuild has to write in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Targets {
    /// The strips of some members.
    Some,
    /// Nothing: no member under rebuild has anything in the row, or nobody needs the row. It still counts.
    None,
    /// The piece ends so.
    Over(Result<(), GroupError>),
}

impl Engine {
    /// Lines a command up.
    ///
    /// Panics if its row is not behind those that are under way, or if these are as many as may be.
    pub(super) fn line_up_rebuild(&mut self, command: CommandId, row: RowIndex, wave: u64) {
        assert!(
            self.rebuilds.len() < REBUILDS_MAX,
            "only so many rows are rebuilt at a time"
        );
        let last = self.rebuilds.back();
        assert!(
            last.is_none_or(|last| last.row < row),
            "rows are rebuilt in ascending order"
        );
        self.rebuilds.push_back(RowTurn {
            command,
            row,
            wave,
            written: None,
            stale: false,
        });
    }

    /// Chooses the members that are to be written in the piece's row.
    fn choose_targets(&mut self, index: u32) -> Targets {
        let is_dead = self.is_dead(index);
        let piece = &mut self.pieces[index as usize];
        let turn = self.rebuilds.iter().find(|turn| turn.command.0 == piece.command);
        let turn = turn.expect("a rebuild has its place in line");
        if turn.stale {
            return Targets::Over(Err(GroupError::Aborted));
        }
        // How far the rebuild before that came says nothing about this one.
        if turn.wave > self.heard {
            return Targets::Over(Err(GroupError::MemberFailed));
        }
        let rebuild = self.lock.rebuild();
        // Members of the new layout have nothing in rows of the old one.
        let holds = self.layout.members_of_row(piece.row.row);
        piece.targets = rebuild.members & piece.members.failed;
        if rebuild.members == 0 {
            Targets::Over(Err(GroupError::MemberFailed))
        } else if piece.row.row.0 < rebuild.rows {
            Targets::Over(Ok(()))
        } else if is_dead || rebuild.members & holds == 0 {
            piece.targets = rebuild.members;
            Targets::None
        } else {
            assert!(
                piece.targets != 0,
                "a member under rebuild has failed in rows that are not done"
            );
            Targets::Some
        }
    }

    /// Whether strips of the row have to be written. If not, it has its turn like one that is written, or ends.
    pub(super) fn begin_rebuild(&mut self, index: u32, only_marked: bool, out: &mut Vec<Action>) -> bool {
        let row = self.pieces[index as usize].row.row;
        match self.choose_targets(index) {
            Targets::Some if only_marked && self.is_unmarked(row) => self.await_turn(index),
            Targets::Some => return true,
            Targets::None => self.await_turn(index),
            Targets::Over(result) => self.finish(index, result, out),
        }
        false
    }

    /// The row's strips are written.
    pub(super) fn await_turn(&mut self, index: u32) {
        self.drop_scratch(index);
        let piece = &mut self.pieces[index as usize];
        piece.state = State::AwaitingTurn;
        let command = piece.command;
        let turn = self.rebuilds.iter_mut().find(|turn| turn.command.0 == command);
        turn.expect("a rebuild has its place in line").written = Some(index);
    }

    /// Lets the first in line go if it is written; false if it is not.
    pub(super) fn take_turn(&mut self, out: &mut Vec<Action>) -> bool {
        let Some(RowTurn {
            row,
            written: Some(index),
            stale,
            ..
        }) = self.rebuilds.front().copied()
        else {
            return false;
        };
        // And those that have nothing in this row.
        let members = self.pieces[index as usize].targets | !self.layout.members_of_row(row);
        let counts = !stale && self.lock.advance_rebuilt(members, row.0 + 1);
        let result = if counts { Ok(()) } else { Err(GroupError::Aborted) };
        self.finish(index, result, out);
        true
    }

    /// A command that rebuilds a row is over.
    pub(super) fn leave_line(&mut self, command: CommandId, result: Result<(), GroupError>) {
        let Some(place) = self.rebuilds.iter().position(|turn| turn.command == command) else {
            return; // It was refused.
        };
        self.rebuilds.remove(place);
        if result.is_err() {
            for turn in self.rebuilds.iter_mut().skip(place) {
                turn.stale = true;
            }
        }
    }

    /// Generation of the newest member set that this core was told. Rows of a rebuild that is newer fail.
    pub const fn heard(&self) -> u64 {
        self.heard
    }

    /// Rows that were rebuilt for other members than these count for nothing.
    pub(super) fn rebuild_changed(&mut self, members: MemberSet) {
        self.heard = self.heard.max(members.generation);
        if self.rebuilding == members.rebuilding {
            return;
        }
        self.rebuilding = members.rebuilding;
        for turn in &mut self.rebuilds {
            turn.stale = true;
        }
    }
}
