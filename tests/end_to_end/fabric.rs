//! A node whose drives are namespaces of a shelf: what it keeps, what it survives, and what it refuses.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use braid::target::manage::{
    DriveAddSpare, DriveInject, DriveKind, DriveReplace, FaultKind, GroupState, GroupStatus, MemberState,
    Reply, Request,
};
use braid::target::rpc::Client;
use nvme::command::{SubmissionEntry, io_opcode};

use super::bad_hosts::{assert_undisturbed, verify};
use super::initiator::Wire;
use super::queue::{Host, pattern};
use super::relay::Relay;
use super::stage::{Folder, NQN, Stage, WAIT, start};

/// A shelf with this name and these many drives of 16 MiB, in files of its name.
pub fn shelf(name: &str, drives: usize) -> String {
    let mut text = format!(
        "[shelf]\nname = \"{name}\"\nquorum_mib = 1\ncreate = true\n[health]\nallow_fault_injection = true\n"
    );
    for drive in 0..drives {
        text += &format!("[[drive]]\nname = \"d{drive}\"\npath = \"{name}-{drive}.img\"\nsize_mib = 16\n");
    }
    text
}

/// How a node names a shelf.
pub fn at(name: &str, address: SocketAddr) -> String {
    format!(
        "[[shelf]]\nname = \"{name}\"\naddresses = [\"{address}\"]\nnqn = \"nqn.2026-01.io.braid:{name}\"\n"
    )
}

/// These many drives of a shelf: their names begin with `prefix`.
pub fn drives(shelf: &str, prefix: &str, count: usize) -> String {
    (0..count)
        .map(|drive| {
            format!(
                "[[drive]]\nname = \"{prefix}{drive}\"\nshelf = \"{shelf}\"\nnsid = {}\n",
                2 * drive + 1
            )
        })
        .collect()
}

/// A group of these drives and its virtual disk.
pub fn group(level: &str, drives: &[&str]) -> String {
    format!(
        r#"
[reactor]
cores = 2
[health]
hang_ms = 2000
[[group]]
name = "g"
level = "{level}"
drives = {drives:?}
strip_kib = 16
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 12
nsid = 2
"#
    )
}

/// RAID-5 over four drives of one shelf.
fn node_of(address: SocketAddr) -> String {
    at("s", address) + &drives("s", "d", 4) + &group("raid5", &["d0", "d1", "d2", "d3"])
}

fn flush(host: &mut Host) {
    let mut flush = SubmissionEntry::new(io_opcode::FLUSH, 0);
    flush.set_nsid(2);
    host.io[0].run(flush, &[], 0).ok();
}

const PIECE: usize = 128 << 10;

fn write_all(host: &mut Host, data: &[u8]) {
    for (slba, piece) in (0..).step_by(PIECE / 4096).zip(data.chunks(PIECE)) {
        host.write(2, slba, 4096, piece);
    }
}

#[track_caller]
fn assert_holds(host: &mut Host, data: &[u8]) {
    for (slba, piece) in (0..).step_by(PIECE / 4096).zip(data.chunks(PIECE)) {
        assert!(host.read(2, slba, 32, 4096) == piece, "from block {slba}");
    }
}

/// Why a node with this configuration does not start.
fn refusal(text: &str) -> String {
    let folder = Folder::make();
    start(text, folder.path())
        .err()
        .expect("it does not start")
        .to_string()
}

/// CHECKLIST A3: a network to a shelf is lost, with a word or without; the node goes on over the other one and loses no drive.
#[test]
fn a_lost_path_to_a_shelf_costs_no_drive_if_there_is_another() {
    let shelf = Stage::set(&shelf("s", 4));
    let wires = [Relay::to(shelf.address()), Relay::to(shelf.address())];
    let ways = format!("{}\", \"{}", wires[0].address(), wires[1].address());
    let ways = at("s", wires[0].address()).replace(&wires[0].address().to_string(), &ways);
    // Members that do not answer are given up in the time that is the default.
    let group = group("raid5", &["d0", "d1", "d2", "d3"]).replace("hang_ms = 2000", "");
    let node = Stage::set(&(ways + &drives("s", "d", 4) + &group));
    let mut host = Host::connect(node.address());
    write_all(&mut host, &pattern(1, 2 << 20));
    for (seed, wire) in (2..).zip(&wires) {
        // The second way is in use when the first one was lost.
        if seed == 2 {
            wire.hold().lose();
        } else {
            wire.silence(true);
        }
        let data = pattern(seed, 2 << 20);
        write_all(&mut host, &data);
        flush(&mut host);
        assert_holds(&mut host, &data);
        let members = node.group("g").members;
        assert!(
            members.iter().all(|member| member.state == MemberState::Active),
            "{members:?}"
        );
    }
}

#[test]
fn a_group_over_a_shelf_keeps_what_hosts_write() {
    let shelf = Stage::set(&shelf("s", 4));
    let mut node = Stage::set(&node_of(shelf.address()));
    let mut host = Host::connect(node.address());
    let data = pattern(1, 8 << 20);
    write_all(&mut host, &data);
    flush(&mut host);
    assert_holds(&mut host, &data);
    assert_eq!(node.drive("d0").kind, DriveKind::Fabric);
    assert!(node.drive_commands("d0") > 0);
    drop(host);
    // Its drives are given back, so that the next life needs nobody's word.
    for round in 0..3 {
        node.stop();
        node.start().unwrap();
        let mut host = Host::connect(node.address());
        assert_holds(&mut host, &data);
        assert_eq!(node.group("g").state, GroupState::Healthy, "{round}");
    }
    assert_undisturbed(&verify(node.address(), 2, 2));
}

#[test]
fn a_shelf_by_its_second_address_with_uuids_and_digests() {
    let shelf = Stage::set(&shelf("s", 3));
    let Ok(Reply::Shelf(shown)) = shelf.call(Request::ShelfShow) else {
        panic!("the shelf tells")
    };
    let uuid = |drive: usize| shown.drives[drive].data.as_ref().unwrap().uuid.clone();
    let named = |drive: usize| {
        let uuid = uuid(drive);
        format!("[[drive]]\nname = \"d{drive}\"\nshelf = \"s\"\nuuid = \"{uuid}\"\n")
    };
    let nobody = format!("[\"127.0.0.1:{}\", ", free_port());
    let text = at("s", shelf.address()).replace("[\"", &(nobody + "\""))
        + "header_digest = true\ndata_digest = true\n"
        + &(0..3).map(named).collect::<String>()
        + &group("raid5", &["d0", "d1", "d2"]);
    let node = Stage::set(&text);
    assert_undisturbed(&verify(node.address(), 2, 2));
}

/// Goal: connections to the shelf that are lost under load cost no drive and no data.
/// Method: all are cut several times while a load verifies what it reads.
#[test]
fn lost_connections_are_made_again_and_their_commands_sent_again() {
    let shelf = Stage::set(&shelf("s", 4));
    let wire = Wire::to(shelf.address());
    let node = Stage::set(&node_of(wire.address));
    let address = node.address();
    let report = thread::scope(|scope| {
        let load = scope.spawn(|| verify(address, 2, 6));
        for _ in 0..4 {
            let before = node.drive_commands("d0");
            node.until("the load is on", |node| node.drive_commands("d0") > before + 200);
            wire.cut();
        }
        load.join().unwrap()
    });
    assert_undisturbed(&report);
    assert_eq!(node.group("g").state, GroupState::Healthy);
}

#[test]
fn a_drive_is_one_nodes_until_that_gives_it_back() {
    let shelf = Stage::set(&shelf("s", 4));
    let text = node_of(shelf.address());
    let mut first = Stage::set(&text);
    let said = refusal(&text);
    assert!(
        said.contains("drive \"d0\"") && said.contains("reserved by host") && said.contains("--take-over"),
        "{said}"
    );
    let mut host = Host::connect(first.address());
    let data = pattern(2, 1 << 20);
    write_all(&mut host, &data);
    drop(host);
    first.stop();
    let second = Stage::set(&text);
    assert_holds(&mut Host::connect(second.address()), &data);
    assert!(refusal(&text).contains("reserved by host"));
}

/// PROTOCOL H02: a node that another one has put out writes nothing any more, and says so to its hosts.
#[test]
fn a_node_that_is_taken_over_serves_nothing_old() {
    let shelf = Stage::set(&shelf("s", 4));
    let text = node_of(shelf.address());
    let first = Stage::set(&text);
    let mut host = Host::connect(first.address());
    write_all(&mut host, &pattern(3, 1 << 20));
    let second = Stage::set(&text.replacen("nqn = ", "take_over = true\nnqn = ", 1));
    let newer = pattern(4, 1 << 20);
    let mut new_host = Host::connect(second.address());
    write_all(&mut new_host, &newer);
    let mut write = super::queue::write(2, 0, 1);
    write.set_dword(12, 1 << 30);
    let refused = host.io[0].run(write, &pattern(5, 4096), 0);
    assert!(!refused.status().is_success());
    first.until("its group has failed", |first| {
        first.group("g").state == GroupState::Failed
    });
    assert_holds(&mut new_host, &newer);
    // The first has not written its own end onto drives that the second had yet to read.
    let group = second.group("g");
    assert_eq!(members(&group, MemberState::Failed), [0; 0], "{group:?}");
    await_healthy(&second);
}

fn inject(stage: &Stage, fault: FaultKind, at_bytes: Option<u64>, blocks: Option<u64>) {
    let reply = stage.call(Request::DriveInject(DriveInject {
        drive: "d1".to_owned(),
        fault,
        at_bytes,
        blocks,
        slow_us: None,
    }));
    assert!(matches!(reply, Ok(Reply::Drive(_))), "{reply:?}");
}

#[test]
fn a_namespace_that_errs_costs_its_drive_and_no_data() {
    let shelf = Stage::set(&shelf("s", 4));
    let node = Stage::set(&node_of(shelf.address()));
    let mut host = Host::connect(node.address());
    let data = pattern(6, 8 << 20);
    write_all(&mut host, &data);
    flush(&mut host);
    inject(&shelf, FaultKind::Error, None, None);
    let newer = pattern(7, 8 << 20);
    write_all(&mut host, &newer);
    flush(&mut host);
    assert_holds(&mut host, &newer);
    node.until("the drive is out", |node| {
        node.group("g").state == GroupState::Degraded
    });
    let out: Vec<u8> = members(&node.group("g"), MemberState::Failed);
    assert_eq!(out, [1]);
}

fn members(group: &GroupStatus, state: MemberState) -> Vec<u8> {
    let members = group.members.iter();
    members
        .filter(|member| member.state == state)
        .map(|member| member.index)
        .collect()
}

#[test]
fn a_namespace_that_hangs_is_given_up_and_comes_back() {
    let shelf = Stage::set(&shelf("s", 4));
    let node = Stage::set(&node_of(shelf.address()));
    let mut host = Host::connect(node.address());
    let data = pattern(8, 4 << 20);
    write_all(&mut host, &data);
    await_healthy(&node);
    inject(&shelf, FaultKind::Hang, None, None);
    let newer = pattern(9, 4 << 20);
    write_all(&mut host, &newer);
    assert_holds(&mut host, &newer);
    node.until("the drive is out", |node| {
        node.group("g").state == GroupState::Degraded
    });
    inject(&shelf, FaultKind::Clear, None, None);
    bring_back(&node, 1, "d1");
    assert_holds(&mut host, &newer);
    await_healthy(&node);
    assert_eq!(node.fail_drive("g", "d0"), GroupState::Degraded);
    assert_holds(&mut host, &newer);
}

/// Waits until check data fits everywhere: before that no drive can be spared.
fn await_healthy(node: &Stage) {
    node.until("the group is healthy", |node| {
        node.group("g").state == GroupState::Healthy
    });
}

/// Gives a member its drive back as soon as that may be, and waits until it is rebuilt.
fn bring_back(node: &Stage, member: u8, drive: &str) {
    let request = || DriveReplace {
        group: "g".into(),
        member,
        drive: drive.into(),
        force: false,
    };
    node.until("the drive is taken back", |node| {
        node.call(Request::DriveReplace(request())).is_ok()
    });
    node.until("the drive is whole again", |node| {
        node.group("g").members[usize::from(member)].state == MemberState::Active
    });
}

#[test]
fn what_is_wrong_with_a_shelf_is_said() {
    let shelf = Stage::set(&shelf("s", 3));
    let address = shelf.address();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let drive = |nsid: u32| format!("[[drive]]\nname = \"x\"\nshelf = \"s\"\nnsid = {nsid}\n");
    let raid0 = "[[group]]\nname = \"g\"\nlevel = \"raid0\"\ndrives = [\"x\"]\ncreate = true\n";
    let on = |shelf: &str, nsid: u32| refusal(&(shelf.to_owned() + &drive(nsid) + raid0));
    let said = on(&at("s", address).replace("braid:s", "braid:other"), 1);
    assert!(
        said.contains("Check its nqn, nqn.2026-01.io.braid:other"),
        "{said}"
    );
    let said = on(&at("s", free), 1);
    assert!(
        said.contains(&format!("shelf \"s\" cannot be reached at {free}")),
        "{said}"
    );
    let said = on(&at("s", address), 99);
    assert!(
        said.contains("has no namespace 99; it has 1 (") && said.contains("uuid"),
        "{said}"
    );
    let said = on(&at("s", address), 2);
    assert!(said.contains("no reservations that outlive"), "{said}");
    let small =
        "[shelf]\nname = \"t\"\nquorum_mib = 8\ncreate = true\n[[drive]]\nname = \"d\"\nmemory_mib = 16\n";
    let small = Stage::set(small);
    let text = at("s", small.address()).replace("braid:s", "braid:t") + &drive(1);
    let said = refusal(
        &(text.clone()
            + &raid0.replace(
                "create = true",
                "strip_kib = 1024\nblock_bytes = 512\ncreate = true",
            )),
    );
    assert!(said.contains("group g cannot be created"), "{said}");
    let closed = "[shelf]\nname = \"u\"\n[subsystem]\nhosts = [\"nqn.2026-01.io.braid:host:other\"]\n";
    let closed = Stage::set(
        &(closed.to_owned() + "[[drive]]\nname = \"d\"\nmemory_mib = 16\n").replacen(
            "name",
            "create = true\nname",
            1,
        ),
    );
    let said = on(&at("s", closed.address()).replace("braid:s", "braid:u"), 1);
    assert!(
        said.contains("lets in host nqn.2026-01.io.braid:host:end-to-end"),
        "{said}"
    );
    // What was refused has left nothing behind.
    let node = Stage::set(&(at("s", address) + &drive(1) + raid0));
    drop(node);
}

/// `braid` as a process, which is killed when nobody wants it any more.
pub struct Running {
    child: Child,
    /// Its management.
    pub client: Client,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Starts `braid node` or `braid shelf` in a folder; `text` without the section of its name and listener.
pub fn spawn(folder: &Path, role: &str, text: &str, port: u16, arguments: &[&str]) -> Running {
    let file = folder.join(format!("{role}.toml"));
    let socket = folder.join(format!("{role}.sock"));
    let own = if role == "node" {
        format!("[node]\nname = \"end-to-end\"\nrpc_socket = \"node.sock\"\n[subsystem]\nnqn = \"{NQN}\"\n")
    } else {
        String::new()
    };
    let text = text.replacen(
        "[shelf]\n",
        "[shelf]\nrpc_socket = \"shelf.sock\"\n",
        usize::from(role == "shelf"),
    );
    fs::write(
        &file,
        format!("{own}[[listen]]\naddress = \"127.0.0.1:{port}\"\n{text}"),
    )
    .unwrap();
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    let mut child = Process::new(env!("CARGO_BIN_EXE_braid"))
        .args([role, "--config"])
        .arg(&file)
        .args(arguments)
        .stdout(Stdio::from(log.try_clone().unwrap()))
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap();
    let deadline = Instant::now() + WAIT;
    loop {
        let status = Client::connect(&socket, WAIT)
            .ok()
            .and_then(|mut client| Some((client.call(&Request::NodeShow).ok()?, client)));
        if let Some((Reply::Node(status), client)) = status
            && status.pid == child.id()
        {
            let address = status.listen[0].address.parse().unwrap();
            return Running {
                child,
                client,
                address,
            };
        }
        let said = fs::read_to_string(folder.join("log")).unwrap();
        let ended = child.try_wait().unwrap();
        assert!(
            ended.is_none() && Instant::now() < deadline,
            "the {role} starts: {said}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[test]
fn a_killed_node_finds_everything_acknowledged_on_the_shelf() {
    let shelf = Stage::set(&shelf("s", 4));
    let text = node_of(shelf.address());
    let folder = Folder::make();
    let mut data = Vec::new();
    for round in 0..4_u64 {
        let take_over: &[&str] = if round == 0 { &[] } else { &["--take-over"] };
        let node = spawn(folder.path(), "node", &text, 0, take_over);
        let mut host = Host::connect(node.address);
        assert_holds(&mut host, &data);
        data = pattern(10 + round, 6 << 20);
        write_all(&mut host, &data);
        // Written in part over what is not yet in its place.
        let more = pattern(20 + round, 5 * 4096);
        host.write(2, 100, 4096, &more);
        data[100 * 4096..][..more.len()].copy_from_slice(&more);
        drop(node);
    }
    let said = refusal(&text);
    assert!(said.contains("--take-over"), "{said}");
}

/// Goal: a shelf that is killed under load costs the group its redundancy, no data and no wait for ever; what it holds is not
/// believed when it is back.
#[test]
fn a_killed_shelf_is_a_lost_member_until_it_is_brought_back() {
    let one = Stage::set(&shelf("s", 3));
    let (folder, port) = (Folder::make(), free_port());
    let two = spawn(folder.path(), "shelf", &shelf("t", 1), port, &[]);
    let text = at("s", one.address())
        + &at("t", two.address)
        + &drives("s", "s", 3)
        + &drives("t", "t", 1)
        + &group("raid5", &["s0", "s1", "s2", "t0"]);
    let node = Stage::set(&text);
    let mut host = Host::connect(node.address());
    let mut data = pattern(30, 8 << 20);
    write_all(&mut host, &data);
    await_healthy(&node);
    drop(two);
    let newer = pattern(31, 3 << 20);
    write_all(&mut host, &newer);
    data[..newer.len()].copy_from_slice(&newer);
    assert_holds(&mut host, &data);
    node.until("its drive is out", |node| {
        node.group("g").state == GroupState::Degraded
    });
    let mut two = spawn(folder.path(), "shelf", &shelf("t", 1), port, &[]);
    bring_back(&node, 3, "t0");
    assert_holds(&mut host, &data);
    assert_eq!(node.fail_drive("g", "s1"), GroupState::Degraded);
    assert_holds(&mut host, &data);
    let Ok(Reply::Shelf(shown)) = two.client.call(&Request::ShelfShow) else {
        panic!("the shelf tells")
    };
    assert_eq!(
        shown.drives[0].registrants.len(),
        1,
        "one identity is left of all attempts"
    );
}

impl Running {
    /// Stops the process where it stands, or lets it go on.
    fn signal(&self, name: &str) {
        let sent = Process::new("kill")
            .args([name, &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
}

/// Goal: a shelf that stands still for longer than its association lives costs its drive. What it still has to carry out when it goes on
/// does not come after what the drive is brought back with (PROTOCOL H02, H30).
#[test]
fn a_shelf_that_stands_still_is_given_up_and_fenced_when_it_goes_on() {
    let one = Stage::set(&shelf("s", 3));
    let folder = Folder::make();
    let two = spawn(folder.path(), "shelf", &shelf("t", 1), 0, &[]);
    let text = at("s", one.address())
        + &at("t", two.address)
        + &drives("s", "s", 3)
        + &drives("t", "t", 1)
        + &group("raid5", &["s0", "s1", "s2", "t0"]);
    let node = Stage::set(&text);
    let mut host = Host::connect(node.address());
    let mut data = pattern(50, 8 << 20);
    write_all(&mut host, &data);
    await_healthy(&node);
    two.signal("-STOP");
    for round in 0..3 {
        let newer = pattern(51 + round, 2 << 20);
        write_all(&mut host, &newer);
        data[..newer.len()].copy_from_slice(&newer);
    }
    node.until("its drive is out", |node| {
        node.group("g").state == GroupState::Degraded
    });
    let refused = node.call(Request::DriveReplace(DriveReplace {
        group: "g".into(),
        member: 3,
        drive: "t0".into(),
        force: false,
    }));
    assert!(refused.is_err(), "it still has commands: {refused:?}");
    node.until("its association is lost", |node| {
        node.drive("t0").health.unanswered > 0 && !is_connected(node, "t0")
    });
    two.signal("-CONT");
    bring_back(&node, 3, "t0");
    assert_holds(&mut host, &data);
    assert_eq!(node.fail_drive("g", "s1"), GroupState::Degraded);
    assert_holds(&mut host, &data);
}

/// Whether a drive of a shelf could be given to a group, as far as its shelf goes.
fn is_connected(node: &Stage, drive: &str) -> bool {
    let spare = Request::DriveAddSpare(DriveAddSpare {
        group: "g".into(),
        drive: drive.into(),
        force: false,
    });
    let refused = node.call(spare).unwrap_err();
    !refused.message.contains("is not connected")
}

#[test]
fn a_node_starts_without_a_shelf_that_its_group_can_do_without() {
    let one = Stage::set(&shelf("s", 3));
    let mut two = Stage::set(&shelf("t", 1));
    let text = |two: SocketAddr| {
        at("s", one.address())
            + &at("t", two)
            + &drives("s", "s", 3)
            + &drives("t", "t", 1)
            + &group("raid5", &["s0", "s1", "s2", "t0"])
    };
    let node = |two: SocketAddr| Stage::set(&text(two));
    let data = pattern(35, 4 << 20);
    let first = node(two.address());
    write_all(&mut Host::connect(first.address()), &data);
    await_healthy(&first);
    drop(first);
    let away = two.address();
    two.stop();
    let second = node(away);
    assert_eq!(second.group("g").state, GroupState::Degraded);
    let newer = pattern(36, 1 << 20);
    let mut host = Host::connect(second.address());
    write_all(&mut host, &newer);
    drop((host, second));
    two.start().unwrap();
    let third = node(two.address());
    await_healthy(&third);
    assert_eq!(third.fail_drive("g", "s0"), GroupState::Degraded);
    let mut host = Host::connect(third.address());
    assert_holds(&mut host, &newer);
    assert_eq!(host.read(2, 512, 32, 4096), data[512 * 4096..][..PIECE]);
}

/// Goal: a group whose only shelf is killed answers no host with anything wrong, and is there again, with everything acknowledged, when
/// shelf and node are.
#[test]
fn a_group_whose_only_shelf_is_killed_is_lost_and_comes_back() {
    let (folder, port) = (Folder::make(), free_port());
    let shelf_text = shelf("s", 4);
    let running = spawn(folder.path(), "shelf", &shelf_text, port, &[]);
    let mut node = Stage::set(&node_of(running.address));
    let mut host = Host::connect(node.address());
    let data = pattern(40, 6 << 20);
    write_all(&mut host, &data);
    drop(running);
    let running = spawn(folder.path(), "shelf", &shelf_text, port, &[]);
    node.until("the group is lost", |node| {
        node.group("g").state == GroupState::Failed
    });
    let answer = host.io[0].run(super::queue::read(2, 0, 32), &[], 128 << 10);
    assert!(!answer.status().is_success(), "{}", answer.status());
    drop(host);
    node.stop();
    node.start().unwrap();
    assert_holds(&mut Host::connect(node.address()), &data);
    assert_eq!(node.group("g").state, GroupState::Healthy);
    // Without its shelf it would not stop cleanly.
    drop((node, running));
}
