//! What one send gathers: small header bytes that the batch owns, spans of the arena, ranges of shared memory, and
//! immutable bytes that it holds together with others.

use std::ops::Range;
use std::sync::Arc;

use crate::arena::{Arena, Lending, Span};
use crate::shared_memory::SharedMemory;

/// Segments of one `sendmsg`, at most; longer batches go in pieces.
///
/// Source: Linux, `UIO_MAXIOV` in `include/uapi/linux/uio.h`.
const PIECE_SEGMENTS_MAX: usize = 1024;
/// Shared memories that a batch remembers for its next use.
const SHARED_KEPT_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    /// A range of `SendBatch::header`.
    Header { at: u32, bytes: u32 },
    /// Lent from the core's arena while the batch is in flight.
    Arena(Span),
    /// An index into `SendBatch::shared` and a range there.
    Shared { memory: u16, offset: usize, bytes: u32 },
    /// All of `SendBatch::held` at this index.
    Held { index: u32, bytes: u32 },
}

/// Bytes to send, in order, gathered from several places without copying them together.
///
/// It is filled, given to `Io::send`, and comes back through `Program::sent`; after `clear` it is filled again without
/// allocating. Spans must stay allocated, and should stay unchanged, until it is back.
#[derive(Default)]
pub struct SendBatch {
    header: Vec<u8>,
    segments: Vec<Segment>,
    shared: Vec<Arc<SharedMemory>>,
    /// Nobody changes them while somebody holds them.
    held: Vec<Arc<[u8]>>,
    total_bytes: u64,
    /// Where the part that is not yet sent starts: an index into `segments`, and bytes into that segment.
    next_segment: usize,
    next_byte: u32,
    in_flight: bool,
    iovecs: Vec<libc::iovec>,
    message: Message,
}

/// The `msghdr` that a `sendmsg` in flight refers to.
struct Message(libc::msghdr);

impl Default for Message {
    fn default() -> Self {
        // SAFETY: all bytes zero is a valid msghdr: null pointers with zero lengths.
        Self(unsafe { std::mem::zeroed() })
    }
}

// SAFETY: the raw pointers in `iovecs` and `message` are used only by the kernel while the batch is in flight, when the
// core's reactor owns it; at any other time they are rewritten before use.
unsafe impl Send for SendBatch {}

/// What the kernel is asked to send next.
pub(crate) enum Piece {
    /// One range.
    Bytes { start: *const u8, bytes: u32 },
    /// Several, described by a message.
    Gather(*const libc::msghdr),
}

impl SendBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the contents and keeps the memory.
    pub fn clear(&mut self) {
        assert!(!self.in_flight, "a batch in flight belongs to the reactor");
        self.header.clear();
        self.segments.clear();
        self.held.clear();
        if self.shared.len() > SHARED_KEPT_MAX {
            self.shared.clear();
        }
        self.total_bytes = 0;
        self.next_segment = 0;
        self.next_byte = 0;
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.total_bytes == 0
    }

    /// Bytes that were added.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The bytes that it owns or holds, in order: nobody changes them.
    ///
    /// Panics at what was added by [`Self::push_span`] or [`Self::push_shared`].
    pub fn constant_bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().map(|segment| match *segment {
            Segment::Header { at, bytes } => &self.header[at as usize..(at + bytes) as usize],
            Segment::Held { index, .. } => &self.held[index as usize],
            Segment::Arena(_) | Segment::Shared { .. } => panic!("others may change these bytes"),
        })
    }

    /// Segments that were added, adjacent header bytes counted once.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Appends a copy of `bytes`: for headers and small answers.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.push_with(|header| header.extend_from_slice(bytes));
    }

    /// Appends what `write` appends to the vector that it is given. Panics if `write` takes bytes away.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.header.len();
        write(&mut self.header);
        assert!(
            self.header.len() >= at,
            "earlier bytes belong to earlier segments"
        );
        let bytes = u32::try_from(self.header.len() - at).expect("headers are small");
        let at = u32::try_from(at).expect("a batch has less than 4 GiB of headers");
        if bytes == 0 {
            return;
        }
        self.total_bytes += u64::from(bytes);
        if let Some(Segment::Header {
            at: last,
            bytes: length,
        }) = self.segments.last_mut()
            && *last + *length == at
        {
            *length += bytes;
            return;
        }
        self.segments.push(Segment::Header { at, bytes });
    }

    /// Appends the bytes of a span of the core that will send.
    pub fn push_span(&mut self, span: Span) {
        self.total_bytes += u64::from(span.bytes());
        self.segments.push(Segment::Arena(span));
    }

    /// Appends a range of shared memory, whatever it holds when the kernel copies it. Panics unless it lies inside.
    pub fn push_shared(&mut self, memory: &Arc<SharedMemory>, range: Range<usize>) {
        let _inside = memory.address(range.start, range.len());
        let bytes = u32::try_from(range.len()).expect("a segment is shorter than 4 GiB");
        if bytes == 0 {
            return;
        }
        let known = self.shared.iter().position(|known| Arc::ptr_eq(known, memory));
        let index = known.unwrap_or_else(|| {
            self.shared.push(Arc::clone(memory));
            self.shared.len() - 1
        });
        let memory = u16::try_from(index).expect("a batch gathers from few memories");
        self.total_bytes += u64::from(bytes);
        self.segments.push(Segment::Shared {
            memory,
            offset: range.start,
            bytes,
        });
    }

    /// Appends all of these bytes, which the batch holds until it is cleared.
    pub fn push_held(&mut self, memory: &Arc<[u8]>) {
        let bytes = u32::try_from(memory.len()).expect("a segment is shorter than 4 GiB");
        if bytes == 0 {
            return;
        }
        let index = u32::try_from(self.held.len()).expect("a batch has less than 2^32 segments");
        self.held.push(Arc::clone(memory));
        self.total_bytes += u64::from(bytes);
        self.segments.push(Segment::Held { index, bytes });
    }

    /// Takes the batch over for sending: its spans are lent to the kernel from here.
    pub(crate) fn depart(&mut self, arena: &mut Arena) {
        assert!(!self.in_flight, "a batch is sent once at a time");
        assert!(!self.is_empty(), "an empty batch would never complete");
        self.in_flight = true;
        self.next_segment = 0;
        self.next_byte = 0;
        for segment in &self.segments {
            if let Segment::Arena(span) = segment {
                arena.lend(*span, Lending::ToRead);
            }
        }
    }

    /// Gives the batch back: nothing of it is in flight any more.
    pub(crate) fn arrive(&mut self, arena: &mut Arena) {
        assert!(self.in_flight);
        self.in_flight = false;
        for segment in &self.segments {
            if let Segment::Arena(span) = segment {
                arena.take_back(*span, Lending::ToRead);
            }
        }
    }

    /// Counts `bytes` more as sent; whether that was all. Panics if it is more than there is.
    pub(crate) fn advance(&mut self, bytes: u64) -> bool {
        let mut left = bytes;
        while left > 0 {
            let length = segment_bytes(self.segments[self.next_segment]);
            let rest = u64::from(length - self.next_byte);
            if left < rest {
                self.next_byte += u32::try_from(left).expect("less than a segment");
                return false;
            }
            left -= rest;
            self.next_segment += 1;
            self.next_byte = 0;
        }
        self.next_segment == self.segments.len()
    }

    /// Describes the next part for the kernel. The pointers hold until the batch is cleared or dropped.
    pub(crate) fn piece(&mut self, arena: &Arena) -> Piece {
        assert!(self.in_flight);
        let rest = &self.segments[self.next_segment..];
        let rest = &rest[..rest.len().min(PIECE_SEGMENTS_MAX)];
        self.iovecs.clear();
        for (index, segment) in rest.iter().enumerate() {
            let skip = if index == 0 { self.next_byte } else { 0 };
            let bytes = segment_bytes(*segment) - skip;
            let start: *const u8 = match *segment {
                Segment::Header { at, bytes } => {
                    self.header[at as usize..(at + bytes) as usize][skip as usize..].as_ptr()
                }
                Segment::Arena(span) => arena.lent_address(span.part(skip, bytes)),
                Segment::Shared { memory, offset, .. } => {
                    self.shared[usize::from(memory)].address(offset + skip as usize, bytes as usize)
                }
                Segment::Held { index, .. } => self.held[index as usize][skip as usize..].as_ptr(),
            };
            self.iovecs.push(libc::iovec {
                iov_base: start.cast_mut().cast(),
                iov_len: bytes as usize,
            });
        }
        if let [only] = self.iovecs.as_slice() {
            let bytes = u32::try_from(only.iov_len).expect("a segment is shorter than 4 GiB");
            return Piece::Bytes {
                start: only.iov_base.cast_const().cast(),
                bytes,
            };
        }
        self.message.0.msg_iov = self.iovecs.as_mut_ptr();
        self.message.0.msg_iovlen = self.iovecs.len();
        Piece::Gather(&raw const self.message.0)
    }
}

impl std::fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendBatch")
            .field("segments", &self.segments)
            .field("total_bytes", &self.total_bytes)
            .finish()
    }
}

fn segment_bytes(segment: Segment) -> u32 {
    match segment {
        Segment::Header { bytes, .. } | Segment::Shared { bytes, .. } | Segment::Held { bytes, .. } => bytes,
        Segment::Arena(span) => span.bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that a piece names.
    fn bytes_of(piece: &Piece) -> Vec<u8> {
        let read = |start: *const u8, length: usize| {
            // SAFETY: the batch that made the piece is neither changed nor dropped in these tests meanwhile.
            unsafe { std::slice::from_raw_parts(start, length) }.to_vec()
        };
        match piece {
            Piece::Bytes { start, bytes } => read(*start, *bytes as usize),
            Piece::Gather(message) => {
                // SAFETY: as above.
                let message = unsafe { &**message };
                (0..message.msg_iovlen)
                    .flat_map(|index| {
                        // SAFETY: the message has as many iovecs.
                        let iovec = unsafe { message.msg_iov.add(index) };
                        // SAFETY: as above.
                        let iovec = unsafe { iovec.read() };
                        read(iovec.iov_base.cast_const().cast(), iovec.iov_len)
                    })
                    .collect()
            }
        }
    }

    /// Goal: whatever part the kernel takes each time, all bytes go out once and in order.
    #[test]
    fn pieces_after_any_short_send_continue_where_it_stopped() {
        let mut arena = Arena::map(1, false).unwrap().0;
        let span = arena.alloc(3000).unwrap();
        arena.with_bytes_mut(span, |bytes| {
            bytes.iter_mut().zip((0..=250).cycle()).for_each(|(b, v)| *b = v)
        });
        let memory = Arc::new(SharedMemory::map(4096).unwrap());
        memory.write(0, &[0xEE; 4096]);
        let held: Arc<[u8]> = [0xAA, 0xBB, 0xCC, 0xDD, 0xFF].into();
        let mut batch = SendBatch::new();
        let mut expected = Vec::new();
        for index in 0..1500_u32 {
            let header = index.to_le_bytes();
            batch.push_bytes(&header[..2]);
            batch.push_bytes(&header[2..]); // Joins the segment before it.
            batch.push_span(span.part(index, 3));
            batch.push_shared(&memory, 5..7);
            batch.push_held(&held);
            expected.extend_from_slice(&header);
            arena.with_bytes(span.part(index, 3), |bytes| expected.extend_from_slice(bytes));
            expected.extend_from_slice(&[0xEE; 2]);
            expected.extend_from_slice(&held);
        }
        assert_eq!(
            (batch.segment_count(), batch.total_bytes()),
            (6000, expected.len() as u64)
        );
        for step in [1, 2, 3, 7, 1000, usize::MAX] {
            batch.depart(&mut arena);
            let mut sent = Vec::new();
            loop {
                let piece = bytes_of(&batch.piece(&arena));
                let taken = step.min(piece.len());
                sent.extend_from_slice(&piece[..taken]);
                if batch.advance(taken as u64) {
                    break;
                }
                if step < 1000 && sent.len() > 100 {
                    // Enough small steps: take the rest in large ones.
                    let piece = bytes_of(&batch.piece(&arena));
                    sent.extend_from_slice(&piece);
                    if batch.advance(piece.len() as u64) {
                        break;
                    }
                }
            }
            assert!(sent == expected, "in steps of {step}");
            batch.arrive(&mut arena);
        }
        assert_eq!(Arc::strong_count(&held), 1501, "a batch keeps what it sends");
        batch.clear();
        assert!(batch.is_empty());
        assert_eq!(Arc::strong_count(&held), 1, "a cleared batch holds nothing");
        arena.free(span);
    }

    #[test]
    #[should_panic(expected = "the kernel reads from it")]
    fn spans_of_a_departed_batch_cannot_be_freed() {
        let mut arena = Arena::map(1, false).unwrap().0;
        let span = arena.alloc(100).unwrap();
        let mut batch = SendBatch::new();
        batch.push_span(span);
        batch.depart(&mut arena);
        arena.free(span);
    }

    #[test]
    fn nothing_added_is_nothing() {
        let mut batch = SendBatch::new();
        let memory = Arc::new(SharedMemory::map(1).unwrap());
        batch.push_bytes(&[]);
        batch.push_shared(&memory, 4096..4096);
        batch.push_held(&[].into());
        assert!(batch.is_empty() && batch.segment_count() == 0);
        batch.clear();
    }

    #[test]
    fn bytes_that_nobody_changes_are_read_in_order() {
        let mut batch = SendBatch::new();
        batch.push_bytes(b"head");
        batch.push_held(&b"payload"[..].into());
        batch.push_bytes(b"sum");
        let pieces: Vec<&[u8]> = batch.constant_bytes().collect();
        assert_eq!(pieces, [&b"head"[..], b"payload", b"sum"]);
    }

    #[test]
    #[should_panic(expected = "others may change these bytes")]
    fn bytes_that_others_may_change_are_not_read() {
        let memory = Arc::new(SharedMemory::map(1).unwrap());
        let mut batch = SendBatch::new();
        batch.push_shared(&memory, 0..1);
        batch.constant_bytes().for_each(drop);
    }
}
