//! One named test for each rule of the engine that is another without redundancy, step by step.

use super::executor::{Owed, Shape, World, drive_io};
use super::*;
use crate::amf::geometry::Level;

const LOST: Option<Result<(), GroupError>> = Some(Err(GroupError::TooManyMembersLost));

/// Three members, rows of twelve blocks that hold `1, 2, 3 ...`.
fn filled() -> (World, Vec<u8>) {
    let shape = Shape {
        level: Level::Raid0,
        members: 3,
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    let data: Vec<u8> = (1..=u8::try_from(world.capacity()).expect("small")).collect();
    world.write(0, 0, 0, &data);
    world.settle();
    world.done.clear();
    (world, data)
}

fn member_at(world: &World, lba: u64) -> MemberIndex {
    world.geometry.locate(GroupLba(lba)).member
}

#[test]
fn a_write_asks_each_member_that_it_touches_once_and_nobody_else() {
    let (mut world, mut data) = filled();
    world.write(0, 0, 2, &[0xA1; 4]);
    let asked = world.asked(0);
    assert!(
        asked
            .iter()
            .all(|action| matches!(action, Action::DriveWrite { .. }))
    );
    let members: Vec<u8> = asked.iter().map(|action| drive_io(action).1.0).collect();
    assert_eq!(members, [0, 1], "nothing is read first, and there is no parity");
    world.settle();
    data[2..6].fill(0xA1);
    assert_eq!(world.contents(0), data);
    world.assert_idle();
}

/// There is no other copy: the error is the answer, and what lives elsewhere is served on.
#[test]
fn a_read_error_is_not_gone_round() {
    let (mut world, data) = filled();
    world.read(0, 0, 5, 2);
    world.pay_with_error(0, 0, DriveError::Media);
    assert_eq!(world.result(0, 0), Some(Err(GroupError::Unreadable)));
    assert_eq!(world.media, [(member_at(&world, 5), RowIndex(0), 1, 2)]);
    assert!(world.faults.is_empty(), "the member has not failed");
    world.settle();
    world.read(0, 1, 8, 4);
    world.settle();
    assert_eq!(world.result(0, 1), Some(Ok(())));
    assert_eq!(world.cores[0].buffers[1], data[8..12]);
    world.assert_idle();
}

/// A write that a drive refused ends only once no core takes writes any more.
#[test]
fn a_write_error_closes_the_group_for_writes_before_it_is_told() {
    let (mut world, data) = filled();
    world.write(0, 0, 0, &[9]);
    world.pay_with_error(0, 0, DriveError::Gone);
    assert_eq!(world.result(0, 0), None);
    assert!(!world.lock.is_idle(), "nobody reads the row meanwhile");
    world.settle();
    assert_eq!(world.result(0, 0), LOST);
    world.write(0, 1, 4, &[9]);
    assert_eq!(world.result(0, 1), LOST, "not even where every drive is well");
    assert_eq!(world.contents(0), data);
    world.assert_idle();
}

#[test]
fn a_failed_flush_is_told() {
    let (mut world, _) = filled();
    world.submit(0, 0, Request::Flush);
    assert_eq!(world.asked(0).len(), 3);
    let index = world.find_member(0, MemberIndex(1));
    world.pay_with_error(0, index, DriveError::Io { errno: 5 });
    world.settle();
    assert_eq!(world.result(0, 0), LOST);
    world.assert_idle();
}

#[test]
fn a_resynchronisation_has_nothing_to_do() {
    let (mut world, data) = filled();
    world.submit(0, 0, Request::Resync { row: RowIndex(2) });
    assert_eq!(world.result(0, 0), Some(Ok(())));
    assert!(world.asked(0).is_empty());
    assert_eq!(world.contents(0), data);
    world.assert_idle();
}

#[test]
fn compare_and_write_works_across_strips() {
    let (mut world, mut data) = filled();
    for (command, expected) in [(0, data[2..8].to_vec()), (2, vec![0; 6])] {
        world.cores[0].buffers[command] = expected;
        world.cores[0].buffers[command + 1] = vec![0xF1; 6];
        let command = u32::try_from(command).expect("small");
        let request = Request::CompareWrite {
            lba: GroupLba(2),
            blocks: 6,
            write: CommandId(command + 1),
            fua: true,
        };
        world.submit(0, command, request);
        assert_eq!(world.cores[0].owed.len(), 2, "one read a strip");
        assert!(
            world.cores[0]
                .owed
                .iter()
                .all(|owed| matches!(owed, Owed::Drive(_)))
        );
        world.settle();
    }
    let results = [0, 1, 2, 3].map(|command| world.result(0, command).expect("it is done"));
    let failed = [
        Err(GroupError::CompareFailed),
        Err(GroupError::FusedCompareFailed),
    ];
    assert_eq!(results, [Ok(()), Ok(()), failed[0], failed[1]]);
    data[2..8].fill(0xF1);
    assert_eq!(world.contents(0), data);
    world.assert_idle();
}

/// A group of one member is that drive: commands go through as they are, rows being single strips.
#[test]
fn one_member_is_a_plain_drive() {
    let shape = Shape {
        level: Level::Raid0,
        members: 1,
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    world.write(0, 0, 0, &[7; 32]);
    assert_eq!(world.asked(0).len(), 8);
    world.settle();
    world.submit(
        0,
        1,
        Request::Zero {
            lba: GroupLba(4),
            blocks: 4,
            deallocate: true,
            fua: false,
            replication: ReplicationMode::Sync,
        },
    );
    assert!(matches!(world.asked(0)[..], [Action::DriveZero { .. }]));
    world.settle();
    let mut expected = vec![7; 32];
    expected[4..8].fill(0);
    assert_eq!(world.contents(0), expected);
    assert_eq!(world.drives[0][3..35], expected);
    world.assert_idle();
}
