//! Exhaustive models of the real machines: every interleaving of a small case, and mutants that have to be caught.

mod decide;
mod expel;

use std::hash::Hash;

use stateright::{Checker, Model};

/// What a search has found.
struct Found {
    states: usize,
    /// Names of the properties that do not hold.
    broken: Vec<&'static str>,
    /// Whether every state within the model's boundary was looked at.
    is_whole: bool,
}

/// Looks at states until all were seen, one breaks a property, or there were `states_max` of them.
fn search<M>(model: M, states_max: usize) -> Found
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + std::fmt::Debug + PartialEq + 'static,
    M::Action: Clone + PartialEq + std::fmt::Debug + Send + Sync,
{
    let checker = model
        .checker()
        .threads(2)
        .target_state_count(states_max)
        .spawn_bfs()
        .join();
    let mut broken: Vec<&'static str> = checker.discoveries().into_keys().collect();
    broken.sort_unstable();
    Found {
        states: checker.unique_state_count(),
        broken,
        is_whole: checker.state_count() < states_max,
    }
}
