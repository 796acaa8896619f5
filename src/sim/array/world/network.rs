//! What carries packets between lives: one way between each two, on which they are lost, late, doubled and out of order, and which may be cut in one direction.

use super::{Event, MS, Stage, World};
use crate::icl::Slot;

impl World {
    /// A life has entered an epoch: it dials those of its members that it does not reach.
    pub(super) fn dial(&mut self, life: u64) {
        let Some(it) = self.lives.get(&life) else { return };
        let Some(record) = it.node.as_ref().and_then(|node| node.record()) else {
            return;
        };
        let others = record.members.iter().map(|member| member.incarnation.0);
        let others: Vec<u64> = others.filter(|other| *other != life).collect();
        for other in others {
            self.dial_soon(life, other);
        }
    }

    fn dial_soon(&mut self, a: u64, b: u64) {
        let delay = match self.random.below(10) {
            0 => self.random.below(5 * MS),
            _ => self.random.below(MS / 2),
        };
        self.later(delay, Event::Connect(a.min(b), a.max(b)));
    }

    /// Two lives reach one another, if both are members for the other one.
    pub(super) fn connect(&mut self, a: u64, b: u64) {
        if self.paths.contains(&(a, b)) {
            return;
        }
        let knows = |of: u64, other: u64| {
            let node = self.lives.get(&of).and_then(|it| it.node.as_ref());
            let record = node.and_then(|node| node.record());
            record.is_some_and(|record| record.members.iter().any(|member| member.incarnation.0 == other))
        };
        if !knows(a, b) || !knows(b, a) {
            return; // Whoever enters the epoch later dials.
        }
        self.paths.insert((a, b));
        for (of, other) in [(a, b), (b, a)] {
            let peer = self.lives[&other].slot;
            self.with_node(of, |node, out| node.path_up(peer, other, out));
        }
    }

    /// A path is closed by one of its ends, or one of them is over.
    pub(super) fn hang_up(&mut self, a: u64, b: u64) {
        if !self.paths.remove(&(a.min(b), a.max(b))) {
            return;
        }
        for (of, other) in [(a, b), (b, a)] {
            let slot = self.lives.get(&other).map(|it| it.slot);
            if let Some(peer) = slot {
                self.with_node(of, |node, out| node.path_down(peer, out));
            }
        }
        self.dial_soon(a, b);
    }

    /// The life at the other end of the path to a slot.
    pub(super) fn reached(&self, life: u64, slot: Slot) -> Option<u64> {
        let of_life = self
            .paths
            .iter()
            .filter_map(|(a, b)| match (*a == life, *b == life) {
                (true, _) => Some(*b),
                (_, true) => Some(*a),
                (false, false) => None,
            });
        let mut there = of_life.filter(|other| self.lives.get(other).is_some_and(|it| it.slot == slot));
        there.next()
    }

    /// A packet leaves.
    pub(super) fn send(&mut self, from: u64, to: Slot, packet: Vec<u8>) {
        let Some(to) = self.reached(from, to) else { return };
        self.counters.packets += 1;
        let is_bad = self.stage == Stage::Trouble;
        if is_bad && self.random.chance(2) {
            self.counters.packets_lost += 1;
            return;
        }
        if is_bad && self.random.chance(2) {
            let delay = self.packet_delay();
            let packet = packet.clone();
            self.later(delay, Event::Packet { from, to, packet });
        }
        let delay = self.packet_delay();
        self.later(delay, Event::Packet { from, to, packet });
    }

    fn packet_delay(&mut self) -> u64 {
        match self.random.below(100) {
            0 => self.random.below(10 * MS),
            1..6 => self.random.below(MS),
            _ => 5_000 + self.random.below(60_000),
        }
    }

    /// A packet arrives, if nothing is in its way.
    pub(super) fn arrive(&mut self, from: u64, to: u64, packet: &[u8]) {
        let (Some(sender), Some(receiver)) = (self.lives.get(&from), self.lives.get(&to)) else {
            return;
        };
        let cut = self.cut_until.get(&(sender.slot, receiver.slot));
        if cut.is_some_and(|until| *until > self.now) {
            self.counters.packets_lost += 1;
            return;
        }
        if !self.paths.contains(&(from.min(to), from.max(to))) {
            return;
        }
        let peer = sender.slot;
        self.note(&[self.now, 4, from, to, packet.len() as u64], || {
            format!("life {to} gets {} bytes of life {from}", packet.len())
        });
        self.with_node(to, |node, out| node.packet(peer, packet, out));
    }
}
