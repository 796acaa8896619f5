//! Which node arbitrates a resource: rules that every member applies to what the epoch record says, so that all agree without a word.
//!
//! A rule changes only with an epoch (PROTOCOL H11). What is switched is thrown away and rebuilt from what the members report.

use super::name::Resource;
use crate::icl::membership::record::ArbiterRule;
use crate::icl::{SLOTS, Slot, SlotSet};

/// Places the arbiters of all resources.
pub trait Placement {
    /// Who arbitrates a resource when an epoch begins, and again whenever nobody holds or wants it. Of these members, who are not none.
    fn home(&self, resource: Resource, members: SlotSet) -> Slot;

    /// Whether the arbitership of a resource moves to whoever is granted it for writing.
    fn travels(&self) -> bool {
        false
    }
}

/// Adjacent resources that share an arbiter under the rules that spread resources, so that a prefetch rides in one grant (B19).
pub const RUN: u64 = 64;

/// 2^64 divided by the golden ratio: multiples of it are spread as evenly as can be.
///
/// Source: Knuth, "The Art of Computer Programming", volume 3, section 6.4, theorem S.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads runs of resources over the numbers below 2^32.
const fn spread(resource: Resource) -> u64 {
    (resource.0 / RUN).wrapping_mul(GOLDEN) >> 32
}

fn member(members: SlotSet, index: u64) -> Slot {
    let index = usize::try_from(index).expect("an array has few slots");
    members.iter().nth(index).expect("an index below the count")
}

fn lowest(members: SlotSet) -> Slot {
    members.first().expect("an epoch has members")
}

/// The last node that wrote arbitrates, so that whoever writes alone asks nobody: for one or two members. At first, and while nobody
/// holds a resource, it is the lower slot.
///
/// Source: US patent application in `seed/`, Figure 19.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LastWriter;

impl Placement for LastWriter {
    fn home(&self, _: Resource, members: SlotSet) -> Slot {
        assert!(
            members.count() <= 2,
            "with more members, who arbitrates would have to be searched for"
        );
        lowest(members)
    }

    fn travels(&self) -> bool {
        true
    }
}

/// A fixed map of the number of members and the resource: for more than two members.
///
/// Source: US patent application in `seed/`, Figure 20.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FixedMap;

impl Placement for FixedMap {
    fn home(&self, resource: Resource, members: SlotSet) -> Slot {
        // The upper half of a product with the count is an even share of it.
        member(members, (spread(resource) * u64::from(members.count())) >> 32)
    }
}

/// One node arbitrates everything; the lowest member while it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SingleArbiter(pub Slot);

impl Placement for SingleArbiter {
    fn home(&self, _: Resource, members: SlotSet) -> Slot {
        if members.contains(self.0) {
            self.0
        } else {
            lowest(members)
        }
    }
}

/// Each node arbitrates in proportion to its share, indexed by slot: for nodes of unequal load. Members of share 0 arbitrate nothing, unless all have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Balanced(pub [u8; SLOTS]);

impl Placement for Balanced {
    fn home(&self, resource: Resource, members: SlotSet) -> Slot {
        let share = |slot: Slot| u64::from(self.0[slot.index()]);
        let whole: u64 = members.iter().map(share).sum();
        if whole == 0 {
            return FixedMap.home(resource, members);
        }
        let mut at = (spread(resource) * whole) >> 32;
        let mut all = members.iter();
        let found = all.find(|slot| {
            let left = at.checked_sub(share(*slot));
            at = left.unwrap_or(at);
            left.is_none()
        });
        found.expect("it is below the sum of all shares")
    }
}

/// The configured rule of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// See [`LastWriter`].
    LastWriter(LastWriter),
    /// See [`FixedMap`].
    FixedMap(FixedMap),
    /// See [`SingleArbiter`].
    SingleArbiter(SingleArbiter),
    /// See [`Balanced`].
    Balanced(Balanced),
}

impl Rule {
    /// What the patent prefers for so many members.
    pub const fn preferred(members: SlotSet) -> Self {
        if members.count() <= 2 {
            Self::LastWriter(LastWriter)
        } else {
            Self::FixedMap(FixedMap)
        }
    }

    /// The rule itself.
    pub const fn placement(&self) -> &dyn Placement {
        match self {
            Self::LastWriter(rule) => rule,
            Self::FixedMap(rule) => rule,
            Self::SingleArbiter(rule) => rule,
            Self::Balanced(rule) => rule,
        }
    }
}

impl From<ArbiterRule> for Rule {
    fn from(decided: ArbiterRule) -> Self {
        match decided {
            ArbiterRule::LastWriter => Self::LastWriter(LastWriter),
            ArbiterRule::Map => Self::FixedMap(FixedMap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(rule: Rule, members: SlotSet, rows: u64) -> [u64; SLOTS] {
        let mut load = [0; SLOTS];
        for row in 0..rows {
            load[rule.placement().home(Resource(row), members).index()] += 1;
        }
        load
    }

    /// B14: 10^5 rows on 3..8 members: loads differ by less than 20 %, whichever slots the members have. That all agree follows from
    /// a rule that looks at nothing but the record.
    #[test]
    fn b14_the_fixed_map_spreads_rows_evenly() {
        for members in (0..=u8::MAX).map(SlotSet).filter(|set| set.count() >= 3) {
            let load = shares(Rule::preferred(members), members, 100_000);
            let of_members = || members.iter().map(|slot| load[slot.index()]);
            let (least, most) = (of_members().min().unwrap(), of_members().max().unwrap());
            assert!(least * 12 > most * 10, "{members:?}: {load:?}");
            assert_eq!(of_members().sum::<u64>(), 100_000);
        }
    }

    #[test]
    fn neighbours_share_an_arbiter() {
        let members = SlotSet(0b1111);
        for run in 0..50 {
            let home = FixedMap.home(Resource(run * RUN), members);
            assert!((0..RUN).all(|at| FixedMap.home(Resource(run * RUN + at), members) == home));
        }
    }

    /// B14: other rules are possible.
    #[test]
    fn b14_other_rules_place_as_they_say() {
        let slot = |number| Slot::new(number).unwrap();
        let members = SlotSet(0b1011);
        let single = Rule::SingleArbiter(SingleArbiter(slot(1)));
        assert_eq!(shares(single, members, 500)[1], 500);
        assert_eq!(shares(single, SlotSet(0b1000), 500)[3], 500, "it is no member");
        let balanced = Rule::Balanced(Balanced([1, 3, 9, 0, 9, 9, 9, 9]));
        let load = shares(balanced, members, 100_000);
        assert_eq!(load[3], 0);
        assert!(
            (24_000..26_000).contains(&load[0]) && load[0] + load[1] == 100_000,
            "{load:?}"
        );
        let nobody = Rule::Balanced(Balanced([0; SLOTS]));
        assert_eq!(
            shares(nobody, members, 900),
            shares(Rule::FixedMap(FixedMap), members, 900)
        );
    }

    #[test]
    fn two_members_begin_with_the_lower_slot() {
        let rule = Rule::from(ArbiterRule::of(2));
        assert_eq!(rule, Rule::preferred(SlotSet(0b110)));
        assert_eq!(shares(rule, SlotSet(0b110), 9)[1], 9);
        assert!(rule.placement().travels() && !Rule::from(ArbiterRule::of(3)).placement().travels());
    }
}
