use std::sync::Arc;

use nvme::crc32c::portable;

use super::*;
use crate::icl::link::random::Random;

/// A header like that of a session under way.
pub(in crate::icl::link) fn header(first: u64, frame_count: u16) -> Header {
    let member = |slot, incarnation| Node {
        slot: Slot::new(slot).expect("there is such a slot"),
        incarnation: Incarnation(incarnation),
    };
    Header {
        envelope: Envelope {
            array: ArrayId(*b"sixteen bytes id"),
            epoch: Epoch(0x0506_0708),
            lane: Lane(3),
            sender: member(1, 0x1111_2222_3333_4444),
            receiver: member(2, 0x5555_6666_7777_8888),
        },
        first,
        ack: 99,
        credit: Credit {
            frames: 5000,
            bytes: 70_000,
        },
        ping_ns: Some(123_456_789),
        answer_ns: None,
        frame_count,
    }
}

/// A packet of so many frames, of different lengths, for groups and for the node.
pub(in crate::icl::link) fn sample(frame_count: u16) -> Vec<u8> {
    let mut frames = Vec::new();
    for index in 0..frame_count {
        let address = if index % 3 == 2 {
            Address::Node
        } else {
            Address::Group(index)
        };
        let payload = vec![index.to_le_bytes()[0]; usize::from(index) * 5];
        frames.extend_from_slice(&encode_frame_header(address, 0x700 + index, payload.len()));
        frames.extend_from_slice(&payload);
    }
    encode(&header(41, frame_count), &frames)
}

/// A packet with these frames, composed of pieces.
pub(in crate::icl::link) fn encode(header: &Header, frames: &[u8]) -> Vec<u8> {
    let mut out = Outbox::default();
    let (left, right) = frames.split_at(frames.len() / 3);
    let right: Arc<[u8]> = right.into();
    let pieces = [Piece::Own(left), Piece::Shared(&right)];
    header.encode(frames.len(), pieces.into_iter(), portable, &mut out);
    out.packet(0, out.composed_bytes())
}

/// Puts right both CRCs, so that what is behind them is looked at.
fn mend(bytes: &mut [u8]) {
    let sum = portable(0, &bytes[..HEADER_CRC_AT]);
    bytes[HEADER_CRC_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    let end = bytes.len() - CRC_BYTES;
    let sum = portable(0, &bytes[..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_packet_is_read_as_it_was_written() {
    for frame_count in 0..12 {
        let bytes = sample(frame_count);
        let packet = Packet::parse(&bytes, portable).expect("it is one");
        assert_eq!(packet.header, header(41, frame_count));
        let frames: Vec<Frame> = packet.frames().collect();
        assert_eq!(frames.len(), usize::from(frame_count));
        for (frame, index) in frames.iter().zip(0u16..) {
            assert_eq!(frame.kind, 0x700 + index);
            assert_eq!(frame.address == Address::Node, index % 3 == 2);
            assert_eq!(
                packet.payload(frame),
                vec![index.to_le_bytes()[0]; usize::from(index) * 5]
            );
        }
    }
}

/// The layout is what the module's table says, whatever the code does to get there.
#[test]
fn fields_are_where_the_table_says() {
    let bytes = sample(1);
    assert_eq!(&bytes[..8], b"BICL\x01\x03\x01\x02");
    assert_eq!(&bytes[8..24], b"sixteen bytes id");
    assert_eq!(bytes[24..32], [8, 7, 6, 5, 0, 0, 0, 0]);
    assert_eq!(bytes[32..40], 0x1111_2222_3333_4444u64.to_le_bytes());
    assert_eq!(bytes[40..48], 0x5555_6666_7777_8888u64.to_le_bytes());
    assert_eq!((bytes[48], bytes[56]), (41, 99));
    assert_eq!(bytes[64..72], 5000u64.to_le_bytes());
    assert_eq!(bytes[72..80], 70_000u64.to_le_bytes());
    assert_eq!(bytes[80..88], 123_456_789u64.to_le_bytes());
    assert_eq!(bytes[88..96], [0; 8]);
    assert_eq!(bytes[96..104], [120, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(bytes[108..116], [0, 0, 0, 7, 0, 0, 0, 0]);
    assert_eq!(bytes.len(), 120);
}

/// M1: a packet cut at every byte never gives a message, be it a whole one of several.
#[test]
fn a_packet_cut_anywhere_gives_nothing() {
    let bytes = sample(9);
    for end in 0..bytes.len() {
        assert!(Packet::parse(&bytes[..end], portable).is_err(), "{end}");
        // What tears a packet may write another length and CRC of the header; that of the whole still stops it.
        let mut torn = bytes[..end].to_vec();
        if end >= PACKET_BYTES_MIN {
            let length = u32::try_from(end).expect("it is short");
            torn[LENGTH_AT..FRAME_COUNT_AT].copy_from_slice(&length.to_le_bytes());
            let sum = portable(0, &torn[..HEADER_CRC_AT]);
            torn[HEADER_CRC_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
            let at = end - CRC_BYTES;
            assert_eq!(
                Packet::parse(&torn, portable).expect_err("it is torn"),
                PacketError::PacketCrc { at }
            );
        }
    }
}

#[test]
fn every_change_of_a_byte_is_an_error() {
    let bytes = sample(5);
    for at in 0..bytes.len() {
        for bits in 1..=u8::MAX {
            let mut changed = bytes.clone();
            changed[at] ^= bits;
            assert!(
                Packet::parse(&changed, portable).is_err(),
                "byte {at} xor {bits:#x}"
            );
        }
    }
}

/// With right CRCs every change gives an error or a packet whose frames fill it exactly.
#[test]
fn every_change_with_right_checksums_is_an_error_or_a_packet() {
    let bytes = sample(5);
    let mut packets = 0;
    for at in 0..bytes.len() {
        for bits in 1..=u8::MAX {
            let mut changed = bytes.clone();
            changed[at] ^= bits;
            mend(&mut changed);
            if let Ok(packet) = Packet::parse(&changed, portable) {
                let frame_bytes: usize = packet.frames().map(|frame| frame.bytes()).sum();
                assert_eq!(frame_bytes + PACKET_BYTES_MIN, changed.len());
                assert_eq!(packet.frames().count(), usize::from(packet.header.frame_count));
                packets += 1;
            }
        }
    }
    assert!(packets > 1000, "payload and numbers may be anything: {packets}");
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random::new(7);
    for round in 0..20_000u32 {
        let mut bytes = sample(3);
        for _ in 0..=random.below(12) {
            let at = random.index(bytes.len());
            bytes[at] = random.next().to_le_bytes()[0];
        }
        bytes.truncate(PACKET_BYTES_MIN + random.index(bytes.len() - PACKET_BYTES_MIN + 1));
        if round % 2 == 0 {
            let length = u32::try_from(bytes.len()).expect("it is short");
            bytes[LENGTH_AT..FRAME_COUNT_AT].copy_from_slice(&length.to_le_bytes());
            bytes[..5].copy_from_slice(b"BICL\x01");
            mend(&mut bytes);
        }
        if let Ok(packet) = Packet::parse(&bytes, portable) {
            assert!(packet.frames().all(|frame| frame.payload.end <= bytes.len()));
        }
    }
}

#[test]
fn each_rule_has_its_error() {
    let broken = |change: fn(&mut Vec<u8>)| {
        let mut bytes = sample(2);
        change(&mut bytes);
        mend(&mut bytes);
        Packet::parse(&bytes, portable).map(|packet| packet.header)
    };
    assert_eq!(broken(|bytes| bytes[0] = b'X'), Err(PacketError::Magic));
    assert_eq!(
        broken(|bytes| bytes[4] = 9),
        Err(PacketError::Version { found: 9 })
    );
    assert_eq!(
        broken(|bytes| bytes[103] = 1),
        Err(PacketError::Reserved { at: 103 })
    );
    assert_eq!(broken(|bytes| bytes[6] = 8), Err(PacketError::Slot { at: 6 }));
    assert_eq!(broken(|bytes| bytes[7] = 255), Err(PacketError::Slot { at: 7 }));
    assert_eq!(
        broken(|bytes| bytes[96] = 4),
        Err(PacketError::Length { packet_bytes: 4 })
    );
    assert_eq!(
        broken(|bytes| bytes[99] = 1),
        Err(PacketError::Length {
            packet_bytes: (1 << 24) + 133
        })
    );
    assert_eq!(
        broken(|bytes| bytes.push(0)),
        Err(PacketError::LengthMismatch {
            packet_bytes: 133,
            bytes: 134
        })
    );
    assert_eq!(
        broken(|bytes| bytes[101] = 0xff),
        Err(PacketError::FrameCount { frames: 0xff02 })
    );
    assert_eq!(
        broken(|bytes| bytes[48] = 0),
        Err(PacketError::Sequence { first: 0 })
    );
    assert_eq!(
        broken(|bytes| bytes[48..56].fill(0xff)),
        Err(PacketError::Sequence { first: u64::MAX })
    );
    assert_eq!(
        broken(|bytes| bytes[100] = 3),
        Err(PacketError::FrameCut { frame: 2, at: 129 })
    );
    assert_eq!(
        broken(|bytes| bytes[100] = 1),
        Err(PacketError::Trailing { at: 116 })
    );
    assert_eq!(
        broken(|bytes| bytes[120] = 6),
        Err(PacketError::FrameCut { frame: 1, at: 116 })
    );
    assert_eq!(
        Packet::parse(&[], portable).map(|packet| packet.header),
        Err(PacketError::Short { bytes: 0 })
    );
}

#[test]
#[should_panic(expected = "an AMF divides what is longer")]
fn a_message_longer_than_a_packet_is_a_bug() {
    encode_frame_header(Address::Node, 0, PAYLOAD_BYTES_MAX + 1);
}
