//! The holder: what one node has of resources, and what it has asked for.
//!
//! Owns an entry for each resource that this node holds, waits for, or has handed dirty data of over to somebody who may not have it yet. What
//! is held stays held until an arbiter asks for it (B2), until nobody uses it any more, or until room is needed for another; and never goes before the layer below
//! has said that it is quiet (PROTOCOL H13). No timer ever releases anything.
//!
//! When the table is full, wants wait in a bounded line, first come, first served, while resources in no particular use are asked back; what finds no place in
//! the line fails.

use std::collections::{BTreeSet, VecDeque};

use super::decide::Arbiter;
use super::event::{Action, Failure, Outbox, Want};
use super::message::{Claim, ClaimKind, Grant, HandOver, Message, Request, Terms};
use super::name::{Hold, Number, Prefetch, Resource, Token};
use super::table::Table;
use crate::amf::lock::Mode;
use crate::icl::{Slot, SlotSet};

/// What is to be kept when nothing is, and nobody writes next.
const NOTHING: Terms = Terms {
    keep: Hold::None,
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
    Held(Held),
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Held {
    number: Number,
    mode: Mode,
    token: Token,
    since_ns: u64,
    recall: Recall,
    /// It came with the grant of another one, and nobody has asked for it since: the layer below does not know of it.
    is_prefetched: bool,
    /// Dirty data came with it, and the giver does not know yet: it stays until then, so that the giver never takes its older data for the newest.
    owes: Option<HandOver>,
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

    /// What is held, whether it is waited for, whether it is to go, and the token.
    pub(super) fn standing(&self, resource: Resource) -> (Hold, bool, bool, Token) {
        match self.entries.get(resource) {
            None | Some(Entry::Prefetching { .. }) => (Hold::None, false, false, Token::default()),
            Some(Entry::Waiting(waiting)) => {
                let token = waiting.grant.map_or(Token::default(), |grant| grant.token);
                (Hold::None, true, false, token)
            }
            Some(Entry::Held(held)) => {
                let recalled = held.recall != Recall::None;
                (held.mode.into(), held.then.is_some(), recalled, held.token)
            }
            Some(Entry::Giving(giving)) => (Hold::None, giving.then.is_some(), false, giving.token),
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
                if !Hold::from(waiting.want.mode).covers(want.mode) {
                    waiting.then = Some(want);
                }
            }
            Some(Entry::Giving(giving)) => giving.then = stronger(giving.then, want),
            Some(Entry::Held(held)) => {
                let kept = match held.recall {
                    Recall::None | Recall::Due { .. } => Hold::from(held.mode),
                    Recall::Told(terms) | Recall::Quiet { terms, .. } => terms.keep.min(held.mode.into()),
                };
                if !kept.covers(want.mode) {
                    held.then = stronger(held.then, want);
                    if matches!(held.recall, Recall::None | Recall::Due { .. }) {
                        // An upgrade: what is read meanwhile may be another's by then (PROTOCOL H14).
                        self.tell(resource, NOTHING, arbiter, out);
                    }
                } else if kept == Hold::from(held.mode) {
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
            ..
        } = want;
        let number = self.next_number();
        let route = arbiter.route(resource);
        let waiting = Waiting {
            number,
            want: Want {
                prefetch: Prefetch::NONE,
                ..want
            },
            recalled: None,
            data: None,
            grant: None,
            then: None,
        };
        self.put(resource, Entry::Waiting(waiting));
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
            };
            out.send(arbiter.route(resource), Message::Request(request));
        }
    }

    /// Whether a grant answers what this node has asked for.
    pub(super) fn expects(&self, resource: Resource, number: Number) -> bool {
        match self.entries.get(resource) {
            Some(Entry::Prefetching { number: asked, .. }) => *asked == number,
            Some(Entry::Waiting(waiting)) => waiting.number == number,
            Some(Entry::Held(_) | Entry::Giving(_)) | None => false,
        }
    }

    /// A lock comes from its arbiter, `from`.
    pub(super) fn granted(
        &mut self,
        now_ns: u64,
        from: Slot,
        grant: &Grant,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        let Grant { resource, number, .. } = *grant;
        match self.entries.get_mut(resource) {
            Some(Entry::Waiting(waiting)) if waiting.number == number => {
                let asked = waiting.want.prefetch;
                waiting.grant = Some(*grant);
                for (bit, further) in asked.resources(resource) {
                    self.prefetched(now_ns, further, grant, grant.prefetch.covers(bit), arbiter, out);
                }
                self.complete(now_ns, resource, arbiter, out);
            }
            Some(Entry::Giving(giving)) if giving.number == number => {
                let Giving {
                    token,
                    recalled,
                    then,
                    ..
                } = *giving;
                let held = Held {
                    number,
                    mode: Mode::Write,
                    token,
                    since_ns: now_ns,
                    recall: Recall::None,
                    is_prefetched: false,
                    owes: None,
                    then: None,
                };
                self.put(resource, Entry::Held(held));
                reinstated(resource, token, then, out);
                if let Some(terms) = recalled {
                    self.tell(resource, terms, arbiter, out);
                }
            }
            Some(Entry::Held(held)) if held.number == number => out.counters.stale += 1,
            Some(Entry::Giving(giving)) if giving.given == number => out.counters.stale += 1,
            Some(Entry::Prefetching { .. } | Entry::Waiting(_) | Entry::Held(_) | Entry::Giving(_))
            | None => {
                out.counters.stale += 1;
                self.decline(from, resource, number, out);
                for (_, further) in grant.prefetch.resources(resource) {
                    let is_held =
                        matches!(self.entries.get(further), Some(Entry::Held(held)) if held.number == number);
                    if !is_held {
                        self.decline(from, further, number, out);
                    }
                }
            }
        }
    }

    /// Gives back at once what this node did not ask for, or does not hold.
    fn decline(&self, to: Slot, resource: Resource, number: Number, out: &mut Outbox<'_>) {
        let released = Message::Released {
            resource,
            number,
            kept: Hold::None,
            is_handed_over: false,
        };
        out.send(to, released);
    }

    /// What became of one further resource of a request.
    fn prefetched(
        &mut self,
        now_ns: u64,
        resource: Resource,
        grant: &Grant,
        is_granted: bool,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        let Grant {
            number, mode, token, ..
        } = *grant;
        let recalled = match self.entries.get(resource) {
            Some(Entry::Prefetching {
                number: asked,
                recalled,
            }) if *asked == number => *recalled,
            // It was asked for by itself since then; by that the arbiter knows that this grant is not used.
            Some(Entry::Prefetching { .. } | Entry::Waiting(_) | Entry::Held(_) | Entry::Giving(_))
            | None => return,
        };
        if !is_granted {
            self.entries.remove(resource);
            return;
        }
        out.counters.prefetched += 1;
        let held = Held {
            number,
            mode,
            token,
            since_ns: now_ns,
            recall: Recall::None,
            is_prefetched: true,
            owes: None,
            then: None,
        };
        self.put(resource, Entry::Held(held));
        if let Some(terms) = recalled {
            self.tell(resource, terms, arbiter, out);
        }
    }

    /// Lets users in, if everything that makes the grant valid is here.
    fn complete(&mut self, now_ns: u64, resource: Resource, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        let Some(Entry::Waiting(waiting)) = self.entries.get(resource) else {
            return;
        };
        let Waiting {
            number,
            recalled,
            data,
            then,
            ..
        } = *waiting;
        let Some(grant) = waiting.grant else { return };
        if grant.hand_over.is_some() && grant.hand_over != data {
            return;
        }
        let Grant {
            mode,
            token,
            hand_over,
            when_done,
            ..
        } = grant;
        let held = Held {
            number,
            mode,
            token,
            since_ns: now_ns,
            recall: Recall::None,
            is_prefetched: false,
            owes: hand_over,
            then: None,
        };
        self.put(resource, Entry::Held(held));
        out.counters.grants += 1;
        out.push(Action::Granted {
            resource,
            mode,
            token,
            hand_over,
        });
        if let Some(HandOver { from, token }) = hand_over {
            out.counters.hand_overs += 1;
            out.send(from, Message::Taken { resource, token });
        }
        let upgrade = then.filter(|want| !Hold::from(mode).covers(want.mode));
        if let Some(Entry::Held(held)) = self.entries.get_mut(resource) {
            held.then = upgrade;
        }
        out.counters.releases_when_done += u64::from(when_done.is_some());
        // Users that wait are let in by the grant before they hear of this: one operation at least (PROTOCOL H15).
        if let Some(terms) = when_done.or(recalled).or(upgrade.map(|_| NOTHING)) {
            self.tell(resource, terms, arbiter, out);
        }
    }

    /// Dirty data of the last writer has come.
    pub(super) fn data_came(
        &mut self,
        now_ns: u64,
        resource: Resource,
        hand_over: HandOver,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        if let Some(Entry::Waiting(waiting)) = self.entries.get_mut(resource) {
            let newest = waiting.data.is_none_or(|data| data.token <= hand_over.token);
            if newest {
                waiting.data = Some(hand_over);
            }
            self.complete(now_ns, resource, arbiter, out);
        }
    }

    /// The arbiter, `from`, asks for something back.
    pub(super) fn recall(
        &mut self,
        now_ns: u64,
        from: Slot,
        (resource, number): (Resource, Number),
        terms: Terms,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        match self.entries.get_mut(resource) {
            Some(Entry::Prefetching {
                number: asked,
                recalled,
            }) if *asked == number => *recalled = Some(terms),
            Some(Entry::Waiting(waiting)) if waiting.number == number => waiting.recalled = Some(terms),
            Some(Entry::Held(held)) if held.number == number => {
                let hold = Hold::from(held.mode);
                if held.recall != Recall::None {
                    return;
                }
                if terms.keep >= hold {
                    // Its report has told more than it has by now, or this was asked twice.
                    let released = Message::Released {
                        resource,
                        number,
                        kept: hold,
                        is_handed_over: false,
                    };
                    out.send(from, released);
                    return;
                }
                let at_ns = held.since_ns.saturating_add(self.hold_ns_min);
                if at_ns <= now_ns || held.is_prefetched {
                    self.tell(resource, terms, arbiter, out);
                } else {
                    held.recall = Recall::Due { at_ns, terms };
                    self.due.insert((at_ns, resource));
                }
            }
            Some(Entry::Giving(giving)) => {
                if giving.number == number {
                    giving.recalled = Some(terms);
                }
            }
            Some(Entry::Prefetching { .. } | Entry::Waiting(_) | Entry::Held(_)) | None => {
                // It went before the recall came.
                out.counters.stale += 1;
                self.decline(from, resource, number, out);
            }
        }
    }

    /// Tells the layer below to finish with a resource that is held. What it does not know of goes at once.
    fn tell(&mut self, resource: Resource, terms: Terms, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        let Some(Entry::Held(held)) = self.entries.get_mut(resource) else {
            return;
        };
        if let Recall::Due { at_ns, .. } = held.recall {
            self.due.remove(&(at_ns, resource));
        }
        if held.is_prefetched {
            held.recall = Recall::Quiet {
                terms,
                is_handed_over: false,
            };
            self.release_if_quiet(resource, arbiter, out);
            return;
        }
        held.recall = Recall::Told(terms);
        out.counters.recalls += 1;
        out.push(Action::Recall { resource, terms });
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now_ns: u64, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        while let Some(&(at_ns, resource)) = self.due.first() {
            if at_ns > now_ns {
                break;
            }
            self.due.remove(&(at_ns, resource));
            if let Some(Entry::Held(held)) = self.entries.get(resource)
                && let Recall::Due { terms, .. } = held.recall
            {
                self.tell(resource, terms, arbiter, out);
            }
        }
        if !self.queue.is_empty() && self.entries.is_full() {
            self.evict(arbiter, out);
        }
    }

    /// Asks the layer below for the next resource round the table that nobody has asked for.
    fn evict(&mut self, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        let end = self.entries.end();
        for _ in 0..end {
            self.hand = (self.hand + 1) % end;
            let Some((resource, Entry::Held(held))) = self.entries.at(self.hand) else {
                continue;
            };
            if held.recall == Recall::None {
                out.counters.evictions += 1;
                self.tell(resource, NOTHING, arbiter, out);
                return;
            }
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

    /// The layer below is done with what it was told to finish with.
    pub(super) fn quiesced(
        &mut self,
        resource: Resource,
        is_handed_over: bool,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        let Some(Entry::Held(held)) = self.entries.get_mut(resource) else {
            return;
        };
        let Recall::Told(terms) = held.recall else {
            return;
        };
        assert!(
            !is_handed_over || (held.mode.is_write() && terms.next.is_some()),
            "dirty data goes to the next writer that the recall named"
        );
        held.recall = Recall::Quiet {
            terms,
            is_handed_over,
        };
        self.release_if_quiet(resource, arbiter, out);
    }

    /// Nobody uses it any more.
    pub(super) fn give_back(
        &mut self,
        resource: Resource,
        keep: Hold,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        let Some(Entry::Held(held)) = self.entries.get_mut(resource) else {
            return;
        };
        if keep >= held.mode.into() {
            return;
        }
        match &mut held.recall {
            Recall::None => {}
            // The arbiter asks again if this is not enough.
            Recall::Due { at_ns, .. } => {
                self.due.remove(&(*at_ns, resource));
            }
            Recall::Quiet { terms, .. } => {
                terms.keep = keep.min(terms.keep);
                return;
            }
            Recall::Told(_) => return,
        }
        held.recall = Recall::Quiet {
            terms: Terms { keep, next: None },
            is_handed_over: false,
        };
        self.release_if_quiet(resource, arbiter, out);
    }

    /// Gives back what is quiet, as soon as the giver of its dirty data knows that this was taken.
    fn release_if_quiet(&mut self, resource: Resource, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        let Some(Entry::Held(held)) = self.entries.get(resource) else {
            return;
        };
        let held = *held;
        let Recall::Quiet {
            terms,
            is_handed_over,
        } = held.recall
        else {
            return;
        };
        if held.owes.is_some() {
            return;
        }
        let mut kept = Hold::None;
        if let Some(to) = terms.next.filter(|_| is_handed_over) {
            let giving = Giving {
                number: Number(0),
                given: held.number,
                token: held.token,
                to,
                recalled: None,
                then: held.then,
            };
            self.put(resource, Entry::Giving(giving));
        } else if terms.keep == Hold::Read && held.mode.is_write() {
            kept = Hold::Read;
            let reader = Held {
                mode: Mode::Read,
                recall: Recall::None,
                ..held
            };
            self.put(resource, Entry::Held(reader));
        } else if let Some(want) = held.then {
            // To ask again is to give back.
            self.ask(want, arbiter, out);
            return;
        } else {
            self.entries.remove(resource);
        }
        let released = Message::Released {
            resource,
            number: held.number,
            kept,
            is_handed_over,
        };
        out.send(arbiter.route(resource), released);
        if kept == Hold::Read && held.then.is_some() {
            self.tell(resource, NOTHING, arbiter, out);
        }
    }

    /// The next writer says that it has the dirty data.
    pub(super) fn taken(
        &mut self,
        from: Slot,
        resource: Resource,
        token: Token,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        out.send(from, Message::Noted { resource, token });
        let Some(Entry::Giving(giving)) = self.entries.get(resource) else {
            return;
        };
        let giving = *giving;
        if giving.to != from || giving.token != token {
            return;
        }
        out.push(Action::Settled { resource, token });
        self.entries.remove(resource);
        if let Some(want) = giving.then {
            self.ask(want, arbiter, out);
        }
    }

    /// The last writer knows that its dirty data was taken.
    pub(super) fn noted(
        &mut self,
        from: Slot,
        resource: Resource,
        token: Token,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        if let Some(Entry::Held(held)) = self.entries.get_mut(resource)
            && held.owes == Some(HandOver { from, token })
        {
            held.owes = None;
            out.push(Action::Confirmed { resource });
            self.release_if_quiet(resource, arbiter, out);
        }
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

    /// An epoch begins: what is held stays held, what is wanted stays wanted, and what was on its way is not.
    pub(super) fn enter(&mut self, survivors: SlotSet, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        self.due.clear();
        for index in 0..self.entries.end() {
            let number = Number(self.last_number + 1);
            let Some((resource, entry)) = self.entries.at_mut(index) else {
                continue;
            };
            match entry {
                Entry::Prefetching { .. } => {
                    self.entries.remove(resource);
                }
                Entry::Waiting(waiting) => {
                    waiting.want.prefetch = Prefetch::NONE;
                    (waiting.recalled, waiting.data, waiting.grant) = (None, None, None);
                }
                Entry::Held(held) => {
                    enter_held(resource, held, survivors, out);
                    self.release_if_quiet(resource, arbiter, out);
                }
                Entry::Giving(giving) => {
                    (giving.number, giving.recalled) = (number, None);
                    self.last_number = number.0;
                    let Giving { to, token, .. } = *giving;
                    if !survivors.contains(to) {
                        out.push(Action::NeedsRecovery {
                            resource,
                            holder: to,
                            token,
                        });
                    }
                }
            }
        }
        self.first_number = Number(self.last_number + 1);
    }

    /// What is to be said in reports of the entry at an index.
    pub(super) fn claim(&self, index: usize) -> Option<Claim> {
        let (resource, entry) = self.entries.at(index)?;
        let (kind, number, token, priority) = match entry {
            Entry::Prefetching { .. } => return None,
            Entry::Waiting(waiting) => {
                let Want { mode, priority, .. } = waiting.want;
                (ClaimKind::Wants(mode), waiting.number, Token::default(), priority)
            }
            Entry::Held(held) => (ClaimKind::Holds(held.mode), held.number, held.token, 0),
            Entry::Giving(giving) => (ClaimKind::Gives, giving.number, giving.token, 0),
        };
        let claim = Claim {
            resource,
            kind,
            number,
            token,
            priority,
        };
        (number < self.first_number).then_some(claim)
    }
}

/// What becomes of a lock that is held when an epoch begins: new arbiters ask for it by themselves.
fn enter_held(resource: Resource, held: &mut Held, survivors: SlotSet, out: &mut Outbox<'_>) {
    match held.owes {
        Some(HandOver { from, token }) if survivors.contains(from) => {
            out.send(from, Message::Taken { resource, token });
        }
        Some(_) => {
            held.owes = None;
            out.push(Action::Confirmed { resource });
        }
        None => {}
    }
    match held.recall {
        Recall::None
        | Recall::Quiet {
            is_handed_over: false,
            ..
        } => {}
        Recall::Quiet {
            is_handed_over: true, ..
        } => {
            // The arbiter was never told, and the next writer may be gone.
            held.recall = Recall::None;
            reinstated(resource, held.token, held.then.take(), out);
        }
        Recall::Due { .. } => held.recall = Recall::None,
        Recall::Told(terms) if terms.next.is_some() => {
            // Its next writer may be gone, and the new arbiter has named none.
            let terms = Terms { next: None, ..terms };
            held.recall = Recall::Told(terms);
            out.push(Action::Recall { resource, terms });
        }
        Recall::Told(_) => {}
    }
}

/// Dirty data that was handed over is this node's again, and the resource with it; whoever has asked for that meanwhile is told.
fn reinstated(resource: Resource, token: Token, then: Option<Want>, out: &mut Outbox<'_>) {
    out.push(Action::Reinstated { resource, token });
    if then.is_some() {
        out.push(Action::Granted {
            resource,
            mode: Mode::Write,
            token,
            hand_over: None,
        });
    }
}

/// The more demanding one of two wants.
fn stronger(known: Option<Want>, want: Want) -> Option<Want> {
    match known {
        Some(known) if Hold::from(known.mode).covers(want.mode) => Some(known),
        Some(_) | None => Some(want),
    }
}
