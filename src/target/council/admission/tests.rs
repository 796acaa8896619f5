//! Targets that are fit, and targets that are not.

use nvme::nqn::Nqn;

use super::*;
use crate::target::node::{self, RunningNode};

const SHELF: &str = r#"
[shelf]
name = "s"
quorum_mib = 1
create = true
[[listen]]
address = "127.0.0.1:0"
[[drive]]
name = "d"
memory_mib = 16
"#;

/// Serves a virtual disk: it has reservations, but none that outlive its process.
const NODE: &str = r#"
[node]
name = "s"
[[listen]]
address = "127.0.0.1:0"
[[drive]]
name = "d"
memory_mib = 16
[[group]]
name = "g"
level = "raid0"
drives = ["d"]
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 4
nsid = 1
"#;

fn started(text: &str) -> (RunningNode, RemoteShelf) {
    let config = config::parse(text, std::path::Path::new("test.toml")).unwrap();
    let node = node::start(&config).unwrap();
    let nqn = |name: &str| Nqn::parse(name).unwrap();
    let remote = RemoteShelf {
        name: "s".to_owned(),
        addresses: vec![node.addresses()[0]],
        nqn: nqn("nqn.2026-01.io.braid:s"),
        host_nqn: nqn("nqn.2026-01.io.braid:admission"),
        header_digest: false,
        data_digest: false,
        take_over: false,
    };
    (node, remote)
}

fn run(remote: &RemoteShelf, nsid: u32) -> Result<Vec<Finding>, Refusal> {
    let mut found = Vec::new();
    examine(remote, |it| it.nsid == nsid, |finding| found.push(finding))?;
    Ok(found)
}

#[test]
fn a_shelf_is_fit_and_keeps_what_it_had() {
    let (shelf, remote) = started(SHELF);
    let writer = Party::connect(&remote).unwrap();
    let namespace = writer.facts.namespaces[0];
    let all = namespace.blocks.min(64);
    let old = |block: u64| vec![u8::try_from(block).unwrap() ^ 0x5a; namespace.block_bytes as usize];
    for block in 0..all {
        let job = Job::write(1, block, 1, namespace.block_bytes, 0);
        assert!(writer.ask(false, job.entry, old(block), 0).0.is_success());
    }
    for _ in 0..2 {
        let found = run(&remote, 1).unwrap();
        let about: Vec<&str> = found.iter().map(|finding| finding.what).collect();
        assert_eq!(about, ["capabilities", "persistence", "types", "fence"]);
        assert!(found[3].found.contains("nothing landed after it"), "{found:?}");
    }
    for block in 0..all {
        let job = Job::read(1, block, 1, namespace.block_bytes, 0);
        let (status, data) = writer.ask(false, job.entry, Vec::new(), namespace.block_bytes);
        assert!(status.is_success() && data == old(block), "block {block}");
    }
    // Whoever is registered is left alone.
    assert!(writer.register(&namespace).is_success());
    let refused = run(&remote, 1).unwrap_err();
    assert!(refused.why.contains(&writer.id.to_string()), "{refused}");
    // The quorum area has no reservations, and there is no third drive.
    assert_eq!(run(&remote, 2).unwrap_err().what, "capabilities");
    assert_eq!(run(&remote, 3).unwrap_err().what, "namespace");
    drop(writer);
    shelf.stop().unwrap();
}

#[test]
fn a_target_that_forgets_its_registrants_is_refused_before_anything_is_asked_of_it() {
    let (node, remote) = started(NODE);
    let refused = run(&remote, 1).unwrap_err();
    assert_eq!(refused.what, "capabilities");
    assert!(refused.to_string().contains("PTPL"), "{refused}");
    assert!(refused.to_string().contains("braid shelf"), "{refused}");
    node.stop().unwrap();
}

#[test]
fn what_a_namespace_lacks_is_named() {
    assert_eq!(lacking(1, 0xff), None);
    assert_eq!(lacking(1, 0b0110_0001), None);
    for (nmic, rescap, named) in [
        (1, 0xfe, "PTPL"),
        (1, 0b1101_1111, "5h and 6h"),
        (1, 0b1011_1111, "5h and 6h"),
        (0, 0xff, "private"),
    ] {
        assert!(lacking(nmic, rescap).unwrap().contains(named));
    }
}

#[test]
fn what_lands_late_is_seen_in_any_reading() {
    let same = [1, 1, 2, 2, 3, 3];
    let late = [1, 1, 2, 2, 3, 4];
    assert_eq!(changed(2, &[&same, &same, &same]), None);
    assert_eq!(changed(2, &[&same, &late, &late]), Some(2));
    assert_eq!(changed(2, &[&same, &same, &late]), Some(2));
    let stamps: std::collections::BTreeSet<Vec<u8>> = (0..ROUNDS_MAX)
        .flat_map(|round| (0..=WRITES).map(move |number| stamp(round, number, 4)))
        .collect();
    assert_eq!(stamps.len(), (ROUNDS_MAX * (WRITES + 1)) as usize);
}
