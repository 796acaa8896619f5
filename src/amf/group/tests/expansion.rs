//! A group gets more members: what is refused, what is durable when, and power cuts at every write.

use super::*;
use crate::amf::expansion::{ExpansionRecord, Layout, ScratchState};
use crate::amf::geometry::Geometry;

/// A group with trusted check data on `count` drives, and `more` blank ones behind them.
fn settled(level: Level, count: usize, more: usize) -> (Group, Vec<Disk>) {
    let mut disks = disks(count);
    let mut group = Group::form(create(&spec_of(level, facts(&disks))).unwrap());
    run(&mut group, &mut disks, START);
    run(&mut group, &mut disks, Event::ResyncDone);
    disks.extend(vec![Disk::new(DRIVE_BYTES); more]);
    (group, disks)
}

fn expand_with(facts: Vec<DriveFacts>) -> Event {
    Event::Expand {
        request: REQUEST,
        identities: (0x70..).take(facts.len()).map(uuid).collect(),
        drives: facts,
        force: false,
    }
}

/// Gives the group all drives from `from` on.
fn expand(disks: &[Disk], from: usize) -> Event {
    expand_with(facts(disks).split_off(from))
}

fn scratch(frontier: u64, scratch: ScratchState) -> Option<ExpansionRecord> {
    Some(ExpansionRecord {
        old_members: 3,
        frontier,
        scratch,
    })
}

fn layouts(actions: &[Action]) -> Vec<(Layout, Option<ExpansionRecord>)> {
    let layouts = actions.iter().filter_map(|action| {
        if let Action::Layout { layout, expansion } = action {
            Some((*layout, *expansion))
        } else {
            None
        }
    });
    layouts.collect()
}

#[test]
fn new_members_are_told_before_the_layout_and_both_before_the_members() {
    let (mut group, mut disks) = settled(Level::Raid5, 3, 2);
    let capacity = group.snapshot().capacity_blocks;
    let event = expand(&disks, 3);
    let actions = run(&mut group, &mut disks, event);
    assert_eq!(reply_of(&actions), Ok(Answer::Expanding));
    let at = |what: &dyn Fn(&Action) -> bool| actions.iter().position(what).unwrap();
    let drives: Vec<_> = actions
        .iter()
        .filter_map(|action| {
            if let Action::MemberDrive { member, drive } = action {
                Some((member.0, *drive))
            } else {
                None
            }
        })
        .collect();
    assert_eq!(drives, [(3, 3), (4, 4)]);
    let layout = at(&|action| matches!(action, Action::Layout { .. }));
    assert!(at(&|action| matches!(action, Action::MemberDrive { .. })) < layout);
    assert!(layout < at(&|action| matches!(action, Action::Members(_))));
    let (first, record) = layouts(&actions)[0];
    assert_eq!(record, scratch(0, ScratchState::Clean));
    assert_eq!((first.frontier(), first.widest().members()), (0, 5));
    assert_eq!(group.snapshot().capacity_blocks, capacity, "I13");
    assert_eq!(members_of(&actions).failed, 0);
}

/// I13: the capacity changes with the update that ends the expansion, and not before.
#[test]
fn waves_are_durable_one_by_one_and_the_last_ends_it() {
    let (mut group, mut disks) = settled(Level::Raid5, 3, 1);
    let event = expand(&disks, 3);
    run(&mut group, &mut disks, event);
    let steps = [
        (
            Event::ExpansionScratch(ScratchState::Dirty),
            scratch(0, ScratchState::Dirty),
        ),
        (
            Event::ExpansionScratch(ScratchState::Holds { to: 1 }),
            scratch(0, ScratchState::Holds { to: 1 }),
        ),
        (
            Event::ExpansionProgress { frontier: 1 },
            scratch(1, ScratchState::Dirty),
        ),
        (
            Event::ExpansionScratch(ScratchState::Clean),
            scratch(1, ScratchState::Clean),
        ),
        (
            Event::ExpansionProgress { frontier: 31 },
            scratch(31, ScratchState::Clean),
        ),
    ];
    for (event, expected) in steps {
        let actions = run(&mut group, &mut disks, event);
        assert_eq!(layouts(&actions)[0].1, expected);
        assert_eq!(group.snapshot().capacity_blocks, 32 * 32);
        let candidate = found(&disks).unwrap();
        assert_eq!(candidate.record().expansion, expected, "it is durable");
    }
    let actions = run(&mut group, &mut disks, Event::ExpansionProgress { frontier: 32 });
    assert!(layouts(&actions)[0].0.is_over() && layouts(&actions)[0].1.is_none());
    assert_eq!(group.snapshot().capacity_blocks, 32 * 48);
    let over = run(&mut group, &mut disks, Event::ExpansionProgress { frontier: 32 });
    assert!(over.is_empty(), "it is over");
    let grown = run(
        &mut group,
        &mut disks,
        Event::CreateVdisk {
            request: REQUEST,
            spec: vdisk(1, VdiskSize::LargestFree),
        },
    );
    assert!(matches!(reply_of(&grown), Ok(Answer::VdiskCreated(vdisk)) if vdisk.blocks == 32 * 48));
    run(&mut group, &mut disks, Event::Stop);
    let (group, _) = restart(&mut disks);
    assert_eq!((group.snapshot().members.len(), group.expansion()), (4, None));
}

#[test]
fn virtual_disks_keep_their_blocks_and_grow_into_what_is_new() {
    let (mut group, mut disks) = settled(Level::Raid5, 3, 1);
    let create = |number, size| Event::CreateVdisk {
        request: REQUEST,
        spec: vdisk(number, size),
    };
    run(&mut group, &mut disks, create(1, VdiskSize::Blocks(32 * 5)));
    run(&mut group, &mut disks, create(2, VdiskSize::LargestFree));
    let before = group.vdisks().to_vec();
    let event = expand(&disks, 3);
    run(&mut group, &mut disks, event);
    let grow = Event::ResizeVdisk {
        request: REQUEST,
        nsid: 2,
        size: VdiskSize::LargestFree,
    };
    let early = run(&mut group, &mut disks, grow.clone());
    let blocks_max = 32 * 27;
    assert_eq!(reply_of(&early), Err(RequestError::NoSpaceBehind { blocks_max }));
    run(&mut group, &mut disks, Event::ExpansionProgress { frontier: 32 });
    assert_eq!(group.vdisks(), before, "no block has another address");
    run(&mut group, &mut disks, grow);
    assert_eq!(group.vdisks()[1].blocks, 32 * 48 - 32 * 5);
    let (group, actions) = restart(&mut disks);
    assert!(actions.contains(&Action::Started));
    assert_eq!(
        group.vdisks()[1].start,
        GroupLba(32 * 5),
        "in the middle of a row of three strips"
    );
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let (mut group, disks) = settled(Level::Raid5, 3, 3);
    let refused =
        |group: &mut Group, event: Event| reply_of(&run(group, &mut disks.clone(), event)).unwrap_err();
    let new = |change: &dyn Fn(&mut DriveFacts)| {
        let mut facts = facts(&disks).split_off(3);
        change(&mut facts[1]);
        expand_with(facts)
    };
    let error = refused(&mut group, expand_with(Vec::new()));
    assert_eq!(error, RequestError::NoDrives);
    let small = new(&|facts| facts.bytes = DRIVE_BYTES - 4096);
    assert!(matches!(
        refused(&mut group, small),
        RequestError::DriveTooSmall { .. }
    ));
    let coarse = new(&|facts| facts.logical_block = 8192);
    assert!(matches!(
        refused(&mut group, coarse),
        RequestError::DriveBlock { .. }
    ));
    let in_use = new(&|facts| facts.in_use = true);
    assert_eq!(refused(&mut group, in_use), RequestError::DriveInUse);
    let member = new(&|facts| facts.index = 0);
    assert_eq!(refused(&mut group, member), RequestError::DriveInUse);
    let twice = new(&|facts| facts.index = 3);
    assert_eq!(refused(&mut group, twice), RequestError::DriveTwice);
    let unreadable = new(&|facts| facts.existing = Found::Unreadable);
    assert_eq!(refused(&mut group, unreadable), RequestError::DriveUnreadable);
    let other = stopped(3)[0].facts(0).existing;
    let foreign = new(&|facts| facts.existing = other.clone());
    assert!(matches!(
        refused(&mut group, foreign),
        RequestError::DriveNotBlank { .. }
    ));
    let many = (0..30)
        .map(|index| DriveFacts {
            index,
            ..disks[3].facts(3)
        })
        .collect();
    assert_eq!(
        refused(&mut group, expand_with(many)),
        RequestError::TooManyMembers
    );
    assert_eq!(group.expansion(), None);
    let mut disks = disks.clone();
    let event = expand(&disks, 5);
    assert!(reply_of(&run(&mut group, &mut disks, event)).is_ok());
    let event = expand_with(facts(&disks)[3..5].to_vec());
    assert_eq!(refused(&mut group, event), RequestError::ExpansionRunning);
}

#[test]
fn groups_that_cannot_grow_say_why() {
    let refused = |level, count, more| {
        let (mut group, mut disks) = settled(level, count, more);
        let event = expand(&disks, count);
        reply_of(&run(&mut group, &mut disks, event))
    };
    assert_eq!(refused(Level::Raid1, 2, 1), Err(RequestError::NotExpandable));
    assert_eq!(refused(Level::Raid10, 4, 1), Err(RequestError::OddNumber));
    for (level, count, more) in [
        (Level::Raid0, 1, 1),
        (Level::Raid10, 4, 2),
        (Level::Raid10, 3, 2),
        (Level::Raid5, 3, 4),
        (Level::Raid6, 4, 2),
        (Level::RaidTp, 5, 1),
    ] {
        assert_eq!(refused(level, count, more), Ok(Answer::Expanding), "{level:?}");
    }
}

/// H36.
#[test]
fn nothing_begins_while_a_member_is_lost_or_check_data_is_computed() {
    let (mut group, mut disks) = settled(Level::Raid5, 3, 1);
    let lose = Event::FailMember {
        request: RequestId(2),
        member: MemberIndex(1),
        force: false,
    };
    run(&mut group, &mut disks, lose);
    let event = expand(&disks, 3);
    let actions = run(&mut group, &mut disks, event);
    assert_eq!(reply_of(&actions), Err(RequestError::NotHealthy));
    let (mut group, mut disks) = started(3); // Its check data was never computed.
    disks.push(Disk::new(DRIVE_BYTES));
    let event = expand(&disks, 3);
    let actions = run(&mut group, &mut disks, event);
    assert_eq!(reply_of(&actions), Err(RequestError::NotHealthy));
}

#[test]
fn a_new_drive_that_refuses_its_superblock_leaves_the_group_as_it_was() {
    for refuses in [3, 4] {
        let (mut group, mut disks) = settled(Level::Raid5, 3, 2);
        let event = expand(&disks, 3);
        let actions = run_with(&mut group, &mut disks, event, |drive| {
            if drive.0 == refuses {
                Err(DriveError::Gone)
            } else {
                Ok(())
            }
        });
        assert_eq!(reply_of(&actions), Err(RequestError::DriveRefused));
        assert!(layouts(&actions).is_empty(), "no engine hears of it");
        assert!(
            !actions
                .iter()
                .any(|action| matches!(action, Action::MemberDrive { .. }))
        );
        let snapshot = group.snapshot();
        assert_eq!((snapshot.state, snapshot.members.len()), (GroupState::Healthy, 3));
        // And it can be tried again with the drive that has a record by now.
        let other = usize::from(7 - refuses);
        let event = expand_with(vec![disks[other].facts(other)]);
        assert!(reply_of(&run(&mut group, &mut disks, event)).is_ok());
        let (group, _) = restart(&mut disks);
        assert_eq!(group.snapshot().members.len(), 4);
    }
}

/// An old member that is lost in the very update is lost, and the expansion waits for its rebuild.
#[test]
fn an_old_member_that_is_lost_meanwhile_does_not_undo_it() {
    let (mut group, mut disks) = settled(Level::Raid5, 3, 1);
    let event = expand(&disks, 3);
    let actions = run_with(&mut group, &mut disks, event, |drive| {
        if drive.0 == 1 {
            Err(DriveError::Gone)
        } else {
            Ok(())
        }
    });
    assert_eq!(reply_of(&actions), Ok(Answer::Expanding));
    assert_eq!(members_of(&actions).failed, 0b10);
    assert_eq!(group.expansion(), scratch(0, ScratchState::Clean));
}

/// What lies in the scratch area counts in the new layout: from then on both layouts decide what may be lost.
#[test]
fn new_members_may_be_lost_as_long_as_nothing_is_on_them() {
    let lose_new = |to: Option<u64>| {
        let (mut group, mut disks) = settled(Level::Raid5, 3, 2);
        let event = expand(&disks, 3);
        run(&mut group, &mut disks, event);
        if let Some(to) = to {
            run(
                &mut group,
                &mut disks,
                Event::ExpansionScratch(ScratchState::Holds { to }),
            );
        }
        for member in [3, 4].map(MemberIndex) {
            let error = DriveError::Gone;
            run(&mut group, &mut disks, Event::MemberFault { member, error });
        }
        group.snapshot().state
    };
    assert_eq!(lose_new(None), GroupState::Degraded);
    assert_eq!(
        lose_new(Some(1)),
        GroupState::Failed(FailReason::TooManyMembersLost)
    );
}

/// Cores are not told of what is in the scratch area, so that by their layout the group may survive what it does not: they get all
/// members as failed, or they would go on under a set that nobody made durable.
#[test]
fn a_group_that_fails_in_a_wave_is_failed_for_every_core() {
    let (mut group, mut disks) = settled(Level::Raid5, 3, 1);
    let event = expand(&disks, 3);
    let actions = run(&mut group, &mut disks, event);
    let (known, _) = layouts(&actions)[0];
    let holds = Event::ExpansionScratch(ScratchState::Holds { to: 1 });
    run(&mut group, &mut disks, holds);
    let mut actions = Vec::new();
    for member in [0, 3].map(MemberIndex) {
        let error = DriveError::Gone;
        actions = run(&mut group, &mut disks, Event::MemberFault { member, error });
    }
    let failed = actions.iter().find_map(|action| {
        if let Action::GroupFailed { members, .. } = action {
            Some(members.failed)
        } else {
            None
        }
    });
    assert_eq!(failed, Some(0b1111));
    assert!(
        known.survives(0b1001),
        "by what cores know these two might be missing"
    );
    assert!(!known.survives(0b1111));
}

/// H36: rows that are in the scratch area of a new member that is lost stay where they were, and the group goes on without it.
#[test]
fn nothing_is_made_to_depend_on_a_new_member_that_is_lost() {
    let (mut group, mut disks) = settled(Level::Raid0, 3, 2);
    let event = expand(&disks, 3);
    run(&mut group, &mut disks, event);
    let dirty = Event::ExpansionScratch(ScratchState::Dirty);
    run(&mut group, &mut disks, dirty);
    let (member, error) = (MemberIndex(4), DriveError::Gone);
    run(&mut group, &mut disks, Event::MemberFault { member, error });
    assert_eq!(group.snapshot().state, GroupState::Degraded);
    let holds = Event::ExpansionScratch(ScratchState::Holds { to: 1 });
    let actions = run(&mut group, &mut disks, holds);
    assert_eq!(
        layouts(&actions)[0].1,
        scratch(0, ScratchState::Dirty),
        "who carries the wave out is told"
    );
    assert_eq!(group.snapshot().state, GroupState::Degraded);
}

/// Rows that a wave has moved while a member was away are not among those that hosts have marked.
#[test]
fn who_is_away_while_rows_move_is_rebuilt_from_the_first_row() {
    let (mut group, mut disks) = settled(Level::Raid5, 3, 1);
    let event = expand(&disks, 3);
    run(&mut group, &mut disks, event);
    run(
        &mut group,
        &mut disks,
        Event::ExpansionScratch(ScratchState::Holds { to: 1 }),
    );
    let (member, error) = (MemberIndex(2), DriveError::Gone);
    run(&mut group, &mut disks, Event::MemberFault { member, error });
    run(&mut group, &mut disks, Event::ExpansionProgress { frontier: 1 });
    assert!(group.intent().unwrap().is_marked(crate::amf::RowIndex(0)));
    let candidate = found_replaying(&facts(&disks));
    assert_eq!(
        candidate.members[2].role,
        MemberRole::Returning { partial: false }
    );
}

/// What a start does that finds something in the scratch area: the machine `Restore` of `amf::expansion` has run by then.
fn restart_with_scratch(disks: &mut [Disk]) -> (Group, Vec<Action>) {
    while let Some(after) = restored(&found_replaying(&facts(disks))) {
        let mut group = Group::assembled(found_replaying(&facts(disks)));
        let actions = run(&mut group, disks, Event::Restored(after));
        assert!(actions.contains(&Action::Restored), "{actions:?}");
    }
    let mut group = Group::assembled(found_replaying(&facts(disks)));
    let opening = Opening {
        replay: Replay::Done { rows: 0 },
        ..Opening::WRITE_THROUGH
    };
    let actions = run(&mut group, disks, Event::Start(opening));
    (group, actions)
}

/// What a restore makes of what is in the scratch area: first in its place, then gone.
fn restored(candidate: &Candidate) -> Option<ExpansionRecord> {
    let expansion = candidate.record().expansion?;
    let (frontier, scratch) = match expansion.scratch {
        ScratchState::Clean => return None,
        ScratchState::Dirty => (expansion.frontier, ScratchState::Clean),
        ScratchState::Holds { to } => (to, ScratchState::Dirty),
    };
    Some(ExpansionRecord {
        frontier,
        scratch,
        ..expansion
    })
}

/// What a start finds that replays the journal.
fn found_replaying(facts: &[DriveFacts]) -> Candidate {
    let options = AssembleOptions {
        replays: true,
        ..AssembleOptions::default()
    };
    found_with(facts, &options).unwrap()
}

#[test]
fn what_was_restored_is_durable_before_the_group_opens() {
    for away in [None, Some(1), Some(3)] {
        let (mut group, mut disks) = settled(Level::Raid5, 3, 1);
        let event = expand(&disks, 3);
        run(&mut group, &mut disks, event);
        run(
            &mut group,
            &mut disks,
            Event::ExpansionScratch(ScratchState::Holds { to: 1 }),
        );
        drop(group); // Power goes.
        let here: Vec<DriveFacts> = facts(&disks)
            .into_iter()
            .filter(|facts| Some(facts.index) != away)
            .collect();
        let candidate = found_replaying(&here);
        let incarnation = candidate.record().journal;
        let mut group = Group::assembled(candidate);
        let after = restored(&found_replaying(&here)).unwrap();
        let actions = run(&mut group, &mut disks, Event::Restored(after));
        assert!(actions.contains(&Action::Restored));
        let again = found_replaying(&facts(&disks));
        assert_eq!(again.record().expansion, scratch(1, ScratchState::Dirty));
        assert_eq!(
            again.record().journal,
            incarnation,
            "the journal is still to be replayed"
        );
        assert!(!again.record().clean, "and the group was not closed");
        if let Some(away) = away {
            let role = again.members[usize::from(away)].role;
            assert_eq!(role, MemberRole::Returning { partial: false });
        }
    }
}

#[test]
#[should_panic(expected = "is put in its place before the start")]
fn nothing_is_opened_before_what_the_scratch_area_holds_is_restored() {
    let (mut group, mut disks) = settled(Level::Raid5, 3, 1);
    let event = expand(&disks, 3);
    run(&mut group, &mut disks, event);
    run(
        &mut group,
        &mut disks,
        Event::ExpansionScratch(ScratchState::Dirty),
    );
    restart(&mut disks);
}

/// A half-expanded group with members missing: both layouts decide.
#[test]
fn half_expanded_groups_start_without_what_both_layouts_survive() {
    let (mut group, mut disks) = settled(Level::Raid6, 4, 2);
    let event = expand(&disks, 4);
    run(&mut group, &mut disks, event);
    run(&mut group, &mut disks, Event::ExpansionProgress { frontier: 8 });
    run(&mut group, &mut disks, Event::Stop);
    for lost in 0u32..1 << 6 {
        let here: Vec<DriveFacts> = facts(&disks)
            .into_iter()
            .filter(|facts| lost >> facts.index & 1 == 0)
            .collect();
        if here.is_empty() {
            continue;
        }
        let verdict = found_with(&here, &AssembleOptions::default());
        let survives = lost.count_ones() <= 2 && (lost & 0b1111).count_ones() <= 2;
        let starts = match verdict {
            Ok(candidate) => {
                assert_eq!(
                    candidate.record().expansion.map(|expansion| expansion.frontier),
                    Some(8)
                );
                true
            }
            Err(_) => false,
        };
        assert_eq!(starts, survives, "without {lost:#08b}");
    }
}

/// Every state that a power cut can leave at any write of an expansion's life is one of the states between two updates, and every
/// one of them starts with every drive there.
#[test]
fn cut_at_every_write() {
    for (level, count, more) in [(Level::Raid5, 3, 2), (Level::Raid0, 2, 1), (Level::Raid10, 4, 2)] {
        for torn_bytes in [0, 2048, RECORD_BYTES] {
            let cuts = (0..)
                .take_while(|cut_at| cut(level, (count, more), *cut_at, torn_bytes))
                .count();
            assert!(cuts > 40, "the life has many writes: {cuts}");
        }
    }
}

/// Cuts one life at one write; false if that is beyond its end.
fn cut(level: Level, (count, more): (usize, usize), cut_at: usize, torn_bytes: usize) -> bool {
    let (mut group, mut disks) = settled(level, count, more);
    let (narrow, rows) = (group.snapshot().capacity_blocks, group.snapshot().rows);
    let events = [
        expand(&disks, count),
        Event::ExpansionScratch(ScratchState::Dirty),
        Event::ExpansionScratch(ScratchState::Holds { to: 1 }),
        Event::ExpansionProgress { frontier: 1 },
        Event::ExpansionScratch(ScratchState::Clean),
        Event::ExpansionProgress { frontier: rows - 2 },
        Event::ExpansionProgress { frontier: rows },
        Event::Stop,
    ];
    let (mut left, mut announced, mut answered) = (cut_at, None, false);
    let mut over = false;
    'life: for event in events {
        let mut actions = Vec::new();
        group.handle(event, &mut actions);
        while !actions.is_empty() {
            let action = actions.remove(0);
            if let Action::Layout { layout, expansion } = action {
                (announced, over) = (expansion.map(|_| layout.frontier()), expansion.is_none());
            }
            answered |= matches!(action, Action::Reply { .. });
            let Action::WriteSuperblock {
                io,
                drive,
                offset_bytes,
                record,
            } = action
            else {
                continue;
            };
            let bytes = if left == 0 { torn_bytes } else { RECORD_BYTES };
            disks[usize::from(drive)].at(offset_bytes)[..bytes].copy_from_slice(&record[..bytes]);
            if left == 0 {
                break 'life;
            }
            left -= 1;
            group.handle(Event::SuperblockWritten { io, result: Ok(()) }, &mut actions);
        }
    }
    let (group, actions) = restart_with_scratch(&mut disks);
    assert!(actions.contains(&Action::Started), "cut at write {cut_at}");
    assert_eq!(
        members_of(&actions).failed,
        0,
        "nobody is lost: cut at write {cut_at}"
    );
    let (expansion, snapshot) = (group.expansion(), group.snapshot());
    let width = count + more;
    match expansion {
        Some(expansion) => {
            assert!(!over && announced.is_none_or(|frontier| expansion.frontier >= frontier));
            assert_eq!(
                (snapshot.members.len(), snapshot.capacity_blocks),
                (width, narrow)
            );
        }
        None if snapshot.members.len() == count => assert!(announced.is_none() && !answered),
        None => assert!(
            snapshot.capacity_blocks > narrow && announced.is_none_or(|frontier| frontier >= rows - 2)
        ),
    }
    left == 0
}

/// Only rows behind the frontier have a place in the old layout: an engine that is opened half-way looks blocks up in both.
#[test]
fn a_start_goes_on_where_the_last_one_ended() {
    let (mut group, mut disks) = settled(Level::Raid0, 2, 1);
    let event = expand(&disks, 2);
    run(&mut group, &mut disks, event);
    run(&mut group, &mut disks, Event::ExpansionProgress { frontier: 9 });
    run(&mut group, &mut disks, Event::Stop);
    let (group, actions) = restart(&mut disks);
    assert!(
        layouts(&actions).is_empty(),
        "the caller has opened the engines with it"
    );
    let geometry: Geometry = group.geometry();
    assert_eq!((geometry.members(), group.layout().frontier()), (3, 9));
    assert!(group.scratch_area().is_some());
}
