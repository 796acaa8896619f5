//! The wire format: one header, the frames that one turn gathered, one CRC.
//!
//! Owns every rule that one packet alone can break. A packet is checked as a whole, CRC and all frames, before its first
//! frame can be read, so that a cut packet never delivers half a message. Whether a packet belongs here and now is the
//! session's business. All integers are little-endian.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4, 4, 5 | magic `BICL`, format version, lane |
//! | 6, 7 | slot of the sender, of the receiver |
//! | 8..24, 24..28, 28..32 | array, epoch, 0 |
//! | 32..40, 40..48 | incarnation of the sender, of the receiver |
//! | 48..56 | link sequence number of the first frame |
//! | 56..64 | highest link sequence number that the sender has received in order |
//! | 64..72, 72..80 | frames, and bytes of frames, that the sender has granted since the epoch began |
//! | 80..88, 88..96 | time stamp to be answered; stamp of the receiver that this answers; 0 if there is none |
//! | 96..100, 100..102 | length of the packet, number of frames |
//! | 102..104 | 0 |
//! | 104..108 | CRC-32C of the bytes before |
//! | 108.. | frames |
//! | the last 4 | CRC-32C of the bytes before |
//!
//! | bytes of a frame | field |
//! |---|---|
//! | 0..2, 2..4 | address: group, or FFFFh for the node; type of the message, opaque here |
//! | 4..8 | length of the payload |
//! | 8.. | payload |

use std::ops::Range;

use nvme::crc32c::Crc32c;
use thiserror::Error;

use super::name::{Address, Lane};
use super::outbox::{Outbox, Piece};
use crate::icl::{ArrayId, Epoch, Incarnation, Node, Slot};

/// First bytes of each packet.
pub const MAGIC: [u8; 4] = *b"BICL";
/// Version of the format that this code speaks, the only one that it understands.
pub const VERSION: u8 = 1;

/// Bytes before the first frame.
pub const HEADER_BYTES: usize = 108;
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 8;
/// Bytes of either CRC.
const CRC_BYTES: usize = 4;
/// Bytes of a packet without frames.
pub const PACKET_BYTES_MIN: usize = HEADER_BYTES + CRC_BYTES;
/// Bytes of the longest packet.
pub const PACKET_BYTES_MAX: usize = 256 << 10;
/// Frames of one packet at most.
pub const FRAMES_MAX: u16 = 2048;
/// Bytes of all frames of a packet at most, their headers included.
pub const FRAME_BYTES_MAX: usize = PACKET_BYTES_MAX - PACKET_BYTES_MIN;
/// Bytes of the longest message. Longer ones are for the AMFs to divide: 128 KiB and the headers of its messages fit.
pub const PAYLOAD_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_HEADER_BYTES;

/// The same as it stands in the header.
const PACKET_BYTES_MAX_WIRE: u32 = 256 << 10;
const PACKET_BYTES_MIN_WIRE: u32 = 112;

const _: () = assert!(PACKET_BYTES_MIN == 112 && PACKET_BYTES_MAX == 262_144);
const _: () = assert!(PAYLOAD_BYTES_MAX > 128 << 10);

const VERSION_AT: usize = 4;
const LANE_AT: usize = 5;
const SENDER_AT: usize = 6;
const RECEIVER_AT: usize = 7;
const ARRAY_AT: usize = 8;
const EPOCH_AT: usize = 24;
const SENDER_INCARNATION_AT: usize = 32;
const RECEIVER_INCARNATION_AT: usize = 40;
const FIRST_AT: usize = 48;
const ACK_AT: usize = 56;
const CREDIT_FRAMES_AT: usize = 64;
const CREDIT_BYTES_AT: usize = 72;
const PING_AT: usize = 80;
const ANSWER_AT: usize = 88;
const LENGTH_AT: usize = 96;
const FRAME_COUNT_AT: usize = 100;
const RESERVED_AT: [Range<usize>; 2] = [28..32, 102..HEADER_CRC_AT];
const HEADER_CRC_AT: usize = 104;

/// What is wrong with bytes that should be a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// Fewer bytes than a packet has.
    #[error("{bytes} bytes are no packet")]
    Short {
        /// How many there were.
        bytes: usize,
    },
    /// The bytes at 0 are not the magic.
    #[error("no magic at byte 0")]
    Magic,
    /// Another version of the format.
    #[error("format version {found} at byte {VERSION_AT} is not {VERSION}")]
    Version {
        /// The version.
        found: u8,
    },
    /// The header does not match its CRC.
    #[error("CRC of the header at byte {HEADER_CRC_AT} does not match")]
    HeaderCrc,
    /// A byte that must be 0 is not.
    #[error("reserved byte {at} is not 0")]
    Reserved {
        /// Where it is.
        at: usize,
    },
    /// A slot that no node can have.
    #[error("slot at byte {at} is out of range")]
    Slot {
        /// Where it is.
        at: usize,
    },
    /// The length is none that a packet can have.
    #[error("packet of {packet_bytes} bytes at byte {LENGTH_AT} is out of range")]
    Length {
        /// The length.
        packet_bytes: u32,
    },
    /// The length is not that of the bytes.
    #[error("packet of {packet_bytes} bytes has {bytes}")]
    LengthMismatch {
        /// The length that the header says.
        packet_bytes: u32,
        /// How many there were.
        bytes: usize,
    },
    /// More frames than a packet may have.
    #[error("{frames} frames at byte {FRAME_COUNT_AT} are too many")]
    FrameCount {
        /// How many.
        frames: u16,
    },
    /// The sequence numbers of the frames begin below 1 or end beyond what there is.
    #[error("first sequence number {first} at byte {FIRST_AT} is out of range")]
    Sequence {
        /// The first of them.
        first: u64,
    },
    /// The packet does not match its CRC.
    #[error("CRC of the packet at byte {at} does not match")]
    PacketCrc {
        /// Where it is.
        at: usize,
    },
    /// A frame does not fit.
    #[error("frame {frame} at byte {at} ends outside of the packet")]
    FrameCut {
        /// Its index in the packet.
        frame: u16,
        /// Where it starts.
        at: usize,
    },
    /// Bytes that belong to no frame.
    #[error("bytes from {at} on belong to no frame")]
    Trailing {
        /// Where they start.
        at: usize,
    },
}

/// From whom, for whom and of when a packet is. A packet whose envelope is not the expected one is dropped unread.
///
/// Source: PROTOCOL section 1, decision 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Of which array.
    pub array: ArrayId,
    /// Of which membership.
    pub epoch: Epoch,
    /// Of which link of the two.
    pub lane: Lane,
    /// Who has sent it.
    pub sender: Node,
    /// Who is to read it.
    pub receiver: Node,
}

impl Envelope {
    /// That of what the receiver answers.
    pub const fn reversed(self) -> Self {
        Self {
            sender: self.receiver,
            receiver: self.sender,
            ..self
        }
    }
}

/// How much may be sent, counted from the beginning of the epoch: a grant that is lost is made up for by the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Frames.
    pub frames: u64,
    /// Bytes of frames, their headers included.
    pub bytes: u64,
}

/// What precedes the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who, for whom, when.
    pub envelope: Envelope,
    /// Link sequence number of the first frame; the others follow without gaps. The first of an epoch is 1.
    pub first: u64,
    /// Highest link sequence number that the sender has received in order.
    pub ack: u64,
    /// What the sender grants.
    pub credit: Credit,
    /// A time stamp of the sender's clock to be answered.
    pub ping_ns: Option<u64>,
    /// The stamp of the receiver's clock that is answered.
    pub answer_ns: Option<u64>,
    /// Number of frames.
    pub frame_count: u16,
}

/// The bytes of a frame before its payload.
///
/// Panics if the payload is longer than [`PAYLOAD_BYTES_MAX`].
pub fn encode_frame_header(address: Address, kind: u16, payload_bytes: usize) -> [u8; FRAME_HEADER_BYTES] {
    assert!(
        payload_bytes <= PAYLOAD_BYTES_MAX,
        "an AMF divides what is longer"
    );
    let length = u32::try_from(payload_bytes).expect("shorter than a packet");
    let mut bytes = [0; FRAME_HEADER_BYTES];
    bytes[..2].copy_from_slice(&address.wire().to_le_bytes());
    bytes[2..4].copy_from_slice(&kind.to_le_bytes());
    bytes[4..].copy_from_slice(&length.to_le_bytes());
    bytes
}

impl Header {
    /// Appends a packet to `out`: this header, so many bytes of frames, which lie in pieces, and the CRC.
    ///
    /// Panics if that is longer than a packet may be, or the pieces are not so long; that there are `frame_count` frames is
    /// the caller's promise.
    pub(super) fn encode<'a>(
        &self,
        frame_bytes: usize,
        frames: impl Iterator<Item = Piece<'a>>,
        crc: Crc32c,
        out: &mut Outbox,
    ) {
        assert!(frame_bytes <= FRAME_BYTES_MAX, "what is gathered fits a packet");
        assert!(self.frame_count <= FRAMES_MAX, "what is gathered fits a packet");
        assert_eq!(self.frame_count == 0, frame_bytes == 0, "frames have bytes");
        let packet_bytes = u32::try_from(PACKET_BYTES_MIN + frame_bytes).expect("bounded above");
        let start = out.composed_bytes();
        let header = self.encode_header(packet_bytes, crc);
        let mut sum = crc(0, &header);
        out.push(Piece::Own(&header));
        for piece in frames {
            sum = crc(sum, piece.bytes());
            out.push(piece);
        }
        out.push(Piece::Own(&sum.to_le_bytes()));
        assert_eq!(
            out.composed_bytes() - start,
            packet_bytes,
            "the frames are as long as was said"
        );
    }

    fn encode_header(&self, packet_bytes: u32, crc: Crc32c) -> [u8; HEADER_BYTES] {
        let envelope = &self.envelope;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..VERSION_AT].copy_from_slice(&MAGIC);
        bytes[VERSION_AT] = VERSION;
        bytes[LANE_AT] = envelope.lane.0;
        bytes[SENDER_AT] = envelope.sender.slot.number();
        bytes[RECEIVER_AT] = envelope.receiver.slot.number();
        bytes[ARRAY_AT..EPOCH_AT].copy_from_slice(&envelope.array.0);
        bytes[EPOCH_AT..RESERVED_AT[0].start].copy_from_slice(&envelope.epoch.0.to_le_bytes());
        let words = [
            (SENDER_INCARNATION_AT, envelope.sender.incarnation.0),
            (RECEIVER_INCARNATION_AT, envelope.receiver.incarnation.0),
            (FIRST_AT, self.first),
            (ACK_AT, self.ack),
            (CREDIT_FRAMES_AT, self.credit.frames),
            (CREDIT_BYTES_AT, self.credit.bytes),
            (PING_AT, self.ping_ns.unwrap_or(0)),
            (ANSWER_AT, self.answer_ns.unwrap_or(0)),
        ];
        for (at, word) in words {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes[LENGTH_AT..FRAME_COUNT_AT].copy_from_slice(&packet_bytes.to_le_bytes());
        bytes[FRAME_COUNT_AT..RESERVED_AT[1].start].copy_from_slice(&self.frame_count.to_le_bytes());
        let sum = crc(0, &bytes[..HEADER_CRC_AT]);
        bytes[HEADER_CRC_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a header and the length in bytes of the packet that it begins, from at least [`HEADER_BYTES`] bytes.
    pub fn parse(bytes: &[u8], crc: Crc32c) -> Result<(Self, usize), PacketError> {
        check_prefix(bytes)?;
        if bytes.len() < HEADER_BYTES {
            return Err(PacketError::Short { bytes: bytes.len() });
        }
        if crc(0, &bytes[..HEADER_CRC_AT]) != u32_at(bytes, HEADER_CRC_AT) {
            return Err(PacketError::HeaderCrc);
        }
        if let Some(at) = RESERVED_AT.into_iter().flatten().find(|&at| bytes[at] != 0) {
            return Err(PacketError::Reserved { at });
        }
        let packet_bytes = u32_at(bytes, LENGTH_AT);
        if !(PACKET_BYTES_MIN_WIRE..=PACKET_BYTES_MAX_WIRE).contains(&packet_bytes) {
            return Err(PacketError::Length { packet_bytes });
        }
        let header = Self {
            envelope: Envelope {
                array: ArrayId(
                    bytes[ARRAY_AT..EPOCH_AT]
                        .try_into()
                        .expect("the field has 16 bytes"),
                ),
                epoch: Epoch(u32_at(bytes, EPOCH_AT)),
                lane: Lane(bytes[LANE_AT]),
                sender: member_at(bytes, SENDER_AT, SENDER_INCARNATION_AT)?,
                receiver: member_at(bytes, RECEIVER_AT, RECEIVER_INCARNATION_AT)?,
            },
            first: u64_at(bytes, FIRST_AT),
            ack: u64_at(bytes, ACK_AT),
            credit: Credit {
                frames: u64_at(bytes, CREDIT_FRAMES_AT),
                bytes: u64_at(bytes, CREDIT_BYTES_AT),
            },
            ping_ns: stamp_at(bytes, PING_AT),
            answer_ns: stamp_at(bytes, ANSWER_AT),
            frame_count: u16_at(bytes, FRAME_COUNT_AT),
        };
        header.check()?;
        Ok((header, packet_bytes as usize))
    }

    fn check(&self) -> Result<(), PacketError> {
        if self.frame_count > FRAMES_MAX {
            return Err(PacketError::FrameCount {
                frames: self.frame_count,
            });
        }
        // The number after the last frame must be one, so that sums below cannot overflow.
        if self.first == 0 || self.first.checked_add(u64::from(self.frame_count)).is_none() {
            return Err(PacketError::Sequence { first: self.first });
        }
        Ok(())
    }
}

/// Checks as much of magic and version as there is: garbage shows with its first bytes.
pub fn check_prefix(bytes: &[u8]) -> Result<(), PacketError> {
    let magic_bytes = bytes.len().min(MAGIC.len());
    if bytes[..magic_bytes] != MAGIC[..magic_bytes] {
        return Err(PacketError::Magic);
    }
    match bytes.get(VERSION_AT) {
        Some(&found) if found != VERSION => Err(PacketError::Version { found }),
        Some(_) | None => Ok(()),
    }
}

/// A message as it stands in its packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// For whom it is.
    pub address: Address,
    /// Its type, which only the addressee understands.
    pub kind: u16,
    /// Where in the packet its payload lies.
    pub payload: Range<usize>,
}

impl Frame {
    /// Bytes that it takes in a packet and of the receiver's grant.
    pub fn bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload.len()
    }
}

/// A packet that was checked as a whole; borrows its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its header.
    pub header: Header,
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks exactly one packet: `bytes` are all of it. Nothing of it is known before all of it is.
    pub fn parse(bytes: &'a [u8], crc: Crc32c) -> Result<Self, PacketError> {
        let (header, packet_bytes) = Header::parse(bytes, crc)?;
        if bytes.len() != packet_bytes {
            return Err(PacketError::LengthMismatch {
                packet_bytes: u32_at(bytes, LENGTH_AT),
                bytes: bytes.len(),
            });
        }
        let end = packet_bytes - CRC_BYTES;
        if crc(0, &bytes[..end]) != u32_at(bytes, end) {
            return Err(PacketError::PacketCrc { at: end });
        }
        let mut at = HEADER_BYTES;
        for frame in 0..header.frame_count {
            at = frame_at(bytes, at, end)
                .ok_or(PacketError::FrameCut { frame, at })?
                .payload
                .end;
        }
        if at != end {
            return Err(PacketError::Trailing { at });
        }
        Ok(Self { header, bytes })
    }

    /// Its frames in order.
    pub fn frames(&self) -> Frames<'a> {
        Frames {
            bytes: self.bytes,
            at: HEADER_BYTES,
        }
    }

    /// The bytes of a frame's payload.
    pub fn payload(&self, frame: &Frame) -> &'a [u8] {
        &self.bytes[frame.payload.clone()]
    }
}

/// The frames of a checked packet.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let end = self.bytes.len() - CRC_BYTES;
        let frame = frame_at(self.bytes, self.at, end)?;
        self.at = frame.payload.end;
        Some(frame)
    }
}

/// The frame at a place; `None` if it does not end before `end`.
fn frame_at(bytes: &[u8], at: usize, end: usize) -> Option<Frame> {
    if end - at < FRAME_HEADER_BYTES {
        return None;
    }
    let start = at + FRAME_HEADER_BYTES;
    let payload_bytes = u32_at(bytes, at + 4) as usize;
    if end - start < payload_bytes {
        return None;
    }
    Some(Frame {
        address: Address::from_wire(u16_at(bytes, at)),
        kind: u16_at(bytes, at + 2),
        payload: start..start + payload_bytes,
    })
}

fn member_at(bytes: &[u8], slot_at: usize, incarnation_at: usize) -> Result<Node, PacketError> {
    Ok(Node {
        slot: Slot::new(bytes[slot_at]).ok_or(PacketError::Slot { at: slot_at })?,
        incarnation: Incarnation(u64_at(bytes, incarnation_at)),
    })
}

fn stamp_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64_at(bytes, at)).filter(|&stamp| stamp != 0)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
pub(super) mod tests;
