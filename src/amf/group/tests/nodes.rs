//! Groups that several nodes have open: one leads, the others follow, and another one takes over.

use super::*;

/// Drives as a node reaches them, by their places.
fn reached(disks: &[Disk]) -> Vec<Option<(u16, String, u64)>> {
    let facts = facts(disks).into_iter();
    facts
        .map(|facts| Some((facts.index, facts.label, facts.bytes)))
        .collect()
}

/// What a leader tells others at this moment, as it arrives.
fn told(leader: &Group) -> Box<GroupRecord> {
    let record = leader.durable_record().expect("it is announced");
    let bytes = crate::amf::superblock::encode_shared(record);
    Box::new(crate::amf::superblock::parse_shared(&bytes[..]).expect("it is read as it was written"))
}

fn over(lanes: u32, below: u64) -> LanesOver {
    LanesOver { lanes, below }
}

fn floors(group: &Group) -> Vec<u64> {
    group.journal().expect("it has one").floors.to_vec()
}

const TAKING: Opening = Opening {
    lanes: 3,
    lane_blocks_max: u32::MAX,
    replay: Replay::Done { rows: 2 },
    marks_intent: false,
};

fn lane_opening(lanes: u16) -> Event {
    Event::Start(Opening { lanes, ..TAKING })
}

/// A group that some node has open with four lanes.
fn open_elsewhere() -> (Group, Vec<Disk>) {
    let mut disks = stopped(3);
    let mut group = Group::assembled(found(&disks).unwrap());
    let actions = run(&mut group, &mut disks, lane_opening(4));
    assert!(actions.contains(&Action::Started));
    (group, disks)
}

/// PROTOCOL H19, H31: whoever takes over leaves the journal as it is, because others write to it; what the node that is gone had there is over.
#[test]
fn taking_over_keeps_the_journal_and_ends_the_lanes_of_the_node_that_is_gone() {
    let (gone, mut disks) = open_elsewhere();
    let before = gone.journal().unwrap();
    drop(gone);
    let mut group = Group::assembled(found(&disks).unwrap());
    let take_over = TakeOver {
        opening: TAKING,
        over: over(0b1_0010, 900),
    };
    let actions = run(&mut group, &mut disks, Event::TakeOver(take_over));
    assert!(actions.contains(&Action::Started));
    assert_eq!(members_of(&actions).failed, 0);
    let record = found(&disks).unwrap().record().clone();
    assert!(!record.clean && record.parity == crate::amf::superblock::ParityState::Trusted);
    let after = record.journal.unwrap();
    assert_eq!(group.journal(), Some(after));
    assert_eq!(after.floors[..6], [0, 900, 0, 0, 900, 0]);
    assert_eq!(
        after,
        crate::amf::superblock::JournalRecord {
            floors: after.floors,
            ..before
        }
    );
    // The next start of all cuts it anew.
    run(&mut group, &mut disks, Event::Stop);
    let mut group = Group::assembled(found(&disks).unwrap());
    run(&mut group, &mut disks, lane_opening(2));
    let anew = group.journal().unwrap();
    assert_eq!((anew.incarnation, anew.lanes), (before.incarnation + 1, 2));
    assert_eq!(anew.floors, [0; 17]);
}

#[test]
fn a_leader_that_goes_on_makes_lanes_that_are_over_durable_before_it_says_so() {
    let (mut group, mut disks) = open_elsewhere();
    let mut written = 0;
    let first = over(0b10, 70);
    let mut actions = Vec::new();
    group.handle(Event::LanesOver(first), &mut actions);
    while let Some(at) = actions
        .iter()
        .position(|action| matches!(action, Action::WriteSuperblock { .. }))
    {
        assert!(
            !actions.contains(&Action::LanesOver(first)),
            "not before write {written}"
        );
        let Action::WriteSuperblock {
            io,
            drive,
            offset_bytes,
            record,
        } = actions.remove(at)
        else {
            unreachable!()
        };
        disks[usize::from(drive)]
            .at(offset_bytes)
            .copy_from_slice(&record[..]);
        group.handle(Event::SuperblockWritten { io, result: Ok(()) }, &mut actions);
        written += 1;
    }
    assert!(actions.contains(&Action::LanesOver(first)));
    assert_eq!(written, 6, "head and tail of three drives");
    assert_eq!(
        found(&disks).unwrap().record().journal.unwrap().floors[..3],
        [0, 70, 0]
    );
    // Once more is no news, and a lower one neither.
    for again in [over(0b10, 70), over(0b10, 3)] {
        let generation = group.members().unwrap().generation;
        assert_eq!(
            run(&mut group, &mut disks, Event::LanesOver(again)),
            [Action::LanesOver(again)]
        );
        assert_eq!(group.members().unwrap().generation, generation);
    }
    let more = run(&mut group, &mut disks, Event::LanesOver(over(0b1_0001, 90)));
    assert!(more.contains(&Action::LanesOver(over(0b1_0001, 90))));
    assert_eq!(floors(&group)[..5], [90, 70, 0, 0, 90]);
    // Of a member that refuses it nothing is said before its loss is durable.
    let gone = |member: MemberIndex| {
        if member.0 == 2 {
            Err(DriveError::Gone)
        } else {
            Ok(())
        }
    };
    let last = over(0b100, 95);
    let actions = run_with(&mut group, &mut disks, Event::LanesOver(last), gone);
    let at = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
    let loss = at(&|action| matches!(action, Action::Members(set) if set.failed == 0b100));
    assert!(loss < at(&|action| *action == Action::LanesOver(last)));
}

/// PROTOCOL H02, H19: whoever was left out of a replay counts as lost before anything else goes on, also where another one was lost before.
#[test]
fn a_leader_that_goes_on_loses_all_that_were_left_out_before_it_is_quiet() {
    let mut disks = stopped_as(Level::Raid6, 5);
    let mut group = Group::assembled(found(&disks).unwrap());
    let actions = run(&mut group, &mut disks, lane_opening(2));
    assert!(actions.contains(&Action::Started), "{actions:?}");
    let first = Event::LeftOut { members: 0b10 };
    run(&mut group, &mut disks, first);
    assert_eq!((group.is_quiet(), group.members().unwrap().failed), (true, 0b10));
    let mut actions = Vec::new();
    group.handle(Event::LeftOut { members: 0b1_0010 }, &mut actions);
    assert!(!group.is_quiet(), "its loss is not durable");
    carry_out(&mut group, &mut disks, actions, |_| Ok(()));
    assert_eq!(
        (group.is_quiet(), group.members().unwrap().failed),
        (true, 0b1_0010)
    );
    // Who was left out and is lost already is no news.
    let again = Event::LeftOut { members: 0b1_0010 };
    assert_eq!(run(&mut group, &mut disks, again), []);
}

#[test]
fn lanes_are_over_in_an_open_group_only() {
    let mut disks = stopped(3);
    let mut group = Group::assembled(found(&disks).unwrap());
    assert_eq!(run(&mut group, &mut disks, Event::LanesOver(over(1, 5))), []);
    run(&mut group, &mut disks, START);
    assert_eq!(floors(&group), [0; 17]);
}

/// A follower says what the leader has said, after it, and nothing else.
#[test]
fn a_group_is_followed_step_by_step() {
    let (mut leader, mut disks) = open_elsewhere();
    run(
        &mut leader,
        &mut disks,
        Event::CreateVdisk {
            request: REQUEST,
            spec: vdisk(1, VdiskSize::Blocks(5)),
        },
    );
    let mut group = Group::followed(*told(&leader), reached(&disks));
    assert_eq!((group.members(), group.durable_record()), (None, None));
    assert_eq!(group.snapshot().state, GroupState::Opening);
    let set = leader.members().unwrap();
    let vdisks = leader.vdisks().to_vec();
    let first = run(&mut group, &mut [], Event::Followed(told(&leader)));
    let expected = [
        Action::Members(set),
        Action::Report(Report::Durable(set)),
        Action::Started,
        Action::VdiskAdded(vdisks[0].clone()),
    ];
    assert_eq!(first, expected);
    assert_eq!(group.snapshot().state, GroupState::Healthy);
    assert_eq!(
        (group.members(), group.journal()),
        (leader.members(), leader.journal())
    );
    assert_eq!(
        run(&mut group, &mut [], Event::Followed(told(&leader))),
        [],
        "that is known"
    );
    let old = told(&leader);
    follow_virtual_disks(&mut leader, &mut disks, &mut group);
    assert_eq!(
        run(&mut group, &mut [], Event::Followed(old)),
        [],
        "nobody goes back"
    );
    assert_eq!(group.vdisks(), leader.vdisks());
}

/// The first virtual disk goes, another one comes and grows.
fn follow_virtual_disks(leader: &mut Group, disks: &mut [Disk], group: &mut Group) {
    let blocks = leader.vdisks()[0].blocks + 9;
    run(
        leader,
        disks,
        Event::CreateVdisk {
            request: REQUEST,
            spec: vdisk(2, VdiskSize::Blocks(5)),
        },
    );
    run(
        leader,
        disks,
        Event::DeleteVdisk {
            request: REQUEST,
            nsid: 1,
        },
    );
    run(leader, disks, Event::VdiskDrained { nsid: 1 });
    let grown = VdiskSize::Blocks(blocks);
    run(
        leader,
        disks,
        Event::ResizeVdisk {
            request: REQUEST,
            nsid: 2,
            size: grown,
        },
    );
    let set = leader.members().unwrap();
    let news = run(group, &mut [], Event::Followed(told(leader)));
    let expected = [
        Action::Members(set),
        Action::Report(Report::Durable(set)),
        Action::VdiskRemoved { nsid: 1 },
        Action::VdiskAdded(leader.vdisks()[0].clone()),
    ];
    assert_eq!(news, expected);
    assert_eq!(run(group, &mut [], Event::VdiskDrained { nsid: 1 }), []);
    run(
        leader,
        disks,
        Event::ResizeVdisk {
            request: REQUEST,
            nsid: 2,
            size: VdiskSize::LargestFree,
        },
    );
    let news = run(group, &mut [], Event::Followed(told(leader)));
    assert_eq!(
        news.last(),
        Some(&Action::VdiskResized(leader.vdisks()[0].clone()))
    );
}

#[test]
fn a_follower_hears_of_members_from_its_leader_alone() {
    let (mut leader, mut disks) = open_elsewhere();
    let mut group = Group::followed(*told(&leader), reached(&disks));
    run(&mut group, &mut [], Event::Followed(told(&leader)));
    let fault = Event::MemberFault {
        member: MemberIndex(1),
        error: DriveError::Gone,
    };
    assert_eq!(run(&mut group, &mut [], fault.clone()), []);
    assert_eq!(group.members(), leader.members());
    run(&mut leader, &mut disks, fault);
    let news = run(&mut group, &mut [], Event::Followed(told(&leader)));
    assert_eq!(members_of(&news).failed, 0b10);
    assert_eq!(group.snapshot().state, GroupState::Degraded);
    assert!(matches!(
        group.snapshot().members[1].status,
        MemberStatus::Lost(_)
    ));
    assert_eq!(group.snapshot().members[1].drive, Some(1));

    // Another drive takes the place: whoever follows is told where it is before it comes into use.
    disks.push(Disk::new(DRIVE_BYTES));
    let drive = Box::new(disks[3].facts(3));
    let replace = Event::ReplaceMember {
        request: REQUEST,
        member: MemberIndex(1),
        drive,
        identity: uuid(0x77),
        force: false,
    };
    run(&mut leader, &mut disks, replace);
    group.follow_drive(uuid(0x77), (9, "there".to_owned(), DRIVE_BYTES));
    let news = run(&mut group, &mut [], Event::Followed(told(&leader)));
    let moved = Action::MemberDrive {
        member: MemberIndex(1),
        drive: 9,
    };
    assert_eq!((&news[0], members_of(&news).rebuilding), (&moved, 0b10));
    assert_eq!(group.drive_of(MemberIndex(1)), Some(9));
    let rebuild = group.snapshot().rebuild.unwrap();
    assert_eq!((rebuild.members, rebuild.next_row), (0b10, 0));
}

#[test]
fn requests_to_a_follower_are_for_its_leader() {
    let (leader, disks) = open_elsewhere();
    let mut group = Group::followed(*told(&leader), reached(&disks));
    run(&mut group, &mut [], Event::Followed(told(&leader)));
    let drive = Box::new(disks[0].facts(0));
    let (request, member, identity, force) = (REQUEST, MemberIndex(0), uuid(0x77), true);
    for event in [
        Event::CreateVdisk {
            request,
            spec: vdisk(1, VdiskSize::Blocks(1)),
        },
        Event::ResizeVdisk {
            request,
            nsid: 1,
            size: VdiskSize::LargestFree,
        },
        Event::DeleteVdisk { request, nsid: 1 },
        Event::LeaveVdisk { request, nsid: 1 },
        Event::ChangeVdisk {
            request,
            nsid: 1,
            change: VdiskChange::Port(Slot::new(1).unwrap(), PortChange::Add),
        },
        Event::FailMember {
            request,
            member,
            force,
        },
        Event::ReplaceMember {
            request,
            member,
            drive: drive.clone(),
            identity,
            force,
        },
        Event::AddSpare {
            request,
            drive: drive.clone(),
            identity,
            force,
        },
        Event::RemoveSpare {
            request,
            spare: identity,
        },
        Event::Expand {
            request,
            drives: vec![*drive],
            identities: vec![identity],
            force,
        },
    ] {
        assert_eq!(reply_of(&run(&mut group, &mut [], event)), Err(RequestError::Led));
    }
    assert_eq!(run(&mut group, &mut [], Event::RamDirty), []);
    assert_eq!(run(&mut group, &mut [], Event::ResyncDone), []);
    assert_eq!(run(&mut group, &mut [], Event::PersistLost { request }), []);
    assert_eq!(
        run(&mut group, &mut [], Event::Stop),
        [Action::Stopped { clean: false }]
    );
    assert_eq!(run(&mut group, &mut [], Event::Stop), []);
}

#[test]
fn nothing_is_told_of_a_group_that_is_not_announced() {
    let mut disks = stopped(3);
    let mut group = Group::assembled(found(&disks).unwrap());
    assert_eq!(group.durable_record(), None);
    run(&mut group, &mut disks, START);
    assert_eq!(
        group.durable_record().map(|record| record.generation),
        group.members().map(|set| set.generation)
    );
    for member in 0..2 {
        let error = DriveError::Gone;
        run(
            &mut group,
            &mut disks,
            Event::MemberFault {
                member: MemberIndex(member),
                error,
            },
        );
    }
    assert_eq!(group.durable_record(), None, "it has failed");
}
