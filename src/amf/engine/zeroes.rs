//! Rows that become zeroes where there is a journal: they are zeroed in place as a whole, so that their space comes back.

use super::executor::{Owed, Shape, World};
use super::*;
use crate::amf::geometry::Level;

const LEVELS: [(Level, u8); 5] = [
    (Level::Raid1, 2),
    (Level::Raid10, 5),
    (Level::Raid5, 4),
    (Level::Raid6, 5),
    (Level::RaidTp, 6),
];

/// A group whose blocks hold something and are all in place.
fn filled(level: Level, members: u8, durability: Durability) -> (World, Vec<u8>) {
    let shape = Shape {
        level,
        members,
        rows: 4,
        journal: Some(durability),
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    let data: Vec<u8> = (1..=u8::try_from(world.capacity()).expect("small")).collect();
    world.write(0, 0, 0, &data);
    world.settle();
    world.drain();
    world.done.clear();
    (world, data)
}

fn zero(lba: u64, blocks: u64) -> Request {
    Request::Zero {
        lba: GroupLba(lba),
        blocks,
        deallocate: true,
        fua: false,
        replication: ReplicationMode::Sync,
    }
}

/// What drives were asked for until all is in place: zeroings, and other commands for blocks outside of the journal.
fn count_until_drained(world: &mut World) -> (usize, usize) {
    let first = world.geometry.member_lba(RowIndex(0), 0);
    let blocks = world.geometry.rows() * u64::from(world.geometry.member_row_blocks());
    let data = first..MemberLba(first.0 + blocks);
    let (mut zeroed, mut others) = (0, 0);
    world.submit(0, 7, Request::Drain);
    while !world.cores[0].owed.is_empty() {
        if let Owed::Drive(action) = world.cores[0].owed[0] {
            match action {
                Action::DriveZero { deallocate, .. } => {
                    assert!(deallocate, "space may be given back");
                    zeroed += 1;
                }
                Action::DriveRead { lba, .. } | Action::DriveWrite { lba, .. } if data.contains(&lba) => {
                    others += 1;
                }
                Action::DriveRead { .. } | Action::DriveWrite { .. } | Action::DriveFlush { .. } => {}
                Action::Xor { .. }
                | Action::Seal { .. }
                | Action::Keep { .. }
                | Action::RecallCore { .. }
                | Action::HurryCores { .. }
                | Action::TailMoved { .. }
                | Action::CommitCores { .. }
                | Action::Committed { .. }
                | Action::MulAdd { .. }
                | Action::Copy { .. }
                | Action::Compare { .. }
                | Action::WakeCores { .. }
                | Action::WantRow { .. }
                | Action::Give { .. }
                | Action::Taken { .. }
                | Action::ReportMedia { .. }
                | Action::Scrubbed { .. }
                | Action::ReportFault { .. }
                | Action::RangeHeld
                | Action::PersistIntent
                | Action::PersistLost
                | Action::RamWanted
                | Action::RamCommitted
                | Action::KeptAgain(_)
                | Action::Complete { .. } => unreachable!("not a drive command"),
            }
        }
        world.pay(0, 0);
    }
    assert_eq!(world.result(0, 7), Some(Ok(())));
    (zeroed, others)
}

/// CHECKLIST D5: nothing is read, nothing is computed, no check data is journaled; each live member is zeroed once a row.
#[test]
fn whole_rows_of_zeroes_are_zeroed_in_place_on_all_live_members() {
    for (level, members) in LEVELS {
        for lost in [0, 0b10] {
            let (mut world, mut data) = filled(level, members, Durability::Journal);
            if lost != 0 {
                world.fail_members(lost);
                world.settle();
            }
            let row = u64::from(world.geometry.row_blocks());
            world.submit(0, 0, zero(row, 2 * row));
            let live = usize::from(members) - usize::from(lost != 0);
            assert_eq!(
                count_until_drained(&mut world),
                (2 * live, 0),
                "{level:?} without {lost:b}"
            );
            let row = usize::try_from(row).expect("small");
            data[row..3 * row].fill(0);
            assert_eq!(world.contents(lost), data, "{level:?} without {lost:b}");
            assert!(lost != 0 || world.parity_matches());
            world.assert_idle();
        }
    }
}

/// Zeroes that come in parts make a row of zeroes too; one block of something else makes it an ordinary row again.
#[test]
fn parts_of_a_row_add_up() {
    for durability in [Durability::Journal, Durability::Ram] {
        for with_data in [false, true] {
            let (mut world, mut data) = filled(Level::Raid5, 4, durability);
            let row = world.geometry.row_blocks() as usize;
            // Held together, because a row that is whole is destaged as soon as its last part is committed.
            world.submit(0, 0, zero(0, row as u64 / 2));
            world.submit(0, 1, zero(row as u64 / 2, row as u64 - row as u64 / 2));
            if with_data {
                world.write(0, 2, 3, &[0xAB]);
            }
            let (zeroed, others) = count_until_drained(&mut world);
            data[..row].fill(0);
            if with_data {
                data[3] = 0xAB;
                assert!(others > 0, "the block is written");
            } else {
                assert_eq!((zeroed, others), (4, 0));
            }
            assert_eq!(world.contents(0), data);
            assert!(world.parity_matches());
            world.assert_idle();
        }
    }
}

/// A member that does not do it is failed before the row's journal entries are forgotten.
#[test]
fn a_member_that_cannot_zero_is_failed_first() {
    let (mut world, mut data) = filled(Level::Raid6, 5, Durability::Journal);
    world.broken = 0b100;
    let row = world.geometry.row_blocks() as usize;
    world.submit(0, 0, zero(0, row as u64));
    // Fails what is reported, when nothing else is left to do.
    world.settle();
    world.drain();
    assert_eq!(world.members.failed, 0b100);
    assert!(
        world
            .faults
            .iter()
            .all(|fault| *fault == (MemberIndex(2), DriveError::Gone))
    );
    data[..row].fill(0);
    assert_eq!(world.contents(0b100), data);
    world.assert_idle();
}
