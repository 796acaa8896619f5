//! What goes wrong, and what a run waits for when nothing does any more.

use super::{Event, Life, MS, Order, Stage, World, slot};
use crate::amf::replication::ReplicationMode;
use crate::icl::SlotSet;
use crate::sim::array::node::Node;
use crate::sim::drive::Trouble;
use crate::sim::world::Violation;

impl World {
    pub(super) fn any_life(&mut self) -> Option<u64> {
        let lives: Vec<u64> = self.lives.keys().copied().collect();
        (!lives.is_empty()).then(|| lives[self.random.index(lives.len())])
    }

    pub(super) fn trouble(&mut self) {
        if self.stage != Stage::Trouble {
            return;
        }
        let next = MS + self.random.below(90 * MS);
        self.later(next, Event::Trouble);
        let Some(life) = self.any_life() else { return };
        let is_in_memory = self.setting.is_in_memory();
        match self.random.below(100) {
            0..44 | 94.. if is_in_memory && !self.may_lose() && !self.may_be_reckless() => {}
            // Who is left out, or falls silent, may go on telling hosts what nobody else will have.
            25..37 | 70..94 if self.setting.mode != ReplicationMode::Sync => {}
            0..25 => self.end_life(life),
            94.. if is_in_memory => self.end_group(life),
            25..37 => {
                self.oracle.unwanted.insert(life);
                self.decide_soon();
            }
            37..44 => self.order(life, Order::Drain),
            44..58 => self.decide_soon(),
            58..66 => self.lose_drive(Trouble::Gone),
            66..70 => self.lose_drive(Trouble::Error),
            70..82 => {
                let (a, b) = (self.random.below(8), self.random.below(8));
                let until = self.now + self.random.below(40 * MS);
                let [a, b] = [a, b].map(|number| slot(u16::try_from(number).expect("below 8")));
                self.cut_until.insert((a, b), until);
                if self.random.chance(50) {
                    self.cut_until.insert((b, a), until);
                }
            }
            82..88 => {
                let other = self.any_life().and_then(|other| self.lives.get(&other));
                let slots = other.map_or(SlotSet::EMPTY, |it| SlotSet::EMPTY.with(it.slot));
                self.order(life, Order::Suspect(slots));
                let delay = self.random.below(50 * MS);
                let order = Order::Suspect(SlotSet::EMPTY);
                self.later(delay, Event::Order { life, order });
            }
            88..94 => {
                let until = self.now + self.random.below(60 * MS);
                let it = self.lives.get_mut(&life).expect("it was drawn");
                it.paused_until = it.paused_until.max(until);
                self.counters.pauses += 1;
            }
            94..97 => {
                for life in self.lives.keys().copied().collect::<Vec<u64>>() {
                    self.end_life(life);
                }
            }
            _ => {
                self.cut_power();
                for drive in 0..self.drives.len() {
                    if self.random.chance(50) {
                        self.drives[drive].drive.recover();
                    }
                }
                self.was_too_much = self.is_too_much();
                self.start_soon(&self.all_slots());
            }
        }
    }

    /// A node has begun to bring up to date what others have left: a drive may fail before it is through, or one that has failed come back.
    pub(in crate::sim::array) fn strike_soon(&mut self) {
        if self.setting.strikes && self.stage == Stage::Trouble {
            let delay = self.random.below(20 * MS);
            self.later(delay, Event::Strike);
        }
    }

    /// The time for that has come.
    pub(super) fn strike(&mut self) {
        if self.stage != Stage::Trouble {
            return;
        }
        self.counters.strikes += 1;
        match self.random.below(4) {
            0 => {
                let drive = self.random.index(self.drives.len());
                self.drives[drive].drive.recover();
            }
            1 => self.lose_drive(Trouble::Error),
            _ => self.lose_drive(Trouble::Gone),
        }
    }

    /// A host was told something that the drives do not have yet: at times that is the last that it hears of a whole replication group, or of all but the group's leader.
    pub(super) fn end_group_soon(&mut self, life: u64) {
        let node = self.lives.get(&life).and_then(|it| it.node.as_ref());
        if self.stage != Stage::Trouble || !node.is_some_and(Node::is_ahead_of_drives) {
            return;
        }
        let ends = if self.setting.is_reckless {
            self.all_but_the_leader()
        } else if !self.setting.groups.is_empty() && self.random.chance(15) {
            vec![life]
        } else {
            Vec::new()
        };
        for life in ends {
            let delay = self.random.below(1000);
            self.later(delay, Event::EndGroup(life));
        }
    }

    /// Seldom; but often where the leader of the group does not serve yet.
    fn all_but_the_leader(&mut self) -> Vec<u64> {
        let epoch = self.oracle.epoch();
        let leader = self.oracle.group_leader(&self.setting);
        let node = leader.and_then(|leader| self.lives.get(&leader)?.node.as_ref());
        let serves = node.is_some_and(|node| node.serves() && node.epoch() == epoch);
        if !self.random.chance(if serves { 2 } else { 50 }) {
            return Vec::new();
        }
        let others = self.lives.keys().filter(|life| Some(**life) != leader);
        others.copied().collect()
    }

    /// The time for that has come.
    pub(super) fn end_group_now(&mut self, life: u64) {
        let is_trouble = self.stage == Stage::Trouble && self.lives.contains_key(&life);
        if is_trouble && (self.may_lose() || self.may_be_reckless()) {
            self.end_group(life);
        }
    }

    /// All nodes of a replication group go at once, if they are in any and somebody is left.
    fn end_group(&mut self, life: u64) {
        let slot_of = |life: &u64| self.lives[life].slot;
        let slot = slot_of(&life);
        let group = self.setting.groups.iter().find(|group| group.contains(slot));
        let alone = SlotSet::EMPTY.with(slot);
        let group = *group.unwrap_or(&alone);
        let (inside, outside): (Vec<u64>, Vec<u64>) =
            self.lives.keys().partition(|life| group.contains(slot_of(life)));
        if outside.is_empty() {
            return self.end_life(life);
        }
        self.counters.groups_ended += u64::from(inside.len() > 1);
        for life in inside {
            self.end_life(life);
        }
    }

    /// Whether a node may go although nobody else has what it has acknowledged: somebody is left who has to say so.
    fn may_be_reckless(&mut self) -> bool {
        let may_be = self.setting.is_reckless && self.lives.len() > 1;
        self.was_reckless |= may_be;
        may_be
    }

    /// Whether a node, or a replication group, may go where nodes acknowledge from memory: all are there and have partners again for all that they have acknowledged.
    fn may_lose(&self) -> bool {
        let epoch = self.oracle.epoch();
        let is_sound = |it: &Life| {
            let is_told_to_leave = it.orders.iter().any(|order| matches!(order, Order::Drain));
            let node = it.node.as_ref().filter(|_| !it.is_leaving && !is_told_to_leave);
            node.is_some_and(|node| node.serves() && node.epoch() == epoch && node.is_kept())
        };
        let is_member = |life: &u64| self.is_member(*life, epoch);
        let members = self.oracle.members(epoch);
        self.oracle.unwanted.is_empty()
            && members > 1
            && members == self.lives.len()
            && self.lives.keys().all(is_member)
            && self.lives.values().all(is_sound)
    }

    pub(in crate::sim::array) fn is_too_much(&self) -> bool {
        let shape = &self.setting.shape;
        !shape.level.survives(shape.members, self.harmed)
    }

    pub(super) fn lose_drive(&mut self, trouble: Trouble) {
        let drive = self.random.index(self.drives.len());
        let shape = &self.setting.shape;
        let harmed = self.harmed | 1 << drive;
        let survives = shape.level.survives(shape.members, harmed);
        let may_fail = self.setting.may_fail && self.random.chance(30);
        if !survives && !may_fail || self.hosts.history.is_none() {
            return;
        }
        self.counters.lost += u64::from(harmed != self.harmed);
        self.harmed = harmed;
        self.was_too_much |= self.is_too_much();
        self.drives[drive].drive.begin(trouble);
        self.note(&[self.now, 11, drive as u64], || {
            format!("drive {drive}: {}", trouble.name())
        });
        if self.random.chance(60) {
            self.decide_soon();
        }
    }

    pub(super) fn heal(&mut self) {
        self.note(&[self.now, 12], || "nothing goes wrong any more".to_owned());
        self.stage = Stage::Healing;
        self.healed_at = self.now;
        for shared in &mut self.drives {
            shared.drive.recover();
        }
        self.cut_until.clear();
        self.oracle.unwanted.clear();
        for life in self.lives.keys().copied().collect::<Vec<u64>>() {
            let order = Order::Suspect(SlotSet::EMPTY);
            self.order(life, order);
        }
        self.start_soon(&self.all_slots());
        self.decide_soon();
    }

    /// Goes on to the next stage if what the present one waits for is there.
    pub(super) fn look_around(&mut self) {
        match self.stage {
            Stage::Healing => self.look_at_healing(),
            Stage::Leaving => {
                let is_last = self.lives.values().all(|it| it.is_drained);
                if is_last && self.flights.is_empty() {
                    self.stage = Stage::Over;
                    self.audit();
                }
            }
            Stage::Last => {
                let serves = |it: &Life| it.node.as_ref().is_some_and(Node::serves);
                let is_quiet = self.flights.is_empty() && !self.lives.is_empty();
                if is_quiet && self.lives.values().all(serves) {
                    self.stage = Stage::Over;
                    self.audit();
                } else {
                    self.judge_refusals();
                }
            }
            Stage::Trouble | Stage::Over => {}
        }
    }

    /// Why a node of the newest epoch does not serve the group.
    fn refused(&self) -> Option<&str> {
        let nodes = self.lives.values().filter_map(|it| it.node.as_ref());
        let mut nodes = nodes.filter(|node| node.epoch() == self.oracle.epoch());
        nodes.find_map(Node::refused)
    }

    /// A group may be refused only if more was lost than it survives, or if what is away may be newer.
    pub(super) fn judge_refusals(&mut self) {
        if let Some(why) = self.refused()
            && !self.was_too_much
            && !self.may_be_newer
        {
            let what = format!("{why}; harmed {:#b}", self.harmed);
            self.violate(Violation::Refused(what));
        }
    }

    pub(super) fn look_at_healing(&mut self) {
        let nodes = || self.lives.values().filter_map(|it| it.node.as_ref());
        if self.refused().is_some() {
            self.judge_refusals();
            // Stop all nodes, and start them when the drives are back.
            self.cut_power();
            (self.harmed, self.was_too_much, self.may_be_newer) = (0, false, false);
            for shared in &mut self.drives {
                shared.drive.recover();
            }
            return self.start_soon(&self.all_slots());
        }
        let is_whole = self.lives.len() == usize::from(self.setting.nodes)
            && self.lives.values().all(|it| !it.is_leaving)
            && nodes().all(|node| node.serves() && node.epoch() == self.oracle.epoch());
        if !is_whole || !self.hosts.are_done(self.now, self.setting.trouble_ns) {
            return;
        }
        if self.setting.ends_dark {
            self.stage = Stage::Last;
            self.cut_power();
            let number = self.random.below(u64::from(self.setting.nodes));
            self.start_soon(&[u16::try_from(number).expect("few nodes")]);
        } else {
            self.stage = Stage::Leaving;
            for life in self.lives.keys().copied().collect::<Vec<u64>>() {
                let order = Order::Drain;
                let delay = self.random.below(30 * MS);
                self.later(delay, Event::Order { life, order });
            }
        }
    }
}
