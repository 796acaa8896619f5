//! Several nodes that serve the same group over the drives of one shelf: real processes, real NVMe/TCP.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nvme::command::io_opcode;
use nvme::status::Status;

use super::queue::{Host, Manner, command, pattern, read, write};
use super::scene::Scene;
use super::stage::{Folder, WAIT, start};

const BLOCK: u32 = 4096;

/// A group of four drives that all nodes serve, with one virtual disk of 64 MiB.
pub const GROUP: &str = "[[group]]\nname = \"g\"\nlevel = \"raid5\"\ndrives = [\"d0\", \"d1\", \"d2\", \"d3\"]\n\
                     strip_kib = 16\njournal_mib = 16\ncreate = true\n\
                     [[vdisk]]\nname = \"v\"\ngroup = \"g\"\nsize_mib = 64\nnsid = 1\n";

/// Connects as soon as the node serves.
fn connect(address: SocketAddr, host: u8) -> Host {
    let begin = Instant::now();
    loop {
        let manner = Manner {
            host,
            ..Manner::default()
        };
        match Host::try_connect_as(address, manner) {
            Ok(host) => return host,
            Err(error) => assert!(begin.elapsed() < 2 * WAIT, "{address}: {error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn scene(nodes: u8) -> Scene {
    let mut scene = Scene::set(nodes, GROUP);
    scene.create(0);
    scene
}

/// CHECKLIST A10, B1, B9, D1, PROTOCOL H43: whatever is written through one node is read through the others, at once; and to hosts they are one
/// subsystem with one namespace.
#[test]
fn what_one_node_writes_the_others_read() {
    let scene = scene(3);
    let mut hosts: Vec<Host> = (1..)
        .zip(&scene.hosts)
        .map(|(host, address)| connect(*address, host))
        .collect();
    let cntlids: BTreeSet<u16> = hosts.iter().map(|host| host.cntlid).collect();
    assert_eq!(
        cntlids.len(),
        3,
        "each node has controllers of its own: {cntlids:?}"
    );
    let namespaces: BTreeSet<Vec<u8>> = hosts.iter_mut().map(|host| host.identify(0, 1)).collect();
    assert_eq!(namespaces.len(), 1, "it is the same namespace everywhere");
    for round in 0..60_u64 {
        let at = round * 7 % 40;
        let data = pattern(round, 3 * BLOCK as usize);
        let writer = usize::try_from(round % 3).unwrap();
        hosts[writer].write(1, at, BLOCK, &data);
        for reader in &mut hosts {
            assert!(reader.read(1, at, 3, BLOCK) == data, "round {round}");
        }
    }
}

/// CHECKLIST B8, PROTOCOL H40: hosts at all nodes count up one number with Compare and Write; no count is lost.
#[test]
fn compare_and_write_is_atomic_over_nodes() {
    const EACH: u64 = 40;
    let scene = scene(2);
    let number = |block: &[u8]| u64::from_le_bytes(block[..8].try_into().unwrap());
    connect(scene.hosts[0], 9).write(1, 5, BLOCK, &[0; BLOCK as usize]);
    thread::scope(|scope| {
        for (host, address) in (1..).zip(&scene.hosts) {
            scope.spawn(move || {
                let mut host = connect(*address, host);
                for _ in 0..EACH {
                    loop {
                        let old = host.read(1, 5, 1, BLOCK);
                        let mut new = old.clone();
                        new[..8].copy_from_slice(&(number(&old) + 1).to_le_bytes());
                        let mut compare = command(io_opcode::COMPARE, 1, 5, 1);
                        compare.set_fuse(1);
                        let mut second = write(1, 5, 1);
                        second.set_fuse(2);
                        let queue = &mut host.io[0];
                        let first = queue.submit(compare, &old, 0);
                        let second = queue.submit(second, &new, 0);
                        let compared = queue.wait(first).status();
                        let written = queue.wait(second).status();
                        if written.is_success() {
                            break;
                        }
                        assert!(
                            compared.same_code(Status::COMPARE_FAILURE),
                            "{compared} {written}"
                        );
                    }
                }
            });
        }
    });
    let last = connect(scene.hosts[1], 9).read(1, 5, 1, BLOCK);
    assert_eq!(number(&last), 2 * EACH);
}

/// More cores than a journal can have lanes are refused with what to do about it.
#[test]
fn cores_of_all_slots_have_to_fit_into_the_journal() {
    let folder = Folder::make();
    let text = "[reactor]\ncores = 3\n[array]\nname = \"vault\"\nslot = 7\nkey_file = \"k\"\nfailures = 1\nlisten = \"127.0.0.1:4500\"\n\
                [[peer]]\nslot = 0\naddresses = [\"127.0.0.1:4520\"]\n";
    let shelf = "[[shelf]]\nname = \"s\"\naddresses = [\"127.0.0.1:1\"]\nnqn = \"nqn.2026-01.io.braid:s\"\n\
                 [[drive]]\nname = \"d\"\nshelf = \"s\"\nnsid = 1\n";
    let Err(error) = start(&format!("{text}{shelf}"), folder.path()) else {
        panic!("it was started")
    };
    let text = error.to_string();
    assert!(
        text.contains("3 cores of each of 8 slots") && text.contains("at most 2"),
        "{text}"
    );
}

/// CHECKLIST A4, C2, E2 (PROTOCOL H19 to H21, H38): a node is killed under load. What it had acknowledged is there, the others go on, and only its own hosts have to
/// connect anew; then it comes back.
#[test]
fn a_killed_node_costs_a_path_and_no_data() {
    const BLOCKS: u64 = 64;
    let mut scene = scene(3);
    let stop = AtomicBool::new(false);
    let addresses = scene.hosts.clone();
    // All nodes serve before one is killed.
    let associations: Vec<Host> = (1..)
        .zip(&addresses)
        .map(|(host, address)| connect(*address, host))
        .collect();
    // Each host has blocks of its own, in rows that it shares with the others' blocks.
    let own = |host: u64, turn: u64| (turn * 7 + 3) % BLOCKS * 3 + host;
    let (stop, own) = (&stop, &own);
    let written: Vec<(u64, Duration)> = thread::scope(|scope| {
        let load: Vec<_> = (0..3_u64)
            .zip(associations)
            .map(|(host, mut association)| {
                scope.spawn(move || {
                    let (mut turn, mut longest) = (0, Duration::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        let begin = Instant::now();
                        let data = pattern(host << 32 | turn, BLOCK as usize);
                        let entry = write(1, own(host, turn), 1);
                        match association.io[0].try_run(entry, &data, 0) {
                            Ok(answer) => answer.ok(),
                            Err(_) => break, // The node is gone.
                        }
                        longest = longest.max(begin.elapsed());
                        turn += 1;
                    }
                    (turn, longest)
                })
            })
            .collect();
        thread::sleep(Duration::from_secs(2));
        scene.nodes[2] = None;
        scene.until_open("without the one that was killed", &[0, 1]);
        thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        load.into_iter().map(|load| load.join().unwrap()).collect()
    });
    assert!(written.iter().all(|(turns, _)| *turns > 10), "{written:?}");
    println!("writes and longest of each host, the last one's node was killed: {written:?}");
    let mut reader = connect(scene.hosts[0], 9);
    for (host, (turns, _)) in (0..).zip(&written) {
        for block in 0..BLOCKS {
            let at = block * 3 + host;
            // The last one that was acknowledged, or the one that never was.
            let of = |turn: &u64| own(host, *turn) == at;
            let last = (0..*turns).rev().find(of);
            let found = reader.read(1, at, 1, BLOCK);
            let is = |turn: u64| found == pattern(host << 32 | turn, BLOCK as usize);
            let is_late = own(host, *turns) == at && is(*turns);
            let is_right = last.map_or_else(|| found.iter().all(|byte| *byte == 0), is) || is_late;
            assert!(
                is_right,
                "block {at} of host {host}, written last in turn {last:?} of {turns}"
            );
        }
    }
    scene.start_node(2);
    scene.until_open("it is back", &[0, 1, 2]);
    let mut back = connect(scene.hosts[2], 3);
    let data = pattern(77, BLOCK as usize);
    back.write(1, 1, BLOCK, &data);
    assert!(reader.io[0].run(read(1, 1, 1), &[], BLOCK).data() == data);
}
