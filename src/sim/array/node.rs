//! One life of a node that shares its group: engines, lock table, group machine, journal and its part in the group, wired as the program wires them.
//!
//! Owns what a process has in memory. Calls come in and [`Effect`]s go out: the world carries them out, each in its own time. What `target` does in
//! `control/share.rs` is done in [`share`], in the same order, without sockets.

mod link;
mod share;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Counters, Mutant, Setting};
use crate::amf::arbiter::{Arbitration, Config as LockConfig, HOLD_NS_MIN, QueueOrder};
use crate::amf::engine::{GroupError, IoTag, Request};
use crate::amf::group::{Action as GroupAction, Candidate, Creation, Event, Group, SuperblockIo};
use crate::amf::hand_over::HandedOver;
use crate::amf::homes::Homes;
use crate::amf::journal::JournalShared;
use crate::amf::journal::replay::Report;
use crate::amf::lock::{HOME, LockTable, Mode};
use crate::amf::lost::LostList;
use crate::amf::peering::note::FlushName;
use crate::amf::peering::{Peering, Recovery};
use crate::amf::replica::{Copy, Keeping, Name};
use crate::amf::superblock::RECORD_BYTES;
use crate::amf::{MemberIndex, MemberSet, RowIndex};
use crate::drive::DriveError;
use crate::icl::link::{Departing, Links};
use crate::icl::membership::record::EpochRecord;
use crate::icl::{Epoch, Slot, SlotSet};
use crate::sim::drive::Command;
use crate::sim::history::Wish;
use crate::sim::host::{Order, Question};
use crate::sim::node::{Ask, Asker, Core, LaneCall, Owner};
use crate::sim::stamp::{BLOCK_BYTES, Block};
use crate::vdisk::VirtualDisk;

/// Lock words: the fewest there may be, so that rows meet in a slot.
const LOCK_SLOTS: usize = 64;

/// What a node keeps for others: little, so that there is no room at times.
const KEPT_BYTES_MAX: usize = 64 * BLOCK_BYTES;

/// What the world does for a node.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// Ask a drive, and answer with [`Node::drive_done`] or [`Node::superblock_done`].
    Drive {
        drive: u16,
        command: Command,
        asker: Asker,
    },
    /// Deliver with [`Node::deliver`], in order between the same two.
    Mail { from: u16, to: u16, mail: Mail },
    /// Send to the life at the other end of the path to a slot.
    Packet { to: Slot, packet: Vec<u8> },
    /// Close that path.
    HangUp(Slot),
    /// A host's command is over.
    Done {
        command: u32,
        result: Result<(), GroupError>,
        data: Vec<u8>,
    },
    /// To the thread of the life.
    Heard(Heard),
    /// The node lets cores into this row, which it has got from other nodes or given up.
    Row(RowIndex),
    /// Locks are granted in this epoch.
    Serves(Epoch),
    /// All that was acknowledged before this epoch is on the drives, or with its partners.
    Restored(Epoch),
}

/// What a control core tells the thread of its life.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    /// The barrier is done.
    BarrierDone(Epoch),
    /// The group is to be opened or brought up to date.
    RecoverGroup(Recovery),
    /// It is.
    Recovered(Epoch),
    /// Everything is in its place, and the cores end.
    Stopped,
    /// This life cannot go on, and why.
    Failed(&'static str),
    /// This node cannot serve what others do, and why.
    Unfit(String),
}

/// What cores and the control core tell each other.
#[derive(Clone, Debug)]
pub(super) enum Mail {
    /// Whether nodes serve the group, or are going to.
    Served(bool),
    /// A row was released.
    Wake(RowIndex),
    /// A row that the core keeps is wanted.
    Recall(RowIndex),
    /// By another node, which takes its dirty data if it says so.
    RecallFor(RowIndex, bool),
    /// A want that takes dirty data is answered without any.
    Answer(RowIndex),
    /// Dirty data came with a row.
    Adopt(RowIndex, Arc<HandedOver>),
    /// What was given comes back.
    Restore(RowIndex),
    /// It is not owed any more.
    Settle(RowIndex),
    /// To the control core: a core has laid out a row's dirty data.
    Given {
        core: u16,
        row: RowIndex,
        data: Arc<HandedOver>,
    },
    /// To the control core: what came with a row is committed.
    Secured(RowIndex),
    /// About the journal, from a lane.
    Lane { lane: u16, call: LaneCall },
    /// These members are durable.
    Members(MemberSet),
    /// To the control core: a member failed a command.
    Fault { member: MemberIndex, error: DriveError },
    /// To the control core: a core wants a row.
    Want {
        core: u16,
        row: RowIndex,
        mode: Mode,
        takes: bool,
    },
    /// To the control core: the turn has come to a home.
    HomeTurn(RowIndex),
    /// To the control core: a lane waits for other nodes.
    HurryNodes { lane: u16, below: u64 },
    /// To the control core: what these lanes wait for is retired here.
    LanesMoved(u32),
    /// To the control core: other nodes are to keep a batch.
    Keep(Copy, bool),
    /// Other nodes are there to do that, or not.
    KeepCopies(Keeping, Epoch),
    /// To the control core: a core's are kept by those that were named with this epoch, all that it had acknowledged before.
    KeptAgain(u16, Epoch),
    /// They keep this batch.
    Kept(u64),
    /// It was sent to all partners.
    Sent(u64),
    /// To the control core: a core has a flush under way.
    CommitNodes(FlushName),
    /// To the control core: a lane has done what another node's flush asks for.
    CommittedFor(FlushName),
    /// To the control core: a core wants to acknowledge from memory.
    WantMemory,
    /// It may, or not any more.
    AllowMemory(bool),
    /// To the control core: what a core has acknowledged so is committed.
    MemoryCommitted(u16),
    /// Bring what is dirty to its place.
    Drain,
}

/// The control core, as a place for mail.
pub(super) const CONTROL: u16 = u16::MAX;

/// What came of a group that was to be recovered.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nobody has it open: it is to be opened.
    Open(Plan),
    /// Others have it open, and this node writes its superblocks from now on.
    TakeOver(Plan),
    /// This node goes on: these drives are not in use, and numbers of entries go on from there.
    GoOn { unused: Vec<u16>, next: Option<u64> },
    /// It cannot be opened, and why.
    Refused(String),
}

/// A group that is to be opened.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) source: Source,
    pub(super) replayed: Option<Report>,
    pub(super) lost: LostList,
}

/// Where it comes from.
#[derive(Debug)]
pub(super) enum Source {
    Found(Box<Candidate>),
    New(Box<Creation>),
}

/// How far a recovery is that this node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovering {
    Replayed { below: Option<u64> },
    Ending,
}

/// How far the group has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    Failed,
    Stopped,
}

/// The group, once cores are bound to it.
#[derive(Debug)]
struct Bound {
    machine: Group,
    cores: Vec<Core>,
    drives: Vec<Option<u16>>,
    held: VecDeque<GroupAction>,
    phase: Phase,
    /// This node writes its superblocks.
    leads: bool,
    disk: Option<VirtualDisk>,
    /// Cores that still bring dirty data to its place.
    draining: u16,
}

/// Where a life has its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) slot: Slot,
    /// Which life: its incarnation.
    pub(super) life: u64,
}

/// One life of a node.
#[derive(Debug)]
pub(super) struct Node {
    place: Place,
    setting: Setting,
    now: u64,
    table: Arc<LockTable>,
    journal: Arc<JournalShared>,
    peering: Peering,
    links: Links,
    /// Batches of which a core wants to hear that they were sent.
    departing: Departing<Name>,
    record: Option<EpochRecord>,
    bound: Option<Bound>,
    recovers: Option<(Epoch, Recovering)>,
    steps_down: bool,
    barrier: Epoch,
    recovered: Epoch,
    is_served: bool,
    refused: Option<String>,
    is_closing: bool,
    has_stopped: bool,
    requests: u64,
    acknowledged: Vec<u32>,
    compared: BTreeMap<u32, Result<(), GroupError>>,
    /// What reads of hosts have brought, for the mutant that answers from it.
    remembered: BTreeMap<(u64, u32), Vec<u8>>,
    /// Reads under way, for that mutant.
    reading: BTreeMap<u32, (u64, u32)>,
    pub(super) counters: Counters,
}

impl Node {
    /// A life that is in no epoch yet.
    pub(super) fn new(place: Place, setting: &Setting) -> Self {
        let table = LockTable::shared(LOCK_SLOTS);
        let journal = Arc::new(JournalShared::joining(setting.lanes(), 1));
        let arbitration = Arbitration::new(LockConfig {
            local: place.slot,
            order: QueueOrder::Fifo,
            hold_ns_min: HOLD_NS_MIN,
            holder_limit: 48,
            arbiter_limit: 400,
            queue_max: 64,
        });
        let homes = Homes::new(place.slot, Arc::clone(&table), Arc::clone(&journal), arbitration);
        let mut replication = setting.replication;
        if setting.mutant == Mutant::OwnGroup {
            for slot in Slot::all() {
                replication = replication.kept_by(slot, SlotSet(u8::MAX));
            }
        }
        Self {
            place,
            setting: setting.clone(),
            now: 0,
            table,
            journal,
            peering: Peering::new(place.slot, setting.cores, homes).copying(replication, KEPT_BYTES_MAX),
            links: link::links_of(place),
            departing: Departing::default(),
            record: None,
            bound: None,
            recovers: None,
            steps_down: false,
            barrier: Epoch(0),
            recovered: Epoch(0),
            is_served: false,
            refused: None,
            is_closing: false,
            has_stopped: false,
            requests: 0,
            acknowledged: Vec::new(),
            compared: BTreeMap::new(),
            remembered: BTreeMap::new(),
            reading: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Time has gone on.
    pub(super) const fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    /// The epoch that it has entered.
    pub(super) const fn record(&self) -> Option<&EpochRecord> {
        self.record.as_ref()
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.record.as_ref().map_or(Epoch(0), |record| record.epoch)
    }

    /// The disk, if hosts may come.
    pub(super) fn disk(&self) -> Option<VirtualDisk> {
        self.bound
            .as_ref()?
            .disk
            .filter(|_| self.is_served && !self.is_closing)
    }

    /// Whether it was asked to go.
    pub(super) const fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Why the group is not served here.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Whether locks are granted in the epoch that it is in, and all cores have heard of it.
    pub(super) fn all_cores_serve(&self) -> bool {
        let mut cores = self.bound.iter().flat_map(|bound| &bound.cores);
        self.serves() && cores.all(Core::is_served)
    }

    /// Whether locks are granted in the epoch that it is in.
    pub(super) fn serves(&self) -> bool {
        self.peering.serves()
    }

    pub(super) const fn table(&self) -> &Arc<LockTable> {
        &self.table
    }

    /// Blocks of user data in a row.
    pub(super) fn row_blocks(&self) -> Option<u32> {
        Some(self.bound.as_ref()?.machine.geometry().row_blocks())
    }

    /// When [`Self::tick_locks`] or [`Self::end_turn`] is due.
    pub(super) fn wake_at(&self) -> u64 {
        let links = self.links.wake_at_ns().unwrap_or(u64::MAX);
        self.peering.wake_at_ns().min(links)
    }

    /// What it is about, for people.
    pub(super) fn unfinished(&self) -> String {
        let bound = self.bound.as_ref();
        format!(
            "slot {} life {} epoch {} {:?} leads {} serves {} recovers {:?} steps down {} barrier {} recovered {} refused {:?} idle {}; {:?}",
            self.place.slot,
            self.place.life,
            self.epoch(),
            bound.map(|bound| bound.phase),
            self.peering.leads(),
            self.peering.serves(),
            self.recovers,
            self.steps_down,
            self.barrier,
            self.recovered,
            self.refused,
            self.peering.homes().is_idle(),
            bound.map(|bound| {
                let waits = bound.cores.iter().map(|core| core.outstanding.len());
                (bound.machine.is_quiet(), waits.collect::<Vec<_>>())
            }),
        )
    }

    /// A host's command arrives at a core.
    pub(super) fn submit(&mut self, core: u16, order: &Order, out: &mut Vec<Effect>) {
        let command = order.command;
        let [first, second] = order.buffers(self.setting.shape.block as usize);
        let bound = self.bound.as_mut().expect("hosts come to a group that is served");
        let at = &mut bound.cores[usize::from(core)];
        let (owner, is_swap) = match order.question.wish {
            Wish::Swap { .. } => (Owner::Comparison(command), true),
            Wish::Read | Wish::Write { .. } | Wish::Zero { .. } | Wish::Compare { .. } | Wish::Flush => {
                (Owner::Host(command), false)
            }
        };
        let id = at.take_slot(owner, first);
        let partner = if is_swap {
            at.take_slot(Owner::SwapWrite(command), second)
        } else {
            id
        };
        let replication = bound.machine.vdisks().first().map(|disk| disk.replication);
        let replication = replication.expect("hosts come to a disk");
        at.submit(id, order.request(partner, replication));
        self.answer_too_early(order, out);
        self.pump(core, out);
    }

    /// What mutants do.
    fn answer_too_early(&mut self, order: &Order, out: &mut Vec<Effect>) {
        let (command, Question { wish, lba, blocks }) = (order.command, order.question);
        let place = (lba, blocks);
        let data = match (self.setting.mutant, wish) {
            (Mutant::EarlyAcknowledge, Wish::Write { .. } | Wish::Zero { .. }) => Vec::new(),
            (Mutant::RememberedRead, Wish::Read) => match self.remembered.get(&place) {
                Some(data) => data.clone(),
                None => {
                    self.reading.insert(command, place);
                    return;
                }
            },
            _ => return,
        };
        self.acknowledged.push(command);
        let result = Ok(());
        out.push(Effect::Done {
            command,
            result,
            data,
        });
    }

    /// A drive has answered an engine.
    pub(super) fn drive_done(
        &mut self,
        core: u16,
        io: IoTag,
        result: Result<Vec<Block>, DriveError>,
        out: &mut Vec<Effect>,
    ) {
        self.core(core).drive_done(io, result);
        self.pump(core, out);
    }

    fn core(&mut self, core: u16) -> &mut Core {
        let bound = self.bound.as_mut().expect("cores are bound to the group");
        &mut bound.cores[usize::from(core)]
    }

    /// A message arrives at a core, or at the control core.
    pub(super) fn deliver(&mut self, to: u16, mail: Mail, out: &mut Vec<Effect>) {
        match mail {
            Mail::Fault { member, error } => self.member_fault(member, error, out),
            Mail::Want {
                core,
                row,
                mode,
                takes,
            } => self.peer(out, |peering, now, out| {
                peering.want(now, core, row, mode, takes, out);
            }),
            Mail::Given { core, row, data } => {
                let data = HandedOver::clone(&data);
                self.peer(out, |peering, _, _| peering.given(row, core, data));
            }
            Mail::Secured(row) => self.peer(out, |peering, now, out| peering.secured(now, row, out)),
            Mail::HomeTurn(row) => self.peer(out, |peering, now, out| peering.turn(now, row, out)),
            Mail::HurryNodes { lane, below } => {
                self.peer(out, |peering, _, out| peering.hurry(lane, below, out));
            }
            Mail::LanesMoved(lanes) => self.peer(out, |peering, _, out| peering.tail_moved(lanes, out)),
            Mail::Wake(row) => self.core(to).wake(row),
            Mail::Recall(row) => self.core(to).recall(row),
            Mail::RecallFor(row, gives) => self.core(to).recall_for(row, gives),
            Mail::Answer(row) => self.core(to).answer(row),
            Mail::Adopt(row, data) => {
                self.counters.adopted += 1;
                self.core(to).adopt(row, &data);
            }
            Mail::Restore(row) => {
                self.counters.restored += 1;
                self.core(to).restore(row);
            }
            Mail::Settle(row) => self.core(to).settle_given(row),
            Mail::Keep(copy, reports) => {
                self.peer(out, |peering, _, out| peering.keep(&copy, reports, out));
            }
            Mail::Sent(batch) => {
                self.counters.sent += 1;
                self.core(to).sent(batch);
            }
            Mail::CommitNodes(name) => {
                let slots = u8::try_from(self.setting.nodes).expect("few nodes");
                self.peer(out, |peering, _, out| peering.commit(name, slots, out));
            }
            Mail::CommittedFor(name) => self.peer(out, |peering, _, out| peering.committed(name, out)),
            Mail::WantMemory => self.peer(out, |peering, _, out| peering.want_memory(out)),
            Mail::AllowMemory(allowed) => self.core(to).allow_ram(allowed),
            Mail::MemoryCommitted(core) => {
                self.peer(out, |peering, _, out| peering.memory_committed(core, out));
            }
            Mail::KeepCopies(keeping, epoch) => self.core(to).keep(keeping, epoch),
            Mail::KeptAgain(core, epoch) => self.kept_again(core, epoch, out),
            Mail::Kept(batch) => {
                self.counters.copies_kept += 1;
                self.core(to).kept(batch);
            }
            Mail::Lane { lane, call } => self.core(to).lane(lane, call),
            Mail::Members(set) => self.core(to).set_members(set),
            Mail::Served(is_served) => self.core(to).set_served(is_served),
            Mail::Drain => {
                let command = self.core(to).take_slot(Owner::Drain(0), Vec::new());
                self.core(to).submit(command, Request::Drain);
            }
        }
        if to != CONTROL {
            self.pump(to, out);
        }
    }

    /// Carries out what a core's engine asks for, until it asks for nothing more.
    fn pump(&mut self, core: u16, out: &mut Vec<Effect>) {
        let mut asked = Vec::new();
        loop {
            self.core(core).work(&mut asked);
            if asked.is_empty() {
                return;
            }
            for ask in std::mem::take(&mut asked) {
                self.carry_out(core, ask, out);
            }
        }
    }

    /// Whether all that it has acknowledged is on the drives, or with nodes that keep it now.
    pub(super) fn is_kept(&self) -> bool {
        let mut cores = self.bound.iter().flat_map(|bound| &bound.cores);
        cores.all(Core::is_kept)
    }

    /// Whether something that it may have acknowledged is not on the drives.
    pub(super) fn is_ahead_of_drives(&self) -> bool {
        let mut cores = self.bound.iter().flat_map(|bound| &bound.cores);
        cores.any(Core::is_ahead_of_drives)
    }

    const fn first_lane(&self) -> u16 {
        self.place.slot.number() as u16 * self.setting.cores
    }

    fn carry_out(&mut self, core: u16, ask: Ask, out: &mut Vec<Effect>) {
        let (lane, first) = (self.first_lane() + core, self.first_lane());
        let mut tell = |to: u16, mail: Mail| out.push(Effect::Mail { from: core, to, mail });
        let others = (0..self.setting.cores).filter(|to| *to != core);
        match ask {
            Ask::Drive { io, member, command } => self.ask_drive(core, io, member, command, out),
            Ask::Wake { mask, row } => {
                for to in (0..16u16).filter(|to| mask >> to & 1 == 1) {
                    if to == HOME {
                        tell(CONTROL, Mail::HomeTurn(row));
                    } else {
                        tell(to, Mail::Wake(row));
                    }
                }
            }
            Ask::Want { row, mode, takes } => tell(
                CONTROL,
                Mail::Want {
                    core,
                    row,
                    mode,
                    takes,
                },
            ),
            Ask::Give { row, data } => tell(CONTROL, Mail::Given { core, row, data }),
            Ask::Taken { row } => tell(CONTROL, Mail::Secured(row)),
            Ask::Keep(copy, reports) => tell(CONTROL, Mail::Keep(copy, reports)),
            Ask::Recall { core: to, row } => tell(to, Mail::Recall(row)),
            Ask::Lane { cores: mask, call } => match call {
                LaneCall::Hurry { below } => {
                    others.for_each(|to| tell(to, Mail::Lane { lane, call }));
                    tell(CONTROL, Mail::HurryNodes { lane, below });
                }
                LaneCall::Commit { flush } => {
                    others.for_each(|to| tell(to, Mail::Lane { lane, call }));
                    tell(CONTROL, Mail::CommitNodes(FlushName { lane, flush }));
                }
                LaneCall::Committed { flush } => {
                    let lane = u16::try_from(mask.trailing_zeros()).expect("few lanes");
                    match lane.checked_sub(first).filter(|to| *to < self.setting.cores) {
                        Some(to) => tell(to, Mail::Lane { lane, call }),
                        None => tell(CONTROL, Mail::CommittedFor(FlushName { lane, flush })),
                    }
                }
                LaneCall::TailMoved => {
                    let own = others.filter(|to| mask >> (first + to) & 1 == 1);
                    own.for_each(|to| tell(to, Mail::Lane { lane, call }));
                    let ours = ((1u32 << self.setting.cores) - 1) << first;
                    let lanes = u32::from(mask) & !ours;
                    if lanes != 0 {
                        tell(CONTROL, Mail::LanesMoved(lanes));
                    }
                }
            },
            Ask::Fault { member, error } => tell(CONTROL, Mail::Fault { member, error }),
            Ask::Complete { owner, result, data } => self.completed(owner, result, data, out),
            Ask::RamWanted => tell(CONTROL, Mail::WantMemory),
            Ask::RamCommitted => tell(CONTROL, Mail::MemoryCommitted(core)),
            Ask::KeptAgain(epoch) => tell(CONTROL, Mail::KeptAgain(core, epoch)),
            Ask::Repair(_)
            | Ask::PersistIntent
            | Ask::RowsHeld { .. }
            | Ask::PersistLost
            | Ask::Scrubbed { .. } => {
                unreachable!("nothing of the kind is done in a shared group here: {ask:?}")
            }
        }
    }

    fn ask_drive(
        &mut self,
        core: u16,
        io: IoTag,
        member: MemberIndex,
        command: Command,
        out: &mut Vec<Effect>,
    ) {
        let bound = self.bound.as_ref().expect("an engine is bound to a group");
        let Some(drive) = bound.drives[usize::from(member.0)] else {
            return self.core(core).drive_done(io, Err(DriveError::Gone));
        };
        let mut asker = Asker::Engine { core, io };
        let is_write = matches!(command, Command::Write { .. });
        if is_write && self.setting.mutant == Mutant::EarlyRelease {
            asker = Asker::Nobody;
            self.core(core).drive_done(io, Ok(Vec::new()));
        }
        out.push(Effect::Drive {
            drive,
            command,
            asker,
        });
    }

    fn completed(
        &mut self,
        owner: Owner,
        result: Result<(), GroupError>,
        data: Vec<u8>,
        out: &mut Vec<Effect>,
    ) {
        match owner {
            Owner::Host(command) => {
                if let Some(place) = self.reading.remove(&command).filter(|_| result.is_ok()) {
                    self.remembered.insert(place, data.clone());
                }
                if let Some(at) = self.acknowledged.iter().position(|early| *early == command) {
                    self.acknowledged.swap_remove(at);
                    return;
                }
                out.push(Effect::Done {
                    command,
                    result,
                    data,
                });
            }
            Owner::Comparison(command) => drop(self.compared.insert(command, result)),
            Owner::SwapWrite(command) => {
                let compared = self.compared.remove(&command);
                let compared = compared.expect("both halves end, the comparison first");
                out.push(Effect::Done {
                    command,
                    result: compared.and(result),
                    data: Vec::new(),
                });
            }
            Owner::Drain(_) => self.core_drained(result.is_ok(), out),
            Owner::Row(..)
            | Owner::Forgotten
            | Owner::BackgroundFlush
            | Owner::Move
            | Owner::MoveFlush
            | Owner::Close
            | Owner::Repair(_)
            | Owner::Scrub(_) => unreachable!("nobody has asked for that"),
        }
    }

    /// A superblock write was answered.
    pub(super) fn superblock_done(
        &mut self,
        io: SuperblockIo,
        result: Result<(), DriveError>,
        out: &mut Vec<Effect>,
    ) {
        self.group_event(Event::SuperblockWritten { io, result }, out);
    }

    fn write_superblock(
        io: SuperblockIo,
        drive: u16,
        offset_bytes: u64,
        record: &[u8; RECORD_BYTES],
        out: &mut Vec<Effect>,
    ) {
        let data = record.chunks(BLOCK_BYTES).map(Block::new).collect();
        let lba = offset_bytes / BLOCK_BYTES as u64;
        out.push(Effect::Drive {
            drive,
            command: Command::Write { lba, data, fua: true },
            asker: Asker::Superblock(io),
        });
    }

    /// Time goes by, for the engines.
    pub(super) fn tick(&mut self, out: &mut Vec<Effect>) {
        let cores = self.bound.as_ref().map_or(0, |_| self.setting.cores);
        for core in 0..cores {
            self.core(core).tick();
            self.pump(core, out);
        }
    }

    /// The node is to go: hosts are gone, and what is dirty is brought to its place.
    pub(super) fn close(&mut self, out: &mut Vec<Effect>) {
        self.is_closing = true;
        self.close_when_open(out);
    }

    fn kept_again(&mut self, core: u16, epoch: Epoch, out: &mut Vec<Effect>) {
        let was_restored = self.peering.is_restored();
        self.peer(out, |peering, _, out| peering.kept_again(core, epoch, out));
        if !was_restored && self.peering.is_restored() {
            out.push(Effect::Restored(epoch));
        }
    }

    fn close_when_open(&mut self, out: &mut Vec<Effect>) {
        let cores = self.setting.cores;
        if let Some(bound) = self.bound.as_mut().filter(|bound| bound.phase == Phase::Open) {
            if bound.draining == 0 {
                bound.draining = cores;
                out.extend((0..cores).map(|to| Effect::Mail {
                    from: CONTROL,
                    to,
                    mail: Mail::Drain,
                }));
            }
            return;
        }
        self.try_finish(out);
    }

    fn core_drained(&mut self, is_drained: bool, out: &mut Vec<Effect>) {
        let bound = self.bound.as_mut().expect("cores drain a group");
        assert!(bound.draining > 0, "each core answers once");
        bound.draining -= 1;
        if bound.phase == Phase::Open && (!is_drained || bound.draining == 0) {
            let may_be_lost = self.may_be_lost();
            return self.peer(out, |peering, _, out| peering.end_memory(may_be_lost, out));
        }
        self.try_finish(out);
    }

    /// Nothing of this node is left, and it leaves nothing behind that may be lost.
    pub(super) fn leave(&mut self, out: &mut Vec<Effect>) {
        if let Some(bound) = self.bound.as_mut().filter(|bound| bound.phase == Phase::Open) {
            bound.phase = Phase::Stopped;
        }
        self.try_finish(out);
    }

    fn try_finish(&mut self, out: &mut Vec<Effect>) {
        let phase = self.bound.as_ref().map(|bound| bound.phase);
        let is_over = matches!(phase, None | Some(Phase::Stopped | Phase::Failed));
        if self.is_closing && is_over && !self.has_stopped {
            self.has_stopped = true;
            out.push(Effect::Heard(Heard::Stopped));
        }
    }
}
