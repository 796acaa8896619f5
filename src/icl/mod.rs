//! Inter-controller link.
