//! What nodes know of the reservations of one virtual disk, and its page on the drives.
//!
//! A page is 4 KiB, little-endian: magic 0..8, virtual disk 8..24, epoch 24..28, zeroes, count 32..40, pages 40..48, place 48 (FFh: none), flags 49 (1: persists,
//! 2: has a holder), type 50, zero, registrants 52..54, zeroes, generation 56..60, CRC-32C 60..64, holder 64..80, requests that are done 80..144, and from 144 on
//! registrants of 24 bytes (host, key).

use nvme::crc32c;
use nvme::reservation::{HostId, Key, Kind, Notice, REGISTRANTS_MAX, Registrant, Reservation, State};

use crate::amf::superblock::{HEAD_BYTES, RECORD_BYTES, Uuid, VDISKS_MAX};
use crate::icl::{Epoch, SLOTS, Slot};

/// Where the pages are on each member, in bytes from its start: in the last quarter of the head, two copies of each place behind one another.
const PAGES_AT: u64 = HEAD_BYTES / 4 * 3;
/// Places: one for each virtual disk that a group may have.
pub const PLACES: usize = VDISKS_MAX;
/// Bytes of a place: two copies that take turns, so that a torn write leaves the page before it.
pub const PLACE_BYTES: usize = 2 * RECORD_BYTES;
const _: () = assert!(PAGES_AT + (PLACES * PLACE_BYTES) as u64 <= HEAD_BYTES);

const MAGIC: [u8; 8] = *b"BRAIDTB1";
const CRC_AT: usize = 60;
const DONE_AT: usize = 80;
const REGISTRANTS_AT: usize = DONE_AT + SLOTS * 8;
const REGISTRANT_BYTES: usize = 24;
const _: () = assert!(REGISTRANTS_AT + REGISTRANTS_MAX * REGISTRANT_BYTES <= RECORD_BYTES);
/// No place yet.
const NO_PLACE: u8 = u8::MAX;

/// Which of two tables of a virtual disk is newer. Whoever leads makes one from the newest that any member of its epoch has, so that no two are alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// In which epoch it was made.
    pub epoch: Epoch,
    /// Changes until then.
    pub count: u64,
}

/// What the last change has brought about beside the new state, for nodes that hear of it only now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// Hosts whose commands are aborted.
    pub abort: Vec<HostId>,
    /// Hosts that lost something.
    pub notices: Vec<(HostId, Notice)>,
}

/// The reservations of a virtual disk as of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which virtual disk.
    pub disk: Uuid,
    /// Which of its tables; the first one that is made counts 1.
    pub version: Version,
    /// Where its pages are, once it has some.
    pub place: Option<u8>,
    /// How many pages were written; the copy that the last one is in follows from that.
    pub pages: u64,
    /// Registrants and reservation.
    pub state: State,
    /// Of each slot the last request that has changed the table: a node that asks once more, because an epoch began, is not served twice.
    pub done: [u64; SLOTS],
    /// What came with the last change. Not on the drives.
    pub last: Last,
}

/// Where a page goes, in bytes from the start of a member.
pub const fn page_offset(place: u8, pages: u64) -> u64 {
    PAGES_AT + place as u64 * PLACE_BYTES as u64 + (pages % 2) * RECORD_BYTES as u64
}

/// What of a state outlives a stop of all nodes.
pub(super) fn durable_part(state: &State) -> State {
    if state.persists {
        state.clone()
    } else {
        State::default()
    }
}

impl Table {
    /// That of a virtual disk which nobody has reserved yet.
    pub fn new(disk: Uuid) -> Self {
        Self {
            disk,
            version: Version::default(),
            place: None,
            pages: 0,
            state: State::default(),
            done: [0; SLOTS],
            last: Last::default(),
        }
    }

    /// Whether anything was ever changed.
    pub fn is_used(&self) -> bool {
        self.version > Version::default()
    }

    /// The request of a slot that was done last.
    pub(super) const fn done_of(&self, slot: Slot) -> u64 {
        self.done[slot.index()]
    }

    /// What is to be on the drives: of a state that does not persist, that nothing does.
    pub(super) fn durable(&self) -> Self {
        Self {
            state: durable_part(&self.state),
            ..self.clone()
        }
    }

    /// Composes the page.
    pub fn encode(&self) -> Box<[u8; RECORD_BYTES]> {
        let mut page = Box::new([0; RECORD_BYTES]);
        let state = &self.state;
        let mut put = |at: usize, field: &[u8]| page[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &self.disk.0);
        put(24, &self.version.epoch.0.to_le_bytes());
        put(32, &self.version.count.to_le_bytes());
        put(40, &self.pages.to_le_bytes());
        let holder = state.reservation.and_then(|held| held.holder);
        let kind = state.reservation.map_or(0, |held| held.kind.wire());
        let flags = u8::from(state.persists) | u8::from(holder.is_some()) << 1;
        put(48, &[self.place.unwrap_or(NO_PLACE), flags, kind]);
        let count = u16::try_from(state.registrants.len()).expect("registrants are bounded");
        put(52, &count.to_le_bytes());
        put(56, &state.generation.to_le_bytes());
        put(64, &holder.map_or([0; 16], |host| host.0));
        for (slot, done) in self.done.iter().enumerate() {
            put(DONE_AT + slot * 8, &done.to_le_bytes());
        }
        for (index, registrant) in state.registrants.iter().enumerate() {
            let at = REGISTRANTS_AT + index * REGISTRANT_BYTES;
            put(at, &registrant.host.0);
            put(at + 16, &registrant.key.0.to_le_bytes());
        }
        let crc = checksum(&page[..]);
        page[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// What a page says; `None` if it is torn, or was never written.
    pub fn parse(page: &[u8]) -> Option<Self> {
        if page.len() != RECORD_BYTES
            || page[..8] != MAGIC
            || checksum(page).to_le_bytes() != page[CRC_AT..CRC_AT + 4]
        {
            return None;
        }
        let count = usize::from(u16::from_le_bytes(array(page, 52)));
        if count > REGISTRANTS_MAX {
            return None;
        }
        let registrant = |index: usize| Registrant {
            host: HostId(array(page, REGISTRANTS_AT + index * REGISTRANT_BYTES)),
            key: Key(long(page, REGISTRANTS_AT + index * REGISTRANT_BYTES + 16)),
        };
        let flags = page[49];
        let state = State {
            registrants: (0..count).map(registrant).collect(),
            reservation: Kind::from_wire(page[50]).map(|kind| Reservation {
                kind,
                holder: (flags & 2 != 0).then(|| HostId(array(page, 64))),
            }),
            generation: u32::from_le_bytes(array(page, 56)),
            persists: flags & 1 != 0,
            ..State::default()
        };
        let place = (page[48] != NO_PLACE).then_some(page[48]);
        let is_sound = state.is_sound() && place.is_none_or(|place| usize::from(place) < PLACES);
        is_sound.then(|| Self {
            disk: Uuid(array(page, 8)),
            version: Version {
                epoch: Epoch(u32::from_le_bytes(array(page, 24))),
                count: long(page, 32),
            },
            place,
            pages: long(page, 40),
            state,
            done: std::array::from_fn(|slot| long(page, DONE_AT + slot * 8)),
            last: Last::default(),
        })
    }
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// CRC-32C of the page without the four bytes that hold it.
fn checksum(page: &[u8]) -> u32 {
    crc32c::portable(crc32c::portable(0, &page[..CRC_AT]), &page[CRC_AT + 4..])
}

/// The newest table of each virtual disk on the drives of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    tables: Vec<Table>,
}

impl Pages {
    /// Where the two copies of each place are: bytes from the start of a member, [`PLACE_BYTES`] long.
    pub fn places() -> impl Iterator<Item = u64> {
        (0..PLACES as u64).map(|place| PAGES_AT + place * PLACE_BYTES as u64)
    }

    /// Takes the copies of one place of a member into account: of each virtual disk the newest that is whole counts.
    pub fn take(&mut self, copies: &[u8]) {
        for table in copies.chunks(RECORD_BYTES).filter_map(Table::parse) {
            match self.tables.iter_mut().find(|known| known.disk == table.disk) {
                Some(known) if known.version < table.version => *known = table,
                Some(_) => {}
                None => self.tables.push(table),
            }
        }
    }

    /// The tables of these virtual disks; what is of others is old.
    pub fn of(mut self, disks: &[Uuid]) -> Vec<Table> {
        self.tables.retain(|table| disks.contains(&table.disk));
        self.tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(count: u64) -> Table {
        Table {
            version: Version {
                epoch: Epoch(3),
                count,
            },
            place: Some(27),
            pages: count,
            state: State {
                registrants: (1..=128)
                    .map(|number| Registrant {
                        host: HostId([number; 16]),
                        key: Key(u64::from(number)),
                    })
                    .collect(),
                reservation: Some(Reservation {
                    kind: Kind::WriteExclusive,
                    holder: Some(HostId([7; 16])),
                }),
                generation: 99,
                persists: true,
                ..State::default()
            },
            done: [1, 2, 3, 4, 5, 6, 7, u64::MAX],
            ..Table::new(Uuid([9; 16]))
        }
    }

    #[test]
    fn a_page_is_read_as_it_was_written_and_a_torn_one_is_none() {
        let mut tables = vec![table(5), Table::new(Uuid([1; 16])), table(6)];
        tables[2].state.reservation = Some(Reservation {
            kind: Kind::ExclusiveAccessAllRegistrants,
            holder: None,
        });
        for table in tables {
            let page = table.encode();
            assert_eq!(Table::parse(&page[..]), Some(table));
            for at in [0, 9, 33, 49, CRC_AT, 500, RECORD_BYTES - 1] {
                let mut torn = page.clone();
                torn[at] ^= 4;
                assert_eq!(Table::parse(&torn[..]), None, "byte {at}");
            }
            assert_eq!(Table::parse(&page[1..]), None);
        }
        assert_eq!(Table::parse(&[0; RECORD_BYTES]), None);
    }

    #[test]
    fn what_is_sound_by_its_sum_alone_is_none() {
        let mut page = table(5).encode();
        page[64] = 200; // The holder is no registrant.
        let crc = checksum(&page[..]);
        page[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Table::parse(&page[..]), None);
    }

    #[test]
    fn the_newest_page_of_each_virtual_disk_counts() {
        let mut pages = Pages::default();
        let mut torn = table(7).encode();
        torn[200] ^= 1;
        let other = Table::new(Uuid([1; 16]));
        pages.take(&[&table(6).encode()[..], &torn[..]].concat());
        pages.take(&[&table(4).encode()[..], &table(5).encode()[..]].concat());
        pages.take(&[&other.encode()[..], &[0; RECORD_BYTES][..]].concat());
        assert_eq!(pages.of(&[Uuid([9; 16]), Uuid([8; 16])]), [table(6)]);
    }

    #[test]
    fn copies_take_turns_and_lie_in_the_head() {
        let places: Vec<u64> = Pages::places().collect();
        assert_eq!(places.len(), VDISKS_MAX);
        assert_eq!(page_offset(0, 4), places[0]);
        assert_eq!(page_offset(27, 5), places[27] + RECORD_BYTES as u64);
        assert!(page_offset(27, 5) + RECORD_BYTES as u64 <= HEAD_BYTES);
    }

    #[test]
    fn of_what_does_not_persist_the_drives_know_that() {
        let mut table = table(5);
        assert_eq!(table.durable(), table);
        table.state.persists = false;
        assert_eq!(table.durable().state, State::default());
        assert_eq!(table.durable().version, table.version);
    }
}
