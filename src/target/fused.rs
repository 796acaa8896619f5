//! Fused pairs, and the end of commands that no engine has.
//!
//! A pair's halves arrive one right after the other, each with data of its own that may take its time. They run as one
//! request when both are complete; whatever ends one half ends the other.

use nvme::command::SubmissionEntry;
use nvme::io::{FuseKind, fuse_kind};
use nvme::status::Status;
use nvme::subsystem::QueueId;
use nvme::tcp::target::Slot;
use reactor::Io;

use super::connection::CommandState;
use super::core::Core;
use super::message::Message;

impl Core {
    /// Pairs a command that has just arrived with the one before it. Errs with the status of a command that fits no
    /// pair; a first half that stays alone is ended here.
    pub(super) fn pair_fused(
        &mut self,
        io: &mut Io<Message>,
        queue: QueueId,
        slot: Slot,
        entry: &SubmissionEntry,
    ) -> Result<(), Status> {
        let Some(connection) = self.connections.find(queue) else {
            return Ok(());
        };
        let first = connection.fused.take();
        let kind = fuse_kind(entry);
        match (kind, first) {
            (FuseKind::Second, Some(first)) => {
                connection.command(first).partner = Some(slot);
                connection.command(slot).partner = Some(first);
                return Ok(());
            }
            (FuseKind::None | FuseKind::First | FuseKind::Invalid, Some(first)) => {
                self.end_command(io, queue, first, Status::ABORTED_MISSING_FUSED);
            }
            (FuseKind::None | FuseKind::First | FuseKind::Second | FuseKind::Invalid, None) => {}
        }
        match kind {
            FuseKind::None => Ok(()),
            FuseKind::First => {
                if let Some(connection) = self.connections.find(queue) {
                    connection.fused = Some(slot);
                }
                Ok(())
            }
            FuseKind::Second => Err(Status::ABORTED_MISSING_FUSED),
            FuseKind::Invalid => Err(Status::INVALID_FIELD.do_not_retry()),
        }
    }

    /// Whether the second half that was just parsed fits its first half: same namespace, same blocks.
    pub(super) fn check_pair(&mut self, queue: QueueId, slot: Slot) -> Result<(), Status> {
        let Some(connection) = self.connections.find(queue) else {
            return Ok(());
        };
        let second = *connection.command(slot);
        let Some(partner) = second.partner else {
            return Ok(());
        };
        let first = *connection.command(partner);
        let (Some(compare), Some(write)) = (first.request, second.request) else {
            return Err(Status::ABORTED_FAILED_FUSED);
        };
        if first.entry.nsid() != second.entry.nsid() {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        compare.check_fused_with(&write)
    }

    /// One half of a fused pair has its data: runs the pair when the other half has it as well.
    pub(super) fn run_fused(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        connection.command(slot).state = CommandState::AwaitingPartner;
        let Some(partner) = connection.command(slot).partner else {
            return;
        };
        if connection.command(partner).state != CommandState::AwaitingPartner {
            return;
        }
        let is_first = fuse_kind(&connection.command(slot).entry) == FuseKind::First;
        let (first, second) = if is_first {
            (slot, partner)
        } else {
            (partner, slot)
        };
        if self.is_refused(queue, second) {
            let status = self.conflict();
            return self.end_pair(io, queue, second, status);
        }
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        connection.command(first).state = CommandState::Running;
        connection.command(second).state = CommandState::Running;
        let request = connection
            .command(first)
            .request
            .expect("fused commands are I/O commands");
        self.note_begin(io, queue, second);
        self.submit(io, queue, first, request);
    }

    /// Ends a command that no engine has: at once, or when the data that the host owes for it is here.
    pub(super) fn end_command(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot, status: Status) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        if connection.fused == Some(slot) {
            // Its second half will find no first half and be refused.
            connection.fused = None;
        }
        if !connection.machine.can_complete(slot) {
            // What it has failed with before counts.
            connection.command(slot).end_with.get_or_insert(status);
            return;
        }
        let was_blocking = connection.blocked == Some(slot);
        self.finish_one(io, queue, slot, status);
        if was_blocking {
            // By a message, because the parser itself may be further up the stack.
            self.tell(io, self.index, Message::ResumeParsing { queue });
        }
    }

    /// Ends a command that no engine has and, if it is half of a pair, the other half with it.
    pub(super) fn end_pair(&mut self, io: &mut Io<Message>, queue: QueueId, slot: Slot, status: Status) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        if let Some(partner) = connection.command(slot).partner.take() {
            connection.command(partner).partner = None;
            match connection.command(partner).state {
                CommandState::AwaitingData | CommandState::AwaitingPartner | CommandState::AwaitingBuffer => {
                    self.end_command(io, queue, partner, Status::ABORTED_FAILED_FUSED);
                }
                // Both halves run or none does; and the control core gets no I/O commands.
                CommandState::Free | CommandState::AtControl | CommandState::Running => {}
            }
        }
        self.end_command(io, queue, slot, status);
    }
}
