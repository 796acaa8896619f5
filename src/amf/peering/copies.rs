//! Copies of what nodes' journals are about to have on the drives ([`crate::amf::replica`]): given to partners, kept for others, and brought to whoever recovers.
//!
//! Partners are asked only while locks are granted. When an epoch begins, what others were asked is forgotten, and writes wait for the drives; whoever keeps copies of a life
//! that is gone brings them to the leader before it says what it has of the group, and forgets them when that epoch serves: by then they are in their place. An epoch that ends before that leaves them kept.

use std::sync::Arc;

use super::note::Note;
use super::{Action, Copy, Epoch, Era, MemoryAction, Now, Peering, Slot, SlotSet, lanes_of};
use crate::amf::replica::{self, Keeping, Replication};

impl Peering {
    /// Batches are to be in the memory of so many nodes, which is what writes wait for unless they say otherwise; for others this one keeps up to so many bytes.
    #[must_use]
    pub fn copying(mut self, replication: Replication, bytes_max: usize) -> Self {
        self.replication = replication;
        self.kept = replica::Copies::new(bytes_max);
        self
    }

    /// What this node keeps for others.
    pub const fn kept(&self) -> &replica::Copies {
        &self.kept
    }

    /// Of how many nodes' memory a batch is to be in.
    pub const fn copies(&self) -> u8 {
        self.replication.copies()
    }

    /// Who keeps what this node writes; nobody if writes wait for the drives.
    pub const fn partners(&self) -> SlotSet {
        self.asked.partners()
    }

    pub(super) fn slot_of_lane(&self, lane: u16) -> Option<Slot> {
        u8::try_from(lane / self.lanes_each).ok().and_then(Slot::new)
    }

    /// A core has a batch that others are to keep; see [`crate::amf::engine::Action::Keep`]. Nobody is asked if there is nobody to ask: it is committed soon.
    ///
    /// Where the core is to hear when it was sent, [`Peering::copy_sent`] has to be told.
    pub fn keep(&mut self, copy: &Copy, reports: bool, out: &mut Vec<Action>) {
        let partners = self.asked.partners();
        if partners == SlotSet::EMPTY {
            return;
        }
        let name = copy.name;
        self.asked.ask(name);
        if reports {
            self.asked.watch(name);
        }
        for to in partners.iter() {
            let note = Note::Copy(copy.clone());
            out.push(Action::Send { to, note });
            if reports {
                out.push(MemoryAction::Watch { to, name }.into());
            }
        }
    }

    /// All that was said to a partner before [`MemoryAction::Watch`] was sent, in this epoch.
    pub fn copy_sent(&mut self, name: replica::Name, to: Slot, out: &mut Vec<Action>) {
        if self.asked.sent(name, to) {
            let (core, batch) = (name.lane % self.lanes_each, name.batch);
            out.push(MemoryAction::Sent { core, batch }.into());
        }
    }

    /// A copy came in: of its writer, or, at the leader of an epoch that is not open yet, of one that is gone. Any other is nobody's to give.
    pub(super) fn copy_came(&mut self, from: Slot, copy: Copy, out: &mut Vec<Action>) {
        if self.slot_of_lane(copy.name.lane) != Some(from) {
            if self.leader() == Some(self.local) && !self.serves() {
                self.kept.collect(copy);
            }
            return;
        }
        let name = copy.name;
        let keeps = self.kept.keep(copy);
        let note = Note::Kept { name, keeps };
        out.push(Action::Send { to: from, note });
    }

    /// A partner keeps a batch, or has no room.
    pub(super) fn copy_kept(&mut self, from: Slot, name: replica::Name, keeps: bool, out: &mut Vec<Action>) {
        let is_own = self.slot_of_lane(name.lane) == Some(self.local);
        if is_own && self.asked.answered(name, from, keeps) {
            let core = name.lane % self.lanes_each;
            let batch = name.batch;
            out.push(MemoryAction::Kept { core, batch }.into());
        }
    }

    /// An epoch begins: lives of these slots are gone. What is kept of them goes to the leader.
    pub(super) fn bring_copies(&mut self, gone: SlotSet, out: &mut Vec<Action>) {
        let now = self.now.as_ref().expect("an epoch was entered");
        let (leader, epoch) = (now.era.leader, now.era.epoch);
        if self.asked.partners() != SlotSet::EMPTY {
            out.push(MemoryAction::KeepCopies(Keeping::Nobody, epoch).into());
        }
        self.asked.enter(SlotSet::EMPTY);
        for slot in gone.iter() {
            // The next life numbers its batches from there on.
            self.orphans.insert(slot, u64::from(epoch.0) << 32);
        }
        self.keepers.enter(self.local, &now.era, gone, &self.replication);
        self.tell_keepers(out);
        if leader == self.local {
            return;
        }
        let gone: SlotSet = self.orphans.keys().copied().collect();
        for copy in self.kept.of(lanes_of(gone, self.lanes_each)) {
            let slot = self.slot_of_lane(copy.name.lane);
            if slot.is_some_and(|slot| copy.name.batch < self.orphans[&slot]) {
                let note = Note::Copy(copy.clone());
                out.push(Action::Send { to: leader, note });
            }
        }
    }

    /// What there is of lanes of nodes that do not live.
    pub(super) fn copies_of_gone(&self, living: SlotSet) -> Vec<Arc<[u8]>> {
        let gone = self.kept.of(!lanes_of(living, self.lanes_each));
        gone.map(|copy| Arc::clone(&copy.bytes)).collect()
    }

    /// Forgets what members have retired of their own. Of those that are gone nothing is retired before the epoch serves, whatever the living say of theirs: a life that leads in the slot of one that is gone
    /// does not know it, and has been brought what it left.
    pub(super) fn forget_retired(&mut self) {
        if !self.serves() {
            return;
        }
        let members = self.now.as_ref().map_or(SlotSet::EMPTY, |now| now.era.members);
        let is_there = |slot: &Slot| !self.orphans.contains_key(slot);
        let lanes = lanes_of(members.iter().filter(is_there).collect(), self.lanes_each);
        self.kept.forget_retired(lanes, self.homes.retired());
    }

    /// The epoch serves: what was left is in its place, and partners are asked from now on.
    pub(super) fn serve_with_copies(&mut self, out: &mut Vec<Action>) {
        for (slot, below) in std::mem::take(&mut self.orphans) {
            let first = u16::from(slot.number()) * self.lanes_each;
            for lane in first..first + self.lanes_each {
                self.kept.forget_below(lane, below);
            }
        }
        let Era { epoch, members, .. } = self.now.as_ref().expect("it serves").era;
        self.keepers.serve(&self.replication);
        let partners = self.replication.partners(self.local, members);
        self.asked.enter(partners);
        if self.copies() > 1 {
            let keeping = self.replication.keeping(partners);
            out.push(MemoryAction::KeepCopies(keeping, epoch).into());
        }
    }

    /// All that a core has acknowledged before it was told whom to ask in this epoch is on the drives, or kept by these. Others hear of it when that holds for all cores.
    pub fn kept_again(&mut self, core: u16, epoch: Epoch, out: &mut Vec<Action>) {
        let is_now = |now: &&mut Now| now.serves && now.era.epoch == epoch;
        let Some(now) = self.now.as_mut().filter(is_now) else {
            return;
        };
        let before = now.restoring;
        now.restoring &= !(1 << core);
        if before != 0 && now.restoring == 0 {
            self.keepers.restored(self.local, &self.replication);
            for to in self.others().iter() {
                let note = Note::Restored;
                out.push(Action::Send { to, note });
            }
        }
    }

    /// A bit for each core of this node.
    pub(super) fn all_cores(&self) -> u16 {
        let most = u16::BITS.saturating_sub(u32::from(self.lanes_each));
        u16::MAX.checked_shr(most).unwrap_or(0)
    }

    /// Whether that has been so since this epoch is served.
    pub fn is_restored(&self) -> bool {
        let now = self.now.as_ref();
        now.is_some_and(|now| now.serves && now.restoring == 0)
    }

    /// A member says something about who keeps what.
    pub(super) fn keepers_noted(&mut self, from: Slot, note: Note, out: &mut Vec<Action>) {
        if note == Note::Left {
            self.keepers.left(from);
            let note = Note::LeftHeard;
            out.push(Action::Send { to: from, note });
        } else if note == Note::LeftHeard {
            self.left_heard(from, out);
        } else if note == Note::Restored {
            self.keepers.restored(from, &self.replication);
        } else if let Note::KeptBy(parts) = note {
            self.keepers.learn(from, parts, &self.replication);
        }
    }

    /// Others are to know who keeps what this node has acknowledged before.
    fn tell_keepers(&self, out: &mut Vec<Action>) {
        let others = if self.copies() > 1 {
            self.others()
        } else {
            SlotSet::EMPTY
        };
        for to in others.iter() {
            let note = Note::KeptBy(self.keepers.parts(self.local));
            out.push(Action::Send { to, note });
        }
    }
}
