//! Which nodes of an array keep copies of what others acknowledge from memory: replication groups, and rules between them.

use std::collections::BTreeSet;

use crate::problem::{Problems, nearest, quoted};
use crate::read::{ArrayDraft, GroupDraft, Placed, RuleDraft};
use crate::{Array, COPIES, Durability, Group, Peer, ReplicationRule};

impl Array {
    /// The replication group of the node in a slot.
    fn replication_group_of(&self, slot: u8) -> Option<&str> {
        if slot == self.slot {
            return self.replication_group.as_deref();
        }
        let peer = self.peers.iter().find(|peer| peer.slot == slot);
        peer.and_then(|peer| peer.replication_group.as_deref())
    }

    /// Slots of the nodes, ascending.
    fn slots(&self) -> BTreeSet<u8> {
        let peers = self.peers.iter().map(|peer| peer.slot);
        peers.chain([self.slot]).collect()
    }

    /// Slots of the nodes that may keep what the node in a slot acknowledges from memory, ascending: those of other replication groups, or of the groups that a rule names; all others where
    /// there are no groups.
    pub fn keepers_of(&self, slot: u8) -> Vec<u8> {
        let others = self.slots().into_iter().filter(|other| *other != slot);
        let Some(own) = self.replication_group_of(slot) else {
            return others.collect();
        };
        let rule = self.replication_rules.iter().find(|rule| rule.from == own);
        let may_keep = |other: &u8| {
            let group = self.replication_group_of(*other);
            let is_named = |group: &str| rule.is_none_or(|rule| rule.to.iter().any(|to| to == group));
            group.is_some_and(|group| group != own && is_named(group))
        };
        others.filter(may_keep).collect()
    }

    /// What the files of all nodes have to say alike, because each node works out from it who keeps what any of them acknowledges from memory: replication groups, rules, and how many copies the
    /// redundancy groups have that acknowledge from memory. The order of sections does not matter, nor do nodes without a replication group.
    pub fn replication_terms(&self, groups: &[Group]) -> String {
        let mut terms = Vec::new();
        for slot in self.slots() {
            let group = self.replication_group_of(slot);
            terms.extend(group.map(|group| format!("slot {slot} is in {group:?}")));
        }
        for ReplicationRule { from, to } in &self.replication_rules {
            let to: BTreeSet<&String> = to.iter().collect();
            terms.push(format!("from {from:?} to {to:?}"));
        }
        let in_memory = |group: &&Group| group.durability == Some(Durability::Ram);
        for Group {
            name,
            copies,
            copies_min,
            ..
        } in groups.iter().filter(in_memory)
        {
            terms.push(format!(
                "group {name:?} has {copies} copies, {copies_min} at least"
            ));
        }
        terms.sort();
        terms.join("; ")
    }
}

/// The rules, if all nodes are in groups, or none, and the rules name these. What is wrong with them is reported.
pub(crate) fn rules(
    array: &Placed<ArrayDraft>,
    peers: &[Placed<Peer>],
    rules: Vec<Placed<RuleDraft<'_>>>,
    problems: &mut Problems<'_>,
) -> Option<Vec<ReplicationRule>> {
    let mut nodes = vec![(
        array.value.slot,
        array.value.replication_group.as_deref(),
        &array.at,
    )];
    nodes.extend(
        peers
            .iter()
            .map(|Placed { value: peer, at }| (peer.slot, peer.replication_group.as_deref(), at)),
    );
    let names: BTreeSet<&str> = nodes.iter().filter_map(|(_, group, _)| *group).collect();
    let mut is_sound = true;
    if let Some(example) = names.first() {
        for (slot, _, at) in nodes.iter().filter(|(_, group, _)| group.is_none()) {
            let what = format!("the node in slot {slot} has no replication_group, and others have one");
            let remedy = format!(
                "add a line such as replication_group = {}, or leave it out everywhere",
                quoted(example)
            );
            problems.push(at, what, remedy);
            is_sound = false;
        }
    }
    let mut known: Vec<ReplicationRule> = Vec::new();
    for Placed { value: rule, at } in rules {
        let is_known = |name: &(&str, _)| names.contains(name.0);
        for (name, at) in rule.to.iter().chain([&rule.from]).filter(|name| !is_known(name)) {
            is_sound = false;
            let what = format!(
                "[[replication_rule]]: no node has replication_group = {}",
                quoted(name)
            );
            problems.push(at, what, remedy_of(name, &names));
        }
        let from = rule.from.0;
        if known.iter().any(|known| known.from == from) {
            is_sound = false;
            let what = format!("[[replication_rule]]: there is another one from {}", quoted(from));
            problems.push(&at, what, "write one, whose `to` names all groups");
        }
        let mut seen = BTreeSet::new();
        for (name, at) in &rule.to {
            if *name == from {
                is_sound = false;
                let what = format!(
                    "[[replication_rule]]: {} sends its copies to itself",
                    quoted(name)
                );
                problems.push(at, what, "name other groups: a whole one may be gone at once");
            } else if !seen.insert(*name) {
                let what = format!("[[replication_rule]]: to names {} twice", quoted(name));
                problems.push(at, what, "name each group once");
            }
        }
        known.push(ReplicationRule {
            from: from.to_owned(),
            to: rule.to.iter().map(|(name, _)| (*name).to_owned()).collect(),
        });
    }
    is_sound.then_some(known)
}

fn remedy_of(name: &str, names: &BTreeSet<&str>) -> String {
    match nearest(name, names.iter().copied()) {
        Some(known) => format!("did you mean {}?", quoted(known)),
        None if names.is_empty() => "write replication_group in [array] and in each [[peer]]".to_owned(),
        None => {
            let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
            format!("the nodes are in {}", names.join(", "))
        }
    }
}

/// Each node that serves a group which acknowledges from memory has as many others that may keep its copies as it needs, when all are there.
pub(crate) fn check_keepers(groups: &[Placed<GroupDraft<'_>>], array: &Array, problems: &mut Problems<'_>) {
    for Placed { value: group, .. } in groups {
        let Some((Durability::Ram, ram_at)) = &group.durability else {
            continue;
        };
        let (copies, at) = group
            .copies
            .as_ref()
            .map_or((COPIES, ram_at), |(copies, at)| (*copies, at));
        let serving: BTreeSet<u8> = match &group.nodes {
            Some((nodes, _)) => nodes.iter().filter_map(|node| u8::try_from(*node).ok()).collect(),
            None => array.slots(),
        };
        // Too few nodes at all is reported elsewhere.
        let is_possible = usize::from(copies) <= serving.len();
        let mut told = BTreeSet::new();
        for slot in serving.iter().copied().filter(|_| is_possible) {
            let Some(own) = array.replication_group_of(slot) else {
                continue;
            };
            let keepers = array.keepers_of(slot);
            let count = keepers.iter().filter(|keeper| serving.contains(keeper)).count();
            if count + 1 >= usize::from(copies) || !told.insert(own) {
                continue;
            }
            let title = format!("[[group]] {:?}", group.name);
            let (what, remedy) = if count == 0 {
                (
                    format!(
                        "{title}: no node that serves it may keep copies of replication group {}",
                        quoted(own)
                    ),
                    "have nodes of other replication groups serve it, or change the [[replication_rule]]"
                        .to_owned(),
                )
            } else {
                (
                    format!(
                        "{title}: {copies} copies of each write, and of the other nodes that serve it only {count} may keep those of replication group {}",
                        quoted(own)
                    ),
                    format!(
                        "write copies = {}, or a [[replication_rule]] to more groups",
                        count + 1
                    ),
                )
            };
            problems.push(at, what, remedy);
        }
    }
}

/// The least number of copies is one of at least two nodes, and of no more than are wanted.
pub(crate) fn check_copies_min(groups: &[Placed<GroupDraft<'_>>], problems: &mut Problems<'_>) {
    for Placed { value: group, .. } in groups {
        let Some((least, at)) = &group.copies_min else {
            continue;
        };
        let title = format!("[[group]] {:?}", group.name);
        let copies = group.copies.as_ref().map_or(COPIES, |(copies, _)| *copies);
        if !matches!(group.durability, Some((Durability::Ram, _))) {
            let what = format!("{title} has min_copies, and acknowledges nothing from memory");
            problems.push(at, what, "leave min_copies out, or write durability = \"ram\"");
        } else if *least < COPIES {
            let what = format!(
                "{title}: with min_copies = {least} writes would be acknowledged that one node alone has in memory"
            );
            problems.push(at, what, "write at least 2, or leave it out: then writes wait for the drives while there are fewer nodes than copies");
        } else if *least > copies {
            let what = format!("{title}: min_copies = {least}, and each write has {copies} copies");
            problems.push(at, what, "write at most as many as copies");
        }
    }
}
