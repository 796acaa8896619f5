//! How fast is parity computed, against ISA-L and against memory itself?
//!
//! Figures count source bytes. Run with `cargo bench --bench xor`; `-- --quick` or `BRAID_BENCH_QUICK=1` for smoke. Without
//! libisal.so.2 (Debian: `apt-get install libisal2`) the baseline is plain reading.

use std::hint::black_box;

use baseline::{Candidate, Effort, Isal, Rows, Unit, compare, print_line};
use reactor::xor::Kernels;

const SOURCES: [usize; 3] = [5, 8, 16];

/// Parity against ISA-L where caches hold the data (DESIGN, section 10).
const GOAL_OF_ISAL: f64 = 1.0;
/// Parity against the same traffic without work, where memory has the data (DESIGN, section 10).
const GOAL_OF_MEMORY: f64 = 0.9;

/// Strips whose distance is a power of two share the sets of every cache, and of many strips few fit into a set. This much
/// between them (DEPENDENCIES, section 3) spreads them.
const APART_BYTES: usize = 2304;

/// Where the data is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Caches,
    Memory,
}

fn measure(effort: &Effort, isal: Option<Isal>, what: &str, rows: &Rows, place: Place) {
    let kernels = Kernels::all_supported();
    let mut candidates: Vec<Candidate<'_>> = kernels
        .iter()
        .rev()
        .map(|kernels| {
            Candidate::new(kernels.name(), move || {
                rows.turn(|targets, sources| kernels.xor_many(targets[0], sources));
            })
        })
        .collect();
    if let Some(isal) = isal {
        candidates.push(Candidate::new("ISA-L xor_gen", move || {
            rows.turn(|targets, sources| isal.xor(targets[0], sources));
        }));
    }
    candidates.push(Candidate::new("read all, write one", || {
        rows.turn(|targets, sources| {
            black_box(baseline::read_all_write(targets, sources));
        });
    }));
    candidates.push(Candidate::new("read only", || {
        rows.turn(|_, sources| {
            black_box(sources.iter().fold(0, |sum, source| sum ^ baseline::read(source)));
        });
    }));
    let unit = Unit::Gigabytes {
        bytes: rows.row_bytes(),
    };
    let series = compare(effort, unit, candidates);
    let (ours, baselines) = series.split_at(kernels.len());
    let (memory, reading) = (&baselines[baselines.len() - 2], &baselines[baselines.len() - 1]);
    for (index, own) in ours.iter().enumerate() {
        let goal = |goal| (index == 0).then_some(goal); // The node runs the fastest kernel.
        match (place, isal) {
            (Place::Caches, Some(_)) => print_line(what, unit, own, &baselines[0], goal(GOAL_OF_ISAL)),
            (Place::Caches, None) => print_line(what, unit, own, reading, None),
            (Place::Memory, isal) => {
                print_line(what, unit, own, memory, goal(GOAL_OF_MEMORY));
                if isal.is_some() {
                    print_line(what, unit, own, &baselines[0], None);
                }
            }
        }
    }
    if isal.is_some() {
        print_line(what, unit, &baselines[0], reading, None);
    }
    if place == Place::Memory {
        print_line(what, unit, memory, reading, None);
    }
}

fn main() {
    let effort = Effort::from_process();
    let isal = Isal::load();
    let cold_bytes = effort.pick(320 << 20, 16 << 20);
    println!("parity by exclusive or, GB/s of source data");
    for sources in SOURCES {
        let hot = Rows::new(sources, 1, 4 << 10, 0, 1);
        measure(
            &effort,
            isal,
            &format!("{sources} x 4 KiB hot"),
            &hot,
            Place::Caches,
        );
        for (apart_bytes, apart) in [(0, ""), (APART_BYTES, " apart")] {
            let row = |bytes_min| Rows::new(sources, 1, 64 << 10, apart_bytes, bytes_min);
            let what = |place| format!("{sources} x 64 KiB {place}{apart}");
            measure(&effort, isal, &what("warm"), &row(1), Place::Caches);
            measure(&effort, isal, &what("cold"), &row(cold_bytes), Place::Memory);
        }
    }
}
