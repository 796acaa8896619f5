//! What a workload asks of a queue and what it is told: plain data.

use nvme::command::{SubmissionEntry, io_opcode};
use nvme::status::Status;
use nvme::tcp::initiator::Payload;
use reactor::Nanos;

use super::TargetFacts;

/// A queue of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueName {
    /// Index of the target.
    pub target: u16,
    /// Queue identifier; 0 is the admin queue.
    pub qid: u16,
}

/// One command, before it has an identifier.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// The command; the host sets its identifier and data pointer.
    pub entry: SubmissionEntry,
    /// Its data. The direction agrees with the opcode.
    pub data: Payload,
    /// Whatever the workload wants to know it by.
    pub tag: u64,
    /// When it was meant to start, from which its latency counts; 0: when it is handed to the connection.
    pub started: Nanos,
}

/// Force Unit Access.
///
/// Source: NVM Command Set Specification 1.0, Write command, Command Dword 12, bit 30.
const FUA: u32 = 1 << 30;

impl Job {
    /// A command without data.
    pub fn new(opcode: u8, nsid: u32, tag: u64) -> Self {
        let mut entry = SubmissionEntry::new(opcode, 0);
        entry.set_nsid(nsid);
        Self {
            entry,
            data: Payload::None,
            tag,
            started: 0,
        }
    }

    /// Reads `blocks` blocks, in `1..=65_536`, of `block_bytes` bytes each, from `slba`.
    pub fn read(nsid: u32, slba: u64, blocks: u32, block_bytes: u32, tag: u64) -> Self {
        let mut job = Self::new(io_opcode::READ, nsid, tag);
        job.address(slba, blocks);
        job.data = Payload::FromTarget(blocks * block_bytes);
        job
    }

    /// Writes as many.
    pub fn write(nsid: u32, slba: u64, blocks: u32, block_bytes: u32, tag: u64) -> Self {
        let mut job = Self::new(io_opcode::WRITE, nsid, tag);
        job.address(slba, blocks);
        job.data = Payload::ToTarget(blocks * block_bytes);
        job
    }

    /// Compares as many with what is sent.
    pub fn compare(nsid: u32, slba: u64, blocks: u32, block_bytes: u32, tag: u64) -> Self {
        let mut job = Self::new(io_opcode::COMPARE, nsid, tag);
        job.address(slba, blocks);
        job.data = Payload::ToTarget(blocks * block_bytes);
        job
    }

    /// Zeroes `blocks` blocks, in `1..=65_536`, from `slba`.
    pub fn write_zeroes(nsid: u32, slba: u64, blocks: u32, tag: u64) -> Self {
        let mut job = Self::new(io_opcode::WRITE_ZEROES, nsid, tag);
        job.address(slba, blocks);
        job
    }

    /// Makes what was written durable.
    pub fn flush(nsid: u32, tag: u64) -> Self {
        Self::new(io_opcode::FLUSH, nsid, tag)
    }

    /// The same, durable when it completes.
    #[must_use]
    pub fn with_fua(mut self) -> Self {
        self.entry.set_dword(12, self.entry.dword(12) | FUA);
        self
    }

    /// The same, meant to start at `started`.
    #[must_use]
    pub fn meant_for(mut self, started: Nanos) -> Self {
        self.started = started;
        self
    }

    /// Bytes of data that it moves.
    pub fn bytes(&self) -> u32 {
        match self.data {
            Payload::None => 0,
            Payload::ToTarget(bytes) | Payload::FromTarget(bytes) => bytes,
        }
    }

    /// First block that it names.
    pub fn slba(&self) -> u64 {
        self.entry.qword(10)
    }

    /// Blocks that it names, for commands that name blocks.
    pub fn blocks(&self) -> u32 {
        (self.entry.dword(12) & 0xffff) + 1
    }

    fn address(&mut self, slba: u64, blocks: u32) {
        assert!((1..=65_536).contains(&blocks), "NLB has 16 bits");
        self.entry.set_qword(10, slba);
        self.entry.set_dword(12, blocks - 1); // 0's based
    }
}

/// What a workload wants of a queue that has room.
#[derive(Clone, Copy, Debug)]
pub enum Next {
    /// Carry this out.
    Job(Job),
    /// Ask again at this time, or when something ended.
    At(Nanos),
    /// Ask again when something ended, or when the workload was called from outside.
    Idle,
}

/// What a controller answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status; [`Status::TRANSIENT_TRANSPORT_ERROR`] also stands for a data digest that was wrong.
    pub status: Status,
    /// Dwords 0 and 1 of the completion.
    pub result: u64,
}

/// Why a job got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The queue was lost: the command was carried out, was not, or will be soon.
    #[error("the connection was lost")]
    Lost,
    /// The queue was lost before anything was sent.
    #[error("the connection was lost before it was sent")]
    NotSent,
    /// It moves more data than the controller allows.
    #[error("more data than the controller allows")]
    TooLarge,
    /// It never gets a buffer: the arena is too small.
    #[error("no memory for its data")]
    NoMemory,
}

/// How a job ended.
pub type Outcome = Result<Answer, JobError>;

/// What runs on the queues of one core. Pure: told of time, and asked; it never blocks.
pub trait Workload: Sized + 'static {
    /// A target's queues are connected, or connected anew, or its namespaces have changed.
    fn ready(&mut self, now: Nanos, target: usize, facts: &TargetFacts);

    /// The next job for a queue of this core that has room for one. Admin queues are asked too.
    fn next(&mut self, now: Nanos, queue: QueueName) -> Next;

    /// Fills in the data of a job that sends some, before it is sent.
    fn fill(&mut self, job: &Job, data: &mut [u8]);

    /// A job is over. `data` is what a read brought, empty for other jobs and for failed ones. Its latency is
    /// `now - job.started`.
    fn done(&mut self, now: Nanos, queue: QueueName, job: &Job, outcome: Outcome, data: &[u8]);

    /// A queue is lost, whether or not anything was in flight on it; its target is told as ready when it is connected anew.
    fn lost(&mut self, _now: Nanos, _queue: QueueName) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_carry_the_fields_of_their_commands() {
        let job = Job::write(7, 0x1_0000_0002, 8, 512, 3).with_fua();
        assert_eq!(
            (job.entry.nsid(), job.slba(), job.blocks()),
            (7, 0x1_0000_0002, 8)
        );
        assert_eq!(job.entry.dword(12), 7 | 1 << 30);
        assert_eq!((job.bytes(), job.data), (4096, Payload::ToTarget(4096)));
        assert_eq!(Job::write_zeroes(1, 0, 65_536, 0).blocks(), 65_536);
        assert_eq!(Job::flush(1, 0).bytes(), 0);
        assert_eq!(Job::read(1, 0, 1, 4096, 0).meant_for(9).started, 9);
    }

    #[test]
    #[should_panic(expected = "NLB has 16 bits")]
    fn no_job_names_no_block() {
        let _ = Job::read(1, 0, 0, 512, 0);
    }
}
