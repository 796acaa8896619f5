//! Drives that hang, are slow, err or cannot be read, under hosts that notice nothing.

use std::time::{Duration, Instant};

use braid::target::manage::{
    DriveInject, DriveStatus, FaultKind, GroupState, HealthState, MemberState, Reply, Request,
};

use super::bad_hosts::{assert_undisturbed, verify};
use super::queue::{Host, pattern, read};
use super::stage::{FILES, Stage};

/// Thresholds that a test can wait for.
const HEALTH: &str = r#"
[health]
allow_fault_injection = true
hang_ms = 1000
hang_last_ms = 3000
window_ms = 300
window_commands = 20
slow_windows = 3
slow_factor = 4
slow_floor_us = 5000
"#;

/// For tests that need no verdict of their own: silences and delays are judged as by default, because a drive that a busy machine makes wait
/// would be taken for a bad one.
const PATIENT: &str = r#"
[health]
allow_fault_injection = true
"#;

/// Four memory drives in a group that survives the loss of one.
const MEMORY: &str = r#"
[reactor]
cores = 2
[[drive]]
name = "d0"
memory_mib = 16
[[drive]]
name = "d1"
memory_mib = 16
[[drive]]
name = "d2"
memory_mib = 16
[[drive]]
name = "d3"
memory_mib = 16
[[group]]
name = "g"
drives = ["d0", "d1", "d2", "d3"]
strip_kib = 16
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 24
nsid = 1
"#;

fn inject(stage: &Stage, drive: &str, fault: FaultKind) {
    inject_more(stage, drive, fault, |_| ());
}

fn inject_more(stage: &Stage, drive: &str, fault: FaultKind, more: impl FnOnce(&mut DriveInject)) {
    let mut request = DriveInject {
        drive: drive.to_owned(),
        fault,
        at_bytes: None,
        blocks: None,
        slow_us: None,
    };
    more(&mut request);
    let reply = stage.call(Request::DriveInject(request));
    assert!(matches!(reply, Ok(Reply::Drive(_))), "{reply:?}");
}

fn slow(stage: &Stage, drive: &str, micros: u64) {
    inject_more(stage, drive, FaultKind::Slow, |request| {
        request.slow_us = Some(micros)
    });
}

fn state(stage: &Stage, drive: &str) -> HealthState {
    stage.drive(drive).health.state
}

/// Writes all of the virtual disk and gives what it holds.
fn fill(host: &mut Host) -> Vec<u8> {
    let data = pattern(1, 24 << 20);
    for (slba, piece) in (0..).step_by(64).zip(data.chunks(256 * 1024)) {
        host.write(1, slba, 4096, piece);
    }
    data
}

fn assert_holds(host: &mut Host, data: &[u8]) {
    for (slba, piece) in (0..).step_by(64).zip(data.chunks(256 * 1024)) {
        assert!(host.read(1, slba, 64, 4096) == piece, "from block {slba}");
    }
}

/// Reads and writes while one drive answers nothing; the drive's late answers, after it is well again, meet memory that
/// nobody else has got meanwhile.
fn a_hung_drive_under_load(text: &str) {
    let mut stage = Stage::set(&format!("{HEALTH}{text}"));
    let mut host = Host::connect(stage.address());
    let data = fill(&mut host);
    let address = stage.address();
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| verify(address, 1, 5));
        stage.until("the load is on", |stage| {
            stage.hosts().iter().any(|host| host.io_queues == 2)
        });
        inject(&stage, "d1", FaultKind::Hang);
        let began = Instant::now();
        stage.until("the drive is given up", |stage| {
            stage.group("g").state == GroupState::Degraded
        });
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "within the threshold and a little: {:?}",
            began.elapsed()
        );
        let drive = stage.drive("d1");
        assert_eq!(
            drive.health.state,
            HealthState::Quarantined,
            "{:?}",
            stage.group("g")
        );
        assert!(
            drive
                .health
                .reason
                .as_ref()
                .is_some_and(|why| why.contains("unanswered")),
            "{drive:?}"
        );
        assert_eq!(drive.health.hangs, 1);
        stage.until("its commands are given up", |stage| {
            stage.drive("d1").health.unanswered > 0
        });
        inject(&stage, "d1", FaultKind::Clear);
        stage.until("its late answers are in", |stage| {
            stage.drive("d1").health.unanswered == 0
        });
        load.join().unwrap()
    });
    assert_undisturbed(&report);
    let group = stage.group("g");
    assert_eq!(group.members[1].state, MemberState::Failed);
    assert_eq!(
        stage.drive("d1").health.state,
        HealthState::Quarantined,
        "it lacks what was written meanwhile"
    );
    drop((host, data));
    let mut host = Host::connect(stage.address());
    let data = fill(&mut host);
    assert_holds(&mut host, &data);
    drop(host);
    stage.stop();
}

#[test]
fn hosts_go_on_past_a_hung_memory_drive() {
    a_hung_drive_under_load(MEMORY);
}

#[test]
fn hosts_go_on_past_a_hung_file() {
    a_hung_drive_under_load(FILES);
}

/// A read whose buffer a hung drive may still fill is completed from another buffer, and the late answer changes nothing.
#[test]
fn a_read_that_a_drive_leaves_half_done_is_completed_by_the_others() {
    let stage = Stage::set(&format!("{HEALTH}{MEMORY}"));
    let mut host = Host::connect(stage.address());
    let data = fill(&mut host);
    inject(&stage, "d2", FaultKind::Hang);
    let began = Instant::now();
    assert_holds(&mut host, &data);
    assert!(
        began.elapsed() >= Duration::from_millis(500),
        "the first read waited for it"
    );
    assert!(
        stage.drive("d2").health.unanswered > 0,
        "its commands are still with it"
    );
    inject(&stage, "d2", FaultKind::Clear);
    stage.until("its late answers are in", |stage| {
        stage.drive("d2").health.unanswered == 0
    });
    assert_holds(&mut host, &data);
}

/// Whoever takes the drive out, what it was asked before ends.
#[test]
fn a_read_ends_although_its_hung_drive_was_taken_out_meanwhile() {
    let stage = Stage::set(&format!("{PATIENT}{FILES}"));
    let mut host = Host::connect(stage.address());
    let data = fill(&mut host);
    inject(&stage, "d0", FaultKind::Hang);
    let cid = host.io[0].submit(read(1, 0, 64), &[], 256 * 1024);
    let before = stage.drive("d0").reads;
    stage.until("the read is with the drive", |stage| {
        let drive = stage.drive("d0");
        drive.reads > before || drive.health.state != HealthState::Good
    });
    stage.fail_drive("g", "d0");
    assert!(host.io[0].wait(cid).data() == data[..256 * 1024]);
    assert_holds(&mut host, &data);
}

#[test]
fn a_node_stops_cleanly_while_a_drive_hangs() {
    for text in [MEMORY, FILES] {
        let mut stage = Stage::set(&format!("{HEALTH}{text}"));
        let mut host = Host::connect(stage.address());
        host.write(1, 0, 4096, &pattern(3, 64 * 4096));
        inject(&stage, "d0", FaultKind::Hang);
        drop(host);
        let began = Instant::now();
        stage.stop();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

#[test]
fn a_slow_drive_is_evicted_only_where_the_group_can_do_without_it() {
    let stage = Stage::set(&format!("{HEALTH}{MEMORY}"));
    let address = stage.address();
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| verify(address, 1, 8));
        stage.until("the load is on", |stage| {
            stage.hosts().iter().any(|host| host.io_queues == 2)
        });
        slow(&stage, "d3", 30_000);
        stage.until("the slow drive is evicted", |stage| {
            state(stage, "d3") == HealthState::Evicted
        });
        assert_eq!(stage.group("g").state, GroupState::Degraded);
        // Now none can be spared.
        slow(&stage, "d0", 30_000);
        stage.until("the second one is suspected", |stage| {
            state(stage, "d0") == HealthState::Suspect
        });
        let windows = stage.drive("d0").health.slow_windows;
        stage.until("it has been slow for much longer", |stage| {
            stage.drive("d0").health.slow_windows > windows + 3
        });
        assert_eq!(state(&stage, "d0"), HealthState::Suspect);
        assert_eq!(stage.group("g").state, GroupState::Degraded, "and in use");
        inject(&stage, "d0", FaultKind::Clear);
        load.join().unwrap()
    });
    assert_undisturbed(&report);
}

#[test]
fn all_drives_slow_at_once_evicts_none() {
    let stage = Stage::set(&format!("{HEALTH}{MEMORY}"));
    for drive in ["d0", "d1", "d2", "d3"] {
        slow(&stage, drive, 20_000);
    }
    assert_undisturbed(&verify(stage.address(), 1, 3));
    for drive in ["d0", "d1", "d2", "d3"] {
        let DriveStatus { health, .. } = stage.drive(drive);
        assert_eq!(health.state, HealthState::Good);
        assert!(health.p99_us.is_some_and(|p99| p99 >= 20_000), "{health:?}");
    }
    assert_eq!(stage.group("g").state, GroupState::Healthy);
}

#[test]
fn a_drive_that_refuses_everything_is_given_up_and_hosts_go_on() {
    let stage = Stage::set(&format!("{HEALTH}{FILES}"));
    let address = stage.address();
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| verify(address, 1, 2));
        stage.until("the load is on", |stage| {
            stage.hosts().iter().any(|host| host.io_queues == 2)
        });
        inject(&stage, "d2", FaultKind::Error);
        load.join().unwrap()
    });
    assert_undisturbed(&report);
    assert_eq!(stage.group("g").state, GroupState::Degraded);
    assert!(stage.drive("d2").health.io_errors > 0);
    assert!(state(&stage, "d2") != HealthState::Good);
}

/// Where nothing can be done without the drive, its commands wait longer, and then fail rather than never end.
#[test]
fn a_hung_drive_without_redundancy_fails_its_group_in_the_end() {
    let text = r#"
[[drive]]
name = "d0"
memory_mib = 16
[[group]]
name = "g"
level = "raid0"
drives = ["d0"]
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 8
nsid = 1
"#;
    let mut stage = Stage::set(&format!("{HEALTH}{text}"));
    let mut host = Host::connect(stage.address());
    host.write(1, 0, 4096, &pattern(4, 4096));
    inject(&stage, "d0", FaultKind::Hang);
    let began = Instant::now();
    let status = host.io[0].run(read(1, 0, 1), &[], 4096).status();
    assert!(!status.is_success(), "{status:?}");
    assert!(
        began.elapsed() >= Duration::from_millis(3000),
        "more patience: {:?}",
        began.elapsed()
    );
    assert_eq!(stage.group("g").state, GroupState::Failed);
    drop(host);
    stage.stop();
}

#[test]
fn faults_are_injected_only_where_the_configuration_allows_it() {
    let stage = Stage::set(MEMORY);
    let request = DriveInject {
        drive: "d0".to_owned(),
        fault: FaultKind::Hang,
        at_bytes: None,
        blocks: None,
        slow_us: None,
    };
    let error = stage.call(Request::DriveInject(request)).unwrap_err();
    assert!(error.to_string().contains("injects no faults"), "{error}");
    assert_undisturbed(&verify(stage.address(), 1, 1));
}

/// What a drive is, stands on it: where it is plugged in does not matter.
#[test]
fn drives_that_were_swapped_are_known_by_what_is_on_them() {
    let mut stage = Stage::set(FILES);
    let mut host = Host::connect(stage.address());
    let data = fill(&mut host);
    drop(host);
    stage.stop();
    let path = |name: &str| stage.path().join(name);
    std::fs::rename(path("d0.img"), path("aside.img")).unwrap();
    std::fs::rename(path("d3.img"), path("d0.img")).unwrap();
    std::fs::rename(path("d1.img"), path("d3.img")).unwrap();
    std::fs::rename(path("aside.img"), path("d1.img")).unwrap();
    stage.start().unwrap();
    let group = stage.group("g");
    assert_eq!(group.state, GroupState::Healthy);
    let carried: Vec<_> = group
        .members
        .iter()
        .map(|member| member.drive.as_deref().unwrap_or_default())
        .collect();
    assert_eq!(carried, ["d1", "d3", "d2", "d0"]);
    assert_holds(&mut Host::connect(stage.address()), &data);
}
/// Blocks that a drive cannot read cost hosts nothing, are written anew, and then the drive itself reads them.
#[test]
fn unreadable_blocks_are_repaired_from_the_others() {
    for text in [MEMORY, FILES] {
        let health = format!("{PATIENT}media_errors_per_hour = 1000000\n");
        let stage = Stage::set(&format!("{health}{text}"));
        let mut host = Host::connect(stage.address());
        let data = fill(&mut host);
        inject_more(&stage, "d1", FaultKind::Media, |request| {
            request.at_bytes = Some(0);
            request.blocks = Some((16 << 20) / u64::from(stage.drive("d1").block_bytes));
        });
        assert_holds(&mut host, &data);
        stage.until("everything that was met is repaired", |stage| {
            let health = stage.drive("d1").health;
            health.media_errors > 100 && health.media_errors == health.repaired
        });
        let drive = stage.drive("d1");
        assert_eq!(drive.health.state, HealthState::Good);
        assert_eq!(drive.health.repairs_failed, 0);
        let (reads, errors) = (drive.reads, drive.health.media_errors);
        assert_holds(&mut host, &data);
        // Counts arrive a little later.
        stage.until("the drive itself is asked", |stage| {
            stage.drive("d1").reads > reads
        });
        let drive = stage.drive("d1");
        assert_eq!(drive.health.media_errors, errors, "and could read it");
        assert_eq!(stage.group("g").state, GroupState::Healthy);
    }
}

#[test]
fn a_drive_with_too_many_unreadable_blocks_is_evicted() {
    let stage = Stage::set(&format!("{PATIENT}media_errors_per_hour = 5\n{MEMORY}"));
    let mut host = Host::connect(stage.address());
    let data = fill(&mut host);
    inject_more(&stage, "d1", FaultKind::Media, |request| {
        request.at_bytes = Some(0);
        request.blocks = Some((16 << 20) / 512);
    });
    assert_holds(&mut host, &data);
    stage.until("the drive is evicted", |stage| {
        state(stage, "d1") == HealthState::Evicted && stage.group("g").state == GroupState::Degraded
    });
    assert_holds(&mut host, &data);
}
