//! Groups of one array that different nodes serve (patent Figure 8): real processes, real NVMe/TCP.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::queue::{Host, pattern};
use super::scene::Scene;
use super::sharing::connect;
use super::stage::WAIT;

const BLOCK: u32 = 4096;

/// Y is everybody's, G that of two nodes, T that of one.
const GROUPS: &str = "[[group]]\nname = \"y\"\nlevel = \"raid1\"\ndrives = [\"d0\", \"d1\"]\njournal_mib = 16\ncreate = true\n\
                      [[vdisk]]\nname = \"vy\"\ngroup = \"y\"\nsize_mib = 8\nnsid = 1\n\
                      [[group]]\nname = \"g\"\nlevel = \"raid1\"\ndrives = [\"d2\", \"d3\"]\njournal_mib = 16\nnodes = [0, 2]\ncreate = true\n\
                      [[vdisk]]\nname = \"vg\"\ngroup = \"g\"\nsize_mib = 8\nnsid = 2\n\
                      [[group]]\nname = \"t\"\nlevel = \"raid0\"\ndrives = [\"d4\"]\nnodes = [0]\ncreate = true\n\
                      [[vdisk]]\nname = \"vt\"\ngroup = \"t\"\nsize_mib = 8\nnsid = 3\n";

/// The namespaces that a host sees.
fn namespaces(host: &mut Host) -> Vec<u32> {
    let list = host.identify(2, 0);
    let numbers = list
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    numbers.take_while(|nsid| *nsid != 0).collect()
}

/// A host of a node, once that serves these namespaces and no others.
fn host_of(scene: &Scene, slot: u8, nsids: &[u32]) -> Host {
    let begin = Instant::now();
    loop {
        let mut host = connect(scene.hosts[usize::from(slot)], 10 + slot);
        let seen = namespaces(&mut host);
        if seen == nsids {
            return host;
        }
        assert!(begin.elapsed() < 2 * WAIT, "node {slot} serves {seen:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// CHECKLIST A8, A1: given Y shared by nodes 0, 1 and 2, G by 0 and 2, T unshared, when node 0 dies, then Y and G go on, T stops, and no message
/// about a group ever reached a node that does not share it.
#[test]
fn groups_are_shared_group_by_group() {
    let mut scene = Scene::set(3, GROUPS);
    scene.create(0);
    let mut hosts = [
        host_of(&scene, 0, &[1, 2, 3]),
        host_of(&scene, 1, &[1]),
        host_of(&scene, 2, &[1, 2]),
    ];
    let data = |nsid: u32, round: u64| pattern(u64::from(nsid) * 1000 + round, 2 * BLOCK as usize);
    for round in 0..12 {
        for nsid in 1..=3 {
            hosts[0].write(nsid, 3 * round, BLOCK, &data(nsid, round));
        }
        assert!(
            hosts[1].read(1, 3 * round, 2, BLOCK) == data(1, round),
            "round {round}"
        );
        for nsid in 1..=2 {
            assert!(
                hosts[2].read(nsid, 3 * round, 2, BLOCK) == data(nsid, round),
                "round {round}"
            );
            // So that whoever goes on has rows, and asks for those of the node that is lost.
            hosts[2].write(nsid, 3 * round + 40, BLOCK, &data(nsid, round));
        }
    }

    scene.nodes[0] = None;
    scene.until_open("without node 0", &[1, 2]);
    let mut hosts = [host_of(&scene, 1, &[1]), host_of(&scene, 2, &[1, 2])];
    for round in 0..12 {
        assert!(
            hosts[0].read(1, 3 * round, 2, BLOCK) == data(1, round),
            "round {round}"
        );
        hosts[0].write(1, 3 * round, BLOCK, &data(1, round + 100));
        assert!(
            hosts[1].read(1, 3 * round, 2, BLOCK) == data(1, round + 100),
            "round {round}"
        );
        assert!(
            hosts[1].read(2, 3 * round, 2, BLOCK) == data(2, round),
            "round {round}"
        );
        hosts[1].write(2, 3 * round, BLOCK, &data(2, round + 100));
    }

    scene.start_node(0);
    scene.until_open("with node 0 again", &[0, 1, 2]);
    // The node that leads G and led the epoch goes, so that what leads each of them changes once more.
    scene.nodes[1] = None;
    scene.until_open("without node 1", &[0, 2]);
    let mut host = host_of(&scene, 0, &[1, 2, 3]);
    for round in 0..12 {
        for nsid in 1..=2 {
            assert!(
                host.read(nsid, 3 * round, 2, BLOCK) == data(nsid, round + 100),
                "round {round}"
            );
        }
        assert!(
            host.read(3, 3 * round, 2, BLOCK) == data(3, round),
            "T is back with its node, round {round}"
        );
    }
    drop(host);
    no_stray_word(&scene);
}

/// No node was told anything of a group that it does not share.
fn no_stray_word(scene: &Scene) {
    for slot in 0..3 {
        let log = fs::read_to_string(scene.path(&format!("node-n{slot}.log"))).unwrap();
        assert!(log.contains("shared group is served"), "the log is read");
        assert!(
            !log.contains("speaks of a group"),
            "node {slot} heard of a group that it does not share"
        );
        assert!(
            !log.contains("is not understood"),
            "node {slot} was told what it does not understand"
        );
    }
}
