//! What is in flight. An operation owns all that the kernel may touch for it, from its submission to its last completion.

use std::os::fd::OwnedFd;

use crate::arena::{Lending, Span};
use crate::program::{Errno, Token};
use crate::send::SendBatch;
use crate::slab::Key;
use crate::socket::Address;

/// Marks the completion of an attempt to cancel the operation whose key the other bits are.
pub(crate) const CANCEL: u64 = 1 << 63;
/// Times that a file operation is tried again when it was interrupted, before that is an error.
pub(crate) const RETRIES_MAX: u8 = 64;

/// One operation in flight.
pub(crate) enum Operation {
    /// Goes on until it fails or is cancelled, also when the kernel wants it submitted again.
    Accept {
        listener: OwnedFd,
        token: Token,
        cancelled: bool,
    },
    Connect {
        socket: OwnedFd,
        address: Box<Address>,
        token: Token,
    },
    Receive {
        socket: Key,
    },
    Send {
        socket: Key,
        token: Token,
        batch: Box<SendBatch>,
    },
    File(FileOperation),
    /// Waits for another thread to wake this core.
    Doorbell {
        count: Box<u64>,
    },
}

/// One operation on a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileOperation {
    pub(crate) file: Key,
    pub(crate) token: Token,
    pub(crate) kind: FileKind,
    /// In the file, in bytes.
    pub(crate) offset: u64,
    /// Bytes that were read or written.
    pub(crate) done: u32,
    pub(crate) retries: u8,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Read(Span),
    Write { span: Span, durable: bool },
    Sync,
    Zero { bytes: u64 },
}

impl FileKind {
    /// The memory that it lends to the kernel, and what for.
    pub(crate) fn lends(self) -> Option<(Span, Lending)> {
        match self {
            Self::Read(span) => Some((span, Lending::ToWrite)),
            Self::Write { span, .. } => Some((span, Lending::ToRead)),
            Self::Sync | Self::Zero { .. } => None,
        }
    }
}

/// What a program is to be told.
pub(crate) enum Event {
    Accepted {
        token: Token,
        result: Result<OwnedFd, Errno>,
    },
    Connected {
        token: Token,
        result: Result<OwnedFd, Errno>,
    },
    /// Bytes in one of the receive buffers.
    Data {
        token: Token,
        buffer: u16,
        bytes: u32,
    },
    ReceiveEnded {
        token: Token,
        errno: Option<Errno>,
    },
    Sent {
        token: Token,
        batch: Box<SendBatch>,
        result: Result<(), Errno>,
    },
    FileDone {
        token: Token,
        result: Result<u32, Errno>,
    },
    Closed {
        token: Token,
    },
}
