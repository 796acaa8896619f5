//! Inter-controller link.

pub mod link;
