//! Seeds, scripts and mutants.

use super::faults::Fault;
use super::{LIVENESS_NS, MS, Mutant, Summary, World, run};
use crate::icl::membership::Epoch;
use crate::icl::membership::status::Halt;

/// Goal: whatever happens, one set of nodes writes, and in the end all are back (I3, I4, I10, I19).
/// Method: a thousand seeds; more with `braid sim --membership`.
#[test]
fn arrays_survive_random_faults() {
    let mut sum = Summary::default();
    for seed in 0..1000 {
        let Ok(seen) = std::panic::catch_unwind(|| run(seed, Mutant::None)) else {
            panic!("seed {seed}")
        };
        sum.epochs += seen.epochs;
        sum.writes += seen.writes;
        sum.halts += seen.halts;
    }
    println!("1000 seeds: {sum:?}");
    assert!(
        sum.epochs > 3000 && sum.writes > 300_000 && sum.halts > 300,
        "{sum:?}"
    );
}

fn is_caught(mutant: Mutant, what: &str) {
    let caught = (0..200).find_map(|seed| {
        let run = std::panic::catch_unwind(|| run(seed, mutant));
        let why = run.err()?.downcast::<String>().ok()?;
        why.contains(what).then_some(seed)
    });
    println!("{mutant:?} is caught by seed {caught:?}");
    assert!(caught.is_some(), "{mutant:?}");
}

#[test]
fn a_preempt_without_abort_is_caught() {
    is_caught(Mutant::AbortLost, "I4");
}

#[test]
fn a_node_that_does_not_look_at_its_lease_is_caught() {
    is_caught(Mutant::LeaseIgnored, "I10");
}

/// Milliseconds until an epoch after `epoch` is open, from now on.
fn takeover_ms(world: &mut World, opened: u32) -> u64 {
    let begin_ns = world.now_ns;
    while world.checks.epochs_opened == opened {
        assert!(world.now_ns < begin_ns + 20_000 * MS, "{}", world.describe());
        world.run_until(world.now_ns + 10 * MS);
    }
    (world.now_ns - begin_ns) / MS
}

#[test]
fn a_killed_node_is_replaced_in_time_and_comes_back() {
    for seed in 0..20 {
        let mut world = World::formed(seed, 3, 3, Mutant::None);
        let opened = world.checks.epochs_opened;
        world.inject(Fault::Kill(usize::try_from(seed % 3).unwrap()));
        let took_ms = takeover_ms(&mut world, opened);
        assert!(took_ms < 5_000, "seed {seed}: {took_ms} ms");
        world.run_until_whole(LIVENESS_NS);
    }
}

#[test]
fn a_cut_between_two_nodes_leaves_the_lower_one_and_tells_the_other() {
    for seed in 0..20 {
        for both in [false, true] {
            let mut world = World::formed(seed, 2, 3, Mutant::None);
            let opened = world.checks.epochs_opened;
            world.inject(Fault::Cut { from: 0, to: 1, both });
            let took_ms = takeover_ms(&mut world, opened);
            assert!(took_ms < 5_000, "seed {seed}: {took_ms} ms");
            world.run_until(world.now_ns + 3_000 * MS);
            assert!(!world.checks.halts.is_empty(), "the victim knows");
            world.inject(Fault::Heal);
            world.run_until_whole(LIVENESS_NS);
        }
    }
}

#[test]
fn a_paused_node_finds_out_that_it_was_evicted() {
    for seed in 0..20 {
        let mut world = World::formed(seed, 2, 3, Mutant::None);
        world.inject(Fault::Pause(0));
        world.run_until(world.now_ns + 8_000 * MS);
        assert!(world.checks.halts.is_empty());
        world.inject(Fault::Resume(0));
        world.run_until(world.now_ns + 1_000 * MS);
        assert_eq!(world.checks.halts[0].0, world.nodes[0].slot);
        world.run_until_whole(LIVENESS_NS);
    }
}

#[test]
fn who_leaves_leaves_without_a_wait() {
    let mut world = World::formed(3, 3, 3, Mutant::None);
    let opened = world.checks.epochs_opened;
    world.inject(Fault::Leave(2));
    let took_ms = takeover_ms(&mut world, opened);
    assert!(took_ms < 1_000, "{took_ms} ms");
    assert!(matches!(world.checks.halts[..], [(slot, Halt::Left(_))] if slot == world.nodes[2].slot));
}

#[test]
fn after_all_lost_power_any_one_starts_the_array_again() {
    for alone in 0..3 {
        let mut world = World::formed(11 + alone, 3, 3, Mutant::None);
        let opened = world.checks.epochs_opened;
        for node in 0..3 {
            world.nodes[node].machine = None;
        }
        world.run_until(world.now_ns + 500 * MS);
        world.start(usize::try_from(alone).unwrap());
        let took_ms = takeover_ms(&mut world, opened);
        assert!(took_ms < 12_000, "{took_ms} ms");
        for node in 0..3 {
            if node as u64 != alone {
                world.start(node);
            }
        }
        world.run_until_whole(LIVENESS_NS);
    }
}

#[test]
fn without_a_voter_majority_nobody_serves_for_longer_than_a_lease() {
    let mut world = World::formed(5, 2, 3, Mutant::None);
    world.inject(Fault::DriveOff(0));
    world.inject(Fault::DriveOff(1));
    world.run_until(world.now_ns + 2_300 * MS);
    for node in 0..2 {
        let machine = world.nodes[node].machine.as_ref().unwrap();
        assert!(!machine.may_complete(world.clock(node)), "node {node}");
    }
    assert!(world.checks.halts.is_empty(), "a lapse is no eviction");
    world.inject(Fault::Heal);
    world.run_until_whole(LIVENESS_NS);
    assert!(
        world.checks.epochs_opened >= 2
            && world.nodes[0].machine.as_ref().unwrap().status(0).epoch > Epoch(1)
    );
}

#[test]
fn a_path_that_one_node_lost_costs_the_node_and_a_lost_drive_the_drive() {
    let mut world = World::formed(6, 3, 5, Mutant::None);
    let opened = world.checks.epochs_opened;
    world.inject(Fault::LosePath { node: 1, drive: 2 });
    takeover_ms(&mut world, opened);
    assert!(matches!(world.checks.halts[..], [(slot, _)] if slot == world.nodes[1].slot));
    world.inject(Fault::Heal);
    world.run_until_whole(LIVENESS_NS);
    let (opened, halts) = (world.checks.epochs_opened, world.checks.halts.len());
    world.inject(Fault::DriveOff(2));
    takeover_ms(&mut world, opened);
    let record = world.nodes[0].machine.as_ref().unwrap().record().unwrap();
    assert_eq!((record.drives.count(), record.members.len()), (4, 3));
    assert_eq!(world.checks.halts.len(), halts);
}
