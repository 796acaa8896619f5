//! How fast are digests, against ISA-L and against reading the same bytes?
//!
//! Run with `cargo bench --bench crc32c`; `-- --quick` or `BRAID_BENCH_QUICK=1` for smoke. Without libisal.so.2 (Debian:
//! `apt-get install libisal2`) the baseline is plain reading.

use std::cell::Cell;
use std::hint::black_box;

use baseline::{Buffer, Candidate, Effort, Isal, Unit, compare, print_line};

/// A response capsule's header, a header with its neighbours, a block, and the largest transfer of most hosts.
const LENGTHS: [(usize, &str); 4] = [
    (24, "24 B"),
    (128, "128 B"),
    (4 << 10, "4 KiB"),
    (128 << 10, "128 KiB"),
];

/// Shorter pieces are headers, which have just come in: never cold.
const COLD_FROM_BYTES: usize = 4 << 10;

/// Digests against ISA-L (DESIGN, section 10).
const GOAL_OF_ISAL: f64 = 1.0;

/// Pieces of one length that are gone through one after the other.
struct Pieces<'a> {
    bytes: &'a [u8],
    length: usize,
    next: Cell<usize>,
}

impl<'a> Pieces<'a> {
    fn turn(&self) -> &'a [u8] {
        let start = self.next.get();
        let following = start + self.length;
        let wraps = following + self.length > self.bytes.len();
        self.next.set(if wraps { 0 } else { following });
        black_box(&self.bytes[start..start + self.length])
    }
}

fn measure(effort: &Effort, isal: Option<Isal>, what: &str, bytes: &[u8], length: usize) {
    let pieces = Pieces {
        bytes,
        length,
        next: Cell::new(0),
    };
    let mut candidates = vec![
        Candidate::new("target::crc32c", || {
            black_box(braid::target::crc32c(0, pieces.turn()));
        }),
        Candidate::new("portable", || {
            black_box(nvme::crc32c::portable(0, pieces.turn()));
        }),
        Candidate::new("read only", || {
            black_box(baseline::read(pieces.turn()));
        }),
    ];
    if let Some(isal) = isal {
        let pieces = &pieces;
        candidates.push(Candidate::new("ISA-L crc32_iscsi", move || {
            black_box(isal.crc32c(0, pieces.turn()));
        }));
    }
    let unit = Unit::Gigabytes { bytes: length };
    let series = compare(effort, unit, candidates);
    let [fast, portable, reading, rest @ ..] = series.as_slice() else {
        unreachable!("three candidates were put in");
    };
    let best = rest.first().unwrap_or(reading);
    print_line(what, unit, fast, best, isal.map(|_| GOAL_OF_ISAL));
    print_line(what, unit, portable, best, None);
    if isal.is_some() {
        print_line(what, unit, best, reading, None);
    }
}

fn main() {
    let effort = Effort::from_process();
    let isal = Isal::load();
    let buffer = Buffer::new(effort.pick(320 << 20, 16 << 20));
    println!("CRC-32C, GB/s");
    for (length, name) in LENGTHS {
        measure(&effort, isal, &format!("{name} hot"), &buffer[..length], length);
        if length >= COLD_FROM_BYTES {
            measure(&effort, isal, &format!("{name} cold"), &buffer, length);
        }
    }
}
