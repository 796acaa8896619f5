//! Groups that nodes share and that acknowledge from memory (`durability = "ram"`): what a host was told is in the memory of several nodes, and outlives all of them but one.

use std::fs;
use std::time::{Duration, Instant};

use braid::target::manage::{CopiesStatus, PortList, PortRequest, PortState, Reply, Request};
use braid::target::rpc::Client;
use nvme::command::io_opcode;
use nvme::status::Status;

use super::queue::{Host, Queue, command, pattern, read, write};
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
    opened(Scene::set(nodes, &group(copies)), nodes)
}

/// The scene, once all of its nodes serve the group.
fn opened(mut scene: Scene, nodes: u8) -> Scene {
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
    (groups[0].copies.clone().unwrap(), groups[0].dirty_ram)
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
            status.now == status.wanted
                && status.restored
                && scene.counter(slot, "groups_with_reduced_copies") == 0
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

/// Writes a few blocks from one on, while each command takes the drives far longer than that.
fn write_ahead_of_drives(host: &mut Host, first: u64, seed: u64, known: &mut [Vec<u8>]) {
    // As many as are under way to the drives at a time, but one.
    for block in first..first + 3 {
        let data = pattern(seed + block, BLOCK as usize);
        host.io[0].run(write(1, block, 1), &data, 0).ok();
        known[usize::try_from(block).unwrap()] = data;
    }
}

fn reads_all(host: &mut Host, known: &[Vec<u8>], what: &str) {
    for (at, data) in (0..).zip(known).filter(|(_, data)| !data.is_empty()) {
        assert!(host.read(1, at, 1, BLOCK) == *data, "{what}, block {at}");
    }
}

/// CHECKLIST A5, C5, PROTOCOL H17: given nodes in replication groups HOST and EXT, each of which sends its copies to the other one, by a rule or because there is no other, when all of HOST die at once, right after they have
/// answered and before a drive has anything of it, then EXT serves every acknowledged write; and the other way round.
#[test]
fn another_replication_group_covers_the_loss_of_a_whole_one() {
    let within = ["HOST", "HOST", "EXT", "EXT"];
    let rule = "[[replication_rule]]\nfrom = \"HOST\"\nto = [\"EXT\"]\n";
    let groups = group(2) + rule;
    let mut scene = opened(Scene::set_within(4, &within, "", &groups), 4);
    let mut known = vec![Vec::new(); 64];
    for (round, (gone, left)) in (0_u64..).zip([([0, 1], [2, 3]), ([2, 3], [0, 1])]) {
        let mut hosts = gone.map(|slot| connect(scene.hosts[usize::from(slot)], slot + 1));
        for (host, slot) in hosts.iter_mut().zip(gone) {
            until_in_memory(&scene, host, slot);
        }
        known[0] = pattern(1, BLOCK as usize);
        until_restored(&scene);
        let mut partners = gone.map(|slot| copies(&scene, slot).0.partners);
        partners.sort();
        assert_eq!(
            partners,
            left.map(|slot| vec![slot]),
            "each has one of its own there"
        );
        scene.slow_drives_down(400_000);
        let begin = Instant::now();
        for (host, first) in hosts.iter_mut().zip([14, 38]) {
            write_ahead_of_drives(host, first + 4 * round, 1000 * (round + 1), &mut known);
        }
        let took = begin.elapsed();
        scene.kill_nodes(&gone);
        assert!(
            took < Duration::from_millis(400),
            "they are answered before any is on a drive: {took:?}"
        );
        scene.slow_drives_down(0);
        scene.until_open("a replication group is dead", &left);
        for slot in left {
            let mut reader = connect(scene.hosts[usize::from(slot)], 9 + slot);
            reads_all(&mut reader, &known, &format!("round {round}, slot {slot}"));
        }
        gone.into_iter().for_each(|slot| scene.start_node(slot));
        scene.until_open("it is back", &[0, 1, 2, 3]);
    }
}

/// CHECKLIST A12, PROTOCOL H18: with fewer nodes than copies, and `min_copies` of them, writes are acknowledged from the memory of those that are there. The status and the counter say that they are fewer; and the death of one
/// more loses nothing.
#[test]
fn fewer_nodes_than_copies_go_on_in_memory() {
    let groups = group(3).replace("copies = 3\n", "copies = 3\nmin_copies = 2\n");
    let mut scene = opened(Scene::set(3, &groups), 3);
    let mut host = connect(scene.hosts[0], 1);
    until_in_memory(&scene, &mut host, 0);
    until_restored(&scene);
    assert_eq!(copies(&scene, 0).0.partners, [1, 2]);
    scene.nodes[2] = None;
    scene.until_open("one is dead", &[0, 1]);
    until_in_memory(&scene, &mut host, 0);
    let few = CopiesStatus {
        wanted: 3,
        now: 2,
        partners: vec![1],
        restored: true,
    };
    until("its writes are on the drives, too", || {
        scene.counter(0, "groups_with_reduced_copies") == 0
    });
    assert_eq!(copies(&scene, 0).0, few);
    scene.slow_drives_down(400_000);
    let mut known = vec![Vec::new(); 64];
    let begin = Instant::now();
    write_ahead_of_drives(&mut host, 14, 1000, &mut known);
    let took = begin.elapsed();
    let reduced = scene.counter(0, "groups_with_reduced_copies");
    let bytes = scene.counter(0, "bytes_with_reduced_copies");
    scene.kill_nodes(&[0]);
    assert!(
        took < Duration::from_millis(400),
        "they are answered before any is on a drive: {took:?}"
    );
    assert_eq!(reduced, 1, "fewer nodes have them than are to");
    assert!(
        bytes >= 2 * u64::from(BLOCK),
        "what is not on the drives yet has a header and a block at least: {bytes}"
    );
    scene.slow_drives_down(0);
    scene.until_open("one is left", &[1]);
    reads_all(&mut connect(scene.hosts[1], 2), &known, "from the last node");
    scene.start_node(0);
    scene.start_node(2);
    scene.until_open("all are back", &[0, 1, 2]);
    until_restored(&scene);
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
    let alone = CopiesStatus {
        wanted: 2,
        now: 1,
        partners: Vec::new(),
        restored: true,
    };
    until("nothing can be lost", || {
        host.write(1, 0, BLOCK, &pattern(1, BLOCK as usize));
        copies(&scene, 0) == (alone.clone(), false)
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

/// CHECKLIST C3, PROTOCOL H45: a node dies together with the only other one that had what it acknowledged. A third one is there, and does not serve the group as if nothing had happened: it says what may be lost, and an
/// operator accepts that. Where a partner lives it goes on.
#[test]
fn the_death_of_all_who_had_a_copy_is_confessed_by_those_who_had_none() {
    let mut scene = scene(3, 2);
    let mut host = connect(scene.hosts[0], 1);
    until_in_memory(&scene, &mut host, 0);
    until_restored(&scene);
    scene.nodes[0] = None;
    scene.until_open("its partner lives", &[1, 2]);
    scene.start_node(0);
    scene.until_open("it is back", &[0, 1, 2]);
    let mut host = connect(scene.hosts[0], 1);
    until_in_memory(&scene, &mut host, 0);
    until_restored(&scene);
    scene.slow_drives_down(300_000);
    for block in 0..3 {
        host.write(1, block, BLOCK, &pattern(block, BLOCK as usize));
    }
    scene.nodes[0] = None;
    scene.nodes[1] = None;
    scene.slow_drives_down(0);
    let said = |scene: &Scene| {
        let log = std::fs::read_to_string(scene.path("node-n2.log")).unwrap();
        log.contains("so are all that kept copies for them") && log.contains("--accept-loss g")
    };
    until("it says what may be lost", || said(&scene));
    scene.nodes[2] = None;
    (0..3).for_each(|slot| scene.start_node_with(slot, &["--accept-loss", "g"]));
    scene.until_open("the loss is accepted", &[0, 1, 2]);
    let mut host = connect(scene.hosts[1], 2);
    host.write(1, 5, BLOCK, &pattern(5, BLOCK as usize));
    assert!(connect(scene.hosts[2], 1).read(1, 5, 1, BLOCK) == pattern(5, BLOCK as usize));
}

/// CHECKLIST C5, PROTOCOL H45: nodes work out by themselves who keeps what the others acknowledge, so one whose file says otherwise is no member beside them. All say why, and it is one when its file says the same again.
#[test]
fn a_node_whose_file_says_otherwise_who_keeps_copies_is_kept_out() {
    let mut scene = scene(3, 2);
    let mut host = connect(scene.hosts[0], 1);
    host.write(1, 0, BLOCK, &pattern(1, BLOCK as usize));
    scene.nodes[2] = None;
    let file = scene.path("n2.toml");
    let right = fs::read_to_string(&file).unwrap();
    let wrong = right.replace("copies = 2\n", "copies = 3\n");
    assert!(wrong != right);
    fs::write(&file, wrong).unwrap();
    scene.start_node(2);
    let why = "`copies` and `min_copies` of each [[group]]";
    for slot in 0..3 {
        until("all say why", || {
            let refusal = scene.show(slot).and_then(|status| status.last_refusal);
            refusal.is_some_and(|refusal| refusal.contains(why))
        });
    }
    scene.until_open("the others go on", &[0, 1]);
    host.write(1, 0, BLOCK, &pattern(2, BLOCK as usize));
    assert!(scene.show(2).is_some_and(|status| !status.serves));
    fs::write(&file, right).unwrap();
    scene.nodes[2] = None;
    scene.start_node(2);
    scene.until_open("it is one of them", &[0, 1, 2]);
    let mut host = connect(scene.hosts[2], 1);
    assert!(host.read(1, 0, 1, BLOCK) == pattern(2, BLOCK as usize));
}

/// PROTOCOL H45: what hosts wait for at those who are left ends when the group is not served any more, at whoever leads and at whoever hears of it, and so does what they ask for then. Both nodes are stopped in good order,
/// and what may be lost has still to be accepted.
#[test]
fn hosts_of_a_group_that_is_not_served_any_more_are_answered() {
    let mut scene = scene(4, 2);
    let mut host = connect(scene.hosts[0], 1);
    let mut left = [2, 3].map(|slot| (slot, connect(scene.hosts[usize::from(slot)], slot + 1)));
    until_in_memory(&scene, &mut host, 0);
    for (slot, host) in &mut left {
        until_in_memory(&scene, host, *slot);
    }
    until_restored(&scene);
    scene.slow_drives_down(300_000);
    host.write(1, 0, BLOCK, &pattern(1, BLOCK as usize));
    let ask = |queue: &mut Queue| {
        queue.submit(command(io_opcode::FLUSH, 1, 0, 1), &[], 0);
        queue.submit(write(1, 0, 1), &pattern(2, BLOCK as usize), 0);
        queue.submit(read(1, 1, 1), &[], BLOCK);
    };
    left.iter_mut().for_each(|(_, host)| ask(&mut host.io[0]));
    scene.kill_nodes(&[0, 1]);
    scene.slow_drives_down(0);
    for (slot, host) in &mut left {
        let queue = &mut host.io[0];
        for what in ["what waits", "what comes later"] {
            for _ in 0..3 {
                let (_, answer) = queue.try_next().expect(what);
                assert_eq!(answer.status(), Status::ANA_INACCESSIBLE, "{what}, {slot}");
            }
            ask(queue);
        }
    }
    drop(left);
    for slot in [2, 3] {
        let mut client = Client::connect(&scene.path(&format!("n{slot}.sock")), WAIT).unwrap();
        let Ok(Reply::Groups(groups)) = client.call(&Request::GroupList) else {
            panic!("a node lists its groups");
        };
        let why = groups[0].not_served.as_deref().unwrap();
        assert!(why.contains("so are all that kept copies for them"), "{why}");
        let list = Request::Port(PortRequest::List(PortList::default()));
        let Ok(Reply::Ports(ports)) = client.call(&list) else {
            panic!("a node lists the ports of its virtual disks");
        };
        let states: Vec<PortState> = ports.iter().map(|port| port.state).collect();
        let (away, closed) = (PortState::Away, PortState::Inaccessible);
        assert_eq!(states, [away, away, closed, closed], "as hosts find them");
    }
    for slot in [3, 2] {
        let node = scene.nodes[slot].take().unwrap();
        node.signal("-TERM");
        let needed = node.ends_well();
        let log = fs::read_to_string(scene.path(&format!("node-n{slot}.log"))).unwrap();
        assert!(!log.contains("without a clean close"), "after {needed:?}");
    }
    let before = [0, 1, 2, 3].map(|slot| fs::read(scene.path(&format!("node-n{slot}.log"))).unwrap().len());
    (0..4).for_each(|slot| scene.start_node(slot));
    let is_refused = |slot: u8| {
        let log = fs::read_to_string(scene.path(&format!("node-n{slot}.log"))).unwrap();
        let (_, since) = log.rsplit_once(&format!("braid node n{slot} is ready")).unwrap();
        log.len() - since.len() > before[usize::from(slot)]
            && since.contains("restore the data, or accept the loss")
    };
    until("it says again what may be lost", || (0..4).any(is_refused));
    scene.kill_nodes(&[0, 1, 2, 3]);
    (0..4).for_each(|slot| scene.start_node_with(slot, &["--accept-loss", "g"]));
    scene.until_open("the loss is accepted", &[0, 1, 2, 3]);
    connect(scene.hosts[1], 2).write(1, 0, BLOCK, &pattern(5, BLOCK as usize));
}
