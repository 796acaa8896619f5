//! What does a message between two nodes cost? Round trips of 64 B and 4 KiB with 1, 16 and 64 outstanding, with gathering on and off, without
//! and with encryption, beside a bare ping-pong over loopback on the same reactor.
//!
//! `cargo bench --bench link [-- --quick]`. Two reactors of one core each in this process, busy polling on CPU 0 and 1. Baseline and
//! candidates alternate; figures are medians of the rounds.
#![expect(clippy::disallowed_types, reason = "a bench is about clocks and sockets")]
#![expect(clippy::print_stdout, reason = "the figures are the product")]

mod nodes;
mod raw;

use std::time::Duration;

use braid::icl::link::Gathering;
use config::Encryption;
use raw::Figures;

/// Bytes of a message.
const SIZES: [usize; 2] = [64, 4096];
/// Messages that are under way at a time.
const OUTSTANDING: [u32; 3] = [1, 16, 64];

/// What is compared with the ping-pong.
const CANDIDATES: [(&str, (Gathering, Encryption)); 4] = [
    ("gathering", (Gathering::On, Encryption::None)),
    ("gathering, TLS", (Gathering::On, Encryption::Tls)),
    ("one by one", (Gathering::Off, Encryption::None)),
    ("one by one, TLS", (Gathering::Off, Encryption::Tls)),
];

fn median(values: &[Figures], of: fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = values.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick")
        || std::env::var_os("BRAID_BENCH_QUICK").is_some();
    let (rounds, time) = if quick {
        (1, Duration::from_millis(100))
    } else {
        (5, Duration::from_secs(1))
    };
    println!("messages between two nodes over loopback, one core each, {rounds} rounds");
    for bytes in SIZES {
        for outstanding in OUTSTANDING {
            let mut runs = [const { Vec::new() }; 1 + CANDIDATES.len()];
            for _ in 0..rounds {
                runs[0].push(raw::run(bytes, outstanding, time));
                for (runs, (_, links)) in runs[1..].iter_mut().zip(CANDIDATES) {
                    runs.push(nodes::run(bytes, outstanding, links, time));
                }
            }
            let baseline = median(&runs[0], |run| run.p50_ns);
            let names = std::iter::once("ping-pong").chain(CANDIDATES.map(|(name, _)| name));
            for (name, runs) in names.zip(&runs) {
                let of = |figure| median(runs, figure);
                println!(
                    "{bytes:5} B, {outstanding:2} outstanding, {name:15}: p50 {:7.1} us ({:5.2} of the ping-pong), p99 {:7.1} us, {:7.1} k round trips/s; {:5.2} messages/packet, {:5.2} sends and {:5.2} system calls a message",
                    of(|run| run.p50_ns) / 1e3,
                    of(|run| run.p50_ns) / baseline,
                    of(|run| run.p99_ns) / 1e3,
                    of(|run| run.rate) / 1e3,
                    of(|run| run.per_packet),
                    of(|run| run.sends),
                    of(|run| run.calls),
                );
            }
        }
    }
}
