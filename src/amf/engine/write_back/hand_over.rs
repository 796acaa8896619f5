//! Dirty data that goes to another node with its row, instead of to the drives first.
//!
//! The node that gives keeps what its journal has of the row until the one that takes it has journaled the data itself; only then it is no longer owed. Who takes
//! a row has room for that promised before it asks, because two full lanes could wait for each other otherwise.

use super::super::Action;
use super::super::Place;
use super::super::machine::Engine;
use super::hold::{Hold, Inside, Since};
use super::{Durability, WriteBack, WriteBackConfig, ring_place};
use crate::amf::RowIndex;
use crate::amf::cache::{DirtyExtent, DirtySource, EntryIndex};
use crate::amf::geometry::Geometry;
use crate::amf::hand_over::{Content, DATA_BYTES_MAX, EXTENTS_MAX, Extent, Fit, HandedOver};
use crate::amf::journal::Entry;
use crate::amf::journal::lane::{self, BatchNumber, Obligation};
use crate::amf::lock::Mode;

/// Of the lane's capacity a row that is handed over takes this part at most.
const LANE_PART: u64 = 40;

/// Rows of a core that are handed over and not settled. Others are destaged.
const GIVEN_MAX: usize = 64;

/// Wants of a core under way that would take dirty data.
const PROMISES_MAX: usize = 8;

/// A row that another node is to have.
#[derive(Clone, Debug)]
struct Given {
    row: RowIndex,
    extents: [Option<DirtyExtent>; EXTENTS_MAX],
    obligation: Obligation,
    since: Since,
    /// Room in the lane for its destage, should it come back.
    reserved: u64,
    newest: (BatchNumber, u64),
}

/// What became of dirty rows that other nodes wanted or had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandOverCounts {
    /// Went with their data.
    pub given: u64,
    /// Of these, came back because nobody took them.
    pub restored: u64,
    /// Came with their data.
    pub taken: u64,
}

impl HandOverCounts {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            given: self.given + other.given,
            restored: self.restored + other.restored,
            taken: self.taken + other.taken,
        }
    }
}

/// What a core has handed over, and what it takes.
#[derive(Debug)]
pub(super) struct HandOvers {
    is_on: bool,
    fit: Fit,
    counts: HandOverCounts,
    given: Vec<Given>,
    /// Slots for whose want there is room.
    promises: Vec<u32>,
    /// Rows that were taken, and the batch that has their data.
    adoptions: Vec<(EntryIndex, BatchNumber)>,
}

impl HandOvers {
    pub(super) fn new(is_on: bool, fit: Fit) -> Self {
        Self {
            is_on,
            fit,
            counts: HandOverCounts::default(),
            given: Vec::with_capacity(GIVEN_MAX),
            promises: Vec::with_capacity(PROMISES_MAX),
            adoptions: Vec::with_capacity(PROMISES_MAX),
        }
    }

    /// Rows and extents that may be needed, beside those that are.
    pub(super) fn rows_promised(&self) -> usize {
        self.given.len() + self.promises.len()
    }
}

impl WriteBackConfig {
    /// What is handed over of rows of such a group, in lanes of this length: any part of them fits one append.
    pub fn fit(&self, geometry: &Geometry) -> Fit {
        let block_size = geometry.block();
        let capacity = lane::capacity_of(&self.layout, self.append_blocks_max(geometry));
        let part = u32::try_from(capacity / LANE_PART).unwrap_or(u32::MAX);
        let most = u32::try_from(DATA_BYTES_MAX >> block_size.shift()).unwrap_or(u32::MAX);
        Fit {
            block_size,
            row_blocks: geometry.row_blocks(),
            blocks_max: most.min(self.write_blocks_max).min(part),
        }
    }
}

impl WriteBack {
    /// Room for any row that is handed over, and for its destage.
    fn room_to_take(&self, checks: u8) -> u64 {
        let blocks = u64::from(self.hand_overs.fit.blocks_max);
        let extents = EXTENTS_MAX as u64;
        blocks + extents + u64::from(checks) * blocks + extents
    }

    /// Whether one more want may say that it takes dirty data, as far as room goes.
    fn is_roomy(&self, room: u64) -> bool {
        let fits = 4 * (self.lane.used() + room) <= 3 * self.lane.capacity();
        fits && self.durability == Durability::Journal && self.has_rows_left(1)
    }
}

impl Engine {
    /// Asks for a row, and says whether this core can take dirty data with it.
    pub(in crate::amf::engine) fn want_row(&mut self, row: RowIndex, mode: Mode, out: &mut Vec<Action>) {
        let takes = mode.is_write() && self.promise_to_take(self.lock.slot(row));
        out.push(Action::WantRow { row, mode, takes });
    }

    fn promise_to_take(&mut self, slot: u32) -> bool {
        let Some(write_back) = &mut self.write_back else {
            return false;
        };
        let room = write_back.room_to_take(self.geometry.level().check_strips());
        let hand_overs = &write_back.hand_overs;
        // An answer to an earlier want may be on its way.
        let is_free = hand_overs.promises.len() < PROMISES_MAX && !hand_overs.promises.contains(&slot);
        let may = hand_overs.is_on && is_free && write_back.is_roomy(room);
        let promised = may && write_back.lane.reserve(room);
        if promised {
            write_back.hand_overs.promises.push(slot);
        }
        promised
    }

    /// Takes back what was promised to a want of this slot. False if nothing was.
    fn end_promise(&mut self, slot: u32) -> bool {
        let Some(write_back) = &mut self.write_back else {
            return false;
        };
        let promises = &mut write_back.hand_overs.promises;
        let place = promises.iter().position(|promised| *promised == slot);
        place.is_some_and(|place| {
            promises.swap_remove(place);
            true
        })
    }

    /// A want that said that it takes dirty data is answered without any: as [`Engine::wake`].
    pub fn answer(&mut self, row: RowIndex, out: &mut Vec<Action>) {
        if self.end_promise(self.lock.slot(row)) {
            let checks = self.geometry.level().check_strips();
            let write_back = self.write_back();
            let room = write_back.room_to_take(checks);
            write_back.lane.release(room);
        }
        self.wake(row, out);
    }

    /// Another node wants the slot of this row, as [`Engine::recall`] says; if it `gives`, that node takes its dirty data.
    pub fn recall_for(&mut self, row: RowIndex, gives: bool, out: &mut Vec<Action>) {
        if let Some(write_back) = &mut self.write_back
            && let Some(entry) = write_back.rows.find(row)
        {
            write_back.holds[entry.0 as usize].gives = gives;
        }
        self.recall(row, out);
    }

    /// Lays out a row's dirty data for the node that wants it, and leaves the row to its home, if the data is little and committed. False if it is not, and if the home does not
    /// wait for the row any more.
    pub(super) fn give(&mut self, entry: EntryIndex, out: &mut Vec<Action>) -> bool {
        let write_back = self.write_back.as_mut().expect("a hold belongs to it");
        let most = write_back.hand_overs.fit.blocks_max;
        let mut extents = [None; EXTENTS_MAX];
        for (at, extent) in write_back.dirty.extents(entry).enumerate() {
            let Some(place) = extents.get_mut(at) else {
                return false;
            };
            *place = Some(extent);
        }
        let is_little = write_back.dirty.dirty_blocks(entry) <= most;
        let is_free = write_back.is_idle(entry) && write_back.hand_overs.given.len() < GIVEN_MAX;
        if !is_little || !is_free || write_back.stuck || !write_back.is_hold_committed(entry) {
            return false;
        }
        let row = write_back.rows.row(entry);
        let Some(wake) = self.lock.release_to_home(row) else {
            return false;
        };
        let hold = &mut write_back.holds[entry.0 as usize];
        let newest = hold.newest.take().expect("a dirty row has entries");
        write_back.hand_overs.given.push(Given {
            row,
            extents,
            obligation: hold.obligation.take().expect("a dirty row owes its data"),
            since: hold.since,
            reserved: std::mem::take(&mut hold.reserved),
            newest,
        });
        write_back.dirty.clear_up_to(entry, newest.1);
        write_back.rows.mark_clean(entry);
        write_back.hand_overs.counts.given += 1;
        // The data has to be with the home before it hears of its turn.
        out.push(Action::Give { row });
        self.free_hold(entry);
        self.tell(wake, row, out);
        true
    }

    /// The dirty data of a row that [`Action::Give`] named, for the node that takes it; here it lies where it was until that is settled. `copy` appends so many bytes from this
    /// place of the ring on.
    pub fn lay_out(&self, row: RowIndex, mut copy: impl FnMut(u32, u32, &mut Vec<u8>)) -> HandedOver {
        let block = self.geometry.block();
        let (mut extents, mut bytes) = (Vec::new(), Vec::new());
        let given = self.write_back.iter().flat_map(|it| &it.hand_overs.given);
        let given = given.filter(|given| given.row == row);
        for extent in given.flat_map(|given| given.extents.iter().flatten()) {
            let content = match extent.source {
                DirtySource::Zeroes => Content::Zeroes,
                DirtySource::Ring { block: first } => {
                    copy(first << block.shift(), extent.blocks << block.shift(), &mut bytes);
                    Content::Piece
                }
            };
            extents.push(Extent {
                start_blocks: extent.start_blocks,
                blocks: extent.blocks,
                content,
            });
        }
        HandedOver::new(block, extents, bytes).expect("little is given")
    }

    /// What became of dirty rows so far.
    pub fn hand_over_counts(&self) -> HandOverCounts {
        let write_back = self.write_back.as_ref();
        write_back.map_or_else(HandOverCounts::default, |it| it.hand_overs.counts)
    }

    fn take_given(&mut self, row: RowIndex) -> Option<Given> {
        let given = &mut self.write_back().hand_overs.given;
        let place = given.iter().position(|given| given.row == row)?;
        Some(given.swap_remove(place))
    }

    /// What was given is in another node's journal, or in its place: it is not owed here any more.
    pub fn settle_given(&mut self, row: RowIndex, out: &mut Vec<Action>) {
        let Some(given) = self.take_given(row) else { return };
        let lane = &mut self.write_back().lane;
        lane.release(given.reserved);
        lane.discharge(given.obligation);
        self.answer_hurry(out);
        self.drained(out);
        self.settle(out);
    }

    /// What was given has found no taker, and this core is the writer inside of the row: its data is dirty here again.
    ///
    /// Panics if it was not given.
    pub fn restore(&mut self, row: RowIndex, out: &mut Vec<Action>) {
        let given = self.take_given(row).expect("only what was given comes back");
        let slot = self.lock.slot(row);
        let entry = self.new_hold(row, slot, None);
        let write_back = self.write_back();
        write_back.hand_overs.counts.restored += 1;
        let hold = &mut write_back.holds[entry.0 as usize];
        hold.obligation = Some(given.obligation);
        hold.since = given.since;
        hold.reserved = given.reserved;
        hold.newest = Some(given.newest);
        // The map takes them in the order in which they were written.
        let mut extents = given.extents;
        extents.sort_unstable_by_key(|extent| extent.map(|extent| extent.seq));
        for extent in extents.into_iter().flatten() {
            let DirtyExtent {
                start_blocks,
                blocks,
                source,
                seq,
            } = extent;
            write_back.dirty.insert(entry, start_blocks, blocks, source, seq);
        }
        write_back.rows.mark_dirty(entry, write_back.now);
        // Our own waiters first: while they are named in the lock's word, somebody else seems to want it.
        self.woken.push_back(row);
        self.settle(out);
        if let Some(entry) = self.write_back().rows.find(row) {
            self.settle_hold(entry, out);
            self.settle(out);
        }
    }

    /// Dirty data came with a row, of which this core is the writer inside: it is journaled before anybody sees the row, and then [`Action::Taken`] says so. The bytes
    /// are at [`Place::Handed`] for the actions of this call.
    ///
    /// Panics if no want of this core said that it would take it, or if it does not fit ([`WriteBackConfig::fit`]).
    pub fn adopt(&mut self, row: RowIndex, data: &HandedOver, out: &mut Vec<Action>) {
        let slot = self.lock.slot(row);
        assert!(self.end_promise(slot), "who takes data has room for it");
        let geometry = self.geometry;
        let (shift, checks) = (geometry.block().shift(), geometry.level().check_strips());
        let members = self.layout.geometry_of_row(row).members();
        let entry = self.new_hold(row, slot, Some((Inside::Append, 1)));
        let write_back = self.write_back();
        let room = write_back.room_to_take(checks);
        let (mut kept, mut offset_bytes) = (0, 0);
        for (extent, _) in data.extents() {
            let Extent {
                start_blocks,
                blocks,
                content,
            } = extent;
            let (appended, source) = match content {
                Content::Zeroes => {
                    let appended = write_back.lane.append(0, |seq, _| Entry::Zero {
                        members,
                        row,
                        start_blocks,
                        blocks,
                        seq,
                    });
                    (appended, DirtySource::Zeroes)
                }
                Content::Piece => {
                    let appended = write_back.lane.append(blocks, |seq, payload_block| Entry::Write {
                        members,
                        row,
                        start_blocks,
                        blocks,
                        seq,
                        payload_block,
                    });
                    let block = appended.ring_block;
                    out.push(Action::Copy {
                        into: ring_place(block, shift),
                        from: Place::Handed { offset_bytes },
                        bytes: blocks << shift,
                    });
                    offset_bytes += blocks << shift;
                    (appended, DirtySource::Ring { block })
                }
            };
            write_back
                .dirty
                .insert(entry, start_blocks, blocks, source, appended.seq);
            let destage = write_back.room_for(&geometry, 0, blocks).destage;
            kept += destage;
            let hold = &mut write_back.holds[entry.0 as usize];
            hold.appended(destage, appended, &mut write_back.lane);
        }
        write_back.lane.release(room - kept);
        write_back.rows.mark_dirty(entry, write_back.now);
        let hold = &write_back.holds[entry.0 as usize];
        let (batch, _) = hold.newest.expect("what is handed over has data");
        write_back.lane.want(batch);
        write_back.hand_overs.adoptions.push((entry, batch));
        write_back.hand_overs.counts.taken += 1;
        self.woken.push_back(row);
        self.look_at_row(entry);
        self.settle(out);
    }

    /// This core is the writer inside of a row: it holds it.
    fn new_hold(&mut self, row: RowIndex, slot: u32, inside: Option<(Inside, u32)>) -> EntryIndex {
        let recalled = self.kept.contains(row);
        let write_back = self.write_back();
        let entry = write_back.rows.insert(row).expect("room was kept for the row");
        write_back.slots.insert(u64::from(slot), entry.0);
        write_back.holds[entry.0 as usize] = Hold::of(slot, inside, recalled);
        entry
    }

    /// Rows whose data is committed here are this node's for good.
    pub(super) fn adoptions_done(&mut self, gives_up: bool, out: &mut Vec<Action>) {
        let mut next = 0;
        while let Some(&(entry, batch)) = self.write_back().hand_overs.adoptions.get(next) {
            let is_committed = self.write_back().lane.is_committed(batch);
            if !is_committed && !gives_up {
                next += 1;
                continue;
            }
            let write_back = self.write_back();
            write_back.hand_overs.adoptions.swap_remove(next);
            if is_committed {
                let row = write_back.rows.row(entry);
                out.push(Action::Taken { row });
            }
            self.leave_inside(entry, out);
        }
    }
}
