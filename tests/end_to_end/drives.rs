//! Drives that fail, lie, are taken twice or come back after a restart.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use braid::target::manage::{GroupState, MemberState};
use braid::target::node::NodeError;

use super::bad_hosts::{assert_undisturbed, verify};
use super::queue::{Host, pattern};
use super::stage::{FILES, Folder, Stage, TWO_NAMESPACES, start};

/// Size of the drives of `FILES`.
const DRIVE_BYTES: u64 = 16 << 20;
/// Bytes at each end of a drive that hold its superblocks.
const END_BYTES: usize = 1 << 20;

#[test]
fn a_group_without_one_drive_reads_and_writes_everything() {
    let stage = Stage::set(FILES);
    let mut host = Host::connect(stage.address());
    let before = pattern(1, 24 << 20);
    for (slba, piece) in (0..).step_by(64).zip(before.chunks(256 * 1024)) {
        host.write(1, slba, 4096, piece);
    }
    assert_eq!(stage.fail_drive("g", "d2"), GroupState::Degraded);
    let mut expected = before;
    for (slba, piece) in (0..).step_by(64).zip(expected.chunks(256 * 1024)) {
        assert!(host.read(1, slba, 64, 4096) == piece, "from parity, {slba}");
    }
    // Small, unaligned and large writes while it is degraded.
    for (nth, (slba, blocks)) in (0..).zip([
        (0_u64, 1_usize),
        (3, 2),
        (11, 5),
        (100, 37),
        (1000, 64),
        (6080, 64),
    ]) {
        let data = pattern(100 + nth, blocks * 4096);
        host.write(1, slba, 4096, &data);
        let start = usize::try_from(slba).unwrap() * 4096;
        expected[start..start + data.len()].copy_from_slice(&data);
    }
    for (slba, piece) in (0..).step_by(64).zip(expected.chunks(256 * 1024)) {
        assert!(
            host.read(1, slba, 64, 4096) == piece,
            "after degraded writes, {slba}"
        );
    }
}

#[test]
fn a_drive_that_fails_under_a_verifying_load_costs_no_command() {
    let stage = Stage::set(TWO_NAMESPACES);
    let address = stage.address();
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| verify(address, 2, 3));
        stage.until("the load is on", |stage| {
            stage.hosts().iter().any(|host| host.io_queues == 2)
        });
        assert_eq!(stage.fail_drive("b", "b1"), GroupState::Degraded);
        load.join().unwrap()
    });
    assert_undisturbed(&report);
    assert_undisturbed(&verify(address, 2, 1));
}

/// A group with a drive that fails every hundredth command.
const FAULTY: &str = r#"
[[drive]]
name = "good-1"
memory_mib = 16
[[drive]]
name = "faulty"
memory_mib = 16
error_every = 100
[[drive]]
name = "good-2"
memory_mib = 16
[[group]]
name = "g"
drives = ["good-1", "faulty", "good-2"]
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 16
nsid = 1
"#;

#[test]
fn errors_of_one_drive_do_not_reach_hosts() {
    let stage = Stage::set(FAULTY);
    assert_undisturbed(&verify(stage.address(), 1, 2));
    let group = stage.group("g");
    assert_eq!(
        group.state,
        GroupState::Degraded,
        "a drive that does not write is given up"
    );
    let failed: Vec<_> = group
        .members
        .iter()
        .filter(|member| member.state == MemberState::Failed)
        .collect();
    assert!(
        failed.len() == 1 && failed[0].drive.as_deref() == Some("faulty"),
        "{failed:?}"
    );
}

#[test]
fn data_and_identities_survive_a_restart() {
    let mut stage = Stage::set(FILES);
    let data = pattern(2, 200 * 4096);
    let (vdisk, group) = (stage.vdisk("v"), stage.group("g"));
    let mut host = Host::connect(stage.address());
    for (slba, piece) in (500..).step_by(50).zip(data.chunks(50 * 4096)) {
        host.write(1, slba, 4096, piece);
    }
    let identity = host.identify(0x00, 1);
    drop(host);
    for round in 0..3 {
        stage.stop();
        stage.start().unwrap();
        let mut host = Host::connect(stage.address());
        for (slba, piece) in (500..).step_by(50).zip(data.chunks(50 * 4096)) {
            assert!(host.read(1, slba, 50, 4096) == piece, "round {round}");
        }
        assert!(host.identify(0x00, 1) == identity, "NGUID, size and format stay");
        assert_eq!(stage.vdisk("v"), vdisk);
        let again = stage.group("g");
        assert_eq!(
            (again.uuid, again.state),
            (group.uuid.clone(), GroupState::Healthy)
        );
    }
}

#[test]
fn a_failed_drive_stays_failed_over_a_restart() {
    let mut stage = Stage::set(FILES);
    let data = pattern(3, 64 * 4096);
    let mut host = Host::connect(stage.address());
    host.write(1, 0, 4096, &pattern(4, 64 * 4096));
    assert_eq!(stage.fail_drive("g", "d0"), GroupState::Degraded);
    host.write(1, 0, 4096, &data); // The failed drive does not know of it.
    drop(host);
    stage.stop();
    stage.start().unwrap();
    assert_eq!(stage.group("g").state, GroupState::Degraded);
    assert!(
        Host::connect(stage.address()).read(1, 0, 64, 4096) == data,
        "the old data is not believed"
    );
}

/// A drive that was pulled out does not keep the others from serving; nor is a group made anew without it.
#[test]
fn a_drive_that_is_gone_does_not_keep_the_node_from_starting() {
    let mut stage = Stage::set(FILES);
    let data = pattern(11, 64 * 4096);
    Host::connect(stage.address()).write(1, 0, 4096, &data);
    stage.stop();
    let (file, away) = (stage.path().join("d1.img"), stage.path().join("away"));
    std::fs::rename(&file, &away).unwrap();
    // As block devices are named: nothing is made in place of one that is not there.
    let unsized_drives = FILES.replace("size_mib = 16", "");
    {
        let node = start(&unsized_drives, stage.path()).unwrap();
        assert!(Host::connect(node.addresses()[0]).read(1, 0, 64, 4096) == data);
        node.stop().unwrap();
    }
    std::fs::rename(&away, &file).unwrap();
    stage.start().unwrap();
    stage.until("the drive is rebuilt", |stage| {
        stage.group("g").state == GroupState::Healthy
    });
    stage.stop();
    let folder = Folder::make();
    let error = start(&unsized_drives, folder.path()).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("group g is not on the drives that are there") && text.contains("d0.img"),
        "{text}"
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing was made"
    );
}

#[test]
fn a_second_opener_is_refused_and_the_first_goes_on() {
    let stage = Stage::set(FILES);
    let data = pattern(5, 4096);
    let mut host = Host::connect(stage.address());
    host.write(1, 0, 4096, &data);
    let error = start(FILES, stage.path()).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, NodeError::Storage(_)) && text.contains("in use by another process"),
        "{text}"
    );
    assert!(host.read(1, 0, 1, 4096) == data);
}

#[test]
fn a_drive_of_another_group_is_not_taken() {
    let mut stage = Stage::set(FILES);
    let data = pattern(6, 4096);
    Host::connect(stage.address()).write(1, 0, 4096, &data);
    stage.stop();
    let other = FILES
        .replace("name = \"g\"", "name = \"other\"")
        .replace("group = \"g\"", "group = \"other\"");
    let error = start(&other, stage.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, NodeError::Groups(_)), "{error}");
    assert!(error.to_string().len() > 30, "it says what is wrong: {error}");
    stage.start().unwrap();
    assert!(
        Host::connect(stage.address()).read(1, 0, 1, 4096) == data,
        "nothing was changed"
    );
}

#[test]
fn a_drive_that_holds_something_else_is_not_taken() {
    let folder = Folder::make();
    let foreign = pattern(7, 4 << 20);
    let file = folder.path().join("d1.img");
    std::fs::write(&file, &foreign).unwrap();
    OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(DRIVE_BYTES)
        .unwrap();
    let error = start(FILES, folder.path()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("d1"), "{error}");
    assert!(
        std::fs::read(&file).unwrap()[..foreign.len()] == foreign,
        "it is as it was"
    );
}

/// Overwrites a part of a drive.
fn spoil(folder: &Path, drive: &str, offset: u64) {
    let file = OpenOptions::new().write(true).open(folder.join(drive)).unwrap();
    file.write_all_at(&pattern(8, END_BYTES), offset).unwrap();
}

#[test]
fn superblock_copies_at_one_end_are_enough() {
    for offset in [0, DRIVE_BYTES - END_BYTES as u64] {
        let mut stage = Stage::set(FILES);
        let data = pattern(9, 64 * 4096);
        Host::connect(stage.address()).write(1, 10, 4096, &data);
        stage.stop();
        for drive in ["d0.img", "d1.img", "d2.img", "d3.img"] {
            spoil(stage.path(), drive, offset);
        }
        stage.start().unwrap();
        assert_eq!(stage.group("g").state, GroupState::Healthy);
        assert!(Host::connect(stage.address()).read(1, 10, 64, 4096) == data);
    }
}

#[test]
fn a_drive_without_any_superblock_is_missing_and_two_are_too_many() {
    let mut stage = Stage::set(FILES);
    let data = pattern(10, 64 * 4096);
    Host::connect(stage.address()).write(1, 10, 4096, &data);
    stage.stop();
    let spoil_both = |stage: &Stage, drive| {
        spoil(stage.path(), drive, 0);
        spoil(stage.path(), drive, DRIVE_BYTES - END_BYTES as u64);
    };
    spoil_both(&stage, "d3.img");
    stage.start().unwrap();
    assert_eq!(stage.group("g").state, GroupState::Degraded);
    assert!(Host::connect(stage.address()).read(1, 10, 64, 4096) == data);
    stage.stop();
    spoil_both(&stage, "d2.img");
    let error = stage.start().unwrap_err();
    assert!(matches!(error, NodeError::Groups(_)), "{error}");
}
