//! Blocks that more drives cannot give back than the level survives: they alone are lost, and hosts, stops and starts go on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use braid::target::manage::{DriveInject, FaultKind, GroupState, HealthState, Reply, Request};
use nvme::status::Status;

use super::queue::{Host, pattern, read};
use super::stage::{FILES, Stage};

const HEALTH: &str = r#"
[health]
allow_fault_injection = true
media_errors_per_hour = 1000000
"#;

const BLOCK: usize = 4096;
/// Blocks of the virtual disk, and of a row's data.
const BLOCKS: u64 = 6144;
const ROW: u64 = 12;

fn spoil(stage: &Stage, drive: &str) {
    let status = stage.drive(drive);
    let request = DriveInject {
        drive: drive.to_owned(),
        fault: FaultKind::Media,
        at_bytes: Some(10 << 20),
        blocks: Some((64 << 10) / u64::from(status.block_bytes)),
        slow_us: None,
    };
    let reply = stage.call(Request::DriveInject(request));
    assert!(matches!(reply, Ok(Reply::Drive(_))), "{reply:?}");
}

/// Reads block by block: the rest is as written, and those that are refused are given back.
fn lost_of(host: &mut Host, data: &[u8]) -> BTreeSet<u64> {
    let mut lost = BTreeSet::new();
    for (block, expected) in (0..BLOCKS).zip(data.chunks(BLOCK)) {
        let answer = host.io[0].run(read(1, block, 1), &[], 4096);
        if answer.is(Status::UNRECOVERED_READ_ERROR) {
            lost.insert(block);
        } else {
            assert!(answer.data() == expected, "block {block}");
        }
    }
    lost
}

/// What the node says is lost.
fn listed(stage: &Stage) -> BTreeSet<u64> {
    let mut blocks = BTreeSet::new();
    for extent in stage.group("g").lost_blocks {
        assert_eq!(extent.vdisk.as_deref(), Some("v"));
        blocks.extend(extent.block..extent.block + extent.blocks);
    }
    blocks
}

#[test]
fn blocks_that_two_drives_cannot_give_back_are_lost_alone_until_they_are_written() {
    let mut stage = Stage::set(&format!("{HEALTH}{FILES}"));
    let mut host = Host::connect(stage.address());
    let mut data = pattern(1, 24 << 20);
    for (slba, piece) in (0..).step_by(64).zip(data.chunks(256 * 1024)) {
        host.write(1, slba, 4096, piece);
    }
    // A clean stop leaves nothing in the journal that could stand in for what the drives forget.
    drop(host);
    stage.stop();
    stage.start().expect("it was stopped in good order");
    let mut host = Host::connect(stage.address());
    spoil(&stage, "d1");
    spoil(&stage, "d2");
    // One block of every row: its check data needs the others.
    for row in 0..BLOCKS / ROW {
        let (block, at) = (row * ROW, usize::try_from(row * ROW).expect("small") * BLOCK);
        let piece = pattern(100 + row, BLOCK);
        host.write(1, block, 4096, &piece);
        data[at..at + BLOCK].copy_from_slice(&piece);
    }
    drop(host);
    let began = Instant::now();
    stage.stop();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    stage.start().expect("one row fails nobody");
    let mut host = Host::connect(stage.address());
    let lost = lost_of(&mut host, &data);
    assert!((12..=32).contains(&lost.len()), "{} blocks are lost", lost.len());
    assert!(
        lost.iter().all(|block| block % ROW != 0),
        "what was written is there"
    );
    assert_eq!(listed(&stage), lost);
    assert_eq!(stage.group("g").state, GroupState::Healthy);
    for drive in ["d0", "d1", "d2", "d3"] {
        assert_eq!(stage.drive(drive).health.state, HealthState::Good);
    }
    for block in &lost {
        let piece = pattern(1000 + block, BLOCK);
        host.write(1, *block, 4096, &piece);
        let at = usize::try_from(*block).expect("small") * BLOCK;
        data[at..at + BLOCK].copy_from_slice(&piece);
    }
    assert_eq!(lost_of(&mut host, &data), BTreeSet::new());
    stage.until("nothing is listed any more", |stage| listed(stage).is_empty());
    drop(host);
    stage.stop();
    stage.start().expect("it was stopped in good order");
    let mut host = Host::connect(stage.address());
    assert_eq!(lost_of(&mut host, &data), BTreeSet::new());
    assert_eq!(listed(&stage), BTreeSet::new());
}
