//! Groups without redundancy, of one member and of several.

use super::*;
use crate::amf::ParityTrust;
use crate::amf::superblock::ParityState;

const WIDTHS: std::ops::RangeInclusive<usize> = 1..=4;

fn is_resync(action: &Action) -> bool {
    matches!(action, Action::Report(Report::ResyncNeeded { .. }))
}

fn fault(member: u8) -> Event {
    Event::MemberFault {
        member: MemberIndex(member),
        error: DriveError::Media,
    }
}

#[test]
fn one_drive_and_more_make_a_group_with_nothing_to_resynchronise() {
    for width in WIDTHS {
        let mut disks = disks(width);
        let creation = create(&spec_of(Level::Raid0, facts(&disks))).unwrap();
        assert_eq!(creation.record().parity, ParityState::Trusted);
        let mut group = Group::form(creation);
        let actions = run(&mut group, &mut disks, START);
        assert!(actions.contains(&Action::Started) && !actions.iter().any(is_resync));
        let set = members_of(&actions);
        assert_eq!((set.failed, set.parity), (0, ParityTrust::Everywhere));
        let snapshot = group.snapshot();
        assert_eq!((snapshot.state, snapshot.resync), (GroupState::Healthy, None));
        // A sixteenth is kept for the first rows of an expansion.
        let usable = DRIVE_BYTES - (2 << 20);
        let rows = (usable - usable / 16 / 65536 * 65536) / 65536;
        assert_eq!(snapshot.capacity_blocks, rows * 16 * width as u64);
    }
}

#[test]
fn no_drive_and_too_many_make_none() {
    let none = create(&spec_of(Level::Raid0, Vec::new())).unwrap_err();
    assert_eq!(
        none.to_string(),
        "raid0 needs 1 or more drives, 0 are given: add drives"
    );
    let many = create(&spec_of(Level::Raid0, facts(&disks(33))));
    assert_eq!(many, Err(CreateError::TooManyDrives { given: 33 }));
    assert!(create(&spec_of(Level::Raid0, facts(&disks(32)))).is_ok());
}

#[test]
fn a_stop_in_order_and_a_crash_are_both_followed_by_a_whole_group() {
    for width in WIDTHS {
        let (mut group, mut disks) = started_as(Level::Raid0, width);
        let spec = vdisk(1, VdiskSize::LargestFree);
        let request = REQUEST;
        assert!(reply_of(&run(&mut group, &mut disks, Event::CreateVdisk { request, spec })).is_ok());
        for clean in [false, true] {
            if clean {
                let actions = run(&mut group, &mut disks, Event::Stop);
                assert!(actions.contains(&Action::Stopped { clean: true }));
            }
            let actions;
            (group, actions) = restart(&mut disks);
            assert!(actions.contains(&Action::Started) && !actions.iter().any(is_resync));
            let set = members_of(&actions);
            assert_eq!((set.failed, set.parity), (0, ParityTrust::Everywhere));
            assert_eq!((group.vdisks().len(), group.snapshot().resync), (1, None));
        }
    }
}

/// Whatever the operator accepts: a part of the data is not there.
#[test]
fn a_group_that_misses_a_drive_is_not_started() {
    for width in 2..=4 {
        let disks = stopped_as(Level::Raid0, width);
        for away in 0..width {
            let mut facts = facts(&disks);
            facts.remove(away);
            for options in [AssembleOptions::default(), accepting()] {
                let refusal = found_with(&facts, &options).unwrap_err();
                let Refusal::TooManyLost {
                    members,
                    survives,
                    lost,
                } = refusal
                else {
                    panic!("{refusal}");
                };
                assert_eq!((members, survives, lost.len()), (width, 0, 1));
                assert_eq!(usize::from(lost[0].member.0), away);
            }
        }
    }
}

/// A member that was left behind by more than one update has old data, and there is no other copy.
#[test]
fn a_drive_with_an_old_record_is_not_taken_for_the_member() {
    let old = stopped_as(Level::Raid0, 2);
    let mut disks = old.clone();
    for _ in 0..2 {
        let (mut group, _) = restart(&mut disks);
        run(&mut group, &mut disks, Event::Stop);
    }
    disks[1] = old[1].clone();
    let refusal = found_with(&facts(&disks), &accepting()).unwrap_err();
    let Refusal::TooManyLost { lost, .. } = refusal else {
        panic!("{refusal}");
    };
    assert!(matches!(lost[0].reason, LossReason::Stale { .. }));
}

/// Nothing is written, so that all members count again when the drive comes back.
#[test]
fn the_first_loss_ends_the_group_and_is_not_written() {
    for width in WIDTHS {
        let (mut group, mut disks) = started_as(Level::Raid0, width);
        let before: Vec<Vec<u8>> = disks.iter().map(|disk| disk.head.clone()).collect();
        let member = u8::try_from(width - 1).unwrap();
        let actions = run(&mut group, &mut disks, fault(member));
        let ended = |action: &Action| {
            matches!(action, Action::GroupFailed { why: FailReason::TooManyMembersLost, members }
                if members.failed == 1 << member)
        };
        assert!(actions.iter().any(ended));
        assert!(
            disks
                .iter()
                .zip(&before)
                .all(|(disk, before)| disk.head == *before)
        );
        let (_, actions) = restart(&mut disks);
        assert!(actions.contains(&Action::Started));
        assert_eq!(members_of(&actions).failed, 0);
    }
}

#[test]
fn an_operator_takes_a_member_out_by_force_only() {
    for width in WIDTHS {
        let (mut group, mut disks) = started_as(Level::Raid0, width);
        let fail = |force| Event::FailMember {
            request: REQUEST,
            member: MemberIndex(0),
            force,
        };
        assert_eq!(
            reply_of(&run(&mut group, &mut disks, fail(false))),
            Err(RequestError::WouldLoseData(0))
        );
        assert_eq!(group.snapshot().state, GroupState::Healthy);
        let actions = run(&mut group, &mut disks, fail(true));
        assert!(
            actions
                .iter()
                .any(|action| matches!(action, Action::GroupFailed { .. }))
        );
        assert_eq!(reply_of(&actions), Err(RequestError::GroupFailed));
    }
}

#[test]
fn creation_that_was_interrupted_is_never_started() {
    let mut disks = disks(2);
    let mut group = Group::form(create(&spec_of(Level::Raid0, facts(&disks))).unwrap());
    let gone = |member: MemberIndex| {
        if member.0 == 1 {
            Err(DriveError::Gone)
        } else {
            Ok(())
        }
    };
    let actions = run_with(&mut group, &mut disks, START, gone);
    assert!(!actions.contains(&Action::Started));
    assert!(matches!(found(&disks), Err(Refusal::CreationInterrupted { .. })));
}
