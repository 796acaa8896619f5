//! Groups on drives in memory: every bad input by name, and power cuts at every write.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::amf::geometry::Level;
use crate::amf::superblock::{
    COPIES, HEAD_READ_BYTES, MemberState, ParityState, TAIL_READ_BYTES, copy_offsets, encode, examine, parse,
    tail_start,
};
use crate::drive::block::{BlockSize, GroupLba};

const DRIVE_BYTES: u64 = 4 << 20;

/// Head and tail regions of a drive in memory.
#[derive(Clone)]
struct Disk {
    bytes: u64,
    logical_block: u32,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Disk {
    fn new(bytes: u64) -> Self {
        Self {
            bytes,
            logical_block: 4096,
            head: vec![0; HEAD_READ_BYTES],
            tail: vec![0; TAIL_READ_BYTES],
        }
    }

    fn at(&mut self, offset: u64) -> &mut [u8] {
        let tail = tail_start(self.bytes).unwrap();
        let (region, start) = if offset >= tail {
            (&mut self.tail, tail)
        } else {
            (&mut self.head, 0)
        };
        &mut region[usize::try_from(offset - start).unwrap()..][..RECORD_BYTES]
    }

    fn copy(&mut self, copy: usize) -> &mut [u8] {
        let offset = copy_offsets(self.bytes).unwrap()[copy];
        self.at(offset)
    }

    fn facts(&self, index: usize) -> DriveFacts {
        DriveFacts {
            index: u16::try_from(index).unwrap(),
            label: format!("d{index}"),
            bytes: self.bytes,
            logical_block: self.logical_block,
            in_use: false,
            existing: examine(Some(&self.head), Some(&self.tail)),
        }
    }
}

fn disks(count: usize) -> Vec<Disk> {
    vec![Disk::new(DRIVE_BYTES); count]
}

fn facts(disks: &[Disk]) -> Vec<DriveFacts> {
    disks
        .iter()
        .enumerate()
        .map(|(index, disk)| disk.facts(index))
        .collect()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn uuid(number: u8) -> Uuid {
    Uuid([number; 16])
}

fn spec(drives: Vec<DriveFacts>) -> GroupSpec {
    GroupSpec {
        name: name("g0"),
        level: Level::Raid5,
        strip_bytes: 65536,
        block: BlockSize::B4096,
        exclusive_local: true,
        zeroed: false,
        force: false,
        drives,
    }
}

fn ids(seed: u8, count: usize) -> CreateIds {
    let drives = (1..).take(count).map(|drive| uuid(seed + drive)).collect();
    CreateIds {
        array: uuid(0xa0),
        group: uuid(seed),
        drives,
    }
}

fn create(spec: &GroupSpec) -> Result<Creation, CreateError> {
    plan_create(spec, &ids(0x10, spec.drives.len()))
}

fn vdisk(number: u8, size: VdiskSize) -> VdiskSpec {
    VdiskSpec {
        name: name(&format!("v{number}")),
        size,
        nsid: None,
        uuid: uuid(number),
        nguid: [number; 16],
    }
}

/// Carries out every write as it comes and returns all other actions.
fn run(group: &mut Group, disks: &mut [Disk], event: Event) -> Vec<Action> {
    run_with(group, disks, event, |_| Ok(()))
}

fn run_with(
    group: &mut Group,
    disks: &mut [Disk],
    event: Event,
    mut verdict: impl FnMut(MemberIndex) -> Result<(), DriveError>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut others = Vec::new();
    group.handle(event, &mut actions);
    while !actions.is_empty() {
        for action in std::mem::take(&mut actions) {
            let Action::WriteSuperblock {
                io,
                member,
                offset_bytes,
                record,
            } = action
            else {
                others.push(action);
                continue;
            };
            let result = verdict(member);
            if result.is_ok() {
                disks[usize::from(member.0)]
                    .at(offset_bytes)
                    .copy_from_slice(&record[..]);
            }
            group.handle(Event::SuperblockWritten { io, result }, &mut actions);
        }
    }
    others
}

fn found(disks: &[Disk]) -> Result<Candidate, Refusal> {
    found_with(&facts(disks), &AssembleOptions::default())
}

fn found_with(facts: &[DriveFacts], options: &AssembleOptions) -> Result<Candidate, Refusal> {
    let mut assembly = assemble(facts, options);
    assert_eq!(assembly.groups.len(), 1, "one group is on these drives");
    assembly.groups.remove(0).outcome
}

fn accepting() -> AssembleOptions {
    AssembleOptions {
        accept_dirty_degraded: vec![name("g0")],
        shared: false,
    }
}

/// A started group with its drives.
fn started(count: usize) -> (Group, Vec<Disk>) {
    let mut disks = disks(count);
    let mut group = Group::form(create(&spec(facts(&disks))).unwrap());
    let actions = run(&mut group, &mut disks, Event::Start);
    assert!(actions.contains(&Action::Started));
    (group, disks)
}

/// Drives of a group that was stopped in good order, with trusted parity.
fn stopped(count: usize) -> Vec<Disk> {
    let (mut group, mut disks) = started(count);
    run(&mut group, &mut disks, Event::ResyncDone);
    let actions = run(&mut group, &mut disks, Event::Stop);
    assert!(actions.contains(&Action::Stopped { clean: true }));
    disks
}

fn restart(disks: &mut [Disk]) -> (Group, Vec<Action>) {
    let mut group = Group::assembled(found(disks).unwrap());
    let actions = run(&mut group, disks, Event::Start);
    (group, actions)
}

fn members_of(actions: &[Action]) -> MemberSet {
    let sets = actions.iter().filter_map(|action| {
        if let Action::Members(set) = action {
            Some(*set)
        } else {
            None
        }
    });
    sets.last().expect("members were announced")
}

fn reply_of(actions: &[Action]) -> Result<Answer, RequestError> {
    let replies = actions.iter().filter_map(|a| {
        if let Action::Reply { result, .. } = a {
            Some(result.clone())
        } else {
            None
        }
    });
    let replies: Vec<_> = replies.collect();
    assert_eq!(replies.len(), 1, "one request has one reply");
    replies[0].clone()
}

const REQUEST: RequestId = RequestId(1);

mod creation {
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
        disks[1] = Disk::new((2 << 20) + 65536);
        assert_eq!(create(&spec(facts(&disks))).unwrap().record().rows, 1);
    }

    #[test]
    fn warns_of_sizes_that_differ_and_lets_the_smallest_decide() {
        let mut disks = disks(3);
        disks[2] = Disk::new(8 << 20);
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
        assert!(create(&spec(facts(&disks(32)))).is_ok());
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
                    ..spec(facts(&disks(3)))
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
        run(&mut group, &mut disks, Event::Start);
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
        run(&mut Group::form(creation), &mut other, Event::Start);
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
        let actions = run_with(&mut group, &mut disks, Event::Start, gone);
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
}

mod assembly {
    use super::*;

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
    fn a_stale_drive_is_lost_and_never_comes_back() {
        let mut disks = stopped(3);
        let old = disks[2].clone();
        let gone = DriveFacts {
            existing: Found::Blank,
            ..disks[2].facts(2)
        };
        let facts = vec![disks[0].facts(0), disks[1].facts(1), gone];
        let mut group = Group::assembled(found_with(&facts, &AssembleOptions::default()).unwrap());
        run(&mut group, &mut disks, Event::Start);
        run(&mut group, &mut disks, Event::Stop);
        disks[2] = old;
        let candidate = found(&disks).unwrap();
        assert!(matches!(
            candidate.members[2].role,
            MemberRole::Lost(LossReason::Stale { .. })
        ));
        let (_, actions) = restart(&mut disks);
        assert_eq!(members_of(&actions).failed, 0b100);
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
        let actions = run(&mut group, &mut disks, Event::Start);
        assert!(actions.contains(&Action::Report(Report::DirtyDegradedAccepted)));
        let members = members_of(&actions);
        assert_eq!((members.failed, members.parity_trusted), (0b100, true));
    }

    #[test]
    fn dirty_and_complete_starts_with_untrusted_parity() {
        let (mut group, mut disks) = started(3);
        run(&mut group, &mut disks, Event::ResyncDone);
        let (mut group, actions) = restart(&mut disks);
        assert!(!members_of(&actions).parity_trusted);
        assert!(actions.contains(&Action::Report(Report::ResyncNeeded {
            from_row: 0,
            unclean: true
        })));
        let actions = run(&mut group, &mut disks, Event::ResyncDone);
        assert!(members_of(&actions).parity_trusted);
        run(&mut group, &mut disks, Event::Stop);
        let (_, actions) = restart(&mut disks);
        assert!(members_of(&actions).parity_trusted);
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
        run(
            &mut Group::form(create(&shared).unwrap()),
            &mut disks,
            Event::Start,
        );
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
            run(&mut group, &mut second, Event::Start);
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
        run(&mut group, &mut disks, Event::Start);
        run(&mut group, &mut disks, Event::ResyncDone);
        run(&mut group, &mut disks, Event::Stop);
        let half = [disks[1].facts(1)];
        let refused = found_with(&half, &AssembleOptions::default());
        assert!(matches!(refused, Err(Refusal::OthersMayBeNewer { .. })));
        assert!(found_with(&half, &accepting()).is_ok());
    }

    #[test]
    fn halves_that_both_went_on_alone_are_refused() {
        let mut creation = create(&spec(facts(&disks(3)))).unwrap();
        creation.record.members.truncate(2);
        creation.members.truncate(2);
        let mut disks = disks(2);
        let mut group = Group::form(creation);
        run(&mut group, &mut disks, Event::Start);
        run(&mut group, &mut disks, Event::ResyncDone);
        run(&mut group, &mut disks, Event::Stop);
        for half in 0..2 {
            let candidate = found_with(&[disks[half].facts(half)], &accepting()).unwrap();
            let actions = run(&mut Group::assembled(candidate), &mut disks, Event::Start);
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
        for (sentence, part) in
            sentences
                .iter()
                .zip(["blank", "all copies", "unknown kind", "cannot be read"])
        {
            assert!(sentence.contains(part), "{sentence}");
        }
    }
}

mod running {
    use super::*;

    #[test]
    fn not_clean_is_durable_everywhere_before_started_and_clean_comes_last() {
        let mut disks = stopped(3);
        let mut group = Group::assembled(found(&disks).unwrap());
        let mut actions = Vec::new();
        group.handle(Event::Start, &mut actions);
        let mut answered = 0;
        while let Some(at) = actions
            .iter()
            .position(|action| matches!(action, Action::WriteSuperblock { .. }))
        {
            assert!(!actions.contains(&Action::Started), "not before write {answered}");
            let Action::WriteSuperblock {
                io,
                member,
                offset_bytes,
                record,
            } = actions.remove(at)
            else {
                unreachable!()
            };
            assert!(!parse(&record[..]).unwrap().record.clean);
            disks[usize::from(member.0)]
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
        let actions = run_with(&mut group, &mut disks, Event::Start, gone);
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
            parity_trusted: false,
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
            parity_trusted: false,
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
        assert_eq!((members.failed, members.parity_trusted), (1, true));
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
                    _ => {}
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
        run(&mut group, &mut disks, Event::Start);
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
        group.handle(Event::Start, &mut actions);
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
}

mod virtual_disks {
    use super::*;

    fn create(group: &mut Group, disks: &mut [Disk], spec: VdiskSpec) -> Result<VdiskRecord, RequestError> {
        let actions = run(
            group,
            disks,
            Event::CreateVdisk {
                request: REQUEST,
                spec,
            },
        );
        let added = actions
            .iter()
            .filter(|action| matches!(action, Action::VdiskAdded(_)))
            .count();
        match reply_of(&actions) {
            Ok(Answer::VdiskCreated(vdisk)) => {
                assert_eq!(added, 1);
                Ok(vdisk)
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(added, 0);
                Err(error)
            }
        }
    }

    fn delete(group: &mut Group, disks: &mut [Disk], nsid: u32) {
        let actions = run(
            group,
            disks,
            Event::DeleteVdisk {
                request: REQUEST,
                nsid,
            },
        );
        assert_eq!(
            actions,
            [Action::VdiskRemoved { nsid }],
            "nothing is freed before its commands have drained"
        );
        let actions = run(group, disks, Event::VdiskDrained { nsid });
        assert_eq!(reply_of(&actions), Ok(Answer::VdiskDeleted { nsid }));
    }

    #[test]
    fn take_whole_rows_first_fit_and_show_what_was_asked_for() {
        let (mut group, mut disks) = started(3); // 32 rows of 32 blocks
        let first = create(&mut group, &mut disks, vdisk(1, VdiskSize::Blocks(33))).unwrap();
        let second = create(&mut group, &mut disks, vdisk(2, VdiskSize::Blocks(320))).unwrap();
        let third = create(&mut group, &mut disks, vdisk(3, VdiskSize::Blocks(32))).unwrap();
        assert_eq!((first.nsid, first.start, first.blocks), (1, GroupLba(0), 33));
        assert_eq!((second.nsid, second.start, second.blocks), (2, GroupLba(64), 320));
        assert_eq!((third.nsid, third.start, third.blocks), (3, GroupLba(384), 32));
        delete(&mut group, &mut disks, 2);
        let reused = create(&mut group, &mut disks, vdisk(4, VdiskSize::Blocks(320))).unwrap();
        assert_eq!((reused.nsid, reused.start), (2, GroupLba(64)));
        let rest = create(&mut group, &mut disks, vdisk(5, VdiskSize::LargestFree)).unwrap();
        assert_eq!((rest.start, rest.blocks), (GroupLba(416), 1024 - 416));
        assert_eq!(group.snapshot().free_blocks, 0);
        let none = create(&mut group, &mut disks, vdisk(6, VdiskSize::LargestFree));
        assert_eq!(
            none,
            Err(RequestError::NoSpace {
                largest_free_blocks: 0
            })
        );
    }

    #[test]
    fn are_created_once() {
        let (mut group, mut disks) = started(3);
        create(&mut group, &mut disks, vdisk(1, VdiskSize::Blocks(1))).unwrap();
        let again = vdisk(1, VdiskSize::Blocks(1));
        assert_eq!(
            create(&mut group, &mut disks, again),
            Err(RequestError::NameTaken)
        );
        let same_nsid = VdiskSpec {
            nsid: Some(1),
            ..vdisk(2, VdiskSize::Blocks(1))
        };
        assert_eq!(
            create(&mut group, &mut disks, same_nsid),
            Err(RequestError::NsidTaken(1))
        );
        let same_uuid = VdiskSpec {
            uuid: uuid(1),
            ..vdisk(2, VdiskSize::Blocks(1))
        };
        assert_eq!(
            create(&mut group, &mut disks, same_uuid),
            Err(RequestError::Identity)
        );
        let same_nguid = VdiskSpec {
            nguid: [1; 16],
            ..vdisk(2, VdiskSize::Blocks(1))
        };
        assert_eq!(
            create(&mut group, &mut disks, same_nguid),
            Err(RequestError::Identity)
        );
    }

    #[test]
    fn of_impossible_size_or_number_are_refused() {
        let (mut group, mut disks) = started(3);
        let no_space = Err(RequestError::NoSpace {
            largest_free_blocks: 1024,
        });
        for blocks in [1025, u64::MAX] {
            assert_eq!(
                create(&mut group, &mut disks, vdisk(1, VdiskSize::Blocks(blocks))),
                no_space
            );
        }
        let empty = vdisk(1, VdiskSize::Blocks(0));
        assert_eq!(create(&mut group, &mut disks, empty), Err(RequestError::Empty));
        for nsid in [0, u32::MAX] {
            let spec = VdiskSpec {
                nsid: Some(nsid),
                ..vdisk(1, VdiskSize::Blocks(1))
            };
            assert_eq!(
                create(&mut group, &mut disks, spec),
                Err(RequestError::Nsid(nsid))
            );
        }
        for number in 1..=32 {
            create(&mut group, &mut disks, vdisk(number, VdiskSize::Blocks(1))).unwrap();
        }
        let one_more = vdisk(33, VdiskSize::Blocks(1));
        assert_eq!(
            create(&mut group, &mut disks, one_more),
            Err(RequestError::TooManyVdisks)
        );
    }

    #[test]
    fn that_do_not_exist_or_are_leaving_are_not_deleted() {
        let (mut group, mut disks) = started(3);
        create(&mut group, &mut disks, vdisk(1, VdiskSize::Blocks(1))).unwrap();
        let delete = |nsid| Event::DeleteVdisk {
            request: REQUEST,
            nsid,
        };
        assert_eq!(
            reply_of(&run(&mut group, &mut disks, delete(2))),
            Err(RequestError::NoSuchVdisk(2))
        );
        run(&mut group, &mut disks, delete(1));
        assert!(group.snapshot().vdisks[0].leaving);
        assert_eq!(
            reply_of(&run(&mut group, &mut disks, delete(1))),
            Err(RequestError::AlreadyLeaving(1))
        );
        let stop = run(&mut group, &mut disks, Event::Stop);
        assert_eq!(
            reply_of(&stop),
            Err(RequestError::NotOpen),
            "a deletion that did not happen is answered"
        );
        assert!(run(&mut group, &mut disks, Event::VdiskDrained { nsid: 1 }).is_empty());
    }

    #[test]
    fn survive_a_restart() {
        let (mut group, mut disks) = started(3);
        let made = create(&mut group, &mut disks, vdisk(1, VdiskSize::Blocks(100))).unwrap();
        let (_, actions) = restart(&mut disks);
        assert!(actions.contains(&Action::VdiskAdded(made)));
    }

    #[test]
    fn lowest_free_number() {
        assert_eq!(free_nsid([].into_iter()), Some(1));
        assert_eq!(free_nsid([3, 1, 1, 2].into_iter()), Some(4));
        assert_eq!(free_nsid([2, 3, u32::MAX].into_iter()), Some(1));
    }
}

mod power_cuts;
