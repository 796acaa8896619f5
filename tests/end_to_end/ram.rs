//! Groups that acknowledge from memory: what they say of it, what survives, and who is asked when something does not.

use braid::target::manage::{Durability, GroupState};
use nvme::command::io_opcode;

use super::kill_cycles::node::Folder;
use super::queue::{Host, command, pattern};
use super::stage::Stage;

const PIECE_BYTES: usize = 16 * 4096;

fn ram_folder(level: &str, drives: usize) -> Folder {
    let folder = Folder::make(level, drives);
    folder.configure("create = true", "durability = \"ram\"\ncreate = true");
    folder
}

fn flush(host: &mut Host) {
    host.io[0].run(command(io_opcode::FLUSH, 1, 0, 1), &[], 0).ok();
}

/// PROTOCOL H45, H39 and DESIGN section 5: what was flushed survives; but when something may be lost, the group waits for an operator's
/// word, who says it once.
#[test]
fn a_killed_node_loses_nothing_that_was_flushed_and_asks_before_it_goes_on() {
    let folder = ram_folder("raidtp", 5);
    let node = folder.start();
    let mut host = Host::connect(node.address);
    assert_eq!(host.identify(1, 0)[525] & 1, 1, "VWC");
    let flushed = pattern(1, PIECE_BYTES);
    host.write(1, 0, 4096, &flushed);
    host.write(1, 500, 4096, &flushed);
    flush(&mut host);
    host.write(1, 1000, 4096, &flushed);
    node.until("the confession", |group| group.dirty_ram);
    host.write(1, 1500, 4096, &flushed);
    node.kill();

    let said = folder.refused();
    assert!(
        said.contains("acknowledged writes were in memory alone"),
        "{said}"
    );
    assert!(said.contains("--accept-loss g"), "{said}");
    let node = folder.start_with(&["--accept-loss", "g"]);
    assert!(folder.log().contains("acknowledged writes are lost, as accepted"));
    let mut host = Host::connect(node.address);
    for slba in [0, 500] {
        assert!(host.read(1, slba, 16, 4096) == flushed, "{slba}");
    }
    // Accepted once and for all, until something is in memory alone again.
    node.kill();
    folder.start().stop();
}

/// Nobody is asked when nothing can be lost: after a stop, and when nothing was written for a while.
#[test]
fn a_stop_and_some_seconds_of_quiet_leave_nothing_to_ask() {
    let folder = ram_folder("raid10", 4);
    let node = folder.start();
    let written = pattern(2, PIECE_BYTES);
    Host::connect(node.address).write(1, 64, 4096, &written);
    node.until("the confession", |group| group.dirty_ram);
    node.stop();

    let node = folder.start();
    let mut host = Host::connect(node.address);
    assert!(host.read(1, 64, 16, 4096) == written);
    host.write(1, 128, 4096, &written);
    // The write is in the journal, and may be answered before it is confessed that the next ones are not.
    node.until("the confession", |group| group.dirty_ram);
    let group = node.until("nothing is in memory alone", |group| !group.dirty_ram);
    assert_eq!(
        (group.durability, group.state),
        (Durability::Ram, GroupState::Healthy)
    );
    node.kill();

    let node = folder.start();
    let mut host = Host::connect(node.address);
    for slba in [64, 128] {
        assert!(host.read(1, slba, 16, 4096) == written, "{slba}");
    }
    // And it is confessed anew.
    host.write(1, 192, 4096, &written);
    node.until("it is confessed", |group| group.dirty_ram);
    node.stop();
}

/// PROTOCOL H39: a controller says that it has no volatile write cache only if a completed write is on stable media.
#[test]
fn groups_with_a_journal_on_drives_that_keep_it_have_no_volatile_write_cache() {
    let stage = Stage::set(super::stage::FILES);
    let mut host = Host::connect(stage.address());
    assert_eq!(host.identify(1, 0)[525] & 1, 0, "VWC");
    flush(&mut host);
    // What memory drives hold is gone with the power, journal or not.
    let stage = Stage::set(super::stage::TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    assert_eq!(host.identify(1, 0)[525] & 1, 1, "VWC");
}
