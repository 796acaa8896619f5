//! A node as hosts meet it: real TCP over loopback, real drives, several cores; hosts that behave and hosts that do not.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the tests are hosts: threads, sockets and files are what they are about, and a surprise ends them"
)]

mod away;
mod bad_hosts;
mod commands;
mod drives;
mod expansion;
mod fabric;
mod fences;
mod forms;
mod health;
mod initiator;
mod kill_cycles;
mod levels;
mod lost;
mod membership;
mod multipath;
mod partitions;
mod parts;
mod ports;
mod programs;
mod queue;
mod ram;
mod raw;
mod read_cache;
mod relay;
mod replication;
mod reservations;
mod resets;
mod rolling;
mod scaling;
mod scene;
mod shared_drives;
mod sharing;
mod sharing_by_some;
mod sharing_memory;
mod sharing_reservations;
mod sharing_under_blows;
mod shelf;
mod spares;
mod stage;
mod zeroes;
