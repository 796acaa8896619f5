//! Long writes, which begin while their data comes (patent application, Figure 12): what hosts that send it bit by bit, wrongly or not at all can do.

use braid::target::manage::{DriveFail, Request};
use nvme::command::{Sgl, SubmissionEntry};
use nvme::status::Status;

use super::queue::{Host, pattern, write};
use super::raw::{R2T, Raw, h2c_data, with_digest};
use super::stage::{Stage, TWO_NAMESPACES};

const BLOCK: u32 = 4096;
const BLOCKS: u32 = 64;
const BYTES: usize = (BLOCK * BLOCKS) as usize;
/// What comes first: two rows of the large namespace, and a part of the next one.
const FIRST: usize = 160 << 10;

/// A write of the large namespace's first blocks, for whose data the target has asked.
fn begin(io: &mut Raw, cid: u16) -> u16 {
    let mut entry: SubmissionEntry = write(2, 0, BLOCKS);
    entry.set_cid(cid);
    entry.set_sgl(Sgl::Transport {
        length_bytes: BLOCK * BLOCKS,
    });
    io.send_capsule(&entry, &[]);
    let r2t = io.receive().unwrap();
    assert_eq!(r2t.kind, R2T);
    u16::from_le_bytes([r2t.bytes[10], r2t.bytes[11]])
}

fn blocks(stage: &Stage, from: u64, count: u32) -> Vec<u8> {
    Host::connect(stage.address()).read(2, from, count, BLOCK)
}

/// A host whose write of this has come in part, and is written in part: its queues, and the tag for the rest.
fn begun(stage: &Stage, new: &[u8]) -> (Raw, Raw, u16) {
    let (admin, mut io) = Raw::connect(stage.address(), 8);
    let ttag = begin(&mut io, 11);
    io.send(&h2c_data(11, ttag, 0, &new[..FIRST], false));
    stage.until("the first row is written", |stage| {
        blocks(stage, 0, 1) == new[..BLOCK as usize]
    });
    (admin, io, ttag)
}

/// CHECKLIST C9: the first rows of a write are there for everybody while the host has not sent the last ones; they hold nothing that others need; and the host hears of it when all are there.
#[test]
fn the_first_rows_of_a_write_are_there_before_the_last_are_sent() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut other = Host::connect(stage.address());
    let old = pattern(1, BYTES);
    other.write(2, 0, BLOCK, &old);
    let new = pattern(2, BYTES);
    let (_admin, mut io, ttag) = begun(&stage, &new);
    let last = u64::from(BLOCKS) - 1;
    assert!(
        blocks(&stage, last, 1) == old[BYTES - BLOCK as usize..],
        "the last is not"
    );
    // Nothing is held: others write all of it meanwhile, and what comes later lies over that.
    let between = pattern(3, BYTES);
    other.write(2, 0, BLOCK, &between);
    io.send(&h2c_data(
        11,
        ttag,
        u32::try_from(FIRST).unwrap(),
        &new[FIRST..],
        true,
    ));
    let completion = io.receive().unwrap().completion();
    assert!(
        completion.cid == 11 && completion.status.is_success(),
        "{}",
        completion.status
    );
    let now = blocks(&stage, 0, BLOCKS);
    assert!(now[BYTES - BLOCK as usize..] == new[BYTES - BLOCK as usize..]);
    for (at, block) in now.chunks(BLOCK as usize).enumerate() {
        let range = at * BLOCK as usize..(at + 1) * BLOCK as usize;
        assert!(block == &new[range.clone()] || block == &between[range], "{at}");
    }
}

/// CHECKLIST C9, PROTOCOL H37: a host that goes in the middle of its data leaves nothing behind that anybody waits for, and each block is old or new.
#[test]
fn a_host_that_goes_in_the_middle_of_its_data_leaves_whole_blocks() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut other = Host::connect(stage.address());
    for round in 0..8_u64 {
        let old = pattern(10 * round, BYTES);
        other.write(2, 0, BLOCK, &old);
        let (admin, mut io) = Raw::connect(stage.address(), 8);
        let ttag = begin(&mut io, 11);
        let new = pattern(10 * round + 1, BYTES);
        let part = (usize::try_from(round).unwrap() * 37 + 5) * 1000 % BYTES;
        io.send(&h2c_data(11, ttag, 0, &new, true)[..part]);
        drop((admin, io));
        stage.until("it is gone", |stage| stage.hosts().len() == 1);
        let now = other.read(2, 0, BLOCKS, BLOCK);
        for (at, block) in now.chunks(BLOCK as usize).enumerate() {
            let range = at * BLOCK as usize..(at + 1) * BLOCK as usize;
            assert!(
                block == &new[range.clone()] || block == &old[range],
                "{round} {at}"
            );
        }
    }
}

/// CHECKLIST C9: a write that fails while its host still sends it says so when the host has sent all, and the connection goes on.
#[test]
fn a_write_that_fails_before_its_data_is_there_says_so_at_the_end() {
    let stage = Stage::set(TWO_NAMESPACES);
    let new = pattern(2, BYTES);
    let (_admin, mut io, ttag) = begun(&stage, &new);
    for (drive, force) in [("b0", false), ("b1", true)] {
        let request = DriveFail {
            group: "b".to_owned(),
            drive: drive.to_owned(),
            force,
        };
        let _ = stage.call(Request::DriveFail(request));
    }
    io.send(&h2c_data(
        11,
        ttag,
        u32::try_from(FIRST).unwrap(),
        &new[FIRST..],
        true,
    ));
    let completion = io.receive().unwrap().completion();
    assert_eq!(completion.cid, 11);
    assert!(!completion.status.is_success(), "two of three drives are lost");
    // The other group is served on the same connection.
    let mut entry = write(1, 0, 8);
    entry.set_cid(12);
    assert!(io.run_with(entry, &pattern(5, 4096)).status.is_success());
}

/// CHECKLIST C9: with data digests each part waits for its own, and nothing of a part whose digest is wrong is written.
#[test]
fn no_part_with_a_wrong_digest_is_written() {
    let stage = Stage::set(TWO_NAMESPACES);
    let (_admin, mut io) = Raw::connect_with_data_digests(stage.address(), 8);
    let ttag = begin(&mut io, 11);
    let new = pattern(2, BYTES);
    let first = h2c_data(11, ttag, 0, &new[..FIRST], false);
    io.send(&with_digest(first, 24, true));
    // With the beginning of the next PDU the first one is known to be right.
    let second = h2c_data(11, ttag, u32::try_from(FIRST).unwrap(), &new[FIRST..], true);
    let second = with_digest(second, 24, false);
    io.send(&second[..1024]);
    stage.until("the first row is written", |stage| {
        blocks(stage, 0, 1) == new[..BLOCK as usize]
    });
    io.send(&second[1024..]);
    let completion = io.receive().unwrap().completion();
    assert!(
        completion.cid == 11 && completion.status.same_code(Status::TRANSIENT_TRANSPORT_ERROR),
        "{}",
        completion.status
    );
    let behind = u64::try_from(FIRST).unwrap() / u64::from(BLOCK);
    let rest = blocks(&stage, behind, BLOCKS - u32::try_from(behind).unwrap());
    assert!(
        rest.iter().all(|byte| *byte == 0),
        "nothing of the second part is there"
    );
}
