//! Tries settings, and says what became of them.

use std::fmt;
use std::ops::{AddAssign, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Counters, Mutant, Setting, run};
use crate::sim::world::Violation;

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// What all of them reached.
    pub counters: Counters,
}

impl Summary {
    /// Everything by name.
    pub fn figures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [("runs", self.runs)].into_iter().chain(self.counters.figures())
    }
}

impl AddAssign<Counters> for Summary {
    fn add_assign(&mut self, counters: Counters) {
        self.runs += 1;
        self.counters += counters;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = self.figures().map(|(name, figure)| format!("{figure} {name}"));
        f.write_str(&figures.collect::<Vec<_>>().join(", "))
    }
}

/// Carries a setting out; an assertion that fails counts as a violation, as far as this build can unwind.
pub fn try_setting(setting: &Setting) -> Result<Counters, Violation> {
    let report = catch_unwind(AssertUnwindSafe(|| run(setting, false))).map_err(|cause| {
        let text = cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Violation::Panic(text.unwrap_or_default())
    })?;
    report.violation.map_or(Ok(report.counters), Err)
}

/// How many of these seeds it takes until a mutant is caught.
pub fn seeds_to_catch(mutant: Mutant, seeds: Range<u64>) -> Option<u64> {
    let is_caught = |seed: &u64| {
        let setting = if matches!(mutant, Mutant::NoCopies | Mutant::OwnGroup) {
            Setting::in_memory(*seed, None)
        } else {
            Setting::random(*seed, None)
        };
        let setting = Setting { mutant, ..setting };
        try_setting(&setting).is_err()
    };
    let first = seeds.start;
    seeds.into_iter().find(is_caught).map(|seed| seed - first + 1)
}
