//! The DMA memory of one core: one mapping, registered with the ring, handed out as [`Span`]s.
//!
//! Why the safe interface is sound although the kernel writes into the same mapping:
//! - a [`Span`] is two numbers. No reference into the arena outlives the call that makes it (`with_bytes` lends one to a
//!   closure), and methods that change memory take `&mut self`, so Rust code never aliases itself;
//! - the kernel reads and writes only spans that were lent to it. While it may write a granule (512 bytes), that is
//!   counted in `kernel_writes`, and making a reference to any byte of such a granule panics; `free` panics while anything is lent;
//! - the mapping is dropped after the ring, when nothing is in flight.

mod buddy;

use std::io;

use crate::memory::{HUGE_PAGE_BYTES, Mapping, Pages};
use crate::{parity, xor};
use buddy::Buddy;

/// The unit of allocation.
pub const PAGE_BYTES: u32 = 4096;
/// Bytes that are lent to the kernel as one: the smallest logical block of a drive. Parts of one buffer that do not
/// share a granule may be with the kernel and with us at the same time.
pub const GRANULE_BYTES: u32 = 512;
const GRANULES_PER_PAGE: usize = (PAGE_BYTES / GRANULE_BYTES) as usize;

/// A range of bytes in one core's arena: the address that I/O is asked for with.
///
/// It is plain data and `Copy`; whoever called [`Arena::alloc`] sees to it that it is freed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    offset: u32,
    bytes: u32,
}

impl Span {
    /// Bytes from the start of the arena.
    pub fn offset(self) -> u32 {
        self.offset
    }

    /// Length in bytes, not zero.
    pub fn bytes(self) -> u32 {
        self.bytes
    }

    /// `bytes` bytes of this span from `at`. Panics unless they lie inside and are at least one.
    #[must_use]
    pub fn part(self, at: u32, bytes: u32) -> Self {
        assert!(bytes > 0, "an empty span names nothing");
        assert!(at <= self.bytes, "the part starts inside");
        assert!(bytes <= self.bytes - at, "the part ends inside");
        Self {
            offset: self.offset + at,
            bytes,
        }
    }

    pub(crate) fn end(self) -> u32 {
        self.offset + self.bytes
    }

    fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// What the kernel does with a span while it is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lending {
    /// It reads: the memory may be looked at meanwhile.
    ToRead,
    /// It writes.
    ToWrite,
}

/// The DMA memory of one core, with a buddy allocator over it.
///
/// Every method panics when a span is not allocated as a whole: spans are made by our own code only.
pub struct Arena {
    mapping: Mapping,
    buddy: Buddy,
    /// For each granule, how many operations of the kernel may write to it.
    kernel_writes: Vec<u32>,
    /// For each granule, how many operations of the kernel may read from it: a region of zeroes that is the source of
    /// many writes may be in all of them.
    kernel_reads: Vec<u32>,
    xor: xor::Kernels,
    parity: parity::Kernels,
}

impl Arena {
    /// The largest arena: offsets have 32 bits, and a registered buffer at most 1 GiB.
    pub const BYTES_MAX: usize = 3 << 30;
    /// The largest allocation.
    pub const ALLOC_BYTES_MAX: u32 = buddy::BLOCK_BYTES_MAX;

    /// Maps an arena of at least `bytes`, at most `BYTES_MAX`.
    pub(crate) fn map(bytes: usize, huge_pages: bool) -> io::Result<(Self, Pages)> {
        assert!(bytes > 0 && bytes <= Self::BYTES_MAX);
        let bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let (mapping, pages) = Mapping::large(bytes, huge_pages)?;
        let page_count = bytes / PAGE_BYTES as usize;
        let arena = Self {
            mapping,
            buddy: Buddy::new(u32::try_from(page_count).expect("3 GiB has fewer pages than 2^32")),
            kernel_writes: vec![0; bytes / GRANULE_BYTES as usize],
            kernel_reads: vec![0; bytes / GRANULE_BYTES as usize],
            xor: xor::Kernels::detect(),
            parity: parity::Kernels::detect(),
        };
        Ok((arena, pages))
    }

    /// Total bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.mapping.bytes()
    }

    /// Bytes that are allocated, as blocks (powers of two of at least `PAGE_BYTES`).
    pub fn used_bytes(&self) -> usize {
        self.buddy.used_pages() as usize * PAGE_BYTES as usize
    }

    /// Allocates `bytes`, in `1..=ALLOC_BYTES_MAX`, aligned to the next power of two of at least `PAGE_BYTES`.
    ///
    /// The contents are whatever was there. `None` when no block is free: the caller waits for one of its own operations.
    pub fn alloc(&mut self, bytes: u32) -> Option<Span> {
        assert!(bytes > 0 && bytes <= Self::ALLOC_BYTES_MAX);
        let page = self.buddy.alloc(bytes.div_ceil(PAGE_BYTES))?;
        Some(Span {
            offset: page * PAGE_BYTES,
            bytes,
        })
    }

    /// Frees what `alloc` returned. Panics if it was freed already or an operation on it is in flight.
    pub fn free(&mut self, span: Span) {
        assert!(
            span.offset.is_multiple_of(PAGE_BYTES),
            "alloc gave a span that starts a page"
        );
        let (page, page_count) = pages_of(span);
        let (first, count) = (page * GRANULES_PER_PAGE, page_count * GRANULES_PER_PAGE);
        assert!(
            self.kernel_writes[first..first + count]
                .iter()
                .all(|&lent| lent == 0),
            "the kernel writes to it"
        );
        assert!(
            self.kernel_reads[first..first + count]
                .iter()
                .all(|&lent| lent == 0),
            "the kernel reads from it"
        );
        self.buddy
            .free(span.offset / PAGE_BYTES, span.bytes.div_ceil(PAGE_BYTES));
    }

    /// Lends the bytes of `span` to `look`. Panics while the kernel may write to their pages.
    pub fn with_bytes<R>(&self, span: Span, look: impl FnOnce(&[u8]) -> R) -> R {
        let start = self.readable(span);
        // SAFETY: the range is allocated and mapped (`readable`), initialised (the kernel zeroed it), written neither by the
        // kernel (`readable`) nor by Rust code (`&self` is borrowed until the closure returns).
        look(unsafe { std::slice::from_raw_parts(start, span.bytes as usize) })
    }

    /// Lends the bytes of `span` to `change`. Panics while the kernel may write to their pages.
    ///
    /// An operation in flight that reads them (a send, a write) may see the old bytes, the new, or a mixture.
    pub fn with_bytes_mut<R>(&mut self, span: Span, change: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.writable(span);
        // SAFETY: as in `with_bytes`, and `&mut self` excludes any other reference into the arena.
        change(unsafe { std::slice::from_raw_parts_mut(start, span.bytes as usize) })
    }

    /// Copies `bytes` to `at` bytes into `span`.
    pub fn copy_in(&mut self, span: Span, at: u32, bytes: &[u8]) {
        if let Some(part) = part_of(span, at, bytes.len()) {
            self.with_bytes_mut(part, |to| to.copy_from_slice(bytes));
        }
    }

    /// Fills `bytes` from `at` bytes into `span`.
    pub fn copy_out(&self, span: Span, at: u32, bytes: &mut [u8]) {
        if let Some(part) = part_of(span, at, bytes.len()) {
            self.with_bytes(part, |from| bytes.copy_from_slice(from));
        }
    }

    /// Copies `from` to `to`, which are equally long; they may overlap.
    pub fn copy(&mut self, to: Span, from: Span) {
        assert_eq!(to.bytes, from.bytes, "a copy keeps the length");
        let source = self.readable(from);
        let target = self.writable(to);
        // SAFETY: both ranges are mapped, and `ptr::copy` allows overlap; no reference into the arena exists.
        unsafe { std::ptr::copy(source, target, to.bytes as usize) };
    }

    /// Copies what the kernel does not write to of `from` to the same places of `to`: what of a buffer is settled while
    /// a drive that does not answer may still fill the rest. Both start a page and are equally long.
    pub fn copy_settled(&mut self, to: Span, from: Span) {
        assert_eq!(to.bytes, from.bytes, "a copy keeps the length");
        assert!(
            from.offset.is_multiple_of(GRANULE_BYTES) && to.offset.is_multiple_of(GRANULE_BYTES),
            "the granules of both lie alike"
        );
        let (first, count) = granules_of(from);
        let mut at = 0;
        for granule in first..first + count {
            let bytes = GRANULE_BYTES.min(from.bytes - at);
            if self.kernel_writes[granule] == 0 {
                self.copy(to.part(at, bytes), from.part(at, bytes));
            }
            at += bytes;
        }
    }

    /// Fills `span` with zeroes.
    pub fn zero(&mut self, span: Span) {
        self.with_bytes_mut(span, |bytes| bytes.fill(0));
    }

    /// Whether two spans of equal length hold the same bytes.
    pub fn equal(&self, a: Span, b: Span) -> bool {
        assert_eq!(a.bytes, b.bytes, "only spans of one length can be compared");
        self.with_bytes(a, |a| self.with_bytes(b, |b| a == b))
    }

    /// Whether a span holds zeroes only.
    pub fn is_zero(&self, span: Span) -> bool {
        self.with_bytes(span, |bytes| bytes.iter().fold(0, |all, &byte| all | byte) == 0)
    }

    /// Makes `to` the exclusive or of `to` and `from`, equally long and apart.
    pub fn xor(&mut self, to: Span, from: Span) {
        assert_eq!(to.bytes, from.bytes, "operands of one length");
        assert!(!to.overlaps(from), "operands lie apart");
        let source = self.readable(from);
        let target = self.writable(to);
        // SAFETY: both ranges are mapped for `to.bytes`, and the kernel does not write to them.
        unsafe { self.xor.xor_in_place_raw(target, source, to.bytes as usize) };
    }

    /// Makes `to` the exclusive or of `from`: in 1..=`SOURCES_MAX` spans as long as `to` and apart from it.
    pub fn xor_into(&mut self, to: Span, from: &[Span]) {
        let mut sources = [std::ptr::null::<u8>(); xor::SOURCES_MAX];
        let sources = &mut sources[..from.len()];
        for (source, span) in sources.iter_mut().zip(from) {
            assert_eq!(to.bytes, span.bytes, "operands of one length");
            assert!(!to.overlaps(*span), "operands lie apart");
            *source = self.readable(*span);
        }
        let target = self.writable(to);
        // SAFETY: all ranges are mapped for `to.bytes`, and the kernel does not write to them.
        unsafe { self.xor.xor_many_raw(target, sources, to.bytes as usize) };
    }

    /// Adds `factor` times `from` to `into`, byte by byte in GF(2^8) with polynomial 0x11D; equally long and apart.
    pub fn mul_add(&mut self, into: Span, from: Span, factor: u8) {
        self.combine(&[into], &[from], &[factor], true);
    }

    /// Makes each of `outputs` the sum of all `sources`, each times its factor, and with `accumulate` of what it was before:
    /// sums and products of bytes are those of GF(2^8) with polynomial 0x11D.
    ///
    /// `factors` holds one factor a source for the first output, then those for the second, and so on. There are
    /// 1..=`parity::OUTPUTS_MAX` outputs and 1..=`parity::SOURCES_MAX` sources, all equally long; an output lies apart from
    /// the sources and from other outputs.
    pub fn combine(&mut self, outputs: &[Span], sources: &[Span], factors: &[u8], accumulate: bool) {
        assert!(!outputs.is_empty(), "one output at least");
        assert!(
            outputs.len() <= parity::OUTPUTS_MAX,
            "no level has more check strips"
        );
        assert!(sources.len() <= parity::SOURCES_MAX, "no group is wider");
        let bytes = outputs[0].bytes;
        let mut from = [std::ptr::null::<u8>(); parity::SOURCES_MAX];
        let from = &mut from[..sources.len()];
        for (pointer, span) in from.iter_mut().zip(sources) {
            assert_eq!(span.bytes, bytes, "operands of one length");
            *pointer = self.readable(*span);
        }
        let mut to = [std::ptr::null_mut::<u8>(); parity::OUTPUTS_MAX];
        let to = &mut to[..outputs.len()];
        for (index, (pointer, span)) in to.iter_mut().zip(outputs).enumerate() {
            assert_eq!(span.bytes, bytes, "operands of one length");
            let mut others = sources.iter().chain(&outputs[..index]);
            assert!(!others.any(|other| span.overlaps(*other)), "operands lie apart");
            *pointer = self.writable(*span);
        }
        let bytes = bytes as usize;
        // SAFETY: all ranges are mapped for `bytes` bytes, the kernel does not write to them, and outputs lie apart.
        unsafe { self.parity.combine_raw(to, from, factors, bytes, accumulate) };
    }

    /// The address of a span that is about to be lent to the kernel. Panics unless it is allocated.
    pub(crate) fn lend(&mut self, span: Span, lending: Lending) -> *mut u8 {
        let start = self.address(span);
        for lent in self.lent(span, lending) {
            *lent = lent
                .checked_add(1)
                .expect("fewer operations are in flight than 32 bits count");
        }
        start
    }

    /// The address of a span that is lent already. Panics unless it is allocated.
    pub(crate) fn lent_address(&self, span: Span) -> *const u8 {
        self.address(span)
    }

    /// Takes a span back after the kernel's last completion for it.
    pub(crate) fn take_back(&mut self, span: Span, lending: Lending) {
        for lent in self.lent(span, lending) {
            *lent = lent.checked_sub(1).expect("what is taken back was lent");
        }
    }

    /// The whole mapping, as the buffers that are registered with the ring: pieces of at most `REGISTERED_BYTES_MAX`.
    pub(crate) fn registrations(&self) -> Vec<libc::iovec> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < self.mapping.bytes() {
            let bytes = (self.mapping.bytes() - at).min(REGISTERED_BYTES_MAX);
            // SAFETY: `at` is less than the length of the mapping.
            let start = unsafe { self.mapping.start().add(at) };
            pieces.push(libc::iovec {
                iov_base: start.as_ptr().cast(),
                iov_len: bytes,
            });
            at += bytes;
        }
        pieces
    }

    /// Which registered buffer a span lies in. A block is at most 64 MiB and aligned to its size, so it is one.
    pub(crate) fn registration_of(span: Span) -> u16 {
        let index = span.offset as usize / REGISTERED_BYTES_MAX;
        u16::try_from(index).expect("an offset of 32 bits lies in one of four")
    }

    fn lent(&mut self, span: Span, lending: Lending) -> &mut [u32] {
        let (first, count) = granules_of(span);
        match lending {
            Lending::ToRead => &mut self.kernel_reads[first..first + count],
            Lending::ToWrite => &mut self.kernel_writes[first..first + count],
        }
    }

    fn readable(&self, span: Span) -> *const u8 {
        let (first, count) = granules_of(span);
        let start = self.address(span);
        assert!(
            self.kernel_writes[first..first + count]
                .iter()
                .all(|&lent| lent == 0),
            "the kernel writes to it"
        );
        start
    }

    fn writable(&mut self, span: Span) -> *mut u8 {
        self.readable(span).cast_mut()
    }

    /// Panics unless all of `span` is inside of one allocated block.
    fn address(&self, span: Span) -> *mut u8 {
        let (first, count) = pages_of(span);
        assert!(self.buddy.is_allocated(first, count), "the span is not allocated");
        // SAFETY: the buddy knows only pages of the mapping, so `offset` is inside of it.
        unsafe { self.mapping.start().add(span.offset as usize) }.as_ptr()
    }
}

/// The most that one registered buffer may hold.
///
/// Source: io_uring_register(2), `IORING_REGISTER_BUFFERS`: at most 1 GiB for each buffer.
const REGISTERED_BYTES_MAX: usize = 1 << 30;

/// The granules that a span touches: first and count.
fn granules_of(span: Span) -> (usize, usize) {
    let first = span.offset / GRANULE_BYTES;
    let last = (span.end() - 1) / GRANULE_BYTES;
    (first as usize, (last - first) as usize + 1)
}

/// The pages that a span touches: first and count.
fn pages_of(span: Span) -> (usize, usize) {
    let first = span.offset / PAGE_BYTES;
    let last = (span.end() - 1) / PAGE_BYTES;
    (first as usize, (last - first) as usize + 1)
}

/// `None` for no bytes at all. Panics if they do not lie inside.
fn part_of(span: Span, at: u32, bytes: usize) -> Option<Span> {
    let bytes = u32::try_from(bytes).expect("a part is no longer than its span");
    (bytes > 0).then(|| span.part(at, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> Arena {
        Arena::map(1, false).unwrap().0
    }

    #[test]
    fn spans_hold_what_was_copied_in() {
        let mut arena = arena();
        assert_eq!(arena.capacity_bytes(), HUGE_PAGE_BYTES);
        let a = arena.alloc(5000).unwrap();
        let b = arena.alloc(5000).unwrap();
        assert_eq!((a.bytes(), arena.used_bytes()), (5000, 16_384));
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        arena.copy_in(a, 0, &bytes);
        arena.copy_in(b, 100, &bytes[..100]);
        arena.copy_in(b, 5000, &[]);
        let mut out = vec![0; 100];
        arena.copy_out(b, 100, &mut out);
        assert_eq!(out, bytes[..100]);
        assert!(!arena.equal(a, b));
        arena.copy(b, a);
        assert!(arena.equal(a, b));
        arena.copy(a.part(1, 4000), a.part(0, 4000));
        arena.with_bytes(a, |moved| assert_eq!(moved[1..4001], bytes[..4000]));
        arena.zero(a.part(4096, 904));
        assert!(arena.is_zero(a.part(4096, 904)) && !arena.is_zero(a.part(4095, 2)));
        arena.free(a);
        arena.free(b);
        assert_eq!(arena.used_bytes(), 0);
    }

    #[test]
    fn what_is_settled_of_a_buffer_can_be_had_while_the_kernel_writes_the_rest() {
        let mut arena = arena();
        let (from, to) = (arena.alloc(5000).unwrap(), arena.alloc(5000).unwrap());
        arena.with_bytes_mut(from, |bytes| bytes.fill(7));
        arena.with_bytes_mut(to, |bytes| bytes.fill(1));
        let lent = from.part(1024, 1000);
        arena.lend(lent, Lending::ToWrite);
        arena.lend(from.part(4096, 904), Lending::ToRead);
        arena.copy_settled(to, from);
        arena.with_bytes(to, |bytes| {
            for (at, byte) in bytes.iter().enumerate() {
                let written = (1024..2048).contains(&at);
                assert_eq!(*byte, if written { 1 } else { 7 }, "byte {at}");
            }
        });
        arena.take_back(lent, Lending::ToWrite);
        arena.take_back(from.part(4096, 904), Lending::ToRead);
    }

    #[test]
    fn parity_of_spans_regenerates_a_lost_one() {
        let mut arena = arena();
        let data: Vec<Span> = (0..5_u8)
            .map(|index| {
                let span = arena.alloc(4096).unwrap();
                arena.with_bytes_mut(span, |bytes| {
                    bytes
                        .iter_mut()
                        .zip(0_u8..=255)
                        .for_each(|(byte, at)| *byte = at.wrapping_mul(index + 3));
                });
                span
            })
            .collect();
        let parity = arena.alloc(4096).unwrap();
        let rebuilt = arena.alloc(4096).unwrap();
        arena.xor_into(parity, &data);
        arena.xor_into(rebuilt, &[parity, data[0], data[1], data[3], data[4]]);
        assert!(arena.equal(rebuilt, data[2]));
        for span in &data {
            arena.xor(parity, *span);
        }
        assert!(arena.is_zero(parity));
    }

    /// A row of three data strips with P and Q: P and Q follow a changed strip, then two lost strips come back from them.
    #[test]
    fn check_spans_follow_changes_and_regenerate_two_lost_ones() {
        let mut arena = arena();
        let [a, b, c, p, q, x, y] = [(); 7].map(|()| arena.alloc(4096).unwrap());
        for (span, step) in [(a, 3), (b, 5), (c, 7)] {
            arena.with_bytes_mut(span, |bytes| {
                bytes
                    .iter_mut()
                    .zip((0_u8..=255).cycle())
                    .for_each(|(byte, at)| *byte = at.wrapping_mul(step) ^ step);
            });
        }
        arena.combine(&[p, q], &[a, b, c], &[1, 1, 1, 1, 2, 4], false);
        // Strip c changes: both check spans get old and new times the column's factor.
        arena.copy(x, c);
        arena.with_bytes_mut(c, |bytes| bytes[100..900].fill(0x5A));
        arena.xor(x, c);
        arena.mul_add(p, x, 1);
        arena.mul_add(q, x, 4);
        arena.combine(&[x, y], &[a, b, c], &[1, 1, 1, 1, 2, 4], false);
        assert!(arena.equal(p, x) && arena.equal(q, y));
        // a and b lost: P + c = a + b and Q + 4c = a + 2b, so b = (P + Q + 5c) / 3 and a = P + c + b; 1/3 is 0xF4, 5/3 is 3.
        arena.combine(&[x, y], &[p, q, c], &[0xF5, 0xF4, 2, 0xF4, 0xF4, 3], false);
        assert!(arena.equal(y, b) && arena.equal(x, a));
    }

    #[test]
    #[should_panic(expected = "the kernel writes to it")]
    fn computing_with_what_the_kernel_writes_panics() {
        let mut arena = arena();
        let span = arena.alloc(8192).unwrap();
        arena.lend(span.part(4096, 512), Lending::ToWrite);
        arena.mul_add(span.part(0, 4096), span.part(4096, 4096), 2);
    }

    #[test]
    #[should_panic(expected = "operands lie apart")]
    fn overlapping_outputs_panic() {
        let mut arena = arena();
        let span = arena.alloc(16_384).unwrap();
        let (a, b) = (span.part(0, 4096), span.part(4095, 4096));
        arena.combine(&[a, b], &[span.part(12_288, 4096)], &[1, 2], false);
    }

    #[test]
    fn an_exhausted_arena_says_so() {
        let mut arena = arena();
        let all: Vec<Span> = (0..512).map(|_| arena.alloc(1).unwrap()).collect();
        assert_eq!(arena.alloc(1), None);
        all.into_iter().for_each(|span| arena.free(span));
        assert!(arena.alloc(2 << 20).is_some());
    }

    /// Blocks of 512 bytes: one drive writes a part of a page while parity is computed in another part.
    #[test]
    fn granules_of_one_page_are_lent_on_their_own() {
        let mut arena = arena();
        let page = arena.alloc(4096).unwrap();
        arena.lend(page.part(0, 512), Lending::ToWrite);
        arena.zero(page.part(512, 3584));
        arena.xor(page.part(512, 512), page.part(1024, 512));
        arena.take_back(page.part(0, 512), Lending::ToWrite);
        arena.free(page);
    }

    #[test]
    fn lent_spans_come_back() {
        let mut arena = arena();
        let span = arena.alloc(8192).unwrap();
        arena.lend(span, Lending::ToRead);
        arena.lend(span.part(0, 1), Lending::ToRead);
        arena.with_bytes(span, |_| ()); // The kernel only reads.
        arena.take_back(span, Lending::ToRead);
        arena.take_back(span.part(0, 1), Lending::ToRead);
        arena.lend(span.part(4096, 512), Lending::ToWrite);
        arena.zero(span.part(0, 4096)); // Another page than the lent one.
        arena.take_back(span.part(4096, 512), Lending::ToWrite);
        arena.free(span);
    }

    #[test]
    #[should_panic(expected = "the kernel writes to it")]
    fn looking_at_what_the_kernel_writes_panics() {
        let mut arena = arena();
        let span = arena.alloc(8192).unwrap();
        arena.lend(span.part(8191, 1), Lending::ToWrite);
        arena.with_bytes(span, |_| ());
    }

    #[test]
    #[should_panic(expected = "the span is not allocated")]
    fn freed_spans_name_nothing() {
        let mut arena = arena();
        let span = arena.alloc(8192).unwrap();
        arena.free(span);
        arena.zero(span);
    }

    #[test]
    #[should_panic(expected = "the part ends inside")]
    fn parts_stay_inside() {
        let span = Span {
            offset: 4096,
            bytes: 100,
        };
        let _outside = span.part(50, 51);
    }

    #[test]
    #[should_panic(expected = "operands lie apart")]
    fn overlapping_operands_panic() {
        let mut arena = arena();
        let span = arena.alloc(8192).unwrap();
        arena.xor(span.part(0, 4096), span.part(1, 4096));
    }

    #[test]
    fn large_arenas_are_registered_in_pieces_that_no_block_straddles() {
        let arena = Arena::map(REGISTERED_BYTES_MAX + 1, false).unwrap().0;
        let lengths: Vec<usize> = arena.registrations().iter().map(|piece| piece.iov_len).collect();
        assert_eq!(lengths, [REGISTERED_BYTES_MAX, HUGE_PAGE_BYTES]);
        assert_eq!(
            Arena::registration_of(Span {
                offset: (1 << 30) - 1,
                bytes: 1
            }),
            0
        );
        assert_eq!(
            Arena::registration_of(Span {
                offset: 1 << 30,
                bytes: 1
            }),
            1
        );
    }
}
