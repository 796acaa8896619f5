//! Virtual disks of shared groups at run time, asked of any node: their ports, their making and their end. Real processes, real NVMe/TCP.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use braid::target::manage::{
    Deleted, DriveInject, FaultKind, GroupName, ManageError, PortAdd, PortDelete, PortList, PortRequest,
    PortState, PortStatus, Reply, Request, Size, VdiskCreate, VdiskDelete, VdiskResize, VdiskStatus,
};
use braid::target::rpc::{Client, ClientError, RpcError};
use nvme::command::{SubmissionEntry, admin_opcode};
use nvme::fabrics::{CNTLID_DYNAMIC, Configuration, Connect, ConnectData, PropertyAccess, property};
use nvme::identify::cns;
use nvme::log::lid;
use nvme::nqn::Nqn;
use nvme::status::Status;

use super::queue::{Host, Manner, Queue, pattern, read, write};
use super::scene::Scene;
use super::sharing::{GROUP, connect};
use super::stage::WAIT;

const BLOCK: u32 = 4096;
const MIB: u64 = 1 << 20;
/// Commands in flight when a port is deleted.
const IN_FLIGHT: u64 = 64;
/// How long they are at least.
const IN_FLIGHT_FOR: Duration = Duration::from_secs(2);

/// A group that all nodes serve, without virtual disks but one of a MiB, so that nodes begin to listen.
const SMALL: &str = "[[group]]\nname = \"g\"\nlevel = \"raid5\"\ndrives = [\"d0\", \"d1\", \"d2\", \"d3\"]\n\
                     strip_kib = 16\njournal_mib = 16\ncreate = true\n\
                     [[vdisk]]\nname = \"v\"\ngroup = \"g\"\nsize_mib = 1\nnsid = 1\n";

/// A group of node 0, and another one of the other nodes.
const APART: &str = "[[group]]\nname = \"y\"\nlevel = \"raid1\"\ndrives = [\"d0\", \"d1\"]\njournal_mib = 16\nnodes = [0]\ncreate = true\n\
                     [[vdisk]]\nname = \"vy\"\ngroup = \"y\"\nsize_mib = 8\nnsid = 1\n\
                     [[group]]\nname = \"g\"\nlevel = \"raid1\"\ndrives = [\"d2\", \"d3\"]\njournal_mib = 16\nnodes = [1, 2]\ncreate = true\n\
                     [[vdisk]]\nname = \"v\"\ngroup = \"g\"\nsize_mib = 8\nnsid = 2\n";

/// What a node answers an operator.
fn call(scene: &Scene, slot: u8, request: &Request) -> Result<Reply, ClientError> {
    Client::connect(&scene.path(&format!("n{slot}.sock")), WAIT)?.call(request)
}

/// The same, of a node that is there: its refusal is one.
/// Asks a node something as an operator does.
pub fn ask(scene: &Scene, slot: u8, request: &Request) -> Result<Reply, RpcError> {
    match call(scene, slot, request) {
        Ok(reply) => Ok(reply),
        Err(ClientError::Refused(error)) => Err(error),
        Err(error) => panic!("node {slot}: {error}"),
    }
}

/// Nodes that serve, and a host at each.
fn scene(nodes: u8, groups: &str) -> (Scene, Vec<Host>) {
    let mut scene = Scene::set(nodes, groups);
    scene.create(0);
    let hosts = (1..).zip(&scene.hosts);
    let hosts = hosts.map(|(host, address)| connect(*address, host)).collect();
    (scene, hosts)
}

fn vdisks(scene: &Scene, slot: u8) -> Vec<VdiskStatus> {
    match ask(scene, slot, &Request::VdiskList) {
        Ok(Reply::Vdisks(vdisks)) => vdisks,
        other => panic!("{other:?}"),
    }
}

fn create(scene: &Scene, slot: u8, name: &str, size: Size) -> Result<VdiskStatus, RpcError> {
    let create = VdiskCreate {
        name: name.to_owned(),
        group: "g".to_owned(),
        size,
        nsid: None,
        replication: None,
    };
    ask(scene, slot, &Request::VdiskCreate(create)).map(|reply| {
        let Reply::Vdisk(vdisk) = reply else {
            panic!("{reply:?}")
        };
        vdisk
    })
}

/// Deletes a virtual disk.
fn end(scene: &Scene, slot: u8, vdisk: &str, force: bool) -> Result<Deleted, RpcError> {
    let vdisk = vdisk.to_owned();
    ask(scene, slot, &Request::VdiskDelete(VdiskDelete { vdisk, force })).map(|reply| {
        let Reply::Deleted(deleted) = reply else {
            panic!("{reply:?}")
        };
        deleted
    })
}

fn free_bytes(scene: &Scene, slot: u8) -> u64 {
    let group = "g".to_owned();
    match ask(scene, slot, &Request::GroupShow(GroupName { group })) {
        Ok(Reply::Group(group)) => group.free_bytes,
        other => panic!("{other:?}"),
    }
}

/// Drives are slow from now on for this node alone.
fn slow_down(scene: &Scene, slot: u8, by: Option<Duration>) {
    for drive in 0..4 {
        let inject = DriveInject {
            drive: format!("d{drive}"),
            fault: by.map_or(FaultKind::Clear, |_| FaultKind::Slow),
            at_bytes: None,
            blocks: None,
            slow_us: by.map(|by| u64::try_from(by.as_micros()).unwrap()),
        };
        ask(scene, slot, &Request::DriveInject(inject)).unwrap();
    }
}

fn add(scene: &Scene, slot: u8, node: u8) -> Result<Vec<PortStatus>, RpcError> {
    let vdisk = "v".to_owned();
    ask(
        scene,
        slot,
        &Request::Port(PortRequest::Add(PortAdd { vdisk, node })),
    )
    .map(ports_of)
}

fn delete(scene: &Scene, slot: u8, node: u8, force: bool) -> Result<Vec<PortStatus>, RpcError> {
    let vdisk = "v".to_owned();
    let delete = PortDelete { vdisk, node, force };
    ask(scene, slot, &Request::Port(PortRequest::Delete(delete))).map(ports_of)
}

fn ports_of(reply: Reply) -> Vec<PortStatus> {
    let Reply::Ports(ports) = reply else {
        panic!("{reply:?}")
    };
    ports
}

fn states(ports: &[PortStatus]) -> Vec<PortState> {
    ports.iter().map(|port| port.state).collect()
}

/// A host's ear for asynchronous events.
struct Ear {
    waits: Option<u16>,
}

impl Ear {
    fn open(host: &mut Host) -> Self {
        let mut ear = Self { waits: None };
        ear.listen(host);
        ear
    }

    fn listen(&mut self, host: &mut Host) {
        let entry = SubmissionEntry::new(admin_opcode::ASYNC_EVENT_REQUEST, 0);
        self.waits = Some(host.admin.submit(entry, &[], 0));
    }

    /// Reads the page of each event until this one has come.
    fn until(&mut self, host: &mut Host, event: u64) {
        let begin = Instant::now();
        while let Some(cid) = self.waits.take() {
            let result = host.admin.wait(cid).entry.result;
            let page = u8::try_from(result >> 16 & 0xff).unwrap();
            log(host, page, 4096);
            self.listen(host);
            if result == event {
                return;
            }
            assert!(begin.elapsed() < WAIT, "{event:#x} comes");
        }
    }
}

/// Namespace attributes have changed: type 2, information 0, log page 04h.
const NAMESPACES: u64 = 0x04_0002;
/// Asymmetric access has changed: type 2, information 3, log page 0Ch.
const ACCESS: u64 = 0x0c_0302;

fn log(host: &mut Host, page: u8, bytes: u32) -> Vec<u8> {
    let mut entry = SubmissionEntry::new(admin_opcode::GET_LOG_PAGE, 0);
    let dwords = bytes / 4 - 1;
    entry.set_nsid(u32::MAX);
    entry.set_dword(10, u32::from(page) | (dwords & 0xffff) << 16);
    host.admin.run(entry, &[], bytes).data()
}

/// Changes of the access log, and the state of each namespace's group.
fn access(host: &mut Host) -> (u64, Vec<(u32, u8)>) {
    let page = log(host, lid::ASYMMETRIC_ACCESS, 4096);
    let long = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
    let dword = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
    let count = usize::from(u16::from_le_bytes([page[8], page[9]]));
    let group = |number: usize| {
        let at = 16 + 36 * number;
        assert_eq!(
            (dword(at + 4), dword(at + 32)),
            (1, dword(at)),
            "a group has its namespace"
        );
        (dword(at), page[at + 16])
    };
    (long(0), (0..count).map(group).collect())
}

fn namespaces(host: &mut Host) -> BTreeSet<u32> {
    let list = host.identify(cns::ACTIVE_NAMESPACES, 0);
    let (numbers, _) = list.as_chunks::<4>();
    let numbers = numbers.iter().map(|number| u32::from_le_bytes(*number));
    numbers.take_while(|number| *number != 0).collect()
}

fn blocks(host: &mut Host, nsid: u32) -> u64 {
    u64::from_le_bytes(host.identify(cns::NAMESPACE, nsid)[..8].try_into().unwrap())
}

/// Waits until this holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < WAIT, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// How a read of one block ends.
fn status_of_read(host: &mut Host, nsid: u32) -> Status {
    host.io[0].run(read(nsid, 0, 1), &[], BLOCK).status()
}

/// CHECKLIST A10, PROTOCOL H43, H44: a virtual disk begins with a port at one of three nodes; the others are added one after the other, through any node, while hosts write. Hosts at a new
/// port hear of it, find the same namespace and the same data, and all controllers differ.
#[test]
fn ports_are_added_under_load_and_are_the_same_namespace() {
    let (mut scene, mut hosts) = scene(3, &format!("{GROUP}ports = [0]\n"));
    let cntlids: BTreeSet<u16> = hosts.iter().map(|host| host.cntlid).collect();
    assert_eq!(cntlids.len(), 3, "{cntlids:?}");
    let mut ears: Vec<Ear> = hosts.iter_mut().map(Ear::open).collect();
    assert_eq!(access(&mut hosts[0]).1, [(1, 1)]);
    for host in &mut hosts[1..] {
        assert_eq!(access(host).1, [(1, 3)]);
        assert_eq!(status_of_read(host, 1), Status::ANA_INACCESSIBLE);
        assert_eq!(
            namespaces(host),
            BTreeSet::from([1]),
            "it is there, and cannot be used"
        );
    }
    let mut written = 0;
    for (node, through) in [(1, 2), (2, 1)] {
        let changes = access(&mut hosts[node]).0;
        let ports = thread::scope(|scope| {
            let added = scope.spawn(|| add(&scene, through, u8::try_from(node).unwrap()));
            while !added.is_finished() {
                written += 1;
                hosts[0].write(1, written % 64, BLOCK, &pattern(written, BLOCK as usize));
            }
            added.join().unwrap()
        });
        assert_eq!(ports.map(|ports| ports[node].port), Ok(true));
        ears[node].until(&mut hosts[node], ACCESS);
        until("hosts find it optimized", || {
            access(&mut hosts[node]).1 == [(1, 1)]
        });
        assert!(access(&mut hosts[node]).0 > changes);
        let at = written % 64;
        assert!(
            hosts[node].read(1, at, 1, BLOCK) == pattern(written, BLOCK as usize),
            "node {node}"
        );
        written += 1;
        hosts[node].write(1, 70, BLOCK, &pattern(written, BLOCK as usize));
        assert!(
            hosts[0].read(1, 70, 1, BLOCK) == pattern(written, BLOCK as usize),
            "node {node}"
        );
    }
    let same: BTreeSet<Vec<u8>> = hosts
        .iter_mut()
        .map(|host| host.identify(cns::NAMESPACE, 1))
        .collect();
    assert_eq!(same.len(), 1, "NGUID, NSID and size are the same everywhere");
    let exists = add(&scene, 1, 2).unwrap_err();
    assert!(
        exists.message.contains("has a port at node 2 already"),
        "{exists:?}"
    );
    let unknown = add(&scene, 1, 5).unwrap_err();
    assert_eq!(
        (unknown.code, unknown.message.as_str()),
        (ManageError::NOT_FOUND, "no node that serves the group has slot 5")
    );
    // What is on the drives outlives all nodes.
    delete(&scene, 0, 1, false).unwrap();
    drop(hosts);
    scene.nodes.fill_with(|| None);
    (0..3).for_each(|slot| scene.start_node(slot));
    let mut host = connect(scene.hosts[1], 1);
    assert_eq!(access(&mut host).1, [(1, 3)]);
    assert_eq!(status_of_read(&mut host, 1), Status::ANA_INACCESSIBLE);
}

/// CHECKLIST A11: 64 commands are in flight when their port is deleted. All of them succeed, all later ones are refused so that hosts go elsewhere, and the operator hears of the
/// deletion after the last of them.
#[test]
fn commands_in_flight_when_a_port_is_deleted_complete() {
    let (scene, mut hosts) = scene(2, GROUP);
    let manner = Manner {
        queues: 2,
        host: 7,
        ..Manner::default()
    };
    let mut host = Host::connect_as(scene.hosts[1], manner);
    let mut ear = Ear::open(&mut host);
    slow_down(&scene, 1, Some(IN_FLIGHT_FOR));
    let data = |number: u64| pattern(number, BLOCK as usize);
    let cids: Vec<(usize, u16)> = (0..IN_FLIGHT)
        .map(|number| {
            let queue = usize::try_from(number % 2).unwrap();
            let cid = host.io[queue].submit(write(1, 8 * number, 1), &data(number), 0);
            (queue, cid)
        })
        .collect();
    for queue in &mut host.io {
        // Commands of a queue are taken in order: when this one is refused, all before it have begun.
        let status = queue.run(read(1, u64::MAX, 1), &[], BLOCK).status();
        assert!(status.same_code(Status::LBA_OUT_OF_RANGE), "{status}");
    }
    let deleted = thread::scope(|scope| {
        let deleted = scope.spawn(|| delete(&scene, 0, 1, false));
        ear.until(&mut host, ACCESS);
        assert_eq!(access(&mut host).1, [(1, 3)]);
        for queue in 0..2 {
            let status = host.io[queue].run(write(1, 1, 1), &data(99), 0).status();
            assert_eq!(status, Status::ANA_INACCESSIBLE, "it is a later one");
        }
        let mut running = cids.iter();
        assert!(running.all(|(queue, cid)| !host.io[*queue].answers_within(*cid, Duration::ZERO)));
        assert!(!deleted.is_finished(), "commands are in flight");
        deleted.join().unwrap()
    });
    assert_eq!(
        deleted.map(|ports| states(&ports)),
        Ok(vec![PortState::Optimized, PortState::Inaccessible])
    );
    for (queue, cid) in cids {
        assert_eq!(
            host.io[queue].wait(cid).status(),
            Status::SUCCESS,
            "it was in flight"
        );
    }
    slow_down(&scene, 1, None);
    for number in 0..16 {
        let status = host.io[number % 2].run(write(1, 1, 1), &data(99), 0).status();
        assert_eq!(status, Status::ANA_INACCESSIBLE);
    }
    for number in 0..IN_FLIGHT {
        assert!(
            hosts[0].read(1, 8 * number, 1, BLOCK) == data(number),
            "block {number}"
        );
    }
}

/// CHECKLIST A11: the last port goes by force alone, and then the namespace is not ready at any node until one is added.
#[test]
fn without_ports_a_namespace_is_not_ready() {
    let (scene, mut hosts) = scene(2, GROUP);
    hosts[1].write(1, 8, BLOCK, &pattern(1, BLOCK as usize));
    delete(&scene, 0, 1, false).unwrap();
    let last = delete(&scene, 1, 0, false).unwrap_err();
    assert_eq!(last.code, ManageError::REFUSED);
    assert!(last.message.contains("has the last port"), "{last:?}");
    // Without any port there is no path to look for.
    delete(&scene, 1, 0, true).unwrap();
    for host in &mut hosts {
        until("no node serves it", || {
            status_of_read(host, 1) == Status::NAMESPACE_NOT_READY
        });
        assert_eq!(access(host).1, [(1, 3)]);
    }
    let none = delete(&scene, 0, 0, false).unwrap_err();
    assert_eq!(none.code, ManageError::NOT_FOUND);
    add(&scene, 1, 1).unwrap();
    until("it is served again", || {
        status_of_read(&mut hosts[1], 1).is_success()
    });
    until("hosts of the other node are sent there", || {
        status_of_read(&mut hosts[0], 1) == Status::ANA_INACCESSIBLE
    });
    assert!(hosts[1].read(1, 8, 1, BLOCK) == pattern(1, BLOCK as usize));
}

/// CHECKLIST A9: virtual disks are made to the capacity of a group through all of its nodes, also two at once; no two share a block, and a name is taken everywhere.
#[test]
fn virtual_disks_are_made_once_through_any_node() {
    let (scene, mut hosts) = scene(3, SMALL);
    let mut ears: Vec<Ear> = hosts.iter_mut().map(Ear::open).collect();
    for round in 0..4 {
        let name = |node: u8| format!("v{round}-{node}");
        thread::scope(|scope| {
            let scene = &scene;
            let made: Vec<_> = (0..3)
                .map(|node| scope.spawn(move || create(scene, node, &name(node), Size::Bytes(4 * MIB))))
                .collect();
            for made in made {
                made.join()
                    .unwrap()
                    .expect("there is room, and numbers are given once");
            }
            let twice: Vec<_> = (0..3)
                .map(|node| scope.spawn(move || create(scene, node, &format!("w{round}"), Size::Bytes(MIB))))
                .collect();
            let made = twice.into_iter().map(|made| made.join().unwrap());
            let (made, refused): (Vec<_>, Vec<_>) = made.partition(Result::is_ok);
            assert_eq!((made.len(), refused.len()), (1, 2), "one of them was the first");
            for refused in refused {
                assert_eq!(refused.unwrap_err().code, ManageError::EXISTS);
            }
        });
    }
    let rest = create(&scene, 2, "rest", Size::All).unwrap();
    for node in 0..3 {
        let full = create(&scene, node, &format!("more-{node}"), Size::Bytes(1)).unwrap_err();
        assert_eq!(full.code, ManageError::NO_SPACE);
        let taken = create(&scene, node, "rest", Size::Bytes(1)).unwrap_err();
        assert_eq!(taken.code, ManageError::EXISTS);
    }
    until("all nodes list all", || {
        (0..3).all(|node| vdisks(&scene, node).len() == 18)
    });
    let all = vdisks(&scene, 0);
    let numbers: BTreeSet<u32> = all.iter().map(|vdisk| vdisk.nsid).collect();
    assert_eq!(numbers.len(), all.len());
    for (host, ear) in hosts.iter_mut().zip(&mut ears) {
        ear.until(host, NAMESPACES);
        until("hosts see all", || namespaces(host) == numbers);
    }
    // The first and the last block of each say whose they are; the last is written through another node than the first.
    for (number, vdisk) in (0..).zip(&all) {
        let last = vdisk.capacity_bytes / u64::from(BLOCK) - 1;
        for (end, at) in [(0, 0), (1, last)] {
            let data = pattern(u64::from(vdisk.nsid) * 2 + end, BLOCK as usize);
            hosts[(number + usize::try_from(end).unwrap()) % 3].write(vdisk.nsid, at, BLOCK, &data);
        }
    }
    for vdisk in &all {
        let last = vdisk.capacity_bytes / u64::from(BLOCK) - 1;
        for (end, at) in [(0, 0), (1, last)] {
            let data = pattern(u64::from(vdisk.nsid) * 2 + end, BLOCK as usize);
            for host in &mut hosts {
                assert!(
                    host.read(vdisk.nsid, at, 1, BLOCK) == data,
                    "{vdisk:?}, block {at}"
                );
            }
        }
    }
    assert!(rest.capacity_bytes > 0);
}

/// CHECKLIST A9: a virtual disk is deleted through any node while hosts use it through all of them. All of them hear, nothing of it is under way any more when its blocks are given back, and the
/// next one with its number is another one. Resizing is heard at all nodes, too.
#[test]
fn virtual_disks_are_deleted_and_resized_at_all_nodes() {
    let (scene, mut hosts) = scene(3, SMALL);
    let before = free_bytes(&scene, 1);
    let mut ears: Vec<Ear> = hosts.iter_mut().map(Ear::open).collect();
    let resize = Request::VdiskResize(VdiskResize {
        vdisk: "v".to_owned(),
        size: Size::Bytes(2 * MIB),
    });
    ask(&scene, 1, &resize).unwrap();
    for (host, ear) in hosts.iter_mut().zip(&mut ears) {
        ear.until(host, NAMESPACES);
        until("hosts see the size", || {
            blocks(host, 1) == 2 * MIB / u64::from(BLOCK)
        });
        host.write(1, 511, BLOCK, &pattern(1, BLOCK as usize));
    }
    let left = free_bytes(&scene, 1);
    assert!(left < before);
    for round in 0..3 {
        let made = create(&scene, round, "w", Size::Bytes(8 * MIB)).unwrap();
        assert_eq!(made.nsid, 2);
        for (host, ear) in hosts.iter_mut().zip(&mut ears) {
            ear.until(host, NAMESPACES);
            until("hosts see it", || namespaces(host) == BTreeSet::from([1, 2]));
        }
        let hosts_are_there = end(&scene, round, "w", false).unwrap_err();
        assert_eq!(hosts_are_there.code, ManageError::REFUSED);
        let deleted = thread::scope(|scope| {
            let users: Vec<_> = hosts
                .iter_mut()
                .map(|host| scope.spawn(move || use_until_gone(host)))
                .collect();
            let deleted = end(&scene, (round + 1) % 3, "w", true);
            users.into_iter().for_each(|user| user.join().unwrap());
            deleted
        });
        let expected = Deleted {
            vdisk: "w".to_owned(),
            freed_bytes: 8 * MIB,
        };
        assert_eq!(deleted, Ok(expected));
        until("the blocks are free", || free_bytes(&scene, 1) == left);
        for (host, ear) in hosts.iter_mut().zip(&mut ears) {
            ear.until(host, NAMESPACES);
            assert_eq!(namespaces(host), BTreeSet::from([1]));
            assert_eq!(access(host).1, [(1, 1)]);
        }
        for slot in 0..3 {
            assert_eq!(
                end(&scene, slot, "w", true).unwrap_err().code,
                ManageError::NOT_FOUND
            );
        }
    }
    assert!(
        hosts[2].read(1, 511, 1, BLOCK) == pattern(1, BLOCK as usize),
        "its neighbour is whole"
    );
}

/// CHECKLIST A9: whoever leads knows of its own hosts alone, and so wants force as long as another node serves the virtual disk.
#[test]
fn a_virtual_disk_that_others_serve_is_deleted_by_force_or_without_ports() {
    let (scene, mut hosts) = scene(2, SMALL);
    hosts[1].write(1, 0, BLOCK, &pattern(1, BLOCK as usize));
    let hosts_here = end(&scene, 1, "v", false).unwrap_err();
    assert!(
        hosts_here.message.contains("1 hosts are connected"),
        "{hosts_here:?}"
    );
    delete(&scene, 1, 0, false).unwrap();
    let others = end(&scene, 0, "v", false).unwrap_err();
    assert_eq!(others.code, ManageError::REFUSED);
    assert!(others.message.contains("other nodes serve \"v\""), "{others:?}");
    delete(&scene, 0, 1, true).unwrap();
    assert!(end(&scene, 1, "v", false).is_ok(), "nobody can be using it");
    for (slot, host) in (0..).zip(&mut hosts) {
        until("it is gone", || namespaces(host).is_empty());
        assert_eq!(vdisks(&scene, slot), []);
    }
}

/// CHECKLIST A9: whoever leads stops answering while it is asked by way of another node. The operator hears that the nodes have changed, and the next leader makes the virtual disk, once.
#[test]
fn a_request_to_a_leader_that_stops_is_answered() {
    let (mut scene, _hosts) = scene(3, SMALL);
    scene.until_open("all are there", &[0, 1, 2]);
    scene.nodes[0].as_ref().unwrap().signal("-STOP");
    let lost = create(&scene, 1, "w", Size::Bytes(MIB)).unwrap_err();
    assert_eq!(lost.code, ManageError::BUSY);
    assert!(
        lost.message
            .contains("have changed while vdisk.create was under way"),
        "{lost:?}"
    );
    let mut last = None;
    until("who leads next makes it", || {
        last = Some(create(&scene, 2, "w", Size::Bytes(MIB)));
        last.as_ref()
            .is_some_and(|made| !matches!(made, Err(error) if error.code == ManageError::BUSY))
    });
    assert!(matches!(last, Some(Ok(_))), "{last:?}");
    scene.nodes[0].as_ref().unwrap().signal("-CONT");
    until("who has stopped lists it, too", || {
        let list = call(&scene, 0, &Request::VdiskList);
        matches!(list, Ok(Reply::Vdisks(vdisks)) if vdisks.iter().any(|vdisk| vdisk.name == "w"))
    });
    let taken = create(&scene, 0, "w", Size::Bytes(MIB)).unwrap_err();
    assert_eq!(taken.code, ManageError::EXISTS);
}

/// Writes until there is nothing to write to; nothing else goes wrong.
fn use_until_gone(host: &mut Host) {
    let data = pattern(3, 8 * BLOCK as usize);
    for number in 0.. {
        let status = host.io[0].run(write(2, 8 * (number % 200), 8), &data, 0).status();
        if status.same_code(Status::INVALID_NAMESPACE_OR_FORMAT) {
            return;
        }
        assert!(status.is_success(), "{status}");
    }
}

/// CHECKLIST A9, A10: a node is asked about a group that it does not serve, and that another node leads; ports are at nodes that serve the group.
#[test]
fn what_other_nodes_serve_may_be_asked_of_any_node() {
    let (scene, mut hosts) = scene(3, APART);
    let lists = |slot: u8, names: &[&str]| {
        let vdisks = vdisks(&scene, slot);
        vdisks.len() == names.len() && vdisks.iter().all(|vdisk| names.contains(&vdisk.name.as_str()))
    };
    until("each lists its own", || {
        lists(0, &["vy"]) && lists(1, &["v"]) && lists(2, &["v"])
    });
    let create = |slot: u8, group: &str, name: &str, nsid: u32| {
        let create = VdiskCreate {
            name: name.to_owned(),
            group: group.to_owned(),
            size: Size::Bytes(MIB),
            nsid: Some(nsid),
            replication: None,
        };
        ask(&scene, slot, &Request::VdiskCreate(create))
    };
    create(0, "g", "w", 3).unwrap();
    create(2, "y", "x", 4).unwrap();
    until("those that serve the group list it", || {
        lists(0, &["vy", "x"]) && lists(1, &["v", "w"]) && lists(2, &["v", "w"])
    });
    assert_eq!(create(0, "h", "z", 5).unwrap_err().code, ManageError::NOT_FOUND);
    let away = add(&scene, 0, 0).unwrap_err();
    assert_eq!(away.message, "no node that serves the group has slot 0");
    let left = delete(&scene, 0, 2, false).map(|ports| states(&ports));
    assert_eq!(left, Ok(vec![PortState::Optimized, PortState::Inaccessible]));
    assert_eq!(status_of_read(&mut hosts[2], 2), Status::ANA_INACCESSIBLE);
    assert!(status_of_read(&mut hosts[1], 2).is_success());
    assert!(
        delete(&scene, 1, 1, false)
            .unwrap_err()
            .message
            .contains("has the last port")
    );
    assert!(end(&scene, 0, "w", true).is_ok() && end(&scene, 1, "x", true).is_ok());
    until("they are gone", || {
        lists(0, &["vy"]) && lists(1, &["v"]) && lists(2, &["v"])
    });
    assert_eq!(
        end(&scene, 1, "nobody", true).unwrap_err().code,
        ManageError::NOT_FOUND
    );
}

/// CHECKLIST A9, A10: who leads is killed and comes back; what it had made durable of ports holds, and the next leader goes on with them.
#[test]
fn ports_outlive_the_node_that_leads() {
    let (mut scene, hosts) = scene(3, GROUP);
    delete(&scene, 1, 2, false).unwrap();
    drop(hosts);
    scene.until_open("all are there", &[0, 1, 2]);
    scene.nodes[0] = None;
    scene.until_open("the others go on", &[1, 2]);
    let mut hosts = [1, 2].map(|slot| connect(scene.hosts[slot], 5));
    until("it is as it was", || {
        status_of_read(&mut hosts[1], 1) == Status::ANA_INACCESSIBLE
    });
    let mut ear = Ear::open(&mut hosts[1]);
    let away = vec![PortState::Away, PortState::Optimized, PortState::Optimized];
    assert_eq!(add(&scene, 2, 2).map(|ports| states(&ports)), Ok(away));
    ear.until(&mut hosts[1], ACCESS);
    until("it is served", || status_of_read(&mut hosts[1], 1).is_success());
    let gone = VdiskDelete {
        vdisk: "v".to_owned(),
        force: true,
    };
    let epoch = scene.newest_epoch();
    scene.start_node(0);
    scene.until_newer(epoch);
    scene.until_open("it is back", &[0, 1, 2]);
    // PROTOCOL H44: hosts look at their paths after each epoch.
    ear.until(&mut hosts[1], ACCESS);
    until("who has come back lists it", || vdisks(&scene, 0).len() == 1);
    ask(&scene, 0, &Request::VdiskDelete(gone)).unwrap();
    until("it is gone everywhere", || {
        (0..3).all(|slot| vdisks(&scene, slot).is_empty())
    });
}

/// A host that stays at the discovery subsystem of a node.
struct Explorer {
    admin: Queue,
    waits: u16,
}

impl Explorer {
    fn connect(address: SocketAddr) -> Self {
        let mut admin = Queue::open(address, (false, false), WAIT).unwrap();
        let data = ConnectData {
            hostid: [0x77; 16],
            cntlid: CNTLID_DYNAMIC,
            subnqn: Nqn::DISCOVERY,
            hostnqn: Nqn::parse("nqn.2026-01.io.braid:explorer").unwrap(),
        };
        let connect = Connect {
            recfmt: 0,
            qid: 0,
            sqsize: 31,
            cattr: 0,
            kato_ms: 120_000,
        };
        admin.run(connect.encode(0), &data.encode(), 0).ok();
        let start = PropertyAccess::set(0, property::CC, Configuration::START.0);
        admin.run(start, &[], 0).ok();
        let waits = admin.submit(SubmissionEntry::new(admin_opcode::ASYNC_EVENT_REQUEST, 0), &[], 0);
        Self { admin, waits }
    }

    /// GENCTR and the number of records.
    fn look(&mut self) -> (u64, u64) {
        let mut entry = SubmissionEntry::new(admin_opcode::GET_LOG_PAGE, 0);
        entry.set_dword(10, u32::from(lid::DISCOVERY) | (1024 / 4 - 1) << 16);
        let page = self.admin.run(entry, &[], 1024).data();
        let long = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        (long(0), long(8))
    }

    /// Waits for the event that the log has changed, and looks.
    fn hear(&mut self) -> (u64, u64) {
        let event = self.admin.wait(self.waits).entry.result;
        assert_eq!(event, 0x70_f002);
        let entry = SubmissionEntry::new(admin_opcode::ASYNC_EVENT_REQUEST, 0);
        let seen = self.look();
        self.waits = self.admin.submit(entry, &[], 0);
        seen
    }
}

/// CHECKLIST A10, PROTOCOL H44: hosts hear at each node of nodes that go and come, and the generation of the discovery log moves once for each; ports of virtual disks do not move it.
#[test]
fn the_discovery_log_moves_once_for_each_change() {
    let (mut scene, _hosts) = scene(3, GROUP);
    scene.until_open("all are there", &[0, 1, 2]);
    let mut explorers = [0, 1].map(|slot| Explorer::connect(scene.hosts[slot]));
    let begin = explorers.each_mut().map(Explorer::look);
    assert!(begin.iter().all(|(_, records)| *records == 4), "{begin:?}");
    delete(&scene, 0, 1, false).unwrap();
    add(&scene, 0, 1).unwrap();
    scene.nodes[2] = None;
    for (explorer, (generation, _)) in explorers.iter_mut().zip(begin) {
        assert_eq!(explorer.hear(), (generation + 1, 3), "a node has gone");
    }
    scene.start_node(2);
    for (explorer, (generation, _)) in explorers.iter_mut().zip(begin) {
        assert_eq!(explorer.hear(), (generation + 2, 4), "it is back");
    }
    scene.until_open("all are there", &[0, 1, 2]);
    for (explorer, (generation, _)) in explorers.iter_mut().zip(begin) {
        assert_eq!(explorer.look(), (generation + 2, 4), "nothing else has changed");
    }
}

/// `braid port list` says what is where, and what is wrong with what it is asked.
#[test]
fn ports_are_listed() {
    let (scene, _hosts) = scene(2, GROUP);
    let list = |vdisk: Option<&str>| {
        let vdisk = vdisk.map(str::to_owned);
        ask(&scene, 1, &Request::Port(PortRequest::List(PortList { vdisk }))).map(ports_of)
    };
    let all = list(None).unwrap();
    assert_eq!(list(Some("v")), Ok(all.clone()));
    let expected = (0..2).map(|node| PortStatus {
        vdisk: "v".to_owned(),
        nsid: 1,
        node,
        port: true,
        state: PortState::Optimized,
    });
    assert_eq!(all, expected.collect::<Vec<_>>());
    let unknown = list(Some("nobody")).unwrap_err();
    assert_eq!(unknown.code, ManageError::NOT_FOUND);
    assert!(
        unknown.message.contains("no vdisk named \"nobody\""),
        "{unknown:?}"
    );
}
