//! Tests of `[array]` and `[[peer]]`.

use crate::testing::{LEAST, bad, good, refuses};
use crate::{ArrayText, Encryption, NamespaceName, Replication};

const SECOND: &str = "[[drive]]\nname=\"e\"\nshelf=\"s\"\nnsid=3\n";
const SHELF: &str = "[[shelf]]\nname=\"s\"\nnqn=\"nqn.2026-01.io.braid:s\"\naddresses=[\"10.0.0.9:4420\"]\n\
                     [[drive]]\nname=\"d\"\nshelf=\"s\"\nnsid=1\n";

/// An array with these keys, which begin in line 4, and what follows.
fn array(keys: &str, rest: &str) -> String {
    format!("{LEAST}[array]\n{keys}\n{rest}")
}

const KEYS: &str = "name=\"vault\"\nslot=2\nkey_file=\"k\"\nlisten=\"10.0.0.1:4430\"";

#[test]
fn the_example_is_good_and_its_drives_are_the_arrays() {
    for (nodes, slot) in [(1, 0), (2, 0), (2, 1), (4, 0), (4, 3), (8, 7)] {
        let config = good(&ArrayText::example(nodes, slot).to_string());
        assert_eq!(
            (config.groups.len(), config.vdisks.len(), config.drives.len()),
            (1, 1, 5)
        );
        let array = config.array.expect("there is an array");
        assert_eq!(
            (array.name.as_str(), array.slot, array.failures),
            ("vault", slot, 1)
        );
        assert_eq!(array.peers.len(), usize::from(nodes) - 1);
        assert_eq!(array.drives.len(), 5);
    }
}

#[test]
fn what_is_written_for_an_array_is_read_as_it_was() {
    let text = ArrayText {
        name: "other".to_owned(),
        key_file: "k\\ey".to_owned(),
        encryption: Encryption::Tls,
        peers: vec![(
            5,
            vec!["10.0.0.2:1".parse().unwrap(), "10.1.0.2:1".parse().unwrap()],
        )],
        ..ArrayText::example(3, 2)
    };
    let parsed = crate::parse(&text.to_string(), std::path::Path::new("node.toml"));
    match parsed {
        Ok(config) => {
            let array = config.array.expect("there is an array");
            assert_eq!(array.name, text.name);
            assert!(array.key_file.ends_with("k\\ey"));
            assert_eq!(array.encryption, Encryption::Tls);
            assert_eq!((array.peers[0].slot, array.peers[0].addresses.len()), (5, 2));
        }
        Err(problems) => panic!("{problems:?}"),
    }
}

#[test]
fn one_node_alone_is_an_array() {
    let config = good(&array(KEYS, SHELF));
    let array = config.array.expect("there is an array");
    assert_eq!(array.drives[0].namespace, NamespaceName::Nsid(1));
    assert_eq!((array.slot, array.failures, array.peers.len()), (2, 1, 0));
    assert_eq!(array.encryption, Encryption::None);
    assert!(array.key_file.ends_with("k"));
}

#[test]
fn groups_of_an_array_keep_its_drives_and_its_name() {
    let group = "[[group]]\nname=\"g\"\nlevel=\"raid1\"\ndrives=[\"e\", \"d\"]\n";
    let config = good(&array(KEYS, &format!("{SHELF}{SECOND}{group}")));
    assert_eq!((config.drives.len(), config.shelves.len()), (2, 1));
    assert_eq!(config.groups[0].drives, [1, 0]);
    let array = config.array.as_ref().expect("there is an array");
    let named = format!("nqn.2026-01.io.braid:array:{}", array.name);
    assert_eq!(config.subsystem.nqn.as_str(), named);
}

#[test]
fn a_group_of_some_nodes_names_them() {
    let group = "[[group]]\nname=\"g\"\nlevel=\"raid1\"\ndrives=[\"e\", \"d\"]\n";
    let vdisk = "[[vdisk]]\nname=\"v\"\ngroup=\"g\"\nsize_mib=\"all\"\n";
    let peer = "[[peer]]\nslot=4\naddresses=[\"10.0.0.2:4430\"]\n";
    let text = |nodes: &str, vdisk: &str| array(KEYS, &format!("{SHELF}{SECOND}{peer}{group}{nodes}{vdisk}"));
    let config = good(&text("nodes=[4]\n", &format!("{vdisk}nsid=7\n")));
    assert_eq!(config.groups[0].nodes, Some(vec![4]));
    assert_eq!(good(&text("", vdisk)).groups[0].nodes, None);
    for (text, what) in [
        (text("nodes=[2, 3]\n", ""), "no node has slot 3"),
        (text("nodes=[2, 2]\n", ""), "names a node twice"),
        (
            text("nodes=[9]\n", ""),
            "nodes is not a list of 1 to 8 whole numbers in 0..=7",
        ),
        (text("nodes=[2]\n", vdisk), "has no nsid"),
    ] {
        let all = bad(&text);
        assert!(
            all.iter().any(|problem| problem.to_string().contains(what)),
            "{what}: {all:?}"
        );
    }
}

#[test]
fn what_is_wrong_is_told_with_its_remedy() {
    for (keys, rest, what) in [
        (
            "slot=2\nkey_file=\"k\"\nlisten=\"10.0.0.1:1\"".to_owned(),
            SHELF.to_owned(),
            "name",
        ),
        (KEYS.replace("slot=2", "slot=8"), SHELF.to_owned(), "slot"),
        (KEYS.replace("slot=2\n", ""), SHELF.to_owned(), "slot"),
        (KEYS.replace(":4430", ""), SHELF.to_owned(), "listen"),
        (
            format!("{KEYS}\nencryption=\"tsl\""),
            SHELF.to_owned(),
            "encryption = \"tsl\" is not known",
        ),
        (
            format!("{KEYS}\nencryption=\"tsl\""),
            SHELF.to_owned(),
            "did you mean \"tls\"? It may be \"none\", \"tls\"",
        ),
        (KEYS.to_owned(), String::new(), "has 0 drives"),
        (
            KEYS.to_owned(),
            format!("{SHELF}[[peer]]\nslot=2\naddresses=[\"10.0.0.2:4430\"]\n"),
            "slot 2 is taken",
        ),
        (
            KEYS.to_owned(),
            format!("{SHELF}[[peer]]\nslot=1\naddresses=[\"0.0.0.0:4430\"]\n"),
            "is no address",
        ),
        (
            KEYS.to_owned(),
            format!("{SHELF}[[peer]]\nslot=1\naddresses=[]\n"),
            "addresses is empty",
        ),
        (
            KEYS.to_owned(),
            format!(
                "{SHELF}[[drive]]\nname=\"own\"\nmemory_mib=16\n[[group]]\nname=\"g\"\nlevel=\"raid0\"\ndrives=[\"d\"]\n"
            ),
            "is this node's alone",
        ),
        (
            KEYS.to_owned(),
            format!(
                "{SHELF}{SECOND}[[group]]\nname=\"g\"\nlevel=\"raid1\"\ndrives=[\"d\", \"e\"]\nspares=[\"d\"]\n"
            ),
            "a shared group takes none yet",
        ),
    ] {
        let problems = crate::parse(&array(&keys, &rest), std::path::Path::new("node.toml")).expect_err(what);
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(texts.iter().any(|text| text.contains(what)), "{what}: {texts:?}");
    }
    refuses(
        &format!("{LEAST}[[peer]]\nslot=1\naddresses=[\"10.0.0.2:4430\"]\n"),
        3,
        &["there is no [array]"],
    );
}

/// CHECKLIST A10: a virtual disk may be served by some of the nodes.
#[test]
fn ports_are_at_nodes_that_there_are() {
    let group = "[[group]]\nname=\"g\"\nlevel=\"raid1\"\ndrives=[\"d\", \"e\"]\n";
    let peer = "[[peer]]\nslot=5\naddresses=[\"10.0.0.2:4430\"]\n";
    let with = |ports: &str| {
        let vdisk = format!("[[vdisk]]\nname=\"v\"\ngroup=\"g\"\nsize_mib=1\n{ports}");
        array(KEYS, &format!("{peer}{SHELF}{SECOND}{group}{vdisk}"))
    };
    assert_eq!(good(&with("")).vdisks[0].ports, None);
    assert_eq!(good(&with("ports=[5, 2]")).vdisks[0].ports, Some(vec![2, 5]));
    for (ports, what) in [
        ("ports=[2, 3]", "no node of the array has slot 3"),
        ("ports=[2, 2]", "ports names slot 2 twice"),
        ("ports=[]", "a list of 1 to 8 whole numbers in 0..=7"),
        ("ports=[8]", "a list of 1 to 8 whole numbers in 0..=7"),
    ] {
        let problems = crate::parse(&with(ports), std::path::Path::new("node.toml")).expect_err(what);
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(texts.iter().any(|text| text.contains(what)), "{what}: {texts:?}");
    }
    let some = group.replace("level", "nodes=[2]\nlevel");
    let vdisk = "[[vdisk]]\nname=\"v\"\ngroup=\"g\"\nsize_mib=1\nnsid=1\nports=[5]\n";
    let all = bad(&array(KEYS, &format!("{peer}{SHELF}{SECOND}{some}{vdisk}")));
    assert!(
        all.iter()
            .any(|problem| problem.what.contains("slot 5 does not serve its group")),
        "{all:?}"
    );
    let alone = "[[drive]]\nname=\"a\"\nmemory_mib=16\n[[group]]\nname=\"g\"\nlevel=\"raid0\"\ndrives=[\"a\"]\n\
                 [[vdisk]]\nname=\"v\"\ngroup=\"g\"\nsize_mib=1\nports=[0]\n";
    refuses(&format!("{LEAST}{alone}"), 14, &["there is no [array]"]);
}

/// What is acknowledged from memory is in the memory of at least two nodes, and of no more than there are.
/// CHECKLIST C7, C8: only what other nodes keep in memory may be done before they have it.
#[test]
fn replication_needs_copies() {
    let group = "[[group]]\nname=\"g\"\nlevel=\"raid1\"\ndrives=[\"d\", \"e\"]\n";
    let vdisk = |when: &str| format!("[[vdisk]]\nname=\"v\"\ngroup=\"g\"\nsize_mib=1\nreplication={when}\n");
    let peer = "[[peer]]\nslot=5\naddresses=[\"10.0.0.5:4430\"]\n";
    let file = |durability: &str, when: &str| {
        array(
            KEYS,
            &format!("{SHELF}{SECOND}{group}{durability}{}{peer}", vdisk(when)),
        )
    };
    let ram = "durability=\"ram\"\n";
    for (when, replication) in [
        ("\"sync\"", Replication::Sync),
        ("\"pseudo-sync\"", Replication::PseudoSync),
        ("\"async\"", Replication::Async),
    ] {
        assert_eq!(good(&file(ram, when)).vdisks[0].replication, replication);
    }
    good(&file("", "\"sync\""));
    for (durability, when, what) in [
        (
            "",
            "\"async\"",
            "acknowledges nothing from the memory of several nodes",
        ),
        (ram, "\"later\"", "replication"),
        (ram, "7", "replication"),
    ] {
        let all = bad(&file(durability, when));
        assert!(
            all.iter().any(|problem| problem.to_string().contains(what)),
            "{what}: {all:?}"
        );
    }
    let alone =
        "[[drive]]\nname=\"a\"\nmemory_mib=16\n[[group]]\nname=\"g\"\nlevel=\"raid0\"\ndrives=[\"a\"]\n";
    let alone = format!("{LEAST}{alone}{}", vdisk("\"async\""));
    refuses(
        &alone,
        14,
        &["acknowledges nothing from the memory of several nodes"],
    );
}

#[test]
fn copies_need_nodes() {
    let group = |more: &str| {
        format!("{SHELF}{SECOND}[[group]]\nname=\"g\"\nlevel=\"raid1\"\ndrives=[\"d\", \"e\"]\n{more}")
    };
    let peer = "[[peer]]\nslot=5\naddresses=[\"10.0.0.5:4430\"]\n";
    let ram = "durability=\"ram\"\n";
    assert_eq!(good(&array(KEYS, &(group(ram) + peer))).groups[0].copies, 2);
    for (rest, what) in [
        (group(ram), "and one serves it"),
        (
            group("durability=\"ram\"\ncopies=3\n") + peer,
            "3 copies of each write, and 2 nodes serve it",
        ),
        (group("copies=2\n") + peer, "acknowledges nothing from memory"),
        (group("durability=\"ram\"\ncopies=1\n") + peer, "copies"),
    ] {
        let all = bad(&array(KEYS, &rest));
        assert!(
            all.iter().any(|problem| problem.to_string().contains(what)),
            "{what}: {all:?}"
        );
    }
    let alone = "[[drive]]\nname=\"a\"\nmemory_mib=16\n[[group]]\nname=\"g\"\nlevel=\"raid0\"\ndrives=[\"a\"]\ncopies=2\n";
    refuses(&format!("{LEAST}{alone}"), 10, &["there is no [array]"]);
}
