//! A node in this process, in a folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use braid::target::manage::{
    DriveFail, DriveName, DriveStatus, GroupName, GroupState, GroupStatus, HostStatus, ManageError, Reply,
    Request, VdiskName, VdiskStatus,
};
use braid::target::node::{self, NodeError, RunningNode};

/// Longer than anything here takes: a test that waits this long has failed.
pub const WAIT: Duration = Duration::from_secs(30);

/// A folder that is gone when the test is over.
pub struct Folder(PathBuf);

impl Folder {
    /// A new one.
    pub fn make() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("braid-end-to-end-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node that runs.
pub struct Stage {
    node: Option<RunningNode>,
    text: String,
    folder: Folder,
}

/// Subsystem of every node here.
pub const NQN: &str = "nqn.2026-01.io.braid:end-to-end";

/// A namespace 1 of 512-byte blocks and a namespace 2 of 4096-byte blocks, on three memory drives each, and two cores.
pub const TWO_NAMESPACES: &str = r#"
[reactor]
cores = 2
[[drive]]
name = "a0"
memory_mib = 16
[[drive]]
name = "a1"
memory_mib = 16
[[drive]]
name = "a2"
memory_mib = 16
[[drive]]
name = "b0"
memory_mib = 16
[[drive]]
name = "b1"
memory_mib = 16
[[drive]]
name = "b2"
memory_mib = 16
[[group]]
name = "a"
drives = ["a0", "a1", "a2"]
block_bytes = 512
strip_kib = 16
create = true
[[group]]
name = "b"
drives = ["b0", "b1", "b2"]
strip_kib = 64
create = true
[[vdisk]]
name = "small"
group = "a"
size_mib = 16
nsid = 1
[[vdisk]]
name = "large"
group = "b"
size_mib = 16
nsid = 2
"#;

/// Groups and a virtual disk on four file drives.
pub const FILES: &str = r#"
[reactor]
cores = 2
[[drive]]
name = "d0"
path = "d0.img"
size_mib = 16
[[drive]]
name = "d1"
path = "d1.img"
size_mib = 16
[[drive]]
name = "d2"
path = "d2.img"
size_mib = 16
[[drive]]
name = "d3"
path = "d3.img"
size_mib = 16
[[group]]
name = "g"
drives = ["d0", "d1", "d2", "d3"]
strip_kib = 16
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 24
nsid = 1
"#;

impl Stage {
    /// Starts a node with this configuration, to which a name and a listener are added.
    pub fn set(text: &str) -> Self {
        let mut stage = Self {
            node: None,
            text: text.to_owned(),
            folder: Folder::make(),
        };
        stage.start().unwrap();
        stage
    }

    /// Starts the node again after `stop`.
    pub fn start(&mut self) -> Result<(), NodeError> {
        assert!(self.node.is_none());
        self.node = Some(start(&self.text, self.folder.path())?);
        Ok(())
    }

    /// Stops the node and keeps its drives.
    pub fn stop(&mut self) {
        self.node.take().unwrap().stop().unwrap();
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where hosts connect.
    pub fn address(&self) -> SocketAddr {
        self.node().addresses()[0]
    }

    fn node(&self) -> &RunningNode {
        self.node.as_ref().expect("it was not stopped")
    }

    /// The state of a group.
    pub fn group(&self, name: &str) -> GroupStatus {
        let reply = self.node().call(Request::GroupShow(GroupName {
            group: name.to_owned(),
        }));
        let Ok(Reply::Group(group)) = reply else {
            panic!("{reply:?}")
        };
        group
    }

    /// A virtual disk.
    pub fn vdisk(&self, name: &str) -> VdiskStatus {
        let reply = self.node().call(Request::VdiskShow(VdiskName {
            vdisk: name.to_owned(),
        }));
        let Ok(Reply::Vdisk(vdisk)) = reply else {
            panic!("{reply:?}")
        };
        vdisk
    }

    /// A request of an operator.
    pub fn call(&self, request: Request) -> Result<Reply, ManageError> {
        self.node().call(request)
    }

    /// A drive.
    pub fn drive(&self, drive: &str) -> DriveStatus {
        let reply = self.call(Request::DriveShow(DriveName {
            drive: drive.to_owned(),
        }));
        let Ok(Reply::Drive(drive)) = reply else {
            panic!("{reply:?}")
        };
        drive
    }

    /// Commands that a drive has carried out.
    pub fn drive_commands(&self, drive: &str) -> u64 {
        let drive = self.drive(drive);
        drive.reads + drive.writes
    }

    /// The controllers that are open.
    pub fn hosts(&self) -> Vec<HostStatus> {
        let reply = self.node().call(Request::HostList);
        let Ok(Reply::Hosts(hosts)) = reply else {
            panic!("{reply:?}")
        };
        hosts
    }

    /// Takes a drive out of its group.
    pub fn fail_drive(&self, group: &str, drive: &str) -> GroupState {
        let request = DriveFail {
            group: group.to_owned(),
            drive: drive.to_owned(),
            force: false,
        };
        let reply = self.node().call(Request::DriveFail(request));
        let Ok(Reply::Group(group)) = reply else {
            panic!("{reply:?}")
        };
        group.state
    }

    /// Waits until `done`, which is to happen by itself.
    pub fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + WAIT;
        while !done(self) {
            assert!(Instant::now() < deadline, "waited in vain for: {what}");
            std::thread::yield_now();
        }
    }
}

/// Starts a node whose files are in `folder`.
pub fn start(text: &str, folder: &Path) -> Result<RunningNode, NodeError> {
    // The file of a shelf has a section of its own in place of the node's.
    let node = if text.starts_with("[shelf]") || text.contains("\n[shelf]") {
        ""
    } else {
        "[node]\nname = \"end-to-end\"\n"
    };
    let text = format!("{node}[[listen]]\naddress = \"127.0.0.1:0\"\n{text}");
    let config = config::parse(&text, &folder.join("node.toml")).unwrap_or_else(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("{}", problems.join("\n"))
    });
    node::start(&config)
}
