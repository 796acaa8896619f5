//! How many instructions does the core of a node spend on a 4 KiB read that it has in memory and whose row it holds, alone and in an array? The node
//! runs in callgrind (of Valgrind), which counts them; the kernel's are not among them. One node of an array of two, beside one with the drives for itself.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use crate::Effort;
use crate::load::{self, Load, keep_under_way};
use crate::stage::{Shape, Stage};

/// Blocks that are read: 4 MiB, which the cache keeps.
const BLOCKS: u64 = 1024;
/// Reads before anything is counted.
const WARM: u64 = 4096;
/// The goal: so much more than alone, in percent.
const GOAL: f64 = 3.0;

/// Tells the callgrind of a process something.
fn control(stage: &Stage, order: &str) {
    let done = Command::new("callgrind_control")
        .args(order.split(' '))
        .arg(stage.process(0).to_string())
        .current_dir(stage.folder())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "callgrind_control comes with Valgrind"
    );
}

/// Instructions of each thread in what callgrind has written so far, by the end of the file's name.
fn counts(stage: &Stage) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(stage.folder()).expect("it is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("callgrind.out") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let all = text.lines().filter_map(|line| line.strip_prefix("totals: "));
        let count: u64 = all.filter_map(|count| count.trim().parse::<u64>().ok()).sum();
        counts.insert(name, count);
    }
    counts
}

/// Instructions of the busiest thread for so many reads.
fn count(stage: &Stage, load: Load, reads: u64) -> u64 {
    let mut host = stage.connect(0, 1);
    keep_under_way(&mut host, load, |answered| answered < WARM);
    let before = counts(stage);
    control(stage, "-z");
    keep_under_way(&mut host, load, |answered| answered < reads);
    control(stage, "-d");
    let after = counts(stage);
    let new = after.iter().filter(|(name, _)| !before.contains_key(*name));
    new.map(|(_, count)| *count)
        .max()
        .expect("it has written what it counted")
}

/// Instructions for a read, with so many under way.
fn per_read(stage: &Stage, depth: u32, reads: u64) -> f64 {
    let load = Load {
        nsid: 1,
        writes: false,
        each: 1,
        blocks: BLOCKS,
        depth,
        seed: 1,
    };
    // What is spent anyway, on connections and timers, is in both.
    let (few, many) = (count(stage, load, reads), count(stage, load, 3 * reads));
    (many - few) as f64 / (2 * reads) as f64
}

fn stage(is_shared: bool) -> Stage {
    let stage = Stage::set(Shape {
        nodes: if is_shared { 2 } else { 1 },
        is_shared,
        disks: 1,
        disk_mib: 64,
        read_cache_mib: 32,
        copies: 1,
        counts_instructions: true,
        ..Shape::TWO_NODES
    });
    load::fill(&mut stage.connect(0, 1), 1, BLOCKS);
    control(&stage, "-i=on");
    stage
}

/// Prints both and how they compare.
pub fn run(effort: Effort) {
    let found = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        println!("reads: Valgrind is not installed, so nothing can count instructions");
        return;
    }
    let reads = if effort.is_quick { 1_000 } else { 10_000 };
    println!(
        "instructions of a core for a 4 KiB read of what it remembers, without the kernel's; goal: {GOAL} % more than alone"
    );
    let depths = [1, 16];
    let mut figures = Vec::new();
    for is_shared in [false, true] {
        let stage = stage(is_shared);
        figures.push(depths.map(|depth| per_read(&stage, depth, reads)));
    }
    for (at, depth) in depths.iter().enumerate() {
        let (alone, shared) = (figures[0][at], figures[1][at]);
        println!(
            "{depth:2} under way: alone {alone:.0}, in an array {shared:.0}: {:+.1} %",
            (shared / alone - 1.0) * 100.0
        );
    }
}
