use super::world::{Faults, World};
use super::*;

const DATAGRAMS: Faults = Faults {
    lose: 100,
    repeat: 50,
    damage: 30,
    delay_steps: 10,
    cut_path: 4,
    restart: 1,
    new_epoch: 2,
    pause: 2,
};

const STREAMS: Faults = Faults {
    cut_path: 10,
    lose: 0,
    repeat: 0,
    damage: 0,
    ..DATAGRAMS
};

/// Runs a world through faults, heals it, and sees that it comes to rest with everything delivered.
fn check(seed: u64, nodes: usize, medium: Medium, gathering: Gathering) -> World {
    let faults = match medium {
        Medium::Datagram => DATAGRAMS,
        Medium::Stream => STREAMS,
    };
    let mut world = World::new(seed, nodes, medium, gathering);
    world.run(2500, faults, 400);
    // H10: the last epoch begins while packets of all earlier ones are still on the way, and goes on among faults.
    world.decide();
    let mild = Faults {
        restart: 0,
        new_epoch: 0,
        ..faults
    };
    world.run(500, mild, 400);
    world.heal();
    world.run(400, Faults::NONE, 300);
    world.run(3000, Faults::NONE, 0);
    world.check_rest();
    world
}

/// Goal: H10, with single packets that are lost, repeated, reordered, late by epochs, cut and damaged.
/// Method: every delivery is checked by the world; after healing nothing is missing.
#[test]
fn datagrams_arrive_once_and_in_order_within_an_epoch() {
    let mut total = Tally::default();
    for seed in 0..24 {
        for gathering in [Gathering::On, Gathering::Off] {
            total.add(&check(
                seed,
                2 + usize::from(seed % 2 == 1),
                Medium::Datagram,
                gathering,
            ));
        }
    }
    assert!(total.deliveries > 40_000, "{total:?}");
    assert!(
        total.malformed > 100 && total.duplicates > 1000 && total.gaps > 1000,
        "{total:?}"
    );
    assert!(total.wrong_epoch > 100 && total.wrong_life > 20, "{total:?}");
    assert!(total.resent > 1000 && total.failovers > 20, "{total:?}");
}

/// Goal: the same over connections that break in the middle of packets and come back.
#[test]
fn streams_deliver_once_and_in_order_within_an_epoch() {
    let mut total = Tally::default();
    for seed in 100..124 {
        for gathering in [Gathering::On, Gathering::Off] {
            total.add(&check(
                seed,
                2 + usize::from(seed % 2 == 1),
                Medium::Stream,
                gathering,
            ));
        }
    }
    assert!(total.deliveries > 40_000, "{total:?}");
    assert_eq!(total.malformed, 0, "a connection changes nothing");
    assert!(total.duplicates > 100 && total.resent > 1000, "{total:?}");
    assert!(total.wrong_epoch > 100 && total.failovers > 20, "{total:?}");
    assert!(total.full > 0, "{total:?}");
}

/// Goal: without faults nothing is sent twice, and gathering needs far fewer packets.
#[test]
fn a_calm_network_wastes_nothing() {
    let packets = |gathering| {
        let mut world = World::new(7, 3, Medium::Stream, gathering);
        world.run(100, Faults::NONE, 0);
        let before = world.total(|counters| counters.packets_sent);
        world.run(500, Faults::NONE, 900);
        world.run(1500, Faults::NONE, 0);
        world.check_rest();
        assert_eq!(world.total(|counters| counters.messages_resent), 0);
        assert_eq!(world.total(|counters| counters.suspicions), 0);
        assert!(world.deliveries > 5000);
        world.total(|counters| counters.packets_sent) - before
    };
    assert!(packets(Gathering::On) * 2 < packets(Gathering::Off));
}

/// Sums over worlds, so that a test can see that what it is about has happened.
#[derive(Debug, Default)]
struct Tally {
    deliveries: u64,
    malformed: u64,
    duplicates: u64,
    gaps: u64,
    wrong_epoch: u64,
    wrong_life: u64,
    resent: u64,
    failovers: u64,
    full: u64,
}

impl Tally {
    fn add(&mut self, world: &World) {
        self.deliveries += world.deliveries;
        self.malformed += world.total(|counters| counters.dropped(DropReason::Malformed));
        self.duplicates += world.total(|counters| counters.duplicates_dropped);
        self.gaps += world.total(|counters| counters.gaps_dropped);
        self.wrong_epoch += world.total(|counters| counters.dropped(DropReason::WrongEpoch));
        self.wrong_life += world.total(|counters| counters.dropped(DropReason::WrongIncarnation));
        self.resent += world.total(|counters| counters.messages_resent);
        self.failovers += world.total(|counters| counters.failovers);
        self.full += world.refused_full;
    }
}
