//! What of a namespace's reservation outlives a loss of power: one block of 4 KiB, in two places that take turns.
//!
//! A record is complete or it is not one: a torn write leaves the record before it, which is what hosts were told last. Both places are
//! written before hosts ever see the namespace, so that one blank place means that this was not finished.

use thiserror::Error;

use super::admission::{BARRED_MAX, CLAIMS_MAX};
use super::floors::SLOTS;
use super::{
    Admission, Floors, HostId, HostName, Key, Kind, Life, REGISTRANTS_MAX, Registrant, Reservation, State,
};
use crate::crc32c::portable;

/// Bytes of one record.
pub const RECORD_BYTES: usize = 4096;
/// Where the registrants begin.
const REGISTRANTS_AT: usize = 128;
/// Bytes of one registrant: host and key.
const REGISTRANT_BYTES: usize = 24;
/// Where it says how many names are claimed and lives are barred, and whether keys are held to epochs.
const COUNTS_AT: usize = REGISTRANTS_AT + REGISTRANTS_MAX * REGISTRANT_BYTES;
/// Where the lowest epochs of the slots are.
const FLOORS_AT: usize = COUNTS_AT + 8;
/// Where the claimed names begin.
const CLAIMS_AT: usize = FLOORS_AT + SLOTS * 4;
/// Bytes of a claim: name and host.
const CLAIM_BYTES: usize = 32;
/// Where the barred lives begin.
const BARRED_AT: usize = CLAIMS_AT + CLAIMS_MAX * CLAIM_BYTES;
const _: () = assert!(BARRED_AT + BARRED_MAX * 16 <= RECORD_BYTES - 4);
/// What a record begins with.
const MAGIC: [u8; 8] = *b"BRAIDRSV";
/// Layout of the record. Version 1 ended with the registrants.
const VERSION: u16 = 2;

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
        put_admission(&mut bytes, &self.state);
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
        if !(1..=VERSION).contains(&version) {
            return Err(RecordError::Version { version });
        }
        let count = usize::from(u16::from_le_bytes([bytes[64], bytes[65]]));
        let [claims, barred, ..] = array::<3>(bytes, COUNTS_AT).map(usize::from);
        if count > REGISTRANTS_MAX || claims > CLAIMS_MAX || barred > BARRED_MAX {
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
            admission: Admission {
                claims: (0..claims).map(|index| claim(bytes, index)).collect(),
                barred: (0..barred)
                    .map(|index| HostId(array(bytes, BARRED_AT + index * 16)))
                    .collect(),
            },
            floors: (bytes[COUNTS_AT + 2] == 1).then(|| floors(bytes)),
        };
        Ok(state.is_sound().then(|| Self {
            namespace: array(bytes, 16),
            sequence: u64::from_le_bytes(array(bytes, 32)),
            state,
        }))
    }
}

/// Writes who is admitted, and which keys are too old.
fn put_admission(bytes: &mut [u8; RECORD_BYTES], state: &State) {
    let Admission { claims, barred } = &state.admission;
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    let count = |count: usize| u8::try_from(count).expect("claims and barred lives are bounded");
    let has_floors = u8::from(state.floors.is_some());
    put(COUNTS_AT, &[count(claims.len()), count(barred.len()), has_floors]);
    for (slot, floor) in state.floors.unwrap_or_default().0.into_iter().enumerate() {
        put(FLOORS_AT + slot * 4, &floor.to_le_bytes());
    }
    for (index, claim) in claims.iter().enumerate() {
        put(CLAIMS_AT + index * CLAIM_BYTES, &claim.name.0.to_le_bytes());
        put(CLAIMS_AT + index * CLAIM_BYTES + 16, &claim.host.0);
    }
    for (index, host) in barred.iter().enumerate() {
        put(BARRED_AT + index * 16, &host.0);
    }
}

fn claim(bytes: &[u8], index: usize) -> Life {
    let at = CLAIMS_AT + index * CLAIM_BYTES;
    Life {
        name: HostName(u128::from_le_bytes(array(bytes, at))),
        host: HostId(array(bytes, at + 16)),
    }
}

fn floors(bytes: &[u8]) -> Floors {
    let mut floors = [0; SLOTS];
    for (slot, floor) in floors.iter_mut().enumerate() {
        *floor = u32::from_le_bytes(array(bytes, FLOORS_AT + slot * 4));
    }
    Floors(floors)
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
                admission: Admission {
                    claims: (1..=CLAIMS_MAX as u128)
                        .map(|index| Life {
                            name: HostName(index << 100 | index),
                            host: HostId([u8::try_from(index).unwrap(); 16]),
                        })
                        .collect(),
                    barred: (1..=BARRED_MAX)
                        .map(|index| HostId([u8::try_from(index).unwrap() | 0x80; 16]))
                        .collect(),
                },
                floors: Some(Floors([1, 2, 3, 4, 5, 6, 7, u32::MAX])),
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

    /// What a shelf of before wrote is read as it was meant.
    #[test]
    fn records_of_the_first_version_admit_everybody() {
        let mut record = record(5);
        (record.state.admission, record.state.floors) = (Admission::default(), None);
        let mut bytes = record.encode();
        bytes[8] = 1;
        let crc = portable(0, &bytes[..RECORD_BYTES - 4]);
        bytes[RECORD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(newest([&bytes, &BLANK], [7; 16]), Ok(Some(record)));
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
        later[8] = 3;
        let crc = portable(0, &later[..RECORD_BYTES - 4]);
        later[RECORD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            newest([&later, &BLANK], [7; 16]),
            Err(RecordError::Version { version: 3 })
        );
    }
}
