//! Drives that nodes share, as one life of a node reads and writes them beside its membership.

use std::sync::Arc;
use std::thread;

use braid::drive::DriveError;
use braid::icl::Incarnation;
use braid::target::council::Council;
use braid::target::fabric::session::{SessionError, Sessions};
use braid::target::fabric::{FabricDrive, Life, Tenure};
use config::{NamespaceName, RemoteShelf, ShelfDrive};
use nvme::nqn::Nqn;

use super::membership::{alone, are_open, shelf, slot, until};
use super::queue::pattern;
use super::relay::Relay;
use super::stage::{NQN, Stage};

/// Far from what an array keeps on a drive itself.
const AT: u64 = 2 << 20;

fn remote(address: std::net::SocketAddr) -> RemoteShelf {
    RemoteShelf {
        name: "s".to_owned(),
        addresses: vec![address],
        nqn: Nqn::parse(NQN).unwrap(),
        host_nqn: Nqn::parse("nqn.2026-01.io.braid:host:nobody").unwrap(),
        header_digest: false,
        data_digest: true,
        take_over: false,
    }
}

fn drive(number: u32) -> ShelfDrive {
    ShelfDrive {
        shelf: "s".to_owned(),
        namespace: NamespaceName::Nsid(2 * number + 1),
    }
}

/// The life of a node that is a member, as its membership has registered it.
fn life_of(council: &Council) -> Life {
    let members = council.status().unwrap().members;
    let own = council.setup().slot;
    let (_, incarnation) = members.iter().find(|(slot, _)| *slot == own.number()).unwrap();
    let incarnation = Incarnation(u64::from_str_radix(incarnation, 16).unwrap());
    Life {
        hostnqn: council.setup().host_nqn(own),
        hostid: council.setup().host_id(own, incarnation),
    }
}

fn sessions(address: std::net::SocketAddr, life: &Life) -> Sessions {
    Sessions::connect(&[remote(address)], &Tenure::Shared(life.clone()), 2)
}

/// What is written is read, over this session and others.
fn keeps(drive: &FabricDrive, others: &[&FabricDrive], seed: u64) {
    let data = pattern(seed, 2 << 20);
    drive.write(AT, &data, false).unwrap();
    drive.flush().unwrap();
    for reader in others.iter().copied().chain([drive]) {
        assert!(reader.read(AT, data.len()).unwrap() == data);
    }
}

fn still_alone(council: &Council) {
    let all = until("still alone", &[council], |all| are_open(all, 1));
    assert_eq!(all[0].lives, 1);
}

/// Goal: whoever has the life that membership has registered may use the drives, again and again and at the same time; nobody else may.
#[test]
fn sessions_of_one_life_share_its_drives_and_others_may_only_read() {
    let shelf = shelf();
    let wire = Relay::to(shelf.address());
    let council = alone(&shelf, &wire);
    let life = life_of(&council);
    let first = sessions(shelf.address(), &life);
    let one = first.open(&drive(0)).unwrap();
    keeps(&one, &[], 1);
    for seed in 2..5 {
        let second = sessions(shelf.address(), &life);
        let other = second.open(&drive(0)).unwrap();
        keeps(&other, &[&one], seed);
        keeps(&one, &[&other], seed + 10);
        for number in 1..5 {
            keeps(&second.open(&drive(number)).unwrap(), &[], seed);
        }
        // Nothing is given back, or `one` could write no more.
        if seed % 2 == 0 {
            second.abandon();
        } else {
            second.end();
        }
    }
    let strangers = [
        (life.hostnqn.clone(), "an earlier life of the node"),
        (council.setup().host_nqn(slot(1)), "another node"),
    ];
    for (hostnqn, who) in strangers {
        let hostid = [9; 16];
        let stranger = sessions(shelf.address(), &Life { hostnqn, hostid });
        let same = stranger.open(&drive(0)).unwrap();
        assert_eq!(same.write(AT, &[9; 4096], true), Err(DriveError::Fenced), "{who}");
        assert!(same.read(AT, 4096).unwrap() == pattern(14, 4096), "{who}");
        assert!(!same.is_in_doubt());
        stranger.abandon();
    }
    keeps(&one, &[], 20);
    first.end();
    assert_eq!(one.read(AT, 4096), Err(DriveError::Gone), "its session has ended");
    still_alone(&council);
}

/// A shelf that is not there, and one without the drive, are found out when the drive is opened.
#[test]
fn what_is_not_there_is_absent() {
    let shelf = Stage::set(
        "[shelf]\nname = \"end-to-end\"\nquorum_mib = 1\ncreate = true\n[[drive]]\nname = \"d\"\nmemory_mib = 16\n",
    );
    let life = Life {
        hostnqn: Nqn::parse("nqn.2026-01.io.braid:array:x:slot:0").unwrap(),
        hostid: [1; 16],
    };
    let there = sessions(shelf.address(), &life);
    assert_eq!(there.shelves().len(), 1);
    let absent = |sessions: &Sessions, number| match sessions.open(&drive(number)) {
        Err(SessionError::Absent(why)) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is there"),
    };
    assert!(absent(&there, 7).contains("has no namespace 15"));
    there.open(&drive(0)).unwrap();
    there.end();
    let nobody = super::membership::addresses(1)[0];
    let gone = sessions(nobody, &life);
    assert!(gone.shelves().is_empty());
    assert!(absent(&gone, 0).contains("cannot be reached"));
    gone.abandon();
}

/// Goal: a write that is lost with its connection is made once its remains are over, and nothing of it lands later.
/// Method: the wire keeps its bytes from the shelf, and the session loses the connection; after the write was answered the bytes are let go.
#[test]
fn a_lost_write_is_sent_again_after_what_was_lost_is_over() {
    let shelf = shelf();
    let direct = Relay::to(shelf.address());
    let council = alone(&shelf, &direct);
    let life = life_of(&council);
    let wire = Relay::to(shelf.address());
    let lossy = sessions(wire.address(), &life);
    let beside = sessions(shelf.address(), &life);
    let (lost, other) = (lossy.open(&drive(0)).unwrap(), beside.open(&drive(0)).unwrap());
    let lost = Arc::new(lost);
    keeps(&lost, &[&other], 1);
    for round in 0..3 {
        let remains = wire.hold();
        let writer = {
            let lost = Arc::clone(&lost);
            thread::spawn(move || lost.write(AT, &pattern(30 + round, 64 << 10), true))
        };
        remains.await_bytes();
        remains.lose();
        writer.join().unwrap().unwrap();
        assert!(remains.are_over(), "the shelf has ended what was lost");
        assert!(other.read(AT, 64 << 10).unwrap() == pattern(30 + round, 64 << 10));
        // Those beside it were not disturbed by the reset.
        keeps(&other, &[&lost], 40 + round);
        remains.release();
        assert!(lost.read(AT, 64 << 10).unwrap() == pattern(40 + round, 64 << 10));
    }
    assert!(!lost.is_in_doubt());
    still_alone(&council);
    lossy.end();
    beside.end();
}
