//! Read cache: which pages of user data are in memory and still what the drives say.

use super::index::KeyIndex;
use crate::amf::RowIndex;
use crate::amf::list::{Links, List};

/// A page is worth so many references at most, so that yesterday's hot pages leave in a few rounds.
const REFERENCES_MAX: u8 = 3;

/// References in the small queue that make a page one for the main queue.
const PROMOTION_REFERENCES: u8 = 2;

/// Share of the small queue: one page in so many.
const SMALL_SHARE: u32 = 10;

/// Pages that one eviction looks at before it gives up: bounds the time of an insertion. Each look takes a reference away or
/// promotes a page, so that the next eviction has fewer before it.
const EVICTION_STEPS_MAX: u32 = 16;

/// A version that no row ever has.
const NEVER: u64 = u64::MAX;

/// A page of the cache's memory, `0..pages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u32);

/// A page of the group's user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageKey {
    /// The row that it lies in.
    pub row: RowIndex,
    /// Which page of the row's user data.
    pub page: u32,
}

impl PageKey {
    /// Panics if the row is 2^32 or more, which [`crate::amf::geometry::ROWS_MAX`] excludes.
    fn packed(self) -> u64 {
        assert!(self.row.0 >> 32 == 0, "geometry admits rows below 2^32 only");
        self.row.0 << 32 | u64::from(self.page)
    }
}

/// Sizes of a [`CleanCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanLimits {
    /// Pages of memory; about 200 bytes each besides the page itself.
    pub pages: u32,
    /// Length of a page, a power of two.
    pub page_blocks: u32,
    /// User data of a row; its last page may be a short one.
    pub row_blocks: u32,
}

/// How a page is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// By itself.
    Single,
    /// As part of a sequential stream, which reads a page in several commands and then never again: this says
    /// nothing about a page that has just come in.
    Stream,
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is here.
    Here(PageIndex),
    /// It is reserved and will be filled or abandoned.
    Coming(PageIndex),
    /// It is neither.
    Absent,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanCounts {
    /// Look-ups that found their page.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Misses because the page's row had been written since.
    pub stale: u64,
    /// Pages that gave way to others.
    pub evicted: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Filling,
    Filled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    key: u64,
    version: u64,
    pins: u32,
    references: u8,
    state: State,
    queue: Queue,
    /// Whether the index leads to it, and so whether a queue has it. If not, it is freed when nobody uses it any more.
    known: bool,
}

impl Page {
    const FREE: Self = Self {
        key: 0,
        version: 0,
        pins: 0,
        references: 0,
        state: State::Free,
        queue: Queue::Small,
        known: false,
    };

    fn is_in_use(&self) -> bool {
        self.pins > 0 || self.state == State::Filling
    }
}

/// Which pages of user data are where in the cache's memory.
///
/// A page is valid for one version of its row: versions grow whenever a write lock of the row is given back, and the
/// caller has the row's lock when it says which is the current one. Versions have 64 bits because a page may lie here for
/// as long as a count of 32 needs to come round.
///
/// New pages pass through a small queue. Those that are read again there, or soon after they left it, come into the main
/// queue, which hence no scan can flush.
///
/// Source: "FIFO queues are all you need for cache eviction", s3fifo.com, 2023-08-01: the S3-FIFO algorithm. Streams' references, and the
/// bound of an eviction, are ours.
#[derive(Debug)]
pub struct CleanCache {
    limits: CleanLimits,
    index: KeyIndex,
    pages: Box<[Page]>,
    free: Vec<PageIndex>,
    links: Links,
    small: List,
    main: List,
    small_count: u32,
    small_target: u32,
    ghosts: Ghosts,
    counts: CleanCounts,
}

impl CleanCache {
    /// An empty cache.
    pub fn new(limits: CleanLimits) -> Self {
        assert!(
            limits.page_blocks.is_power_of_two(),
            "a page's place is a shift away"
        );
        Self {
            limits,
            index: KeyIndex::new(limits.pages),
            pages: vec![Page::FREE; limits.pages as usize].into_boxed_slice(),
            free: (0..limits.pages).rev().map(PageIndex).collect(),
            links: Links::new(limits.pages),
            small: List::EMPTY,
            main: List::EMPTY,
            small_count: 0,
            small_target: limits.pages / SMALL_SHARE,
            ghosts: Ghosts::new(limits.pages - limits.pages / SMALL_SHARE),
            counts: CleanCounts::default(),
        }
    }

    /// The page with this data, if it is here, filled and of this version. Whoever uses it beyond this turn pins it.
    ///
    /// A page of another version is forgotten.
    pub fn lookup(&mut self, key: PageKey, version: u64, reference: Reference) -> Option<PageIndex> {
        match self.find(key, version) {
            Found::Here(page) => {
                self.touch(page, reference);
                Some(page)
            }
            Found::Coming(_) | Found::Absent => {
                self.counts.misses += 1;
                None
            }
        }
    }

    /// What is known of a page of this version. One of another version is forgotten.
    pub fn find(&mut self, key: PageKey, version: u64) -> Found {
        let Some(page) = self.index.find(key.packed()).map(PageIndex) else {
            return Found::Absent;
        };
        let Page {
            state, version: has, ..
        } = self.pages[page.0 as usize];
        match state {
            State::Free => unreachable!("the index leads to pages with data"),
            State::Filling => Found::Coming(page),
            State::Filled if has == version => Found::Here(page),
            State::Filled => {
                self.counts.stale += 1;
                self.forget_stale(page);
                Found::Absent
            }
        }
    }

    /// The page that is reserved for this data and neither filled nor abandoned yet.
    pub fn coming(&self, key: PageKey) -> Option<PageIndex> {
        let page = self.index.find(key.packed())?;
        (self.pages[page as usize].state == State::Filling).then_some(PageIndex(page))
    }

    /// A page that was found is read.
    pub fn touch(&mut self, page: PageIndex, reference: Reference) {
        self.counts.hits += 1;
        let page = &mut self.pages[page.0 as usize];
        let counts = match reference {
            Reference::Single => true,
            Reference::Stream => page.queue == Queue::Main,
        };
        if counts {
            page.references = REFERENCES_MAX.min(page.references + 1);
        }
    }

    /// Reserves a page to be filled with this data as it is at this version. None if it is here or on its way already, or if
    /// the next few pages are in use or worth more: then the data is read past the cache.
    ///
    /// The page is [`Self::filled`] or [`Self::abandon`]ed later, and nobody finds it before.
    pub fn insert(&mut self, key: PageKey, version: u64) -> Option<PageIndex> {
        assert!(key.page < self.row_pages(), "a page lies in its row");
        let packed = key.packed();
        if let Some(place) = self.index.find(packed) {
            let page = self.pages[place as usize];
            if page.state == State::Filling || page.version == version {
                return None;
            }
            self.forget_stale(PageIndex(place));
        }
        let page = self.free.pop().or_else(|| self.evict())?;
        let was_here = self.ghosts.remove(packed);
        let queue = if was_here { Queue::Main } else { Queue::Small };
        assert!(
            self.pages[page.0 as usize].state == State::Free,
            "a page has one owner"
        );
        self.pages[page.0 as usize] = Page {
            key: packed,
            version,
            state: State::Filling,
            known: true,
            ..Page::FREE
        };
        self.index.insert(packed, page.0);
        self.enqueue(page, queue);
        Some(page)
    }

    /// The reserved page has its data. From now on it is found, unless it was invalidated meanwhile.
    pub fn filled(&mut self, page: PageIndex) {
        let state = &mut self.pages[page.0 as usize].state;
        assert!(*state == State::Filling, "only a reserved page is filled");
        *state = State::Filled;
        self.free_unless_used(page);
    }

    /// The reserved page will not be filled.
    pub fn abandon(&mut self, page: PageIndex) {
        let state = &mut self.pages[page.0 as usize].state;
        assert!(*state == State::Filling, "only a reserved page is abandoned");
        *state = State::Filled;
        self.forget(page);
    }

    /// Keeps a page's memory from being given to other data until it is unpinned as often. What is written meanwhile does not reach it.
    pub fn pin(&mut self, page: PageIndex) {
        let page = &mut self.pages[page.0 as usize];
        assert!(page.state != State::Free, "only a page with data is used");
        page.pins += 1;
    }

    /// Ends one use of a page.
    pub fn unpin(&mut self, page: PageIndex) {
        let pins = &mut self.pages[page.0 as usize].pins;
        assert!(*pins > 0, "a page is unpinned as often as it was pinned");
        *pins -= 1;
        self.free_unless_used(page);
    }

    /// Forgets all pages of a row. Versions suffice to keep stale data from being found; this frees the memory at once.
    pub fn invalidate(&mut self, row: RowIndex) {
        for page in 0..self.row_pages() {
            let key = PageKey { row, page };
            if let Some(place) = self.index.find(key.packed()) {
                self.forget(PageIndex(place));
            }
        }
    }

    /// Forgets everything, as when rows are laid out anew: from now on rows have so many blocks of user data at most. What is about
    /// to be filled may be so, but is not found then.
    pub fn clear(&mut self, row_blocks: u32) {
        self.limits.row_blocks = row_blocks;
        for page in (0..self.limits.pages).map(PageIndex) {
            let Page { state, known, .. } = self.pages[page.0 as usize];
            match state {
                State::Filling => self.pages[page.0 as usize].version = NEVER,
                State::Filled if known => self.forget(page),
                State::Filled | State::Free => {}
            }
        }
    }

    /// Which page of a row a block of its user data is in, and where in the page.
    pub fn split(&self, block_of_row: u32) -> (u32, u32) {
        let page_blocks = self.limits.page_blocks;
        (block_of_row / page_blocks, block_of_row % page_blocks)
    }

    /// Where a page is in the cache's memory, in blocks.
    pub fn place_blocks(&self, page: PageIndex) -> u64 {
        u64::from(page.0) * u64::from(self.limits.page_blocks)
    }

    /// Length of a page in blocks.
    pub fn page_blocks(&self) -> u32 {
        self.limits.page_blocks
    }

    /// What has happened so far.
    pub fn counts(&self) -> CleanCounts {
        self.counts
    }

    /// How many pages have data or are about to.
    pub fn pages_used(&self) -> usize {
        self.pages.len() - self.free.len()
    }

    fn row_pages(&self) -> u32 {
        self.limits.row_blocks.div_ceil(self.limits.page_blocks)
    }

    /// Forgets a page because its row was written. If it was worth keeping, its successor is so too.
    fn forget_stale(&mut self, page: PageIndex) {
        let Page {
            key,
            queue,
            references,
            ..
        } = self.pages[page.0 as usize];
        if queue == Queue::Main || references >= PROMOTION_REFERENCES {
            self.ghosts.insert(key);
        }
        self.forget(page);
    }

    /// Nobody finds the page any more; its memory is free when nobody uses it.
    fn forget(&mut self, page: PageIndex) {
        self.dequeue(page);
        let Page { key, known, .. } = self.pages[page.0 as usize];
        if known {
            assert_eq!(
                self.index.remove(key),
                Some(page.0),
                "a known page is in the index"
            );
        }
        self.pages[page.0 as usize].known = false;
        self.free_unless_used(page);
    }

    fn free_unless_used(&mut self, page: PageIndex) {
        let has = &mut self.pages[page.0 as usize];
        if !has.known && !has.is_in_use() {
            assert!(has.state == State::Filled, "a page is freed once");
            *has = Page::FREE;
            self.free.push(page);
        }
    }

    /// Takes the memory of a page that is not worth keeping, if a few looks find one.
    fn evict(&mut self) -> Option<PageIndex> {
        for _ in 0..EVICTION_STEPS_MAX {
            let from_small = self.small_count > self.small_target || self.main.is_empty();
            let first = if from_small {
                self.small.first()
            } else {
                self.main.first()
            };
            let page = PageIndex(first?);
            let Page {
                key,
                queue,
                references,
                ..
            } = self.pages[page.0 as usize];
            if self.pages[page.0 as usize].is_in_use() {
                self.dequeue(page);
                self.enqueue(page, queue);
                continue;
            }
            let kept = match queue {
                Queue::Small if references >= PROMOTION_REFERENCES => Some(0),
                Queue::Small => None,
                Queue::Main => references.checked_sub(1),
            };
            match kept {
                Some(references) => {
                    self.dequeue(page);
                    self.pages[page.0 as usize].references = references;
                    self.enqueue(page, Queue::Main);
                }
                None => {
                    if queue == Queue::Small {
                        self.ghosts.insert(key);
                    }
                    self.counts.evicted += 1;
                    self.forget(page);
                    return self.free.pop();
                }
            }
        }
        None
    }

    /// Puts a page behind all others of a queue.
    fn enqueue(&mut self, page: PageIndex, queue: Queue) {
        self.pages[page.0 as usize].queue = queue;
        match queue {
            Queue::Small => {
                self.small_count += 1;
                self.links.push_back(&mut self.small, page.0);
            }
            Queue::Main => self.links.push_back(&mut self.main, page.0),
        }
    }

    /// Takes a page out of its queue, if it is in one.
    fn dequeue(&mut self, page: PageIndex) {
        if !self.pages[page.0 as usize].known {
            return;
        }
        match self.pages[page.0 as usize].queue {
            Queue::Small => {
                self.small_count -= 1;
                self.links.remove(&mut self.small, page.0);
            }
            Queue::Main => self.links.remove(&mut self.main, page.0),
        }
    }
}

/// Keys of pages that left the small queue unread, the latest ones: whoever comes back soon was thrown out too early.
#[derive(Debug)]
struct Ghosts {
    index: KeyIndex,
    /// A ring; a key that was taken out leaves a gap.
    keys: Box<[Option<u64>]>,
    next: u32,
}

impl Ghosts {
    fn new(keys_max: u32) -> Self {
        Self {
            index: KeyIndex::new(keys_max),
            keys: vec![None; keys_max as usize].into_boxed_slice(),
            next: 0,
        }
    }

    fn insert(&mut self, key: u64) {
        if self.keys.is_empty() {
            return;
        }
        self.remove(key);
        if let Some(oldest) = self.keys[self.next as usize].replace(key) {
            self.index.remove(oldest);
        }
        self.index.insert(key, self.next);
        self.next += 1;
        if self.next as usize == self.keys.len() {
            self.next = 0;
        }
    }

    /// Whether the key was there.
    fn remove(&mut self, key: u64) -> bool {
        let place = self.index.remove(key);
        if let Some(place) = place {
            self.keys[place as usize] = None;
        }
        place.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use super::*;

    fn cache(pages: u32) -> CleanCache {
        CleanCache::new(CleanLimits {
            pages,
            page_blocks: 8,
            row_blocks: 60,
        })
    }

    fn key(number: u64) -> PageKey {
        PageKey {
            row: RowIndex(number / 8),
            page: u32::try_from(number % 8).expect("below 8"),
        }
    }

    /// Reads through the cache; says whether it was a hit.
    fn read(cache: &mut CleanCache, number: u64, reference: Reference) -> bool {
        let hit = cache.lookup(key(number), 0, reference).is_some();
        if !hit {
            // Now and then all pages that an eviction looks at are hot.
            if let Some(page) = cache.insert(key(number), 0) {
                cache.filled(page);
            }
        }
        hit
    }

    /// Least recently used, for comparison.
    struct Lru {
        pages: usize,
        keys: VecDeque<u64>,
    }

    impl Lru {
        fn read(&mut self, number: u64) -> bool {
            let found = self.keys.iter().position(|other| *other == number);
            if let Some(at) = found {
                self.keys.remove(at);
            } else if self.keys.len() == self.pages {
                self.keys.pop_front();
            }
            self.keys.push_back(number);
            found.is_some()
        }
    }

    /// After an expansion's wave nothing that was read before is found, nor what was on its way.
    #[test]
    fn clearing_forgets_what_is_here_and_what_is_coming() {
        let mut cache = cache(8);
        let here = cache.insert(key(1), 7).expect("all is free");
        cache.filled(here);
        let coming = cache.insert(key(2), 7).expect("nearly all is free");
        assert_eq!(cache.find(key(1), 7), Found::Here(here));
        assert_eq!(cache.find(key(2), 7), Found::Coming(coming));
        assert_eq!((cache.coming(key(1)), cache.coming(key(2))), (None, Some(coming)));
        cache.clear(80);
        assert_eq!(cache.find(key(1), 7), Found::Absent);
        assert_eq!(cache.insert(key(2), 7), None, "whoever fills it still has it");
        cache.filled(coming);
        assert_eq!(cache.find(key(2), 7), Found::Absent);
        assert_eq!(cache.pages_used(), 0);
        let last = PageKey {
            row: RowIndex(0),
            page: 9,
        };
        assert!(cache.insert(last, 7).is_some(), "rows are longer now");
    }

    /// A hot set of half of the cache outlives a scan of ten times the cache, which LRU does not.
    #[test]
    fn a_scan_does_not_flush_the_hot_set() {
        const PAGES: u64 = 200;
        const HOT: u64 = 100;
        for reference in [Reference::Single, Reference::Stream] {
            let mut cache = cache(200);
            let mut lru = Lru {
                pages: 200,
                keys: VecDeque::new(),
            };
            for _ in 0..4 {
                for number in 0..HOT {
                    read(&mut cache, number, Reference::Single);
                    lru.read(number);
                }
            }
            for number in 1_000..1_000 + 10 * PAGES {
                // A stream reads each page in four commands, which must not look like four readers.
                for part in 0..4 {
                    if part == 0 || reference == Reference::Stream {
                        read(&mut cache, number, reference);
                        lru.read(number);
                    }
                }
            }
            let hits = (0..HOT)
                .filter(|number| read(&mut cache, *number, Reference::Single))
                .count();
            let lru_hits = (0..HOT).filter(|number| lru.read(*number)).count();
            assert_eq!((hits, lru_hits), (100, 0), "{reference:?}");
        }
    }

    /// A page that is wanted again soon after it was thrown out stays then.
    #[test]
    fn ghosts_come_back_to_stay() {
        let mut cache = cache(20);
        for number in 0..30 {
            read(&mut cache, number, Reference::Stream);
        }
        assert!(!read(&mut cache, 0, Reference::Stream), "it was thrown out");
        for number in 100..300 {
            read(&mut cache, number, Reference::Stream);
        }
        assert!(
            read(&mut cache, 0, Reference::Stream),
            "it is in the main queue now"
        );
        assert!(
            !read(&mut cache, 1, Reference::Stream),
            "this one never came back"
        );
    }

    /// The hot set may change: what was hot once leaves.
    #[test]
    fn a_new_hot_set_replaces_the_old_one() {
        let mut cache = cache(100);
        for round in 0..20 {
            for number in 0..80 {
                read(
                    &mut cache,
                    number + if round < 10 { 0 } else { 1_000 },
                    Reference::Single,
                );
            }
        }
        let hits = (1_000..1_080)
            .filter(|number| read(&mut cache, *number, Reference::Single))
            .count();
        assert_eq!(hits, 80);
    }

    /// B9: a page of a row that was written since is never found again, and its successor is as hot as it was.
    #[test]
    fn another_version_is_a_miss() {
        let mut cache = cache(10);
        let page = cache.insert(key(3), 7).expect("all is free");
        assert_eq!(
            cache.lookup(key(3), 7, Reference::Single),
            None,
            "it is not yet filled"
        );
        assert_eq!(cache.insert(key(3), 7), None, "it is on its way");
        cache.filled(page);
        assert_eq!(cache.lookup(key(3), 7, Reference::Single), Some(page));
        assert_eq!(cache.lookup(key(3), 7, Reference::Single), Some(page));
        assert_eq!(cache.insert(key(3), 7), None, "it is here");
        assert_eq!(cache.lookup(key(3), 8, Reference::Single), None);
        assert_eq!(
            cache.lookup(key(3), 7, Reference::Single),
            None,
            "it is forgotten"
        );
        assert_eq!(cache.pages_used(), 0);
        let page = cache.insert(key(3), 8).expect("all is free");
        cache.filled(page);
        assert_eq!(cache.pages[page.0 as usize].queue, Queue::Main);
        let page = cache.insert(key(3), 9).expect("the old one is replaced");
        cache.abandon(page);
        assert_eq!((cache.pages_used(), cache.counts().stale), (0, 1));
    }

    /// Memory that is being read or filled is never given to other data, whatever happens to the page.
    #[test]
    fn pages_in_use_keep_their_memory() {
        let mut cache = cache(3);
        let pages = [0, 1, 2].map(|number| cache.insert(key(number), 0).expect("there is room"));
        assert_eq!(cache.insert(key(9), 0), None, "all are being filled");
        cache.pin(pages[1]);
        cache.filled(pages[1]);
        cache.invalidate(RowIndex(0));
        assert_eq!(cache.insert(key(9), 0), None, "all are still in use");
        cache.filled(pages[0]);
        assert_eq!(
            cache.lookup(key(0), 0, Reference::Single),
            None,
            "it was invalidated"
        );
        assert_eq!(cache.insert(key(9), 0), Some(pages[0]));
        cache.abandon(pages[2]);
        assert_eq!(cache.insert(key(10), 0), Some(pages[2]));
        assert_eq!(cache.insert(key(11), 0), None, "the last one is pinned");
        cache.unpin(pages[1]);
        assert_eq!(cache.insert(key(11), 0), Some(pages[1]));
    }

    /// Random reads, writes, pins and invalidations: a hit is what the row says now, and memory has one owner.
    #[test]
    fn a_hit_is_never_stale() {
        for seed in 0..8 {
            let mut random: u64 = seed;
            let mut below = |bound: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % bound
            };
            let mut cache = cache(24);
            let mut versions = [0_u64; 8];
            // What each page's memory holds, who fills it, and who reads it.
            let mut memory: BTreeMap<PageIndex, (u64, u64)> = BTreeMap::new();
            let mut filling: Vec<(PageIndex, u64, u64)> = Vec::new();
            let mut pinned: Vec<(PageIndex, (u64, u64))> = Vec::new();
            for _ in 0..20_000 {
                let number = below(64).min(below(64));
                let row = number / 8;
                let version = versions[usize::try_from(row).expect("below 8")];
                match below(16) {
                    0 if below(2) == 0 => versions[usize::try_from(row).expect("below 8")] += 1,
                    1 if below(4) == 0 => cache.invalidate(RowIndex(row)),
                    2 | 3 if !pinned.is_empty() => {
                        let at = usize::try_from(below(pinned.len() as u64)).expect("an index");
                        let (page, data) = pinned.swap_remove(at);
                        assert_eq!(memory[&page], data, "memory stayed while it was pinned");
                        cache.unpin(page);
                    }
                    4..12 if !filling.is_empty() => {
                        let (page, number, version) = filling.remove(0);
                        if below(8) == 0 {
                            cache.abandon(page);
                        } else {
                            memory.insert(page, (number, version));
                            cache.filled(page);
                        }
                    }
                    _ => match cache.lookup(key(number), version, Reference::Single) {
                        Some(page) => {
                            assert_eq!(memory[&page], (number, version));
                            if pinned.len() < 8 {
                                cache.pin(page);
                                pinned.push((page, memory[&page]));
                            }
                        }
                        None => {
                            if let Some(page) = cache.insert(key(number), version) {
                                let is_free = filling.iter().all(|(other, ..)| *other != page)
                                    && pinned.iter().all(|(other, _)| *other != page);
                                assert!(is_free, "memory in use has one owner");
                                filling.push((page, number, version));
                            }
                        }
                    },
                }
                let listed = cache.pages.iter().filter(|page| page.known).count();
                assert!(listed <= cache.pages_used() && cache.pages_used() <= 24);
            }
            let counts = cache.counts();
            assert!(
                counts.hits > 1_000 && counts.stale > 100 && counts.evicted > 100,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn places_and_pages_follow_from_the_page_size() {
        let cache = cache(4);
        assert_eq!(cache.split(0), (0, 0));
        assert_eq!(cache.split(59), (7, 3));
        assert_eq!(cache.place_blocks(PageIndex(3)), 24);
        assert_eq!(cache.page_blocks(), 8);
    }

    #[test]
    #[should_panic(expected = "as often as it was pinned")]
    fn unpinning_twice_is_a_bug() {
        let mut cache = cache(4);
        let page = cache.insert(key(0), 0).expect("all is free");
        cache.pin(page);
        cache.filled(page);
        cache.unpin(page);
        cache.unpin(page);
    }

    #[test]
    #[should_panic(expected = "only a reserved page")]
    fn filling_twice_is_a_bug() {
        let mut cache = cache(4);
        let page = cache.insert(key(0), 0).expect("all is free");
        cache.filled(page);
        cache.filled(page);
    }

    #[test]
    fn a_cache_without_pages_is_a_cache_that_misses() {
        let mut cache = cache(0);
        assert_eq!(cache.lookup(key(0), 0, Reference::Single), None);
        assert_eq!(cache.insert(key(0), 0), None);
    }
}
