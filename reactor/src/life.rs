//! The life of a core: setting up, turns, sleeping, stopping.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use io_uring::cqueue;

use crate::arena::Arena;
use crate::buffers::Buffers;
use crate::clock::{self, Nanos};
use crate::counters::{Counters, STALL_NS};
use crate::io::Io;
use crate::mailbox::{Receiver, Sender};
use crate::operation::{Event, Operation};
use crate::options::{Facts, Options, PollMode, StartError};
use crate::program::{CoreIndex, Program, Progress, Received};
use crate::ring::{Completion, Ring};
use crate::run::Shared;
use crate::slab::Slab;
use crate::timer::Wheel;

/// Completions that one turn takes: at about 0.5 microseconds each, a turn stays under a tenth of a millisecond.
const TURN_COMPLETIONS_MAX: usize = 256;
/// Messages that one turn takes from each sender.
const TURN_MESSAGES_MAX: usize = 64;
/// Timers that one turn fires.
const TURN_TIMERS_MAX: usize = 256;
/// A core looks around at least this often, whatever it waits for: should a wake-up ever get lost, it costs this much.
const SLEEP_MAX: Duration = Duration::from_millis(500);
/// A busy core publishes its counters this often, and every core before it sleeps.
const PUBLISH_NS: Nanos = 100_000_000;
/// How long stopping waits for what is in flight. Disk I/O cannot be called back, so this is the patience with a drive.
const DRAIN_NS_MAX: Nanos = 30_000_000_000;

/// The two ends of the mailboxes of one core, by the other core's index.
pub(crate) struct Mailboxes<M> {
    pub(crate) senders: Vec<Sender<M>>,
    pub(crate) receivers: Vec<Receiver<M>>,
}

/// A core that is set up.
pub(crate) struct Life<P: Program> {
    // The ring inside is gone before the buffers and the program.
    io: Io<P::Message>,
    buffers: Buffers,
    program: P,
    receivers: Vec<Receiver<P::Message>>,
    completions: Vec<Completion>,
    poll: PollMode,
    /// When the core last had something to do.
    busy_at: Nanos,
    published_at: Nanos,
}

/// How a core ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing is in flight.
    Drained,
    /// Only operations on files that the program had given up are left: their memory must stay.
    Forsaken,
    /// This many operations never completed: their memory must stay.
    Stuck(u32),
}

impl<P: Program> Life<P> {
    /// Sets a core up on its own thread.
    pub(crate) fn new(
        core: CoreIndex,
        options: &Options,
        shared: Arc<Shared<P::Message>>,
        mailboxes: Mailboxes<P::Message>,
        factory: impl FnOnce(CoreIndex) -> P,
    ) -> Result<(Self, Facts), StartError> {
        let failed = |what| move |source| StartError::Core { core, what, source };
        let (ring, found) = Ring::new(options).map_err(failed("setting up its io_uring"))?;
        let mut facts = Facts {
            defer_taskrun: found.defer_taskrun,
            sqpoll: found.sqpoll,
            notes: found.notes,
            ..Facts::default()
        };
        if let Some(operation) = ring
            .missing_operation()
            .map_err(failed("asking its io_uring for what it can do"))?
        {
            return Err(StartError::KernelTooOld { core, operation });
        }
        let (arena, pages) = Arena::map(options.arena_bytes, !options.without.huge_pages)
            .map_err(failed("mapping its memory"))?;
        crate::probe::note_pages(pages, options, &arena, &mut facts);
        crate::probe::register_arena(&ring, options, &arena, &mut facts);
        crate::probe::register_files(&ring, options, &mut facts);
        let mut buffers = Buffers::register(&ring, options.receive_buffers, options.receive_buffer_bytes)
            .map_err(failed("registering its receive buffers (Linux 5.19 or later)"))?;
        let now = clock::now();
        let mut io = Io {
            ring,
            arena,
            descriptors: Slab::new(options.files_max),
            operations: Slab::new(options.operations_max),
            deferred: VecDeque::new(),
            rearm: VecDeque::new(),
            wheel: Wheel::new(now, options.timers_max),
            senders: mailboxes.senders,
            to_ring: Vec::with_capacity(usize::from(options.cores)),
            shared,
            core,
            now,
            counters: Counters::default(),
            registered_buffers: facts.registered_buffers,
            registered_files: facts.registered_files,
            multishot_receive: false,
            draining: false,
        };
        crate::probe::multishot_receive(&mut io.ring, &mut buffers, options, &mut facts)
            .map_err(failed("trying a receive"))?;
        io.multishot_receive = facts.multishot_receive;
        let life = Self {
            io,
            buffers,
            program: factory(core),
            receivers: mailboxes.receivers,
            completions: Vec::with_capacity(TURN_COMPLETIONS_MAX),
            poll: options.poll,
            busy_at: now,
            published_at: now,
        };
        Ok((life, facts))
    }

    /// Runs until the reactor is stopped and nothing is in flight any more.
    pub(crate) fn live(&mut self) -> Ended {
        self.io.refresh_now(); // Other cores may have taken long to be set up: that was no turn.
        self.io.arm_doorbell();
        self.program.started(&mut self.io);
        self.io.ring_bells();
        self.io.ring.enter();
        while !self.io.must_stop() {
            let progress = self.turn();
            self.rest(progress);
        }
        self.drain()
    }

    /// One turn: what happened is handed over, what the program asks for is collected and submitted together.
    fn turn(&mut self) -> Progress {
        self.read_clock();
        self.program.turn_begins(&mut self.io);
        let mut work = self.hand_over_completions();
        work += self.hand_over_deferred();
        work += self.hand_over_messages();
        work += self.fire_timers();
        let wants_more = self.program.turn(&mut self.io);
        self.io.ring_bells();
        self.io.ring.enter();
        self.io.counters.turns += 1;
        if self.io.now - self.published_at >= PUBLISH_NS {
            self.published_at = self.io.now;
            self.io.publish_counters();
        }
        let busy = work > 0 || wants_more == Progress::Busy || !self.io.deferred.is_empty();
        self.io.counters.busy_turns += u64::from(busy);
        Progress::busy_if(busy)
    }

    fn read_clock(&mut self) {
        let before = self.io.now;
        let turn_ns = self.io.refresh_now() - before;
        self.io.counters.turn_ns_max = self.io.counters.turn_ns_max.max(turn_ns);
        self.io.counters.stalls += u64::from(turn_ns > STALL_NS);
    }

    fn hand_over_completions(&mut self) -> usize {
        let mut completions = std::mem::take(&mut self.completions);
        let count = self.io.ring.drain(&mut completions, TURN_COMPLETIONS_MAX);
        self.io.counters.completions += count as u64;
        for completion in completions.drain(..) {
            if let Some(event) = self.io.complete(completion) {
                self.tell(event);
            }
            if let Some(buffer) = cqueue::buffer_select(completion.flags) {
                self.buffers.recycle(buffer);
            }
        }
        self.completions = completions;
        // Only now: the buffers that a starved receive lacked are back.
        for _ in 0..self.io.rearm.len() {
            if let Some(socket) = self.io.rearm.pop_front() {
                self.io.arm_receive(socket);
            }
        }
        count
    }

    /// Hands over what was refused in earlier callbacks; what these refuse in turn waits for the next turn.
    fn hand_over_deferred(&mut self) -> usize {
        let count = self.io.deferred.len().min(TURN_COMPLETIONS_MAX);
        for _ in 0..count {
            let event = self.io.deferred.pop_front().expect("there were as many");
            self.tell(event);
        }
        count
    }

    fn hand_over_messages(&mut self) -> usize {
        let mut count = 0;
        for sender in 0..self.receivers.len() {
            for _ in 0..TURN_MESSAGES_MAX {
                let Some(message) = self.receivers[sender].pop() else {
                    break;
                };
                self.program.message(&mut self.io, message);
                count += 1;
            }
        }
        for _ in 0..TURN_MESSAGES_MAX {
            let Some(message) = self.io.shared.inbox(self.io.core).pop() else {
                break;
            };
            self.program.message(&mut self.io, message);
            count += 1;
        }
        self.io.counters.messages_received += count as u64;
        count
    }

    fn fire_timers(&mut self) -> usize {
        let now = self.io.now;
        for count in 0..TURN_TIMERS_MAX {
            let Some(token) = self.io.wheel.pop(now) else {
                return count;
            };
            self.io.counters.timers += 1;
            self.program.timer(&mut self.io, token);
        }
        TURN_TIMERS_MAX
    }

    fn tell(&mut self, event: Event) {
        let io = &mut self.io;
        match event {
            Event::Accepted { token, result } => self.program.accepted(io, token, result),
            Event::Connected { token, result } => self.program.connected(io, token, result),
            Event::Data { token, buffer, bytes } => {
                self.program
                    .received(io, token, Received::Data(self.buffers.filled(buffer, bytes)));
            }
            Event::ReceiveEnded { token, errno: None } => self.program.received(io, token, Received::End),
            Event::ReceiveEnded {
                token,
                errno: Some(errno),
            } => {
                self.program.received(io, token, Received::Error(errno));
            }
            Event::Sent { token, batch, result } => self.program.sent(io, token, batch, result),
            Event::FileDone { token, result } => self.program.file_done(io, token, result),
            Event::Closed { token } => self.program.closed(io, token),
        }
    }

    /// Sleeps after an idle turn if the poll mode says so and nothing came in meanwhile.
    fn rest(&mut self, progress: Progress) {
        if progress == Progress::Busy {
            self.busy_at = self.io.now;
            return;
        }
        let spin = match self.poll {
            PollMode::Busy => return std::hint::spin_loop(),
            PollMode::Adaptive { spin } => u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX),
            PollMode::Interrupt => 0,
        };
        if self.io.now - self.busy_at < spin {
            return std::hint::spin_loop();
        }
        let Some(timeout) = self.sleep_time() else { return };
        self.io.publish_counters();
        let bell = self.io.shared.doorbell(self.io.core);
        bell.announce();
        if self.has_mail() || self.io.must_stop() {
            self.io.shared.doorbell(self.io.core).withdraw();
            return;
        }
        self.sleep(timeout);
    }

    /// How long until the next timer; `None` if it is due.
    fn sleep_time(&self) -> Option<Duration> {
        let Some(deadline) = self.io.wheel.next_deadline() else {
            return Some(SLEEP_MAX);
        };
        let left = deadline.checked_sub(self.io.now).filter(|&left| left > 0)?;
        Some(Duration::from_nanos(left).min(SLEEP_MAX))
    }

    fn has_mail(&mut self) -> bool {
        !self.io.shared.inbox(self.io.core).is_empty()
            || self.receivers.iter_mut().any(|mailbox| !mailbox.is_empty())
    }

    fn sleep(&mut self, timeout: Duration) {
        let slept_at = clock::now();
        self.io.ring.wait(timeout);
        self.io.shared.doorbell(self.io.core).withdraw();
        self.io.refresh_now();
        self.io.counters.sleeps += 1;
        self.io.counters.sleep_ns += self.io.now.saturating_sub(slept_at);
    }

    /// Ends everything that is in flight; the program is told of each end.
    fn drain(&mut self) -> Ended {
        self.program.stopping(&mut self.io);
        self.io.draining = true;
        let keys: Vec<_> = self.io.operations.keys().collect();
        for key in keys {
            match self.io.operations.get(key) {
                // File I/O ends in earnest: a write that was begun is not left half done.
                None | Some(Operation::File(_)) => {}
                Some(
                    Operation::Accept { .. }
                    | Operation::Connect { .. }
                    | Operation::Receive { .. }
                    | Operation::Send { .. }
                    | Operation::Doorbell { .. },
                ) => self.io.cancel_operation(key),
            }
        }
        let give_up_at = clock::now() + DRAIN_NS_MAX;
        // A file that the program gave up is not waited for, beyond one look at what has ended.
        while self.io.operations.len() > self.io.forsaken_operations() && self.io.refresh_now() < give_up_at {
            self.io.ring.enter();
            self.io.ring.wait(Duration::from_millis(10));
            self.hand_over_completions();
            self.hand_over_deferred();
        }
        self.hand_over_deferred();
        self.io.publish_counters();
        match self.io.operations.len() {
            0 => Ended::Drained,
            left if left == self.io.forsaken_operations() => Ended::Forsaken,
            left => Ended::Stuck(left),
        }
    }
}
