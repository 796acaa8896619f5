//! Rounds: every candidate in turn, again and again; medians, and ratios within a round.

use std::io::Write;

/// How long a bench takes its time.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    rounds: usize,
    throughput_sample_ns: u64,
    latency_sample_ns: u64,
    quick: bool,
}

impl Effort {
    /// As the command line and the environment ask: `--quick` or `BRAID_BENCH_QUICK=1` makes it a smoke test. All other
    /// arguments, such as cargo's own `--bench`, are ignored.
    pub fn from_process() -> Self {
        let asked = std::env::args().any(|argument| argument == "--quick");
        let quick = asked || std::env::var_os("BRAID_BENCH_QUICK").is_some_and(|value| value == "1");
        Self {
            rounds: if quick { 3 } else { 31 },
            throughput_sample_ns: if quick { 100_000 } else { 4_000_000 },
            latency_sample_ns: if quick { 20_000 } else { 100_000 },
            quick,
        }
    }

    /// Whether to measure the case of this name: any, unless arguments that are no options name others.
    pub fn wants(&self, case: &str) -> bool {
        let arguments = std::env::args().skip(1);
        let mut names = arguments.filter(|argument| !argument.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|name| name == case)
    }

    /// `full`, or `quick` where only smoke is looked for.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// 10^9 bytes a second, where one turn moves `bytes`. More is better.
    Gigabytes {
        /// Bytes of one turn.
        bytes: usize,
    },
    /// Nanoseconds, with the 50th and the 99th percentile of short samples. Less is better.
    Nanoseconds {
        /// Things that one turn does, among which its time is divided.
        per_turn: u64,
    },
}

/// Something to be measured.
pub struct Candidate<'a> {
    name: String,
    /// Takes that many turns.
    turns: Box<dyn FnMut(u64) + 'a>,
}

impl<'a> Candidate<'a> {
    /// `turn` does the work once.
    pub fn new(name: impl Into<String>, mut turn: impl FnMut() + 'a) -> Self {
        Self {
            name: name.into(),
            turns: Box::new(move |turns| {
                for _ in 0..turns {
                    turn();
                }
            }),
        }
    }

    /// Nanoseconds of this thread's CPU time that so many turns take: time in which others ran is not counted.
    fn time(&mut self, turns: u64) -> u64 {
        let start = thread_ns();
        (self.turns)(turns);
        thread_ns() - start
    }

    /// How many turns fill a sample; warms caches, tables and branch predictors on the way.
    fn calibrate(&mut self, sample_ns: u64) -> u64 {
        const TURNS_MAX: u64 = 1 << 30;
        (self.turns)(1); // The first turn may look at the CPU or fill tables.
        let mut turns = 1;
        loop {
            let taken_ns = self.time(turns).max(1);
            if taken_ns >= sample_ns / 4 || turns >= TURNS_MAX {
                return (turns * sample_ns / taken_ns).clamp(1, TURNS_MAX);
            }
            turns *= 2;
        }
    }
}

/// What was measured of one candidate.
pub struct Series {
    name: String,
    /// Nanoseconds a turn, a median for each round.
    rounds_ns: Vec<f64>,
    /// Nanoseconds a turn of every sample, sorted.
    samples_ns: Vec<f64>,
}

impl Series {
    /// What a bench has timed by itself: for each round the nanoseconds of its samples. Panics if a round has none.
    pub fn new(name: impl Into<String>, rounds: &[Vec<u64>]) -> Self {
        let mut series = Self {
            name: name.into(),
            rounds_ns: Vec::with_capacity(rounds.len()),
            samples_ns: Vec::new(),
        };
        for round in rounds {
            series.push_round(round.iter().copied().map(float).collect());
        }
        series.samples_ns.sort_by(f64::total_cmp);
        series
    }

    fn push_round(&mut self, mut samples_ns: Vec<f64>) {
        self.samples_ns.extend(&samples_ns);
        samples_ns.sort_by(f64::total_cmp);
        self.rounds_ns.push(percentile(&samples_ns, 50));
    }

    /// Nanoseconds a turn: the median of all samples.
    pub fn median_ns(&self) -> f64 {
        percentile(&self.samples_ns, 50)
    }

    /// How much faster (or, of a latency, longer) this is than `baseline`: the median of the rounds' ratios, because what
    /// disturbs a round disturbs both.
    fn ratio(&self, baseline: &Self, unit: Unit) -> f64 {
        let pairs = self.rounds_ns.iter().zip(&baseline.rounds_ns);
        let mut ratios: Vec<f64> = pairs
            .map(|(own, other)| match unit {
                Unit::Gigabytes { .. } => other / own,
                Unit::Nanoseconds { .. } => own / other,
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        percentile(&ratios, 50)
    }
}

/// The value below which `percent` of the sorted values lie.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Measures all candidates in interleaved rounds, each round starting with another one.
pub fn compare(effort: &Effort, unit: Unit, mut candidates: Vec<Candidate<'_>>) -> Vec<Series> {
    // A throughput is one long sample a round; a latency needs many short ones for its percentiles.
    let (sample_ns, samples) = match unit {
        Unit::Gigabytes { .. } => (effort.throughput_sample_ns, 1),
        Unit::Nanoseconds { .. } => (effort.latency_sample_ns, 40),
    };
    let turns: Vec<u64> = candidates
        .iter_mut()
        .map(|candidate| candidate.calibrate(sample_ns))
        .collect();
    let mut series: Vec<Series> = candidates
        .iter()
        .map(|candidate| Series {
            name: candidate.name.clone(),
            rounds_ns: Vec::with_capacity(effort.rounds),
            samples_ns: Vec::with_capacity(effort.rounds * samples),
        })
        .collect();
    for round in 0..effort.rounds {
        for step in 0..candidates.len() {
            let index = (round + step) % candidates.len();
            let taken: Vec<f64> = (0..samples)
                .map(|_| float(candidates[index].time(turns[index])) / float(turns[index]))
                .collect();
            series[index].push_round(taken);
        }
    }
    for series in &mut series {
        series.samples_ns.sort_by(f64::total_cmp);
    }
    series
}

/// Prints one line: what was measured, its figure, the baseline's, their ratio and, if there is one, whether the ratio is
/// what `goal` asks for: at least so much of a throughput, at most so much of a latency.
pub fn print_line(what: &str, unit: Unit, own: &Series, baseline: &Series, goal: Option<f64>) {
    let ratio = own.ratio(baseline, unit);
    let verdict = goal.map_or(String::new(), |goal| {
        // Half of the last digit printed is less than what two runs differ by.
        let (met, sign) = match unit {
            Unit::Gigabytes { .. } => (ratio + 0.005 >= goal, ">="),
            Unit::Nanoseconds { .. } => (ratio - 0.005 <= goal, "<="),
        };
        let word = if met { "met" } else { "missed" };
        format!("  goal {sign} {goal:.2} {word}")
    });
    let name = format!("{what}, {}", own.name);
    let line = format!(
        "{name:<42}{}   {:<28}{}   ratio {ratio:>5.2}{verdict}\n",
        figure(unit, own),
        baseline.name,
        figure(unit, baseline)
    );
    // Whoever reads through `head` closes the pipe early; that is no reason to fail.
    let _ = std::io::stdout().write_all(line.as_bytes());
}

fn figure(unit: Unit, series: &Series) -> String {
    match unit {
        Unit::Gigabytes { bytes } => {
            let bytes = float(u64::try_from(bytes).expect("a usize is at most 64 bits"));
            format!("{:>7.2} GB/s", bytes / series.median_ns())
        }
        Unit::Nanoseconds { per_turn } => format!(
            "{:>8.1} ns (p50) {:>8.1} (p99)",
            series.median_ns() / float(per_turn),
            percentile(&series.samples_ns, 99) / float(per_turn)
        ),
    }
}

/// Exact below 2^53, that is for a hundred days in nanoseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "figures are rounded to three digits anyway"
)]
fn float(number: u64) -> f64 {
    number as f64
}

/// CPU time of the calling thread.
fn thread_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Time that passes, the same for all threads, in nanoseconds since some instant.
pub fn wall_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is ours to be written.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(status, 0, "Linux has these clocks on every CPU");
    let (seconds, nanos) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    seconds * 1_000_000_000 + nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFORT: Effort = Effort {
        rounds: 3,
        throughput_sample_ns: 20_000,
        latency_sample_ns: 20_000,
        quick: true,
    };

    #[test]
    fn more_work_takes_longer_in_either_unit() {
        let bytes = vec![7_u8; 64 << 10];
        let work = |length: usize| {
            let bytes = &bytes[..length];
            move || {
                std::hint::black_box(crate::read(std::hint::black_box(bytes)));
            }
        };
        for unit in [
            Unit::Nanoseconds { per_turn: 1 },
            Unit::Gigabytes { bytes: 64 << 10 },
        ] {
            let candidates = vec![
                Candidate::new("all", work(64 << 10)),
                Candidate::new("little", work(1 << 10)),
            ];
            let series = compare(&EFFORT, unit, candidates);
            assert!(series[0].median_ns() > 4.0 * series[1].median_ns());
            let ratio = series[0].ratio(&series[1], unit);
            assert!(
                match unit {
                    Unit::Nanoseconds { .. } => ratio > 4.0,
                    Unit::Gigabytes { .. } => ratio < 0.25,
                },
                "{ratio}"
            );
        }
    }

    #[test]
    fn percentiles_are_of_the_sorted_values() {
        let values: Vec<f64> = (0..=100_u32).map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 50).round(), percentile(&values, 99).round()),
            (50.0, 99.0)
        );
        assert!((percentile(&[3.0], 99) - 3.0).abs() < f64::EPSILON);
    }
}
