//! A group with its journal, written by the rules in the simplest way, and what may legally be read from it.

use std::collections::{BTreeMap, BTreeSet};

use nvme::crc32c;

use super::super::super::codec::{self, BatchHeader, Entry, JournalLayout};
use super::super::Replay;
use super::drives::{BLOCK, Drives, Random, Write};
use crate::amf::code::{Solution, factor, mul_add_bytes};
use crate::amf::expansion::Layout;
use crate::amf::geometry::{Geometry, Level};
use crate::amf::superblock::Uuid;
use crate::amf::{MemberIndex, MemberSet, ParityTrust, RowIndex};
use crate::drive::block::{BlockSize, MemberLba};

pub const ROWS: u64 = 5;
pub const LANES: u16 = 2;

/// The content of a block: all zeroes for stamp 0.
pub fn block_of(stamp: u64) -> Vec<u8> {
    let mut random = Random::new(stamp);
    if stamp == 0 {
        return vec![0; BLOCK];
    }
    (0..BLOCK / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

#[derive(Clone, Default)]
struct Lane {
    head: u32,
    batch: u64,
    /// Position, length and last sequence number of the batches whose space is not free, oldest first.
    kept: Vec<(u32, u32, u64)>,
    /// Largest tail in a committed header.
    tail: u64,
}

/// What a row's holder knows.
#[derive(Clone, Default)]
struct Row {
    /// Stamps of its user data in place, with all destages that have begun.
    placed: Vec<u64>,
    /// Committed writes that are not destaged: number, first block, stamps.
    dirty: Vec<(u64, u32, Vec<u64>)>,
    lane: u16,
}

#[derive(Clone)]
pub struct World {
    pub geometry: Geometry,
    pub layout: JournalLayout,
    pub members: MemberSet,
    pub drives: Drives,
    pub random: Random,
    lanes: Vec<Lane>,
    rows: Vec<Row>,
    /// Stamps that each block of each row may hold.
    pub legal: Vec<Vec<BTreeSet<u64>>>,
    next_seq: u64,
    next_stamp: u64,
    /// Numbers of entries that are not retired.
    open: BTreeSet<u64>,
    /// Those of them that are in place, not flushed.
    placed: Vec<u64>,
    batches: u32,
}

/// The power has gone.
#[derive(Debug)]
pub struct Cut;

impl World {
    pub fn new(level: Level, members: u8, strip: u32, seed: u64) -> Self {
        // Twice a batch and a record for each row, so that nothing waits for room that records need.
        let record = u32::from(level.check_strips()) * strip + 1;
        let layout = JournalLayout {
            start: MemberLba(4),
            lane_blocks: 2 * (5 * record + 16),
            lanes: LANES,
            incarnation: 77,
            group: Uuid([9; 16]),
            block: BlockSize::B512,
        };
        let start = MemberLba(4 + layout.region_blocks());
        let geometry = Geometry::new(level, members, strip, start, ROWS, BlockSize::B512).expect("legal");
        // Some more than the rows, for tests that look in the wrong place.
        let blocks = start.0 + ROWS * u64::from(geometry.member_row_blocks()) + 100;
        let row = Row {
            placed: vec![0; geometry.row_blocks() as usize],
            ..Row::default()
        };
        let legal = vec![BTreeSet::from([0]); geometry.row_blocks() as usize];
        Self {
            geometry,
            layout,
            members: MemberSet {
                generation: 1,
                failed: 0,
                parity: ParityTrust::Everywhere,
                rebuilding: 0,
                rebuilt_rows: 0,
            },
            drives: Drives::new(members, blocks, seed ^ 0xabcd),
            random: Random::new(seed),
            lanes: vec![Lane::default(); usize::from(LANES)],
            rows: vec![row; usize::try_from(ROWS).expect("small")],
            legal: vec![legal; usize::try_from(ROWS).expect("small")],
            next_seq: 100,
            next_stamp: 1,
            open: BTreeSet::new(),
            placed: Vec::new(),
            batches: 0,
        }
    }

    pub fn replay(&self) -> Replay {
        Replay::new(self.layout, Layout::fixed(self.geometry), self.members)
    }

    /// Above all numbers that are used.
    pub const fn next_number(&self) -> u64 {
        self.next_seq
    }

    pub fn live(&self) -> Vec<MemberIndex> {
        let all = (0..self.geometry.members()).map(MemberIndex);
        all.filter(|member| !self.members.is_failed(*member)).collect()
    }

    fn lost_at(&self, row: RowIndex) -> u32 {
        if row.0 < self.members.rebuilt_rows {
            self.members.failed & !self.members.rebuilding
        } else {
            self.members.failed
        }
    }

    /// A member is lost, with all that was on it.
    pub fn lose(&mut self, member: MemberIndex) {
        self.members.failed |= 1 << member.0;
        self.members.rebuilding &= !(1 << member.0);
        self.drives.wreck(member, MemberLba(0));
    }

    /// A member is rebuilt up to this row, not included; what lies behind is noise.
    pub fn rebuild(&mut self, member: MemberIndex, rows: u64) {
        self.members.failed |= 1 << member.0;
        self.members.rebuilding |= 1 << member.0;
        self.members.rebuilt_rows = rows;
        if rows < ROWS {
            let from = self.geometry.member_lba(RowIndex(rows), 0);
            self.drives.wreck(member, from);
        }
    }

    pub fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.open.insert(self.next_seq - 1);
        self.next_seq - 1
    }

    pub fn tail(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next_seq)
    }

    /// Where the next batch of a lane goes if that is free.
    fn room(&mut self, lane: u16, blocks: u32) -> Option<u32> {
        let lane_blocks = self.layout.lane_blocks;
        let lane = &mut self.lanes[usize::from(lane)];
        // The newest header stays: it carries the tail.
        while lane.kept.len() > 1 && lane.kept[0].2 < lane.tail {
            lane.kept.remove(0);
        }
        let head = if lane.head + blocks > lane_blocks {
            0
        } else {
            lane.head
        };
        let overlaps = |(start, length, _): &(u32, u32, u64)| *start < head + blocks && head < start + length;
        (!lane.kept.iter().any(overlaps)).then_some(head)
    }

    /// Writes a batch to so many members and waits until it is committed.
    pub fn commit(&mut self, lane: u16, entries: &[Entry], payload: &[u8]) -> Result<(), Cut> {
        let blocks = u32::try_from(payload.len() / BLOCK).expect("small") + 1;
        let tail = self.tail();
        let position = self.room(lane, blocks).expect("room was made before");
        let state = &mut self.lanes[usize::from(lane)];
        state.batch += 1;
        let header = BatchHeader {
            group: self.layout.group,
            incarnation: self.layout.incarnation,
            lane,
            batch: state.batch,
            position,
            tail,
            payload_blocks: blocks - 1,
        };
        let mut data = vec![0; BLOCK];
        codec::encode(&header, entries, crc32c::portable(0, payload), &mut data);
        data.extend(payload);
        let live = self.live();
        let copies =
            super::super::super::copies_written(&self.geometry, u32::try_from(live.len()).expect("few"));
        self.batches += 1;
        let writes: Vec<_> = (0..copies)
            .map(|copy| Write {
                member: live[(self.batches + copy) as usize % live.len()],
                lba: self.layout.lba(lane, position),
                data: data.clone(),
                fua: true,
            })
            .collect();
        if !self.drives.write(&writes) {
            return Err(Cut);
        }
        let last = entries.iter().map(Entry::seq).max().unwrap_or(0);
        let state = &mut self.lanes[usize::from(lane)];
        state.kept.push((position, blocks, last));
        state.head = position + blocks;
        state.tail = tail;
        Ok(())
    }

    /// Makes room for a batch, if need be by destaging everything.
    fn make_room(&mut self, lane: u16, blocks: u32) -> Result<(), Cut> {
        // Beside the batch: a record for each row, and a header that says what is retired.
        let record = u32::from(self.geometry.check_strips()) * self.geometry.strip_blocks() + 1;
        let blocks = blocks + 5 * record + 1;
        if self.room(lane, blocks).is_none() {
            for row in 0..ROWS {
                self.destage(RowIndex(row))?;
            }
            self.flush();
            self.room(lane, 1).expect("there is always room for a header");
            self.commit(lane, &[], &[])?;
            self.room(lane, blocks).expect("everything is retired");
        }
        Ok(())
    }

    /// Host writes in one batch, each of a row; `None` as stamps is zeroes.
    pub fn write(&mut self, lane: u16, pieces: &[(RowIndex, u32, u32, bool)]) -> Result<(), Cut> {
        for (row, ..) in pieces {
            let known = &self.rows[usize::try_from(row.0).expect("small")];
            if known.lane != lane && !known.dirty.is_empty() {
                self.destage_with_room(*row)?;
            }
        }
        let blocks: u32 = pieces.iter().filter(|piece| !piece.3).map(|piece| piece.2).sum();
        self.make_room(lane, blocks + 1)?;
        let (mut entries, mut payload, mut stamps_of) = (Vec::new(), Vec::new(), Vec::new());
        for &(row, start_blocks, blocks, zero) in pieces {
            let seq = self.seq();
            let payload_block = u32::try_from(payload.len() / BLOCK).expect("small");
            let stamps: Vec<u64> = (0..u64::from(blocks))
                .map(|at| if zero { 0 } else { self.next_stamp + at })
                .collect();
            self.next_stamp += u64::from(blocks);
            if !zero {
                payload.extend(stamps.iter().flat_map(|stamp| block_of(*stamp)));
            }
            entries.push(if zero {
                Entry::Zero {
                    members: self.geometry.members(),
                    row,
                    start_blocks,
                    blocks,
                    seq,
                }
            } else {
                Entry::Write {
                    members: self.geometry.members(),
                    row,
                    start_blocks,
                    blocks,
                    seq,
                    payload_block,
                }
            });
            for (legal, stamp) in self.legal_of(row, start_blocks).zip(&stamps) {
                legal.insert(*stamp);
            }
            stamps_of.push((row, seq, start_blocks, stamps));
        }
        self.commit(lane, &entries, &payload)?;
        for (row, seq, start, stamps) in stamps_of {
            for (legal, stamp) in self.legal_of(row, start).zip(&stamps) {
                *legal = BTreeSet::from([*stamp]);
            }
            let known = &mut self.rows[usize::try_from(row.0).expect("small")];
            known.lane = lane;
            known.dirty.push((seq, start, stamps));
        }
        Ok(())
    }

    fn legal_of(&mut self, row: RowIndex, start: u32) -> impl Iterator<Item = &mut BTreeSet<u64>> {
        let row = usize::try_from(row.0).expect("small");
        self.legal[row].iter_mut().skip(start as usize)
    }

    /// The entries and writes of a destage of a row; `None` if there is nothing to do.
    pub fn plan_destage(&mut self, row: RowIndex) -> Option<(Vec<Entry>, Vec<u8>, Vec<Write>)> {
        let number = usize::try_from(row.0).expect("small");
        let dirty = std::mem::take(&mut self.rows[number].dirty);
        let cut = dirty.last()?.0;
        let mut touched = BTreeSet::new();
        for (seq, start, stamps) in &dirty {
            self.placed.push(*seq);
            for (at, stamp) in (*start..).zip(stamps) {
                self.rows[number].placed[at as usize] = *stamp;
                touched.insert(at);
            }
        }
        let strip = self.geometry.strip_blocks();
        let mut offsets: BTreeSet<u32> = touched.iter().map(|at| at % strip).collect();
        if self.random.one_in(3) {
            // A writer may record more than it must.
            offsets = (*offsets.first()?..=*offsets.last()?).collect();
        }
        let mut writes = self.data_writes(row, &touched);
        let (mut entries, mut payload) = (Vec::new(), Vec::new());
        let mut count = 0;
        // Check data of a row that is dirty as a whole follows from the journal; a writer may record it all the same.
        let whole = touched.len() == self.geometry.row_blocks() as usize && !self.random.one_in(4);
        for index in 0..self.geometry.check_strips() {
            for (start, end) in adjacent(&offsets) {
                let data: Vec<u8> = (start..end)
                    .flat_map(|offset| self.check_block(row, index, offset))
                    .collect();
                if !whole {
                    let seq = self.seq();
                    self.placed.push(seq);
                    entries.push(Entry::Check {
                        members: self.geometry.members(),
                        row,
                        index,
                        offset_blocks: start,
                        blocks: end - start,
                        seq,
                        payload_block: u32::try_from(payload.len() / BLOCK).expect("small"),
                    });
                    count += 1;
                    payload.extend(&data);
                }
                writes.extend(self.check_writes(row, index, start, data));
            }
        }
        let seq = self.seq();
        self.placed.push(seq);
        entries.push(Entry::Destage {
            members: self.geometry.members(),
            row,
            cut,
            checks: count,
            seq,
        });
        let lost = self.lost_at(row);
        writes.retain(|write| lost >> write.member.0 & 1 == 0);
        Some((entries, payload, writes))
    }

    fn check_writes(&self, row: RowIndex, index: u8, offset: u32, data: Vec<u8>) -> Option<Write> {
        let member = self.geometry.check_member(row, index)?;
        let lba = self.geometry.member_lba(row, offset);
        Some(Write {
            member,
            lba,
            data,
            fua: false,
        })
    }

    fn data_writes(&self, row: RowIndex, touched: &BTreeSet<u32>) -> Vec<Write> {
        let strip = self.geometry.strip_blocks();
        let mut writes = Vec::new();
        for &at in touched {
            let stamp = self.rows[usize::try_from(row.0).expect("small")].placed[at as usize];
            let column = u8::try_from(at / strip).expect("small");
            for copy in 0..self.geometry.copies() {
                let place = self.geometry.copy_place(row, column, copy);
                writes.push(Write {
                    member: place.member,
                    lba: self.geometry.member_lba(row, place.start_blocks + at % strip),
                    data: block_of(stamp),
                    fua: false,
                });
            }
        }
        writes
    }

    fn check_block(&self, row: RowIndex, index: u8, offset: u32) -> Vec<u8> {
        let placed = &self.rows[usize::try_from(row.0).expect("small")].placed;
        let mut sum = vec![0; BLOCK];
        for column in 0..self.geometry.data_members() {
            let at = u32::from(column) * self.geometry.strip_blocks() + offset;
            mul_add_bytes(&mut sum, &block_of(placed[at as usize]), factor(index, column));
        }
        sum
    }

    /// Brings a row in place, with its journal record first; its entries are retired by a later flush.
    pub fn destage(&mut self, row: RowIndex) -> Result<(), Cut> {
        if self.rows[usize::try_from(row.0).expect("small")].dirty.is_empty() {
            return Ok(());
        }
        let lane = self.rows[usize::try_from(row.0).expect("small")].lane;
        let (entries, payload, writes) = self.plan_destage(row).expect("the row is dirty");
        self.commit(lane, &entries, &payload)?;
        if self.drives.write(&writes) {
            Ok(())
        } else {
            Err(Cut)
        }
    }

    /// Flushes all members, which retires what is in place.
    pub fn flush(&mut self) {
        for member in (0..self.geometry.members()).map(MemberIndex) {
            self.drives.flush(member);
        }
        for seq in self.placed.drain(..) {
            self.open.remove(&seq);
        }
    }

    /// What a reader gets for a row with the members that are left: checked against one another and
    /// against what is legal. I5, I6, I7, I8. Returns the stamps.
    pub fn check_row(&self, row: RowIndex, context: &str) {
        let strip = self.geometry.strip_blocks();
        let lost = self.lost_at(row);
        for offset in 0..strip {
            let columns = self.columns(row, offset, lost, context);
            for (column, block) in (0..).zip(&columns) {
                let at = column * strip + offset;
                let legal = &self.legal[usize::try_from(row.0).expect("small")][at as usize];
                assert!(
                    legal.iter().any(|stamp| block_of(*stamp) == *block),
                    "{context}: row {} block {at} holds none of {legal:?}",
                    row.0
                );
            }
            for index in 0..self.geometry.check_strips() {
                let member = self.geometry.check_member(row, index).expect("a check strip");
                if lost >> member.0 & 1 == 1 {
                    continue;
                }
                let mut sum = vec![0; BLOCK];
                for (column, block) in (0..).zip(&columns) {
                    mul_add_bytes(&mut sum, block, factor(index, column));
                }
                let found = self.drives.block(member, self.geometry.member_lba(row, offset));
                assert!(
                    sum == found,
                    "{context}: row {} offset {offset} check {index} does not fit",
                    row.0
                );
            }
        }
    }

    /// All data blocks at one offset of a row; lost ones regenerated, copies compared.
    fn columns(&self, row: RowIndex, offset: u32, lost: u32, context: &str) -> Vec<Vec<u8>> {
        let geometry = &self.geometry;
        let mut columns: Vec<Option<Vec<u8>>> = Vec::new();
        for column in 0..geometry.data_members() {
            let mut content = None;
            for copy in 0..geometry.copies() {
                let place = geometry.copy_place(row, column, copy);
                if lost >> place.member.0 & 1 == 0 {
                    let lba = geometry.member_lba(row, place.start_blocks + offset);
                    let block = self.drives.block(place.member, lba);
                    assert!(
                        content.as_ref().is_none_or(|other| *other == block),
                        "{context}: copies of row {} differ",
                        row.0
                    );
                    content = Some(block);
                }
            }
            columns.push(content);
        }
        let mut gone = 0;
        let mut checks = BTreeMap::new();
        for (column, _) in (0..).zip(&columns).filter(|(_, content)| content.is_none()) {
            gone |= 1_u32 << column;
        }
        for index in 0..geometry.check_strips() {
            let member = geometry.check_member(row, index).expect("a check strip");
            if lost >> member.0 & 1 == 0 {
                checks.insert(index, self.drives.block(member, geometry.member_lba(row, offset)));
            }
        }
        if gone != 0 {
            let live = checks.keys().fold(0, |mask, index| mask | 1_u8 << index);
            let solution = Solution::new(gone, live).expect("the level survives it");
            let known = columns.clone();
            for (number, column) in solution.columns().iter().enumerate() {
                let mut sum = vec![0; BLOCK];
                for (source, index) in solution.checks().iter().enumerate() {
                    mul_add_bytes(&mut sum, &checks[index], solution.check_factor(number, source));
                }
                for (live, block) in (0..)
                    .zip(&known)
                    .filter_map(|(live, block)| Some((live, block.as_ref()?)))
                {
                    mul_add_bytes(&mut sum, block, solution.column_factor(number, live));
                }
                columns[usize::from(*column)] = Some(sum);
            }
        }
        columns
            .into_iter()
            .map(|column| column.expect("known by now"))
            .collect()
    }

    pub fn check(&self, context: &str) {
        for row in 0..ROWS {
            self.check_row(RowIndex(row), context);
        }
    }

    /// The data areas of all live members.
    pub fn data(&self) -> Vec<Vec<u8>> {
        let start = self.geometry.data_start();
        self.live()
            .into_iter()
            .map(|member| self.drives.from(member, start))
            .collect()
    }

    /// Something that a core may do.
    pub fn step(&mut self) -> Result<(), Cut> {
        let row = RowIndex(u64::from(self.random.below(5)));
        match self.random.below(10) {
            0..6 => {
                let lane = u16::from(self.random.one_in(2));
                let pieces: Vec<_> = (0..1 + self.random.below(2))
                    .map(|more| self.piece(row, more))
                    .collect();
                self.write(lane, &pieces)
            }
            6..9 => self.destage_with_room(row),
            _ => {
                self.flush();
                Ok(())
            }
        }
    }

    fn piece(&mut self, row: RowIndex, more: u32) -> (RowIndex, u32, u32, bool) {
        let row_blocks = self.geometry.row_blocks();
        let start = self.random.below(row_blocks);
        let blocks = 1 + self.random.below((row_blocks - start).min(6));
        let row = RowIndex((row.0 + u64::from(more)) % ROWS);
        let zero = self.random.one_in(5);
        if self.random.one_in(if zero { 2 } else { 8 }) {
            return (row, 0, row_blocks, zero);
        }
        (row, start, blocks, zero)
    }

    fn destage_with_room(&mut self, row: RowIndex) -> Result<(), Cut> {
        let most = u32::from(self.geometry.check_strips()) * self.geometry.strip_blocks() + 1;
        let lane = self.rows[usize::try_from(row.0).expect("small")].lane;
        self.make_room(lane, most)?;
        self.destage(row)
    }
}

/// Runs of adjacent numbers, as start and end.
fn adjacent(offsets: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &offset in offsets {
        match runs.last_mut() {
            Some((_, end)) if *end == offset => *end += 1,
            Some(_) | None => runs.push((offset, offset + 1)),
        }
    }
    runs
}
