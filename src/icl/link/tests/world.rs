//! A network that loses, repeats, reorders, delays and cuts, and nodes that restart and enter epochs at different times.
//!
//! Each message names its sender's life, the epoch, the group and its number in that sequence; the world checks every
//! delivery against what it has submitted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::super::random::Random;
use super::*;

const STEP_NS: u64 = 200_000;
pub(super) const GROUPS: u16 = 3;

/// What may go wrong, in thousandths per packet or per step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) lose: u64,
    pub(super) repeat: u64,
    pub(super) damage: u64,
    /// Longest delay of a packet in steps; unequal delays reorder datagrams.
    pub(super) delay_steps: u64,
    pub(super) cut_path: u64,
    pub(super) restart: u64,
    pub(super) new_epoch: u64,
    /// A node goes without turns for some time.
    pub(super) pause: u64,
}

impl Faults {
    pub(super) const NONE: Self = Self {
        lose: 0,
        repeat: 0,
        damage: 0,
        delay_steps: 2,
        cut_path: 0,
        restart: 0,
        new_epoch: 0,
        pause: 0,
    };
}

/// What is on its way.
enum Flying {
    /// Bytes of a connection, or a datagram.
    Bytes {
        from: usize,
        to: usize,
        path: PathId,
        connection: u64,
        bytes: Vec<u8>,
    },
    /// The news that bytes have left.
    Left {
        node: usize,
        life: u64,
        peer: usize,
        path: PathId,
        connection: u64,
        bytes: u32,
    },
}

/// One sequence of messages: sender, receiver, group.
type Sequence = (usize, usize, u16);

struct Station {
    links: Links,
    life: u64,
    /// The epoch that it is in, an index of `World::epochs` and 1.
    epoch: usize,
    paused_until_ns: u64,
    /// Delivered and not consumed: peer, epoch, payload bytes.
    unconsumed: VecDeque<(Slot, Epoch, u64)>,
    /// Messages submitted, and messages delivered, in this life and epoch.
    submitted: BTreeMap<Sequence, u64>,
    delivered: BTreeMap<Sequence, u64>,
    suspects: Vec<Slot>,
}

/// One way between two nodes, the lower first.
#[derive(Default)]
struct Wire {
    is_cut: bool,
    /// Datagrams to the lower or the higher node vanish.
    is_deaf: [bool; 2],
    /// The number of the connection that is up.
    connection: Option<u64>,
    /// Reassemblers at the lower and the higher node.
    streams: Vec<Stream>,
    /// When the last bytes to the lower and to the higher node arrive: a connection keeps their order.
    last_ns: [u64; 2],
}

pub(super) struct World {
    pub(super) random: Random,
    medium: Medium,
    gathering: Gathering,
    now_ns: u64,
    nodes: Vec<Station>,
    wires: BTreeMap<(usize, usize, usize), Wire>,
    flying: BTreeMap<(u64, u64), Flying>,
    next_flying: u64,
    next_connection: u64,
    next_life: u64,
    /// Members of each decided epoch.
    epochs: Vec<Vec<Node>>,
    /// All deliveries, for a test to see that there were any.
    pub(super) deliveries: u64,
    pub(super) refused_full: u64,
    out: Outbox,
}

impl World {
    pub(super) fn new(seed: u64, nodes: usize, medium: Medium, gathering: Gathering) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            medium,
            gathering,
            now_ns: STEP_NS,
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            flying: BTreeMap::new(),
            next_flying: 0,
            next_connection: 1,
            next_life: 1,
            epochs: Vec::new(),
            deliveries: 0,
            refused_full: 0,
            out: Outbox::default(),
        };
        for number in 0..nodes {
            let node = world.boot(number);
            world.nodes.push(node);
        }
        for (low, high) in (0..nodes).flat_map(|low| (low + 1..nodes).map(move |high| (low, high))) {
            for path in 0..PATHS_MAX {
                let streams = vec![Stream::new(portable), Stream::new(portable)];
                world.wires.insert(
                    (low, high, path),
                    Wire {
                        streams,
                        ..Wire::default()
                    },
                );
            }
        }
        world.decide();
        world
    }

    fn boot(&mut self, number: usize) -> Station {
        let life = self.next_life;
        self.next_life += 1;
        let mut config = config(number);
        config.local.incarnation = Incarnation(life);
        config.medium = self.medium;
        config.gathering = self.gathering;
        config.queue_bytes = 600 << 10;
        config.queue_frames = 64;
        config.window_frames = 2048;
        config.window_bytes = 350 << 10;
        config.unsent_bytes_max = 64 << 10;
        config.timers = Timers {
            ping_ns: 5 * MS,
            path_silent_ns: 15 * MS,
            suspect_ns: 20 * MS,
            resend_ns_min: 3 * MS,
            resend_ns_max: 12 * MS,
            ack_delay_ns: MS / 2,
            pause_ns: 5 * MS,
        };
        Station {
            links: Links::new(config),
            life,
            epoch: 0,
            paused_until_ns: 0,
            unconsumed: VecDeque::new(),
            submitted: BTreeMap::new(),
            delivered: BTreeMap::new(),
            suspects: Vec::new(),
        }
    }

    /// Decides the next epoch: all present lives.
    pub(super) fn decide(&mut self) {
        let member = |(number, node): (usize, &Station)| Node {
            slot: slot(number),
            incarnation: Incarnation(node.life),
        };
        self.epochs
            .push(self.nodes.iter().enumerate().map(member).collect());
    }

    /// Lets this many steps pass.
    pub(super) fn run(&mut self, steps: u64, faults: Faults, submit: u64) {
        for _ in 0..steps {
            self.now_ns += STEP_NS;
            self.arrive(faults);
            self.go_wrong(faults);
            self.connect();
            for number in 0..self.nodes.len() {
                if self.nodes[number].paused_until_ns <= self.now_ns {
                    self.turn(number, faults, submit);
                }
            }
        }
    }

    fn turn(&mut self, number: usize, faults: Faults, submit: u64) {
        let newest = self.epochs.len();
        let life = self.nodes[number].life;
        let is_member = self.epochs[newest - 1]
            .iter()
            .any(|member| member.incarnation.0 == life);
        // Each node enters at its own time, and may miss an epoch.
        if is_member && self.nodes[number].epoch < newest && self.random.chance(200) {
            self.enter(number, newest, faults);
        }
        if self.nodes[number].epoch > 0 {
            while self.random.chance(submit) {
                self.submit(number, faults);
            }
        }
        self.consume(number, faults);
        if self.random.chance(500) {
            self.event(number, Event::Tick, faults);
        }
        self.event(number, Event::EndOfTurn, faults);
        self.check_bounds(number);
    }

    fn enter(&mut self, number: usize, epoch: usize, faults: Faults) {
        let node = &mut self.nodes[number];
        node.epoch = epoch;
        node.submitted.clear();
        node.delivered.clear();
        node.suspects.clear();
        let members = self.epochs[epoch - 1].clone();
        let event = Event::NewEpoch {
            epoch: Epoch(u32::try_from(epoch).expect("few epochs")),
            members: &members,
        };
        self.event(number, event, faults);
    }

    fn submit(&mut self, number: usize, faults: Faults) {
        let other = self.random.index(self.nodes.len() - 1);
        let peer = if other >= number { other + 1 } else { other };
        let group = u16::try_from(self.random.below(GROUPS.into())).expect("below a u16");
        let node = &self.nodes[number];
        let sequence = (number, peer, group);
        let next = node.submitted.get(&sequence).copied().unwrap_or(0);
        let mut words = Vec::new();
        for word in [node.life, node.epoch as u64, group.into(), next] {
            words.extend_from_slice(&word.to_le_bytes());
        }
        let filler = if self.random.chance(30) {
            self.random.index(40 << 10)
        } else {
            self.random.index(60)
        };
        let filler = vec![group.to_le_bytes()[0]; filler];
        let mut out = std::mem::take(&mut self.out);
        let address = Address::Group(group);
        let shared: Option<Arc<[u8]>> = (filler.len() > 1000).then(|| filler[1000..].into());
        let filler = &filler[..filler.len().min(1000)];
        let payload: [&[u8]; 2] = [&words, filler];
        let payload = Payload::copied(&payload).with(shared.as_ref());
        let links = &mut self.nodes[number].links;
        let result = links.submit(self.now_ns, slot(peer), address, group, payload, &mut out);
        match result {
            Ok(()) => {
                self.nodes[number].submitted.insert(sequence, next + 1);
            }
            Err(SubmitError::Full) => self.refused_full += 1,
            Err(SubmitError::NotMember) => panic!("all slots are members of all epochs"),
        }
        self.carry_out(number, &[], out, faults);
    }

    fn consume(&mut self, number: usize, faults: Faults) {
        while let Some((peer, epoch, payload_bytes)) = self.nodes[number].unconsumed.front().copied() {
            if !self.random.chance(700) {
                return;
            }
            self.nodes[number].unconsumed.pop_front();
            let event = Event::Consumed {
                peer,
                epoch,
                frames: 1,
                payload_bytes,
            };
            self.event(number, event, faults);
        }
    }

    fn check_bounds(&self, number: usize) {
        let node = &self.nodes[number];
        for peer in (0..self.nodes.len()).filter(|&peer| peer != number) {
            let queued = node.links.queued(slot(peer));
            assert!(
                queued.bytes <= 600 << 10 && queued.frames <= 64,
                "the queue is bounded"
            );
            let of_peer = |(from, epoch, _): &&(Slot, Epoch, u64)| {
                *from == slot(peer) && Some(*epoch) == node.links.epoch()
            };
            let held: u64 = node
                .unconsumed
                .iter()
                .filter(of_peer)
                .map(|(_, _, bytes)| bytes + 8)
                .sum();
            assert!(held <= 350 << 10, "the window is bounded");
        }
        // What waits to leave on two paths to each peer, and one packet more.
        assert!(self.out.capacity() <= 8 << 20, "the outbox is bounded");
    }

    fn event(&mut self, number: usize, event: Event<'_>, faults: Faults) {
        let mut out = std::mem::take(&mut self.out);
        self.nodes[number].links.handle(self.now_ns, event, &mut out);
        self.carry_out(number, &[], out, faults);
    }

    fn carry_out(&mut self, number: usize, packet: &[u8], mut out: Outbox, faults: Faults) {
        for action in std::mem::take(&mut out.actions) {
            match action {
                Action::Send {
                    peer,
                    path,
                    start,
                    end,
                } => {
                    let bytes = &out.packet(start, end);
                    self.send(number, peer.index(), path, bytes, faults);
                }
                Action::Deliver {
                    peer,
                    address,
                    kind,
                    start,
                    end,
                } => {
                    self.check_delivery(number, peer, address, kind, &packet[start as usize..end as usize]);
                }
                Action::Suspect { peer, .. } => {
                    assert!(
                        !self.nodes[number].suspects.contains(&peer),
                        "a suspicion comes once"
                    );
                    self.nodes[number].suspects.push(peer);
                }
                Action::Heard { peer } => self.nodes[number].suspects.retain(|&suspect| suspect != peer),
                Action::ClosePath { peer, path, .. } => self.hang_up(number, peer.index(), path),
                Action::NewerEpoch { epoch, .. } => {
                    assert!(epoch.0 as usize <= self.epochs.len(), "nobody invents an epoch");
                    assert!(self.nodes[number].epoch < self.epochs.len(), "it was behind");
                }
                Action::Room { .. } => {}
            }
        }
        out.clear();
        self.out = out;
    }

    /// H10: of this epoch, of the present life of the peer, the next of its sequence, and whole.
    fn check_delivery(&mut self, number: usize, peer: Slot, address: Address, kind: u16, payload: &[u8]) {
        let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
        let (life, epoch, group, count) = (word(0), word(8), word(16), word(24));
        let node = &mut self.nodes[number];
        assert_eq!(epoch, node.epoch as u64, "nothing of another epoch is delivered");
        let member = self.epochs[node.epoch - 1][peer.index()];
        assert_eq!(life, member.incarnation.0, "nothing of another life is delivered");
        assert_eq!((address, u64::from(kind)), (Address::Group(kind), group));
        let next = node.delivered.entry((peer.index(), number, kind)).or_default();
        assert_eq!(count, *next, "each message comes once and in order");
        *next += 1;
        let filler = kind.to_le_bytes()[0];
        assert!(
            payload[32..].iter().all(|&byte| byte == filler),
            "a message is whole"
        );
        node.unconsumed.push_back((
            peer,
            Epoch(u32::try_from(epoch).expect("few epochs")),
            payload.len() as u64,
        ));
        self.deliveries += 1;
    }

    fn wire(&mut self, node: usize, peer: usize, path: PathId) -> &mut Wire {
        let key = (node.min(peer), node.max(peer), path.index());
        self.wires.get_mut(&key).expect("all pairs have wires")
    }

    fn fly(&mut self, at_ns: u64, flying: Flying) {
        self.flying.insert((at_ns, self.next_flying), flying);
        self.next_flying += 1;
    }

    fn send(&mut self, node: usize, peer: usize, path: PathId, bytes: &[u8], faults: Faults) {
        let connection = self.wire(node, peer, path).connection;
        let connection = connection.expect("packets leave only on paths that are up");
        let left = Flying::Left {
            node,
            life: self.nodes[node].life,
            peer,
            path,
            connection,
            bytes: u32::try_from(bytes.len()).expect("a packet"),
        };
        let left_ns = self.now_ns + STEP_NS * self.random.below(3);
        self.fly(left_ns, left);
        match self.medium {
            Medium::Datagram => self.send_datagram(node, peer, path, connection, bytes, faults),
            Medium::Stream => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let longest = if self.random.chance(300) { 40 } else { 30_000 };
                    let length = 1 + self.random.index(longest);
                    let (piece, behind) = rest.split_at(rest.len().min(length));
                    rest = behind;
                    let earliest = self.now_ns + STEP_NS * self.random.below(faults.delay_steps + 1);
                    let last_ns = &mut self.wire(node, peer, path).last_ns[usize::from(node < peer)];
                    *last_ns = earliest.max(*last_ns);
                    let at_ns = *last_ns;
                    let bytes = piece.to_vec();
                    self.fly(
                        at_ns,
                        Flying::Bytes {
                            from: node,
                            to: peer,
                            path,
                            connection,
                            bytes,
                        },
                    );
                }
            }
        }
    }

    fn send_datagram(
        &mut self,
        from: usize,
        to: usize,
        path: PathId,
        connection: u64,
        packet: &[u8],
        faults: Faults,
    ) {
        if self.wire(from, to, path).is_deaf[usize::from(from < to)] {
            return;
        }
        let copies = if self.random.chance(faults.repeat) { 3 } else { 1 };
        for _ in 0..copies {
            if self.random.chance(faults.lose) {
                continue;
            }
            let mut bytes = packet.to_vec();
            if self.random.chance(faults.damage) {
                let at = self.random.index(bytes.len());
                if self.random.chance(500) {
                    bytes.truncate(at);
                } else {
                    bytes[at] ^= 1 << self.random.below(8);
                }
            }
            // Some come so late that epochs and lives have passed.
            let steps = if self.random.chance(faults.repeat) {
                500
            } else {
                faults.delay_steps
            };
            let at_ns = self.now_ns + STEP_NS * self.random.below(steps + 1);
            self.fly(
                at_ns,
                Flying::Bytes {
                    from,
                    to,
                    path,
                    connection,
                    bytes,
                },
            );
        }
    }

    fn arrive(&mut self, faults: Faults) {
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now_ns {
                return;
            }
            match entry.remove() {
                Flying::Left {
                    node,
                    life,
                    peer,
                    path,
                    connection,
                    bytes,
                } => {
                    let is_up = self.wire(node, peer, path).connection == Some(connection);
                    if is_up && self.nodes[node].life == life {
                        let peer = slot(peer);
                        self.event(node, Event::Sent { peer, path, bytes }, faults);
                    }
                }
                Flying::Bytes {
                    from,
                    to,
                    path,
                    connection,
                    bytes,
                } => match self.medium {
                    Medium::Datagram => self.received(to, from, path, &bytes, faults),
                    Medium::Stream => self.received_piece(to, from, path, connection, &bytes, faults),
                },
            }
        }
    }

    fn received(&mut self, number: usize, peer: usize, path: PathId, packet: &[u8], faults: Faults) {
        let mut out = std::mem::take(&mut self.out);
        let peer = slot(peer);
        let event = Event::Received { peer, path, packet };
        self.nodes[number].links.handle(self.now_ns, event, &mut out);
        self.carry_out(number, packet, out, faults);
    }

    fn received_piece(
        &mut self,
        number: usize,
        peer: usize,
        path: PathId,
        connection: u64,
        piece: &[u8],
        faults: Faults,
    ) {
        let mut input = piece;
        let side = usize::from(number > peer);
        loop {
            let wire = self.wire(number, peer, path);
            if wire.connection != Some(connection) {
                return; // The connection broke with this piece on the way.
            }
            let packet = wire.streams[side]
                .next(&mut input)
                .expect("a connection changes nothing");
            let Some(packet) = packet.map(<[u8]>::to_vec) else {
                return;
            };
            self.received(number, peer, path, &packet, faults);
        }
    }

    fn go_wrong(&mut self, faults: Faults) {
        let keys: Vec<(usize, usize, usize)> = self.wires.keys().copied().collect();
        for (low, high, path) in keys {
            let path = PathId(if path == 0 { 0 } else { 1 });
            if self.random.chance(faults.cut_path) {
                let side = self.random.index(2);
                let is_deaf = &mut self.wire(low, high, path).is_deaf[side];
                *is_deaf = !*is_deaf;
            }
            if self.random.chance(faults.cut_path) {
                let is_cut = &mut self.wire(low, high, path).is_cut;
                *is_cut = !*is_cut;
                if *is_cut {
                    self.break_wire(low, high, path);
                }
            }
        }
        if self.random.chance(faults.restart) {
            let number = self.random.index(self.nodes.len());
            self.restart(number);
        }
        if self.random.chance(faults.new_epoch) {
            self.decide();
        }
        if self.random.chance(faults.pause) {
            let number = self.random.index(self.nodes.len());
            self.nodes[number].paused_until_ns = self.now_ns + STEP_NS * self.random.below(200);
        }
    }

    fn restart(&mut self, number: usize) {
        for peer in (0..self.nodes.len()).filter(|&peer| peer != number) {
            for path in [P0, P1] {
                self.break_wire(number, peer, path);
            }
        }
        self.nodes[number] = self.boot(number);
        self.decide();
    }

    /// The connection breaks: both ends are told, and in a stream what was on the way is lost, be it half a packet.
    fn break_wire(&mut self, node: usize, peer: usize, path: PathId) {
        if self.wire(node, peer, path).connection.take().is_some() {
            for (node, peer) in [(node, peer), (peer, node)] {
                let peer = slot(peer);
                self.event(node, Event::PathDown { peer, path }, Faults::NONE);
            }
        }
    }

    /// One end has closed; the other is told.
    fn hang_up(&mut self, node: usize, peer: usize, path: PathId) {
        if self.wire(node, peer, path).connection.take().is_some() {
            let event = Event::PathDown {
                peer: slot(node),
                path,
            };
            let mut out = Outbox::default();
            self.nodes[peer].links.handle(self.now_ns, event, &mut out);
            assert!(out.actions.is_empty(), "a lost path asks for nothing at once");
        }
    }

    /// Connects what is neither up nor cut, once in a while.
    fn connect(&mut self) {
        let keys: Vec<(usize, usize, usize)> = self.wires.keys().copied().collect();
        for (low, high, path) in keys {
            let path = PathId(if path == 0 { 0 } else { 1 });
            let wire = self.wire(low, high, path);
            if wire.is_cut || wire.connection.is_some() || !self.random.chance(100) {
                continue;
            }
            let connection = self.next_connection;
            self.next_connection += 1;
            let now_ns = self.now_ns;
            let wire = self.wire(low, high, path);
            wire.connection = Some(connection);
            wire.last_ns = [now_ns; 2];
            wire.streams.iter_mut().for_each(Stream::reset);
            for (node, peer) in [(low, high), (high, low)] {
                if self.wire(low, high, path).connection == Some(connection) {
                    let incarnation = Incarnation(self.nodes[peer].life);
                    let peer = slot(peer);
                    self.event(
                        node,
                        Event::PathUp {
                            peer,
                            path,
                            incarnation,
                        },
                        Faults::NONE,
                    );
                }
            }
        }
    }

    /// Mends all wires, lets everybody run, and enters one last epoch.
    pub(super) fn heal(&mut self) {
        for wire in self.wires.values_mut() {
            wire.is_cut = false;
            wire.is_deaf = [false; 2];
        }
        for node in &mut self.nodes {
            node.paused_until_ns = 0;
        }
        self.decide();
    }

    /// All are in the last epoch, hear each other, and have got all that was submitted in it.
    pub(super) fn check_rest(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.epoch, self.epochs.len(), "all have entered");
            assert!(
                node.suspects.is_empty(),
                "node {number} suspects {:?}",
                node.suspects
            );
            for (&(from, to, group), &count) in &node.submitted {
                let arrived = self.nodes[to].delivered.get(&(from, to, group));
                assert_eq!(arrived, Some(&count), "from {from} to {to} in group {group}");
            }
            for peer in (0..self.nodes.len()).filter(|&peer| peer != number) {
                assert_eq!(node.links.queued(slot(peer)).frames, 0, "all is acknowledged");
            }
        }
    }

    /// The sum of a count over all links.
    pub(super) fn total(&self, count: impl Fn(&Counters) -> u64) -> u64 {
        let peers = |node: &Station| {
            let peers = (0..self.nodes.len()).filter_map(|peer| node.links.counters(slot(peer)));
            peers.map(&count).sum::<u64>()
        };
        self.nodes.iter().map(peers).sum()
    }
}
