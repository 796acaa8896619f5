//! The arbiter: what one node decides for the resources that it arbitrates.
//!
//! Owns a docket for each resource that somebody holds or wants, and none for the others: a free resource is nobody's business. When the
//! table is full, requests wait in a bounded line, so many of each node, while resources that nobody waits for are asked back; what finds no place in the line is
//! refused (B10). What peers hold already always finds room, so a rebuild never fails.
//!
//! Invariant: nothing is granted in an epoch before every member has reported and what was left undone is recovered (PROTOCOL, decision 8).

use std::collections::VecDeque;

use super::docket::{Docket, SeatState, Verdict};
use super::event::{Action, Misbehaviour, Outbox};
use super::message::{Claim, ClaimKind, Grant, Message, Request, Seat, Waiter};
use super::name::{Number, Prefetch, Resource, Token};
use super::placement::Rule;
use super::queue::{QueueOrder, Waiting};
use super::table::Table;
use crate::amf::lock::{Held, Mode};
use crate::icl::{Epoch, SLOTS, Slot, SlotSet};

/// Requests of one node that wait for room in the table.
pub const PARKED_MAX: usize = 8;

/// See the module.
#[derive(Clone, Debug, Hash)]
pub(super) struct Arbiter {
    local: Slot,
    order: QueueOrder,
    epoch: Epoch,
    rule: Rule,
    members: SlotSet,
    dockets: Table<Docket>,
    limit: usize,
    /// Dockets of resources whose arbitership is elsewhere.
    away: usize,
    /// Requests that wait for room, at most [`PARKED_MAX`] of each node.
    parked: VecDeque<(Slot, Request)>,
    /// Where to look next for a resource that nobody waits for.
    hand: usize,
    /// The greatest serial of a write grant in this epoch that this node knows of.
    serial: u64,
    frozen: SlotSet,
    /// Members that have reported everything, and the next batch of each.
    reported: SlotSet,
    batches: [u32; SLOTS],
    is_recovered: bool,
    is_open: bool,
    /// Empty between events.
    verdicts: Vec<Verdict>,
}

impl Arbiter {
    /// Memory of one docket.
    #[cfg(test)]
    pub(super) const DOCKET_BYTES: usize = Table::<Docket>::PLACE_BYTES;

    pub(super) fn new(local: Slot, order: QueueOrder, limit: usize) -> Self {
        let members = SlotSet::EMPTY.with(local);
        Self {
            local,
            order,
            epoch: Epoch(0),
            rule: Rule::preferred(members),
            members,
            dockets: Table::new(limit),
            limit,
            away: 0,
            parked: VecDeque::with_capacity(SLOTS * PARKED_MAX),
            hand: 0,
            serial: 0,
            frozen: SlotSet::EMPTY,
            reported: SlotSet::EMPTY,
            batches: [0; SLOTS],
            is_recovered: false,
            is_open: false,
            verdicts: Vec::with_capacity(SLOTS),
        }
    }

    pub(super) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) const fn members(&self) -> SlotSet {
        self.members
    }

    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) const fn dockets(&self) -> &Table<Docket> {
        &self.dockets
    }

    pub(super) fn home(&self, resource: Resource) -> Slot {
        self.rule.placement().home(resource, self.members)
    }

    pub(super) fn travels(&self) -> bool {
        self.rule.placement().travels()
    }

    /// Who arbitrates a resource, as far as this node knows.
    pub(super) fn route(&self, resource: Resource) -> Slot {
        match self.dockets.get(resource).map(|docket| docket.seat) {
            Some(SeatState::Here) => self.local,
            Some(SeatState::Away { at }) => at,
            None => self.home(resource),
        }
    }

    /// A node asks for a resource.
    pub(super) fn request(&mut self, from: Slot, request: Request, out: &mut Outbox<'_>) {
        let resource = request.resource;
        if self.route(resource) != self.local {
            self.refer(from, request, out);
        } else if self.dockets.get(resource).is_none() && self.is_full() {
            self.park(from, request, out);
        } else {
            self.accept(from, request, out);
        }
    }

    /// Somebody asks this node for what it does not arbitrate.
    fn refer(&self, from: Slot, request: Request, out: &mut Outbox<'_>) {
        let Request { resource, number, .. } = request;
        if self.travels() {
            out.send(from, Message::Moved { resource, number });
        } else {
            out.push(Action::Misbehaved {
                peer: from,
                what: Misbehaviour::NotArbiter,
            });
        }
    }

    fn accept(&mut self, from: Slot, request: Request, out: &mut Outbox<'_>) {
        let waiter = Waiter {
            mode: request.mode,
            priority: request.priority,
            number: request.number,
            takes: request.takes,
        };
        let order = self.order;
        let docket = self.docket(request.resource);
        if docket.request(Waiting::new(from, waiter, request.prefetch), order) {
            self.serve(request.resource, out);
        } else {
            out.counters.stale += 1;
        }
    }

    /// Notes about arbiterships that are elsewhere do not count: there are no more of them than the other node has entries.
    const fn is_full(&self) -> bool {
        self.dockets.count() - self.away >= self.limit
    }

    fn docket(&mut self, resource: Resource) -> &mut Docket {
        if self.dockets.get(resource).is_none() {
            self.dockets.insert(resource, Docket::default());
        }
        self.dockets.get_mut(resource).expect("it was put there")
    }

    /// The table is full: the request waits for room, or is refused.
    fn park(&mut self, from: Slot, request: Request, out: &mut Outbox<'_>) {
        let Request { resource, number, .. } = request;
        let same = |(slot, parked): &&mut (Slot, Request)| *slot == from && parked.resource == resource;
        if let Some((_, parked)) = self.parked.iter_mut().find(same) {
            if parked.number < number {
                *parked = request;
            }
            return;
        }
        let of_node = self.parked.iter().filter(|(slot, _)| *slot == from).count();
        if of_node >= PARKED_MAX {
            out.send(from, Message::Refused { resource, number });
            return;
        }
        self.parked.push_back((from, request));
        self.reclaim(out);
    }

    /// Asks for one resource back that nobody waits for, the next one round the table.
    fn reclaim(&mut self, out: &mut Outbox<'_>) {
        let end = self.dockets.end();
        for _ in 0..end {
            self.hand = (self.hand + 1) % end;
            let Some((resource, docket)) = self.dockets.at_mut(self.hand) else {
                continue;
            };
            if docket.seat == SeatState::Here && docket.reclaim(&mut self.verdicts) {
                out.counters.evictions += 1;
                self.announce_all(resource, out);
                return;
            }
        }
    }

    /// Lets the longest waiting request in if there is room now; whether it did.
    pub(super) fn let_in(&mut self, out: &mut Outbox<'_>) -> bool {
        let known = |(_, parked): &(Slot, Request)| self.dockets.get(parked.resource).is_some();
        if self.is_full() && !self.parked.front().is_some_and(known) {
            return false;
        }
        let Some((from, request)) = self.parked.pop_front() else {
            return false;
        };
        self.request(from, request, out);
        true
    }

    /// Time has passed: if requests still wait for room, another resource is asked back.
    pub(super) fn tick(&mut self, out: &mut Outbox<'_>) {
        if self.is_open && !self.parked.is_empty() && self.is_full() {
            self.reclaim(out);
        }
    }

    /// A node gives something back.
    pub(super) fn released(
        &mut self,
        from: Slot,
        (resource, number): (Resource, Number),
        kept: Held,
        is_handed_over: bool,
        out: &mut Outbox<'_>,
    ) {
        let docket = self.dockets.get_mut(resource);
        if docket.is_some_and(|docket| docket.released(from, number, kept, is_handed_over)) {
            self.serve(resource, out);
        } else {
            out.counters.stale += 1;
        }
    }

    /// An arbitership comes with a write grant of `from` to this node.
    pub(super) fn take_seat(&mut self, from: Slot, grant: &Grant, out: &mut Outbox<'_>) {
        self.note_token(grant.token);
        let (local, order) = (self.local, self.order);
        self.away -= usize::from(self.dockets.get(grant.resource).is_some());
        self.docket(grant.resource).take_seat(local, grant, from, order);
        self.serve(grant.resource, out);
    }

    /// The other node has no use for an arbitership any more.
    pub(super) fn returned(&mut self, resource: Resource, token: Token, out: &mut Outbox<'_>) {
        self.note_token(token);
        let docket = self.dockets.get_mut(resource);
        let Some(docket) = docket.filter(|docket| docket.seat != SeatState::Here) else {
            out.counters.stale += 1;
            return;
        };
        docket.seat = SeatState::Here;
        docket.token = token;
        self.away -= 1;
        self.serve(resource, out);
    }

    fn note_token(&mut self, token: Token) {
        if token.epoch == self.epoch {
            self.serial = self.serial.max(token.serial);
        }
    }

    /// These members get nothing; those that are heard again do.
    pub(super) fn suspect(&mut self, frozen: SlotSet, out: &mut Outbox<'_>) {
        self.frozen = frozen;
        self.serve_all(out);
    }

    fn serve_all(&mut self, out: &mut Outbox<'_>) {
        for index in 0..self.dockets.end() {
            if let Some((resource, _)) = self.dockets.at(index) {
                self.serve(resource, out);
            }
        }
    }

    /// Grants and asks back what can be, and forgets the resource if nobody holds or wants it.
    fn serve(&mut self, resource: Resource, out: &mut Outbox<'_>) {
        let Some(docket) = self.dockets.get_mut(resource) else {
            return;
        };
        if !self.is_open || docket.seat != SeatState::Here {
            return;
        }
        let (epoch, serial, frozen) = (self.epoch, &mut self.serial, self.frozen);
        let next_token = |last: Token| {
            let known = if last.epoch == epoch { last.serial } else { 0 };
            *serial = known.max(*serial) + 1;
            Token {
                epoch,
                serial: *serial,
            }
        };
        docket.serve(frozen, next_token, &mut self.verdicts);
        self.announce_all(resource, out);
        self.forget_if_idle(resource, out);
    }

    fn forget_if_idle(&mut self, resource: Resource, out: &mut Outbox<'_>) {
        let docket = self.dockets.get(resource);
        let idle = docket.filter(|docket| docket.seat == SeatState::Here && docket.is_idle());
        let Some(&Docket { token, .. }) = idle else {
            return;
        };
        self.dockets.remove(resource);
        let home = self.home(resource);
        if home != self.local {
            out.send(home, Message::Returned { resource, token });
        }
    }

    fn announce_all(&mut self, resource: Resource, out: &mut Outbox<'_>) {
        let mut verdicts = std::mem::take(&mut self.verdicts);
        for verdict in verdicts.drain(..) {
            self.announce(resource, verdict, out);
        }
        self.verdicts = verdicts;
    }

    fn announce(&mut self, resource: Resource, verdict: Verdict, out: &mut Outbox<'_>) {
        match verdict {
            Verdict::Recall { slot, number, terms } => {
                let recall = Message::Recall {
                    resource,
                    number,
                    terms,
                };
                out.send(slot, recall);
            }
            Verdict::Grant {
                waiting,
                when_done,
                hand_over,
            } => {
                let Waiting {
                    slot,
                    waiter,
                    prefetch,
                    ..
                } = waiting;
                let Waiter { mode, number, .. } = waiter;
                let token = self.docket(resource).token;
                let moves = self.travels() && mode.is_write() && slot != self.local;
                let prefetch = self.prefetch(&waiting, resource, token, prefetch, moves);
                let seat = moves.then(|| Seat {
                    waiting: self.move_seat(resource, slot),
                });
                let grant = Grant {
                    resource,
                    mode,
                    number,
                    token,
                    when_done,
                    hand_over,
                    prefetch,
                    seat,
                };
                out.send(slot, Message::Grant(grant));
            }
        }
    }

    /// Grants what is free of the further resources that a request names; whoever holds or wants one of them is not bothered (PROTOCOL H14, H16).
    fn prefetch(
        &mut self,
        waiting: &Waiting,
        resource: Resource,
        token: Token,
        asked: Prefetch,
        moves: bool,
    ) -> Prefetch {
        let Waiter { mode, number, .. } = waiting.waiter;
        let mut granted = Prefetch::NONE;
        for (bit, further) in asked.resources(resource) {
            let is_free = self.dockets.get(further).is_none();
            if !is_free || self.home(further) != self.local || self.is_full() {
                continue;
            }
            let docket = self.dockets.insert(further, Docket::default());
            if mode.is_write() {
                docket.token = token;
            }
            docket.hold(waiting.slot, number, mode, false);
            if moves {
                self.move_seat(further, waiting.slot);
            }
            granted = granted.with(bit);
        }
        granted
    }

    /// Lets the arbitership go with a write grant: at its home a note stays behind.
    fn move_seat(&mut self, resource: Resource, slot: Slot) -> Option<Waiter> {
        let waiting = self.docket(resource).move_seat(slot);
        if self.home(resource) == self.local {
            self.away += 1;
        } else {
            self.dockets.remove(resource);
        }
        waiting
    }

    /// An epoch begins: all is forgotten, but what lost members held for writing is named first.
    pub(super) fn enter(
        &mut self,
        (epoch, rule): (Epoch, Rule),
        members: SlotSet,
        survivors: SlotSet,
        out: &mut Outbox<'_>,
    ) {
        for (resource, docket) in self.dockets.iter() {
            let away = match docket.seat {
                SeatState::Away { at } => Some(at),
                SeatState::Here => None,
            };
            let lost = docket.writer().or(away).filter(|slot| !survivors.contains(*slot));
            if let Some(holder) = lost.filter(|holder| *holder != self.local) {
                out.push(Action::NeedsRecovery {
                    resource,
                    holder,
                    token: docket.token,
                });
            }
        }
        let Self {
            local, order, limit, ..
        } = *self;
        self.dockets.clear();
        self.parked.clear();
        *self = Self {
            local,
            order,
            epoch,
            rule,
            members,
            dockets: std::mem::replace(&mut self.dockets, Table::new(1)),
            limit,
            away: 0,
            parked: std::mem::take(&mut self.parked),
            hand: 0,
            serial: 0,
            frozen: SlotSet::EMPTY,
            reported: SlotSet::EMPTY,
            batches: [0; SLOTS],
            is_recovered: false,
            is_open: false,
            verdicts: std::mem::take(&mut self.verdicts),
        };
    }

    /// A member reports what it has and wants.
    pub(super) fn report(
        &mut self,
        from: Slot,
        batch: u32,
        is_last: bool,
        claims: Vec<Claim>,
        out: &mut Outbox<'_>,
    ) {
        if batch != self.batches[from.index()] || self.reported.contains(from) {
            out.counters.stale += 1;
            return;
        }
        self.batches[from.index()] = batch + 1;
        for claim in claims {
            self.claim(from, claim, out);
        }
        out.send(from, Message::ReportTaken { batch });
        if is_last {
            self.reported = self.reported.with(from);
            if self.reported.covers(self.members) {
                self.reinstate_all(out);
            }
            self.open_if_complete(out);
        }
    }

    fn claim(&mut self, from: Slot, claim: Claim, out: &mut Outbox<'_>) {
        let Claim {
            resource,
            kind,
            number,
            token,
            priority,
        } = claim;
        let order = self.order;
        let mode = match kind {
            ClaimKind::Wants(mode) | ClaimKind::Holds(mode) => mode,
            ClaimKind::Gives => Mode::Write,
        };
        let waiter = Waiter {
            mode,
            priority,
            number,
            // A report does not say: what is dirty is destaged.
            takes: false,
        };
        let is_right = self.home(resource) == self.local;
        if !is_right || !self.docket(resource).claim(from, kind, waiter, token, order) {
            let what = if is_right {
                Misbehaviour::Conflict
            } else {
                Misbehaviour::NotArbiter
            };
            out.push(Action::Misbehaved { peer: from, what });
        }
    }

    /// What lost members have left undone is done.
    pub(super) fn recovered(&mut self, out: &mut Outbox<'_>) {
        self.is_recovered = true;
        self.open_if_complete(out);
    }

    fn open_if_complete(&mut self, out: &mut Outbox<'_>) {
        if self.is_open || !self.is_recovered || !self.reported.covers(self.members) {
            return;
        }
        self.is_open = true;
        for index in 0..self.dockets.end() {
            if let Some((resource, _)) = self.dockets.at(index) {
                self.serve(resource, out);
            }
        }
    }

    /// All have reported. Nothing is granted yet, but what has found no taker goes back to its giver, as if it had never left: recovery may wait for that to be
    /// destaged.
    fn reinstate_all(&mut self, out: &mut Outbox<'_>) {
        for index in 0..self.dockets.end() {
            if let Some((resource, _)) = self.dockets.at(index) {
                self.reinstate(resource, out);
            }
        }
    }

    /// Gives a resource back to a writer that has handed its dirty data over and never heard that it came, unless the next writer says that it did.
    fn reinstate(&mut self, resource: Resource, out: &mut Outbox<'_>) {
        let docket = self.docket(resource);
        let Some((slot, number, token)) = docket.gives.take() else {
            return;
        };
        if !docket.holders().is_empty() {
            // The next writer has it, and tells the last one by itself.
            return;
        }
        docket.token = docket.token.max(token);
        docket.hold(slot, number, Mode::Write, false);
        let grant = Grant {
            resource,
            mode: Mode::Write,
            number,
            token,
            when_done: None,
            hand_over: None,
            prefetch: Prefetch::NONE,
            seat: None,
        };
        out.send(slot, Message::Grant(grant));
    }
}
