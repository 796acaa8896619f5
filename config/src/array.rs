//! Puts an array together out of its sections.

use std::collections::BTreeSet;

use nvme::nqn::Nqn;

use crate::problem::Problems;
use crate::read::{ArrayDraft, GroupDraft, Placed};
use crate::{
    ARRAY_DRIVES_MAX, Array, ArrayDrive, Backing, Drive, Durability, Peer, RemoteShelf, Subsystem,
    default_serial,
};

type Resolved = (Option<Array>, Vec<Placed<Drive>>, Vec<Placed<RemoteShelf>>);

/// The array, and the drives and shelves of the node: those of the array, if there is one.
pub(crate) fn resolve(
    draft: Option<Placed<ArrayDraft>>,
    peers: Vec<Placed<Peer>>,
    drives: Vec<Placed<Drive>>,
    shelves: Vec<Placed<RemoteShelf>>,
    groups: &[Placed<GroupDraft<'_>>],
    problems: &mut Problems<'_>,
) -> Resolved {
    let Some(Placed { value: draft, at }) = draft else {
        if let Some(peer) = peers.first() {
            let what = "[[peer]] is another node of an array, and there is no [array]";
            problems.push(&peer.at, what, "write an [array] section, or remove this one");
        }
        for (group, nodes_at) in groups
            .iter()
            .filter_map(|group| Some((group, &group.value.nodes.as_ref()?.1)))
        {
            let what = format!(
                "[[group]] {:?} names nodes, and there is no [array]",
                group.value.name
            );
            problems.push(nodes_at, what, "leave nodes out: the group is this node's alone");
        }
        return (None, drives, shelves);
    };
    let mut slots = BTreeSet::from([draft.slot]);
    for peer in &peers {
        if !slots.insert(peer.value.slot) {
            let what = format!("[[peer]]: slot {} is taken by another node", peer.value.slot);
            problems.push(&peer.at, what, "give each node of the array a slot of its own");
        }
    }
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
        drives: drives.collect(),
        shelves: shelves.into_iter().map(|shelf| shelf.value).collect(),
    };
    (Some(array), kept, kept_shelves)
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
        if let Some((Durability::Ram, at)) = &group.durability {
            let what = format!(
                "[[group]]: {:?} acknowledges writes from memory, and a shared group does not do that yet",
                group.name
            );
            problems.push(at, what, "leave durability out: shared groups have a journal");
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
