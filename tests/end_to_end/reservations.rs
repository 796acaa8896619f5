//! Reservations as hosts meet them: conflicts on every core, notices, and Preempt and Abort with writes that are held.

use std::thread;
use std::time::Duration;

use braid::target::manage::{DriveInject, FaultKind, Reply, Request};
use nvme::command::{SubmissionEntry, admin_opcode, io_opcode};
use nvme::log::{lid, log_command};
use nvme::reservation::{Command, HostId, Key, Kind, Persistence, Report};
use nvme::status::Status;

use super::queue::{Answer, Host, Manner, Queue, command, pattern, read, write};
use super::stage::{Stage, TWO_NAMESPACES};

/// One plain drive that may be made to hang, on two cores.
const HELD: &str = r#"
[reactor]
cores = 2
[health]
allow_fault_injection = true
hang_ms = 60000
hang_last_ms = 60000
[[drive]]
name = "d"
memory_mib = 16
[[group]]
name = "g"
level = "raid0"
drives = ["d"]
strip_kib = 64
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 8
nsid = 1
"#;

/// Write exclusive, all registrants: what arrays reserve their drives with.
const ALL: Kind = Kind::WriteExclusiveAllRegistrants;

fn host(stage: &Stage, number: u8, queues: u16) -> Host {
    Host::connect_as(
        stage.address(),
        Manner {
            host: number,
            queues,
            ..Manner::default()
        },
    )
}

/// The key of a host.
pub fn key(number: u8) -> Key {
    Key(0x1000 + u64::from(number))
}

/// Sends a reservation command, and waits for its end.
pub fn ask(queue: &mut Queue, nsid: u32, command: Command) -> Answer {
    let (entry, data) = command.encode(0, nsid);
    let read_bytes = if let Command::Report { length_bytes, .. } = command {
        u32::try_from(length_bytes).unwrap()
    } else {
        0
    };
    queue.run(entry, &data, read_bytes)
}

/// Registers a host with namespace 1.
pub fn register(host: &mut Host, number: u8) {
    let command = Command::Register {
        new: key(number),
        persistence: Persistence::Keep,
    };
    ask(&mut host.io[0], 1, command).ok();
}

/// A registered host reserves namespace 1.
pub fn acquire(host: &mut Host, number: u8, kind: Kind) {
    let current = key(number);
    ask(&mut host.io[0], 1, Command::Acquire { current, kind }).ok();
}

fn preempt(by: u8, victim: u8) -> Command {
    Command::Preempt {
        current: key(by),
        victim: key(victim),
        kind: ALL,
        abort: true,
    }
}

/// Who has reserved namespace 1.
pub fn report(host: &mut Host) -> Report {
    let command = Command::Report {
        extended: true,
        length_bytes: 1024,
    };
    Report::parse(&ask(&mut host.io[0], 1, command).data(), true).unwrap()
}

fn inject(stage: &Stage, kind: FaultKind) {
    let reply = stage.call(Request::DriveInject(DriveInject {
        drive: "d".to_owned(),
        fault: kind,
        at_bytes: None,
        blocks: None,
        slow_us: None,
    }));
    assert!(matches!(reply, Ok(Reply::Drive(_))), "{reply:?}");
}

/// Waits until the target has taken everything that was sent over this queue: commands are taken in order, and this one ends at once.
pub fn barrier(queue: &mut Queue) {
    let unknown = queue.run(command(0x7d, 1, 0, 1), &[], 0);
    assert!(unknown.is(Status::INVALID_OPCODE) || unknown.is(Status::RESERVATION_CONFLICT));
}

/// Every type, every role, over a queue on each core.
#[test]
fn each_type_lets_hosts_do_what_it_says_on_all_cores() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut hosts: Vec<Host> = (1..=3).map(|number| host(&stage, number, 2)).collect();
    assert_eq!(hosts[0].identify(0, 1)[31], 0xfe, "RESCAP");
    assert_eq!(hosts[0].identify(1, 0)[520] & 1 << 5, 1 << 5, "ONCS");
    let data = pattern(1, 512);
    for kind in Kind::ALL {
        register(&mut hosts[0], 1);
        register(&mut hosts[1], 2);
        acquire(&mut hosts[0], 1, kind);
        for (role, other) in hosts.iter_mut().enumerate() {
            let has_right = role == 0 || (role == 1 && !kind.is_of_one());
            let may_read = has_right || !kind.excludes_readers();
            let expect = |answer: &Answer, allowed: bool| {
                let got = (
                    answer.status().is_success(),
                    answer.is(Status::RESERVATION_CONFLICT),
                );
                assert_eq!(got, (allowed, !allowed), "{kind:?} {role}");
            };
            for queue in &mut other.io {
                expect(&queue.run(read(1, 8, 1), &[], 512), may_read);
                expect(&queue.run(write(1, 8, 1), &data, 0), has_right);
                let zeroes = command(io_opcode::WRITE_ZEROES, 1, 9, 1);
                expect(&queue.run(zeroes, &[], 0), has_right);
                for nsid in [1, u32::MAX] {
                    let mut flush = SubmissionEntry::new(io_opcode::FLUSH, 0);
                    flush.set_nsid(nsid);
                    expect(&queue.run(flush, &[], 0), has_right);
                }
                expect(&queue.run(read(2, 8, 1), &[], 4096), true);
                expect(&queue.run(write(2, 8, 1), &pattern(2, 4096), 0), true);
                let unknown = queue.run(command(0x19, 1, 0, 1), &[], 0);
                let expected = if has_right {
                    Status::INVALID_OPCODE
                } else {
                    Status::RESERVATION_CONFLICT
                };
                assert!(unknown.is(expected), "{kind:?} {role} {:?}", unknown.status());
            }
        }
        let clear = Command::Clear { current: key(1) };
        ask(&mut hosts[0].io[0], 1, clear).ok();
        hosts[2].io[1].run(write(1, 8, 1), &data, 0).ok();
    }
}

#[test]
fn a_fused_pair_is_refused_as_a_whole() {
    let stage = Stage::set(HELD);
    let (mut one, mut two) = (host(&stage, 1, 1), host(&stage, 2, 1));
    register(&mut one, 1);
    acquire(&mut one, 1, Kind::WriteExclusive);
    let old = two.read(1, 0, 1, 4096);
    let mut compare = command(io_opcode::COMPARE, 1, 0, 1);
    compare.set_fuse(1);
    let mut second = write(1, 0, 1);
    second.set_fuse(2);
    let queue = &mut two.io[0];
    let first = queue.submit(compare, &old, 0);
    let second = queue.submit(second, &pattern(7, 4096), 0);
    assert!(queue.wait(first).is(Status::ABORTED_FAILED_FUSED));
    assert!(queue.wait(second).is(Status::RESERVATION_CONFLICT));
    assert!(two.read(1, 0, 1, 4096) == old);
}

/// PROTOCOL H03: the write lands before Preempt and Abort completes, or never.
#[test]
fn preempt_and_abort_waits_for_a_held_write() {
    let stage = Stage::set(HELD);
    let (mut one, mut two) = (host(&stage, 1, 1), host(&stage, 2, 2));
    register(&mut one, 1);
    register(&mut two, 2);
    acquire(&mut one, 1, ALL);
    inject(&stage, FaultKind::Hang);
    let held = two.io[0].submit(write(1, 5, 1), &pattern(5, 4096), 0);
    barrier(&mut two.io[0]);
    let (entry, data) = preempt(1, 2).encode(0, 1);
    let fence = one.io[0].submit(entry, &data, 0);
    assert!(
        !one.io[0].answers_within(fence, Duration::from_millis(400)),
        "a command of the preempted host is still held"
    );
    let late = two.io[1].run(write(1, 6, 1), &pattern(6, 4096), 0);
    assert!(
        late.is(Status::RESERVATION_CONFLICT),
        "nothing of it begins meanwhile"
    );
    inject(&stage, FaultKind::Clear);
    one.io[0].wait(fence).ok();
    let seen = one.read(1, 5, 1, 4096);
    let status = two.io[0].wait(held).status();
    assert!(
        status.is_success() == (seen == pattern(5, 4096)),
        "what landed was told: {status}"
    );
    assert!(one.read(1, 5, 1, 4096) == seen, "nothing lands later");
    let report = report(&mut one);
    let hosts: Vec<HostId> = report.registrants.iter().map(|it| it.host).collect();
    assert_eq!((report.kind, hosts), (Some(ALL), vec![HostId([1; 16])]));
}

#[test]
fn a_preempted_host_gets_an_event_and_finds_why() {
    let stage = Stage::set(HELD);
    let (mut one, mut two) = (host(&stage, 1, 1), host(&stage, 2, 1));
    register(&mut one, 1);
    register(&mut two, 2);
    acquire(&mut one, 1, ALL);
    let event = SubmissionEntry::new(admin_opcode::ASYNC_EVENT_REQUEST, 0);
    let event = two.admin.submit(event, &[], 0);
    ask(&mut one.io[0], 1, preempt(1, 2)).ok();
    let told = two.admin.wait(event);
    assert_eq!(told.entry.result, 0x0080_0006);
    let page = two
        .admin
        .run(log_command(0, lid::RESERVATION, 0, 64), &[], 64)
        .data();
    assert_eq!(
        (page[8], page[12]),
        (1, 1),
        "registration preempted in namespace 1"
    );
}

#[test]
fn a_second_fence_of_the_same_host_waits_for_the_first() {
    let stage = Stage::set(HELD);
    let (mut one, mut two) = (host(&stage, 1, 1), host(&stage, 2, 1));
    let mut three = host(&stage, 3, 1);
    register(&mut one, 1);
    register(&mut two, 2);
    register(&mut three, 3);
    acquire(&mut one, 1, ALL);
    inject(&stage, FaultKind::Hang);
    let held = two.io[0].submit(write(1, 5, 1), &pattern(5, 4096), 0);
    barrier(&mut two.io[0]);
    let (entry, data) = preempt(1, 2).encode(0, 1);
    let first = one.io[0].submit(entry, &data, 0);
    barrier(&mut one.io[0]);
    let (entry, data) = preempt(3, 2).encode(0, 1);
    let second = three.io[0].submit(entry, &data, 0);
    assert!(!three.io[0].answers_within(second, Duration::from_millis(300)));
    inject(&stage, FaultKind::Clear);
    one.io[0].wait(first).ok();
    assert!(
        three.io[0].wait(second).is(Status::RESERVATION_CONFLICT),
        "the key is gone, and its writes are as well"
    );
    two.io[0].wait(held);
}

/// A host whose connections are gone is fenced like any other: what it had under way is waited for.
#[test]
fn a_held_write_of_a_lost_connection_is_waited_for() {
    let stage = Stage::set(HELD);
    let (mut one, mut two) = (host(&stage, 1, 1), host(&stage, 2, 1));
    register(&mut one, 1);
    register(&mut two, 2);
    acquire(&mut one, 1, ALL);
    inject(&stage, FaultKind::Hang);
    two.io[0].submit(write(1, 5, 1), &pattern(5, 4096), 0);
    barrier(&mut two.io[0]);
    drop(two);
    thread::sleep(Duration::from_millis(50));
    let (entry, data) = preempt(1, 2).encode(0, 1);
    let fence = one.io[0].submit(entry, &data, 0);
    assert!(!one.io[0].answers_within(fence, Duration::from_millis(300)));
    inject(&stage, FaultKind::Clear);
    one.io[0].wait(fence).ok();
    let seen = one.read(1, 5, 1, 4096);
    thread::sleep(Duration::from_millis(100));
    assert!(one.read(1, 5, 1, 4096) == seen);
}

/// Schedules of fences in the middle of writes, every other one with the drive holding what it has at that moment; `BRAID_FENCES` says
/// how many. What is read after a fence waits for the row locks of writes that are under way, so this finds writes that begin too late; that
/// the fence itself waits is for the tests above, which hold one write.
#[test]
fn no_write_of_a_fenced_host_lands_after_its_fence() {
    let rounds = std::env::var("BRAID_FENCES").map_or(60, |text| text.parse().unwrap());
    let text = HELD.replace("memory_mib = 16", "memory_mib = 16\ndelay_us = 300");
    let stage = Stage::set(&text);
    let mut one = host(&stage, 1, 1);
    register(&mut one, 1);
    acquire(&mut one, 1, ALL);
    let (mut landed, mut refused) = (0, 0);
    for round in 0..rounds {
        let address = stage.address();
        let victim = thread::spawn(move || {
            let manner = Manner {
                host: 2,
                queues: 2,
                ..Manner::default()
            };
            let mut two = Host::connect_as(address, manner);
            register(&mut two, 2);
            write_until_refused(&mut two, round)
        });
        let pauses = pattern(round, 2).into_iter();
        let pauses: Vec<Duration> = pauses
            .map(|byte| Duration::from_micros(byte.into()) * 40)
            .collect();
        let is_there = |one: &mut Host| report(one).registrants.len() == 2;
        while !is_there(&mut one) {}
        let holds = round % 2 == 0;
        if holds {
            inject(&stage, FaultKind::Hang);
        }
        thread::sleep(pauses[0]);
        let (entry, data) = preempt(1, 2).encode(0, 1);
        if holds {
            let fence = one.io[0].submit(entry, &data, 0);
            thread::sleep(pauses[1]);
            inject(&stage, FaultKind::Clear);
            one.io[0].wait(fence).ok();
        } else {
            one.io[0].run(entry, &data, 0).ok();
        }
        let seen = one.read(1, 0, 16, 4096);
        let (told, lost) = victim.join().unwrap();
        landed += told;
        refused += lost;
        assert!(
            one.read(1, 0, 16, 4096) == seen,
            "round {round}: a write landed after its host was fenced"
        );
    }
    assert!(
        landed > 0 && refused >= rounds,
        "fences met writes: {landed} {refused}"
    );
}

/// Writes to sixteen blocks over both queues until the first conflict; how many succeeded, and how many did not.
fn write_until_refused(two: &mut Host, round: u64) -> (u64, u64) {
    let (mut told, mut lost) = (0, 0);
    for stamp in 0..100_000 {
        let mut pending = Vec::new();
        for queue in &mut two.io {
            for at in 0..8 {
                let data = pattern(round << 32 | stamp << 8 | at, 4096);
                pending.push(queue.submit(write(1, at * 2, 1), &data, 0));
            }
        }
        for (at, cid) in pending.into_iter().enumerate() {
            let status = two.io[at / 8].wait(cid).status();
            told += u64::from(status.is_success());
            lost += u64::from(!status.is_success());
        }
        if lost > 0 {
            return (told, lost);
        }
    }
    panic!("it is never refused, although it was fenced")
}
