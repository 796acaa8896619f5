//! One connection to another node.

use std::collections::VecDeque;

use reactor::{Nanos, OperationId, SendBatch, SocketId};

use super::tls::Session;
use crate::icl::Slot;
use crate::icl::link::hello::{Greeted, Handshake};
use crate::icl::link::{Lane, PathId, Piece, Stream};
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
    /// What stands between it and its socket, if the array encrypts.
    pub tls: Option<Box<Session>>,
    /// When it began, or brought something last.
    pub heard_at: Nanos,
    /// Whether it is in the port's list of those that have something to send.
    pub is_dirty: bool,
    /// What leaves at the end of the turn, or once TLS is established, a batch a send. It is sealed when it leaves, and not before: until then
    /// an announcement can be replaced.
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
            tls: None,
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
        self.push_pieces([Piece::Own(bytes)], joins);
    }

    /// The same for bytes in pieces. Shared ones are held until they have left.
    pub fn push_pieces<'a>(&mut self, pieces: impl IntoIterator<Item = Piece<'a>>, joins: bool) {
        if self.composing.is_empty() || !joins {
            let batch = self.spare.pop().unwrap_or_default();
            self.composing.push_back(batch);
        }
        let last = self
            .composing
            .back_mut()
            .expect("one was added if there was none");
        for piece in pieces {
            match piece {
                Piece::Own(bytes) => last.push_bytes(bytes),
                Piece::Shared(bytes) => last.push_held(bytes),
            }
        }
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

    /// Whether nothing waits to be sent, or is on its way.
    pub fn has_said_all(&self) -> bool {
        let tls_wants = self.tls.as_deref().is_some_and(Session::wants_to_send);
        self.composing.is_empty() && !tls_wants && self.sending == 0
    }

    /// Nothing of what waits leaves any more, except what TLS has to say.
    pub fn drop_composed(&mut self) {
        self.composing.clear();
        self.is_announcing = false;
    }

    /// The next batch to send.
    pub fn take_batch(&mut self) -> Option<Box<SendBatch>> {
        let batch = match self.tls.take() {
            None => self.composing.pop_front()?,
            Some(mut tls) => {
                let sealed = self.take_sealed(&mut tls);
                self.tls = Some(tls);
                sealed?
            }
        };
        self.is_announcing &= !self.composing.is_empty();
        self.sending += 1;
        Some(batch)
    }

    fn take_sealed(&mut self, tls: &mut Session) -> Option<Box<SendBatch>> {
        let clear = if tls.is_established() {
            self.composing.pop_front()
        } else {
            None
        };
        if clear.is_none() && !tls.wants_to_send() {
            return None;
        }
        let mut sealed = self.spare.pop().unwrap_or_default();
        let Some(clear) = clear else {
            sealed.push_with(|out| tls.seal([], out));
            return Some(sealed);
        };
        sealed.push_with(|out| tls.seal(clear.constant_bytes(), out));
        self.keep(clear);
        Some(sealed)
    }

    /// A batch has left, or failed. How many bytes it had, before it was sealed.
    pub fn sent(&mut self, batch: Box<SendBatch>) -> u64 {
        self.sending -= 1;
        let total_bytes = batch.total_bytes();
        self.keep(batch);
        self.tls.as_deref_mut().map_or(total_bytes, Session::sent)
    }

    fn keep(&mut self, mut batch: Box<SendBatch>) {
        batch.clear();
        if self.spare.len() < SPARE_MAX {
            self.spare.push(batch);
        }
    }
}
