//! Groups that this node serves together with others: one life of it after the other.
//!
//! | file | part |
//! |---|---|
//! | `life` | one life: from the moment at which the node becomes a member of its array until others go on without it |
//! | `open` | the drives of the array between two lives: groups found, made, and brought up to the journals of lives that are over |
//!
//! Membership ([`super::council`]) says when a life begins, what is decided, and when it is over; the control core
//! ([`super::control`], module `share`) has the groups, their locks and the links. The thread of a life stands between them: it starts the cores, hands on what
//! membership wants, reads and writes drives where whoever waits may block, and takes the cores down at the end. What such an end leaves undone, others
//! find in the journals: to them it is the same as if the process had been killed.

mod life;
mod open;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use crate::amf::peering::Recovery;
use crate::icl::membership::record::EpochRecord;
use crate::icl::{Epoch, Incarnation, Node, Slot, SlotSet};

use super::control::GroupPlan;
use super::manage::ArrayCut;

pub use life::{Lives, Present};
pub use open::Stock;

/// What a node keeps in memory of a group for the others: more than what all their cores have under way at the drives.
pub const KEPT_BYTES_MAX: usize = 64 << 20;

/// Until when this node may say that something is done (PROTOCOL H05). One writer, membership; each core looks before each completion.
#[derive(Debug, Default)]
pub struct Lease {
    until_ns: AtomicU64,
}

impl Lease {
    /// It is good until then; 0 if there is none.
    pub fn set(&self, until_ns: u64) {
        self.until_ns.store(until_ns, Ordering::Release);
    }

    /// Whether it is good at this moment.
    pub fn covers(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns.load(Ordering::Acquire)
    }
}

/// What a life hears: from membership, and from its control core.
#[derive(Debug)]
pub enum Heard {
    /// Membership's barrier: locks are to be reported. With it which of the configuration's drives are in use.
    Barrier(Box<EpochRecord>, Vec<bool>),
    /// This node leads the epoch: what is under way is to be recovered.
    Recover(Epoch, Vec<bool>),
    /// The epoch is open.
    Opened(Epoch),
    /// These members are not heard.
    Suspect(SlotSet),
    /// A life of another node is over.
    Over(Node),
    /// The node is to leave: everything is to be brought to its place.
    Drain,
    /// The link for locks to another node is to be cut.
    Cut(Slot, ArrayCut),
    /// The life is over.
    End,
    /// The control core: the link for locks has not heard a member for a while.
    Unlinked(Slot),
    /// The control core: it hears it, for the first time in the epoch or again.
    Linked(Slot),
    /// The control core: the barrier is done.
    BarrierDone(Epoch),
    /// The control core: a group, by its number, is to be opened or brought up to date.
    RecoverGroup(usize, Recovery),
    /// The control core: all groups are recovered.
    Recovered(Epoch),
    /// The control core: a drive has refused this node.
    Fenced,
    /// The control core: everything is in its place, and the cores end.
    Stopped,
    /// The control core: this life cannot go on, and why.
    Failed(String),
    /// The control core: this node cannot serve a group that the others do, and why.
    Unfit(String),
}

/// What a life tells its control core.
pub enum ShareOrder {
    /// An epoch is decided, and its barrier begins.
    Enter(Box<EpochRecord>),
    /// Its locks are reported everywhere, and this node leads.
    Recover(Epoch),
    /// What came of [`Heard::RecoverGroup`].
    GroupRecovered(usize, Epoch, Box<Outcome>),
    /// It is open.
    Opened(Epoch),
    /// These members are not heard.
    Suspect(SlotSet),
    /// A life of another node is over.
    Over(Node),
    /// The link for locks to another node is to be cut, or whole again.
    Cut(Slot, ArrayCut),
}

/// What came of a group that was to be recovered.
pub enum Outcome {
    /// Nobody has it open: it is to be opened.
    Open(GroupPlan),
    /// Others have it open, and this node writes its superblocks from now on. If something was replayed, numbers of entries go on from there.
    TakeOver(GroupPlan, Option<u64>),
    /// This node goes on.
    GoOn(GoneOn),
    /// It cannot be opened, and why.
    Refused(String),
}

/// What was recovered of a group whose superblocks this node goes on to write.
pub struct GoneOn {
    /// Drives of the node that are not in use in the epoch, or could not be used for what was recovered, as the cores number them.
    pub unused: Vec<u16>,
    /// If something was replayed: numbers of entries go on from there.
    pub next: Option<u64>,
}

/// A life as membership knows it.
#[derive(Clone, Debug)]
pub struct Born {
    /// Its number.
    pub incarnation: Incarnation,
    /// Where it hears.
    pub ear: Sender<Heard>,
}
