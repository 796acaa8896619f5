//! The baseline: a server on the same reactor that moves the same bytes as the target and does nothing else.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use reactor::{
    Errno, Io, Options, PollMode, Program, Progress, Received, Running, SendBatch, SocketId, Span, Token,
};

/// What one exchange moves.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// Bytes that come in for each command.
    pub request_bytes: usize,
    /// Bytes of headers that go out for each.
    pub header_bytes: usize,
    /// Bytes of payload that go out for each, from memory that no header shares.
    pub payload_bytes: u32,
    /// Bytes of that memory.
    pub memory_bytes: u32,
}

/// The server's only connection.
struct Peer {
    socket: SocketId,
    /// Bytes of a request that have come in and are not answered.
    pending_bytes: usize,
    composing: Box<SendBatch>,
    spare: Option<Box<SendBatch>>,
}

/// The echo server.
struct Echo {
    listener: OwnedFd,
    exchange: Exchange,
    header: Vec<u8>,
    /// As much memory as the target's commands touch, so that both send from as much.
    payload: Option<Span>,
    /// The block of it to send next.
    next: u32,
    peer: Option<Peer>,
}

impl Program for Echo {
    type Message = ();

    fn started(&mut self, io: &mut Io<()>) {
        if self.exchange.payload_bytes > 0 {
            self.payload = io.arena_mut().alloc(self.exchange.memory_bytes);
            if let Some(payload) = self.payload {
                io.arena_mut().zero(payload); // Every page is there before the clock runs.
            }
        }
        io.accept(self.listener.as_fd(), Token(0))
            .expect("the only operation");
    }

    fn message(&mut self, _io: &mut Io<()>, _message: ()) {}

    fn accepted(&mut self, io: &mut Io<()>, _token: Token, result: Result<OwnedFd, Errno>) {
        let Ok(socket) = result else { return };
        let Ok(socket) = io.add_socket(socket) else { return };
        io.receive(socket, Token(1));
        let batch = || Box::new(SendBatch::new());
        self.peer = Some(Peer {
            socket,
            pending_bytes: 0,
            composing: batch(),
            spare: Some(batch()),
        });
    }

    fn received(&mut self, io: &mut Io<()>, _token: Token, event: Received<'_>) {
        let Some(peer) = &mut self.peer else { return };
        match event {
            Received::Data(bytes) => {
                peer.pending_bytes += bytes.len();
                while peer.pending_bytes >= self.exchange.request_bytes {
                    peer.pending_bytes -= self.exchange.request_bytes;
                    peer.composing.push_bytes(&self.header);
                    if let Some(memory) = self.payload {
                        let blocks = memory.bytes() / self.exchange.payload_bytes;
                        self.next = (self.next + 1) % blocks;
                        let block = self.next;
                        let bytes = self.exchange.payload_bytes;
                        peer.composing.push_span(memory.part(block * bytes, bytes));
                    }
                }
            }
            Received::End | Received::Error(_) => {
                let socket = peer.socket;
                io.remove_socket(socket, Token(2));
                self.peer = None;
            }
        }
    }

    fn sent(
        &mut self,
        _io: &mut Io<()>,
        _token: Token,
        mut batch: Box<SendBatch>,
        _result: Result<(), Errno>,
    ) {
        if let Some(peer) = &mut self.peer {
            batch.clear();
            peer.spare = Some(batch);
        }
    }

    fn file_done(&mut self, _io: &mut Io<()>, _token: Token, _result: Result<u32, Errno>) {}

    fn connected(&mut self, _io: &mut Io<()>, _token: Token, _result: Result<OwnedFd, Errno>) {}

    fn closed(&mut self, _io: &mut Io<()>, _token: Token) {}

    fn timer(&mut self, _io: &mut Io<()>, _token: Token) {}

    fn turn(&mut self, io: &mut Io<()>) -> Progress {
        let Some(peer) = &mut self.peer else {
            return Progress::Idle;
        };
        if peer.composing.is_empty() {
            return Progress::Idle;
        }
        let Some(spare) = peer.spare.take() else {
            return Progress::Idle;
        };
        let batch = std::mem::replace(&mut peer.composing, spare);
        io.send(peer.socket, Token(1), batch);
        Progress::Busy
    }
}

/// Starts the server on one core.
pub fn start(exchange: Exchange, poll: PollMode, cpu: Option<usize>) -> (Running<()>, SocketAddr) {
    let listener =
        reactor::listener("127.0.0.1:0".parse().expect("an address"), 16).expect("loopback is there");
    let address = std::net::TcpListener::from(listener.try_clone().expect("descriptors are left"));
    let address = address.local_addr().expect("it is bound");
    let options = Options {
        cores: 1,
        poll,
        cpus: cpu.map(|cpu| vec![cpu]),
        ..Options::default()
    };
    let listener = std::sync::Mutex::new(Some(listener));
    let running = reactor::run(options, move |_| Echo {
        listener: listener
            .lock()
            .expect("nobody panics with it")
            .take()
            .expect("there is one core"),
        exchange,
        header: vec![0; exchange.header_bytes],
        payload: None,
        next: 0,
        peer: None,
    });
    (running.expect("the ring can be set up"), address)
}
