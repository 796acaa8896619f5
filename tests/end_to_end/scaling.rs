//! Nodes that share a group and have rows of their own to serve: together they do as much as there are of them.
//!
//! Each node is throttled by its configuration: one I/O queue for a host, with few entries (`io_queues_max` and `queue_entries_max`). The drives are slow to
//! answer, but answer any number of commands at a time.

use std::thread;
use std::time::{Duration, Instant};

use nvme::fabrics::{Capabilities, PropertyAccess, property};

use super::queue::{Host, Manner, pattern, read, write};
use super::scene::Scene;
use super::sharing::connect_as;

const BLOCK: u32 = 4096;
const NODES: u8 = 4;
/// Blocks of each node's virtual disk.
const BLOCKS: u64 = 4096;
/// How much longer drives take: so long that neither the cores of a busy machine nor the shelf are what limits, but what each node takes at a time.
const SLOW_US: u64 = 200_000;
/// Entries of a queue of a node: the least that its configuration may say.
const ENTRIES: u16 = 16;
/// Commands that a host keeps under way, as many as fit (a full queue has an empty entry), and how many it sends.
const DEPTH: usize = ENTRIES as usize - 1;
const COMMANDS: usize = 8 * DEPTH;
/// What twice as many nodes do, at least.
const GROWTH: f64 = 1.7;
/// A machine that is busy with other things may spoil a measurement, but not all of them.
const ATTEMPTS_MAX: usize = 6;

/// Blocks in an order that no read-ahead knows, each once before any comes again.
struct Blocks(u64);

impl Blocks {
    fn next(&mut self) -> u64 {
        // A step of full period, because the factor is 1 modulo 4 and the summand odd (Hull and Dobell).
        self.0 = (self.0 * 1_664_525 + 1_013_904_223) % BLOCKS;
        self.0
    }
}

/// Sends a host's share, so many at a time.
fn serve(host: &mut Host, nsid: u32, writes: bool, blocks: &mut Blocks) {
    let data = pattern(u64::from(nsid), BLOCK as usize);
    let queue = &mut host.io[0];
    for sent in 0..COMMANDS + DEPTH {
        if sent >= DEPTH {
            let (_, answer) = queue.try_next().unwrap();
            answer.ok();
        }
        if sent < COMMANDS {
            let at = blocks.next();
            if writes {
                queue.submit(write(nsid, at, 1), &data, 0);
            } else {
                queue.submit(read(nsid, at, 1), &[], BLOCK);
            }
        }
    }
}

/// Commands a second of so many nodes together.
fn rate(hosts: &mut [(Host, Blocks)], writes: bool) -> f64 {
    let begin = Instant::now();
    let count = f64::from(u32::try_from(hosts.len() * COMMANDS).unwrap());
    thread::scope(|scope| {
        for (nsid, (host, blocks)) in (1..).zip(hosts) {
            scope.spawn(move || serve(host, nsid, writes, blocks));
        }
    });
    let elapsed = begin.elapsed();
    let least = Duration::from_micros(SLOW_US) * u32::try_from(COMMANDS / DEPTH).unwrap();
    assert!(elapsed >= least, "nothing was served from memory: {elapsed:?}");
    count / elapsed.as_secs_f64()
}

/// A host that uses all that a node takes at a time.
fn connect(scene: &Scene, node: u8) -> Host {
    let manner = Manner {
        host: node + 1,
        entries: ENTRIES,
        ..Manner::default()
    };
    let mut host = connect_as(scene.hosts[usize::from(node)], manner);
    let capabilities = PropertyAccess::get(0, property::CAP);
    let answer = host.admin.run(capabilities, &[], 0);
    assert_eq!(
        Capabilities(answer.entry.result).queue_entries_max(),
        u32::from(ENTRIES),
        "the node takes no more"
    );
    host
}

/// CHECKLIST A7 (Figure 7): with drives that do more than one throttled node, two nodes do nearly twice, and four nodes four times as much as one, reading
/// and writing rows of their own.
#[test]
fn nodes_on_rows_of_their_own_add_up() {
    let mut groups = String::from(
        "[[group]]\nname = \"g\"\nlevel = \"raid5\"\ndrives = [\"d0\", \"d1\", \"d2\", \"d3\"]\n\
         strip_kib = 16\njournal_mib = 16\ncreate = true\n",
    );
    for disk in 1..=NODES {
        groups += &format!("[[vdisk]]\nname = \"v{disk}\"\ngroup = \"g\"\nsize_mib = 16\nnsid = {disk}\n");
    }
    let throttle = format!("io_queues_max = 1\nqueue_entries_max = {ENTRIES}\n");
    let mut scene = Scene::set_as(NODES, &throttle, &groups);
    scene.create(0);
    let mut hosts: Vec<(Host, Blocks)> = (0..NODES)
        .map(|node| (connect(&scene, node), Blocks(u64::from(node))))
        .collect();
    scene.slow_drives_down(SLOW_US);
    for writes in [false, true] {
        let mut tries = Vec::new();
        let has_grown = (0..ATTEMPTS_MAX).any(|_| {
            let [one, two, four] = [1, 2, 4].map(|count| rate(&mut hosts[..count], writes));
            tries.push([one, two, four]);
            two >= GROWTH * one && four >= GROWTH * two
        });
        println!("writes: {writes}, commands a second by 1, 2 and 4 nodes: {tries:.0?}");
        assert!(has_grown, "writes: {writes}, {tries:?}");
    }
}
