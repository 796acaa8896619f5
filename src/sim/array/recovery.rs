//! What the thread of a life reads and writes on drives when its node leads: as `target::share::open` does it, over commands that take their time.

use super::Mutant;
use super::node::{Outcome, Plan, Source};
use super::world::{Event, MS, Shared, Stage, World};
use crate::amf::group::{AssembleOptions, Candidate, DriveFacts, Refusal};
use crate::amf::journal::replay::{IoId, LivingNodes, Report};
use crate::amf::lost::LostList;
use crate::amf::peering::{Recovery, lanes_of};
use crate::amf::superblock;
use crate::drive::DriveError;
use crate::icl::{DriveIndex, SlotSet};
use crate::sim::drive::Trouble;
use crate::sim::node::{Asker, BootError, creation, drive_facts, find_with};
use crate::sim::replaying::{Machine, Replaying, Wanted, read_page};
use crate::sim::stamp::Block;
use crate::sim::world::Violation;

/// A recovery that the thread of a life is at.
#[derive(Debug)]
pub(super) struct Recovering {
    recovery: Recovery,
    /// Drives that could not be used.
    unread: u32,
    replaying: Option<Replaying>,
    /// The node was told already that it is over, by the mutant that does so.
    is_told: bool,
}

impl World {
    /// A node leads, and its group is to be brought in order.
    pub(super) fn begin_recovery(&mut self, life: u64, mut recovery: Recovery) {
        self.note(&[self.now, 30, life], || {
            format!("life {life} recovers: {recovery:?}")
        });
        let record = self.lives[&life]
            .node
            .as_ref()
            .and_then(|node| node.record().cloned());
        let is_handover = !recovery.goes_on && record.is_some_and(|record| record.slots() == recovery.living);
        self.counters.handovers += u64::from(is_handover);
        if recovery.goes_on && !recovery.is_needed {
            let unused = self.unused(life, 0);
            let outcome = Outcome::GoOn { unused, next: None };
            return self.tell_outcome(life, &recovery, outcome);
        }
        if self.setting.mutant == Mutant::HeldRows {
            recovery.rows.clear();
        }
        let is_told = self.setting.mutant == Mutant::NoBarrier && recovery.goes_on;
        if is_told {
            let unused = self.unused(life, 0);
            self.tell_outcome(life, &recovery, Outcome::GoOn { unused, next: None });
        }
        let it = self.lives.get_mut(&life).expect("its thread is at it");
        it.recovering = Some(Recovering {
            recovery,
            unread: 0,
            replaying: None,
            is_told,
        });
        let delay = self.random.below(8 * MS);
        self.later(delay, Event::Assemble(life));
        self.strike_soon();
    }

    fn tell_outcome(&mut self, life: u64, recovery: &Recovery, outcome: Outcome) {
        let epoch = recovery.epoch;
        self.note(&[self.now, 31, life], || {
            let what = match &outcome {
                Outcome::Open(_) => "open",
                Outcome::TakeOver(_) => "take over",
                Outcome::GoOn { .. } => "go on",
                Outcome::Refused(why) => why,
            };
            format!("life {life} has recovered for epoch {epoch}: {what}")
        });
        self.with_node(life, |node, out| node.group_recovered(epoch, outcome, out));
    }

    /// Drives that are not in use in the epoch or could not be read.
    fn unused(&self, life: u64, unread: u32) -> Vec<u16> {
        let usable = self.lives[&life].usable;
        let members = 0..self.setting.shape.members;
        let is_unused = |drive: &u8| {
            let index = DriveIndex::new(*drive).expect("few drives");
            !usable.contains(index) || unread >> drive & 1 == 1
        };
        members.filter(is_unused).map(u16::from).collect()
    }

    /// What the drives say, and which of them are not in use.
    fn examine(&mut self, life: u64) -> (Vec<DriveFacts>, Vec<u16>) {
        let is_gone = |shared: &Shared| shared.drive.trouble() == Some(Trouble::Gone);
        let gone = (0..).zip(&self.drives).filter(|(_, shared)| is_gone(shared));
        let gone = gone.fold(0, |gone, (drive, _)| gone | 1 << drive);
        let it = self.lives.get_mut(&life).expect("its thread is at it");
        let recovering = it.recovering.as_mut().expect("it is at it");
        // What is not there now misses what the recovery writes, also if it is back before that is over.
        recovering.unread |= gone;
        let unread = recovering.unread;
        let unused = self.unused(life, unread);
        let block = self.setting.shape.block;
        let facts = (0u16..).zip(&self.drives).map(|(index, shared)| {
            let mut facts = drive_facts(index, &shared.drive, block);
            if unused.contains(&index) {
                facts.existing = superblock::examine(None, None);
            }
            facts
        });
        (facts.collect(), unused)
    }

    /// The thread has connected to the drives, and looks for the group: when they have answered all that an earlier attempt asked of them.
    pub(super) fn assemble(&mut self, life: u64) {
        let Some(it) = self.lives.get(&life) else { return };
        let Some(recovering) = it.recovering.as_ref() else {
            return;
        };
        if it.replay_asked > 0 || recovering.replaying.is_some() {
            return; // The last answer calls this, or did.
        }
        let (facts, unused) = self.examine(life);
        let it = self.lives.get(&life).expect("its thread is at it");
        let recovering = it.recovering.as_ref().expect("it is at it");
        let living = recovering.recovery.living;
        let unkept = recovering.recovery.unkept;
        let is_open = !living.is_empty() && unkept == SlotSet::EMPTY;
        let goes_on = recovering.recovery.goes_on;
        let mut candidate = match find_shared(&facts, goes_on, is_open) {
            Ok(candidate) => candidate,
            Err(BootError::NotFound | BootError::Refused(Refusal::CreationInterrupted { .. }))
                if living.is_empty() =>
            {
                let outcome = self.make(&facts, unused.is_empty());
                return self.end_recovery(life, outcome);
            }
            Err(error) => return self.refuse(life, &error, living, unkept),
        };
        candidate.leave_out_returning();
        let drives = &self.drives;
        let lost = candidate.load_lost(|page| Some(read_page(&drives[usize::from(page.drive)].drive, page)));
        let among = (!living.is_empty()).then(|| LivingNodes {
            lanes: lanes_of(living, self.setting.cores),
            rows: recovering.recovery.rows.clone(),
            retired: recovering.recovery.retired,
        });
        let machine = match among {
            Some(living) => candidate.replay_among(living),
            None => candidate.replay(),
        };
        self.counters.copies_read += recovering.recovery.copies.len() as u64;
        let mut copies = recovering.recovery.copies.clone();
        if self.setting.mutant == Mutant::NoCopies {
            copies.clear();
        }
        let machine = machine.expect("the group has a journal").with_lost(lost);
        let machine = machine.with_copies(copies);
        let mut replaying = Replaying::new(Machine::Replay(Box::new(machine)), candidate);
        let wanted = replaying.start();
        let it = self.lives.get_mut(&life).expect("its thread is at it");
        it.recovering.as_mut().expect("it is at it").replaying = Some(replaying);
        self.carry_out_replay(life, wanted);
    }

    /// A life does not open the group.
    fn refuse(&mut self, life: u64, error: &BootError, living: SlotSet, unkept: SlotSet) {
        let is_lost = matches!(error, BootError::Refused(Refusal::LostWrites));
        if is_lost && living.is_empty() && self.was_reckless {
            self.stage = Stage::Over; // Nobody is left of those that had them.
            return;
        }
        if is_lost && unkept != SlotSet::EMPTY {
            return self.confess(life, unkept);
        }
        let is_so = matches!(error, BootError::Refused(Refusal::OthersMayBeNewer { .. }));
        self.may_be_newer |= is_so && self.away_could_go_on();
        if self.may_be_newer && self.setting.is_in_memory() {
            // All nodes have to be stopped now, and what they have in memory is lost (H45).
            self.stage = Stage::Over;
            return;
        }
        self.end_recovery(life, Outcome::Refused(error.to_string()));
    }

    /// It is said that writes may be lost, and only an operator can decide what follows (H45): that ends a run, where it is true.
    fn confess(&mut self, life: u64, unkept: SlotSet) {
        let is_needless = unkept
            .iter()
            .all(|slot| self.oracle.has_keeper(slot, life, &self.setting));
        // Who has not come to serve an epoch does not know whose writes were brought to their places in it: where more go than copies allow for, it may call them lost.
        if is_needless && !self.was_reckless {
            let what = format!("writes of {unkept:?} are called lost, and others have copies (H45)");
            self.violate(Violation::Refused(what));
        }
        self.counters.confessed += 1;
        self.stage = Stage::Over;
    }

    /// Nobody has made the group yet.
    fn make(&self, facts: &[DriveFacts], are_all_there: bool) -> Outcome {
        match creation(facts, false, &self.setting.shape) {
            Ok(creation) if are_all_there && self.harmed == 0 => Outcome::Open(Plan {
                source: Source::New(Box::new(creation)),
                replayed: None,
                lost: LostList::default(),
            }),
            Ok(_) => Outcome::Refused("it is not on the drives that are there".to_owned()),
            Err(error) => Outcome::Refused(error.to_string()),
        }
    }

    /// Whether members that were lost could have gone on without the others.
    fn away_could_go_on(&self) -> bool {
        let shape = &self.setting.shape;
        let others = ((1u32 << shape.members) - 1) & !self.harmed;
        shape.level.survives(shape.members, others)
    }

    pub(super) fn replay_answered(&mut self, life: u64, io: IoId, result: Result<Vec<Block>, DriveError>) {
        let Some(it) = self.lives.get_mut(&life) else {
            return;
        };
        it.replay_asked -= 1;
        let Some(recovering) = it.recovering.as_mut() else {
            return;
        };
        let Some(replaying) = &mut recovering.replaying else {
            return self.assemble(life); // It has failed.
        };
        let wanted = replaying.answered(io, result);
        self.carry_out_replay(life, wanted);
    }

    fn carry_out_replay(&mut self, life: u64, wanted: Vec<Wanted>) {
        for wanted in wanted {
            match wanted {
                Wanted::Drive { io, drive, command } => {
                    self.lives
                        .get_mut(&life)
                        .expect("its thread is at it")
                        .replay_asked += 1;
                    self.ask_drive(life, drive, command, Asker::Replay(io));
                }
                Wanted::Done(report) => self.replayed(life, report),
                Wanted::Failed(error) => {
                    let it = self.lives.get_mut(&life).expect("its thread is at it");
                    let recovering = it.recovering.as_mut().expect("it is at it");
                    let Some(member) = error.member() else {
                        let why = format!("its journal cannot be replayed: {error}");
                        return self.end_recovery(life, Outcome::Refused(why));
                    };
                    let replaying = recovering.replaying.take().expect("it has just failed");
                    recovering.unread |= 1 << replaying.drive_of(member);
                    return self.assemble(life);
                }
            }
        }
    }

    fn replayed(&mut self, life: u64, report: Report) {
        let it = self.lives.get_mut(&life).expect("its thread is at it");
        let recovering = it.recovering.as_mut().expect("it is at it");
        let Replaying {
            machine, candidate, ..
        } = recovering.replaying.take().expect("it has just ended");
        let Machine::Replay(replay) = machine else {
            unreachable!("nothing is restored here")
        };
        let (goes_on, living, unread) = (
            recovering.recovery.goes_on,
            recovering.recovery.living,
            recovering.unread,
        );
        self.counters.replays += u64::from(!living.is_empty());
        self.counters.rows += if living.is_empty() { 0 } else { report.rows };
        let outcome = if goes_on {
            Outcome::GoOn {
                unused: self.unused(life, unread),
                next: Some(report.next_seq),
            }
        } else {
            let plan = Plan {
                source: Source::Found(Box::new(candidate)),
                replayed: Some(report),
                lost: replay.into_lost(),
            };
            if living.is_empty() {
                self.may_be_newer = false;
                Outcome::Open(plan)
            } else {
                Outcome::TakeOver(plan)
            }
        };
        self.end_recovery(life, outcome);
    }

    fn end_recovery(&mut self, life: u64, outcome: Outcome) {
        let it = self.lives.get_mut(&life).expect("its thread is at it");
        let recovering = it.recovering.take().expect("it is at it");
        if !recovering.is_told {
            self.tell_outcome(life, &recovering.recovery, outcome);
        }
        self.later(0, Event::Thread(life));
    }
}

/// Finds the group that nodes share.
pub(super) fn find_shared(
    facts: &[DriveFacts],
    goes_on: bool,
    is_open: bool,
) -> Result<Candidate, BootError> {
    let options = AssembleOptions {
        replays: true,
        shared: true,
        goes_on,
        is_open_elsewhere: is_open,
        ..AssembleOptions::default()
    };
    find_with(facts, &options)
}
