//! Puts an array together out of its sections, and takes its drives from those that are this node's alone.

use std::collections::BTreeSet;

use crate::problem::Problems;
use crate::read::{ArrayDraft, GroupDraft, Placed};
use crate::{ARRAY_DRIVES_MAX, Array, ArrayDrive, Backing, Drive, Peer, RemoteShelf};

type Resolved = (Option<Array>, Vec<Placed<Drive>>, Vec<Placed<RemoteShelf>>);

/// The array, and the drives and shelves that are left.
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
    for (name, at) in groups
        .iter()
        .flat_map(|group| group.value.drives.iter().flatten())
    {
        if shared.iter().any(|drive| drive.value.name == *name) {
            let what = format!(
                "[[group]]: drive {name:?} belongs to the array, and groups of an array are not served yet"
            );
            problems.push(at, what, "make groups of drives that are this node's alone");
        }
    }
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
    (Some(array), own, Vec::new())
}
