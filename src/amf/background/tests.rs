//! Goal: background work does each row, in order, never more than it may, and forgets none whatever happens meanwhile.
//! Method: the machine against a made-up engine that answers as the test or a seed says, with a model of what is done.

use super::machine::Background;
use super::*;

const MS: u64 = 1_000_000;
const SHAPE: Shape = Shape {
    rows: 100,
    row_bytes: 256 << 10,
    strips_bytes: 320 << 10,
};
const HEALTHY: Needs = Needs {
    generation: 1,
    is_open: true,
    is_degraded: false,
    rebuild: None,
    sync_from: None,
    expansion: None,
};

fn sync(from_row: u64) -> Needs {
    Needs {
        sync_from: Some(from_row),
        ..HEALTHY
    }
}

fn rebuild(members: u32, wave: u64, from_row: u64) -> Needs {
    Needs {
        is_degraded: true,
        rebuild: Some(RebuildNeed {
            members,
            wave,
            from_row,
        }),
        ..HEALTHY
    }
}

/// The machine with what it asked for.
struct Bench {
    machine: Background,
    now_ns: u64,
    clean: fn(RowIndex) -> bool,
    running: Vec<RowCommand>,
    /// Waves of an expansion: first row and the one behind the last.
    waves: Vec<(u64, u64)>,
    /// Flushes under way.
    flushes: u32,
    /// Flushes that ever began.
    flushes_begun: u32,
    facts: Vec<Action>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self {
            machine: Background::new(SHAPE, limits),
            now_ns: 5,
            clean: |_| false,
            running: Vec::new(),
            waves: Vec::new(),
            flushes: 0,
            flushes_begun: 0,
            facts: Vec::new(),
        }
    }

    fn open(needs: Needs) -> Self {
        let mut bench = Self::new(Limits::default());
        bench.feed(Event::Needs(needs));
        bench
    }

    fn feed(&mut self, event: Event) {
        let mut out = Vec::new();
        self.machine.handle(self.now_ns, event, &self.clean, &mut out);
        for action in out {
            match action {
                Action::Run(command) => self.running.push(command),
                Action::Wave { from_row, to_row } => self.waves.push((from_row, to_row)),
                Action::Flush { .. } => {
                    self.flushes += 1;
                    self.flushes_begun += 1;
                }
                Action::Progress { .. } | Action::Finished { .. } | Action::Report(_) => {
                    self.facts.push(action)
                }
            }
        }
    }

    fn tick(&mut self, commands: u64, p99_ns: u64) {
        self.now_ns += 100 * MS;
        self.feed(Event::Tick {
            hosts: HostLoad { commands, p99_ns },
        });
    }

    fn answer(&mut self, at: usize, answer: RowAnswer) {
        let row = self.running.remove(at).row;
        self.feed(Event::RowAnswered { row, answer });
    }

    fn flushed(&mut self, done: bool) {
        assert!(self.flushes > 0, "a flush is under way");
        self.flushes -= 1;
        self.feed(Event::Flushed { done });
    }

    /// Answers everything as `answer` says until nothing is under way; says the rows in the order of their answers.
    fn drain(&mut self, mut answer: impl FnMut(RowCommand) -> RowAnswer) -> Vec<u64> {
        let mut rows = Vec::new();
        while !self.running.is_empty() || self.flushes > 0 {
            assert!(rows.len() < 10_000, "it comes to an end");
            if let Some(command) = self.running.first().copied() {
                rows.push(command.row.0);
                self.answer(0, answer(command));
            } else {
                self.flushed(true);
            }
        }
        rows
    }

    fn rows(&self) -> Vec<u64> {
        self.running.iter().map(|command| command.row.0).collect()
    }

    fn has(&self, fact: Action) -> bool {
        self.facts.contains(&fact)
    }
}

fn expansion(generation: u64, from_row: u64, to_row: u64) -> Needs {
    Needs {
        generation,
        expansion: Some(ExpansionNeed { from_row, to_row }),
        ..HEALTHY
    }
}

#[test]
fn an_expansion_goes_in_waves_of_which_each_waits_for_the_one_before() {
    let mut bench = Bench::open(expansion(1, 0, 1));
    assert_eq!(bench.waves, [(0, 1)]);
    bench.feed(Event::Needs(expansion(2, 1, 3)));
    bench.tick(0, 0);
    assert_eq!(bench.waves.len(), 1, "the first was not answered");
    let done = |row| Event::RowAnswered {
        row: RowIndex(row),
        answer: RowAnswer::Done,
    };
    bench.feed(done(0));
    assert_eq!(bench.waves[1..], [(1, 3)]);
    bench.feed(done(1));
    bench.tick(0, 0);
    assert_eq!(
        bench.waves.len(),
        2,
        "the group has not said yet that it is durable"
    );
    bench.feed(Event::Needs(expansion(3, 3, 100)));
    assert_eq!(bench.waves[2..], [(3, 100)]);
    assert!(!bench.machine.is_idle());
    bench.feed(done(3));
    assert!(bench.has(Action::Finished {
        process: Process::Expansion,
        wave: 0
    }));
    bench.feed(Event::Needs(HEALTHY));
    assert!(bench.waves.len() == 3 && bench.flushes_begun == 0 && bench.machine.is_idle());
    let interrupted = |fact: &Action| matches!(fact, Action::Report(Report::Interrupted { .. }));
    assert!(!bench.facts.iter().any(interrupted));
}

/// B4: hosts wait for no more than a small wave.
#[test]
fn waves_are_small_beside_hosts_paused_by_operators_and_tried_again() {
    let mut bench = Bench::open(HEALTHY);
    bench.tick(10, 5);
    bench.feed(Event::Needs(expansion(1, 0, 64)));
    assert_eq!(bench.waves, [(0, WAVE_ROWS_BESIDE_HOSTS)]);
    let failed = Event::RowAnswered {
        row: RowIndex(0),
        answer: RowAnswer::Failed,
    };
    bench.feed(failed);
    assert_eq!(bench.waves.len(), 1, "not at once");
    bench.tick(10, 5);
    bench.tick(10, 5);
    assert_eq!(bench.waves[1..], [(0, WAVE_ROWS_BESIDE_HOSTS)]);
    bench.feed(Event::Pause);
    bench.feed(failed);
    bench.tick(10, 5);
    bench.tick(10, 5);
    assert_eq!(bench.waves.len(), 2);
    bench.feed(Event::Resume);
    assert_eq!(bench.waves.len(), 3);
}

/// H36.
#[test]
fn an_expansion_gives_way_to_a_rebuild_and_goes_before_a_scrub() {
    let mut bench = Bench::open(HEALTHY);
    bench.machine.begin_scrub(ScrubMode::Check, 0).unwrap();
    bench.feed(Event::Needs(expansion(1, 4, 6)));
    assert_eq!(bench.waves, [(4, 6)]);
    let need = Needs {
        expansion: expansion(2, 4, 6).expansion,
        ..rebuild(1, 9, 0)
    };
    bench.feed(Event::Needs(need));
    assert!(bench.rows().is_empty(), "the wave has not ended");
    bench.feed(Event::RowAnswered {
        row: RowIndex(4),
        answer: RowAnswer::Failed,
    });
    assert!(!bench.rows().is_empty());
    bench.drain(|command| {
        assert_eq!(command.process, Process::Rebuild);
        RowAnswer::Done
    });
    let degraded = Needs {
        is_degraded: true,
        ..expansion(3, 4, 6)
    };
    bench.feed(Event::Needs(degraded));
    assert_eq!(bench.waves.len(), 1, "while a member is lost no wave begins");
    bench.feed(Event::Needs(expansion(4, 4, 6)));
    assert_eq!(bench.waves.len(), 2);
    assert!(bench.rows().is_empty(), "a scrub waits");
}

#[test]
fn a_group_that_needs_nothing_is_left_alone() {
    let mut bench = Bench::open(HEALTHY);
    bench.tick(0, 0);
    assert!(bench.running.is_empty() && bench.facts.is_empty() && bench.machine.is_idle());
    assert_eq!(bench.machine.status(), None);
}

#[test]
fn nothing_begins_before_the_group_is_open() {
    let mut bench = Bench::open(Needs {
        is_open: false,
        ..sync(0)
    });
    bench.tick(0, 0);
    assert!(bench.running.is_empty());
    bench.feed(Event::Needs(sync(0)));
    assert!(!bench.running.is_empty());
}

/// Goal: the first synchronisation does each row once, from where it stood, and says that it is done after a flush.
#[test]
fn sync_does_every_row_once_in_order_and_flushes_before_it_is_done() {
    let mut bench = Bench::open(sync(40));
    assert!(bench.has(Action::Report(Report::Begun {
        process: Process::Sync,
        from_row: 40
    })));
    let rows = bench.drain(|command| {
        assert_eq!(
            (command.process, command.repair, command.is_clean),
            (Process::Sync, false, false)
        );
        RowAnswer::Done
    });
    assert_eq!(rows, (40..100).collect::<Vec<_>>());
    assert_eq!(
        bench.facts.last(),
        Some(&Action::Finished {
            process: Process::Sync,
            wave: 0
        })
    );
    bench.feed(Event::Needs(sync(40)));
    assert!(
        bench.running.is_empty(),
        "the group has not yet made the end durable"
    );
    bench.feed(Event::Needs(Needs {
        generation: 2,
        ..HEALTHY
    }));
    assert!(bench.machine.is_idle() && bench.machine.status().is_none());
}

#[test]
fn what_is_due_in_a_later_generation_runs_again() {
    let mut bench = Bench::open(sync(90));
    bench.drain(|_| RowAnswer::Done);
    bench.feed(Event::Needs(Needs {
        generation: 2,
        ..sync(95)
    }));
    assert_eq!(bench.rows(), [95, 96, 97, 98, 99]);
}

#[test]
fn a_run_with_nothing_left_is_flushed_and_done() {
    let mut bench = Bench::open(rebuild(1, 0, 100));
    assert!(bench.running.is_empty());
    bench.flushed(true);
    assert!(bench.has(Action::Finished {
        process: Process::Rebuild,
        wave: 0
    }));
}

/// CHECKLIST B4: hosts find few rows locked, and fewer still where strips are long.
#[test]
fn b4_the_window_is_small_beside_hosts_and_by_memory() {
    let mut bench = Bench::open(sync(0));
    assert_eq!(bench.rows().len(), 16);
    bench.tick(1, 10);
    while bench.running.len() > 4 {
        bench.answer(0, RowAnswer::Done);
    }
    bench.answer(0, RowAnswer::Done);
    assert_eq!(bench.running.len(), 4, "as one ends, one begins");
    let long = Shape {
        strips_bytes: 32 << 20,
        ..SHAPE
    };
    assert_eq!(
        (long.window(false), long.window(true)),
        (1, 1),
        "one row always fits"
    );
    let middle = Shape {
        strips_bytes: 6 << 20,
        ..SHAPE
    };
    assert_eq!((middle.window(false), middle.window(true)), (2, 2));
}

/// PROTOCOL H34: progress covers only rows that were answered before the flush began, and all rows before them.
#[test]
fn h34_progress_never_passes_an_unanswered_row() {
    let mut bench = Bench::open(sync(0));
    for _ in 0..15 {
        bench.answer(1, RowAnswer::Done);
    }
    bench.now_ns += 11_000 * MS;
    bench.tick(0, 0);
    assert_eq!(bench.flushes, 0, "row 0 is not done: there is no progress");
    bench.answer(0, RowAnswer::Done);
    assert_eq!(bench.flushes, 1);
    bench.drain(|_| RowAnswer::Done);
    let first = bench
        .facts
        .iter()
        .find(|fact| matches!(fact, Action::Progress { .. }));
    assert_eq!(
        first,
        Some(&Action::Progress {
            process: Process::Sync,
            wave: 0,
            next_row: 16
        }),
        "rows that were answered while the flush ran are not in it"
    );
}

#[test]
fn a_failed_flush_is_tried_again() {
    let mut bench = Bench::open(sync(99));
    bench.answer(0, RowAnswer::Done);
    bench.flushed(false);
    assert_eq!(bench.flushes, 0, "not at once");
    bench.tick(0, 0);
    bench.flushed(true);
    assert!(bench.has(Action::Finished {
        process: Process::Sync,
        wave: 0
    }));
}

#[test]
fn a_failed_row_is_done_again_with_those_behind_it_after_a_pause() {
    let mut bench = Bench::open(sync(0));
    bench.answer(3, RowAnswer::Failed);
    bench.drain(|_| RowAnswer::Done);
    assert_eq!(bench.machine.status().map(|status| status.rows_done), Some(3));
    assert_eq!(
        bench.machine.status().map(|status| status.state),
        Some(RunState::Retrying)
    );
    bench.feed(Event::Wake);
    assert!(bench.running.is_empty(), "a pause comes first");
    bench.tick(0, 0);
    assert_eq!(bench.rows()[..3], [3, 4, 5]);
}

#[test]
fn pauses_after_failures_grow_and_other_members_end_them() {
    let mut bench = Bench::open(rebuild(1, 0, 0));
    let mut waits = Vec::new();
    for _ in 0..9 {
        while !bench.running.is_empty() {
            bench.answer(0, RowAnswer::Failed);
        }
        let from = bench.now_ns;
        while bench.running.is_empty() {
            bench.tick(0, 0);
        }
        waits.push((bench.now_ns - from) / (100 * MS));
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 50, 50, 50]);
    let stuck = Action::Report(Report::Stuck {
        process: Process::Rebuild,
        row: RowIndex(0),
    });
    assert_eq!(
        bench.facts.iter().filter(|fact| **fact == stuck).count(),
        1,
        "said once"
    );
    while !bench.running.is_empty() {
        bench.answer(0, RowAnswer::Failed);
    }
    bench.feed(Event::Needs(Needs {
        generation: 2,
        ..rebuild(1, 0, 0)
    }));
    assert_eq!(bench.rows()[0], 0, "the change may have helped");
}

/// A full engine is no failure: the rows come again with the next tick, and none is counted against the run.
#[test]
fn rows_that_the_engine_refuses_come_with_the_next_tick() {
    let mut bench = Bench::open(sync(0));
    for _ in 0..10 {
        bench.answer(6, RowAnswer::Refused);
    }
    assert_eq!(bench.drain(|_| RowAnswer::Done), [0, 1, 2, 3, 4, 5]);
    assert_eq!(
        bench.machine.status().map(|status| status.state),
        Some(RunState::Running)
    );
    bench.tick(0, 0);
    assert_eq!(bench.rows()[0], 6);
    let rest = bench.drain(|_| RowAnswer::Done);
    assert_eq!(rest, (6..100).collect::<Vec<_>>());
}

/// CHECKLIST F1: a rebuild comes before all else; what it displaced goes on afterwards from what is durable.
#[test]
fn f1_rebuild_displaces_sync_and_sync_displaces_scrub() {
    let mut bench = Bench::open(HEALTHY);
    bench.machine.begin_scrub(ScrubMode::Repair, 0).expect("healthy");
    bench.feed(Event::Wake);
    assert!(
        bench
            .running
            .iter()
            .all(|command| command.process == Process::Scrub && command.repair)
    );
    bench.answer(0, RowAnswer::Done);
    bench.feed(Event::Needs(Needs {
        sync_from: Some(50),
        ..rebuild(0b10, 0, 7)
    }));
    assert!(bench.has(Action::Report(Report::Interrupted {
        process: Process::Scrub,
        next_row: 1
    })));
    assert!(
        bench
            .running
            .iter()
            .all(|command| command.process == Process::Scrub),
        "it drains first"
    );
    let first = bench.running.len();
    let order = bench.drain(|_| RowAnswer::Done);
    assert_eq!(
        order[first..],
        (7..100).collect::<Vec<_>>(),
        "then the rebuild, and nothing beside it"
    );
    bench.feed(Event::Needs(Needs {
        generation: 2,
        ..sync(50)
    }));
    assert_eq!(bench.drain(|_| RowAnswer::Done), (50..100).collect::<Vec<_>>());
    bench.feed(Event::Needs(Needs {
        generation: 3,
        ..HEALTHY
    }));
    assert_eq!(
        bench.drain(|_| RowAnswer::Done),
        (1..100).collect::<Vec<_>>(),
        "the scrub goes on"
    );
    let result = bench.machine.last_scrub().expect("it has ended");
    assert!(result.completed);
    assert_eq!(
        result.tally.rows, 100,
        "each row counts once although some were read twice"
    );
}

/// Goal: strips of the drive before are not taken for strips of this one.
#[test]
fn another_drive_in_the_same_seat_is_rebuilt_from_the_start() {
    let mut bench = Bench::open(rebuild(0b1, 7, 0));
    for _ in 0..20 {
        bench.answer(0, RowAnswer::Done);
    }
    bench.feed(Event::Needs(Needs {
        generation: 2,
        ..rebuild(0b1, 8, 0)
    }));
    let left = bench.running.len();
    assert_eq!(
        bench.drain(|_| RowAnswer::Done)[left..],
        (0..100).collect::<Vec<_>>()
    );
}

/// Otherwise whoever keeps the timer would wake for nothing, as often as it can, until the pause is over.
#[test]
fn a_pause_after_a_failure_asks_for_no_wake_up_before_its_end() {
    let mut bench = Bench::new(Limits {
        rate: Some(16 << 20),
        latency_target_ns: None,
    });
    bench.feed(Event::Needs(sync(0)));
    bench.drain(|_| RowAnswer::Failed);
    let paid_at = bench.now_ns + 20 * MS;
    assert_eq!(bench.machine.wake_at_ns(), Some(bench.now_ns + 100 * MS));
    bench.now_ns = paid_at;
    bench.feed(Event::Wake);
    assert!(
        bench.running.is_empty(),
        "the debt is paid, but the pause is not over"
    );
    assert_eq!(bench.machine.wake_at_ns(), Some(paid_at + 80 * MS));
    bench.now_ns = paid_at + 80 * MS;
    bench.feed(Event::Wake);
    assert_eq!(bench.rows().first(), Some(&0), "it goes on where it failed");
}

/// A generation is known before the rebuild that it brings: a rebuild that ends in between says nothing about that one.
#[test]
fn a_rebuild_that_ends_in_the_generation_of_the_next_one_does_not_stand_for_it() {
    let mut bench = Bench::open(rebuild(0b1, 7, 90));
    bench.feed(Event::Needs(Needs {
        generation: 2,
        ..rebuild(0b1, 7, 90)
    }));
    bench.drain(|_| RowAnswer::Done);
    bench.feed(Event::Needs(Needs {
        generation: 2,
        ..rebuild(0b11, 8, 0)
    }));
    assert_eq!(bench.drain(|_| RowAnswer::Done), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_rebuild_goes_on_when_its_own_progress_becomes_durable() {
    let mut bench = Bench::open(rebuild(0b1, 7, 0));
    for _ in 0..20 {
        bench.answer(0, RowAnswer::Done);
    }
    bench.feed(Event::Needs(Needs {
        generation: 2,
        ..rebuild(0b1, 7, 10)
    }));
    assert_eq!(bench.drain(|_| RowAnswer::Done), (20..100).collect::<Vec<_>>());
}

/// Goal: a member that comes back is brought up to date for what it missed, at no cost for the rest.
#[test]
fn partial_rebuild_marks_clean_rows_and_does_not_pay_for_them() {
    let mut bench = Bench::new(Limits {
        rate: Some(SHAPE.row_bytes), // One row a second.
        latency_target_ns: None,
    });
    bench.clean = |row| !row.0.is_multiple_of(50);
    bench.feed(Event::Needs(rebuild(0b1, 0, 0)));
    let mut dirty = Vec::new();
    bench.drain(|command| {
        if !command.is_clean {
            dirty.push(command.row.0);
        }
        RowAnswer::Done
    });
    assert_eq!(dirty, [0], "the second one has to wait for its second");
    assert_eq!(bench.machine.status().map(|status| status.rows_done), Some(50));
    let wake = bench.machine.wake_at_ns().expect("the debt is paid some day");
    assert!(wake.abs_diff(bench.now_ns + 1000 * MS) <= 1);
    bench.now_ns = wake;
    bench.feed(Event::Wake);
    assert_eq!(bench.rows()[0], 50);
}

/// CHECKLIST D6: what a scrub finds is counted once, located where the level can tell, and reported row by row.
#[test]
fn d6_scrub_counts_what_it_finds() {
    let mut bench = Bench::open(HEALTHY);
    bench.machine.begin_scrub(ScrubMode::Check, 0).expect("healthy");
    assert_eq!(
        bench.machine.begin_scrub(ScrubMode::Check, 0),
        Err(ScrubRefusal::GoingOn)
    );
    bench.feed(Event::Wake);
    let located = Mismatch {
        members: 0b1000,
        located: true,
        repaired: true,
    };
    let unknown = Mismatch {
        members: 0b1,
        located: false,
        repaired: false,
    };
    bench.drain(|command| {
        assert!(!command.repair);
        match command.row.0 {
            7 => RowAnswer::Mismatched(located),
            8 => RowAnswer::Mismatched(unknown),
            _ => RowAnswer::Done,
        }
    });
    assert!(bench.has(Action::Report(Report::Mismatch {
        row: RowIndex(7),
        mismatch: located
    })));
    assert_eq!(
        bench.machine.last_scrub(),
        Some(ScrubResult {
            mode: ScrubMode::Check,
            completed: true,
            tally: ScrubTally {
                rows: 100,
                mismatches: 2,
                repaired: 1,
                located: 1,
                unreadable: 0
            }
        })
    );
    assert!(bench.has(Action::Finished {
        process: Process::Scrub,
        wave: 0
    }));
}

#[test]
fn a_scrub_passes_over_a_row_that_cannot_be_read() {
    let mut bench = Bench::open(HEALTHY);
    bench.machine.begin_scrub(ScrubMode::Repair, 0).expect("healthy");
    bench.feed(Event::Wake);
    let bad = |command: RowCommand| match command.row.0 {
        30 | 99 => RowAnswer::Failed,
        _ => RowAnswer::Done,
    };
    for _ in 0..100 {
        bench.drain(bad);
        bench.tick(0, 0);
    }
    let tally = bench.machine.last_scrub().expect("it came to its end").tally;
    assert_eq!((tally.rows, tally.unreadable, tally.mismatches), (98, 2, 0));
}

#[test]
fn a_scrub_needs_a_healthy_group() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(
        bench.machine.begin_scrub(ScrubMode::Check, 0),
        Err(ScrubRefusal::NotOpen)
    );
    bench.feed(Event::Needs(Needs {
        is_degraded: true,
        ..HEALTHY
    }));
    assert_eq!(
        bench.machine.begin_scrub(ScrubMode::Check, 0),
        Err(ScrubRefusal::Degraded)
    );
    bench.feed(Event::Needs(HEALTHY));
    bench.machine.begin_scrub(ScrubMode::Check, 0).expect("healthy");
    bench.feed(Event::Stop);
    assert_eq!(
        bench.machine.begin_scrub(ScrubMode::Check, 0),
        Err(ScrubRefusal::GoingOn)
    );
}

/// Goal: a scrub that an operator ends is over, and answers that still come do not count for the next one.
#[test]
fn an_ended_scrub_leaves_its_tally_and_nothing_else() {
    let mut bench = Bench::open(HEALTHY);
    bench.machine.begin_scrub(ScrubMode::Check, 0).expect("healthy");
    bench.feed(Event::Wake);
    bench.answer(0, RowAnswer::Done);
    bench.feed(Event::EndScrub);
    let result = bench.machine.last_scrub().expect("it has ended");
    assert_eq!((result.completed, result.tally.rows), (false, 1));
    bench
        .machine
        .begin_scrub(ScrubMode::Repair, 0)
        .expect("none is going on");
    while bench.running.iter().any(|command| !command.repair) {
        bench.answer(0, RowAnswer::Done);
    }
    assert_eq!(
        bench.machine.scrub(),
        Some((ScrubMode::Repair, ScrubTally::default()))
    );
    assert_eq!(bench.rows()[0], 0, "the second one begins at the start");
}

#[test]
fn pause_begins_nothing_more_and_keeps_what_is_done() {
    let mut bench = Bench::open(sync(0));
    bench.feed(Event::Pause);
    let rows = bench.drain(|_| RowAnswer::Done);
    assert_eq!(rows.len(), 16, "what was under way ends");
    assert!(bench.has(Action::Progress {
        process: Process::Sync,
        wave: 0,
        next_row: 16
    }));
    bench.tick(0, 0);
    assert!(bench.running.is_empty() && bench.machine.is_idle() && bench.machine.is_paused());
    assert_eq!(
        bench.machine.status().map(|status| status.state),
        Some(RunState::Paused)
    );
    bench.feed(Event::Resume);
    assert_eq!(bench.rows()[0], 16);
}

#[test]
fn stop_drains_and_keeps_what_is_done() {
    let mut bench = Bench::open(sync(0));
    bench.feed(Event::Stop);
    assert!(!bench.machine.is_idle());
    bench.drain(|_| RowAnswer::Done);
    assert!(bench.machine.is_idle());
    assert!(bench.has(Action::Progress {
        process: Process::Sync,
        wave: 0,
        next_row: 16
    }));
    bench.feed(Event::Needs(rebuild(1, 0, 0)));
    bench.tick(0, 0);
    assert!(bench.running.is_empty(), "nothing begins any more");
}

#[test]
fn status_tells_how_far_how_fast_and_how_long() {
    let mut bench = Bench::open(sync(0));
    for _ in 0..50 {
        bench.answer(0, RowAnswer::Done);
    }
    assert_eq!(
        bench.machine.status().and_then(|status| status.seconds_left),
        None,
        "nothing measured"
    );
    bench.tick(0, 0);
    let status = bench.machine.status().expect("it runs");
    assert_eq!(
        (status.rows_done, status.rows, status.process),
        (50, 100, Process::Sync)
    );
    assert_eq!(status.bytes_per_second, 50 * SHAPE.row_bytes * 10);
    assert_eq!((status.seconds_left, status.rate_limit), (Some(1), None));
}

#[test]
fn limits_hold_from_the_next_row_on() {
    let mut bench = Bench::open(sync(0));
    bench.feed(Event::Limits(Limits {
        rate: Some(10 * SHAPE.row_bytes),
        latency_target_ns: None,
    }));
    bench.drain(|_| RowAnswer::Done);
    let done = bench.machine.status().map(|status| status.rows_done);
    assert_eq!(done, Some(17), "the window, and one row on credit");
    bench.tick(0, 0);
    assert_eq!(bench.rows(), [17]);
}

mod random {
    use proptest::prelude::*;

    use super::*;

    /// What is known to be done, row by row: the number of the flush that it was answered before.
    struct Model {
        done: [Option<u32>; 100],
        flush: u32,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Answer(usize, RowAnswer),
        Flushed(bool),
        Tick(u64),
        Pause,
        Resume,
        Scrub,
        Members(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => (any::<usize>(), 0..20_u8).prop_map(|(at, kind)| Step::Answer(at, match kind {
                0 => RowAnswer::Failed,
                1 => RowAnswer::Refused,
                _ => RowAnswer::Done,
            })),
            3 => (0..5_u8).prop_map(|kind| Step::Flushed(kind > 0)),
            3 => (0..3_u64).prop_map(Step::Tick),
            1 => Just(Step::Pause),
            2 => Just(Step::Resume),
            1 => Just(Step::Scrub),
            1 => any::<u8>().prop_map(Step::Members),
        ]
    }

    impl Model {
        /// A run begins: what is before its first row is settled, the rest has to be done in this run.
        fn begin(&mut self, from_row: u64) {
            for (row, done) in (0..).zip(&mut self.done) {
                *done = (row < from_row).then_some(0);
            }
        }

        /// The rows of the run are done, and were before the flush of this progress began.
        fn check(&self, upto: u64) {
            for row in 0..upto {
                let at = usize::try_from(row).expect("few rows");
                let done = self.done[at].expect("progress covers a row that was not done");
                assert!(done < self.flush, "row {row} was answered after the flush began");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Goal: whatever fails, changes or is asked for, progress is never ahead of what is done and flushed, and
        /// once things calm down everything gets done (I12).
        /// Method: random answers and changes against a model, then a calm end.
        #[test]
        fn i12_progress_is_never_ahead_and_work_ends(steps in prop::collection::vec(step(), 0..600)) {
            let mut bench = Bench::new(Limits::default());
            let mut model = Model { done: [None; 100], flush: 0 };
            let mut needs = HEALTHY;
            bench.feed(Event::Needs(needs));
            for step in steps {
                let facts = bench.facts.len();
                match step {
                    Step::Answer(at, answer) if !bench.running.is_empty() => {
                        let at = at % bench.running.len();
                        if answer == RowAnswer::Done {
                            let row = usize::try_from(bench.running[at].row.0).expect("few rows");
                            model.done[row] = Some(model.flush);
                        }
                        bench.answer(at, answer);
                    }
                    Step::Flushed(done) if bench.flushes > 0 => bench.flushed(done),
                    Step::Answer(..) | Step::Flushed(_) => {}
                    Step::Tick(commands) => bench.tick(commands, 1000),
                    Step::Pause => bench.feed(Event::Pause),
                    Step::Resume => bench.feed(Event::Resume),
                    Step::Scrub => drop(bench.machine.begin_scrub(ScrubMode::Check, 0)),
                    Step::Members(kind) => {
                        needs = Needs { generation: needs.generation + 1, ..match kind % 4 {
                            0 => HEALTHY,
                            1 => sync(0),
                            2 => rebuild(1, needs.generation, 0),
                            _ => rebuild(2, 0, 0),
                        }};
                        bench.feed(Event::Needs(needs));
                    }
                }
                prop_assert!(bench.flushes <= 1 && bench.running.len() <= 16);
                for at in facts..bench.facts.len() {
                    match bench.facts[at] {
                        Action::Report(Report::Begun { from_row, .. }) => model.begin(from_row),
                        Action::Progress { next_row, .. } => model.check(next_row),
                        Action::Finished { .. } => model.check(100),
                        Action::Report(_) | Action::Run(_) | Action::Wave { .. } | Action::Flush { .. } => {}
                    }
                }
                model.flush = bench.flushes_begun;
            }
            bench.feed(Event::Resume);
            bench.feed(Event::Needs(Needs { generation: needs.generation + 1, ..rebuild(4, 99, 0) }));
            bench.facts.clear();
            for _ in 0..100 {
                bench.drain(|_| RowAnswer::Done);
                bench.tick(0, 0);
            }
            let end = Action::Finished { process: Process::Rebuild, wave: 99 };
            prop_assert!(bench.has(end));
        }
    }
}
