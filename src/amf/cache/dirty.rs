//! Which blocks of a row are newer than its drives, and where their data is.

use super::EntryIndex;

/// No extent.
const NONE: u32 = u32::MAX;

/// Stands for [`DirtySource::Zeroes`] where a ring block is kept.
const ZEROES: u32 = u32::MAX;

/// Most runs of dirty blocks of one row that a plan takes at a time: what `RowPlan::write_extents` is made for.
pub const ROW_RUNS_MAX: u32 = 64;

/// Net growth of one insertion at most: the new extent, and one that it cuts in two.
const GROWTH_MAX: u32 = 2;

/// Sizes of a [`DirtyMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLimits {
    /// Entries, as many as the [`super::RowTable`] beside it has.
    pub rows_max: u32,
    /// Extents of all rows together, 24 bytes each.
    pub extents_max: u32,
    /// Extents of one row. Bounds how long a search takes.
    pub row_extents_max: u32,
    /// User data of the longest row, in blocks.
    pub row_blocks: u32,
}

/// Where the data of dirty blocks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtySource {
    /// In the lane's ring from this block of the ring on, contiguous.
    Ring {
        /// From the start of the ring, in blocks.
        block: u32,
    },
    /// Nowhere: it is zeroes.
    Zeroes,
}

/// Dirty blocks of a row that were written together and lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyExtent {
    /// From the start of the row's user data.
    pub start_blocks: u32,
    /// Length, at least 1.
    pub blocks: u32,
    /// Where its data is.
    pub source: DirtySource,
    /// The number under which the journal has it.
    pub seq: u64,
}

/// Adjacent dirty blocks of a row, wherever their data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyRun {
    /// From the start of the row's user data.
    pub start_blocks: u32,
    /// Length, at least 1.
    pub blocks: u32,
}

/// What a destage of a row begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtySnapshot {
    /// Everything up to this number is in the snapshot: what [`DirtyMap::clear_up_to`] is told when it is on the drives.
    pub cut: u64,
    /// The oldest number whose data is still in use.
    pub seq_lowest: u64,
    /// Dirty blocks.
    pub blocks: u32,
    /// Those of them that are zeroes.
    pub zero_blocks: u32,
    /// Runs of adjacent dirty blocks, at most [`ROW_RUNS_MAX`].
    pub runs: u32,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    start: u32,
    blocks: u32,
    /// Block of the ring, or `ZEROES`.
    ring: u32,
    next: u32,
    seq: u64,
}

impl Node {
    fn end(&self) -> u32 {
        self.start + self.blocks
    }

    fn zero_blocks(&self) -> u32 {
        if self.ring == ZEROES { self.blocks } else { 0 }
    }

    /// What is left of it from `start` on.
    fn from(&self, start: u32) -> Self {
        let skipped = start - self.start;
        Self {
            start,
            blocks: self.blocks - skipped,
            ring: if self.ring == ZEROES {
                ZEROES
            } else {
                self.ring + skipped
            },
            ..*self
        }
    }

    fn extent(&self) -> DirtyExtent {
        DirtyExtent {
            start_blocks: self.start,
            blocks: self.blocks,
            source: match self.ring {
                ZEROES => DirtySource::Zeroes,
                block => DirtySource::Ring { block },
            },
            seq: self.seq,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    first: u32,
    /// So that sequential writes need no search.
    last: u32,
    extents: u32,
    runs: u32,
    blocks: u32,
    zero_blocks: u32,
    seq_highest: u64,
}

impl Row {
    const CLEAN: Self = Self {
        first: NONE,
        last: NONE,
        extents: 0,
        runs: 0,
        blocks: 0,
        zero_blocks: 0,
        seq_highest: 0,
    };
}

/// The dirty extents of each row: disjoint, ascending, of all rows in one slab.
///
/// Of blocks that are written twice the later write is kept. Extents that touch are not joined, because each has its number and its place.
#[derive(Debug)]
pub struct DirtyMap {
    rows: Box<[Row]>,
    nodes: Box<[Node]>,
    free_first: u32,
    free: u32,
    limits: DirtyLimits,
    blocks: u64,
}

impl DirtyMap {
    /// A map in which all is clean: 40 bytes a row and 24 an extent.
    pub fn new(limits: DirtyLimits) -> Self {
        assert!(limits.extents_max < NONE, "the last index means no extent");
        assert!(
            limits.extents_max.min(limits.row_extents_max) >= GROWTH_MAX,
            "a row has room for an insertion"
        );
        assert!(limits.row_blocks > 0, "a row has blocks");
        let node = |index: u32| Node {
            start: 0,
            blocks: 0,
            ring: 0,
            next: if index + 1 < limits.extents_max {
                index + 1
            } else {
                NONE
            },
            seq: 0,
        };
        Self {
            rows: vec![Row::CLEAN; limits.rows_max as usize].into_boxed_slice(),
            nodes: (0..limits.extents_max).map(node).collect(),
            free_first: 0,
            free: limits.extents_max,
            limits,
            blocks: 0,
        }
    }

    /// Whether so many insertions into a row will fit, whatever they are. If not, the row is to be destaged first, or another
    /// one if the row is clean.
    pub fn room_for(&self, entry: EntryIndex, inserts: u32) -> bool {
        let row = &self.rows[entry.0 as usize];
        let growth = inserts.saturating_mul(GROWTH_MAX);
        growth <= self.free
            && growth.saturating_add(row.extents) <= self.limits.row_extents_max
            && inserts.saturating_add(row.runs) <= ROW_RUNS_MAX
    }

    /// Makes blocks of a row dirty and says how many extents the row has then. What it had there is forgotten: `seq` is at least as high as
    /// all before it in the row.
    ///
    /// Panics if it lies outside of the row, comes out of order, or [`Self::room_for`] says no.
    pub fn insert(
        &mut self,
        entry: EntryIndex,
        start_blocks: u32,
        blocks: u32,
        source: DirtySource,
        seq: u64,
    ) -> u32 {
        let end = self.checked_end(start_blocks, blocks);
        assert!(self.room_for(entry, 1), "room was asked for");
        assert!(
            seq >= self.rows[entry.0 as usize].seq_highest,
            "writes of a row come in the order of their numbers"
        );
        let before = self.last_up_to(entry, start_blocks);
        let after = self.first_from(entry, before, end);
        let old_runs = self.run_starts(entry, before, after);
        let left = self.cut_out(entry, before, start_blocks, end);
        let ring = match source {
            DirtySource::Ring { block } => {
                let ring_end = block.checked_add(blocks);
                assert!(ring_end.is_some(), "an extent ends inside the ring");
                block
            }
            DirtySource::Zeroes => ZEROES,
        };
        let node = Node {
            start: start_blocks,
            blocks,
            ring,
            next: NONE,
            seq,
        };
        self.link_after(entry, left, node);
        let new_runs = self.run_starts(entry, before, after);
        let row = &mut self.rows[entry.0 as usize];
        row.runs = row.runs - old_runs + new_runs;
        row.seq_highest = seq;
        assert!(row.blocks <= self.limits.row_blocks, "extents are disjoint");
        row.extents
    }

    /// Removes what was written up to `cut`, because it is on the drives, and says how many extents are left. What remains of an
    /// extent that was partly overwritten has the extent's number.
    pub fn clear_up_to(&mut self, entry: EntryIndex, cut: u64) -> u32 {
        let mut before = NONE;
        let mut at = self.rows[entry.0 as usize].first;
        while at != NONE {
            let next = self.nodes[at as usize].next;
            if self.nodes[at as usize].seq <= cut {
                self.unlink_after(entry, before);
            } else {
                before = at;
            }
            at = next;
        }
        let runs = self.run_starts(entry, NONE, NONE);
        let row = &mut self.rows[entry.0 as usize];
        row.runs = runs;
        if row.extents == 0 {
            assert_eq!(row.blocks + row.zero_blocks, 0, "nothing is left of a clean row");
            *row = Row::CLEAN;
        }
        row.extents
    }

    /// What a destage that begins now takes to the drives; nothing if the row is clean.
    pub fn snapshot(&self, entry: EntryIndex) -> Option<DirtySnapshot> {
        let row = &self.rows[entry.0 as usize];
        let seq_lowest = self.extents(entry).map(|extent| extent.seq).min()?;
        Some(DirtySnapshot {
            cut: row.seq_highest,
            seq_lowest,
            blocks: row.blocks,
            zero_blocks: row.zero_blocks,
            runs: row.runs,
        })
    }

    /// All dirty extents of a row, ascending.
    pub fn extents(&self, entry: EntryIndex) -> Extents<'_> {
        self.overlay(entry, 0, self.limits.row_blocks)
    }

    /// The dirty parts of a range, ascending and cut to it: what a read lays over that which the drives say.
    pub fn overlay(&self, entry: EntryIndex, start_blocks: u32, blocks: u32) -> Extents<'_> {
        let end = self.checked_end(start_blocks, blocks);
        let before = self.last_up_to(entry, start_blocks);
        Extents {
            nodes: &self.nodes,
            at: self.next_of(entry, before),
            start: start_blocks,
            end,
        }
    }

    /// Whether all of a range is dirty, so that a read of it needs no drive.
    pub fn covers(&self, entry: EntryIndex, start_blocks: u32, blocks: u32) -> bool {
        let end = self.checked_end(start_blocks, blocks);
        let mut covered = start_blocks;
        for extent in self.overlay(entry, start_blocks, blocks) {
            if extent.start_blocks != covered {
                return false;
            }
            covered += extent.blocks;
        }
        covered == end
    }

    /// The dirty runs of a row, ascending, at most [`ROW_RUNS_MAX`]; between two of them is at least one clean block.
    pub fn coverage_runs(&self, entry: EntryIndex) -> Coverage<'_> {
        Coverage {
            nodes: &self.nodes,
            at: self.rows[entry.0 as usize].first,
        }
    }

    /// Rows may have this many blocks from here on.
    pub fn widen(&mut self, row_blocks: u32) {
        assert!(row_blocks >= self.limits.row_blocks, "rows only widen");
        self.limits.row_blocks = row_blocks;
    }

    /// Whether nothing of the row is dirty.
    pub fn is_clean(&self, entry: EntryIndex) -> bool {
        self.rows[entry.0 as usize].extents == 0
    }

    /// Whether all blocks of the row, which has so many, are dirty, so that its check data needs no read.
    pub fn is_whole_row(&self, entry: EntryIndex, row_blocks: u32) -> bool {
        self.rows[entry.0 as usize].blocks == row_blocks
    }

    /// Whether all blocks of the row, which has so many, are to be zeroes.
    pub fn is_all_zero_row(&self, entry: EntryIndex, row_blocks: u32) -> bool {
        self.rows[entry.0 as usize].zero_blocks == row_blocks
    }

    /// How many blocks of the row are dirty.
    pub fn dirty_blocks(&self, entry: EntryIndex) -> u32 {
        self.rows[entry.0 as usize].blocks
    }

    /// How many runs of adjacent dirty blocks the row has.
    pub fn runs(&self, entry: EntryIndex) -> u32 {
        self.rows[entry.0 as usize].runs
    }

    /// Dirty blocks of all rows.
    pub fn dirty_blocks_total(&self) -> u64 {
        self.blocks
    }

    /// Extents of all rows.
    pub fn extents_total(&self) -> u32 {
        self.limits.extents_max - self.free
    }

    fn checked_end(&self, start_blocks: u32, blocks: u32) -> u32 {
        assert!(blocks > 0, "a range has blocks");
        let end = start_blocks.checked_add(blocks);
        end.filter(|end| *end <= self.limits.row_blocks)
            .expect("a range lies inside its row")
    }

    /// What follows `before` in the row; `NONE` stands before the first.
    fn next_of(&self, entry: EntryIndex, before: u32) -> u32 {
        match before {
            NONE => self.rows[entry.0 as usize].first,
            before => self.nodes[before as usize].next,
        }
    }

    /// The last extent that ends at `start` or before.
    fn last_up_to(&self, entry: EntryIndex, start: u32) -> u32 {
        let last = self.rows[entry.0 as usize].last;
        if last == NONE || self.nodes[last as usize].end() <= start {
            return last;
        }
        let mut before = NONE;
        let mut at = self.rows[entry.0 as usize].first;
        while at != NONE && self.nodes[at as usize].end() <= start {
            before = at;
            at = self.nodes[at as usize].next;
        }
        before
    }

    /// The first extent behind `before` that starts at `end` or later.
    fn first_from(&self, entry: EntryIndex, before: u32, end: u32) -> u32 {
        let mut at = self.next_of(entry, before);
        while at != NONE && self.nodes[at as usize].start < end {
            at = self.nodes[at as usize].next;
        }
        at
    }

    /// How many extents behind `before`, up to `after` and including it, do not touch the one before them.
    fn run_starts(&self, entry: EntryIndex, before: u32, after: u32) -> u32 {
        let mut end = (before != NONE).then(|| self.nodes[before as usize].end());
        let mut at = self.next_of(entry, before);
        let mut starts = 0;
        while at != NONE {
            let node = &self.nodes[at as usize];
            starts += u32::from(end != Some(node.start));
            if at == after {
                break;
            }
            end = Some(node.end());
            at = node.next;
        }
        starts
    }

    /// Removes all of `start..end`, where `before` is the last extent in front of it. Says which one is it then.
    fn cut_out(&mut self, entry: EntryIndex, before: u32, start: u32, end: u32) -> u32 {
        let mut before = before;
        let mut at = self.next_of(entry, before);
        if at != NONE && self.nodes[at as usize].start < start {
            let whole = self.nodes[at as usize];
            self.shorten(entry, at, start);
            if whole.end() > end {
                self.link_after(entry, at, whole.from(end));
                return at;
            }
            before = at;
            at = whole.next;
        }
        while at != NONE && self.nodes[at as usize].end() <= end {
            let next = self.nodes[at as usize].next;
            self.unlink_after(entry, before);
            at = next;
        }
        if at != NONE && self.nodes[at as usize].start < end {
            let rest = self.nodes[at as usize].from(end);
            self.unlink_after(entry, before);
            self.link_after(entry, before, rest);
        }
        before
    }

    /// Lets an extent end at `end`, where it is not yet empty.
    fn shorten(&mut self, entry: EntryIndex, at: u32, end: u32) {
        let node = &mut self.nodes[at as usize];
        let (blocks, zero_blocks) = (node.blocks, node.zero_blocks());
        node.blocks = end - node.start;
        let row = &mut self.rows[entry.0 as usize];
        row.blocks -= blocks - node.blocks;
        row.zero_blocks -= zero_blocks - node.zero_blocks();
        self.blocks -= u64::from(blocks - node.blocks);
    }

    fn link_after(&mut self, entry: EntryIndex, before: u32, node: Node) {
        let at = self.free_first;
        assert!(at != NONE, "room was asked for");
        self.free_first = self.nodes[at as usize].next;
        self.free -= 1;
        let next = self.next_of(entry, before);
        let row = &mut self.rows[entry.0 as usize];
        match before {
            NONE => row.first = at,
            before => self.nodes[before as usize].next = at,
        }
        if next == NONE {
            row.last = at;
        }
        row.extents += 1;
        row.blocks += node.blocks;
        row.zero_blocks += node.zero_blocks();
        self.blocks += u64::from(node.blocks);
        self.nodes[at as usize] = Node { next, ..node };
    }

    /// Gives back the extent that follows `before`.
    fn unlink_after(&mut self, entry: EntryIndex, before: u32) {
        let at = self.next_of(entry, before);
        let node = self.nodes[at as usize];
        let row = &mut self.rows[entry.0 as usize];
        match before {
            NONE => row.first = node.next,
            before => self.nodes[before as usize].next = node.next,
        }
        if node.next == NONE {
            row.last = before;
        }
        row.extents -= 1;
        row.blocks -= node.blocks;
        row.zero_blocks -= node.zero_blocks();
        self.blocks -= u64::from(node.blocks);
        self.nodes[at as usize].next = self.free_first;
        self.free_first = at;
        self.free += 1;
    }
}

/// Dirty extents of a range of a row, ascending and cut to the range.
#[derive(Clone, Debug)]
pub struct Extents<'a> {
    nodes: &'a [Node],
    at: u32,
    start: u32,
    end: u32,
}

impl Iterator for Extents<'_> {
    type Item = DirtyExtent;

    fn next(&mut self) -> Option<DirtyExtent> {
        let mut node = *self.nodes.get(self.at as usize)?;
        if node.start >= self.end {
            return None;
        }
        self.at = node.next;
        if node.start < self.start {
            node = node.from(self.start);
        }
        node.blocks = node.end().min(self.end) - node.start;
        Some(node.extent())
    }
}

/// Dirty runs of a row, ascending.
#[derive(Clone, Debug)]
pub struct Coverage<'a> {
    nodes: &'a [Node],
    at: u32,
}

impl Iterator for Coverage<'_> {
    type Item = DirtyRun;

    fn next(&mut self) -> Option<DirtyRun> {
        let first = self.nodes.get(self.at as usize)?;
        let mut end = first.start;
        while let Some(node) = self.nodes.get(self.at as usize)
            && node.start == end
        {
            end = node.end();
            self.at = node.next;
        }
        Some(DirtyRun {
            start_blocks: first.start,
            blocks: end - first.start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW_BLOCKS: u32 = 96;
    const ENTRIES: usize = 3;

    /// What one block of the model is: its number and its place in the ring.
    type Block = Option<(u64, Option<u32>)>;

    fn ring(block: u32) -> DirtySource {
        DirtySource::Ring { block }
    }

    fn map(extents_max: u32) -> DirtyMap {
        DirtyMap::new(DirtyLimits {
            rows_max: 3,
            extents_max,
            row_extents_max: 20,
            row_blocks: ROW_BLOCKS,
        })
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u32) -> u32 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((self.0 >> 40) % u64::from(bound)).expect("below a 32-bit number")
        }
    }

    fn blocks_of(extents: impl Iterator<Item = DirtyExtent>) -> Vec<Block> {
        let mut blocks = vec![None; ROW_BLOCKS as usize];
        let mut end = 0;
        for extent in extents {
            assert!(
                extent.start_blocks >= end && extent.blocks > 0,
                "disjoint, ascending"
            );
            end = extent.start_blocks + extent.blocks;
            for i in 0..extent.blocks {
                let place = match extent.source {
                    DirtySource::Ring { block } => Some(block + i),
                    DirtySource::Zeroes => None,
                };
                blocks[(extent.start_blocks + i) as usize] = Some((extent.seq, place));
            }
        }
        blocks
    }

    /// Every question about a row has the answer that its blocks give one by one.
    fn check(map: &DirtyMap, entry: EntryIndex, model: &[Block], random: &mut Random) {
        assert_eq!(blocks_of(map.extents(entry)), model);
        let dirty = model.iter().flatten().count();
        let zero = model
            .iter()
            .flatten()
            .filter(|(_, place)| place.is_none())
            .count();
        assert_eq!(map.dirty_blocks(entry) as usize, dirty);
        assert_eq!(map.is_clean(entry), dirty == 0);
        assert_eq!(map.is_whole_row(entry, ROW_BLOCKS), dirty == model.len());
        assert_eq!(map.is_all_zero_row(entry, ROW_BLOCKS), zero == model.len());
        let lowest = model.iter().flatten().map(|(seq, _)| *seq).min();
        let snapshot = map.snapshot(entry);
        assert_eq!(snapshot.map(|snapshot| snapshot.seq_lowest), lowest);
        assert_eq!(snapshot.map_or(0, |snapshot| snapshot.zero_blocks) as usize, zero);

        let runs: Vec<DirtyRun> = map.coverage_runs(entry).collect();
        let mut expected: Vec<DirtyRun> = Vec::new();
        for start_blocks in (0..ROW_BLOCKS).filter(|block| model[*block as usize].is_some()) {
            match expected.last_mut() {
                Some(run) if run.start_blocks + run.blocks == start_blocks => run.blocks += 1,
                _ => expected.push(DirtyRun {
                    start_blocks,
                    blocks: 1,
                }),
            }
        }
        assert_eq!(runs, expected);
        assert_eq!(map.runs(entry) as usize, runs.len());

        let start = random.below(ROW_BLOCKS);
        let blocks = 1 + random.below(ROW_BLOCKS - start);
        let range = start as usize..(start + blocks) as usize;
        let mut part = vec![None; model.len()];
        part[range.clone()].copy_from_slice(&model[range.clone()]);
        assert_eq!(blocks_of(map.overlay(entry, start, blocks)), part);
        assert_eq!(
            map.covers(entry, start, blocks),
            model[range].iter().all(Option::is_some)
        );
    }

    /// D5: random writes, zeroes and destages against an array with the number and the place of each block.
    #[test]
    fn it_agrees_with_a_plain_array() {
        for seed in 0..20 {
            let mut random = Random(seed);
            let mut map = map(36);
            let mut models = vec![vec![None; ROW_BLOCKS as usize]; ENTRIES];
            let mut refused = 0;
            for seq in 1..3_000_u64 {
                let index = random.below(3);
                let entry = EntryIndex(index);
                let model = &mut models[index as usize];
                let start = random.below(ROW_BLOCKS);
                let longest = [3, 12, ROW_BLOCKS][random.below(3) as usize];
                let blocks = 1 + random.below(longest.min(ROW_BLOCKS - start));
                if random.below(24) == 0 {
                    let cut = seq.saturating_sub(u64::from(random.below(20)));
                    let extents = map.clear_up_to(entry, cut);
                    model
                        .iter_mut()
                        .filter(|block| block.is_some_and(|(seq, _)| seq <= cut))
                        .for_each(|block| *block = None);
                    assert_eq!(extents as usize, map.extents(entry).count());
                } else if map.room_for(entry, 1) {
                    let place = (random.below(4) > 0).then(|| random.below(1 << 20));
                    let extents =
                        map.insert(entry, start, blocks, place.map_or(DirtySource::Zeroes, ring), seq);
                    for i in 0..blocks {
                        model[(start + i) as usize] = Some((seq, place.map(|place| place + i)));
                    }
                    assert_eq!(extents as usize, map.extents(entry).count());
                    assert_eq!(map.snapshot(entry).expect("it is dirty").cut, seq);
                } else {
                    refused += 1;
                }
                check(&map, entry, model, &mut random);
                let total: usize = models.iter().flatten().flatten().count();
                assert_eq!(map.dirty_blocks_total(), total as u64);
                let extents: usize = (0..3).map(|entry| map.extents(EntryIndex(entry)).count()).sum();
                assert_eq!(map.extents_total() as usize, extents);
            }
            assert!(refused > 0, "the limits were met");
            for entry in 0..3 {
                assert_eq!(map.clear_up_to(EntryIndex(entry), u64::MAX), 0);
            }
            assert_eq!((map.extents_total(), map.dirty_blocks_total()), (0, 0));
        }
    }

    #[test]
    fn a_write_inside_another_keeps_both_ends_and_their_number() {
        let mut map = map(8);
        let entry = EntryIndex(0);
        assert_eq!(map.insert(entry, 10, 20, ring(100), 1), 1);
        assert_eq!(map.insert(entry, 15, 5, DirtySource::Zeroes, 2), 3);
        let part = |start_blocks, blocks, source, seq| DirtyExtent {
            start_blocks,
            blocks,
            source,
            seq,
        };
        assert_eq!(
            map.extents(entry).collect::<Vec<_>>(),
            [
                part(10, 5, ring(100), 1),
                part(15, 5, DirtySource::Zeroes, 2),
                part(20, 10, ring(110), 1)
            ]
        );
        assert_eq!(map.runs(entry), 1);
        assert_eq!(
            map.overlay(entry, 12, 5).collect::<Vec<_>>(),
            [part(12, 3, ring(102), 1), part(15, 2, DirtySource::Zeroes, 2)]
        );
        assert_eq!(map.clear_up_to(entry, 1), 1);
        assert_eq!(
            map.extents(entry).collect::<Vec<_>>(),
            [part(15, 5, DirtySource::Zeroes, 2)]
        );
    }

    /// What a plan cannot take in one go never comes about.
    #[test]
    fn runs_and_extents_of_a_row_are_bounded() {
        let limits = DirtyLimits {
            rows_max: 2,
            extents_max: 400,
            row_extents_max: 100,
            row_blocks: 300,
        };
        let mut map = DirtyMap::new(limits);
        let (apart, together) = (EntryIndex(0), EntryIndex(1));
        let mut block = 0;
        while map.room_for(apart, 1) {
            map.insert(apart, block, 1, ring(block), u64::from(block));
            block += 2;
        }
        assert_eq!(map.runs(apart), ROW_RUNS_MAX);
        assert_eq!(map.coverage_runs(apart).count(), 64);
        let mut block = 0;
        while map.room_for(together, 1) {
            map.insert(together, block, 1, ring(block), u64::from(block));
            block += 1;
        }
        assert_eq!((map.runs(together), block), (1, 99));
        assert!(
            !map.room_for(together, u32::MAX),
            "a count too high is no overflow"
        );
    }

    #[test]
    fn the_slab_is_shared_and_bounded() {
        let mut map = map(4);
        map.insert(EntryIndex(0), 0, 1, ring(0), 1);
        map.insert(EntryIndex(1), 0, 1, ring(1), 2);
        assert!(map.room_for(EntryIndex(2), 1));
        map.insert(EntryIndex(2), 0, 9, ring(2), 3);
        assert!(!map.room_for(EntryIndex(2), 1), "one extent left may not suffice");
        map.clear_up_to(EntryIndex(0), 1);
        assert_eq!(map.insert(EntryIndex(2), 4, 1, ring(20), 4), 3);
    }

    /// A row that was destaged wholly may be written by another lane's numbers, or its entry by another row's.
    #[test]
    fn a_clean_row_starts_anew() {
        let mut map = map(4);
        map.insert(EntryIndex(0), 0, 1, ring(0), 9);
        map.clear_up_to(EntryIndex(0), 9);
        assert_eq!(map.snapshot(EntryIndex(0)), None);
        assert_eq!(map.insert(EntryIndex(0), 0, 1, ring(0), 3), 1);
    }

    #[test]
    #[should_panic(expected = "order of their numbers")]
    fn an_older_write_after_a_newer_one_is_a_bug() {
        let mut map = map(4);
        map.insert(EntryIndex(0), 0, 1, ring(0), 9);
        map.insert(EntryIndex(0), 5, 1, ring(0), 8);
    }

    #[test]
    #[should_panic(expected = "inside its row")]
    fn a_write_beyond_the_row_is_a_bug() {
        map(4).insert(EntryIndex(0), ROW_BLOCKS - 1, 2, ring(0), 1);
    }
}
