//! Runs engines against drives in memory, one byte for each block, with answers in any order.

mod arriving;
mod medium;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::elsewhere::Elsewhere;
use super::several::Several;
use super::*;
use crate::amf::code::mul_add_bytes;
use crate::amf::expansion::{Layout, ScratchArea};
use crate::amf::geometry::{Geometry, Level};
use crate::amf::hand_over::HandedOver;
use crate::amf::intent::IntentMap;
use crate::amf::journal::JournalShared;
use crate::amf::lost::LostMap;
use crate::amf::{MemberIndex, MemberSet, ParityTrust};
use crate::drive::block::BlockSize;
use node::Founding;

pub const BLOCK: u32 = 512;
/// What an untouched buffer or scratch holds: easily told from data.
const JUNK: u8 = 0xEE;

/// A small generator: the same seed, the same run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("below a usize")
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn byte(&mut self) -> u8 {
        u8::try_from(self.below(255) + 1).expect("a byte")
    }
}

/// Something that a runtime still owes an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    Drive(Action),
    Compared {
        io: IoTag,
        equal: bool,
    },
    Wake(RowIndex),
    /// To the home of the row's slot, where rows are shared.
    Home(RowIndex),
    Recall(RowIndex),
    /// The home wants the row, and takes its dirty data if it says so.
    RecallFor(RowIndex, bool),
    Settle(RowIndex),
    Restore(RowIndex),
    Answer(RowIndex),
    Adopt(RowIndex),
    Hurry {
        core: u16,
        below: u64,
    },
    TailMoved,
    Commit {
        core: u16,
        flush: u32,
    },
    Committed {
        flush: u32,
    },
    Members(MemberSet),
    /// What was marked when it was asked for.
    IntentDurable,
    LostDurable,
    /// More of a write's data.
    Data(CommandId),
}

pub struct Core {
    pub engine: Engine,
    pub buffers: Vec<Vec<u8>>,
    scratch: Vec<u8>,
    ring: Vec<u8>,
    /// Headers of the batches in it, where the group is shared.
    headers: BTreeMap<usize, Vec<u8>>,
    /// What hosts are still sending, by command.
    arriving: BTreeMap<CommandId, arriving::Data>,
    clean: Vec<u8>,
    pub owed: Vec<Owed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub core: usize,
    pub command: CommandId,
    pub result: Result<(), GroupError>,
}

/// What happened to a drive, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Write(MemberIndex, MemberLba, Vec<u8>),
    Flush(MemberIndex),
}

pub struct World {
    /// With all members.
    pub geometry: Geometry,
    /// What is durable of where blocks are.
    pub layout: Layout,
    /// Of the first node.
    pub lock: Arc<LockTable>,
    /// Cores of one node.
    pub cores_each: usize,
    /// Not all nodes were told of the newest members.
    is_late: bool,
    /// What nodes say to one another, if there are several.
    pub several: Option<Several>,
    pub drives: Vec<Vec<u8>>,
    pub cores: Vec<Core>,
    pub members: MemberSet,
    /// Where cores mark rows that lost members miss, and what of it is durable.
    pub intent: Arc<IntentMap>,
    pub lost: Arc<LostMap>,
    pub durable_marks: BTreeSet<u64>,
    /// Cores that have committed all that they had acknowledged from memory.
    pub ram_committed: Vec<usize>,
    /// What was marked when each core asked for that.
    asked_marks: Vec<BTreeSet<u64>>,
    /// What the drives would still have after a power cut: what was flushed or forced.
    pub stable: Vec<Vec<u8>>,
    /// Members whose drives answer with errors, and may or may not have done what they were asked.
    pub broken: u32,
    /// Members that were reported and are not failed yet.
    pub reported: u32,
    pub faults: Vec<(MemberIndex, DriveError)>,
    /// Reads that met blocks which the medium could not give back: member, row, offset and length.
    pub media: Vec<(MemberIndex, RowIndex, u32, u32)>,
    pub scrubbed: Vec<(RowIndex, ScrubOutcome)>,
    /// How many cores have said that they hold what they were to hold.
    pub range_held: u32,
    /// Blocks that cannot be read until they are written: drive and position.
    pub bad_blocks: BTreeSet<(usize, usize)>,
    pub done: Vec<Done>,
    /// What drives were told to change, if anybody wants to know.
    pub trace: Option<Vec<Change>>,
    pub random: Random,
    commands: u32,
    journaled: bool,
    founding: Founding,
    /// Headers of batches in the journals of shared groups, by drive and block; those have one byte a block, too.
    pub headers: BTreeMap<(usize, usize), Vec<u8>>,
    /// What other nodes do with the rows, if they are shared.
    pub elsewhere: Option<Elsewhere>,
    /// What is being adopted.
    pub handed: Vec<u8>,
    /// What cores are to adopt.
    pub adopting: BTreeMap<(usize, RowIndex), Arc<HandedOver>>,
}

#[derive(Clone, Copy)]
pub struct Shape {
    pub level: Level,
    pub members: u8,
    pub strip: u32,
    pub rows: u64,
    pub cores: u16,
    pub commands: u32,
    pub pieces: u32,
    /// Scratch beyond the least, in strips.
    pub scratch_strips: u32,
    /// Whether there is a journal, and when writes are done then.
    pub journal: Option<Durability>,
    /// Other nodes want rows, too.
    pub shared: bool,
    /// Nodes, each with as many of the cores; where there are several they share rows.
    pub nodes: u16,
}

/// Blocks of a lane: short, so that it is full all the time.
const LANE_BLOCKS: u32 = 160;
/// Commands beside those of hosts and the one for drains.
pub const OWN_COMMANDS: u32 = 16;
/// Blocks of a write in the journal.
const WRITE_BLOCKS_MAX: u32 = 12;

impl Shape {
    pub const SMALL: Self = Self {
        level: Level::Raid5,
        members: 4,
        strip: 4,
        rows: 8,
        cores: 1,
        commands: 8,
        pieces: 16,
        scratch_strips: 64,
        journal: None,
        shared: false,
        nodes: 1,
    };
}

impl World {
    pub fn new(shape: &Shape, seed: u64) -> Self {
        Self::opened(shape, seed, Layout::fixed)
    }

    /// A group that is opened with this layout of its members.
    #[expect(clippy::too_many_lines, reason = "a world has many parts")]
    pub fn opened(shape: &Shape, seed: u64, layout: impl FnOnce(Geometry) -> Layout) -> Self {
        let start = MemberLba(3);
        let geometry = Geometry::new(
            shape.level,
            shape.members,
            shape.strip,
            start,
            shape.rows,
            BlockSize::B512,
        )
        .expect("legal");
        let layout = layout(geometry);
        let is_shared = shape.shared || shape.nodes > 1;
        let table = |_| {
            if is_shared {
                LockTable::shared(64)
            } else {
                LockTable::new(64)
            }
        };
        let locks: Vec<Arc<LockTable>> = (0..shape.nodes).map(table).collect();
        let cores_each = shape.cores / shape.nodes;
        assert!(
            cores_each * shape.nodes == shape.cores,
            "nodes have equally many cores"
        );
        let members = MemberSet {
            generation: 1,
            failed: 0,
            parity: ParityTrust::Everywhere,
            rebuilding: 0,
            rebuilt_rows: 0,
        };
        let scratch_bytes =
            Engine::scratch_bytes_min(&geometry) + shape.scratch_strips * geometry.strip_bytes();
        let data_blocks = 3 + shape.rows * u64::from(geometry.member_row_blocks());
        let shared = |_| {
            Arc::new(if shape.nodes > 1 {
                JournalShared::among_nodes(shape.cores, 1)
            } else {
                JournalShared::new(shape.cores, 1)
            })
        };
        let numbers: Vec<Arc<JournalShared>> = (0..shape.nodes).map(shared).collect();
        let intent = Arc::new(IntentMap::new(shape.rows, 1));
        let lost = Arc::new(LostMap::default());
        let founding = Founding {
            shape: *shape,
            layout,
            scratch_bytes,
            journal_start: MemberLba(data_blocks),
        };
        let cores = (0..shape.cores).map(|core| {
            let node = usize::from(core / cores_each);
            let lists = (&intent, &lost);
            founding.core(core, members, (&locks[node], &numbers[node]), 0, lists)
        });
        let cores = cores.collect();
        let journal_blocks = (u64::from(shape.cores) + 1) * u64::from(LANE_BLOCKS);
        let blocks = usize::try_from(data_blocks + journal_blocks).expect("small");
        Self {
            geometry,
            layout,
            lock: Arc::clone(&locks[0]),
            cores_each: usize::from(cores_each),
            is_late: false,
            several: (shape.nodes > 1).then(|| Several::new(&locks, &numbers)),
            stable: vec![vec![0; blocks]; usize::from(shape.members)],
            drives: vec![vec![0; blocks]; usize::from(shape.members)],
            intent,
            lost,
            durable_marks: BTreeSet::new(),
            ram_committed: Vec::new(),
            asked_marks: vec![BTreeSet::new(); usize::from(shape.cores)],
            cores,
            members,
            broken: 0,
            reported: 0,
            faults: Vec::new(),
            media: Vec::new(),
            scrubbed: Vec::new(),
            range_held: 0,
            bad_blocks: BTreeSet::new(),
            done: Vec::new(),
            trace: None,
            random: Random::new(seed),
            commands: shape.commands,
            journaled: shape.journal.is_some(),
            founding,
            headers: BTreeMap::new(),
            elsewhere: shape.shared.then(Elsewhere::default),
            handed: Vec::new(),
            adopting: BTreeMap::new(),
        }
    }

    /// Lets all cores remember what is read by [`Self::read`] from now on: so many pages.
    pub fn remember_reads(&mut self, pages: u32, window_bytes: u32) {
        for core in &mut self.cores {
            let bytes = pages * 4096;
            core.clean = vec![JUNK; (bytes / BLOCK) as usize];
            core.engine
                .set_read_cache(ReadCacheConfig { bytes, window_bytes });
        }
    }

    /// Brings all that is dirty to its place.
    pub fn drain(&mut self) {
        if !self.journaled {
            return;
        }
        for core in self.living_cores() {
            self.submit(core, self.commands, Request::Drain);
        }
        self.settle();
        for core in self.living_cores() {
            let result = self.result(core, self.commands);
            assert!(result.is_some(), "a drain ends");
        }
        let commands = self.commands;
        self.done.retain(|done| done.command.0 != commands);
    }

    /// Longest fused pair: where there is a journal it is one write there.
    pub fn fused_blocks_max(&self) -> usize {
        if !self.layout.is_over() {
            // The frontier may part rows.
            1
        } else if self.journaled {
            WRITE_BLOCKS_MAX as usize
        } else {
            usize::MAX / 2
        }
    }

    pub fn capacity(&self) -> usize {
        usize::try_from(self.layout.capacity_blocks()).expect("small")
    }

    pub fn submit(&mut self, core: usize, command: u32, request: Request) {
        let mut out = Vec::new();
        self.cores[core]
            .engine
            .submit(CommandId(command), request, &mut out);
        self.act(core, out);
    }

    pub fn write(&mut self, core: usize, command: u32, lba: u64, data: &[u8]) {
        self.cores[core].buffers[command as usize] = data.to_vec();
        let blocks = u32::try_from(data.len()).expect("short");
        self.submit(
            core,
            command,
            Request::Write {
                lba: GroupLba(lba),
                blocks,
                fua: false,
                replication: ReplicationMode::Sync,
            },
        );
    }

    /// Reads through the cache where there is one.
    pub fn read(&mut self, core: usize, command: u32, lba: u64, blocks: u32) {
        self.cores[core].buffers[command as usize] = vec![JUNK; blocks as usize];
        self.submit(
            core,
            command,
            Request::CachedRead {
                lba: GroupLba(lba),
                blocks,
                disk_end: GroupLba(self.geometry.capacity_blocks()),
            },
        );
    }

    pub fn abort(&mut self, core: usize, command: u32) -> bool {
        let mut out = Vec::new();
        let aborted = self.cores[core].engine.abort(CommandId(command), &mut out);
        self.act(core, out);
        aborted
    }

    pub fn give_up(&mut self, core: usize, command: u32) {
        let mut out = Vec::new();
        self.cores[core].engine.give_up(CommandId(command), &mut out);
        self.act(core, out);
    }

    pub fn refuse(&mut self, core: usize, command: u32) {
        let mut out = Vec::new();
        self.cores[core].engine.refuse(CommandId(command), &mut out);
        self.act(core, out);
    }

    /// Makes a new generation durable and tells some cores now, the others when their turn comes.
    pub fn fail_members(&mut self, failed: u32) {
        let failed = self.members.failed | failed;
        self.announce(MemberSet {
            failed,
            ..self.members
        });
    }

    pub fn announce(&mut self, members: MemberSet) {
        self.members = MemberSet {
            generation: self.members.generation + 1,
            ..members
        };
        self.reported &= !members.failed;
        // Cores of other nodes are told when nothing else is left: until then they know what they hear with rows.
        let living = self.living_cores();
        let told = if self.several.is_some() {
            self.cores_each
        } else {
            living.len()
        };
        self.is_late = told < living.len();
        for core in living.into_iter().take(told) {
            self.cores[core].owed.push(Owed::Members(self.members));
        }
    }

    /// Pays one debt. Drives of broken members answer with an error.
    pub fn pay(&mut self, core: usize, index: usize) {
        let owed = self.cores[core].owed.swap_remove(index);
        let result = match owed {
            Owed::Drive(action) if self.broken >> drive_io(&action).1.0 & 1 == 1 => {
                if self.random.chance(50) {
                    self.transfer(core, &action);
                }
                Err(DriveError::Gone)
            }
            Owed::Drive(action) if self.meets_bad_block(&action) => Err(DriveError::Media),
            Owed::Drive(action) => {
                self.transfer(core, &action);
                Ok(())
            }
            Owed::Compared { .. }
            | Owed::Wake(_)
            | Owed::Home(_)
            | Owed::Recall(_)
            | Owed::RecallFor(..)
            | Owed::Settle(_)
            | Owed::Restore(_)
            | Owed::Answer(_)
            | Owed::Adopt(..)
            | Owed::Hurry { .. }
            | Owed::TailMoved
            | Owed::Commit { .. }
            | Owed::Committed { .. }
            | Owed::IntentDurable
            | Owed::LostDurable
            | Owed::Data(..)
            | Owed::Members(_) => Ok(()),
        };
        self.answer(core, owed, result);
    }

    fn meets_bad_block(&self, action: &Action) -> bool {
        let Action::DriveRead {
            member, lba, blocks, ..
        } = *action
        else {
            return false;
        };
        let start = usize::try_from(lba.0).expect("small");
        let drive = usize::from(member.0);
        (start..start + blocks as usize).any(|at| self.bad_blocks.contains(&(drive, at)))
    }

    /// Answers one drive command with an error of the test's choice.
    pub fn pay_with_error(&mut self, core: usize, index: usize, error: DriveError) {
        let owed = self.cores[core].owed.swap_remove(index);
        self.answer(core, owed, Err(error));
    }

    fn answer(&mut self, core: usize, owed: Owed, result: Result<(), DriveError>) {
        let mut out = Vec::new();
        if let Owed::Home(row) = owed {
            return if self.several.is_some() {
                self.home_turn(core, row)
            } else {
                self.go_home(row)
            };
        }
        let engine = &mut self.cores[core].engine;
        match owed {
            Owed::Drive(action) => engine.drive_done(drive_io(&action).0, result, &mut out),
            Owed::Compared { io, equal } => engine.compared(io, equal, &mut out),
            Owed::Wake(row) => engine.wake(row, &mut out),
            Owed::Recall(row) => engine.recall(row, &mut out),
            Owed::Settle(row) => engine.settle_given(row, &mut out),
            Owed::RecallFor(row, gives) => engine.recall_for(row, gives, &mut out),
            Owed::Restore(row) => engine.restore(row, &mut out),
            Owed::Answer(row) => engine.answer(row, &mut out),
            Owed::Adopt(row) => return self.adopt(core, row),
            Owed::Hurry { core, below } => engine.hurry(core, below, &mut out),
            Owed::TailMoved => engine.tail_moved(&mut out),
            Owed::Commit { core, flush } => engine.commit(core, flush, &mut out),
            Owed::Committed { flush } => engine.committed_elsewhere(flush, &mut out),
            Owed::Members(members) => engine.set_members(members, &mut out),
            Owed::IntentDurable => {
                self.durable_marks.append(&mut self.asked_marks[core]);
                engine.intent_durable(&mut out);
            }
            Owed::LostDurable => engine.lost_durable(&mut out),
            Owed::Data(command) => return self.more_comes(core, command),
            Owed::Home(_) => unreachable!("it went its own way"),
        }
        self.act(core, out);
    }

    /// Pays in random order until nothing is owed; reported members fail when nothing else can happen.
    pub fn settle(&mut self) {
        loop {
            while self.pay_any() || self.bring_back() || self.time_goes_by() {}
            if self.reported == 0 {
                return;
            }
            self.fail_members(self.reported);
        }
    }

    /// Where there is a journal, cores look after it as time goes by: true if that made them ask for something.
    fn time_goes_by(&mut self) -> bool {
        self.nodes_beat();
        if std::mem::take(&mut self.is_late) {
            for core in self.living_cores().into_iter().skip(self.cores_each) {
                self.cores[core].owed.push(Owed::Members(self.members));
            }
            return true;
        }
        for _ in 0..if self.journaled { 25 } else { 0 } {
            for core in self.living_cores() {
                let mut out = Vec::new();
                self.cores[core].engine.tick(&mut out);
                self.act(core, out);
            }
            if self.cores.iter().any(|core| !core.owed.is_empty()) {
                return true;
            }
        }
        false
    }

    /// Pays a random debt of a random core; false if there is none.
    pub fn pay_any(&mut self) -> bool {
        if self.journaled && self.random.chance(3) {
            let core = self.random.index(self.cores.len());
            let mut out = Vec::new();
            if self.lives(core) {
                self.cores[core].engine.tick(&mut out);
            }
            self.act(core, out);
        }
        if self.elsewhere.is_some() && self.random.chance(10) {
            self.want_elsewhere();
        }
        if self.several.is_some() && self.random.chance(40) && self.nodes_go_on() {
            return true;
        }
        let total: usize = self.cores.iter().map(|core| core.owed.len()).sum();
        if total == 0 && self.several.is_some() {
            return self.nodes_go_on();
        }
        if total == 0 {
            return false;
        }
        let mut pick = self.random.index(total);
        for core in 0..self.cores.len() {
            let owed = self.cores[core].owed.len();
            if pick < owed {
                self.pay(core, pick);
                return true;
            }
            pick -= owed;
        }
        unreachable!("the pick is below the total")
    }

    pub fn result(&self, core: usize, command: u32) -> Option<Result<(), GroupError>> {
        let mut done = self
            .done
            .iter()
            .filter(|d| d.core == core && d.command.0 == command);
        done.next_back().map(|d| d.result)
    }

    /// The drive commands that a core's engine waits for.
    pub fn asked(&self, core: usize) -> Vec<Action> {
        let drive = |owed: &Owed| match owed {
            Owed::Drive(action) => Some(*action),
            Owed::Compared { .. }
            | Owed::Wake(_)
            | Owed::Home(_)
            | Owed::Recall(_)
            | Owed::RecallFor(..)
            | Owed::Settle(_)
            | Owed::Restore(_)
            | Owed::Answer(_)
            | Owed::Adopt(..)
            | Owed::Hurry { .. }
            | Owed::TailMoved
            | Owed::Commit { .. }
            | Owed::Committed { .. }
            | Owed::IntentDurable
            | Owed::LostDurable
            | Owed::Data(_)
            | Owed::Members(_) => None,
        };
        self.cores[core].owed.iter().filter_map(drive).collect()
    }

    /// Position of the first debt that fits.
    pub fn find(&self, core: usize, fits: impl Fn(&Owed) -> bool) -> usize {
        self.cores[core].owed.iter().position(fits).expect("it is owed")
    }

    /// Position of the first drive command for a member.
    pub fn find_member(&self, core: usize, member: MemberIndex) -> usize {
        self.find(
            core,
            |owed| matches!(owed, Owed::Drive(action) if drive_io(action).1 == member),
        )
    }

    /// All locks are back, all scratch is back, nothing is in flight.
    pub fn assert_idle(&self) {
        let lost = !self.layout.survives(self.members.failed);
        // A lost group keeps the rows whose dirty data has nowhere to go.
        assert!(
            self.locks_are_idle() || (lost && self.journaled),
            "all locks are back"
        );
        for core in self.living_cores() {
            let core = &self.cores[core];
            assert_eq!(core.engine.in_flight(), 0);
            assert!(
                core.engine.scratch.is_whole(self.founding.scratch_bytes),
                "all scratch is back"
            );
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each action")]
    pub fn act(&mut self, core: usize, out: Vec<Action>) {
        for action in out {
            match action {
                Action::DriveRead { member, .. }
                | Action::DriveWrite { member, .. }
                | Action::DriveZero { member, .. }
                | Action::DriveFlush { member, .. } => {
                    let owed = &mut self.cores[core].owed;
                    let io = drive_io(&action).0;
                    let twice = owed
                        .iter()
                        .any(|o| matches!(o, Owed::Drive(a) if drive_io(a).0 == io));
                    assert!(!twice, "a tag names one command");
                    assert!(member.0 < self.geometry.members());
                    owed.push(Owed::Drive(action));
                }
                Action::Copy { into, from, bytes } => {
                    let data = self.load(core, from, bytes);
                    self.store(core, into, &data);
                }
                Action::Xor { into, from, bytes } => self.mul_add(core, into, from, 1, bytes),
                Action::MulAdd {
                    into,
                    from,
                    factor,
                    bytes,
                } => {
                    assert!(factor > 1, "what is no product is not asked for as one");
                    self.mul_add(core, into, from, factor, bytes);
                }
                Action::ReportMedia {
                    member,
                    row,
                    offset_blocks,
                    blocks,
                } => self.media.push((member, row, offset_blocks, blocks)),
                Action::Scrubbed { row, outcome } => self.scrubbed.push((row, outcome)),
                Action::RangeHeld => self.range_held += 1,
                Action::Seal {
                    slot,
                    offset_bytes,
                    payload_bytes,
                } => self.seal(core, slot, offset_bytes, payload_bytes),
                keep @ Action::Keep { .. } => self.keep_copies(core, &keep),
                Action::RecallCore { core: other, row } => {
                    let other = core / self.cores_each * self.cores_each + usize::from(other);
                    assert_ne!(other, core, "another core is asked");
                    self.cores[other].owed.push(Owed::Recall(row));
                }
                Action::HurryCores { below } => {
                    let from = u16::try_from(core).expect("small");
                    for other in self.others_of(core) {
                        self.cores[other].owed.push(Owed::Hurry { core: from, below });
                    }
                    self.hurry_nodes(core, below);
                }
                Action::CommitCores { flush } => {
                    let from = u16::try_from(core).expect("small");
                    for other in (0..self.cores.len()).filter(|other| *other != core) {
                        self.cores[other].owed.push(Owed::Commit { core: from, flush });
                    }
                }
                Action::Committed { core: other, flush } => {
                    self.cores[usize::from(other)]
                        .owed
                        .push(Owed::Committed { flush });
                }
                Action::TailMoved { mask } => {
                    for other in (0..self.cores.len()).filter(|other| mask >> other & 1 == 1) {
                        self.tail_moved(core, other);
                    }
                }
                Action::Compare { io, a, b, bytes } => {
                    let equal = self.load(core, a, bytes) == self.load(core, b, bytes);
                    self.cores[core].owed.push(Owed::Compared { io, equal });
                }
                Action::WakeCores { mask, row } => {
                    assert!(
                        mask != 0 && mask >> (core % self.cores_each) & 1 == 0,
                        "others are woken"
                    );
                    self.wake_cores(core / self.cores_each, mask, row);
                }
                Action::WantRow { row, mode, takes } if self.several.is_some() => {
                    self.want_from_nodes(core, (row, mode), takes);
                }
                Action::WantRow { row, mode, takes } => self.want_row(core, (row, mode), takes),
                Action::Give { row } => self.given(core, row),
                Action::Taken { row } => self.taken(core, row),
                Action::PersistLost => self.cores[core].owed.push(Owed::LostDurable),
                Action::PersistIntent => {
                    let marked = |row: &u64| self.intent.is_marked(RowIndex(*row));
                    self.asked_marks[core] = (0..self.geometry.rows()).filter(marked).collect();
                    self.cores[core].owed.push(Owed::IntentDurable);
                }
                Action::RamWanted => {
                    let mut out = Vec::new();
                    self.cores[core].engine.allow_ram(true, &mut out);
                    self.act(core, out);
                }
                Action::RamCommitted => self.ram_committed.push(core),
                Action::KeptAgain(_) => {}
                Action::ReportFault { member, error } => {
                    if !self.members.is_failed(member) {
                        self.reported |= 1 << member.0;
                    }
                    self.faults.push((member, error));
                }
                Action::Complete { command, result } => {
                    self.nothing_comes(core, command);
                    self.done.push(Done {
                        core,
                        command,
                        result,
                    });
                }
            }
        }
    }

    fn mul_add(&mut self, core: usize, into: Place, from: Place, factor: u8, bytes: u32) {
        let mut data = self.load(core, into, bytes);
        mul_add_bytes(&mut data, &self.load(core, from, bytes), factor);
        self.store(core, into, &data);
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each action")]
    fn transfer(&mut self, core: usize, action: &Action) {
        let range = |lba: MemberLba, blocks: u32| {
            let start = usize::try_from(lba.0).expect("small");
            assert!(start >= 3, "metadata is never touched");
            start..start + blocks as usize
        };
        match *action {
            Action::DriveRead {
                member,
                lba,
                blocks,
                into,
                ..
            } => {
                let data = self.drives[usize::from(member.0)][range(lba, blocks)].to_vec();
                self.store(core, into, &data);
            }
            Action::DriveWrite {
                member,
                lba,
                blocks,
                from,
                fua,
                ..
            } => {
                let data = self.load(core, from, blocks * BLOCK);
                self.note(Change::Write(member, lba, data.clone()));
                for at in range(lba, blocks) {
                    self.bad_blocks.remove(&(usize::from(member.0), at));
                }
                self.drives[usize::from(member.0)][range(lba, blocks)].copy_from_slice(&data);
                if fua {
                    self.stable[usize::from(member.0)][range(lba, blocks)].copy_from_slice(&data);
                }
                self.note_header(core, (member, lba), blocks, from);
            }
            Action::DriveZero {
                member, lba, blocks, ..
            } => {
                assert!(blocks <= self.geometry.member_row_blocks());
                self.note(Change::Write(member, lba, vec![0; blocks as usize]));
                self.drives[usize::from(member.0)][range(lba, blocks)].fill(0);
            }
            Action::DriveFlush { member, .. } => {
                self.note(Change::Flush(member));
                let member = usize::from(member.0);
                self.stable[member] = self.drives[member].clone();
            }
            Action::Xor { .. }
            | Action::MulAdd { .. }
            | Action::Copy { .. }
            | Action::Seal { .. }
            | Action::Keep { .. }
            | Action::RecallCore { .. }
            | Action::HurryCores { .. }
            | Action::TailMoved { .. }
            | Action::CommitCores { .. }
            | Action::Committed { .. }
            | Action::Compare { .. }
            | Action::WakeCores { .. }
            | Action::WantRow { .. }
            | Action::Give { .. }
            | Action::Taken { .. }
            | Action::ReportMedia { .. }
            | Action::Scrubbed { .. }
            | Action::RangeHeld
            | Action::PersistIntent
            | Action::PersistLost
            | Action::RamWanted
            | Action::RamCommitted
            | Action::KeptAgain(_)
            | Action::ReportFault { .. }
            | Action::Complete { .. } => unreachable!("not a drive command"),
        }
    }

    fn note(&mut self, change: Change) {
        if let Some(trace) = &mut self.trace {
            trace.push(change);
        }
    }

    /// Adds members, whose drives hold anything.
    pub fn add_members(&mut self, more: u8) {
        let members = self.geometry.members();
        self.geometry = self.geometry.with_members(members + more).expect("legal");
        let drive = vec![JUNK; self.drives[0].len()];
        self.drives.resize(usize::from(members + more), drive.clone());
        self.stable.resize(usize::from(members + more), drive);
    }

    /// The recovery lane, or a place like it where there is no journal.
    pub fn scratch_area(&self) -> ScratchArea {
        let blocks = self.drives[0].len() as u64;
        ScratchArea {
            start: MemberLba(blocks - u64::from(LANE_BLOCKS)),
            blocks: LANE_BLOCKS,
        }
    }

    pub fn load(&self, core: usize, place: Place, bytes: u32) -> Vec<u8> {
        assert_eq!(bytes % BLOCK, 0);
        let length = (bytes / BLOCK) as usize;
        let (memory, offset) = match place {
            Place::Command {
                command,
                offset_bytes,
            } => (&self.cores[core].buffers[command.0 as usize], offset_bytes),
            Place::Scratch { offset_bytes } => (&self.cores[core].scratch, offset_bytes),
            Place::Ring { offset_bytes } => (&self.cores[core].ring, offset_bytes),
            Place::Clean { offset_bytes } => (&self.cores[core].clean, offset_bytes),
            Place::Handed { offset_bytes } => (&self.handed, offset_bytes),
            Place::Zeroes => {
                assert!(
                    bytes <= self.geometry.strip_bytes(),
                    "the region of zeroes is a strip long"
                );
                return vec![0; length];
            }
        };
        assert_eq!(offset % BLOCK, 0);
        let start = (offset / BLOCK) as usize;
        memory[start..start + length].to_vec()
    }

    fn store(&mut self, core: usize, place: Place, data: &[u8]) {
        let (memory, offset) = match place {
            Place::Command {
                command,
                offset_bytes,
            } => (&mut self.cores[core].buffers[command.0 as usize], offset_bytes),
            Place::Scratch { offset_bytes } => (&mut self.cores[core].scratch, offset_bytes),
            Place::Ring { offset_bytes } => (&mut self.cores[core].ring, offset_bytes),
            Place::Clean { offset_bytes } => (&mut self.cores[core].clean, offset_bytes),
            Place::Handed { .. } | Place::Zeroes => unreachable!("only sources"),
        };
        assert_eq!(offset % BLOCK, 0);
        let start = (offset / BLOCK) as usize;
        memory[start..start + data.len()].copy_from_slice(data);
    }
}

/// Tag and member of a drive command.
pub fn drive_io(action: &Action) -> (IoTag, MemberIndex) {
    match *action {
        Action::DriveRead { io, member, .. }
        | Action::DriveWrite { io, member, .. }
        | Action::DriveZero { io, member, .. }
        | Action::DriveFlush { io, member } => (io, member),
        Action::Xor { .. }
        | Action::MulAdd { .. }
        | Action::Copy { .. }
        | Action::Seal { .. }
        | Action::Keep { .. }
        | Action::RecallCore { .. }
        | Action::HurryCores { .. }
        | Action::TailMoved { .. }
        | Action::CommitCores { .. }
        | Action::Committed { .. }
        | Action::Compare { .. }
        | Action::WakeCores { .. }
        | Action::WantRow { .. }
        | Action::Give { .. }
        | Action::Taken { .. }
        | Action::ReportMedia { .. }
        | Action::Scrubbed { .. }
        | Action::RangeHeld
        | Action::PersistIntent
        | Action::PersistLost
        | Action::RamWanted
        | Action::RamCommitted
        | Action::KeptAgain(_)
        | Action::ReportFault { .. }
        | Action::Complete { .. } => unreachable!("not a drive command"),
    }
}
