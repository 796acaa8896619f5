//! Puts an array together out of its sections.

use std::collections::BTreeSet;

use nvme::nqn::Nqn;

use crate::problem::Problems;
use crate::read::{ArrayParts, GroupDraft, Placed, RuleDraft, VdiskDraft};
use crate::{
    ARRAY_DRIVES_MAX, Array, ArrayDrive, Backing, COPIES, Drive, Durability, Group, Peer, RemoteShelf,
    Replication, Subsystem, default_serial, replication,
};

type Resolved = (Option<Array>, Vec<Placed<Drive>>, Vec<Placed<RemoteShelf>>);

/// The array, and the drives and shelves of the node: those of the array, if there is one.
pub(crate) fn resolve(
    parts: ArrayParts<'_>,
    drives: Vec<Placed<Drive>>,
    shelves: Vec<Placed<RemoteShelf>>,
    groups: &[Placed<GroupDraft<'_>>],
    problems: &mut Problems<'_>,
) -> Resolved {
    let ArrayParts { array, peers, rules } = parts;
    let Some(draft) = array else {
        check_alone(&peers, &rules, groups, problems);
        return (None, drives, shelves);
    };
    let slots = slots_of(draft.value.slot, &peers, problems);
    let rules = replication::rules(&draft, &peers, rules, problems);
    let Placed { value: draft, at } = draft;
    let (shared, own): (Vec<_>, Vec<_>) = drives
        .into_iter()
        .partition(|drive| matches!(drive.value.backing, Backing::Shelf(_)));
    if shared.is_empty() || shared.len() > ARRAY_DRIVES_MAX {
        let what = format!("[array] has {} drives of shelves", shared.len());
        let remedy = format!(
            "write a [[drive]] section with shelf and nsid for each of its drives, 1 to {ARRAY_DRIVES_MAX}"
        );
        problems.push(&at, what, remedy);
    }
    check_shared_groups(groups, &own, problems);
    check_nodes(groups, &slots, problems);
    check_copies(groups, &slots, problems);
    replication::check_copies_min(groups, problems);
    let are_rules_sound = rules.is_some();
    let (kept, kept_shelves) = (shared.clone(), shelves.clone());
    let drives = shared.into_iter().filter_map(|drive| {
        let Backing::Shelf(place) = drive.value.backing else {
            return None;
        };
        let shelf = shelves.iter().position(|shelf| shelf.value.name == place.shelf)?;
        Some(ArrayDrive {
            name: drive.value.name,
            shelf: u16::try_from(shelf).ok()?,
            namespace: place.namespace,
        })
    });
    let array = Array {
        name: draft.name,
        slot: draft.slot,
        key_file: draft.key_file,
        listen: draft.listen,
        failures: draft.failures,
        encryption: draft.encryption,
        peers: peers.into_iter().map(|peer| peer.value).collect(),
        replication_group: draft.replication_group,
        replication_rules: rules.unwrap_or_default(),
        drives: drives.collect(),
        shelves: shelves.into_iter().map(|shelf| shelf.value).collect(),
    };
    if are_rules_sound {
        replication::check_keepers(groups, &array, problems);
    }
    (Some(array), kept, kept_shelves)
}

/// What virtual disks of an array may be.
pub(crate) fn check_vdisks(
    groups: &[Group],
    vdisks: &[Placed<VdiskDraft<'_>>],
    array: Option<&Array>,
    problems: &mut Problems<'_>,
) {
    check_ports(groups, vdisks, array, problems);
    check_replication(groups, vdisks, array.is_some(), problems);
}

/// Only what is acknowledged from the memory of several nodes has a choice when that is.
fn check_replication(
    groups: &[Group],
    vdisks: &[Placed<VdiskDraft<'_>>],
    has_array: bool,
    problems: &mut Problems<'_>,
) {
    for Placed { value: vdisk, .. } in vdisks {
        let asked = vdisk.replication.as_ref();
        let Some((_, at)) = asked.filter(|(replication, _)| *replication != Replication::Sync) else {
            continue;
        };
        let group = vdisk.group.as_ref().map(|(name, _)| *name);
        let group = groups.iter().find(|known| Some(known.name.as_str()) == group);
        if group.is_some_and(|group| !has_array || group.durability != Some(Durability::Ram)) {
            let what = format!(
                "[[vdisk]] {:?}: its group acknowledges nothing from the memory of several nodes",
                vdisk.name
            );
            problems.push(
                at,
                what,
                "leave replication out, or take a group of an [array] with durability = \"ram\"",
            );
        }
    }
}

/// The slots of the array's nodes.
fn slots_of(own: u8, peers: &[Placed<Peer>], problems: &mut Problems<'_>) -> BTreeSet<u8> {
    let mut slots = BTreeSet::from([own]);
    for peer in peers {
        if !slots.insert(peer.value.slot) {
            let what = format!("[[peer]]: slot {} is taken by another node", peer.value.slot);
            problems.push(&peer.at, what, "give each node of the array a slot of its own");
        }
    }
    slots
}

/// Ports of virtual disks are at nodes that there are, and that serve the group.
fn check_ports(
    groups: &[Group],
    vdisks: &[Placed<VdiskDraft<'_>>],
    array: Option<&Array>,
    problems: &mut Problems<'_>,
) {
    for Placed { value: vdisk, .. } in vdisks {
        let Some((ports, at)) = &vdisk.ports else { continue };
        let title = format!("[[vdisk]] {:?}", vdisk.name);
        let Some(array) = array else {
            let what = format!("{title}: ports name nodes of an array, and there is no [array]");
            problems.push(at, what, "leave ports out: this node serves it");
            continue;
        };
        let slots: BTreeSet<u8> = array
            .peers
            .iter()
            .map(|peer| peer.slot)
            .chain([array.slot])
            .collect();
        let group = vdisk.group.as_ref().map(|(name, _)| *name);
        let group = groups.iter().find(|known| Some(known.name.as_str()) == group);
        let nodes = group.and_then(|group| group.nodes.as_ref());
        let serves = |port: &u8| nodes.is_none_or(|nodes| nodes.contains(port));
        let mut seen = BTreeSet::new();
        for port in ports {
            if !slots.contains(port) {
                let what = format!("{title}: no node of the array has slot {port}");
                let known: Vec<String> = slots.iter().map(u8::to_string).collect();
                problems.push(at, what, format!("its nodes have the slots {}", known.join(", ")));
            } else if !serves(port) {
                let what = format!("{title}: the node in slot {port} does not serve its group");
                problems.push(
                    at,
                    what,
                    "name nodes of the group's own `nodes`, or leave ports out",
                );
            } else if !seen.insert(port) {
                problems.push(
                    at,
                    format!("{title}: ports names slot {port} twice"),
                    "name each once",
                );
            }
        }
    }
}

/// What a node without an array, and groups of it, cannot have.
fn check_alone(
    peers: &[Placed<Peer>],
    rules: &[Placed<RuleDraft<'_>>],
    groups: &[Placed<GroupDraft<'_>>],
    problems: &mut Problems<'_>,
) {
    if let Some(peer) = peers.first() {
        let what = "[[peer]] is another node of an array, and there is no [array]";
        problems.push(&peer.at, what, "write an [array] section, or remove this one");
    }
    if let Some(rule) = rules.first() {
        let what = "[[replication_rule]] is about nodes of an array, and there is no [array]";
        problems.push(&rule.at, what, "write an [array] section, or remove this one");
    }
    for Placed { value: group, .. } in groups {
        if let Some((_, at)) = &group.nodes {
            let what = format!("[[group]] {:?} names nodes, and there is no [array]", group.name);
            problems.push(at, what, "leave nodes out: the group is this node's alone");
        }
        if let Some((_, at)) = &group.copies {
            let what = format!("[[group]] {:?} has copies, and there is no [array]", group.name);
            problems.push(at, what, "leave copies out: no other node is there to keep any");
        }
        if let Some((_, at)) = &group.copies_min {
            let what = format!(
                "[[group]] {:?} has min_copies, and there is no [array]",
                group.name
            );
            problems.push(
                at,
                what,
                "leave min_copies out: no other node is there to keep any",
            );
        }
    }
}

/// What groups of an array's drives cannot have.
fn check_shared_groups(
    groups: &[Placed<GroupDraft<'_>>],
    own: &[Placed<Drive>],
    problems: &mut Problems<'_>,
) {
    for drive in own {
        let what = format!(
            "[[drive]]: {:?} is this node's alone, and the groups of a node with an [array] are shared",
            drive.value.name
        );
        problems.push(
            &drive.at,
            what,
            "serve groups that nobody shares with another `braid node`, which has no [array]",
        );
    }
    for Placed { value: group, at } in groups {
        if !group.spares.is_empty() {
            let what = format!(
                "[[group]]: {:?} has spares, and a shared group takes none yet",
                group.name
            );
            problems.push(at, what, "leave spares out");
        }
    }
}

/// As many copies as nodes serve the group, at most; and only what is acknowledged from memory has any.
fn check_copies(groups: &[Placed<GroupDraft<'_>>], slots: &BTreeSet<u8>, problems: &mut Problems<'_>) {
    for Placed { value: group, .. } in groups {
        let is_ram = matches!(group.durability, Some((Durability::Ram, _)));
        let nodes = group.nodes.as_ref().map_or(slots.len(), |(nodes, _)| nodes.len());
        let most = u8::try_from(nodes).unwrap_or(u8::MAX);
        match (&group.copies, &group.durability) {
            (Some((_, at)), _) if !is_ram => {
                let what = format!(
                    "[[group]] {:?} has copies, and acknowledges nothing from memory",
                    group.name
                );
                problems.push(at, what, "leave copies out, or write durability = \"ram\"");
            }
            (Some((copies, at)), _) if *copies > most => {
                let what = format!(
                    "[[group]] {:?}: {copies} copies of each write, and {most} nodes serve it",
                    group.name
                );
                problems.push(at, what, "write at most as many copies as nodes");
            }
            (None, Some((Durability::Ram, at))) if most < COPIES => {
                let what = format!(
                    "[[group]] {:?} acknowledges writes that two nodes have in memory, and one serves it",
                    group.name
                );
                problems.push(at, what, "leave durability out, or have more nodes serve it");
            }
            (Some(_) | None, _) => {}
        }
    }
}

/// Who serves a group is a node of the array.
fn check_nodes(groups: &[Placed<GroupDraft<'_>>], slots: &BTreeSet<u8>, problems: &mut Problems<'_>) {
    for Placed { value: group, .. } in groups {
        let Some((nodes, at)) = &group.nodes else { continue };
        let is_slot = |node: &usize| slots.iter().any(|slot| usize::from(*slot) == *node);
        if let Some(node) = nodes.iter().find(|node| !is_slot(node)) {
            let what = format!("[[group]] {:?}: no node has slot {node}", group.name);
            problems.push(at, what, "write slots of this node and of [[peer]] sections");
        }
        let all: BTreeSet<&usize> = nodes.iter().collect();
        if all.len() < nodes.len() {
            let what = format!("[[group]] {:?} names a node twice", group.name);
            problems.push(at, what, "write each slot once");
        }
    }
}

/// All nodes that share groups are one subsystem to hosts: what is not said of it follows from the array's name.
pub(crate) fn subsystem_of(subsystem: Subsystem, node: &str, array: Option<&Array>) -> Subsystem {
    let Some(array) = array else { return subsystem };
    let named = |name: &str| Nqn::parse(&format!("nqn.2026-01.io.braid:{name}")).ok();
    if Some(&subsystem.nqn) != named(node).as_ref() {
        return subsystem;
    }
    let Some(nqn) = named(&format!("array:{}", array.name)) else {
        return subsystem;
    };
    let has_serial = subsystem.serial != default_serial(&subsystem.nqn);
    Subsystem {
        serial: if has_serial {
            subsystem.serial
        } else {
            default_serial(&nqn)
        },
        nqn,
        ..subsystem
    }
}
