//! Memory that every core may read and write at any time: what a drive made of memory is made of.

use std::io;

use crate::arena::{Arena, Span};
use crate::memory::Mapping;

/// A sparse anonymous mapping, zero where nothing was written, shared by reference count.
///
/// It promises what a drive promises: a byte holds the last value that was written to it, and two accesses of the same
/// bytes at the same time give any mixture. Only raw copies touch it; no reference into it ever exists.
#[derive(Debug)]
pub struct SharedMemory {
    mapping: Mapping,
}

// SAFETY: all access goes through `copy_nonoverlapping` on raw pointers inside of the mapping, never through references.
// Racing copies give mixed bytes, which are as valid as any other bytes and never decide what our own code does with
// memory; who needs one order (the row locks, for a group) keeps it outside.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps `bytes`, at least one; pages are allocated when they are first written.
    pub fn map(bytes: usize) -> io::Result<Self> {
        if bytes == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Self {
            mapping: Mapping::ordinary(bytes.next_multiple_of(4096), true)?,
        })
    }

    /// Length in bytes, a multiple of 4096.
    pub fn len(&self) -> usize {
        self.mapping.bytes()
    }

    /// Never: there is no mapping without pages.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Copies bytes from `offset` to all of `to`. Panics unless they lie inside.
    pub fn copy_to(&self, offset: usize, arena: &mut Arena, to: Span) {
        let source = self.address(offset, to.bytes() as usize);
        arena.with_bytes_mut(to, |target| {
            // SAFETY: the source is inside of this mapping, the target inside of another; bytes need no alignment.
            unsafe { std::ptr::copy_nonoverlapping(source, target.as_mut_ptr(), target.len()) };
        });
    }

    /// Copies all of `from` to `offset`. Panics unless it lies inside.
    pub fn copy_from(&self, offset: usize, arena: &Arena, from: Span) {
        arena.with_bytes(from, |source| self.write(offset, source));
    }

    /// Copies `bytes` to `offset`. Panics unless they lie inside.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let target = self.address(offset, bytes.len());
        // SAFETY: the target is inside of this mapping, to which no slice can refer; bytes need no alignment.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }

    /// Copies from `offset` to all of `bytes`. Panics unless they lie inside.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let source = self.address(offset, bytes.len());
        // SAFETY: the source is inside of this mapping, to which no slice can refer; bytes need no alignment.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Makes `bytes` bytes from `offset` zero and gives whole pages back to the system. Panics unless they lie inside.
    pub fn zero(&self, offset: usize, bytes: usize) {
        let start = self.address(offset, bytes);
        let head = start.align_offset(4096).min(bytes);
        let pages = (bytes - head) & !4095;
        // SAFETY: the first `head` bytes of the range are inside of the mapping.
        unsafe { std::ptr::write_bytes(start, 0, head) };
        if pages > 0 {
            // SAFETY: `head` is inside of the range.
            let first = unsafe { start.add(head) };
            // SAFETY: whole pages of our own private anonymous mapping: the kernel replaces them by zeroes.
            let status = unsafe { libc::madvise(first.cast(), pages, libc::MADV_DONTNEED) };
            assert_eq!(status, 0, "the pages are mapped, anonymous and not locked");
        }
        // SAFETY: `head + pages` is at most `bytes`.
        let tail = unsafe { start.add(head + pages) };
        // SAFETY: the rest of the range is inside of the mapping.
        unsafe { std::ptr::write_bytes(tail, 0, bytes - head - pages) };
    }

    /// The address of `bytes` bytes at `offset`. Panics unless they lie inside.
    pub(crate) fn address(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset <= self.len(), "the range starts inside");
        assert!(bytes <= self.len() - offset, "the range ends inside");
        // SAFETY: `offset` is at most the length of the mapping.
        unsafe { self.mapping.start().add(offset) }.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn zeroing_any_range_leaves_the_rest() {
        let memory = SharedMemory::map(20_000).unwrap();
        assert_eq!(memory.len(), 20_480);
        for (offset, bytes) in [
            (0, 0),
            (0, 20_480),
            (1, 100),
            (4096, 4096),
            (4095, 4098),
            (5000, 15_480),
            (20_480, 0),
        ] {
            memory.write(0, &vec![0xFF; 20_480]);
            memory.zero(offset, bytes);
            let mut all = vec![0; 20_480];
            memory.read(0, &mut all);
            for (at, byte) in all.iter().enumerate() {
                assert_eq!(
                    *byte == 0,
                    (offset..offset + bytes).contains(&at),
                    "byte {at} of {offset} + {bytes}"
                );
            }
        }
    }

    #[test]
    fn spans_go_to_and_fro() {
        let memory = SharedMemory::map(8192).unwrap();
        let mut arena = Arena::map(1, false).unwrap().0;
        let (a, b) = (arena.alloc(4096).unwrap(), arena.alloc(4096).unwrap());
        arena.copy_in(a, 0, b"hello");
        memory.copy_from(4096, &arena, a);
        memory.copy_to(4096, &mut arena, b);
        assert!(arena.equal(a, b));
    }

    #[test]
    fn threads_share_it() {
        let memory = Arc::new(SharedMemory::map(4 * 4096).unwrap());
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let memory = Arc::clone(&memory);
                scope.spawn(move || {
                    (0..100).for_each(|_| memory.write(usize::from(thread) * 4096, &[thread; 4096]))
                });
            }
        });
        for thread in 0..4_u8 {
            let mut page = [9; 4096];
            memory.read(usize::from(thread) * 4096, &mut page);
            assert!(page.iter().all(|byte| *byte == thread));
        }
    }

    #[test]
    #[should_panic(expected = "the range ends inside")]
    fn ranges_stay_inside() {
        SharedMemory::map(4096).unwrap().write(4000, &[0; 97]);
    }
}
