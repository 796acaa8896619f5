//! Acknowledging from memory (`durability = "ram"`): a write is done when it is in the lane's ring, and committed later.
//!
//! Only when it is durable in the superblocks that such writes may be lost (PROTOCOL H45). Until then they wait for their commit, as in
//! `journal`; so nothing ever waits for the superblocks. The permission can be taken back: once everything that was
//! acknowledged is committed, the superblocks may say again that nothing can be lost.
//!
//! Where several nodes share the group, a write is not done before other nodes keep its batch in their memory, too ([`crate::amf::replica`]), or it is committed, whatever comes first (PROTOCOL H17, H18), unless its virtual disk
//! has hosts told earlier ([`ReplicationMode`], PROTOCOL H21). All batches are written to the drives at once, and Flush and Force Unit Access wait for these.

use super::super::machine::Engine;
use super::super::{Action, Request};
use super::Durability;
use crate::amf::journal::lane::BatchNumber;
use crate::amf::replica::Keeping;
use crate::amf::replication::ReplicationMode;
use crate::icl::Epoch;

/// When a write is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It is in memory.
    Now,
    /// It was sent to other nodes.
    Sent,
    /// Other nodes have it in memory.
    Safe,
    /// It is on the drives.
    Committed,
}

/// What a core may acknowledge from memory.
#[derive(Debug)]
pub(super) struct Ram {
    allowed: bool,
    /// Not before other nodes keep it, or as its [`ReplicationMode`] says.
    keeps_copies: bool,
    /// The permission was asked for.
    asked: bool,
    /// The permission was taken back: it counts as given back when all up to this batch is committed.
    closing: Option<BatchNumber>,
    /// Others are asked since this epoch, and do not have yet all that was acknowledged before.
    restoring: Option<Epoch>,
}

impl Ram {
    pub(super) const fn new(keeps_copies: bool) -> Self {
        Self {
            allowed: false,
            keeps_copies,
            asked: false,
            closing: None,
            restoring: None,
        }
    }

    pub(super) const fn is_allowed(&self) -> bool {
        self.allowed
    }
}

impl Engine {
    /// When a write that was just appended is done. Asks for the permission to acknowledge from memory if that alone is missing.
    pub(super) fn done_when(&mut self, index: u32, fua: bool, out: &mut Vec<Action>) -> Done {
        let replication = self.replication_of(index);
        let write_back = self.write_back();
        if write_back.durability == Durability::Journal || fua {
            return Done::Committed;
        }
        let ram = &mut write_back.ram;
        if !ram.allowed && !std::mem::replace(&mut ram.asked, true) {
            out.push(Action::RamWanted);
        }
        match (ram.allowed, ram.keeps_copies, replication) {
            // With nobody to send it to it waits for the drives.
            (true, true, ReplicationMode::Async) if write_back.lane.keeps() => Done::Now,
            (_, true, ReplicationMode::Sync | ReplicationMode::Async) => Done::Safe,
            (_, true, ReplicationMode::PseudoSync) => Done::Sent,
            (true, false, _) => Done::Now,
            (false, false, _) => Done::Committed,
        }
    }

    /// A host is told of a write before anybody else has it: where others are to have it, it is on its way at once.
    pub(super) fn told_early(&mut self, batch: BatchNumber) {
        let write_back = self.write_back();
        if write_back.ram.keeps_copies {
            write_back.lane.tell(batch);
            write_back.lane.want(batch);
        }
    }

    /// When a host's write is done. What depends on what was there before is a lock of some host: others rely on it at once.
    fn replication_of(&self, index: u32) -> ReplicationMode {
        let command = self.pieces[index as usize].command;
        match self.commands[command as usize].request {
            Request::Write { replication, .. } | Request::Zero { replication, .. } => replication,
            Request::Read { .. }
            | Request::CachedRead { .. }
            | Request::Compare { .. }
            | Request::CompareWrite { .. }
            | Request::Flush
            | Request::FlushDrives
            | Request::Drain
            | Request::Retire
            | Request::Resync { .. }
            | Request::Rebuild { .. }
            | Request::Scrub { .. }
            | Request::Move { .. }
            | Request::Repair { .. } => ReplicationMode::Sync,
        }
    }

    /// From now on other nodes are asked to keep what this core writes ([`Action::Keep`]), or nobody is. What they were asked before counts only where it is committed: others may be
    /// asked from now on.
    ///
    /// [`Action::KeptAgain`] with the epoch follows, unless this is called again before.
    pub fn keep(&mut self, keeping: Keeping, epoch: Epoch, out: &mut Vec<Action>) {
        let Some(write_back) = &mut self.write_back else {
            return out.push(Action::KeptAgain(epoch));
        };
        write_back.lane.keep(keeping);
        write_back.ram.restoring = Some(epoch);
        self.look_at_copies(out);
        self.settle(out);
    }

    /// More is on the drives or kept: perhaps the last that was acknowledged before others were asked.
    pub(super) fn look_at_copies(&mut self, out: &mut Vec<Action>) {
        let write_back = self.write_back();
        if write_back.lane.is_kept_again()
            && let Some(epoch) = write_back.ram.restoring.take()
        {
            out.push(Action::KeptAgain(epoch));
        }
    }

    /// Whether all that this core has acknowledged is on the drives, or kept by as many nodes as are wanted.
    pub fn is_restored(&self) -> bool {
        self.write_back.as_ref().is_none_or(|it| it.lane.is_restored())
    }

    /// Bytes of the journal that have yet to get there, for that to be so.
    pub fn bytes_to_restore(&self) -> u64 {
        let blocks = self
            .write_back
            .as_ref()
            .map_or(0, |it| it.lane.blocks_to_restore());
        blocks << self.geometry.block().shift()
    }

    /// Whether all that this core has acknowledged is on the drives, or kept by those that are asked now, however few.
    pub fn is_kept(&self) -> bool {
        self.write_back.as_ref().is_none_or(|it| it.lane.is_safe_again())
    }

    /// Whether something that this core may have acknowledged is not on the drives.
    pub fn is_ahead_of_drives(&self) -> bool {
        self.write_back.as_ref().is_some_and(|it| it.lane.is_ahead())
    }

    /// All other nodes that were asked keep this batch.
    ///
    /// Panics if none was.
    pub fn kept(&mut self, batch: BatchNumber, out: &mut Vec<Action>) {
        if self.write_back().lane.kept(batch) {
            self.copies_done(out);
            self.settle(out);
        }
    }

    /// This batch, and so all that they were asked to keep before it, was sent to all other nodes that are to keep it.
    pub fn sent(&mut self, batch: BatchNumber, out: &mut Vec<Action>) {
        if self.write_back().lane.sent(batch) {
            self.sendings_done(out);
            self.settle(out);
        }
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
        self.copies_done(out);
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
