//! Groups at work.

use super::*;
use crate::amf::ParityTrust;

#[test]
fn not_clean_is_durable_everywhere_before_started_and_clean_comes_last() {
    let mut disks = stopped(3);
    let mut group = Group::assembled(found(&disks).unwrap());
    let mut actions = Vec::new();
    group.handle(START, &mut actions);
    let mut answered = 0;
    while let Some(at) = actions
        .iter()
        .position(|action| matches!(action, Action::WriteSuperblock { .. }))
    {
        assert!(!actions.contains(&Action::Started), "not before write {answered}");
        let Action::WriteSuperblock {
            io,
            drive,
            offset_bytes,
            record,
        } = actions.remove(at)
        else {
            unreachable!()
        };
        assert!(!parse(&record[..]).unwrap().record.clean);
        disks[usize::from(drive)]
            .at(offset_bytes)
            .copy_from_slice(&record[..]);
        group.handle(Event::SuperblockWritten { io, result: Ok(()) }, &mut actions);
        answered += 1;
    }
    assert!(actions.contains(&Action::Started));
    assert_eq!(answered, 6, "head and tail of three drives");
    let actions = run(&mut group, &mut disks, Event::Stop);
    assert_eq!(actions.last(), Some(&Action::Stopped { clean: true }));
    assert!(found(&disks).unwrap().record().clean);
}

#[test]
fn a_drive_that_cannot_take_the_superblock_is_out_before_anything_is_announced() {
    let mut disks = stopped(3);
    let mut group = Group::assembled(found(&disks).unwrap());
    let gone = |member: MemberIndex| {
        if member.0 == 2 {
            Err(DriveError::Gone)
        } else {
            Ok(())
        }
    };
    let actions = run_with(&mut group, &mut disks, START, gone);
    let sets: Vec<_> = actions
        .iter()
        .filter(|action| matches!(action, Action::Members(_)))
        .collect();
    assert_eq!(sets.len(), 1);
    assert_eq!(members_of(&actions).failed, 0b100);
    assert!(actions.contains(&Action::Started));
}

#[test]
fn a_second_loss_ends_the_group_and_is_not_written() {
    let (mut group, mut disks) = started(3);
    let fault = |member| Event::MemberFault {
        member: MemberIndex(member),
        error: DriveError::Gone,
    };
    run(&mut group, &mut disks, fault(0));
    let before: Vec<Vec<u8>> = disks.iter().map(|disk| disk.head.clone()).collect();
    let actions = run(&mut group, &mut disks, fault(1));
    let why = FailReason::TooManyMembersLost;
    let generation = group.members().unwrap().generation;
    let members = MemberSet {
        generation,
        failed: 0b11,
        parity: ParityTrust::Nowhere,
        rebuilding: 0,
        rebuilt_rows: 0,
    };
    assert!(actions.contains(&Action::GroupFailed { why, members }));
    assert!(
        disks
            .iter()
            .zip(&before)
            .all(|(disk, before)| disk.head == *before)
    );
    let actions = run(&mut group, &mut disks, fault(2));
    let members = MemberSet {
        generation: generation + 1,
        failed: 0b111,
        parity: ParityTrust::Nowhere,
        rebuilding: 0,
        rebuilt_rows: 0,
    };
    assert!(
        actions.contains(&Action::GroupFailed { why, members }),
        "engines that wait for it go on"
    );
    assert_eq!(
        run(&mut group, &mut disks, Event::Stop),
        [Action::Stopped { clean: false }]
    );
}

#[test]
fn a_loss_during_the_resynchronisation_after_a_crash_ends_the_group() {
    let (_, mut disks) = started(3);
    let (mut group, _) = restart(&mut disks);
    let fault = Event::MemberFault {
        member: MemberIndex(0),
        error: DriveError::Media,
    };
    let actions = run(&mut group, &mut disks, fault);
    let failed = |a: &Action| matches!(a, Action::GroupFailed { why: FailReason::ParityUntrusted, members } if members.failed == 0b111);
    assert!(actions.iter().any(failed));
}

#[test]
fn a_loss_during_the_first_resynchronisation_does_not() {
    let (mut group, mut disks) = started(3);
    let fault = Event::MemberFault {
        member: MemberIndex(0),
        error: DriveError::Media,
    };
    let members = members_of(&run(&mut group, &mut disks, fault));
    assert_eq!((members.failed, members.parity), (1, ParityTrust::WhereWritten));
    let members = members_of(&run(&mut group, &mut disks, Event::ResyncDone));
    assert_eq!((members.failed, members.parity), (1, ParityTrust::Everywhere));
}

#[test]
fn faults_during_an_update_are_merged_into_the_next() {
    let (mut group, _) = started(5);
    let mut actions = Vec::new();
    let spec = vdisk(1, VdiskSize::Blocks(1));
    group.handle(
        Event::CreateVdisk {
            request: REQUEST,
            spec,
        },
        &mut actions,
    );
    let fault = Event::MemberFault {
        member: MemberIndex(4),
        error: DriveError::Gone,
    };
    group.handle(fault.clone(), &mut actions);
    group.handle(fault, &mut actions);
    let generation = group.members().unwrap().generation;
    let mut sets = Vec::new();
    while !actions.is_empty() {
        for action in std::mem::take(&mut actions) {
            match action {
                Action::WriteSuperblock { io, .. } => {
                    group.handle(Event::SuperblockWritten { io, result: Ok(()) }, &mut actions);
                }
                Action::Members(set) => sets.push((set.generation - generation, set.failed)),
                Action::Reply { result, .. } => assert!(result.is_ok()),
                Action::Report(_) | Action::VdiskAdded(_) => {}
                other @ (Action::Started
                | Action::VdiskRemoved { .. }
                | Action::VdiskResized(_)
                | Action::VdiskChanged(_)
                | Action::Layout { .. }
                | Action::Restored
                | Action::GroupFailed { .. }
                | Action::MemberDrive { .. }
                | Action::RamAllowed
                | Action::RamCleared
                | Action::LanesOver(_)
                | Action::IntentDurable { .. }
                | Action::LostDurable { .. }
                | Action::PageDurable { .. }
                | Action::RebuildNeeded(_)
                | Action::RebuildOver { .. }
                | Action::Stopped { .. }) => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(sets, [(1, 0), (2, 0b10000)]);
}

#[test]
fn failing_a_member_by_hand_is_refused_if_data_would_be_lost() {
    let (mut group, mut disks) = started(3);
    let fail = |member, force| Event::FailMember {
        request: REQUEST,
        member: MemberIndex(member),
        force,
    };
    assert_eq!(
        reply_of(&run(&mut group, &mut disks, fail(3, false))),
        Err(RequestError::NoSuchMember(3))
    );
    let done = Ok(Answer::MemberFailed {
        member: MemberIndex(1),
    });
    assert_eq!(reply_of(&run(&mut group, &mut disks, fail(1, false))), done);
    assert_eq!(
        group.snapshot().members[1].status,
        MemberStatus::Lost(LossReason::Operator)
    );
    assert_eq!(
        reply_of(&run(&mut group, &mut disks, fail(1, false))),
        Err(RequestError::AlreadyLost(1))
    );
    let refused = reply_of(&run(&mut group, &mut disks, fail(2, false))).unwrap_err();
    assert_eq!(refused, RequestError::WouldLoseData(2));
    assert!(refused.to_string().contains("would lose its data"));
    let actions = run(&mut group, &mut disks, fail(2, true));
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::GroupFailed { .. }))
    );
}

#[test]
fn failing_a_member_by_hand_is_refused_while_its_group_resynchronises_after_a_crash() {
    let (_, mut disks) = started(3);
    let (mut group, _) = restart(&mut disks);
    let fail = Event::FailMember {
        request: REQUEST,
        member: MemberIndex(1),
        force: false,
    };
    assert_eq!(
        reply_of(&run(&mut group, &mut disks, fail)),
        Err(RequestError::Resynchronising(1))
    );
}

#[test]
fn requests_before_start_after_stop_and_beyond_the_limit_are_refused() {
    let mut disks = stopped(3);
    let mut group = Group::assembled(found(&disks).unwrap());
    let create = || Event::CreateVdisk {
        request: REQUEST,
        spec: vdisk(1, VdiskSize::Blocks(1)),
    };
    assert_eq!(
        reply_of(&run(&mut group, &mut disks, create())),
        Err(RequestError::NotOpen)
    );
    run(&mut group, &mut disks, START);
    let mut actions = Vec::new();
    for _ in 0..=REQUESTS_MAX {
        group.handle(create(), &mut actions);
    }
    let busy = Action::Reply {
        request: REQUEST,
        result: Err(RequestError::Busy),
    };
    assert_eq!(
        actions.iter().filter(|&action| *action == busy).count(),
        1,
        "64 are under way or wait"
    );
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::Stop);
    assert_eq!(
        reply_of(&run(&mut group, &mut disks, create())),
        Err(RequestError::NotOpen)
    );
}

#[test]
fn stop_before_start_and_during_start_end_in_order() {
    let mut disks = stopped(3);
    let mut group = Group::assembled(found(&disks).unwrap());
    assert_eq!(
        run(&mut group, &mut disks, Event::Stop),
        [Action::Stopped { clean: true }]
    );
    let mut group = Group::assembled(found(&disks).unwrap());
    let mut actions = Vec::new();
    group.handle(START, &mut actions);
    group.handle(Event::Stop, &mut actions);
    let mut last = None;
    while let Some(action) = actions.pop() {
        assert_ne!(action, Action::Started, "hosts are not let in for a moment only");
        if let Action::WriteSuperblock { io, .. } = action {
            group.handle(Event::SuperblockWritten { io, result: Ok(()) }, &mut actions);
        } else if matches!(action, Action::Stopped { .. }) {
            last = Some(action);
        }
    }
    assert_eq!(last, Some(Action::Stopped { clean: true }));
}
