//! The label of a drive: which array it belongs to, and as what.
//!
//! Written once, when an array is made, to the block behind the records of the quorum area. Who shares the array reads it before anything
//! else, so that the places of drives follow from what they say and not from anybody's configuration.
//!
//! Layout, little-endian, [`RECORD_BYTES`] long:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8, 8..10, 10 | magic `BRAIDLBL`, version, place of the drive in the array |
//! | 16..32, 32..48 | array, namespace that the label was written to |
//! | 48..56, 56..64 | drives, drives that vote |
//! | 64, 65..97 | length of the array's name, name |
//! | 508..512 | CRC-32C |
//!
//! What no field owns is zero. A block of zeroes is no label.

use nvme::crc32c;
use thiserror::Error;

use super::record::{AREA_BLOCKS, RECORD_BYTES, VOTERS_MAX};
use super::{ArrayId, DriveIndex, DriveSet};

/// Block of the label, counted from the start of the quorum area.
pub const LABEL_BLOCK: usize = AREA_BLOCKS;
/// Longest name of an array in bytes.
pub const NAME_BYTES_MAX: usize = 32;

const MAGIC: [u8; 8] = *b"BRAIDLBL";
const VERSION: u16 = 1;
const DRIVE_AT: usize = 10;
const ARRAY_AT: usize = 16;
const NAMESPACE_AT: usize = 32;
const DRIVES_AT: usize = 48;
const VOTERS_AT: usize = 56;
const NAME_AT: usize = 64;
const CRC_AT: usize = RECORD_BYTES - 4;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The array.
    pub array: ArrayId,
    /// What people call it: 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// The drive's place.
    pub drive: DriveIndex,
    /// UUID of the namespace that the label was written to: a copy of the drive is not the drive.
    pub namespace: [u8; 16],
    /// All drives of the array.
    pub drives: DriveSet,
    /// Those that vote: an odd number.
    pub voters: DriveSet,
}

/// Why a block is no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LabelError {
    /// Fewer bytes than a label has.
    #[error("{0} bytes are no label")]
    Short(usize),
    /// Something else is there.
    #[error("its label is not one: there is other data in its quorum area")]
    Magic,
    /// It is damaged.
    #[error("its label is damaged: the checksum does not fit")]
    Checksum,
    /// Another version.
    #[error("its label has version {0}, which is not known: use the same program on all nodes")]
    Version(u16),
    /// Its fields contradict one another.
    #[error("the fields of its label contradict one another")]
    Fields,
}

impl Label {
    /// Whether the fields fit one another.
    fn is_sound(&self) -> bool {
        let voters = self.voters.count();
        let has_name = (1..=NAME_BYTES_MAX).contains(&self.name.len());
        has_name
            && self.drives.contains(self.drive)
            && self.drives.covers(self.voters)
            && voters % 2 == 1
            && voters <= VOTERS_MAX
    }

    /// The label for the drive.
    ///
    /// Panics if its fields contradict one another.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        assert!(self.is_sound(), "only sound labels are written");
        let mut bytes = [0; RECORD_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(DRIVE_AT, &[self.drive.number()]);
        put(ARRAY_AT, &self.array.0);
        put(NAMESPACE_AT, &self.namespace);
        put(DRIVES_AT, &self.drives.0.to_le_bytes());
        put(VOTERS_AT, &self.voters.0.to_le_bytes());
        put(NAME_AT, &[u8::try_from(self.name.len()).expect("at most 32")]);
        put(NAME_AT + 1, self.name.as_bytes());
        let sum = crc32c::portable(0, &bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Parses the start of a label's block; `None` if there is none yet.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, LabelError> {
        let Some(bytes) = bytes.first_chunk::<RECORD_BYTES>() else {
            return Err(LabelError::Short(bytes.len()));
        };
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if bytes[..8] != MAGIC {
            return Err(LabelError::Magic);
        }
        if bytes[CRC_AT..] != crc32c::portable(0, &bytes[..CRC_AT]).to_le_bytes() {
            return Err(LabelError::Checksum);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(LabelError::Version(version));
        }
        let id = |at: usize| bytes[at..at + 16].try_into().expect("16 bytes");
        let set = |at: usize| DriveSet(u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")));
        let length = usize::from(bytes[NAME_AT]);
        let name = bytes[NAME_AT + 1..].get(..length.min(NAME_BYTES_MAX));
        let label = Self {
            array: ArrayId(id(ARRAY_AT)),
            name: String::from_utf8(name.unwrap_or_default().to_vec()).map_err(|_| LabelError::Fields)?,
            drive: DriveIndex::new(bytes[DRIVE_AT]).ok_or(LabelError::Fields)?,
            namespace: id(NAMESPACE_AT),
            drives: set(DRIVES_AT),
            voters: set(VOTERS_AT),
        };
        // Written back it has to be the same: so that no byte is of no field, and no name too long.
        if label.is_sound() && label.encode() == *bytes {
            Ok(Some(label))
        } else {
            Err(LabelError::Fields)
        }
    }
}

/// Which of so many drives vote when up to `failures` of them may be lost: two times that and one more, as far as there are so many, and
/// an odd number. The first ones.
pub fn voters_of(drives: u32, failures: u32) -> DriveSet {
    let wanted = (2 * failures + 1).min(VOTERS_MAX).min(drives);
    let odd = if wanted.is_multiple_of(2) {
        wanted - 1
    } else {
        wanted
    };
    (0..odd)
        .filter_map(|number| DriveIndex::new(u8::try_from(number).ok()?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> Label {
        Label {
            array: ArrayId([7; 16]),
            name: "vault".to_owned(),
            drive: DriveIndex::new(4).unwrap(),
            namespace: [3; 16],
            drives: DriveSet(0b11111),
            voters: DriveSet(0b00111),
        }
    }

    #[test]
    fn a_label_is_read_as_it_was_written() {
        let bytes = label().encode();
        assert_eq!(Label::parse(&bytes), Ok(Some(label())));
        assert_eq!(&bytes[..11], b"BRAIDLBL\x01\0\x04");
        assert_eq!(&bytes[64..71], b"\x05vault\0");
        let mut block = bytes.to_vec();
        block.resize(4096, 0);
        assert_eq!(Label::parse(&block), Ok(Some(label())));
        let named = Label {
            name: "n".repeat(NAME_BYTES_MAX),
            ..label()
        };
        assert_eq!(Label::parse(&named.encode()), Ok(Some(named)));
    }

    #[test]
    fn a_blank_block_is_none_and_no_changed_byte_goes_unnoticed() {
        assert_eq!(Label::parse(&[0; 4096]), Ok(None));
        assert_eq!(Label::parse(&[0; 511]), Err(LabelError::Short(511)));
        let bytes = label().encode();
        for at in 0..RECORD_BYTES {
            for bit in 0..8 {
                let mut changed = bytes;
                changed[at] ^= 1 << bit;
                assert!(Label::parse(&changed).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn fields_that_contradict_one_another_are_refused_with_a_right_checksum() {
        let bytes = label().encode();
        for (at, value) in [
            (DRIVE_AT, 64),
            (DRIVE_AT, 5),
            (VOTERS_AT, 0b1111),
            (VOTERS_AT + 1, 1),
            (DRIVES_AT, 0b11),
            (NAME_AT, 0),
            (NAME_AT, 33),
            (12, 1),
            (200, 1),
        ] {
            let mut changed = bytes;
            changed[at] = value;
            let sum = crc32c::portable(0, &changed[..CRC_AT]);
            changed[CRC_AT..].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(Label::parse(&changed), Err(LabelError::Fields), "{at}: {value}");
        }
    }

    #[test]
    fn voters_are_two_f_and_one_as_far_as_there_are_so_many() {
        let count = |drives, failures| voters_of(drives, failures).count();
        assert_eq!(
            [count(5, 1), count(5, 2), count(4, 2), count(2, 1), count(1, 1)],
            [3, 5, 3, 1, 1]
        );
        assert_eq!([count(40, 3), count(40, 9)], [7, 7]);
    }
}
