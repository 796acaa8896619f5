//! A shelf as nodes meet it: raw namespaces, reservations that outlive it, drives that it alone opens.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command as Process, Stdio};
use std::time::Instant;

use braid::target::manage::{
    DriveInject, FaultKind, GroupName, ManageError, Reply, Request, ShelfStatus, VdiskDelete,
};
use braid::target::rpc::Client;
use nvme::command::{SubmissionEntry, io_opcode};
use nvme::log::{INSTANCE_BYTES, lid, log_command};
use nvme::reservation::{Command, HostId, Key, Kind, Persistence, Report};
use nvme::status::Status;

use super::queue::{Answer, Host, Manner, command, pattern, read, write};
use super::stage::{Folder, NQN, Stage, WAIT, start};

/// Two file drives; their data are namespaces 1 and 3, their quorum areas 2 and 4.
pub(super) const SHELF: &str = r#"
[shelf]
name = "end-to-end"
quorum_mib = 1
create = true
[reactor]
cores = 2
[health]
allow_fault_injection = true
[[drive]]
name = "d0"
path = "d0.img"
size_mib = 16
[[drive]]
name = "d1"
path = "d1.img"
size_mib = 16
"#;

/// A node's group over one of those drives.
const NODE: &str = r#"
[[drive]]
name = "d0"
path = "d0.img"
size_mib = 16
[[group]]
name = "g"
level = "raid0"
drives = ["d0"]
create = true
"#;

/// A node with a virtual disk on that drive.
const NODE_WITH_DISK: &str = r#"
[[drive]]
name = "d0"
path = "d0.img"
size_mib = 16
[[group]]
name = "g"
level = "raid0"
drives = ["d0"]
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 4
nsid = 1
"#;

pub(super) const ALL: Kind = Kind::ExclusiveAccessAllRegistrants;

pub(super) fn host(address: SocketAddr, number: u8) -> Host {
    Host::connect_as(
        address,
        Manner {
            host: number,
            ..Manner::default()
        },
    )
}

pub(super) fn ask(host: &mut Host, nsid: u32, command: Command) -> Answer {
    let (entry, data) = command.encode(0, nsid);
    let read_bytes = if let Command::Report { length_bytes, .. } = command {
        u32::try_from(length_bytes).unwrap()
    } else {
        0
    };
    host.io[0].run(entry, &data, read_bytes)
}

/// Registers, for good.
pub(super) fn enter(host: &mut Host, number: u64) {
    let command = Command::Register {
        new: Key(number),
        persistence: Persistence::On,
    };
    ask(host, 1, command).ok();
}

pub(super) fn hold(host: &mut Host, number: u64) {
    let command = Command::Acquire {
        current: Key(number),
        kind: ALL,
    };
    ask(host, 1, command).ok();
}

pub(super) fn fence(by: u64, victim: u64) -> Command {
    Command::Preempt {
        current: Key(by),
        victim: Key(victim),
        kind: ALL,
        abort: true,
    }
}

pub(super) fn report(host: &mut Host) -> Report {
    let command = Command::Report {
        extended: true,
        length_bytes: 1024,
    };
    Report::parse(&ask(host, 1, command).data(), true).unwrap()
}

pub(super) fn registered(report: &Report) -> Vec<(HostId, u64)> {
    let all = report.registrants.iter();
    all.map(|it| (it.host, it.key.0)).collect()
}

fn instance(host: &mut Host) -> Vec<u8> {
    let bytes = u32::try_from(INSTANCE_BYTES).unwrap();
    host.admin
        .run(log_command(0, lid::INSTANCE, 0, bytes), &[], bytes)
        .data()
}

pub(super) fn shown(stage: &Stage) -> ShelfStatus {
    let reply = stage.call(Request::ShelfShow);
    let Ok(Reply::Shelf(shelf)) = reply else {
        panic!("{reply:?}")
    };
    shelf
}

pub(super) fn inject(stage: &Stage, fault: FaultKind) {
    let reply = stage.call(Request::DriveInject(DriveInject {
        drive: "d0".to_owned(),
        fault,
        at_bytes: None,
        blocks: None,
        slow_us: None,
    }));
    assert!(matches!(reply, Ok(Reply::Drive(_))), "{reply:?}");
}

#[test]
fn each_drive_is_a_reserved_and_an_unreserved_namespace() {
    let stage = Stage::set(SHELF);
    let (mut one, mut two) = (host(stage.address(), 1), host(stage.address(), 2));
    for (nsid, capabilities) in [(1, 0xff), (2, 0), (3, 0xff), (4, 0)] {
        assert_eq!(one.identify(0, nsid)[31], capabilities, "RESCAP of {nsid}");
    }
    let blocks = |page: &[u8]| u64::from_le_bytes(page[..8].try_into().unwrap());
    assert_eq!(blocks(&one.identify(0, 2)), 256);
    assert!(blocks(&one.identify(0, 1)) >= 12 * 256);
    enter(&mut one, 1);
    hold(&mut one, 1);
    let data = pattern(1, 4096);
    one.write(1, 0, 4096, &data);
    for entry in [write(1, 0, 1), read(1, 0, 1)] {
        let (sent, read_bytes): (&[u8], u32) = match entry.opcode() {
            io_opcode::WRITE => (&data, 0),
            _ => (&[], 4096),
        };
        let answer = two.io[0].run(entry, sent, read_bytes);
        assert!(answer.is(Status::RESERVATION_CONFLICT), "{}", answer.status());
    }
    two.write(2, 5, 4096, &data);
    two.write(3, 5, 4096, &data);
    assert!(one.read(2, 5, 1, 4096) == data && one.read(3, 5, 1, 4096) == data);
    let register = Command::Register {
        new: Key(1),
        persistence: Persistence::Keep,
    };
    assert!(ask(&mut one, 2, register).is(Status::INVALID_OPCODE));
    let mut forced = write(1, 1, 1);
    forced.set_dword(12, 1 << 30);
    one.io[0].run(forced, &data, 0).ok();
    let mut flush = SubmissionEntry::new(io_opcode::FLUSH, 0);
    flush.set_nsid(1);
    one.io[0].run(flush, &[], 0).ok();
    let shelf = shown(&stage);
    assert_eq!(shelf.drives.len(), 2);
    let drive = &shelf.drives[0];
    let reservation = drive.reservation.as_deref();
    assert_eq!((&drive.drive[..], reservation), ("d0", Some(ALL.text())));
    assert!(drive.persists && drive.registrants[0].holder);
    assert_eq!(drive.quorum.as_ref().map(|it| it.nsid), Some(2));
}

#[test]
fn reservations_outlive_a_stop_and_the_instance_does_not() {
    let mut stage = Stage::set(SHELF);
    let mut one = host(stage.address(), 1);
    enter(&mut one, 1);
    enter(&mut host(stage.address(), 2), 2);
    hold(&mut one, 1);
    let data = pattern(9, 4096);
    one.write(1, 7, 4096, &data);
    let (before, first) = (report(&mut one), instance(&mut one));
    assert_eq!(registered(&before), [(HostId([1; 16]), 1), (HostId([2; 16]), 2)]);
    let uuids = |shelf: &ShelfStatus| -> Vec<String> {
        let data = shelf.drives.iter().map(|drive| drive.data.as_ref());
        data.map(|data| data.unwrap().uuid.clone()).collect()
    };
    let named = uuids(&shown(&stage));
    drop(one);
    stage.stop();
    stage.start().unwrap();
    let (mut one, mut three) = (host(stage.address(), 1), host(stage.address(), 3));
    assert_eq!(report(&mut one), before);
    assert!(report(&mut one).persists);
    assert_ne!(instance(&mut one), first);
    assert_eq!(uuids(&shown(&stage)), named);
    let late = three.io[0].run(read(1, 7, 1), &[], 4096);
    assert!(late.is(Status::RESERVATION_CONFLICT));
    assert!(one.read(1, 7, 1, 4096) == data);
}

#[test]
fn what_cannot_be_made_durable_is_refused_and_nobody_is_held_to_it() {
    let mut stage = Stage::set(SHELF);
    let (mut one, mut two) = (host(stage.address(), 1), host(stage.address(), 2));
    enter(&mut one, 1);
    inject(&stage, FaultKind::Error);
    let acquire = Command::Acquire {
        current: Key(1),
        kind: ALL,
    };
    let refused = ask(&mut one, 1, acquire);
    assert!(refused.is(Status::INTERNAL_ERROR), "{}", refused.status());
    inject(&stage, FaultKind::Clear);
    assert_eq!(report(&mut one).kind, None);
    two.write(1, 0, 4096, &pattern(1, 4096));
    hold(&mut one, 1);
    drop((one, two));
    stage.stop();
    stage.start().unwrap();
    assert_eq!(report(&mut host(stage.address(), 1)).kind, Some(ALL));
}

/// PROTOCOL H02, H03, H04: what a fence says is so, also when the shelf is started anew right after it.
#[test]
fn a_fence_waits_for_a_held_write_and_outlives_the_shelf() {
    let mut stage = Stage::set(SHELF);
    let (mut one, mut two) = (host(stage.address(), 1), host(stage.address(), 2));
    enter(&mut one, 1);
    enter(&mut two, 2);
    hold(&mut one, 1);
    inject(&stage, FaultKind::Hang);
    let held = two.io[0].submit(write(1, 5, 1), &pattern(5, 4096), 0);
    let unknown = two.io[0].run(command(0x7d, 1, 0, 1), &[], 0);
    assert!(unknown.is(Status::INVALID_OPCODE), "the write was taken before");
    let (entry, data) = fence(1, 2).encode(0, 1);
    let fenced = one.io[0].submit(entry, &data, 0);
    assert!(!one.io[0].answers_within(fenced, std::time::Duration::from_millis(300)));
    inject(&stage, FaultKind::Clear);
    one.io[0].wait(fenced).ok();
    let seen = one.read(1, 5, 1, 4096);
    two.io[0].wait(held);
    assert!(one.read(1, 5, 1, 4096) == seen);
    drop((one, two));
    stage.stop();
    stage.start().unwrap();
    let (mut one, mut two) = (host(stage.address(), 1), host(stage.address(), 2));
    assert_eq!(registered(&report(&mut one)), [(HostId([1; 16]), 1)]);
    let late = two.io[0].run(write(1, 5, 1), &pattern(6, 4096), 0);
    assert!(late.is(Status::RESERVATION_CONFLICT));
    assert!(one.read(1, 5, 1, 4096) == seen);
}

/// Why a process with this configuration does not start; it leaves the first drive as it is.
fn refusal(text: &str, folder: &Folder) -> String {
    let drive = folder.path().join("d0.img");
    let before = fs::read(&drive).unwrap();
    let error = start(text, folder.path()).err().expect("it is refused");
    assert!(fs::read(&drive).unwrap() == before, "nothing was written");
    error.to_string()
}

#[test]
fn drives_of_a_shelf_are_none_of_a_node_and_the_other_way_round() {
    let folder = Folder::make();
    start(SHELF, folder.path()).unwrap().stop().unwrap();
    let said = refusal(NODE, &folder);
    assert!(said.contains("drive \"d0\" belongs to a shelf"), "{said}");
    let folder = Folder::make();
    start(NODE, folder.path()).unwrap().stop().unwrap();
    let said = refusal(SHELF, &folder);
    assert!(said.contains("belongs to a group of a node"), "{said}");
}

#[test]
fn a_drive_whose_reservations_cannot_be_read_is_not_exported() {
    let folder = Folder::make();
    start(SHELF, folder.path()).unwrap().stop().unwrap();
    let path = folder.path().join("d0.img");
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[(64 << 10) + 50] ^= 1;
    fs::write(&path, &bytes).unwrap();
    start(SHELF, folder.path()).unwrap().stop().unwrap();
    bytes[(68 << 10) + 50] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let said = refusal(SHELF, &folder);
    assert!(said.contains("neither copy of them can be read"), "{said}");
    let said = refusal(NODE, &folder);
    assert!(said.contains("belongs to a shelf"), "{said}");
    fs::write(&path, &whole).unwrap();
    start(SHELF, folder.path()).unwrap().stop().unwrap();
}

#[test]
fn a_shelf_starts_without_a_drive_that_is_gone() {
    let folder = Folder::make();
    start(SHELF, folder.path()).unwrap().stop().unwrap();
    fs::remove_file(folder.path().join("d1.img")).unwrap();
    let text = SHELF.replacen("path = \"d1.img\"\nsize_mib = 16", "path = \"d1.img\"", 1);
    let shelf = start(&text, folder.path()).unwrap();
    let mut one = host(shelf.addresses()[0], 1);
    one.write(1, 0, 4096, &pattern(1, 4096));
    let gone = one.io[0].run(read(3, 0, 1), &[], 4096);
    assert!(gone.is(Status::INVALID_NAMESPACE_OR_FORMAT));
    drop(one);
    shelf.stop().unwrap();
}

#[test]
fn operators_change_nothing_of_a_shelf() {
    let stage = Stage::set(SHELF);
    let delete = VdiskDelete {
        vdisk: "d0.data".to_owned(),
        force: true,
    };
    let refused = stage.call(Request::VdiskDelete(delete)).unwrap_err();
    assert_eq!(refused.code, ManageError::INVALID);
    let group = GroupName {
        group: "d0".to_owned(),
    };
    assert!(stage.call(Request::GroupShow(group)).is_ok());
    let node = Stage::set(NODE);
    let refused = node.call(Request::ShelfShow).unwrap_err();
    assert!(refused.message.contains("not a shelf"), "{}", refused.message);
}

/// `braid shelf` as a process that is killed.
pub(super) struct Killed {
    pub(super) child: Running,
    pub(super) client: Client,
    pub(super) address: SocketAddr,
}

/// A process that is killed when nobody wants it any more.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub(super) fn spawn(folder: &Folder) -> Killed {
    spawn_with(folder, "")
}

/// Likewise, with further keys in its section.
pub(super) fn spawn_with(folder: &Folder, more: &str) -> Killed {
    let file = folder.path().join("shelf.toml");
    let socket = folder.path().join("shelf.sock");
    let keys = format!(
        "[shelf]\nrpc_socket = \"shelf.sock\"\n[subsystem]\nnqn = \"{NQN}\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n"
    );
    let sections = SHELF.replacen("[shelf]\n", "", 1);
    let (own, others) = sections.split_once("[reactor]").unwrap();
    let text = keys.replacen("[shelf]\n", &format!("[shelf]\n{own}\n{more}\n"), 1) + "[reactor]" + others;
    fs::write(&file, text).unwrap();
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.path().join("log"))
        .unwrap();
    let child = Running(
        Process::new(env!("CARGO_BIN_EXE_braid"))
            .args(["shelf", "--config"])
            .arg(&file)
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap(),
    );
    let deadline = Instant::now() + WAIT;
    loop {
        let status = Client::connect(&socket, WAIT)
            .ok()
            .and_then(|mut client| Some((client.call(&Request::NodeShow).ok()?, client)));
        if let Some((Reply::Node(status), client)) = status
            && status.pid == child.0.id()
        {
            let address = status.listen[0].address.parse().unwrap();
            return Killed {
                child,
                client,
                address,
            };
        }
        let said = fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(Instant::now() < deadline, "the shelf starts: {said}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// H31: a shelf answers Flush after its drive was flushed, and a write with FUA after it was forced; other writes force nothing.
#[test]
fn flush_and_forced_writes_reach_the_drive() {
    const FUA: u32 = 1 << 30;
    let stage = Stage::set(SHELF);
    let mut host = host(stage.address(), 1);
    let counted = || {
        let drive = stage.drive("d0");
        (drive.writes, drive.forced_writes, drive.flushes)
    };
    let await_writes = |writes| {
        let end = Instant::now() + WAIT;
        while counted().0 < writes {
            assert!(Instant::now() < end, "{:?}", counted());
            std::thread::yield_now();
        }
        counted()
    };
    let forced = |mut entry: SubmissionEntry| {
        entry.set_dword(12, entry.dword(12) | FUA);
        entry
    };
    let page = host.identify(1, 0);
    assert_eq!(page[525] & 1, 1, "it says that writes have to be flushed");
    for nsid in [1, 2] {
        let (writes, before, flushes) = counted();
        for slba in 0..10 {
            host.io[0].run(write(nsid, slba, 1), &pattern(slba, 4096), 0).ok();
        }
        let (writes, after, none) = await_writes(writes + 10);
        assert_eq!(
            (after, none),
            (before, flushes),
            "nothing is forced that was not to be"
        );
        for slba in 0..3 {
            let answer = host.io[0].run(forced(write(nsid, slba, 1)), &pattern(slba, 4096), 0);
            answer.ok();
        }
        let (_, after, none) = await_writes(writes + 3);
        assert_eq!((after, none), (before + 3, flushes));
        let zeroes = forced(command(io_opcode::WRITE_ZEROES, nsid, 0, 1));
        host.io[0].run(zeroes, &[], 0).ok();
        let mut flush = SubmissionEntry::new(io_opcode::FLUSH, 0);
        flush.set_nsid(nsid);
        host.io[0].run(flush, &[], 0).ok();
        let end = Instant::now() + WAIT;
        while (counted().1, counted().2) != (before + 4, flushes + 1) {
            assert!(Instant::now() < end, "{:?}", counted());
            std::thread::yield_now();
        }
    }
}

/// What a person runs before an array is made, against a shelf and against a target whose reservations end with its process.
#[test]
fn a_person_tries_out_whether_nodes_can_share_a_target() {
    let shelf = Stage::set(SHELF);
    let node = Stage::set(NODE_WITH_DISK);
    let tried = |stage: &Stage, more: &[&str]| {
        let address = stage.address().to_string();
        let output = Process::new(env!("CARGO_BIN_EXE_braid"))
            .args(["shelf", "test", &address, "--nqn", NQN, "--nsid", "1"])
            .args(more)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, said, error) = tried(&shelf, &[]);
    assert_eq!(code, Some(0), "{said}{error}");
    assert!(
        said.contains("nothing landed after it") && said.contains("nodes can share it"),
        "{said}"
    );
    let (code, said, error) = tried(&node, &[]);
    assert_eq!(code, Some(1), "{said}{error}");
    assert!(error.contains("PTPL") && error.contains("remedy: "), "{error}");
    let (code, said, _) = tried(&node, &["--json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["fit"]), (Some(1), &false.into()));
}

#[test]
fn reservations_survive_a_killed_shelf() {
    let folder = Folder::make();
    let mut expected = Vec::new();
    for round in 1..=4_u8 {
        let mut shelf = spawn(&folder);
        let mut own = host(shelf.address, round);
        let found = report(&mut own);
        assert_eq!(
            registered(&found),
            expected,
            "round {round}: what was told is what is found"
        );
        let was_held = found.kind;
        assert_eq!(was_held, (round > 1).then_some(ALL));
        if round > 1 {
            let conflict = own.io[0].run(read(1, 0, 1), &[], 4096);
            assert!(conflict.is(Status::RESERVATION_CONFLICT), "not registered yet");
        }
        enter(&mut own, round.into());
        if was_held.is_none() {
            hold(&mut own, round.into());
        } else {
            ask(&mut own, 1, fence(round.into(), u64::from(round) - 1)).ok();
        }
        own.write(1, u64::from(round), 4096, &pattern(round.into(), 4096));
        expected = vec![(HostId([round; 16]), round.into())];
        let Ok(Reply::Shelf(shown)) = shelf.client.call(&Request::ShelfShow) else {
            panic!("the shelf tells")
        };
        assert_eq!(shown.drives[0].registrants.len(), 1);
        drop(shelf.child);
    }
    let output = Process::new(env!("CARGO_BIN_EXE_braid"))
        .args(["node", "--config"])
        .arg(folder.path().join("shelf.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("braid shelf --config"),
        "{said}"
    );
}

#[test]
fn a_second_shelf_does_not_open_the_drives_of_the_first() {
    let folder = Folder::make();
    let shelf = spawn(&folder);
    let output = Process::new(env!("CARGO_BIN_EXE_braid"))
        .args(["shelf", "--config"])
        .arg(folder.path().join("shelf.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("d0"), "{said}");
    let mut one = host(shelf.address, 1);
    one.write(1, 0, 4096, &pattern(1, 4096));
    let shown = Process::new(env!("CARGO_BIN_EXE_braid"))
        .args(["shelf", "show", "--socket"])
        .arg(folder.path().join("shelf.sock"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(
        shown.status.success() && text.contains("d1") && text.contains("instance"),
        "{text}"
    );
}
