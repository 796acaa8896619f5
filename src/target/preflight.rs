//! Checks of this machine.
