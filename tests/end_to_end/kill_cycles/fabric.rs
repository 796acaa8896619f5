//! The same for a node whose drives are on a shelf: node, shelf and the connections between them are killed, alone and together.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use braid::sim::random::Random;
use braid::target::manage::{
    BackgroundRequest, GroupName, GroupScrub, GroupState, GroupStatus, MemberState, Reply, Request,
    ScrubState,
};

use super::super::fabric::{Running, at, drives, free_port, group, shelf, spawn};
use super::super::initiator::Wire;
use super::super::stage::{Folder, WAIT};
use super::load::{load, read_all};
use super::record::{BLOCK, Record};
use super::{CYCLES, from_environment};

/// Size of the virtual disk that `group` makes.
const DISK_BYTES: u64 = 12 << 20;

/// What happens to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The node is killed.
    Node,
    /// The connections are cut some times, then the node is killed.
    Wire,
    /// The shelf is killed and started again, then the node is killed.
    Shelf,
    /// Both are killed at once.
    Both,
}

const TROUBLES: [Trouble; 4] = [Trouble::Node, Trouble::Wire, Trouble::Shelf, Trouble::Both];

struct Stand<'a> {
    folder: &'a Path,
    port: u16,
    text: String,
}

impl Stand<'_> {
    fn shelf(&self) -> Running {
        spawn(self.folder, "shelf", &shelf("s", 4), self.port, &[])
    }

    fn node(&self) -> Running {
        spawn(self.folder, "node", &self.text, 0, &["--take-over"])
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }
}

fn status(node: &mut Running) -> GroupStatus {
    let group = "g".to_owned();
    match node.client.call(&Request::GroupShow(GroupName { group })) {
        Ok(Reply::Group(status)) => status,
        other => panic!("{other:?}"),
    }
}

fn until(node: &mut Running, what: &str, done: impl Fn(&GroupStatus) -> bool) {
    let deadline = Instant::now() + WAIT;
    loop {
        let status = status(node);
        if done(&status) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "waited in vain for: {what}: {status:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until nothing is left to be rebuilt, and wants every row to fit.
fn scrub(node: &mut Running, stand: &Stand<'_>) {
    until(node, "the group is healthy", |group| {
        group.state == GroupState::Healthy
    });
    let (group, repair) = ("g".to_owned(), false);
    let scrub = Request::Background(BackgroundRequest::Scrub(GroupScrub { group, repair }));
    node.client.call(&scrub).unwrap();
    until(node, "the scrub has ended", |group| {
        let scrub = group.background.scrub.as_ref();
        scrub.is_some_and(|scrub| scrub.state == ScrubState::Completed)
    });
    let scrub = status(node).background.scrub.unwrap();
    assert_eq!((scrub.mismatches, scrub.unreadable), (0, 0), "{}", stand.log());
}

/// Goal: whatever is killed or cut, and when, nothing that was acknowledged is lost, and a cut alone costs no drive.
/// Method: one trouble after the other under load; after each everything is read and the history judged, at the end scrubbed.
#[test]
fn a_shelf_keeps_what_a_node_acknowledged() {
    let folder = Folder::make();
    let port = free_port();
    let mut stand = Stand {
        folder: folder.path(),
        port,
        text: String::new(),
    };
    let mut shelf = stand.shelf();
    let wire = Wire::to(shelf.address);
    stand.text = at("s", wire.address)
        + &drives("s", "d", 4)
        + &group("raid5", &["d0", "d1", "d2", "d3"]).replace("nsid = 2", "nsid = 1");
    let mut random = Random::new(from_environment("BRAID_KILL_SEED", 1), 0xfab);
    let mut record = Record::new(DISK_BYTES / BLOCK as u64);
    let mut node = stand.node();
    let (mut writes, mut cuts) = (0, 0);
    for cycle in 0..from_environment("BRAID_KILL_CYCLES", CYCLES) {
        let at = usize::try_from(cycle).unwrap();
        let trouble = TROUBLES[if at < TROUBLES.len() { at } else { random.index(4) }];
        let shared = Mutex::new(record);
        let seed = random.next();
        let mut pause = || std::thread::sleep(Duration::from_millis(random.below(300) + 50));
        let was_healthy = status(&mut node).state == GroupState::Healthy;
        let address = node.address;
        let mut running = (Some(node), Some(shelf));
        load(address, &shared, seed, || {
            pause();
            let (node, shelf) = &mut running;
            match trouble {
                Trouble::Node => {}
                Trouble::Wire => {
                    for _ in 0..3 {
                        wire.cut();
                        cuts += 1;
                        pause();
                    }
                    let status = status(node.as_mut().unwrap());
                    let lost = status.members.iter().filter(|it| it.state == MemberState::Failed);
                    assert!(!was_healthy || lost.count() == 0, "{status:?}: {}", stand.log());
                }
                Trouble::Shelf => {
                    drop(shelf.take());
                    pause();
                    *shelf = Some(stand.shelf());
                    let node = node.as_mut().unwrap();
                    until(node, "the group is lost", |group| {
                        group.state == GroupState::Failed
                    });
                }
                Trouble::Both => drop(shelf.take()),
            }
            drop(node.take());
        });
        shelf = running.1.unwrap_or_else(|| stand.shelf());
        record = shared.into_inner().unwrap();
        let may_fail = trouble == Trouble::Shelf;
        assert!(may_fail || record.failed == 0, "{trouble:?}: {}", stand.log());
        record.cut();
        writes += record.acknowledged;
        node = stand.node();
        let data = read_all(node.address, &mut record);
        record = record
            .next(&data)
            .unwrap_or_else(|wrong| panic!("cycle {cycle}, {trouble:?}: {wrong}\n{}", stand.log()));
    }
    scrub(&mut node, &stand);
    let log = stand.log();
    assert!(writes > 0 && !log.contains("panicked"), "{log}");
    println!("shelf    {writes} writes acknowledged, {cuts} cuts");
    drop((node, shelf));
}
