//! Who is a member of an array, in which epoch, and who may answer hosts.
//!
//! Owns the records of the quorum area ([`record`]), the decision ([`authority`], on the drives [`paxos`]), the lease that bounds what a node that was cut off
//! may still say ([`lease`]), when it was begun at the latest ([`beats`]), the fence that takes a lost node's way to the drives ([`fence`]), what nodes tell one another
//! ([`message`]), which nodes and drives to go on with ([`choice`]), which of them count as silent although they are heard ([`contact`]), and the machine that joins them in the only safe order: decide,
//! fence, wait, recover, open ([`Machine`]).
//!
//! Invariants (PROTOCOL 4.3):
//! - I3: one set of members is decided for each epoch, and epochs only grow.
//! - I4: after a drive's certificate nothing of the fenced incarnation executes on it.
//! - I10: nobody completes anything without a lease that is valid at that moment.
//!
//! Deliberately knows no clock, link, drive, lock or redundancy level: time and randomness come in with events, and what a drive or
//! the array management function has to do goes out as an action.

pub mod authority;
pub mod beats;
pub mod choice;
pub mod contact;
pub mod fence;
pub mod label;
pub mod lease;
pub mod machine;
pub mod message;
#[cfg(test)]
mod model;
pub mod paxos;
pub mod record;
pub mod status;
pub mod times;

pub use super::{ArrayId, DriveIndex, DriveSet, Epoch, Incarnation, Node, SLOTS, Slot, SlotSet, majority};
pub use machine::Machine;
pub use nvme::reservation::{Key, Report};
