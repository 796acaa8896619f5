//! The machine: events in, actions out.

use super::run::Run;
use super::throttle::Throttle;
use super::{
    Action, Event, HostLoad, Limits, Needs, Process, Report, RowAnswer, RowCommand, RunState, ScrubMode,
    ScrubRefusal, ScrubResult, ScrubTally, Shape, Status, WAVE_ROWS_BESIDE_HOSTS,
};
use crate::amf::RowIndex;

/// Rows after which progress is made durable: with 64 KiB strips on four data members 1 GiB, which is redone in seconds.
const PERSIST_ROWS: u64 = 4096;
/// Time after which progress is made durable.
const PERSIST_NS: u64 = 10_000_000_000;
/// Pause after a failure; it doubles with each one that follows without a success.
const RETRY_NS_MIN: u64 = 100_000_000;
/// Longest pause after a failure.
const RETRY_NS_MAX: u64 = 5_000_000_000;
/// Failures of one row in succession after which a scrub passes over it, and the others say that they are stuck.
const FAILURES_STUCK: u32 = 3;

/// A scrub that was asked for.
#[derive(Clone, Copy, Debug)]
struct Scrub {
    mode: ScrubMode,
    next_row: u64,
    tally: ScrubTally,
}

/// Why no row is begun at the moment, although there are some.
#[derive(Clone, Copy, Debug, Default)]
struct Holdback {
    /// Failures in succession.
    failures: u32,
    /// When the next attempt is due.
    retry_at_ns: u64,
    /// The engine was full: the next tick tries again.
    until_tick: bool,
}

/// The background work of one group.
#[derive(Debug)]
pub struct Background {
    shape: Shape,
    needs: Needs,
    throttle: Throttle,
    run: Option<Run>,
    scrub: Option<Scrub>,
    last_scrub: Option<ScrubResult>,
    /// A process that has finished, and the generation as of then: until a later one says that it is still due, it is not.
    settled: Option<(Process, (u32, u64), u64)>,
    holdback: Holdback,
    persist_at_ns: u64,
    paused: bool,
    stopping: bool,
}

impl Background {
    /// The background work of a group that is not open yet: it does nothing before [`Event::Needs`].
    pub fn new(shape: Shape, limits: Limits) -> Self {
        assert!(shape.rows > 0, "a group has rows");
        Self {
            shape,
            needs: Needs::default(),
            throttle: Throttle::new(limits),
            run: None,
            scrub: None,
            last_scrub: None,
            settled: None,
            holdback: Holdback::default(),
            persist_at_ns: 0,
            paused: false,
            stopping: false,
        }
    }

    /// Asks for a scrub from `from_row` on; it begins with the next event, when nothing more urgent runs.
    pub fn begin_scrub(&mut self, mode: ScrubMode, from_row: u64) -> Result<(), ScrubRefusal> {
        if self.scrub.is_some() {
            return Err(ScrubRefusal::GoingOn);
        }
        if !self.needs.is_open || self.stopping {
            return Err(ScrubRefusal::NotOpen);
        }
        if self.needs.is_degraded {
            return Err(ScrubRefusal::Degraded);
        }
        self.scrub = Some(Scrub {
            mode,
            next_row: from_row.min(self.shape.rows),
            tally: ScrubTally::default(),
        });
        Ok(())
    }

    /// The scrub that was asked for and has not ended.
    pub fn scrub(&self) -> Option<(ScrubMode, ScrubTally)> {
        self.scrub.map(|scrub| (scrub.mode, scrub.tally))
    }

    /// The scrub that has ended last.
    pub const fn last_scrub(&self) -> Option<ScrubResult> {
        self.last_scrub
    }

    /// Whether an operator has paused it.
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// The limits that an operator has set.
    pub const fn limits(&self) -> Limits {
        self.throttle.limits()
    }

    /// The group has other rows by now: an expansion has begun.
    ///
    /// Panics if their number differs.
    pub fn set_shape(&mut self, shape: Shape) {
        assert_eq!(
            shape.rows, self.shape.rows,
            "an expansion leaves the number of rows"
        );
        self.shape = shape;
    }

    /// Whether nothing is under way: neither a row nor a flush.
    pub fn is_idle(&self) -> bool {
        self.run.as_ref().is_none_or(Run::is_quiet)
    }

    /// How far the process is that runs; `None` if none does.
    pub fn status(&self) -> Option<Status> {
        let run = self.run.as_ref()?;
        let state = if self.paused {
            RunState::Paused
        } else if self.holdback.failures > 0 {
            RunState::Retrying
        } else if run.is_over() {
            RunState::Finishing
        } else if self.throttle.is_held_by_hosts() {
            RunState::HeldByHosts
        } else {
            RunState::Running
        };
        let rows_done = run.covered_row();
        let rate = self.throttle.achieved();
        let left = u128::from(self.shape.rows - rows_done) * u128::from(self.shape.row_bytes);
        let seconds = left.div_ceil(u128::from(rate.max(1)));
        Some(Status {
            process: run.process,
            state,
            rows_done,
            rows: self.shape.rows,
            bytes_per_second: rate,
            seconds_left: (rate > 0 && !self.paused).then_some(u64::try_from(seconds).unwrap_or(u64::MAX)),
            rate_limit: self.throttle.rate(),
        })
    }

    /// When [`Event::Wake`] is due if nothing else happens before; the ticks suffice if `None`.
    pub fn wake_at_ns(&self) -> Option<u64> {
        let run = self.run.as_ref()?;
        match run.process {
            Process::Expansion => self.next_wave()?.0,
            Process::Rebuild | Process::Sync | Process::Scrub => {
                run.next(self.shape.window(self.throttle.hosts_are_active()))?
            }
        };
        if self.is_held() {
            return None;
        }
        // During a pause after a failure a debt that has long been paid is no reason to wake.
        let ready = self.throttle.ready_at_ns()?;
        Some(ready.max(self.holdback.retry_at_ns))
    }

    /// Advances the work by one event; what has to be done goes to `out`, in order. `is_clean` says for each row
    /// whether a rebuild may pass over it, as in [`RowCommand::is_clean`].
    ///
    /// Panics if an event contradicts our own actions: an answer to what was not asked for.
    pub fn handle(
        &mut self,
        now_ns: u64,
        event: Event,
        is_clean: &dyn Fn(RowIndex) -> bool,
        out: &mut Vec<Action>,
    ) {
        match event {
            Event::Needs(needs) => self.set_needs(needs),
            Event::Tick { hosts } => self.tick(now_ns, hosts),
            Event::Wake => {}
            Event::RowAnswered { row, answer } => self.row_answered(now_ns, row, answer, out),
            Event::Flushed { done } => self.flushed(now_ns, done, out),
            Event::EndScrub => self.end_scrub(false),
            Event::Pause => self.paused = true,
            Event::Resume => {
                self.paused = false;
                self.holdback = Holdback::default();
            }
            Event::Limits(limits) => self.throttle.set_limits(limits),
            Event::Stop => self.stopping = true,
        }
        self.choose(now_ns, out);
        self.issue(now_ns, is_clean, out);
        self.persist(now_ns, out);
    }

    fn set_needs(&mut self, needs: Needs) {
        let from_rows = needs
            .rebuild
            .map(|need| need.from_row)
            .into_iter()
            .chain(needs.sync_from)
            .chain(needs.expansion.map(|need| need.to_row));
        for from_row in from_rows {
            assert!(from_row <= self.shape.rows, "progress stays inside the group");
        }
        assert!(
            needs.rebuild.is_none_or(|need| need.members != 0),
            "a rebuild has members"
        );
        if needs.generation != self.needs.generation {
            self.holdback = Holdback::default(); // Other members: what failed may succeed.
        }
        self.needs = needs;
    }

    fn tick(&mut self, now_ns: u64, hosts: HostLoad) {
        self.holdback.until_tick = false;
        self.throttle.measure(now_ns, hosts);
    }

    /// The process that shall run, what tells its runs apart, and its first row.
    fn wanted(&self) -> Option<(Process, (u32, u64), u64)> {
        if !self.needs.is_open {
            return None;
        }
        let healthy = !self.needs.is_degraded;
        let due = if let Some(need) = self.needs.rebuild {
            Some((Process::Rebuild, (need.members, need.wave), need.from_row))
        } else {
            let sync = self.needs.sync_from;
            let expansion = self.needs.expansion.filter(|_| healthy);
            let sync = sync.map(|from_row| (Process::Sync, (0, 0), from_row));
            sync.or_else(|| expansion.map(|need| (Process::Expansion, (0, 0), need.from_row)))
        };
        if let Some((process, identity, _)) = due {
            // Nothing else runs before the group has made the end of this one durable. Another wave is due at once: its generation
            // may have been known before it was.
            let is_settled = self.settled.is_some_and(|(of, own, generation)| {
                (of, own) == (process, identity) && self.needs.generation <= generation
            });
            return due.filter(|_| !is_settled);
        }
        let scrub = self.scrub.filter(|_| healthy)?;
        Some((Process::Scrub, (0, 0), scrub.next_row))
    }

    /// Lets the most urgent process run.
    fn choose(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let wanted = self.wanted();
        if let Some(run) = &mut self.run {
            let goes_on = wanted
                .is_some_and(|(process, identity, _)| (process, identity) == (run.process, run.identity));
            if !goes_on && !run.abandoned {
                run.abandoned = true;
                out.push(Action::Report(Report::Interrupted {
                    process: run.process,
                    next_row: run.covered_row(),
                }));
            }
            if !run.abandoned || !run.is_quiet() {
                return;
            }
            self.run = None;
        }
        let Some((process, identity, from_row)) = wanted.filter(|_| !self.stopping) else {
            return;
        };
        self.run = Some(Run::new(process, identity, from_row, self.shape.rows));
        self.holdback = Holdback::default();
        self.persist_at_ns = now_ns.saturating_add(PERSIST_NS);
        self.throttle.start(now_ns);
        out.push(Action::Report(Report::Begun { process, from_row }));
    }

    /// Whether no row may be begun, whatever the rate.
    const fn is_held(&self) -> bool {
        self.paused || self.stopping || self.holdback.until_tick
    }

    /// Hands out rows until the window is full or the rate is used up.
    fn issue(&mut self, now_ns: u64, is_clean: &dyn Fn(RowIndex) -> bool, out: &mut Vec<Action>) {
        if self.is_held() || now_ns < self.holdback.retry_at_ns {
            return;
        }
        if let Some((from_row, to_row)) = self.next_wave() {
            self.issue_wave(now_ns, from_row, to_row, out);
        }
        let window = self.shape.window(self.throttle.hosts_are_active());
        let repairs = self.scrub.is_some_and(|scrub| scrub.mode == ScrubMode::Repair);
        let by_rows = |run: &&mut Run| run.process != Process::Expansion;
        let Some(run) = self.run.as_mut().filter(by_rows) else {
            return;
        };
        while let Some(row) = run.next(window) {
            let row = RowIndex(row);
            let is_clean = run.process == Process::Rebuild && is_clean(row);
            // A row that is passed over costs the drives nothing.
            if !is_clean && !self.throttle.try_take(now_ns, self.shape.row_bytes) {
                return;
            }
            run.issue(is_clean);
            out.push(Action::Run(RowCommand {
                process: run.process,
                row,
                repair: run.process == Process::Scrub && repairs,
                wave: run.identity.1,
                is_clean,
            }));
        }
    }

    /// The wave of an expansion that may be begun, first row and the one behind the last: what the group says comes next, when it has
    /// heard of the one before.
    fn next_wave(&self) -> Option<(u64, u64)> {
        let run = self
            .run
            .as_ref()
            .filter(|run| run.process == Process::Expansion)?;
        let need = self.needs.expansion?;
        let most = if self.throttle.hosts_are_active() {
            WAVE_ROWS_BESIDE_HOSTS
        } else {
            u64::MAX
        };
        let to_row = need.to_row.min(need.from_row.saturating_add(most));
        (run.next(1) == Some(need.from_row)).then_some((need.from_row, to_row))
    }

    fn issue_wave(&mut self, now_ns: u64, from_row: u64, to_row: u64, out: &mut Vec<Action>) {
        if self
            .throttle
            .try_take(now_ns, (to_row - from_row) * self.shape.row_bytes)
        {
            let run = self.run.as_mut().expect("whose wave it is");
            run.issue_to(to_row, false);
            out.push(Action::Wave { from_row, to_row });
        }
    }

    fn row_answered(&mut self, now_ns: u64, row: RowIndex, answer: RowAnswer, out: &mut Vec<Action>) {
        let run = self
            .run
            .as_mut()
            .expect("a run stays until its rows are answered");
        run.answered(row.0, answer);
        while let Some(covered) = run.cover() {
            self.holdback.failures = 0;
            if !covered.is_clean {
                self.throttle
                    .done((covered.to_row - covered.row) * self.shape.row_bytes);
            }
            // What an interrupted scrub still hears of is compared again when it goes on.
            if run.process == Process::Scrub
                && !run.abandoned
                && let Some(scrub) = &mut self.scrub
            {
                scrub.note(covered.row, covered.answer, out);
            }
        }
        if !run.abandoned
            && let Some((row, answer)) = run.rewind()
        {
            self.rewound(now_ns, row, answer, out);
        }
        self.end_expansion(out);
    }

    /// The last wave has been answered, and with it everything is durable.
    fn end_expansion(&mut self, out: &mut Vec<Action>) {
        let process = Process::Expansion;
        let is_over = |run: &Run| run.process == process && run.is_over() && run.is_quiet();
        if self.run.as_ref().is_some_and(is_over) {
            self.run = None;
            self.settled = Some((process, (0, 0), self.needs.generation));
            out.push(Action::Finished { process, wave: 0 });
        }
    }

    /// Everything that was under way has been answered, and `row` is to be done again: at once when the engine has
    /// room, or after a pause that is the longer the more often it failed.
    fn rewound(&mut self, now_ns: u64, row: u64, answer: RowAnswer, out: &mut Vec<Action>) {
        let run = self.run.as_mut().expect("its row was answered just now");
        let holdback = &mut self.holdback;
        if answer == RowAnswer::Refused {
            holdback.until_tick = true;
            return;
        }
        holdback.failures = holdback.failures.saturating_add(1);
        let doublings = (holdback.failures - 1).min(16);
        let pause = (RETRY_NS_MIN << doublings).min(RETRY_NS_MAX);
        holdback.retry_at_ns = now_ns.saturating_add(pause);
        if holdback.failures == FAILURES_STUCK {
            out.push(Action::Report(Report::Stuck {
                process: run.process,
                row: RowIndex(row),
            }));
            if run.process == Process::Scrub
                && let Some(scrub) = &mut self.scrub
            {
                run.pass_over();
                scrub.tally.unreadable += 1;
                scrub.next_row = row + 1;
                *holdback = Holdback::default();
            }
        }
    }

    /// Makes progress durable when it is time for that.
    fn persist(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let Some(run) = self
            .run
            .as_mut()
            .filter(|run| run.process != Process::Expansion && !run.abandoned && !run.is_flushing())
        else {
            return;
        };
        let progress = run.covered_row() - run.durable_row();
        let rests = (self.paused || self.stopping) && run.is_quiet();
        let is_due = now_ns >= self.persist_at_ns || progress >= PERSIST_ROWS || rests;
        // A run that had nothing to do from the start is flushed too: what it relies on may not be durable.
        if now_ns >= self.holdback.retry_at_ns && (run.is_over() || progress > 0 && is_due) {
            run.flush();
            self.persist_at_ns = now_ns.saturating_add(PERSIST_NS);
            out.push(Action::Flush {
                journal: run.process == Process::Rebuild && run.is_over(),
            });
        }
    }

    fn flushed(&mut self, now_ns: u64, done: bool, out: &mut Vec<Action>) {
        let run = self
            .run
            .as_mut()
            .expect("a run stays until its flush is answered");
        let progress = run.flushed(done);
        if run.abandoned {
            return;
        }
        let (process, identity) = (run.process, run.identity);
        let (_, wave) = identity;
        match progress {
            None => {
                self.holdback.retry_at_ns = now_ns.saturating_add(RETRY_NS_MIN);
                self.persist_at_ns = now_ns;
            }
            Some(next_row) if next_row < self.shape.rows => {
                out.push(Action::Progress {
                    process,
                    wave,
                    next_row,
                });
            }
            Some(_) => {
                self.run = None;
                self.settled = Some((process, identity, self.needs.generation));
                out.push(Action::Finished { process, wave });
                if process == Process::Scrub {
                    self.end_scrub(true);
                }
            }
        }
    }

    fn end_scrub(&mut self, completed: bool) {
        if let Some(scrub) = self.scrub.take() {
            self.last_scrub = Some(ScrubResult {
                mode: scrub.mode,
                completed,
                tally: scrub.tally,
            });
        }
    }
}

impl Scrub {
    /// A row was compared.
    fn note(&mut self, row: u64, answer: RowAnswer, out: &mut Vec<Action>) {
        self.tally.rows += 1;
        self.next_row = row + 1;
        match answer {
            RowAnswer::Mismatched(mismatch) => {
                self.tally.mismatches += 1;
                self.tally.repaired += u64::from(mismatch.repaired);
                self.tally.located += u64::from(mismatch.located);
                let row = RowIndex(row);
                out.push(Action::Report(Report::Mismatch { row, mismatch }));
            }
            RowAnswer::Done | RowAnswer::Failed | RowAnswer::Refused => {}
        }
    }
}
