//! What is known of the other nodes: their last announcements, and when they came.

use crate::icl::membership::beats::Beats;
use crate::icl::membership::message::{Announcement, Standing, Step};
use crate::icl::membership::record::{EpochRecord, Member};
use crate::icl::membership::times::{HEARD_NS, SUSPECT_NS};
use crate::icl::membership::{Incarnation, SLOTS, Slot, SlotSet};

/// The last life of a slot that was heard.
#[derive(Clone, Debug)]
struct Peer {
    said: Announcement,
    heard_ns: u64,
    /// Its link was lost after that.
    is_lost: bool,
    /// Heartbeats that it has told of.
    beats: Beats,
    /// The life before it, whose lease may not be over yet.
    before: Option<(Incarnation, Beats)>,
}

/// All other nodes, by slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers([Option<Peer>; SLOTS]);

impl Peers {
    /// Takes in an announcement. False if it is older than the last one, or of another life of a node that is still heard.
    pub(super) fn hear(&mut self, now_ns: u64, said: Announcement) -> bool {
        let peer = &mut self.0[said.slot.index()];
        if let Some(known) = peer {
            let same = known.said.incarnation == said.incarnation;
            let is_gone = known.is_gone(now_ns) || known.said.standing == Standing::Halted;
            if (same && said.seq <= known.said.seq) || (!same && !is_gone) {
                return false;
            }
        }
        let (mut beats, before) = match peer.take() {
            Some(known) if known.said.incarnation == said.incarnation => (known.beats, known.before),
            Some(known) => (Beats::default(), Some((known.said.incarnation, known.beats))),
            None => (Beats::default(), None),
        };
        beats.hear(now_ns, said.round);
        *peer = Some(Peer {
            said,
            heard_ns: now_ns,
            is_lost: false,
            beats,
            before,
        });
        true
    }

    /// The link to a node was lost.
    pub(super) fn lose(&mut self, slot: Slot) {
        if let Some(peer) = &mut self.0[slot.index()] {
            peer.is_lost = true;
        }
    }

    /// Nobody could be heard up to now, because this node itself has not run.
    pub(super) fn excuse(&mut self, now_ns: u64) {
        for peer in self.0.iter_mut().flatten() {
            peer.heard_ns = now_ns;
        }
    }

    /// Nodes that are heard.
    pub(super) fn heard(&self, now_ns: u64) -> SlotSet {
        self.fresh(now_ns).map(|said| said.slot).collect()
    }

    /// Nodes of which nothing is amiss yet.
    pub(super) fn heard_lately(&self, now_ns: u64) -> SlotSet {
        let peers = self.0.iter().flatten();
        let lately = peers.filter(|peer| !peer.is_lost && now_ns.saturating_sub(peer.heard_ns) <= HEARD_NS);
        lately.map(|peer| peer.said.slot).collect()
    }

    /// The last announcements of all nodes that are heard.
    pub(super) fn fresh(&self, now_ns: u64) -> impl Iterator<Item = &Announcement> {
        let peers = self.0.iter().flatten();
        peers
            .filter(move |peer| !peer.is_gone(now_ns))
            .map(|peer| &peer.said)
    }

    /// The last announcement of this very life, however old.
    pub(super) fn last(&self, member: &Member) -> Option<&Announcement> {
        let peer = self.0[member.slot.index()].as_ref()?;
        (peer.said.incarnation == member.incarnation).then_some(&peer.said)
    }

    /// The heartbeats that this very life has told of.
    pub(super) fn beats(&self, member: &Member) -> Option<&Beats> {
        let peer = self.0[member.slot.index()].as_ref()?;
        let before = peer.before.as_ref().map(|(life, beats)| (*life, beats));
        let mut lives = [Some((peer.said.incarnation, &peer.beats)), before]
            .into_iter()
            .flatten();
        let own = lives.find(|(life, _)| *life == member.incarnation);
        own.map(|(_, beats)| beats)
    }

    /// How far a member has got with this record, if it has said anything about it.
    pub(super) fn step(&self, member: &Member, record: &EpochRecord) -> Option<Step> {
        let said = self.last(member)?;
        let is_this = said.record.as_ref()?.epoch == record.epoch;
        is_this.then_some(said.step)
    }

    /// Whether this very life has said that it is about to stop, or has.
    pub(super) fn goes(&self, member: &Member) -> bool {
        let goes = |said: &Announcement| matches!(said.standing, Standing::Leaving | Standing::Halted);
        self.last(member).is_some_and(goes)
    }

    /// Whether this very life has said that it has stopped.
    pub(super) fn has_halted(&self, member: &Member) -> bool {
        self.last(member)
            .is_some_and(|said| said.standing == Standing::Halted)
    }
}

impl Peer {
    fn is_gone(&self, now_ns: u64) -> bool {
        self.is_lost || now_ns.saturating_sub(self.heard_ns) > SUSPECT_NS
    }
}
