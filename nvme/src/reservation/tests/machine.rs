//! The order of things: durable first, enforced next, completed last, one command at a time.

use super::*;
use crate::reservation::machine::{Action, Ask, WAITING_MAX};
use crate::status::Status;

type Out = Vec<Action<u32>>;

fn ask(machine: &mut Machine<u32>, name: u32, number: u8, command: Command) -> Out {
    let mut out = Vec::new();
    let ask = Ask {
        name,
        host: host(number),
        host_name: HostName(u128::from(number)),
        command,
    };
    machine.ask(ask, &mut out);
    out
}

fn persisted(machine: &mut Machine<u32>, succeeded: bool) -> Out {
    let mut out = Vec::new();
    machine.persisted(succeeded, &mut out);
    out
}

fn enforced(machine: &mut Machine<u32>) -> Out {
    let mut out = Vec::new();
    machine.enforced(&mut out);
    out
}

fn done(name: u32) -> Action<u32> {
    Action::Complete {
        name,
        status: Status::SUCCESS,
        data: Vec::new(),
    }
}

/// Two registered hosts; the first holds a reservation of all registrants.
fn shared(can_persist: bool) -> Machine<u32> {
    let mut machine = Machine::new(can_persist, None);
    assert_eq!(ask(&mut machine, 1, 1, register(1)), [done(1)]);
    assert_eq!(ask(&mut machine, 2, 2, register(2)), [done(2)]);
    let out = ask(&mut machine, 3, 1, acquire(1, Kind::WriteExclusiveAllRegistrants));
    assert!(matches!(&out[..], [Action::Enforce { rules, abort, bars: false }]
        if rules.hosts == [host(1), host(2)] && abort.is_empty()));
    assert_eq!(enforced(&mut machine), [done(3)]);
    machine
}

#[test]
fn preempt_and_abort_completes_only_when_the_cores_have_drained() {
    let mut machine = shared(false);
    let kind = Kind::WriteExclusiveAllRegistrants;
    let out = ask(&mut machine, 4, 1, preempt(1, key(2), kind));
    let [Action::Enforce { rules, abort, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((&rules.hosts[..], &abort[..]), (&[host(1)][..], &[host(2)][..]));
    assert_eq!(ask(&mut machine, 5, 2, REPORT), [], "waits behind the drain");
    assert_eq!(
        ask(&mut machine, 6, 2, preempt(2, key(1), kind)),
        [],
        "waits as well"
    );
    let out = enforced(&mut machine);
    let notice = Notice::RegistrationPreempted;
    assert_eq!(
        out[..2],
        [
            Action::Notify {
                host: host(2),
                notice
            },
            done(4)
        ]
    );
    let [
        _,
        _,
        Action::Complete { name: 5, data, .. },
        Action::Complete { name: 6, status, .. },
    ] = &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!(Report::parse(data, true), Some(machine.state().report()));
    assert!(status.same_code(Status::RESERVATION_CONFLICT));
}

#[test]
fn nothing_is_told_or_enforced_before_it_is_durable() {
    let mut machine = Machine::new(true, None);
    let on = Command::Register {
        new: key(1),
        persistence: Persistence::On,
    };
    let out = ask(&mut machine, 1, 1, on);
    let [Action::Persist(state)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((state.persists, state.registrants.len()), (true, 1));
    assert_eq!(machine.state(), &State::default());
    assert_eq!(persisted(&mut machine, true), [done(1)]);
    let out = ask(&mut machine, 2, 1, acquire(1, Kind::WriteExclusive));
    assert!(matches!(&out[..], [Action::Persist(state)] if state.reservation.is_some()));
    let out = persisted(&mut machine, true);
    assert!(matches!(&out[..], [Action::Enforce { .. }]));
    assert_eq!(enforced(&mut machine), [done(2)]);
    assert!(matches!(
        ask(&mut machine, 3, 1, REPORT)[..],
        [Action::Complete { .. }]
    ));
}

#[test]
fn a_state_that_does_not_persist_is_not_written() {
    let mut machine = shared(true);
    let out = ask(&mut machine, 4, 1, Command::SetPersistence(true));
    assert!(matches!(&out[..], [Action::Persist(state)] if state.registrants.len() == 2));
    assert_eq!(persisted(&mut machine, true), [done(4)]);
    let out = ask(&mut machine, 5, 1, Command::SetPersistence(false));
    assert_eq!(
        out,
        [Action::Persist(State::default())],
        "nothing is left to find"
    );
    assert_eq!(persisted(&mut machine, true), [done(5)]);
    assert_eq!(ask(&mut machine, 6, 2, unregister(2)).len(), 1);
}

#[test]
fn a_failed_write_fails_the_command_and_is_repeated_before_the_next_answer() {
    let mut machine = shared(true);
    ask(&mut machine, 4, 1, Command::SetPersistence(true));
    persisted(&mut machine, true);
    let out = ask(&mut machine, 5, 2, unregister(2));
    assert!(matches!(&out[..], [Action::Persist(state)] if state.registrants.len() == 1));
    let out = persisted(&mut machine, false);
    assert!(matches!(&out[..], [Action::Complete { name: 5, status, .. }] if !status.is_success()));
    assert_eq!(machine.state().registrants.len(), 2, "as if it had not come");
    let out = ask(&mut machine, 6, 1, REPORT);
    assert!(
        matches!(&out[..], [Action::Persist(state)] if state.registrants.len() == 2),
        "even a report waits until it is known what would be found"
    );
    let out = persisted(&mut machine, true);
    assert!(matches!(&out[..], [Action::Complete { name: 6, .. }]));
    assert!(matches!(
        &ask(&mut machine, 7, 1, REPORT)[..],
        [Action::Complete { .. }]
    ));
}

#[test]
fn what_was_kept_is_where_it_starts() {
    let state = State {
        persists: true,
        ..shared(true).state().clone()
    };
    let mut machine = Machine::new(true, Some(state.clone()));
    assert_eq!(machine.state(), &state);
    assert!(!machine.state().rules().is_open());
    let out = ask(&mut machine, 1, 3, register(3));
    assert!(matches!(&out[..], [Action::Persist(state)] if state.registrants.len() == 3));
}

#[test]
fn waiting_commands_are_bounded_and_go_with_their_connection() {
    let mut machine = shared(false);
    let kind = Kind::WriteExclusiveAllRegistrants;
    ask(&mut machine, 4, 1, preempt(1, key(2), kind));
    let most = u32::try_from(WAITING_MAX).unwrap();
    for name in 0..most {
        assert_eq!(ask(&mut machine, 100 + name, 1, REPORT), []);
    }
    let out = ask(&mut machine, 9999, 1, REPORT);
    assert!(
        matches!(&out[..], [Action::Complete { name: 9999, status, .. }] if *status == Status::COMMAND_INTERRUPTED)
    );
    machine.withdraw(|name| *name >= 101);
    let names: Vec<u32> = enforced(&mut machine)
        .iter()
        .filter_map(|action| match action {
            Action::Complete { name, .. } => Some(*name),
            Action::Persist(_) | Action::Enforce { .. } | Action::Notify { .. } => None,
        })
        .collect();
    assert_eq!(names, [4, 100]);
}

#[test]
fn what_is_under_way_goes_on_without_its_connection_and_completes_nothing() {
    let mut machine = shared(false);
    let kind = Kind::WriteExclusiveAllRegistrants;
    ask(&mut machine, 4, 1, preempt(1, key(2), kind));
    machine.withdraw(|_| true);
    let notice = Notice::RegistrationPreempted;
    assert_eq!(
        enforced(&mut machine),
        [Action::Notify {
            host: host(2),
            notice
        }]
    );
    assert_eq!(machine.state().registrants.len(), 1);
}

#[test]
fn the_end_of_a_namespace_completes_everything() {
    let mut machine = shared(false);
    let kind = Kind::WriteExclusiveAllRegistrants;
    ask(&mut machine, 4, 1, preempt(1, key(2), kind));
    ask(&mut machine, 5, 1, REPORT);
    let mut out = Vec::new();
    machine.end(&mut out);
    assert_eq!(out.len(), 2);
    assert!(out.iter().all(|action| matches!(action,
        Action::Complete { status, .. } if status.same_code(Status::INVALID_NAMESPACE_OR_FORMAT))));
    assert!(!machine.is_busy());
}

fn expel(number: u8) -> Command {
    Command::Expel {
        name: HostName(u128::from(number)),
    }
}

#[test]
fn a_claim_is_durable_and_then_enforced_whether_or_not_reservations_persist() {
    let mut machine = Machine::new(true, None);
    let out = ask(&mut machine, 1, 1, expel(1));
    let [Action::Persist(state)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((state.persists, state.admission.claims.len()), (false, 1));
    let out = persisted(&mut machine, true);
    assert!(matches!(&out[..], [Action::Enforce { rules, abort, bars: true }]
        if abort.is_empty() && rules.admission.claims.len() == 1));
    assert_eq!(enforced(&mut machine), [done(1)]);
    assert_eq!(ask(&mut machine, 2, 1, expel(1)), [done(2)], "once is enough");
    let out = ask(&mut machine, 3, 2, register(2));
    assert_eq!(out, [done(3)], "what does not persist is not written");
}

#[test]
fn a_barred_host_takes_part_in_no_reservation_and_may_look() {
    let mut machine = Machine::new(true, None);
    ask(&mut machine, 1, 1, register(1));
    ask(&mut machine, 2, 2, register(2));
    let out = ask(&mut machine, 3, 1, Command::Kill { host: host(2) });
    assert!(matches!(&out[..], [Action::Persist(_)]));
    persisted(&mut machine, true);
    assert_eq!(enforced(&mut machine), [done(3)]);
    for command in [
        register(2),
        unregister(2),
        acquire(2, Kind::WriteExclusive),
        release(2, Kind::WriteExclusive),
        preempt(2, key(1), Kind::WriteExclusive),
        Command::Clear { current: key(2) },
        Command::SetPersistence(true),
        Command::SetFloors(true),
        Command::Kill { host: host(1) },
        expel(2),
    ] {
        let out = ask(&mut machine, 4, 2, command);
        assert!(
            matches!(&out[..], [Action::Complete { status, .. }] if status.same_code(Status::RESERVATION_CONFLICT)),
            "{command:?}"
        );
    }
    let out = ask(&mut machine, 5, 2, REPORT);
    assert!(matches!(&out[..], [Action::Complete { status, .. }] if status.is_success()));
}

#[test]
fn only_registered_hosts_kill_and_only_where_that_can_be_kept() {
    let mut machine = Machine::new(true, None);
    ask(&mut machine, 1, 1, register(1));
    let out = ask(&mut machine, 2, 3, Command::Kill { host: host(1) });
    assert!(
        matches!(&out[..], [Action::Complete { status, .. }] if status.same_code(Status::RESERVATION_CONFLICT))
    );
    let mut machine = Machine::new(false, None);
    for command in [
        Command::Kill { host: host(1) },
        expel(1),
        Command::SetFloors(true),
    ] {
        let out = ask(&mut machine, 1, 1, command);
        assert!(
            matches!(&out[..], [Action::Complete { status, .. }] if status.same_code(Status::INVALID_FIELD))
        );
    }
}
