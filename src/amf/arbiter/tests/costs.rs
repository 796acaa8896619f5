//! Goal: what a lock costs in messages depends on who has to give it back, and not on how many nodes there are (B18, I18).
//! Method: the same transfers among 3 to 8 nodes, counted.

use super::super::message::Kind;
use super::super::*;
use super::script::{placed_at, setting, world};
use super::world::{World, slot};
use crate::amf::lock::Mode::{Read, Write};

/// Messages about locks, not counting dirty data, and grants that were sent.
fn counted(world: &World) -> (u64, u64, u64) {
    let sum = |count: fn(&Counters) -> u64| world.stations().map(|one| count(one.machine.counters())).sum();
    let locks = sum(|all| all.messages() - all.sent(Kind::Report) - all.sent(Kind::ReportTaken));
    (locks, sum(|all| all.grants), sum(|all| all.recalls))
}

/// Messages per grant and the recalled holders per grant of what `act` does.
fn cost(world: &mut World, act: impl FnOnce(&mut World)) -> (u64, u64, u64) {
    let before = counted(world);
    act(world);
    world.settle();
    let after = counted(world);
    world.said(&[]);
    (after.0 - before.0, after.1 - before.1, after.2 - before.2)
}

fn amf_of(at: Slot) -> u8 {
    at.number() + 1
}

/// B18, I18: transfers one at a time, in a queue, from many readers to a writer, and with dirty data.
#[test]
fn b18_the_number_of_nodes_costs_nothing() {
    println!("nodes | free | write to write | in a queue | k readers to a writer | with dirty data");
    for nodes in 3..=8 {
        let mut quiet = world(setting(nodes));
        let arbiter = nodes;
        let x = placed_at(arbiter, &quiet);
        let free = cost(&mut quiet, |world| world.wants(1, Write, x));
        quiet.is_done(1, x);
        let turns = 60;
        let transfers = cost(&mut quiet, |world| {
            for turn in 0..turns {
                let amf = 1 + u8::try_from((turn + 1) % u64::from(nodes - 1)).unwrap();
                world.wants(amf, Write, x);
                world.settle();
                world.is_done(amf, x);
                world.settle();
            }
        });
        let queued = cost(&mut quiet, |world| {
            for amf in (1..nodes).chain(1..nodes) {
                world.wants(amf, Write, x);
                world.settle();
            }
            for _ in 0..4 * nodes {
                let inside = world.stations().map(|one| one.slot).collect::<Vec<_>>();
                for at in inside {
                    world.is_done(amf_of(at), x);
                    world.settle();
                }
            }
        });
        let readers = u64::from(nodes) - 2;
        quiet.is_done(1, x);
        for amf in 2..nodes {
            quiet.wants(amf, Read, x);
            quiet.settle();
            quiet.is_done(amf, x);
        }
        quiet.give_back(slot(0), x, Hold::None);
        quiet.settle();
        let from_readers = cost(&mut quiet, |world| world.wants(1, Write, x));
        let mut setting = setting(nodes);
        setting.hands_over = true;
        let mut dirty = world(setting);
        dirty.wants(1, Write, x);
        dirty.settle();
        dirty.is_done(1, x);
        let handed = cost(&mut dirty, |world| world.wants(2, Write, x));

        let per_grant = |(messages, grants, _): (u64, u64, u64)| messages as f64 / grants as f64;
        println!(
            "{nodes:5} | {:4.2} | {:14.2} | {:10.2} | {:8.2} for k = {readers:3} | {:.2}",
            per_grant(free),
            per_grant(transfers),
            per_grant(queued),
            per_grant(from_readers),
            per_grant(handed),
        );
        assert_eq!(free, (2, 1, 0));
        assert_eq!(
            transfers,
            (4 * turns, turns, turns),
            "request, recall, released, grant"
        );
        assert!(
            queued.0 <= 3 * queued.1 + 1 && queued.1 >= u64::from(nodes),
            "B16: {queued:?}"
        );
        assert_eq!((from_readers.0, from_readers.1), (2 + 2 * readers, 1));
        assert_eq!(
            handed,
            (6, 1, 1),
            "taken and noted come on top, and one message with the data"
        );
    }
}

/// I18 in a crowd: random users of 3 to 8 nodes on a few resources.
#[test]
fn i18_a_grant_costs_two_messages_and_two_a_recalled_holder() {
    for nodes in 3..=8 {
        let mut setting = setting(nodes);
        (setting.resources, setting.hold_ns_min) = (5, HOLD_NS_MIN);
        let mut world = world(setting);
        let (messages, grants, recalls) = cost(&mut world, |world| world.run(3000, 200));
        println!("{nodes} nodes: {messages} messages, {grants} grants, {recalls} recalled holders");
        assert!(grants > 1000 && messages <= 2 * grants + 2 * recalls, "{nodes}");
    }
}
