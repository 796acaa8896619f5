//! Inter-controller link.

/// Sessions between nodes: gathered packets that arrive once and in order, within one epoch.
pub mod link;
