//! Creating groups.

use super::*;

#[test]
fn writes_four_copies_on_every_drive_and_starts() {
    let (group, mut disks) = started(3);
    for disk in &mut disks {
        for copy in 0..COPIES {
            assert!(parse(disk.copy(copy)).is_ok(), "copy {copy} is good");
        }
    }
    let snapshot = group.snapshot();
    assert_eq!(snapshot.state, GroupState::Healthy);
    assert_eq!((snapshot.rows, snapshot.capacity_blocks), (32, 32 * 2 * 16));
    assert_eq!(
        snapshot.resync,
        Some(ResyncSnapshot {
            next_row: 0,
            rows: 32,
            unclean: false
        })
    );
}

#[test]
fn refuses_a_drive_that_is_too_small() {
    let mut disks = disks(3);
    disks[1] = Disk::new((2 << 20) + 65535);
    let error = create(&spec(facts(&disks))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "drive d1 has 2162687 bytes, at least 2162688 are needed: use a larger drive"
    );
    let least = (2 << 20) + 65536 + 4096 + JOURNAL_BYTES;
    disks[1] = Disk::new(least);
    assert_eq!(create(&spec(facts(&disks))).unwrap().record().rows, 1);
    disks[1] = Disk::new(least - 4096);
    let error = create(&spec(facts(&disks))).unwrap_err();
    assert!(
        matches!(error, CreateError::Journal { given: JOURNAL_BYTES, most, .. } if most == JOURNAL_BYTES - 4096),
        "{error}"
    );
}

#[test]
fn warns_of_sizes_that_differ_and_lets_the_smallest_decide() {
    let mut disks = disks(3);
    disks[2] = Disk::new(DRIVE_BYTES + (4 << 20));
    let creation = create(&spec(facts(&disks))).unwrap();
    assert_eq!(creation.record().rows, 32);
    assert_eq!(
        creation.warnings,
        [Warning::Unused {
            label: "d2".into(),
            unused_bytes: 4 << 20
        }]
    );
}

#[test]
fn refuses_a_drive_that_is_given_twice() {
    let mut facts = facts(&disks(3));
    facts[2].label = "d0".into();
    assert_eq!(
        create(&spec(facts.clone())),
        Err(CreateError::DriveTwice { label: "d0".into() })
    );
    facts[2].label = "other".into();
    facts[2].index = 0;
    assert_eq!(
        create(&spec(facts)),
        Err(CreateError::DriveTwice {
            label: "other".into()
        })
    );
}

#[test]
fn refuses_too_few_and_too_many_drives() {
    let few = create(&spec(facts(&disks(2)))).unwrap_err();
    assert_eq!(
        few,
        CreateError::TooFewDrives {
            level: Level::Raid5,
            needed: 3,
            given: 2
        }
    );
    let many = create(&spec(facts(&disks(33)))).unwrap_err();
    assert_eq!(many, CreateError::TooManyDrives { given: 33 });
    let wide = spec(facts(&vec![Disk::new(64 << 20); 32]));
    let journal_bytes = None;
    assert!(
        create(&GroupSpec {
            journal_bytes,
            ..wide
        })
        .is_ok()
    );
}

#[test]
fn refuses_a_strip_that_is_no_power_of_two_or_no_multiple_of_the_block() {
    for strip_bytes in [0, 1, 512, 2048, 4097, 12288, 2 << 20, u32::MAX] {
        let spec = GroupSpec {
            strip_bytes,
            ..spec(facts(&disks(3)))
        };
        assert_eq!(
            create(&spec),
            Err(CreateError::Strip {
                strip_bytes,
                block_bytes: 4096
            })
        );
    }
    for strip_bytes in [4096, 65536, 1 << 20] {
        assert!(
            create(&GroupSpec {
                strip_bytes,
                journal_bytes: None,
                ..spec(facts(&vec![Disk::new(64 << 20); 3]))
            })
            .is_ok()
        );
    }
}

#[test]
fn refuses_a_drive_of_another_group_unless_forced() {
    let disks = stopped(3);
    let error = create(&spec(facts(&disks))).unwrap_err();
    assert!(
        error.to_string().starts_with("drive d0 belongs to group g0"),
        "{error}"
    );
    let forced = create(&GroupSpec {
        force: true,
        ..spec(facts(&disks))
    })
    .unwrap();
    assert_eq!(forced.warnings.len(), 3);
}

#[test]
fn force_leaves_nothing_of_the_old_group_or_of_a_file_system() {
    let mut disks = stopped(3);
    disks[0].head[1080..1082].copy_from_slice(&[0x53, 0xef]);
    disks[0].head[15000] = 1;
    let spec = GroupSpec {
        force: true,
        ..spec(facts(&disks))
    };
    let mut group = Group::form(plan_create(&spec, &ids(0x40, 3)).unwrap());
    run(&mut group, &mut disks, START);
    assert_eq!(disks[0].head[..4096], [0; 4096]);
    assert_eq!(disks[0].head[12288..], [0; 4096]);
    for disk in &mut disks {
        for copy in 0..COPIES {
            assert_eq!(parse(disk.copy(copy)).unwrap().record.group, uuid(0x40));
        }
    }
}

#[test]
fn refuses_a_drive_in_use_even_if_forced() {
    let mut facts = facts(&disks(3));
    facts[1].in_use = true;
    let spec = GroupSpec {
        force: true,
        ..spec(facts)
    };
    assert_eq!(create(&spec), Err(CreateError::InUse { label: "d1".into() }));
}

#[test]
fn refuses_two_groups_on_one_drive() {
    let mut disks = stopped(3);
    let mut other = super::disks(3);
    let creation = plan_create(&spec(facts(&other)), &ids(0x50, 3)).unwrap();
    run(&mut Group::form(creation), &mut other, START);
    let copy = other[0].copy(0).to_vec();
    disks[0].copy(0).copy_from_slice(&copy);
    assert!(matches!(disks[0].facts(0).existing, Found::Mixed { .. }));
    let error = create(&spec(facts(&disks))).unwrap_err();
    assert_eq!(error, CreateError::TwoGroups { label: "d0".into() });
    let role = assemble(&facts(&disks), &AssembleOptions::default())
        .drives
        .remove(0)
        .role;
    assert!(role.to_string().contains("two groups"), "{role}");
}

#[test]
fn refuses_foreign_and_unreadable_drives() {
    let mut disks = disks(3);
    disks[0].head[..4].copy_from_slice(b"XFSB");
    let error = create(&spec(facts(&disks))).unwrap_err();
    assert!(
        error.to_string().contains("carries an XFS file system"),
        "{error}"
    );
    let mut facts = facts(&super::disks(3));
    facts[0].existing = Found::Unreadable;
    let forced = GroupSpec {
        force: true,
        ..spec(facts)
    };
    assert_eq!(
        create(&forced),
        Err(CreateError::Unreadable { label: "d0".into() })
    );
}

#[test]
fn refuses_blocks_smaller_than_a_drives_and_warns_of_larger_ones() {
    let mut disks = disks(3);
    let small = GroupSpec {
        block: BlockSize::B512,
        ..spec(facts(&disks))
    };
    assert!(matches!(create(&small), Err(CreateError::BlockTooSmall { .. })));
    disks[0].logical_block = 512;
    let warnings = create(&spec(facts(&disks))).unwrap().warnings;
    assert_eq!(
        warnings,
        [Warning::Torn {
            label: "d0".into(),
            logical_block: 512,
            block_bytes: 4096
        }]
    );
}

#[test]
fn interrupted_creation_is_never_started_and_may_be_repeated() {
    let mut disks = disks(3);
    let mut group = Group::form(create(&spec(facts(&disks))).unwrap());
    let gone = |member: MemberIndex| {
        if member.0 == 1 {
            Err(DriveError::Gone)
        } else {
            Ok(())
        }
    };
    let actions = run_with(&mut group, &mut disks, START, gone);
    assert!(actions.iter().any(|a| matches!(
        a,
        Action::GroupFailed {
            why: FailReason::CreationFailed,
            ..
        }
    )));
    assert!(!actions.contains(&Action::Started));
    assert!(matches!(found(&disks), Err(Refusal::CreationInterrupted { lost }) if lost.len() == 1));
    assert!(create(&spec(facts(&disks))).unwrap().warnings.is_empty());
}
