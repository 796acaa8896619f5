//! A group gets more drives, and its node is killed again and again in the midst of that.

use std::sync::Mutex;
use std::time::Duration;

use braid::sim::random::Random;

use super::load::{load, read_all};
use super::node::{DISK_BYTES, Folder, Node};
use super::record::{BLOCK, Record};

/// Kills at most; then the rest goes at full speed.
const KILLS: u32 = 6;
/// Slow enough to be met in its midst several times, in MiB/s.
const SLOW_MIB_S: u32 = 10;

/// Reads everything and judges it.
fn check(folder: &Folder, node: &Node, mut record: Record) -> Record {
    let data = read_all(node.address, &mut record);
    let next = record.next(&data);
    next.unwrap_or_else(|wrong| panic!("{wrong}\n{}", folder.log()))
}

/// CHECKLIST G3, PROTOCOL H35: wherever the node is killed, rows in the scratch area included, nothing that was acknowledged is lost, the expansion goes
/// on by itself, and in the end all check data fit.
fn expands(level: &str, drives: usize, more: &[&str]) {
    let folder = Folder::make_beside(level, drives, more.len());
    let mut random = Random::new(3, drives as u64);
    let mut record = Record::new(DISK_BYTES / BLOCK as u64);
    let mut node = folder.start();
    let capacity = node.group().capacity_bytes;
    node.set_rate(SLOW_MIB_S);
    node.expand(more);
    let (mut kills, mut in_midst) = (0, 0);
    while kills < KILLS && node.group().expansion_done_rows.is_some() {
        let written = Mutex::new(record);
        // The first kills meet the rows that go through the scratch area.
        let time = Duration::from_millis(random.below(10 + 80 * u64::from(kills)));
        load(node.address, &written, random.next(), || {
            std::thread::sleep(time);
            node.kill();
        });
        record = written.into_inner().unwrap();
        assert_eq!(record.failed, 0, "a command failed: {}", folder.log());
        record.cut();
        node = folder.start();
        node.set_rate(SLOW_MIB_S);
        kills += 1;
        in_midst += u32::from(node.group().expansion_done_rows.is_some());
        assert_eq!(
            node.group().members.len(),
            drives + more.len(),
            "{}",
            folder.log()
        );
        record = check(&folder, &node, record);
    }
    assert!(in_midst > 0, "it was killed in the midst: {}", folder.log());
    node.set_rate(0);
    let group = node.until("the expansion is over", |group| {
        group.expansion_done_rows.is_none()
    });
    assert!(group.capacity_bytes > capacity);
    let scrub = node.scrub();
    assert_eq!((scrub.mismatches, scrub.unreadable), (0, 0), "{}", folder.log());
    check(&folder, &node, record);
    node.stop();
}

#[test]
fn raid5_expands_through_kills() {
    expands("raid5", 3, &["d3"]);
}

#[test]
fn raid6_expands_through_kills() {
    expands("raid6", 4, &["d4", "d5"]);
}
