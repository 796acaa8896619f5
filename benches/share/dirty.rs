//! What does it take until a row that one node has written to is written to, or read, through another one? Two real nodes over a shelf of memory drives,
//! one command at a time, beside commands for rows that the node holds and beside the bare round trip.
//!
//! A row that another node wants to write to goes with its dirty data, which that one journals. For one that only reads, it is destaged first: its old data and check data are read,
//! the new check data is journaled, both are written, and then the lock goes.

use std::time::{Duration, Instant};

use crate::queue::Host;
use crate::stage::{BLOCK, ROW_BLOCKS, Shape, Stage};
use crate::{Effort, raw};

const ROWS: u64 = 256;

/// Microseconds of each command of a pass over all rows.
fn pass(host: &mut Host, writes: bool) -> Vec<f64> {
    let data = vec![0x5a; BLOCK as usize];
    let command = |row: u64| {
        let begin = Instant::now();
        if writes {
            host.write(1, row * ROW_BLOCKS, BLOCK, &data);
        } else {
            host.read(1, row * ROW_BLOCKS, 1, BLOCK);
        }
        begin.elapsed().as_secs_f64() * 1e6
    };
    (0..ROWS).map(command).collect()
}

/// Prints medians, and what they are of the round trip.
pub fn run(effort: Effort) {
    let stage = Stage::set(Shape {
        nodes: 2,
        is_shared: true,
        disks: 1,
        disk_mib: 64,
        read_cache_mib: 32,
        copies: 1,
        ..Shape::TWO_NODES
    });
    let (mut first, mut second) = (stage.connect(0, 1), stage.connect(1, 2));
    pass(&mut first, true);
    let (rounds, time) = if effort.is_quick {
        (1, Duration::from_millis(200))
    } else {
        (7, Duration::from_secs(1))
    };
    println!(
        "two nodes over a shelf, one core and one process each, not polling; one 4 KiB command at a time"
    );
    let mut all = [const { Vec::new() }; 6];
    for _ in 0..rounds {
        let [round_trip, read_held, write_held, to_write, write_back, to_read] = &mut all;
        round_trip.push(raw::run(64, 1, time).p50_ns / 1e3);
        write_held.extend(pass(&mut first, true));
        read_held.extend(pass(&mut first, false));
        to_write.extend(pass(&mut second, true));
        write_back.extend(pass(&mut first, true));
        to_read.extend(pass(&mut second, false));
        // And all rows are the first one's again.
        pass(&mut first, true);
    }
    let names = [
        "bare round trip",
        "read of a row that is held",
        "write of a row that is held",
        "write of a row that is dirty elsewhere",
        "the same on the way back",
        "read of a row that is dirty elsewhere",
    ];
    let [round_trip, _, held, ..] = all.clone().map(crate::median);
    for (name, values) in names.into_iter().zip(all) {
        let p50 = crate::median(values);
        println!(
            "{name:<40} p50 {p50:8.1} us, {:6.2} round trips, {:5.2} of a write of a held row",
            p50 / round_trip,
            p50 / held
        );
    }
}
