//! `braid perf`: measures the latency of any NVMe/TCP target with our own initiator.
//!
//! Knows how a measurement goes (connect, warm up, measure, drain, add up) and whom to tell; what a command is and when
//! it is due is `workload`'s business.

mod gap;
mod html;
mod paths;
mod report;
mod workload;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nvme::host::{DownReason, FailReason};
use reactor::{Arena, LatencyRecorder, Nanos, Options, Precision};
use thiserror::Error;

pub use self::gap::Gap;
pub use self::report::{PerfReport, Second};
pub use self::workload::{Measured, Side, Unfit};

use self::workload::{Perf, Plan};
use super::cli::options::PerfOptions;
use super::cli::{Failure, bytes_text, duration_text, print, print_json};
use super::host::identity::Identity;
use super::host::{Event, Host, HostError, Target, TargetFacts};
use super::storage;

/// Load before the measurement, at most: a tenth of the time if that is less.
const WARM_UP_MAX: Duration = Duration::from_secs(1);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long commands may take to end after the load has.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(35);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Places of a queue that an open loop wants at least, so that the target's delays do not slow it down.
const OPEN_LOOP_DEPTH: u16 = 127;
/// Memory of a core besides the data of commands in flight.
const ARENA_SPARE_BYTES: usize = 8 << 20;

/// Why nothing was measured.
#[derive(Debug, Error)]
pub enum PerfError {
    /// Options that contradict one another.
    #[error("{0}")]
    Options(&'static str),
    /// More memory than a core can have.
    #[error("{} for the data in flight is more than a core can have", bytes_text(*.0))]
    Memory(u64),
    /// The target did not become ready.
    #[error("the target cannot be used: {0}")]
    Down(#[from] DownReason),
    /// The target does not want us.
    #[error("the target cannot be used: {0}")]
    Failed(#[from] FailReason),
    /// It did not become ready in time.
    #[error("the target did not become ready in {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    /// The namespace does not fit.
    #[error("{0}")]
    Unfit(#[from] Unfit),
    /// The host failed.
    #[error("{0}")]
    Host(#[from] HostError),
    /// The system has no random numbers.
    #[error("no random numbers from the system: {0}")]
    Random(std::io::Error),
    /// It was interrupted before anything was measured.
    #[error("interrupted before anything was measured")]
    Interrupted,
}

/// Who watches a measurement.
pub trait Watcher {
    /// Another second is over.
    fn second(&mut self, second: &Second);

    /// Whether to end early.
    fn wants_end(&self) -> bool;
}

/// Nobody watches.
struct Nobody;

impl Watcher for Nobody {
    fn second(&mut self, _: &Second) {}

    fn wants_end(&self) -> bool {
        false
    }
}

/// Measures a target. Blocks until the measurement is over; prints nothing.
pub fn measure(options: &PerfOptions) -> Result<PerfReport, PerfError> {
    measure_watched(options, &mut Nobody)
}

/// Measures a target while somebody watches.
pub fn measure_watched(options: &PerfOptions, watcher: &mut dyn Watcher) -> Result<PerfReport, PerfError> {
    if options.verify && options.read_percent == 100 {
        return Err(PerfError::Options(
            "--verify needs writes: give --read-percent a value below 100",
        ));
    }
    if options.cores > options.queues {
        return Err(PerfError::Options(
            "--cores is more than --queues: each core needs a queue of its own",
        ));
    }
    let (host, seed) = start(options)?;
    let measured = carry_out(options, seed, &host, watcher);
    let stopped = host.stop();
    let report = measured?;
    stopped?;
    Ok(report)
}

/// Starts the host.
fn start(options: &PerfOptions) -> Result<(Host<Perf>, u64), PerfError> {
    let seed = u64::from_le_bytes(storage::random_bytes().map_err(PerfError::Random)?);
    let identity = options
        .host_nqn
        .clone()
        .map_or_else(Identity::of_this_machine, Identity::named);
    let depth = options
        .rate
        .map_or(options.depth, |_| options.depth.max(OPEN_LOOP_DEPTH));
    let target = |address: &SocketAddr| Target {
        io_queues: options.queues,
        depth,
        header_digest: options.header_digest,
        data_digest: options.data_digest,
        max_transfer_bytes: options.block_bytes.max(4096),
        ..Target::new(*address, options.nqn.clone(), identity.nqn.clone(), identity.id)
    };
    let targets: Vec<Target> = options.addresses.iter().map(target).collect();
    let plan = Plan {
        nsid: options.nsid,
        command_bytes: options.block_bytes,
        read_percent: options.read_percent,
        pattern: options.pattern,
        fua: options.fua,
        verify: options.verify,
        interval_ns: options.rate.map(|rate| f64::from(options.queues) * 1e9 / rate),
        seed,
        cores: options.cores,
        paths: u16::try_from(targets.len()).expect("the command line takes few"),
    };
    let reactor = Options {
        cores: options.cores,
        arena_bytes: arena_bytes(options, depth)?,
        files_max: 1024,
        ..Options::default()
    };
    let host = Host::start(reactor, targets, move |core| Perf::new(plan.clone(), core.0))?;
    Ok((host, seed))
}

/// Memory of one core: the data of all its commands, twice, because a buffer may still be on its way out when its
/// command is back.
fn arena_bytes(options: &PerfOptions, depth: u16) -> Result<usize, PerfError> {
    let queues = u64::from(options.queues.div_ceil(options.cores));
    let block = u64::from(options.block_bytes.next_power_of_two().max(4096));
    let bytes = queues * u64::from(depth) * block * 2;
    let limit = Arena::BYTES_MAX - ARENA_SPARE_BYTES;
    match usize::try_from(bytes) {
        Ok(bytes) if bytes <= limit => Ok(bytes + ARENA_SPARE_BYTES),
        Ok(_) | Err(_) => Err(PerfError::Memory(bytes)),
    }
}

/// Connects, warms up, measures and drains.
fn carry_out(
    options: &PerfOptions,
    seed: u64,
    host: &Host<Perf>,
    watcher: &mut dyn Watcher,
) -> Result<PerfReport, PerfError> {
    let facts = await_ready(host, watcher)?;
    let mut report = PerfReport::from(options);
    describe(&mut report, options, &facts, seed);
    let time = Duration::from_secs(u64::from(options.seconds));
    let warm_up = WARM_UP_MAX.min(time / 10);
    let begun = reactor::now();
    let measured_from = begun + nanos(warm_up);
    host.with_all(move |perf, _| perf.begin(begun, measured_from))?;
    let mut course = Course::new();
    let ends = Instant::now() + warm_up + time;
    while Instant::now() < ends {
        report.interrupted = watcher.wants_end();
        if report.interrupted {
            break;
        }
        look(
            host,
            &mut report,
            ends.saturating_duration_since(Instant::now()).min(LOOK),
        )?;
        if let Some(second) = course.advance(host)? {
            watcher.second(&second);
            report.course.push(second);
        }
    }
    let ended = reactor::now();
    host.with_all(move |perf, _| perf.end(ended))?;
    if ended <= measured_from {
        return Err(PerfError::Interrupted);
    }
    report.unfinished = !drain(host, &mut report)?;
    #[expect(clippy::cast_precision_loss, reason = "a run is far shorter than 2^53 ns")]
    let seconds = (ended - measured_from) as f64 / 1e9;
    report.seconds = seconds;
    for measured in host.with_all(|perf, _| perf.measured())? {
        report.measured.merge(&measured);
    }
    let blocks = facts
        .namespaces
        .iter()
        .find(|found| found.nsid == options.nsid)
        .map_or(0, |found| found.blocks);
    let verified = report.measured.verified_blocks;
    if options.verify && verified < blocks {
        report
            .notes
            .push(format!("{verified} of {blocks} blocks were used and verified"));
    }
    Ok(report)
}

fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).expect("a run is shorter than 584 years")
}

/// Waits until jobs can run.
fn await_ready(host: &Host<Perf>, watcher: &dyn Watcher) -> Result<Arc<TargetFacts>, PerfError> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let facts = loop {
        if watcher.wants_end() {
            return Err(PerfError::Interrupted);
        }
        match host.events().recv_timeout(LOOK) {
            Ok(Event::Ready { facts, .. }) => break facts,
            Ok(Event::Down { reason, .. }) => return Err(reason.into()),
            Ok(Event::Failed { reason, .. }) => return Err(reason.into()),
            Ok(Event::Discovered { .. } | Event::Stopped { .. }) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(HostError::Silent.into()),
        }
        if Instant::now() >= deadline {
            return Err(PerfError::Timeout);
        }
    };
    // Other cores hear of it a moment later.
    while Instant::now() < deadline {
        let ready: Result<Vec<bool>, Unfit> = host.with_all(|perf, _| perf.is_ready())?.into_iter().collect();
        if ready?.into_iter().all(|ready| ready) {
            return Ok(facts);
        }
    }
    Err(PerfError::Timeout)
}

/// Notes what differs from what was asked for.
fn describe(report: &mut PerfReport, options: &PerfOptions, facts: &TargetFacts, seed: u64) {
    report.queues = facts.io_queues;
    report.depth = facts.depth;
    if facts.io_queues < options.queues {
        report.notes.push(format!(
            "the target grants {} of {} queues",
            facts.io_queues, options.queues
        ));
    }
    if facts.depth < options.depth {
        let (granted, wanted) = (facts.depth, options.depth);
        report.notes.push(format!(
            "the target allows {granted} of {wanted} commands in flight on a queue"
        ));
    }
    if options.rate.is_some() {
        report.notes.push(format!(
            "latency counts from the time at which a command was due; {} of a queue can be in flight",
            facts.depth
        ));
    }
    if options.verify {
        report
            .notes
            .push(format!("stamps of this run carry the seed {seed:#018x}"));
    }
}

/// Lets a moment pass; what becomes of the association meanwhile is noted.
fn look(host: &Host<Perf>, report: &mut PerfReport, time: Duration) -> Result<(), PerfError> {
    match host.events().recv_timeout(time) {
        Ok(Event::Down { target, reason }) => {
            let note = if report.addresses.len() > 1 {
                format!("the path by {} was lost: {reason}", report.addresses[target])
            } else {
                format!("the connection was lost and made again: {reason}")
            };
            // An attempt to connect that fails says the same again.
            if !report.notes.contains(&note) {
                report.notes.push(note);
            }
            Ok(())
        }
        Ok(Event::Failed { target, reason }) if report.addresses.len() > 1 => {
            let address = report.addresses[target];
            report
                .notes
                .push(format!("the path by {address} is given up: {reason}"));
            Ok(())
        }
        Ok(Event::Failed { reason, .. }) => Err(reason.into()),
        Ok(Event::Ready { .. } | Event::Discovered { .. } | Event::Stopped { .. })
        | Err(RecvTimeoutError::Timeout) => Ok(()),
        Err(RecvTimeoutError::Disconnected) => Err(HostError::Silent.into()),
    }
}

/// Waits for what is still due; whether all of it ended.
fn drain(host: &Host<Perf>, report: &mut PerfReport) -> Result<bool, PerfError> {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while Instant::now() < deadline {
        if host
            .with_all(|perf, _| perf.has_drained())?
            .into_iter()
            .all(|drained| drained)
        {
            return Ok(true);
        }
        look(host, report, Duration::from_millis(1))?;
    }
    Ok(false)
}

/// How the measurement goes, second by second.
struct Course {
    began: Instant,
    last: Instant,
}

impl Course {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
        }
    }

    /// The second that is over, if one is.
    fn advance(&mut self, host: &Host<Perf>) -> Result<Option<Second>, PerfError> {
        let now = Instant::now();
        let passed = now - self.last;
        if passed < Duration::from_secs(1) {
            return Ok(None);
        }
        self.last = now;
        let mut latency = LatencyRecorder::new(Precision::TwoDigits);
        let mut bytes = 0;
        for interval in host.with_all(|perf, _| perf.take_interval())? {
            latency.merge(&interval.latency);
            bytes += interval.bytes;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of a second are far below 2^53")]
        let rate = |count: u64| count as f64 / passed.as_secs_f64();
        Ok(Some(Second {
            at: (now - self.began).as_secs_f64(),
            iops: rate(latency.count()),
            bytes_per_second: rate(bytes),
            p50_ns: latency.quantile_ns(0.5),
            p99_ns: latency.quantile_ns(0.99),
        }))
    }
}

/// A line on the terminal, and Ctrl-C.
struct Terminal {
    line: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Terminal {
    fn new(options: &PerfOptions) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop))
                .map_err(|error| Failure::new(format!("signals cannot be caught: {error}"), ""))?;
        }
        // It is drawn on terminals only, on standard error.
        let line = ProgressBar::new_spinner();
        line.set_style(
            ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        let addresses: Vec<String> = options.addresses.iter().map(SocketAddr::to_string).collect();
        line.set_message(format!("connecting to {}", addresses.join(" and ")));
        line.tick();
        Ok(Self { line, stop })
    }
}

impl Watcher for Terminal {
    fn second(&mut self, second: &Second) {
        self.line.set_message(format!(
            "{:.0} s: {:.0} IOPS, {:.1} MiB/s, p50 {}, p99 {}",
            second.at,
            second.iops,
            second.bytes_per_second / f64::from(1 << 20),
            duration_text(second.p50_ns),
            duration_text(second.p99_ns)
        ));
        self.line.tick();
    }

    fn wants_end(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Runs `braid perf`. Errs if nothing could be measured, and if the target failed commands or returned wrong data.
pub fn run(options: PerfOptions) -> Result<(), Failure> {
    let mut terminal = Terminal::new(&options)?;
    let measured = measure_watched(&options, &mut terminal);
    terminal.line.finish_and_clear();
    let report = measured.map_err(|error| failure(&error))?;
    if options.json {
        print_json(&report.json())?;
    } else {
        print(&report.text())?;
    }
    if let Some(file) = &options.report_html {
        write_page(file, &report)?;
    }
    if report.is_good() {
        Ok(())
    } else if options.json {
        Err(Failure::said())
    } else {
        Err(Failure::new(
            "the target did not do all that it was asked for; see the lines above",
            "",
        ))
    }
}

fn write_page(file: &Path, report: &PerfReport) -> Result<(), Failure> {
    std::fs::write(file, html::page(report))
        .map_err(|error| Failure::new(format!("{} cannot be written: {error}", file.display()), ""))
}

fn failure(error: &PerfError) -> Failure {
    let what = error.to_string();
    match error {
        PerfError::Options(_) => Failure::usage(what, ""),
        PerfError::Memory(_) => {
            Failure::usage(what, "lower --depth, --queues or --block-size, or raise --cores")
        }
        PerfError::Failed(_) | PerfError::Down(DownReason::CommandFailed(_)) => {
            Failure::unreachable(what, "check --nqn and --host-nqn against the target's")
        }
        PerfError::Down(_) | PerfError::Timeout => {
            Failure::unreachable(what, "check address and port, and that a target listens there")
        }
        PerfError::Unfit(Unfit::NoNamespace(_)) => {
            Failure::usage(what, "give --nsid one that the target has")
        }
        PerfError::Unfit(Unfit::Blocks { .. } | Unfit::TooLarge { .. }) => {
            Failure::usage(what, "give --block-size another value")
        }
        PerfError::Unfit(Unfit::TooSmall) => Failure::usage(what, "lower --cores or --block-size"),
        PerfError::Host(_) => Failure::new(what, "`braid preflight` says what this machine lacks"),
        PerfError::Random(_) | PerfError::Interrupted => Failure::new(what, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::report::tests::options;
    use super::*;

    #[test]
    fn contradictions_are_refused_before_anything_is_sent() {
        let refused = |arguments: &str| matches!(measure(&options(arguments)), Err(PerfError::Options(_)));
        assert!(refused("--verify"));
        assert!(refused("--cores 2"));
    }

    #[test]
    fn memory_follows_what_can_be_in_flight() {
        let of = |arguments: &str| {
            let options = options(arguments);
            arena_bytes(&options, options.depth)
        };
        assert_eq!(of("").unwrap(), ARENA_SPARE_BYTES + 2 * 4096);
        assert_eq!(
            of("--queues 3 --cores 2 --depth 4 --block-size 12KiB").unwrap(),
            ARENA_SPARE_BYTES + (4 << 14) * 4
        );
        assert!(matches!(
            of("--queues 256 --depth 1024 --block-size 2MiB"),
            Err(PerfError::Memory(_))
        ));
    }

    /// Goal: nobody waits for a target that is not there.
    #[test]
    fn an_address_without_a_target_is_an_error_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut options = options("");
        options.addresses = vec![listener.local_addr().unwrap()];
        drop(listener);
        let error = measure(&options).unwrap_err();
        assert!(
            matches!(error, PerfError::Down(DownReason::Queue { qid: 0, .. })),
            "{error}"
        );
        assert_eq!(failure(&error).exit, 3);
    }
}
