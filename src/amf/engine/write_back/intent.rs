//! Marks: which rows a lost member misses, so that a drive that comes back is rebuilt in these alone.
//!
//! Why no row is ever missing in the bitmap. A drive that comes back has everything that was written to it before its loss was
//! announced, except what it had not been asked to flush since, and nothing that was written later. So a row that it
//! misses
//! - was planned, under its lock, when this core could see the loss: [`Engine::mark_row`] marked it before its first block was written;
//! - or was under way, or written in place and not flushed, when this core heard of the loss: then it is dirty here or waits
//!   to be retired, and [`Engine::mark_unflushed`] marks it;
//! - or its flush has ended between the loss and the news of it: [`Engine::mark_covered`] sees the loss in the lock table,
//!   because a flush leaves a member out, or goes on without its answer, only when that says that it is lost.
//!
//! A drive's place is filled only when every core has heard of its loss, so all of that has happened before anybody asks whether a
//! row is marked; and who asks has the row's lock, under which alone its mark can still be set. So a row that is passed over without a
//! mark is right, and stays so, because from there on every writer finds the member live.
//!
//! Marks are durable before a row's obligation to the journal is discharged (PROTOCOL H31): until then the row is replayed after
//! a power cut, and replayed rows are marked by whoever replays.

use super::super::Action;
use super::super::machine::Engine;
use crate::amf::RowIndex;

impl Engine {
    /// A row is about to be planned for a change in place, under its lock.
    pub(in crate::amf::engine) fn mark_row(&self, row: RowIndex) {
        let map = self
            .write_back
            .as_ref()
            .and_then(|write_back| write_back.intent.as_ref());
        if let Some(map) = map
            && self.lock.members().failed != 0
        {
            map.mark(row);
        }
    }

    /// Whether a rebuild of marked rows alone may leave this one as it is. The caller has the row's lock.
    pub(in crate::amf::engine) fn is_unmarked(&self, row: RowIndex) -> bool {
        let map = self
            .write_back
            .as_ref()
            .and_then(|write_back| write_back.intent.as_ref());
        map.is_some_and(|map| !map.is_marked(row))
    }

    /// Members have changed: marks all that those who are lost may have had in their caches, or were being given. Whether this core has
    /// heard of their loss before does not matter: the bitmap may have been cleared since.
    pub(super) fn mark_unflushed(&self) {
        let write_back = self.write_back.as_ref().expect("only there is anything to flush");
        let Some(map) = write_back.intent.as_ref() else {
            return;
        };
        if self.lock.members().failed == 0 {
            return;
        }
        for entry in write_back.rows.dirty_rows() {
            map.mark(write_back.rows.row(entry));
        }
        write_back.retire.waiting_rows().for_each(|row| map.mark(row));
    }

    /// A flush has ended that retires rows: if a member is lost their marks have to be durable first, and this is asked for. False if
    /// nothing stands in the way.
    pub(super) fn mark_covered(&mut self, out: &mut Vec<Action>) -> bool {
        let failed = self.lock.members().failed;
        let write_back = self
            .write_back
            .as_mut()
            .expect("only there is anything to retire");
        let Some(map) = write_back.intent.as_ref().filter(|_| failed != 0) else {
            return false;
        };
        write_back.retire.covered_rows().for_each(|row| map.mark(row));
        out.push(Action::PersistIntent);
        true
    }

    /// What was marked when [`Action::PersistIntent`] was asked for is durable.
    ///
    /// Panics if it was not asked for.
    pub fn intent_durable(&mut self, out: &mut Vec<Action>) {
        self.retire_covered(out);
        self.settle(out);
    }

    /// Rows that the journal still owes to the drives.
    #[cfg(test)]
    pub(in crate::amf::engine) fn owed_rows(&self) -> Vec<RowIndex> {
        let write_back = self.write_back.as_ref().expect("there is a journal");
        let dirty = write_back
            .rows
            .dirty_rows()
            .map(|entry| write_back.rows.row(entry));
        dirty.chain(write_back.retire.waiting_rows()).collect()
    }
}
