//! A node as a process of its own, that can be killed.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use braid::target::manage::{
    BackgroundRequest, GroupExpand, GroupName, GroupScrub, GroupSetRate, GroupState, GroupStatus, Reply,
    Request, ScrubState, ScrubStatus,
};
use braid::target::rpc::Client;

use super::super::stage::{NQN, WAIT};

const MIB: u64 = 1 << 20;
/// Size of a drive.
const DRIVE_MIB: u64 = 24;
/// Size of the virtual disk.
pub const DISK_BYTES: u64 = 16 * MIB;

/// A folder with a node's configuration and drives. It stays if the test fails.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one for a group of this level.
    pub fn make(level: &str, drives: usize) -> Self {
        Self::make_beside(level, drives, 0)
    }

    /// The same beside `more` drives that belong to no group.
    pub fn make_beside(level: &str, drives: usize, more: usize) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = base().join(format!("braid-kill-{}-{level}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let mut text = format!(
            "[node]\nname = \"kill\"\nrpc_socket = \"node.sock\"\n[subsystem]\nnqn = \"{NQN}\"\n\
             [reactor]\ncores = 2\npoll = \"interrupt\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n"
        );
        let mut names = String::new();
        for drive in 0..drives + more {
            text +=
                &format!("[[drive]]\nname = \"d{drive}\"\npath = \"d{drive}.img\"\nsize_mib = {DRIVE_MIB}\n");
            if drive < drives {
                names += &format!("\"d{drive}\", ");
            }
        }
        text += &format!(
            "[[group]]\nname = \"g\"\nlevel = \"{level}\"\ndrives = [{names}]\nstrip_kib = 16\ncreate = true\n\
             [[vdisk]]\nname = \"v\"\ngroup = \"g\"\nsize_mib = {}\nnsid = 1\n",
            DISK_BYTES / MIB
        );
        fs::write(path.join("node.toml"), text).unwrap();
        Self(path)
    }

    fn drive(&self, drive: usize) -> PathBuf {
        self.0.join(format!("d{drive}.img"))
    }

    fn away(&self, drive: usize) -> PathBuf {
        self.0.join(format!("away-{drive}"))
    }

    /// Pulls a drive out. At the next start there is a blank one in its slot.
    pub fn take(&self, drive: usize) {
        fs::rename(self.drive(drive), self.away(drive)).unwrap();
    }

    /// Puts a drive back as it was.
    pub fn give_back(&self, drive: usize) {
        fs::rename(self.away(drive), self.drive(drive)).unwrap();
    }

    /// What the nodes said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.0.join("log")).unwrap()
    }

    /// Changes the configuration.
    pub fn configure(&self, from: &str, to: &str) {
        let file = self.0.join("node.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from));
        fs::write(file, text.replace(from, to)).unwrap();
    }

    /// Starts a node that is to refuse that, and says what it said.
    pub fn refused(&self) -> String {
        let mut child = self.spawn(&[]);
        assert!(!child.wait().unwrap().success(), "it refuses: {}", self.log());
        self.log()
    }

    /// Starts a process and does not wait for anything.
    fn spawn(&self, arguments: &[&str]) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.0.join("log"))
            .unwrap();
        let program = std::env::var_os("BRAID_KILL_PROGRAM");
        Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_braid").into()))
            .args(["node", "--config"])
            .arg(self.0.join("node.toml"))
            .args(arguments)
            .env("BRAID_LOG", "info")
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap()
    }

    /// Starts a node and kills it at some moment of its start, be it during the replay of the journal.
    pub fn start_and_kill(&self, after: Duration) {
        let mut child = self.spawn(&[]);
        std::thread::sleep(after);
        assert_eq!(child.try_wait().unwrap(), None, "the node starts: {}", self.log());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts a node and waits until it serves.
    pub fn start(&self) -> Node {
        self.start_with(&[])
    }

    /// Starts a node with more arguments and waits until it serves.
    pub fn start_with(&self, arguments: &[&str]) -> Node {
        let mut node = Node {
            child: self.spawn(arguments),
            socket: self.0.join("node.sock"),
            address: SocketAddr::from(([0; 4], 0)),
        };
        let deadline = Instant::now() + WAIT;
        loop {
            if let Some(Reply::Node(status)) = node.try_call(&Request::NodeShow)
                && status.pid == node.child.id()
            {
                node.address = status.listen[0].address.parse().unwrap();
                return node;
            }
            let ended = node.child.try_wait().unwrap();
            assert_eq!(ended, None, "the node starts: {}", self.log());
            assert!(Instant::now() < deadline, "the node serves soon: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("drives and log are kept in {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Memory if there is enough of it: a kill loses nothing that the kernel has, and cycles are ten times as fast as on a disk.
fn base() -> PathBuf {
    let shm = Path::new("/dev/shm");
    let df = Command::new("df")
        .args(["--output=avail", "-k"])
        .arg(shm)
        .output();
    let text = df.map_or_else(
        |_| String::new(),
        |out| String::from_utf8_lossy(&out.stdout).into_owned(),
    );
    let free_kib: u64 = text
        .split_whitespace()
        .last()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    if std::env::var_os("TMPDIR").is_none() && free_kib >= MIB {
        shm.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// A node that runs. Dropping it kills it.
pub struct Node {
    child: Child,
    socket: PathBuf,
    /// Where hosts connect.
    pub address: SocketAddr,
}

impl Node {
    fn try_call(&self, request: &Request) -> Option<Reply> {
        Client::connect(&self.socket, WAIT).ok()?.call(request).ok()
    }

    fn call(&self, request: &Request) -> Reply {
        let mut client = Client::connect(&self.socket, WAIT).unwrap();
        client.call(request).unwrap()
    }

    /// How the group is.
    pub fn group(&self) -> GroupStatus {
        let group = "g".to_owned();
        let Reply::Group(group) = self.call(&Request::GroupShow(GroupName { group })) else {
            panic!("a group is answered with a group")
        };
        group
    }

    /// Slows background work down, so that it can be met in its midst; 0 for as fast as it goes.
    pub fn set_rate(&self, rate_mib_s: u32) {
        let group = "g".to_owned();
        let request = GroupSetRate {
            group,
            rate_mib_s,
            latency_target_us: 0,
        };
        self.call(&Request::Background(BackgroundRequest::SetRate(request)));
    }

    /// Gives the group more drives.
    pub fn expand(&self, drives: &[&str]) {
        let request = GroupExpand {
            group: "g".to_owned(),
            drives: drives.iter().map(|drive| (*drive).to_owned()).collect(),
            force: false,
        };
        self.call(&Request::GroupExpand(request));
    }

    /// Waits until `done`, which is to happen by itself.
    pub fn until(&self, what: &str, done: impl Fn(&GroupStatus) -> bool) -> GroupStatus {
        let deadline = Instant::now() + WAIT;
        loop {
            let group = self.group();
            if done(&group) {
                return group;
            }
            assert!(Instant::now() < deadline, "waited in vain for: {what}: {group:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until all members are there and filled.
    pub fn until_healthy(&self) {
        self.until("a healthy group", |group| group.state == GroupState::Healthy);
    }

    /// Compares all data with its check data.
    pub fn scrub(&self) -> ScrubStatus {
        let group = "g".to_owned();
        let request = GroupScrub { group, repair: false };
        self.call(&Request::Background(BackgroundRequest::Scrub(request)));
        let is_over = |group: &GroupStatus| {
            let scrub = group.background.scrub.as_ref();
            scrub.is_some_and(|scrub| scrub.state == ScrubState::Completed)
        };
        let group = self.until("the end of the scrub", is_over);
        group.background.scrub.unwrap()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        assert_eq!(
            self.child.try_wait().unwrap(),
            None,
            "the node runs until it is killed"
        );
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, after which it ends well.
    pub fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let status = self.child.wait().unwrap();
        assert!(
            status.success(),
            "a node that is asked to stop ends well: {status}"
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
