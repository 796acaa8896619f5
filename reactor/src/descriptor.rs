//! The sockets and files of a core, and the names that a program has for them.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{squeue, types};

use crate::program::{Errno, Token};
use crate::send::SendBatch;
use crate::slab::Key;

/// Names a socket of one core, from `Io::add_socket` to `Io::remove_socket`; afterwards it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub(crate) Key);

/// Names a file of one core, from `Io::add_file` to `Io::remove_file`; afterwards it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(crate) Key);

/// Names an accept or a connect, until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub(crate) Key);

/// An open socket or file, and what is in flight on it.
pub(crate) struct Descriptor {
    pub(crate) fd: OwnedFd,
    /// Whether the ring's table has it, at the place that its key names.
    pub(crate) registered: bool,
    /// Operations in flight; it is closed when there are none.
    pub(crate) operations: u32,
    /// Set when it was removed: what `closed` will say.
    pub(crate) closing: Option<Token>,
    /// A file that does not answer: stopping does not wait for it.
    pub(crate) forsaken: bool,
    /// For sockets.
    pub(crate) socket: Option<Socket>,
}

/// The streams of a socket.
#[derive(Default)]
pub(crate) struct Socket {
    /// Whether the program wants bytes.
    pub(crate) wanted: bool,
    /// Whose bytes they are: that of the last `receive`.
    pub(crate) receive_token: Option<Token>,
    /// The receive in flight.
    pub(crate) receiving: Option<Key>,
    /// The send in flight; the ring does not order operations on one socket, so there is one at a time.
    pub(crate) sending: Option<Key>,
    /// The batches behind it.
    pub(crate) queue: VecDeque<(Token, Box<SendBatch>)>,
    /// Set by a send that failed: the stream may have a hole, so nothing may follow.
    pub(crate) broken: Option<Errno>,
}

impl Descriptor {
    pub(crate) fn new(fd: OwnedFd, socket: Option<Socket>) -> Self {
        Self {
            fd,
            registered: false,
            operations: 0,
            closing: None,
            forsaken: false,
            socket,
        }
    }

    /// How an operation names this descriptor: a number, and the flag that says which table it is from.
    pub(crate) fn target(&self, key: Key) -> Target {
        if self.registered {
            let number = i32::try_from(key.index).expect("fewer than 2^20 are registered");
            Target {
                fd: types::Fd(number),
                flags: squeue::Flags::FIXED_FILE,
            }
        } else {
            Target {
                fd: types::Fd(self.fd.as_raw_fd()),
                flags: squeue::Flags::empty(),
            }
        }
    }
}

/// What `Descriptor::target` gives.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) fd: types::Fd,
    pub(crate) flags: squeue::Flags,
}
