//! Copies of what other nodes' journals are about to have on the drives, kept in memory.
//!
//! Where a group acknowledges from memory, a node gives each batch of its lanes to its *partners* before it tells hosts of the writes in it ([`super::engine::Action::Keep`]), and
//! to the drives at the same time. When the node is gone, whoever recovers what it left gets all copies of its lanes and reads them with what the drives have
//! ([`super::journal::replay::Replay::with_copies`]): a batch is what it is wherever it is found, and its own numbers say whether it still counts. So a copy that is kept for too long does no harm.
//!
//! Owns the copies and who is asked for some; deliberately knows neither rows nor links. Memory is bounded: what finds no room is not kept, and its writer waits for the drives.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::icl::{Slot, SlotSet};

/// Names a batch of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Which lane.
    pub lane: u16,
    /// Its number.
    pub batch: u64,
}

/// A batch as its writer gives it away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Which.
    pub name: Name,
    /// Those of its lane below this one are on the drives.
    pub committed: u64,
    /// The highest number of an entry in it: nobody needs it when all nodes have retired that.
    pub seq_max: u64,
    /// Header and payload, as on the drives.
    pub bytes: Arc<[u8]>,
}

/// What is said of a batch that others are to keep, as in [`struct@Copy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Which.
    pub name: Name,
    /// Those of its lane below this one are on the drives.
    pub committed: u64,
    /// The highest number of an entry in it.
    pub seq_max: u64,
}

impl Offer {
    /// With the batch itself.
    pub fn with(self, bytes: Arc<[u8]>) -> Copy {
        let Self {
            name,
            committed,
            seq_max,
        } = self;
        Copy {
            name,
            committed,
            seq_max,
            bytes,
        }
    }
}

/// What one node keeps for others.
#[derive(Debug)]
pub struct Copies {
    kept: BTreeMap<Name, Copy>,
    bytes: usize,
    bytes_max: usize,
}

impl Copies {
    /// Room for so many bytes.
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            kept: BTreeMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Keeps a batch for its writer. False if there is no room.
    pub fn keep(&mut self, copy: Copy) -> bool {
        self.forget_below(copy.name.lane, copy.committed);
        let fits = self.bytes + copy.bytes.len() <= self.bytes_max;
        if fits {
            self.collect(copy);
        }
        fits
    }

    /// Keeps a batch whose writer is gone, for whoever recovers it: whether or not there is room.
    pub fn collect(&mut self, copy: Copy) {
        self.bytes += copy.bytes.len();
        if let Some(known) = self.kept.insert(copy.name, copy) {
            self.bytes -= known.bytes.len();
        }
    }

    /// Batches of a lane below this one are on the drives, or over.
    pub fn forget_below(&mut self, lane: u16, batch: u64) {
        let first = Name { lane, batch: 0 };
        while let Some((name, _)) = self.kept.range(first..Name { lane, batch }).next() {
            let name = *name;
            let gone = self.kept.remove(&name).expect("it was just found");
            self.bytes -= gone.bytes.len();
        }
    }

    /// All nodes, those with these lanes among them, have retired entries below a number: batches of theirs that have no others go.
    pub fn forget_retired(&mut self, lanes: u32, below: u64) {
        self.kept
            .retain(|name, copy| copy.seq_max >= below || lanes >> name.lane & 1 == 0);
        self.bytes = self.kept.values().map(|copy| copy.bytes.len()).sum();
    }

    /// All batches of these lanes, as a mask.
    pub fn of(&self, lanes: u32) -> impl Iterator<Item = &Copy> {
        let all = self.kept.values();
        all.filter(move |copy| lanes >> copy.name.lane & 1 == 1)
    }

    /// Bytes of all of them.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Who keeps what a node writes: so many of the nodes that serve the group, from the one behind it on, so that all are asked as often as each other (PROTOCOL H17).
///
/// None if there are too few for as many copies, the writer's own counted: writes wait for the drives then (H18).
pub fn partners(local: Slot, members: SlotSet, copies: u8) -> SlotSet {
    let others = members.without(local);
    let wanted = usize::from(copies.saturating_sub(1));
    let behind = others.iter().filter(|slot| slot.number() > local.number());
    let before = others.iter().filter(|slot| slot.number() < local.number());
    let chosen: SlotSet = behind.chain(before).take(wanted).collect();
    if (chosen.count() as usize) < wanted {
        return SlotSet::EMPTY;
    }
    chosen
}

/// Batches that partners were asked to keep, and who has yet to answer.
#[derive(Debug, Default)]
pub struct Asked {
    partners: SlotSet,
    awaited: BTreeMap<Name, SlotSet>,
    /// To whom batches are yet to be sent of which somebody wants to hear that.
    unsent: BTreeMap<Name, SlotSet>,
}

impl Asked {
    /// An epoch begins with these partners: what others were asked is worth nothing.
    pub fn enter(&mut self, partners: SlotSet) {
        self.partners = partners;
        self.awaited.clear();
        self.unsent.clear();
    }

    /// Who is asked.
    pub const fn partners(&self) -> SlotSet {
        self.partners
    }

    /// All partners are asked to keep a batch.
    pub fn ask(&mut self, name: Name) {
        self.awaited.insert(name, self.partners);
    }

    /// It is to be said when a batch that they are asked to keep was sent to all of them.
    pub fn watch(&mut self, name: Name) {
        self.unsent.insert(name, self.partners);
    }

    /// A batch was sent to a partner. True if it was to all now.
    pub fn sent(&mut self, name: Name, to: Slot) -> bool {
        let Some(unsent) = self.unsent.get_mut(&name) else {
            return false;
        };
        *unsent = unsent.without(to);
        let is_over = *unsent == SlotSet::EMPTY;
        if is_over {
            self.unsent.remove(&name);
        }
        is_over
    }

    /// A partner keeps it, or has no room: then nobody waits for it any more. True if all keep it now.
    pub fn answered(&mut self, name: Name, by: Slot, keeps: bool) -> bool {
        let Some(awaited) = self.awaited.get_mut(&name) else {
            return false;
        };
        *awaited = awaited.without(by);
        let is_over = *awaited == SlotSet::EMPTY;
        if is_over || !keeps {
            self.awaited.remove(&name);
        }
        is_over && keeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u8) -> Slot {
        Slot::new(number).unwrap()
    }

    fn slots(numbers: &[u8]) -> SlotSet {
        numbers.iter().map(|number| slot(*number)).collect()
    }

    fn name(lane: u16, batch: u64) -> Name {
        Name { lane, batch }
    }

    fn copy(name: Name, committed: u64, bytes: usize) -> Copy {
        Copy {
            name,
            committed,
            seq_max: 10 * name.batch,
            bytes: vec![7; bytes].into(),
        }
    }

    /// CHECKLIST C4, PROTOCOL H17, H18: every node has as many partners as each other, all different, none of them itself or one that does not serve the group; and if there are too few, none.
    #[test]
    fn partners_are_spread_evenly_over_nodes_that_serve_the_group() {
        let members = slots(&[0, 2, 3, 5, 7]);
        for copies in 1..=5 {
            let mut asked = BTreeMap::<Slot, u32>::new();
            for local in members.iter() {
                let partners = partners(local, members, copies);
                assert!(!partners.contains(local) && members.covers(partners));
                assert_eq!(partners.count(), u32::from(copies - 1));
                for partner in partners.iter() {
                    *asked.entry(partner).or_default() += 1;
                }
            }
            let each = u32::from(copies - 1);
            assert!(asked.values().all(|count| *count == each), "{asked:?}");
        }
        assert_eq!(
            partners(slot(3), members, 6),
            SlotSet::EMPTY,
            "there are four others"
        );
        assert_eq!(partners(slot(5), members, 3), slots(&[7, 0]));
    }

    /// PROTOCOL H22: memory is bounded, and given back.
    #[test]
    fn what_finds_no_room_is_not_kept() {
        let mut copies = Copies::new(100);
        assert!(copies.keep(copy(name(1, 5), 0, 60)) && copies.keep(copy(name(2, 5), 0, 30)));
        assert!(!copies.keep(copy(name(1, 6), 5, 20)), "110 bytes");
        assert!(copies.keep(copy(name(1, 6), 6, 20)), "batch 5 is on the drives");
        copies.collect(copy(name(1, 6), 6, 90));
        assert_eq!(
            copies.bytes(),
            120,
            "it is kept once, and what a dead node needs always"
        );
        let names = |copies: &Copies, lanes| copies.of(lanes).map(|copy| copy.name).collect::<Vec<_>>();
        assert_eq!(names(&copies, 0b010), [name(1, 6)]);
        copies.forget_retired(0b100, 51);
        assert_eq!((names(&copies, 0b110), copies.bytes()), (vec![name(1, 6)], 90));
        copies.forget_below(1, 7);
        assert_eq!(copies.bytes(), 0);
    }

    /// CHECKLIST C6, PROTOCOL H17: a write is safe when all partners of its epoch keep it; one that has no room ends the waiting.
    #[test]
    fn all_partners_have_to_keep_a_batch() {
        let mut asked = Asked::default();
        asked.enter(slots(&[1, 2]));
        asked.ask(name(0, 1));
        asked.ask(name(0, 2));
        assert!(!asked.answered(name(0, 1), slot(1), true) && asked.answered(name(0, 1), slot(2), true));
        assert!(!asked.answered(name(0, 1), slot(2), true), "once");
        assert!(!asked.answered(name(0, 2), slot(1), false) && !asked.answered(name(0, 2), slot(2), true));
        asked.ask(name(0, 3));
        asked.enter(slots(&[2]));
        assert!(
            !asked.answered(name(0, 3), slot(2), true),
            "that was asked in another epoch"
        );
    }
}
