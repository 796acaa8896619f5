//! Runs whole arrays on one thread, from one seed: the real state machines with simulated time, drives and hosts.
//!
//! A [`Scenario`] says everything about a run; [`run`] carries it out and judges it, and the same scenario does the
//! same, event for event. [`check()`] is for tests and `braid sim`: it tries seeds, and makes a run that fails
//! smaller. [`sweep`] looks at a few operations instead, and at every state that a power cut could leave.
//! [`membership`] is about several nodes: who may write to the drives that they share.
//! Knows no real time, thread or file.

pub mod array;
pub mod check;
pub mod drive;
pub mod history;
pub mod host;
pub mod lives;
pub mod membership;
pub mod node;
pub mod random;
pub mod replaying;
pub mod scenario;
pub mod stamp;
pub mod trace;
pub mod world;

pub use check::{Failure, check, try_seed};
pub use scenario::{Fault, Mutant, OperatorWish, Order, Scenario, Stop};
pub use world::{
    Ending, Hole, Manner, Outcome, Report, Step, Swept, Thoroughness, Violation, run, sweep, sweep_noting,
};
