//! The discovery log.

use super::*;
use crate::log::{DiscoveryEntry, SubsystemType};

fn header(rig: &mut Rig, queue: QueueId) -> (u64, u64) {
    let page = rig.command(queue, log_page(0x70, 0, 20), &[]).data;
    let number = |at: usize| u64::from(dword(&page, at)) | u64::from(dword(&page, at + 4)) << 32;
    (number(0), number(8))
}

/// Reads the log as libnvme does: the header, the entries in pieces, the header again.
fn read(rig: &mut Rig, queue: QueueId) -> (u64, Vec<DiscoveryEntry>) {
    let (generation, records) = header(rig, queue);
    let mut entries = Vec::new();
    for index in 0..records {
        let page = rig
            .command(queue, log_page(0x70, 1024 * (index + 1), 1024), &[])
            .data;
        entries.push(DiscoveryEntry::parse(&page).unwrap());
    }
    assert_eq!(
        header(rig, queue),
        (generation, records),
        "stable while nothing changes"
    );
    (generation, entries)
}

#[test]
fn a_reader_finds_itself_and_the_subsystem_and_never_a_wildcard() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.discovery_controller(1);
    let (_, entries) = read(&mut rig, queue);
    assert_eq!(
        entries.len(),
        2,
        "the port for discovery only serves no subsystem"
    );
    let own = &entries[0];
    assert_eq!(
        (own.subtype, &own.subnqn),
        (SubsystemType::CurrentDiscovery, &Nqn::DISCOVERY)
    );
    assert_eq!(own.eflags, DiscoveryEntry::EPCSD | DiscoveryEntry::DUPRETINFO);
    let disk = &entries[1];
    assert_eq!(
        (disk.subtype, &disk.subnqn, disk.eflags),
        (SubsystemType::Nvm, &subsystem_nqn(), 0)
    );
    assert_eq!((disk.trtype, disk.adrfam, disk.service.as_str()), (3, 1, "4420"));
    for entry in &entries {
        assert_eq!(
            entry.address, "10.0.2.2",
            "the address that the reader came in on"
        );
    }
}

#[test]
fn discovery_is_reachable_on_every_port_and_names_each() {
    let mut rig = Rig::new(config());
    for (id, address, service) in [(MAIN, "10.0.2.2", "4420"), (DISCOVERY_PORT, "192.0.2.1", "8009")] {
        let queue = rig.open(id);
        assert_eq!(
            rig.connect(queue, admin_connect(), &data(&Nqn::DISCOVERY, 1))
                .status,
            Status::SUCCESS
        );
        rig.set_cc(queue, Configuration::START.0);
        let (_, entries) = read(&mut rig, queue);
        assert_eq!(
            (entries[0].address.as_str(), entries[0].service.as_str()),
            (address, service)
        );
        assert_eq!((entries[0].port, entries[1].port), (id.0, MAIN.0));
        assert_eq!(entries[1].subnqn, subsystem_nqn());
    }
}

#[test]
fn genctr_moves_exactly_once_per_change_and_not_without_one() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.discovery_controller(1);
    let (first, _) = header(&mut rig, queue);
    rig.step(Event::PortsChanged(config().ports));
    rig.step(Event::HostsChanged(HostAccess::Any));
    rig.step(Event::NamespaceAdded(namespace(1)));
    rig.wait(SECOND);
    rig.controller(2);
    assert_eq!(header(&mut rig, queue).0, first, "nothing in the log changed");
    let mut ports = config().ports;
    ports.push(port(PortId(3), "198.51.100.7", "4420", false));
    rig.step(Event::PortsChanged(ports));
    assert_eq!(header(&mut rig, queue), (first + 1, 3));
    rig.step(Event::HostsChanged(HostAccess::List(vec![host_nqn(9)])));
    assert_eq!(header(&mut rig, queue), (first + 2, 1));
}

#[test]
fn a_reader_in_pieces_sees_one_generation() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.discovery_controller(1);
    let (before, records) = header(&mut rig, queue);
    assert_eq!(records, 2);
    let first = rig.command(queue, log_page(0x70, 1024, 1024), &[]).data;
    rig.step(Event::PortsChanged(vec![port(
        MAIN,
        "203.0.113.9",
        "4421",
        false,
    )]));
    let second = rig.command(queue, log_page(0x70, 2048, 1024), &[]).data;
    assert_eq!(DiscoveryEntry::parse(&first).unwrap().service, "4420");
    assert_eq!(
        DiscoveryEntry::parse(&second).unwrap().service,
        "4420",
        "still the log of the first piece"
    );
    assert_eq!(
        header(&mut rig, queue).0,
        before + 1,
        "which the second header gives away"
    );
    let (generation, entries) = read(&mut rig, queue);
    assert_eq!(generation, before + 1);
    assert!(entries.iter().all(|entry| entry.address == "203.0.113.9"));
}

#[test]
fn offsets_may_fall_anywhere_but_not_past_the_end() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.discovery_controller(1);
    let whole = rig.command(queue, log_page(0x70, 0, 3072), &[]).data;
    let mut pieces = Vec::new();
    for offset in (0..3072).step_by(764) {
        let bytes = (3072 - offset).min(764);
        let entry = log_page(0x70, offset, u32::try_from(bytes).unwrap());
        pieces.extend(rig.command(queue, entry, &[]).data);
    }
    assert_eq!(pieces, whole);
    let done = rig.command(queue, log_page(0x70, 3076, 4), &[]);
    assert_eq!(done.status, Status::INVALID_FIELD.do_not_retry());
}

#[test]
fn persistent_readers_hear_of_changes_and_transient_ones_do_not() {
    let mut rig = Rig::new(config());
    let (persistent, _) = rig.discovery_controller(1);
    let transient = rig.open(MAIN);
    rig.connect(
        transient,
        Connect {
            kato_ms: 0,
            ..admin_connect()
        },
        &data(&Nqn::DISCOVERY, 1),
    );
    rig.set_cc(transient, Configuration::START.0);
    let oaes = |rig: &mut Rig, queue| dword(&rig.command(queue, identify(1, 0), &[]).data, 92);
    assert_eq!(
        (oaes(&mut rig, persistent), oaes(&mut rig, transient)),
        (1 << 31, 0)
    );
    let persistent_slot = rig.send(persistent, admin(0x0c, 0), &[]);
    let transient_slot = rig.send(transient, admin(0x0c, 0), &[]);
    rig.step(Event::PortsChanged(Vec::new()));
    let done = rig
        .completion(persistent, persistent_slot)
        .expect("the change is told");
    assert_eq!(done.result, 0x70_f002);
    assert_eq!(rig.completion(transient, transient_slot), None);
    let slot = rig.send(persistent, admin(0x0c, 0), &[]);
    rig.step(Event::PortsChanged(config().ports));
    assert_eq!(
        rig.completion(persistent, slot),
        None,
        "told once until the log is read"
    );
    header(&mut rig, persistent);
    rig.step(Event::PortsChanged(Vec::new()));
    assert!(rig.completion(persistent, slot).is_some());
}

#[test]
fn the_discovery_log_is_for_discovery_controllers_and_other_pages_are_not() {
    let mut rig = Rig::new(config());
    let (queue, _) = rig.controller(1);
    assert_eq!(
        rig.command(queue, log_page(0x70, 0, 1024), &[]).status,
        Status::INVALID_LOG_PAGE.do_not_retry()
    );
    let (discovery, cntlid) = rig.discovery_controller(1);
    for page in [0x01, 0x02, 0x03, 0x04, 0x05] {
        let done = rig.command(discovery, log_page(page, 0, 512), &[]);
        assert_eq!(done.status, Status::INVALID_LOG_PAGE.do_not_retry());
    }
    let page = rig.command(discovery, identify(1, 0), &[]).data;
    assert_eq!((page[111], word(&page, 78)), (2, cntlid));
    assert_eq!(Nqn::from_field(&page[768..1024]), Ok(Nqn::DISCOVERY));
}
