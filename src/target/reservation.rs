//! Reservations on a core: who may begin what, and when nothing of a preempted host is under way any more.
//!
//! The rules are this core's own copy ([`nvme::reservation::Guard`]). They change by message, and the command that changes them completes only
//! after every core has confirmed them: from then on no command begins that they forbid. A command counts as begun from the moment that an
//! engine has it until it is completed.

use std::sync::Arc;

use nvme::reservation::{Access, Life as HostLife, Order};
use nvme::status::Status;
use nvme::subsystem::QueueId;
use nvme::tcp::target::Slot;
use reactor::Io;

use super::command_log::Note;
use super::connection::{Command, CommandState, Connection, Life};
use super::core::Core;
use super::message::{ControlMessage, Message};
use super::share::Lease;

/// Reservation Conflict: only another reservation command changes it.
const CONFLICT: Status = Status::RESERVATION_CONFLICT.do_not_retry();

/// Whether an order ends this command of a host.
fn ends(order: &Order, host: HostLife, command: &Command) -> bool {
    command.request.is_some() && order.ends(host, command.entry.nsid())
}

/// Whether an engine has a command of this connection that an order ends.
fn is_under_way(connection: &Connection, order: &Order) -> bool {
    connection
        .commands
        .iter()
        .any(|command| command.state == CommandState::Running && ends(order, connection.host, command))
}

impl Core {
    /// Whether a reservation forbids a command to begin, or to go on.
    pub(super) fn is_refused(&mut self, queue: QueueId, slot: Slot) -> bool {
        if self.guard.is_open() {
            return false;
        }
        let Some(connection) = self.connections.find(queue) else {
            return false;
        };
        let entry = connection.command(slot).entry;
        let access = Access::of(entry.opcode());
        self.guard.refuses(connection.host, entry.nsid(), access)
    }

    /// What a host is told whose command a reservation forbids. A node without a lease may know of an old one, because others have gone on without it: the host
    /// tries another path, or here again.
    pub(super) fn conflict(&self) -> Status {
        // Of this moment, after the rules were looked at.
        let covers = |lease: &Arc<Lease>| lease.covers(reactor::now());
        if self.lease.as_ref().is_none_or(covers) {
            CONFLICT
        } else {
            Status::ANA_TRANSITION
        }
    }

    /// Takes over the rules of a namespace, ends what they end, and confirms when that is over.
    pub(super) fn enforce_reservation(&mut self, io: &mut Io<Message>, order: Order) {
        self.guard.take(order.clone());
        let meant = self.connections.iter();
        let queues: Vec<QueueId> = meant
            .filter(|connection| {
                let mut commands = connection.commands.iter();
                commands.any(|command| ends(&order, connection.host, command))
            })
            .map(|connection| connection.queue)
            .collect();
        for queue in queues {
            for slot in (0..self.limits.machine.slots_max).map(Slot) {
                self.end_ordered(io, queue, slot, &order);
            }
        }
        self.tend_orders(io);
    }

    /// Ends one command if an order does: at once if no engine has it, and otherwise as soon as what it has begun is finished.
    fn end_ordered(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot, order: &Order) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        let open = connection.life == Life::Open;
        let command = *connection.command(slot);
        if !ends(order, connection.host, &command) {
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

    /// Confirms orders that have nothing left to end here.
    pub(super) fn tend_orders(&mut self, io: &mut Io<Message>) {
        if !self.guard.is_asked() {
            return;
        }
        let connections = &mut self.connections;
        let confirmed = self.guard.confirm(|order| {
            connections
                .iter()
                .any(|connection| is_under_way(connection, order))
        });
        for number in confirmed {
            self.tell_control(io, ControlMessage::ReservationEnforced { number });
        }
    }
}

// What the command log is told.
impl Core {
    /// A command begins; one that changes nothing is not noted.
    pub(super) fn note_begin(&mut self, io: &Io<Message>, queue: QueueId, slot: Slot) {
        let Some(log) = &self.command_log else { return };
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        let host = connection.host.host;
        let command = connection.command(slot);
        if Access::of(command.entry.opcode()) != Access::Write {
            return;
        }
        let begin = Note::Begin {
            nsid: command.entry.nsid(),
            host,
            opcode: command.entry.opcode(),
            lba: command.entry.qword(10),
            blocks: (command.entry.dword(12) & 0xffff) + 1,
        };
        command.logged = log.note(io.now(), begin);
    }

    /// A command is over; one whose begin was not noted is not noted here.
    pub(super) fn note_end(&self, io: &Io<Message>, command: &Command, host: HostLife, status: Status) {
        if let Some(log) = &self.command_log
            && command.logged > 0
        {
            let end = Note::End {
                of: command.logged,
                nsid: command.entry.nsid(),
                host: host.host,
                status,
            };
            log.note(io.now(), end);
        }
    }
}
