//! Does a long write end sooner because its rows are locked, and go to the node that keeps them, while others of them still wait for that? One write of 16 rows, against as many writes of a
//! row each of which begins when the one before is done, through a node whose rows the other one has written last; in a group that acknowledges from the memory of both, over slow
//! drives, with a link between the nodes that adds nothing, and with one on which every message takes a millisecond. (CHECKLIST C9.)

use std::thread;
use std::time::{Duration, Instant};

use crate::memory::until_acknowledged;
use crate::queue::{Host, pattern};
use crate::stage::{BLOCK, Shape, Stage};
use crate::{Effort, median, raw, wire};

/// What the link adds to each message, in either direction, and drives to each command. Drives that are faster than the way to the other node and back end writes before its answer does.
const CASES_US: [(u64, u64); 4] = [(0, 1000), (1000, 1000), (1000, 3000), (1000, 10_000)];
const ROWS: u32 = 16;
/// Four data strips of 16 KiB.
const ROW_BLOCKS: u32 = 16;
const ROW_BYTES: usize = (ROW_BLOCKS * BLOCK) as usize;
const BYTES: usize = ROWS as usize * ROW_BYTES;
/// How long before the other node has written them. Just now, its own batches are still on their way to the drives, and so is what the rows have there.
const RESTS: [(&str, Duration); 2] = [
    ("half a second ago", Duration::from_millis(500)),
    ("just now", Duration::ZERO),
];
/// What one write may take of as many as there are rows.
const GOAL: f64 = 0.6;

fn ms(act: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    act();
    begin.elapsed().as_secs_f64() * 1e3
}

/// All rows as one command.
fn write_at_once(host: &mut Host, data: &[u8]) {
    host.write(1, 0, BLOCK, data);
}

/// Each row as a command of its own, which waits for the one before.
fn write_serially(host: &mut Host, data: &[u8]) {
    for (row, data) in (0..).zip(data.chunks(ROW_BYTES)) {
        host.write(1, row * u64::from(ROW_BLOCKS), BLOCK, data);
    }
}

/// Milliseconds of both ways, each of which comes to rows that the other node has written so long before.
fn both_ways(hosts: &mut [Host; 2], rest: Duration, count: u64) -> [Vec<f64>; 2] {
    let [writer, other] = hosts;
    let mut seed = 0;
    let mut one = |way: fn(&mut Host, &[u8])| {
        seed += 2;
        write_at_once(other, &pattern(seed, BYTES));
        thread::sleep(rest);
        let data = pattern(seed + 1, BYTES);
        let took = ms(|| way(writer, &data));
        let seen = other.read(1, 0, ROWS * ROW_BLOCKS, BLOCK);
        assert!(seen == data, "the other node sees it");
        took
    };
    let mut all = [const { Vec::new() }; 2];
    // The first round is not counted: it is the first one over slow drives.
    for round in 0..=count {
        let took = [one(write_at_once), one(write_serially)];
        if round > 0 {
            all.iter_mut().zip(took).for_each(|(all, took)| all.push(took));
        }
    }
    all
}

/// Milliseconds of a write of one block of a row that is held.
fn held(host: &mut Host, count: u64) -> f64 {
    let data = vec![1; BLOCK as usize];
    host.write(1, 0, BLOCK, &data);
    median(
        (0..count)
            .map(|_| ms(|| host.write(1, 0, BLOCK, &data)))
            .collect(),
    )
}

/// Hosts at both nodes, once these acknowledge from memory.
fn hosts(stage: &Stage) -> [Host; 2] {
    let mut hosts = [stage.connect(0, 1), stage.connect(1, 2)];
    for (node, host) in (0..).zip(&mut hosts) {
        until_acknowledged(stage, node, 2, || {
            write_at_once(host, &vec![0; BYTES]);
        });
    }
    hosts
}

/// Of 64 bytes and an answer of as many: straight, or by a wire like those between the nodes.
fn round_trip_ms(link_us: u64) -> f64 {
    if link_us == 0 {
        return raw::run(64, 1, Duration::from_millis(200)).p50_ns / 1e6;
    }
    median(wire::round_trips(Duration::from_micros(link_us), 100)) / 1e3
}

/// Prints both ways for each link, and what the one takes of the other.
pub fn run(effort: Effort) {
    let count = if effort.is_quick { 1 } else { 15 };
    println!(
        "two nodes over a shelf, one core and one process each, not polling; writes are done in the memory of both; \
         {ROWS} rows of {} KiB that the other node has written last; medians of {count} rounds",
        ROW_BYTES >> 10
    );
    for (link_us, drives_us) in CASES_US {
        let stage = Stage::set(Shape {
            drives: 5,
            copies: 2,
            transfer_kib: 1024,
            link_us,
            ..Shape::TWO_NODES
        });
        let round_trip_ms = round_trip_ms(link_us);
        let mut hosts = hosts(&stage);
        stage.slow_down(drives_us);
        println!(
            "a link that takes {link_us} us for each message, drives that take {drives_us} us more: 64 B there and back {round_trip_ms:.2} ms, 4 KiB write of a held row {:.2} ms",
            held(&mut hosts[0], count)
        );
        for (when, rest) in RESTS {
            let took = both_ways(&mut hosts, rest, count);
            println!("  rows written {when}: {}", compared(took, link_us > 0));
        }
    }
}

/// Both ways as text, and what the one takes of the other.
fn compared([at_once, serially]: [Vec<f64>; 2], has_goal: bool) -> String {
    let ratios = at_once.iter().zip(&serially).map(|(one, all)| one / all);
    let mut ratios: Vec<f64> = ratios.collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = median(ratios.clone());
    let goal = match (has_goal, ratio < GOAL) {
        (false, _) => String::new(),
        (true, true) => format!("; goal: under {GOAL}, met"),
        (true, false) => format!("; goal: under {GOAL}, MISSED"),
    };
    format!(
        "pipelined 1 MiB write p50 {:.1} ms, against {ROWS} serial ones of a row {:.1} ms: {ratio:.2}, {:.2} to {:.2} in single rounds{goal}",
        median(at_once),
        median(serially),
        ratios[0],
        ratios[ratios.len() - 1],
    )
}
