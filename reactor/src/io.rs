//! What a program may ask of its core.

mod complete;
mod file;
mod network;

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use io_uring::{opcode, types};

use crate::arena::Arena;
use crate::clock::{self, Nanos};
use crate::counters::Counters;
use crate::descriptor::Descriptor;
use crate::mailbox::Sender;
use crate::operation::{CANCEL, Event, Operation};
use crate::program::{CoreIndex, Errno, Token};
use crate::ring::Ring;
use crate::run::Shared;
use crate::slab::{Key, Slab};
use crate::timer::{TimerId, Wheel};

/// One core, as its program sees it. It never leaves its thread.
///
/// Operations are queued and leave together at the end of the turn. Each ends in one completion with its token, also if
/// it is refused at once; that completion never comes before the present callback returns.
pub struct Io<M> {
    // The ring is first: it is gone before the memory that it was given.
    pub(crate) ring: Ring,
    pub(crate) arena: Arena,
    pub(crate) descriptors: Slab<Descriptor>,
    pub(crate) operations: Slab<Operation>,
    pub(crate) deferred: VecDeque<Event>,
    /// Sockets whose receive ended although the program wants more.
    pub(crate) rearm: VecDeque<Key>,
    pub(crate) wheel: Wheel,
    pub(crate) senders: Vec<Sender<M>>,
    /// Cores that were sent something in this turn and may have to be woken at its end.
    pub(crate) to_ring: Vec<CoreIndex>,
    pub(crate) shared: Arc<Shared<M>>,
    pub(crate) core: CoreIndex,
    pub(crate) now: Nanos,
    pub(crate) counters: Counters,
    pub(crate) registered_buffers: bool,
    pub(crate) registered_files: bool,
    pub(crate) multishot_receive: bool,
    /// The reactor stops: nothing new is started.
    pub(crate) draining: bool,
}

impl<M: Send + 'static> Io<M> {
    /// The time at the start of this turn.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Reads the clock again, about 25 ns, for measuring inside of a turn.
    pub fn refresh_now(&mut self) -> Nanos {
        self.now = clock::now().max(self.now);
        self.now
    }

    /// This core.
    pub fn core(&self) -> CoreIndex {
        self.core
    }

    /// Cores of this reactor.
    pub fn cores(&self) -> u16 {
        u16::try_from(self.senders.len()).expect("checked when the reactor started")
    }

    /// Hands a message to a core, this one included, or gives it back when that core's mailbox is full.
    ///
    /// Panics if there is no such core.
    pub fn post(&mut self, core: CoreIndex, message: M) -> Result<(), M> {
        if let Err(message) = self.senders[core.index()].push(message) {
            self.counters.messages_refused += 1;
            return Err(message);
        }
        self.counters.messages_sent += 1;
        if !self.to_ring.contains(&core) {
            self.to_ring.push(core);
        }
        Ok(())
    }

    /// The core's DMA memory.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The core's DMA memory, to change.
    pub fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    /// What this core counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Calls `Program::timer` with `token` at `deadline`, never before it, 16 microseconds later at most on an idle core.
    ///
    /// `None` if `Options::timers_max` are set.
    pub fn set_timer(&mut self, deadline: Nanos, token: Token) -> Option<TimerId> {
        self.wheel.set(deadline, token)
    }

    /// Cancels a timer; whether it was still set.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.wheel.cancel(timer).is_some()
    }

    /// Stops the whole reactor, as `Running::stop` does.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Puts an operation into the table, or gives it back with the reason.
    fn begin(&mut self, operation: Operation) -> Result<Key, (Operation, Errno)> {
        if self.draining {
            return Err((operation, Errno::CANCELLED));
        }
        self.operations
            .insert(operation)
            .map_err(|operation| (operation, Errno::TOO_MANY))
    }

    /// Asks the kernel to end an operation early; its own completion tells how that went.
    pub(crate) fn cancel_operation(&mut self, key: Key) {
        let entry = opcode::AsyncCancel::new(key.to_bits())
            .build()
            .user_data(key.to_bits() | CANCEL);
        // SAFETY: the entry points to nothing.
        unsafe { self.ring.push(entry) };
    }

    /// Puts a descriptor into the table, and into the ring's if that takes it.
    fn add_descriptor(&mut self, descriptor: Descriptor) -> Result<Key, OwnedFd> {
        let key = self
            .descriptors
            .insert(descriptor)
            .map_err(|descriptor| descriptor.fd)?;
        if self.registered_files {
            let descriptor = self.descriptors.get_mut(key).expect("it was just inserted");
            let fds = [descriptor.fd.as_raw_fd()];
            descriptor.registered = self
                .ring
                .submitter()
                .register_files_update(key.index, &fds)
                .is_ok();
        }
        Ok(key)
    }

    /// The descriptor, unless it was removed.
    fn open(&self, key: Key) -> Option<&Descriptor> {
        self.descriptors
            .get(key)
            .filter(|descriptor| descriptor.closing.is_none())
    }

    /// The descriptor, unless it was removed.
    fn open_mut(&mut self, key: Key) -> Option<&mut Descriptor> {
        self.descriptors
            .get_mut(key)
            .filter(|descriptor| descriptor.closing.is_none())
    }

    /// Counts one operation less on a descriptor and closes it if it was removed and that was the last.
    pub(crate) fn descriptor_done(&mut self, key: Key) {
        let descriptor = self
            .descriptors
            .get_mut(key)
            .expect("it stays while operations are in flight");
        descriptor.operations = descriptor
            .operations
            .checked_sub(1)
            .expect("each operation was counted");
        self.close_if_idle(key);
    }

    fn close_if_idle(&mut self, key: Key) {
        let descriptor = self.descriptors.get(key).expect("the caller has found it");
        let Some(token) = descriptor.closing else { return };
        if descriptor.operations > 0 {
            return;
        }
        let descriptor = self.descriptors.remove(key).expect("it was found above");
        if descriptor.registered {
            let removed = self.ring.submitter().register_files_update(key.index, &[-1]);
            assert!(removed.is_ok(), "the ring had it at this place");
        }
        self.deferred.push_back(Event::Closed { token });
    }

    /// Arms the read that another thread ends to wake this core.
    pub(crate) fn arm_doorbell(&mut self) {
        let Ok(key) = self.begin(Operation::Doorbell { count: Box::new(0) }) else {
            return; // Draining: nobody needs to wake this core any more.
        };
        let Some(Operation::Doorbell { count }) = self.operations.get_mut(key) else {
            unreachable!("it was just inserted");
        };
        let buffer = std::ptr::from_mut::<u64>(count).cast::<u8>();
        let bell = types::Fd(self.shared.bell(self.core).as_raw_fd());
        let entry = opcode::Read::new(bell, buffer, 8)
            .build()
            .user_data(key.to_bits());
        // SAFETY: the operation owns the buffer until its completion.
        unsafe { self.ring.push(entry) };
    }

    /// Wakes the cores that were sent messages in this turn and sleep.
    pub(crate) fn ring_bells(&mut self) {
        for core in self.to_ring.drain(..) {
            self.shared.wake_if_sleeping(core);
        }
    }

    /// Publishes the counters for other threads.
    pub(crate) fn publish_counters(&mut self) {
        self.counters.enters = self.ring.enters;
        self.counters.submissions = self.ring.submissions;
        self.counters.completion_overflows = self.ring.overflows;
        self.shared.publish(self.core, &self.counters);
    }

    /// Whether the reactor was told to stop.
    pub(crate) fn must_stop(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }
}
