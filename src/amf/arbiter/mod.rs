//! The lock protocol between nodes, for one redundancy group and one shard of its resources (PROTOCOL, decisions 6-8; H10-H16; Figures 18-20 of the
//! patent application in `seed/`).
//!
//! [`Arbitration`] is one node's part. It joins a holder, which knows what this node has and wants, with an arbiter, which decides for the resources that are
//! placed here; messages between the two do not leave the node. What users of this node do with what it holds is the business of [`crate::amf::lock`], the layer
//! below, which is told what is granted and recalled and says when something is quiet.
//!
//! | file | part |
//! |---|---|
//! | `name`, `message` | what is locked, and what nodes say about it |
//! | `placement` | which node arbitrates what |
//! | `decide`, `docket`, `queue` | the arbiter: all resources; one resource; who waits for it |
//! | `holder` | what this node has and wants; what comes, what goes, and what an epoch does to it |
//! | `report` | telling the arbiters of a new epoch |
//! | `table` | both tables |
//!
//! Invariants:
//! - I1: one node holds a resource for writing and nobody beside it, or any number for reading, within and across epochs.
//! - I2: a grant is of use in its epoch only, or as a hold that was reported to the next; the arbiters' dockets and the holders' entries say the same when an epoch opens.
//! - I18: a lock costs at most two messages, and two more for each holder that has to give it back, however many nodes there are.
//! - I19: whoever waits is served, unless told that the table is full.
//!
//! What the link owes: within an epoch all messages of a pair arrive once and in order. Where an arbitership travels that is needed. Otherwise requests have to arrive once, any
//! order will do, and other messages may arrive twice: every grant has a number of its own, and what does not fit is of no effect. The protocol knows no time but
//! the shortest hold of a lock, and nothing is taken from anybody by a timer. It knows no lease either: whoever carries out its actions sends no grant, and lets no user in, without
//! one (PROTOCOL H05).

mod counters;
mod decide;
mod docket;
mod event;
mod holder;
pub mod message;
#[cfg(test)]
mod model;
mod name;
mod placement;
mod queue;
mod report;
#[cfg(test)]
mod station;
mod table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use self::decide::Arbiter;
use self::event::Outbox;
use self::holder::Holder;
use self::message::{Grant, Message, Seat};
use self::report::Reporter;
use crate::amf::lock::Held;
use crate::icl::{Epoch, Slot, SlotSet};

pub use self::counters::{Counters, Status};
pub use self::decide::PARKED_MAX;
pub use self::event::{Action, Event, Failure, Misbehaviour, Want};
pub use self::name::{Granularity, Number, Prefetch, Resource, Token};
pub use self::placement::{Balanced, FixedMap, LastWriter, Placement, RUN, Rule, SingleArbiter};
pub use self::queue::{PASSED_MAX, QueueOrder};

/// How long a lock is kept before a recall is honoured, unless its grant said otherwise (PROTOCOL H15).
pub const HOLD_NS_MIN: u64 = 200_000;

/// What one node's part is told when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub local: Slot,
    /// In which order requests are served; the same on all nodes.
    pub order: QueueOrder,
    /// Usually [`HOLD_NS_MIN`].
    pub hold_ns_min: u64,
    /// Most resources that this node holds and waits for, about 220 bytes each.
    pub holder_limit: usize,
    /// Most resources for which this node takes requests as their arbiter, about 520 bytes each. What peers hold when an epoch begins, and notes about
    /// arbiterships that are at the other one of two nodes, come on top.
    pub arbiter_limit: usize,
    /// Most wants that wait for room in the holder's table.
    pub queue_max: usize,
}

/// See the module.
#[derive(Clone, Debug, Hash)]
pub struct Arbitration {
    parts: Parts,
    /// Messages of this node to itself; empty between events.
    own: VecDeque<Message>,
    counters: Counters,
}

impl Arbitration {
    /// A node that is in no epoch yet: it may want locks, and gets none before the first one opens.
    ///
    /// Panics if a limit is 0.
    pub fn new(config: Config) -> Self {
        let Config {
            local,
            order,
            hold_ns_min,
            holder_limit,
            arbiter_limit,
            queue_max,
        } = config;
        Self {
            parts: Parts {
                local,
                arbiter: Arbiter::new(local, order, arbiter_limit),
                holder: Holder::new(local, hold_ns_min, holder_limit, queue_max),
                reporter: Reporter::default(),
            },
            own: VecDeque::with_capacity(16),
            counters: Counters::default(),
        }
    }

    /// Advances the protocol by one event; what has to be done goes to `actions`, in order.
    ///
    /// Panics if an event contradicts our own actions or breaks what [`Event`] says; what a peer says wrongly is [`Action::Misbehaved`].
    pub fn handle(&mut self, now_ns: u64, event: Event, actions: &mut Vec<Action>) {
        let Self { parts, own, counters } = self;
        let mut out = Outbox {
            local: parts.local,
            actions,
            own,
            counters,
        };
        parts.handle(now_ns, event, &mut out);
        loop {
            // Each message of a node to itself is part of one of the two exchanges that an event begins: their number is bounded by the tables.
            while let Some(message) = out.own.pop_front() {
                parts.receive(now_ns, parts.local, message, &mut out);
            }
            let has_moved = parts.let_in(&mut out);
            if !has_moved && out.own.is_empty() {
                return;
            }
        }
    }

    /// When [`Event::Tick`] is due: a recall waits for the shortest hold to be over. Otherwise every few milliseconds will do.
    pub fn wake_at_ns(&self) -> Option<u64> {
        self.parts.holder.wake_at_ns()
    }

    /// What this node may do with a resource as far as the protocol goes: what a recall or the layer below leaves of it is known there.
    pub fn hold(&self, resource: Resource) -> Held {
        let (hold, ..) = self.parts.holder.standing(resource);
        hold
    }

    /// All resources that this node has, for reading or writing: also such that it is about to give back, and such whose dirty data is on its way to
    /// somebody who may not have it, but lives: it is there or comes back, and nobody else may touch it.
    pub fn held(&self) -> impl Iterator<Item = Resource> + '_ {
        self.parts.holder.held()
    }

    /// The last write grant of a resource that this node knows of, if it holds that.
    pub fn token(&self, resource: Resource) -> Token {
        let (.., token) = self.parts.holder.standing(resource);
        token
    }

    /// The epoch that this node is in.
    pub const fn epoch(&self) -> Epoch {
        self.parts.arbiter.epoch()
    }

    /// Whether the arbiter of this node grants locks.
    pub const fn is_open(&self) -> bool {
        self.parts.arbiter.is_open()
    }

    /// Resources that this node holds or waits for, and such that it is the arbiter of or keeps a note about.
    pub const fn counts(&self) -> (usize, usize) {
        (self.parts.holder.count(), self.parts.arbiter.dockets().count())
    }

    /// What was counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What this node knows of one resource, for operators.
    pub fn status(&self, resource: Resource) -> Status {
        let (hold, is_waiting, is_recalled, token) = self.parts.holder.standing(resource);
        let arbiter = &self.parts.arbiter;
        let docket = arbiter.dockets().get(resource);
        let queue = docket.map(|docket| docket.queue().iter().map(|waiting| waiting.slot).collect());
        Status {
            resource,
            arbiter: arbiter.route(resource),
            hold,
            is_waiting,
            is_recalled,
            token: docket.map_or(token, |docket| docket.token.max(token)),
            holders: docket.map_or(SlotSet::EMPTY, |docket| docket.holders()),
            queue: queue.unwrap_or_default(),
        }
    }
}

/// What works together.
#[derive(Clone, Debug, Hash)]
struct Parts {
    local: Slot,
    arbiter: Arbiter,
    holder: Holder,
    reporter: Reporter,
}

impl Parts {
    fn handle(&mut self, now_ns: u64, event: Event, out: &mut Outbox<'_>) {
        let Self { arbiter, holder, .. } = self;
        match event {
            Event::Want(want) => holder.want(want, arbiter, out),
            Event::Quiesced {
                resource,
                is_handed_over,
            } => holder.quiesced(resource, is_handed_over, arbiter, out),
            Event::GiveBack { resource, keep } => holder.give_back(resource, keep, arbiter, out),
            Event::DataCame { resource, hand_over } => {
                holder.data_came(now_ns, resource, hand_over, arbiter, out)
            }
            Event::Secured { resource } => holder.secured(resource, out),
            Event::Message { from, epoch, message } => {
                if epoch != arbiter.epoch() {
                    out.counters.stale += 1;
                } else if !arbiter.members().contains(from) || from == self.local {
                    let what = Misbehaviour::NotMember;
                    out.push(Action::Misbehaved { peer: from, what });
                } else {
                    self.receive(now_ns, from, message, out);
                }
            }
            Event::Suspect(frozen) => arbiter.suspect(frozen, out),
            Event::Enter {
                epoch,
                members,
                survivors,
                rule,
            } => self.enter((epoch, rule), members, survivors, out),
            Event::Recovered(epoch) => {
                if epoch == arbiter.epoch() {
                    arbiter.recovered(out);
                }
            }
            Event::Tick => {
                holder.tick(now_ns, arbiter, out);
                arbiter.tick(out);
            }
        }
    }

    fn enter(
        &mut self,
        (epoch, rule): (Epoch, Rule),
        members: SlotSet,
        survivors: SlotSet,
        out: &mut Outbox<'_>,
    ) {
        assert!(epoch > self.arbiter.epoch(), "epochs only grow");
        assert!(
            members.contains(self.local) && members.covers(survivors),
            "only a member enters an epoch"
        );
        assert!(
            members.count() <= 2 || !rule.placement().travels(),
            "with more members, who arbitrates would have to be searched for"
        );
        self.arbiter.enter((epoch, rule), members, survivors, out);
        self.holder.enter(survivors, &self.arbiter, out);
        self.reporter.enter(members, &self.holder, &self.arbiter, out);
    }

    fn receive(&mut self, now_ns: u64, from: Slot, message: Message, out: &mut Outbox<'_>) {
        let Self {
            arbiter,
            holder,
            reporter,
            ..
        } = self;
        match message {
            Message::Request(request) => arbiter.request(from, request, out),
            Message::Recall {
                resource,
                number,
                terms,
            } => holder.recall(now_ns, from, (resource, number), terms, arbiter, out),
            Message::Released {
                resource,
                number,
                kept,
                is_handed_over,
            } => arbiter.released(from, (resource, number), kept, is_handed_over, out),
            Message::Grant(grant) => self.granted(now_ns, from, &grant, out),
            Message::Moved { resource, number } => {
                if holder.expects(resource, number) {
                    holder.ask_again(resource, arbiter, out);
                }
            }
            Message::Refused { resource, number } => holder.refused(resource, number, out),
            Message::Returned { resource, token } => {
                arbiter.returned(resource, token, out);
                holder.ask_again(resource, arbiter, out);
            }
            Message::Taken { resource, token } => holder.taken(from, resource, token, arbiter, out),
            Message::Noted { resource, token } => holder.noted(from, resource, token, arbiter, out),
            Message::Report {
                batch,
                is_last,
                claims,
            } => arbiter.report(from, batch, is_last, claims, out),
            Message::ReportTaken { batch } => reporter.taken(from, batch, holder, arbiter, out),
        }
    }

    /// A lock comes, and where that is so, the arbitership with it.
    fn granted(&mut self, now_ns: u64, from: Slot, grant: &Grant, out: &mut Outbox<'_>) {
        let travels = self.arbiter.travels();
        let is_arbiter = from == self.local || travels || self.arbiter.home(grant.resource) == from;
        if !is_arbiter || grant.seat.is_some() && !travels {
            let what = Misbehaviour::NotArbiter;
            out.push(Action::Misbehaved { peer: from, what });
            return;
        }
        if grant.seat.is_none() {
            self.holder.granted(now_ns, from, grant, &self.arbiter, out);
            return;
        }
        self.take_seat(from, grant, out);
        for (_, resource) in grant.prefetch.resources(grant.resource) {
            let further = Grant {
                resource,
                prefetch: Prefetch::NONE,
                when_done: None,
                hand_over: None,
                seat: Some(Seat { waiting: None }),
                ..*grant
            };
            self.take_seat(from, &further, out);
        }
        if self.holder.expects(grant.resource, grant.number) {
            self.holder.granted(now_ns, from, grant, &self.arbiter, out);
        }
    }

    /// Takes an arbitership. A lock that comes with it is given up here if it is not expected: it was prefetched, and asked for by itself since.
    fn take_seat(&mut self, from: Slot, grant: &Grant, out: &mut Outbox<'_>) {
        let Grant { resource, number, .. } = *grant;
        if self.arbiter.route(resource) == self.local {
            out.counters.stale += 1;
            return;
        }
        let is_expected = self.holder.expects(resource, number);
        self.arbiter.take_seat(from, grant, out);
        if !is_expected {
            let released = Message::Released {
                resource,
                number,
                kept: Held::Nothing,
                is_handed_over: false,
            };
            out.send(self.local, released);
            self.holder.ask_again(resource, &self.arbiter, out);
        }
    }

    fn let_in(&mut self, out: &mut Outbox<'_>) -> bool {
        let has_moved = self.holder.let_in(&self.arbiter, out);
        self.arbiter.let_in(out) || has_moved
    }
}
