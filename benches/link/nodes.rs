//! Two nodes with a link between them: one asks, the other answers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use braid::icl::link::{Address, Gathering, Lane, LinkConfig, Payload};
use braid::icl::{ArrayId, Epoch, Incarnation, Node, Slot};
use braid::target::icl::{News, Peer, Port, PortSetup};
use config::Encryption;
use hdrhistogram::Histogram;
use reactor::{Errno, Io, Nanos, Program, Progress, Received, SendBatch, Token};

use crate::raw::{Figures, listener, options};

const ASKS: u16 = 1;
const ANSWERS: u16 = 2;

/// What a run is to do.
#[derive(Clone, Copy)]
struct Task {
    bytes: usize,
    outstanding: u32,
    warm_ns: Nanos,
    time_ns: Nanos,
}

/// One node.
struct Member {
    port: Port,
    /// The one that asks, if this is it.
    task: Option<(Task, Sender<Figures>)>,
    /// Messages that have come in and are to be answered.
    owed: u32,
    payload: Vec<u8>,
    /// When the messages left that are under way, the oldest first: answers come in order.
    asked: VecDeque<Nanos>,
    latencies: Histogram<u64>,
    /// When it began to count, and what was counted before.
    counting: Option<(Nanos, reactor::Counters, u64, u64)>,
    received: Vec<(u16, Slot)>,
    is_up: bool,
}

fn node(slot: u8) -> Node {
    Node {
        slot: Slot::new(slot).expect("there is such a slot"),
        incarnation: Incarnation(100 + u64::from(slot)),
    }
}

fn start(
    slot: u8,
    listener: Option<OwnedFd>,
    other: SocketAddr,
    gathering: Gathering,
    encryption: Encryption,
    task: Option<(Task, Sender<Figures>)>,
    bytes: usize,
) -> reactor::Running<()> {
    let kept = Mutex::new(Some((listener, task)));
    reactor::run(options(usize::from(slot)), move |_| {
        let (listener, task) = kept
            .lock()
            .expect("nobody panics with it")
            .take()
            .expect("there is one core");
        let mut link = LinkConfig::new(ArrayId([7; 16]), node(slot), Lane(0), braid::target::crc32c);
        link.gathering = gathering;
        let setup = PortSetup {
            link,
            key: [3; 32],
            encryption,
            terms: 0,
            peers: vec![Peer {
                slot: node(1 - slot).slot,
                addresses: vec![other],
            }],
            token: Token,
        };
        Member {
            port: Port::new(setup, listener),
            task,
            owed: 0,
            payload: vec![0x5a; bytes],
            asked: VecDeque::new(),
            latencies: Histogram::new_with_max(10_000_000_000, 3).expect("three digits are possible"),
            counting: None,
            received: Vec::new(),
            is_up: false,
        }
    })
    .expect("the ring can be set up")
}

/// Runs both until the one that asks has its figures.
pub fn run(
    bytes: usize,
    outstanding: u32,
    (gathering, encryption): (Gathering, Encryption),
    time: Duration,
) -> Figures {
    let (listener, bound) = listener();
    // Lane 0 listens a port above the node's address.
    let address = SocketAddr::new(bound.ip(), bound.port() - 1);
    let (sender, figures) = mpsc::channel();
    let time_ns = u64::try_from(time.as_nanos()).expect("seconds");
    let task = Task {
        bytes,
        outstanding,
        warm_ns: time_ns / 10,
        time_ns,
    };
    let answers = start(0, Some(listener), address, gathering, encryption, None, bytes);
    let asked = Some((task, sender));
    let asks = start(1, None, address, gathering, encryption, asked, bytes);
    let figures = figures
        .recv_timeout(time * 2 + Duration::from_secs(20))
        .expect("the nodes find each other");
    for reactor in [asks, answers] {
        reactor.stop();
        reactor.join().expect("it stops");
    }
    figures
}

impl Member {
    fn with_port(
        &mut self,
        io: &mut Io<()>,
        act: impl FnOnce(&mut Port, &mut Io<()>, &mut dyn FnMut(News<'_>)),
    ) {
        let (received, is_up) = (&mut self.received, &mut self.is_up);
        act(&mut self.port, io, &mut |news| match news {
            News::Message { peer, kind, .. } => received.push((kind, peer)),
            News::Heard { .. } => *is_up = true,
            News::Announcement { .. }
            | News::Lost { .. }
            | News::Suspect { .. }
            | News::NewerEpoch { .. }
            | News::Room { .. } => {}
        });
    }

    /// Looks at what came in, and says what is to be said.
    fn go_on(&mut self, io: &mut Io<()>) {
        let now = io.refresh_now();
        for (kind, _) in self.received.drain(..) {
            if kind == ASKS {
                self.owed += 1;
            } else if let Some(asked) = self.asked.pop_front() {
                self.latencies.saturating_record(now - asked);
            }
        }
        let (peer, kind) = if self.task.is_some() {
            (node(0).slot, ASKS)
        } else {
            (node(1).slot, ANSWERS)
        };
        if let Some((task, _)) = &self.task {
            let under_way = u32::try_from(self.asked.len()).expect("a few");
            self.owed = if self.is_up {
                task.outstanding - under_way
            } else {
                0
            };
        }
        for _ in 0..self.owed {
            let taken = self
                .port
                .submit(io, peer, Address::Node, kind, Payload::copied(&[&self.payload]));
            taken.expect("64 messages fit the queue");
            if self.task.is_some() {
                self.asked.push_back(now);
            }
        }
        self.owed = 0;
        self.count(io, now);
    }

    fn count(&mut self, io: &Io<()>, now: Nanos) {
        let Some((task, sender)) = &self.task else { return };
        if !self.is_up {
            return;
        }
        let counters = self.port.counters(node(0).slot).copied().unwrap_or_default();
        match self.counting {
            None => {
                self.counting = Some((now + task.warm_ns, *io.counters(), 0, 0));
                self.latencies.reset();
            }
            Some((begin, _, 0, _)) if now >= begin => {
                self.latencies.reset();
                let (messages, packets) = (counters.messages_sent.max(1), counters.packets_sent);
                self.counting = Some((now, *io.counters(), messages, packets));
            }
            Some((begin, before, messages, packets)) if messages > 0 && now >= begin + task.time_ns => {
                let (now_calls, sends) = (io.counters().enters, io.counters().sends);
                let messages = (counters.messages_sent - messages) as f64;
                assert!(task.bytes == self.payload.len(), "all messages are alike");
                let figures = Figures {
                    rate: self.latencies.len() as f64 * 1e9 / (now - begin) as f64,
                    p50_ns: self.latencies.value_at_quantile(0.5) as f64,
                    p99_ns: self.latencies.value_at_quantile(0.99) as f64,
                    per_packet: messages / (counters.packets_sent - packets).max(1) as f64,
                    calls: (now_calls - before.enters) as f64 / (2.0 * messages),
                    sends: (sends - before.sends) as f64 / messages,
                };
                let _ = sender.send(figures); // Whoever waits for it has waited too long otherwise.
                self.is_up = false;
            }
            Some(_) => {}
        }
    }
}

impl Program for Member {
    type Message = ();

    fn started(&mut self, io: &mut Io<()>) {
        self.port.start(io);
        let members = [node(0), node(1)];
        self.with_port(io, |port, io, mut news| {
            port.enter(io, Epoch(1), &members, &mut news)
        });
    }

    fn message(&mut self, _io: &mut Io<()>, _message: ()) {}

    fn accepted(&mut self, io: &mut Io<()>, _token: Token, result: Result<OwnedFd, Errno>) {
        self.port.accepted(io, result);
    }

    fn received(&mut self, io: &mut Io<()>, token: Token, event: Received<'_>) {
        self.with_port(io, |port, io, mut news| {
            port.received(io, token.0, event, &mut news)
        });
    }

    fn sent(&mut self, io: &mut Io<()>, token: Token, batch: Box<SendBatch>, result: Result<(), Errno>) {
        self.with_port(io, |port, io, mut news| {
            port.sent(io, token.0, batch, result, &mut news)
        });
    }

    fn file_done(&mut self, _io: &mut Io<()>, _token: Token, _result: Result<u32, Errno>) {}

    fn connected(&mut self, io: &mut Io<()>, token: Token, result: Result<OwnedFd, Errno>) {
        self.port.connected(io, token.0, result);
    }

    fn closed(&mut self, _io: &mut Io<()>, token: Token) {
        self.port.closed(token.0);
    }

    fn timer(&mut self, io: &mut Io<()>, _token: Token) {
        self.with_port(io, |port, io, mut news| port.timer(io, &mut news));
    }

    fn turn(&mut self, io: &mut Io<()>) -> Progress {
        self.go_on(io);
        self.with_port(io, |port, io, mut news| port.end_turn(io, &mut news));
        Progress::Idle
    }
}
