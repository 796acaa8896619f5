//! The configuration file on its way from the disk: reading it, and saying what is wrong with it or what it would run.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use config::{Backing, Config, Hosts, Poll, Problem, VdiskSize};
use serde_json::{Value, json};

use super::table::{Align, Table};
use super::units::{bytes_text, count_text};
use super::{Failure, print, print_json};
use crate::target::assemble::level_of;
use crate::target::rpc::Runtime;

/// Bytes at both ends of a drive that hold the group's description: 1 MiB each.
const METADATA_BYTES: u64 = 2 << 20;

/// Reads and checks a file. Errs if there is no such file; the problems are what is wrong inside it.
pub(super) fn read(file: &Path) -> Result<Result<Config, Vec<Problem>>, Failure> {
    let remedy = "name a configuration file; `braid config example` prints one";
    let failed =
        |error: io::Error| Failure::new(format!("{} cannot be read: {error}", file.display()), remedy);
    let mut bytes = Vec::new();
    let limit = config::TEXT_BYTES_MAX as u64 + 1;
    File::open(file)
        .map_err(failed)?
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > config::TEXT_BYTES_MAX {
        let what = format!(
            "{} is longer than {}",
            file.display(),
            bytes_text(config::TEXT_BYTES_MAX as u64)
        );
        return Err(Failure::new(what, remedy));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::new(
            format!("{} is no UTF-8 text (byte {at})", file.display()),
            "save it as UTF-8",
        )
    })?;
    Ok(config::parse(&text, file))
}

/// Prints problems as `file:line:column: what; remedy`, a line each.
pub(super) fn complain(problems: &[Problem]) {
    let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    let _ = io::stderr().write_all(lines.as_bytes()); // Nobody is left to tell if this fails.
}

/// `braid check-config`.
pub(super) fn check(file: &Path, json: bool) -> Result<(), Failure> {
    let config = match read(file)? {
        Ok(config) => config,
        Err(problems) if json => {
            print_json(
                &json!({"file": file, "problems": problems.iter().map(problem_json).collect::<Vec<_>>()}),
            )?;
            return Err(Failure::said());
        }
        Err(problems) => {
            complain(&problems);
            let what = format!("{} has {}", file.display(), count_text(problems.len(), "problem"));
            return Err(Failure::new(
                what,
                "correct the file; a node would not start with it",
            ));
        }
    };
    if json {
        return print_json(&json!({"file": file, "problems": [], "would_run": plan_json(&config)}));
    }
    let role = if config.shelf.is_some() { "shelf" } else { "node" };
    print(&format!(
        "{} is good. A {role} would run:\n\n{}",
        file.display(),
        plan_text(&config)
    ))
}

fn problem_json(problem: &Problem) -> Value {
    json!({"line": problem.line, "column": problem.column, "what": problem.what, "remedy": problem.remedy})
}

/// Size of a drive in bytes, as far as it can be told without the rights to open it.
fn drive_bytes(backing: &Backing) -> Option<u64> {
    match backing {
        Backing::Memory(memory) => Some(memory.size_mib << 20),
        Backing::Shelf(_) => None,
        Backing::Path { path, size_mib } => match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Some(metadata.len()),
            Ok(metadata) if metadata.file_type().is_block_device() => block_device_bytes(path),
            Ok(_) => None,
            Err(_) => size_mib.map(|mib| mib << 20),
        },
    }
}

/// Size of a block device in bytes.
///
/// Source: Linux kernel documentation, ABI/stable/sysfs-block, `size`: in sectors of 512 bytes.
pub(in crate::target) fn block_device_bytes(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?.rdev();
    let size = format!(
        "/sys/dev/block/{}:{}/size",
        libc::major(device),
        libc::minor(device)
    );
    fs::read_to_string(size)
        .ok()?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(512)
}

/// User data that a new group on these drives could hold, in bytes. `None` if the size of a drive is unknown.
fn group_bytes(config: &Config, group: &config::Group) -> Option<u64> {
    let sizes = group
        .drives
        .iter()
        .map(|&drive| drive_bytes(&config.drives[drive].backing));
    let smallest = sizes.collect::<Option<Vec<u64>>>()?.into_iter().min()?;
    let strip = u64::from(group.strip_kib) << 10;
    let level = level_of(group.level);
    let members = u8::try_from(group.drives.len()).ok()?;
    if members < level.members_min() {
        return None;
    }
    let rows = smallest.saturating_sub(METADATA_BYTES) / (strip * u64::from(level.member_strips(members)));
    rows.checked_mul(strip)?
        .checked_mul(u64::from(level.data_columns(members)))
}

fn or_unknown(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), bytes_text)
}

fn plan_text(config: &Config) -> String {
    let mut facts = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let poll = match config.reactor.poll {
        Poll::Busy => "busy polling".to_owned(),
        Poll::Adaptive { spin_us } => format!("adaptive polling ({spin_us} us)"),
        Poll::Interrupt => "no polling".to_owned(),
    };
    let (cores, memory) = (config.reactor.core_count(cpus), config.reactor.memory_mib);
    let hosts = match &config.subsystem.hosts {
        Hosts::Any => "any host".to_owned(),
        Hosts::List(hosts) => count_text(hosts.len(), "known host"),
    };
    let listen = config.listeners.iter().map(|listen| {
        let only = if listen.discovery_only {
            " (discovery only)"
        } else {
            ""
        };
        format!("{}{only}", listen.address)
    });
    let socket = Runtime::of_this_process().socket(&config.node);
    facts.row([
        "node".into(),
        format!("{}, managed on {}", config.node.name, socket.display()),
    ]);
    facts.row([
        "cores".into(),
        format!("{cores} of {cpus} CPUs, {poll}, {memory} MiB of buffers each"),
    ]);
    facts.row([
        "subsystem".into(),
        format!("{}, for {hosts}", config.subsystem.nqn),
    ]);
    facts.row(["listening on".into(), listen.collect::<Vec<_>>().join(", ")]);
    for note in &config.notes {
        facts.row(["note".into(), format!("line {}: {}", note.line, note.text)]);
    }
    [
        facts.text(),
        drives_text(config),
        groups_text(config),
        vdisks_text(config),
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect::<Vec<_>>()
    .join("\n")
}

fn drives_text(config: &Config) -> String {
    let mut table = Table::new(&[
        ("DRIVE", Align::Left),
        ("SIZE", Align::Right),
        ("GROUP", Align::Left),
        ("WHAT", Align::Left),
    ]);
    for (index, drive) in config.drives.iter().enumerate() {
        let group = config.groups.iter().find(|group| group.drives.contains(&index));
        let what = match &drive.backing {
            Backing::Memory(_) => "memory, lost at the end".to_owned(),
            Backing::Shelf(drive) => format!("{} of shelf {}", drive.namespace, drive.shelf),
            Backing::Path { path, .. } if path.exists() => path.display().to_string(),
            Backing::Path {
                path,
                size_mib: Some(_),
            } => format!("{} (would be made)", path.display()),
            Backing::Path { path, size_mib: None } => format!("{} (MISSING)", path.display()),
        };
        table.row([
            drive.name.clone(),
            or_unknown(drive_bytes(&drive.backing)),
            group.map_or("-", |group| &group.name).to_owned(),
            what,
        ]);
    }
    table.text()
}

fn groups_text(config: &Config) -> String {
    let mut table = Table::new(&[
        ("GROUP", Align::Left),
        ("LEVEL", Align::Left),
        ("DRIVES", Align::Right),
        ("STRIP", Align::Right),
        ("BLOCK", Align::Right),
        ("CAPACITY", Align::Right),
        ("FIRST START", Align::Left),
    ]);
    for group in &config.groups {
        table.row([
            group.name.clone(),
            group.level.name().to_owned(),
            group.drives.len().to_string(),
            format!("{} KiB", group.strip_kib),
            group.block_bytes.to_string(),
            or_unknown(group_bytes(config, group)),
            if group.create {
                "creates it on blank drives"
            } else {
                "needs it on the drives"
            }
            .to_owned(),
        ]);
    }
    table.text()
}

fn vdisks_text(config: &Config) -> String {
    let mut table = Table::new(&[
        ("VDISK", Align::Left),
        ("GROUP", Align::Left),
        ("NSID", Align::Right),
        ("SIZE", Align::Right),
    ]);
    for vdisk in &config.vdisks {
        table.row([
            vdisk.name.clone(),
            config.groups[vdisk.group].name.clone(),
            vdisk
                .nsid
                .map_or_else(|| "next".to_owned(), |nsid| nsid.to_string()),
            match vdisk.size {
                VdiskSize::Mib(mib) => bytes_text(mib << 20),
                VdiskSize::Rest => "all".to_owned(),
            },
        ]);
    }
    table.text()
}

fn plan_json(config: &Config) -> Value {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let drives = config.drives.iter().map(|drive| {
        let path = match &drive.backing {
            Backing::Memory(_) | Backing::Shelf(_) => None,
            Backing::Path { path, .. } => Some(path),
        };
        json!({"name": drive.name, "path": path, "capacity_bytes": drive_bytes(&drive.backing)})
    });
    let groups = config.groups.iter().map(|group| {
        let drives: Vec<&str> = group
            .drives
            .iter()
            .map(|&drive| config.drives[drive].name.as_str())
            .collect();
        json!({
            "name": group.name, "level": group.level.name(), "strip_kib": group.strip_kib,
            "block_bytes": group.block_bytes, "drives": drives, "create": group.create,
            "capacity_bytes": group_bytes(config, group),
        })
    });
    let vdisks = config.vdisks.iter().map(|vdisk| {
        let size = match vdisk.size {
            VdiskSize::Mib(mib) => json!(mib << 20),
            VdiskSize::Rest => json!("all"),
        };
        json!({"name": vdisk.name, "group": config.groups[vdisk.group].name, "nsid": vdisk.nsid, "size_bytes": size})
    });
    let listen = config.listeners.iter().map(
        |listen| json!({"address": listen.address.to_string(), "discovery_only": listen.discovery_only}),
    );
    let notes = config
        .notes
        .iter()
        .map(|note| json!({"line": note.line, "column": note.column, "text": note.text}));
    json!({
        "node": config.node.name,
        "rpc_socket": Runtime::of_this_process().socket(&config.node),
        "nqn": config.subsystem.nqn.as_str(),
        "cores": config.reactor.core_count(cpus),
        "memory_mib": config.reactor.memory_mib,
        "listen": listen.collect::<Vec<_>>(),
        "drives": drives.collect::<Vec<_>>(),
        "groups": groups.collect::<Vec<_>>(),
        "vdisks": vdisks.collect::<Vec<_>>(),
        "notes": notes.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(text: &str) -> Config {
        config::parse(text, Path::new("/nonexistent-braid/node.toml")).unwrap()
    }

    const THREE: &str = r#"
[[listen]]
address = "127.0.0.1:4420"
[[drive]]
name = "m0"
memory_mib = 64
[[drive]]
name = "m1"
memory_mib = 66
[[drive]]
name = "d2"
path = "d2.img"
size_mib = 80
[[group]]
name = "g0"
drives = ["m0", "m1", "d2"]
create = true
[[vdisk]]
name = "v0"
group = "g0"
size_mib = "all"
"#;

    #[test]
    fn capacity_is_that_of_the_smallest_drive_times_its_data_members() {
        let config = example(THREE);
        assert_eq!(group_bytes(&config, &config.groups[0]), Some(2 * (62 << 20)));
        assert_eq!(
            plan_json(&config)["groups"][0]["capacity_bytes"],
            2_u64 * (62 << 20)
        );
    }

    #[test]
    fn plan_names_everything_that_would_run() {
        let text = plan_text(&example(THREE));
        for word in [
            "127.0.0.1:4420",
            "m0",
            "would be made",
            "124 MiB",
            "raid5",
            "v0",
            "memory, lost at the end",
        ] {
            assert!(text.contains(word), "{word} in {text}");
        }
        let missing = plan_text(&example(&THREE.replace("size_mib = 80", "")));
        assert!(missing.contains("MISSING") && missing.contains('?'), "{missing}");
    }
}
