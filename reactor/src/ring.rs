//! One `io_uring`: setting it up with the best flags that the kernel takes, submitting, waiting.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};

use crate::options::Options;

/// How long the kernel's submitting thread polls before it sleeps.
const SQPOLL_IDLE_MS: u32 = 50;
/// Rounds of submitting what did not fit before it waits for the next turn.
const SUBMIT_ROUNDS_MAX: usize = 64;

/// A ring and the submissions that did not fit into it yet.
pub(crate) struct Ring {
    uring: IoUring,
    /// Submissions in order, behind those in the ring: at most one for each operation, and one to cancel it.
    backlog: VecDeque<squeue::Entry>,
    /// System calls that were made.
    pub(crate) enters: u64,
    /// Submissions that were made.
    pub(crate) submissions: u64,
    /// Times that the completion ring was found overflown.
    pub(crate) overflows: u64,
}

/// One completion, copied out of the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// What a set of flags is good for.
struct Setup {
    defer_taskrun: bool,
    coop_taskrun: bool,
    no_sqarray: bool,
    single_issuer: bool,
}

/// From the best to what every kernel takes.
const SETUPS: [Setup; 5] = [
    Setup {
        defer_taskrun: true,
        coop_taskrun: false,
        no_sqarray: true,
        single_issuer: true,
    },
    Setup {
        defer_taskrun: true,
        coop_taskrun: false,
        no_sqarray: false,
        single_issuer: true,
    },
    Setup {
        defer_taskrun: false,
        coop_taskrun: true,
        no_sqarray: false,
        single_issuer: true,
    },
    Setup {
        defer_taskrun: false,
        coop_taskrun: true,
        no_sqarray: false,
        single_issuer: false,
    },
    Setup {
        defer_taskrun: false,
        coop_taskrun: false,
        no_sqarray: false,
        single_issuer: false,
    },
];

/// What setting up found.
pub(crate) struct Found {
    pub(crate) defer_taskrun: bool,
    pub(crate) sqpoll: bool,
    pub(crate) notes: Vec<String>,
}

impl Ring {
    /// Sets a ring up for the calling thread, which must be the one that uses it.
    pub(crate) fn new(options: &Options) -> io::Result<(Self, Found)> {
        let mut notes = Vec::new();
        let mut sqpoll = options.sqpoll;
        let (uring, setup) = loop {
            match build(options, sqpoll) {
                Err(error) if sqpoll => {
                    notes.push(format!(
                        "submission by a kernel thread is not available ({error}): cores submit themselves"
                    ));
                    sqpoll = false;
                }
                built => break built?,
            }
        };
        if !setup.defer_taskrun && !sqpoll && !options.without.defer_taskrun {
            notes.push(
                "the kernel has no IORING_SETUP_DEFER_TASKRUN (Linux 6.1): completions interrupt the core"
                    .into(),
            );
        }
        let found = Found {
            defer_taskrun: setup.defer_taskrun && !sqpoll,
            sqpoll,
            notes,
        };
        Ok((
            Self {
                uring,
                backlog: VecDeque::new(),
                enters: 0,
                submissions: 0,
                overflows: 0,
            },
            found,
        ))
    }

    /// The first operation that the kernel lacks, if one is missing.
    pub(crate) fn missing_operation(&self) -> io::Result<Option<&'static str>> {
        let needed = [
            (opcode::AcceptMulti::CODE, "IORING_OP_ACCEPT"),
            (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
            (opcode::Connect::CODE, "IORING_OP_CONNECT"),
            (opcode::Fallocate::CODE, "IORING_OP_FALLOCATE"),
            (opcode::Fsync::CODE, "IORING_OP_FSYNC"),
            (opcode::Read::CODE, "IORING_OP_READ"),
            (opcode::Recv::CODE, "IORING_OP_RECV"),
            (opcode::Send::CODE, "IORING_OP_SEND"),
            (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
            (opcode::Write::CODE, "IORING_OP_WRITE"),
        ];
        let mut probe = Probe::new();
        self.uring.submitter().register_probe(&mut probe)?;
        Ok(needed
            .into_iter()
            .find(|(code, _)| !probe.is_supported(*code))
            .map(|(_, name)| name))
    }

    /// For registering memory and files.
    pub(crate) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.uring.submitter()
    }

    /// Queues a submission; it leaves with the next `enter`, or earlier if the ring is full.
    ///
    /// # Safety
    ///
    /// What the entry points to must stay valid until its last completion was drained.
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry) {
        self.submissions += 1;
        if !self.backlog.is_empty() || self.put(&entry).is_err() {
            self.backlog.push_back(entry);
        }
    }

    fn put(&mut self, entry: &squeue::Entry) -> Result<(), squeue::PushError> {
        // SAFETY: every entry came through `push`, whose caller promised what is needed.
        unsafe { self.uring.submission().push(entry) }
    }

    /// Submits what is queued and lets the kernel post what is due, with no system call if there is neither.
    pub(crate) fn enter(&mut self) {
        for _ in 0..SUBMIT_ROUNDS_MAX {
            let queue = self.uring.submission();
            let (queued, overflow, taskrun) = (!queue.is_empty(), queue.cq_overflow(), queue.taskrun());
            drop(queue);
            self.overflows += u64::from(overflow);
            if !(queued || overflow || taskrun) {
                return;
            }
            self.enters += 1;
            if let Err(error) = self.uring.submitter().submit() {
                tolerate(&error);
                return; // The entries stay queued for the next turn.
            }
            if !self.refill() {
                return;
            }
        }
    }

    /// Moves submissions from the backlog to the ring; whether there were any.
    fn refill(&mut self) -> bool {
        let mut moved = false;
        while let Some(entry) = self.backlog.front().cloned() {
            if self.put(&entry).is_err() {
                break;
            }
            self.backlog.pop_front();
            moved = true;
        }
        moved
    }

    /// Submits what is queued and sleeps until a completion is there or `timeout` has passed; it may return early.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        let timeout = types::Timespec::from(timeout);
        let arguments = types::SubmitArgs::new().timespec(&timeout);
        self.enters += 1;
        if let Err(error) = self.uring.submitter().submit_with_args(1, &arguments)
            && error.raw_os_error() != Some(libc::ETIME)
        {
            tolerate(&error);
        }
        self.refill();
    }

    /// Moves at most `max` completions to `into`; how many.
    pub(crate) fn drain(&mut self, into: &mut Vec<Completion>, max: usize) -> usize {
        let before = into.len();
        into.extend(
            self.uring
                .completion()
                .take(max)
                .map(|entry: cqueue::Entry| Completion {
                    user_data: entry.user_data(),
                    result: entry.result(),
                    flags: entry.flags(),
                }),
        );
        into.len() - before
    }
}

/// Panics on errors that only a mistake of ours can cause.
fn tolerate(error: &io::Error) {
    let expected = [libc::EINTR, libc::EAGAIN, libc::EBUSY];
    let code = error.raw_os_error();
    assert!(
        code.is_some_and(|code| expected.contains(&code)),
        "io_uring_enter: {error}"
    );
}

fn build(options: &Options, sqpoll: bool) -> io::Result<(IoUring, &'static Setup)> {
    let mut refused = None;
    for setup in &SETUPS {
        if setup.defer_taskrun && (options.without.defer_taskrun || sqpoll) {
            continue;
        }
        if setup.coop_taskrun && sqpoll {
            continue; // The kernel's thread runs the work; the flags exclude each other.
        }
        let mut builder = IoUring::builder();
        builder
            .dontfork()
            .setup_clamp()
            .setup_cqsize(options.ring_entries * 4)
            .setup_submit_all();
        if setup.single_issuer {
            builder.setup_single_issuer();
        }
        if setup.defer_taskrun {
            builder.setup_defer_taskrun().setup_taskrun_flag();
        }
        if setup.coop_taskrun {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        if setup.no_sqarray {
            builder.setup_no_sqarray();
        }
        if sqpoll {
            builder.setup_sqpoll(SQPOLL_IDLE_MS);
        }
        match builder.build(options.ring_entries) {
            Ok(uring) => return Ok((uring, setup)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refused.expect("the last set of flags is always tried"))
}
