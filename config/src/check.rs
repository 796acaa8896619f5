//! Compares sections with one another: what is named twice, shared, missing or does not fit together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use crate::array;
use crate::problem::{Problems, nearest, quoted};
use crate::read::{Draft, GroupDraft, Placed, VdiskDraft};
use crate::{
    Background, Backing, COPIES, Config, Drive, Durability, GROUP_VDISKS_MAX, GROUPS_MAX, Group, Health,
    Level, Listen, NamespaceName, Node, Reactor, RemoteShelf, Replication, SHELF_DRIVE_NAME_BYTES_MAX, Shelf,
    ShelfDrive, Subsystem, Vdisk, VdiskSize,
};

/// Metadata at both ends of a member in MiB.
const MEMBER_METADATA_MIB: u64 = 2;
/// Largest transfers that a core's memory must hold at the least, so that a few hosts never starve.
const TRANSFERS_MIN: u32 = 32;

/// Puts the draft together. What it returns is meaningless once a problem was reported.
pub(crate) fn config(draft: Draft<'_>, problems: &mut Problems<'_>) -> Config {
    let Draft {
        node,
        shelf,
        reactor,
        subsystem,
        listeners,
        listeners_missing,
        array,
        shelves,
        shelves_missing,
        drives,
        health,
        groups,
        vdisks,
    } = draft;
    memory(&reactor, &subsystem, problems);
    check_listeners(&listeners, listeners_missing, problems);
    unique(
        "drive",
        drives.iter().map(|d| (d.value.name.as_str(), &d.at)),
        problems,
    );
    let group_names = unique("group", groups.iter().map(|g| (g.value.name, &g.at)), problems);
    unique("vdisk", vdisks.iter().map(|v| (v.value.name, &v.at)), problems);
    let log = shelf.as_ref().and_then(|shelf| shelf.command_log.as_deref());
    check_paths(&node, log, &drives, problems);
    check_namespaces(&drives, &shelves, shelves_missing, problems);
    let (array, drives, shelves) = array::resolve(array, drives, shelves, &groups, problems);
    let subsystem = array::subsystem_of(subsystem, &node.name, array.as_ref());
    let drive_names = by_name(&drives);
    let groups = match &shelf {
        Some(shelf) => shelf_groups(shelf, &drives, problems),
        None => {
            let groups = resolve_groups(groups, &drives, &drive_names, problems);
            check_unused(&drives, &groups, problems);
            groups
        }
    };
    check_vdisks(&vdisks, &group_names, problems);
    array::check_vdisks(&groups, &vdisks, array.as_ref(), problems);
    check_numbers(&groups, &vdisks, problems);
    check_capacity(&drives, &groups, &vdisks, &group_names, problems);
    let vdisks = match &shelf {
        Some(shelf) => shelf_vdisks(shelf, &groups),
        None => vdisks
            .into_iter()
            .filter_map(|vdisk| resolve_vdisk(vdisk.value, &group_names))
            .collect(),
    };
    Config {
        node,
        reactor: match &shelf {
            // What a shelf returns is what its drives hold.
            Some(_) => Reactor {
                read_cache_mib: 0,
                ..reactor.value
            },
            None => reactor.value,
        },
        health: if shelf.is_some() { patient(health) } else { health },
        shelf,
        subsystem,
        listeners: listeners.into_iter().map(|listen| listen.value).collect(),
        array,
        shelves: shelves.into_iter().map(|shelf| shelf.value).collect(),
        drives: drives.into_iter().map(|drive| drive.value).collect(),
        groups,
        vdisks,
        notes: Vec::new(),
    }
}

/// Where each drive is in the list.
fn by_name(drives: &[Placed<Drive>]) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for (place, drive) in drives.iter().enumerate() {
        names.entry(drive.value.name.clone()).or_insert(place);
    }
    names
}

/// A shelf's patience has no end: a write that was given up could still land, after its host was fenced (PROTOCOL H02).
fn patient(health: Health) -> Health {
    Health {
        hang_ms: u32::MAX,
        hang_last_ms: u32::MAX,
        ..health
    }
}

fn memory(reactor: &Placed<Reactor>, subsystem: &Subsystem, problems: &mut Problems<'_>) {
    let Placed {
        value: Reactor { memory_mib, .. },
        at,
    } = reactor;
    let needed_kib = subsystem.max_transfer_kib * TRANSFERS_MIN;
    if memory_mib * 1024 < needed_kib {
        let transfer_kib = subsystem.max_transfer_kib;
        let what = format!(
            "[reactor]: memory_mib = {memory_mib} is too little for max_transfer_kib = {transfer_kib}"
        );
        problems.push(at, what, format!("write at least {}", needed_kib.div_ceil(1024)));
    }
}

fn check_listeners(listeners: &[Placed<Listen>], listeners_missing: bool, problems: &mut Problems<'_>) {
    if !listeners_missing && listeners.iter().all(|listen| listen.value.discovery_only) {
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

fn check_paths(node: &Node, log: Option<&Path>, drives: &[Placed<Drive>], problems: &mut Problems<'_>) {
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
        if log.is_some_and(|log| self::plain(log) == plain) {
            let what = format!("[[drive]] {:?}: its path is the shelf's command_log", drive.name);
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

/// Looks the shelves of drives up, and for namespaces that are two drives.
fn check_namespaces(
    drives: &[Placed<Drive>],
    shelves: &[Placed<RemoteShelf>],
    shelves_missing: bool,
    problems: &mut Problems<'_>,
) {
    let names = shelves.iter().map(|s| (s.value.name.as_str(), &s.at));
    unique("shelf", names, problems);
    let mut seen: BTreeMap<(&str, NamespaceName), (&str, &Range<usize>)> = BTreeMap::new();
    for Placed { value: drive, at } in drives {
        let Backing::Shelf(ShelfDrive { shelf, namespace }) = &drive.backing else {
            continue;
        };
        let names = || shelves.iter().map(|shelf| shelf.value.name.as_str());
        if !shelves_missing && !names().any(|name| name == shelf) {
            let what = format!("[[drive]] {:?}: there is no shelf {}", drive.name, quoted(shelf));
            let remedy = match nearest(shelf, names()) {
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("add a [[shelf]] section with name = {}", quoted(shelf)),
            };
            problems.push(at, what, remedy);
        }
        if let Some((other, place)) = seen.get(&(shelf.as_str(), *namespace)) {
            let line = problems.line(place);
            let what = format!(
                "[[drive]] {:?} is the same {namespace} as {other:?} in line {line}",
                drive.name
            );
            problems.push(at, what, "give each drive a namespace of its own");
        } else {
            seen.insert((shelf, *namespace), (&drive.name, at));
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
        let drives_known = draft.drives.is_some(); // Otherwise that was reported.
        let listed = draft.drives.unwrap_or_default();
        let least = draft.level.drives_min();
        if drives_known && listed.len() < least {
            let what = format!("{title} has {} drives", listed.len());
            problems.push(
                &draft.drives_at,
                what,
                format!("{} needs at least {least}", draft.level.name()),
            );
        }
        if let Some((_, at)) = draft.durability.as_ref().filter(|_| draft.level == Level::Raid0) {
            let what = format!("{title}: raid0 has no redundancy, and its writes go straight to the drives");
            problems.push(at, what, "leave durability out, or choose another level");
        }
        let durability = draft
            .durability
            .map_or(Durability::Journal, |(durability, _)| durability);
        if let Some((_, at)) = draft.spares.first().filter(|_| draft.level == Level::Raid0) {
            let what = format!("{title}: raid0 has no redundancy, so that a spare drive could not be filled");
            problems.push(at, what, "leave spares out, or choose another level");
        }
        let mut take = |listed| take_drives(draft.name, listed, drive_names, &mut owners, problems);
        let members = take(listed);
        let spares = take(draft.spares);
        let copies = draft.copies.as_ref().map_or(COPIES, |(copies, _)| *copies);
        groups.push(Group {
            name: draft.name.to_owned(),
            level: draft.level,
            strip_kib: draft.strip_kib,
            block_bytes: draft.block_bytes,
            drives: members,
            create: draft.create,
            durability: Some(durability).filter(|_| draft.level != Level::Raid0),
            copies,
            copies_min: draft.copies_min.as_ref().map_or(copies, |(least, _)| *least),
            journal_mib: draft.journal_mib,
            spares,
            accept_dirty_degraded: draft.accept_dirty_degraded,
            background: draft.background,
            accept_lost_writes: draft.accept_lost_writes,
            accepts_loss_once: false,
            nodes: nodes_of(draft.nodes.map(|(nodes, _)| nodes)),
        });
    }
    debug_assert!(
        owners.keys().all(|index| *index < drives.len()),
        "indices come from the drives' own names"
    );
    groups
}

/// Slots, as far as they are any.
fn nodes_of(nodes: Option<Vec<usize>>) -> Option<Vec<u8>> {
    let slots = nodes?.into_iter().map(u8::try_from);
    slots.collect::<Result<_, _>>().ok()
}

/// Looks up the drives that a group lists, each for that group alone.
fn take_drives(
    group: &str,
    listed: Vec<(&str, Range<usize>)>,
    drive_names: &BTreeMap<String, usize>,
    owners: &mut BTreeMap<usize, (String, Range<usize>)>,
    problems: &mut Problems<'_>,
) -> Vec<usize> {
    let title = format!("[[group]] {group:?}");
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
            let (what, remedy) = if owner == group {
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
        owners.insert(index, (group.to_owned(), at));
        members.push(index);
    }
    members
}

fn check_unused(drives: &[Placed<Drive>], groups: &[Group], problems: &mut Problems<'_>) {
    for (index, drive) in drives.iter().enumerate() {
        if !groups
            .iter()
            .any(|group| group.drives.contains(&index) || group.spares.contains(&index))
        {
            problems.note(&drive.at, format!("drive {:?} is in no group", drive.value.name));
        }
    }
}

/// Each drive of a shelf, as a group of its own.
fn shelf_groups(shelf: &Shelf, drives: &[Placed<Drive>], problems: &mut Problems<'_>) -> Vec<Group> {
    for Placed { value: drive, at } in drives {
        if drive.name.len() > SHELF_DRIVE_NAME_BYTES_MAX {
            let what = format!("[[drive]] {:?}: the name is too long for a shelf", drive.name);
            let remedy = format!(
                "write at most {SHELF_DRIVE_NAME_BYTES_MAX} bytes: its namespaces are named after it"
            );
            problems.push(at, what, remedy);
        }
    }
    if drives.len() > GROUPS_MAX {
        let what = format!("the shelf has {} drives", drives.len());
        problems.push(&(0..0), what, format!("a shelf takes at most {GROUPS_MAX}"));
    }
    let group = |(index, drive): (usize, &Placed<Drive>)| Group {
        name: drive.value.name.clone(),
        level: Level::Raid0,
        strip_kib: 64,
        block_bytes: shelf.block_bytes,
        drives: vec![index],
        create: shelf.create,
        durability: None,
        copies: COPIES,
        copies_min: COPIES,
        journal_mib: None,
        spares: Vec::new(),
        accept_dirty_degraded: false,
        accept_lost_writes: false,
        accepts_loss_once: false,
        background: Background::default(),
        nodes: None,
    };
    drives.iter().take(GROUPS_MAX).enumerate().map(group).collect()
}

/// The namespaces of a shelf: of each drive its quorum area and what is left.
fn shelf_vdisks(shelf: &Shelf, groups: &[Group]) -> Vec<Vdisk> {
    let both = |(group, of): (usize, &Group)| {
        let vdisk = |name, size| Vdisk {
            name,
            group,
            size,
            nsid: None,
            ports: None,
            replication: Replication::Sync,
        };
        [
            vdisk(
                Shelf::quorum_name(&of.name),
                VdiskSize::Mib(u64::from(shelf.quorum_mib)),
            ),
            vdisk(Shelf::data_name(&of.name), VdiskSize::Rest),
        ]
    };
    groups.iter().enumerate().flat_map(both).collect()
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

/// Where nodes serve different groups, none of them knows which numbers are free.
fn check_numbers(groups: &[Group], vdisks: &[Placed<VdiskDraft<'_>>], problems: &mut Problems<'_>) {
    if groups.iter().all(|group| group.nodes.is_none()) {
        return;
    }
    for Placed { value: vdisk, at } in vdisks.iter().filter(|vdisk| vdisk.value.nsid.is_none()) {
        let what = format!(
            "[[vdisk]] {:?} has no nsid, and groups are served by different nodes",
            vdisk.name
        );
        problems.push(at, what, "give each virtual disk a number of its own: nsid = 1");
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
    let half_drives = u64::try_from(group.level.data_half_drives(group.drives.len())).ok()?;
    let usable = smallest?.saturating_sub(MEMBER_METADATA_MIB);
    Some(usable.saturating_mul(half_drives) / 2)
}

fn resolve_vdisk(draft: VdiskDraft<'_>, group_names: &BTreeMap<String, usize>) -> Option<Vdisk> {
    let group = *group_names.get(draft.group?.0)?;
    let nsid = draft.nsid.map(|(nsid, _)| nsid);
    let ports = draft.ports.map(|(mut slots, _)| {
        slots.sort_unstable();
        slots
    });
    Some(Vdisk {
        name: draft.name.to_owned(),
        group,
        size: draft.size,
        nsid,
        ports,
        replication: draft.replication.map_or(Replication::Sync, |it| it.0),
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{GROUP, LEAST, bad, good, refuses};

    use super::*;

    /// `GROUP` ends with line 14, so that what is added starts in line 15.
    fn with(more: &str) -> String {
        format!("{GROUP}{more}")
    }

    #[test]
    fn a_node_without_listener_is_refused() {
        refuses("", 1, &["no [[listen]] section", "add [[listen]]"]);
        refuses(
            &format!("{LEAST}discovery_only = true\n"),
            1,
            &["no [[listen]] section"],
        );
    }

    #[test]
    fn a_bad_listener_is_not_also_called_missing() {
        assert_eq!(bad("[[listen]]\naddress = 1\n").len(), 1);
    }

    #[test]
    fn listeners_that_cannot_be_bound_together_are_refused() {
        let two =
            |a: &str, b: &str| format!("[[listen]]\naddress = \"{a}\"\n[[listen]]\naddress = \"{b}\"\n");
        refuses(
            &two("127.0.0.1:4420", "127.0.0.1:4420"),
            4,
            &["taken by 127.0.0.1:4420 in line 2"],
        );
        refuses(
            &two("0.0.0.0:4420", "127.0.0.1:4420"),
            4,
            &["taken by 0.0.0.0:4420"],
        );
        refuses(&two("[::1]:4420", "[0:0::1]:4420"), 4, &["taken by [::1]:4420"]);
        good(&two("127.0.0.1:4420", "127.0.0.2:4420"));
        good(&two("127.0.0.1:4420", "127.0.0.1:8009"));
        good(&two("127.0.0.1:0", "127.0.0.1:0"));
        good(&two("127.0.0.1:4420", "[::1]:4420"));
    }

    #[test]
    fn names_are_unique_in_their_kind() {
        refuses(
            &with("[[drive]]\nname = \"d1\"\nmemory_mib = 8\n"),
            16,
            &["another drive \"d1\" in line 7"],
        );
        let drives = (3..6).map(|i| format!("[[drive]]\nname = \"d{i}\"\nmemory_mib = 8\n"));
        let group = "[[group]]\nname = \"g0\"\ndrives = [\"d3\", \"d4\", \"d5\"]\n";
        let text = with(&(drives.collect::<String>() + group));
        refuses(&text, 25, &["another group \"g0\" in line 13"]);
        let vdisk = "[[vdisk]]\nname = \"v\"\ngroup = \"g0\"\nsize_mib = 1\n";
        refuses(&with(&vdisk.repeat(2)), 20, &["another vdisk \"v\" in line 16"]);
        good(&with("[[vdisk]]\nname = \"g0\"\ngroup = \"g0\"\nsize_mib = 1\n"));
    }

    #[test]
    fn one_file_under_two_spellings_is_found() {
        for other in [
            "a.img",
            "./a.img",
            "x/../a.img",
            "/etc/braid/a.img",
            "/etc//braid/./a.img",
            "/../etc/braid/a.img",
        ] {
            let text = format!(
                "{LEAST}[[drive]]\nname = \"d0\"\npath = \"a.img\"\n[[drive]]\nname = \"d1\"\npath = \"{other}\"\n"
            );
            refuses(&text, 7, &["\"d1\" has the same path as \"d0\" in line 4"]);
        }
        good(&format!(
            "{LEAST}[[drive]]\nname=\"d0\"\npath=\"../a\"\n[[drive]]\nname=\"d1\"\npath=\"a\"\n"
        ));
    }

    #[test]
    fn paths_outside_any_folder_stay_apart() {
        assert_eq!(plain(Path::new("../../a")), Path::new("../../a"));
        assert_eq!(plain(Path::new("a/../../b")), Path::new("../b"));
        assert_eq!(plain(Path::new("/../b")), Path::new("/b"));
    }

    #[test]
    fn a_drive_is_neither_the_socket_nor_the_configuration() {
        let socket = "[node]\nrpc_socket = \"s\"\n[[drive]]\nname = \"d\"\npath = \"./s\"\n";
        refuses(&format!("{LEAST}{socket}"), 6, &["rpc_socket"]);
        let own = "[[drive]]\nname = \"d\"\npath = \"node.toml\"\n";
        refuses(&format!("{LEAST}{own}"), 4, &["this configuration file"]);
    }

    #[test]
    fn unknown_drives_of_a_group_get_a_suggestion() {
        let text = GROUP.replace("\"d2\"]", "\"D2\"]");
        refuses(&text, 14, &["there is no drive \"D2\"", "did you mean \"d2\"?"]);
        refuses(
            &GROUP.replace("\"d2\"]", "\"spare\"]"),
            14,
            &["add [[drive]] with name = \"spare\""],
        );
    }

    #[test]
    fn a_drive_is_in_one_group_once() {
        refuses(
            &GROUP.replace("\"d2\"]", "\"d0\", \"d2\"]"),
            14,
            &["lists drive \"d0\" twice"],
        );
        let more = "[[drive]]\nname=\"d3\"\nmemory_mib=8\n[[drive]]\nname=\"d4\"\nmemory_mib=8\n\
                    [[group]]\nname = \"g1\"\ndrives = [\"d3\", \"d4\", \"d1\"]\n";
        refuses(
            &with(more),
            23,
            &["drive \"d1\" is in group \"g0\" already (line 14)"],
        );
    }

    #[test]
    fn groups_have_enough_drives() {
        refuses(
            &GROUP.replace(", \"d2\"]", "]"),
            14,
            &["has 2 drives", "raid5 needs at least 3"],
        );
        refuses(
            &GROUP.replace("[\"d0\", \"d1\", \"d2\"]", "[]"),
            14,
            &["has 0 drives"],
        );
        refuses(
            &GROUP.replace("drives = [\"d0\", \"d1\", \"d2\"]\n", ""),
            12,
            &["has no drives"],
        );
    }

    #[test]
    fn striping_needs_no_more_than_one_drive() {
        let group = |drives: &str| {
            let listed = format!("level = \"raid0\"\ndrives = [{drives}]\n");
            GROUP.replace("drives = [\"d0\", \"d1\", \"d2\"]\n", &listed)
        };
        let config = good(&group("\"d1\""));
        assert_eq!(
            (config.groups[0].level, config.groups[0].drives.as_slice()),
            (crate::Level::Raid0, &[1][..])
        );
        good(&group("\"d2\", \"d1\""));
        refuses(&group(""), 15, &["has 0 drives", "raid0 needs at least 1"]);
    }

    #[test]
    fn groups_have_no_more_drives_than_a_superblock_lists() {
        let names = |count: usize| (0..count).map(|i| format!("\"d{i}\",")).collect::<String>();
        let drives: String = (0..33)
            .map(|i| format!("[[drive]]\nname=\"d{i}\"\nmemory_mib=8\n"))
            .collect();
        let text = |count| {
            format!(
                "{LEAST}{drives}[[group]]\nname = \"g\"\ndrives = [{}]\n",
                names(count)
            )
        };
        assert_eq!(good(&text(32)).groups[0].drives.len(), 32);
        refuses(&text(33), 104, &["33 entries", "at most 32"]);
    }

    #[test]
    fn unused_drives_are_noted() {
        let config = good(&with("[[drive]]\nname = \"d9\"\nmemory_mib = 8\n"));
        assert_eq!(config.notes.len(), 1);
        assert_eq!(
            (config.notes[0].line, config.notes[0].text.as_str()),
            (16, "drive \"d9\" is in no group")
        );
    }

    #[test]
    fn virtual_disks_name_a_group_that_exists() {
        let of = |group: &str| {
            with(&format!(
                "[[vdisk]]\nname=\"v\"\ngroup = \"{group}\"\nsize_mib=1\n"
            ))
        };
        assert_eq!(good(&of("g0")).vdisks[0].group, 0);
        refuses(
            &of("g00"),
            17,
            &["there is no group \"g00\"", "did you mean \"g0\"?"],
        );
        refuses(&of("pool"), 17, &["add [[group]] with name = \"pool\""]);
        refuses(
            &with("[[vdisk]]\nname = \"v\"\nsize_mib = 1\n"),
            15,
            &["has no group"],
        );
        refuses(
            &with("[[vdisk]]\nname = \"v\"\ngroup = \"g0\"\n"),
            15,
            &["has no size_mib"],
        );
    }

    #[test]
    fn namespace_identifiers_are_unique_and_in_range() {
        let of = |name: &str, nsid: u64| {
            format!("[[vdisk]]\nname=\"{name}\"\ngroup=\"g0\"\nsize_mib=1\nnsid = {nsid}\n")
        };
        good(&with(&(of("a", 1) + &of("b", 1024))));
        refuses(
            &with(&(of("a", 7) + &of("b", 7))),
            24,
            &["nsid 7 belongs to \"a\" (line 19)"],
        );
        for nsid in [0, 1025, 0xffff_ffff] {
            refuses(&with(&of("a", nsid)), 19, &["1..=1024"]);
        }
    }

    #[test]
    fn only_one_virtual_disk_takes_the_rest() {
        let of = |name: &str| format!("[[vdisk]]\nname = \"{name}\"\ngroup = \"g0\"\nsize_mib = \"all\"\n");
        assert_eq!(good(&with(&of("a"))).vdisks[0].size, VdiskSize::Rest);
        refuses(
            &with(&(of("a") + &of("b"))),
            22,
            &["\"a\" already takes \"all\" of group \"g0\""],
        );
        refuses(
            &with(&of("a").replace("\"all\"", "\"most\"")),
            18,
            &["it may be \"all\""],
        );
        refuses(&with(&of("a").replace("\"all\"", "0")), 18, &["out of range"]);
    }

    #[test]
    fn a_group_has_no_more_virtual_disks_than_a_superblock_lists() {
        let of = |i: usize| format!("[[vdisk]]\nname = \"v{i}\"\ngroup = \"g0\"\nsize_mib = 1\n");
        good(&with(&(0..28).map(of).collect::<String>()));
        refuses(
            &with(&(0..29).map(of).collect::<String>()),
            15 + 28 * 4 + 1,
            &["more than 28 virtual disks"],
        );
    }

    #[test]
    fn virtual_disks_fit_a_group_of_memory() {
        let of = |name: &str, mib: u64| {
            format!("[[vdisk]]\nname = \"{name}\"\ngroup = \"g0\"\nsize_mib = {mib}\n")
        };
        good(&with(&of("a", 124)));
        refuses(
            &with(&of("a", 125)),
            18,
            &["125 MiB are asked of group \"g0\", which has less than 125"],
        );
        refuses(&with(&(of("a", 100) + &of("b", 25))), 22, &["125 MiB are asked"]);
    }

    #[test]
    fn without_redundancy_every_drive_holds_user_data() {
        let striped = GROUP.replace("name = \"g0\"\n", "name = \"g0\"\nlevel = \"raid0\"\n");
        let of = |mib: u64| format!("{striped}[[vdisk]]\nname = \"v\"\ngroup = \"g0\"\nsize_mib = {mib}\n");
        good(&of(186));
        refuses(
            &of(187),
            19,
            &["187 MiB are asked of group \"g0\", which has less than 187"],
        );
    }

    #[test]
    fn memory_holds_several_of_the_largest_transfers() {
        let text = format!("{LEAST}[reactor]\nmemory_mib = 16\n[subsystem]\nmax_transfer_kib = 1024\n");
        refuses(
            &text,
            4,
            &[
                "memory_mib = 16 is too little for max_transfer_kib = 1024",
                "at least 32",
            ],
        );
        good(&text.replace("= 16\n", "= 32\n"));
    }
}
