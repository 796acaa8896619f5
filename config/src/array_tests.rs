//! Tests of `[array]` and `[[peer]]`.

use crate::testing::{LEAST, good, refuses};
use crate::{Config, NamespaceName};

const SHELF: &str = "[[shelf]]\nname=\"s\"\nnqn=\"nqn.2026-01.io.braid:s\"\naddresses=[\"10.0.0.9:4420\"]\n\
                     [[drive]]\nname=\"d\"\nshelf=\"s\"\nnsid=1\n";

/// An array with these keys, which begin in line 4, and what follows.
fn array(keys: &str, rest: &str) -> String {
    format!("{LEAST}[array]\n{keys}\n{rest}")
}

const KEYS: &str = "name=\"vault\"\nslot=2\nkey_file=\"k\"\nlisten=\"10.0.0.1:4430\"";

#[test]
fn the_example_is_good_and_its_drives_are_the_arrays() {
    let config = good(Config::array_example());
    let array = config.array.expect("there is an array");
    assert_eq!((array.name.as_str(), array.slot, array.failures), ("vault", 0, 1));
    assert_eq!(array.peers.len(), 2);
    assert_eq!(array.drives.len(), 5);
    assert!(
        config.drives.is_empty() && config.shelves.is_empty(),
        "they are the array's"
    );
}

#[test]
fn one_node_alone_is_an_array() {
    let config = good(&array(KEYS, SHELF));
    let array = config.array.expect("there is an array");
    assert_eq!(array.drives[0].namespace, NamespaceName::Nsid(1));
    assert_eq!((array.slot, array.failures, array.peers.len()), (2, 1, 0));
    assert!(array.key_file.ends_with("k"));
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
            format!("{SHELF}[[group]]\nname=\"g\"\nlevel=\"raid0\"\ndrives=[\"d\"]\n"),
            "are not served yet",
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
