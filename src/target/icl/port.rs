//! See the folder's module: the connections of one lane.

use std::os::fd::{AsFd, OwnedFd};

use config::Encryption;
use reactor::{Errno, Io, Nanos, OperationId, Received, SendBatch, TimerId, Token};

use super::tls::Identity;
use super::wire::{Dialled, Life, Wire};
use super::{ANNOUNCEMENTS, News, Peer, PortSetup, TOKEN_BITS, address_of_lane, hmac_sha256};
use crate::icl::link::hello::{Greeted, Handshake, HelloConfig, HelloError, NONCE_BYTES};
use crate::icl::link::{
    Action, Address, Counters, Departures, Event, Gathering, Lane, Links, Outbox, PATHS_MAX, PastLives,
    PathId, Payload, Stream, SubmitError,
};
use crate::icl::membership::message::MESSAGE_BYTES;
use crate::icl::{Epoch, Node, Slot, SlotSet};

/// How long dialling or a handshake may take.
const GREETING_NS: Nanos = 2_000_000_000;
/// First and longest wait before a peer is dialled again.
const REDIAL_NS: std::ops::RangeInclusive<Nanos> = 100_000_000..=1_000_000_000;
/// Announcements come four times a second: a connection for them that is silent for so long is dead.
const SILENT_NS: Nanos = 2_000_000_000;
/// Connections of a port at most: each peer's, and as many that have not shown yet who they are.
const WIRES_MAX: usize = 64;
/// Connections at once whose other end has yet to prove who it is. The oldest goes when there are more, so that strangers that say
/// nothing keep no node out.
const STRANGERS_MAX: usize = 24;

/// The parts of a token: place of the wire above, its generation below.
const GENERATION_BITS: u32 = u32::BITS;
const TIMER: u64 = (1 << TOKEN_BITS) - 1;
const LISTENER: u64 = TIMER - 1;
const _: () = assert!(WIRES_MAX < 1 << (TOKEN_BITS - GENERATION_BITS));

/// When to dial a peer's lane on a path.
#[derive(Clone, Copy, Debug)]
struct Dial {
    to: Dialled,
    at: Nanos,
    wait: Nanos,
}

/// Connections that came to nothing because the other end is not who it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// How many.
    pub count: u64,
    /// Why the last one was refused, from here or from there.
    pub last: Option<HelloError>,
}

/// One core's end of the inter-controller link.
pub struct Port {
    links: Links,
    lane: Lane,
    gathers: bool,
    hello: HelloConfig,
    peers: Vec<Peer>,
    token: fn(u64) -> Token,
    /// What it brings to TLS, if the array encrypts.
    identity: Option<Identity>,
    wires: Vec<Option<Box<Wire>>>,
    generation: u32,
    dirty: Vec<usize>,
    dials: Vec<Dial>,
    listener: Option<OwnedFd>,
    accepting: Option<OperationId>,
    timer: Option<(Nanos, TimerId)>,
    /// The end of the last turn has brought nothing to send, and nothing has happened to the links since: so it is at the end of this one.
    is_quiet: bool,
    announcement: Option<[u8; MESSAGE_BYTES]>,
    /// To whom nothing is sent and of whom nothing is heard, because an operator wants to see what happens.
    muted: SlotSet,
    deafened: SlotSet,
    refusals: Refusals,
    outbox: Outbox,
    words: Vec<u8>,
    /// What TLS has opened of the bytes that have just come in.
    opened: Vec<u8>,
}

impl Port {
    /// A port that neither listens nor dials yet. Panics if two peers have a slot, or one has none of 1 or 2 addresses, or this node's slot.
    pub fn new(setup: PortSetup, listener: Option<OwnedFd>) -> Self {
        let local = setup.link.local;
        let lane = setup.link.lane;
        let mut dials = Vec::new();
        for peer in &setup.peers {
            assert_ne!(peer.slot, local.slot, "a node is no peer of itself");
            assert!((1..=PATHS_MAX).contains(&peer.addresses.len()), "one path or two");
            // The higher slot dials: one connection for each path, and no crossing.
            if peer.slot > local.slot {
                continue;
            }
            for path in 0..peer.addresses.len() {
                let path = PathId(u8::try_from(path).expect("two paths"));
                let peer = peer.slot;
                dials.push(Dial {
                    to: Dialled { peer, lane, path },
                    at: 0,
                    wait: *REDIAL_NS.start(),
                });
            }
        }
        Self {
            hello: HelloConfig {
                array: setup.link.array,
                local,
                epoch: Epoch(0),
                terms: setup.terms,
                key: setup.key,
                hmac: hmac_sha256,
                over: PastLives::default(),
            },
            gathers: setup.link.gathering == Gathering::On,
            links: Links::new(setup.link),
            lane,
            peers: setup.peers,
            token: setup.token,
            identity: (setup.encryption == Encryption::Tls).then(|| Identity::new(&setup.key)),
            wires: Vec::new(),
            generation: 0,
            dirty: Vec::new(),
            dials,
            listener,
            accepting: None,
            timer: None,
            is_quiet: false,
            announcement: None,
            muted: SlotSet::EMPTY,
            deafened: SlotSet::EMPTY,
            refusals: Refusals::default(),
            outbox: Outbox::default(),
            words: Vec::new(),
            opened: Vec::new(),
        }
    }

    /// Begins to listen and to dial.
    pub fn start<M: Send + 'static>(&mut self, io: &mut Io<M>) {
        self.listen(io);
        self.wake_at(io, io.now());
    }

    fn listen<M: Send + 'static>(&mut self, io: &mut Io<M>) {
        if let Some(listener) = &self.listener {
            self.accepting = io.accept(listener.as_fd(), (self.token)(LISTENER));
        }
    }

    /// This node is in an epoch with these members from now on.
    pub fn enter<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        epoch: Epoch,
        members: &[Node],
        news: &mut impl FnMut(News<'_>),
    ) {
        self.hello.epoch = epoch;
        self.handle(io, Event::NewEpoch { epoch, members }, &[], news);
        // Who was refused as no member is dialled at once.
        for dial in &mut self.dials {
            dial.at = 0;
            dial.wait = *REDIAL_NS.start();
        }
        self.wake_at(io, io.now());
    }

    /// A life of a node is over: it is refused from now on.
    pub fn is_over(&mut self, node: Node) {
        self.hello.over.add(node);
    }

    /// Tells all peers, members or not, what this node has to say about membership. Only the port of announcements can.
    pub fn announce(&mut self, bytes: &[u8; MESSAGE_BYTES]) {
        assert_eq!(
            self.lane, ANNOUNCEMENTS,
            "announcements have connections of their own"
        );
        self.announcement = Some(*bytes);
        for place in 0..self.wires.len() {
            self.tell_announcement(place);
        }
    }

    fn tell_announcement(&mut self, place: usize) {
        let Some(wire) = self.wires[place].as_deref_mut() else {
            return;
        };
        let Some(bytes) = self.announcement.as_ref() else {
            return;
        };
        let peer = wire.greeted.map(|greeted| greeted.peer.slot);
        let is_muted = peer.is_some_and(|peer| self.muted.contains(peer));
        if matches!(wire.life, Life::Announcements(_)) && !wire.is_sending() && !is_muted {
            wire.push_announcement(bytes);
            self.mark(place);
        }
    }

    /// Queues a message for an addressee on a peer; see [`Links::submit`].
    pub fn submit<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        peer: Slot,
        address: Address,
        kind: u16,
        payload: Payload<'_>,
    ) -> Result<(), SubmitError> {
        self.is_quiet = false;
        let mut outbox = std::mem::take(&mut self.outbox);
        let result = self
            .links
            .submit(io.now(), peer, address, kind, payload, &mut outbox);
        // With gathering off the packet leaves here, and nothing but packets comes of it.
        self.carry_out(io, &mut outbox, &[], &mut |_| {});
        self.outbox = outbox;
        result
    }

    /// Whatever the turn produced leaves.
    pub fn end_turn<M: Send + 'static>(&mut self, io: &mut Io<M>, news: &mut impl FnMut(News<'_>)) {
        if self.is_quiet && self.dirty.is_empty() {
            return; // Most turns of a node whose rows are its own.
        }
        self.is_quiet = true;
        self.handle(io, Event::EndOfTurn, &[], news);
        while let Some(place) = self.dirty.pop() {
            let token = self.wire_token(place);
            let Some(wire) = self.wires[place].as_deref_mut() else {
                continue;
            };
            wire.is_dirty = false;
            let (Some(socket), Some(token)) = (wire.socket, token) else {
                continue;
            };
            while let Some(batch) = wire.take_batch() {
                io.send(socket, token, batch);
            }
        }
        if let Some(at) = self.links.wake_at_ns() {
            self.wake_at(io, at);
        }
        self.is_quiet &= self.timer.is_some();
    }

    /// Cuts this node off from a peer in one direction or both, or lets it be heard again: for tests of what follows.
    pub fn cut(&mut self, peer: Slot, muted: bool, deafened: bool) {
        let set = |set: SlotSet, on| if on { set.with(peer) } else { set.without(peer) };
        self.muted = set(self.muted, muted);
        self.deafened = set(self.deafened, deafened);
    }

    /// How far messages to a peer are; see [`Links::departures`].
    pub fn departures(&self, peer: Slot) -> Option<Departures> {
        self.links.departures(peer)
    }

    /// What was counted of the link to a peer; `None` if it was never a member.
    pub fn counters(&self, peer: Slot) -> Option<&Counters> {
        self.links.counters(peer)
    }

    /// The paths to a peer that are up, and their round trips once one was measured.
    pub fn paths(&self, peer: Slot) -> impl Iterator<Item = (PathId, Option<u64>)> {
        let paths = (0..PATHS_MAX).map(|path| PathId(u8::try_from(path).expect("two paths")));
        paths
            .filter(move |&path| self.links.is_up(peer, path))
            .map(move |path| (path, self.links.round_trip_ns(peer, path)))
    }

    /// Connections that were refused.
    pub const fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// Connections for announcements that there are to a peer.
    pub fn announcement_paths(&self, peer: Slot) -> usize {
        let carries = |wire: &Wire| {
            let greeted = wire.greeted.is_some_and(|greeted| greeted.peer.slot == peer);
            greeted && matches!(wire.life, Life::Announcements(_))
        };
        self.wires.iter().flatten().filter(|wire| carries(wire)).count()
    }

    /// The peer at the other end of a connection for announcements, if there is one.
    pub fn announces_to(&self, peer: Slot) -> Option<Node> {
        let mut wires = self.wires.iter().flatten();
        wires.find_map(|wire| {
            let node = wire.greeted?.peer;
            (matches!(wire.life, Life::Announcements(_)) && node.slot == peer).then_some(node)
        })
    }
}

// What the reactor has to say.
impl Port {
    /// A peer has come in.
    pub fn accepted<M: Send + 'static>(&mut self, io: &mut Io<M>, result: Result<OwnedFd, Errno>) {
        let socket = match result {
            Ok(socket) => socket,
            Err(Errno::CANCELLED) => return, // Its core stops.
            Err(error) => {
                tracing::warn!(lane = self.lane.0, %error, "listening for other nodes failed and begins again");
                self.accepting = None;
                return;
            }
        };
        self.end_oldest_stranger(io);
        let Some(place) = self.free_place() else {
            tracing::warn!(
                connections = WIRES_MAX,
                "connection of a node refused: this port serves its maximum"
            );
            return;
        };
        let handshake = Box::new(Handshake::accept(self.hello, nonce()));
        let mut wire = Wire::new(self.next_generation(), Life::Greeting(handshake), None, io.now());
        wire.tls = self.identity.as_ref().map(|it| Box::new(it.accept()));
        self.wires[place] = Some(Box::new(wire));
        self.adopt(io, place, socket);
    }

    /// A peer was dialled.
    pub fn connected<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        payload: u64,
        result: Result<OwnedFd, Errno>,
    ) {
        let Some(place) = self.place_of(payload) else {
            return;
        };
        let wire = self.wires[place].as_deref_mut().expect("it was found");
        let dialled = wire.dialled.expect("only what was dialled connects");
        match (result, &wire.life) {
            (Ok(socket), Life::Dialling(_)) => {
                let mut words = std::mem::take(&mut self.words);
                let handshake = Handshake::initiate(
                    self.hello,
                    dialled.peer,
                    dialled.lane,
                    dialled.path,
                    nonce(),
                    &mut words,
                );
                wire.life = Life::Greeting(Box::new(handshake));
                wire.tls = self.identity.as_ref().map(|it| Box::new(it.initiate()));
                wire.push(&words, true);
                words.clear();
                self.words = words;
                self.adopt(io, place, socket);
                self.mark(place);
            }
            (Ok(_), _) => self.wires[place] = None, // It was called off.
            (Err(error), _) => {
                tracing::debug!(peer = %dialled.peer, lane = dialled.lane.0, %error, "a node cannot be reached");
                self.wires[place] = None;
            }
        }
    }

    fn adopt<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize, socket: OwnedFd) {
        let token = self.wire_token(place).expect("it was placed");
        match io.add_socket(socket) {
            Ok(socket) => {
                let wire = self.wires[place].as_deref_mut().expect("it was placed");
                wire.socket = Some(socket);
                io.receive(socket, token);
            }
            Err(_) => {
                tracing::warn!("connection to a node dropped: this core holds as many descriptors as it may");
                self.wires[place] = None;
            }
        }
    }

    /// Bytes have come in on a connection, or its end.
    pub fn received<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        payload: u64,
        received: Received<'_>,
        news: &mut impl FnMut(News<'_>),
    ) {
        let Some(place) = self.place_of(payload) else {
            return;
        };
        match received {
            Received::Data(bytes) => self.take_data(io, place, bytes, news),
            Received::End | Received::Error(_) => {
                let wire = self.wires[place].as_deref();
                let peer = wire.and_then(|wire| Some(wire.greeted?.peer.slot.number()));
                tracing::debug!(?peer, "a connection between nodes was closed by its other end");
                self.lose(io, place, news);
            }
        }
    }

    /// A batch has left, or could not.
    pub fn sent<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        payload: u64,
        batch: Box<SendBatch>,
        result: Result<(), Errno>,
        news: &mut impl FnMut(News<'_>),
    ) {
        let Some(place) = self.place_of(payload) else {
            return;
        };
        let wire = self.wires[place].as_deref_mut().expect("it was found");
        let bytes = wire.sent(batch);
        if let Some(greeted) = wire.packets_of() {
            let event = Event::Sent {
                peer: greeted.peer.slot,
                path: greeted.path,
                bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            };
            self.handle(io, event, &[], news);
        } else if matches!(wire.life, Life::Refusing) && wire.has_said_all() {
            self.leave(io, place);
        }
        if result.is_err() {
            self.lose(io, place, news);
        }
    }

    /// A socket is off the ring.
    pub fn closed(&mut self, payload: u64) {
        if let Some(place) = self.place_of(payload) {
            self.wires[place] = None;
        }
    }

    /// The port's timer has rung.
    pub fn timer<M: Send + 'static>(&mut self, io: &mut Io<M>, news: &mut impl FnMut(News<'_>)) {
        self.timer = None;
        self.handle(io, Event::Tick, &[], news);
        if self.accepting.is_none() {
            self.listen(io);
        }
        self.end_slow(io, news);
        self.redial(io);
        self.wake_at(io, io.now() + *REDIAL_NS.start());
    }

    /// Has the timer ring at this time, or earlier.
    fn wake_at<M: Send + 'static>(&mut self, io: &mut Io<M>, at: Nanos) {
        match self.timer {
            Some((due, _)) if due <= at => return,
            Some((_, timer)) => {
                io.cancel_timer(timer);
            }
            None => {}
        }
        let timer = io.set_timer(at, (self.token)(TIMER));
        self.timer = timer.map(|timer| (at, timer));
    }

    /// Whether these bits of a token are those of the timer.
    pub const fn is_timer(payload: u64) -> bool {
        payload == TIMER
    }
}

// Connections.
impl Port {
    fn place_of(&self, payload: u64) -> Option<usize> {
        let place = usize::try_from(payload >> GENERATION_BITS).ok()?;
        let wire = self.wires.get(place)?.as_deref()?;
        (u64::from(wire.generation) == payload & u64::from(u32::MAX)).then_some(place)
    }

    fn wire_token(&self, place: usize) -> Option<Token> {
        let wire = self.wires[place].as_deref()?;
        Some((self.token)(
            (place as u64) << GENERATION_BITS | u64::from(wire.generation),
        ))
    }

    /// Makes room among those that have come in and not proved anything yet, if they are as many as there may be.
    fn end_oldest_stranger<M: Send + 'static>(&mut self, io: &mut Io<M>) {
        let is_stranger =
            |wire: &Wire| wire.dialled.is_none() && matches!(wire.life, Life::Greeting(_) | Life::Refusing);
        let strangers = || {
            let wires = self.wires.iter().enumerate();
            wires.filter_map(|(place, wire)| Some((place, wire.as_deref().filter(|wire| is_stranger(wire))?)))
        };
        if strangers().count() < STRANGERS_MAX {
            return;
        }
        let oldest = strangers().max_by_key(|(_, wire)| self.generation.wrapping_sub(wire.generation));
        if let Some((place, _)) = oldest {
            self.lose(io, place, &mut |_| {}); // Nobody has heard of it.
        }
    }

    fn free_place(&mut self) -> Option<usize> {
        let free = self.wires.iter().position(Option::is_none);
        free.or_else(|| {
            (self.wires.len() < WIRES_MAX).then(|| {
                self.wires.push(None);
                self.wires.len() - 1
            })
        })
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    fn mark(&mut self, place: usize) {
        if let Some(wire) = self.wires[place].as_deref_mut().filter(|wire| !wire.is_dirty) {
            wire.is_dirty = true;
            self.dirty.push(place);
        }
    }

    /// The wire that carries packets to a peer on a path.
    fn wire_of(&self, peer: Slot, path: PathId) -> Option<usize> {
        let is_it = |wire: &Option<Box<Wire>>| {
            let packets = wire.as_deref().and_then(Wire::packets_of);
            packets.is_some_and(|greeted| greeted.peer.slot == peer && greeted.path == path)
        };
        self.wires.iter().position(is_it)
    }

    /// Takes what came from the socket: as it is, or what TLS makes of it.
    fn take_data<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        place: usize,
        bytes: &[u8],
        news: &mut impl FnMut(News<'_>),
    ) {
        let wire = self.wires[place].as_deref_mut().expect("it was found");
        let Some(tls) = wire.tls.as_deref_mut() else {
            return self.take_bytes(io, place, bytes, news);
        };
        if matches!(wire.life, Life::Refusing | Life::Leaving) {
            return;
        }
        let mut opened = std::mem::take(&mut self.opened);
        let result = tls.open(bytes, &mut opened);
        if tls.wants_to_send() || tls.is_established() {
            self.mark(place);
        }
        if !opened.is_empty() {
            self.take_bytes(io, place, &opened, news);
            opened.clear();
        }
        self.opened = opened;
        if let (Err(error), Some(wire)) = (result, self.wires[place].as_deref_mut()) {
            match wire.life {
                Life::Greeting(_) => self.refuse_tls(io, place, error),
                Life::Packets(_) | Life::Announcements(_) => {
                    let peer = wire.greeted.map(|greeted| greeted.peer.slot.number());
                    tracing::warn!(?peer, %error, "a connection between nodes ends");
                    self.lose(io, place, news);
                }
                Life::Dialling(_) | Life::Refusing | Life::Leaving => {}
            }
        }
    }

    /// Ends a connection on which TLS has not come about.
    fn refuse_tls<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize, error: HelloError) {
        let wire = self.wires[place].as_deref_mut().expect("it is there");
        wire.drop_composed();
        if error == HelloError::Unencrypted {
            wire.tls = None;
            // Who was dialled has refused this node already.
            if wire.dialled.is_none() {
                error.tell(&mut self.words);
                wire.push(&self.words, true);
                self.words.clear();
            }
        }
        self.mark(place);
        self.refuse(io, place, error);
    }

    /// Ends a connection whose other end is not who it should be, once it was told.
    fn refuse<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize, error: HelloError) {
        let wire = self.wires[place].as_deref_mut().expect("it is there");
        tracing::warn!(peer = ?wire.dialled.map(|dialled| dialled.peer.number()), %error, "a connection between nodes is refused");
        wire.life = Life::Refusing;
        self.refusals.count += 1;
        self.refusals.last = Some(error);
        if wire.has_said_all() {
            self.leave(io, place);
        }
    }

    fn take_bytes<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        place: usize,
        mut input: &[u8],
        news: &mut impl FnMut(News<'_>),
    ) {
        let now = io.now();
        let wire = self.wires[place].as_deref_mut().expect("it was found");
        if let Life::Greeting(handshake) = &mut wire.life {
            let mut words = std::mem::take(&mut self.words);
            let result = handshake.receive(&mut input, &mut words);
            if !words.is_empty() {
                wire.push(&words, true);
                words.clear();
            }
            self.words = words;
            self.mark(place);
            match result {
                Ok(None) => return,
                Ok(Some(greeted)) => self.greet(io, place, greeted, news),
                Err(error) => return self.refuse(io, place, error),
            }
        }
        let Some(wire) = self.wires[place].as_deref_mut() else {
            return;
        };
        wire.heard_at = now;
        let Some(greeted) = wire.greeted else { return };
        let is_deaf = self.deafened.contains(greeted.peer.slot);
        match &mut wire.life {
            Life::Packets(_) => self.take_packets(io, place, greeted, is_deaf, input, news),
            Life::Announcements(_) => self.take_announcements(place, greeted, is_deaf, input, news),
            Life::Dialling(_) | Life::Greeting(_) | Life::Refusing | Life::Leaving => {}
        }
    }

    /// It is proved who is at the other end.
    fn greet<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        place: usize,
        greeted: Greeted,
        news: &mut impl FnMut(News<'_>),
    ) {
        let slot = greeted.peer.slot;
        let announces = greeted.lane == ANNOUNCEMENTS;
        if greeted.lane != self.lane || !self.peers.iter().any(|peer| peer.slot == slot) {
            tracing::warn!(peer = %slot, lane = greeted.lane.0, "a node connects to a lane that this node does not have: nodes of an array need as many cores as each other");
            return self.leave(io, place);
        }
        // A new connection stands for the old one of the same way: its other end has given that up.
        let is_old = |wire: &Option<Box<Wire>>| {
            wire.as_deref().is_some_and(|wire| {
                wire.greeted.is_some_and(|old| {
                    old.peer.slot == slot && old.lane == greeted.lane && old.path == greeted.path
                }) && !matches!(wire.life, Life::Leaving)
            })
        };
        let old = self.wires.iter().position(is_old);
        if let (Some(old), false) = (old, announces) {
            self.lose(io, old, news);
        }
        let dialled = self.wires[place].as_deref_mut().and_then(|wire| {
            wire.greeted = Some(greeted);
            wire.life = if announces {
                Life::Announcements(Vec::with_capacity(MESSAGE_BYTES))
            } else {
                Life::Packets(Some(Stream::new(crate::target::crc32c)))
            };
            wire.dialled
        });
        if let (Some(old), true) = (old, announces) {
            self.lose(io, old, news); // Later, so that the peer does not count as lost meanwhile.
        }
        for dial in self.dials.iter_mut().filter(|dial| Some(dial.to) == dialled) {
            dial.wait = *REDIAL_NS.start();
        }
        if announces {
            self.tell_announcement(place);
        } else {
            let event = Event::PathUp {
                peer: slot,
                path: greeted.path,
                incarnation: greeted.peer.incarnation,
            };
            self.handle(io, event, &[], news);
        }
    }

    fn take_packets<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        place: usize,
        greeted: Greeted,
        is_deaf: bool,
        mut input: &[u8],
        news: &mut impl FnMut(News<'_>),
    ) {
        let (peer, path) = (greeted.peer.slot, greeted.path);
        // Ends: each turn takes bytes from `input`, or returns.
        loop {
            let Some(wire) = self.wires[place].as_deref_mut() else {
                return;
            };
            let Life::Packets(stream) = &mut wire.life else {
                return;
            };
            // The stream lends the packet, and its wire may be closed by what the packet says.
            let mut stream = stream.take().expect("it was put back");
            let found = stream.next(&mut input);
            let is_over = match found {
                Ok(Some(packet)) => {
                    if !is_deaf {
                        self.handle(io, Event::Received { peer, path, packet }, packet, news);
                    }
                    false
                }
                Ok(None) => true,
                Err(error) => {
                    tracing::warn!(%peer, %error, "a connection between nodes ends: what came is no packet");
                    self.lose(io, place, news);
                    true
                }
            };
            if let Some(Life::Packets(home)) = self.wires[place].as_deref_mut().map(|wire| &mut wire.life) {
                *home = Some(stream);
            }
            if is_over {
                return;
            }
        }
    }

    fn take_announcements(
        &mut self,
        place: usize,
        greeted: Greeted,
        is_deaf: bool,
        mut input: &[u8],
        news: &mut impl FnMut(News<'_>),
    ) {
        while !input.is_empty() {
            let Some(wire) = self.wires[place].as_deref_mut() else {
                return;
            };
            let Life::Announcements(partial) = &mut wire.life else {
                return;
            };
            let wanted = MESSAGE_BYTES - partial.len();
            let (taken, rest) = input.split_at(wanted.min(input.len()));
            partial.extend_from_slice(taken);
            input = rest;
            if let Ok(bytes) = <&[u8; MESSAGE_BYTES]>::try_from(&partial[..]) {
                if !is_deaf {
                    news(News::Announcement {
                        peer: greeted.peer,
                        bytes,
                    });
                }
                partial.clear();
            }
        }
    }

    /// A connection is gone or of no use.
    fn lose<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize, news: &mut impl FnMut(News<'_>)) {
        let Some(wire) = self.wires[place].as_deref_mut() else {
            return;
        };
        let greeted = wire.greeted;
        match (std::mem::replace(&mut wire.life, Life::Leaving), greeted) {
            (Life::Leaving, _) => return,
            (Life::Packets(_), Some(greeted)) => {
                let event = Event::PathDown {
                    peer: greeted.peer.slot,
                    path: greeted.path,
                };
                self.handle(io, event, &[], news);
            }
            (Life::Announcements(_), Some(greeted)) => {
                let peer = greeted.peer.slot;
                if self.announces_to(peer).is_none() {
                    news(News::Lost { peer });
                }
            }
            (
                Life::Dialling(_)
                | Life::Greeting(_)
                | Life::Refusing
                | Life::Packets(_)
                | Life::Announcements(_),
                _,
            ) => {}
        }
        self.take_off(io, place);
    }

    fn leave<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize) {
        if let Some(wire) = self.wires[place].as_deref_mut() {
            wire.life = Life::Leaving;
            self.take_off(io, place);
        }
    }

    fn take_off<M: Send + 'static>(&mut self, io: &mut Io<M>, place: usize) {
        let token = self.wire_token(place);
        let Some(wire) = self.wires[place].as_deref_mut() else {
            return;
        };
        match (wire.socket.take(), token) {
            (Some(socket), Some(token)) => io.remove_socket(socket, token),
            _ => self.wires[place] = None,
        }
    }

    /// Ends what takes too long to begin, and connections for announcements that bring none.
    fn end_slow<M: Send + 'static>(&mut self, io: &mut Io<M>, news: &mut impl FnMut(News<'_>)) {
        let now = io.now();
        for place in 0..self.wires.len() {
            let Some(wire) = self.wires[place].as_deref_mut() else {
                continue;
            };
            let silent_ns = now.saturating_sub(wire.heard_at);
            match &mut wire.life {
                Life::Dialling(operation) if silent_ns > GREETING_NS => {
                    if let Some(operation) = operation.take() {
                        io.cancel(operation); // `connected` frees the place.
                    }
                }
                Life::Greeting(_) | Life::Refusing if silent_ns > GREETING_NS => self.lose(io, place, news),
                Life::Announcements(_) if silent_ns > SILENT_NS => self.lose(io, place, news),
                Life::Dialling(_)
                | Life::Greeting(_)
                | Life::Refusing
                | Life::Packets(_)
                | Life::Announcements(_)
                | Life::Leaving => {}
            }
        }
    }

    /// Dials whom there is no connection to.
    fn redial<M: Send + 'static>(&mut self, io: &mut Io<M>) {
        let now = io.now();
        for at in 0..self.dials.len() {
            let Dial { to, at: due, wait } = self.dials[at];
            let is_there = |wire: &Wire| {
                // Announcements go by all paths: the silence of one must not look like that of the node.
                let announces = to.lane == ANNOUNCEMENTS
                    && matches!(wire.life, Life::Announcements(_))
                    && wire
                        .greeted
                        .is_some_and(|greeted| greeted.peer.slot == to.peer && greeted.path == to.path);
                wire.dialled == Some(to) || announces
            };
            let is_wanted = to.lane == ANNOUNCEMENTS || self.links.is_member(to.peer);
            if now < due || !is_wanted || self.wires.iter().flatten().any(|wire| is_there(wire)) {
                continue;
            }
            self.dials[at].at = now + wait;
            self.dials[at].wait = (2 * wait).min(*REDIAL_NS.end());
            let peer = self.peers.iter().find(|peer| peer.slot == to.peer);
            let first = peer.and_then(|peer| peer.addresses.get(to.path.index()));
            let Some(address) = first.and_then(|first| address_of_lane(*first, to.lane)) else {
                continue;
            };
            let Some(place) = self.free_place() else { return };
            let generation = self.next_generation();
            let wire = Wire::new(generation, Life::Dialling(None), Some(to), now);
            self.wires[place] = Some(Box::new(wire));
            let token = self.wire_token(place).expect("it was placed");
            let operation = io.connect(address, token);
            if let Some(wire) = self.wires[place].as_deref_mut() {
                wire.life = Life::Dialling(operation);
            }
        }
    }
}

// What the links ask for.
impl Port {
    /// Hands the links an event and carries out what they want; `packet` is what the event brought.
    fn handle<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        event: Event<'_>,
        packet: &[u8],
        news: &mut impl FnMut(News<'_>),
    ) {
        self.is_quiet &= matches!(event, Event::EndOfTurn);
        let mut outbox = std::mem::take(&mut self.outbox);
        self.links.handle(io.now(), event, &mut outbox);
        self.carry_out(io, &mut outbox, packet, news);
        self.outbox = outbox;
    }

    fn carry_out<M: Send + 'static>(
        &mut self,
        io: &mut Io<M>,
        outbox: &mut Outbox,
        packet: &[u8],
        news: &mut impl FnMut(News<'_>),
    ) {
        let mut consumed: Option<(Slot, u32, u64)> = None;
        for at in 0..outbox.actions.len() {
            match outbox.actions[at] {
                Action::Send {
                    peer,
                    path,
                    start,
                    end,
                } => self.send(io.now(), peer, path, (start, end), outbox),
                Action::Deliver {
                    peer,
                    address,
                    kind,
                    start,
                    end,
                } => {
                    let payload = &packet[start as usize..end as usize];
                    news(News::Message {
                        peer,
                        address,
                        kind,
                        payload,
                    });
                    let (_, frames, bytes) = consumed.get_or_insert((peer, 0, 0));
                    *frames += 1;
                    *bytes += payload.len() as u64;
                }
                Action::Suspect { peer, silence_ns } => news(News::Suspect { peer, silence_ns }),
                Action::Heard { peer } => news(News::Heard { peer }),
                Action::NewerEpoch { peer, epoch } => news(News::NewerEpoch { peer, epoch }),
                Action::Room { peer } => news(News::Room { peer }),
                Action::ClosePath { peer, path, reason } => {
                    tracing::debug!(%peer, path = path.0, ?reason, "a connection between nodes is closed");
                    // The path is down for the links already.
                    if let Some(place) = self.wire_of(peer, path) {
                        self.leave(io, place);
                    }
                }
            }
        }
        outbox.clear();
        let Some((peer, frames, payload_bytes)) = consumed else {
            return;
        };
        let epoch = self.links.epoch().expect("messages come in an epoch");
        let event = Event::Consumed {
            peer,
            epoch,
            frames,
            payload_bytes,
        };
        self.links.handle(io.now(), event, outbox);
        assert!(
            outbox.actions.is_empty(),
            "what was consumed is told with the end of the turn"
        );
    }

    fn send(&mut self, now: Nanos, peer: Slot, path: PathId, packet: (u32, u32), outbox: &Outbox) {
        let (start, end) = packet;
        self.is_quiet = false;
        let Some(place) = self.wire_of(peer, path) else {
            return; // Its end was told after this was composed.
        };
        if self.muted.contains(peer) {
            // Lost on its way, as far as the links know.
            let bytes = end - start;
            let event = Event::Sent { peer, path, bytes };
            return self.links.handle(now, event, &mut Outbox::default());
        }
        let wire = self.wires[place].as_deref_mut().expect("it was found");
        wire.push_pieces(outbox.pieces(start, end), self.gathers);
        self.mark(place);
    }
}

/// Random bytes for a handshake.
fn nonce() -> [u8; NONCE_BYTES] {
    let mut bytes = [0; NONCE_BYTES];
    let (first, second) = bytes.split_at_mut(NONCE_BYTES / 2);
    first.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    second.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    bytes
}
