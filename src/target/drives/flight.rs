//! The drive commands of a core that are under way, oldest first for each drive.
//!
//! An entry is a place in a table that grows only when more commands are under way than ever before; the lists are
//! threaded through it. So looking for the oldest command of a drive costs nothing, however many there are.

use reactor::{Nanos, Span};

use super::Kind;
use super::hung::Held;
use crate::amf::engine::{IoTag, Place};
use crate::drive::DriveError;

/// No entry.
const NONE: u32 = u32::MAX;
/// Bits of a generation: with the place in the table it is the payload of a token, 56 bits.
const GENERATION_MASK: u32 = 0x00ff_ffff;

/// Names a flight; a name that is used up finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlightKey {
    index: u32,
    generation: u32,
}

impl FlightKey {
    /// As the payload of a token.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// From the payload of a token.
    pub fn from_bits(bits: u64) -> Self {
        Self {
            index: u32::try_from(bits & 0xffff_ffff).expect("masked"),
            generation: u32::try_from(bits >> 32).expect("a token's payload is 56 bits"),
        }
    }
}

/// Who has a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The kernel.
    Kernel,
    /// Nobody: it is done, and its answer is due later.
    Delayed(Result<(), DriveError>),
    /// Nobody: its drive hangs on an operator's word.
    Parked,
}

/// A drive command that is under way.
#[derive(Debug)]
pub struct Flight {
    /// Which drive.
    pub drive: u16,
    /// Whose.
    pub group: u16,
    /// Its name there.
    pub tag: IoTag,
    /// What is done.
    pub kind: Kind,
    /// Where its memory is, for the engine.
    pub place: Option<Place>,
    /// Where its memory is.
    pub span: Option<Span>,
    /// In the drive, in bytes.
    pub at: u64,
    /// Length in bytes.
    pub bytes: u32,
    /// When it began.
    pub started: Nanos,
    /// The same by the core's clock of the time in which it looked around.
    pub started_awake: Nanos,
    /// Times that it was tried again.
    pub retries: u8,
    /// Who has it.
    pub stage: Stage,
    /// Its engine was told an error in the drive's place; this memory is kept until the drive answers.
    pub held: Option<Held>,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    flight: Option<Flight>,
    previous: u32,
    /// The next of its drive, or the next free entry.
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

/// All flights of a core.
#[derive(Debug)]
pub struct Flights {
    entries: Vec<Entry>,
    free: u32,
    drives: Box<[Ends]>,
}

impl Flights {
    /// None, of this many drives.
    pub fn new(drives: usize) -> Self {
        Self {
            entries: Vec::new(),
            free: NONE,
            drives: vec![
                Ends {
                    first: NONE,
                    last: NONE
                };
                drives
            ]
            .into(),
        }
    }

    /// Adds the youngest flight of its drive.
    pub fn insert(&mut self, flight: Flight) -> FlightKey {
        let drive = usize::from(flight.drive);
        let previous = self.drives[drive].last;
        let index = if self.free == NONE {
            let index = u32::try_from(self.entries.len()).expect("fewer than engines have pieces");
            assert!(index < NONE, "the last index means no entry");
            self.entries.push(Entry {
                generation: 0,
                flight: Some(flight),
                previous,
                next: NONE,
            });
            index
        } else {
            let index = self.free;
            let entry = &mut self.entries[index as usize];
            self.free = entry.next;
            assert!(entry.flight.is_none(), "a free entry holds nothing");
            entry.flight = Some(flight);
            entry.previous = previous;
            entry.next = NONE;
            index
        };
        match previous {
            NONE => self.drives[drive].first = index,
            previous => self.entries[previous as usize].next = index,
        }
        self.drives[drive].last = index;
        FlightKey {
            index,
            generation: self.entries[index as usize].generation,
        }
    }

    /// The flight of this name, while it is under way.
    pub fn find(&mut self, key: FlightKey) -> Option<&mut Flight> {
        self.entries
            .get_mut(key.index as usize)
            .filter(|entry| entry.generation == key.generation)?
            .flight
            .as_mut()
    }

    /// Takes a flight out. Panics if it is not under way: a drive answers once.
    pub fn remove(&mut self, key: FlightKey) -> Flight {
        let entry = &mut self.entries[key.index as usize];
        assert_eq!(entry.generation, key.generation, "a drive answers a command once");
        let flight = entry.flight.take().expect("a drive answers a command once");
        let (previous, next) = (entry.previous, entry.next);
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        entry.next = self.free;
        self.free = key.index;
        let drive = usize::from(flight.drive);
        match previous {
            NONE => self.drives[drive].first = next,
            previous => self.entries[previous as usize].next = next,
        }
        match next {
            NONE => self.drives[drive].last = previous,
            next => self.entries[next as usize].previous = previous,
        }
        flight
    }

    /// The names of a drive's flights, oldest first.
    pub fn of_drive(&self, drive: u16) -> Vec<FlightKey> {
        let mut keys = Vec::new();
        let mut next = self.drives[usize::from(drive)].first;
        while next != NONE {
            let entry = &self.entries[next as usize];
            keys.push(FlightKey {
                index: next,
                generation: entry.generation,
            });
            next = entry.next;
        }
        keys
    }

    /// Whether a group's engine still awaits answers of a drive.
    pub fn owe_engine(&self, drive: u16, group: u16) -> bool {
        let mut next = self.drives[usize::from(drive)].first;
        while next != NONE {
            let entry = &self.entries[next as usize];
            let flight = entry.flight.as_ref().expect("a listed entry holds a flight");
            if flight.group == group && flight.held.is_none() {
                return true;
            }
            next = entry.next;
        }
        false
    }

    /// When the oldest flight of a drive began, by the clock of the time awake, and how many of its flights were given up.
    ///
    /// Looks no further than the first that was not given up, unless there are some: then at all.
    pub fn oldest(&self, drive: u16) -> (Option<Nanos>, u32) {
        let mut given_up = 0;
        let mut oldest = None;
        let mut next = self.drives[usize::from(drive)].first;
        while next != NONE {
            let entry = &self.entries[next as usize];
            let flight = entry.flight.as_ref().expect("a listed entry holds a flight");
            if flight.held.is_some() {
                given_up += 1;
            } else {
                oldest = oldest.or(Some(flight.started_awake));
                if given_up == 0 {
                    break;
                }
            }
            next = entry.next;
        }
        (oldest, given_up)
    }

    /// All flights.
    pub fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.entries.iter().filter_map(|entry| entry.flight.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(drive: u16, started: Nanos) -> Flight {
        Flight {
            drive,
            group: 0,
            tag: IoTag(7),
            kind: Kind::Flush,
            place: None,
            span: None,
            at: 0,
            bytes: 0,
            started,
            started_awake: started,
            retries: 0,
            stage: Stage::Kernel,
            held: None,
        }
    }

    #[test]
    fn the_oldest_of_each_drive_is_found_whatever_ends_first() {
        let mut flights = Flights::new(2);
        let keys: Vec<_> = (0..6)
            .map(|at| flights.insert(flight(at % 2, 10 + Nanos::from(at))))
            .collect();
        assert_eq!(
            (flights.oldest(0), flights.oldest(1)),
            ((Some(10), 0), (Some(11), 0))
        );
        flights.remove(keys[2]);
        assert_eq!(flights.oldest(0), (Some(10), 0));
        flights.remove(keys[0]);
        assert_eq!(flights.oldest(0), (Some(14), 0));
        assert_eq!(flights.of_drive(0), [keys[4]]);
        flights.remove(keys[4]);
        assert_eq!(flights.oldest(0), (None, 0));
        assert_eq!(flights.of_drive(1), [keys[1], keys[3], keys[5]]);
    }

    #[test]
    fn a_used_up_name_finds_nothing_although_its_place_is_taken() {
        let mut flights = Flights::new(1);
        let first = flights.insert(flight(0, 1));
        flights.remove(first);
        let second = flights.insert(flight(0, 2));
        assert_eq!(FlightKey::from_bits(second.to_bits()), second);
        assert_ne!(first, second);
        assert!(flights.find(first).is_none());
        assert_eq!(flights.find(second).map(|flight| flight.started), Some(2));
    }

    #[test]
    #[should_panic(expected = "a drive answers a command once")]
    fn a_second_answer_is_a_bug() {
        let mut flights = Flights::new(1);
        let first = flights.insert(flight(0, 1));
        flights.remove(first);
        flights.remove(first);
    }

    #[test]
    fn what_was_given_up_is_counted_apart() {
        let mut flights = Flights::new(1);
        let first = flights.insert(flight(0, 1));
        flights.insert(flight(0, 2));
        flights.find(first).expect("under way").held = Some(Held::Nothing);
        assert_eq!(flights.oldest(0), (Some(2), 1));
        assert!(flights.owe_engine(0, 0) && !flights.owe_engine(0, 1));
        let second = flights.of_drive(0)[1];
        flights.find(second).expect("under way").held = Some(Held::Nothing);
        assert!(!flights.owe_engine(0, 0), "its engine was told");
    }
}
