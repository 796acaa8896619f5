//! What the lanes of all members hold after a stop: whole batches, each once.
//!
//! A header counts if it is this group's, of this incarnation, and lies where it says. Its tail is true
//! whether or not its payload is whole, because everything below was retired before it was encoded. The
//! batch counts if its payload is whole; one that was torn, or overwritten in part by a later one, fails
//! its checksum. Of the recovery lane only the newest round counts whose first batch, at the start of the
//! lane, is whole: earlier rounds are in place and flushed before that one is written. And of marks the newest one
//! that is whole anywhere.
//!
//! A lane may have a *floor*: its entries with lower numbers are over, because others have brought their rows up to date. A floor is no tail: it says
//! nothing of other lanes. And the nodes of some lanes may be *living*, that is, write while they are read. A batch of theirs that is not whole is just
//! being written or written over, and one that contradicts another is none of ours.

use std::collections::{BTreeMap, BTreeSet};

use nvme::crc32c;
use thiserror::Error;

use super::codec::{self, Batch, JournalLayout, ParseError};
use super::mark::{self, Mark};
use crate::amf::MemberIndex;
use crate::amf::expansion::Layout;
use crate::amf::superblock::{LANES_MAX, LaneFloors};

/// Names a batch: the same batch on several members counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    lane: u16,
    batch: u64,
    position: u32,
}

/// A whole batch that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBatch {
    /// Its header and entries, those below the tail included.
    pub batch: Batch,
    /// What the entries refer to.
    pub payload: Vec<u8>,
    /// Bit `i` is set when member `i` has it whole.
    pub members: u32,
}

/// What all lanes hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whole batches with an entry that counts, by lane and number.
    pub batches: Vec<FoundBatch>,
    /// Every entry with a lower sequence number is dead, in any lane.
    pub tail: u64,
    /// Above every sequence number that any header names, and not below the tail.
    pub next_seq: u64,
    /// The largest number of a round in the recovery lane, whole or not; 0 if there is none.
    pub round: u64,
    /// Batches with an entry that counts, in lanes whose nodes are not living, that are whole nowhere.
    pub torn_batches: u64,
    /// Entries of each lane below are over.
    pub floors: LaneFloors,
    /// The newest whole mark that counts.
    pub mark: Option<FoundMark>,
    /// The largest number of a mark, whole or not; 0 if there is none.
    pub mark_number: u64,
}

/// A whole mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundMark {
    /// What it says.
    pub mark: Mark,
    /// Bit `i` is set when member `i` has it whole.
    pub members: u32,
}

impl Found {
    /// Whether an entry of this lane with this number counts.
    pub fn counts(&self, lane: u16, seq: u64) -> bool {
        seq >= first_counting(self.tail, &self.floors, lane)
    }

    /// Whether an entry of any of so many lanes with this number counts.
    pub fn counts_anywhere(&self, mut lanes: std::ops::Range<u16>, seq: u64) -> bool {
        lanes.any(|lane| self.counts(lane, seq))
    }
}

/// A record of this opening of the group that cannot be; nothing is replayed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "journal of member {}, lane {lane}, block {position}: {what}; let the program that wrote it open the group",
    member.0
)]
pub struct ScanError {
    /// Where it was found.
    pub member: MemberIndex,
    /// In this lane.
    pub lane: u16,
    /// At this block of the lane.
    pub position: u32,
    /// What is wrong.
    pub what: Impossible,
}

/// What is wrong with a record whose checksums fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Impossible {
    /// It names blocks that the group has not.
    #[error("an entry lies outside of the group")]
    Outside,
    /// Another member has another batch of the same name.
    #[error("two members contradict each other")]
    Contradiction,
    /// It was written by another version.
    #[error("its format has another version")]
    Version,
}

/// Collects what is found, lane by lane and member by member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    journal: JournalLayout,
    layout: Layout,
    found: BTreeMap<Key, FoundBatch>,
    /// Batches without a whole payload somewhere, with the largest sequence number that they name.
    torn: BTreeMap<Key, u64>,
    tail: u64,
    next_seq: u64,
    round: u64,
    mark: Option<FoundMark>,
    mark_number: u64,
    /// Entries of each lane below are over.
    floors: LaneFloors,
    /// Lanes that are being written, as a mask.
    living: u32,
}

impl Scan {
    /// Nothing found yet.
    pub fn new(journal: JournalLayout, layout: Layout) -> Self {
        Self {
            journal,
            layout,
            found: BTreeMap::new(),
            torn: BTreeMap::new(),
            tail: 0,
            next_seq: 0,
            round: 0,
            mark: None,
            mark_number: 0,
            floors: LaneFloors::default(),
            living: 0,
        }
    }

    /// Entries of each lane below its floor do not count. To be called before anything is scanned.
    pub fn set_floors(&mut self, floors: LaneFloors) {
        assert!(
            self.found.is_empty() && self.torn.is_empty(),
            "floors are known before anything is scanned"
        );
        self.floors = floors;
    }

    /// The nodes of some lanes, as a mask, are living. To be called before anything is scanned.
    ///
    /// Panics if the recovery lane is among them: only a replay writes it, and there is one at a time.
    pub fn set_living(&mut self, lanes: u32) {
        assert!(
            lanes >> self.journal.lanes == 0,
            "a living node has lanes of its own"
        );
        self.living = lanes;
    }

    /// Whether the node of a lane is living.
    pub const fn is_living(&self, lane: u16) -> bool {
        self.living >> lane & 1 == 1
    }

    /// Names everything that was found so far. Scans of the same journal with the same names know the same, as far as checksums tell payloads
    /// apart.
    pub fn summary(&self) -> String {
        let found = self.found.iter();
        let found: Vec<_> = found
            .map(|(key, found)| (key, found.batch.payload_crc, found.members))
            .collect();
        let Self {
            torn,
            tail,
            next_seq,
            round,
            mark,
            mark_number,
            ..
        } = self;
        format!("{tail} {next_seq} {round} {mark_number} {mark:?} {torn:?} {found:?}")
    }

    /// Where lanes are.
    pub const fn journal(&self) -> &JournalLayout {
        &self.journal
    }

    /// Takes all bytes of one lane of one member. A block that could not be read is given as zeroes.
    ///
    /// Errs at a record with fitting checksums that no sound writer of this version writes. Panics if
    /// `bytes` is not a whole lane.
    pub fn lane(&mut self, member: MemberIndex, lane: u16, bytes: &[u8]) -> Result<(), ScanError> {
        let block = self.block_bytes();
        let blocks = self.journal.lane_blocks;
        assert_eq!(bytes.len(), blocks as usize * block, "a lane is scanned whole");
        let mut position = 0;
        while position < blocks {
            let rest = &bytes[position as usize * block..];
            position += self.step(member, lane, position, rest)?;
        }
        self.forget_dead();
        Ok(())
    }

    /// The batch whose header this block is, if it is one that the lane can have there. Errs at a header with fitting
    /// checksums that no sound writer of this version writes.
    pub fn header(
        &self,
        member: MemberIndex,
        lane: u16,
        position: u32,
        block: &[u8],
    ) -> Result<Option<Batch>, ScanError> {
        let impossible = |what| ScanError {
            member,
            lane,
            position,
            what,
        };
        let batch = match codec::parse(block) {
            Ok(batch) => batch,
            Err(ParseError::Version(_))
                if codec::is_of(block, self.journal.group, self.journal.incarnation) =>
            {
                return Err(impossible(Impossible::Version));
            }
            Err(
                ParseError::Version(_)
                | ParseError::Length(_)
                | ParseError::Magic
                | ParseError::Checksum
                | ParseError::Field(_),
            ) => {
                return Ok(None);
            }
        };
        let header = &batch.header;
        let ours = header.group == self.journal.group && header.incarnation == self.journal.incarnation;
        let room = self.journal.lane_blocks - position - 1;
        let placed = header.lane == lane && header.position == position && header.payload_blocks <= room;
        if !ours || !placed {
            return Ok(None);
        }
        let fits = |entry: &codec::Entry| {
            // One of a layout that the group does not have any more names places that nobody goes to.
            let geometry = self.layout.with_members(entry.members());
            geometry.is_none_or(|geometry| entry.fits(geometry))
        };
        if !batch.entries.iter().all(fits) {
            return Err(impossible(Impossible::Outside));
        }
        Ok(Some(batch))
    }

    /// Looks at the block at the start of `rest`, which is what the lane has from this position on; returns how many blocks are done with.
    /// Errs as [`Self::lane`] does. Panics if `rest` is shorter than the payload of a batch that begins it.
    pub fn step(
        &mut self,
        member: MemberIndex,
        lane: u16,
        position: u32,
        rest: &[u8],
    ) -> Result<u32, ScanError> {
        let block = self.block_bytes();
        let Some(batch) = self.header(member, lane, position, &rest[..block])? else {
            let is_mark = lane == self.journal.recovery_lane();
            return Ok(if is_mark {
                self.mark(member, position, rest)
            } else {
                1
            });
        };
        let header = &batch.header;
        self.tail = self.tail.max(header.tail);
        let last = batch.entries.iter().map(codec::Entry::seq).max();
        self.next_seq = self.next_seq.max(last.map_or(0, |seq| seq + 1));
        if lane == self.journal.recovery_lane() {
            self.round = self.round.max(header.batch);
        }
        let key = Key {
            lane,
            batch: header.batch,
            position,
        };
        let payload = &rest[block..][..header.payload_blocks as usize * block];
        if crc32c::portable(0, payload) != batch.payload_crc {
            if !self.is_living(lane) {
                self.torn.insert(key, last.unwrap_or(0));
            }
            return Ok(1);
        }
        let length = header.payload_blocks + 1;
        let found = self.found.entry(key).or_insert_with(|| FoundBatch {
            batch: batch.clone(),
            payload: payload.to_vec(),
            members: 0,
        });
        if found.batch != batch {
            if self.living >> lane & 1 == 1 {
                return Ok(1);
            }
            return Err(ScanError {
                member,
                lane,
                position,
                what: Impossible::Contradiction,
            });
        }
        found.members |= 1 << member.0;
        Ok(length)
    }

    /// Takes a batch that a node has kept in memory for the one that wrote it; to be called when all lanes are scanned. Without effect if it is on a drive, or none of this journal's: whoever
    /// kept it may have kept something older, and what its numbers are below counts no more.
    ///
    /// Errs at a sound batch that names blocks which the group has not.
    pub fn copy(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        let block = self.block_bytes();
        let Some((head, payload)) = bytes.split_at_checked(block) else {
            return Ok(());
        };
        let Ok(Batch {
            header, payload_crc, ..
        }) = codec::parse(head)
        else {
            return Ok(());
        };
        let (lane, position) = (header.lane, header.position);
        let is_placed = lane < self.journal.lanes && position < self.journal.lane_blocks;
        let is_whole = payload.len() == header.payload_blocks as usize * block
            && crc32c::portable(0, payload) == payload_crc;
        if !is_placed || !is_whole || self.is_living(lane) {
            return Ok(());
        }
        let nobody = MemberIndex(u8::MAX);
        let Some(batch) = self.header(nobody, lane, position, head)? else {
            return Ok(());
        };
        self.tail = self.tail.max(header.tail);
        let last = batch.entries.iter().map(codec::Entry::seq).max();
        self.next_seq = self.next_seq.max(last.map_or(0, |seq| seq + 1));
        let key = Key {
            lane,
            batch: header.batch,
            position,
        };
        self.found.entry(key).or_insert_with(|| FoundBatch {
            batch,
            payload: payload.to_vec(),
            members: 0,
        });
        self.forget_dead();
        Ok(())
    }

    /// Length and checksum of the payload of the mark whose header this block is, if it is one that the lane can have there.
    pub fn mark_header(&self, lane: u16, position: u32, block: &[u8]) -> Option<(u32, u32)> {
        let head =
            mark::parse(block, position, &self.journal).filter(|_| lane == self.journal.recovery_lane())?;
        Some((head.payload_blocks, head.rows_crc))
    }

    /// Takes what may be a mark; returns how many blocks are done with.
    fn mark(&mut self, member: MemberIndex, position: u32, rest: &[u8]) -> u32 {
        let block = self.block_bytes();
        let Some(head) = mark::parse(&rest[..block], position, &self.journal) else {
            return 1;
        };
        self.mark_number = self.mark_number.max(head.number);
        self.next_seq = self.next_seq.max(head.seq + 1);
        let payload = &rest[block..][..head.payload_blocks as usize * block];
        let Some(mark) = head.with_rows(payload) else {
            return 1;
        };
        match &mut self.mark {
            Some(found) if found.mark == mark => found.members |= 1 << member.0,
            // Of two with the same number one was written without the member that has the other.
            Some(found)
                if (found.mark.number, found.mark.without.count_ones())
                    > (mark.number, mark.without.count_ones()) => {}
            Some(_) | None => {
                let members = 1 << member.0;
                self.mark = Some(FoundMark { mark, members });
            }
        }
        head.payload_blocks + 1
    }

    /// Says what was found in all lanes of all members.
    pub fn finish(mut self) -> Found {
        self.forget_dead();
        let recovery = self.journal.recovery_lane();
        let anchors = self
            .found
            .keys()
            .filter(|key| key.lane == recovery && key.position == 0);
        let newest = anchors.map(|key| key.batch).max();
        self.found
            .retain(|key, _| key.lane != recovery || Some(key.batch) == newest);
        let whole: BTreeSet<_> = self.found.keys().copied().collect();
        let torn = self.torn.keys();
        let torn = torn.filter(|key| key.lane != recovery && !whole.contains(*key));
        Found {
            torn_batches: torn.count() as u64,
            batches: self.found.into_values().collect(),
            tail: self.tail,
            next_seq: self.next_seq.max(self.tail),
            round: self.round,
            mark: self
                .mark
                .filter(|found| found.mark.seq >= first_counting(self.tail, &self.floors, recovery)),
            mark_number: self.mark_number,
            floors: self.floors,
        }
    }

    /// Drops batches of which nothing counts any more, so that memory holds no more than is needed.
    pub fn forget_dead(&mut self) {
        let (tail, floors) = (self.tail, self.floors);
        let counts = |key: &Key, seq: u64| seq >= first_counting(tail, &floors, key.lane);
        self.torn.retain(|key, last| counts(key, *last));
        self.found.retain(|key, found| {
            let mut entries = found.batch.entries.iter();
            entries.any(|entry| counts(key, entry.seq()))
        });
    }

    fn block_bytes(&self) -> usize {
        self.journal.block.bytes() as usize
    }
}

/// The lowest number of an entry of this lane that counts.
fn first_counting(tail: u64, floors: &LaneFloors, lane: u16) -> u64 {
    tail.max(floors[usize::from(lane)])
}

const _: () = assert!(LANES_MAX < 32, "a mask of lanes has room for all of them");

#[cfg(test)]
mod tests;
