//! The holder: what one node has of resources, and what it has asked for.
//!
//! Owns an entry for each resource that this node holds, waits for, or has handed dirty data of over to somebody who may not have it yet. What
//! is held stays held until an arbiter asks for it (B2), until nobody uses it any more, or until room is needed for another; and never goes before the layer below
//! has said that it is quiet (PROTOCOL H13). No timer ever releases anything.
//!
//! When the table is full, wants wait in a bounded line, first come, first served, while resources in no particular use are asked back; what finds no place in
//! the line fails.

mod epoch;
mod grant;
mod release;

use std::collections::{BTreeSet, VecDeque};

use super::decide::Arbiter;
use super::event::{Action, Failure, Outbox, Want};
use super::message::{Grant, HandOver, Message, Request, Terms};
use super::name::{Number, Prefetch, Resource, Token};
use super::table::Table;
use crate::amf::lock::{Held, Mode};
use crate::icl::Slot;

/// What is to be kept when nothing is, and nobody writes next.
const NOTHING: Terms = Terms {
    keep: Held::Nothing,
    next: None,
};

/// What this node has of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    /// It was named in another resource's request.
    Prefetching { number: Number, recalled: Option<Terms> },
    /// It was asked for.
    Waiting(Waiting),
    /// It is here.
    Kept(Kept),
    /// Its dirty data is on its way to the next writer, and still here.
    Giving(Giving),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    number: Number,
    /// As it was asked: with the prefetch that was sent.
    want: Want,
    /// A recall that has overtaken its grant.
    recalled: Option<Terms>,
    /// Dirty data that has come.
    data: Option<HandOver>,
    /// The grant, if its dirty data has not come.
    grant: Option<Grant>,
    /// A want that this request is too little for.
    then: Option<Want>,
}

impl Waiting {
    const fn new(number: Number, want: Want) -> Self {
        Self {
            number,
            want,
            recalled: None,
            data: None,
            grant: None,
            then: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kept {
    number: Number,
    mode: Mode,
    token: Token,
    since_ns: u64,
    recall: Recall,
    /// It came with the grant of another one, and nobody has asked for it since: the layer below does not know of it.
    is_prefetched: bool,
    /// Dirty data came with it, and the giver does not know yet: it stays until then, so that the giver never takes its older data for the newest.
    owes: Option<HandOver>,
    /// That data is durable here: until then the giver is not told.
    is_secured: bool,
    /// What is wanted once it is given back.
    then: Option<Want>,
}

/// How far giving back is, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Recall {
    None,
    /// Others want it, and it has not been here for long (PROTOCOL H15).
    Due {
        at_ns: u64,
        terms: Terms,
    },
    /// The layer below was told.
    Told(Terms),
    /// The layer below is done; the giver of its dirty data is still to hear that this came.
    Quiet {
        terms: Terms,
        is_handed_over: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Giving {
    /// Names it in reports: another one in each epoch; 0, which is never granted, in that of the hand-over.
    number: Number,
    /// The hold that it was given from: nothing but the hand-over may tell the arbiter that this is over.
    given: Number,
    token: Token,
    to: Slot,
    /// A recall that has overtaken the grant that reinstates this.
    recalled: Option<Terms>,
    then: Option<Want>,
}

/// See the module.
#[derive(Clone, Debug, Hash)]
pub(super) struct Holder {
    local: Slot,
    hold_ns_min: u64,
    entries: Table<Entry>,
    /// Wants that wait for room, at most `queue_max`.
    queue: VecDeque<Want>,
    queue_max: usize,
    /// Where to look next for a resource to give back.
    hand: usize,
    last_number: u64,
    /// The first request number that the arbiters of this epoch got by itself and not in a report.
    first_number: Number,
    /// Recalls that are due at a time.
    due: BTreeSet<(u64, Resource)>,
}

impl Holder {
    /// Memory of one entry.
    #[cfg(test)]
    pub(super) const ENTRY_BYTES: usize = Table::<Entry>::PLACE_BYTES;

    pub(super) fn new(local: Slot, hold_ns_min: u64, limit: usize, queue_max: usize) -> Self {
        Self {
            local,
            hold_ns_min,
            entries: Table::new(limit),
            queue: VecDeque::with_capacity(queue_max),
            queue_max,
            hand: 0,
            last_number: 0,
            first_number: Number(0),
            due: BTreeSet::new(),
        }
    }

    pub(super) fn wake_at_ns(&self) -> Option<u64> {
        self.due.first().map(|(at_ns, _)| *at_ns)
    }

    pub(super) const fn count(&self) -> usize {
        self.entries.count()
    }

    /// Ends of indices for [`Self::claim`].
    pub(super) const fn end(&self) -> usize {
        self.entries.end()
    }

    /// All that is here, also what is about to go, and what was given to somebody who lives.
    pub(super) fn held(&self) -> impl Iterator<Item = Resource> + '_ {
        let is_here = |entry: &Entry| match entry {
            Entry::Kept(_) | Entry::Giving(_) => true,
            Entry::Prefetching { .. } | Entry::Waiting(_) => false,
        };
        let entries = self.entries.iter();
        entries
            .filter(move |(_, entry)| is_here(entry))
            .map(|(resource, _)| resource)
    }

    /// What is held, whether it is waited for, whether it is to go, and the token.
    pub(super) fn standing(&self, resource: Resource) -> (Held, bool, bool, Token) {
        match self.entries.get(resource) {
            None | Some(Entry::Prefetching { .. }) => (Held::Nothing, false, false, Token::default()),
            Some(Entry::Waiting(waiting)) => {
                let token = waiting.grant.map_or(Token::default(), |grant| grant.token);
                (Held::Nothing, true, false, token)
            }
            Some(Entry::Kept(held)) => {
                let recalled = held.recall != Recall::None;
                (held.mode.into(), held.then.is_some(), recalled, held.token)
            }
            Some(Entry::Giving(giving)) => (Held::Nothing, giving.then.is_some(), false, giving.token),
        }
    }

    /// What was given to a node that is gone is nobody's any more: if it is wanted here it is asked for in the report.
    pub(super) fn void(&mut self, resource: Resource, number: Number, then: Option<Want>) {
        match then {
            None => drop(self.entries.remove(resource)),
            Some(want) => {
                let want = Want {
                    prefetch: Prefetch::NONE,
                    takes: false,
                    ..want
                };
                self.put(resource, Entry::Waiting(Waiting::new(number, want)));
            }
        }
    }

    fn next_number(&mut self) -> Number {
        self.last_number += 1;
        Number(self.last_number)
    }

    /// Users want what may not be here.
    pub(super) fn want(&mut self, want: Want, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        out.counters.wants += 1;
        let has_room = self.queue.is_empty() && !self.entries.is_full();
        if has_room || self.entries.get(want.resource).is_some() {
            self.want_now(want, arbiter, out);
        } else if self.queue.len() < self.queue_max {
            self.queue.push_back(want);
            self.evict(arbiter, out);
        } else {
            let failure = Failure::HolderFull;
            self.fail(want.resource, failure, out);
        }
    }

    fn fail(&self, resource: Resource, failure: Failure, out: &mut Outbox<'_>) {
        out.counters.failures += 1;
        out.push(Action::Failed { resource, failure });
    }

    fn want_now(&mut self, want: Want, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        let resource = want.resource;
        match self.entries.get_mut(resource) {
            // Its prefetch may wait for a long time behind others, and nobody may wait for a prefetch (PROTOCOL H14).
            None | Some(Entry::Prefetching { .. }) => self.ask(want, arbiter, out),
            Some(Entry::Waiting(waiting)) => {
                if !Held::from(waiting.want.mode).covers(want.mode) {
                    waiting.then = Some(want);
                }
            }
            Some(Entry::Giving(giving)) => giving.then = stronger(giving.then, want),
            Some(Entry::Kept(held)) => {
                let kept = match held.recall {
                    Recall::None | Recall::Due { .. } => Held::from(held.mode),
                    Recall::Told(terms) | Recall::Quiet { terms, .. } => terms.keep.min(held.mode.into()),
                };
                if !kept.covers(want.mode) {
                    held.then = stronger(held.then, want);
                    if matches!(held.recall, Recall::None | Recall::Due { .. }) {
                        // An upgrade: what is read meanwhile may be another's by then (PROTOCOL H14).
                        self.tell(resource, NOTHING, arbiter, out);
                    }
                } else if kept == Held::from(held.mode) {
                    out.counters.wants_held += 1;
                    out.counters.prefetch_hits += u64::from(held.is_prefetched);
                    held.is_prefetched = false;
                    let (mode, token) = (held.mode, held.token);
                    out.push(Action::Granted {
                        resource,
                        mode,
                        token,
                        hand_over: None,
                    });
                }
            }
        }
    }

    /// Asks the arbiter, and names what else may come.
    fn ask(&mut self, want: Want, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        let Want {
            resource,
            mode,
            priority,
            takes,
            ..
        } = want;
        let number = self.next_number();
        let route = arbiter.route(resource);
        let alone = Want {
            prefetch: Prefetch::NONE,
            ..want
        };
        self.put(resource, Entry::Waiting(Waiting::new(number, alone)));
        let mut prefetch = Prefetch::NONE;
        for (bit, further) in want.prefetch.resources(resource) {
            let is_known = self.entries.get(further).is_some();
            if !is_known && !self.entries.is_full() && arbiter.route(further) == route {
                let recalled = None;
                self.entries
                    .insert(further, Entry::Prefetching { number, recalled });
                prefetch = prefetch.with(bit);
            }
        }
        if let Some(Entry::Waiting(waiting)) = self.entries.get_mut(resource) {
            waiting.want.prefetch = prefetch;
        }
        let request = Request {
            resource,
            mode,
            priority,
            number,
            prefetch,
            takes,
        };
        out.send(route, Message::Request(request));
    }

    fn put(&mut self, resource: Resource, entry: Entry) {
        match self.entries.get_mut(resource) {
            Some(place) => *place = entry,
            None => {
                self.entries.insert(resource, entry);
            }
        }
    }

    /// The arbitership of a resource has moved: what waits for it is asked for where it is now. An arbiter that has that request already
    /// knows it by its number.
    pub(super) fn ask_again(&self, resource: Resource, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        if let Some(Entry::Waiting(waiting)) = self.entries.get(resource) {
            let request = Request {
                resource,
                mode: waiting.want.mode,
                priority: waiting.want.priority,
                number: waiting.number,
                prefetch: waiting.want.prefetch,
                takes: waiting.want.takes,
            };
            out.send(arbiter.route(resource), Message::Request(request));
        }
    }

    /// The first want in line is asked for if there is room now; whether it was.
    pub(super) fn let_in(&mut self, arbiter: &Arbiter, out: &mut Outbox<'_>) -> bool {
        let known = |want: &Want| self.entries.get(want.resource).is_some();
        if self.entries.is_full() && !self.queue.front().is_some_and(known) {
            return false;
        }
        let Some(want) = self.queue.pop_front() else {
            return false;
        };
        self.want_now(want, arbiter, out);
        true
    }

    /// The arbiter's table is full.
    pub(super) fn refused(&mut self, resource: Resource, number: Number, out: &mut Outbox<'_>) {
        let Some(Entry::Waiting(waiting)) = self.entries.get(resource) else {
            return;
        };
        if waiting.number != number {
            return;
        }
        let asked = waiting.want.prefetch;
        for (_, further) in asked.resources(resource) {
            if self.expects(further, number) {
                self.entries.remove(further);
            }
        }
        self.entries.remove(resource);
        self.fail(resource, Failure::ArbiterFull, out);
    }
}

/// The more demanding one of two wants.
fn stronger(known: Option<Want>, want: Want) -> Option<Want> {
    match known {
        Some(known) if Held::from(known.mode).covers(want.mode) => Some(known),
        Some(_) | None => Some(want),
    }
}
