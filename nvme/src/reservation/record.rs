//! What of a namespace's reservation outlives a loss of power: one block of 4 KiB, in two places that take turns.
//!
//! A record is complete or it is not one: a torn write leaves the record before it, which is what hosts were told last. Both places are
//! written before hosts ever see the namespace, so that one blank place means that this was not finished.

use thiserror::Error;

use super::{HostId, Key, Kind, REGISTRANTS_MAX, Registrant, Reservation, State};
use crate::crc32c::portable;

/// Bytes of one record.
pub const RECORD_BYTES: usize = 4096;
/// Where the registrants begin.
const REGISTRANTS_AT: usize = 128;
/// Bytes of one registrant: host and key.
const REGISTRANT_BYTES: usize = 24;
const _: () = assert!(REGISTRANTS_AT + REGISTRANTS_MAX * REGISTRANT_BYTES <= RECORD_BYTES - 4);
/// What a record begins with.
const MAGIC: [u8; 8] = *b"BRAIDRSV";
/// Layout of the record.
const VERSION: u16 = 1;

/// A record as it stands on a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// UUID of the namespace that it belongs to.
    pub namespace: [u8; 16],
    /// Grows with each record; its parity is the place that it belongs in.
    pub sequence: u64,
    /// What it keeps.
    pub state: State,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Written by a later version of this software.
    #[error("reservations were written by a later version ({version})")]
    Version {
        /// Of which layout.
        version: u16,
    },
    /// Neither of the two places has a complete record, and neither is blank.
    #[error("reservations were kept here, but neither copy of them can be read")]
    Unreadable,
}

impl Record {
    /// Which of the two places the record belongs in.
    pub const fn place(&self) -> usize {
        (self.sequence % 2) as usize
    }

    /// The 4,096 bytes: header, registrants, CRC-32C over what is before it.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(16, &self.namespace);
        put(32, &self.sequence.to_le_bytes());
        put(40, &self.state.generation.to_le_bytes());
        put(44, &[u8::from(self.state.persists)]);
        if let Some(Reservation { kind, holder }) = self.state.reservation {
            put(45, &[kind.wire(), u8::from(holder.is_some())]);
            put(48, &holder.map_or([0; 16], |host| host.0));
        }
        let count = u16::try_from(self.state.registrants.len()).expect("registrants are bounded");
        put(64, &count.to_le_bytes());
        for (index, registrant) in self.state.registrants.iter().enumerate() {
            let at = REGISTRANTS_AT + index * REGISTRANT_BYTES;
            put(at, &registrant.host.0);
            put(at + 16, &registrant.key.0.to_le_bytes());
        }
        let crc = portable(0, &bytes[..RECORD_BYTES - 4]);
        bytes[RECORD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Whether a record was written here, be it complete or not.
    pub fn is_marked(bytes: &[u8; RECORD_BYTES]) -> bool {
        bytes[..MAGIC.len()] == MAGIC
    }

    /// Reads a record; `None` if the bytes are not a complete one.
    fn parse(bytes: &[u8; RECORD_BYTES]) -> Result<Option<Self>, RecordError> {
        let crc = portable(0, &bytes[..RECORD_BYTES - 4]).to_le_bytes();
        if bytes[..8] != MAGIC || bytes[RECORD_BYTES - 4..] != crc {
            return Ok(None);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(RecordError::Version { version });
        }
        let count = usize::from(u16::from_le_bytes([bytes[64], bytes[65]]));
        if count > REGISTRANTS_MAX {
            return Ok(None);
        }
        let kind = Kind::from_wire(bytes[45]);
        let state = State {
            registrants: (0..count).map(|index| registrant(bytes, index)).collect(),
            reservation: kind.map(|kind| Reservation {
                kind,
                holder: (bytes[46] == 1).then(|| HostId(array(bytes, 48))),
            }),
            generation: u32::from_le_bytes(array(bytes, 40)),
            persists: bytes[44] == 1,
        };
        Ok(state.is_sound().then(|| Self {
            namespace: array(bytes, 16),
            sequence: u64::from_le_bytes(array(bytes, 32)),
            state,
        }))
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

fn registrant(bytes: &[u8], index: usize) -> Registrant {
    let at = REGISTRANTS_AT + index * REGISTRANT_BYTES;
    Registrant {
        host: HostId(array(bytes, at)),
        key: Key(u64::from_le_bytes(array(bytes, at + 16))),
    }
}

/// Finds the newest record of the two places; `None` if none was ever written for this namespace.
///
/// A record of another namespace was left by one that was here before, and counts as blank.
pub fn newest(places: [&[u8; RECORD_BYTES]; 2], namespace: [u8; 16]) -> Result<Option<Record>, RecordError> {
    let [first, second] = [Record::parse(places[0])?, Record::parse(places[1])?];
    let all_torn = first.is_none() && second.is_none();
    let is_blank = |bytes: &[u8; RECORD_BYTES]| bytes.iter().all(|byte| *byte == 0);
    if all_torn && !is_blank(places[0]) && !is_blank(places[1]) {
        return Err(RecordError::Unreadable);
    }
    let own = [first, second].into_iter().flatten();
    Ok(own
        .filter(|record| record.namespace == namespace)
        .max_by_key(|record| record.sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLANK: [u8; RECORD_BYTES] = [0; RECORD_BYTES];

    fn record(sequence: u64) -> Record {
        let registrants = (1..=REGISTRANTS_MAX as u64)
            .map(|index| Registrant {
                host: HostId([u8::try_from(index).unwrap(); 16]),
                key: Key(index * 0x0101),
            })
            .collect();
        Record {
            namespace: [7; 16],
            sequence,
            state: State {
                registrants,
                reservation: Some(Reservation {
                    kind: Kind::WriteExclusiveRegistrantsOnly,
                    holder: Some(HostId([2; 16])),
                }),
                generation: 77,
                persists: true,
            },
        }
    }

    #[test]
    fn records_survive_a_round_trip() {
        let mut record = record(5);
        assert_eq!(
            newest([&BLANK, &record.encode()], [7; 16]),
            Ok(Some(record.clone()))
        );
        record.state.reservation = Some(Reservation {
            kind: Kind::ExclusiveAccessAllRegistrants,
            holder: None,
        });
        assert_eq!(
            newest([&BLANK, &record.encode()], [7; 16]),
            Ok(Some(record.clone()))
        );
        record.state = State::default();
        assert_eq!(newest([&record.encode(), &BLANK], [7; 16]), Ok(Some(record)));
    }

    #[test]
    fn the_newer_of_two_counts_and_a_torn_one_leaves_the_older() {
        let (old, new) = (record(4).encode(), record(5).encode());
        assert_eq!((record(4).place(), record(5).place()), (0, 1));
        assert_eq!(newest([&old, &new], [7; 16]), Ok(Some(record(5))));
        for torn_at in [1, 512, 2048, 4095] {
            let mut torn = new;
            torn[torn_at..].copy_from_slice(&record(3).encode()[torn_at..]);
            let found = newest([&old, &torn], [7; 16]).unwrap().unwrap();
            assert_eq!(found.sequence, 4, "torn at {torn_at}");
        }
    }

    #[test]
    fn blank_places_are_nothing_and_garbage_is_refused() {
        assert_eq!(newest([&BLANK, &BLANK], [7; 16]), Ok(None));
        assert_eq!(newest([&record(4).encode(), &BLANK], [8; 16]), Ok(None));
        let mut torn = record(4).encode();
        torn[200] ^= 1;
        assert!(Record::is_marked(&torn) && !Record::is_marked(&BLANK));
        let mut garbage = BLANK;
        garbage[100] = 1;
        assert_eq!(newest([&garbage, &BLANK], [7; 16]), Ok(None));
        assert_eq!(
            newest([&garbage, &garbage], [7; 16]),
            Err(RecordError::Unreadable)
        );
        let mut later = record(4).encode();
        later[8] = 2;
        let crc = portable(0, &later[..RECORD_BYTES - 4]);
        later[RECORD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            newest([&later, &BLANK], [7; 16]),
            Err(RecordError::Version { version: 2 })
        );
    }
}
