//! Sockets as the kernel wants them: addresses, options, and no more.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A socket address in the kernel's layout, at an address that stays: a connect in flight refers to it.
pub(crate) struct Address {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Address {
    pub(crate) fn new(address: SocketAddr) -> Self {
        // SAFETY: all bytes zero is a valid sockaddr_storage, of family AF_UNSPEC.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let length = match address {
            SocketAddr::V4(v4) => {
                let name = libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is as large and as aligned as every address.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(name) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let name = libc::sockaddr_in6 {
                    sin6_family: family(libc::AF_INET6),
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: sockaddr_storage is as large and as aligned as every address.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(name) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self {
            storage,
            length: libc::socklen_t::try_from(length).expect("an address has 28 bytes at most"),
        }
    }

    pub(crate) fn start(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn length(&self) -> libc::socklen_t {
        self.length
    }
}

fn family(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("families are small numbers")
}

/// A TCP socket that listens on `address`, which may be taken again at once after a restart (`SO_REUSEADDR`).
///
/// It is a blocking socket on purpose: the ring waits for it, and answers EAGAIN for one that is not.
pub fn listener(address: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    bound(address, backlog, false)
}

/// As [`listener`], but several may listen on one address, one a core, and the kernel spreads connections over them.
pub fn listener_per_core(address: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    bound(address, backlog, true)
}

fn bound(address: SocketAddr, backlog: i32, shared: bool) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if shared {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    let name = Address::new(address);
    // SAFETY: the address is valid for its length and lives across the call.
    checked(unsafe { libc::bind(socket.as_raw_fd(), name.start(), name.length()) })?;
    // SAFETY: `listen` takes no pointers.
    checked(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(socket)
}

/// A TCP socket for addresses of this family.
pub(crate) fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: `socket` takes no pointers.
    let fd = checked(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What every socket of a ring needs: it blocks (the ring waits for it), and sends small segments at once. The latter
/// fails for sockets that are not TCP, which have no such delay.
pub(crate) fn prepare(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: `fcntl` with F_GETFL takes no pointers.
    let flags = checked(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETFL) })?;
    if flags & libc::O_NONBLOCK != 0 {
        // SAFETY: `fcntl` with F_SETFL takes no pointers.
        checked(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) })?;
    }
    match set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1) {
        Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => Err(error),
        _ => Ok(()),
    }
}

/// Whether the other end has closed, or the connection is broken. An error of the kernel says nothing of it.
pub(crate) fn has_hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut asked = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one `pollfd`, valid and live across the call, which does not wait.
    let answered = unsafe { libc::poll(&raw mut asked, 1, 0) };
    answered == 1 && asked.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

/// Ends one or both directions; a socket that is not connected any more has nothing left to end.
pub(crate) fn shutdown(socket: BorrowedFd<'_>, how: libc::c_int) {
    // SAFETY: `shutdown` takes no pointers.
    let status = unsafe { libc::shutdown(socket.as_raw_fd(), how) };
    debug_assert!(status == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EBADF));
}

fn set_option(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).expect("an int has four bytes");
    // SAFETY: the value is valid for its length and lives across the call.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) })?;
    Ok(())
}

fn checked(status: libc::c_int) -> io::Result<libc::c_int> {
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn listeners_of_both_families_listen() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(fd) = listener(address.parse().unwrap(), 16) else {
                assert!(address.contains("::1"), "every machine has IPv4 on loopback");
                continue;
            };
            let listener = TcpListener::from(fd);
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        }
    }

    #[test]
    fn only_listeners_per_core_share_an_address() {
        let first = TcpListener::from(listener_per_core("127.0.0.1:0".parse().unwrap(), 16).unwrap());
        let address = first.local_addr().unwrap();
        assert!(listener_per_core(address, 16).is_ok());
        assert_eq!(
            listener(address, 16).unwrap_err().raw_os_error(),
            Some(libc::EADDRINUSE)
        );
    }
}
