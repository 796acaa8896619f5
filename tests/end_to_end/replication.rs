//! When writes to virtual disks are done, in groups that acknowledge from the memory of several nodes.

use std::time::{Duration, Instant};

use braid::target::manage::{Replication, Reply, Request, VdiskName, VdiskReplicate};
use braid::target::rpc::RpcError;

use super::ports::ask;
use super::queue::{Host, pattern, write};
use super::scene::Scene;
use super::sharing::connect;
use super::sharing_memory::{group, until_restored};
use super::stage::WAIT;

const BLOCK: u32 = 4096;

/// What a node says of when writes to a virtual disk are done.
fn mode(scene: &Scene, slot: u8, vdisk: &str) -> Option<Replication> {
    let vdisk = vdisk.to_owned();
    match ask(scene, slot, &Request::VdiskShow(VdiskName { vdisk })) {
        Ok(Reply::Vdisk(vdisk)) => vdisk.replication,
        other => panic!("{other:?}"),
    }
}

fn replicate(scene: &Scene, slot: u8, vdisk: &str, replication: Replication) -> Result<Reply, RpcError> {
    let vdisk = vdisk.to_owned();
    ask(
        scene,
        slot,
        &Request::VdiskReplicate(VdiskReplicate { vdisk, replication }),
    )
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < WAIT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two nodes, and three virtual disks of them: one for each mode, by number.
fn scene() -> Scene {
    let vdisk = |name: &str, nsid: u32, when: &str| {
        format!(
            "[[vdisk]]\nname = \"{name}\"\ngroup = \"g\"\nsize_mib = 1\nnsid = {nsid}\nreplication = \"{when}\"\n"
        )
    };
    let more = vdisk("p", 2, "pseudo-sync") + &vdisk("a", 3, "async");
    let mut scene = Scene::set(2, &(group(2) + &more));
    scene.create(0);
    scene.until_open("formed", &[0, 1]);
    scene
}

/// The numbers of the namespaces to which writes are done, in that order. All are on their way at once, and one partner is stopped.
fn in_which_order(scene: &Scene, host: &mut Host, number: u64) -> Vec<u32> {
    scene.nodes[1].as_ref().unwrap().signal("-STOP");
    let queue = &mut host.io[0];
    let begun = [1, 2, 3].map(|nsid| {
        let data = pattern(10 * number + u64::from(nsid), BLOCK as usize);
        (queue.submit(write(nsid, 0, 1), &data, 0), nsid)
    });
    let order = begun.map(|_| {
        let (cid, answer) = queue.try_next().unwrap();
        answer.ok();
        begun.iter().find(|begun| begun.0 == cid).unwrap().1
    });
    scene.nodes[1].as_ref().unwrap().signal("-CONT");
    order.to_vec()
}

/// CHECKLIST C6, C7, C8, PROTOCOL H21: while a partner is stopped and drives take their time, writes are done at once that need not be anywhere else, or only on their way; the others wait. Each virtual
/// disk says what it promises, and promises something else from when an operator says so, at both nodes and after all have died.
#[test]
fn writes_are_done_when_their_virtual_disk_says() {
    let mut scene = scene();
    let modes = [Replication::Sync, Replication::PseudoSync, Replication::Async];
    for slot in [0, 1] {
        until(
            "it knows the virtual disks",
            || matches!(ask(&scene, slot, &Request::VdiskList), Ok(Reply::Vdisks(vdisks)) if vdisks.len() == 3),
        );
        let said = ["v", "p", "a"].map(|vdisk| mode(&scene, slot, vdisk));
        assert_eq!(said, modes.map(Some), "as it is configured");
    }
    let mut host = connect(scene.hosts[0], 1);
    let warm = |scene: &Scene, host: &mut Host| {
        // Rows are held, and writes are acknowledged from memory.
        until("it acknowledges from memory", || {
            (1..=3).for_each(|nsid| host.write(nsid, 0, BLOCK, &pattern(1, BLOCK as usize)));
            super::sharing_memory::copies(scene, 0).1
        });
        until_restored(scene);
    };
    warm(&scene, &mut host);
    scene.slow_drives_down(300_000);
    let order = in_which_order(&scene, &mut host, 1);
    assert_eq!(
        order[2], 1,
        "who has to know that others have it waits: {order:?}"
    );
    scene.slow_drives_down(0);
    scene.until_open("the partner goes on", &[0, 1]);
    // Whoever is asked.
    replicate(&scene, 1, "v", Replication::Async).unwrap();
    replicate(&scene, 0, "3", Replication::Sync).unwrap();
    for slot in [0, 1] {
        until("both nodes know", || {
            mode(&scene, slot, "v") == Some(Replication::Async)
                && mode(&scene, slot, "a") == Some(Replication::Sync)
        });
    }
    warm(&scene, &mut host);
    scene.slow_drives_down(300_000);
    let order = in_which_order(&scene, &mut host, 2);
    assert_eq!(order[2], 3, "{order:?}");
    scene.slow_drives_down(0);
    scene.until_open("the partner goes on", &[0, 1]);
    scene.kill_everything();
    scene.start_shelf();
    (0..2).for_each(|slot| scene.start_node_with(slot, &["--accept-loss", "g"]));
    scene.until_open("all are back", &[0, 1]);
    assert_eq!(mode(&scene, 1, "v"), Some(Replication::Async));
}

/// CHECKLIST C7: where nothing is acknowledged from the memory of several nodes there is nothing to choose, and whoever tries hears why.
#[test]
fn what_is_on_the_drives_first_has_no_mode() {
    let durable = group(2).replace("durability = \"ram\"\ncopies = 2\n", "");
    let mut scene = Scene::set(2, &durable);
    scene.create(0);
    scene.until_open("formed", &[0, 1]);
    until(
        "it knows the virtual disk",
        || matches!(ask(&scene, 0, &Request::VdiskList), Ok(Reply::Vdisks(vdisks)) if vdisks.len() == 1),
    );
    assert_eq!(mode(&scene, 0, "v"), None);
    let error = replicate(&scene, 0, "v", Replication::Async).unwrap_err();
    assert!(
        format!("{error:?}").contains("from the memory of several nodes"),
        "{error:?}"
    );
}
