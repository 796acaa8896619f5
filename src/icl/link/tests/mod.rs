//! Several nodes' links with packets handed over one by one, so that a test decides what is lost and when.

mod epochs;
mod flow;
mod gathering;
mod model;
mod silence;
mod world;

use nvme::crc32c::portable;

use super::*;
use crate::icl::ArrayId;

/// Milliseconds in nanoseconds.
const MS: u64 = 1_000_000;

const P0: PathId = PathId(0);
const P1: PathId = PathId(1);

fn slot(number: usize) -> Slot {
    Slot::new(number.to_le_bytes()[0]).expect("there is such a slot")
}

fn member(number: usize) -> Node {
    Node {
        slot: slot(number),
        incarnation: Incarnation(10 + number as u64),
    }
}

fn config(number: usize) -> LinkConfig {
    LinkConfig::new(ArrayId([7; 16]), member(number), Lane(2), portable)
}

/// A packet that has left a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    from: usize,
    to: usize,
    path: PathId,
    bytes: Vec<u8>,
}

/// A message that was handed to an addressee.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    to: usize,
    from: usize,
    address: Address,
    kind: u16,
    payload: Vec<u8>,
}

/// Some nodes, and what their links have asked for besides sending and delivering.
struct Bench {
    now_ns: u64,
    nodes: Vec<Links>,
    members: Vec<Node>,
    delivered: Vec<Message>,
    asked: Vec<(usize, Action)>,
    /// Addressees are done with messages at once.
    consumes: bool,
    /// What is sent has left at once.
    leaves: bool,
    out: Outbox,
}

impl Bench {
    /// Nodes in epoch 1 that have heard each other on path 0; nothing is owed.
    fn new(nodes: usize, change: fn(&mut LinkConfig)) -> Self {
        let mut bench = Self::apart(nodes, change);
        for node in 0..nodes {
            bench.enter(node, 1);
        }
        for (node, peer) in (0..nodes).flat_map(|node| (0..nodes).map(move |peer| (node, peer))) {
            if node != peer {
                bench.up(node, peer, P0);
            }
        }
        bench.settle();
        assert_eq!(
            bench.asked.len(),
            nodes * (nodes - 1),
            "all have heard all others"
        );
        bench.asked.clear();
        bench
    }

    /// Nodes in no epoch.
    fn apart(nodes: usize, change: fn(&mut LinkConfig)) -> Self {
        let links = |number| {
            let mut config = config(number);
            change(&mut config);
            Links::new(config)
        };
        Self {
            now_ns: 1000 * MS,
            nodes: (0..nodes).map(links).collect(),
            members: (0..nodes).map(member).collect(),
            delivered: Vec::new(),
            asked: Vec::new(),
            consumes: true,
            leaves: true,
            out: Outbox::default(),
        }
    }

    fn enter(&mut self, node: usize, epoch: u32) {
        let members = self.members.clone();
        let epoch = Epoch(epoch);
        self.event(
            node,
            Event::NewEpoch {
                epoch,
                members: &members,
            },
        );
    }

    fn up(&mut self, node: usize, peer: usize, path: PathId) {
        let incarnation = self.members[peer].incarnation;
        let peer = slot(peer);
        self.event(
            node,
            Event::PathUp {
                peer,
                path,
                incarnation,
            },
        );
    }

    fn down(&mut self, node: usize, peer: usize, path: PathId) {
        let peer = slot(peer);
        self.event(node, Event::PathDown { peer, path });
    }

    /// Hands one event to a node; what leaves.
    fn event(&mut self, node: usize, event: Event<'_>) -> Vec<Sent> {
        let mut out = std::mem::take(&mut self.out);
        self.nodes[node].handle(self.now_ns, event, &mut out);
        let packet = match event {
            Event::Received { packet, .. } => packet,
            Event::NewEpoch { .. }
            | Event::PathUp { .. }
            | Event::PathDown { .. }
            | Event::Sent { .. }
            | Event::Consumed { .. }
            | Event::Tick
            | Event::EndOfTurn => &[],
        };
        self.carry_out(node, packet, out)
    }

    fn carry_out(&mut self, node: usize, packet: &[u8], mut out: Outbox) -> Vec<Sent> {
        let mut sent = Vec::new();
        for action in std::mem::take(&mut out.actions) {
            match action {
                Action::Send {
                    peer,
                    path,
                    start,
                    end,
                } => {
                    sent.push(Sent {
                        from: node,
                        to: peer.index(),
                        path,
                        bytes: out.packet(start, end),
                    });
                    if self.leaves {
                        let bytes = end - start;
                        self.event(node, Event::Sent { peer, path, bytes });
                    }
                }
                Action::Deliver {
                    peer,
                    address,
                    kind,
                    start,
                    end,
                } => {
                    let payload = packet[start as usize..end as usize].to_vec();
                    self.delivered.push(Message {
                        to: node,
                        from: peer.index(),
                        address,
                        kind,
                        payload,
                    });
                    if self.consumes {
                        self.consume(node, peer.index(), 1, u64::from(end - start));
                    }
                }
                Action::Suspect { .. }
                | Action::Heard { .. }
                | Action::NewerEpoch { .. }
                | Action::Room { .. }
                | Action::ClosePath { .. } => self.asked.push((node, action)),
            }
        }
        out.clear();
        self.out = out;
        sent
    }

    fn consume(&mut self, node: usize, peer: usize, frames: u32, payload_bytes: u64) {
        let epoch = self.nodes[node].epoch().expect("messages come in an epoch");
        let peer = slot(peer);
        self.event(
            node,
            Event::Consumed {
                peer,
                epoch,
                frames,
                payload_bytes,
            },
        );
    }

    fn submit(&mut self, node: usize, peer: usize, group: u16, payload: &[u8]) -> Vec<Sent> {
        self.try_submit(node, peer, group, payload)
            .expect("there is room")
    }

    fn try_submit(
        &mut self,
        node: usize,
        peer: usize,
        group: u16,
        payload: &[u8],
    ) -> Result<Vec<Sent>, SubmitError> {
        let mut out = std::mem::take(&mut self.out);
        let address = Address::Group(group);
        let result = self.nodes[node].submit(
            self.now_ns,
            slot(peer),
            address,
            77,
            Payload::copied(&[payload]),
            &mut out,
        );
        let sent = self.carry_out(node, &[], out);
        result.map(|()| sent)
    }

    fn end_turn(&mut self, node: usize) -> Vec<Sent> {
        self.event(node, Event::EndOfTurn)
    }

    fn tick(&mut self, node: usize) {
        let sent = self.event(node, Event::Tick);
        assert!(sent.is_empty(), "only the end of a turn sends");
    }

    fn give(&mut self, sent: &Sent) {
        let event = Event::Received {
            peer: slot(sent.from),
            path: sent.path,
            packet: &sent.bytes,
        };
        let answer = self.event(sent.to, event);
        assert!(answer.is_empty(), "only the end of a turn sends");
    }

    fn give_all(&mut self, sent: &[Sent]) {
        for sent in sent {
            self.give(sent);
        }
    }

    /// Turns of all nodes, in which nothing is lost, until nothing leaves any more.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.now_ns += self.nodes[0].config.timers.ack_delay_ns;
            let sent: Vec<Sent> = (0..self.nodes.len())
                .flat_map(|node| self.end_turn(node))
                .collect();
            if sent.is_empty() {
                return;
            }
            self.give_all(&sent);
        }
        panic!("the nodes never come to rest");
    }

    /// Lets time pass in steps of a millisecond, with ticks and turns of the given nodes; packets that `passes` says so
    /// arrive.
    fn run(&mut self, milliseconds: u64, nodes: &[usize], passes: impl Fn(&Sent) -> bool) {
        for _ in 0..milliseconds {
            self.now_ns += MS;
            let mut sent = Vec::new();
            for &node in nodes {
                self.tick(node);
                sent.extend(self.end_turn(node));
            }
            sent.retain(|sent| passes(sent));
            self.give_all(&sent);
        }
    }

    fn counters(&self, node: usize, peer: usize) -> Counters {
        *self.nodes[node].counters(slot(peer)).expect("it was a member")
    }

    /// The payloads that a node got for a group from a peer.
    fn payloads(&self, node: usize, peer: usize, group: u16) -> Vec<Vec<u8>> {
        let of = |message: &&Message| {
            (message.to, message.from, message.address) == (node, peer, Address::Group(group))
        };
        let found = self.delivered.iter().filter(of);
        found.map(|message| message.payload.clone()).collect()
    }
}
