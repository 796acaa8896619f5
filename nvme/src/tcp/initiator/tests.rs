//! The host's machine against bytes that a target might send, right and wrong.

use super::*;
use crate::command::io_opcode;
use crate::crc32c::portable;
use crate::tcp::pdu::{CommonHeader, Termination};

const BOTH: Digests = Digests {
    header: true,
    data: true,
};
const PLAIN: Digests = Digests {
    header: false,
    data: false,
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
    Ready,
    Data(u16, u32, usize),
    Completion(u16, Status, u32),
    Corrupt(u16),
    Fatal(FatalStatus, u32),
    Terminated(u16),
}

fn seen(event: Event<'_>) -> Seen {
    match event {
        Event::Ready => Seen::Ready,
        Event::Data {
            cid,
            offset_bytes,
            bytes,
        } => Seen::Data(cid, offset_bytes, bytes.len()),
        Event::Completion { entry, data_bytes } => Seen::Completion(entry.cid, entry.status, data_bytes),
        Event::Corrupt { cid } => Seen::Corrupt(cid),
        Event::Close { reason } => match reason {
            CloseReason::Fatal(fatal) => Seen::Fatal(fatal.status, fatal.information),
            CloseReason::Terminated(termination) => Seen::Terminated(termination.status),
        },
    }
}

impl Rig {
    fn new(digests: Digests) -> Self {
        let options = Options {
            header_digest: digests.header,
            data_digest: digests.data,
            commands_max: 8,
            in_capsule_bytes: 4096,
        };
        let mut rig = Self {
            connection: Connection::new(options, portable),
            out: Outbox::default(),
            digests: PLAIN,
        };
        rig.connection.start(&mut rig.out);
        rig
    }

    /// After ICResp, with data towards the target aligned by `alignment` and PDUs of at most 4096 bytes.
    fn ready(digests: Digests, alignment: u8) -> Self {
        let mut rig = Self::new(digests);
        let response = IcResp {
            alignment,
            digests,
            max_h2c_bytes: 4096,
        };
        assert_eq!(rig.feed(&response.encode()), [Seen::Ready]);
        rig.digests = digests;
        rig.out.clear();
        rig
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<Seen> {
        let mut input = bytes;
        let mut all = Vec::new();
        while let Some(event) = self
            .connection
            .next(&mut input, &mut |_, _, _| 0x5555, &mut self.out)
        {
            all.push(seen(event));
        }
        all
    }

    fn write(&mut self, cid: u16, bytes: u32) {
        let entry = SubmissionEntry::new(io_opcode::WRITE, cid);
        let payload = Payload::ToTarget(bytes);
        self.connection
            .submit(entry, payload, &mut |_, _, _| 0x5555, &mut self.out);
    }

    fn read(&mut self, cid: u16, bytes: u32) {
        let entry = SubmissionEntry::new(io_opcode::READ, cid);
        let payload = Payload::FromTarget(bytes);
        self.connection
            .submit(entry, payload, &mut |_, _, _| 0, &mut self.out);
    }

    fn head(&self, header: &[u8]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        if self.digests.header {
            bytes.extend(portable(0, header).to_le_bytes());
        }
        bytes
    }

    fn response(&self, cid: u16, status: Status) -> Vec<u8> {
        let entry = CompletionEntry {
            result: 0,
            sqhd: 0,
            cid,
            status,
        };
        self.head(&pdu::encode_response(&entry, self.digests))
    }

    fn r2t(&self, cid: u16, offset_bytes: u32, length_bytes: u32) -> Vec<u8> {
        let r2t = R2t {
            cid,
            ttag: 0xbeef,
            offset_bytes,
            length_bytes,
        };
        self.head(&r2t.encode(self.digests))
    }

    fn data(&self, cid: u16, offset_bytes: u32, length_bytes: u32, last: bool, success: bool) -> Vec<u8> {
        let header = DataHeader {
            cid,
            ttag: 0,
            offset_bytes,
            length_bytes,
            last,
            success,
        };
        let data = vec![1; length_bytes as usize];
        let mut bytes = self.head(&header.encode(PduType::C2hData, self.digests, 0));
        bytes.extend(&data);
        if self.digests.data {
            bytes.extend(portable(0, &data).to_le_bytes());
        }
        bytes
    }

    /// The PDUs sent, with each payload as zeroes.
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
}

#[test]
fn icreq_asks_for_one_r2t_at_a_time_and_hpda_0() {
    let rig = Rig::new(BOTH);
    assert_eq!(
        rig.out.bytes[..16],
        [0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0]
    );
}

#[test]
fn icresp_must_agree_to_the_digests_and_come_first_and_once() {
    let response = |digests| IcResp {
        alignment: 0,
        digests,
        max_h2c_bytes: 4096,
    };
    let refused = [Seen::Fatal(FatalStatus::UnsupportedParameter, field::DIGESTS)];
    assert_eq!(Rig::new(BOTH).feed(&response(PLAIN).encode()), refused);
    assert_eq!(Rig::new(PLAIN).feed(&response(BOTH).encode()), refused);
    let sequence = [Seen::Fatal(FatalStatus::SequenceError, 0)];
    let mut rig = Rig::new(PLAIN);
    let early = rig.response(0, Status::SUCCESS);
    assert_eq!(rig.feed(&early), sequence);
    let mut rig = Rig::ready(PLAIN, 0);
    assert_eq!(rig.feed(&response(PLAIN).encode()), sequence);
    assert_eq!(
        rig.feed(&response(PLAIN).encode()),
        [],
        "nothing is parsed after the end"
    );
}

#[test]
fn write_data_travels_in_the_capsule_up_to_the_limit_and_8_kib_for_fabrics() {
    for digests in [PLAIN, BOTH] {
        for alignment in [0, 7, 31] {
            let mut rig = Rig::ready(digests, alignment);
            rig.write(0, 4096);
            rig.write(1, 4097);
            let mut connect = SubmissionEntry::new(admin_opcode::FABRICS, 2);
            connect.set_fctype(1);
            let payload = Payload::ToTarget(8192);
            rig.connection
                .submit(connect, payload, &mut |_, _, _| 0, &mut rig.out);
            let sent = rig.sent();
            let carried: Vec<_> = sent
                .iter()
                .map(|pdu| {
                    let Pdu::Command(entry, body) = pdu else {
                        panic!("only commands, not {pdu:?}")
                    };
                    (entry.sgl(), body.map(|body| body.data_bytes))
                })
                .collect();
            let in_capsule = |length_bytes| Sgl::InCapsule {
                offset_bytes: 0,
                length_bytes,
            };
            assert_eq!(carried[0], (in_capsule(4096), Some(4096)));
            assert_eq!(carried[1], (Sgl::Transport { length_bytes: 4097 }, None));
            assert_eq!(carried[2], (in_capsule(8192), Some(8192)));
        }
    }
}

#[test]
fn r2t_is_answered_in_pieces_of_maxh2cdata_and_the_last_says_so() {
    for digests in [PLAIN, BOTH] {
        let mut rig = Rig::ready(digests, 15);
        rig.write(3, 10_000);
        rig.sent();
        let r2t = rig.r2t(3, 0, 10_000);
        assert_eq!(rig.feed(&r2t), []);
        let answered: Vec<_> = rig
            .sent()
            .iter()
            .map(|pdu| {
                let Pdu::DataToController(data, _) = pdu else {
                    panic!("only data, not {pdu:?}")
                };
                (data.ttag, data.offset_bytes, data.length_bytes, data.last)
            })
            .collect();
        let expected = [
            (0xbeef, 0, 4096, false),
            (0xbeef, 4096, 4096, false),
            (0xbeef, 8192, 1808, true),
        ];
        assert_eq!(answered, expected);
        let response = rig.response(3, Status::SUCCESS);
        assert_eq!(rig.feed(&response), [Seen::Completion(3, Status::SUCCESS, 0)]);
        assert_eq!(rig.connection.in_flight(), 0);
    }
}

#[test]
fn wrong_r2ts_end_the_connection() {
    use FatalStatus::{DataOutOfRange, InvalidHeaderField};
    let cases = [
        (3, 512, 8192, DataOutOfRange, field::OFFSET, "a gap"),
        (3, 0, 8193, DataOutOfRange, field::LENGTH, "past the end"),
        (4, 0, 512, InvalidHeaderField, field::CID, "not in flight"),
        (5, 0, 512, InvalidHeaderField, field::CID, "a read"),
        (6, 0, 512, DataOutOfRange, field::LENGTH, "was in the capsule"),
        (800, 0, 512, InvalidHeaderField, field::CID, "no such identifier"),
    ];
    for (cid, offset_bytes, length_bytes, status, information, why) in cases {
        let mut rig = Rig::ready(PLAIN, 0);
        rig.write(3, 8192);
        rig.read(5, 8192);
        rig.write(6, 512);
        rig.sent();
        let offset_bytes = if cid == 6 { 512 } else { offset_bytes };
        let r2t = rig.r2t(cid, offset_bytes, length_bytes);
        assert_eq!(rig.feed(&r2t), [Seen::Fatal(status, information)], "{why}");
        assert_eq!(rig.sent().len(), 1, "H2CTermReq");
    }
    let mut rig = Rig::ready(PLAIN, 0);
    rig.write(3, 8192);
    let twice = [rig.r2t(3, 0, 4096), rig.r2t(3, 0, 4096)].concat();
    assert_eq!(
        rig.feed(&twice),
        [Seen::Fatal(DataOutOfRange, field::OFFSET)],
        "backwards"
    );
}

#[test]
fn reads_complete_by_response_or_by_success_flag() {
    for digests in [PLAIN, BOTH] {
        let mut rig = Rig::ready(digests, 0);
        rig.read(1, 1000);
        let bytes = [
            rig.data(1, 0, 600, false, false),
            rig.data(1, 600, 400, true, true),
        ]
        .concat();
        let expected = [
            Seen::Data(1, 0, 600),
            Seen::Data(1, 600, 400),
            Seen::Completion(1, Status::SUCCESS, 1000),
        ];
        assert_eq!(rig.feed(&bytes), expected);
        rig.read(1, 1000);
        let bytes = [rig.data(1, 0, 600, true, false), rig.response(1, Status::SUCCESS)].concat();
        let expected = [Seen::Data(1, 0, 600), Seen::Completion(1, Status::SUCCESS, 600)];
        assert_eq!(rig.feed(&bytes), expected, "the caller sees that it is short");
    }
}

#[test]
fn a_reply_with_an_unknown_command_id_ends_the_connection() {
    let mut rig = Rig::ready(PLAIN, 0);
    rig.read(1, 512);
    let response = rig.response(1, Status::INVALID_FIELD);
    assert_eq!(
        rig.feed(&response),
        [Seen::Completion(1, Status::INVALID_FIELD, 0)]
    );
    let again = [Seen::Fatal(FatalStatus::InvalidHeaderField, field::RESPONSE_CID)];
    assert_eq!(rig.feed(&response), again);
    let mut rig = Rig::ready(PLAIN, 0);
    let response = rig.response(0x8000, Status::SUCCESS);
    assert_eq!(rig.feed(&response), again);
}

#[test]
fn wrong_data_ends_the_connection() {
    use FatalStatus::{DataOutOfRange, InvalidHeaderField};
    let cases = [
        ((1, 4, 508, true, false), DataOutOfRange, field::OFFSET, "a gap"),
        (
            (1, 0, 516, true, false),
            DataOutOfRange,
            field::LENGTH,
            "past the end",
        ),
        (
            (1, 0, 508, true, true),
            InvalidHeaderField,
            field::FLAGS,
            "short with SUCCESS",
        ),
        (
            (2, 0, 512, true, false),
            InvalidHeaderField,
            field::CID,
            "a write",
        ),
        (
            (3, 0, 512, true, false),
            InvalidHeaderField,
            field::CID,
            "not in flight",
        ),
    ];
    for ((cid, offset_bytes, length_bytes, last, success), status, information, why) in cases {
        let mut rig = Rig::ready(PLAIN, 0);
        rig.read(1, 512);
        rig.write(2, 512);
        let data = rig.data(cid, offset_bytes, length_bytes, last, success);
        assert_eq!(rig.feed(&data), [Seen::Fatal(status, information)], "{why}");
    }
    let mut rig = Rig::ready(PLAIN, 0);
    rig.read(1, 512);
    let twice = [
        rig.data(1, 0, 256, false, false),
        rig.data(1, 0, 256, true, false),
    ]
    .concat();
    assert_eq!(
        rig.feed(&twice)[1],
        Seen::Fatal(DataOutOfRange, field::OFFSET),
        "overlapping"
    );
    let mut rig = Rig::ready(PLAIN, 0);
    rig.read(1, 512);
    let after = [
        rig.data(1, 0, 256, true, false),
        rig.data(1, 256, 256, true, false),
    ]
    .concat();
    assert_eq!(
        rig.feed(&after)[1],
        Seen::Fatal(FatalStatus::SequenceError, 0),
        "after LAST"
    );
}

#[test]
fn a_write_cannot_succeed_before_its_data_was_asked_for() {
    let mut rig = Rig::ready(PLAIN, 0);
    rig.write(1, 8192);
    rig.write(2, 8192);
    let failed = rig.response(1, Status::NAMESPACE_WRITE_PROTECTED);
    let expected = [Seen::Completion(1, Status::NAMESPACE_WRITE_PROTECTED, 0)];
    assert_eq!(rig.feed(&failed), expected);
    let partly = [rig.r2t(2, 0, 4096), rig.response(2, Status::SUCCESS)].concat();
    assert_eq!(rig.feed(&partly), [Seen::Fatal(FatalStatus::SequenceError, 0)]);
}

#[test]
fn wrong_data_digest_spoils_the_command_and_not_the_connection() {
    let mut rig = Rig::ready(BOTH, 0);
    for success in [true, false] {
        rig.read(1, 512);
        let mut bytes = rig.data(1, 0, 512, true, success);
        bytes[200] ^= 1;
        if !success {
            bytes.extend(rig.response(1, Status::SUCCESS));
        }
        assert_eq!(rig.feed(&bytes), [Seen::Data(1, 0, 512), Seen::Corrupt(1)]);
        assert!(rig.connection.is_ready() && !rig.connection.is_in_flight(1));
    }
}

#[test]
fn wrong_header_digest_is_answered_with_h2c_term_req() {
    let mut rig = Rig::ready(BOTH, 0);
    rig.read(1, 512);
    rig.out.clear();
    let mut response = rig.response(1, Status::SUCCESS);
    response[27] ^= 1;
    let received = u32::from_le_bytes(*response.last_chunk().unwrap());
    assert_eq!(
        rig.feed(&response),
        [Seen::Fatal(FatalStatus::HeaderDigestError, received)]
    );
    let expected = Termination {
        status: 3,
        information: received,
    };
    assert_eq!(rig.sent(), [Pdu::HostTerminates(expected)]);
}

#[test]
fn c2h_term_req_closes_without_an_answer() {
    let mut rig = Rig::ready(BOTH, 0);
    let term = TermReq::new(PduType::C2hTermReq, Fatal::field(4), &[9; 72]);
    assert_eq!(rig.feed(term.as_bytes()), [Seen::Terminated(1)]);
    assert!(rig.out.is_empty());
}
