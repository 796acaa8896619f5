//! Tests of replication groups, `[[replication_rule]]` and `min_copies`.

use crate::testing::{LEAST, bad, good, refuses};
use crate::{Array, ReplicationRule};

/// The node in slot 0 of four over two drives, in groups `a`, `a`, `b` and `c` by slot as far as these are named, and what follows.
fn array(groups: [&str; 4], rest: &str) -> String {
    let group = |slot: usize| match groups[slot] {
        "" => String::new(),
        name => format!("replication_group=\"{name}\"\n"),
    };
    let mut text = format!(
        "{LEAST}[array]\nname=\"vault\"\nslot=0\nkey_file=\"k\"\nlisten=\"10.0.0.1:4430\"\n{}\
         [[shelf]]\nname=\"s\"\nnqn=\"nqn.2026-01.io.braid:s\"\naddresses=[\"10.0.0.9:4420\"]\n\
         [[drive]]\nname=\"d\"\nshelf=\"s\"\nnsid=1\n[[drive]]\nname=\"e\"\nshelf=\"s\"\nnsid=3\n",
        group(0)
    );
    for slot in 1..4 {
        text += &format!(
            "[[peer]]\nslot={slot}\naddresses=[\"10.0.0.{}:4430\"]\n{}",
            slot + 1,
            group(slot)
        );
    }
    text + rest
}

/// A redundancy group that acknowledges from memory, with these keys.
fn ram(keys: &str) -> String {
    format!("[[group]]\nname=\"g\"\nlevel=\"raid1\"\ndrives=[\"d\", \"e\"]\ndurability=\"ram\"\n{keys}\n")
}

fn rule(from: &str, to: &str) -> String {
    format!("[[replication_rule]]\nfrom=\"{from}\"\nto={to}\n")
}

const GROUPS: [&str; 4] = ["a", "a", "b", "c"];

fn keepers(array: &Array) -> [Vec<u8>; 4] {
    [0, 1, 2, 3].map(|slot| array.keepers_of(slot))
}

/// CHECKLIST C4, C5: partners are any other nodes, those outside of the own replication group, or those of the groups that a rule names.
#[test]
fn whoever_may_keep_copies_is_outside_of_the_own_replication_group() {
    let of = |text: &str| good(text).array.expect("there is an array");
    assert_eq!(
        keepers(&of(&array([""; 4], ""))),
        [vec![1, 2, 3], vec![0, 2, 3], vec![0, 1, 3], vec![0, 1, 2]]
    );
    assert_eq!(
        keepers(&of(&array(GROUPS, &ram("copies=3")))),
        [vec![2, 3], vec![2, 3], vec![0, 1, 3], vec![0, 1, 2]]
    );
    let rules = rule("a", "[\"c\"]") + &rule("c", "[\"b\", \"a\"]");
    let array = of(&array(GROUPS, &(rules + &ram(""))));
    assert_eq!(keepers(&array), [vec![3], vec![3], vec![0, 1, 3], vec![0, 1, 2]]);
    let first = ReplicationRule {
        from: "a".to_owned(),
        to: vec!["c".to_owned()],
    };
    assert_eq!(array.replication_rules[0], first);
}

/// CHECKLIST C5: every node can tell from its own file whether it works out the same as the others; so slots, order and what is not about copies make no difference, and all else does.
#[test]
fn files_of_nodes_that_work_out_the_same_say_the_same() {
    let of = |text: &str| {
        let config = good(text);
        let array = config.array.as_ref().expect("there is an array");
        array.replication_terms(&config.groups)
    };
    let rules = [rule("a", "[\"c\", \"b\"]"), rule("b", "[\"a\"]")];
    let first = array(GROUPS, &(rules.concat() + &ram("copies=2")));
    // The file of the node in slot 1, which is in the same group, with all in another order.
    let swapped = [("slot=0", "slot=9"), ("slot=1", "slot=0"), ("slot=9", "slot=1")];
    let rules = [rule("b", "[\"a\"]"), rule("a", "[\"b\", \"c\"]")];
    let second = array(GROUPS, &(ram("strip_kib=16") + &rules.concat()));
    let second = swapped
        .iter()
        .fold(second, |text, (from, to)| text.replace(from, to));
    assert_eq!(of(&first), of(&second));
    let without = array(GROUPS, &ram(""));
    let all = [
        of(&first),
        of(&without),
        of(&array(GROUPS, &(rules[0].clone() + &ram("")))),
        of(&array(GROUPS, &(rule("b", "[\"a\", \"c\"]") + &ram("")))),
        of(&array(["a", "b", "b", "c"], &ram(""))),
        of(&array(GROUPS, &ram("copies=3"))),
        of(&array(GROUPS, &ram("copies=3\nmin_copies=2"))),
        of(&without.replace("name=\"g\"", "name=\"h\"")),
        of(&without.replace("durability=\"ram\"", "")),
    ];
    for (at, terms) in all.iter().enumerate() {
        assert!(!all[..at].contains(terms), "{terms}");
    }
    // Who is in no replication group may come without a word.
    let of_others = |count: usize| {
        let text = array([""; 4], &ram(""));
        let gone = (4 - count..4).map(|slot| {
            format!(
                "[[peer]]\nslot={slot}\naddresses=[\"10.0.0.{}:4430\"]\n",
                slot + 1
            )
        });
        of(&gone.fold(text, |text, peer| {
            assert!(text.contains(&peer));
            text.replace(&peer, "")
        }))
    };
    assert_eq!(of_others(0), of_others(1));
}

fn is_refused(text: &str, what: &str, remedy: &str) {
    let all = bad(text);
    let is_it = |problem: &crate::Problem| problem.what.contains(what) && problem.remedy.contains(remedy);
    assert!(all.iter().any(is_it), "{what}; {remedy}: {all:#?}");
}

/// CHECKLIST C5: rules that cannot be kept are refused before anything starts.
#[test]
fn rules_that_cannot_be_kept_are_refused() {
    for (rest, what, remedy) in [
        (
            rule("a", "[\"cc\"]"),
            "no node has replication_group = \"cc\"",
            "did you mean \"c\"?",
        ),
        (
            rule("host", "[\"c\"]"),
            "no node has replication_group = \"host\"",
            "\"a\", \"b\", \"c\"",
        ),
        (
            rule("a", "[\"b\", \"a\"]"),
            "\"a\" sends its copies to itself",
            "name other groups",
        ),
        (rule("a", "[\"b\", \"b\"]"), "to names \"b\" twice", "once"),
        (
            rule("a", "[\"b\"]") + &rule("a", "[\"c\"]"),
            "there is another one from \"a\"",
            "write one",
        ),
        (rule("a", "[]"), "to is empty", "[\"site-b\"]"),
        (
            "[[replication_rule]]\nto=[\"a\"]\n".to_owned(),
            "has no from",
            "from = \"site-a\"",
        ),
        (
            "[[replication_rule]]\nfrom=\"a\"\n".to_owned(),
            "has no to",
            "to = [\"site-b\"]",
        ),
        (
            "[[replication_rule]]\nfrom=\"a\"\nto=[\"b\"]\nvia=1\n".to_owned(),
            "has no key \"via\"",
            "from, to",
        ),
    ] {
        is_refused(&array(GROUPS, &rest), what, remedy);
    }
}

/// CHECKLIST C5: each node that serves a group has as many others that may keep its copies as it needs.
#[test]
fn rules_that_leave_a_node_without_partners_are_refused() {
    for (rest, what, remedy) in [
        (
            rule("a", "[\"c\"]") + &ram("nodes=[0, 1, 2]"),
            "no node that serves it may keep copies of replication group \"a\"",
            "[[replication_rule]]",
        ),
        (
            ram("nodes=[0, 1]"),
            "no node that serves it may keep copies of replication group \"a\"",
            "other replication groups",
        ),
        (
            rule("a", "[\"c\"]") + &ram("copies=3"),
            "of the other nodes that serve it only 1 may keep those of replication group \"a\"",
            "copies = 2",
        ),
        (ram("copies=4"), "only 2 may keep", "copies = 3"),
    ] {
        is_refused(&array(GROUPS, &rest), what, remedy);
    }
    // Where nothing is acknowledged from memory nobody keeps anything.
    good(&array(
        ["a"; 4],
        "[[group]]\nname=\"g\"\nlevel=\"raid1\"\ndrives=[\"d\", \"e\"]\n",
    ));
}

/// CHECKLIST C5: all nodes are in replication groups, or none is.
#[test]
fn a_node_in_no_replication_group_is_refused_beside_others() {
    is_refused(
        &array(["a", "", "b", "b"], ""),
        "the node in slot 1 has no replication_group",
        "replication_group = \"a\"",
    );
    is_refused(
        &array(["", "a", "b", "b"], ""),
        "the node in slot 0 has no replication_group",
        "leave it out everywhere",
    );
    is_refused(
        &array([""; 4], &rule("a", "[\"b\"]")),
        "no node has replication_group = \"a\"",
        "in [array] and in each [[peer]]",
    );
    is_refused(&array(["a b", "a", "b", "b"], ""), "a b", "");
    refuses(
        &format!("{LEAST}{}", rule("a", "[\"b\"]")),
        3,
        &["there is no [array]"],
    );
}

/// PROTOCOL H18: as few copies as the operator says will do, but never one.
#[test]
fn the_least_number_of_copies_is_two_to_all() {
    let of = |keys: &str| {
        let group = &good(&array([""; 4], &ram(keys))).groups[0];
        (group.copies, group.copies_min)
    };
    assert_eq!(of(""), (2, 2));
    assert_eq!(of("copies=3"), (3, 3));
    assert_eq!(of("copies=4\nmin_copies=2"), (4, 2));
    for (group, what, remedy) in [
        (ram("min_copies=1"), "one node alone has in memory", "at least 2"),
        (
            ram("min_copies=3"),
            "min_copies = 3, and each write has 2 copies",
            "at most",
        ),
        (ram("min_copies=0"), "out of range", "1..=8"),
        (
            ram("copies=3\nmin_copies=2").replace("durability=\"ram\"\n", ""),
            "has min_copies, and acknowledges nothing from memory",
            "leave min_copies out",
        ),
    ] {
        is_refused(&array([""; 4], &group), what, remedy);
    }
    let alone = "[[drive]]\nname=\"a\"\nmemory_mib=16\n[[group]]\nname=\"g\"\nlevel=\"raid0\"\ndrives=[\"a\"]\nmin_copies=2\n";
    refuses(&format!("{LEAST}{alone}"), 10, &["there is no [array]"]);
}
