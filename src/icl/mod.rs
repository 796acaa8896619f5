//! Inter-controller link.

pub mod link;
pub mod membership;
