//! The host's end of an NVMe/TCP connection, as a pure machine.
