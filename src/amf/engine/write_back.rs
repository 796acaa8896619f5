//! Write-back: writes end in the journal's lane, and their rows stay with this core until they are destaged.
//!
//! Owns the core's lane, the map of dirty blocks, and a *hold* on each row that has some: the row's write lock in the
//! node's table is kept, and operations of this core on it take turns inside the hold. Invariants: nothing that a power
//! cut could take back is ever read (a read waits for the commit of what was appended to its row); a row is written in
//! place only after the commit of its new check data; a row that another core wants is destaged and given up; whatever has
//! room in the lane can be appended and destaged, so nobody waits in a circle (room is taken before locks).

mod destage;
mod hand_over;
mod hold;
mod intent;
mod ram;
mod retire;

use std::collections::VecDeque;
use std::sync::Arc;

use super::Action;

use super::machine::Engine;
use super::piece::{self, Piece, State, Work};
use super::tag::member_of;
use super::{GroupError, IoTag, Place};
use crate::amf::cache::{DirtyExtent, DirtyLimits, DirtyMap, DirtySource, KeyIndex, ROW_RUNS_MAX, RowTable};
use crate::amf::expansion::Layout;
use crate::amf::geometry::Geometry;
use crate::amf::hand_over::EXTENTS_MAX as EXTENTS_HANDED_MAX;
use crate::amf::intent::IntentMap;
use crate::amf::journal::lane::{Away, BatchNumber, Lane, LaneAction, LaneConfig};
use crate::amf::journal::{Entry, JournalLayout, JournalShared, WRITE_BYTES_MAX, entries_max};
use crate::amf::list::{Links, List};
use crate::amf::lost::LostMap;
use crate::amf::replica::{Name, Offer};
use crate::amf::row::{Area, Source, Target};
use crate::drive::DriveError;
pub use hand_over::HandOverCounts;
use hand_over::HandOvers;
use ram::Done;

pub(super) use destage::DESTAGES_MAX;
pub(super) use hold::Hold;

/// Rows that one core keeps at a time: 4096 rows of 192 KiB are far more than a lane holds.
const ROWS_MAX: u32 = 4096;

/// Extents of dirty data that a core remembers; a write adds at most two.
const EXTENTS_MAX: u32 = 1 << 16;

/// Extents of one row: looking through them takes about as long as copying a block.
const ROW_EXTENTS_MAX: u32 = 256;

/// When an operation counts as done towards its host (DESIGN section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When its journal entry is committed.
    Journal,
    /// At once, while [`Engine::allow_ram`] says so; flush and force unit access commit.
    Ram,
}

/// What a core needs to write back.
#[derive(Clone, Debug)]
pub struct WriteBackConfig {
    /// Where the journal is.
    pub layout: JournalLayout,
    /// Lane of core 0; other cores have those behind it. Above 0 where other nodes write to the journal, too: cores are then told apart by
    /// their lanes in [`Action::HurryCores`], [`Action::TailMoved`], [`Action::CommitCores`] and [`Action::Committed`].
    pub first_lane: u16,
    /// Number of the first batch that this life of the node writes to each of its lanes: above all of an earlier one, whose batches are still there
    /// while other nodes have the group open. 0 where the group is one node's: each opening has an incarnation of its own.
    pub first_batch: u64,
    /// Sequence numbers of all cores.
    pub shared: Arc<JournalShared>,
    /// When a write is done.
    pub durability: Durability,
    /// What is acknowledged from memory goes to other nodes, too; whether they keep it before a host is told, each write says.
    pub keeps_copies: bool,
    /// Rows that other nodes want go with their dirty data, and come so: the runtime knows [`Action::Give`] and [`Action::Taken`].
    pub hands_over: bool,
    /// Longest part of a write that is journaled as one, at most [`WRITE_BYTES_MAX`].
    pub write_blocks_max: u32,
    /// Where rows are marked that lost members miss; all cores have the same. Without it a drive that comes back has to be rebuilt whole.
    pub intent: Option<Arc<IntentMap>>,
    /// The list of lost blocks; all cores have the same. Without it rows that cannot be read stay as they are.
    pub lost: Option<Arc<LostMap>>,
}

impl WriteBackConfig {
    /// Most blocks that a lane takes at once: a piece of a write, or check data of a destage.
    fn append_blocks_max(&self, geometry: &Geometry) -> u32 {
        let checks = u32::from(geometry.level().check_strips());
        self.write_blocks_max.max(checks * geometry.strip_blocks())
    }
}

/// The write-back half of an engine.
#[derive(Debug)]
pub(super) struct WriteBack {
    pub(super) lane: Lane,
    durability: Durability,
    write_blocks_max: u32,
    intent: Option<Arc<IntentMap>>,
    pub(super) lost: Option<Arc<LostMap>>,
    ram: ram::Ram,
    /// Rows that this core holds.
    pub(super) rows: RowTable,
    /// The hold of each lock slot that one occupies.
    slots: KeyIndex,
    pub(super) dirty: DirtyMap,
    holds: Box<[Hold]>,
    /// Links `destages`.
    hold_links: Links,
    /// Holds whose destage is due, in order.
    destages: List,
    destages_running: u32,
    /// A destage failed: none is tried until the members change.
    stuck: bool,
    /// Pieces for destages, apart from those of commands: these may all be waiting for room.
    free_pieces: Vec<u32>,
    /// Pieces that wait for room in the lane, in order.
    pub(super) room_waiters: List,
    /// Writes that have room and are not appended yet.
    promised: u32,
    /// Pieces whose batch is not committed yet, in order of batches.
    commit_waiters: List,
    /// Likewise, where it is enough that other nodes keep it.
    safe_waiters: List,
    sent_waiters: List,
    /// Flushes that wait for this lane, in order of batches: up to which batch, and the core that has the flush and its name there.
    commits: VecDeque<(BatchNumber, u16, u32)>,
    lanes: u16,
    own_lane: u16,
    /// Pieces that wait until nothing is dirty and all is retired.
    pub(super) drain_waiters: List,
    retire: retire::Retire,
    /// What other cores wait for.
    hurry: retire::Hurry,
    hand_overs: HandOvers,
    /// Grows with each call of [`Engine::tick`].
    now: u64,
    lane_actions: Vec<LaneAction>,
    /// Runs of dirty data at which a row is destaged: one batch has to say all check data of it.
    runs_max: u32,
}

impl WriteBack {
    pub(super) fn new(config: WriteBackConfig, placement: &Layout, core: u16, pieces_max: u32) -> Self {
        let geometry = placement.widest();
        let (append_blocks_max, fit) = (config.append_blocks_max(geometry), config.fit(geometry));
        let WriteBackConfig {
            layout,
            first_lane,
            first_batch,
            shared,
            durability,
            keeps_copies,
            hands_over,
            write_blocks_max,
            intent,
            lost,
        } = config;
        let block = geometry.block();
        let checks = u32::from(geometry.level().check_strips());
        assert!(
            (1..=WRITE_BYTES_MAX / block.bytes()).contains(&write_blocks_max),
            "a write of the journal has one block to 1 MiB"
        );
        let lane = Lane::new(LaneConfig {
            layout,
            lane: first_lane + core,
            geometry: *placement.relied_on(),
            append_blocks_max,
            shared,
            first_batch,
        });
        let entries = u32::try_from(entries_max(block)).expect("a header has at most 125 entries");
        // A run that goes over the end of a strip is two in the check strips.
        let runs_max = ((entries - 1) / (2 * checks.max(1))).clamp(1, ROW_RUNS_MAX);
        Self {
            lane,
            durability,
            write_blocks_max,
            intent,
            lost,
            ram: ram::Ram::new(keeps_copies),
            rows: RowTable::new(ROWS_MAX),
            slots: KeyIndex::new(ROWS_MAX),
            dirty: DirtyMap::new(DirtyLimits {
                rows_max: ROWS_MAX,
                extents_max: EXTENTS_MAX,
                row_extents_max: ROW_EXTENTS_MAX,
                row_blocks: geometry.row_blocks(),
            }),
            holds: vec![Hold::FREE; ROWS_MAX as usize].into(),
            hold_links: Links::new(ROWS_MAX),
            destages: List::EMPTY,
            destages_running: 0,
            stuck: false,
            free_pieces: (pieces_max..pieces_max + DESTAGES_MAX).rev().collect(),
            room_waiters: List::EMPTY,
            promised: 0,
            commit_waiters: List::EMPTY,
            safe_waiters: List::EMPTY,
            sent_waiters: List::EMPTY,
            commits: VecDeque::new(),
            lanes: layout.lanes,
            own_lane: first_lane + core,
            drain_waiters: List::EMPTY,
            retire: retire::Retire::new(),
            hurry: retire::Hurry::default(),
            hand_overs: HandOvers::new(hands_over, fit),
            now: 0,
            lane_actions: Vec::with_capacity(64),
            runs_max,
        }
    }

    /// Rows get more members, and so does the journal as soon as the group relies on them; none of the layout's other sizes
    /// changes.
    pub(super) fn widen(&mut self, layout: &Layout) {
        self.dirty.widen(layout.widest().row_blocks());
        self.lane.widen(*layout.relied_on());
    }

    /// Whether so many more operations may each take a row of their own, and extents.
    fn has_rows_left(&self, more: usize) -> bool {
        let handed = self.hand_overs.rows_promised();
        let promised = self.promised as usize + handed + more;
        let rows_left = ROWS_MAX as usize - self.rows.rows_used();
        // The extent of a write may split another.
        let extents = 2 * (self.promised as usize + more) + (handed + more) * EXTENTS_HANDED_MAX;
        let extents_left = (EXTENTS_MAX - self.dirty.extents_total()) as usize;
        rows_left >= promised && extents_left >= extents
    }

    /// Blocks that a write of this length may take in the lane: the part that is appended now, header included, and
    /// what its destage adds.
    fn room_for(&self, geometry: &Geometry, payload_blocks: u32, blocks: u32) -> Room {
        let checks = u64::from(geometry.level().check_strips());
        Room {
            append: u64::from(payload_blocks) + 1,
            destage: checks * u64::from(blocks.min(geometry.strip_blocks())) + 1,
        }
    }
}

/// Room in the lane that was promised to one write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    append: u64,
    destage: u64,
}

impl Room {
    pub(super) const NONE: Self = Self {
        append: 0,
        destage: 0,
    };
}

impl Engine {
    pub(super) fn write_back(&mut self) -> &mut WriteBack {
        self.write_back
            .as_mut()
            .expect("only engines with write-back get here")
    }

    /// Longest row piece of a write, in blocks.
    pub(super) fn write_blocks_max(&self) -> u32 {
        self.write_back
            .as_ref()
            .map_or(u32::MAX, |write_back| write_back.write_blocks_max)
    }

    /// Whether this piece ends in the journal.
    pub(super) fn is_journaled(&self, index: u32) -> bool {
        self.write_back.is_some() && self.pieces[index as usize].work.is_host_write()
    }

    /// Promises a write its room in the lane, or lets it wait for that. True if it may go on.
    pub(super) fn take_room(&mut self, index: u32) -> bool {
        if !self.is_journaled(index) {
            return true;
        }
        if self.write_back().room_waiters.is_empty() && self.try_room(index) {
            return true;
        }
        self.pieces[index as usize].state = State::AwaitingRoom;
        let write_back = self.write_back.as_mut().expect("it is journaled");
        self.piece_links.push_back(&mut write_back.room_waiters, index);
        false
    }

    fn try_room(&mut self, index: u32) -> bool {
        let piece = &mut self.pieces[index as usize];
        let payload = match piece.work {
            Work::Write {
                source: Source::Zeroes,
                ..
            }
            | Work::ZeroRow { .. } => 0,
            Work::Write {
                source: Source::User, ..
            }
            | Work::CompareThenWrite { .. }
            | Work::Read
            | Work::Prefetch
            | Work::Compare
            | Work::Resync
            | Work::Rebuild { .. }
            | Work::Scrub { .. }
            | Work::Repair { .. }
            | Work::Move { .. }
            | Work::Flush
            | Work::FlushDrives
            | Work::Destage
            | Work::Drain { .. } => piece.row.blocks,
        };
        let write_back = self.write_back.as_mut().expect("it is journaled");
        let room = write_back.room_for(&self.geometry, payload, piece.row.blocks);
        if !write_back.has_rows_left(1) || !write_back.lane.reserve(room.append + room.destage) {
            return false;
        }
        write_back.promised += 1;
        piece.room = room;
        true
    }

    pub(super) fn leave_room_queue(&mut self, index: u32) {
        let write_back = self.write_back.as_mut().expect("only there is room to wait for");
        self.piece_links.remove(&mut write_back.room_waiters, index);
    }

    /// Gives back what a write that is left off was promised.
    pub(super) fn give_room_back(&mut self, index: u32) {
        let room = std::mem::take(&mut self.pieces[index as usize].room);
        if room == Room::NONE {
            return;
        }
        let write_back = self.write_back();
        write_back.lane.release(room.append + room.destage);
        write_back.promised -= 1;
    }

    /// Lets those in who waited for room, as far as there is some.
    pub(super) fn retry_room(&mut self, out: &mut Vec<Action>) {
        while let Some(index) = self.write_back().room_waiters.first() {
            if !self.try_room(index) {
                return;
            }
            let write_back = self.write_back.as_mut().expect("there is a lane");
            self.piece_links.remove(&mut write_back.room_waiters, index);
            self.take_lock(index, out);
        }
    }

    /// Appends a write to the lane; its row is held, and what it was promised is now used.
    pub(super) fn append(&mut self, index: u32, out: &mut Vec<Action>) {
        let shift = self.geometry.block().shift();
        let piece = self.pieces[index as usize];
        let entry = piece.hold.expect("a write is made inside a hold");
        let (row, start_blocks, blocks) = (piece.row.row, piece.row.start_blocks, piece.row.blocks);
        let members = self.layout.geometry_of_row(row).members();
        let (zeroes, fua) = match piece.work {
            Work::Write { source, fua } => (source == Source::Zeroes, fua),
            Work::ZeroRow { fua, .. } => (true, fua),
            Work::Read
            | Work::Prefetch
            | Work::Compare
            | Work::CompareThenWrite { .. }
            | Work::Resync
            | Work::Rebuild { .. }
            | Work::Scrub { .. }
            | Work::Repair { .. }
            | Work::Move { .. }
            | Work::Flush
            | Work::FlushDrives
            | Work::Destage
            | Work::Drain { .. } => unreachable!("only writes are appended"),
        };
        self.commands[piece.command as usize].issued = true;
        let write_back = self.write_back.as_mut().expect("it is journaled");
        let appended = if zeroes {
            write_back.lane.append(0, |seq, _| Entry::Zero {
                members,
                row,
                start_blocks,
                blocks,
                seq,
            })
        } else {
            write_back.lane.append(blocks, |seq, payload_block| Entry::Write {
                members,
                row,
                start_blocks,
                blocks,
                seq,
                payload_block,
            })
        };
        let source = if zeroes {
            DirtySource::Zeroes
        } else {
            out.push(Action::Copy {
                into: ring_place(appended.ring_block, shift),
                from: piece::place(&piece, shift, Area::User(0)),
                bytes: blocks << shift,
            });
            DirtySource::Ring {
                block: appended.ring_block,
            }
        };
        write_back
            .dirty
            .insert(entry, start_blocks, blocks, source, appended.seq);
        write_back.rows.mark_dirty(entry, write_back.now);
        write_back.promised -= 1;
        write_back.lane.release(piece.room.append);
        let hold = &mut write_back.holds[entry.0 as usize];
        hold.appended(piece.room.destage, appended, &mut write_back.lane);
        self.pieces[index as usize].room = Room::NONE;
        self.look_at_row(entry);
        self.finish_in_time(index, fua, appended.batch, out);
    }

    /// Ends a write that was appended as soon as its host may hear that it is done.
    fn finish_in_time(&mut self, index: u32, fua: bool, batch: BatchNumber, out: &mut Vec<Action>) {
        match self.done_when(index, fua, out) {
            Done::Now => {
                self.told_early(batch);
                self.finish(index, Ok(()), out);
            }
            Done::Sent => self.await_sending(index, batch),
            Done::Safe => self.await_copies(index, batch),
            Done::Committed => self.await_commit(index, batch),
        }
    }

    /// Begins a piece where there is a lane. False if it goes on like any other.
    pub(super) fn begin_write_back(&mut self, index: u32, out: &mut Vec<Action>) -> bool {
        let piece = &self.pieces[index as usize];
        if !self.layout.survives(self.lock.members().failed) {
            // The lost group may have told hosts of writes that its drives do not hold: it answers nothing any more.
            self.finish(index, Err(GroupError::TooManyMembersLost), out);
            return true;
        }
        match piece.work {
            Work::Write { .. } | Work::ZeroRow { .. } => self.append(index, out),
            Work::Flush => self.flush_lane(index, out),
            Work::Drain { .. } => self.drain(index, out),
            Work::Destage => {
                self.mark_row(piece.row.row);
                return self.await_writes_of_row(index);
            }
            Work::Resync | Work::Scrub { repair: true } => {
                self.mark_row(piece.row.row);
                return false;
            }
            Work::Read if self.is_covered(index) => {
                self.overlay(index, Target::User, out);
                self.finish(index, Ok(()), out);
            }
            Work::Read
            | Work::Prefetch
            | Work::Compare
            | Work::CompareThenWrite { .. }
            | Work::Rebuild { .. }
            | Work::Scrub { repair: false }
            | Work::FlushDrives
            | Work::Move { .. }
            | Work::Repair { .. } => return false,
        }
        true
    }

    fn drain(&mut self, index: u32, out: &mut Vec<Action>) {
        let write_back = self.write_back.as_mut().expect("there is a lane");
        let piece = &mut self.pieces[index as usize];
        piece.state = State::AwaitingDrain;
        if let Work::Drain { below: Some(below) } = &mut piece.work {
            *below = write_back.lane.next_number();
        }
        self.piece_links.push_back(&mut write_back.drain_waiters, index);
        self.drained(out);
    }

    /// Lets a piece wait until its batch and all before it are committed.
    pub(super) fn await_commit(&mut self, index: u32, batch: BatchNumber) {
        self.await_batch(index, batch);
        let write_back = self.write_back.as_mut().expect("there is a lane");
        self.piece_links.push_back(&mut write_back.commit_waiters, index);
    }

    fn await_batch(&mut self, index: u32, batch: BatchNumber) {
        let piece = &mut self.pieces[index as usize];
        piece.state = State::AwaitingCommit;
        piece.batch = batch;
        self.write_back().lane.want(batch);
    }

    /// The same, or until other nodes keep them.
    fn await_copies(&mut self, index: u32, batch: BatchNumber) {
        self.await_batch(index, batch);
        let write_back = self.write_back.as_mut().expect("there is a lane");
        self.piece_links.push_back(&mut write_back.safe_waiters, index);
    }

    /// The same, or until they were sent to other nodes.
    fn await_sending(&mut self, index: u32, batch: BatchNumber) {
        self.await_batch(index, batch);
        let write_back = self.write_back.as_mut().expect("there is a lane");
        write_back.lane.report(batch);
        self.piece_links.push_back(&mut write_back.sent_waiters, index);
    }

    /// Lets those go on whose batches were sent.
    pub(super) fn sendings_done(&mut self, out: &mut Vec<Action>) {
        while let Some(index) = self.write_back().sent_waiters.first() {
            let batch = self.pieces[index as usize].batch;
            let write_back = self.write_back.as_mut().expect("there is a lane");
            let lane = &mut write_back.lane;
            let is_done = lane.is_committed(batch) || lane.is_sent(batch) && write_back.ram.is_allowed();
            if !is_done {
                return;
            }
            lane.tell(batch);
            self.piece_links.remove(&mut write_back.sent_waiters, index);
            self.finish(index, Ok(()), out);
        }
    }

    /// Lets those go on that are safe.
    pub(super) fn copies_done(&mut self, out: &mut Vec<Action>) {
        self.sendings_done(out);
        self.look_at_copies(out);
        while let Some(index) = self.write_back().safe_waiters.first() {
            let batch = self.pieces[index as usize].batch;
            let write_back = self.write_back.as_mut().expect("there is a lane");
            let lane = &write_back.lane;
            let is_done = lane.is_committed(batch) || lane.is_safe(batch) && write_back.ram.is_allowed();
            if !is_done {
                return;
            }
            self.piece_links.remove(&mut write_back.safe_waiters, index);
            self.finish(index, Ok(()), out);
        }
    }

    /// Lets those go on whose batches are committed.
    pub(super) fn commits_done(&mut self, out: &mut Vec<Action>) {
        while let Some(index) = self.write_back().commit_waiters.first() {
            let batch = self.pieces[index as usize].batch;
            let write_back = self.write_back.as_mut().expect("there is a lane");
            if !write_back.lane.is_committed(batch) {
                break;
            }
            self.piece_links.remove(&mut write_back.commit_waiters, index);
            self.committed(index, out);
        }
        self.copies_done(out);
        self.adoptions_done(false, out);
        self.answer_flushes(false, out);
        self.look_at_ram(out);
    }

    fn committed(&mut self, index: u32, out: &mut Vec<Action>) {
        match self.pieces[index as usize].work {
            Work::Destage => self.destage_committed(index, out),
            Work::Write { .. } | Work::ZeroRow { .. } => self.finish(index, Ok(()), out),
            Work::Read
            | Work::Prefetch
            | Work::Compare
            | Work::CompareThenWrite { .. }
            | Work::Resync
            | Work::Rebuild { .. }
            | Work::Scrub { .. }
            | Work::Repair { .. }
            | Work::Move { .. }
            | Work::Flush
            | Work::FlushDrives
            | Work::Drain { .. } => unreachable!("these commit nothing of their own"),
        }
    }

    /// A flush where there is a lane: what hosts were told is committed already, or is committed now, in all lanes, because a host's
    /// queues are on many cores.
    pub(super) fn flush_lane(&mut self, index: u32, out: &mut Vec<Action>) {
        let write_back = self.write_back.as_mut().expect("there is a lane");
        if write_back.durability == Durability::Journal {
            return self.finish(index, Ok(()), out);
        }
        let own = write_back.lane.want_all();
        let others = u32::from(write_back.lanes) - 1;
        let piece = &mut self.pieces[index as usize];
        piece.state = State::AwaitingCommits;
        piece.await_answers(others + u32::from(own.is_some()));
        if let Some(batch) = own {
            write_back.commits.push_back((batch, write_back.own_lane, index));
        }
        if others > 0 {
            out.push(Action::CommitCores { flush: index });
        }
        if others == 0 && own.is_none() {
            self.finish(index, Ok(()), out);
        }
    }

    /// Another core has a flush under way, which it calls `flush`: everything in this core's lane is committed, and then
    /// [`Action::Committed`] says so.
    pub fn commit(&mut self, core: u16, flush: u32, out: &mut Vec<Action>) {
        let lost = !self.layout.survives(self.lock.members().failed);
        let write_back = self.write_back.as_mut().expect("all cores of a group have lanes");
        match write_back.lane.want_all() {
            Some(batch) if !lost => write_back.commits.push_back((batch, core, flush)),
            Some(_) | None => out.push(Action::Committed { core, flush }),
        }
        self.settle(out);
    }

    /// One more core has committed what it had when this core's flush began.
    pub fn committed_elsewhere(&mut self, flush: u32, out: &mut Vec<Action>) {
        self.flush_answer(flush, out);
        self.settle(out);
    }

    fn flush_answer(&mut self, index: u32, out: &mut Vec<Action>) {
        let piece = &mut self.pieces[index as usize];
        assert!(
            piece.state == State::AwaitingCommits,
            "a flush is answered once by each core"
        );
        if piece.answered() {
            let survives = self.layout.survives(self.lock.members().failed);
            let result = if survives {
                Ok(())
            } else {
                Err(GroupError::TooManyMembersLost)
            };
            self.finish(index, result, out);
        }
    }

    /// Answers the flushes whose share of this lane is committed, or all of them if nothing will be any more.
    fn answer_flushes(&mut self, give_up: bool, out: &mut Vec<Action>) {
        loop {
            let write_back = self.write_back.as_mut().expect("there is a lane");
            let next = write_back.commits.front();
            let Some(&(_, core, flush)) = next.filter(|next| give_up || write_back.lane.is_committed(next.0))
            else {
                return;
            };
            write_back.commits.pop_front();
            if core == write_back.own_lane {
                self.flush_answer(flush, out);
            } else {
                out.push(Action::Committed { core, flush });
            }
        }
    }

    /// What a row's reader got from the drives is brought up to date with what is dirty.
    pub(super) fn overlay(&mut self, index: u32, target: Target, out: &mut Vec<Action>) {
        let piece = self.pieces[index as usize];
        let Some(entry) = piece.hold else { return };
        let shift = self.geometry.block().shift();
        let strip_blocks = self.geometry.strip_blocks();
        let area = |blocks| match target {
            Target::User => Area::User(blocks),
            Target::Scratch => Area::Scratch(blocks),
        };
        let write_back = self.write_back.as_ref().expect("a hold belongs to it");
        let start = piece.row.start_blocks;
        for dirty in write_back.dirty.overlay(entry, start, piece.row.blocks) {
            push_copies(&dirty, strip_blocks, shift, out, |done| {
                piece::place(&piece, shift, area(dirty.start_blocks - start + done))
            });
        }
    }

    /// Whether all that a piece wants to read is dirty here.
    pub(super) fn is_covered(&self, index: u32) -> bool {
        let Piece { hold, row, .. } = self.pieces[index as usize];
        let covers = |entry| {
            let write_back = self.write_back.as_ref().expect("a hold belongs to it");
            write_back.dirty.covers(entry, row.start_blocks, row.blocks)
        };
        hold.is_some_and(covers)
    }

    fn away(&self) -> Away {
        Away {
            failed: self.lock.members().failed,
            lost: self.lock.lost(),
        }
    }

    /// A drive has answered a write of a batch, or a flush that retires entries.
    pub(super) fn write_back_io_done(
        &mut self,
        io: IoTag,
        result: Result<(), DriveError>,
        out: &mut Vec<Action>,
    ) {
        let member = member_of(io);
        let away = self.away();
        if let Err(error) = result
            && away.lost >> member.0 & 1 == 0
        {
            out.push(Action::ReportFault { member, error });
        }
        match retire::slot_of(io) {
            Some(slot) => {
                let committed = self.write_back().lane.written(slot, member, result.is_ok(), away);
                if committed {
                    self.commits_done(out);
                }
            }
            None => self.flush_answered(member, result.is_ok(), out),
        }
    }

    /// The header of the batch in a slot, whose payload has this CRC-32C, into one block of the ring; see [`Action::Seal`].
    pub fn seal(&self, slot: u8, payload_crc: u32, out: &mut [u8]) {
        let write_back = self.write_back.as_ref().expect("a batch belongs to a lane");
        write_back.lane.seal(slot, payload_crc, out);
    }

    /// Time goes by: dirty data of some age is destaged. To be called about ten times a second.
    pub fn tick(&mut self, out: &mut Vec<Action>) {
        if let Some(write_back) = &mut self.write_back {
            write_back.now += 1;
            self.settle(out);
        }
    }

    /// Starts whatever the lane can start, and says whether anything in the engine may have changed by that.
    pub(super) fn poll_write_back(&mut self, out: &mut Vec<Action>) -> bool {
        let away = self.away();
        let mut any = false;
        if !self.write_back().room_waiters.is_empty() {
            self.retry_room(out);
        }
        any |= self.start_destages(out);
        any |= self.start_retiring(out);
        let Some(write_back) = self.write_back.as_mut() else {
            return false;
        };
        let mut actions = std::mem::take(&mut write_back.lane_actions);
        let starved = !write_back.room_waiters.is_empty();
        write_back.lane.poll(away, starved, &mut actions);
        self.act_for_lane(&mut actions, out);
        self.write_back().lane_actions = actions;
        if starved {
            self.hurry_others(out);
        }
        any || !self.granted.is_empty()
    }

    fn act_for_lane(&mut self, actions: &mut Vec<LaneAction>, out: &mut Vec<Action>) {
        let shift = self.geometry.block().shift();
        let lane = self.write_back().own_lane;
        for action in actions.drain(..) {
            out.push(match action {
                LaneAction::Seal {
                    slot,
                    ring_block,
                    payload_blocks,
                } => Action::Seal {
                    slot,
                    offset_bytes: ring_block << shift,
                    payload_bytes: payload_blocks << shift,
                },
                LaneAction::Keep {
                    batch,
                    committed,
                    seq_max,
                    reports,
                    ring_block,
                    blocks,
                } => Action::Keep {
                    offer: Offer {
                        name: Name { lane, batch: batch.0 },
                        committed: committed.0,
                        seq_max,
                    },
                    reports,
                    offset_bytes: ring_block << shift,
                    bytes: blocks << shift,
                },
                LaneAction::Write {
                    slot,
                    member,
                    lba,
                    ring_block,
                    blocks,
                } => Action::DriveWrite {
                    io: retire::slot_tag(slot, member),
                    member,
                    lba,
                    blocks,
                    from: Place::Ring {
                        offset_bytes: ring_block << shift,
                    },
                    fua: true,
                },
            });
        }
    }

    /// A new member set is durable: batches and flushes that waited for it go on, or everything ends if the group is lost.
    pub(super) fn members_changed_for_write_back(&mut self, lost: u32, out: &mut Vec<Action>) {
        let mut away = self.away();
        if !self.layout.survives(away.failed) {
            self.write_back().stuck = true;
            return self.fail_closed(out);
        }
        self.mark_unflushed();
        let write_back = self.write_back();
        write_back.stuck = false;
        write_back.retire.excuse(lost);
        away.failed |= lost;
        away.lost |= lost;
        let committed = write_back.lane.members_changed(away);
        if committed {
            self.commits_done(out);
        }
        self.flush_members_changed(out);
    }

    /// The group is lost. What is dirty stays in the journal for the day when its drives return; here everything that waits ends
    /// with an error, and rows stay held, so that nobody reads what is older than a host was told.
    fn fail_closed(&mut self, out: &mut Vec<Action>) {
        let lost = Err(GroupError::TooManyMembersLost);
        while let Some(index) = self.write_back().room_waiters.first() {
            self.leave_queue(index, lost, out);
        }
        while let Some(index) = self.write_back().commit_waiters.first() {
            let write_back = self.write_back.as_mut().expect("there is a lane");
            self.piece_links.remove(&mut write_back.commit_waiters, index);
            self.finish(index, lost, out);
        }
        while let Some(index) = self.write_back().safe_waiters.first() {
            let write_back = self.write_back.as_mut().expect("there is a lane");
            self.piece_links.remove(&mut write_back.safe_waiters, index);
            self.finish(index, lost, out);
        }
        while let Some(index) = self.write_back().sent_waiters.first() {
            let write_back = self.write_back.as_mut().expect("there is a lane");
            self.piece_links.remove(&mut write_back.sent_waiters, index);
            self.finish(index, lost, out);
        }
        self.fail_mends(out);
        self.adoptions_done(true, out);
        self.answer_flushes(true, out);
        while let Some(index) = self.write_back().drain_waiters.first() {
            let write_back = self.write_back.as_mut().expect("there is a lane");
            self.piece_links.remove(&mut write_back.drain_waiters, index);
            self.finish(index, lost, out);
        }
        for bucket in 0..self.lock_waiters.len() {
            while let Some(index) = self.lock_waiters[bucket].first() {
                self.leave_queue(index, lost, out);
            }
        }
        // Who waits inside this core's holds is let in by those who leave, and then ends like any that begins now. A row
        // whose dirty data cannot be destaged has nobody inside who would leave.
        for entry in 0..ROWS_MAX {
            while let Some(index) = self.first_in_hold_queue(entry) {
                self.leave_queue(index, lost, out);
            }
        }
    }
}

/// Copies a dirty extent to where it is wanted; `into` says where, that many blocks into the extent. The region of zeroes is a
/// strip long, so zeroes are copied a strip at a time.
fn push_copies(
    dirty: &DirtyExtent,
    strip_blocks: u32,
    shift: u32,
    out: &mut Vec<Action>,
    into: impl Fn(u32) -> Place,
) {
    let mut done = 0;
    while done < dirty.blocks {
        let left = dirty.blocks - done;
        let (from, blocks) = match dirty.source {
            DirtySource::Ring { block } => (ring_place(block + done, shift), left),
            DirtySource::Zeroes => (Place::Zeroes, strip_blocks.min(left)),
        };
        out.push(Action::Copy {
            into: into(done),
            from,
            bytes: blocks << shift,
        });
        done += blocks;
    }
}

fn ring_place(block: u32, shift: u32) -> Place {
    Place::Ring {
        offset_bytes: block << shift,
    }
}
