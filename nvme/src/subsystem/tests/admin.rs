//! Identify, features, log pages, events and Abort of a connected controller.

use super::*;
use crate::feature::fid;
use crate::identify::cns;
use crate::log::lid;

fn rig_with_namespaces(nsids: &[u32]) -> Rig {
    let mut rig = Rig::new(config());
    for &nsid in nsids {
        rig.step(Event::NamespaceAdded(namespace(nsid)));
    }
    rig
}

fn features(opcode: u8, identifier: u8, dword11: u32, bytes: u32) -> SubmissionEntry {
    let mut entry = admin(opcode, bytes);
    entry.set_dword(10, u32::from(identifier));
    entry.set_dword(11, dword11);
    entry
}

fn abort(qid: u16, cid: u16) -> SubmissionEntry {
    let mut entry = admin(admin_opcode::ABORT, 0);
    entry.set_dword(10, u32::from(qid) | u32::from(cid) << 16);
    entry
}

#[test]
fn unknown_admin_commands_are_refused_for_good() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.controller(1);
    let (discovery, _) = rig.discovery_controller(1);
    let known = [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0x38, 0x7f];
    for opcode in (0..=255).filter(|opcode| !known.contains(opcode)) {
        for queue in [queue, discovery] {
            let done = rig.command(queue, admin(opcode, 0), &[]);
            assert_eq!(done.status, Status::INVALID_OPCODE.do_not_retry(), "{opcode:#x}");
        }
    }
    for entry in [abort(0, 1), admin(0x38, 0), admin(0xc1, 0)] {
        let done = rig.command(discovery, entry, &[]);
        assert_eq!(done.status, Status::INVALID_OPCODE.do_not_retry());
    }
}

#[test]
fn fabrics_commands_on_io_queues_are_refused() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let io_queue = rig.io_queue(1, cntlid, 1);
    for entry in [
        PropertyAccess::get(1, property::CSTS),
        PropertyAccess::set(1, property::CC, 0),
    ] {
        let done = rig.command(io_queue, entry, &[]);
        assert_eq!(done.status, Status::INVALID_OPCODE.do_not_retry());
    }
    for fctype in [0x05, 0x06, 0x08, 0xff] {
        let mut entry = SubmissionEntry::new(admin_opcode::FABRICS, 1);
        entry.set_fctype(fctype);
        let done = rig.command(queue, entry, &[]);
        assert_eq!(done.status, Status::INVALID_OPCODE.do_not_retry());
    }
    assert_eq!(rig.property(queue, property::CSTS), 1);
}

#[test]
fn namespaces_are_listed_and_described() {
    let mut rig = rig_with_namespaces(&[3, 1, 9]);
    let (queue, cntlid) = rig.controller(1);
    for list in [
        cns::ACTIVE_NAMESPACES,
        cns::ALLOCATED_NAMESPACES,
        cns::COMMAND_SET_ACTIVE_NAMESPACES,
    ] {
        let page = rig.command(queue, identify(list, 0), &[]).data;
        assert_eq!(
            [
                dword(&page, 0),
                dword(&page, 4),
                dword(&page, 8),
                dword(&page, 12)
            ],
            [1, 3, 9, 0]
        );
        let page = rig.command(queue, identify(list, 3), &[]).data;
        assert_eq!([dword(&page, 0), dword(&page, 4)], [9, 0]);
        assert!(
            !rig.command(queue, identify(list, 0xffff_fffe), &[])
                .status
                .is_success()
        );
    }
    let page = rig.command(queue, identify(cns::NAMESPACE, 3), &[]).data;
    assert_eq!(
        (dword(&page, 0), page[104], page[130], page[30]),
        (1 << 20, 3, 12, 1)
    );
    let page = rig
        .command(queue, identify(cns::NAMESPACE_DESCRIPTORS, 3), &[])
        .data;
    assert_eq!((page[0], page[4], page[20], page[24]), (2, 3, 3, 0xfc));
    let page = rig
        .command(queue, identify(cns::INDEPENDENT_NAMESPACE, 3), &[])
        .data;
    assert_eq!((page[1], page[14]), (1, 1));
    for list in [cns::NAMESPACE_CONTROLLERS, cns::SUBSYSTEM_CONTROLLERS] {
        let page = rig.command(queue, identify(list, 3), &[]).data;
        assert_eq!((word(&page, 0), word(&page, 2)), (1, cntlid));
    }
}

#[test]
fn every_structure_that_initiators_ask_for_is_there_and_others_are_refused() {
    let mut rig = rig_with_namespaces(&[1]);
    let (queue, _) = rig.controller(1);
    let known = [0, 1, 2, 3, 5, 6, 7, 8, 0x10, 0x11, 0x12, 0x13, 0x16, 0x17];
    for structure in 0..=255 {
        let done = rig.command(queue, identify(structure, 1), &[]);
        if known.contains(&structure) {
            assert_eq!(
                (done.status, done.data.len()),
                (Status::SUCCESS, 4096),
                "CNS {structure:#x}"
            );
        } else {
            assert_eq!(
                done.status,
                Status::INVALID_FIELD.do_not_retry(),
                "CNS {structure:#x}"
            );
        }
    }
    let mut entry = identify(cns::COMMAND_SETS, 0);
    entry.set_dword(10, entry.dword(10) | 0xffff_0000);
    assert_eq!(rig.command(queue, entry, &[]).data[0], 1, "the NVM command set");
    let mut entry = identify(cns::COMMAND_SET_CONTROLLER, 0);
    entry.set_dword(11, 2 << 24);
    assert!(
        !rig.command(queue, entry, &[]).status.is_success(),
        "no zoned namespaces"
    );
}

#[test]
fn inactive_namespaces_are_zeroes_and_impossible_ones_are_refused() {
    let mut rig = rig_with_namespaces(&[1]);
    let (queue, _) = rig.controller(1);
    let done = rig.command(queue, identify(cns::NAMESPACE, NAMESPACES_MAX), &[]);
    assert_eq!((done.status, done.data), (Status::SUCCESS, vec![0; 4096]));
    for nsid in [0, NAMESPACES_MAX + 1, u32::MAX] {
        let done = rig.command(queue, identify(cns::NAMESPACE, nsid), &[]);
        assert_eq!(done.status, Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry());
    }
    let done = rig.command(queue, identify(cns::NAMESPACE_DESCRIPTORS, 2), &[]);
    assert_eq!(done.status, Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry());
}

#[test]
fn data_for_the_host_has_exactly_the_length_of_its_data_pointer() {
    let mut rig = rig_with_namespaces(&[1]);
    let (queue, _) = rig.controller(1);
    for bytes in [0, 4, 512, 4096, 8192] {
        let mut entry = identify(cns::CONTROLLER, 0);
        entry.set_sgl(Sgl::Transport { length_bytes: bytes });
        let done = rig.command(queue, entry, &[]);
        assert_eq!(done.data.len(), usize::try_from(bytes).unwrap());
    }
    let mut entry = log_page(lid::SMART, 0, 512);
    entry.set_sgl(Sgl::Transport { length_bytes: 4096 });
    let data = rig.command(queue, entry, &[]).data;
    assert!(data.len() == 4096 && data[512..].iter().all(|&byte| byte == 0));
    let mut entry = identify(cns::CONTROLLER, 0);
    entry.set_sgl(Sgl::Transport {
        length_bytes: u32::MAX,
    });
    assert_eq!(
        rig.command(queue, entry, &[]).status,
        Status::INVALID_FIELD.do_not_retry()
    );
}

#[test]
fn features_reach_the_controller() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let set = features(admin_opcode::SET_FEATURES, fid::NUMBER_OF_QUEUES, 1 | 1 << 16, 0);
    assert_eq!(rig.command(queue, set, &[]).result, 1 | 1 << 16);
    let late = rig.open(MAIN);
    let done = rig.connect(late, io_connect(3), &io_data(1, cntlid));
    assert_eq!(
        (done.status, done.result),
        (Status::CONNECT_INVALID_PARAMETERS, 42)
    );
    assert_eq!(
        rig.connect(late, io_connect(2), &io_data(1, cntlid)).status,
        Status::SUCCESS
    );
    assert!(
        rig.command(queue, set, &[])
            .status
            .same_code(Status::COMMAND_SEQUENCE_ERROR)
    );
    let identifier = features(admin_opcode::GET_FEATURES, fid::HOST_IDENTIFIER, 1, 16);
    assert_eq!(rig.command(queue, identifier, &[]).data, [1; 16]);
    let timestamp = features(admin_opcode::SET_FEATURES, fid::TIMESTAMP, 0, 8);
    assert_eq!(
        rig.command(queue, timestamp, &1_700_000_000_000_u64.to_le_bytes())
            .status,
        Status::SUCCESS
    );
    rig.now_ns += 3 * MS;
    let timestamp = features(admin_opcode::GET_FEATURES, fid::TIMESTAMP, 0, 8);
    let data = rig.command(queue, timestamp, &[]).data;
    assert_eq!(data[..6], (1_700_000_000_003_u64).to_le_bytes()[..6]);
}

#[test]
fn namespace_changes_are_told_once_until_the_list_is_read() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.controller(1);
    let slot = rig.send(queue, admin(0x0c, 0), &[]);
    assert_eq!(rig.completion(queue, slot), None, "nothing to tell yet");
    rig.step(Event::NamespaceAdded(namespace(4)));
    let done = rig.completion(queue, slot).expect("the change is told");
    assert_eq!((done.status, done.result), (Status::SUCCESS, 0x04_0002));
    let slot = rig.send(queue, admin(0x0c, 0), &[]);
    rig.step(Event::NamespaceResized {
        nsid: 4,
        blocks: 2 << 20,
    });
    rig.step(Event::NamespaceAdded(namespace(2)));
    rig.step(Event::NamespaceRemoved { nsid: 2 });
    assert_eq!(
        rig.completion(queue, slot),
        None,
        "told once until the list is read"
    );
    let mut retained = log_page(lid::CHANGED_NAMESPACES, 0, 4096);
    retained.set_dword(10, retained.dword(10) | 1 << 15);
    for entry in [retained, retained, log_page(lid::CHANGED_NAMESPACES, 0, 4096)] {
        let page = rig.command(queue, entry, &[]).data;
        assert_eq!([dword(&page, 0), dword(&page, 4), dword(&page, 8)], [2, 4, 0]);
    }
    let page = rig
        .command(queue, log_page(lid::CHANGED_NAMESPACES, 0, 4096), &[])
        .data;
    assert_eq!(dword(&page, 0), 0, "the list starts anew");
    rig.step(Event::NamespaceResized {
        nsid: 4,
        blocks: 3 << 20,
    });
    assert!(rig.completion(queue, slot).is_some(), "and so do the events");
    let page = rig.command(queue, identify(cns::NAMESPACE, 4), &[]).data;
    assert_eq!(dword(&page, 0), 3 << 20);
}

#[test]
fn a_change_reaches_every_controller_and_waits_for_a_request() {
    let mut rig = Rig::new(config());
    let queues: Vec<QueueId> = (1..4).map(|host| rig.controller(host).0).collect();
    rig.step(Event::NamespaceAdded(namespace(1)));
    for queue in queues {
        let done = rig.command(queue, admin(0x0c, 0), &[]);
        assert_eq!(done.result, 0x04_0002);
    }
}

#[test]
fn events_that_a_host_does_not_want_are_not_told() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.controller(1);
    let off = features(admin_opcode::SET_FEATURES, fid::ASYNC_EVENT_CONFIGURATION, 0, 0);
    rig.command(queue, off, &[]);
    let slot = rig.send(queue, admin(0x0c, 0), &[]);
    rig.step(Event::NamespaceAdded(namespace(1)));
    rig.step(Event::Health(Health {
        critical_warning: 0x1f,
        ..Health::default()
    }));
    assert_eq!(rig.completion(queue, slot), None);
}

#[test]
fn critical_warnings_are_told_to_hosts_that_asked_for_them() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.controller(1);
    let on = features(
        admin_opcode::SET_FEATURES,
        fid::ASYNC_EVENT_CONFIGURATION,
        0x1f,
        0,
    );
    rig.command(queue, on, &[]);
    let slot = rig.send(queue, admin(0x0c, 0), &[]);
    let degraded = Health {
        critical_warning: 1 << 2,
        media_errors: 3,
        ..Health::default()
    };
    rig.step(Event::Health(degraded));
    assert_eq!(
        rig.completion(queue, slot).map(|done| done.result),
        Some(0x02_0001)
    );
    let page = rig.command(queue, log_page(lid::SMART, 0, 512), &[]).data;
    assert_eq!((page[0], page[160]), (4, 3));
    let mut one = log_page(lid::SMART, 0, 512);
    one.set_nsid(1);
    assert!(
        !rig.command(queue, one, &[]).status.is_success(),
        "no page for one namespace"
    );
}

#[test]
fn event_requests_are_limited_to_aerl() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.controller(1);
    let aerl = rig.command(queue, identify(cns::CONTROLLER, 0), &[]).data[259];
    for _ in 0..=aerl {
        let slot = rig.send(queue, admin(0x0c, 0), &[]);
        assert_eq!(rig.completion(queue, slot), None);
    }
    let done = rig.command(queue, admin(0x0c, 0), &[]);
    assert!(done.status.same_code(Status::ASYNC_EVENT_LIMIT_EXCEEDED));
}

#[test]
fn aborts_ask_the_runtime_and_tell_the_truth() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let io_queue = rig.io_queue(1, cntlid, 2);
    for (aborted, result) in [(true, 0), (false, 1)] {
        let slot = rig.send(queue, abort(2, 77), &[]);
        assert_eq!(rig.completion(queue, slot), None, "the runtime decides");
        let asked = rig.actions.iter().find_map(|action| match action {
            Action::Abort { queue, cid, token } => Some((*queue, *cid, *token)),
            Action::Accept { .. }
            | Action::Complete { .. }
            | Action::Close { .. }
            | Action::EnforceReservation(_)
            | Action::PersistReservation { .. }
            | Action::PassReservation(_)
            | Action::ResetElsewhere { .. }
            | Action::ResetAnswered { .. }
            | Action::Report(_) => None,
        });
        let (asked_queue, cid, token) = asked.expect("the runtime is asked");
        assert_eq!((asked_queue, cid), (io_queue, 77));
        rig.actions.clear();
        rig.step(Event::Aborted {
            token: token.wrapping_add(1),
            aborted,
        });
        assert_eq!(rig.actions, [], "a foreign answer changes nothing");
        rig.step(Event::Aborted { token, aborted });
        assert_eq!(
            rig.completion(queue, slot).map(|done| (done.status, done.result)),
            Some((Status::SUCCESS, result))
        );
        rig.step(Event::Aborted { token, aborted });
        assert_eq!(rig.completion(queue, slot), None, "completed once");
    }
}

#[test]
fn aborts_are_limited_to_acl_and_end_with_their_queue() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let io_queue = rig.io_queue(1, cntlid, 1);
    let acl = rig.command(queue, identify(cns::CONTROLLER, 0), &[]).data[258];
    let slots: Vec<u16> = (0..=u16::from(acl))
        .map(|cid| rig.send(queue, abort(1, cid), &[]))
        .collect();
    let done = rig.command(queue, abort(1, 99), &[]);
    assert!(done.status.same_code(Status::ABORT_LIMIT_EXCEEDED));
    rig.close(io_queue);
    for slot in slots {
        assert_eq!(
            rig.completion(queue, slot).map(|done| done.result),
            Some(1),
            "not aborted"
        );
    }
    assert_eq!(
        rig.command(queue, abort(1, 0), &[]).result,
        1,
        "the queue is gone"
    );
}

#[test]
fn event_requests_can_be_aborted() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.controller(1);
    let mut entry = admin(0x0c, 0);
    entry.set_cid(31);
    let slot = rig.send(queue, entry, &[]);
    assert_eq!(rig.command(queue, abort(0, 30), &[]).result, 1);
    assert_eq!(rig.command(queue, abort(0, 31), &[]).result, 0);
    assert_eq!(
        rig.completion(queue, slot).map(|done| done.status),
        Some(Status::COMMAND_ABORT_REQUESTED)
    );
}

#[test]
fn every_log_page_that_is_named_as_supported_can_be_read() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.controller(1);
    let supported = rig
        .command(queue, log_page(lid::SUPPORTED_PAGES, 0, 1024), &[])
        .data;
    for page in 0..=255 {
        let done = rig.command(queue, log_page(page, 0, 512), &[]);
        if supported[usize::from(page) * 4] == 1 {
            assert_eq!(
                (done.status, done.data.len()),
                (Status::SUCCESS, 512),
                "{page:#x}"
            );
        } else {
            assert_eq!(done.status, Status::INVALID_LOG_PAGE.do_not_retry(), "{page:#x}");
        }
    }
    let done = rig.command(queue, log_page(lid::SMART, 516, 4), &[]);
    assert_eq!(done.status, Status::INVALID_FIELD.do_not_retry(), "past the end");
    let tail = rig.command(queue, log_page(lid::EFFECTS, 1028, 4), &[]).data;
    assert_eq!(tail, [3, 0, 0, 0], "Write, read from an offset on");
}

#[test]
fn failures_appear_in_the_error_log_of_their_controller_only() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let (other, _) = rig.controller(2);
    let io_queue = rig.io_queue(1, cntlid, 3);
    let status = Status::UNRECOVERED_READ_ERROR;
    rig.step(Event::IoFailed {
        queue: io_queue,
        cid: 8,
        status,
        nsid: 1,
        slba: 77,
    });
    rig.command(queue, admin(0xc0, 0), &[]);
    let page = rig.command(queue, log_page(lid::ERROR, 0, 4096), &[]).data;
    assert_eq!(
        (page[0], word(&page, 8), word(&page, 12)),
        (2, 0, (1 << 14 | 1) << 1)
    );
    assert_eq!((page[64], word(&page, 72), word(&page, 74)), (1, 3, 8));
    assert_eq!((word(&page, 76), page[80], page[88]), (0x281 << 1, 77, 1));
    let page = rig.command(queue, log_page(lid::SMART, 0, 512), &[]).data;
    assert_eq!(page[176], 2, "the number of errors");
    let page = rig.command(other, log_page(lid::ERROR, 0, 64), &[]).data;
    assert_eq!(page, [0; 64]);
}
