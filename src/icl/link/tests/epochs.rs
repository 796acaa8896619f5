use super::*;
use crate::icl::link::packet::Packet;

/// H10: a packet that comes twice is delivered once, and one that comes before its predecessor waits for it.
#[test]
fn duplicates_are_dropped_and_order_is_kept() {
    let mut bench = Bench::new(2, |_| {});
    let mut packets = Vec::new();
    for number in 0u8..3 {
        bench.submit(0, 1, 1, &[number]);
        packets.extend(bench.end_turn(0));
    }
    bench.give(&packets[0]);
    bench.give(&packets[0]);
    bench.give(&packets[2]);
    assert_eq!(bench.payloads(1, 0, 1), [[0]]);
    let counters = bench.counters(1, 0);
    assert_eq!((counters.duplicates_dropped, counters.gaps_dropped), (1, 1));
    bench.give(&packets[1]);
    assert_eq!(
        bench.payloads(1, 0, 1),
        [[0], [1]],
        "the third was dropped, not kept"
    );
    bench.run(60, &[0, 1], |_| true);
    assert_eq!(bench.payloads(1, 0, 1), [[0], [1], [2]]);
    assert!(bench.counters(0, 1).messages_resent >= 1);
}

/// H10: lost is sent again, as one of a packet that was cut differently the first time.
#[test]
fn what_is_lost_is_sent_again_and_what_was_known_of_it_is_skipped() {
    let mut bench = Bench::new(2, |_| {});
    bench.submit(0, 1, 1, &[0]);
    let first = bench.end_turn(0);
    bench.submit(0, 1, 1, &[1]);
    let lost = bench.end_turn(0);
    bench.give_all(&first);
    bench.end_turn(1); // Its acknowledgement is lost, too.
    assert_eq!(lost.len(), 1);
    bench.run(60, &[0], |_| true);
    assert_eq!(
        bench.payloads(1, 0, 1),
        [[0], [1]],
        "both in one packet, the first skipped"
    );
    assert_eq!(bench.counters(1, 0).duplicates_dropped, 1);
}

/// H10: when only the acknowledgement was lost, what is sent again is acknowledged again, without a ping's help.
#[test]
fn a_duplicate_is_acknowledged_again() {
    let mut bench = Bench::new(2, |_| {});
    bench.submit(0, 1, 1, &[0]);
    let sent = bench.end_turn(0);
    bench.give_all(&sent);
    bench.now_ns += 5 * MS;
    assert_eq!(bench.end_turn(1).len(), 1, "the acknowledgement, which is lost");
    bench.give_all(&sent);
    bench.now_ns += 5 * MS;
    let again = bench.end_turn(1);
    bench.give_all(&again);
    assert_eq!(bench.nodes[0].queued(slot(1)).frames, 0);
    assert_eq!(bench.delivered.len(), 1);
}

/// Until something is acknowledged again the interval doubles, so that a peer that is slow is not buried.
#[test]
fn resending_slows_down() {
    let mut bench = Bench::new(2, |config| config.timers.suspect_ns = 100_000 * MS);
    bench.submit(0, 1, 1, &[0]);
    let mut times = Vec::new();
    for _ in 0..580 {
        bench.now_ns += MS;
        bench.tick(0);
        let sent = bench.end_turn(0);
        let has_message = |sent: &Sent| {
            Packet::parse(&sent.bytes, portable)
                .expect("it is one")
                .header
                .frame_count
                > 0
        };
        if sent.iter().any(has_message) {
            times.push(bench.now_ns / MS);
        }
    }
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps, [50, 100, 200], "{times:?}");
}

/// H10: an epoch discards both queues, and what was on the way is dropped unread and counted.
#[test]
fn a_new_epoch_discards_what_was_queued_sent_and_received() {
    let mut bench = Bench::new(2, |_| {});
    bench.submit(0, 1, 1, b"sent in 1");
    let old = bench.end_turn(0);
    bench.submit(0, 1, 1, b"queued in 1");
    bench.enter(0, 2);
    bench.enter(1, 2);
    assert_eq!(bench.nodes[0].queued(slot(1)).frames, 0);
    bench.give_all(&old);
    assert_eq!(bench.counters(1, 0).dropped(DropReason::WrongEpoch), 1);
    bench.submit(0, 1, 1, b"sent in 2");
    bench.run(500, &[0, 1], |_| true);
    bench.give_all(&old);
    assert_eq!(bench.payloads(1, 0, 1), [b"sent in 2"]);
    assert_eq!(bench.counters(1, 0).dropped(DropReason::WrongEpoch), 2);
}

/// A node that enters an epoch first is not made to wait for a timer when the other follows.
#[test]
fn what_came_before_the_peer_had_entered_follows_at_once() {
    let mut bench = Bench::new(2, |_| {});
    bench.enter(0, 2);
    bench.submit(0, 1, 1, b"early");
    let sent = bench.end_turn(0);
    bench.give_all(&sent);
    assert_eq!(
        bench.asked,
        [(
            1,
            Action::NewerEpoch {
                peer: slot(0),
                epoch: Epoch(2)
            }
        )],
        "it is told that its peer is ahead, once"
    );
    bench.give_all(&sent);
    assert_eq!(bench.asked.len(), 1);
    bench.enter(1, 2);
    let ping = bench.end_turn(1);
    bench.give_all(&ping);
    let again = bench.end_turn(0);
    bench.give_all(&again);
    assert_eq!(bench.payloads(1, 0, 1), [b"early"]);
}

#[test]
fn what_is_consumed_of_an_old_epoch_grants_nothing_in_the_new_one() {
    let mut bench = Bench::new(2, |_| {});
    bench.consumes = false;
    bench.submit(0, 1, 1, &[1; 100]);
    let sent = bench.end_turn(0);
    bench.give_all(&sent);
    bench.enter(1, 2);
    bench.event(
        1,
        Event::Consumed {
            peer: slot(0),
            epoch: Epoch(1),
            frames: 1,
            payload_bytes: 100,
        },
    );
}

/// Decision 6: what is not of this array, lane, pair and life is dropped unread, and counted by its reason.
#[test]
fn strangers_are_dropped_by_reason() {
    let mut bench = Bench::new(2, |_| {});
    bench.submit(0, 1, 1, b"stranger");
    let [sent] = bench.end_turn(0).try_into().expect("one packet");
    let forged = |change: fn(&mut packet::Header)| {
        let parsed = Packet::parse(&sent.bytes, portable).expect("it is one");
        let mut header = parsed.header;
        change(&mut header);
        let frames = &sent.bytes[packet::HEADER_BYTES..sent.bytes.len() - 4];
        Sent {
            bytes: packet::tests::encode(&header, frames),
            ..sent.clone()
        }
    };
    let strangers = [
        (
            forged(|header| header.envelope.array.0[3] ^= 1),
            DropReason::WrongArray,
        ),
        (
            forged(|header| header.envelope.lane = Lane(3)),
            DropReason::WrongPeer,
        ),
        (
            forged(|header| header.envelope.sender.slot = slot(4)),
            DropReason::WrongPeer,
        ),
        (
            forged(|header| header.envelope.receiver.slot = slot(4)),
            DropReason::WrongPeer,
        ),
        (
            forged(|header| header.envelope.sender.incarnation.0 -= 1),
            DropReason::WrongIncarnation,
        ),
        (
            forged(|header| header.envelope.receiver.incarnation.0 -= 1),
            DropReason::WrongIncarnation,
        ),
        (
            forged(|header| header.envelope.epoch.0 -= 1),
            DropReason::WrongEpoch,
        ),
        (
            forged(|header| header.envelope.epoch.0 += 1),
            DropReason::WrongEpoch,
        ),
    ];
    for (stranger, reason) in &strangers {
        let before = bench.counters(1, 0).dropped(*reason);
        bench.give(stranger);
        assert_eq!(bench.counters(1, 0).dropped(*reason), before + 1);
    }
    assert!(bench.delivered.is_empty());
    bench.give(&sent);
    assert_eq!(
        bench.payloads(1, 0, 1),
        [b"stranger"],
        "the true one still counts"
    );
    bench.down(1, 0, P0);
    bench.give(&sent);
    assert_eq!(bench.counters(1, 0).dropped(DropReason::PathDown), 1);
}

/// I20, H10: the paths of a dead life are closed, and its packets never arrive on those of the next.
#[test]
fn a_new_life_of_a_peer_gets_nothing_of_the_old_one() {
    let mut bench = Bench::new(2, |_| {});
    bench.submit(0, 1, 1, b"old life");
    let old = bench.end_turn(0);
    let mut again = config(0);
    again.local.incarnation = Incarnation(500);
    bench.nodes[0] = Links::new(again);
    bench.members[0].incarnation = Incarnation(500);
    bench.up(1, 0, P1);
    let refused = Action::ClosePath {
        peer: slot(0),
        path: P1,
        reason: CloseReason::NotMember,
    };
    assert_eq!(bench.asked, [(1, refused)], "before the epoch that admits it");
    bench.asked.clear();
    bench.enter(1, 2);
    let closed = Action::ClosePath {
        peer: slot(0),
        path: P0,
        reason: CloseReason::NotMember,
    };
    assert_eq!(bench.asked, [(1, closed)]);
    bench.enter(0, 2);
    bench.up(0, 1, P0);
    bench.up(1, 0, P0);
    bench.submit(0, 1, 1, b"new life");
    bench.give_all(&old);
    bench.settle();
    bench.give_all(&old);
    assert_eq!(bench.payloads(1, 0, 1), [b"new life"]);
    assert_eq!(bench.counters(1, 0).dropped(DropReason::WrongIncarnation), 2);
}

#[test]
fn a_node_that_is_no_member_any_more_is_cut_off() {
    let mut bench = Bench::new(3, |_| {});
    bench.members.remove(2);
    bench.enter(0, 2);
    let closed = Action::ClosePath {
        peer: slot(2),
        path: P0,
        reason: CloseReason::NotMember,
    };
    assert_eq!(bench.asked, [(0, closed)]);
    assert_eq!(bench.try_submit(0, 2, 1, b"?"), Err(SubmitError::NotMember));
    assert_eq!(
        bench.try_submit(0, 5, 1, b"?"),
        Err(SubmitError::NotMember),
        "it never was one"
    );
    bench.run(2000, &[0], |_| false);
    let of_it =
        |(_, action): &(usize, Action)| matches!(action, Action::Suspect { peer, .. } if *peer == slot(2));
    assert!(!bench.asked.iter().any(of_it), "nobody waits for it");
}

#[test]
#[should_panic(expected = "epochs only grow")]
fn an_epoch_is_entered_once() {
    let mut bench = Bench::new(2, |_| {});
    bench.enter(0, 1);
}

#[test]
#[should_panic(expected = "only a member enters an epoch")]
fn an_epoch_without_this_node_is_not_entered() {
    let mut bench = Bench::new(2, |_| {});
    bench.members.remove(0);
    bench.enter(0, 2);
}
