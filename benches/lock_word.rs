//! How much does it cost to take and give back a row's lock that nobody contends for?
//!
//! Baseline in the same run: a bare compare-and-swap pair on one word, there and back. Run with
//! `cargo bench --bench lock_word`. Cycles are those of the clock that the core has in this run: a chain of dependent multiplications says how long one is.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a bench measures time"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use braid::amf::RowIndex;
use braid::amf::lock::{Acquire, Entry, Held, LockTable, Mode};

/// Pairs timed together: long against the clock's own cost, short against an interruption.
const BATCH: u32 = 1_000;
const BATCHES: usize = 20_000;
/// Rows in use, as many as a busy core has in flight.
const ROWS: u64 = 256;

/// Nanoseconds per pair of the batches at 50 %, 99 % and 99.9 %.
struct Figures {
    p50: f64,
    p99: f64,
    p999: f64,
}

fn measure(mut pair: impl FnMut(u64)) -> Figures {
    let mut batches = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let start = Instant::now();
        for i in 0..BATCH {
            pair(u64::from(i) % ROWS);
        }
        batches.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH));
    }
    batches.sort_by(f64::total_cmp);
    let at = |per_mille: usize| batches[(BATCHES - 1) * per_mille / 1000];
    Figures {
        p50: at(500),
        p99: at(990),
        p999: at(999),
    }
}

/// How long a cycle of this core takes, in ns.
///
/// Each step waits for the one before: a multiplication of 64 bits, 3 cycles, and an OR, 1 cycle, on the x86-64 cores of the last ten years.
fn cycle_ns() -> f64 {
    const STEP_CYCLES: f64 = 4.0;
    let mut value = black_box(3_u64);
    // The loop around it runs beside the chain.
    let chain = measure(|_| value = value.wrapping_mul(value) | 1);
    black_box(value);
    chain.p50 / STEP_CYCLES
}

fn lock_pair(table: &LockTable, mode: Mode) -> Figures {
    measure(|row| {
        let row = RowIndex(black_box(row));
        let acquired = table.try_acquire(row, mode, 0);
        assert!(matches!(acquired, Acquire::Acquired { .. }), "nobody contends");
        assert_eq!(black_box(table.release(row, mode)).0, 0, "nobody waits");
    })
}

fn main() {
    let words: Vec<AtomicU64> = (0..ROWS).map(|_| AtomicU64::new(0)).collect();
    let swap = |word: &AtomicU64, from, to| {
        let swapped = word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        assert!(black_box(swapped).is_ok(), "nobody contends");
    };
    let baseline = measure(|row| {
        let word = &words[usize::try_from(black_box(row)).expect("few rows")];
        swap(word, 0, 1);
        swap(word, 1, 0);
    });
    let table = LockTable::new(1 << 14);
    let read = lock_pair(&table, Mode::Read);
    let write = lock_pair(&table, Mode::Write);
    // Rows that other nodes may hold, and that this one does hold.
    let shared = LockTable::shared(1 << 14);
    for row in (0..ROWS).map(RowIndex) {
        assert_eq!(shared.enter_home(shared.slot(row)), Entry::In, "nobody is there");
        shared.set_held(row, Held::Write);
        assert_eq!(shared.leave_home(shared.slot(row), None).0, 0, "nobody waits");
    }
    let kept_read = lock_pair(&shared, Mode::Read);
    let kept_write = lock_pair(&shared, Mode::Write);
    let cycle_ns = cycle_ns();
    println!("lock and unlock one row, uncontended       p50      p99    p99.9  ns   cycles   of baseline");
    for (name, figures) in [
        ("baseline: compare-and-swap, there and back", &baseline),
        ("row lock, read", &read),
        ("row lock, write", &write),
        ("row that nodes share and this holds, read", &kept_read),
        ("row that nodes share and this holds, write", &kept_write),
    ] {
        let ratio = figures.p50 / baseline.p50;
        let Figures { p50, p99, p999 } = figures;
        let cycles = p50 / cycle_ns;
        println!("{name:<43}{p50:>6.1}  {p99:>7.1}  {p999:>7.1}      {cycles:>6.1}      {ratio:>6.2}");
    }
}
