//! Goal: whatever happens to nodes and links, a writer is alone, tokens grow, users see what was written last, and nobody waits for ever.
//! Method: random worlds, each from one seed; and mistakes in the wiring, each of which has to be found.

use super::super::station::Mutant;
use super::super::*;
use super::world::{Setting, World};

const STEPS: u64 = 400;
/// Every mistake has to be found within so many seeds.
const SEEDS_TO_CATCH: u64 = 50;

fn run(seed: u64, setting: Setting) -> (Option<&'static str>, Counters) {
    let mut world = World::new(seed, setting);
    world.run(STEPS, 300);
    if world.store.broken.is_none() {
        world.heal();
    }
    (world.store.broken, world.totals)
}

/// I1, I2, I9, I19 and B15 in 2,000 worlds; `BRAID_LOCK_SEEDS` says how many more.
#[test]
fn random_worlds_break_nothing() {
    let more = std::env::var("BRAID_LOCK_SEEDS").ok();
    let seeds = more.and_then(|seeds| seeds.parse().ok()).unwrap_or(2000);
    let (mut totals, mut failed) = (Counters::default(), Vec::new());
    for seed in 0..seeds {
        let setting = Setting::of_seed(seed);
        let (broken, counters) = run(seed, setting);
        failed.extend(broken.map(|what| (seed, what)));
        totals.grants += counters.grants;
        totals.prefetch_hits += counters.prefetch_hits;
        totals.hand_overs += counters.hand_overs;
        totals.evictions += counters.evictions;
        totals.failures += counters.failures;
        totals.stale += counters.stale;
        totals.releases_when_done += counters.releases_when_done;
    }
    println!(
        "{seeds} seeds: {} grants, {} until done, {} with dirty data, {} prefetch hits, {} evictions, {} failures, {} stale messages",
        totals.grants,
        totals.releases_when_done,
        totals.hand_overs,
        totals.prefetch_hits,
        totals.evictions,
        totals.failures,
        totals.stale,
    );
    assert_eq!(failed, []);
    assert!(totals.prefetch_hits > seeds / 50, "{totals:?}");
    let often = [
        totals.grants / 100,
        totals.hand_overs,
        totals.evictions,
        totals.failures,
        totals.stale,
        totals.releases_when_done,
    ];
    assert!(often.iter().all(|count| *count > seeds), "{often:?}");
}

/// Runs seeds until a mistake breaks one of these, and says how many that took.
fn is_caught(mutant: Mutant, kinds: &[&str]) {
    is_caught_with(mutant, kinds, |_| {});
}

/// The same where takers die often, and are slow to have durable what they take.
fn is_caught_with_deaths(mutant: Mutant, kinds: &[&str]) {
    is_caught_with(mutant, kinds, |setting| {
        (setting.hands_over, setting.securing, setting.deaths) = (true, 5, 12);
    });
}

fn is_caught_with(mutant: Mutant, kinds: &[&str], change: impl Fn(&mut Setting)) {
    for seed in 0..SEEDS_TO_CATCH {
        let mut setting = Setting::of_seed(seed);
        setting.mutant = mutant;
        change(&mut setting);
        let (broken, _) = run(seed, setting);
        let Some(broken) = broken.filter(|broken| kinds.iter().any(|kind| broken.starts_with(kind))) else {
            continue;
        };
        println!("{mutant:?}: {broken:?} after {} seeds", seed + 1);
        return;
    }
    panic!("{mutant:?} is not caught");
}

#[test]
fn a_release_with_a_user_inside_is_caught() {
    is_caught(Mutant::ReleaseInside, &["I1:", "I2:", "I9:"]);
}

#[test]
fn a_grant_without_a_release_is_caught() {
    is_caught(Mutant::GrantWithoutRelease, &["I1:", "I2:", "I9:"]);
}

#[test]
fn a_grant_before_the_barrier_is_caught() {
    is_caught(Mutant::EarlyBarrier, &["I1:", "I2:", "I9:"]);
}

#[test]
fn an_arbitership_in_two_places_is_caught() {
    is_caught(Mutant::SeatDoubled, &["I1:", "I2:", "I9:", "a token"]);
}

#[test]
fn a_grant_that_is_kept_although_it_said_until_done_is_caught() {
    is_caught(Mutant::WhenDoneIgnored, &["I19:"]);
}

#[test]
fn a_waiter_that_is_dropped_at_an_epochs_change_is_caught() {
    is_caught(Mutant::WaiterDropped, &["I19:"]);
}

#[test]
fn a_grant_without_its_dirty_data_is_caught() {
    is_caught(Mutant::DataNotAwaited, &["I9:"]);
}

#[test]
fn data_that_is_forgotten_before_it_is_durable_elsewhere_is_caught() {
    is_caught_with_deaths(Mutant::SecuredEarly, &["I9:"]);
}

#[test]
fn data_that_is_forgotten_before_it_is_recovered_is_caught() {
    is_caught_with_deaths(Mutant::VoidForgotten, &["I9:"]);
}

#[test]
fn data_that_comes_back_and_is_recovered_is_caught() {
    is_caught_with_deaths(Mutant::GivenNotHeld, &["what is held", "what comes back"]);
}
