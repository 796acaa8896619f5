//! Compares sections with one another: what is named twice, shared, missing or does not fit together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use crate::problem::{Problems, nearest, quoted};
use crate::read::{Draft, GroupDraft, Placed, VdiskDraft};
use crate::{
    Backing, Config, Drive, GROUP_VDISKS_MAX, Group, Listen, Node, Reactor, Subsystem, Vdisk, VdiskSize,
};

/// Metadata at both ends of a member in MiB.
const MEMBER_METADATA_MIB: u64 = 2;
/// Largest transfers that a core's memory must hold at the least, so that a few hosts never starve.
const TRANSFERS_MIN: u32 = 16;

/// Puts the draft together. What it returns is meaningless once a problem was reported.
pub(crate) fn config(draft: Draft<'_>, problems: &mut Problems<'_>) -> Config {
    let Draft {
        node,
        reactor,
        subsystem,
        listeners,
        drives,
        groups,
        vdisks,
    } = draft;
    memory(&reactor, &subsystem, problems);
    check_listeners(&listeners, problems);
    let drive_names = unique(
        "drive",
        drives.iter().map(|d| (d.value.name.as_str(), &d.at)),
        problems,
    );
    let group_names = unique("group", groups.iter().map(|g| (g.value.name, &g.at)), problems);
    unique("vdisk", vdisks.iter().map(|v| (v.value.name, &v.at)), problems);
    check_paths(&node, &drives, problems);
    let groups = resolve_groups(groups, &drives, &drive_names, problems);
    check_unused(&drives, &groups, problems);
    check_vdisks(&vdisks, &group_names, problems);
    check_capacity(&drives, &groups, &vdisks, &group_names, problems);
    let vdisks = vdisks
        .into_iter()
        .filter_map(|vdisk| resolve_vdisk(vdisk.value, &group_names))
        .collect();
    Config {
        node,
        reactor,
        subsystem,
        listeners: listeners.into_iter().map(|listen| listen.value).collect(),
        drives: drives.into_iter().map(|drive| drive.value).collect(),
        groups,
        vdisks,
        notes: Vec::new(),
    }
}

fn memory(reactor: &Reactor, subsystem: &Subsystem, problems: &mut Problems<'_>) {
    let needed_kib = subsystem.max_transfer_kib * TRANSFERS_MIN;
    if reactor.memory_mib * 1024 < needed_kib {
        let what = format!(
            "[reactor]: memory_mib = {} is too little for max_transfer_kib = {}",
            reactor.memory_mib, subsystem.max_transfer_kib
        );
        problems.push(
            &(0..0),
            what,
            format!("write at least {}", needed_kib.div_ceil(1024)),
        );
    }
}

fn check_listeners(listeners: &[Placed<Listen>], problems: &mut Problems<'_>) {
    if !problems.is_empty() && listeners.is_empty() {
        return; // Their sections may be what is wrong.
    }
    if listeners.iter().all(|listen| listen.value.discovery_only) {
        let what = "no [[listen]] section lets hosts reach the subsystem";
        problems.push(&(0..0), what, "add [[listen]] with address = \"127.0.0.1:4420\"");
    }
    for (index, listen) in listeners.iter().enumerate() {
        let clash = listeners[..index]
            .iter()
            .find(|other| clashes(other.value.address, listen.value.address));
        if let Some(other) = clash {
            let (address, line) = (listen.value.address, problems.line(&other.at));
            let what = format!("{address} is taken by {} in line {line}", other.value.address);
            problems.push(
                &listen.at,
                what,
                "choose another port or address, or remove one of the two",
            );
        }
    }
}

/// Whether the system would refuse to bind both.
fn clashes(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_family && overlap
}

/// Index by name; the second bearer of a name is reported.
fn unique<'n, 'p>(
    kind: &str,
    names: impl Iterator<Item = (&'n str, &'p Range<usize>)>,
    problems: &mut Problems<'_>,
) -> BTreeMap<String, usize> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut places: Vec<&Range<usize>> = Vec::new();
    for (index, (name, at)) in names.enumerate() {
        places.push(at);
        match seen.get(name) {
            Some(first) => {
                let line = problems.line(places[*first]);
                let what = format!("there is another {kind} {name:?} in line {line}");
                problems.push(at, what, "give each its own name");
            }
            None => {
                seen.insert(name.to_owned(), index);
            }
        }
    }
    seen
}

fn check_paths(node: &Node, drives: &[Placed<Drive>], problems: &mut Problems<'_>) {
    let mut seen: BTreeMap<PathBuf, (&str, &Range<usize>)> = BTreeMap::new();
    for Placed { value: drive, at } in drives {
        let Backing::Path { path, .. } = &drive.backing else {
            continue;
        };
        if path.as_os_str().is_empty() {
            continue; // Reported when it was read.
        }
        let plain = plain(path);
        if node
            .rpc_socket
            .as_deref()
            .is_some_and(|socket| self::plain(socket) == plain)
        {
            let what = format!("[[drive]] {:?}: its path is the node's rpc_socket", drive.name);
            problems.push(at, what, "give the drive a file of its own");
        }
        if self::plain(problems.file()) == plain {
            let what = format!("[[drive]] {:?}: its path is this configuration file", drive.name);
            problems.push(at, what, "give the drive a file of its own");
        }
        if let Some((other, place)) = seen.get(&plain) {
            let line = problems.line(place);
            let what = format!(
                "[[drive]] {:?} has the same path as {other:?} in line {line}",
                drive.name
            );
            problems.push(at, what, "give each drive a file or device of its own");
        } else {
            seen.insert(plain, (&drive.name, at));
        }
    }
}

/// The path without `.`, `..` and doubled slashes: one key for all its spellings, links aside.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match plain.components().next_back() {
                Some(Component::Normal(_)) => {
                    plain.pop();
                }
                Some(Component::RootDir | Component::Prefix(_)) => {} // The root is its own parent.
                Some(Component::ParentDir | Component::CurDir) | None => plain.push(".."),
            },
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => plain.push(component),
        }
    }
    plain
}

fn resolve_groups(
    drafts: Vec<Placed<GroupDraft<'_>>>,
    drives: &[Placed<Drive>],
    drive_names: &BTreeMap<String, usize>,
    problems: &mut Problems<'_>,
) -> Vec<Group> {
    // For each drive in use: its group's name and where that group lists it.
    let mut owners: BTreeMap<usize, (String, Range<usize>)> = BTreeMap::new();
    let mut groups = Vec::with_capacity(drafts.len());
    for Placed { value: draft, .. } in drafts {
        let title = format!("[[group]] {:?}", draft.name);
        let listed = draft.drives.unwrap_or_default();
        let least = draft.level.drives_min();
        if !draft.drives_at.is_empty() && !listed.is_empty() && listed.len() < least {
            let what = format!("{title} has {} drives", listed.len());
            problems.push(
                &draft.drives_at,
                what,
                format!("{} needs at least {least}", draft.level.name()),
            );
        }
        let mut members = Vec::with_capacity(listed.len());
        for (name, at) in listed {
            let Some(&index) = drive_names.get(name) else {
                let remedy = match nearest(name, drive_names.keys().map(String::as_str)) {
                    Some(known) => format!("did you mean {known:?}?"),
                    None => format!("add [[drive]] with name = {}", quoted(name)),
                };
                problems.push(
                    &at,
                    format!("{title}: there is no drive {}", quoted(name)),
                    remedy,
                );
                continue;
            };
            if let Some((owner, place)) = owners.get(&index) {
                let line = problems.line(place);
                let (what, remedy) = if owner == draft.name && members.contains(&index) {
                    (
                        format!("{title} lists drive {name:?} twice"),
                        "list each drive once",
                    )
                } else {
                    (
                        format!("{title}: drive {name:?} is in group {owner:?} already (line {line})"),
                        "give each group drives of its own",
                    )
                };
                problems.push(&at, what, remedy);
                continue;
            }
            owners.insert(index, (draft.name.to_owned(), at));
            members.push(index);
        }
        groups.push(Group {
            name: draft.name.to_owned(),
            level: draft.level,
            strip_kib: draft.strip_kib,
            block_bytes: draft.block_bytes,
            drives: members,
            create: draft.create,
            accept_dirty_degraded: draft.accept_dirty_degraded,
        });
    }
    debug_assert!(
        owners.keys().all(|index| *index < drives.len()),
        "indices come from the drives' own names"
    );
    groups
}

fn check_unused(drives: &[Placed<Drive>], groups: &[Group], problems: &mut Problems<'_>) {
    for (index, drive) in drives.iter().enumerate() {
        if !groups.iter().any(|group| group.drives.contains(&index)) {
            problems.note(&drive.at, format!("drive {:?} is in no group", drive.value.name));
        }
    }
}

fn check_vdisks(
    vdisks: &[Placed<VdiskDraft<'_>>],
    group_names: &BTreeMap<String, usize>,
    problems: &mut Problems<'_>,
) {
    let mut nsids: BTreeMap<u32, (&str, &Range<usize>)> = BTreeMap::new();
    let mut in_group: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rest: BTreeMap<&str, &str> = BTreeMap::new();
    for Placed { value: vdisk, at } in vdisks {
        let title = format!("[[vdisk]] {:?}", vdisk.name);
        if let Some((nsid, place)) = &vdisk.nsid {
            if let Some((other, other_place)) = nsids.get(nsid) {
                let line = problems.line(other_place);
                let what = format!("{title}: nsid {nsid} belongs to {other:?} (line {line})");
                problems.push(place, what, "give each virtual disk a number of its own");
            } else {
                nsids.insert(*nsid, (vdisk.name, place));
            }
        }
        let Some((group, place)) = &vdisk.group else {
            continue;
        };
        if !group_names.contains_key(*group) {
            let remedy = match nearest(group, group_names.keys().map(String::as_str)) {
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("add [[group]] with name = {}", quoted(group)),
            };
            problems.push(
                place,
                format!("{title}: there is no group {}", quoted(group)),
                remedy,
            );
            continue;
        }
        let count = in_group.entry(group).or_default();
        *count += 1;
        if *count == GROUP_VDISKS_MAX + 1 {
            let what = format!("{title}: group {group:?} has more than {GROUP_VDISKS_MAX} virtual disks");
            problems.push(at, what, "make fewer and larger ones, or another group");
        }
        if vdisk.size == VdiskSize::Rest
            && let Some(other) = rest.insert(group, vdisk.name)
        {
            let what = format!("{title}: {other:?} already takes \"all\" of group {group:?}");
            problems.push(&vdisk.size_at, what, "give one of them a size in MiB");
        }
    }
}

/// Virtual disks against groups whose size is certain: those of memory drives. What a file or device
/// really holds, and what a group has free, the group itself says when it creates a virtual disk.
fn check_capacity(
    drives: &[Placed<Drive>],
    groups: &[Group],
    vdisks: &[Placed<VdiskDraft<'_>>],
    group_names: &BTreeMap<String, usize>,
    problems: &mut Problems<'_>,
) {
    let mut used_mib = vec![0_u64; groups.len()];
    for Placed { value: vdisk, .. } in vdisks {
        let group = vdisk
            .group
            .as_ref()
            .and_then(|(name, _)| group_names.get(*name))
            .copied();
        let (Some(index), VdiskSize::Mib(mib)) = (group, vdisk.size) else {
            continue;
        };
        let Some(capacity_mib) = capacity_mib(drives, &groups[index]) else {
            continue;
        };
        used_mib[index] = used_mib[index].saturating_add(mib);
        if used_mib[index] > capacity_mib {
            let group = &groups[index].name;
            let what = format!(
                "[[vdisk]] {:?}: {} MiB are asked of group {group:?}, which has less than {}",
                vdisk.name,
                used_mib[index],
                capacity_mib + 1
            );
            problems.push(
                &vdisk.size_at,
                what,
                "make virtual disks smaller or memory drives larger",
            );
        }
    }
}

/// An upper bound of what a group of memory drives holds.
fn capacity_mib(drives: &[Placed<Drive>], group: &Group) -> Option<u64> {
    let mut smallest = None;
    for index in &group.drives {
        let Backing::Memory(memory) = &drives[*index].value.backing else {
            return None;
        };
        smallest = Some(smallest.map_or(memory.size_mib, |mib: u64| mib.min(memory.size_mib)));
    }
    let data_members = u64::try_from(group.drives.len()).ok()?.saturating_sub(1);
    Some(
        smallest?
            .saturating_sub(MEMBER_METADATA_MIB)
            .saturating_mul(data_members),
    )
}

fn resolve_vdisk(draft: VdiskDraft<'_>, group_names: &BTreeMap<String, usize>) -> Option<Vdisk> {
    let group = *group_names.get(draft.group?.0)?;
    let nsid = draft.nsid.map(|(nsid, _)| nsid);
    Some(Vdisk {
        name: draft.name.to_owned(),
        group,
        size: draft.size,
        nsid,
    })
}
