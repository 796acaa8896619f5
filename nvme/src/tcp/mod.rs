//! NVMe/TCP: PDUs and the two ends of a connection.
//!
//! [`pdu`] has the wire format, [`target`] and [`initiator`] the protocol machines on top of it.
//! A machine is fed with the bytes that came in, hands out events, and leaves what must be sent in
//! an [`outbox::Outbox`]; payload is neither copied nor kept on either way.

mod framer;
pub mod initiator;
pub mod outbox;
pub mod pdu;
mod slots;
pub mod target;

#[cfg(test)]
mod loopback;
