//! `braid sim`: tries seeds of the simulator on every core of the machine, and says how to repeat a run that fails.

mod membership;
mod nodes;
mod sweep;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::options::SimOptions;
use super::{Failure, print, print_json};
use crate::sim::check::run_guarded;
use crate::sim::{Ending, Failure as RunFailure, Scenario, try_seed};

thread_local! {
    /// The options that repeat what this thread runs.
    static RUNNING: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What all runs together did.
#[derive(Debug, Default)]
struct Sums {
    runs: u64,
    commands: u64,
    drive_commands: u64,
    cuts: u64,
    audits: u64,
    endings: BTreeMap<&'static str, u64>,
    failure: Option<Box<RunFailure>>,
}

/// Runs one scenario or many seeds.
pub fn run(options: &SimOptions) -> Result<(), Failure> {
    std::panic::set_hook(Box::new(|panic| {
        // What goes wrong is said in the end, and a run that is made smaller fails hundreds of times on the way. But a
        // build that does not unwind ends here.
        if cfg!(panic = "abort") {
            eprintln!("{panic}");
            RUNNING.with_borrow(|again| eprintln!("again: braid sim {again}"));
        }
    }));
    if options.sweep {
        return sweep::run(options);
    }
    if options.membership {
        return membership::run(options);
    }
    if let Some(count) = options.nodes {
        return nodes::run(options, count);
    }
    match &options.scenario {
        Some(scenario) => run_one(scenario, options.trace),
        None => run_many(options),
    }
}

fn run_one(scenario: &Scenario, trace: bool) -> Result<(), Failure> {
    set_running(format!("--scenario '{scenario}'"));
    let (report, violation) = match run_guarded(scenario, trace) {
        Ok(report) => (Some(report), None),
        Err((report, violation)) => (report.map(|report| *report), Some(violation)),
    };
    if let Some(report) = &report {
        for line in &report.lines {
            print(&format!("{line}\n"))?;
        }
        print(&format!(
            "{} events, {} host commands, {} drive commands, {} power cuts; trace {:016x}\n",
            report.events, report.commands, report.drive_commands, report.cuts, report.trace
        ))?;
    }
    match violation {
        None => Ok(()),
        Some(violation) => Err(Failure::new(violation.to_string(), "")),
    }
}

fn set_running(again: String) {
    RUNNING.set(again);
}

fn run_many(options: &SimOptions) -> Result<(), Failure> {
    let sums = Mutex::new(Sums::default());
    let begin = Instant::now();
    on_all_seeds(options, |seed| {
        let scenario = Scenario::random(seed, &options.levels);
        set_running(format!("--scenario '{scenario}'"));
        let result = try_seed(&scenario);
        let mut sums = sums.lock().expect("no run panics outside of its guard");
        !sums.add(result)
    });
    let sums = sums.into_inner().expect("no run panics outside of its guard");
    report(&sums, begin.elapsed(), options.json)
}

/// Runs seeds on all CPUs, as many or for as long as was asked for, or until `go_on` says no.
fn on_all_seeds(options: &SimOptions, go_on: impl Fn(u64) -> bool + Sync) {
    let end = options
        .minutes
        .map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let runs = if end.is_some() { u64::MAX } else { options.runs };
    let bar = if end.is_some() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::new(runs)
    };
    let style = "{elapsed} {wide_bar} {pos} runs {msg}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is right"));
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (next, bar, go_on) = (&next, &bar, &go_on);
            scope.spawn(move || {
                while end.is_none_or(|end| Instant::now() < end) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= runs {
                        break;
                    }
                    let goes_on = go_on(options.seed.wrapping_add(number));
                    bar.inc(1);
                    if !goes_on {
                        next.store(runs, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
}

impl Sums {
    /// Adds a run; true if it failed.
    fn add(&mut self, result: Result<crate::sim::Report, Box<RunFailure>>) -> bool {
        self.runs += 1;
        match result {
            Ok(report) => {
                self.commands += u64::from(report.commands);
                self.drive_commands += report.drive_commands;
                self.cuts += u64::from(report.cuts);
                self.audits += u64::from(report.audits);
                let ending = match report.ending {
                    Ending::Audited => "audited",
                    Ending::GroupFailed => "group_failed",
                    Ending::Refused => "refused",
                    Ending::NotSynchronised => "not_synchronised",
                };
                *self.endings.entry(ending).or_default() += 1;
                false
            }
            Err(failure) => {
                self.failure.get_or_insert(failure);
                true
            }
        }
    }
}

fn report(sums: &Sums, took: Duration, json: bool) -> Result<(), Failure> {
    if json {
        print_json(&serde_json::json!({
            "runs": sums.runs,
            "seconds": took.as_secs_f64(),
            "host_commands": sums.commands,
            "drive_commands": sums.drive_commands,
            "power_cuts": sums.cuts,
            "audits": sums.audits,
            "endings": sums.endings,
            "failure": sums.failure.as_ref().map(|failure| serde_json::json!({
                "kind": failure.violation.kind(),
                "violation": failure.violation.to_string(),
                "scenario": failure.scenario.to_string(),
                "smallest": failure.smallest.to_string(),
            })),
        }))?;
    } else {
        print(&format!(
            "{} runs in {:.1} s: {} host commands, {} drive commands, {} power cuts, {} audits; {:?}\n",
            sums.runs,
            took.as_secs_f64(),
            sums.commands,
            sums.drive_commands,
            sums.cuts,
            sums.audits,
            sums.endings
        ))?;
    }
    match &sums.failure {
        None => Ok(()),
        Some(failure) => Err(Failure::new(
            failure.to_string(),
            "report it with the line that begins with \"again\"; --trace shows the run event by event",
        )),
    }
}
