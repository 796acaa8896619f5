//! A core's engine as far as rows and their dirty data go. What a row holds is one number, which every write makes greater.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::world::{HOME_PARTY, Mail, World};
use crate::amf::RowIndex;
use crate::amf::hand_over::{Content, Extent, HandedOver};
use crate::amf::lock::{Acquire, HOME, Mode, WakeMask};
use crate::drive::block::BlockSize;

/// One entry of a lane; one that is retired is there as long as its node's tail has not passed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) lane: u16,
    pub(super) seq: u64,
    pub(super) row: RowIndex,
    pub(super) value: u64,
    pub(super) is_committed: bool,
    pub(super) is_retired: bool,
}

/// What was given, up to which number.
#[derive(Clone, Copy, Debug)]
struct Gift {
    value: u64,
    seq: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Core {
    pub(super) waiting: VecDeque<(RowIndex, Mode)>,
    pub(super) inside: Vec<(RowIndex, Mode)>,
    /// Rows that it is the writer of for their dirty data.
    pub(super) dirty: BTreeMap<RowIndex, u64>,
    pub(super) unsecured: BTreeSet<RowIndex>,
    /// What it was told of rows that are to go.
    gives: BTreeMap<RowIndex, bool>,
    given: BTreeMap<RowIndex, VecDeque<Gift>>,
    void: BTreeMap<RowIndex, VecDeque<Gift>>,
    /// Wants that take and are not answered.
    pub(super) asked: BTreeMap<RowIndex, u32>,
    /// Entries below are to be retired.
    hurry: u64,
}

impl Core {
    /// Whether nothing is left to happen to it.
    pub(super) fn is_idle(&self) -> bool {
        let is_owed = self.asked.values().any(|count| *count > 0);
        let has_given =
            |gifts: &BTreeMap<RowIndex, VecDeque<Gift>>| gifts.values().any(|of_row| !of_row.is_empty());
        let is_busy = !self.waiting.is_empty() || !self.inside.is_empty() || !self.unsecured.is_empty();
        !is_owed && !is_busy && !has_given(&self.given) && !has_given(&self.void)
    }
}

fn data_of(value: u64) -> HandedOver {
    let extent = Extent {
        start_blocks: 3,
        blocks: 1,
        content: Content::Piece,
    };
    let mut bytes = vec![0; 512];
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    HandedOver::new(BlockSize::B512, vec![extent], bytes).unwrap()
}

fn value_of(data: &HandedOver) -> u64 {
    let (_, piece) = data.extents().next().unwrap();
    u64::from_le_bytes(piece.unwrap()[..8].try_into().unwrap())
}

impl World {
    pub(super) fn core(&mut self, at: u8, core: u16) -> &mut Core {
        &mut self.nodes.get_mut(&at).expect("it lives").cores[usize::from(core)]
    }

    fn slot_of(&self, at: u8, row: RowIndex) -> u32 {
        self.nodes[&at].table.slot(row)
    }

    fn wake(&mut self, at: u8, from: u16, wake: WakeMask, row: RowIndex) {
        for to in (0..HOME).filter(|core| wake.0 >> core & 1 == 1) {
            self.mail(at, from, to, Mail::Wake(row));
        }
        if wake.0 >> HOME & 1 == 1 {
            self.mail(at, from, HOME_PARTY, Mail::Turn(row));
        }
    }

    pub(super) fn wake_from_home(&mut self, at: u8, mask: u16, row: RowIndex) {
        self.wake(at, HOME_PARTY, WakeMask(mask), row);
    }

    /// A host's command comes.
    pub(super) fn arrive(&mut self, at: u8, core: u16, row: RowIndex, mode: Mode) {
        let slot = self.slot_of(at, row);
        let table = self.nodes[&at].table.clone();
        let is_first = !self
            .core(at, core)
            .waiting
            .iter()
            .any(|(other, _)| table.slot(*other) == slot);
        self.core(at, core).waiting.push_back((row, mode));
        if is_first {
            self.attempt(at, core, row);
        }
    }

    /// Lets in who waits for the row's slot, as far as that goes.
    pub(super) fn attempt(&mut self, at: u8, core: u16, of_slot: RowIndex) {
        let table = self.nodes[&at].table.clone();
        let slot = table.slot(of_slot);
        loop {
            let state = self.core(at, core);
            let in_slot = |row: &RowIndex| table.slot(*row) == slot;
            if state.inside.iter().any(|(row, _)| in_slot(row)) {
                return;
            }
            let kept = state.dirty.keys().copied().find(in_slot);
            let first = state.waiting.iter().position(|(row, _)| in_slot(row));
            let Some(first) = first else {
                let wake = table.withdraw(of_slot, core);
                return self.wake(at, core, wake, of_slot);
            };
            let (row, mode) = state.waiting[first];
            if let Some(kept) = kept {
                if state.unsecured.contains(&kept) {
                    return;
                }
                if kept != row {
                    self.leave(at, core, kept);
                    continue;
                }
                self.core(at, core).waiting.remove(first);
                let value = self.core(at, core).dirty[&row];
                self.sees(row, value);
                if mode.is_write() {
                    self.write(at, core, row);
                }
                continue;
            }
            match table.try_acquire(row, mode, core) {
                Acquire::Acquired { wake } => {
                    self.core(at, core).waiting.remove(first);
                    self.core(at, core).inside.push((row, mode));
                    let value = self.drive.get(&row).copied().unwrap_or(0);
                    self.sees(row, value);
                    self.wake(at, core, wake, row);
                }
                Acquire::Busy { recall: Some(other) } => {
                    let gives = false;
                    return self.mail(at, core, other, Mail::Recall { row, gives });
                }
                Acquire::Busy { recall: None } => return,
                Acquire::Absent => {
                    let takes = mode.is_write() && self.random.chance(self.taking);
                    if takes {
                        *self.core(at, core).asked.entry(row).or_default() += 1;
                    }
                    return self.mail(at, core, HOME_PARTY, Mail::Want { row, mode, takes });
                }
            }
        }
    }

    fn sees(&self, row: RowIndex, value: u64) {
        let latest = self.latest.get(&row).copied().unwrap_or(0);
        assert_eq!(
            value, latest,
            "seed {}: a core sees what is not the newest of {row:?}",
            self.seed
        );
    }

    fn write(&mut self, at: u8, core: u16, row: RowIndex) {
        let latest = self.latest.entry(row).or_default();
        *latest += 1;
        let value = *latest;
        self.totals.writes += 1;
        self.enter_entry(at, core, row, value, true);
        self.core(at, core).dirty.insert(row, value);
    }

    fn enter_entry(&mut self, lives_at: u8, lane: u16, row: RowIndex, value: u64, is_committed: bool) {
        let node = self.nodes.get_mut(&lives_at).expect("it lives");
        let seq = node.journal.enter(lane);
        let tail = node.journal.tail();
        node.entries
            .retain(|entry| !entry.is_retired || entry.seq >= tail);
        node.written_tail = tail;
        node.entries.push(Entry {
            lane,
            seq,
            row,
            value,
            is_committed,
            is_retired: false,
        });
    }

    /// Entries of a row up to a number are not needed any more.
    fn retire(&mut self, at: u8, lane: u16, row: RowIndex, up_to: u64) {
        let node = self.nodes.get_mut(&at).expect("it lives");
        for entry in &mut node.entries {
            if (entry.lane, entry.row) == (lane, row) && entry.seq <= up_to {
                entry.is_retired = true;
            }
        }
        let mut needed = node
            .entries
            .iter()
            .filter(|entry| entry.lane == lane && !entry.is_retired);
        let lowest = needed.next().map(|entry| entry.seq);
        node.journal.set_lowest(lane, lowest);
    }

    /// The operation of this core that has been inside for longest is done.
    pub(super) fn finish(&mut self, at: u8, core: u16) {
        if self.core(at, core).inside.is_empty() {
            return;
        }
        let (row, mode) = self.core(at, core).inside.remove(0);
        if mode.is_write() {
            self.write(at, core, row);
            self.settle(at, core, row);
        } else {
            let wake = self.nodes[&at].table.release(row, mode);
            self.wake(at, core, wake, row);
            self.attempt(at, core, row);
        }
    }

    /// The core is the writer of a row with dirty data, and looks whether it may stay that.
    fn settle(&mut self, at: u8, core: u16, row: RowIndex) {
        let table = self.nodes[&at].table.clone();
        let state = self.core(at, core);
        if !state.dirty.contains_key(&row) || state.unsecured.contains(&row) {
            return;
        }
        let hurry = state.hurry;
        let mut entries = self.nodes[&at].entries.iter();
        let is_late = entries
            .any(|entry| entry.row == row && entry.lane == core && !entry.is_retired && entry.seq < hurry);
        if is_late || table.is_awaited(row) || self.random.chance(300) {
            self.leave(at, core, row);
        }
        self.attempt(at, core, row);
    }

    /// The core gives its dirty data, if it was told so and likes to, or destages it; and leaves the row.
    fn leave(&mut self, at: u8, core: u16, row: RowIndex) {
        let likes_to = self.random.chance(850);
        let state = self.core(at, core);
        let value = state.dirty.remove(&row).expect("it is dirty");
        let gives = state.gives.remove(&row).unwrap_or(false) && likes_to;
        let table = self.nodes[&at].table.clone();
        let entries = &self.nodes[&at].entries;
        let of_row = entries
            .iter()
            .filter(|entry| (entry.lane, entry.row) == (core, row));
        let seq = of_row
            .map(|entry| entry.seq)
            .max()
            .expect("what is dirty is in the journal");
        if let Some(wake) = gives.then(|| table.release_to_home(row)).flatten() {
            let gift = Gift { value, seq };
            self.core(at, core).given.entry(row).or_default().push_back(gift);
            let data = data_of(value);
            self.mail(at, core, HOME_PARTY, Mail::Given { row, data });
            return self.wake(at, core, wake, row);
        }
        self.drive.insert(row, value);
        self.retire(at, core, row, seq);
        let wake = table.release(row, Mode::Write);
        self.wake(at, core, wake, row);
    }

    /// What has been adopted is committed, some of it.
    pub(super) fn secure(&mut self, at: u8, core: u16, chance: u64) {
        let all: Vec<RowIndex> = self.core(at, core).unsecured.iter().copied().collect();
        for row in all {
            if self.random.chance(chance) {
                self.core(at, core).unsecured.remove(&row);
                let node = self.nodes.get_mut(&at).expect("it lives");
                for entry in node
                    .entries
                    .iter_mut()
                    .filter(|entry| (entry.lane, entry.row) == (core, row))
                {
                    entry.is_committed = true;
                }
                self.mail(at, core, HOME_PARTY, Mail::Secured(row));
                self.settle(at, core, row);
            }
        }
    }

    fn is_answered(&mut self, at: u8, core: u16, row: RowIndex) {
        let seed = self.seed;
        let asked = self.core(at, core).asked.entry(row).or_default();
        assert!(
            *asked > 0,
            "seed {seed}: {row:?} is answered and was not asked for"
        );
        *asked -= 1;
    }

    fn gift(&mut self, at: u8, core: u16, row: RowIndex) -> Gift {
        let gifts = self.core(at, core).given.entry(row).or_default();
        gifts.pop_front().expect("it was given")
    }

    /// The core has dirty data again that nobody else has seen meanwhile.
    fn lay_in(&mut self, at: u8, core: u16, row: RowIndex, value: u64) {
        let slot = self.slot_of(at, row);
        let table = self.nodes[&at].table.clone();
        let state = self.core(at, core);
        assert!(
            state.inside.iter().all(|(other, _)| table.slot(*other) != slot),
            "it is the writer inside"
        );
        assert!(
            state.dirty.keys().all(|other| table.slot(*other) != slot),
            "and had nothing there"
        );
        state.dirty.insert(row, value);
        self.sees(row, value);
    }

    /// Something comes to a core.
    pub(super) fn core_receives(&mut self, at: u8, core: u16, mail: Mail) {
        match mail {
            Mail::Wake(row) => self.attempt(at, core, row),
            Mail::Recall { row, gives } => {
                let slot = self.slot_of(at, row);
                let table = self.nodes[&at].table.clone();
                let state = self.core(at, core);
                state.gives.insert(row, gives);
                let kept = state.dirty.keys().copied().find(|kept| table.slot(*kept) == slot);
                if let Some(kept) = kept.filter(|kept| !state.unsecured.contains(kept)) {
                    self.leave(at, core, kept);
                    self.attempt(at, core, kept);
                }
            }
            Mail::Answer(row) => {
                self.totals.answered += 1;
                self.is_answered(at, core, row);
            }
            Mail::Adopt { row, data } => {
                self.totals.adopted += 1;
                self.is_answered(at, core, row);
                let value = value_of(&data);
                self.enter_entry(at, core, row, value, false);
                self.lay_in(at, core, row, value);
                self.core(at, core).unsecured.insert(row);
            }
            Mail::Restore(row) => {
                self.totals.restored += 1;
                let Gift { value, .. } = self.gift(at, core, row);
                self.lay_in(at, core, row, value);
                self.settle(at, core, row);
            }
            Mail::Settle(row) => {
                self.totals.settled += 1;
                let Gift { seq, .. } = self.gift(at, core, row);
                self.retire(at, core, row, seq);
            }
            Mail::Void(row) => {
                self.totals.voided += 1;
                let gift = self.gift(at, core, row);
                self.core(at, core).void.entry(row).or_default().push_back(gift);
            }
            Mail::Forget(row) => {
                let gifts = self.core(at, core).void.entry(row).or_default();
                let Gift { seq, .. } = gifts.pop_front().expect("it was void");
                self.retire(at, core, row, seq);
            }
            Mail::Hurry(below) => {
                self.core(at, core).hurry = below;
                let dirty: Vec<RowIndex> = self.core(at, core).dirty.keys().copied().collect();
                for row in dirty {
                    self.settle(at, core, row);
                }
            }
            Mail::Want { .. } | Mail::Given { .. } | Mail::Turn(_) | Mail::Secured(_) => {
                unreachable!("that is for the home")
            }
        }
    }
}
