//! The hazards of PROTOCOL by name, each in its smallest form; and what drives may answer.

use super::super::super::codec::{self, Entry};
use super::super::super::scan::Impossible;
use super::drives::{BLOCK, Question, Write};
use super::world::{ROWS, block_of};
use super::*;
use crate::amf::ParityTrust;
use crate::amf::code::{factor, mul_add_bytes};
use crate::amf::expansion::Layout;
use crate::amf::lost::{LostExtent, LostMap};
use crate::drive::block::{GroupLba, MemberLba};

const ROW: RowIndex = RowIndex(1);

/// Every set of at most as many members as may be lost.
fn losses(world: &World) -> Vec<Vec<MemberIndex>> {
    let members = world.geometry.members();
    let masks = (0..1_u32 << members).filter(|mask| mask.count_ones() <= world.geometry.losses_max());
    let lost = |mask: u32| {
        (0..members)
            .map(MemberIndex)
            .filter(|m| mask >> m.0 & 1 == 1)
            .collect()
    };
    masks.map(lost).collect()
}

/// H19: two cores wrote the row one after the other, the first one's destage and the second one's write are in
/// different lanes and on different members: the highest number wins for each block.
#[test]
fn h19_the_newest_write_of_any_lane_wins() {
    for shape in SHAPES {
        let mut world = World::new(shape.0, shape.1, shape.2, 3);
        world.write(0, &[(ROW, 0, 2, false)]).expect("the power stays");
        world
            .write(1, &[(ROW, 1, 1, false), (RowIndex(2), 0, 1, false)])
            .expect("the power stays");
        world
            .write(0, &[(RowIndex(2), 0, 1, true)])
            .expect("the power stays");
        world.write(0, &[(ROW, 0, 1, true)]).expect("the power stays");
        for lost in losses(&world) {
            let mut world = world.clone();
            lost.into_iter().for_each(|member| world.lose(member));
            let (world, report) = replayed(world, &format!("{shape:?}"));
            assert_eq!((report.rows, report.torn_batches), (2, 0));
            assert_eq!(world.legal[1][0], [0].into());
        }
    }
}

/// H23: of a batch in flight any blocks are there and others are not. It counts if it is whole on one member; if not,
/// it is as if it had never been, and the report says so.
#[test]
fn h23_a_torn_batch_counts_whole_or_not_at_all() {
    let (mut torn, mut whole) = (0, 0);
    for seed in 0..60 {
        let mut world = World::new(Level::Raid5, 4, 3, seed);
        world.write(0, &[(ROW, 0, 2, false)]).expect("the power stays");
        world.drives.left = Some(0);
        world.write(0, &[(ROW, 1, 1, false)]).expect_err("the power goes");
        world.drives.power_cut();
        let (_, report) = replayed(world, &format!("seed {seed}"));
        torn += report.torn_batches;
        whole += report.batches - 1;
    }
    assert!(torn > 5 && whole > 5, "{torn} torn, {whole} whole");
}

/// H25, H26, I5, I6: the power goes during the in-place update of a row. Every subset of its blocks, every loss.
///
/// Catches: check data not redone; a row read before it is redone.
#[test]
fn h25_h26_every_subset_of_an_update_and_every_loss() {
    for shape in [
        (Level::Raid5, 3, 2),
        (Level::Raid6, 4, 2),
        (Level::RaidTp, 5, 1),
        (Level::Raid10, 4, 2),
        (Level::Raid1, 3, 2),
    ] {
        // Healthy, and degraded before the update began.
        for before in [None, Some(MemberIndex(1))] {
            let mut world = World::new(shape.0, shape.1, shape.2, 1);
            world
                .write(0, &[(ROW, 0, world.geometry.row_blocks(), false)])
                .expect("the power stays");
            world.destage(ROW).expect("the power stays");
            world.flush();
            before.into_iter().for_each(|member| world.lose(member));
            world.write(0, &[(ROW, 1, 1, false)]).expect("the power stays");
            world.destage(ROW).expect("the power stays");
            let blocks = world.clone().drives.keep(0);
            assert!((1..=6).contains(&blocks), "{blocks} blocks are in flight");
            for kept in 0..1 << blocks {
                for lost in losses(&world) {
                    let mut world = world.clone();
                    world.drives.keep(kept);
                    let all = lost
                        .iter()
                        .fold(world.members.failed, |mask, member| mask | 1 << member.0);
                    if all.count_ones() > world.geometry.losses_max() {
                        continue;
                    }
                    lost.iter().for_each(|member| world.lose(*member));
                    replayed(
                        world,
                        &format!("{shape:?} {before:?} kept {kept:b} lost {lost:?}"),
                    );
                }
            }
        }
    }
}

/// H25, H26, I5, I6: the power goes while a whole row is written or zeroed, whose destage journals no check data. Every
/// subset of its blocks, every loss; alone, and with data over it that has been destaged and not retired either.
///
/// Catches: check strips not redone, or redone as they were before a later destage.
#[test]
fn h25_every_subset_of_a_whole_row_and_every_loss() {
    for shape in [(Level::Raid5, 3, 2), (Level::Raid6, 4, 1), (Level::RaidTp, 5, 1)] {
        for (zero, over) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut world = World::new(shape.0, shape.1, shape.2, 1);
            let whole = world.geometry.row_blocks();
            world
                .write(0, &[(ROW, 0, whole, false)])
                .expect("the power stays");
            world.destage(ROW).expect("the power stays");
            world.flush();
            world.write(0, &[(ROW, 0, whole, zero)]).expect("the power stays");
            world.destage(ROW).expect("the power stays");
            if over {
                world.write(0, &[(ROW, 1, 1, false)]).expect("the power stays");
                world.destage(ROW).expect("the power stays");
            }
            let blocks = world.clone().drives.keep(0);
            assert!((4..=10).contains(&blocks), "{blocks} blocks are in flight");
            for kept in 0..1 << blocks {
                for lost in losses(&world) {
                    let mut world = world.clone();
                    world.drives.keep(kept);
                    lost.iter().for_each(|member| world.lose(*member));
                    replayed(
                        world,
                        &format!("{shape:?} {zero} {over} kept {kept:b} lost {lost:?}"),
                    );
                }
            }
        }
    }
}

/// H27: a half-written row also has newer writes elsewhere. Check data for those is computed from the healed row.
#[test]
fn h27_a_half_written_row_is_healed_before_it_is_built_upon() {
    for shape in [(Level::Raid5, 4, 3), (Level::Raid6, 5, 2), (Level::RaidTp, 6, 2)] {
        for seed in 0..20 {
            let mut world = World::new(shape.0, shape.1, shape.2, seed);
            world.write(0, &[(ROW, 0, 2, false)]).expect("the power stays");
            world.destage(ROW).expect("the power stays");
            world.write(0, &[(ROW, 1, 3, false)]).expect("the power stays");
            for lost in losses(&world) {
                let mut world = world.clone();
                world.drives.power_cut();
                lost.iter().for_each(|member| world.lose(*member));
                replayed(world, &format!("{shape:?} seed {seed} lost {lost:?}"));
            }
        }
    }
}

/// H34: a member that is being rebuilt has its strips below the durable frontier and none from it on.
#[test]
fn h34_a_member_under_rebuild_counts_below_its_frontier() {
    for frontier in 0..=ROWS + 1 {
        let mut world = World::new(Level::Raid5, 4, 3, frontier);
        world.rebuild(MemberIndex(2), frontier);
        for row in 0..ROWS {
            world
                .write(0, &[(RowIndex(row), 0, 5, false)])
                .expect("the power stays");
        }
        let (world, report) = replayed(world, &format!("frontier {frontier}"));
        assert_eq!(report.rows, ROWS);
        let row = RowIndex(3);
        let place = world.geometry.copy_place(row, 0, 0);
        assert_eq!(
            place.member,
            MemberIndex(1),
            "the test looks at what the member holds"
        );
    }
}

/// The tail says which entries are in place: what it covers is not applied again, though its batch is still there.
///
/// Catches: the tail ignored.
#[test]
fn what_the_tail_covers_stays_as_it_is() {
    let mut world = World::new(Level::Raid5, 3, 2, 1);
    world.write(0, &[(ROW, 0, 2, false)]).expect("the power stays");
    world.destage(ROW).expect("the power stays");
    world.flush();
    // Written past the journal, as a rebuild or a later version of the data whose records are gone: it is newer.
    let newer = world.clone();
    world.commit(0, &[], &[]).expect("the power stays");
    let lba = world.geometry.member_lba(ROW, 0);
    let blocks: Vec<_> = (0..3).map(|_| block_of(999)).collect();
    for (member, data) in (0..3).map(MemberIndex).zip(&blocks) {
        let write = Write {
            member,
            lba,
            data: data.clone(),
            fua: true,
        };
        assert!(world.drives.write(&[write]));
    }
    let report = world.drives.run(world.replay()).expect("it ends well");
    assert_eq!((report.rows, report.batches), (0, 0));
    assert!((0..3).all(|member| world.drives.block(MemberIndex(member), lba) == block_of(999)));
    let (_, report) = replayed(newer, "without the header that says so");
    assert_eq!(report.rows, 1);
}

/// Bad input: what another group or another opening of this one wrote means nothing.
#[test]
fn records_of_others_are_dead() {
    let mut world = World::new(Level::Raid5, 3, 2, 1);
    world.write(0, &[(ROW, 0, 2, false)]).expect("the power stays");
    for change in [
        |layout: &mut JournalLayout| layout.incarnation += 1,
        |layout: &mut JournalLayout| layout.group.0[3] ^= 1,
        |layout: &mut JournalLayout| layout.start.0 += u64::from(layout.lane_blocks),
        |layout: &mut JournalLayout| layout.start.0 -= 1,
    ] {
        let mut other = world.clone();
        change(&mut other.layout);
        let report = other.drives.run(other.replay()).expect("it ends well");
        assert_eq!((report.rows, report.batches, report.torn_batches), (0, 0, 0));
        assert_eq!(other.data(), world.data());
    }
}

/// Bad input: a sound record of ours that names a row that the group has not is a bug somewhere, and not passed over.
#[test]
fn a_record_outside_of_the_group_stops_the_start() {
    let mut world = World::new(Level::Raid5, 3, 2, 1);
    let seq = world.seq();
    let entry = Entry::Zero {
        members: world.geometry.members(),
        row: RowIndex(ROWS),
        start_blocks: 0,
        blocks: 1,
        seq,
    };
    world.commit(1, &[entry], &[]).expect("the power stays");
    let Err(ReplayError::Journal(error)) = world.drives.run(world.replay()) else {
        panic!("it is noticed")
    };
    assert_eq!(
        (error.lane, error.position, error.what),
        (1, 0, Impossible::Outside)
    );
}

/// A member that errs is named, whatever it was asked.
#[test]
fn a_member_that_fails_is_named() {
    let mut world = World::new(Level::Raid6, 5, 2, 1);
    world.write(0, &[(ROW, 0, 2, false)]).expect("the power stays");
    let questions: [Question; 3] = [
        |action| {
            if let Action::Read { io, member, .. } = action {
                Some((*io, *member))
            } else {
                None
            }
        },
        |action| {
            if let Action::Write { io, member, .. } = action {
                Some((*io, *member))
            } else {
                None
            }
        },
        |action| {
            if let Action::Flush { io, member } = action {
                Some((*io, *member))
            } else {
                None
            }
        },
    ];
    for question in questions {
        let mut world = world.clone();
        let Err(ReplayError::Member { member, error }) =
            world
                .drives
                .run_failing(world.replay(), question, DriveError::Gone)
        else {
            panic!("it is noticed")
        };
        assert_eq!(error, DriveError::Gone);
        // The remedy that the error names works.
        world.lose(member);
        replayed(world, "without it");
    }
}

/// A block of a lane that cannot be read costs nothing: another member has the batch, and the rest of the lane counts.
#[test]
fn a_bad_block_in_a_lane_is_gone_round() {
    let mut world = World::new(Level::Raid5, 3, 2, 1);
    world.write(0, &[(ROW, 0, 2, false)]).expect("the power stays");
    world
        .write(0, &[(RowIndex(2), 0, 2, false)])
        .expect("the power stays");
    let member = MemberIndex(2);
    world.drives.spoil(member, world.layout.lba(0, 1));
    world.drives.spoil(member, world.layout.lba(1, 0));
    let (_, report) = replayed(world, "bad blocks");
    assert_eq!((report.rows, report.batches, report.unreadable_blocks), (2, 2, 2));
}

/// A bad block in a row that needs computing is regenerated from the others, as long as there are enough of them.
#[test]
fn a_bad_block_in_a_row_is_gone_round() {
    let mut world = World::new(Level::Raid6, 5, 2, 1);
    world.write(0, &[(ROW, 0, 6, false)]).expect("the power stays");
    world.destage(ROW).expect("the power stays");
    world.flush();
    world.write(0, &[(ROW, 0, 1, false)]).expect("the power stays");
    let bad = |column| {
        (
            world.geometry.data_member(ROW, column),
            world.geometry.member_lba(ROW, 0),
        )
    };
    let bad = [bad(1), bad(2)];
    for (member, lba) in bad {
        world.drives.spoil(member, lba);
    }
    let mut lost = world.clone();
    let (_, report) = replayed(world, "bad blocks");
    assert_eq!(report.rows, 1);
    // Of one more member less the others of the row go on. Only these two blocks are lost, and Q knows them as zeroes.
    lost.lose(lost.geometry.check_member(ROW, 0).expect("P"));
    let healthy = lost.clone();
    let report = lost.drives.run(lost.replay()).expect("one row fails nobody");
    assert_eq!(report.rows, 1);
    let strip = lost.geometry.strip_blocks();
    let first = ROW.0 * u64::from(lost.geometry.row_blocks());
    let list = lost.drives.lost(lost.layout.group);
    let lost_blocks: Vec<_> = LostMap::of(&list.windows).extents();
    let extent = |column: u32| LostExtent {
        lba: GroupLba(first + u64::from(column * strip)),
        blocks: 1,
    };
    assert_eq!(lost_blocks, [extent(1), extent(2)]);
    assert_eq!(lost.drives.lists.len(), 4, "all live members have the list");
    let at = |world: &World, member, offset| {
        let lba = world.geometry.member_lba(ROW, offset);
        world.drives.block(member, lba)
    };
    let data = |column| lost.geometry.data_member(ROW, column);
    let mut sum = vec![0; at(&lost, data(0), 0).len()];
    mul_add_bytes(&mut sum, &at(&lost, data(0), 0), factor(1, 0));
    let q = lost.geometry.check_member(ROW, 1).expect("Q");
    assert_eq!(at(&lost, q, 0), sum);
    assert!(at(&lost, data(1), 0).iter().all(|byte| *byte == 0));
    for column in 1..3 {
        let member = lost.geometry.data_member(ROW, column);
        assert_eq!(
            at(&lost, member, 1),
            at(&healthy, member, 1),
            "its neighbour is not lost"
        );
    }
    // A replay that is run once more knows of them, and one that finds new data of them in the journal takes them off.
    let again = lost.replay().with_lost(list.clone());
    lost.drives.run(again).expect("it may be run again");
    assert_eq!(lost.drives.lost(lost.layout.group).version, list.version);
    lost.write(0, &[(ROW, strip, 1, false)]).expect("the power stays");
    let replay = lost.replay().with_lost(list);
    assert_eq!(lost.drives.run_for_lost(replay).extents(), [extent(2)]);
}

/// Data is not computed from check data that was never initialised.
#[test]
fn check_data_that_is_not_trusted_is_not_built_upon() {
    let mut world = World::new(Level::Raid5, 4, 2, 1);
    world.write(0, &[(ROW, 0, 1, false)]).expect("the power stays");
    world.members.parity = ParityTrust::Nowhere;
    replayed(world.clone(), "healthy: all data is there");
    world.lose(world.geometry.data_member(ROW, 1));
    assert_eq!(
        world.drives.run(world.replay()),
        Err(ReplayError::CheckDataNotTrusted { row: ROW })
    );
}

#[test]
fn too_many_lost_members_are_refused_before_anything_is_done() {
    let mut world = World::new(Level::Raid10, 4, 2, 1);
    world.members.failed = 0b0011;
    assert_eq!(
        world.drives.run(world.replay()),
        Err(ReplayError::TooManyMembersLost)
    );
    // One of each pair: fewer copies are left, and enough.
    world.members.failed = 0b1001;
    assert!(world.drives.run(world.replay()).is_ok());
}

/// More rows than one header has entries for: the round has several batches.
#[test]
fn a_round_has_as_many_batches_as_it_needs() {
    let mut world = World::new(Level::RaidTp, 6, 4, 1);
    for row in 0..ROWS {
        world
            .write(0, &[(RowIndex(row), 0, 8, false)])
            .expect("the power stays");
    }
    let (world, report) = replayed(world, "five rows");
    assert_eq!((report.rows, report.blocks), (ROWS, 8 * ROWS));
    let recovery = world.layout.lba(world.layout.recovery_lane(), 0);
    let record = world.drives.from(world.live()[0], recovery);
    let parsed = codec::parse(&record[..BLOCK]).expect("a record");
    // 13 entries a header: three rows of four, then two.
    assert_eq!(parsed.entries.len(), 12);
    let second = (1 + 3 * 12) * BLOCK;
    let parsed = codec::parse(&record[second..][..BLOCK]).expect("a record");
    assert_eq!(parsed.entries.len(), 8);
    assert!(report.next_seq > 100 + ROWS);
}

/// I12: more check data than the recovery lane has blocks takes round after round, each flushed before the lane is used
/// again, wherever it is interrupted.
///
/// Catches: no flush between rounds; batches of an earlier round taken for ones of the last.
#[test]
fn i12_rows_wait_for_the_recovery_lane() {
    for (seed, lost) in [(1, None), (2, Some(MemberIndex(3))), (3, Some(MemberIndex(0)))] {
        let mut world = World::new(Level::RaidTp, 6, 4, seed);
        lost.into_iter().for_each(|member| world.lose(member));
        for row in 0..ROWS {
            world
                .write(0, &[(RowIndex(row), 5, 1, false)])
                .expect("the power stays");
        }
        // Lane 0 still holds the five batches of two blocks, and the recovery lane the check data of three rows.
        world.layout.lane_blocks = 17;
        let (reference, report) = replayed(world.clone(), "two rounds");
        assert_eq!(report.rows, ROWS);
        let recovery = world.layout.lba(world.layout.recovery_lane(), 0);
        let block = reference.drives.block(world.live()[0], recovery);
        let record = codec::parse(&block).expect("a record");
        assert_eq!((record.header.batch, record.entries.len()), (2, 8));
        let mut random = Random::new(seed);
        for _ in 0..10 {
            interrupt_everywhere(&world, &reference, &mut random, &format!("seed {seed}"));
        }
    }
}

/// Rows that are destaged and have newer data, of which the rounds are more than one. Members are lost then.
fn with_newer_data(seed: u64, lost: &[u8]) -> World {
    let mut world = World::new(Level::RaidTp, 6, 4, seed);
    for row in 0..ROWS {
        let row = RowIndex(row);
        world.write(0, &[(row, 5, 1, false)]).expect("the power stays");
        world.destage(row).expect("the power stays");
        world
            .write(0, &[(row, 0, 1, false), (row, 3, 1, false)])
            .expect("the power stays");
    }
    // Lane 0 holds nine blocks a row, and the recovery lane the check data of two rows.
    world.layout.lane_blocks = 48;
    lost.iter().for_each(|member| world.lose(MemberIndex(*member)));
    world
}

/// I12: a destage that is in place is not done once more over newer data that is, too, when the record of the newer one is lost with the next round; wherever the
/// replay is interrupted, once or twice.
///
/// Catches: no mark, one that is not heeded, one that forgets what the last one said.
#[test]
fn i12_what_is_in_place_stays_there_when_the_recovery_lane_is_used_again() {
    for (seed, lost) in [(1, &[][..]), (2, &[3]), (3, &[0, 2])] {
        let world = with_newer_data(seed, lost);
        let (reference, report) = replayed(world.clone(), "three rounds");
        assert_eq!(report.rows, ROWS);
        let recovery = world.layout.lba(world.layout.recovery_lane(), 0);
        let record = codec::parse(&reference.drives.block(world.live()[0], recovery)).expect("a record");
        assert_eq!(record.header.batch, 3, "as many rounds");
        let mut random = Random::new(seed);
        for _ in 0..10 {
            interrupt_everywhere(&world, &reference, &mut random, &format!("seed {seed}"));
        }
    }
}

/// A member that was away while a replay wrote without it, and is back before anything else says that it is lost, is found out, wherever that one was
/// interrupted; and the group is well without it.
#[test]
fn a_member_that_missed_an_interrupted_replay_is_left_out() {
    let mut found_out = 0;
    for transfers in 0.. {
        let mut world = with_newer_data(7, &[]);
        let away = MemberIndex(2);
        world.members.failed = 1 << away.0;
        let ended = world.drives.run_some(world.replay(), transfers);
        world.drives.power_cut();
        world.members.failed = 0;
        match world.drives.run_some(world.replay(), 0x1000) {
            Some(Ok(_)) => assert_eq!(found_out, 0, "once something is written it is always found out"),
            Some(Err(ReplayError::LeftOut { member })) => {
                assert_eq!(member, away);
                found_out += 1;
                world.lose(away);
                replayed(world, &format!("without it, cut after {transfers}"));
                if ended.is_some() {
                    break;
                }
                continue;
            }
            other => panic!("{other:?}"),
        }
        world.check(&format!("cut after {transfers}, with all of them"));
    }
    assert!(found_out > 20, "{found_out} times");
}

/// H19, I12: a batch that one member alone has is brought to another one before anything is built on it, and then that
/// member may be lost at any moment.
///
/// Catches: batches not spread.
#[test]
fn h19_a_batch_that_one_member_has_is_spread_first() {
    let mut world = World::new(Level::Raid5, 4, 2, 1);
    world.write(0, &[(ROW, 0, 6, false)]).expect("the power stays");
    world.destage(ROW).expect("the power stays");
    world.flush();
    world.write(0, &[(ROW, 0, 1, false)]).expect("the power stays");
    let (entries, payload, _) = world.plan_destage(ROW).expect("the row is dirty");
    let before = world.clone();
    world.commit(0, &entries, &payload).expect("the power stays");
    // The destage's batch stays on the first member that has it.
    let position = (0..world.layout.lane_blocks)
        .rev()
        .map(|position| world.layout.lba(0, position))
        .find(|lba| has_header(&world, *lba).next().is_some())
        .expect("the batch is there");
    let holders: Vec<_> = has_header(&world, position).collect();
    for other in &holders[1..] {
        let lba = position;
        let data = before.drives.block(*other, lba);
        let write = Write {
            member: *other,
            lba,
            data,
            fua: true,
        };
        assert!(world.drives.write(&[write]));
    }
    assert_eq!(has_header(&world, position).count(), 1);
    let (reference, _) = replayed(world.clone(), "not interrupted");
    assert_eq!(has_header(&reference, position).count(), 2);
    for transfers in 0.. {
        let mut cut = world.clone();
        if cut.drives.run_some(cut.replay(), transfers).is_some() {
            break;
        }
        cut.lose(holders[0]);
        replayed(
            cut,
            &format!("cut after {transfers}, then without the one that had it"),
        );
    }
}

/// CHECKLIST C3, E2, PROTOCOL H19, I7: no drive has what was acknowledged last, and another node has kept it: after the replay it is in its place, as if a drive had had it. What was damaged there is as if nobody
/// had it, and then what was there before is there.
///
/// Catches: what others keep not read, or believed whatever it is.
#[test]
fn h19_what_another_node_has_kept_is_replayed() {
    for (level, members, strip) in SHAPES {
        let mut world = World::new(level, members, strip, 1);
        world.write(0, &[(ROW, 0, 2, false)]).expect("the power stays");
        world.destage(ROW).expect("the power stays");
        world.flush();
        let before = world.clone();
        world.write(1, &[(ROW, 1, 1, false)]).expect("the power stays");
        let batch = first_batch(&world, 1, 2);
        let run = |batch: &[u8]| {
            let mut world = before.clone();
            let replay = world.replay().with_copies(vec![batch.into()]);
            world.drives.run(replay).expect("it is replayed");
            world
        };
        let (known, _) = replayed(world.clone(), "with the drives alone");
        let (old, _) = replayed(before.clone(), "without it");
        assert!(known.data() != old.data());
        assert!(run(&batch).data() == known.data(), "{level:?}");
        for at in [0, BLOCK - 1, BLOCK, 2 * BLOCK - 1] {
            let mut damaged = batch.clone();
            damaged[at] ^= 1;
            assert!(run(&damaged).data() == old.data(), "{level:?}, byte {at}");
        }
    }
}

/// CHECKLIST E4, PROTOCOL H20: another node still keeps a write that is over: a newer one of the same block is in another lane, or in its place with nothing of it left in the journal. It stays.
///
/// Catches: what others keep believed to be the newest.
#[test]
fn h20_a_newer_write_outlives_what_another_node_has_kept() {
    for (level, members, strip) in SHAPES {
        for is_over in [false, true] {
            let mut world = World::new(level, members, strip, 1);
            world.write(1, &[(ROW, 0, 2, false)]).expect("the power stays");
            let batch = first_batch(&world, 1, 3);
            world.write(0, &[(ROW, 1, 1, false)]).expect("the power stays");
            if is_over {
                world.destage(ROW).expect("the power stays");
                world.flush();
                world.commit(0, &[], &[]).expect("the power stays");
            }
            let holders: Vec<_> = has_header(&world, world.layout.lba(1, 0)).collect();
            for member in holders {
                world.drives.overwrite(member, world.layout.lba(1, 0));
            }
            let mut other = world.clone();
            let replay = other.replay().with_copies(vec![batch.into()]);
            other.drives.run(replay).expect("it is replayed");
            other.check(&format!("{level:?}, over {is_over}"));
            let (known, _) = replayed(world, "without it");
            assert!(other.data() == known.data(), "{level:?}, over {is_over}");
        }
    }
}

/// The first so many blocks of a lane: its first batch.
fn first_batch(world: &World, lane: u16, blocks: u32) -> Vec<u8> {
    let mut holders = has_header(world, world.layout.lba(lane, 0));
    let holder = holders.next().expect("it is committed");
    let block = |at| world.drives.block(holder, world.layout.lba(lane, at));
    (0..blocks).flat_map(block).collect()
}

fn has_header(world: &World, lba: MemberLba) -> impl Iterator<Item = MemberIndex> {
    let parses = move |member: &MemberIndex| codec::parse(&world.drives.block(*member, lba)).is_ok();
    world.live().into_iter().filter(parses)
}

/// What was seen before it was durable could go back after something was built on it (I8).
///
/// Catches: no flush before the scan.
#[test]
fn i8_members_flush_before_they_are_read() {
    let mut world = World::new(Level::Raid6, 5, 2, 1);
    world.lose(MemberIndex(3));
    let (mut replay, mut out) = (world.replay(), Vec::new());
    replay.handle(Event::Start, &mut out);
    let flushed = |action: &Action| {
        let Action::Flush { member, .. } = action else {
            panic!("{action:?} before members have flushed")
        };
        member.0
    };
    assert_eq!(out.iter().map(flushed).collect::<Vec<_>>(), [0, 1, 2, 4]);
}

/// I13, H36: a record of a layout that its row does not have any more was in place before the row moved; one of a row
/// that has not moved counts, by the old layout; of a row without data nothing counts.
#[test]
fn i13_records_count_by_the_layout_of_their_row_only() {
    let world = World::new(Level::Raid5, 4, 2, 1);
    let new = world.geometry;
    let old = new.with_members(3).expect("three members are enough");
    // Rows below 2 have moved, and row 2, whose data is in them, is dead.
    let layout = Layout::expanding(old, new, 2).expect("it widens");
    assert!(layout.is_dead(RowIndex(2)) && !layout.is_dead(RowIndex(3)));
    for (row, members, counts) in [
        (1, 3, false),
        (1, 4, true),
        (2, 3, false),
        (3, 3, true),
        (3, 4, false),
    ] {
        let mut world = world.clone();
        let geometry = if members == 3 { old } else { new };
        let seq = world.seq();
        let entry = Entry::Write {
            members,
            row: RowIndex(row),
            start_blocks: 1,
            blocks: 1,
            seq,
            payload_block: 0,
        };
        world.commit(0, &[entry], &block_of(7)).expect("the power stays");
        let replay = Replay::new(world.layout, layout, world.members);
        let report = world.drives.run(replay).expect("it ends");
        assert_eq!(report.rows, u64::from(counts), "row {row}, {members} members");
        let place = geometry.locate(GroupLba(row * u64::from(geometry.row_blocks()) + 1));
        let held = world.drives.block(place.member, place.lba);
        assert_eq!(held == block_of(7), counts, "row {row}, {members} members");
    }
}
