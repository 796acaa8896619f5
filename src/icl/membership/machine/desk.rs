//! Commands for drives: one at a time for each purpose and drive, in the order of their issue.
//!
//! What a machine that was replaced has left under way is waited for, so that its successor's write to the same block cannot be
//! overtaken by it; its answer is not passed on.

use std::collections::{BTreeMap, VecDeque};

use super::{Action, Command, Purpose, Ticket};
use crate::icl::membership::DriveIndex;

/// Commands that wait behind the one under way: each machine has one at a time, and its predecessor's are forgotten.
const WAITING_MAX: usize = 2;

/// Commands of one purpose for one drive.
#[derive(Clone, Debug, Default)]
struct Line {
    pending: Option<(u32, Command)>,
    waiting: VecDeque<Command>,
}

/// All commands that are not answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Desk {
    lines: BTreeMap<(Purpose, DriveIndex), Line>,
    /// How often each purpose was forgotten.
    serials: BTreeMap<Purpose, u32>,
}

impl Desk {
    /// Sends a command, or keeps it until the one before is answered.
    pub(super) fn ask(
        &mut self,
        purpose: Purpose,
        drive: DriveIndex,
        command: Command,
        out: &mut Vec<Action>,
    ) {
        let serial = self.serial(purpose);
        let line = self.lines.entry((purpose, drive)).or_default();
        line.waiting.push_back(command);
        assert!(
            line.waiting.len() <= WAITING_MAX,
            "each machine has one command at a time"
        );
        send_next(line, drive, Ticket { purpose, serial }, out);
    }

    /// Takes note of an answer. `None` if nobody waits for it any more.
    ///
    /// Panics at an answer to what was not asked.
    pub(super) fn answered(
        &mut self,
        drive: DriveIndex,
        ticket: Ticket,
        out: &mut Vec<Action>,
    ) -> Option<Command> {
        let serial = self.serial(ticket.purpose);
        let line = self.lines.get_mut(&(ticket.purpose, drive));
        let line = line.expect("a drive answers what it was asked");
        let (asked, command) = line.pending.take().expect("a drive answers once");
        assert_eq!(asked, ticket.serial, "a drive answers what is under way");
        let next = Ticket {
            purpose: ticket.purpose,
            serial,
        };
        send_next(line, drive, next, out);
        (asked == serial).then_some(command)
    }

    /// Nobody waits for answers of this purpose any more, and what has not been sent never will be.
    pub(super) fn forget(&mut self, purpose: Purpose) {
        *self.serials.entry(purpose).or_default() += 1;
        for ((of, _), line) in &mut self.lines {
            if *of == purpose {
                line.waiting.clear();
            }
        }
    }

    /// Whether nothing of this purpose is under way or waits on this drive that somebody waits for.
    pub(super) fn is_idle(&self, purpose: Purpose, drive: DriveIndex) -> bool {
        let serial = self.serial(purpose);
        self.lines.get(&(purpose, drive)).is_none_or(|line| {
            line.waiting.is_empty() && line.pending.as_ref().is_none_or(|(asked, _)| *asked != serial)
        })
    }

    fn serial(&self, purpose: Purpose) -> u32 {
        self.serials.get(&purpose).copied().unwrap_or(0)
    }
}

fn send_next(line: &mut Line, drive: DriveIndex, ticket: Ticket, out: &mut Vec<Action>) {
    if line.pending.is_some() {
        return;
    }
    if let Some(command) = line.waiting.pop_front() {
        line.pending = Some((ticket.serial, command.clone()));
        out.push(Action::Drive {
            drive,
            ticket,
            command,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_waits_for_what_its_predecessor_has_under_way() {
        let drive = DriveIndex::new(3).unwrap();
        let (mut desk, mut out) = (Desk::default(), Vec::new());
        desk.ask(Purpose::Paxos, drive, Command::Expel, &mut out);
        let [Action::Drive { ticket, .. }] = out[..] else {
            panic!("sent at once")
        };
        desk.ask(Purpose::Paxos, drive, Command::ReadHeartbeats, &mut out);
        desk.forget(Purpose::Paxos);
        assert!(desk.is_idle(Purpose::Paxos, drive));
        desk.ask(Purpose::Paxos, drive, Command::ReadQuorum, &mut out);
        assert_eq!(out.len(), 1, "the first one is not answered");
        assert!(!desk.is_idle(Purpose::Paxos, drive));
        assert_eq!(desk.answered(drive, ticket, &mut out), None);
        let Action::Drive { ticket, command, .. } = out[1].clone() else {
            panic!("sent next")
        };
        assert_eq!(command, Command::ReadQuorum);
        assert_eq!(desk.answered(drive, ticket, &mut out), Some(Command::ReadQuorum));
    }
}
