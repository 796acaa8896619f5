//! Drives as plain data.
pub mod block;
