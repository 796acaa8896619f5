//! NVMe and NVMe over Fabrics: wire formats and protocol machines, all pure.
//!
//! Bytes and events come in, events and bytes go out. Nothing here knows a socket, a clock or a
//! thread, so that the daemon, the tests and the fuzzers drive the very same code.

pub mod access;
pub mod command;
pub mod crc32c;
pub mod fabrics;
pub mod feature;
pub mod host;
pub mod identify;
pub mod io;
pub mod log;
pub mod nqn;
pub mod reservation;
pub mod status;
pub mod subsystem;
pub mod tcp;
