//! What does redundancy cost? Five questions, each answered beside a baseline of the same run.
//!
//! `cargo bench --bench array [-- QUESTION ...] [-- --quick]`, a question being `journal`, `bandwidth`, `degraded`, `rebuild` or
//! `bytes`. Everything goes over NVMe/TCP on loopback, from one client to a node of one core in this process. Baseline and
//! candidate alternate; figures are medians of the rounds, ratios medians of the rounds' ratios.
//! `BRAID_BENCH_FOLDER` names the folder of file drives, otherwise the system's folder for temporary files.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a bench is about clocks, files and sockets"
)]
#![expect(clippy::print_stdout, reason = "the figures are the product")]

mod stage;

use std::path::PathBuf;

use braid::target::cli::options::Pattern;
use braid::target::perf::PerfReport;
use stage::{Load, Medium, Shape, Stage};

const KIB: u32 = 1024;
/// Bandwidth of a memory drive that stands for one whose limit counts: far below what a core moves.
const LIMIT_MIB_S: u32 = 100;

const MEMORY: Medium = Medium::Memory {
    bandwidth_mib_s: None,
    delay_us: 0,
};
const LIMITED: Medium = Medium::Memory {
    bandwidth_mib_s: Some(LIMIT_MIB_S),
    delay_us: 0,
};

const SLOW: Medium = Medium::Memory {
    bandwidth_mib_s: None,
    delay_us: 100,
};

/// How long and how often.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    seconds: u32,
}

fn shape(level: &'static str, drives: usize, medium: Medium) -> Shape {
    Shape {
        level,
        drives,
        drive_mib: 256,
        medium,
        disk_mib: 192,
        spares: 0,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The rounds of a comparison.
#[derive(Default)]
struct Rounds {
    baseline: Vec<f64>,
    candidate: Vec<f64>,
    /// Median latencies in microseconds.
    latencies: (Vec<f64>, Vec<f64>),
}

impl Rounds {
    /// Lets both run a load in turn, each on a node of its own.
    fn run(
        effort: Effort,
        baseline: (&Shape, Load),
        candidate: (&Shape, Load),
        prepare: impl Fn(&Stage),
        figure: impl Fn(&PerfReport) -> f64,
    ) -> Self {
        let mut rounds = Self::default();
        for _ in 0..effort.rounds {
            let report = Stage::set(baseline.0).run(baseline.1, effort.seconds);
            rounds.baseline.push(figure(&report));
            rounds.latencies.0.push(p50_us(&report));
            let stage = Stage::set(candidate.0);
            prepare(&stage);
            let report = stage.run(candidate.1, effort.seconds);
            rounds.candidate.push(figure(&report));
            rounds.latencies.1.push(p50_us(&report));
        }
        rounds
    }

    fn ratio(&self) -> f64 {
        let ratios = self.candidate.iter().zip(&self.baseline);
        median(ratios.map(|(candidate, baseline)| candidate / baseline).collect())
    }
}

fn p50_us(report: &PerfReport) -> f64 {
    report.all().latency.quantile_ns(0.5) as f64 / 1e3
}

fn mib_s(report: &PerfReport) -> f64 {
    report.bytes_per_second() / f64::from(1 << 20)
}

/// A journaled write against a plain forced write to one drive: the same durability, without redundancy.
fn journal(effort: Effort, files: &Medium) {
    println!("journal: 4 KiB random writes; a plain drive (raid0 of one) with FUA against a group's journal");
    for (name, medium) in [("memory", MEMORY), ("file", files.clone())] {
        for (level, drives) in [("raid5", 5), ("raid6", 6)] {
            for depth in [1, 32] {
                let load = Load::writes(Pattern::Random, 4 * KIB, depth);
                let forced = Load { fua: true, ..load };
                let plain = shape("raid0", 1, medium.clone());
                let group = shape(level, drives, medium.clone());
                let rounds = Rounds::run(effort, (&plain, forced), (&group, load), |_| {}, PerfReport::iops);
                println!(
                    "  {name:6} {level} depth {depth:2}: {:8.1} kIOPS, plain {:8.1} kIOPS, ratio {:.2}; p50 {:7.1} us, plain {:7.1} us",
                    median(rounds.candidate.clone()) / 1e3,
                    median(rounds.baseline.clone()) / 1e3,
                    rounds.ratio(),
                    median(rounds.latencies.1.clone()),
                    median(rounds.latencies.0.clone()),
                );
            }
        }
    }
}

/// Writes as a share of what the drives move, all of them together, without redundancy.
fn bandwidth(effort: Effort) {
    println!(
        "bandwidth: writes as a share of raid0 over as many drives of {LIMIT_MIB_S} MiB/s; the least that has to be written in brackets"
    );
    // Long enough for the lane to be full all the time.
    let effort = Effort {
        seconds: 3 * effort.seconds,
        ..effort
    };
    for (level, drives) in [("raid5", 5), ("raid6", 6)] {
        let group = shape(level, drives, LIMITED);
        let plain = shape("raid0", drives, LIMITED);
        let row = u32::try_from(group.data_drives()).expect("few") * 64 * KIB;
        for (name, pattern, block_bytes, depth) in [
            ("sequential rows", Pattern::Sequential, row, 16),
            ("sequential 128 KiB", Pattern::Sequential, 128 * KIB, 32),
            ("random 128 KiB", Pattern::Random, 128 * KIB, 32),
            ("random 4 KiB", Pattern::Random, 4 * KIB, 128),
        ] {
            let load = Load::writes(pattern, block_bytes, depth);
            let rounds = Rounds::run(effort, (&plain, load), (&group, load), |_| {}, mib_s);
            println!(
                "  {level} {name:18}: {:7.1} MiB/s, raid0 {:7.1} MiB/s, ratio {:.3} (at most {:.3})",
                median(rounds.candidate.clone()),
                median(rounds.baseline.clone()),
                rounds.ratio(),
                1.0 / least_bytes(&group, block_bytes, pattern),
            );
        }
    }
}

/// Bytes that have to be written for each byte of a host, by the rules of the journal, without its headers: data on f+1
/// drives before the host is told, then in its place; check data in its place, and before that on f+1 drives unless it
/// follows from data in the journal, as it does for whole rows.
fn least_bytes(group: &Shape, block_bytes: u32, pattern: Pattern) -> f64 {
    let (data, checks) = (group.data_drives() as f64, group.check_drives() as f64);
    let copies = checks + 1.0;
    let strip = f64::from(64 * KIB);
    let whole = pattern == Pattern::Sequential || f64::from(block_bytes) >= data * strip;
    // Check blocks for each data block of a write: one for all columns where they lie side by side.
    let columns = (f64::from(block_bytes) / strip).clamp(1.0, data);
    if whole {
        copies + 1.0 + checks / data
    } else {
        copies + 1.0 + checks * (copies + 1.0) / columns
    }
}

/// Reads with a drive lost against reads with all of them.
fn degraded(effort: Effort) {
    println!("degraded: reads with one drive lost, of drives that take 100 us a command");
    for (level, drives) in [("raid5", 5), ("raid6", 6)] {
        let group = shape(level, drives, SLOW);
        for (name, pattern, block_bytes, depth) in [
            ("random 4 KiB, depth 1", Pattern::Random, 4 * KIB, 1),
            ("random 4 KiB, depth 32", Pattern::Random, 4 * KIB, 32),
            ("sequential 128 KiB, depth 8", Pattern::Sequential, 128 * KIB, 8),
        ] {
            let load = Load::reads(pattern, block_bytes, depth);
            let fail = |stage: &Stage| stage.fail_drive(1);
            let rounds = Rounds::run(effort, (&group, load), (&group, load), fail, PerfReport::iops);
            let extra = drive_reads(&group, load, true) / drive_reads(&group, load, false);
            println!(
                "  {level} {name:27}: {:7.1} kIOPS, healthy {:7.1} kIOPS, ratio {:.2}; p50 {:6.1} us, healthy {:6.1} us; {extra:.2} times the drive reads",
                median(rounds.candidate.clone()) / 1e3,
                median(rounds.baseline.clone()) / 1e3,
                rounds.ratio(),
                median(rounds.latencies.1.clone()),
                median(rounds.latencies.0.clone()),
            );
        }
    }
}

/// Drive reads for each MiB that hosts read.
fn drive_reads(group: &Shape, load: Load, lost: bool) -> f64 {
    let stage = Stage::set(group);
    if lost {
        stage.fail_drive(1);
    }
    stage.settle();
    let before = stage.moved();
    let report = stage.run(load, 1);
    stage.settle();
    let reads = stage.moved().reads - before.reads;
    reads as f64 / report.measured.moved_bytes as f64
}

/// The rate of a rebuild against that at which the replacement can be written.
fn rebuild(effort: Effort) {
    println!("rebuild: onto a drive of {LIMIT_MIB_S} MiB/s, hosts being idle");
    for (level, drives) in [("raid5", 5), ("raid6", 6)] {
        let mut rates = Vec::new();
        for _ in 0..effort.rounds {
            let group = Shape {
                spares: 1,
                ..shape(level, drives, LIMITED)
            };
            let stage = Stage::set(&group);
            // Something to rebuild from.
            stage.run(Load::writes(Pattern::Sequential, 256 * KIB, 16), 1);
            stage.settle();
            stage.fail_drive(1);
            let before = stage.moved().written_bytes;
            let took = stage.rebuild_onto(drives);
            stage.settle();
            let written = stage.moved().written_bytes - before;
            rates.push(written as f64 / took.as_secs_f64() / f64::from(1 << 20));
        }
        let rate = median(rates);
        println!(
            "  {level}: {rate:6.1} MiB/s, ratio {:.3} (goal 0.9)",
            rate / f64::from(LIMIT_MIB_S)
        );
    }
}

/// Bytes that drives are written for each byte that hosts write, from the drives' counters, until all is in its place.
fn bytes() {
    println!(
        "bytes: written to drives for each byte of a host; the least that the journal's rules ask for in brackets"
    );
    for (level, drives) in [("raid5", 5), ("raid6", 6)] {
        // What waits for drives meanwhile goes into one batch, which drives without latency would never show.
        let group = shape(level, drives, SLOW);
        let row = u32::try_from(group.data_drives()).expect("few") * 64 * KIB;
        for (name, pattern, block_bytes, depth) in [
            ("random 4 KiB, depth 1", Pattern::Random, 4 * KIB, 1),
            ("random 4 KiB, depth 32", Pattern::Random, 4 * KIB, 32),
            ("random 128 KiB, depth 8", Pattern::Random, 128 * KIB, 8),
            ("sequential 128 KiB, depth 8", Pattern::Sequential, 128 * KIB, 8),
            ("sequential rows, depth 8", Pattern::Sequential, row, 8),
        ] {
            let stage = Stage::set(&group);
            stage.settle();
            let before = stage.moved();
            let report = stage.run(Load::writes(pattern, block_bytes, depth), 1);
            stage.settle();
            let after = stage.moved();
            let host = report.measured.moved_bytes as f64;
            println!(
                "  {level} {name:27}: {:.2} written (least {:.2}), {:.2} read",
                (after.written_bytes - before.written_bytes) as f64 / host,
                least_bytes(&group, block_bytes, pattern),
                (after.read_bytes - before.read_bytes) as f64 / host,
            );
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick")
        || std::env::var_os("BRAID_BENCH_QUICK").is_some();
    let asked = |question: &str| {
        let mut questions = arguments
            .iter()
            .filter(|argument| !argument.starts_with("--"))
            .peekable();
        questions.peek().is_none() || questions.any(|argument| argument == question)
    };
    let effort = if quick {
        Effort {
            rounds: 1,
            seconds: 1,
        }
    } else {
        Effort {
            rounds: 5,
            seconds: 2,
        }
    };
    let folder = std::env::var_os("BRAID_BENCH_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("braid-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder for file drives can be made");
    if asked("bytes") {
        bytes();
    }
    if asked("journal") {
        journal(effort, &Medium::Files(folder.clone()));
    }
    if asked("bandwidth") {
        bandwidth(effort);
    }
    if asked("degraded") {
        degraded(effort);
    }
    if asked("rebuild") {
        rebuild(effort);
    }
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
}
