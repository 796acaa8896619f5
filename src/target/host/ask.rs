//! One command after the other, from a thread that waits for each answer: for what happens before cores run, and for tools.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use nvme::command::SubmissionEntry;
use reactor::{CoreIndex, Nanos};

use super::{Host, Job, JobError, Next, Outcome, Payload, QueueName, TargetFacts, Workload};

/// What is asked of a target, and who waits for the answer.
struct Question {
    target: u16,
    is_admin: bool,
    job: Job,
    data: Vec<u8>,
    reply: SyncSender<(Outcome, Vec<u8>)>,
}

impl Question {
    /// A question, and where its answer comes.
    fn new(
        target: u16,
        is_admin: bool,
        entry: SubmissionEntry,
        data: Vec<u8>,
        read_bytes: u32,
    ) -> (Self, Receiver<(Outcome, Vec<u8>)>) {
        let write_bytes = u32::try_from(data.len()).expect("parts are within what a target takes");
        let mut job = Job::new(entry.opcode(), entry.nsid(), 0);
        job.entry = entry;
        job.data = match (write_bytes, read_bytes) {
            (0, 0) => Payload::None,
            (0, bytes) => Payload::FromTarget(bytes),
            (bytes, _) => Payload::ToTarget(bytes),
        };
        let (reply, answer) = mpsc::sync_channel(1);
        let question = Self {
            target,
            is_admin,
            job,
            data,
            reply,
        };
        (question, answer)
    }
}

/// What was asked and is not answered.
#[derive(Default)]
pub struct Questions {
    waiting: VecDeque<Question>,
    asked: Vec<Question>,
    next_tag: u64,
}

impl Workload for Questions {
    fn ready(&mut self, _: Nanos, _: usize, _: &TargetFacts) {}

    fn next(&mut self, _: Nanos, queue: QueueName) -> Next {
        let fits = |it: &Question| it.target == queue.target && it.is_admin == (queue.qid == 0);
        let Some(place) = self.waiting.iter().position(fits) else {
            return Next::Idle;
        };
        let mut question = self.waiting.remove(place).expect("it was found there");
        self.next_tag += 1;
        question.job.tag = self.next_tag;
        let job = question.job;
        self.asked.push(question);
        Next::Job(job)
    }

    fn fill(&mut self, job: &Job, data: &mut [u8]) {
        let asked = self.asked.iter().find(|question| question.job.tag == job.tag);
        data.copy_from_slice(&asked.expect("it was handed out").data);
    }

    fn done(&mut self, _: Nanos, _: QueueName, job: &Job, outcome: Outcome, data: &[u8]) {
        let place = self.asked.iter().position(|question| question.job.tag == job.tag);
        let question = self.asked.swap_remove(place.expect("it was handed out"));
        let _ = question.reply.send((outcome, data.to_vec())); // Who asked may have given up.
    }
}

impl Host<Questions> {
    /// Asks a target, and waits for the answer and what it brings; a target that does not answer in time is lost.
    ///
    /// Panics if the data is more than a target takes.
    pub fn ask(
        &self,
        target: u16,
        is_admin: bool,
        entry: SubmissionEntry,
        data: Vec<u8>,
        read_bytes: u32,
        wait: Duration,
    ) -> (Outcome, Vec<u8>) {
        let (question, answer) = Question::new(target, is_admin, entry, data, read_bytes);
        let lost = || (Err(JobError::Lost), Vec::new());
        let asked = self.with(CoreIndex(0), |questions, _| questions.waiting.push_back(question));
        if asked.is_err() {
            return lost();
        }
        answer.recv_timeout(wait).unwrap_or_else(|_| lost())
    }
    /// Asks a target for many writes at once, so that they are under way together; their answers, in the same order.
    pub fn ask_writes(
        &self,
        target: u16,
        writes: impl Iterator<Item = (SubmissionEntry, Vec<u8>)>,
    ) -> Vec<Receiver<(Outcome, Vec<u8>)>> {
        let posed = writes.map(|(entry, data)| Question::new(target, false, entry, data, 0));
        let (asked, answers): (Vec<Question>, Vec<_>) = posed.unzip();
        // Of a host that has ended no answer comes.
        let _ = self.with(CoreIndex(0), |questions, _| questions.waiting.extend(asked));
        answers
    }
}
