//! Connect and identity: what may connect, and what it is called.

use std::ops::RangeInclusive;

use super::*;
use crate::identify::cns;

#[test]
fn identify_cntlid_and_name_equal_the_connect_reply() {
    let mut rig = Rig::new(config());
    let (queue, cntlid) = rig.controller(1);
    let page = rig.command(queue, identify(cns::CONTROLLER, 0), &[]).data;
    assert_eq!((page.len(), word(&page, 78)), (4096, cntlid));
    assert_eq!(Nqn::from_field(&page[768..1024]), Ok(subsystem_nqn()));
    assert_ne!(word(&page, 320), 0, "KAS");
    assert!(
        dword(&page, 1792) >= 4 && dword(&page, 1796) >= 1,
        "IOCCSZ, IORCSZ"
    );
    assert_ne!(word(&page, 514), 0, "MAXCMD");
    assert_eq!(page[76], 0b1011, "CMIC");
}

#[test]
fn an_accepted_queue_is_announced_before_its_connect_completes() {
    let mut rig = Rig::new(config());
    let (_, cntlid) = rig.controller(1);
    rig.actions.clear();
    let queue = rig.open(MAIN);
    let connect = Connect {
        cattr: Connect::CATTR_DISABLE_FLOW_CONTROL,
        ..io_connect(2)
    };
    let slot = rig.send(queue, connect.encode(0), &io_data(1, cntlid).encode());
    let host = host_nqn(1);
    assert_eq!(
        rig.actions[0],
        Action::Accept {
            queue,
            qid: 2,
            entries: 128,
            flow_control: false,
            volatile_write_cache: false,
            cntlid,
            host,
            hostid: crate::reservation::HostId([1; 16]),
        }
    );
    let Action::Complete { slot: completed, .. } = rig.actions[1] else {
        panic!("a completion")
    };
    assert_eq!(completed, slot);
}

#[test]
fn cntlids_are_unique_stay_in_their_slice_and_are_not_reused_at_once() {
    let mut rig = Rig::new(Config {
        cntlids: 100..=119,
        controllers_max: 4,
        ..config()
    });
    let mut last = None;
    let mut seen = Vec::new();
    for _ in 0..60 {
        let (queue, cntlid) = rig.associate(&subsystem_nqn(), 1);
        assert!((100..=119).contains(&cntlid));
        assert_ne!(Some(cntlid), last, "an identifier rests before it is used again");
        assert!(
            seen.len() < 20 || seen.contains(&cntlid),
            "the slice is used up first"
        );
        seen.push(cntlid);
        last = Some(cntlid);
        rig.close(queue);
        rig.closes();
    }
    let held: Vec<u16> = (0..4)
        .map(|host| rig.associate(&subsystem_nqn(), host).1)
        .collect();
    for (index, cntlid) in held.iter().enumerate() {
        assert!(!held[..index].contains(cntlid), "identifiers are unique");
    }
}

#[test]
fn a_cntlid_stays_taken_until_every_queue_is_closed() {
    let mut rig = Rig::new(Config {
        cntlids: 5..=6,
        controllers_max: 2,
        ..config()
    });
    let (admin_queue, cntlid) = rig.controller(1);
    let io_queue = rig.io_queue(1, cntlid, 1);
    rig.close(admin_queue);
    assert_eq!(rig.closes(), [(io_queue, CloseReason::AdminQueueGone)]);
    let (_, second) = rig.associate(&subsystem_nqn(), 2);
    assert_ne!(second, cntlid);
    let queue = rig.open(MAIN);
    let refused = rig.connect(queue, admin_connect(), &data(&subsystem_nqn(), 3));
    assert_eq!(refused.status, Status::CONNECT_CONTROLLER_BUSY);
    rig.close(io_queue);
    let done = rig.connect(queue, admin_connect(), &data(&subsystem_nqn(), 3));
    assert_eq!((done.status, done.result), (Status::SUCCESS, u64::from(cntlid)));
}

#[test]
fn only_dynamic_controllers_are_allocated() {
    let mut rig = Rig::new(config());
    let queue = rig.open(MAIN);
    let asked = ConnectData {
        cntlid: 100,
        ..data(&subsystem_nqn(), 1)
    };
    let done = rig.connect(queue, admin_connect(), &asked);
    assert_eq!(
        (done.status, done.result),
        (Status::CONNECT_INVALID_PARAMETERS, 1 << 16 | 16)
    );
    assert_eq!(
        rig.connect(queue, admin_connect(), &data(&subsystem_nqn(), 1))
            .status,
        Status::SUCCESS
    );
}

#[test]
fn malformed_connects_name_the_wrong_parameter() {
    let mut rig = Rig::new(config());
    let queue = rig.open(MAIN);
    let good = data(&subsystem_nqn(), 1);
    let done = rig.connect(
        queue,
        Connect {
            recfmt: 1,
            ..admin_connect()
        },
        &good,
    );
    assert_eq!(done.status, Status::CONNECT_INCOMPATIBLE_FORMAT);
    for sqsize in [0, ADMIN_ENTRIES_MAX, u16::MAX] {
        let done = rig.connect(
            queue,
            Connect {
                sqsize,
                ..admin_connect()
            },
            &good,
        );
        assert_eq!(
            (done.status, done.result),
            (Status::CONNECT_INVALID_PARAMETERS, 44)
        );
    }
    let done = rig.connect(
        queue,
        admin_connect(),
        &data(&nqn("nqn.2026-01.io.braid:other"), 1),
    );
    assert_eq!(
        (done.status, done.result),
        (Status::CONNECT_INVALID_PARAMETERS, 1 << 16 | 256)
    );
    let done = rig.command(queue, admin_connect().encode(0), &good.encode()[..1000]);
    assert_eq!(done.status, Status::DATA_SGL_LENGTH_INVALID);
    let mut bytes = good.encode();
    bytes[512..768].fill(b'x');
    let done = rig.command(queue, admin_connect().encode(0), &bytes);
    assert_eq!(
        (done.status, done.result),
        (Status::CONNECT_INVALID_PARAMETERS, 1 << 16 | 512)
    );
    assert_eq!(
        rig.connect(queue, admin_connect(), &good).status,
        Status::SUCCESS,
        "still welcome"
    );
}

#[test]
fn dnr_on_connect_is_used_for_hosts_that_are_not_allowed_only() {
    let mut rig = Rig::new(Config {
        allow: HostAccess::List(vec![host_nqn(1)]),
        ..config()
    });
    let queue = rig.open(MAIN);
    let done = rig.connect(queue, admin_connect(), &data(&subsystem_nqn(), 2));
    assert_eq!(done.status, Status::CONNECT_INVALID_HOST.do_not_retry());
    for refusal in [
        Refusal::RecordFormat,
        Refusal::Data(crate::fabrics::ConnectDataError::Length { bytes: 0 }),
        Refusal::UnknownSubsystem,
        Refusal::QueueSize,
        Refusal::StaticController,
        Refusal::Busy,
        Refusal::UnknownController,
        Refusal::OtherHostNqn,
        Refusal::OtherHostId,
        Refusal::NotReady,
        Refusal::QueueIdentifier,
        Refusal::QueueExists,
        Refusal::SecondConnect,
    ] {
        assert!(!refusal.status().is_do_not_retry(), "{refusal}");
    }
}

#[test]
fn a_host_that_is_not_on_the_list_sees_nothing_of_the_subsystem() {
    let mut rig = Rig::new(Config {
        allow: HostAccess::List(vec![host_nqn(1)]),
        ..config()
    });
    rig.step(Event::NamespaceAdded(namespace(1)));
    let queue = rig.open(MAIN);
    let done = rig.connect(queue, admin_connect(), &data(&subsystem_nqn(), 2));
    assert_eq!((done.result, done.data), (0, Vec::new()));
    let done = rig.command(queue, identify(cns::NAMESPACE, 1), &[]);
    assert_eq!(
        (done.status.same_code(Status::COMMAND_SEQUENCE_ERROR), done.data),
        (true, Vec::new())
    );
    let (discovery, _) = rig.discovery_controller(2);
    let page = rig.command(discovery, log_page(0x70, 0, 4096), &[]).data;
    assert_eq!(
        (page[8], page[1024 + 2]),
        (1, 3),
        "only the discovery subsystem itself"
    );
    let text = String::from_utf8_lossy(&page).into_owned();
    assert!(!text.contains("node-a"), "the name leaks nowhere");
    let page = rig.command(discovery, identify(cns::CONTROLLER, 0), &[]).data;
    assert!(!String::from_utf8_lossy(&page).contains("node-a"));
    let done = rig.command(discovery, identify(cns::ACTIVE_NAMESPACES, 0), &[]);
    assert_eq!(
        (done.status.same_code(Status::INVALID_FIELD), done.data),
        (true, Vec::new())
    );
}

#[test]
fn io_connects_must_fit_their_association() {
    let mut rig = Rig::new(config());
    let (_, cntlid) = rig.controller(1);
    let (_, discovery_cntlid) = rig.discovery_controller(1);
    let queue = rig.open(MAIN);
    let invalid = Status::CONNECT_INVALID_PARAMETERS;
    let data_at = |offset: u64| 1 << 16 | offset;
    let cases = [
        (
            io_connect(1),
            io_data(1, 150),
            data_at(16),
            "an unknown controller",
        ),
        (io_connect(1), io_data(1, 0xffff), data_at(16), "no controller"),
        (
            io_connect(1),
            io_data(1, discovery_cntlid),
            data_at(16),
            "a controller of another subsystem",
        ),
        (io_connect(1), io_data(2, cntlid), data_at(512), "another host"),
        (
            io_connect(1),
            ConnectData {
                hostid: [9; 16],
                ..io_data(1, cntlid)
            },
            data_at(0),
            "another host id",
        ),
        (
            io_connect(5),
            io_data(1, cntlid),
            42,
            "a queue identifier above the granted number",
        ),
        (
            Connect {
                sqsize: 128,
                ..io_connect(1)
            },
            io_data(1, cntlid),
            44,
            "a queue size above MQES",
        ),
        (
            Connect {
                sqsize: 0,
                ..io_connect(1)
            },
            io_data(1, cntlid),
            44,
            "a queue of one entry",
        ),
    ];
    for (connect, data, result, what) in cases {
        let done = rig.connect(queue, connect, &data);
        assert_eq!((done.status, done.result), (invalid, result), "{what}");
    }
    assert_eq!(
        rig.connect(queue, io_connect(1), &io_data(1, cntlid)).status,
        Status::SUCCESS
    );
}

#[test]
fn discovery_controllers_have_no_io_queues() {
    let mut rig = Rig::new(config());
    let (_, cntlid) = rig.discovery_controller(1);
    let queue = rig.open(MAIN);
    let on_discovery = ConnectData {
        cntlid,
        ..data(&Nqn::DISCOVERY, 1)
    };
    let done = rig.connect(queue, io_connect(1), &on_discovery);
    assert_eq!(
        (done.status, done.result),
        (Status::CONNECT_INVALID_PARAMETERS, 42)
    );
}

#[test]
fn io_connects_wait_for_the_controller_to_be_enabled() {
    let mut rig = Rig::new(config());
    let (admin_queue, cntlid) = rig.associate(&subsystem_nqn(), 1);
    let queue = rig.open(MAIN);
    let done = rig.connect(queue, io_connect(1), &io_data(1, cntlid));
    assert_eq!(done.status, Status::COMMAND_SEQUENCE_ERROR);
    rig.set_cc(admin_queue, Configuration::START.0);
    assert_eq!(
        rig.connect(queue, io_connect(1), &io_data(1, cntlid)).status,
        Status::SUCCESS
    );
}

#[test]
fn a_second_connect_on_a_connection_is_a_sequence_error_and_changes_nothing() {
    let mut rig = Rig::new(config());
    let (admin_queue, cntlid) = rig.controller(1);
    let io_queue = rig.io_queue(1, cntlid, 1);
    let done = rig.connect(admin_queue, admin_connect(), &data(&subsystem_nqn(), 1));
    assert_eq!(done.status, Status::COMMAND_SEQUENCE_ERROR);
    let done = rig.connect(io_queue, io_connect(1), &io_data(1, cntlid));
    assert_eq!(done.status, Status::COMMAND_SEQUENCE_ERROR);
    assert_eq!(
        rig.subsystem
            .associations()
            .map(|it| it.io_queues)
            .collect::<Vec<_>>(),
        [1]
    );
}

#[test]
fn commands_before_connect_are_sequence_errors() {
    let mut rig = Rig::new(config());
    let queue = rig.open(MAIN);
    for entry in [
        identify(cns::CONTROLLER, 0),
        PropertyAccess::get(1, property::CAP),
        admin(0x18, 0),
    ] {
        let done = rig.command(queue, entry, &[]);
        assert_eq!(done.status, Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
    }
}

#[test]
fn a_queue_that_is_not_torn_down_yet_is_awaited_briefly() {
    let mut rig = Rig::new(config());
    let (_, cntlid) = rig.controller(1);
    let old = rig.io_queue(1, cntlid, 1);
    let new = rig.open(MAIN);
    let slot = rig.send(new, io_connect(1).encode(0), &io_data(1, cntlid).encode());
    rig.wait(500 * MS);
    assert_eq!(
        rig.completion(new, slot),
        None,
        "neither accepted nor refused yet"
    );
    let done = rig.connect(new, io_connect(2), &io_data(1, cntlid));
    assert_eq!(
        done.status,
        Status::COMMAND_SEQUENCE_ERROR,
        "one Connect at a time"
    );
    rig.close(old);
    assert_eq!(
        rig.completion(new, slot).map(|done| done.status),
        Some(Status::SUCCESS)
    );
}

#[test]
fn a_queue_that_is_never_torn_down_is_not_awaited_for_ever() {
    let mut rig = Rig::new(config());
    let (_, cntlid) = rig.controller(1);
    let old = rig.io_queue(1, cntlid, 1);
    let new = rig.open(MAIN);
    let slot = rig.send(new, io_connect(1).encode(0), &io_data(1, cntlid).encode());
    rig.wait(900 * MS);
    assert_eq!(rig.completion(new, slot), None);
    rig.wait(200 * MS);
    assert_eq!(
        rig.completion(new, slot).map(|done| done.status),
        Some(Status::COMMAND_SEQUENCE_ERROR)
    );
    rig.close(old);
    assert_eq!(rig.completion(new, slot), None, "completed once");
    assert_eq!(
        rig.connect(new, io_connect(1), &io_data(1, cntlid)).status,
        Status::SUCCESS
    );
}

#[test]
fn a_held_connect_ends_with_its_connection_or_its_controller() {
    let mut rig = Rig::new(config());
    let (admin_queue, cntlid) = rig.controller(1);
    let old = rig.io_queue(1, cntlid, 1);
    let gone = rig.open(MAIN);
    let gone_slot = rig.send(gone, io_connect(1).encode(0), &io_data(1, cntlid).encode());
    rig.close(gone);
    let orphan = rig.open(MAIN);
    let orphan_slot = rig.send(orphan, io_connect(1).encode(0), &io_data(1, cntlid).encode());
    rig.close(admin_queue);
    rig.close(old);
    rig.wait(100 * MS);
    assert_eq!(rig.completion(gone, gone_slot), None);
    let done = rig
        .completion(orphan, orphan_slot)
        .expect("the controller is gone");
    assert_eq!(
        (done.status, done.result),
        (Status::CONNECT_INVALID_PARAMETERS, 1 << 16 | 16)
    );
}

/// Goal: a flood does not push out a host that came after it.
/// Method: cores report what they took over in another order than it was accepted, the host's connection first.
#[test]
fn the_oldest_make_way_in_whatever_order_connections_are_reported() {
    let mut rig = Rig::new(config());
    let flood = UNCONNECTED_MAX * 3;
    let last = flood as u64;
    rig.now_ns = SECOND;
    let host = rig.open_accepted(MAIN, rig.now_ns + last);
    for at in 0..last {
        rig.open_accepted(MAIN, rig.now_ns + (at * 7) % last);
    }
    let closes = rig.closes();
    assert_eq!(closes.len(), flood + 1 - UNCONNECTED_MAX);
    assert!(closes.iter().all(|(queue, _)| *queue != host), "it is the newest");
    let slot = rig.send(
        host,
        admin_connect().encode(0),
        &data(&subsystem_nqn(), 1).encode(),
    );
    assert!(rig.completion(host, slot).unwrap().status.is_success());
}

#[test]
fn ten_thousand_connections_without_a_connect_are_bounded_and_shut_nobody_out() {
    let mut rig = Rig::new(config());
    for _ in 0..10_000 {
        rig.now_ns += MS / 10;
        rig.open(MAIN);
        assert!(rig.subsystem.queues.len() <= UNCONNECTED_MAX);
    }
    let closes = rig.closes();
    assert_eq!(closes.len(), 10_000 - UNCONNECTED_MAX);
    let victims = (1..).map(QueueId);
    assert!(
        closes
            .iter()
            .map(|(queue, _)| *queue)
            .eq(victims.take(closes.len())),
        "the oldest make way"
    );
    assert!(
        closes
            .iter()
            .all(|(_, reason)| *reason == CloseReason::TooManyUnconnected)
    );
    let (_, cntlid) = rig.controller(1);
    assert!(cntlid >= 100, "a real host still gets in");
    rig.closes();
    rig.wait(CONNECT_TIMEOUT_NS + SECOND);
    let closes = rig.closes();
    let timeouts = closes
        .iter()
        .filter(|(_, reason)| *reason == CloseReason::ConnectTimeout)
        .count();
    assert_eq!(timeouts, UNCONNECTED_MAX - 1, "the rest runs into its deadline");
    assert!(rig.subsystem.unconnected.is_empty());
}

#[test]
fn a_connect_in_time_keeps_the_connection() {
    let mut rig = Rig::new(config());
    let idle = rig.open(MAIN);
    rig.wait(CONNECT_TIMEOUT_NS - 200 * MS);
    assert_eq!(rig.closes(), []);
    let connect = Connect {
        kato_ms: 0,
        ..admin_connect()
    };
    assert_eq!(
        rig.connect(idle, connect, &data(&subsystem_nqn(), 1)).status,
        Status::SUCCESS
    );
    rig.wait(60 * SECOND);
    assert_eq!(rig.closes(), []);
}

#[test]
fn unknown_ports_and_ports_for_discovery_only_serve_no_namespaces() {
    let mut rig = Rig::new(config());
    let queue = rig.open(PortId(99));
    assert_eq!(rig.closes(), [(queue, CloseReason::UnknownPort)]);
    let queue = rig.open(DISCOVERY_PORT);
    let done = rig.connect(queue, admin_connect(), &data(&subsystem_nqn(), 1));
    assert_eq!(
        (done.status, done.result),
        (Status::CONNECT_INVALID_PARAMETERS, 1 << 16 | 256)
    );
    assert_eq!(
        rig.connect(queue, admin_connect(), &data(&Nqn::DISCOVERY, 1))
            .status,
        Status::SUCCESS
    );
}

#[test]
fn discovery_controllers_cannot_use_up_the_controllers() {
    let mut rig = Rig::new(config());
    for _ in 0..4 {
        rig.discovery_controller(1);
    }
    let queue = rig.open(MAIN);
    let done = rig.connect(queue, admin_connect(), &data(&Nqn::DISCOVERY, 1));
    assert_eq!(done.status, Status::CONNECT_CONTROLLER_BUSY);
    for _ in 0..12 {
        rig.controller(1);
    }
    let queue = rig.open(MAIN);
    let done = rig.connect(queue, admin_connect(), &data(&subsystem_nqn(), 1));
    assert_eq!(done.status, Status::CONNECT_CONTROLLER_BUSY);
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let refused = |config: Config| Subsystem::new(config).expect_err("must not be accepted");
    assert_eq!(
        refused(Config {
            nqn: Nqn::DISCOVERY,
            ..config()
        }),
        ConfigError::DiscoveryNqn
    );
    for cntlids in [0..=100, 1..=0xfff0, RangeInclusive::new(7, 6), 100..=110] {
        assert_eq!(refused(Config { cntlids, ..config() }), ConfigError::Cntlids);
    }
    let long = refused(Config {
        serial: "x".repeat(21),
        ..config()
    });
    assert_eq!(
        long,
        ConfigError::Text {
            field: "serial",
            bytes_max: 20
        }
    );
    assert!(matches!(
        refused(Config {
            model: "ü".into(),
            ..config()
        }),
        ConfigError::Text { .. }
    ));
    for max_transfer_bytes in [0, 4096, 12_288, 1 << 31] {
        assert!(matches!(
            refused(Config {
                max_transfer_bytes,
                ..config()
            }),
            ConfigError::Number { .. }
        ));
    }
    assert!(matches!(
        refused(Config {
            in_capsule_bytes: 8,
            ..config()
        }),
        ConfigError::Number { .. }
    ));
    assert!(matches!(
        refused(Config {
            queue_entries_max: 1,
            ..config()
        }),
        ConfigError::Number { .. }
    ));
    let ports = vec![port(MAIN, "::", "4420", false); PORTS_MAX + 1];
    assert_eq!(refused(Config { ports, ..config() }), ConfigError::Ports);
}

#[test]
fn queues_of_one_association_share_its_transport_which_shapes_its_identity() {
    let rdma = Port {
        transport: Transport::Rdma,
        ..port(PortId(3), "10.0.2.2", "4420", false)
    };
    let mut rig = Rig::new(Config {
        ports: [config().ports, vec![rdma]].concat(),
        ..config()
    });
    let (tcp_queue, cntlid) = rig.controller(1);
    let queue = rig.open(PortId(3));
    let done = rig.connect(queue, io_connect(1), &io_data(1, cntlid));
    assert_eq!(
        (done.status, done.result),
        (Status::CONNECT_INVALID_PARAMETERS, 1 << 16 | 16)
    );
    assert_eq!(
        rig.connect(queue, admin_connect(), &data(&subsystem_nqn(), 1))
            .status,
        Status::SUCCESS
    );
    rig.set_cc(queue, Configuration::START.0);
    let sgls = |rig: &mut Rig, queue| dword(&rig.command(queue, identify(cns::CONTROLLER, 0), &[]).data, 536);
    assert_eq!(sgls(&mut rig, tcp_queue), 1 | 1 << 20 | 1 << 21);
    assert_eq!(
        sgls(&mut rig, queue),
        1 | 1 << 20 | 1 << 2,
        "keyed SGLs, which the kernel insists on"
    );
}

/// PROTOCOL H39: what a controller says of its write cache holds for its whole life, whatever namespaces come later.
#[test]
fn a_controller_has_a_write_cache_if_a_namespace_had_one_when_it_was_made() {
    let said = |rig: &Rig, cntlid: u16| {
        let accepted = rig.actions.iter().find_map(|action| match action {
            Action::Accept {
                cntlid: of,
                volatile_write_cache,
                ..
            } if *of == cntlid => Some(*volatile_write_cache),
            Action::Accept { .. }
            | Action::Complete { .. }
            | Action::Abort { .. }
            | Action::Close { .. }
            | Action::EnforceReservation(_)
            | Action::PersistReservation { .. }
            | Action::PassReservation(_)
            | Action::ResetElsewhere { .. }
            | Action::ResetAnswered { .. }
            | Action::Report(_) => None,
        });
        accepted.expect("its admin queue was accepted")
    };
    let mut rig = Rig::new(config());
    rig.step(Event::NamespaceAdded(namespace(1)));
    rig.actions.clear();
    let (_, before) = rig.controller(1);
    assert!(!said(&rig, before));
    rig.step(Event::NamespaceAdded(Namespace {
        volatile: true,
        ..namespace(2)
    }));
    rig.actions.clear();
    let (_, after) = rig.controller(2);
    assert!(said(&rig, after));
    let vwc = |rig: &Rig, cntlid: u16| {
        rig.subsystem
            .controller(cntlid)
            .features
            .has_volatile_write_cache()
    };
    assert_eq!((vwc(&rig, before), vwc(&rig, after)), (false, true));
}
