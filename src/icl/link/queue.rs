//! The frames that one node owes to another: a ring of bytes, and the length of each frame.
//!
//! Owns what is not acknowledged, sent or not, in the form in which it leaves. Invariants: frames are whole; no memory
//! is taken after [`Queue::new`]; what is put in front of the ring's end leaves in two pieces.

use std::collections::VecDeque;

use super::name::Address;
use super::packet::{FRAME_HEADER_BYTES, encode_frame_header};

/// See the module.
#[derive(Debug)]
pub struct Queue {
    ring: Box<[u8]>,
    /// Bytes that were put in and taken out since the start; their places in the ring are the remainders.
    head: u64,
    tail: u64,
    /// Of each frame, its header included; the oldest first.
    lengths: VecDeque<u32>,
    frames_max: usize,
}

impl Queue {
    /// An empty queue for so many bytes of frames, their headers included, and so many frames.
    pub fn new(bytes_max: u32, frames_max: u32) -> Self {
        assert!(bytes_max > 0 && frames_max > 0, "a queue has room");
        Self {
            ring: vec![0; bytes_max as usize].into_boxed_slice(),
            head: 0,
            tail: 0,
            lengths: VecDeque::with_capacity(frames_max as usize),
            frames_max: frames_max as usize,
        }
    }

    /// Forgets all frames and keeps the memory.
    pub fn clear(&mut self) {
        self.tail = self.head;
        self.lengths.clear();
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.lengths.len()
    }

    /// Bytes of all frames.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.head - self.tail).expect("no more than the ring has")
    }

    /// Whether not more than half of it is in use.
    pub fn is_half_empty(&self) -> bool {
        self.bytes() <= self.ring.len() / 2 && self.frames() <= self.frames_max / 2
    }

    /// Appends one message, whose payload lies in pieces. False, and nothing is appended, if it does not fit now.
    ///
    /// Panics if the payload is longer than a packet can have.
    pub fn push(&mut self, address: Address, kind: u16, payload: &[&[u8]]) -> bool {
        let payload_bytes = payload.iter().map(|piece| piece.len()).sum();
        let header = encode_frame_header(address, kind, payload_bytes);
        let frame_bytes = FRAME_HEADER_BYTES + payload_bytes;
        if self.frames() == self.frames_max || self.ring.len() - self.bytes() < frame_bytes {
            return false;
        }
        self.put(&header);
        for piece in payload {
            self.put(piece);
        }
        let length = u32::try_from(frame_bytes).expect("shorter than a packet");
        self.lengths.push_back(length);
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
        self.lengths.range(frame..).copied()
    }

    /// So many bytes from this one on, counted from the oldest frame, in the two pieces in which they lie.
    ///
    /// Panics if they are not there.
    pub fn slices(&self, from_bytes: u64, bytes: u32) -> [&[u8]; 2] {
        let bytes = bytes as usize;
        assert!(
            self.tail + from_bytes + bytes as u64 <= self.head,
            "only what is there is sent"
        );
        let at = self.place(self.tail + from_bytes);
        let first = bytes.min(self.ring.len() - at);
        [&self.ring[at..at + first], &self.ring[..bytes - first]]
    }

    /// Takes the oldest frame out; its length. Panics if there is none.
    pub fn pop(&mut self) -> u32 {
        let length = self.lengths.pop_front().expect("a frame is acknowledged once");
        self.tail += u64::from(length);
        assert!(self.tail <= self.head, "what is taken out was put in");
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_across_the_end_of_the_ring() {
        let mut queue = Queue::new(64, 4);
        let ring = queue.ring.as_ptr();
        for round in 0u8..200 {
            let payload = vec![round; usize::from(round % 23)];
            let (left, right) = payload.split_at(payload.len() / 2);
            assert!(queue.push(Address::Group(7), 9, &[left, right]));
            if queue.frames() == 2 {
                let oldest = queue.lengths_from(0).next().expect("there are two");
                let newest = queue
                    .slices(u64::from(oldest), 8 + u32::from(round % 23))
                    .concat();
                assert_eq!(newest[..2], 7u16.to_le_bytes());
                assert_eq!(newest[8..], payload);
                assert_eq!(queue.pop(), oldest);
            }
        }
        assert_eq!(queue.ring.as_ptr(), ring, "no memory was taken");
    }

    #[test]
    fn a_full_queue_takes_nothing_and_loses_nothing() {
        let mut queue = Queue::new(64, 3);
        assert!(queue.push(Address::Node, 1, &[&[1; 40]]));
        assert!(!queue.push(Address::Node, 2, &[&[2; 9]]), "16 bytes are left");
        assert!(queue.push(Address::Node, 3, &[&[3; 8]]));
        assert!(!queue.push(Address::Node, 4, &[]), "no bytes are left");
        assert_eq!((queue.pop(), queue.pop()), (48, 16));
        for _ in 0..3 {
            assert!(queue.push(Address::Node, 5, &[]));
        }
        assert!(!queue.push(Address::Node, 6, &[]), "three frames are in it");
        queue.clear();
        assert_eq!((queue.frames(), queue.bytes()), (0, 0));
    }
}
