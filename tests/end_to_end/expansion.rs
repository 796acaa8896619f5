//! Groups that get more drives while hosts use them (CHECKLIST G1, G3; PROTOCOL H34 to H36, I13).

use braid::target::manage::{
    BackgroundRequest, DriveReplace, GroupExpand, GroupName, GroupSetRate, GroupState, ManageError, Reply,
    Request, Size, VdiskResize,
};
use nvme::command::{SubmissionEntry, admin_opcode};

use super::bad_hosts::{assert_undisturbed, verify};
use super::queue::{Host, pattern};
use super::stage::Stage;

/// Data that is written before and looked for ever after.
const BYTES: usize = 10 << 20;
/// Blocks of a command.
const PIECE: usize = 32;

/// A group of this level on the first memory drives; `more` are left.
fn group(level: &str, drives: usize, more: usize) -> String {
    let mut text = "[reactor]\ncores = 2\n".to_owned();
    let mut names = String::new();
    for drive in 0..drives + more {
        text += &format!("[[drive]]\nname = \"d{drive}\"\nmemory_mib = 24\n");
    }
    for drive in 0..drives {
        names += &format!("\"d{drive}\", ");
    }
    text += &format!(
        "[[group]]\nname = \"g\"\nlevel = \"{level}\"\ndrives = [{names}]\nstrip_kib = 16\ncreate = true\n"
    );
    text + "[[vdisk]]\nname = \"v\"\ngroup = \"g\"\nsize_mib = 12\nnsid = 1\n"
}

fn expand(stage: &Stage, drives: &[&str]) -> Result<Reply, ManageError> {
    stage.call(Request::GroupExpand(GroupExpand {
        group: "g".into(),
        drives: drives.iter().map(|drive| (*drive).to_owned()).collect(),
        force: false,
    }))
}

fn resize(stage: &Stage, vdisk: &str, size: Size) -> Result<Reply, ManageError> {
    let vdisk = vdisk.to_owned();
    stage.call(Request::VdiskResize(VdiskResize { vdisk, size }))
}

/// Slow enough to be met in the middle; 0 for as fast as it goes.
fn set_rate(stage: &Stage, rate_mib_s: u32) {
    let set = GroupSetRate {
        group: "g".into(),
        rate_mib_s,
        latency_target_us: 0,
    };
    stage
        .call(Request::Background(BackgroundRequest::SetRate(set)))
        .unwrap();
}

fn is_over(stage: &Stage) -> bool {
    stage.group("g").expansion_done_rows.is_none()
}

/// Waits until some rows are laid out anew, and not all.
fn until_half_way(stage: &Stage) {
    stage.until("rows are laid out anew", |stage| {
        let group = stage.group("g");
        let done = group.expansion_done_rows.expect("it is slow");
        done > 20 && done < group.rows
    });
}

fn fill(host: &mut Host, seed: u64) -> Vec<u8> {
    let data = pattern(seed, BYTES);
    for (slba, piece) in (0..).step_by(PIECE).zip(data.chunks(PIECE * 4096)) {
        host.write(1, slba, 4096, piece);
    }
    data
}

#[track_caller]
fn assert_holds(host: &mut Host, data: &[u8], when: &str) {
    for (slba, piece) in (0..).step_by(PIECE).zip(data.chunks(PIECE * 4096)) {
        let blocks = u32::try_from(piece.len() / 4096).unwrap();
        assert!(host.read(1, slba, blocks, 4096) == piece, "{when}: block {slba}");
    }
}

/// Blocks of a namespace, as Identify says.
fn blocks_of(host: &mut Host, nsid: u32) -> u64 {
    let data = host.identify(0, nsid);
    u64::from_le_bytes(data[..8].try_into().unwrap())
}

/// Expands under a verifying load; afterwards everything is where it was, the new room can be used, and check data fit: all is there
/// without any drives that may be lost.
fn grows(level: &str, (drives, more): (usize, usize), failing: &[&str]) {
    let stage = Stage::set(&group(level, drives, more));
    let mut host = Host::connect(stage.address());
    fill(&mut host, 7);
    let before = stage.group("g").capacity_bytes;
    let new: Vec<String> = (drives..drives + more).map(|drive| format!("d{drive}")).collect();
    let new: Vec<&str> = new.iter().map(String::as_str).collect();
    let address = stage.address();
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(move || verify(address, 1, 3));
        stage.until("the load is on", |stage| {
            stage.hosts().iter().any(|host| host.io_queues == 2)
        });
        expand(&stage, &new).unwrap();
        assert_eq!(stage.group("g").members.len(), drives + more);
        stage.until("the expansion is over", is_over);
        load.join().unwrap()
    });
    assert_undisturbed(&report);
    // The load has verified its own; from here on every block has a known content.
    let data = fill(&mut host, 8);
    assert_holds(&mut host, &data, "expanded");
    let after = stage.group("g").capacity_bytes;
    assert!(after > before, "{after} bytes after {before}");
    let Ok(Reply::Vdisk(vdisk)) = resize(&stage, "v", Size::All) else {
        panic!("the virtual disk grows")
    };
    assert_eq!(vdisk.capacity_bytes, after, "it has the whole group");
    let last = vdisk.capacity_bytes / 4096 - 8;
    let end = pattern(9, 8 * 4096);
    host.write(1, last, 4096, &end);
    for drive in failing {
        assert_eq!(stage.fail_drive("g", drive), GroupState::Degraded);
    }
    assert_holds(&mut host, &data, "without drives that may be lost");
    assert!(host.read(1, last, 8, 4096) == end);
}

#[test]
fn raid5_grows_from_three_drives_to_four_under_load() {
    grows("raid5", (3, 1), &["d3"]);
}

#[test]
fn raid6_grows_from_four_drives_to_six_under_load() {
    grows("raid6", (4, 2), &["d1", "d4"]);
}

#[test]
fn raid10_grows_from_four_drives_to_six_under_load() {
    grows("raid10", (4, 2), &["d0", "d5"]);
}

#[test]
fn raid0_grows_from_two_drives_to_three_under_load() {
    grows("raid0", (2, 1), &[]);
}

/// What was there before is where it was while rows move, whether or not it has moved yet; and what is written meanwhile, too.
#[test]
fn blocks_stay_what_they_are_half_way_and_over_a_stop() {
    let mut stage = Stage::set(
        &super::stage::FILES
            .replace(
                "drives = [\"d0\", \"d1\", \"d2\", \"d3\"]",
                "drives = [\"d0\", \"d1\", \"d2\"]",
            )
            .replace("size_mib = 24", "size_mib = 12"),
    );
    let mut host = Host::connect(stage.address());
    let data = fill(&mut host, 3);
    let capacity = stage.group("g").capacity_bytes;
    set_rate(&stage, 4);
    expand(&stage, &["d3"]).unwrap();
    until_half_way(&stage);
    assert_holds(&mut host, &data, "half way");
    assert_eq!(stage.group("g").capacity_bytes, capacity, "I13");
    let data = fill(&mut host, 4);
    drop(host);
    stage.stop();
    stage.start().unwrap();
    let group = stage.group("g");
    assert!(
        group.expansion_done_rows.is_some_and(|done| done > 20),
        "it goes on where it was"
    );
    let mut host = Host::connect(stage.address());
    assert_holds(&mut host, &data, "after the start");
    stage.until("the expansion is over", is_over);
    assert!(stage.group("g").capacity_bytes > capacity);
    assert_holds(&mut host, &data, "at the end");
    drop(host);
    stage.stop();
    stage.start().unwrap();
    let mut host = Host::connect(stage.address());
    assert_holds(&mut host, &data, "and ever after");
    assert_eq!(stage.group("g").members.len(), 4);
}

/// H36: while a member is lost nothing moves; its place is filled first, and then the expansion goes on by itself.
#[test]
fn an_expansion_waits_for_the_rebuild_of_a_drive_that_fails_in_its_midst() {
    let stage = Stage::set(&group("raid5", 3, 2));
    let mut host = Host::connect(stage.address());
    let data = fill(&mut host, 3);
    set_rate(&stage, 4);
    expand(&stage, &["d3"]).unwrap();
    until_half_way(&stage);
    assert_eq!(stage.fail_drive("g", "d1"), GroupState::Degraded);
    assert_holds(&mut host, &data, "degraded");
    let done = stage.group("g").expansion_done_rows;
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(stage.group("g").expansion_done_rows, done, "nothing moves");
    set_rate(&stage, 0);
    let replace = DriveReplace {
        group: "g".into(),
        member: 1,
        drive: "d4".into(),
        force: false,
    };
    stage.call(Request::DriveReplace(replace)).unwrap();
    stage.until("it is rebuilt and the expansion is over", |stage| {
        stage.group("g").state == GroupState::Healthy && is_over(stage)
    });
    assert_holds(&mut host, &data, "at the end");
    assert_eq!(stage.fail_drive("g", "d3"), GroupState::Degraded);
    assert_holds(&mut host, &data, "without a drive");
}

#[test]
fn operators_pause_it_and_let_it_go_on() {
    let stage = Stage::set(&group("raid5", 3, 1));
    let name = || GroupName { group: "g".into() };
    set_rate(&stage, 4);
    expand(&stage, &["d3"]).unwrap();
    until_half_way(&stage);
    stage
        .call(Request::Background(BackgroundRequest::Pause(name())))
        .unwrap();
    let process = stage.group("g").background.process.unwrap();
    assert_eq!(
        (process.name.as_str(), process.state.as_str()),
        ("expansion", "paused")
    );
    set_rate(&stage, 0);
    stage
        .call(Request::Background(BackgroundRequest::Resume(name())))
        .unwrap();
    stage.until("the expansion is over", is_over);
}

/// A connected host is told by an asynchronous event and sees the new size without connecting again.
#[test]
fn hosts_are_told_of_a_virtual_disk_that_grows() {
    let stage = Stage::set(&group("raid5", 3, 0));
    let mut host = Host::connect(stage.address());
    assert_eq!(blocks_of(&mut host, 1), (12 << 20) / 4096);
    let mut request = SubmissionEntry::new(admin_opcode::ASYNC_EVENT_REQUEST, 0);
    request.set_nsid(0);
    let event = host.admin.submit(request, &[], 0);
    resize(&stage, "v", Size::Bytes(16 << 20)).unwrap();
    let answer = host.admin.wait(event);
    // Notice, Namespace Attribute Changed, the log page of changed namespaces.
    assert_eq!(answer.entry.result & 0xff_ff07, 0x04_0002);
    assert_eq!(blocks_of(&mut host, 1), (16 << 20) / 4096);
    let data = pattern(1, 4096);
    host.write(1, (16 << 20) / 4096 - 1, 4096, &data);
    assert!(host.read(1, (16 << 20) / 4096 - 1, 1, 4096) == data);
    let shrunk = resize(&stage, "1", Size::Bytes(4096)).unwrap_err();
    assert!(shrunk.message.contains("only grows"), "{shrunk:?}");
    let over = resize(&stage, "1", Size::Bytes(1 << 40)).unwrap_err();
    assert_eq!(over.code, ManageError::NO_SPACE, "{over:?}");
    assert!(resize(&stage, "nothing", Size::All).is_err());
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let text = group("raid5", 3, 3) + "[[drive]]\nname = \"small\"\nmemory_mib = 8\n";
    let stage = Stage::set(&text);
    let refused = |drives: &[&str]| expand(&stage, drives).unwrap_err();
    for (drives, why) in [
        (&["d9"][..], "d9"),
        (&["d0"], "in use"),
        (&["small"], "bytes"),
        (&["d3", "d3"], "twice"),
    ] {
        let error = refused(drives);
        assert!(error.message.contains(why), "{drives:?}: {error:?}");
    }
    assert_eq!(stage.group("g").members.len(), 3);
    stage.fail_drive("g", "d2");
    assert!(refused(&["d3"]).message.contains("degraded"));
    let stage = Stage::set(&group("raid1", 2, 1));
    assert!(expand(&stage, &["d2"]).unwrap_err().message.contains("raid1"));
    let stage = Stage::set(&group("raid10", 4, 2));
    assert!(
        expand(&stage, &["d4"])
            .unwrap_err()
            .message
            .contains("even number")
    );
    set_rate(&stage, 4);
    expand(&stage, &["d4", "d5"]).unwrap();
    let error = expand(&stage, &["d4", "d5"]).unwrap_err();
    assert!(
        error.message.contains("going on") || error.message.contains("in use"),
        "{error:?}"
    );
}
