//! Groups of other levels than RAID 5, with as many drives failed under load as they survive.

use braid::target::manage::GroupState;

use super::bad_hosts::{assert_undisturbed, verify};
use super::queue::{Host, pattern};
use super::stage::Stage;

/// A group of this level on memory drives `d0` and on, with one virtual disk.
fn group(level: &str, drives: usize) -> String {
    let mut text = "[reactor]\ncores = 2\n".to_owned();
    let mut names = String::new();
    for drive in 0..drives {
        text += &format!("[[drive]]\nname = \"d{drive}\"\nmemory_mib = 24\n");
        names += &format!("\"d{drive}\", ");
    }
    text += &format!(
        "[[group]]\nname = \"g\"\nlevel = \"{level}\"\ndrives = [{names}]\nstrip_kib = 16\ncreate = true\n"
    );
    text + "[[vdisk]]\nname = \"v\"\ngroup = \"g\"\nsize_mib = 12\nnsid = 1\n"
}

/// CHECKLIST D2: the drives fail one after another while a host reads and verifies what it writes; afterwards everything that
/// was written before reads back, and so does what is written without the drives.
fn serves_without(level: &str, drives: usize, failing: &[&str]) {
    let stage = Stage::set(&group(level, drives));
    let address = stage.address();
    let before = pattern(7, 4 << 20);
    let mut host = Host::connect(address);
    for (slba, piece) in (0..).step_by(32).zip(before.chunks(32 * 4096)) {
        host.write(1, slba, 4096, piece);
    }
    for (slba, piece) in (0..).step_by(32).zip(before.chunks(32 * 4096)) {
        assert!(host.read(1, slba, 32, 4096) == piece, "healthy, {slba}");
    }
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| verify(address, 1, 4));
        stage.until("the load is on", |stage| {
            stage.hosts().iter().any(|host| host.io_queues == 2)
        });
        for drive in failing {
            assert_eq!(stage.fail_drive("g", drive), GroupState::Degraded);
        }
        load.join().unwrap()
    });
    assert_undisturbed(&report);
    let mut expected = before;
    for (slba, piece) in (0..).step_by(32).zip(expected.chunks(32 * 4096)) {
        host.write(1, slba, 4096, piece);
    }
    for (nth, (slba, blocks)) in (0..).zip([(0_u64, 1_usize), (3, 2), (11, 5), (100, 37), (900, 64)]) {
        let data = pattern(100 + nth, blocks * 4096);
        host.write(1, slba, 4096, &data);
        let start = usize::try_from(slba).unwrap() * 4096;
        expected[start..start + data.len()].copy_from_slice(&data);
    }
    for (slba, piece) in (0..).step_by(32).zip(expected.chunks(32 * 4096)) {
        assert!(host.read(1, slba, 32, 4096) == piece, "degraded, {slba}");
    }
}

#[test]
fn raid6_serves_without_two_drives() {
    serves_without("raid6", 5, &["d1", "d3"]);
}

#[test]
fn three_check_strips_serve_without_three_drives() {
    serves_without("raidtp", 6, &["d0", "d1", "d5"]);
}

#[test]
fn raid1_serves_from_one_drive_of_three() {
    serves_without("raid1", 3, &["d0", "d2"]);
}

#[test]
fn raid10_serves_from_one_drive_of_each_pair() {
    serves_without("raid10", 4, &["d0", "d3"]);
}

/// Copies that go round an odd number of drives: any two that are no neighbours may fail.
#[test]
fn raid10_on_five_drives_serves_without_two() {
    serves_without("raid10", 5, &["d0", "d2"]);
}
