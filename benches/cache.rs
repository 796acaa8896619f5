//! How much does it cost to ask what a core remembers, against the maps of the standard library?
//!
//! Run with `cargo bench --bench cache`; `-- --quick` or `BRAID_BENCH_QUICK=1` for smoke. All candidates go through the same
//! numbers in the same order, which is random where it says so and larger than the CPU's first two caches.
#![expect(
    clippy::disallowed_types,
    reason = "a randomly ordered map is what pure code does without; here it is the baseline"
)]

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hint::black_box;

use baseline::{Candidate, Effort, Unit, compare, print_line};
use braid::amf::RowIndex;
use braid::amf::cache::{
    CleanCache, CleanLimits, DirtyLimits, DirtyMap, DirtySource, EntryIndex, PageKey, ReadAhead,
    ReadAheadLimits, Reference, RowTable,
};
use braid::drive::block::GroupLba;

/// Pages of 64 KiB in 4 GiB.
const PAGES: u32 = 1 << 16;
/// Pages of a row of eight strips of 64 KiB.
const ROW_PAGES: u32 = 8;
/// 4 KiB blocks of the same row.
const ROW_BLOCKS: u32 = 128;
/// Rows with an entry.
const ROWS: u32 = 4096;
/// Writes after which a row is destaged.
const WRITES_PER_DESTAGE: u8 = 48;
const ONCE: Unit = Unit::Nanoseconds { per_turn: 1 };

/// Numbers below a bound, the same for each candidate.
struct Numbers {
    numbers: Vec<u32>,
    next: Cell<usize>,
}

impl Numbers {
    fn random(bound: u32) -> Self {
        let mut seed = 1_u64;
        let numbers = (0..1 << 18).map(|_| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((seed >> 33) % u64::from(bound)).expect("below a 32-bit number")
        });
        Self {
            numbers: numbers.collect(),
            next: Cell::new(0),
        }
    }

    fn turn(&self) -> u32 {
        let at = self.next.get();
        self.next
            .set(if at + 1 == self.numbers.len() { 0 } else { at + 1 });
        black_box(self.numbers[at])
    }
}

fn measure(effort: &Effort, what: &str, own: Candidate<'_>, other: Candidate<'_>) {
    let series = compare(effort, ONCE, vec![own, other]);
    let [own, other] = series.as_slice() else {
        unreachable!("two candidates were put in");
    };
    print_line(what, ONCE, own, other, None);
}

fn page_key(number: u32) -> PageKey {
    PageKey {
        row: RowIndex(u64::from(number / ROW_PAGES)),
        page: number % ROW_PAGES,
    }
}

/// Numbers below `PAGES` are in the cache, those from there on are not.
fn clean(effort: &Effort) {
    let mut cache = CleanCache::new(CleanLimits {
        pages: PAGES,
        page_blocks: 16,
        row_blocks: ROW_BLOCKS,
    });
    let mut map = HashMap::new();
    for number in 0..PAGES {
        let page = cache.insert(page_key(number), 1).expect("there is room");
        cache.filled(page);
        map.insert(u64::from(number), (page, 1_u64));
    }
    for (what, first) in [("page, hit", 0), ("page, miss", PAGES)] {
        let (for_own, for_map) = (Numbers::random(PAGES), Numbers::random(PAGES));
        let own = Candidate::new("CleanCache", || {
            black_box(cache.lookup(page_key(first + for_own.turn()), 1, Reference::Single));
        });
        let other = Candidate::new("HashMap", || {
            black_box(map.get(&u64::from(first + for_map.turn())));
        });
        measure(effort, what, own, other);
    }
    let mut number = 2 * PAGES;
    let own = Candidate::new("CleanCache", || {
        number += 1;
        if let Some(page) = cache.insert(black_box(page_key(number)), 1) {
            cache.filled(page);
        }
    });
    // As many entries in a queue and a map: the least that any first-in first-out cache does.
    let mut queue: VecDeque<u64> = (0..u64::from(PAGES)).collect();
    let mut fifo_number = 2 * u64::from(PAGES);
    let mut fifo: HashMap<u64, u64> = (0..u64::from(PAGES)).map(|number| (number, number)).collect();
    let other = Candidate::new("HashMap, VecDeque", || {
        fifo_number += 1;
        let oldest = queue.pop_front().expect("it is full");
        fifo.remove(&oldest);
        fifo.insert(black_box(fifo_number), oldest);
        queue.push_back(fifo_number);
    });
    measure(effort, "page, put in place of another", own, other);
}

fn rows(effort: &Effort) {
    let mut table = RowTable::new(ROWS);
    let mut map = HashMap::new();
    for row in 0..u64::from(ROWS) {
        let entry = table.insert(RowIndex(row)).expect("there is room");
        map.insert(row, entry);
    }
    for (what, first) in [("row, hit", 0), ("row, miss", ROWS)] {
        let (for_own, for_map) = (Numbers::random(ROWS), Numbers::random(ROWS));
        let own = Candidate::new("RowTable", || {
            black_box(table.find(RowIndex(u64::from(first + for_own.turn()))));
        });
        let other = Candidate::new("HashMap", || {
            black_box(map.get(&u64::from(first + for_map.turn())));
        });
        measure(effort, what, own, other);
    }
}

/// The dirty extents of all rows in one ordered map, kept disjoint like those of a [`DirtyMap`].
#[derive(Default)]
struct TreeMap {
    /// Row and first block; end, place in the ring, sequence number.
    extents: BTreeMap<(u32, u32), (u32, u32, u64)>,
}

impl TreeMap {
    fn insert(&mut self, row: u32, start: u32, blocks: u32, ring: u32, seq: u64) {
        let end = start + blocks;
        while let Some((&(row_of, first), &(last, place, old_seq))) =
            self.extents.range((row, 0)..(row, end)).next_back()
        {
            if last <= start {
                break;
            }
            self.extents.remove(&(row_of, first));
            if last > end {
                self.extents
                    .insert((row, end), (last, place + (end - first), old_seq));
            }
            if first < start {
                self.extents.insert((row, first), (start, place, old_seq));
            }
        }
        self.extents.insert((row, start), (end, ring, seq));
    }

    fn clear(&mut self, row: u32) {
        while let Some((&key, _)) = self.extents.range((row, 0)..(row + 1, 0)).next() {
            self.extents.remove(&key);
        }
    }
}

/// Says when a row has been written often enough.
struct Destages(Vec<u8>);

impl Destages {
    fn is_due(&mut self, row: u32) -> bool {
        let writes = &mut self.0[row as usize];
        *writes += 1;
        let is_due = *writes > WRITES_PER_DESTAGE;
        if is_due {
            *writes = 1;
        }
        is_due
    }
}

/// Writes of 4 KiB, each row being destaged after a number of them. `place` makes row and block of
/// the write's own number and a random one.
fn dirty(effort: &Effort, what: &str, rows: u32, place: impl Fn(u32, u32) -> (u32, u32)) {
    let mut map = DirtyMap::new(DirtyLimits {
        rows_max: rows,
        extents_max: rows * 100,
        row_extents_max: 100,
        row_blocks: ROW_BLOCKS,
    });
    let (for_own, for_tree) = (Numbers::random(u32::MAX), Numbers::random(u32::MAX));
    let mut due = Destages(vec![0; rows as usize]);
    let (mut writes, mut seq) = (0_u32, 0);
    let own = Candidate::new("DirtyMap", || {
        writes += 1;
        let (row, block) = place(writes, for_own.turn());
        if due.is_due(row) {
            map.clear_up_to(EntryIndex(row), seq);
        }
        seq += 1;
        let source = DirtySource::Ring { block: row };
        black_box(map.insert(EntryIndex(row), block, 1, source, seq));
    });
    let mut tree = TreeMap::default();
    let mut tree_due = Destages(vec![0; rows as usize]);
    let (mut tree_writes, mut tree_seq) = (0_u32, 0);
    let other = Candidate::new("BTreeMap", || {
        tree_writes += 1;
        let (row, block) = place(tree_writes, for_tree.turn());
        if tree_due.is_due(row) {
            tree.clear(row);
        }
        tree_seq += 1;
        tree.insert(row, block, 1, row, tree_seq);
    });
    measure(effort, what, own, other);
}

fn read_ahead(effort: &Effort) {
    let disk = GroupLba(0)..GroupLba(1 << 40);
    let mut ahead = ReadAhead::new(ReadAheadLimits {
        strip_blocks: 16,
        window_blocks_max: 1024,
    });
    let (for_own, for_map) = (Numbers::random(u32::MAX), Numbers::random(u32::MAX));
    let own = Candidate::new("ReadAhead", || {
        black_box(ahead.observe(GroupLba(u64::from(for_own.turn())), 1, &disk));
    });
    // Finds continuations only, and forgets all streams when it has seen too many.
    let mut streams: HashMap<u64, u32> = HashMap::new();
    let other = Candidate::new("HashMap", || {
        let lba = u64::from(for_map.turn());
        let reads = streams.remove(&lba).unwrap_or(0);
        if streams.len() == 32 {
            streams.clear();
        }
        streams.insert(lba + 1, black_box(reads + 1));
    });
    measure(effort, "random read, no stream", own, other);
}

fn main() {
    let effort = Effort::from_process();
    println!("what a core remembers, ns");
    clean(&effort);
    rows(&effort);
    let per_row = u32::from(WRITES_PER_DESTAGE);
    dirty(&effort, "write, one row after the other", ROWS, |write, _| {
        (write / per_row % ROWS, write % per_row)
    });
    dirty(&effort, "write, random, 64 rows", 64, |_, number| {
        (number % 64, number / 64 % ROW_BLOCKS)
    });
    dirty(&effort, "write, random, 4096 rows", ROWS, |_, number| {
        (number % ROWS, number / ROWS % ROW_BLOCKS)
    });
    read_ahead(&effort);
}
