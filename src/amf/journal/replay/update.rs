//! New check data for a row that is consistent and gets new data.
//!
//! Always from the data of all columns over the touched offsets, never from old check data alone, which
//! keeps an error from spreading (PROTOCOL H27). Old check data is used where a column is lost.

use std::collections::BTreeMap;

use super::ReplayError;
use super::image::{Blocks, copy};
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
            strips: BTreeMap::new(),
            checks: Vec::new(),
        }
    }

    /// The strips to read when the members in `lost` cannot be. Errs when those do not suffice.
    pub(super) fn reads(
        &self,
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
        let solution = self
            .solution(geometry, lost)
            .ok_or(ReplayError::Row { row: self.row })?;
        let data = columns.into_iter().map(Strip::Data).filter(is_live);
        let checks = solution.checks().iter().copied().map(Strip::Check);
        Ok(data.chain(checks).collect())
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
