//! The cases that are searched, and how far. `BRAID_LOCK_STATES` says how many states of each are generated instead.

use std::sync::atomic::Ordering;

use super::paths::PATHS;
use super::*;
use crate::amf::lock::Mode::{Read, Write};

/// States that are generated of one case, by default.
const STATES_MAX: usize = 250_000;
/// States that are generated until a mistake has to be found.
const STATES_TO_CATCH: usize = 3_000_000;

const X: Resource = Resource(0);
const Y: Resource = Resource(1);

fn states_max() -> usize {
    let wanted = std::env::var("BRAID_LOCK_STATES").ok();
    wanted
        .and_then(|states| states.parse().ok())
        .unwrap_or(STATES_MAX)
}

fn case(nodes: u8, users: &[(u8, Resource, Mode)]) -> Case {
    let user = |&(at, resource, mode): &(u8, Resource, Mode)| User {
        at,
        resource,
        mode,
        prefetch: Prefetch::NONE,
    };
    Case {
        nodes,
        rule: None,
        users: users.iter().map(user).collect(),
        is_ordered: true,
        repeats: 0,
        deaths: 0,
        epochs: 0,
        give_backs: 0,
        hands_over: false,
        holder_limit: 4,
        mutant: Mutant::None,
        taken: Arc::default(),
    }
}

/// Two nodes that write and read one resource: the arbitership moves. An epoch begins at any time.
fn two_nodes() -> Case {
    let users = [
        (0, X, Write),
        (1, X, Write),
        (0, X, Read),
        (1, X, Read),
        (1, Y, Write),
    ];
    Case {
        epochs: 1,
        give_backs: 1,
        ..case(2, &users)
    }
}

/// The same with fewer users: what is wrong with an epoch or a moved arbitership shows early.
fn two_nodes_and_few_users() -> Case {
    let mut case = two_nodes();
    case.users.truncate(3);
    case.give_backs = 0;
    case
}

/// One of two nodes dies.
fn two_nodes_and_a_death() -> Case {
    let users = [(0, X, Write), (1, X, Write), (1, Y, Write), (0, X, Read)];
    Case {
        deaths: 1,
        epochs: 1,
        give_backs: 1,
        hands_over: true,
        ..case(2, &users)
    }
}

/// Three nodes over links that keep no order and say things twice.
fn three_nodes() -> Case {
    let users = [(0, X, Read), (1, X, Read), (2, X, Write), (0, X, Write)];
    Case {
        rule: Some(Rule::SingleArbiter(SingleArbiter(slot(2)))),
        is_ordered: false,
        repeats: 1,
        give_backs: 1,
        ..case(3, &users)
    }
}

/// One of three dies, perhaps the arbiter, with dirty data on its way; then two of them have the rule for two.
fn three_nodes_and_a_death() -> Case {
    let users = [(0, X, Write), (1, X, Write), (2, X, Write), (1, X, Read)];
    Case {
        deaths: 1,
        give_backs: 1,
        hands_over: true,
        ..case(3, &users)
    }
}

/// The same without an order of messages, and without a change of the rule.
fn a_death_without_order() -> Case {
    Case {
        rule: Some(Rule::FixedMap(FixedMap)),
        is_ordered: false,
        ..three_nodes_and_a_death()
    }
}

/// An epoch begins while dirty data goes round.
fn dirty_data_in_two_epochs() -> Case {
    let users = [(0, X, Write), (1, X, Write), (0, X, Write), (1, X, Read)];
    Case {
        epochs: 2,
        hands_over: true,
        rule: Some(Rule::SingleArbiter(SingleArbiter(slot(1)))),
        ..case(2, &users)
    }
}

/// A taker or a giver dies, before or after the data was durable and more was written.
fn a_death_between_two() -> Case {
    let users = [(0, X, Write), (1, X, Write), (0, X, Read)];
    Case {
        deaths: 1,
        hands_over: true,
        rule: Some(Rule::SingleArbiter(SingleArbiter(slot(0)))),
        ..case(2, &users)
    }
}

/// Two resources, one of them prefetched with the other, and tables that hold one.
fn prefetch(holder_limit: usize) -> Case {
    let users = [(0, X, Read), (1, Y, Write), (0, Y, Read), (1, X, Write)];
    let mut case = Case {
        rule: Some(Rule::SingleArbiter(SingleArbiter(slot(1)))),
        is_ordered: false,
        repeats: 1,
        holder_limit,
        ..case(2, &users)
    };
    case.users[0].prefetch = Prefetch::next(1);
    case.users[3].prefetch = Prefetch::next(1);
    case
}

/// The arbitership of a prefetched resource moves with it.
fn prefetch_of_two_nodes() -> Case {
    let users = [(1, X, Write), (1, Y, Read), (0, Y, Write), (0, X, Write)];
    let mut case = Case {
        give_backs: 1,
        hands_over: true,
        ..case(2, &users)
    };
    case.users[0].prefetch = Prefetch::next(1);
    case.users[3].prefetch = Prefetch::next(1);
    case
}

/// I1, I2, I9 and I19 in all cases; and every path of Figures 18 to 20 is taken in one of them.
#[test]
fn every_order_of_a_small_case_is_safe_and_serves_all() {
    let mut taken = 0;
    for (name, case) in [
        ("two nodes", two_nodes()),
        ("two nodes and a death", two_nodes_and_a_death()),
        ("three nodes", three_nodes()),
        ("three nodes and a death", three_nodes_and_a_death()),
        ("a death without order", a_death_without_order()),
        ("dirty data in two epochs", dirty_data_in_two_epochs()),
        ("a death between two", a_death_between_two()),
        ("prefetch", prefetch(4)),
        ("prefetch with a full table", prefetch(1)),
        ("prefetch of two nodes", prefetch_of_two_nodes()),
    ] {
        let found = search(&case, states_max());
        println!("{name}: {} states, whole: {}", found.states, found.is_whole);
        assert_eq!((&found.broken[..], found.what), (&[][..], None), "{name}");
        taken |= case.taken.load(Ordering::Relaxed);
    }
    let missed: Vec<&str> = (0..)
        .zip(PATHS)
        .filter(|(bit, _)| taken >> bit & 1 == 0)
        .map(|(_, path)| path)
        .collect();
    assert_eq!(missed, [""; 0]);
}

fn is_caught(mutant: Mutant, mut case: Case, property: &str) {
    case.mutant = mutant;
    let found = search(&case, STATES_TO_CATCH);
    println!(
        "{mutant:?}: {:?} ({:?}) within {} states",
        found.broken, found.what, found.states
    );
    assert!(found.broken.contains(&property), "{mutant:?} is not caught");
}

#[test]
fn a_release_with_a_user_inside_is_caught() {
    is_caught(Mutant::ReleaseInside, three_nodes(), "safe");
}

#[test]
fn a_grant_without_a_release_is_caught() {
    is_caught(Mutant::GrantWithoutRelease, three_nodes(), "safe");
}

#[test]
fn a_grant_before_the_barrier_is_caught() {
    is_caught(Mutant::EarlyBarrier, two_nodes_and_few_users(), "safe");
}

#[test]
fn an_arbitership_in_two_places_is_caught() {
    is_caught(Mutant::SeatDoubled, two_nodes_and_few_users(), "safe");
}

#[test]
fn a_grant_that_is_kept_although_it_said_until_done_is_caught() {
    is_caught(Mutant::WhenDoneIgnored, three_nodes(), "I19");
}

#[test]
fn a_waiter_that_is_dropped_at_an_epochs_change_is_caught() {
    is_caught(Mutant::WaiterDropped, two_nodes_and_few_users(), "I19");
}

#[test]
fn a_grant_without_its_dirty_data_is_caught() {
    is_caught(Mutant::DataNotAwaited, dirty_data_in_two_epochs(), "safe");
}

#[test]
fn data_that_is_forgotten_before_it_is_durable_elsewhere_is_caught() {
    is_caught(Mutant::SecuredEarly, a_death_between_two(), "safe");
}

#[test]
fn data_that_is_forgotten_before_it_is_recovered_is_caught() {
    is_caught(Mutant::VoidForgotten, a_death_between_two(), "safe");
}

#[test]
fn data_that_comes_back_and_is_recovered_is_caught() {
    is_caught(Mutant::GivenNotHeld, dirty_data_in_two_epochs(), "safe");
}
