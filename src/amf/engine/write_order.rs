//! The order in which a write reaches the drives: journal, answer, new check data in the journal, then its place.

use super::executor::{Owed, Shape, World, drive_io};
use super::*;
use crate::amf::geometry::Level;

/// Ticks after which a dirty row is old enough.
const TICKS_MAX: u32 = 25;

const SHAPE: Shape = Shape {
    level: Level::Raid6,
    members: 6,
    journal: Some(Durability::Journal),
    ..Shape::SMALL
};

/// What a core asks its drives for, parted by what it is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    reads: usize,
    journal_writes: usize,
    writes_in_place: usize,
    others: usize,
}

fn asked(world: &World, core: usize) -> Asked {
    let mut asked = Asked::default();
    let place_end =
        world.geometry.data_start().0 + world.geometry.rows() * u64::from(world.geometry.member_row_blocks());
    for action in world.asked(core) {
        if let Action::DriveWrite { lba, fua, .. } = action {
            if lba.0 >= place_end {
                assert!(fua, "a record is on stable media before its answer");
                asked.journal_writes += 1;
            } else {
                asked.writes_in_place += 1;
            }
        } else if matches!(action, Action::DriveRead { .. }) {
            asked.reads += 1;
        } else {
            asked.others += 1;
        }
    }
    asked
}

/// Pays the first drive command of a core.
fn pay_one(world: &mut World, core: usize) {
    let index = world.find(core, |owed| matches!(owed, Owed::Drive(_)));
    world.pay(core, index);
}

fn tick(world: &mut World, core: usize) {
    let mut out = Vec::new();
    world.cores[core].engine.tick(&mut out);
    world.act(core, out);
}

/// Lets time go by until the core asks its drives for something.
fn tick_until_asked(world: &mut World, core: usize) {
    for _ in 0..TICKS_MAX {
        tick(world, core);
        if !world.asked(core).is_empty() {
            return;
        }
    }
    panic!("a dirty row is destaged as time goes by");
}

/// Carries one write through all its steps and checks their order; `copies` are the live members that a record goes to.
fn follow_a_write(world: &mut World, lba: u64, data: &[u8], copies: usize) {
    world.write(0, 0, lba, data);
    let journaled = Asked {
        journal_writes: copies,
        ..Asked::default()
    };
    assert_eq!(asked(world, 0), journaled, "first its record, nothing else");
    for left in (1..=copies).rev() {
        assert_eq!(
            world.result(0, 0),
            None,
            "{left} copies of the record are not durable"
        );
        pay_one(world, 0);
    }
    assert_eq!(world.result(0, 0), Some(Ok(())), "the record is durable");
    world.done.clear();

    tick_until_asked(world, 0);
    while asked(world, 0).reads > 0 {
        assert_eq!(
            asked(world, 0).writes_in_place,
            0,
            "old data and checks are read first"
        );
        pay_one(world, 0);
    }
    assert_eq!(
        asked(world, 0),
        journaled,
        "new check data goes to the journal first"
    );
    for _ in 0..copies {
        assert_eq!(
            asked(world, 0).writes_in_place,
            0,
            "the new check data is not durable"
        );
        pay_one(world, 0);
    }
    let in_place = asked(world, 0);
    assert!(in_place.writes_in_place > 0, "only now the row changes");
    let left = Asked {
        writes_in_place: in_place.writes_in_place,
        ..Asked::default()
    };
    assert_eq!(in_place, left);
}

/// CHECKLIST D3 (PROTOCOL H25): a partial write is answered when its record is durable on f + 1 members; old data and checks
/// are read; no block of the row is written before the record of its new check data is durable, too.
#[test]
fn a_partial_write_is_journaled_read_computed_journaled_and_written() {
    let mut world = World::new(&SHAPE, 1);
    follow_a_write(&mut world, 5, &[7, 8], 3);
    assert_eq!(
        asked(&world, 0).writes_in_place,
        3,
        "one strip and two check strips"
    );
    world.drain();
    assert!(world.parity_matches());
    assert_eq!(world.contents(0)[5..7], [7, 8]);
    world.assert_idle();
}

/// CHECKLIST D3: however many writes there were, after a drain the journal owes nothing.
#[test]
fn after_many_writes_and_a_drain_no_entry_is_open() {
    let mut world = World::new(&SHAPE, 2);
    let mut expected = vec![0; world.capacity()];
    for round in 0..2_000 {
        let blocks = 1 + world.random.index(12);
        let lba = world.random.index(world.capacity() - blocks);
        let data = vec![world.random.byte(); blocks];
        world.write(0, 0, lba as u64, &data);
        while world.result(0, 0).is_none() {
            assert!(world.pay_any(), "write {round} ends");
        }
        assert_eq!(world.result(0, 0), Some(Ok(())));
        world.done.clear();
        expected[lba..lba + blocks].copy_from_slice(&data);
    }
    world.drain();
    world.assert_idle();
    assert!(world.parity_matches());
    assert_eq!(world.contents(0), expected);
}

/// CHECKLIST D4 (PROTOCOL H25, H26): the same with any member lost, whichever strip is written: what a lost strip would have held
/// is regenerated before, and its change is in the journal's check data before the row changes.
#[test]
fn a_degraded_write_journals_what_it_regenerated_before_the_row_changes() {
    for lost in 0..6 {
        for strip in 0..4_u64 {
            let mut world = World::new(&SHAPE, 3);
            let data: Vec<u8> = (1..=u8::try_from(world.capacity()).expect("small")).collect();
            world.write(0, 0, 0, &data);
            world.settle();
            world.drain();
            world.done.clear();
            world.fail_members(1 << lost);
            world.settle();

            let lba = strip * u64::from(world.geometry.strip_blocks()) + 1;
            follow_a_write(&mut world, lba, &[200, 201], 3);
            for action in world.asked(0) {
                assert_ne!(drive_io(&action).1.0, lost, "nothing is written to a lost member");
            }
            world.drain();
            let mut expected = data;
            let at = usize::try_from(lba).expect("small");
            expected[at..at + 2].copy_from_slice(&[200, 201]);
            assert_eq!(
                world.contents(1 << lost),
                expected,
                "member {lost}, strip {strip}"
            );
        }
    }
}

/// CHECKLIST D5: adjacent writes become one whole row, which is written without reading anything.
#[test]
fn adjacent_writes_are_destaged_as_a_whole_row() {
    let mut world = World::new(&SHAPE, 4);
    let strip = world.geometry.strip_blocks();
    for column in 0..4_u32 {
        let data = vec![u8::try_from(column + 1).expect("small"); strip as usize];
        world.write(0, 0, u64::from(column * strip), &data);
        for _ in 0..3 {
            pay_one(&mut world, 0);
        }
        assert_eq!(world.result(0, 0), Some(Ok(())));
        world.done.clear();
    }
    tick_until_asked(&mut world, 0);
    let journaled = Asked {
        journal_writes: 3,
        ..Asked::default()
    };
    assert_eq!(asked(&world, 0), journaled, "nothing is read");
    for _ in 0..3 {
        pay_one(&mut world, 0);
    }
    assert_eq!(asked(&world, 0).writes_in_place, 6, "each member is written once");
    world.drain();
    assert!(world.parity_matches());
}

/// CHECKLIST D5: a lane that fills destages without waiting for the rows to grow old.
#[test]
fn a_lane_that_fills_destages_at_once() {
    let mut world = World::new(&SHAPE, 5);
    for round in 0..40_u64 {
        world.write(0, 0, round % 8 * u64::from(world.geometry.row_blocks()), &[9; 6]);
        while world.result(0, 0).is_none() {
            if asked(&world, 0).writes_in_place > 0 {
                world.settle();
                world.drain();
                assert!(world.parity_matches());
                return;
            }
            pay_one(&mut world, 0);
        }
        world.done.clear();
    }
    panic!("no row went to its place while the lane filled");
}

/// CHECKLIST D5: a row that another core wants is destaged and given up at once.
#[test]
fn a_row_that_is_recalled_is_destaged_at_once() {
    let shape = Shape { cores: 2, ..SHAPE };
    let mut world = World::new(&shape, 6);
    world.write(0, 0, 5, &[7, 8]);
    for _ in 0..3 {
        pay_one(&mut world, 0);
    }
    assert_eq!(world.result(0, 0), Some(Ok(())));
    world.read(1, 0, 5, 2);
    assert!(world.asked(1).is_empty(), "the row belongs to the other core");
    let index = world.find(0, |owed| matches!(owed, Owed::Recall(_)));
    world.pay(0, index);
    assert!(
        asked(&world, 0).reads > 0,
        "the destage begins, and no time went by"
    );
    world.settle();
    assert_eq!(world.result(1, 0), Some(Ok(())));
    assert_eq!(world.cores[1].buffers[0], [7, 8]);
}

/// CHECKLIST D5: a stream of half rows becomes whole rows, whose destages read nothing, although the lane is full all the time: rows
/// that are still being filled are left alone as long as older ones make room.
#[test]
fn a_stream_of_half_rows_is_destaged_as_whole_rows() {
    for depth in 1..=4 {
        let shape = Shape {
            members: 4,
            level: Level::Raid5,
            rows: 96,
            ..SHAPE
        };
        let mut world = World::new(&shape, 1);
        let half = world.geometry.row_blocks() / 2;
        let mut reads = 0;
        let mut written = 0;
        while written < 2 * 96 {
            for command in 0..depth {
                if written >= depth {
                    while world.result(0, command).is_none() {
                        let index = world.find(0, |owed| matches!(owed, Owed::Drive(_)));
                        let owed = world.cores[0].owed[index];
                        reads += u32::from(matches!(owed, Owed::Drive(Action::DriveRead { .. })));
                        world.pay(0, index);
                    }
                    world.done.retain(|done| done.command.0 != command);
                }
                let lba = u64::from(written) * u64::from(half);
                let data = vec![u8::try_from(written).expect("below 192") + 1; half as usize];
                world.write(0, command, lba, &data);
                written += 1;
            }
        }
        assert_eq!(reads, 0, "{depth} writes at a time");
        world.settle();
        world.drain();
        assert!(world.parity_matches());
        let expected: Vec<u8> = (1..=192).flat_map(|n| vec![n; half as usize]).collect();
        assert_eq!(world.contents(0), expected);
    }
}
