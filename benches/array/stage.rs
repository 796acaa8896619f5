//! A node of this process, its drives, and the load on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use braid::target::cli::options::{Pattern, PerfOptions};
use braid::target::manage::{
    DriveAddSpare, DriveFail, DriveStatus, GroupName, GroupState, GroupStatus, Reply, Request,
};
use braid::target::node::{self, RunningNode};
use braid::target::perf::{self, PerfReport};
use nvme::nqn::Nqn;

const NQN: &str = "nqn.2026-01.io.braid:bench";
const GROUP: &str = "g";
/// Longer than anything here takes.
const WAIT: Duration = Duration::from_secs(300);

/// What the drives are made of.
#[derive(Clone, Debug)]
pub enum Medium {
    /// Memory, with the limits of a drive.
    Memory {
        bandwidth_mib_s: Option<u32>,
        delay_us: u32,
    },
    /// Files in this folder.
    Files(PathBuf),
}

/// A group with one virtual disk.
#[derive(Clone, Debug)]
pub struct Shape {
    pub level: &'static str,
    pub drives: usize,
    pub drive_mib: u32,
    pub medium: Medium,
    pub disk_mib: u32,
    /// More drives, of no group.
    pub spares: usize,
}

impl Shape {
    /// Drives with data, for the levels that have a number of check drives.
    pub fn data_drives(&self) -> usize {
        self.drives - self.check_drives()
    }

    /// Drives' worth of check data.
    pub fn check_drives(&self) -> usize {
        match self.level {
            "raid0" => 0,
            "raid5" => 1,
            "raid6" => 2,
            "raidtp" => 3,
            other => panic!("{other} has no check strips"),
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "[node]\nname = \"bench\"\n[reactor]\ncores = 1\npoll = \"busy\"\n[subsystem]\nnqn = \"{NQN}\"\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n"
        );
        for drive in 0..self.drives + self.spares {
            text += &format!("[[drive]]\nname = \"d{drive}\"\n");
            text += &match &self.medium {
                Medium::Memory {
                    bandwidth_mib_s,
                    delay_us,
                } => {
                    let limit =
                        bandwidth_mib_s.map_or_else(String::new, |mib| format!("bandwidth_mib_s = {mib}\n"));
                    format!("memory_mib = {}\ndelay_us = {delay_us}\n{limit}", self.drive_mib)
                }
                Medium::Files(folder) => format!(
                    "path = \"{}\"\nsize_mib = {}\n",
                    folder.join(format!("d{drive}.img")).display(),
                    self.drive_mib
                ),
            };
        }
        let names: Vec<String> = (0..self.drives).map(|drive| format!("\"d{drive}\"")).collect();
        text + &format!(
            "[[group]]\nname = \"{GROUP}\"\nlevel = \"{}\"\ndrives = [{}]\nstrip_kib = 64\ncreate = true\n\
             [[vdisk]]\nname = \"v\"\ngroup = \"{GROUP}\"\nsize_mib = {}\nnsid = 1\n",
            self.level,
            names.join(", "),
            self.disk_mib
        )
    }
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub pattern: Pattern,
    pub block_bytes: u32,
    pub depth: u16,
    pub read_percent: u8,
    pub fua: bool,
}

impl Load {
    pub const fn writes(pattern: Pattern, block_bytes: u32, depth: u16) -> Self {
        Self {
            pattern,
            block_bytes,
            depth,
            read_percent: 0,
            fua: false,
        }
    }

    pub const fn reads(pattern: Pattern, block_bytes: u32, depth: u16) -> Self {
        Self {
            read_percent: 100,
            ..Self::writes(pattern, block_bytes, depth)
        }
    }
}

/// A node that runs.
pub struct Stage(Option<RunningNode>);

impl Stage {
    /// Starts it; files that are in the way are gone before.
    pub fn set(shape: &Shape) -> Self {
        if let Medium::Files(folder) = &shape.medium {
            for drive in 0..shape.drives + shape.spares {
                match std::fs::remove_file(folder.join(format!("d{drive}.img"))) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => panic!("an old drive cannot be removed: {error}"),
                }
            }
        }
        let config =
            config::parse(&shape.text(), Path::new("bench.toml")).expect("the configuration is right");
        Self(Some(node::start(&config).expect("the node starts")))
    }

    fn node(&self) -> &RunningNode {
        self.0.as_ref().expect("it runs until it is dropped")
    }

    /// Measures a load.
    pub fn run(&self, load: Load, seconds: u32) -> PerfReport {
        let options = PerfOptions {
            addresses: vec![self.node().addresses()[0]],
            nqn: Nqn::parse(NQN).expect("a good name"),
            nsid: 1,
            depth: load.depth,
            block_bytes: load.block_bytes,
            read_percent: load.read_percent,
            seconds,
            queues: 1,
            cores: 1,
            pattern: load.pattern,
            fua: load.fua,
            verify: false,
            rate: None,
            header_digest: false,
            data_digest: false,
            host_nqn: None,
            json: false,
            report_html: None,
        };
        let report = perf::measure(&options).expect("the target is there");
        assert!(report.is_good(), "{}", report.text());
        report
    }

    fn drives(&self) -> Vec<DriveStatus> {
        match self.node().call(Request::DriveList) {
            Ok(Reply::Drives(drives)) => drives,
            other => panic!("drives were asked for: {other:?}"),
        }
    }

    /// Bytes that all drives were asked for and brought, and their commands.
    pub fn moved(&self) -> Moved {
        let drives = self.drives();
        Moved {
            read_bytes: drives.iter().map(|drive| drive.read_bytes).sum(),
            written_bytes: drives.iter().map(|drive| drive.written_bytes).sum(),
            reads: drives.iter().map(|drive| drive.reads).sum(),
        }
    }

    /// Waits until the drives have been left alone for a while: everything is in its place.
    pub fn settle(&self) {
        let (mut last, mut since) = (self.moved(), Instant::now());
        while since.elapsed() < Duration::from_secs(3) {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.moved();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    fn group(&self) -> GroupStatus {
        let name = GroupName {
            group: GROUP.to_owned(),
        };
        match self.node().call(Request::GroupShow(name)) {
            Ok(Reply::Group(group)) => group,
            other => panic!("a group was asked for: {other:?}"),
        }
    }

    /// Takes a drive out of the group.
    pub fn fail_drive(&self, drive: usize) {
        let request = DriveFail {
            group: GROUP.to_owned(),
            drive: format!("d{drive}"),
            force: false,
        };
        self.node()
            .call(Request::DriveFail(request))
            .expect("the group survives it");
    }

    /// Gives the group a spare; how long it takes until the group is whole again.
    pub fn rebuild_onto(&self, drive: usize) -> Duration {
        let request = DriveAddSpare {
            group: GROUP.to_owned(),
            drive: format!("d{drive}"),
            force: false,
        };
        let start = Instant::now();
        self.node()
            .call(Request::DriveAddSpare(request))
            .expect("the drive is free");
        while self.group().state != GroupState::Healthy {
            assert!(start.elapsed() < WAIT, "the rebuild ends");
            std::thread::sleep(Duration::from_millis(10));
        }
        start.elapsed()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let node = self.0.take().expect("it is dropped once");
        node.stop().expect("the node stops");
    }
}

/// What drives have moved since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
}
