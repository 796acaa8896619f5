//! What is counted, and what an operator sees of one resource.

use std::hash::{Hash, Hasher};

use super::message::{KINDS, Kind};
use super::name::{Resource, Token};
use crate::amf::lock::Held;
use crate::icl::{Slot, SlotSet};

/// Counted since the start of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages to peers, by [`Kind::index`].
    pub sent: [u64; KINDS],
    /// Wants of users.
    pub wants: u64,
    /// Wants that were met by what this node held already.
    pub wants_held: u64,
    /// Of these, the first ones of a resource that was prefetched.
    pub prefetch_hits: u64,
    /// Wants that failed.
    pub failures: u64,
    /// Locks that came to this node, prefetched ones not included.
    pub grants: u64,
    /// Locks that were prefetched.
    pub prefetched: u64,
    /// Recalls that users were told of.
    pub recalls: u64,
    /// Locks that were given back without a recall, because the grant had said so.
    pub releases_when_done: u64,
    /// Rows whose dirty data went to the next writer directly.
    pub hand_overs: u64,
    /// Resources that were asked back to make room, here or at an arbiter.
    pub evictions: u64,
    /// Messages that belonged to an earlier request, hold or epoch.
    pub stale: u64,
}

impl Counters {
    /// Messages of a kind that were sent to peers.
    pub const fn sent(&self, kind: Kind) -> u64 {
        self.sent[kind.index()]
    }

    /// All messages that were sent to peers.
    pub fn messages(&self) -> u64 {
        self.sent.iter().sum()
    }
}

/// Counting decides nothing: states that differ in it alone count as the same.
impl Hash for Counters {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// What an operator sees of one resource on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What.
    pub resource: Resource,
    /// Who arbitrates it, as far as this node knows.
    pub arbiter: Slot,
    /// What this node holds of it.
    pub hold: Held,
    /// Whether this node waits for it.
    pub is_waiting: bool,
    /// Whether it is to be given back.
    pub is_recalled: bool,
    /// The last token that is known here.
    pub token: Token,
    /// If this node is the arbiter: who holds it.
    pub holders: SlotSet,
    /// If this node is the arbiter: who waits, in order.
    pub queue: Vec<Slot>,
}
