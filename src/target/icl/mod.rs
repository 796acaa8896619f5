//! One core's end of the inter-controller link: the machines of [`crate::icl::link`] bound to sockets of the reactor.
//!
//! A [`Port`] listens, dials, greets, and carries packets; it runs inside of any [`reactor::Program`], which hands it the completions whose
//! tokens are its own and ends each turn with [`Port::end_turn`]. Lane `n` of a node is a port of core `n`, and listens `n + 1` TCP ports above
//! the node's address, so that a connection belongs to its core from its first byte on. At that address itself listens the port of
//! [`ANNOUNCEMENTS`], which go to nodes that are no members yet, too, and belong to no epoch.
//!
//! If the array encrypts, everything on its connections is TLS, and what is said here of bytes that come in or leave is meant inside of it.
//!
//! Invariants: who is at the other end is proved before a packet or an announcement of it is looked at; a connection that breaks a rule
//! ends, and its loss is told to the machines; what waits to be sent is bounded by the machines' own bounds and one announcement a peer.

mod port;
mod tls;
mod wire;

use std::net::SocketAddr;

use config::Encryption;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::icl::link::hmac::MAC_BYTES;
use crate::icl::link::{Address, Lane, LinkConfig};
use crate::icl::membership::message::MESSAGE_BYTES;
use crate::icl::{Epoch, Node, Slot};

pub use port::{Port, Refusals};

/// The lane of announcements.
pub const ANNOUNCEMENTS: Lane = Lane(u8::MAX);
/// Bits of a port's tokens.
pub const TOKEN_BITS: u32 = 48;

/// How to reach another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its slot.
    pub slot: Slot,
    /// Where it listens for announcements, by path: one or two addresses. Its lanes follow, a TCP port each.
    pub addresses: Vec<SocketAddr>,
}

/// What a port is made of.
pub struct PortSetup {
    /// Its links.
    pub link: LinkConfig,
    /// The key of the array.
    pub key: [u8; MAC_BYTES],
    /// What protects its connections; all nodes of the array have to agree on it.
    pub encryption: Encryption,
    /// Stands for what the configurations of all nodes have to say alike ([`super::council::Setup::terms`]).
    pub terms: u32,
    /// The other nodes of the array.
    pub peers: Vec<Peer>,
    /// Makes a token of the port out of [`TOKEN_BITS`] bits.
    pub token: fn(u64) -> reactor::Token,
}

/// What a port tells whoever runs it. Bytes are borrowed from what was received: whoever needs them later copies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News<'a> {
    /// A message for an addressee of this node.
    Message {
        /// From whom.
        peer: Slot,
        /// For whom.
        address: Address,
        /// Its type.
        kind: u16,
        /// Its content.
        payload: &'a [u8],
    },
    /// An announcement of a node whose identity is proved; not checked yet.
    Announcement {
        /// From whom.
        peer: Node,
        /// Its content.
        bytes: &'a [u8; MESSAGE_BYTES],
    },
    /// The connection for announcements of a peer was lost.
    Lost {
        /// Whose.
        peer: Slot,
    },
    /// A member was not heard for so long.
    Suspect {
        /// Who.
        peer: Slot,
        /// How long.
        silence_ns: u64,
    },
    /// A member is heard for the first time in this epoch, or again.
    Heard {
        /// Who.
        peer: Slot,
    },
    /// A member is in a greater epoch.
    NewerEpoch {
        /// Who.
        peer: Slot,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Messages to a peer that were refused may be submitted again.
    Room {
        /// To whom.
        peer: Slot,
    },
}

/// HMAC-SHA-256 as handshakes use it.
pub fn hmac_sha256(key: &[u8; MAC_BYTES], pieces: &[&[u8]]) -> [u8; MAC_BYTES] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    for piece in pieces {
        mac.update(piece);
    }
    mac.finalize().into_bytes().into()
}

/// Where a lane of a node listens, or is reached, if the node has this address; `None` beyond the last TCP port.
pub fn address_of_lane(first: SocketAddr, lane: Lane) -> Option<SocketAddr> {
    let number = if lane == ANNOUNCEMENTS {
        0
    } else {
        u16::from(lane.0) + 1
    };
    let port = first.port().checked_add(number)?;
    Some(SocketAddr::new(first.ip(), port))
}

#[cfg(test)]
mod tests;
