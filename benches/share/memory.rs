//! When is a host told that its write is done: when it is in the journal of the drives, or in the memory of two or three nodes? One 4 KiB write of a held row at a time,
//! beside reads of the same rows and the bare round trip; over drives that answer at once, and over such that take a millisecond.

use std::time::{Duration, Instant};

use braid::target::manage::{GroupStatus, Reply, Request};

use crate::queue::Host;
use crate::stage::{BLOCK, ROW_BLOCKS, Shape, Stage, WAIT};
use crate::{Effort, median, raw};

const ROWS: u64 = 64;
/// What a slow drive takes for each command.
pub const SLOW_US: u64 = 1000;

/// Microseconds of writes of all rows, of which the last ones are dirty here; the middle one.
fn writes(host: &mut Host, rounds: u64) -> f64 {
    let data = vec![0x5a; BLOCK as usize];
    let one = |at: u64| {
        let begin = Instant::now();
        host.write(1, at % ROWS * ROW_BLOCKS, BLOCK, &data);
        begin.elapsed().as_secs_f64() * 1e6
    };
    median((0..rounds * ROWS).map(one).collect())
}

fn reads(host: &mut Host) -> f64 {
    let one = |row: u64| {
        let begin = Instant::now();
        host.read(1, row * ROW_BLOCKS, 1, BLOCK);
        begin.elapsed().as_secs_f64() * 1e6
    };
    median((0..ROWS).map(one).collect())
}

/// Whether a node acknowledges as it is to.
fn acknowledges(stage: &Stage, node: u8, copies: u8) -> bool {
    let Some(Reply::Groups(groups)) = stage.call(&format!("n{node}.sock"), &Request::GroupList) else {
        return false;
    };
    let is_so =
        |group: &GroupStatus| group.dirty_ram && group.copies.as_ref().is_some_and(|it| it.now == copies);
    copies == 1 || groups.iter().all(is_so)
}

/// Has a host write until that node acknowledges as it is to.
pub fn until_acknowledged(stage: &Stage, node: u8, copies: u8, mut write: impl FnMut()) {
    let begin = Instant::now();
    while !acknowledges(stage, node, copies) {
        write();
        assert!(
            begin.elapsed() < WAIT,
            "writes are acknowledged as they are to be"
        );
    }
}

/// Prints medians, and what they are of the round trip.
pub fn run(effort: Effort) {
    let (rounds, time) = if effort.is_quick {
        (1, Duration::from_millis(200))
    } else {
        (8, Duration::from_secs(1))
    };
    let round_trip = raw::run(64, 1, time).p50_ns / 1e3;
    println!(
        "three nodes over a shelf, one core and one process each, not polling; one 4 KiB write of a held row at a time\nbare round trip: p50 {round_trip:.1} us"
    );
    for slow_us in [0, SLOW_US] {
        println!("drives that take {slow_us} us more:");
        for (name, copies) in [
            ("in the journal", 1),
            ("in the memory of 2 nodes", 2),
            ("in the memory of 3 nodes", 3),
        ] {
            let stage = Stage::set(Shape {
                nodes: 3,
                is_shared: true,
                disks: 1,
                disk_mib: 64,
                read_cache_mib: 32,
                copies,
                ..Shape::TWO_NODES
            });
            let mut host = stage.connect(0, 1);
            // The rows are held, all nodes are there, and the permission is, too.
            until_acknowledged(&stage, 0, copies, || {
                writes(&mut host, 1);
            });
            stage.slow_down(slow_us);
            writes(&mut host, 1);
            let write = writes(&mut host, rounds);
            let read = reads(&mut host);
            println!(
                "write that is done {name:<26} p50 {write:8.1} us, {:6.2} round trips; read p50 {read:6.1} us",
                write / round_trip
            );
        }
    }
}
