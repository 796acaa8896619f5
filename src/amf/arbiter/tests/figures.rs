//! Goal: the sequences of the patent's Figures 18b, 19 and 20, message by message, and what its text says of them.
//! Method: scripts without faults; numbers are those of the figures.

use super::super::*;
use super::script::{placed_at, setting, world};
use super::world::{World, slot};
use crate::amf::lock::Held;
use crate::amf::lock::Mode::{Read, Write};

const X: Resource = Resource(0);
const NAMES: [(Resource, &str); 1] = [(X, "X")];

/// B11, Figure 18b: request, release, released, grant; and the holder releases only when its operation is over (H13).
#[test]
fn b11_a_lock_goes_from_holder_to_requester_by_four_messages() {
    let mut world = world(setting(3));
    let x = placed_at(3, &world);
    let names = [(x, "X")];
    world.wants(2, Write, x);
    world.settle();
    assert_eq!(world.said(&names), ["2>3 request write X", "3>2 grant write X"]);
    world.wants(1, Write, x);
    world.settle();
    assert_eq!(world.said(&names), ["1>3 request write X", "3>2 release X"]);
    // Any time may pass: nothing is taken from a holder.
    world.now_ns += 1 << 50;
    world.event(slot(1), Event::Tick);
    world.event(slot(2), Event::Tick);
    world.settle();
    assert_eq!(world.said(&names), [""; 0]);
    world.is_done(2, x);
    world.settle();
    assert_eq!(world.said(&names), ["2>3 released X", "3>1 grant write X"]);
    assert_eq!((world.hold(1, x), world.hold(2, x)), (Held::Write, Held::Nothing));
}

/// B12: a free resource costs a request and a grant.
#[test]
fn b12_a_free_resource_is_granted_at_once() {
    let mut world = world(setting(4));
    let x = placed_at(4, &world);
    world.wants(1, Read, x);
    world.settle();
    assert_eq!(
        world.said(&[(x, "X")]),
        ["1>4 request read X", "4>1 grant read X"]
    );
}

/// B2: kept until another asks.
#[test]
fn b2_the_second_use_costs_no_message() {
    let mut world = world(setting(3));
    let x = placed_at(3, &world);
    world.wants(1, Write, x);
    world.settle();
    world.is_done(1, x);
    world.said(&[]);
    for mode in [Write, Read, Write] {
        world.wants(1, mode, x);
        assert!(world.is_inside(1, x));
        world.is_done(1, x);
    }
    world.settle();
    assert_eq!(world.said(&[]), [""; 0]);
    world.wants(1, Write, x);
    world.wants(2, Write, x);
    world.settle();
    assert_eq!((world.is_inside(1, x), world.is_inside(2, x)), (true, false));
    world.is_done(1, x);
    world.settle();
    assert_eq!((world.is_inside(1, x), world.is_inside(2, x)), (false, true));
}

/// B7: all readers at once; of a queue R R W R the first two start together, then W, then the last.
#[test]
fn b7_readers_are_granted_together_and_in_order() {
    let mut world = world(setting(6));
    let x = placed_at(6, &world);
    for amf in 1..=6 {
        world.wants(amf, Read, x);
    }
    world.settle();
    assert!((1..=6).all(|amf| world.is_inside(amf, x)));
    let recalls = world
        .said(&[])
        .iter()
        .filter(|line| line.contains("release"))
        .count();
    assert_eq!(recalls, 0);
    for amf in 1..=6 {
        world.is_done(amf, x);
    }

    world.wants(5, Write, x);
    world.settle();
    for (amf, mode) in [(1, Read), (2, Read), (3, Write), (4, Read)] {
        world.wants(amf, mode, x);
        world.settle();
    }
    let inside = |world: &mut World| {
        (1..=6)
            .filter(|amf| world.is_inside(*amf, x))
            .collect::<Vec<u8>>()
    };
    for expected in [vec![5], vec![1, 2], vec![3], vec![4], vec![]] {
        assert_eq!(inside(&mut world), expected);
        for amf in expected {
            world.is_done(amf, x);
        }
        world.settle();
    }
    world.said(&[]);
}

/// B8: nobody beside a writer.
#[test]
fn b8_a_writer_is_alone() {
    let mut world = world(setting(4));
    let x = placed_at(2, &world);
    world.wants(1, Write, x);
    world.settle();
    for (amf, mode) in [(2, Read), (3, Write), (4, Read)] {
        world.wants(amf, mode, x);
        world.settle();
        assert_eq!((world.hold(amf, x), world.is_inside(1, x)), (Held::Nothing, true));
    }
    world.is_done(1, x);
    world.settle();
    assert_eq!((world.hold(1, x), world.hold(2, x)), (Held::Nothing, Held::Read));
    world.said(&[]);
}

/// B10: 8 queued requests are served in the order in which they came; or the more important ones first.
#[test]
fn b10_a_queue_is_served_in_its_order() {
    for (order, expected) in [
        (QueueOrder::Fifo, [4, 2, 8, 1, 7, 3, 6]),
        // The priority of an AMF is its slot modulo 3.
        (QueueOrder::Priority, [3, 6, 2, 8, 4, 1, 7]),
    ] {
        let mut setting = setting(8);
        setting.order = order;
        // Who is named as the next for dirty data stays the next.
        let mut world = world(setting);
        let x = placed_at(5, &world);
        world.wants(5, Read, x);
        world.settle();
        for amf in [4, 2, 8, 1, 7, 3, 6] {
            world.wants(amf, Write, x);
            world.settle();
        }
        world.is_done(5, x);
        let mut served = Vec::new();
        for _ in 0..7 {
            world.settle();
            let amf = (1..=8)
                .find(|amf| world.is_inside(*amf, x))
                .expect("somebody is served");
            served.push(amf);
            world.is_done(amf, x);
        }
        assert_eq!(served, expected, "{order:?}");
        world.said(&[]);
    }
}

/// B13, Figure 19: 1320 to 1380. AMF #2 has the write lock; before it grants AMF #1 to read, it demotes itself.
#[test]
fn b13_figure_19() {
    let mut world = world(setting(2));
    world.wants(2, Write, X);
    world.settle();
    world.is_done(2, X);
    assert_eq!(
        world.said(&NAMES),
        ["2>1 request write X", "1>2 grant write X, arbiter"]
    );

    world.wants(1, Read, X); // 1320
    world.settle(); // 1330
    assert_eq!(world.said(&NAMES), ["1>2 request read X", "2>1 grant read X"]);
    assert_eq!((world.hold(1, X), world.hold(2, X)), (Held::Read, Held::Read));
    world.is_done(1, X);

    world.wants(1, Write, X); // 1340
    world.settle(); // 1350
    assert_eq!(
        world.said(&NAMES),
        ["1>2 request write X", "2>1 grant write X, arbiter"]
    );
    assert_eq!((world.hold(1, X), world.hold(2, X)), (Held::Write, Held::Nothing));
    world.is_done(1, X);

    world.give_back(slot(0), X, Held::Read); // 1360
    world.wants(1, Read, X);
    assert!(world.is_inside(1, X));
    assert_eq!(world.hold(1, X), Held::Read);
    assert_eq!(
        world.said(&NAMES),
        [""; 0],
        "the last writer handles its own arbitration"
    );

    world.wants(2, Read, X); // 1370
    world.settle(); // 1380
    assert_eq!(world.said(&NAMES), ["2>1 request read X", "1>2 grant read X"]);
    assert!(world.is_inside(1, X) && world.is_inside(2, X));
}

/// B13, H11: requests that cross the arbitership on its way home are answered "moved", and served.
#[test]
fn b13_requests_cross_a_moving_arbitership() {
    let mut world = world(setting(2));
    world.wants(2, Write, X);
    world.settle();
    world.is_done(2, X);
    world.said(&NAMES);
    world.give_back(slot(1), X, Held::Nothing);
    world.wants(1, Write, X);
    world.settle();
    assert_eq!(
        world.said(&NAMES),
        ["2>1 returned X", "1>2 request write X", "2>1 moved X"]
    );
    assert!(world.is_inside(1, X));

    // Both want it at once, again and again: the arbitership goes to and fro, with who waits.
    for _ in 0..5 {
        world.wants(1, Write, X);
        world.wants(2, Write, X);
        for amf in [1, 2] {
            world.settle();
            world.is_done(amf, X);
        }
        world.settle();
        world.said(&NAMES);
    }
    for _ in 0..4 {
        for amf in [1, 2] {
            world.is_done(amf, X);
            world.settle();
        }
    }
    assert!(!world.stations().any(|station| station.is_waiting()));
}

/// B13: who writes alone asks nobody, on either node.
#[test]
fn b13_the_last_writer_writes_again_without_a_message() {
    let mut world = world(setting(2));
    for amf in [1, 2] {
        world.wants(amf, Write, X);
        world.settle();
        world.is_done(amf, X);
        world.said(&NAMES);
        world.give_back(slot(amf - 1), X, Held::Read);
        world.wants(amf, Write, X);
        world.settle();
        assert!(world.is_inside(amf, X));
        world.is_done(amf, X);
        assert_eq!(world.said(&NAMES), [""; 0]);
    }
}

/// B16 and B17, Figure 20: 1420 to 1460. The arbiter of X is AMF #3, that of Y is AMF #4; AMF #2 has X.
#[test]
fn b17_figure_20() {
    let mut world = world(setting(4));
    let (x, y) = (placed_at(3, &world), placed_at(4, &world));
    let names = [(x, "X"), (y, "Y")];
    world.wants(2, Write, x);
    world.settle();
    world.said(&names);

    world.wants(1, Write, x); // 1420
    world.settle(); // 1422
    world.wants(1, Read, y); // 1424
    world.settle(); // 1426
    world.wants(4, Write, x); // 1428
    world.settle();
    world.is_done(2, x); // 1430
    world.settle(); // 1432
    world.is_done(1, x); // 1434
    world.settle(); // 1436
    let first = [
        "1>3 request write X",          // 1420
        "3>2 release X",                // 1422
        "1>4 request read Y",           // 1424
        "4>1 grant read Y",             // 1426
        "4>3 request write X",          // 1428
        "2>3 released X",               // 1430
        "3>1 grant write X until done", // 1432
        "1>3 released X",               // 1434
        "3>4 grant write X",            // 1436
    ];
    assert_eq!(world.said(&names), first);

    world.wants(2, Read, y); // 1440
    world.settle(); // 1442
    assert!(world.is_inside(1, y) && world.is_inside(2, y), "both read Y");
    world.wants(3, Write, y); // 1444
    world.settle(); // 1446, 1448
    world.is_done(2, y); // 1450
    world.is_done(1, y); // 1452
    world.wants(1, Read, y); // 1454, which is there before 1450
    world.deliver(1);
    world.deliver(1);
    world.settle(); // 1456
    world.is_done(3, y); // 1458
    world.settle(); // 1460
    let second = [
        "2>4 request read Y",           // 1440
        "4>2 grant read Y",             // 1442
        "3>4 request write Y",          // 1444
        "4>2 release Y",                // 1446
        "4>1 release Y",                // 1448
        "2>4 released Y",               // 1450
        "1>4 released Y",               // 1452
        "1>4 request read Y",           // 1454
        "4>3 grant write Y until done", // 1456
        "3>4 released Y, keeps read",   // 1458: see below
        "4>1 grant read Y",             // 1460
    ];
    assert_eq!(world.said(&names), second);
    // A writer behind whom only readers wait keeps what it may go on reading: one message less when it reads again.
    assert_eq!((world.hold(1, y), world.hold(3, y)), (Held::Read, Held::Read));
}

/// B15, H12: the arbiter dies while a lock is held and others wait. The lock stays, the others are served.
#[test]
fn b15_the_arbiter_dies() {
    let mut world = world(setting(4));
    let x = placed_at(3, &world);
    world.wants(2, Write, x);
    world.settle();
    for amf in [1, 4] {
        world.wants(amf, Write, x);
        world.settle();
    }
    world.said(&[]);
    world.kill(slot(2));
    world.decide();
    for amf in [1, 2, 4] {
        world.enter(slot(amf - 1));
        assert!(world.is_inside(2, x), "a lock that is held stays held");
    }
    world.form();
    let arbiters: Vec<Slot> = world
        .stations()
        .map(|one| one.machine.status(x).arbiter)
        .collect();
    assert!(
        arbiters
            .iter()
            .all(|arbiter| *arbiter == arbiters[0] && *arbiter != slot(2)),
        "all agree"
    );
    assert_eq!(
        (world.hold(1, x), world.hold(4, x)),
        (Held::Nothing, Held::Nothing)
    );
    let status = world.station(arbiters[0]).machine.status(x);
    assert_eq!(
        (status.holders, status.queue.len()),
        (SlotSet::EMPTY.with(slot(1)), 2)
    );
    world.is_done(2, x);
    for _ in 0..2 {
        world.settle();
        for amf in [1, 4] {
            world.is_done(amf, x);
        }
    }
    world.settle();
    assert!(!world.stations().any(|station| station.is_waiting()));
    let status = world.station(arbiters[0]).machine.status(x);
    assert_eq!(status.holders.count(), 1);
    world.said(&[]);
}

/// B15: what a lost member wrote is named to the layer above by whoever arbitrates it, and is granted only after that is recovered.
#[test]
fn b15_what_a_lost_writer_held_is_recovered_first() {
    let mut world = world(setting(4));
    let x = placed_at(3, &world);
    world.wants(2, Write, x);
    world.settle();
    world.is_done(2, x);
    world.wants(1, Read, x);
    world.kill(slot(1));
    world.decide();
    for amf in [1, 3, 4] {
        world.enter(slot(amf - 1));
    }
    world.settle();
    assert_eq!(world.station(slot(2)).recoveries, [(x, slot(1))]);
    assert!(!world.is_inside(1, x), "nothing is granted before");
    world.form();
    assert!(world.is_inside(1, x));
    world.is_done(1, x);
    world.said(&[]);
}

/// B19, H16: what is free of the next four comes in the same grant, what is busy is skipped, and their later use is free.
#[test]
fn b19_prefetched_locks_ride_in_the_grant() {
    let mut world = world(setting(3));
    let first = placed_at(3, &world);
    let next = |count: u64| Resource(first.0 + count);
    world.wants(2, Write, next(2));
    world.settle();
    world.said(&[]);
    world.user(slot(0), first, Read, Prefetch::next(4));
    world.settle();
    let said = world.said(&[(first, "r")]);
    assert_eq!(said, ["1>3 request read r", "3>1 grant read r"]);
    for count in [1, 3, 4] {
        world.wants(1, Read, next(count));
        assert!(world.is_inside(1, next(count)), "{count}");
    }
    assert_eq!(world.said(&[]), [""; 0]);
    assert!(world.is_inside(2, next(2)));
    assert_eq!(world.station(slot(0)).machine.counters().prefetch_hits, 3);
    world.wants(1, Read, next(2));
    world.settle();
    assert_eq!(
        world.said(&[(next(2), "r+2")]),
        ["1>3 request read r+2", "3>2 release r+2"]
    );

    // What is prefetched and not used yet goes without anybody below being asked.
    world.user(slot(0), next(10), Write, Prefetch::next(1));
    world.settle();
    world.said(&[]);
    world.wants(2, Write, next(11));
    world.settle();
    assert!(world.is_inside(2, next(11)));
    assert_eq!(world.said(&[]).len(), 4);
}

/// Dirty data goes from writer to writer directly, and the grant waits for it.
#[test]
fn dirty_data_goes_from_one_writer_to_the_next() {
    let mut setting = setting(3);
    setting.hands_over = true;
    let mut world = world(setting);
    let x = placed_at(3, &world);
    let names = [(x, "X")];
    world.wants(2, Write, x);
    world.settle();
    world.is_done(2, x);
    world.said(&names);
    world.wants(1, Write, x);
    world.deliver(0);
    world.deliver(0);
    assert_eq!(
        world.said(&names),
        [
            "1>3 request write X",
            "3>2 release X",
            "2>1 data X",
            "2>3 released X"
        ]
    );
    world.deliver(1);
    world.deliver(1);
    assert!(!world.is_inside(1, x), "a grant is nothing without its data");
    world.settle();
    assert!(world.is_inside(1, x));
    assert_eq!(
        world.said(&names),
        ["3>1 grant write X", "1>2 taken X", "2>1 noted X"]
    );
    assert_eq!(world.store.drive.get(&x), None, "no drive was touched");
}

/// Dirty data is on its way when an epoch begins, in which who was to have it lives or does not.
fn dirty_data_on_its_way(taker_dies: bool) -> (World, Resource) {
    let mut setting = setting(4);
    setting.hands_over = true;
    let mut world = world(setting);
    let x = placed_at(3, &world);
    world.wants(2, Write, x);
    world.settle();
    world.is_done(2, x);
    world.wants(1, Write, x);
    world.deliver(0);
    world.deliver(0);
    assert_eq!(world.hold(2, x), Held::Nothing);
    if taker_dies {
        world.kill(slot(0));
    }
    world.decide();
    for amf in [1, 2, 3, 4] {
        world.enter(slot(amf - 1));
    }
    (world, x)
}

/// The giver has it again when it is lost on its way (epoch change between data and grant), as soon as all have reported.
#[test]
fn dirty_data_without_a_taker_goes_back() {
    let (mut world, x) = dirty_data_on_its_way(false);
    world.settle();
    assert_eq!(world.hold(2, x), Held::Write, "before anything is granted");
    world.form();
    assert!(world.is_inside(1, x), "and destages it for the next");
    assert_eq!(world.store.drive.get(&x), Some(&1));
}

/// When the taker is lost nobody has it but journals, and its giver asks for it like all others.
#[test]
fn dirty_data_of_a_lost_taker_is_recovered() {
    let (mut world, x) = dirty_data_on_its_way(true);
    world.settle();
    assert_eq!(world.hold(2, x), Held::Nothing);
    world.form();
    assert_eq!(world.store.drive.get(&x), Some(&1));
    for amf in [4, 2] {
        world.wants(amf, Read, x);
        world.settle();
        assert!(world.is_inside(amf, x));
    }
}
