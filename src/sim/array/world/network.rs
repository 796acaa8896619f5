//! What lives say to each other.

use super::{Event, MS, World};
use crate::icl::{Epoch, Slot};
use crate::sim::array::node::Node;

impl World {
    pub(super) fn send(&mut self, from: u64, to: Slot, kind: u16, bytes: Vec<u8>) {
        let Some(node) = self.lives.get(&from).and_then(|it| it.node.as_ref()) else {
            return;
        };
        let Some(record) = node.record() else { return };
        let Some(member) = record.member(to) else { return };
        let (to, epoch) = (member.incarnation.0, record.epoch);
        self.counters.messages += 1;
        let wire = self.wires.entry((from, to)).or_default();
        wire.push_back((epoch, kind, bytes));
        if wire.len() == 1 {
            let delay = self.wire_delay();
            self.later(delay, Event::Wire { from, to });
        }
    }

    pub(super) fn wire_delay(&mut self) -> u64 {
        match self.random.below(100) {
            0..2 => self.random.below(20 * MS),
            2..10 => self.random.below(MS),
            _ => 5_000 + self.random.below(60_000),
        }
    }

    pub(super) fn arrive(&mut self, from: u64, to: u64) {
        let Some(wire) = self.wires.get(&(from, to)) else {
            return;
        };
        let Some((epoch, ..)) = wire.front() else { return };
        let epoch = *epoch;
        let Some(it) = self.lives.get(&to).filter(|it| it.node.is_some()) else {
            self.wires.remove(&(from, to));
            return;
        };
        let own = it.node.as_ref().map_or(Epoch(0), Node::epoch);
        let until = self.lives.get(&from).and_then(|sender| {
            let cut = self.cut_until.get(&(sender.slot, it.slot));
            cut.copied().filter(|until| *until > self.now)
        });
        if epoch > own || until.is_some() {
            let delay = until.map_or(500_000, |until| until - self.now);
            return self.later(delay, Event::Wire { from, to });
        }
        let wire = self.wires.get_mut(&(from, to)).expect("it was there");
        let (epoch, kind, bytes) = wire.pop_front().expect("it has a front");
        if wire.is_empty() {
            self.wires.remove(&(from, to));
        } else {
            let delay = self.wire_delay();
            self.later(delay, Event::Wire { from, to });
        }
        let node = self.lives[&to].node.as_ref().expect("it was there");
        let record = node.record().expect("an epoch was entered");
        let sender = record.members.iter().find(|member| member.incarnation.0 == from);
        let Some(sender) = sender.filter(|_| epoch == own).map(|member| member.slot) else {
            return; // Of an older epoch: it is dropped unread.
        };
        self.note(&[self.now, 4, from, to, u64::from(kind)], || {
            format!("life {to} hears kind {kind} of life {from} in epoch {epoch}")
        });
        self.with_node(to, |node, out| {
            node.receive(sender, epoch, (kind, &bytes), out);
        });
    }

    /// A life has entered an epoch: what it has said before is forgotten.
    pub(in crate::sim::array) fn forget_said(&mut self, life: u64) {
        self.wires.retain(|(from, _), _| *from != life);
    }
}
