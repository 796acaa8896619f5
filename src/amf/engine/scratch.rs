//! The allocator of a core's scratch region.
//!
//! First fit over the free extents, which are kept in order and merged. When everything is given back
//! the region is whole again, so the first in line gets its turn however large its wish.

/// Allocations start at multiples of this many bytes, as direct I/O may ask.
const ALIGN_BYTES: u32 = 4096;

/// A part of the scratch region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// From the start of the region.
    pub offset_bytes: u32,
    /// Length, a multiple of the alignment.
    pub bytes: u32,
}

#[derive(Debug)]
pub struct Scratch {
    /// Ascending, never adjacent. At most one more than there are spans in use.
    free: Vec<Span>,
}

impl Scratch {
    /// A region of `bytes` bytes from which at most `spans_max` spans are in use at a time.
    pub fn new(bytes: u32, spans_max: u32) -> Self {
        let mut free = Vec::with_capacity(spans_max as usize + 1);
        free.push(Span {
            offset_bytes: 0,
            bytes: bytes - bytes % ALIGN_BYTES,
        });
        Self { free }
    }

    /// Size of what is free.
    pub fn bytes(&self) -> u32 {
        self.free.iter().map(|span| span.bytes).sum()
    }

    pub fn alloc(&mut self, bytes: u32) -> Option<Span> {
        assert!(bytes > 0, "an empty span has no place");
        let bytes = bytes.checked_next_multiple_of(ALIGN_BYTES)?;
        let index = self.free.iter().position(|extent| extent.bytes >= bytes)?;
        let extent = &mut self.free[index];
        let span = Span {
            offset_bytes: extent.offset_bytes,
            bytes,
        };
        extent.offset_bytes += bytes;
        extent.bytes -= bytes;
        if extent.bytes == 0 {
            self.free.remove(index);
        }
        Some(span)
    }

    pub fn free(&mut self, span: Span) {
        let end = span.offset_bytes + span.bytes;
        let index = self
            .free
            .partition_point(|extent| extent.offset_bytes < span.offset_bytes);
        let before = index.checked_sub(1).map(|before| self.free[before]);
        assert!(
            before.is_none_or(|before| before.offset_bytes + before.bytes <= span.offset_bytes),
            "a span that is given back was in use"
        );
        let after = self.free.get(index).copied();
        assert!(
            after.is_none_or(|after| end <= after.offset_bytes),
            "a span that is given back was in use"
        );
        let joins_before =
            before.is_some_and(|before| before.offset_bytes + before.bytes == span.offset_bytes);
        let joins_after = after.is_some_and(|after| after.offset_bytes == end);
        match (joins_before, joins_after) {
            (true, true) => {
                let after = self.free.remove(index);
                self.free[index - 1].bytes += span.bytes + after.bytes;
            }
            (true, false) => self.free[index - 1].bytes += span.bytes,
            (false, true) => {
                self.free[index].offset_bytes = span.offset_bytes;
                self.free[index].bytes += span.bytes;
            }
            (false, false) => self.free.insert(index, span),
        }
    }

    /// Whether all of the region is free.
    #[cfg(test)]
    pub fn is_whole(&self, bytes: u32) -> bool {
        self.free
            == [Span {
                offset_bytes: 0,
                bytes: bytes - bytes % ALIGN_BYTES,
            }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random allocations never overlap, and the region is whole once all are back.
    #[test]
    fn spans_never_overlap_and_come_together_again() {
        let bytes = 64 * ALIGN_BYTES + 17;
        let mut scratch = Scratch::new(bytes, 64);
        let room = scratch.free.capacity();
        let mut used: Vec<Span> = Vec::new();
        let mut seed = 7_u32;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pick = seed >> 16;
            if pick % 5 < 3 {
                if let Some(span) = scratch.alloc(1 + pick % (9 * ALIGN_BYTES)) {
                    assert!(span.offset_bytes + span.bytes <= bytes && span.offset_bytes % ALIGN_BYTES == 0);
                    for other in &used {
                        let apart = span.offset_bytes + span.bytes <= other.offset_bytes
                            || other.offset_bytes + other.bytes <= span.offset_bytes;
                        assert!(apart, "{span:?} overlaps {other:?}");
                    }
                    used.push(span);
                }
            } else if !used.is_empty() {
                scratch.free(used.swap_remove(pick as usize % used.len()));
            }
        }
        for span in used {
            scratch.free(span);
        }
        assert!(scratch.is_whole(bytes));
        assert_eq!(scratch.free.capacity(), room, "no allocation in steady state");
    }

    #[test]
    #[should_panic(expected = "was in use")]
    fn giving_back_twice_is_a_bug() {
        let mut scratch = Scratch::new(8 * ALIGN_BYTES, 8);
        let span = scratch.alloc(5).expect("all is free");
        scratch.free(span);
        scratch.free(span);
    }

    #[test]
    fn a_wish_beyond_what_is_free_waits() {
        let mut scratch = Scratch::new(4 * ALIGN_BYTES, 8);
        let first = scratch.alloc(3 * ALIGN_BYTES).expect("all is free");
        assert_eq!(scratch.alloc(2 * ALIGN_BYTES), None);
        assert_eq!(scratch.alloc(u32::MAX), None);
        scratch.free(first);
        assert!(scratch.alloc(4 * ALIGN_BYTES).is_some());
    }
}
