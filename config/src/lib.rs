//! The configuration file of one node or shelf as checked, typed values.
//!
//! Owns what a valid file is. [`parse`] looks at the file as a whole and reports everything that is
//! wrong with it at once, each with its place and its remedy, so that a node refuses a bad file
//! before anything starts. It is pure: whether paths exist, how many CPUs there are and who runs the
//! process are questions for the daemon.
//!
//! Invariants of every [`Config`] that `parse` returns: names of drives, groups and virtual disks are
//! unique in their kind, each group's drives exist and belong to no other group, each virtual disk's
//! group exists, no two listeners or drives claim the same address or path, every number lies in the
//! range that its field documents.

mod array;
#[cfg(test)]
mod array_tests;
mod array_text;
mod check;
#[cfg(test)]
mod fabric_tests;
mod problem;
mod read;
mod replication;
#[cfg(test)]
mod replication_tests;
mod section;
#[cfg(test)]
mod shelf_tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use nvme::nqn::Nqn;

pub use array_text::{ArrayText, ShelfText};
pub use problem::{Note, PROBLEMS_MAX, Problem};

/// Longest file in bytes: a thousand drives with all their keys are a tenth of it.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Longest name of a drive, group or virtual disk in bytes: the field in a superblock.
pub const NAME_BYTES_MAX: usize = 32;
/// Most cores of one node: the lock word has one waiting bit for each.
pub const CORES_MAX: u16 = 16;
/// Most `[[listen]]` sections.
pub const LISTENERS_MAX: usize = 64;
/// Most `[[drive]]` sections.
pub const DRIVES_MAX: usize = 1024;
/// Copies of a write that is acknowledged from memory, where the configuration does not say.
pub const COPIES: u8 = 2;
/// Slots of an array: the most nodes that share it.
pub const ARRAY_SLOTS: u8 = 8;
/// Most addresses of one node of an array.
pub const ARRAY_PATHS_MAX: usize = 2;
/// Most drives of an array.
pub const ARRAY_DRIVES_MAX: usize = 64;
/// Most `[[shelf]]` sections of a node.
pub const SHELVES_MAX: usize = 64;
/// Most addresses of one shelf.
pub const SHELF_ADDRESSES_MAX: usize = 8;
/// Most `[[group]]` sections.
pub const GROUPS_MAX: usize = 128;
/// Most `[[vdisk]]` sections.
pub const VDISKS_MAX: usize = 1024;
/// Most spare drives of a group.
pub const GROUP_SPARES_MAX: usize = 8;
/// Most virtual disks of one group: the table in a superblock.
pub const GROUP_VDISKS_MAX: usize = 28;
/// Most drives of one group: the member table in a superblock.
pub const GROUP_DRIVES_MAX: usize = 32;
/// Fastest rate that background work may be held to, in MiB/s: 1 TiB/s.
pub const RATE_MIB_S_MAX: u32 = 1 << 20;
/// Longest latency that hosts may be promised beside background work, in microseconds: a minute.
pub const LATENCY_TARGET_US_MAX: u32 = 60_000_000;
/// Most host NQNs in `hosts`.
pub const HOSTS_MAX: usize = 4096;

/// One checked file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[node]`, or what `[shelf]` says of the process.
    pub node: Node,
    /// What else `[shelf]` says; `None` in the file of a node.
    pub shelf: Option<Shelf>,
    /// `[reactor]`
    pub reactor: Reactor,
    /// `[subsystem]`
    pub subsystem: Subsystem,
    /// Each `[[listen]]`, in the file's order; at least one of them is not `discovery_only`.
    pub listeners: Vec<Listen>,
    /// `[array]`, if the node shares drives with others.
    pub array: Option<Array>,
    /// Each `[[shelf]]` that a node uses drives of, in the file's order; none in the file of a shelf. With an `[array]` they, and the drives, are
    /// the array's, and its groups are shared with other nodes.
    pub shelves: Vec<RemoteShelf>,
    /// Each `[[drive]]`, in the file's order.
    pub drives: Vec<Drive>,
    /// `[health]`, or its defaults.
    pub health: Health,
    /// Each `[[group]]`, in the file's order.
    pub groups: Vec<Group>,
    /// Each `[[vdisk]]`, in the file's order.
    pub vdisks: Vec<Vdisk>,
    /// What is allowed but worth a line in the log.
    pub notes: Vec<Note>,
}

/// `[node]`: the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// How the node calls itself: 1 to [`NAME_BYTES_MAX`] letters, digits, `-`, `_` and `.`. Default: `braid`.
    pub name: String,
    /// Unix socket of the management interface, if the file names one; see [`Node::rpc_socket_or_default`].
    pub rpc_socket: Option<PathBuf>,
    /// Log filter: levels, also by module, separated by commas. Default: `info`.
    pub log: String,
}

/// `[shelf]`: the process exports each of its drives as it is. Each drive is a group of its own name over that drive alone, with two
/// virtual disks, see [`Shelf::quorum_name`] and [`Shelf::data_name`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelf {
    /// MiB of a drive that are exported beside its data and are never reserved, `1..=1024`. Default: 8.
    pub quorum_mib: u32,
    /// Bytes of a block, 512 or 4096. Default: 4096.
    pub block_bytes: u32,
    /// Whether a blank drive is made one of this shelf. Default: false.
    pub create: bool,
    /// File that commands which change something and changes of reservations are noted in. Default: none.
    pub command_log: Option<PathBuf>,
}

impl Shelf {
    /// Name of the virtual disk that is a drive's quorum area.
    pub fn quorum_name(drive: &str) -> String {
        format!("{drive}.quorum")
    }

    /// Name of the virtual disk that is a drive's data.
    pub fn data_name(drive: &str) -> String {
        format!("{drive}.data")
    }
}

/// Longest name of a shelf's drive: its virtual disks are named after it.
pub const SHELF_DRIVE_NAME_BYTES_MAX: usize = NAME_BYTES_MAX - ".quorum".len();

/// `[reactor]`: cores and their memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reactor {
    /// Polling cores, `1..=CORES_MAX`, if the file says; see [`Reactor::core_count`].
    pub cores: Option<u16>,
    /// CPU that each core is pinned to; as many as cores, all different. Default: not pinned.
    pub cpus: Option<Vec<usize>>,
    /// What a core does when there is nothing to do. Default: adaptive with 50 µs.
    pub poll: Poll,
    /// Memory for data in flight in MiB per core, `16..=2048`. Default: 128.
    pub memory_mib: u32,
    /// Memory for what was read, in MiB per core and group, `0..=2048`; 0 turns it off, and reading ahead with it. Default: 32.
    pub read_cache_mib: u32,
}

/// What a core does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Never sleeps.
    Busy,
    /// Spins for this long after the last work, then sleeps until there is some.
    Adaptive {
        /// Microseconds of spinning, `1..=1_000_000`.
        spin_us: u32,
    },
    /// Sleeps at once.
    Interrupt,
}

/// `[subsystem]`: what hosts see of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsystem {
    /// NQN of the NVM subsystem. Default: `nqn.2026-01.io.braid:` and the node's name; where groups are shared, `array:` and the array's name.
    pub nqn: Nqn,
    /// Serial number, at most 20 printable ASCII characters. Default: `BR` and 16 hexadecimal digits
    /// computed from the NQN.
    pub serial: String,
    /// Model number, at most 40 printable ASCII characters. Default: `Braid`.
    pub model: String,
    /// Firmware revision, at most 8 printable ASCII characters. Default: this version.
    pub firmware: String,
    /// IEEE organisation identifier, most significant byte first. Default: `02:42:52`.
    pub oui: [u8; 3],
    /// Who may connect. Default: any host.
    pub hosts: Hosts,
    /// Largest transfer of one command in KiB: a power of two in `8..=1024`, because admin data has up to 8 KiB. Default: 256.
    pub max_transfer_kib: u32,
    /// In-capsule data of an I/O command in KiB, `0..=64` and no more than `max_transfer_kib`; with 0 no write begins before its host has been asked for the
    /// data, and has answered (PROTOCOL H37). Default: 8.
    pub in_capsule_kib: u32,
    /// I/O queues of one controller, `1..=128`. Default: 16.
    pub io_queues_max: u16,
    /// Entries of one queue, `16..=1024`. Default: 128.
    pub queue_entries_max: u16,
    /// Controllers (host associations) at the same time, `1..=4096`. Default: 256.
    pub controllers_max: u16,
    /// When C2HData may stand for success. Default: without SQ flow control.
    pub c2h_success: C2hSuccess,
    /// Whether a host may have header digests. Default: yes.
    pub header_digest: bool,
    /// Whether a host may have data digests. Default: yes.
    pub data_digest: bool,
}

/// Which hosts may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Everybody.
    Any,
    /// These only; at least one, all different.
    List(Vec<Nqn>),
}

/// When the last C2HData PDU of a command carries the SUCCESS flag in place of a response capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum C2hSuccess {
    /// On queues whose host asked for no submission queue flow control.
    WithoutFlowControl,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// `[[listen]]`: an address where hosts connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// What to bind. A wildcard address is advertised as the address that the host connected to; with
    /// port 0 the operating system chooses.
    pub address: SocketAddr,
    /// The address told in the discovery log in place of the bound one. Never a wildcard.
    pub advertise: Option<IpAddr>,
    /// Refuses connections to the NVM subsystem; answers discovery only. Default: false.
    pub discovery_only: bool,
}

/// `[[drive]]`: a drive under the name that groups use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Unique among drives; 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// What it is.
    pub backing: Backing,
}

/// What a drive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A file or a block device.
    Path {
        /// Resolved against the folder of the configuration file. Links are not followed here: the
        /// daemon refuses two paths that lead to the same device and inode.
        path: PathBuf,
        /// Size in MiB of the sparse file that is made if there is none.
        size_mib: Option<u64>,
    },
    /// Memory, lost when the node stops.
    Memory(MemoryDrive),
    /// A namespace of a shelf.
    Shelf(ShelfDrive),
}

/// `[[shelf]]`: another process, reached over NVMe/TCP, whose namespaces are drives of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteShelf {
    /// Unique among shelves; 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Where it listens, in the order in which they are tried; 1 to [`SHELF_ADDRESSES_MAX`], all different.
    pub addresses: Vec<SocketAddr>,
    /// Its subsystem.
    pub nqn: Nqn,
    /// Who the node is there. Default: `nqn.2026-01.io.braid:host:` and the node's name.
    pub host_nqn: Nqn,
    /// Whether CRC-32C digests over headers are wanted. Default: no.
    pub header_digest: bool,
    /// The same over data. Default: no.
    pub data_digest: bool,
    /// Whether its drives are taken away from whoever has reserved them. Default: false.
    pub take_over: bool,
}

/// `[array]`: drives of shelves that several nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// What people call it: 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// This node's place in it, below [`ARRAY_SLOTS`].
    pub slot: u8,
    /// The file with the key that all nodes of the array have.
    pub key_file: PathBuf,
    /// Where this node listens for the others: announcements there, lane n of the link n + 1 ports above.
    pub listen: SocketAddr,
    /// Drives that may be lost, `1..=3`: twice as many and one more vote, when the array is made. Default: 1.
    pub failures: u8,
    /// Whether connections to the other nodes are encrypted. Default: they are not.
    pub encryption: Encryption,
    /// Each `[[peer]]`, in the file's order; all slots are different, and none is this node's.
    pub peers: Vec<Peer>,
    /// The replication group of this node. All nodes are in one, or none is. Default: none.
    pub replication_group: Option<String>,
    /// Each `[[replication_rule]]`, in the file's order; see [`Array::keepers_of`].
    pub replication_rules: Vec<ReplicationRule>,
    /// The shelves of the file, which are all the array's.
    pub shelves: Vec<RemoteShelf>,
    /// The file's drives that are namespaces of shelves, in the file's order; at least one.
    pub drives: Vec<ArrayDrive>,
}

/// What protects the connections between nodes, once both ends have proved the array's key.
///
/// The default is none. Nodes of an array often have a network of their own; their data cross the network to shelves and hosts unencrypted
/// too, so that TLS between the nodes alone promises less than it seems to; and it takes time of the cores that serve hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Nothing.
    #[default]
    None,
    /// TLS 1.3.
    Tls,
}

impl Encryption {
    /// As it stands in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tls => "tls",
        }
    }
}

/// `[[peer]]`: another node of the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its slot.
    pub slot: u8,
    /// Where it listens, by path: 1 to [`ARRAY_PATHS_MAX`].
    pub addresses: Vec<SocketAddr>,
    /// Its replication group; see [`Array::replication_group`].
    pub replication_group: Option<String>,
}

/// `[[replication_rule]]`: where the nodes of one replication group have copies kept of what they acknowledge from memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationRule {
    /// Their group.
    pub from: String,
    /// Groups of the nodes that may keep them; at least one, all different, and not the same.
    pub to: Vec<String>,
}

/// A drive of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayDrive {
    /// Its name.
    pub name: String,
    /// Which of [`Array::shelves`] has it.
    pub shelf: u16,
    /// Which of its namespaces.
    pub namespace: NamespaceName,
}

/// A drive that is a namespace of a shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShelfDrive {
    /// Name of the shelf, which [`Config::shelves`] has.
    pub shelf: String,
    /// Which of its namespaces; no other drive has the same one.
    pub namespace: NamespaceName,
}

/// How a namespace is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamespaceName {
    /// By its number, not 0.
    Nsid(u32),
    /// By its UUID.
    Uuid([u8; 16]),
}

impl fmt::Display for NamespaceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nsid(nsid) => write!(out, "namespace {nsid}"),
            Self::Uuid(uuid) => {
                out.write_str("namespace ")?;
                for (at, byte) in uuid.iter().enumerate() {
                    if [4, 6, 8, 10].contains(&at) {
                        out.write_str("-")?;
                    }
                    write!(out, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

/// A drive in memory, optionally as slow and as faulty as a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryDrive {
    /// Size in MiB, `8..=16_777_216`.
    pub size_mib: u64,
    /// Least time that a command takes in microseconds, `0..=10_000_000`. Default: 0.
    pub delay_us: u32,
    /// Bandwidth of reads and writes together in MiB a second. Default: not bounded.
    pub bandwidth_mib_s: Option<NonZeroU32>,
    /// Every so many commands one fails. Default: none.
    pub error_every: Option<NonZeroU32>,
}

/// `[health]`: from where on a drive is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// A command that is unanswered for this many ms makes its drive fail, `100..=600_000`. Default: 5000.
    pub hang_ms: u32,
    /// The same for a drive that its group cannot do without, at least `hang_ms`. Default: 30000, or `hang_ms` if that is more.
    pub hang_last_ms: u32,
    /// Media errors within an hour that are repaired before the drive is evicted, `0..=1_000_000`. Default: 50.
    pub media_errors_per_hour: u32,
    /// I/O errors within an hour that are borne before the drive is evicted, `0..=1_000_000`. Default: 10.
    pub io_errors_per_hour: u32,
    /// Times that a command which failed with an I/O error is tried again, `0..=10`. Default: 1.
    pub io_retries: u8,
    /// Length of a latency window in ms, `100..=3_600_000`. Default: 10000.
    pub window_ms: u32,
    /// Fewest commands in a window that say something about a drive, `1..=1_000_000`. Default: 100.
    pub window_commands: u32,
    /// A drive is slow if its p99 latency is more than this many times its group's median, `2..=10_000`. Default: 8.
    pub slow_factor: u32,
    /// A drive with a p99 of at most this many µs is never slow, `0..=60_000_000`. Default: 20000.
    pub slow_floor_us: u32,
    /// Slow windows in a row after which a drive is evicted, `1..=10_000`. Default: 6.
    pub slow_windows: u32,
    /// Whether operators may have drives err, hang or be slow, for tests. Default: false.
    pub allow_fault_injection: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            hang_ms: 5_000,
            hang_last_ms: 30_000,
            media_errors_per_hour: 50,
            io_errors_per_hour: 10,
            io_retries: 1,
            window_ms: 10_000,
            window_commands: 100,
            slow_factor: 8,
            slow_floor_us: 20_000,
            slow_windows: 6,
            allow_fault_injection: false,
        }
    }
}

/// `[[group]]`: a redundancy group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Unique among groups; 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Default: RAID-5.
    pub level: Level,
    /// KiB of a strip: a power of two in `4..=1024`. Default: 64.
    pub strip_kib: u32,
    /// Bytes of a block, 512 or 4096. Default: 4096.
    pub block_bytes: u32,
    /// Members as indices into [`Config::drives`], in the file's order; none is in another group.
    pub drives: Vec<usize>,
    /// Whether to create the group when all its drives are blank. Default: false.
    pub create: bool,
    /// When a host's write counts as done; `None` exactly where the level has no redundancy. Default: the journal.
    pub durability: Option<Durability>,
    /// Of how many nodes' memory a write is to be in before it counts as done, the one that the host uses counted, where nodes share the group and `durability` is RAM, unless
    /// [`Vdisk::replication`] says otherwise: 2 to 8. Default: 2.
    pub copies: u8,
    /// Of how many it has to be while no more are there: 2 to `copies`. Default: `copies`.
    pub copies_min: u8,
    /// MiB of the journal on each drive; what suits the drives if `None`.
    pub journal_mib: Option<u32>,
    /// Spare drives as indices into [`Config::drives`]; none is in any group.
    pub spares: Vec<usize>,
    /// Whether to serve the group although missing members may be newer, or its parity was not known to be right when a member went. Default: false.
    pub accept_dirty_degraded: bool,
    /// Whether to serve the group after writes were lost that had been acknowledged from memory. Default: false.
    pub accept_lost_writes: bool,
    /// The same for one opening of the group: no key of the file, but what an operator says at a start.
    pub accepts_loss_once: bool,
    /// `[group.background]`, or its defaults.
    pub background: Background,
    /// Slots of the nodes that serve a group of an array's drives; all of them if `None`. Default: all.
    pub nodes: Option<Vec<u8>>,
}

/// When a host's write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it is in the journals of the drives.
    Journal,
    /// When it is in memory; a Flush brings it to the drives.
    Ram,
}

/// `[group.background]`: how fast rebuild, synchronisation and scrub may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Background {
    /// Most MiB of user data a second; `None`, written as 0, for as fast as the drives go. Default: 0.
    pub rate_mib_s: Option<NonZeroU32>,
    /// The hosts' p99 latency in µs above which the work slows down; `None`, written as 0, for never. Default: 0.
    pub latency_target_us: Option<NonZeroU32>,
}

/// How a group protects its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Striping without redundancy over one drive or more: the loss of any drive loses data.
    Raid0,
    /// Every drive holds a copy of everything: survives the loss of all but one.
    Raid1,
    /// Striping over pairs of copies: survives the loss of any drive, and of more if they are no neighbours.
    Raid10,
    /// One rotating check strip in each row: survives the loss of one drive.
    Raid5,
    /// Two rotating check strips in each row: survives the loss of two drives.
    Raid6,
    /// Three rotating check strips in each row: survives the loss of three drives.
    RaidTp,
}

/// `[[vdisk]]`: a virtual disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vdisk {
    /// Unique among virtual disks; 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Index into [`Config::groups`].
    pub group: usize,
    /// How large it is made.
    pub size: VdiskSize,
    /// Namespace identifier, `1..=1024`, unique among virtual disks. Default: the group's choice at creation.
    pub nsid: Option<u32>,
    /// Slots of the nodes that serve it when it is made, each once, in order. Default: all nodes.
    pub ports: Option<Vec<u8>>,
    /// When a host's write is done, where that is acknowledged from the memory of several nodes, when it is made. Default: synchronous.
    pub replication: Replication,
}

/// How far other nodes' copies are when a host hears that its write is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replication {
    /// All partners keep it.
    #[default]
    Sync,
    /// It was sent to all partners.
    PseudoSync,
    /// It is sent next.
    Async,
}

/// How large a virtual disk is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VdiskSize {
    /// This many MiB, at least 1.
    Mib(u64),
    /// What the other virtual disks of the group leave; at most one in a group.
    Rest,
}

/// Checks a whole file.
///
/// `text` is what the file holds, `file` its path as messages shall name it; relative paths in the file
/// are resolved against the folder of `file`. Returns the values, or every problem in the order of the
/// file, at most [`PROBLEMS_MAX`] and one that counts the others. Syntax errors are reported alone,
/// because what follows one cannot be judged. Never panics, whatever `text` is.
pub fn parse(text: &str, file: &Path) -> Result<Config, Vec<Problem>> {
    read::config(text, file)
}

impl Config {
    /// A complete file with every key and its explanation, which [`parse`] accepts.
    pub fn example() -> &'static str {
        include_str!("../examples/node.toml")
    }

    /// The same for a shelf.
    pub fn shelf_example() -> &'static str {
        include_str!("../examples/shelf.toml")
    }

    /// The same for a node whose drives are those of two shelves.
    pub fn fabric_example() -> &'static str {
        include_str!("../examples/fabric.toml")
    }
}

impl Node {
    /// A node with this name and defaults.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            rpc_socket: None,
            log: "info".to_owned(),
        }
    }

    /// The management socket: the file's, or `braid/<name>.sock` in the runtime folder (the environment's
    /// `XDG_RUNTIME_DIR`), or `/tmp/braid-<uid>/<name>.sock` without one.
    pub fn rpc_socket_or_default(&self, runtime_folder: Option<&Path>, uid: u32) -> PathBuf {
        if let Some(socket) = &self.rpc_socket {
            return socket.clone();
        }
        let folder = match runtime_folder {
            Some(folder) => folder.join("braid"),
            None => PathBuf::from(format!("/tmp/braid-{uid}")),
        };
        folder.join(format!("{}.sock", self.name))
    }
}

impl Reactor {
    /// How many cores to start on a machine with this many CPUs.
    pub fn core_count(&self, cpus_available: usize) -> u16 {
        self.cores.unwrap_or(if cpus_available < 2 { 1 } else { 2 })
    }
}

impl Default for Reactor {
    fn default() -> Self {
        Self {
            cores: None,
            cpus: None,
            poll: Poll::Adaptive { spin_us: 50 },
            memory_mib: 128,
            read_cache_mib: 32,
        }
    }
}

impl Subsystem {
    /// A subsystem with this NQN and defaults.
    pub fn named(nqn: Nqn) -> Self {
        Self {
            serial: default_serial(&nqn),
            nqn,
            model: "Braid".to_owned(),
            firmware: env!("CARGO_PKG_VERSION").chars().take(8).collect(),
            oui: [0x02, 0x42, 0x52],
            hosts: Hosts::Any,
            max_transfer_kib: 256,
            in_capsule_kib: 8,
            io_queues_max: 16,
            queue_entries_max: 128,
            controllers_max: 256,
            c2h_success: C2hSuccess::WithoutFlowControl,
            header_digest: true,
            data_digest: true,
        }
    }
}

impl Level {
    /// Every level, the default first.
    pub const ALL: [Self; 6] = [
        Self::Raid5,
        Self::Raid6,
        Self::RaidTp,
        Self::Raid1,
        Self::Raid10,
        Self::Raid0,
    ];

    /// Fewest drives that make a group.
    pub const fn drives_min(self) -> usize {
        match self {
            Self::Raid0 => 1,
            Self::Raid1 => 2,
            Self::Raid10 | Self::Raid5 => 3,
            Self::Raid6 => 4,
            Self::RaidTp => 5,
        }
    }

    /// Drives of a group of `drives` that may be lost without losing data, whichever they are.
    pub const fn drives_lost_max(self, drives: usize) -> usize {
        match self {
            Self::Raid0 => 0,
            Self::Raid1 => drives.saturating_sub(1),
            Self::Raid10 | Self::Raid5 => 1,
            Self::Raid6 => 2,
            Self::RaidTp => 3,
        }
    }

    /// What a group of `drives` drives of this level holds of its users' data, in halves of a drive.
    pub const fn data_half_drives(self, drives: usize) -> usize {
        match self {
            Self::Raid1 => 2,
            Self::Raid10 => drives,
            Self::Raid0 | Self::Raid5 | Self::Raid6 | Self::RaidTp => {
                2 * drives.saturating_sub(self.drives_lost_max(drives))
            }
        }
    }

    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raid0 => "raid0",
            Self::Raid1 => "raid1",
            Self::Raid10 => "raid10",
            Self::Raid5 => "raid5",
            Self::Raid6 => "raid6",
            Self::RaidTp => "raidtp",
        }
    }
}

/// A serial number that depends on the NQN only, so that hosts see the same one after each start.
///
/// The hash is FNV-1a with 64 bits: it has to differ between subsystems, not to resist attackers.
fn default_serial(nqn: &Nqn) -> String {
    let hash = nqn
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("BR{hash:016X}")
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::testing::{GROUP, LEAST, bad, good};
    use super::*;

    #[test]
    fn the_example_is_accepted_and_says_what_it_shows() {
        let config = good(Config::example());
        assert_eq!(config.node, Node::named("node-a"));
        assert_eq!(config.reactor.cores, Some(2));
        let nqn = Nqn::parse("nqn.2026-01.io.braid:node-a").unwrap();
        assert_eq!(
            config.subsystem,
            Subsystem::named(nqn),
            "the example shows the defaults"
        );
        assert_eq!(config.listeners.len(), 2);
        assert!(config.listeners[1].discovery_only);
        assert_eq!(config.drives.len(), 3);
        let backing = Backing::Path {
            path: "/etc/braid/d0.img".into(),
            size_mib: Some(256),
        };
        assert_eq!(config.drives[0].backing, backing);
        assert_eq!(config.groups[0].drives, [0, 1, 2]);
        assert!(config.groups[0].create && !config.groups[0].accept_dirty_degraded);
        assert_eq!(
            config.vdisks,
            [Vdisk {
                name: "v0".to_owned(),
                group: 0,
                size: VdiskSize::Mib(128),
                nsid: Some(1),
                ports: None,
                replication: Replication::Sync,
            }]
        );
        assert_eq!(config.notes, [], "an example gives no reason to wonder");
    }

    /// A line of the example that is a comment of the form `# key = value` is accepted in its place too.
    #[test]
    fn the_examples_commented_keys_are_accepted() {
        let is_key = |line: &str| {
            let bare = line.strip_prefix("# ").unwrap_or_default();
            bare.starts_with("[[")
                || bare.split_once(" = ").is_some_and(|(key, _)| {
                    !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                })
        };
        let lines: Vec<&str> = Config::example().lines().collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|i| is_key(lines[*i])).collect();
        assert!(keys.len() >= 11, "the example explains options: {keys:?}");
        let uncommented = |chosen: &dyn Fn(usize) -> bool| -> String {
            let line = |i: usize| if chosen(i) { &lines[i][2..] } else { lines[i] };
            (0..lines.len()).map(|i| format!("{}\n", line(i))).collect()
        };
        // `hosts` stands there twice, so its line replaces the other one.
        let hosts = keys
            .iter()
            .copied()
            .find(|i| lines[*i].starts_with("# hosts"))
            .unwrap();
        let all = uncommented(&|i| keys.contains(&i) && i != hosts);
        let config = good(&all);
        assert_eq!(config.drives.len(), 4);
        assert_eq!(config.reactor.cpus, Some(vec![0, 1]));
        let listed = uncommented(&|i| i == hosts).replace("hosts = \"any\"\n", "");
        assert!(matches!(good(&listed).subsystem.hosts, Hosts::List(list) if list.len() == 1));
    }

    #[test]
    fn the_least_file_has_the_documented_defaults() {
        let config = good(LEAST);
        assert_eq!(
            config.node,
            Node {
                name: "braid".to_owned(),
                rpc_socket: None,
                log: "info".to_owned()
            }
        );
        let poll = Poll::Adaptive { spin_us: 50 };
        assert_eq!(
            config.reactor,
            Reactor {
                cores: None,
                cpus: None,
                poll,
                memory_mib: 128,
                read_cache_mib: 32
            }
        );
        assert_eq!(config.subsystem.nqn.as_str(), "nqn.2026-01.io.braid:braid");
        assert_eq!(config.health, Health::default());
        assert!(config.drives.is_empty() && config.groups.is_empty() && config.vdisks.is_empty());
    }

    #[test]
    fn defaults_of_a_group_and_a_memory_drive() {
        let config = good(GROUP);
        let memory = MemoryDrive {
            size_mib: 64,
            delay_us: 0,
            bandwidth_mib_s: None,
            error_every: None,
        };
        assert_eq!(config.drives[0].backing, Backing::Memory(memory));
        let group = &config.groups[0];
        assert_eq!(
            (group.level, group.strip_kib, group.block_bytes),
            (Level::Raid5, 64, 4096)
        );
        assert!(
            !group.create && !group.accept_dirty_degraded,
            "nothing dangerous by default"
        );
    }

    #[test]
    fn core_count_follows_the_machine_unless_told() {
        let mut reactor = Reactor::default();
        assert_eq!([1, 2, 64].map(|cpus| reactor.core_count(cpus)), [1, 2, 2]);
        reactor.cores = Some(5);
        assert_eq!(reactor.core_count(1), 5);
    }

    #[test]
    fn rpc_socket_default_depends_on_the_environment() {
        let mut node = Node::named("n");
        let run = Path::new("/run/user/7");
        assert_eq!(
            node.rpc_socket_or_default(Some(run), 7),
            Path::new("/run/user/7/braid/n.sock")
        );
        assert_eq!(
            node.rpc_socket_or_default(None, 7),
            Path::new("/tmp/braid-7/n.sock")
        );
        node.rpc_socket = Some("/x".into());
        assert_eq!(node.rpc_socket_or_default(Some(run), 7), Path::new("/x"));
    }

    #[test]
    fn default_serial_is_stable_and_differs_by_nqn() {
        let serial = |name: &str| default_serial(&Nqn::parse(name).unwrap());
        assert_eq!(serial("nqn.2026-01.io.braid:a"), serial("nqn.2026-01.io.braid:a"));
        assert_ne!(serial("nqn.2026-01.io.braid:a"), serial("nqn.2026-01.io.braid:b"));
        assert_eq!(serial("nqn.2026-01.io.braid:a").len(), 18);
    }

    #[test]
    fn all_problems_come_at_once_in_the_files_order() {
        let text = "[node]\nname = 7\nlgo = \"info\"\n[reactor]\ncores = 0\npoll = \"bussy\"\n\
                    [[drive]]\nname = \"d0\"\n[[group]]\nname = \"g\"\ndrives = [\"dO\"]\n";
        let lines: Vec<usize> = bad(text).iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 2, 3, 5, 6, 7, 11, 11], "{:#?}", bad(text));
    }

    #[test]
    fn syntax_errors_are_reported_with_their_places() {
        let problems = bad("[node]\nname = \n[reactor\n");
        assert!(problems.len() >= 2 && problems[0].line == 2, "{problems:#?}");
        assert!(problems[0].what.starts_with("this is not TOML"));
    }

    #[test]
    fn a_key_given_twice_is_reported_where_it_comes_again() {
        let (line, column, message) = testing::only("[node]\nname = \"a\"\nname = \"b\"\n");
        assert_eq!((line, column), (3, 1), "{message}");
        assert!(message.contains("duplicate"), "{message}");
    }

    #[test]
    fn a_file_that_is_too_long_is_not_even_parsed() {
        let (_, _, message) = testing::only(&" ".repeat(TEXT_BYTES_MAX + 1));
        assert!(message.contains("1048576"), "{message}");
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
        for open in ["[", "{a=", "a."] {
            bad(&format!("x = {}", open.repeat(100_000)));
            bad(&open.repeat(100_000));
        }
    }

    #[test]
    fn a_hundred_thousand_unknown_keys_are_counted_not_worded() {
        let text: String = (0..100_000).map(|i| format!("k{i}=1\n")).collect();
        let problems = bad(&text);
        assert_eq!(problems.len(), PROBLEMS_MAX + 1);
        assert!(
            problems[PROBLEMS_MAX].what.contains("99901 more"),
            "{}",
            problems[PROBLEMS_MAX].what
        );
    }

    /// Goal: no text makes the parser panic or point outside the file.
    /// Method: the example with seeded cuts, doublings and changed bytes.
    #[test]
    fn mutated_examples_never_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
        };
        let tokens = [
            "[[",
            "]]",
            "\"",
            "=",
            "\n",
            "-",
            "0x",
            "9".repeat(30).as_str(),
            "ü",
            "{",
            "#",
            "'''",
        ]
        .map(str::to_owned);
        let mut refused = 0;
        for _ in 0..3000 {
            let mut bytes = Config::example().as_bytes().to_vec();
            for _ in 0..=random(4) {
                let (at, length) = (random(bytes.len()), random(40));
                let end = (at + length).min(bytes.len());
                match random(3) {
                    0 => drop(bytes.drain(at..end)),
                    1 => drop(bytes.splice(at..at, tokens[random(tokens.len())].bytes())),
                    _ => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            if let Err(problems) = parse(&text, Path::new("node.toml")) {
                refused += 1;
                assert!(!problems.is_empty());
                let lines = text.split('\n').count();
                assert!(
                    problems
                        .iter()
                        .all(|p| (1..=lines).contains(&p.line) && p.column >= 1)
                );
            }
        }
        assert!(refused > 500, "the mutations bite: {refused}");
    }
}
