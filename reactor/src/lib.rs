//! One thread per core, each with one `io_uring`, a program that runs to completion on it, a timer wheel, an arena of
//! DMA memory and a mailbox to each other core.
//!
//! A user writes a [`Program`], which is told what happened (a connection came in, bytes arrived, a read finished) and
//! asks for more through [`Io`]; [`run`] makes one program a core and starts them. The reactor knows no NVMe, decides no
//! policy, and never allocates for an operation once its tables have grown to the load.
//!
//! Invariants that the whole crate relies on:
//! - memory that the kernel may touch is owned by the core until the kernel's last completion for it has been seen;
//! - a completion that comes late never reaches an identifier that was given out again (identifiers carry generations);
//! - a core that sleeps is woken by whoever gives it work ([`mailbox`] holds the proof, as a loom model).
#![expect(
    unsafe_code,
    reason = "this crate is where rings, mappings and vector instructions are wrapped"
)]

pub mod arena;
mod buffers;
mod clock;
mod counters;
mod descriptor;
mod doorbell;
mod io;
mod latency;
mod life;
pub mod mailbox;
mod memory;
mod operation;
mod options;
pub mod parity;
mod probe;
mod program;
mod ring;
mod run;
mod send;
mod shared_memory;
mod slab;
mod socket;
mod sync;
pub mod timer;
pub mod xor;

pub use arena::{Arena, Span};
pub use clock::{Nanos, now};
pub use counters::Counters;
pub use descriptor::{FileId, OperationId, SocketId};
pub use io::Io;
pub use latency::{LatencyRecorder, Precision};
pub use options::{Facts, Options, PollMode, StartError, Without};
pub use program::{CoreIndex, Errno, Program, Progress, Received, Token};
pub use run::{JoinError, Remote, Running, run};
pub use send::SendBatch;
pub use shared_memory::SharedMemory;
pub use socket::{listener, listener_per_core};
pub use timer::TimerId;
