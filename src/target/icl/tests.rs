//! Ports on reactors of their own, connected over loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use reactor::{CoreIndex, Errno, Io, Program, Progress, Received, Running, SendBatch, Token};

use super::*;
use crate::icl::link::hello::{HelloError, RefusalCode};
use crate::icl::link::{Payload, SubmitError};
use crate::icl::{ArrayId, Incarnation};

mod encrypted;

/// Longer than anything that happens here takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// What holds of links holds of them encrypted, too.
const BOTH: [Encryption; 2] = [Encryption::None, Encryption::Tls];

/// What a test has a node do.
enum Order {
    Enter(u32, Vec<Node>),
    Say(u8, u16, Vec<u8>),
    Announce(u8),
    Cut(u8, bool, bool),
    IsOver(Node),
    Refusals(Sender<Refusals>),
}

/// What a node has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Message(u8, u16, Vec<u8>),
    Announcement(Node, u8),
    Lost(u8),
    Suspect(u8),
    Heard(u8),
    NewerEpoch(u8, u32),
}

struct Station {
    port: Port,
    heard: Sender<Said>,
}

impl Station {
    fn with_port(
        &mut self,
        io: &mut Io<Order>,
        act: impl FnOnce(&mut Port, &mut Io<Order>, &mut dyn FnMut(News<'_>)),
    ) {
        let heard = &self.heard;
        act(&mut self.port, io, &mut |news| {
            let said = match news {
                News::Message {
                    peer,
                    address,
                    kind,
                    payload,
                } => {
                    assert_eq!(address, Address::Node);
                    Said::Message(peer.number(), kind, payload.to_vec())
                }
                News::Announcement { peer, bytes } => {
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "it is whole");
                    Said::Announcement(peer, bytes[0])
                }
                News::Lost { peer } => Said::Lost(peer.number()),
                News::Suspect { peer, .. } => Said::Suspect(peer.number()),
                News::Heard { peer } => Said::Heard(peer.number()),
                News::NewerEpoch { peer, epoch } => Said::NewerEpoch(peer.number(), epoch.0),
                News::Room { .. } => return,
            };
            let _ = heard.send(said); // The test may be over.
        });
    }
}

impl Program for Station {
    type Message = Order;

    fn started(&mut self, io: &mut Io<Order>) {
        self.port.start(io);
    }

    fn message(&mut self, io: &mut Io<Order>, message: Order) {
        match message {
            Order::Enter(epoch, members) => {
                self.with_port(io, |port, io, mut news| {
                    port.enter(io, Epoch(epoch), &members, &mut news)
                });
            }
            Order::Say(peer, kind, payload) => {
                let (head, rest) = payload.split_at(payload.len() / 3);
                let (head, rest) = ([head], rest.into());
                let payload = Payload::copied(&head).with(Some(&rest));
                let result = self.port.submit(io, slot(peer), Address::Node, kind, payload);
                assert!(matches!(result, Ok(()) | Err(SubmitError::NotMember)));
            }
            Order::Announce(byte) => self.port.announce(&[byte; MESSAGE_BYTES]),
            Order::Cut(peer, muted, deafened) => self.port.cut(slot(peer), muted, deafened),
            Order::IsOver(node) => self.port.is_over(node),
            Order::Refusals(answer) => answer.send(self.port.refusals()).expect("somebody asks"),
        }
    }

    fn accepted(&mut self, io: &mut Io<Order>, _token: Token, result: Result<OwnedFd, Errno>) {
        self.port.accepted(io, result);
    }

    fn received(&mut self, io: &mut Io<Order>, token: Token, event: Received<'_>) {
        self.with_port(io, |port, io, mut news| {
            port.received(io, token.0, event, &mut news)
        });
    }

    fn sent(&mut self, io: &mut Io<Order>, token: Token, batch: Box<SendBatch>, result: Result<(), Errno>) {
        self.with_port(io, |port, io, mut news| {
            port.sent(io, token.0, batch, result, &mut news)
        });
    }

    fn file_done(&mut self, _io: &mut Io<Order>, _token: Token, _result: Result<u32, Errno>) {}

    fn connected(&mut self, io: &mut Io<Order>, token: Token, result: Result<OwnedFd, Errno>) {
        self.port.connected(io, token.0, result);
    }

    fn closed(&mut self, _io: &mut Io<Order>, token: Token) {
        self.port.closed(token.0);
    }

    fn timer(&mut self, io: &mut Io<Order>, token: Token) {
        assert!(Port::is_timer(token.0));
        self.with_port(io, |port, io, mut news| port.timer(io, &mut news));
    }

    fn turn(&mut self, io: &mut Io<Order>) -> Progress {
        self.with_port(io, |port, io, mut news| port.end_turn(io, &mut news));
        Progress::Idle
    }
}

fn slot(number: u8) -> Slot {
    Slot::new(number).expect("there is such a slot")
}

fn life(number: u8, incarnation: u64) -> Node {
    Node {
        slot: slot(number),
        incarnation: Incarnation(incarnation),
    }
}

/// A node as a test has it.
struct Started {
    running: Running<Order>,
    heard: Receiver<Said>,
}

impl Started {
    fn order(&self, order: Order) {
        let taken = self.running.handle().post(CoreIndex(0), order);
        assert!(taken.is_ok(), "the mailbox has room");
    }

    /// The next thing that it hears.
    fn hears(&self) -> Said {
        self.heard.recv_timeout(PATIENCE).expect("it hears something")
    }

    fn awaits(&self, awaited: &Said) {
        let mut heard = Vec::new();
        let end = Instant::now() + PATIENCE;
        while heard.last() != Some(awaited) {
            match self
                .heard
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(said) => heard.push(said),
                Err(error) => panic!("{awaited:?} awaited, {error}: {heard:?}"),
            }
        }
    }

    fn refusals(&self) -> Refusals {
        let (sender, answer) = mpsc::channel();
        self.order(Order::Refusals(sender));
        answer.recv_timeout(PATIENCE).expect("it answers")
    }

    fn stop(self) {
        self.running.stop();
        self.running.join().expect("it stops");
    }
}

fn listen() -> (OwnedFd, SocketAddr) {
    let listener =
        reactor::listener("127.0.0.1:0".parse().expect("an address"), 8).expect("loopback is there");
    let bound = TcpListener::from(listener.try_clone().expect("descriptors are left"));
    (listener, bound.local_addr().expect("it is bound"))
}

fn start(
    local: Node,
    listener: Option<OwnedFd>,
    peers: &[(u8, SocketAddr)],
    key: u8,
    encryption: Encryption,
) -> Started {
    start_lane(local, listener, peers, key, encryption, ANNOUNCEMENTS)
}

fn start_lane(
    local: Node,
    listener: Option<OwnedFd>,
    peers: &[(u8, SocketAddr)],
    key: u8,
    encryption: Encryption,
    lane: Lane,
) -> Started {
    let (heard, all_heard) = mpsc::channel();
    let peers: Vec<Peer> = peers
        .iter()
        .map(|&(number, address)| Peer {
            slot: slot(number),
            addresses: vec![address],
        })
        .collect();
    let kept = Mutex::new(Some((listener, peers, heard)));
    let options = reactor::Options {
        arena_bytes: 2 << 20,
        ..reactor::Options::default()
    };
    let running = reactor::run(options, move |_| {
        let kept = kept.lock().expect("nobody panics with it").take();
        let (listener, peers, heard) = kept.expect("there is one core");
        let setup = PortSetup {
            link: LinkConfig::new(ArrayId([7; 16]), local, lane, crate::target::crc32c),
            key: [key; 32],
            encryption,
            terms: 0,
            peers,
            token: Token,
        };
        Station {
            port: Port::new(setup, listener),
            heard,
        }
    });
    Started {
        running: running.expect("the ring can be set up"),
        heard: all_heard,
    }
}

/// Two nodes that are members of epoch 1 and have heard each other.
fn pair(encryption: Encryption) -> (Started, Started, SocketAddr) {
    pair_over(encryption, |bound| bound)
}

/// The same, and the second one dials the first one's lane at `way` of where that listens.
fn pair_over(
    encryption: Encryption,
    way: impl FnOnce(SocketAddr) -> SocketAddr,
) -> (Started, Started, SocketAddr) {
    let (listener, bound) = listen();
    // Lane 0 listens a port above the node's address.
    let below = |bound: SocketAddr| SocketAddr::new(bound.ip(), bound.port() - 1);
    let (address, dialled) = (below(bound), below(way(bound)));
    let first = start_lane(
        life(0, 10),
        Some(listener),
        &[(1, address)],
        1,
        encryption,
        Lane(0),
    );
    let second = start_lane(life(1, 11), None, &[(0, dialled)], 1, encryption, Lane(0));
    let members = vec![life(0, 10), life(1, 11)];
    for node in [&first, &second] {
        node.order(Order::Enter(1, members.clone()));
    }
    first.awaits(&Said::Heard(1));
    second.awaits(&Said::Heard(0));
    (first, second, address)
}

#[test]
fn messages_arrive_in_order_both_ways() {
    for encryption in BOTH {
        let (first, second, _) = pair(encryption);
        for number in 0..200u16 {
            let payload = vec![number.to_le_bytes()[0]; usize::from(number) * 50];
            first.order(Order::Say(1, number, payload.clone()));
            second.order(Order::Say(0, number, payload));
        }
        for number in 0..200u16 {
            let payload = vec![number.to_le_bytes()[0]; usize::from(number) * 50];
            assert_eq!(second.hears(), Said::Message(0, number, payload.clone()));
            assert_eq!(first.hears(), Said::Message(1, number, payload));
        }
        first.stop();
        second.stop();
    }
}

#[test]
fn announcements_reach_nodes_that_are_no_members_and_their_loss_is_told() {
    for encryption in BOTH {
        let (listener, address) = listen();
        let first = start(life(0, 10), Some(listener), &[(1, address)], 1, encryption);
        first.order(Order::Announce(5));
        let second = start(life(1, 11), None, &[(0, address)], 1, encryption);
        second.order(Order::Announce(6));
        second.awaits(&Said::Announcement(life(0, 10), 5));
        first.awaits(&Said::Announcement(life(1, 11), 6));
        first.order(Order::Announce(7));
        second.awaits(&Said::Announcement(life(0, 10), 7));
        second.stop();
        first.awaits(&Said::Lost(1));
        first.stop();
    }
}

#[test]
fn a_node_with_another_key_is_refused_and_nothing_of_it_is_heard() {
    for encryption in BOTH {
        let (listener, address) = listen();
        let first = start(life(0, 10), Some(listener), &[(1, address)], 1, encryption);
        let second = start(life(1, 11), None, &[(0, address)], 2, encryption);
        for node in [&first, &second] {
            node.order(Order::Announce(9));
        }
        let last = |node: &Started| loop {
            let refusals = node.refusals();
            if refusals.count > 2 {
                break refusals.last;
            }
            std::thread::yield_now();
        };
        assert_eq!(last(&second), Some(HelloError::Key));
        assert_eq!(last(&first), Some(HelloError::ByPeer(RefusalCode::Key)));
        assert!(first.heard.try_recv().is_err() && second.heard.try_recv().is_err());
        first.stop();
        second.stop();
    }
}

#[test]
fn a_life_that_is_over_is_told_so() {
    for encryption in BOTH {
        let (listener, address) = listen();
        let first = start(life(0, 10), Some(listener), &[(1, address)], 1, encryption);
        first.order(Order::IsOver(life(1, 11)));
        let old = start(life(1, 11), None, &[(0, address)], 1, encryption);
        loop {
            let refusals = old.refusals();
            if refusals.count > 0 {
                assert_eq!(
                    refusals.last,
                    Some(HelloError::ByPeer(RefusalCode::OldIncarnation))
                );
                break;
            }
            std::thread::yield_now();
        }
        old.stop();
        let new = start(life(1, 12), None, &[(0, address)], 1, encryption);
        new.order(Order::Announce(3));
        first.awaits(&Said::Announcement(life(1, 12), 3));
        new.stop();
        first.stop();
    }
}

#[test]
fn garbage_ends_its_connection_and_no_other() {
    for encryption in BOTH {
        let (first, second, address) = pair(encryption);
        for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"BHEL\x01\x01", &[0xff; 4096]] {
            let mut stranger = TcpStream::connect((address.ip(), address.port() + 1)).expect("it listens");
            stranger.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
            let _ = stranger.write_all(words); // It may be cut off before it has said everything.
            let _ = stranger.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stranger.read_to_end(&mut answer);
            assert!(
                answer.len() <= 8,
                "a stranger is told nothing but a refusal: {answer:?}"
            );
        }
        second.order(Order::Say(0, 1, vec![1]));
        first.awaits(&Said::Message(1, 1, vec![1]));
        first.stop();
        second.stop();
    }
}

#[test]
fn strangers_that_say_nothing_push_each_other_out_and_keep_no_node_out() {
    for encryption in BOTH {
        let (first, second, address) = pair(encryption);
        let connect = |_| {
            let stranger = TcpStream::connect((address.ip(), address.port() + 1)).expect("it listens");
            stranger.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
            stranger
        };
        let strangers: Vec<TcpStream> = (0..100).map(connect).collect();
        let mut byte = [0];
        let ended = (&strangers[0]).read(&mut byte);
        assert!(
            matches!(ended, Ok(0))
                || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        );
        strangers[99].set_nonblocking(true).expect("a TCP socket");
        let waits = (&strangers[99]).read(&mut byte);
        assert_eq!(
            waits.unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "the last one is let in"
        );
        second.order(Order::Say(0, 1, vec![1]));
        first.awaits(&Said::Message(1, 1, vec![1]));
        first.stop();
        second.stop();
    }
}

/// H01: silence makes a suspect; what was said meanwhile arrives when it is over, once and in order.
#[test]
fn a_link_that_is_cut_one_way_makes_suspects_and_heals() {
    for encryption in BOTH {
        let (first, second, _) = pair(encryption);
        second.order(Order::Cut(0, true, false));
        for number in 0..5 {
            second.order(Order::Say(0, number, vec![0; 100]));
        }
        first.awaits(&Said::Suspect(1));
        second.order(Order::Cut(0, false, false));
        for number in 0..5 {
            first.awaits(&Said::Message(1, number, vec![0; 100]));
        }
        first.stop();
        second.stop();
    }
}

/// H10: a node that comes back in another life belongs to another epoch, and nothing of the old one reaches it.
#[test]
fn a_new_life_joins_in_a_new_epoch() {
    for encryption in BOTH {
        let (first, second, address) = pair(encryption);
        second.stop();
        first.order(Order::Say(1, 1, b"for the old life".to_vec()));
        let second = start_lane(life(1, 12), None, &[(0, address)], 1, encryption, Lane(0));
        let members = vec![life(0, 10), life(1, 12)];
        second.order(Order::Enter(2, members.clone()));
        first.order(Order::Enter(2, members));
        first.order(Order::Say(1, 2, b"for the new one".to_vec()));
        let mut said = second.hears();
        while matches!(said, Said::Heard(_) | Said::Suspect(_)) {
            said = second.hears();
        }
        assert_eq!(said, Said::Message(0, 2, b"for the new one".to_vec()));
        first.stop();
        second.stop();
    }
}
