//! The command line: `braid <command>`.

pub mod options;
