//! What nodes say to each other about locks, and how it looks on a link.
//!
//! All of it is said within one epoch, which the link sees to (PROTOCOL H10). Layout, little-endian:
//!
//! | kind | bytes after the kind |
//! |---|---|
//! | 1 request | mode, priority, whether dirty data is taken, number 8, resource 8, prefetch 8 |
//! | 2 recall | hold to keep, slot of the next or 255, 0, number 8, resource 8 |
//! | 3 released | hold kept, whether dirty data was handed over, 0, number 8, resource 8 |
//! | 4 grant | flags and mode, giver's slot or 255, terms, number 8, resource 8, token 12, prefetch 8, giver's token 12, waiting 10; the last two only if flagged |
//! | 5 moved, 6 refused | 0, 0, 0, number 8, resource 8 |
//! | 7 returned, 8 taken, 9 noted | 0, 0, 0, resource 8, token 12 |
//! | 10 report | whether it is the last, count 2, batch 4, and 30 a claim: kind, priority, number 8, resource 8, token 12 |
//! | 11 report taken | 0, 0, 0, batch 4 |

mod codec;

use thiserror::Error;

use super::name::{Number, Prefetch, Resource, Token};
use crate::amf::lock::{Held, Mode};
use crate::icl::Slot;

pub use codec::{GRANT_BYTES_MAX, REQUEST_BYTES};

/// How many kinds of messages there are.
pub const KINDS: usize = 11;

/// Most claims of one [`Message::Report`]: 4 KiB.
pub const CLAIMS_MAX: usize = 128;

/// A node wants a lock. By asking it also says that it holds nothing of the resource any more, if it did: an upgrade is a release and
/// a place in the queue (PROTOCOL H14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// What.
    pub resource: Resource,
    /// For what.
    pub mode: Mode,
    /// Higher is sooner, if the queue goes by priority.
    pub priority: u8,
    /// Names the request and the grant.
    pub number: Number,
    /// What else it would take, if that is free.
    pub prefetch: Prefetch,
    /// It takes dirty data with the lock.
    pub takes: bool,
}

/// What a holder is asked for, or has to do unasked once it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Terms {
    /// What it may keep.
    pub keep: Held,
    /// Who writes next and takes dirty data, so that this may go there directly.
    pub next: Option<Slot>,
}

/// Dirty data of a resource goes from its last writer to the next one directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandOver {
    /// Who sends it.
    pub from: Slot,
    /// Under which of its write grants it was written.
    pub token: Token,
}

/// Who waits for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiter {
    /// What it asks.
    pub mode: Mode,
    /// Its priority.
    pub priority: u8,
    /// Its request.
    pub number: Number,
    /// It takes dirty data.
    pub takes: bool,
}

/// The arbitership of a resource, which goes with a write grant where two nodes share a group (PROTOCOL H11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    /// The former arbiter's own request, if it waits.
    pub waiting: Option<Waiter>,
}

/// A node gets a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// What.
    pub resource: Resource,
    /// For what.
    pub mode: Mode,
    /// The request that it answers.
    pub number: Number,
    /// The number of this write grant; for a read grant, that of the last one that the arbiter knows of.
    pub token: Token,
    /// Others wait: give it back when done, without being asked.
    pub when_done: Option<Terms>,
    /// Dirty data of it is on its way: without that the grant is worth nothing.
    pub hand_over: Option<HandOver>,
    /// Which of the prefetched resources come with it, under the same mode, number and token.
    pub prefetch: Prefetch,
    /// The arbitership comes with it, and with all of the prefetched.
    pub seat: Option<Seat>,
}

/// What a node says of one resource to the arbiters of a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// What.
    pub resource: Resource,
    /// Of which kind.
    pub kind: ClaimKind,
    /// Of the request or the hold.
    pub number: Number,
    /// The last token that it knows.
    pub token: Token,
    /// Of a request.
    pub priority: u8,
}

/// See [`Claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimKind {
    /// It waits.
    Wants(Mode),
    /// It has handed over dirty data and does not know whether that has arrived.
    Gives,
    /// It holds.
    Holds(Mode),
}

/// What one node's part of the protocol says to another's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// To the arbiter: see [`Request`].
    Request(Request),
    /// From the arbiter: give back what was granted under this number.
    Recall {
        /// What.
        resource: Resource,
        /// Which grant.
        number: Number,
        /// What of it.
        terms: Terms,
    },
    /// To the arbiter: what was granted under this number is given back.
    Released {
        /// What.
        resource: Resource,
        /// Which grant.
        number: Number,
        /// What is kept of it.
        kept: Held,
        /// Dirty data goes to the next writer, as it was told.
        is_handed_over: bool,
    },
    /// From the arbiter: see [`Grant`].
    Grant(Grant),
    /// From a node that arbitrates the resource no more: who asked does so itself, or will (PROTOCOL H11).
    Moved {
        /// What.
        resource: Resource,
        /// Which request.
        number: Number,
    },
    /// From the arbiter: its table is full, nothing is held (B10).
    Refused {
        /// What.
        resource: Resource,
        /// Which request.
        number: Number,
    },
    /// From the last writer, where the arbitership travels: nobody holds or wants it, its home may have it back.
    Returned {
        /// What.
        resource: Resource,
        /// The last write grant.
        token: Token,
    },
    /// From the next writer to the last one: grant and dirty data are here, and the data is durable.
    Taken {
        /// What.
        resource: Resource,
        /// Of the last writer's grant.
        token: Token,
    },
    /// Answers [`Message::Taken`]: the last writer knows. Not before that the next one gives the resource back.
    Noted {
        /// What.
        resource: Resource,
        /// Of the last writer's grant.
        token: Token,
    },
    /// To the arbiter of a new epoch: what this node has, wants and has handed over, one batch after the other.
    Report {
        /// Counts from 0.
        batch: u32,
        /// There is no other one.
        is_last: bool,
        /// At most [`CLAIMS_MAX`].
        claims: Vec<Claim>,
    },
    /// The next batch may come.
    ReportTaken {
        /// Which one was taken.
        batch: u32,
    },
}

/// Which message, to count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Message::Request`]
    Request,
    /// [`Message::Recall`]
    Recall,
    /// [`Message::Released`]
    Released,
    /// [`Message::Grant`]
    Grant,
    /// [`Message::Moved`]
    Moved,
    /// [`Message::Refused`]
    Refused,
    /// [`Message::Returned`]
    Returned,
    /// [`Message::Taken`]
    Taken,
    /// [`Message::Noted`]
    Noted,
    /// [`Message::Report`]
    Report,
    /// [`Message::ReportTaken`]
    ReportTaken,
}

impl Kind {
    /// All of them, by their code.
    pub const ALL: [Self; KINDS] = [
        Self::Request,
        Self::Recall,
        Self::Released,
        Self::Grant,
        Self::Moved,
        Self::Refused,
        Self::Returned,
        Self::Taken,
        Self::Noted,
        Self::Report,
        Self::ReportTaken,
    ];

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Why bytes are no message: the peer's session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// No such kind.
    #[error("a message about locks of the unknown kind {0}")]
    Kind(u8),
    /// It ends too early, or goes on behind its end.
    #[error("a message about locks of kind {kind} has {found} bytes")]
    Length {
        /// Its kind.
        kind: u8,
        /// Its bytes.
        found: usize,
    },
    /// There is nothing.
    #[error("an empty message about locks")]
    Empty,
    /// A field holds what it cannot.
    #[error("{field} of a message about locks has the unknown value {value}")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u8,
    },
}

impl Message {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Request(_) => Kind::Request,
            Self::Recall { .. } => Kind::Recall,
            Self::Released { .. } => Kind::Released,
            Self::Grant(_) => Kind::Grant,
            Self::Moved { .. } => Kind::Moved,
            Self::Refused { .. } => Kind::Refused,
            Self::Returned { .. } => Kind::Returned,
            Self::Taken { .. } => Kind::Taken,
            Self::Noted { .. } => Kind::Noted,
            Self::Report { .. } => Kind::Report,
            Self::ReportTaken { .. } => Kind::ReportTaken,
        }
    }
}
