//! Inter-controller link.

mod identity;
pub mod link;
pub mod membership;
pub mod reset;

pub use identity::{ArrayId, DriveIndex, DriveSet, Epoch, Incarnation, Node, SLOTS, Slot, SlotSet, majority};
