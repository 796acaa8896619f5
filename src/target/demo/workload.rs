//! What the demonstration asks of the virtual disk: it writes every block once, then reads and writes at random, then
//! reads every block back. Every read is compared with what was acknowledged.
//!
//! The disk may be reached by several targets, its paths. One is used at a time: the worker's home, and while that is
//! lost another one.

use nvme::command::io_opcode;
use nvme::status::Status;
use reactor::{LatencyRecorder, Nanos, Precision};

use crate::target::host::ledger::{Layout, Ledger, Mistake, Written};
use crate::target::host::random::Random;
use crate::target::host::{Job, JobError, Next, Outcome, QueueName, TargetFacts, Workload};

/// Blocks of a region that one core owns: 500 KiB of 4 KiB blocks, so that stripe rows are shared at the edges.
const REGION_BLOCKS: u32 = 125;
/// Sizes of random reads and writes in blocks; all equally likely.
const SIZES_BLOCKS: [u32; 12] = [1, 1, 1, 1, 2, 4, 4, 8, 16, 16, 33, 64];
/// Blocks of one command while everything is written or read in order: 128 KiB of 4 KiB blocks.
const RUN_BLOCKS: u32 = 32;
/// Attempts to find blocks that nobody writes at the moment.
const ATTEMPTS_MAX: u32 = 16;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing new.
    Rest,
    /// Every block is written, in order.
    Fill,
    /// Random reads, writes, zeroings and flushes.
    Load,
    /// Every block is read, in order.
    Check,
}

/// What a command does, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Write with Force Unit Access.
    WriteFua,
    /// Write Zeroes.
    WriteZeroes,
    /// Flush.
    Flush,
}

impl Kind {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::WriteFua,
        Self::WriteZeroes,
        Self::Flush,
    ];

    /// Its name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::WriteFua => "write fua",
            Self::WriteZeroes => "write zeroes",
            Self::Flush => "flush",
        }
    }

    fn of(job: &Job) -> Self {
        const FUA: u32 = 1 << 30;
        match job.entry.opcode() {
            io_opcode::READ => Self::Read,
            io_opcode::WRITE_ZEROES => Self::WriteZeroes,
            io_opcode::FLUSH => Self::Flush,
            _ if job.entry.dword(12) & FUA != 0 => Self::WriteFua,
            _ => Self::Write,
        }
    }
}

/// Latency and traffic of one part of the load.
#[derive(Clone, Debug)]
pub struct Measured {
    /// By kind of command.
    pub latency: [LatencyRecorder; 5],
    /// Bytes that were read or written.
    pub bytes: u64,
}

impl Measured {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            latency: std::array::from_fn(|_| LatencyRecorder::new(Precision::ThreeDigits)),
            bytes: 0,
        }
    }

    /// Adds what another core measured.
    pub fn merge(&mut self, other: &Self) {
        for (to, from) in self.latency.iter_mut().zip(&other.latency) {
            to.merge(from);
        }
        self.bytes += other.bytes;
    }

    /// Commands that were carried out.
    pub fn commands(&self) -> u64 {
        self.latency.iter().map(LatencyRecorder::count).sum()
    }
}

/// How far a core is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// All targets are connected and the disk is as expected.
    pub ready: bool,
    /// Blocks of the present phase that are done, for `Fill` and `Check`.
    pub done_blocks: u64,
    /// How many there are.
    pub all_blocks: u64,
    /// Nothing is in flight, and nothing of the phase is left to do.
    pub at_rest: bool,
    /// Commands that the target answered with an error.
    pub failed: u64,
    /// Commands that were lost with their connection.
    pub lost: u64,
    /// Blocks that were compared.
    pub checked: u64,
    /// Blocks that were wrong.
    pub wrong: u64,
    /// Blocks whose last write was not acknowledged.
    pub uncertain: u64,
    /// The first wrong block.
    pub mistake: Option<Mistake>,
}

/// One core's part of the demonstration.
pub struct Demo {
    worker: u16,
    workers: u16,
    seed: u64,
    nsid: u32,
    block_bytes: u32,
    max_blocks: u32,
    ledger: Option<Ledger>,
    random: Random,
    phase: Phase,
    /// Next block of `Fill` and `Check`.
    cursor: u64,
    /// Pieces of `Fill` and `Check` that were lost and are to be done again: at most as many as were in flight.
    again: Vec<(u64, u32)>,
    done_blocks: u64,
    in_flight: u32,
    failed: u64,
    lost: u64,
    /// By target.
    measured: Vec<Measured>,
    /// Commands of the load that each target has answered.
    answers: Vec<u64>,
    /// Targets that are connected and have the disk.
    is_up: Vec<bool>,
    /// The target that is used whenever it is there, and the one that is used now.
    home: u16,
    path: u16,
    /// When the target answered last during the present load, and the longest time between two answers.
    last_answer: Option<Nanos>,
    longest_wait: Nanos,
}

impl Demo {
    /// Worker number `worker` of `workers`, for the namespace `nsid` of its only target.
    pub fn new(worker: u16, workers: u16, nsid: u32, seed: u64) -> Self {
        Self {
            worker,
            workers,
            seed,
            nsid,
            block_bytes: 0,
            max_blocks: 0,
            ledger: None,
            random: Random::new(seed ^ u64::from(worker) << 48),
            phase: Phase::Rest,
            cursor: 0,
            again: Vec::new(),
            done_blocks: 0,
            in_flight: 0,
            failed: 0,
            lost: 0,
            measured: vec![Measured::new()],
            answers: vec![0],
            is_up: vec![false],
            home: 0,
            path: 0,
            last_answer: None,
            longest_wait: 0,
        }
    }

    /// The same, which reaches the namespace by `paths` targets and prefers the one with the index `home`.
    pub fn with_paths(mut self, home: u16, paths: u16) -> Self {
        assert!(home < paths, "a target that is there");
        self.measured = vec![Measured::new(); usize::from(paths)];
        self.answers = vec![0; usize::from(paths)];
        self.is_up = vec![false; usize::from(paths)];
        (self.home, self.path) = (home, home);
        self
    }

    /// Prefers another target from now on. Panics if commands are in flight.
    pub fn go_by(&mut self, home: u16) {
        assert_eq!(self.in_flight, 0, "the last phase has ended");
        assert!(usize::from(home) < self.is_up.len(), "a target that is there");
        (self.home, self.path) = (home, home);
    }

    /// Starts a phase. Panics unless the last one is at rest or was the load.
    pub fn begin(&mut self, phase: Phase) {
        if matches!(phase, Phase::Fill | Phase::Check) {
            assert_eq!(self.in_flight, 0, "the last phase has ended");
            self.cursor = 0;
            self.done_blocks = 0;
            self.again.clear();
        }
        self.phase = phase;
        self.last_answer = None;
    }

    /// Hands out what was measured since the last time, by target.
    pub fn take_measured(&mut self) -> Vec<Measured> {
        let empty = vec![Measured::new(); self.measured.len()];
        std::mem::replace(&mut self.measured, empty)
    }

    /// Commands of the load that were answered so far, by target.
    pub fn answers(&self) -> &[u64] {
        &self.answers
    }

    /// Hands out the longest time between two answers of the load that has ended since the last time.
    pub fn take_longest_wait(&mut self) -> Nanos {
        std::mem::take(&mut self.longest_wait)
    }

    /// A target is lost: another one is used until it is back, if there is one.
    fn path_lost(&mut self, target: u16) {
        self.is_up[usize::from(target)] = false;
        if self.path == target
            && let Some(other) = self.is_up.iter().position(|is_up| *is_up)
        {
            self.path = u16::try_from(other).expect("the index of a target");
        }
    }

    fn answered(&mut self, now: Nanos, queue: QueueName, job: &Job) {
        let measured = &mut self.measured[usize::from(queue.target)];
        measured.latency[Kind::of(job) as usize].record(now.saturating_sub(job.started));
        measured.bytes += u64::from(job.bytes());
        self.answers[usize::from(queue.target)] += 1;
        let wait = self.last_answer.map_or(0, |last| now.saturating_sub(last));
        self.longest_wait = self.longest_wait.max(wait);
        self.last_answer = Some(now);
    }

    /// How far this core is.
    pub fn standing(&self) -> Standing {
        let Some(ledger) = &self.ledger else {
            return Standing::default();
        };
        let all_blocks = ledger.layout().own_blocks();
        let complete = match self.phase {
            Phase::Rest | Phase::Load => true,
            Phase::Fill | Phase::Check => self.done_blocks == all_blocks,
        };
        Standing {
            ready: self.is_up.iter().all(|is_up| *is_up),
            done_blocks: self.done_blocks,
            all_blocks,
            at_rest: complete && self.in_flight == 0,
            failed: self.failed,
            lost: self.lost,
            checked: ledger.checked(),
            wrong: ledger.wrong(),
            uncertain: ledger.uncertain(),
            mistake: ledger.first_mistake(),
        }
    }

    /// The next piece of a pass over all blocks.
    fn next_piece(&mut self) -> Option<(u64, u32)> {
        if let Some(piece) = self.again.pop() {
            return Some(piece);
        }
        let layout = self.ledger.as_ref()?.layout();
        if self.cursor == layout.own_blocks() {
            return None;
        }
        let blocks = layout
            .run_blocks(self.cursor)
            .min(RUN_BLOCKS)
            .min(self.max_blocks);
        let piece = (self.cursor, blocks);
        self.cursor += u64::from(blocks);
        Some(piece)
    }

    fn next_in_order(&mut self) -> Option<Job> {
        let (index, blocks) = self.next_piece()?;
        let fill = self.phase == Phase::Fill;
        let begun = if fill {
            self.write(index, blocks, false)
        } else {
            self.read(index, blocks)
        };
        if begun.is_none() {
            // Only possible after a lost write: its blocks are not written any more.
            self.done_blocks += u64::from(blocks);
        }
        begun
    }

    /// A random command; `None` if all the places that were tried are busy.
    fn next_at_random(&mut self) -> Option<Job> {
        if self.random.below(200) == 0 {
            return Some(Job::flush(self.nsid, 0));
        }
        for _ in 0..ATTEMPTS_MAX {
            let layout = *self.ledger.as_ref()?.layout();
            let index = self.random.below(layout.own_blocks());
            let size = SIZES_BLOCKS[usize::try_from(self.random.below(SIZES_BLOCKS.len() as u64)).ok()?];
            let blocks = size.min(layout.run_blocks(index)).min(self.max_blocks);
            let job = match self.random.below(100) {
                0..50 => self.read(index, blocks),
                50..90 => self.write(index, blocks, false),
                90..96 => self.write(index, blocks, false).map(Job::with_fua),
                _ => self.write(index, blocks, true),
            };
            if job.is_some() {
                return job;
            }
        }
        None
    }

    fn read(&mut self, index: u64, blocks: u32) -> Option<Job> {
        let ledger = self.ledger.as_mut()?;
        let lba = ledger.layout().lba(index);
        ledger
            .begin_read(index, blocks)
            .then(|| Job::read(self.nsid, lba, blocks, self.block_bytes, 0))
    }

    fn write(&mut self, index: u64, blocks: u32, zeroes: bool) -> Option<Job> {
        let ledger = self.ledger.as_mut()?;
        let lba = ledger.layout().lba(index);
        let sequence = ledger.begin_write(index, blocks, zeroes)?;
        Some(if zeroes {
            Job::write_zeroes(self.nsid, lba, blocks, u64::from(sequence))
        } else {
            Job::write(self.nsid, lba, blocks, self.block_bytes, u64::from(sequence))
        })
    }

    /// Keeps the ledger after a command has ended. `None`: it failed in this way.
    fn enter(&mut self, job: &Job, data: Result<&[u8], Option<JobError>>) {
        let kind = Kind::of(job);
        let (Some(ledger), false) = (&mut self.ledger, kind == Kind::Flush) else {
            return;
        };
        let (index, blocks) = (ledger.layout().index(job.slba()), job.blocks());
        let pass = matches!(self.phase, Phase::Fill | Phase::Check);
        let not_sent = matches!(data, Err(Some(error)) if error != JobError::Lost);
        let repeat = match kind {
            Kind::Read => match data {
                Ok(data) => {
                    ledger.end_read(index, blocks, Some(data));
                    false
                }
                Err(Some(_)) => {
                    ledger.abandon_read(index, blocks); // The connection was lost: nobody knows anything.
                    true
                }
                Err(None) => {
                    ledger.end_read(index, blocks, None);
                    false
                }
            },
            Kind::Write | Kind::WriteFua | Kind::WriteZeroes | Kind::Flush => {
                let written = match data {
                    Ok(_) => Written::Acknowledged,
                    Err(_) if not_sent => Written::Not,
                    Err(_) => Written::Unknown,
                };
                ledger.end_write(index, blocks, written);
                not_sent
            }
        };
        if pass && repeat {
            self.again.push((index, blocks));
        } else if pass {
            self.done_blocks += u64::from(blocks);
        }
    }
}

impl Workload for Demo {
    fn ready(&mut self, _: Nanos, target: usize, facts: &TargetFacts) {
        let Some(namespace) = facts
            .namespaces
            .iter()
            .find(|namespace| namespace.nsid == self.nsid)
        else {
            return;
        };
        self.is_up[target] = true;
        if target == usize::from(self.home) || !self.is_up[usize::from(self.path)] {
            self.path = u16::try_from(target).expect("the index of a target");
        }
        if self.ledger.is_some() || namespace.block_bytes == 0 {
            return; // It was connected anew: what is known stays.
        }
        let layout = Layout {
            blocks: namespace.blocks,
            region_blocks: REGION_BLOCKS,
            worker: self.worker,
            workers: self.workers,
        };
        self.block_bytes = namespace.block_bytes;
        self.max_blocks = (facts.max_transfer_bytes / namespace.block_bytes).max(1);
        self.ledger = Some(Ledger::new(layout, namespace.block_bytes, self.seed));
    }

    fn next(&mut self, _: Nanos, queue: QueueName) -> Next {
        if queue.qid == 0 || queue.target != self.path || self.ledger.is_none() {
            return Next::Idle;
        }
        let job = match self.phase {
            Phase::Rest => None,
            Phase::Fill | Phase::Check => self.next_in_order(),
            Phase::Load => self.next_at_random(),
        };
        match job {
            Some(job) => {
                self.in_flight += 1;
                Next::Job(job)
            }
            None => Next::Idle,
        }
    }

    fn fill(&mut self, job: &Job, data: &mut [u8]) {
        let ledger = self.ledger.as_ref().expect("jobs are made after the ledger");
        let sequence = u32::try_from(job.tag).expect("the ledger's number is the tag");
        ledger.fill(job.slba(), sequence, data);
    }

    fn lost(&mut self, _: Nanos, queue: QueueName) {
        self.path_lost(queue.target);
    }

    fn done(&mut self, now: Nanos, queue: QueueName, job: &Job, outcome: Outcome, data: &[u8]) {
        self.in_flight -= 1;
        match outcome {
            Ok(answer) if answer.status.is_success() => {
                if self.phase == Phase::Load {
                    self.answered(now, queue, job);
                }
                self.enter(job, Ok(data));
            }
            // Its node is about to go: nothing was done.
            Ok(answer) if self.is_up.len() > 1 && answer.status.same_code(Status::ANA_INACCESSIBLE) => {
                self.path_lost(queue.target);
                self.enter(job, Err(Some(JobError::NotSent)));
            }
            Ok(answer) => {
                tracing::warn!(status = %answer.status, lba = job.slba(), "the target answered with an error");
                self.failed += 1;
                self.enter(job, Err(None));
            }
            Err(error) => {
                self.lost += 1;
                match error {
                    JobError::Lost | JobError::NotSent => self.path_lost(queue.target),
                    JobError::TooLarge | JobError::NoMemory => {}
                }
                self.enter(job, Err(Some(error)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::host::{Answer, Namespace};

    const QUEUE: QueueName = QueueName { target: 0, qid: 1 };

    /// A disk in memory that carries out jobs at once.
    struct Disk(Vec<u8>);

    impl Disk {
        fn carry_out(&mut self, demo: &mut Demo, job: &Job) {
            let start = usize::try_from(job.slba()).unwrap() * 4096;
            let range = start..start + job.blocks() as usize * 4096;
            let success = Ok(Answer {
                status: Status::SUCCESS,
                result: 0,
            });
            match Kind::of(job) {
                Kind::Read => demo.done(1, QUEUE, job, success, &self.0[range]),
                Kind::Write | Kind::WriteFua => {
                    demo.fill(job, &mut self.0[range]);
                    demo.done(1, QUEUE, job, success, &[]);
                }
                Kind::WriteZeroes => {
                    self.0[range].fill(0);
                    demo.done(1, QUEUE, job, success, &[]);
                }
                Kind::Flush => demo.done(1, QUEUE, job, success, &[]),
            }
        }

        fn run(&mut self, demo: &mut Demo, phase: Phase, jobs_max: u32) {
            demo.begin(phase);
            for _ in 0..jobs_max {
                let Next::Job(job) = demo.next(0, QUEUE) else {
                    break;
                };
                self.carry_out(demo, &job);
            }
        }
    }

    fn demo() -> (Demo, Disk) {
        let mut demo = Demo::new(0, 1, 1, 42);
        let namespace = Namespace {
            nsid: 1,
            blocks: 2000,
            block_bytes: 4096,
            nguid: [0; 16],
            uuid: [0; 16],
        };
        let facts = TargetFacts {
            max_transfer_bytes: 1 << 18,
            namespaces: vec![namespace],
            ..Default::default()
        };
        demo.ready(0, 0, &facts);
        (demo, Disk(vec![0; 2000 * 4096]))
    }

    #[test]
    fn a_good_disk_passes() {
        let (mut demo, mut disk) = demo();
        for (phase, jobs_max) in [(Phase::Fill, 10_000), (Phase::Load, 2000), (Phase::Check, 10_000)] {
            disk.run(&mut demo, phase, jobs_max);
            assert!(demo.standing().at_rest, "{phase:?}");
        }
        let standing = demo.standing();
        assert_eq!(
            (standing.done_blocks, standing.wrong, standing.uncertain),
            (2000, 0, 0)
        );
        assert!(
            demo.take_measured()[0]
                .latency
                .iter()
                .all(|latency| latency.count() > 0),
            "every kind was used"
        );
    }

    #[test]
    fn while_its_home_is_lost_it_goes_by_another_target() {
        let (demo, mut disk) = demo();
        let facts = TargetFacts {
            max_transfer_bytes: 1 << 18,
            namespaces: vec![Namespace {
                nsid: 1,
                blocks: 2000,
                block_bytes: 4096,
                nguid: [0; 16],
                uuid: [0; 16],
            }],
            ..Default::default()
        };
        let mut demo = demo.with_paths(0, 2);
        demo.ready(0, 0, &facts);
        assert!(!demo.standing().ready, "one target is missing");
        demo.ready(0, 1, &facts);
        assert!(demo.standing().ready);
        disk.run(&mut demo, Phase::Fill, 10_000);
        demo.begin(Phase::Load);
        let other = QueueName { target: 1, qid: 1 };
        assert!(matches!(demo.next(0, other), Next::Idle), "home is there");
        let Next::Job(job) = demo.next(0, QUEUE) else {
            panic!("there is always something to do")
        };
        demo.done(1, QUEUE, &job, Err(JobError::Lost), &[]);
        assert!(matches!(demo.next(1, QUEUE), Next::Idle), "home is lost");
        assert!(matches!(demo.next(1, other), Next::Job(_)));
        demo.ready(2, 0, &facts);
        assert!(matches!(demo.next(2, QUEUE), Next::Job(_)), "home is back");
        assert!(matches!(demo.next(2, other), Next::Idle));
    }

    #[test]
    fn one_damaged_block_is_found() {
        let (mut demo, mut disk) = demo();
        disk.run(&mut demo, Phase::Fill, 10_000);
        disk.0[777 * 4096 + 100] ^= 1;
        disk.run(&mut demo, Phase::Check, 10_000);
        let standing = demo.standing();
        assert_eq!((standing.checked, standing.wrong), (2000, 1));
        assert_eq!(standing.mistake.unwrap().lba, 777);
    }

    #[test]
    fn lost_reads_are_repeated_and_errors_count() {
        let (mut demo, mut disk) = demo();
        disk.run(&mut demo, Phase::Fill, 10_000);
        demo.begin(Phase::Check);
        let Next::Job(job) = demo.next(0, QUEUE) else {
            panic!("there is a block to check")
        };
        demo.done(0, QUEUE, &job, Err(JobError::Lost), &[]);
        let Next::Job(again) = demo.next(0, QUEUE) else {
            panic!("it is read again")
        };
        assert_eq!(again.slba(), job.slba());
        let answer = Answer {
            status: Status::UNRECOVERED_READ_ERROR,
            result: 0,
        };
        demo.done(0, QUEUE, &again, Ok(answer), &[]);
        assert_eq!(demo.standing().wrong, u64::from(job.blocks()));
    }
}
