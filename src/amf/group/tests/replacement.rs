//! Lost members' places: spares, drives that an operator gives, drives that come back; and what a rebuild leaves behind.

use super::*;
use crate::amf::ParityTrust;
use crate::amf::RowIndex;
use crate::amf::superblock::MemberState;

const MARKING: Event = Event::Start(Opening {
    lane_blocks_max: u32::MAX,
    lanes: 1,
    replay: Replay::Done { rows: 0 },
    marks_intent: true,
});

fn fault(member: u8) -> Event {
    Event::MemberFault {
        member: MemberIndex(member),
        error: DriveError::Media,
    }
}

fn add_spare(disk: &Disk, index: usize, force: bool) -> Event {
    Event::AddSpare {
        request: REQUEST,
        drive: Box::new(disk.facts(index)),
        identity: uuid(0x70 + u8::try_from(index).unwrap()),
        force,
    }
}

fn replace(member: u8, disk: &Disk, index: usize, force: bool) -> Event {
    Event::ReplaceMember {
        request: REQUEST,
        member: MemberIndex(member),
        drive: Box::new(disk.facts(index)),
        identity: uuid(0x80 + u8::try_from(index).unwrap()),
        force,
    }
}

fn work_of(actions: &[Action]) -> RebuildWork {
    let mut works = actions.iter().filter_map(|action| {
        let Action::RebuildNeeded(work) = action else {
            return None;
        };
        Some(*work)
    });
    works.next_back().expect("a rebuild was asked for")
}

/// A running group of three with trusted parity, and a fourth drive that is its spare.
fn with_spare() -> (Group, Vec<Disk>) {
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::ResyncDone);
    disks.push(Disk::new(DRIVE_BYTES));
    let event = add_spare(&disks[3], 3, false);
    let actions = run(&mut group, &mut disks, event);
    assert_eq!(reply_of(&actions), Ok(Answer::SpareAdded { spare: uuid(0x73) }));
    (group, disks)
}

fn assembled(disks: &[Disk]) -> Candidate {
    let options = AssembleOptions {
        replays: true,
        ..AssembleOptions::default()
    };
    found_with(&facts(disks), &options).unwrap()
}

/// Starts again, with the journal replayed, and the bitmap as the drives have it.
fn marking_start(disks: &mut [Disk]) -> (Group, Vec<Action>) {
    let candidate = assembled(disks);
    let read = |page: IntentPage| {
        let offset = usize::try_from(page.offset_bytes - HEAD_BYTES).unwrap();
        let bytes = &disks[usize::from(page.drive)].intent[offset..];
        Some(bytes[..RECORD_BYTES].to_vec())
    };
    let map = candidate.load_intent(read).expect("the level has redundancy");
    let mut group = Group::assembled(candidate).with_intent(map);
    let actions = run(&mut group, disks, MARKING);
    (group, actions)
}

#[test]
fn a_spare_takes_a_failed_members_place_once_the_failure_is_durable() {
    let (mut group, mut disks) = with_spare();
    let actions = run(&mut group, &mut disks, fault(1));
    let position = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted).expect("it happens");
    let failed = position(
        &|action| matches!(action, Action::Members(set) if (set.failed, set.rebuilding) == (0b10, 0)),
    );
    let moved = position(&|action| {
        *action
            == Action::MemberDrive {
                member: MemberIndex(1),
                drive: 3,
            }
    });
    let rebuilding = position(&|action| matches!(action, Action::Members(set) if set.rebuilding == 0b10));
    assert!(failed < moved && moved < rebuilding, "{actions:?}");
    let work = work_of(&actions);
    assert_eq!((work.members, work.from_row, work.partial), (0b10, 0, false));
    let snapshot = group.snapshot();
    assert_eq!(snapshot.members[1].status, MemberStatus::Rebuilding);
    assert_eq!((snapshot.members[1].drive, snapshot.spares.len()), (Some(3), 0));
    let actions = run(&mut group, &mut disks, Event::RebuildDone { wave: work.wave });
    let set = members_of(&actions);
    assert_eq!((set.failed, set.rebuilding, set.rebuilt_rows), (0, 0, 0));
    assert!(actions.contains(&Action::RebuildOver { wave: work.wave }));
    assert_eq!(group.snapshot().state, GroupState::Healthy);
    // The drive whose place was taken is no part of the group any more, and says so.
    run(&mut group, &mut disks, Event::Stop);
    let assembly = assemble(&facts(&disks), &AssembleOptions::default());
    assert!(matches!(assembly.drives[1].role, DriveRole::Former { .. }));
    assert!(assembly.groups[0].outcome.as_ref().unwrap().lost().is_empty());
}

#[test]
fn progress_of_a_rebuild_survives_a_restart_i12() {
    let (mut group, mut disks) = with_spare();
    let work = work_of(&run(&mut group, &mut disks, fault(1)));
    let progress = |rows| Event::RebuildProgress {
        wave: work.wave,
        rows,
    };
    let set = members_of(&run(&mut group, &mut disks, progress(7)));
    assert_eq!((set.rebuilding, set.rebuilt_rows), (0b10, 7));
    let (mut group, actions) = marking_start(&mut disks);
    let set = members_of(&actions);
    assert_eq!((set.failed, set.rebuilding, set.rebuilt_rows), (0b10, 0b10, 7));
    let work = work_of(&actions);
    assert_eq!((work.from_row, work.partial), (7, false));
    let done = members_of(&run(
        &mut group,
        &mut disks,
        Event::RebuildDone { wave: work.wave },
    ));
    assert_eq!(done.failed, 0);
}

/// What a rebuild says that is over must not count for the next one: its rows were on another drive.
#[test]
fn progress_of_a_rebuild_that_is_over_is_ignored() {
    let (mut group, mut disks) = with_spare();
    let first = work_of(&run(&mut group, &mut disks, fault(1)));
    disks.push(Disk::new(DRIVE_BYTES));
    let event = add_spare(&disks[4], 4, false);
    run(&mut group, &mut disks, event);
    let actions = run(&mut group, &mut disks, fault(1));
    let second = work_of(&actions);
    assert_ne!(first.wave, second.wave);
    assert!(actions.contains(&Action::RebuildOver { wave: first.wave }));
    let late = [
        Event::RebuildProgress {
            wave: first.wave,
            rows: 9,
        },
        Event::RebuildDone { wave: first.wave },
    ];
    for event in late {
        assert_eq!(run(&mut group, &mut disks, event), []);
    }
    let set = group.members().unwrap();
    assert_eq!((set.failed, set.rebuilding, set.rebuilt_rows), (0b10, 0b10, 0));
}

#[test]
fn a_second_loss_during_a_rebuild_ends_the_group_and_it_comes_back_whole() {
    let (mut group, mut disks) = with_spare();
    let work = work_of(&run(&mut group, &mut disks, fault(1)));
    run(
        &mut group,
        &mut disks,
        Event::RebuildProgress {
            wave: work.wave,
            rows: 7,
        },
    );
    let before = disks.clone();
    let actions = run(&mut group, &mut disks, fault(2));
    let why = FailReason::TooManyMembersLost;
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::GroupFailed { why: said, .. } if *said == why))
    );
    for (disk, before) in disks.iter().zip(&before) {
        assert!(
            disk.head == before.head && disk.tail == before.tail,
            "a failed group writes nothing"
        );
    }
    let (_, actions) = marking_start(&mut disks);
    let set = members_of(&actions);
    assert_eq!(
        (set.failed, set.rebuilt_rows),
        (0b10, 7),
        "the drive that erred is good again"
    );
}

#[test]
fn drives_that_cannot_take_a_place_are_refused() {
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::ResyncDone);
    disks.push(Disk::new(DRIVE_BYTES));
    let event = replace(0, &disks[3], 3, false);
    assert_eq!(
        reply_of(&run(&mut group, &mut disks, event)),
        Err(RequestError::NotLost(0))
    );
    run(&mut group, &mut disks, fault(0));
    let refused = |group: &mut Group, disks: &mut [Disk], facts: DriveFacts| {
        let event = Event::ReplaceMember {
            request: REQUEST,
            member: MemberIndex(0),
            drive: Box::new(facts),
            identity: uuid(0x90),
            force: false,
        };
        reply_of(&run(group, disks, event)).unwrap_err()
    };
    let good = disks[3].facts(3);
    let small = DriveFacts {
        bytes: DRIVE_BYTES - 4096,
        ..good.clone()
    };
    let needed = DRIVE_BYTES;
    assert_eq!(
        refused(&mut group, &mut disks, small),
        RequestError::DriveTooSmall {
            bytes: DRIVE_BYTES - 4096,
            needed
        }
    );
    let coarse = DriveFacts {
        logical_block: 8192,
        ..good.clone()
    };
    assert_eq!(
        refused(&mut group, &mut disks, coarse),
        RequestError::DriveBlock {
            logical_block: 8192,
            block: 4096
        }
    );
    let used = DriveFacts {
        in_use: true,
        left_out: false,
        ..good.clone()
    };
    assert_eq!(refused(&mut group, &mut disks, used), RequestError::DriveInUse);
    let unreadable = DriveFacts {
        existing: Found::Unreadable,
        ..good.clone()
    };
    assert_eq!(
        refused(&mut group, &mut disks, unreadable),
        RequestError::DriveUnreadable
    );
    let other = stopped(3);
    let foreign = DriveFacts {
        existing: other[1].facts(1).existing,
        ..good.clone()
    };
    let error = refused(&mut group, &mut disks, foreign);
    assert!(matches!(error, RequestError::DriveNotBlank { .. }), "{error}");
    let live = DriveFacts { index: 2, ..good };
    assert_eq!(refused(&mut group, &mut disks, live), RequestError::DriveInUse);
}

#[test]
fn a_drive_that_an_operator_gives_takes_the_place() {
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::ResyncDone);
    disks.push(Disk::new(DRIVE_BYTES));
    run(&mut group, &mut disks, fault(0));
    let event = replace(0, &disks[3], 3, false);
    let actions = run(&mut group, &mut disks, event);
    let answer = Answer::MemberReplaced {
        member: MemberIndex(0),
        partial: false,
    };
    assert_eq!(reply_of(&actions), Ok(answer));
    assert_eq!(group.drive_of(MemberIndex(0)), Some(3));
}

#[test]
fn a_new_drive_that_takes_no_superblock_leaves_the_member_lost() {
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::ResyncDone);
    run(&mut group, &mut disks, fault(0));
    disks.push(Disk::new(DRIVE_BYTES));
    let event = replace(0, &disks[3], 3, false);
    let verdict = |drive: MemberIndex| {
        if drive.0 == 3 {
            Err(DriveError::Media)
        } else {
            Ok(())
        }
    };
    let actions = run_with(&mut group, &mut disks, event, verdict);
    assert_eq!(reply_of(&actions), Err(RequestError::DriveRefused));
    let set = members_of(&actions);
    assert_eq!((set.failed, set.rebuilding), (1, 0));
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::RebuildNeeded(_)))
    );
}

#[test]
fn spares_are_known_again_wiped_when_removed_and_dropped_when_they_fail() {
    let (mut group, mut disks) = with_spare();
    run(&mut group, &mut disks, Event::Stop);
    let assembly = assemble(&facts(&disks), &AssembleOptions::default());
    assert!(matches!(assembly.drives[3].role, DriveRole::Spare { .. }));
    let (mut group, _) = marking_start(&mut disks);
    assert_eq!(group.snapshot().spares[0].drive, Some(3));
    let twice = add_spare(&disks[3], 3, false);
    assert_eq!(
        reply_of(&run(&mut group, &mut disks, twice)),
        Err(RequestError::DriveInUse)
    );
    let remove = |spare| Event::RemoveSpare {
        request: REQUEST,
        spare,
    };
    assert_eq!(
        reply_of(&run(&mut group, &mut disks, remove(uuid(1)))),
        Err(RequestError::NoSuchSpare)
    );
    let gone = reply_of(&run(&mut group, &mut disks, remove(uuid(0x73))));
    assert_eq!(gone, Ok(Answer::SpareRemoved { spare: uuid(0x73) }));
    assert_eq!(disks[3].facts(3).existing, Found::Blank);

    let event = add_spare(&disks[3], 3, false);
    run(&mut group, &mut disks, event);
    let spec = vdisk(1, VdiskSize::Blocks(1));
    let create = Event::CreateVdisk {
        request: REQUEST,
        spec,
    };
    let verdict = |drive: MemberIndex| {
        if drive.0 == 3 {
            Err(DriveError::Gone)
        } else {
            Ok(())
        }
    };
    let actions = run_with(&mut group, &mut disks, create, verdict);
    assert!(reply_of(&actions).is_ok(), "a spare does not hold up the others");
    assert!(actions.contains(&Action::Report(Report::SpareLost {
        spare: uuid(0x73),
        error: DriveError::Gone
    })));
    assert_eq!(
        (group.snapshot().spares.len(), group.members().unwrap().failed),
        (0, 0)
    );
}

#[test]
fn groups_without_redundancy_have_neither_spares_nor_replacements() {
    let (mut group, mut disks) = started_as(Level::Raid0, 2);
    disks.push(Disk::new(DRIVE_BYTES));
    for event in [add_spare(&disks[2], 2, false), replace(0, &disks[2], 2, false)] {
        assert_eq!(
            reply_of(&run(&mut group, &mut disks, event)),
            Err(RequestError::NoRedundancy)
        );
    }
}

/// Runs a group on two of three drives, marks rows, and stops it without a word.
fn run_without(disks: &mut [Disk], rows: &[u64]) -> Group {
    let (mut group, actions) = marking_start(&mut disks[..2]);
    assert_eq!(members_of(&actions).failed, 0b100);
    for row in rows {
        group.intent().unwrap().mark(RowIndex(*row));
    }
    let actions = run(&mut group, disks, Event::PersistIntent { request: REQUEST });
    assert_eq!(actions, [Action::IntentDurable { request: REQUEST }]);
    group
}

#[test]
fn a_drive_that_comes_back_gets_only_what_it_missed_h31_h33() {
    let mut disks = stopped(3);
    run_without(&mut disks, &[3, 20]);
    let (mut group, actions) = marking_start(&mut disks);
    let work = work_of(&actions);
    assert_eq!((work.members, work.from_row, work.partial), (0b100, 0, true));
    let map = group.intent().unwrap();
    let marked: Vec<u64> = (0..32).filter(|row| map.is_marked(RowIndex(*row))).collect();
    assert_eq!(marked, [3, 20]);
    let progress = Event::RebuildProgress {
        wave: work.wave,
        rows: 10,
    };
    run(&mut group, &mut disks, progress);
    // Power goes in the middle: the rest goes on where it was, with the same marks.
    let (mut group, actions) = marking_start(&mut disks);
    let work = work_of(&actions);
    assert_eq!((work.from_row, work.partial), (10, true));
    assert!(group.intent().unwrap().is_marked(RowIndex(20)));
    run(&mut group, &mut disks, Event::RebuildDone { wave: work.wave });
    let map = group.intent().unwrap();
    assert_eq!((map.marked_rows(), group.members().unwrap().failed), (0, 0));
}

#[test]
fn marks_that_nobody_kept_are_not_believed() {
    // The engines of the run without the drive did not mark.
    let mut disks = stopped(3);
    let mut group = Group::assembled(assembled(&disks[..2]));
    run(&mut group, &mut disks, START);
    assert!(!work_of(&marking_start(&mut disks).1).partial);
    // The drive is older than the marks.
    let mut disks = stopped(3);
    let old = disks[2].clone();
    let (mut group, _) = marking_start(&mut disks);
    run(&mut group, &mut disks, Event::Stop);
    run_without(&mut disks, &[3]);
    disks[2] = old;
    assert!(!work_of(&marking_start(&mut disks).1).partial);
    // The bitmap cannot be read.
    let mut disks = stopped(3);
    run_without(&mut disks, &[3]);
    let candidate = assembled(&disks);
    let map = candidate.load_intent(|_| None).unwrap();
    assert_eq!(map.marked_rows(), 32, "all rows count as written");
}

#[test]
fn a_torn_page_of_the_bitmap_has_a_whole_one_beside_it_or_stands_for_all_rows() {
    let mut disks = stopped(3);
    run_without(&mut disks, &[3]);
    disks[0].intent[100] ^= 1;
    let (group, _) = marking_start(&mut disks.clone());
    assert_eq!(group.intent().unwrap().marked_rows(), 1);
    disks[1].intent[4000] ^= 1;
    let (group, _) = marking_start(&mut disks);
    assert_eq!(group.intent().unwrap().marked_rows(), 32);
}

#[test]
fn nothing_is_said_to_be_durable_before_every_live_member_has_the_page() {
    let mut disks = stopped(3);
    let (mut group, _) = marking_start(&mut disks[..2]);
    group.intent().unwrap().mark(RowIndex(5));
    let mut actions = Vec::new();
    group.handle(Event::PersistIntent { request: REQUEST }, &mut actions);
    let page_io = |action: &Action| {
        let Action::WriteSuperblock { io, offset_bytes, .. } = action else {
            return None;
        };
        Some(*io).filter(|_| *offset_bytes == HEAD_BYTES)
    };
    let ios: Vec<SuperblockIo> = actions.drain(..).filter_map(|action| page_io(&action)).collect();
    assert_eq!(ios.len(), 2);
    group.handle(
        Event::SuperblockWritten {
            io: ios[0],
            result: Ok(()),
        },
        &mut actions,
    );
    // Marks that come while a page is written wait for the next one.
    group.intent().unwrap().mark(RowIndex(6));
    group.handle(
        Event::PersistIntent {
            request: RequestId(2),
        },
        &mut actions,
    );
    assert_eq!(actions, []);
    group.handle(
        Event::SuperblockWritten {
            io: ios[1],
            result: Ok(()),
        },
        &mut actions,
    );
    assert_eq!(actions[0], Action::IntentDurable { request: REQUEST });
    assert_eq!(
        actions.len(),
        3,
        "the second page is on its way to two drives: {actions:?}"
    );
}

/// The journal of the rows that a replay has written is void after the opening: their marks have to be on the drives before.
#[test]
fn marks_of_replayed_rows_are_durable_before_the_opening_h31() {
    let mut disks = stopped(3);
    let candidate = assembled(&disks[..2]);
    let map = candidate.load_intent(|_| None).unwrap();
    map.mark(RowIndex(9));
    let mut group = Group::assembled(candidate).with_intent(map);
    let mut actions = Vec::new();
    group.handle(MARKING, &mut actions);
    let is_page = |action: &Action| matches!(action, Action::WriteSuperblock { offset_bytes, .. } if *offset_bytes == HEAD_BYTES);
    assert!(
        actions
            .iter()
            .filter(|action| matches!(action, Action::WriteSuperblock { .. }))
            .all(is_page)
    );
    let mut opened = false;
    while !actions.is_empty() {
        for action in std::mem::take(&mut actions) {
            if let Action::WriteSuperblock {
                io,
                drive,
                offset_bytes,
                record,
            } = action
            {
                disks[usize::from(drive)]
                    .at(offset_bytes)
                    .copy_from_slice(&record[..]);
                group.handle(Event::SuperblockWritten { io, result: Ok(()) }, &mut actions);
            } else {
                opened |= action == Action::Started;
            }
        }
    }
    assert!(opened);
    assert!(group.intent().unwrap().is_marked(RowIndex(9)));
    let (group, actions) = marking_start(&mut disks);
    assert!(work_of(&actions).partial && group.intent().unwrap().is_marked(RowIndex(9)));
}

#[test]
fn a_start_cuts_the_journal_anew_and_voids_its_records() {
    let mut disks = stopped(3);
    let before = assembled(&disks).record().journal.unwrap();
    let (group, _) = marking_start(&mut disks);
    let after = group.journal().unwrap();
    assert_eq!(after.incarnation, before.incarnation + 1);
    assert_eq!(
        (after.start, after.blocks, after.lanes),
        (before.start, before.blocks, 1)
    );
    assert_eq!(assembled(&disks).record().journal, Some(after));
    let mut group = Group::assembled(assembled(&disks));
    let many = Event::Start(Opening {
        lanes: 16,
        ..Opening::WRITE_THROUGH
    });
    let actions = run(&mut group, &mut disks, many);
    let why = FailReason::JournalTooSmall(16);
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::GroupFailed { why: said, .. } if *said == why))
    );
}

#[test]
fn after_a_replay_an_unclean_stop_leaves_parity_trusted_even_degraded_h25_h27() {
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::ResyncDone);
    let (_, actions) = marking_start(&mut disks.clone());
    assert!(members_of(&actions).parity.is_everywhere());
    let (_, actions) = marking_start(&mut disks[..2]);
    let set = members_of(&actions);
    assert_eq!((set.failed, set.parity), (0b100, ParityTrust::Everywhere));
}

fn ram_group() -> (Group, Vec<Disk>) {
    let mut disks = disks(3);
    let spec = GroupSpec {
        durability: Durability::Ram,
        ..spec(facts(&disks))
    };
    let mut group = Group::form(create(&spec).unwrap());
    run(&mut group, &mut disks, START);
    run(&mut group, &mut disks, Event::ResyncDone);
    (group, disks)
}

#[test]
fn writes_in_memory_alone_are_durably_confessed_before_the_first_of_them_h45() {
    let (mut group, mut disks) = ram_group();
    let mut actions = Vec::new();
    group.handle(Event::RamDirty, &mut actions);
    assert!(!actions.contains(&Action::RamAllowed));
    while let Some(action) = actions.pop() {
        if let Action::WriteSuperblock {
            io,
            drive,
            offset_bytes,
            record,
        } = action
        {
            disks[usize::from(drive)]
                .at(offset_bytes)
                .copy_from_slice(&record[..]);
            group.handle(Event::SuperblockWritten { io, result: Ok(()) }, &mut actions);
        } else if action == Action::RamAllowed {
            break;
        }
    }
    assert!(disks.iter().all(|disk| {
        let Found::Braid(scan) = disk.facts(0).existing else {
            panic!("a member")
        };
        scan.superblock.record.dirty_ram
    }));
    assert_eq!(run(&mut group, &mut disks, Event::RamDirty), [Action::RamAllowed]);
    // Power goes.
    let options = AssembleOptions {
        replays: true,
        ..AssembleOptions::default()
    };
    assert_eq!(found_with(&facts(&disks), &options), Err(Refusal::LostWrites));
    let accepted = AssembleOptions {
        accept_lost_writes: vec![name("g0")],
        ..options
    };
    let mut group = Group::assembled(found_with(&facts(&disks), &accepted).unwrap());
    let actions = run(&mut group, &mut disks, MARKING);
    assert!(actions.contains(&Action::Report(Report::LostWritesAccepted)));
    assert!(!group.snapshot().dirty_ram);
}

#[test]
fn a_clean_stop_takes_the_confession_back_h45() {
    let (mut group, mut disks) = ram_group();
    assert_eq!(
        run(&mut group, &mut disks, Event::RamDirty).last(),
        Some(&Action::RamAllowed)
    );
    run(&mut group, &mut disks, Event::Stop);
    assert!(!assembled(&disks).record().dirty_ram);
}

#[test]
fn the_confession_is_taken_back_when_all_is_committed_and_made_again_when_it_is_needed_h45() {
    let (mut group, mut disks) = ram_group();
    for _ in 0..2 {
        let actions = run(&mut group, &mut disks, Event::RamDirty);
        assert_eq!(actions.last(), Some(&Action::RamAllowed));
        assert!(group.snapshot().dirty_ram);
        let actions = run(&mut group, &mut disks, Event::RamClean);
        assert_eq!(actions.last(), Some(&Action::RamCleared));
        assert!(!group.snapshot().dirty_ram);
    }
    // Power goes, and nothing is asked: nothing can be lost.
    assert!(!assembled(&disks).record().dirty_ram);
}

#[test]
fn a_member_pulled_while_the_group_ran_comes_back_by_itself_and_one_that_erred_does_not() {
    for (error, comes_back) in [(DriveError::Gone, true), (DriveError::Media, false)] {
        let mut disks = stopped(3);
        let (mut group, _) = marking_start(&mut disks);
        let member = MemberIndex(2);
        run(&mut group, &mut disks, Event::MemberFault { member, error });
        run(&mut group, &mut disks, Event::Stop);
        let (mut group, actions) = marking_start(&mut disks);
        let rebuilding = members_of(&actions).rebuilding;
        assert_eq!(rebuilding, if comes_back { 0b100 } else { 0 });
        if comes_back {
            assert!(work_of(&actions).partial);
            continue;
        }
        let own = replace(2, &disks[2].clone(), 2, false);
        let actions = run(&mut group, &mut disks, own);
        let answer = Answer::MemberReplaced {
            member,
            partial: true,
        };
        assert_eq!(reply_of(&actions), Ok(answer), "an operator may bring it back");
    }
}

/// A drive on which a full rebuild had got somewhere has garbage beyond: it starts from the first row, with all of them.
#[test]
fn a_half_rebuilt_drive_that_was_away_is_rebuilt_wholly() {
    let mut disks = stopped(3);
    let (mut group, _) = marking_start(&mut disks);
    disks.push(Disk::new(DRIVE_BYTES));
    let event = add_spare(&disks[3], 3, false);
    run(&mut group, &mut disks, event);
    let work = work_of(&run(&mut group, &mut disks, fault(1)));
    run(
        &mut group,
        &mut disks,
        Event::RebuildProgress {
            wave: work.wave,
            rows: 30,
        },
    );
    let away = disks[3].clone();
    disks[3] = Disk::new(DRIVE_BYTES);
    marking_start(&mut disks);
    disks[3] = away;
    let (_, actions) = marking_start(&mut disks);
    let work = work_of(&actions);
    assert_eq!((work.members, work.from_row, work.partial), (0b10, 0, false));
}

/// Power goes at every single write of a life with spare, failure, take-over, progress, end of the rebuild and marks.
#[test]
fn cut_at_every_write_of_a_replacement() {
    for torn_bytes in [0, 2048, RECORD_BYTES] {
        let mut cut_at = 0;
        while !replacement_cut_at(cut_at, torn_bytes) {
            cut_at += 1;
        }
        assert!(cut_at > 40, "the life has writes to be cut at: {cut_at}");
    }
}

/// What was announced before the power went.
#[derive(Default)]
struct Announced {
    lost: bool,
    rows: u64,
    rebuilt: bool,
}

impl Announced {
    fn hear(&mut self, set: MemberSet) {
        self.lost |= set.failed == 0b10;
        self.rows = if set.rebuilding == 0 { 0 } else { set.rebuilt_rows };
        self.rebuilt |= self.lost && set.failed == 0;
    }
}

/// The events of a life with a spare, a failure, marks, a rebuild and its end.
fn replacement_event(step: u64, group: &Group, spare: &Event) -> Event {
    let wave = group.snapshot().rebuild.map_or(0, |rebuild| rebuild.wave);
    match step {
        0 => MARKING,
        1 => spare.clone(),
        2 => fault(1),
        3 => {
            group.intent().unwrap().mark(RowIndex(4));
            Event::PersistIntent { request: REQUEST }
        }
        4 | 5 => Event::RebuildProgress {
            wave,
            rows: 10 * (step - 3),
        },
        _ => Event::RebuildDone { wave },
    }
}

/// Feeds one event and carries out its writes; false once power is gone.
fn live_on(
    group: &mut Group,
    disks: &mut [Disk],
    event: Event,
    (left, torn_bytes): (&mut u32, usize),
    announced: &mut Announced,
) -> bool {
    let mut actions = Vec::new();
    group.handle(event, &mut actions);
    while !actions.is_empty() {
        let action = actions.remove(0);
        if let Action::Members(set) = action {
            announced.hear(set);
        }
        let Action::WriteSuperblock {
            io,
            drive,
            offset_bytes,
            record,
        } = action
        else {
            continue;
        };
        let bytes = if *left == 0 { torn_bytes } else { RECORD_BYTES };
        disks[usize::from(drive)].at(offset_bytes)[..bytes].copy_from_slice(&record[..bytes]);
        if *left == 0 {
            return false;
        }
        *left -= 1;
        group.handle(Event::SuperblockWritten { io, result: Ok(()) }, &mut actions);
    }
    true
}

/// One life with a cut; true if the life ended before it.
fn replacement_cut_at(cut_at: u32, torn_bytes: usize) -> bool {
    let mut disks = stopped(3);
    disks.push(Disk::new(DRIVE_BYTES));
    let mut group = Group::assembled(assembled(&disks));
    let spare = add_spare(&disks[3], 3, false);
    let mut left = cut_at;
    let mut announced = Announced::default();
    let ended = (0..7).all(|step| {
        let event = replacement_event(step, &group, &spare);
        live_on(
            &mut group,
            &mut disks,
            event,
            (&mut left, torn_bytes),
            &mut announced,
        )
    });
    let (group, actions) = marking_start(&mut disks);
    assert!(
        actions.contains(&Action::Started),
        "cut at write {cut_at}: {actions:?}"
    );
    let set = members_of(&actions);
    let candidate = assembled(&disks);
    let line = candidate.record().members[1];
    assert!(
        !announced.rebuilt || set.failed == 0,
        "who was announced as rebuilt is"
    );
    assert!(
        !announced.lost || set.failed == 0b10 || line.drive == uuid(0x73),
        "who failed is active again only on another drive: {set:?}"
    );
    assert!(
        set.failed == 0 || set.rebuilt_rows >= announced.rows,
        "progress does not go back"
    );
    assert!(set.rebuilding == 0 || line.state == MemberState::Rebuilding);
    assert!(set.rebuilding == 0 || group.drive_of(MemberIndex(1)) == Some(3));
    ended
}

/// Pulled in the middle of a full rebuild, and plugged in again: it has the rows of the rebuild and garbage beyond.
#[test]
fn a_drive_pulled_during_its_full_rebuild_is_rebuilt_wholly() {
    let mut disks = stopped(3);
    let (mut group, _) = marking_start(&mut disks);
    disks.push(Disk::new(DRIVE_BYTES));
    let event = add_spare(&disks[3], 3, false);
    run(&mut group, &mut disks, event);
    let work = work_of(&run(&mut group, &mut disks, fault(1)));
    let progress = Event::RebuildProgress {
        wave: work.wave,
        rows: 30,
    };
    run(&mut group, &mut disks, progress);
    let pulled = Event::MemberFault {
        member: MemberIndex(1),
        error: DriveError::Gone,
    };
    run(&mut group, &mut disks, pulled);
    let (_, actions) = marking_start(&mut disks);
    let work = work_of(&actions);
    assert_eq!((work.members, work.from_row, work.partial), (0b10, 0, false));
}

/// The cores keep the frontier of a rebuild while they hear of nothing else: a new drive for the same member must not inherit it.
#[test]
fn a_place_is_filled_only_after_its_loss_was_announced() {
    let (mut group, mut disks) = started_as(Level::Raid6, 5);
    run(&mut group, &mut disks, Event::ResyncDone);
    for spare in [5, 6] {
        disks.push(Disk::new(DRIVE_BYTES));
        let event = add_spare(&disks[spare], spare, false);
        run(&mut group, &mut disks, event);
    }
    let work = work_of(&run(&mut group, &mut disks, fault(1)));
    let progress = Event::RebuildProgress {
        wave: work.wave,
        rows: 7,
    };
    run(&mut group, &mut disks, progress);
    // The drive under rebuild fails, and another one refuses the record that says so.
    let refuses = |drive: MemberIndex| {
        if drive.0 == 4 {
            Err(DriveError::Media)
        } else {
            Ok(())
        }
    };
    let actions = run_with(&mut group, &mut disks, fault(1), refuses);
    let sets = actions.iter().filter_map(|action| {
        let Action::Members(set) = action else { return None };
        Some((set.failed, set.rebuilding, set.rebuilt_rows))
    });
    let sets: Vec<_> = sets.collect();
    assert_eq!(
        sets[0],
        (0b10010, 0, 0),
        "both are out before either place is filled"
    );
    assert!(sets[1..].iter().all(|(_, _, rows)| *rows == 0), "{sets:?}");
}
