//! Inter-controller link.

mod identity;
pub mod link;
pub mod membership;

pub use identity::{ArrayId, DriveIndex, DriveSet, Epoch, Incarnation, Node, SLOTS, Slot, SlotSet, majority};
