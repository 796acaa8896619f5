//! Real processes that share the drives of a shelf: killed, stopped, cut from each other, and the shelf with them. Never two sides that both
//! believe they may write, as the nodes say and as the shelf's own log does.
//!
//! A dozen schedules in CI; `BRAID_SCHEDULES=200 BRAID_SCHEDULES_SEED=7 cargo test --release --test end_to_end partitions -- --nocapture`
//! for more, with a table of how long decisions took.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use braid::target::manage::{ArrayCut, ArrayRequest, ArrayStatus, Reply, Request};
use braid::target::rpc::Client;

use super::fences::Proof;
use super::stage::{Folder, NQN, WAIT};

const NODES: u8 = 3;
/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
const DRIVES: u32 = 5;
/// Goal of the issue for a node that was killed: a decision in under three seconds.
const KILLED: Duration = Duration::from_secs(3);
/// The same for one that was stopped, or cut off.
const SILENT: Duration = Duration::from_secs(5);

/// SplitMix64, as in the simulator.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// A process of this test, killed with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It may have been killed already.
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }
}

fn run(what: &str, config: &Path, folder: &Path) -> Running {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join(format!("{what}-{}.log", config.file_stem().unwrap().display())))
        .unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_braid"))
        .args([what, "--config"])
        .arg(config)
        .env("BRAID_LOG", "info")
        .stdout(Stdio::from(log.try_clone().unwrap()))
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap();
    Running(child)
}

/// Addresses with free ports above them.
fn addresses(count: usize) -> Vec<SocketAddr> {
    let bound: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    bound
        .iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect()
}

/// A shelf and the nodes that share it.
struct Scene {
    folder: Folder,
    shelf: Option<Running>,
    nodes: Vec<Option<Running>>,
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
    fn set() -> Self {
        let folder = Folder::make();
        let ports = addresses(usize::from(NODES) + 1);
        let (shelf, nodes) = ports.split_first().unwrap();
        let mut text = format!(
            "[shelf]\nname = \"shelf\"\nrpc_socket = \"shelf.sock\"\nquorum_mib = 1\ncreate = true\ncommand_log = \"commands.log\"\n\
             [subsystem]\nnqn = \"{NQN}\"\n[reactor]\ncores = 1\npoll = \"interrupt\"\n[[listen]]\naddress = \"{shelf}\"\n"
        );
        for drive in 0..DRIVES {
            text += &format!("[[drive]]\nname = \"d{drive}\"\npath = \"d{drive}.img\"\nsize_mib = 8\n");
        }
        fs::write(folder.path().join("shelf.toml"), text).unwrap();
        fs::write(folder.path().join("vault.key"), "5a".repeat(32)).unwrap();
        for (slot, address) in (0..NODES).zip(nodes) {
            let mut text = format!(
                "[node]\nname = \"n{slot}\"\nrpc_socket = \"n{slot}.sock\"\n[health]\nallow_fault_injection = true\n\
                 [reactor]\ncores = 1\npoll = \"interrupt\"\nmemory_mib = 64\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
                 [array]\nname = \"vault\"\nslot = {slot}\nkey_file = \"vault.key\"\nlisten = \"{address}\"\n"
            );
            for (peer, address) in (0..NODES).zip(nodes).filter(|(peer, _)| *peer != slot) {
                text += &format!("[[peer]]\nslot = {peer}\naddresses = [\"{address}\"]\n");
            }
            text += &format!("[[shelf]]\nname = \"s\"\naddresses = [\"{shelf}\"]\nnqn = \"{NQN}\"\n");
            for drive in 0..DRIVES {
                let nsid = 2 * drive + 1;
                text += &format!("[[drive]]\nname = \"d{drive}\"\nshelf = \"s\"\nnsid = {nsid}\n");
            }
            fs::write(folder.path().join(format!("n{slot}.toml")), text).unwrap();
        }
        let mut scene = Self {
            folder,
            shelf: None,
            nodes: (0..NODES).map(|_| None).collect(),
            newest: (0, BTreeMap::new()),
            shelves: 0,
        };
        scene.start_shelf();
        (0..NODES).for_each(|slot| scene.start_node(slot));
        scene
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn start_shelf(&mut self) {
        if self.shelves > 0 {
            fs::rename(
                self.path("commands.log"),
                self.path(&format!("commands-{}.log", self.shelves)),
            )
            .unwrap();
        }
        self.shelves += 1;
        self.shelf = Some(run("shelf", &self.path("shelf.toml"), self.folder.path()));
    }

    fn start_node(&mut self, slot: u8) {
        let running = run("node", &self.path(&format!("n{slot}.toml")), self.folder.path());
        self.nodes[usize::from(slot)] = Some(running);
    }

    /// What a node says, if it says anything. A node that may answer hosts is a member of the newest epoch that was open before it was asked.
    fn ask(&mut self, slot: u8, request: ArrayRequest) -> Option<ArrayStatus> {
        let (newest, members) = self.newest.clone();
        let mut client = Client::connect(&self.path(&format!("n{slot}.sock")), ANSWER).ok()?;
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

    fn show(&mut self, slot: u8) -> Option<ArrayStatus> {
        self.ask(slot, ArrayRequest::Show)
    }

    /// Waits until these nodes, and nobody else, are the members of one open epoch and serve; and asks all nodes meanwhile.
    fn until_open(&mut self, what: &str, slots: &[u8]) -> Duration {
        self.until_one_opens(what, &[slots])
    }

    /// The same for one of several sets of nodes.
    fn until_one_opens(&mut self, what: &str, sets: &[&[u8]]) -> Duration {
        let begin = Instant::now();
        loop {
            let all: Vec<Option<ArrayStatus>> = (0..NODES)
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

    fn cut(&mut self, slot: u8, peer: u8, muted: bool, deafened: bool) {
        let cut = ArrayCut {
            peer,
            muted,
            deafened,
        };
        // Between two lives there is nobody to be cut off.
        let begin = Instant::now();
        while self.ask(slot, ArrayRequest::Cut(cut)).is_none() {
            assert!(begin.elapsed() < WAIT, "slot {slot} is there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What a schedule does to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    Kill,
    Stop,
    CutBoth,
    CutOneWay,
    KillShelf,
}

fn others(slot: u8) -> Vec<u8> {
    (0..NODES).filter(|other| *other != slot).collect()
}

/// Carries out one schedule, from a whole array to a whole array. How long it took until the others went on.
fn carry_out(scene: &mut Scene, blow: Blow, random: &mut Random) -> Duration {
    let all: Vec<u8> = (0..NODES).collect();
    let victim = u8::try_from(random.below(u64::from(NODES))).unwrap();
    let rest = others(victim);
    std::thread::sleep(Duration::from_millis(random.below(300)));
    match blow {
        Blow::Kill => {
            scene.nodes[usize::from(victim)] = None;
            let took = scene.until_open("after a kill", &rest);
            scene.start_node(victim);
            scene.until_open("the killed one is back", &all);
            took
        }
        Blow::Stop => {
            let signal = |scene: &Scene, signal| {
                let node = scene.nodes[usize::from(victim)].as_ref();
                node.unwrap().signal(signal);
            };
            signal(scene, "-STOP");
            // Nobody asks it meanwhile: it would not answer.
            let stopped = scene.nodes[usize::from(victim)].take();
            let took = scene.until_open("after a stop", &rest);
            std::thread::sleep(Duration::from_millis(random.below(1000)));
            scene.nodes[usize::from(victim)] = stopped;
            signal(scene, "-CONT");
            scene.until_open("the stopped one is back", &all);
            took
        }
        Blow::CutBoth | Blow::CutOneWay => {
            // One node is cut from both others; in one direction only, if so.
            let muted = blow == Blow::CutBoth || random.below(2) == 0;
            let deafened = blow == Blow::CutBoth || !muted;
            for other in &rest {
                scene.cut(victim, *other, muted, deafened);
            }
            // Who hears nobody, and is heard, may be first to propose, and those whom it leaves out may have decided otherwise in the
            // meantime: whoever is left goes on, and the others begin anew.
            let sets: [&[u8]; 6] = [&[0], &[1], &[2], &[0, 1], &[0, 2], &[1, 2]];
            let took = scene.until_one_opens("after a cut", &sets);
            for other in &rest {
                scene.cut(victim, *other, false, false);
            }
            scene.until_open("who was cut off is back", &all);
            took
        }
        Blow::KillShelf => {
            scene.shelf = None;
            let begin = Instant::now();
            let end = begin + Duration::from_millis(500 + random.below(3000));
            while Instant::now() < end {
                all.iter().for_each(|slot| drop(scene.show(*slot)));
                std::thread::sleep(Duration::from_millis(20));
            }
            scene.start_shelf();
            scene.until_open("the shelf is back", &all)
        }
    }
}

/// CHECKLIST E1 (PROTOCOL H01 to H06, I4): whatever happens to nodes, links and shelf, one side goes on, and nothing of the other lands.
#[test]
fn never_two_sides_write() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let schedules = number("BRAID_SCHEDULES", 10);
    let mut random = Random(number("BRAID_SCHEDULES_SEED", 1));
    let mut scene = Scene::set();
    let created = Instant::now();
    while scene.ask(1, ArrayRequest::Create).is_none() {
        assert!(created.elapsed() < WAIT, "the drives are blank");
        std::thread::sleep(Duration::from_millis(50));
    }
    let all: Vec<u8> = (0..NODES).collect();
    scene.until_open("formed", &all);
    let blows = [
        Blow::Kill,
        Blow::Stop,
        Blow::CutBoth,
        Blow::CutOneWay,
        Blow::KillShelf,
    ];
    let mut took: BTreeMap<Blow, Vec<Duration>> = BTreeMap::new();
    for schedule in 0..schedules {
        let blow = blows[usize::try_from(schedule).unwrap() % blows.len()];
        let time = carry_out(&mut scene, blow, &mut random);
        took.entry(blow).or_default().push(time);
    }
    for (blow, times) in &mut took {
        times.sort();
        let within = match blow {
            Blow::Kill => Some(KILLED),
            Blow::Stop | Blow::CutBoth | Blow::CutOneWay => Some(SILENT),
            Blow::KillShelf => None,
        };
        let late = times
            .iter()
            .filter(|time| within.is_some_and(|within| **time > within));
        println!(
            "{blow:?}: {} schedules, decided after {:.2?} (median), {:.2?} (longest); {} later than {within:?}",
            times.len(),
            times[times.len() / 2],
            times[times.len() - 1],
            late.count()
        );
    }
    // Drives that a node had lost for a while are all in use again.
    let whole = Instant::now();
    while !all.iter().all(|slot| {
        let status = scene.show(*slot);
        status.is_some_and(|status| status.drives.iter().all(|drive| drive.in_use))
    }) {
        assert!(whole.elapsed() < WAIT, "all drives are in use");
        std::thread::sleep(Duration::from_millis(50));
    }
    scene.nodes.clear();
    drop(scene.shelf.take());
    let mut proof = Proof::default();
    for start in 1..=scene.shelves {
        let file = if start == scene.shelves {
            "commands.log".to_owned()
        } else {
            format!("commands-{start}.log")
        };
        proof.follow(&fs::read_to_string(scene.path(&file)).unwrap(), true);
    }
    println!(
        "logs of {} starts of the shelf: {} writes, {} fences, none of them crossed",
        scene.shelves, proof.writes, proof.fences
    );
    assert!(proof.fences > 0 && proof.writes > 1000);
}
