//! A replay while other nodes go on: lane 0 is that of a living node, lane 1 that of one that is gone.

use super::super::super::codec;
use super::*;
use crate::drive::block::MemberLba;

/// Held by the living node.
const HELD: RowIndex = RowIndex(1);

/// Held by nobody.
const FREE: RowIndex = RowIndex(2);

fn among(world: &World, rows: &[RowIndex], retired: u64) -> Replay {
    let living = LivingNodes {
        lanes: 0b01,
        rows: rows.iter().copied().collect(),
        retired,
    };
    world.replay().among_living(living)
}

/// All of a row and its check data on all members.
fn row(world: &World, row: RowIndex) -> Vec<Vec<u8>> {
    let offsets = 0..world.geometry.member_row_blocks();
    let places = world
        .live()
        .into_iter()
        .flat_map(|member| offsets.clone().map(move |at| (member, at)));
    let lba = |at: u32| MemberLba(world.geometry.member_lba(row, 0).0 + u64::from(at));
    places
        .map(|(member, at)| world.drives.block(member, lba(at)))
        .collect()
}

/// All of a lane on all members.
fn lane(world: &World, lane: u16) -> Vec<Vec<u8>> {
    let places = world
        .live()
        .into_iter()
        .flat_map(|member| (0..world.layout.lane_blocks).map(move |at| (member, at)));
    places
        .map(|(member, at)| world.drives.block(member, world.layout.lba(lane, at)))
        .collect()
}

/// What a living node holds is as it was, whatever the lanes say; other rows get all that is said of them, in order.
///
/// Catches: rows that are held brought "up to date" under their holder's hands.
#[test]
fn rows_that_living_nodes_hold_are_left_alone() {
    for shape in SHAPES {
        let mut world = World::new(shape.0, shape.1, shape.2, 3);
        for row in [HELD, FREE] {
            world.write(1, &[(row, 0, 2, false)]).expect("the power stays");
        }
        let before = row(&world, HELD);
        let mut cold = world.clone();
        let report = world
            .drives
            .run(among(&world, &[HELD], 0))
            .expect("it is replayed");
        assert_eq!((report.rows, report.torn_batches), (1, 0));
        assert!(row(&world, HELD) == before, "{shape:?}");
        let replay = cold.replay();
        cold.drives.run(replay).expect("it is replayed");
        assert!(
            row(&world, FREE) == row(&cold, FREE),
            "{shape:?}: as if nobody lived"
        );
        assert!(
            row(&cold, HELD) != before,
            "{shape:?}: there was something to replay"
        );
        // As after the end of the node's lanes the rest is forgotten, once and for all.
        let mut floors = LaneFloors::default();
        (floors[1], floors[2]) = (report.next_seq, report.next_seq);
        let replay = world.replay().with_floors(floors);
        assert_eq!(world.drives.run(replay).expect("there is nothing").rows, 0);
        assert!(row(&world, HELD) == before, "{shape:?}");
    }
}

/// A row that went from the node that is gone to a living one, and was let go of, has its newest data in a living lane.
#[test]
fn what_living_nodes_have_written_later_wins() {
    for shape in SHAPES {
        let mut world = World::new(shape.0, shape.1, shape.2, 3);
        world.write(1, &[(FREE, 0, 2, false)]).expect("the power stays");
        world.destage(FREE).expect("the power stays");
        world.write(0, &[(FREE, 0, 1, false)]).expect("the power stays");
        world.destage(FREE).expect("the power stays");
        let before = row(&world, FREE);
        let living = lane(&world, 0);
        let replay = among(&world, &[], 0);
        world.drives.run(replay).expect("it is replayed");
        assert!(row(&world, FREE) == before, "{shape:?}");
        assert!(lane(&world, 0) == living, "{shape:?}");
    }
}

/// A batch in a living lane that only one member has is being written; one of the node that is gone is made safe.
///
/// Catches: batches spread over what a living node writes.
#[test]
fn nothing_is_written_to_living_lanes() {
    for (number, is_spread) in [(0, false), (1, true)] {
        let mut world = World::new(Level::Raid5, 4, 3, 5);
        world
            .write(number, &[(FREE, 0, 2, false)])
            .expect("the power stays");
        // All copies but one are gone.
        let copies: Vec<MemberIndex> = world
            .live()
            .into_iter()
            .filter(|member| codec::parse(&world.drives.block(*member, world.layout.lba(number, 0))).is_ok())
            .collect();
        assert_eq!(copies.len(), 2);
        for at in 0..3 {
            world.drives.overwrite(copies[1], world.layout.lba(number, at));
        }
        let before = lane(&world, number);
        let replay = among(&world, &[], 0);
        let report = world.drives.run(replay).expect("it is replayed");
        assert_eq!((report.rows, report.batches), (1, 1));
        assert_eq!(lane(&world, number) != before, is_spread);
    }
}

/// Below what living nodes have heard of the one that is gone, lanes may have lost some entries and have others.
///
/// Catches: an entry that a living node has retired written over a newer one that it has retired as well, and whose place it has used again.
#[test]
fn entries_that_nobody_needs_any_more_do_not_count_whatever_is_left_of_them() {
    let mut world = World::new(Level::Raid5, 4, 3, 5);
    world.write(0, &[(FREE, 0, 2, false)]).expect("the power stays");
    let first = world.next_number();
    world.write(0, &[(FREE, 0, 2, false)]).expect("the power stays");
    let second = world.next_number();
    let rows = |retired| {
        let mut world = world.clone();
        let replay = among(&world, &[], retired);
        let report = world.drives.run(replay).expect("it is replayed");
        assert!(report.next_seq > second, "numbers go on above all that were used");
        assert!(report.next_seq > retired);
        report.batches
    };
    assert_eq!((rows(0), rows(first), rows(second)), (2, 1, 0));
}
