//! Rows that other nodes hold at times: an engine's node has to get them first, and loses them when they are wanted elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Place;
use super::executor::{BLOCK, Owed, Random, Shape, World};
use super::tests::{Run, any_shape};
use crate::amf::RowIndex;
use crate::amf::hand_over::HandedOver;
use crate::amf::lock::{Entry, HOME, Held, Mode, WakeMask};

/// The homes of all slots, and nodes that want rows whenever they like.
#[derive(Default)]
pub struct Elsewhere {
    /// What cores have asked for, by slot.
    wanted: BTreeMap<u32, Wanted>,
    /// Slots whose homes wait for their turn to give up what is held.
    recalled: BTreeSet<u32>,
    got: u32,
    lost: u32,
    demoted: u32,
    replaced: u32,
    /// Rows that went with their dirty data, which other nodes have not written in its place.
    away: BTreeMap<RowIndex, Away>,
    given: u32,
    restored: u32,
    adopted: u32,
    taken: u32,
}

#[derive(Clone, Copy)]
struct Wanted {
    row: RowIndex,
    mode: Mode,
    core: u16,
    takes: bool,
}

/// Dirty data of a row.
struct Away {
    /// Who has given it.
    core: u16,
    data: Arc<HandedOver>,
}

impl World {
    fn elsewhere(&mut self) -> &mut Elsewhere {
        self.elsewhere.as_mut().expect("rows are shared")
    }

    /// A core wants what the node does not hold.
    pub fn want_row(&mut self, core: usize, (row, mode): (RowIndex, Mode), takes: bool) {
        let slot = self.lock.slot(row);
        let wanted = Wanted {
            row,
            mode,
            core: u16::try_from(core).expect("few cores"),
            takes,
        };
        let earlier = self.elsewhere().wanted.insert(slot, wanted);
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
        let adopts = self.random.chance(80);
        let elsewhere = self.elsewhere();
        let wake = if let Some(wanted) = elsewhere.wanted.remove(&slot) {
            let Wanted {
                row,
                mode,
                core: asker,
                takes,
            } = wanted;
            if elsewhere.away.contains_key(&row) {
                elsewhere.recalled.remove(&slot);
                return self.want_what_is_away(wanted, takes && adopts);
            }
            if takes {
                self.cores[usize::from(asker)].owed.push(Owed::Answer(row));
            }
            let elsewhere = self.elsewhere();
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
                let gives = self.random.chance(70);
                if let Some(core) = recall {
                    let owed = self
                        .lock
                        .held(slot)
                        .map_or(Owed::Recall(row), |(held, _)| Owed::RecallFor(held, gives));
                    self.cores[usize::from(core)].owed.push(owed);
                }
            }
        }
    }

    /// The home is in: what the node holds goes, or may only be read from now on.
    fn lose_row(&mut self, slot: u32) -> WakeMask {
        let demotes = self.random.chance(30);
        let comes_back = self.random.chance(30);
        let lock = self.lock.clone();
        let elsewhere = self.elsewhere();
        if let Some((row, _)) = lock.held(slot) {
            if let Some(core) = elsewhere.away.get(&row).map(|away| away.core) {
                if comes_back {
                    return self.restore(row, core);
                }
                elsewhere.lost += 1;
                lock.set_held(row, Held::Nothing);
                return lock.leave_home(slot, None);
            }
            elsewhere.lost += 1;
            elsewhere.demoted += u32::from(demotes);
            lock.set_held(row, if demotes { Held::Read } else { Held::Nothing });
        }
        lock.leave_home(slot, None)
    }

    /// A core has laid out a row's dirty data and left the row to its home.
    pub fn given(&mut self, core: usize, row: RowIndex) {
        let engine = &self.cores[core].engine;
        let data = engine.lay_out(row, |offset_bytes, bytes, out| {
            let blocks = self.load(core, Place::Ring { offset_bytes }, bytes);
            out.extend(blocks.into_iter().flat_map(|byte| [byte; BLOCK as usize]));
        });
        if self.several.is_some() {
            return self.given_to_nodes(core, row, data);
        }
        let away = Away {
            core: u16::try_from(core).expect("few cores"),
            data: Arc::new(data),
        };
        let elsewhere = self.elsewhere();
        elsewhere.given += 1;
        let earlier = elsewhere.away.insert(row, away);
        assert!(earlier.is_none(), "a row is given once");
    }

    /// The home, which is in, brings a row back to the core that has given it.
    fn restore(&mut self, row: RowIndex, core: u16) -> WakeMask {
        let elsewhere = self.elsewhere();
        elsewhere.away.remove(&row);
        elsewhere.restored += 1;
        self.lock.pass_home(row, core);
        self.cores[usize::from(core)].owed.push(Owed::Restore(row));
        WakeMask(0)
    }

    /// A core wants a row whose dirty data another node has: it gets both, or the core that gave them gets them back.
    fn want_what_is_away(&mut self, wanted: Wanted, adopts: bool) {
        let Wanted { row, core, takes, .. } = wanted;
        if !adopts {
            if takes {
                self.cores[usize::from(core)].owed.push(Owed::Answer(row));
            }
            let giver = self.elsewhere().away[&row].core;
            let _nobody = self.restore(row, giver);
            return;
        }
        let away = self.elsewhere().away.remove(&row).expect("it is away");
        // Who had it has it durable, and has written nothing since.
        let mut out = Vec::new();
        let giver = usize::from(away.core);
        self.cores[giver].engine.settle_given(row, &mut out);
        self.act(giver, out);
        self.elsewhere().adopted += 1;
        self.lock.pass_home(row, core);
        self.bring_data(usize::from(core), row, away.data);
    }

    /// A core is to adopt this.
    pub fn bring_data(&mut self, core: usize, row: RowIndex, data: Arc<HandedOver>) {
        self.adopting.insert((core, row), data);
        self.cores[core].owed.push(Owed::Adopt(row));
    }

    /// Data that came with a row is laid in.
    pub fn adopt(&mut self, core: usize, row: RowIndex) {
        let data = self.adopting.remove(&(core, row)).expect("it is on its way");
        let pieces = data.extents().filter_map(|(_, piece)| piece);
        self.handed = pieces.flatten().step_by(BLOCK as usize).copied().collect();
        let mut out = Vec::new();
        self.cores[core].engine.adopt(row, &data, &mut out);
        self.act(core, out);
    }

    /// It is committed.
    pub fn taken(&mut self, core: usize, row: RowIndex) {
        if self.several.is_some() {
            return self.taken_from_nodes(core, row);
        }
        self.elsewhere().taken += 1;
    }

    /// Nothing is under way: a row that is away with its data comes back, or its home asks for its turn. False if there is none.
    pub fn bring_back(&mut self) -> bool {
        let Some(elsewhere) = &self.elsewhere else {
            return false;
        };
        let away = elsewhere
            .away
            .iter()
            .map(|(row, away)| (*row, away.core))
            .find(|(row, _)| {
                let slot = self.lock.slot(*row);
                !elsewhere.wanted.contains_key(&slot) && !elsewhere.recalled.contains(&slot)
            });
        let Some((row, giver)) = away else { return false };
        let slot = self.lock.slot(row);
        match self.lock.enter_home(slot) {
            Entry::In => {
                let _nobody = self.restore(row, giver);
            }
            Entry::Called => return false,
            Entry::Busy { recall } => {
                self.elsewhere().recalled.insert(slot);
                if let Some(core) = recall {
                    self.cores[usize::from(core)].owed.push(Owed::Recall(row));
                }
            }
        }
        true
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
    let (mut given, mut restored, mut adopted) = (0, 0, 0);
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
        assert!(seen.away.is_empty(), "all data has come back");
        assert_eq!(seen.adopted, seen.taken, "what was adopted is committed");
        given += seen.given;
        restored += seen.restored;
        adopted += seen.adopted;
    }
    assert!(
        given > 400 && restored > 200 && adopted > 40,
        "{given} {restored} {adopted}"
    );
    assert!(
        got > 10_000 && lost > 3_000 && demoted > 500 && replaced > 300,
        "{got} {lost} {demoted} {replaced}"
    );
}
