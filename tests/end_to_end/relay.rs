//! A wire between a host and a target that can be held, cut and silenced.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::stage::WAIT;

/// What the host has sent on a connection and the target has not been given.
#[derive(Default)]
struct Held {
    is_held: bool,
    bytes: Vec<u8>,
}

/// One connection through the wire.
struct Connection {
    host: TcpStream,
    target: TcpStream,
    held: Mutex<Held>,
    ended_by_target: AtomicBool,
}

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<Arc<Connection>>>,
    is_silent: AtomicBool,
}

/// See the module.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Relay {
    /// To this target.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let all = Arc::clone(&shared);
        thread::spawn(move || {
            for host in listener.incoming().map_while(Result::ok) {
                let Ok(target) = TcpStream::connect(target) else {
                    continue;
                };
                all.carry(host, target);
            }
        });
        Self { address, shared }
    }

    /// Where hosts are to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing goes through, in either direction, and nobody hears of that.
    pub fn silence(&self, is_silent: bool) {
        self.shared.is_silent.store(is_silent, Ordering::SeqCst);
    }

    /// Whether anybody has ever come this way.
    pub fn is_used(&self) -> bool {
        !self.shared.connections.lock().unwrap().is_empty()
    }

    /// Keeps what hosts send from now on over the connections that there are.
    pub fn hold(&self) -> Remains {
        let connections = self.shared.connections.lock().unwrap().clone();
        let is_there = |connection: &Arc<Connection>| !connection.ended_by_target.load(Ordering::SeqCst);
        let connections: Vec<_> = connections.into_iter().filter(is_there).collect();
        for connection in &connections {
            connection.held.lock().unwrap().is_held = true;
        }
        Remains(connections)
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, host: TcpStream, target: TcpStream) {
        for stream in [&host, &target] {
            stream.set_nodelay(true).unwrap();
        }
        let connection = Arc::new(Connection {
            host,
            target,
            held: Mutex::default(),
            ended_by_target: AtomicBool::new(false),
        });
        self.connections.lock().unwrap().push(Arc::clone(&connection));
        let (shared, to_target) = (Arc::clone(self), Arc::clone(&connection));
        thread::spawn(move || {
            shared.pump(&to_target.host, |bytes| to_target.give(bytes));
            if !to_target.held.lock().unwrap().is_held {
                let _ = to_target.target.shutdown(Shutdown::Both); // It may have ended it.
            }
        });
        let shared = Arc::clone(self);
        thread::spawn(move || {
            shared.pump(&connection.target, |bytes| {
                let _ = (&connection.host).write_all(bytes); // It may be gone; the target may go on.
            });
            connection.ended_by_target.store(true, Ordering::SeqCst);
            let _ = connection.host.shutdown(Shutdown::Both); // Likewise.
        });
    }

    /// Takes what comes until the end.
    fn pump(&self, mut from: &TcpStream, give: impl Fn(&[u8])) {
        let mut bytes = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if !self.is_silent.load(Ordering::SeqCst) {
                give(&bytes[..count]);
            }
        }
    }
}

impl Connection {
    fn give(&self, bytes: &[u8]) {
        let mut held = self.held.lock().unwrap();
        if held.is_held {
            held.bytes.extend_from_slice(bytes);
        } else {
            let _ = (&self.target).write_all(bytes); // It may have ended the connection.
        }
    }
}

/// Connections whose bytes are held.
pub struct Remains(Vec<Arc<Connection>>);

impl Remains {
    /// Bytes that are held on all of them.
    pub fn bytes(&self) -> usize {
        self.0
            .iter()
            .map(|connection| connection.held.lock().unwrap().bytes.len())
            .sum()
    }

    /// Hosts lose them; the target does not hear of it.
    pub fn lose(&self) {
        for connection in &self.0 {
            let _ = connection.host.shutdown(Shutdown::Both); // It may be gone already.
        }
    }

    /// Whether the target has ended all of them, so that what was held cannot reach it.
    pub fn are_over(&self) -> bool {
        self.0
            .iter()
            .all(|connection| connection.ended_by_target.load(Ordering::SeqCst))
    }

    /// Gives the target what was held.
    pub fn release(&self) {
        for connection in &self.0 {
            let held = std::mem::take(&mut connection.held.lock().unwrap().bytes);
            let _ = (&connection.target).write_all(&held); // It may have ended the connection.
        }
    }

    /// Waits until something is held.
    pub fn await_bytes(&self) {
        let end = Instant::now() + WAIT;
        while self.bytes() == 0 {
            assert!(Instant::now() < end, "nothing was sent");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
