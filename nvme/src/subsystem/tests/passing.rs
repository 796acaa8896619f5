//! Reservation commands of namespaces that several nodes serve: passed on, answered, withdrawn.

use super::*;
use crate::feature::fid;
use crate::log::lid;
use crate::reservation::{Command as Asked, HostId, Key, Notice, Persistence, Registrant, State};

/// Two hosts with an admin and an I/O queue each.
struct Two {
    rig: Rig,
    admin: [QueueId; 2],
    io: [QueueId; 2],
}

fn two() -> Two {
    let mut rig = Rig::new(config());
    rig.step(Event::NamespaceAdded(Namespace {
        reservable: Reservable::AcrossNodes,
        ..namespace(1)
    }));
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

const REGISTER: Asked = Asked::Register {
    new: Key(7),
    persistence: Persistence::Keep,
};

impl Two {
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

    /// What was passed on since the last look.
    fn passed(&mut self) -> Vec<(u64, HostId, Asked)> {
        let is_it = |action: &mut Action| matches!(action, Action::PassReservation(_));
        let passed = self.rig.actions.extract_if(.., is_it);
        let passed = passed.map(|action| {
            let Action::PassReservation(passed) = action else {
                unreachable!("looked up above")
            };
            assert_eq!(passed.nsid, 1);
            (passed.number, passed.host, passed.command)
        });
        passed.collect()
    }

    fn answer(&mut self, number: u64, status: Status, data: &[u8]) {
        let data = data.to_vec();
        self.rig.step(Event::ReservationAnswered(ReservationAnswer {
            number,
            status,
            data,
        }));
    }

    fn status(&mut self, number: usize, slot: u16) -> Option<Status> {
        let done = self.rig.completion(self.io[number - 1], slot);
        done.map(|done| done.status)
    }
}

#[test]
fn commands_of_a_namespace_are_passed_on_one_after_the_other() {
    let mut two = two();
    let report = Asked::Report {
        extended: true,
        length_bytes: 64,
    };
    let slots = [two.ask(1, REGISTER), two.ask(2, report)];
    let first = two.passed();
    assert_eq!(first.len(), 1, "one at a time");
    let (number, host, command) = first[0];
    assert_eq!((host, command), (HostId([1; 16]), REGISTER));
    assert_eq!((two.status(1, slots[0]), two.status(2, slots[1])), (None, None));
    two.answer(number, Status::RESERVATION_CONFLICT, &[]);
    assert_eq!(two.status(1, slots[0]), Some(Status::RESERVATION_CONFLICT));
    let [(number, host, command)] = two.passed()[..] else {
        panic!("the next one has its turn");
    };
    assert_eq!((host, command), (HostId([2; 16]), report));
    two.answer(number, Status::SUCCESS, &[9; 64]);
    let done = two.rig.completion(two.io[1], slots[1]).expect("it is answered");
    assert_eq!((done.status, done.data), (Status::SUCCESS, vec![9; 64]));
    two.answer(number, Status::SUCCESS, &[]);
    assert_eq!(two.passed(), []);
}

#[test]
fn what_nobody_waits_for_is_forgotten_unless_it_may_be_half_done() {
    let mut two = two();
    let held = two.ask(1, REGISTER);
    two.ask(1, REGISTER);
    let last = two.ask(2, REGISTER);
    let (number, ..) = two.passed()[0];
    two.rig.close(two.io[0]);
    two.answer(number, Status::SUCCESS, &[]);
    assert_eq!(
        two.rig.completion(two.io[0], held),
        None,
        "its connection is gone"
    );
    let [(number, host, _)] = two.passed()[..] else {
        panic!("the other host's has its turn");
    };
    assert_eq!(host, HostId([2; 16]));
    two.answer(number, Status::SUCCESS, &[]);
    assert_eq!(two.status(2, last), Some(Status::SUCCESS));
    assert_eq!(two.passed(), []);
}

#[test]
fn with_the_namespace_all_of_its_commands_end() {
    let mut two = two();
    let slots = [two.ask(1, REGISTER), two.ask(2, REGISTER)];
    let (number, ..) = two.passed()[0];
    two.rig.step(Event::NamespaceRemoved { nsid: 1 });
    for (host, slot) in (1..).zip(slots) {
        let status = two.status(host, slot).expect("it has ended");
        assert!(status.same_code(Status::INVALID_NAMESPACE_OR_FORMAT));
    }
    let is_open = |action: &Action| matches!(action, Action::EnforceReservation(order) if order.nsid == 1 && order.rules.is_open());
    assert!(
        two.rig.actions.iter().any(is_open),
        "nobody is kept from anything"
    );
    two.answer(number, Status::SUCCESS, &[]);
}

#[test]
fn a_change_is_told_to_hosts_and_read_by_them() {
    let mut two = two();
    let event = two
        .rig
        .send(two.admin[1], admin(admin_opcode::ASYNC_EVENT_REQUEST, 0), &[]);
    let state = State {
        registrants: vec![Registrant {
            host: HostId([1; 16]),
            key: Key(7),
        }],
        persists: true,
        ..State::default()
    };
    two.rig.step(Event::ReservationChanged(ReservationChange {
        nsid: 1,
        state,
        notices: vec![(HostId([2; 16]), Notice::RegistrationPreempted)],
    }));
    let told = two.rig.completion(two.admin[1], event).expect("it is told");
    assert_eq!(told.result, 0x0080_0006, "type 6, log page 80h");
    let page = two
        .rig
        .command(two.admin[1], log_page(lid::RESERVATION, 0, 64), &[]);
    assert_eq!((page.data[8], page.data[12]), (1, 1));
    let mut entry = admin(admin_opcode::GET_FEATURES, 0);
    entry.set_nsid(1);
    entry.set_dword(10, u32::from(fid::RESERVATION_PERSISTENCE));
    assert_eq!(two.rig.command(two.admin[0], entry, &[]).result, 1);
}

#[test]
fn features_that_persist_are_passed_on_and_those_of_shelves_refused() {
    let mut two = two();
    let feature = |identifier: u8| {
        let mut entry = admin(admin_opcode::SET_FEATURES, 0);
        entry.set_nsid(1);
        entry.set_dword(10, u32::from(identifier));
        entry.set_dword(11, 1);
        entry
    };
    let slot = two
        .rig
        .send(two.admin[0], feature(fid::RESERVATION_PERSISTENCE), &[]);
    let [(number, _, command)] = two.passed()[..] else {
        panic!("it is passed on");
    };
    assert_eq!(command, Asked::SetPersistence(true));
    two.answer(number, Status::SUCCESS, &[]);
    let done = two.rig.completion(two.admin[0], slot).expect("it is answered");
    assert_eq!(done.status, Status::SUCCESS);
    let refused = two.rig.command(two.admin[0], feature(fid::KEY_EPOCHS), &[]);
    assert!(refused.status.same_code(Status::INVALID_FIELD));
    let expel = admin(admin_opcode::ADMISSION, 0);
    let refused = two.rig.command(two.admin[0], expel, &[]);
    assert!(refused.status.same_code(Status::INVALID_OPCODE));
}
