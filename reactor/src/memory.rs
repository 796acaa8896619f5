//! Anonymous mappings: the only place that maps and unmaps memory.

use std::io;
use std::ptr::{self, NonNull};

/// Size of a huge page, and the alignment of every huge mapping.
///
/// Source: x86-64 and arm64 with 4 KiB base pages: the second level of the page table maps 2 MiB.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Which pages a mapping lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Explicit huge pages, reserved by the administrator.
    Huge,
    /// Ordinary pages that the kernel was advised to join.
    Advised,
    /// Ordinary pages.
    Ordinary,
}

/// Zeroed private memory that nobody else maps; unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is a range of addresses of the process, not of a thread: whoever owns the value may use and unmap it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `bytes` on ordinary pages, without reserving swap for them when `sparse`.
    pub(crate) fn ordinary(bytes: usize, sparse: bool) -> io::Result<Self> {
        let sparse = if sparse { libc::MAP_NORESERVE } else { 0 };
        Self::map(bytes, sparse)
    }

    /// Maps `bytes`, a multiple of `HUGE_PAGE_BYTES`, on the largest pages to be had, aligned to a huge page.
    pub(crate) fn large(bytes: usize, huge_pages: bool) -> io::Result<(Self, Pages)> {
        assert!(bytes > 0 && bytes.is_multiple_of(HUGE_PAGE_BYTES));
        if !huge_pages {
            return Ok((Self::aligned(bytes)?, Pages::Ordinary));
        }
        if let Ok(mapping) = Self::map(bytes, libc::MAP_HUGETLB | libc::MAP_POPULATE) {
            return Ok((mapping, Pages::Huge));
        }
        let mapping = Self::aligned(bytes)?;
        // SAFETY: the range is exactly the mapping that we own; the advice changes no contents.
        let status = unsafe { libc::madvise(mapping.start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        Ok((
            mapping,
            if status == 0 {
                Pages::Advised
            } else {
                Pages::Ordinary
            },
        ))
    }

    /// Maps ordinary pages whose start is aligned to a huge page, by cutting a larger mapping to size.
    fn aligned(bytes: usize) -> io::Result<Self> {
        let wide = Self::map(bytes + HUGE_PAGE_BYTES, 0)?;
        let head = wide.start.as_ptr().align_offset(HUGE_PAGE_BYTES);
        assert!(head < HUGE_PAGE_BYTES);
        let (start, total) = (wide.start, wide.bytes);
        std::mem::forget(wide); // Its parts are unmapped below, or handed on.
        // SAFETY: `head` is less than the length of the mapping.
        let kept = unsafe { start.add(head) };
        // SAFETY: `head + bytes` is at most `total`.
        let tail = unsafe { kept.add(bytes) };
        unmap(start, head);
        unmap(tail, total - head - bytes);
        Ok(Self { start: kept, bytes })
    }

    fn map(bytes: usize, flags: libc::c_int) -> io::Result<Self> {
        assert!(bytes > 0);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: without MAP_FIXED the kernel chooses a free range: no existing memory is affected.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("mmap never gives the zero page unasked");
        Ok(Self { start, bytes })
    }

    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The length.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.start, self.bytes);
    }
}

fn unmap(start: NonNull<u8>, bytes: usize) {
    if bytes == 0 {
        return;
    }
    // SAFETY: both callers pass whole pages of a mapping of their own, which nothing refers to any more.
    let status = unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    assert_eq!(status, 0, "the range is a mapping of ours");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_mappings_are_aligned_and_zeroed() {
        for huge in [false, true] {
            let (mapping, pages) = Mapping::large(2 * HUGE_PAGE_BYTES, huge).unwrap();
            assert!(huge || pages == Pages::Ordinary);
            assert_eq!(mapping.start().as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
            for at in (0..mapping.bytes()).step_by(4096) {
                // SAFETY: `at` is inside of the mapping.
                let byte = unsafe { mapping.start().add(at) };
                // SAFETY: as above, and nobody else uses the mapping.
                assert_eq!(unsafe { byte.read() }, 0);
            }
        }
    }
}
