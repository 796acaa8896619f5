//! What the specification's tables say, row by row.

use super::*;
use crate::command::io_opcode;
use crate::status::Status;

const CONFLICT: Status = Status::RESERVATION_CONFLICT.do_not_retry();
const INVALID: Status = Status::INVALID_FIELD.do_not_retry();

/// Hosts 1 to `hosts` are registered; host 1 has acquired this type.
fn reserved(hosts: u8, kind: Kind) -> State {
    let mut state = State::default();
    for number in 1..=hosts {
        state.apply(host(number), &register(number), false).unwrap();
    }
    state.apply(host(1), &acquire(1, kind), false).unwrap();
    state
}

fn hosts(state: &State) -> Vec<HostId> {
    state
        .registrants
        .iter()
        .map(|registrant| registrant.host)
        .collect()
}

/// Source: section 8.19, "Command Behavior in the Presence of a Reservation": holder, registrant, anybody else.
#[test]
fn who_may_read_and_write_under_each_type() {
    let expected = [
        (Kind::WriteExclusive, [true, false, false], [true, true, true]),
        (Kind::ExclusiveAccess, [true, false, false], [true, false, false]),
        (
            Kind::WriteExclusiveRegistrantsOnly,
            [true, true, false],
            [true, true, true],
        ),
        (
            Kind::ExclusiveAccessRegistrantsOnly,
            [true, true, false],
            [true, true, false],
        ),
        (
            Kind::WriteExclusiveAllRegistrants,
            [true, true, false],
            [true, true, true],
        ),
        (
            Kind::ExclusiveAccessAllRegistrants,
            [true, true, false],
            [true, true, false],
        ),
    ];
    for (kind, writes, reads) in expected {
        let rules = reserved(2, kind).rules();
        for (number, (write, read)) in (1..).zip(writes.into_iter().zip(reads)) {
            assert_eq!(
                rules.permits(host(number), Access::Write),
                write,
                "{kind:?} {number}"
            );
            assert_eq!(
                rules.permits(host(number), Access::Read),
                read,
                "{kind:?} {number}"
            );
            assert!(rules.permits(host(number), Access::Free));
        }
    }
    assert!(Rules::default().permits(host(9), Access::Write));
}

#[test]
fn an_opcode_that_is_not_listed_is_a_write() {
    for opcode in 0..=u8::MAX {
        let expected = match opcode {
            io_opcode::READ | io_opcode::COMPARE | io_opcode::VERIFY => Access::Read,
            0x0d | 0x0e | 0x11 | 0x15 | 0x7f => Access::Free,
            _ => Access::Write,
        };
        assert_eq!(Access::of(opcode), expected, "{opcode:#x}");
    }
    assert_eq!(Access::of(io_opcode::FLUSH), Access::Write);
    assert_eq!(Access::of(0x19), Access::Write, "Copy");
}

#[test]
fn registering_again_is_fine_with_the_same_key_only() {
    let mut state = State::default();
    state.apply(host(1), &register(1), false).unwrap();
    state.apply(host(1), &register(1), false).unwrap();
    assert_eq!(state.generation, 2);
    assert_eq!(state.clone().apply(host(1), &register(2), false), Err(CONFLICT));
    state.apply(host(2), &register(1), false).unwrap();
    assert_eq!(state.registrants.len(), 2, "hosts may share a key");
}

#[test]
fn replacing_asks_for_the_current_key_unless_it_is_to_be_ignored() {
    let replace = |current| Command::Replace {
        current,
        new: Key(0x99),
        persistence: Persistence::Keep,
    };
    let state = reserved(1, Kind::WriteExclusive);
    let try_it = |host, command: &Command| {
        let mut state = state.clone();
        state
            .apply(host, command, false)
            .map(|_| (state.key(host), state.is_holder(host)))
    };
    assert_eq!(
        try_it(host(1), &replace(Some(key(1)))),
        Ok((Some(Key(0x99)), true))
    );
    assert_eq!(try_it(host(1), &replace(Some(key(2)))), Err(CONFLICT));
    assert_eq!(try_it(host(1), &replace(None)), Ok((Some(Key(0x99)), true)));
    assert_eq!(try_it(host(2), &replace(Some(key(2)))), Err(CONFLICT));
    assert_eq!(try_it(host(2), &replace(None)), Ok((Some(Key(0x99)), false)));
}

#[test]
fn unregistering_asks_for_the_current_key_unless_it_is_to_be_ignored() {
    let state = reserved(2, Kind::WriteExclusive);
    let unregister = |current| Command::Unregister {
        current,
        persistence: Persistence::Keep,
    };
    for (number, current, expected) in [
        (2, Some(key(2)), Ok(())),
        (2, None, Ok(())),
        (2, Some(key(1)), Err(CONFLICT)),
        (3, Some(key(3)), Err(CONFLICT)),
        (3, None, Err(CONFLICT)),
    ] {
        let got = state
            .clone()
            .apply(host(number), &unregister(current), false)
            .map(drop);
        assert_eq!(got, expected, "{number} {current:?}");
    }
}

/// Source: sections 8.19.2 and 8.19.5.
#[test]
fn a_reservation_goes_with_its_holder_or_with_the_last_of_all() {
    for kind in Kind::ALL {
        let mut state = reserved(3, kind);
        let effect = state.apply(host(1), &unregister(1), false).unwrap();
        assert_eq!(state.reservation.is_some(), kind.is_of_all(), "{kind:?}");
        let told = matches!(
            kind,
            Kind::WriteExclusiveRegistrantsOnly | Kind::ExclusiveAccessRegistrantsOnly
        );
        let expected: Vec<(HostId, Notice)> = [2, 3]
            .into_iter()
            .filter(|_| told)
            .map(|number| (host(number), Notice::ReservationReleased))
            .collect();
        assert_eq!(effect.notices, expected, "{kind:?}");
        state.apply(host(2), &unregister(2), false).unwrap();
        state.apply(host(3), &unregister(3), false).unwrap();
        assert_eq!((state.reservation, state.registrants.len()), (None, 0));
    }
}

/// Source: section 8.19.4.
#[test]
fn acquiring_succeeds_for_registrants_where_nobody_else_holds() {
    for kind in Kind::ALL {
        let state = reserved(2, kind);
        let acquiring = |number, current: u8, kind| {
            let command = Command::Acquire {
                current: key(current),
                kind,
            };
            state.clone().apply(host(number), &command, false).map(drop)
        };
        assert_eq!(acquiring(1, 1, kind), Ok(()), "again");
        assert_eq!(acquiring(1, 2, kind), Err(CONFLICT), "wrong key");
        assert_eq!(acquiring(3, 3, kind), Err(CONFLICT), "not registered");
        let by_second = if kind.is_of_all() { Ok(()) } else { Err(CONFLICT) };
        assert_eq!(acquiring(2, 2, kind), by_second, "{kind:?}");
        for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
            assert_eq!(acquiring(1, 1, other), Err(CONFLICT), "{kind:?} {other:?}");
        }
    }
}

/// Source: section 8.19.5.
#[test]
fn releasing_is_for_who_holds_and_knows_the_type() {
    for kind in Kind::ALL {
        let state = reserved(3, kind);
        let releasing = |number, current: u8, kind| {
            let command = release(current, kind);
            let mut state = state.clone();
            let effect = state.apply(host(number), &command, false)?;
            Ok((state.reservation.is_some(), effect.notices.len()))
        };
        let told = if kind.is_of_one() { 0 } else { 2 };
        assert_eq!(releasing(1, 1, kind), Ok((false, told)), "{kind:?}");
        assert_eq!(releasing(1, 2, kind), Err(CONFLICT));
        assert_eq!(releasing(4, 4, kind), Err(CONFLICT));
        let by_second = if kind.is_of_all() {
            Ok((false, told))
        } else {
            Ok((true, 0))
        };
        assert_eq!(releasing(2, 2, kind), by_second, "{kind:?}");
        for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
            assert_eq!(releasing(1, 1, other), Err(INVALID));
        }
    }
    let mut state = State::default();
    state.apply(host(1), &register(1), false).unwrap();
    let nothing = state.apply(host(1), &release(1, Kind::WriteExclusive), false);
    assert_eq!(nothing, Ok(Effect::default()));
}

/// Source: section 8.19.7.
#[test]
fn clearing_removes_everybody_and_tells_the_others() {
    let mut state = reserved(3, Kind::WriteExclusive);
    let clear = |number| Command::Clear { current: key(number) };
    assert_eq!(state.clone().apply(host(2), &clear(1), false), Err(CONFLICT));
    let effect = state.apply(host(2), &clear(2), false).unwrap();
    let told = [1, 3].map(|number| (host(number), Notice::ReservationPreempted));
    assert_eq!(effect.notices, told);
    assert_eq!((state.registrants.len(), state.reservation), (0, None));
    assert_eq!(state.generation, 4);
}

/// Source: section 8.19.6, one holder: the holder's key takes the reservation, another one removes registrants.
#[test]
fn preempting_one_holder() {
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_of_all()) {
        for new in Kind::ALL {
            let mut state = reserved(4, kind);
            let effect = state.apply(host(2), &preempt(2, key(1), new), false).unwrap();
            assert_eq!(hosts(&state), [host(2), host(3), host(4)]);
            let held = state.reservation.unwrap();
            assert_eq!((held.kind, state.is_holder(host(2))), (new, true));
            assert_eq!(effect.abort, [host(1)]);
            let released = effect
                .notices
                .iter()
                .filter(|(_, it)| *it == Notice::ReservationReleased);
            assert_eq!(released.count(), if kind == new { 0 } else { 2 });
            assert!(effect.notices.contains(&(host(1), Notice::RegistrationPreempted)));
        }
        let mut state = reserved(4, kind);
        let effect = state.apply(host(2), &preempt(2, key(3), kind), false).unwrap();
        assert_eq!(hosts(&state), [host(1), host(2), host(4)]);
        assert!(state.is_holder(host(1)));
        assert_eq!(effect.abort, [host(3)]);
        let nobody = preempt(2, Key(0x777), kind);
        assert_eq!(state.clone().apply(host(2), &nobody, false), Err(CONFLICT));
        let zero = preempt(2, Key::NONE, kind);
        assert_eq!(state.clone().apply(host(2), &zero, false), Err(INVALID));
        let unregistered = preempt(5, key(1), kind);
        assert_eq!(state.apply(host(5), &unregistered, false), Err(CONFLICT));
    }
}

/// Source: section 8.19.6, all registrants: key 0 removes all others, another one those that have it.
#[test]
fn preempting_among_all_registrants() {
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_of_all()) {
        for new in Kind::ALL {
            let mut state = reserved(4, kind);
            let effect = state.apply(host(2), &preempt(2, Key::NONE, new), false).unwrap();
            assert_eq!(hosts(&state), [host(2)]);
            assert_eq!(state.reservation.map(|held| held.kind), Some(new));
            assert_eq!(effect.abort, [host(1), host(3), host(4)]);
        }
        let mut state = reserved(4, kind);
        let effect = state.apply(host(2), &preempt(2, key(3), kind), false).unwrap();
        assert_eq!(hosts(&state), [host(1), host(2), host(4)]);
        assert_eq!(state.reservation.map(|held| held.kind), Some(kind));
        assert_eq!(effect.abort, [host(3)]);
        let again = state.clone().apply(host(2), &preempt(2, key(3), kind), false);
        assert_eq!(again, Err(CONFLICT), "its key is gone (PROTOCOL H09)");
    }
}

#[test]
fn preempting_without_a_reservation_removes_registrants_only() {
    let mut state = State::default();
    for number in 1..=3 {
        state.apply(host(number), &register(number), false).unwrap();
    }
    let kind = Kind::WriteExclusive;
    let zero = state.clone().apply(host(1), &preempt(1, Key::NONE, kind), false);
    assert_eq!(zero, Err(INVALID));
    let effect = state.apply(host(1), &preempt(1, key(2), kind), false).unwrap();
    assert_eq!((hosts(&state), state.reservation), (vec![host(1), host(3)], None));
    assert_eq!(effect.abort, [host(2)]);
}

#[test]
fn who_preempts_its_own_key_keeps_its_registration_as_the_holder() {
    let mut state = reserved(2, Kind::WriteExclusive);
    let to = Kind::ExclusiveAccessAllRegistrants;
    let effect = state.apply(host(1), &preempt(1, key(1), to), false).unwrap();
    assert_eq!(hosts(&state), [host(1), host(2)]);
    assert_eq!(state.reservation.map(|held| held.kind), Some(to));
    assert_eq!((effect.abort.len(), effect.notices.len()), (0, 1));
}

#[test]
fn persistence_needs_a_place() {
    let command = |persistence| Command::Register {
        new: key(1),
        persistence,
    };
    let mut state = State::default();
    let on = command(Persistence::On);
    assert_eq!(state.clone().apply(host(1), &on, false), Err(INVALID));
    state.apply(host(1), &on, true).unwrap();
    assert!(state.persists);
    state.apply(host(1), &command(Persistence::Keep), true).unwrap();
    assert!(state.persists);
    state.apply(host(1), &command(Persistence::Off), true).unwrap();
    assert!(!state.persists);
    let set = Command::SetPersistence(true);
    assert_eq!(state.clone().apply(host(1), &set, false), Err(INVALID));
    state.apply(host(1), &set, true).unwrap();
    assert!(state.persists);
}

/// An array's key of this epoch and slot.
fn aged(epoch: u64, slot: u64) -> Key {
    Key(epoch << 32 | slot << 24 | 0x77)
}

fn enter(new: Key) -> Command {
    Command::Register {
        new,
        persistence: Persistence::Keep,
    }
}

/// Three members of an array, admitted in epochs 1, 3 and 7, that hold a namespace which is held to epochs.
fn array() -> State {
    let mut state = State::default();
    state.apply(host(1), &Command::SetFloors(true), true).unwrap();
    for (number, epoch) in [(1, 1), (2, 3), (3, 7)] {
        let key = aged(epoch, number.into());
        state.apply(host(number), &enter(key), true).unwrap();
    }
    let acquire = Command::Acquire {
        current: aged(1, 1),
        kind: Kind::WriteExclusiveAllRegistrants,
    };
    state.apply(host(1), &acquire, true).unwrap();
    state
}

fn fence(current: Key, victim: Key) -> Command {
    Command::Preempt {
        current,
        victim,
        kind: Kind::WriteExclusiveAllRegistrants,
        abort: true,
    }
}

/// PROTOCOL H07: the victim's key does not come back, whoever brings it, and the next life's does.
#[test]
fn a_fenced_key_and_older_ones_of_its_slot_are_not_registered_again() {
    let mut state = array();
    state
        .apply(host(1), &fence(aged(1, 1), aged(3, 2)), true)
        .unwrap();
    let replace = |new| Command::Replace {
        current: None,
        new,
        persistence: Persistence::Keep,
    };
    for epoch in 1..=3 {
        let key = aged(epoch, 2);
        assert_eq!(state.clone().apply(host(2), &enter(key), true), Err(CONFLICT));
        assert_eq!(state.clone().apply(host(9), &replace(key), true), Err(CONFLICT));
    }
    // Members keep theirs, also where they register it behind somebody's fence.
    state.apply(host(1), &replace(aged(1, 1)), true).unwrap();
    state.apply(host(3), &enter(aged(7, 3)), true).unwrap();
    state.apply(host(9), &enter(aged(8, 2)), true).unwrap();
    assert_eq!(hosts(&state), [host(1), host(3), host(9)]);
}

#[test]
fn who_was_admitted_and_never_registered_is_out_when_everybody_is_fenced() {
    let mut state = array();
    let own = aged(9, 1);
    let replace = Command::Replace {
        current: None,
        new: own,
        persistence: Persistence::Keep,
    };
    state.apply(host(5), &replace, true).unwrap();
    state.apply(host(5), &fence(own, Key::NONE), true).unwrap();
    assert_eq!(hosts(&state), [host(5)]);
    for slot in 0..8 {
        let late = enter(aged(8, slot));
        assert_eq!(state.clone().apply(host(6), &late, true), Err(CONFLICT), "{slot}");
    }
    state.apply(host(6), &enter(aged(9, 4)), true).unwrap();
}

#[test]
fn ordinary_hosts_choose_their_keys_unless_a_namespace_is_held_to_epochs() {
    let mut state = reserved(2, Kind::WriteExclusiveAllRegistrants);
    state
        .apply(
            host(1),
            &preempt(1, key(2), Kind::WriteExclusiveAllRegistrants),
            true,
        )
        .unwrap();
    state.apply(host(2), &register(2), true).unwrap();
    let off_by_a_stranger = state.clone().apply(host(8), &Command::SetFloors(true), true);
    assert_eq!(off_by_a_stranger, Err(CONFLICT));
    state.apply(host(1), &Command::SetFloors(true), true).unwrap();
    assert_eq!(state.clone().apply(host(3), &register(3), true), Err(CONFLICT));
    state.apply(host(2), &register(2), true).unwrap();
    state.apply(host(1), &Command::SetFloors(false), true).unwrap();
    state.apply(host(3), &register(3), true).unwrap();
}

/// Source: section 8.19: a registration belongs to the host, whatever becomes of its associations; here nothing but commands changes it.
#[test]
fn every_command_leaves_alone_what_the_table_says_it_does_not_change() {
    let state = reserved(3, Kind::ExclusiveAccessAllRegistrants);
    let keep = Persistence::Keep;
    let conflicts = [
        (4, unregister(4)),
        (4, acquire(4, Kind::ExclusiveAccessAllRegistrants)),
        (4, release(4, Kind::ExclusiveAccessAllRegistrants)),
        (4, Command::Clear { current: key(1) }),
        (2, acquire(2, Kind::WriteExclusive)),
        (2, preempt(2, key(9), Kind::WriteExclusive)),
        (
            2,
            Command::Replace {
                current: Some(key(1)),
                new: key(7),
                persistence: keep,
            },
        ),
    ];
    for (number, command) in conflicts {
        let result = state.clone().apply(host(number), &command, false);
        assert_eq!(result, Err(CONFLICT), "{number} {command:?}");
    }
    // A key may be shared: registering is not refused because another host has the key.
    let mut shared = state;
    shared.apply(host(4), &register(1), false).unwrap();
    assert!(shared.is_holder(host(4)));
}

#[test]
fn registrants_are_bounded() {
    let mut state = State::default();
    for number in 1..=REGISTRANTS_MAX {
        let host = HostId([u8::try_from(number).unwrap(); 16]);
        state.apply(host, &register(1), false).unwrap();
    }
    let one_more = state.apply(HostId([0xff; 16]), &register(1), false);
    assert_eq!(one_more, Err(Status::INTERNAL_ERROR.do_not_retry()));
}
