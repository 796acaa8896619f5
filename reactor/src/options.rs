//! What a reactor is asked to be, and what it turned out to be on this machine.

use std::time::Duration;

use crate::program::CoreIndex;

/// Cores of one reactor, at most: the mailboxes are a mesh of `cores` times `cores`.
pub const CORES_MAX: u16 = 256;
/// `receive_buffers` at most, a limit of the kernel's buffer rings.
///
/// Source: `io_uring_register_buf_ring(3)`: entries are a power of two, at most 32768.
pub const RECEIVE_BUFFERS_MAX: u16 = 32_768;

/// How a core waits for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollMode {
    /// Never sleeps: best latency, a whole CPU.
    Busy,
    /// Polls for `spin` after the last work, then sleeps in the ring until something happens.
    Adaptive {
        /// How long to poll without finding anything; 20 to 50 microseconds bridge the gaps of a loaded queue.
        spin: Duration,
    },
    /// Sleeps as soon as nothing is left to do.
    Interrupt,
}

/// Kernel features to do without although they are there: for comparing, and for testing each fall-back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// Completions run at the kernel's convenience, not ours.
    pub defer_taskrun: bool,
    /// Receives are armed one at a time.
    pub multishot_receive: bool,
    /// File I/O pins its pages each time.
    pub registered_buffers: bool,
    /// Each operation looks its descriptor up in the process' table.
    pub registered_files: bool,
    /// Neither explicit nor transparent huge pages.
    pub huge_pages: bool,
}

/// What a reactor is asked to be. Every figure is for one core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads, in `1..=CORES_MAX`.
    pub cores: u16,
    /// The CPU of each core, as many as `cores`; none: threads are not pinned.
    pub cpus: Option<Vec<usize>>,
    /// How a core waits for work.
    pub poll: PollMode,
    /// Submission entries, a power of two; the completion ring has four times as many.
    pub ring_entries: u32,
    /// Buffers that receives on all sockets of a core share, a power of two, at most `RECEIVE_BUFFERS_MAX`.
    pub receive_buffers: u16,
    /// Bytes of each of them, a multiple of 64.
    pub receive_buffer_bytes: u32,
    /// Bytes of DMA memory; rounded up to 2 MiB, at most `Arena::BYTES_MAX`.
    pub arena_bytes: usize,
    /// Sockets and files that a core holds at most.
    pub files_max: u32,
    /// Operations in flight at most; more fail with `Errno::TOO_MANY`.
    pub operations_max: u32,
    /// Timers that are set at most.
    pub timers_max: u32,
    /// Messages that each mailbox holds, a power of two; there is one for each other core and one for the outside.
    pub mailbox_entries: u32,
    /// Lets a kernel thread submit, so that a core under load makes no system call. It needs a CPU of its own.
    pub sqpoll: bool,
    /// Features to do without.
    pub without: Without,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cores: 1,
            cpus: None,
            poll: PollMode::Adaptive {
                spin: Duration::from_micros(50),
            },
            ring_entries: 1024,
            receive_buffers: 128,
            receive_buffer_bytes: 16 * 1024,
            arena_bytes: 64 << 20,
            files_max: 16_384,
            operations_max: 1 << 18,
            timers_max: 1 << 20,
            mailbox_entries: 1024,
            sqpoll: false,
            without: Without::default(),
        }
    }
}

impl Options {
    /// Refuses what no core could be built from.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let wrong = |what: &'static str| Err(StartError::Options(what));
        if self.cores == 0 || self.cores > CORES_MAX {
            return wrong("cores must be in 1..=256");
        }
        if self
            .cpus
            .as_ref()
            .is_some_and(|cpus| cpus.len() != usize::from(self.cores))
        {
            return wrong("cpus must name one CPU for each core");
        }
        if !self.ring_entries.is_power_of_two() || !(8..=32_768).contains(&self.ring_entries) {
            return wrong("ring_entries must be a power of two in 8..=32768");
        }
        if !self.receive_buffers.is_power_of_two() || self.receive_buffers > RECEIVE_BUFFERS_MAX {
            return wrong("receive_buffers must be a power of two, at most 32768");
        }
        if !(64..=1 << 24).contains(&self.receive_buffer_bytes)
            || !self.receive_buffer_bytes.is_multiple_of(64)
        {
            return wrong("receive_buffer_bytes must be a multiple of 64 in 64..=16777216");
        }
        if self.arena_bytes == 0 || self.arena_bytes > crate::arena::Arena::BYTES_MAX {
            return wrong("arena_bytes must be in 1..=3 GiB");
        }
        if self.files_max == 0 || self.files_max > 1 << 20 {
            return wrong("files_max must be in 1..=1048576");
        }
        if self.operations_max < 16 || self.operations_max > 1 << 24 {
            return wrong("operations_max must be in 16..=16777216");
        }
        if self.timers_max == 0 || self.timers_max > 1 << 24 {
            return wrong("timers_max must be in 1..=16777216");
        }
        if !self.mailbox_entries.is_power_of_two() || !(2..=1 << 16).contains(&self.mailbox_entries) {
            return wrong("mailbox_entries must be a power of two in 2..=65536");
        }
        Ok(())
    }
}

/// What one core turned out to be. What was asked for and is missing has a sentence in `notes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The arena lies on explicit huge pages (`MAP_HUGETLB`).
    pub huge_pages: bool,
    /// File I/O uses the arena without pinning its pages each time.
    pub registered_buffers: bool,
    /// Sockets and files have a place in the ring's own table.
    pub registered_files: bool,
    /// Completions are processed only when the core enters the kernel.
    pub defer_taskrun: bool,
    /// One receive operation serves a connection for its life.
    pub multishot_receive: bool,
    /// A kernel thread submits.
    pub sqpoll: bool,
    /// The CPU that the core is bound to.
    pub pinned: Option<usize>,
    /// One sentence for each fall-back: what is missing, why, and what would bring it.
    pub notes: Vec<String>,
}

/// Why a reactor did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option is outside its range.
    #[error("reactor options: {0}")]
    Options(&'static str),
    /// A core could not be set up; none runs.
    #[error("core {}: {what}: {source}", core.0)]
    Core {
        /// The core that failed first.
        core: CoreIndex,
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel lacks an operation that there is no way around.
    #[error("core {}: this kernel has no {operation}: Linux 6.0 or later is needed", core.0)]
    KernelTooOld {
        /// The core that found out.
        core: CoreIndex,
        /// The operation's name in the kernel's header.
        operation: &'static str,
    },
    /// A core's thread ended before it was set up, by a panic in the program's factory.
    #[error("core {}: its thread ended while it was being set up", core.0)]
    Vanished {
        /// The core whose thread ended.
        core: CoreIndex,
    },
}
