//! A shelf of memory drives and the nodes that use them, as processes of this machine.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use braid::target::manage::{ArrayRequest, DriveInject, FaultKind, GroupStatus, Reply, Request};
use braid::target::rpc::Client;

use crate::queue::{Host, Manner};
use crate::wire;

/// Subsystem of the shelf and of the nodes.
pub const NQN: &str = "nqn.2026-01.io.braid:bench";
/// Longer than anything here takes.
pub const WAIT: Duration = Duration::from_secs(60);
/// Bytes of a block.
pub const BLOCK: u32 = 4096;
/// Blocks of a row of a group of four drives: three data strips of 16 KiB.
pub const ROW_BLOCKS: u64 = 12;
/// Drives of the shelf.
const DRIVES: u32 = 5;
const ANSWER: Duration = Duration::from_secs(20);

/// What is set up.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many nodes.
    pub nodes: u8,
    /// They are an array; otherwise there is one, and the drives are its own.
    pub is_shared: bool,
    /// Virtual disks, named by their numbers from 1.
    pub disks: u8,
    /// Size of each.
    pub disk_mib: u32,
    /// How many drives the group has of the shelf's.
    pub drives: u8,
    /// What each core of a node remembers of reads.
    pub read_cache_mib: u32,
    /// Nodes that have a write in memory when it is done; 1 if it is in the journal then.
    pub copies: u8,
    /// The longest command of a host.
    pub transfer_kib: u32,
    /// What the link between nodes adds to every message.
    pub link_us: u64,
    /// Runs node 0 in callgrind, which counts nothing until it is told to.
    pub counts_instructions: bool,
}

impl Shape {
    /// An array that acknowledges when a write is in the journal.
    pub const TWO_NODES: Self = Self {
        nodes: 2,
        is_shared: true,
        disks: 1,
        disk_mib: 64,
        drives: 4,
        read_cache_mib: 32,
        copies: 1,
        transfer_kib: 256,
        link_us: 0,
        counts_instructions: false,
    };
}

/// A process, killed with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It may have ended already.
        let _ = self.0.wait();
    }
}

/// See the module.
pub struct Stage {
    folder: PathBuf,
    nodes: Vec<Running>,
    _shelf: Running,
    /// Where hosts reach each node.
    pub hosts: Vec<SocketAddr>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if thread::panicking() {
            return eprintln!("what the processes have said is in {}", self.folder.display());
        }
        self.nodes.clear();
        let _ = fs::remove_dir_all(&self.folder); // What is left there harms nobody.
    }
}

/// Addresses with a free port above each, where the link of core 0 listens.
fn addresses(count: usize) -> Vec<SocketAddr> {
    let mut bound = Vec::new();
    while bound.len() < count {
        let first = TcpListener::bind("127.0.0.1:0").expect("ports are left");
        let address = first.local_addr().expect("it is bound");
        let above = SocketAddr::new(address.ip(), address.port().saturating_add(1));
        if let Ok(second) = TcpListener::bind(above) {
            bound.push((address, first, second));
        }
    }
    bound.iter().map(|(address, ..)| *address).collect()
}

fn shelf_text(shelf: SocketAddr, drive_mib: u32) -> String {
    let mut text = format!(
        "[shelf]\nname = \"shelf\"\nrpc_socket = \"shelf.sock\"\nquorum_mib = 1\ncreate = true\n\
         [health]\nallow_fault_injection = true\n[subsystem]\nnqn = \"{NQN}\"\n\
         [reactor]\ncores = 1\npoll = \"interrupt\"\n[[listen]]\naddress = \"{shelf}\"\n"
    );
    for drive in 0..DRIVES {
        text += &format!("[[drive]]\nname = \"d{drive}\"\nmemory_mib = {drive_mib}\n");
    }
    text
}

/// Where the link of core 0 listens, given the node's address.
fn above(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port() + 1)
}

/// Where nodes look for one another, given where each of them listens.
fn expected(links: &[SocketAddr], link_us: u64) -> Vec<SocketAddr> {
    if link_us == 0 {
        return links.to_vec();
    }
    let wires = addresses(links.len());
    for (wire, link) in wires.iter().zip(links) {
        for (from, to) in [(*wire, *link), (above(*wire), above(*link))] {
            wire::carry(from, to, Duration::from_micros(link_us));
        }
    }
    wires
}

/// `link` is where it listens, and `peers` are where nodes look for one another.
fn node_text(
    shape: &Shape,
    slot: u8,
    shelf: SocketAddr,
    link: SocketAddr,
    peers: &[SocketAddr],
    host: SocketAddr,
) -> String {
    let mut text = format!(
        "[node]\nname = \"n{slot}\"\nrpc_socket = \"n{slot}.sock\"\n[subsystem]\nnqn = \"{NQN}\"\nmax_transfer_kib = {}\n\
         [reactor]\ncores = 1\npoll = \"interrupt\"\nmemory_mib = 128\nread_cache_mib = {}\n[[listen]]\naddress = \"{host}\"\n",
        shape.transfer_kib, shape.read_cache_mib
    );
    if shape.is_shared {
        text += &format!(
            "[array]\nname = \"vault\"\nslot = {slot}\nkey_file = \"vault.key\"\nlisten = \"{link}\"\n"
        );
        for (peer, link) in (0_u8..).zip(peers).filter(|(peer, _)| *peer != slot) {
            text += &format!("[[peer]]\nslot = {peer}\naddresses = [\"{link}\"]\n");
        }
    }
    text += &format!("[[shelf]]\nname = \"s\"\naddresses = [\"{shelf}\"]\nnqn = \"{NQN}\"\n");
    for drive in 0..DRIVES {
        // Beside each drive's data its quorum area has the next even number.
        let nsid = 2 * drive + 1;
        text += &format!("[[drive]]\nname = \"d{drive}\"\nshelf = \"s\"\nnsid = {nsid}\n");
    }
    let drives: Vec<String> = (0..shape.drives).map(|drive| format!("\"d{drive}\"")).collect();
    text += &format!(
        "[[group]]\nname = \"g\"\nlevel = \"raid5\"\ndrives = [{}]\nstrip_kib = 16\njournal_mib = 32\ncreate = true\n",
        drives.join(", ")
    );
    if shape.copies > 1 {
        text += &format!("durability = \"ram\"\ncopies = {}\n", shape.copies);
    }
    for disk in 1..=shape.disks {
        text += &format!(
            "[[vdisk]]\nname = \"v{disk}\"\ngroup = \"g\"\nsize_mib = {}\nnsid = {disk}\n",
            shape.disk_mib
        );
    }
    text
}

impl Stage {
    /// Starts everything and waits until hosts are served by all nodes.
    pub fn set(shape: Shape) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("braid-bench-share-{}-{number}", std::process::id()));
        fs::create_dir(&folder).expect("the folder for temporary files is there");
        let count = usize::from(shape.nodes);
        let all = addresses(2 * count + 1);
        let (shelf, links, hosts) = (all[0], &all[1..=count], &all[count + 1..]);
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).expect("there is room");
            path
        };
        write("vault.key", &"5a".repeat(32));
        let drive_mib = 48 + u32::from(shape.disks) * shape.disk_mib / 3;
        let file = write("shelf.toml", &shelf_text(shelf, drive_mib));
        let running = run(&folder, "shelf", &file, false);
        until("the shelf listens", || TcpStream::connect(shelf).ok());
        let peers = expected(links, shape.link_us);
        let nodes = (0..shape.nodes)
            .zip(hosts)
            .zip(links)
            .map(|((slot, host), link)| {
                let text = node_text(&shape, slot, shelf, *link, &peers, *host);
                let file = write(&format!("n{slot}.toml"), &text);
                run(&folder, "node", &file, shape.counts_instructions && slot == 0)
            });
        let stage = Self {
            nodes: nodes.collect(),
            _shelf: running,
            hosts: hosts.to_vec(),
            folder: folder.clone(),
        };
        // Through the last node: the first one may run in Valgrind, which takes its time.
        let last = format!("n{}.sock", shape.nodes - 1);
        if shape.is_shared {
            let create = Request::Array(ArrayRequest::Create);
            until("the array is made", || stage.call(&last, &create));
        }
        for host in hosts {
            until("a node serves", || TcpStream::connect(*host).ok());
        }
        until("all check data is right", || stage.is_synchronised(&last));
        stage
    }

    /// Asks an operator's socket.
    pub fn call(&self, socket: &str, request: &Request) -> Option<Reply> {
        let mut client = Client::connect(&self.folder.join(socket), ANSWER).ok()?;
        client.call(request).ok()
    }

    /// Something, when nothing is done in the background any more.
    fn is_synchronised(&self, socket: &str) -> Option<()> {
        let Reply::Groups(groups) = self.call(socket, &Request::GroupList)? else {
            return None;
        };
        let is_done = |group: &GroupStatus| group.resync_done_rows == group.rows;
        (!groups.is_empty() && groups.iter().all(is_done)).then_some(())
    }

    /// All drives of the shelf take so much longer for every command from now on.
    pub fn slow_down(&self, slow_us: u64) {
        for drive in 0..DRIVES {
            let inject = DriveInject {
                drive: format!("d{drive}"),
                fault: FaultKind::Slow,
                at_bytes: None,
                blocks: None,
                slow_us: Some(slow_us),
            };
            let done = self.call("shelf.sock", &Request::DriveInject(inject));
            done.expect("the shelf is there");
        }
    }

    /// A file or folder of the processes.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process of a node.
    pub fn process(&self, node: usize) -> u32 {
        self.nodes[node].0.id()
    }

    /// A host at a node.
    pub fn connect(&self, node: usize, host: u8) -> Host {
        let manner = Manner {
            host,
            ..Manner::default()
        };
        until("a host connects", || {
            Host::try_connect_as(self.hosts[node], manner).ok()
        })
    }
}

/// Compiles what lets a node run in Valgrind: see the C file.
fn polls_first(folder: &Path) -> PathBuf {
    let library = folder.join("poll_first.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/share/poll_first.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .args([source, "-ldl"])
        .status();
    assert!(
        compiled.is_ok_and(|status| status.success()),
        "a C compiler is there"
    );
    library
}

fn run(folder: &Path, role: &str, file: &Path, is_counted: bool) -> Running {
    let name = file.file_stem().expect("it has a name").to_string_lossy();
    let log = File::create(folder.join(format!("{name}.log"))).expect("there is room");
    let braid = env!("CARGO_BIN_EXE_braid");
    let mut command = if is_counted {
        let mut command = Command::new("valgrind");
        command
            .env("LD_PRELOAD", polls_first(folder))
            .args([
                "--tool=callgrind",
                "--instr-atstart=no",
                "--separate-threads=yes",
                "--callgrind-out-file=callgrind.out",
            ])
            .arg(braid);
        command
    } else {
        Command::new(braid)
    };
    let child = command
        .args([role, "--config"])
        .arg(file)
        .current_dir(folder)
        .env("BRAID_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone().expect("descriptors are left")))
        .stderr(Stdio::from(log))
        .spawn();
    Running(child.expect("the program is there"))
}

fn until<R>(what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < 2 * WAIT, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}
