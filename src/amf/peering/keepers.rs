//! Who keeps copies for whom, as every member knows: so whoever outlives a node and all that kept copies for it knows that what it has acknowledged from memory may be lost, and whoever leads
//! says so. PROTOCOL H45 wants more: the group is to wait for an operator (README, known faults).
//!
//! What nodes have acknowledged in one epoch and not brought to the drives or to the partners of the next one when they go is in the recovery period: a second death there may lose it, and is not seen here.

use std::collections::BTreeMap;

use super::{Epoch, Slot, SlotSet};
use crate::amf::replica::Replication;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Keepers {
    /// Who keeps copies for each other member, since the group was served last. Not here: whoever has nobody, and waits for the drives.
    of: BTreeMap<Slot, SlotSet>,
    /// Nodes that are gone and not recovered.
    orphans: SlotSet,
    view: View,
}

/// What one member knows of those that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The last epoch in which it has served the group: of two members whoever served later knows better, because all that was left before is in its place since.
    pub served: Epoch,
    /// Nodes that are gone with all who kept copies for them, as far as it knows.
    pub unkept: SlotSet,
    /// Nodes that are gone for which it has all copies itself.
    pub keeps: SlotSet,
}

impl View {
    /// Nodes that are gone with all who kept copies for them, by what all members know.
    pub fn unkept(all: &[Self]) -> SlotSet {
        let served = all.iter().map(|view| view.served).max();
        let newest = || all.iter().filter(|view| Some(view.served) == served);
        let of = |set: fn(&Self) -> SlotSet| {
            newest()
                .flat_map(move |view| set(view).iter())
                .collect::<SlotSet>()
        };
        of(|view| view.unkept).minus(of(|view| view.keeps))
    }
}

impl Keepers {
    /// The group is served: what was left is in its place, or whoever decides that has taken its loss.
    pub fn serve(&mut self, epoch: Epoch, replication: &Replication, (local, members): (Slot, SlotSet)) {
        let others = members.without(local);
        let partners = others
            .iter()
            .map(|slot| (slot, replication.partners(slot, members)));
        self.of = partners
            .filter(|(_, partners)| *partners != SlotSet::EMPTY)
            .collect();
        self.orphans = SlotSet::EMPTY;
        self.view = View {
            served: epoch,
            ..View::default()
        };
    }

    /// Lives in these slots are gone; what `orphans` have left is not in its place.
    pub fn enter(&mut self, local: Slot, gone: SlotSet, orphans: impl Iterator<Item = Slot>) {
        for keepers in self.of.values_mut() {
            *keepers = keepers.minus(gone);
        }
        self.orphans = orphans.collect();
        self.look(local);
    }

    fn look(&mut self, local: Slot) {
        let of = |slot: Slot| self.of.get(&slot).copied();
        let orphans = self.orphans.iter();
        self.view.unkept = orphans.filter(|slot| of(*slot) == Some(SlotSet::EMPTY)).collect();
        let keeps = |slot: &Slot| of(*slot).is_some_and(|keepers| keepers.contains(local));
        self.view.keeps = self.orphans.iter().filter(keeps).collect();
    }

    /// All members have brought to this node what they keep of those that are gone.
    pub fn brought(&mut self, local: Slot) {
        let orphans = self.orphans;
        let brought =
            |(slot, keepers): &(&Slot, &mut SlotSet)| orphans.contains(**slot) && **keepers != SlotSet::EMPTY;
        for (_, keepers) in self.of.iter_mut().filter(brought) {
            *keepers = keepers.with(local);
        }
        self.look(local);
    }

    /// This node is about to leave with nothing in memory alone.
    pub fn left(&mut self, slot: Slot) {
        self.of.remove(&slot);
    }

    /// What this node knows.
    pub const fn view(&self) -> View {
        self.view
    }
}
