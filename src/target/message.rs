//! What cores tell one another. Everything that is not of one core's own queues crosses here.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvme::command::SubmissionEntry;
use nvme::reservation::{Life, Order};
use nvme::status::Status;
use nvme::subsystem::{PortId, QueueId};
use reactor::CoreIndex;

use super::array::GroupShared;
use super::control::ManageCall;
use super::drives::DriveReport;
use super::fabric::{FabricOrder, FabricReport};
use super::namespaces::Namespaces;
use super::share::ShareOrder;
use super::window::Window;
use crate::amf::expansion::{HeldRows, Layout};
use crate::amf::group::SuperblockIo;
use crate::amf::hand_over::HandedOver;
use crate::amf::lock::Mode;
use crate::amf::peering::note::FlushName;
use crate::amf::replica::{Copy, Keeping};
use crate::amf::{MemberIndex, MemberSet, RowIndex};
use crate::drive::DriveError;
use crate::icl::Epoch;

/// A message to one core. Those from `ToControl` on are for core 0, where the control machines live.
pub enum Message {
    /// A freshly accepted connection is this core's from its first byte on.
    Adopt {
        /// The socket.
        socket: OwnedFd,
        /// Where it came from.
        arrival: Arrival,
    },
    /// The subsystem accepted the queue: from here on it is an admin or I/O queue.
    Accept(Accept),
    /// Answer to a capsule that was sent to the control core.
    Complete {
        /// The connection.
        queue: QueueId,
        /// The command's slot on it.
        slot: u16,
        /// Dwords 0 and 1 of the completion.
        result: u64,
        /// Status of the completion.
        status: Status,
        /// Data for the host; empty if there is none.
        data: Vec<u8>,
    },
    /// Stop executing this queue's commands, drain, flush, close, then report `QueueEvent::Closed`.
    Close {
        /// The connection.
        queue: QueueId,
    },
    /// Try to abort a command of this queue.
    Abort {
        /// The connection.
        queue: QueueId,
        /// The command's identifier.
        cid: u16,
        /// Comes back with the answer.
        token: u32,
    },
    /// A group was opened: every core binds an engine to it.
    AddGroup(Arc<GroupShared>, MemberSet),
    /// A new generation of a group's members is durable.
    Members {
        /// Which group.
        group: u16,
        /// Its members from now on.
        set: MemberSet,
    },
    /// Whether nodes serve a group that they share, or are going to.
    Served {
        /// Which group.
        group: u16,
        /// Whether they do.
        is_served: bool,
    },
    /// Another drive carries a lost member; to be answered by [`ControlMessage::MemberDriveSet`].
    MemberDrive {
        /// Which group.
        group: u16,
        /// Which of its members.
        member: MemberIndex,
        /// Its drive.
        drive: u16,
    },
    /// A wave of an expansion needs these rows for itself; to be answered by [`ControlMessage::RowsHeld`].
    HoldRows {
        /// Which group.
        group: u16,
        /// Which rows.
        rows: HeldRows,
        /// Names the hold.
        wave: u64,
    },
    /// Blocks of a group are looked up in this layout from now on, and rows are held no more; to be answered by
    /// [`ControlMessage::LayoutSet`].
    SetLayout {
        /// Which group.
        group: u16,
        /// Where every block is.
        layout: Layout,
    },
    /// Another core released a row that commands of this core wait for.
    Wake {
        /// Which group.
        group: u16,
        /// The row that is free.
        row: RowIndex,
    },
    /// Another core wants a row that this one may keep for its dirty data.
    Recall {
        /// Which group.
        group: u16,
        /// The row.
        row: RowIndex,
    },
    /// Other nodes are there to keep what this core writes to its lane, or not any more.
    KeepCopies {
        /// Which group.
        group: u16,
        /// Whether they are.
        keeping: Keeping,
        /// Since which epoch.
        epoch: Epoch,
    },
    /// This batch was sent to all of them.
    Sent {
        /// Which group.
        group: u16,
        /// Its number.
        batch: u64,
    },
    /// They keep this batch.
    Kept {
        /// Which group.
        group: u16,
        /// Its number.
        batch: u64,
    },
    /// About a row whose dirty data goes from node to node.
    Hand {
        /// Which group.
        group: u16,
        /// The row.
        row: RowIndex,
        /// What.
        hand: Hand,
    },
    /// Another core's lane of the journal is full and waits until this core has retired what it owes.
    Hurry {
        /// Which group.
        group: u16,
        /// The lane of who waits.
        lane: u16,
        /// Everything with a lower sequence number.
        below: u64,
    },
    /// Another core has a flush under way: everything in this core's lane of the journal is to be committed.
    Commit {
        /// Which group.
        group: u16,
        /// The lane of who flushes.
        lane: u16,
        /// What the flush is called there.
        flush: u32,
    },
    /// Another core has committed its share of a flush of this core.
    Committed {
        /// Which group.
        group: u16,
        /// Which flush.
        flush: u32,
    },
    /// Writes of a group may be acknowledged from memory from now on, or not any more; that is to be answered by
    /// [`ControlMessage::RamCommitted`].
    AllowRam {
        /// Which group.
        group: u16,
        /// Whether they may.
        allowed: bool,
    },
    /// What lost members miss, as far as this core had marked it when it asked, is durable.
    IntentDurable {
        /// Which group.
        group: u16,
    },
    /// A group's list of lost blocks, as it was when this core asked, is durable.
    LostDurable {
        /// Which group.
        group: u16,
    },
    /// The group is about to be closed: dirty data of this core goes to its place; to be answered by
    /// [`ControlMessage::GroupDrained`].
    DrainGroup {
        /// Which group.
        group: u16,
    },
    /// A member is rebuilt: what is in this core's lane by now goes to its place; to be answered by [`ControlMessage::GroupRetired`].
    RetireGroup {
        /// Which group.
        group: u16,
    },
    /// Another core has retired what this one waited for.
    TailMoved {
        /// Which group.
        group: u16,
    },
    /// The namespaces changed.
    Namespaces(Arc<Namespaces>),
    /// To be answered by [`ControlMessage::NamespacesKnown`] when the namespaces that were told before are served.
    SayNamespacesKnown {
        /// For which group.
        group: u16,
    },
    /// Ask every core for its latency histograms and counters.
    Observe(super::observe::ObserveCall),
    /// From a queue's core to the control core.
    ToControl(ControlMessage),
    /// From the management plane to the control core.
    Manage(ManageCall),
    /// Tell the control core when no command of this namespace, of which none begins any more, is in flight.
    DrainNamespace {
        /// Comes back with the answer.
        number: u64,
        /// The namespace.
        nsid: u32,
        /// It is gone: commands that no engine has yet are ended. Otherwise all that have come are carried out.
        is_gone: bool,
    },
    /// Tell the control core what was counted until now.
    CountNow {
        /// Comes back with the answer.
        request: u64,
    },
    /// To itself: go on with bytes of a connection that waited.
    ResumeParsing {
        /// The connection.
        queue: QueueId,
    },
    /// A drive does not answer: its commands are to be given up, and it gets no more; or that is over.
    Hung {
        /// Which drive of the node.
        drive: u16,
        /// Whether it hangs.
        hung: bool,
    },
    /// Something of this core's connections to shelves.
    Fabric(FabricOrder),
    /// To itself: a drive has refused an engine's command.
    DriveRefused {
        /// Names the command.
        payload: u64,
        /// Why.
        error: DriveError,
    },
    /// To itself: carry out what an engine has queued.
    Pump {
        /// Which group.
        group: u16,
    },
    /// To itself: a superblock write was answered without the ring.
    SuperblockWritten {
        /// Which group.
        group: u16,
        /// Which write.
        io: SuperblockIo,
        /// How it went.
        result: Result<(), DriveError>,
    },
    /// What the cores do without, as sentences, for `node.show`.
    Notes(Vec<String>),
    /// Commands of a namespace are held to other rules from now on, and those of some hosts are to end; to be answered by
    /// [`ControlMessage::ReservationEnforced`].
    EnforceReservation(Order),
    /// From the life of a node that shares its groups.
    Share(ShareOrder),
    /// From the outside: stop the node cleanly.
    Stop,
}

/// How the subsystem accepted a queue.
#[derive(Clone, Copy, Debug)]
pub struct Accept {
    /// The connection.
    pub queue: QueueId,
    /// Queue identifier; 0 is the admin queue.
    pub qid: u16,
    /// Entries of the submission queue.
    pub entries: u16,
    /// Whether the host wants SQHD kept.
    pub flow_control: bool,
    /// Whether its host was told that there is no volatile write cache, and so relies on every write that completes.
    pub write_through: bool,
    /// Its host, as reservations know it.
    pub life: Life,
}

/// How a connection came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The listener.
    pub port: PortId,
    /// The host's end.
    pub peer: SocketAddr,
    /// When it was accepted: no two connections at once, so that this is their order.
    pub accepted_ns: u64,
}

/// What the home of a row whose dirty data goes from node to node tells a core; see [`crate::amf::homes::HomeAction`].
#[derive(Clone, Debug)]
pub enum Hand {
    /// Another node wants the row, and takes its dirty data if it says so.
    Recall {
        /// It does.
        gives: bool,
    },
    /// A want that takes dirty data is answered without any.
    Answer,
    /// This came with the row.
    Adopt(Arc<HandedOver>),
    /// What was given comes back.
    Restore,
    /// What was given is not owed any more.
    Settle,
}

/// What a queue's core tells the control core.
pub enum ControlMessage {
    /// A connection was accepted.
    Opened {
        /// The connection.
        queue: QueueId,
        /// Where it came from.
        arrival: Arrival,
        /// The address that the host reached.
        local: SocketAddr,
    },
    /// A capsule for the control machines.
    Capsule {
        /// The connection.
        queue: QueueId,
        /// The command's slot on it.
        slot: u16,
        /// The command.
        entry: SubmissionEntry,
        /// Its data, for commands that bring some.
        data: Vec<u8>,
    },
    /// The connection is gone and nothing of it runs any more.
    Closed {
        /// The connection.
        queue: QueueId,
    },
    /// Answer to `Message::Abort`.
    Aborted {
        /// Token of the request.
        token: u32,
        /// Whether the command was aborted.
        aborted: bool,
    },
    /// A host command failed with a status that belongs into the error log.
    Failed {
        /// The connection.
        queue: QueueId,
        /// The command's identifier.
        cid: u16,
        /// What the host was told.
        status: Status,
        /// The namespace.
        nsid: u32,
        /// First block.
        slba: u64,
    },
    /// A member of a group failed a command.
    Fault {
        /// Which group.
        group: u16,
        /// Which of its members.
        member: MemberIndex,
        /// What the drive said.
        error: DriveError,
    },
    /// Something of a core's connections to shelves.
    Fabric(FabricReport),
    /// To itself: a drive of a shelf has answered a superblock write.
    SuperblockDone {
        /// Which write.
        number: u64,
        /// How it went.
        result: Result<(), DriveError>,
    },
    /// A member of a group could not read some blocks; the other members can.
    Media(Repair),
    /// A core has a write that it could acknowledge from memory; to be answered by [`Message::AllowRam`].
    RamWanted {
        /// Which group.
        group: u16,
    },
    /// A core wants a row of a shared group that this node does not hold.
    WantRow {
        /// Which group.
        group: u16,
        /// Which core.
        from: CoreIndex,
        /// The row.
        row: RowIndex,
        /// For what.
        mode: Mode,
        /// Dirty data may come along.
        takes: bool,
    },
    /// A core has left a row of a shared group to its home, with this dirty data.
    RowGiven {
        /// Which group.
        group: u16,
        /// Which core.
        from: CoreIndex,
        /// The row.
        row: RowIndex,
        /// Its data.
        data: Box<HandedOver>,
    },
    /// A core has a flush under way that is to commit what other nodes have acknowledged from memory, too.
    CommitNodes {
        /// Which group.
        group: u16,
        /// The flush.
        name: FlushName,
    },
    /// A core has done what a flush of another node asks for.
    CommittedFor {
        /// Which group.
        group: u16,
        /// The flush.
        name: FlushName,
    },
    /// Other nodes are to keep a batch of a core's lane.
    Keep {
        /// Which group.
        group: u16,
        /// The batch.
        copy: Box<Copy>,
        /// The core wants to hear when it was sent to them.
        reports: bool,
    },
    /// A core has the dirty data in its journal that came with a row.
    RowSecured {
        /// Which group.
        group: u16,
        /// The row.
        row: RowIndex,
    },
    /// The turn has come to the home of a row of a shared group.
    HomeTurn {
        /// Which group.
        group: u16,
        /// The row.
        row: RowIndex,
    },
    /// A lane of this node waits for what other nodes have yet to retire.
    HurryNodes {
        /// Which group.
        group: u16,
        /// Which lane.
        lane: u16,
        /// Everything with a lower sequence number.
        below: u64,
    },
    /// A core has retired what lanes of other nodes wait for.
    LanesMoved {
        /// Which group.
        group: u16,
        /// Bit `i` is lane `i`.
        lanes: u32,
    },
    /// A core has committed all that it had acknowledged from memory.
    RamCommitted {
        /// Which group.
        group: u16,
        /// Which core.
        from: CoreIndex,
    },
    /// All that a core had acknowledged when [`Message::KeepCopies`] named this epoch is on the drives, or kept by others again.
    KeptAgain {
        /// Which group.
        group: u16,
        /// Which core.
        from: CoreIndex,
        /// Which epoch.
        epoch: Epoch,
    },
    /// A core's journal is about to forget rows that lost members miss: to be answered by [`Message::IntentDurable`] once what is
    /// marked is durable.
    PersistIntent {
        /// Which group.
        group: u16,
        /// Which core.
        from: CoreIndex,
    },
    /// A core has changed a group's list of lost blocks: to be answered by [`Message::LostDurable`] once that is durable.
    PersistLost {
        /// Which group.
        group: u16,
        /// Which core.
        from: CoreIndex,
    },
    /// A core has brought its dirty data to its place, or could not.
    GroupDrained {
        /// Which group.
        group: u16,
        /// Whether nothing is left.
        drained: bool,
    },
    /// A core has brought to its place what was in its lane, or could not.
    GroupRetired {
        /// Which group.
        group: u16,
        /// Whether nothing is left of it.
        retired: bool,
    },
    /// A core knows of a member's new drive.
    MemberDriveSet {
        /// Which group.
        group: u16,
    },
    /// A core has nothing under way any more in rows that it was to hold.
    RowsHeld {
        /// Which group.
        group: u16,
        /// Which hold.
        wave: u64,
    },
    /// A core serves the namespaces as it was told.
    NamespacesKnown {
        /// For which group.
        group: u16,
    },
    /// A core looks blocks up in the layout that it was told.
    LayoutSet {
        /// Which group.
        group: u16,
    },
    /// A connection given to this core could not be taken.
    NotAdopted {
        /// The core.
        core: reactor::CoreIndex,
    },
    /// What the core did since the last such message.
    Counts {
        /// Which core.
        core: reactor::CoreIndex,
        /// Traffic of hosts.
        traffic: Traffic,
        /// Of each drive that there is something to tell of.
        drives: Vec<(u16, DriveReport)>,
    },
    /// What hosts saw of groups since the last such message.
    HostsSaw {
        /// Latencies by group.
        windows: Vec<(u16, Box<Window>)>,
    },
    /// Everything that one core counted before `Message::CountNow` was told.
    Counted {
        /// As in the question.
        request: u64,
    },
    /// To itself: reservations were made durable, or could not be.
    ReservationWritten {
        /// Names the write.
        number: u64,
        /// Whether they are on stable media.
        succeeded: bool,
    },
    /// A core holds commands to the rules of a reservation, and has nothing under way that they were to end.
    ReservationEnforced {
        /// Which of them.
        number: u64,
    },
    /// Nothing of a namespace of which none begins any more is in flight on one core.
    Drained {
        /// As it was asked.
        number: u64,
    },
}

/// Blocks of a member that are to be written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repair {
    /// Which group.
    pub group: u16,
    /// Which of its members.
    pub member: MemberIndex,
    /// The stripe row.
    pub row: RowIndex,
    /// First block, from the start of what the member gives to the row.
    pub offset_blocks: u32,
    /// Length.
    pub blocks: u32,
}

impl Repair {
    /// These blocks.
    pub fn new(group: u16, member: MemberIndex, row: RowIndex, offset_blocks: u32, blocks: u32) -> Self {
        Self {
            group,
            member,
            row,
            offset_blocks,
            blocks,
        }
    }
}

/// What hosts moved, for the health log page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Read commands completed.
    pub read_commands: u64,
    /// Write commands completed.
    pub write_commands: u64,
    /// Bytes read by hosts.
    pub read_bytes: u64,
    /// Bytes written by hosts.
    pub write_bytes: u64,
}
