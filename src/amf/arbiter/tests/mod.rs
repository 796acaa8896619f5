//! Several real machines together: scripts of the figures, counts of messages, and random worlds.

mod costs;
mod figures;
mod hostile;
mod random;
mod refusals;
mod script;
mod world;
