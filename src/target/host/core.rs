//! One core of a host: its connections, its part of the workload and, on core 0, the associations.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use nvme::tcp::initiator::Payload;
use reactor::{CoreIndex, Errno, Io, Nanos, Progress, Received, SendBatch, Span, TimerId, Token};

use super::associations::{Associations, Order};
use super::job::{Job, JobError, Next, Outcome, QueueName, Workload};
use super::queues::{Happened, Queues, Report, Submission, deadline};
use super::{Event, Target, TargetFacts};

/// How often timeouts are looked at.
const TICK_NS: u64 = 100_000_000;
/// A job that is due in less than this is waited for without sleeping.
const SPIN_NS: u64 = 60_000;

/// What the outside wants done with a workload.
pub type Call<W> = Box<dyn FnOnce(&mut W, Nanos) + Send>;

/// What cores of a host send each other, and the outside sends to them.
pub enum Message<W> {
    /// From control to the core of a queue.
    Order(QueueName, u32, Order),
    /// From the core of a queue to control.
    Report(QueueName, u32, Report),
    /// From control to all: jobs of this target may run.
    Ready(u16, Arc<TargetFacts>),
    /// From outside: do this with the workload.
    Call(Call<W>),
    /// From outside to control: take leave.
    Stop,
}

/// What a token is about, in its highest byte.
const TOKEN_QUEUE: u8 = 1;
const TOKEN_TICK: u64 = 2 << 56;
const TOKEN_WAKE: u64 = 3 << 56;

/// What core 0 has beside its queues: the associations, and whoever hears what becomes of them.
type Control = (Box<Associations>, Sender<Event>);

/// A job that was sent, and its buffer.
#[derive(Clone, Copy, Debug)]
struct Sent {
    job: Job,
    span: Option<Span>,
}

/// One core of a host.
pub struct HostCore<W: Workload> {
    index: CoreIndex,
    control: Option<Control>,
    workload: W,
    queues: Queues<Sent>,
    /// Jobs that wait for a buffer, at most one of each queue.
    held: Vec<(QueueName, Job)>,
    /// Messages that a full mailbox held back, by core, and those of this core to itself.
    overflow: Vec<VecDeque<Message<W>>>,
    /// A queue may have room for a job that the workload may have.
    runnable: bool,
    /// When the workload wants to be asked again.
    wake: Option<(Nanos, Option<TimerId>)>,
}

impl<W: Workload> HostCore<W> {
    /// A core with its part of the workload.
    pub fn new(index: CoreIndex, targets: Arc<[Target]>, control: Option<Control>, workload: W) -> Self {
        Self {
            index,
            control,
            workload,
            queues: Queues::new(targets, TOKEN_QUEUE),
            held: Vec::new(),
            overflow: Vec::new(),
            runnable: false,
            wake: None,
        }
    }

    fn post(&mut self, io: &mut Io<Message<W>>, core: CoreIndex, message: Message<W>) {
        let held = &mut self.overflow[core.index()];
        // To itself a core posts through this list alone: it is worked off in the same turn.
        if core == self.index || !held.is_empty() {
            held.push_back(message);
        } else if let Err(message) = io.post(core, message) {
            held.push_back(message);
        }
    }

    fn deliver_overflow(&mut self, io: &mut Io<Message<W>>) -> bool {
        let mut moved = false;
        for at in 0..self.overflow.len() {
            let core = CoreIndex(u16::try_from(at).expect("there are at most 256 cores"));
            // Ends: what a message of this core adds for itself is bounded by the steps of a bring-up.
            while let Some(message) = self.overflow[at].pop_front() {
                if core == self.index {
                    self.handle(io, message);
                } else if let Err(message) = io.post(core, message) {
                    self.overflow[at].push_front(message);
                    break;
                }
                moved = true;
            }
        }
        moved
    }

    fn handle(&mut self, io: &mut Io<Message<W>>, message: Message<W>) {
        match message {
            Message::Order(name, epoch, order) => {
                self.queues.obey(io, name, epoch, order);
                self.take_happened(io);
            }
            Message::Report(name, epoch, report) => self.with_control(io, |associations, now| {
                associations.report(now, name, epoch, &report);
            }),
            Message::Ready(target, facts) => {
                self.queues.ready(target, &facts);
                self.workload.ready(io.now(), usize::from(target), &facts);
                self.runnable = true;
            }
            Message::Call(act) => {
                act(&mut self.workload, io.now());
                self.runnable = true;
            }
            Message::Stop => self.with_control(io, Associations::stop),
        }
    }

    /// Lets the associations handle something and hands out what they want done.
    fn with_control(&mut self, io: &mut Io<Message<W>>, act: impl FnOnce(&mut Associations, Nanos)) {
        let (mut associations, events) = self
            .control
            .take()
            .expect("only core 0 is sent what concerns associations");
        act(&mut associations, io.now());
        for (core, name, epoch, order) in associations.orders.drain(..) {
            self.post(io, core, Message::Order(name, epoch, order));
        }
        for (target, facts) in associations.ready.drain(..) {
            for core in 0..io.cores() {
                self.post(io, CoreIndex(core), Message::Ready(target, Arc::clone(&facts)));
            }
        }
        for event in associations.events.drain(..) {
            let _ = events.send(event); // The host may have been dropped.
        }
        if associations.has_stopped() {
            io.stop();
        }
        self.control = Some((associations, events));
    }

    /// Works off what has happened on the connections.
    fn take_happened(&mut self, io: &mut Io<Message<W>>) {
        while let Some(happened) = self.queues.next_happened() {
            self.runnable |= !matches!(happened, Happened::Report(..));
            match happened {
                Happened::Report(name, epoch, report) => {
                    self.post(io, CoreIndex(0), Message::Report(name, epoch, report));
                }
                Happened::Done {
                    queue,
                    job: Sent { job, span },
                    outcome,
                    data_bytes,
                } => self.done(io, queue, &job, outcome, span, data_bytes),
                Happened::Released {
                    job: Sent { span, .. },
                } => {
                    if let Some(span) = span {
                        io.arena_mut().free(span);
                    }
                }
                Happened::Closed { queue } => {
                    if let Some(job) = self.take_held(queue) {
                        self.workload
                            .done(io.now(), queue, &job, Err(JobError::NotSent), &[]);
                    }
                    if !self.queues.is_ready(queue) {
                        self.workload.lost(io.now(), queue);
                    }
                }
            }
        }
    }

    fn done(
        &mut self,
        io: &Io<Message<W>>,
        queue: QueueName,
        job: &Job,
        outcome: Outcome,
        span: Option<Span>,
        data_bytes: u32,
    ) {
        let now = io.now();
        let good = outcome.is_ok_and(|answer| answer.status.is_success());
        let data = span.filter(|_| good && data_bytes > 0);
        let workload = &mut self.workload;
        match data {
            Some(span) => io.arena().with_bytes(span.part(0, data_bytes), |data| {
                workload.done(now, queue, job, outcome, data);
            }),
            None => workload.done(now, queue, job, outcome, &[]),
        }
    }

    fn take_held(&mut self, queue: QueueName) -> Option<Job> {
        let place = self.held.iter().position(|(name, _)| *name == queue)?;
        Some(self.held.swap_remove(place).1)
    }

    /// Asks the workload for jobs for every queue that has room.
    fn pump(&mut self, io: &mut Io<Message<W>>) {
        self.runnable = false;
        for place in self.queues.places() {
            // Ends: each turn fills a place of the queue.
            while let Some(name) = self.queues.with_room(place) {
                let now = reactor::now();
                let next = match self.take_held(name) {
                    Some(job) => Next::Job(job),
                    None => self.workload.next(now, name),
                };
                match next {
                    Next::Idle => break,
                    Next::At(at) => {
                        self.wake_at(io, at);
                        break;
                    }
                    Next::Job(mut job) => {
                        if job.started == 0 {
                            job.started = now;
                        }
                        if !self.submit_job(io, place, name, job, now) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Sends a job; false if it has to wait for memory.
    fn submit_job(
        &mut self,
        io: &mut Io<Message<W>>,
        place: usize,
        name: QueueName,
        job: Job,
        now: Nanos,
    ) -> bool {
        let bytes = job.bytes();
        if bytes > self.queues.max_transfer_bytes(place) {
            self.workload.done(now, name, &job, Err(JobError::TooLarge), &[]);
            return true;
        }
        let span = if bytes == 0 {
            None
        } else {
            io.arena_mut().alloc(bytes)
        };
        if bytes > 0 && span.is_none() {
            if !self.queues.has_jobs() {
                // Nothing of ours will end and give memory back.
                self.workload.done(now, name, &job, Err(JobError::NoMemory), &[]);
                return true;
            }
            self.held.push((name, job));
            return false;
        }
        if let (Some(span), Payload::ToTarget(_)) = (span, job.data) {
            let workload = &mut self.workload;
            io.arena_mut()
                .with_bytes_mut(span, |data| workload.fill(&job, data));
        }
        let timeout = self.queues.targets()[usize::from(name.target)].job_timeout;
        let submission = Submission {
            job: Sent { job, span },
            entry: job.entry,
            data: job.data,
            span,
            deadline: deadline(now, timeout),
        };
        self.queues.submit(io, place, submission);
        true
    }

    /// Sees to it that the workload is asked again at `at`, or before.
    fn wake_at(&mut self, io: &mut Io<Message<W>>, at: Nanos) {
        match self.wake {
            Some((earlier, _)) if earlier <= at => {}
            Some((_, timer)) => {
                if let Some(timer) = timer {
                    io.cancel_timer(timer);
                }
                self.wake = Some((at, io.set_timer(at, Token(TOKEN_WAKE))));
            }
            None => self.wake = Some((at, io.set_timer(at, Token(TOKEN_WAKE)))),
        }
    }

    fn tick(&mut self, io: &mut Io<Message<W>>) {
        io.set_timer(io.now() + TICK_NS, Token(TOKEN_TICK));
        self.queues.tick(io);
        self.take_happened(io);
        if self.control.is_some() {
            self.with_control(io, Associations::tick);
        }
    }
}

impl<W: Workload> reactor::Program for HostCore<W> {
    type Message = Message<W>;

    fn started(&mut self, io: &mut Io<Self::Message>) {
        self.overflow = (0..io.cores()).map(|_| VecDeque::new()).collect();
        io.set_timer(io.now() + TICK_NS, Token(TOKEN_TICK));
        if self.control.is_some() {
            self.with_control(io, Associations::start);
        }
    }

    fn message(&mut self, io: &mut Io<Self::Message>, message: Self::Message) {
        self.handle(io, message);
    }

    fn accepted(&mut self, _: &mut Io<Self::Message>, _: Token, _: Result<OwnedFd, Errno>) {
        unreachable!("a host listens nowhere")
    }

    fn received(&mut self, io: &mut Io<Self::Message>, token: Token, event: Received<'_>) {
        io.refresh_now();
        self.queues.received(io, token, event);
        self.take_happened(io);
    }

    fn sent(
        &mut self,
        io: &mut Io<Self::Message>,
        token: Token,
        batch: Box<SendBatch>,
        result: Result<(), Errno>,
    ) {
        self.queues.sent(io, token, batch, result);
        self.take_happened(io);
    }

    fn file_done(&mut self, _: &mut Io<Self::Message>, _: Token, _: Result<u32, Errno>) {
        unreachable!("a host has no files")
    }

    fn connected(&mut self, io: &mut Io<Self::Message>, token: Token, result: Result<OwnedFd, Errno>) {
        self.queues.connected(io, token, result);
        self.take_happened(io);
    }

    fn closed(&mut self, io: &mut Io<Self::Message>, token: Token) {
        self.queues.closed(io, token);
        self.take_happened(io);
    }

    fn timer(&mut self, io: &mut Io<Self::Message>, token: Token) {
        match token.0 {
            TOKEN_TICK => self.tick(io),
            TOKEN_WAKE => {
                self.wake = None;
                self.runnable = true;
            }
            _ => unreachable!("there are two kinds of timers"),
        }
    }

    fn turn(&mut self, io: &mut Io<Self::Message>) -> Progress {
        let mut busy = self.deliver_overflow(io);
        let soon = self.wake.map(|(at, timer)| {
            let now = io.refresh_now();
            if now >= at {
                self.runnable = true;
            }
            // Without a timer (all are in use) the core has to look itself.
            timer.is_none() || now + SPIN_NS >= at
        });
        if self.runnable {
            if let Some((at, timer)) = self.wake
                && at <= io.now()
            {
                if let Some(timer) = timer {
                    io.cancel_timer(timer);
                }
                self.wake = None;
            }
            self.pump(io);
            busy = true;
        }
        self.queues.flush(io);
        let held = self.overflow.iter().any(|held| !held.is_empty());
        Progress::busy_if(busy || held || soon == Some(true))
    }
}
