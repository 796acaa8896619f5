//! Ends what earlier controllers of an association may still have under way, through the present one.
//!
//! Bytes of a command can lie in a socket of a connection that its host has lost, and take effect after a later command of the same host.
//! A Cross-Controller Reset of every controller that was live ends that: a target that answers it with success has closed and drained
//! all connections of that controller.
//!
//! Source: NVM Express Base Specification 2.3, section 5.4.3 (Cross-Controller Reset) and section 5.2.12.3.1 (its log page), after a review of
//! nvme-cli 3 that quotes both, and version 4 of the patches "TP8028 Rapid Path Failure Recovery" for Linux.

use super::decode::Controller;
use super::{Action, Association, CID_DRAIN, PAGE_BYTES, POLL_NS, Purpose, State};
use crate::command::{CompletionEntry, SubmissionEntry, admin_opcode};
use crate::log::{CROSS_RESETS_REMOVE, CrossResetStage, cross_reset_stage, lid, log_command};
use crate::status::Status;

/// Earlier controllers that are remembered. A drain that a drive holds up survives so many losses of the association; more cannot be proven.
const PAST_MAX: usize = 16;

/// What is known of commands that earlier associations have left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// It was not to be found out.
    #[default]
    NotAsked,
    /// Some may still take effect; it is being waited for.
    UnderWay,
    /// None can take effect any more.
    Proven,
    /// Some may still take effect: the target has no Cross-Controller Reset.
    Unsupported,
    /// Some may still take effect: the target refuses to reset a controller.
    Refused(Status),
}

/// A controller that was live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Past {
    cntlid: u16,
    /// CIU; 0 if it has none.
    instance: u8,
    /// CIRN.
    random: u64,
}

/// What is to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Reset,
    Log,
}

/// The controllers that are not drained yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct Resets {
    past: Vec<Past>,
    /// There were more than can be remembered.
    forgotten: bool,
    again: Option<(u64, Again)>,
}

impl Resets {
    /// A controller that was live is lost.
    pub(super) fn remember(&mut self, controller: &Controller) {
        self.again = None;
        if self.past.len() == PAST_MAX {
            self.forgotten = true;
            return;
        }
        self.past.push(Past {
            cntlid: controller.cntlid,
            instance: controller.instance,
            random: controller.instance_random,
        });
    }

    /// The association is lost before it has drained all that were before it.
    pub(super) fn interrupt(&mut self) {
        self.again = None;
    }

    /// What is known when this controller is ready.
    fn judge(&self, controller: &Controller) -> Drain {
        let is_nameless = |past: &Past| past.instance == 0;
        if self.forgotten || self.past.iter().any(is_nameless) {
            Drain::Unsupported
        } else if self.past.is_empty() {
            Drain::Proven
        } else if controller.reset_limit == 0 {
            Drain::Unsupported
        } else {
            Drain::UnderWay
        }
    }
}

/// A target that answers so is to be asked again: what it awaits ends.
fn is_busy(status: Status) -> bool {
    let busy = [
        Status::CROSS_RESET_IN_PROGRESS,
        Status::CROSS_RESET_LIMIT_EXCEEDED,
        Status::CROSS_RESET_LOG_FULL,
        Status::COMMAND_INTERRUPTED,
    ];
    busy.iter().any(|known| status.same_code(*known))
}

impl Association {
    /// Begins to end what earlier controllers have left behind, and says how far that is.
    pub(super) fn start_drain(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        assert_eq!(self.state, State::Live);
        if !self.config.drain {
            return;
        }
        let controller = self.controller.expect("the controller was identified");
        let drain = self.resets.judge(&controller);
        out.push(Action::Drain(drain));
        if drain == Drain::UnderWay {
            self.reset_past(now_ns, out);
        }
    }

    fn reset_past(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let past = self.resets.past.first().expect("one is not drained");
        let mut entry = SubmissionEntry::new(admin_opcode::CROSS_CONTROLLER_RESET, CID_DRAIN);
        entry.set_dword(10, u32::from(past.cntlid) | u32::from(past.instance) << 16);
        entry.set_qword(12, past.random);
        self.submit(now_ns, CID_DRAIN, Purpose::Reset, entry, Vec::new(), 0, out);
    }

    /// Reads how far the resets are; those that are through are not listed again.
    fn read_resets(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let mut read = log_command(CID_DRAIN, lid::CROSS_CONTROLLER_RESET, 0, PAGE_BYTES);
        read.set_dword(10, read.dword(10) | u32::from(CROSS_RESETS_REMOVE) << 8);
        let purpose = Purpose::ResetLog;
        self.submit(now_ns, CID_DRAIN, purpose, read, Vec::new(), PAGE_BYTES, out);
    }

    /// The target says that a reset is through, or has been waited for.
    pub(super) fn look_at_resets(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        if self.pending[usize::from(CID_DRAIN)].is_some() {
            // What is being read may be older than the event.
            self.resets.again = Some((now_ns, Again::Log));
        } else {
            self.resets.again = None;
            self.read_resets(now_ns, out);
        }
    }

    pub(super) fn tick_drain(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let Some((at_ns, what)) = self.resets.again else {
            return;
        };
        if now_ns < at_ns || self.pending[usize::from(CID_DRAIN)].is_some() {
            return;
        }
        self.resets.again = None;
        match what {
            Again::Reset => self.reset_past(now_ns, out),
            Again::Log => self.read_resets(now_ns, out),
        }
    }

    /// The answer to a reset.
    ///
    /// Source: NVM Express Base Specification 2.3, Cross-Controller Reset: completion queue entry dword 0 bit 0 (IRS).
    pub(super) fn reset_answered(&mut self, now_ns: u64, entry: CompletionEntry, out: &mut Vec<Action>) {
        if is_busy(entry.status) {
            self.resets.again = Some((now_ns.saturating_add(POLL_NS), Again::Reset));
        } else if !entry.status.is_success() {
            out.push(Action::Drain(Drain::Refused(entry.status)));
        } else if entry.result & 1 == 1 {
            self.drained(now_ns, out);
        } else {
            self.read_resets(now_ns, out);
        }
    }

    /// The log page of resets.
    pub(super) fn resets_read(&mut self, now_ns: u64, status: Status, data: &[u8], out: &mut Vec<Action>) {
        let Some(past) = self.resets.past.first() else {
            return;
        };
        let found = status
            .is_success()
            .then(|| cross_reset_stage(data, past.cntlid, past.instance));
        match found.flatten() {
            Some(CrossResetStage::Succeeded) => self.drained(now_ns, out),
            Some(CrossResetStage::InProgress) => {
                let later_ns = now_ns.saturating_add(POLL_NS);
                self.resets.again.get_or_insert((later_ns, Again::Log));
            }
            // It has failed, or is not listed any more: asked again, the target says how that one is.
            Some(CrossResetStage::Failed) | None => {
                self.resets.again = Some((now_ns.saturating_add(POLL_NS), Again::Reset));
            }
        }
    }

    /// The oldest controller is over, with everything that it had under way.
    fn drained(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        self.resets.past.remove(0);
        self.resets.again = None;
        if self.resets.past.is_empty() {
            out.push(Action::Drain(Drain::Proven));
        } else {
            self.reset_past(now_ns, out);
        }
    }
}

#[cfg(test)]
mod tests;
