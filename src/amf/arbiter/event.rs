//! What happens to one node's part of the protocol, and what it wants done.

use std::collections::VecDeque;

use super::counters::Counters;
use super::message::{HandOver, Message, Terms};
use super::name::{Prefetch, Resource, Token};
use super::placement::Rule;
use crate::amf::lock::{Held, Mode};
use crate::icl::{Epoch, Slot, SlotSet};

/// A lock that users of this node want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Want {
    /// What.
    pub resource: Resource,
    /// For what.
    pub mode: Mode,
    /// Higher is sooner, if queues go by priority.
    pub priority: u8,
    /// What else is going to be wanted soon, if it costs nothing (B19).
    pub prefetch: Prefetch,
    /// Whoever wants it for writing takes dirty data with it. Forgotten when an epoch begins.
    pub takes: bool,
}

/// What happens. "The layer below" is the node's own lock table with its users, [`crate::amf::lock`], and the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Users want what this node does not hold, or not enough of. [`Action::Granted`] or [`Action::Failed`] follows, or nothing, if an
    /// earlier want of the same resource is not answered yet: then one answer is for both, and whoever finds it too little asks again. Locks that were
    /// prefetched are kept here and not announced: the first want of one is answered at once.
    Want(Want),
    /// Answers [`Action::Recall`]: no user is inside beyond what may be kept, no drive command of the rows is under way, and there is no dirty data
    /// that was not destaged or, with `is_handed_over`, sent to the next writer (PROTOCOL H13).
    Quiesced {
        /// What.
        resource: Resource,
        /// Its dirty data is on its way to the next writer that the recall named. The layer below keeps it until [`Action::Settled`].
        is_handed_over: bool,
    },
    /// Nobody uses this any more, and it is as quiet as [`Event::Quiesced`] says: all but `keep` may go. Without effect while a recall is
    /// to be answered. Also lets a writer go on reading (Figure 19, 1360).
    GiveBack {
        /// What.
        resource: Resource,
        /// What is kept.
        keep: Held,
    },
    /// Dirty data of the last writer has come; it counts only once [`Action::Granted`] names it, and is to be dropped at [`Event::Enter`].
    DataCame {
        /// What.
        resource: Resource,
        /// From whom, of which of its grants.
        hand_over: HandOver,
    },
    /// The layer below has made durable what was handed over with a grant: from now on the giver need not have it any more.
    Secured {
        /// What.
        resource: Resource,
    },
    /// A message came in on the link, in this epoch.
    Message {
        /// From whom.
        from: Slot,
        /// The epoch that it was sent in.
        epoch: Epoch,
        /// What it says.
        message: Message,
    },
    /// These members are not heard: nothing is granted to them until they are left out of a later one (PROTOCOL 3.4, step 1).
    Suspect(SlotSet),
    /// An epoch was decided: nothing of the last one is granted or received any more, what is held stays held, and all report to the
    /// arbiters of the new one. [`Action::Reported`] follows. A recall that is not answered yet is told no second time, but its next writer is
    /// forgotten: dirty data is destaged.
    Enter {
        /// The epoch, greater than the last one.
        epoch: Epoch,
        /// Its members, this node among them.
        members: SlotSet,
        /// Those that were members of the last one in the same life.
        survivors: SlotSet,
        /// How arbiters are placed in it.
        rule: Rule,
    },
    /// What members that are gone have left undone is done: locks are granted, once everyone has reported.
    Recovered(Epoch),
    /// Time has passed: due when [`super::Arbitration::wake_at_ns`] says so.
    Tick,
}

/// Why a want was not met. Nothing is held on account of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// This node's table is full of locks in use, and enough others wait for room.
    HolderFull,
    /// The arbiter's table is full, and enough others wait for room.
    ArbiterFull,
}

/// What a peer must not say in well-formed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Misbehaviour {
    /// It asks the wrong node: its map of arbiters is another one.
    NotArbiter,
    /// It holds what others hold, too.
    Conflict,
    /// It is no member of the epoch.
    NotMember,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send to a peer; never to this node itself.
    Send {
        /// To whom.
        to: Slot,
        /// What.
        message: Message,
    },
    /// This node holds a resource: users may come in, as far as the mode goes.
    Granted {
        /// What.
        resource: Resource,
        /// For what.
        mode: Mode,
        /// The number of the last write grant that is known: the own one, when this is for writing.
        token: Token,
        /// Its dirty data, which came in with [`Event::DataCame`], is this node's now, and lost with it until [`Event::Secured`] has followed, also if the
        /// resource is recalled or given back meanwhile: it does not go before that. [`Action::Confirmed`] answers.
        hand_over: Option<HandOver>,
    },
    /// Others want it: let those finish who are inside, nobody else in beyond what may be kept, and answer [`Event::Quiesced`]. Told once, answered once.
    Recall {
        /// What.
        resource: Resource,
        /// What may be kept of it, and to whom dirty data may go.
        terms: Terms,
    },
    /// A want is not met.
    Failed {
        /// What.
        resource: Resource,
        /// Why.
        failure: Failure,
    },
    /// The next writer has made the dirty data durable that was handed over: it may be forgotten here.
    Settled {
        /// What.
        resource: Resource,
        /// Of which grant.
        token: Token,
    },
    /// The giver of the dirty data that came with a grant knows that it was taken, or is gone. What users have written since then may be destaged
    /// before, but must not leave this node's journal before: if this node is lost, only that tells the giver's copy from the newest data.
    Confirmed {
        /// What.
        resource: Resource,
    },
    /// The taker of dirty data that was handed over is gone, and whether it had made any of that durable only its journal tells: whoever recovers the resource brings in
    /// its place what this node and the taker have of it. The data is not this node's own any more, and the resource is nobody's.
    Voided {
        /// What.
        resource: Resource,
        /// Of which grant it is.
        token: Token,
    },
    /// Dirty data that was handed over has found no taker: this node holds the resource for writing again, and the data is its own. Not put off until [`Event::Recovered`], because
    /// that may wait for the data to be destaged.
    Reinstated {
        /// What.
        resource: Resource,
        /// Of which grant it is.
        token: Token,
    },
    /// A member that is gone held this for writing, or was to have dirty data of it: it must be recovered before [`Event::Recovered`]. What a lost member arbitrated
    /// and held itself nobody else knows: journals and bitmaps name it.
    NeedsRecovery {
        /// What.
        resource: Resource,
        /// Who held it.
        holder: Slot,
        /// The last token that is known.
        token: Token,
    },
    /// All arbiters of the epoch know what this node has and wants.
    Reported(Epoch),
    /// A peer breaks the rules: its session ends.
    Misbehaved {
        /// Who.
        peer: Slot,
        /// How.
        what: Misbehaviour,
    },
}

/// Where actions and messages go.
pub(super) struct Outbox<'a> {
    pub(super) local: Slot,
    pub(super) actions: &'a mut Vec<Action>,
    /// Messages of this node to itself.
    pub(super) own: &'a mut VecDeque<Message>,
    pub(super) counters: &'a mut Counters,
}

impl Outbox<'_> {
    /// Sends a message; one to this node itself leaves it not and costs nothing.
    pub(super) fn send(&mut self, to: Slot, message: Message) {
        if to == self.local {
            self.own.push_back(message);
        } else {
            self.counters.sent[message.kind().index()] += 1;
            self.actions.push(Action::Send { to, message });
        }
    }

    pub(super) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }
}
