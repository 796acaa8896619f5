//! Small questions to sockets that need no reactor.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long the sockets of a process that was killed may stay open: until the kernel has taken its rings apart.
const IN_USE_WAIT: Duration = Duration::from_secs(3);

/// Listens on an address, which may be in use still by a process that was killed just now.
pub fn listen(address: SocketAddr, backlog: i32) -> std::io::Result<OwnedFd> {
    let begin = Instant::now();
    loop {
        match reactor::listener(address, backlog) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begin.elapsed() < IN_USE_WAIT => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

/// The address that the peer reached. Errs when the connection is gone already.
pub fn local_address(socket: &OwnedFd) -> std::io::Result<SocketAddr> {
    TcpStream::from(socket.try_clone()?).local_addr()
}

/// The peer's address. Errs when the connection is gone already.
pub fn peer_address(socket: &OwnedFd) -> std::io::Result<SocketAddr> {
    TcpStream::from(socket.try_clone()?).peer_addr()
}
