//! Binds the waves of expansions to the cores, to this core's engine and to the group's machine.

use reactor::{CoreIndex, Io};

use super::Control;
use super::groups::GroupControl;
use crate::amf::RowIndex;
use crate::amf::background::{Event as BackgroundEvent, Shape};
use crate::amf::engine::{Engine, GroupError, MovePhase, Request};
use crate::amf::group::{Event as GroupEvent, RequestId};
use crate::amf::relayout::{Action, Event, Report};
use crate::amf::superblock::Uuid;
use crate::target::command::{InternalCommand, Owner};
use crate::target::core::Core;
use crate::target::manage::{self, ManageError};
use crate::target::message::Message;

impl Control {
    /// Feeds the wave of a group and carries out what it wants.
    pub(super) fn relayout_event(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, event: Event) {
        let state = &mut self.groups[usize::from(group)];
        let mut actions = Vec::new();
        state.relayout.handle(&state.machine, event, &mut actions);
        let asks = |action: &Action| matches!(action, Action::Move { .. } | Action::Flush);
        let queues = actions.iter().any(asks);
        let mut refused = Vec::new();
        for action in actions {
            self.relayout_action(core, io, group, action, &mut refused);
        }
        if queues {
            core.run_queued(io, group);
        }
        for event in refused {
            self.relayout_event(core, io, group, event);
        }
    }

    /// Carries out one action; what this core has no room for goes to `refused`.
    fn relayout_action(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        action: Action,
        refused: &mut Vec<Event>,
    ) {
        match action {
            Action::Hold { rows, wave } => {
                for to in 0..self.cores {
                    core.tell(io, CoreIndex(to), Message::HoldRows { group, rows, wave });
                }
            }
            Action::Move { row, phase } => {
                if !move_row(core, group, row, phase) {
                    refused.push(Event::Refused(row));
                }
            }
            Action::Flush => {
                let owner = Owner::Internal(InternalCommand::MoveFlush);
                match core.commands.insert(owner, None) {
                    Some(command) => core.queue_group(group, command, Request::FlushDrives),
                    None => refused.push(Event::Flushed(Err(GroupError::Aborted))),
                }
            }
            Action::Scratch(scratch) => {
                self.group_event(core, io, group, GroupEvent::ExpansionScratch(scratch));
            }
            Action::Advance { frontier } => {
                self.group_event(core, io, group, GroupEvent::ExpansionProgress { frontier });
            }
            Action::SetLayout { layout, news } => {
                if news {
                    self.groups[usize::from(group)].await_cores(1);
                }
                for to in 0..self.cores {
                    core.tell(io, CoreIndex(to), Message::SetLayout { group, layout });
                }
            }
            Action::Published => {
                if self.groups[usize::from(group)].core_answered() {
                    self.run_actions(core, io, group);
                }
            }
            Action::Answer { row, answer } => {
                self.background_event(core, io, group, BackgroundEvent::RowAnswered { row, answer });
            }
            Action::Report(report) => log_relayout(&mut self.groups[usize::from(group)], report),
        }
    }

    /// Tries again what found no room or failed.
    pub(super) fn expansion_tick(&mut self, core: &mut Core, io: &mut Io<Message>) {
        for group in 0..self.groups.len() {
            let group = u16::try_from(group).expect("a node has at most 128 groups");
            self.relayout_event(core, io, group, Event::Tick);
        }
    }

    /// What an operator asks for who gives a group more drives.
    pub(super) fn expansion(
        &self,
        expand: &manage::GroupExpand,
        identities: Vec<Uuid>,
    ) -> Result<(usize, impl FnOnce(RequestId) -> GroupEvent + use<>), ManageError> {
        let group = self.group_named(&expand.group)?;
        let mut drives = Vec::with_capacity(expand.drives.len());
        for drive in &expand.drives {
            let drive = self.drive_named(drive)?;
            self.check_usable(drive)?;
            drives.push(self.drive_facts(drive));
        }
        self.check_scratch_memory(&self.groups[group], drives.len())?;
        let force = expand.force;
        let event = move |request| GroupEvent::Expand {
            request,
            drives,
            identities,
            force,
        };
        Ok((group, event))
    }

    /// Refuses an expansion for whose rows the cores have too little memory.
    fn check_scratch_memory(&self, group: &GroupControl, more: usize) -> Result<(), ManageError> {
        let geometry = group.machine.geometry();
        let wide = u8::try_from(more)
            .ok()
            .and_then(|more| geometry.members().checked_add(more));
        // What is no geometry is refused by the group, which knows why.
        let Some(wide) = wide.and_then(|wide| geometry.with_members(wide).ok()) else {
            return Ok(());
        };
        let (needed, has) = (Engine::scratch_bytes_min(&wide), group.shared.scratch_bytes);
        if needed <= has {
            return Ok(());
        }
        let memory_mib = (u64::from(needed).next_power_of_two() * 16) >> 20;
        Err(ManageError::new(
            ManageError::REFUSED,
            format!(
                "rows over {} drives take {} KiB of scratch memory on each core, and the cores have {} KiB for this group",
                wide.members(),
                needed / 1024,
                has / 1024
            ),
            format!("set `memory_mib` in [reactor] to {memory_mib} or more, restart the node, then expand"),
        ))
    }
}

/// Hands a row to this core's engine; false if there is no room for it now.
fn move_row(core: &mut Core, group: u16, row: RowIndex, phase: MovePhase) -> bool {
    let number = u32::try_from(row.0).expect("a group has at most 2^32 rows");
    let owner = Owner::Internal(InternalCommand::Move(number));
    let Some(command) = core.commands.insert(owner, None) else {
        return false;
    };
    core.queue_group(group, command, Request::Move { row, phase });
    true
}

fn log_relayout(group: &mut GroupControl, report: Report) {
    let name = &group.shared.name;
    match report {
        Report::Over => tracing::info!(group = %name, "expansion is over: the new capacity can be used"),
        Report::Begins { layout } => {
            group.background.machine.set_shape(Shape::of(layout.widest()));
            let (old, new) = (layout.oldest().members(), layout.widest().members());
            tracing::info!(group = %name, old, new, "group has new members: its rows are laid out anew");
        }
        Report::NotWiped(error) => {
            tracing::warn!(group = %name, %error, "the scratch area of an expansion could not be wiped: it is tried again");
        }
        Report::NotMoved { from_row, error } => {
            tracing::warn!(group = %name, from_row, %error, "rows could not be laid out anew: it is tried again");
        }
        Report::NotPlaced { from_row, error } => {
            tracing::error!(group = %name, from_row, %error, "rows could not be put in their place: it is tried again");
        }
    }
}
