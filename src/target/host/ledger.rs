//! What a verifying workload knows of each block that it owns, and whether a read agrees with it.
//!
//! Several workers (cores) share a namespace without sharing memory: it is cut into regions that they own in turn, so
//! that stripes at the regions' edges are written by several. Within a worker, a block has at most one write in flight
//! and none while it is being read; reads may start during a write. So what a read may bring is known exactly: the
//! acknowledged write, or the one in flight during the read.

use super::stamp::{Stamp, Wrong};

/// Which blocks a worker owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Blocks of the namespace.
    pub blocks: u64,
    /// Blocks of a region.
    pub region_blocks: u32,
    /// This worker, below `workers`.
    pub worker: u16,
    /// How many share the namespace.
    pub workers: u16,
}

impl Layout {
    /// How many blocks the worker owns.
    pub fn own_blocks(&self) -> u64 {
        let (region, workers) = (u64::from(self.region_blocks), u64::from(self.workers));
        let whole = self.blocks / region;
        let own = whole / workers + u64::from(whole % workers > u64::from(self.worker));
        let rest = if whole % workers == u64::from(self.worker) {
            self.blocks % region
        } else {
            0
        };
        own * region + rest
    }

    /// The block of the namespace behind an index of the worker's own.
    pub fn lba(&self, index: u64) -> u64 {
        let region = u64::from(self.region_blocks);
        (index / region * u64::from(self.workers) + u64::from(self.worker)) * region + index % region
    }

    /// The other way round. Panics if another worker owns it.
    pub fn index(&self, lba: u64) -> u64 {
        let (region, workers) = (u64::from(self.region_blocks), u64::from(self.workers));
        assert_eq!(
            lba / region % workers,
            u64::from(self.worker),
            "a worker asks for its own blocks only"
        );
        lba / region / workers * region + lba % region
    }

    /// Adjacent blocks from `index` on that belong to the worker, at least 1.
    pub fn run_blocks(&self, index: u64) -> u32 {
        let to_edge = u64::from(self.region_blocks) - index % u64::from(self.region_blocks);
        let run = to_edge.min(self.own_blocks() - index);
        u32::try_from(run).expect("a region has at most 2^32 blocks")
    }
}

/// What a block holds: 0 if nothing is known, else the number of a write, with `ZEROES` if it wrote zeroes.
type Content = u32;
const UNKNOWN: Content = 0;
const ZEROES: Content = 1 << 31;
/// Number of a write at most.
const SEQUENCE_MAX: u32 = ZEROES - 1;

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// The last write that was acknowledged.
    acknowledged: Content,
    /// What the write in flight writes, or one whose end is not known.
    pending: Content,
    /// What was there before a write that was acknowledged while it was being read.
    before: Content,
    readers: u16,
    /// `before` counts, although it may be `UNKNOWN`.
    changed: bool,
    /// A write of it was lost and may take effect at any time: it is not written any more.
    frozen: bool,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was acknowledged.
    Acknowledged,
    /// It was never sent.
    Not,
    /// It failed or was lost: from here on either content is right.
    Unknown,
}

/// A block that does not hold what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The block.
    pub lba: u64,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What a worker knows of its blocks.
pub struct Ledger {
    layout: Layout,
    block_bytes: u32,
    seed: u64,
    sequence: u32,
    cells: Vec<Cell>,
    checked: u64,
    wrong: u64,
    first: Option<Mistake>,
}

impl Ledger {
    /// A ledger that knows nothing yet. Blocks have at least 32 bytes.
    pub fn new(layout: Layout, block_bytes: u32, seed: u64) -> Self {
        assert!(layout.worker < layout.workers && layout.region_blocks > 0);
        let cells = usize::try_from(layout.own_blocks()).expect("the caller bounds what is verified");
        Self {
            layout,
            block_bytes,
            seed,
            sequence: 0,
            cells: vec![Cell::default(); cells],
            checked: 0,
            wrong: 0,
            first: None,
        }
    }

    /// Which blocks it is about.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Blocks that were read and compared with what is known.
    pub fn checked(&self) -> u64 {
        self.checked
    }

    /// Blocks among them that were wrong.
    pub fn wrong(&self) -> u64 {
        self.wrong
    }

    /// The first of these.
    pub fn first_mistake(&self) -> Option<Mistake> {
        self.first
    }

    /// Blocks whose content is one of two because the end of a write is not known.
    pub fn uncertain(&self) -> u64 {
        self.cells.iter().map(|cell| u64::from(cell.frozen)).sum()
    }

    fn cells(&mut self, index: u64, blocks: u32) -> &mut [Cell] {
        let start = usize::try_from(index).expect("an index of a cell");
        &mut self.cells[start..start + blocks as usize]
    }

    /// Starts a write, or a zeroing, of own blocks: the number that its stamps carry, or `None` if one of the blocks is
    /// being read or written, or must not be written any more.
    pub fn begin_write(&mut self, index: u64, blocks: u32, zeroes: bool) -> Option<u32> {
        if self.sequence == SEQUENCE_MAX {
            return None; // 2^31 writes of one worker: days. The rest of the run reads.
        }
        let sequence = self.sequence + 1;
        let cells = self.cells(index, blocks);
        if cells
            .iter()
            .any(|cell| cell.pending != UNKNOWN || cell.readers > 0 || cell.frozen)
        {
            return None;
        }
        for cell in cells {
            cell.pending = sequence | if zeroes { ZEROES } else { 0 };
        }
        self.sequence = sequence;
        Some(sequence)
    }

    /// Ends a write that was begun with the same blocks.
    pub fn end_write(&mut self, index: u64, blocks: u32, written: Written) {
        for cell in self.cells(index, blocks) {
            assert!(cell.pending != UNKNOWN && !cell.frozen, "it was begun");
            match written {
                Written::Acknowledged => {
                    if cell.readers > 0 {
                        cell.before = cell.acknowledged;
                        cell.changed = true;
                    }
                    cell.acknowledged = std::mem::replace(&mut cell.pending, UNKNOWN);
                }
                Written::Not => cell.pending = UNKNOWN,
                Written::Unknown => cell.frozen = true,
            }
        }
    }

    /// Fills the data of a write that `begin_write` numbered.
    pub fn fill(&self, lba: u64, sequence: u32, data: &mut [u8]) {
        for (lba, block) in (lba..).zip(data.chunks_mut(self.block_bytes as usize)) {
            Stamp {
                lba,
                seed: self.seed,
                sequence: u64::from(sequence),
            }
            .fill(block);
        }
    }

    /// Starts a read of own blocks; false if it would have to wait for older reads.
    pub fn begin_read(&mut self, index: u64, blocks: u32) -> bool {
        let cells = self.cells(index, blocks);
        if cells.iter().any(|cell| cell.changed || cell.readers == u16::MAX) {
            return false;
        }
        for cell in cells {
            cell.readers += 1;
        }
        true
    }

    /// Ends a read without looking at it.
    pub fn abandon_read(&mut self, index: u64, blocks: u32) {
        for cell in self.cells(index, blocks) {
            cell.end_read();
        }
    }

    /// Ends a read and compares what it brought with what is known; `None` if it could not be read.
    /// Returns how many blocks were wrong.
    pub fn end_read(&mut self, index: u64, blocks: u32, data: Option<&[u8]>) -> u64 {
        let lba = self.layout.lba(index);
        let mut wrong = 0;
        for at in 0..blocks {
            let cell = &mut self.cells[usize::try_from(index).expect("an index of a cell") + at as usize];
            let lba = lba + u64::from(at);
            let known = cell.is_known();
            let verdict = match data {
                None => Some(Wrong::Unreadable),
                Some(data) if known => {
                    let start = at as usize * self.block_bytes as usize;
                    let block = data.get(start..start + self.block_bytes as usize);
                    block.map_or(Some(Wrong::Unreadable), |block| cell.judge(block, lba, self.seed))
                }
                Some(_) => None,
            };
            cell.end_read();
            self.checked += u64::from(known);
            if let Some(mistake) = verdict.map(|wrong| Mistake { lba, wrong }) {
                wrong += 1;
                self.first.get_or_insert(mistake);
            }
        }
        self.wrong += wrong;
        wrong
    }
}

impl Cell {
    /// Whether everything that it may hold is known.
    fn is_known(&self) -> bool {
        self.acknowledged != UNKNOWN && !(self.changed && self.before == UNKNOWN)
    }

    fn end_read(&mut self) {
        assert!(self.readers > 0, "it was begun");
        self.readers -= 1;
        if self.readers == 0 {
            self.changed = false;
        }
    }

    /// What is wrong with the block, if anything.
    fn judge(&self, block: &[u8], lba: u64, seed: u64) -> Option<Wrong> {
        let before = if self.changed { self.before } else { UNKNOWN };
        let allowed = [self.acknowledged, self.pending, before];
        let zeroes_allowed = allowed.iter().any(|content| content & ZEROES != 0);
        let data_allowed = allowed
            .iter()
            .any(|content| *content != UNKNOWN && content & ZEROES == 0);
        let Some(stamp) = Stamp::read(block) else {
            return match (block.iter().all(|byte| *byte == 0), zeroes_allowed) {
                (true, true) => None,
                (true, false) => Some(Wrong::Zeroes),
                (false, _) => Some(Wrong::Damaged),
            };
        };
        if stamp.lba != lba {
            return Some(Wrong::Misplaced { lba: stamp.lba });
        }
        if stamp.seed != seed {
            return Some(Wrong::Foreign);
        }
        if !data_allowed {
            return Some(Wrong::NotZeroes);
        }
        let is_it = |content: &Content| *content != UNKNOWN && u64::from(*content) == stamp.sequence;
        if allowed.iter().any(is_it) {
            None
        } else {
            Some(Wrong::Stale {
                sequence: stamp.sequence,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK_BYTES: u32 = 512;

    fn ledger() -> Ledger {
        Ledger::new(
            Layout {
                blocks: 64,
                region_blocks: 8,
                worker: 1,
                workers: 3,
            },
            BLOCK_BYTES,
            5,
        )
    }

    fn data(ledger: &Ledger, index: u64, blocks: u32, sequence: u32) -> Vec<u8> {
        let mut data = vec![0; (blocks * BLOCK_BYTES) as usize];
        ledger.fill(ledger.layout().lba(index), sequence, &mut data);
        data
    }

    #[test]
    fn workers_share_all_blocks_and_own_each_once() {
        for (blocks, region_blocks, workers) in [(64, 8, 3), (65, 8, 3), (7, 8, 2), (1, 1, 1), (100, 7, 4)] {
            let mut owners = vec![0; usize::try_from(blocks).unwrap()];
            for worker in 0..workers {
                let layout = Layout {
                    blocks,
                    region_blocks,
                    worker,
                    workers,
                };
                for index in 0..layout.own_blocks() {
                    let lba = layout.lba(index);
                    assert_eq!(layout.index(lba), index);
                    owners[usize::try_from(lba).unwrap()] += 1;
                    let run = u64::from(layout.run_blocks(index));
                    assert!(
                        run > 0 && layout.lba(index + run - 1) == lba + run - 1,
                        "a run is adjacent"
                    );
                }
            }
            assert!(
                owners.iter().all(|count| *count == 1),
                "{blocks} {region_blocks} {workers}"
            );
        }
    }

    #[test]
    fn an_acknowledged_write_must_be_read_back() {
        let mut ledger = ledger();
        let old = ledger.begin_write(2, 3, false).unwrap();
        ledger.end_write(2, 3, Written::Acknowledged);
        let old = data(&ledger, 2, 3, old);
        let new = ledger.begin_write(2, 3, false).unwrap();
        ledger.end_write(2, 3, Written::Acknowledged);
        let new = data(&ledger, 2, 3, new);
        assert!(ledger.begin_read(2, 3));
        assert_eq!(ledger.end_read(2, 3, Some(&new)), 0);
        assert!(ledger.begin_read(2, 3));
        assert_eq!(ledger.end_read(2, 3, Some(&old)), 3, "a lost write is noticed");
        let lba = ledger.layout().lba(2);
        assert_eq!(
            ledger.first_mistake(),
            Some(Mistake {
                lba,
                wrong: Wrong::Stale { sequence: 1 }
            })
        );
        assert_eq!((ledger.checked(), ledger.wrong()), (6, 3));
    }

    #[test]
    fn a_read_during_a_write_may_see_either() {
        let mut ledger = ledger();
        let old = ledger.begin_write(0, 1, false).unwrap();
        ledger.end_write(0, 1, Written::Acknowledged);
        let new = ledger.begin_write(0, 1, false).unwrap();
        let (old, new) = (data(&ledger, 0, 1, old), data(&ledger, 0, 1, new));
        for _ in 0..4 {
            assert!(ledger.begin_read(0, 1));
        }
        assert_eq!(
            ledger.end_read(0, 1, Some(&old)) + ledger.end_read(0, 1, Some(&new)),
            0
        );
        ledger.end_write(0, 1, Written::Acknowledged);
        assert!(
            !ledger.begin_read(0, 1),
            "it could not be told from the reads that began before"
        );
        assert_eq!(
            ledger.end_read(0, 1, Some(&old)) + ledger.end_read(0, 1, Some(&new)),
            0
        );
        assert!(ledger.begin_read(0, 1));
        assert_eq!(
            ledger.end_read(0, 1, Some(&old)),
            1,
            "the write was acknowledged before this read began"
        );
    }

    #[test]
    fn writes_wait_for_one_another_and_for_reads() {
        let mut ledger = ledger();
        ledger.begin_write(0, 4, false).unwrap();
        assert_eq!(ledger.begin_write(3, 2, false), None);
        ledger.end_write(0, 4, Written::Not);
        assert!(ledger.begin_read(4, 1));
        assert_eq!(ledger.begin_write(3, 2, true), None);
        assert_eq!(
            ledger.end_read(4, 1, Some(&[9; 512])),
            0,
            "what was there before is not known"
        );
        assert!(ledger.begin_write(3, 2, true).is_some());
    }

    #[test]
    fn zeroes_are_expected_exactly_where_they_were_written() {
        let mut ledger = ledger();
        let sequence = ledger.begin_write(0, 2, false).unwrap();
        ledger.end_write(0, 2, Written::Acknowledged);
        ledger.begin_write(0, 1, true).unwrap();
        ledger.end_write(0, 1, Written::Acknowledged);
        let stamped = data(&ledger, 0, 2, sequence);
        for (brought, wrong) in [(vec![0; 1024], Wrong::Zeroes), (stamped, Wrong::NotZeroes)] {
            ledger.first = None;
            assert!(ledger.begin_read(0, 2));
            assert_eq!(ledger.end_read(0, 2, Some(&brought)), 1);
            assert_eq!(ledger.first_mistake().unwrap().wrong, wrong);
        }
    }

    #[test]
    fn after_a_lost_write_both_are_right_and_nothing_is_written() {
        let mut ledger = ledger();
        let old = ledger.begin_write(0, 1, false).unwrap();
        ledger.end_write(0, 1, Written::Acknowledged);
        let lost = ledger.begin_write(0, 1, false).unwrap();
        ledger.end_write(0, 1, Written::Unknown);
        for sequence in [old, lost, old] {
            let brought = data(&ledger, 0, 1, sequence);
            assert!(ledger.begin_read(0, 1));
            assert_eq!(ledger.end_read(0, 1, Some(&brought)), 0);
        }
        assert_eq!(ledger.begin_write(0, 1, false), None);
        assert_eq!(ledger.uncertain(), 1);
    }

    #[test]
    fn misplaced_foreign_damaged_and_unreadable_blocks_are_wrong() {
        let mut ledger = ledger();
        let sequence = ledger.begin_write(0, 2, false).unwrap();
        ledger.end_write(0, 2, Written::Acknowledged);
        let good = data(&ledger, 0, 1, sequence);
        let mut damaged = good.clone();
        damaged[300] ^= 1;
        let mut foreign = good.clone();
        let lba = ledger.layout().lba(0);
        Stamp {
            lba,
            seed: 6,
            sequence: 1,
        }
        .fill(&mut foreign);
        let other = data(&ledger, 1, 1, sequence);
        for (brought, wrong) in [
            (Some(damaged.as_slice()), Wrong::Damaged),
            (Some(foreign.as_slice()), Wrong::Foreign),
            (Some(other.as_slice()), Wrong::Misplaced { lba: lba + 1 }),
            (Some(&good[..511]), Wrong::Unreadable),
            (None, Wrong::Unreadable),
        ] {
            ledger.first = None;
            assert!(ledger.begin_read(0, 1));
            assert_eq!(ledger.end_read(0, 1, brought), 1);
            assert_eq!(ledger.first_mistake(), Some(Mistake { lba, wrong }));
        }
        assert!(ledger.begin_read(0, 1));
        ledger.abandon_read(0, 1);
        assert_eq!(ledger.wrong(), 5);
    }
}
