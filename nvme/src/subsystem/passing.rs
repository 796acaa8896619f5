//! Reservation commands of namespaces that several nodes serve: they are passed on, because the nodes decide together.
//!
//! One command of a namespace is passed on at a time, so that what a host has given up, and nobody has begun, is forgotten here.

use std::collections::VecDeque;

use crate::reservation::machine::WAITING_MAX;
use crate::reservation::{self, HostId, State};
use crate::status::Status;

use super::{
    Action, Command, QueueId, Reply, ReservationAnswer, ReservationChange, ReservationPass, Subsystem,
};

/// A command that was passed on.
#[derive(Debug)]
struct Passed {
    number: u64,
    command: Command,
    /// Nobody waits for its completion any more.
    is_orphan: bool,
}

/// The reservation commands of one namespace.
#[derive(Debug, Default)]
pub(super) struct Passing {
    /// Registrants and reservation as this node was told last.
    pub(super) state: State,
    passed: Option<Passed>,
    waiting: VecDeque<(Command, HostId, reservation::Command)>,
}

impl Passing {
    /// A connection is gone: its commands that were not passed on are forgotten.
    pub(super) fn withdraw(&mut self, queue: QueueId) {
        self.waiting.retain(|(command, ..)| command.queue != queue);
        if let Some(passed) = &mut self.passed {
            passed.is_orphan |= passed.command.queue == queue;
        }
    }

    /// Whether a command was passed on whose connection is gone.
    pub(super) fn is_orphaned(&self) -> bool {
        self.passed.as_ref().is_some_and(|passed| passed.is_orphan)
    }

    /// The namespace is gone: all commands that somebody waits for.
    pub(super) fn end(self) -> impl Iterator<Item = Command> {
        let passed = self.passed.filter(|passed| !passed.is_orphan);
        let waiting = self.waiting.into_iter().map(|(command, ..)| command);
        passed.map(|passed| passed.command).into_iter().chain(waiting)
    }
}

impl Subsystem {
    /// Passes a command on, or has it wait for the one that was.
    pub(super) fn pass(
        &mut self,
        nsid: u32,
        command: Command,
        (host, asked): (HostId, reservation::Command),
        out: &mut Vec<Action>,
    ) {
        let passing = self.reservations.passing_mut(nsid);
        let passing = passing.expect("the caller has found the namespace");
        if passing.waiting.len() >= WAITING_MAX {
            return command.complete(Reply::failure(Status::COMMAND_INTERRUPTED), out);
        }
        passing.waiting.push_back((command, host, asked));
        self.pass_next(nsid, out);
    }

    fn pass_next(&mut self, nsid: u32, out: &mut Vec<Action>) {
        let number = self.reservations.next_number();
        let Some(passing) = self.reservations.passing_mut(nsid) else {
            return;
        };
        if passing.passed.is_some() {
            return;
        }
        let Some((command, host, asked)) = passing.waiting.pop_front() else {
            return;
        };
        passing.passed = Some(Passed {
            number,
            command,
            is_orphan: false,
        });
        out.push(Action::PassReservation(ReservationPass {
            number,
            nsid,
            host,
            command: asked,
        }));
    }

    /// The answer to what was passed on.
    pub(super) fn reservation_answered(&mut self, answer: ReservationAnswer, out: &mut Vec<Action>) {
        let ReservationAnswer { number, status, data } = answer;
        let Some((nsid, passed)) = self.reservations.take_passed(number) else {
            return; // Its namespace is gone.
        };
        if !passed.is_orphan {
            self.end_reservation(&passed.command, status, data, out);
        }
        self.pass_next(nsid, out);
        self.finish_resets(out);
    }

    /// The nodes have changed a namespace's reservations, and this one holds its hosts to that.
    pub(super) fn reservation_changed(&mut self, change: ReservationChange, out: &mut Vec<Action>) {
        let ReservationChange { nsid, state, notices } = change;
        let Some(passing) = self.reservations.passing_mut(nsid) else {
            return;
        };
        passing.state = state;
        for (host, notice) in notices {
            self.reservation_lost(nsid, host, notice);
        }
        self.tell_notices(out);
    }
}

impl super::reservation::Reservations {
    fn take_passed(&mut self, number: u64) -> Option<(u32, Passed)> {
        let is_meant = |passed: &mut Passed| passed.number == number;
        let mut all = self.passing.iter_mut();
        all.find_map(|(nsid, passing)| Some((*nsid, passing.passed.take_if(is_meant)?)))
    }
}
