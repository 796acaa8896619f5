//! Disk Paxos: which record an epoch has, decided by blocks on the voters instead of by messages between nodes.
//!
//! A proposer owns one block on each voter. In each of two phases it writes its block and then reads those of all other slots, on a majority
//! of the voters. If it meets a higher ballot it begins again with one that is higher still. When both phases are through, the
//! value is decided, whoever else proposes, and whichever minority of the voters is lost.
//!
//! One machine decides one instance, the record of one epoch, and then is over. A block of an older instance counts as none, because
//! its writer has left the record of that instance on a majority of the voters before it began a newer one. A block of a newer
//! instance says that this one has been decided, and that its record can be read.
//!
//! What the drives' side promises: a command is answered when it has taken effect or never will again (PROTOCOL H30), and commands
//! for one drive take effect in the order of their issue. What a past life of this slot has left under way is ended by
//! [`Action::Expel`] before the own block is read for the first time.
//!
//! Source: Gafni and Lamport, "Disk Paxos", Distributed Computing 16 (2003), sections 3 and 4 (phases 0, 1 and 2).

use super::authority::Authority;
use super::record::{Ballot, EpochRecord, PaxosBlock};
use super::times::{BACKOFF_NS, RETRY_NS};
use super::{DriveIndex, DriveSet, Epoch, Incarnation, Node, Slot, majority};

/// Doublings of the pause after a lost ballot: 10 ms << 5 is 320 ms, far above the time of a ballot on sound drives.
const BACKOFF_DOUBLINGS_MAX: u32 = 5;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing of other lives of this slot can take effect on the drive any more; or that could not be brought about.
    Expelled {
        /// The drive.
        drive: DriveIndex,
        /// Whether it is done.
        done: bool,
    },
    /// The blocks of all slots on the drive; `None` if they could not be read.
    Read {
        /// The drive.
        drive: DriveIndex,
        /// The blocks that there are.
        blocks: Option<Vec<PaxosBlock>>,
    },
    /// The own block is on the drive's stable media; or it may be or not, but nothing will change that any more.
    Written {
        /// The drive.
        drive: DriveIndex,
        /// Whether it is.
        done: bool,
    },
    /// Time goes by.
    Tick,
}

/// What is to be done. A drive gets the next command when it has answered the last one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// End all associations of this slot's past lives with the drive, wait for their commands, and let none of them in again.
    Expel(DriveIndex),
    /// Read the blocks of all slots.
    Read(DriveIndex),
    /// Write the own block, forced to stable media.
    Write(DriveIndex, PaxosBlock),
    /// This is the record of the epoch.
    Decided(EpochRecord),
    /// The record was decided long ago: this newer instance is under way. Read the decided records.
    Behind(Epoch),
    /// Another process writes the blocks of this slot: stop.
    SlotTaken(Incarnation),
}

/// What a proposer awaits, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// The time to begin, again or for the first time.
    Waiting { until_ns: u64 },
    /// Phase 0: the own block of a past life or ballot.
    Recall,
    /// Phase 1: nobody has a higher ballot, and what others have proposed.
    Prepare,
    /// Phase 2: nobody has a higher ballot.
    Accept,
    /// It is over.
    Over,
}

/// The command that a voter has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pending {
    None,
    Expel,
    Read,
    Write,
}

/// How far a voter is in the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Voter {
    drive: DriveIndex,
    pending: Pending,
    /// What is pending belongs to a phase that is past.
    is_stale: bool,
    /// Other lives of this slot were ended here.
    is_expelled: bool,
    is_done: bool,
    has_failed: bool,
}

/// Decides the record of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Paxos {
    input: EpochRecord,
    /// The own block, as it is or will be on the voters.
    block: PaxosBlock,
    voters: Vec<Voter>,
    /// Voters that make a majority.
    quorum: u32,
    phase: Phase,
    /// Something was asked of a drive.
    has_begun: bool,
    /// The own block has been recalled from a majority.
    has_recalled: bool,
    /// Highest ballot met.
    highest: Ballot,
    /// Of the values met in this ballot that with the highest ballot.
    best: (Ballot, Option<EpochRecord>),
    /// Ballots lost in succession.
    lost: u32,
}

impl Authority for Paxos {
    fn propose(begins_ns: u64, own: Node, record: EpochRecord, expelled: DriveSet) -> Self {
        let mut paxos = Self::new(begins_ns, own.slot, own.incarnation, record);
        paxos.set_expelled(expelled);
        paxos
    }

    fn record(&self) -> &EpochRecord {
        &self.input
    }

    fn instance(&self) -> Epoch {
        self.block.instance
    }

    fn is_waiting_to_begin(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. }) && !self.has_begun
    }

    fn expelled(&self) -> DriveSet {
        let voters = self.voters.iter().filter(|voter| voter.is_expelled);
        voters.map(|voter| voter.drive).collect()
    }

    fn wake_at_ns(&self) -> Option<u64> {
        match self.phase {
            Phase::Waiting { until_ns } => Some(until_ns),
            Phase::Recall | Phase::Prepare | Phase::Accept | Phase::Over => None,
        }
    }

    /// Panics at an answer to what was not asked.
    fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Expelled { drive, done } => {
                if let Some(index) = self.answered(drive, Pending::Expel, out) {
                    self.voters[index].is_expelled = done;
                    self.step_or_fail(now_ns, index, done, out);
                } else if done {
                    self.set_expelled(DriveSet::EMPTY.with(drive));
                }
            }
            Event::Written { drive, done } => {
                if let Some(index) = self.answered(drive, Pending::Write, out) {
                    if done {
                        self.voters[index].pending = Pending::Read;
                        out.push(Action::Read(drive));
                    } else {
                        self.step_or_fail(now_ns, index, false, out);
                    }
                }
            }
            Event::Read { drive, blocks } => {
                if let Some(index) = self.answered(drive, Pending::Read, out) {
                    match blocks {
                        Some(blocks) => self.read(now_ns, index, blocks, out),
                        None => self.step_or_fail(now_ns, index, false, out),
                    }
                }
            }
            Event::Tick => {
                if let Phase::Waiting { until_ns } = self.phase
                    && now_ns >= until_ns
                {
                    self.begin(out);
                }
            }
        }
    }
}

impl Paxos {
    /// A proposer of `input` that begins at this time.
    ///
    /// Panics if the record is not sound.
    pub fn new(begins_ns: u64, slot: Slot, incarnation: Incarnation, input: EpochRecord) -> Self {
        input.check().expect("only sound records are proposed");
        let voters = input.voters.iter().map(|drive| Voter {
            drive,
            pending: Pending::None,
            is_stale: false,
            is_expelled: false,
            is_done: false,
            has_failed: false,
        });
        Self {
            block: PaxosBlock {
                slot,
                incarnation,
                instance: input.epoch,
                mbal: Ballot(0),
                bal: Ballot(0),
                value: None,
            },
            voters: voters.collect(),
            quorum: majority(input.voters.count()),
            phase: Phase::Waiting { until_ns: begins_ns },
            has_begun: false,
            has_recalled: false,
            highest: Ballot(0),
            best: (Ballot(0), None),
            lost: 0,
            input,
        }
    }

    /// Whether it has ended; then it takes no more events but late answers.
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// These drives need not end past lives of this slot again.
    pub fn set_expelled(&mut self, drives: DriveSet) {
        for voter in &mut self.voters {
            voter.is_expelled |= drives.contains(voter.drive);
        }
    }

    /// Notes that a drive has answered. `None` if the answer belongs to a past phase: then the drive is asked for the present one.
    fn answered(&mut self, drive: DriveIndex, pending: Pending, out: &mut Vec<Action>) -> Option<usize> {
        let found = self.voters.iter().position(|voter| voter.drive == drive);
        let index = found.expect("only voters are asked");
        let voter = &mut self.voters[index];
        assert_eq!(voter.pending, pending, "a voter answers what it was asked");
        voter.pending = Pending::None;
        if !voter.is_stale && !matches!(self.phase, Phase::Waiting { .. } | Phase::Over) {
            return Some(index);
        }
        voter.is_stale = false;
        self.start_voter(index, out);
        None
    }

    /// Begins the phase that is due: the own block is recalled once, before the first ballot.
    fn begin(&mut self, out: &mut Vec<Action>) {
        self.has_begun = true;
        if self.has_recalled {
            self.begin_ballot(out);
        } else {
            self.phase = Phase::Recall;
            self.start_voters(out);
        }
    }

    fn begin_ballot(&mut self, out: &mut Vec<Action>) {
        assert!(self.has_recalled, "a ballot is above all that this slot has used");
        self.block.mbal = self.highest.max(self.block.mbal).above(self.block.slot);
        self.highest = self.block.mbal;
        self.best = (self.block.bal, self.block.value.clone());
        self.phase = Phase::Prepare;
        self.start_voters(out);
    }

    fn start_voters(&mut self, out: &mut Vec<Action>) {
        for index in 0..self.voters.len() {
            let voter = &mut self.voters[index];
            voter.is_done = false;
            voter.has_failed = false;
            voter.is_stale = voter.pending != Pending::None;
            self.start_voter(index, out);
        }
    }

    /// Sends the first command of the phase to a voter that has answered everything.
    fn start_voter(&mut self, index: usize, out: &mut Vec<Action>) {
        let voter = &mut self.voters[index];
        if voter.pending != Pending::None {
            return;
        }
        let drive = voter.drive;
        let (pending, action) = match self.phase {
            Phase::Waiting { .. } | Phase::Over => return,
            Phase::Recall | Phase::Prepare | Phase::Accept if !voter.is_expelled => {
                (Pending::Expel, Action::Expel(drive))
            }
            Phase::Recall => (Pending::Read, Action::Read(drive)),
            Phase::Prepare | Phase::Accept => (Pending::Write, Action::Write(drive, self.block.clone())),
        };
        voter.pending = pending;
        out.push(action);
    }

    /// Goes on with a voter that has ended past lives, or gives it up for this phase.
    fn step_or_fail(&mut self, now_ns: u64, index: usize, done: bool, out: &mut Vec<Action>) {
        if done {
            return self.start_voter(index, out);
        }
        self.voters[index].has_failed = true;
        let failed = self.voters.iter().filter(|voter| voter.has_failed).count();
        if self.voters.len() - failed < self.quorum as usize {
            self.phase = Phase::Waiting {
                until_ns: now_ns + RETRY_NS,
            };
        }
    }

    fn read(&mut self, now_ns: u64, index: usize, blocks: Vec<PaxosBlock>, out: &mut Vec<Action>) {
        if let Some(newer) = blocks.iter().map(|block| block.instance).max()
            && newer > self.block.instance
        {
            self.phase = Phase::Over;
            return out.push(Action::Behind(newer));
        }
        let own = blocks.iter().find(|block| block.slot == self.block.slot);
        if self.phase != Phase::Recall && own != Some(&self.block) {
            let other = own.map_or(self.block.incarnation, |block| block.incarnation);
            self.phase = Phase::Over;
            return out.push(Action::SlotTaken(other));
        }
        let instance = self.block.instance;
        for block in blocks.into_iter().filter(|block| block.instance == instance) {
            self.absorb(block);
        }
        if self.phase != Phase::Recall && self.highest > self.block.mbal {
            return self.lose(now_ns);
        }
        self.voters[index].is_done = true;
        let done = self.voters.iter().filter(|voter| voter.is_done).count();
        if done >= self.quorum as usize {
            self.advance(out);
        }
    }

    /// Takes in a block of this instance, of any slot.
    fn absorb(&mut self, block: PaxosBlock) {
        self.highest = self.highest.max(block.mbal);
        if block.slot == self.block.slot && self.phase == Phase::Recall {
            if (block.mbal, block.bal) > (self.block.mbal, self.block.bal) {
                self.block.mbal = block.mbal;
                self.block.bal = block.bal;
                self.block.value = block.value;
            }
        } else if block.bal > self.best.0 {
            self.best = (block.bal, block.value);
        }
    }

    fn lose(&mut self, now_ns: u64) {
        let doublings = self.lost.min(BACKOFF_DOUBLINGS_MAX);
        self.lost += 1;
        let unit = u64::from(self.block.slot.number()) + 1;
        self.phase = Phase::Waiting {
            until_ns: now_ns + (BACKOFF_NS << doublings) * unit,
        };
    }

    /// A majority is through with the phase.
    fn advance(&mut self, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Recall => {
                self.has_recalled = true;
                self.begin_ballot(out);
            }
            Phase::Prepare => {
                let value = self.best.1.take().unwrap_or_else(|| self.input.clone());
                assert_eq!(
                    value.epoch, self.block.instance,
                    "values belong to their instance"
                );
                self.block.bal = self.block.mbal;
                self.block.value = Some(value);
                self.phase = Phase::Accept;
                self.start_voters(out);
            }
            Phase::Accept => {
                self.phase = Phase::Over;
                let value = self.block.value.clone();
                out.push(Action::Decided(value.expect("phase 2 has a value")));
            }
            Phase::Waiting { .. } | Phase::Over => unreachable!("no voter is asked in between"),
        }
    }
}

/// Faults that tests build in, to see that they are caught.
#[cfg(test)]
impl Paxos {
    /// Takes so many voters for a majority.
    pub fn with_quorum(mut self, quorum: u32) -> Self {
        self.quorum = quorum;
        self
    }

    /// Begins without a look at what a past life has left.
    pub fn without_recall(mut self) -> Self {
        self.has_recalled = true;
        self.set_expelled(DriveSet(u64::MAX));
        self
    }

    /// The ballot that is under way.
    pub const fn ballot(&self) -> Ballot {
        self.block.mbal
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::record::{ArbiterRule, Member};
    use super::*;

    fn slot(number: u8) -> Slot {
        Slot::new(number).unwrap()
    }

    fn input(number: u8) -> EpochRecord {
        EpochRecord {
            epoch: Epoch(4),
            members: vec![Member {
                slot: slot(number),
                incarnation: Incarnation(1),
                key: slot(number).key(Epoch(1), 1),
            }],
            victims: Vec::new(),
            fence_all: false,
            drives: DriveSet(0b111),
            voters: DriveSet(0b111),
            generation: u64::from(number),
            arbiter: ArbiterRule::LastWriter,
            clean: false,
            dirty_ram: false,
        }
    }

    fn proposer(number: u8, incarnation: u64) -> Paxos {
        Paxos::new(0, slot(number), Incarnation(incarnation), input(number))
    }

    /// Drives that answer at once.
    #[derive(Default)]
    struct Drives {
        blocks: [BTreeMap<Slot, PaxosBlock>; 3],
        lost: DriveSet,
        log: Vec<&'static str>,
    }

    impl Drives {
        fn answer(&mut self, action: &Action) -> Option<Event> {
            let (Action::Expel(drive) | Action::Read(drive) | Action::Write(drive, _)) = *action else {
                return None;
            };
            let done = !self.lost.contains(drive);
            let blocks = &mut self.blocks[usize::from(drive.number())];
            Some(match action {
                Action::Expel(_) => {
                    self.log.push("expel");
                    Event::Expelled { drive, done }
                }
                Action::Read(_) => {
                    self.log.push("read");
                    let blocks = done.then(|| blocks.values().cloned().collect());
                    Event::Read { drive, blocks }
                }
                Action::Write(_, block) => {
                    self.log.push("write");
                    if done {
                        blocks.insert(block.slot, block.clone());
                    }
                    Event::Written { drive, done }
                }
                Action::Decided(_) | Action::Behind(_) | Action::SlotTaken(_) => unreachable!("left above"),
            })
        }

        /// Runs a proposer until it has nothing more to do, or `steps` answers were given.
        fn run(&mut self, now_ns: u64, paxos: &mut Paxos, mut steps: usize) -> Option<Action> {
            let mut out = Vec::new();
            paxos.handle(now_ns, Event::Tick, &mut out);
            let mut end = None;
            while !out.is_empty() && steps > 0 {
                let action = out.remove(0);
                match self.answer(&action) {
                    Some(event) => paxos.handle(now_ns, event, &mut out),
                    None => end = Some(action),
                }
                steps -= 1;
            }
            end
        }
    }

    #[test]
    fn a_lone_proposer_decides_its_own_record_in_two_phases() {
        let mut drives = Drives::default();
        assert_eq!(
            drives.run(0, &mut proposer(1, 9), 100),
            Some(Action::Decided(input(1)))
        );
        assert_eq!(
            drives.log[..6],
            ["expel", "expel", "expel", "read", "read", "read"]
        );
        let others = |name| drives.log.iter().filter(|entry| **entry == name).count();
        assert!(others("write") <= 6 && others("read") <= 9, "{:?}", drives.log);
    }

    #[test]
    fn who_comes_later_finds_what_was_decided() {
        let mut drives = Drives::default();
        drives.run(0, &mut proposer(1, 9), 100);
        drives.lost = DriveSet(0b001);
        let end = drives.run(0, &mut proposer(0, 9), 100);
        assert_eq!(end, Some(Action::Decided(input(1))));
    }

    /// Wherever a proposer dies, the next life of its slot decides, and what may have been decided stays.
    #[test]
    fn a_restarted_proposer_goes_on_from_its_own_block() {
        for steps in 0..30 {
            let mut drives = Drives::default();
            let first = drives.run(0, &mut proposer(1, 9), steps);
            drives.lost = DriveSet(1 << (steps % 3));
            let mut next = Paxos::new(0, slot(1), Incarnation(10), input(2));
            let Some(Action::Decided(value)) = drives.run(0, &mut next, 100) else {
                panic!("two of three voters suffice")
            };
            if let Some(Action::Decided(earlier)) = first {
                assert_eq!(value, earlier, "{steps}");
            }
        }
    }

    #[test]
    fn without_a_majority_nothing_is_decided_and_it_is_tried_again() {
        let mut drives = Drives {
            lost: DriveSet(0b110),
            ..Drives::default()
        };
        let mut paxos = proposer(1, 9);
        assert_eq!(drives.run(0, &mut paxos, 100), None);
        assert_eq!(paxos.wake_at_ns(), Some(RETRY_NS));
        drives.lost = DriveSet(0b100);
        assert_eq!(
            drives.run(RETRY_NS, &mut paxos, 100),
            Some(Action::Decided(input(1)))
        );
    }

    #[test]
    fn a_newer_instance_ends_it_and_an_older_one_counts_as_nothing() {
        let mut drives = Drives::default();
        drives.run(0, &mut proposer(1, 9), 100);
        let newer = EpochRecord {
            epoch: Epoch(5),
            ..input(2)
        };
        let mut paxos = Paxos::new(0, slot(2), Incarnation(3), newer.clone());
        assert_eq!(drives.run(0, &mut paxos, 100), Some(Action::Decided(newer)));
        assert_eq!(
            drives.run(0, &mut proposer(3, 9), 100),
            Some(Action::Behind(Epoch(5)))
        );
    }

    #[test]
    fn a_higher_ballot_makes_it_wait_and_begin_again() {
        let mut drives = Drives::default();
        let mut first = proposer(0, 1);
        drives.run(0, &mut first, 12);
        assert!(drives.run(0, &mut proposer(1, 2), 100).is_some());
        let mut out = Vec::new();
        let mut events: Vec<Event> = Vec::new();
        // The first proposer's commands were lost with the test's outbox: a fresh one of its slot meets the ballot.
        let mut again = proposer(0, 3);
        again.handle(0, Event::Tick, &mut out);
        while let Some(action) = out.pop() {
            events.extend(drives.answer(&action));
            while let Some(event) = events.pop() {
                again.handle(0, event, &mut out);
            }
            if again.is_over() {
                break;
            }
        }
        assert_eq!(again.block.value, Some(input(1)));
        assert!(again.block.mbal > Ballot(2 << 3));
    }

    #[test]
    fn two_processes_on_one_slot_are_noticed() {
        let mut drives = Drives::default();
        let mut paxos = proposer(1, 9);
        let mut out = Vec::new();
        paxos.handle(0, Event::Tick, &mut out);
        let end = loop {
            let action = out.remove(0);
            let Some(event) = drives.answer(&action) else {
                break action;
            };
            if let Action::Write(drive, block) = &action {
                let other = PaxosBlock {
                    incarnation: Incarnation(10),
                    ..block.clone()
                };
                drives.blocks[usize::from(drive.number())].insert(block.slot, other);
            }
            paxos.handle(0, event, &mut out);
        };
        assert_eq!(end, Action::SlotTaken(Incarnation(10)));
    }
}
