//! Several nodes that serve the same group over the drives of one shelf: real processes, real NVMe/TCP.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use braid::target::manage::ArrayCut;
use nvme::command::io_opcode;
use nvme::status::Status;

use super::queue::{Host, Manner, command, pattern, write};
use super::scene::Scene;
use super::stage::{Folder, WAIT, start};

const BLOCK: u32 = 4096;

/// A group of four drives that all nodes serve, with one virtual disk of 64 MiB.
pub const GROUP: &str = "[[group]]\nname = \"g\"\nlevel = \"raid5\"\ndrives = [\"d0\", \"d1\", \"d2\", \"d3\"]\n\
                     strip_kib = 16\njournal_mib = 16\ncreate = true\n\
                     [[vdisk]]\nname = \"v\"\ngroup = \"g\"\nsize_mib = 64\nnsid = 1\n";

/// Connects as soon as the node serves.
pub fn connect(address: SocketAddr, host: u8) -> Host {
    let manner = Manner {
        host,
        ..Manner::default()
    };
    connect_as(address, manner)
}

/// The same in a manner.
pub fn connect_as(address: SocketAddr, manner: Manner) -> Host {
    let begin = Instant::now();
    loop {
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

/// An array that is made by several callers at once is made once, and nobody tries out drives that are in use by then, which would fence their
/// users: the group on them is served.
#[test]
fn an_array_is_made_once() {
    let mut scene = Scene::set(2, GROUP);
    scene.create_at_once(0, 4);
    let mut host = connect(scene.hosts[0], 1);
    let data = pattern(1, BLOCK as usize);
    host.write(1, 7, BLOCK, &data);
    assert_eq!(connect(scene.hosts[1], 2).read(1, 7, 1, BLOCK), data);
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

/// DESIGN 4, CHECKLIST B9, C1: a row that one node has written to goes to the next writer with its data, from memory to memory. Who had it last may die, and who gave it, and all of them.
#[test]
fn a_dirty_row_goes_to_the_next_writer() {
    const ROWS: u64 = 8;
    /// Three strips of 16 KiB.
    const ROW_BLOCKS: u64 = 12;
    let mut scene = scene(2);
    scene.until_open("formed", &[0, 1]);
    let mut known: Vec<Vec<u8>> = vec![Vec::new(); 2 * usize::try_from(ROWS).unwrap()];
    let mut write = |host: &mut Host, writer: u64, round: u64| {
        for row in 0..ROWS {
            let data = pattern(100 * round + row, BLOCK as usize);
            host.write(1, row * ROW_BLOCKS + writer, BLOCK, &data);
            known[usize::try_from(2 * row + writer).unwrap()] = data;
        }
    };
    let mut hosts: Vec<Host> = (1..)
        .zip(&scene.hosts)
        .map(|(host, address)| connect(*address, host))
        .collect();
    for round in 0..6 {
        for (writer, host) in (0..).zip(&mut hosts) {
            write(host, writer, 2 * round + writer);
        }
    }
    let count = |name: &str| [0, 1].map(|slot| scene.counter(slot, name));
    let (given, taken) = (count("dirty_rows_handed_over"), count("dirty_rows_taken"));
    assert!(
        given.iter().chain(&taken).all(|count| *count >= ROWS),
        "{given:?} given, {taken:?} taken"
    );
    let read = |host: &mut Host, what: &str| {
        for row in 0..ROWS {
            let blocks = host.read(1, row * ROW_BLOCKS, 2, BLOCK);
            let both = &known[usize::try_from(2 * row).unwrap()..][..2];
            assert!(blocks == both.concat(), "{what}, row {row}");
        }
    };
    // All of them were the second node's last.
    scene.nodes[1] = None;
    scene.until_open("one is dead", &[0]);
    read(&mut connect(scene.hosts[0], 1), "who had them is dead");
    scene.kill_everything();
    scene.start_shelf();
    scene.start_node(1);
    scene.start_node(0);
    scene.until_open("all are back", &[0, 1]);
    read(&mut connect(scene.hosts[1], 2), "all were dead");
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

/// PROTOCOL 3.1, CHECKLIST A3: if only the link for locks between two nodes fails, and announcements pass, one of them is left out all the same, so that nobody
/// waits for good; and when the link is whole again, it comes back.
#[test]
fn a_node_that_is_heard_and_gives_no_locks_is_left_out() {
    let mut scene = scene(3);
    scene.until_open("formed", &[0, 1, 2]);
    let mut hosts: Vec<Host> = (1..)
        .zip(&scene.hosts)
        .map(|(host, address)| connect(*address, host))
        .collect();
    let data = |round: u64| pattern(round, BLOCK as usize);
    for block in 0..24 {
        hosts[usize::try_from(block % 2).unwrap()].write(1, block, BLOCK, &data(block));
    }
    let cut = |is_cut, peer| ArrayCut {
        peer,
        muted: is_cut,
        deafened: is_cut,
        locks_only: true,
    };
    scene.cut_links(0, cut(true, 1));
    scene.cut_links(1, cut(true, 0));
    scene.until_one_opens("without one of the two", &[&[0, 2], &[1, 2]]);
    // Whoever is left has all rows; and no host waits for good.
    let mut host = connect(scene.hosts[2], 9);
    for block in 0..24 {
        assert!(host.read(1, block, 1, BLOCK) == data(block), "block {block}");
        host.write(1, block, BLOCK, &data(block + 100));
    }
    for (slot, peer) in [(0, 1), (1, 0)] {
        scene.cut_links(slot, cut(false, peer));
    }
    scene.until_open("the link is whole", &[0, 1, 2]);
    for address in &scene.hosts {
        let mut host = connect(*address, 9);
        for block in 0..24 {
            assert!(
                host.read(1, block, 1, BLOCK) == data(block + 100),
                "block {block}"
            );
        }
    }
}

/// A node whose cores cannot be started says why, tries again less and less often, and the others hear nothing of that. It comes back when it can and is asked to.
#[test]
fn a_node_that_cannot_serve_disturbs_nobody() {
    let mut scene = scene(2);
    scene.until_open("formed", &[0, 1]);
    let stopped = scene.nodes[1].take().unwrap();
    stopped.signal("-TERM");
    stopped.ends_well();
    scene.until_open("without it", &[0]);
    let epoch = scene.newest_epoch();
    let mut taken = scene.links[1];
    taken.set_port(taken.port() + 1);
    let taken = TcpListener::bind(taken).unwrap();
    scene.start_node(1);
    let begin = Instant::now();
    let waits = loop {
        assert!(begin.elapsed() < 2 * WAIT, "it tries less and less often");
        // As it may answer at any time between two of its attempts, the pause has been longer than this.
        let status = scene.show(1);
        if let Some(status) = status.filter(|status| status.next_life_s >= Some(3)) {
            break status;
        }
        thread::sleep(Duration::from_millis(50));
    };
    let why = waits.ended_before.unwrap_or_default();
    assert!(
        why.contains("cannot be started") && why.contains("in use"),
        "{why}"
    );
    assert_eq!((waits.stage.as_str(), waits.lives), ("halted", 0));
    assert_eq!(scene.newest_epoch(), epoch, "no epoch has begun for it");
    drop(taken);
    scene.join(1);
    scene.until_open("it is back", &[0, 1]);
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
