//! Hosts that have lost an association, and end what it had under way through another node: real processes, which are stopped and killed.

use std::thread;
use std::time::{Duration, Instant};

use nvme::command::io_opcode;
use nvme::log::CrossResetStage;
use nvme::status::Status;

use super::queue::{Queue, command, pattern, read, write};
use super::scene::Scene;
use super::sharing::{GROUP, connect};

const BLOCK: u32 = 4096;
/// Blocks of a stripe row: three strips of 16 KiB.
const ROW: u64 = 12;
const ROW_BYTES: usize = 48 << 10;
/// Rows that an engine has under way of one command at most.
const WINDOW: u64 = 8;

/// Waits until the target has taken everything that was sent over this queue: commands are taken in order, and this one ends at once.
fn barrier(queue: &mut Queue) {
    let unknown = queue.run(command(0x7d, 1, 0, 1), &[], 0);
    assert!(unknown.is(Status::INVALID_OPCODE));
}

/// PROTOCOL H37: a command that waits inside of a node for a row that another node holds, which is stopped, is withdrawn by a reset through a third
/// one; the rows that it had not come to keep what the host writes there next.
#[test]
fn what_waits_in_a_node_is_withdrawn_by_a_reset_through_another() {
    let far = 100 * ROW;
    let mut scene = Scene::set(3, GROUP);
    scene.create(0);
    scene.until_open("formed", &[0, 1, 2]);
    let mut lost = connect(scene.hosts[0], 1);
    let mut other = connect(scene.hosts[1], 1);
    let mut holder = connect(scene.hosts[2], 2);
    let instance = lost.try_instance().unwrap();
    // Each node has the locks of what it is going to write.
    for row in 0..WINDOW {
        holder.write(1, row * ROW, BLOCK, &pattern(row, ROW_BYTES));
    }
    other.write(1, far, BLOCK, &pattern(1000, BLOCK as usize));
    let stopped = scene.nodes[2].take().unwrap();
    stopped.freeze();
    // It gets no further than to the rows of the node that is stopped.
    let zeroes = command(io_opcode::WRITE_ZEROES, 1, 0, u32::try_from(200 * ROW).unwrap());
    let zeroed = lost.io[0].submit(zeroes, &[], 0);
    barrier(&mut lost.io[0]);
    assert!(!lost.io[0].answers_within(zeroed, Duration::from_millis(50)));
    assert_eq!(other.try_reset(instance).unwrap(), CrossResetStage::Succeeded);
    let new = pattern(2000, BLOCK as usize);
    other.write(1, far, BLOCK, &new);
    stopped.signal("-CONT");
    scene.nodes[2] = Some(stopped);
    scene.until_open("it goes on", &[0, 1, 2]);
    assert!(lost.admin.ends_by_target(), "the node has ended the association");
    let mut hosts: Vec<_> = (3..)
        .zip(&scene.hosts)
        .map(|(host, address)| connect(*address, host))
        .collect();
    // Whoever waited for the rows gets them; the command that was withdrawn would go on by then.
    hosts[0].write(1, 0, BLOCK, &new);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        for host in &mut hosts {
            assert!(host.read(1, far, 1, BLOCK) == new, "the old command has landed");
        }
    }
}

/// PROTOCOL H38: what a node that was killed had under way is over when the others go on without it; and its next life knows nothing of it.
#[test]
fn a_controller_of_a_killed_node_is_over_when_others_go_on() {
    let mut scene = Scene::set(2, GROUP);
    scene.create(0);
    scene.until_open("formed", &[0, 1]);
    let mut lost = connect(scene.hosts[0], 1);
    let mut other = connect(scene.hosts[1], 1);
    let instance = lost.try_instance().unwrap();
    lost.io[0].submit(write(1, 5, 1), &pattern(5, BLOCK as usize), 0);
    scene.nodes[0] = None;
    assert_eq!(other.try_reset(instance).unwrap(), CrossResetStage::Succeeded);
    let status = scene.show(1).expect("it lives");
    let members: Vec<u8> = status.members.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(members, [1], "not before the other one is none any more");
    let seen = other.read(1, 5, 1, BLOCK);
    other.write(1, 6, BLOCK, &pattern(6, BLOCK as usize));
    scene.start_node(0);
    scene.until_open("it is back", &[0, 1]);
    assert_eq!(other.try_reset(instance).unwrap(), CrossResetStage::Succeeded);
    let mut again = connect(scene.hosts[0], 1);
    assert!(
        again.read(1, 5, 1, BLOCK) == seen,
        "it took effect by then or never"
    );
}

/// PROTOCOL H37, H38: a node that is stopped answers nobody. A reset of what it holds is through when the others go on without it, and its next life does not take up what lies in
/// the sockets of the last one.
#[test]
fn a_write_in_a_stopped_node_never_lands_after_a_reset_through_another() {
    let mut scene = Scene::set(2, GROUP);
    scene.create(0);
    scene.until_open("formed", &[0, 1]);
    let mut lost = connect(scene.hosts[0], 1);
    let mut other = connect(scene.hosts[1], 1);
    let instance = lost.try_instance().unwrap();
    lost.write(1, 5, BLOCK, &pattern(1, BLOCK as usize));
    let stopped = scene.nodes[0].take().unwrap();
    stopped.freeze();
    lost.io[0].submit(write(1, 5, 1), &pattern(2, BLOCK as usize), 0);
    assert_eq!(other.try_reset(instance).unwrap(), CrossResetStage::Succeeded);
    let status = scene.show(1).expect("it lives");
    let members: Vec<u8> = status.members.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(members, [1], "not before the other one is none any more");
    let new = pattern(3, BLOCK as usize);
    other.write(1, 5, BLOCK, &new);
    stopped.signal("-CONT");
    scene.nodes[0] = Some(stopped);
    scene.until_open("it is back", &[0, 1]);
    let mut again = connect(scene.hosts[0], 1);
    for host in [&mut other, &mut again] {
        assert!(host.read(1, 5, 1, BLOCK) == new, "the old command has landed");
    }
}

/// PROTOCOL H37: bytes that a host has left in a socket of a node that did not run, before it closed the connection, are no command any more.
#[test]
fn what_is_left_in_sockets_of_a_stopped_node_does_not_begin() {
    let mut scene = Scene::set(1, GROUP);
    scene.create(0);
    scene.until_open("formed", &[0]);
    let old = pattern(1, BLOCK as usize);
    let mut lost = connect(scene.hosts[0], 1);
    lost.write(1, 5, BLOCK, &old);
    let stopped = scene.nodes[0].take().unwrap();
    stopped.freeze();
    lost.io[0].submit(write(1, 5, 1), &pattern(2, BLOCK as usize), 0);
    drop(lost);
    // Less than the lease.
    thread::sleep(Duration::from_millis(900));
    stopped.signal("-CONT");
    scene.nodes[0] = Some(stopped);
    let mut other = connect(scene.hosts[0], 1);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) {
        assert!(other.read(1, 5, 1, BLOCK) == old, "the write has begun");
    }
}

/// PROTOCOL H37: a write that waits in a node for memory, whose host has closed the connection, does not begin when there is memory again.
#[test]
fn what_waits_for_memory_is_withdrawn_when_its_connection_ends() {
    const FLOODS: u8 = 5;
    const READS: u32 = 60;
    let far = 100 * ROW;
    let mut scene = Scene::set(2, GROUP);
    scene.create(0);
    scene.until_open("formed", &[0, 1]);
    let mut holder = connect(scene.hosts[1], 1);
    let mut lost = connect(scene.hosts[0], 2);
    let mut floods: Vec<_> = (0..FLOODS)
        .map(|flood| connect(scene.hosts[0], 3 + flood))
        .collect();
    let old = pattern(1, BLOCK as usize);
    lost.write(1, far, BLOCK, &old);
    holder.write(1, 0, BLOCK, &pattern(2, BLOCK as usize));
    let stopped = scene.nodes[1].take().unwrap();
    stopped.freeze();
    // Reads of a row that is held elsewhere take all memory: of 64 MiB, 256 KiB each.
    let mut reads = Vec::new();
    for flood in &mut floods {
        for _ in 0..READS {
            reads.push(flood.io[0].submit(read(1, 0, 64), &[], 64 * BLOCK));
        }
        // Nothing is answered, but all of it was taken.
        assert!(!flood.io[0].answers_within(reads[reads.len() - 1], Duration::from_millis(20)));
    }
    let mut queue = lost.io.remove(0);
    let waits = queue.submit(write(1, far, 1), &pattern(3, BLOCK as usize), 0);
    assert!(
        !queue.answers_within(waits, Duration::from_millis(100)),
        "it finds no memory"
    );
    drop(queue);
    thread::sleep(Duration::from_millis(250));
    stopped.signal("-CONT");
    scene.nodes[1] = Some(stopped);
    for (at, cid) in reads.into_iter().enumerate() {
        floods[at / READS as usize].io[0].wait(cid).ok();
    }
    let mut other = connect(scene.hosts[1], 3 + FLOODS);
    assert!(other.read(1, far, 1, BLOCK) == old, "the write has begun");
}
