//! Acknowledging from memory (`durability = "ram"`): a write is done when it is in the lane's ring, and committed later.
//!
//! Only when it is durable in the superblocks that such writes may be lost (PROTOCOL H45). Until then they wait for their commit, as in
//! `journal`; so nothing ever waits for the superblocks. The permission can be taken back: once everything that was
//! acknowledged is committed, the superblocks may say again that nothing can be lost.

use super::super::Action;
use super::super::machine::Engine;
use super::Durability;
use crate::amf::journal::lane::BatchNumber;

/// What a core may acknowledge from memory.
#[derive(Debug, Default)]
pub(super) struct Ram {
    allowed: bool,
    /// The permission was asked for.
    asked: bool,
    /// The permission was taken back: it counts as given back when all up to this batch is committed.
    closing: Option<BatchNumber>,
}

impl Engine {
    /// Whether a write that was just appended is done. Asks for the permission if that alone is missing.
    pub(super) fn is_done_in_memory(&mut self, fua: bool, out: &mut Vec<Action>) -> bool {
        let write_back = self.write_back();
        if write_back.durability == Durability::Journal || fua {
            return false;
        }
        let ram = &mut write_back.ram;
        if !ram.allowed && !std::mem::replace(&mut ram.asked, true) {
            out.push(Action::RamWanted);
        }
        ram.allowed
    }

    /// From now on writes may be acknowledged from memory, because it is durable that they may be lost; or they may not any more, which
    /// is answered by [`Action::RamCommitted`] once nothing is in memory alone that was acknowledged. In a group of another
    /// durability nobody asks, and nothing changes.
    pub fn allow_ram(&mut self, allowed: bool, out: &mut Vec<Action>) {
        let Some(write_back) = self.write_back.as_mut() else {
            return;
        };
        (write_back.ram.allowed, write_back.ram.asked) = (allowed, false);
        write_back.ram.closing = None;
        if !allowed {
            write_back.ram.closing = write_back.lane.want_all();
            if write_back.ram.closing.is_none() {
                out.push(Action::RamCommitted);
            }
        }
        self.settle(out);
    }

    /// Something was committed: perhaps the last that was acknowledged before.
    pub(super) fn look_at_ram(&mut self, out: &mut Vec<Action>) {
        let write_back = self.write_back();
        let closing = write_back.ram.closing;
        if closing.is_some_and(|batch| write_back.lane.is_committed(batch)) {
            write_back.ram.closing = None;
            out.push(Action::RamCommitted);
        }
    }
}
