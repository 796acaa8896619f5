//! Groups that nodes share and that acknowledge from memory (`durability = "ram"`): what a host was told is in the memory of several nodes, and outlives all of them but one.

use std::time::{Duration, Instant};

use braid::target::manage::{CopiesStatus, Reply, Request};
use braid::target::rpc::Client;
use nvme::command::io_opcode;

use super::queue::{Host, command, pattern, write};
use super::scene::Scene;
use super::sharing::connect;
use super::stage::WAIT;

const BLOCK: u32 = 4096;

/// As the group that other tests share, but for when a write is done.
pub fn group(copies: u8) -> String {
    format!(
        "[[group]]\nname = \"g\"\nlevel = \"raid5\"\ndrives = [\"d0\", \"d1\", \"d2\", \"d3\"]\nstrip_kib = 16\njournal_mib = 16\ncreate = true\n\
         durability = \"ram\"\ncopies = {copies}\n\
         [[vdisk]]\nname = \"v\"\ngroup = \"g\"\nsize_mib = 64\nnsid = 1\n"
    )
}

fn scene(nodes: u8, copies: u8) -> Scene {
    let mut scene = Scene::set(nodes, &group(copies));
    scene.create(0);
    let all: Vec<u8> = (0..nodes).collect();
    scene.until_open("formed", &all);
    scene
}

/// What a node says of its group's copies, and whether acknowledged writes might be lost.
pub fn copies(scene: &Scene, slot: u8) -> (CopiesStatus, bool) {
    let mut client = Client::connect(&scene.path(&format!("n{slot}.sock")), WAIT).unwrap();
    let Ok(Reply::Groups(groups)) = client.call(&Request::GroupList) else {
        panic!("a node lists its groups");
    };
    (groups[0].copies.unwrap(), groups[0].dirty_ram)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < WAIT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until all that nodes have acknowledged is in the memory of as many as are to have it, or on the drives.
pub fn until_restored(scene: &Scene) {
    let slots = 0..u8::try_from(scene.nodes.len()).unwrap();
    for slot in slots {
        until("there are as many copies again", || {
            let status = copies(scene, slot).0;
            status.now == status.wanted && scene.counter(slot, "groups_with_reduced_copies") == 0
        });
    }
}

/// Writes until writes are acknowledged from memory.
fn until_in_memory(scene: &Scene, host: &mut Host, slot: u8) {
    until("it acknowledges from memory", || {
        host.write(1, 0, BLOCK, &pattern(1, BLOCK as usize));
        copies(scene, slot).1
    });
}

/// CHECKLIST C3, C6, A12, PROTOCOL H17, H18: drives take far longer than hosts are answered; nodes die right after that, one after the other, with all that their journals have not
/// on the drives. Others have it. The status says how many.
#[test]
fn what_was_acknowledged_from_memory_outlives_its_node() {
    let mut scene = scene(3, 2);
    let mut known = vec![Vec::new(); 64];
    for round in 0..3_u64 {
        let slot = u8::try_from(round).unwrap();
        let mut host = connect(scene.hosts[usize::from(slot)], slot + 1);
        until_in_memory(&scene, &mut host, slot);
        known[0] = pattern(1, BLOCK as usize);
        until_restored(&scene);
        scene.slow_drives_down(300_000);
        let begin = Instant::now();
        // As many as are under way to the drives at a time, but one.
        for block in 1..4 {
            let at = 20 * round % 48 + block;
            let data = pattern(1000 * round + block, BLOCK as usize);
            let taken = host.io[0].run(write(1, at, 1), &data, 0);
            taken.ok();
            known[usize::try_from(at).unwrap()] = data;
        }
        let took = begin.elapsed();
        scene.nodes[usize::from(slot)] = None;
        assert!(
            took < Duration::from_millis(300),
            "they are answered before any is on a drive: {took:?}"
        );
        scene.slow_drives_down(0);
        let others: Vec<u8> = (0..3).filter(|other| *other != slot).collect();
        scene.until_open("one is dead", &others);
        let mut reader = connect(scene.hosts[usize::from(others[0])], 9);
        for (at, data) in (0..).zip(&known).filter(|(_, data)| !data.is_empty()) {
            assert!(reader.read(1, at, 1, BLOCK) == *data, "round {round}, block {at}");
        }
        scene.start_node(slot);
        scene.until_open("it is back", &[0, 1, 2]);
    }
}

/// CHECKLIST C3, A12, PROTOCOL H18, H45: when all nodes that have copies die, the group says that writes may be lost, and an operator accepts that. Nodes that were left in peace before
/// have nothing that may be lost; nor has one that is alone, whose writes wait for the drives.
#[test]
fn the_death_of_all_is_confessed() {
    let mut scene = scene(2, 2);
    let mut host = connect(scene.hosts[0], 1);
    until_in_memory(&scene, &mut host, 0);
    scene.nodes[1] = None;
    scene.until_open("one is dead", &[0]);
    let alone = CopiesStatus { wanted: 2, now: 1 };
    until("nothing can be lost", || {
        host.write(1, 0, BLOCK, &pattern(1, BLOCK as usize));
        copies(&scene, 0) == (alone, false)
    });
    scene.start_node(1);
    scene.until_open("it is back", &[0, 1]);
    until_in_memory(&scene, &mut host, 0);
    until("nobody writes", || !copies(&scene, 0).1);
    // At rest.
    scene.kill_everything();
    scene.start_shelf();
    (0..2).for_each(|slot| scene.start_node(slot));
    scene.until_open("nothing was lost", &[0, 1]);
    let mut host = connect(scene.hosts[0], 1);
    assert!(host.read(1, 0, 1, BLOCK) == pattern(1, BLOCK as usize));
    until_in_memory(&scene, &mut host, 0);
    // And not.
    scene.kill_everything();
    scene.start_shelf();
    (0..2).for_each(|slot| scene.start_node(slot));
    let refused = |scene: &Scene| {
        let logs = [0, 1].map(|slot| std::fs::read_to_string(scene.path(&format!("node-n{slot}.log"))));
        let mut logs = logs.into_iter().flatten();
        logs.any(|log| log.contains("power went while acknowledged writes were in memory alone"))
    };
    until("it is refused", || refused(&scene));
    scene.nodes.iter_mut().for_each(|node| *node = None);
    (0..2).for_each(|slot| scene.start_node_with(slot, &["--accept-loss", "g"]));
    scene.until_open("the loss is accepted", &[0, 1]);
    let mut host = connect(scene.hosts[1], 2);
    assert!(host.read(1, 0, 1, BLOCK) == pattern(1, BLOCK as usize));
    host.write(1, 5, BLOCK, &pattern(5, BLOCK as usize));
    assert!(connect(scene.hosts[0], 1).read(1, 5, 1, BLOCK) == pattern(5, BLOCK as usize));
}

/// CHECKLIST C6, PROTOCOL H38: a flush through one node has what another one has acknowledged from memory on the drives: nothing of it is lost with all nodes at once.
#[test]
fn a_flush_through_one_node_covers_all() {
    let mut scene = scene(2, 2);
    let mut hosts = [1, 2].map(|host| connect(scene.hosts[usize::from(host) - 1], host));
    for host in &mut hosts {
        assert_eq!(
            host.identify(1, 0)[525] & 1,
            1,
            "VWC: hosts have to flush, at each node"
        );
    }
    until_in_memory(&scene, &mut hosts[0], 0);
    scene.slow_drives_down(300_000);
    for block in 0..3 {
        hosts[0].write(1, block, BLOCK, &pattern(block, BLOCK as usize));
    }
    let flushed = hosts[1].io[0].run(command(io_opcode::FLUSH, 1, 0, 1), &[], 0);
    flushed.ok();
    scene.kill_everything();
    scene.start_shelf();
    (0..2).for_each(|slot| scene.start_node_with(slot, &["--accept-loss", "g"]));
    scene.until_open("the loss of nothing is accepted", &[0, 1]);
    let mut host = connect(scene.hosts[1], 2);
    for block in 0..3 {
        assert!(
            host.read(1, block, 1, BLOCK) == pattern(block, BLOCK as usize),
            "{block}"
        );
    }
}
