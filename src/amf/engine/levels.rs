//! The group's own row operations, at every level: rebuild, scrub, repair, and blocks that cannot be read.

use super::executor::{Owed, Random, Shape, World, drive_io};
use super::*;
use crate::amf::ParityTrust;
use crate::amf::geometry::{Level, Role};

const OK: Option<Result<(), GroupError>> = Some(Ok(()));
const UNREADABLE: Option<Result<(), GroupError>> = Some(Err(GroupError::Unreadable));

fn shape(level: Level, members: u8) -> Shape {
    Shape {
        level,
        members,
        rows: 4,
        strip: 3,
        ..Shape::SMALL
    }
}

/// A group that is full of random data, and that data.
fn filled(shape: &Shape) -> (World, Vec<u8>) {
    let mut world = World::new(shape, 9);
    let data: Vec<u8> = (0..world.capacity()).map(|_| world.random.byte()).collect();
    world.write(0, 0, 0, &data);
    world.settle();
    assert!(world.parity_matches());
    world.done.clear();
    (world, data)
}

fn every_redundant_shape(mut each: impl FnMut(&Shape)) {
    for level in Level::ALL.into_iter().filter(|level| level.is_redundant()) {
        for members in level.members_min()..=6 {
            each(&shape(level, members));
        }
    }
}

/// Where a block of what a member gives to a row is on its drive.
fn position(world: &World, row: u64, offset: u32) -> usize {
    usize::try_from(world.geometry.member_lba(RowIndex(row), offset).0).expect("small")
}

fn scrub(world: &mut World, row: u64, repair: bool) -> ScrubOutcome {
    let row = RowIndex(row);
    world.scrubbed.clear();
    world.submit(0, 0, Request::Scrub { row, repair });
    world.settle();
    assert_eq!(world.result(0, 0), OK);
    world.done.clear();
    let [(scrubbed, outcome)] = world.scrubbed[..] else {
        panic!("a scrub says once what it found: {:?}", world.scrubbed);
    };
    assert_eq!(scrubbed, row);
    outcome
}

/// CHECKLIST D6: a scrub of what was written finds nothing, and changes nothing.
#[test]
fn a_scrub_of_a_right_row_is_clean() {
    every_redundant_shape(|shape| {
        let (mut world, data) = filled(shape);
        for row in 0..shape.rows {
            for repair in [false, true] {
                assert_eq!(scrub(&mut world, row, repair), ScrubOutcome::Clean);
            }
        }
        assert_eq!(world.contents(0), data);
        world.assert_idle();
    });
    let (mut world, _) = filled(&shape(Level::Raid0, 3));
    assert_eq!(scrub(&mut world, 1, true), ScrubOutcome::Unchecked);
}

/// CHECKLIST D6: each single strip of each row is corrupted, in one block or in all. Where redundancy proves which strip it
/// is, it is written anew with what it held; elsewhere data and the first copy are believed. A check-only scrub says the same and
/// changes nothing.
#[test]
fn a_scrub_finds_and_repairs_each_corrupted_strip() {
    every_redundant_shape(|shape| {
        let (mut world, data) = filled(shape);
        let strips = shape.level.member_strips(shape.members);
        for row in 0..shape.rows {
            for member in (0..shape.members).map(MemberIndex) {
                for (strip, damage) in
                    (0..strips).flat_map(|strip| [1..2, 0..3].map(|damage| (strip, damage)))
                {
                    let first = u32::from(strip) * shape.strip;
                    let drive = usize::from(member.0);
                    let before = world.drives.clone();
                    for at in damage {
                        let at = position(&world, row, first + at);
                        world.drives[drive][at] ^= world.random.byte();
                    }
                    let damaged = world.drives.clone();
                    let (bad, located) = judged(&world, RowIndex(row), member, strip);
                    let outcome = |repaired| ScrubOutcome::Mismatch {
                        members: bad,
                        located,
                        repaired,
                    };
                    assert_eq!(scrub(&mut world, row, false), outcome(false));
                    assert_eq!(world.drives, damaged, "a check changes nothing");
                    assert_eq!(scrub(&mut world, row, true), outcome(true));
                    assert!(world.parity_matches(), "{:?}", world.geometry);
                    if bad == 1 << member.0 {
                        assert_eq!(world.drives, before);
                    }
                    assert_eq!(scrub(&mut world, row, true), ScrubOutcome::Clean);
                    world.drives = before;
                }
            }
        }
        assert_eq!(world.contents(0), data);
        world.assert_idle();
    });
}

/// The members that a scrub has to call wrong when one strip of one member is, and whether it can prove it.
fn judged(world: &World, row: RowIndex, member: MemberIndex, strip: u8) -> (u32, bool) {
    let g = &world.geometry;
    let own = 1 << member.0;
    let check = |index| 1 << g.check_member(row, index).expect("it has one").0;
    match g.role(row, member, strip) {
        // With one data column any check strip of two may be as right as the data.
        Role::Data { .. } if g.check_strips() == 1 => (check(0), false),
        Role::Check { .. } if g.check_strips() == 1 => (own, false),
        Role::Data { .. } | Role::Check { .. } => (own, true),
        Role::Copy { .. } if g.copies() > 2 => (own, true),
        // Of two copies the first is believed.
        Role::Copy { column, .. } => (1 << g.copy_place(row, column, 1).member.0, false),
    }
}

/// Two strips are wrong in different blocks: each is found by itself.
#[test]
fn wrong_blocks_of_several_strips_are_told_apart() {
    for (level, members) in [(Level::Raid6, 5), (Level::RaidTp, 6), (Level::Raid1, 4)] {
        let (mut world, _) = filled(&shape(level, members));
        let before = world.drives.clone();
        for (block, drive) in [(0, 1), (1, 3), (2, 0)] {
            let at = position(&world, 2, block);
            world.drives[drive][at] ^= 0x3C;
        }
        let expected = ScrubOutcome::Mismatch {
            members: 0b1011,
            located: true,
            repaired: true,
        };
        assert_eq!(scrub(&mut world, 2, true), expected);
        assert_eq!(world.drives, before);
    }
}

/// Two data strips are wrong in one block: nothing proves which, data is believed, and all check strips are made to fit.
#[test]
fn what_cannot_be_located_is_made_to_fit() {
    for (level, members) in [(Level::Raid6, 6), (Level::RaidTp, 7)] {
        let (mut world, mut data) = filled(&shape(level, members));
        let row = RowIndex(1);
        let mut checks = 0;
        for index in 0..level.check_strips() {
            checks |= 1 << world.geometry.check_member(row, index).expect("it has one").0;
        }
        for (column, error) in [(0, 0x11), (2, 0x72)] {
            let member = world.geometry.data_member(row, column);
            let at = position(&world, 1, 1);
            world.drives[usize::from(member.0)][at] ^= error;
            let block = world.geometry.row_blocks() + u32::from(column) * 3 + 1;
            data[block as usize] ^= error;
        }
        let expected = ScrubOutcome::Mismatch {
            members: checks,
            located: false,
            repaired: true,
        };
        assert_eq!(scrub(&mut world, 1, true), expected);
        assert!(world.parity_matches());
        assert_eq!(world.contents(0), data);
    }
}

/// A degraded row has nothing left to compare with; what can be read is read.
#[test]
fn a_scrub_of_a_degraded_row_reads_it_all_the_same() {
    every_redundant_shape(|shape| {
        let (mut world, data) = filled(shape);
        world.fail_members(1);
        world.settle();
        world.submit(
            0,
            0,
            Request::Scrub {
                row: RowIndex(0),
                repair: true,
            },
        );
        let strips = usize::from(shape.members - 1) * usize::from(shape.level.member_strips(shape.members));
        assert_eq!(world.asked(0).len(), strips);
        world.settle();
        assert_eq!(world.scrubbed, [(RowIndex(0), ScrubOutcome::Unchecked)]);
        assert_eq!(world.contents(1), data);
        world.assert_idle();
    });
}

/// While check data is not trusted a difference says nothing: resynchronisation comes first.
#[test]
fn a_scrub_believes_no_untrusted_check_data() {
    let (mut world, _) = filled(&shape(Level::Raid6, 5));
    let member = world.geometry.check_member(RowIndex(0), 0).expect("it has one");
    let at = position(&world, 0, 0);
    world.drives[usize::from(member.0)][at] ^= 1;
    world.announce(MemberSet {
        parity: ParityTrust::Nowhere,
        ..world.members
    });
    world.settle();
    assert_eq!(scrub(&mut world, 0, true), ScrubOutcome::Unchecked);
    assert!(!world.parity_matches(), "nothing was written");
}

/// A block that cannot be read is no failed member: reads go round it, and the repair that is asked for makes it whole.
#[test]
fn unreadable_blocks_are_gone_round_and_repaired() {
    every_redundant_shape(|shape| {
        let (mut world, data) = filled(shape);
        for member in (0..shape.members).map(MemberIndex) {
            for offset in 0..world.geometry.member_row_blocks() {
                let row = RowIndex(u64::from(offset) % shape.rows);
                let at = position(&world, row.0, offset);
                world.bad_blocks.insert((usize::from(member.0), at));
                let capacity = u32::try_from(data.len()).expect("small");
                world.read(0, 0, 0, capacity);
                world.settle();
                assert_eq!(world.result(0, 0), OK);
                assert_eq!(world.cores[0].buffers[0], data);
                let held = world.drives[usize::from(member.0)][at];
                world.drives[usize::from(member.0)][at] = !held;
                // Whoever reads it reports where it is.
                if let Some((reported, in_row, from, blocks)) = world.media.pop() {
                    assert_eq!((reported, in_row), (member, row));
                    assert!((from..from + blocks).contains(&offset));
                }
                repair(&mut world, row, member, offset, 1);
                assert_eq!(world.result(0, 0), OK);
                assert!(world.bad_blocks.is_empty());
                assert_eq!(world.drives[usize::from(member.0)][at], held);
                world.media.clear();
            }
        }
        assert!(world.faults.is_empty());
        assert!(world.parity_matches());
        world.assert_idle();
    });
}

fn repair(world: &mut World, row: RowIndex, member: MemberIndex, offset_blocks: u32, blocks: u32) {
    let request = Request::Repair {
        row,
        member,
        offset_blocks,
        blocks,
    };
    world.submit(0, 0, request);
    world.settle();
}

/// Found by the simulator: blocks of one row that need each other had each other repaired for ever.
#[test]
fn a_repair_that_meets_unreadable_blocks_asks_for_no_other() {
    every_redundant_shape(|shape| {
        let (mut world, _) = filled(shape);
        for offset in 0..world.geometry.member_row_blocks() {
            let at = position(&world, 0, offset);
            let drives = 0..usize::from(shape.members);
            world.bad_blocks.extend(drives.map(|drive| (drive, at)));
        }
        for member in (0..shape.members).map(MemberIndex) {
            repair(&mut world, RowIndex(0), member, 0, 1);
            assert!(
                world.result(0, 0).is_some_and(|result| result.is_err()),
                "too much is lost"
            );
            assert!(world.media.is_empty() && world.faults.is_empty());
        }
        world.assert_idle();
    });
}

/// Writes need old data that cannot be read, and have it from elsewhere: no member fails, and all strips are right.
#[test]
fn writes_go_round_unreadable_blocks() {
    every_redundant_shape(|shape| {
        let (mut world, mut data) = filled(shape);
        for drive in 0..usize::from(shape.members) {
            for start in 0..world.geometry.row_blocks() {
                let block = u32::try_from(world.random.below(3)).expect("small");
                let at = position(&world, 1, block);
                world.bad_blocks.insert((drive, at));
                let start = (world.geometry.row_blocks() + start) as usize;
                let byte = world.random.byte();
                data[start] = byte;
                world.write(0, 0, start as u64, &[byte]);
                world.settle();
                assert_eq!(world.result(0, 0), OK);
                assert_eq!(world.contents(1 << drive), data, "{:?}", world.geometry);
                world.bad_blocks.clear();
            }
        }
        assert_eq!((world.members.failed, world.faults.len()), (0, 0));
        assert!(world.parity_matches());
        world.assert_idle();
    });
}

/// With as many members lost as the level survives, an unreadable block is lost data: an error, and no failed member.
#[test]
fn an_unreadable_block_too_many_is_an_error_and_fails_nobody() {
    let (mut world, data) = filled(&shape(Level::Raid6, 5));
    let members = [0, 1, 2].map(|column| world.geometry.data_member(RowIndex(0), column));
    world.fail_members(1 << members[1].0 | 1 << members[2].0);
    world.settle();
    let at = position(&world, 0, 1);
    world.bad_blocks.insert((usize::from(members[0].0), at));
    world.read(0, 0, 0, 9);
    world.settle();
    assert_eq!(world.result(0, 0), UNREADABLE);
    repair(&mut world, RowIndex(0), members[0], 1, 1);
    assert_eq!(world.result(0, 0), Some(Err(GroupError::TooManyMembersLost)));
    world.read(0, 0, 0, 1);
    world.settle();
    assert_eq!((world.result(0, 0), world.cores[0].buffers[0][0]), (OK, data[0]));
    // The strips that are lost depend on what it held, so only a write of them all heals it.
    world.write(0, 0, 0, &[1; 3]);
    world.settle();
    assert_eq!(world.result(0, 0), UNREADABLE);
    world.write(0, 0, 0, &[1; 9]);
    world.settle();
    assert_eq!(world.result(0, 0), OK);
    assert!(world.bad_blocks.is_empty() && world.faults.is_empty());
    world.assert_idle();
}

/// A member that gives back something else than it was given is not believed any more before anybody reads the row.
#[test]
fn a_repair_that_does_not_hold_fails_the_member() {
    let (mut world, data) = filled(&shape(Level::Raid5, 4));
    let member = world.geometry.data_member(RowIndex(0), 0);
    let request = Request::Repair {
        row: RowIndex(0),
        member,
        offset_blocks: 0,
        blocks: 3,
    };
    world.submit(0, 0, request);
    let written = |owed: &Owed| matches!(owed, Owed::Drive(Action::DriveWrite { .. }));
    while !world.cores[0].owed.iter().any(written) {
        assert!(world.pay_any());
    }
    world.pay(0, world.find(0, written));
    let at = position(&world, 0, 2);
    world.drives[usize::from(member.0)][at] ^= 0xFF;
    while world.pay_any() {}
    assert_eq!(world.faults, [(member, DriveError::Media)]);
    assert_eq!(world.result(0, 0), None);
    assert!(!world.lock.is_idle(), "nobody reads the row meanwhile");
    world.settle();
    assert_eq!(world.result(0, 0), Some(Err(GroupError::MemberFailed)));
    assert_eq!(world.contents(1 << member.0), data);
    world.assert_idle();
}

/// It costs nothing but the repair: in a group without redundancy left, the member would cost the group.
#[test]
fn a_repair_that_stays_unreadable_fails_no_member() {
    let (mut world, data) = filled(&Shape::SMALL);
    let place = world.geometry.locate(GroupLba(0));
    let request = Request::Repair {
        row: place.row,
        member: place.member,
        offset_blocks: 0,
        blocks: 1,
    };
    world.submit(0, 0, request);
    // The others are read, the member is written, and then it cannot be read back.
    while !world
        .asked(0)
        .iter()
        .any(|action| matches!(action, Action::DriveWrite { .. }))
    {
        world.pay(0, 0);
    }
    let write = world.find_member(0, place.member);
    world.pay(0, write);
    let read = world.find_member(0, place.member);
    world.pay_with_error(0, read, DriveError::Media);
    world.settle();
    assert_eq!(world.result(0, 0), Some(Err(GroupError::Unreadable)));
    assert_eq!((world.members.failed, world.faults.len()), (0, 0));
    assert_eq!(world.contents(0), data);
    world.assert_idle();
}

#[test]
fn a_repair_of_a_failed_member_does_nothing() {
    let (mut world, _) = filled(&shape(Level::Raid5, 4));
    world.fail_members(0b10);
    world.settle();
    repair(&mut world, RowIndex(0), MemberIndex(1), 0, 1);
    assert_eq!(world.result(0, 0), OK);
    let wrong = [
        (4, 0, 1, 0),
        (1, 2, 2, 0),
        (1, 3, 1, 0),
        (1, 0, 0, 0),
        (1, 0, 1, 4),
    ];
    for (member, offset, blocks, row) in wrong {
        repair(&mut world, RowIndex(row), MemberIndex(member), offset, blocks);
        assert_eq!(world.result(0, 0), Some(Err(GroupError::OutOfRange)));
    }
}

/// A set in which members 0 and on are lost and being rebuilt from the first row on.
fn begin_rebuild(world: &mut World, members: u32) {
    world.fail_members(members);
    world.settle();
    for drive in (0..32).filter(|drive| members >> drive & 1 == 1) {
        world.drives[drive].fill(0x66);
    }
    world.announce(MemberSet {
        rebuilding: members,
        ..world.members
    });
    world.settle();
}

/// CHECKLIST F1: every level, each set of members that it survives, rebuilt row by row: all strips are what they were.
#[test]
fn a_rebuild_restores_every_strip() {
    every_redundant_shape(|shape| {
        for lost in 1..1_u32 << shape.members {
            if !shape.level.survives(shape.members, lost) {
                continue;
            }
            let (mut world, data) = filled(shape);
            let before = world.drives.clone();
            begin_rebuild(&mut world, lost);
            for row in 0..shape.rows {
                let command = u32::try_from(row).expect("small");
                world.submit(
                    0,
                    command,
                    Request::Rebuild {
                        row: RowIndex(row),
                        wave: 0,
                        only_marked: false,
                    },
                );
            }
            world.settle();
            assert!((0..4).all(|command| world.result(0, command) == OK));
            assert_eq!(world.lock.rebuild().rows, shape.rows);
            for (drive, before) in world.drives.iter().zip(&before) {
                let end = position(&world, shape.rows - 1, world.geometry.member_row_blocks() - 1);
                let data = position(&world, 0, 0)..=end;
                assert_eq!(drive[data.clone()], before[data]);
            }
            // Until the set says so, they are live already: a write goes to them.
            world.write(0, 0, 0, &data[..1]);
            assert!(
                lost & 1 == 0 || shape.level != Level::Raid1 || world.asked(0).len() == world.drives.len()
            );
            world.settle();
            assert_eq!(world.contents(0), data);
            world.assert_idle();
        }
    });
}

/// PROTOCOL H34: a row that is written before those in front of it keeps its lock until its turn has come, and whoever gets a
/// row's lock knows whether the row is rebuilt.
#[test]
fn rows_count_as_rebuilt_in_order() {
    let (mut world, data) = filled(&shape(Level::Raid5, 3));
    begin_rebuild(&mut world, 1);
    for row in 0..2 {
        world.submit(
            0,
            row,
            Request::Rebuild {
                row: RowIndex(row.into()),
                wave: 0,
                only_marked: false,
            },
        );
    }
    let second_row = world.geometry.member_lba(RowIndex(1), 0);
    let of_row = |owed: &Owed, second: bool| match owed {
        Owed::Drive(Action::DriveRead { lba, .. } | Action::DriveWrite { lba, .. }) => {
            (*lba >= second_row) == second
        }
        Owed::Drive(_)
        | Owed::Compared { .. }
        | Owed::Wake(_)
        | Owed::Home(_)
        | Owed::Recall(_)
        | Owed::RecallFor(..)
        | Owed::Settle(_)
        | Owed::Restore(_)
        | Owed::Answer(_)
        | Owed::Adopt(..)
        | Owed::Hurry { .. }
        | Owed::TailMoved
        | Owed::Commit { .. }
        | Owed::Committed { .. }
        | Owed::IntentDurable
        | Owed::LostDurable
        | Owed::Data(_)
        | Owed::Members(_) => false,
    };
    while let Some(index) = world.cores[0].owed.iter().position(|owed| of_row(owed, true)) {
        world.pay(0, index);
    }
    assert_eq!((world.result(0, 1), world.lock.rebuild().rows), (None, 0));
    world.write(0, 2, 6, &[7]);
    assert!(
        world
            .asked(0)
            .iter()
            .all(|action| !of_row(&Owed::Drive(*action), true)),
        "the row is locked"
    );
    assert_eq!(world.lock.members_at(RowIndex(0)).failed, 1);
    world.settle();
    assert_eq!([0, 1, 2].map(|command| world.result(0, command)), [OK; 3]);
    assert_eq!(world.lock.rebuild().rows, 2);
    assert_eq!(
        [1, 2].map(|row| world.lock.members_at(RowIndex(row)).failed),
        [0, 1]
    );
    let mut expected = data;
    expected[6] = 7;
    assert_eq!(world.contents(1), expected);
    assert_eq!(
        world.contents(0)[6..12],
        expected[6..12],
        "the write went to the rebuilt strip, too"
    );
    world.assert_idle();
}

/// A row that cannot be rebuilt holds the frontier: those behind it end without effect, and may be asked for again.
#[test]
fn a_row_that_is_not_rebuilt_stops_those_behind_it() {
    let (mut world, data) = filled(&shape(Level::Raid5, 3));
    begin_rebuild(&mut world, 1);
    let at = position(&world, 1, 0);
    world.bad_blocks.insert((2, at));
    for row in 0..4 {
        world.submit(
            0,
            row,
            Request::Rebuild {
                row: RowIndex(row.into()),
                wave: 0,
                only_marked: false,
            },
        );
    }
    world.settle();
    assert_eq!([0, 1].map(|command| world.result(0, command)), [OK, UNREADABLE]);
    for command in [2, 3] {
        assert_eq!(world.result(0, command), Some(Err(GroupError::Aborted)));
    }
    assert_eq!(world.lock.rebuild().rows, 1);
    world.bad_blocks.clear();
    for row in 1..4 {
        world.submit(
            0,
            row,
            Request::Rebuild {
                row: RowIndex(row.into()),
                wave: 0,
                only_marked: false,
            },
        );
    }
    world.settle();
    assert_eq!([1, 2, 3].map(|command| world.result(0, command)), [OK; 3]);
    assert_eq!(world.lock.rebuild().rows, 4);
    assert_eq!(world.contents(0), data);
    world.assert_idle();
}

/// The drive under rebuild breaks: that is reported, and the rebuild ends without the row.
#[test]
fn a_drive_that_fails_while_it_is_rebuilt_is_reported() {
    let (mut world, data) = filled(&shape(Level::Raid6, 4));
    begin_rebuild(&mut world, 0b100);
    world.submit(
        0,
        0,
        Request::Rebuild {
            row: RowIndex(0),
            wave: 0,
            only_marked: false,
        },
    );
    world.settle();
    world.broken = 0b100;
    world.submit(
        0,
        0,
        Request::Rebuild {
            row: RowIndex(1),
            wave: 0,
            only_marked: false,
        },
    );
    // A write of a row that is rebuilt waits until nobody believes the member any more.
    world.write(0, 1, 0, &[0x42]);
    while world.pay_any() {}
    assert_eq!(world.result(0, 0), Some(Err(GroupError::MemberFailed)));
    assert_eq!(world.result(0, 1), None);
    let broken = MemberIndex(2);
    assert!(!world.faults.is_empty() && world.faults.iter().all(|(member, _)| *member == broken));
    world.announce(MemberSet {
        rebuilding: 0,
        ..world.members
    });
    world.settle();
    assert_eq!(world.result(0, 1), OK);
    let mut expected = data;
    expected[0] = 0x42;
    assert_eq!(world.contents(0b100), expected);
    world.submit(
        0,
        0,
        Request::Rebuild {
            row: RowIndex(1),
            wave: 0,
            only_marked: false,
        },
    );
    assert_eq!(world.result(0, 0), Some(Err(GroupError::MemberFailed)));
    world.assert_idle();
}

/// Rows that are under way when another drive takes the member's place count for nothing.
#[test]
fn a_rebuild_that_begins_anew_forgets_rows_under_way() {
    let (mut world, _) = filled(&shape(Level::Raid5, 3));
    begin_rebuild(&mut world, 1);
    for row in 0..3 {
        world.submit(
            0,
            row,
            Request::Rebuild {
                row: RowIndex(row.into()),
                wave: 0,
                only_marked: false,
            },
        );
    }
    let members = world.members;
    world.announce(MemberSet {
        rebuilding: 0,
        ..members
    });
    world.announce(MemberSet {
        rebuilding: 1,
        ..world.members
    });
    // In order, as core 0 hears of them.
    for _ in 0..2 {
        let first = world.find(
            0,
            |owed| matches!(owed, Owed::Members(set) if set.generation > world.members.generation - 2),
        );
        let generations = world.cores[0].owed.iter().filter_map(|owed| match owed {
            Owed::Members(set) => Some(set.generation),
            Owed::Drive(_)
            | Owed::Compared { .. }
            | Owed::Wake(_)
            | Owed::Home(_)
            | Owed::Recall(_)
            | Owed::RecallFor(..)
            | Owed::Settle(_)
            | Owed::Restore(_)
            | Owed::Answer(_)
            | Owed::Adopt(..)
            | Owed::Hurry { .. }
            | Owed::TailMoved
            | Owed::Commit { .. }
            | Owed::Committed { .. }
            | Owed::IntentDurable
            | Owed::LostDurable
            | Owed::Data(_) => None,
        });
        let lowest = generations.min().expect("both are owed");
        let index = world.find(
            0,
            |owed| matches!(owed, Owed::Members(set) if set.generation == lowest),
        );
        assert!(first <= index);
        world.pay(0, index);
    }
    world.settle();
    for command in 0..3 {
        assert_eq!(world.result(0, command), Some(Err(GroupError::Aborted)));
    }
    assert_eq!(
        world.lock.rebuild(),
        crate::amf::lock::Rebuild { members: 1, rows: 0 }
    );
    world.assert_idle();
}

/// Flush goes to members under rebuild as well: rows below the frontier are written there.
#[test]
fn a_flush_reaches_members_under_rebuild() {
    let (mut world, _) = filled(&shape(Level::Raid6, 5));
    begin_rebuild(&mut world, 0b11);
    world.announce(MemberSet {
        rebuilding: 0b01,
        ..world.members
    });
    world.settle();
    world.submit(0, 0, Request::Flush);
    let mut asked: Vec<u8> = world.asked(0).iter().map(|action| drive_io(action).1.0).collect();
    asked.sort_unstable();
    assert_eq!(asked, [0, 2, 3, 4]);
    world.settle();
    assert_eq!(world.result(0, 0), OK);
}

/// Announces a set, and lets every core know of it before anything else happens.
fn tell(world: &mut World, failed: u32, rebuilding: u32) {
    world.announce(MemberSet {
        failed,
        rebuilding,
        ..world.members
    });
    for core in 0..world.cores.len() {
        let is_set = |owed: &Owed| matches!(owed, Owed::Members(_));
        while let Some(at) = world.cores[core].owed.iter().position(is_set) {
            world.pay(core, at);
        }
    }
}

/// A flush that a lost member refused ends although another drive has the member's place before the others have answered: the
/// flush holds no row's lock that the rebuild would wait for (PROTOCOL H29).
#[test]
fn a_flush_outlives_the_rebuild_of_a_member_that_refused_it() {
    for told_first in [false, true] {
        for request in [Request::Flush, Request::FlushDrives] {
            let (mut world, _) = filled(&shape(Level::Raid6, 5));
            world.submit(0, 0, request);
            if told_first {
                tell(&mut world, 1, 0);
            }
            let index = world.find_member(0, MemberIndex(0));
            world.pay_with_error(0, index, DriveError::Gone);
            tell(&mut world, 1, 0);
            tell(&mut world, 1, 1);
            tell(&mut world, 0, 0);
            assert_eq!(world.result(0, 0), None, "the others have not answered");
            while world.pay_any() {}
            assert_eq!(world.result(0, 0), OK, "{request:?}, told first: {told_first}");
        }
    }
}

/// Scrubs, resyncs and repairs run among hosts' commands on all cores without harm.
#[test]
fn the_groups_own_operations_disturb_nobody() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let shape = Shape {
            cores: 2,
            ..super::tests::any_shape(&mut random)
        };
        let (mut world, data) = filled(&shape);
        for _ in 0..300 {
            let row = RowIndex(random.below(shape.rows));
            let member = MemberIndex(u8::try_from(random.below(shape.members.into())).expect("small"));
            if world.cores[0].engine.in_flight() == 0 {
                let request = match random.below(3) {
                    0 => Request::Scrub { row, repair: true },
                    1 => Request::Resync { row },
                    _ => Request::Repair {
                        row,
                        member,
                        offset_blocks: 0,
                        blocks: 1,
                    },
                };
                world.submit(0, 0, request);
            }
            if world.cores[1].engine.in_flight() == 0 {
                let start = random.index(data.len());
                let end = start + 1 + random.index(data.len() - start);
                world.write(1, 1, start as u64, &data[start..end]);
            }
            for _ in 0..random.below(12) {
                world.pay_any();
            }
        }
        world.settle();
        world.drain();
        let refused = shape.level == Level::Raid0;
        assert!(
            world
                .done
                .iter()
                .all(|done| done.result.is_ok() || refused && done.command.0 == 0)
        );
        assert!(
            world
                .scrubbed
                .iter()
                .all(|(_, outcome)| *outcome == ScrubOutcome::Clean || refused)
        );
        assert_eq!(world.contents(0), data);
        assert!(world.parity_matches());
        world.assert_idle();
    }
}
