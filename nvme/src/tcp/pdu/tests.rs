use super::*;
use crate::command::io_opcode;
use crate::crc32c::portable;
use crate::status::Status;

const DIGESTS: [Digests; 4] = [
    Digests {
        header: false,
        data: false,
    },
    Digests {
        header: true,
        data: false,
    },
    Digests {
        header: false,
        data: true,
    },
    Digests {
        header: true,
        data: true,
    },
];

/// Appends the header digest, if there is one, and parses as a receiver does.
fn parse(header: &[u8], digests: Digests) -> Result<Pdu, Fatal> {
    let common = CommonHeader::parse(header.first_chunk().unwrap(), digests)?;
    let mut head = header.to_vec();
    if common.head_bytes(digests) as usize > head.len() {
        head.extend(portable(0, header).to_le_bytes());
    }
    Pdu::parse(&common, &head, digests, portable)
}

fn entry() -> SubmissionEntry {
    let mut entry = SubmissionEntry::new(io_opcode::WRITE, 0xabcd);
    entry.set_qword(10, 0x0123_4567_89ab_cdef);
    entry
}

fn data_header(success: bool) -> DataHeader {
    DataHeader {
        cid: 0x1234,
        ttag: 0x4321,
        offset_bytes: 0x0102_0304,
        length_bytes: 516,
        last: success,
        success,
    }
}

/// One header of each type, as an end with these digests sends it.
fn every_header(digests: Digests) -> Vec<Vec<u8>> {
    let initialize = IcReq {
        alignment: 3,
        digests,
        max_r2t: 7,
    };
    let response = IcResp {
        alignment: 1,
        digests,
        max_h2c_bytes: 8192,
    };
    let fatal = Fatal::field(field::HLEN);
    let completion = CompletionEntry {
        result: 5,
        sqhd: 6,
        cid: 7,
        status: Status::SUCCESS,
    };
    let r2t = R2t {
        cid: 1,
        ttag: 2,
        offset_bytes: 3,
        length_bytes: 4,
    };
    vec![
        initialize.encode().to_vec(),
        response.encode().to_vec(),
        TermReq::new(PduType::H2cTermReq, fatal, &[]).as_bytes().to_vec(),
        TermReq::new(PduType::C2hTermReq, fatal, &[]).as_bytes().to_vec(),
        encode_command(&entry(), digests, 0, 0).to_vec(),
        encode_command(&entry(), digests, 31, 4096).to_vec(),
        encode_response(&completion, digests).to_vec(),
        data_header(false).encode(PduType::H2cData, digests, 0).to_vec(),
        data_header(true).encode(PduType::C2hData, digests, 31).to_vec(),
        r2t.encode(digests).to_vec(),
    ]
}

#[test]
fn initialize_pdus_survive_a_round_trip() {
    for digests in DIGESTS {
        let request = IcReq {
            alignment: 31,
            digests,
            max_r2t: 15,
        };
        assert_eq!(
            parse(&request.encode(), Digests::default()),
            Ok(Pdu::IcReq(request))
        );
        let response = IcResp {
            alignment: 4,
            digests,
            max_h2c_bytes: 0x0040_0000,
        };
        assert_eq!(
            parse(&response.encode(), Digests::default()),
            Ok(Pdu::IcResp(response))
        );
    }
}

#[test]
fn capsules_survive_a_round_trip_with_and_without_data_at_every_alignment() {
    for digests in DIGESTS {
        let header = encode_command(&entry(), digests, 0, 0);
        assert_eq!(parse(&header, digests), Ok(Pdu::Command(entry(), None)));
        for alignment in 0..=ALIGNMENT_MAX {
            let header = encode_command(&entry(), digests, alignment, 4096);
            let Ok(Pdu::Command(parsed, Some(body))) = parse(&header, digests) else {
                panic!("a command with data")
            };
            assert_eq!(parsed, entry());
            assert_eq!(body.data_bytes, 4096);
            assert_eq!(body.digest, digests.data);
            assert_eq!(
                body.pad_bytes as usize,
                pad_bytes(PduType::CapsuleCmd, digests, alignment)
            );
            assert_eq!(usize::from(header[3]) % ((usize::from(alignment) + 1) * 4), 0);
        }
        let completion = CompletionEntry {
            result: u64::MAX,
            sqhd: 12,
            cid: 0xffff,
            status: Status::LBA_OUT_OF_RANGE.do_not_retry(),
        };
        let header = encode_response(&completion, digests);
        assert_eq!(parse(&header, digests), Ok(Pdu::Response(completion)));
    }
}

#[test]
fn data_and_r2t_survive_a_round_trip() {
    for digests in DIGESTS {
        let body = Body {
            pad_bytes: 0,
            data_bytes: 516,
            digest: digests.data,
        };
        let sent = data_header(false);
        let header = sent.encode(PduType::H2cData, digests, 0);
        assert_eq!(parse(&header, digests), Ok(Pdu::DataToController(sent, body)));
        let sent = data_header(true);
        let header = sent.encode(PduType::C2hData, digests, 0);
        assert_eq!(parse(&header, digests), Ok(Pdu::DataToHost(sent, body)));
        let r2t = R2t {
            cid: 9,
            ttag: 8,
            offset_bytes: 1 << 20,
            length_bytes: 1 << 17,
        };
        assert_eq!(parse(&r2t.encode(digests), digests), Ok(Pdu::R2t(r2t)));
    }
}

#[test]
fn term_requests_quote_at_most_128_bytes_and_carry_no_digest() {
    let fatal = Fatal::new(FatalStatus::HeaderDigestError, 0xfeed_beef);
    let term = TermReq::new(PduType::C2hTermReq, fatal, &[0x55; 132]);
    assert_eq!(term.as_bytes().len(), 152);
    assert_eq!(term.as_bytes()[..8], [3, 0, 24, 0, 152, 0, 0, 0]);
    assert_eq!(term.as_bytes()[24..], [0x55; 128]);
    let expected = Termination {
        status: 3,
        information: 0xfeed_beef,
    };
    for digests in DIGESTS {
        let head = &term.as_bytes()[..24];
        assert_eq!(parse(head, digests), Ok(Pdu::ControllerTerminates(expected)));
    }
}

/// The layouts, by hand from the header file, against the encoder.
#[test]
fn bytes_stand_where_the_header_file_puts_them() {
    let digests = Digests {
        header: true,
        data: true,
    };
    let header = data_header(true).encode(PduType::C2hData, digests, 0);
    let plen = 24 + 4 + 516 + 4u32;
    let mut expected = vec![0x07, 0b1111, 24, 28];
    expected.extend(plen.to_le_bytes());
    expected.extend([
        0x34, 0x12, 0x21, 0x43, 0x04, 0x03, 0x02, 0x01, 0x04, 0x02, 0, 0, 0, 0, 0, 0,
    ]);
    assert_eq!(header.to_vec(), expected);
    let request = IcReq {
        alignment: 2,
        digests,
        max_r2t: 5,
    }
    .encode();
    assert_eq!(
        request[..16],
        [0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 2, 3, 5, 0, 0, 0]
    );
    assert!(request[16..].iter().all(|&byte| byte == 0));
}

/// Changes one byte of a header and says what the parser finds, without header digests.
fn patched(header: &[u8], at: usize, value: u8, digests: Digests) -> Option<Fatal> {
    let mut header = header.to_vec();
    header[at] = value;
    parse(&header, digests).err()
}

#[test]
fn each_wrong_field_is_named_by_its_offset() {
    let plain = Digests::default();
    let headers = every_header(plain);
    for header in &headers {
        assert_eq!(
            patched(header, 0, 0x08, plain),
            Some(Fatal::field(0)),
            "no such type"
        );
        assert_eq!(
            patched(header, 2, header[2] + 4, plain),
            Some(Fatal::field(2)),
            "HLEN"
        );
    }
    let command = &headers[5];
    for (data_offset, why) in [(0, "within the header"), (73, "not aligned")] {
        assert_eq!(
            patched(command, 3, data_offset, plain),
            Some(Fatal::field(3)),
            "PDO {why}"
        );
    }
    assert_eq!(
        patched(command, 1, 2, plain),
        Some(Fatal::field(1)),
        "data digest not agreed"
    );
    assert_eq!(
        patched(command, 1, 1, plain),
        Some(Fatal::field(1)),
        "header digest not agreed"
    );
}

#[test]
fn each_wrong_field_of_data_and_initialize_pdus_is_named_by_its_offset() {
    let plain = Digests::default();
    let headers = every_header(plain);
    let data = &headers[7];
    assert_eq!(
        patched(data, 16, 0, plain),
        Some(Fatal::field(16)),
        "DATAL is not what PLEN says"
    );
    assert_eq!(
        patched(&headers[8], 1, 8, plain),
        Some(Fatal::field(1)),
        "SUCCESS without LAST"
    );
    assert_eq!(
        patched(&headers[9], 16, 0, plain),
        Some(Fatal::field(16)),
        "R2T for nothing"
    );
    assert_eq!(
        patched(&headers[0], 10, 32, plain),
        Some(Fatal::field(10)),
        "HPDA above 31"
    );
    let version = Some(Fatal::new(FatalStatus::UnsupportedParameter, 8));
    assert_eq!(patched(&headers[0], 8, 1, plain), version, "PFV");
    assert_eq!(patched(&headers[1], 9, 1, plain), version, "PFV");
    assert_eq!(
        patched(&headers[1], 13, 0, plain),
        Some(Fatal::field(12)),
        "MAXH2CDATA below 4096"
    );
    assert_eq!(
        patched(&headers[1], 12, 2, plain),
        Some(Fatal::field(12)),
        "MAXH2CDATA not in dwords"
    );
    let both = Digests {
        header: true,
        data: true,
    };
    let command = encode_command(&entry(), both, 0, 4096);
    assert_eq!(
        patched(&command, 1, 2, both),
        Some(Fatal::field(1)),
        "header digest missing"
    );
    assert_eq!(
        patched(&command, 1, 1, both),
        Some(Fatal::field(1)),
        "data digest missing"
    );
}

#[test]
fn a_length_without_room_for_header_data_or_digest_is_refused() {
    for digests in DIGESTS {
        for header in every_header(digests) {
            let carries_data = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) > 152;
            for total_bytes in 0..u32::from(header[2]) {
                let mut header = header.clone();
                header[4..8].copy_from_slice(&total_bytes.to_le_bytes());
                assert_eq!(parse(&header, digests), Err(Fatal::field(4)));
            }
            let mut longer = header.clone();
            longer[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
            let refused = parse(&longer, digests).is_err();
            // Only a command capsule with a proper PDO may be of any length: its SGL decides later.
            assert_eq!(refused, !(header[0] == 4 && carries_data), "{header:?}");
        }
    }
}

/// Every single bit that flips under a header digest is noticed, except that the type may turn into
/// a TermReq, which carries none and ends the connection as well.
#[test]
fn header_digests_catch_every_flipped_bit() {
    let digests = Digests {
        header: true,
        data: true,
    };
    for header in every_header(digests).iter().skip(4) {
        let mut head = header.clone();
        head.extend(portable(0, header).to_le_bytes());
        for bit in 0..head.len() * 8 {
            let mut wrong = head.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            let Ok(common) = CommonHeader::parse(wrong.first_chunk().unwrap(), digests) else {
                continue;
            };
            let length = common.head_bytes(digests) as usize;
            match Pdu::parse(&common, &wrong[..length], digests, portable) {
                Err(fatal) => assert_eq!(fatal.status, FatalStatus::HeaderDigestError),
                Ok(pdu) => assert!(matches!(
                    pdu,
                    Pdu::HostTerminates(_) | Pdu::ControllerTerminates(_)
                )),
            }
        }
    }
}

/// Every value of every byte of every header: never a panic, and a body that fits its PDU.
#[test]
fn no_byte_value_in_any_header_breaks_the_parser() {
    for digests in DIGESTS {
        for header in every_header(digests) {
            for at in 0..header.len() {
                for value in 0..=u8::MAX {
                    let mut wrong = header.clone();
                    wrong[at] = value;
                    let Ok(common) = CommonHeader::parse(wrong.first_chunk().unwrap(), digests) else {
                        continue;
                    };
                    let length = common.head_bytes(digests) as usize;
                    wrong.resize(usize::from(header[2]).min(length), 0);
                    if length > wrong.len() {
                        wrong.extend(portable(0, &wrong).to_le_bytes());
                    }
                    wrong.resize(length, 0);
                    let parsed = Pdu::parse(&common, &wrong, digests, portable);
                    if let Ok(Pdu::Command(_, Some(body)) | Pdu::DataToController(_, body)) = parsed {
                        let digest_bytes = if body.digest { 4 } else { 0 };
                        let head_bytes = common.head_bytes(digests);
                        let total = head_bytes + body.pad_bytes + body.data_bytes + digest_bytes;
                        assert_eq!(total, common.total_bytes);
                    }
                }
            }
        }
    }
}
