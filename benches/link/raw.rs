//! The baseline: two programs on the same reactor that send as many bytes to and fro and do nothing else.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use hdrhistogram::Histogram;
use reactor::{Errno, Io, Nanos, Options, PollMode, Program, Progress, Received, SendBatch, SocketId, Token};

/// What one run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Round trips a second.
    pub rate: f64,
    /// Half of the round trips took no longer, in ns.
    pub p50_ns: f64,
    /// 99 of 100 took no longer, in ns.
    pub p99_ns: f64,
    /// Messages per packet that carried any, of the side that asks.
    pub per_packet: f64,
    /// System calls of the side that asks, a message that it sent or received.
    pub calls: f64,
    /// Sends of the same, a message that it sent.
    pub sends: f64,
}

/// Options of a reactor on this CPU.
pub fn options(cpu: usize) -> Options {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Options {
        poll: PollMode::Busy,
        cpus: (cpus > 1).then(|| vec![cpu]),
        arena_bytes: 4 << 20,
        ..Options::default()
    }
}

/// A listener on loopback, and its address.
pub fn listener() -> (OwnedFd, SocketAddr) {
    let socket =
        reactor::listener("127.0.0.1:0".parse().expect("an address"), 16).expect("loopback is there");
    let bound = TcpListener::from(socket.try_clone().expect("descriptors are left"));
    (socket, bound.local_addr().expect("it is bound"))
}

enum Role {
    Answers(OwnedFd),
    Asks {
        address: SocketAddr,
        outstanding: u32,
        time_ns: Nanos,
        sender: Sender<Figures>,
    },
}

struct Side {
    role: Role,
    message: Vec<u8>,
    socket: Option<SocketId>,
    pending_bytes: usize,
    composing: Box<SendBatch>,
    spare: Option<Box<SendBatch>>,
    asked: VecDeque<Nanos>,
    latencies: Histogram<u64>,
    began: Option<(Nanos, reactor::Counters)>,
}

impl Side {
    fn new(role: Role, bytes: usize) -> Self {
        Self {
            role,
            message: vec![0x5a; bytes],
            socket: None,
            pending_bytes: 0,
            composing: Box::new(SendBatch::new()),
            spare: Some(Box::new(SendBatch::new())),
            asked: VecDeque::new(),
            latencies: Histogram::new_with_max(10_000_000_000, 3).expect("three digits are possible"),
            began: None,
        }
    }

    fn adopt(&mut self, io: &mut Io<()>, result: Result<OwnedFd, Errno>) {
        // An accept ends with the reactor, too.
        let Some(socket) = result.ok().and_then(|socket| io.add_socket(socket).ok()) else {
            return;
        };
        io.receive(socket, Token(1));
        self.socket = Some(socket);
    }

    /// Composes what is to be sent in this turn.
    fn go_on(&mut self, io: &mut Io<()>) {
        let now = io.refresh_now();
        let whole = self.pending_bytes / self.message.len();
        self.pending_bytes %= self.message.len();
        match &self.role {
            Role::Answers(_) => (0..whole).for_each(|_| self.composing.push_bytes(&self.message)),
            Role::Asks {
                outstanding,
                time_ns,
                sender,
                ..
            } => {
                for _ in 0..whole {
                    let asked = self.asked.pop_front().expect("it was asked");
                    self.latencies.saturating_record(now - asked);
                }
                let (began, before) = *self.began.get_or_insert((now, *io.counters()));
                if now < began + time_ns {
                    while self.asked.len() < *outstanding as usize {
                        self.composing.push_bytes(&self.message);
                        self.asked.push_back(now);
                    }
                } else if self.asked.is_empty() && !self.latencies.is_empty() {
                    let messages = self.latencies.len() as f64;
                    let _ = sender.send(Figures {
                        rate: messages * 1e9 / (now - began) as f64,
                        p50_ns: self.latencies.value_at_quantile(0.5) as f64,
                        p99_ns: self.latencies.value_at_quantile(0.99) as f64,
                        per_packet: 1.0,
                        calls: (io.counters().enters - before.enters) as f64 / (2.0 * messages),
                        sends: (io.counters().sends - before.sends) as f64 / messages,
                    });
                    self.latencies.reset();
                }
            }
        }
    }
}

impl Program for Side {
    type Message = ();

    fn started(&mut self, io: &mut Io<()>) {
        match &self.role {
            Role::Answers(listener) => io.accept(listener.as_fd(), Token(0)),
            Role::Asks { address, .. } => io.connect(*address, Token(0)),
        };
    }

    fn message(&mut self, _io: &mut Io<()>, _message: ()) {}

    fn accepted(&mut self, io: &mut Io<()>, _token: Token, result: Result<OwnedFd, Errno>) {
        self.adopt(io, result);
    }

    fn connected(&mut self, io: &mut Io<()>, _token: Token, result: Result<OwnedFd, Errno>) {
        self.adopt(io, result);
    }

    fn received(&mut self, _io: &mut Io<()>, _token: Token, event: Received<'_>) {
        match event {
            Received::Data(bytes) => self.pending_bytes += bytes.len(),
            Received::End | Received::Error(_) => {}
        }
    }

    fn sent(
        &mut self,
        _io: &mut Io<()>,
        _token: Token,
        mut batch: Box<SendBatch>,
        _result: Result<(), Errno>,
    ) {
        batch.clear();
        self.spare = Some(batch);
    }

    fn file_done(&mut self, _io: &mut Io<()>, _token: Token, _result: Result<u32, Errno>) {}

    fn closed(&mut self, _io: &mut Io<()>, _token: Token) {}

    fn timer(&mut self, _io: &mut Io<()>, _token: Token) {}

    fn turn(&mut self, io: &mut Io<()>) -> Progress {
        let Some(socket) = self.socket else {
            return Progress::Idle;
        };
        self.go_on(io);
        if self.composing.is_empty() {
            return Progress::Idle;
        }
        let Some(spare) = self.spare.take() else {
            return Progress::Idle;
        };
        let batch = std::mem::replace(&mut self.composing, spare);
        io.send(socket, Token(1), batch);
        Progress::Busy
    }
}

fn start(cpu: usize, role: Role, bytes: usize) -> reactor::Running<()> {
    let side = Mutex::new(Some(role));
    reactor::run(options(cpu), move |_| {
        let role = side.lock().expect("nobody panics with it").take();
        Side::new(role.expect("there is one core"), bytes)
    })
    .expect("the ring can be set up")
}

/// Runs both sides until the one that asks has its figures.
pub fn run(bytes: usize, outstanding: u32, time: Duration) -> Figures {
    let (listener, address) = listener();
    let (sender, figures) = mpsc::channel();
    let answers = start(0, Role::Answers(listener), bytes);
    let asks = Role::Asks {
        address,
        outstanding,
        time_ns: u64::try_from(time.as_nanos()).expect("seconds"),
        sender,
    };
    let asks = start(1, asks, bytes);
    let figures = figures
        .recv_timeout(time * 2 + Duration::from_secs(20))
        .expect("loopback works");
    for side in [asks, answers] {
        side.stop();
        side.join().expect("it stops");
    }
    figures
}
