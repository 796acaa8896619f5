//! Small questions to sockets that need no reactor.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

/// The address that the peer reached. Errs when the connection is gone already.
pub fn local_address(socket: &OwnedFd) -> std::io::Result<SocketAddr> {
    TcpStream::from(socket.try_clone()?).local_addr()
}

/// The peer's address. Errs when the connection is gone already.
pub fn peer_address(socket: &OwnedFd) -> std::io::Result<SocketAddr> {
    TcpStream::from(socket.try_clone()?).peer_addr()
}
