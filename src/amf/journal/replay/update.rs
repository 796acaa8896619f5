//! New check data for a row that is consistent and gets new data.
//!
//! Always from the data of all columns over the touched offsets, never from old check data alone, which
//! keeps an error from spreading (PROTOCOL H27). Old check data is used where a column is lost.

use std::collections::{BTreeMap, BTreeSet};

use super::ReplayError;
use super::image::{Blocks, Source, copy};
use crate::amf::code::{Solution, factor, mul_add_bytes};
use crate::amf::geometry::Geometry;
use crate::amf::journal::scan::FoundBatch;
use crate::amf::{MemberIndex, ParityTrust, RowIndex};

/// A strip of a row of a level with check strips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strip {
    Data(u8),
    Check(u8),
}

impl Strip {
    pub(super) fn member(self, geometry: &Geometry, row: RowIndex) -> MemberIndex {
        match self {
            Self::Data(column) => geometry.data_member(row, column),
            Self::Check(index) => geometry
                .check_member(row, index)
                .expect("the level has this check strip"),
        }
    }
}

/// One row on its way: read, then computed, then recorded, then written in place.
#[derive(Debug)]
pub(super) struct Update {
    pub row: RowIndex,
    /// New data.
    pub data: Blocks,
    /// Last sequence number in `data`.
    pub cut: u64,
    /// Touched offsets of a strip: first and number, all of them between.
    pub offset: u32,
    pub blocks: u32,
    /// Members whose strips cannot be read in this row, besides those that are lost.
    pub avoid: u32,
    /// All that is live is read, block by block where it has to be, because going round members leaves too little.
    pub thorough: bool,
    /// Blocks of strips that cannot be read, by their offsets in the strip.
    pub bad: BTreeSet<(Strip, u32)>,
    /// What was read, over the touched offsets.
    pub strips: BTreeMap<Strip, Vec<u8>>,
    /// New content of each check strip over the touched offsets, once computed.
    pub checks: Vec<Vec<u8>>,
}

impl Update {
    pub(super) fn new(geometry: &Geometry, row: RowIndex, data: Blocks, cut: u64) -> Self {
        let offsets = data.keys().map(|block| block % geometry.strip_blocks());
        let first = offsets.clone().min().expect("an update has data");
        let last = offsets.max().expect("an update has data");
        Self {
            row,
            data,
            cut,
            offset: first,
            blocks: last - first + 1,
            avoid: 0,
            thorough: false,
            bad: BTreeSet::new(),
            strips: BTreeMap::new(),
            checks: Vec::new(),
        }
    }

    /// The strips to read when the members in `lost` cannot be: all of them, if those without the members that are gone round do not
    /// suffice.
    pub(super) fn reads(
        &mut self,
        geometry: &Geometry,
        lost: u32,
        trust: ParityTrust,
    ) -> Result<Vec<Strip>, ReplayError> {
        let lost = lost | self.avoid;
        let is_live = |strip: &Strip| lost >> strip.member(geometry, self.row).0 & 1 == 0;
        let columns: Vec<_> = (0..geometry.data_members()).collect();
        let gone: Vec<_> = columns
            .iter()
            .copied()
            .filter(|c| !is_live(&Strip::Data(*c)))
            .collect();
        if gone.iter().all(|column| self.covers(geometry, *column)) {
            let old = columns.iter().filter(|column| !self.covers(geometry, **column));
            return Ok(old.map(|column| Strip::Data(*column)).collect());
        }
        if !trust.regenerates() {
            return Err(ReplayError::CheckDataNotTrusted { row: self.row });
        }
        let Some(solution) = self.solution(geometry, lost) else {
            return Ok(self.look_closely(geometry, lost & !self.avoid));
        };
        let data = columns.into_iter().map(Strip::Data).filter(is_live);
        let checks = solution.checks().iter().copied().map(Strip::Check);
        Ok(data.chain(checks).collect())
    }

    /// Takes what was read of a strip.
    pub(super) fn take(&mut self, strip: Strip, offset: u32, data: &[u8], block: usize) {
        let length = self.blocks as usize * block;
        let bytes = self.strips.entry(strip).or_insert_with(|| vec![0; length]);
        let place = (offset - self.offset) as usize * block;
        bytes[place..place + data.len()].copy_from_slice(data);
    }

    /// From now on only single blocks are gone round.
    fn look_closely(&mut self, geometry: &Geometry, lost: u32) -> Vec<Strip> {
        self.thorough = true;
        self.avoid = 0;
        let data = (0..geometry.data_members()).map(Strip::Data);
        let checks = (0..geometry.check_strips()).map(Strip::Check);
        data.chain(checks)
            .filter(|strip| lost >> strip.member(geometry, self.row).0 & 1 == 0)
            .collect()
    }

    /// After a close look: regenerates what is missing at each offset. What cannot be had becomes zeroes among the new data, and is
    /// given back, counted through the row's user data.
    pub(super) fn regenerate_closely(&mut self, geometry: &Geometry, lost: u32) -> Vec<u32> {
        let block = geometry.block().bytes() as usize;
        let strip_blocks = geometry.strip_blocks();
        let mut nowhere = Vec::new();
        for column in 0..geometry.data_members() {
            let length = self.blocks as usize * block;
            self.strips
                .entry(Strip::Data(column))
                .or_insert_with(|| vec![0; length]);
        }
        for offset in self.offset..self.offset + self.blocks {
            let bad = self.bad.iter().filter(|(_, at)| *at == offset);
            let missing = bad.fold(lost, |mask, (strip, _)| {
                mask | 1 << strip.member(geometry, self.row).0
            });
            let is_missing = |column: &u8| missing >> geometry.data_member(self.row, *column).0 & 1 == 1;
            let position = |column: u8| u32::from(column) * strip_blocks + offset;
            let needed: Vec<u8> = (0..geometry.data_members())
                .filter(is_missing)
                .filter(|column| !self.data.contains_key(&position(*column)))
                .collect();
            if needed.is_empty() {
                continue;
            }
            let Some(solution) = self.solution(geometry, missing) else {
                for column in needed {
                    self.data.insert(position(column), Source::Zeroes);
                    nowhere.push(position(column));
                }
                continue;
            };
            let place = (offset - self.offset) as usize * block;
            for (at, column) in solution.columns().iter().enumerate() {
                let sum = self.sum_block(geometry, &solution, at, place..place + block);
                let into = self.strips.get_mut(&Strip::Data(*column));
                into.expect("every column has a place")[place..place + block].copy_from_slice(&sum);
            }
        }
        self.strips.retain(|strip, _| matches!(strip, Strip::Data(_)));
        nowhere
    }

    /// One block of a missing column, from what is not missing.
    fn sum_block(
        &self,
        geometry: &Geometry,
        solution: &Solution,
        at: usize,
        place: std::ops::Range<usize>,
    ) -> Vec<u8> {
        let mut sum = vec![0; place.len()];
        let live = (0..geometry.data_members()).filter(|column| !solution.columns().contains(column));
        for column in live {
            let bytes = &self.strips[&Strip::Data(column)][place.clone()];
            mul_add_bytes(&mut sum, bytes, solution.column_factor(at, column));
        }
        for (source, check) in solution.checks().iter().enumerate() {
            let bytes = &self.strips[&Strip::Check(*check)][place.clone()];
            mul_add_bytes(&mut sum, bytes, solution.check_factor(at, source));
        }
        sum
    }

    /// Computes the new check data from what was read.
    pub(super) fn compute(&mut self, geometry: &Geometry, lost: u32, batches: &[FoundBatch]) {
        let block = geometry.block().bytes() as usize;
        let length = self.blocks as usize * block;
        let mut columns: Vec<_> = (0..geometry.data_members())
            .map(|column| self.strips.get(&Strip::Data(column)).cloned())
            .collect();
        if self.strips.keys().any(|strip| matches!(strip, Strip::Check(_))) {
            let solution = self.solution(geometry, lost | self.avoid);
            self.regenerate(&solution.expect("reads were planned by it"), &mut columns, length);
        }
        let mut columns: Vec<_> = columns
            .into_iter()
            .map(|column| column.unwrap_or_else(|| vec![0; length]))
            .collect();
        for (&at, &source) in &self.data {
            let column = at / geometry.strip_blocks();
            let place = (at % geometry.strip_blocks() - self.offset) as usize * block;
            copy(source, batches, &mut columns[column as usize][place..][..block]);
        }
        self.checks = (0..geometry.check_strips())
            .map(|index| {
                let mut sum = vec![0; length];
                for (column, data) in (0..).zip(&columns) {
                    mul_add_bytes(&mut sum, data, factor(index, column));
                }
                sum
            })
            .collect();
        self.strips.clear();
    }

    /// Old data of all lost columns from what was read.
    fn regenerate(&self, solution: &Solution, columns: &mut [Option<Vec<u8>>], length: usize) {
        for (lost, column) in solution.columns().iter().enumerate() {
            let mut sum = vec![0; length];
            for (strip, bytes) in &self.strips {
                let factor = match strip {
                    Strip::Data(live) => solution.column_factor(lost, *live),
                    Strip::Check(index) => {
                        let place = solution.checks().iter().position(|check| check == index);
                        solution.check_factor(lost, place.expect("only these were read"))
                    }
                };
                mul_add_bytes(&mut sum, bytes, factor);
            }
            columns[usize::from(*column)] = Some(sum);
        }
    }

    fn solution(&self, geometry: &Geometry, lost: u32) -> Option<Solution> {
        let is_lost = |strip: Strip| lost >> strip.member(geometry, self.row).0 & 1 == 1;
        let columns = (0..geometry.data_members()).filter(|column| is_lost(Strip::Data(*column)));
        let columns = columns.fold(0, |mask, column| mask | 1_u32 << column);
        let checks = (0..geometry.check_strips()).filter(|index| !is_lost(Strip::Check(*index)));
        let checks = checks.fold(0, |mask, index| mask | 1_u8 << index);
        // No level has more check strips than this, so no more columns can be regenerated.
        if columns.count_ones() > checks.count_ones() {
            return None;
        }
        Solution::new(columns, checks)
    }

    /// Whether all touched offsets of a column get new data.
    fn covers(&self, geometry: &Geometry, column: u8) -> bool {
        let first = u32::from(column) * geometry.strip_blocks() + self.offset;
        self.data.range(first..first + self.blocks).count() == self.blocks as usize
    }
}
