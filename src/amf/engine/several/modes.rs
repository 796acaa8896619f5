//! When a host hears that its write is done, in each mode of replication, message by message.

use super::super::Durability;
use super::super::executor::{Shape, World};
use super::super::{Action, CommandId, Request};
use super::slot;
use super::survivors::Array;
use crate::amf::replica::Replication;
use crate::amf::replication::ReplicationMode;
use crate::drive::block::GroupLba;
use crate::icl::SlotSet;

/// Three nodes that have each write in the memory of all of them. Node 0 holds the first row, and nothing is under way.
fn three() -> World {
    let shape = Shape {
        nodes: 3,
        cores: 3,
        journal: Some(Durability::Ram),
        ..Shape::SMALL
    };
    let mut array = Array::new(&shape, 1);
    array.run.world.several().replication = Replication::new(3);
    array.run.world.allow_ram();
    array.serve_all();
    let mut world = array.run.world;
    submit(&mut world, 0, ReplicationMode::Sync, false);
    world.settle();
    assert_eq!(world.result(0, 0), Some(Ok(())));
    world
}

/// A write of node 0. What its engine wants first, in order.
fn submit(world: &mut World, command: u32, replication: ReplicationMode, fua: bool) -> Vec<Action> {
    world.cores[0].buffers[command as usize] = vec![0x42];
    let mut out = Vec::new();
    let request = Request::Write {
        lba: GroupLba(0),
        blocks: 1,
        fua,
        replication,
    };
    world.cores[0]
        .engine
        .submit(CommandId(command), request, &mut out);
    world.act(0, out.clone());
    out
}

fn position(actions: &[Action], is_it: impl Fn(&Action) -> bool) -> usize {
    actions.iter().position(is_it).expect("it is among them")
}

/// Everything that is on its way from one node to another arrives.
fn arrive_all(world: &mut World, from: usize, to: usize) {
    while world
        .several()
        .links
        .get(&(from, to))
        .is_some_and(|link| !link.is_empty())
    {
        world.arrive(from, to);
    }
}

/// CHECKLIST C6, PROTOCOL H17: a slow partner is waited for.
#[test]
fn a_synchronous_write_is_done_when_all_partners_keep_it() {
    let mut world = three();
    submit(&mut world, 1, ReplicationMode::Sync, false);
    for partner in [1, 2] {
        assert_eq!(world.result(0, 1), None, "{partner} does not keep it yet");
        arrive_all(&mut world, 0, partner);
        assert_eq!(world.result(0, 1), None, "nobody has said so");
        arrive_all(&mut world, partner, 0);
    }
    assert_eq!(world.result(0, 1), Some(Ok(())), "and no drive has answered");
}

/// CHECKLIST C8, PROTOCOL H21: after it was sent to all partners, and before any of them says that it keeps it.
#[test]
fn a_pseudo_synchronous_write_is_done_when_it_was_sent_to_all_partners() {
    let mut world = three();
    submit(&mut world, 3, ReplicationMode::Sync, false);
    let out = submit(&mut world, 1, ReplicationMode::PseudoSync, false);
    let keep = position(&out, |action| matches!(action, Action::Keep { .. }));
    assert!(matches!(out[keep], Action::Keep { reports: true, .. }));
    assert_eq!(world.result(0, 1), None, "it was sent to nobody yet");
    world.arrive(0, 0);
    assert_eq!(world.result(0, 1), None, "it was sent to one of two");
    world.arrive(0, 0);
    assert_eq!(world.result(0, 1), Some(Ok(())), "no partner has got it");
    assert_eq!(world.result(0, 3), None, "that waits for them");
    assert!(!world.cores[0].engine.is_restored());
    // A synchronous one behind it in the same lane waits for both.
    submit(&mut world, 2, ReplicationMode::Sync, false);
    for partner in [1, 2] {
        assert_eq!(world.result(0, 2), None);
        arrive_all(&mut world, 0, partner);
        arrive_all(&mut world, partner, 0);
    }
    assert_eq!(world.result(0, 2), Some(Ok(())));
    assert!(world.cores[0].engine.is_restored());
}

/// CHECKLIST C7, A12, PROTOCOL H21: at once, before it is sent to anybody; and the recovery period is not over before all partners keep it.
#[test]
fn an_asynchronous_write_is_done_before_it_is_sent() {
    let mut world = three();
    let out = submit(&mut world, 1, ReplicationMode::Async, false);
    let done = position(&out, |action| matches!(action, Action::Complete { .. }));
    let sent = position(&out, |action| matches!(action, Action::Keep { .. }));
    assert!(done < sent, "{out:?}");
    for partner in [1, 2] {
        assert!(!world.cores[0].engine.is_restored());
        arrive_all(&mut world, 0, partner);
        arrive_all(&mut world, partner, 0);
    }
    assert!(world.cores[0].engine.is_restored());
}

/// CHECKLIST C7, C8, PROTOCOL H18, H45: whatever the mode, what forces unit access is on the drives first, and so is everything while nobody is there to keep copies, or it is not durable that
/// writes may be lost.
#[test]
fn no_mode_promises_less_than_it_says() {
    for replication in [ReplicationMode::PseudoSync, ReplicationMode::Async] {
        let mut world = three();
        submit(&mut world, 1, replication, true);
        arrive_all(&mut world, 0, 0);
        assert_eq!(world.result(0, 1), None, "it forces unit access");
        world.settle();
        assert_eq!(world.result(0, 1), Some(Ok(())));
        world.ask_partners(0, SlotSet::EMPTY.with(slot(0)));
        submit(&mut world, 2, replication, false);
        arrive_all(&mut world, 0, 0);
        assert_eq!(world.result(0, 2), None, "nobody is there");
        world.settle();
        assert_eq!(world.result(0, 2), Some(Ok(())));
        world.ask_partners(0, [0, 1, 2].into_iter().map(slot).collect());
        let mut out = Vec::new();
        world.cores[0].engine.allow_ram(false, &mut out);
        world.act(0, out);
        submit(&mut world, 3, replication, false);
        assert_eq!(world.result(0, 3), None, "nobody had allowed it");
        world.settle();
        assert_eq!(world.result(0, 3), Some(Ok(())));
    }
}
