//! NVMe over RDMA: the seam between NVMe queue pairs and a verbs transport.
//!
//! Owns what crosses that seam: the private data of connection management ([`connect`]) and what a
//! transport does for a queue pair ([`transport`]). No transport is built yet; whatever implements
//! [`transport::Transport`] later, the NVMe side stays as it is. Deliberately knows no verbs library.

pub mod connect;
pub mod transport;
