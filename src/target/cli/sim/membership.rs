//! `braid sim --membership`: seeds of several nodes that share drives.

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::time::Instant;

use super::super::options::SimOptions;
use super::super::{Failure, print, print_json};
use super::{on_all_seeds, set_running};
use crate::sim::membership::{self, Mutant, Summary};

/// Tries seeds until one fails, and says what all of them came to.
pub(super) fn run(options: &SimOptions) -> Result<(), Failure> {
    let sums = Mutex::new((0u64, Summary::default(), None));
    let begin = Instant::now();
    on_all_seeds(options, |seed| {
        set_running(format!("--membership --seed {seed} --runs 1"));
        let result = catch_unwind(|| membership::run(seed, Mutant::None));
        let (runs, sum, failed) = &mut *sums.lock().expect("no run panics outside of its guard");
        *runs += 1;
        match result {
            Ok(seen) => {
                sum.epochs += seen.epochs;
                sum.writes += seen.writes;
                sum.halts += seen.halts;
                true
            }
            Err(panic) => {
                let why = panic.downcast::<String>().map_or_else(
                    |_| "an assertion of our own code did not hold".to_owned(),
                    |why| *why,
                );
                failed.get_or_insert((seed, why));
                false
            }
        }
    });
    let (runs, sum, failed) = sums.into_inner().expect("no run panics outside of its guard");
    let seconds = begin.elapsed().as_secs_f64();
    if options.json {
        print_json(&serde_json::json!({
            "runs": runs,
            "seconds": seconds,
            "epochs": sum.epochs,
            "writes": sum.writes,
            "halts": sum.halts,
            "failure": failed.as_ref().map(|(seed, why)| serde_json::json!({ "seed": seed, "violation": why })),
        }))?;
    } else {
        print(&format!(
            "{runs} runs in {seconds:.1} s: {} epochs opened, {} writes on drives, {} lives evicted\n",
            sum.epochs, sum.writes, sum.halts
        ))?;
    }
    match failed {
        None => Ok(()),
        Some((seed, why)) => Err(Failure::new(
            format!("seed {seed}: {why}"),
            format!("report it; again: braid sim --membership --seed {seed} --runs 1"),
        )),
    }
}
