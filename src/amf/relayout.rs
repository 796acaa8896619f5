//! Carries out the waves of an expansion: in which order rows are held, moved, flushed, made durable and looked up anew.
//!
//! What happens in which order, and why, is said in [`super::expansion`]; how engines are asked, in [`super::engine::relayout`]. One machine a
//! group, on its control core; it knows the cores only by their number. As long as nothing but dead rows and the scratch area has been
//! written, a wave that cannot go on is given up: cores look blocks up as before. Rows that the superblocks say are in the scratch area
//! have to get to their place; that is tried until it is done or the group has failed, in which case their blocks are in two minds and
//! nobody gets them: the hold stays.

use std::collections::VecDeque;

use super::RowIndex;
use super::background::{ExpansionNeed, RowAnswer};
use super::engine::{GroupError, MovePhase};
use super::expansion::{
    ExpansionRecord, HeldRows, Layout, ScratchArea, ScratchState, WAVE_ROWS_MAX, Wave, WaveKind, Waves,
};
use super::geometry::Geometry;
use super::group::Group;

/// Rows of a wave that are moved at a time, unless their strips take too much of the scratch memory.
const MOVES_MAX: u32 = 8;
/// Bytes of all strips of the rows that are moved at a time.
const MOVES_BYTES_MAX: u64 = 8 << 20;

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The background work wants a wave of these rows, or of fewer.
    Begin {
        /// First row.
        from_row: u64,
        /// The row behind the last.
        to_row: u64,
    },
    /// A core holds the rows of the wave of this number.
    Held {
        /// As [`Action::Hold`] called it.
        wave: u64,
    },
    /// An engine has moved a row, or could not.
    Moved(Result<(), GroupError>),
    /// There is no room to move this row now: the next answer or tick tries again.
    Refused(RowIndex),
    /// The answer to [`Action::Flush`].
    Flushed(Result<(), GroupError>),
    /// What the superblocks say of the expansion has changed, durably.
    Durable {
        /// Where every block is.
        layout: Layout,
        /// How far the expansion is; `None` when it is over.
        expansion: Option<ExpansionRecord>,
    },
    /// A core looks blocks up as [`Action::SetLayout`] told it.
    LayoutSet,
    /// The group cannot go on.
    GroupFailed,
    /// Time goes by.
    Tick,
}

/// What is to be done, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have every core hold these rows, and answer [`Event::Held`] for each.
    Hold {
        /// The rows.
        rows: HeldRows,
        /// Names the wave.
        wave: u64,
    },
    /// Have one engine do this, and answer [`Event::Moved`] or [`Event::Refused`].
    Move {
        /// Which row.
        row: RowIndex,
        /// What is done to it.
        phase: MovePhase,
    },
    /// Flush all members, and answer [`Event::Flushed`].
    Flush,
    /// Make this durable; [`Event::Durable`] follows.
    Scratch(ScratchState),
    /// Make durable that rows below this one are laid out anew; [`Event::Durable`] follows.
    Advance {
        /// First row that is left.
        frontier: u64,
    },
    /// Have every core look blocks up like this, and answer [`Event::LayoutSet`] for each. What the group machine wants next has to wait
    /// for [`Action::Published`] if `news`; otherwise it is the layout that they had.
    SetLayout {
        /// Where every block is.
        layout: Layout,
        /// It says something new.
        news: bool,
    },
    /// Every core looks blocks up by the newest layout: the group machine's actions may go on.
    Published,
    /// Answer to the background work.
    Answer {
        /// First row of the wave.
        row: RowIndex,
        /// How it went.
        answer: RowAnswer,
    },
    /// A fact.
    Report(Report),
}

/// Facts for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The group has new members.
    Begins {
        /// By which its rows will be laid out.
        layout: Layout,
    },
    /// The new capacity can be used.
    Over,
    /// The scratch area could not be wiped: it is tried again.
    NotWiped(GroupError),
    /// Rows could not be laid out anew: it is tried again.
    NotMoved {
        /// First row of the wave.
        from_row: u64,
        /// Why.
        error: GroupError,
    },
    /// Rows could not be put in their place: it is tried again, and nobody gets them before.
    NotPlaced {
        /// First row of the wave.
        from_row: u64,
        /// Why.
        error: GroupError,
    },
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

/// A wave that is being carried out.
#[derive(Debug)]
struct Running {
    wave: Wave,
    step: Step,
}

/// See the module.
#[derive(Debug)]
pub struct Relayout {
    cores: u16,
    running: Option<Running>,
    /// Every core knows of the members of the expansion that is going on.
    expands: bool,
    /// Cores that do not yet look blocks up by the newest layout.
    publishing: u16,
    /// Counts the times that cores were asked to hold rows.
    held_wave: u64,
    /// Rows for which there was no room.
    refused: VecDeque<u64>,
    has_failed: bool,
}

impl Running {
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

/// The waves of the expansion that is going on, and how far it is.
fn waves_of(group: &Group) -> Option<(Waves, ExpansionRecord)> {
    let expansion = group.expansion()?;
    let area = group.scratch_area()?;
    let waves = group.layout().waves(area.rows(&group.geometry()));
    Some((waves.expect("an expansion that began has waves"), expansion))
}

/// Rows of so wide a group that are moved at a time.
fn moves_max(geometry: &Geometry) -> u32 {
    let row = u64::from(geometry.members()) * u64::from(geometry.strip_bytes());
    u32::try_from(MOVES_BYTES_MAX / row).map_or(MOVES_MAX, |fit| fit.clamp(1, MOVES_MAX))
}

impl Relayout {
    /// For a group that is about to be opened by so many cores, all of which begin with [`Group::layout`].
    pub fn new(group: &Group, cores: u16) -> Self {
        Self {
            cores,
            running: None,
            expands: group.expansion().is_some(),
            publishing: 0,
            held_wave: 0,
            refused: VecDeque::new(),
            has_failed: false,
        }
    }

    /// What an expansion needs next, once every core knows of it.
    pub fn need(&self, group: &Group) -> Option<ExpansionNeed> {
        let (waves, expansion) = waves_of(group).filter(|_| self.expands)?;
        let wave = waves.next(expansion.frontier)?;
        Some(ExpansionNeed {
            from_row: wave.from_row,
            to_row: wave.to_row,
        })
    }

    /// Whether no wave is being carried out.
    pub const fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Advances the wave by one event; what has to be done goes to `out`, in order. `group` is the group's machine, which knows what is
    /// durable.
    ///
    /// Panics if an event contradicts our own actions.
    pub fn handle(&mut self, group: &Group, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Begin { from_row, to_row } => self.begin(group, (from_row, to_row), out),
            Event::Held { wave } => self.held(group, wave, out),
            Event::Moved(result) => self.moved(group, result, out),
            Event::Refused(row) => self.refused(row),
            Event::Flushed(result) => self.flushed(group, result, out),
            Event::Durable { layout, expansion } => self.durable(group, layout, expansion, out),
            Event::LayoutSet => self.layout_set(group, out),
            Event::GroupFailed => {
                self.has_failed = true;
                self.group_failed(group, out);
            }
            Event::Tick => self.tick(group, out),
        }
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("a wave is being carried out")
    }

    /// Begins a wave; its end is told by [`Action::Answer`].
    fn begin(&mut self, group: &Group, (from_row, to_row): (u64, u64), out: &mut Vec<Action>) {
        let next =
            waves_of(group).and_then(|(waves, expansion)| Some((waves.next(expansion.frontier)?, expansion)));
        let next = next.filter(|(wave, _)| wave.from_row == from_row && self.running.is_none());
        let Some((mut wave, expansion)) = next else {
            return answer(from_row, RowAnswer::Failed, out);
        };
        wave.to_row = wave.to_row.min(to_row);
        let step = Step::Marking;
        self.running = Some(Running { wave, step });
        match (wave.kind, expansion.scratch) {
            (WaveKind::MovesThroughScratch, ScratchState::Clean) => {
                out.push(Action::Scratch(ScratchState::Dirty));
            }
            (WaveKind::Moves | WaveKind::Clears, ScratchState::Dirty | ScratchState::Holds { .. }) => {
                self.begin_stage(group, Stage::Wipe, out);
            }
            (WaveKind::MovesThroughScratch, ScratchState::Dirty | ScratchState::Holds { .. })
            | (WaveKind::Moves | WaveKind::Clears, ScratchState::Clean) => self.hold(group, out),
        }
    }

    /// Asks every core to hold the rows of the wave.
    fn hold(&mut self, group: &Group, out: &mut Vec<Action>) {
        let (waves, _) = waves_of(group).expect("whose wave it is");
        let cores = self.cores;
        self.held_wave += 1;
        let wave = self.held_wave;
        let running = self.running();
        running.step = Step::Holding { cores };
        let rows = waves.held(running.wave);
        out.push(Action::Hold { rows, wave });
    }

    fn held(&mut self, group: &Group, wave: u64, out: &mut Vec<Action>) {
        let newest = self.held_wave;
        let Some(running) = self.running.as_mut().filter(|_| newest == wave) else {
            return; // It was given up.
        };
        let Step::Holding { cores } = &mut running.step else {
            return;
        };
        *cores -= 1;
        if *cores > 0 {
            return;
        }
        let stage = match running.wave.kind {
            WaveKind::Moves => Stage::InPlace,
            WaveKind::MovesThroughScratch => Stage::ToScratch,
            WaveKind::Clears => Stage::Clear,
        };
        self.begin_stage(group, stage, out);
    }

    fn begin_stage(&mut self, group: &Group, stage: Stage, out: &mut Vec<Action>) {
        let (area, geometry) = (group.scratch_area(), group.geometry());
        let running = self.running();
        let (next, _) = running.rows(stage, area, &geometry);
        running.step = Step::Moving {
            stage,
            next,
            under_way: 0,
            failed: None,
        };
        self.refused.clear();
        self.issue(group, out);
    }

    /// Hands out rows until enough are under way.
    fn issue(&mut self, group: &Group, out: &mut Vec<Action>) {
        let (area, geometry) = (group.scratch_area(), group.geometry());
        let Some(running) = &mut self.running else { return };
        let Step::Moving {
            stage,
            mut next,
            mut under_way,
            failed,
        } = running.step
        else {
            return;
        };
        let (_, end) = running.rows(stage, area, &geometry);
        while failed.is_none() && under_way < moves_max(&geometry) {
            let row = match self.refused.pop_front() {
                Some(row) => row,
                None if next < end => {
                    next += 1;
                    next - 1
                }
                None => break,
            };
            under_way += 1;
            out.push(Action::Move {
                row: RowIndex(row),
                phase: running.phase(stage, row, area, &geometry),
            });
        }
        running.step = Step::Moving {
            stage,
            next,
            under_way,
            failed,
        };
        if under_way > 0 {
            return;
        }
        match failed {
            Some(error) => self.stage_failed(group, stage, error, out),
            None => {
                self.running().step = Step::Flushing(stage);
                out.push(Action::Flush);
            }
        }
    }

    fn moved(&mut self, group: &Group, result: Result<(), GroupError>, out: &mut Vec<Action>) {
        let Step::Moving {
            under_way, failed, ..
        } = &mut self.running().step
        else {
            unreachable!("a stage ends when its rows are answered");
        };
        *under_way -= 1;
        if let (Err(error), None) = (result, &failed) {
            *failed = Some(error);
        }
        self.issue(group, out);
    }

    fn refused(&mut self, row: RowIndex) {
        let Step::Moving { under_way, .. } = &mut self.running().step else {
            unreachable!("a stage ends when its rows are answered");
        };
        *under_way -= 1;
        self.refused.push_back(row.0);
    }

    /// The rows of a stage are durable, or may not be.
    fn flushed(&mut self, group: &Group, result: Result<(), GroupError>, out: &mut Vec<Action>) {
        let running = self.running();
        let Step::Flushing(stage) = running.step else {
            unreachable!("a stage is flushed once");
        };
        if let Err(error) = result {
            return self.stage_failed(group, stage, error, out);
        }
        let to = running.wave.to_row;
        let (step, action) = match stage {
            Stage::Wipe => (Step::Marking, Action::Scratch(ScratchState::Clean)),
            Stage::ToScratch => (Step::Keeping, Action::Scratch(ScratchState::Holds { to })),
            Stage::FromScratch | Stage::InPlace | Stage::Clear => {
                (Step::Advancing, Action::Advance { frontier: to })
            }
        };
        running.step = step;
        if self.has_failed {
            return self.group_failed(group, out);
        }
        out.push(action);
    }

    fn stage_failed(&mut self, group: &Group, stage: Stage, error: GroupError, out: &mut Vec<Action>) {
        let has_failed = self.has_failed;
        let running = self.running();
        let from_row = running.wave.from_row;
        match stage {
            Stage::Wipe => {
                self.running = None;
                out.push(Action::Report(Report::NotWiped(error)));
                answer(from_row, RowAnswer::Failed, out);
            }
            Stage::ToScratch | Stage::InPlace | Stage::Clear => {
                out.push(Action::Report(Report::NotMoved { from_row, error }));
                self.give_up(group, out);
            }
            Stage::FromScratch => {
                running.step = Step::Retrying;
                if !has_failed {
                    out.push(Action::Report(Report::NotPlaced { from_row, error }));
                }
            }
        }
    }

    /// Lets every core go on as if the wave had never begun.
    fn give_up(&mut self, group: &Group, out: &mut Vec<Action>) {
        let cores = self.cores;
        self.running().step = Step::GivingUp { cores };
        out.push(Action::SetLayout {
            layout: group.layout(),
            news: false,
        });
    }

    /// The group cannot go on: ends a wave that waits for something which will not come.
    fn group_failed(&mut self, group: &Group, out: &mut Vec<Action>) {
        let Some(running) = &self.running else { return };
        let from_row = running.wave.from_row;
        match running.step {
            Step::Marking => {
                self.running = None;
                answer(from_row, RowAnswer::Failed, out);
            }
            // Nothing has been written in place.
            Step::Holding { .. } | Step::Keeping => self.give_up(group, out),
            // These are answered.
            Step::Moving { .. } | Step::Flushing(_) | Step::GivingUp { .. } => {}
            // Blocks are in two minds until a start puts them right, and nobody gets them before.
            Step::Retrying | Step::Advancing => {}
        }
    }

    fn durable(
        &mut self,
        group: &Group,
        layout: Layout,
        expansion: Option<ExpansionRecord>,
        out: &mut Vec<Action>,
    ) {
        match self.running.as_ref().map(|running| running.step) {
            Some(Step::Marking) => self.hold(group, out),
            Some(Step::Keeping) => match expansion.map(|expansion| expansion.scratch) {
                Some(ScratchState::Holds { .. }) => self.begin_stage(group, Stage::FromScratch, out),
                // A member was lost meanwhile.
                Some(ScratchState::Clean | ScratchState::Dirty) | None => {
                    self.stage_failed(group, Stage::ToScratch, GroupError::MemberFailed, out);
                }
            },
            Some(Step::Advancing) | None => {
                if expansion.is_none() {
                    out.push(Action::Report(Report::Over));
                } else if self.running.is_none() {
                    out.push(Action::Report(Report::Begins { layout }));
                }
                self.expands &= expansion.is_some();
                self.publishing = self.cores;
                out.push(Action::SetLayout { layout, news: true });
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

    fn layout_set(&mut self, group: &Group, out: &mut Vec<Action>) {
        let (left, done) = match self.running.as_mut().map(|running| &mut running.step) {
            Some(Step::GivingUp { cores }) => (cores, RowAnswer::Failed),
            Some(_) | None => (&mut self.publishing, RowAnswer::Done),
        };
        *left = left.checked_sub(1).expect("each core answers once");
        if *left > 0 {
            return;
        }
        let running = self.running.take();
        if running.is_none() {
            self.expands = group.expansion().is_some();
        }
        if done == RowAnswer::Done {
            out.push(Action::Published);
        }
        if let Some(Running { wave, .. }) = running {
            answer(wave.from_row, done, out);
        }
    }

    /// Tries again what found no room or failed.
    fn tick(&mut self, group: &Group, out: &mut Vec<Action>) {
        match self.running.as_ref().map(|running| running.step) {
            Some(Step::Retrying) if !self.has_failed => self.begin_stage(group, Stage::FromScratch, out),
            Some(Step::Moving { under_way: 0, .. }) => self.issue(group, out),
            Some(_) | None => {}
        }
    }
}

/// Tells the background work how a wave went.
fn answer(from_row: u64, answer: RowAnswer, out: &mut Vec<Action>) {
    let row = RowIndex(from_row);
    out.push(Action::Answer { row, answer });
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
        let running = Running {
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
        assert_eq!(running.rows(Stage::ToScratch, area, &geometry), (7, 9));
        assert_eq!(
            running.rows(Stage::Wipe, area, &geometry),
            (0, 3),
            "as many as fit"
        );
        let at = |stage, row| running.phase(stage, row, area, &geometry);
        let at_block = MemberLba(316);
        assert_eq!(at(Stage::ToScratch, 8), MovePhase::ToScratch { at: at_block });
        assert_eq!(at(Stage::FromScratch, 8), MovePhase::FromScratch { at: at_block });
        assert_eq!(at(Stage::Wipe, 1), MovePhase::Wipe { at: at_block });
    }
}
