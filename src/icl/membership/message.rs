//! What nodes tell one another about membership: one message that says everything, sent again and again.
//!
//! An announcement carries the sender's whole view, so that losing, doubling or delaying one changes nothing but time. A receiver drops those
//! that are older than the last one of the same life.
//!
//! Layout, little-endian, [`MESSAGE_BYTES`] long:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8, 8..10 | magic `BRAIDMBR`, version |
//! | 10..14 | slot, standing, step, slots heard: 1 byte each |
//! | 14, 15 | whether there is a record, unused |
//! | 16..32 | array |
//! | 32..56 | incarnation, seq, drives reached: 8 bytes each |
//! | 56..60 | random part of the key that the sender wants |
//! | 60..68 | round of heartbeats that was issued last |
//! | 68..500 | the record, as in [`super::record::codec`] |
//! | 500..504 | CRC-32C |

use nvme::crc32c;
use thiserror::Error;

use super::record::codec::{VALUE_BYTES, encode_value, parse_value};
use super::record::{EpochRecord, Fault};
use super::{ArrayId, DriveSet, Incarnation, Slot, SlotSet};

const MAGIC: [u8; 8] = *b"BRAIDMBR";
const VERSION: u16 = 2;
const RECORD_AT: usize = 68;
const CRC_AT: usize = RECORD_AT + VALUE_BYTES;
/// Bytes of an encoded announcement.
pub const MESSAGE_BYTES: usize = CRC_AT + 4;
/// Bits of [`Announcement::random`].
const RANDOM_MASK: u32 = 0xff_ffff;

/// What a node is, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// No member, and wants to be one.
    Outside,
    /// A member of the record that it tells.
    Member,
    /// A member that has drained and wants to go.
    Leaving,
    /// It has stopped: it completes nothing and sends nothing to drives any more.
    Halted,
}

/// How far a member is with its record, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// It knows the record; as a leader it fences.
    Adopted,
    /// It is registered on all drives in use; a leader has fenced all victims, too.
    Registered,
    /// The leader has waited for the victims' leases and compared the registrants: locks are reported.
    Barrier,
    /// It has reported its locks.
    Reported,
    /// The leader has recovered what was under way: locks are granted.
    Open,
}

/// A node's view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Announcement {
    /// Which array it is about.
    pub array: ArrayId,
    /// Who says it.
    pub slot: Slot,
    /// Which life.
    pub incarnation: Incarnation,
    /// Counts up.
    pub seq: u64,
    /// What it is.
    pub standing: Standing,
    /// How far it is with `record`.
    pub step: Step,
    /// 24 random bits for its key.
    pub random: u32,
    /// The round of heartbeats that it has issued last; 0 before the first.
    pub round: u64,
    /// Drives that it reaches.
    pub reach: DriveSet,
    /// Nodes that it hears.
    pub heard: SlotSet,
    /// The newest decided record that it knows.
    pub record: Option<EpochRecord>,
}

/// Why bytes are no announcement: the peer's session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum MessageError {
    /// Another length.
    #[error("an announcement has {MESSAGE_BYTES} bytes, not {0}")]
    Length(usize),
    /// The magic is not there.
    #[error("no announcement")]
    Magic,
    /// The CRC does not fit.
    #[error("the announcement's checksum does not fit")]
    Checksum,
    /// Another version.
    #[error("announcements of version {0} are not known: use the same program on all nodes")]
    Version(u16),
    /// A field has a value that this version does not know.
    #[error("{field} of the announcement has the unknown value {value}")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u8,
    },
    /// Bytes that ought to be zero are not.
    #[error("reserved bytes of the announcement are in use")]
    Reserved,
    /// The record in it is not sound.
    #[error("the announced record: {0}")]
    Record(Fault),
}

impl Announcement {
    /// The message for the wire.
    ///
    /// Panics if `random` has more than 24 bits, or the record fails its own check.
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        assert!(self.random <= RANDOM_MASK, "a key has room for 24 bits");
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.slot.number();
        bytes[11] = match self.standing {
            Standing::Outside => 1,
            Standing::Member => 2,
            Standing::Leaving => 3,
            Standing::Halted => 4,
        };
        bytes[12] = match self.step {
            Step::Adopted => 1,
            Step::Registered => 2,
            Step::Barrier => 3,
            Step::Reported => 4,
            Step::Open => 5,
        };
        bytes[13] = self.heard.0;
        bytes[16..32].copy_from_slice(&self.array.0);
        bytes[32..40].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.seq.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.reach.0.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.random.to_le_bytes());
        bytes[60..68].copy_from_slice(&self.round.to_le_bytes());
        if let Some(record) = &self.record {
            bytes[14] = 1;
            bytes[RECORD_AT..CRC_AT].copy_from_slice(&encode_value(record));
        }
        let crc = crc32c::portable(0, &bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a message. Errs for everything that [`Self::encode`] would not have made.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let whole: &[u8; MESSAGE_BYTES] = bytes.try_into().map_err(|_| MessageError::Length(bytes.len()))?;
        if whole[..8] != MAGIC {
            return Err(MessageError::Magic);
        }
        if crc32c::portable(0, &whole[..CRC_AT]).to_le_bytes() != whole[CRC_AT..] {
            return Err(MessageError::Checksum);
        }
        let version = u16::from_le_bytes([whole[8], whole[9]]);
        if version != VERSION {
            return Err(MessageError::Version(version));
        }
        let unknown = |field, value| MessageError::Unknown { field, value };
        let mut array = [0; 16];
        array.copy_from_slice(&whole[16..32]);
        let parsed = Self {
            array: ArrayId(array),
            slot: Slot::new(whole[10]).ok_or(unknown("slot", whole[10]))?,
            incarnation: Incarnation(u64_at(whole, 32)),
            seq: u64_at(whole, 40),
            standing: match whole[11] {
                1 => Standing::Outside,
                2 => Standing::Member,
                3 => Standing::Leaving,
                4 => Standing::Halted,
                value => return Err(unknown("standing", value)),
            },
            step: match whole[12] {
                1 => Step::Adopted,
                2 => Step::Registered,
                3 => Step::Barrier,
                4 => Step::Reported,
                5 => Step::Open,
                value => return Err(unknown("step", value)),
            },
            random: u32::from_le_bytes([whole[56], whole[57], whole[58], whole[59]]),
            round: u64_at(whole, 60),
            reach: DriveSet(u64_at(whole, 48)),
            heard: SlotSet(whole[13]),
            record: match whole[14] {
                0 => None,
                1 => Some(parse_value(&whole[RECORD_AT..]).map_err(MessageError::Record)?),
                value => return Err(unknown("presence of a record", value)),
            },
        };
        if parsed.random <= RANDOM_MASK && parsed.encode() == *whole {
            Ok(parsed)
        } else {
            Err(MessageError::Reserved)
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::super::record::{ArbiterRule, Member};
    use super::super::{Epoch, Key};
    use super::*;

    fn announcement(has_record: bool) -> Announcement {
        let slot = Slot::new(3).unwrap();
        let record = EpochRecord {
            epoch: Epoch(2),
            members: vec![Member {
                slot,
                incarnation: Incarnation(8),
                key: slot.key(Epoch(2), 1),
            }],
            victims: Vec::new(),
            fence_all: false,
            drives: DriveSet(0b111),
            voters: DriveSet(0b111),
            generation: 1,
            arbiter: ArbiterRule::LastWriter,
            clean: true,
            dirty_ram: false,
        };
        assert_ne!(record.members[0].key, Key::NONE);
        Announcement {
            array: ArrayId([4; 16]),
            slot,
            incarnation: Incarnation(8),
            seq: 900,
            standing: Standing::Leaving,
            step: Step::Reported,
            random: 0xab_cdef,
            round: 77,
            reach: DriveSet(0b1011),
            heard: SlotSet(0b101),
            record: has_record.then_some(record),
        }
    }

    fn signed(mut bytes: [u8; MESSAGE_BYTES]) -> [u8; MESSAGE_BYTES] {
        let crc = crc32c::portable(0, &bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn what_is_sent_is_received() {
        for has_record in [false, true] {
            let announcement = announcement(has_record);
            assert_eq!(Announcement::parse(&announcement.encode()), Ok(announcement));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = announcement(true).encode();
        for at in 0..MESSAGE_BYTES {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(Announcement::parse(&bytes).is_err(), "byte {at} bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn what_is_wrong_under_a_right_checksum_is_refused_or_sound() {
        for has_record in [false, true] {
            for at in 0..CRC_AT {
                for value in [0, 1, 2, 6, 0x7f, 0xff] {
                    let mut bytes = announcement(has_record).encode();
                    bytes[at] = value;
                    let bytes = signed(bytes);
                    if let Ok(parsed) = Announcement::parse(&bytes) {
                        assert_eq!(parsed.encode(), bytes, "byte {at} = {value}");
                    }
                }
            }
        }
        let tampered = |at: usize, value: u8| {
            let mut bytes = announcement(true).encode();
            bytes[at] = value;
            Announcement::parse(&signed(bytes)).unwrap_err()
        };
        assert_eq!(tampered(8, 9), MessageError::Version(9));
        assert_eq!(
            tampered(11, 0),
            MessageError::Unknown {
                field: "standing",
                value: 0
            }
        );
        assert_eq!(tampered(15, 1), MessageError::Reserved);
        assert_eq!(tampered(59, 1), MessageError::Reserved);
        assert!(matches!(tampered(RECORD_AT + 6, 0), MessageError::Record(_)));
        assert_eq!(Announcement::parse(&[0; 3]), Err(MessageError::Length(3)));
        assert_eq!(Announcement::parse(&[0; MESSAGE_BYTES]), Err(MessageError::Magic));
    }
}
