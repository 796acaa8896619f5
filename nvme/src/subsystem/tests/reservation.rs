//! Reservation commands of hosts, through their queues to all of the subsystem's controllers.

use super::*;
use crate::feature::fid;
use crate::log::lid;
use crate::reservation::{
    Command as Asked, HostId, HostName, Key, Kind, Life, Order, Persistence, Report as Reservations, Rules,
    State, admission,
};

/// Two hosts with an admin and an I/O queue each.
struct Two {
    rig: Rig,
    admin: [QueueId; 2],
    io: [QueueId; 2],
}

const ALL: Kind = Kind::WriteExclusiveAllRegistrants;

fn two(persist: bool) -> Two {
    let mut rig = Rig::new(config());
    for nsid in [1, 2] {
        rig.step(Event::NamespaceAdded(Namespace {
            reservable: if persist {
                Reservable::Persistently
            } else {
                Reservable::UntilStop
            },
            ..namespace(nsid)
        }));
    }
    let (first, first_cntlid) = rig.controller(1);
    let (second, second_cntlid) = rig.controller(2);
    let io = [
        rig.io_queue(1, first_cntlid, 1),
        rig.io_queue(2, second_cntlid, 1),
    ];
    rig.actions.clear();
    Two {
        rig,
        admin: [first, second],
        io,
    }
}

fn host(number: u8) -> HostId {
    HostId([number; 16])
}

fn register(number: u64) -> Asked {
    Asked::Register {
        new: Key(number),
        persistence: Persistence::Keep,
    }
}

fn preempt(current: u64, victim: u64) -> Asked {
    Asked::Preempt {
        current: Key(current),
        victim: Key(victim),
        kind: ALL,
        abort: true,
    }
}

impl Two {
    /// Sends a command of host 1 or 2 to namespace 1; its slot.
    fn ask(&mut self, number: usize, command: Asked) -> u16 {
        let (mut entry, data) = command.encode(1, 1);
        let length_bytes = if let Asked::Report { length_bytes, .. } = command {
            u32::try_from(length_bytes).unwrap()
        } else {
            u32::try_from(data.len()).unwrap()
        };
        entry.set_sgl(Sgl::Transport { length_bytes });
        self.rig.send(self.io[number - 1], entry, &data)
    }

    fn done(&mut self, number: usize, slot: u16) -> Option<Done> {
        self.rig.completion(self.io[number - 1], slot)
    }

    fn status(&mut self, number: usize, command: Asked) -> Status {
        let slot = self.ask(number, command);
        self.done(number, slot)
            .expect("the command is completed at once")
            .status
    }

    /// What is to be enforced, once.
    fn order(&mut self) -> Option<Order> {
        let at = self
            .rig
            .actions
            .iter()
            .position(|action| matches!(action, Action::EnforceReservation(_)))?;
        let Action::EnforceReservation(order) = self.rig.actions.remove(at) else {
            unreachable!("looked up above")
        };
        assert_eq!(order.nsid, 1);
        Some(order)
    }

    /// The same, as far as it is about who reserves.
    fn rules(&mut self) -> Option<(u64, Rules, Vec<HostId>)> {
        let order = self.order()?;
        assert!(!order.bars);
        let (rules, abort) = ((*order.rules).clone(), (*order.abort).clone());
        Some((order.number, rules, abort))
    }

    fn enforced(&mut self, number: u64) {
        self.rig.step(Event::ReservationEnforced { number });
    }

    /// Both hosts are registered, by their numbers, and hold a reservation of all registrants.
    fn share(&mut self) {
        assert_eq!(self.status(1, register(1)), Status::SUCCESS);
        assert_eq!(self.status(2, register(2)), Status::SUCCESS);
        let slot = self.ask(
            1,
            Asked::Acquire {
                current: Key(1),
                kind: ALL,
            },
        );
        assert_eq!(self.done(1, slot), None, "the cores come first");
        let (number, rules, abort) = self.rules().expect("the cores are told");
        assert_eq!((rules.kind, rules.hosts), (Some(ALL), vec![host(1), host(2)]));
        assert_eq!(abort, []);
        self.enforced(number);
        assert_eq!(self.done(1, slot).unwrap().status, Status::SUCCESS);
    }

    fn report(&mut self) -> Reservations {
        let slot = self.ask(
            2,
            Asked::Report {
                extended: true,
                length_bytes: 1024,
            },
        );
        let done = self.done(2, slot).expect("nothing is under way");
        assert_eq!((done.status, done.data.len()), (Status::SUCCESS, 1024));
        Reservations::parse(&done.data, true).unwrap()
    }
}

#[test]
fn hosts_register_reserve_and_report() {
    let mut two = two(false);
    two.share();
    let report = two.report();
    assert_eq!((report.generation, report.kind), (2, Some(ALL)));
    let keys: Vec<(HostId, u64, bool)> = report
        .registrants
        .iter()
        .map(|it| (it.host, it.key.0, it.holder))
        .collect();
    assert_eq!(keys, [(host(1), 1, true), (host(2), 2, true)]);
    assert_eq!(
        two.rig.subsystem.reservation(1).map(|it| it.registrants.len()),
        Some(2)
    );
    assert_eq!(two.rig.subsystem.reservation(2), Some(&State::default()));
}

#[test]
fn a_preempted_host_hears_of_it_and_reads_what_it_lost() {
    let mut two = two(false);
    two.share();
    let event = two
        .rig
        .send(two.admin[1], admin(admin_opcode::ASYNC_EVENT_REQUEST, 0), &[]);
    let slot = two.ask(1, preempt(1, 2));
    let late = two.ask(2, preempt(2, 1));
    let (number, rules, abort) = two.rules().expect("the cores are told");
    assert_eq!((rules.hosts, abort), (vec![host(1)], vec![host(2)]));
    assert_eq!(
        two.rig.completion(two.admin[1], event),
        None,
        "not before it is so"
    );
    assert_eq!((two.done(1, slot), two.done(2, late)), (None, None));
    two.enforced(number);
    assert_eq!(two.done(1, slot).unwrap().status, Status::SUCCESS);
    let late = two.done(2, late).expect("it had its turn").status;
    assert!(late.same_code(Status::RESERVATION_CONFLICT));
    let told = two.rig.completion(two.admin[1], event).expect("it is told");
    assert_eq!(told.result, 0x0080_0006, "type 6, log page 80h");
    let page = two
        .rig
        .command(two.admin[1], log_page(lid::RESERVATION, 0, 64), &[]);
    assert_eq!(
        (page.data[0], page.data[8], page.data[9], page.data[12]),
        (1, 1, 0, 1)
    );
    let page = two
        .rig
        .command(two.admin[1], log_page(lid::RESERVATION, 0, 64), &[]);
    assert!(page.data.iter().all(|byte| *byte == 0), "it is told once");
    let page = two
        .rig
        .command(two.admin[0], log_page(lid::RESERVATION, 0, 64), &[]);
    assert!(
        page.data.iter().all(|byte| *byte == 0),
        "the other host lost nothing"
    );
}

#[test]
fn what_a_host_masks_it_is_not_told() {
    let mut two = two(false);
    two.share();
    let feature = |opcode, nsid, dword10: u32, dword11: u32| {
        let mut entry = admin(opcode, 0);
        entry.set_nsid(nsid);
        entry.set_dword(10, dword10);
        entry.set_dword(11, dword11);
        entry
    };
    let identifier = u32::from(fid::RESERVATION_NOTIFICATION_MASK);
    let queue = two.admin[1];
    let set = feature(admin_opcode::SET_FEATURES, u32::MAX, identifier, 0xff);
    assert_eq!(two.rig.command(queue, set, &[]).status, Status::SUCCESS);
    let get = |nsid, select: u32| feature(admin_opcode::GET_FEATURES, nsid, identifier | select << 8, 0);
    assert_eq!(two.rig.command(queue, get(1, 0), &[]).result, 0b1110);
    assert_eq!(two.rig.command(queue, get(1, 1), &[]).result, 0);
    assert_eq!(two.rig.command(queue, get(1, 3), &[]).result, 0b110);
    assert_eq!(two.rig.command(two.admin[0], get(1, 0), &[]).result, 0);
    for (nsid, expected) in [
        (u32::MAX, Status::INVALID_FIELD),
        (9, Status::INVALID_NAMESPACE_OR_FORMAT),
    ] {
        assert!(
            two.rig
                .command(queue, get(nsid, 0), &[])
                .status
                .same_code(expected)
        );
    }
    two.ask(1, preempt(1, 2));
    let (number, ..) = two.rules().unwrap();
    two.enforced(number);
    let page = two.rig.command(queue, log_page(lid::RESERVATION, 0, 64), &[]);
    assert!(page.data.iter().all(|byte| *byte == 0));
}

#[test]
fn persistence_is_durable_before_it_is_confirmed() {
    let mut two = two(true);
    let mut entry = admin(admin_opcode::SET_FEATURES, 0);
    entry.set_nsid(1);
    entry.set_dword(10, u32::from(fid::RESERVATION_PERSISTENCE));
    entry.set_dword(11, 1);
    let queue = two.admin[0];
    let slot = two.rig.send(queue, entry, &[]);
    assert_eq!(two.rig.completion(queue, slot), None);
    let [
        Action::PersistReservation {
            number,
            nsid: 1,
            state,
        },
    ] = &two.rig.actions[..]
    else {
        panic!("{:?}", two.rig.actions)
    };
    assert!(state.persists);
    let number = *number;
    two.rig.step(Event::ReservationPersisted {
        number,
        succeeded: true,
    });
    assert_eq!(two.rig.completion(queue, slot).unwrap().status, Status::SUCCESS);
    let mut get = entry;
    get.set_dword(10, u32::from(fid::RESERVATION_PERSISTENCE));
    let mut bytes = *get.encode();
    bytes[0] = admin_opcode::GET_FEATURES;
    let get = SubmissionEntry::parse(bytes);
    assert_eq!(two.rig.command(queue, get, &[]).result, 1);
    assert_eq!(two.rig.command(queue, identify(0, 1), &[]).data[31], 0xff);
}

#[test]
fn without_a_place_persistence_is_refused() {
    let mut two = two(false);
    let mut entry = admin(admin_opcode::SET_FEATURES, 0);
    entry.set_nsid(1);
    entry.set_dword(10, u32::from(fid::RESERVATION_PERSISTENCE));
    entry.set_dword(11, 1);
    let done = two.rig.command(two.admin[0], entry, &[]);
    assert!(done.status.same_code(Status::INVALID_FIELD));
    let on = Asked::Register {
        new: Key(1),
        persistence: Persistence::On,
    };
    assert!(two.status(1, on).same_code(Status::INVALID_FIELD));
    assert_eq!(two.rig.command(two.admin[0], identify(0, 1), &[]).data[31], 0xfe);
}

#[test]
fn what_was_kept_is_enforced_before_any_host_comes() {
    let mut donor = two(true);
    donor.share();
    let state = State {
        persists: true,
        ..donor.rig.subsystem.reservation(1).unwrap().clone()
    };
    let mut two = two(true);
    two.rig.step(Event::ReservationRestored { nsid: 1, state });
    let (number, rules, _) = two.rules().expect("the cores are told");
    assert_eq!(rules.hosts, [host(1), host(2)]);
    two.enforced(number);
    assert!(two.report().persists);
}

#[test]
fn a_closed_queue_takes_its_waiting_commands_along() {
    let mut two = two(false);
    two.share();
    two.ask(1, preempt(1, 2));
    let (number, ..) = two.rules().unwrap();
    two.ask(2, preempt(2, 1));
    two.rig.close(two.io[1]);
    two.rig.actions.clear();
    two.enforced(number);
    assert_eq!(two.rules(), None, "a command of a lost queue never begins");
    let completed = two
        .rig
        .actions
        .iter()
        .filter(|action| matches!(action, Action::Complete { .. }));
    assert_eq!(completed.count(), 1);
    two.rig.close(two.io[0]);
    assert_eq!(two.rig.subsystem.reservation(1).unwrap().registrants.len(), 1);
}

#[test]
fn a_removed_namespace_ends_its_commands_and_its_rules() {
    let mut two = two(false);
    two.share();
    let slot = two.ask(1, preempt(1, 2));
    let (number, ..) = two.rules().unwrap();
    two.rig.step(Event::NamespaceRemoved { nsid: 1 });
    let done = two.done(1, slot).expect("it ends with the namespace");
    assert!(done.status.same_code(Status::INVALID_NAMESPACE_OR_FORMAT));
    let (_, rules, _) = two.rules().expect("the cores are told");
    assert!(rules.is_open());
    two.enforced(number);
    let gone = two.status(1, register(1));
    assert!(gone.same_code(Status::INVALID_NAMESPACE_OR_FORMAT));
    two.rig.step(Event::NamespaceAdded(namespace(1)));
    assert_eq!(two.rig.subsystem.reservation(1), Some(&State::default()));
}

#[test]
fn a_namespace_may_be_reservable_never() {
    let mut two = two(false);
    two.rig.step(Event::NamespaceAdded(Namespace {
        reservable: Reservable::Never,
        ..namespace(3)
    }));
    assert_eq!(two.rig.command(two.admin[0], identify(0, 3), &[]).data[31], 0);
    let (mut entry, data) = register(1).encode(1, 3);
    entry.set_sgl(Sgl::Transport { length_bytes: 16 });
    let done = two.rig.command(two.io[0], entry, &data);
    assert!(done.status.same_code(Status::INVALID_OPCODE));
    assert_eq!(two.rig.subsystem.reservation(3), None);
}

#[test]
fn a_host_without_an_identifier_reserves_nothing() {
    let mut rig = Rig::new(config());
    rig.step(Event::NamespaceAdded(namespace(1)));
    let (_, cntlid) = rig.controller(0);
    let io = rig.io_queue(0, cntlid, 1);
    let (mut entry, data) = register(1).encode(1, 1);
    entry.set_sgl(Sgl::Transport { length_bytes: 16 });
    let done = rig.command(io, entry, &data);
    assert!(done.status.same_code(Status::COMMAND_SEQUENCE_ERROR));
}

#[test]
fn all_controllers_tell_which_start_of_the_process_this_is() {
    let mut two = two(false);
    for admin in two.admin {
        let page = two.rig.command(admin, log_page(lid::INSTANCE, 0, 64), &[]);
        assert_eq!((&page.data[..16], page.data[16]), (&[0x5a; 16][..], 0));
    }
}

#[test]
fn reports_in_the_short_form_or_longer_than_their_buffer_are_refused() {
    let mut two = two(false);
    let short = Asked::Report {
        extended: false,
        length_bytes: 64,
    };
    assert!(two.status(1, short).same_code(Status::HOST_ID_INCONSISTENT));
    let (mut entry, _) = Asked::Report {
        extended: true,
        length_bytes: 4096,
    }
    .encode(1, 1);
    entry.set_sgl(Sgl::Transport { length_bytes: 64 });
    let done = two.rig.command(two.io[0], entry, &[]);
    assert!(done.status.same_code(Status::DATA_SGL_LENGTH_INVALID));
    entry.set_nsid(7);
    let done = two.rig.command(two.io[0], entry, &[]);
    assert!(done.status.same_code(Status::INVALID_NAMESPACE_OR_FORMAT));
}

/// The data of a drive as namespace 1 and its quorum area as namespace 2.
fn drive() -> Two {
    let mut two = two(true);
    two.rig.step(Event::NamespaceRemoved { nsid: 2 });
    two.rig.step(Event::NamespaceAdded(Namespace {
        reservable: Reservable::Never,
        admission_of: Some(1),
        ..namespace(2)
    }));
    two.rig.actions.clear();
    two
}

impl Two {
    /// Sends an admin command of admission; its slot.
    fn admission(&mut self, number: usize, (mut entry, data): (SubmissionEntry, Vec<u8>)) -> u16 {
        entry.set_sgl(Sgl::Transport { length_bytes: 16 });
        self.rig.send(self.admin[number - 1], entry, &data)
    }

    /// What was asked to be made durable is.
    fn persist(&mut self) -> State {
        let is_it = |action: &Action| matches!(action, Action::PersistReservation { .. });
        let at = self
            .rig
            .actions
            .iter()
            .position(is_it)
            .expect("something is to be kept");
        let Action::PersistReservation { number, state, .. } = self.rig.actions.remove(at) else {
            unreachable!("looked up above")
        };
        self.rig.step(Event::ReservationPersisted {
            number,
            succeeded: true,
        });
        state
    }
}

#[test]
fn a_claim_by_way_of_either_namespace_is_kept_and_enforced_in_both() {
    for nsid in [1, 2] {
        let mut two = drive();
        let slot = two.admission(1, admission::expel(1, nsid, host(1)));
        let queue = two.admin[0];
        assert_eq!(two.rig.completion(queue, slot), None, "first it is durable");
        let own = Life {
            name: HostName::of(&host_nqn(1)),
            host: host(1),
        };
        assert_eq!(two.persist().admission.claims, [own]);
        let order = two.order().expect("the cores are told");
        assert_eq!((order.beside, order.bars), (Some(2), true));
        assert_eq!(two.rig.completion(queue, slot), None, "then it is enforced");
        two.enforced(order.number);
        assert_eq!(two.rig.completion(queue, slot).unwrap().status, Status::SUCCESS);
        let past = Life { host: host(9), ..own };
        assert!(order.ends(past, 1) && order.ends(past, 2) && !order.ends(own, 2));
    }
}

#[test]
fn only_the_own_name_is_claimed_and_only_where_it_can_be_kept() {
    let mut two = drive();
    let queue = two.admin[0];
    let slot = two.admission(1, admission::expel(1, 1, host(2)));
    let done = two.rig.completion(queue, slot).unwrap();
    assert!(done.status.same_code(Status::INVALID_FIELD));
    let slot = two.admission(1, admission::expel(1, 9, host(1)));
    let done = two.rig.completion(queue, slot).unwrap();
    assert!(done.status.same_code(Status::INVALID_NAMESPACE_OR_FORMAT));
    let slot = two.admission(1, admission::kill(1, 1, host(2)));
    let done = two.rig.completion(queue, slot).unwrap();
    assert!(
        done.status.same_code(Status::RESERVATION_CONFLICT),
        "it is not registered"
    );
    let mut two = self::two(false);
    let queue = two.admin[0];
    let slot = two.admission(1, admission::expel(1, 1, host(1)));
    let done = two.rig.completion(queue, slot).unwrap();
    assert!(done.status.same_code(Status::INVALID_OPCODE));
}

#[test]
fn a_killed_host_waits_behind_what_is_under_way_and_then_is_out() {
    let mut two = drive();
    two.share();
    let fence = two.ask(2, preempt(2, 1));
    let order = two.order().unwrap();
    let slot = two.admission(1, admission::kill(1, 2, host(2)));
    assert_eq!(two.order(), None, "one after the other");
    two.enforced(order.number);
    assert_eq!(two.done(2, fence).unwrap().status, Status::SUCCESS);
    let done = two.rig.completion(two.admin[0], slot).unwrap();
    assert!(
        done.status.same_code(Status::RESERVATION_CONFLICT),
        "it has lost its key meanwhile"
    );
    let slot = two.admission(2, admission::kill(1, 2, host(1)));
    two.persist();
    let order = two.order().unwrap();
    assert!(order.bars);
    two.enforced(order.number);
    let queue = two.admin[1];
    assert_eq!(two.rig.completion(queue, slot).unwrap().status, Status::SUCCESS);
    let back = two.status(1, register(1));
    assert!(back.same_code(Status::RESERVATION_CONFLICT));
}

#[test]
fn what_was_kept_of_admission_is_enforced_in_both_namespaces_whichever_comes_first() {
    let claim = Life {
        name: HostName::of(&host_nqn(1)),
        host: host(1),
    };
    let mut state = State::default();
    state.admission.claims.push(claim);
    let data = Namespace {
        reservable: Reservable::Persistently,
        ..namespace(1)
    };
    let quorum = Namespace {
        reservable: Reservable::Never,
        admission_of: Some(1),
        ..namespace(2)
    };
    for quorum_first in [false, true] {
        let mut rig = Rig::new(config());
        if quorum_first {
            rig.step(Event::NamespaceAdded(quorum));
        }
        rig.step(Event::NamespaceAdded(data));
        rig.step(Event::ReservationRestored {
            nsid: 1,
            state: state.clone(),
        });
        if !quorum_first {
            rig.step(Event::NamespaceAdded(quorum));
        }
        let mut orders = rig.actions.iter().filter_map(|action| {
            let Action::EnforceReservation(order) = action else {
                return None;
            };
            Some(order)
        });
        let last = orders.next_back().expect("the cores are told");
        assert_eq!((last.beside, last.rules.is_open()), (Some(2), false));
    }
}

#[test]
fn keys_are_held_to_epochs_where_a_host_asks_for_it() {
    let mut two = drive();
    let feature = |opcode, dword11| {
        let mut entry = admin(opcode, 0);
        entry.set_nsid(1);
        entry.set_dword(10, u32::from(fid::KEY_EPOCHS));
        entry.set_dword(11, dword11);
        entry
    };
    let queue = two.admin[0];
    let get = feature(admin_opcode::GET_FEATURES, 0);
    assert_eq!(two.rig.command(queue, get, &[]).result, 0);
    let slot = two.rig.send(queue, feature(admin_opcode::SET_FEATURES, 1), &[]);
    assert!(two.persist().floors.is_some());
    assert_eq!(two.rig.completion(queue, slot).unwrap().status, Status::SUCCESS);
    assert_eq!(two.rig.command(queue, get, &[]).result, 1);
    let foreign = two.status(1, register(1));
    assert!(foreign.same_code(Status::RESERVATION_CONFLICT));
}
