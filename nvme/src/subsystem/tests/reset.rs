//! Cross-Controller Reset, through the admin queue of another controller of the same host.

use super::*;
use crate::command::admin_opcode;
use crate::log::{CROSS_RESETS_REMOVE, lid, log_command};
use crate::reservation::{Command as Asked, Key, Kind, Persistence};

/// A host with two controllers; of the second there are two I/O queues.
struct Pair {
    rig: Rig,
    admin: QueueId,
    other: u16,
    other_admin: QueueId,
    other_io: [QueueId; 2],
}

fn pair() -> Pair {
    let mut rig = Rig::new(Config {
        cntlids_elsewhere: vec![200..=299],
        ..config()
    });
    rig.step(Event::NamespaceAdded(namespace(1)));
    let (admin, _) = rig.controller(1);
    let (other_admin, other) = rig.controller(1);
    let other_io = [rig.io_queue(1, other, 1), rig.io_queue(1, other, 2)];
    rig.actions.clear();
    Pair {
        rig,
        admin,
        other,
        other_admin,
        other_io,
    }
}

fn identify() -> SubmissionEntry {
    let mut entry = SubmissionEntry::new(admin_opcode::IDENTIFY, 1);
    entry.set_dword(10, 1);
    entry.set_sgl(Sgl::Transport { length_bytes: 4096 });
    entry
}

impl Pair {
    /// CIU and CIRN of the other controller.
    fn instance(&mut self) -> (u8, u64) {
        let page = self.rig.command(self.other_admin, identify(), &[]).data;
        let random: [u8; 8] = page[136..144].try_into().unwrap();
        (page[135], u64::from_le_bytes(random))
    }

    fn reset(&mut self, cntlid: u16, (instance, random): (u8, u64)) -> Done {
        let mut entry = SubmissionEntry::new(admin_opcode::CROSS_CONTROLLER_RESET, 1);
        entry.set_dword(10, u32::from(cntlid) | u32::from(instance) << 16);
        entry.set_qword(12, random);
        self.rig.command(self.admin, entry, &[])
    }

    /// Number of entries and the first one.
    fn log(&mut self, specific: u8) -> (u8, Vec<u8>) {
        let mut entry = log_command(1, lid::CROSS_CONTROLLER_RESET, 0, 16);
        entry.set_dword(10, entry.dword(10) | u32::from(specific) << 8);
        entry.set_sgl(Sgl::Transport { length_bytes: 16 });
        let page = self.rig.command(self.admin, entry, &[]).data;
        (page[0], page[8..].to_vec())
    }
}

#[test]
fn a_reset_is_through_when_the_last_connection_is_drained_and_the_host_hears_of_it() {
    let mut pair = pair();
    let instance = pair.instance();
    let page = pair.rig.command(pair.admin, identify(), &[]).data;
    assert_eq!((page[1807], page[94] & 1 << 4), (4, 1 << 4), "CCRL, OAES bit 20");
    let event = SubmissionEntry::new(admin_opcode::ASYNC_EVENT_REQUEST, 2);
    let event = pair.rig.send(pair.admin, event, &[]);
    let done = pair.reset(pair.other, instance);
    assert_eq!(
        (done.status, done.result),
        (Status::SUCCESS, 0),
        "it is under way"
    );
    let closes = pair.rig.closes();
    assert_eq!(closes.len(), 3);
    assert!(
        closes
            .iter()
            .all(|(_, why)| *why == CloseReason::CrossControllerReset)
    );
    let cntlid = pair.other.to_le_bytes();
    let entry = |stage| vec![cntlid[0], cntlid[1], instance.0, 0, 100, 0, stage, 3];
    assert_eq!(pair.log(0), (1, entry(0)));
    let again = pair.reset(pair.other, instance).status;
    assert!(again.same_code(Status::CROSS_RESET_IN_PROGRESS));
    for queue in [pair.other_admin, pair.other_io[0]] {
        pair.rig.step(Event::Closed { queue });
    }
    assert_eq!(pair.log(0), (1, entry(0)), "a queue is still draining");
    assert_eq!(pair.rig.completion(pair.admin, event), None);
    pair.rig.step(Event::Closed {
        queue: pair.other_io[1],
    });
    let told = pair.rig.completion(pair.admin, event).expect("it is through");
    assert_eq!(told.result, 0x1e_f402, "a notice, information F4h, log page 1Eh");
    assert_eq!(pair.log(CROSS_RESETS_REMOVE), (1, entry(1)));
    assert_eq!(pair.log(0), (0, vec![0; 8]));
    let done = pair.reset(pair.other, instance);
    assert_eq!(
        (done.status, done.result),
        (Status::SUCCESS, 1),
        "that instance is over"
    );
}

#[test]
fn a_host_resets_controllers_of_its_own_only() {
    let mut pair = pair();
    let instance = pair.instance();
    let page = pair.rig.command(pair.admin, identify(), &[]).data;
    let own = (page[135], u64::from_le_bytes(page[136..144].try_into().unwrap()));
    for (cntlid, instance) in [(100, own), (1, instance), (4000, instance)] {
        let done = pair.reset(cntlid, instance);
        assert!(done.status.same_code(Status::INVALID_FIELD), "{cntlid}");
    }
    let done = pair.reset(100, instance);
    let over = (Status::SUCCESS, 1);
    assert_eq!(
        (done.status, done.result),
        over,
        "who had the own number before is over"
    );
    let (foreign_admin, foreign) = pair.rig.controller(2);
    let other_admin = std::mem::replace(&mut pair.other_admin, foreign_admin);
    let foreign_instance = pair.instance();
    let done = pair.reset(foreign, foreign_instance);
    assert!(done.status.same_code(Status::INVALID_FIELD));
    pair.other_admin = other_admin;
    let done = pair.reset(pair.other, (instance.0 + 1, instance.1));
    assert_eq!((done.status, done.result), (Status::SUCCESS, 1));
    assert_eq!(
        pair.rig.closes(),
        [],
        "of the instance that there is nothing was ended"
    );
}

/// A fence that its host has begun before its connection was lost goes on; the reset waits for it.
#[test]
fn a_reset_waits_for_a_reservation_command_that_is_half_done() {
    let mut pair = pair();
    let instance = pair.instance();
    let ask = |pair: &mut Pair, command: Asked| {
        let (mut entry, data) = command.encode(1, 1);
        let length_bytes = u32::try_from(data.len()).unwrap();
        entry.set_sgl(Sgl::Transport { length_bytes });
        pair.rig.send(pair.other_io[0], entry, &data)
    };
    ask(
        &mut pair,
        Asked::Register {
            new: Key(1),
            persistence: Persistence::Keep,
        },
    );
    let kind = Kind::WriteExclusive;
    ask(
        &mut pair,
        Asked::Acquire {
            current: Key(1),
            kind,
        },
    );
    let order = pair.rig.actions.iter().find_map(|action| {
        let Action::EnforceReservation(order) = action else {
            return None;
        };
        Some(order.number)
    });
    pair.reset(pair.other, instance);
    for queue in [pair.other_admin, pair.other_io[0], pair.other_io[1]] {
        pair.rig.step(Event::Closed { queue });
    }
    assert_eq!(pair.log(0).1[6], 0, "the cores have not confirmed");
    pair.rig.step(Event::ReservationEnforced {
        number: order.unwrap(),
    });
    assert_eq!(pair.log(0).1[6], 1);
}

/// What the runtime was asked to have reset by another node since the last look.
fn asked_elsewhere(rig: &mut Rig) -> Vec<(u64, ResetWish)> {
    let mut asked = Vec::new();
    rig.actions.retain(|action| {
        let Action::ResetElsewhere { number, wish } = action else {
            return true;
        };
        asked.push((*number, wish.clone()));
        false
    });
    asked
}

/// What other nodes were answered since the last look.
fn answered(rig: &mut Rig) -> Vec<(u64, ResetOutcome)> {
    let mut answers = Vec::new();
    rig.actions.retain(|action| {
        let Action::ResetAnswered { number, outcome } = *action else {
            return true;
        };
        answers.push((number, outcome));
        false
    });
    answers
}

/// PROTOCOL H37: what another node says of its controller, or does not say in time, is what the log and the event tell.
#[test]
fn a_controller_of_another_node_is_reset_there() {
    let outcomes = [
        (ResetOutcome::Over, 1, 3),
        (ResetOutcome::Refused, 2, 0),
        (ResetOutcome::Unknown, 2, 0),
    ];
    for (outcome, stage, flags) in outcomes {
        let mut pair = pair();
        let event = SubmissionEntry::new(admin_opcode::ASYNC_EVENT_REQUEST, 2);
        let event = pair.rig.send(pair.admin, event, &[]);
        let done = pair.reset(250, (7, 0x1234_5678_9abc));
        assert_eq!(
            (done.status, done.result),
            (Status::SUCCESS, 0),
            "it is under way"
        );
        let asked = asked_elsewhere(&mut pair.rig);
        let wish = ResetWish {
            cntlid: 250,
            instance: 7,
            random: 0x1234_5678_9abc,
            host: host_nqn(1),
        };
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].1, wish);
        assert_eq!(pair.rig.closes(), [], "nothing of this node is ended");
        let entry = |stage, flags| vec![250, 0, 7, 0, 100, 0, stage, flags];
        assert_eq!(pair.log(CROSS_RESETS_REMOVE), (1, entry(0, 0)));
        let again = pair.reset(250, (7, 0x1234_5678_9abc)).status;
        assert!(again.same_code(Status::CROSS_RESET_IN_PROGRESS));
        assert_eq!(pair.rig.completion(pair.admin, event), None);
        let number = asked[0].0;
        // An answer that nobody waits for changes nothing, and neither does a second one.
        for number in [number + 1, number, number] {
            pair.rig.step(Event::ResetElsewhere { number, outcome });
        }
        let told = pair.rig.completion(pair.admin, event).expect("it is through");
        assert_eq!(told.result, 0x1e_f402);
        assert_eq!(
            pair.log(CROSS_RESETS_REMOVE),
            (1, entry(stage, flags)),
            "{outcome:?}"
        );
        assert_eq!(pair.log(0).0, 0);
        assert_eq!(
            pair.reset(250, (7, 1)).status,
            Status::SUCCESS,
            "it may be tried again"
        );
        let done = pair.reset(300, (7, 1));
        assert!(
            done.status.same_code(Status::INVALID_FIELD),
            "no node has that one"
        );
    }
}

/// PROTOCOL H37: another node is answered when the last connection is drained, and not before.
#[test]
fn a_host_of_another_node_resets_a_controller_of_this_one() {
    let mut pair = pair();
    let (instance, random) = pair.instance();
    let wish = ResetWish {
        cntlid: pair.other,
        instance,
        random,
        host: host_nqn(1),
    };
    let foreign = ResetWish {
        host: host_nqn(2),
        ..wish.clone()
    };
    pair.rig.step(Event::ResetAsked {
        number: 8,
        wish: foreign,
    });
    assert_eq!(answered(&mut pair.rig), [(8, ResetOutcome::Refused)]);
    let stranger = ResetWish {
        cntlid: 250,
        ..wish.clone()
    };
    pair.rig.step(Event::ResetAsked {
        number: 7,
        wish: stranger,
    });
    let refused = [(7, ResetOutcome::Refused)];
    assert_eq!(answered(&mut pair.rig), refused, "nothing is known of it here");
    let past = ResetWish {
        random: random + 1,
        ..wish.clone()
    };
    pair.rig.step(Event::ResetAsked {
        number: 9,
        wish: past,
    });
    assert_eq!(
        answered(&mut pair.rig),
        [(9, ResetOutcome::Over)],
        "that instance is over"
    );
    assert_eq!(pair.rig.closes(), []);
    // Two nodes ask, or one in two epochs.
    for number in [10, 11] {
        let wish = wish.clone();
        pair.rig.step(Event::ResetAsked { number, wish });
    }
    assert_eq!(pair.rig.closes().len(), 3);
    for queue in [pair.other_admin, pair.other_io[0]] {
        pair.rig.step(Event::Closed { queue });
    }
    assert_eq!(answered(&mut pair.rig), [], "a queue is still draining");
    pair.rig.step(Event::Closed {
        queue: pair.other_io[1],
    });
    let both = [(10, ResetOutcome::Over), (11, ResetOutcome::Over)];
    assert_eq!(answered(&mut pair.rig), both);
    pair.rig.step(Event::ResetAsked { number: 12, wish });
    assert_eq!(answered(&mut pair.rig), [(12, ResetOutcome::Over)]);
}

/// A discovery controller is nobody's path to data.
#[test]
fn a_discovery_controller_is_not_reset_for_another_node() {
    let mut pair = pair();
    let (admin, cntlid) = pair.rig.discovery_controller(1);
    let mut entry = identify();
    entry.set_dword(10, 1);
    let page = pair.rig.command(admin, entry, &[]).data;
    let wish = ResetWish {
        cntlid,
        instance: page[135],
        random: u64::from_le_bytes(page[136..144].try_into().unwrap()),
        host: host_nqn(1),
    };
    pair.rig.step(Event::ResetAsked { number: 1, wish });
    assert_eq!(answered(&mut pair.rig), [(1, ResetOutcome::Refused)]);
    assert_eq!(pair.rig.closes(), []);
}
