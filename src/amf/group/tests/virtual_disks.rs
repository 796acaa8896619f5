//! Virtual disks of a group.

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
    for number in 1..=28 {
        create(&mut group, &mut disks, vdisk(number, VdiskSize::Blocks(1))).unwrap();
    }
    let one_more = vdisk(29, VdiskSize::Blocks(1));
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
