//! Rows of strips, as a redundancy group computes with them: sources side by side, and targets elsewhere.

use std::cell::{Cell, RefCell};
use std::hint::black_box;

use crate::Buffer;

/// Sources of a row, at most.
const SOURCES_MAX: usize = 32;
/// Targets of a row, at most.
const TARGETS_MAX: usize = 3;

/// Rows of strips that are gone through one after the other: one row stays in the caches, many do not fit into any.
pub struct Rows {
    sources: Buffer,
    targets: RefCell<Buffer>,
    sources_per_row: usize,
    targets_per_row: usize,
    strip_bytes: usize,
    /// From the start of one source to that of the next.
    stride_bytes: usize,
    rows: usize,
    next: Cell<usize>,
}

impl Rows {
    /// As many rows as have `bytes_min` bytes of sources, with `apart_bytes` between two sources.
    ///
    /// Panics unless there are 1 to 32 sources and 1 to 3 targets a row.
    pub fn new(
        sources_per_row: usize,
        targets_per_row: usize,
        strip_bytes: usize,
        apart_bytes: usize,
        bytes_min: usize,
    ) -> Self {
        assert!((1..=SOURCES_MAX).contains(&sources_per_row));
        assert!((1..=TARGETS_MAX).contains(&targets_per_row));
        let rows = bytes_min.div_ceil(sources_per_row * strip_bytes);
        let stride_bytes = strip_bytes + apart_bytes;
        Self {
            sources: Buffer::new(rows * sources_per_row * stride_bytes),
            targets: RefCell::new(Buffer::new(rows * targets_per_row * stride_bytes)),
            sources_per_row,
            targets_per_row,
            strip_bytes,
            stride_bytes,
            rows,
            next: Cell::new(0),
        }
    }

    /// Sources of one row.
    pub fn row_sources(&self) -> usize {
        self.sources_per_row
    }

    /// Source bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.sources_per_row * self.strip_bytes
    }

    /// Hands the next row to `work`: targets and sources.
    pub fn turn(&self, work: impl FnOnce(&mut [&mut [u8]], &[&[u8]])) {
        let row = self.next.get();
        self.next.set(if row + 1 == self.rows { 0 } else { row + 1 });
        let mut sources: [&[u8]; SOURCES_MAX] = [&[]; SOURCES_MAX];
        let sources = &mut sources[..self.sources_per_row];
        let places = self.sources[row * self.sources_per_row * self.stride_bytes..].chunks(self.stride_bytes);
        for (source, place) in sources.iter_mut().zip(places) {
            *source = &place[..self.strip_bytes];
        }
        let mut buffer = self.targets.borrow_mut();
        let mut targets: [&mut [u8]; TARGETS_MAX] = [&mut [], &mut [], &mut []];
        let targets = &mut targets[..self.targets_per_row];
        let places = buffer[row * self.targets_per_row * self.stride_bytes..].chunks_mut(self.stride_bytes);
        for (target, place) in targets.iter_mut().zip(places) {
            *target = &mut place[..self.strip_bytes];
        }
        work(black_box(targets), black_box(sources));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_handed_out_in_turn_and_do_not_share_bytes() {
        let rows = Rows::new(2, 2, 64, 16, 129);
        assert_eq!((rows.rows, rows.row_bytes()), (2, 128));
        let mut seen = Vec::new();
        for number in 0..3_u8 {
            rows.turn(|targets, sources| {
                assert!(sources[0] != sources[1]);
                assert_eq!((sources.len(), targets.len()), (2, 2));
                seen.push((sources[0].as_ptr(), targets[0].as_ptr()));
                assert_eq!(targets[0].as_ptr().addr() + 80, targets[1].as_ptr().addr());
                targets.iter_mut().for_each(|target| target.fill(number));
            });
        }
        assert!(seen[0] != seen[1] && seen[0] == seen[2]);
        rows.turn(|targets, _| assert!(targets.iter().all(|target| target.iter().all(|byte| *byte == 1))));
    }
}
