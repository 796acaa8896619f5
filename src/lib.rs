//! Braid: an array of drives that several nodes share, served to hosts over NVMe-oF.
//!
//! The modules stand in the order in which a command meets them. All but `target` are pure state
//! machines: events in, actions out, no clock, socket, thread or randomness of their own.

pub mod vdisk;

pub mod amf;

pub mod icl;

pub mod drive;

#[cfg(feature = "sim")]
pub mod sim;

#[cfg(feature = "target")]
pub mod target;
