//! What an operator may ask of a running node, and the answers: methods and results as plain data.
//!
//! The socket server, the command line and the node share these types. Numbers carry their unit in the field's name.
//! Knows neither JSON-RPC framing nor how the node answers: the node implements [`Manage`].

use std::fmt;

mod array;
mod background;
mod fault;
mod growth;
mod lost;
mod observed;
mod ports;
mod shelf;
mod vdisk;

use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use array::{ArrayCut, ArrayDriveStatus, ArrayPeerStatus, ArrayRequest, ArrayStatus};
pub use background::{
    BackgroundRequest, BackgroundStatus, GroupScrub, GroupSetRate, ProcessStatus, RebuildStatus, ScrubState,
    ScrubStatus,
};
pub use fault::{DriveInject, FaultKind};
pub use growth::GroupExpand;
pub use lost::LostBlocks;
pub use observed::{CoreCounters, StageLatency};
pub use ports::{PortAdd, PortDelete, PortList, PortRequest, PortState, PortStatus};
pub use shelf::{ClaimStatus, RegistrantStatus, ShelfDriveStatus, ShelfNamespace, ShelfStatus};
pub use vdisk::{Deleted, Replication, VdiskCreate, VdiskDelete, VdiskReplicate, VdiskResize, VdiskStatus};

/// A node as its management plane sees it.
///
/// Called from ordinary threads, several at once; the implementation posts to the control core and waits a bounded
/// time. It must not panic and must answer every call, with an error when the node is stopping.
pub trait Manage: Send + Sync {
    /// Carries out one request. Errs with a sentence about what is wrong and one about what to do.
    fn call(&self, request: Request) -> Result<Reply, ManageError>;
}

/// One request to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `node.show`: what this node is and where it listens.
    NodeShow,
    /// `group.list`: all redundancy groups.
    GroupList,
    /// `group.show`: one redundancy group.
    GroupShow(GroupName),
    /// `group.create`: makes a redundancy group from drives that belong to none.
    GroupCreate(GroupCreate),
    /// `group.expand`: gives a group more drives, over which its data is laid out anew.
    GroupExpand(GroupExpand),
    /// One of the calls for the background work of a group.
    Background(BackgroundRequest),
    /// `vdisk.list`: all virtual disks.
    VdiskList,
    /// `vdisk.show`: one virtual disk.
    VdiskShow(VdiskName),
    /// `vdisk.create`: makes a virtual disk and shows it to the hosts.
    VdiskCreate(VdiskCreate),
    /// `vdisk.resize`: makes a virtual disk larger where it is, and tells the hosts.
    VdiskResize(VdiskResize),
    /// `vdisk.replicate`: has writes to a virtual disk done at another time.
    VdiskReplicate(VdiskReplicate),
    /// `vdisk.delete`: removes a virtual disk and gives its blocks back.
    VdiskDelete(VdiskDelete),
    /// One of the calls for the ports of virtual disks.
    Port(PortRequest),
    /// `drive.list`: all configured drives.
    DriveList,
    /// `drive.show`: one drive.
    DriveShow(DriveName),
    /// `drive.fail`: takes a member out of its group as if it had broken.
    DriveFail(DriveFail),
    /// `drive.replace`: puts a drive into a lost member's place.
    DriveReplace(DriveReplace),
    /// `drive.add_spare`: gives a group a spare drive.
    DriveAddSpare(DriveAddSpare),
    /// `drive.remove_spare`: takes a spare drive from its group and wipes it.
    DriveRemoveSpare(DriveRemoveSpare),
    /// `drive.inject`: has a drive show a fault, for tests; only where the configuration allows it.
    DriveInject(DriveInject),
    /// `shelf.show`: what a shelf exports, and who has reserved it.
    ShelfShow,
    /// What is asked of the array that the node shares with others.
    Array(ArrayRequest),
    /// `host.list`: the controllers that hosts have open.
    HostList,
    /// `latency.show`: latency by stage and core.
    Latency,
    /// `counters.show`: counters of each core.
    Counters,
    /// `node.shutdown`: stops the node cleanly.
    Shutdown,
}

impl Request {
    /// The JSON-RPC method that carries this request.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::NodeShow => "node.show",
            Self::GroupList => "group.list",
            Self::GroupShow(_) => "group.show",
            Self::GroupCreate(_) => "group.create",
            Self::GroupExpand(_) => "group.expand",
            Self::Background(request) => request.method(),
            Self::VdiskList => "vdisk.list",
            Self::VdiskShow(_) => "vdisk.show",
            Self::VdiskCreate(_) => "vdisk.create",
            Self::VdiskResize(_) => "vdisk.resize",
            Self::VdiskReplicate(_) => "vdisk.replicate",
            Self::VdiskDelete(_) => "vdisk.delete",
            Self::Port(request) => request.method(),
            Self::DriveList => "drive.list",
            Self::DriveShow(_) => "drive.show",
            Self::DriveFail(_) => "drive.fail",
            Self::DriveReplace(_) => "drive.replace",
            Self::DriveAddSpare(_) => "drive.add_spare",
            Self::DriveRemoveSpare(_) => "drive.remove_spare",
            Self::DriveInject(_) => "drive.inject",
            Self::ShelfShow => "shelf.show",
            Self::Array(request) => request.method(),
            Self::HostList => "host.list",
            Self::Latency => "latency.show",
            Self::Counters => "counters.show",
            Self::Shutdown => "node.shutdown",
        }
    }

    /// Whether carrying it out twice differs from once, so that a client must not repeat it unasked.
    pub const fn changes_state(&self) -> bool {
        match self {
            Self::Port(request) => request.changes_state(),
            Self::GroupCreate(_)
            | Self::GroupExpand(_)
            | Self::Background(_)
            | Self::VdiskCreate(_)
            | Self::VdiskResize(_)
            | Self::VdiskReplicate(_)
            | Self::VdiskDelete(_)
            | Self::DriveFail(_)
            | Self::DriveReplace(_)
            | Self::DriveAddSpare(_)
            | Self::DriveRemoveSpare(_)
            | Self::DriveInject(_)
            | Self::Array(
                ArrayRequest::Create | ArrayRequest::Leave | ArrayRequest::Join | ArrayRequest::Cut(_),
            )
            | Self::Shutdown => true,
            Self::NodeShow
            | Self::GroupList
            | Self::GroupShow(_)
            | Self::VdiskList
            | Self::VdiskShow(_)
            | Self::DriveList
            | Self::DriveShow(_)
            | Self::ShelfShow
            | Self::Array(ArrayRequest::Show)
            | Self::HostList
            | Self::Latency
            | Self::Counters => false,
        }
    }
}

/// Parameters that name a redundancy group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupName {
    /// Name of the group.
    pub group: String,
}

/// Parameters that name a virtual disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VdiskName {
    /// Name of the virtual disk.
    pub vdisk: String,
}

/// Parameters that name a drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveName {
    /// Name of the drive in the configuration.
    pub drive: String,
}

/// Parameters of `group.create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupCreate {
    /// Name of the new group.
    pub name: String,
    /// RAID level, `"raid0"` or `"raid5"`.
    #[serde(default = "default_level")]
    pub level: String,
    /// Size of a strip in KiB, a power of two.
    #[serde(default = "default_strip_kib")]
    pub strip_kib: u32,
    /// Logical block size in bytes, 512 or 4096.
    #[serde(default = "default_block_bytes")]
    pub block_bytes: u32,
    /// Names of the drives, in the order of their member indexes.
    pub drives: Vec<String>,
    /// When a host's write counts as done; the journal if absent, and nothing of the kind without redundancy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// MiB of the journal on each drive; what suits the drives if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_mib: Option<u32>,
    /// Whether to take drives that hold something already. What they hold is lost.
    #[serde(default)]
    pub force: bool,
}

/// When a host's write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When it is in its place on the drives: only without redundancy.
    None,
    /// When it is in the journals of the drives.
    Journal,
    /// When it is in memory; a Flush brings it to the drives.
    Ram,
}

impl Durability {
    /// Those that may be asked for.
    pub const CHOICES: [Self; 2] = [Self::Journal, Self::Ram];

    /// The durability as it stands in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Journal => "journal",
            Self::Ram => "ram",
        }
    }
}

/// Level of a group when none is asked for.
pub const LEVEL_DEFAULT: &str = "raid5";
/// Strip size in KiB when none is asked for.
pub const STRIP_KIB_DEFAULT: u32 = 64;
/// Block size in bytes when none is asked for.
pub const BLOCK_BYTES_DEFAULT: u32 = 4096;

fn default_level() -> String {
    LEVEL_DEFAULT.to_owned()
}

const fn default_strip_kib() -> u32 {
    STRIP_KIB_DEFAULT
}

const fn default_block_bytes() -> u32 {
    BLOCK_BYTES_DEFAULT
}

/// Parameters of `drive.fail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveFail {
    /// Name of the group.
    pub group: String,
    /// Name of the member drive.
    pub drive: String,
    /// Whether to fail it although the group then loses data.
    #[serde(default)]
    pub force: bool,
}

/// Parameters of `drive.replace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveReplace {
    /// Name of the group.
    pub group: String,
    /// Index of the lost member.
    pub member: u8,
    /// Name of the drive that takes its place: a blank one, a spare of the group, or the member's own.
    pub drive: String,
    /// Whether to take a drive that holds something already. What it holds is lost.
    #[serde(default)]
    pub force: bool,
}

/// Parameters of `drive.add_spare`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveAddSpare {
    /// Name of the group.
    pub group: String,
    /// Name of the drive.
    pub drive: String,
    /// Whether to take a drive that holds something already. What it holds is lost.
    #[serde(default)]
    pub force: bool,
}

/// Parameters of `drive.remove_spare`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveRemoveSpare {
    /// Name of the group.
    pub group: String,
    /// Name of the spare drive.
    pub drive: String,
}

/// Size of a new virtual disk. In JSON a number of bytes, or `"all"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// This many bytes.
    Bytes(u64),
    /// The largest free extent of the group.
    All,
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => serializer.serialize_u64(*bytes),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes or \"all\"")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size::Bytes(bytes))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes)
            .map(Size::Bytes)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        if text == "all" {
            return Ok(Size::All);
        }
        Err(E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// The answer to one request. In JSON only the content, without the variant's name.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To `node.show`.
    Node(NodeStatus),
    /// To `group.list`.
    Groups(Vec<GroupStatus>),
    /// To `group.show`, `group.create`, the calls for background work, `drive.fail` and what fills a member's place: the group as it is
    /// afterwards.
    Group(GroupStatus),
    /// To `vdisk.list`.
    Vdisks(Vec<VdiskStatus>),
    /// To `vdisk.show` and `vdisk.create`.
    Vdisk(VdiskStatus),
    /// To `vdisk.delete`.
    Deleted(Deleted),
    /// To all that is asked of ports.
    Ports(Vec<PortStatus>),
    /// To `drive.list`.
    Drives(Vec<DriveStatus>),
    /// To `drive.show` and `drive.inject`.
    Drive(DriveStatus),
    /// To `shelf.show`.
    Shelf(ShelfStatus),
    /// To everything that is asked of an array.
    Array(Box<ArrayStatus>),
    /// To `host.list`.
    Hosts(Vec<HostStatus>),
    /// To `latency.show`.
    Latency(Vec<StageLatency>),
    /// To `counters.show`.
    Counters(Vec<CoreCounters>),
    /// To `node.shutdown`.
    Stopping(Stopping),
}

impl Reply {
    /// Reads the result of `request` as a node sent it. Errs if it has not the shape of that method's result.
    pub fn from_json(request: &Request, result: serde_json::Value) -> Result<Self, serde_json::Error> {
        fn read<T: DeserializeOwned>(result: serde_json::Value) -> Result<T, serde_json::Error> {
            serde_json::from_value(result)
        }
        Ok(match request {
            Request::NodeShow => Self::Node(read(result)?),
            Request::ShelfShow => Self::Shelf(read(result)?),
            Request::GroupList => Self::Groups(read(result)?),
            Request::GroupShow(_)
            | Request::GroupCreate(_)
            | Request::GroupExpand(_)
            | Request::Background(_)
            | Request::DriveFail(_)
            | Request::DriveReplace(_)
            | Request::DriveAddSpare(_)
            | Request::DriveRemoveSpare(_) => Self::Group(read(result)?),
            Request::VdiskList => Self::Vdisks(read(result)?),
            Request::VdiskShow(_)
            | Request::VdiskCreate(_)
            | Request::VdiskResize(_)
            | Request::VdiskReplicate(_) => Self::Vdisk(read(result)?),
            Request::VdiskDelete(_) => Self::Deleted(read(result)?),
            Request::Port(_) => Self::Ports(read(result)?),
            Request::DriveList => Self::Drives(read(result)?),
            Request::DriveShow(_) | Request::DriveInject(_) => Self::Drive(read(result)?),
            Request::Array(_) => Self::Array(read(result)?),
            Request::HostList => Self::Hosts(read(result)?),
            Request::Latency => Self::Latency(read(result)?),
            Request::Counters => Self::Counters(read(result)?),
            Request::Shutdown => Self::Stopping(read(result)?),
        })
    }
}

/// What a node is and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Name from the configuration.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// NVMe Qualified Name of its subsystem.
    pub nqn: String,
    /// Serial number that hosts see.
    pub serial: String,
    /// Process id.
    pub pid: u32,
    /// Time since the node began to serve, in milliseconds.
    pub uptime_ms: u64,
    /// Cores that run a reactor.
    pub cores: u16,
    /// How they wait: `busy`, `adaptive` or `interrupt`.
    pub poll: String,
    /// Where hosts may connect.
    pub listen: Vec<ListenStatus>,
    /// Redundancy groups.
    pub groups: u32,
    /// Virtual disks.
    pub vdisks: u32,
    /// Controllers that hosts have open.
    pub controllers: u32,
    /// What the node does differently than it would like to, a sentence each: no huge pages and the like.
    pub notes: Vec<String>,
}

/// One address on which hosts may connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenStatus {
    /// Address and port.
    pub address: String,
    /// Transport, `tcp`.
    pub transport: String,
    /// Whether only the discovery subsystem answers here.
    pub discovery_only: bool,
}

/// Health of a redundancy group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupState {
    /// All members are there and agree.
    Healthy,
    /// All members are there and check data is being computed anew.
    Resyncing,
    /// Redundancy is missing.
    Degraded,
    /// More members are lost than the level survives.
    Failed,
}

impl GroupState {
    /// The state as it stands in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Resyncing => "resyncing",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// A redundancy group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// RAID level, `raid0` or `raid5`.
    pub level: String,
    /// Its health.
    pub state: GroupState,
    /// Version of its configuration on the drives.
    pub generation: u64,
    /// Size of a strip in KiB.
    pub strip_kib: u32,
    /// Logical block size in bytes.
    pub block_bytes: u32,
    /// User data that fits in, in bytes.
    pub capacity_bytes: u64,
    /// Part of it that no virtual disk uses, in bytes.
    pub free_bytes: u64,
    /// Stripe rows.
    pub rows: u64,
    /// Rows whose check data is known to be right, while the group resyncs. Equal to `rows` otherwise.
    pub resync_done_rows: u64,
    /// Rows that an expansion has laid out anew, while one is going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expansion_done_rows: Option<u64>,
    /// What it does beside serving hosts.
    pub background: BackgroundStatus,
    /// When a host's write counts as done.
    pub durability: Durability,
    /// Writes may have been acknowledged that are in memory alone.
    #[serde(default)]
    pub dirty_ram: bool,
    /// Of how many nodes' memory a write is to be in before it is acknowledged from there, where nodes share the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<CopiesStatus>,
    /// Why hosts cannot use it through this node, where nodes share the group and whoever leads cannot serve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_served: Option<Box<str>>,
    /// Blocks that no drive gives back.
    #[serde(default)]
    pub lost_blocks: Vec<LostBlocks>,
    /// Bytes of the journal on each member.
    pub journal_bytes: u64,
    /// Its members, by index.
    pub members: Vec<MemberStatus>,
    /// Its spare drives.
    pub spares: Vec<SpareStatus>,
    /// Names of its virtual disks.
    pub vdisks: Vec<String>,
}

/// A spare drive of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareStatus {
    /// Its identity.
    pub uuid: String,
    /// Name of the configured drive that it is, if it is there.
    pub drive: Option<String>,
}

/// State of a member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Read and written.
    Active,
    /// Being filled with what it lacks.
    Rebuilding,
    /// Given up: its content is out of date.
    Failed,
    /// No configured drive carries it.
    Missing,
}

impl MemberState {
    /// The state as it stands in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Rebuilding => "rebuilding",
            Self::Failed => "failed",
            Self::Missing => "missing",
        }
    }
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its index in the group.
    pub index: u8,
    /// Name of the configured drive that carries it, if one does.
    pub drive: Option<String>,
    /// Its state.
    pub state: MemberState,
    /// Why it is not active, as a sentence.
    pub reason: Option<String>,
}

/// What stores a drive's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriveKind {
    /// A regular file.
    File,
    /// A block device.
    Block,
    /// Memory of the node; gone when it stops.
    Memory,
    /// A namespace of a shelf.
    Fabric,
}

impl DriveKind {
    /// The kind as it stands in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Block => "block",
            Self::Memory => "memory",
            Self::Fabric => "fabric",
        }
    }
}

/// What a drive is to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriveState {
    /// Belongs to no group.
    Free,
    /// Holds something that is not ours.
    Foreign,
    /// Active member of a group.
    Member,
    /// Member that is being filled.
    Rebuilding,
    /// Waits to take a failed member's place.
    Spare,
    /// Member that its group has given up.
    Failed,
    /// Could not be opened.
    Missing,
}

impl DriveState {
    /// The state as it stands in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Foreign => "foreign",
            Self::Member => "member",
            Self::Rebuilding => "rebuilding",
            Self::Spare => "spare",
            Self::Failed => "failed",
            Self::Missing => "missing",
        }
    }
}

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What stores its data.
    pub kind: DriveKind,
    /// Where it is, unless it is memory.
    pub path: Option<String>,
    /// What it is to the node.
    pub state: DriveState,
    /// Its size in bytes.
    pub capacity_bytes: u64,
    /// Logical block size in bytes.
    pub block_bytes: u32,
    /// Group that it belongs to.
    pub group: Option<String>,
    /// Its index there.
    pub member_index: Option<u8>,
    /// Commands carried out: reads.
    pub reads: u64,
    /// Commands carried out: writes.
    pub writes: u64,
    /// Bytes that reads asked for.
    pub read_bytes: u64,
    /// Bytes that writes brought, those of the journal too.
    pub written_bytes: u64,
    /// Commands carried out: writes, zeroing included, that were to be on stable media before they were answered.
    pub forced_writes: u64,
    /// Commands carried out: flushes.
    pub flushes: u64,
    /// Commands that failed.
    pub errors: u64,
    /// Why it is failed, foreign or missing, as a sentence.
    pub reason: Option<String>,
    /// What is thought of it.
    pub health: HealthStatus,
}

/// How good a drive is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// As it should be.
    #[default]
    Good,
    /// In use, with something to watch.
    Suspect,
    /// Out of use, because it did not answer or erred.
    Quarantined,
    /// Out of use for good.
    Evicted,
}

impl HealthState {
    /// The state as it stands in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Suspect => "suspect",
            Self::Quarantined => "quarantined",
            Self::Evicted => "evicted",
        }
    }
}

/// What is thought of a drive, and why. Counts are since the node's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// How good it is.
    pub state: HealthState,
    /// Why it is not good, as a sentence.
    pub reason: Option<String>,
    /// Reads that the medium could not give back.
    pub media_errors: u64,
    /// Those that were rewritten from the other members.
    pub repaired: u64,
    /// Those that could not be.
    pub repairs_failed: u64,
    /// Commands that were refused or broken off, also those that succeeded when tried again.
    pub io_errors: u64,
    /// Times that a command was unanswered for too long.
    pub hangs: u64,
    /// Latency windows in which it was far slower than its group.
    pub slow_windows: u64,
    /// What 99 of 100 commands did not exceed in the last window, in microseconds.
    pub p99_us: Option<u64>,
    /// Commands that were given up and are still unanswered.
    pub unanswered: u32,
}

/// A controller that a host has open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Controller identifier (CNTLID).
    pub cntlid: u16,
    /// NVMe Qualified Name of the host.
    pub host_nqn: String,
    /// NVMe Qualified Name of the subsystem that it asked for.
    pub subsystem_nqn: String,
    /// Address and port of its admin queue's connection.
    pub address: String,
    /// I/O queues that it has connected.
    pub io_queues: u16,
    /// Keep Alive Timeout (KATO) in milliseconds, 0 for none.
    pub keep_alive_ms: u32,
    /// Time since it connected, in milliseconds.
    pub connected_ms: u64,
}

/// Copies of what a node of an array writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiesStatus {
    /// So many nodes are to have it in memory, this one counted.
    pub wanted: u8,
    /// So many have it, as long as this node and its partners live; 1 if writes wait for the drives.
    pub now: u8,
    /// Slots of its partners.
    #[serde(default)]
    pub partners: Vec<u8>,
    /// All that this node had acknowledged before its partners were the present ones is on the drives, or with them; until then the counter
    /// `bytes_with_reduced_copies` says how much is not.
    #[serde(default)]
    pub restored: bool,
}

/// Answer to `node.shutdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// Always true: the node has begun to stop.
    pub stopping: bool,
}

/// Why a node did not carry out a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ManageError {
    /// Kind of error: a constant of this type, or JSON-RPC's own from the reserved range.
    pub code: i64,
    /// What is wrong, as a sentence without its full stop.
    pub message: String,
    /// What to do about it; empty if there is nothing.
    pub remedy: String,
}

impl ManageError {
    /// What was named does not exist.
    pub const NOT_FOUND: i64 = 1;
    /// What was to be made exists.
    pub const EXISTS: i64 = 2;
    /// Refused to keep data safe; `force` may allow it.
    pub const REFUSED: i64 = 3;
    /// A parameter has a value that cannot work.
    pub const INVALID: i64 = 4;
    /// Not now: another change is under way, or the node is starting or stopping.
    pub const BUSY: i64 = 5;
    /// No room is left for it.
    pub const NO_SPACE: i64 = 6;
    /// A drive did not do what was needed.
    pub const DRIVE: i64 = 7;

    /// An error with its code, its sentence and what to do.
    pub fn new(code: i64, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// No `kind` (`"group"`, `"vdisk"`, `"drive"`) has this name.
    pub fn not_found(kind: &str, name: &str) -> Self {
        Self::new(
            Self::NOT_FOUND,
            format!("there is no {kind} named \"{name}\""),
            format!("see `braid {kind} list` for the names"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_bytes_or_all() {
        assert_eq!(serde_json::to_string(&Size::All).unwrap(), "\"all\"");
        assert_eq!(serde_json::from_str::<Size>("4096").unwrap(), Size::Bytes(4096));
        assert_eq!(serde_json::from_str::<Size>("\"all\"").unwrap(), Size::All);
        for bad in ["-1", "1.5", "\"some\"", "null", "[]"] {
            let error = serde_json::from_str::<Size>(bad).unwrap_err();
            assert!(
                error.to_string().contains("a number of bytes or \"all\""),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn states_are_named_in_json_as_in_tables() {
        for state in [
            GroupState::Healthy,
            GroupState::Resyncing,
            GroupState::Degraded,
            GroupState::Failed,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for state in [
            MemberState::Active,
            MemberState::Rebuilding,
            MemberState::Failed,
            MemberState::Missing,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for kind in [
            DriveKind::File,
            DriveKind::Block,
            DriveKind::Memory,
            DriveKind::Fabric,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        let states = [
            DriveState::Free,
            DriveState::Foreign,
            DriveState::Member,
            DriveState::Rebuilding,
            DriveState::Spare,
            DriveState::Failed,
            DriveState::Missing,
        ];
        for state in states {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for state in [
            HealthState::Good,
            HealthState::Suspect,
            HealthState::Quarantined,
            HealthState::Evicted,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for fault in FaultKind::ALL {
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.name());
        }
    }

    #[test]
    fn reply_survives_json() {
        let reply = Reply::Deleted(Deleted {
            vdisk: "v0".into(),
            freed_bytes: 4096,
        });
        let request = Request::VdiskDelete(VdiskDelete {
            vdisk: "v0".into(),
            force: false,
        });
        let value = serde_json::to_value(&reply).unwrap();
        assert_eq!(value, serde_json::json!({"vdisk": "v0", "freed_bytes": 4096}));
        assert_eq!(Reply::from_json(&request, value).unwrap(), reply);
        assert!(Reply::from_json(&Request::NodeShow, serde_json::json!({})).is_err());
    }
}
