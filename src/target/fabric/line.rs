//! The association of a session: what is asked over it, and asked again after it was lost where nodes share the drives.
//!
//! A drive that is one node's alone is claimed by one association, and its session ends with that. Where nodes share drives, cores and
//! sessions of one life are the same host, so that no fence could keep a command of a lost connection from taking effect after later
//! ones. There a lost command is sent again once a later association has drained the lost one, by Cross-Controller Reset, and the shelf
//! is the same start of its process; otherwise the session ends, and what it had under way is in doubt for the rest of this life.

use std::time::{Duration, Instant};

use nvme::command::SubmissionEntry;

use super::command::{encode_instance, instance_of};
use super::session::ANSWER_WAIT;
use super::{Answer, answer_of};
use crate::target::host::ask::Questions;
use crate::target::host::{Drain, Event, Host, HostError, JobError, Outcome, TargetFacts};

/// How long a lost association may take to be followed by one that has drained it.
const SETTLE_WAIT: Duration = Duration::from_secs(10);
/// How often a command is sent.
const TRIES_MAX: u32 = 4;

/// What becomes of commands that are lost.
#[derive(Debug)]
enum Loss {
    /// They are lost.
    Told,
    /// They are sent again.
    Mended(Proof),
}

/// What is known of the associations, one after the other.
#[derive(Debug)]
struct Proof {
    /// The attempt that works, and has drained those before it.
    proven: Option<u32>,
    /// The attempt of which it is known that it leads to the shelf as it was.
    checked: Option<u32>,
    /// Something was lost in this attempt, or in a later one that was not checked.
    lost: Option<u32>,
    /// Which start of the shelf's process this is.
    instance: Option<[u8; 16]>,
    /// A target that does not say that may have lost what was not flushed.
    volatile: bool,
}

impl Proof {
    fn follow(&mut self, event: &Event) {
        match event {
            Event::Ready { facts, .. } => {
                self.proven = (facts.drain == Drain::Proven).then_some(facts.attempt);
            }
            Event::Down { .. } | Event::Failed { .. } | Event::Stopped { .. } => self.proven = None,
            Event::Discovered { .. } => {}
        }
    }

    /// The attempt that is to be checked before anything is sent.
    fn candidate(&self) -> Option<u32> {
        let is_later = |attempt: &u32| self.lost.is_none_or(|lost| *attempt > lost);
        self.proven.filter(is_later)
    }

    fn is_the_same(&self, instance: Option<[u8; 16]>) -> bool {
        instance == self.instance && (instance.is_some() || !self.volatile)
    }
}

/// See the module.
pub struct Line {
    host: Host<Questions>,
    loss: Loss,
}

impl Line {
    /// Over an association that works, to a target whose drives are one node's alone.
    pub const fn alone(host: Host<Questions>) -> Self {
        let loss = Loss::Told;
        Self { host, loss }
    }

    /// The same for drives that nodes share; `facts` are what was heard last.
    pub fn shared(host: Host<Questions>, facts: &TargetFacts, instance: Option<[u8; 16]>) -> Self {
        let loss = Loss::Mended(Proof {
            proven: (facts.drain == Drain::Proven).then_some(facts.attempt),
            checked: Some(facts.attempt),
            lost: None,
            instance,
            volatile: facts.volatile_write_cache,
        });
        Self { host, loss }
    }

    /// Asks, and waits for the answer. One that is lost over drives that nodes share may still take effect, and nothing else is to be asked.
    pub fn ask(&mut self, entry: SubmissionEntry, data: &[u8], read_bytes: u32) -> (Outcome, Vec<u8>) {
        let Self { host, loss } = self;
        let once = || host.ask(0, false, entry, data.to_vec(), read_bytes, ANSWER_WAIT);
        let Loss::Mended(proof) = loss else {
            return once();
        };
        for _ in 0..TRIES_MAX {
            if !is_mended(host, proof) {
                break;
            }
            match once() {
                (Err(JobError::Lost | JobError::NotSent), _) => proof.lost = proof.checked.take(),
                // A shelf that was started anew before it has answered may have lost what this command is to follow.
                answered @ (Ok(_), _) if is_mended(host, proof) => return answered,
                (Ok(_), _) => break,
                refused @ (Err(JobError::NoMemory | JobError::TooLarge), _) => return refused,
            }
        }
        (Err(JobError::Lost), Vec::new())
    }

    /// Takes leave of the target.
    pub fn stop(self) -> Result<(), HostError> {
        self.host.stop()
    }
}

/// Waits for an association that has drained those before it, and to the same start of the shelf's process.
fn is_mended(host: &Host<Questions>, proof: &mut Proof) -> bool {
    let deadline = Instant::now() + SETTLE_WAIT;
    while Instant::now() < deadline {
        for event in host.events().try_iter() {
            proof.follow(&event);
        }
        match proof.candidate() {
            Some(attempt) if proof.checked == Some(attempt) => return true,
            Some(attempt) => {
                let (entry, bytes) = encode_instance();
                let (outcome, data) = host.ask(0, true, entry, Vec::new(), bytes, SETTLE_WAIT);
                let answer = answer_of(None, outcome, data);
                if answer == Answer::Failed(None) {
                    continue; // It was lost too.
                }
                if !proof.is_the_same(instance_of(&answer)) {
                    return false;
                }
                // Whatever was lost before the answer has been said by now: another association may have given it.
                for event in host.events().try_iter() {
                    proof.follow(&event);
                }
                proof.checked = Some(attempt);
            }
            None => {
                let left = deadline.saturating_duration_since(Instant::now());
                match host.events().recv_timeout(left) {
                    Ok(event) => proof.follow(&event),
                    Err(_) => return false,
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nvme::host::DownReason;

    use super::*;

    fn ready(attempt: u32, drain: Drain) -> Event {
        let facts = TargetFacts {
            attempt,
            drain,
            ..TargetFacts::default()
        };
        Event::Ready {
            target: 0,
            facts: Arc::new(facts),
        }
    }

    /// Goal: after a loss nothing is sent before a later association has proven that the lost one is over.
    #[test]
    fn only_a_later_association_that_has_drained_the_lost_one_counts() {
        let mut proof = Proof {
            proven: Some(4),
            checked: Some(4),
            lost: None,
            instance: Some([1; 16]),
            volatile: true,
        };
        assert_eq!(proof.candidate(), Some(4));
        proof.lost = proof.checked.take();
        assert_eq!(proof.candidate(), None, "nothing was heard of its end yet");
        let reason = DownReason::NotReady;
        proof.follow(&Event::Down { target: 0, reason });
        for drain in [Drain::NotAsked, Drain::UnderWay, Drain::Unsupported] {
            proof.follow(&ready(5, drain));
            assert_eq!(proof.candidate(), None);
        }
        proof.follow(&ready(5, Drain::Proven));
        assert_eq!(proof.candidate(), Some(5));
        assert!(proof.is_the_same(Some([1; 16])));
        assert!(!proof.is_the_same(Some([2; 16])) && !proof.is_the_same(None));
        (proof.instance, proof.volatile) = (None, false);
        assert!(proof.is_the_same(None), "it has nothing to lose");
    }
}
