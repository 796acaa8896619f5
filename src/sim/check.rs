//! Tries scenarios, and makes one that fails as small as it gets.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::scenario::{Mutant, Scenario};
use super::world::{Report, Violation, run};

/// Runs that making a scenario smaller may take.
const SHRINK_RUNS_MAX: u32 = 400;

/// A scenario that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// As it was tried.
    pub scenario: Scenario,
    /// As small as it got.
    pub smallest: Scenario,
    /// What is wrong with the smallest one.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.violation)?;
        writeln!(f, "failed:   {}", self.scenario)?;
        writeln!(f, "smallest: {}", self.smallest)?;
        write!(f, "again:    braid sim --scenario '{}'", self.smallest)
    }
}

/// Runs a scenario; an assertion that fails counts as a violation, as far as this build can unwind.
pub fn run_guarded(scenario: &Scenario, readable: bool) -> Result<Report, (Option<Box<Report>>, Violation)> {
    match catch_unwind(AssertUnwindSafe(|| run(scenario, readable))) {
        Ok((report, None)) => Ok(report),
        Ok((report, Some(violation))) => Err((Some(Box::new(report)), violation)),
        Err(cause) => {
            let text = cause
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err((None, Violation::Panic(text.unwrap_or_default())))
        }
    }
}

/// Runs a scenario, and makes it smaller if it fails.
pub fn try_seed(scenario: &Scenario) -> Result<Report, Box<Failure>> {
    match run_guarded(scenario, false) {
        Ok(report) => Ok(report),
        Err((_, violation)) => {
            let (smallest, violation) = shrink(scenario, violation);
            Err(Box::new(Failure {
                scenario: scenario.clone(),
                smallest,
                violation,
            }))
        }
    }
}

/// Runs a scenario with each of these seeds. Panics with the smallest failing scenario if one fails.
pub fn check(scenario: &Scenario, seeds: Range<u64>) {
    for seed in seeds {
        let scenario = Scenario {
            seed,
            ..scenario.clone()
        };
        if let Err(failure) = try_seed(&scenario) {
            panic!("{failure}");
        }
    }
}

/// Makes a failing scenario smaller as long as it fails in the same way.
pub fn shrink(scenario: &Scenario, violation: Violation) -> (Scenario, Violation) {
    let (mut best, mut what) = (scenario.clone(), violation);
    let mut runs = 0;
    loop {
        let smaller = candidates(&best).into_iter().find_map(|candidate| {
            runs += 1;
            if runs > SHRINK_RUNS_MAX {
                return None;
            }
            let (_, violation) = run_guarded(&candidate, false).err()?;
            (violation.kind() == what.kind()).then_some((candidate, violation))
        });
        match smaller {
            Some((candidate, violation)) => (best, what) = (candidate, violation),
            None => return (best, what),
        }
    }
}

/// Scenarios that are a little smaller, the boldest first.
fn candidates(scenario: &Scenario) -> Vec<Scenario> {
    let mut found = Vec::new();
    let mut add = |change: &dyn Fn(&mut Scenario)| {
        let mut candidate = scenario.clone();
        change(&mut candidate);
        if candidate != *scenario && candidate.is_sound() {
            found.push(candidate);
        }
    };
    for at in 0..scenario.stops.len() {
        add(&|smaller| {
            smaller.stops.remove(at);
        });
    }
    for at in 0..scenario.faults.len() {
        add(&|smaller| {
            smaller.faults.remove(at);
        });
    }
    for at in 0..scenario.orders.len() {
        add(&|smaller| {
            smaller.orders.remove(at);
        });
    }
    for part in [2, 4, 8, 16] {
        add(&|smaller| smaller.commands -= smaller.commands / part);
    }
    add(&|smaller| smaller.commands = smaller.commands.saturating_sub(1).max(1));
    add(&|smaller| smaller.hosts = 1);
    add(&|smaller| smaller.hosts -= 1);
    add(&|smaller| smaller.cores = 1);
    add(&|smaller| smaller.cores -= 1);
    add(&|smaller| smaller.depth = 1);
    add(&|smaller| smaller.depth -= 1);
    add(&|smaller| smaller.rows = smaller.rows.div_ceil(2));
    add(&|smaller| smaller.members -= 1);
    add(&|smaller| smaller.spares = smaller.spares.saturating_sub(1));
    add(&|smaller| smaller.joining = smaller.joining.saturating_sub(1));
    add(&|smaller| smaller.disks = 1);
    add(&|smaller| smaller.block = 512);
    add(&|smaller| smaller.span = smaller.span.div_ceil(2));
    add(&|smaller| smaller.cache = false);
    add(&|smaller| smaller.ram = false);
    add(&|smaller| smaller.zeroed = true);
    for at in 0..scenario.stops.len() {
        add(&|smaller| smaller.stops[at].again = 0);
        add(&|smaller| smaller.stops[at].again /= 2);
        add(&|smaller| smaller.stops[at].away = None);
        add(&|smaller| smaller.stops[at].at = smaller.stops[at].at.min(smaller.commands));
    }
    found
}

/// How many seeds it takes until a mutant is noticed; `None` if none of these does.
pub fn seeds_to_catch(
    mutant: Mutant,
    make: impl Fn(u64) -> Scenario,
    seeds_max: u64,
) -> Option<(u64, Violation)> {
    (0..seeds_max).find_map(|seed| {
        let scenario = Scenario { mutant, ..make(seed) };
        let (_, violation) = run_guarded(&scenario, false).err()?;
        Some((seed + 1, violation))
    })
}
