//! Which nodes and drives an epoch goes on with (PROTOCOL 3.4, step 3).
//!
//! Every member has to reach every drive in use and to hear every other member, the drives have to suffice for the data of each group, and
//! a majority of the voters has to be among them. Of what is possible, more redundancy is better, then more of the present members, then
//! more members, then the lower slots. Newcomers are let in only if that costs no drive ([`kept`]). All nodes that know the same choose the same.

use super::{DriveSet, Slot, SlotSet};

/// A node that could be a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its slot.
    pub slot: Slot,
    /// Drives that it reaches.
    pub reach: DriveSet,
    /// Nodes that it hears.
    pub hears: SlotSet,
    /// It is a member now.
    pub is_member: bool,
}

/// What a redundancy group needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its drives.
    pub drives: DriveSet,
    /// Drives without which there is no data.
    pub required: u32,
}

/// What any choice has to fulfil.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Drives that may be in use.
    pub drives: DriveSet,
    /// Drives that vote.
    pub voters: DriveSet,
    /// What the groups need.
    pub needs: &'a [Need],
}

/// Members and drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Slots of the members.
    pub slots: SlotSet,
    /// Drives in use.
    pub drives: DriveSet,
}

/// What keeps an array from going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// No majority of the voters is reached; these are missing.
    Voters(DriveSet),
    /// A group has too few drives; these are missing.
    Drives(DriveSet),
}

/// The best choice that contains all of `must`, if there is any.
pub fn choose(rules: Rules<'_>, candidates: &[Candidate], must: SlotSet) -> Option<Choice> {
    let all: SlotSet = candidates.iter().map(|candidate| candidate.slot).collect();
    let subsets = (1..=u8::MAX)
        .map(SlotSet)
        .filter(|slots| all.covers(*slots) && slots.covers(must));
    let possible = subsets.filter_map(|slots| score(rules, candidates, slots));
    possible.max_by_key(|(score, _)| *score).map(|(_, choice)| choice)
}

/// Drives that stay in use whoever is let in: those of the present members, or where there are none, as when an array starts, of whoever reaches most.
///
/// Newcomers that do not reach all of them would cost groups their redundancy; and a node that has just begun reaches one drive after the other.
pub fn kept(rules: Rules<'_>, candidates: &[Candidate]) -> Option<DriveSet> {
    let present: Vec<Candidate> = candidates.iter().filter(|one| one.is_member).copied().collect();
    if !present.is_empty() {
        return Some(choose(rules, &present, SlotSet::EMPTY)?.drives);
    }
    let alone = candidates.iter().map(|one| rules.drives.and(one.reach));
    let able = alone.filter(|drives| blocked(rules, *drives).is_none());
    able.max_by_key(|drives| (drives.count(), drives.0))
}

/// Why not even one node alone could go on that reaches these drives; `None` if it could.
pub fn blocked(rules: Rules<'_>, reach: DriveSet) -> Option<Blocked> {
    let drives = rules.drives.and(reach);
    if !drives.has_majority_of(rules.voters) {
        return Some(Blocked::Voters(rules.voters.minus(drives)));
    }
    let mut needs = rules.needs.iter();
    let short = needs.find(|need| need.drives.and(drives).count() < need.required)?;
    Some(Blocked::Drives(short.drives.minus(drives)))
}

/// Redundancy, present members, members, lower slots first: the higher the better.
type Score = (u32, u32, u32, u8);

fn score(rules: Rules<'_>, candidates: &[Candidate], slots: SlotSet) -> Option<(Score, Choice)> {
    let chosen = || {
        candidates
            .iter()
            .filter(|candidate| slots.contains(candidate.slot))
    };
    let hear_one_another = chosen().all(|one| one.hears.with(one.slot).covers(slots));
    let drives = chosen().fold(rules.drives, |drives, candidate| drives.and(candidate.reach));
    if !hear_one_another || blocked(rules, drives).is_some() {
        return None;
    }
    let surplus = |need: &Need| need.drives.and(drives).count() - need.required;
    let redundancy: u32 = rules.needs.iter().map(surplus).sum();
    let present = chosen().filter(|candidate| candidate.is_member).count();
    let present = u32::try_from(present).expect("at most eight");
    // Slot 0 is the most significant bit: with equal counts the lower slots win.
    let score = (redundancy, present, slots.count(), slots.0.reverse_bits());
    Some((score, Choice { slots, drives }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: [Need; 1] = [Need {
        drives: DriveSet(0b1111),
        required: 3,
    }];
    const RULES: Rules<'static> = Rules {
        drives: DriveSet(0b1111),
        voters: DriveSet(0b111),
        needs: &NEEDS,
    };

    fn node(number: u8, reach: u64, hears: u8) -> Candidate {
        Candidate {
            slot: Slot::new(number).unwrap(),
            reach: DriveSet(reach),
            hears: SlotSet(hears),
            is_member: true,
        }
    }

    fn chosen(candidates: &[Candidate]) -> Option<(u8, u64)> {
        choose(RULES, candidates, SlotSet::EMPTY).map(|choice| (choice.slots.0, choice.drives.0))
    }

    #[test]
    fn redundancy_comes_before_members() {
        assert_eq!(chosen(&[node(0, 0xf, 3), node(1, 0xf, 3)]), Some((0b11, 0b1111)));
        // A path that one node lost while others have it costs the node, not the drive.
        assert_eq!(chosen(&[node(0, 0x7, 3), node(1, 0xf, 3)]), Some((0b10, 0b1111)));
        // A drive that is lost by all is lost.
        assert_eq!(chosen(&[node(0, 0x7, 3), node(1, 0x7, 3)]), Some((0b11, 0b0111)));
    }

    #[test]
    fn members_hear_one_another() {
        let cut = [node(0, 0xf, 0b101), node(1, 0xf, 0b110), node(2, 0xf, 0b111)];
        assert_eq!(chosen(&cut), Some((0b101, 0b1111)), "the lower slot wins");
        let one_way = [node(0, 0xf, 0b11), node(1, 0xf, 0b10)];
        assert_eq!(chosen(&one_way), Some((0b01, 0b1111)));
        let must = choose(RULES, &one_way, SlotSet(0b10)).unwrap();
        assert_eq!(must.slots, SlotSet(0b10));
    }

    #[test]
    fn present_members_come_before_newcomers() {
        let newcomer = Candidate {
            is_member: false,
            ..node(0, 0xf, 0b101)
        };
        let nodes = [newcomer, node(1, 0xf, 0b110), node(2, 0xf, 0b111)];
        assert_eq!(chosen(&nodes), Some((0b110, 0b1111)));
        let heard = [
            Candidate {
                hears: SlotSet(7),
                ..newcomer
            },
            node(1, 0xf, 7),
            nodes[2],
        ];
        assert_eq!(chosen(&heard), Some((0b111, 0b1111)));
    }

    #[test]
    fn newcomers_cost_no_drives() {
        // Groups need nothing that membership knows of.
        let rules = Rules { needs: &[], ..RULES };
        let newcomer = |number, reach| Candidate {
            is_member: false,
            ..node(number, reach, 7)
        };
        let member = node(1, 0b1111, 7);
        let poor = [newcomer(0, 0b0011), member, newcomer(2, 0b1111)];
        assert_eq!(kept(rules, &poor), Some(DriveSet(0b1111)));
        // What no member reaches any more nobody has to reach.
        let lost = [newcomer(0, 0b0111), node(1, 0b0111, 7), node(2, 0b1111, 7)];
        assert_eq!(kept(rules, &lost), Some(DriveSet(0b0111)));
        // When an array starts, too little may be all that anybody has.
        let starting = [newcomer(0, 0b0011), newcomer(1, 0b0111), newcomer(2, 0b1000)];
        assert_eq!(kept(rules, &starting), Some(DriveSet(0b0111)));
        assert_eq!(kept(rules, &starting[2..]), None);
    }

    #[test]
    fn who_reaches_too_little_is_told_what_is_missing() {
        assert_eq!(chosen(&[node(0, 0b1001, 1)]), None);
        assert_eq!(
            blocked(RULES, DriveSet(0b1001)),
            Some(Blocked::Voters(DriveSet(0b110)))
        );
        assert_eq!(
            blocked(RULES, DriveSet(0b0011)),
            Some(Blocked::Drives(DriveSet(0b1100)))
        );
        assert_eq!(blocked(RULES, DriveSet(0b1101)), None);
    }
}
