//! The frames that one node owes to another: a ring of bytes, and the end of each frame in it.
//!
//! Owns what is not acknowledged, sent or not, in the form in which it leaves; long payload that others share is held, not
//! copied. Invariants: frames are whole; no memory is taken after [`Queue::new`], and what is held counts as if it were in
//! the ring; what is put in front of the ring's end leaves in two pieces.

use std::collections::{VecDeque, vec_deque};
use std::sync::Arc;

use super::name::Address;
use super::outbox::Piece;
use super::packet::{FRAME_HEADER_BYTES, encode_frame_header};

/// Payload of a message, in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    copied: &'a [&'a [u8]],
    shared: Option<&'a Arc<[u8]>>,
}

impl<'a> Payload<'a> {
    /// Copied from pieces.
    pub const fn copied(pieces: &'a [&'a [u8]]) -> Self {
        Self {
            copied: pieces,
            shared: None,
        }
    }

    /// With this after them, which is held, not copied, until the peer has it.
    pub const fn with(self, shared: Option<&'a Arc<[u8]>>) -> Self {
        Self { shared, ..self }
    }
}

/// One message in the queue.
#[derive(Debug)]
struct Frame {
    /// Where the ring has the byte after its last one there.
    end: u64,
    /// Its bytes in the ring, its header included.
    own_bytes: u32,
    /// What follows them.
    shared: Option<Arc<[u8]>>,
}

impl Frame {
    fn bytes(&self) -> u32 {
        let shared = self.shared.as_ref().map_or(0, |shared| shared.len());
        self.own_bytes + u32::try_from(shared).expect("shorter than a packet")
    }
}

/// See the module.
#[derive(Debug)]
pub struct Queue {
    ring: Box<[u8]>,
    /// Bytes that were put in since the start; their places in the ring are the remainders.
    head: u64,
    /// Of all frames, what is held included.
    bytes: usize,
    /// The oldest first.
    frames: VecDeque<Frame>,
    frames_max: usize,
}

impl Queue {
    /// An empty queue for so many bytes of frames, their headers included, and so many frames.
    pub fn new(bytes_max: u32, frames_max: u32) -> Self {
        assert!(bytes_max > 0 && frames_max > 0, "a queue has room");
        Self {
            ring: vec![0; bytes_max as usize].into_boxed_slice(),
            head: 0,
            bytes: 0,
            frames: VecDeque::with_capacity(frames_max as usize),
            frames_max: frames_max as usize,
        }
    }

    /// Forgets all frames and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes = 0;
        self.frames.clear();
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of all frames.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether not more than half of it is in use.
    pub fn is_half_empty(&self) -> bool {
        self.bytes() <= self.ring.len() / 2 && self.frames() <= self.frames_max / 2
    }

    /// Appends one message. False, and nothing is appended, if it does not fit now.
    ///
    /// Panics if the payload is longer than a packet can have.
    pub fn push(&mut self, address: Address, kind: u16, payload: Payload<'_>) -> bool {
        let Payload { copied, shared } = payload;
        let copied_bytes: usize = copied.iter().map(|piece| piece.len()).sum();
        let payload_bytes = copied_bytes + shared.map_or(0, |shared| shared.len());
        let header = encode_frame_header(address, kind, payload_bytes);
        let frame_bytes = FRAME_HEADER_BYTES + payload_bytes;
        if self.frames() == self.frames_max || self.ring.len() - self.bytes() < frame_bytes {
            return false;
        }
        self.put(&header);
        for piece in copied {
            self.put(piece);
        }
        self.frames.push_back(Frame {
            end: self.head,
            own_bytes: u32::try_from(FRAME_HEADER_BYTES + copied_bytes).expect("shorter than a packet"),
            shared: shared.map(Arc::clone),
        });
        self.bytes += frame_bytes;
        assert!(self.bytes() <= self.ring.len(), "nothing is written over");
        true
    }

    fn place(&self, position: u64) -> usize {
        usize::try_from(position % self.ring.len() as u64).expect("inside the ring")
    }

    fn put(&mut self, bytes: &[u8]) {
        let at = self.place(self.head);
        let (first, second) = bytes.split_at(bytes.len().min(self.ring.len() - at));
        self.ring[at..at + first.len()].copy_from_slice(first);
        self.ring[..second.len()].copy_from_slice(second);
        self.head += bytes.len() as u64;
    }

    /// Lengths of the frames from this one on; the oldest is 0.
    pub fn lengths_from(&self, frame: usize) -> impl Iterator<Item = u32> + '_ {
        self.frames.range(frame..).map(Frame::bytes)
    }

    /// So many frames from this one on, in as few pieces as they lie in; the oldest is 0.
    ///
    /// Panics if they are not there.
    pub fn pieces(&self, frame: usize, frames: usize) -> Pieces<'_> {
        let first = self.frames.get(frame);
        let at = first.map_or(0, |first| first.end - u64::from(first.own_bytes));
        Pieces {
            queue: self,
            frames: self.frames.range(frame..frame + frames),
            at,
            end: at,
            shared: None,
        }
    }

    /// Takes the oldest frame out; its length. Panics if there is none.
    pub fn pop(&mut self) -> u32 {
        let frame = self.frames.pop_front().expect("a frame is acknowledged once");
        self.bytes -= frame.bytes() as usize;
        frame.bytes()
    }
}

/// What lies where, of some frames.
pub struct Pieces<'a> {
    queue: &'a Queue,
    /// Those that are not begun.
    frames: vec_deque::Iter<'a, Frame>,
    /// What comes next out of the ring, and after that.
    at: u64,
    end: u64,
    shared: Option<&'a Arc<[u8]>>,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.at == self.end {
            if let Some(shared) = self.shared.take() {
                return Some(Piece::Shared(shared));
            }
            // As far as the ring has one frame after the other.
            while self.shared.is_none()
                && let Some(frame) = self.frames.next()
            {
                (self.end, self.shared) = (frame.end, frame.shared.as_ref());
            }
        }
        let ring = &self.queue.ring;
        let start = self.queue.place(self.at);
        let left = usize::try_from(self.end - self.at).expect("no more than the ring has");
        let piece = &ring[start..ring.len().min(start + left)];
        self.at += piece.len() as u64;
        (!piece.is_empty()).then_some(Piece::Own(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(pieces: Pieces<'_>) -> Vec<u8> {
        pieces.flat_map(|piece| piece.bytes().iter().copied()).collect()
    }

    #[test]
    fn what_is_shared_is_held_and_not_copied() {
        let shared: Arc<[u8]> = vec![3; 30].into();
        let mut queue = Queue::new(64, 4);
        assert!(queue.push(Address::Node, 1, Payload::copied(&[&[1]])));
        assert!(queue.push(Address::Node, 2, Payload::copied(&[&[2, 2]]).with(Some(&shared))));
        assert!(
            !queue.push(Address::Node, 3, Payload::copied(&[&[4; 8]])),
            "15 bytes are left"
        );
        assert!(queue.push(Address::Node, 3, Payload::copied(&[&[4]])));
        let pieces: Vec<Piece<'_>> = queue.pieces(0, 3).collect();
        let [Piece::Own(first), Piece::Shared(held), Piece::Own(last)] = pieces[..] else {
            panic!("{pieces:?}");
        };
        assert_eq!((first.len(), last.len()), (8 + 1 + 8 + 2, 8 + 1));
        assert!(Arc::ptr_eq(held, &shared));
        assert_eq!(queue.pop(), 9);
        assert_eq!(queue.lengths_from(0).collect::<Vec<_>>(), [40, 9]);
        assert_eq!(queue.pop(), 40);
        assert_eq!(Arc::strong_count(&shared), 1, "what is acknowledged is not held");
        assert!(queue.push(Address::Node, 2, Payload::copied(&[]).with(Some(&shared))));
        queue.clear();
        assert_eq!(Arc::strong_count(&shared), 1, "what is forgotten is not held");
    }

    #[test]
    fn frames_come_out_as_they_went_in_across_the_end_of_the_ring() {
        let mut queue = Queue::new(64, 4);
        let ring = queue.ring.as_ptr();
        for round in 0u8..200 {
            let payload = vec![round; usize::from(round % 23)];
            let (left, right) = payload.split_at(payload.len() / 2);
            let shared: Option<Arc<[u8]>> = (round % 3 == 0).then(|| right.into());
            let copied: &[&[u8]] = if shared.is_some() { &[left] } else { &[left, right] };
            assert!(queue.push(
                Address::Group(7),
                9,
                Payload::copied(copied).with(shared.as_ref())
            ));
            if queue.frames() == 2 {
                let oldest = queue.lengths_from(0).next().expect("there are two");
                let newest: Vec<u8> = bytes(queue.pieces(1, 1));
                assert_eq!(newest[..2], 7u16.to_le_bytes());
                assert_eq!(newest[8..], payload);
                let both = bytes(queue.pieces(0, 2));
                assert!(both.len() == queue.bytes() && both.ends_with(&newest));
                assert_eq!(queue.pop(), oldest);
            }
        }
        assert_eq!(queue.ring.as_ptr(), ring, "no memory was taken");
    }

    #[test]
    fn a_full_queue_takes_nothing_and_loses_nothing() {
        let mut queue = Queue::new(64, 3);
        assert!(queue.push(Address::Node, 1, Payload::copied(&[&[1; 40]])));
        assert!(
            !queue.push(Address::Node, 2, Payload::copied(&[&[2; 9]])),
            "16 bytes are left"
        );
        assert!(queue.push(Address::Node, 3, Payload::copied(&[&[3; 8]])));
        assert!(
            !queue.push(Address::Node, 4, Payload::copied(&[])),
            "no bytes are left"
        );
        assert_eq!((queue.pop(), queue.pop()), (48, 16));
        for _ in 0..3 {
            assert!(queue.push(Address::Node, 5, Payload::copied(&[])));
        }
        assert!(
            !queue.push(Address::Node, 6, Payload::copied(&[])),
            "three frames are in it"
        );
        queue.clear();
        assert_eq!((queue.frames(), queue.bytes()), (0, 0));
    }
}
