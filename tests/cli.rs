//! The program as a person runs it: help, wrong usage, bad files, a node that is not there, and one that is.
#![expect(
    clippy::unwrap_used,
    reason = "the tests run processes and make files, and a surprise ends them"
)]

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use braid::target::manage::{
    BackgroundStatus, Durability, GroupState, GroupStatus, Manage, ManageError, Reply, Request, Size,
    VdiskCreate,
};
use braid::target::rpc::{Server, ServerOptions};
use serde_json::Value;

/// A folder of its own for each test, gone at its end; also the runtime folder of what the test runs.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!(
            "braid-cli-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_braid"));
        command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", &self.0)
            .env_remove("BRAID_SOCKET")
            .env_remove("BRAID_LOG");
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&self.command(arguments).output().unwrap())
    }

    /// A made-up node on the socket of this name in the runtime folder.
    fn node(&self, name: &str) -> Server {
        let socket = self.0.join("braid").join(format!("{name}.sock"));
        Server::start(&socket, Arc::new(FakeNode), ServerOptions::default()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Outcome {
    exit: Option<i32>,
    out: String,
    err: String,
}

impl Outcome {
    fn of(output: &Output) -> Self {
        Self {
            exit: output.status.code(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    #[track_caller]
    fn assert_failed(&self, exit: i32, words: &[&str]) {
        assert_eq!(self.exit, Some(exit), "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} in {:?}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }

    #[track_caller]
    fn assert_ok(&self) {
        assert_eq!((self.exit, self.err.as_str()), (Some(0), ""), "{}", self.out);
    }
}

/// A node with one group.
struct FakeNode;

impl Manage for FakeNode {
    fn call(&self, request: Request) -> Result<Reply, ManageError> {
        match request {
            Request::GroupList => Ok(Reply::Groups(vec![group()])),
            Request::VdiskCreate(VdiskCreate { name, size, .. }) => {
                assert_eq!(size, Size::Bytes(1 << 30), "1GiB");
                Err(ManageError::new(
                    ManageError::EXISTS,
                    format!("there is a vdisk named \"{name}\""),
                    "choose another",
                ))
            }
            Request::NodeShow
            | Request::GroupShow(_)
            | Request::GroupCreate(_)
            | Request::Background(_)
            | Request::VdiskList
            | Request::VdiskShow(_)
            | Request::VdiskDelete(_)
            | Request::VdiskResize(_)
            | Request::VdiskReplicate(_)
            | Request::Port(_)
            | Request::GroupExpand(_)
            | Request::DriveList
            | Request::DriveShow(_)
            | Request::DriveFail(_)
            | Request::DriveReplace(_)
            | Request::DriveAddSpare(_)
            | Request::DriveRemoveSpare(_)
            | Request::DriveInject(_)
            | Request::ShelfShow
            | Request::Array(_)
            | Request::HostList
            | Request::Latency
            | Request::Counters
            | Request::Shutdown => Err(ManageError::new(ManageError::BUSY, "not in this test", "")),
        }
    }
}

fn group() -> GroupStatus {
    GroupStatus {
        name: "g0".into(),
        uuid: "0f0e0d0c-0b0a-4908-8706-050403020100".into(),
        level: "raid5".into(),
        state: GroupState::Healthy,
        generation: 3,
        strip_kib: 64,
        block_bytes: 4096,
        capacity_bytes: 512 << 20,
        free_bytes: 0,
        rows: 4096,
        resync_done_rows: 4096,
        expansion_done_rows: None,
        background: BackgroundStatus::default(),
        durability: Durability::Journal,
        dirty_ram: false,
        copies: None,
        not_served: None,
        lost_blocks: Vec::new(),
        journal_bytes: 32 << 20,
        members: Vec::new(),
        spares: Vec::new(),
        vdisks: vec!["v0".into()],
    }
}

/// The commands, and a word that their help must have.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["node"], "--config <FILE>"),
    (&["demo"], "--seconds"),
    (&["perf"], "--read-percent"),
    (&["sim"], "--scenario <SCENARIO>"),
    (&["check-config"], "<FILE>"),
    (&["config"], "example"),
    (&["preflight"], "--config <FILE>"),
    (&["status"], "--socket"),
    (&["group"], "create"),
    (&["group", "create"], "--strip"),
    (&["vdisk"], "delete"),
    (&["vdisk", "create"], "--size"),
    (&["vdisk", "delete"], "--force"),
    (&["port"], "add"),
    (&["port", "list"], "[VDISK]"),
    (&["port", "add"], "--node <SLOT>"),
    (&["port", "delete"], "--force"),
    (&["drive"], "fail"),
    (&["drive", "fail"], "--force"),
    (&["drive", "replace"], "--force"),
    (&["drive", "add-spare"], "--force"),
    (&["drive", "remove-spare"], "<DRIVE>"),
    (&["host"], "list"),
    (&["latency"], "--json"),
    (&["counters"], "--json"),
    (&["shutdown"], "--socket"),
];

#[test]
fn every_command_has_help_with_an_example() {
    let folder = Folder::new();
    let top = folder.run(&["--help"]);
    top.assert_ok();
    assert!(
        top.out
            .contains("Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the node cannot be reached.")
    );
    for (command, word) in COMMANDS {
        assert!(top.out.contains(command[0]), "{command:?} is in the overview");
        let help = folder.run(&[*command, &["--help"]].concat());
        help.assert_ok();
        assert!(
            help.out.contains(word) && help.out.contains("Example"),
            "{command:?}: {}",
            help.out
        );
        assert!(
            help.out.contains(&format!("  braid {}", command[0])),
            "{command:?} has an example of itself"
        );
    }
}

#[test]
fn wrong_usage_is_code_2_and_says_what_is_right() {
    let folder = Folder::new();
    folder.run(&[]).assert_failed(2, &["Usage: braid"]);
    folder.run(&["grop"]).assert_failed(2, &["'grop'", "group"]);
    folder.run(&["node"]).assert_failed(2, &["--config"]);
    folder
        .run(&["vdisk", "create", "v0", "--group", "g0", "--size", "1MB"])
        .assert_failed(2, &["ambiguous", "MiB"]);
    folder
        .run(&["vdisk", "create", "v0", "--group", "g0", "--size", "0"])
        .assert_failed(2, &["at least one block"]);
    folder
        .run(&["group", "create", "g0", "d0", "--strip", "48KiB"])
        .assert_failed(2, &["power of two"]);
    folder
        .run(&["perf", "127.0.0.1", "--nqn", "disk"])
        .assert_failed(2, &["nqn.yyyy-mm."]);
    folder
        .run(&["perf", "127.0.0.1", "--nqn", "nqn.2026-01.io.x:y", "--depth", "0"])
        .assert_failed(2, &["1..=1024"]);
    folder
        .run(&["demo", "--seconds", "x"])
        .assert_failed(2, &["--seconds"]);
    folder
        .run(&["--log", "lots=of=it", "config", "example"])
        .assert_failed(2, &["log filter", "debug or trace"]);
}

#[test]
fn example_configuration_is_good() {
    let folder = Folder::new();
    let example = folder.run(&["config", "example"]);
    example.assert_ok();
    let file = folder.file("node.toml", &example.out);
    let checked = folder.run(&["check-config", &file]);
    checked.assert_ok();
    assert!(
        checked.out.contains("is good. A node would run:") && checked.out.contains("raid5"),
        "{}",
        checked.out
    );
    let checked = folder.run(&["check-config", &file, "--json"]);
    checked.assert_ok();
    let json: Value = serde_json::from_str(&checked.out).unwrap();
    assert_eq!(json["problems"], serde_json::json!([]));
    assert!(json["would_run"]["groups"][0]["capacity_bytes"].is_u64());
}

const BAD: &str = "[node]\nnam = \"a\"\n[[listen]]\naddress = \"nowhere\"\n[[vdisk]]\nname = \"v0\"\ngroup = \"g9\"\nsize_mib = 1\n";

#[test]
fn bad_configuration_lists_every_problem_with_its_place() {
    let folder = Folder::new();
    let file = folder.file("bad.toml", BAD);
    let checked = folder.run(&["check-config", &file]);
    checked.assert_failed(
        1,
        &[
            &format!("{file}:2:1: "),
            "did you mean name?",
            &format!("{file}:4:"),
            "g9",
            "problems",
        ],
    );
    assert_eq!(checked.out, "");
    let checked = folder.run(&["check-config", &file, "--json"]);
    checked.assert_failed(1, &[]);
    let json: Value = serde_json::from_str(&checked.out).unwrap();
    let problems = json["problems"].as_array().unwrap();
    assert!(problems.len() >= 3, "{problems:?}");
    assert_eq!(
        (&problems[0]["line"], &problems[0]["column"]),
        (&Value::from(2), &Value::from(1))
    );
    for command in [
        &["node", "--config", &file][..],
        &["preflight", "--config", &file],
    ] {
        folder.run(command).assert_failed(
            1,
            &[&format!("{file}:2:1: "), "problems", "remedy: correct the file"],
        );
    }
}

#[test]
fn file_that_cannot_be_read_is_one_sentence() {
    let folder = Folder::new();
    let missing = folder.0.join("none.toml").display().to_string();
    folder
        .run(&["check-config", &missing])
        .assert_failed(1, &["none.toml cannot be read", "remedy: "]);
    folder
        .run(&["node", "--config", &missing])
        .assert_failed(1, &["none.toml cannot be read"]);
    folder
        .run(&["check-config", &folder.0.display().to_string()])
        .assert_failed(1, &["cannot be read"]);
    let huge = folder.file("huge.toml", &"# a comment\n".repeat(100_000));
    folder
        .run(&["check-config", &huge])
        .assert_failed(1, &["longer than 1 MiB"]);
    let path = folder.0.join("binary.toml");
    fs::write(&path, b"[node]\n\xff\xfe").unwrap();
    folder
        .run(&["check-config", &path.display().to_string()])
        .assert_failed(1, &["no UTF-8 text (byte 7)"]);
}

#[test]
fn node_that_is_not_there_is_code_3() {
    let folder = Folder::new();
    folder
        .run(&["status"])
        .assert_failed(3, &["no node of this user is running", "remedy: start one"]);
    let socket = folder.0.join("x.sock").display().to_string();
    for command in [
        &["group", "list"][..],
        &["vdisk", "list"],
        &["host", "list"],
        &["latency"],
        &["shutdown"],
    ] {
        let outcome = folder.run(&[command, &["--socket", &socket]].concat());
        outcome.assert_failed(3, &[&format!("no node is running on {socket}"), "remedy: "]);
        assert_eq!(
            outcome.err.lines().count(),
            2,
            "one line what, one line remedy: {}",
            outcome.err
        );
    }
    drop(UnixListener::bind(&socket).unwrap()); // A stale one: nobody answers.
    folder
        .run(&["drive", "list", "--socket", &socket])
        .assert_failed(3, &["no node is running"]);
}

#[test]
fn node_is_found_and_its_answer_shown() {
    let folder = Folder::new();
    let server = folder.node("a");
    let list = folder.run(&["group", "list"]);
    list.assert_ok();
    let expected = "\
GROUP  STATE    LEVEL  MEMBERS   STRIP  CAPACITY  FREE  VDISKS
g0     healthy  raid5      0/0  64 KiB   512 MiB   0 B       1
";
    assert_eq!(list.out, expected);
    let json = folder.run(&["group", "list", "--json"]);
    json.assert_ok();
    assert_eq!(
        serde_json::from_str::<Value>(&json.out).unwrap(),
        serde_json::to_value([group()]).unwrap()
    );
    let create = ["vdisk", "create", "v0", "--group", "g0", "--size", "1GiB"];
    let refused = folder.run(&create);
    refused.assert_failed(1, &[]);
    assert_eq!(
        refused.err,
        "error: there is a vdisk named \"v0\"\nremedy: choose another\n"
    );
    let socket = server.path().to_owned();
    let by_environment = folder
        .command(&["group", "list"])
        .env("BRAID_SOCKET", &socket)
        .output()
        .unwrap();
    Outcome::of(&by_environment).assert_ok();
    server.stop();
    folder
        .run(&["group", "list"])
        .assert_failed(3, &["no node of this user is running"]);
}

#[test]
fn one_of_several_nodes_has_to_be_named() {
    let folder = Folder::new();
    let (a, b) = (folder.node("a"), folder.node("b"));
    let outcome = folder.run(&["group", "list"]);
    outcome.assert_failed(2, &["2 nodes are running", "--socket", "a.sock", "b.sock"]);
    folder
        .run(&["group", "list", "--socket", &b.path().display().to_string()])
        .assert_ok();
    a.stop();
    folder.run(&["group", "list"]).assert_ok();
}

#[test]
fn reader_that_goes_away_is_no_error() {
    let folder = Folder::new();
    for arguments in [&["config", "example"][..], &["--help"], &["perf", "--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = folder.command(arguments);
        let outcome = Outcome::of(
            &command
                .stdout(writer)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
                .wait_with_output()
                .unwrap(),
        );
        outcome.assert_ok();
    }
}

#[test]
fn preflight_gives_sentences_and_json() {
    let folder = Folder::new();
    let outcome = folder.run(&["preflight"]);
    assert!(
        outcome.out.contains("io_uring") && outcome.out.contains("huge pages"),
        "{}",
        outcome.out
    );
    let text = "[[listen]]\naddress = \"127.0.0.1:0\"\n[[drive]]\nname = \"d0\"\npath = \"missing.img\"\n";
    let file = folder.file("node.toml", text);
    let outcome = folder.run(&["preflight", "--config", &file, "--json"]);
    assert_eq!(outcome.exit, Some(1), "{}", outcome.err);
    let json: Value = serde_json::from_str(&outcome.out).unwrap();
    let checks = json["checks"].as_array().unwrap();
    let drive = checks.iter().find(|check| check["name"] == "drive d0").unwrap();
    assert_eq!(drive["verdict"], "fail");
    assert!(drive["remedy"].as_str().unwrap().contains("size_mib"));
    assert!(!Path::new(&folder.0).join("missing.img").exists());
}
