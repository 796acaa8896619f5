//! The connections that one core has to targets, bound to the reactor, for whoever owns the core.
//!
//! Owns the sockets, the protocol machines and the commands in flight. It is told by the associations on core 0 which queues to open and
//! to close, and by the core's owner what to send; what comes of that is left in a list that the owner takes from. It does not own the
//! memory of jobs: that is lent by the owner, who may be a host with buffers of its own or a node whose engines have theirs.
//!
//! Invariants: each job that was submitted ends in exactly one [`Happened::Done`] and then in exactly one [`Happened::Released`], before
//! which the kernel may have a part of its memory; jobs in flight when a queue is lost end with [`JobError::Lost`] when the ring has done
//! with its socket, so that nothing of this core is sent or received for them any more.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvme::command::{CompletionEntry, SubmissionEntry};
use nvme::host::QueueFault;
use nvme::tcp::initiator::{Event, Outbox, Payload};
use reactor::{Errno, Io, Nanos, Received, SendBatch, Span, Token};

use super::associations::Order;
use super::job::{Answer, JobError, Outcome, QueueName};
use super::queue::{Ended, Life, Queue, corrupt};
use super::{Target, TargetFacts};

pub use super::queue::Submission;

/// How long a connection that ends may take to say why.
const TERMINATE_NS: u64 = 1_000_000_000;
/// Bytes of the data of an association's own commands at most: a page of Identify.
const OWN_BYTES: u32 = 4096;
/// Queues of one core at most: tokens have 24 bits for their places.
const QUEUES_MAX: usize = 1 << 16;

/// What happened to a queue, told to the associations.
#[derive(Debug)]
pub enum Report {
    /// Its connection is set up.
    Up,
    /// Its connection is gone.
    Down(QueueFault),
    /// A command of the association is over.
    Completed(CompletionEntry, Vec<u8>),
}

/// What the core's owner has to know of.
#[derive(Debug)]
pub enum Happened<J> {
    /// For the associations on core 0: a queue, its opening, and what became of it.
    Report(QueueName, u32, Report),
    /// A job is over, and the data that it read is in its memory.
    Done {
        /// The queue that it ran on.
        queue: QueueName,
        /// Which job.
        job: J,
        /// How it ended.
        outcome: Outcome,
        /// Bytes that came; a target may send less than was wanted.
        data_bytes: u32,
    },
    /// The memory of a job that is over is its owner's again, and its place in the queue free.
    Released {
        /// Which job.
        job: J,
    },
    /// A connection is gone, and everything that was in flight on it has ended.
    Closed {
        /// Of which queue.
        queue: QueueName,
    },
}

/// The connections of one core.
pub struct Queues<J> {
    /// The highest byte of their tokens.
    kind: u8,
    targets: Arc<[Target]>,
    /// By place; the place and the queue's epoch stand in its tokens.
    queues: Vec<Option<Box<Queue<J>>>>,
    dirty: Vec<usize>,
    outbox: Outbox,
    happened: VecDeque<Happened<J>>,
    /// Buffers for the associations' own commands.
    spare: Vec<Span>,
    spare_max: usize,
}

impl<J: Copy> Queues<J> {
    /// None yet, to these targets. `kind` is the highest byte of the tokens by which the reactor is asked.
    pub fn new(targets: Arc<[Target]>, kind: u8) -> Self {
        Self {
            kind,
            targets,
            queues: Vec::new(),
            dirty: Vec::new(),
            outbox: Outbox::default(),
            happened: VecDeque::new(),
            spare: Vec::new(),
            spare_max: 0,
        }
    }

    /// Keeps buffers for the associations' own commands, so that they never wait for memory whose owner waits for them.
    pub fn keep_spares<M: Send + 'static>(&mut self, io: &mut Io<M>) {
        // Of an admin queue a step, a log page, that of resets and a shutdown at the same time; of each of the others its Connect.
        self.spare_max = 5 * self.targets.len();
        while self.spare.len() < self.spare_max {
            let Some(span) = io.arena_mut().alloc(OWN_BYTES) else {
                return;
            };
            self.spare.push(span);
        }
    }

    fn take_own<M: Send + 'static>(&mut self, io: &mut Io<M>) -> Option<Span> {
        self.spare.pop().or_else(|| io.arena_mut().alloc(OWN_BYTES))
    }

    fn give_own<M: Send + 'static>(&mut self, io: &mut Io<M>, span: Span) {
        if self.spare.len() < self.spare_max {
            self.spare.push(span);
        } else {
            io.arena_mut().free(span);
        }
    }

    /// The targets.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The next thing that the owner has to know of.
    pub fn next_happened(&mut self) -> Option<Happened<J>> {
        self.happened.pop_front()
    }

    /// Whether jobs may be submitted on a queue.
    pub fn is_ready(&self, name: QueueName) -> bool {
        let mut queues = self.queues.iter().flatten();
        queues.any(|queue| queue.name == name && queue.ready)
    }

    /// Whether the owner has nothing to take.
    pub fn is_quiet(&self) -> bool {
        self.happened.is_empty()
    }

    /// Places of queues, also of such that are not there.
    pub fn places(&self) -> std::ops::Range<usize> {
        0..self.queues.len()
    }

    /// The queue in this place, if it would send a job at once.
    pub fn with_room(&self, place: usize) -> Option<QueueName> {
        let queue = self.queues[place].as_deref()?;
        queue.has_room().then_some(queue.name)
    }

    /// The place of an I/O queue to this target that would send a job at once.
    pub fn place_with_room(&self, target: u16) -> Option<usize> {
        let serves = |name: QueueName| name.target == target && name.qid > 0;
        self.places()
            .find(|place| self.with_room(*place).is_some_and(serves))
    }

    /// The place of the admin queue to this target, if it would send a job at once.
    pub fn admin_with_room(&self, target: u16) -> Option<usize> {
        self.places()
            .find(|place| self.with_room(*place) == Some(QueueName { target, qid: 0 }))
    }

    /// Jobs in flight on all queues.
    pub fn has_jobs(&self) -> bool {
        self.queues.iter().flatten().any(|queue| queue.jobs() > 0)
    }

    /// Whether there is any connection to this target, or half of one.
    pub fn has_queue(&self, target: u16) -> bool {
        let mut queues = self.queues.iter().flatten();
        queues.any(|queue| queue.name.target == target)
    }

    /// Data bytes of a job at most.
    pub fn max_transfer_bytes(&self, place: usize) -> u32 {
        self.queues[place]
            .as_deref()
            .map_or(0, |queue| queue.max_transfer_bytes)
    }

    /// The controller of a target works: jobs may be sent to it.
    pub fn ready(&mut self, target: u16, facts: &TargetFacts) {
        let queues = self.queues.iter_mut().flatten();
        for queue in queues.filter(|queue| queue.name.target == target) {
            if queue.name.qid > 0 {
                queue.machine.set_in_capsule_bytes(facts.in_capsule_bytes);
            }
            queue.max_transfer_bytes = facts.max_transfer_bytes;
            queue.ready = true;
        }
    }

    /// Does what the associations want of a queue.
    pub fn obey<M: Send + 'static>(&mut self, io: &mut Io<M>, name: QueueName, epoch: u32, order: Order) {
        if let Order::Open { .. } = order {
            return self.open(io, name, epoch, &order);
        }
        let is_it = |queue: &Option<Box<Queue<J>>>| queue.as_ref().is_some_and(|queue| queue.epoch == epoch);
        let Some(place) = self.queues.iter().position(is_it) else {
            return;
        };
        match order {
            Order::Open { .. } => unreachable!("returned above"),
            Order::Close => self.close(io, place),
            Order::Submit {
                entry,
                payload,
                read_bytes,
            } => self.submit_own(io, place, entry, &payload, read_bytes),
        }
    }

    fn open<M: Send + 'static>(&mut self, io: &mut Io<M>, name: QueueName, epoch: u32, order: &Order) {
        let &Order::Open { jobs_max, address } = order else {
            unreachable!("the caller has looked");
        };
        let place = self
            .queues
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.queues.len());
        assert!(
            place < QUEUES_MAX,
            "a host has at most 1024 queues to each of few targets"
        );
        let target = &self.targets[usize::from(name.target)];
        let operation = io.connect(address, self.token(place, epoch));
        let life = Life::Connecting {
            operation,
            cancelled: false,
        };
        let reserved = if name.qid == 0 {
            nvme::host::ADMIN_CIDS_RESERVED
        } else {
            1
        };
        let digests = (target.header_digest, target.data_digest);
        let queue = Some(Box::new(Queue::new(
            name, epoch, life, reserved, jobs_max, digests,
        )));
        if place == self.queues.len() {
            self.queues.push(queue);
        } else {
            self.queues[place] = queue;
        }
    }

    fn submit_own<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        place: usize,
        entry: SubmissionEntry,
        payload: &[u8],
        read_bytes: u32,
    ) {
        let queue = self.queues[place].as_deref();
        if queue.is_none_or(|queue| queue.life != Life::Open) {
            return; // It is ending, which the association is about to hear.
        }
        let write_bytes = u32::try_from(payload.len()).expect("admin data is small");
        let data = match (write_bytes, read_bytes) {
            (0, 0) => Payload::None,
            (0, bytes) => Payload::FromTarget(bytes),
            (bytes, _) => Payload::ToTarget(bytes),
        };
        let bytes = write_bytes.max(read_bytes);
        assert!(bytes <= OWN_BYTES);
        let span = if bytes == 0 { None } else { self.take_own(io) };
        if bytes > 0 && span.is_none() {
            return self.lose(io, place, QueueFault::Lost); // All memory is in use: try again later.
        }
        if let Some(span) = span {
            io.arena_mut().copy_in(span, 0, payload);
        }
        let queue = self.queues[place].as_deref_mut();
        let queue = queue.expect("it was there a moment ago");
        queue.submit_own(io.arena(), entry, data, span, &mut self.outbox);
        self.mark_dirty(place);
    }

    /// Sends a job on the queue in this place. Panics unless that has room.
    pub fn submit<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize, submission: Submission<J>) {
        let queue = self.queues[place].as_deref_mut().expect("it has room");
        queue.submit_job(io.arena(), submission, &mut self.outbox);
        self.mark_dirty(place);
    }

    fn mark_dirty(&mut self, place: usize) {
        let Some(queue) = self.queues[place].as_deref_mut() else {
            return;
        };
        if !queue.dirty {
            queue.dirty = true;
            self.dirty.push(place);
        }
    }

    /// Sends what this turn produced: one send a queue.
    pub fn flush<M: Send + 'static>(&mut self, io: &mut Io<M>) {
        while let Some(place) = self.dirty.pop() {
            let Some(queue) = self.queues[place].as_deref_mut() else {
                continue;
            };
            queue.dirty = false;
            let Some(socket) = queue.socket else { continue };
            if queue.can_send() && queue.life != Life::Leaving {
                let batch = queue.take_batch();
                let epoch = queue.epoch;
                io.send(socket, self.token(place, epoch), batch);
            }
        }
    }

    fn report(&mut self, name: QueueName, epoch: u32, report: Report) {
        self.happened.push_back(Happened::Report(name, epoch, report));
    }

    /// The connection failed: tells the association, and lets go of it.
    fn lose<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize, fault: QueueFault) {
        let Some(queue) = self.queues[place].as_deref() else {
            return;
        };
        let (name, epoch) = (queue.name, queue.epoch);
        self.report(name, epoch, Report::Down(fault));
        self.close(io, place);
    }

    /// Lets go of a connection; what was in flight ends when the ring has done with it.
    fn close<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize) {
        let Some(queue) = self.queues[place].as_deref_mut() else {
            return;
        };
        queue.ready = false;
        match &mut queue.life {
            Life::Connecting { operation, cancelled } => {
                *cancelled = true;
                if let Some(operation) = operation.take() {
                    io.cancel(operation);
                }
            }
            Life::Open => self.leave(io, place),
            // What tells the target why is still on its way; `tick` sees to it that this ends.
            Life::Terminating { .. } | Life::Leaving => {}
        }
    }

    /// Takes the socket off the ring.
    fn leave<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize) {
        let Some(queue) = self.queues[place].as_deref_mut() else {
            return;
        };
        queue.life = Life::Leaving;
        queue.ready = false;
        let (socket, epoch) = (queue.socket, queue.epoch);
        match socket {
            Some(socket) => io.remove_socket(socket, self.token(place, epoch)),
            None => self.bury(io, place),
        }
    }

    /// Nothing of the connection is with the kernel any more: ends what was in flight.
    fn bury<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize) {
        let Some(mut queue) = self.queues[place].take() else {
            return;
        };
        let happened = &mut self.happened;
        queue.forget_composed(|job| happened.push_back(Happened::Released { job }));
        let name = queue.name;
        while let Some(ended) = queue.end_any() {
            match ended {
                Ended::Own(span) => {
                    if let Some(span) = span {
                        self.give_own(io, span);
                    }
                }
                Ended::Job { job, released } => {
                    assert!(released, "no send is in flight");
                    let happened = &mut self.happened;
                    happened.push_back(Happened::Done {
                        queue: name,
                        job,
                        outcome: Err(JobError::Lost),
                        data_bytes: 0,
                    });
                    happened.push_back(Happened::Released { job });
                }
            }
        }
        self.happened.push_back(Happened::Closed { queue: name });
    }

    fn find(&mut self, token: Token) -> Option<(usize, &mut Queue<J>)> {
        let (place, epoch) = untoken(token);
        let queue = self.queues.get_mut(place)?.as_deref_mut()?;
        (queue.epoch == epoch).then_some((place, queue))
    }

    /// The kernel has something from a target.
    pub fn received<M: Send + 'static>(&mut self, io: &mut Io<M>, token: Token, event: Received<'_>) {
        let Some((place, queue)) = self.find(token) else {
            return;
        };
        let open = queue.life == Life::Open;
        match event {
            Received::Data(bytes) => {
                if open {
                    self.take_bytes(io, place, bytes);
                }
            }
            Received::End | Received::Error(_) => {
                if open {
                    self.lose(io, place, QueueFault::Lost);
                }
            }
        }
    }

    /// Feeds received bytes to a connection.
    fn take_bytes<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize, bytes: &[u8]) {
        let mut input = bytes;
        let mut outbox = std::mem::take(&mut self.outbox);
        // Ends: each turn takes bytes from `input`, or is one of the events that a header may cause.
        while let Some(queue) = self.queues[place]
            .as_deref_mut()
            .filter(|queue| queue.life == Life::Open)
        {
            match queue.next(io.arena_mut(), &mut input, &mut outbox) {
                None => break,
                Some(Event::Data { .. }) => {}
                Some(Event::Ready) => {
                    let (name, epoch) = (queue.name, queue.epoch);
                    self.report(name, epoch, Report::Up);
                }
                Some(Event::Completion { entry, data_bytes }) => self.completed(io, place, entry, data_bytes),
                Some(Event::Corrupt { cid }) => self.completed(io, place, corrupt(cid), 0),
                Some(Event::Close { reason }) => {
                    tracing::warn!(
                        qid = queue.name.qid,
                        ?reason,
                        "connection ended: the target broke the protocol"
                    );
                    self.terminate(io, place);
                }
            }
        }
        self.outbox = outbox;
        if self.queues[place].as_deref().is_some_and(Queue::can_send) {
            self.mark_dirty(place);
        }
    }

    /// The protocol is at its end: lets the target know why, then closes.
    fn terminate<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize) {
        let Some(queue) = self.queues[place].as_deref_mut() else {
            return;
        };
        let (name, epoch) = (queue.name, queue.epoch);
        queue.ready = false;
        if queue.is_sending() {
            queue.life = Life::Terminating {
                until: io.now() + TERMINATE_NS,
            };
            self.mark_dirty(place);
        } else {
            self.leave(io, place);
        }
        self.report(name, epoch, Report::Down(QueueFault::Lost));
    }

    fn completed<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        place: usize,
        entry: CompletionEntry,
        data_bytes: u32,
    ) {
        let Some(queue) = self.queues[place].as_deref_mut() else {
            return;
        };
        let (name, epoch) = (queue.name, queue.epoch);
        match queue.end(entry.cid) {
            Ended::Own(span) => {
                let mut data = Vec::new();
                if let Some(span) = span {
                    if data_bytes > 0 {
                        data = io.arena().with_bytes(span.part(0, data_bytes), <[u8]>::to_vec);
                    }
                    self.give_own(io, span);
                }
                self.report(name, epoch, Report::Completed(entry, data));
            }
            Ended::Job { job, released } => {
                let outcome = Ok(Answer {
                    status: entry.status,
                    result: entry.result,
                });
                self.happened.push_back(Happened::Done {
                    queue: name,
                    job,
                    outcome,
                    data_bytes,
                });
                if released {
                    self.happened.push_back(Happened::Released { job });
                }
            }
        }
    }

    /// A batch has left, or failed.
    pub fn sent<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        token: Token,
        batch: Box<SendBatch>,
        result: Result<(), Errno>,
    ) {
        let (place, epoch) = untoken(token);
        let queue = self.queues[place].as_deref_mut();
        let queue = queue
            .filter(|queue| queue.epoch == epoch)
            .expect("a queue stays until its sends are done");
        let happened = &mut self.happened;
        queue.sent(batch, |job| happened.push_back(Happened::Released { job }));
        let (life, more) = (queue.life, queue.can_send());
        match (life, result) {
            (Life::Open, Ok(())) if more => self.mark_dirty(place),
            (Life::Open, Err(_)) => self.lose(io, place, QueueFault::Lost),
            (Life::Terminating { .. }, Ok(())) if more => self.mark_dirty(place),
            (Life::Terminating { .. }, _) => self.leave(io, place),
            (Life::Open | Life::Connecting { .. } | Life::Leaving, _) => {}
        }
    }

    /// A connection stands, or failed.
    pub fn connected<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        token: Token,
        result: Result<OwnedFd, Errno>,
    ) {
        let (place, queue) = self.find(token).expect("a queue stays until its connect is done");
        let Life::Connecting { cancelled, .. } = queue.life else {
            unreachable!("it connects once")
        };
        if cancelled {
            return self.leave(io, place);
        }
        let socket = result.and_then(|socket| io.add_socket(socket).map_err(|_| Errno::TOO_MANY));
        match socket {
            Ok(socket) => {
                queue.socket = Some(socket);
                queue.life = Life::Open;
                io.receive(socket, token);
                if let Some(queue) = self.queues[place].as_deref_mut() {
                    queue.start(io.arena(), &mut self.outbox);
                }
                self.mark_dirty(place);
            }
            Err(error) => {
                tracing::debug!(qid = queue.name.qid, %error, "cannot connect");
                queue.life = Life::Open; // There is no socket: it ends at once.
                self.lose(io, place, QueueFault::Unreachable);
            }
        }
    }

    /// A socket is off the ring.
    pub fn closed<M: Send + 'static>(&mut self, io: &mut Io<M>, token: Token) {
        if let Some((place, _)) = self.find(token) {
            self.bury(io, place);
        }
    }

    /// Looks at deadlines, ten times a second.
    pub fn tick<M: Send + 'static>(&mut self, io: &mut Io<M>) {
        for place in self.places() {
            let Some(queue) = self.queues[place].as_deref() else {
                continue;
            };
            let expired = queue.life == Life::Open && queue.has_expired(io.now());
            let overdue = matches!(queue.life, Life::Terminating { until } if io.now() >= until);
            if expired {
                self.lose(io, place, QueueFault::TimedOut);
            } else if overdue {
                self.leave(io, place);
            }
        }
    }

    /// Names a queue towards the reactor. A place is used again, so its epoch stands beside it.
    fn token(&self, place: usize, epoch: u32) -> Token {
        let place = u64::try_from(place).expect("checked when the queue was opened");
        Token(u64::from(self.kind) << 56 | place << 32 | u64::from(epoch))
    }
}

/// When a job that begins now and may take so long has to be over.
pub fn deadline(now: Nanos, job_timeout: std::time::Duration) -> Nanos {
    now.saturating_add(u64::try_from(job_timeout.as_nanos()).unwrap_or(Nanos::MAX))
}

fn untoken(token: Token) -> (usize, u32) {
    let [a, b, c, d, e, f, g, _] = token.0.to_le_bytes();
    let place = u32::from_le_bytes([e, f, g, 0]);
    (place as usize, u32::from_le_bytes([a, b, c, d]))
}
