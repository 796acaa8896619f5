//! A group that other nodes have open, when one of them is gone.
//!
//! The journal is everybody's, so nothing of it is cut anew or void: only entries of before are over, in all lanes, and that is durable before anybody relies on
//! it. Until then a stop would have them replayed, which brings every row to the same state once more.

use super::{Effect, Group};
use crate::amf::MemberIndex;
use crate::amf::group::{Action, LanesOver, TakeOver};
use crate::amf::superblock::{GroupRecord, JournalRecord};
use crate::drive::DriveError;

impl Group {
    pub(super) fn take_over(&mut self, TakeOver { opening, over }: TakeOver, out: &mut Vec<Action>) {
        self.taken_over = Some(over);
        self.start(opening, out);
    }

    /// The journal as it goes on after a node has gone: where it was, without the lanes that are over.
    pub(super) fn journal_taken_over(&self) -> Option<JournalRecord> {
        let mut journal = self.record.journal?;
        if let Some(LanesOver { lanes, below }) = self.taken_over {
            journal.raise_floors(lanes, below);
        }
        Some(journal)
    }

    pub(super) fn apply_lanes_over(
        &mut self,
        next: &mut GroupRecord,
        over: LanesOver,
        out: &mut Vec<Action>,
    ) {
        let journal = next.journal.as_mut();
        let journal = journal.expect("only nodes that share a journal have lanes that are over");
        let before = *journal;
        journal.raise_floors(over.lanes, over.below);
        if *journal == before && self.effects.is_empty() {
            // What the record says was announced, or somebody would still wait for that.
            out.push(Action::LanesOver(over));
        } else {
            self.effects.push(Effect::LanesOver(over));
        }
    }

    pub(super) fn leave_out(&mut self, members: u32, out: &mut Vec<Action>) {
        for member in (0..self.geometry().members()).map(MemberIndex) {
            if members >> member.0 & 1 == 1 {
                self.member_fault(member, DriveError::Gone, out);
            }
        }
    }

    /// Whether no superblock and no page of reservations is being written, and nothing waits for the next one.
    pub fn is_quiet(&self) -> bool {
        self.update.is_none() && self.changes.is_empty() && self.pages.is_idle()
    }

    /// The record that was announced last: what nodes may be told that follow this one. `None` before the first time, while a newer one is durable that is not to be
    /// announced because a member refused it, and when the group has failed.
    pub fn durable_record(&self) -> Option<&GroupRecord> {
        let is_announced = |generation| generation == self.record.generation;
        let announced = self.announced.map(|members| members.generation);
        announced.is_some_and(is_announced).then_some(&self.record)
    }
}
