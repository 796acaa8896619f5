//! Tests of a node's `[[shelf]]` sections and of drives there.

use crate::testing::{LEAST, good, refuses};
use crate::{Backing, Config, NamespaceName, ShelfDrive};

/// A shelf, whose keys go on in line 6, and what follows it.
fn node(keys: &str, rest: &str) -> String {
    let shelf = "[[shelf]]\nname=\"s\"\nnqn=\"nqn.2026-01.io.braid:s\"\n";
    format!("{LEAST}{shelf}{keys}\n{rest}")
}

/// A shelf and this drive, whose name is in line 8.
fn drive(keys: &str) -> String {
    node(
        "addresses=[\"10.0.0.1:4420\"]",
        &format!("[[drive]]\nname=\"d\"\n{keys}\n"),
    )
}

#[test]
fn the_example_is_good() {
    let config = good(Config::fabric_example());
    assert!(config.shelf.is_none() && config.shelves.len() == 2);
    assert_eq!(
        config.shelves[0].host_nqn.as_str(),
        "nqn.2026-01.io.braid:host:node-a"
    );
    assert!(config.shelves.iter().all(|shelf| !shelf.take_over));
    assert!(config.notes.is_empty(), "{:?}", config.notes);
}

#[test]
fn a_drive_is_named_by_number_or_uuid() {
    let uuid = "00112233-4455-6677-8899-aabbccddeeff";
    for (keys, namespace) in [
        ("shelf=\"s\"\nnsid=3".to_owned(), NamespaceName::Nsid(3)),
        (
            format!("shelf=\"s\"\nuuid=\"{uuid}\""),
            NamespaceName::Uuid([
                0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
            ]),
        ),
    ] {
        let shelf = "s".to_owned();
        let expected = Backing::Shelf(ShelfDrive { shelf, namespace });
        assert_eq!(good(&drive(&keys)).drives[0].backing, expected);
    }
    let named = NamespaceName::Uuid([0xab; 16]).to_string();
    assert_eq!(named, "namespace abababab-abab-abab-abab-abababababab");
    refuses(&drive("shelf=\"s\""), 7, &["has no nsid", "braid shelf show"]);
    refuses(
        &drive("nsid=1\npath=\"a\""),
        9,
        &["nsid is too much", "set shelf"],
    );
    refuses(&drive("shelf=\"s\"\nnsid=0"), 10, &["out of range"]);
    refuses(&drive("shelf=\"s\"\nuuid=\"12\""), 10, &["is no UUID"]);
    refuses(
        &drive(&format!("shelf=\"s\"\nnsid=1\nuuid=\"{uuid}\"")),
        11,
        &["uuid is too much", "one of nsid and uuid"],
    );
    refuses(&drive("shelf=\"s\"\nnsid=1\npath=\"a\""), 11, &["path belongs"]);
    refuses(&drive("shelf=\"s\"\nnsid=1\nmemory_mib=8"), 9, &["shelf belongs"]);
}

#[test]
fn shelves_are_found_and_namespaces_are_one_drive() {
    refuses(
        &drive("shelf=\"S\"\nnsid=1"),
        8,
        &["there is no shelf \"S\"", "\"s\""],
    );
    let twice = drive("shelf=\"s\"\nnsid=1") + "[[drive]]\nname=\"e\"\nshelf=\"s\"\nnsid=1\n";
    refuses(&twice, 12, &["same namespace 1 as \"d\"", "line 8"]);
}

#[test]
fn a_shelf_needs_a_place_and_a_name() {
    refuses(&node("", ""), 3, &["has no addresses"]);
    refuses(&node("addresses=[]", ""), 6, &["addresses is empty"]);
    for wrong in ["10.0.0.1", "0.0.0.0:4420", "10.0.0.1:0", "shelf:4420"] {
        refuses(
            &node(&format!("addresses=[\"{wrong}\"]"), ""),
            6,
            &["nothing to connect to"],
        );
    }
    let twice = "addresses=[\"10.0.0.1:4420\", \"10.0.0.1:4420\"]";
    refuses(&node(twice, ""), 6, &["listed twice"]);
    let no_nqn = node("addresses=[\"10.0.0.1:4420\"]", "").replace("nqn=\"nqn.2026-01.io.braid:s\"\n", "");
    refuses(&no_nqn, 3, &["has no nqn"]);
}
