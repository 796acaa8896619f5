//! A start of the node: what is on the drives, and which group that makes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use super::background::Work;
use super::{Core, Effect, Node, Phase};
use crate::amf::engine::{Durability as EngineDurability, Engine, EngineConfig, WriteBackConfig};
use crate::amf::geometry::Geometry;
use crate::amf::group::{
    AssembleOptions, Candidate, CreateError, CreateIds, Creation, DriveFacts, Event, Group, GroupSpec,
    Opening, Refusal, Replay, assemble, plan_create,
};
use crate::amf::intent::IntentMap;
use crate::amf::journal::replay::Report;
use crate::amf::journal::{JournalLayout, JournalShared, lane_blocks_min};
use crate::amf::lock::LockTable;
use crate::amf::lost::{LostList, LostMap};
use crate::amf::ram::Ram;
use crate::amf::relayout::Relayout;
use crate::amf::superblock::{
    Durability, HEAD_BYTES, HEAD_READ_BYTES, JournalRecord, Name, RECORD_BYTES, TAIL_BYTES, TAIL_READ_BYTES,
    Uuid, examine, tail_start,
};
use crate::amf::{MemberIndex, MemberSet, ParityTrust};
use crate::drive::block::{BlockSize, MemberLba};
use crate::sim::drive::Drive;
use crate::sim::random::mix;
use crate::sim::scenario::Scenario;
use crate::sim::stamp::BLOCK_BYTES;

/// Strips are as short as a group may have them.
pub const STRIP_BYTES: u32 = 4096;

/// Bytes of a drive beside its strips.
pub const DRIVE_EXTRA_BYTES: u64 = HEAD_BYTES + TAIL_BYTES;

/// Bytes of the write-intent bitmap: as few rows as a scenario has fit one page.
const INTENT_BYTES: u64 = RECORD_BYTES as u64;

/// Command slots of a core: all that the hosts may have, two for each Compare and Write, and the node's own.
fn commands(scenario: &Scenario) -> u32 {
    2 * u32::from(scenario.hosts) * u32::from(scenario.depth) + 64
}

/// Row operations under way on a core: fewer than commands, so that they wait for each other now and then.
const PIECES: u32 = 24;

/// Strips of scratch beyond what the largest row operation needs.
const SCRATCH_STRIPS: u32 = 8;

/// What a core remembers of its reads: so few pages that they are fought over.
const READ_CACHE_BYTES: u32 = 24 * 4096;

/// Ticks without a write after which a group that acknowledges from memory has everything committed: as few as there may be, so that
/// it happens now and then.
const QUIET_TICKS: u32 = 1;

/// Lock words: the fewest there may be, so that rows meet in a slot.
const LOCK_SLOTS: usize = 64;

/// Nothing is served under this set: the group machine announces the first one when it is durable.
const UNANNOUNCED: MemberSet = MemberSet {
    generation: 0,
    failed: 0,
    parity: ParityTrust::Nowhere,
    rebuilding: 0,
    rebuilt_rows: 0,
};

/// Why a group does not start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BootError {
    /// The drives hold a group that must not be started as it is.
    #[error("the group is refused: {0}")]
    Refused(Refusal),
    /// The drives hold no group.
    #[error("no group is found on the drives")]
    NotFound,
    /// The group cannot be made.
    #[error("the group cannot be made: {0}")]
    Create(CreateError),
}

/// What the program would know of a drive when it starts.
pub fn drive_facts(index: u16, drive: &Drive, block: u32) -> DriveFacts {
    let region = |start_bytes: u64, bytes: usize| -> Vec<u8> {
        let blocks = u32::try_from(bytes / BLOCK_BYTES).expect("a small region");
        let read = drive.read(start_bytes / BLOCK_BYTES as u64, blocks);
        read.iter().flat_map(|block| *block.bytes()).collect()
    };
    let head = region(0, HEAD_READ_BYTES);
    let tail = tail_start(drive.bytes()).map(|start| region(start, TAIL_READ_BYTES));
    DriveFacts {
        index,
        label: format!("d{index}"),
        bytes: drive.bytes(),
        logical_block: block,
        in_use: false,
        left_out: false,
        existing: examine(Some(&head), tail.as_deref()),
    }
}

fn name() -> Name {
    Name::parse("g").expect("a letter is a name")
}

fn uuid(seed: u64, number: u64) -> Uuid {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(seed ^ number).to_le_bytes());
    bytes[8..].copy_from_slice(&mix(seed ^ number ^ 1 << 40).to_le_bytes());
    Uuid(bytes)
}

impl Node {
    /// Finds the group on these drives. `accepts_loss`: the operator accepts that writes are lost that were acknowledged from memory.
    pub fn find(
        drives: &[DriveFacts],
        accepts_loss: bool,
        scenario: &Scenario,
    ) -> Result<Candidate, BootError> {
        let options = AssembleOptions {
            replays: scenario.is_journaled(),
            accept_lost_writes: accepts_loss.then(name).into_iter().collect(),
            ..AssembleOptions::default()
        };
        find_with(drives, &options)
    }

    /// Starts a group that was found, with the blocks that it has lost, after the replay of its journal; `missed` is what lost members miss, as
    /// far as that is known.
    pub fn open(
        candidate: Candidate,
        lost: LostList,
        replayed: Option<Report>,
        missed: Option<IntentMap>,
        scenario: &Scenario,
        out: &mut Vec<Effect>,
    ) -> Self {
        let group = Group::assembled(candidate).with_lost(lost);
        let group = match missed {
            Some(map) => group.with_intent(map),
            None => group,
        };
        Self::start(group, replayed, Vec::new(), scenario, out)
    }

    /// Makes the group anew on these drives.
    pub fn create(
        drives: &[DriveFacts],
        scenario: &Scenario,
        out: &mut Vec<Effect>,
    ) -> Result<Self, BootError> {
        let (drives, others) = drives.split_at(usize::from(scenario.members));
        let (spares, _) = others.split_at(usize::from(scenario.spares));
        let creation = creation(drives, true, scenario).map_err(BootError::Create)?;
        Ok(Self::start(
            Group::form(creation),
            None,
            spares.to_vec(),
            scenario,
            out,
        ))
    }

    fn start(
        group: Group,
        replayed: Option<Report>,
        planned: Vec<DriveFacts>,
        scenario: &Scenario,
        out: &mut Vec<Effect>,
    ) -> Self {
        let geometry = group.geometry();
        let lock = LockTable::new(LOCK_SLOTS);
        let write_back = write_back(&group, replayed, scenario);
        let drives: Vec<Option<u16>> = (0..geometry.members())
            .map(|member| group.drive_of(MemberIndex(member)))
            .collect();
        let core = |core| core_of(core, &group, &lock, write_back.clone(), scenario);
        let mut node = Self {
            cores: (0..scenario.cores).map(core).collect(),
            drives,
            lock,
            ram: Ram::new(scenario.cores, QUIET_TICKS),
            entries: write_back.as_ref().map(|journal| Arc::clone(&journal.shared)),
            relayout: Relayout::new(&group, scenario.cores),
            group,
            phase: Phase::Opening,
            now: 0,
            work: Work::new(&geometry),
            held: VecDeque::new(),
            awaited: 0,
            disks: Vec::new(),
            disks_wanted: scenario.disks,
            grows: scenario.joining > 0,
            planned,
            requests: 0,
            listing: BTreeMap::new(),
            places: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            compared: BTreeMap::new(),
            scrubbed: Vec::new(),
            marking: BTreeMap::new(),
            draining: BTreeMap::new(),
            drainings: 0,
            closing: false,
            is_closing: false,
            journaled: scenario.is_journaled(),
            journal: journal_region(write_back.as_ref(), scenario),
            mutant: scenario.mutant,
            late_frontier: None,
            wakes: 0,
        };
        node.group_event(Event::Start(opening(replayed, scenario)), out);
        node
    }

    /// A core that reads a group alone, with these members lost, for looking at drives at rest.
    pub fn reader(&self, failed: u32) -> Core {
        reader_of(&self.group, failed)
    }

    /// The blocks that the group has lost.
    pub fn lost_blocks(&self) -> &LostMap {
        self.group.lost_blocks()
    }

    /// Whether these members may be lost without losing data.
    pub fn survives(&self, failed: u32) -> bool {
        self.group.survives(failed)
    }

    /// Drive of a member.
    pub fn drive_of(&self, member: MemberIndex) -> Option<u16> {
        self.drives.get(usize::from(member.0)).copied().flatten()
    }
}

/// Finds the group on these drives.
pub(in crate::sim) fn find_with(
    drives: &[DriveFacts],
    options: &AssembleOptions,
) -> Result<Candidate, BootError> {
    let assembly = assemble(drives, options);
    let group = assembly.groups.into_iter().next().ok_or(BootError::NotFound)?;
    group.outcome.map_err(BootError::Refused)
}

/// The group of a scenario made anew on these drives, one a member. `exclusive_local`: it is one node's alone.
pub(in crate::sim) fn creation(
    drives: &[DriveFacts],
    exclusive_local: bool,
    scenario: &Scenario,
) -> Result<Creation, CreateError> {
    let spec = GroupSpec {
        name: name(),
        level: scenario.level,
        strip_bytes: strip_bytes(scenario),
        block: block_size(scenario),
        durability: durability(scenario),
        journal_bytes: Some(journal_bytes(scenario)).filter(|_| scenario.level.is_redundant()),
        exclusive_local,
        zeroed: scenario.zeroed,
        force: true,
        drives: drives.to_vec(),
    };
    let ids = CreateIds {
        array: uuid(scenario.seed, 1),
        group: uuid(scenario.seed, 2),
        drives: (0..drives.len() as u64)
            .map(|drive| uuid(scenario.seed, 3 + drive))
            .collect(),
    };
    plan_create(&spec, &ids)
}

/// A core that serves a group under this table of locks.
pub(in crate::sim) fn core_of(
    core: u16,
    group: &Group,
    lock: &Arc<LockTable>,
    write_back: Option<WriteBackConfig>,
    scenario: &Scenario,
) -> Core {
    let geometry = group.geometry();
    let scratch_bytes =
        Engine::scratch_bytes_min(&widest(scenario)) + SCRATCH_STRIPS * geometry.strip_bytes();
    let ring_bytes = write_back.as_ref().map_or(0, |journal| {
        (journal.layout.lane_blocks * scenario.block) as usize
    });
    let engine = Engine::new(EngineConfig {
        layout: group.layout(),
        core,
        lock: Arc::clone(lock),
        commands_max: commands(scenario),
        pieces_max: PIECES,
        scratch_bytes,
        members: UNANNOUNCED,
        write_back,
    });
    let members = 0..geometry.members();
    let drives = members.map(|member| group.drive_of(MemberIndex(member)));
    let mut core = Core::new(
        engine,
        commands(scenario),
        scratch_bytes,
        &geometry,
        ring_bytes,
        drives.collect(),
    )
    .with_mutant(scenario.mutant);
    core.set_read_cache(READ_CACHE_BYTES);
    core
}

/// A core that reads a group alone, with these members lost, for looking at drives at rest.
pub(in crate::sim) fn reader_of(group: &Group, failed: u32) -> Core {
    let lock = LockTable::new(LOCK_SLOTS);
    let geometry = group.geometry();
    let scratch_bytes = Engine::scratch_bytes_min(&geometry);
    let engine = Engine::new(EngineConfig {
        layout: group.layout(),
        core: 0,
        lock,
        commands_max: 1,
        pieces_max: 1,
        scratch_bytes,
        members: MemberSet {
            generation: 1,
            failed,
            parity: ParityTrust::Everywhere,
            rebuilding: 0,
            rebuilt_rows: 0,
        },
        write_back: None,
    });
    Core::new(engine, 1, scratch_bytes, &geometry, 0, Vec::new())
}

/// How the group is opened.
fn opening(replayed: Option<Report>, scenario: &Scenario) -> Opening {
    Opening {
        lanes: scenario.cores,
        replay: replayed.map_or(Replay::None, |report| Replay::Done { rows: report.rows }),
        // Who has a journal marks what lost members miss.
        marks_intent: scenario.is_journaled(),
        ..Opening::WRITE_THROUGH
    }
}

/// Where the journal is on each drive, in blocks of the drive.
fn journal_region(write_back: Option<&WriteBackConfig>, scenario: &Scenario) -> Range<u64> {
    let ratio = u64::from(scenario.block) / BLOCK_BYTES as u64;
    write_back.map_or(0..0, |WriteBackConfig { layout, .. }| {
        layout.start.0 * ratio..(layout.start.0 + layout.region_blocks()) * ratio
    })
}

/// What every core needs to write to the group's journal in the incarnation that begins now.
fn write_back(group: &Group, replayed: Option<Report>, scenario: &Scenario) -> Option<WriteBackConfig> {
    let journal = group
        .opening_journal(scenario.cores, u32::MAX)
        .filter(|_| scenario.is_journaled())?;
    let start = replayed.map_or(1, |report| report.next_seq.max(1));
    let shared = Arc::new(JournalShared::new(journal.lanes, start));
    Some(WriteBackConfig {
        durability: if scenario.is_in_memory() {
            EngineDurability::Ram
        } else {
            EngineDurability::Journal
        },
        intent: group.intent().cloned(),
        lost: Some(Arc::clone(group.lost_blocks())),
        ..write_back_of(group, &journal, shared)
    })
}

/// What cores need to write to a journal whose lanes lie like this, from its first lane on.
pub(in crate::sim) fn write_back_of(
    group: &Group,
    journal: &JournalRecord,
    shared: Arc<JournalShared>,
) -> WriteBackConfig {
    let geometry = group.geometry();
    WriteBackConfig {
        first_lane: 0,
        first_batch: 0,
        layout: JournalLayout {
            start: journal.start,
            lane_blocks: journal.lane_blocks,
            lanes: journal.lanes,
            incarnation: journal.incarnation,
            group: group.uuid(),
            block: geometry.block(),
        },
        shared,
        durability: EngineDurability::Journal,
        keeps_copies: false,
        hands_over: false,
        write_blocks_max: geometry.row_blocks(),
        intent: None,
        lost: None,
    }
}

/// Bytes that a drive of this scenario has.
pub(in crate::sim) fn drive_bytes(scenario: &Scenario) -> u64 {
    let strips = u64::from(scenario.rows) * u64::from(scenario.level.member_strips(scenario.members));
    let regions = if scenario.level.is_redundant() {
        INTENT_BYTES + journal_bytes(scenario)
    } else {
        0
    };
    DRIVE_EXTRA_BYTES + regions + strips * u64::from(strip_bytes(scenario))
}

/// Strips are as short as a group may have them, but two blocks long at least.
fn strip_bytes(scenario: &Scenario) -> u32 {
    STRIP_BYTES.max(2 * scenario.block)
}

fn block_size(scenario: &Scenario) -> BlockSize {
    BlockSize::from_bytes(scenario.block).expect("a scenario is sound")
}

const fn durability(scenario: &Scenario) -> Durability {
    if scenario.is_in_memory() {
        Durability::Ram
    } else if scenario.level.is_redundant() {
        Durability::Journal
    } else {
        Durability::None
    }
}

/// The shape of a row over all members that there may be.
fn widest(scenario: &Scenario) -> Geometry {
    let geometry = Geometry::new(
        scenario.level,
        scenario.members_max(),
        strip_bytes(scenario) / scenario.block,
        MemberLba(0),
        1,
        block_size(scenario),
    );
    geometry.expect("scenarios have legal shapes")
}

/// A journal with lanes of the shortest kind: one for each core and the one for recovery.
fn journal_bytes(scenario: &Scenario) -> u64 {
    let least = lane_blocks_min(&widest(scenario));
    let lane_bytes = u64::from(least * scenario.block).next_multiple_of(RECORD_BYTES as u64);
    (u64::from(scenario.cores) + 1) * lane_bytes
}
