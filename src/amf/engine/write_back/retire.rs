//! Retiring: after a flush of the members, what was destaged before is no longer owed, and its space in the lane comes back.

use super::super::Action;
use super::super::IoTag;
use super::super::machine::Engine;
use super::super::piece::Work;
use super::super::tag::{IO_TAG_SHIFT, TAG_PIECES, tag};
use super::WriteBack;
use crate::amf::journal::lane::{IN_FLIGHT_MAX, Obligation};
use crate::amf::{MemberIndex, RowIndex};

/// Rows that wait for a flush before one is made without need of space: a flush costs the drives much more than a row.
const ROWS_PER_FLUSH: usize = 256;

/// Ticks after which destaged rows are flushed in any case.
const FLUSH_TICKS: u64 = 10;

/// The flush under way.
#[derive(Debug, Default)]
pub(super) struct Retire {
    /// Destaged, in order.
    waiting: Vec<(Obligation, RowIndex)>,
    /// How many of them the flush under way covers.
    covered: usize,
    pending: u32,
    errors: u32,
    running: bool,
    /// All have answered; it is still to be durable what lost members miss.
    marking: bool,
    /// When the first of those that wait came.
    since: u64,
}

impl Retire {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::with_capacity(super::ROWS_MAX as usize),
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, obligation: Obligation, row: RowIndex, now: u64) {
        if self.waiting.is_empty() {
            self.since = now;
        }
        self.waiting.push((obligation, row));
    }

    /// The flush under way need not reach these members, which were durably lost after it had begun.
    pub(super) const fn excuse(&mut self, lost: u32) {
        self.errors &= !lost;
    }

    /// Whether nothing waits for a flush.
    pub(super) const fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Rows that were written in place and whose flush has not ended.
    pub(super) fn waiting_rows(&self) -> impl Iterator<Item = RowIndex> + '_ {
        self.waiting.iter().map(|(_, row)| *row)
    }

    /// Those of them that the flush under way covers.
    pub(super) fn covered_rows(&self) -> impl Iterator<Item = RowIndex> + '_ {
        self.waiting_rows().take(self.covered)
    }
}

/// Space comes back to a lane only when the oldest entry of *all* lanes has moved on, so a core whose lane is full may have to wait
/// for another that has plenty of room and no reason to destage.
#[derive(Debug, Default)]
pub(super) struct Hurry {
    /// What this core has asked the others for.
    asked: u64,
    /// Others want everything of this core below this number retired.
    below: u64,
    /// Those cores; bit `i` is core `i`.
    cores: u16,
}

impl WriteBack {
    pub(super) fn is_hurried(&self) -> bool {
        self.hurry.cores != 0
    }

    /// Whether another core waits for what this number's row owes.
    pub(super) fn is_hurried_below(&self, seq: u64) -> bool {
        self.is_hurried() && seq < self.hurry.below
    }
}

// Piece numbers from the top are no pieces: one for each batch under way, and one for the flush.
const FLUSH_PIECE: u32 = TAG_PIECES - 1 - IN_FLIGHT_MAX as u32;

/// Names the write of a batch.
pub(super) fn slot_tag(slot: u8, member: MemberIndex) -> IoTag {
    tag(TAG_PIECES - 1 - u32::from(slot), 0, member)
}

/// The slot of the batch that a tag names; `None` if it names a flush.
pub(super) fn slot_of(io: IoTag) -> Option<u8> {
    let slot = TAG_PIECES - 1 - (io.0 >> IO_TAG_SHIFT);
    u8::try_from(slot).ok().filter(|slot| *slot < IN_FLIGHT_MAX)
}

impl Engine {
    /// Flushes the members if enough waits for it. True if something may go on at once.
    pub(super) fn start_retiring(&mut self, out: &mut Vec<Action>) -> bool {
        let failed = self.lock.members().failed;
        // Members under rebuild are written below the frontier, and so they are flushed.
        let lost = self.lock.lost();
        let members = self.geometry.members();
        let write_back = self.write_back.as_mut().expect("there is a lane");
        let pressed = !write_back.room_waiters.is_empty()
            || !write_back.drain_waiters.is_empty()
            || write_back.is_hurried()
            || 4 * write_back.lane.used() > 3 * write_back.lane.capacity();
        let retire = &mut write_back.retire;
        let due =
            pressed || retire.waiting.len() >= ROWS_PER_FLUSH || write_back.now >= retire.since + FLUSH_TICKS;
        if retire.running || retire.waiting.is_empty() || !due || !self.layout.survives(failed) {
            return false;
        }
        retire.running = true;
        retire.covered = retire.waiting.len();
        retire.errors = 0;
        for member in (0..members).map(MemberIndex) {
            if lost >> member.0 & 1 == 0 {
                retire.pending += 1;
                out.push(Action::DriveFlush {
                    io: tag(FLUSH_PIECE, 0, member),
                    member,
                });
            }
        }
        false
    }

    /// Asks the other cores to retire what keeps this core's space in use, once for each number.
    pub(super) fn hurry_others(&mut self, out: &mut Vec<Action>) {
        let write_back = self.write_back.as_mut().expect("there is a lane");
        let Some(below) = write_back.lane.space_waits_for() else {
            return;
        };
        if below > write_back.hurry.asked {
            write_back.hurry.asked = below;
            out.push(Action::HurryCores { below });
        }
    }

    /// Another core, whose lane is full, waits for this one to retire its entries below a number. Answered by [`Action::TailMoved`].
    pub fn hurry(&mut self, core: u16, below: u64, out: &mut Vec<Action>) {
        let Some(write_back) = self.write_back.as_mut() else {
            return;
        };
        write_back.hurry.below = write_back.hurry.below.max(below);
        write_back.hurry.cores |= 1 << core;
        self.answer_hurry(out);
        self.settle(out);
    }

    /// Another core has retired what this one waited for.
    pub fn tail_moved(&mut self, out: &mut Vec<Action>) {
        self.settle(out);
    }

    pub(super) fn answer_hurry(&mut self, out: &mut Vec<Action>) {
        let write_back = self.write_back.as_mut().expect("there is a lane");
        let lowest = write_back.lane.lowest();
        if write_back.is_hurried() && lowest.is_none_or(|lowest| lowest >= write_back.hurry.below) {
            let mask = std::mem::take(&mut write_back.hurry.cores);
            out.push(Action::TailMoved { mask });
        }
    }

    pub(super) fn flush_answered(&mut self, member: MemberIndex, ok: bool, out: &mut Vec<Action>) {
        let is_lost = self.lock.lost() >> member.0 & 1 == 1;
        let retire = &mut self.write_back().retire;
        assert!(
            retire.running && retire.pending > 0,
            "each flush is answered once"
        );
        retire.pending -= 1;
        if !ok && !is_lost {
            retire.errors |= 1 << member.0;
        }
        self.flush_members_changed(out);
    }

    /// A flush counts once every member has answered, and those that refused are durably failed.
    pub(super) fn flush_members_changed(&mut self, out: &mut Vec<Action>) {
        let lost = self.lock.lost();
        let write_back = self.write_back.as_mut().expect("there is a lane");
        let retire = &mut write_back.retire;
        // For good: by the time that all have answered, another drive may have the member's place.
        retire.errors &= !lost;
        if !retire.running || retire.marking || retire.pending > 0 || retire.errors != 0 {
            return;
        }
        if self.persist_healed(out) {
            self.write_back().retire.marking = true;
        } else {
            self.retire_marked(out);
        }
    }

    /// It is durable which blocks are lost no more. What lost members miss may still have to be.
    pub(in crate::amf::engine) fn retire_marked(&mut self, out: &mut Vec<Action>) {
        if self.mark_covered(out) {
            self.write_back().retire.marking = true;
        } else {
            self.retire_covered(out);
        }
    }

    /// Nothing of what the flush covers is owed any more.
    pub(super) fn retire_covered(&mut self, out: &mut Vec<Action>) {
        let write_back = self.write_back();
        let retire = &mut write_back.retire;
        assert!(
            retire.running && retire.pending == 0,
            "the flush has ended that retires rows"
        );
        (retire.running, retire.marking) = (false, false);
        let now = write_back.now;
        for (obligation, _) in retire.waiting.drain(..std::mem::take(&mut retire.covered)) {
            write_back.lane.discharge(obligation);
        }
        retire.since = now;
        self.answer_hurry(out);
        self.drained(out);
    }

    /// Ends those that wait for everything, or all that is older than they are, to be in its place.
    pub(super) fn drained(&mut self, out: &mut Vec<Action>) {
        let mut next = self.write_back().drain_waiters.first();
        while let Some(index) = next {
            next = self.piece_links.next(index);
            let write_back = self.write_back.as_mut().expect("there is a lane");
            let Work::Drain { below } = self.pieces[index as usize].work else {
                unreachable!("only those wait here")
            };
            let over = below.map_or_else(
                || write_back.rows.dirty_count() == 0 && write_back.lane.is_retired(),
                |below| write_back.lane.lowest().is_none_or(|lowest| lowest >= below),
            );
            if over {
                self.piece_links.remove(&mut write_back.drain_waiters, index);
                self.finish(index, Ok(()), out);
            }
        }
    }
}
