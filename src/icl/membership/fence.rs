//! Fencing: takes the way to the drives from nodes that an epoch left behind, and proves that nothing of theirs is under way.
//!
//! Each drive in use goes through its own steps, all drives at once. Per victim: Preempt and Abort of its key (never a plain Preempt, H03),
//! then a certificate on the same drive. A conflict means that somebody has preempted the key before; unless that one has left a
//! certificate, or the victim is known to have never had a key there, the drain is not proven (H09): then the victim's association is
//! killed where the drive can do that, or else the own key is registered once more, which the drive does only when the drain is over.
//! A drive that confirms nothing has failed, and the next record goes on without it. Voters are then asked for the victims' last heartbeats: no lease was
//! begun after those ([`super::beats`]).
//!
//! To fence everyone, after all nodes were down, the own key is registered first, the reservation acquired, and Preempt and Abort
//! carried out with key 0, which under All Registrants means all others.
//!
//! Source: PROTOCOL 3.3, and hazards H02, H03 and H09.

use nvme::reservation::{Command, Kind, Persistence, Report};

use super::record::{Certificate, EpochRecord, Heartbeat, Member, VICTIMS_MAX};
use super::{DriveIndex, DriveSet, Epoch, Incarnation, Key, Slot};

/// Type of the reservation on all drives: registrants write, everyone reads.
pub const RESERVATION: Kind = Kind::WriteExclusiveAllRegistrants;
/// Preempt and Abort of a key that is still reported after a conflict, because somebody else changed the registrants in between; and
/// writes of a certificate.
const ATTEMPTS_MAX: u32 = 4;

/// How a drive answered what it was asked by a fence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is done.
    Done,
    /// Reservation conflict.
    Conflict,
    /// Command interrupted: the key is gone, but not proven to be drained.
    Interrupted,
    /// It failed, or took longer than [`super::times::IO_NS`].
    Failed,
    /// The keys of all registrants.
    Registrants(Vec<Key>),
    /// The certificates on the drive.
    Certificates(Vec<Certificate>),
    /// The last heartbeats of all slots.
    Heartbeats(Vec<Heartbeat>),
}

impl Answer {
    /// The answer to a report.
    pub fn of_report(report: &Report) -> Self {
        Self::Registrants(report.registrants.iter().map(|one| one.key).collect())
    }
}

/// What a drive is asked by a fence; it has one command at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Register or Replace the own key, whichever it was.
    Register(Key),
    /// Acquire the reservation.
    Acquire(Key),
    /// Preempt and Abort; `victim` is [`Key::NONE`] for everyone else.
    PreemptAndAbort {
        /// The own key.
        current: Key,
        /// Whose registration goes.
        victim: Key,
    },
    /// Report the registrants.
    Report,
    /// Read the certificates of all slots.
    ReadCertificates,
    /// Write the own certificate, forced to stable media.
    WriteCertificate(Certificate),
    /// Kill all associations of a node's life, and wait for their commands.
    Kill(Slot, Incarnation),
    /// Read the last heartbeats of all slots.
    ReadHeartbeats,
}

impl Ask {
    /// The reservation command, where it is one.
    pub const fn reservation(&self) -> Option<Command> {
        Some(match *self {
            Self::Register(key) => Command::Replace {
                current: None,
                new: key,
                persistence: Persistence::On,
            },
            Self::Acquire(key) => Command::Acquire {
                current: key,
                kind: RESERVATION,
            },
            Self::PreemptAndAbort { current, victim } => Command::Preempt {
                current,
                victim,
                kind: RESERVATION,
                abort: true,
            },
            Self::Report => Command::Report {
                extended: true,
                length_bytes: 4096,
            },
            Self::ReadCertificates | Self::WriteCertificate(_) | Self::Kill(..) | Self::ReadHeartbeats => {
                return None;
            }
        })
    }
}

/// What a drive's part of the fence awaits, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Register,
    Acquire,
    /// Preempt and Abort, of all or of the next victim.
    Preempt,
    Report,
    ReadCertificates,
    /// The victim's association is killed.
    Kill,
    /// The own key is registered behind the drain.
    Queue,
    WriteCertificate,
    /// All is fenced, and the voter is asked how far the victims came.
    ReadHeartbeats,
    Fenced,
    Failed,
}

/// One drive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Front {
    drive: DriveIndex,
    step: Step,
    /// Victims that are fenced: the next one has this index.
    fenced: usize,
    attempts: u32,
    /// The last heartbeats that it took, read behind the fence.
    beats: Vec<Heartbeat>,
}

/// Fences the victims of one record on all drives in use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    slot: Slot,
    epoch: Epoch,
    key: Key,
    all: bool,
    victims: Vec<Member>,
    voters: DriveSet,
    /// Drives that can kill an association.
    killers: DriveSet,
    fronts: Vec<Front>,
    /// When a majority of the voters was fenced.
    majority_ns: Option<u64>,
    is_evicted: bool,
}

impl Fence {
    /// The fence of a record by its member `slot`; drives in `killers` can kill an association. [`Self::begin`] follows.
    ///
    /// Panics if the slot has no member in the record.
    pub fn new(record: &EpochRecord, slot: Slot, killers: DriveSet) -> Self {
        let own = record.member(slot).expect("members fence");
        assert!(record.victims.len() <= VICTIMS_MAX, "checked when it was parsed");
        let front = |drive| Front {
            drive,
            step: if record.fence_all {
                Step::Register
            } else {
                Step::Preempt
            },
            fenced: 0,
            attempts: 0,
            beats: Vec::new(),
        };
        Self {
            slot,
            epoch: record.epoch,
            key: own.key,
            all: record.fence_all,
            victims: record.victims.clone(),
            voters: record.voters,
            killers,
            fronts: record.drives.iter().map(front).collect(),
            majority_ns: None,
            is_evicted: false,
        }
    }

    /// Sends the first commands. With nobody to fence it is over at once.
    pub fn begin(&mut self, now_ns: u64, out: &mut Vec<(DriveIndex, Ask)>) {
        for index in 0..self.fronts.len() {
            if !self.all && self.victims.is_empty() {
                self.fronts[index].step = Step::Fenced;
            }
            self.ask(index, out);
        }
        self.note_majority(now_ns);
    }

    /// Begins again on drives that have failed, for there is no going on without them.
    pub fn retry(&mut self, out: &mut Vec<(DriveIndex, Ask)>) {
        for index in 0..self.fronts.len() {
            if self.fronts[index].step == Step::Failed {
                self.fronts[index].step = if self.all { Step::Register } else { Step::Preempt };
                self.fronts[index].attempts = 0;
                self.ask(index, out);
            }
        }
    }

    /// Drives on which nothing of the victims is left.
    pub fn fenced(&self) -> DriveSet {
        self.at(Step::Fenced)
    }

    /// Drives that confirmed nothing: the next record has to leave them out.
    pub fn failed(&self) -> DriveSet {
        self.at(Step::Failed)
    }

    /// Whether every drive in use is fenced.
    pub fn is_complete(&self) -> bool {
        self.fronts.iter().all(|front| front.step == Step::Fenced)
    }

    /// When a majority of the voters was fenced: no lease that a victim holds was begun later.
    pub const fn majority_ns(&self) -> Option<u64> {
        self.majority_ns
    }

    /// The last round of heartbeats of a victim that can count: no lease of it was begun after that round was issued. `None` if fewer than a majority of the voters
    /// have shown a heartbeat of this very life.
    pub fn last_round(&self, victim: &Member) -> Option<u64> {
        let last = |front: &Front| {
            let mut beats = front.beats.iter();
            let own = beats.find(|beat| beat.slot == victim.slot && beat.incarnation == victim.incarnation);
            Some((front.drive, own?.seq))
        };
        let fenced = self.fronts.iter().filter(|front| front.step == Step::Fenced);
        let shown: Vec<(DriveIndex, u64)> = fenced.filter_map(last).collect();
        let drives: DriveSet = shown.iter().map(|(drive, _)| *drive).collect();
        let rounds = shown.iter().map(|(_, round)| *round);
        rounds.max().filter(|_| drives.has_majority_of(self.voters))
    }

    /// Whether a drive does not know the own key any more: this node was fenced itself.
    pub const fn is_evicted(&self) -> bool {
        self.is_evicted
    }

    fn at(&self, step: Step) -> DriveSet {
        let fronts = self.fronts.iter().filter(|front| front.step == step);
        fronts.map(|front| front.drive).collect()
    }

    /// A drive has answered.
    ///
    /// Panics at an answer to what was not asked.
    pub fn answered(
        &mut self,
        now_ns: u64,
        drive: DriveIndex,
        answer: Answer,
        out: &mut Vec<(DriveIndex, Ask)>,
    ) {
        let found = self.fronts.iter().position(|front| front.drive == drive);
        let index = found.expect("only drives in use are asked");
        let next = self.next(index, answer);
        self.fronts[index].step = next;
        self.ask(index, out);
        self.note_majority(now_ns);
    }

    /// Where a drive's answer leads.
    fn next(&mut self, index: usize, answer: Answer) -> Step {
        let victim = self.victims.get(self.fronts[index].fenced).copied();
        let kills = self.killers.contains(self.fronts[index].drive);
        let prove = if kills { Step::Kill } else { Step::Queue };
        match (self.fronts[index].step, answer) {
            (Step::Register, Answer::Done) => Step::Acquire,
            (Step::Acquire, Answer::Done) => Step::Preempt,
            (Step::Preempt | Step::Kill | Step::Queue, Answer::Done) => Step::WriteCertificate,
            // Everyone is not somebody whose association could be killed.
            (Step::Preempt, Answer::Interrupted) if self.all => Step::Failed,
            (Step::Preempt, Answer::Interrupted) => prove,
            (Step::Preempt, Answer::Conflict) if !self.all => Step::Report,
            (Step::Report, Answer::Registrants(keys)) => {
                let victim = victim.expect("a report is asked for about a victim");
                self.reported(index, victim.key, &keys)
            }
            (Step::ReadCertificates, Answer::Certificates(certificates)) => {
                let victim = victim.expect("certificates are asked for about a victim");
                let mut all = certificates.iter();
                if all.any(|certificate| certificate.victims.contains(&victim.key)) {
                    Step::WriteCertificate
                } else {
                    prove
                }
            }
            (Step::WriteCertificate, Answer::Done) => {
                let front = &mut self.fronts[index];
                front.fenced += usize::from(!self.all);
                front.attempts = 0;
                if !self.all && front.fenced < self.victims.len() {
                    Step::Preempt
                } else if !self.all && self.voters.contains(front.drive) {
                    Step::ReadHeartbeats
                } else {
                    Step::Fenced
                }
            }
            (Step::ReadHeartbeats, answer) => self.shown(index, answer),
            // Without a certificate nothing is lost but time: it is written again.
            (Step::WriteCertificate, Answer::Failed) if self.fronts[index].attempts + 1 < ATTEMPTS_MAX => {
                self.fronts[index].attempts += 1;
                Step::WriteCertificate
            }
            (Step::Fenced | Step::Failed, answer) => {
                unreachable!("nothing was asked of a drive that is through: {answer:?}")
            }
            // Whatever else it is, it confirms nothing.
            (
                Step::Register
                | Step::Acquire
                | Step::Preempt
                | Step::Report
                | Step::ReadCertificates
                | Step::Kill
                | Step::Queue
                | Step::WriteCertificate,
                Answer::Done
                | Answer::Conflict
                | Answer::Interrupted
                | Answer::Failed
                | Answer::Registrants(_)
                | Answer::Certificates(_)
                | Answer::Heartbeats(_),
            ) => Step::Failed,
        }
    }

    /// A voter has shown how far the victims came. It is fenced in any case; what it does not show does not count.
    fn shown(&mut self, index: usize, answer: Answer) -> Step {
        if let Answer::Heartbeats(beats) = answer {
            self.fronts[index].beats = beats;
        }
        Step::Fenced
    }

    /// Why Preempt and Abort met a conflict, as the registrants say.
    fn reported(&mut self, index: usize, victim: Key, keys: &[Key]) -> Step {
        if !keys.contains(&self.key) {
            self.is_evicted = true;
            return Step::Failed;
        }
        if !keys.contains(&victim) {
            return Step::ReadCertificates;
        }
        let front = &mut self.fronts[index];
        front.attempts += 1;
        if front.attempts < ATTEMPTS_MAX {
            Step::Preempt
        } else {
            Step::Failed
        }
    }

    fn ask(&self, index: usize, out: &mut Vec<(DriveIndex, Ask)>) {
        let front = &self.fronts[index];
        let victim = || self.victims[front.fenced];
        let ask = match front.step {
            Step::Register | Step::Queue => Ask::Register(self.key),
            Step::Acquire => Ask::Acquire(self.key),
            Step::Preempt => Ask::PreemptAndAbort {
                current: self.key,
                victim: if self.all { Key::NONE } else { victim().key },
            },
            Step::Report => Ask::Report,
            Step::ReadCertificates => Ask::ReadCertificates,
            Step::Kill => Ask::Kill(victim().slot, victim().incarnation),
            Step::WriteCertificate => Ask::WriteCertificate(self.certificate(front)),
            Step::ReadHeartbeats => Ask::ReadHeartbeats,
            Step::Fenced | Step::Failed => return,
        };
        out.push((front.drive, ask));
    }

    /// What is proven on a drive when the victim at hand is.
    fn certificate(&self, front: &Front) -> Certificate {
        let count = if self.all { 0 } else { front.fenced + 1 };
        let mut victims: Vec<Key> = self.victims[..count].iter().map(|victim| victim.key).collect();
        victims.sort_unstable();
        Certificate {
            slot: self.slot,
            epoch: self.epoch,
            drive: front.drive,
            all: self.all,
            victims,
        }
    }

    fn note_majority(&mut self, now_ns: u64) {
        if self.majority_ns.is_none() && self.fenced().has_majority_of(self.voters) {
            self.majority_ns = Some(now_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::ArbiterRule;
    use super::*;

    fn slot(number: u8) -> Slot {
        Slot::new(number).unwrap()
    }

    fn drive(number: u8) -> DriveIndex {
        DriveIndex::new(number).unwrap()
    }

    fn member(number: u8) -> Member {
        Member {
            slot: slot(number),
            incarnation: Incarnation(100 + u64::from(number)),
            key: slot(number).key(Epoch(1), 7),
        }
    }

    fn record(victims: &[u8]) -> EpochRecord {
        EpochRecord {
            epoch: Epoch(2),
            members: vec![member(0)],
            victims: victims.iter().map(|number| member(*number)).collect(),
            fence_all: false,
            drives: DriveSet(0b111),
            voters: DriveSet(0b111),
            generation: 0,
            arbiter: ArbiterRule::LastWriter,
            clean: false,
            dirty_ram: false,
        }
    }

    fn begun(record: &EpochRecord, killers: DriveSet) -> (Fence, Vec<(DriveIndex, Ask)>) {
        let mut fence = Fence::new(record, slot(0), killers);
        let mut out = Vec::new();
        fence.begin(5, &mut out);
        (fence, out)
    }

    fn next(fence: &mut Fence, number: u8, answer: Answer) -> Option<Ask> {
        let mut out = Vec::new();
        fence.answered(9, drive(number), answer, &mut out);
        assert!(out.len() <= 1, "a drive has one command at a time");
        out.pop().map(|(_, ask)| ask)
    }

    fn preempt(victim: Key) -> Ask {
        Ask::PreemptAndAbort {
            current: member(0).key,
            victim,
        }
    }

    #[test]
    fn victims_are_preempted_aborted_and_certified_one_after_the_other() {
        let (mut fence, out) = begun(&record(&[1, 2]), DriveSet::EMPTY);
        assert_eq!(out.len(), 3);
        assert_eq!(out[0], (drive(0), preempt(member(1).key)));
        for number in 0..3 {
            assert_eq!(fence.majority_ns(), (number == 2).then_some(9));
            let Some(Ask::WriteCertificate(first)) = next(&mut fence, number, Answer::Done) else {
                panic!("a certificate follows")
            };
            assert_eq!(first.victims, [member(1).key]);
            assert_eq!(
                next(&mut fence, number, Answer::Done),
                Some(preempt(member(2).key))
            );
            let Some(Ask::WriteCertificate(second)) = next(&mut fence, number, Answer::Done) else {
                panic!("a certificate follows")
            };
            assert_eq!(second.victims, [member(1).key, member(2).key]);
            assert_eq!(next(&mut fence, number, Answer::Done), Some(Ask::ReadHeartbeats));
            assert_eq!(next(&mut fence, number, Answer::Heartbeats(Vec::new())), None);
        }
        assert!(fence.is_complete());
        assert_eq!(
            fence.last_round(&member(1)),
            None,
            "nobody has shown a heartbeat of it"
        );
    }

    fn beat(victim: u8, seq: u64) -> Heartbeat {
        let Member {
            slot, incarnation, ..
        } = member(victim);
        Heartbeat {
            slot,
            incarnation,
            epoch: Epoch(1),
            seq,
        }
    }

    /// What three voters answer when they are asked for heartbeats, and the last round of node 1 that follows.
    fn shown(answers: [Answer; 3]) -> Option<u64> {
        let (mut fence, _) = begun(&record(&[1]), DriveSet::EMPTY);
        for (number, answer) in (0..).zip(answers) {
            next(&mut fence, number, Answer::Done);
            assert_eq!(next(&mut fence, number, Answer::Done), Some(Ask::ReadHeartbeats));
            assert_eq!(next(&mut fence, number, answer), None);
        }
        assert!(fence.is_complete(), "the drives are fenced, whatever they show");
        fence.last_round(&member(1))
    }

    /// H05: the newest heartbeat on a majority of the voters, behind the fence, is the last one that counts. A voter that shows none of this very life says nothing.
    #[test]
    fn a_majority_shows_the_last_round_that_counts() {
        let of = |seq| Answer::Heartbeats(vec![beat(2, 900), beat(1, seq)]);
        let of_another_life = || {
            let another = Incarnation(7);
            Answer::Heartbeats(vec![Heartbeat {
                incarnation: another,
                ..beat(1, 900)
            }])
        };
        assert_eq!(shown([of(4), of(6), of(5)]), Some(6));
        assert_eq!(shown([of(4), Answer::Failed, of(5)]), Some(5));
        assert_eq!(shown([of(4), of_another_life(), of(3)]), Some(4));
        assert_eq!(shown([of(4), of_another_life(), Answer::Failed]), None);
        assert_eq!(
            shown([of(4), Answer::Heartbeats(Vec::new()), Answer::Conflict]),
            None
        );
    }

    /// A drive that does not vote holds no heartbeats.
    #[test]
    fn only_voters_are_asked_for_heartbeats() {
        let four = EpochRecord {
            drives: DriveSet(0b1111),
            ..record(&[1])
        };
        let (mut fence, _) = begun(&four, DriveSet::EMPTY);
        next(&mut fence, 3, Answer::Done);
        assert_eq!(next(&mut fence, 3, Answer::Done), None);
        assert_eq!(fence.fenced(), DriveSet(0b1000));
    }

    #[test]
    fn the_only_preempt_is_one_that_aborts() {
        let commands = [preempt(Key(1)), preempt(Key::NONE)].map(|ask| ask.reservation());
        for command in commands {
            assert!(matches!(command, Some(Command::Preempt { abort: true, .. })));
        }
    }

    #[test]
    fn with_nobody_to_fence_it_is_over_at_once() {
        let (fence, out) = begun(&record(&[]), DriveSet::EMPTY);
        assert!(out.is_empty() && fence.is_complete());
        assert_eq!(fence.majority_ns(), Some(5));
    }

    /// H09: the key is gone, but whoever took it may have died before the drain was over.
    #[test]
    fn a_key_that_is_gone_needs_a_certificate_or_a_proof() {
        for (killers, proof) in [
            (DriveSet(0b111), Ask::Kill(member(1).slot, member(1).incarnation)),
            (DriveSet::EMPTY, Ask::Register(member(0).key)),
        ] {
            let (mut fence, _) = begun(&record(&[1]), killers);
            assert_eq!(next(&mut fence, 0, Answer::Conflict), Some(Ask::Report));
            let registrants = Answer::Registrants(vec![member(0).key]);
            assert_eq!(next(&mut fence, 0, registrants), Some(Ask::ReadCertificates));
            let none = Answer::Certificates(Vec::new());
            assert_eq!(next(&mut fence, 0, none), Some(proof));
            assert!(matches!(
                next(&mut fence, 0, Answer::Done),
                Some(Ask::WriteCertificate(_))
            ));
            assert_eq!(next(&mut fence, 0, Answer::Done), Some(Ask::ReadHeartbeats));
            assert_eq!(next(&mut fence, 0, Answer::Failed), None);
            assert_eq!(fence.fenced(), DriveSet(1));
            // With a certificate nothing has to be proven again.
            next(&mut fence, 1, Answer::Conflict);
            next(&mut fence, 1, Answer::Registrants(vec![member(0).key]));
            let certificate = Certificate {
                slot: slot(3),
                epoch: Epoch(2),
                drive: drive(1),
                all: false,
                victims: vec![member(1).key],
            };
            let asked = next(&mut fence, 1, Answer::Certificates(vec![certificate]));
            assert!(matches!(asked, Some(Ask::WriteCertificate(_))));
        }
    }

    #[test]
    fn an_interrupted_drain_is_proven_or_the_drive_has_failed() {
        let (mut fence, _) = begun(&record(&[1]), DriveSet::EMPTY);
        assert_eq!(
            next(&mut fence, 0, Answer::Interrupted),
            Some(Ask::Register(member(0).key))
        );
        assert_eq!(next(&mut fence, 0, Answer::Failed), None);
        assert_eq!(next(&mut fence, 1, Answer::Failed), None);
        assert_eq!(fence.failed(), DriveSet(0b11));
        assert_eq!((fence.is_complete(), fence.majority_ns()), (false, None));
    }

    #[test]
    fn who_is_not_registered_any_more_was_fenced_itself() {
        let (mut fence, _) = begun(&record(&[1]), DriveSet::EMPTY);
        next(&mut fence, 0, Answer::Conflict);
        next(&mut fence, 0, Answer::Registrants(vec![member(1).key]));
        assert!(fence.is_evicted());
    }

    #[test]
    fn a_key_that_will_not_go_fails_the_drive() {
        let (mut fence, _) = begun(&record(&[1]), DriveSet::EMPTY);
        let present = || Answer::Registrants(vec![member(0).key, member(1).key]);
        for _ in 1..ATTEMPTS_MAX {
            next(&mut fence, 0, Answer::Conflict);
            assert_eq!(next(&mut fence, 0, present()), Some(preempt(member(1).key)));
        }
        next(&mut fence, 0, Answer::Conflict);
        assert_eq!(next(&mut fence, 0, present()), None);
        assert_eq!(fence.failed(), DriveSet(1));
    }

    #[test]
    fn everyone_is_fenced_with_key_0_after_registering() {
        let everyone = EpochRecord {
            fence_all: true,
            ..record(&[])
        };
        let (mut fence, out) = begun(&everyone, DriveSet::EMPTY);
        assert_eq!(out[2], (drive(2), Ask::Register(member(0).key)));
        assert_eq!(
            next(&mut fence, 2, Answer::Done),
            Some(Ask::Acquire(member(0).key))
        );
        assert_eq!(next(&mut fence, 2, Answer::Done), Some(preempt(Key::NONE)));
        let Some(Ask::WriteCertificate(certificate)) = next(&mut fence, 2, Answer::Done) else {
            panic!("a certificate follows")
        };
        assert!(certificate.all && certificate.victims.is_empty());
        assert_eq!(next(&mut fence, 2, Answer::Done), None);
        next(&mut fence, 1, Answer::Done);
        assert_eq!(next(&mut fence, 1, Answer::Conflict), None);
        assert_eq!(
            (fence.fenced(), fence.failed()),
            (DriveSet(0b100), DriveSet(0b10))
        );
    }
}
