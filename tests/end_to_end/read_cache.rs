//! Cores that remember what they read, under hosts whose queues are on different cores.

use braid::target::manage::{Reply, Request};

use super::bad_hosts::{assert_undisturbed, verify};
use super::queue::{Host, Manner, pattern, read, write};
use super::stage::{FILES, Stage, TWO_NAMESPACES};

const BLOCK: u32 = 4096;

/// A counter of all cores together.
fn counter(stage: &Stage, name: &str) -> u64 {
    let Ok(Reply::Counters(cores)) = stage.call(Request::Counters) else {
        panic!("a node counts");
    };
    cores.iter().map(|core| core.counters[name]).sum()
}

/// CHECKLIST B9: two queues on two cores; what one writes the other reads at once, although it remembers what was there.
#[test]
fn what_one_queue_writes_another_reads() {
    let stage = Stage::set(TWO_NAMESPACES);
    let manner = Manner {
        queues: 2,
        ..Manner::default()
    };
    let mut host = Host::connect_as(stage.address(), manner);
    for round in 0..40 {
        let data = pattern(round, 4 * 4096);
        let (writer, queues) = (usize::try_from(round).unwrap() % 2, 2);
        host.io[writer].run(write(2, 8, 4), &data, 0).ok();
        for queue in (0..queues).chain(0..queues) {
            let answer = host.io[queue].run(read(2, 8, 4), &[], 4 * BLOCK);
            assert!(answer.data() == data, "round {round}, queue {queue}");
        }
    }
    assert!(
        counter(&stage, "read_cache_hits") >= 40,
        "the second time it was remembered"
    );
}

/// What is remembered asks no drive, and forced unit access does.
#[test]
fn a_read_from_memory_asks_no_drive_and_a_forced_one_does() {
    let stage = Stage::set(FILES);
    let mut host = Host::connect(stage.address());
    let data = pattern(1, 16 * 4096);
    host.write(1, 0, BLOCK, &data);
    let commands = || -> u64 {
        ["d0", "d1", "d2", "d3"]
            .map(|drive| stage.drive_commands(drive))
            .iter()
            .sum()
    };
    // Until what was written has gone to its place, it is in memory anyway.
    stage.until("the write is in its place and read from there", |stage| {
        let before = counter(stage, "read_cache_hits");
        host.io[0].run(read(1, 3, 1), &[], BLOCK).ok();
        host.io[0].run(read(1, 3, 1), &[], BLOCK).ok();
        counter(stage, "read_cache_hits") > before
    });
    let (hits, before) = (counter(&stage, "read_cache_hits"), commands());
    for _ in 0..50 {
        let answer = host.io[0].run(read(1, 3, 1), &[], BLOCK);
        assert!(answer.data() == data[3 * 4096..4 * 4096]);
    }
    assert_eq!(counter(&stage, "read_cache_hits"), hits + 50);
    assert!(commands() < before + 50, "background work at most");
    let mut forced = read(1, 3, 1);
    forced.set_dword(12, forced.dword(12) | 1 << 30);
    let answer = host.io[0].run(forced, &[], BLOCK);
    assert!(answer.data() == data[3 * 4096..4 * 4096]);
    assert_eq!(
        counter(&stage, "read_cache_hits"),
        hits + 50,
        "it is not from memory"
    );
}

/// A verifying load on both cores, on so little data that everything is remembered again and again, and a stream
/// beside it.
#[test]
fn remembered_reads_are_right_under_load() {
    let text = FILES.replace("[reactor]\n", "[reactor]\nread_cache_mib = 1\n");
    let stage = Stage::set(&text);
    let address = stage.address();
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| verify(address, 1, 4));
        load.join().unwrap()
    });
    assert_undisturbed(&report);
    let mut host = Host::connect(address);
    let data = pattern(9, 4 << 20);
    for (slba, piece) in (0..).step_by(32).zip(data.chunks(32 * 4096)) {
        host.write(1, slba, BLOCK, piece);
    }
    for _ in 0..2 {
        for (slba, piece) in (0..).step_by(8).zip(data.chunks(8 * 4096)) {
            assert!(host.read(1, slba, 8, BLOCK) == piece, "from {slba}");
        }
    }
    assert!(counter(&stage, "read_cache_pages_prefetched_used") > 0);
}
