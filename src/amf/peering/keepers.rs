//! Who keeps copies for whom, as every member knows: so whoever outlives a node and all that kept copies for it knows that what it has acknowledged from memory may be lost, and whoever leads
//! refuses to go on (PROTOCOL H45).
//!
//! What a node has acknowledged and not brought to the drives may be with its partners of several epochs: those of the one in which it was acknowledged keep it until the node says that all of that is on
//! the drives, or with its partners of now ([`Keepers::restored`]). So there may be several sets of partners of each of which somebody has to be left: the *parts* of what the node has acknowledged. It tells them itself
//! when an epoch begins, before anybody serves; of whoever is gone before it has, others go by what they have seen: an epoch that they did not come to serve may have been served without them, and what was before their time counts as a
//! part that nobody keeps, unless somebody else knows better.

use std::collections::BTreeMap;

use super::{Epoch, Era, Slot, SlotSet};
use crate::amf::replica::Replication;

/// Sets of nodes each of which has what a node acknowledged at some time; one that is empty stands for what nobody is known to have.
pub type Parts = Vec<SlotSet>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Keepers {
    /// Of each member. Not here, or without parts: whoever has nothing in memory alone.
    of: BTreeMap<Slot, Parts>,
    /// Of lives that are gone and not recovered, by slot.
    orphans: BTreeMap<Slot, Parts>,
    /// The last epoch that was entered, and its members; whether the group was served in it, and whether all others wait there for a word of this node, which leads.
    entered: Option<(Epoch, SlotSet)>,
    has_served: bool,
    is_awaited: bool,
    /// Who has said in it that it has brought all to the drives or to its partners.
    restored: SlotSet,
    /// Lives that have said that they leave, with nothing in memory.
    left: SlotSet,
    view: View,
}

/// What one member knows of those that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The last epoch in which it has served the group: of two members whoever served later knows better who is not recovered, because all that was left before is in its place since.
    pub served: Epoch,
    /// Nodes that are gone with all who kept some of what they have acknowledged, as far as it knows.
    pub unkept: SlotSet,
    /// Nodes that are gone of which somebody has each part, as it knows for sure.
    pub kept: SlotSet,
}

impl View {
    /// Nodes that are gone with all who kept copies for them, by what all members know.
    pub fn unkept(all: &[Self]) -> SlotSet {
        let served = all.iter().map(|view| view.served).max();
        let newest = all.iter().filter(|view| Some(view.served) == served);
        let unkept: SlotSet = newest.flat_map(|view| view.unkept.iter()).collect();
        unkept.minus(all.iter().flat_map(|view| view.kept.iter()).collect())
    }
}

impl Keepers {
    /// An epoch begins: the lives in slots that `gone` names are over.
    pub fn enter(&mut self, local: Slot, era: &Era, gone: SlotSet, replication: &Replication) {
        let Era {
            epoch,
            members,
            seniors,
            leader,
            ..
        } = *era;
        // Others may have served, and been given copies, where this node did not come to it; but not where they would have waited for this one.
        if let Some((_, members)) = self.entered
            && !self.has_served
            && !self.is_awaited
        {
            self.assign(members.without(local), members, replication);
        }
        // An epoch of its own that this node has not entered nobody has served: that waits for all members. What was before its first one it does not know.
        if self.entered.is_none() {
            for slot in seniors.without(local).iter() {
                add(self.of.entry(slot).or_default(), SlotSet::EMPTY);
            }
        }
        let parts = self.of.values_mut().chain(self.orphans.values_mut());
        parts.flatten().for_each(|part| *part = part.minus(gone));
        for slot in gone.iter() {
            for part in self.of.remove(&slot).unwrap_or_default() {
                add(self.orphans.entry(slot).or_default(), part);
            }
        }
        (self.entered, self.has_served) = (Some((epoch, members)), false);
        self.is_awaited = leader == local;
        // Who leaves acknowledges nothing more in this life, whatever epochs it still sees.
        (self.restored, self.left) = (SlotSet::EMPTY, self.left.minus(gone));
        self.look();
    }

    /// What these acknowledge from now on is with their partners among the members.
    fn assign(&mut self, who: SlotSet, members: SlotSet, replication: &Replication) {
        for slot in who.iter() {
            if self.restored.contains(slot) || self.left.contains(slot) {
                self.of.remove(&slot);
            }
            let partners = replication.partners(slot, members);
            // Who has nobody waits for the drives.
            if partners != SlotSet::EMPTY && !self.left.contains(slot) {
                add(self.of.entry(slot).or_default(), partners);
            }
        }
    }

    /// The group is served: what was left is in its place, or whoever decides that has taken its loss.
    pub fn serve(&mut self, replication: &Replication) {
        let Some((epoch, members)) = self.entered else {
            return;
        };
        self.has_served = true;
        self.orphans.clear();
        self.assign(members, members, replication);
        self.view.served = epoch;
        self.look();
    }

    /// This node leads and has told its record: others may serve from now on, also before it does, for membership has another leader where not all nodes share the group.
    pub const fn told(&mut self) {
        self.is_awaited = false;
    }

    fn look(&mut self) {
        let (mut unkept, mut kept) = (SlotSet::EMPTY, SlotSet::EMPTY);
        for (slot, parts) in &self.orphans {
            let set = if parts.contains(&SlotSet::EMPTY) {
                &mut unkept
            } else {
                &mut kept
            };
            *set = set.with(*slot);
        }
        (self.view.unkept, self.view.kept) = (unkept, kept);
    }

    /// All members have brought to this node what they keep of those that are gone.
    pub fn brought(&mut self, local: Slot) {
        let parts = self.orphans.values_mut().flatten();
        let kept = parts.filter(|part| **part != SlotSet::EMPTY);
        kept.for_each(|part| *part = part.with(local));
    }

    /// All that a member has acknowledged before this epoch is on the drives, or with its partners of this epoch.
    pub fn restored(&mut self, slot: Slot, replication: &Replication) {
        self.restored = self.restored.with(slot);
        if let (true, Some((_, members))) = (self.has_served, self.entered) {
            self.assign(SlotSet::EMPTY.with(slot), members, replication);
        }
    }

    /// The parts of what a member has acknowledged, as far as this node knows.
    pub fn parts(&self, slot: Slot) -> Parts {
        self.of.get(&slot).cloned().unwrap_or_default()
    }

    /// A member tells its parts before this epoch: nobody knows them better.
    pub fn learn(&mut self, slot: Slot, parts: Parts, replication: &Replication) {
        let Some((_, members)) = self.entered else {
            return;
        };
        self.of.insert(slot, parts);
        if self.has_served {
            self.assign(SlotSet::EMPTY.with(slot), members, replication);
        }
    }

    /// A member is about to leave with nothing in memory alone.
    pub fn left(&mut self, slot: Slot) {
        self.left = self.left.with(slot);
        self.of.remove(&slot);
    }

    /// What this node knows.
    pub const fn view(&self) -> View {
        self.view
    }
}

fn add(parts: &mut Parts, part: SlotSet) {
    if !parts.contains(&part) {
        parts.push(part);
    }
}
