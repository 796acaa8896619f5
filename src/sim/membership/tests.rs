//! Seeds, scripts and mutants.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::faults::Fault;
use super::{Event, LIVENESS_NS, MS, Mutant, Summary, World, run, run_with};
use crate::icl::membership::authority::Authority;
use crate::icl::membership::paxos;
use crate::icl::membership::record::EpochRecord;
use crate::icl::membership::status::{Halt, Stage};
use crate::icl::membership::times::LEASE_WAIT_NS;
use crate::icl::membership::{DriveSet, Epoch, Node};

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

/// A service outside of the array that keeps one record an epoch, first come, first served.
struct Register {
    record: EpochRecord,
    begins_ns: u64,
    is_over: bool,
}

thread_local! {
    static KEPT: RefCell<BTreeMap<Epoch, EpochRecord>> = const { RefCell::new(BTreeMap::new()) };
}

impl Authority for Register {
    fn propose(begins_ns: u64, _own: Node, record: EpochRecord, _expelled: DriveSet) -> Self {
        Self {
            record,
            // As long as it takes to reach the service.
            begins_ns: begins_ns + 2 * MS,
            is_over: false,
        }
    }

    fn record(&self) -> &EpochRecord {
        &self.record
    }

    fn instance(&self) -> Epoch {
        self.record.epoch
    }

    fn is_waiting_to_begin(&self) -> bool {
        !self.is_over
    }

    fn expelled(&self) -> DriveSet {
        DriveSet::EMPTY
    }

    fn wake_at_ns(&self) -> Option<u64> {
        (!self.is_over).then_some(self.begins_ns)
    }

    fn handle(&mut self, now_ns: u64, event: paxos::Event, out: &mut Vec<paxos::Action>) {
        assert_eq!(event, paxos::Event::Tick, "it asks nothing of drives");
        if self.is_over || now_ns < self.begins_ns {
            return;
        }
        self.is_over = true;
        let record = KEPT.with_borrow_mut(|kept| {
            let newest = kept.keys().next_back().copied();
            match newest {
                Some(newest) if newest > self.record.epoch => Err(newest),
                _ => Ok(kept
                    .entry(self.record.epoch)
                    .or_insert_with(|| self.record.clone())
                    .clone()),
            }
        });
        out.push(match record {
            Ok(record) => paxos::Action::Decided(record),
            Err(newest) => paxos::Action::Behind(newest),
        });
    }
}

/// Goal: nothing but the decision itself depends on who decides. Method: the same faults, and a register instead of drives that vote.
#[test]
fn arrays_survive_random_faults_with_another_authority() {
    let mut epochs = 0;
    for seed in 0..200 {
        KEPT.take();
        let Ok(seen) = std::panic::catch_unwind(|| run_with::<Register>(seed, Mutant::None)) else {
            panic!("seed {seed}")
        };
        epochs += seen.epochs;
    }
    assert!(epochs > 600, "{epochs}");
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

#[test]
fn drives_that_show_old_heartbeats_are_caught() {
    is_caught(Mutant::BeatsOld, "I10");
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
        let mut world: World = World::formed(seed, 3, 3, Mutant::None);
        let opened = world.checks.epochs_opened;
        world.inject(Fault::Kill(usize::try_from(seed % 3).unwrap()));
        let took_ms = takeover_ms(&mut world, opened);
        assert!(took_ms < 5_000, "seed {seed}: {took_ms} ms");
        world.run_until_whole(LIVENESS_NS);
    }
}

/// H05: the wait counts from the last heartbeats that others know of, also where it takes a second to suspect a node: what is decided and fenced meanwhile costs nothing.
#[test]
fn whoever_is_silent_is_replaced_when_its_last_lease_is_over() {
    for fault in [Fault::Kill, Fault::Pause] {
        let mut took_ms: Vec<u64> = (0..21)
            .map(|seed| {
                let mut world: World = World::formed(seed, 3, 3, Mutant::None);
                world.run_until(world.now_ns + (seed * 37 % 250) * MS);
                let opened = world.checks.epochs_opened;
                world.inject(fault(usize::try_from(seed % 3).unwrap()));
                takeover_ms(&mut world, opened)
            })
            .collect();
        took_ms.sort_unstable();
        println!("{took_ms:?} ms");
        assert!(took_ms[10] < LEASE_WAIT_NS / MS + 100, "{took_ms:?}");
    }
}

#[test]
fn a_cut_between_two_nodes_leaves_the_lower_one_and_tells_the_other() {
    for seed in 0..20 {
        for both in [false, true] {
            let mut world: World = World::formed(seed, 2, 3, Mutant::None);
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

/// PROTOCOL 3.1, H45: whoever hears fewer than half of the members, and does not know yet how few, waits longer: it would leave out all others one after the other, and with them the only
/// copies of what they have acknowledged from memory.
#[test]
fn the_smaller_side_of_a_cut_is_left_out() {
    let mut won = 0;
    for (nodes, smaller) in [(3, 1), (4, 1), (5, 2)] {
        for seed in 0..60 {
            let mut world: World = World::formed(seed, nodes, 3, Mutant::None);
            world.run_until(world.now_ns + (seed * 37 % 250) * MS);
            let (opened, halted) = (world.checks.epochs_opened, world.checks.halts.len());
            let side = |node: usize| (node + usize::try_from(seed).unwrap()) % nodes;
            for from in 0..smaller {
                for to in smaller..nodes {
                    let (from, to) = (side(from), side(to));
                    world.inject(Fault::Cut { from, to, both: true });
                }
            }
            let took_ms = takeover_ms(&mut world, opened);
            assert!(took_ms < 5_000, "seed {seed}: {took_ms} ms");
            world.run_until(world.now_ns + 3_000 * MS);
            let is_smaller = |slot| (0..smaller).any(|node| world.nodes[side(node)].slot == slot);
            let mut gone = world.checks.halts[halted..].iter();
            won += usize::from(gone.all(|(slot, _)| is_smaller(*slot)));
            world.inject(Fault::Heal);
            world.run_until_whole(LIVENESS_NS);
        }
    }
    println!("{won} of 180");
    // Drives answer within a second at times, and whoever begins first is overtaken then.
    assert!(won >= 177, "{won}");
}

#[test]
fn a_paused_node_finds_out_that_it_was_evicted() {
    for seed in 0..20 {
        let mut world: World = World::formed(seed, 2, 3, Mutant::None);
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
    let mut world: World = World::formed(3, 3, 3, Mutant::None);
    let opened = world.checks.epochs_opened;
    world.inject(Fault::Leave(2));
    let took_ms = takeover_ms(&mut world, opened);
    assert!(took_ms < 1_000, "{took_ms} ms");
    assert!(matches!(world.checks.halts[..], [(slot, Halt::Left(_))] if slot == world.nodes[2].slot));
}

/// CHECKLIST E2: whoever was to leave, and hears of it from a drive first that does not know it any more, has left: it must not come back by itself, as one does that was left out.
#[test]
fn who_leaves_has_left_however_it_hears_of_it() {
    let mut world: World = World::formed(3, 3, 3, Mutant::None);
    let slot = world.nodes[2].slot;
    world.inject(Fault::Leave(2));
    // It is drained, and the epoch without it is not decided yet.
    while !is_leaving(&world, 2) {
        assert!(world.checks.halts.is_empty());
        world.run_until(world.now_ns + MS);
    }
    world.nodes_event(2, Event::Preempted);
    assert_eq!(world.checks.halts, [(slot, Halt::Left(Epoch(3)))]);
    let mut world: World = World::formed(3, 3, 3, Mutant::None);
    world.nodes_event(2, Event::Preempted);
    assert_eq!(
        world.checks.halts,
        [(slot, Halt::Preempted(Epoch(2)))],
        "it was not to leave"
    );
}

fn is_leaving(world: &World, node: usize) -> bool {
    let machine = world.nodes[node].machine.as_ref().expect("it lives");
    machine.status(world.clock(node)).stage == Stage::Leaving
}

#[test]
fn after_all_lost_power_any_one_starts_the_array_again() {
    for alone in 0..3 {
        let mut world: World = World::formed(11 + alone, 3, 3, Mutant::None);
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
    let mut world: World = World::formed(5, 2, 3, Mutant::None);
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
    let mut world: World = World::formed(6, 3, 5, Mutant::None);
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
