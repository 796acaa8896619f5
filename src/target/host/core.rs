//! One core of a host: its queues, its part of the workload and, on core 0, the associations.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvme::command::CompletionEntry;
use nvme::host::{Event as AssociationEvent, QueueFault};
use nvme::tcp::initiator::{Event, Outbox, Payload};
use reactor::{CoreIndex, Errno, Io, Nanos, Progress, Received, SendBatch, TimerId, Token};

use super::control::{Control, Order};
use super::job::{Answer, Job, JobError, Next, Outcome, QueueName, Workload};
use super::queue::{Ended, Life, Owner, Queue, corrupt};
use super::{Target, TargetFacts};

/// How often timeouts are looked at.
const TICK_NS: u64 = 100_000_000;
/// How long a connection that ends may take to say why.
const TERMINATE_NS: u64 = 1_000_000_000;
/// A job that is due in less than this is waited for without sleeping.
const SPIN_NS: u64 = 60_000;
/// Queues of one core at most: tokens have 24 bits for their places.
const QUEUES_MAX: usize = 1 << 16;

/// What happened to a queue, told to the control core.
pub enum Report {
    /// Its connection is set up.
    Up,
    /// Its connection is gone.
    Down(QueueFault),
    /// A command of the association is over.
    Completed(CompletionEntry, Vec<u8>),
}

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
const TOKEN_QUEUE: u64 = 1 << 56;
const TOKEN_TICK: u64 = 2 << 56;
const TOKEN_WAKE: u64 = 3 << 56;

/// One core of a host.
pub struct HostCore<W: Workload> {
    index: CoreIndex,
    targets: Arc<[Target]>,
    control: Option<Box<Control>>,
    workload: W,
    /// By place; the place and `epoch` stand in the queue's tokens.
    queues: Vec<Option<Box<Queue>>>,
    dirty: Vec<usize>,
    /// Messages that a full mailbox held back, by core, and those of this core to itself.
    overflow: Vec<VecDeque<Message<W>>>,
    outbox: Outbox,
    /// A queue may have room for a job that the workload may have.
    runnable: bool,
    /// When the workload wants to be asked again.
    wake: Option<(Nanos, Option<TimerId>)>,
}

impl<W: Workload> HostCore<W> {
    /// A core with its part of the workload.
    pub fn new(index: CoreIndex, targets: Arc<[Target]>, control: Option<Box<Control>>, workload: W) -> Self {
        Self {
            index,
            targets,
            control,
            workload,
            queues: Vec::new(),
            dirty: Vec::new(),
            overflow: Vec::new(),
            outbox: Outbox::default(),
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
            Message::Order(name, epoch, order) => self.obey(io, name, epoch, order),
            Message::Report(name, epoch, report) => self.with_control(io, |control, now| match report {
                Report::Up => {
                    control.queue_event(now, name, epoch, AssociationEvent::QueueUp { qid: name.qid });
                }
                Report::Down(fault) => {
                    let event = AssociationEvent::QueueDown { qid: name.qid, fault };
                    control.queue_event(now, name, epoch, event);
                }
                Report::Completed(entry, data) => {
                    let event = AssociationEvent::Completion {
                        qid: name.qid,
                        entry,
                        data: &data,
                    };
                    control.queue_event(now, name, epoch, event);
                }
            }),
            Message::Ready(target, facts) => {
                for queue in self
                    .queues
                    .iter_mut()
                    .flatten()
                    .filter(|queue| queue.name.target == target)
                {
                    if queue.name.qid > 0 {
                        queue.machine.set_in_capsule_bytes(facts.in_capsule_bytes);
                    }
                    queue.max_transfer_bytes = facts.max_transfer_bytes;
                    queue.ready = true;
                }
                self.workload.ready(io.now(), usize::from(target), &facts);
                self.runnable = true;
            }
            Message::Call(act) => {
                act(&mut self.workload, io.now());
                self.runnable = true;
            }
            Message::Stop => self.with_control(io, Control::stop),
        }
    }

    /// Lets the associations handle something and hands out what they want done.
    fn with_control(&mut self, io: &mut Io<Message<W>>, act: impl FnOnce(&mut Control, Nanos)) {
        let mut control = self
            .control
            .take()
            .expect("only core 0 is sent what concerns associations");
        act(&mut control, io.now());
        for (core, name, epoch, order) in control.orders.drain(..) {
            self.post(io, core, Message::Order(name, epoch, order));
        }
        for (target, facts) in control.ready.drain(..) {
            for core in 0..io.cores() {
                self.post(io, CoreIndex(core), Message::Ready(target, Arc::clone(&facts)));
            }
        }
        if control.has_stopped() {
            io.stop();
        }
        self.control = Some(control);
    }

    fn obey(&mut self, io: &mut Io<Message<W>>, name: QueueName, epoch: u32, order: Order) {
        if let Order::Open { jobs_max } = order {
            return self.open(io, name, epoch, jobs_max);
        }
        let is_it = |queue: &Option<Box<Queue>>| queue.as_ref().is_some_and(|queue| queue.epoch == epoch);
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

    fn open(&mut self, io: &mut Io<Message<W>>, name: QueueName, epoch: u32, jobs_max: u16) {
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
        let operation = io.connect(target.address, queue_token(place, epoch));
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

    fn submit_own(
        &mut self,
        io: &mut Io<Message<W>>,
        place: usize,
        entry: nvme::command::SubmissionEntry,
        payload: &[u8],
        read_bytes: u32,
    ) {
        let Some(queue) = self.queues[place].as_deref_mut() else {
            return;
        };
        if queue.life != Life::Open {
            return; // It is ending, which the association is about to hear.
        }
        let write_bytes = u32::try_from(payload.len()).expect("admin data is small");
        let data = match (write_bytes, read_bytes) {
            (0, 0) => Payload::None,
            (0, bytes) => Payload::FromTarget(bytes),
            (bytes, _) => Payload::ToTarget(bytes),
        };
        let bytes = write_bytes.max(read_bytes);
        let span = if bytes == 0 {
            None
        } else {
            io.arena_mut().alloc(bytes)
        };
        if bytes > 0 && span.is_none() {
            return self.lose(io, place, QueueFault::Lost); // All memory is in use: try again later.
        }
        if let Some(span) = span {
            io.arena_mut().copy_in(span, 0, payload);
        }
        queue.submit_own(io.arena(), entry, data, span, &mut self.outbox);
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
    fn flush(&mut self, io: &mut Io<Message<W>>) {
        while let Some(place) = self.dirty.pop() {
            let Some(queue) = self.queues[place].as_deref_mut() else {
                continue;
            };
            queue.dirty = false;
            let Some(socket) = queue.socket else { continue };
            if queue.can_send() && queue.life != Life::Leaving {
                let batch = queue.take_batch();
                io.send(socket, queue_token(place, queue.epoch), batch);
            }
        }
    }

    /// The connection failed: tells control, and lets go of it.
    fn lose(&mut self, io: &mut Io<Message<W>>, place: usize, fault: QueueFault) {
        let Some(queue) = self.queues[place].as_deref() else {
            return;
        };
        let (name, epoch) = (queue.name, queue.epoch);
        self.post(
            io,
            CoreIndex(0),
            Message::Report(name, epoch, Report::Down(fault)),
        );
        self.close(io, place);
    }

    /// Lets go of a connection; what was in flight ends when the ring has done with it.
    fn close(&mut self, io: &mut Io<Message<W>>, place: usize) {
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
    fn leave(&mut self, io: &mut Io<Message<W>>, place: usize) {
        let Some(queue) = self.queues[place].as_deref_mut() else {
            return;
        };
        queue.life = Life::Leaving;
        queue.ready = false;
        match queue.socket {
            Some(socket) => io.remove_socket(socket, queue_token(place, queue.epoch)),
            None => self.bury(io, place),
        }
    }

    /// Nothing of the connection is with the kernel any more: ends what was in flight.
    fn bury(&mut self, io: &mut Io<Message<W>>, place: usize) {
        let Some(mut queue) = self.queues[place].take() else {
            return;
        };
        queue.forget_composed(io.arena_mut());
        while let Some(Ended { owner, cid, .. }) = queue.end_any() {
            if let Owner::Workload(job) = owner {
                self.workload
                    .done(io.now(), queue.name, &job, Err(JobError::Lost), &[]);
            }
            let freed = queue.release(io.arena_mut(), cid);
            assert!(freed, "no send is in flight");
        }
        if let Some(job) = queue.held.take() {
            self.workload
                .done(io.now(), queue.name, &job, Err(JobError::NotSent), &[]);
        }
        self.runnable = true;
    }

    fn queue_mut(&mut self, token: Token) -> Option<(usize, &mut Queue)> {
        let (place, epoch) = untoken(token);
        let queue = self.queues.get_mut(place)?.as_deref_mut()?;
        (queue.epoch == epoch).then_some((place, queue))
    }

    /// Feeds received bytes to a connection.
    fn receive(&mut self, io: &mut Io<Message<W>>, place: usize, bytes: &[u8]) {
        let now = io.refresh_now();
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
                    self.post(io, CoreIndex(0), Message::Report(name, epoch, Report::Up));
                }
                Some(Event::Completion { entry, data_bytes }) => {
                    self.completed(io, place, now, entry, data_bytes)
                }
                Some(Event::Corrupt { cid }) => self.completed(io, place, now, corrupt(cid), 0),
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
    fn terminate(&mut self, io: &mut Io<Message<W>>, place: usize) {
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
        self.post(
            io,
            CoreIndex(0),
            Message::Report(name, epoch, Report::Down(QueueFault::Lost)),
        );
    }

    fn completed(
        &mut self,
        io: &mut Io<Message<W>>,
        place: usize,
        now: Nanos,
        entry: CompletionEntry,
        data_bytes: u32,
    ) {
        let Some(queue) = self.queues[place].as_deref_mut() else {
            return;
        };
        let Ended { owner, cid, span } = queue.end(entry.cid);
        let data = span
            .filter(|_| data_bytes > 0)
            .map(|span| span.part(0, data_bytes));
        let (name, epoch) = (queue.name, queue.epoch);
        match owner {
            Owner::Association => {
                let data = data.map_or_else(Vec::new, |data| io.arena().with_bytes(data, <[u8]>::to_vec));
                self.post(
                    io,
                    CoreIndex(0),
                    Message::Report(name, epoch, Report::Completed(entry, data)),
                );
            }
            Owner::Workload(job) => {
                let outcome: Outcome = Ok(Answer {
                    status: entry.status,
                    result: entry.result,
                });
                let workload = &mut self.workload;
                match data {
                    Some(data) if entry.status.is_success() => {
                        io.arena()
                            .with_bytes(data, |data| workload.done(now, name, &job, outcome, data));
                    }
                    Some(_) | None => workload.done(now, name, &job, outcome, &[]),
                }
                self.runnable = true;
            }
            Owner::Nobody | Owner::Lingering => unreachable!("end() returns who asked"),
        }
        if let Some(queue) = self.queues[place].as_deref_mut() {
            queue.release(io.arena_mut(), cid);
        }
    }

    /// Asks the workload for jobs for every queue that has room.
    fn pump(&mut self, io: &mut Io<Message<W>>) {
        self.runnable = false;
        for place in 0..self.queues.len() {
            // Ends: each turn fills a place of the queue.
            while let Some(queue) = self.queues[place].as_deref_mut().filter(|queue| queue.has_room()) {
                let now = reactor::now();
                let name = queue.name;
                let next = match queue.held.take() {
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
                        if !self.submit_job(io, place, job, now) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Sends a job; false if it has to wait for memory.
    fn submit_job(&mut self, io: &mut Io<Message<W>>, place: usize, job: Job, now: Nanos) -> bool {
        let alone = self.queues.iter().flatten().all(|queue| queue.jobs() == 0);
        let Some(queue) = self.queues[place].as_deref_mut() else {
            return false;
        };
        let target = &self.targets[usize::from(queue.name.target)];
        let bytes = job.bytes();
        if bytes > queue.max_transfer_bytes {
            self.workload
                .done(now, queue.name, &job, Err(JobError::TooLarge), &[]);
            return true;
        }
        let span = if bytes == 0 {
            None
        } else {
            io.arena_mut().alloc(bytes)
        };
        if bytes > 0 && span.is_none() {
            if alone {
                // Nothing of ours will end and give memory back.
                self.workload
                    .done(now, queue.name, &job, Err(JobError::NoMemory), &[]);
                return true;
            }
            queue.held = Some(job);
            return false;
        }
        if let (Some(span), Payload::ToTarget(_)) = (span, job.data) {
            let workload = &mut self.workload;
            io.arena_mut()
                .with_bytes_mut(span, |data| workload.fill(&job, data));
        }
        let deadline = now + u64::try_from(target.job_timeout.as_nanos()).unwrap_or(u64::MAX / 2);
        queue.submit_job(io.arena(), job, span, deadline, &mut self.outbox);
        self.mark_dirty(place);
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
        for place in 0..self.queues.len() {
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
        if self.control.is_some() {
            self.with_control(io, Control::tick);
        }
    }
}

impl<W: Workload> reactor::Program for HostCore<W> {
    type Message = Message<W>;

    fn started(&mut self, io: &mut Io<Self::Message>) {
        self.overflow = (0..io.cores()).map(|_| VecDeque::new()).collect();
        io.set_timer(io.now() + TICK_NS, Token(TOKEN_TICK));
        if self.control.is_some() {
            self.with_control(io, Control::start);
        }
    }

    fn message(&mut self, io: &mut Io<Self::Message>, message: Self::Message) {
        self.handle(io, message);
    }

    fn accepted(&mut self, _: &mut Io<Self::Message>, _: Token, _: Result<OwnedFd, Errno>) {
        unreachable!("a host listens nowhere")
    }

    fn received(&mut self, io: &mut Io<Self::Message>, token: Token, event: Received<'_>) {
        let Some((place, queue)) = self.queue_mut(token) else {
            return;
        };
        let open = queue.life == Life::Open;
        match event {
            Received::Data(bytes) => {
                if open {
                    self.receive(io, place, bytes);
                }
            }
            Received::End | Received::Error(_) => {
                if open {
                    self.lose(io, place, QueueFault::Lost);
                }
            }
        }
    }

    fn sent(
        &mut self,
        io: &mut Io<Self::Message>,
        token: Token,
        batch: Box<SendBatch>,
        result: Result<(), Errno>,
    ) {
        let (place, queue) = self
            .queue_mut(token)
            .expect("a queue stays until its sends are done");
        let freed = queue.sent(io.arena_mut(), batch);
        let (life, more) = (queue.life, queue.can_send());
        self.runnable |= freed;
        match (life, result) {
            (Life::Open, Ok(())) if more => self.mark_dirty(place),
            (Life::Open, Err(_)) => self.lose(io, place, QueueFault::Lost),
            (Life::Terminating { .. }, Ok(())) if more => self.mark_dirty(place),
            (Life::Terminating { .. }, _) => self.leave(io, place),
            (Life::Open | Life::Connecting { .. } | Life::Leaving, _) => {}
        }
    }

    fn file_done(&mut self, _: &mut Io<Self::Message>, _: Token, _: Result<u32, Errno>) {
        unreachable!("a host has no files")
    }

    fn connected(&mut self, io: &mut Io<Self::Message>, token: Token, result: Result<OwnedFd, Errno>) {
        let (place, queue) = self
            .queue_mut(token)
            .expect("a queue stays until its connect is done");
        let Life::Connecting { cancelled, .. } = queue.life else {
            unreachable!("it connects once")
        };
        if cancelled {
            return self.leave(io, place);
        }
        let socket = result.and_then(|socket| io.add_socket(socket).map_err(|_| Errno::TOO_MANY));
        match socket {
            Ok(socket) => {
                let epoch = queue.epoch;
                queue.socket = Some(socket);
                queue.life = Life::Open;
                io.receive(socket, queue_token(place, epoch));
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

    fn closed(&mut self, io: &mut Io<Self::Message>, token: Token) {
        if let Some((place, _)) = self.queue_mut(token) {
            self.bury(io, place);
        }
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
        self.flush(io);
        let held = self.overflow.iter().any(|held| !held.is_empty());
        Progress::busy_if(busy || held || soon == Some(true))
    }
}

/// Names a queue towards the reactor. A place is used again, so its epoch stands beside it.
fn queue_token(place: usize, epoch: u32) -> Token {
    let place = u64::try_from(place).expect("checked when the queue was opened");
    Token(TOKEN_QUEUE | place << 32 | u64::from(epoch))
}

fn untoken(token: Token) -> (usize, u32) {
    let [a, b, c, d, e, f, g, _] = token.0.to_le_bytes();
    let place = u32::from_le_bytes([e, f, g, 0]);
    (place as usize, u32::from_le_bytes([a, b, c, d]))
}
