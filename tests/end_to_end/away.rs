//! Drives that are away for a while and come back: only what was written meanwhile is rebuilt.

use std::time::Duration;

use braid::target::manage::{
    BackgroundRequest, DriveReplace, GroupScrub, GroupState, MemberState, RebuildStatus, Request, ScrubState,
};

use super::queue::{Host, pattern};
use super::stage::Stage;

/// CHECKLIST D1: a group of four with two check strips. Rows are 32 KiB.
const RAID6: &str = r#"
[reactor]
cores = 2
[[drive]]
name = "d0"
memory_mib = 24
[[drive]]
name = "d1"
memory_mib = 24
[[drive]]
name = "d2"
memory_mib = 24
[[drive]]
name = "d3"
memory_mib = 24
[[group]]
name = "g"
level = "raid6"
drives = ["d0", "d1", "d2", "d3"]
strip_kib = 16
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 12
nsid = 1
"#;

const PIECE_BLOCKS: u32 = 32;
const PIECE_BYTES: usize = PIECE_BLOCKS as usize * 4096;

fn write_all(host: &mut Host, data: &[u8]) {
    for (slba, piece) in (0..).step_by(PIECE_BLOCKS as usize).zip(data.chunks(PIECE_BYTES)) {
        host.write(1, slba, 4096, piece);
    }
}

fn holds_all(host: &mut Host, data: &[u8]) -> bool {
    let mut pieces = (0..).step_by(PIECE_BLOCKS as usize).zip(data.chunks(PIECE_BYTES));
    pieces.all(|(slba, piece)| host.read(1, slba, PIECE_BLOCKS, 4096) == piece)
}

/// Brings a member's own drive back, and waits until nothing of it is left to be rebuilt.
fn bring_back(stage: &Stage, member: u8, drive: &str) {
    let request = DriveReplace {
        group: "g".into(),
        member,
        drive: drive.into(),
        force: false,
    };
    stage.call(Request::DriveReplace(request)).unwrap();
    stage.until("the drive is whole again", |stage| {
        stage.group("g").members[usize::from(member)].state == MemberState::Active
    });
}

fn rebuilt(stage: &Stage) -> RebuildStatus {
    let group = stage.group("g");
    group.background.rebuild.expect("there was a rebuild")
}

/// Scrubs the group, and wants every row to fit.
fn scrub(stage: &Stage) {
    let (group, repair) = ("g".into(), false);
    let request = BackgroundRequest::Scrub(GroupScrub { group, repair });
    stage.call(Request::Background(request)).unwrap();
    stage.until("the scrub has ended", |stage| {
        let scrub = stage.group("g").background.scrub;
        scrub.is_some_and(|scrub| scrub.state == ScrubState::Completed)
    });
    let scrub = stage.group("g").background.scrub.expect("it has ended");
    assert_eq!((scrub.mismatches, scrub.unreadable), (0, 0));
}

/// CHECKLIST D6 (PROTOCOL H31): few rows are written while a drive is away, and only these are rebuilt when it is back.
#[test]
fn a_drive_that_was_away_is_rebuilt_in_the_rows_that_it_missed() {
    let stage = Stage::set(RAID6);
    let mut host = Host::connect(stage.address());
    let mut data = pattern(3, 8 << 20);
    write_all(&mut host, &data);
    // What is destaged and flushed by then is nothing that the drive could miss.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(stage.fail_drive("g", "d1"), GroupState::Degraded);
    for (nth, (slba, blocks)) in (0..).zip([(5_u64, 1_usize), (700, 3), (1500, 9)]) {
        let more = pattern(50 + nth, blocks * 4096);
        host.write(1, slba, 4096, &more);
        let start = usize::try_from(slba).unwrap() * 4096;
        data[start..start + more.len()].copy_from_slice(&more);
    }
    // Until they are destaged: rows are marked when they are written in place.
    std::thread::sleep(Duration::from_secs(3));
    bring_back(&stage, 1, "d1");
    let RebuildStatus { partial, rows, done } = rebuilt(&stage);
    assert!(partial && done, "{:?}", rebuilt(&stage));
    // Three writes lie in a few rows of 32 KiB, of several hundred.
    assert!((3..=12).contains(&rows), "{rows} rows");
    scrub(&stage);
    for lost in ["d0", "d3"] {
        assert_eq!(stage.fail_drive("g", lost), GroupState::Degraded);
    }
    assert!(holds_all(&mut host, &data), "with what was rebuilt");
    // And again, one after the other.
    let more = pattern(60, PIECE_BYTES);
    host.write(1, 64, 4096, &more);
    data[64 * 4096..][..more.len()].copy_from_slice(&more);
    for (member, lost) in [(0, "d0"), (3, "d3")] {
        bring_back(&stage, member, lost);
        assert!(rebuilt(&stage).partial, "{:?}", rebuilt(&stage));
    }
    scrub(&stage);
    for lost in ["d1", "d2"] {
        assert_eq!(stage.fail_drive("g", lost), GroupState::Degraded);
    }
    assert!(holds_all(&mut host, &data), "with what both have got back");
}
