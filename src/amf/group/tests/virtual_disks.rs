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

fn resize(
    group: &mut Group,
    disks: &mut [Disk],
    nsid: u32,
    size: VdiskSize,
) -> Result<VdiskRecord, RequestError> {
    let request = REQUEST;
    let actions = run(group, disks, Event::ResizeVdisk { request, nsid, size });
    let shown = actions.iter().find_map(|action| {
        if let Action::VdiskResized(vdisk) = action {
            Some(vdisk.clone())
        } else {
            None
        }
    });
    match reply_of(&actions) {
        Ok(Answer::VdiskResized(vdisk)) => {
            assert_eq!(shown, Some(vdisk.clone()), "hosts are told what was answered");
            Ok(vdisk)
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            assert_eq!(shown, None);
            Err(error)
        }
    }
}

#[test]
fn grow_where_they_are_and_stay_so() {
    let (mut group, mut disks) = started(3); // 32 rows of 32 blocks
    create(&mut group, &mut disks, vdisk(1, VdiskSize::Blocks(33))).unwrap();
    create(&mut group, &mut disks, vdisk(2, VdiskSize::Blocks(320))).unwrap();
    let grown = resize(&mut group, &mut disks, 1, VdiskSize::Blocks(64)).unwrap();
    assert_eq!(
        (grown.start, grown.blocks),
        (GroupLba(0), 64),
        "the rest of its own rows"
    );
    let grown = resize(&mut group, &mut disks, 2, VdiskSize::Blocks(321)).unwrap();
    assert_eq!((grown.start, grown.blocks), (GroupLba(64), 321));
    assert_eq!(group.snapshot().free_blocks, 1024 - 64 - 352);
    let all = resize(&mut group, &mut disks, 2, VdiskSize::LargestFree).unwrap();
    assert_eq!(all.blocks, 1024 - 64);
    let (group, actions) = restart(&mut disks);
    assert!(actions.contains(&Action::VdiskAdded(all)));
    assert_eq!(group.snapshot().free_blocks, 0);
}

#[test]
fn neither_shrink_nor_grow_over_others() {
    let (mut group, mut disks) = started(3);
    create(&mut group, &mut disks, vdisk(1, VdiskSize::Blocks(33))).unwrap();
    create(&mut group, &mut disks, vdisk(2, VdiskSize::LargestFree)).unwrap();
    let behind = |blocks_max| Err(RequestError::NoSpaceBehind { blocks_max });
    for blocks in [0, 1, 32, 33] {
        let shrunk = resize(&mut group, &mut disks, 1, VdiskSize::Blocks(blocks));
        assert_eq!(shrunk, Err(RequestError::Shrinks { blocks: 33 }));
    }
    for blocks in [65, 1024, u64::MAX] {
        let over = resize(&mut group, &mut disks, 1, VdiskSize::Blocks(blocks));
        assert_eq!(over, behind(64));
    }
    for size in [
        VdiskSize::LargestFree,
        VdiskSize::Blocks(961),
        VdiskSize::Blocks(u64::MAX),
    ] {
        assert_eq!(resize(&mut group, &mut disks, 2, size), behind(960));
    }
    let unknown = resize(&mut group, &mut disks, 3, VdiskSize::Blocks(100));
    assert_eq!(unknown, Err(RequestError::NoSuchVdisk(3)));
    let request = RequestId(2);
    run(&mut group, &mut disks, Event::DeleteVdisk { request, nsid: 2 });
    let leaving = resize(&mut group, &mut disks, 2, VdiskSize::LargestFree);
    assert_eq!(leaving, Err(RequestError::AlreadyLeaving(2)));
}
