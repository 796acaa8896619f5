//! Tests of the rules, the state and the machine.

mod machine;
mod model;
mod tables;

use super::*;

/// A host by its number.
fn host(number: u8) -> HostId {
    HostId([number; 16])
}

/// The key that a host has in these tests, unless they say otherwise.
fn key(number: u8) -> Key {
    Key(u64::from(number) * 0x10)
}

fn register(number: u8) -> Command {
    Command::Register {
        new: key(number),
        persistence: Persistence::Keep,
    }
}

fn unregister(number: u8) -> Command {
    Command::Unregister {
        current: Some(key(number)),
        persistence: Persistence::Keep,
    }
}

fn acquire(number: u8, kind: Kind) -> Command {
    Command::Acquire {
        current: key(number),
        kind,
    }
}

fn release(number: u8, kind: Kind) -> Command {
    Command::Release {
        current: key(number),
        kind,
    }
}

fn preempt(number: u8, victim: Key, kind: Kind) -> Command {
    Command::Preempt {
        current: key(number),
        victim,
        kind,
        abort: true,
    }
}

const REPORT: Command = Command::Report {
    extended: true,
    length_bytes: 4096,
};
