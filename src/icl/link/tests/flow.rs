use super::*;
use crate::icl::link::packet::{FRAME_BYTES_MAX, Packet};

const BIG: usize = 64 << 10;

#[test]
fn a_sender_stops_at_the_grant_and_goes_on_with_the_next() {
    let mut bench = Bench::new(2, |_| {});
    bench.consumes = false;
    let mut submitted = 0u8;
    while bench.try_submit(0, 1, 1, &vec![submitted; BIG]).is_ok() {
        submitted += 1;
    }
    bench.run(20, &[0, 1], |_| true);
    let window = config(0).window_bytes as usize;
    let unconsumed = bench.delivered.len() * (BIG + 8);
    assert!(
        unconsumed <= window && unconsumed + BIG + 8 > window,
        "{unconsumed} of {window}"
    );
    assert!(bench.counters(0, 1).credit_stalls > 0);
    assert_eq!(bench.counters(0, 1).refused_full, 1);
    // One message consumed makes room for one more.
    let before = bench.delivered.len();
    bench.consume(1, 0, 1, BIG as u64);
    bench.run(20, &[0, 1], |_| true);
    assert_eq!(bench.delivered.len(), before + 1);
    // The news of the last grant is lost: the next ping brings it.
    bench.consume(1, 0, 1, BIG as u64);
    bench.run(20, &[0, 1], |sent| sent.from == 0);
    assert_eq!(bench.delivered.len(), before + 1);
    bench.run(300, &[0, 1], |_| true);
    assert_eq!(bench.delivered.len(), before + 2);
    assert!(
        bench
            .asked
            .iter()
            .all(|(_, action)| matches!(action, Action::Room { .. }))
    );
}

#[test]
fn a_full_queue_says_so_and_says_when_there_is_room() {
    let mut bench = Bench::new(2, |_| {});
    let mut submitted = 0u64;
    while bench.try_submit(0, 1, 1, &[1; BIG]).is_ok() {
        submitted += 1;
    }
    assert_eq!(bench.try_submit(0, 1, 1, &[1; BIG]), Err(SubmitError::Full));
    assert!(bench.nodes[0].queued(slot(1)).bytes <= u64::from(config(0).queue_bytes));
    bench.settle();
    assert_eq!(bench.asked, [(0, Action::Room { peer: slot(1) })], "once");
    assert_eq!(bench.delivered.len() as u64, submitted);
    assert_eq!(bench.nodes[0].queued(slot(1)).frames, 0);
    assert!(bench.try_submit(0, 1, 1, &[1; BIG]).is_ok());
}

#[test]
fn many_small_messages_are_bounded_by_their_number() {
    let mut bench = Bench::new(2, |_| {});
    let mut submitted = 0;
    while bench.try_submit(0, 1, 1, &[]).is_ok() {
        submitted += 1;
    }
    assert_eq!(submitted, config(0).queue_frames);
    bench.settle();
    assert_eq!(bench.delivered.len(), submitted as usize);
}

/// What waits in this node to leave on a path is bounded; what is produced meanwhile gathers.
#[test]
fn a_path_that_takes_no_more_gathers_and_is_not_resent_on() {
    let mut bench = Bench::new(2, |config| config.unsent_bytes_max = 1000);
    bench.leaves = false;
    bench.submit(0, 1, 1, &[0; 2000]);
    let first = bench.end_turn(0);
    for _ in 0..5 {
        bench.submit(0, 1, 1, &[1; 2000]);
        assert!(bench.end_turn(0).is_empty(), "the first has not left");
    }
    bench.run(300, &[0], |_| panic!("nothing leaves"));
    assert_eq!(
        bench.counters(0, 1).messages_resent,
        0,
        "what waits here is not lost"
    );
    let wake_ns = bench.nodes[0].wake_at_ns().expect("a member has timers");
    assert!(
        wake_ns > bench.now_ns,
        "what waits for the path is no reason to wake"
    );
    let bytes = u32::try_from(first[0].bytes.len()).expect("it is short");
    bench.leaves = true;
    bench.event(
        0,
        Event::Sent {
            peer: slot(1),
            path: P0,
            bytes,
        },
    );
    let next = bench.end_turn(0);
    let frames = Packet::parse(&next[0].bytes, portable)
        .expect("it is one")
        .header
        .frame_count;
    assert_eq!(
        (next.len(), frames),
        (1, 5),
        "one packet for all that has gathered"
    );
}

/// A packet of node 0 to node 1 that breaks a rule although it is well-formed.
fn forged(bench: &mut Bench, change: impl FnOnce(&mut packet::Header), frames: &[u8]) -> Sent {
    bench.submit(0, 1, 1, &[0]);
    let [sent] = bench.end_turn(0).try_into().expect("one packet");
    let mut header = Packet::parse(&sent.bytes, portable).expect("it is one").header;
    change(&mut header);
    let bytes = packet::tests::encode(&header, frames);
    Sent { bytes, ..sent }
}

#[test]
fn a_peer_that_sends_more_than_it_may_is_cut_off_before_anything_is_delivered() {
    let mut bench = Bench::new(2, |_| {});
    bench.consumes = false;
    let length = FRAME_BYTES_MAX - 8;
    let mut frames = packet::encode_frame_header(Address::Group(1), 1, length).to_vec();
    frames.resize(FRAME_BYTES_MAX, 3);
    for first in [1, 2] {
        let packet = forged(&mut bench, |header| header.first = first, &frames);
        bench.give(&packet);
    }
    assert_eq!(bench.delivered.len(), 2, "the window has two such");
    let packet = forged(&mut bench, |header| header.first = 3, &frames);
    bench.give(&packet);
    assert_eq!(bench.delivered.len(), 2);
    let reason = CloseReason::Misbehaved(Misbehaviour::BeyondCredit { first: 3 });
    let closed = Action::ClosePath {
        peer: slot(0),
        path: P0,
        reason,
    };
    assert_eq!(bench.asked, [(1, closed)]);
    assert_eq!(bench.counters(1, 0).dropped(DropReason::Misbehaved), 1);
}

#[test]
fn a_peer_that_acknowledges_what_was_never_sent_is_cut_off() {
    let mut bench = Bench::new(2, |_| {});
    let frame = packet::encode_frame_header(Address::Group(1), 1, 0);
    let packet = forged(&mut bench, |header| header.ack = 5, &frame);
    bench.give(&packet);
    let reason = CloseReason::Misbehaved(Misbehaviour::AckBeyondSent { ack: 5, sent: 0 });
    let closed = Action::ClosePath {
        peer: slot(0),
        path: P0,
        reason,
    };
    assert_eq!(bench.asked, [(1, closed)]);
    assert!(bench.delivered.is_empty());
    assert!(!bench.nodes[1].is_up(slot(0), P0));
}

#[test]
fn damage_ends_a_stream_and_costs_one_datagram() {
    for medium in [Medium::Stream, Medium::Datagram] {
        let mut bench = match medium {
            Medium::Stream => Bench::new(2, |_| {}),
            Medium::Datagram => Bench::new(2, |config| config.medium = Medium::Datagram),
        };
        bench.submit(0, 1, 1, &[1, 2, 3]);
        let [mut sent] = bench.end_turn(0).try_into().expect("one packet");
        sent.bytes[packet::HEADER_BYTES + 9] ^= 1;
        bench.give(&sent);
        assert!(bench.delivered.is_empty());
        assert_eq!(bench.counters(1, 0).dropped(DropReason::Malformed), 1);
        assert_eq!(bench.nodes[1].is_up(slot(0), P0), medium == Medium::Datagram);
        let at = sent.bytes.len() - 4;
        let reason = CloseReason::Malformed(packet::PacketError::PacketCrc { at });
        let closed = Action::ClosePath {
            peer: slot(0),
            path: P0,
            reason,
        };
        let expected: &[_] = match medium {
            Medium::Stream => &[(1, closed)],
            Medium::Datagram => &[],
        };
        assert_eq!(bench.asked, expected);
    }
}
