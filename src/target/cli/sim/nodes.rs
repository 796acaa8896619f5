//! `braid sim --nodes`: seeds of several whole nodes that serve one group together.

use std::sync::Mutex;
use std::time::Instant;

use super::super::options::{NodeCount, SimOptions};
use super::super::{Failure, print, print_json};
use super::{on_all_seeds, set_running};
use crate::sim::array::{Setting, Summary, try_setting};

/// Tries seeds until one fails, and says what all of them came to; or one, event by event.
pub(super) fn run(options: &SimOptions, count: NodeCount) -> Result<(), Failure> {
    if options.trace {
        return run_one(options, count);
    }
    let sums = Mutex::new((Summary::default(), None));
    let begin = Instant::now();
    on_all_seeds(options, |seed| {
        let again = again(options, seed, count);
        set_running(again.clone());
        let setting = setting(options, seed, count);
        let result = try_setting(&setting);
        let (sum, failed) = &mut *sums.lock().expect("no run panics outside of its guard");
        match result {
            Ok(counters) => {
                *sum += counters;
                true
            }
            Err(violation) => {
                failed.get_or_insert((seed, format!("{violation}\nsetting: {setting}"), again));
                false
            }
        }
    });
    let (sum, failed) = sums.into_inner().expect("no run panics outside of its guard");
    let seconds = begin.elapsed().as_secs_f64();
    if options.json {
        let figures = sum
            .figures()
            .map(|(name, figure)| (name.to_owned(), figure.into()));
        let figures: serde_json::Map<String, serde_json::Value> = figures.into_iter().collect();
        print_json(&serde_json::json!({
            "seconds": seconds,
            "figures": figures,
            "failure": failed.as_ref().map(|(seed, why, _)| serde_json::json!({ "seed": seed, "violation": why })),
        }))?;
    } else {
        print(&format!("{seconds:.1} s: {sum}\n"))?;
    }
    match failed {
        None => Ok(()),
        Some((seed, why, again)) => Err(Failure::new(
            format!("seed {seed}: {why}"),
            format!("report it; again: braid sim {again}; --trace shows the run event by event"),
        )),
    }
}

fn setting(options: &SimOptions, seed: u64, count: NodeCount) -> Setting {
    if options.in_memory {
        Setting::in_memory(seed, count.0)
    } else {
        Setting::random(seed, count.0)
    }
}

/// The options that repeat a run.
fn again(options: &SimOptions, seed: u64, count: NodeCount) -> String {
    let in_memory = if options.in_memory { " --in-memory" } else { "" };
    format!("--nodes {count}{in_memory} --seed {seed} --runs 1")
}

fn run_one(options: &SimOptions, count: NodeCount) -> Result<(), Failure> {
    let seed = options.seed;
    set_running(again(options, seed, count));
    let report = crate::sim::array::run(&setting(options, seed, count), true);
    for line in &report.lines {
        print(&format!("{line}\n"))?;
    }
    print(&format!("trace {:016x}\n", report.trace))?;
    match report.violation {
        None => Ok(()),
        Some(violation) => Err(Failure::new(violation.to_string(), "")),
    }
}
