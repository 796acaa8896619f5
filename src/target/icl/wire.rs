//! One connection to another node.

use std::collections::VecDeque;

use reactor::{Nanos, OperationId, SendBatch, SocketId};

use crate::icl::Slot;
use crate::icl::link::hello::{Greeted, Handshake};
use crate::icl::link::{Lane, PathId, Stream};
use crate::icl::membership::message::MESSAGE_BYTES;

/// How far a connection has come.
pub enum Life {
    /// Awaits the TCP handshake; `None` if it was refused at once.
    Dialling(Option<OperationId>),
    /// Awaits the end of the handshake in which both sides prove the key.
    Greeting(Box<Handshake>),
    /// Awaits that the last words of a failed handshake are sent.
    Refusing,
    /// Carries packets; `None` while its owner works with the stream.
    Packets(Option<Stream>),
    /// Carries announcements; the beginning of one.
    Announcements(Vec<u8>),
    /// Awaits that the ring has done with the socket.
    Leaving,
}

/// Which connection this node wanted to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialled {
    /// Whose lane it is.
    pub peer: Slot,
    /// Which.
    pub lane: Lane,
    /// Which way.
    pub path: PathId,
}

/// See the module.
pub struct Wire {
    /// Tells it apart from others that had its place.
    pub generation: u32,
    /// How far it has come.
    pub life: Life,
    /// Its socket, once there is one and until it is taken off the ring.
    pub socket: Option<SocketId>,
    /// What this side dialled; `None` if the peer did.
    pub dialled: Option<Dialled>,
    /// Who is at the other end, once that is proved.
    pub greeted: Option<Greeted>,
    /// When it began, or brought something last.
    pub heard_at: Nanos,
    /// Whether it is in the port's list of those that have something to send.
    pub is_dirty: bool,
    /// What leaves at the end of the turn, a batch a send.
    composing: VecDeque<Box<SendBatch>>,
    #[expect(
        clippy::vec_box,
        reason = "the reactor takes and gives boxes, so that a batch in flight stays where it is"
    )]
    spare: Vec<Box<SendBatch>>,
    /// The last of `composing` is an announcement.
    is_announcing: bool,
    /// Batches that are on their way.
    sending: u32,
}

/// Batches that a wire keeps for their memory.
const SPARE_MAX: usize = 64;

impl Wire {
    /// A connection that begins now.
    pub fn new(generation: u32, life: Life, dialled: Option<Dialled>, now: Nanos) -> Self {
        Self {
            generation,
            life,
            socket: None,
            dialled,
            greeted: None,
            heard_at: now,
            is_dirty: false,
            composing: VecDeque::new(),
            spare: Vec::new(),
            is_announcing: false,
            sending: 0,
        }
    }

    /// Whether it is in use between two lanes, and which.
    pub fn packets_of(&self) -> Option<Greeted> {
        self.greeted.filter(|_| matches!(self.life, Life::Packets(_)))
    }

    /// Adds bytes to what leaves next: to the batch that is being composed, or as one of their own.
    pub fn push(&mut self, bytes: &[u8], joins: bool) {
        if self.composing.is_empty() || !joins {
            let batch = self.spare.pop().unwrap_or_default();
            self.composing.push_back(batch);
        }
        let last = self
            .composing
            .back_mut()
            .expect("one was added if there was none");
        last.push_bytes(bytes);
    }

    /// Sends the newest announcement: one that has not left is out of date.
    pub fn push_announcement(&mut self, bytes: &[u8; MESSAGE_BYTES]) {
        if self.is_announcing
            && let Some(mut old) = self.composing.pop_back()
        {
            old.clear();
            self.spare.push(old);
        }
        self.push(bytes, false);
        self.is_announcing = true;
    }

    /// Whether announcements that left have not arrived in the kernel yet: another one would only queue behind them.
    pub const fn is_sending(&self) -> bool {
        self.sending > 0
    }

    /// Whether something waits to be sent.
    pub fn has_composed(&self) -> bool {
        !self.composing.is_empty()
    }

    /// The next batch to send.
    pub fn take_batch(&mut self) -> Option<Box<SendBatch>> {
        let batch = self.composing.pop_front()?;
        self.is_announcing &= !self.composing.is_empty();
        self.sending += 1;
        Some(batch)
    }

    /// A batch has left, or failed. How many bytes it had.
    pub fn sent(&mut self, mut batch: Box<SendBatch>) -> u64 {
        self.sending -= 1;
        let bytes = batch.total_bytes();
        batch.clear();
        if self.spare.len() < SPARE_MAX {
            self.spare.push(batch);
        }
        bytes
    }
}
