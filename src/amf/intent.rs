//! The write-intent bitmap: which rows a lost member has missed, so that a drive that comes back needs only those.
//!
//! Owns the bits that all cores of a node share, and the layout of their copy on the drives. `group` decides since when
//! bits count, when they are written and when they are cleared.
//!
//! Invariants:
//! - A bit is set before its row is written in place while a member is lost, and durable before the journal forgets the row
//!   (PROTOCOL H31). So a row that a lost member has missed is in the journal or has its bit on the drives.
//! - Bits are cleared only when no member is lost.
//! - Whatever a damaged page may have said counts as all bits set: too many rows are rebuilt, never too few.

use std::sync::atomic::{AtomicU64, Ordering};

use nvme::crc32c;
use thiserror::Error;

use super::RowIndex;
use super::superblock::{INTENT_PAGE_BITS, INTENT_PAGE_HEADER_BYTES, IntentRecord, RECORD_BYTES, Uuid};

/// 64-bit words of one page.
const PAGE_WORDS: usize = (RECORD_BYTES - INTENT_PAGE_HEADER_BYTES) / 8;

const _: () = assert!(PAGE_WORDS as u64 * 64 == INTENT_PAGE_BITS);

/// Starts every page.
const MAGIC: [u8; 8] = *b"BRAIDWI1";

const GROUP_AT: usize = 8;
const SINCE_AT: usize = 24;
const PAGE_AT: usize = 32;
const CRC_AT: usize = 36;

/// The bits of one group, shared by all cores.
#[derive(Debug)]
pub struct IntentMap {
    rows: u64,
    rows_per_bit: u64,
    words: Box<[AtomicU64]>,
}

impl IntentMap {
    /// A map without any bit set.
    ///
    /// Panics if `rows` is 0 or `rows_per_bit` no power of two: a checked record has neither.
    pub fn new(rows: u64, rows_per_bit: u32) -> Self {
        assert!(rows > 0, "a group has rows");
        assert!(
            rows_per_bit.is_power_of_two(),
            "a bit covers a power of two of rows"
        );
        let rows_per_bit = u64::from(rows_per_bit);
        let pages = rows.div_ceil(rows_per_bit).div_ceil(INTENT_PAGE_BITS);
        let words = usize::try_from(pages).expect("a region has few pages") * PAGE_WORDS;
        Self {
            rows,
            rows_per_bit,
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Sets the bit of a row, before the row is written. Any core may do that at any time.
    ///
    /// The caller's message to the group that this shall be durable carries the order, so that none is needed here: who has
    /// seen a bit set and then tells another core has that core see it as well.
    ///
    /// Panics if the row is outside of the group.
    pub fn mark(&self, row: RowIndex) {
        let (word, bit) = self.place(row);
        if self.words[word].load(Ordering::Relaxed) & bit == 0 {
            self.words[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether the row, or a neighbour that shares its bit, was marked.
    ///
    /// Panics if the row is outside of the group.
    pub fn is_marked(&self, row: RowIndex) -> bool {
        let (word, bit) = self.place(row);
        self.words[word].load(Ordering::Relaxed) & bit != 0
    }

    /// The first marked row from this one on; `None` if there is none.
    pub fn next_marked(&self, from: RowIndex) -> Option<RowIndex> {
        if from.0 >= self.rows {
            return None;
        }
        let first = from.0 / self.rows_per_bit;
        let (word, shift) = word_of(first);
        let mut mask = u64::MAX << shift;
        for (at, bits) in self.words.iter().enumerate().skip(word) {
            let set = bits.load(Ordering::Relaxed) & mask;
            if set != 0 {
                let bit = at as u64 * 64 + u64::from(set.trailing_zeros());
                let row = (bit * self.rows_per_bit).max(from.0);
                return (row < self.rows).then_some(RowIndex(row));
            }
            mask = u64::MAX;
        }
        None
    }

    /// Rows that marked bits cover.
    pub fn marked_rows(&self) -> u64 {
        let bits = self.rows.div_ceil(self.rows_per_bit);
        let set: u64 = self
            .words
            .iter()
            .map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()))
            .sum();
        // The last bit may cover fewer rows, and bits behind it stand for none.
        let rows = set.min(bits) * self.rows_per_bit;
        let last = RowIndex(self.rows - 1);
        if self.is_marked(last) {
            rows - (bits * self.rows_per_bit - self.rows)
        } else {
            rows
        }
    }

    /// Sets every bit: nothing is known of what a lost member has missed.
    pub fn mark_all(&self) {
        (0..self.pages()).for_each(|page| self.mark_page(page));
    }

    /// Clears every bit: no member misses anything.
    pub(crate) fn clear(&self) {
        self.words
            .iter()
            .for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// How many pages the copy on the drives has.
    pub const fn pages(&self) -> usize {
        self.words.len() / PAGE_WORDS
    }

    /// The words of a page as they are now.
    pub(super) fn page_words(&self, page: usize) -> [u64; PAGE_WORDS] {
        let mut words = [0; PAGE_WORDS];
        let shared = &self.words[page * PAGE_WORDS..][..PAGE_WORDS];
        for (word, shared) in words.iter_mut().zip(shared) {
            *word = shared.load(Ordering::Relaxed);
        }
        words
    }

    fn mark_page(&self, page: usize) {
        let bits = self.rows.div_ceil(self.rows_per_bit);
        let shared = &self.words[page * PAGE_WORDS..][..PAGE_WORDS];
        for (at, word) in (page * PAGE_WORDS..).zip(shared) {
            let left = bits.saturating_sub(at as u64 * 64);
            let mask = if left >= 64 { u64::MAX } else { (1 << left) - 1 };
            word.fetch_or(mask, Ordering::Relaxed);
        }
    }

    fn merge(&self, page: usize, words: &[u64; PAGE_WORDS]) {
        let shared = &self.words[page * PAGE_WORDS..][..PAGE_WORDS];
        for (word, more) in shared.iter().zip(words) {
            word.fetch_or(*more, Ordering::Relaxed);
        }
    }

    fn place(&self, row: RowIndex) -> (usize, u64) {
        assert!(row.0 < self.rows, "a row lies inside the group");
        let (word, shift) = word_of(row.0 / self.rows_per_bit);
        (word, 1 << shift)
    }
}

fn word_of(bit: u64) -> (usize, u32) {
    let word = usize::try_from(bit / 64).expect("a map has few words");
    let shift = u32::try_from(bit % 64).expect("below 64");
    (word, shift)
}

/// Words of one page.
pub(super) type PageWords = [u64; PAGE_WORDS];

/// Composes a page as it goes to the drives.
pub(super) fn encode_page(
    group: Uuid,
    since_generation: u64,
    page: usize,
    words: &PageWords,
) -> Box<[u8; RECORD_BYTES]> {
    let mut bytes = Box::new([0; RECORD_BYTES]);
    bytes[..GROUP_AT].copy_from_slice(&MAGIC);
    bytes[GROUP_AT..SINCE_AT].copy_from_slice(&group.0);
    bytes[SINCE_AT..PAGE_AT].copy_from_slice(&since_generation.to_le_bytes());
    let number = u32::try_from(page).expect("a map has few pages");
    bytes[PAGE_AT..CRC_AT].copy_from_slice(&number.to_le_bytes());
    for (word, place) in words
        .iter()
        .zip(bytes[INTENT_PAGE_HEADER_BYTES..].chunks_exact_mut(8))
    {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let crc = checksum(&bytes[..]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Why the bytes of a page say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageError {
    /// Not 4096 bytes.
    #[error("a page has {RECORD_BYTES} bytes, not {0}")]
    Length(usize),
    /// Torn, rotten, or not a page at all.
    #[error("the page is torn or damaged: all of its rows count as written")]
    Damaged,
    /// A page of another group or place.
    #[error("the page belongs to another group or place: all of its rows count as written")]
    Elsewhere,
}

/// What one drive's copy of a page says: its bits, or `None` if it was not written since that generation.
pub(super) fn parse_page(
    group: Uuid,
    since_generation: u64,
    page: usize,
    bytes: &[u8],
) -> Result<Option<Box<PageWords>>, PageError> {
    if bytes.len() != RECORD_BYTES {
        return Err(PageError::Length(bytes.len()));
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let crc = u32::from_le_bytes(bytes[CRC_AT..CRC_AT + 4].try_into().expect("4 bytes"));
    let padded = bytes[CRC_AT + 4..INTENT_PAGE_HEADER_BYTES]
        .iter()
        .all(|byte| *byte == 0);
    if bytes[..GROUP_AT] != MAGIC || checksum(bytes) != crc || !padded {
        return Err(PageError::Damaged);
    }
    let number = u32::from_le_bytes(bytes[PAGE_AT..CRC_AT].try_into().expect("4 bytes"));
    if bytes[GROUP_AT..SINCE_AT] != group.0 || usize::try_from(number) != Ok(page) {
        return Err(PageError::Elsewhere);
    }
    if bytes[SINCE_AT..PAGE_AT] != since_generation.to_le_bytes() {
        return Ok(None);
    }
    let mut words = Box::new([0; PAGE_WORDS]);
    for (word, place) in words
        .iter_mut()
        .zip(bytes[INTENT_PAGE_HEADER_BYTES..].chunks_exact(8))
    {
        *word = u64::from_le_bytes(place.try_into().expect("8 bytes"));
    }
    Ok(Some(words))
}

/// CRC-32C of the page without the four bytes that hold it.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::portable(crc32c::portable(0, &bytes[..CRC_AT]), &bytes[CRC_AT + 4..])
}

/// Reads a map back from the copies that the current members of a group have.
#[derive(Debug)]
pub struct IntentLoad {
    map: IntentMap,
    group: Uuid,
    since_generation: u64,
    /// Pages that some copy says something about, and pages of which a copy was damaged.
    known: Vec<bool>,
    damaged: Vec<bool>,
}

impl IntentLoad {
    /// Nothing read yet.
    pub fn new(group: Uuid, rows: u64, record: &IntentRecord) -> Self {
        let map = IntentMap::new(rows, record.rows_per_bit);
        let pages = map.pages();
        Self {
            map,
            group,
            since_generation: record.since_generation,
            known: vec![false; pages],
            damaged: vec![false; pages],
        }
    }

    /// Takes one member's copy of a page; `None` if it could not be read.
    ///
    /// Panics if there is no such page.
    pub fn take(&mut self, page: usize, bytes: Option<&[u8]>) {
        let parsed = bytes.map_or(Err(PageError::Length(0)), |bytes| {
            parse_page(self.group, self.since_generation, page, bytes)
        });
        match parsed {
            Ok(Some(words)) => {
                self.map.merge(page, &words);
                self.known[page] = true;
            }
            Ok(None) => {}
            Err(_) => self.damaged[page] = true,
        }
    }

    /// The map as far as it is known. A copy that was being replaced when power went has another beside it, or nobody was
    /// told that it is durable; so a page is doubted only if nothing but damaged copies speaks of it.
    pub fn finish(self) -> IntentMap {
        for page in 0..self.map.pages() {
            if self.damaged[page] && !self.known[page] {
                self.map.mark_page(page);
            }
        }
        self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::block::MemberLba;

    const GROUP: Uuid = Uuid([3; 16]);

    fn marked(map: &IntentMap) -> Vec<u64> {
        (0..map.rows)
            .filter(|row| map.is_marked(RowIndex(*row)))
            .collect()
    }

    #[test]
    fn a_mark_covers_its_row_and_those_that_share_its_bit() {
        let map = IntentMap::new(1000, 4);
        map.mark(RowIndex(6));
        map.mark(RowIndex(7));
        map.mark(RowIndex(999));
        assert_eq!(marked(&map), [4, 5, 6, 7, 996, 997, 998, 999]);
        assert_eq!(map.marked_rows(), 8);
        assert_eq!(map.next_marked(RowIndex(0)), Some(RowIndex(4)));
        assert_eq!(map.next_marked(RowIndex(6)), Some(RowIndex(6)));
        assert_eq!(map.next_marked(RowIndex(8)), Some(RowIndex(996)));
        assert_eq!(map.next_marked(RowIndex(1000)), None);
        map.clear();
        assert_eq!((map.marked_rows(), map.next_marked(RowIndex(0))), (0, None));
    }

    #[test]
    fn the_last_bit_may_cover_fewer_rows() {
        for rows in [1, 63, 64, 65, 1001, INTENT_PAGE_BITS + 1] {
            for rows_per_bit in [1, 8] {
                let map = IntentMap::new(rows, rows_per_bit);
                map.mark_all();
                assert_eq!(map.marked_rows(), rows);
                assert_eq!(map.next_marked(RowIndex(rows - 1)), Some(RowIndex(rows - 1)));
            }
        }
    }

    #[test]
    #[should_panic = "a row lies inside the group"]
    fn rows_outside_of_the_group_are_a_bug() {
        IntentMap::new(10, 1).mark(RowIndex(10));
    }

    fn record() -> IntentRecord {
        IntentRecord {
            start: MemberLba(256),
            blocks: 2,
            since_generation: 7,
            rows_per_bit: 1,
        }
    }

    fn page_of(row: u64, since: u64) -> Box<[u8; RECORD_BYTES]> {
        let map = IntentMap::new(100, 1);
        map.mark(RowIndex(row));
        encode_page(GROUP, since, 0, &map.page_words(0))
    }

    fn load(copies: &[Option<&[u8]>]) -> Vec<u64> {
        let mut load = IntentLoad::new(GROUP, 100, &record());
        copies.iter().for_each(|copy| load.take(0, *copy));
        marked(&load.finish())
    }

    #[test]
    fn the_copies_of_all_members_count_together() {
        let (a, b, old) = (page_of(5, 7), page_of(9, 7), page_of(11, 6));
        assert_eq!(load(&[Some(&a[..]), Some(&b[..]), Some(&old[..])]), [5, 9]);
        assert_eq!(
            load(&[Some(&old[..]), Some(&[0; RECORD_BYTES])]),
            [0; 0],
            "nothing was marked since"
        );
        assert_eq!(load(&[None, Some(&a[..])]), [5]);
    }

    #[test]
    fn a_page_of_which_nothing_sound_is_left_counts_as_marked_whole() {
        let all: Vec<u64> = (0..100).collect();
        assert_eq!(load(&[None]), all);
        let mut page = page_of(5, 7);
        for at in 0..RECORD_BYTES {
            page[at] ^= 0x10;
            assert_eq!(load(&[Some(&page[..])]), all, "byte {at}");
            page[at] ^= 0x10;
        }
        assert_eq!(load(&[Some(&page[..100])]), all);
        let elsewhere = encode_page(Uuid([4; 16]), 7, 0, &IntentMap::new(100, 1).page_words(0));
        assert_eq!(load(&[Some(&elsewhere[..])]), all, "a page of another group");
        let other_page = encode_page(GROUP, 7, 1, &IntentMap::new(100, 1).page_words(0));
        assert_eq!(load(&[Some(&other_page[..])]), all);
    }

    #[test]
    fn random_pages_never_panic() {
        let mut state = 5_u64;
        let mut bytes = [0; RECORD_BYTES];
        for round in 0..300 {
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = state.to_be_bytes()[0];
            }
            if round % 2 == 0 {
                bytes[..8].copy_from_slice(&MAGIC);
            }
            assert_eq!(parse_page(GROUP, 7, 0, &bytes), Err(PageError::Damaged));
        }
    }
}
