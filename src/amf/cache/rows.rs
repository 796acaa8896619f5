//! Which rows have an entry, and which of these to destage next.

use super::EntryIndex;
use super::index::KeyIndex;
use crate::amf::RowIndex;
use crate::amf::list::{Links, List};

/// The entries of a core's rows: at most `rows_max`, found by row, and the dirty ones listed by age.
#[derive(Debug)]
pub struct RowTable {
    index: KeyIndex,
    /// The row of each entry that is in use.
    rows: Box<[RowIndex]>,
    /// When each dirty entry became so, in the caller's own unit.
    dirty_since: Box<[u64]>,
    free: Vec<EntryIndex>,
    links: Links,
    dirty: List,
    dirty_count: u32,
}

impl RowTable {
    /// Room for `rows_max` rows: about 76 bytes each.
    pub fn new(rows_max: u32) -> Self {
        Self {
            index: KeyIndex::new(rows_max),
            rows: vec![RowIndex(0); rows_max as usize].into_boxed_slice(),
            dirty_since: vec![0; rows_max as usize].into_boxed_slice(),
            // Reversed, so that entries are given out from the first on and lie close together.
            free: (0..rows_max).rev().map(EntryIndex).collect(),
            links: Links::new(rows_max),
            dirty: List::EMPTY,
            dirty_count: 0,
        }
    }

    /// The entry of a row, if it has one.
    #[inline]
    pub fn find(&self, row: RowIndex) -> Option<EntryIndex> {
        self.index.find(row.0).map(EntryIndex)
    }

    /// Gives a row an entry, which is clean; none if all are in use.
    ///
    /// Panics if the row has one.
    pub fn insert(&mut self, row: RowIndex) -> Option<EntryIndex> {
        let entry = self.free.pop()?;
        self.index.insert(row.0, entry.0);
        self.rows[entry.0 as usize] = row;
        Some(entry)
    }

    /// Takes a row's entry back. Panics if it is dirty or not in use.
    pub fn remove(&mut self, entry: EntryIndex) {
        assert!(!self.is_dirty(entry), "dirty data is never forgotten");
        let removed = self.index.remove(self.rows[entry.0 as usize].0);
        assert_eq!(removed, Some(entry.0), "only an entry in use is given back");
        self.free.push(entry);
    }

    /// The row of an entry that is in use.
    pub fn row(&self, entry: EntryIndex) -> RowIndex {
        let row = self.rows[entry.0 as usize];
        debug_assert_eq!(self.find(row), Some(entry), "the entry is in use");
        row
    }

    /// How many rows have an entry.
    pub fn rows_used(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    /// Whether no further row can have an entry.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Lists an entry as the youngest of the dirty ones, unless it is dirty already: its first change decides. `since` is any
    /// number that never becomes less from call to call, as a time in ns.
    pub fn mark_dirty(&mut self, entry: EntryIndex, since: u64) {
        if self.is_dirty(entry) {
            return;
        }
        self.dirty_since[entry.0 as usize] = since;
        self.links.push_back(&mut self.dirty, entry.0);
        self.dirty_count += 1;
    }

    /// Takes an entry off the list of dirty ones. One that was written again meanwhile is then marked dirty anew.
    ///
    /// Panics if it is not dirty.
    pub fn mark_clean(&mut self, entry: EntryIndex) {
        self.links.remove(&mut self.dirty, entry.0);
        self.dirty_count -= 1;
    }

    /// Whether it is listed as dirty.
    pub fn is_dirty(&self, entry: EntryIndex) -> bool {
        self.links.is_listed(entry.0)
    }

    /// What `mark_dirty` was told of this dirty entry.
    pub fn dirty_since(&self, entry: EntryIndex) -> u64 {
        assert!(self.is_dirty(entry), "a clean entry has no age");
        self.dirty_since[entry.0 as usize]
    }

    /// How many entries are dirty.
    pub fn dirty_count(&self) -> u32 {
        self.dirty_count
    }

    /// The entry that has been dirty for longest.
    pub fn oldest_dirty(&self) -> Option<EntryIndex> {
        self.dirty.first().map(EntryIndex)
    }

    /// All dirty entries, the oldest first.
    pub fn dirty_rows(&self) -> DirtyRows<'_> {
        DirtyRows {
            table: self,
            next: self.dirty.first(),
        }
    }

    /// The dirty rows around a dirty entry that are adjacent to each other and suit: the first of them and their number, at
    /// least one and at most `rows_max`, which must not be 0. Rows before it are looked at first.
    pub fn dirty_run(
        &self,
        entry: EntryIndex,
        rows_max: u32,
        suits: impl Fn(EntryIndex) -> bool,
    ) -> (RowIndex, u32) {
        assert!(rows_max > 0, "a run has at least one row");
        assert!(self.is_dirty(entry), "a run begins with a dirty entry");
        let row = self.row(entry);
        let joins = |row: u64| {
            let entry = self.find(RowIndex(row));
            entry.is_some_and(|entry| self.is_dirty(entry) && suits(entry))
        };
        let (mut first, mut rows) = (row.0, 1);
        while rows < rows_max && first > 0 && joins(first - 1) {
            first -= 1;
            rows += 1;
        }
        while rows < rows_max && joins(first + u64::from(rows)) {
            rows += 1;
        }
        (RowIndex(first), rows)
    }
}

/// The dirty entries of a table, the oldest first.
#[derive(Clone, Debug)]
pub struct DirtyRows<'a> {
    table: &'a RowTable,
    next: Option<u32>,
}

impl Iterator for DirtyRows<'_> {
    type Item = EntryIndex;

    fn next(&mut self) -> Option<EntryIndex> {
        let entry = self.next?;
        self.next = self.table.links.next(entry);
        Some(EntryIndex(entry))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn dirty(table: &RowTable) -> Vec<u64> {
        table.dirty_rows().map(|entry| table.row(entry).0).collect()
    }

    /// Rows come and go at random; the table agrees with a map and a list.
    #[test]
    fn it_agrees_with_a_model() {
        const ROWS_MAX: usize = 16;
        let mut table = RowTable::new(16);
        let room = table.free.capacity();
        let mut model: BTreeMap<u64, EntryIndex> = BTreeMap::new();
        let mut ages: Vec<u64> = Vec::new();
        let mut seed = 3_u32;
        for now in 0..30_000_u64 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let row = u64::from(seed >> 20) % 32;
            match (model.get(&row).copied(), seed >> 16 & 3) {
                (None, _) => {
                    let entry = table.insert(RowIndex(row));
                    assert_eq!(entry.is_some(), model.len() < ROWS_MAX);
                    model.extend(entry.map(|entry| (row, entry)));
                }
                (Some(entry), 0 | 1) => {
                    table.mark_dirty(entry, now);
                    if !ages.contains(&row) {
                        ages.push(row);
                        assert_eq!(table.dirty_since(entry), now);
                    }
                    assert!(table.dirty_since(entry) <= now);
                }
                (Some(entry), 2) if ages.contains(&row) => {
                    table.mark_clean(entry);
                    ages.retain(|other| *other != row);
                }
                (Some(entry), _) if !ages.contains(&row) => {
                    table.remove(entry);
                    model.remove(&row);
                }
                (Some(_), _) => {}
            }
            assert_eq!(table.rows_used(), model.len());
            assert_eq!(table.is_full(), model.len() == ROWS_MAX);
            assert_eq!(dirty(&table), ages);
            assert_eq!(table.dirty_count() as usize, ages.len());
            for row in 0..32 {
                assert_eq!(table.find(RowIndex(row)), model.get(&row).copied());
            }
        }
        assert_eq!(table.free.capacity(), room, "no allocation in steady state");
    }

    /// D5: adjacent rows are destaged together.
    #[test]
    fn dirty_neighbours_are_found() {
        let mut table = RowTable::new(16);
        for row in [0, 1, 2, 5, 6, 7, 8] {
            let entry = table.insert(RowIndex(row)).expect("there is room");
            if row != 7 {
                table.mark_dirty(entry, 0);
            }
        }
        let entry = |row| table.find(RowIndex(row)).expect("it was put in");
        let run = |row, rows_max| {
            let (first, rows) = table.dirty_run(entry(row), rows_max, |_| true);
            (first.0, rows)
        };
        assert_eq!(run(1, 8), (0, 3), "row 0 has none before it");
        assert_eq!(run(1, 2), (0, 2), "no more than asked for");
        assert_eq!(run(2, 1), (2, 1));
        assert_eq!(run(5, 8), (5, 2), "row 7 is clean");
        assert_eq!(run(8, 8), (8, 1));
        let not_first = |other| other != entry(0);
        assert_eq!(table.dirty_run(entry(2), 8, not_first), (RowIndex(1), 2));
    }

    #[test]
    fn the_first_change_decides_on_the_age() {
        let mut table = RowTable::new(2);
        let first = table.insert(RowIndex(8)).expect("there is room");
        let second = table.insert(RowIndex(9)).expect("there is room");
        assert_eq!(table.insert(RowIndex(10)), None);
        table.mark_dirty(first, 1);
        table.mark_dirty(second, 2);
        table.mark_dirty(first, 3);
        assert_eq!(table.oldest_dirty(), Some(first));
        assert_eq!(table.dirty_since(first), 1);
        table.mark_clean(first);
        table.mark_dirty(first, 4);
        assert_eq!(table.oldest_dirty(), Some(second));
        assert_eq!(dirty(&table), [9, 8]);
    }

    #[test]
    #[should_panic(expected = "never forgotten")]
    fn forgetting_a_dirty_row_is_a_bug() {
        let mut table = RowTable::new(2);
        let entry = table.insert(RowIndex(8)).expect("there is room");
        table.mark_dirty(entry, 1);
        table.remove(entry);
    }
}
