//! Inter-controller link.

pub mod membership;
