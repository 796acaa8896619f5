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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn an_address_that_is_given_up_soon_is_waited_for() {
        let before = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = before.local_addr().unwrap();
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(150));
            drop(before);
        });
        assert!(listen(address, 8).is_ok());
        ends.join().unwrap();
    }

    #[test]
    fn an_address_of_somebody_else_is_refused_after_a_while() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = listen(other.local_addr().unwrap(), 8).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    }
}
