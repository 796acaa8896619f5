//! The session with one peer in one epoch: every message arrives once and in order, or not at all.
//!
//! Owns the sequence numbers, what is not acknowledged, what both sides have granted, and the paths. Invariants: a
//! message is delivered only if all before it were (H10); nothing crosses from one epoch or life of a node into another;
//! nothing leaves without credit; both queue and window are bounded. Knows neither sockets nor what messages mean.
//!
//! A gap is not filled: what comes after it is dropped and sent again from the gap on (go-back-N). On a connection a gap
//! is an exception, because it arises only where a path or an epoch begins, and then the sender begins again by itself;
//! to keep what comes after a gap would take a second window of memory per peer and save nothing in the usual case.

mod receive;
mod send;

use super::config::{INITIAL_CREDIT, LinkConfig};
use super::counters::Counters;
use super::departures::Departures;
use super::event::{Action, CloseReason};
use super::name::{Address, PATHS_MAX, PathId};
use super::outbox::Outbox;
use super::packet::{Credit, Envelope, FRAME_HEADER_BYTES};
use super::path::Path;
use super::queue::{Payload, Queue};
use crate::icl::{Epoch, Incarnation, Slot};

const PATHS: [PathId; PATHS_MAX] = [PathId(0), PathId(1)];

/// What was sent and is to be sent. Numbers count frames of this epoch from 1, bytes are of frames.
#[derive(Clone, Copy, Debug)]
struct Outgoing {
    /// Highest number that the peer has acknowledged.
    acked: u64,
    /// Bytes up to there.
    acked_bytes: u64,
    /// Highest number that left since sending began anew.
    sent: u64,
    /// Bytes from `acked` to there.
    sent_bytes: u64,
    /// Highest number that ever left.
    sent_max: u64,
    /// What the peer has granted.
    credit: Credit,
    /// Since when nothing more was acknowledged, as long as something is to be.
    progress_ns: u64,
    /// How long that may last before all is sent again.
    resend_ns: u64,
}

/// What came in.
#[derive(Clone, Copy, Debug, Default)]
struct Incoming {
    /// What came in order; the number of its frames is the highest number.
    received: Credit,
    /// What of it the addressees are done with.
    consumed: Credit,
    /// `received` as the peer was told last.
    acked: Credit,
    /// The grant as the peer was told last.
    granted: Credit,
    /// Since when the peer is owed news.
    owed_ns: Option<u64>,
}

/// Whether the peer was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// Not yet in this epoch.
    Awaited,
    Heard,
    Suspected,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    config: LinkConfig,
    peer: Slot,
    /// That of what is sent, while the peer is a member.
    envelope: Option<Envelope>,
    queue: Queue,
    outgoing: Outgoing,
    incoming: Incoming,
    presence: Presence,
    /// When anything of this epoch came from the peer, or the epoch began.
    heard_ns: u64,
    /// The greatest epoch of the peer that was reported.
    newer_epoch: Epoch,
    /// A message was refused since the queue was last half empty.
    is_full: bool,
    paths: [Option<Path>; PATHS_MAX],
    /// The path on which messages leave; the other is spare. One at a time, since two would reorder.
    active: Option<PathId>,
    /// The one before.
    last_active: Option<PathId>,
    counters: Counters,
}

impl Session {
    /// Memory for the sessions with one peer; none goes on.
    pub fn new(config: LinkConfig, peer: Slot) -> Self {
        assert_ne!(peer, config.local.slot, "a node has no link to itself");
        Self {
            queue: Queue::new(config.queue_bytes, config.queue_frames),
            outgoing: Outgoing::new(&config, 0),
            incoming: Incoming::default(),
            config,
            peer,
            envelope: None,
            presence: Presence::Awaited,
            heard_ns: 0,
            newer_epoch: Epoch(0),
            is_full: false,
            paths: [None; PATHS_MAX],
            active: None,
            last_active: None,
            counters: Counters::default(),
        }
    }

    /// Begins the session of an epoch; whatever there was is discarded (H10). Paths to the same life stay up.
    pub fn begin(&mut self, now_ns: u64, envelope: Envelope, out: &mut Outbox) {
        assert_eq!(envelope.receiver.slot, self.peer, "a session is with one slot");
        assert_eq!(envelope.sender, self.config.local, "a process has one life");
        self.discard(now_ns);
        self.envelope = Some(envelope);
        self.newer_epoch = envelope.epoch;
        for path in PATHS {
            let life = self.paths[path.index()].map(|path| path.incarnation);
            if life.is_some_and(|life| life != envelope.receiver.incarnation) {
                self.close(path, CloseReason::NotMember, out);
            } else if let Some(path) = &mut self.paths[path.index()] {
                path.enter_epoch(now_ns);
            }
        }
    }

    /// The peer is not a member any more.
    pub fn end(&mut self, now_ns: u64, out: &mut Outbox) {
        self.discard(now_ns);
        self.envelope = None;
        for path in PATHS {
            if self.paths[path.index()].is_some() {
                self.close(path, CloseReason::NotMember, out);
            }
        }
    }

    fn discard(&mut self, now_ns: u64) {
        self.queue.clear();
        self.outgoing = Outgoing::new(&self.config, now_ns);
        self.incoming = Incoming {
            granted: INITIAL_CREDIT,
            ..Incoming::default()
        };
        self.presence = Presence::Awaited;
        self.heard_ns = now_ns;
        self.is_full = false;
    }

    /// Whether the peer is a member.
    pub const fn is_member(&self) -> bool {
        self.envelope.is_some()
    }

    /// What was counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The state of a path; `None` if it is not up.
    pub fn path(&self, path: PathId) -> Option<&Path> {
        self.paths[path.index()].as_ref()
    }

    /// Frames and bytes that are queued, sent or not.
    pub fn queued(&self) -> Credit {
        Credit {
            frames: self.queue.frames() as u64,
            bytes: self.queue.bytes() as u64,
        }
    }

    /// How many messages were queued in this epoch, and how many of them have left at least once.
    pub fn departures(&self) -> Departures {
        Departures {
            queued: self.outgoing.acked + self.queue.frames() as u64,
            left: self.outgoing.sent_max,
        }
    }

    /// A connection was made.
    pub fn path_up(&mut self, now_ns: u64, path: PathId, incarnation: Incarnation, out: &mut Outbox) {
        assert!(
            self.paths[path.index()].is_none(),
            "a path goes down before it comes up"
        );
        let is_member = |envelope: Envelope| envelope.receiver.incarnation == incarnation;
        if self.envelope.is_some_and(is_member) {
            self.paths[path.index()] = Some(Path::new(incarnation, now_ns));
        } else {
            out.actions.push(Action::ClosePath {
                peer: self.peer,
                path,
                reason: CloseReason::NotMember,
            });
        }
    }

    /// A connection was lost; what was sent on it and is not acknowledged will leave on another.
    pub fn path_down(&mut self, path: PathId) {
        self.paths[path.index()] = None;
        if self.active == Some(path) {
            self.active = None;
        }
    }

    fn close(&mut self, path: PathId, reason: CloseReason, out: &mut Outbox) {
        assert!(self.paths[path.index()].is_some(), "only what is up is closed");
        self.path_down(path);
        out.actions.push(Action::ClosePath {
            peer: self.peer,
            path,
            reason,
        });
    }

    /// Bytes have left on a path.
    pub fn path_sent(&mut self, path: PathId, bytes: u32) {
        if let Some(path) = &mut self.paths[path.index()] {
            // Less, if the path was lost and came back while the runtime still counted bytes of the old connection.
            path.unsent_bytes = path.unsent_bytes.saturating_sub(bytes);
        }
    }

    /// Addressees are done with messages of this epoch. Panics if there were not so many.
    pub fn consume(&mut self, now_ns: u64, epoch: Epoch, frames: u32, payload_bytes: u64) {
        if self.envelope.is_none_or(|envelope| envelope.epoch != epoch) {
            return;
        }
        let incoming = &mut self.incoming;
        incoming.consumed.frames += u64::from(frames);
        incoming.consumed.bytes += u64::from(frames) * FRAME_HEADER_BYTES as u64 + payload_bytes;
        assert!(
            incoming.consumed.frames <= incoming.received.frames
                && incoming.consumed.bytes <= incoming.received.bytes,
            "only what was delivered is consumed"
        );
        incoming.owed_ns.get_or_insert(now_ns);
    }

    /// Queues one message. False, and nothing is queued, if there is no room now: [`Action::Room`] will say when.
    ///
    /// Panics if the peer is not a member, or the payload is longer than a packet can have.
    pub fn submit(&mut self, address: Address, kind: u16, payload: Payload<'_>) -> bool {
        assert!(self.is_member(), "the caller has looked");
        let fits = self.queue.push(address, kind, payload);
        if fits {
            self.counters.messages_submitted += 1;
        } else {
            self.counters.refused_full += 1;
            self.is_full = true;
        }
        fits
    }

    /// This node was paused for so long: the peer could not be heard.
    pub fn forgive(&mut self, now_ns: u64, paused_ns: u64) {
        let later = |heard_ns: u64| (heard_ns + paused_ns).min(now_ns);
        self.heard_ns = later(self.heard_ns);
        for path in self.paths.iter_mut().flatten() {
            path.heard_ns = later(path.heard_ns);
            path.answered_ns = later(path.answered_ns);
        }
    }

    /// Looks at the timers.
    pub fn tick(&mut self, now_ns: u64, out: &mut Outbox) {
        if !self.is_member() {
            return;
        }
        let timers = self.config.timers;
        for path in PATHS {
            if let Some(reason) = self.path_trouble(now_ns, path) {
                self.close(path, reason, out);
            }
        }
        if self.resend_at_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.outgoing.resend_ns = (self.outgoing.resend_ns * 2).min(timers.resend_ns_max);
            self.outgoing.progress_ns = now_ns;
            self.rewind();
        }
        let silence_ns = now_ns.saturating_sub(self.heard_ns);
        if self.presence != Presence::Suspected && silence_ns >= timers.suspect_ns {
            self.presence = Presence::Suspected;
            self.counters.suspicions += 1;
            out.actions.push(Action::Suspect {
                peer: self.peer,
                silence_ns,
            });
        }
    }

    /// Why a path is to be given up. A peer of which nothing was heard in this epoch answers no pings.
    fn path_trouble(&self, now_ns: u64, path: PathId) -> Option<CloseReason> {
        let path = self.paths[path.index()]?;
        let timers = &self.config.timers;
        let silence_ns = now_ns.saturating_sub(path.heard_ns);
        if silence_ns >= timers.path_silent_ns {
            return Some(CloseReason::Silent { silence_ns });
        }
        let silence_ns = now_ns.saturating_sub(path.answered_ns);
        let is_expected = self.presence == Presence::Heard;
        (is_expected && silence_ns >= timers.path_unanswered_ns())
            .then_some(CloseReason::Unanswered { silence_ns })
    }

    /// When a timer is due next.
    pub fn wake_at_ns(&self) -> Option<u64> {
        self.envelope?;
        let timers = &self.config.timers;
        let suspect = (self.presence != Presence::Suspected).then_some(self.heard_ns + timers.suspect_ns);
        // What waits for a path to take more is no reason to wake: that event will.
        let owed_ns = self
            .incoming
            .owed_ns
            .filter(|_| self.active.is_some_and(|path| self.takes(path)));
        let ack = owed_ns.map(|since_ns| since_ns + timers.ack_delay_ns);
        let path = |id: PathId| {
            let path = self.paths[id.index()]?;
            let is_expected = self.presence == Presence::Heard;
            let unanswered_ns = is_expected.then_some(path.answered_ns + timers.path_unanswered_ns());
            let silent_ns = path.heard_ns + timers.path_silent_ns;
            let silent_ns = unanswered_ns.map_or(silent_ns, |unanswered_ns| unanswered_ns.min(silent_ns));
            Some(if self.takes(id) {
                silent_ns.min(path.ping_at_ns)
            } else {
                silent_ns
            })
        };
        let paths = PATHS.into_iter().filter_map(path);
        paths.chain(suspect).chain(ack).chain(self.resend_at_ns()).min()
    }
}

impl Outgoing {
    const fn new(config: &LinkConfig, now_ns: u64) -> Self {
        Self {
            acked: 0,
            acked_bytes: 0,
            sent: 0,
            sent_bytes: 0,
            sent_max: 0,
            credit: INITIAL_CREDIT,
            progress_ns: now_ns,
            resend_ns: config.timers.resend_ns_min,
        }
    }
}
