//! What a protocol machine wants on the wire.

use crate::crc32c::Crc32c;

/// Index of a command in flight on one connection. For the target a number below `slots_max`; for
/// the initiator the command identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// One piece of the byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `bytes[start..end]` of the same [`Outbox`].
    Bytes {
        /// First byte.
        start: u32,
        /// Byte after the last one.
        end: u32,
    },
    /// Part of a command's data buffer, which belongs to the caller.
    Payload {
        /// Whose buffer.
        slot: Slot,
        /// Where in the command's data the piece starts.
        offset_bytes: u32,
        /// Bytes to send, never 0.
        length_bytes: u32,
    },
}

/// What must go onto the wire, in order. Reused after [`Outbox::clear`], so that it allocates only
/// until it has grown to what one turn needs.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    /// Headers, digests and padding, which [`Part::Bytes`] refers to.
    pub bytes: Vec<u8>,
    /// The stream in order.
    pub parts: Vec<Part>,
}

impl Outbox {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
    }

    /// Bytes on the wire, payload included.
    pub fn total_bytes(&self) -> u64 {
        self.parts
            .iter()
            .map(|part| match *part {
                Part::Bytes { start, end } => u64::from(end - start),
                Part::Payload { length_bytes, .. } => u64::from(length_bytes),
            })
            .sum()
    }

    /// Appends bytes; they join the part before if that is bytes too.
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) {
        let start = self.end();
        self.bytes.extend_from_slice(bytes);
        let new_end = self.end();
        if let Some(Part::Bytes { end, .. }) = self.parts.last_mut() {
            assert_eq!(*end, start, "parts cover the bytes without gaps");
            *end = new_end;
        } else {
            self.parts.push(Part::Bytes { start, end: new_end });
        }
    }

    /// Appends a PDU header and, if the connection has header digests, its digest.
    pub(super) fn push_header(&mut self, header: &[u8], digest: bool, crc: Crc32c) {
        self.push_bytes(header);
        if digest {
            self.push_bytes(&crc(0, header).to_le_bytes());
        }
    }

    /// Appends a piece of a command's data.
    pub(super) fn push_payload(&mut self, slot: Slot, offset_bytes: u32, length_bytes: u32) {
        assert!(length_bytes > 0, "an empty piece of payload is never sent");
        self.parts.push(Part::Payload {
            slot,
            offset_bytes,
            length_bytes,
        });
    }

    fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("an outbox is flushed long before it holds 4 GiB of headers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crc32c::portable;

    #[test]
    fn adjacent_bytes_merge_and_payload_separates_them() {
        let mut out = Outbox::default();
        out.push_bytes(b"ab");
        out.push_header(b"cd", true, portable);
        out.push_payload(Slot(3), 16, 4096);
        out.push_bytes(b"e");
        assert_eq!(
            out.parts,
            [
                Part::Bytes { start: 0, end: 8 },
                Part::Payload {
                    slot: Slot(3),
                    offset_bytes: 16,
                    length_bytes: 4096
                },
                Part::Bytes { start: 8, end: 9 },
            ]
        );
        assert_eq!(out.bytes[4..8], portable(0, b"cd").to_le_bytes());
        assert_eq!(out.total_bytes(), 9 + 4096);
        out.clear();
        assert!(out.is_empty() && out.total_bytes() == 0);
    }
}
