//! Groups on drives in memory: every bad input by name, and power cuts at every write.

mod assembly;
mod creation;
mod expansion;
mod nodes;
mod pages;
mod ports;
mod power_cuts;
mod replacement;
mod running;
mod striped;
mod virtual_disks;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::amf::geometry::Level;
use crate::amf::lost::PAGE_OFFSETS;
use crate::amf::reserving::page_offset;
use crate::amf::superblock::{
    COPIES, Durability, HEAD_BYTES, HEAD_READ_BYTES, TAIL_READ_BYTES, copy_offsets, examine, parse,
    tail_start,
};
use crate::drive::block::{BlockSize, GroupLba};

/// Room for 32 rows behind head, bitmap and journal.
const DRIVE_BYTES: u64 = (4 << 20) + 4096 + JOURNAL_BYTES;
const JOURNAL_BYTES: u64 = 4 << 20;

/// How groups are opened where it does not matter.
const START: Event = Event::Start(Opening::WRITE_THROUGH);

/// Room for the write-intent bitmap of a small group.
const INTENT_BYTES: u64 = 4096;

/// Head and tail regions of a drive in memory.
#[derive(Clone)]
struct Disk {
    bytes: u64,
    logical_block: u32,
    head: Vec<u8>,
    intent: Vec<u8>,
    /// Both copies of the list of lost blocks.
    lists: Vec<u8>,
    /// Pages of reservations, by their places.
    pages: BTreeMap<u64, Vec<u8>>,
    tail: Vec<u8>,
}

impl Disk {
    fn new(bytes: u64) -> Self {
        Self {
            bytes,
            logical_block: 4096,
            head: vec![0; HEAD_READ_BYTES],
            intent: vec![0; usize::try_from(INTENT_BYTES).unwrap()],
            lists: vec![0; 2 * RECORD_BYTES],
            pages: BTreeMap::new(),
            tail: vec![0; TAIL_READ_BYTES],
        }
    }

    fn at(&mut self, offset: u64) -> &mut [u8] {
        // Pages of the write-intent bitmap are a region of their own.
        if (HEAD_BYTES..HEAD_BYTES + INTENT_BYTES).contains(&offset) {
            let at = usize::try_from(offset - HEAD_BYTES).unwrap();
            return &mut self.intent[at..][..RECORD_BYTES];
        }
        if let Some(copy) = PAGE_OFFSETS.iter().position(|own| *own == offset) {
            return &mut self.lists[copy * RECORD_BYTES..][..RECORD_BYTES];
        }
        if (page_offset(0, 0)..HEAD_BYTES).contains(&offset) {
            return self.pages.entry(offset).or_insert_with(|| vec![0; RECORD_BYTES]);
        }
        let tail = tail_start(self.bytes).unwrap();
        let (region, start) = if offset >= tail {
            (&mut self.tail, tail)
        } else {
            (&mut self.head, 0)
        };
        &mut region[usize::try_from(offset - start).unwrap()..][..RECORD_BYTES]
    }

    fn copy(&mut self, copy: usize) -> &mut [u8] {
        let offset = copy_offsets(self.bytes).unwrap()[copy];
        self.at(offset)
    }

    fn facts(&self, index: usize) -> DriveFacts {
        DriveFacts {
            index: u16::try_from(index).unwrap(),
            label: format!("d{index}"),
            bytes: self.bytes,
            logical_block: self.logical_block,
            in_use: false,
            left_out: false,
            existing: examine(Some(&self.head), Some(&self.tail)),
        }
    }
}

fn disks(count: usize) -> Vec<Disk> {
    vec![Disk::new(DRIVE_BYTES); count]
}

fn facts(disks: &[Disk]) -> Vec<DriveFacts> {
    disks
        .iter()
        .enumerate()
        .map(|(index, disk)| disk.facts(index))
        .collect()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn uuid(number: u8) -> Uuid {
    Uuid([number; 16])
}

fn spec(drives: Vec<DriveFacts>) -> GroupSpec {
    GroupSpec {
        name: name("g0"),
        level: Level::Raid5,
        strip_bytes: 65536,
        block: BlockSize::B4096,
        durability: Durability::Journal,
        journal_bytes: Some(JOURNAL_BYTES),
        exclusive_local: true,
        zeroed: false,
        force: false,
        drives,
    }
}

fn spec_of(level: Level, drives: Vec<DriveFacts>) -> GroupSpec {
    GroupSpec {
        level,
        durability: if level.is_redundant() {
            Durability::Journal
        } else {
            Durability::None
        },
        ..spec(drives)
    }
}

fn ids(seed: u8, count: usize) -> CreateIds {
    let drives = (1..).take(count).map(|drive| uuid(seed + drive)).collect();
    CreateIds {
        array: uuid(0xa0),
        group: uuid(seed),
        drives,
    }
}

fn create(spec: &GroupSpec) -> Result<Creation, CreateError> {
    plan_create(spec, &ids(0x10, spec.drives.len()))
}

fn vdisk(number: u8, size: VdiskSize) -> VdiskSpec {
    VdiskSpec {
        name: name(&format!("v{number}")),
        size,
        nsid: None,
        uuid: uuid(number),
        nguid: [number; 16],
        ports: crate::amf::superblock::PORTS_ALL,
        replication: ReplicationMode::Sync,
    }
}

/// Carries out every write as it comes and returns all other actions.
fn run(group: &mut Group, disks: &mut [Disk], event: Event) -> Vec<Action> {
    run_with(group, disks, event, |_| Ok(()))
}

fn run_with(
    group: &mut Group,
    disks: &mut [Disk],
    event: Event,
    verdict: impl FnMut(MemberIndex) -> Result<(), DriveError>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    group.handle(event, &mut actions);
    carry_out(group, disks, actions, verdict)
}

/// Writes what a group wants written, and what it wants then; returns all else that it wants.
fn carry_out(
    group: &mut Group,
    disks: &mut [Disk],
    mut actions: Vec<Action>,
    mut verdict: impl FnMut(MemberIndex) -> Result<(), DriveError>,
) -> Vec<Action> {
    let mut others = Vec::new();
    while !actions.is_empty() {
        for action in std::mem::take(&mut actions) {
            let Action::WriteSuperblock {
                io,
                drive,
                offset_bytes,
                record,
            } = action
            else {
                others.push(action);
                continue;
            };
            let result = verdict(MemberIndex(u8::try_from(drive).unwrap()));
            if result.is_ok() {
                disks[usize::from(drive)]
                    .at(offset_bytes)
                    .copy_from_slice(&record[..]);
            }
            group.handle(Event::SuperblockWritten { io, result }, &mut actions);
        }
    }
    others
}

fn found(disks: &[Disk]) -> Result<Candidate, Refusal> {
    found_with(&facts(disks), &AssembleOptions::default())
}

fn found_with(facts: &[DriveFacts], options: &AssembleOptions) -> Result<Candidate, Refusal> {
    let mut assembly = assemble(facts, options);
    assert_eq!(assembly.groups.len(), 1, "one group is on these drives");
    assembly.groups.remove(0).outcome
}

fn accepting() -> AssembleOptions {
    AssembleOptions {
        accept_dirty_degraded: vec![name("g0")],
        ..AssembleOptions::default()
    }
}

/// A started group with its drives.
fn started(count: usize) -> (Group, Vec<Disk>) {
    started_as(Level::Raid5, count)
}

fn started_as(level: Level, count: usize) -> (Group, Vec<Disk>) {
    let mut disks = disks(count);
    let mut group = Group::form(create(&spec_of(level, facts(&disks))).unwrap());
    let actions = run(&mut group, &mut disks, START);
    assert!(actions.contains(&Action::Started));
    (group, disks)
}

/// Drives of a group that was stopped in good order, with trusted parity.
fn stopped(count: usize) -> Vec<Disk> {
    stopped_as(Level::Raid5, count)
}

fn stopped_as(level: Level, count: usize) -> Vec<Disk> {
    let (mut group, mut disks) = started_as(level, count);
    run(&mut group, &mut disks, Event::ResyncDone);
    let actions = run(&mut group, &mut disks, Event::Stop);
    assert!(actions.contains(&Action::Stopped { clean: true }));
    disks
}

fn restart(disks: &mut [Disk]) -> (Group, Vec<Action>) {
    let mut group = Group::assembled(found(disks).unwrap());
    let actions = run(&mut group, disks, START);
    (group, actions)
}

fn restart_accepting(disks: &mut [Disk]) -> (Group, Vec<Action>) {
    let mut group = Group::assembled(found_with(&facts(disks), &accepting()).unwrap());
    let actions = run(&mut group, disks, START);
    (group, actions)
}

fn members_of(actions: &[Action]) -> MemberSet {
    let mut sets = actions.iter().filter_map(|action| {
        if let Action::Members(set) = action {
            Some(*set)
        } else {
            None
        }
    });
    sets.next_back()
        .unwrap_or_else(|| panic!("members were announced: {actions:?}"))
}

fn reply_of(actions: &[Action]) -> Result<Answer, RequestError> {
    let replies = actions.iter().filter_map(|a| {
        if let Action::Reply { result, .. } = a {
            Some(result.clone())
        } else {
            None
        }
    });
    let replies: Vec<_> = replies.collect();
    assert_eq!(replies.len(), 1, "one request has one reply");
    replies[0].clone()
}

const REQUEST: RequestId = RequestId(1);
