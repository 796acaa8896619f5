//! Cross-Controller Reset: a host that has lost one of its controllers ends it through another one, and hears when nothing that it had under way
//! there can take effect any more.
//!
//! The other controller's connections are closed like those of a lost association; when all of them are drained, and no reservation command
//! of a lost connection is half done, the log says so and an event tells. A controller of another node that serves the subsystem is ended there:
//! the runtime asks that node, whose subsystem does the same and answers.
//!
//! Source: NVM Express Base Specification 2.3, Cross-Controller Reset command; the same as TP8028, Rapid Path Failure Recovery.

use crate::command::SubmissionEntry;
use crate::identify::{CROSS_RESET_LIMIT, ControllerKind};
use crate::log::{CROSS_RESETS_MAX, CrossResetEntry, CrossResetStage};
use crate::status::Status;

use super::controller::{Controller, Notice};
use super::{Action, CloseReason, Reply, Report, ResetOutcome, ResetWish, Subsystem};

/// Invalid Field in Command, for good.
const INVALID: Status = Status::INVALID_FIELD.do_not_retry();
/// Dword 0 of the completion: the reset was through before the command (IRS).
const IMMEDIATE: u64 = 1;
/// Resets that other nodes await at once: of each of up to seven, what a hundred hosts may ask for there, and some more.
const ASKED_MAX: usize = 4096;

/// What a reset awaits, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The node that has the controller: the number that it was asked with.
    AwaitingNode(u64),
    /// Connections of the other controller are being drained.
    AwaitingDrain,
    /// Reservation commands of lost connections are half done.
    AwaitingOrphans,
    Done,
    /// What the other controller had under way may still take effect.
    Failed,
}

impl Stage {
    const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// A reset of another controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CrossReset {
    cntlid: u16,
    instance: u8,
    stage: Stage,
}

/// A reset that a host of another node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AskedReset {
    number: u64,
    cntlid: u16,
    is_drained: bool,
}

impl Controller {
    /// What the log page says.
    pub(super) fn reset_entries(&self) -> Vec<CrossResetEntry> {
        let entry = |reset: &CrossReset| CrossResetEntry {
            cntlid: reset.cntlid,
            instance: reset.instance,
            asked: self.cntlid,
            stage: match reset.stage {
                Stage::AwaitingNode(_) | Stage::AwaitingDrain | Stage::AwaitingOrphans => {
                    CrossResetStage::InProgress
                }
                Stage::Done => CrossResetStage::Succeeded,
                Stage::Failed => CrossResetStage::Failed,
            },
            is_begun: !matches!(reset.stage, Stage::AwaitingNode(_) | Stage::Failed),
        };
        self.resets.iter().map(entry).collect()
    }

    /// Resets that are through are not listed any more.
    pub(super) fn forget_resets(&mut self) {
        self.resets.retain(|reset| !reset.stage.is_over());
    }

    fn check_resets(&self, cntlid: u16) -> Result<(), Status> {
        let under_way = self.resets.iter().filter(|reset| !reset.stage.is_over());
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
    /// Executes Cross-Controller Reset. Errs for the controller itself, for one of another host, and for one that no node can have.
    pub(super) fn reset_other(
        &mut self,
        own: u16,
        entry: &SubmissionEntry,
        out: &mut Vec<Action>,
    ) -> Result<Reply, Status> {
        let [low, high, instance, _] = entry.dword(10).to_le_bytes();
        let wish = ResetWish {
            cntlid: u16::from_le_bytes([low, high]),
            instance,
            random: entry.qword(12),
            host: self.controller(own).host.clone(),
        };
        let cntlid = wish.cntlid;
        if self
            .config
            .cntlids_elsewhere
            .iter()
            .any(|it| it.contains(&cntlid))
        {
            return self.reset_elsewhere(own, wish, out);
        }
        if !self.config.cntlids.contains(&cntlid) {
            return Err(INVALID);
        }
        let Some(other) = self.meant(&wish) else {
            // An instance ends only when its queues are drained. Whoever asks may have its number by now.
            return self.reset_of_the_past();
        };
        if cntlid == own || !is_of(other, &wish) {
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

    /// The controller of this node that is meant, if that instance is not over.
    fn meant(&self, wish: &ResetWish) -> Option<&Controller> {
        let controller = self.controllers.get(&wish.cntlid)?;
        let named = (controller.instance, controller.instance_random);
        (named == (wish.instance, wish.random)).then_some(controller)
    }

    /// The instance that is meant is over: so is the reset, unless a reservation command of it may be half done.
    fn reset_of_the_past(&self) -> Result<Reply, Status> {
        if self.reservations.has_orphans() {
            return Err(Status::COMMAND_INTERRUPTED);
        }
        Ok(Reply::success(IMMEDIATE))
    }

    /// Another node has the controller, and alone knows whose it is.
    fn reset_elsewhere(&mut self, own: u16, wish: ResetWish, out: &mut Vec<Action>) -> Result<Reply, Status> {
        self.controller(own).check_resets(wish.cntlid)?;
        self.reset_number += 1;
        let number = self.reset_number;
        self.controller_mut(own).resets.push(CrossReset {
            cntlid: wish.cntlid,
            instance: wish.instance,
            stage: Stage::AwaitingNode(number),
        });
        let cntlid = wish.cntlid;
        out.push(Action::Report(Report::CrossReset { cntlid, by: own }));
        out.push(Action::ResetElsewhere { number, wish });
        Ok(Reply::success(0))
    }

    /// The other node has answered, or will not. Nobody may wait for it any more.
    pub(super) fn reset_elsewhere_ended(
        &mut self,
        number: u64,
        outcome: ResetOutcome,
        out: &mut Vec<Action>,
    ) {
        for controller in self.controllers.values_mut() {
            let mut resets = controller.resets.iter_mut();
            if let Some(reset) = resets.find(|reset| reset.stage == Stage::AwaitingNode(number)) {
                reset.stage = match outcome {
                    ResetOutcome::Over => Stage::Done,
                    ResetOutcome::Refused | ResetOutcome::Unknown => Stage::Failed,
                };
                controller.raise(Notice::CrossReset);
            }
        }
        self.tell_notices(out);
    }

    /// A host of another node has lost a controller of this one.
    pub(super) fn reset_asked(&mut self, number: u64, wish: ResetWish, out: &mut Vec<Action>) {
        let cntlid = wish.cntlid;
        let found = self.meant(&wish).map(|other| is_of(other, &wish));
        let answer = match found {
            Some(false) => Some(ResetOutcome::Refused),
            None if !self.config.cntlids.contains(&cntlid) => Some(ResetOutcome::Refused),
            _ if self.asked_resets.len() >= ASKED_MAX => Some(ResetOutcome::Unknown),
            Some(true) | None => None,
        };
        if let Some(outcome) = answer {
            return out.push(Action::ResetAnswered { number, outcome });
        }
        self.asked_resets.push(AskedReset {
            number,
            cntlid,
            is_drained: found.is_none(),
        });
        if found.is_some() {
            let host = wish.host;
            out.push(Action::Report(Report::CrossResetElsewhere { cntlid, host }));
            self.terminate(cntlid, CloseReason::CrossControllerReset, out);
        }
        self.finish_resets(out);
    }

    /// A controller is gone with all that its connections had under way.
    pub(super) fn reset_drained(&mut self, cntlid: u16, out: &mut Vec<Action>) {
        let resets = self.controllers.values_mut().flat_map(|it| &mut it.resets);
        for reset in resets.filter(|reset| reset.cntlid == cntlid && reset.stage == Stage::AwaitingDrain) {
            reset.stage = Stage::AwaitingOrphans;
        }
        for asked in self.asked_resets.iter_mut().filter(|it| it.cntlid == cntlid) {
            asked.is_drained = true;
        }
        self.finish_resets(out);
    }

    /// Ends the resets that wait for nothing any more.
    pub(super) fn finish_resets(&mut self, out: &mut Vec<Action>) {
        if self.reservations.has_orphans() {
            return;
        }
        self.asked_resets.retain(|asked| {
            out.extend(asked.is_drained.then_some(Action::ResetAnswered {
                number: asked.number,
                outcome: ResetOutcome::Over,
            }));
            !asked.is_drained
        });
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

/// Whether the host that asks may end this controller.
fn is_of(controller: &Controller, wish: &ResetWish) -> bool {
    controller.kind == ControllerKind::Io && controller.host == wish.host
}
