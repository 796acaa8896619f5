//! Which members of an epoch serve which groups: each tells all others when the epoch begins, and from that every one of them finds the same (patent Figure 8).
//!
//! The groups of a life never change, and who is a member is decided; so nothing else has to be agreed on. A group is led by one of those that serve it, and
//! nodes that do not serve it hear nothing of it.
//!
//! On the wire the names follow one another: number of bytes 1, bytes.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::amf::superblock::Name;
use crate::icl::{Slot, SlotSet};

/// Groups of a node at most.
const GROUPS_MAX: usize = 128;

/// Bytes are no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a node tells which groups it serves, and {0} is none")]
pub struct RollError(&'static str);

/// See the module.
#[derive(Clone, Debug)]
pub struct Roll {
    local: Slot,
    own: BTreeSet<Name>,
    members: SlotSet,
    /// Those that were members of an epoch before, as the record has it.
    seniors: SlotSet,
    told: BTreeMap<Slot, BTreeSet<Name>>,
}

impl Roll {
    /// A node that serves these groups, and is in no epoch.
    pub fn new(local: Slot, own: impl IntoIterator<Item = Name>) -> Self {
        Self {
            local,
            own: own.into_iter().collect(),
            members: SlotSet::EMPTY,
            seniors: SlotSet::EMPTY,
            told: BTreeMap::new(),
        }
    }

    /// An epoch begins. What this node has to tell all others is [`Self::encode`].
    pub fn enter(&mut self, members: SlotSet, seniors: SlotSet) {
        (self.members, self.seniors) = (members, seniors);
        self.told.clear();
        self.told.insert(self.local, self.own.clone());
    }

    /// What this node tells.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for name in &self.own {
            let text = name.as_str().as_bytes();
            bytes.push(u8::try_from(text.len()).expect("a name has at most 63 bytes"));
            bytes.extend_from_slice(text);
        }
        bytes
    }

    /// Another member tells.
    pub fn heard(&mut self, from: Slot, mut bytes: &[u8]) -> Result<(), RollError> {
        let mut names = BTreeSet::new();
        while let Some((length, rest)) = bytes.split_first() {
            let (text, rest) = rest
                .split_at_checked(usize::from(*length))
                .ok_or(RollError("a cut name"))?;
            let name = str::from_utf8(text).ok().and_then(|text| Name::parse(text).ok());
            names.insert(name.ok_or(RollError("a text that is no name"))?);
            bytes = rest;
        }
        if names.len() > GROUPS_MAX {
            return Err(RollError("their number"));
        }
        if self.members.contains(from) {
            self.told.insert(from, names);
        }
        Ok(())
    }

    /// Whether all members have told.
    pub fn is_whole(&self) -> bool {
        self.members.iter().all(|slot| self.told.contains_key(&slot))
    }

    /// Who serves a group, of those that have told.
    pub fn sharers(&self, group: &Name) -> SlotSet {
        let told = self.told.iter().filter(|(_, names)| names.contains(group));
        told.map(|(slot, _)| *slot).collect()
    }

    /// Who leads a group: the lowest slot of those that serve it and were members before, for they may have it open; else of all that serve it.
    pub fn leader(&self, group: &Name) -> Option<Slot> {
        let sharers = self.sharers(group);
        let seniors = sharers.iter().find(|slot| self.seniors.contains(*slot));
        seniors.or_else(|| sharers.iter().next())
    }

    /// Everybody who leads a group.
    pub fn leaders(&self) -> SlotSet {
        let all: BTreeSet<&Name> = self.told.values().flatten().collect();
        all.into_iter().filter_map(|group| self.leader(group)).collect()
    }

    /// Whether all members serve the same groups.
    pub fn is_even(&self) -> bool {
        self.told.values().all(|names| *names == self.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u8) -> Slot {
        Slot::new(number).expect("an array has that slot")
    }

    fn slots(numbers: &[u8]) -> SlotSet {
        numbers.iter().map(|number| slot(*number)).collect()
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn names(texts: &[&str]) -> Vec<Name> {
        texts.iter().map(|text| name(text)).collect()
    }

    /// Three nodes as in Figure 8: Y is everybody's, G two nodes', T one's.
    fn figure(local: u8) -> Roll {
        let of = |node: u8| match node {
            0 => names(&["y", "g", "t"]),
            1 => names(&["y"]),
            _ => names(&["y", "g"]),
        };
        let mut roll = Roll::new(slot(local), of(local));
        roll.enter(slots(&[0, 1, 2]), slots(&[1, 2]));
        for other in (0..3).filter(|other| *other != local) {
            assert!(!roll.is_whole());
            let told = Roll::new(slot(other), of(other)).encode();
            roll.heard(slot(other), &told).unwrap();
        }
        assert!(roll.is_whole());
        roll
    }

    /// CHECKLIST A8.
    #[test]
    fn all_members_find_the_same_sharers_and_leaders() {
        for local in 0..3 {
            let roll = figure(local);
            assert_eq!(roll.sharers(&name("y")), slots(&[0, 1, 2]));
            assert_eq!(roll.sharers(&name("g")), slots(&[0, 2]));
            assert_eq!(roll.sharers(&name("t")), slots(&[0]));
            assert_eq!(roll.sharers(&name("x")), SlotSet::EMPTY);
            assert_eq!(
                roll.leader(&name("y")),
                Some(slot(1)),
                "the lowest that was one before"
            );
            assert_eq!(roll.leader(&name("g")), Some(slot(2)));
            assert_eq!(roll.leader(&name("t")), Some(slot(0)), "there is no other");
            assert_eq!(roll.leader(&name("x")), None);
            assert_eq!(roll.leaders(), slots(&[0, 1, 2]));
            assert!(!roll.is_even());
        }
    }

    #[test]
    fn an_epoch_begins_with_nothing_told() {
        let mut roll = figure(0);
        roll.enter(slots(&[0, 2]), slots(&[0, 2]));
        assert!(!roll.is_whole());
        // Who is no member has no say.
        roll.heard(slot(1), &Roll::new(slot(1), names(&["y"])).encode())
            .unwrap();
        assert!(!roll.is_whole());
        roll.heard(slot(2), &Roll::new(slot(2), names(&["y", "g"])).encode())
            .unwrap();
        assert!(roll.is_whole());
        assert_eq!(roll.sharers(&name("y")), slots(&[0, 2]));
        roll.enter(slots(&[0]), slots(&[0]));
        assert!(roll.is_whole() && roll.is_even());
    }

    #[test]
    fn bytes_that_are_no_names_are_refused() {
        let mut roll = Roll::new(slot(0), names(&["y"]));
        roll.enter(slots(&[0, 1]), SlotSet::EMPTY);
        let sound = Roll::new(slot(1), names(&["alpha", "b"])).encode();
        for end in [1, 3, sound.len() - 1] {
            assert!(roll.heard(slot(1), &sound[..end]).is_err(), "{end} bytes");
        }
        assert!(roll.heard(slot(1), &[0]).is_err(), "an empty name");
        assert!(roll.heard(slot(1), b"\x01/").is_err(), "a byte that no name has");
        let many: Vec<u8> = (0..=GROUPS_MAX)
            .flat_map(|at| format!("\x03{at:03}").into_bytes())
            .collect();
        assert!(roll.heard(slot(1), &many).is_err(), "too many");
        assert!(!roll.is_whole(), "nothing was taken from any of them");
        roll.heard(slot(1), &[]).unwrap();
        assert!(roll.is_whole(), "a node may serve none");
    }
}
