//! Goal: no block is lost, overwritten too early or in two places, whatever widths and wherever a crash comes.
//! Method: every pair of widths of 2 to 16 data members with small groups, strip by strip on a model of the members.

use std::collections::BTreeMap;

use super::*;
use crate::amf::MemberIndex;
use crate::amf::geometry::{Geometry, Level};
use crate::drive::block::{BlockSize, GroupLba, MemberLba};

const SCRATCH_ROWS: [u64; 3] = [1, 3, 64];

fn every_plan() -> impl Iterator<Item = (u8, u8, u64, Waves)> {
    let widths = (2..=16_u8).flat_map(|old| (old + 1..=16).map(move |new| (old, new)));
    widths.flat_map(|(old, new)| {
        [1, 2, 3, 7, 40, 200].into_iter().flat_map(move |rows| {
            SCRATCH_ROWS.into_iter().map(move |scratch| {
                (
                    old,
                    new,
                    rows,
                    Waves::new(old, new, rows, scratch).expect("it widens"),
                )
            })
        })
    })
}

/// PROTOCOL H35, CHECKLIST G2: no row of a wave is a source of it, except where the scratch area stands in, and the
/// waves cover every row once and in order.
#[test]
fn h35_no_row_of_a_wave_is_a_source_of_it() {
    for (old, new, rows, waves) in every_plan() {
        let mut frontier = 0;
        while let Some(wave) = waves.next(frontier) {
            assert_eq!(wave.from_row, frontier);
            assert!(
                wave.to_row > frontier && wave.to_row <= rows,
                "it advances: {old} to {new}, {rows} rows"
            );
            assert!(wave.to_row - wave.from_row <= WAVE_ROWS_MAX);
            for row in wave.from_row..wave.to_row {
                let Some((first, last)) = waves.sources(row) else {
                    assert_eq!(wave.kind, WaveKind::Clears);
                    continue;
                };
                assert!(
                    first >= row && last < rows,
                    "sources lie at or behind what is made of them"
                );
                let overlaps = first < wave.to_row && last >= wave.from_row;
                assert!(
                    !overlaps || wave.kind == WaveKind::MovesThroughScratch,
                    "{old} to {new}: row {row} of {wave:?}"
                );
            }
            frontier = wave.to_row;
        }
        assert_eq!(frontier, rows);
    }
}

/// PROTOCOL H35: only the first rows need the scratch area, about `old` of them, and each wave then grows.
#[test]
fn h35_only_the_first_rows_go_through_the_scratch_area() {
    for (old, new, _, waves) in every_plan() {
        let mut frontier = 0;
        while let Some(wave) = waves.next(frontier) {
            let is_early = frontier * u64::from(new - old) < u64::from(old);
            let moves = frontier < waves.moved_rows();
            assert_eq!(wave.kind == WaveKind::MovesThroughScratch, is_early && moves);
            frontier = wave.to_row;
        }
    }
    let waves = Waves::new(4, 5, 1000, 4).expect("it widens");
    let ends: Vec<u64> = std::iter::successors(waves.next(0), |wave| waves.next(wave.to_row))
        .map(|wave| wave.to_row)
        .take(8)
        .collect();
    assert_eq!(
        ends,
        [4, 5, 6, 7, 8, 10, 12, 15],
        "each end is the last one's, times 1.25"
    );
}

#[test]
fn a_wave_holds_its_rows_and_its_sources_once_and_in_order() {
    for (_, _, rows, waves) in every_plan() {
        let mut frontier = 0;
        while let Some(wave) = waves.next(frontier) {
            let held = waves.held(wave);
            let locks: Vec<u64> = held.rows().map(|row| row.0).collect();
            assert!((0..rows).all(|row| held.contains(RowIndex(row)) == locks.contains(&row)));
            assert!(
                locks.windows(2).all(|pair| pair[0] < pair[1]),
                "{wave:?}: {locks:?}"
            );
            assert!(locks.last().is_some_and(|last| *last < rows));
            for row in wave.from_row..wave.to_row {
                let mut sources = waves
                    .sources(row)
                    .into_iter()
                    .flat_map(|(first, last)| first..=last);
                assert!(locks.contains(&row) && sources.all(|row| locks.contains(&row)));
            }
            frontier = wave.to_row;
        }
    }
}

/// The strips of a group on a model of its members, by place: row and position in the row, of either layout. A row's
/// places are overwritten together.
struct Model {
    old: u64,
    new: u64,
    /// User strips of each row, and the layout that they are in.
    rows: BTreeMap<u64, Vec<u64>>,
    strips: u64,
}

impl Model {
    fn new(old: u8, new: u8, rows: u64) -> Self {
        let (old, new) = (u64::from(old), u64::from(new));
        Self {
            old,
            new,
            rows: (0..rows)
                .map(|row| (row, (row * old..(row + 1) * old).collect()))
                .collect(),
            strips: rows * old,
        }
    }

    /// The content of a new row, read by the old layout. Panics if a source has been overwritten.
    fn read(&self, row: u64) -> Vec<u64> {
        // A row without sources is cleared.
        let strips = row * self.new..((row + 1) * self.new).min(self.strips);
        strips
            .inspect(|strip| {
                let content =
                    self.rows[&(*strip / self.old)].get(usize::try_from(*strip % self.old).expect("few"));
                assert_eq!(content, Some(strip), "a source was overwritten before it moved");
            })
            .collect()
    }

    /// Everything reads back with this frontier.
    fn check(&self, frontier: u64) {
        for strip in 0..self.strips {
            let (row, at) = if strip < frontier * self.new {
                (strip / self.new, strip % self.new)
            } else {
                (strip / self.old, strip % self.old)
            };
            let content = self.rows[&row].get(usize::try_from(at).expect("few"));
            assert_eq!(content, Some(&strip), "strip {strip} at frontier {frontier}");
        }
    }
}

/// PROTOCOL H35, I12, CHECKLIST G1: a crash after any write of a wave, in whichever order, loses nothing: what the durable
/// frontier says reads back, and the wave can be done again.
#[test]
fn h35_i12_a_wave_may_be_cut_anywhere_and_done_again() {
    for (old, new, rows, waves) in every_plan().filter(|(.., rows, _)| *rows <= 40) {
        let mut model = Model::new(old, new, rows);
        let mut frontier = 0;
        while let Some(wave) = waves.next(frontier) {
            // The scratch area holds the whole wave, durably, before the first of its rows is written in place.
            let scratch: Option<Vec<Vec<u64>>> = (wave.kind == WaveKind::MovesThroughScratch)
                .then(|| (wave.from_row..wave.to_row).map(|row| model.read(row)).collect());
            // Backwards, the order that hurts most; after each write the power may go and all is done again.
            for cut in (wave.from_row..wave.to_row).rev() {
                if wave.kind != WaveKind::MovesThroughScratch {
                    model.check(frontier);
                }
                for (row, at) in (cut..wave.to_row).zip(usize::try_from(cut - wave.from_row).expect("few")..)
                {
                    let content = match &scratch {
                        Some(scratch) => scratch[at].clone(),
                        None => model.read(row),
                    };
                    model.rows.insert(row, content);
                }
            }
            frontier = wave.to_row;
            model.check(frontier);
        }
    }
}

fn geometry(data: u8, rows: u64) -> Geometry {
    Geometry::new(Level::Raid5, data + 1, 2, MemberLba(10), rows, BlockSize::B512).expect("it is small")
}

/// PROTOCOL I13: at every step of the frontier each block has one place, and no two share one.
#[test]
fn i13_the_map_is_total_and_injective_at_every_step() {
    for (old, new) in (2..=16_u8).flat_map(|old| (old + 1..=16).map(move |new| (old, new))) {
        let rows = 12;
        let mut layout = Layout::expanding(geometry(old, rows), geometry(new, rows), 0).expect("it widens");
        let waves = layout.waves(2).expect("there is scratch room");
        loop {
            let mut places: BTreeMap<(MemberIndex, MemberLba), u64> = BTreeMap::new();
            for block in 0..layout.capacity_blocks() {
                let side = layout.side(GroupLba(block));
                let place = layout.geometry(side).locate(GroupLba(block));
                let other = places.insert((place.member, place.lba), block);
                assert_eq!(other, None, "{old} to {new}, frontier {}", layout.frontier());
            }
            let Some(wave) = waves.next(layout.frontier()) else {
                break;
            };
            assert!(!layout.is_over());
            assert_eq!(
                layout.capacity_blocks(),
                geometry(old, rows).capacity_blocks(),
                "no more is shown before the end"
            );
            layout.advance(wave.to_row);
        }
        assert!(layout.is_over());
        assert_eq!(
            layout.capacity_blocks(),
            geometry(new, rows).capacity_blocks(),
            "capacity grew (CHECKLIST G1)"
        );
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    assert_eq!(
        Waves::new(4, 4, 10, 1),
        Err(ExpansionError::NotWider { old: 4, new: 4 })
    );
    assert_eq!(
        Waves::new(0, 4, 10, 1),
        Err(ExpansionError::NotWider { old: 0, new: 4 })
    );
    assert_eq!(Waves::new(4, 5, 10, 0), Err(ExpansionError::NoScratch));
    assert_eq!(
        Layout::expanding(geometry(4, 9), geometry(5, 8), 0),
        Err(ExpansionError::OtherShape)
    );
    let narrower = Layout::expanding(geometry(5, 8), geometry(4, 8), 0);
    assert_eq!(narrower, Err(ExpansionError::NotWider { old: 5, new: 4 }));
}

#[test]
fn a_range_is_cut_where_the_frontier_is() {
    let mut layout = Layout::expanding(geometry(4, 10), geometry(5, 10), 0).expect("it widens");
    assert_eq!(layout.frontier_block(), GroupLba(0));
    layout.advance(3);
    assert_eq!(layout.frontier_block(), GroupLba(30));
    assert_eq!(layout.side(GroupLba(29)), Side::New);
    assert_eq!(layout.side(GroupLba(30)), Side::Old);
    layout.advance(8);
    assert_eq!(
        layout.frontier_block(),
        GroupLba(80),
        "there is nothing behind the old capacity"
    );
}

/// H36: before anything is on the new members alone all of them may be lost, and not from then on.
#[test]
fn h36_new_members_count_when_rows_rely_on_them() {
    let geometry = geometry(5, 10);
    let at = |frontier, scratch| {
        let record = ExpansionRecord {
            old_members: 4,
            frontier,
            scratch,
        };
        Layout::of(geometry, Some(record)).expect("it widens")
    };
    let (both_new, one_new, two_old) = (0b11_0000, 0b1_0000, 0b11);
    for begun in [false, true] {
        let layout = match begun {
            false => at(0, ScratchState::Dirty),
            true => at(0, ScratchState::Holds { to: 2 }),
        };
        assert_eq!(layout.survives(both_new), !begun);
        assert_eq!(layout.relied_on().members(), if begun { 6 } else { 4 });
        assert!(layout.survives(one_new) && !layout.survives(two_old));
    }
    assert!(!at(1, ScratchState::Clean).survives(both_new));
    assert!(Layout::fixed(geometry).survives(one_new));
}
