//! Tests of the file of a shelf.

use crate::testing::{LEAST, good, refuses};
use crate::{Config, Level, Shelf, VdiskSize};

/// A shelf with two drives; the next line is the seventh.
fn shelf(keys: &str) -> String {
    format!(
        "{LEAST}[shelf]\n{keys}\n[[drive]]\nname=\"d0\"\nmemory_mib=64\n[[drive]]\nname=\"d1\"\nmemory_mib=64\n"
    )
}

#[test]
fn the_example_is_good() {
    let config = good(Config::shelf_example());
    assert!(config.shelf.as_ref().is_some_and(|shelf| shelf.create));
    assert!(config.notes.is_empty(), "{:?}", config.notes);
}

#[test]
fn each_drive_is_a_group_with_a_quorum_area_and_data() {
    let config = good(&shelf("name = \"s\"\nquorum_mib = 4\nblock_bytes = 512"));
    let expected = Shelf {
        quorum_mib: 4,
        block_bytes: 512,
        create: false,
        command_log: None,
    };
    assert_eq!((config.node.name.as_str(), config.shelf), ("s", Some(expected)));
    let groups: Vec<_> = config
        .groups
        .iter()
        .map(|group| {
            (
                group.name.as_str(),
                group.level,
                group.drives.clone(),
                group.create,
            )
        })
        .collect();
    assert_eq!(
        groups,
        [
            ("d0", Level::Raid0, vec![0], false),
            ("d1", Level::Raid0, vec![1], false)
        ]
    );
    let vdisks: Vec<_> = config
        .vdisks
        .iter()
        .map(|vdisk| (vdisk.name.as_str(), vdisk.group, vdisk.size))
        .collect();
    assert_eq!(
        vdisks,
        [
            ("d0.quorum", 0, VdiskSize::Mib(4)),
            ("d0.data", 0, VdiskSize::Rest),
            ("d1.quorum", 1, VdiskSize::Mib(4)),
            ("d1.data", 1, VdiskSize::Rest),
        ]
    );
    assert_eq!(config.reactor.read_cache_mib, 0);
    assert!(config.health.hang_ms > 3_600_000, "commands are never given up");
}

#[test]
fn a_shelf_has_no_groups_and_no_node_section() {
    refuses(
        &(shelf("") + "[[group]]\nname=\"g\"\ndrives=[\"d0\"]\n"),
        11,
        &["no key \"group\""],
    );
    refuses(&(shelf("") + "[node]\n"), 11, &["no key \"node\""]);
    refuses(&shelf("quorum_mb = 1"), 4, &["did you mean quorum_mib?"]);
    refuses(&shelf("quorum_mib = 0"), 4, &["1..=1024"]);
    refuses(&shelf("block_bytes = 1024"), 4, &["512 or 4096"]);
    let long = shelf("").replace("d1", "a-name-that-has-twenty-six-b");
    refuses(&long, 9, &["too long for a shelf", "at most 25 bytes"]);
}

#[test]
fn the_command_log_is_a_file_beside_the_configuration_and_no_drive() {
    let config = good(&shelf("command_log = \"commands.log\""));
    let log = config.shelf.and_then(|shelf| shelf.command_log);
    assert!(log.is_some_and(|path| path.ends_with("commands.log")));
    let same = shelf("command_log = \"d\"") + "[[drive]]\nname=\"d2\"\npath=\"./d\"\nsize_mib=64\n";
    refuses(&same, 12, &["command_log"]);
}
