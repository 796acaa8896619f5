//! NVMe/TCP: PDUs and the two ends of a connection.

pub mod initiator;
pub mod pdu;
pub mod target;
