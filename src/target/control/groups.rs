//! The groups of the node: opened or created, their superblocks written, their members' faults decided.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use reactor::{CoreIndex, Io};

use super::background::BackgroundControl;
use super::namespaces::News;
use super::ram::QUIET_TICKS;
use super::{Control, SuperblockWrite};
use crate::amf::background::{Event as BackgroundEvent, Limits, Process};
use crate::amf::engine::{Durability, GroupError, WriteBackConfig};
use crate::amf::geometry::Geometry;
use crate::amf::group::{
    Action, Candidate, Creation, Event, Group, GroupState, Opening, RebuildWork, Replay, Report, RequestId,
    SuperblockIo, VdiskSize, VdiskSpec,
};
use crate::amf::intent::IntentMap;
use crate::amf::journal::replay::Report as ReplayReport;
use crate::amf::journal::{JournalLayout, JournalShared, WRITE_BYTES_MAX};
use crate::amf::lock::LockTable;
use crate::amf::lost::LostList;
use crate::amf::ram::{Event as RamEvent, Ram};
use crate::amf::relayout::{Event as RelayoutEvent, Relayout};
use crate::amf::replication::ReplicationMode;
use crate::amf::reserving::Table;
use crate::amf::superblock::{self, JournalRecord, Name, RECORD_BYTES, Uuid};
use crate::amf::{MemberIndex, MemberSet, ParityTrust};
use crate::drive::DriveError;
use crate::icl::SlotSet;
use crate::target::array::{GroupShared, ScratchMemory};
use crate::target::assemble;
use crate::target::command::InternalCommand;
use crate::target::core::{Core, TokenKind, token};
use crate::target::drives::{DriveBinding, Kind, Medium, Verdict};
use crate::target::fabric::{Errand, Wanted};
use crate::target::message::{ControlMessage, Message};
use crate::target::shelf::{Header, is_data};

/// Lock words of a group: four for each row operation that the cores may have under way.
const LOCK_SLOTS: usize = 1 << 16;
/// Blocks of a fused Compare and Write: more could cross into another stripe row, which has a lock of its own.
pub const COMPARE_WRITE_BLOCKS: u32 = 1;

/// A group to be opened at the start.
pub struct GroupPlan {
    /// Where it comes from.
    pub source: GroupSource,
    /// The header of its drive, if that is one of a shelf.
    pub header: Option<Header>,
    /// How fast its background work may go.
    pub limits: Limits,
    /// Drives that are to be its spares, with fresh identities.
    pub spares: Vec<(u16, Uuid)>,
    /// What became of its journal; `None` for a new group, and for one that has none.
    pub replayed: Option<ReplayReport>,
    /// What lost members have missed, as the drives say; `None` for a group that keeps no count of that.
    pub intent: Option<IntentMap>,
    /// Blocks that no drive gives back.
    pub lost: LostList,
    /// Who has reserved its virtual disks, as the drives say; of a group that other nodes may serve too.
    pub reserved: Vec<Table>,
}

impl GroupPlan {
    /// Shape of the group.
    pub fn geometry(&self) -> Geometry {
        match &self.source {
            GroupSource::Found(candidate) => candidate.record().geometry(),
            GroupSource::New(creation) => creation.record().geometry(),
        }
    }

    /// Name of the group.
    pub fn name(&self) -> &Name {
        match &self.source {
            GroupSource::Found(candidate) => &candidate.record().name,
            GroupSource::New(creation) => &creation.record().name,
        }
    }
}

/// Where a group comes from.
pub enum GroupSource {
    /// It was found on the drives.
    Found(Box<Candidate>),
    /// It is made anew.
    New(Box<Creation>),
}

/// A virtual disk that the configuration wants.
#[derive(Clone, Debug)]
pub struct VdiskPlan {
    /// Name of its group.
    pub group: Name,
    /// Its name.
    pub name: Name,
    /// Its size in bytes; `None` for all that is left.
    pub bytes: Option<u64>,
    /// Its number, if the configuration gives one.
    pub nsid: Option<u32>,
    /// The nodes that serve it.
    pub ports: SlotSet,
    /// When its writes are done.
    pub replication: ReplicationMode,
    /// Random bytes for its identity.
    pub entropy: [u8; 32],
}

/// How far a group has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its first generation is being written.
    Opening,
    /// It serves.
    Open,
    /// It cannot go on.
    Failed,
    /// It was closed.
    Stopped,
}

/// One group and its machine.
pub(super) struct GroupControl {
    pub(super) machine: Group,
    pub(super) shared: Arc<GroupShared>,
    /// Drive of each member, as an index into the node's drives; `None` for a missing member.
    pub(super) drives: Vec<Option<u16>>,
    /// What the machine wants and what is held back until cores have answered; how many answers are awaited.
    held: VecDeque<Action>,
    awaited: u16,
    pub(super) phase: Phase,
    /// Carries out the waves of expansions.
    pub(super) relayout: Relayout,
    /// What hosts hear of a namespace when every core knows.
    pub(super) news: Option<News>,
    /// What is to be rebuilt.
    pub(super) rebuild: Option<RebuildWork>,
    pub(super) background: BackgroundControl,
    /// Drives that the configuration wants as spares, until the group is open.
    pub(super) planned_spares: Vec<(u16, Uuid)>,
    /// The header of its drive, if that is one of a shelf.
    pub(super) header: Option<Header>,
    /// How far it is with acknowledging from memory.
    pub(super) ram: Ram,
    /// Cores that wait until what lost members miss, or which blocks are lost, is durable, by the name of the request.
    pub(super) marking: BTreeMap<RequestId, CoreIndex>,
    /// Lost blocks, as was said last.
    pub(super) lost_blocks: u64,
    /// Cores that still bring dirty data to its place, before the group is closed.
    pub(super) draining: u16,
    /// Cores that have yet to say how they got on with retiring what their lanes held; whether all could so far.
    pub(super) retiring: (u16, bool),
    /// Generation of the newest member set that the engine of this core was told.
    pub(super) heard: u64,
    /// Why it failed, as a sentence.
    pub(super) failed: Option<String>,
    /// Its members are being flushed for the last time.
    pub(super) is_closing: bool,
    /// This node writes its superblocks and does its background work; another one may if nodes share it.
    pub(super) leads: bool,
}

impl GroupControl {
    pub(super) fn is_degraded(&self) -> bool {
        self.machine.snapshot().state == GroupState::Degraded
    }

    /// It cannot go on, and why.
    pub(super) fn fail(&mut self, why: String) {
        self.phase = Phase::Failed;
        self.failed = Some(why);
    }

    pub(super) fn is_failed(&self) -> bool {
        self.phase == Phase::Failed
    }

    pub(super) fn is_resyncing(&self) -> bool {
        self.machine.snapshot().resync.is_some()
    }

    /// Has these done after all that the machine wants.
    pub(super) fn hold(&mut self, actions: Vec<Action>) {
        self.held.extend(actions);
    }

    /// Nothing more is done of what the machine wants before so many cores have answered.
    pub(super) fn await_cores(&mut self, cores: u16) {
        assert_eq!(self.awaited, 0, "one thing at a time");
        self.awaited = cores;
    }

    /// A core has answered; true if it was the last.
    pub(super) fn core_answered(&mut self) -> bool {
        assert!(self.awaited > 0, "each core answers once");
        self.awaited -= 1;
        self.awaited == 0
    }

    /// Whether nothing is held back of what the machine wants.
    pub(super) fn is_settled(&self) -> bool {
        self.held.is_empty() && self.awaited == 0
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Members are to be rebuilt, in all rows or only in those that they missed.
    fn begin_rebuild(&mut self, work: RebuildWork) {
        self.rebuild = Some(work);
        let marks = self.machine.intent().filter(|_| work.partial);
        let rows = marks.map_or(self.shared.geometry.rows() - work.from_row, |map| {
            map.marked_rows()
        });
        self.background.rebuild_begins(work.partial, rows);
        let RebuildWork {
            members,
            from_row,
            partial,
            ..
        } = work;
        tracing::info!(group = %self.shared.name, members, from_row, partial, rows, "members are to be rebuilt");
    }

    /// Rows whose parity is known to be right.
    pub(super) fn resync_done_rows(&self) -> u64 {
        let running = self.background.machine.status();
        match running.filter(|status| status.process == Process::Sync) {
            Some(status) => status.rows_done,
            None => self
                .machine
                .snapshot()
                .resync
                .map_or(self.shared.geometry.rows(), |left| left.next_row),
        }
    }
}

/// The machine of a group that is to be opened, with what its lost members have missed as far as that is known.
pub(super) fn machine_of(source: GroupSource, intent: Option<IntentMap>, lost: LostList) -> Group {
    let group = match (source, intent) {
        (GroupSource::Found(candidate), Some(map)) => Group::assembled(*candidate).with_intent(map),
        (GroupSource::Found(candidate), None) => Group::assembled(*candidate),
        (GroupSource::New(creation), _) => return Group::form(*creation),
    };
    group.with_lost(lost)
}

/// What every core needs to write to a group's journal in the incarnation that begins now.
fn write_back(machine: &Group, journal: &JournalRecord, replayed: Option<&ReplayReport>) -> WriteBackConfig {
    let block = machine.geometry().block();
    WriteBackConfig {
        first_lane: 0,
        first_batch: 0,
        layout: JournalLayout {
            start: journal.start,
            lane_blocks: journal.lane_blocks,
            lanes: journal.lanes,
            incarnation: journal.incarnation,
            group: machine.uuid(),
            block,
        },
        // Numbers go on above all that is there: a record of an earlier incarnation is dead, but it need not be confusing.
        shared: Arc::new(JournalShared::new(
            journal.lanes,
            replayed.map_or(1, |report| report.next_seq.max(1)),
        )),
        keeps_copies: false,
        hands_over: false,
        durability: match machine.durability() {
            superblock::Durability::Journal => Durability::Journal,
            superblock::Durability::Ram => Durability::Ram,
            superblock::Durability::None => unreachable!("such a group has no journal"),
        },
        // No piece of a write is longer than a row, and lanes are made for that.
        write_blocks_max: (WRITE_BYTES_MAX / block.bytes()).min(machine.geometry().row_blocks()),
        intent: machine.intent().cloned(),
        lost: Some(Arc::clone(machine.lost_blocks())),
    }
}

/// What became of a journal before its group is opened.
pub(super) fn replay_of(report: Option<&ReplayReport>) -> Replay {
    report.map_or(Replay::None, |report| Replay::Done { rows: report.rows })
}

/// Nothing is served under this set: the machine announces the first one when it is durable.
const fn unserved() -> MemberSet {
    MemberSet {
        generation: 0,
        failed: 0,
        parity: ParityTrust::Nowhere,
        rebuilding: 0,
        rebuilt_rows: 0,
    }
}

impl Control {
    /// Opens one group: binds every core to it, then starts its machine.
    pub(super) fn open_group(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        plan: GroupPlan,
        memory: ScratchMemory,
    ) -> u16 {
        let machine = machine_of(plan.source, plan.intent, plan.lost);
        let geometry = machine.geometry();
        let lane_blocks_max = assemble::ring_bytes(&geometry, self.memory_mib) >> geometry.block().shift();
        let journal = machine.opening_journal(self.cores, lane_blocks_max);
        let journal = journal.map(|journal| write_back(&machine, &journal, plan.replayed.as_ref()));
        let marks_intent = journal.is_some();
        let locks = (LockTable::new(LOCK_SLOTS), journal, None);
        let index = self.bind_group(core, io, machine, plan.limits, memory, locks);
        let state = &mut self.groups[usize::from(index)];
        (state.planned_spares, state.header) = (plan.spares, plan.header);
        let opening = Opening {
            lanes: self.cores,
            lane_blocks_max,
            replay: replay_of(plan.replayed.as_ref()),
            // Who has a journal marks what lost members miss.
            marks_intent,
        };
        self.group_event(core, io, index, Event::Start(opening));
        index
    }

    /// Binds every core to a group, with this table of locks, this journal, and lanes of each node if other nodes serve it, too. Nothing of it is
    /// served before its machine says so.
    pub(super) fn bind_group(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        machine: Group,
        limits: Limits,
        memory: ScratchMemory,
        (lock, journal, lanes_each): (Arc<LockTable>, Option<WriteBackConfig>, Option<u16>),
    ) -> u16 {
        let index = u16::try_from(self.groups.len()).expect("a node has at most 128 groups");
        let lost_blocks = machine.lost_blocks().blocks();
        let geometry = machine.geometry();
        let background = BackgroundControl::new(&geometry, limits);
        let drives: Vec<Option<u16>> = (0..geometry.members())
            .map(|member| machine.drive_of(MemberIndex(member)))
            .collect();
        for (member, drive) in (0..geometry.members()).zip(&drives) {
            if let Some(drive) = drive {
                self.drive_uses[usize::from(*drive)].member = Some((index, member));
                self.health_cleared(*drive);
            }
        }
        let shared = Arc::new(GroupShared {
            index,
            name: machine.name().to_string(),
            geometry,
            layout: machine.layout(),
            lock,
            scratch_bytes: match memory {
                ScratchMemory::Own => assemble::scratch_bytes(&geometry, self.memory_mib),
                ScratchMemory::Spare => assemble::spare_scratch_bytes(self.memory_mib),
            },
            memory,
            read_cache: assemble::read_cache(self.read_cache_mib),
            journal,
            volatile: self.is_volatile(&machine, &drives),
            drives,
            lanes_each,
        });
        let members = unserved();
        self.groups.push(GroupControl {
            relayout: Relayout::new(&machine, self.cores),
            machine,
            shared: Arc::clone(&shared),
            drives: shared.drives.clone(),
            held: VecDeque::new(),
            awaited: 0,
            phase: Phase::Opening,
            news: None,
            rebuild: None,
            background,
            planned_spares: Vec::new(),
            header: None,
            ram: Ram::new(self.cores, QUIET_TICKS),
            marking: BTreeMap::new(),
            lost_blocks,
            draining: 0,
            retiring: (0, true),
            heard: members.generation,
            failed: None,
            is_closing: false,
            leads: true,
        });
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::AddGroup(Arc::clone(&shared), members));
        }
        index
    }

    /// Whether hosts may be told of writes that are not on stable media: only a journal on drives that keep what they have makes
    /// every write durable before (DESIGN section 5).
    fn is_volatile(&self, machine: &Group, drives: &[Option<u16>]) -> bool {
        let forgets = |drive: &u16| matches!(self.drives[usize::from(*drive)].medium, Medium::Memory(_));
        machine.durability() != superblock::Durability::Journal || drives.iter().flatten().any(forgets)
    }

    /// Feeds a group's machine and carries out what it wants.
    pub(super) fn group_event(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, event: Event) {
        let mut actions = Vec::new();
        self.groups[usize::from(group)]
            .machine
            .handle(event, &mut actions);
        self.groups[usize::from(group)].held.extend(actions);
        self.run_actions(core, io, group);
    }

    /// Carries out what a group's machine wants, in order, until the cores have to answer first.
    pub(super) fn run_actions(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        while self.groups[usize::from(group)].awaited == 0 {
            let Some(action) = self.groups[usize::from(group)].held.pop_front() else {
                break;
            };
            self.group_action(core, io, group, action);
        }
        self.background_needs(core, io, group);
        self.share_changed(core, io, group);
    }

    /// Tells every core of a member's new drive. Nothing that relies on it is said before all of them know.
    fn move_member(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        member: MemberIndex,
        drive: u16,
    ) {
        for usage in &mut self.drive_uses {
            if usage.member == Some((group, member.0)) {
                usage.member = None;
                usage.finding = Some("was a member whose place another drive has taken".to_owned());
            }
        }
        self.drive_uses[usize::from(drive)].member = Some((group, member.0));
        let state = &mut self.groups[usize::from(group)];
        let at = usize::from(member.0);
        if at >= state.drives.len() {
            state.drives.resize(at + 1, None); // An expansion brings members.
        }
        state.drives[at] = Some(drive);
        state.await_cores(self.cores);
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::MemberDrive { group, member, drive });
        }
    }

    /// A core knows of a member's new drive.
    pub(super) fn member_drive_set(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        if state.core_answered() {
            self.run_actions(core, io, group);
        }
    }

    fn group_action(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, action: Action) {
        match action {
            Action::WriteSuperblock {
                io: name,
                drive,
                offset_bytes,
                record,
            } => self.write_superblock(core, io, (group, name), drive, offset_bytes, &record),
            Action::MemberDrive { member, drive } => self.move_member(core, io, group, member, drive),
            // Where nodes share the group, all of them go by its record.
            Action::RamAllowed | Action::RamCleared if self.is_shared(group) => {}
            Action::RamAllowed => self.ram_event(core, io, group, RamEvent::Allowed),
            Action::RamCleared => self.ram_event(core, io, group, RamEvent::Cleared),
            Action::IntentDurable { request } => self.intent_durable(core, io, group, request),
            Action::LostDurable { request } => self.lost_durable(core, io, group, request),
            Action::PageDurable { request } => self.page_durable(core, io, request),
            Action::Members(set) => self.announce_members(core, io, group, set),
            Action::Started => {
                self.groups[usize::from(group)].phase = Phase::Open;
                tracing::info!(group = %self.groups[usize::from(group)].shared.name, "group is open");
                self.show_group(core, io, group);
                self.add_planned_spares(core, io, group);
                self.try_listen(core, io);
            }
            Action::LanesOver(_) => self.entries_ended(core, io, group),
            Action::VdiskAdded(_) => {
                self.publish_namespaces(core, io);
                self.try_listen(core, io);
            }
            Action::VdiskRemoved { nsid } => self.remove_namespace(core, io, group, nsid),
            Action::VdiskResized(record) => self.resize_namespace(core, io, group, &record),
            Action::VdiskChanged(record) => self.change_namespace(core, io, group, &record),
            Action::Layout { layout, expansion } => {
                self.relayout_event(core, io, group, RelayoutEvent::Durable { layout, expansion });
            }
            Action::Restored => unreachable!("rows are restored before the cores start"),
            Action::Reply { request, result } => self.request_done(core, io, group, request, result),
            Action::GroupFailed { why, members } => {
                let state = &mut self.groups[usize::from(group)];
                state.fail(why.to_string());
                tracing::error!(group = %state.shared.name, %why, "group failed: its virtual disks cannot be written any more");
                self.announce_members(core, io, group, members);
                self.share_failed(core, io, group, &why.to_string());
                self.relayout_event(core, io, group, RelayoutEvent::GroupFailed);
                self.try_listen(core, io);
                self.try_finish(io);
            }
            Action::Stopped { clean } => {
                let state = &mut self.groups[usize::from(group)];
                state.phase = Phase::Stopped;
                tracing::info!(group = %state.shared.name, clean, "group is closed");
                self.try_finish(io);
            }
            Action::RebuildNeeded(work) => self.groups[usize::from(group)].begin_rebuild(work),
            Action::RebuildOver { .. } => {
                let state = &mut self.groups[usize::from(group)];
                state.rebuild = None;
                state.background.rebuild_ends();
            }
            Action::Report(report) => self.log_group(group, report),
        }
    }

    fn log_group(&self, group: u16, report: Report) {
        let state = &self.groups[usize::from(group)];
        let name = &state.shared.name;
        match report {
            Report::MemberLost { member, reason } => {
                let drive = state.drives.get(usize::from(member.0)).copied().flatten();
                let drive = drive.map_or("(none)", |drive| &self.drives[usize::from(drive)].name);
                tracing::error!(group = %name, member = member.0, drive, %reason, "member lost: redundancy is reduced");
            }
            Report::MemberRolledForward { member } => {
                tracing::info!(group = %name, member = member.0, "member lagged one update behind and is brought up to date");
            }
            Report::CopiesRewritten { member } => {
                tracing::warn!(group = %name, member = member.0, "damaged superblock copies are rewritten");
            }
            Report::Durable(set) => {
                tracing::info!(group = %name, generation = set.generation, lost = set.failed_count(), "generation is durable");
            }
            Report::ResyncNeeded { from_row, unclean } => {
                tracing::info!(group = %name, from_row, unclean, "parity has to be resynchronised");
            }
            Report::Replayed { rows } => {
                tracing::info!(group = %name, rows, "journal is replayed");
            }
            Report::LostWritesAccepted => {
                tracing::warn!(group = %name, "started although acknowledged writes are lost, as accepted");
            }
            Report::SpareTaken { member, drive } => {
                let drive = &self.drives[usize::from(drive)].name;
                tracing::warn!(group = %name, member = member.0, %drive, "spare drive takes the place of a lost member");
            }
            Report::SpareLost { spare, error } => {
                tracing::error!(group = %name, %spare, %error, "spare drive failed and is none any more");
            }
            Report::MemberRebuilt { member } => {
                tracing::info!(group = %name, member = member.0, "member is rebuilt");
            }
            Report::DirtyDegradedAccepted => {
                tracing::warn!(group = %name, "started dirty and degraded, as accepted: blocks that were being written may be wrong");
            }
        }
    }

    fn write_superblock(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        (group, name): (u16, SuperblockIo),
        drive: u16,
        offset_bytes: u64,
        record: &[u8; RECORD_BYTES],
    ) {
        let spec = &self.drives[usize::from(drive)];
        let write = |span| SuperblockWrite {
            group,
            name,
            span,
            drive,
            started_awake: core.awake.read(io.now()),
            given_up: false,
        };
        let bytes = u32::try_from(RECORD_BYTES).expect("4096");
        if spec.faults.armed() {
            match spec.faults.judge(Kind::Write { fua: true }, offset_bytes, bytes) {
                Verdict::Pass(_) => {}
                Verdict::Fail(error) => return core.tell_superblock(io, group, name, Err(error)),
                Verdict::Park => {
                    self.superblock_next += 1;
                    self.superblocks.insert(self.superblock_next, write(None));
                    return;
                }
            }
        }
        match (&core.drives[usize::from(drive)], &spec.medium) {
            (DriveBinding::File(_) | DriveBinding::Fabric, _) => {
                let Some(span) = self.superblock_spans.pop() else {
                    // As many as may be are under way: it is written when one of them is done.
                    self.superblocks_waiting
                        .push_back((group, name, drive, offset_bytes, Box::new(*record)));
                    return;
                };
                self.superblock_next += 1;
                self.superblocks.insert(self.superblock_next, write(Some(span)));
                io.arena_mut().copy_in(span, 0, record);
                self.issue_superblock(core, io, drive, offset_bytes, span);
            }
            (DriveBinding::Memory, Medium::Memory(memory)) => {
                memory.memory.write(
                    usize::try_from(offset_bytes).expect("a memory drive fits the address space"),
                    record,
                );
                core.tell_superblock(io, group, name, Ok(()));
            }
            (DriveBinding::Memory | DriveBinding::Lost, _) => {
                core.tell_superblock(io, group, name, Err(DriveError::Gone));
            }
        }
    }

    /// Hands the newest superblock write to its drive.
    fn issue_superblock(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        drive: u16,
        at: u64,
        span: reactor::Span,
    ) {
        let number = self.superblock_next;
        if let DriveBinding::File(file) = core.drives[usize::from(drive)] {
            return io.write(file, token(TokenKind::Superblock, number), span, at, true);
        }
        let wanted = Wanted {
            errand: Errand::Superblock(number),
            drive,
            kind: Kind::Write { fua: true },
            at,
            bytes: span.bytes(),
            span: Some(span),
        };
        if let Err(error) = core.fabric_begin(wanted) {
            let result = Err(error);
            core.tell_control(io, ControlMessage::SuperblockDone { number, result });
        }
    }

    /// Writes the superblocks that found no buffer.
    pub(in crate::target) fn retry_superblocks(&mut self, core: &mut Core, io: &mut Io<Message>) {
        for _ in 0..self.superblocks_waiting.len() {
            let Some((group, name, drive, offset, record)) = self.superblocks_waiting.pop_front() else {
                return;
            };
            self.write_superblock(core, io, (group, name), drive, offset, &record);
        }
    }

    pub(in crate::target) fn superblock_written(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        name: SuperblockIo,
        result: Result<(), DriveError>,
    ) {
        self.group_event(core, io, group, Event::SuperblockWritten { io: name, result });
    }

    pub(super) fn announce_members(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        set: MemberSet,
    ) {
        self.groups[usize::from(group)].shared.lock.publish(set);
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::Members { group, set });
        }
    }

    /// A core reports that a member failed a command.
    pub(super) fn member_fault(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        member: MemberIndex,
        error: DriveError,
    ) {
        let state = &self.groups[usize::from(group)];
        if let Some(drive) = state.drives[usize::from(member.0)] {
            if self.has_lost(drive) {
                return;
            }
            self.drive_uses[usize::from(drive)].errors += 1;
        }
        // Every command that was under way reports its own failure: one line is enough.
        let fault = (member.0, state.machine.snapshot().generation);
        if self.logged_faults.insert(group, fault) != Some(fault) {
            tracing::warn!(group = %state.shared.name, member = member.0, %error, "member failed a command");
        }
        self.health_failed(group, member, error);
        if self.is_shared(group) {
            return self.share_fault(core, io, group, member, error);
        }
        self.group_event(core, io, group, Event::MemberFault { member, error });
    }

    /// Begins to listen once no group is opening and every configured virtual disk is there. Those of a shared group that opens later are made then.
    pub(super) fn try_listen(&mut self, core: &mut Core, io: &mut Io<Message>) {
        if self.stopping || self.groups.iter().any(|group| group.phase == Phase::Opening) {
            return;
        }
        if !self.share_is_ready() || self.planned_pending.is_some() {
            return;
        }
        self.forget_planned();
        // What the configuration wants of a shared group is made by whoever leads it.
        let made = self
            .vdisks
            .iter()
            .rposition(|plan| self.makes_vdisks_of(&plan.group));
        if let Some(made) = made {
            let plan = self.vdisks.remove(made);
            return self.create_planned(core, io, plan);
        }
        let has_vdisks = self.groups.iter().any(|group| !group.machine.vdisks().is_empty());
        if self.listening || !self.vdisks.is_empty() && !has_vdisks {
            return; // Whoever leads is about to make them.
        }
        self.listen(io);
        if let Some(ready) = self.ready.take() {
            drop(ready.send(Ok(())));
        }
    }

    /// What is there, whoever made it, is not made once more, even if an operator deletes it.
    fn forget_planned(&mut self) {
        let records = self.groups.iter().flat_map(|group| group.machine.vdisks());
        let names: Vec<_> = records.map(|record| record.name.clone()).collect();
        self.vdisks.retain(|plan| !names.contains(&plan.name));
    }

    /// Creates a virtual disk that the configuration wants.
    fn create_planned(&mut self, core: &mut Core, io: &mut Io<Message>, plan: VdiskPlan) {
        let found = self
            .groups
            .iter()
            .position(|group| group.shared.name == plan.group.as_str());
        let Some(group) = found.filter(|group| self.groups[*group].phase == Phase::Open) else {
            if found.is_none() {
                tracing::warn!(vdisk = %plan.name, group = %plan.group, "virtual disk is not there: its group was not opened");
            }
            return self.try_listen(core, io);
        };
        let block = u64::from(self.groups[group].shared.geometry.block().bytes());
        let spec = VdiskSpec {
            name: plan.name,
            size: plan.bytes.map_or(VdiskSize::LargestFree, |bytes| {
                VdiskSize::Blocks(bytes.div_ceil(block))
            }),
            nsid: match &self.groups[group].header {
                Some(_) => self.shelf_nsid(group, plan.bytes.is_some()),
                None => plan.nsid.or_else(|| self.free_nsid()),
            },
            uuid: Uuid(random_uuid(&plan.entropy[..16])),
            nguid: self.make_nguid(&plan.entropy[16..]),
            ports: plan.ports,
            replication: plan.replication,
        };
        let request = self.next_request();
        self.planned_pending = Some(request);
        let group = u16::try_from(group).expect("a node has at most 128 groups");
        self.group_event(core, io, group, Event::CreateVdisk { request, spec });
    }

    /// Whether a virtual disk has this number, or one that is being made.
    pub(super) fn is_used(&self, nsid: u32) -> bool {
        let mut records = self.groups.iter().flat_map(|group| group.machine.vdisks());
        records.any(|record| record.nsid == nsid)
            || self.vdisks_to_come().any(|(_, to_come)| to_come == Some(nsid))
    }

    /// The lowest namespace number that no group uses.
    pub(super) fn free_nsid(&self) -> Option<u32> {
        (1..=crate::target::namespaces::NSID_MAX).find(|nsid| !self.is_used(*nsid))
    }

    /// The number of a namespace of a shelf's drive: that of its quorum area, which is made first, is the even one of a pair, and that of
    /// its data the odd one before.
    fn shelf_nsid(&self, group: usize, is_quorum: bool) -> Option<u32> {
        let pair_is_free = |data: &u32| !self.is_used(*data) && !self.is_used(*data + 1);
        if is_quorum {
            let mut pairs = (1..crate::target::namespaces::NSID_MAX).step_by(2);
            return pairs.find(pair_is_free).map(|data| data + 1);
        }
        let mut made = self.groups[group].machine.vdisks().iter();
        made.find(|record| !is_data(record.nsid))
            .map(|record| record.nsid - 1)
    }

    /// A globally unique identifier with the vendor's OUI.
    ///
    /// Source: NVM Express Base Specification 2.0, section 4.5.1.2: bytes 8 to 10 are the OUI, the others the vendor's.
    pub(super) fn make_nguid(&self, entropy: &[u8]) -> [u8; 16] {
        let mut nguid = [0; 16];
        nguid.copy_from_slice(&entropy[..16]);
        nguid[8..11].copy_from_slice(&self.oui);
        nguid
    }

    pub(super) fn next_request(&mut self) -> RequestId {
        self.request_next += 1;
        RequestId(self.request_next)
    }
}

impl Control {
    /// An engine completed a request of the control core's own.
    pub(in crate::target) fn internal_done(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        command: InternalCommand,
        result: Result<(), GroupError>,
    ) {
        match command {
            InternalCommand::Drain | InternalCommand::Retire => {
                unreachable!("a core says itself that it has")
            }
            InternalCommand::Repair { number } => self.repair_done(core, io, number, result),
            InternalCommand::Close if result.is_err() => self.close_unclean(io, group),
            InternalCommand::Close => self.group_event(core, io, group, Event::Stop),
            InternalCommand::BackgroundFlush => {
                let done = result.is_ok();
                self.background_event(core, io, group, BackgroundEvent::Flushed { done });
            }
            InternalCommand::Move(_) => self.relayout_event(core, io, group, RelayoutEvent::Moved(result)),
            InternalCommand::MoveFlush => {
                self.relayout_event(core, io, group, RelayoutEvent::Flushed(result));
            }
            InternalCommand::Row(process, row) => self.row_done(core, io, group, (process, row), result),
        }
    }
}

/// A version 4 UUID from random bytes.
pub(super) fn random_uuid(entropy: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&entropy[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes()
}
