//! Hosts that break the protocol, stall or vanish: each gets what the specification says, and others notice nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nvme::command::{Sgl, SubmissionEntry, io_opcode};
use nvme::nqn::Nqn;
use nvme::status::Status;

use braid::target::cli::options::{Pattern, PerfOptions};
use braid::target::perf::{self, PerfReport};

use super::queue::{Host, pattern, read, write};
use super::raw::{C2H_TERM_REQ, R2T, Raw, capsule, h2c_data, ic_req};
use super::stage::{NQN, Stage, TWO_NAMESPACES};

/// A verifying load on a namespace.
pub fn verify(address: SocketAddr, nsid: u32, seconds: u32) -> PerfReport {
    let options = PerfOptions {
        addresses: vec![address],
        nqn: Nqn::parse(NQN).unwrap(),
        nsid,
        depth: 8,
        block_bytes: 8192,
        read_percent: 50,
        seconds,
        queues: 2,
        cores: 2,
        pattern: Pattern::Random,
        fua: false,
        verify: true,
        rate: None,
        header_digest: true,
        data_digest: true,
        host_nqn: Some(Nqn::parse("nqn.2026-01.io.braid:verifier").unwrap()),
        json: false,
        report_html: None,
    };
    perf::measure(&options).unwrap()
}

/// Asserts that a verifying load was not disturbed.
pub fn assert_undisturbed(report: &PerfReport) {
    assert!(report.is_good(), "{}", report.text());
    assert!(
        report.measured.checked > 0 && report.all().latency.count() > 0,
        "{}",
        report.text()
    );
}

/// FES values.
const INVALID_HEADER_FIELD: u16 = 1;
const SEQUENCE_ERROR: u16 = 2;
const DATA_OUT_OF_RANGE: u16 = 4;
const UNSUPPORTED_PARAMETER: u16 = 6;

#[test]
fn a_connection_that_starts_wrong_is_ended_with_the_reason() {
    let stage = Stage::set(TWO_NAMESPACES);
    let change = |at: usize, value: u8| {
        let mut bytes = ic_req();
        bytes[at] = value;
        bytes
    };
    for (bytes, fatal_status) in [
        (vec![0xaa; 128], INVALID_HEADER_FIELD),
        (change(2, 64), INVALID_HEADER_FIELD),
        (change(4, 127), INVALID_HEADER_FIELD),
        (change(8, 1), UNSUPPORTED_PARAMETER),
        (change(0, 0x07), INVALID_HEADER_FIELD),
        (capsule(&read(2, 0, 1), &[]), SEQUENCE_ERROR),
        (h2c_data(0, 0, 0, &[0; 64], true), SEQUENCE_ERROR),
    ] {
        let mut raw = Raw::silent(stage.address());
        raw.send(&bytes);
        let pdu = raw.receive().expect("it says why");
        assert_eq!(pdu.kind, C2H_TERM_REQ, "{bytes:?}");
        assert_eq!(pdu.fatal_status(), fatal_status, "{bytes:?}");
        assert!(raw.receive().is_none(), "then it closes");
    }
    assert_eq!(Host::connect(stage.address()).read(2, 0, 1, 4096).len(), 4096);
}

#[test]
fn wrong_pdus_on_an_io_queue_end_that_connection_with_the_reason() {
    let stage = Stage::set(TWO_NAMESPACES);
    let mut long = capsule(&read(2, 0, 1), &[]);
    long[4..8].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    let mut flagged = capsule(&read(2, 0, 1), &[]);
    flagged[1] = 1; // A header digest that nobody negotiated.
    for (bytes, fatal_status) in [
        (ic_req(), SEQUENCE_ERROR),
        (flagged, INVALID_HEADER_FIELD),
        (
            [&[0x05, 0, 24, 0, 24, 0, 0, 0], &[0; 16][..]].concat(),
            INVALID_HEADER_FIELD,
        ),
        (h2c_data(9, 9, 0, &[0; 4096], true), INVALID_HEADER_FIELD),
    ] {
        let (_admin, mut io) = Raw::connect(stage.address(), 3);
        io.send(&bytes);
        let pdu = io.receive().expect("it says why");
        assert_eq!(
            (pdu.kind, pdu.fatal_status()),
            (C2H_TERM_REQ, fatal_status),
            "{bytes:?}"
        );
        assert!(io.receive().is_none());
    }
    let (_admin, mut io) = Raw::connect(stage.address(), 3);
    io.send(&long);
    let ended = io.receive();
    assert!(
        ended.is_none_or(|pdu| pdu.kind == C2H_TERM_REQ),
        "no gigabyte is waited for"
    );
}

#[test]
fn host_data_out_of_order_or_out_of_range_ends_the_connection() {
    let stage = Stage::set(TWO_NAMESPACES);
    let ready_to_transfer = |stage: &Stage| {
        let (admin, mut io) = Raw::connect(stage.address(), 4);
        let mut entry = write(2, 0, 16);
        entry.set_cid(5);
        entry.set_sgl(Sgl::Transport { length_bytes: 65_536 });
        io.send_capsule(&entry, &[]);
        let r2t = io.receive().unwrap();
        assert_eq!(r2t.kind, R2T);
        let ttag = u16::from_le_bytes([r2t.bytes[10], r2t.bytes[11]]);
        let offset = u32::from_le_bytes(r2t.bytes[12..16].try_into().unwrap());
        let length = u32::from_le_bytes(r2t.bytes[16..20].try_into().unwrap());
        assert_eq!((offset, length), (0, 65_536));
        (admin, io, ttag)
    };
    let data = pattern(1, 65_536);
    type Make = fn(u16, &[u8]) -> Vec<u8>;
    let cases: [(Make, u16); 4] = [
        (
            |ttag, data| h2c_data(5, ttag, 4096, &data[..4096], false),
            DATA_OUT_OF_RANGE,
        ),
        (
            |ttag, data| h2c_data(5, ttag, 0, &[data, &[0; 4]].concat(), true),
            DATA_OUT_OF_RANGE,
        ),
        (
            |ttag, data| h2c_data(5, ttag ^ 1, 0, data, true),
            INVALID_HEADER_FIELD,
        ),
        (
            |ttag, data| h2c_data(6, ttag, 0, data, true),
            INVALID_HEADER_FIELD,
        ),
    ];
    for (make, fatal_status) in cases {
        let (_admin, mut io, ttag) = ready_to_transfer(&stage);
        io.send(&make(ttag, &data));
        let pdu = io.receive().expect("it says why");
        assert_eq!((pdu.kind, pdu.fatal_status()), (C2H_TERM_REQ, fatal_status));
    }
    // And the right way, in pieces.
    let (_admin, mut io, ttag) = ready_to_transfer(&stage);
    for (offset, piece) in (0..).step_by(16_384).zip(data.chunks(16_384)) {
        io.send(&h2c_data(5, ttag, offset, piece, offset == 49_152));
    }
    let completion = io.receive().unwrap().completion();
    assert!(completion.status.is_success() && completion.cid == 5);
    assert!(Host::connect(stage.address()).read(2, 0, 16, 4096) == data);
}

/// Data pointers that are wrong for the opcode, whether 4096 bytes of data follow in the capsule, and what they get.
fn wrong_pointers() -> [(u8, Sgl, bool, Status); 5] {
    let in_capsule = |offset_bytes, length_bytes| Sgl::InCapsule {
        offset_bytes,
        length_bytes,
    };
    let keyed = Sgl::Keyed {
        address: 0,
        length_bytes: 4096,
        key: 1,
        invalidate: false,
    };
    let beyond_mdts = Sgl::Transport {
        length_bytes: 1 << 24,
    };
    [
        (
            io_opcode::READ,
            in_capsule(0, 4096),
            true,
            Status::SGL_TYPE_INVALID,
        ),
        (
            io_opcode::WRITE,
            in_capsule(512, 4096),
            true,
            Status::SGL_OFFSET_INVALID,
        ),
        (
            io_opcode::WRITE,
            in_capsule(0, 8192),
            true,
            Status::DATA_SGL_LENGTH_INVALID,
        ),
        (io_opcode::WRITE, keyed, false, Status::SGL_TYPE_INVALID),
        (io_opcode::WRITE, beyond_mdts, false, Status::INVALID_FIELD),
    ]
}

#[test]
fn wrong_data_pointers_get_their_status_and_the_connection_lives_on() {
    let stage = Stage::set(TWO_NAMESPACES);
    let (_admin, mut io) = Raw::connect(stage.address(), 5);
    let data = pattern(2, 4096);
    for (opcode, sgl, carries, status) in wrong_pointers() {
        let mut entry = SubmissionEntry::new(opcode, 7);
        entry.set_nsid(2);
        entry.set_sgl(sgl);
        io.send_capsule(&entry, if carries { &data } else { &[] });
        let completion = io.receive().expect("the connection lives on").completion();
        assert_eq!(completion.cid, 7);
        assert!(
            completion.status.same_code(status),
            "{sgl:?}: {}",
            completion.status
        );
    }
    let mut entry = write(2, 3, 1);
    entry.set_cid(8);
    assert!(io.run_with(entry, &data).status.is_success());
    assert!(Host::connect(stage.address()).read(2, 3, 1, 4096) == data);
}

#[test]
fn a_command_identifier_in_use_is_refused() {
    let stage = Stage::set(TWO_NAMESPACES);
    let (_admin, mut io) = Raw::connect(stage.address(), 6);
    let mut entry = write(2, 0, 16);
    entry.set_cid(9);
    entry.set_sgl(Sgl::Transport { length_bytes: 65_536 });
    io.send_capsule(&entry, &[]);
    assert_eq!(io.receive().unwrap().kind, R2T);
    io.send_capsule(&entry, &[]);
    let completion = io.receive().unwrap().completion();
    assert!(
        completion.status.same_code(Status::COMMAND_ID_CONFLICT),
        "{}",
        completion.status
    );
}

/// Goal: hosts that vanish in any state leak nothing and disturb nobody.
/// Method: hosts vanish with commands, half capsules and half transfers under way while another one verifies.
#[test]
fn hosts_that_vanish_in_mid_transfer_disturb_nobody() {
    let stage = Stage::set(TWO_NAMESPACES);
    let address = stage.address();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let vanishing = scope.spawn(|| {
            let mut vanished = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let host = u8::try_from(10 + vanished % 5).unwrap();
                let (mut admin, mut io) = Raw::connect(address, host);
                // On the other namespace: the verifier knows what its own holds.
                let mut entry = write(1, u64::from(vanished % 100), 128);
                entry.set_cid(1);
                entry.set_sgl(Sgl::Transport { length_bytes: 65_536 });
                match vanished % 5 {
                    0 => io.send(&capsule(&entry, &[])[..40]),
                    1 => io.send_capsule(&entry, &[]),
                    2 => {
                        io.send_capsule(&entry, &[]);
                        let r2t = io.receive().unwrap();
                        let ttag = u16::from_le_bytes([r2t.bytes[10], r2t.bytes[11]]);
                        let data = h2c_data(1, ttag, 0, &pattern(3, 32_768), false);
                        io.send(&data[..20_000]);
                    }
                    3 => {
                        for cid in 2..20 {
                            let mut entry = read(1, u64::from(cid), 64);
                            entry.set_cid(cid);
                            entry.set_sgl(Sgl::Transport { length_bytes: 32_768 });
                            io.send_capsule(&entry, &[]); // Nobody will read the answers.
                        }
                    }
                    _ => admin.send(&[0x04, 0, 72]),
                }
                vanished += 1;
            }
            vanished
        });
        let report = verify(address, 2, 3);
        over.store(true, Ordering::Relaxed);
        assert!(vanishing.join().unwrap() >= 5, "each kind vanished");
        assert_undisturbed(&report);
    });
    stage.until("all of them are forgotten", |stage| stage.hosts().is_empty());
}

#[test]
fn a_host_that_sends_a_byte_now_and_then_disturbs_nobody() {
    let stage = Stage::set(TWO_NAMESPACES);
    let address = stage.address();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let (_admin, mut io) = Raw::connect(address, 7);
            let mut entry = write(1, 0, 1);
            entry.set_cid(3);
            entry.set_sgl(Sgl::InCapsule {
                offset_bytes: 0,
                length_bytes: 512,
            });
            let bytes = capsule(&entry, &pattern(4, 512));
            let mut sent = 0;
            while sent + 1 < bytes.len() && !over.load(Ordering::Relaxed) {
                io.send(&bytes[sent..=sent]);
                sent += 1;
                thread::sleep(Duration::from_millis(50)); // The slowness is the test.
            }
            io.send(&bytes[sent..]);
            io.receive()
                .expect("it is served all the same")
                .completion()
                .status
        });
        assert_undisturbed(&verify(address, 2, 2));
        over.store(true, Ordering::Relaxed);
        assert!(slow.join().unwrap().is_success());
    });
    assert!(Host::connect(stage.address()).read(1, 0, 1, 512) == pattern(4, 512));
}

#[test]
fn thousands_of_idle_connections_leave_room_for_one_that_works() {
    let count = 2000.min(descriptors().saturating_sub(200) / 2);
    assert!(
        count >= 200,
        "this machine allows too few descriptors for the test to say anything"
    );
    let stage = Stage::set(TWO_NAMESPACES);
    let idle: Vec<Raw> = (0..count).map(|_| Raw::silent(stage.address())).collect();
    let mut host = Host::connect(stage.address());
    let data = pattern(5, 4096);
    host.write(2, 0, 4096, &data);
    assert!(host.read(2, 0, 1, 4096) == data);
    drop(idle);
    assert!(host.read(2, 0, 1, 4096) == data);
    assert_undisturbed(&verify(stage.address(), 2, 1));
}

/// Descriptors that this process may have.
///
/// Source: proc(5), /proc/pid/limits.
fn descriptors() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    line.split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap_or(usize::MAX)
}

#[test]
fn association_rules_are_enforced() {
    let stage = Stage::set(TWO_NAMESPACES);
    // I/O before Connect.
    let mut raw = Raw::open(stage.address());
    let mut entry = read(2, 0, 1);
    entry.set_cid(1);
    entry.set_sgl(Sgl::Transport { length_bytes: 4096 });
    raw.send_capsule(&entry, &[]);
    if let Some(pdu) = raw.receive() {
        assert!(pdu.kind == C2H_TERM_REQ || !pdu.completion().status.is_success());
    }
    // A Connect whose data is noise.
    let mut raw = Raw::open(stage.address());
    let connect = nvme::fabrics::Connect {
        recfmt: 0,
        qid: 0,
        sqsize: 31,
        cattr: 0,
        kato_ms: 0,
    }
    .encode(1);
    let completion = raw.run_with(connect, &[0xff; 1024]);
    assert!(
        completion.status.same_code(Status::CONNECT_INVALID_PARAMETERS),
        "{}",
        completion.status
    );
    assert_eq!(Host::connect(stage.address()).read(2, 0, 1, 4096).len(), 4096);
}
