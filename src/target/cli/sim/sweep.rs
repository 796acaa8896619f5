//! `braid sim --sweep`: short lives of groups of each level and size, cut off everywhere; a line for each level and size.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::super::options::SimOptions;
use super::super::{Failure, print, print_json};
use crate::amf::geometry::Level;
use crate::sim::lives::{Life, lives, sizes};
use crate::sim::{Manner, Swept, Thoroughness, sweep};

/// What all lives of groups of one level and size came to.
#[derive(Debug, Default)]
struct Line {
    lives: u64,
    swept: Swept,
    violations: Vec<String>,
    took: Duration,
}

type Lines = BTreeMap<(usize, u8), Line>;

/// Sweeps every life of every level that was asked for.
pub(super) fn run(options: &SimOptions) -> Result<(), Failure> {
    let mut all: Vec<(usize, Life)> = Vec::new();
    for (place, level) in options.levels.iter().enumerate() {
        all.extend(
            sizes(*level)
                .filter(|members| options.drives.is_none_or(|drives| drives == *members))
                .flat_map(|members| lives(*level, members))
                .map(|life| (place, life)),
        );
    }
    let sampled = options
        .states
        .map(|most| usize::try_from(most).expect("32 bits fit"));
    let how = Thoroughness {
        manner: sampled.map_or(Manner::Every, Manner::Sampled),
        lose: true,
        again: options.twice,
    };
    let next = AtomicUsize::new(0);
    let lines = Mutex::new(Lines::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (all, next, lines) = (&all, &next, &lines);
            scope.spawn(move || {
                while let Some((place, life)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let outcome = outcome_of(life, how);
                    let mut lines = lines.lock().expect("no sweep panics outside of its guard");
                    let line = lines.entry((*place, life.scenario.members)).or_default();
                    line.add(life, outcome, begin.elapsed());
                }
            });
        }
    });
    let lines = lines.into_inner().expect("no sweep panics outside of its guard");
    report(&options.levels, &lines, options.json)
}

fn outcome_of(life: &Life, how: Thoroughness) -> Result<Swept, String> {
    match catch_unwind(AssertUnwindSafe(|| sweep(&life.scenario, &life.steps, how))) {
        Ok(Ok(swept)) => Ok(swept),
        Ok(Err(hole)) => Err(hole.to_string()),
        Err(_) => Err("an assertion of our own code did not hold".to_owned()),
    }
}

impl Line {
    fn add(&mut self, life: &Life, outcome: Result<Swept, String>, took: Duration) {
        self.lives += 1;
        self.took += took;
        match outcome {
            Ok(swept) => self.swept.add(&swept),
            Err(what) => self
                .violations
                .push(format!("{} ({}): {what}", life.name, life.scenario)),
        }
    }
}

fn report(levels: &[Level], lines: &Lines, json: bool) -> Result<(), Failure> {
    if json {
        let rows = lines.iter().map(|((place, members), line)| {
            serde_json::json!({
                "level": levels[*place].name(),
                "drives": members,
                "lives": line.lives,
                "points": line.swept.points,
                "exhaustive_points": line.swept.points - line.swept.sampled,
                "states_possible": line.swept.ways,
                "states": line.swept.states,
                "opened": line.swept.opened,
                "opened_after_two_cuts": line.swept.again,
                "checksum_ties": line.swept.ties,
                "violations": line.violations,
                "seconds": line.took.as_secs_f64(),
            })
        });
        print_json(&serde_json::Value::Array(rows.collect()))?;
    } else {
        print(
            "level   drives  lives  points  exhaustive  possible  classes   opened  after two cuts  ties  violations  seconds\n",
        )?;
        for ((place, members), line) in lines {
            print(&format!(
                "{:<7} {members:>6} {:>6} {:>7} {:>11} {:>9} {:>8} {:>8} {:>15} {:>5} {:>11} {:>8.1}\n",
                levels[*place].name(),
                line.lives,
                line.swept.points,
                line.swept.points - line.swept.sampled,
                format!("2^{:.0}", line.swept.ways.max(1.0).log2()),
                line.swept.states,
                line.swept.opened,
                line.swept.again,
                line.swept.ties,
                line.violations.len(),
                line.took.as_secs_f64()
            ))?;
        }
    }
    match lines.values().flat_map(|line| &line.violations).next() {
        None => Ok(()),
        Some(first) => Err(Failure::new(
            first.clone(),
            "report it: a power cut at this point breaks a promise",
        )),
    }
}
