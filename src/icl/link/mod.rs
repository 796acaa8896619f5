//! The links of one node to all others: what its AMFs and the node itself say to each other across nodes.
//!
//! Owns one session per other slot of the array and the epoch that all of them are in. Events come in,
//! with `now` inside the call; actions go to an [`Outbox`]. A runtime with sockets and a simulator drive the same code:
//! each turn it hands over what came in, submits what the AMFs produce, and ends with [`Event::EndOfTurn`], with which
//! everything that the turn has produced for one node leaves in one packet. A core has links of its own, in a lane of
//! its own; that of a lane with the same number at the peer is the other end.
//!
//! Invariants: within an epoch each message arrives once and in order, or the epoch ends; nothing of an epoch or a life
//! of a node arrives in another (H10). Silence makes a suspect and nothing more (H01, E1). A message goes to the node
//! that it was submitted for and to no other: who shares a group is the AMFs' knowledge (A8). Knows neither sockets nor
//! keys: before a path is up, [`hello`] has proved who is at its other end.

mod config;
mod counters;
mod departures;
mod event;
mod gather;
pub mod hello;
pub mod hmac;
mod name;
mod outbox;
pub mod packet;
mod past;
mod path;
mod queue;
#[cfg(test)]
pub(crate) mod random;
mod session;
mod stream;

use thiserror::Error;

pub use self::config::{INITIAL_CREDIT, LinkConfig, Medium, Timers};
pub use self::counters::{Counters, DropReason};
pub use self::departures::{Departing, Departures};
pub use self::event::{Action, CloseReason, Event, Misbehaviour};
pub use self::gather::Gathering;
pub use self::name::{Address, Lane, PATHS_MAX, PathId};
pub use self::outbox::{Outbox, Piece};
pub use self::past::PastLives;
pub use self::queue::Payload;
pub use self::stream::Stream;

use self::packet::{Credit, Envelope};
use self::session::Session;
use super::{Epoch, Incarnation, Node, SLOTS, Slot};

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// The queue to the peer is full; [`Action::Room`] will say when to try again.
    #[error("the queue to the peer is full")]
    Full,
    /// The peer is not a member of this epoch.
    #[error("the peer is not a member")]
    NotMember,
}

/// See the module.
#[derive(Debug)]
pub struct Links {
    config: LinkConfig,
    epoch: Option<Epoch>,
    /// By slot; one that was never a member takes no memory.
    sessions: [Option<Session>; SLOTS],
    ticked_ns: Option<u64>,
}

impl Links {
    /// Links in no epoch yet. Panics if the configuration contradicts itself.
    pub fn new(config: LinkConfig) -> Self {
        config.check();
        Self {
            config,
            epoch: None,
            sessions: [const { None }; SLOTS],
            ticked_ns: None,
        }
    }

    /// Advances the links by one event; what has to be done goes to `out`, in order.
    ///
    /// Panics if an event contradicts our own actions or breaks what [`Event`] says.
    pub fn handle(&mut self, now_ns: u64, event: Event<'_>, out: &mut Outbox) {
        match event {
            Event::NewEpoch { epoch, members } => self.enter(now_ns, epoch, members, out),
            Event::PathUp {
                peer,
                path,
                incarnation,
            } => self.path_up(now_ns, peer, path, incarnation, out),
            Event::PathDown { peer, path } => {
                if let Some(session) = self.session_mut(peer) {
                    session.path_down(path);
                }
            }
            Event::Received { peer, path, packet } => {
                if let Some(session) = self.session_mut(peer) {
                    session.receive(now_ns, path, packet, out);
                }
            }
            Event::Sent { peer, path, bytes } => {
                if let Some(session) = self.session_mut(peer) {
                    session.path_sent(path, bytes);
                }
            }
            Event::Consumed {
                peer,
                epoch,
                frames,
                payload_bytes,
            } => {
                if let Some(session) = self.session_mut(peer) {
                    session.consume(now_ns, epoch, frames, payload_bytes);
                }
            }
            Event::Tick => self.tick(now_ns, out),
            Event::EndOfTurn => {
                for session in self.sessions.iter_mut().flatten() {
                    session.flush(now_ns, out);
                }
            }
        }
    }

    /// Queues one message for an addressee on a peer. It leaves with the end of the turn, or at once with gathering off.
    ///
    /// Panics if the payload is longer than [`packet::PAYLOAD_BYTES_MAX`], or the peer is this node.
    pub fn submit(
        &mut self,
        now_ns: u64,
        peer: Slot,
        address: Address,
        kind: u16,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Result<(), SubmitError> {
        assert_ne!(peer, self.config.local.slot, "a node has no link to itself");
        let session = self.session_mut(peer).filter(|session| session.is_member());
        let session = session.ok_or(SubmitError::NotMember)?;
        if !session.submit(address, kind, payload) {
            return Err(SubmitError::Full);
        }
        if session.sends_at_once() {
            session.send_waiting(now_ns, out);
        }
        Ok(())
    }

    fn enter(&mut self, now_ns: u64, epoch: Epoch, members: &[Node], out: &mut Outbox) {
        assert!(self.epoch.is_none_or(|last| last < epoch), "epochs only grow");
        assert!(
            members.contains(&self.config.local),
            "only a member enters an epoch"
        );
        self.epoch = Some(epoch);
        for slot in Slot::all() {
            if slot == self.config.local.slot {
                continue;
            }
            let mut in_slot = members.iter().filter(|member| member.slot == slot);
            let member = in_slot.next();
            assert!(in_slot.next().is_none(), "a slot has one member");
            let session = &mut self.sessions[slot.index()];
            match (member, session) {
                (Some(&receiver), session) => {
                    let envelope = Envelope {
                        array: self.config.array,
                        epoch,
                        lane: self.config.lane,
                        sender: self.config.local,
                        receiver,
                    };
                    let session = session.get_or_insert_with(|| Session::new(self.config, slot));
                    session.begin(now_ns, envelope, out);
                }
                (None, Some(session)) => session.end(now_ns, out),
                (None, None) => {}
            }
        }
    }

    fn path_up(&mut self, now_ns: u64, peer: Slot, path: PathId, incarnation: Incarnation, out: &mut Outbox) {
        assert_ne!(peer, self.config.local.slot, "a node has no link to itself");
        assert!(path.index() < PATHS_MAX, "there is such a path");
        match self.session_mut(peer) {
            Some(session) => session.path_up(now_ns, path, incarnation, out),
            None => out.actions.push(Action::ClosePath {
                peer,
                path,
                reason: CloseReason::NotMember,
            }),
        }
    }

    fn tick(&mut self, now_ns: u64, out: &mut Outbox) {
        // Neither the last tick nor the time that was asked for: from then on this node was not running.
        let expected_ns = self.ticked_ns.max(self.wake_at_ns()).unwrap_or(now_ns);
        let paused_ns = now_ns.saturating_sub(expected_ns);
        self.ticked_ns = Some(now_ns);
        for session in self.sessions.iter_mut().flatten() {
            if paused_ns > self.config.timers.pause_ns {
                session.forgive(now_ns, paused_ns);
            }
            session.tick(now_ns, out);
        }
    }

    fn session(&self, peer: Slot) -> Option<&Session> {
        self.sessions.get(peer.index())?.as_ref()
    }

    fn session_mut(&mut self, peer: Slot) -> Option<&mut Session> {
        self.sessions.get_mut(peer.index())?.as_mut()
    }

    /// When a timer is due next: [`Event::Tick`] and [`Event::EndOfTurn`] are wanted then at the latest.
    pub fn wake_at_ns(&self) -> Option<u64> {
        let sessions = self.sessions.iter().flatten();
        sessions.filter_map(Session::wake_at_ns).min()
    }

    /// The epoch that the links are in.
    pub const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Whether a peer is a member of the epoch that the links are in.
    pub fn is_member(&self, peer: Slot) -> bool {
        self.session(peer).is_some_and(Session::is_member)
    }

    /// What was counted of the link to a peer; `None` if it was never a member.
    pub fn counters(&self, peer: Slot) -> Option<&Counters> {
        self.session(peer).map(Session::counters)
    }

    /// Whether a path to a peer is up.
    pub fn is_up(&self, peer: Slot, path: PathId) -> bool {
        self.session(peer)
            .is_some_and(|session| session.path(path).is_some())
    }

    /// Smoothed time from a ping to its answer on a path; `None` if it is not up or none was answered.
    pub fn round_trip_ns(&self, peer: Slot, path: PathId) -> Option<u64> {
        self.session(peer)?.path(path)?.round_trip_ns
    }

    /// How far the messages of this epoch to a peer are; `None` if it is no member.
    pub fn departures(&self, peer: Slot) -> Option<Departures> {
        let session = self.session(peer).filter(|session| session.is_member());
        session.map(Session::departures)
    }

    /// Frames and bytes that are queued for a peer, sent and not acknowledged ones included.
    pub fn queued(&self, peer: Slot) -> Credit {
        self.session(peer).map(Session::queued).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
