//! Seeing that another set of nodes or drives is needed, and having it decided.

use super::{Action, Answer, Command, Machine, Purpose};
use crate::icl::membership::authority::Authority;
use crate::icl::membership::choice::{Candidate, Choice, choose, kept};
use crate::icl::membership::message::{Announcement, Standing, Step};
use crate::icl::membership::paxos;
use crate::icl::membership::record::{ArbiterRule, EpochRecord, Member};
use crate::icl::membership::status::Halt;
use crate::icl::membership::times::{COMPONENT_NS, IO_NS, MINORITY_NS, SUSPECT_NS};
use crate::icl::membership::{DriveIndex, DriveSet, Epoch, Incarnation, Node, SLOTS, Slot, SlotSet};

impl<A: Authority> Machine<A> {
    /// Looks whether the record still is what the nodes and drives allow, and proposes another one if this node is to.
    pub(super) fn consider(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        if self
            .proposal
            .as_ref()
            .is_some_and(|proposal| !proposal.is_waiting_to_begin())
        {
            return;
        }
        let Some(record) = self.due_proposal(now_ns) else {
            self.end_proposal();
            return;
        };
        // Whoever is silenced by the same cut is suspected within a heartbeat: one epoch leaves them all out.
        let unsure = record.slots().minus(self.peers.heard_lately(now_ns));
        if self.inside.is_some() && unsure.without(self.config.slot) != SlotSet::EMPTY {
            self.end_proposal();
            return;
        }
        match &self.proposal {
            Some(waiting) if *waiting.record() == record => return,
            // More is known by now.
            Some(_) => self.end_proposal(),
            None => self.waits_since_ns = now_ns,
        }
        let own = Node {
            slot: self.config.slot,
            incarnation: self.config.incarnation,
        };
        let begins_ns = self.waits_since_ns + self.wait_ns(now_ns, record.slots());
        self.proposal = Some(A::propose(begins_ns, own, record, self.expelled));
        self.drive_proposal(now_ns, paxos::Event::Tick, out);
    }

    /// How long others have to propose first, who may hear more: those of these slots that are still there stand behind this node.
    fn wait_ns(&self, now_ns: u64, slots: SlotSet) -> u64 {
        let behind = slots.and(self.peers.heard_lately(now_ns).with(self.config.slot));
        let against = match (&self.record, &self.inside) {
            (Some(record), Some(_)) => {
                let others = record
                    .members
                    .iter()
                    .filter(|member| !behind.contains(member.slot));
                others.filter(|member| !self.peers.goes(member)).count()
            }
            (Some(_) | None, Some(_) | None) => 0,
        };
        head_start_ns(behind.count() as usize, against)
    }

    /// The record that this node is to propose now.
    fn due_proposal(&mut self, now_ns: u64) -> Option<EpochRecord> {
        let is_member = self.inside.is_some();
        if !is_member && !self.may_start(now_ns) {
            return None;
        }
        if let Some(last) = self.last_record(now_ns) {
            return Some(last);
        }
        let drives = self.drives_wanted();
        let all = self.candidates(now_ns);
        let candidates = match kept(self.rules(drives), &all) {
            Some(kept) => reaching(&all, kept),
            None => all.clone(),
        };
        let best = choose(self.rules(drives), &candidates, SlotSet::EMPTY);
        let own = SlotSet::EMPTY.with(self.config.slot);
        if is_member && !self.is_change(now_ns, best) {
            self.deviates_since_ns = None;
            return None;
        }
        let since_ns = *self.deviates_since_ns.get_or_insert(now_ns);
        let is_alone_in_knowing = self.wish.is_some() || !self.unfenced().is_empty();
        let is_proposer = |choice: &Choice| {
            let mut able = candidates.iter().filter(|one| one.is_member == is_member);
            let first = able.find(|one| choice.slots.contains(one.slot));
            first.is_some_and(|first| first.slot == self.config.slot)
        };
        // A drive may be lost to all, and not all have noticed: nobody is left out for a path before that would be known.
        let is_behind = |one: &Candidate, best: Choice| {
            one.is_member && !best.slots.contains(one.slot) && !one.reach.covers(best.drives)
        };
        let is_early = now_ns - since_ns < IO_NS;
        if is_early && best.is_some_and(|best| candidates.iter().any(|one| is_behind(one, best))) {
            return None;
        }
        let choice = match best {
            Some(best) if is_proposer(&best) => best,
            Some(best) if is_alone_in_knowing && best.slots.contains(self.config.slot) => best,
            // Whoever ought to propose does not: it may know less.
            Some(_) | None if now_ns - since_ns > 2 * SUSPECT_NS => {
                // Those that are left must not wait for it, nor for drives that they do not reach.
                let beside = (!is_member).then(|| reaching(&all, drives.and(self.reach())));
                choose(self.rules(drives), beside.as_ref().unwrap_or(&candidates), own)?
            }
            Some(_) | None => return None,
        };
        if is_member && !self.is_change(now_ns, Some(choice)) {
            return None;
        }
        Some(self.record_of(now_ns, choice))
    }

    fn unfenced(&self) -> DriveSet {
        self.inside
            .as_ref()
            .map_or(DriveSet::EMPTY, super::Inside::unfenced)
    }

    pub(super) fn drives_wanted(&self) -> DriveSet {
        let drives = match (&self.record, self.wish) {
            (Some(_), Some(wish)) if self.inside.is_some() => wish.drives,
            (Some(record), _) => record.drives,
            (None, _) => self.config.drives,
        };
        drives.minus(self.unfenced())
    }

    /// This node leaves and is the last one: its record says that all is clean.
    fn last_record(&self, now_ns: u64) -> Option<EpochRecord> {
        let record = self.record.as_ref()?;
        let inside = self.inside.as_ref()?;
        let is_last = record.members.len() == 1 && self.standing == Standing::Leaving;
        if !is_last || record.clean || inside.step() != Step::Open {
            return None;
        }
        let choice = Choice {
            slots: record.slots(),
            drives: record.drives,
        };
        Some(EpochRecord {
            clean: true,
            dirty_ram: false,
            ..self.record_of(now_ns, choice)
        })
    }

    /// Nodes that could be members of the next epoch, by slot.
    fn candidates(&self, now_ns: u64) -> Vec<Candidate> {
        let is_member = self.inside.is_some();
        let admits = !is_member || self.inside.as_ref().is_some_and(|inside| inside.is_known_open);
        let mut candidates: Vec<Candidate> = self
            .peers
            .fresh(now_ns)
            .filter_map(|said| self.candidate(said, is_member, admits))
            .collect();
        // Who leaves stays as long as nobody else is there to go on.
        let has_heirs = candidates.iter().any(|one| one.is_member == is_member);
        if self.standing != Standing::Leaving || !has_heirs {
            candidates.push(Candidate {
                slot: self.config.slot,
                reach: self.reach(),
                hears: self.peers.heard(now_ns),
                is_member,
            });
        }
        candidates.sort_unstable_by_key(|candidate| candidate.slot);
        candidates
    }

    fn candidate(&self, said: &Announcement, is_member: bool, admits: bool) -> Option<Candidate> {
        let record = self.record.as_ref();
        let is_of_record =
            is_member && record.is_some_and(|record| record.names(said.slot, said.incarnation));
        let may = match said.standing {
            // Right after its admission a member may not know of it yet.
            Standing::Outside => is_of_record || admits,
            Standing::Member => is_of_record,
            Standing::Leaving | Standing::Halted => false,
        };
        // Whoever starts the array without a record starts it alone.
        let may = may && record.is_some();
        may.then_some(Candidate {
            slot: said.slot,
            reach: said.reach,
            hears: said.heard,
            is_member: is_of_record,
        })
    }

    /// Whether a choice differs from the record, or something else is wished for.
    fn is_change(&self, now_ns: u64, choice: Option<Choice>) -> bool {
        let record = self.record.as_ref().expect("a member has a record");
        let Some(choice) = choice else { return true };
        let wish = self.wish.filter(|wish| !wish.is_met_by(record));
        let lives = choice.slots.iter().all(|slot| {
            let said = self.life_of(now_ns, slot);
            said.is_some_and(|(incarnation, _)| record.names(slot, incarnation))
        });
        choice.slots != record.slots() || choice.drives != record.drives || !lives || wish.is_some()
    }

    /// The life of a slot that is heard, and the random part of its key.
    fn life_of(&self, now_ns: u64, slot: Slot) -> Option<(Incarnation, u32)> {
        if slot == self.config.slot {
            return Some((self.config.incarnation, self.config.random));
        }
        let said = self.peers.fresh(now_ns).find(|said| said.slot == slot)?;
        Some((said.incarnation, said.random))
    }

    /// The record that makes a choice true.
    fn record_of(&self, now_ns: u64, choice: Choice) -> EpochRecord {
        let old = self.record.as_ref();
        let epoch = old.map_or(Epoch(0), |old| old.epoch).next();
        let is_member = self.inside.is_some();
        let is_open = self.inside.as_ref().is_some_and(|inside| inside.is_known_open);
        let everyone = !is_member || old.is_some_and(|old| old.fence_all && !is_open);
        // Where everyone is fenced, everyone gets a new key: drives that hold keys to epochs take no older one after that.
        let kept = |slot, incarnation| {
            let member = old?.member(slot)?;
            (!everyone && member.incarnation == incarnation).then_some(*member)
        };
        let members: Vec<Member> = choice
            .slots
            .iter()
            .filter_map(|slot| {
                let (incarnation, random) = self.life_of(now_ns, slot)?;
                let admitted = Member {
                    slot,
                    incarnation,
                    key: slot.key(epoch, random),
                };
                Some(kept(slot, incarnation).unwrap_or(admitted))
            })
            .collect();
        let is_kept = |one: &Member| members.iter().any(|member| member.key == one.key);
        let gone = old.map_or(&[][..], |old| &old.members).iter();
        let unfenced = old
            .filter(|_| !is_open)
            .map_or(&[][..], |old| &old.victims)
            .iter();
        let mut victims: Vec<Member> = gone
            .chain(unfenced)
            .filter(|one| !is_kept(one))
            .copied()
            .collect();
        victims.sort_unstable_by_key(|victim| victim.key);
        victims.dedup();
        if everyone {
            victims.clear();
        }
        let wish = self.wish.filter(|_| is_member);
        let generation = old.map_or(0, |old| old.generation + u64::from(old.drives != choice.drives));
        EpochRecord {
            epoch,
            victims,
            fence_all: everyone,
            drives: choice.drives,
            voters: self.config.voters,
            generation: wish.map_or(generation, |wish| wish.generation.max(generation)),
            arbiter: ArbiterRule::of(members.len()),
            clean: old.is_none(),
            dirty_ram: wish.map_or(old.is_some_and(|old| old.dirty_ram), |wish| wish.dirty_ram),
            members,
        }
    }

    /// Nobody waits for the proposal any more.
    pub(super) fn end_proposal(&mut self) {
        if let Some(proposal) = self.proposal.take() {
            self.expelled = self.expelled.or(proposal.expelled());
            self.desk.forget(Purpose::Paxos);
        }
    }

    pub(super) fn proposal_answered(
        &mut self,
        now_ns: u64,
        drive: DriveIndex,
        command: &Command,
        answer: Answer,
        out: &mut Vec<Action>,
    ) {
        let done = answer == Answer::Done;
        let event = match command {
            Command::Expel => paxos::Event::Expelled { drive, done },
            Command::WritePaxos(_) => paxos::Event::Written { drive, done },
            Command::ReadQuorum => paxos::Event::Read {
                drive,
                blocks: match answer {
                    Answer::Quorum(quorum) => Some(quorum.blocks),
                    Answer::Done
                    | Answer::Conflict
                    | Answer::Interrupted
                    | Answer::Failed
                    | Answer::Heartbeats(_)
                    | Answer::Report(_) => None,
                },
            },
            Command::Kill(..)
            | Command::ReadHeartbeats
            | Command::WriteDecided(_)
            | Command::WriteCertificate(_)
            | Command::WriteHeartbeat(_)
            | Command::Reserve(_) => unreachable!("a proposer does not ask for {command:?}"),
        };
        self.drive_proposal(now_ns, event, out);
    }

    /// Advances the proposal, and carries out what it says.
    pub(super) fn drive_proposal(&mut self, now_ns: u64, event: paxos::Event, out: &mut Vec<Action>) {
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        let mut actions = Vec::new();
        proposal.handle(now_ns, event, &mut actions);
        for action in actions {
            match action {
                paxos::Action::Expel(drive) => {
                    self.desk.ask(Purpose::Paxos, drive, Command::Expel, out);
                }
                paxos::Action::Read(drive) => {
                    self.desk.ask(Purpose::Paxos, drive, Command::ReadQuorum, out);
                }
                paxos::Action::Write(drive, block) => {
                    self.desk
                        .ask(Purpose::Paxos, drive, Command::WritePaxos(block), out);
                }
                paxos::Action::Decided(record) => {
                    self.end_proposal();
                    self.learn(now_ns, record, out);
                }
                paxos::Action::Behind(_) => {
                    self.end_proposal();
                    for drive in self.up.and(self.config.voters).iter() {
                        self.ask_if_idle(Purpose::Learn, drive, Command::ReadQuorum, out);
                    }
                }
                paxos::Action::SlotTaken(_) => self.stop(Halt::SlotTaken, out),
            }
        }
    }
}

/// How long others may propose before those who have so many nodes behind them, and do not hear so many members.
const fn head_start_ns(behind: usize, against: usize) -> u64 {
    let for_larger_ones = (SLOTS - behind) as u64 * COMPONENT_NS;
    if against > behind {
        for_larger_ones + MINORITY_NS
    } else {
        for_larger_ones
    }
}

/// Members, and those of the others that reach these drives.
fn reaching(candidates: &[Candidate], drives: DriveSet) -> Vec<Candidate> {
    let may = |one: &&Candidate| one.is_member || one.reach.covers(drives);
    candidates.iter().filter(may).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icl::membership::times::HEARTBEAT_NS;

    /// PROTOCOL 3.1: the larger component begins first; by more than a cut is noticed sooner by one side, where the other one is known to be smaller.
    #[test]
    fn the_larger_component_begins_first() {
        assert_eq!(head_start_ns(8, 0), 0);
        assert_eq!(head_start_ns(2, 0), 6 * COMPONENT_NS);
        assert!(head_start_ns(5, 3) < head_start_ns(3, 3));
        assert_eq!(head_start_ns(2, 2), head_start_ns(2, 1), "halves are alike");
        for behind in 1..SLOTS {
            for against in behind + 1..=SLOTS - behind {
                let gap_ns = head_start_ns(behind, against) - head_start_ns(against, behind);
                assert!(gap_ns > HEARTBEAT_NS, "{behind} {against}");
            }
        }
    }
}
