//! Reading through the clean cache, and reading ahead.
//!
//! Owns the pages that this core has in memory as the drives hold them, the streams among its reads and the pieces that
//! read ahead of them. A page is filled and read under its row's lock only, and is right for one version of the row: the version
//! is another one as soon as anything may have changed in place, on whichever core. What is dirty is not in the pages but laid
//! over what is read from them, as over what is read from drives. Invariants: a group that lost too much answers nothing from here;
//! reading ahead waits for nothing, holds at most a part of the scratch, and begins only while hosts' commands leave drives
//! idle; whoever waits for what is read ahead goes on when that ends, however it ends.

use std::collections::VecDeque;
use std::ops::Range;

use super::machine::Engine;
use super::piece::{Piece, State, Work, place};
use super::{Action, GroupError, Place, Request};
use crate::amf::RowIndex;
use crate::amf::cache::{
    CleanCache, CleanCounts, CleanLimits, Found, PageIndex, PageKey, ReadAhead, ReadAheadLimits, Reference,
    STREAMS_MAX,
};
use crate::amf::geometry::{Geometry, RowPiece};
use crate::amf::list::List;
use crate::amf::lock::Mode;
use crate::amf::row::{Area, Target};
use crate::drive::block::GroupLba;

/// Pieces that read ahead at a time.
pub(super) const PREFETCHES_MAX: u32 = 32;

/// Most that one of them reads: two strips of the usual length.
const PREFETCH_BYTES_MAX: u32 = 128 << 10;

/// Reading ahead may hold so large a part of the scratch: one in so many bytes.
const SCRATCH_SHARE: u32 = 4;

/// With so many commands in flight on this core drives are busy: reading ahead would only take their time from others.
const BUSY_COMMANDS: u32 = 24;

/// Longest read of which a copy is kept: copying a longer one would cost more than it will save.
const FILL_BYTES_MAX: u32 = 64 << 10;

/// Most pages of a read that are looked up.
const READ_PAGES_MAX: usize = 128;

/// A page of this length is the least that drives read at once, and what most hosts' file systems ask for.
const PAGE_BYTES: u32 = 4096;

/// How a command reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Past the cache.
    Past,
    /// By itself.
    Single,
    /// As part of a sequential stream.
    Stream,
}

/// What an engine needs to remember what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadCacheConfig {
    /// Size of the region behind [`Place::Clean`]; about a twentieth of it comes on top, for knowing what is where.
    pub bytes: u32,
    /// How far streams are read ahead of at most; 0 turns that off. Less than two strips counts as two strips, and more than a
    /// quarter of the cache as that.
    pub window_bytes: u32,
}

/// What the cache of an engine has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCacheCounts {
    /// Row reads that no drive was asked for.
    pub hits: u64,
    /// Row reads that went to drives although they might have been answered from here.
    pub misses: u64,
    /// Pages that were read ahead.
    pub prefetched: u64,
    /// Pages that were read ahead and then asked for.
    pub prefetched_used: u64,
    /// Pages that gave way to others.
    pub evicted: u64,
    /// Pages that were forgotten because their row had been written.
    pub stale: u64,
}

impl ReadCacheCounts {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            prefetched: self.prefetched + other.prefetched,
            prefetched_used: self.prefetched_used + other.prefetched_used,
            evicted: self.evicted + other.evicted,
            stale: self.stale + other.stale,
        }
    }
}

/// Where a page's data came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A host asked for it.
    Read,
    /// This piece is about to read it ahead.
    Coming { piece: u32 },
    /// It was read ahead, and nobody has asked for it yet.
    Ahead,
}

/// The clean half of an engine's memory.
#[derive(Debug)]
pub(super) struct ReadCache {
    clean: CleanCache,
    ahead: ReadAhead,
    reads_ahead: bool,
    page_blocks: u32,
    /// Of each page.
    origins: Box<[Origin]>,
    /// What streams will want, in order; at most one range a stream, in blocks of the group.
    wanted: VecDeque<Range<u64>>,
    /// Pieces that may read ahead; their numbers come behind those of all others.
    free_pieces: Vec<u32>,
    first_piece: u32,
    /// Pieces that wait for each of them, in order.
    waiters: Box<[List]>,
    /// Blocks that are being read ahead, and how many may be.
    blocks: u32,
    blocks_max: u32,
    hits: u64,
    misses: u64,
    prefetched: u64,
    prefetched_used: u64,
}

impl ReadCache {
    fn new(config: ReadCacheConfig, geometry: &Geometry, first_piece: u32, scratch_bytes: u32) -> Self {
        let shift = geometry.block().shift();
        let page_blocks = (PAGE_BYTES >> shift).max(1);
        let pages = config.bytes / (page_blocks << shift);
        let limits = CleanLimits {
            pages,
            page_blocks,
            row_blocks: geometry.row_blocks(),
        };
        let least = 2 * geometry.strip_blocks();
        let most = pages / 4 * page_blocks;
        let reads_ahead = config.window_bytes > 0 && least <= most;
        let window = (config.window_bytes >> shift).max(least).min(most);
        Self {
            clean: CleanCache::new(limits),
            ahead: ReadAhead::new(ReadAheadLimits {
                strip_blocks: geometry.strip_blocks(),
                window_blocks_max: if reads_ahead { window } else { 0 },
            }),
            reads_ahead,
            page_blocks,
            origins: vec![Origin::Read; pages as usize].into(),
            wanted: VecDeque::with_capacity(STREAMS_MAX),
            free_pieces: (first_piece..first_piece + PREFETCHES_MAX).rev().collect(),
            first_piece,
            waiters: vec![List::EMPTY; PREFETCHES_MAX as usize].into(),
            blocks: 0,
            blocks_max: (scratch_bytes / SCRATCH_SHARE) >> shift,
            hits: 0,
            misses: 0,
            prefetched: 0,
            prefetched_used: 0,
        }
    }

    /// The pages that a part of a row touches.
    fn pages(&self, row: &RowPiece) -> Range<u32> {
        row.start_blocks / self.page_blocks..(row.start_blocks + row.blocks).div_ceil(self.page_blocks)
    }

    /// Where a page begins in its row, and where it ends there.
    fn extent(&self, page: u32, row_blocks: u32) -> Range<u32> {
        page * self.page_blocks..((page + 1) * self.page_blocks).min(row_blocks)
    }

    /// The pages of the row that lie in a part of it as a whole.
    fn whole_pages(&self, row: &RowPiece, row_blocks: u32) -> Range<u32> {
        let end = row.start_blocks + row.blocks;
        let end = match end == row_blocks {
            true => end.div_ceil(self.page_blocks),
            false => end / self.page_blocks,
        };
        row.start_blocks.div_ceil(self.page_blocks)..end
    }

    fn place(&self, page: PageIndex, block: u32, shift: u32) -> Place {
        let block = self.clean.place_blocks(page) + u64::from(block);
        let offset = u32::try_from(block << shift).expect("the cache's bytes are counted in 32 bits");
        Place::Clean { offset_bytes: offset }
    }

    fn waiters(&mut self, piece: u32) -> &mut List {
        &mut self.waiters[(piece - self.first_piece) as usize]
    }

    /// Reserves the pages of a part of a row for a piece that reads them ahead, those that are not here; which they
    /// are, from the first to the last.
    fn reserve(&mut self, pages: Range<u32>, row: RowIndex, version: u64, piece: u32) -> Option<Range<u32>> {
        let mut reserved: Option<Range<u32>> = None;
        for page in pages {
            let key = PageKey { row, page };
            if self.clean.find(key, version) != Found::Absent {
                continue;
            }
            if let Some(place) = self.clean.insert(key, version) {
                self.origins[place.0 as usize] = Origin::Coming { piece };
                reserved = Some(reserved.map_or(page, |reserved| reserved.start)..page + 1);
            }
        }
        reserved
    }

    /// The page if this piece has reserved it.
    fn reserved(&self, key: PageKey, piece: u32) -> Option<PageIndex> {
        let page = self.clean.coming(key)?;
        (self.origins[page.0 as usize] == Origin::Coming { piece }).then_some(page)
    }
}

impl Engine {
    /// From now on reads are remembered; called once, before the first command.
    ///
    /// `into` and `from` of copies may then be [`Place::Clean`].
    pub fn set_read_cache(&mut self, config: ReadCacheConfig) {
        assert!(self.read_cache.is_none(), "a core remembers what it reads once");
        let first = u32::try_from(self.pieces.len()).expect("pieces_max is 32 bits") - PREFETCHES_MAX;
        if config.bytes >= PAGE_BYTES {
            let scratch = self.scratch.bytes();
            self.read_cache = Some(ReadCache::new(config, &self.geometry, first, scratch));
        }
    }

    /// Forgets all that was read. Harmless without a cache.
    pub fn clear_read_cache(&mut self) {
        let row_blocks = self.geometry.row_blocks();
        if let Some(cache) = &mut self.read_cache {
            cache.clean.clear(row_blocks);
            cache.ahead.clear();
            cache.wanted.clear();
        }
    }

    /// These rows are laid out anew, and nobody is in them: whatever is known of them is of other blocks.
    pub(super) fn forget_rows(&mut self, rows: Range<u64>) {
        if let Some(cache) = &mut self.read_cache {
            for row in rows {
                cache.clean.invalidate(RowIndex(row));
            }
        }
    }

    /// What the cache has done so far; nothing without one.
    pub fn read_cache_counts(&self) -> ReadCacheCounts {
        let Some(cache) = &self.read_cache else {
            return ReadCacheCounts::default();
        };
        let CleanCounts { evicted, stale, .. } = cache.clean.counts();
        ReadCacheCounts {
            hits: cache.hits,
            misses: cache.misses,
            prefetched: cache.prefetched,
            prefetched_used: cache.prefetched_used,
            evicted,
            stale,
        }
    }

    /// Pieces that read ahead at this moment.
    pub(super) fn prefetching(&self) -> u32 {
        let free = |cache: &ReadCache| u32::try_from(cache.free_pieces.len()).expect("at most 32");
        self.read_cache
            .as_ref()
            .map_or(0, |cache| PREFETCHES_MAX - free(cache))
    }

    /// Looks what a read is part of, and notes what will be wanted after it.
    pub(super) fn observe_read(&mut self, request: &Request) -> Reading {
        let (
            Some(cache),
            &Request::CachedRead {
                lba,
                blocks,
                disk_end,
            },
        ) = (&mut self.read_cache, request)
        else {
            return Reading::Past;
        };
        let end = disk_end.0.max(lba.0 + u64::from(blocks));
        let observed = cache.ahead.observe(lba, blocks, &(lba..GroupLba(end)));
        if let Some(Range { start, end }) = observed.prefetch {
            if cache.wanted.len() == STREAMS_MAX {
                cache.wanted.pop_front();
            }
            cache.wanted.push_back(start.0..end.0);
        }
        match observed.is_stream {
            true => Reading::Stream,
            false => Reading::Single,
        }
    }

    /// Answers a read from memory if all of it is here, or lets it wait for what is on its way. False if drives have to be asked.
    pub(super) fn read_from_memory(&mut self, index: u32, out: &mut Vec<Action>) -> bool {
        let piece = self.pieces[index as usize];
        let reading = self.commands[piece.command as usize].reading;
        if reading == Reading::Past || !self.layout.survives(self.lock.members().failed) {
            return false;
        }
        let (row, version) = (piece.row.row, self.lock.version(piece.row.row));
        let cache = self
            .read_cache
            .as_mut()
            .expect("without a cache nothing is read through it");
        let pages = cache.pages(&piece.row);
        let mut here = [PageIndex(0); READ_PAGES_MAX];
        if pages.len() > here.len() {
            cache.misses += 1;
            return false;
        }
        for (here, page) in here.iter_mut().zip(pages.clone()) {
            match cache.clean.find(PageKey { row, page }, version) {
                Found::Here(at) => *here = at,
                Found::Coming(at) => {
                    let Origin::Coming { piece } = cache.origins[at.0 as usize] else {
                        unreachable!("what is coming is being read ahead")
                    };
                    self.await_prefetch(index, piece);
                    return true;
                }
                Found::Absent => {
                    cache.misses += 1;
                    return false;
                }
            }
        }
        cache.hits += 1;
        let shift = self.geometry.block().shift();
        let end = piece.row.start_blocks + piece.row.blocks;
        for (at, page) in here.iter().copied().zip(pages) {
            let reference = match reading {
                Reading::Stream => Reference::Stream,
                Reading::Single | Reading::Past => Reference::Single,
            };
            cache.clean.touch(at, reference);
            let origin = &mut cache.origins[at.0 as usize];
            cache.prefetched_used += u64::from(*origin == Origin::Ahead);
            *origin = Origin::Read;
            let first = (page * cache.page_blocks).max(piece.row.start_blocks);
            let last = ((page + 1) * cache.page_blocks).min(end);
            out.push(Action::Copy {
                into: place(&piece, shift, Area::User(first - piece.row.start_blocks)),
                from: cache.place(at, first % cache.page_blocks, shift),
                bytes: (last - first) << shift,
            });
        }
        self.overlay(index, Target::User, out);
        self.finish(index, Ok(()), out);
        true
    }

    fn await_prefetch(&mut self, index: u32, piece: u32) {
        let waiting = &mut self.pieces[index as usize];
        waiting.state = State::AwaitingPrefetch;
        // Not a lock's slot: what it waits for.
        waiting.slot = piece;
        let cache = self.read_cache.as_mut().expect("only there is something coming");
        self.piece_links.push_back(cache.waiters(piece), index);
    }

    /// A piece that waits for what is read ahead does so no longer.
    pub(super) fn leave_prefetch_queue(&mut self, index: u32) {
        let slot = self.pieces[index as usize].slot;
        let cache = self.read_cache.as_mut().expect("only there is something coming");
        self.piece_links.remove(cache.waiters(slot), index);
    }

    /// The drives have answered a read: what of it is worth keeping is copied, before anything dirty is laid over.
    pub(super) fn remember_read(&mut self, index: u32, out: &mut Vec<Action>) {
        let piece = self.pieces[index as usize];
        let shift = self.geometry.block().shift();
        let keeps = |cache: &ReadCache| match self.commands[piece.command as usize].reading {
            Reading::Past => false,
            Reading::Single => true,
            // It is read ahead instead, and never again.
            Reading::Stream => !cache.reads_ahead,
        };
        let row_blocks = self.row_geometry(index).row_blocks();
        let Some(cache) = self.read_cache.as_mut().filter(|cache| keeps(cache)) else {
            return;
        };
        if piece.row.blocks << shift > FILL_BYTES_MAX || !self.layout.survives(self.lock.members().failed) {
            return;
        }
        let (row, version) = (piece.row.row, self.lock.version(piece.row.row));
        for page in cache.whole_pages(&piece.row, row_blocks) {
            let Some(at) = cache.clean.insert(PageKey { row, page }, version) else {
                continue;
            };
            let extent = cache.extent(page, row_blocks);
            out.push(Action::Copy {
                into: cache.place(at, 0, shift),
                from: place(&piece, shift, Area::User(extent.start - piece.row.start_blocks)),
                bytes: (extent.end - extent.start) << shift,
            });
            cache.origins[at.0 as usize] = Origin::Read;
            cache.clean.filled(at);
        }
    }

    /// Begins to read ahead what a stream will want next. False if nothing is wanted, or nothing can begin now.
    pub(super) fn start_prefetch(&mut self, out: &mut Vec<Action>) -> bool {
        let Some(cache) = self.read_cache.as_mut() else {
            return false;
        };
        let Some(range) = cache.wanted.front_mut() else {
            return false;
        };
        if self.in_flight > BUSY_COMMANDS || !self.scratch_waiters.is_empty() {
            cache.wanted.clear();
            return false;
        }
        let shift = self.geometry.block().shift();
        // Cut where the frontier of an expansion is, as a host's read.
        let mut piece = self
            .layout
            .first_piece(GroupLba(range.start), range.end - range.start);
        let page_blocks = cache.page_blocks;
        let longest = (PREFETCH_BYTES_MAX >> shift).max(page_blocks);
        // It ends where a page does.
        let end = piece.start_blocks + piece.blocks.min(longest);
        if end < piece.start_blocks + piece.blocks && end - end % page_blocks > piece.start_blocks {
            piece.blocks = end - end % page_blocks - piece.start_blocks;
        }
        if cache.blocks + piece.blocks > cache.blocks_max {
            if cache.blocks == 0 {
                cache.wanted.clear();
            }
            return false;
        }
        let Some(index) = cache.free_pieces.pop() else {
            return false;
        };
        range.start += u64::from(piece.blocks);
        if range.is_empty() {
            cache.wanted.pop_front();
        }
        self.prefetch(index, piece, out);
        true
    }

    /// Reads a part of a row ahead, as far as its pages are not here, unless anybody is in the way.
    fn prefetch(&mut self, index: u32, mut row: RowPiece, out: &mut Vec<Action>) {
        let row_blocks = self.layout.geometry_of_row(row.row).row_blocks();
        let cache = self.read_cache.as_mut().expect("only there is reading ahead");
        let kept = self.kept.contains(row.row);
        if kept
            || !self.layout.survives(self.lock.members().failed)
            || !self.lock.try_read(row.row, self.core)
        {
            cache.free_pieces.push(index);
            return;
        }
        let version = self.lock.version(row.row);
        let reserved = cache.reserve(cache.whole_pages(&row, row_blocks), row.row, version, index);
        let Some(reserved) = reserved else {
            cache.free_pieces.push(index);
            let wake = self.lock.release(row.row, Mode::Read);
            return self.tell(wake, row.row, out);
        };
        row.start_blocks = cache.extent(reserved.start, row_blocks).start;
        row.blocks = cache.extent(reserved.end - 1, row_blocks).end - row.start_blocks;
        row.skipped_blocks = 0;
        cache.blocks += row.blocks;
        self.pieces[index as usize] = Piece::new(self.own_command(), Work::Prefetch, row);
        if !self.try_begin(index, true, out) {
            // There is no scratch left, and nobody to wait for some.
            self.finish(index, Err(GroupError::Aborted), out);
        }
    }

    /// What was read ahead is in scratch: it goes to its pages.
    pub(super) fn prefetched(&mut self, index: u32, out: &mut Vec<Action>) {
        let piece = self.pieces[index as usize];
        let row = piece.row.row;
        let shift = self.geometry.block().shift();
        let row_blocks = self.row_geometry(index).row_blocks();
        let cache = self.read_cache.as_mut().expect("only there is reading ahead");
        for page in cache.pages(&piece.row) {
            let Some(at) = cache.reserved(PageKey { row, page }, index) else {
                continue;
            };
            let extent = cache.extent(page, row_blocks);
            out.push(Action::Copy {
                into: cache.place(at, 0, shift),
                from: place(
                    &piece,
                    shift,
                    Area::Scratch(extent.start - piece.row.start_blocks),
                ),
                bytes: (extent.end - extent.start) << shift,
            });
            cache.origins[at.0 as usize] = Origin::Ahead;
            cache.clean.filled(at);
            cache.prefetched += 1;
        }
    }

    /// Reading ahead has ended, well or not, and has given its lock back: whoever waited for it looks again.
    pub(super) fn end_prefetch(&mut self, index: u32) {
        let piece = self.pieces[index as usize];
        let row = piece.row.row;
        // Whoever holds the row for an expansion may wait for this piece.
        self.kept.look |= self.kept.is_held();
        let cache = self.read_cache.as_mut().expect("only there is reading ahead");
        for page in cache.pages(&piece.row) {
            if let Some(at) = cache.reserved(PageKey { row, page }, index) {
                cache.clean.abandon(at);
            }
        }
        cache.blocks -= piece.row.blocks;
        self.pieces[index as usize] = Piece::FREE;
        cache.free_pieces.push(index);
        while let Some(waiting) = cache.waiters(index).first() {
            self.piece_links.remove(cache.waiters(index), waiting);
            self.granted.push_back(waiting);
        }
    }
}
