//! Goal: full tables refuse and starve nobody (B10), the shortest hold is kept (H15), large tables are reported in batches (B15), peers that break the rules are named.

use super::super::message::{CLAIMS_MAX, Grant, Kind, Message, Request, Seat};
use super::super::*;
use super::script::{placed_at, setting, world};
use super::world::slot;
use crate::amf::lock::Held;
use crate::amf::lock::Mode::{Read, Write};

/// B10: an arbiter whose table is full lets so many of a node wait, refuses the others, with nothing held, and asks back what nobody uses.
#[test]
fn b10_a_full_arbiter_refuses_and_starves_nobody() {
    let mut setting = setting(3);
    setting.arbiter_limit = 2;
    let mut world = world(setting);
    let first = placed_at(3, &world);
    let next = |count: u64| Resource(first.0 + count);
    for count in 0..2 {
        world.wants(2, Write, next(count));
        world.settle();
    }
    for count in 2..12 {
        world.wants(1, Read, next(count));
        world.settle();
    }
    assert_eq!(world.station(slot(0)).failed, 2);
    let refused = [next(10), next(11)];
    assert!(
        refused
            .into_iter()
            .all(|resource| world.hold(1, resource) == Held::Nothing)
    );
    assert_eq!(world.station(slot(2)).machine.counts(), (0, 2));
    // Somebody else has a place in the line of its own.
    world.wants(3, Read, next(20));
    for _ in 0..40 {
        for count in (0..12).chain([20]) {
            for amf in 1..=3 {
                world.is_done(amf, next(count));
                world.settle();
            }
        }
        for amf in 1..=3 {
            world.event(slot(amf - 1), Event::Tick);
        }
        world.settle();
    }
    assert!(!world.stations().any(|station| station.is_waiting()));
    assert_eq!(world.station(slot(0)).failed, 2);
    assert_eq!(
        world.station(slot(2)).machine.counts().1,
        2,
        "the table stays bounded"
    );
    world.said(&[]);
}

/// B10: a holder whose table is full gives back what nobody uses, lets some wants wait in order, and fails the others.
#[test]
fn b10_a_full_holder_makes_room_or_fails() {
    let mut setting = setting(3);
    setting.holder_limit = 2;
    let mut world = world(setting);
    let first = placed_at(3, &world);
    let next = |count: u64| Resource(first.0 + count);
    for count in 0..5 {
        world.wants(1, Write, next(count));
        world.settle();
    }
    assert_eq!(world.station(slot(0)).failed, 1, "two are held and two may wait");
    world.is_done(1, next(1));
    world.is_done(1, next(0));
    world.settle();
    assert!(world.is_inside(1, next(2)) && world.is_inside(1, next(3)));
    assert_eq!(world.station(slot(0)).machine.counts().0, 2);
    assert_eq!(
        (world.hold(1, next(0)), world.hold(1, next(1))),
        (Held::Nothing, Held::Nothing)
    );
    world.said(&[]);
}

/// H15: a recall is not honoured before the shortest hold is over, unless the grant said so.
#[test]
fn a_lock_is_held_for_a_shortest_time() {
    let mut setting = setting(3);
    setting.hold_ns_min = HOLD_NS_MIN;
    let mut world = world(setting);
    let x = placed_at(3, &world);
    world.wants(1, Write, x);
    world.settle();
    world.is_done(1, x);
    let granted_ns = world.now_ns;
    world.now_ns += 5;
    world.wants(2, Write, x);
    world.settle();
    assert_eq!(world.hold(1, x), Held::Write);
    assert_eq!(
        world.station(slot(0)).machine.wake_at_ns(),
        Some(granted_ns + HOLD_NS_MIN)
    );
    world.now_ns = granted_ns + HOLD_NS_MIN - 1;
    world.event(slot(0), Event::Tick);
    world.wants(1, Write, x);
    assert!(world.is_inside(1, x), "it goes on working meanwhile");
    world.is_done(1, x);
    world.now_ns += 1;
    world.event(slot(0), Event::Tick);
    world.settle();
    assert_eq!((world.hold(1, x), world.hold(2, x)), (Held::Nothing, Held::Write));
    assert_eq!(world.station(slot(0)).machine.wake_at_ns(), None);
    // With others behind, the grant ends with the operation.
    world.wants(1, Write, x);
    world.wants(3, Write, x);
    world.settle();
    world.now_ns += HOLD_NS_MIN;
    world.event(slot(1), Event::Tick);
    world.is_done(2, x);
    world.settle();
    world.is_done(1, x);
    world.settle();
    assert!(world.is_inside(3, x));
    world.said(&[]);
}

/// H14: an upgrade is a release and a place in the queue, in one message.
#[test]
fn an_upgrade_waits_in_the_queue_like_others() {
    let mut world = world(setting(4));
    let x = placed_at(4, &world);
    let names = [(x, "X")];
    for amf in [1, 2] {
        world.wants(amf, Read, x);
        world.settle();
        world.is_done(amf, x);
    }
    world.said(&names);
    world.wants(1, Write, x);
    world.wants(2, Write, x);
    world.settle();
    assert_eq!(
        world.said(&names),
        [
            "1>4 request write X",
            "2>4 request write X",
            "4>2 release X",
            "4>1 grant write X until done",
            "2>4 released X"
        ]
    );
    world.is_done(1, x);
    world.settle();
    assert!(world.is_inside(2, x));
}

/// B15: more locks than fit into a message are reported one batch after the other, and none is lost.
#[test]
fn b15_many_locks_are_reported_in_batches() {
    let mut world = world(setting(4));
    let many = 5 * u64::try_from(CLAIMS_MAX).unwrap();
    for number in 0..many {
        world.wants(1, Read, Resource(number));
        world.settle();
        world.is_done(1, Resource(number));
    }
    world.kill(slot(3));
    world.decide();
    world.form();
    for number in 0..many {
        assert_eq!(world.hold(1, Resource(number)), Held::Read);
        let arbiter = world.station(slot(0)).machine.status(Resource(number)).arbiter;
        let holders = world.station(arbiter).machine.status(Resource(number)).holders;
        assert_eq!(holders, SlotSet::EMPTY.with(slot(0)));
    }
    let reports = world.station(slot(0)).machine.counters().sent(Kind::Report);
    assert!(reports >= 4, "{reports}");
    world.said(&[]);
}

/// Who is not heard gets nothing, until it is heard again.
#[test]
fn a_suspect_gets_no_lock() {
    let mut world = world(setting(3));
    let x = placed_at(3, &world);
    world.event(slot(2), Event::Suspect(SlotSet::EMPTY.with(slot(0))));
    world.wants(1, Write, x);
    world.settle();
    assert!(!world.is_inside(1, x));
    world.event(slot(2), Event::Suspect(SlotSet::EMPTY));
    world.settle();
    assert!(world.is_inside(1, x));
    world.said(&[]);
}

/// H10: what is of another epoch is without effect; who is no member, or asks the wrong node, misbehaves.
#[test]
fn rules_that_peers_break_are_named() {
    let mut world = world(setting(3));
    let x = placed_at(3, &world);
    let request = |from: u8, epoch| Event::Message {
        from: slot(from),
        epoch: Epoch(epoch),
        message: Message::Request(Request {
            resource: x,
            mode: Read,
            priority: 0,
            number: Number(99),
            prefetch: Prefetch::NONE,
            takes: false,
        }),
    };
    let mut actions = Vec::new();
    let mut tell = |at: u8, event| {
        actions.clear();
        world.station(slot(at)).machine.handle(1, event, &mut actions);
        actions.clone()
    };
    assert_eq!(tell(2, request(0, 0)), []);
    assert_eq!(tell(2, request(0, 2)), []);
    let misbehaved = |peer: u8, what| Action::Misbehaved {
        peer: slot(peer),
        what,
    };
    assert_eq!(tell(2, request(7, 1)), [misbehaved(7, Misbehaviour::NotMember)]);
    assert_eq!(tell(2, request(2, 1)), [misbehaved(2, Misbehaviour::NotMember)]);
    assert_eq!(tell(1, request(0, 1)), [misbehaved(0, Misbehaviour::NotArbiter)]);
    let answer = tell(2, request(0, 1));
    let [
        Action::Send {
            message: Message::Grant(grant),
            ..
        },
    ] = answer[..]
    else {
        panic!("it is free: {answer:?}");
    };
    // A grant of somebody else, and one with an arbitership that does not travel.
    let seated = Grant {
        mode: Write,
        seat: Some(Seat { waiting: None }),
        ..grant
    };
    for (from, grant) in [(1, grant), (2, seated)] {
        let message = Message::Grant(grant);
        let event = Event::Message {
            from: slot(from),
            epoch: Epoch(1),
            message,
        };
        assert_eq!(tell(0, event), [misbehaved(from, Misbehaviour::NotArbiter)]);
    }
}

/// What an operator sees.
#[test]
fn the_status_of_a_resource_tells_who_holds_and_who_waits() {
    let mut world = world(setting(3));
    let x = placed_at(3, &world);
    world.wants(1, Write, x);
    world.settle();
    world.wants(2, Read, x);
    world.settle();
    let status = world.station(slot(2)).machine.status(x);
    assert_eq!(
        (status.holders, status.queue),
        (SlotSet::EMPTY.with(slot(0)), vec![slot(1)])
    );
    let status = world.station(slot(0)).machine.status(x);
    assert_eq!(
        (status.hold, status.is_recalled, status.arbiter),
        (Held::Write, true, slot(2))
    );
    assert_eq!(status.token.epoch, Epoch(1));
    let status = world.station(slot(1)).machine.status(x);
    assert_eq!((status.hold, status.is_waiting), (Held::Nothing, true));
    world.said(&[]);
}
