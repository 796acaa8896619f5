//! Whether each drive of each shelf may be used at the moment, decided on core 0.
//!
//! A pure machine. After each connect it looks which start of the shelf this is and whether the namespaces are the ones that the node
//! knows, and renews its claim to each drive; only then do the cores hear of a route. What it finds changed makes the drive a lost member
//! of its group: what is on it is what a rebuild takes it for, until an operator brings it back.
//!
//! Drives that nodes share are not claimed: membership has this life of the node registered at them, and says once that it may use them.
//! Instead of a claim the path awaits the end of what earlier associations have left behind. A reservation conflict at one of them means
//! that the array goes on without this life, which then uses none of them any more.

use std::collections::BTreeMap;

use nvme::reservation::Command as Reservation;

use super::claim::{Claim, Custody, Identity, Refusal, Rivals, Step};
use super::{Answer, Route, hostid_of, identity_of};
use crate::drive::DriveError;
use crate::target::host::{Drain, Namespace, TargetFacts};

/// How long a claim that failed is let be.
const CLAIM_AGAIN_NS: u64 = 1_000_000_000;

/// Why a drive is a lost member although it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// The shelf was started anew: what was not flushed may be gone.
    Restarted,
    /// The namespace is not there, or another one is in its place.
    Missing,
    /// The drive had forgotten that it was this node's.
    Forgotten,
}

impl Stale {
    /// As a sentence's end.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Restarted => {
                "its shelf was started anew, so that writes which were not flushed may be gone"
            }
            Self::Missing => "its namespace is not there, or is another one",
            Self::Forgotten => {
                "it has forgotten that it is reserved for this node, so that others may have written to it"
            }
        }
    }
}

/// What happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// The association to a shelf works, or its namespaces have changed.
    Ready {
        /// Which shelf.
        shelf: u16,
        /// What it is.
        facts: &'a TargetFacts,
    },
    /// It is lost.
    Down {
        /// Which shelf.
        shelf: u16,
    },
    /// Answer to [`Action::ReadInstance`].
    Instance {
        /// Which shelf.
        shelf: u16,
        /// Of this attempt.
        attempt: u32,
        /// What it said: nothing if it knows no such page. An error is a connection that is gone.
        instance: Result<Option<[u8; 16]>, ()>,
    },
    /// Answer to [`Action::Reserve`].
    Reserved {
        /// Which drive.
        drive: u16,
        /// Of this attempt.
        attempt: u32,
        /// Its answer.
        answer: Answer,
    },
    /// A drive refused a command with a reservation conflict.
    Conflict {
        /// Which drive.
        drive: u16,
    },
    /// Membership has this life of the node registered at the drives that nodes share.
    Admitted,
    /// An operator gives a drive to a group, which takes nothing on it for current.
    Restore {
        /// Which drive.
        drive: u16,
    },
    /// Time passes.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask which start of the shelf's process this is.
    ReadInstance {
        /// Which shelf.
        shelf: u16,
        /// Comes back with the answer.
        attempt: u32,
    },
    /// Ask this of a drive.
    Reserve {
        /// Which drive.
        drive: u16,
        /// Comes back with the answer.
        attempt: u32,
        /// What.
        command: Reservation,
    },
    /// Tell all cores.
    Route {
        /// Which drive.
        drive: u16,
        /// May it be used?
        route: Route,
    },
    /// The drive is a lost member from now on.
    Stale {
        /// Which drive.
        drive: u16,
        /// Why.
        why: Stale,
    },
    /// The drive is another node's.
    Fenced {
        /// Which drive.
        drive: u16,
    },
    /// A drive that nodes share has refused this life of the node, which has lost all of them by that. Said once.
    Expelled {
        /// Which drive.
        drive: u16,
    },
    /// The drive cannot be claimed for the moment.
    Refused {
        /// Which drive.
        drive: u16,
        /// Why.
        refusal: Refusal,
    },
}

#[derive(Clone, Debug)]
enum State {
    /// Awaits the association.
    Down,
    /// Awaits answers of its drive.
    Claiming(Claim),
    /// Awaits the time of the next claim.
    Unclaimed { until_ns: u64 },
    /// Shared with other nodes; awaits the end of what earlier associations have left behind.
    Draining,
    /// Shared with other nodes; awaits [`Event::Admitted`].
    Connected,
    /// Awaits nothing.
    Claimed,
    /// The namespace is not there.
    Missing,
    /// Awaits nothing any more: the drive is another node's, or other nodes'.
    Fenced,
}

#[derive(Debug)]
struct Path {
    shelf: u16,
    namespace: Namespace,
    state: State,
    /// What is on it is not to be relied on, and the cores have been told.
    stale: Option<Stale>,
    /// Who this node may be to the drive; `None` if nodes share it.
    custody: Option<Custody>,
}

#[derive(Debug)]
struct ShelfState {
    /// From which the host identifiers of attempts follow.
    base: [u8; 16],
    /// The attempt that works.
    attempt: Option<u32>,
    namespaces: Vec<Namespace>,
    volatile: bool,
    /// Nothing of earlier associations can take effect any more.
    is_drained: bool,
    /// Which start of its process it was when it was last known, if it has told.
    instance: Option<[u8; 16]>,
    /// It was connected before.
    known: bool,
}

impl Path {
    /// A claim that is under way does not come to an end.
    fn break_off(&mut self) {
        if let (State::Claiming(claim), Some(custody)) = (&self.state, &mut self.custody) {
            custody.tried(claim);
        }
    }
}

/// The paths to all drives of all shelves.
#[derive(Debug, Default)]
pub struct Paths {
    shelves: Vec<ShelfState>,
    paths: BTreeMap<u16, Path>,
    /// Drives that nodes share may be used when they are connected.
    is_admitted: bool,
    /// None of them is used any more.
    is_expelled: bool,
}

impl Paths {
    /// Adds a shelf: the next one gets the next number. `instance` is what it has told before.
    pub fn add_shelf(&mut self, base: [u8; 16], instance: Option<[u8; 16]>) {
        self.shelves.push(ShelfState {
            base,
            attempt: None,
            namespaces: Vec::new(),
            volatile: false,
            is_drained: false,
            instance,
            known: false,
        });
    }

    /// Adds a drive, which this node has claimed as `identity`; `None` for one that nodes share, which is used only after
    /// [`Event::Admitted`].
    pub fn add_drive(&mut self, drive: u16, shelf: u16, namespace: Namespace, identity: Option<Identity>) {
        let path = Path {
            shelf,
            namespace,
            state: State::Down,
            stale: None,
            custody: identity.map(|identity| Custody::of(identity.host)),
        };
        let old = self.paths.insert(drive, path);
        assert!(old.is_none() && usize::from(shelf) < self.shelves.len());
    }

    /// Whether nodes share a drive.
    pub fn is_shared(&self, drive: u16) -> bool {
        self.paths[&drive].custody.is_none()
    }

    /// Whether this life of the node has lost the drives that nodes share.
    pub const fn is_expelled(&self) -> bool {
        self.is_expelled
    }

    /// Whether this attempt to connect a shelf is known to have led somewhere.
    pub fn is_known(&self, shelf: u16, attempt: u32) -> bool {
        self.shelves[usize::from(shelf)].attempt == Some(attempt)
    }

    /// Whether a drive answers commands, or would if it was not stale.
    pub fn is_claimed(&self, drive: u16) -> bool {
        matches!(self.paths[&drive].state, State::Claimed)
    }

    /// Why what is on a drive is not to be relied on.
    pub fn stale(&self, drive: u16) -> Option<Stale> {
        self.paths[&drive].stale
    }

    /// Who this node is to a drive that it has claimed.
    pub fn identity(&self, drive: u16) -> Option<Identity> {
        let path = &self.paths[&drive];
        let shelf = &self.shelves[usize::from(path.shelf)];
        let is_own = self.is_claimed(drive) && !self.is_shared(drive);
        let attempt = shelf.attempt.filter(|_| is_own)?;
        Some(identity_of(hostid_of(shelf.base, attempt)))
    }

    /// Takes an event; what is to be done goes to `out`, in order.
    pub fn handle(&mut self, now_ns: u64, event: Event<'_>, out: &mut Vec<Action>) {
        match event {
            Event::Ready { shelf, facts } => self.ready(shelf, facts, out),
            Event::Down { shelf } => self.down(shelf, out),
            Event::Instance {
                shelf,
                attempt,
                instance,
            } => {
                if self.shelves[usize::from(shelf)].attempt == Some(attempt)
                    && let Ok(instance) = instance
                {
                    self.instance_read(shelf, attempt, instance, out);
                }
            }
            Event::Reserved {
                drive,
                attempt,
                answer,
            } => self.reserved(now_ns, drive, attempt, answer, out),
            Event::Conflict { drive } if self.is_shared(drive) => self.expel(drive, out),
            Event::Conflict { drive } => self.fence(drive, out),
            Event::Admitted => self.admit(out),
            Event::Restore { drive } => self.restore(drive, out),
            Event::Tick => self.tick(now_ns, out),
        }
    }

    fn ready(&mut self, shelf: u16, facts: &TargetFacts, out: &mut Vec<Action>) {
        let state = &mut self.shelves[usize::from(shelf)];
        state.namespaces.clone_from(&facts.namespaces);
        state.volatile = facts.volatile_write_cache;
        state.is_drained = facts.drain == Drain::Proven;
        let attempt = facts.attempt;
        if state.attempt.replace(attempt) != Some(attempt) {
            return out.push(Action::ReadInstance { shelf, attempt });
        }
        // One that was missing may be back, and one that was being drained may be so by now.
        for drive in self.drives_of(shelf) {
            if matches!(self.paths[&drive].state, State::Missing | State::Draining) && self.is_there(drive) {
                self.claim(drive, attempt, out);
            }
        }
    }

    fn drives_of(&self, shelf: u16) -> Vec<u16> {
        let paths = self.paths.iter();
        paths
            .filter(|(_, path)| path.shelf == shelf)
            .map(|(drive, _)| *drive)
            .collect()
    }

    fn is_there(&self, drive: u16) -> bool {
        let path = &self.paths[&drive];
        self.shelves[usize::from(path.shelf)]
            .namespaces
            .contains(&path.namespace)
    }

    fn path(&mut self, drive: u16) -> &mut Path {
        self.paths.get_mut(&drive).expect("it is a drive of a shelf")
    }

    fn down(&mut self, shelf: u16, out: &mut Vec<Action>) {
        self.shelves[usize::from(shelf)].attempt = None;
        for drive in self.drives_of(shelf) {
            let path = self.path(drive);
            if matches!(path.state, State::Fenced) {
                continue;
            }
            path.break_off();
            path.state = State::Down;
            if path.stale.is_none() {
                let route = Route::Down;
                out.push(Action::Route { drive, route });
            }
        }
    }

    fn instance_read(&mut self, shelf: u16, attempt: u32, instance: Option<[u8; 16]>, out: &mut Vec<Action>) {
        let state = &mut self.shelves[usize::from(shelf)];
        // A target that does not say whether it was started anew is believed only if it has nothing to lose.
        let silent = instance.is_none() && state.known && state.volatile;
        let restarted = instance != state.instance || silent;
        (state.instance, state.known) = (instance, true);
        for drive in self.drives_of(shelf) {
            if matches!(self.paths[&drive].state, State::Fenced) {
                continue;
            }
            if restarted {
                self.make_stale(drive, Stale::Restarted, out);
            }
            if self.is_there(drive) {
                self.claim(drive, attempt, out);
            } else {
                self.path(drive).state = State::Missing;
                self.make_stale(drive, Stale::Missing, out);
            }
        }
    }

    fn make_stale(&mut self, drive: u16, why: Stale, out: &mut Vec<Action>) {
        let path = self.path(drive);
        if path.stale.is_some() {
            return;
        }
        path.stale = Some(why);
        let route = Route::Refused {
            error: DriveError::Gone,
            // With its process everything has ended that it had under way.
            settled: why == Stale::Restarted,
        };
        out.push(Action::Route { drive, route });
        out.push(Action::Stale { drive, why });
    }

    fn claim(&mut self, drive: u16, attempt: u32, out: &mut Vec<Action>) {
        let shelf = &self.shelves[usize::from(self.paths[&drive].shelf)];
        let (is_drained, identity) = (shelf.is_drained, identity_of(hostid_of(shelf.base, attempt)));
        let is_admitted = self.is_admitted;
        let path = self.path(drive);
        let Some(custody) = path.custody.clone() else {
            path.state = if is_drained {
                State::Connected
            } else {
                State::Draining
            };
            if is_admitted {
                self.open(drive, out);
            }
            return;
        };
        let (claim, command) = Claim::begin(identity, Rivals::Renew(custody));
        path.state = State::Claiming(claim);
        out.push(Action::Reserve {
            drive,
            attempt,
            command,
        });
    }

    fn reserved(&mut self, now_ns: u64, drive: u16, attempt: u32, answer: Answer, out: &mut Vec<Action>) {
        let shelf = self.paths[&drive].shelf;
        if self.shelves[usize::from(shelf)].attempt != Some(attempt) {
            return; // Of an association that is lost.
        }
        let base = self.shelves[usize::from(shelf)].base;
        let identity = identity_of(hostid_of(base, attempt));
        let path = self.path(drive);
        let State::Claiming(claim) = &mut path.state else {
            return;
        };
        match claim.answered(answer) {
            Step::Ask(command) => out.push(Action::Reserve {
                drive,
                attempt,
                command,
            }),
            Step::Claimed { continuous } => {
                path.state = State::Claimed;
                path.custody = Some(Custody::of(identity.host));
                if !continuous {
                    self.make_stale(drive, Stale::Forgotten, out);
                }
                if self.paths[&drive].stale.is_none() {
                    self.route(drive, out);
                }
            }
            Step::Refused(Refusal::Held(_) | Refusal::Preempted) => self.fence(drive, out),
            // A target that could not wait for the end of commands has what follows wait for it (PROTOCOL H09).
            Step::Refused(refusal) => {
                path.break_off();
                path.state = State::Unclaimed {
                    until_ns: now_ns + CLAIM_AGAIN_NS,
                };
                out.push(Action::Refused { drive, refusal });
            }
        }
    }

    /// The drive is another node's, who has waited for the end of what this one had under way.
    fn fence(&mut self, drive: u16, out: &mut Vec<Action>) {
        let path = self.path(drive);
        if matches!(path.state, State::Fenced) {
            return;
        }
        path.state = State::Fenced;
        let route = Route::Refused {
            error: DriveError::Fenced,
            settled: true,
        };
        out.push(Action::Route { drive, route });
        out.push(Action::Fenced { drive });
    }

    /// The array goes on without this life of the node, which leaves all of its drives alone: nothing is written to any of them that
    /// says what this life thinks of its own end.
    fn expel(&mut self, drive: u16, out: &mut Vec<Action>) {
        if self.is_expelled {
            return;
        }
        self.is_expelled = true;
        for (drive, path) in self.paths.iter_mut().filter(|(_, path)| path.custody.is_none()) {
            path.state = State::Fenced;
            let route = Route::Refused {
                error: DriveError::Fenced,
                // No command is sent again, and none of this life counts: whoever goes on waits for the end of its fence.
                settled: true,
            };
            out.push(Action::Route { drive: *drive, route });
        }
        out.push(Action::Expelled { drive });
    }

    fn admit(&mut self, out: &mut Vec<Action>) {
        self.is_admitted = true;
        let drives: Vec<u16> = self.paths.keys().copied().collect();
        for drive in drives {
            self.open(drive, out);
        }
    }

    /// Lets a drive that nodes share be used, if nothing of earlier associations can take effect any more.
    fn open(&mut self, drive: u16, out: &mut Vec<Action>) {
        let path = self.path(drive);
        if !matches!(path.state, State::Connected) {
            return;
        }
        path.state = State::Claimed;
        if path.stale.is_none() {
            self.route(drive, out);
        }
    }

    /// Lets the cores use a drive over the association that works.
    fn route(&self, drive: u16, out: &mut Vec<Action>) {
        let shelf = self.paths[&drive].shelf;
        let attempt = self.shelves[usize::from(shelf)].attempt;
        let attempt = attempt.expect("a drive that may be used has an association");
        let route = Route::Up { attempt };
        out.push(Action::Route { drive, route });
    }

    fn restore(&mut self, drive: u16, out: &mut Vec<Action>) {
        let path = self.path(drive);
        if path.stale.is_none() || !matches!(path.state, State::Claimed) {
            return;
        }
        path.stale = None;
        self.route(drive, out);
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let drives: Vec<u16> = self.paths.keys().copied().collect();
        for drive in drives {
            let path = &self.paths[&drive];
            let shelf = &self.shelves[usize::from(path.shelf)];
            if let (State::Unclaimed { until_ns }, Some(attempt)) = (&path.state, shelf.attempt)
                && now_ns >= *until_ns
            {
                self.claim(drive, attempt, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nvme::reservation::{HostId, Report, Reported};

    use super::*;
    use crate::target::fabric::base_of;

    const NAMESPACE: Namespace = Namespace {
        nsid: 1,
        blocks: 100,
        block_bytes: 4096,
        nguid: [0; 16],
        uuid: [5; 16],
    };
    const BASE: [u8; 16] = [3; 16];
    const INSTANCE: Option<[u8; 16]> = Some([8; 16]);

    /// One shelf with one drive, and who has that.
    struct World {
        paths: Paths,
        held_by: Vec<HostId>,
        answers: bool,
    }

    fn facts(attempt: u32, namespaces: Vec<Namespace>) -> TargetFacts {
        TargetFacts {
            attempt,
            namespaces,
            volatile_write_cache: true,
            drain: Drain::Proven,
            ..TargetFacts::default()
        }
    }

    impl World {
        fn new() -> Self {
            let identity = identity_of(base_of(BASE, "start"));
            let mut paths = Paths::default();
            paths.add_shelf(BASE, INSTANCE);
            paths.add_drive(7, 0, NAMESPACE, Some(identity));
            Self {
                paths,
                held_by: vec![identity.host],
                answers: true,
            }
        }

        /// What remains of an event after the drive has answered everything.
        fn run(&mut self, event: Event<'_>) -> Vec<Action> {
            let mut out = Vec::new();
            self.paths.handle(0, event, &mut out);
            let mut rest = Vec::new();
            while !out.is_empty() {
                for action in std::mem::take(&mut out) {
                    let Action::Reserve {
                        drive,
                        attempt,
                        command,
                    } = action
                    else {
                        rest.push(action);
                        continue;
                    };
                    if !self.answers {
                        rest.push(action);
                        continue;
                    }
                    let answer = self.answer(attempt, command);
                    let event = Event::Reserved {
                        drive,
                        attempt,
                        answer,
                    };
                    self.paths.handle(0, event, &mut out);
                }
            }
            rest
        }

        fn answer(&mut self, attempt: u32, command: Reservation) -> Answer {
            let own = HostId(hostid_of(BASE, attempt));
            match command {
                Reservation::Report { .. } => {
                    let registrants = self.held_by.iter().map(|host| Reported {
                        cntlid: 0,
                        holder: true,
                        host: *host,
                        key: identity_of(host.0).key,
                    });
                    return Answer::Report(Report {
                        generation: 0,
                        kind: (!self.held_by.is_empty())
                            .then_some(nvme::reservation::Kind::ExclusiveAccessAllRegistrants),
                        persists: true,
                        registrants: registrants.collect(),
                    });
                }
                Reservation::Preempt { victim, .. } => {
                    let is_victim = |host: &HostId| identity_of(host.0).key == victim;
                    assert!(self.held_by.iter().any(is_victim) && self.held_by.contains(&own));
                    self.held_by.retain(|host| !is_victim(host));
                }
                Reservation::Register { .. } => self.held_by.push(own),
                Reservation::Acquire { .. } => {}
                Reservation::Unregister { .. }
                | Reservation::Replace { .. }
                | Reservation::Release { .. }
                | Reservation::Clear { .. }
                | Reservation::SetPersistence(_)
                | Reservation::SetFloors(_)
                | Reservation::Expel { .. }
                | Reservation::Kill { .. } => panic!("{command:?}"),
            }
            Answer::Done
        }

        fn connect(&mut self, attempt: u32, instance: Option<[u8; 16]>) -> Vec<Action> {
            let facts = facts(attempt, vec![NAMESPACE]);
            let asked = self.run(Event::Ready {
                shelf: 0,
                facts: &facts,
            });
            assert_eq!(asked, [Action::ReadInstance { shelf: 0, attempt }]);
            self.run(Event::Instance {
                shelf: 0,
                attempt,
                instance: Ok(instance),
            })
        }

        fn lose(&mut self) -> Vec<Action> {
            self.run(Event::Down { shelf: 0 })
        }
    }

    fn route(route: Route) -> Action {
        Action::Route { drive: 7, route }
    }

    const GONE: Route = Route::Refused {
        error: DriveError::Gone,
        settled: true,
    };

    #[test]
    fn a_reconnect_to_the_same_shelf_brings_the_drive_back() {
        let mut world = World::new();
        assert_eq!(world.connect(0, INSTANCE), [route(Route::Up { attempt: 0 })]);
        for attempt in 1..200 {
            assert_eq!(world.lose(), [route(Route::Down)]);
            assert_eq!(world.paths.identity(7), None);
            // Most attempts end before the fence.
            world.answers = attempt % 100 == 0;
            let came = world.connect(attempt, INSTANCE);
            assert_eq!(came == [route(Route::Up { attempt })], world.answers, "{came:?}");
        }
    }

    #[test]
    fn a_shelf_that_was_started_anew_has_lost_members_until_they_are_brought_back() {
        let mut world = World::new();
        world.connect(0, INSTANCE);
        world.lose();
        let why = Stale::Restarted;
        let stale = Action::Stale { drive: 7, why };
        assert_eq!(world.connect(1, Some([9; 16])), [route(GONE), stale]);
        assert!(world.paths.is_claimed(7) && world.paths.stale(7) == Some(why));
        assert_eq!(world.lose(), [], "nothing of it is used anyway");
        assert_eq!(world.run(Event::Restore { drive: 7 }), [], "not while it is away");
        assert_eq!(world.connect(2, Some([9; 16])), []);
        assert_eq!(
            world.run(Event::Restore { drive: 7 }),
            [route(Route::Up { attempt: 2 })]
        );
        world.lose();
        assert_eq!(world.connect(3, Some([9; 16])), [route(Route::Up { attempt: 3 })]);
    }

    #[test]
    fn another_namespace_in_its_place_is_not_the_drive() {
        let mut world = World::new();
        let other = Namespace {
            uuid: [6; 16],
            ..NAMESPACE
        };
        let (found, back) = (facts(0, vec![other]), facts(0, vec![NAMESPACE]));
        let ready = |facts| Event::Ready { shelf: 0, facts };
        world.run(ready(&found));
        let missing = world.run(Event::Instance {
            shelf: 0,
            attempt: 0,
            instance: Ok(INSTANCE),
        });
        let why = Stale::Missing;
        assert_eq!(missing.last(), Some(&Action::Stale { drive: 7, why }));
        assert_eq!(world.run(ready(&back)), []);
        assert!(world.paths.is_claimed(7));
    }

    #[test]
    fn a_drive_that_another_node_has_taken_is_never_used_again() {
        let fenced = Route::Refused {
            error: DriveError::Fenced,
            settled: true,
        };
        let expected = [route(fenced), Action::Fenced { drive: 7 }];
        let mut world = World::new();
        world.connect(0, INSTANCE);
        assert_eq!(world.run(Event::Conflict { drive: 7 }), expected);
        assert_eq!(world.run(Event::Conflict { drive: 7 }), []);
        world.lose();
        assert_eq!(world.connect(1, INSTANCE), []);
        let mut world = World::new();
        world.connect(0, INSTANCE);
        world.lose();
        world.held_by = vec![HostId([1; 16])];
        assert_eq!(world.connect(1, INSTANCE), expected);
    }

    /// One shelf with two drives that nodes share.
    fn shared() -> World {
        let mut paths = Paths::default();
        paths.add_shelf(BASE, INSTANCE);
        for (drive, namespace) in [(7, NAMESPACE), (8, OTHER)] {
            paths.add_drive(drive, 0, namespace, None);
        }
        World {
            paths,
            held_by: Vec::new(),
            answers: false, // Nothing is asked of a reservation.
        }
    }

    const OTHER: Namespace = Namespace {
        nsid: 3,
        uuid: [6; 16],
        ..NAMESPACE
    };

    fn both(route: Route) -> [Action; 2] {
        [7, 8].map(|drive| Action::Route { drive, route })
    }

    fn found(world: &mut World, attempt: u32, drain: Drain) -> Vec<Action> {
        let facts = &TargetFacts {
            drain,
            ..facts(attempt, vec![NAMESPACE, OTHER])
        };
        world.run(Event::Ready { shelf: 0, facts })
    }

    fn told(world: &mut World, attempt: u32, instance: Option<[u8; 16]>) -> Vec<Action> {
        world.run(Event::Instance {
            shelf: 0,
            attempt,
            instance: Ok(instance),
        })
    }

    #[test]
    fn shared_drives_are_used_once_membership_has_said_so() {
        let mut world = shared();
        found(&mut world, 0, Drain::Proven);
        assert_eq!(told(&mut world, 0, INSTANCE), [], "it is not admitted");
        assert!(!world.paths.is_claimed(7) && world.paths.is_shared(7));
        assert_eq!(world.run(Event::Admitted), both(Route::Up { attempt: 0 }));
        assert_eq!(world.run(Event::Admitted), [], "once");
        assert!(world.paths.is_claimed(7) && world.paths.identity(7).is_none());
        assert_eq!(world.lose(), both(Route::Down));
        assert_eq!(
            world.run(Event::Admitted),
            [],
            "not before they are connected again"
        );
        found(&mut world, 1, Drain::Proven);
        let up = Route::Up { attempt: 1 };
        assert_eq!(told(&mut world, 1, INSTANCE), both(up), "by itself");
        let mut early = shared();
        assert_eq!(early.run(Event::Admitted), []);
        found(&mut early, 0, Drain::Proven);
        assert_eq!(told(&mut early, 0, INSTANCE), both(Route::Up { attempt: 0 }));
    }

    #[test]
    fn shared_drives_of_a_shelf_that_was_started_anew_are_lost_members() {
        let mut world = shared();
        world.run(Event::Admitted);
        found(&mut world, 0, Drain::Proven);
        told(&mut world, 0, INSTANCE);
        world.lose();
        found(&mut world, 1, Drain::Proven);
        let why = Stale::Restarted;
        let lost = [7, 8].map(|drive| [Action::Route { drive, route: GONE }, Action::Stale { drive, why }]);
        assert_eq!(told(&mut world, 1, Some([9; 16])), lost.concat());
        assert_eq!(
            world.run(Event::Restore { drive: 7 }),
            [route(Route::Up { attempt: 1 })]
        );
    }

    #[test]
    fn shared_drives_wait_for_what_earlier_associations_have_left_behind() {
        let mut world = shared();
        world.run(Event::Admitted);
        found(&mut world, 0, Drain::NotAsked);
        found(&mut world, 0, Drain::UnderWay);
        assert_eq!(
            told(&mut world, 0, INSTANCE),
            [],
            "they are there, and may not be asked"
        );
        for drain in [Drain::UnderWay, Drain::Unsupported] {
            assert_eq!(found(&mut world, 0, drain), []);
        }
        let up = both(Route::Up { attempt: 0 });
        assert_eq!(found(&mut world, 0, Drain::Proven), up);
        assert_eq!(found(&mut world, 0, Drain::Proven), [], "once");
    }

    #[test]
    fn a_life_that_one_shared_drive_refuses_uses_none_of_them_any_more() {
        let fenced = Route::Refused {
            error: DriveError::Fenced,
            settled: true,
        };
        let mut world = shared();
        world.run(Event::Admitted);
        found(&mut world, 0, Drain::Proven);
        told(&mut world, 0, INSTANCE);
        let mut expected = both(fenced).to_vec();
        expected.push(Action::Expelled { drive: 8 });
        assert_eq!(world.run(Event::Conflict { drive: 8 }), expected);
        assert!(world.paths.is_expelled());
        assert_eq!(world.run(Event::Conflict { drive: 7 }), [], "it was said");
        assert_eq!(world.lose(), []);
        found(&mut world, 1, Drain::Proven);
        assert_eq!(told(&mut world, 1, Some([9; 16])), []);
        assert_eq!(world.run(Event::Admitted), []);
        assert!(!world.paths.is_claimed(7) && !world.paths.is_claimed(8));
    }

    #[test]
    fn a_shelf_that_forgot_everybody_and_one_that_does_not_say_are_not_believed() {
        let mut world = World::new();
        world.connect(0, INSTANCE);
        world.lose();
        world.held_by.clear();
        let came = world.connect(1, INSTANCE);
        let why = Stale::Forgotten;
        assert_eq!(came.last(), Some(&Action::Stale { drive: 7, why }));
        let mut silent = World::new();
        silent.paths = Paths::default();
        silent.paths.add_shelf(BASE, None);
        silent
            .paths
            .add_drive(7, 0, NAMESPACE, Some(identity_of(base_of(BASE, "start"))));
        assert_eq!(silent.connect(0, None), [route(Route::Up { attempt: 0 })]);
        silent.lose();
        let why = Stale::Restarted;
        assert_eq!(
            silent.connect(1, None).last(),
            Some(&Action::Stale { drive: 7, why })
        );
    }
}
