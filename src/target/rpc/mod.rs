//! JSON-RPC 2.0 over a Unix stream socket: how [`Manage`](super::manage::Manage) is reached from outside.
//!
//! [`parse_request`] is pure: bytes in, checked requests out. The server and the client are ordinary threads with blocking
//! I/O, far from any data core. Every message, batch, connection count and wait is bounded.
//!
//! Source: JSON-RPC 2.0 Specification (2013-01-04), sections 4 to 6.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the management plane is no pure code: threads, sockets and time-outs are its work"
)]

mod client;
mod connection;
mod frame;
mod message;
mod method;
mod place;
mod server;

pub use client::{Client, ClientError};
pub use frame::{Framer, MESSAGE_BYTES_MAX};
pub use message::{BATCH_MAX, Call, Failure, Id, Incoming, RpcError, encode_answer, parse_request};
pub use method::{params, read as read_request};
pub use place::{PlaceError, Runtime, node_sockets};
pub use server::{Server, ServerError, ServerOptions};
