//! The links of a life to the other members: the real sessions, over single packets that get lost, late, doubled and out of order.

use nvme::crc32c::portable;

use super::{Effect, Node, Place};
use crate::icl::link::{
    Action, Address, Event, Lane, LinkConfig, Links, Medium, Outbox, PathId, Payload, SubmitError, Timers,
};
use crate::icl::membership::record::EpochRecord;
use crate::icl::{ArrayId, Incarnation, Slot};
use crate::sim::array::world::MS;

/// The one way that there is between two lives.
const PATH: PathId = PathId(0);
/// The one group.
const GROUP: Address = Address::Group(0);
/// A thirtieth of what a real node takes, as everything here is faster than there.
const TIMERS: Timers = Timers {
    ping_ns: 8 * MS,
    path_silent_ns: 20 * MS,
    suspect_ns: 25 * MS,
    resend_ns_min: MS,
    resend_ns_max: 13 * MS,
    ack_delay_ns: MS / 10,
    pause_ns: 3 * MS,
};

/// Links in no epoch yet.
pub(super) fn links_of(place: Place) -> Links {
    let local = crate::icl::Node {
        slot: place.slot,
        incarnation: Incarnation(place.life),
    };
    Links::new(LinkConfig {
        medium: Medium::Datagram,
        timers: TIMERS,
        ..LinkConfig::new(ArrayId([7; 16]), local, Lane(0), portable)
    })
}

impl Node {
    /// The links enter an epoch: nothing that was said in an older one arrives any more.
    pub(super) fn link_epoch(&mut self, record: &EpochRecord, out: &mut Vec<Effect>) {
        let members: Vec<crate::icl::Node> = record.nodes().collect();
        let event = Event::NewEpoch {
            epoch: record.epoch,
            members: &members,
        };
        self.departing.clear();
        self.link(event, out);
    }

    /// The other life is reached.
    pub(in crate::sim::array) fn path_up(&mut self, peer: Slot, life: u64, out: &mut Vec<Effect>) {
        let event = Event::PathUp {
            peer,
            path: PATH,
            incarnation: Incarnation(life),
        };
        self.link(event, out);
    }

    /// It is not any more.
    pub(in crate::sim::array) fn path_down(&mut self, peer: Slot, out: &mut Vec<Effect>) {
        self.link(Event::PathDown { peer, path: PATH }, out);
    }

    /// A packet has come in from a slot.
    pub(in crate::sim::array) fn packet(&mut self, peer: Slot, packet: &[u8], out: &mut Vec<Effect>) {
        let event = Event::Received {
            peer,
            path: PATH,
            packet,
        };
        let mut outbox = Outbox::default();
        self.links.handle(self.now, event, &mut outbox);
        let mut heard = Vec::new();
        for action in &outbox.actions {
            if let Action::Deliver {
                peer,
                kind,
                start,
                end,
                ..
            } = *action
            {
                heard.push((peer, kind, packet[start as usize..end as usize].to_vec()));
            }
        }
        self.link_actions(&outbox, out);
        for (peer, kind, bytes) in heard {
            let epoch = self.links.epoch().expect("messages come in an epoch");
            let event = Event::Consumed {
                peer,
                epoch,
                frames: 1,
                payload_bytes: bytes.len() as u64,
            };
            self.link(event, out);
            self.receive(peer, epoch, (kind, &bytes), out);
        }
    }

    /// Queues a message, which leaves with the end of the turn.
    pub(super) fn say(&mut self, to: Slot, kind: u16, bytes: &[u8]) {
        let mut outbox = Outbox::default();
        let result = self
            .links
            .submit(self.now, to, GROUP, kind, Payload::copied(&[bytes]), &mut outbox);
        match result {
            Ok(()) => assert!(outbox.actions.is_empty(), "what is gathered leaves with the turn"),
            Err(SubmitError::Full) => unreachable!("a run is too short to fill a queue"),
            Err(SubmitError::NotMember) => unreachable!("only members of the epoch are told something"),
        }
    }

    /// What was said in this turn leaves, and what the clock asks for.
    pub(in crate::sim::array) fn end_turn(&mut self, out: &mut Vec<Effect>) {
        if self.links.wake_at_ns().is_some_and(|at| at <= self.now) {
            self.link(Event::Tick, out);
        }
        self.link(Event::EndOfTurn, out);
        while let Some((to, name)) = self.departing.next(|to| self.links.departures(to)) {
            self.peer(out, |peering, _, out| peering.copy_sent(name, to, out));
        }
    }

    fn link(&mut self, event: Event<'_>, out: &mut Vec<Effect>) {
        let mut outbox = Outbox::default();
        self.links.handle(self.now, event, &mut outbox);
        self.link_actions(&outbox, out);
    }

    fn link_actions(&mut self, outbox: &Outbox, out: &mut Vec<Effect>) {
        for action in &outbox.actions {
            match *action {
                Action::Send {
                    peer,
                    path,
                    start,
                    end,
                } => {
                    let packet = outbox.packet(start, end);
                    let bytes = end - start;
                    out.push(Effect::Packet { to: peer, packet });
                    self.link(Event::Sent { peer, path, bytes }, out);
                }
                Action::ClosePath { peer, .. } => out.push(Effect::HangUp(peer)),
                // Handed over by the caller; what is suspected or decided is for membership to say.
                Action::Deliver { .. }
                | Action::Suspect { .. }
                | Action::Heard { .. }
                | Action::NewerEpoch { .. }
                | Action::Room { .. } => {}
            }
        }
    }
}
