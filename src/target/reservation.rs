//! Reservations on a core: who may begin what, and when nothing of a preempted host is under way any more.
//!
//! The rules are this core's own copy, so that a command costs one look at a field of the core as long as nothing is reserved. They change
//! by message, and the reservation command that changes them completes only after every core has confirmed them: from then on no command
//! begins that they forbid. A command counts as begun from the moment that an engine has it until it is completed.

use std::collections::BTreeMap;
use std::sync::Arc;

use nvme::io::NSID_ALL;
use nvme::reservation::{Access, HostId, Rules};
use nvme::status::Status;
use nvme::subsystem::QueueId;
use nvme::tcp::target::Slot;
use reactor::Io;

use super::connection::{Command, CommandState, Connection, Life};
use super::core::Core;
use super::message::{ControlMessage, Enforcement, Message};

/// Reservation Conflict: only another reservation command changes it.
pub const CONFLICT: Status = Status::RESERVATION_CONFLICT.do_not_retry();

/// What a core knows of reservations.
#[derive(Default)]
pub struct Reservations {
    /// Rules of the namespaces that are reserved.
    rules: BTreeMap<u32, Arc<Rules>>,
    /// Confirmations that wait for commands of preempted hosts.
    preemptions: Vec<Enforcement>,
}

impl Reservations {
    /// Whether a host may not do this to a namespace. A flush of all namespaces needs the right to each of them.
    fn refuses(&self, host: HostId, nsid: u32, access: Access) -> bool {
        if nsid == NSID_ALL {
            return self.rules.values().any(|rules| !rules.permits(host, access));
        }
        self.rules
            .get(&nsid)
            .is_some_and(|rules| !rules.permits(host, access))
    }
}

/// Whether a preemption ends this command.
fn is_ended(command: &Command, nsid: u32) -> bool {
    command.request.is_some() && matches!(command.entry.nsid(), of if of == nsid || of == NSID_ALL)
}

/// Whether an engine has a command of this connection that a preemption ends.
fn is_under_way(connection: &Connection, preemption: &Enforcement) -> bool {
    preemption.abort.contains(&connection.host)
        && connection
            .commands
            .iter()
            .any(|command| command.state == CommandState::Running && is_ended(command, preemption.nsid))
}

impl Core {
    /// Whether a reservation forbids a command to begin, or to go on.
    pub(super) fn is_refused(&mut self, queue: QueueId, slot: Slot) -> bool {
        if self.reservations.rules.is_empty() {
            return false;
        }
        let Some(connection) = self.connections.find(queue) else {
            return false;
        };
        let entry = connection.command(slot).entry;
        let access = Access::of(entry.opcode());
        self.reservations.refuses(connection.host, entry.nsid(), access)
    }

    /// Takes over the rules of a namespace, ends what preempted hosts have under way there, and confirms when that is over.
    pub(super) fn enforce_reservation(&mut self, io: &mut Io<Message>, enforcement: &Enforcement) {
        let nsid = enforcement.nsid;
        if enforcement.rules.is_open() {
            self.reservations.rules.remove(&nsid);
        } else {
            let rules = Arc::clone(&enforcement.rules);
            self.reservations.rules.insert(nsid, rules);
        }
        let hosts = &enforcement.abort;
        let meant = self.connections.iter();
        let queues: Vec<QueueId> = meant
            .filter(|connection| hosts.contains(&connection.host))
            .map(|connection| connection.queue)
            .collect();
        for queue in queues {
            for slot in (0..self.limits.machine.slots_max).map(Slot) {
                self.end_preempted(io, queue, slot, nsid);
            }
        }
        self.reservations.preemptions.push(enforcement.clone());
        self.tend_preemptions(io);
    }

    /// Ends one command of a preempted host: at once if no engine has it, and otherwise as soon as what it has begun is finished.
    fn end_preempted(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot, nsid: u32) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        let open = connection.life == Life::Open;
        let command = *connection.command(slot);
        if !is_ended(&command, nsid) {
            return;
        }
        match command.state {
            CommandState::AwaitingBuffer | CommandState::AwaitingData | CommandState::AwaitingPartner
                if open =>
            {
                self.end_pair(io, queue, slot, Status::ABORTED_BY_PREEMPTION);
            }
            CommandState::Running => {
                self.give_up_in_group(io, command.group, command.id.expect("an engine has it"));
            }
            CommandState::AwaitingBuffer
            | CommandState::AwaitingData
            | CommandState::AwaitingPartner
            | CommandState::AtControl
            | CommandState::Free => {}
        }
    }

    /// Confirms rules whose preempted hosts have nothing under way here any more.
    pub(super) fn tend_preemptions(&mut self, io: &mut Io<Message>) {
        if self.reservations.preemptions.is_empty() {
            return;
        }
        for preemption in std::mem::take(&mut self.reservations.preemptions) {
            let is_held = self
                .connections
                .iter()
                .any(|connection| is_under_way(connection, &preemption));
            if is_held {
                self.reservations.preemptions.push(preemption);
            } else {
                let number = preemption.number;
                self.tell_control(io, ControlMessage::ReservationEnforced { number });
            }
        }
    }
}
