//! Rows that other nodes hold at times: an engine's node has to get them first, and loses them when they are wanted elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::executor::{Owed, Random, Shape, World};
use super::tests::{Run, any_shape};
use crate::amf::RowIndex;
use crate::amf::lock::{Entry, HOME, Held, Mode, WakeMask};

/// The homes of all slots, and nodes that want rows whenever they like.
#[derive(Default)]
pub struct Elsewhere {
    /// What cores have asked for, by slot.
    wanted: BTreeMap<u32, (RowIndex, Mode, u16)>,
    /// Slots whose homes wait for their turn to give up what is held.
    recalled: BTreeSet<u32>,
    got: u32,
    lost: u32,
    demoted: u32,
    replaced: u32,
}

impl World {
    fn elsewhere(&mut self) -> &mut Elsewhere {
        self.elsewhere.as_mut().expect("rows are shared")
    }

    /// A core wants what the node does not hold.
    pub fn want_row(&mut self, core: usize, row: RowIndex, mode: Mode) {
        let slot = self.lock.slot(row);
        let asker = u16::try_from(core).expect("few cores");
        let earlier = self.elsewhere().wanted.insert(slot, (row, mode, asker));
        assert!(
            earlier.is_none(),
            "who asks has found the slot in its home's hands"
        );
        self.cores[core].owed.push(Owed::Home(row));
    }

    /// The home of the row's slot goes on.
    pub fn go_home(&mut self, row: RowIndex) {
        let (lock, slot) = (self.lock.clone(), self.lock.slot(row));
        let has_more = self.random.chance(50);
        let elsewhere = self.elsewhere();
        let wake = if let Some((row, mode, asker)) = elsewhere.wanted.remove(&slot) {
            if lock.held(slot).is_some() {
                elsewhere.replaced += 1;
                lock.set_held(row, Held::Nothing);
            }
            elsewhere.got += 1;
            elsewhere.recalled.remove(&slot);
            let is_write = mode.is_write() || has_more;
            lock.set_held(row, if is_write { Held::Write } else { Held::Read });
            lock.leave_home(slot, Some(asker))
        } else if elsewhere.recalled.remove(&slot) {
            self.lose_row(slot)
        } else {
            return;
        };
        self.call_in(wake, row);
    }

    /// Another node wants a row.
    pub fn want_elsewhere(&mut self) {
        let row = RowIndex(self.random.below(self.geometry.rows()));
        let slot = self.lock.slot(row);
        let elsewhere = self.elsewhere();
        if elsewhere.wanted.contains_key(&slot) || elsewhere.recalled.contains(&slot) {
            return;
        }
        match self.lock.enter_home(slot) {
            Entry::In => {
                let wake = self.lose_row(slot);
                self.call_in(wake, row);
            }
            // A core's want is on its way: it takes the row away.
            Entry::Called => {}
            Entry::Busy { recall } => {
                self.elsewhere().recalled.insert(slot);
                if let Some(core) = recall {
                    self.cores[usize::from(core)].owed.push(Owed::Recall(row));
                }
            }
        }
    }

    /// The home is in: what the node holds goes, or may only be read from now on.
    fn lose_row(&mut self, slot: u32) -> WakeMask {
        let demotes = self.random.chance(30);
        let lock = self.lock.clone();
        let elsewhere = self.elsewhere();
        if let Some((row, _)) = lock.held(slot) {
            elsewhere.lost += 1;
            elsewhere.demoted += u32::from(demotes);
            lock.set_held(row, if demotes { Held::Read } else { Held::Nothing });
        }
        lock.leave_home(slot, None)
    }

    fn call_in(&mut self, wake: WakeMask, row: RowIndex) {
        self.wake_cores(0, wake.0, row);
    }

    /// Wakes cores of a node, and the home of the row's slot if it is among them.
    pub fn wake_cores(&mut self, node: usize, mask: u16, row: RowIndex) {
        for core in (0..self.cores_each).filter(|core| mask >> core & 1 == 1) {
            self.cores[node * self.cores_each + core]
                .owed
                .push(Owed::Wake(row));
        }
        if mask >> HOME & 1 == 1 {
            self.cores[node * self.cores_each].owed.push(Owed::Home(row));
        }
    }
}

/// CHECKLIST B1, B2, B8, PROTOCOL H13, H14: whatever rows are wanted elsewhere at whatever moment, every command ends, and the group holds what
/// hosts have written, at every level, with and without a journal and a read cache.
#[test]
fn rows_that_are_wanted_elsewhere_go_when_nothing_of_them_is_under_way() {
    let (mut got, mut lost, mut demoted, mut replaced) = (0, 0, 0, 0);
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut shape = Shape {
            shared: true,
            ..any_shape(&mut random)
        };
        if seed % 4 == 0 {
            // More rows than slots.
            shape.rows = 150;
        }
        let mut run = Run::new(&shape, seed);
        if seed % 3 == 0 {
            run.world.remember_reads(40, 8192);
        }
        run.run(1500, |_, _| {});
        run.check_contents();
        let seen = run.world.elsewhere.take().expect("rows are shared");
        assert!(seen.wanted.is_empty(), "whoever asked was answered");
        got += seen.got;
        lost += seen.lost;
        demoted += seen.demoted;
        replaced += seen.replaced;
    }
    assert!(
        got > 10_000 && lost > 3_000 && demoted > 500 && replaced > 300,
        "{got} {lost} {demoted} {replaced}"
    );
}
