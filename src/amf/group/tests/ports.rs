//! Virtual disks that several nodes serve: which of them do, and how one goes.

use super::*;
use crate::amf::superblock::PORTS_ALL;

/// Nodes of an array.
const NODES: SlotSet = SlotSet(0b111);

fn slot(number: u8) -> Slot {
    Slot::new(number).expect("an array has that slot")
}

fn change(nsid: u32, number: u8, change: PortChange) -> Event {
    Event::ChangeVdisk {
        request: REQUEST,
        nsid,
        change: VdiskChange::Port(slot(number), change),
    }
}

const fn delete(force: bool) -> PortChange {
    PortChange::Delete { nodes: NODES, force }
}

fn add(group: &mut Group, disks: &mut [Disk], spec: VdiskSpec) -> Result<VdiskRecord, RequestError> {
    let request = REQUEST;
    let answer = reply_of(&run(group, disks, Event::CreateVdisk { request, spec }))?;
    let Answer::VdiskCreated(vdisk) = answer else {
        panic!("{answer:?}")
    };
    Ok(vdisk)
}

/// What another node hears of a record.
fn told(leader: &Group) -> Event {
    let record = leader.durable_record().expect("it is announced");
    Event::Followed(Box::new(record.clone()))
}

fn follower(leader: &Group) -> Group {
    let record = leader.durable_record().expect("it is announced");
    let mut group = Group::followed(record.clone(), vec![None; record.members.len()]);
    run(&mut group, &mut [], told(leader));
    group
}

fn leave(nsid: u32) -> Event {
    Event::LeaveVdisk {
        request: REQUEST,
        nsid,
    }
}

/// What of it is about virtual disks.
fn about_disks(actions: Vec<Action>) -> Vec<Action> {
    let is_about_disks = |action: &Action| {
        matches!(
            action,
            Action::VdiskAdded(_)
                | Action::VdiskResized(_)
                | Action::VdiskChanged(_)
                | Action::VdiskRemoved { .. }
        )
    };
    actions.into_iter().filter(is_about_disks).collect()
}

/// CHECKLIST A10, A11: ports come and go durably, each once, and the last one only by force.
#[test]
fn ports_come_and_go_once_and_the_last_one_by_force() {
    let (mut group, mut disks) = started(3);
    let made = add(&mut group, &mut disks, vdisk(1, VdiskSize::Blocks(1))).unwrap();
    assert_eq!(made.ports, PORTS_ALL);
    let mut ask = |event| reply_of(&run(&mut group, &mut disks, event));
    assert_eq!(
        ask(change(1, 2, PortChange::Add)),
        Err(RequestError::PortExists(slot(2)))
    );
    assert_eq!(
        ask(change(9, 2, PortChange::Add)),
        Err(RequestError::NoSuchVdisk(9))
    );
    let without = |ports: SlotSet| {
        Ok(Answer::VdiskChanged(VdiskRecord {
            ports,
            ..made.clone()
        }))
    };
    assert_eq!(
        ask(change(1, 2, delete(false))),
        without(PORTS_ALL.without(slot(2)))
    );
    assert_eq!(
        ask(change(1, 2, delete(false))),
        Err(RequestError::NoSuchPort(slot(2)))
    );
    let left = PORTS_ALL.without(slot(2)).without(slot(0));
    assert_eq!(ask(change(1, 0, delete(false))), without(left));
    // Ports at nodes that there are not serve nobody.
    assert_eq!(
        ask(change(1, 1, delete(false))),
        Err(RequestError::LastPort(slot(1)))
    );
    assert_eq!(ask(change(1, 1, delete(true))), without(left.without(slot(1))));
    let (group, actions) = restart(&mut disks);
    assert_eq!(group.vdisks()[0].ports, left.without(slot(1)), "as it was kept");
    assert!(actions.contains(&Action::VdiskAdded(group.vdisks()[0].clone())));
}

/// CHECKLIST A10: whoever follows hears of each change of ports, with the size as it is by then.
#[test]
fn followers_hear_of_ports() {
    let (mut leader, mut disks) = started(3);
    add(&mut leader, &mut disks, vdisk(1, VdiskSize::Blocks(1))).unwrap();
    let mut group = follower(&leader);
    run(&mut leader, &mut disks, change(1, 1, delete(false)));
    let news = about_disks(run(&mut group, &mut [], told(&leader)));
    assert_eq!(news, [Action::VdiskChanged(leader.vdisks()[0].clone())]);
    run(&mut leader, &mut disks, change(1, 1, PortChange::Add));
    let size = VdiskSize::Blocks(7);
    let resize = Event::ResizeVdisk {
        request: REQUEST,
        nsid: 1,
        size,
    };
    run(&mut leader, &mut disks, resize);
    let now = leader.vdisks()[0].clone();
    let news = about_disks(run(&mut group, &mut [], told(&leader)));
    assert_eq!(
        news,
        [Action::VdiskResized(now.clone()), Action::VdiskChanged(now)]
    );
}

/// CHECKLIST A9: a virtual disk that other nodes serve is on its way out durably before any of them hears of it, and its blocks are free when all have drained.
#[test]
fn a_shared_virtual_disk_leaves_durably_and_gives_its_blocks_back_at_the_end() {
    let (mut leader, mut disks) = started(3);
    add(&mut leader, &mut disks, vdisk(1, VdiskSize::LargestFree)).unwrap();
    let mut group = follower(&leader);
    let generation = leader.members().unwrap().generation;
    let actions = run(&mut leader, &mut disks, leave(1));
    assert_eq!(leader.members().unwrap().generation, generation + 1);
    assert_eq!(about_disks(actions), [Action::VdiskRemoved { nsid: 1 }]);
    let news = about_disks(run(&mut group, &mut [], told(&leader)));
    assert_eq!(news, [Action::VdiskRemoved { nsid: 1 }]);
    let mut ask = |event| reply_of(&run(&mut leader, &mut disks, event));
    assert_eq!(ask(leave(1)), Err(RequestError::AlreadyLeaving(1)));
    assert_eq!(
        ask(change(1, 0, delete(false))),
        Err(RequestError::AlreadyLeaving(1))
    );
    let one_more = vdisk(2, VdiskSize::Blocks(1));
    assert!(
        add(&mut leader, &mut disks, one_more.clone()).is_err(),
        "its blocks are taken"
    );
    assert!(leader.snapshot().vdisks[0].leaving);
    let actions = run(&mut leader, &mut disks, Event::VdiskDrained { nsid: 1 });
    assert_eq!(reply_of(&actions), Ok(Answer::VdiskDeleted { nsid: 1 }));
    let again = run(&mut leader, &mut disks, Event::VdiskDrained { nsid: 1 });
    assert_eq!(again, [], "it is gone");
    assert!(about_disks(run(&mut group, &mut [], told(&leader))).is_empty());
    assert!(add(&mut leader, &mut disks, one_more).is_ok());
}

/// CHECKLIST A9: whoever leads next finishes what the last one had begun, and nobody begins to serve such a virtual disk.
#[test]
fn the_next_leader_finishes_a_deletion() {
    let (mut leader, mut disks) = started(3);
    add(&mut leader, &mut disks, vdisk(1, VdiskSize::Blocks(1))).unwrap();
    run(&mut leader, &mut disks, leave(1));
    let record = leader.durable_record().unwrap().clone();
    let drives = vec![None; record.members.len()];
    let mut late = Group::followed(record, drives);
    assert!(about_disks(run(&mut late, &mut [], told(&leader))).is_empty());
    let (mut next, actions) = restart(&mut disks);
    assert!(about_disks(actions).is_empty());
    assert!(next.vdisks()[0].leaving);
    let actions = run(&mut next, &mut disks, Event::VdiskDrained { nsid: 1 });
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Reply { .. })),
        "nobody asked"
    );
    assert!(next.vdisks().is_empty());
}
