//! Goal: whatever happens to drives, node and power, hosts get what PROTOCOL 4.3 promises them.
//! Method: the simulator's seeds; a failing one prints its smallest scenario and the command that repeats it.
#![cfg(feature = "sim")]

use braid::amf::geometry::Level;
use braid::sim::{self, Ending, Scenario};

/// Seeds of one run of the tests, over all threads.
const SEEDS: u64 = 2000;
const THREADS: u64 = 4;
const LEVELS: [Level; 2] = [Level::Raid0, Level::Raid5];

fn random(seed: u64) -> Scenario {
    Scenario::random(seed, &LEVELS)
}

/// The seeds of one of the tests that share them, so that the harness runs them side by side.
fn part(number: u64) {
    let (mut audited, mut commands) = (0, 0);
    for seed in (number..SEEDS).step_by(usize::try_from(THREADS).expect("few")) {
        match sim::try_seed(&random(seed)) {
            Err(failure) => panic!("{failure}"),
            Ok(report) => {
                audited += u64::from(report.ending == Ending::Audited);
                commands += u64::from(report.commands);
            }
        }
    }
    assert!(audited > SEEDS / THREADS / 3, "{audited} runs came to their end");
    assert!(commands > SEEDS / THREADS * 50, "{commands} commands");
}

#[test]
fn every_seed_keeps_its_promises_1() {
    part(0);
}

#[test]
fn every_seed_keeps_its_promises_2() {
    part(1);
}

#[test]
fn every_seed_keeps_its_promises_3() {
    part(2);
}

#[test]
fn every_seed_keeps_its_promises_4() {
    part(3);
}

#[test]
fn the_same_seed_is_the_same_run_event_for_event() {
    for seed in 0..30 {
        let (first, second) = (sim::run(&random(seed), true), sim::run(&random(seed), true));
        assert_eq!(first, second, "seed {seed}");
        let (other, _) = sim::run(&random(seed + 1), false);
        assert_ne!(first.0.trace, other.trace);
        assert_eq!(
            sim::run(&random(seed), false).0.trace,
            first.0.trace,
            "whether somebody reads along changes nothing"
        );
    }
}
