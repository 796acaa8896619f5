//! How long does it take to get a row that another node holds? Two or three nodes with real links over loopback, each on a reactor; of three the
//! third one is the arbiter of all rows that are asked for, and shares its core with the holder.
//!
//! Two nodes take the same rows from each other in turn, one row at a time; nothing is dirty, and nobody is inside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use braid::amf::RowIndex;
use braid::amf::arbiter::{HOLD_NS_MIN, Resource, Rule};
use braid::amf::lock::Mode;
use braid::icl::link::{Address, Lane, LinkConfig, Payload};
use braid::icl::{ArrayId, Incarnation, Node, Slot};
use braid::target::icl::{News, Peer, Port, PortSetup};
use config::Encryption;
use hdrhistogram::Histogram;
use reactor::{Errno, Io, Nanos, Program, Progress, Received, SendBatch, Token};

use crate::Effort;
use crate::member::{EPOCH, Member, slot, slots};
use crate::raw::{self, listener, options};

/// Rows that are taken in a pass. To take them all takes longer than a lock is held at least.
const ROWS: usize = 1024;
/// Bytes of a message of the baseline: about those of one about a lock.
const MESSAGE_BYTES: usize = 64;
/// What nodes call the group.
const GROUP: Address = Address::Group(1);
/// Where in a token the place of its node on the core is.
const PLACE_SHIFT: u32 = 60;
/// The goal of DESIGN section 10, in round trips.
const GOAL: f64 = 2.5;

/// What all nodes see.
#[derive(Default)]
struct Stage {
    reported: AtomicU32,
    is_recovered: AtomicU32,
    serving: AtomicU32,
    /// Passes that are over: even ones are node 0's, odd ones node 1's.
    passes: AtomicU32,
}

/// Who takes rows in turn.
struct Taker {
    rows: Arc<Vec<RowIndex>>,
    /// Which of them is next, and since when it is wanted.
    at: usize,
    since: Option<Nanos>,
    is_blocked: bool,
    latencies: Histogram<u64>,
    passes_max: u32,
    sender: Option<Sender<Histogram<u64>>>,
}

/// One node.
struct Seat {
    number: u8,
    count: u8,
    port: Port,
    member: Member,
    mail: Vec<(Slot, u16, Vec<u8>)>,
    stage: Arc<Stage>,
    taker: Option<Taker>,
    told: [bool; 3],
    is_open: bool,
}

/// The nodes of a core.
struct Core(Vec<Seat>);

fn node(number: u8) -> Node {
    Node {
        slot: slot(number),
        incarnation: Incarnation(100 + u64::from(number)),
    }
}

/// Makes tokens for the node in this place of its core.
fn token_of(place: usize) -> fn(u64) -> Token {
    match place {
        0 => Token,
        _ => |bits| Token(1 << PLACE_SHIFT | bits),
    }
}

impl Seat {
    fn with_port(
        &mut self,
        io: &mut Io<()>,
        act: impl FnOnce(&mut Port, &mut Io<()>, &mut dyn FnMut(News<'_>)),
    ) {
        let mail = &mut self.mail;
        act(&mut self.port, io, &mut |news| match news {
            News::Message {
                peer, kind, payload, ..
            } => mail.push((peer, kind, payload.to_vec())),
            News::Announcement { .. }
            | News::Lost { .. }
            | News::Suspect { .. }
            | News::Heard { .. }
            | News::NewerEpoch { .. }
            | News::Room { .. } => {}
        });
    }

    /// Lets the protocol do something, and sends what it says.
    fn act<R>(
        &mut self,
        io: &mut Io<()>,
        act: impl FnOnce(&mut Member, Nanos, crate::member::Send<'_>) -> R,
    ) -> R {
        let (port, now) = (&mut self.port, io.now());
        act(&mut self.member, now, &mut |to, kind, pieces| {
            let taken = port.submit(io, to, GROUP, kind, Payload::copied(pieces));
            taken.expect("few messages are under way");
        })
    }

    fn start(&mut self, io: &mut Io<()>) {
        self.port.start(io);
        let members: Vec<Node> = (0..self.count).map(node).collect();
        self.with_port(io, |port, io, mut news| {
            port.enter(io, EPOCH, &members, &mut news)
        });
        let count = self.count;
        self.act(io, |member, now, send| member.enter(now, count, send));
    }

    fn turn(&mut self, io: &mut Io<()>) {
        io.refresh_now();
        for (from, kind, bytes) in std::mem::take(&mut self.mail) {
            self.act(io, |member, now, send| {
                member.receive(now, from, kind, &bytes, send)
            });
        }
        self.act(io, |member, now, send| member.tick(now, send));
        self.go_on(io);
        self.take(io);
        self.with_port(io, |port, io, mut news| port.end_turn(io, &mut news));
    }

    /// What membership does.
    fn go_on(&mut self, io: &mut Io<()>) {
        if self.told[2] {
            return;
        }
        let progress = self.member.progress;
        let stage = Arc::clone(&self.stage);
        let steps = [
            (progress.is_reported, &stage.reported),
            (progress.is_recovered, &stage.is_recovered),
            (progress.serves, &stage.serving),
        ];
        for (told, (is_so, counter)) in self.told.iter_mut().zip(steps) {
            if is_so && !*told {
                *told = true;
                counter.fetch_add(1, Ordering::AcqRel);
            }
        }
        let all_reported = stage.reported.load(Ordering::Acquire) == u32::from(self.count);
        if all_reported && stage.is_recovered.load(Ordering::Acquire) == 1 && !self.is_open {
            self.is_open = true;
            self.act(io, |member, now, send| member.open(now, send));
        }
    }

    /// If the turn is this node's: goes on with the rows.
    fn take(&mut self, io: &mut Io<()>) {
        let Some(mut taker) = self.taker.take() else {
            return;
        };
        let all_serve = self.stage.serving.load(Ordering::Acquire) == u32::from(self.count);
        let pass = self.stage.passes.load(Ordering::Acquire);
        if all_serve && pass % 2 == u32::from(self.number) && pass < taker.passes_max {
            self.take_rows(io, &mut taker, pass);
        }
        self.taker = Some(taker);
    }

    fn take_rows(&mut self, io: &mut Io<()>, taker: &mut Taker, pass: u32) {
        taker.is_blocked &= !self.member.take_woken();
        while !taker.is_blocked {
            let row = taker.rows[taker.at];
            let since = *taker.since.get_or_insert(io.now());
            if !self.act(io, |member, now, send| member.want(now, row, Mode::Write, send)) {
                taker.is_blocked = true;
                break;
            }
            // In the first two passes nobody has the rows yet.
            if pass >= 2 {
                taker.latencies.saturating_record(io.refresh_now() - since);
            }
            (taker.since, taker.at) = (None, taker.at + 1);
            if taker.at == taker.rows.len() {
                taker.at = 0;
                if pass + 2 >= taker.passes_max
                    && let Some(sender) = taker.sender.take()
                {
                    let _ = sender.send(taker.latencies.clone()); // Whoever waits for it has waited too long otherwise.
                }
                self.stage.passes.fetch_add(1, Ordering::AcqRel);
                break;
            }
        }
    }
}

impl Core {
    fn of(&mut self, token: Token) -> (&mut Seat, u64) {
        let place = usize::try_from(token.0 >> PLACE_SHIFT).expect("few");
        (&mut self.0[place], token.0 & ((1 << PLACE_SHIFT) - 1))
    }
}

impl Program for Core {
    type Message = ();

    fn started(&mut self, io: &mut Io<()>) {
        self.0.iter_mut().for_each(|seat| seat.start(io));
    }

    fn message(&mut self, _io: &mut Io<()>, _message: ()) {}

    fn accepted(&mut self, io: &mut Io<()>, token: Token, result: Result<OwnedFd, Errno>) {
        self.of(token).0.port.accepted(io, result);
    }

    fn received(&mut self, io: &mut Io<()>, token: Token, event: Received<'_>) {
        let (seat, payload) = self.of(token);
        seat.with_port(io, |port, io, mut news| {
            port.received(io, payload, event, &mut news)
        });
    }

    fn sent(&mut self, io: &mut Io<()>, token: Token, batch: Box<SendBatch>, result: Result<(), Errno>) {
        let (seat, payload) = self.of(token);
        seat.with_port(io, |port, io, mut news| {
            port.sent(io, payload, batch, result, &mut news)
        });
    }

    fn file_done(&mut self, _io: &mut Io<()>, _token: Token, _result: Result<u32, Errno>) {}

    fn connected(&mut self, io: &mut Io<()>, token: Token, result: Result<OwnedFd, Errno>) {
        let (seat, payload) = self.of(token);
        seat.port.connected(io, payload, result);
    }

    fn closed(&mut self, _io: &mut Io<()>, token: Token) {
        let (seat, payload) = self.of(token);
        seat.port.closed(payload);
    }

    fn timer(&mut self, io: &mut Io<()>, token: Token) {
        let (seat, _) = self.of(token);
        seat.with_port(io, |port, io, mut news| port.timer(io, &mut news));
    }

    fn turn(&mut self, io: &mut Io<()>) -> Progress {
        self.0.iter_mut().for_each(|seat| seat.turn(io));
        Progress::Idle
    }
}

/// Rows with lock words of their own that the last of so many nodes arbitrates, if there are more than two.
fn rows_for(count: u8) -> Vec<RowIndex> {
    let member = Member::new(slot(0), 0);
    let members = slots(count);
    let mut words = BTreeSet::new();
    let rows = (0..).map(RowIndex).filter(|row| {
        let home = Rule::preferred(members)
            .placement()
            .home(Resource(row.0), members);
        (count == 2 || home == slot(count - 1)) && words.insert(member.word(*row))
    });
    rows.take(ROWS).collect()
}

/// Runs so many nodes, 2 or 3, until those that take rows have done so.
fn run_nodes(count: u8, passes: u32) -> Histogram<u64> {
    let mut listeners: BTreeMap<u8, OwnedFd> = BTreeMap::new();
    let mut addresses = Vec::new();
    for number in 0..count {
        let (listener, bound) = listener();
        // Lane 0 listens a port above the node's address.
        addresses.push(SocketAddr::new(bound.ip(), bound.port() - 1));
        listeners.insert(number, listener);
    }
    let (rows, stage) = (Arc::new(rows_for(count)), Arc::new(Stage::default()));
    let (sender, figures) = mpsc::channel();
    let mut seat = |number: u8, place: usize| {
        let peers = (0..count).filter(|peer| *peer != number).map(|peer| Peer {
            slot: slot(peer),
            addresses: vec![addresses[usize::from(peer)]],
        });
        let setup = PortSetup {
            link: LinkConfig::new(ArrayId([7; 16]), node(number), Lane(0), braid::target::crc32c),
            key: [3; 32],
            encryption: Encryption::None,
            terms: 0,
            peers: peers.collect(),
            token: token_of(place),
        };
        let taker = (number < 2).then(|| Taker {
            rows: Arc::clone(&rows),
            at: 0,
            since: None,
            is_blocked: false,
            latencies: Histogram::new_with_max(10_000_000_000, 3).expect("three digits are possible"),
            passes_max: passes,
            sender: Some(sender.clone()),
        });
        Seat {
            number,
            count,
            port: Port::new(setup, listeners.remove(&number)),
            member: Member::new(slot(number), HOLD_NS_MIN),
            mail: Vec::new(),
            stage: Arc::clone(&stage),
            taker,
            told: [false; 3],
            is_open: false,
        }
    };
    let second = vec![seat(1, 0)];
    let first = std::iter::once(seat(0, 0)).chain((2..count).map(|number| seat(number, 1)));
    let cores = [first.collect(), second];
    let running = (0..).zip(cores).map(|(cpu, seats): (usize, Vec<Seat>)| {
        let seats = Mutex::new(Some(seats));
        let program = move |_| {
            let seats = seats.lock().expect("nobody panics with it").take();
            Core(seats.expect("one core"))
        };
        reactor::run(options(cpu), program).expect("the ring can be set up")
    });
    let running: Vec<_> = running.collect();
    let figures = (0..2).map(|_| figures.recv_timeout(Duration::from_secs(60)));
    let mut both = Histogram::new_with_max(10_000_000_000, 3).expect("three digits are possible");
    for latencies in figures {
        both.add(latencies.expect("rows are got"))
            .expect("both are alike");
    }
    for reactor in running {
        reactor.stop();
        reactor.join().expect("it stops");
    }
    both
}

/// Prints both cases beside the baseline.
pub fn run(effort: Effort) {
    println!(
        "a row that another node holds, over loopback, one core a node, busy polling; goal: {GOAL} round trips"
    );
    let (rounds, passes, time) = if effort.is_quick {
        (1, 6, Duration::from_millis(200))
    } else {
        (7, 40, Duration::from_secs(1))
    };
    let mut ratios = [const { Vec::new() }; 2];
    for _ in 0..rounds {
        let baseline = raw::run(MESSAGE_BYTES, 1, time);
        println!(
            "round trip of {MESSAGE_BYTES} B: p50 {:.1} us, p99 {:.1} us, {:.1} k/s",
            baseline.p50_ns / 1e3,
            baseline.p99_ns / 1e3,
            baseline.rate / 1e3
        );
        for (count, ratios) in (2..=3).zip(&mut ratios) {
            let latencies = run_nodes(count, passes);
            let [p50, p99] = [0.5, 0.99].map(|quantile| latencies.value_at_quantile(quantile) as f64);
            println!(
                "{count} nodes, {} rows: p50 {:.1} us, p99 {:.1} us; {:.2} round trips",
                latencies.len(),
                p50 / 1e3,
                p99 / 1e3,
                p50 / baseline.p50_ns
            );
            ratios.push(p50 / baseline.p50_ns);
        }
    }
    let [two, three] = ratios.map(crate::median);
    println!(
        "median of {rounds} rounds: {two:.2} round trips from one of two nodes, {three:.2} by an arbiter that is a third"
    );
}
