//! What the command line may contain, as clap types: the doc comments here are the help texts.
//!
//! Values are checked here, so that a command gets only what can work. Decides nothing.

mod array;
mod help;
mod port;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

pub use array::{ArrayCommand, ArrayImport, ArrayList, NodeCommand};
use clap::{Args, Parser, Subcommand, ValueEnum};
use nvme::nqn::Nqn;
pub use port::PortCommand;

#[cfg(feature = "sim")]
use crate::amf::geometry::Level;
#[cfg(feature = "sim")]
use crate::sim::Scenario;
use crate::target::manage::{
    BLOCK_BYTES_DEFAULT, Durability, FaultKind, LEVEL_DEFAULT, Replication, STRIP_KIB_DEFAULT, Size,
};

/// Port of NVMe over TCP when an address names none.
///
/// Source: NVM Express TCP Transport Specification 1.0, section 3.1 (4420 is IANA's `nvme`).
const PORT_DEFAULT: u16 = 4420;

/// An NVMe-oF target whose nodes share RAID redundancy groups
#[derive(Debug, Parser)]
#[command(name = "braid", version, propagate_version = true, max_term_width = 110, after_help = help::TOP)]
pub struct Cli {
    /// Least severe log lines to print: error, warn, info, debug, trace, or a filter such as braid=debug [default: BRAID_LOG, then the configuration]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: serve the drives of a configuration file to hosts
    #[command(after_help = help::NODE, args_conflicts_with_subcommands = true)]
    Node(NodeArgs),
    /// Run a shelf, which exports its drives raw to the nodes that share them; or show one that runs
    #[command(after_help = help::SHELF, args_conflicts_with_subcommands = true)]
    Shelf(ShelfOptions),
    /// Make, show, leave and join the array of drives that a node shares with others
    #[command(after_help = help::ARRAY)]
    Array {
        /// What to do with it
        #[command(subcommand)]
        command: ArrayCommand,
    },
    /// Show everything on this machine in a minute: no configuration, no privileges
    #[command(after_help = help::DEMO)]
    Demo(DemoOptions),
    /// Measure the latency of an NVMe/TCP target
    #[command(after_help = help::PERF)]
    Perf(Box<PerfOptions>),
    /// Simulate whole arrays from seeds, with faults and power cuts, and judge what hosts are told
    #[cfg(feature = "sim")]
    #[command(after_help = help::SIM)]
    Sim(SimOptions),
    /// Check a configuration file and say what it would run
    #[command(after_help = help::CHECK_CONFIG)]
    CheckConfig(CheckConfig),
    /// Print an example of a configuration file
    #[command(after_help = help::CONFIG)]
    Config {
        /// What to print
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Check whether this machine is fit to run a node
    #[command(after_help = help::PREFLIGHT)]
    Preflight(Preflight),
    /// Show what a running node is and how it is
    #[command(after_help = help::STATUS)]
    Status(Client),
    /// List, show, create, scrub and throttle redundancy groups
    #[command(after_help = help::GROUP)]
    Group {
        /// What to do with them
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// List, show, create and delete virtual disks
    #[command(after_help = help::VDISK)]
    Vdisk {
        /// What to do with them
        #[command(subcommand)]
        command: VdiskCommand,
    },
    /// List, add and delete the ports of virtual disks at the nodes of an array
    #[command(after_help = help::PORT)]
    Port {
        /// What to do with them
        #[command(subcommand)]
        command: PortCommand,
    },
    /// List, show, fail and replace drives, add and remove spares
    #[command(after_help = help::DRIVE)]
    Drive {
        /// What to do with them
        #[command(subcommand)]
        command: DriveCommand,
    },
    /// List the controllers that hosts have open
    #[command(after_help = help::HOST)]
    Host {
        /// What to do with them
        #[command(subcommand)]
        command: HostCommand,
    },
    /// Show the latency of each stage on each core of a running node
    #[command(after_help = help::LATENCY)]
    Latency(Client),
    /// Show the counters of each core of a running node
    #[command(after_help = help::COUNTERS)]
    Counters(Client),
    /// Stop a running node cleanly
    #[command(after_help = help::SHUTDOWN)]
    Shutdown(Client),
}

/// Options of `braid node`.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// What to do instead of running one
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
    /// How to run it
    #[command(flatten)]
    pub options: Option<NodeOptions>,
}

/// How to run a node.
#[derive(Clone, Debug, Args)]
pub struct NodeOptions {
    /// Configuration file (TOML); see `braid config example`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Stop when standard input ends, so that the node does not outlive the program that started it
    #[arg(long)]
    pub stop_at_eof: bool,
    /// Serve this group of durability ram although writes that it had acknowledged from memory are lost; once, and from then on without them
    #[arg(long, value_name = "GROUP")]
    pub accept_loss: Vec<String>,
    /// Take the drives of shelves away from whoever has reserved them: this node before it was killed, or one that is gone for good
    #[arg(long)]
    pub take_over: bool,
}

/// Options of `braid shelf`.
#[derive(Clone, Debug, Args)]
pub struct ShelfOptions {
    /// What to do instead of running one
    #[command(subcommand)]
    pub command: Option<ShelfCommand>,
    /// Configuration file (TOML); see `braid config example --shelf`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Stop when standard input ends, so that the shelf does not outlive the program that started it
    #[arg(long)]
    pub stop_at_eof: bool,
}

/// What to do with a shelf that runs.
#[derive(Clone, Debug, Subcommand)]
pub enum ShelfCommand {
    /// Show what a running shelf exports and who has reserved it
    #[command(after_help = help::SHELF)]
    Show(Client),
    /// Try out whether nodes can share a namespace of a target: reservations that last, and fences after which nothing lands
    #[command(after_help = help::SHELF_TEST)]
    Test(ShelfTest),
}

/// Options of `braid shelf test`.
#[derive(Clone, Debug, Args)]
pub struct ShelfTest {
    /// Addresses of the target: host or host:port; the later ones are tried when the first does not answer
    #[arg(required = true, num_args = 1.., value_parser = parse_address, value_name = "ADDRESS")]
    pub addresses: Vec<SocketAddr>,
    /// NVMe Qualified Name of the subsystem
    #[arg(long, value_parser = parse_nqn)]
    pub nqn: Nqn,
    /// Namespace identifier
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=0xffff_fffe))]
    pub nsid: u32,
    /// Who to be for the target, if it does not let in everybody
    #[arg(long, value_parser = parse_nqn, default_value = "nqn.2026-01.io.braid:admission")]
    pub host_nqn: Nqn,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `braid check-config`.
#[derive(Clone, Debug, Args)]
pub struct CheckConfig {
    /// Configuration file (TOML)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `braid config` prints.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a complete example with comments
    #[command(after_help = help::CONFIG)]
    Example {
        /// The file of a shelf, not of a node
        #[arg(long)]
        shelf: bool,
        /// The file of a node whose drives are on shelves
        #[arg(long, conflicts_with = "shelf")]
        fabric: bool,
        /// The file of a node that shares drives of a shelf with others
        #[arg(long, conflicts_with_all = ["shelf", "fabric"])]
        array: bool,
        /// How many nodes the array has
        #[arg(long, default_value_t = 3, requires = "array", value_parser = clap::value_parser!(u8).range(1..=8))]
        nodes: u8,
        /// Which of them the file is for, from 0
        #[arg(long, default_value_t = 0, requires = "array", value_parser = clap::value_parser!(u8).range(0..8))]
        slot: u8,
    },
}

/// Options of `braid preflight`.
#[derive(Clone, Debug, Args)]
pub struct Preflight {
    /// Also check what this configuration file needs: drives, ports, memory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How a client command reaches the node, and how it prints.
#[derive(Clone, Debug, Args)]
pub struct Client {
    /// Socket of the node; without it, the only node of this user that answers in the default folder [default: BRAID_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print the result of the JSON-RPC call exactly as the node gave it
    #[arg(long)]
    pub json: bool,
}

/// What to do with redundancy groups.
#[derive(Clone, Debug, Subcommand)]
pub enum GroupCommand {
    /// List all groups
    List(Client),
    /// Show one group with its members
    Show {
        /// Name of the group
        group: String,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Create a group from free drives
    #[command(after_help = help::GROUP_CREATE)]
    Create(GroupCreateArgs),
    /// Give a group more drives; its data is laid out anew over all of them while hosts go on
    #[command(after_help = help::GROUP_EXPAND)]
    Expand {
        /// Name of the group
        group: String,
        /// A drive that it gets; name as many as it shall get
        #[arg(long = "drive", value_name = "DRIVE", required = true)]
        drives: Vec<String>,
        /// Take the drives whatever is on them: it is destroyed
        #[arg(long)]
        force: bool,
        /// Wait for the end with a progress bar
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// What goes on beside hosts
    #[command(flatten)]
    Background(BackgroundCommand),
}

/// What to do with the background work of a group.
#[derive(Clone, Debug, Subcommand)]
pub enum BackgroundCommand {
    /// Compare all data of a group with its check data or copies, and repair what does not fit
    #[command(after_help = help::GROUP_SCRUB)]
    Scrub {
        /// Name of the group
        group: String,
        /// Repair what is found: the default
        #[arg(long, conflicts_with = "check_only")]
        repair: bool,
        /// Only count and report what is found
        #[arg(long)]
        check_only: bool,
        /// End the scrub that is going on
        #[arg(long, conflicts_with_all = ["repair", "check_only", "wait"])]
        stop: bool,
        /// Wait for the end with a progress bar; fails if something was found that is not repaired
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Show how far rebuild, synchronisation, expansion or scrub of a group is
    #[command(after_help = help::GROUP_REBUILD_STATUS)]
    RebuildStatus {
        /// Name of the group
        group: String,
        /// Wait for the end with a progress bar
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Begin no further row of background work
    Pause {
        /// Name of the group
        group: String,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Go on with background work
    Resume {
        /// Name of the group
        group: String,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Say how fast background work may go until the node stops; the configuration says it for good
    #[command(after_help = help::GROUP_SET_RATE)]
    SetRate {
        /// Name of the group
        group: String,
        /// Most MiB of user data a second; 0 for as fast as the drives go
        #[arg(long, value_name = "MIB", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(config::RATE_MIB_S_MAX)))]
        mib_s: u32,
        /// Slow down while the hosts' p99 latency in the array is above so many microseconds; 0 for never
        #[arg(long, value_name = "US", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(config::LATENCY_TARGET_US_MAX)))]
        latency_target_us: u32,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
}

/// Options of `braid group create`.
#[derive(Clone, Debug, Args)]
pub struct GroupCreateArgs {
    /// Name of the new group
    pub name: String,
    /// Drives, in the order of their member indexes
    #[arg(required = true, value_name = "DRIVE")]
    pub drives: Vec<String>,
    /// RAID level: raid5, raid6, raidtp (survive the loss of one, two, three drives), raid1 (of all but one), raid10 (of one
    /// of each pair), raid0 (of none, on one drive or more)
    #[arg(long, default_value = LEVEL_DEFAULT)]
    pub level: String,
    /// Size of a strip, a power of two, such as 64KiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value_t = u64::from(STRIP_KIB_DEFAULT) * 1024)]
    pub strip: u64,
    /// Logical block size in bytes, 512 or 4096
    #[arg(long, value_name = "BYTES", default_value_t = BLOCK_BYTES_DEFAULT)]
    pub block_bytes: u32,
    /// When a write counts as done: journal (on the drives) or ram (in memory; what is not flushed is lost with the power) [default: journal]
    #[arg(long, value_parser = parse_durability)]
    pub durability: Option<Durability>,
    /// MiB of the journal on each drive [default: what suits the drives]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub journal_mib: Option<u32>,
    /// Take drives that hold something already; what they hold is lost
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the command's help text"
    )]
    pub client: Client,
}

/// What to do with virtual disks.
#[derive(Clone, Debug, Subcommand)]
pub enum VdiskCommand {
    /// List all virtual disks
    List(Client),
    /// Show one virtual disk
    Show {
        /// Name of the virtual disk
        vdisk: String,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Create a virtual disk and show it to the hosts
    #[command(after_help = help::VDISK_CREATE)]
    Create {
        /// Name of the new virtual disk
        name: String,
        /// Group that holds it
        #[arg(long)]
        group: String,
        /// Its size, such as 128MiB, 1GiB, 4096 (bytes), or all
        #[arg(long, value_name = "SIZE", value_parser = parse_vdisk_size)]
        size: Size,
        /// Namespace identifier that hosts see [default: the lowest free one]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=0xffff_fffe))]
        nsid: Option<u32>,
        /// When its writes are done, in a group that acknowledges from the memory of several nodes [default: sync]
        #[arg(long, value_name = "WHEN")]
        replication: Option<Replication>,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Have writes to a virtual disk done at another time, in a group that acknowledges from the memory of several nodes
    #[command(after_help = help::VDISK_REPLICATE)]
    Replicate {
        /// Name of the virtual disk, or its namespace number
        vdisk: String,
        /// When its writes are done from now on
        replication: Replication,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Make a virtual disk larger; hosts see it at once
    #[command(after_help = help::VDISK_RESIZE)]
    Resize {
        /// Name of the virtual disk, or its namespace number
        vdisk: String,
        /// Its size from now on, such as 2GiB, or all that is free behind it
        #[arg(long, value_name = "SIZE", value_parser = parse_vdisk_size)]
        size: Size,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Delete a virtual disk; its data is lost
    #[command(after_help = help::VDISK_DELETE)]
    Delete {
        /// Name of the virtual disk
        vdisk: String,
        /// Delete it although hosts are connected
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
}

/// What to do with drives.
#[derive(Clone, Debug, Subcommand)]
pub enum DriveCommand {
    /// List all configured drives
    List(Client),
    /// Show one drive
    Show {
        /// Name of the drive
        drive: String,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Have a drive err, hang or be slow, for tests; the configuration has to allow it
    #[command(after_help = help::DRIVE_INJECT)]
    Inject {
        /// Name of the drive
        #[arg(long)]
        drive: String,
        /// Fault: media, slow, hang, error, or clear to end all
        #[arg(long, value_parser = parse_fault)]
        fault: FaultKind,
        /// For media: first byte that cannot be read
        #[arg(long, value_name = "BYTES", required_if_eq("fault", "media"))]
        at: Option<u64>,
        /// For media: how many of the drive's logical blocks [default: 1]
        #[arg(long, value_name = "N")]
        blocks: Option<u64>,
        /// For slow: by how many microseconds every command takes longer
        #[arg(long, value_name = "N", required_if_eq("fault", "slow"))]
        us: Option<u64>,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Put a drive into the place of a lost member and rebuild it
    #[command(after_help = help::DRIVE_REPLACE)]
    Replace {
        /// Name of the group
        group: String,
        /// Index of the lost member, as `braid group show` has it
        member: u8,
        /// Drive that takes its place: a blank one, a spare of the group, or the member's own
        drive: String,
        /// Take a drive that holds something already; what it holds is lost
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Give a group a drive that takes the place of a member when one fails
    #[command(name = "add-spare", after_help = help::DRIVE_SPARE)]
    AddSpare {
        /// Name of the group
        group: String,
        /// Name of the drive
        drive: String,
        /// Take a drive that holds something already; what it holds is lost
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Take a spare drive away from its group and wipe it
    #[command(name = "remove-spare", after_help = help::DRIVE_SPARE)]
    RemoveSpare {
        /// Name of the group
        group: String,
        /// Name of the spare drive
        drive: String,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Take a member out of its group as if it had broken
    #[command(after_help = help::DRIVE_FAIL)]
    Fail {
        /// Name of the group
        group: String,
        /// Name of the member drive
        drive: String,
        /// Fail it although the group then loses data
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
}

/// What to do with hosts.
#[derive(Clone, Debug, Subcommand)]
pub enum HostCommand {
    /// List the controllers that hosts have open
    List(Client),
}

/// Options of `braid demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoOptions {
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
    /// Nodes that share the group; one node alone has drives of its own, replaces the failed one and scrubs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub nodes: u8,
    /// How long to keep the load up, in seconds; what takes its own time, such as a restart, comes on top
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Size of the virtual disk, in MiB
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub megabytes: u32,
    /// Cores that run a reactor; two nodes have half of them each, at least one
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub cores: u16,
    /// Keep the drive files and the configuration afterwards, and say where they are
    #[arg(long)]
    pub keep: bool,
}

/// Which blocks `braid perf` addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// Uniformly random, aligned to the block size
    Random,
    /// One after the other
    Sequential,
}

/// Options of `braid sim`.
#[cfg(feature = "sim")]
#[derive(Clone, Debug, Args)]
pub struct SimOptions {
    /// First seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How many seeds to try
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: u64,
    /// Try seeds for so many minutes instead
    #[arg(long, conflicts_with = "runs", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub minutes: Option<u64>,
    /// Levels to choose from, such as raid5,raid6
    #[arg(long, value_delimiter = ',', value_parser = parse_level, default_value = "raid0,raid1,raid10,raid5,raid6,raidtp")]
    pub levels: Vec<Level>,
    /// Run this scenario only, as a failed run printed it
    #[arg(long, group = "traced", conflicts_with_all = ["seed", "runs", "minutes", "levels"])]
    pub scenario: Option<Scenario>,
    /// Print every event of the scenario, or with --nodes of the first seed, which is then the only one
    #[arg(long, requires = "traced", conflicts_with = "json")]
    pub trace: bool,
    /// Cut short lives of groups off after every answer of a drive, open them from every state that a start can tell
    /// apart, and print a table
    #[arg(long, conflicts_with_all = ["seed", "runs", "minutes", "scenario", "trace"])]
    pub sweep: bool,
    /// Try seeds of several nodes that share drives: who may write, while links are cut, nodes killed and paused, and drives lost
    #[arg(long, conflicts_with_all = ["levels", "scenario", "sweep"])]
    pub membership: bool,
    /// Try seeds of so many whole nodes, 2 to 8 or any, that serve one group together: hosts use the same blocks through all of them, while nodes
    /// are killed, paused and left out, links lose what they carry, drives fail and epochs begin at any moment
    #[arg(long, value_name = "N", group = "traced", conflicts_with_all = ["levels", "scenario", "sweep", "membership"])]
    pub nodes: Option<NodeCount>,
    /// With --nodes: writes are acknowledged once several nodes have them in memory; nodes die one at a time, or all of a replication group at once, as soon as there are copies of everything again
    #[arg(long, requires = "nodes")]
    pub in_memory: bool,
    /// With --sweep: only groups of so many drives
    #[arg(long, requires = "sweep", value_parser = clap::value_parser!(u8).range(1..=6))]
    pub drives: Option<u8>,
    /// With --sweep: cut some of the starts off once more
    #[arg(long, requires = "sweep")]
    pub twice: bool,
    /// With --sweep: go through so many states at each point one by one, a sample where there are more
    #[arg(long, requires = "sweep", value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    pub states: Option<u32>,
    /// Print the summary as JSON
    #[arg(long, conflicts_with = "scenario")]
    pub json: bool,
}

/// How many nodes are simulated: so many, or as the seed says.
#[cfg(feature = "sim")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCount(pub Option<u16>);

#[cfg(feature = "sim")]
impl std::str::FromStr for NodeCount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "any" {
            return Ok(Self(None));
        }
        let count = text.parse().ok().filter(|count| (2..=8).contains(count));
        count.map(|count| Self(Some(count))).ok_or("2 to 8 nodes, or any")
    }
}

#[cfg(feature = "sim")]
impl std::fmt::Display for NodeCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(count) => write!(f, "{count}"),
            None => f.write_str("any"),
        }
    }
}

#[cfg(feature = "sim")]
fn parse_level(text: &str) -> Result<Level, String> {
    let known = || Level::ALL.map(Level::name).join(", ");
    Level::from_name(text).ok_or_else(|| format!("levels are {}", known()))
}

/// Options of `braid perf`.
#[derive(Clone, Debug, Args)]
pub struct PerfOptions {
    /// Addresses of the target, host or host:port: of several, by which the same namespace is reached, one is used at a time
    #[arg(value_parser = parse_address, value_name = "ADDRESS", required = true, num_args = 1..=8)]
    pub addresses: Vec<SocketAddr>,
    /// NVMe Qualified Name of the subsystem
    #[arg(long, value_parser = parse_nqn)]
    pub nqn: Nqn,
    /// Namespace identifier
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=0xffff_fffe))]
    pub nsid: u32,
    /// Commands in flight on each queue
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub depth: u16,
    /// Size of each command: a multiple of the namespace's blocks, such as 4KiB
    #[arg(long = "block-size", value_name = "SIZE", default_value = "4KiB", value_parser = parse_block_bytes)]
    pub block_bytes: u32,
    /// Share of reads in percent; the rest are writes, which DESTROY what the namespace holds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read_percent: u8,
    /// How long to measure, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// I/O queues, spread over the cores
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub queues: u16,
    /// Cores of this machine that send
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub cores: u16,
    /// Which blocks to address: random or sequential
    #[arg(long, value_enum, default_value_t = Pattern::Random, hide_possible_values = true)]
    pub pattern: Pattern,
    /// Force unit access: writes are durable on the target before they end
    #[arg(long)]
    pub fua: bool,
    /// Write a pattern and check every block that is read; needs writes and DESTROYS what the namespace holds
    #[arg(long)]
    pub verify: bool,
    /// Commands per second over all queues, sent whether or not earlier ones are back (open loop)
    #[arg(long, value_name = "IOPS", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Digests of the PDU headers
    #[arg(long)]
    pub header_digest: bool,
    /// Digests of the PDU data
    #[arg(long)]
    pub data_digest: bool,
    /// NVMe Qualified Name of this host [default: made from this machine's id]
    #[arg(long, value_parser = parse_nqn)]
    pub host_nqn: Option<Nqn>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Also write a page with the latency curve
    #[arg(long, value_name = "FILE")]
    pub report_html: Option<PathBuf>,
}

/// Reads a size in bytes: `4096`, `4KiB`, `128MiB`, `1GiB`, `2TiB`, also with one letter (`128M`), all powers of 1024.
///
/// Errs on anything else: `MB` and the like are refused because they mean 1000 to some and 1024 to others.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        "kb" | "mb" | "gb" | "tb" => {
            return Err(format!("\"{unit}\" is ambiguous; write KiB, MiB, GiB or TiB"));
        }
        _ => return Err("expected a size such as 4096, 64KiB, 128MiB or 1GiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| {
        if number.is_empty() {
            "expected a size such as 4096, 64KiB, 128MiB or 1GiB".to_owned()
        } else {
            format!("{text} is more than 16 EiB")
        }
    })?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is more than 16 EiB"))
}

/// Reads the size of a virtual disk: a size above zero, or `all`.
pub fn parse_vdisk_size(text: &str) -> Result<Size, String> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(Size::All);
    }
    match parse_size(text)? {
        0 => Err("a virtual disk needs at least one block".to_owned()),
        bytes => Ok(Size::Bytes(bytes)),
    }
}

/// Most bytes that one command of `braid perf` moves: two megabytes, above any target's MDTS in practice.
const PERF_BLOCK_BYTES_MAX: u32 = 2 << 20;

fn parse_block_bytes(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    match u32::try_from(bytes) {
        Ok(bytes) if bytes.is_multiple_of(512) && (512..=PERF_BLOCK_BYTES_MAX).contains(&bytes) => Ok(bytes),
        Ok(_) | Err(_) => Err("expected a multiple of 512 bytes, at most 2MiB".to_owned()),
    }
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    let found = Durability::CHOICES
        .into_iter()
        .find(|choice| choice.name() == text);
    found.ok_or_else(|| {
        format!(
            "choose one of {}",
            Durability::CHOICES.map(Durability::name).join(", ")
        )
    })
}

fn parse_fault(text: &str) -> Result<FaultKind, String> {
    let found = FaultKind::ALL.into_iter().find(|fault| fault.name() == text);
    found.ok_or_else(|| {
        format!(
            "the faults are {}",
            FaultKind::ALL.map(FaultKind::name).join(", ")
        )
    })
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && (0.1..=1e9).contains(&rate) => Ok(rate),
        Ok(_) | Err(_) => Err("expected a number of commands per second from 0.1 to 1e9".to_owned()),
    }
}

fn parse_nqn(text: &str) -> Result<Nqn, String> {
    Nqn::parse(text).map_err(|error| error.to_string())
}

/// Resolves `host`, `host:port`, `address:port` or `[v6]:port`; the port is 4420 if there is none.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Ok(SocketAddr::new(ip, PORT_DEFAULT));
    }
    let found = if text.contains(':') {
        text.to_socket_addrs()
    } else {
        (text, PORT_DEFAULT).to_socket_addrs()
    };
    match found.map(|mut addresses| addresses.next()) {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err("the name has no address".to_owned()),
        Err(error) => Err(format!("expected host or host:port ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("64k"), Ok(64 << 10));
        assert_eq!(parse_size("128MiB"), Ok(128 << 20));
        assert_eq!(parse_size("1 GiB"), Ok(1 << 30));
        assert_eq!(parse_size("2tib"), Ok(2 << 40));
    }

    #[test]
    fn ambiguous_and_wrong_sizes_are_refused() {
        for bad in ["", "MiB", "1.5GiB", "-1", "1XiB", "1 MiB x", "0x10"] {
            assert!(parse_size(bad).unwrap_err().contains("such as"), "{bad}");
        }
        assert!(parse_size("1MB").unwrap_err().contains("ambiguous"));
        for huge in ["99999999999999999999", "16777216TiB"] {
            assert!(
                parse_size(huge).unwrap_err().contains("more than 16 EiB"),
                "{huge}"
            );
        }
        assert_eq!(parse_size("16777215TiB"), Ok(16_777_215 << 40));
    }

    #[test]
    fn virtual_disk_size_is_positive_or_all() {
        assert_eq!(parse_vdisk_size("all"), Ok(Size::All));
        assert_eq!(parse_vdisk_size("1MiB"), Ok(Size::Bytes(1 << 20)));
        assert!(parse_vdisk_size("0").is_err());
    }

    #[test]
    fn addresses_get_the_default_port() {
        assert_eq!(parse_address("127.0.0.1").unwrap().to_string(), "127.0.0.1:4420");
        assert_eq!(parse_address("127.0.0.1:9").unwrap().to_string(), "127.0.0.1:9");
        assert_eq!(parse_address("::1").unwrap().to_string(), "[::1]:4420");
        assert_eq!(parse_address("[::1]").unwrap().to_string(), "[::1]:4420");
        assert_eq!(parse_address("[::1]:7").unwrap().to_string(), "[::1]:7");
        assert!(parse_address("127.0.0.1:99999").is_err());
    }

    #[test]
    fn perf_values_are_bounded() {
        assert_eq!(parse_block_bytes("4KiB"), Ok(4096));
        for bad in ["0", "100", "3MiB", "513", "8GiB"] {
            assert!(parse_block_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_rate("2e4"), Ok(20_000.0));
        for bad in ["0", "-1", "NaN", "inf", "x"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
