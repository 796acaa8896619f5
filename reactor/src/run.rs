//! Starting the cores, reaching them from outside, and stopping them.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use std::os::fd::AsFd;

use crate::counters::{Counters, Published};
use crate::doorbell::Doorbell;
use crate::life::{Ended, Life, Mailboxes};
use crate::mailbox::mailbox;
use crate::options::{Facts, Options, StartError};
use crate::program::{CoreIndex, Program};

/// Stack of a core's thread: callbacks nest a few calls deep.
const STACK_BYTES: usize = 2 << 20;

/// What all threads of a reactor share.
pub(crate) struct Shared<M> {
    cores: Box<[CachePadded<PerCore<M>>]>,
    pub(crate) stopping: AtomicBool,
}

struct PerCore<M> {
    /// Messages from threads that are not cores.
    inbox: ArrayQueue<M>,
    doorbell: Doorbell,
    /// An eventfd: writing to it ends the core's sleep.
    bell: OwnedFd,
    published: Published,
}

impl<M> Shared<M> {
    fn new(options: &Options) -> io::Result<Self> {
        let entries = options.mailbox_entries as usize;
        let cores = (0..options.cores).map(|_| {
            let per_core = PerCore {
                inbox: ArrayQueue::new(entries),
                doorbell: Doorbell::new(),
                bell: eventfd()?,
                published: Published::default(),
            };
            Ok(CachePadded::new(per_core))
        });
        Ok(Self {
            cores: cores.collect::<io::Result<_>>()?,
            stopping: AtomicBool::new(false),
        })
    }

    pub(crate) fn inbox(&self, core: CoreIndex) -> &ArrayQueue<M> {
        &self.cores[core.index()].inbox
    }

    pub(crate) fn doorbell(&self, core: CoreIndex) -> &Doorbell {
        &self.cores[core.index()].doorbell
    }

    pub(crate) fn bell(&self, core: CoreIndex) -> BorrowedFd<'_> {
        self.cores[core.index()].bell.as_fd()
    }

    pub(crate) fn publish(&self, core: CoreIndex, counters: &Counters) {
        self.cores[core.index()].published.store(counters);
    }

    /// After work was handed to a core: wakes it if it sleeps.
    pub(crate) fn wake_if_sleeping(&self, core: CoreIndex) {
        if self.doorbell(core).must_ring() {
            self.wake(core);
        }
    }

    fn wake(&self, core: CoreIndex) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the eight bytes are valid and live across the call.
        let written = unsafe { libc::write(self.bell(core).as_raw_fd(), one.as_ptr().cast(), one.len()) };
        debug_assert_eq!(written, 8, "an eventfd takes 2^64 - 2 of them");
    }

    /// Tells all cores to stop.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for core in 0..self.cores.len() {
            // Rung in any case: it happens once, and a core that is awake only counts a wake-up.
            self.wake(CoreIndex(u16::try_from(core).expect("checked by Options::check")));
        }
    }
}

fn eventfd() -> io::Result<OwnedFd> {
    // Blocking on purpose: the ring waits for it, and answers EAGAIN for one that is not.
    // SAFETY: `eventfd` takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends messages to the cores of a reactor from any thread. It outlives the reactor harmlessly.
pub struct Remote<M> {
    shared: Arc<Shared<M>>,
}

impl<M> Clone for Remote<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<M: Send> Remote<M> {
    /// Hands a message to a core and wakes it, or gives the message back when the core's inbox is full or it has stopped.
    ///
    /// Panics if there is no such core.
    pub fn post(&self, core: CoreIndex, message: M) -> Result<(), M> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(message);
        }
        self.shared.inbox(core).push(message)?;
        self.shared.wake_if_sleeping(core);
        Ok(())
    }

    /// Cores of the reactor.
    pub fn cores(&self) -> u16 {
        u16::try_from(self.shared.cores.len()).expect("checked by Options::check")
    }

    /// Tells the reactor to stop, as `Running::stop` does.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// What a core counted, as it last published it: at least twice a second.
    ///
    /// Panics if there is no such core.
    pub fn counters(&self, core: CoreIndex) -> Counters {
        self.shared.cores[core.index()].published.load()
    }
}

/// Why a reactor did not end as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The program of a core panicked; the other cores were stopped.
    #[error("the program on core {} panicked", .0.0)]
    Panicked(CoreIndex),
    /// Operations of a core did not end, those of a drive that hangs for example; their memory was not unmapped.
    #[error("{operations} operations on core {} did not end", core.0)]
    Stuck {
        /// The core.
        core: CoreIndex,
        /// Operations in flight.
        operations: u32,
    },
}

/// A reactor that runs. Dropping it stops it and waits for its end.
pub struct Running<M: Send + 'static> {
    shared: Arc<Shared<M>>,
    threads: Vec<JoinHandle<Result<(), JoinError>>>,
    facts: Vec<Facts>,
}

impl<M: Send + 'static> Running<M> {
    /// What a core turned out to be. Panics if there is no such core.
    pub fn facts(&self, core: CoreIndex) -> &Facts {
        &self.facts[core.index()]
    }

    /// A sender of messages, for other threads.
    pub fn handle(&self) -> Remote<M> {
        Remote {
            shared: Arc::clone(&self.shared),
        }
    }

    /// What a core counted, as it last published it: at least twice a second. Panics if there is no such core.
    pub fn counters(&self, core: CoreIndex) -> Counters {
        self.handle().counters(core)
    }

    /// Tells all cores to stop and returns at once.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Waits until all cores have ended: by `stop`, from any side, or by a panic. The first error is returned.
    pub fn join(mut self) -> Result<(), JoinError> {
        self.join_all()
    }

    fn join_all(&mut self) -> Result<(), JoinError> {
        let mut result = Ok(());
        for (core, thread) in (0..).map(CoreIndex).zip(self.threads.drain(..)) {
            let ended = thread.join().unwrap_or(Err(JoinError::Panicked(core)));
            result = result.and(ended);
        }
        result
    }
}

impl<M: Send + 'static> Drop for Running<M> {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.stop();
            let _ = self.join_all(); // Who wants to know calls `join`.
        }
    }
}

/// Starts a reactor: one thread a core, with the program that `factory` makes on it.
///
/// Returns when all cores are set up; their programs have started by then or are about to. If one cannot be set up, none
/// runs.
pub fn run<P: Program>(
    options: Options,
    factory: impl Fn(CoreIndex) -> P + Send + Sync + 'static,
) -> Result<Running<P::Message>, StartError> {
    options.check()?;
    let first = CoreIndex(0);
    let shared = Shared::new(&options);
    let shared = Arc::new(shared.map_err(|source| StartError::Core {
        core: first,
        what: "making an eventfd",
        source,
    })?);
    let factory = Arc::new(factory);
    let mut running = Running {
        shared: Arc::clone(&shared),
        threads: Vec::new(),
        facts: Vec::new(),
    };
    let (report, reports) = mpsc::channel();
    let (go, waiting): (Vec<_>, Vec<_>) = (0..options.cores).map(|_| mpsc::sync_channel::<()>(1)).unzip();
    let cores = (0..)
        .map(CoreIndex)
        .zip(mesh(options.cores, options.mailbox_entries))
        .zip(waiting);
    for ((core, mailboxes), waiting) in cores {
        let (options, shared, factory) = (options.clone(), Arc::clone(&shared), Arc::clone(&factory));
        let report = report.clone();
        let thread = thread::Builder::new()
            .name(format!("reactor-{}", core.0))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let pinned = pin(core, &options);
                match Life::new(core, &options, Arc::clone(&shared), mailboxes, |core| {
                    factory(core)
                }) {
                    Ok((life, mut facts)) => {
                        pinned.note(&mut facts);
                        let _ = report.send((core, Ok(facts))); // The starter waits for it.
                        drop(report);
                        let started = waiting.recv().is_ok(); // An error: another core could not be set up.
                        if started {
                            live(core, life, &shared)
                        } else {
                            Ok(())
                        }
                    }
                    Err(error) => {
                        let _ = report.send((core, Err(error))); // The starter waits for it.
                        Ok(())
                    }
                }
            });
        let thread = thread.map_err(|source| StartError::Core {
            core,
            what: "starting its thread",
            source,
        })?;
        running.threads.push(thread);
    }
    drop(report);
    running.facts = collect(options.cores, &reports)?;
    for go in go {
        let _ = go.send(()); // All wait for it.
    }
    Ok(running)
}

/// The facts of all cores, or the first error.
fn collect(
    cores: u16,
    reports: &mpsc::Receiver<(CoreIndex, Result<Facts, StartError>)>,
) -> Result<Vec<Facts>, StartError> {
    let mut all: Vec<Option<Facts>> = vec![None; usize::from(cores)];
    for (core, result) in reports {
        all[core.index()] = Some(result?);
    }
    let facts = (0..).map(CoreIndex).zip(all);
    facts
        .map(|(core, facts)| facts.ok_or(StartError::Vanished { core }))
        .collect()
}

/// A mailbox from each core to each, sorted by whom they belong to.
fn mesh<M: Send>(cores: u16, entries: u32) -> Vec<Mailboxes<M>> {
    let mut all: Vec<Mailboxes<M>> = (0..cores)
        .map(|_| Mailboxes {
            senders: Vec::new(),
            receivers: Vec::new(),
        })
        .collect();
    for from in 0..usize::from(cores) {
        for to in 0..usize::from(cores) {
            let (sender, receiver) = mailbox(entries);
            all[from].senders.push(sender);
            all[to].receivers.push(receiver);
        }
    }
    all
}

/// Runs a core to its end. Its memory is given back only if the kernel uses none of it any more.
fn live<P: Program>(core: CoreIndex, life: Life<P>, shared: &Shared<P::Message>) -> Result<(), JoinError> {
    let mut life = ManuallyDrop::new(life);
    let ended = catch_unwind(AssertUnwindSafe(|| life.live()));
    match ended {
        Ok(Ended::Drained) => {
            drop(ManuallyDrop::into_inner(life));
            Ok(())
        }
        Ok(Ended::Forsaken) => Ok(()),
        Ok(Ended::Stuck(operations)) => Err(JoinError::Stuck { core, operations }),
        Err(_) => {
            shared.stop(); // Without one core the others cannot do their work.
            Err(JoinError::Panicked(core))
        }
    }
}

/// What became of binding a thread to a CPU.
enum Pinned {
    NotAsked,
    To(usize),
    Refused(usize),
}

impl Pinned {
    fn note(&self, facts: &mut Facts) {
        match self {
            Self::NotAsked => {}
            Self::To(cpu) => facts.pinned = Some(*cpu),
            Self::Refused(cpu) => {
                facts.notes.push(format!(
                    "CPU {cpu} is not available to this process: the core is not pinned"
                ));
            }
        }
    }
}

/// Binds the calling thread, before it maps memory, so that the memory is near.
fn pin(core: CoreIndex, options: &Options) -> Pinned {
    let Some(cpus) = &options.cpus else {
        return Pinned::NotAsked;
    };
    let cpu = cpus[core.index()];
    // Only what the process may use: `set_for_current` panics for numbers beyond the kernel's table.
    let available = core_affinity::get_core_ids().unwrap_or_default();
    let id = available.into_iter().find(|available| available.id == cpu);
    if id.is_some_and(core_affinity::set_for_current) {
        Pinned::To(cpu)
    } else {
        Pinned::Refused(cpu)
    }
}
