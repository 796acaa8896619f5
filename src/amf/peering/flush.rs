//! Flushes over nodes, where they acknowledge from memory.
//!
//! A host may have written through one node and flush through another: what any node has acknowledged from memory is committed first. Lanes of slots without a living node need
//! nothing: what was in them was brought in its place before the epoch served.

use std::collections::BTreeMap;

use super::note::{FlushName, Note};
use super::{Action, Epoch, MemoryAction, Peering, Slot};

/// Flushes of this node's cores that await other nodes, by the numbers under which these were asked: each request has one of its own, because what was asked in an epoch that is
/// over is answered all the same, and cores use the names of their flushes again.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    last: u32,
    /// In this epoch nobody is asked, because whoever leads has said that the group is not served.
    refused_in: Option<Epoch>,
    asked: BTreeMap<u32, Flush>,
}

#[derive(Debug)]
struct Flush {
    /// As its core calls it.
    name: FlushName,
    /// How many lanes of other slots have yet to answer.
    awaited: BTreeMap<Slot, u16>,
}

impl Flushes {
    fn number(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }
}

impl Peering {
    /// A core has a flush under way, and awaits an answer for each lane of the other ones of so many slots, whether or not anybody lives there.
    pub fn commit(&mut self, name: FlushName, slots: u8, out: &mut Vec<Action>) {
        let slots = (0..slots).filter_map(Slot::new);
        let others = slots.filter(|slot| *slot != self.local);
        let awaited = others.map(|slot| (slot, self.lanes_each)).collect();
        self.ask_to_commit(Flush { name, awaited }, out);
    }

    /// Whoever leads has said that the group cannot be served. Unless locks are granted all the same, cores are told to let fail what hosts wait for, and then get the answers that their flushes await.
    pub(super) fn end_service(&mut self, out: &mut Vec<Action>) {
        if self.serves() {
            return;
        }
        out.push(Action::NotServed);
        self.flushes.refused_in = self.epoch();
        for flush in std::mem::take(&mut self.flushes.asked).into_values() {
            self.ask_to_commit(flush, out);
        }
        // Nobody is going to write that nothing can be lost any more.
        self.memory_is_over(out);
    }

    /// Whether whoever leads this epoch has said that it cannot serve the group.
    pub(super) fn is_refused(&self) -> bool {
        !self.serves() && self.flushes.refused_in.is_some() && self.flushes.refused_in == self.epoch()
    }

    fn epoch(&self) -> Option<Epoch> {
        self.now.as_ref().map(|now| now.era.epoch)
    }

    /// Asks nodes that live, if locks are granted, and else as soon as they are; slots without any have nothing to commit.
    fn ask_to_commit(&mut self, mut flush: Flush, out: &mut Vec<Action>) {
        if self.is_refused() {
            return self.answer_flush(flush.name, flush.awaited.len(), out);
        }
        let number = self.flushes.number();
        if self.serves() {
            let members = self.others();
            let before = flush.awaited.len();
            flush.awaited.retain(|slot, _| members.contains(*slot));
            self.answer_flush(flush.name, before - flush.awaited.len(), out);
            let lane = flush.name.lane;
            for (to, left) in &mut flush.awaited {
                *left = self.lanes_each;
                let name = FlushName { lane, flush: number };
                let note = Note::Commit(name);
                out.push(Action::Send { to: *to, note });
            }
            if flush.awaited.is_empty() {
                return;
            }
        }
        self.flushes.asked.insert(number, flush);
    }

    /// So many slots have no more to commit.
    fn answer_flush(&self, name: FlushName, slots: usize, out: &mut Vec<Action>) {
        if slots > 0 {
            let committed = MemoryAction::Committed {
                core: name.lane % self.lanes_each,
                flush: name.flush,
                lanes: self.lanes_each * u16::try_from(slots).expect("an array has few slots"),
            };
            out.push(committed.into());
        }
    }

    /// A lane of another node has committed what it had when it was asked.
    pub(super) fn flush_answered(&mut self, from: Slot, asked: FlushName, out: &mut Vec<Action>) {
        let Some(flush) = self.flushes.asked.get_mut(&asked.flush) else {
            return; // In an epoch that is over.
        };
        let name = flush.name;
        let Some(left) = flush.awaited.get_mut(&from) else {
            return;
        };
        *left -= 1;
        if *left > 0 {
            return;
        }
        flush.awaited.remove(&from);
        if flush.awaited.is_empty() {
            self.flushes.asked.remove(&asked.flush);
        }
        self.answer_flush(name, 1, out);
    }

    /// A core of another node has a flush under way. Without effect if the node speaks for another one, whose core would not know of it.
    pub(super) fn asked_to_commit(&self, from: Slot, name: FlushName, out: &mut Vec<Action>) {
        if self.slot_of_lane(name.lane) != Some(from) {
            return;
        }
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

    /// The epoch serves: what was asked before counts no more.
    pub(super) fn commit_again(&mut self, out: &mut Vec<Action>) {
        for flush in std::mem::take(&mut self.flushes.asked).into_values() {
            self.ask_to_commit(flush, out);
        }
    }
}
