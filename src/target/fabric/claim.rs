//! Makes a drive this node's own: registers, reserves, and takes away the rights of whoever is not to write any more.
//!
//! A pure machine, one for each drive and association. It is used before the cores start, when a node takes a drive, and by core 0 after
//! each reconnect: there what an earlier association of the same node has left on its way is fenced like a stranger's writes, so that
//! its commands can be sent again (PROTOCOL H02, H30).
//!
//! Deliberately knows one node alone: whoever shares a drive with others by membership makes reservations as that decides.

use nvme::reservation::{Command, HostId, Key, Kind, Persistence, Report, Reported};
use nvme::status::Status;
use thiserror::Error;

use super::Answer;

/// Registrants that are not asked for are not seen: as many as our shelf has at most.
const REPORT_BYTES: u64 = Report::bytes(nvme::reservation::REGISTRANTS_MAX, true) as u64;
/// Registered hosts read and write, and nobody else does: a node that was put out reads nothing old either.
const KIND: Kind = Kind::ExclusiveAccessAllRegistrants;

/// Claims of one node that ended in doubt and of which the drive may still know; of older ones it is not told apart from others.
const TRIED_MAX: usize = 64;

/// Who a node is to a drive, for one association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Host identifier.
    pub host: HostId,
    /// Reservation key.
    pub key: Key,
}

/// What becomes of others that are registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rivals {
    /// The drive is theirs.
    Respect,
    /// They are put out, because an operator says so.
    TakeOver,
    /// This node before is put out, by its keys. Nobody else is: whoever takes the drive over in this moment takes those keys away, so that
    /// this node notices and does not take it back.
    Renew(Custody),
}

/// What a node knows of its own registrations at a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custody {
    /// This one had the drive: as long as it is registered, nobody else has had it since.
    holder: HostId,
    /// Those of claims that ended before their end was known, oldest first.
    tried: Vec<Tried>,
}

/// A claim that ended before its end was known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tried {
    host: HostId,
    /// The drive's generation if all that it asked has taken effect, and nothing else has happened since it found the drive this node's;
    /// `None` if it had not, or if that would not tell.
    expected: Option<u32>,
}

impl Custody {
    /// Of a node that had the drive as this host.
    pub const fn of(holder: HostId) -> Self {
        Self {
            holder,
            tried: Vec::new(),
        }
    }

    /// A claim was broken off.
    pub fn tried(&mut self, claim: &Claim) {
        if !claim.has_changed {
            return;
        }
        let host = claim.mine.host;
        self.tried.retain(|tried| tried.host != host);
        if self.tried.len() == TRIED_MAX {
            self.tried.remove(0);
        }
        let expected = claim.expected;
        self.tried.push(Tried { host, expected });
    }

    fn is_own(&self, registrant: &Reported) -> bool {
        registrant.host == self.holder || self.tried.iter().any(|tried| tried.host == registrant.host)
    }

    /// Whether nobody else can have had the drive in between: its last holder is still there, or the fence of a claim, whose answer was lost,
    /// is the last thing that has happened.
    fn is_continuous(&self, report: &Report) -> bool {
        if report.registrants.iter().any(|it| it.host == self.holder) {
            return true;
        }
        let [alone] = &report.registrants[..] else {
            return false;
        };
        let (host, expected) = (alone.host, Some(report.generation));
        report.kind == Some(KIND) && self.tried.contains(&Tried { host, expected })
    }
}

/// Why a drive is not this node's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Somebody else has it.
    #[error("{}", held(.0))]
    Held(Report),
    /// Somebody has taken it away in this moment.
    #[error("another host has just taken it")]
    Preempted,
    /// Whether commands of who had it before are over is not known.
    #[error("its target could not end the commands of whoever had it before")]
    NotDrained,
    /// The target knows no such reservations, or forgets them with its power.
    #[error("its target has no reservations that outlive a loss of power")]
    Unsupported,
    /// A command failed.
    #[error("{}", failed(.0))]
    Failed(Option<Status>),
}

fn held(report: &Report) -> String {
    let registrants = report.registrants.iter();
    let hosts: Vec<String> = registrants
        .map(|registrant| format!("host {} with key {:#018x}", registrant.host, registrant.key.0))
        .collect();
    let reserved = report.kind.map_or("registered", |_| "reserved");
    format!("it is {reserved} by {}", hosts.join(" and "))
}

fn failed(status: &Option<Status>) -> String {
    match status {
        Some(status) => format!("a reservation command failed: {status}"),
        None => "the connection was lost".to_owned(),
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the drive this.
    Ask(Command),
    /// The drive is this node's alone, and nothing that was sent before is under way any more.
    Claimed {
        /// It has been this node's without interruption.
        continuous: bool,
    },
    /// It is not.
    Refused(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    AwaitingReport,
    AwaitingRegister,
    AwaitingAcquire,
    AwaitingPreempt,
    AwaitingCheck,
    /// The own registration is taken back.
    AwaitingRetreat(Refusal),
    Over,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Claim {
    mine: Identity,
    rivals: Rivals,
    state: State,
    /// What the drive said first.
    found: Report,
    /// Keys of those that have yet to be put out.
    victims: Vec<Key>,
    continuous: bool,
    /// Something was asked that changes what the drive knows.
    has_changed: bool,
    /// The drive's generation when all of it has taken effect, if that tells that nothing else has happened.
    expected: Option<u32>,
}

const REPORT: Command = Command::Report {
    extended: true,
    length_bytes: REPORT_BYTES,
};

impl Claim {
    /// A claim to a drive, and what is to be asked first.
    pub fn begin(mine: Identity, rivals: Rivals) -> (Self, Command) {
        let claim = Self {
            mine,
            rivals,
            state: State::AwaitingReport,
            found: Report::default(),
            victims: Vec::new(),
            continuous: false,
            has_changed: false,
            expected: None,
        };
        (claim, REPORT)
    }

    /// Takes the answer to what was asked. Panics after the end.
    pub fn answered(&mut self, answer: Answer) -> Step {
        let step = match std::mem::replace(&mut self.state, State::Over) {
            State::AwaitingReport => self.reported(answer),
            State::AwaitingRegister => self.registered(answer),
            State::AwaitingAcquire => match done(answer) {
                Ok(()) => self.put_out(),
                // Another node was quicker: who it is comes with the report, and then this one goes again.
                Err(Refusal::Preempted) if self.rivals == Rivals::Respect => self.check(),
                Err(refusal) => Step::Refused(refusal),
            },
            State::AwaitingPreempt => match done(answer) {
                Ok(()) => self.put_out(),
                Err(Refusal::Preempted) => self.retreat(Refusal::Preempted),
                Err(refusal) => Step::Refused(refusal),
            },
            State::AwaitingCheck => self.checked(answer),
            State::AwaitingRetreat(refusal) => Step::Refused(refusal),
            State::Over => panic!("an ended claim asks nothing"),
        };
        assert_eq!(matches!(step, Step::Ask(_)), self.state != State::Over);
        step
    }

    fn ask(&mut self, state: State, command: Command) -> Step {
        self.state = state;
        Step::Ask(command)
    }

    fn reported(&mut self, answer: Answer) -> Step {
        let report = match answer {
            Answer::Report(report) => report,
            Answer::Failed(Some(status))
                if status.same_code(Status::INVALID_OPCODE) || status.same_code(Status::INVALID_FIELD) =>
            {
                return Step::Refused(Refusal::Unsupported);
            }
            answer @ (Answer::Done
            | Answer::Data(_)
            | Answer::Conflict
            | Answer::Interrupted
            | Answer::Failed(_)) => return Step::Refused(unexpected(&answer)),
        };
        let registrants = &report.registrants;
        self.victims = match &self.rivals {
            Rivals::Respect if registrants.is_empty() => Vec::new(),
            Rivals::TakeOver if registrants.is_empty() => Vec::new(),
            // Under a reservation of all registrants no key means all others.
            Rivals::TakeOver => vec![Key::NONE],
            Rivals::Respect => return Step::Refused(Refusal::Held(report)),
            Rivals::Renew(custody) => {
                self.continuous = custody.is_continuous(&report);
                let is_foreign = |it: &Reported| !custody.is_own(it) && it.host != self.mine.host;
                let has_foreign = registrants.iter().any(is_foreign);
                if !self.continuous && has_foreign {
                    return Step::Refused(Refusal::Held(report));
                }
                let mut own: Vec<&Reported> = registrants.iter().filter(|it| custody.is_own(it)).collect();
                // Again after a claim that failed half-way.
                own.retain(|it| it.host != self.mine.host);
                // The last one comes first.
                own.sort_by_key(|it| it.host == custody.holder);
                // Whoever takes the drive over and gives it back changes the generation three times, beside the own registration.
                let is_telling = self.continuous && !has_foreign && own.len() < 3;
                let steps = 1 + u32::try_from(own.len()).expect("registrants are few");
                self.expected = is_telling.then(|| report.generation.wrapping_add(steps));
                own.iter().map(|it| it.key).collect()
            }
        };
        self.found = report;
        self.has_changed = true;
        let persistence = Persistence::On;
        let new = self.mine.key;
        self.ask(State::AwaitingRegister, Command::Register { new, persistence })
    }

    fn registered(&mut self, answer: Answer) -> Step {
        if let Err(refusal) = done(answer) {
            // It does not know the type of persistence.
            let unknown = Refusal::Failed(Some(Status::INVALID_FIELD));
            let is_unknown =
                refusal == unknown || refusal == Refusal::Failed(Some(Status::INVALID_FIELD.do_not_retry()));
            return Step::Refused(if is_unknown { Refusal::Unsupported } else { refusal });
        }
        let (current, kind) = (self.mine.key, KIND);
        match self.found.kind {
            None => self.ask(State::AwaitingAcquire, Command::Acquire { current, kind }),
            Some(held) if held.is_of_all() => self.put_out(),
            Some(_) => {
                let holder = self.found.registrants.iter().find(|it| it.holder);
                let victim = holder.map_or(Key::NONE, |holder| holder.key);
                self.ask(State::AwaitingAcquire, preempt(current, victim))
            }
        }
    }

    /// Takes the rights of the next victim away, and waits for its commands.
    fn put_out(&mut self) -> Step {
        match self.victims.pop() {
            Some(victim) => self.ask(State::AwaitingPreempt, preempt(self.mine.key, victim)),
            None => self.check(),
        }
    }

    /// Leaves nothing behind.
    fn retreat(&mut self, refusal: Refusal) -> Step {
        let command = give_back(self.mine);
        self.ask(State::AwaitingRetreat(refusal), command)
    }

    fn check(&mut self) -> Step {
        self.ask(State::AwaitingCheck, REPORT)
    }

    /// Two nodes that both found nobody may both have registered by now.
    fn checked(&mut self, answer: Answer) -> Step {
        let Answer::Report(mut report) = answer else {
            return Step::Refused(unexpected(&answer));
        };
        if !report.persists {
            return Step::Refused(Refusal::Unsupported);
        }
        let mine = self.mine;
        let is_mine = |it: &Reported| it.host == mine.host && it.key == mine.key;
        let holds = report.registrants.iter().any(is_mine) && report.kind == Some(KIND);
        report.registrants.retain(|registrant| !is_mine(registrant));
        if self.rivals == Rivals::Respect && !report.registrants.is_empty() {
            return self.retreat(Refusal::Held(report));
        }
        if !holds {
            return Step::Refused(Refusal::Preempted);
        }
        let continuous = self.continuous;
        Step::Claimed { continuous }
    }
}

const fn preempt(current: Key, victim: Key) -> Command {
    Command::Preempt {
        current,
        victim,
        kind: KIND,
        abort: true,
    }
}

/// What gives a drive back that nothing is under way for.
pub const fn give_back(mine: Identity) -> Command {
    Command::Unregister {
        current: Some(mine.key),
        persistence: Persistence::Keep,
    }
}

fn done(answer: Answer) -> Result<(), Refusal> {
    match answer {
        Answer::Done => Ok(()),
        answer @ (Answer::Data(_)
        | Answer::Report(_)
        | Answer::Conflict
        | Answer::Interrupted
        | Answer::Failed(_)) => Err(unexpected(&answer)),
    }
}

fn unexpected(answer: &Answer) -> Refusal {
    match answer {
        Answer::Conflict => Refusal::Preempted,
        Answer::Interrupted => Refusal::NotDrained,
        Answer::Failed(status) => Refusal::Failed(*status),
        // A report that could not be read, or data in the place of one.
        Answer::Done | Answer::Data(_) | Answer::Report(_) => Refusal::Failed(None),
    }
}

#[cfg(test)]
mod tests;
