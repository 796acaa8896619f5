//! Carries out the waves of expansions: rows are held on all cores, moved by this core's engine, flushed, made durable in the
//! superblocks, and looked up anew by all cores.
//!
//! What happens in which order, and why, is said in `amf::expansion`; how engines are asked, in `amf::engine::relayout`. As long as
//! nothing but dead rows and the scratch area has been written, a wave that cannot go on is given up: cores look blocks up as before.
//! Rows that the superblocks say are in the scratch area have to get to their place; that is tried until it is done or the group has
//! failed, in which case their blocks are in two minds and nobody gets them: the hold stays.

use reactor::{CoreIndex, Io};

use super::Control;
use super::groups::GroupControl;
use crate::amf::RowIndex;
use crate::amf::background::{Event as BackgroundEvent, ExpansionNeed, RowAnswer, Shape};
use crate::amf::engine::{Engine, GroupError, MovePhase, Request};
use crate::amf::expansion::{
    ExpansionRecord, Layout, ScratchArea, ScratchState, WAVE_ROWS_MAX, Wave, WaveKind, Waves,
};
use crate::amf::geometry::Geometry;
use crate::amf::group::{Event as GroupEvent, RequestId};
use crate::amf::superblock::Uuid;
use crate::target::command::{InternalCommand, Owner};
use crate::target::core::Core;
use crate::target::manage::{self, ManageError};
use crate::target::message::Message;

/// Rows of a wave that are moved at a time, unless their strips take too much of the scratch memory.
const MOVES_MAX: u32 = 8;
/// Bytes of all strips of the rows that are moved at a time.
const MOVES_BYTES_MAX: u64 = 8 << 20;

/// A wave that is being carried out.
#[derive(Debug)]
pub(super) struct Relayout {
    wave: Wave,
    step: Step,
}

/// What a wave awaits, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// That it is durable what the scratch area may hold.
    Marking,
    /// That so many cores hold the rows.
    Holding { cores: u16 },
    /// Rows of this stage: the next one, and how many are under way.
    Moving {
        stage: Stage,
        next: u64,
        under_way: u32,
        failed: Option<GroupError>,
    },
    /// That the rows of this stage are durable.
    Flushing(Stage),
    /// That it is durable that the scratch area holds the rows.
    Keeping,
    /// The next attempt at bringing them to their place.
    Retrying,
    /// That the frontier is durable, and then that every core knows of it.
    Advancing,
    /// That so many cores look blocks up as before.
    GivingUp { cores: u16 },
}

/// What is done to the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Wipe,
    ToScratch,
    FromScratch,
    InPlace,
    Clear,
}

impl Relayout {
    /// First row of a stage and the one behind the last.
    fn rows(&self, stage: Stage, area: Option<ScratchArea>, geometry: &Geometry) -> (u64, u64) {
        match stage {
            // No wave is longer, and no row has another number.
            Stage::Wipe => {
                let fit = area.map_or(0, |area| area.rows(geometry));
                (0, fit.min(WAVE_ROWS_MAX).min(geometry.rows()))
            }
            Stage::ToScratch | Stage::FromScratch | Stage::InPlace | Stage::Clear => {
                (self.wave.from_row, self.wave.to_row)
            }
        }
    }

    /// What the engine is asked for.
    fn phase(&self, stage: Stage, row: u64, area: Option<ScratchArea>, geometry: &Geometry) -> MovePhase {
        let place = |from_row| {
            let area = area.expect("a group without a scratch area is not expanded");
            area.place(geometry, from_row, RowIndex(row))
        };
        match stage {
            Stage::Wipe => MovePhase::Wipe { at: place(0) },
            Stage::ToScratch => MovePhase::ToScratch {
                at: place(self.wave.from_row),
            },
            Stage::FromScratch => MovePhase::FromScratch {
                at: place(self.wave.from_row),
            },
            Stage::InPlace => MovePhase::InPlace,
            Stage::Clear => MovePhase::Clear,
        }
    }
}

impl GroupControl {
    /// The waves of the expansion that is going on, and how far it is.
    fn waves(&self) -> Option<(Waves, ExpansionRecord)> {
        let expansion = self.machine.expansion()?;
        let area = self.machine.scratch_area()?;
        let waves = self.machine.layout().waves(area.rows(&self.machine.geometry()));
        Some((waves.expect("an expansion that began has waves"), expansion))
    }

    /// What an expansion needs next, once every core knows of it.
    pub(super) fn expansion_need(&self) -> Option<ExpansionNeed> {
        if !self.expands {
            return None;
        }
        let (waves, expansion) = self.waves()?;
        let wave = waves.next(expansion.frontier)?;
        Some(ExpansionNeed {
            from_row: wave.from_row,
            to_row: wave.to_row,
        })
    }
}

impl Control {
    /// Begins a wave; its end is told to the group's background work.
    pub(super) fn begin_wave(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        (from_row, to_row): (u64, u64),
    ) {
        let state = &mut self.groups[usize::from(group)];
        let next = state
            .waves()
            .and_then(|(waves, expansion)| Some((waves.next(expansion.frontier)?, expansion)));
        let next = next.filter(|(wave, _)| wave.from_row == from_row && state.relayout.is_none());
        let Some((mut wave, expansion)) = next else {
            return self.answer_wave(core, io, group, from_row, RowAnswer::Failed);
        };
        wave.to_row = wave.to_row.min(to_row);
        let step = Step::Marking;
        state.relayout = Some(Relayout { wave, step });
        match (wave.kind, expansion.scratch) {
            (WaveKind::MovesThroughScratch, ScratchState::Clean) => {
                self.group_event(core, io, group, GroupEvent::ExpansionScratch(ScratchState::Dirty));
            }
            (WaveKind::Moves | WaveKind::Clears, ScratchState::Dirty | ScratchState::Holds { .. }) => {
                self.begin_stage(core, io, group, Stage::Wipe);
            }
            (WaveKind::MovesThroughScratch, ScratchState::Dirty | ScratchState::Holds { .. })
            | (WaveKind::Moves | WaveKind::Clears, ScratchState::Clean) => self.hold(core, io, group),
        }
    }

    /// Asks every core to hold the rows of the wave.
    fn hold(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        let (waves, _) = state.waves().expect("whose wave it is");
        let relayout = state.relayout.as_mut().expect("a wave is being carried out");
        relayout.step = Step::Holding { cores: self.cores };
        state.held_wave += 1;
        let (rows, wave) = (waves.held(relayout.wave), state.held_wave);
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::HoldRows { group, rows, wave });
        }
    }

    /// A core holds the rows of a wave.
    pub(super) fn rows_held(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, wave: u64) {
        let state = &mut self.groups[usize::from(group)];
        let Some(relayout) = state.relayout.as_mut().filter(|_| state.held_wave == wave) else {
            return; // It was given up.
        };
        let Step::Holding { cores } = &mut relayout.step else {
            return;
        };
        *cores -= 1;
        if *cores > 0 {
            return;
        }
        let stage = match relayout.wave.kind {
            WaveKind::Moves => Stage::InPlace,
            WaveKind::MovesThroughScratch => Stage::ToScratch,
            WaveKind::Clears => Stage::Clear,
        };
        self.begin_stage(core, io, group, stage);
    }

    fn begin_stage(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, stage: Stage) {
        let state = &mut self.groups[usize::from(group)];
        let (area, geometry) = (state.machine.scratch_area(), state.machine.geometry());
        let relayout = state.relayout.as_mut().expect("a wave is being carried out");
        let (next, _) = relayout.rows(stage, area, &geometry);
        relayout.step = Step::Moving {
            stage,
            next,
            under_way: 0,
            failed: None,
        };
        self.issue_moves(core, io, group);
    }

    /// Hands rows to this core's engine until enough are under way.
    fn issue_moves(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        let (area, geometry) = (state.machine.scratch_area(), state.machine.geometry());
        let Some(relayout) = &mut state.relayout else {
            return;
        };
        let Step::Moving {
            stage,
            mut next,
            mut under_way,
            failed,
        } = relayout.step
        else {
            return;
        };
        let (_, end) = relayout.rows(stage, area, &geometry);
        while failed.is_none() && next < end && under_way < moves_max(&geometry) {
            let number = u32::try_from(next).expect("a group has at most 2^32 rows");
            let owner = Owner::Internal(InternalCommand::Move(number));
            let Some(command) = core.commands.insert(owner, None) else {
                break; // The next answer or tick tries again.
            };
            let request = Request::Move {
                row: RowIndex(next),
                phase: relayout.phase(stage, next, area, &geometry),
            };
            core.queue_group(group, command, request);
            (next, under_way) = (next + 1, under_way + 1);
        }
        relayout.step = Step::Moving {
            stage,
            next,
            under_way,
            failed,
        };
        core.run_queued(io, group);
        if under_way > 0 || (failed.is_none() && next < end) {
            return;
        }
        match failed {
            Some(error) => self.stage_failed(core, io, group, stage, error),
            None => self.flush_stage(core, io, group, stage),
        }
    }

    /// This core's engine has moved a row, or could not.
    pub(super) fn row_moved(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        result: Result<(), GroupError>,
    ) {
        let relayout = self.groups[usize::from(group)].relayout.as_mut();
        let relayout = relayout.expect("rows are moved by a wave");
        let Step::Moving {
            under_way, failed, ..
        } = &mut relayout.step
        else {
            unreachable!("a stage ends when its rows are answered");
        };
        *under_way -= 1;
        if let (Err(error), None) = (result, &failed) {
            *failed = Some(error);
        }
        self.issue_moves(core, io, group);
    }

    fn flush_stage(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, stage: Stage) {
        let relayout = self.groups[usize::from(group)].relayout.as_mut();
        relayout.expect("a wave is being carried out").step = Step::Flushing(stage);
        let owner = Owner::Internal(InternalCommand::MoveFlush);
        match core.commands.insert(owner, None) {
            Some(command) => {
                core.queue_group(group, command, Request::FlushDrives);
                core.run_queued(io, group);
            }
            None => self.stage_failed(core, io, group, stage, GroupError::Aborted),
        }
    }

    /// The rows of a stage are durable, or may not be.
    pub(super) fn stage_flushed(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        result: Result<(), GroupError>,
    ) {
        let state = &mut self.groups[usize::from(group)];
        let relayout = state.relayout.as_mut().expect("a wave is being carried out");
        let Step::Flushing(stage) = relayout.step else {
            unreachable!("a stage is flushed once");
        };
        if let Err(error) = result {
            return self.stage_failed(core, io, group, stage, error);
        }
        let to = relayout.wave.to_row;
        let event = match stage {
            Stage::Wipe => {
                relayout.step = Step::Marking;
                GroupEvent::ExpansionScratch(ScratchState::Clean)
            }
            Stage::ToScratch => {
                relayout.step = Step::Keeping;
                GroupEvent::ExpansionScratch(ScratchState::Holds { to })
            }
            Stage::FromScratch | Stage::InPlace | Stage::Clear => {
                relayout.step = Step::Advancing;
                GroupEvent::ExpansionProgress { frontier: to }
            }
        };
        if state.is_failed() {
            return self.wave_of_failed(core, io, group);
        }
        self.group_event(core, io, group, event);
    }

    fn stage_failed(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        stage: Stage,
        error: GroupError,
    ) {
        let state = &mut self.groups[usize::from(group)];
        let name = &state.shared.name;
        let relayout = state.relayout.as_mut().expect("a wave is being carried out");
        let from_row = relayout.wave.from_row;
        match stage {
            Stage::Wipe => {
                tracing::warn!(group = %name, %error, "the scratch area of an expansion could not be wiped: it is tried again");
                state.relayout = None;
                self.answer_wave(core, io, group, from_row, RowAnswer::Failed);
            }
            Stage::ToScratch | Stage::InPlace | Stage::Clear => {
                tracing::warn!(group = %name, from_row, %error, "rows could not be laid out anew: it is tried again");
                self.give_up_wave(core, io, group);
            }
            Stage::FromScratch => {
                relayout.step = Step::Retrying;
                if !state.is_failed() {
                    tracing::error!(group = %name, from_row, %error, "rows could not be put in their place: it is tried again");
                }
            }
        }
    }

    /// Lets every core go on as if the wave had never begun.
    fn give_up_wave(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        let relayout = state.relayout.as_mut().expect("a wave is being carried out");
        relayout.step = Step::GivingUp { cores: self.cores };
        let layout = state.machine.layout();
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::SetLayout { group, layout });
        }
    }

    /// The group cannot go on: ends a wave that waits for something which will not come.
    pub(super) fn wave_of_failed(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        let Some(relayout) = &state.relayout else { return };
        let from_row = relayout.wave.from_row;
        match relayout.step {
            Step::Marking => {
                state.relayout = None;
                self.answer_wave(core, io, group, from_row, RowAnswer::Failed);
            }
            // Nothing has been written in place.
            Step::Holding { .. } | Step::Keeping => self.give_up_wave(core, io, group),
            // These are answered.
            Step::Moving { .. } | Step::Flushing(_) | Step::GivingUp { .. } => {}
            // Blocks are in two minds until a start puts them right, and nobody gets them before.
            Step::Retrying | Step::Advancing => {}
        }
    }

    /// What the superblocks say of an expansion has changed, durably.
    pub(super) fn layout_changed(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        layout: Layout,
        expansion: Option<ExpansionRecord>,
    ) {
        let state = &mut self.groups[usize::from(group)];
        match state.relayout.as_ref().map(|relayout| relayout.step) {
            Some(Step::Marking) => self.hold(core, io, group),
            Some(Step::Keeping) => self.begin_stage(core, io, group, Stage::FromScratch),
            Some(Step::Advancing) | None => {
                let name = &state.shared.name;
                match expansion {
                    None => tracing::info!(group = %name, "expansion is over: the new capacity can be used"),
                    Some(_) if state.relayout.is_none() => {
                        state.background.machine.set_shape(Shape::of(layout.widest()));
                        let (old, new) = (layout.oldest().members(), layout.widest().members());
                        tracing::info!(group = %name, old, new, "group has new members: its rows are laid out anew");
                    }
                    Some(_) => {}
                }
                state.expands &= expansion.is_some();
                state.await_cores(self.cores);
                for to in 0..self.cores {
                    core.tell(io, CoreIndex(to), Message::SetLayout { group, layout });
                }
            }
            Some(
                Step::Holding { .. }
                | Step::Moving { .. }
                | Step::Flushing(_)
                | Step::Retrying
                | Step::GivingUp { .. },
            ) => unreachable!("only a wave that waits for it changes an expansion"),
        }
    }

    /// A core looks blocks up as it was told.
    pub(super) fn layout_set(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        let (answer, from_row) = match &mut state.relayout {
            Some(Relayout {
                wave,
                step: Step::GivingUp { cores },
            }) => {
                *cores -= 1;
                if *cores > 0 {
                    return;
                }
                (RowAnswer::Failed, wave.from_row)
            }
            Some(relayout) => {
                let from_row = relayout.wave.from_row;
                if !state.core_answered() {
                    return;
                }
                (RowAnswer::Done, from_row)
            }
            None => {
                if state.core_answered() {
                    state.expands = state.machine.expansion().is_some();
                    self.run_actions(core, io, group);
                }
                return;
            }
        };
        self.groups[usize::from(group)].relayout = None;
        if answer == RowAnswer::Done {
            self.run_actions(core, io, group);
        }
        self.answer_wave(core, io, group, from_row, answer);
    }

    fn answer_wave(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        row: u64,
        answer: RowAnswer,
    ) {
        let row = RowIndex(row);
        self.background_event(core, io, group, BackgroundEvent::RowAnswered { row, answer });
    }

    /// Tries again what found no room or failed.
    pub(super) fn expansion_tick(&mut self, core: &mut Core, io: &mut Io<Message>) {
        for at in 0..self.groups.len() {
            let group = u16::try_from(at).expect("a node has at most 128 groups");
            let failed = self.groups[at].is_failed();
            match self.groups[at].relayout.as_ref().map(|relayout| relayout.step) {
                Some(Step::Retrying) if !failed => self.begin_stage(core, io, group, Stage::FromScratch),
                Some(Step::Moving { under_way: 0, .. }) => self.issue_moves(core, io, group),
                Some(_) | None => {}
            }
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

/// Rows of so wide a group that are moved at a time.
fn moves_max(geometry: &Geometry) -> u32 {
    let row = u64::from(geometry.members()) * u64::from(geometry.strip_bytes());
    u32::try_from(MOVES_BYTES_MAX / row).map_or(MOVES_MAX, |fit| fit.clamp(1, MOVES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amf::geometry::Level;
    use crate::drive::block::{BlockSize, MemberLba};

    fn geometry(strip_blocks: u32) -> Geometry {
        Geometry::new(
            Level::Raid5,
            4,
            strip_blocks,
            MemberLba(1000),
            100,
            BlockSize::B4096,
        )
        .unwrap()
    }

    #[test]
    fn rows_under_way_fit_the_scratch_memory() {
        assert_eq!(moves_max(&geometry(16)), 8);
        assert_eq!(moves_max(&geometry(128)), 4);
        assert_eq!(moves_max(&geometry(256)), 2);
    }

    #[test]
    fn each_row_has_its_own_place_in_the_scratch_area() {
        let relayout = Relayout {
            wave: Wave {
                from_row: 7,
                to_row: 9,
                kind: WaveKind::MovesThroughScratch,
            },
            step: Step::Marking,
        };
        let (area, geometry) = (
            Some(ScratchArea {
                start: MemberLba(300),
                blocks: 50,
            }),
            geometry(16),
        );
        assert_eq!(relayout.rows(Stage::ToScratch, area, &geometry), (7, 9));
        assert_eq!(
            relayout.rows(Stage::Wipe, area, &geometry),
            (0, 3),
            "as many as fit"
        );
        let at = |stage, row| relayout.phase(stage, row, area, &geometry);
        let at_block = MemberLba(316);
        assert_eq!(at(Stage::ToScratch, 8), MovePhase::ToScratch { at: at_block });
        assert_eq!(at(Stage::FromScratch, 8), MovePhase::FromScratch { at: at_block });
        assert_eq!(at(Stage::Wipe, 1), MovePhase::Wipe { at: at_block });
    }
}
