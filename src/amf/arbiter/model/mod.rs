//! Exhaustive models of the real machines: every order of what users, links, deaths and epochs can do in a small case, and mistakes that have to be found
//! (PROTOCOL 4.1, L1).

mod cases;
mod paths;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use stateright::{Checker, Model, Property};

use self::paths::note_paths;
use super::message::{Kind, Message};
use super::station::{Mutant, Station, Store, Wire, check};
use super::*;
use crate::amf::lock::{Held, Mode};

/// A user that comes once, at any time.
#[derive(Clone, Copy, Debug)]
struct User {
    at: u8,
    resource: Resource,
    mode: Mode,
    prefetch: Prefetch,
}

/// A small case.
#[derive(Clone, Debug)]
struct Case {
    nodes: u8,
    rule: Option<Rule>,
    users: Vec<User>,
    /// Messages of a pair arrive in order, as the link has it.
    is_ordered: bool,
    repeats: u8,
    deaths: u8,
    /// Epochs that begin without a death.
    epochs: u8,
    give_backs: u8,
    hands_over: bool,
    holder_limit: usize,
    mutant: Mutant,
    /// Paths that were taken: see [`paths`].
    taken: Arc<AtomicU32>,
}

/// What is on its way from one node to another, and in which epoch it was sent.
type Flying = BTreeMap<(u8, u8), Vec<(Epoch, Wire)>>;

#[derive(Clone, Debug, Hash)]
#[expect(
    clippy::derived_hash_with_manual_eq,
    reason = "equal is what has the same fingerprint, as for the checker"
)]
struct State {
    stations: Vec<Option<Station>>,
    flying: Flying,
    store: Store,
    /// Users that have come, one bit each.
    came: u16,
    repeats: u8,
    deaths: u8,
    epochs: u8,
    give_backs: u8,
    /// Members of the newest epoch, and of those before.
    members: Vec<SlotSet>,
    is_recovered: bool,
    /// Nodes that were told.
    opened: SlotSet,
}

/// As the checker sees it: by its fingerprint, in which neither places in tables nor counters count.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let digest = |state: &Self| {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        digest(self) == digest(other)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Comes(u8),
    Finishes(u8, Resource),
    GivesBack(u8, Resource, Held),
    Secures(u8, Resource),
    Arrives(u8, u8, usize),
    IsRepeated(u8, u8, usize),
    Dies(u8),
    Decided,
    Enters(u8),
    Opens(u8),
    /// Time passes everywhere: only when nothing else can happen and somebody waits, who may wait for room.
    Ticks,
}

fn slot(number: u8) -> Slot {
    Slot::new(number).expect("there is such a slot")
}

impl State {
    fn epoch(&self) -> Epoch {
        Epoch(u32::try_from(self.members.len()).expect("few epochs"))
    }

    fn alive(&self) -> SlotSet {
        self.stations
            .iter()
            .flatten()
            .map(|station| station.slot)
            .collect()
    }

    /// What is not durable where it was taken may be in the journal of a node that is gone only: that is not over before.
    fn may_open(&self) -> bool {
        let members = self.members.last().copied().unwrap_or_default();
        self.alive().covers(members)
            && self
                .stations
                .iter()
                .flatten()
                .all(|station| station.reported == self.epoch() && station.unsecured.is_empty())
    }

    /// Whether nothing can happen any more without users, deaths or epochs.
    fn is_quiet(&self) -> bool {
        let all = || self.stations.iter().flatten();
        let is_used = all().any(|station| station.users.values().any(|users| users.is_used()));
        let is_unsecured = all().any(|station| !station.unsecured.is_empty());
        self.flying.values().all(Vec::is_empty)
            && !is_used
            && !is_unsecured
            && self.opened.covers(self.alive())
            && all().all(|station| station.machine.epoch() == self.epoch())
    }

    /// Whether somebody waits, or knows not where dirty data is.
    fn is_stuck(&self) -> bool {
        let mut all = self.stations.iter().flatten();
        all.any(|station| station.is_waiting() || !station.handing.is_empty())
    }
}

impl Case {
    fn rule(&self, members: SlotSet) -> Rule {
        self.rule.unwrap_or(Rule::preferred(members))
    }

    /// Takes what a node has sent, and looks at what may never be.
    fn drain(&self, state: &mut State, at: u8, cause: Option<&Message>) {
        let Some(station) = &mut state.stations[usize::from(at)] else {
            return;
        };
        let epoch = station.machine.epoch();
        let sent = std::mem::take(&mut station.sent);
        note_paths(&self.taken, cause, slot(at), epoch, &sent);
        for (to, wire) in sent {
            let queue = state.flying.entry((at, to.number())).or_default();
            queue.push((epoch, wire));
            if !self.is_ordered {
                queue.sort_unstable();
            }
        }
        let mut store = std::mem::take(&mut state.store);
        check(state.stations.iter().flatten(), &mut store);
        state.store = store;
    }

    fn act(&self, state: &mut State, at: u8, act: impl FnOnce(&mut Station, &mut Store)) {
        let mut store = std::mem::take(&mut state.store);
        if let Some(station) = &mut state.stations[usize::from(at)] {
            act(station, &mut store);
        }
        state.store = store;
        self.drain(state, at, None);
    }

    fn enter(&self, state: &mut State, at: u8) {
        let members = *state.members.last().expect("there is an epoch");
        let epoch = state.epoch();
        let rule = self.rule(members);
        let entered = state.stations[usize::from(at)]
            .as_ref()
            .map_or(0, |station| station.machine.epoch().0);
        let before = usize::try_from(entered)
            .ok()
            .and_then(|entered| entered.checked_sub(1));
        let before = before.map_or(SlotSet::EMPTY, |index| state.members[index]);
        let survivors = members.and(before);
        self.act(state, at, |station, store| {
            station.enter(0, epoch, members, survivors, rule, store);
        });
    }

    fn arrive(&self, state: &mut State, (from, to): (u8, u8), index: usize, stays: bool) {
        let queue = state.flying.entry((from, to)).or_default();
        let (epoch, wire) = if stays {
            queue[index].clone()
        } else {
            queue.remove(index)
        };
        let cause = match &wire {
            Wire::Lock(message) => Some(message.clone()),
            Wire::Data { .. } => None,
        };
        let mut store = std::mem::take(&mut state.store);
        if let Some(station) = &mut state.stations[usize::from(to)]
            && station.machine.epoch() == epoch
        {
            station.receive(0, slot(from), epoch, wire, &mut store);
        }
        state.store = store;
        self.drain(state, to, cause.as_ref());
    }

    fn open(&self, state: &mut State, at: u8) {
        if !state.is_recovered {
            state.is_recovered = true;
            let mut store = std::mem::take(&mut state.store);
            store.recover(state.stations.iter_mut().flatten());
            state.store = store;
        }
        state.opened = state.opened.with(slot(at));
        let event = Event::Recovered(state.epoch());
        self.act(state, at, |station, store| station.handle(0, event, store));
    }

    fn tick(&self, state: &mut State) {
        for at in 0..self.nodes {
            self.act(state, at, |station, store| station.handle(0, Event::Tick, store));
        }
    }

    fn decide(state: &mut State) {
        state.members.push(state.alive());
        (state.is_recovered, state.opened) = (false, SlotSet::EMPTY);
    }

    fn arrivals(&self, state: &State, steps: &mut Vec<Step>) {
        for (&(from, to), queue) in &state.flying {
            let Some(station) = &state.stations[usize::from(to)] else {
                continue;
            };
            for (index, (epoch, wire)) in queue.iter().enumerate() {
                let waits = station.machine.epoch() < *epoch;
                let is_same = index > 0 && queue[index - 1] == queue[index];
                if waits || is_same && !self.is_ordered {
                    continue;
                }
                steps.push(Step::Arrives(from, to, index));
                let once = match wire {
                    Wire::Data { .. } => true,
                    Wire::Lock(message) => message.kind() == Kind::Request,
                };
                if state.repeats > 0 && !once {
                    steps.push(Step::IsRepeated(from, to, index));
                }
                if self.is_ordered {
                    break;
                }
            }
        }
    }
}

impl Model for Case {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let stations = (0..self.nodes).map(|number| {
            let config = Config {
                local: slot(number),
                order: QueueOrder::Fifo,
                hold_ns_min: 0,
                holder_limit: self.holder_limit,
                arbiter_limit: 4,
                queue_max: 2,
            };
            Some(Station::new(config, self.hands_over, self.mutant))
        });
        let mut state = State {
            stations: stations.collect(),
            flying: Flying::new(),
            store: Store::default(),
            came: 0,
            repeats: self.repeats,
            deaths: self.deaths,
            epochs: self.epochs,
            give_backs: self.give_backs,
            members: Vec::new(),
            is_recovered: false,
            opened: SlotSet::EMPTY,
        };
        // How the first epoch begins is not what this is about.
        Self::decide(&mut state);
        for at in 0..self.nodes {
            self.enter(&mut state, at);
        }
        while let Some((&pair, _)) = state.flying.iter().find(|(_, queue)| !queue.is_empty()) {
            self.arrive(&mut state, pair, 0, false);
        }
        for at in 0..self.nodes {
            self.open(&mut state, at);
        }
        state.flying.clear();
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.store.broken.is_some() {
            return;
        }
        for (number, user) in (0..).zip(&self.users) {
            if state.came >> number & 1 == 0 && state.stations[usize::from(user.at)].is_some() {
                steps.push(Step::Comes(number));
            }
        }
        for station in state.stations.iter().flatten() {
            let at = station.slot.number();
            for (resource, users) in &station.users {
                if users.is_used() {
                    steps.push(Step::Finishes(at, *resource));
                } else if state.give_backs > 0 && users.hold > Held::Nothing {
                    let keeps = [Held::Nothing, Held::Read]
                        .into_iter()
                        .filter(|keep| *keep < users.hold);
                    steps.extend(keeps.map(|keep| Step::GivesBack(at, *resource, keep)));
                }
            }
            let unsecured = station.unsecured.keys();
            steps.extend(unsecured.map(|resource| Step::Secures(at, *resource)));
            if station.machine.epoch() < state.epoch() {
                steps.push(Step::Enters(at));
            } else if state.may_open() && !state.opened.contains(station.slot) {
                steps.push(Step::Opens(at));
            }
            if state.deaths > 0 {
                steps.push(Step::Dies(at));
            }
        }
        if state.epochs > 0 {
            steps.push(Step::Decided);
        }
        if state.is_quiet() && state.is_stuck() {
            steps.push(Step::Ticks);
        }
        self.arrivals(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Comes(number) => {
                next.came |= 1 << number;
                let User {
                    at,
                    resource,
                    mode,
                    prefetch,
                } = self.users[usize::from(number)];
                self.act(&mut next, at, |station, store| {
                    station.user(0, resource, mode, prefetch, store);
                });
            }
            Step::Finishes(at, resource) => {
                self.act(&mut next, at, |station, store| station.finish(0, resource, store));
            }
            Step::GivesBack(at, resource, keep) => {
                next.give_backs -= 1;
                self.act(&mut next, at, |station, store| {
                    station.give_back(0, resource, keep, store);
                });
            }
            Step::Secures(at, resource) => {
                self.act(&mut next, at, |station, store| station.secure(0, resource, store));
            }
            Step::Arrives(from, to, index) => self.arrive(&mut next, (from, to), index, false),
            Step::IsRepeated(from, to, index) => {
                next.repeats -= 1;
                self.arrive(&mut next, (from, to), index, true);
            }
            Step::Dies(at) => {
                next.deaths -= 1;
                if let Some(station) = next.stations[usize::from(at)].take() {
                    station.die(&mut next.store);
                }
                next.flying.retain(|(_, to), _| *to != at);
                Self::decide(&mut next);
            }
            Step::Decided => {
                next.epochs -= 1;
                Self::decide(&mut next);
            }
            Step::Ticks => self.tick(&mut next),
            Step::Enters(at) => self.enter(&mut next, at),
            Step::Opens(at) => self.open(&mut next, at),
        }
        // What nobody will look at is no difference.
        let stations = &next.stations;
        next.flying.retain(|(_, to), queue| {
            let receiver = stations[usize::from(*to)].as_ref();
            queue.retain(|(epoch, _)| receiver.is_some_and(|one| one.machine.epoch() <= *epoch));
            !queue.is_empty()
        });
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("safe", |_, state: &State| state.store.broken.is_none()),
            Property::always("I19", |case: &Self, state: &State| {
                let may_be_stuck = state.is_quiet() && state.is_stuck() && state.store.broken.is_none();
                !may_be_stuck || {
                    let mut later = state.clone();
                    case.tick(&mut later);
                    !later.is_quiet() || !later.is_stuck()
                }
            }),
        ]
    }
}

/// What a search has found.
struct Found {
    states: usize,
    broken: Vec<&'static str>,
    /// What was broken in the state that breaks a property.
    what: Option<&'static str>,
    is_whole: bool,
}

/// Looks at states until all were seen, one breaks a property, or there were `states_max` of them.
fn search(case: &Case, states_max: usize) -> Found {
    let checker = case
        .clone()
        .checker()
        .threads(2)
        .target_state_count(states_max)
        .spawn_bfs()
        .join();
    let discoveries = checker.discoveries();
    let mut broken: Vec<&'static str> = discoveries.keys().copied().collect();
    broken.sort_unstable();
    let last = discoveries.into_values().next().map(|path| path.into_states());
    Found {
        states: checker.unique_state_count(),
        broken,
        what: last.and_then(|states| states.last().and_then(|state| state.store.broken)),
        is_whole: checker.state_count() < states_max,
    }
}
