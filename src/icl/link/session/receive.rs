//! The receiving half of a session: what is dropped, what is acknowledged, what is delivered.

use super::{Presence, Session};
use crate::icl::Epoch;
use crate::icl::link::config::Medium;
use crate::icl::link::counters::DropReason;
use crate::icl::link::event::{Action, CloseReason, Misbehaviour};
use crate::icl::link::name::PathId;
use crate::icl::link::outbox::Outbox;
use crate::icl::link::packet::{Credit, Envelope, Header, Packet};

/// Round trips after which what is not acknowledged counts as lost.
const RESEND_ROUND_TRIPS: u64 = 4;

impl Session {
    /// Takes one packet. Nothing of it counts before all of it is checked, and nothing but its envelope is looked at
    /// unless it is of this session.
    pub fn receive(&mut self, now_ns: u64, path: PathId, bytes: &[u8], out: &mut Outbox) {
        let (Some(envelope), true) = (self.envelope, self.paths[path.index()].is_some()) else {
            return self.counters.count_drop(DropReason::PathDown);
        };
        let packet = match Packet::parse(bytes, self.config.crc) {
            Ok(packet) => packet,
            Err(error) => {
                self.counters.count_drop(DropReason::Malformed);
                if self.config.medium == Medium::Stream {
                    self.close(path, CloseReason::Malformed(error), out);
                }
                return;
            }
        };
        let header = &packet.header;
        if let Err(reason) = check(header.envelope, envelope.reversed()) {
            self.counters.count_drop(reason);
            if reason == DropReason::WrongEpoch {
                self.path_heard(now_ns, path);
                if header.envelope.epoch > envelope.epoch {
                    self.expect_answers(now_ns);
                    self.note_epoch(header.envelope.epoch, out);
                }
            }
            return;
        }
        let new = match self.check_packet(&packet) {
            Ok(new) => new,
            Err(misbehaviour) => {
                self.counters.count_drop(DropReason::Misbehaved);
                return self.close(path, CloseReason::Misbehaved(misbehaviour), out);
            }
        };
        self.counters.packets_received += 1;
        self.counters.bytes_received += bytes.len() as u64;
        self.path_heard(now_ns, path);
        self.hear(now_ns, out);
        self.take_header(now_ns, path, header, out);
        self.take_frames(now_ns, &packet, new, out);
    }

    /// A path carries packets of the peer's life, be they of this epoch or another.
    fn path_heard(&mut self, now_ns: u64, path: PathId) {
        if let Some(path) = &mut self.paths[path.index()] {
            path.heard_ns = now_ns;
        }
    }

    /// Who is in another epoch, or was a moment ago, answers no pings of this one: answers count from here on.
    fn expect_answers(&mut self, now_ns: u64) {
        for path in self.paths.iter_mut().flatten() {
            path.answered_ns = path.answered_ns.max(now_ns);
        }
    }

    fn note_epoch(&mut self, epoch: Epoch, out: &mut Outbox) {
        if epoch > self.newer_epoch {
            self.newer_epoch = epoch;
            out.actions.push(Action::NewerEpoch {
                peer: self.peer,
                epoch,
            });
        }
    }

    /// What of the packet's frames comes next, all of them judged before any is taken.
    fn check_packet(&self, packet: &Packet<'_>) -> Result<Credit, Misbehaviour> {
        let header = &packet.header;
        if header.ack > self.outgoing.sent_max {
            return Err(Misbehaviour::AckBeyondSent {
                ack: header.ack,
                sent: self.outgoing.sent_max,
            });
        }
        let next = self.incoming.received.frames + 1;
        let end = header.first + u64::from(header.frame_count);
        if header.first > next || end <= next {
            return Ok(Credit::default());
        }
        let known = usize::try_from(next - header.first).expect("fewer than a packet has");
        let new = Credit {
            frames: end - next,
            bytes: packet
                .frames()
                .skip(known)
                .map(|frame| frame.bytes() as u64)
                .sum(),
        };
        let received = self.incoming.received;
        let grant = self.grant();
        let is_granted =
            received.frames + new.frames <= grant.frames && received.bytes + new.bytes <= grant.bytes;
        is_granted
            .then_some(new)
            .ok_or(Misbehaviour::BeyondCredit { first: header.first })
    }

    /// The peer lives, in this epoch. If it was not known to, all is sent again: what was sent before it entered the
    /// epoch it has dropped.
    fn hear(&mut self, now_ns: u64, out: &mut Outbox) {
        self.heard_ns = now_ns;
        match self.presence {
            Presence::Heard => {}
            Presence::Awaited | Presence::Suspected => {
                self.presence = Presence::Heard;
                self.rewind();
                self.expect_answers(now_ns);
                out.actions.push(Action::Heard { peer: self.peer });
            }
        }
    }

    fn take_header(&mut self, now_ns: u64, id: PathId, header: &Header, out: &mut Outbox) {
        let path = self.paths[id.index()].as_mut().expect("the caller has looked");
        if header.ping_ns.is_some() {
            path.answer_ns = header.ping_ns;
        }
        if let Some(stamp) = header.answer_ns {
            path.answered(now_ns, stamp);
        }
        // A packet that was overtaken grants less than is known already.
        let credit = &mut self.outgoing.credit;
        credit.frames = credit.frames.max(header.credit.frames);
        credit.bytes = credit.bytes.max(header.credit.bytes);
        self.take_ack(now_ns, header.ack, out);
    }

    fn take_ack(&mut self, now_ns: u64, ack: u64, out: &mut Outbox) {
        let outgoing = &mut self.outgoing;
        if ack <= outgoing.acked {
            return;
        }
        while outgoing.acked < ack {
            let bytes = u64::from(self.queue.pop());
            outgoing.acked += 1;
            outgoing.acked_bytes += bytes;
            outgoing.sent_bytes = outgoing.sent_bytes.saturating_sub(bytes);
        }
        // After a rewind the first sending may be acknowledged before the second has got so far.
        outgoing.sent = outgoing.sent.max(outgoing.acked);
        assert!(
            outgoing.sent > outgoing.acked || outgoing.sent_bytes == 0,
            "no bytes without frames"
        );
        let round_trip_ns = self
            .active
            .and_then(|path| self.paths[path.index()]?.round_trip_ns);
        let timers = &self.config.timers;
        outgoing.progress_ns = now_ns;
        outgoing.resend_ns = (round_trip_ns.unwrap_or(0).saturating_mul(RESEND_ROUND_TRIPS))
            .clamp(timers.resend_ns_min, timers.resend_ns_max);
        if self.is_full && self.queue.is_half_empty() {
            self.is_full = false;
            out.actions.push(Action::Room { peer: self.peer });
        }
    }

    /// Delivers the frames that come next and drops the others (H10).
    fn take_frames(&mut self, now_ns: u64, packet: &Packet<'_>, new: Credit, out: &mut Outbox) {
        let header = &packet.header;
        let count = u64::from(header.frame_count);
        if count == 0 {
            return;
        }
        // Whatever it was: the sender waits to hear how far all is well.
        self.incoming.owed_ns.get_or_insert(now_ns);
        let next = self.incoming.received.frames + 1;
        if header.first > next {
            self.counters.gaps_dropped += count;
            return;
        }
        let known = count - new.frames;
        self.counters.duplicates_dropped += known;
        self.counters.messages_delivered += new.frames;
        self.incoming.received.frames += new.frames;
        self.incoming.received.bytes += new.bytes;
        let place = |at: usize| u32::try_from(at).expect("shorter than a packet");
        let known = usize::try_from(known).expect("fewer than a packet has");
        for frame in packet.frames().skip(known) {
            out.actions.push(Action::Deliver {
                peer: self.peer,
                address: frame.address,
                kind: frame.kind,
                start: place(frame.payload.start),
                end: place(frame.payload.end),
            });
        }
    }
}

/// Whether a packet is of the session.
fn check(found: Envelope, expected: Envelope) -> Result<(), DropReason> {
    let slots = |envelope: &Envelope| (envelope.lane, envelope.sender.slot, envelope.receiver.slot);
    if found.array != expected.array {
        return Err(DropReason::WrongArray);
    }
    if slots(&found) != slots(&expected) {
        return Err(DropReason::WrongPeer);
    }
    if found.sender != expected.sender || found.receiver != expected.receiver {
        return Err(DropReason::WrongIncarnation);
    }
    if found.epoch != expected.epoch {
        return Err(DropReason::WrongEpoch);
    }
    assert_eq!(found, expected, "an envelope has no other parts");
    Ok(())
}
