//! Acknowledging from memory, and being asked not to.

use super::*;

fn world(cores: u16) -> World {
    World::new(
        &Shape {
            cores,
            journal: Some(Durability::Ram),
            ..Shape::SMALL
        },
        1,
    )
}

fn submit(world: &mut World, core: usize, command: u32, fua: bool) {
    world.cores[core].buffers[command as usize] = vec![0x42; 2];
    let request = Request::Write {
        lba: GroupLba(u64::from(command) * 100 % 40),
        blocks: 2,
        fua,
        replication: ReplicationMode::Sync,
    };
    world.submit(core, command, request);
}

fn allow(world: &mut World, core: usize, allowed: bool) {
    let mut out = Vec::new();
    world.cores[core].engine.allow_ram(allowed, &mut out);
    world.act(core, out);
}

/// PROTOCOL H45, H39.
#[test]
fn the_first_write_waits_for_its_commit_and_asks_and_later_ones_do_not_wait() {
    let mut world = world(1);
    submit(&mut world, 0, 0, false);
    assert_eq!(world.result(0, 0), None, "nobody had allowed it yet");
    submit(&mut world, 0, 1, false);
    assert_eq!(world.result(0, 1), Some(Ok(())), "at once");
    submit(&mut world, 0, 2, true);
    assert_eq!(world.result(0, 2), None, "it forces unit access");
    world.settle();
    assert_eq!(world.result(0, 2), Some(Ok(())));
}

/// PROTOCOL H45: when the permission is taken back, what was acknowledged is committed before the core says so.
#[test]
fn a_core_answers_that_it_acknowledges_no_more_when_all_it_had_acknowledged_is_committed() {
    let mut world = world(1);
    allow(&mut world, 0, false);
    assert_eq!(world.ram_committed, [0], "nothing is in memory alone");
    allow(&mut world, 0, true);
    submit(&mut world, 0, 0, false);
    assert_eq!(world.result(0, 0), Some(Ok(())));
    allow(&mut world, 0, false);
    assert_eq!(world.ram_committed, [0]);
    let copies = world.asked(0).len();
    assert_eq!(
        copies, 2,
        "its batch goes to as many members as the journal keeps copies"
    );
    world.pay(0, 0);
    assert_eq!(world.ram_committed, [0], "one copy is not enough");
    world.pay(0, 0);
    assert_eq!(world.ram_committed, [0, 0]);
    world.settle();
}

/// PROTOCOL H39: a flush reaches what other cores have acknowledged from memory.
#[test]
fn a_flush_commits_the_lanes_of_all_cores() {
    let mut world = world(2);
    allow(&mut world, 0, true);
    allow(&mut world, 1, true);
    submit(&mut world, 1, 0, false);
    assert_eq!(world.result(1, 0), Some(Ok(())));
    assert!(world.asked(1).is_empty(), "nobody has asked for its commit");
    world.submit(0, 1, Request::Flush);
    let commit = world.find(1, |owed| {
        matches!(owed, super::super::executor::Owed::Commit { .. })
    });
    world.pay(1, commit);
    assert_eq!(world.asked(1).len(), 2);
    assert_eq!(world.result(0, 1), None);
    world.settle();
    assert_eq!(world.result(0, 1), Some(Ok(())));
}
