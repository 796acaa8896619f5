//! A shelf and the nodes that share its drives, as real processes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use braid::target::manage::{ArrayCut, ArrayRequest, ArrayStatus, DriveInject, FaultKind, Reply, Request};
use braid::target::rpc::Client;

use super::stage::{Folder, NQN, WAIT};

/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
const DRIVES: u32 = 5;

/// SplitMix64, as in the simulator.
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// A process of this test, killed with it.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It may have been killed already.
        let _ = self.0.wait();
    }
}

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }
}

impl Running {
    /// Waits until it has ended by itself, in good order; how long that took.
    pub fn ends_well(mut self) -> Duration {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return begin.elapsed();
            }
            assert!(begin.elapsed() < WAIT, "it ends");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it as it is, and waits until none of its threads runs.
    pub fn freeze(&self) {
        self.signal("-STOP");
        let begin = Instant::now();
        while !self.is_frozen() {
            assert!(begin.elapsed() < WAIT, "it stops");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_frozen(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        tasks.flatten().all(|task| {
            let text = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The name of a thread, in parentheses, may have any byte; its state follows.
            text.rsplit_once(") ")
                .is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }
}

fn run(what: &str, config: &Path, folder: &Path, more: &[&str]) -> Running {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join(format!("{what}-{}.log", config.file_stem().unwrap().display())))
        .unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_braid"))
        .args([what, "--config"])
        .arg(config)
        .args(more)
        .env("BRAID_LOG", "info")
        .stdout(Stdio::from(log.try_clone().unwrap()))
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap();
    Running(child)
}

/// Addresses each with a free port above it, where the link of the first core listens.
fn addresses(count: usize) -> Vec<SocketAddr> {
    let mut bound = Vec::new();
    while bound.len() < count {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut above = first.local_addr().unwrap();
        above.set_port(above.port().saturating_add(1));
        if let Ok(second) = TcpListener::bind(above) {
            bound.push((first, second));
        }
    }
    bound
        .iter()
        .map(|(first, _)| first.local_addr().unwrap())
        .collect()
}

/// A shelf and the nodes that share it.
pub struct Scene {
    folder: Folder,
    /// The shelf, if it runs.
    pub shelf: Option<Running>,
    /// The nodes that run.
    pub nodes: Vec<Option<Running>>,
    /// Where hosts reach each node.
    pub hosts: Vec<SocketAddr>,
    /// Where the others reach each node. The port above is that of its link for locks.
    pub links: Vec<SocketAddr>,
    /// The newest epoch of which a node said that it is open, and who its members are, by slot.
    newest: (u32, BTreeMap<u8, String>),
    /// Starts of the shelf, each with a log of its own.
    shelves: u32,
}

impl Drop for Scene {
    /// The folder goes with the test, so what processes said last is shown here.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for entry in fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "log")
            {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(40)..];
                eprintln!("{}:\n{}", entry.path().display(), last.join("\n"));
            }
        }
    }
}

impl Scene {
    /// A shelf with five drives, and so many nodes, whose configurations end so.
    pub fn set(count: u8, groups: &str) -> Self {
        Self::set_as(count, "", groups)
    }

    /// The same, with more lines in the `[subsystem]` of each node.
    pub fn set_as(count: u8, subsystem: &str, groups: &str) -> Self {
        Self::set_within(count, &[], subsystem, groups)
    }

    /// The same, with each node in a replication group, by slot; in none where none are named.
    pub fn set_within(count: u8, within: &[&str], subsystem: &str, groups: &str) -> Self {
        let group_of = |slot: u8| {
            let name = within.get(usize::from(slot));
            name.map_or(String::new(), |name| format!("replication_group = \"{name}\"\n"))
        };
        let folder = Folder::make();
        let ports = addresses(2 * usize::from(count) + 1);
        let (shelf, nodes) = ports.split_first().unwrap();
        let (nodes, hosts) = nodes.split_at(usize::from(count));
        let drive_mib = if groups.is_empty() { 8 } else { 48 };
        let mut text = format!(
            "[shelf]\nname = \"shelf\"\nrpc_socket = \"shelf.sock\"\nquorum_mib = 1\ncreate = true\ncommand_log = \"commands.log\"\n\
             [health]\nallow_fault_injection = true\n\
             [subsystem]\nnqn = \"{NQN}\"\n[reactor]\ncores = 1\npoll = \"interrupt\"\n[[listen]]\naddress = \"{shelf}\"\n"
        );
        for drive in 0..DRIVES {
            text +=
                &format!("[[drive]]\nname = \"d{drive}\"\npath = \"d{drive}.img\"\nsize_mib = {drive_mib}\n");
        }
        fs::write(folder.path().join("shelf.toml"), text).unwrap();
        fs::write(folder.path().join("vault.key"), "5a".repeat(32)).unwrap();
        for (slot, (address, host)) in (0..count).zip(nodes.iter().zip(hosts)) {
            let mut text = format!(
                "[node]\nname = \"n{slot}\"\nrpc_socket = \"n{slot}.sock\"\n[health]\nallow_fault_injection = true\n\
                 [reactor]\ncores = 1\npoll = \"interrupt\"\nmemory_mib = 64\n[[listen]]\naddress = \"{host}\"\n[subsystem]\nnqn = \"{NQN}\"\n{subsystem}\
                 [array]\nname = \"vault\"\nslot = {slot}\nkey_file = \"vault.key\"\nlisten = \"{address}\"\n{}",
                group_of(slot)
            );
            for (peer, address) in (0..count).zip(nodes).filter(|(peer, _)| *peer != slot) {
                let group = group_of(peer);
                text += &format!("[[peer]]\nslot = {peer}\naddresses = [\"{address}\"]\n{group}");
            }
            text += &format!("[[shelf]]\nname = \"s\"\naddresses = [\"{shelf}\"]\nnqn = \"{NQN}\"\n");
            for drive in 0..DRIVES {
                let nsid = 2 * drive + 1;
                text += &format!("[[drive]]\nname = \"d{drive}\"\nshelf = \"s\"\nnsid = {nsid}\n");
            }
            text += groups;
            fs::write(folder.path().join(format!("n{slot}.toml")), text).unwrap();
        }
        let mut scene = Self {
            folder,
            shelf: None,
            nodes: (0..count).map(|_| None).collect(),
            hosts: hosts.to_vec(),
            links: nodes.to_vec(),
            newest: (0, BTreeMap::new()),
            shelves: 0,
        };
        scene.start_shelf();
        (0..count).for_each(|slot| scene.start_node(slot));
        scene
    }

    /// A file of the scene.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Starts the shelf, which begins another command log.
    pub fn start_shelf(&mut self) {
        if self.shelves > 0 {
            fs::rename(
                self.path("commands.log"),
                self.path(&format!("commands-{}.log", self.shelves)),
            )
            .unwrap();
        }
        self.shelves += 1;
        self.shelf = Some(run("shelf", &self.path("shelf.toml"), self.folder.path(), &[]));
    }

    /// A drive of the shelf answers with errors from now on.
    pub fn break_drive(&self, drive: &str) {
        self.inject(drive, FaultKind::Error, None);
    }

    /// All drives of the shelf take so much longer for every command from now on.
    pub fn slow_drives_down(&self, slow_us: u64) {
        for drive in 0..DRIVES {
            self.inject(&format!("d{drive}"), FaultKind::Slow, Some(slow_us));
        }
    }

    fn inject(&self, drive: &str, fault: FaultKind, slow_us: Option<u64>) {
        let mut client = Client::connect(&self.path("shelf.sock"), ANSWER).unwrap();
        let inject = DriveInject {
            drive: drive.to_owned(),
            fault,
            at_bytes: None,
            blocks: None,
            slow_us,
        };
        client.call(&Request::DriveInject(inject)).unwrap();
    }

    /// Starts of the shelf so far.
    pub fn shelves_started(&self) -> u32 {
        self.shelves
    }

    /// Starts a node.
    pub fn start_node(&mut self, slot: u8) {
        self.start_node_with(slot, &[]);
    }

    /// The same, with more on its command line.
    pub fn start_node_with(&mut self, slot: u8, more: &[&str]) {
        let config = self.path(&format!("n{slot}.toml"));
        let running = run("node", &config, self.folder.path(), more);
        self.nodes[usize::from(slot)] = Some(running);
    }

    /// What a node says, if it says anything. A node that may answer hosts is a member of the newest epoch that was open before it was asked.
    pub fn ask(&mut self, slot: u8, request: ArrayRequest) -> Option<ArrayStatus> {
        self.ask_within(slot, request, ANSWER)
    }

    fn ask_within(&mut self, slot: u8, request: ArrayRequest, patience: Duration) -> Option<ArrayStatus> {
        let (newest, members) = self.newest.clone();
        let mut client = Client::connect(&self.path(&format!("n{slot}.sock")), patience).ok()?;
        let Reply::Array(status) = client.call(&Request::Array(request)).ok()? else {
            return None;
        };
        if status.serves && status.epoch < newest {
            // It may not have heard of the newest one, which has opened because it is still a member of that.
            assert_eq!(
                members.get(&slot),
                Some(&status.incarnation),
                "slot {slot} serves in epoch {} beside epoch {newest} of {members:?}",
                status.epoch
            );
        }
        if status.stage == "open" && status.epoch > self.newest.0 {
            self.newest = (status.epoch, status.members.iter().cloned().collect());
        }
        Some(*status)
    }

    /// Kills all processes with one signal, so that none of them sees another one die first.
    pub fn kill_everything(&mut self) {
        let running = self.nodes.iter().chain([&self.shelf]).flatten();
        let pids = running.map(|running| running.0.id().to_string());
        let killed = Command::new("kill").arg("-KILL").args(pids).status().unwrap();
        assert!(killed.success());
        self.nodes.iter_mut().for_each(|node| *node = None);
        self.shelf = None;
    }

    /// Kills some of the nodes with one signal, so that none of them sees another one die first.
    pub fn kill_nodes(&mut self, slots: &[u8]) {
        let running = slots
            .iter()
            .filter_map(|slot| self.nodes[usize::from(*slot)].as_ref());
        let pids = running.map(|running| running.0.id().to_string());
        let killed = Command::new("kill").arg("-KILL").args(pids).status().unwrap();
        assert!(killed.success());
        for slot in slots {
            self.nodes[usize::from(*slot)] = None;
        }
    }

    /// Has a node leave the array, and waits until it has begun to.
    pub fn leave(&mut self, slot: u8) {
        let begin = Instant::now();
        while self.ask(slot, ArrayRequest::Leave).is_none() {
            assert!(begin.elapsed() < WAIT, "slot {slot} leaves");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Has a node that has left join again.
    pub fn join(&mut self, slot: u8) {
        let begin = Instant::now();
        while self.ask(slot, ArrayRequest::Join).is_none() {
            assert!(begin.elapsed() < WAIT, "slot {slot} joins");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Makes the array through one of the nodes.
    pub fn create(&mut self, slot: u8) {
        let begin = Instant::now();
        // Drives are tried out, which takes its time on a busy machine.
        while self.ask_within(slot, ArrayRequest::Create, WAIT).is_none() {
            assert!(begin.elapsed() < WAIT, "the array is made");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks a node that has found its drives blank so many times to make the array, each time before the last one is answered: it does so once.
    pub fn create_at_once(&mut self, slot: u8, times: u32) {
        let begin = Instant::now();
        let is_blank = |status: ArrayStatus| status.drives.iter().all(|drive| drive.state == "blank");
        while !self.show(slot).is_some_and(is_blank) {
            assert!(begin.elapsed() < WAIT, "slot {slot} finds its drives");
            std::thread::sleep(Duration::from_millis(10));
        }
        let socket = self.path(&format!("n{slot}.sock"));
        let create = |turn: u32| {
            let socket = &socket;
            move || {
                std::thread::sleep(turn * Duration::from_millis(500)); // Drives are tried out for longer.
                let mut client = Client::connect(socket, 2 * WAIT).unwrap();
                client.call(&Request::Array(ArrayRequest::Create)).is_ok()
            }
        };
        let made = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..times).map(|turn| scope.spawn(create(turn))).collect();
            let answers = asked.into_iter().map(|asked| asked.join().unwrap());
            answers.filter(|is_made| *is_made).count()
        });
        assert_eq!(made, 1, "the array is made once");
    }

    /// A counter of a node, of all its cores together.
    pub fn counter(&self, slot: u8, name: &str) -> u64 {
        let mut client = Client::connect(&self.path(&format!("n{slot}.sock")), ANSWER).unwrap();
        let Ok(Reply::Counters(cores)) = client.call(&Request::Counters) else {
            panic!("a node counts");
        };
        cores.iter().map(|core| core.counters[name]).sum()
    }

    /// The array as a node sees it.
    pub fn show(&mut self, slot: u8) -> Option<ArrayStatus> {
        self.ask(slot, ArrayRequest::Show)
    }

    /// Waits until these nodes, and nobody else, are the members of one open epoch and serve; and asks all nodes meanwhile.
    pub fn until_open(&mut self, what: &str, slots: &[u8]) -> Duration {
        self.until_one_opens(what, &[slots])
    }

    /// The same for one of several sets of nodes.
    pub fn until_one_opens(&mut self, what: &str, sets: &[&[u8]]) -> Duration {
        let begin = Instant::now();
        loop {
            let all: Vec<Option<ArrayStatus>> = (0..)
                .take(self.nodes.len())
                .map(|slot| {
                    let is_there = self.nodes[usize::from(slot)].is_some();
                    is_there.then(|| self.show(slot)).flatten()
                })
                .collect();
            let is_open = |slots: &[u8]| {
                slots.iter().all(|slot| {
                    all[usize::from(*slot)].as_ref().is_some_and(|status| {
                        let members: Vec<u8> = status.members.iter().map(|(member, _)| *member).collect();
                        status.stage == "open" && status.serves && members == slots
                    })
                })
            };
            if sets.iter().any(|slots| is_open(slots)) {
                return begin.elapsed();
            }
            assert!(
                begin.elapsed() < 2 * WAIT,
                "{what}: {sets:?} awaited in {}, {all:#?}",
                self.folder.path().display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The newest epoch of which a node has said that it is open.
    pub fn newest_epoch(&self) -> u32 {
        self.newest.0
    }

    /// Waits until a newer epoch than this one is open, whoever its members are.
    pub fn until_newer(&mut self, epoch: u32) {
        let begin = Instant::now();
        while self.newest.0 <= epoch {
            assert!(begin.elapsed() < 2 * WAIT, "an epoch after {epoch} is open");
            for slot in (0..).take(self.nodes.len()) {
                self.show(slot);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Cuts a node off from another one.
    pub fn cut(&mut self, slot: u8, peer: u8, muted: bool, deafened: bool) {
        self.cut_links(
            slot,
            ArrayCut {
                peer,
                muted,
                deafened,
                locks_only: false,
            },
        );
    }

    /// Cuts links of a node.
    pub fn cut_links(&mut self, slot: u8, cut: ArrayCut) {
        // Between two lives there is nobody to be cut off.
        let begin = Instant::now();
        while self.ask(slot, ArrayRequest::Cut(cut)).is_none() {
            assert!(begin.elapsed() < WAIT, "slot {slot} is there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
