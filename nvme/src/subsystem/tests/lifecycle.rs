//! Enabling, resets, shutdowns, keep alive, revoked hosts, the end of the process.

use super::*;
use crate::feature::fid;

fn csts(rig: &mut Rig, queue: QueueId) -> u64 {
    rig.property(queue, property::CSTS)
}

#[test]
fn properties_can_be_read_before_enabling_and_nothing_else() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.associate(&subsystem_nqn(), 1);
    let cap = rig.property(queue, property::CAP);
    assert_eq!(cap & 0xffff, 127, "MQES is 0's based");
    assert_eq!(cap >> 16 & 1, 1, "CQR");
    assert_eq!(cap >> 37 & 1, 1, "the NVM command set");
    assert_eq!(
        cap >> 24 & 0xff,
        rig.property(queue, property::CRTO) & 0xffff,
        "CRTO is no less than CAP.TO"
    );
    assert_eq!(rig.property(queue, property::VS), 0x0002_0000);
    assert_eq!((rig.property(queue, property::CC), csts(&mut rig, queue)), (0, 0));
    for opcode in [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18] {
        let done = rig.command(queue, admin(opcode, 0), &[]);
        assert_eq!(done.status, Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
    }
}

#[test]
fn unknown_properties_and_wrong_sizes_are_refused() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.associate(&subsystem_nqn(), 1);
    let refused = Status::INVALID_FIELD.do_not_retry();
    for offset in [0x04, 0x0c, 0x20, 0x24, 0x1000, u32::MAX] {
        assert_eq!(
            rig.command(queue, PropertyAccess::get(1, offset), &[]).status,
            refused
        );
        assert_eq!(
            rig.command(queue, PropertyAccess::set(1, offset, 1), &[]).status,
            refused
        );
    }
    for offset in [property::CAP, property::VS, property::CSTS] {
        assert_eq!(
            rig.command(queue, PropertyAccess::set(1, offset, 0), &[]).status,
            refused
        );
    }
    let mut short = PropertyAccess::get(1, property::CAP);
    short.set_dword(10, 0);
    assert_eq!(rig.command(queue, short, &[]).status, refused);
    let mut reset = PropertyAccess::set(1, property::NSSR, 0);
    reset.set_dword(12, 0x4e56_4d65);
    assert_eq!(
        rig.command(queue, reset, &[]).status,
        refused,
        "there is no subsystem reset"
    );
}

#[test]
fn enabling_makes_ready_and_gives_a_new_instance_each_time() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    assert_eq!(csts(&mut rig, queue), 1);
    let identity = |rig: &mut Rig| {
        let page = rig.command(queue, identify(1, 0), &[]).data;
        (page[135], page[136..144].to_vec())
    };
    let first = identity(&mut rig);
    assert_ne!(first.0, 0, "CIU is never 0");
    rig.set_cc(queue, 0);
    assert_eq!(csts(&mut rig, queue), 0);
    rig.set_cc(queue, Configuration::START.0);
    let second = identity(&mut rig);
    assert!(
        first.0 != second.0 && first.1 != second.1,
        "CIU and CIRN move on each ready"
    );
    for _ in 0..600 {
        rig.set_cc(queue, 0);
        rig.set_cc(queue, Configuration::START.0);
        assert_ne!(rig.subsystem.controller(cntlid).instance, 0);
    }
}

#[test]
fn configurations_that_we_do_not_have_fail_the_controller_until_its_reset() {
    for wrong in [
        1,
        1 | 7 << 16 | 4 << 20,
        1 | 6 << 16 | 5 << 20,
        0x0046_0001 | 1 << 4,
        0x0046_0001 | 1 << 7,
        0x0046_0001 | 1 << 11,
    ] {
        let mut rig = Rig::new(config());
        let (queue, cntlid) = rig.associate(&subsystem_nqn(), 1);
        rig.set_cc(queue, wrong);
        assert_eq!(csts(&mut rig, queue), 2, "CFS for CC {wrong:#x}");
        assert!(
            rig.reports()
                .contains(&Report::BadConfiguration { cntlid, cc: wrong })
        );
        rig.set_cc(queue, 0);
        assert_eq!(csts(&mut rig, queue), 0);
        rig.set_cc(queue, Configuration::START.0);
        assert_eq!(csts(&mut rig, queue), 1);
    }
}

#[test]
fn a_reset_in_the_midst_of_io_is_done_when_the_queues_are_drained() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let first = rig.io_queue(1, cntlid, 1);
    let second = rig.io_queue(1, cntlid, 2);
    let event = rig.send(queue, admin(0x0c, 0), &[]);
    rig.set_cc(queue, 0);
    let expected = [
        (first, CloseReason::ControllerReset),
        (second, CloseReason::ControllerReset),
    ];
    assert_eq!(rig.closes(), expected);
    let done = rig
        .completion(queue, event)
        .expect("event requests do not outlive a reset");
    assert_eq!(done.status, Status::COMMAND_ABORT_REQUESTED);
    assert_eq!(
        csts(&mut rig, queue),
        1,
        "ready until the last command is drained"
    );
    let early = rig.set_cc(queue, Configuration::START.0);
    assert!(
        early.status.same_code(Status::COMMAND_SEQUENCE_ERROR),
        "RDY is not 0 yet"
    );
    rig.close(first);
    assert_eq!(csts(&mut rig, queue), 1);
    rig.close(second);
    assert_eq!(csts(&mut rig, queue), 0);
    rig.set_cc(queue, Configuration::START.0);
    assert_eq!(csts(&mut rig, queue), 1);
    rig.io_queue(1, cntlid, 1);
    assert_eq!(rig.closes(), [], "the association lives on");
}

#[test]
fn shutdowns_complete_when_the_queues_are_drained_and_end_with_a_reset() {
    for notification in [1, 2] {
        let mut rig = Rig::new(config());
        let (queue, cntlid) = rig.controller(1);
        let io_queue = rig.io_queue(1, cntlid, 1);
        rig.set_cc(queue, Configuration::START.0 | notification << 14);
        assert_eq!(rig.closes(), [(io_queue, CloseReason::ControllerShutdown)]);
        assert_eq!(csts(&mut rig, queue), 0b0101, "occurring");
        rig.close(io_queue);
        assert_eq!(csts(&mut rig, queue), 0b1001, "complete");
        let late = rig.open(MAIN);
        let done = rig.connect(late, io_connect(1), &io_data(1, cntlid));
        assert_eq!(done.status, Status::COMMAND_SEQUENCE_ERROR);
        rig.set_cc(queue, 0);
        rig.set_cc(queue, Configuration::START.0);
        assert_eq!(csts(&mut rig, queue), 1);
        assert_eq!(
            rig.connect(late, io_connect(1), &io_data(1, cntlid)).status,
            Status::SUCCESS
        );
    }
}

#[test]
fn keep_alive_expiry_closes_the_association() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let io_queue = rig.io_queue(1, cntlid, 1);
    for _ in 0..10 {
        rig.wait(4 * SECOND);
        assert_eq!(rig.command(queue, admin(0x18, 0), &[]).status, Status::SUCCESS);
    }
    assert_eq!(rig.closes(), [], "a host that keeps alive is kept");
    rig.reports();
    rig.wait(5 * SECOND);
    assert_eq!(rig.closes(), [], "exactly KATO is not too long");
    rig.wait(100 * MS);
    let expired = CloseReason::KeepAliveExpired;
    assert_eq!(rig.closes(), [(io_queue, expired), (queue, expired)]);
    assert_eq!(
        rig.reports(),
        [Report::KeepAliveExpired {
            cntlid,
            host: host_nqn(1)
        }]
    );
    rig.wait(60 * SECOND);
    assert_eq!(rig.closes(), [], "closed once");
    rig.close(queue);
    assert_eq!(
        rig.subsystem.associations().count(),
        1,
        "until every queue is closed"
    );
    rig.close(io_queue);
    assert_eq!(
        rig.reports(),
        [Report::Disconnected {
            cntlid,
            host: host_nqn(1)
        }]
    );
    assert_eq!(rig.subsystem.associations().count(), 0);
}

#[test]
fn keep_alive_follows_set_features_and_can_be_off() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.controller(1);
    let mut entry = admin(admin_opcode::SET_FEATURES, 0);
    entry.set_dword(10, u32::from(fid::KEEP_ALIVE_TIMER));
    entry.set_dword(11, 1500);
    assert_eq!(rig.command(queue, entry, &[]).result, 2000, "rounded up to KAS");
    entry.set_dword(11, 0);
    rig.command(queue, entry, &[]);
    rig.wait(300 * SECOND);
    assert_eq!(rig.closes(), []);
}

#[test]
fn discovery_without_keep_alive_ends_after_two_silent_minutes() {
    let mut rig = Rig::new(config());
    let queue = rig.open(MAIN);
    let connect = Connect {
        kato_ms: 0,
        ..admin_connect()
    };
    assert_eq!(
        rig.connect(queue, connect, &data(&Nqn::DISCOVERY, 1)).status,
        Status::SUCCESS
    );
    rig.wait(119 * SECOND);
    assert_eq!(rig.closes(), []);
    rig.wait(2 * SECOND);
    assert_eq!(rig.closes(), [(queue, CloseReason::KeepAliveExpired)]);
}

#[test]
fn losing_the_admin_queue_ends_the_association() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let io_queue = rig.io_queue(1, cntlid, 1);
    rig.close(queue);
    assert_eq!(rig.closes(), [(io_queue, CloseReason::AdminQueueGone)]);
    let late = rig.open(MAIN);
    let done = rig.connect(late, io_connect(2), &io_data(1, cntlid));
    assert_eq!(
        done.status,
        Status::CONNECT_INVALID_PARAMETERS,
        "no queue joins a dying controller"
    );
    rig.close(io_queue);
    assert_eq!(rig.subsystem.associations().count(), 0);
}

#[test]
fn losing_an_io_queue_frees_its_identifier_only() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let io_queue = rig.io_queue(1, cntlid, 1);
    rig.close(io_queue);
    assert_eq!(rig.closes(), []);
    rig.io_queue(1, cntlid, 1);
    assert_eq!(csts(&mut rig, queue), 1);
}

#[test]
fn revoked_hosts_lose_their_associations_and_others_do_not() {
    let mut rig = Rig::new(config());
    let (kept, _) = rig.controller(1);
    let (revoked, cntlid) = rig.controller(2);
    let io_queue = rig.io_queue(2, cntlid, 1);
    rig.reports();
    rig.step(Event::HostsChanged(HostAccess::List(vec![host_nqn(1)])));
    let reason = CloseReason::HostRevoked;
    assert_eq!(rig.closes(), [(io_queue, reason), (revoked, reason)]);
    assert_eq!(
        rig.reports(),
        [Report::HostRevoked {
            cntlid,
            host: host_nqn(2)
        }]
    );
    assert_eq!(csts(&mut rig, kept), 1);
}

#[test]
fn the_end_of_the_process_closes_everything_and_takes_nobody() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let io_queue = rig.io_queue(1, cntlid, 1);
    let idle = rig.open(MAIN);
    rig.step(Event::Shutdown);
    let reason = CloseReason::Shutdown;
    assert_eq!(
        rig.closes(),
        [(idle, reason), (io_queue, reason), (queue, reason)]
    );
    let late = rig.open(MAIN);
    assert_eq!(rig.closes(), [(late, reason)]);
    rig.close(idle);
    rig.close(io_queue);
    rig.close(queue);
    assert_eq!(
        (rig.subsystem.associations().count(), rig.subsystem.queues.len()),
        (0, 0)
    );
}

#[test]
fn commands_of_a_connection_that_is_being_closed_are_never_completed() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.controller(1);
    rig.wait(6 * SECOND);
    assert_eq!(rig.closes().len(), 1);
    rig.actions.clear();
    rig.send(queue, admin(0x18, 0), &[]);
    rig.step(Event::NamespaceAdded(namespace(1)));
    assert_eq!(rig.actions, []);
}
