//! Nodes that share the drives of a shelf: who is a member, over real connections to the shelf and to each other.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use braid::icl::Slot;
use braid::target::council::{Council, DriveSpec, NamespaceName, Setup, ShelfSpec};
use braid::target::icl::Peer;
use braid::target::manage::ArrayStatus;
use nvme::nqn::Nqn;

use super::stage::{NQN, Stage, WAIT};

/// Five file drives.
fn shelf() -> Stage {
    let mut text = "[shelf]\nname = \"end-to-end\"\nquorum_mib = 1\ncreate = true\n".to_owned();
    for drive in 0..5 {
        text += &format!("[[drive]]\nname = \"d{drive}\"\npath = \"d{drive}.img\"\nsize_mib = 8\n");
    }
    Stage::set(&text)
}

fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

/// Addresses that nobody listens on at the moment.
fn addresses(count: usize) -> Vec<SocketAddr> {
    let bound: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    bound
        .iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect()
}

fn setup(number: u8, nodes: &[SocketAddr], shelf: SocketAddr) -> Setup {
    let peers = (0..).zip(nodes).filter(|(peer, _)| *peer != number);
    Setup {
        name: "vault".to_owned(),
        slot: slot(number),
        key: [7; 32],
        failures: 1,
        listen: nodes[usize::from(number)],
        peers: peers
            .map(|(peer, address)| Peer {
                slot: slot(peer),
                addresses: vec![*address],
            })
            .collect(),
        shelves: vec![ShelfSpec {
            name: "s".to_owned(),
            addresses: vec![shelf],
            nqn: Nqn::parse(NQN).unwrap(),
        }],
        drives: (0..5)
            .map(|drive| DriveSpec {
                name: format!("d{drive}"),
                shelf: 0,
                namespace: NamespaceName::Nsid(2 * drive + 1),
            })
            .collect(),
    }
}

fn until(what: &str, councils: &[&Council], done: impl Fn(&[ArrayStatus]) -> bool) -> Vec<ArrayStatus> {
    let end = Instant::now() + WAIT;
    let mut last = Vec::new();
    while Instant::now() < end {
        let all: Vec<_> = councils
            .iter()
            .filter_map(|council| council.status().ok())
            .collect();
        if all.len() == councils.len() && done(&all) {
            return all;
        }
        last = all;
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: {last:#?}")
}

/// Whether all of them serve in the same epoch with so many members.
fn are_open(all: &[ArrayStatus], members: usize) -> bool {
    all.iter().all(|status| {
        status.stage == "open"
            && status.serves
            && status.members.len() == members
            && status.epoch == all[0].epoch
    })
}

/// Nodes that share the drives of a shelf form an array, lose a member, and take it in again as another life.
#[test]
fn nodes_form_an_array_lose_one_and_take_it_in_again() {
    let shelf = shelf();
    let nodes = addresses(3);
    let start = |number| Council::start(setup(number, &nodes, shelf.address())).unwrap();
    let mut councils: Vec<Council> = (0..3).map(start).collect();
    let all: Vec<&Council> = councils.iter().collect();
    until("blank", &all, |all| {
        all.iter()
            .all(|status| status.stage == "blank" && status.drives.iter().all(|drive| drive.state == "blank"))
    });
    all[1].create().unwrap();
    let formed = until("three members", &all, |all| are_open(all, 3));
    assert!(formed[0].drives.iter().all(|drive| drive.in_use));
    assert_eq!(formed[0].drives.iter().filter(|drive| drive.votes).count(), 3);
    assert!(
        all[0]
            .create()
            .unwrap_err()
            .to_string()
            .contains("the array exists")
    );

    // One is gone without a word.
    drop(councils.remove(2));
    let left: Vec<&Council> = councils.iter().collect();
    let fewer = until("two members", &left, |all| are_open(all, 2));
    assert!(fewer[0].epoch > formed[0].epoch);

    let back = start(2);
    let all = [&councils[0], &councils[1], &back];
    let whole = until("three members again", &all, |all| are_open(all, 3));
    assert!(whole[0].epoch > fewer[0].epoch);
    assert_ne!(whole[0].members[2], formed[0].members[2], "another life");
}

/// H01, CHECKLIST E1: the link between two nodes is cut, and both see the drives: one of them goes on, and the other knows that it does not.
#[test]
fn of_two_nodes_that_are_cut_from_each_other_one_goes_on() {
    let shelf = shelf();
    let nodes = addresses(2);
    let start = |number| Council::start(setup(number, &nodes, shelf.address())).unwrap();
    let councils: Vec<Council> = (0..2).map(start).collect();
    let all: Vec<&Council> = councils.iter().collect();
    until("blank", &all, |all| {
        all.iter()
            .all(|status| status.drives.iter().all(|drive| drive.state == "blank"))
    });
    all[0].create().unwrap();
    let formed = until("two members", &all, |all| are_open(all, 2));
    for (council, peer) in [(all[0], 1), (all[1], 0)] {
        council.cut(slot(peer), true, true).unwrap();
    }
    let alone = until("the lower slot alone", &all[..1], |all| are_open(all, 1));
    assert_eq!(alone[0].members[0].0, 0);
    assert!(alone[0].epoch > formed[0].epoch);
    let evicted = until("the other one begins anew", &all[1..], |all| {
        all[0].lives > 1 && !all[0].serves
    });
    assert!(evicted[0].ended_before.is_some());
    all[0].cut(slot(1), false, false).unwrap();
    until("both again", &all, |all| are_open(all, 2));
}

#[test]
fn a_node_leaves_and_joins_again() {
    let shelf = shelf();
    let nodes = addresses(2);
    let start = |number| Council::start(setup(number, &nodes, shelf.address())).unwrap();
    let councils: Vec<Council> = (0..2).map(start).collect();
    let all: Vec<&Council> = councils.iter().collect();
    until("blank", &all, |all| {
        all.iter()
            .all(|status| status.drives.iter().all(|drive| drive.state == "blank"))
    });
    all[0].create().unwrap();
    until("two members", &all, |all| are_open(all, 2));
    assert!(all[1].join().is_err(), "it has not left");
    all[1].leave().unwrap();
    until("one member", &all[..1], |all| are_open(all, 1));
    let end = Instant::now() + WAIT;
    while all[1].join().is_err() {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    until("two again", &all, |all| are_open(all, 2));
}

#[test]
fn a_node_with_another_key_sees_drives_of_another_array_and_changes_nothing() {
    let shelf = shelf();
    let nodes = addresses(2);
    let first = Council::start(setup(0, &nodes, shelf.address())).unwrap();
    until("blank", &[&first], |all| {
        all[0].drives.iter().all(|drive| drive.state == "blank")
    });
    first.create().unwrap();
    let formed = until("alone", &[&first], |all| are_open(all, 1));
    let stranger = Council::start(Setup {
        key: [8; 32],
        ..setup(1, &nodes, shelf.address())
    })
    .unwrap();
    let refused = until("refused", &[&stranger], |all| {
        all[0]
            .drives
            .iter()
            .all(|drive| drive.state.contains("belongs to the array \"vault\""))
            && all[0].refused_connections > 0
    });
    assert_eq!(refused[0].epoch, 0);
    assert!(stranger.create().is_err());
    let after = until("alone still", &[&first], |all| are_open(all, 1));
    assert_eq!(after[0].epoch, formed[0].epoch);
}
