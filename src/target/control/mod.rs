//! The control core's machines: the subsystem with its controllers, the groups, and the management calls.
//!
//! Lives on core 0 beside that core's share of the data path. Everything here is rare; nothing here is on the way of
//! a read or write.

mod background;
mod closing;
mod expansion;
mod fabric;
mod groups;
mod health;
mod intent;
mod namespaces;
mod operator;
mod places;
mod ports;
mod queues;
mod ram;
mod repair;
mod reservations;
mod resize;
mod share;
mod shelf;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use nvme::reservation::Order;
use nvme::subsystem::{self, PortId, Subsystem};
use reactor::{Io, Nanos, OperationId, Span};

use super::array::ScratchMemory;
use super::core::Core;
use super::drives::DriveSpec;
use super::fabric::Shelf;
use super::manage::{ManageError, Reply, Request};
use super::message::{ControlMessage, Message, Traffic};
use crate::amf::group::{RequestId, SuperblockIo};
use crate::amf::relayout::Event as RelayoutEvent;
use crate::amf::superblock::{Found, RECORD_BYTES};
use crate::drive::health::Policy;

pub use fabric::Expelled;
pub use groups::{COMPARE_WRITE_BLOCKS, GroupPlan, GroupSource, VdiskPlan};
pub use share::{ShareSetup, SharedPlan, address_of};

/// Superblock writes that are under way at a time; the others wait for these.
const SUPERBLOCK_SPANS: usize = 64;

/// A listener of the node.
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// Its name towards the subsystem.
    pub port: PortId,
}

/// What becomes of a start: the node's main thread waits for it.
pub type Ready = SyncSender<Result<(), String>>;

/// A call of the management plane, on its way to the control core.
pub struct ManageCall {
    /// What is asked.
    pub request: Request,
    /// Random bytes, because the control core makes none: identities of what is created.
    pub entropy: [u8; 64],
    /// Takes the answer.
    pub reply: SyncSender<Result<Reply, ManageError>>,
}

/// A drive as the control core knows it.
#[derive(Clone, Debug)]
pub(super) struct DriveUse {
    /// Group and member, if it is one.
    member: Option<(u16, u8)>,
    /// Commands since the start.
    reads: u64,
    writes: u64,
    /// Bytes that reads asked for.
    read_bytes: u64,
    /// Bytes that writes brought.
    written_bytes: u64,
    /// Writes that were forced to stable media.
    forced: u64,
    flushes: u64,
    errors: u64,
    /// What was found on it at the start.
    existing: Found,
    /// The same as a sentence, unless it was blank or a member.
    finding: Option<String>,
}

impl DriveUse {
    /// A drive that nobody has used yet.
    fn unused(found: DriveFound) -> Self {
        Self {
            member: None,
            reads: 0,
            writes: 0,
            read_bytes: 0,
            written_bytes: 0,
            forced: 0,
            flushes: 0,
            errors: 0,
            existing: found.existing,
            finding: found.finding,
        }
    }
}

/// What was found on a drive at the start.
pub struct DriveFound {
    /// As the examination says.
    pub existing: Found,
    /// As a sentence, if there is something to say.
    pub finding: Option<String>,
}

/// What the management plane shows of a controller beyond what the subsystem knows.
#[derive(Clone, Debug)]
pub(super) struct ControllerFacts {
    /// The host's end of the admin queue.
    address: String,
    /// When it connected.
    since: Nanos,
}

/// Everything that the control core is started with.
pub struct ControlSetup {
    /// The subsystem's configuration.
    pub subsystem: subsystem::Config,
    /// The listeners, in the order of their ports.
    pub listeners: Vec<Listener>,
    /// The drives.
    pub drives: Arc<Vec<DriveSpec>>,
    /// What was found on each drive.
    pub found: Vec<DriveFound>,
    /// Groups to open or create.
    pub groups: Vec<GroupPlan>,
    /// Virtual disks to create if they do not exist.
    pub vdisks: Vec<VdiskPlan>,
    /// Facts about the node for `node.show`.
    pub node: NodeFacts,
    /// From where on a drive is bad.
    pub health: config::Health,
    /// Number of cores.
    pub cores: u16,
    /// Told when hosts may connect, or why that never will be.
    pub ready: Ready,
    /// Memory of each core.
    pub memory_mib: u32,
    /// Memory of each core for what it reads from each group.
    pub read_cache_mib: u32,
    /// Called when an operator wants the node to stop.
    pub stop: SyncSender<()>,
    /// The process is a shelf.
    pub is_shelf: bool,
    /// The shelves that some of the drives are on.
    pub shelves: Vec<Shelf>,
    /// Of groups that other nodes serve too.
    pub share: Option<ShareSetup>,
    /// Wants to know when this life of the node has lost the drives that it shares with others.
    pub expelled: Option<Expelled>,
}

/// What the node is, for `node.show`.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// How its cores poll.
    pub poll: String,
    /// Its listeners' addresses and whether they are for discovery only.
    pub listen: Vec<(String, bool)>,
    /// What it does differently than one would like.
    pub notes: Vec<String>,
}

/// A superblock write that is under way.
struct SuperblockWrite {
    group: u16,
    name: SuperblockIo,
    /// Its buffer; `None` if no drive has it, because that hangs on an operator's word.
    span: Option<Span>,
    drive: u16,
    started_awake: Nanos,
    /// The group was told an error in the drive's place.
    given_up: bool,
}

/// A superblock write that found no buffer: group, name, drive, offset in bytes, record.
type WaitingSuperblock = (u16, SuperblockIo, u16, u64, Box<[u8; RECORD_BYTES]>);

/// The machines of the control core.
pub struct Control {
    subsystem: Subsystem,
    /// Actions of the subsystem that are being carried out; kept for its memory.
    actions: Vec<subsystem::Action>,
    listeners: Vec<Listener>,
    /// The accepts that are under way.
    accepting: Vec<Option<OperationId>>,
    /// Listeners whose accept failed.
    accept_again: Vec<u64>,
    /// When the last connection was accepted, and a little more where several came at once.
    accepted_ns: u64,
    /// Connections of each core, to give the next one to the least loaded.
    connections: Vec<u32>,
    connections_max: u32,
    groups: Vec<groups::GroupControl>,
    plans: Vec<GroupPlan>,
    vdisks: Vec<VdiskPlan>,
    drives: Arc<Vec<DriveSpec>>,
    drive_uses: Vec<DriveUse>,
    /// Superblock writes under way.
    superblocks: BTreeMap<u64, SuperblockWrite>,
    superblock_next: u64,
    /// Requests of operators that a group works on.
    waiting: BTreeMap<RequestId, operator::Waiting>,
    request_next: u64,
    node: NodeFacts,
    nqn: String,
    serial: String,
    cores: u16,
    memory_mib: u32,
    read_cache_mib: u32,
    /// The cores still have their spare scratch memory, for one group that is made while they run.
    has_spare_scratch: bool,
    ready: Option<Ready>,
    stop: SyncSender<()>,
    started_at: Nanos,
    traffic: Traffic,
    health_at: Nanos,
    /// The host's end of each connection.
    peers: BTreeMap<u32, SocketAddr>,
    controllers: BTreeMap<u16, ControllerFacts>,
    /// Superblock writes that found no buffer.
    superblocks_waiting: VecDeque<WaitingSuperblock>,
    /// Namespaces that hosts know.
    announced: BTreeMap<u32, namespaces::Shown>,
    /// Namespaces of which nothing begins any more, until nothing is under way; by the name of the question.
    draining: BTreeMap<u64, namespaces::Drain>,
    /// The creation of a configured virtual disk that is under way.
    planned_pending: Option<RequestId>,
    oui: [u8; 3],
    listening: bool,
    stopping: bool,
    closing: bool,
    ending: queues::Ending,
    /// Buffers for superblocks, so that they never wait for those of hosts: a host's write may wait for them.
    superblock_spans: Vec<Span>,
    /// Virtual disks that are being deleted: they are not shown, although their group still lists them.
    leaving: BTreeSet<u32>,
    /// Requests for the health log that wait until every core has told what it counted: cores left, and the capsule.
    health_waiting: BTreeMap<u64, queues::HealthRequest>,
    /// Rules of reservations that cores have been told: how many have not confirmed them, and what they are.
    enforcing: BTreeMap<u64, (u16, Order)>,
    /// Reservations on their way to the drives of a shelf.
    reservation_writes: reservations::ReservationWrites,
    is_shelf: bool,
    /// Names this start of the process.
    instance: [u8; 16],
    /// Blocks that are to be written anew, and those that an engine is at.
    repairs: repair::Repairs,
    /// The health of each drive.
    health: Vec<health::DriveHealth>,
    policy: Policy,
    /// When the latency window ends.
    window_until: Nanos,
    /// Operators may have drives show faults.
    fault_injection: bool,
    /// Member and generation of the last fault that was logged, of each group.
    logged_faults: BTreeMap<u16, (u8, u64)>,
    /// The shelves that some of the drives are on.
    fabric: Option<Box<fabric::FabricControl>>,
    /// Groups that other nodes serve too, and the link to them.
    share: Option<Box<share::ShareControl>>,
}

impl Control {
    /// Makes the machines; nothing happens before [`Control::started`].
    pub fn new(setup: ControlSetup) -> Result<Self, subsystem::ConfigError> {
        let drive_uses = setup.found.into_iter().map(DriveUse::unused).collect();
        let (oui, instance) = (setup.subsystem.oui, setup.subsystem.instance);
        let policy = health::policy(&setup.health);
        let health = setup.drives.iter();
        let health = health
            .map(|_| health::DriveHealth::new(policy, setup.cores))
            .collect();
        let fabric = fabric::FabricControl::new(setup.shelves, &setup.drives, setup.cores, setup.expelled);
        let share = setup
            .share
            .map(|share| share::ShareControl::new(share, setup.cores));
        Ok(Self {
            fabric: fabric.map(Box::new),
            vdisks: share::plans_of(share.as_ref(), setup.vdisks),
            share: share.map(Box::new),
            nqn: setup.subsystem.nqn.as_str().to_owned(),
            serial: setup.subsystem.serial.clone(),
            connections_max: u32::from(setup.subsystem.controllers_max)
                * (u32::from(setup.subsystem.io_queues_max) + 1),
            subsystem: Subsystem::new(setup.subsystem)?,
            actions: Vec::new(),
            listeners: setup.listeners,
            accepting: Vec::new(),
            accept_again: Vec::new(),
            accepted_ns: 0,
            connections: vec![0; usize::from(setup.cores)],
            groups: Vec::new(),
            plans: setup.groups,
            drives: setup.drives,
            drive_uses,
            superblocks: BTreeMap::new(),
            superblock_next: 0,
            waiting: BTreeMap::new(),
            request_next: 0,
            node: setup.node,
            cores: setup.cores,
            memory_mib: setup.memory_mib,
            read_cache_mib: setup.read_cache_mib,
            has_spare_scratch: true,
            ready: Some(setup.ready),
            stop: setup.stop,
            started_at: 0,
            traffic: Traffic::default(),
            health_at: 0,
            peers: BTreeMap::new(),
            controllers: BTreeMap::new(),
            superblocks_waiting: VecDeque::new(),
            announced: BTreeMap::new(),
            draining: BTreeMap::new(),
            planned_pending: None,
            oui,
            listening: false,
            stopping: false,
            closing: false,
            ending: queues::Ending::default(),
            superblock_spans: Vec::new(),
            leaving: BTreeSet::new(),
            health_waiting: BTreeMap::new(),
            enforcing: BTreeMap::new(),
            reservation_writes: reservations::ReservationWrites::default(),
            is_shelf: setup.is_shelf,
            instance,
            repairs: repair::Repairs::default(),
            health,
            policy,
            window_until: 0,
            fault_injection: setup.health.allow_fault_injection,
            logged_faults: BTreeMap::new(),
        })
    }

    /// The core runs: opens the groups. Listening begins when they are open and their virtual disks are there.
    pub(super) fn started(&mut self, core: &mut Core, io: &mut Io<Message>) {
        self.started_at = io.now();
        for _ in 0..SUPERBLOCK_SPANS {
            let bytes = u32::try_from(RECORD_BYTES).expect("4096");
            self.superblock_spans.extend(io.arena_mut().alloc(bytes));
        }
        if self.is_shelf {
            let bytes = u32::try_from(RECORD_BYTES).expect("4096");
            self.reservation_writes.keep(io.arena_mut().alloc(bytes));
        }
        self.start_fabric(core, io);
        self.start_share(io);
        for plan in std::mem::take(&mut self.plans) {
            self.open_group(core, io, plan, ScratchMemory::Own);
        }
        self.try_listen(core, io);
    }

    /// Looks at deadlines.
    pub(super) fn tick(&mut self, core: &mut Core, io: &mut Io<Message>) {
        self.subsystem_event(core, io, subsystem::Event::Tick);
        self.listen_again(io);
        self.tick_fabric(core, io);
        self.check_stop(core, io);
        self.report_health(core, io);
        self.health_tick(core, io);
        self.background_tick(core, io);
        self.expansion_tick(core, io);
        self.tend_ram(core, io);
        self.write_reservations(core, io);
    }

    /// Notes what the cores do without.
    pub(super) fn add_notes(&mut self, notes: Vec<String>) {
        self.node.notes.extend(notes);
    }

    /// A core has something to say.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of message")]
    pub(super) fn core_says(&mut self, core: &mut Core, io: &mut Io<Message>, message: ControlMessage) {
        match message {
            ControlMessage::Opened {
                queue,
                arrival,
                local,
            } => self.queue_opened(core, io, queue, arrival, local),
            ControlMessage::Counted { request } => self.counted(core, io, request),
            ControlMessage::Capsule {
                queue,
                slot,
                entry,
                data,
            } => self.capsule(core, io, queue, slot, entry, &data),
            ControlMessage::Closed { queue } => self.queue_closed(core, io, queue),
            ControlMessage::Aborted { token, aborted } => {
                self.subsystem_event(core, io, subsystem::Event::Aborted { token, aborted });
            }
            ControlMessage::Failed {
                queue,
                cid,
                status,
                nsid,
                slba,
            } => {
                self.subsystem_event(
                    core,
                    io,
                    subsystem::Event::IoFailed {
                        queue,
                        cid,
                        status,
                        nsid,
                        slba,
                    },
                );
            }
            ControlMessage::Fault { group, member, error } => {
                self.member_fault(core, io, group, member, error)
            }
            ControlMessage::Fabric(report) => self.fabric_says(core, io, report),
            ControlMessage::SuperblockDone { number, result } => {
                self.superblock_done(core, io, number, result)
            }
            ControlMessage::Media(repair) => self.media_error(core, io, repair),
            ControlMessage::WantRow {
                group,
                from,
                row,
                mode,
                takes,
            } => self.want_row(core, io, (group, from), (row, mode), takes),
            ControlMessage::RowGiven {
                group,
                from,
                row,
                data,
            } => self.row_given(core, io, (group, from), row, *data),
            ControlMessage::CommitNodes { group, name } => self.commit_nodes(core, io, group, name),
            ControlMessage::CommittedFor { group, name } => self.committed_for(core, io, group, name),
            ControlMessage::Keep { group, copy, reports } => self.keep_copy(core, io, group, &copy, reports),
            ControlMessage::RowSecured { group, row } => self.row_secured(core, io, group, row),
            ControlMessage::HomeTurn { group, row } => self.home_turn(core, io, group, row),
            ControlMessage::HurryNodes { group, lane, below } => {
                self.hurry_nodes(core, io, group, lane, below)
            }
            ControlMessage::LanesMoved { group, lanes } => self.lanes_moved(core, io, group, lanes),
            ControlMessage::RamWanted { group } => self.want_memory(core, io, group),
            ControlMessage::RamCommitted { group, from } => self.memory_committed(core, io, (group, from)),
            ControlMessage::KeptAgain { group, from, epoch } => {
                self.kept_again(core, io, group, (from, epoch));
            }
            ControlMessage::PersistIntent { group, from } => self.persist_intent(core, io, group, from),
            ControlMessage::PersistLost { group, from } => self.persist_lost(core, io, group, from),
            ControlMessage::GroupRetired { group, retired } => self.group_retired(core, io, group, retired),
            ControlMessage::GroupDrained { group, drained } => self.group_drained(core, io, group, drained),
            ControlMessage::RowsHeld { group, wave } => {
                self.relayout_event(core, io, group, RelayoutEvent::Held { wave });
            }
            ControlMessage::NamespacesKnown { group } => self.namespaces_known(core, io, group),
            ControlMessage::LayoutSet { group } => {
                self.relayout_event(core, io, group, RelayoutEvent::LayoutSet);
            }
            ControlMessage::MemberDriveSet { group } => self.member_drive_set(core, io, group),
            ControlMessage::Counts {
                core: from,
                traffic,
                drives,
            } => {
                self.add_traffic(traffic);
                self.take_drive_reports(core, io, from, &drives);
            }
            ControlMessage::HostsSaw { windows } => self.hosts_saw(&windows),
            ControlMessage::NotAdopted { core: of } => {
                self.connection_ended(of);
                self.try_close(core, io);
            }
            ControlMessage::ReservationWritten { number, succeeded } => {
                self.reservation_written(core, io, number, succeeded);
            }
            ControlMessage::ReservationEnforced { number } => self.core_enforced(core, io, number),
            ControlMessage::Drained { number } => self.namespace_drained(core, io, number),
        }
    }
}
