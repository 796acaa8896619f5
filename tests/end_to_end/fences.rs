//! Fences of a shelf: nothing of who was fenced, expelled, killed or reset lands afterwards, as the drive and the shelf's own log say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::Duration;

use braid::target::manage::{FaultKind, Request};
use nvme::command::{SubmissionEntry, admin_opcode, io_opcode};
use nvme::feature::fid;
use nvme::log::{lid, log_command};
use nvme::reservation::{Command, HostId, Key, Persistence, admission};
use nvme::status::Status;

use super::queue::{Answer, Host, Manner, Queue, command, pattern, read, write};
use super::shelf::{
    Killed, SHELF, ask, enter, fence, hold, host, inject, registered, report, shown, spawn_with,
};
use super::stage::{Folder, Stage, WAIT};

/// A life of a host: the name goes with the number.
fn life(stage: &Stage, number: u8, life: u8) -> Host {
    Host::connect_as(
        stage.address(),
        Manner {
            host: number,
            life: Some(life),
            ..Manner::default()
        },
    )
}

fn expel(nsid: u32, own: u8) -> (SubmissionEntry, Vec<u8>) {
    admission::expel(0, nsid, HostId([own; 16]))
}

fn kill(nsid: u32, victim: u8) -> (SubmissionEntry, Vec<u8>) {
    admission::kill(0, nsid, HostId([victim; 16]))
}

fn run(host: &mut Host, (entry, data): (SubmissionEntry, Vec<u8>)) -> Answer {
    host.admin.run(entry, &data, 0)
}

fn try_write(host: &mut Host, nsid: u32, slba: u64, seed: u64) -> Answer {
    host.io[0].run(write(nsid, slba, 1), &pattern(seed, 4096), 0)
}

/// Waits until the target has taken everything that was sent over this queue: commands are taken in order, and this one ends at once.
fn barrier(queue: &mut Queue) {
    let unknown = queue.run(command(0x7d, 1, 0, 1), &[], 0);
    assert!(unknown.is(Status::INVALID_OPCODE) || unknown.is(Status::RESERVATION_CONFLICT));
}

/// What a life that is out may and may not do in the drive's two namespaces.
fn is_out(host: &mut Host) {
    for nsid in [1, 2] {
        let refused = try_write(host, nsid, 9, 99);
        assert!(refused.is(Status::RESERVATION_CONFLICT), "{}", refused.status());
        let zeroes = host.io[0].run(command(io_opcode::WRITE_ZEROES, nsid, 9, 1), &[], 0);
        assert!(zeroes.is(Status::RESERVATION_CONFLICT));
        host.io[0].run(read(nsid, 9, 1), &[], 4096).ok();
    }
    let register = Command::Register {
        new: Key(0x99),
        persistence: Persistence::Keep,
    };
    assert!(ask(host, 1, register).is(Status::RESERVATION_CONFLICT));
    report(host);
}

#[test]
fn a_later_life_expels_the_earlier_one_with_what_it_has_under_way() {
    let mut stage = Stage::set(SHELF);
    let mut old = life(&stage, 2, 0x21);
    run(&mut old, expel(2, 0x21)).ok();
    try_write(&mut old, 2, 5, 1).ok();
    inject(&stage, FaultKind::Hang);
    let held = old.io[0].submit(write(2, 5, 1), &pattern(5, 4096), 0);
    barrier(&mut old.io[0]);
    let mut new = life(&stage, 2, 0x22);
    let (entry, data) = expel(2, 0x22);
    let expelled = new.admin.submit(entry, &data, 0);
    assert!(
        !new.admin.answers_within(expelled, Duration::from_millis(300)),
        "a command of the earlier life is held"
    );
    inject(&stage, FaultKind::Clear);
    new.admin.wait(expelled).ok();
    let seen = new.read(2, 5, 1, 4096);
    old.io[0].wait(held);
    is_out(&mut old);
    assert!(run(&mut old, expel(1, 0x21)).is(Status::RESERVATION_CONFLICT));
    assert!(new.read(2, 5, 1, 4096) == seen, "nothing lands later");
    try_write(&mut new, 1, 9, 1).ok();
    // Another host, and the other drive, know nothing of that.
    let mut other = host(stage.address(), 3);
    for nsid in [1, 2] {
        try_write(&mut other, nsid, 7, 3).ok();
    }
    try_write(&mut old, 4, 5, 3).ok();
    let claims = &shown(&stage).drives[0].claims;
    assert_eq!(claims[0].name.as_deref(), Some("nqn.2026-01.io.braid:host-2"));
    assert_eq!(claims[0].host, Some(HostId([0x22; 16]).to_string()));
    drop((old, new, other));
    stage.stop();
    stage.start().unwrap();
    let (mut old, mut new) = (life(&stage, 2, 0x21), life(&stage, 2, 0x22));
    is_out(&mut old);
    try_write(&mut new, 2, 5, 7).ok();
    let mut later = life(&stage, 2, 0x23);
    is_out(&mut later);
    run(&mut later, expel(1, 0x23)).ok();
    try_write(&mut later, 1, 9, 8).ok();
    is_out(&mut new);
}

#[test]
fn a_killed_host_is_out_for_good() {
    let mut stage = Stage::set(SHELF);
    let (mut one, mut two) = (host(stage.address(), 1), host(stage.address(), 2));
    let unregistered = run(&mut one, kill(1, 2));
    assert!(
        unregistered.is(Status::RESERVATION_CONFLICT),
        "only who could fence kills"
    );
    enter(&mut one, 1);
    enter(&mut two, 2);
    hold(&mut one, 1);
    inject(&stage, FaultKind::Hang);
    let held = two.io[0].submit(write(1, 5, 1), &pattern(5, 4096), 0);
    barrier(&mut two.io[0]);
    let (entry, data) = kill(2, 2);
    let killed = one.admin.submit(entry, &data, 0);
    assert!(!one.admin.answers_within(killed, Duration::from_millis(300)));
    inject(&stage, FaultKind::Clear);
    one.admin.wait(killed).ok();
    let seen = one.read(1, 5, 1, 4096);
    two.io[0].wait(held);
    let late = try_write(&mut two, 1, 5, 6);
    assert!(late.is(Status::RESERVATION_CONFLICT));
    let back = ask(&mut two, 1, fence(2, 1));
    assert!(
        back.is(Status::RESERVATION_CONFLICT),
        "it fences nobody, although it has a key"
    );
    drop((one, two));
    stage.stop();
    stage.start().unwrap();
    let (mut one, mut two) = (host(stage.address(), 1), host(stage.address(), 2));
    assert!(try_write(&mut two, 2, 5, 6).is(Status::RESERVATION_CONFLICT));
    assert!(one.read(1, 5, 1, 4096) == seen);
    assert_eq!(shown(&stage).drives[0].barred, [HostId([2; 16]).to_string()]);
}

/// PROTOCOL H07, over the wire and over a new start.
#[test]
fn a_fenced_key_does_not_come_back_where_keys_are_held_to_epochs() {
    let mut stage = Stage::set(SHELF);
    let key = |epoch: u64, slot: u64| epoch << 32 | slot << 24 | 0x1234;
    let (mut one, mut two) = (host(stage.address(), 1), host(stage.address(), 2));
    let feature = |opcode: u8, on: u32| {
        let mut entry = SubmissionEntry::new(opcode, 0);
        entry.set_nsid(1);
        entry.set_dword(10, u32::from(fid::KEY_EPOCHS));
        entry.set_dword(11, on);
        entry
    };
    one.admin.run(feature(admin_opcode::SET_FEATURES, 1), &[], 0).ok();
    enter(&mut one, key(1, 0));
    enter(&mut two, key(4, 1));
    hold(&mut one, key(1, 0));
    ask(&mut one, 1, fence(key(1, 0), key(4, 1))).ok();
    let register = |epoch, slot| Command::Register {
        new: Key(key(epoch, slot)),
        persistence: Persistence::Keep,
    };
    for round in 0..2 {
        for epoch in 1..=4 {
            let late = ask(&mut two, 1, register(epoch, 1));
            assert!(late.is(Status::RESERVATION_CONFLICT), "{round} {epoch}");
        }
        let found = one.admin.run(feature(admin_opcode::GET_FEATURES, 0), &[], 0);
        assert_eq!(found.entry.result, 1);
        drop((one, two));
        stage.stop();
        stage.start().unwrap();
        (one, two) = (host(stage.address(), 1), host(stage.address(), 2));
    }
    ask(&mut two, 1, register(5, 1)).ok();
    assert_eq!(registered(&report(&mut one)).len(), 2);
    let floors = shown(&stage).drives[0].key_epochs.clone().unwrap();
    assert_eq!(floors[..3], [1, 5, 0]);
}

#[test]
fn a_cross_controller_reset_waits_for_what_the_other_controller_has_under_way() {
    let stage = Stage::set(SHELF);
    let (mut one, mut other) = (host(stage.address(), 1), host(stage.address(), 1));
    let page = other.identify(1, 0);
    let (instance, random) = (page[135], u64::from_le_bytes(page[136..144].try_into().unwrap()));
    inject(&stage, FaultKind::Hang);
    other.io[0].submit(write(1, 5, 1), &pattern(5, 4096), 0);
    barrier(&mut other.io[0]);
    let event = SubmissionEntry::new(admin_opcode::ASYNC_EVENT_REQUEST, 0);
    let event = one.admin.submit(event, &[], 0);
    let mut reset = SubmissionEntry::new(admin_opcode::CROSS_CONTROLLER_RESET, 0);
    reset.set_dword(10, u32::from(other.cntlid) | u32::from(instance) << 16);
    reset.set_qword(12, random);
    let answer = one.admin.run(reset, &[], 0);
    assert!(answer.status().is_success() && answer.entry.result == 0);
    assert!(!one.admin.answers_within(event, Duration::from_millis(300)));
    inject(&stage, FaultKind::Clear);
    assert_eq!(one.admin.wait(event).entry.result, 0x1e_f402);
    let log = log_command(0, lid::CROSS_CONTROLLER_RESET, 0, 16);
    let log = one.admin.run(log, &[], 16).data();
    assert_eq!((log[0], log[14]), (1, 1), "one reset, which has succeeded");
    let seen = one.read(1, 5, 1, 4096);
    assert!(other.admin.ends_by_target());
    assert!(one.read(1, 5, 1, 4096) == seen);
    let again = one.admin.run(reset, &[], 0);
    assert_eq!(again.entry.result, 1, "it is over");
}

/// Source: NVM Express Base Specification 2.0, section 8.19: registrations are the host's, not its association's.
#[test]
fn a_host_that_comes_back_is_still_registered_and_its_log_is_empty() {
    let stage = Stage::set(SHELF);
    let (mut one, mut two) = (host(stage.address(), 1), host(stage.address(), 2));
    enter(&mut one, 1);
    enter(&mut two, 2);
    hold(&mut one, 1);
    drop(two);
    let mut two = host(stage.address(), 2);
    try_write(&mut two, 1, 3, 1).ok();
    let log = log_command(0, lid::RESERVATION, 0, 64);
    let page = two.admin.run(log, &[], 64).data();
    assert!(page.iter().all(|byte| *byte == 0));
    assert_eq!(registered(&report(&mut two)).len(), 2);
}

/// One line of the command log.
#[derive(Clone, Debug)]
struct Line {
    number: u64,
    kind: String,
    fields: BTreeMap<String, String>,
}

impl Line {
    fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let number = words.next().unwrap().parse().unwrap();
        let time: u64 = words.next().unwrap().parse().unwrap();
        let kind = words.next().unwrap().to_owned();
        assert!(time > 0, "{text}");
        let fields = words.map(|word| {
            let (name, value) = word.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        });
        Self {
            number,
            kind,
            fields: fields.collect(),
        }
    }

    fn hosts(&self, field: &str) -> BTreeSet<String> {
        let list = self.fields[field].split(',');
        list.map(|item| item.split(':').next().unwrap().to_owned())
            .collect()
    }
}

/// What the log proves.
#[derive(Debug, Default)]
pub(super) struct Proof {
    pub(super) fences: u64,
    /// Namespaces and hosts that were ever kept out of them.
    pub(super) fenced: BTreeSet<(String, String)>,
    pub(super) writes: u64,
    /// Keys that hosts had when they wrote.
    keys: BTreeSet<String>,
    /// Those that are out at the moment.
    out: BTreeSet<(String, String)>,
}

impl Proof {
    /// Goes on with what a start of the shelf has logged: checks that whatever a fenced host had begun was over when its fence was in effect, and
    /// that it began nothing until it was registered again. If the process was killed, its last lines may be missing.
    pub(super) fn follow(&mut self, text: &str, was_killed: bool) {
        let text = if was_killed {
            text.rsplit_once('\n').map_or("", |(whole, _)| whole)
        } else {
            text
        };
        let mut lines: Vec<Line> = text.lines().map(Line::parse).collect();
        lines.sort_by_key(|line| line.number);
        let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
        let expected: Vec<u64> = (1..=u64::try_from(lines.len()).unwrap()).collect();
        assert_eq!(numbers, expected, "nothing is lost");
        let mut under_way: BTreeMap<u64, (String, String)> = BTreeMap::new();
        for line in lines {
            let nsid = line.fields.get("nsid").cloned().unwrap_or_default();
            match &line.kind[..] {
                "started" => {}
                "begin" => {
                    let whose = (nsid, line.fields["host"].clone());
                    assert!(!self.out.contains(&whose), "{line:?} begins after its fence");
                    self.writes += 1;
                    self.keys.insert(line.fields["key"].clone());
                    under_way.insert(line.number, whose);
                }
                "end" => {
                    let begin = under_way.remove(&line.fields["of"].parse().unwrap());
                    assert!(begin.is_some(), "{line:?} has begun");
                }
                "rules" => self.rules(&line, &nsid, &under_way),
                other => panic!("{other}"),
            }
        }
        assert!(under_way.is_empty() || was_killed, "everything ends");
    }

    fn rules(&mut self, line: &Line, nsid: &str, under_way: &BTreeMap<u64, (String, String)>) {
        let here: u64 = nsid.parse().unwrap();
        for back in line.hosts("registrants") {
            self.out.remove(&(nsid.to_owned(), back));
        }
        let aborted = line.hosts("aborted").into_iter().map(|host| (here, host));
        // Who is barred is out of both namespaces of the drive.
        let barred = line.hosts("barred").into_iter();
        let barred = barred.flat_map(|host| [(here, host.clone()), (here + 1, host)]);
        for (nsid, host) in aborted.chain(barred).filter(|(_, host)| host != "-") {
            let whose = (nsid.to_string(), host);
            let held = under_way.values().any(|other| *other == whose);
            assert!(
                !held,
                "{line:?} is in effect while {whose:?} has something under way"
            );
            self.out.insert(whose.clone());
            self.fenced.insert(whose);
            self.fences += 1;
        }
    }
}

/// The proof of the log of a shelf that was stopped.
fn check(text: &str) -> Proof {
    let mut proof = Proof::default();
    proof.follow(text, false);
    proof
}

#[test]
fn the_check_of_the_log_finds_what_it_is_for() {
    let begin =
        |number, host| format!("{number} 5 begin nsid=1 host={host} key=0x2 opcode=0x01 lba=5 blocks=1");
    let end = |number, of| format!("{number} 5 end of={of} nsid=1 host=b status=0x0000");
    let rules =
        |number| format!("{number} 5 rules nsid=1 order=1 kind=6 aborted=b barred=- registrants=a:0x1");
    let found = |lines: [String; 3]| std::panic::catch_unwind(move || check(&lines.join("\n"))).is_err();
    assert!(!found([begin(1, "b"), end(2, 1), rules(3)]));
    assert!(
        !found([rules(3), end(2, 1), begin(1, "b")]),
        "lines may stand in any order"
    );
    assert!(
        found([begin(1, "b"), rules(2), end(3, 1)]),
        "the fence is too early"
    );
    assert!(found([rules(1), begin(2, "b"), end(3, 2)]), "it begins too late");
    assert!(!found([rules(1), begin(2, "a"), end(3, 2)]));
    assert!(found([begin(1, "b"), end(3, 1), rules(4)]), "a record is missing");
}

/// Writes to sixteen blocks of these namespaces over both queues until the first conflict.
fn write_until_refused(two: &mut Host, round: u64, nsids: &[u32]) -> (u64, u64) {
    let (mut told, mut lost) = (0, 0);
    for stamp in 0..100_000 {
        let mut pending = Vec::new();
        for (index, queue) in two.io.iter_mut().enumerate() {
            for at in 0..8 {
                let nsid = nsids[usize::try_from(at).unwrap() % nsids.len()];
                let data = pattern(round << 32 | stamp << 8 | at, 4096);
                pending.push((index, queue.submit(write(nsid, at * 2, 1), &data, 0)));
            }
        }
        for (index, cid) in pending {
            let status = two.io[index].wait(cid).status();
            told += u64::from(status.is_success());
            lost += u64::from(!status.is_success());
        }
        if lost > 0 {
            return (told, lost);
        }
    }
    panic!("it is never refused, although it was fenced")
}

fn faulty(shelf: &mut Killed, fault: FaultKind, slow_us: Option<u64>) {
    let call = Request::DriveInject(braid::target::manage::DriveInject {
        drive: "d0".to_owned(),
        fault,
        at_bytes: None,
        blocks: None,
        slow_us,
    });
    shelf.client.call(&call).unwrap();
}

/// Stops a shelf, and checks its log.
fn prove(mut shelf: Killed, folder: &Folder) -> Proof {
    shelf.client.call(&Request::Shutdown).unwrap();
    let deadline = std::time::Instant::now() + WAIT;
    while shelf.child.0.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < deadline, "the shelf stops");
        thread::sleep(Duration::from_millis(10));
    }
    check(&fs::read_to_string(folder.path().join("commands.log")).unwrap())
}

/// Likewise for lives that are killed, or expelled by the next one of their name, from both namespaces of the drive. A change of who is let in
/// is durable before it is enforced; a drive that is slow, which its header does not notice, has writes under way when the cores hear of it.
#[test]
fn the_log_of_a_shelf_proves_that_nothing_lands_after_a_life_is_barred() {
    let folder = Folder::make();
    let mut shelf = spawn_with(&folder, "command_log = \"commands.log\"");
    let address = shelf.address;
    let as_life = move |life| {
        let manner = Manner {
            host: 2,
            life: Some(life),
            queues: 2,
            ..Manner::default()
        };
        Host::connect_as(address, manner)
    };
    let mut one = host(address, 1);
    enter(&mut one, 1);
    hold(&mut one, 1);
    let rounds = 12_u8;
    for round in 0..rounds {
        let own = 0x20 + round;
        let mut two = as_life(own);
        run(&mut two, expel(1, own)).ok();
        enter(&mut two, u64::from(own));
        let victim = thread::spawn(move || write_until_refused(&mut two, round.into(), &[1, 2]));
        match round % 3 {
            0 => faulty(&mut shelf, FaultKind::Slow, Some(30_000)),
            1 => faulty(&mut shelf, FaultKind::Hang, None),
            _ => {}
        }
        let pause = Duration::from_micros(u64::from(pattern(round.into(), 1)[0]) * 100);
        thread::sleep(pause);
        let by_life = round % 2 == 1;
        let mut next = as_life(own + 1);
        let (entry, data) = if by_life { expel(2, own + 1) } else { kill(2, own) };
        let admin = if by_life { &mut next.admin } else { &mut one.admin };
        let fenced = admin.submit(entry, &data, 0);
        if round % 3 == 1 {
            thread::sleep(pause);
            faulty(&mut shelf, FaultKind::Clear, None);
        }
        admin.wait(fenced).ok();
        faulty(&mut shelf, FaultKind::Clear, None);
        let seen = [one.read(1, 0, 16, 4096), one.read(2, 0, 16, 4096)];
        let (_, lost) = victim.join().unwrap();
        assert!(lost > 0, "round {round}");
        let again = [one.read(1, 0, 16, 4096), one.read(2, 0, 16, 4096)];
        assert!(again == seen, "round {round}");
    }
    drop(one);
    let proof = prove(shelf, &folder);
    println!(
        "{} lives barred in two namespaces, {} writes",
        rounds, proof.writes
    );
    assert_eq!(proof.fenced.len(), 2 * usize::from(rounds), "{:?}", proof.fenced);
    assert!(proof.writes > 100, "{}", proof.writes);
}

/// Goal: a write of a fenced host lands before Preempt and Abort completes, or never (PROTOCOL H03), on a real shelf over real connections.
/// Method: fences at random moments in the middle of writes, with the drive holding what it has at that moment in every other round. The drive is
/// read when the fence completes and again when the host has given up; then the log has to prove the same. `BRAID_FENCES` says how many.
#[test]
fn the_log_of_a_shelf_proves_that_nothing_lands_after_a_fence() {
    let rounds = std::env::var("BRAID_FENCES").map_or(30, |text| text.parse().unwrap());
    let folder = Folder::make();
    let mut shelf = spawn_with(&folder, "command_log = \"commands.log\"");
    let address = shelf.address;
    let mut one = host(address, 1);
    enter(&mut one, 1);
    hold(&mut one, 1);
    let (mut landed, mut refused) = (0, 0);
    for round in 0..rounds {
        let victim = thread::spawn(move || {
            let manner = Manner {
                host: 2,
                queues: 2,
                ..Manner::default()
            };
            let mut two = Host::connect_as(address, manner);
            enter(&mut two, 2);
            write_until_refused(&mut two, round, &[1])
        });
        while report(&mut one).registrants.len() < 2 {}
        let pauses: Vec<Duration> = pattern(round, 2)
            .into_iter()
            .map(|byte| Duration::from_micros(byte.into()) * 40)
            .collect();
        let holds = round % 2 == 0;
        thread::sleep(pauses[0]);
        if holds {
            faulty(&mut shelf, FaultKind::Hang, None);
        }
        let (entry, data) = fence(1, 2).encode(0, 1);
        let fenced = one.io[0].submit(entry, &data, 0);
        if holds {
            thread::sleep(pauses[1]);
            faulty(&mut shelf, FaultKind::Clear, None);
        }
        one.io[0].wait(fenced).ok();
        let seen = one.read(1, 0, 16, 4096);
        let (told, lost) = victim.join().unwrap();
        landed += told;
        refused += lost;
        assert!(one.read(1, 0, 16, 4096) == seen, "round {round}");
    }
    assert!(landed > 0 && refused >= rounds, "{landed} {refused}");
    drop(one);
    let proof = prove(shelf, &folder);
    println!(
        "{} fences, {} writes, {} refused",
        proof.fences, proof.writes, refused
    );
    assert_eq!(proof.fences, rounds);
    assert!(proof.writes >= landed && proof.keys.contains("0x2"), "{proof:?}");
}
