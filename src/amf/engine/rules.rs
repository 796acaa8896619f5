//! One named test for each rule of the engine, step by step.

use super::executor::{BLOCK, Owed, Shape, World, drive_io};
use super::*;
use crate::amf::{MemberIndex, MemberSet, ParityTrust};

const LOST: GroupError = GroupError::TooManyMembersLost;

fn world() -> World {
    World::new(&Shape::SMALL, 1)
}

/// A world whose blocks hold `1, 2, 3 ...`.
fn filled(shape: &Shape) -> (World, Vec<u8>) {
    let mut world = World::new(shape, 1);
    let data: Vec<u8> = (1..=u8::try_from(world.capacity()).expect("small")).collect();
    world.write(0, 0, 0, &data);
    world.settle();
    world.done.clear();
    (world, data)
}

fn is_write(action: &Action) -> bool {
    matches!(action, Action::DriveWrite { .. })
}

fn reads_and_writes(world: &World) -> (usize, usize) {
    let asked = world.asked(0);
    let writes = asked.iter().filter(|action| is_write(action)).count();
    (asked.len() - writes, writes)
}

/// Pays all drive reads of core 0, but no more than there are now.
fn pay_reads(world: &mut World) {
    for _ in 0..reads_and_writes(world).0 {
        let index = world.find(
            0,
            |owed| matches!(owed, Owed::Drive(action) if matches!(action, Action::DriveRead { .. })),
        );
        world.pay(0, index);
    }
}

fn zero(lba: u64, blocks: u64) -> Request {
    Request::Zero {
        lba: GroupLba(lba),
        blocks,
        deallocate: true,
        fua: true,
        replication: ReplicationMode::Sync,
    }
}

/// CHECKLIST D1: only the drive that holds the block is read.
#[test]
fn a_healthy_read_of_one_strip_is_one_drive_command_into_the_buffer() {
    let (mut world, data) = filled(&Shape::SMALL);
    world.read(0, 3, 5, 2);
    let place = world.geometry.locate(GroupLba(5));
    let [
        Action::DriveRead {
            member,
            lba,
            blocks,
            into,
            ..
        },
    ] = world.asked(0)[..]
    else {
        panic!("one read")
    };
    assert_eq!((member, lba, blocks), (place.member, place.lba, 2));
    assert_eq!(
        into,
        Place::Command {
            command: CommandId(3),
            offset_bytes: 0
        }
    );
    world.pay(0, 0);
    assert_eq!(world.result(0, 3), Some(Ok(())));
    assert_eq!(world.cores[0].buffers[3], data[5..7]);
    world.assert_idle();
}

#[test]
fn the_pieces_of_a_read_land_one_behind_the_other() {
    let (mut world, data) = filled(&Shape::SMALL);
    world.read(0, 0, 10, 20);
    let places: Vec<Place> = world
        .asked(0)
        .iter()
        .map(|action| {
            if let Action::DriveRead { into, .. } = action {
                *into
            } else {
                panic!("a read")
            }
        })
        .collect();
    let at = |blocks: u32| Place::Command {
        command: CommandId(0),
        offset_bytes: blocks * BLOCK,
    };
    assert_eq!(places, [at(0), at(2), at(6), at(10), at(14), at(18)]);
    world.settle();
    assert_eq!(world.cores[0].buffers[0], data[10..30]);
}

/// A command of many rows has a bounded number in flight, and others get their turn meanwhile.
#[test]
fn a_long_zero_proceeds_in_a_bounded_window() {
    let shape = Shape {
        rows: 100,
        pieces: 16,
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    world.submit(0, 0, zero(0, 1200));
    let window = PIECES_PER_COMMAND_MAX as usize * 4;
    assert_eq!(world.asked(0).len(), window);
    world.read(0, 1, 1199, 1);
    assert_eq!(
        world.asked(0).len(),
        window + 1,
        "a read does not queue behind it"
    );
    while world.result(0, 0).is_none() {
        assert!(world.asked(0).len() <= window + 1);
        assert!(world.pay_any());
    }
    world.settle();
    world.assert_idle();
}

#[test]
fn commands_share_the_pieces_in_turn() {
    let shape = Shape {
        rows: 100,
        pieces: 2,
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    world.submit(0, 0, zero(0, 1200));
    world.read(0, 1, 1199, 1);
    assert!(
        world
            .asked(0)
            .iter()
            .all(|action| matches!(action, Action::DriveZero { .. }))
    );
    let mut paid = 0;
    while world.result(0, 1).is_none() {
        paid += 1;
        world.pay_any();
    }
    assert!(paid < 40, "the read waits for a turn, not for the zero's end");
    world.settle();
    assert_eq!(world.result(0, 0), Some(Ok(())));
    world.assert_idle();
}

#[test]
fn force_unit_access_is_on_every_data_and_parity_write() {
    for fua in [false, true] {
        let mut world = world();
        world.cores[0].buffers[0] = vec![7; 20];
        world.submit(
            0,
            0,
            Request::Write {
                lba: GroupLba(2),
                blocks: 20,
                fua,
                replication: ReplicationMode::Sync,
            },
        );
        pay_reads(&mut world);
        let writes: Vec<bool> = world
            .asked(0)
            .iter()
            .filter_map(|action| match action {
                Action::DriveWrite { fua, .. } => Some(*fua),
                Action::DriveRead { .. }
                | Action::DriveZero { .. }
                | Action::DriveFlush { .. }
                | Action::Xor { .. }
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
                | Action::PersistIntent
                | Action::PersistLost
                | Action::RamWanted
                | Action::RamCommitted
                | Action::KeptAgain(_)
                | Action::ReportFault { .. }
                | Action::RangeHeld
                | Action::Complete { .. } => None,
            })
            .collect();
        assert_eq!(writes.len(), 6 + 2, "six strips and two parities");
        assert!(writes.iter().all(|on| *on == fua));
        world.settle();
    }
}

#[test]
fn whole_rows_of_zeroes_are_zeroed_on_all_members_and_the_rest_is_written() {
    let (mut world, mut data) = filled(&Shape::SMALL);
    // The end of row 0, rows 1 and 2, the start of row 3.
    world.submit(0, 0, zero(10, 28));
    let asked = world.asked(0);
    let zeroed = asked.iter().filter(|a| {
        matches!(
            a,
            Action::DriveZero {
                fua: true,
                deallocate: true,
                ..
            }
        )
    });
    assert_eq!(zeroed.count(), 2 * 4);
    world.settle();
    data[10..38].fill(0);
    assert_eq!(world.contents(0), data);
    assert!(world.parity_matches());
    world.assert_idle();
}

#[test]
fn a_flush_reaches_every_live_member() {
    let mut world = world();
    world.fail_members(0b10);
    world.settle();
    world.submit(0, 0, Request::Flush);
    let members: Vec<u8> = world.asked(0).iter().map(|action| drive_io(action).1.0).collect();
    assert_eq!(members, [0, 2, 3]);
    world.settle();
    assert_eq!(world.result(0, 0), Some(Ok(())));
}

#[test]
fn a_failed_flush_waits_until_the_member_is_durably_failed() {
    let mut world = world();
    world.submit(0, 0, Request::Flush);
    let index = world.find_member(0, MemberIndex(2));
    world.pay_with_error(0, index, DriveError::Io { errno: 5 });
    while world.pay_any() {}
    assert_eq!(world.faults, [(MemberIndex(2), DriveError::Io { errno: 5 })]);
    assert_eq!(world.result(0, 0), None);
    world.settle();
    assert_eq!(world.result(0, 0), Some(Ok(())));
    world.assert_idle();
}

/// It outlives the rebuild of a member that was lost when it began, and then another loss.
#[test]
fn a_flush_counts_a_member_that_was_rebuilt_while_it_ran() {
    let rebuilt_meanwhile = |answered: bool| {
        let mut world = world();
        world.fail_members(0b10);
        world.settle();
        world.submit(0, 0, Request::Flush);
        world.announce(MemberSet {
            failed: 0,
            ..world.members
        });
        let index = world.find(0, |owed| matches!(owed, Owed::Members(_)));
        world.pay(0, index);
        let index = world.find_member(0, MemberIndex(2));
        if answered {
            world.pay(0, index);
        } else {
            world.pay_with_error(0, index, DriveError::Gone);
        }
        world.fail_members(0b100);
        world.settle();
        assert_eq!(world.result(0, 0), Some(Ok(())), "answered: {answered}");
        world.assert_idle();
    };
    rebuilt_meanwhile(false);
    rebuilt_meanwhile(true);
}

/// A read goes round a member that errs, at once and without failing it.
#[test]
fn a_read_error_is_regenerated_at_once() {
    let (mut world, data) = filled(&Shape::SMALL);
    world.read(0, 0, 5, 2);
    world.pay_with_error(0, 0, DriveError::Media);
    assert_eq!((world.media.len(), world.faults.len()), (1, 0));
    world.settle();
    assert_eq!(world.result(0, 0), Some(Ok(())));
    assert_eq!(world.cores[0].buffers[0], data[5..7]);
    assert_eq!(world.members.failed, 0);
    world.assert_idle();
}

/// PROTOCOL H29, H33: before anything is written the plan may change, but not before it is durable that
/// the member is failed.
#[test]
fn a_fault_while_reading_for_a_write_waits_and_plans_anew() {
    let shape = Shape {
        members: 6,
        ..Shape::SMALL
    };
    let (mut world, mut data) = filled(&shape);
    world.write(0, 0, 1, &[0xA1, 0xA2]);
    assert_eq!(reads_and_writes(&world), (2, 0));
    let member = world.geometry.locate(GroupLba(1)).member;
    let index = world.find_member(0, member);
    world.pay_with_error(0, index, DriveError::Gone);
    while world.pay_any() {}
    assert_eq!(
        (world.result(0, 0), world.asked(0).len()),
        (None, 0),
        "it waits and has written nothing"
    );
    world.fail_members(1 << member.0);
    world.settle();
    assert_eq!(world.result(0, 0), Some(Ok(())));
    data[1..3].copy_from_slice(&[0xA1, 0xA2]);
    assert_eq!(world.contents(1 << member.0), data);
    world.assert_idle();
}

/// After a set that does not name the member, it waits on.
#[test]
fn a_waiting_write_goes_on_only_when_its_member_is_failed() {
    let (mut world, _) = filled(&Shape::SMALL);
    world.write(0, 0, 0, &[9]);
    pay_reads(&mut world);
    let member = world.geometry.locate(GroupLba(0)).member;
    let index = world.find_member(0, member);
    world.pay_with_error(0, index, DriveError::Gone);
    while world.pay_any() {}
    world.announce(world.members);
    while world.pay_any() {}
    assert_eq!(world.result(0, 0), None);
    world.fail_members(1 << member.0);
    while world.pay_any() {}
    assert_eq!(world.result(0, 0), Some(Ok(())));
}

/// Once a write is issued there is no second plan: the others finish, parity too, and success is told
/// only when the strip that is missing will not be believed.
#[test]
fn a_fault_while_writing_is_never_planned_anew() {
    let (mut world, mut data) = filled(&Shape::SMALL);
    world.write(0, 0, 4, &[0xB1, 0xB2]);
    pay_reads(&mut world);
    assert_eq!(reads_and_writes(&world), (0, 2));
    let member = world.geometry.locate(GroupLba(4)).member;
    let index = world.find_member(0, member);
    world.pay_with_error(0, index, DriveError::Gone);
    assert_eq!(reads_and_writes(&world), (0, 1), "parity still goes to its drive");
    while world.pay_any() {}
    assert_eq!(world.result(0, 0), None);
    assert_eq!(world.faults, [(member, DriveError::Gone)]);
    assert!(!world.lock.is_idle(), "nobody reads the row meanwhile");
    world.fail_members(1 << member.0);
    let index = world.find(0, |owed| matches!(owed, Owed::Members(_)));
    world.pay(0, index);
    assert_eq!(
        world.result(0, 0),
        Some(Ok(())),
        "and nothing more was asked of the drives"
    );
    data[4..6].copy_from_slice(&[0xB1, 0xB2]);
    assert_eq!(world.contents(1 << member.0), data);
    world.assert_idle();
}

#[test]
fn faults_of_two_members_in_one_write_lose_the_group_and_end_the_write() {
    let (mut world, _) = filled(&Shape::SMALL);
    world.write(0, 0, 0, &[1; 12]);
    assert_eq!(reads_and_writes(&world), (0, 4));
    world.broken = 0b0110;
    while world.pay_any() {}
    assert_eq!(world.result(0, 0), None);
    world.settle();
    assert_eq!(world.members.failed, 0b0110);
    assert_eq!(world.result(0, 0), Some(Err(LOST)));
    world.assert_idle();
}

/// Before anything is written a loss too many ends the command without waiting for anybody.
#[test]
fn a_loss_too_many_while_reading_for_a_write_ends_it() {
    let shape = Shape {
        members: 6,
        ..Shape::SMALL
    };
    let (mut world, _) = filled(&shape);
    world.fail_members(1 << world.geometry.locate(GroupLba(8)).member.0);
    world.settle();
    world.write(0, 0, 0, &[9]);
    let member = world.geometry.locate(GroupLba(0)).member;
    let index = world.find_member(0, member);
    world.pay_with_error(0, index, DriveError::Media);
    while world.pay_any() {}
    assert_eq!(world.result(0, 0), Some(Err(GroupError::Unreadable)));
    world.assert_idle();
}

#[test]
fn a_failed_group_refuses_writes_and_still_reads_live_members() {
    let (mut world, data) = filled(&Shape::SMALL);
    let members = [
        world.geometry.locate(GroupLba(0)).member,
        world.geometry.locate(GroupLba(4)).member,
    ];
    world.fail_members(1 << members[0].0 | 1 << members[1].0);
    world.settle();
    world.write(0, 0, 8, &[1]);
    world.submit(0, 1, zero(0, 48));
    world.submit(0, 2, Request::Flush);
    world.submit(0, 3, Request::Resync { row: RowIndex(0) });
    world.read(0, 4, 0, 1);
    for command in 0..5 {
        assert_eq!(world.result(0, command), Some(Err(LOST)), "command {command}");
    }
    world.read(0, 5, 8, 4);
    world.settle();
    assert_eq!(world.result(0, 5), Some(Ok(())));
    assert_eq!(world.cores[0].buffers[5], data[8..12]);
    world.assert_idle();
}

/// PROTOCOL H27: until parity is trusted, writes read data and never old parity.
#[test]
fn untrusted_parity_is_not_built_upon() {
    let shape = Shape {
        members: 6,
        ..Shape::SMALL
    };
    let (mut world, mut data) = filled(&shape);
    let parity = world
        .geometry
        .parity_member(RowIndex(0))
        .expect("RAID-5 has parity");
    world.drives[usize::from(parity.0)][3] ^= 0x55;
    world.announce(MemberSet {
        parity: ParityTrust::Nowhere,
        ..world.members
    });
    world.settle();
    world.write(0, 0, 0, &[0x99]);
    assert!(world.asked(0).iter().all(|action| drive_io(action).1 != parity));
    assert_eq!(reads_and_writes(&world), (4, 0));
    world.settle();
    data[0] = 0x99;
    assert_eq!(world.contents(0), data);
    assert!(world.parity_matches(), "the write made it right");
}

/// PROTOCOL H28: nothing is regenerated from parity that may not match.
#[test]
fn a_lost_strip_is_not_regenerated_from_untrusted_parity() {
    let (mut world, data) = filled(&Shape::SMALL);
    let member = world.geometry.locate(GroupLba(0)).member;
    world.announce(MemberSet {
        parity: ParityTrust::Nowhere,
        failed: 1 << member.0,
        ..world.members
    });
    world.settle();
    world.read(0, 0, 0, 1);
    assert_eq!(world.result(0, 0), Some(Err(GroupError::ParityNotTrusted)));
    world.read(0, 1, 4, 4);
    world.settle();
    assert_eq!(world.result(0, 1), Some(Ok(())));
    assert_eq!(world.cores[0].buffers[1], data[4..8]);
    world.assert_idle();
}

#[test]
fn resync_makes_the_parity_of_its_row_match() {
    let (mut world, data) = filled(&Shape::SMALL);
    let parity = world
        .geometry
        .parity_member(RowIndex(2))
        .expect("RAID-5 has parity");
    let parity = usize::from(parity.0);
    world.drives[parity][3 + 8..3 + 12].fill(0x77);
    world.announce(MemberSet {
        parity: ParityTrust::Nowhere,
        ..world.members
    });
    world.submit(0, 0, Request::Resync { row: RowIndex(2) });
    assert!(!world.lock.is_idle(), "nobody writes the row meanwhile");
    world.settle();
    assert_eq!(world.result(0, 0), Some(Ok(())));
    assert!(world.parity_matches());
    assert_eq!(world.contents(0), data);
    world.assert_idle();
}

/// What was planned before a member failed ends on its plan: under its lock it is still right.
#[test]
fn pieces_in_flight_end_on_the_plan_they_began_with() {
    let (mut world, mut data) = filled(&Shape::SMALL);
    world.write(0, 0, 4, &[0xC1]);
    pay_reads(&mut world);
    let member = world.geometry.locate(GroupLba(4)).member;
    world.fail_members(1 << member.0);
    let index = world.find(0, |owed| matches!(owed, Owed::Members(_)));
    world.pay(0, index);
    assert_eq!(reads_and_writes(&world), (0, 2));
    world.broken = 1 << member.0;
    world.settle();
    assert_eq!(
        world.result(0, 0),
        Some(Ok(())),
        "an error of a member that is failed already is no news"
    );
    assert!(world.faults.is_empty());
    data[4] = 0xC1;
    assert_eq!(world.contents(1 << member.0), data);
}

/// PROTOCOL H29 between the cores of one node: one that was not told yet reads no stale strip.
#[test]
fn a_core_that_was_not_told_of_a_failed_member_does_not_read_it() {
    let shape = Shape {
        cores: 2,
        ..Shape::SMALL
    };
    let (mut world, _) = filled(&shape);
    let member = world.geometry.locate(GroupLba(0)).member;
    world.fail_members(1 << member.0);
    let index = world.find(0, |owed| matches!(owed, Owed::Members(_)));
    world.pay(0, index);
    world.write(0, 0, 0, &[0xD1]);
    while world.result(0, 0).is_none() {
        let index = world.find(0, |_| true);
        world.pay(0, index);
    }
    world.read(1, 0, 0, 1);
    assert!(world.asked(1).iter().all(|action| drive_io(action).1 != member));
    world.settle();
    assert_eq!(world.cores[1].buffers[0], [0xD1]);
}

#[test]
fn an_abort_before_any_drive_was_asked_takes_the_command_back() {
    let (mut world, data) = filled(&Shape::SMALL);
    world.write(0, 0, 0, &[0xE1]);
    world.write(0, 1, 1, &[0xE2]);
    assert!(!world.abort(0, 0), "its drives have been asked");
    assert!(world.abort(0, 1), "it waits for the row");
    assert_eq!(world.result(0, 1), Some(Err(GroupError::Aborted)));
    assert!(!world.abort(0, 1), "it is gone");
    assert!(!world.abort(0, 1_000), "it never was");
    world.settle();
    assert_eq!(world.contents(0)[..2], [0xE1, data[1]]);
    world.assert_idle();
}

/// The turn of an aborted waiter goes to the next core; it would wait for ever otherwise.
#[test]
fn an_aborted_waiter_passes_its_turn_on() {
    let shape = Shape {
        cores: 3,
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    world.write(0, 0, 0, &[1; 12]);
    world.write(1, 0, 0, &[2; 12]);
    world.write(2, 0, 0, &[3; 12]);
    while world.result(0, 0).is_none() {
        world.pay(0, 0);
    }
    // Core 1 has been given the turn but has not heard of it yet.
    assert!(world.abort(1, 0));
    assert!(
        world.cores[2]
            .owed
            .iter()
            .any(|owed| matches!(owed, Owed::Wake(_))),
        "core 2 hears at once"
    );
    world.settle();
    assert_eq!(world.result(2, 0), Some(Ok(())));
    assert_eq!(world.contents(0)[..12], [3; 12]);
    world.assert_idle();
}

#[test]
fn an_abort_of_either_half_takes_a_fused_pair_back() {
    for half in [1, 2] {
        let (mut world, data) = filled(&Shape::SMALL);
        world.write(0, 0, 0, &data[..1]);
        world.cores[0].buffers[1] = data[..2].to_vec();
        world.cores[0].buffers[2] = vec![0xFF; 2];
        let write = CommandId(2);
        world.submit(
            0,
            1,
            Request::CompareWrite {
                lba: GroupLba(0),
                blocks: 2,
                write,
                fua: false,
            },
        );
        assert!(world.abort(0, half));
        assert_eq!(world.result(0, 1), Some(Err(GroupError::Aborted)));
        assert_eq!(world.result(0, 2), Some(Err(GroupError::Aborted)));
        world.settle();
        assert_eq!(world.contents(0), data);
        world.assert_idle();
    }
}

#[test]
fn compare_tells_equal_from_different() {
    let (mut world, data) = filled(&Shape::SMALL);
    world.cores[0].buffers[0] = data[3..30].to_vec();
    world.cores[0].buffers[1] = data[3..30].to_vec();
    world.cores[0].buffers[1][20] ^= 1;
    for command in 0..2 {
        world.submit(
            0,
            command,
            Request::Compare {
                lba: GroupLba(3),
                blocks: 27,
            },
        );
    }
    world.settle();
    assert_eq!(world.result(0, 0), Some(Ok(())));
    assert_eq!(world.result(0, 1), Some(Err(GroupError::CompareFailed)));
    world.assert_idle();
}

/// PROTOCOL H40: from the comparison to the write nothing comes in between.
#[test]
fn compare_and_write_holds_its_row_from_beginning_to_end() {
    let (mut world, data) = filled(&Shape::SMALL);
    world.cores[0].buffers[0] = data[2..8].to_vec();
    world.cores[0].buffers[1] = vec![0xF1; 6];
    let request = Request::CompareWrite {
        lba: GroupLba(2),
        blocks: 6,
        write: CommandId(1),
        fua: true,
    };
    world.submit(0, 0, request);
    world.write(0, 2, 2, &[0xF2; 6]);
    world.read(0, 3, 2, 1);
    assert_eq!(
        reads_and_writes(&world),
        (2, 0),
        "the pair reads; the others wait"
    );
    pay_reads(&mut world);
    let index = world.find(0, |owed| matches!(owed, Owed::Compared { equal: true, .. }));
    world.pay(0, index);
    pay_reads(&mut world);
    let writes = world.asked(0);
    assert!(
        writes
            .iter()
            .all(|a| matches!(a, Action::DriveWrite { fua: true, .. }))
            && writes.len() == 3
    );
    while world.result(0, 1).is_none() {
        world.pay_any();
    }
    assert_eq!(world.contents(0)[2..8], [0xF1; 6]);
    world.settle();
    assert_eq!(
        (world.result(0, 0), world.result(0, 1)),
        (Some(Ok(())), Some(Ok(())))
    );
    assert_eq!(world.contents(0)[2..8], [0xF2; 6]);
    world.assert_idle();
}

#[test]
fn a_comparison_that_fails_writes_nothing() {
    let (mut world, data) = filled(&Shape::SMALL);
    world.cores[0].buffers[0] = vec![0; 3];
    world.cores[0].buffers[1] = vec![0xF1; 3];
    let request = Request::CompareWrite {
        lba: GroupLba(2),
        blocks: 3,
        write: CommandId(1),
        fua: false,
    };
    world.submit(0, 0, request);
    world.settle();
    assert_eq!(world.result(0, 0), Some(Err(GroupError::CompareFailed)));
    assert_eq!(world.result(0, 1), Some(Err(GroupError::FusedCompareFailed)));
    assert_eq!(world.contents(0), data);
    world.assert_idle();
}

/// PROTOCOL H41: nothing that is atomic leaves its row.
#[test]
fn compare_and_write_across_rows_is_refused() {
    let mut world = world();
    let request = Request::CompareWrite {
        lba: GroupLba(11),
        blocks: 2,
        write: CommandId(1),
        fua: false,
    };
    world.submit(0, 0, request);
    assert_eq!(world.result(0, 0), Some(Err(GroupError::TooLong)));
    assert_eq!(world.result(0, 1), Some(Err(GroupError::FusedCompareFailed)));
    world.assert_idle();
}

#[test]
fn commands_outside_of_the_group_or_too_long_are_refused() {
    let mut world = world();
    let end = world.geometry.capacity_blocks();
    let refused = [
        (
            Request::Read {
                lba: GroupLba(end),
                blocks: 1,
            },
            GroupError::OutOfRange,
        ),
        (
            Request::Read {
                lba: GroupLba(u64::MAX),
                blocks: 2,
            },
            GroupError::OutOfRange,
        ),
        (
            Request::Write {
                lba: GroupLba(end - 1),
                blocks: 2,
                fua: false,
                replication: ReplicationMode::Sync,
            },
            GroupError::OutOfRange,
        ),
        (zero(1, end), GroupError::OutOfRange),
        (zero(1, u64::MAX), GroupError::OutOfRange),
        (
            Request::Compare {
                lba: GroupLba(end),
                blocks: 1,
            },
            GroupError::OutOfRange,
        ),
        (Request::Resync { row: RowIndex(8) }, GroupError::OutOfRange),
        (
            Request::Read {
                lba: GroupLba(0),
                blocks: COMMAND_BLOCKS_MAX + 1,
            },
            GroupError::TooLong,
        ),
    ];
    for (request, error) in refused {
        world.submit(0, 0, request);
        assert_eq!(world.result(0, 0), Some(Err(error)), "{request:?}");
    }
    world.submit(0, 0, zero(5, 0));
    assert_eq!(world.result(0, 0), Some(Ok(())), "nothing to do is done");
    world.assert_idle();
}

/// Without scratch an operation waits, and nobody who needs scratch overtakes it.
#[test]
fn scratch_is_waited_for_in_order() {
    let shape = Shape {
        scratch_strips: 0,
        members: 6,
        strip: 16,
        commands: 16,
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    let row = u64::from(world.geometry.row_blocks());
    for command in 0..8_u8 {
        world.write(0, command.into(), u64::from(command) * row, &[1 + command; 40]);
    }
    let begun = world.asked(0).len();
    world.read(0, 8, 7 * row + 70, 10);
    assert_eq!(
        world.asked(0).len(),
        begun,
        "its row is held by a write that waits for scratch"
    );
    world.read(0, 9, 3, 1);
    assert!(world.abort(0, 7), "it waits and has asked nothing");
    while world.pay_any() {
        let begun = |command: u8| {
            let slot = &world.cores[0].engine.commands[usize::from(command)];
            slot.issued || world.result(0, command.into()).is_some()
        };
        assert!(
            (1..7).all(|command| begun(command - 1) || !begun(command)),
            "first come, first served"
        );
    }
    assert_eq!(world.result(0, 7), Some(Err(GroupError::Aborted)));
    assert_eq!(world.result(0, 8), Some(Ok(())));
    for command in 0..7_u8 {
        let start = usize::try_from(u64::from(command) * row).expect("small");
        assert_eq!(world.contents(0)[start..start + 40], [1 + command; 40]);
    }
    world.assert_idle();
}

/// A small wish that would fit does not overtake a large one that does not.
#[test]
fn scratch_is_not_taken_past_those_who_wait_for_it() {
    let shape = Shape {
        scratch_strips: 0,
        members: 6,
        strip: 16,
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    // Of 176 blocks of scratch the large writes need 64 each and the small one 16.
    world.write(0, 0, 0, &[1; 32]);
    world.write(0, 1, 80, &[2; 32]);
    world.write(0, 2, 160, &[3; 32]);
    world.write(0, 3, 240, &[4; 8]);
    let issued = |world: &World| [0, 1, 2, 3].map(|command| world.cores[0].engine.commands[command].issued);
    assert_eq!(issued(&world), [true, true, false, false]);
    world.read(0, 4, 320, 1);
    assert!(
        world.cores[0].engine.commands[4].issued,
        "who needs no scratch does not wait"
    );
    world.settle();
    assert!((0..5).all(|command| world.result(0, command) == Some(Ok(()))));
    world.assert_idle();
}

#[test]
fn readers_of_a_row_are_together_and_a_writer_is_alone() {
    let (mut world, _) = filled(&Shape::SMALL);
    world.read(0, 0, 0, 1);
    world.read(0, 1, 1, 1);
    assert_eq!(reads_and_writes(&world), (2, 0));
    world.write(0, 2, 0, &[1; 12]);
    world.read(0, 3, 2, 1);
    assert_eq!(
        reads_and_writes(&world),
        (2, 0),
        "the writer waits, and so do readers behind it"
    );
    pay_reads(&mut world);
    assert_eq!(reads_and_writes(&world), (0, 4));
    world.settle();
    assert_eq!(world.cores[0].buffers[3], [1]);
    world.assert_idle();
}

/// A waiting core is told when the row is free, and gets it before one that comes later.
#[test]
fn a_core_that_waits_is_woken_and_not_overtaken() {
    let shape = Shape {
        cores: 2,
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    world.write(0, 0, 0, &[1; 12]);
    world.write(1, 0, 0, &[2; 12]);
    while world.result(0, 0).is_none() {
        world.pay(0, 0);
    }
    world.write(0, 1, 0, &[3; 12]);
    assert_eq!(world.asked(0).len(), 0, "it is core 1's turn");
    let index = world.find(1, |owed| matches!(owed, Owed::Wake(_)));
    world.pay(1, index);
    assert_eq!(world.asked(1).len(), 4);
    world.settle();
    assert_eq!(world.contents(0)[..12], [3; 12]);
    world.assert_idle();
}

/// PROTOCOL H41: writes inside one row take effect as a whole, one after the other, on all cores.
#[test]
fn writes_inside_a_row_are_atomic_against_each_other() {
    for seed in 0..50 {
        let shape = Shape {
            cores: 3,
            ..Shape::SMALL
        };
        let mut world = World::new(&shape, seed);
        let mut stamp = 0;
        for command in 0..4 {
            for core in 0..3 {
                stamp += 1;
                world.write(core, command, 1, &[stamp; 10]);
                world.read(core, command + 4, 1, 10);
                world.pay_any();
            }
        }
        world.settle();
        for core in 0..3 {
            for command in 4..8 {
                let buffer = &world.cores[core].buffers[command];
                assert!(
                    buffer.iter().all(|byte| *byte == buffer[0]),
                    "a read sees whole writes: {buffer:?}"
                );
            }
        }
        let contents = &world.contents(0)[1..11];
        assert!(contents.iter().all(|byte| *byte == contents[0]));
        assert!(world.parity_matches());
        world.assert_idle();
    }
}

#[test]
#[should_panic(expected = "a drive answers what it was asked, once")]
fn an_answer_that_nobody_waits_for_is_a_bug() {
    let mut world = world();
    world.cores[0]
        .engine
        .drive_done(IoTag(0), Ok(()), &mut Vec::new());
}

#[test]
#[should_panic(expected = "a command's id is its own until it completes")]
fn an_id_in_use_is_a_bug() {
    let mut world = world();
    world.read(0, 0, 0, 1);
    world.read(0, 0, 1, 1);
}
