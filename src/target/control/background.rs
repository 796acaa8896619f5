//! Binds the background work of each group to its engine on this core, to the group's machine, and to operators.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use reactor::{CoreIndex, Io, Nanos};

use super::Control;
use super::groups::GroupControl;
use crate::amf::RowIndex;
use crate::amf::background::{
    Action, Background, Event, Limits, Mismatch, Needs, Process, RebuildNeed, Report, RowAnswer, RowCommand,
    ScrubMode, ScrubRefusal, Shape,
};
use crate::amf::engine::{GroupError, Request, ScrubOutcome};
use crate::amf::geometry::{Geometry, Level};
use crate::amf::group::{Event as GroupEvent, GroupState};
use crate::amf::intent::IntentMap;
use crate::amf::relayout::Event as RelayoutEvent;
use crate::target::command::{InternalCommand, Owner};
use crate::target::core::{Core, TICK_NS, TokenKind, token};
use crate::target::manage::{self, BackgroundRequest, GroupSetRate, ManageError, Reply};
use crate::target::message::Message;
use crate::target::window::{HostWindow, Window};

/// Mismatched rows of a scrub that are logged one by one; the rest are only counted.
const MISMATCHES_LOGGED_MAX: u64 = 100;

/// The background work of one group and what it needs to be carried out.
pub(super) struct BackgroundControl {
    pub(super) machine: Background,
    /// What the machine was told last.
    needs: Needs,
    /// Events that the machine has not yet got.
    events: VecDeque<Event>,
    /// Events are being fed further up the stack.
    is_feeding: bool,
    /// What scrubs found in rows that are not yet complete.
    outcomes: BTreeMap<u64, ScrubOutcome>,
    /// What hosts saw.
    pub(super) hosts: HostWindow,
    /// When the timer goes off that was set last.
    timer_at: Nanos,
    mismatches: u64,
    /// The rebuild that runs, or the last one.
    rebuild: Option<manage::RebuildStatus>,
}

impl BackgroundControl {
    pub(super) fn new(geometry: &Geometry, limits: Limits) -> Self {
        Self {
            machine: Background::new(Shape::of(geometry), limits),
            needs: Needs::default(),
            events: VecDeque::new(),
            is_feeding: false,
            outcomes: BTreeMap::new(),
            hosts: HostWindow::default(),
            timer_at: 0,
            mismatches: 0,
            rebuild: None,
        }
    }

    /// A rebuild begins, of this many rows.
    pub(super) fn rebuild_begins(&mut self, partial: bool, rows: u64) {
        let done = false;
        self.rebuild = Some(manage::RebuildStatus { partial, rows, done });
    }

    /// The rebuild is over; if it did not come to its end another one follows.
    pub(super) fn rebuild_ends(&mut self) {
        if let Some(rebuild) = &mut self.rebuild {
            rebuild.done = true;
        }
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
            // Members were lost meanwhile: the row is compared when they are back.
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

/// The bitmap of the rows to which a group's rebuild is limited; `None` if it goes over all rows, or if there is none.
fn marks_of(group: &GroupControl) -> Option<Arc<IntentMap>> {
    group.rebuild.filter(|work| work.partial)?;
    group.machine.intent().cloned()
}

/// What the group's members want done.
fn needs_of(group: &GroupControl) -> Needs {
    let snapshot = group.machine.snapshot();
    Needs {
        generation: snapshot.generation,
        // Nothing is begun before this core's engine has heard which members are rebuilt.
        is_open: group.is_open() && group.leads && group.rebuild.is_none_or(|work| work.wave <= group.heard),
        is_degraded: snapshot.state == GroupState::Degraded,
        rebuild: group.rebuild.map(|work| RebuildNeed {
            members: work.members,
            wave: work.wave,
            from_row: work.from_row,
        }),
        sync_from: snapshot.resync.map(|left| left.next_row),
        expansion: group.relayout.need(&group.machine),
    }
}

impl Control {
    /// Tells a group's background work what is due now, if that is news.
    pub(super) fn background_needs(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        let needs = needs_of(state);
        if state.background.needs != needs {
            state.background.needs = needs;
            self.background_event(core, io, group, Event::Needs(needs));
        }
    }

    /// The engine of this core was told a member set.
    pub(in crate::target) fn members_heard(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        generation: u64,
    ) {
        let heard = &mut self.groups[usize::from(group)].heard;
        *heard = generation.max(*heard);
        self.background_needs(core, io, group);
    }

    /// Ten times a second.
    pub(super) fn background_tick(&mut self, core: &mut Core, io: &mut Io<Message>) {
        for group in 0..self.groups.len() {
            let hosts = self.groups[group].background.hosts.measure();
            let group = u16::try_from(group).expect("a node has at most 128 groups");
            self.background_event(core, io, group, Event::Tick { hosts });
        }
    }

    /// A core tells what its hosts saw of each group.
    pub(super) fn hosts_saw(&mut self, windows: &[(u16, Box<Window>)]) {
        for (group, window) in windows {
            if let Some(state) = self.groups.get_mut(usize::from(*group)) {
                state.background.hosts.add(window);
            }
        }
    }

    /// The timer of a group's background work went off.
    pub(in crate::target) fn background_timer(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        self.background_event(core, io, group, Event::Wake);
    }

    /// A scrub tells what it found, right before its row completes.
    pub(in crate::target) fn scrubbed(&mut self, group: u16, row: RowIndex, outcome: ScrubOutcome) {
        let background = &mut self.groups[usize::from(group)].background;
        background.outcomes.insert(row.0, outcome);
    }

    /// An engine has done a row, or not.
    pub(super) fn row_done(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        (process, row): (Process, u32),
        result: Result<(), GroupError>,
    ) {
        let row = u64::from(row);
        let answer = self.groups[usize::from(group)]
            .background
            .answer(process, row, result);
        let row = RowIndex(row);
        self.background_event(core, io, group, Event::RowAnswered { row, answer });
    }

    /// Feeds a group's background work and carries out what it wants. An event that comes up meanwhile is fed after
    /// all that was wanted before it, so that rows reach the engine in their order.
    pub(super) fn background_event(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        event: Event,
    ) {
        let at = usize::from(group);
        self.groups[at].background.events.push_back(event);
        if std::mem::replace(&mut self.groups[at].background.is_feeding, true) {
            return;
        }
        let mut actions = Vec::new();
        while let Some(event) = self.groups[at].background.events.pop_front() {
            let marks = marks_of(&self.groups[at]);
            let only_marked = marks.is_some();
            let is_clean = |row| marks.as_ref().is_some_and(|map| !map.is_marked(row));
            let machine = &mut self.groups[at].background.machine;
            machine.handle(io.now(), event, &is_clean, &mut actions);
            let mut is_full = false;
            for action in actions.drain(..) {
                self.background_action(core, io, group, action, only_marked, &mut is_full);
            }
        }
        self.groups[at].background.is_feeding = false;
        core.run_queued(io, group);
        self.set_background_timer(io, group);
        self.close_when_idle(core, io, group);
    }

    /// Sets the timer if the next row is due before the next tick.
    fn set_background_timer(&mut self, io: &mut Io<Message>, group: u16) {
        let background = &mut self.groups[usize::from(group)].background;
        let now = io.now();
        let due = background.machine.wake_at_ns().filter(|at| *at < now + TICK_NS);
        if let Some(at) = due
            && (background.timer_at <= now || at < background.timer_at)
        {
            background.timer_at = at.max(now + 1);
            io.set_timer(
                background.timer_at,
                token(TokenKind::Background, u64::from(group)),
            );
        }
    }

    /// Makes what the background work has done durable.
    fn background_flush(&mut self, core: &mut Core, group: u16) {
        let owner = Owner::Internal(InternalCommand::BackgroundFlush);
        match core.commands.insert(owner, None) {
            Some(id) => core.queue_group(group, id, Request::FlushDrives),
            None => {
                let background = &mut self.groups[usize::from(group)].background;
                background.events.push_back(Event::Flushed { done: false });
            }
        }
    }

    /// Has every core bring to its place what its lane holds by now; each has heard before which members are being rebuilt.
    fn retire_groups_lanes(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        assert_eq!(state.retiring.0, 0, "one flush at a time");
        state.retiring = (self.cores, true);
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::RetireGroup { group });
        }
    }

    /// A core has done so, or could not.
    pub(super) fn group_retired(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, retired: bool) {
        let (left, all) = &mut self.groups[usize::from(group)].retiring;
        assert!(*left > 0, "each core answers once");
        *left -= 1;
        *all &= retired;
        match (*left, *all) {
            (0, true) => {
                self.background_flush(core, group);
                self.background_event(core, io, group, Event::Wake); // If it could not begin, that is heard now.
            }
            (0, false) => self.background_event(core, io, group, Event::Flushed { done: false }),
            _ => {}
        }
    }

    fn background_action(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        action: Action,
        only_marked: bool,
        is_full: &mut bool,
    ) {
        let state = &mut self.groups[usize::from(group)];
        match action {
            Action::Run(command) => {
                let number = u32::try_from(command.row.0).expect("a group has at most 2^32 rows");
                let owner = Owner::Internal(InternalCommand::Row(command.process, number));
                let id = if *is_full {
                    None
                } else {
                    core.commands.insert(owner, None)
                };
                match id {
                    Some(id) => core.queue_group(group, id, request_of(command, only_marked)),
                    None => {
                        *is_full = true; // No later row may overtake this one.
                        state.background.events.push_back(Event::RowAnswered {
                            row: command.row,
                            answer: RowAnswer::Refused,
                        });
                    }
                }
            }
            Action::Wave { from_row, to_row } => {
                self.relayout_event(core, io, group, RelayoutEvent::Begin { from_row, to_row });
            }
            Action::Flush { journal } if journal && state.shared.journal.is_some() => {
                self.retire_groups_lanes(core, io, group);
            }
            Action::Flush { .. } => self.background_flush(core, group),
            Action::Progress {
                process,
                wave,
                next_row,
            } => {
                let event = match process {
                    Process::Sync => GroupEvent::ResyncProgress { next_row },
                    Process::Rebuild => GroupEvent::RebuildProgress { wave, rows: next_row },
                    Process::Scrub => GroupEvent::ScrubProgress { row: next_row },
                    Process::Expansion => unreachable!("its waves are durable when they are answered"),
                };
                self.group_event(core, io, group, event);
            }
            Action::Finished { process, wave } => {
                tracing::info!(group = %state.shared.name, process = process.name(), "background work is done");
                let event = match process {
                    Process::Sync => GroupEvent::ResyncDone,
                    Process::Rebuild => GroupEvent::RebuildDone { wave },
                    Process::Scrub => GroupEvent::ScrubProgress { row: 0 },
                    Process::Expansion => return, // The group has said so before.
                };
                self.group_event(core, io, group, event);
            }
            Action::Report(report) => log_background(state, report),
        }
    }
}

/// What the engine is asked for.
fn request_of(command: RowCommand, only_marked: bool) -> Request {
    let row = command.row;
    match command.process {
        // Whether a row is marked can only be said for sure under its lock: so each is handed over, whatever it looks like from here.
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

fn log_background(state: &mut GroupControl, report: Report) {
    let name = &state.shared.name;
    match report {
        Report::Begun { process, from_row } => {
            state.background.mismatches = 0;
            tracing::info!(group = %name, process = process.name(), from_row, "background work begins");
        }
        Report::Interrupted { process, next_row } => {
            tracing::info!(group = %name, process = process.name(), next_row, "background work is interrupted");
        }
        Report::Stuck { process, row } => {
            tracing::error!(group = %name, process = process.name(), row = row.0, "a row cannot be read or written");
        }
        Report::Mismatch { row, mismatch } => {
            state.background.mismatches += 1;
            if state.background.mismatches > MISMATCHES_LOGGED_MAX {
                return;
            }
            let Mismatch {
                members,
                located,
                repaired,
            } = mismatch;
            tracing::error!(group = %name, row = row.0, members = format_args!("{members:#x}"), located, repaired,
                "a row did not fit its check data");
        }
    }
}

// What operators ask for.
impl Control {
    /// Does what an operator wants and shows what became of it.
    pub(super) fn background_request(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        wanted: &BackgroundRequest,
    ) -> Result<Reply, ManageError> {
        let (name, event) = match wanted {
            BackgroundRequest::Scrub(scrub) => (&scrub.group, Event::Wake),
            BackgroundRequest::ScrubStop(wanted) => (&wanted.group, Event::EndScrub),
            BackgroundRequest::Pause(wanted) => (&wanted.group, Event::Pause),
            BackgroundRequest::Resume(wanted) => (&wanted.group, Event::Resume),
            BackgroundRequest::SetRate(set) => (&set.group, Event::Limits(limits_of(set))),
        };
        let group = self.group_named(name)?;
        if let BackgroundRequest::Scrub(scrub) = wanted {
            begin_scrub(&mut self.groups[group], scrub.repair)?;
        }
        let index = u16::try_from(group).expect("a node has at most 128 groups");
        self.background_event(core, io, index, event);
        Ok(Reply::Group(self.group_status(&self.groups[group])))
    }
}

/// Has a scrub begin with the next event.
fn begin_scrub(group: &mut GroupControl, repair: bool) -> Result<(), ManageError> {
    let name = &group.shared.name;
    if group.shared.geometry.level() == Level::Raid0 {
        let what = format!("group \"{name}\" has no redundancy, so that there is nothing to compare with");
        return Err(ManageError::new(ManageError::REFUSED, what, ""));
    }
    let mode = if repair {
        ScrubMode::Repair
    } else {
        ScrubMode::Check
    };
    group.background.machine.begin_scrub(mode, 0).map_err(|refusal| {
        let text = refusal.to_string();
        let (what, remedy) = text.split_once(": ").unwrap_or((&text, ""));
        let code = match refusal {
            ScrubRefusal::GoingOn | ScrubRefusal::NotOpen => ManageError::BUSY,
            ScrubRefusal::Degraded => ManageError::REFUSED,
        };
        ManageError::new(code, what, remedy)
    })
}

/// Limits in the machine's units.
fn limits_of(set: &GroupSetRate) -> Limits {
    Limits {
        rate: (set.rate_mib_s > 0).then_some(u64::from(set.rate_mib_s) << 20),
        latency_target_ns: (set.latency_target_us > 0).then_some(u64::from(set.latency_target_us) * 1000),
    }
}

/// What management shows of a group's background work.
pub(super) fn status_of(background: &BackgroundControl) -> manage::BackgroundStatus {
    let machine = &background.machine;
    let limits = machine.limits();
    let whole = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let tally = |mode: ScrubMode, state, tally: crate::amf::background::ScrubTally| manage::ScrubStatus {
        state,
        repairs: mode == ScrubMode::Repair,
        rows: tally.rows,
        mismatches: tally.mismatches,
        repaired: tally.repaired,
        located: tally.located,
        unreadable: tally.unreadable,
    };
    let scrub = match (machine.scrub(), machine.last_scrub()) {
        (Some((mode, found)), _) => Some(tally(mode, manage::ScrubState::Running, found)),
        (None, Some(last)) if last.completed => {
            Some(tally(last.mode, manage::ScrubState::Completed, last.tally))
        }
        (None, Some(last)) => Some(tally(last.mode, manage::ScrubState::Stopped, last.tally)),
        (None, None) => None,
    };
    manage::BackgroundStatus {
        paused: machine.is_paused(),
        rate_mib_s: whole(limits.rate.unwrap_or(0) >> 20),
        latency_target_us: whole(limits.latency_target_ns.unwrap_or(0) / 1000),
        process: machine.status().map(|status| manage::ProcessStatus {
            name: status.process.name().to_owned(),
            state: status.state.name().to_owned(),
            rows_done: status.rows_done,
            rows: status.rows,
            bytes_per_second: status.bytes_per_second,
            seconds_left: status.seconds_left,
        }),
        rebuild: background.rebuild,
        scrub,
    }
}
