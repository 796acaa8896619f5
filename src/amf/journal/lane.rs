//! The live lane of one core: a ring of batches on the drives, whose image in memory is where dirty data lies.
//!
//! Owns the ring's space, the batch that is being gathered, the writes under way, and which entries are still owed to
//! the drives. Invariants: whatever was reserved can be appended, so that a dirty row can always be destaged; an entry
//! counts as committed only when every target of its batch has it or is durably failed, and all before it are; the space
//! of an entry is reused only after a tail beyond it is committed in this lane (PROTOCOL H31). Knows neither rows nor
//! bytes: the engine copies payloads to where it is told, the runtime seals each batch with the payload's CRC.

use std::collections::VecDeque;
use std::sync::Arc;

use super::codec::{self, BatchHeader, Entry, JournalLayout};
use super::copies_written;
use super::shared::JournalShared;
use crate::amf::MemberIndex;
use crate::amf::geometry::Geometry;
use crate::amf::replica::Keeping;
use crate::drive::block::MemberLba;

/// Most batches whose writes are under way at a time.
pub const IN_FLIGHT_MAX: u8 = 16;

/// As long as hosts wait for the drives. More gather while these are written: group commit without delay.
const IN_FLIGHT_ALONE: usize = 4;

/// Blocks that are kept back for batches without entries, which only carry a newer tail: the last one stays until the
/// next is committed.
const TAIL_BLOCKS: u64 = 2;

/// A batch of this size is written without waiting for more: larger ones gain little.
const BATCH_BYTES_SOFT: u32 = 256 << 10;

/// Longest batch that other nodes are asked to keep, with its header: one message of the link has it. Longer ones are committed.
pub const KEPT_BYTES_MAX: u32 = (128 << 10) + 4096;

/// The number of a batch; what was appended is committed when all batches up to its own are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchNumber(pub u64);

/// Something owed to the drives: entries from `seq` on that are not retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obligation(u64);

/// Where an entry went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its batch.
    pub batch: BatchNumber,
    /// Its sequence number.
    pub seq: u64,
    /// First block of its payload in the ring.
    pub ring_block: u32,
}

/// What the runtime has to do for the lane, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneAction {
    /// Compute the CRC of the payload, then put what [`Lane::seal`] says into the header's block; at once.
    Seal {
        /// Place among the batches under way.
        slot: u8,
        /// Block of the header in the ring; the payload follows it.
        ring_block: u32,
        /// Length of the payload.
        payload_blocks: u32,
    },
    /// Give other nodes blocks of the ring, which are a batch, to keep in memory; answer [`Lane::kept`] when all of them do. Comes behind its seal.
    Keep {
        /// Which batch.
        batch: BatchNumber,
        /// All before this one are committed.
        committed: BatchNumber,
        /// Highest number of an entry in it.
        seq_max: u64,
        /// Answer [`Lane::sent`], too, when it was sent to all of them.
        reports: bool,
        /// First block in the ring.
        ring_block: u32,
        /// Length.
        blocks: u32,
    },
    /// Write blocks of the ring to a member with Force Unit Access; answer [`Lane::written`].
    Write {
        /// Place among the batches under way.
        slot: u8,
        /// To which member.
        member: MemberIndex,
        /// Where on the member.
        lba: MemberLba,
        /// First block in the ring.
        ring_block: u32,
        /// Length.
        blocks: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Entries are added to it.
    Open,
    /// Waits for a slot.
    Closed,
    /// Its writes are under way.
    Writing,
    /// All is answered, but a target that refused it is not durably failed yet.
    AwaitingMembers,
    Committed,
}

#[derive(Debug)]
struct Batch {
    /// Of the header, in blocks since the start of the incarnation.
    position: u64,
    payload_blocks: u32,
    state: State,
    /// Highest of its entries, 0 without any.
    seq_max: u64,
    /// The tail that its header carries.
    tail: u64,
    /// Until it is committed.
    entries: Vec<Entry>,
    /// Other nodes were asked to keep it.
    is_shown: bool,
    /// They do.
    is_kept: bool,
    /// It was sent to all of them.
    is_sent: bool,
    /// Somebody wants to hear that.
    reports: bool,
    /// Writes to be answered.
    pending: u8,
    /// Members that have it.
    done: u32,
    /// Members that refused it.
    errors: u32,
}

#[derive(Clone, Copy, Debug)]
struct Owed {
    seq: u64,
    discharged: bool,
}

/// Members that are durably not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Away {
    /// Those on which nobody may rely.
    pub failed: u32,
    /// Those of them that have no drive; the others are being rebuilt.
    pub lost: u32,
}

/// What a lane is made of.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// Where the journal is.
    pub layout: JournalLayout,
    /// Which lane of it.
    pub lane: u16,
    /// Shape of the group, which says how many members a batch goes to.
    pub geometry: Geometry,
    /// Longest payload of one append in blocks; check data of one row counts as one.
    pub append_blocks_max: u32,
    /// Numbers of all lanes.
    pub shared: Arc<JournalShared>,
    /// Number of the first batch: above those of all batches that an earlier writer of the lane has left in this incarnation.
    pub first_batch: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Lane {
    config: LaneConfig,
    entries_max: usize,
    /// Where the next batch starts, in blocks since the start of the incarnation.
    head: u64,
    /// Blocks before it may be written over.
    free: u64,
    reserved: u64,
    /// Batches whose space is in use, in order.
    batches: VecDeque<Batch>,
    /// Number of the first of them.
    first: u64,
    /// First batch that is not under way or committed yet.
    next_issue: u64,
    /// All batches below are committed.
    committed: u64,
    /// All batches below are committed or kept by other nodes.
    safe: u64,
    /// All batches below are safe, or were sent to all who are to keep them.
    sent: u64,
    /// Hosts may have been told of what is below.
    told: u64,
    /// As it was when others were asked for the last time whom nobody had asked before.
    told_before: u64,
    /// Other nodes are to keep batches until they are committed.
    keeping: Keeping,
    /// Those who keep batches were asked for this one and later ones.
    asked_from: u64,
    /// Batches below are to be written, though there is room in them.
    wanted: u64,
    slots: [Option<u64>; IN_FLIGHT_MAX as usize],
    /// Highest tail that a committed batch carries, and the newest such batch: it stays until a newer one is committed.
    tail: (u64, u64),
    owed: VecDeque<Owed>,
    owed_first: u64,
    spare_entries: Vec<Vec<Entry>>,
}

/// [`Lane::capacity`] of the lanes of a journal.
pub fn capacity_of(layout: &JournalLayout, append_blocks_max: u32) -> u64 {
    u64::from(layout.lane_blocks).saturating_sub(TAIL_BLOCKS + 1 + u64::from(append_blocks_max))
}

impl Lane {
    /// An empty lane.
    ///
    /// Panics if the lane is too short for its longest append; [`JournalLayout`] refuses such.
    pub fn new(config: LaneConfig) -> Self {
        assert!(config.lane < config.layout.lanes, "a core has a lane of its own");
        let lane = Self {
            entries_max: codec::entries_max(config.layout.block),
            head: 0,
            free: 0,
            reserved: 0,
            batches: VecDeque::new(),
            first: config.first_batch,
            next_issue: config.first_batch,
            committed: config.first_batch,
            safe: config.first_batch,
            sent: config.first_batch,
            told: config.first_batch,
            told_before: config.first_batch,
            keeping: Keeping::Nobody,
            asked_from: config.first_batch,
            wanted: 0,
            slots: [None; IN_FLIGHT_MAX as usize],
            tail: (0, config.first_batch),
            owed: VecDeque::new(),
            owed_first: 0,
            spare_entries: Vec::new(),
            config,
        };
        assert!(
            lane.capacity() >= 2 * u64::from(lane.config.append_blocks_max),
            "a lane has room for more than one append"
        );
        lane
    }

    /// Batches may go to more members from here on: those of this shape, which differs in nothing else.
    pub fn widen(&mut self, geometry: Geometry) {
        assert!(
            geometry.members() >= self.config.geometry.members(),
            "members are only added"
        );
        self.config.geometry = geometry;
    }

    /// Blocks that entries and headers may take: a batch is never cut at the lane's end, so the blocks of one may be lost there.
    pub fn capacity(&self) -> u64 {
        capacity_of(&self.config.layout, self.config.append_blocks_max)
    }

    /// Blocks in use or promised.
    pub fn used(&self) -> u64 {
        self.head - self.free + self.reserved
    }

    /// Blocks that would be in use or promised if everything before a place came back.
    pub fn used_from(&self, place: u64) -> u64 {
        self.head - place.max(self.free) + self.reserved
    }

    /// Where a batch begins, which must not be committed yet, in blocks since the start of the incarnation.
    pub fn place(&self, batch: BatchNumber) -> u64 {
        let index = usize::try_from(batch.0 - self.first).expect("as many as are in memory");
        self.batches[index].position
    }

    /// Promises room for appends of this many blocks, headers counted, one for each append. False if there is none now.
    pub fn reserve(&mut self, blocks: u64) -> bool {
        let fits = self.used() + blocks <= self.capacity();
        if fits {
            self.reserved += blocks;
        }
        fits
    }

    /// Gives back what was promised and is not needed, or has been appended.
    pub fn release(&mut self, blocks: u64) {
        assert!(blocks <= self.reserved, "only what was promised is given back");
        self.reserved -= blocks;
    }

    /// Takes the next sequence number. The row's lock must be held, so that numbers order the changes of a row.
    fn next_seq(&self) -> u64 {
        self.config.shared.enter(self.config.lane)
    }

    /// Appends one entry. Its room was reserved: the caller releases that afterwards.
    ///
    /// `entry` makes the entry from its sequence number and the payload's first block in the batch.
    pub fn append(&mut self, payload_blocks: u32, entry: impl FnOnce(u64, u32) -> Entry) -> Appended {
        self.prepare(1, payload_blocks);
        let seq = self.next_seq();
        self.push(seq, payload_blocks, entry)
    }

    /// Sees to it that an open batch has room for so many entries and blocks, for entries that belong together.
    pub fn prepare(&mut self, entries: usize, payload_blocks: u32) {
        assert!(
            entries <= self.entries_max && payload_blocks <= self.config.append_blocks_max,
            "what belongs together fits one batch"
        );
        let lane_blocks = u64::from(self.config.layout.lane_blocks);
        let keeps = self.keeps();
        if let Some(batch) = self.batches.back_mut().filter(|batch| batch.state == State::Open) {
            let end = batch.position % lane_blocks + 1 + u64::from(batch.payload_blocks + payload_blocks);
            let shift = self.config.layout.block.shift();
            // What nobody else keeps waits for the drives.
            let soft = match keeps {
                true => (KEPT_BYTES_MAX >> shift) - 1,
                false => BATCH_BYTES_SOFT >> shift,
            };
            let fits = batch.entries.len() + entries <= self.entries_max
                && end <= lane_blocks
                && (batch.payload_blocks == 0 || batch.payload_blocks + payload_blocks <= soft);
            if fits {
                return;
            }
            batch.state = State::Closed;
        }
        self.open(payload_blocks);
    }

    fn open(&mut self, payload_blocks: u32) {
        let lane_blocks = u64::from(self.config.layout.lane_blocks);
        let offset = self.head % lane_blocks;
        if offset + 1 + u64::from(payload_blocks) > lane_blocks {
            self.head += lane_blocks - offset;
        }
        let entries = self
            .spare_entries
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(self.entries_max));
        self.batches.push_back(Batch {
            position: self.head,
            payload_blocks: 0,
            state: State::Open,
            seq_max: 0,
            tail: 0,
            entries,
            is_shown: false,
            is_kept: false,
            is_sent: false,
            reports: false,
            pending: 0,
            done: 0,
            errors: 0,
        });
        self.head += 1;
        assert!(
            self.head + u64::from(payload_blocks) <= self.free + lane_blocks,
            "what is appended was reserved"
        );
    }

    /// Appends one of several entries that were prepared for together, all with one number.
    pub fn push(&mut self, seq: u64, payload_blocks: u32, entry: impl FnOnce(u64, u32) -> Entry) -> Appended {
        let lane_blocks = u64::from(self.config.layout.lane_blocks);
        let number = BatchNumber(self.first + self.batches.len() as u64 - 1);
        let batch = self.batches.back_mut().expect("a batch was prepared");
        assert!(batch.state == State::Open, "entries go to the open batch");
        let offset = batch.payload_blocks;
        batch.entries.push(entry(seq, offset));
        batch.payload_blocks += payload_blocks;
        batch.seq_max = batch.seq_max.max(seq);
        let ring_block = u32::try_from(batch.position % lane_blocks + 1 + u64::from(offset))
            .expect("a lane has fewer than 2^32 blocks");
        self.head += u64::from(payload_blocks);
        assert!(
            self.head <= self.free + lane_blocks,
            "what is appended was reserved"
        );
        Appended {
            batch: number,
            seq,
            ring_block,
        }
    }

    /// Takes a number for entries that are pushed together; see [`Lane::prepare`].
    pub fn number(&self) -> u64 {
        self.next_seq()
    }

    /// From now on an entry with this number and all later ones of its row are owed to the drives.
    pub fn oblige(&mut self, seq: u64) -> Obligation {
        assert!(
            self.owed.back().is_none_or(|last| last.seq < seq),
            "obligations come in order"
        );
        self.owed.push_back(Owed {
            seq,
            discharged: false,
        });
        Obligation(self.owed_first + self.owed.len() as u64 - 1)
    }

    /// Everything that was owed is durable in its place.
    pub fn discharge(&mut self, obligation: Obligation) {
        let index = usize::try_from(obligation.0 - self.owed_first).expect("as many as are in memory");
        let owed = &mut self.owed[index];
        assert!(!owed.discharged, "an obligation is discharged once");
        owed.discharged = true;
        let mut moved = false;
        while self.owed.front().is_some_and(|owed| owed.discharged) {
            self.owed.pop_front();
            self.owed_first += 1;
            moved = true;
        }
        if moved {
            let lowest = self.owed.front().map(|owed| owed.seq);
            self.config.shared.set_lowest(self.config.lane, lowest);
        }
    }

    /// The lowest number that is owed to the drives.
    pub fn lowest(&self) -> Option<u64> {
        self.owed.front().map(|owed| owed.seq)
    }

    /// The oldest batch whose entries count for the tail. The keeper of the tail may be in front of it, without entries of its own or
    /// with none that count any more.
    fn oldest_with_entries(&self) -> Option<&Batch> {
        let counts = |batch: &&Batch| batch.seq_max > 0 && batch.seq_max >= self.tail.0;
        self.batches.iter().find(counts)
    }

    /// Whether something in the oldest batch is owed by this lane, so that none of its space comes back before that is retired.
    pub fn owes_its_oldest(&self) -> bool {
        self.oldest_with_entries()
            .is_some_and(|oldest| self.lowest().is_some_and(|lowest| lowest <= oldest.seq_max))
    }

    /// The number that the tail has to reach before any space comes back, if it is not this lane that holds it up.
    pub fn space_waits_for(&self) -> Option<u64> {
        let oldest = self.oldest_with_entries()?;
        let waits = oldest.state == State::Committed && !self.owes_its_oldest();
        (waits && oldest.seq_max >= self.config.shared.tail()).then_some(oldest.seq_max + 1)
    }

    /// The number that the next entry gets at the earliest.
    pub fn next_number(&self) -> u64 {
        self.config.shared.entered()
    }

    /// Whether nothing is owed to the drives.
    pub fn is_retired(&self) -> bool {
        self.owed.is_empty()
    }

    /// All up to this batch shall be committed soon.
    pub fn want(&mut self, batch: BatchNumber) {
        self.wanted = self.wanted.max(batch.0 + 1);
    }

    /// All that was appended shall be committed soon; the last batch of it, if there is any that is not.
    pub fn want_all(&mut self) -> Option<BatchNumber> {
        let end = self.first + self.batches.len() as u64;
        self.wanted = end;
        (self.committed < end).then(|| BatchNumber(end - 1))
    }

    /// Whether this batch and all before it are committed.
    pub fn is_committed(&self, batch: BatchNumber) -> bool {
        batch.0 < self.committed
    }

    /// Whether this batch and all before it are committed or kept by other nodes.
    pub fn is_safe(&self, batch: BatchNumber) -> bool {
        batch.0 < self.safe
    }

    /// From now on batches go to other nodes, too, or not any more. Either way what others keep or are asked to keep now counts no more: there may be others.
    pub fn keep(&mut self, keeping: Keeping) {
        self.keeping = keeping;
        self.told_before = self.told;
        (self.safe, self.sent) = (self.committed, self.committed);
        self.asked_from = self.next_issue;
        for batch in &mut self.batches {
            (batch.is_kept, batch.is_sent) = (false, false);
        }
    }

    /// All other nodes that were asked keep this batch. True if something is safe by that. To be told of those only that were asked for since [`Self::keep`].
    pub fn kept(&mut self, batch: BatchNumber) -> bool {
        let Some(batch) = self.batch_mut(batch) else {
            return false; // It is over.
        };
        assert!(batch.is_shown, "who was not asked does not answer");
        batch.is_kept = true;
        self.advance_safe()
    }

    fn batch_mut(&mut self, batch: BatchNumber) -> Option<&mut Batch> {
        let index = batch.0.checked_sub(self.first)?;
        self.batches.get_mut(usize::try_from(index).ok()?)
    }

    /// A host is to be told of what was just appended as soon as its batch was sent.
    pub fn report(&mut self, batch: BatchNumber) {
        if let Some(batch) = self.batch_mut(batch) {
            batch.reports = true;
        }
    }

    /// This batch was sent to all other nodes that are to keep it. True if something more is sent by that. To be told of those only that were asked for since [`Self::keep`].
    pub fn sent(&mut self, batch: BatchNumber) -> bool {
        let (first, asked_from) = (self.first, self.asked_from);
        let Some(last) = batch.0.checked_sub(first) else {
            return false; // It is over.
        };
        // Those before it were sent before it.
        for (number, batch) in (first..=first + last).zip(&mut self.batches) {
            batch.is_sent |= batch.is_shown && number >= asked_from;
        }
        self.advance_sent()
    }

    /// Whether this batch and all before it were sent to all who are to keep them, or are safe.
    pub fn is_sent(&self, batch: BatchNumber) -> bool {
        batch.0 < self.sent
    }

    /// A host is told of something in this batch, whether or not it is safe.
    pub fn tell(&mut self, batch: BatchNumber) {
        self.told = self.told.max(batch.0 + 1);
    }

    /// Whether all that hosts may have been told of is safe now: committed, or kept by those that are asked now.
    pub const fn is_safe_again(&self) -> bool {
        self.told <= self.safe
    }

    /// The same, and as many nodes keep it as are wanted.
    pub const fn is_restored(&self) -> bool {
        match self.keeping {
            Keeping::Few => !self.is_ahead(),
            Keeping::Nobody | Keeping::All => self.is_safe_again(),
        }
    }

    /// Blocks of batches of which hosts may have been told and that are not restored ([`Self::is_restored`]).
    pub fn blocks_to_restore(&self) -> u64 {
        if self.is_restored() {
            return 0;
        }
        let is_few = matches!(self.keeping, Keeping::Few);
        let done = if is_few { self.committed } else { self.safe };
        (self.first..self.told)
            .zip(&self.batches)
            .filter(|(number, _)| *number >= done)
            .map(|(_, batch)| 1 + u64::from(batch.payload_blocks))
            .sum()
    }

    /// Whether all that hosts may have been told of before the last [`Self::keep`] is safe.
    pub const fn is_kept_again(&self) -> bool {
        self.told_before <= self.safe
    }

    /// Whether something was safe at some time that is not committed.
    pub const fn is_ahead(&self) -> bool {
        self.told > self.committed
    }

    /// Whether batches go to other nodes.
    pub const fn keeps(&self) -> bool {
        !matches!(self.keeping, Keeping::Nobody)
    }

    fn advance_safe(&mut self) -> bool {
        let before = self.safe;
        self.safe = self.safe.max(self.committed);
        while let Some(batch) = usize::try_from(self.safe - self.first)
            .ok()
            .and_then(|index| self.batches.get(index))
            && (batch.is_kept || batch.state == State::Committed)
        {
            self.safe += 1;
        }
        self.told = self.told.max(self.safe);
        self.advance_sent();
        self.safe > before
    }

    fn advance_sent(&mut self) -> bool {
        let before = self.sent;
        self.sent = self.sent.max(self.safe);
        while let Some(batch) = usize::try_from(self.sent - self.first)
            .ok()
            .and_then(|index| self.batches.get(index))
            && (batch.is_sent || batch.is_kept || batch.state == State::Committed)
        {
            self.sent += 1;
        }
        self.sent > before
    }

    /// Whether a batch is being gathered, written or decided about.
    pub fn is_busy(&self) -> bool {
        self.committed < self.first + self.batches.len() as u64
    }

    /// Starts what writes may start. `starved` says that somebody waits for room.
    pub fn poll(&mut self, away: Away, starved: bool, out: &mut Vec<LaneAction>) {
        self.rewrite(away, out);
        loop {
            let most = if self.keeps() {
                usize::from(IN_FLIGHT_MAX)
            } else {
                IN_FLIGHT_ALONE
            };
            let Some(slot) = self.slots[..most].iter().position(Option::is_none) else {
                return;
            };
            let index = usize::try_from(self.next_issue - self.first).expect("as many as are in memory");
            let next = match self.batches.get(index) {
                Some(batch) => batch.state == State::Closed || self.next_issue < self.wanted,
                // One at a time: only so much room is kept back for them, and what is under way may carry that tail.
                None if starved && !self.is_busy() && self.tail_would_free() => {
                    self.open(0);
                    true
                }
                None => false,
            };
            if !next || !self.issue(self.next_issue, slot, away, out) {
                return;
            }
            self.next_issue += 1;
        }
    }

    /// Whether a batch without entries would give space back by the tail that it carries.
    fn tail_would_free(&self) -> bool {
        let newer = self.config.shared.tail();
        self.oldest_with_entries()
            .is_some_and(|oldest| oldest.state == State::Committed && oldest.seq_max < newer)
    }

    /// Writes a batch to members that live. False if there are none.
    fn issue(&mut self, number: u64, slot: usize, away: Away, out: &mut Vec<LaneAction>) -> bool {
        let config = &self.config;
        let index = usize::try_from(number - self.first).expect("as many as are in memory");
        let keeps = self.keeps();
        let batch = &mut self.batches[index];
        let slot_number = u8::try_from(slot).expect("a handful of slots");
        let ring_block = u32::try_from(batch.position % u64::from(config.layout.lane_blocks))
            .expect("a lane has fewer than 2^32 blocks");
        batch.state = State::Writing;
        batch.tail = config.shared.tail();
        batch.errors = 0;
        let before = out.len();
        out.push(LaneAction::Seal {
            slot: slot_number,
            ring_block,
            payload_blocks: batch.payload_blocks,
        });
        let blocks = 1 + batch.payload_blocks;
        let is_small = blocks << config.layout.block.shift() <= KEPT_BYTES_MAX;
        let shows = keeps && is_small && batch.seq_max > 0 && !batch.is_shown;
        if shows {
            batch.is_shown = true;
            out.push(LaneAction::Keep {
                batch: BatchNumber(number),
                committed: BatchNumber(self.committed),
                seq_max: batch.seq_max,
                reports: batch.reports,
                ring_block,
                blocks,
            });
        }
        for member in targets(&config.geometry, number, away) {
            batch.pending += 1;
            out.push(LaneAction::Write {
                slot: slot_number,
                member,
                lba: config.layout.lba(config.lane, ring_block),
                ring_block,
                blocks,
            });
        }
        if batch.pending == 0 {
            // It is shown when it is issued.
            batch.is_shown &= !shows;
            out.truncate(before);
            batch.state = State::Closed;
            return false;
        }
        self.slots[slot] = Some(number);
        true
    }

    /// The header of the batch in a slot, whose payload has this CRC, into one block of the ring.
    pub fn seal(&self, slot: u8, payload_crc: u32, out: &mut [u8]) {
        let number = self.slots[usize::from(slot)].expect("a batch that is sealed is under way");
        let index = usize::try_from(number - self.first).expect("as many as are in memory");
        let batch = &self.batches[index];
        let layout = &self.config.layout;
        let header = BatchHeader {
            group: layout.group,
            incarnation: layout.incarnation,
            lane: self.config.lane,
            batch: number,
            position: u32::try_from(batch.position % u64::from(layout.lane_blocks))
                .expect("a lane has fewer than 2^32 blocks"),
            tail: batch.tail,
            payload_blocks: batch.payload_blocks,
        };
        codec::encode(&header, &batch.entries, payload_crc, out);
    }

    /// A member has answered a write. True if something was committed by that.
    pub fn written(&mut self, slot: u8, member: MemberIndex, ok: bool, away: Away) -> bool {
        let number = self.slots[usize::from(slot)].expect("a write belongs to a batch under way");
        let index = usize::try_from(number - self.first).expect("as many as are in memory");
        let batch = &mut self.batches[index];
        assert!(
            batch.state == State::Writing && batch.pending > 0,
            "each write is answered once"
        );
        batch.pending -= 1;
        if ok {
            batch.done |= 1 << member.0;
        } else {
            batch.errors |= 1 << member.0 & !away.lost;
        }
        if batch.pending > 0 {
            return false;
        }
        batch.state = State::AwaitingMembers;
        self.settle_batch(number, slot, away.failed)
    }

    /// Other members are durably away: batches that waited for that go on. True if something was committed by that.
    pub fn members_changed(&mut self, away: Away) -> bool {
        let mut any = false;
        for slot in 0..IN_FLIGHT_MAX {
            if let Some(number) = self.slots[usize::from(slot)] {
                let index = usize::try_from(number - self.first).expect("as many as are in memory");
                let batch = &mut self.batches[index];
                // For good: a drive that takes a lost one's place has none of it.
                batch.done &= !away.lost;
                batch.errors &= !away.lost;
                any |= self.settle_batch(number, slot, away.failed);
            }
        }
        any
    }

    fn settle_batch(&mut self, number: u64, slot: u8, failed: u32) -> bool {
        let index = usize::try_from(number - self.first).expect("as many as are in memory");
        let batch = &mut self.batches[index];
        if batch.state != State::AwaitingMembers || batch.errors != 0 {
            return false;
        }
        if batch.done & !failed == 0 {
            // Nobody who is left has it: the next poll asks others.
            return false;
        }
        batch.state = State::Committed;
        self.slots[usize::from(slot)] = None;
        let mut entries = std::mem::take(&mut batch.entries);
        entries.clear();
        self.spare_entries.push(entries);
        if batch.tail >= self.tail.0 {
            self.tail = (batch.tail, self.tail.1.max(number));
        }
        self.advance();
        true
    }

    /// Batches that no target holds any more are written again, to members that live: the last answer may have come
    /// before the members changed or after it.
    fn rewrite(&mut self, away: Away, out: &mut Vec<LaneAction>) {
        for slot in 0..usize::from(IN_FLIGHT_MAX) {
            let Some(number) = self.slots[slot] else { continue };
            let index = usize::try_from(number - self.first).expect("as many as are in memory");
            let batch = &self.batches[index];
            let lost =
                batch.state == State::AwaitingMembers && batch.errors == 0 && batch.done & !away.failed == 0;
            if lost {
                self.issue(number, slot, away, out);
            }
        }
    }

    /// Moves the committed mark and gives space back.
    fn advance(&mut self) {
        let is_committed = |number: u64| {
            let index = usize::try_from(number - self.first).expect("as many as are in memory");
            self.batches
                .get(index)
                .is_some_and(|batch| batch.state == State::Committed)
        };
        let mut committed = self.committed;
        while is_committed(committed) {
            committed += 1;
        }
        self.committed = committed;
        self.advance_safe();
        let (tail, keeper) = self.tail;
        while let Some(front) = self.batches.front() {
            let over = self.first < self.committed && front.seq_max < tail && self.first != keeper;
            if !over {
                break;
            }
            self.batches.pop_front();
            self.first += 1;
            self.free = self.batches.front().map_or(self.head, |batch| batch.position);
        }
    }
}

/// The members that a batch goes to, one bit for each: as many as the journal keeps copies, and more where that is needed so that
/// no loss which the group survives takes all of them (a level of paired copies survives the loss of one of each pair).
///
/// That shall hold too when the members under rebuild are members again, so these get it as well where it would not. They never count
/// before: none if no other member is left.
fn targets(geometry: &Geometry, number: u64, away: Away) -> impl Iterator<Item = MemberIndex> {
    let members = geometry.members();
    let all = u32::MAX >> (u32::BITS - u32::from(members));
    // Batches go round the members, so that all carry the journal's load; by pairs, because pairs hold the same strips.
    let turn = u8::try_from(number % u64::from(members)).expect("a group has at most 32 members");
    let start = if members.is_multiple_of(2) {
        turn & !1
    } else {
        turn
    };
    // Those beyond do not hold any of it yet.
    let (failed, lost) = (away.failed & all, away.lost & all);
    let mut chosen = 0_u32;
    // First without the members under rebuild, then with them.
    for (gone, candidates) in [(failed, all & !failed), (lost, failed & !lost)] {
        let copies = copies_written(geometry, (all & !gone).count_ones());
        for member in (0..members).map(|step| (start + step) % members) {
            if candidates >> member & 1 == 1
                && (chosen.count_ones() < copies || geometry.survives(gone | chosen))
            {
                chosen |= 1 << member;
            }
        }
        if chosen == 0 {
            break;
        }
    }
    (0..members)
        .filter(move |member| chosen >> member & 1 == 1)
        .map(MemberIndex)
}
