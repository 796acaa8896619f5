//! The sending half of a session: which path, which frames, when again.

use super::{PATHS, Session};
use crate::icl::link::event::Action;
use crate::icl::link::gather::{Cut, Gathering};
use crate::icl::link::name::PathId;
use crate::icl::link::outbox::Outbox;
use crate::icl::link::packet::{Credit, FRAMES_MAX, Header, PACKET_BYTES_MIN};

/// Packets with messages that one turn composes for one peer at most: with `unsent_bytes_max` of 256 KiB and nothing but
/// empty messages alone in their packets, under 2,200 of them wait to leave.
const TURN_PACKETS_MAX: u32 = 4096;

impl Session {
    /// What the peer may send: what it was granted, and as much again as was consumed.
    pub(super) fn grant(&self) -> Credit {
        let consumed = self.incoming.consumed;
        Credit {
            frames: consumed.frames + u64::from(self.config.window_frames),
            bytes: consumed.bytes + u64::from(self.config.window_bytes),
        }
    }

    /// Sends what waits, as far as path and grant allow; then what the peer is owed.
    pub fn flush(&mut self, now_ns: u64, out: &mut Outbox) {
        if !self.is_member() {
            return;
        }
        self.send_waiting(now_ns, out);
        for path in PATHS {
            let is_due = self.paths[path.index()]
                .is_some_and(|path| path.answer_ns.is_some() || path.ping_at_ns <= now_ns);
            if is_due && self.takes(path) {
                self.emit(now_ns, path, Cut::default(), out);
            }
        }
        if self.is_news_due(now_ns)
            && let Some(path) = self.active.filter(|&path| self.takes(path))
        {
            self.emit(now_ns, path, Cut::default(), out);
        }
    }

    /// Sends what waits, as far as path and grant allow.
    pub fn send_waiting(&mut self, now_ns: u64, out: &mut Outbox) {
        self.choose_path();
        let Some(path) = self.active else {
            return;
        };
        for _ in 0..TURN_PACKETS_MAX {
            if !self.takes(path) {
                return;
            }
            let cut = self.next_cut();
            if cut.frames == 0 {
                self.counters.credit_stalls += u64::from(cut.is_out_of_credit);
                return;
            }
            self.emit(now_ns, path, cut, out);
        }
    }

    pub(super) fn takes(&self, path: PathId) -> bool {
        self.paths[path.index()].is_some_and(|path| path.unsent_bytes < self.config.unsent_bytes_max)
    }

    /// Keeps the active path while it is up. Another begins with the oldest message that is not acknowledged: what was
    /// sent on the lost one may be lost with it.
    fn choose_path(&mut self) {
        if self.active.is_some() {
            return;
        }
        let up = |path: &PathId| self.paths[path.index()].is_some();
        let Some(path) = PATHS.into_iter().find(up) else {
            return;
        };
        self.counters.failovers += u64::from(self.last_active.is_some_and(|last| last != path));
        self.active = Some(path);
        self.last_active = Some(path);
        self.rewind();
    }

    /// Begins again with the oldest message that is not acknowledged.
    pub(super) fn rewind(&mut self) {
        let outgoing = &mut self.outgoing;
        assert!(outgoing.acked <= outgoing.sent, "what is acknowledged was sent");
        self.counters.rewinds += u64::from(outgoing.acked < outgoing.sent);
        outgoing.sent = outgoing.acked;
        outgoing.sent_bytes = 0;
    }

    /// When all is sent again: not while some of it still waits in this node to leave.
    pub(super) fn resend_at_ns(&self) -> Option<u64> {
        let path = self.paths[self.active?.index()]?;
        let is_out = path.unsent_bytes == 0 && self.outgoing.acked < self.outgoing.sent;
        is_out.then_some(self.outgoing.progress_ns + self.outgoing.resend_ns)
    }

    fn next_cut(&self) -> Cut {
        let outgoing = &self.outgoing;
        let left = Credit {
            frames: outgoing.credit.frames.saturating_sub(outgoing.sent),
            bytes: outgoing
                .credit
                .bytes
                .saturating_sub(outgoing.acked_bytes + outgoing.sent_bytes),
        };
        self.config
            .gathering
            .cut(self.queue.lengths_from(self.next_frame()), left)
    }

    /// Which of the queue leaves next.
    fn next_frame(&self) -> usize {
        usize::try_from(self.outgoing.sent - self.outgoing.acked).expect("as many as are queued")
    }

    /// Whether an acknowledgement or a grant has waited long enough for a packet to travel with.
    fn is_news_due(&self, now_ns: u64) -> bool {
        let incoming = &self.incoming;
        let Some(since_ns) = incoming.owed_ns else {
            return false;
        };
        let grant = self.grant();
        let frames = u64::from(self.config.window_frames) / 4;
        let bytes = u64::from(self.config.window_bytes) / 4;
        now_ns >= since_ns + self.config.timers.ack_delay_ns
            || incoming.received.frames - incoming.acked.frames >= frames
            || incoming.received.bytes - incoming.acked.bytes >= bytes
            || grant.frames.saturating_sub(incoming.granted.frames) >= frames
            || grant.bytes.saturating_sub(incoming.granted.bytes) >= bytes
    }

    /// Composes one packet with the next frames of the queue, or none, and all news for the peer.
    fn emit(&mut self, now_ns: u64, id: PathId, cut: Cut, out: &mut Outbox) {
        assert!(cut.frames <= FRAMES_MAX && self.takes(id), "what is sent fits");
        let envelope = self.envelope.expect("nothing is sent to who is not a member");
        let grant = self.grant();
        let next = self.next_frame();
        let path = self.paths[id.index()].as_mut().expect("it takes packets");
        let header = Header {
            envelope,
            first: self.outgoing.sent + 1,
            ack: self.incoming.received.frames,
            credit: grant,
            ping_ns: path.ask(now_ns, self.config.timers.ping_ns),
            answer_ns: path.answer_ns.take(),
            frame_count: cut.frames,
        };
        let start = out.composed_bytes();
        let frames = self.queue.pieces(next, usize::from(cut.frames));
        header.encode(cut.bytes as usize, frames, self.config.crc, out);
        let end = out.composed_bytes();
        path.unsent_bytes += end - start;
        self.incoming.acked = self.incoming.received;
        self.incoming.granted = grant;
        self.incoming.owed_ns = None;
        self.count(cut, end - start);
        self.advance(now_ns, cut);
        out.actions.push(Action::Send {
            peer: self.peer,
            path: id,
            start,
            end,
        });
    }

    fn count(&mut self, cut: Cut, packet_bytes: u32) {
        assert!(packet_bytes as usize >= PACKET_BYTES_MIN, "a packet has a header");
        let outgoing = &self.outgoing;
        let again = outgoing.sent_max.min(outgoing.sent + u64::from(cut.frames)) - outgoing.sent;
        self.counters.messages_sent += u64::from(cut.frames);
        self.counters.messages_resent += again;
        self.counters.packets_sent += u64::from(cut.frames > 0);
        self.counters.bare_packets_sent += u64::from(cut.frames == 0);
        self.counters.bytes_sent += u64::from(packet_bytes);
    }

    fn advance(&mut self, now_ns: u64, cut: Cut) {
        let outgoing = &mut self.outgoing;
        if outgoing.sent == outgoing.acked && cut.frames > 0 {
            outgoing.progress_ns = now_ns; // From here on something is waited for.
        }
        outgoing.sent += u64::from(cut.frames);
        outgoing.sent_bytes += u64::from(cut.bytes);
        outgoing.sent_max = outgoing.sent_max.max(outgoing.sent);
        assert!(
            outgoing.sent <= outgoing.credit.frames,
            "nothing is sent that is not granted"
        );
        assert!(
            outgoing.acked_bytes + outgoing.sent_bytes <= outgoing.credit.bytes,
            "nothing is sent that is not granted"
        );
    }

    /// Whether each message leaves at once.
    pub const fn sends_at_once(&self) -> bool {
        matches!(self.config.gathering, Gathering::Off)
    }
}
