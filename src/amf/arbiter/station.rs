//! For tests: one node with its users and its data below the real machine, and mistakes that may be made there.
//!
//! The users change a number for each resource, so that a lost, an old or a doubled write is seen by the next one that comes in: what it sees has to be what was
//! written last, wherever that was.

use std::collections::{BTreeMap, BTreeSet};

use super::message::{ClaimKind, Grant, HandOver, Message, Terms};
use super::*;
use crate::amf::lock::{Held, Mode};

/// A mistake in the wiring of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mutant {
    None,
    /// A recall is answered although users are inside.
    ReleaseInside,
    /// An arbiter takes a recall for a release.
    GrantWithoutRelease,
    /// An arbiter takes the others for having reported.
    EarlyBarrier,
    /// The arbitership goes with a grant and stays.
    SeatDoubled,
    /// A grant's word that others wait is not heeded.
    WhenDoneIgnored,
    /// What a node waits for is left out of its reports.
    WaiterDropped,
    /// A grant lets users in before the dirty data that goes with it is there.
    DataNotAwaited,
    /// The giver of dirty data hears that it was taken before it is durable.
    SecuredEarly,
    /// Dirty data whose taker is gone is forgotten at once.
    VoidForgotten,
    /// What was given to a node that lives is not counted among what is held when an epoch begins.
    GivenNotHeld,
}

/// What goes from node to node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Wire {
    Lock(Message),
    Data {
        resource: Resource,
        hand_over: HandOver,
        value: u64,
    },
}

/// What all nodes see, and what only the test knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Store {
    /// On the drives.
    pub(super) drive: BTreeMap<Resource, u64>,
    /// Written last, wherever.
    pub(super) latest: BTreeMap<Resource, u64>,
    /// Dirty data of nodes that are gone, in their journals.
    pub(super) journals: Vec<(Resource, u64)>,
    /// What was broken first.
    pub(super) broken: Option<&'static str>,
    /// Write grants by resource.
    pub(super) tokens: BTreeMap<Resource, Token>,
}

impl Store {
    pub(super) fn blame(&mut self, what: &'static str) {
        self.broken.get_or_insert(what);
    }

    fn check(&mut self, resource: Resource, seen: u64) {
        if seen != self.latest.get(&resource).copied().unwrap_or(0) {
            self.blame("I9: a user sees what is not the latest");
        }
    }

    /// Brings in its place what the journals of nodes that are gone, and of those that live, have of what was not held by anybody when the epoch began.
    pub(super) fn recover<'a>(&mut self, stations: impl Iterator<Item = &'a mut Station>) {
        let mut stations: Vec<&mut Station> = stations.collect();
        let mut newest: BTreeMap<Resource, u64> = BTreeMap::new();
        let handing = stations.iter().flat_map(|station| station.in_journal());
        for (resource, value) in handing.chain(self.journals.drain(..)) {
            // Numbers only grow: the greater one is the newer.
            let known = newest.entry(resource).or_default();
            *known = value.max(*known);
        }
        newest.retain(|resource, _| {
            stations
                .iter()
                .all(|station| !station.held_then.contains(resource))
        });
        let is_held = |of: &Resource| {
            let mut all = stations.iter();
            all.any(|one| one.machine.hold(*of) > Held::Nothing || one.handing.contains_key(of))
        };
        if newest.keys().any(is_held) {
            self.blame("what is held is recovered");
        }
        for station in &mut stations {
            station.recovered = newest.keys().copied().collect();
            station.voided.clear();
        }
        for (resource, value) in newest {
            // A node that lives may have what is newer in its journal, and on the drives.
            let drive = self.drive.entry(resource).or_default();
            *drive = value.max(*drive);
        }
    }
}

/// Users of one resource on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Users {
    pub(super) hold: Held,
    pub(super) readers: u8,
    pub(super) is_writing: bool,
    recall: Option<Terms>,
    /// Readers and writers that wait.
    pub(super) waiting: [u8; 2],
    /// What was asked for.
    asked: Held,
    token: Token,
    dirty: Option<(Token, u64)>,
    cached: Option<u64>,
}

impl Users {
    fn allowed(&self) -> Held {
        self.recall.map_or(self.hold, |terms| terms.keep.min(self.hold))
    }

    fn admits(&self, mode: Mode) -> bool {
        let is_free = !self.is_writing && (self.readers == 0 || mode == Mode::Read);
        is_free && self.allowed().covers(mode)
    }

    fn is_quiet(&self, keep: Held) -> bool {
        !self.is_writing && (self.readers == 0 || keep == Held::Read)
    }

    pub(super) fn is_used(&self) -> bool {
        self.is_writing || self.readers > 0
    }
}

/// See the module.
#[derive(Clone, Debug, Hash)]
pub(super) struct Station {
    pub(super) slot: Slot,
    pub(super) machine: Arbitration,
    pub(super) users: BTreeMap<Resource, Users>,
    pub(super) handing: BTreeMap<Resource, (Token, u64)>,
    coming: BTreeMap<Resource, (HandOver, u64)>,
    /// What has come with grants and is not durable here.
    pub(super) unsecured: BTreeMap<Resource, u64>,
    /// What was handed over, and its taker is gone: the journal has it until recovery is over.
    voided: BTreeMap<Resource, u64>,
    /// What this node had when the epoch began, as far as its machine said.
    held_then: BTreeSet<Resource>,
    /// What was brought in its place since then.
    recovered: BTreeSet<Resource>,
    /// Resources that came with dirty data and are not confirmed, and what was destaged of them and is still in the journal.
    retained: BTreeMap<Resource, Option<(Token, u64)>>,
    /// Whether dirty data goes to the next writer.
    pub(super) hands_over: bool,
    pub(super) mutant: Mutant,
    pub(super) sent: Vec<(Slot, Wire)>,
    pub(super) members: SlotSet,
    /// The epoch that was reported, and wants that have failed.
    pub(super) reported: Epoch,
    pub(super) failed: u32,
    pub(super) recoveries: Vec<(Resource, Slot)>,
}

impl Station {
    pub(super) fn new(config: Config, hands_over: bool, mutant: Mutant) -> Self {
        Self {
            slot: config.local,
            machine: Arbitration::new(config),
            users: BTreeMap::new(),
            handing: BTreeMap::new(),
            coming: BTreeMap::new(),
            unsecured: BTreeMap::new(),
            voided: BTreeMap::new(),
            held_then: BTreeSet::new(),
            recovered: BTreeSet::new(),
            retained: BTreeMap::new(),
            hands_over,
            mutant,
            sent: Vec::new(),
            members: SlotSet::EMPTY,
            reported: Epoch(0),
            failed: 0,
            recoveries: Vec::new(),
        }
    }

    /// A user comes.
    pub(super) fn user(
        &mut self,
        now_ns: u64,
        resource: Resource,
        mode: Mode,
        prefetch: Prefetch,
        store: &mut Store,
    ) {
        let users = self.users.entry(resource).or_default();
        users.waiting[usize::from(mode.is_write())] += 1;
        self.pump(now_ns, resource, prefetch, store);
    }

    /// The users inside are done.
    pub(super) fn finish(&mut self, now_ns: u64, resource: Resource, store: &mut Store) {
        let users = self.users.entry(resource).or_default();
        if users.is_writing {
            let latest = store.latest.entry(resource).or_default();
            *latest += 1;
            users.dirty = Some((users.token, *latest));
            users.cached = Some(*latest);
            users.is_writing = false;
        } else if let (true, Some(seen)) = (users.readers > 0, users.cached) {
            store.check(resource, seen);
        }
        users.readers = 0;
        self.pump(now_ns, resource, Prefetch::NONE, store);
    }

    /// Gives back what is unused.
    pub(super) fn give_back(&mut self, now_ns: u64, resource: Resource, keep: Held, store: &mut Store) {
        let users = self.users.entry(resource).or_default();
        let is_free = users.is_quiet(keep) && users.recall.is_none() && users.hold > keep;
        if is_free && users.waiting == [0, 0] {
            self.destage(resource, keep, store);
            self.handle(now_ns, Event::GiveBack { resource, keep }, store);
        }
    }

    fn destage(&mut self, resource: Resource, keep: Held, store: &mut Store) {
        let users = self.users.entry(resource).or_default();
        if let Some(dirty) = users.dirty.take() {
            store.drive.insert(resource, dirty.1);
            if let Some(retained) = self.retained.get_mut(&resource) {
                *retained = Some(dirty);
            }
        }
        users.hold = keep.min(users.hold);
        if users.hold == Held::Nothing {
            users.cached = None;
        }
    }

    /// Does what can be done for the users of a resource.
    fn pump(&mut self, now_ns: u64, resource: Resource, prefetch: Prefetch, store: &mut Store) {
        let mutant = self.mutant;
        let users = self.users.entry(resource).or_default();
        for (at, mode) in [Mode::Read, Mode::Write].into_iter().enumerate() {
            while users.waiting[at] > 0 && users.admits(mode) {
                users.waiting[at] -= 1;
                let dirty = users.dirty.map(|(_, value)| value);
                let drive = store.drive.get(&resource).copied().unwrap_or(0);
                let seen = dirty.or(users.cached).unwrap_or(drive);
                users.cached = Some(seen);
                store.check(resource, seen);
                match mode {
                    Mode::Read => users.readers += 1,
                    Mode::Write => users.is_writing = true,
                }
            }
        }
        if let Some(terms) = users.recall
            && (users.is_quiet(terms.keep) || mutant == Mutant::ReleaseInside)
        {
            self.quiesce(now_ns, resource, terms, store);
            return;
        }
        let users = self.users.entry(resource).or_default();
        let mode = if users.waiting[1] > 0 {
            Mode::Write
        } else {
            Mode::Read
        };
        let is_wanted = users.waiting != [0, 0] && !users.allowed().covers(mode);
        if is_wanted && !users.asked.covers(mode) {
            users.asked = mode.into();
            let want = Want {
                resource,
                mode,
                priority: self.slot.number() % 3,
                prefetch,
                takes: self.takes(),
            };
            self.handle(now_ns, Event::Want(want), store);
        }
    }

    /// Not every node takes dirty data.
    const fn takes(&self) -> bool {
        self.hands_over && self.slot.number() % 4 != 3
    }

    /// What came with a grant is durable, sooner or later.
    pub(super) fn secure(&mut self, now_ns: u64, resource: Resource, store: &mut Store) {
        if self.unsecured.remove(&resource).is_some() {
            self.handle(now_ns, Event::Secured { resource }, store);
        }
    }

    fn quiesce(&mut self, now_ns: u64, resource: Resource, terms: Terms, store: &mut Store) {
        let hands_over = self.hands_over;
        let slot = self.slot;
        let users = self.users.entry(resource).or_default();
        users.recall = None;
        let to = terms.next.filter(|_| hands_over && terms.keep == Held::Nothing);
        let dirty = users.dirty.filter(|_| users.hold == Held::Write);
        let is_handed_over = if let (Some(to), Some((_, value))) = (to, dirty) {
            let token = users.token;
            let hand_over = HandOver { from: slot, token };
            users.dirty = None;
            self.handing.insert(resource, (token, value));
            let data = Wire::Data {
                resource,
                hand_over,
                value,
            };
            self.sent.push((to, data));
            true
        } else {
            false
        };
        self.destage(resource, terms.keep, store);
        let event = Event::Quiesced {
            resource,
            is_handed_over,
        };
        self.handle(now_ns, event, store);
        self.pump(now_ns, resource, Prefetch::NONE, store);
    }

    /// Something comes over the link.
    pub(super) fn receive(&mut self, now_ns: u64, from: Slot, epoch: Epoch, wire: Wire, store: &mut Store) {
        match wire {
            Wire::Lock(message) => {
                let mut bytes = Vec::new();
                message.encode(&mut bytes);
                assert_eq!(Message::parse(&bytes).as_ref(), Ok(&message));
                self.handle(now_ns, Event::Message { from, epoch, message }, store);
            }
            Wire::Data {
                resource,
                hand_over,
                value,
            } => {
                self.coming.insert(resource, (hand_over, value));
                self.handle(now_ns, Event::DataCame { resource, hand_over }, store);
            }
        }
    }

    pub(super) fn enter(
        &mut self,
        now_ns: u64,
        epoch: Epoch,
        members: SlotSet,
        survivors: SlotSet,
        rule: Rule,
        store: &mut Store,
    ) {
        self.coming.clear();
        self.members = members;
        for terms in self.users.values_mut().filter_map(|users| users.recall.as_mut()) {
            terms.next = None;
        }
        let event = Event::Enter {
            epoch,
            members,
            survivors,
            rule,
        };
        self.recovered.clear();
        self.handle(now_ns, event, store);
        self.held_then = self.machine.held().collect();
        if self.mutant == Mutant::GivenNotHeld {
            self.held_then
                .retain(|resource| !self.handing.contains_key(resource));
        }
        if self.mutant == Mutant::EarlyBarrier {
            for from in members.without(self.slot).iter() {
                let message = Message::Report {
                    batch: 0,
                    is_last: true,
                    claims: Vec::new(),
                };
                self.handle(now_ns, Event::Message { from, epoch, message }, store);
            }
            self.handle(now_ns, Event::Recovered(epoch), store);
        }
    }

    /// Hands an event to the machine and does what it asks for.
    pub(super) fn handle(&mut self, now_ns: u64, event: Event, store: &mut Store) {
        let mut actions = Vec::new();
        self.machine.handle(now_ns, event, &mut actions);
        let mut granted = Vec::new();
        for action in actions {
            match action {
                Action::Send { to, message } => self.send(now_ns, to, message, store),
                Action::Granted {
                    resource,
                    mode,
                    token,
                    hand_over,
                } => {
                    granted.push(resource);
                    self.granted((resource, mode, token), hand_over, store);
                    if hand_over.is_some() && self.mutant == Mutant::SecuredEarly {
                        self.handle(now_ns, Event::Secured { resource }, store);
                    }
                    self.pump(now_ns, resource, Prefetch::NONE, store);
                }
                Action::Recall { resource, terms } => {
                    let is_ignored = self.mutant == Mutant::WhenDoneIgnored && granted.contains(&resource);
                    if !is_ignored {
                        let earlier = self.users.entry(resource).or_default().recall.replace(terms);
                        if earlier.is_some() {
                            store.blame("something is recalled twice");
                        }
                        self.pump(now_ns, resource, Prefetch::NONE, store);
                    }
                }
                Action::Failed { resource, .. } => {
                    let users = self.users.entry(resource).or_default();
                    self.failed += u32::from(users.waiting[0] + users.waiting[1]);
                    (users.waiting, users.asked) = ([0, 0], Held::Nothing);
                }
                Action::Voided { resource, token } => match self.handing.remove(&resource) {
                    Some(_) if self.mutant == Mutant::VoidForgotten => {}
                    Some((handed, value)) if handed == token => {
                        self.voided.insert(resource, value);
                    }
                    Some(_) | None => store.blame("what was not handed over is void"),
                },
                Action::Settled { resource, token } => {
                    let settled = self.handing.remove(&resource);
                    if settled.is_none_or(|(handed, _)| handed != token) {
                        store.blame("what was not handed over is settled");
                    }
                }
                Action::Confirmed { resource } => {
                    if self.retained.remove(&resource).is_none() {
                        store.blame("what was not taken is confirmed");
                    }
                }
                Action::Reinstated { resource, token } => self.reinstated(resource, token, store),
                Action::NeedsRecovery { resource, holder, .. } => self.recoveries.push((resource, holder)),
                Action::Reported(epoch) => self.reported = epoch,
                Action::Misbehaved { .. } => store.blame("a peer misbehaves"),
            }
        }
    }

    fn granted(
        &mut self,
        (resource, mode, token): (Resource, Mode, Token),
        hand_over: Option<HandOver>,
        store: &mut Store,
    ) {
        let takes = self.takes();
        let users = self.users.entry(resource).or_default();
        if mode.is_write() && users.token != token {
            let last = store.tokens.insert(resource, token);
            if last >= Some(token) {
                store.blame("a token does not grow");
            }
        }
        if users.hold == Held::Nothing && users.cached.is_some() {
            store.blame("I10: something is cached without a lock");
        }
        (users.hold, users.asked, users.token) = (mode.into(), Held::Nothing, token);
        if let Some(hand_over) = hand_over {
            if !takes {
                store.blame("dirty data comes that is not taken");
            }
            match self.coming.remove(&resource) {
                Some((known, value)) if known == hand_over => {
                    users.dirty = Some((token, value));
                    self.unsecured.insert(resource, value);
                    self.retained.insert(resource, None);
                }
                Some(_) | None => store.blame("a grant is valid without its dirty data"),
            }
        }
    }

    fn reinstated(&mut self, resource: Resource, token: Token, store: &mut Store) {
        let users = self.users.entry(resource).or_default();
        (users.hold, users.token) = (Held::Write, token);
        if self.recovered.contains(&resource) {
            store.blame("what comes back with its data was recovered");
        }
        match self.handing.remove(&resource) {
            Some((handed, value)) if handed == token => users.dirty = Some((token, value)),
            Some(_) | None => store.blame("what was not handed over is reinstated"),
        }
    }

    fn send(&mut self, now_ns: u64, to: Slot, mut message: Message, store: &mut Store) {
        let epoch = self.machine.epoch();
        let mut forged = None;
        match (&mut message, self.mutant) {
            (Message::Report { claims, .. }, Mutant::WaiterDropped) => {
                claims.retain(|claim| !matches!(claim.kind, ClaimKind::Wants(_)));
            }
            (Message::Recall { resource, number, .. }, Mutant::GrantWithoutRelease) => {
                forged = Some(Message::Released {
                    resource: *resource,
                    number: *number,
                    kept: Held::Nothing,
                    is_handed_over: false,
                });
            }
            (
                Message::Grant(Grant {
                    resource,
                    token,
                    seat: Some(_),
                    ..
                }),
                Mutant::SeatDoubled,
            ) => {
                forged = Some(Message::Returned {
                    resource: *resource,
                    token: *token,
                });
            }
            (Message::Grant(grant), Mutant::DataNotAwaited) => grant.hand_over = None,
            _ => {}
        }
        self.sent.push((to, Wire::Lock(message)));
        if let Some(message) = forged {
            self.handle(
                now_ns,
                Event::Message {
                    from: to,
                    epoch,
                    message,
                },
                store,
            );
        }
    }

    /// Whether a user waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.users.values().any(|users| users.waiting != [0, 0])
    }

    /// What its journal has of resources: that of those which it holds nobody looks at while it lives.
    fn in_journal(&self) -> impl Iterator<Item = (Resource, u64)> {
        let is_secured = |(of, (_, value)): &(Resource, (Token, u64))| self.unsecured.get(of) != Some(value);
        let dirty = self
            .users
            .iter()
            .filter_map(|(of, users)| Some((*of, users.dirty?)));
        let dirty = dirty.filter(is_secured).map(|(of, (_, value))| (of, value));
        let handing = self.handing.iter();
        let handing = handing.map(|(resource, (_, value))| (*resource, *value));
        let voided = self.voided.iter().map(|(resource, value)| (*resource, *value));
        dirty.chain(handing).chain(voided)
    }

    /// The node dies: its journal has what it wrote.
    pub(super) fn die(&self, store: &mut Store) {
        let retained = self
            .retained
            .iter()
            .filter_map(|(resource, kept)| Some((*resource, kept.as_ref()?.1)));
        store.journals.extend(self.in_journal().chain(retained));
    }
}

/// I1 over all nodes, and that every lock is known to its arbiter once that grants locks (I2).
pub(super) fn check<'a>(stations: impl Iterator<Item = &'a Station> + Clone, store: &mut Store) {
    for station in stations.clone() {
        for (resource, users) in &station.users {
            let others = stations.clone().filter(|other| other.slot != station.slot);
            // What was prefetched only the machine knows of.
            let hold_of = |station: &Station| {
                let users = station.users.get(resource);
                users
                    .map_or(Held::Nothing, |users| users.hold)
                    .max(station.machine.hold(*resource))
            };
            let others = others.map(hold_of);
            let conflict = |other: Held| match hold_of(station) {
                Held::Write => other > Held::Nothing,
                Held::Read => other == Held::Write,
                Held::Nothing => false,
            };
            if others.into_iter().any(conflict) {
                store.blame("I1: a writer is not alone");
            }
            if users.is_writing && users.hold != Held::Write
                || users.readers > 0 && users.hold == Held::Nothing
            {
                store.blame("I2: a lock is used that is not held");
            }
            let arbiter = stations.clone().find(|other| {
                let status = other.machine.status(*resource);
                other.machine.is_open()
                    && other.machine.epoch() == station.machine.epoch()
                    && status.arbiter == other.slot
            });
            if let Some(arbiter) = arbiter.filter(|_| users.hold > Held::Nothing)
                && !arbiter.machine.status(*resource).holders.contains(station.slot)
            {
                store.blame("I2: an arbiter does not know a holder");
            }
        }
    }
}
