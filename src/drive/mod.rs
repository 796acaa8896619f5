//! Drives as plain data: what a drive is asked, what it answers, and the addresses.

pub mod block;
pub mod health;

use thiserror::Error;

/// How a drive answered a command that it did not carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DriveError {
    /// The medium could not give back what was written.
    #[error("medium error")]
    Media,
    /// The drive refused or broke off the command; `errno` of the operating system, 0 if there is none.
    #[error("I/O error (errno {errno})")]
    Io {
        /// The operating system's error number.
        errno: i32,
    },
    /// The drive does not answer in time or is gone.
    #[error("drive does not answer")]
    Gone,
    /// Another node has taken the drive: this one may not use it any more.
    #[error("the drive belongs to another node now")]
    Fenced,
    /// The drive's capacity ends before the blocks that were asked for.
    #[error("beyond the end of the drive")]
    OutOfRange,
}
