//! Finding groups.

use super::*;
use crate::amf::ParityTrust;

#[test]
fn from_the_drives_alone_in_any_order() {
    let mut facts = facts(&stopped(4));
    facts.reverse();
    let candidate = found_with(&facts, &AssembleOptions::default()).unwrap();
    assert!(candidate.lost().is_empty());
    let group = Group::assembled(candidate);
    let drives: Vec<_> = (0..4).map(|member| group.drive_of(MemberIndex(member))).collect();
    assert_eq!(drives, [Some(0), Some(1), Some(2), Some(3)]);
}

#[test]
fn one_good_copy_is_enough_and_the_others_are_rewritten() {
    for keep in 0..COPIES {
        let mut disks = stopped(3);
        for copy in (0..COPIES).filter(|&copy| copy != keep) {
            disks[1].copy(copy)[77] ^= 1;
        }
        let (_, actions) = restart(&mut disks);
        assert_eq!(members_of(&actions).failed, 0, "copy {keep} is enough");
        assert!(actions.contains(&Action::Report(Report::CopiesRewritten {
            member: MemberIndex(1)
        })));
        assert!((0..COPIES).all(|copy| parse(disks[1].copy(copy)).is_ok()));
    }
}

#[test]
fn a_drive_from_the_past_is_not_read_before_it_is_rebuilt_h33() {
    let mut disks = stopped(3);
    let old = disks[2].clone();
    let gone = DriveFacts {
        existing: Found::Blank,
        ..disks[2].facts(2)
    };
    let facts = vec![disks[0].facts(0), disks[1].facts(1), gone];
    let mut group = Group::assembled(found_with(&facts, &AssembleOptions::default()).unwrap());
    run(&mut group, &mut disks, START);
    run(&mut group, &mut disks, Event::Stop);
    disks[2] = old;
    let candidate = found(&disks).unwrap();
    assert!(matches!(
        candidate.members[2].role,
        MemberRole::Returning { partial: false }
    ));
    let (group, actions) = restart(&mut disks);
    let set = members_of(&actions);
    assert_eq!((set.failed, set.rebuilding, set.rebuilt_rows), (0b100, 0b100, 0));
    assert_eq!(group.snapshot().members[2].status, MemberStatus::Rebuilding);
}

#[test]
fn a_member_that_failed_stays_failed_after_a_restart() {
    let (mut group, mut disks) = started(3);
    let error = DriveError::Media;
    let actions = run(
        &mut group,
        &mut disks,
        Event::MemberFault {
            member: MemberIndex(0),
            error,
        },
    );
    assert_eq!(members_of(&actions).failed, 1);
    assert_eq!(group.snapshot().state, GroupState::Degraded);
    run(&mut group, &mut disks, Event::Stop);
    let (group, actions) = restart(&mut disks);
    assert_eq!(members_of(&actions).failed, 1);
    let status = group.snapshot().members[0].status;
    assert!(matches!(status, MemberStatus::Lost(LossReason::Earlier { .. })));
}

#[test]
fn refuses_too_many_missing_and_names_them() {
    let disks = stopped(3);
    let error = found_with(&[disks[1].facts(1)], &AssembleOptions::default()).unwrap_err();
    assert!(matches!(&error, Refusal::TooManyLost { lost, .. } if lost.len() == 2));
    let text = error.to_string();
    assert!(
        text.contains("2 of 3 members") && text.contains("member 0") && text.contains("member 2"),
        "{text}"
    );
    assert!(text.contains(&uuid(0x11).to_string()), "names the drive: {text}");
}

#[test]
fn refuses_dirty_and_degraded_unless_accepted() {
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::ResyncDone);
    let facts = &facts(&disks)[..2];
    let error = found_with(facts, &AssembleOptions::default()).unwrap_err();
    assert!(matches!(error, Refusal::DirtyDegraded { .. }), "{error}");
    let mut group = Group::assembled(found_with(facts, &accepting()).unwrap());
    let actions = run(&mut group, &mut disks, START);
    assert!(actions.contains(&Action::Report(Report::DirtyDegradedAccepted)));
    let members = members_of(&actions);
    assert_eq!(
        (members.failed, members.parity),
        (0b100, ParityTrust::WhereWritten)
    );
}

#[test]
fn dirty_and_degraded_starts_again_and_again_once_accepted() {
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::ResyncDone);
    let error = DriveError::Gone;
    let member = MemberIndex(0);
    run(&mut group, &mut disks, Event::MemberFault { member, error });
    for _ in 0..3 {
        let (_, actions) = restart_accepting(&mut disks);
        assert!(actions.contains(&Action::Started));
    }
}

#[test]
fn dirty_and_complete_starts_with_untrusted_parity() {
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::ResyncDone);
    let (mut group, actions) = restart(&mut disks);
    assert!(!members_of(&actions).parity.regenerates());
    assert!(actions.contains(&Action::Report(Report::ResyncNeeded {
        from_row: 0,
        unclean: true
    })));
    let actions = run(&mut group, &mut disks, Event::ResyncDone);
    assert!(members_of(&actions).parity.is_everywhere());
    run(&mut group, &mut disks, Event::Stop);
    let (_, actions) = restart(&mut disks);
    assert!(members_of(&actions).parity.is_everywhere());
}

#[test]
fn a_resynchronisation_goes_on_where_a_clean_stop_left_it() {
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::ResyncProgress { next_row: 1 });
    run(&mut group, &mut disks, Event::ResyncProgress { next_row: 7 });
    run(&mut group, &mut disks, Event::Stop);
    let (mut group, actions) = restart(&mut disks);
    assert!(actions.contains(&Action::Report(Report::ResyncNeeded {
        from_row: 7,
        unclean: false
    })));
    run(&mut group, &mut disks, Event::ResyncProgress { next_row: 30 });
    // Not stopped: whatever was resynchronised may have been torn since.
    let (_, actions) = restart(&mut disks);
    assert!(actions.contains(&Action::Report(Report::ResyncNeeded {
        from_row: 0,
        unclean: true
    })));
}

#[test]
fn refuses_a_clone_of_a_drive() {
    let mut disks = stopped(3);
    disks.push(disks[1].clone());
    let error = found(&disks).unwrap_err();
    assert_eq!(
        error,
        Refusal::DuplicateDrive {
            first: "d1".into(),
            second: "d3".into()
        }
    );
}

#[test]
fn refuses_shared_and_exclusive_groups_in_the_wrong_place() {
    let disks = stopped(3);
    let options = AssembleOptions {
        shared: true,
        ..AssembleOptions::default()
    };
    assert_eq!(found_with(&facts(&disks), &options), Err(Refusal::ExclusiveLocal));
    let mut disks = super::disks(3);
    let shared = GroupSpec {
        exclusive_local: false,
        zeroed: false,
        ..spec(facts(&disks))
    };
    run(&mut Group::form(create(&shared).unwrap()), &mut disks, START);
    assert_eq!(found(&disks), Err(Refusal::Shared));
    assert!(found_with(&facts(&disks), &options).is_ok());
}

#[test]
fn refuses_two_groups_of_one_name_or_one_namespace() {
    let (mut group, mut first) = started(3);
    let create = |number| Event::CreateVdisk {
        request: REQUEST,
        spec: vdisk(number, VdiskSize::Blocks(1)),
    };
    run(&mut group, &mut first, create(1));
    for other_name in ["g0", "g1"] {
        let mut second = disks(3);
        let spec = GroupSpec {
            name: name(other_name),
            ..spec(facts(&second))
        };
        let mut group = Group::form(plan_create(&spec, &ids(0x60, 3)).unwrap());
        run(&mut group, &mut second, START);
        run(&mut group, &mut second, create(2));
        let all: Vec<Disk> = first.iter().chain(&second).cloned().collect();
        let groups = assemble(&facts(&all), &AssembleOptions::default()).groups;
        let refusals: Vec<_> = groups
            .into_iter()
            .filter_map(|group| group.outcome.err())
            .collect();
        if other_name == "g0" {
            assert!(matches!(
                refusals[..],
                [Refusal::NameTaken { .. }, Refusal::NameTaken { .. }]
            ));
        } else {
            assert_eq!(
                refusals,
                [Refusal::NsidTaken {
                    nsid: 1,
                    other: name("g0")
                }]
            );
        }
    }
}

#[test]
fn a_drive_that_shrank_or_has_larger_blocks_is_lost_and_one_that_grew_is_not() {
    let disks = stopped(3);
    for (bytes, logical_block, lost) in [
        (DRIVE_BYTES - 4096, 4096, true),
        (DRIVE_BYTES, 8192, true),
        (DRIVE_BYTES + 65536, 512, false),
    ] {
        let mut facts = facts(&disks);
        facts[1] = DriveFacts {
            bytes,
            logical_block,
            ..facts[1].clone()
        };
        let candidate = found_with(&facts, &AssembleOptions::default()).unwrap();
        let role = candidate.members[1].role;
        assert_eq!(role == MemberRole::Lost(LossReason::Unfit), lost);
        assert!(
            lost || candidate.members[1].rewrite,
            "the tail moved, so its copies are written anew"
        );
    }
}

#[test]
fn an_update_that_only_some_drives_took_is_completed() {
    let mut disks = stopped(3);
    let old: Vec<Disk> = disks[1..].to_vec();
    let (mut group, _) = restart(&mut disks);
    run(&mut group, &mut disks, Event::Stop);
    // Two updates since: drives 1 and 2 are too old now, and the group refuses rather than reads them.
    disks[1..].clone_from_slice(&old);
    assert!(matches!(found(&disks), Err(Refusal::TooManyLost { .. })));
    let mut disks = stopped(3);
    let old: Vec<Disk> = disks[1..].to_vec();
    let (_, _) = restart(&mut disks);
    disks[1..].clone_from_slice(&old);
    let (_, actions) = restart(&mut disks);
    assert_eq!(members_of(&actions).failed, 0);
    assert!(actions.contains(&Action::Report(Report::MemberRolledForward {
        member: MemberIndex(2)
    })));
}

#[test]
fn a_two_drive_group_does_not_start_on_the_half_that_may_be_older() {
    let mut creation = create(&spec(facts(&disks(3)))).unwrap();
    creation.record.members.truncate(2);
    creation.members.truncate(2);
    let mut disks = disks(2);
    let mut group = Group::form(creation);
    run(&mut group, &mut disks, START);
    run(&mut group, &mut disks, Event::ResyncDone);
    run(&mut group, &mut disks, Event::Stop);
    let half = [disks[1].facts(1)];
    let refused = found_with(&half, &AssembleOptions::default());
    assert!(matches!(refused, Err(Refusal::OthersMayBeNewer { .. })));
    assert!(found_with(&half, &accepting()).is_ok());
    // Whoever has it open, and is the only one to write its superblocks, would know. Found by `braid sim --nodes` (seed 1541): with a node and one of two
    // drives lost at once, the group was given up on the nodes that were left.
    let own = AssembleOptions {
        goes_on: true,
        ..AssembleOptions::default()
    };
    assert!(found_with(&half, &own).is_ok());
}

#[test]
fn halves_that_both_went_on_alone_are_refused() {
    let mut creation = create(&spec(facts(&disks(3)))).unwrap();
    creation.record.members.truncate(2);
    creation.members.truncate(2);
    let mut disks = disks(2);
    let mut group = Group::form(creation);
    run(&mut group, &mut disks, START);
    run(&mut group, &mut disks, Event::ResyncDone);
    run(&mut group, &mut disks, Event::Stop);
    for half in 0..2 {
        let candidate = found_with(&[disks[half].facts(half)], &accepting()).unwrap();
        let actions = run(&mut Group::assembled(candidate), &mut disks, START);
        assert!(actions.contains(&Action::Started));
    }
    assert!(matches!(found(&disks), Err(Refusal::Diverged { .. })));
}

#[test]
fn drives_that_are_no_members_get_a_sentence_each() {
    let mut disks = disks(4);
    disks[1].head[4096..4104].copy_from_slice(b"BRAIDSB1");
    disks[2].head[3] = 9;
    let mut facts = facts(&disks);
    facts[3].existing = examine(None, None);
    let assembly = assemble(&facts, &AssembleOptions::default());
    assert!(assembly.groups.is_empty());
    let sentences: Vec<String> = assembly
        .drives
        .iter()
        .map(|drive| drive.role.to_string())
        .collect();
    for (sentence, part) in sentences
        .iter()
        .zip(["blank", "all copies", "unknown kind", "cannot be read"])
    {
        assert!(sentence.contains(part), "{sentence}");
    }
}

fn generation(disk: &Disk) -> u64 {
    let Found::Braid(scan) = disk.facts(0).existing else {
        panic!("the drive is a member");
    };
    scan.superblock.record.generation
}

/// Starts on the present drives until all of `takers` have the first record, then cuts the power.
fn start_torn(disks: &mut [Disk], present: &[usize], takers: &[u16]) {
    let facts: Vec<DriveFacts> = present.iter().map(|&index| disks[index].facts(index)).collect();
    let mut group = Group::assembled(found_with(&facts, &AssembleOptions::default()).unwrap());
    let mut actions = Vec::new();
    group.handle(START, &mut actions);
    while let Some(action) = actions.pop() {
        let Action::WriteSuperblock {
            io,
            drive,
            offset_bytes,
            record,
        } = action
        else {
            continue;
        };
        if takers.contains(&drive) {
            disks[usize::from(drive)]
                .at(offset_bytes)
                .copy_from_slice(&record[..]);
            group.handle(Event::SuperblockWritten { io, result: Ok(()) }, &mut actions);
        }
    }
}

#[test]
fn of_two_starts_of_one_age_the_one_that_ended_counts() {
    let mut disks = stopped(3);
    start_torn(&mut disks, &[0, 2], &[0]);
    start_torn(&mut disks, &[1, 2], &[1, 2]);
    assert_eq!(
        generation(&disks[0]),
        generation(&disks[1]),
        "the two cannot be told by number"
    );
    let lost = found_with(&facts(&disks), &accepting()).unwrap().lost();
    assert_eq!(lost.iter().map(|lost| lost.member.0).collect::<Vec<_>>(), [0]);
}

#[test]
fn of_two_starts_of_one_age_that_both_broke_off_either_counts() {
    let mut disks = stopped(3);
    start_torn(&mut disks, &[0, 2], &[0]);
    start_torn(&mut disks, &[1, 2], &[1]);
    let (_, actions) = restart_accepting(&mut disks);
    assert_eq!(members_of(&actions).failed.count_ones(), 1, "{actions:?}");
    let candidate = found_with(&facts(&disks), &accepting()).unwrap();
    assert_eq!(candidate.record().failed_mask().count_ones(), 1);
}

#[test]
fn a_start_without_a_member_outnumbers_what_that_member_may_hold() {
    let mut disks = stopped(3);
    start_torn(&mut disks, &[0, 1, 2], &[0]);
    start_torn(&mut disks, &[1, 2], &[1, 2]);
    assert!(generation(&disks[1]) > generation(&disks[0]));
    // Even if the newest record of one of them rots away, the drive that was left out is not trusted.
    for copy in 0..COPIES {
        if parse(disks[1].copy(copy)).is_ok_and(|superblock| superblock.record.failed_mask() != 0) {
            disks[1].copy(copy)[9] ^= 1;
        }
    }
    let candidate = found_with(&facts(&disks), &accepting()).unwrap();
    assert_eq!(candidate.lost()[0].member, MemberIndex(0));
    assert_eq!(
        candidate.lost()[0].reason,
        LossReason::Stale {
            generation: candidate.record().previous + 1
        }
    );
}

#[test]
fn a_record_is_in_both_its_places_before_anything_is_built_upon_it() {
    for spoiled in 0..COPIES {
        let mut disks = stopped(3);
        let base = found(&disks).unwrap().record().generation;
        if parse(disks[1].copy(spoiled)).unwrap().record.generation != base {
            continue;
        }
        disks[1].copy(spoiled)[9] ^= 1;
        let mut group = Group::assembled(found(&disks).unwrap());
        let mut actions = Vec::new();
        group.handle(START, &mut actions);
        let first = actions.iter().find_map(|action| {
            let Action::WriteSuperblock { drive, record, .. } = action else {
                return None;
            };
            Some((*drive, parse(&record[..]).unwrap()))
        });
        let (member, superblock) = first.expect("something is written");
        assert_eq!((member, superblock.record.generation), (1, base));
    }
}
