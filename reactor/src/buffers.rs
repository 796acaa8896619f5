//! The buffers that a core's sockets receive into: the kernel picks one when bytes arrive, and gets it back at once.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::memory::Mapping;
use crate::ring::Ring;

/// The only group of buffers of a ring.
pub(crate) const GROUP: u16 = 0;

/// The buffers and the ring of those that the kernel may fill.
pub(crate) struct Buffers {
    /// `count` entries of 16 bytes; the ring's tail overlays a reserved field of the first.
    entries: Mapping,
    data: Mapping,
    count: u16,
    bytes_each: u32,
    tail: u16,
}

impl Buffers {
    /// Maps and registers `count` buffers, a power of two.
    pub(crate) fn register(ring: &Ring, count: u16, bytes_each: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two());
        let entries = Mapping::ordinary(usize::from(count) * size_of::<BufRingEntry>(), false)?;
        let data = Mapping::ordinary(usize::from(count) * bytes_each as usize, false)?;
        let address = entries.start().as_ptr().addr() as u64;
        // SAFETY: the mapping is page-aligned, holds `count` entries, and is unmapped after the ring is gone.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, count, GROUP, 0)
        }?;
        let mut buffers = Self {
            entries,
            data,
            count,
            bytes_each,
            tail: 0,
        };
        for buffer in 0..count {
            buffers.recycle(buffer);
        }
        Ok(buffers)
    }

    /// The first `bytes` bytes of a buffer that the kernel filled. Panics if it does not have as many.
    pub(crate) fn filled(&self, buffer: u16, bytes: u32) -> &[u8] {
        assert!(bytes <= self.bytes_each, "the kernel fills a buffer at most");
        // SAFETY: the buffer lies inside of the mapping.
        let start = unsafe { self.data.start().add(self.position(buffer)) };
        // SAFETY: the range is mapped and initialised (zeroed once), and the kernel does not write to a buffer between its
        // completion and `recycle`, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes as usize) }
    }

    /// Gives a buffer (back) to the kernel.
    pub(crate) fn recycle(&mut self, buffer: u16) {
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: `place` is less than `count`, for which there are entries.
        let entry = unsafe { self.entries.start().cast::<BufRingEntry>().add(place) };
        // SAFETY: the buffer lies inside of the mapping.
        let start = unsafe { self.data.start().add(self.position(buffer)) };
        // SAFETY: the entry is mapped, initialised (zeroed), and ours until the tail moves past it: there are as many
        // entries as buffers, so the kernel has consumed what was here. The first entry's tail is not one of these fields.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(start.as_ptr().addr() as u64);
        entry.set_len(self.bytes_each);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.shared_tail().store(self.tail, Ordering::Release); // The kernel reads the entry after it saw the tail.
    }

    fn shared_tail(&self) -> &AtomicU16 {
        let first = self.entries.start().cast::<BufRingEntry>().as_ptr();
        // SAFETY: `first` is the first entry of the ring and initialised.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the tail is mapped, aligned to two bytes, and shared with the kernel, which only reads it.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }
    }

    fn position(&self, buffer: u16) -> usize {
        assert!(buffer < self.count, "the kernel names buffers that it was given");
        usize::from(buffer) * self.bytes_each as usize
    }
}
