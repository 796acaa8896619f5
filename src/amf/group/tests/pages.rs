//! Pages of reservations: on all members before anybody is answered, and on whoever takes a member's place before it counts.

use super::*;
use crate::amf::reserving::{PLACE_BYTES, Table, Version};
use crate::icl::Epoch;

/// A table of the virtual disk with this number, in the place of that number.
fn table(number: u8, pages: u64) -> Table {
    Table {
        version: Version {
            epoch: Epoch(1),
            count: pages,
        },
        place: Some(number),
        pages,
        ..Table::new(uuid(number))
    }
}

fn write(request: u64, table: &Table) -> Event {
    Event::PersistPage(PageWrite {
        request: RequestId(request),
        place: table.place.unwrap(),
        pages: table.pages,
        page: table.encode(),
    })
}

fn durable(request: u64) -> Action {
    Action::PageDurable {
        request: RequestId(request),
    }
}

/// What these drives say.
fn loaded(disks: &mut [Disk]) -> Vec<Table> {
    let candidate = found_with(&facts(disks), &accepting()).unwrap();
    candidate.load_pages(|drive, offset, bytes| {
        assert_eq!(bytes, PLACE_BYTES);
        let disk = &mut disks[usize::from(drive)];
        let mut copies = disk.at(offset).to_vec();
        copies.extend_from_slice(disk.at(offset + RECORD_BYTES as u64));
        Some(copies)
    })
}

/// A running group of three with two virtual disks.
fn reserved() -> (Group, Vec<Disk>) {
    let (mut group, mut disks) = started(3);
    run(&mut group, &mut disks, Event::ResyncDone);
    for number in [1, 2] {
        let spec = vdisk(number, VdiskSize::Blocks(16));
        let event = Event::CreateVdisk {
            request: REQUEST,
            spec,
        };
        reply_of(&run(&mut group, &mut disks, event)).unwrap();
    }
    (group, disks)
}

#[test]
fn the_newest_page_of_each_virtual_disk_is_found_again() {
    let (mut group, mut disks) = reserved();
    let pages = [table(1, 1), table(2, 1), table(1, 2), table(1, 3), table(7, 1)];
    for (request, page) in (10..).zip(&pages) {
        let actions = run(&mut group, &mut disks, write(request, page));
        assert_eq!(actions, [durable(request)]);
        assert!(group.is_quiet());
    }
    assert_eq!(
        loaded(&mut disks),
        [table(1, 3), table(2, 1)],
        "there is no disk 7"
    );
    for copy in disks.iter_mut().map(|disk| disk.at(page_offset(1, 3))) {
        copy[1000] ^= 1;
    }
    assert_eq!(
        loaded(&mut disks),
        [table(1, 2), table(2, 1)],
        "a torn one leaves the one before"
    );
}

#[test]
fn who_cannot_take_a_page_is_lost_before_anybody_is_answered() {
    let (mut group, mut disks) = reserved();
    let page = table(1, 1);
    let actions = run_with(&mut group, &mut disks, write(10, &page), |member| {
        if member == MemberIndex(1) {
            Err(DriveError::Gone)
        } else {
            Ok(())
        }
    });
    let lost = |action: &Action| matches!(action, Action::Members(set) if set.is_failed(MemberIndex(1)));
    let lost = actions.iter().position(lost).expect("it is lost");
    let answered = actions.iter().position(|action| *action == durable(10));
    assert!(answered.is_some_and(|answered| lost < answered), "{actions:?}");
    assert!(disks[1].pages.is_empty());
    assert_eq!(loaded(&mut disks), [page]);
}

#[test]
fn whoever_takes_a_place_has_the_pages() {
    let (mut group, mut disks) = reserved();
    run(&mut group, &mut disks, write(10, &table(1, 1)));
    // Another node has led until now.
    run(&mut group, &mut disks, Event::Stop);
    let tables = loaded(&mut disks);
    let mut group = Group::assembled(found(&disks).unwrap()).with_pages(&tables);
    run(&mut group, &mut disks, START);
    run(&mut group, &mut disks, write(11, &table(2, 1)));
    run(
        &mut group,
        &mut disks,
        Event::MemberFault {
            member: MemberIndex(0),
            error: DriveError::Media,
        },
    );
    disks.push(Disk::new(DRIVE_BYTES));
    let event = Event::ReplaceMember {
        request: REQUEST,
        member: MemberIndex(0),
        drive: Box::new(disks[3].facts(3)),
        identity: uuid(0x83),
        force: false,
    };
    let actions = run(&mut group, &mut disks, event);
    assert!(reply_of(&actions).is_ok(), "{actions:?}");
    for page in [table(1, 1), table(2, 1)] {
        let at = page_offset(page.place.unwrap(), page.pages);
        assert_eq!(disks[3].at(at), &page.encode()[..]);
    }
}
