//! Copies of what other nodes' journals are about to have on the drives, kept in memory.
//!
//! Where a group acknowledges from memory, a node gives each batch of its lanes to its *partners*, as a rule before it tells hosts of the writes in it ([`super::replication`], [`super::engine::Action::Keep`]), and
//! to the drives at the same time. When the node is gone, whoever recovers what it left gets all copies of its lanes and reads them with what the drives have
//! ([`super::journal::replay::Replay::with_copies`]): a batch is what it is wherever it is found, and its own numbers say whether it still counts. So a copy that is kept for too long does no harm.
//!
//! Owns the copies and who is asked for some; deliberately knows neither rows nor links. Memory is bounded: what finds no room is not kept, and its writer waits for the drives.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::icl::{SLOTS, Slot, SlotSet};

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
            self.bytes += copy.bytes.len();
            if let Some(known) = self.kept.insert(copy.name, copy) {
                self.bytes -= known.bytes.len();
            }
        }
        fits
    }

    /// Keeps a batch whose writer is gone, for whoever recovers it: whether or not there is room. What came from the writer itself, or came first, stays.
    pub fn collect(&mut self, copy: Copy) {
        let bytes = copy.bytes.len();
        if let Entry::Vacant(place) = self.kept.entry(copy.name) {
            place.insert(copy);
            self.bytes += bytes;
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

/// Whether other nodes are there to keep what a node writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Too few are: writes wait for the drives.
    Nobody,
    /// Fewer than wanted are, and enough to acknowledge what these keep.
    Few,
    /// As many as are wanted.
    All,
}

/// Who keeps what nodes write, as the operator wants it; the same at all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replication {
    /// Of how many nodes' memory a batch is to be in, the writer's counted; 1 where nothing is acknowledged from memory.
    copies: u8,
    /// While fewer nodes are there, as many as that will do.
    copies_min: u8,
    /// Which nodes may keep what the node in each slot writes.
    keepers: BySlot,
}

/// A set of nodes for the node in each slot.
type BySlot = [SlotSet; SLOTS];

fn index(slot: Slot) -> usize {
    usize::from(slot.number())
}

/// A writer has another partner instead of one.
#[derive(Clone, Copy, Debug)]
struct Move {
    writer: Slot,
    from: Slot,
    to: Slot,
}

/// Most chains of moves until all partners have as little to do as can be. Each makes the sum of the squares of how many writers nodes keep copies for smaller by two at least, and that is at
/// most eight times the square of seven.
const MOVES_MAX: usize = 8 * 7 * 7 / 2 + 1;

impl Replication {
    /// Batches are in the memory of so many nodes, any that serve the group.
    pub const fn new(copies: u8) -> Self {
        Self {
            copies,
            copies_min: copies,
            keepers: [SlotSet(u8::MAX); SLOTS],
        }
    }

    /// While fewer nodes are there, so many will do.
    #[must_use]
    pub const fn at_least(mut self, copies_min: u8) -> Self {
        self.copies_min = copies_min;
        self
    }

    /// What the node in a slot writes is kept by these nodes alone.
    #[must_use]
    pub fn kept_by(mut self, writer: Slot, keepers: SlotSet) -> Self {
        self.keepers[index(writer)] = keepers;
        self
    }

    /// Of how many nodes' memory a batch is to be in.
    pub const fn copies(&self) -> u8 {
        self.copies
    }

    /// Whether so many partners are as many as wanted.
    pub const fn keeping(&self, partners: SlotSet) -> Keeping {
        match partners.count() {
            0 => Keeping::Nobody,
            count if count + 1 < self.copies as u32 => Keeping::Few,
            _ => Keeping::All,
        }
    }

    /// Who keeps what a node writes: so many of the members that may, from the one behind it on, and then moved to others until all that have a choice are asked as often as each other
    /// (PROTOCOL H17).
    ///
    /// None if there are too few: writes wait for the drives then (H18).
    pub fn partners(&self, local: Slot, members: SlotSet) -> SlotSet {
        self.all_partners(members)[index(local)]
    }

    /// Whether any of the members has partners.
    pub fn is_of_use(&self, members: SlotSet) -> bool {
        let mut writers = members.iter();
        writers.any(|writer| self.next_behind(writer, members) != SlotSet::EMPTY)
    }

    /// The members that may keep what one of them writes.
    fn keepers_of(&self, writer: Slot, members: SlotSet) -> SlotSet {
        let keepers = self.keepers[index(writer)];
        keepers.and(members).without(writer)
    }

    /// Who keeps what each of the members writes.
    fn all_partners(&self, members: SlotSet) -> BySlot {
        let mut partners = [SlotSet::EMPTY; SLOTS];
        for writer in members.iter() {
            partners[index(writer)] = self.next_behind(writer, members);
        }
        for _ in 0..MOVES_MAX {
            let moves = self.moves_to_even(members, &partners);
            if moves.is_empty() {
                return partners;
            }
            for Move { writer, from, to } in moves {
                partners[index(writer)] = partners[index(writer)].without(from).with(to);
            }
        }
        unreachable!("they get more even each time")
    }

    /// The members behind one that may keep what it writes, as many as are wanted, or as there are if these will do.
    fn next_behind(&self, writer: Slot, members: SlotSet) -> SlotSet {
        let keepers = self.keepers_of(writer, members);
        let wanted = usize::from(self.copies.saturating_sub(1));
        let behind = keepers.iter().filter(|slot| slot.number() > writer.number());
        let before = keepers.iter().filter(|slot| slot.number() < writer.number());
        let chosen: SlotSet = behind.chain(before).take(wanted).collect();
        if chosen.count() + 1 < u32::from(self.copies_min) {
            return SlotSet::EMPTY;
        }
        chosen
    }

    /// The fewest moves that take a writer from one node and give another node one more, which has two fewer at least. None if no moves do that.
    fn moves_to_even(&self, members: SlotSet, partners: &BySlot) -> Vec<Move> {
        let asked = |keeper: Slot| {
            let asks = |writer: &Slot| partners[index(*writer)].contains(keeper);
            members.iter().filter(asks).count()
        };
        for first in members.iter() {
            let mut reached: [Option<Move>; SLOTS] = [None; SLOTS];
            let mut next = VecDeque::from([first]);
            // Ends: each member is reached once.
            while let Some(from) = next.pop_front() {
                for writer in members
                    .iter()
                    .filter(|writer| partners[index(*writer)].contains(from))
                {
                    let others = self.keepers_of(writer, members).minus(partners[index(writer)]);
                    for to in others.without(first).iter() {
                        if reached[index(to)].is_none() {
                            reached[index(to)] = Some(Move { writer, from, to });
                            next.push_back(to);
                        }
                        if asked(to) + 1 < asked(first) {
                            return way_to(to, &reached);
                        }
                    }
                }
            }
        }
        Vec::new()
    }
}

/// The moves by which a node was reached, the last one first.
fn way_to(to: Slot, reached: &[Option<Move>; SLOTS]) -> Vec<Move> {
    let last = reached[index(to)];
    std::iter::successors(last, |step| reached[index(step.from)]).collect()
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

    /// Who has to keep how many nodes' batches.
    fn asked(replication: &Replication, members: SlotSet) -> BTreeMap<Slot, u32> {
        let mut asked: BTreeMap<Slot, u32> = members.iter().map(|slot| (slot, 0)).collect();
        for local in members.iter() {
            for partner in replication.partners(local, members).iter() {
                *asked.get_mut(&partner).unwrap() += 1;
            }
        }
        asked
    }

    /// CHECKLIST C4, PROTOCOL H17, H18: every node has as many partners as each other, all different, none of them itself or one that does not serve the group; and if there are too few, none.
    #[test]
    fn partners_are_spread_evenly_over_nodes_that_serve_the_group() {
        let members = slots(&[0, 2, 3, 5, 7]);
        for copies in 1..=5 {
            let replication = Replication::new(copies);
            for local in members.iter() {
                let partners = replication.partners(local, members);
                assert!(!partners.contains(local) && members.covers(partners));
                assert_eq!(partners.count(), u32::from(copies - 1));
            }
            let asked = asked(&replication, members);
            let each = u32::from(copies - 1);
            assert!(asked.values().all(|count| *count == each), "{asked:?}");
        }
        assert_eq!(
            Replication::new(6).partners(slot(3), members),
            SlotSet::EMPTY,
            "there are four others"
        );
        assert_eq!(Replication::new(3).partners(slot(5), members), slots(&[7, 0]));
    }

    /// Nodes in replication groups, by slot, that send their copies to any of the others.
    fn in_groups(copies: u8, groups: &[u8]) -> Replication {
        let mut replication = Replication::new(copies);
        for (local, group) in (0..).zip(groups) {
            let others = (0..).zip(groups).filter(|(_, other)| *other != group);
            let keepers = others.map(|(other, _)| slot(other)).collect();
            replication = replication.kept_by(slot(local), keepers);
        }
        replication
    }

    /// Each way to put nodes in groups is named once: each number is at most one above those before it.
    fn next_grouping(groups: &mut [u8]) -> bool {
        for at in (1..groups.len()).rev() {
            let above = groups[..at].iter().max().unwrap() + 1;
            if groups[at] < above {
                groups[at] += 1;
                groups[at + 1..].fill(0);
                return true;
            }
        }
        false
    }

    /// CHECKLIST C4, C5, PROTOCOL H17, H18: for all ways to put six nodes in groups, of which any set lives: partners are in other groups, as many as there are copies but one, and nobody has to keep what two writers
    /// more than another one write that could do it as well. Groups of the same size keep equally much.
    #[test]
    fn partners_are_in_other_groups_and_spread_evenly() {
        let mut groups = [0_u8; 6];
        let mut even = 0;
        loop {
            for copies in 2..=4 {
                let replication = in_groups(copies, &groups);
                for members in (1..64).map(SlotSet) {
                    is_spread(&replication, &groups, members);
                    let sizes = |of: u8| {
                        let inside = |slot: &Slot| groups[usize::from(slot.number())] == of;
                        members.iter().filter(inside).count()
                    };
                    let mut sizes: Vec<usize> = (0..6).map(sizes).filter(|size| *size > 0).collect();
                    sizes.dedup();
                    let asked = asked(&replication, members);
                    if sizes.len() == 1 {
                        let first = asked.values().next().unwrap();
                        assert!(
                            asked.values().all(|count| count == first),
                            "{groups:?}, {members:?}: {asked:?}"
                        );
                        even += usize::from(*first > 0);
                    }
                }
            }
            if !next_grouping(&mut groups) {
                break;
            }
        }
        assert!(even > 1000, "{even}");
    }

    fn is_spread(replication: &Replication, groups: &[u8], members: SlotSet) {
        let group = |slot: Slot| groups[usize::from(slot.number())];
        let asked = asked(replication, members);
        for local in members.iter() {
            let may: SlotSet = members
                .iter()
                .filter(|slot| group(*slot) != group(local))
                .collect();
            let partners = replication.partners(local, members);
            assert!(may.covers(partners), "{groups:?}: {partners:?} for {local:?}");
            let wanted = u32::from(replication.copies() - 1);
            let expected = if may.count() < wanted { 0 } else { wanted };
            assert_eq!(partners.count(), expected, "{groups:?}, {members:?}");
            if expected > 0 {
                let most = partners.iter().map(|slot| asked[&slot]).max();
                let least = may.minus(partners).iter().map(|slot| asked[&slot]).min();
                assert!(
                    least.is_none_or(|least| most <= Some(least + 1)),
                    "{groups:?}, {members:?}: {asked:?}"
                );
            }
        }
    }

    /// CHECKLIST C5: given groups {0, 1} and {2, 3} and a rule from the one to the other, each of the two writers has a partner of its own there; the same where several groups send theirs to one.
    #[test]
    fn partners_are_where_the_operator_wants_them() {
        let members = slots(&[0, 1, 2, 3, 4]);
        let alone = Replication::new(2).kept_by(slot(0), slots(&[2, 3]));
        let replication = alone.kept_by(slot(1), slots(&[2, 3]));
        let both = [0, 1].map(|local| replication.partners(slot(local), members));
        assert_eq!(both[0].or(both[1]), slots(&[2, 3]), "{both:?}");
        assert_eq!(
            replication.partners(slot(0), slots(&[0, 1, 4])),
            SlotSet::EMPTY,
            "nobody else is asked instead"
        );
        assert!(replication.is_of_use(slots(&[0, 1, 4])), "slot 4 may ask any");
        assert!(!alone.is_of_use(slots(&[0])));
    }

    /// CHECKLIST A12, PROTOCOL H18: with fewer nodes than wanted as many as there are will do, down to the least; and that they are fewer is known.
    #[test]
    fn fewer_partners_do_down_to_the_least() {
        let replication = Replication::new(4).at_least(3);
        for (members, count, keeping) in [
            (&[0, 1, 2, 3, 4][..], 3, Keeping::All),
            (&[0, 1, 2, 3], 3, Keeping::All),
            (&[0, 1, 2], 2, Keeping::Few),
            (&[0, 1], 0, Keeping::Nobody),
            (&[0], 0, Keeping::Nobody),
        ] {
            let partners = replication.partners(slot(0), slots(members));
            assert_eq!(partners.count(), count, "{members:?}");
            assert_eq!(replication.keeping(partners), keeping, "{members:?}");
        }
        assert!(!Replication::new(1).is_of_use(slots(&[0, 1, 2])));
    }

    /// PROTOCOL H22: memory is bounded, and given back.
    #[test]
    fn what_finds_no_room_is_not_kept() {
        let mut copies = Copies::new(100);
        assert!(copies.keep(copy(name(1, 5), 0, 60)) && copies.keep(copy(name(2, 5), 0, 30)));
        assert!(!copies.keep(copy(name(1, 6), 5, 20)), "110 bytes");
        assert!(copies.keep(copy(name(1, 6), 6, 20)), "batch 5 is on the drives");
        copies.collect(copy(name(1, 6), 6, 50));
        assert_eq!(copies.bytes(), 50, "it is kept once, as it came first");
        copies.collect(copy(name(1, 7), 6, 70));
        assert_eq!(copies.bytes(), 120, "what a dead node needs is kept always");
        let names = |copies: &Copies, lanes| copies.of(lanes).map(|copy| copy.name).collect::<Vec<_>>();
        assert_eq!(names(&copies, 0b010), [name(1, 6), name(1, 7)]);
        copies.forget_retired(0b100, 51);
        assert_eq!(names(&copies, 0b110), [name(1, 6), name(1, 7)]);
        assert_eq!(copies.bytes(), 90);
        copies.forget_below(1, 8);
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
        asked.ask(name(0, 4));
        assert!(!asked.answered(name(0, 4), slot(1), true));
        for (name, by, why) in [
            (name(0, 4), 1, "the same one again"),
            (name(0, 4), 3, "one that was not asked"),
            (name(0, 5), 2, "what it was not asked"),
        ] {
            assert!(!asked.answered(name, slot(by), true), "{why}");
        }
        assert!(asked.answered(name(0, 4), slot(2), true));
        assert!(!asked.answered(name(0, 2), slot(1), false) && !asked.answered(name(0, 2), slot(2), true));
        asked.ask(name(0, 3));
        asked.enter(slots(&[2]));
        assert!(
            !asked.answered(name(0, 3), slot(2), true),
            "that was asked in another epoch"
        );
    }
}
