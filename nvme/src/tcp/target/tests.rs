//! The target's machine against bytes written by hand. Names of tests say which rule they keep; those of
//! INTEROP.md, section NVMe/TCP, are all here or in `tcp::loopback`.

use super::*;
use crate::command::io_opcode;
use crate::crc32c::portable;
use crate::tcp::pdu::{CommonHeader, encode_command};

const LIMITS: Limits = Limits {
    in_capsule_bytes: 4096,
    max_h2c_bytes: 8192,
    max_transfer_bytes: 1 << 20,
    header_digest: true,
    data_digest: true,
    slots_max: 32,
};

const QUEUE: Queue = Queue {
    entries: 8,
    flow_control: true,
    admin: false,
    success: Success::WithoutFlowControl,
};

/// A connection and what it has sent.
struct Rig {
    connection: Connection,
    out: Outbox,
    digests: Digests,
}

/// An event without its borrow.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Command(Slot, Direction, u32),
    Data(Slot, u32, Vec<u8>),
    DataDone(Slot),
    DataCorrupt(Slot),
    Fatal(FatalStatus, u32),
    Terminated(u16),
}

fn seen(event: Event<'_>) -> Seen {
    match event {
        Event::Command {
            slot,
            direction,
            transfer_bytes,
            ..
        } => Seen::Command(slot, direction, transfer_bytes),
        Event::Data {
            slot,
            offset_bytes,
            bytes,
        } => Seen::Data(slot, offset_bytes, bytes.to_vec()),
        Event::DataDone { slot } => Seen::DataDone(slot),
        Event::DataCorrupt { slot } => Seen::DataCorrupt(slot),
        Event::Close { reason } => match reason {
            CloseReason::Fatal(fatal) => Seen::Fatal(fatal.status, fatal.information),
            CloseReason::Terminated(termination) => Seen::Terminated(termination.status),
        },
    }
}

impl Rig {
    fn new(limits: Limits) -> Self {
        Self {
            connection: Connection::new(limits, portable),
            out: Outbox::default(),
            digests: Digests::default(),
        }
    }

    /// After ICReq and an accepted Connect.
    fn ready(limits: Limits, queue: Queue, digests: Digests) -> Self {
        let mut rig = Self::new(limits);
        let request = IcReq {
            alignment: 0,
            digests,
            max_r2t: 0,
        };
        assert_eq!(rig.feed(&request.encode()), []);
        rig.digests = digests;
        rig.connection.set_queue(queue);
        rig.out.clear();
        rig
    }

    fn plain() -> Self {
        Self::ready(LIMITS, QUEUE, Digests::default())
    }

    /// Feeds bytes and admits every command with data from the host.
    fn feed(&mut self, bytes: &[u8]) -> Vec<Seen> {
        let mut input = bytes;
        let mut all = Vec::new();
        while let Some(event) = self.connection.next(&mut input, &mut self.out) {
            let event = seen(event);
            if let Seen::Command(slot, Direction::FromHost, _) = event {
                self.connection.admit(slot, &mut self.out);
            }
            all.push(event);
        }
        assert!(input.is_empty(), "everything was taken");
        all
    }

    /// A header with its digest, if the connection has them.
    fn head(&self, header: &[u8]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        if self.digests.header {
            bytes.extend(portable(0, header).to_le_bytes());
        }
        bytes
    }

    /// A command capsule with data in it.
    fn capsule(&self, entry: &SubmissionEntry, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap();
        let mut bytes = self.head(&encode_command(entry, self.digests, 0, length));
        bytes.extend(data);
        if self.digests.data && !data.is_empty() {
            bytes.extend(portable(0, data).to_le_bytes());
        }
        bytes
    }

    /// H2CData.
    fn data(&self, header: DataHeader, data: &[u8]) -> Vec<u8> {
        let mut bytes = self.head(&header.encode(PduType::H2cData, self.digests, 0));
        bytes.extend(data);
        if self.digests.data {
            bytes.extend(portable(0, data).to_le_bytes());
        }
        bytes
    }

    /// The PDUs in the outbox, which is emptied; payload pieces must be passed over by their length.
    fn sent(&mut self) -> Vec<Pdu> {
        let mut stream = Vec::new();
        for part in &self.out.parts {
            match *part {
                Part::Bytes { start, end } => stream.extend(&self.out.bytes[start as usize..end as usize]),
                Part::Payload { length_bytes, .. } => stream.extend(vec![0u8; length_bytes as usize]),
            }
        }
        self.out.clear();
        let mut pdus = Vec::new();
        let mut rest = &stream[..];
        while let Some(first) = rest.first_chunk() {
            let common = CommonHeader::parse(first, self.digests).unwrap();
            let head_bytes = common.head_bytes(self.digests) as usize;
            pdus.push(Pdu::parse(&common, &rest[..head_bytes], self.digests, portable).unwrap());
            rest = &rest[common.total_bytes as usize..];
        }
        assert!(rest.is_empty(), "whole PDUs only");
        pdus
    }

    /// The only PDU sent must be a response; its command identifier, status and SQHD.
    fn response(&mut self) -> (u16, Status, u16) {
        match self.sent()[..] {
            [Pdu::Response(entry)] => (entry.cid, entry.status, entry.sqhd),
            ref other => panic!("one response, not {other:?}"),
        }
    }
}

fn write(cid: u16, sgl: Sgl) -> SubmissionEntry {
    let mut entry = SubmissionEntry::new(io_opcode::WRITE, cid);
    entry.set_sgl(sgl);
    entry
}

fn write_in_capsule(cid: u16, length_bytes: u32) -> SubmissionEntry {
    write(
        cid,
        Sgl::InCapsule {
            offset_bytes: 0,
            length_bytes,
        },
    )
}

fn write_by_r2t(cid: u16, length_bytes: u32) -> SubmissionEntry {
    write(cid, Sgl::Transport { length_bytes })
}

fn read(cid: u16, length_bytes: u32) -> SubmissionEntry {
    let mut entry = SubmissionEntry::new(io_opcode::READ, cid);
    entry.set_sgl(Sgl::Transport { length_bytes });
    entry
}

fn h2c(cid: u16, ttag: u16, offset_bytes: u32, length_bytes: u32, last: bool) -> DataHeader {
    DataHeader {
        cid,
        ttag,
        offset_bytes,
        length_bytes,
        last,
        success: false,
    }
}

const BOTH: Digests = Digests {
    header: true,
    data: true,
};

#[test]
fn icresp_has_exact_type_and_length_version_0_cpda_0_and_aligned_maxh2cdata() {
    let mut rig = Rig::new(LIMITS);
    let request = IcReq {
        alignment: 7,
        digests: Digests::default(),
        max_r2t: 3,
    };
    assert!(!rig.connection.is_ready());
    assert_eq!(rig.feed(&request.encode()), []);
    assert!(rig.connection.is_ready());
    assert_eq!(rig.out.bytes.len(), 128);
    assert_eq!(
        rig.out.bytes[..16],
        [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]
    );
}

#[test]
fn icresp_digests_equal_the_request_unless_disallowed() {
    for bits in 0..16u8 {
        let bit = |n: u8| bits >> n & 1 == 1;
        let digests = Digests {
            header: bit(0),
            data: bit(1),
        };
        let mut rig = Rig::new(Limits {
            header_digest: bit(2),
            data_digest: bit(3),
            ..LIMITS
        });
        let request = IcReq {
            alignment: 0,
            digests,
            max_r2t: 0,
        };
        rig.feed(&request.encode());
        let expected = (bit(0) && bit(2), bit(1) && bit(3));
        assert_eq!(rig.connection.digests(), expected);
        assert_eq!(
            rig.out.bytes[11],
            u8::from(expected.0) | u8::from(expected.1) << 1
        );
    }
}

#[test]
fn icreq_comes_first_and_once() {
    let request = IcReq {
        alignment: 0,
        digests: Digests::default(),
        max_r2t: 0,
    };
    let mut rig = Rig::new(LIMITS);
    let capsule = rig.capsule(&read(0, 512), &[]);
    assert_eq!(rig.feed(&capsule), [Seen::Fatal(FatalStatus::SequenceError, 0)]);
    assert_eq!(rig.feed(&request.encode()), [], "nothing is parsed after the end");
    let mut rig = Rig::plain();
    assert_eq!(
        rig.feed(&request.encode()),
        [Seen::Fatal(FatalStatus::SequenceError, 0)]
    );
    assert_eq!(
        rig.sent(),
        [Pdu::ControllerTerminates(pdu::Termination {
            status: 2,
            information: 0
        })]
    );
}

#[test]
fn pdus_that_only_controllers_send_are_refused() {
    let r2t = R2t {
        cid: 0,
        ttag: 0,
        offset_bytes: 0,
        length_bytes: 4,
    };
    let mut rig = Rig::plain();
    assert_eq!(
        rig.feed(&r2t.encode(rig.digests)),
        [Seen::Fatal(FatalStatus::InvalidHeaderField, 0)]
    );
}

#[test]
fn h2c_term_req_closes_without_an_answer() {
    let mut rig = Rig::plain();
    let term = TermReq::new(PduType::H2cTermReq, Fatal::field(4), &[1, 2, 3]);
    assert_eq!(rig.feed(term.as_bytes()), [Seen::Terminated(1)]);
    assert!(rig.out.is_empty());
}

#[test]
fn wrong_header_digest_is_fatal_with_fes_03h_and_quotes_the_header() {
    let mut rig = Rig::ready(LIMITS, QUEUE, BOTH);
    let mut capsule = rig.capsule(&read(3, 512), &[]);
    capsule[40] ^= 1;
    let digest = u32::from_le_bytes(*capsule.last_chunk().unwrap());
    assert_eq!(
        rig.feed(&capsule),
        [Seen::Fatal(FatalStatus::HeaderDigestError, digest)]
    );
    assert_eq!(rig.out.bytes.len(), 24 + 76, "C2HTermReq carries no digest");
    assert_eq!(rig.out.bytes[..10], [3, 0, 24, 0, 100, 0, 0, 0, 3, 0]);
    assert_eq!(rig.out.bytes[24..], capsule);
}

#[test]
fn admin_and_fabrics_commands_always_carry_8_kib() {
    let data = vec![7; 8192];
    let mut connect = SubmissionEntry::new(admin_opcode::FABRICS, 0);
    connect.set_fctype(1);
    connect.set_sgl(Sgl::InCapsule {
        offset_bytes: 0,
        length_bytes: 8192,
    });
    // Before Connect, on an I/O queue that offers 4 KiB only, and on an admin queue.
    let mut fresh = Rig::new(LIMITS);
    let request = IcReq {
        alignment: 0,
        digests: Digests::default(),
        max_r2t: 0,
    };
    fresh.feed(&request.encode());
    for mut rig in [fresh, Rig::plain()] {
        let capsule = rig.capsule(&connect, &data);
        let events = rig.feed(&capsule);
        assert_eq!(events[0], Seen::Command(Slot(0), Direction::FromHost, 8192));
        assert_eq!(events[1], Seen::Data(Slot(0), 0, data.clone()));
        assert_eq!(events[2], Seen::DataDone(Slot(0)));
    }
    let queue = Queue { admin: true, ..QUEUE };
    let mut rig = Rig::ready(LIMITS, queue, Digests::default());
    let mut features = SubmissionEntry::new(admin_opcode::SET_FEATURES, 0);
    features.set_sgl(connect.sgl());
    let capsule = rig.capsule(&features, &data);
    assert_eq!(rig.feed(&capsule).len(), 3);
}

#[test]
fn capsules_above_the_in_capsule_limit_are_fatal() {
    let mut rig = Rig::plain();
    let capsule = rig.capsule(&write_in_capsule(0, 4100), &[0; 4100]);
    assert_eq!(rig.feed(&capsule), [Seen::Fatal(FatalStatus::LimitExceeded, 4)]);
}

#[test]
fn in_capsule_data_comes_out_borrowed_in_any_pieces() {
    for digests in [Digests::default(), BOTH] {
        let data: Vec<u8> = (0..=255).collect();
        let mut rig = Rig::ready(LIMITS, QUEUE, digests);
        let capsule = rig.capsule(&write_in_capsule(9, 256), &data);
        for split in 0..capsule.len() {
            let mut events = rig.feed(&capsule[..split]);
            events.extend(rig.feed(&capsule[split..]));
            let mut received: Vec<u8> = Vec::new();
            for event in &events[1..events.len() - 1] {
                let Seen::Data(Slot(0), offset_bytes, bytes) = event else {
                    panic!("data in the middle, not {event:?}")
                };
                assert_eq!(*offset_bytes as usize, received.len());
                received.extend(bytes);
            }
            assert_eq!(received, data);
            assert_eq!(events.last(), Some(&Seen::DataDone(Slot(0))));
            rig.connection.complete(Slot(0), 0, Status::SUCCESS, &mut rig.out);
            assert_eq!(rig.response().0, 9);
        }
    }
}

#[test]
fn completing_before_admit_skips_the_capsules_data() {
    let mut rig = Rig::ready(LIMITS, QUEUE, BOTH);
    let mut bytes = rig.capsule(&write_in_capsule(5, 512), &[1; 512]);
    bytes.extend(rig.capsule(&read(6, 512), &[]));
    let mut input = &bytes[..];
    let event = rig.connection.next(&mut input, &mut rig.out).unwrap();
    assert_eq!(seen(event), Seen::Command(Slot(0), Direction::FromHost, 512));
    rig.connection
        .complete(Slot(0), 0, Status::INVALID_FIELD, &mut rig.out);
    assert_eq!(rig.response(), (5, Status::INVALID_FIELD, 1));
    assert_eq!(rig.feed(input), [Seen::Command(Slot(0), Direction::ToHost, 512)]);
}

#[test]
#[should_panic(expected = "admitted or completed first")]
fn an_in_capsule_command_must_be_decided_on() {
    let mut rig = Rig::plain();
    let capsule = rig.capsule(&write_in_capsule(5, 512), &[1; 512]);
    let mut input = &capsule[..];
    assert!(rig.connection.next(&mut input, &mut rig.out).is_some());
    rig.connection.next(&mut input, &mut rig.out);
}

#[test]
fn r2ts_are_nonzero_within_what_remains_never_backwards_one_at_a_time() {
    for digests in [Digests::default(), BOTH] {
        let mut rig = Rig::ready(LIMITS, QUEUE, digests);
        let total_bytes = 8192 * 2 + 512;
        let capsule = rig.capsule(&write_by_r2t(77, total_bytes), &[]);
        assert_eq!(
            rig.feed(&capsule),
            [Seen::Command(Slot(0), Direction::FromHost, total_bytes)]
        );
        assert!(!rig.connection.can_complete(Slot(0)));
        for (offset_bytes, length_bytes) in [(0, 8192), (8192, 8192), (16_384, 512)] {
            let r2t = R2t {
                cid: 77,
                ttag: 0,
                offset_bytes,
                length_bytes,
            };
            assert_eq!(rig.sent(), [Pdu::R2t(r2t)]);
            // In two PDUs; only the second says LAST.
            let half = length_bytes / 2;
            let bytes = vec![3; half as usize];
            let first = rig.data(h2c(77, 0, offset_bytes, half, false), &bytes);
            let second = rig.data(h2c(77, 0, offset_bytes + half, half, true), &bytes);
            assert_eq!(
                rig.feed(&first),
                [Seen::Data(Slot(0), offset_bytes, bytes.clone())]
            );
            assert!(rig.out.is_empty());
            let events = rig.feed(&second);
            assert_eq!(events[0], Seen::Data(Slot(0), offset_bytes + half, bytes));
            assert_eq!(events.len() == 2, offset_bytes == 16_384);
        }
        assert!(rig.connection.can_complete(Slot(0)));
    }
}

#[test]
fn h2c_data_must_answer_its_r2t_exactly() {
    use FatalStatus::{DataOutOfRange, InvalidHeaderField};
    let cases = [
        (
            h2c(77, 1, 0, 512, true),
            InvalidHeaderField,
            field::TTAG,
            "free slot",
        ),
        (
            h2c(77, 900, 0, 512, true),
            InvalidHeaderField,
            field::TTAG,
            "no such slot",
        ),
        (
            h2c(78, 0, 0, 512, true),
            InvalidHeaderField,
            field::CID,
            "another command",
        ),
        (h2c(77, 0, 4, 508, true), DataOutOfRange, field::OFFSET, "a gap"),
        (
            h2c(77, 0, 0, 516, true),
            DataOutOfRange,
            field::LENGTH,
            "too much",
        ),
        (
            h2c(77, 0, 0, 256, true),
            InvalidHeaderField,
            field::FLAGS,
            "LAST too early",
        ),
        (
            h2c(77, 0, 0, 512, false),
            InvalidHeaderField,
            field::FLAGS,
            "LAST missing",
        ),
    ];
    for (header, status, information, why) in cases {
        let mut rig = Rig::plain();
        let capsule = rig.capsule(&write_by_r2t(77, 512), &[]);
        rig.feed(&capsule);
        let data = rig.data(header, &vec![0; header.length_bytes as usize]);
        assert_eq!(rig.feed(&data), [Seen::Fatal(status, information)], "{why}");
    }
    let mut rig = Rig::plain();
    let capsule = rig.capsule(&read(77, 512), &[]);
    rig.feed(&capsule);
    let data = rig.data(h2c(77, 0, 0, 512, true), &[0; 512]);
    assert_eq!(
        rig.feed(&data),
        [Seen::Fatal(InvalidHeaderField, field::TTAG)],
        "nobody asked"
    );
}

#[test]
fn wrong_data_digest_spoils_the_command_and_not_the_connection() {
    let mut rig = Rig::ready(LIMITS, QUEUE, BOTH);
    let mut capsule = rig.capsule(&write_in_capsule(1, 512), &[1; 512]);
    capsule[100] ^= 4;
    assert_eq!(rig.feed(&capsule).last(), Some(&Seen::DataCorrupt(Slot(0))));
    rig.connection
        .complete(Slot(0), 0, Status::TRANSIENT_TRANSPORT_ERROR, &mut rig.out);
    assert_eq!(rig.response(), (1, Status::TRANSIENT_TRANSPORT_ERROR, 1));

    // By R2T: no more than what was asked for already still comes.
    let capsule = rig.capsule(&write_by_r2t(2, 16_384), &[]);
    rig.feed(&capsule);
    rig.sent();
    let mut first = rig.data(h2c(2, 0, 0, 4096, false), &[1; 4096]);
    *first.last_mut().unwrap() ^= 1;
    assert_eq!(rig.feed(&first).len(), 1, "the R2T is not finished");
    let second = rig.data(h2c(2, 0, 4096, 4096, true), &[1; 4096]);
    assert_eq!(rig.feed(&second).last(), Some(&Seen::DataCorrupt(Slot(0))));
    assert!(rig.out.is_empty(), "no further R2T");
    assert!(rig.connection.can_complete(Slot(0)) && rig.connection.is_ready());
}

#[test]
fn wrong_sgls_are_answered_here_and_their_data_is_skipped() {
    let dnr = Status::do_not_retry;
    let in_capsule = |offset_bytes, length_bytes| Sgl::InCapsule {
        offset_bytes,
        length_bytes,
    };
    let mut wrong_direction = read(0, 0);
    wrong_direction.set_sgl(in_capsule(0, 512));
    let mut both_ways = write_in_capsule(0, 512);
    both_ways = {
        let mut bytes = *both_ways.encode();
        bytes[0] = 0x83;
        SubmissionEntry::parse(bytes)
    };
    let mut prp = *write_in_capsule(0, 512).encode();
    prp[1] = 0;
    let mut other = write_in_capsule(0, 512);
    other.set_sgl(Sgl::Other { identifier: 0x20 });
    let cases = [
        (write(0, in_capsule(4, 512)), dnr(Status::SGL_OFFSET_INVALID)),
        (write(0, in_capsule(0, 508)), dnr(Status::DATA_SGL_LENGTH_INVALID)),
        (write(0, in_capsule(0, 516)), dnr(Status::DATA_SGL_LENGTH_INVALID)),
        (write_by_r2t(0, 512), dnr(Status::DATA_SGL_LENGTH_INVALID)),
        (
            SubmissionEntry::new(io_opcode::FLUSH, 0),
            dnr(Status::DATA_SGL_LENGTH_INVALID),
        ),
        (wrong_direction, dnr(Status::SGL_TYPE_INVALID)),
        (other, dnr(Status::SGL_TYPE_INVALID)),
        (both_ways, dnr(Status::INVALID_OPCODE)),
        (SubmissionEntry::parse(prp), dnr(Status::INVALID_FIELD)),
    ];
    let mut rig = Rig::ready(LIMITS, QUEUE, BOTH);
    for (number, (entry, status)) in cases.iter().enumerate() {
        let capsule = rig.capsule(entry, &[0; 512]);
        assert_eq!(rig.feed(&capsule), [], "{entry:?}");
        let head = u16::try_from((number + 1) % 8).unwrap();
        assert_eq!(rig.response(), (0, *status, head), "{entry:?}");
    }
    assert_eq!(rig.connection.refused_commands(), cases.len() as u64);
    let capsule = rig.capsule(&read(0, (1 << 20) + 4), &[]);
    assert_eq!(rig.feed(&capsule), []);
    assert_eq!(rig.response().1, dnr(Status::INVALID_FIELD), "more than MDTS");
    assert_eq!(rig.connection.in_flight(), 0);
}

#[test]
fn a_command_identifier_in_flight_is_not_taken_twice() {
    let mut rig = Rig::plain();
    let capsule = rig.capsule(&read(0x1005, 512), &[]);
    assert_eq!(rig.feed(&capsule).len(), 1);
    assert_eq!(rig.feed(&capsule), []);
    assert_eq!(rig.response().1, Status::COMMAND_ID_CONFLICT.do_not_retry());
    assert_eq!(rig.connection.find(0x1005), Some(Slot(0)));
    assert_eq!(rig.connection.find(5), None);
    rig.connection.complete(Slot(0), 0, Status::SUCCESS, &mut rig.out);
    assert_eq!(rig.connection.find(0x1005), None);
    assert_eq!(rig.feed(&capsule).len(), 1, "free again");
}

#[test]
fn more_commands_than_queue_entries_are_fatal() {
    let mut rig = Rig::plain();
    for cid in 0..8 {
        let capsule = rig.capsule(&read(cid, 512), &[]);
        assert_eq!(rig.feed(&capsule).len(), 1);
    }
    assert_eq!(rig.connection.in_flight(), 8);
    let capsule = rig.capsule(&read(8, 512), &[]);
    assert_eq!(rig.feed(&capsule), [Seen::Fatal(FatalStatus::LimitExceeded, 0)]);
}

#[test]
fn sqhd_wraps_at_the_queue_size_and_is_ffffh_without_flow_control() {
    for flow_control in [true, false] {
        let queue = Queue {
            flow_control,
            ..QUEUE
        };
        let mut rig = Rig::ready(LIMITS, queue, Digests::default());
        for round in 1..20u16 {
            let capsule = rig.capsule(&SubmissionEntry::new(io_opcode::FLUSH, round), &[]);
            let [Seen::Command(slot, Direction::None, 0)] = rig.feed(&capsule)[..] else {
                panic!("a flush moves no data")
            };
            rig.connection.complete(slot, 0, Status::SUCCESS, &mut rig.out);
            let expected = if flow_control { round % 8 } else { 0xffff };
            assert_eq!(rig.response(), (round, Status::SUCCESS, expected));
        }
    }
}

#[test]
fn success_flag_only_with_last_and_full_data_and_as_the_policy_says() {
    let cases = [
        (Success::WithoutFlowControl, false, true),
        (Success::WithoutFlowControl, true, false),
        (Success::Always, true, true),
        (Success::Never, false, false),
    ];
    for (success, flow_control, expected) in cases {
        let queue = Queue {
            flow_control,
            success,
            ..QUEUE
        };
        let mut rig = Rig::ready(LIMITS, queue, BOTH);
        for (result, length_bytes) in [(0, 4096), (0, 4092), (1, 4096)] {
            let capsule = rig.capsule(&read(7, 4096), &[]);
            rig.feed(&capsule);
            rig.connection
                .complete_with_data(Slot(0), result, length_bytes, Some(0), &mut rig.out);
            let expected = expected && result == 0 && length_bytes == 4096;
            let sent = rig.sent();
            let Pdu::DataToHost(data, body) = sent[0] else {
                panic!("data first")
            };
            assert!(data.last && data.success == expected && body.digest);
            assert_eq!(
                (data.cid, data.offset_bytes, data.length_bytes),
                (7, 0, length_bytes)
            );
            assert_eq!(
                sent.len(),
                if expected { 1 } else { 2 },
                "a response unless SUCCESS"
            );
        }
    }
}

#[test]
fn hdgst_flag_is_set_on_every_pdu_when_negotiated() {
    let mut rig = Rig::ready(LIMITS, QUEUE, BOTH);
    let bytes = rig.capsule(&write_by_r2t(1, 512), &[]);
    rig.feed(&bytes);
    let bytes = rig.capsule(&read(2, 512), &[]);
    rig.feed(&bytes);
    rig.connection
        .complete_with_data(Slot(1), 0, 512, Some(9), &mut rig.out);
    // `sent` parses R2T, C2HData and response with digests on, which refuses each one without flag or digest.
    assert_eq!(rig.sent().len(), 3);
}

#[test]
fn hosts_alignment_pads_c2h_data() {
    for digests in [Digests::default(), BOTH] {
        for alignment in 0..=pdu::ALIGNMENT_MAX {
            let mut rig = Rig::new(LIMITS);
            let request = IcReq {
                alignment,
                digests,
                max_r2t: 0,
            };
            rig.feed(&request.encode());
            rig.digests = digests;
            rig.out.clear();
            let capsule = rig.capsule(&read(1, 512), &[]);
            rig.feed(&capsule);
            rig.connection
                .complete_with_data(Slot(0), 0, 512, Some(0), &mut rig.out);
            let [
                Part::Bytes { start: 0, end },
                Part::Payload { .. },
                Part::Bytes { .. },
            ] = rig.out.parts[..]
            else {
                panic!("header, data, response: {:?}", rig.out.parts)
            };
            assert_eq!(end % ((u32::from(alignment) + 1) * 4), 0);
            assert_eq!(u32::from(rig.out.bytes[3]), end, "PDO");
            assert_eq!(rig.sent().len(), 2);
        }
    }
}

#[test]
fn each_id_completes_exactly_once() {
    let mut rig = Rig::plain();
    let capsule = rig.capsule(&read(1, 512), &[]);
    rig.feed(&capsule);
    rig.connection.complete(Slot(0), 0, Status::SUCCESS, &mut rig.out);
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        rig.connection.complete(Slot(0), 0, Status::SUCCESS, &mut rig.out);
    }));
    assert!(again.is_err());
}
