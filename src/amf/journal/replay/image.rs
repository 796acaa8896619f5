//! What the journal says of one row: which blocks get which data, and which check data belongs to it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::codec::Entry;
use super::super::scan::{Found, FoundBatch};
use crate::amf::RowIndex;
use crate::amf::code::CHECKS_MAX;
use crate::amf::expansion::Layout;
use crate::amf::geometry::Geometry;

/// Where the content of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Zeroes,
    Payload { batch: usize, block: u32 },
}

/// Blocks by their distance from the start of the row's user data, or of a check strip.
pub(super) type Blocks = BTreeMap<u32, Source>;

/// A run of blocks: user data by one entry, or a part of a check strip.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u32,
    blocks: u32,
    /// Of its first block; `None` for zeroes.
    payload: Option<(usize, u32)>,
}

impl Run {
    fn lay_over(&self, blocks: &mut Blocks) {
        for at in 0..self.blocks {
            let source = self
                .payload
                .map_or(Source::Zeroes, |(batch, first)| Source::Payload {
                    batch,
                    block: first + at,
                });
            blocks.insert(self.start + at, source);
        }
    }
}

#[derive(Clone, Debug)]
struct Destage {
    cut: u64,
    checks: Vec<(u8, Run)>,
}

/// What is in place already.
#[derive(Clone, Debug)]
struct Passed {
    /// Sequence number of the newest destage, and its cut.
    seq: u64,
    cut: u64,
    writes: Vec<Run>,
}

/// All that is said of one row, by sequence numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct RowStory {
    writes: BTreeMap<u64, Run>,
    destages: BTreeMap<u64, Destage>,
    /// Destages that are in place, with the data that they cover.
    passed: Option<Passed>,
    /// Blocks that were lost before and are not written here: zeroes, as the check data has to know them.
    lost: BTreeSet<u32>,
}

/// The content of a row as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub data: Blocks,
    pub checks: [Blocks; CHECKS_MAX],
}

impl Image {
    /// Whether all of the row's data is known.
    pub(super) fn is_whole_row(&self, geometry: &Geometry) -> bool {
        self.data.len() == geometry.row_blocks() as usize
    }
}

/// Sorts the entries of all batches by rows. Entries that do not count are left out; the checks of a destage share its fate. So are entries of rows that have moved since, or hold no data: they were in place before.
pub(super) fn stories(found: &Found, layout: &Layout) -> BTreeMap<RowIndex, RowStory> {
    let mut rows: BTreeMap<RowIndex, RowStory> = BTreeMap::new();
    for (number, batch) in found.batches.iter().enumerate() {
        let lane = batch.batch.header.lane;
        let mut pending = Vec::new();
        for entry in &batch.batch.entries {
            if let Entry::Check {
                index,
                offset_blocks,
                blocks,
                payload_block,
                ..
            } = *entry
            {
                let run = Run {
                    start: offset_blocks,
                    blocks,
                    payload: Some((number, payload_block)),
                };
                pending.push((index, run));
                continue;
            }
            let checks = std::mem::take(&mut pending);
            let row = entry.row();
            let is_in_place = layout.is_dead(row) || layout.geometry_of_row(row).members() != entry.members();
            if found.counts(lane, entry.seq()) && !is_in_place {
                rows.entry(row).or_default().add(entry, number, checks);
            }
        }
    }
    rows
}

impl RowStory {
    fn add(&mut self, entry: &Entry, batch: usize, checks: Vec<(u8, Run)>) {
        match *entry {
            Entry::Write {
                start_blocks,
                blocks,
                seq,
                payload_block,
                ..
            } => {
                let run = Run {
                    start: start_blocks,
                    blocks,
                    payload: Some((batch, payload_block)),
                };
                self.writes.insert(seq, run);
            }
            Entry::Zero {
                start_blocks,
                blocks,
                seq,
                ..
            } => {
                let run = Run {
                    start: start_blocks,
                    blocks,
                    payload: None,
                };
                self.writes.insert(seq, run);
            }
            Entry::Destage { cut, seq, .. } => {
                self.destages.insert(seq, Destage { cut, checks });
            }
            Entry::Check { .. } => unreachable!("checks are gathered for their destage"),
        }
    }

    /// Destages up to this sequence number are in place. Nothing of them is to be done, nor of the data that they cover.
    pub(super) fn pass_over(&mut self, seq: u64) {
        let newer = self.destages.split_off(&seq.saturating_add(1));
        let over = std::mem::replace(&mut self.destages, newer);
        let Some((&seq, _)) = over.last_key_value() else {
            return;
        };
        let cut = over.values().map(|destage| destage.cut).max().unwrap_or(0);
        let newer = self.writes.split_off(&cut.saturating_add(1));
        let writes = std::mem::replace(&mut self.writes, newer).into_values().collect();
        self.passed = Some(Passed { seq, cut, writes });
    }

    /// The newest destage, once all of them are in place.
    pub(super) fn newest_destage(&self) -> Option<u64> {
        let newest = self.destages.keys().next_back().copied();
        newest.or(self.passed.as_ref().map(|passed| passed.seq))
    }

    /// One with this destage, or without any.
    #[cfg(test)]
    pub(super) fn with_destage(seq: Option<u64>) -> Self {
        let destage = |seq| {
            let checks = Vec::new();
            (seq, Destage { cut: seq, checks })
        };
        Self {
            destages: seq.map(destage).into_iter().collect(),
            ..Self::default()
        }
    }

    /// Whether the journal has data of a block.
    pub(super) fn has(&self, at: u32) -> bool {
        let passed = self.passed.iter().flat_map(|passed| &passed.writes);
        let mut runs = self.writes.values().chain(passed);
        runs.any(|run| (run.start..run.start + run.blocks).contains(&at))
    }

    /// A block is lost that the journal has no data of. Whatever destages before that say of the row's check data, it is made anew.
    pub(super) fn lose(&mut self, at: u32) {
        self.lost.insert(at);
    }

    fn zero_lost(&self, image: &mut Blocks) {
        image.extend(self.lost.iter().map(|at| (*at, Source::Zeroes)));
    }

    /// Last sequence number that a destage covers, if there is one.
    fn cut(&self) -> Option<u64> {
        let cuts = self.destages.values().map(|destage| destage.cut);
        cuts.chain(self.passed.iter().map(|passed| passed.cut)).max()
    }

    /// What has to be written in place whatever the row holds now, because its update in place may have
    /// begun: the data up to the last destage's cut, and the check data of all destages in their order.
    ///
    /// If that is all data of the row, check data follows from it, and nothing is said of it here: a destage of a whole row
    /// journals none. Any other destage that leaves out a check strip had lost its member: if that has a drive again, the strip was
    /// rebuilt there since, as a whole and durably, so that what was said of it before does not count any more.
    pub(super) fn redo(&self, geometry: &Geometry) -> Image {
        let mut image = Image::default();
        if self.destages.is_empty() {
            return image;
        }
        let cut = self.cut().unwrap_or(0);
        for run in self.writes.range(..=cut).map(|(_, run)| run) {
            run.lay_over(&mut image.data);
        }
        if image.is_whole_row(geometry) {
            return image;
        }
        for destage in self.destages.values() {
            for (index, blocks) in (0..).zip(&mut image.checks) {
                let mut runs = destage
                    .checks
                    .iter()
                    .filter(|(check, _)| *check == index)
                    .peekable();
                if runs.peek().is_none() {
                    blocks.clear();
                }
                runs.for_each(|(_, run)| run.lay_over(blocks));
            }
        }
        image
    }

    /// The data that no destage covers yet, with lost blocks as zeroes, and the last sequence number in it. `None` if there is none.
    pub(super) fn remaining(&self) -> Option<(Blocks, u64)> {
        let from = self.cut().map_or(0, |cut| cut + 1);
        let mut blocks = Blocks::new();
        self.zero_lost(&mut blocks);
        let mut last = (!blocks.is_empty()).then(|| self.cut().unwrap_or(0));
        for (seq, run) in self.writes.range(from..) {
            run.lay_over(&mut blocks);
            last = Some(*seq);
        }
        last.map(|last| (blocks, last))
    }

    /// The data of all entries, for levels whose rows have no check data.
    pub(super) fn whole(&self) -> Image {
        let mut image = Image::default();
        self.zero_lost(&mut image.data);
        for run in self.writes.values() {
            run.lay_over(&mut image.data);
        }
        image
    }
}

/// Cuts blocks into runs of adjacent ones that do not cross a multiple of `strip_blocks`.
pub(super) fn runs(blocks: &Blocks, strip_blocks: u32) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &block in blocks.keys() {
        match runs.last_mut() {
            Some((start, length)) if *start + *length == block && !block.is_multiple_of(strip_blocks) => {
                *length += 1;
            }
            Some(_) | None => runs.push((block, 1)),
        }
    }
    runs
}

/// Copies the content of one block to `into`.
pub(super) fn copy(source: Source, batches: &[FoundBatch], into: &mut [u8]) {
    match source {
        Source::Zeroes => into.fill(0),
        Source::Payload { batch, block } => {
            let start = block as usize * into.len();
            into.copy_from_slice(&batches[batch].payload[start..][..into.len()]);
        }
    }
}

/// The content of a run of blocks that are all there.
pub(super) fn bytes(
    blocks: &Blocks,
    (start, length): (u32, u32),
    batches: &[FoundBatch],
    block_bytes: usize,
) -> Vec<u8> {
    let mut bytes = vec![0; length as usize * block_bytes];
    for (at, into) in (start..).zip(bytes.chunks_exact_mut(block_bytes)) {
        copy(blocks[&at], batches, into);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amf::geometry::Level;
    use crate::drive::block::{BlockSize, MemberLba};

    const ROW: RowIndex = RowIndex(0);

    fn write(seq: u64) -> Entry {
        Entry::Write {
            members: 6,
            row: ROW,
            start_blocks: 1,
            blocks: 1,
            seq,
            payload_block: 0,
        }
    }

    fn destage(cut: u64, checks: u8) -> Entry {
        Entry::Destage {
            members: 6,
            row: ROW,
            cut,
            checks,
            seq: cut + 1,
        }
    }

    fn run(start: u32, batch: usize) -> Run {
        Run {
            start,
            blocks: 2,
            payload: Some((batch, 0)),
        }
    }

    /// PROTOCOL H25, I5: what the journal says of a check strip ends where the strip's member was lost.
    #[test]
    fn check_data_from_before_a_loss_is_not_written_over_a_rebuilt_strip() {
        let geometry = Geometry::new(Level::Raid6, 6, 8, MemberLba(0), 4, BlockSize::B512).expect("legal");
        let mut story = RowStory::default();
        story.add(&write(1), 0, Vec::new());
        story.add(&destage(1, 2), 0, vec![(0, run(1, 0)), (1, run(1, 0))]);
        story.add(&write(3), 1, Vec::new());
        // The member with the second check strip is lost, and rebuilt afterwards.
        story.add(&destage(3, 1), 1, vec![(0, run(1, 1))]);
        let image = story.redo(&geometry);
        assert!(image.checks[1].is_empty(), "it was rebuilt after all of this");
        let first = Source::Payload { batch: 1, block: 0 };
        assert_eq!(image.checks[0].get(&1), Some(&first));
        // From then on it is written again.
        story.add(&write(5), 2, Vec::new());
        story.add(&destage(5, 2), 2, vec![(0, run(2, 2)), (1, run(2, 2))]);
        let image = story.redo(&geometry);
        let (newest, older) = (Source::Payload { batch: 2, block: 0 }, first);
        assert_eq!(image.checks[0].get(&1), Some(&older));
        assert_eq!(
            image.checks.each_ref().map(|blocks| blocks.get(&2)),
            [Some(&newest), Some(&newest), None]
        );
        assert_eq!(image.checks[1].len(), 2);
    }
}
