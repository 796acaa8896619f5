//! The load that `braid perf` puts on a namespace, and what it measures.
//!
//! Closed loop: each place of a queue gets its next command when the last one is back. Open loop: commands are due at
//! fixed times, whatever became of those before, and their latency counts from the time at which they were due. A
//! target that stalls is thus charged for every command that had to wait, not only for the one that met the stall.
//!
//! A namespace that is reached by several paths is used by one of them at a time; what is lost with it, or refused because others serve, is sent again by
//! another one, and its latency goes on.

use nvme::command::io_opcode;
use nvme::status::Status;
use reactor::{LatencyRecorder, Nanos, Precision};

use super::gap::{Gap, Watch};
use super::paths::Paths;
use crate::target::cli::options::Pattern;
use crate::target::host::ledger::{Layout, Ledger, Mistake, Written};
use crate::target::host::random::Random;
use crate::target::host::{Job, JobError, Next, Outcome, QueueName, TargetFacts, Workload};

/// Blocks of one core that are verified at most: their ledger takes 20 bytes each.
const VERIFIED_BLOCKS_MAX: u64 = 8 << 20;
/// Commands in a region that one core owns when it verifies.
const REGION_COMMANDS: u32 = 64;
/// Attempts to find blocks that are not busy when it verifies.
const ATTEMPTS_MAX: u32 = 32;
/// Bytes of noise that writes are cut from.
const NOISE_BYTES: usize = 4 << 20;
/// Largest command.
const COMMAND_BYTES_MAX: usize = 2 << 20;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Namespace.
    pub nsid: u32,
    /// Bytes of a command.
    pub command_bytes: u32,
    /// Share of reads in percent.
    pub read_percent: u8,
    /// Which blocks.
    pub pattern: Pattern,
    /// Whether writes are forced to stable media.
    pub fua: bool,
    /// Whether blocks are stamped and checked.
    pub verify: bool,
    /// Time between two commands of one queue in nanoseconds, for an open loop.
    pub interval_ns: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// Cores that share the namespace.
    pub cores: u16,
    /// Targets by which it is reached.
    pub paths: u16,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing.
    Rest,
    /// Load; what is meant to start from then on is measured.
    Load { measured_from: Nanos },
    /// The load is over: only what was due before is still sent.
    Drain { until: Nanos },
}

/// Reads or writes that were measured.
#[derive(Clone, Debug)]
pub struct Side {
    /// From the intended start to the end.
    pub latency: LatencyRecorder,
    /// Bytes moved.
    pub bytes: u64,
}

impl Default for Side {
    fn default() -> Self {
        Self::new()
    }
}

impl Side {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            latency: LatencyRecorder::new(Precision::ThreeDigits),
            bytes: 0,
        }
    }

    /// Adds another core's.
    pub fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.bytes += other.bytes;
    }
}

/// What one core measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Reads.
    pub reads: Side,
    /// Writes.
    pub writes: Side,
    /// Commands that the target answered with an error, warm-up included.
    pub failed: u64,
    /// Bytes of all commands that succeeded, warm-up and those that ended after the measured time included.
    pub moved_bytes: u64,
    /// The first such error.
    pub first_error: Option<Status>,
    /// Commands that were lost with their connection.
    pub lost: u64,
    /// Commands that were sent again by another path.
    pub sent_again: u64,
    /// Commands that were answered by each path, warm-up included.
    pub by_path: Vec<u64>,
    /// The longest time in which nothing completed on one of the cores.
    pub gap: Gap,
    /// Blocks that were compared, and those of them that were wrong.
    pub checked: u64,
    /// Likewise.
    pub wrong: u64,
    /// The first wrong block.
    pub mistake: Option<Mistake>,
    /// Blocks that are verified; others of the namespace are left alone.
    pub verified_blocks: u64,
}

impl Default for Measured {
    fn default() -> Self {
        Self::new()
    }
}

impl Measured {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            reads: Side::new(),
            writes: Side::new(),
            failed: 0,
            moved_bytes: 0,
            first_error: None,
            lost: 0,
            sent_again: 0,
            by_path: Vec::new(),
            gap: Gap::default(),
            checked: 0,
            wrong: 0,
            mistake: None,
            verified_blocks: 0,
        }
    }

    /// Adds another core's.
    pub fn merge(&mut self, other: &Self) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        self.failed += other.failed;
        self.moved_bytes += other.moved_bytes;
        self.first_error = self.first_error.or(other.first_error);
        self.lost += other.lost;
        self.sent_again += other.sent_again;
        self.by_path
            .resize(self.by_path.len().max(other.by_path.len()), 0);
        for (to, from) in self.by_path.iter_mut().zip(&other.by_path) {
            *to += from;
        }
        self.gap = self.gap.longer(other.gap);
        self.checked += other.checked;
        self.wrong += other.wrong;
        self.mistake = self.mistake.or(other.mistake);
        self.verified_blocks += other.verified_blocks;
    }
}

/// What happened since the last look.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Latencies of all commands.
    pub latency: LatencyRecorder,
    /// Bytes moved.
    pub bytes: u64,
}

/// Why a namespace cannot be measured as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is not there.
    #[error("the target has no namespace {0}")]
    NoNamespace(u32),
    /// Its blocks are larger or do not divide a command.
    #[error("commands of {command_bytes} bytes are not whole blocks of {block_bytes} bytes")]
    Blocks {
        /// Bytes of a command.
        command_bytes: u32,
        /// Bytes of a block.
        block_bytes: u32,
    },
    /// It has less than one command for each core.
    #[error("the namespace is too small for one command a core")]
    TooSmall,
    /// The controller does not take that much at once.
    #[error("commands of {command_bytes} bytes are more than the {max_transfer_bytes} that the target takes")]
    TooLarge {
        /// Bytes of a command.
        command_bytes: u32,
        /// What it takes.
        max_transfer_bytes: u32,
    },
}

/// One queue's place in a sequence and in time.
#[derive(Clone, Copy, Debug)]
struct Lane {
    /// Next command of a sequence.
    cursor: u64,
    /// Commands that were made since the schedule began, and when that was.
    made: u64,
    began: Nanos,
}

/// One core's part of a measurement.
pub struct Perf {
    plan: Plan,
    worker: u16,
    random: Random,
    noise: Vec<u8>,
    command_blocks: u32,
    block_bytes: u32,
    /// Commands that fit into the namespace, or into the blocks that are verified.
    places: u64,
    io_queues: u16,
    lanes: Vec<Lane>,
    ledger: Option<Ledger>,
    unfit: Option<Unfit>,
    ready: bool,
    phase: Phase,
    in_flight: u32,
    paths: Paths,
    /// Commands that are to be sent again by another path: at most as many as were in flight.
    again: Vec<Job>,
    watch: Watch,
    measured: Measured,
    interval: Interval,
}

impl Perf {
    /// Worker number `worker`, below `plan.cores`.
    pub fn new(plan: Plan, worker: u16) -> Self {
        let mut random = Random::new(plan.seed ^ u64::from(worker) << 48);
        let noise = if plan.read_percent < 100 && !plan.verify {
            NOISE_BYTES
        } else {
            0
        };
        let noise = (0..noise / 8).flat_map(|_| random.draw().to_le_bytes()).collect();
        let paths = Paths::new(plan.paths, worker % plan.paths);
        let measured = Measured {
            by_path: vec![0; usize::from(plan.paths)],
            ..Measured::new()
        };
        Self {
            plan,
            paths,
            again: Vec::new(),
            watch: Watch::default(),
            worker,
            random,
            noise,
            command_blocks: 1,
            block_bytes: 0,
            places: 0,
            io_queues: 0,
            lanes: Vec::new(),
            ledger: None,
            unfit: None,
            ready: false,
            phase: Phase::Rest,
            in_flight: 0,
            measured,
            interval: Interval {
                latency: LatencyRecorder::new(Precision::TwoDigits),
                bytes: 0,
            },
        }
    }

    /// Whether jobs can run, by all paths; errs if never.
    pub fn is_ready(&self) -> Result<bool, Unfit> {
        self.unfit.map_or(Ok(self.ready && self.paths.are_up()), Err)
    }

    /// Starts the load; what is due from `measured_from` on is measured.
    pub fn begin(&mut self, now: Nanos, measured_from: Nanos) {
        self.phase = Phase::Load { measured_from };
        self.watch = Watch::since(measured_from);
        for lane in &mut self.lanes {
            lane.made = 0;
            lane.began = now;
        }
    }

    /// Ends the load: nothing more is due from now on.
    pub fn end(&mut self, now: Nanos) {
        self.phase = Phase::Drain { until: now };
        self.watch.end(now);
    }

    /// Whether everything that was due has ended.
    pub fn has_drained(&self) -> bool {
        let due = |lane: &Lane| match (self.phase, self.plan.interval_ns) {
            (Phase::Drain { until }, Some(interval)) => due_at(lane, interval) < until,
            (Phase::Drain { .. } | Phase::Rest | Phase::Load { .. }, _) => false,
        };
        self.in_flight == 0
            && self.again.is_empty()
            && !(self.worker < self.io_queues && self.own_lanes().any(due))
    }

    /// Everything that was measured so far.
    pub fn measured(&self) -> Measured {
        let mut measured = self.measured.clone();
        measured.gap = self.watch.longest();
        if let Some(ledger) = &self.ledger {
            measured.checked = ledger.checked();
            measured.wrong = ledger.wrong();
            measured.mistake = ledger.first_mistake();
            measured.verified_blocks = ledger.layout().own_blocks();
        }
        measured
    }

    /// What happened since the last call.
    pub fn take_interval(&mut self) -> Interval {
        let taken = self.interval.clone();
        self.interval.latency.clear();
        self.interval.bytes = 0;
        taken
    }

    /// Lanes of the queues that this core has: queue `qid` is on core `(qid - 1) % cores`.
    fn own_lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes
            .iter()
            .skip(usize::from(self.worker))
            .step_by(usize::from(self.plan.cores))
    }

    /// Looks at what the target offers.
    fn fit(&mut self, facts: &TargetFacts) -> Result<(), Unfit> {
        let command_bytes = self.plan.command_bytes;
        let is_it = |namespace: &&crate::target::host::Namespace| namespace.nsid == self.plan.nsid;
        let namespace = facts
            .namespaces
            .iter()
            .find(is_it)
            .ok_or(Unfit::NoNamespace(self.plan.nsid))?;
        let block_bytes = namespace.block_bytes;
        if block_bytes == 0 || !command_bytes.is_multiple_of(block_bytes) {
            return Err(Unfit::Blocks {
                command_bytes,
                block_bytes,
            });
        }
        if command_bytes > facts.max_transfer_bytes {
            return Err(Unfit::TooLarge {
                command_bytes,
                max_transfer_bytes: facts.max_transfer_bytes,
            });
        }
        self.block_bytes = block_bytes;
        self.command_blocks = command_bytes / block_bytes;
        let command_blocks = u64::from(self.command_blocks);
        self.places = namespace.blocks / command_blocks;
        if self.places < u64::from(self.plan.cores) {
            return Err(Unfit::TooSmall);
        }
        if self.plan.verify {
            let verified = (VERIFIED_BLOCKS_MAX * u64::from(self.plan.cores)).min(namespace.blocks);
            let layout = Layout {
                blocks: verified / command_blocks * command_blocks,
                // Small namespaces are shared too: each core gets a region.
                region_blocks: self.command_blocks
                    * u32::try_from(self.places / u64::from(self.plan.cores))
                        .map_or(REGION_COMMANDS, |places| places.min(REGION_COMMANDS)),
                worker: self.worker,
                workers: self.plan.cores,
            };
            self.places = layout.own_blocks() / command_blocks;
            self.ledger = Some(Ledger::new(layout, block_bytes, self.plan.seed));
        }
        Ok(())
    }

    /// The next command in a lane, at random or in order; `None` if its blocks are busy.
    fn make(&mut self, at: usize) -> Option<Job> {
        let attempts = if self.ledger.is_some() { ATTEMPTS_MAX } else { 1 };
        for _ in 0..attempts {
            let place = match self.plan.pattern {
                Pattern::Random => self.random.below(self.places),
                Pattern::Sequential => {
                    let lane = &mut self.lanes[at];
                    let place = lane.cursor;
                    lane.cursor = (lane.cursor + 1) % self.places;
                    place
                }
            };
            let read = self.random.percent(self.plan.read_percent);
            let index = place * u64::from(self.command_blocks);
            let (blocks, bytes, nsid) = (self.command_blocks, self.block_bytes, self.plan.nsid);
            let Some(ledger) = &mut self.ledger else {
                let job = if read { Job::read } else { Job::write };
                return Some(self.forced(job(nsid, index, blocks, bytes, 0)));
            };
            let lba = ledger.layout().lba(index);
            if read {
                if ledger.begin_read(index, blocks) {
                    return Some(Job::read(nsid, lba, blocks, bytes, 0));
                }
            } else if let Some(sequence) = ledger.begin_write(index, blocks, false) {
                return Some(self.forced(Job::write(nsid, lba, blocks, bytes, u64::from(sequence))));
            }
        }
        None
    }

    /// The command as it is sent: writes are forced if they are to be.
    fn forced(&self, job: Job) -> Job {
        if self.plan.fua && job.entry.opcode() == io_opcode::WRITE {
            job.with_fua()
        } else {
            job
        }
    }

    /// Keeps the ledger after a command has ended.
    fn enter(&mut self, job: &Job, outcome: Outcome, data: &[u8]) {
        let Some(ledger) = &mut self.ledger else { return };
        let (index, blocks) = (ledger.layout().index(job.slba()), job.blocks());
        let good = outcome.is_ok_and(|answer| answer.status.is_success());
        if job.entry.opcode() == io_opcode::READ {
            if good {
                ledger.end_read(index, blocks, Some(data));
            } else {
                ledger.abandon_read(index, blocks); // It is counted as failed or lost already.
            }
            return;
        }
        let written = match outcome {
            Ok(_) if good => Written::Acknowledged,
            Ok(_) | Err(JobError::Lost) => Written::Unknown,
            Err(JobError::NotSent | JobError::TooLarge | JobError::NoMemory) => Written::Not,
        };
        ledger.end_write(index, blocks, written);
    }

    /// Whether a command is to be sent again by another path, and notes what this one is good for.
    fn goes_another_way(&mut self, now: Nanos, path: u16, outcome: Outcome) -> bool {
        if !self.paths.are_several() {
            return false;
        }
        match outcome {
            Ok(answer) if is_of_path(answer.status) => self.paths.set_aside(path, now),
            Ok(_) | Err(JobError::TooLarge | JobError::NoMemory) => return false,
            Err(JobError::Lost | JobError::NotSent) => self.paths.down(path),
        }
        true
    }

    /// Whether a command that is meant to start at `started` counts.
    fn counts(&self, started: Nanos) -> bool {
        match self.phase {
            Phase::Rest => false,
            Phase::Load { measured_from } => started >= measured_from,
            // In a closed loop, what was not back at the end does not belong to the measured time.
            Phase::Drain { .. } => self.plan.interval_ns.is_some(),
        }
    }
}

/// When the next command of a lane is due.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "commands and nanoseconds of a run are far below 2^53, and none is negative"
)]
fn due_at(lane: &Lane, interval_ns: f64) -> Nanos {
    lane.began + (lane.made as f64 * interval_ns) as u64
}

/// Whether another path may do what this one does not.
fn is_of_path(status: Status) -> bool {
    [Status::ANA_INACCESSIBLE, Status::ANA_TRANSITION]
        .iter()
        .any(|known| status.same_code(*known))
}

impl Workload for Perf {
    fn ready(&mut self, now: Nanos, target: usize, facts: &TargetFacts) {
        let has_it = |namespace: &crate::target::host::Namespace| namespace.nsid == self.plan.nsid;
        if self.ready {
            if facts.namespaces.iter().any(has_it) {
                self.paths.up(target); // What is known stays.
            }
            return;
        }
        if let Err(unfit) = self.fit(facts) {
            self.unfit = Some(unfit);
            return;
        }
        self.ready = true;
        self.paths.up(target);
        self.io_queues = facts.io_queues;
        let queues = u64::from(facts.io_queues.max(1));
        let lane = |at: u64| Lane {
            cursor: self.places / queues * at,
            made: 0,
            began: now,
        };
        self.lanes = (0..queues).map(lane).collect();
    }

    fn next(&mut self, now: Nanos, queue: QueueName) -> Next {
        let Some(at) = usize::from(queue.qid)
            .checked_sub(1)
            .filter(|at| *at < self.lanes.len())
        else {
            return Next::Idle;
        };
        match self.paths.choose(now) {
            Some(path) if path == queue.target => {}
            Some(_) => return Next::Idle,
            None => return self.paths.next_at().map_or(Next::Idle, Next::At),
        }
        if let Some(job) = self.again.pop() {
            self.in_flight += 1;
            return Next::Job(job);
        }
        let due = match (self.phase, self.plan.interval_ns) {
            (Phase::Rest, _) | (Phase::Drain { .. }, None) => return Next::Idle,
            (Phase::Load { .. }, None) => now,
            (Phase::Load { .. }, Some(interval)) => {
                let due = due_at(&self.lanes[at], interval);
                if due > now {
                    return Next::At(due);
                }
                due
            }
            (Phase::Drain { until }, Some(interval)) => {
                let due = due_at(&self.lanes[at], interval);
                if due >= until {
                    return Next::Idle;
                }
                due
            }
        };
        let Some(job) = self.make(at) else {
            return Next::Idle;
        };
        self.lanes[at].made += 1;
        self.in_flight += 1;
        Next::Job(job.meant_for(due))
    }

    fn fill(&mut self, job: &Job, data: &mut [u8]) {
        match &self.ledger {
            Some(ledger) => {
                let sequence = u32::try_from(job.tag).expect("the ledger's number is the tag");
                ledger.fill(job.slba(), sequence, data);
            }
            None => {
                let spare = u64::try_from(NOISE_BYTES - COMMAND_BYTES_MAX).expect("it is 2 MiB");
                let start = usize::try_from(self.random.below(spare)).expect("below 2 MiB");
                data.copy_from_slice(&self.noise[start..start + data.len()]);
            }
        }
    }

    fn lost(&mut self, _: Nanos, queue: QueueName) {
        self.paths.down(queue.target);
    }

    fn done(&mut self, now: Nanos, queue: QueueName, job: &Job, outcome: Outcome, data: &[u8]) {
        self.in_flight -= 1;
        if self.goes_another_way(now, queue.target, outcome) {
            self.measured.sent_again += 1;
            return self.again.push(*job);
        }
        self.enter(job, outcome, data);
        match outcome {
            Ok(answer) if answer.status.is_success() => {
                let latency = now.saturating_sub(job.started);
                let bytes = u64::from(job.bytes());
                self.interval.latency.record(latency);
                self.interval.bytes += bytes;
                self.measured.moved_bytes += bytes;
                self.measured.by_path[usize::from(queue.target)] += 1;
                self.watch.completed(now);
                if self.counts(job.started) {
                    let read = job.entry.opcode() == io_opcode::READ;
                    let side = if read {
                        &mut self.measured.reads
                    } else {
                        &mut self.measured.writes
                    };
                    side.latency.record(latency);
                    side.bytes += bytes;
                }
            }
            Ok(answer) => {
                self.measured.failed += 1;
                self.measured.first_error.get_or_insert(answer.status);
            }
            Err(_) => self.measured.lost += 1,
        }
    }
}

const _: () = assert!(NOISE_BYTES > COMMAND_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::host::{Answer, Namespace};

    const QUEUE: QueueName = QueueName { target: 0, qid: 1 };
    const SUCCESS: Outcome = Ok(Answer {
        status: Status::SUCCESS,
        result: 0,
    });

    fn plan() -> Plan {
        Plan {
            nsid: 1,
            command_bytes: 4096,
            read_percent: 100,
            pattern: Pattern::Sequential,
            fua: false,
            verify: false,
            interval_ns: None,
            seed: 1,
            cores: 1,
            paths: 1,
        }
    }

    fn facts(blocks: u64, block_bytes: u32) -> TargetFacts {
        let namespace = Namespace {
            nsid: 1,
            blocks,
            block_bytes,
            nguid: [0; 16],
            uuid: [0; 16],
        };
        TargetFacts {
            io_queues: 1,
            max_transfer_bytes: 1 << 17,
            namespaces: vec![namespace],
            ..TargetFacts::default()
        }
    }

    fn perf(plan: Plan) -> Perf {
        let mut perf = Perf::new(plan, 0);
        perf.ready(0, 0, &facts(100, 512));
        assert_eq!(perf.is_ready(), Ok(true));
        perf
    }

    fn job(perf: &mut Perf, now: Nanos) -> Job {
        let next = perf.next(now, QUEUE);
        let Next::Job(job) = next else { panic!("{next:?}") };
        job
    }

    /// Goal: a stall is charged to every command that was due meanwhile (no coordinated omission).
    #[test]
    fn latency_counts_from_the_time_at_which_a_command_was_due() {
        let mut perf = perf(Plan {
            interval_ns: Some(1000.0),
            ..plan()
        });
        perf.begin(0, 0);
        let first = job(&mut perf, 0);
        assert_eq!(first.started, 0);
        assert!(matches!(perf.next(1, QUEUE), Next::At(1000)));
        perf.done(10_000, QUEUE, &first, SUCCESS, &[]); // The target stalled for ten intervals.
        for at in 1..=10 {
            let late = job(&mut perf, 10_000);
            assert_eq!(late.started, at * 1000);
            perf.done(10_000, QUEUE, &late, SUCCESS, &[]);
        }
        assert!(matches!(perf.next(10_000, QUEUE), Next::At(11_000)));
        let latency = perf.measured().reads.latency;
        assert_eq!(latency.count(), 11);
        let median = latency.quantile_ns(0.5);
        assert!(
            (4990..=5010).contains(&median),
            "half of them waited for half of the stall: {median}"
        );
    }

    #[test]
    fn what_was_due_before_the_end_is_still_sent_and_counted() {
        let mut perf = perf(Plan {
            interval_ns: Some(1000.0),
            ..plan()
        });
        perf.begin(0, 0);
        let first = job(&mut perf, 0);
        perf.end(2500);
        assert!(!perf.has_drained());
        for started in [1000, 2000] {
            let late = job(&mut perf, 2600);
            assert_eq!(late.started, started);
            perf.done(2700, QUEUE, &late, SUCCESS, &[]);
        }
        assert!(matches!(perf.next(9000, QUEUE), Next::Idle) && !perf.has_drained());
        perf.done(2700, QUEUE, &first, SUCCESS, &[]);
        assert!(perf.has_drained());
        assert_eq!(perf.measured().reads.latency.count(), 3);
    }

    #[test]
    fn warm_up_and_what_a_closed_loop_leaves_over_are_not_measured() {
        let mut perf = perf(plan());
        perf.begin(0, 100);
        let (warm, measured, over) = (job(&mut perf, 99), job(&mut perf, 100), job(&mut perf, 200));
        perf.done(150, QUEUE, &warm, SUCCESS, &[]);
        perf.done(150, QUEUE, &measured, SUCCESS, &[]);
        perf.end(300);
        perf.done(350, QUEUE, &over, SUCCESS, &[]);
        assert!(matches!(perf.next(400, QUEUE), Next::Idle) && perf.has_drained());
        assert_eq!(
            (perf.measured().reads.latency.count(), perf.measured().reads.bytes),
            (1, 4096)
        );
    }

    #[test]
    fn sequences_go_round_and_random_places_stay_inside() {
        let mut sequential = perf(plan());
        sequential.begin(0, 0);
        let slbas: Vec<u64> = (0..13).map(|_| job(&mut sequential, 0).slba()).collect();
        assert_eq!(slbas, [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 0]);
        let mut random = perf(Plan {
            pattern: Pattern::Random,
            ..plan()
        });
        random.begin(0, 0);
        for _ in 0..500 {
            let slba = job(&mut random, 0).slba();
            assert!(slba.is_multiple_of(8) && slba + 8 <= 100);
        }
    }

    #[test]
    fn verifying_finds_what_was_not_written() {
        let mut perf = perf(Plan {
            verify: true,
            read_percent: 50,
            pattern: Pattern::Random,
            ..plan()
        });
        perf.begin(0, 0);
        let mut disk = vec![0; 100 * 512];
        let mut lost = 0;
        for turn in 0..500 {
            let job = job(&mut perf, 0);
            let start = usize::try_from(job.slba()).unwrap() * 512;
            let range = start..start + 4096;
            if job.entry.opcode() == io_opcode::READ {
                perf.done(1, QUEUE, &job, SUCCESS, &disk[range]);
            } else {
                let mut data = vec![0; 4096];
                perf.fill(&job, &mut data);
                if turn < 400 {
                    disk[range].copy_from_slice(&data);
                } else {
                    lost += 1; // Acknowledged and forgotten.
                }
                perf.done(1, QUEUE, &job, SUCCESS, &[]);
            }
            assert!(turn >= 400 || perf.measured().wrong == 0);
        }
        assert!(lost > 0 && perf.measured().wrong > 0);
    }

    #[test]
    fn unfit_namespaces_are_named() {
        let unfit = |facts: &TargetFacts, plan: Plan| {
            let mut perf = Perf::new(plan, 0);
            perf.ready(0, 0, facts);
            perf.is_ready().unwrap_err()
        };
        assert_eq!(
            unfit(&facts(9, 512), Plan { nsid: 2, ..plan() }),
            Unfit::NoNamespace(2)
        );
        let blocks = Unfit::Blocks {
            command_bytes: 512,
            block_bytes: 4096,
        };
        assert_eq!(
            unfit(
                &facts(9, 4096),
                Plan {
                    command_bytes: 512,
                    ..plan()
                }
            ),
            blocks
        );
        assert_eq!(unfit(&facts(7, 512), plan()), Unfit::TooSmall);
        let large = Plan {
            command_bytes: 1 << 18,
            ..plan()
        };
        assert!(matches!(
            unfit(&facts(1 << 20, 512), large),
            Unfit::TooLarge { .. }
        ));
    }

    /// Goal: a failover is no error, and what it costs is seen in latency and gap.
    #[test]
    fn what_one_path_loses_or_refuses_goes_by_another_one() {
        let mut perf = Perf::new(Plan { paths: 2, ..plan() }, 0);
        perf.ready(0, 0, &facts(100, 512));
        assert_eq!(perf.is_ready(), Ok(false), "a path is missing");
        perf.ready(0, 1, &facts(100, 512));
        assert_eq!(perf.is_ready(), Ok(true));
        perf.begin(0, 0);
        let other = QueueName { target: 1, qid: 1 };
        assert!(matches!(perf.next(0, other), Next::Idle), "home is there");
        let (lost, refused) = (job(&mut perf, 0), job(&mut perf, 0));
        perf.done(10, QUEUE, &lost, Err(JobError::Lost), &[]);
        assert!(matches!(perf.next(10, QUEUE), Next::Idle), "home is lost");
        let Next::Job(again) = perf.next(10, other) else {
            panic!("it is sent again")
        };
        assert_eq!((again.slba(), again.started), (lost.slba(), lost.started));
        perf.ready(20, 0, &facts(100, 512));
        let inaccessible = Answer {
            status: Status::ANA_INACCESSIBLE,
            result: 0,
        };
        perf.done(30, other, &refused, Ok(inaccessible), &[]);
        perf.done(500, other, &again, SUCCESS, &[]);
        let Next::Job(last) = perf.next(500, QUEUE) else {
            panic!("home is back")
        };
        assert_eq!(last.slba(), refused.slba());
        perf.done(600, QUEUE, &last, SUCCESS, &[]);
        perf.end(700);
        assert!(perf.has_drained());
        let measured = perf.measured();
        assert_eq!((measured.failed, measured.lost, measured.sent_again), (0, 0, 2));
        assert_eq!(measured.by_path, [1, 1]);
        assert_eq!((measured.gap.length_ns, measured.gap.at_ns), (500, 0));
        assert_eq!(measured.reads.latency.count(), 2);
    }

    #[test]
    fn a_path_that_is_lost_with_nothing_in_flight_is_not_waited_for() {
        let mut perf = Perf::new(Plan { paths: 2, ..plan() }, 0);
        (0..2).for_each(|target| perf.ready(0, target, &facts(100, 512)));
        perf.begin(0, 0);
        perf.lost(10, QUEUE);
        let other = QueueName { target: 1, qid: 1 };
        assert!(matches!(perf.next(20, QUEUE), Next::Idle));
        assert!(matches!(perf.next(20, other), Next::Job(_)));
        perf.ready(30, 0, &facts(100, 512));
        assert!(matches!(perf.next(30, QUEUE), Next::Job(_)), "home is back");
    }

    #[test]
    fn errors_and_losses_are_counted_apart() {
        let mut perf = perf(plan());
        perf.begin(0, 0);
        let (one, two) = (job(&mut perf, 0), job(&mut perf, 0));
        let answer = Answer {
            status: Status::LBA_OUT_OF_RANGE,
            result: 0,
        };
        perf.done(1, QUEUE, &one, Ok(answer), &[]);
        perf.done(1, QUEUE, &two, Err(JobError::Lost), &[]);
        let measured = perf.measured();
        assert_eq!((measured.failed, measured.lost), (1, 1));
        assert_eq!(measured.first_error, Some(Status::LBA_OUT_OF_RANGE));
        assert_eq!(measured.reads.latency.count(), 0);
    }
}
