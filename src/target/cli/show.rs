//! Results of calls as tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::background;
use super::table::{Align, Table};
use super::units::{age_text, bytes_text, count_text, duration_text};
use crate::target::manage::{
    CopiesStatus, CoreCounters, DriveStatus, Durability, GroupState, GroupStatus, HealthStatus, HostStatus,
    LostBlocks, MemberState, NodeStatus, PortStatus, Replication, Reply, ShelfDriveStatus, ShelfNamespace,
    ShelfStatus, StageLatency, VdiskStatus,
};

/// The result as a person reads it. Each line has its end.
pub(super) fn text(reply: &Reply) -> String {
    match reply {
        Reply::Node(node) => node_text(node),
        Reply::Shelf(shelf) => shelf_text(shelf),
        Reply::Array(array) => super::array::text(array),
        Reply::Groups(groups) if groups.is_empty() => {
            "No groups. Create one: braid group create --help\n".to_owned()
        }
        Reply::Groups(groups) => groups_text(groups),
        Reply::Group(group) => group_text(group),
        Reply::Vdisks(vdisks) if vdisks.is_empty() => {
            "No virtual disks. Create one: braid vdisk create --help\n".to_owned()
        }
        Reply::Vdisks(vdisks) => vdisks_text(vdisks),
        Reply::Ports(ports) => ports_text(ports),
        Reply::Vdisk(vdisk) => vdisk_text(vdisk),
        Reply::Deleted(deleted) => {
            format!(
                "{} is deleted; {} are free again\n",
                deleted.vdisk,
                bytes_text(deleted.freed_bytes)
            )
        }
        Reply::Drives(drives) if drives.is_empty() => "No drives are configured.\n".to_owned(),
        Reply::Drives(drives) => drives_text(drives),
        Reply::Drive(drive) => drive_text(drive),
        Reply::Hosts(hosts) if hosts.is_empty() => "No hosts are connected.\n".to_owned(),
        Reply::Hosts(hosts) => hosts_text(hosts),
        Reply::Latency(stages) => latency_text(stages),
        Reply::Counters(cores) => counters_text(cores),
        Reply::Stopping(_) => "The node is stopping.\n".to_owned(),
    }
}

/// Names and values below each other.
pub(super) fn facts<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    for (name, value) in rows {
        table.row([name.to_owned(), value]);
    }
    table.text()
}

fn shelf_text(shelf: &ShelfStatus) -> String {
    let mut text = facts([
        ("shelf", shelf.name.clone()),
        ("subsystem", shelf.nqn.clone()),
        ("instance", shelf.instance.clone()),
    ]);
    let mut table = Table::new(&[
        ("drive", Align::Left),
        ("data", Align::Right),
        ("size", Align::Right),
        ("quorum", Align::Right),
        ("reservation", Align::Left),
        ("persists", Align::Left),
        ("registrants", Align::Right),
    ]);
    let nsid = |namespace: &Option<ShelfNamespace>| {
        namespace
            .as_ref()
            .map_or_else(|| or_dash(None), |it| it.nsid.to_string())
    };
    for drive in &shelf.drives {
        table.row([
            drive.drive.clone(),
            nsid(&drive.data),
            drive
                .data
                .as_ref()
                .map_or_else(|| or_dash(None), |it| bytes_text(it.bytes)),
            nsid(&drive.quorum),
            or_dash(drive.failed.as_deref().or(drive.reservation.as_deref())),
            if drive.persists { "yes" } else { "no" }.to_owned(),
            drive.registrants.len().to_string(),
        ]);
    }
    let _ = write!(text, "\n{}", table.text());
    for drive in &shelf.drives {
        registrants_text(drive, &mut text);
        admission_text(drive, &mut text);
    }
    text
}

fn registrants_text(drive: &ShelfDriveStatus, text: &mut String) {
    for registrant in &drive.registrants {
        let holder = if registrant.holder {
            ", holds the reservation"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "{}: host {}, key {}{holder}",
            drive.drive, registrant.host, registrant.key
        );
    }
}

/// Who is let in and who is out, and which keys are too old.
fn admission_text(drive: &ShelfDriveStatus, text: &mut String) {
    let name = &drive.drive;
    for claim in &drive.claims {
        let host = claim.name.as_deref().unwrap_or(&claim.digest);
        let life = claim.host.as_deref().unwrap_or("nobody");
        let _ = writeln!(text, "{name}: of host {host} only {life} is let in");
    }
    for host in &drive.barred {
        let _ = writeln!(text, "{name}: host {host} is out");
    }
    if let Some(epochs) = &drive.key_epochs {
        let slots = epochs.iter().enumerate().filter(|(_, epoch)| **epoch > 0);
        let slots: Vec<String> = slots
            .map(|(slot, epoch)| format!("slot {slot} from {epoch} on"))
            .collect();
        let slots = if slots.is_empty() {
            "any".to_owned()
        } else {
            slots.join(", ")
        };
        let _ = writeln!(text, "{name}: keys are held to epochs: {slots}");
    }
}

fn or_dash(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}

fn node_text(node: &NodeStatus) -> String {
    let listen = node.listen.iter().map(|listen| {
        let only = if listen.discovery_only {
            " (discovery only)"
        } else {
            ""
        };
        format!("{} {}{only}", listen.transport, listen.address)
    });
    let mut text = facts([
        (
            "node",
            format!("{}, braid {}, process {}", node.name, node.version, node.pid),
        ),
        ("running for", age_text(node.uptime_ms)),
        ("subsystem", format!("{}, serial {}", node.nqn, node.serial)),
        ("listening on", listen.collect::<Vec<_>>().join(", ")),
        ("cores", format!("{}, {} polling", node.cores, node.poll)),
        ("serving", {
            let groups = count_text(node.groups as usize, "group");
            let vdisks = count_text(node.vdisks as usize, "virtual disk");
            format!(
                "{groups}, {vdisks}, {}",
                count_text(node.controllers as usize, "host controller")
            )
        }),
    ]);
    let mut notes = Table::new(&[("", Align::Left), ("", Align::Left)]);
    for note in &node.notes {
        notes.row(["note".to_owned(), note.clone()]);
    }
    text.push_str(&notes.text());
    text
}

fn state_text(group: &GroupStatus) -> String {
    if group.not_served.is_some() {
        return "not served".to_owned();
    }
    if group.state == GroupState::Resyncing && group.rows > 0 {
        let percent = u128::from(group.resync_done_rows) * 100 / u128::from(group.rows);
        return format!("resyncing {percent} %");
    }
    if let Some(done) = group
        .expansion_done_rows
        .filter(|_| group.state == GroupState::Healthy)
    {
        let percent = u128::from(done) * 100 / u128::from(group.rows.max(1));
        return format!("expanding {percent} %");
    }
    group.state.name().to_owned()
}

fn groups_text(groups: &[GroupStatus]) -> String {
    let mut table = Table::new(&[
        ("GROUP", Align::Left),
        ("STATE", Align::Left),
        ("LEVEL", Align::Left),
        ("MEMBERS", Align::Right),
        ("STRIP", Align::Right),
        ("CAPACITY", Align::Right),
        ("FREE", Align::Right),
        ("VDISKS", Align::Right),
    ]);
    for group in groups {
        let active = group
            .members
            .iter()
            .filter(|member| member.state == MemberState::Active)
            .count();
        table.row([
            group.name.clone(),
            state_text(group),
            group.level.clone(),
            format!("{active}/{}", group.members.len()),
            format!("{} KiB", group.strip_kib),
            bytes_text(group.capacity_bytes),
            bytes_text(group.free_bytes),
            group.vdisks.len().to_string(),
        ]);
    }
    table.text()
}

fn group_text(group: &GroupStatus) -> String {
    let vdisks = if group.vdisks.is_empty() {
        "none".to_owned()
    } else {
        group.vdisks.join(", ")
    };
    let background = background::line(&group.background).map(|line| ("background", line));
    let scrub = group.background.scrub.as_ref();
    let scrub = scrub.map(|scrub| ("scrub", background::scrub_line(scrub)));
    let rebuild = group.background.rebuild.as_ref();
    let rebuild = rebuild.map(|rebuild| ("rebuild", background::rebuild_line(rebuild)));
    let rows = [
        ("group", group.name.clone()),
        ("state", state_text(group)),
        ("level", group.level.clone()),
        (
            "capacity",
            format!(
                "{} ({} free)",
                bytes_text(group.capacity_bytes),
                bytes_text(group.free_bytes)
            ),
        ),
        (
            "strip",
            format!("{} KiB, blocks of {} bytes", group.strip_kib, group.block_bytes),
        ),
        ("durability", durability_text(group)),
        ("rows", group.rows.to_string()),
        ("generation", group.generation.to_string()),
        ("uuid", group.uuid.clone()),
        ("spares", spares_text(group)),
        ("virtual disks", vdisks),
    ];
    let lost = lost_text(&group.lost_blocks).map(|text| ("lost blocks", text));
    let not_served = group
        .not_served
        .clone()
        .map(|why| ("not served", why.into_string()));
    let mut text = facts(
        rows.into_iter()
            .chain(not_served)
            .chain(lost)
            .chain(background)
            .chain(rebuild)
            .chain(scrub),
    );
    let mut members = Table::new(&[
        ("MEMBER", Align::Right),
        ("DRIVE", Align::Left),
        ("STATE", Align::Left),
        ("REASON", Align::Left),
    ]);
    for member in &group.members {
        members.row([
            member.index.to_string(),
            or_dash(member.drive.as_deref()),
            member.state.name().to_owned(),
            member.reason.clone().unwrap_or_default(),
        ]);
    }
    text.push('\n');
    text.push_str(&members.text());
    text
}

/// Extents of lost blocks that are named; `--json` has all of them.
const LOST_SHOWN_MAX: usize = 8;

/// How many blocks are lost, and which; `None` if none is.
fn lost_text(lost: &[LostBlocks]) -> Option<String> {
    if lost.is_empty() {
        return None;
    }
    let blocks: u64 = lost.iter().map(|extent| extent.blocks).sum();
    let one = |extent: &LostBlocks| {
        let place = extent.vdisk.as_deref().unwrap_or("no virtual disk");
        match extent.blocks {
            1 => format!("{place} {}", extent.block),
            blocks => format!("{place} {}-{}", extent.block, extent.block + blocks - 1),
        }
    };
    let mut shown: Vec<String> = lost.iter().take(LOST_SHOWN_MAX).map(one).collect();
    if lost.len() > LOST_SHOWN_MAX {
        shown.push("...".to_owned());
    }
    Some(format!(
        "{blocks}, which read as errors until they are written: {}",
        shown.join(", ")
    ))
}

fn durability_text(group: &GroupStatus) -> String {
    match group.durability {
        Durability::None => "none: a write is durable after a Flush".to_owned(),
        Durability::Journal => format!("journal, {}", journal_text(group)),
        Durability::Ram => {
            let copies = group.copies.as_ref().map_or(String::new(), copies_text);
            let power = if group.dirty_ram {
                "writes that were not flushed would be lost with the power"
            } else {
                "all is on the drives"
            };
            format!("ram, {}{copies}; {power}", journal_text(group))
        }
    }
}

fn copies_text(copies: &CopiesStatus) -> String {
    let CopiesStatus {
        wanted,
        now,
        partners,
        restored,
    } = copies;
    let before = if *restored {
        ""
    } else {
        "; what was acknowledged before the last change of members is not there yet (braid counters: bytes_with_reduced_copies)"
    };
    if partners.is_empty() {
        return format!(
            "; writes wait for the drives, because too few nodes are there to have them in the memory of {wanted}{before}"
        );
    }
    let slots: Vec<String> = partners.iter().map(u8::to_string).collect();
    let title = if partners.len() == 1 { "slot" } else { "slots" };
    let fewer = if now < wanted {
        format!(", and {wanted} are wanted")
    } else {
        String::new()
    };
    let slots = slots.join(", ");
    format!("; writes are in the memory of {now} nodes, this one and {title} {slots}{fewer}{before}")
}

fn journal_text(group: &GroupStatus) -> String {
    format!("{} of journal on each drive", bytes_text(group.journal_bytes))
}

fn spares_text(group: &GroupStatus) -> String {
    if group.spares.is_empty() {
        return "none".to_owned();
    }
    let names = group.spares.iter().map(|spare| {
        spare
            .drive
            .clone()
            .unwrap_or_else(|| format!("{} (not there)", spare.uuid))
    });
    names.collect::<Vec<_>>().join(", ")
}

fn vdisks_text(vdisks: &[VdiskStatus]) -> String {
    let mut table = Table::new(&[
        ("VDISK", Align::Left),
        ("NSID", Align::Right),
        ("GROUP", Align::Left),
        ("STATE", Align::Left),
        ("CAPACITY", Align::Right),
        ("BLOCK", Align::Right),
        ("UUID", Align::Left),
    ]);
    for vdisk in vdisks {
        table.row([
            vdisk.name.clone(),
            vdisk.nsid.to_string(),
            vdisk.group.clone(),
            vdisk.state.name().to_owned(),
            bytes_text(vdisk.capacity_bytes),
            vdisk.block_bytes.to_string(),
            vdisk.uuid.clone(),
        ]);
    }
    table.text()
}

fn ports_text(ports: &[PortStatus]) -> String {
    let mut table = Table::new(&[
        ("VDISK", Align::Left),
        ("NSID", Align::Right),
        ("NODE", Align::Right),
        ("PORT", Align::Left),
        ("STATE", Align::Left),
    ]);
    for port in ports {
        table.row([
            port.vdisk.clone(),
            port.nsid.to_string(),
            port.node.to_string(),
            if port.port { "yes" } else { "no" }.to_owned(),
            port.state.name().to_owned(),
        ]);
    }
    table.text()
}

fn vdisk_text(vdisk: &VdiskStatus) -> String {
    let replication = vdisk
        .replication
        .map(|mode| ("writes are done", done_when(mode).to_owned()));
    let known = [
        ("virtual disk", vdisk.name.clone()),
        ("namespace", vdisk.nsid.to_string()),
        ("group", vdisk.group.clone()),
        ("state", vdisk.state.name().to_owned()),
        (
            "capacity",
            format!(
                "{} ({} bytes)",
                bytes_text(vdisk.capacity_bytes),
                vdisk.capacity_bytes
            ),
        ),
        ("block", format!("{} bytes", vdisk.block_bytes)),
        ("uuid", vdisk.uuid.clone()),
        ("nguid", vdisk.nguid.clone()),
    ];
    facts(known.into_iter().chain(replication))
}

/// When writes are done, and what that may cost.
const fn done_when(mode: Replication) -> &'static str {
    match mode {
        Replication::Sync => "when several nodes have them in memory (sync)",
        Replication::PseudoSync => {
            "when they were sent to other nodes (pseudo-sync): what was on the way when a node died may be lost"
        }
        Replication::Async => {
            "before they are sent to other nodes (async): the last of them are lost when a node dies"
        }
    }
}

fn drives_text(drives: &[DriveStatus]) -> String {
    let mut table = Table::new(&[
        ("DRIVE", Align::Left),
        ("STATE", Align::Left),
        ("HEALTH", Align::Left),
        ("GROUP", Align::Left),
        ("MEMBER", Align::Right),
        ("CAPACITY", Align::Right),
        ("READS", Align::Right),
        ("WRITES", Align::Right),
        ("ERRORS", Align::Right),
        ("KIND", Align::Left),
        ("PATH", Align::Left),
    ]);
    for drive in drives {
        table.row([
            drive.name.clone(),
            drive.state.name().to_owned(),
            drive.health.state.name().to_owned(),
            or_dash(drive.group.as_deref()),
            drive
                .member_index
                .map_or_else(|| "-".to_owned(), |index| index.to_string()),
            bytes_text(drive.capacity_bytes),
            drive.reads.to_string(),
            drive.writes.to_string(),
            drive.errors.to_string(),
            drive.kind.name().to_owned(),
            drive.path.clone().unwrap_or_default(),
        ]);
    }
    let mut text = table.text();
    for drive in drives {
        if let Some(reason) = drive.reason.as_ref().or(drive.health.reason.as_ref()) {
            text.push_str(&facts([(drive.name.as_str(), reason.clone())]));
        }
    }
    text
}

fn drive_text(drive: &DriveStatus) -> String {
    let member = match (&drive.group, drive.member_index) {
        (Some(group), Some(index)) => format!("{index} of {group}"),
        (Some(group), None) => group.clone(),
        (None, _) => "-".to_owned(),
    };
    facts([
        ("drive", drive.name.clone()),
        ("state", drive.state.name().to_owned()),
        ("reason", or_dash(drive.reason.as_deref())),
        ("kind", drive.kind.name().to_owned()),
        ("path", or_dash(drive.path.as_deref())),
        ("member", member),
        (
            "capacity",
            format!(
                "{} ({} bytes)",
                bytes_text(drive.capacity_bytes),
                drive.capacity_bytes
            ),
        ),
        ("block", format!("{} bytes", drive.block_bytes)),
        (
            "commands",
            format!(
                "{} reads, {} writes, {} errors",
                drive.reads, drive.writes, drive.errors
            ),
        ),
        (
            "made durable",
            format!("{} forced writes, {} flushes", drive.forced_writes, drive.flushes),
        ),
        (
            "moved",
            format!(
                "{} read, {} written",
                bytes_text(drive.read_bytes),
                bytes_text(drive.written_bytes)
            ),
        ),
        ("health", health_text(&drive.health)),
        (
            "media errors",
            format!(
                "{}, {} repaired, {} not",
                drive.health.media_errors, drive.health.repaired, drive.health.repairs_failed
            ),
        ),
        ("I/O errors", drive.health.io_errors.to_string()),
        (
            "hangs",
            format!(
                "{}, {} commands unanswered",
                drive.health.hangs, drive.health.unanswered
            ),
        ),
        (
            "latency",
            format!(
                "p99 {}, {} slow windows",
                drive
                    .health
                    .p99_us
                    .map_or_else(|| "-".to_owned(), |us| format!("{us} us")),
                drive.health.slow_windows
            ),
        ),
    ])
}

fn health_text(health: &HealthStatus) -> String {
    match &health.reason {
        Some(reason) => format!("{}: {reason}", health.state.name()),
        None => health.state.name().to_owned(),
    }
}

fn hosts_text(hosts: &[HostStatus]) -> String {
    let mut table = Table::new(&[
        ("CNTLID", Align::Right),
        ("ADDRESS", Align::Left),
        ("IO QUEUES", Align::Right),
        ("KATO", Align::Right),
        ("CONNECTED", Align::Right),
        ("HOST", Align::Left),
        ("SUBSYSTEM", Align::Left),
    ]);
    for host in hosts {
        table.row([
            host.cntlid.to_string(),
            host.address.clone(),
            host.io_queues.to_string(),
            format!("{} ms", host.keep_alive_ms),
            age_text(host.connected_ms),
            host.host_nqn.clone(),
            host.subsystem_nqn.clone(),
        ]);
    }
    table.text()
}

fn latency_text(stages: &[StageLatency]) -> String {
    let mut table = Table::new(&[
        ("STAGE", Align::Left),
        ("CORE", Align::Right),
        ("COUNT", Align::Right),
        ("P50", Align::Right),
        ("P99", Align::Right),
        ("P99.9", Align::Right),
        ("MAX", Align::Right),
    ]);
    for stage in stages.iter().filter(|stage| stage.count > 0) {
        table.row([
            stage.stage.clone(),
            stage.core.to_string(),
            stage.count.to_string(),
            duration_text(stage.p50_ns),
            duration_text(stage.p99_ns),
            duration_text(stage.p999_ns),
            duration_text(stage.max_ns),
        ]);
    }
    if table.is_empty() {
        "Nothing has been measured yet.\n".to_owned()
    } else {
        table.text()
    }
}

/// A line for each counter, a column for each core.
fn counters_text(cores: &[CoreCounters]) -> String {
    let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (column, core) in cores.iter().enumerate() {
        for (name, value) in &core.counters {
            let cells = rows.entry(name).or_default();
            cells.resize(column, "-".to_owned());
            cells.push(value.to_string());
        }
    }
    let name_width = rows
        .keys()
        .map(|name| name.len())
        .max()
        .unwrap_or(0)
        .max("COUNTER".len());
    let width = rows
        .values()
        .flatten()
        .map(String::len)
        .max()
        .unwrap_or(0)
        .max("CORE 000".len());
    let mut text = format!("{:<name_width$}", "COUNTER");
    let fine = "writing to a string does not fail";
    for core in cores {
        write!(text, "  {:>width$}", format!("CORE {}", core.core)).expect(fine);
    }
    text.push('\n');
    for (name, mut cells) in rows {
        cells.resize(cores.len(), "-".to_owned());
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        write!(text, "{name:<name_width$}").expect(fine);
        for cell in cells {
            write!(text, "  {cell:>width$}").expect(fine);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::manage::{DriveKind, DriveState, HealthState, MemberStatus};

    fn group() -> GroupStatus {
        GroupStatus {
            name: "g0".into(),
            uuid: "u".into(),
            level: "raid5".into(),
            state: GroupState::Degraded,
            generation: 7,
            strip_kib: 64,
            block_bytes: 4096,
            capacity_bytes: 512 << 20,
            free_bytes: 384 << 20,
            rows: 4096,
            resync_done_rows: 1024,
            expansion_done_rows: None,
            background: crate::target::manage::BackgroundStatus::default(),
            durability: Durability::Journal,
            dirty_ram: false,
            copies: None,
            not_served: None,
            lost_blocks: Vec::new(),
            journal_bytes: 32 << 20,
            spares: Vec::new(),
            members: vec![
                MemberStatus {
                    index: 0,
                    drive: Some("d0".into()),
                    state: MemberState::Active,
                    reason: None,
                },
                MemberStatus {
                    index: 1,
                    drive: None,
                    state: MemberState::Missing,
                    reason: Some("no drive".into()),
                },
            ],
            vdisks: vec!["v0".into()],
        }
    }

    #[test]
    fn groups_say_how_many_members_are_left() {
        let expected = "\
GROUP  STATE     LEVEL  MEMBERS   STRIP  CAPACITY     FREE  VDISKS
g0     degraded  raid5      1/2  64 KiB   512 MiB  384 MiB       1
";
        assert_eq!(text(&Reply::Groups(vec![group()])), expected);
        assert!(text(&Reply::Groups(Vec::new())).contains("braid group create"));
    }

    #[test]
    fn group_shows_its_members_with_reasons() {
        let shown = text(&Reply::Group(group()));
        assert!(shown.ends_with(
            "MEMBER  DRIVE  STATE    REASON\n     0  d0     active\n     1  -      missing  no drive\n"
        ));
        let resyncing = GroupStatus {
            state: GroupState::Resyncing,
            ..group()
        };
        assert!(text(&Reply::Group(resyncing)).contains("resyncing 25 %"));
    }

    #[test]
    fn group_shows_why_nobody_serves_it() {
        let group = GroupStatus {
            not_served: Some("nodes are gone (1)".into()),
            ..group()
        };
        assert!(text(&Reply::Groups(vec![group.clone()])).contains("g0     not served"));
        assert!(text(&Reply::Group(group)).contains("nodes are gone (1)"));
    }

    /// CHECKLIST A12, PROTOCOL H18: how many nodes have in memory what is acknowledged from there, which, and whether that is fewer than wanted.
    #[test]
    fn group_shows_who_has_writes_in_memory() {
        let shown = |now: u8, partners: &[u8], restored: bool| {
            let copies = CopiesStatus {
                wanted: 3,
                now,
                partners: partners.to_vec(),
                restored,
            };
            let durability = Durability::Ram;
            text(&Reply::Group(GroupStatus {
                durability,
                copies: Some(copies),
                ..group()
            }))
        };
        for (shown, words) in [
            (
                shown(3, &[2, 4], true),
                "in the memory of 3 nodes, this one and slots 2, 4;",
            ),
            (
                shown(3, &[2, 4], false),
                "slots 2, 4; what was acknowledged before the last change of members is not there yet",
            ),
            (
                shown(2, &[2], true),
                "in the memory of 2 nodes, this one and slot 2, and 3 are wanted;",
            ),
            (
                shown(1, &[], true),
                "writes wait for the drives, because too few nodes are there",
            ),
        ] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
    }

    #[test]
    fn drives_say_why_they_are_out() {
        let drive = DriveStatus {
            name: "d1".into(),
            kind: DriveKind::File,
            path: Some("/tmp/d1".into()),
            state: DriveState::Failed,
            capacity_bytes: 1 << 30,
            block_bytes: 4096,
            group: Some("g0".into()),
            member_index: Some(1),
            reads: 1,
            writes: 2,
            read_bytes: 4096,
            written_bytes: 8192,
            forced_writes: 1,
            flushes: 7,
            errors: 3,
            reason: Some("medium error".into()),
            health: HealthStatus {
                state: HealthState::Evicted,
                reason: Some("51 media errors within an hour".into()),
                media_errors: 51,
                repaired: 50,
                ..HealthStatus::default()
            },
        };
        let shown = text(&Reply::Drives(vec![drive.clone()]));
        assert!(shown.ends_with("d1  medium error\n"), "{shown}");
        let shown = text(&Reply::Drive(drive));
        let has = |words: &[&str]| {
            shown
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        };
        assert!(has(&["member", "1 of g0"]), "{shown}");
        assert!(
            has(&["health", "evicted: 51 media errors within an hour"]),
            "{shown}"
        );
        assert!(has(&["media errors", "51, 50 repaired, 0 not"]), "{shown}");
    }

    #[test]
    fn counters_of_unequal_cores_stay_in_their_columns() {
        let core = |core, names: &[&str]| CoreCounters {
            core,
            counters: names
                .iter()
                .map(|name| ((*name).to_owned(), u64::from(core) + 1))
                .collect(),
        };
        let shown = text(&Reply::Counters(vec![core(0, &["a", "b"]), core(1, &["b", "c"])]));
        let expected = "\
COUNTER    CORE 0    CORE 1
a               1         -
b               1         2
c               -         2
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn latency_leaves_out_what_never_happened() {
        let stage = |count| StageLatency {
            core: 0,
            stage: "read".into(),
            count,
            p50_ns: 12_300,
            p99_ns: 50_000,
            p999_ns: 1_000_000,
            max_ns: 2_000_000,
        };
        assert!(text(&Reply::Latency(vec![stage(0)])).contains("Nothing"));
        let shown = text(&Reply::Latency(vec![stage(0), stage(5)]));
        assert_eq!(shown.lines().count(), 2);
        assert!(shown.contains("12.3 us  50.0 us  1.00 ms  2.00 ms"), "{shown}");
    }
}
