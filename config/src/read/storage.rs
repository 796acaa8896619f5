//! What the node stores on: drives, groups and virtual disks.

use std::num::NonZeroU32;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use super::field::{name, path, power_of_two};
use super::{GroupDraft, Placed, VdiskDraft, fabric, one};
use crate::problem::Problems;
use crate::section::{Found, Section};
use crate::{
    ARRAY_SLOTS, Background, Backing, Drive, Durability, GROUP_DRIVES_MAX, GROUP_SPARES_MAX,
    LATENCY_TARGET_US_MAX, Level, MemoryDrive, RATE_MIB_S_MAX, Replication, VdiskSize,
};

/// Smallest drive in MiB: 1 MiB of metadata at each end, the rest for rows of the largest strip.
const DRIVE_MIB_MIN: u64 = 8;
/// Largest drive that may be made in MiB: 16 TiB.
const DRIVE_MIB_MAX: u64 = 1 << 24;
/// Largest namespace identifier: keeps the active namespace list in one page.
const NSID_MAX: u32 = 1024;

pub(crate) fn drive(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Option<Placed<Drive>> {
    let (name, at) = name(&mut section, "drive", "d0", problems);
    let path_found = section.text("path", problems);
    let size_mib = section.number("size_mib", DRIVE_MIB_MIN..=DRIVE_MIB_MAX, problems);
    let memory_mib = section.number("memory_mib", DRIVE_MIB_MIN..=DRIVE_MIB_MAX, problems);
    let delay_us = section.number("delay_us", 0..=10_000_000, problems);
    let bandwidth_mib_s = section.number("bandwidth_mib_s", 1..=u32::MAX, problems);
    let error_every = section.number("error_every", 1..=u32::MAX, problems);
    let shelf = fabric::drive(&mut section, problems);
    let mut belongs = |key: &str, place: Option<Range<usize>>, to: &str| {
        if let Some(place) = place {
            let what = format!("{}: {key} belongs to drives with {to}", section.title());
            problems.push(&place, what, format!("remove {key}, or set {to}"));
        }
    };
    if memory_mib.is_absent() {
        belongs("delay_us", delay_us.place(), "memory_mib");
        belongs("bandwidth_mib_s", bandwidth_mib_s.place(), "memory_mib");
        belongs("error_every", error_every.place(), "memory_mib");
    } else {
        let other = "a file or block device, this one has memory_mib";
        belongs("path", path_found.place(), other);
        belongs("shelf", shelf.place(), "a namespace, this one has memory_mib");
        belongs("size_mib", size_mib.place(), "path");
    }
    if !shelf.is_absent() {
        let other = "a file or block device, this one has shelf";
        belongs("path", path_found.place(), other);
        belongs("size_mib", size_mib.place(), other);
    }
    let backing = match (path_found, memory_mib) {
        (Found::Absent, Found::Absent) if !shelf.is_absent() => shelf.some().map(Backing::Shelf),
        (Found::Value(text, at), Found::Absent) => {
            path(text, &at, &section, "path", problems).map(|path| Backing::Path {
                path,
                size_mib: size_mib.some(),
            })
        }
        (_, Found::Value(size_mib, _)) => Some(Backing::Memory(MemoryDrive {
            size_mib,
            delay_us: delay_us.or(0),
            bandwidth_mib_s: bandwidth_mib_s.some().and_then(NonZeroU32::new),
            error_every: error_every.some().and_then(NonZeroU32::new),
        })),
        (Found::Absent, Found::Absent) => {
            section.missing(
                "path",
                "path = \"d0.img\" (a file or block device), memory_mib = 256, or shelf = \"shelf-a\" with nsid = 1",
                problems,
            );
            None
        }
        (_, Found::Wrong) | (Found::Wrong, Found::Absent) => None,
    };
    section.finish(problems);
    // A drive whose backing is wrong is reported; it keeps its name, so that groups still find it.
    let backing = backing.unwrap_or(Backing::Path {
        path: PathBuf::new(),
        size_mib: None,
    });
    Some(Placed {
        value: Drive {
            name: name?.to_owned(),
            backing,
        },
        at,
    })
}

pub(crate) fn group<'a>(
    mut section: Section<'a, '_>,
    problems: &mut Problems<'_>,
) -> Option<Placed<GroupDraft<'a>>> {
    let (name, at) = name(&mut section, "group", "g0", problems);
    let level = section
        .choice("level", &Level::ALL.map(|level| (level.name(), level)), problems)
        .or(Level::Raid5);
    let strip = section.number("strip_kib", 4..=1024, problems);
    let strip_kib = power_of_two(strip, "strip_kib", &section, problems).or(64);
    let block = section.number("block_bytes", 512..=4096, problems);
    if let Found::Value(bytes, at) = &block
        && ![512, 4096].contains(bytes)
    {
        let what = format!("{}: block_bytes = {bytes} is no block size", section.title());
        problems.push(at, what, "write 512 or 4096");
    }
    let drives = section.texts("drives", GROUP_DRIVES_MAX, problems);
    if drives.is_absent() {
        section.missing("drives", "drives = [\"d0\", \"d1\", \"d2\"]", problems);
    }
    let create = section.flag("create", problems).or(false);
    let choices = [("journal", Durability::Journal), ("ram", Durability::Ram)];
    let durability = match section.choice("durability", &choices, problems) {
        Found::Value(durability, at) => Some((durability, at)),
        Found::Absent | Found::Wrong => None,
    };
    let copies = match section.number("copies", 2..=u32::from(ARRAY_SLOTS), problems) {
        Found::Value(copies, at) => u8::try_from(copies).ok().map(|copies| (copies, at)),
        Found::Absent | Found::Wrong => None,
    };
    let copies_min = match section.number("min_copies", 1..=ARRAY_SLOTS, problems) {
        Found::Value(least, at) => Some((least, at)),
        Found::Absent | Found::Wrong => None,
    };
    let journal_mib = section.number("journal_mib", 1..=65_536, problems).some();
    let spares = section.texts("spares", GROUP_SPARES_MAX, problems);
    let accept_dirty_degraded = section.flag("accept_dirty_degraded", problems).or(false);
    let background = background(one(&mut section, "background", problems), problems);
    let accept_lost_writes = section.flag("accept_lost_writes", problems).or(false);
    let nodes = section.numbers(
        "nodes",
        usize::from(ARRAY_SLOTS) - 1,
        usize::from(ARRAY_SLOTS),
        problems,
    );
    let nodes = match nodes {
        Found::Value(nodes, at) => Some((nodes, at)),
        Found::Absent | Found::Wrong => None,
    };
    let drives_at = drives.place().unwrap_or(section.at().clone());
    section.finish(problems);
    let value = GroupDraft {
        name: name?,
        level,
        strip_kib,
        block_bytes: block.or(4096),
        drives: drives.some(),
        drives_at,
        create,
        durability,
        copies,
        copies_min,
        journal_mib,
        spares: spares.some().unwrap_or_default(),
        accept_dirty_degraded,
        background,
        accept_lost_writes,
        nodes,
    };
    Some(Placed { value, at })
}

fn background(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Background {
    let mut limit = |key, most| NonZeroU32::new(section.number(key, 0..=most, problems).or(0));
    let background = Background {
        rate_mib_s: limit("rate_mib_s", RATE_MIB_S_MAX),
        latency_target_us: limit("latency_target_us", LATENCY_TARGET_US_MAX),
    };
    section.finish(problems);
    background
}

pub(crate) fn vdisk<'a>(
    mut section: Section<'a, '_>,
    problems: &mut Problems<'_>,
) -> Option<Placed<VdiskDraft<'a>>> {
    let (name, at) = name(&mut section, "vdisk", "v0", problems);
    let group = section.text("group", problems);
    if group.is_absent() {
        section.missing("group", "group = \"g0\"", problems);
    }
    let group = match group {
        Found::Value(group, at) => Some((group, at)),
        Found::Absent | Found::Wrong => None,
    };
    let size = match section.peek("size_mib").map(Spanned::get_ref) {
        Some(DeValue::String(_)) => section.choice("size_mib", &[("all", VdiskSize::Rest)], problems),
        Some(
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_),
        )
        | None => section
            .number("size_mib", 1..=1 << 40, problems)
            .map(VdiskSize::Mib),
    };
    if size.is_absent() {
        section.missing("size_mib", "size_mib = 128 or size_mib = \"all\"", problems);
    }
    let size_at = size.place().unwrap_or(section.at().clone());
    let nsid = match section.number("nsid", 1..=NSID_MAX, problems) {
        Found::Value(nsid, at) => Some((nsid, at)),
        Found::Absent | Found::Wrong => None,
    };
    let slots = usize::from(ARRAY_SLOTS);
    let ports = match section.numbers("ports", slots - 1, slots, problems) {
        Found::Value(slots, at) => {
            let slots = slots
                .into_iter()
                .map(|slot| u8::try_from(slot).expect("it is below 8"));
            Some((slots.collect(), at))
        }
        Found::Absent | Found::Wrong => None,
    };
    let choices = [
        ("sync", Replication::Sync),
        ("pseudo-sync", Replication::PseudoSync),
        ("async", Replication::Async),
    ];
    let replication = match section.choice("replication", &choices, problems) {
        Found::Value(replication, at) => Some((replication, at)),
        Found::Absent | Found::Wrong => None,
    };
    section.finish(problems);
    // A size that is wrong was reported; 1 MiB stands for it.
    let size = size.or(VdiskSize::Mib(1));
    Some(Placed {
        value: VdiskDraft {
            name: name?,
            group,
            size,
            size_at,
            nsid,
            ports,
            replication,
        },
        at,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::testing::{LEAST, good, refuses};

    use super::*;

    /// `LEAST` and a section after it; the section's first key stands in line 4.
    fn with(section: &str) -> String {
        format!("{LEAST}{section}")
    }

    #[test]
    fn relative_paths_count_from_the_files_folder() {
        let config = good(&with(
            "[node]\nrpc_socket = \"run/n.sock\"\n[[drive]]\nname=\"d\"\npath=\"d.img\"\n",
        ));
        assert_eq!(
            config.node.rpc_socket.as_deref(),
            Some(Path::new("/etc/braid/run/n.sock"))
        );
        let path = "/etc/braid/d.img".into();
        assert_eq!(config.drives[0].backing, Backing::Path { path, size_mib: None });
        refuses(
            &with("[[drive]]\nname = \"d\"\npath = \"\"\n"),
            5,
            &["is no path"],
        );
        refuses(
            &with("[[drive]]\nname = \"d\"\npath = \"a\\u0000\"\n"),
            5,
            &["is no path"],
        );
    }

    #[test]
    fn a_drive_is_a_path_or_memory_and_not_both() {
        refuses(
            &with("[[drive]]\nname = \"d\"\n"),
            3,
            &["[[drive]] \"d\" has no path", "memory_mib"],
        );
        refuses(
            &with("[[drive]]\nname = \"d\"\nmemory_mib = 8\npath = \"a\"\n"),
            6,
            &["path belongs to drives"],
        );
        refuses(
            &with("[[drive]]\nname = \"d\"\nmemory_mib = 8\nsize_mib = 9\n"),
            6,
            &["size_mib belongs"],
        );
        for key in ["delay_us", "bandwidth_mib_s", "error_every"] {
            let text = with(&format!("[[drive]]\nname = \"d\"\npath = \"a\"\n{key} = 1\n"));
            refuses(&text, 6, &[key, "memory_mib"]);
        }
    }

    #[test]
    fn drives_too_small_for_their_metadata_are_refused() {
        refuses(
            &with("[[drive]]\nname = \"d\"\nmemory_mib = 7\n"),
            5,
            &["8..=16777216"],
        );
        refuses(
            &with("[[drive]]\nname = \"d\"\npath = \"a\"\nsize_mib = 7\n"),
            6,
            &["8..=16777216"],
        );
        good(&with("[[drive]]\nname = \"d\"\nmemory_mib = 8\n"));
    }

    #[test]
    fn memory_drive_options() {
        let text =
            "[[drive]]\nname=\"d\"\nmemory_mib=8\ndelay_us=80\nbandwidth_mib_s=3000\nerror_every=1000\n";
        let memory = MemoryDrive {
            size_mib: 8,
            delay_us: 80,
            bandwidth_mib_s: NonZeroU32::new(3000),
            error_every: NonZeroU32::new(1000),
        };
        assert_eq!(good(&with(text)).drives[0].backing, Backing::Memory(memory));
        refuses(
            &with("[[drive]]\nname=\"d\"\nmemory_mib=8\nerror_every=0\n"),
            6,
            &["out of range"],
        );
    }

    #[test]
    fn background_work_has_limits_or_none() {
        use crate::Background;
        let background = |keys: &str| format!("{}[group.background]\n{keys}\n", crate::testing::GROUP);
        assert_eq!(
            good(crate::testing::GROUP).groups[0].background,
            Background::default()
        );
        let limits = good(&background("rate_mib_s = 200\nlatency_target_us = 0")).groups[0].background;
        assert_eq!(
            (limits.rate_mib_s.map(NonZeroU32::get), limits.latency_target_us),
            (Some(200), None)
        );
        refuses(&background("rate_mib_s = -1"), 16, &["rate_mib_s", "0..=1048576"]);
        refuses(&background("rate_mib = 1"), 16, &["did you mean rate_mib_s?"]);
    }

    #[test]
    fn group_numbers_are_checked() {
        let group = |line: &str| format!("{}{line}\n", crate::testing::GROUP);
        refuses(&group("strip_kib = 48"), 15, &["no power of two", "32 or 64"]);
        refuses(&group("strip_kib = 2048"), 15, &["4..=1024"]);
        refuses(&group("block_bytes = 1024"), 15, &["512 or 4096"]);
        refuses(&group("level = \"raid60\""), 15, &["did you mean \"raid6\"?"]);
        for level in Level::ALL {
            let line = format!("level = \"{}\"", level.name());
            let (drives, least) = (3, level.drives_min());
            if drives >= least {
                assert_eq!(good(&group(&line)).groups[0].level, level);
            } else {
                refuses(&group(&line), 14, &[&format!("needs at least {least}")]);
            }
        }
        assert_eq!(good(&group("")).groups[0].level, Level::Raid5, "by default");
        refuses(&group("create = \"yes\""), 15, &["true or false"]);
        assert_eq!(good(&group("block_bytes = 512")).groups[0].block_bytes, 512);
    }
}
