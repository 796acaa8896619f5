//! Drives in memory with a volatile cache and power cuts, and a driver that runs a replay on them.

use std::collections::BTreeMap;

use super::super::{Action, Event, IoId, Replay, ReplayError, Report};
use crate::amf::MemberIndex;
use crate::amf::lost::{LostList, LostMap, PAGE_OFFSETS};
use crate::amf::superblock::Uuid;
use crate::drive::DriveError;
use crate::drive::block::MemberLba;

pub const BLOCK: usize = 512;

/// Numbers from a seed (xorshift).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end)).expect("below 32 bits")
    }

    pub fn one_in(&mut self, many: u32) -> bool {
        self.below(many) == 0
    }
}

/// Picks an action out of many.
pub type Question = fn(&Action) -> Option<(IoId, MemberIndex)>;

pub struct Write {
    pub member: MemberIndex,
    pub lba: MemberLba,
    pub data: Vec<u8>,
    pub fua: bool,
}

/// Where the copies of the list of lost blocks are.
fn lists() -> [MemberLba; 2] {
    PAGE_OFFSETS.map(|offset| MemberLba(offset / BLOCK as u64))
}

#[derive(Clone)]
struct Drive {
    durable: Vec<u8>,
    /// Blocks that a power cut may take, in the order in which they were written.
    cached: Vec<(usize, Vec<u8>)>,
    /// Blocks that cannot be read until they are written.
    bad: Vec<usize>,
}

#[derive(Clone)]
pub struct Drives {
    drives: Vec<Drive>,
    /// Copies of the list of lost blocks, which lie in front of what drives have here.
    pub lists: BTreeMap<(MemberIndex, MemberLba), Vec<u8>>,
    /// Blocks that may still be written before the power goes.
    pub left: Option<u64>,
    pub random: Random,
}

impl Drives {
    pub fn new(members: u8, blocks: u64, seed: u64) -> Self {
        let bytes = usize::try_from(blocks).expect("small") * BLOCK;
        let drive = Drive {
            durable: vec![0; bytes],
            cached: Vec::new(),
            bad: Vec::new(),
        };
        Self {
            drives: vec![drive; usize::from(members)],
            lists: BTreeMap::new(),
            left: None,
            random: Random::new(seed),
        }
    }

    pub fn block(&self, member: MemberIndex, lba: MemberLba) -> Vec<u8> {
        let drive = &self.drives[usize::from(member.0)];
        let at = usize::try_from(lba.0).expect("small");
        let cached = drive.cached.iter().rev().find(|(block, _)| *block == at);
        cached.map_or_else(
            || drive.durable[at * BLOCK..][..BLOCK].to_vec(),
            |(_, data)| data.clone(),
        )
    }

    /// All bytes from a block on, as they are read now.
    pub fn from(&self, member: MemberIndex, start: MemberLba) -> Vec<u8> {
        let blocks = self.drives[usize::from(member.0)].durable.len() / BLOCK;
        (start.0..blocks as u64)
            .flat_map(|lba| self.block(member, MemberLba(lba)))
            .collect()
    }

    fn write_block(&mut self, member: MemberIndex, at: usize, data: &[u8], fua: bool) {
        let drive = &mut self.drives[usize::from(member.0)];
        drive.bad.retain(|bad| *bad != at);
        if fua {
            drive.cached.retain(|(block, _)| *block != at);
            drive.durable[at * BLOCK..][..BLOCK].copy_from_slice(data);
        } else {
            drive.cached.push((at, data.to_vec()));
        }
    }

    /// Carries out writes that are in flight together. False if the power goes meanwhile: then any of their
    /// blocks were written and any were not.
    pub fn write(&mut self, writes: &[Write]) -> bool {
        let blocks: u64 = writes.iter().map(|write| (write.data.len() / BLOCK) as u64).sum();
        let cut = self.left.is_some_and(|left| left < blocks);
        for write in writes {
            let first = usize::try_from(write.lba.0).expect("small");
            for (at, data) in (first..).zip(write.data.chunks(BLOCK)) {
                if !cut || self.random.one_in(2) {
                    // What was not answered may be seen before it is durable.
                    let durable = write.fua && (!cut || self.random.one_in(2));
                    self.write_block(write.member, at, data, durable);
                }
            }
        }
        self.left = self.left.map(|left| left.saturating_sub(blocks));
        !cut
    }

    pub fn flush(&mut self, member: MemberIndex) {
        let drive = &mut self.drives[usize::from(member.0)];
        for (at, data) in std::mem::take(&mut drive.cached) {
            drive.durable[at * BLOCK..][..BLOCK].copy_from_slice(&data);
        }
    }

    /// The power goes: of what was not flushed any block may be lost.
    pub fn power_cut(&mut self) {
        for drive in &mut self.drives {
            for (at, data) in std::mem::take(&mut drive.cached) {
                if self.random.one_in(2) {
                    drive.durable[at * BLOCK..][..BLOCK].copy_from_slice(&data);
                }
            }
        }
        self.left = None;
    }

    /// Keeps of the blocks that were not flushed those whose bit in `kept` is set; returns how many there were.
    pub fn keep(&mut self, kept: u32) -> u32 {
        let mut number = 0;
        for drive in &mut self.drives {
            for (at, data) in std::mem::take(&mut drive.cached) {
                if kept >> number & 1 == 1 {
                    drive.durable[at * BLOCK..][..BLOCK].copy_from_slice(&data);
                }
                number += 1;
            }
        }
        number
    }

    /// Everything on a drive becomes noise: whoever reads it notices.
    pub fn wreck(&mut self, member: MemberIndex, from: MemberLba) {
        let start = usize::try_from(from.0).expect("small") * BLOCK;
        let drive = &mut self.drives[usize::from(member.0)];
        drive.cached.clear();
        for word in drive.durable[start..].chunks_exact_mut(8) {
            word.copy_from_slice(&self.random.next().to_be_bytes());
        }
    }

    /// A block becomes zeroes.
    pub fn overwrite(&mut self, member: MemberIndex, lba: MemberLba) {
        let at = usize::try_from(lba.0).expect("small");
        self.write_block(member, at, &[0; BLOCK], true);
    }

    /// A block that cannot be read until it is written.
    pub fn spoil(&mut self, member: MemberIndex, lba: MemberLba) {
        let at = usize::try_from(lba.0).expect("small");
        self.drives[usize::from(member.0)].bad.push(at);
    }

    fn read(&self, member: MemberIndex, lba: MemberLba, blocks: u32) -> Result<Vec<u8>, DriveError> {
        let range = lba.0..lba.0 + u64::from(blocks);
        let bad = &self.drives[usize::from(member.0)].bad;
        if bad.iter().any(|at| range.contains(&(*at as u64))) {
            return Err(DriveError::Media);
        }
        Ok(range.flat_map(|lba| self.block(member, MemberLba(lba))).collect())
    }

    /// The list of lost blocks that these members have.
    pub fn lost(&self, group: Uuid) -> LostList {
        let mut found = LostList::default();
        self.lists.values().for_each(|page| found.take(group, page));
        found
    }

    fn carry_out(&mut self, action: Action) -> Event {
        match action {
            Action::Read {
                io,
                member,
                lba,
                blocks,
            } => Event::ReadDone {
                io,
                result: self.read(member, lba, blocks),
            },
            Action::Write {
                io,
                member,
                lba,
                data,
                fua,
            } => {
                if lists().contains(&lba) {
                    assert!(fua, "nobody relies on a list that may be gone");
                    self.lists.insert((member, lba), data);
                    return Event::Written { io, result: Ok(()) };
                }
                let write = Write {
                    member,
                    lba,
                    data,
                    fua,
                };
                self.write(&[write]);
                Event::Written { io, result: Ok(()) }
            }
            Action::Flush { io, member } => {
                self.flush(member);
                Event::Flushed { io, result: Ok(()) }
            }
            Action::Progress { .. } | Action::Done(_) | Action::Failed(_) => {
                panic!("{action:?} is no transfer")
            }
        }
    }

    /// Runs a replay to its end, answering in any order.
    pub fn run(&mut self, replay: Replay) -> Result<Report, ReplayError> {
        self.run_some(replay, u64::MAX).expect("it ends")
    }

    /// Runs a replay for so many transfers, then the power goes while the others are in flight. `None` if it had not ended.
    pub fn run_some(&mut self, mut replay: Replay, transfers: u64) -> Option<Result<Report, ReplayError>> {
        self.drive(&mut replay, transfers)
    }

    /// Runs a replay to its end and gives what is lost then.
    pub fn run_for_lost(&mut self, mut replay: Replay) -> LostMap {
        let ended = self.drive(&mut replay, u64::MAX);
        ended.expect("it ends").expect("it is replayed");
        LostMap::of(&replay.into_lost().windows)
    }

    fn drive(&mut self, replay: &mut Replay, transfers: u64) -> Option<Result<Report, ReplayError>> {
        let mut out = Vec::new();
        let mut flying = Vec::new();
        let mut progress = 0;
        replay.handle(Event::Start, &mut out);
        let mut done = 0;
        loop {
            for action in out.drain(..) {
                match action {
                    Action::Done(report) => return Some(Ok(report)),
                    Action::Failed(error) => return Some(Err(error)),
                    Action::Progress { done_rows, rows } => {
                        assert!(
                            done_rows >= progress && done_rows <= rows,
                            "progress goes forwards"
                        );
                        progress = done_rows;
                    }
                    Action::Read { .. } | Action::Write { .. } | Action::Flush { .. } => flying.push(action),
                }
            }
            assert!(flying.len() <= super::super::IN_FLIGHT_MAX && !flying.is_empty());
            if done == transfers {
                self.cut_flying(flying);
                return None;
            }
            done += 1;
            let next = self.random.below(u32::try_from(flying.len()).expect("few"));
            let event = self.carry_out(flying.swap_remove(next as usize));
            replay.handle(event, &mut out);
        }
    }

    fn cut_flying(&mut self, flying: Vec<Action>) {
        self.left = Some(0);
        for action in flying {
            if matches!(action, Action::Write { .. }) {
                self.carry_out(action);
            }
        }
        self.power_cut();
    }

    /// Runs a replay until it first asks for `what`, and answers that with an error.
    pub fn run_failing(
        &mut self,
        mut replay: Replay,
        what: Question,
        error: DriveError,
    ) -> Result<Report, ReplayError> {
        let mut queue = Vec::new();
        replay.handle(Event::Start, &mut queue);
        let mut failed = false;
        loop {
            assert!(!queue.is_empty(), "it goes on or ends");
            match queue.remove(0) {
                Action::Done(report) => return Ok(report),
                Action::Failed(error) => return Err(error),
                Action::Progress { .. } => (),
                action @ (Action::Read { .. } | Action::Write { .. } | Action::Flush { .. }) => {
                    let event = match what(&action) {
                        Some((io, _)) if !failed => {
                            failed = true;
                            failure(&action, io, error)
                        }
                        Some(_) | None => self.carry_out(action),
                    };
                    replay.handle(event, &mut queue);
                }
            }
        }
    }
}

fn failure(action: &Action, io: IoId, error: DriveError) -> Event {
    match action {
        Action::Read { .. } => Event::ReadDone {
            io,
            result: Err(error),
        },
        Action::Write { .. } => Event::Written {
            io,
            result: Err(error),
        },
        Action::Flush { .. } => Event::Flushed {
            io,
            result: Err(error),
        },
        Action::Progress { .. } | Action::Done(_) | Action::Failed(_) => panic!("{action:?} is no transfer"),
    }
}
