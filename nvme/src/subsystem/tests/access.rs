//! Which namespaces can be used through the controllers of this node, and what hosts hear of that.

use super::*;
use crate::identify::cns;
use crate::log::lid;

fn rig_with(nsids: &[u32]) -> Rig {
    let mut rig = Rig::new(config());
    for &nsid in nsids {
        rig.step(Event::NamespaceAdded(namespace(nsid)));
    }
    rig
}

/// The access log as the kernel reads it: changes, and of each group its number, its change, its state and its namespaces.
fn access(rig: &mut Rig, queue: QueueId, specific: u32) -> (u32, Vec<[u32; 5]>) {
    let controller = rig.command(queue, identify(cns::CONTROLLER, 0), &[]).data;
    let (groups_max, groups) = (dword(&controller, 344), dword(&controller, 348));
    assert!(groups > 0 && groups <= groups_max, "NANAGRPID, ANAGRPMAX");
    let bytes = 16 + 32 * groups + 4 * dword(&controller, 540);
    let mut entry = log_page(lid::ASYMMETRIC_ACCESS, 0, bytes);
    entry.set_dword(10, entry.dword(10) | specific << 8);
    let page = rig.command(queue, entry, &[]).data;
    assert_eq!(page.len(), bytes as usize);
    let mut at = 16;
    let mut found = Vec::new();
    for _ in 0..word(&page, 8) {
        let namespaces = dword(&page, at + 4);
        let listed = if namespaces == 0 { 0 } else { dword(&page, at + 32) };
        let number = dword(&page, at);
        assert!((1..=groups_max).contains(&number) && namespaces <= 1);
        found.push([
            number,
            dword(&page, at + 8),
            u32::from(page[at + 16]),
            namespaces,
            listed,
        ]);
        at += 32 + 4 * namespaces as usize;
    }
    (dword(&page, 0), found)
}

/// PROTOCOL H43: a namespace has a group of its own, with its own number, at every node; only the state of the group is the node's.
#[test]
fn every_namespace_is_in_a_group_of_its_own() {
    let mut rig = rig_with(&[3, 1]);
    rig.step(Event::NamespaceAdded(Namespace {
        access: Access::Elsewhere,
        ..namespace(9)
    }));
    let (queue, _) = rig.controller(1);
    for nsid in [1, 3, 9] {
        let page = rig.command(queue, identify(cns::NAMESPACE, nsid), &[]).data;
        let independent = rig
            .command(queue, identify(cns::INDEPENDENT_NAMESPACE, nsid), &[])
            .data;
        assert_eq!(
            (dword(&page, 92), dword(&independent, 4)),
            (nsid, nsid),
            "ANAGRPID"
        );
        let used = if nsid == 9 { 0 } else { dword(&page, 0) };
        assert_eq!((dword(&page, 0), dword(&page, 16)), (1 << 20, used), "NSZE, NUSE");
    }
    let groups = [[1, 2, 1, 1, 1], [3, 1, 1, 1, 3], [9, 3, 3, 1, 9]];
    assert_eq!(access(&mut rig, queue, 0), (3, groups.to_vec()));
    let short = groups.map(|[group, changed, state, ..]| [group, changed, state, 0, 0]);
    let groups_only = u32::from(crate::access::ACCESS_GROUPS_ONLY);
    assert_eq!(access(&mut rig, queue, groups_only), (3, short.to_vec()));
    rig.step(Event::NamespaceRemoved { nsid: 3 });
    assert_eq!(access(&mut rig, queue, 0), (4, vec![groups[0], groups[2]]));
}

/// CHECKLIST A10, A11, PROTOCOL H44: every host hears of a port that comes or goes, once, and finds it in the log with a count that has moved; and so after each epoch.
#[test]
fn hosts_hear_of_changed_access() {
    let mut rig = rig_with(&[1, 2]);
    let (discovery, _) = rig.discovery_controller(1);
    let queues = [1, 2].map(|host| rig.controller(host).0);
    let await_event =
        |rig: &mut Rig, queue| rig.send(queue, admin(admin_opcode::ASYNC_EVENT_REQUEST, 0), &[]);
    let told = |rig: &mut Rig, queue, slot| rig.completion(queue, slot).map(|done| done.result);
    let slots = queues.map(|queue| await_event(&mut rig, queue));
    let aside = await_event(&mut rig, discovery);
    let change = |access| Event::AccessChanged { nsid: 2, access };
    rig.step(change(Access::Here));
    assert_eq!(told(&mut rig, queues[0], slots[0]), None, "nothing has changed");
    rig.step(change(Access::Elsewhere));
    for (queue, slot) in queues.into_iter().zip(slots) {
        assert_eq!(told(&mut rig, queue, slot), Some(0x0c_0302));
        assert_eq!(
            access(&mut rig, queue, 0),
            (3, vec![[1, 1, 1, 1, 1], [2, 3, 3, 1, 2]])
        );
    }
    assert_eq!(told(&mut rig, discovery, aside), None, "it shows no namespaces");
    let slot = await_event(&mut rig, queues[0]);
    rig.step(change(Access::Here));
    assert_eq!(told(&mut rig, queues[0], slot), Some(0x0c_0302));
    assert_eq!(
        access(&mut rig, queues[0], 0),
        (4, vec![[1, 1, 1, 1, 1], [2, 4, 1, 1, 2]])
    );
    let slot = await_event(&mut rig, queues[0]);
    rig.step(Event::AccessRenewed);
    assert_eq!(told(&mut rig, queues[0], slot), Some(0x0c_0302));
    assert_eq!(access(&mut rig, queues[0], 0).0, 5);
    let changed = rig
        .command(queues[0], log_page(lid::CHANGED_NAMESPACES, 0, 4096), &[])
        .data;
    assert_eq!(dword(&changed, 0), 0, "no namespace has changed");
}

/// CHECKLIST A11: a reservation of a namespace without a port here is another node's to change, too.
#[test]
fn reservation_commands_go_where_the_port_is() {
    let mut rig = rig_with(&[1]);
    let (_, cntlid) = rig.controller(1);
    let io_queue = rig.io_queue(1, cntlid, 1);
    let mut report = SubmissionEntry::new(crate::command::io_opcode::RESERVATION_REPORT, 7);
    report.set_nsid(1);
    for (access, status) in [
        (Access::Elsewhere, Status::ANA_INACCESSIBLE),
        (Access::Nowhere, Status::NAMESPACE_NOT_READY),
    ] {
        rig.step(Event::AccessChanged { nsid: 1, access });
        assert_eq!(rig.command(io_queue, report, &[]).status, status);
    }
}
