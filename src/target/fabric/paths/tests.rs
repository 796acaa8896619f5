//! The paths to one shelf's drives: one that is a node's alone, and two that nodes share.

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

/// The same while the cores use them.
fn used() -> World {
    let mut world = shared();
    world.run(Event::Admitted);
    found(&mut world, 0, Drain::Proven);
    told(&mut world, 0, INSTANCE);
    world
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
    let mut world = used();
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
    world.lose();
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
fn a_shared_drive_that_hangs_holds_up_itself_alone() {
    let up = |drive, attempt| Action::Route {
        drive,
        route: Route::Up { attempt },
    };
    // The cores let go of the lost connections before the next association works, or after.
    for is_early in [false, true] {
        let mut world = used();
        world.lose();
        assert_eq!(world.run(Event::InDoubt { drive: 8 }), []);
        let mut seen = Vec::new();
        if is_early {
            seen.extend(world.run(Event::Ended { shelf: 0 }));
        }
        seen.extend(found(&mut world, 1, Drain::UnderWay));
        seen.retain(|action| !matches!(action, Action::ReadInstance { .. }));
        assert_eq!(seen, []);
        seen.extend(told(&mut world, 1, INSTANCE));
        assert_eq!(seen.is_empty(), !is_early, "others may be in doubt too");
        if !is_early {
            seen.extend(world.run(Event::Ended { shelf: 0 }));
        }
        assert_eq!(seen, [up(7, 1)]);
        // The same with one more association: what is in doubt stays so.
        let down = Route::Down;
        assert_eq!(world.lose(), both(down));
        world.run(Event::Ended { shelf: 0 });
        found(&mut world, 2, Drain::UnderWay);
        assert_eq!(told(&mut world, 2, INSTANCE), [up(7, 2)]);
        assert_eq!(found(&mut world, 2, Drain::Proven), [up(8, 2)]);
    }
}

#[test]
fn a_life_that_one_shared_drive_refuses_uses_none_of_them_any_more() {
    let mut world = used();
    let mut expected = both(Route::Down).to_vec();
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
