//! Goal: whatever happens to nodes, the newest data of a row is never lost, no core sees older data, each want that takes dirty data is answered once, and nobody waits for ever.
//! Method: random worlds, each from one seed, of homes with their lock tables and journals' numbers, engines that do no more than keep to the rules, and a stand-in for replay.

mod engine;
mod named;
mod world;

use world::World;

/// How often things that may happen have happened.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    writes: u64,
    adopted: u64,
    answered: u64,
    settled: u64,
    restored: u64,
    voided: u64,
    replayed: u64,
    parted: u64,
}

fn run(seed: u64, totals: &mut Totals) {
    let mut world = World::new(seed);
    world.run(600);
    world.heal();
    for (sum, one) in [
        (&mut totals.writes, world.totals.writes),
        (&mut totals.adopted, world.totals.adopted),
        (&mut totals.answered, world.totals.answered),
        (&mut totals.settled, world.totals.settled),
        (&mut totals.restored, world.totals.restored),
        (&mut totals.voided, world.totals.voided),
        (&mut totals.replayed, world.totals.replayed),
        (&mut totals.parted, world.totals.parted),
    ] {
        *sum += one;
    }
}

/// `BRAID_HOMES_SEEDS` says how many more.
#[test]
fn dirty_data_goes_round_and_is_never_lost() {
    let more = std::env::var("BRAID_HOMES_SEEDS").ok();
    let seeds = more.and_then(|seeds| seeds.parse().ok()).unwrap_or(600);
    let mut totals = Totals::default();
    for seed in 0..seeds {
        run(seed, &mut totals);
    }
    println!("{seeds} seeds: {totals:?}");
    let often = [
        totals.writes / 100,
        totals.adopted / 10,
        totals.answered / 10,
        totals.settled / 10,
        totals.restored,
        totals.replayed,
    ];
    assert!(often.iter().all(|count| *count > seeds / 4), "{totals:?}");
    assert!(totals.voided > seeds / 40, "{totals:?}");
}
