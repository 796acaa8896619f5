//! Lives of nodes, from their start to their end, and what their threads do.

use std::collections::VecDeque;

use super::{Event, LEASE_NS, Life, MS, Order, Stage, TICK_NS, World, slot};
use crate::icl::{DriveSet, Epoch, Slot};
use crate::sim::array::node::{Effect, Heard, Node, Place};
use crate::sim::world::Violation;

impl World {
    pub(super) fn start_life(&mut self, slot: Slot) {
        let has_life = self.lives.values().any(|it| it.slot == slot);
        if has_life || matches!(self.stage, Stage::Leaving | Stage::Over) {
            return;
        }
        let life = self.next_life;
        self.next_life += 1;
        self.counters.lives += 1;
        self.note(&[self.now, 5, life], || {
            format!("life {life} begins at slot {slot}")
        });
        let node = Node::new(Place { slot, life }, &self.setting);
        let it = Life {
            slot,
            node: Some(node),
            learned: Epoch(0),
            orders: VecDeque::new(),
            recovering: None,
            replay_asked: 0,
            usable: DriveSet::EMPTY,
            is_expelled: false,
            is_leaving: false,
            is_drained: false,
            lapses: None,
            paused_until: 0,
            withheld: Vec::new(),
            locks_at: u64::MAX,
        };
        self.lives.insert(life, it);
        self.later(TICK_NS, Event::Tick(life));
        self.decide_soon();
    }

    /// A life is over as it is: what it has under way at drives may still come, until it is fenced.
    pub(in crate::sim::array) fn end_life(&mut self, life: u64) {
        let Some(it) = self.lives.remove(&life) else {
            return;
        };
        self.note(&[self.now, 6, life], || format!("life {life} is over"));
        if let Some(node) = &it.node {
            self.counters += node.counters;
        }
        self.counters.left += u64::from(it.is_drained);
        let paths = self.paths.iter().filter(|(a, b)| *a == life || *b == life);
        for (a, b) in paths.copied().collect::<Vec<_>>() {
            self.paths.remove(&(a, b));
            let (slot, other) = (it.slot, if a == life { b } else { a });
            self.with_node(other, |node, out| node.path_down(slot, out));
        }
        self.life_is_gone(life);
        self.hold_back(life);
        if !matches!(self.stage, Stage::Leaving | Stage::Last | Stage::Over) {
            let delay = match self.random.below(10) {
                0..4 => self.random.below(MS),
                4..8 => self.random.below(60 * MS),
                _ => self.random.below(400 * MS),
            };
            self.later(delay, Event::Start(it.slot));
        }
        self.decide_soon();
    }

    /// The power of everything fails.
    pub(in crate::sim::array) fn cut_power(&mut self) {
        self.counters.cuts += 1;
        self.note(&[self.now, 7], || "power cut".to_owned());
        let lives: Vec<u64> = self.lives.keys().copied().collect();
        for life in lives {
            let it = self.lives.remove(&life).expect("it was listed");
            if let Some(node) = &it.node {
                self.counters += node.counters;
            }
            self.life_is_gone(life);
        }
        for (number, flight) in std::mem::take(&mut self.flights) {
            let drive = &mut self.drives[usize::from(flight.drive)].drive;
            if self.random.chance(50) {
                drive.carry_out_late(number);
            } else {
                drive.forget(number);
            }
        }
        for shared in &mut self.drives {
            shared.drive.cut(&mut self.random);
        }
        self.paths.clear();
        self.mailed.clear();
        self.hosts.cut();
    }

    pub(in crate::sim::array) fn start_soon(&mut self, slots: &[u16]) {
        for number in slots {
            let delay = MS + self.random.below(50 * MS);
            self.later(delay, Event::Start(slot(*number)));
        }
    }

    pub(in crate::sim::array) fn all_slots(&self) -> Vec<u16> {
        (0..self.setting.nodes).collect()
    }

    /// Something for the thread of a life.
    pub(in crate::sim::array) fn order(&mut self, life: u64, order: Order) {
        let Some(it) = self.lives.get_mut(&life) else {
            return;
        };
        it.orders.push_back(order);
        if it.orders.len() == 1 && it.recovering.is_none() {
            let delay = self.random.below(20_000);
            self.later(delay, Event::Thread(life));
        }
    }

    pub(super) fn thread_turn(&mut self, life: u64) {
        loop {
            let Some(it) = self.lives.get_mut(&life) else {
                return;
            };
            if it.recovering.is_some() {
                return; // It is at the drives.
            }
            let Some(order) = it.orders.pop_front() else {
                return;
            };
            let is_drained = it.is_drained;
            self.follow_order(life, order, is_drained);
        }
    }

    pub(super) fn follow_order(&mut self, life: u64, order: Order, is_drained: bool) {
        match order {
            // What others hold does not concern a node that is about to go, and it holds nothing.
            Order::Barrier(record) if is_drained => self.barrier_done(life, record.epoch),
            Order::Recover(epoch, _) if is_drained => self.recovered(life, epoch),
            Order::Barrier(record) => {
                self.note(&[self.now, 9, life, u64::from(record.epoch.0)], || {
                    format!("life {life} enters epoch {}", record.epoch)
                });
                self.with_node(life, |node, out| node.enter_epoch(*record, out));
                self.dial(life);
            }
            Order::Recover(epoch, usable) => {
                self.lives.get_mut(&life).expect("it is there").usable = usable;
                self.with_node(life, |node, out| node.recover(epoch, out));
            }
            Order::Opened(epoch) => self.with_node(life, |node, out| node.opened(epoch, out)),
            Order::Suspect(slots) => self.with_node(life, |node, out| node.suspect(slots, out)),
            Order::Drain => {
                self.lives.get_mut(&life).expect("it is there").is_leaving = true;
                self.close_if_idle(life);
            }
            Order::Control(heard) => match heard {
                Heard::BarrierDone(epoch) => self.barrier_done(life, epoch),
                Heard::RecoverGroup(recovery) => self.begin_recovery(life, recovery),
                Heard::Recovered(epoch) => self.recovered(life, epoch),
                Heard::Stopped => self.drained(life),
                Heard::Failed(why) => {
                    self.note(&[self.now, 13, life], || format!("life {life} gives up: {why}"));
                    self.end_life(life);
                }
                Heard::Unfit(why) => self.violate(Violation::Refused(why)),
            },
        }
    }

    /// Everything of a life is in its place: it stays until an epoch without it is decided.
    pub(super) fn drained(&mut self, life: u64) {
        let it = self.lives.get_mut(&life).expect("it is there");
        let node = it.node.take().expect("it is told once");
        self.counters += node.counters;
        it.is_drained = true;
        self.oracle.drained(life);
        self.note(&[self.now, 10, life], || format!("life {life} is drained"));
        if self.oracle.was_admitted(life) {
            self.decide_soon();
        } else {
            self.end_life(life);
        }
    }

    /// A node that is to leave closes when its hosts are gone.
    pub(in crate::sim::array) fn close_if_idle(&mut self, life: u64) {
        let is_leaving = self
            .lives
            .get(&life)
            .is_some_and(|it| it.is_leaving && !it.is_drained);
        if is_leaving && !self.hosts.is_busy(life) {
            self.with_node(life, |node, out| {
                if !node.is_closing() {
                    node.close(out);
                }
            });
        }
    }

    pub(super) fn covers(&self, life: u64) -> bool {
        self.lives
            .get(&life)
            .is_some_and(|it| it.lapses.is_none_or(|at| self.now < at) && self.now >= it.paused_until)
    }

    /// A node says something to a host, if its lease is good.
    pub(super) fn say(&mut self, life: u64, said: Effect) {
        if self.covers(life) {
            let Effect::Done {
                command,
                result,
                data,
            } = said
            else {
                unreachable!("only hosts are told something")
            };
            self.host_is_told(life, command, result, &data);
            self.end_group_soon(life);
        } else if let Some(it) = self.lives.get_mut(&life) {
            it.withheld.push(said);
        }
    }

    pub(super) fn say_withheld(&mut self, life: u64) {
        if !self.covers(life) {
            return;
        }
        let Some(it) = self.lives.get_mut(&life) else {
            return;
        };
        for said in std::mem::take(&mut it.withheld) {
            self.say(life, said);
        }
    }

    /// The lease of a life is not renewed any more.
    pub(in crate::sim::array) fn lapse(&mut self, life: u64) {
        let after = self.random.below(LEASE_NS);
        let now = self.now;
        if let Some(it) = self.lives.get_mut(&life) {
            it.lapses.get_or_insert(now + after);
        }
    }
}
