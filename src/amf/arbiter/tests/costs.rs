//! Goal: what a lock costs in messages depends on who has to give it back, and not on how many nodes there are (B18, I18).
//! Method: the same transfers among 3 to 8 nodes, counted.

use super::super::message::Kind;
use super::super::*;
use super::script::{placed_at, setting, world};
use super::world::{World, slot};
use crate::amf::RowIndex;
use crate::amf::lock::Held;
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

/// Writers take turns, one at a time, the arbiter not among them.
fn take_turns(world: &mut World, nodes: u8, x: Resource, turns: u64) {
    for turn in 0..turns {
        let amf = 1 + u8::try_from((turn + 1) % u64::from(nodes - 1)).unwrap();
        world.wants(amf, Write, x);
        world.settle();
        world.is_done(amf, x);
        world.settle();
    }
}

/// All but the arbiter want it at once, twice.
fn queue_up(world: &mut World, nodes: u8, x: Resource) {
    for amf in (1..nodes).chain(1..nodes) {
        world.wants(amf, Write, x);
        world.settle();
    }
    for _ in 0..4 * nodes {
        for amf in 1..=nodes {
            world.is_done(amf, x);
            world.settle();
        }
    }
}

/// All but the arbiter and the first have read it.
fn read_everywhere(world: &mut World, nodes: u8, x: Resource) {
    for amf in 1..nodes {
        world.wants(amf, Read, x);
        world.settle();
        world.is_done(amf, x);
    }
    world.give_back(slot(0), x, Held::Nothing);
    world.settle();
}

/// B18, I18: transfers one at a time, in a queue, from many readers to a writer, and with dirty data.
#[test]
fn b18_the_number_of_nodes_costs_nothing() {
    println!("nodes | free | write to write | in a queue | k readers to a writer | with dirty data");
    for nodes in 3..=8 {
        let mut quiet = world(setting(nodes));
        let x = placed_at(nodes, &quiet);
        let free = cost(&mut quiet, |world| world.wants(1, Write, x));
        quiet.is_done(1, x);
        let turns = 60;
        let transfers = cost(&mut quiet, |world| take_turns(world, nodes, x, turns));
        let queued = cost(&mut quiet, |world| queue_up(world, nodes, x));
        read_everywhere(&mut quiet, nodes, x);
        let readers = u64::from(nodes) - 2;
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
        assert!(queued.0 <= 3 * queued.1, "B16: no recall: {queued:?}");
        assert_eq!((from_readers.0, from_readers.1), (2 + 2 * readers, 1));
        assert_eq!(
            handed,
            (6, 1, 1),
            "taken and noted come on top, and one message with the data"
        );
    }
}

/// B5: the more rows a lock covers, the fewer messages a sequential writer sends.
#[test]
fn b5_messages_fall_as_granularity_grows() {
    let mut last = u64::MAX;
    for rows in [1, 4, 16, 64] {
        let granularity = Granularity::new(rows).unwrap();
        let mut setting = setting(3);
        setting.rule = Some(Rule::SingleArbiter(SingleArbiter(slot(2))));
        let mut world = world(setting);
        let (messages, ..) = cost(&mut world, |world| {
            for row in 0..512 {
                let resource = granularity.resource(RowIndex(row));
                world.wants(1, Write, resource);
                world.settle();
                world.is_done(1, resource);
            }
        });
        println!("{rows} rows a lock: {messages} messages for 512 rows");
        assert!(messages == 2 * 512 / rows && messages < last);
        last = messages;
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

/// What [`Config`] says of the memory of both tables.
#[test]
fn tables_take_as_much_memory_as_is_said() {
    let (entry, docket) = (Holder::ENTRY_BYTES, Arbiter::DOCKET_BYTES);
    println!("{entry} bytes an entry, {docket} bytes a docket");
    assert!(entry <= 220 && docket <= 520);
}
