//! One test for each threshold, and for what must never happen.

use super::*;

const MS: Nanos = NANOS_PER_MS;
const HOUR: Nanos = 3_600_000_000_000;

fn health() -> Health {
    Health::new(Policy::default())
}

fn slow(losable: bool) -> Event {
    Event::Window {
        p99: Some(900 * MS),
        reference: Some(MS),
        losable,
    }
}

fn quick() -> Event {
    Event::Window {
        p99: Some(2 * MS),
        reference: Some(MS),
        losable: true,
    }
}

#[test]
fn media_errors_are_repaired_up_to_the_threshold_and_then_evict() {
    let mut drive = health();
    let media = |now| Event::Media { now, losable: true };
    for _ in 0..50 {
        assert_eq!(drive.handle(media(MS)), Some(Decision::Repair));
        assert_eq!(drive.state(), State::Good);
    }
    let reason = Reason::MediaErrors { count: 51 };
    assert_eq!(drive.handle(media(MS)), Some(Decision::Evict(reason)));
    assert_eq!(drive.state(), State::Evicted(reason));
    assert_eq!(drive.handle(media(MS)), None, "it is told once");
    assert_eq!(drive.counts().media_errors, 52);
}

#[test]
fn media_errors_of_more_than_an_hour_ago_do_not_count() {
    let mut drive = health();
    for hour in 0..20 {
        for _ in 0..50 {
            let event = Event::Media {
                now: hour * HOUR,
                losable: true,
            };
            assert_eq!(drive.handle(event), Some(Decision::Repair), "hour {hour}");
        }
    }
}

#[test]
fn a_drive_with_media_errors_that_the_group_needs_is_repaired_on_and_suspected() {
    let mut drive = health();
    for _ in 0..200 {
        let event = Event::Media {
            now: 0,
            losable: false,
        };
        assert_eq!(drive.handle(event), Some(Decision::Repair));
    }
    assert!(matches!(
        drive.state(),
        State::Suspect(Reason::MediaErrors { count: 200 })
    ));
}

#[test]
fn a_block_that_cannot_be_rewritten_evicts_only_a_drive_that_can_be_spared() {
    let mut drive = health();
    let failed = |losable| Event::RepairFailed { losable };
    assert_eq!(
        drive.handle(failed(false)),
        Some(Decision::Suspect(Reason::RepairFailed))
    );
    assert_eq!(drive.handle(failed(false)), None, "told once");
    assert_eq!(
        drive.handle(failed(true)),
        Some(Decision::Evict(Reason::RepairFailed))
    );
    assert_eq!(drive.counts().repairs_failed, 3);
}

#[test]
fn more_io_errors_than_are_borne_in_an_hour_evict() {
    let mut drive = health();
    let errors = |count, now| Event::Errors {
        count,
        now,
        losable: true,
    };
    assert_eq!(drive.handle(errors(10, 0)), None);
    assert_eq!(
        drive.handle(errors(10, HOUR)),
        None,
        "the first ten are an hour old"
    );
    let reason = Reason::IoErrors { count: 11 };
    assert_eq!(drive.handle(errors(1, HOUR)), Some(Decision::Evict(reason)));
    assert_eq!(drive.counts().io_errors, 21);
}

#[test]
fn an_unanswered_command_quarantines_its_drive() {
    let mut drive = health();
    let waiting = |waited| Event::Waiting {
        waited,
        losable: true,
    };
    assert_eq!(drive.handle(waiting(2_499 * MS)), None);
    let reason = Reason::Hung { waited_ms: 2_500 };
    assert_eq!(drive.handle(waiting(2_500 * MS)), Some(Decision::Suspect(reason)));
    assert_eq!(drive.handle(waiting(4_999 * MS)), None, "suspected already");
    let reason = Reason::Hung { waited_ms: 5_000 };
    assert_eq!(
        drive.handle(waiting(5_000 * MS)),
        Some(Decision::Quarantine(reason))
    );
    assert_eq!(drive.counts().hangs, 1);
    assert_eq!(drive.handle(Event::Answered), None);
    assert!(drive.state().is_out(), "what it missed meanwhile, it still lacks");
}

#[test]
fn a_drive_that_answers_after_all_is_good_again() {
    let mut drive = health();
    let event = Event::Waiting {
        waited: 3_000 * MS,
        losable: true,
    };
    assert!(matches!(drive.handle(event), Some(Decision::Suspect(_))));
    drive.handle(Event::Answered);
    assert_eq!(drive.state(), State::Good);
}

#[test]
fn a_drive_that_the_group_needs_gets_more_patience_but_not_without_end() {
    let mut drive = health();
    let waiting = |waited| Event::Waiting {
        waited,
        losable: false,
    };
    drive.handle(waiting(2_500 * MS));
    assert_eq!(drive.handle(waiting(29_999 * MS)), None);
    let reason = Reason::Hung { waited_ms: 30_000 };
    assert_eq!(
        drive.handle(waiting(30_000 * MS)),
        Some(Decision::Quarantine(reason)),
        "hosts give up by then"
    );
}

/// What a drive was asked before it was evicted must end as well.
#[test]
fn a_drive_that_is_out_already_and_hangs_is_given_up_too() {
    let mut drive = health();
    let error = DriveError::Media;
    drive.handle(Event::Failed { error });
    let waiting = |waited| Event::Waiting {
        waited,
        losable: false,
    };
    assert_eq!(drive.handle(waiting(4_999 * MS)), None);
    let hung = Reason::Hung { waited_ms: 5_000 };
    assert_eq!(
        drive.handle(waiting(5_000 * MS)),
        Some(Decision::Quarantine(hung))
    );
    assert_eq!(
        drive.state(),
        State::Quarantined(Reason::Error(error)),
        "the first reason stays"
    );
}

#[test]
fn a_drive_that_is_slow_many_windows_in_a_row_is_evicted() {
    let mut drive = health();
    assert_eq!(drive.handle(slow(true)), None);
    assert_eq!(drive.handle(slow(true)), None);
    assert!(matches!(drive.handle(slow(true)), Some(Decision::Suspect(_))));
    assert_eq!(drive.handle(slow(true)), None);
    assert_eq!(drive.handle(slow(true)), None);
    assert!(matches!(
        drive.handle(slow(true)),
        Some(Decision::Evict(Reason::Slow { .. }))
    ));
}

#[test]
fn a_slow_drive_that_recovers_begins_again_from_nothing() {
    let mut drive = health();
    for _ in 0..50 {
        for _ in 0..5 {
            drive.handle(slow(true));
        }
        assert!(matches!(drive.state(), State::Suspect(_)));
        drive.handle(quick());
        assert_eq!(drive.state(), State::Good);
    }
}

/// Hysteresis: at the limit itself nothing changes either way.
#[test]
fn a_drive_at_the_limit_neither_recovers_nor_gets_worse() {
    let mut drive = health();
    for _ in 0..3 {
        drive.handle(slow(true));
    }
    for _ in 0..100 {
        let event = Event::Window {
            p99: Some(700 * MS),
            reference: Some(100 * MS),
            losable: true,
        };
        assert_eq!(drive.handle(event), None);
        assert!(matches!(drive.state(), State::Suspect(_)));
    }
}

#[test]
fn a_slow_drive_that_the_group_needs_is_never_evicted_for_it() {
    let mut drive = health();
    for _ in 0..1000 {
        let decision = drive.handle(slow(false));
        assert!(!matches!(
            decision,
            Some(Decision::Evict(_) | Decision::Quarantine(_))
        ));
    }
    let decision = drive.handle(slow(true));
    assert!(
        matches!(decision, Some(Decision::Evict(_))),
        "as soon as it can be spared"
    );
}

#[test]
fn all_drives_slow_at_once_evicts_none() {
    let mut drives: Vec<Health> = (0..5).map(|_| health()).collect();
    for _ in 0..100 {
        let mut latencies: Vec<Nanos> = (0..5).map(|at| (800 + at * 40) * MS).collect();
        let each = latencies.clone();
        let reference = reference(&mut latencies);
        for (drive, p99) in drives.iter_mut().zip(each) {
            let event = Event::Window {
                p99: Some(p99),
                reference,
                losable: true,
            };
            assert_eq!(drive.handle(event), None);
            assert_eq!(drive.state(), State::Good);
        }
    }
}

#[test]
fn a_latency_below_the_floor_is_never_slow() {
    let mut drive = health();
    for _ in 0..100 {
        let event = Event::Window {
            p99: Some(20 * MS),
            reference: Some(1_000),
            losable: true,
        };
        assert_eq!(drive.handle(event), None);
    }
    assert_eq!(drive.counts().slow_windows, 0);
}

#[test]
fn a_drive_without_others_or_without_commands_is_not_judged() {
    let mut drive = health();
    for (p99, reference) in [(Some(900 * MS), None), (None, Some(MS)), (None, None)] {
        for _ in 0..20 {
            let event = Event::Window {
                p99,
                reference,
                losable: true,
            };
            assert_eq!(drive.handle(event), None);
        }
    }
    assert_eq!(drive.state(), State::Good);
}

#[test]
fn a_drive_that_its_group_failed_keeps_the_first_reason_until_it_is_cleared() {
    let mut drive = health();
    drive.handle(Event::Failed {
        error: DriveError::Gone,
    });
    drive.handle(Event::Failed {
        error: DriveError::OutOfRange,
    });
    assert_eq!(drive.state(), State::Quarantined(Reason::Error(DriveError::Gone)));
    let none = [
        slow(true),
        Event::RepairFailed { losable: true },
        Event::Waiting {
            waited: 4_999 * MS,
            losable: true,
        },
        Event::Errors {
            count: 100,
            now: 0,
            losable: true,
        },
    ];
    for event in none {
        assert_eq!(drive.handle(event), None, "it is out already");
    }
    drive.handle(Event::Cleared);
    assert_eq!(drive.state(), State::Good);
    assert_eq!(drive.counts().io_errors, 100, "what was counted stays");
    let event = Event::Media {
        now: 0,
        losable: true,
    };
    assert_eq!(drive.handle(event), Some(Decision::Repair));
}
