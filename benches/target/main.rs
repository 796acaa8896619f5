//! How much of what the ring can move does the target keep? 4 KiB reads and writes on a memory drive, plain and RAID-5,
//! at depth 1, 32 and 128, against an echo server on the same reactor that moves the same bytes.
//!
//! `cargo bench --bench target [-- --quick]`. One server core, busy polling; the client runs on the other CPU.
//! Rounds of target and baseline alternate; the median of the rounds counts.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a bench is about clocks and sockets"
)]
#![expect(clippy::print_stdout, reason = "the figures are the product")]

mod client;
mod echo;

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use braid::target::node;
use client::{BLOCK_BYTES, CAPSULE_BYTES, Figures, Operation, REPLY_BYTES};
use reactor::PollMode;

const DEPTHS: [usize; 3] = [1, 32, 128];
/// Commands prepared for each measurement: more than the deepest queue, few enough to stay in the cache.
const PREPARED: u16 = 512;
/// Blocks that the commands are spread over: 32 MiB.
const BLOCKS: u64 = 8192;
/// Memory that the prepared commands touch, and that the echo server sends from.
const MEMORY_BYTES: u32 = PREPARED as u32 * 4096;
const NQN: &str = "nqn.2026-01.io.braid:bench";

fn configuration(level: &str, drives: usize) -> String {
    let mut text = format!(
        "[node]\nname = \"bench\"\n[reactor]\ncores = 1\npoll = \"busy\"\ncpus = [0]\n[subsystem]\nnqn = \"{NQN}\"\nqueue_entries_max = 256\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n"
    );
    for drive in 0..drives {
        text += &format!("[[drive]]\nname = \"m{drive}\"\nmemory_mib = 64\n");
    }
    let names: Vec<String> = (0..drives).map(|drive| format!("\"m{drive}\"")).collect();
    text + &format!(
        "[[group]]\nname = \"g\"\nlevel = \"{level}\"\ndrives = [{}]\ncreate = true\n\
         [[vdisk]]\nname = \"v\"\ngroup = \"g\"\nsize_mib = 32\nnsid = 1\n",
        names.join(", ")
    )
}

fn measure(stream: &mut TcpStream, operation: Operation, depth: usize, time: Duration) -> Figures {
    let requests = client::prepare(operation, PREPARED, BLOCKS, 0x9e37_79b9_7f4a_7c15);
    client::run(stream, operation, depth, &requests, time)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures one level against the echo server and prints a line for each case.
fn compare(name: &str, level: &str, drives: usize, rounds: usize, time: Duration) {
    for operation in [Operation::Read, Operation::Write] {
        let exchange = echo::Exchange {
            request_bytes: operation.request_bytes(),
            header_bytes: REPLY_BYTES,
            payload_bytes: if operation == Operation::Read { 4096 } else { 0 },
            memory_bytes: MEMORY_BYTES,
        };
        for depth in DEPTHS {
            let (mut target, mut baseline) = (Vec::new(), Vec::new());
            let mut latencies = Vec::new();
            for _ in 0..rounds {
                // Each server has the core to itself: the other one would poll beside it.
                let text = configuration(level, drives);
                let config =
                    config::parse(&text, Path::new("bench.toml")).expect("the configuration is right");
                let node = node::start(&config).expect("the node starts");
                let (admin, mut stream) = client::connect_target(node.addresses()[0], NQN, 256);
                // The same blocks: no page of the memory drives is touched for the first time while the clock runs.
                measure(&mut stream, Operation::Write, 32, Duration::from_millis(50));
                let figures = measure(&mut stream, operation, depth, time);
                target.push(figures.iops);
                latencies.push(figures.latency);
                drop((stream, admin));
                node.stop().expect("the node stops");
                let (echo, address) = echo::start(exchange, PollMode::Busy, Some(0));
                let mut stream = TcpStream::connect(address).expect("the server listens");
                stream.set_nodelay(true).expect("a TCP socket");
                baseline.push(measure(&mut stream, operation, depth, time).iops);
                drop(stream);
                echo.stop();
                echo.join().expect("the server stops");
            }
            let latency = &latencies[latencies.len() / 2];
            let (target, baseline) = (median(target), median(baseline));
            println!(
                "{name:6} {:5} 4 KiB depth {depth:3}: {:8.1} kIOPS, echo {:8.1} kIOPS, ratio {:.3}; p50 {:7.1} us, p99 {:7.1} us",
                if operation == Operation::Read {
                    "read"
                } else {
                    "write"
                },
                target / 1e3,
                baseline / 1e3,
                target / baseline,
                latency.value_at_quantile(0.5) as f64 / 1e3,
                latency.value_at_quantile(0.99) as f64 / 1e3,
            );
        }
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick")
        || std::env::var_os("BRAID_BENCH_QUICK").is_some();
    let (rounds, time) = if quick {
        (1, Duration::from_millis(100))
    } else {
        (5, Duration::from_secs(1))
    };
    println!(
        "target against echo server: request {CAPSULE_BYTES} B (+ {BLOCK_BYTES} B for writes), one server core, {rounds} rounds"
    );
    compare("plain", "raid0", 1, rounds, time);
    compare("raid5", "raid5", 5, rounds, time);
}
