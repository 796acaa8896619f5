//! Flushes over nodes, where they acknowledge from memory.
//!
//! A host may have written through one node and flush through another: what any node has acknowledged from memory is committed first. Lanes of slots without a living node need
//! nothing: what was in them was brought in its place before the epoch served.

use super::note::{FlushName, Note};
use super::{Action, MemoryAction, Peering, Slot};

impl Peering {
    /// A core has a flush under way, and awaits an answer for each lane of the other ones of so many slots, whether or not anybody lives there.
    pub fn commit(&mut self, name: FlushName, slots: u8, out: &mut Vec<Action>) {
        let slots = (0..slots).filter_map(Slot::new);
        let others = slots.filter(|slot| *slot != self.local);
        let awaited = others.map(|slot| (slot, self.lanes_each)).collect();
        let earlier = self.flushes.insert(name, awaited);
        assert!(earlier.is_none(), "a core names its flushes apart");
        if self.serves() {
            self.ask_to_commit(name, out);
        }
    }

    /// Asks nodes that live; slots without any have nothing to commit.
    fn ask_to_commit(&mut self, name: FlushName, out: &mut Vec<Action>) {
        let members = self.others();
        let awaited = self.flushes.get_mut(&name).expect("it is under way");
        let before = awaited.len();
        awaited.retain(|slot, _| members.contains(*slot));
        let empty = before - awaited.len();
        for (to, left) in awaited {
            // What was answered in an epoch that is over is answered again.
            *left = self.lanes_each;
            let note = Note::Commit(name);
            out.push(Action::Send { to: *to, note });
        }
        self.answer_flush(name, empty, out);
    }

    /// Slots have no more to commit.
    fn answer_flush(&mut self, name: FlushName, slots: usize, out: &mut Vec<Action>) {
        if slots > 0 {
            let committed = MemoryAction::Committed {
                core: name.lane % self.lanes_each,
                flush: name.flush,
                lanes: self.lanes_each * u16::try_from(slots).expect("an array has few slots"),
            };
            out.push(committed.into());
        }
        if self.flushes.get(&name).is_some_and(|awaited| awaited.is_empty()) {
            self.flushes.remove(&name);
        }
    }

    /// A lane of another node has committed what it had when a flush of this node began.
    pub(super) fn flush_answered(&mut self, from: Slot, name: FlushName, out: &mut Vec<Action>) {
        let Some(awaited) = self.flushes.get_mut(&name) else {
            return;
        };
        let Some(left) = awaited.get_mut(&from) else {
            return;
        };
        *left -= 1;
        if *left == 0 {
            awaited.remove(&from);
            self.answer_flush(name, 1, out);
        }
    }

    /// A core of another node has a flush under way.
    pub(super) fn asked_to_commit(&self, name: FlushName, out: &mut Vec<Action>) {
        if self.is_open {
            return out.push(MemoryAction::Commit(name).into());
        }
        for _ in 0..self.lanes_each {
            self.committed(name, out);
        }
    }

    /// A core has done what [`MemoryAction::Commit`] asked for.
    pub fn committed(&self, name: FlushName, out: &mut Vec<Action>) {
        let to = self.slot_of_lane(name.lane);
        // Who is gone waits for nothing.
        if let Some(to) = to.filter(|to| self.others().contains(*to)) {
            let note = Note::Committed(name);
            out.push(Action::Send { to, note });
        }
    }

    /// The epoch serves: what was asked in the last one may be lost.
    pub(super) fn commit_again(&mut self, out: &mut Vec<Action>) {
        let names: Vec<FlushName> = self.flushes.keys().copied().collect();
        for name in names {
            self.ask_to_commit(name, out);
        }
    }
}
