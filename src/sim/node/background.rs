//! What a simulated group does on its own: the real machine of the background work, bound to the control core's engine and to
//! the group machine as `target::control::background` does it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Effect, Node, Owner, Phase};
use crate::amf::RowIndex;
use crate::amf::background::{
    Action, Background, Event, HostLoad, Limits, Mismatch, Needs, Process, RebuildNeed, Report, RowAnswer,
    RowCommand, ScrubMode, Shape,
};
use crate::amf::engine::{GroupError, Request, ScrubOutcome};
use crate::amf::geometry::Geometry;
use crate::amf::group::{Event as GroupEvent, GroupState, RebuildWork};
use crate::amf::intent::IntentMap;
use crate::amf::relayout::Event as RelayoutEvent;
use crate::sim::scenario::{Mutant, OperatorWish};

/// The background work of the group, and what it needs to be carried out.
#[derive(Debug)]
pub(super) struct Work {
    machine: Background,
    /// What the machine was told last.
    needs: Needs,
    /// Events that the machine has not yet got.
    events: VecDeque<Event>,
    /// Events are being fed further up the stack.
    is_feeding: bool,
    /// What is to be rebuilt.
    pub(super) rebuild: Option<RebuildWork>,
    /// What scrubs found in rows that are not yet complete.
    pub(super) outcomes: BTreeMap<u64, ScrubOutcome>,
    /// Scrubs found rows that did not fit.
    mismatch: Option<(RowIndex, Mismatch)>,
    /// When the wake-up goes off that was asked for last.
    wake_at: u64,
    /// What hosts saw since the last tick.
    hosts: HostLoad,
    /// Rows that were done, and how often something became durable.
    done: u64,
}

impl Work {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self {
            machine: Background::new(Shape::of(geometry), Limits::default()),
            needs: Needs::default(),
            events: VecDeque::new(),
            is_feeding: false,
            rebuild: None,
            outcomes: BTreeMap::new(),
            mismatch: None,
            wake_at: 0,
            hosts: HostLoad::default(),
            done: 0,
        }
    }

    /// Nothing is under way and nothing is left to do.
    fn is_settled(&self) -> bool {
        self.machine.is_idle()
            && self.machine.status().is_none()
            && self.needs.rebuild.is_none()
            && self.needs.sync_from.is_none()
            && (self.needs.expansion.is_none() || self.needs.is_degraded)
    }

    /// The group has got members.
    pub(super) fn set_shape(&mut self, shape: Shape) {
        self.machine.set_shape(shape);
    }

    /// A wave of an expansion has ended.
    pub(super) fn wave_done(&mut self, answer: RowAnswer) {
        self.done += u64::from(answer == RowAnswer::Done);
    }

    /// How the engine got on with a row.
    fn answer(&mut self, process: Process, row: u64, result: Result<(), GroupError>) -> RowAnswer {
        let outcome = self.outcomes.remove(&row);
        if result.is_err() {
            return RowAnswer::Failed;
        }
        match (process, outcome) {
            (Process::Rebuild | Process::Sync | Process::Expansion, _)
            | (Process::Scrub, Some(ScrubOutcome::Clean)) => RowAnswer::Done,
            (Process::Scrub, Some(ScrubOutcome::Unchecked) | None) => RowAnswer::Failed,
            (
                Process::Scrub,
                Some(ScrubOutcome::Mismatch {
                    members,
                    located,
                    repaired,
                }),
            ) => RowAnswer::Mismatched(Mismatch {
                members,
                located,
                repaired,
            }),
        }
    }
}

impl Node {
    /// Nothing is left to do by itself: no background work, no command.
    pub fn is_settled(&self) -> bool {
        let quiet = self.cores.iter().all(|core| core.engine.in_flight() == 0);
        quiet && self.work.is_settled() && self.draining.is_empty() && self.relayout.is_idle()
    }

    /// What is still to come, for people.
    pub fn unfinished(&self) -> String {
        let engines: Vec<u32> = self.cores.iter().map(|core| core.engine.in_flight()).collect();
        let drains = self.draining.len();
        let Work { machine, needs, .. } = &self.work;
        format!(
            "commands of each core: {engines:?}, drainings: {drains}, background: {:?} for {needs:?}, {:?}",
            machine.status(),
            self.relayout
        )
    }

    /// Grows with everything that the background work brings about.
    pub const fn background_done(&self) -> u64 {
        self.work.done
    }

    /// A row that a scrub of an operator found not to fit its check data.
    pub const fn scrub_mismatch(&self) -> Option<(RowIndex, Mismatch)> {
        self.work.mismatch
    }

    /// A host was answered after so long.
    pub const fn host_waited(&mut self, latency_ns: u64) {
        let hosts = &mut self.work.hosts;
        hosts.commands += 1;
        if hosts.p99_ns < latency_ns {
            hosts.p99_ns = latency_ns;
        }
    }

    /// Does what an operator wants of the background work.
    pub fn operate(&mut self, wish: OperatorWish, out: &mut Vec<Effect>) {
        let limits = self.work.machine.limits();
        let is_redundant = self.geometry().level().is_redundant();
        let mut scrub = |mode| {
            // Refused as long as there is nothing to compare with, or while one is going on.
            if is_redundant {
                let _ = self.work.machine.begin_scrub(mode, 0);
            }
            Event::Wake
        };
        let event = match wish {
            OperatorWish::Scrub => scrub(ScrubMode::Check),
            OperatorWish::Repair => scrub(ScrubMode::Repair),
            OperatorWish::Pause => Event::Pause,
            OperatorWish::Resume => Event::Resume,
            OperatorWish::Rate(mib) => Event::Limits(Limits {
                rate: Some(u64::from(mib) << 20),
                ..limits
            }),
            OperatorWish::Latency(micros) => Event::Limits(Limits {
                latency_target_ns: Some(u64::from(micros) * 1000),
                ..limits
            }),
            OperatorWish::Fail(_) | OperatorWish::Return(_) | OperatorWish::Expand(_) => {
                unreachable!("the group machine sees to these")
            }
        };
        self.background_event(event, out);
    }

    /// The instant has come that [`Effect::WakeAt`] named.
    pub fn background_wake(&mut self, out: &mut Vec<Effect>) {
        self.background_event(Event::Wake, out);
    }

    pub(super) fn background_tick(&mut self, out: &mut Vec<Effect>) {
        let hosts = std::mem::take(&mut self.work.hosts);
        self.background_event(Event::Tick { hosts }, out);
    }

    /// Nothing more is begun; the group is closed when nothing is under way any more.
    pub(super) fn background_stop(&mut self, out: &mut Vec<Effect>) {
        self.background_event(Event::Stop, out);
    }

    pub(super) fn background_is_idle(&self) -> bool {
        self.work.machine.is_idle()
    }

    /// Tells the background work what is due now, if that is news.
    pub(super) fn background_needs(&mut self, out: &mut Vec<Effect>) {
        let snapshot = self.group.snapshot();
        let needs = Needs {
            generation: snapshot.generation,
            is_open: self.phase == Phase::Open && self.has_heard_of_rebuild(),
            is_degraded: snapshot.state == GroupState::Degraded,
            rebuild: self.work.rebuild.map(|work| RebuildNeed {
                members: work.members,
                wave: work.wave,
                from_row: work.from_row,
            }),
            sync_from: snapshot.resync.map(|left| left.next_row),
            expansion: self.relayout.need(&self.group),
        };
        if self.work.needs != needs {
            self.work.needs = needs;
            self.background_event(Event::Needs(needs), out);
        }
    }

    /// Nothing is begun before the core that does it has heard which members are rebuilt.
    fn has_heard_of_rebuild(&self) -> bool {
        let heard = self.cores[0].engine.heard();
        self.work.rebuild.is_none_or(|work| work.wave <= heard)
    }

    pub(super) fn row_done(
        &mut self,
        (process, row): (Process, u64),
        result: Result<(), GroupError>,
        out: &mut Vec<Effect>,
    ) {
        let answer = self.work.answer(process, row, result);
        self.work.done += u64::from(matches!(answer, RowAnswer::Done | RowAnswer::Mismatched(_)));
        let row = RowIndex(row);
        self.background_event(Event::RowAnswered { row, answer }, out);
    }

    pub(super) fn background_flushed(&mut self, done: bool, out: &mut Vec<Effect>) {
        self.background_event(Event::Flushed { done }, out);
    }

    /// Makes what the background work has done durable.
    pub(super) fn background_flush(&mut self) {
        let core = &mut self.cores[0];
        let id = core.take_slot(Owner::BackgroundFlush, Vec::new());
        core.submit(id, Request::FlushDrives);
    }

    /// Feeds the machine and carries out what it wants. An event that comes up meanwhile is fed after all that was wanted before it,
    /// so that rows reach the engine in their order.
    pub(super) fn background_event(&mut self, event: Event, out: &mut Vec<Effect>) {
        self.work.events.push_back(event);
        if std::mem::replace(&mut self.work.is_feeding, true) {
            return;
        }
        let mut actions = Vec::new();
        while let Some(event) = self.work.events.pop_front() {
            let marks = self.marks();
            let is_clean = |row| marks.as_ref().is_some_and(|map| !map.is_marked(row));
            self.work.machine.handle(self.now, event, &is_clean, &mut actions);
            for action in std::mem::take(&mut actions) {
                self.background_action(action, marks.is_some(), out);
            }
        }
        self.work.is_feeding = false;
        self.pump(0, out);
        let due = self.work.machine.wake_at_ns();
        if let Some(at) = due.map(|at| at.max(self.now + 1))
            && (self.work.wake_at <= self.now || at < self.work.wake_at)
        {
            self.work.wake_at = at;
            out.push(Effect::WakeAt(at));
        }
        self.close_when_idle(out);
    }

    /// The bitmap of the rows to which the rebuild is limited; `None` if it goes over all rows.
    fn marks(&self) -> Option<Arc<IntentMap>> {
        self.work.rebuild.filter(|work| work.partial)?;
        self.group.intent().cloned()
    }

    fn background_action(&mut self, action: Action, only_marked: bool, out: &mut Vec<Effect>) {
        match action {
            Action::Run(command) => {
                let core = &mut self.cores[0];
                let early = self.mutant == Mutant::EarlyRebuild && command.process == Process::Rebuild;
                let owner = if early {
                    Owner::Forgotten
                } else {
                    Owner::Row(command.process, command.row.0)
                };
                let id = core.take_slot(owner, Vec::new());
                core.submit(id, request_of(command, only_marked));
                if early {
                    self.work.events.push_back(Event::RowAnswered {
                        row: command.row,
                        answer: RowAnswer::Done,
                    });
                }
            }
            Action::Wave { from_row, to_row } => {
                self.relayout_event(RelayoutEvent::Begin { from_row, to_row }, out);
            }
            Action::Flush { journal } if journal && self.mutant == Mutant::EarlyRebuild => {
                self.work.events.push_back(Event::Flushed { done: true });
            }
            Action::Flush { journal } if journal && self.mutant != Mutant::OldJournal => {
                self.retire_and_flush(out);
            }
            Action::Flush { .. } => self.background_flush(),
            Action::Progress {
                process,
                wave,
                next_row,
            } => {
                self.work.done += 1;
                let event = match process {
                    Process::Sync => GroupEvent::ResyncProgress { next_row },
                    Process::Rebuild => GroupEvent::RebuildProgress { wave, rows: next_row },
                    Process::Scrub => GroupEvent::ScrubProgress { row: next_row },
                    Process::Expansion => unreachable!("its waves are durable when they are answered"),
                };
                self.group_event(event, out);
            }
            Action::Finished { process, wave } => {
                self.work.done += 1;
                let event = match process {
                    Process::Sync => GroupEvent::ResyncDone,
                    Process::Rebuild => GroupEvent::RebuildDone { wave },
                    Process::Scrub => GroupEvent::ScrubProgress { row: 0 },
                    Process::Expansion => return, // The group has said so before.
                };
                self.group_event(event, out);
            }
            Action::Report(Report::Mismatch { row, mismatch }) => {
                self.work.mismatch.get_or_insert((row, mismatch));
            }
            Action::Report(Report::Begun { .. } | Report::Interrupted { .. } | Report::Stuck { .. }) => {}
        }
    }

    /// A group whose check data is believed without a look, for the mutant that resynchronises nothing.
    pub(super) fn skip_resync(&mut self, out: &mut Vec<Effect>) {
        if self.mutant == Mutant::NoResync && self.group.snapshot().resync.is_some() {
            self.group_event(GroupEvent::ResyncDone, out);
        }
    }
}

/// What the engine is asked for.
fn request_of(command: RowCommand, only_marked: bool) -> Request {
    let row = command.row;
    match command.process {
        Process::Rebuild => Request::Rebuild {
            row,
            wave: command.wave,
            only_marked,
        },
        Process::Sync => Request::Resync { row },
        Process::Expansion => unreachable!("an expansion goes in waves"),
        Process::Scrub => Request::Scrub {
            row,
            repair: command.repair,
        },
    }
}
