//! A drive: the quorum area, a reservation by the real reservation machine, and commands that are held between the check and their effect.

use std::collections::{BTreeMap, BTreeSet};

use nvme::reservation::machine::{Action as Reserved, Ask};
use nvme::reservation::{
    Access, Command as Reservation, Floors, HostId, HostName, Machine, Report, Rules, State,
};

use crate::icl::membership::Key;
use crate::icl::membership::machine::{Answer, Command};
use crate::icl::membership::record::{Certificate, EpochRecord, Heartbeat, PaxosBlock, Quorum};
use crate::icl::membership::times::{HEARTBEAT_NS, LEASE_NS};
use crate::icl::{DriveIndex, Incarnation, Slot};

/// How old heartbeats are that are shown by a drive that shows old ones: as long as a lease.
const OLD_ROUNDS: u64 = LEASE_NS / HEARTBEAT_NS;

/// One life of one node, as drives see it.
pub(super) type Life = (Slot, Incarnation);

/// The host identifier of a life.
pub(super) fn host_of((slot, incarnation): Life) -> HostId {
    let mut id = [0; 16];
    id[0] = slot.number();
    id[8..].copy_from_slice(&incarnation.0.to_le_bytes());
    HostId(id)
}

/// What a node has under way on a drive.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// Of the membership machine.
    Membership(Command),
    /// A write of a host's data, in this epoch.
    Data,
}

impl What {
    /// Whether the reservation decides about it.
    pub(super) const fn is_reserved_write(&self) -> bool {
        matches!(self, Self::Data | Self::Membership(Command::WriteHeartbeat(_)))
    }
}

/// One drive.
#[derive(Debug)]
pub(super) struct Drive {
    pub(super) index: DriveIndex,
    pub(super) reservation: Machine<u64>,
    pub(super) rules: Rules,
    paxos: BTreeMap<Slot, PaxosBlock>,
    decided: BTreeMap<Slot, EpochRecord>,
    certificates: BTreeMap<Slot, Certificate>,
    beats: BTreeMap<Slot, Heartbeat>,
    /// Lives that are let in no more.
    pub(super) killed: BTreeSet<Life>,
    /// Slots whose past lives are let in no more: this is the first that is. In this world lives are numbered in order.
    pub(super) expelled: BTreeMap<Slot, Incarnation>,
    /// Commands that were admitted and have no effect yet, with their owners; whether they can be aborted.
    pub(super) held: BTreeMap<u64, (Life, What, bool)>,
    /// What Preempt and Abort waits for.
    pub(super) draining: Option<BTreeSet<u64>>,
    /// Keys that were certified as fenced, for the check of what executes after that.
    pub(super) certified: BTreeSet<Key>,
    pub(super) is_online: bool,
    /// Plain Preempt instead of Preempt and Abort: a fault that the checks have to catch.
    pub(super) loses_abort: bool,
    /// Heartbeats are shown as they were some rounds ago: another one.
    pub(super) shows_old_beats: bool,
}

impl Drive {
    pub(super) fn new(index: DriveIndex) -> Self {
        Self {
            index,
            // Keys are held to epochs, as on a shelf.
            reservation: Machine::new(true, Some(gated())),
            rules: Rules::default(),
            paxos: BTreeMap::new(),
            decided: BTreeMap::new(),
            certificates: BTreeMap::new(),
            beats: BTreeMap::new(),
            killed: BTreeSet::new(),
            expelled: BTreeMap::new(),
            held: BTreeMap::new(),
            draining: None,
            certified: BTreeSet::new(),
            is_online: true,
            loses_abort: false,
            shows_old_beats: false,
        }
    }

    /// Whether the drive lets this life in at all.
    pub(super) fn admits(&self, life: Life) -> bool {
        let only = self.expelled.get(&life.0).is_none_or(|first| *first <= life.1);
        only && !self.killed.contains(&life)
    }

    /// Whether the reservation permits what it decides about.
    pub(super) fn permits(&self, life: Life, what: &What) -> bool {
        !what.is_reserved_write() || self.rules.permits(host_of(life), Access::Write)
    }

    /// Carries out a command that is neither one of reservations nor one that ends associations.
    pub(super) fn execute(&mut self, life: Life, command: &Command) -> Answer {
        match command {
            Command::ReadQuorum => {
                return Answer::Quorum(Quorum {
                    blocks: self.paxos.values().cloned().collect(),
                    decided: self
                        .decided
                        .iter()
                        .map(|(slot, it)| (*slot, it.clone()))
                        .collect(),
                    certificates: self.certificates.values().cloned().collect(),
                });
            }
            Command::ReadHeartbeats => {
                let rounds = if self.shows_old_beats { OLD_ROUNDS } else { 0 };
                let shown = |beat: &Heartbeat| Heartbeat {
                    seq: beat.seq.saturating_sub(rounds),
                    ..*beat
                };
                return Answer::Heartbeats(self.beats.values().map(shown).collect());
            }
            Command::WritePaxos(block) => {
                self.paxos.insert(life.0, block.clone());
            }
            Command::WriteDecided(record) => {
                self.decided.insert(life.0, record.clone());
            }
            Command::WriteCertificate(certificate) => {
                self.certified.extend(&certificate.victims);
                self.certificates.insert(life.0, certificate.clone());
            }
            Command::WriteHeartbeat(beat) => {
                self.beats.insert(life.0, *beat);
            }
            Command::Expel | Command::Kill(..) | Command::Reserve(_) => {
                unreachable!("these are carried out elsewhere")
            }
        }
        Answer::Done
    }

    /// Hands a reservation command to the machine. Returns which commands are done, and which held ones are aborted.
    pub(super) fn reserve(&mut self, name: u64, life: Life, command: Reservation) -> Outcome {
        let mut command = command;
        if let Reservation::Preempt { abort, .. } = &mut command {
            *abort &= !self.loses_abort;
        }
        let host = host_of(life);
        let mut actions = Vec::new();
        let ask = Ask {
            name,
            host,
            host_name: HostName(u128::from(life.0.number())),
            command,
        };
        self.reservation.ask(ask, &mut actions);
        self.carry_out(actions)
    }

    /// A held command is gone; a drain that waited for it may be over.
    pub(super) fn released(&mut self, id: u64) -> Outcome {
        self.held.remove(&id);
        let Some(draining) = &mut self.draining else {
            return Outcome::default();
        };
        draining.remove(&id);
        if !draining.is_empty() {
            return Outcome::default();
        }
        self.draining = None;
        let mut actions = Vec::new();
        self.reservation.enforced(&mut actions);
        self.carry_out(actions)
    }

    fn carry_out(&mut self, actions: Vec<Reserved<u64>>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut actions = std::collections::VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let mut more = Vec::new();
            match action {
                Reserved::Persist(_) => self.reservation.persisted(true, &mut more),
                Reserved::Enforce { rules, abort, .. } => {
                    self.rules = rules;
                    let of_aborted = |(life, what, _): &(Life, What, bool)| {
                        what.is_reserved_write() && abort.contains(&host_of(*life))
                    };
                    let (now, later): (Vec<_>, Vec<_>) = self
                        .held
                        .iter()
                        .filter(|(_, held)| of_aborted(held))
                        .partition(|(_, held)| held.2);
                    let later: BTreeSet<u64> = later.into_iter().map(|(id, _)| *id).collect();
                    let now: Vec<u64> = now.into_iter().map(|(id, _)| *id).collect();
                    for id in now {
                        let (life, ..) = self.held.remove(&id).expect("it was just found");
                        outcome.aborted.push((id, life));
                    }
                    if later.is_empty() {
                        self.reservation.enforced(&mut more);
                    } else {
                        self.draining = Some(later);
                    }
                }
                Reserved::Notify { host, .. } => outcome.preempted.push(host),
                Reserved::Complete { name, status, data } => {
                    let answer = if status == nvme::status::Status::SUCCESS {
                        match Report::parse(&data, true).filter(|_| !data.is_empty()) {
                            Some(report) => Answer::Report(report),
                            None => Answer::Done,
                        }
                    } else if status == nvme::status::Status::RESERVATION_CONFLICT.do_not_retry() {
                        Answer::Conflict
                    } else {
                        Answer::Failed
                    };
                    outcome.done.push((name, answer));
                }
            }
            actions.extend(more);
        }
        outcome
    }
}

/// A namespace that nobody has registered with, held to epochs.
fn gated() -> State {
    State {
        floors: Some(Floors::default()),
        ..State::default()
    }
}

/// What a reservation command has led to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) done: Vec<(u64, Answer)>,
    pub(super) aborted: Vec<(u64, Life)>,
    pub(super) preempted: Vec<HostId>,
}
