//! Cross-Controller Reset: a host that has lost one of its controllers ends it through another one, and hears when nothing that it had under way
//! there can take effect any more.
//!
//! The other controller's connections are closed like those of a lost association; when all of them are drained, and no reservation command
//! of a lost connection is half done, the log says so and an event tells.
//!
//! Source: NVM Express Base Specification 2.3, Cross-Controller Reset command; the same as TP8028, Rapid Path Failure Recovery.

use crate::command::SubmissionEntry;
use crate::identify::{CROSS_RESET_LIMIT, ControllerKind};
use crate::log::{CROSS_RESETS_MAX, CrossResetEntry, CrossResetStage};
use crate::status::Status;

use super::controller::{Controller, Notice};
use super::{Action, CloseReason, Reply, Report, Subsystem};

/// Invalid Field in Command, for good.
const INVALID: Status = Status::INVALID_FIELD.do_not_retry();
/// Dword 0 of the completion: the reset was through before the command (IRS).
const IMMEDIATE: u64 = 1;

/// What a reset awaits, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Connections of the other controller are being drained.
    AwaitingDrain,
    /// Reservation commands of lost connections are half done.
    AwaitingOrphans,
    Done,
}

/// A reset of another controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CrossReset {
    cntlid: u16,
    instance: u8,
    stage: Stage,
}

impl Controller {
    /// What the log page says.
    pub(super) fn reset_entries(&self) -> Vec<CrossResetEntry> {
        let entry = |reset: &CrossReset| CrossResetEntry {
            cntlid: reset.cntlid,
            instance: reset.instance,
            asked: self.cntlid,
            stage: match reset.stage {
                Stage::AwaitingDrain | Stage::AwaitingOrphans => CrossResetStage::InProgress,
                Stage::Done => CrossResetStage::Succeeded,
            },
        };
        self.resets.iter().map(entry).collect()
    }

    /// Resets that are through are not listed any more.
    pub(super) fn forget_resets(&mut self) {
        self.resets.retain(|reset| reset.stage != Stage::Done);
    }

    fn check_resets(&self, cntlid: u16) -> Result<(), Status> {
        let under_way = self.resets.iter().filter(|reset| reset.stage != Stage::Done);
        if under_way.clone().any(|reset| reset.cntlid == cntlid) {
            return Err(Status::CROSS_RESET_IN_PROGRESS.do_not_retry());
        }
        if under_way.count() >= usize::from(CROSS_RESET_LIMIT) {
            return Err(Status::CROSS_RESET_LIMIT_EXCEEDED);
        }
        if self.resets.len() >= CROSS_RESETS_MAX {
            return Err(Status::CROSS_RESET_LOG_FULL);
        }
        Ok(())
    }
}

impl Subsystem {
    /// Executes Cross-Controller Reset. Errs for the controller itself, for one of another host, and for one of another node, of which nothing is
    /// known here.
    pub(super) fn reset_other(
        &mut self,
        own: u16,
        entry: &SubmissionEntry,
        out: &mut Vec<Action>,
    ) -> Result<Reply, Status> {
        let [low, high, instance, _] = entry.dword(10).to_le_bytes();
        let (cntlid, random) = (u16::from_le_bytes([low, high]), entry.qword(12));
        if !self.config.cntlids.contains(&cntlid) {
            return Err(INVALID);
        }
        let controllers = self.controllers.get(&cntlid);
        let is_meant = |it: &&Controller| (it.instance, it.instance_random) == (instance, random);
        let Some(other) = controllers.filter(is_meant) else {
            // An instance ends only when its queues are drained. Whoever asks may have its number by now.
            return self.reset_of_the_past();
        };
        if cntlid == own {
            return Err(INVALID);
        }
        if other.kind != ControllerKind::Io || other.host != self.controller(own).host {
            return Err(INVALID);
        }
        self.controller(own).check_resets(cntlid)?;
        self.controller_mut(own).resets.push(CrossReset {
            cntlid,
            instance,
            stage: Stage::AwaitingDrain,
        });
        out.push(Action::Report(Report::CrossReset { cntlid, by: own }));
        self.terminate(cntlid, CloseReason::CrossControllerReset, out);
        Ok(Reply::success(0))
    }

    /// The instance that is meant is over: so is the reset, unless a reservation command of it may be half done.
    fn reset_of_the_past(&self) -> Result<Reply, Status> {
        if self.reservations.has_orphans() {
            return Err(Status::COMMAND_INTERRUPTED);
        }
        Ok(Reply::success(IMMEDIATE))
    }

    /// A controller is gone with all that its connections had under way.
    pub(super) fn reset_drained(&mut self, cntlid: u16, out: &mut Vec<Action>) {
        let resets = self.controllers.values_mut().flat_map(|it| &mut it.resets);
        for reset in resets.filter(|reset| reset.cntlid == cntlid && reset.stage == Stage::AwaitingDrain) {
            reset.stage = Stage::AwaitingOrphans;
        }
        self.finish_resets(out);
    }

    /// Ends the resets that wait for nothing any more.
    pub(super) fn finish_resets(&mut self, out: &mut Vec<Action>) {
        if self.reservations.has_orphans() {
            return;
        }
        for controller in self.controllers.values_mut() {
            let resets = controller.resets.iter_mut();
            let mut ended = 0;
            for reset in resets.filter(|reset| reset.stage == Stage::AwaitingOrphans) {
                reset.stage = Stage::Done;
                ended += 1;
            }
            if ended > 0 {
                controller.raise(Notice::CrossReset);
            }
        }
        self.tell_notices(out);
    }
}
