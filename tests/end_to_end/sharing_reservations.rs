//! Reservations of a virtual disk that several nodes serve: the same through each of them, whatever becomes of the others. Real processes, real NVMe/TCP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use braid::target::manage::{DriveInject, FaultKind, Request};
use braid::target::rpc::Client;
use nvme::command::{SubmissionEntry, admin_opcode};
use nvme::log::{lid, log_command};
use nvme::reservation::{Command, HostId, Kind, Persistence, Report};
use nvme::status::Status;

use super::queue::{Answer, Host, pattern, read, write};
use super::reservations::{acquire, ask, barrier, key, register, report};
use super::scene::Scene;
use super::sharing::{GROUP, connect};
use super::stage::WAIT;

const BLOCK: u32 = 4096;
/// How long drives take for a write that is under way when its host is preempted.
const SLOW: Duration = Duration::from_secs(2);

fn scene(nodes: u8) -> Scene {
    let mut scene = Scene::set(nodes, GROUP);
    scene.create(0);
    scene
}

/// A host with a connection to each of these nodes.
fn everywhere(scene: &Scene, host: u8, slots: &[usize]) -> Vec<Host> {
    let addresses = slots.iter().map(|slot| scene.hosts[*slot]);
    addresses.map(|address| connect(address, host)).collect()
}

fn tries_to_write(host: &mut Host) -> Answer {
    host.io[0].run(write(1, 8, 1), &pattern(8, BLOCK as usize), 0)
}

fn expect(answer: &Answer, allowed: bool, what: &str) {
    let got = (
        answer.status().is_success(),
        answer.is(Status::RESERVATION_CONFLICT),
    );
    assert_eq!(got, (allowed, !allowed), "{what}: {}", answer.status());
}

fn registrants(report: &Report) -> Vec<HostId> {
    report.registrants.iter().map(|it| it.host).collect()
}

/// Drives of a node are slow from now on, for this node alone; or not any more.
fn slow_down(scene: &Scene, slot: u8, by: Option<Duration>) {
    for drive in 0..4 {
        let inject = DriveInject {
            drive: format!("d{drive}"),
            fault: by.map_or(FaultKind::Clear, |_| FaultKind::Slow),
            at_bytes: None,
            blocks: None,
            slow_us: by.map(|by| u64::try_from(by.as_micros()).unwrap()),
        };
        let mut client = Client::connect(&scene.path(&format!("n{slot}.sock")), WAIT).unwrap();
        client.call(&Request::DriveInject(inject)).unwrap();
    }
}

/// PROTOCOL H42, I17: every type and every role, with the holder at one node and everybody at both.
#[test]
fn each_type_means_the_same_at_every_node() {
    let scene = scene(2);
    let mut hosts: Vec<Vec<Host>> = (1..=3).map(|host| everywhere(&scene, host, &[0, 1])).collect();
    for host in &mut hosts[0] {
        assert_eq!(
            host.identify(0, 1)[31],
            0xff,
            "RESCAP: all types, also beyond a loss of power"
        );
        assert_eq!(host.identify(1, 0)[520] & 1 << 5, 1 << 5, "ONCS");
    }
    for (turn, kind) in Kind::ALL.into_iter().enumerate() {
        let (here, there) = (turn % 2, 1 - turn % 2);
        register(&mut hosts[0][here], 1);
        register(&mut hosts[0][there], 1);
        register(&mut hosts[1][there], 2);
        acquire(&mut hosts[0][here], 1, kind);
        let conflict = ask(
            &mut hosts[1][there].io[0],
            1,
            Command::Acquire {
                current: key(2),
                kind: Kind::WriteExclusive,
            },
        );
        expect(&conflict, false, "it is reserved");
        for (role, paths) in hosts.iter_mut().enumerate() {
            let has_right = role == 0 || (role == 1 && !kind.is_of_one());
            for (node, path) in paths.iter_mut().enumerate() {
                let what = format!("{kind:?}, host {role} at node {node}");
                let answer = path.io[0].run(read(1, 8, 1), &[], BLOCK);
                expect(&answer, has_right || !kind.excludes_readers(), &what);
                expect(&tries_to_write(path), has_right, &what);
            }
        }
        let reports: Vec<Report> = hosts[2].iter_mut().map(report).collect();
        assert_eq!(reports[0], reports[1]);
        assert_eq!(registrants(&reports[0]), [HostId([1; 16]), HostId([2; 16])]);
        assert_eq!(reports[0].kind, Some(kind));
        let current = key(2);
        ask(&mut hosts[1][there].io[0], 1, Command::Clear { current }).ok();
        for path in &mut hosts[2] {
            expect(&tries_to_write(path), true, "nobody has it any more");
        }
    }
}

/// PROTOCOL H02, H42: Preempt and Abort through one node waits for what the preempted host has under way at another, and tells it there.
#[test]
fn a_host_is_fenced_at_the_node_where_it_writes() {
    let scene = scene(2);
    let mut one = connect(scene.hosts[0], 1);
    let (mut two, mut other) = (connect(scene.hosts[1], 2), connect(scene.hosts[1], 2));
    register(&mut one, 1);
    register(&mut two, 2);
    acquire(&mut two, 2, Kind::WriteExclusive);
    let event = SubmissionEntry::new(admin_opcode::ASYNC_EVENT_REQUEST, 0);
    let event = two.admin.submit(event, &[], 0);
    // Its node has the row from now on, so that the next write goes to the journal, and does not wait for the other node.
    two.write(1, 640, BLOCK, &pattern(4, BLOCK as usize));
    slow_down(&scene, 1, Some(SLOW));
    let data = pattern(5, BLOCK as usize);
    let held = two.io[0].submit(write(1, 640, 1), &data, 0);
    barrier(&mut two.io[0]);
    let preempt = Command::Preempt {
        current: key(1),
        victim: key(2),
        kind: Kind::ExclusiveAccess,
        abort: true,
    };
    let (entry, keys) = preempt.encode(0, 1);
    let fence = one.io[0].submit(entry, &keys, 0);
    assert!(
        !one.io[0].answers_within(fence, SLOW / 4),
        "a command of the preempted host is still under way at the other node"
    );
    expect(
        &tries_to_write(&mut other),
        false,
        "nothing of it begins meanwhile",
    );
    slow_down(&scene, 1, None);
    one.io[0].wait(fence).ok();
    let seen = one.read(1, 640, 1, BLOCK);
    let status = two.io[0].wait(held).status();
    assert!(
        !status.is_success() || seen == data,
        "what was told is there: {status}"
    );
    assert!(one.read(1, 640, 1, BLOCK) == seen, "nothing lands later");
    assert_eq!(
        two.admin.wait(event).entry.result,
        0x0080_0006,
        "its node tells it"
    );
    let page = log_command(0, lid::RESERVATION, 0, 64);
    let page = two.admin.run(page, &[], 64).data();
    assert_eq!(
        (page[8], page[12]),
        (1, 1),
        "registration preempted in namespace 1"
    );
    for path in [&mut two, &mut other] {
        expect(&path.io[0].run(read(1, 8, 1), &[], BLOCK), false, "it is out");
    }
    for slot in [0, 1] {
        assert_eq!(
            registrants(&report(&mut connect(scene.hosts[slot], 3))),
            [HostId([1; 16])]
        );
    }
}

/// Replaces the key of a host over and over until it is told to stop; how often.
fn replace_keys(host: &mut Host, stop: &AtomicBool) -> u32 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let command = Command::Replace {
            current: None,
            new: nvme::reservation::Key(u64::from(count)),
            persistence: Persistence::Keep,
        };
        ask(&mut host.io[0], 1, command).ok();
    }
    count
}

/// PROTOCOL H42: whoever leads dies while a host changes its key through another node, over and over. Each change is made once; who comes back has the reservations before it
/// serves anybody, and they outlive all nodes if a host wants that, and only then.
#[test]
fn reservations_outlive_the_nodes() {
    let mut scene = scene(3);
    let mut one = connect(scene.hosts[1], 1);
    scene.until_open("all nodes come", &[0, 1, 2]);
    ask(
        &mut one.io[0],
        1,
        Command::Register {
            new: key(1),
            persistence: Persistence::On,
        },
    )
    .ok();
    acquire(&mut one, 1, Kind::WriteExclusive);
    let before = report(&mut one).generation;
    let stop = AtomicBool::new(false);
    let count = thread::scope(|scope| {
        let replacing = scope.spawn(|| replace_keys(&mut one, &stop));
        thread::sleep(Duration::from_millis(300));
        scene.nodes[0] = None;
        scene.until_open("the others go on", &[1, 2]);
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        replacing.join().unwrap()
    });
    assert!(count > 2, "{count}");
    let last = report(&mut one);
    assert_eq!(last.generation - before, count, "each change is made once");
    assert_eq!(last.registrants[0].key.0, u64::from(count));
    expect(&tries_to_write(&mut one), true, "it still holds it");
    let stranger_is_kept_out = |scene: &Scene, slots: &[usize]| {
        for host in &mut everywhere(scene, 2, slots) {
            assert_eq!(report(host), last);
            expect(&tries_to_write(host), false, "it is reserved");
        }
    };
    stranger_is_kept_out(&scene, &[1, 2]);
    scene.start_node(0);
    scene.until_open("it comes back", &[0, 1, 2]);
    stranger_is_kept_out(&scene, &[0, 1, 2]);
    drop(one);
    scene.nodes.fill_with(|| None);
    (0..3).for_each(|slot| scene.start_node(slot));
    scene.until_open("all start anew", &[0, 1, 2]);
    stranger_is_kept_out(&scene, &[2, 1, 0]);
    let mut one = connect(scene.hosts[2], 1);
    ask(
        &mut one.io[0],
        1,
        Command::Replace {
            current: None,
            new: key(7),
            persistence: Persistence::Off,
        },
    )
    .ok();
    drop(one);
    scene.nodes.fill_with(|| None);
    (0..3).for_each(|slot| scene.start_node(slot));
    let mut two = connect(scene.hosts[1], 2);
    assert_eq!(report(&mut two), Report::default(), "nobody wanted it to be kept");
    expect(&tries_to_write(&mut two), true, "nobody has reserved it");
}
