//! Every I/O command, with and without digests, on both block sizes, over several queues and cores.

use std::thread;
use std::time::{Duration, Instant};

use nvme::command::{Sgl, SubmissionEntry, admin_opcode, io_opcode};
use nvme::status::Status;

use super::queue::{Host, Manner, command, pattern, read, write};
use super::raw::{R2T, Raw, h2c_data};
use super::stage::{Stage, TWO_NAMESPACES};

/// Namespaces of `TWO_NAMESPACES` and their blocks.
const NAMESPACES: [(u32, u32); 2] = [(1, 512), (2, 4096)];
const MIB: u64 = 1 << 20;

/// Force Unit Access, in Command Dword 12.
const FUA: u32 = 1 << 30;

#[test]
fn reads_bring_what_was_written_in_any_size_place_and_digest() {
    let stage = Stage::set(TWO_NAMESPACES);
    for (at, digests) in (0..).zip([(false, false), (true, false), (false, true), (true, true)]) {
        for flow_control in [false, true] {
            let manner = Manner {
                digests,
                flow_control,
                ..Manner::default()
            };
            let mut host = Host::connect_as(stage.address(), manner);
            for (nsid, block) in NAMESPACES {
                // In the capsule, at its limit, by one R2T, by several strips, as much as a command may move.
                for bytes in [block, 8192, 8192 + block, 100 * 1024 / block * block, 256 * 1024] {
                    for slba in [0, 7, 16 * MIB / u64::from(block) - u64::from(bytes / block)] {
                        let data = pattern(at ^ u64::from(bytes) << 8 ^ slba << 32, bytes as usize);
                        host.write(nsid, slba, block, &data);
                        assert!(
                            host.read(nsid, slba, bytes / block, block) == data,
                            "{digests:?} {nsid} {slba} {bytes}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn namespaces_do_not_share_blocks() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    let (one, two) = (pattern(1, 4096), pattern(2, 4096));
    host.write(1, 0, 512, &one);
    host.write(2, 0, 4096, &two);
    assert!(host.read(1, 0, 8, 512) == one && host.read(2, 0, 1, 4096) == two);
}

#[test]
fn blocks_that_nobody_wrote_read_as_zeroes() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    assert!(host.read(2, 1000, 64, 4096).iter().all(|byte| *byte == 0));
}

#[test]
fn flush_and_forced_writes_succeed() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    for (nsid, block) in NAMESPACES {
        let data = pattern(3, 2 * block as usize);
        let mut forced = write(nsid, 9, 2);
        forced.set_dword(12, 1 | FUA);
        host.io[0].run(forced, &data, 0).ok();
        let mut flush = SubmissionEntry::new(io_opcode::FLUSH, 0);
        flush.set_nsid(nsid);
        host.io[0].run(flush, &[], 0).ok();
        let mut forced = read(nsid, 9, 2);
        forced.set_dword(12, 1 | FUA);
        assert!(host.io[0].run(forced, &[], 2 * block).data() == data);
    }
    let mut all = SubmissionEntry::new(io_opcode::FLUSH, 0);
    all.set_nsid(0xffff_ffff);
    host.io[0].run(all, &[], 0).ok();
}

#[test]
fn compare_tells_equal_from_different() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    for (nsid, block) in NAMESPACES {
        // Across strips and rows, too.
        for blocks in [1, 64] {
            let data = pattern(4, (blocks * block) as usize);
            host.write(nsid, 21, block, &data);
            let compare = command(io_opcode::COMPARE, nsid, 21, blocks);
            host.io[0].run(compare, &data, 0).ok();
            let mut other = data.clone();
            *other.last_mut().unwrap() ^= 1;
            assert!(host.io[0].run(compare, &other, 0).is(Status::COMPARE_FAILURE));
            assert!(host.read(nsid, 21, blocks, block) == data, "it changes nothing");
        }
    }
}

/// Both halves of a fused Compare and Write of one block.
fn compare_and_write(host: &mut Host, nsid: u32, slba: u64, old: &[u8], new: &[u8]) -> (Status, Status) {
    let mut first = command(io_opcode::COMPARE, nsid, slba, 1);
    first.set_fuse(1);
    let mut second = write(nsid, slba, 1);
    second.set_fuse(2);
    let first = host.io[0].submit(first, old, 0);
    let second = host.io[0].submit(second, new, 0);
    (host.io[0].wait(first).status(), host.io[0].wait(second).status())
}

#[test]
fn fused_compare_and_write_writes_only_if_equal() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    for (nsid, block) in NAMESPACES {
        let (old, new) = (pattern(5, block as usize), pattern(6, block as usize));
        host.write(nsid, 33, block, &old);
        let (compared, written) = compare_and_write(&mut host, nsid, 33, &new, &old);
        assert!(compared.same_code(Status::COMPARE_FAILURE), "{compared}");
        assert!(written.same_code(Status::ABORTED_FAILED_FUSED), "{written}");
        assert!(host.read(nsid, 33, 1, block) == old);
        let (compared, written) = compare_and_write(&mut host, nsid, 33, &old, &new);
        assert!(
            compared.is_success() && written.is_success(),
            "{compared} {written}"
        );
        assert!(host.read(nsid, 33, 1, block) == new);
    }
}

/// Goal: Compare and Write is atomic among hosts, queues and cores.
/// Method: each contender adds to one counter by it; no addition may be lost.
#[test]
fn contenders_for_a_block_lose_no_update() {
    const CONTENDERS: u8 = 4;
    const ADDITIONS: u64 = 40;
    let stage = Stage::set(TWO_NAMESPACES);
    let address = stage.address();
    thread::scope(|scope| {
        for host in 1..=CONTENDERS {
            scope.spawn(move || {
                let mut host = Host::connect_as(
                    address,
                    Manner {
                        host,
                        ..Manner::default()
                    },
                );
                let mut added = 0;
                while added < ADDITIONS {
                    let old = host.read(2, 5, 1, 4096);
                    let count = u64::from_le_bytes(old[..8].try_into().unwrap());
                    let mut new = old.clone();
                    new[..8].copy_from_slice(&(count + 1).to_le_bytes());
                    let (compared, written) = compare_and_write(&mut host, 2, 5, &old, &new);
                    if compared.is_success() {
                        assert!(written.is_success(), "{written}");
                        added += 1;
                    } else {
                        assert!(compared.same_code(Status::COMPARE_FAILURE), "{compared}");
                    }
                }
            });
        }
    });
    let counter = Host::connect(address).read(2, 5, 1, 4096);
    assert_eq!(counter[..8], (u64::from(CONTENDERS) * ADDITIONS).to_le_bytes());
}

#[test]
fn a_fused_half_alone_is_refused() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    let data = pattern(7, 4096);
    let mut second = write(2, 0, 1);
    second.set_fuse(2);
    assert!(host.io[0].run(second, &data, 0).is(Status::ABORTED_MISSING_FUSED));
    let mut first = command(io_opcode::COMPARE, 2, 0, 1);
    first.set_fuse(1);
    let first = host.io[0].submit(first, &data, 0);
    let plain = host.io[0].submit(read(2, 0, 1), &[], 4096);
    assert!(host.io[0].wait(first).is(Status::ABORTED_MISSING_FUSED));
    host.io[0].wait(plain).ok();
}

#[test]
fn write_zeroes_zeroes_its_blocks_and_no_others() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    for (nsid, block) in NAMESPACES {
        let data = pattern(8, 256 * 1024);
        let blocks = 256 * 1024 / block;
        host.write(nsid, 0, block, &data);
        let (first, count) = (blocks / 5, blocks / 2);
        host.io[0]
            .run(
                command(io_opcode::WRITE_ZEROES, nsid, u64::from(first), count),
                &[],
                0,
            )
            .ok();
        let mut expected = data;
        expected[(first * block) as usize..((first + count) * block) as usize].fill(0);
        assert!(host.read(nsid, 0, blocks, block) == expected);
    }
}

#[test]
fn dataset_management_touches_its_ranges_only() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    let data = pattern(9, 64 * 4096);
    host.write(2, 100, 4096, &data);
    let range = |slba: u64, blocks: u32| {
        [[0; 4], blocks.to_le_bytes()]
            .concat()
            .into_iter()
            .chain(slba.to_le_bytes())
    };
    let ranges: Vec<u8> = range(110, 5).chain(range(150, 2)).collect();
    let mut entry = SubmissionEntry::new(io_opcode::DATASET_MANAGEMENT, 0);
    entry.set_nsid(2);
    entry.set_dword(10, 1); // Two ranges, 0's based.
    entry.set_dword(11, 1 << 2); // Deallocate.
    host.io[0].run(entry, &ranges, 0).ok();
    let after = host.read(2, 100, 64, 4096);
    for (at, (after, before)) in (100..).zip(after.chunks(4096).zip(data.chunks(4096))) {
        let named = (110..115).contains(&at) || (150..152).contains(&at);
        assert!(
            after == before || (named && after.iter().all(|byte| *byte == 0)),
            "block {at}"
        );
    }
    let outside: Vec<u8> = range(4096, 1).chain(range(0, 1)).collect();
    assert!(host.io[0].run(entry, &outside, 0).is(Status::LBA_OUT_OF_RANGE));
}

#[test]
fn commands_that_make_no_sense_get_their_status_and_harm_nothing() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    let data = pattern(10, 4096);
    host.write(2, 0, 4096, &data);
    let io = &mut host.io[0];
    let blocks = 16 * MIB / 4096;
    assert!(io.run(read(2, blocks, 1), &[], 4096).is(Status::LBA_OUT_OF_RANGE));
    assert!(
        io.run(read(2, blocks - 1, 2), &[], 8192)
            .is(Status::LBA_OUT_OF_RANGE)
    );
    assert!(
        io.run(read(2, u64::MAX, 1), &[], 4096)
            .is(Status::LBA_OUT_OF_RANGE)
    );
    assert!(
        io.run(write(2, blocks - 1, 2), &pattern(1, 8192), 0)
            .is(Status::LBA_OUT_OF_RANGE)
    );
    assert!(
        io.run(command(io_opcode::WRITE_ZEROES, 2, blocks, 1), &[], 0)
            .is(Status::LBA_OUT_OF_RANGE)
    );
    assert!(
        io.run(read(3, 0, 1), &[], 4096)
            .is(Status::INVALID_NAMESPACE_OR_FORMAT)
    );
    assert!(
        io.run(read(0, 0, 1), &[], 4096)
            .is(Status::INVALID_NAMESPACE_OR_FORMAT)
    );
    assert!(io.run(command(0x7c, 2, 0, 1), &[], 0).is(Status::INVALID_OPCODE));
    // The data pointer says less, or more, than the command names.
    assert!(!io.run(read(2, 0, 2), &[], 4096).status().is_success());
    assert!(!io.run(write(2, 0, 2), &pattern(1, 4096), 0).status().is_success());
    // More than MDTS.
    assert!(!io.run(read(2, 0, 128), &[], 512 * 1024).status().is_success());
    assert!(
        host.admin
            .run(SubmissionEntry::new(0x77, 0), &[], 0)
            .is(Status::INVALID_OPCODE)
    );
    assert!(
        host.read(2, 0, 1, 4096) == data,
        "the connection and the data are as before"
    );
}

#[test]
fn queues_on_several_cores_see_one_disk() {
    const QUEUES: u16 = 6;
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect_as(
        stage.address(),
        Manner {
            queues: QUEUES,
            ..Manner::default()
        },
    );
    let queues = usize::from(QUEUES);
    for round in 0..30_u64 {
        for at in 0..queues {
            let slba = round * 7 + at as u64 * 5;
            let data = pattern(round << 8 | at as u64, 5 * 4096);
            host.io[at].run(write(2, slba, 5), &data, 0).ok();
            let other = &mut host.io[(at + 1) % queues];
            assert!(
                other.run(read(2, slba, 5), &[], 5 * 4096).data() == data,
                "what one wrote the next one reads"
            );
        }
    }
    // All at once, on each queue several.
    let written: Vec<Vec<u16>> = (0..queues)
        .map(|at| {
            let slba = |nth: u64| 1000 + (at as u64 * 8 + nth) * 3;
            let submit =
                |nth: u64| host.io[at].submit(write(2, slba(nth), 3), &pattern(slba(nth), 3 * 4096), 0);
            (0..8).map(submit).collect()
        })
        .collect();
    for (queue, cids) in host.io.iter_mut().zip(written) {
        cids.into_iter().for_each(|cid| queue.wait(cid).ok());
    }
    for slba in (0..queues as u64 * 8).map(|nth| 1000 + nth * 3) {
        assert!(host.read(2, slba, 3, 4096) == pattern(slba, 3 * 4096));
    }
}

/// A slow drive, so that commands stand long enough to be aborted.
const SLOW: &str = r#"
[[drive]]
name = "a"
memory_mib = 16
delay_us = 1500000
[[drive]]
name = "b"
memory_mib = 16
delay_us = 1500000
[[drive]]
name = "c"
memory_mib = 16
delay_us = 1500000
[[group]]
name = "g"
drives = ["a", "b", "c"]
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 8
nsid = 1
"#;

#[test]
fn abort_ends_a_command_or_says_that_it_did_not() {
    let stage = Stage::set(SLOW);
    let mut host = Host::connect(stage.address());
    // One write is on its way to the journal, and those that read what it writes wait for it.
    let mut cids = vec![host.io[0].submit(write(1, 0, 1), &pattern(0, 4096), 0)];
    cids.extend((0..3).map(|_| host.io[0].submit(read(1, 0, 1), &[], 4096)));
    // Capsules are taken in order: when this one is refused, the others have been taken.
    assert!(
        host.io[0]
            .run(command(0x7c, 1, 0, 1), &[], 0)
            .is(Status::INVALID_OPCODE)
    );
    let mut aborted = Vec::new();
    for cid in &cids {
        let mut abort = SubmissionEntry::new(admin_opcode::ABORT, 0);
        abort.set_dword(10, 1 | u32::from(*cid) << 16);
        let answer = host.admin.run(abort, &[], 0);
        assert!(answer.status().is_success(), "{}", answer.status());
        aborted.push(answer.entry.result & 1 == 0);
    }
    assert!(aborted.contains(&true), "those that wait can be aborted");
    for (cid, aborted) in cids.into_iter().zip(aborted) {
        let answer = host.io[0].wait(cid);
        let is_aborted = answer.is(Status::COMMAND_ABORT_REQUESTED);
        assert_eq!(is_aborted, aborted, "what Abort said of it: {}", answer.status());
        assert!(is_aborted || answer.status().is_success());
    }
    let mut unknown = SubmissionEntry::new(admin_opcode::ABORT, 0);
    unknown.set_dword(10, 1 | 63 << 16);
    assert_eq!(
        host.admin.run(unknown, &[], 0).entry.result & 1,
        1,
        "there is nothing to abort"
    );
}

#[test]
fn a_command_whose_data_is_on_its_way_can_be_aborted() {
    let stage = Stage::set(TWO_NAMESPACES);
    let (mut admin, mut io) = Raw::connect(stage.address(), 8);
    let mut entry = write(2, 0, 16);
    entry.set_cid(11);
    entry.set_sgl(Sgl::Transport { length_bytes: 65_536 });
    io.send_capsule(&entry, &[]);
    let r2t = io.receive().unwrap();
    assert_eq!(r2t.kind, R2T);
    let mut abort = SubmissionEntry::new(admin_opcode::ABORT, 3);
    abort.set_dword(10, 1 | 11 << 16);
    let completion = admin.run(abort);
    assert!(
        completion.status.is_success() && completion.result & 1 == 0,
        "it is aborted"
    );
    let ttag = u16::from_le_bytes([r2t.bytes[10], r2t.bytes[11]]);
    io.send(&h2c_data(11, ttag, 0, &pattern(1, 65_536), true));
    let completion = io.receive().unwrap().completion();
    assert_eq!(completion.cid, 11);
    assert!(
        completion.status.same_code(Status::COMMAND_ABORT_REQUESTED),
        "{}",
        completion.status
    );
    let untouched = Host::connect(stage.address()).read(2, 0, 16, 4096);
    assert!(untouched.iter().all(|byte| *byte == 0), "nothing was written");
}

#[test]
fn a_host_without_keep_alive_is_disconnected_and_others_are_not() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut other = Host::connect_as(
        stage.address(),
        Manner {
            host: 2,
            ..Manner::default()
        },
    );
    let started = Instant::now();
    let host = Host::connect_as(
        stage.address(),
        Manner {
            kato_ms: 1000,
            ..Manner::default()
        },
    );
    let Host {
        admin,
        mut io,
        cntlid,
    } = host;
    assert!(
        stage
            .hosts()
            .iter()
            .any(|host| host.cntlid == cntlid && host.keep_alive_ms == 1000)
    );
    assert!(admin.ends_by_target());
    assert!(
        started.elapsed() >= Duration::from_millis(1000),
        "not before its time"
    );
    assert!(io.remove(0).ends_by_target());
    stage.until("the controller is gone", |stage| {
        stage.hosts().iter().all(|host| host.cntlid != cntlid)
    });
    assert_eq!(other.read(1, 0, 1, 512).len(), 512);
}

#[test]
fn identify_tells_what_the_node_serves() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut host = Host::connect(stage.address());
    for ((nsid, block), name) in NAMESPACES.into_iter().zip(["small", "large"]) {
        let namespace = host.identify(0x00, nsid);
        let blocks = u64::from_le_bytes(namespace[..8].try_into().unwrap());
        assert_eq!(blocks * u64::from(block), stage.vdisk(name).capacity_bytes);
        let format = namespace[26] & 0xf;
        assert_eq!(
            1_u32 << namespace[128 + 4 * usize::from(format) + 2],
            block,
            "LBADS of the format in use"
        );
        let nguid: String = namespace[104..120]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(nguid, stage.vdisk(name).nguid.replace('-', "").to_lowercase());
    }
    let list = host.identify(0x02, 0);
    assert_eq!(list[..12], [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
}
