//! Several real machines together: scripts of the figures, counts of messages, and random worlds.

mod random;
mod world;
