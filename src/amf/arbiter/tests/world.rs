//! A few nodes, their users, and links that delay, reorder, repeat and lose with an epoch, all of it from one seed. Nodes die, come back, pause and enter
//! epochs at different times.
//!
//! What may never happen is looked for after every step; then all is healed, and nobody may be left waiting.

use super::super::station::{Mutant, Station, Store, Wire, check};
use super::super::*;
use crate::amf::lock::{Held, Mode};
use crate::icl::SLOTS;
use crate::icl::link::random::Random;

/// What a seed decides, and what a test may set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) nodes: u8,
    pub(super) resources: u64,
    pub(super) rule: Option<Rule>,
    pub(super) order: QueueOrder,
    pub(super) holder_limit: usize,
    pub(super) arbiter_limit: usize,
    pub(super) hold_ns_min: u64,
    pub(super) hands_over: bool,
    /// Messages of a pair arrive in order, as the link has it.
    pub(super) is_ordered: bool,
    pub(super) repeats: bool,
    /// In thousandths of steps.
    pub(super) deaths: u64,
    pub(super) epochs: u64,
    pub(super) pauses: u64,
    pub(super) prefetch: u32,
    /// How soon what was handed over is durable.
    pub(super) securing: u64,
    pub(super) mutant: Mutant,
}

impl Setting {
    pub(super) fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut pick = |end: u64| random.below(end);
        let nodes = [2, 2, 3, 3, 4, 5, 6, 8][usize::try_from(pick(8)).unwrap()];
        let slot = |number: u64| Slot::new(u8::try_from(number).unwrap()).unwrap();
        let rule = match pick(4) {
            0 => Some(Rule::SingleArbiter(SingleArbiter(slot(pick(8))))),
            1 => Some(Rule::Balanced(Balanced([1, 2, 3, 4, 5, 6, 7, 8]))),
            _ => None,
        };
        let is_narrow = pick(4) == 0;
        let mut limit = || {
            if is_narrow {
                1 + usize::try_from(pick(4)).unwrap()
            } else {
                64
            }
        };
        let (holder_limit, arbiter_limit) = (limit(), limit());
        let is_ordered = pick(2) == 0;
        Self {
            nodes,
            resources: 1 + pick(6),
            rule,
            order: if pick(2) == 0 {
                QueueOrder::Fifo
            } else {
                QueueOrder::Priority
            },
            holder_limit,
            arbiter_limit,
            hold_ns_min: [0, HOLD_NS_MIN][usize::try_from(pick(2)).unwrap()],
            hands_over: pick(2) == 0,
            is_ordered,
            repeats: pick(2) == 0,
            deaths: pick(3) * 3,
            epochs: pick(3) * 4,
            pauses: pick(2) * 5,
            prefetch: u32::try_from(pick(3) * 2).unwrap(),
            securing: [20, 100, 500][usize::try_from(pick(3)).unwrap()],
            mutant: Mutant::None,
        }
    }
}

struct Packet {
    from: Slot,
    to: Slot,
    epoch: Epoch,
    /// The lives of sender and receiver.
    lives: [u64; 2],
    wire: Wire,
}

/// A decided epoch: the life of each member.
type Members = [Option<u64>; SLOTS];

struct Place {
    station: Station,
    life: u64,
    /// Index into the epochs, and 1.
    entered: usize,
    is_recovered: bool,
    paused_until_ns: u64,
}

pub(super) struct World {
    pub(super) setting: Setting,
    pub(super) random: Random,
    pub(super) now_ns: u64,
    pub(super) store: Store,
    places: [Option<Place>; SLOTS],
    epochs: Vec<Members>,
    /// How many epochs are recovered.
    recovered: usize,
    next_life: u64,
    flying: Vec<Packet>,
    /// What was sent, in order: for scripts.
    pub(super) trace: Vec<(Slot, Slot, Wire)>,
    pub(super) totals: Counters,
}

pub(super) fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

impl World {
    pub(super) fn new(seed: u64, setting: Setting) -> Self {
        let mut world = Self {
            setting,
            random: Random::new(seed ^ 0x5eed),
            now_ns: 1,
            store: Store::default(),
            places: [const { None }; SLOTS],
            epochs: Vec::new(),
            recovered: 0,
            next_life: 1,
            flying: Vec::new(),
            trace: Vec::new(),
            totals: Counters::default(),
        };
        for number in 0..setting.nodes {
            world.boot(slot(number));
        }
        world.decide();
        world
    }

    fn boot(&mut self, at: Slot) {
        let setting = self.setting;
        let config = Config {
            local: at,
            order: setting.order,
            hold_ns_min: setting.hold_ns_min,
            holder_limit: setting.holder_limit,
            arbiter_limit: setting.arbiter_limit,
            queue_max: 2,
        };
        self.places[at.index()] = Some(Place {
            station: Station::new(config, setting.hands_over, setting.mutant),
            life: self.next_life,
            entered: 0,
            is_recovered: false,
            paused_until_ns: 0,
        });
        self.next_life += 1;
    }

    pub(super) fn decide(&mut self) {
        let lives = |place: &Option<Place>| place.as_ref().map(|place| place.life);
        self.epochs.push(self.places.each_ref().map(lives));
    }

    pub(super) fn stations(&self) -> impl Iterator<Item = &Station> + Clone {
        self.places.iter().flatten().map(|place| &place.station)
    }

    pub(super) fn station(&mut self, at: Slot) -> &mut Station {
        &mut self.places[at.index()].as_mut().expect("it lives").station
    }

    pub(super) fn is_alive(&self, at: Slot) -> bool {
        self.places[at.index()].is_some()
    }

    /// Enters the newest epoch.
    pub(super) fn enter(&mut self, at: Slot) {
        let newest = self.epochs.len();
        let (now_ns, fixed) = (self.now_ns, self.setting.rule);
        let lives = self.epochs[newest - 1];
        let Some(place) = &mut self.places[at.index()] else {
            return;
        };
        if place.entered == newest || lives[at.index()] != Some(place.life) {
            return;
        }
        let before = place.entered.checked_sub(1).map(|index| self.epochs[index]);
        let members: SlotSet = Slot::all().filter(|at| lives[at.index()].is_some()).collect();
        let survives = |at: &Slot| before.is_some_and(|before| before[at.index()] == lives[at.index()]);
        let survivors = members.iter().filter(survives).collect();
        let rule = fixed.unwrap_or(Rule::preferred(members));
        (place.entered, place.is_recovered) = (newest, false);
        let epoch = Epoch(u32::try_from(newest).unwrap());
        place
            .station
            .enter(now_ns, epoch, members, survivors, rule, &mut self.store);
        self.drain(at);
    }

    /// Takes what a node has sent.
    pub(super) fn drain(&mut self, at: Slot) {
        let Some(place) = &mut self.places[at.index()] else {
            return;
        };
        let sent = std::mem::take(&mut place.station.sent);
        let (epoch, life) = (place.station.machine.epoch(), place.life);
        for (to, wire) in sent {
            self.trace.push((at, to, wire.clone()));
            let lives = self.epochs[place_epoch(epoch)];
            let packet = |wire| Packet {
                from: at,
                to,
                epoch,
                lives: [life, lives[to.index()].unwrap_or(0)],
                wire,
            };
            let travels = self.setting.rule.is_none() && self.setting.nodes <= 2;
            let once = match &wire {
                Wire::Data { .. } => true,
                Wire::Lock(message) => travels || message.kind() == message::Kind::Request,
            };
            if self.setting.repeats && !once && !self.is_two() && self.random.chance(100) {
                self.flying.push(packet(wire.clone()));
            }
            self.flying.push(packet(wire));
        }
    }

    /// Whether the arbitership may travel in some epoch, now or in one that is not over everywhere.
    fn is_two(&self) -> bool {
        self.setting.rule.is_none()
            && self
                .epochs
                .iter()
                .any(|lives| lives.iter().flatten().count() <= 2)
    }

    fn is_deliverable(&self, index: usize) -> bool {
        let packet = &self.flying[index];
        let pair = |other: &Packet| (other.from, other.to) == (packet.from, packet.to);
        let is_first = !(self.setting.is_ordered || self.is_two()) || !self.flying[..index].iter().any(pair);
        let Some(place) = &self.places[packet.to.index()] else {
            return true;
        };
        let waits = place.station.machine.epoch() < packet.epoch && place.life == packet.lives[1];
        is_first && !waits && place.paused_until_ns <= self.now_ns
    }

    /// Delivers one packet of those that may come next.
    pub(super) fn deliver(&mut self, index: usize) {
        let packet = self.flying.remove(index);
        let Some(place) = &mut self.places[packet.to.index()] else {
            return;
        };
        if place.life == packet.lives[1] && place.station.machine.epoch() == packet.epoch {
            place.station.receive(
                self.now_ns,
                packet.from,
                packet.epoch,
                packet.wire,
                &mut self.store,
            );
            self.drain(packet.to);
        }
    }

    fn deliver_some(&mut self, count: usize) {
        for _ in 0..count {
            let may: Vec<usize> = (0..self.flying.len())
                .filter(|index| self.is_deliverable(*index))
                .collect();
            if may.is_empty() {
                return;
            }
            let index = may[self.random.index(may.len())];
            self.deliver(index);
        }
    }

    pub(super) fn user(&mut self, at: Slot, resource: Resource, mode: Mode, prefetch: Prefetch) {
        let now_ns = self.now_ns;
        if let Some(place) = &mut self.places[at.index()] {
            place
                .station
                .user(now_ns, resource, mode, prefetch, &mut self.store);
            self.drain(at);
        }
    }

    pub(super) fn finish(&mut self, at: Slot, resource: Resource) {
        let now_ns = self.now_ns;
        if let Some(place) = &mut self.places[at.index()] {
            place.station.finish(now_ns, resource, &mut self.store);
            self.drain(at);
        }
    }

    pub(super) fn event(&mut self, at: Slot, event: Event) {
        let now_ns = self.now_ns;
        if let Some(place) = &mut self.places[at.index()] {
            place.station.handle(now_ns, event, &mut self.store);
            self.drain(at);
        }
    }

    pub(super) fn give_back(&mut self, at: Slot, resource: Resource, keep: Held) {
        let now_ns = self.now_ns;
        if let Some(place) = &mut self.places[at.index()] {
            place.station.give_back(now_ns, resource, keep, &mut self.store);
            self.drain(at);
        }
    }

    pub(super) fn kill(&mut self, at: Slot) {
        if let Some(place) = self.places[at.index()].take() {
            place.station.die(&mut self.store);
            self.count(&place.station);
        }
    }

    fn count(&mut self, station: &Station) {
        let counters = station.machine.counters();
        self.totals.grants += counters.grants;
        self.totals.prefetch_hits += counters.prefetch_hits;
        self.totals.hand_overs += counters.hand_overs;
        self.totals.evictions += counters.evictions;
        self.totals.failures += counters.failures;
        self.totals.stale += counters.stale;
        self.totals.releases_when_done += counters.releases_when_done;
    }

    /// Recovers the newest epoch if all its members have reported, and opens it on each, now or later.
    fn open(&mut self, chance: u64) {
        let newest = self.epochs.len();
        let epoch = Epoch(u32::try_from(newest).unwrap());
        let lives = self.epochs[newest - 1];
        let is_complete = Slot::all().filter(|at| lives[at.index()].is_some()).all(|at| {
            let place = self.places[at.index()].as_ref();
            // What is not durable where it was taken may be in the journal of a node that is gone only.
            place.is_some_and(|place| {
                let station = &place.station;
                let is_ready = station.reported == epoch && station.unsecured.is_empty();
                Some(place.life) == lives[at.index()] && is_ready
            })
        });
        if is_complete && self.recovered < newest {
            self.recovered = newest;
            let stations = self.places.iter_mut().flatten().map(|place| &mut place.station);
            self.store.recover(stations);
        }
        for at in Slot::all() {
            let is_due = self.recovered == newest && self.random.chance(chance);
            let Some(place) = &mut self.places[at.index()] else {
                continue;
            };
            if is_due && place.entered == newest && !place.is_recovered {
                place.is_recovered = true;
                self.event(at, Event::Recovered(epoch));
            }
        }
    }

    fn time_passes(&mut self) {
        self.now_ns += 1 + self.random.below(40_000);
        for at in Slot::all() {
            let Some(place) = &self.places[at.index()] else {
                continue;
            };
            let is_due = place
                .station
                .machine
                .wake_at_ns()
                .is_some_and(|at_ns| at_ns <= self.now_ns);
            if place.paused_until_ns <= self.now_ns && (is_due || self.random.chance(50)) {
                self.event(at, Event::Tick);
            }
        }
    }

    fn some_resource(&mut self) -> Resource {
        // Some are neighbours, and some have other arbiters.
        let number = self.random.below(self.setting.resources);
        Resource(number % 3 + number / 3 * RUN)
    }

    fn users_act(&mut self, load: u64) {
        for at in Slot::all() {
            let Some(place) = &self.places[at.index()] else {
                continue;
            };
            if place.paused_until_ns > self.now_ns {
                continue;
            }
            let used: Vec<Resource> = place
                .station
                .users
                .iter()
                .filter(|(_, users)| users.is_used())
                .map(|(resource, _)| *resource)
                .collect();
            for resource in used {
                if self.random.chance(400) {
                    self.finish(at, resource);
                }
            }
            self.secure_some(at, self.setting.securing);
            if self.random.chance(load) {
                let resource = self.some_resource();
                let mode = if self.random.chance(500) {
                    Mode::Read
                } else {
                    Mode::Write
                };
                let prefetch = Prefetch::next(self.setting.prefetch);
                self.user(at, resource, mode, prefetch);
            }
            if self.random.chance(load / 8) {
                let resource = self.some_resource();
                let keep = if self.random.chance(500) {
                    Held::Nothing
                } else {
                    Held::Read
                };
                self.give_back(at, resource, keep);
            }
        }
    }

    /// What has come with grants is durable, some of it now and some later.
    fn secure_some(&mut self, at: Slot, chance: u64) {
        let now_ns = self.now_ns;
        let unsecured: Vec<Resource> = self.station(at).unsecured.keys().copied().collect();
        for resource in unsecured {
            let is_now = self.random.chance(chance);
            if let Some(place) = self.places[at.index()].as_mut().filter(|_| is_now) {
                place.station.secure(now_ns, resource, &mut self.store);
            }
        }
        self.drain(at);
    }

    fn go_wrong(&mut self) {
        let setting = self.setting;
        let at = slot(u8::try_from(self.random.below(u64::from(setting.nodes))).unwrap());
        let alive = self.places.iter().flatten().count();
        if self.random.chance(setting.deaths) && alive > 1 {
            self.kill(at);
        }
        if self.random.chance(setting.pauses) {
            let until_ns = self.now_ns + self.random.below(3_000_000);
            if let Some(place) = &mut self.places[at.index()] {
                place.paused_until_ns = until_ns;
            }
        }
        if self.random.chance(setting.pauses) {
            let suspects = SlotSet::EMPTY.with(at);
            for other in Slot::all().filter(|other| *other != at) {
                self.event(other, Event::Suspect(suspects));
            }
        }
        let newest = *self.epochs.last().expect("there is one");
        let has_changed = Slot::all().any(|at| {
            let life = self.places[at.index()].as_ref().map(|place| place.life);
            life != newest[at.index()]
        });
        if has_changed && self.random.chance(30) || self.random.chance(setting.epochs) {
            if self.random.chance(300) {
                let gone = (0..setting.nodes).map(slot).find(|at| !self.is_alive(*at));
                if let Some(at) = gone {
                    self.boot(at);
                }
            }
            self.decide();
        }
        for at in Slot::all() {
            if self.random.chance(100) {
                self.enter(at);
            }
        }
    }

    pub(super) fn check(&mut self) {
        let mut store = std::mem::take(&mut self.store);
        check(self.stations(), &mut store);
        self.store = store;
    }

    /// Runs with users and faults for so many steps; stops when something is broken.
    pub(super) fn run(&mut self, steps: u64, load: u64) {
        for _ in 0..steps {
            self.time_passes();
            self.go_wrong();
            self.open(200);
            let count = self.random.index(6);
            self.deliver_some(count);
            self.users_act(load);
            self.check();
            if self.store.broken.is_some() {
                return;
            }
        }
    }

    /// Ends all faults, and lets all finish: nobody may be left waiting (I19).
    pub(super) fn heal(&mut self) {
        (self.setting.deaths, self.setting.epochs, self.setting.pauses) = (0, 0, 0);
        let newest = *self.epochs.last().expect("there is one");
        let lives = self
            .places
            .each_ref()
            .map(|place| place.as_ref().map(|place| place.life));
        if lives != newest {
            self.decide();
        }
        for at in Slot::all() {
            self.event(at, Event::Suspect(SlotSet::EMPTY));
            if let Some(place) = &mut self.places[at.index()] {
                place.paused_until_ns = 0;
            }
            self.enter(at);
        }
        for _ in 0..4000 {
            self.time_passes();
            self.open(1000);
            self.deliver_some(8);
            for at in Slot::all()
                .filter(|at| self.places[at.index()].is_some())
                .collect::<Vec<_>>()
            {
                self.secure_some(at, 1000);
                let used: Vec<Resource> = self.station(at).users.keys().copied().collect();
                for resource in used {
                    if self.station(at).users[&resource].is_used() {
                        self.finish(at, resource);
                    }
                }
            }
            self.check();
            let is_quiet = self.flying.is_empty() && self.recovered == self.epochs.len();
            if self.store.broken.is_some() || is_quiet && !self.stations().any(Station::is_waiting) {
                break;
            }
        }
        if self.stations().any(Station::is_waiting) {
            self.store.blame("I19: somebody waits for ever");
        }
        if self.stations().any(|station| !station.handing.is_empty()) {
            self.store.blame("I19: dirty data is handed over for ever");
        }
        for at in Slot::all() {
            if let Some(place) = self.places[at.index()].take() {
                self.count(&place.station);
            }
        }
    }

    /// Delivers everything, in the order in which it was sent.
    pub(super) fn settle(&mut self) {
        while !self.flying.is_empty() {
            self.deliver(0);
            for at in Slot::all() {
                if self.flying.is_empty() && self.is_alive(at) {
                    self.secure_some(at, 1000);
                }
            }
        }
    }

    /// All enter, report and open, without faults.
    pub(super) fn form(&mut self) {
        for at in Slot::all() {
            self.enter(at);
        }
        self.settle();
        self.open(1000);
        self.settle();
        self.trace.clear();
    }
}

fn place_epoch(epoch: Epoch) -> usize {
    usize::try_from(epoch.0).expect("few epochs").saturating_sub(1)
}
