//! What does it cost that several nodes serve a group together, and what does it bring? Each question beside a baseline of the same run.
//!
//! `cargo bench --bench share [-- QUESTION ...] [-- --quick]`, a question being `messages`, `remote`, `dirty`, `memory`, `copies`, `pipelined`, `rates`, `reads` or `scaling`. Each of them takes less
//! than two minutes. Where real nodes are named they are processes over a shelf of memory drives, on this machine.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a bench is about clocks, processes and sockets"
)]
#![expect(clippy::print_stdout, reason = "the figures are the product")]

mod copies;
mod dirty;
mod load;
mod member;
mod memory;
mod messages;
mod pipelined;
#[path = "../../tests/end_to_end/queue.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "the host of the tests: not all that it can do is needed here"
)]
mod queue;
mod rates;
#[path = "../link/raw.rs"]
#[expect(dead_code, reason = "the bench of the link counts calls, too")]
mod raw;
mod reads;
mod remote;
mod scaling;
mod stage;
mod wire;

/// How long and how often.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Just long enough to see that it works.
    pub is_quick: bool,
}

/// What it is called, and what answers it.
type Question = (&'static str, fn(Effort));

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let questions: [Question; 9] = [
        ("messages", messages::run),
        ("remote", remote::run),
        ("dirty", dirty::run),
        ("memory", memory::run),
        ("copies", copies::run),
        ("pipelined", pipelined::run),
        ("rates", rates::run),
        ("reads", reads::run),
        ("scaling", scaling::run),
    ];
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let is_quick = asked.iter().any(|it| it == "--quick") || std::env::var_os("BRAID_BENCH_QUICK").is_some();
    let named: Vec<&String> = asked.iter().filter(|it| !it.starts_with("--")).collect();
    for (name, run) in questions {
        if named.is_empty() || named.iter().any(|it| *it == name) {
            run(Effort { is_quick });
        }
    }
}
