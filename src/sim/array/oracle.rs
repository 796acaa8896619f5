//! Who is a member: decides epochs at any moment, and takes each of them through the steps of [`crate::icl::membership`].
//!
//! What it keeps to: one record an epoch, and each has a member that was one in the last and lives, or fences everybody; whoever is left out is fenced on all drives
//! in use, and its lease is over, before the barrier begins; that begins when all members have heard of the record; the leader recovers when all have reported; victims
//! are named until an epoch is known to be open, and whoever was a member admits nobody before the last one is. What it makes worse than any real one:
//! members hear late or never, dead members are kept, and the next epoch is decided in each of these steps.

use std::collections::{BTreeMap, BTreeSet};

use super::Setting;
use super::node::Node;
use super::world::{Event, Life, MS, Order, Stage, World};
use crate::icl::membership::record::{ArbiterRule, EpochRecord, Member};
use crate::icl::{DriveIndex, DriveSet, Epoch, Incarnation, Slot, SlotSet};
use crate::sim::drive::Trouble;

/// Drives that vote and hold nothing else, so that those of the group may be lost.
const WITNESSES: [u8; 3] = [61, 62, 63];

/// How far an epoch is.
#[derive(Debug)]
struct Settlement {
    record: EpochRecord,
    /// What is left to be fenced: drive and life.
    fences: BTreeSet<(u8, u64)>,
    has_begun: bool,
    reported: BTreeSet<u64>,
    is_recovering: bool,
    /// The leader of the group has recovered it, and all members may be told that it is open.
    is_recovered: bool,
    is_open: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    settlements: BTreeMap<Epoch, Settlement>,
    /// Everybody who ever was a member.
    admitted: BTreeSet<u64>,
    /// In which epochs lives have had all kept again.
    restored: BTreeMap<u64, BTreeSet<Epoch>>,
    /// Lives that left in good order.
    drained: BTreeSet<u64>,
    /// Lives that have to go although they live.
    pub(super) unwanted: BTreeSet<u64>,
    is_due: bool,
}

impl Oracle {
    /// The newest epoch.
    pub(super) fn epoch(&self) -> Epoch {
        self.settlements.keys().next_back().copied().unwrap_or(Epoch(0))
    }

    /// How many lives an epoch has.
    pub(super) fn members(&self, epoch: Epoch) -> usize {
        let settlement = self.settlements.get(&epoch);
        settlement.map_or(0, |settlement| lives_of(&settlement.record).count())
    }

    /// Whether a life ever was a member.
    pub(super) fn was_admitted(&self, life: u64) -> bool {
        self.admitted.contains(&life)
    }

    /// A life has brought to the drives, or given to its partners of this epoch, all that it has acknowledged before.
    pub(super) fn restored(&mut self, life: u64, epoch: Epoch) {
        self.restored.entry(life).or_default().insert(epoch);
    }

    /// A life is about to leave with nothing in memory alone.
    pub(super) fn drained(&mut self, life: u64) {
        self.drained.insert(life);
    }

    /// Whether nothing that a life in a slot has acknowledged can have been lost with it, as the life `by` has to know.
    pub(super) fn has_keeper(&self, slot: Slot, by: u64, setting: &Setting) -> bool {
        let replication = &setting.replication;
        let Some(now) = self.newest() else { return false };
        let is_there = |life: u64| lives_of(&now.record).any(|other| other == life);
        let own = |settlement: &Settlement| Some(settlement.record.member(slot)?.incarnation.0);
        let mut newer = self.settlements.values().rev();
        let last_open = newer.position(|settlement| settlement.is_open);
        let recent = 1 + last_open.unwrap_or(self.settlements.len());
        let gone: BTreeSet<u64> = self
            .settlements
            .values()
            .rev()
            .take(recent)
            .filter_map(own)
            .filter(|life| !is_there(*life) && !self.drained.contains(life))
            .collect();
        // That the last of the epochs in which all was kept again was one may be known to nobody else.
        let kept_since = |life: &u64| {
            let mut restored = self.restored.get(life)?.iter().rev();
            restored.nth(1).copied()
        };
        gone.iter().all(|life| {
            let since = kept_since(life).unwrap_or(Epoch(0));
            let mut theirs = self.settlements.range(since..).filter(|(_, settlement)| {
                // Nobody serves before the group's leader has recovered it, and nobody else knows that it has not.
                let leader = setting.group_leader(&settlement.record).incarnation.0;
                let may_serve = settlement.is_recovered || leader != by;
                may_serve && own(settlement) == Some(*life)
            });
            theirs.all(|(_, settlement)| {
                let record = &settlement.record;
                let partners = replication.partners(slot, record.slots());
                let mut keepers = record
                    .members
                    .iter()
                    .filter(|member| partners.contains(member.slot));
                partners == SlotSet::EMPTY || keepers.any(|member| is_there(member.incarnation.0))
            })
        })
    }

    fn newest(&self) -> Option<&Settlement> {
        self.settlements.values().next_back()
    }

    /// Who leads the group in the newest epoch.
    pub(super) fn group_leader(&self, setting: &Setting) -> Option<u64> {
        let newest = self.newest()?;
        Some(setting.group_leader(&newest.record).incarnation.0)
    }

    /// Whether its leader has opened an epoch.
    pub(super) fn is_open(&self, epoch: Epoch) -> bool {
        self.settlements
            .get(&epoch)
            .is_some_and(|settlement| settlement.is_open)
    }

    /// What it waits for, for people.
    pub(super) fn unfinished(&self) -> String {
        let newest = self.newest().map(|newest| {
            let members = newest
                .record
                .members
                .iter()
                .map(|member| (member.slot.number(), member.incarnation.0));
            format!(
                "epoch {} of {:?}, fences {:?} begun {} reported {:?} recovering {} open {}",
                newest.record.epoch,
                members.collect::<Vec<_>>(),
                newest.fences,
                newest.has_begun,
                newest.reported,
                newest.is_recovering,
                newest.is_open
            )
        });
        newest.unwrap_or_default()
    }
}

fn index(drive: u8) -> DriveIndex {
    DriveIndex::new(drive).expect("an array has so many drives")
}

fn lives_of(record: &EpochRecord) -> impl Iterator<Item = u64> + '_ {
    record.members.iter().map(|member| member.incarnation.0)
}

// The decision.
impl World {
    /// There may be something to decide.
    pub(super) fn decide_soon(&mut self) {
        if !std::mem::replace(&mut self.oracle.is_due, true) {
            let delay = match self.random.below(10) {
                0..3 => self.random.below(MS),
                3..8 => self.random.below(20 * MS),
                _ => self.random.below(80 * MS),
            };
            self.later(delay, Event::Decide);
        }
    }

    pub(super) fn decide(&mut self) {
        self.oracle.is_due = false;
        if self.stage == Stage::Over {
            return;
        }
        let last = self.oracle.newest().map(|newest| newest.record.clone());
        let lives = last.as_ref().is_some_and(|last| {
            let lives = |life: u64| self.lives.get(&life).is_some_and(|it| !it.is_expelled);
            lives_of(last).any(lives)
        });
        match last {
            Some(last) if lives => self.go_on_with(&last),
            last => self.start_array(last.as_ref()),
        }
    }

    /// Drives that are to be in use: all but those that do not answer, as long as that is enough.
    fn drives_to_use(&mut self) -> Option<DriveSet> {
        let members = self.setting.shape.members;
        let gone = |drive: &u8| self.drives[usize::from(*drive)].drive.trouble() == Some(Trouble::Gone);
        let without = (0..members)
            .filter(gone)
            .fold(0u32, |mask, drive| mask | 1 << drive);
        if !self.setting.shape.level.survives(members, without) {
            return None;
        }
        let used = (0..members).filter(|drive| without >> drive & 1 == 0);
        Some(used.chain(WITNESSES).map(index).collect())
    }

    /// Somebody lives who was a member of the last epoch.
    fn go_on_with(&mut self, last: &EpochRecord) {
        let mut members: Vec<Member> = Vec::new();
        let mut is_passing = false;
        let unwanted = self.oracle.unwanted.clone();
        for member in &last.members {
            let life = member.incarnation.0;
            let keeps = match self.lives.get(&life) {
                Some(it) => !it.is_expelled && !it.is_drained && !unwanted.contains(&life),
                // Nobody has noticed.
                None => self.stage == Stage::Trouble && self.random.chance(15),
            };
            is_passing |= keeps && !self.lives.contains_key(&life);
            if keeps {
                members.push(*member);
            }
        }
        let lives = |member: &Member| self.lives.contains_key(&member.incarnation.0);
        if !members.iter().any(lives) {
            // One of those that live decides, and stays.
            let stays = last.members.iter().filter(|member| lives(member));
            let stays = stays.min_by_key(|member| {
                let it = &self.lives[&member.incarnation.0];
                (it.is_expelled, it.is_drained)
            });
            let stays = *stays.expect("somebody lives");
            self.oracle.unwanted.remove(&stays.incarnation.0);
            // Who leaves stays as long as nobody else is there to go on.
            is_passing |= self.lives[&stays.incarnation.0].is_drained;
            members = vec![stays];
        }
        let epoch = last.epoch.next();
        if self.oracle.newest().is_some_and(|newest| newest.is_open) {
            self.admit(epoch, &mut members);
        }
        let Some(drives) = self.drives_to_use() else {
            return self.decide_later(); // No choice is good enough.
        };
        let newest = self.oracle.newest().expect("there is a last one");
        let is_same = members == last.members && drives == last.drives;
        let is_idle = is_same && (newest.is_open || self.random.chance(50));
        if is_idle && !(self.stage == Stage::Trouble && self.random.chance(30)) {
            return self.decide_if_due();
        }
        let is_victim = |victim: &Member| !members.iter().any(|member| member.key == victim.key);
        let earlier = (!newest.is_open)
            .then_some(last.victims.iter())
            .into_iter()
            .flatten();
        let victims: BTreeMap<_, Member> = earlier
            .chain(&last.members)
            .filter(|victim| is_victim(victim))
            .map(|victim| (victim.key, *victim))
            .collect();
        let fence_all = last.fence_all && !newest.is_open;
        let victims = if fence_all {
            // Where everyone is fenced, everyone gets a new key.
            for member in &mut members {
                *member = member_of(epoch, member.slot, member.incarnation.0);
            }
            Vec::new()
        } else {
            victims.into_values().collect()
        };
        let record = self.record_of(epoch, members, victims, drives, fence_all);
        self.decided(record);
        if is_passing {
            self.decide_soon();
        }
    }

    fn decide_later(&mut self) {
        if !std::mem::replace(&mut self.oracle.is_due, true) {
            self.later(20 * MS, Event::Decide);
        }
    }

    /// Somebody may be waiting who could not be let in, or be to go.
    fn decide_if_due(&mut self) {
        let newest = self.oracle.newest().map(|newest| newest.record.clone());
        let Some(record) = newest else { return };
        let waits = self
            .lives
            .iter()
            .any(|(life, it)| !it.is_drained && !lives_of(&record).any(|member| member == *life));
        if waits || !self.oracle.newest().is_some_and(|newest| newest.is_open) {
            self.decide_later();
        }
    }

    /// Lets lives in that wait for it.
    fn admit(&self, epoch: Epoch, members: &mut Vec<Member>) {
        let waiting: Vec<(u64, Slot)> = self
            .lives
            .iter()
            .filter(|(life, it)| !self.oracle.admitted.contains(life) && !it.is_leaving)
            .map(|(life, it)| (*life, it.slot))
            .collect();
        for (life, slot) in waiting {
            members.retain(|member| member.slot != slot || self.lives.contains_key(&member.incarnation.0));
            if members.iter().all(|member| member.slot != slot) {
                members.push(member_of(epoch, slot, life));
            }
        }
        members.sort_by_key(|member| member.slot);
    }

    /// Nobody lives who was a member: whoever is there starts the array.
    fn start_array(&mut self, last: Option<&EpochRecord>) {
        let epoch = last.map_or(Epoch(1), |last| last.epoch.next());
        let mut members = Vec::new();
        self.admit(epoch, &mut members);
        let Some(drives) = self.drives_to_use().filter(|_| !members.is_empty()) else {
            if !members.is_empty() {
                self.decide_later();
            }
            return;
        };
        if self.random.chance(50) {
            let stays = self.random.index(members.len());
            members = vec![members[stays]];
        }
        let is_new = last.is_none();
        let record = self.record_of(epoch, members, Vec::new(), drives, !is_new);
        self.decided(record);
        self.decide_soon();
    }

    fn record_of(
        &self,
        epoch: Epoch,
        members: Vec<Member>,
        victims: Vec<Member>,
        drives: DriveSet,
        fence_all: bool,
    ) -> EpochRecord {
        let record = EpochRecord {
            epoch,
            arbiter: ArbiterRule::of(members.len()),
            members,
            victims,
            fence_all,
            drives,
            voters: WITNESSES.into_iter().map(index).collect(),
            generation: 0,
            clean: false,
            dirty_ram: false,
        };
        assert_eq!(record.check(), Ok(()), "it is one that could be decided");
        record
    }

    fn decided(&mut self, record: EpochRecord) {
        let epoch = record.epoch;
        self.counters.epochs += 1;
        self.note(&[self.now, 20, u64::from(epoch.0)], || {
            let members: Vec<(u8, u64)> = record
                .members
                .iter()
                .map(|member| (member.slot.number(), member.incarnation.0))
                .collect();
            format!(
                "epoch {epoch} is decided: {members:?} drives {:#x}",
                record.drives.0
            )
        });
        let members: BTreeSet<u64> = lives_of(&record).collect();
        let victims: BTreeSet<u64> = if record.fence_all {
            // Who was never let in has no key that could be taken away.
            self.oracle.admitted.difference(&members).copied().collect()
        } else {
            record.victims.iter().map(|victim| victim.incarnation.0).collect()
        };
        let drives = 0..self.setting.shape.members;
        let drives = drives.filter(|drive| record.drives.contains(index(*drive)));
        let mut fences = BTreeSet::new();
        for drive in drives {
            for victim in &victims {
                if !self.drives[usize::from(drive)].fenced.contains(victim) {
                    fences.insert((drive, *victim));
                    let delay = 100_000 + self.random.below(15 * MS);
                    let victim = *victim;
                    self.later(delay, Event::Fence { drive, victim });
                }
            }
        }
        self.oracle.admitted.extend(&members);
        self.counters.evicted += victims
            .iter()
            .filter(|life| self.lives.get(life).is_some_and(|it| !it.is_drained))
            .count() as u64;
        for life in members.iter().chain(&victims).copied() {
            // Whoever is left out may hear of it last.
            let latest = if victims.contains(&life) { 6 } else { 1 };
            let delay = match self.random.below(20) {
                late if late < latest => self.random.below(150 * MS),
                1..8 => self.random.below(20 * MS),
                _ => self.random.below(2 * MS),
            };
            self.later(delay, Event::Learn { life, epoch });
        }
        let settlement = Settlement {
            record,
            fences,
            has_begun: false,
            reported: BTreeSet::new(),
            is_recovering: false,
            is_recovered: false,
            is_open: false,
        };
        self.oracle.settlements.insert(epoch, settlement);
    }
}

fn member_of(epoch: Epoch, slot: Slot, life: u64) -> Member {
    Member {
        slot,
        incarnation: Incarnation(life),
        key: slot.key(epoch, u32::try_from(life).expect("few lives")),
    }
}

// The steps.
impl World {
    /// A life hears of an epoch.
    pub(super) fn learn(&mut self, life: u64, epoch: Epoch) {
        let Some(it) = self.lives.get_mut(&life) else {
            return;
        };
        if it.learned >= epoch {
            return;
        }
        it.learned = epoch;
        let record = &self.oracle.settlements[&epoch].record;
        if record.names(it.slot, Incarnation(life)) {
            return self.progress(epoch);
        }
        // It is left out, or has left.
        let delay = self.random.below(10 * MS);
        self.later(delay, Event::End(life));
    }

    pub(super) fn fenced(&mut self, drive: u8, victim: u64) {
        let mut done = Vec::new();
        for (epoch, settlement) in &mut self.oracle.settlements {
            settlement.fences.remove(&(drive, victim));
            if settlement.fences.is_empty() && !settlement.has_begun {
                done.push(*epoch);
            }
        }
        self.lapse(victim);
        for epoch in done {
            self.progress(epoch);
        }
    }

    /// Whether a life is in this epoch, as far as it knows.
    fn is_at(&self, life: u64, epoch: Epoch) -> bool {
        self.lives.get(&life).is_some_and(|it| it.learned == epoch)
    }

    /// Goes on with an epoch as far as that may be.
    pub(super) fn progress(&mut self, epoch: Epoch) {
        let Some(settlement) = self.oracle.settlements.get(&epoch) else {
            return;
        };
        let record = &settlement.record;
        let leader = record.senior_leader().incarnation.0;
        if settlement.is_open || !self.is_at(leader, epoch) {
            return;
        }
        if !settlement.has_begun {
            if !settlement.fences.is_empty() || !lives_of(record).all(|life| self.is_at(life, epoch)) {
                return;
            }
            let victims = self.lives.iter().filter(|(life, it)| {
                let is_member = lives_of(record).any(|member| member == **life);
                !is_member && it.lapses.is_some()
            });
            let until = victims.filter_map(|(_, it)| it.lapses).max().unwrap_or(0);
            if until > self.now {
                return self.later(until - self.now, Event::Progress(epoch));
            }
            let (record, members): (EpochRecord, Vec<u64>) = (record.clone(), lives_of(record).collect());
            self.oracle
                .settlements
                .get_mut(&epoch)
                .expect("it is there")
                .has_begun = true;
            for life in members {
                let order = Order::Barrier(Box::new(record.clone()));
                let delay = self.step_delay();
                self.later(delay, Event::Order { life, order });
            }
            return;
        }
        let have_reported = lives_of(record).all(|life| settlement.reported.contains(&life));
        if have_reported && !settlement.is_recovering {
            let order = Order::Recover(epoch, record.drives);
            let life = self.setting.group_leader(record).incarnation.0;
            self.oracle
                .settlements
                .get_mut(&epoch)
                .expect("it is there")
                .is_recovering = true;
            let delay = self.step_delay();
            self.later(delay, Event::Order { life, order });
        }
    }

    fn step_delay(&mut self) -> u64 {
        match self.random.below(20) {
            0 => self.random.below(60 * MS),
            1..4 => self.random.below(6 * MS),
            _ => self.random.below(500_000),
        }
    }

    /// Whether what membership has for the thread of a life is still of its epoch.
    pub(super) fn is_due(&self, life: u64, order: &Order) -> bool {
        match order {
            Order::Barrier(record) => self.is_at(life, record.epoch),
            Order::Recover(epoch, _) | Order::Opened(epoch) => self.is_at(life, *epoch),
            Order::Suspect(_) | Order::Drain | Order::Control(_) => true,
        }
    }

    /// A life has reported its locks.
    pub(super) fn barrier_done(&mut self, life: u64, epoch: Epoch) {
        if self.is_at(life, epoch)
            && let Some(settlement) = self.oracle.settlements.get_mut(&epoch)
        {
            settlement.reported.insert(life);
            self.progress(epoch);
        }
    }

    /// The leader of the group has recovered it.
    pub(super) fn recovered(&mut self, life: u64, epoch: Epoch) {
        let Some(settlement) = self.oracle.settlements.get_mut(&epoch) else {
            return;
        };
        let is_leader = self.setting.group_leader(&settlement.record).incarnation.0 == life;
        let is_at = self.lives.get(&life).is_some_and(|it| it.learned == epoch);
        if !is_leader || !is_at || !settlement.is_recovering || settlement.is_recovered {
            return;
        }
        settlement.is_recovered = true;
        if settlement.record.senior_leader().incarnation.0 == life {
            return self.open(epoch);
        }
        let delay = self.step_delay();
        self.later(delay, Event::Open(epoch));
    }

    /// The leader has heard that the group is recovered: all may serve it.
    pub(super) fn open(&mut self, epoch: Epoch) {
        let Some(settlement) = self.oracle.settlements.get_mut(&epoch) else {
            return;
        };
        let leader = settlement.record.senior_leader().incarnation.0;
        if self.lives.get(&leader).is_none_or(|it| it.learned != epoch) {
            return; // It is not there any more, or in another epoch.
        }
        settlement.is_open = true;
        let members: Vec<u64> = lives_of(&settlement.record).collect();
        self.counters.opened += 1;
        self.note(&[self.now, 21, u64::from(epoch.0)], || {
            format!("epoch {epoch} is open")
        });
        self.hosts_find_out(epoch, &members);
        let group_leader = self.setting.group_leader(&self.oracle.settlements[&epoch].record);
        let group_leader = group_leader.incarnation.0;
        // At times all others serve long before the group's leader has heard that they may.
        let is_late = self.stage == Stage::Trouble && self.setting.is_reckless && self.random.chance(20);
        for member in members {
            let order = Order::Opened(epoch);
            let delay = if member == leader { 0 } else { self.step_delay() };
            let later = if is_late && member == group_leader {
                40 * MS
            } else {
                0
            };
            self.later(delay + later, Event::Order { life: member, order });
        }
        self.decide_if_due();
    }

    /// A life is gone.
    pub(super) fn life_is_gone(&mut self, life: u64) {
        self.oracle.unwanted.remove(&life);
        self.hosts_lose(life);
    }

    /// Lives that were left out of an epoch, whether or not they have noticed.
    pub(super) fn is_member(&self, life: u64, epoch: Epoch) -> bool {
        let settlement = self.oracle.settlements.get(&epoch);
        settlement.is_some_and(|settlement| lives_of(&settlement.record).any(|member| member == life))
    }

    /// Nodes that hosts may come to.
    pub(super) fn serving(&self) -> Vec<u64> {
        let serves = |node: &Node| node.disk().is_some();
        let lives = self.lives.iter();
        let is_there = |it: &Life| !it.is_leaving && it.paused_until <= self.now;
        let lives = lives.filter(|(_, it)| is_there(it) && it.node.as_ref().is_some_and(serves));
        lives.map(|(life, _)| *life).collect()
    }
}
