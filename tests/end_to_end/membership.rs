//! Nodes that share the drives of a shelf: who is a member, over real connections to the shelf and to each other.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use braid::icl::membership::label::{LABEL_BLOCK, Label, voters_of};
use braid::icl::{DriveIndex, DriveSet, Slot};
use braid::target::council::{Council, DriveSpec, NamespaceName, Setup, ShelfSpec};
use braid::target::icl::Peer;
use braid::target::manage::{ArrayCut, ArrayStatus, FaultKind};
use config::Encryption;
use nvme::nqn::Nqn;

use super::queue::Host;
use super::relay::Relay;
use super::shelf::inject;
use super::stage::{Folder, NQN, Stage, WAIT};

/// Five file drives.
pub fn shelf() -> Stage {
    let mut text = "[shelf]\nname = \"end-to-end\"\nquorum_mib = 1\ncreate = true\n[health]\nallow_fault_injection = true\n".to_owned();
    for drive in 0..5 {
        text += &format!("[[drive]]\nname = \"d{drive}\"\npath = \"d{drive}.img\"\nsize_mib = 8\n");
    }
    Stage::set(&text)
}

/// A node's place.
pub fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

/// Addresses that nobody listens on at the moment.
pub fn addresses(count: usize) -> Vec<SocketAddr> {
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
        encryption: Encryption::None,
        terms: 0,
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

/// Waits until all of them say what `done` wants.
pub fn until(what: &str, councils: &[&Council], done: impl Fn(&[ArrayStatus]) -> bool) -> Vec<ArrayStatus> {
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

fn all_blank(councils: &[&Council]) {
    until("blank", councils, |all| {
        all.iter()
            .all(|status| status.drives.iter().all(|drive| drive.state == "blank"))
    });
}

/// Whether all of them serve in the same epoch with so many members.
pub fn are_open(all: &[ArrayStatus], members: usize) -> bool {
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
    let start = |number| Council::start(setup(number, &nodes, shelf.address()), None).unwrap();
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

/// Nodes that encrypt form an array; one that does not is kept out, and all of them say why, until it does as they do.
#[test]
fn nodes_that_encrypt_form_an_array_and_keep_out_who_does_not() {
    let shelf = shelf();
    let nodes = addresses(3);
    let start = |number, encryption| {
        let setup = setup(number, &nodes, shelf.address());
        Council::start(Setup { encryption, ..setup }, None).unwrap()
    };
    let councils: Vec<Council> = (0..2).map(|number| start(number, Encryption::Tls)).collect();
    let other = start(2, Encryption::None);
    let two: Vec<&Council> = councils.iter().collect();
    all_blank(&two);
    two[0].create().unwrap();
    let formed = until("two members", &two, |all| are_open(all, 2));
    assert!(formed.iter().all(|status| status.encryption == "tls"));
    let three = [two[0], two[1], &other];
    let refused = until("refusals", &three, |all| {
        all.iter().all(|status| status.refused_connections > 0)
    });
    for status in &refused {
        let why = status.last_refusal.as_deref().unwrap();
        assert!(
            why.contains("`encryption` in [array] has to be the same in all nodes"),
            "{why}"
        );
    }
    assert_eq!(
        (refused[2].encryption.as_str(), refused[2].serves),
        ("none", false)
    );

    drop(other);
    let back = start(2, Encryption::Tls);
    let three = [two[0], two[1], &back];
    until("three members", &three, |all| are_open(all, 3));
}

/// A link that is cut in both directions, or whole.
fn cut_off(peer: u8, is_cut: bool) -> ArrayCut {
    ArrayCut {
        peer,
        muted: is_cut,
        deafened: is_cut,
        locks_only: false,
    }
}

/// H01, CHECKLIST E1: the link between two nodes is cut, and both see the drives: one of them goes on, and the other knows that it does not.
#[test]
fn of_two_nodes_that_are_cut_from_each_other_one_goes_on() {
    let shelf = shelf();
    let nodes = addresses(2);
    let start = |number| Council::start(setup(number, &nodes, shelf.address()), None).unwrap();
    let councils: Vec<Council> = (0..2).map(start).collect();
    let all: Vec<&Council> = councils.iter().collect();
    all_blank(&all);
    all[0].create().unwrap();
    let formed = until("two members", &all, |all| are_open(all, 2));
    for (council, peer) in [(all[0], 1), (all[1], 0)] {
        council.cut(slot(peer), cut_off(peer, true)).unwrap();
    }
    // The lower slot as a rule, and the other one if the lower was late to notice.
    let has_decided =
        |all: &[ArrayStatus]| all.iter().any(|status| are_open(std::slice::from_ref(status), 1));
    let seen = until("one of them alone", &all, has_decided);
    let winner = seen
        .iter()
        .position(|status| are_open(std::slice::from_ref(status), 1));
    let (winner, other) = winner.map(|winner| (winner, 1 - winner)).unwrap();
    assert_eq!(usize::from(seen[winner].members[0].0), winner);
    assert!(seen[winner].epoch > formed[0].epoch);
    let evicted = until("the other one begins anew", &all[other..=other], |all| {
        all[0].lives > 1 && !all[0].serves
    });
    assert!(evicted[0].ended_before.is_some());
    for (council, peer) in [(all[0], 1), (all[1], 0)] {
        council.cut(slot(peer), cut_off(peer, false)).unwrap();
    }
    until("both again", &all, |all| are_open(all, 2));
}

#[test]
fn a_node_leaves_and_joins_again() {
    let shelf = shelf();
    let nodes = addresses(2);
    let start = |number| Council::start(setup(number, &nodes, shelf.address()), None).unwrap();
    let councils: Vec<Council> = (0..2).map(start).collect();
    let all: Vec<&Council> = councils.iter().collect();
    all_blank(&all);
    all[0].create().unwrap();
    until("two members", &all, |all| are_open(all, 2));
    assert!(all[1].join().is_err(), "it has not left");
    all[1].leave().unwrap();
    until("one member", &all[..1], |all| are_open(all, 1));
    let left = until("it has left", &all[1..], |all| all[0].stage == "left");
    assert_eq!(left[0].ended_before.as_deref(), Some("left, as asked"));
    let again = all[1].leave().unwrap_err();
    assert!(again.to_string().contains("braid node join"), "{again}");
    // Asked twice it joins once, and nothing of it is left over for the next time.
    for _ in 0..2 {
        let asked = all[1].join();
        assert!(
            asked.is_ok() || are_open(&[all[1].status().unwrap()], 2),
            "{asked:?}"
        );
    }
    until("two again", &all, |all| are_open(all, 2));
    all[1].leave().unwrap();
    until("it has left again", &all[1..], |all| all[0].stage == "left");
    until("one member again", &all[..1], |all| are_open(all, 1));
    assert_eq!(all[1].status().unwrap().stage, "left");
}

/// Of nodes that are asked at the same moment, whatever the order in which they name the drives, exactly one makes the array; the others are told why they do not, and are members of it.
#[test]
fn of_nodes_that_make_an_array_at_the_same_moment_one_does() {
    let shelf = shelf();
    let nodes = addresses(3);
    let start = |number: u8| {
        let mut setup = setup(number, &nodes, shelf.address());
        setup.drives.rotate_left(usize::from(number));
        Council::start(setup, None).unwrap()
    };
    let councils: Vec<Council> = (0..3).map(start).collect();
    let all: Vec<&Council> = councils.iter().collect();
    all_blank(&all);
    let results: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let create = |council: &'_ Council| council.create().map_err(|error| error.to_string());
        let asked: Vec<_> = councils
            .iter()
            .map(|council| scope.spawn(move || create(council)))
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert_eq!(
        results.iter().filter(|made| made.is_ok()).count(),
        1,
        "{results:?}"
    );
    for why in results.iter().filter_map(|made| made.as_ref().err()) {
        let is_clear = why.contains("nother node makes an array") || why.contains("the array exists");
        assert!(is_clear, "{why}");
    }
    let formed = until("all are members", &all, |all| are_open(all, 3));
    assert!(formed[0].drives.iter().all(|drive| drive.in_use), "{formed:#?}");
    // Nobody was fenced by somebody who tried drives out.
    assert!(
        formed.iter().all(|status| status.ended_before.is_none()),
        "{formed:#?}"
    );
}

/// A node that was killed while it made an array leaves labels on some drives.
#[test]
fn an_array_that_was_not_made_to_the_end_is_made_to_the_end() {
    let shelf = shelf();
    let nodes = addresses(1);
    let mut host = Host::connect(shelf.address());
    let setup = setup(0, &nodes, shelf.address());
    let mut label_the_first = |failures| {
        let descriptors = host.identify(3, 1);
        let uuid = descriptors
            .chunks(20)
            .find(|descriptor| descriptor[..2] == [3, 16]);
        let label = Label {
            array: setup.array(),
            name: setup.name.clone(),
            drive: DriveIndex::new(0).unwrap(),
            namespace: uuid.unwrap()[4..20].try_into().unwrap(),
            drives: DriveSet(0b11111),
            voters: voters_of(5, failures),
        };
        let mut block = label.encode().to_vec();
        block.resize(4096, 0);
        host.write(2, LABEL_BLOCK as u64, 4096, &block);
    };
    label_the_first(2);
    let council = Council::start(setup.clone(), None).unwrap();
    let is_labelled = |all: &[ArrayStatus]| {
        let mut drives = all[0].drives.iter().map(|drive| drive.state.as_str());
        drives.next() == Some("reached") && drives.all(|state| state == "blank")
    };
    until("one is labelled", &[&council], is_labelled);
    let refused = until_created(&council, |created| match created {
        Err(error) if error.contains("the array exists") => None, // It was not read yet.
        other => Some(other),
    });
    assert!(refused.unwrap_err().contains("with other failures"));
    drop(council);
    label_the_first(1);
    let council = Council::start(setup, None).unwrap();
    until("one is labelled", &[&council], is_labelled);
    until_created(&council, Result::ok);
    let made = until("alone", &[&council], |all| are_open(all, 1));
    assert!(
        made[0]
            .drives
            .iter()
            .all(|drive| drive.state == "reached" && drive.in_use)
    );
}

fn until_created<R>(council: &Council, done: impl Fn(Result<(), String>) -> Option<R>) -> R {
    let end = Instant::now() + WAIT;
    loop {
        let created = council.create().map_err(|error| error.to_string());
        if let Some(result) = done(created.clone()) {
            return result;
        }
        assert!(Instant::now() < end, "{created:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_node_with_another_key_sees_drives_of_another_array_and_changes_nothing() {
    let shelf = shelf();
    let nodes = addresses(2);
    let first = Council::start(setup(0, &nodes, shelf.address()), None).unwrap();
    all_blank(&[&first]);
    first.create().unwrap();
    let formed = until("alone", &[&first], |all| are_open(all, 1));
    let stranger = Council::start(
        Setup {
            key: [8; 32],
            ..setup(1, &nodes, shelf.address())
        },
        None,
    )
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

/// Runs the program; what it prints, or what it says is wrong.
fn braid(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_braid"))
        .args(arguments)
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn arrays_are_found_on_shelves_and_a_node_is_configured_from_them() {
    let shelf = shelf();
    let address = shelf.address().to_string();
    let nodes = addresses(1);
    let found = braid(&["array", "list", "--shelf", &address]).unwrap();
    assert!(
        found.starts_with("no array") && found.contains("namespace 9 of "),
        "{found}"
    );
    let council = Council::start(setup(0, &nodes, shelf.address()), None).unwrap();
    all_blank(&[&council]);
    council.create().unwrap();
    let status = until("alone", &[&council], |all| are_open(all, 1)).remove(0);
    let found = braid(&["array", "list", "--shelf", &address, "--json"]).unwrap();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let array = &found["arrays"][0];
    assert_eq!(array["array"], "vault");
    assert_eq!(array["uuid"], status.uuid);
    assert_eq!(array["epoch"], status.epoch);
    assert_eq!(array["members"], serde_json::json!([0]));
    assert_eq!(array["found"].as_array().unwrap().len(), 5);
    assert_eq!(found["blank"], serde_json::json!([]));

    let folder = Folder::make();
    let key = |name: &str, byte: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, byte.repeat(32)).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (key("vault.key", "07"), key("other.key", "08"));
    let import = |slot: &str, key: &str| {
        let peer = format!("0={}", nodes[0]);
        braid(&[
            "array",
            "import",
            "--shelf",
            &address,
            "--slot",
            slot,
            "--key-file",
            key,
            "--peer",
            &peer,
        ])
    };
    assert!(
        import("1", &wrong)
            .unwrap_err()
            .contains("is not the key of the array")
    );
    assert!(import("0", &right).unwrap_err().contains("slot 0 is this node's"));
    let text = import("1", &right).unwrap();
    let config = config::parse(&text, &folder.path().join("node.toml")).unwrap();
    let imported = Setup::of(config.array.as_ref().unwrap(), &config.groups).unwrap();
    assert_eq!(imported.array(), council.setup().array());
    assert_eq!(imported.failures, 1);
    // A node that runs with it is a node of the array.
    let second = Council::start(
        Setup {
            listen: addresses(1)[0],
            ..imported
        },
        None,
    )
    .unwrap();
    until("seen from the second", &[&second], |all| {
        all[0].epoch >= status.epoch && all[0].drives.iter().all(|drive| drive.state == "reached")
    });
}

/// Another way to the shelf, or several.
fn by(setup: Setup, addresses: &[SocketAddr]) -> Setup {
    let shelves = setup.shelves.iter().cloned().map(|shelf| ShelfSpec {
        addresses: addresses.to_vec(),
        ..shelf
    });
    Setup {
        shelves: shelves.collect(),
        ..setup.clone()
    }
}

/// A node alone in its array, which reaches its shelf by a wire.
pub fn alone(shelf: &Stage, wire: &Relay) -> Council {
    let nodes = addresses(1);
    let council = Council::start(by(setup(0, &nodes, shelf.address()), &[wire.address()]), None).unwrap();
    until("blank", &[&council], |all| {
        all[0].drives.iter().all(|drive| drive.state == "blank")
    });
    council.create().unwrap();
    until("alone", &[&council], |all| are_open(all, 1));
    council
}

fn are_reached(status: &ArrayStatus) -> bool {
    status.drives.iter().all(|drive| drive.state == "reached")
}

/// What a lost connection has on its way is over before the same life uses the drives again: its bytes were held by the wire, and the shelf
/// does not take them any more.
#[test]
fn what_a_lost_connection_has_on_its_way_is_over_before_the_drives_are_used_again() {
    let shelf = shelf();
    let wire = Relay::to(shelf.address());
    let council = alone(&shelf, &wire);
    let remains = wire.hold();
    remains.await_bytes();
    remains.lose();
    until("away", &[&council], |all| !are_reached(&all[0]));
    until("reached again", &[&council], |all| are_reached(&all[0]));
    assert!(
        remains.are_over(),
        "the shelf has ended the connections that were lost"
    );
    remains.release();
    let after = until("still alone", &[&council], |all| {
        are_open(all, 1) && are_reached(&all[0])
    });
    assert_eq!(after[0].lives, 1, "{after:#?}");
}

/// The same for what the shelf has taken and a drive has not answered.
#[test]
fn a_drive_that_holds_a_write_of_a_lost_connection_is_not_used_before_it_has_answered() {
    let shelf = shelf();
    let wire = Relay::to(shelf.address());
    let council = alone(&shelf, &wire);
    inject(&shelf, FaultKind::Hang);
    let waited_for = "what a lost connection has left behind is being waited for";
    until("draining", &[&council], |all| {
        all[0].drives[0].state == waited_for
            && all[0].drives[1..].iter().any(|drive| drive.state == "reached")
    });
    inject(&shelf, FaultKind::Clear);
    until("reached again", &[&council], |all| {
        are_reached(&all[0]) && are_open(all, 1)
    });
}

/// PROTOCOL 3.4, step 3: a node that reaches fewer drives than the members, for good or because it has just begun, is not let in at the price of these drives, which would be lost
/// members of their groups from then on.
#[test]
fn a_node_that_reaches_fewer_drives_costs_the_array_none() {
    let shelf = shelf();
    let nodes = addresses(2);
    let one = Council::start(setup(0, &nodes, shelf.address()), None).unwrap();
    all_blank(&[&one]);
    one.create().unwrap();
    until("one member", &[&one], |all| are_open(all, 1));
    let mut poor = setup(1, &nodes, shelf.address());
    poor.drives.truncate(3);
    let two = Council::start(poor, None).unwrap();
    until("it reaches a majority", &[&two], |all| {
        all[0].stage == "outside" && are_reached(&all[0])
    });
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        let status = one.status().unwrap();
        assert!(status.drives.iter().all(|drive| drive.in_use), "{status:#?}");
        assert_eq!(status.members.len(), 1);
        std::thread::sleep(Duration::from_millis(50));
    }
    let blocked = two.status().unwrap().blocked.unwrap_or_default();
    for part in [
        "does not reach 2 of them",
        "the configuration of this node does not have all drives",
    ] {
        assert!(blocked.contains(part), "{part}: {blocked}");
    }
    drop(two);
    let two = Council::start(setup(1, &nodes, shelf.address()), None).unwrap();
    let both = until("two members", &[&one, &two], |all| are_open(all, 2));
    assert!(both[0].drives.iter().all(|drive| drive.in_use));
}

/// CHECKLIST A3: one of two networks to a shelf is lost without a word. The node goes on over the other one, in the same life and epoch.
#[test]
fn a_lost_path_to_a_shelf_costs_no_membership_if_there_is_another() {
    let shelf = shelf();
    let wire = Relay::to(shelf.address());
    let detours = [Relay::to(shelf.address()), Relay::to(shelf.address())];
    let nodes = addresses(2);
    let start = |(number, detour): (u8, &Relay)| {
        let ways = [wire.address(), detour.address()];
        Council::start(by(setup(number, &nodes, shelf.address()), &ways), None).unwrap()
    };
    let councils: Vec<Council> = (0..).zip(&detours).map(start).collect();
    let all: Vec<&Council> = councils.iter().collect();
    until("blank", &all, |all| {
        all.iter()
            .all(|status| status.drives.iter().all(|drive| drive.state == "blank"))
    });
    all[0].create().unwrap();
    let formed = until("two members", &all, |all| are_open(all, 2));
    wire.silence(true);
    // Each notices it in its own time, and may be back before the other one has gone.
    until("away", &all, |_| detours.iter().all(Relay::is_used));
    let after = until("reached again", &all, |all| {
        all.iter().all(are_reached) && are_open(all, 2)
    });
    assert_eq!(after[0].epoch, formed[0].epoch);
    assert!(after.iter().all(|status| status.lives == 1), "{after:#?}");
}

/// CHECKLIST A3: one of two links between two nodes is cut.
#[test]
fn a_lost_link_between_nodes_costs_no_membership_if_there_is_another() {
    let shelf = shelf();
    let nodes = addresses(2);
    let wires = [Relay::to(nodes[0]), Relay::to(nodes[0])];
    let first = Council::start(setup(0, &nodes, shelf.address()), None).unwrap();
    // The higher slot dials.
    let mut second = setup(1, &nodes, shelf.address());
    second.peers[0].addresses = wires.iter().map(Relay::address).collect();
    let second = Council::start(second, None).unwrap();
    let all = [&first, &second];
    until("blank", &all, |all| {
        all.iter()
            .all(|status| status.drives.iter().all(|drive| drive.state == "blank"))
    });
    first.create().unwrap();
    let formed = until("two members", &all, |all| are_open(all, 2));
    for wire in &wires {
        until("both links", &all, |all| {
            all.iter().all(|status| status.peers[0].paths_up == 2)
        });
        wire.silence(true);
        // Longer than a member may be silent, and than a node without a lease goes on.
        let end = Instant::now() + Duration::from_secs(4);
        while Instant::now() < end {
            let now = until("both", &all, |all| are_open(all, 2));
            assert_eq!(now[0].epoch, formed[0].epoch);
            std::thread::sleep(Duration::from_millis(100));
        }
        let fewer = second.status().unwrap().peers[0].paths_up;
        assert_eq!(fewer, 1, "it is known to be silent");
        wire.silence(false);
    }
    let after = until("both", &all, |all| are_open(all, 2));
    assert!(after.iter().all(|status| status.lives == 1));
}
