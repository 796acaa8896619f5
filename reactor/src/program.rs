//! What runs on a core, and the plain values that it exchanges with the reactor.

use std::fmt;
use std::os::fd::OwnedFd;

use crate::io::Io;
use crate::send::SendBatch;

/// The number of a core of this reactor, from 0: not the number of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreIndex(pub u16);

impl CoreIndex {
    /// The index into a table with one entry a core.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A value that the program chooses; it comes back with the completion and means nothing to the reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// An error number of Linux, positive, as in `errno.h`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// The operation, or what it worked on, was withdrawn.
    pub const CANCELLED: Self = Self(libc::ECANCELED);
    /// A file ended before the length that was asked for.
    pub const FILE_ENDED: Self = Self(libc::ENODATA);
    /// The identifier names nothing any more.
    pub const STALE: Self = Self(libc::EBADF);
    /// `Options::operations_max` are in flight.
    pub const TOO_MANY: Self = Self(libc::ENOBUFS);

    pub(crate) fn of(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// Whether a turn found anything to do: a core may sleep only after idle turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was done and nothing waits to be polled: only the reactor's own events can bring work.
    Idle,
    /// Something was done, or the program wants another turn at once.
    Busy,
}

impl Progress {
    /// `Busy` if `busy`.
    pub fn busy_if(busy: bool) -> Self {
        if busy { Self::Busy } else { Self::Idle }
    }
}

/// What a socket's receive stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// The next bytes, at least one, in order. The buffer goes back to the kernel when the callback returns.
    Data(&'a [u8]),
    /// The peer closed its side. Nothing follows until `Io::receive` is called again.
    End,
    /// The connection failed. Nothing follows until `Io::receive` is called again.
    Error(Errno),
}

/// What runs on a core. One value a core, made on that core's thread; no callback is ever entered twice at a time.
///
/// Callbacks must not block: everything on the core waits for them. Every operation that was asked for ends in exactly
/// one completion, unless the reactor stops first; `accepted` and `received` repeat.
pub trait Program: Sized + 'static {
    /// What cores send each other, and other threads send to cores.
    type Message: Send + 'static;

    /// The core is set up; its first operations go here.
    fn started(&mut self, io: &mut Io<Self::Message>);

    /// A message from a core (this one included) or from outside. Those of one sender arrive in order.
    fn message(&mut self, io: &mut Io<Self::Message>, message: Self::Message);

    /// A connection came in on a listener. An error ends the accepting: call `Io::accept` again, for EMFILE after a while.
    fn accepted(&mut self, io: &mut Io<Self::Message>, token: Token, result: Result<OwnedFd, Errno>);

    /// The next event of a socket's receive stream.
    fn received(&mut self, io: &mut Io<Self::Message>, token: Token, event: Received<'_>);

    /// A batch left as a whole, or failed: then an unknown part of it left. The batch comes back for its next use.
    fn sent(
        &mut self,
        io: &mut Io<Self::Message>,
        token: Token,
        batch: Box<SendBatch>,
        result: Result<(), Errno>,
    );

    /// A read, write, sync or zero ended: as a whole, with its length in bytes (0 for sync and zero), or with an error.
    fn file_done(&mut self, io: &mut Io<Self::Message>, token: Token, result: Result<u32, Errno>);

    /// An outgoing connection stands, or failed.
    fn connected(&mut self, io: &mut Io<Self::Message>, token: Token, result: Result<OwnedFd, Errno>);

    /// A socket or file that was removed has no operation in flight any more and is closed.
    fn closed(&mut self, io: &mut Io<Self::Message>, token: Token);

    /// A timer's deadline passed.
    fn timer(&mut self, io: &mut Io<Self::Message>, token: Token);

    /// The beginning of a turn: [`Io::now`] is its time, and nothing that has happened by then was handed over yet.
    fn turn_begins(&mut self, io: &mut Io<Self::Message>) {
        let _ = io;
    }

    /// The end of a turn, after its completions, messages and timers: what they produced is sent here, in one batch.
    fn turn(&mut self, io: &mut Io<Self::Message>) -> Progress;

    /// The reactor stops. Afterwards every operation in flight ends (sockets with `Errno::CANCELLED`, files in earnest),
    /// new ones fail at once, and then the program is dropped.
    fn stopping(&mut self, io: &mut Io<Self::Message>) {
        let _ = io;
    }
}
