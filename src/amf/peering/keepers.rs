//! Who keeps copies for whom, as every member knows: so whoever outlives a node and all that kept copies for it knows that what it has acknowledged from memory may be lost, and nobody serves the
//! group as if nothing had happened (PROTOCOL H45).
//!
//! What nodes have acknowledged in one epoch and not brought to the drives or to the partners of the next one when they go is in the recovery period: a second death there may lose it, and is not seen here.

use std::collections::BTreeMap;

use super::{Slot, SlotSet};
use crate::amf::replica::Replication;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Keepers {
    /// Who keeps copies for each other member, since the group was served last. Not here: whoever has nobody, and waits for the drives.
    of: BTreeMap<Slot, SlotSet>,
    /// Nodes that are gone, and with them all of theirs.
    unkept: SlotSet,
}

impl Keepers {
    /// The group is served: what was left is in its place, or whoever decides that has taken its loss.
    pub fn serve(&mut self, replication: &Replication, local: Slot, members: SlotSet) {
        let others = members.without(local);
        let partners = others
            .iter()
            .map(|slot| (slot, replication.partners(slot, members)));
        self.of = partners
            .filter(|(_, partners)| *partners != SlotSet::EMPTY)
            .collect();
        self.unkept = SlotSet::EMPTY;
    }

    /// Lives in these slots are gone; what these slots have left is not in its place.
    pub fn enter(&mut self, gone: SlotSet, orphans: impl Iterator<Item = Slot>) {
        for keepers in self.of.values_mut() {
            *keepers = keepers.minus(gone);
        }
        let is_unkept = |slot: &Slot| self.of.get(slot) == Some(&SlotSet::EMPTY);
        self.unkept = orphans.filter(is_unkept).collect();
    }

    /// All members have brought what they keep to this node.
    pub fn brought(&mut self, local: Slot) {
        for keepers in self.of.values_mut().filter(|keepers| **keepers != SlotSet::EMPTY) {
            *keepers = keepers.with(local);
        }
    }

    /// This node is about to leave with nothing in memory alone.
    pub fn left(&mut self, slot: Slot) {
        self.of.remove(&slot);
    }

    /// Nodes that are gone with all who kept copies for them.
    pub const fn unkept(&self) -> SlotSet {
        self.unkept
    }
}
