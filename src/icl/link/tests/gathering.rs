use super::*;
use crate::icl::link::packet::Packet;

fn with(gathering: Gathering, nodes: usize) -> Bench {
    match gathering {
        Gathering::On => Bench::new(nodes, |_| {}),
        Gathering::Off => Bench::new(nodes, |config| config.gathering = Gathering::Off),
    }
}

/// Three AMFs of node 0 send a message each to three nodes; what leaves in that turn.
fn nine_messages(bench: &mut Bench) -> Vec<Sent> {
    let mut sent = Vec::new();
    for group in [1, 2, 3] {
        for peer in [1, 2, 3] {
            sent.extend(bench.submit(0, peer, group, &[group.to_le_bytes()[0], slot(peer).number()]));
        }
    }
    sent.extend(bench.end_turn(0));
    sent
}

/// M1: Figure 17b against Figure 17a, nine messages to three nodes in one turn.
#[test]
fn nine_messages_leave_in_three_packets_and_in_nine_without_gathering() {
    let mut gathered = with(Gathering::On, 4);
    let three = nine_messages(&mut gathered);
    let mut single = with(Gathering::Off, 4);
    let nine = nine_messages(&mut single);
    assert_eq!((three.len(), nine.len()), (3, 9));
    for (bench, sent, milli) in [(&mut gathered, three, 3000), (&mut single, nine, 1000)] {
        bench.give_all(&sent);
        assert_eq!(bench.delivered.len(), 9);
        for (group, peer) in (1u16..=3).flat_map(|group| (1..=3).map(move |peer| (group, peer))) {
            let expected = vec![vec![group.to_le_bytes()[0], slot(peer).number()]];
            assert_eq!(bench.payloads(peer, 0, group), expected);
        }
        assert_eq!(bench.counters(0, 2).messages_per_packet_milli(), Some(milli));
    }
}

/// M1: the messages of each AMF keep their order whatever is gathered between them.
#[test]
fn each_amfs_sequence_is_unchanged() {
    for gathering in [Gathering::On, Gathering::Off] {
        let mut bench = with(gathering, 2);
        for turn in 0u8..10 {
            for message in 0..30 {
                let group = u16::from((turn * 7 + message) % 3);
                let sent = bench.submit(0, 1, group, &[turn, message]);
                bench.give_all(&sent);
            }
            let sent = bench.end_turn(0);
            bench.give_all(&sent);
        }
        for group in 0..3 {
            let payloads = bench.payloads(1, 0, group);
            assert!(payloads.is_sorted() && payloads.len() == 100, "{group}");
        }
    }
}

/// M1: a connection that breaks within a gathered packet, at any byte, delivers none of its messages; the next
/// connection delivers each of them once.
#[test]
fn a_packet_cut_at_every_byte_never_delivers_half_a_message() {
    let length = {
        let mut bench = Bench::new(2, |_| {});
        three_in_one(&mut bench).bytes.len()
    };
    for end in 0..=length {
        let mut bench = Bench::new(2, |_| {});
        let packet = three_in_one(&mut bench);
        let mut stream = Stream::new(portable);
        let mut input = &packet.bytes[..end];
        while let Some(bytes) = stream.next(&mut input).expect("it is a packet so far") {
            let whole = Sent {
                bytes: bytes.to_vec(),
                ..packet.clone()
            };
            bench.give(&whole);
        }
        let arrived = if end == length { 3 } else { 0 };
        assert_eq!(bench.delivered.len(), arrived, "cut at {end}");
        // Even the part that is there, handed over as a packet, delivers nothing.
        if end < length {
            bench.give(&Sent {
                bytes: packet.bytes[..end].to_vec(),
                ..packet.clone()
            });
        }
        assert_eq!(bench.delivered.len(), arrived, "cut at {end}");
        for (node, peer) in [(0, 1), (1, 0)] {
            bench.down(node, peer, P0);
            bench.up(node, peer, P0);
        }
        bench.settle();
        assert_eq!(bench.delivered.len(), 3, "cut at {end}");
    }
}

/// One packet with three messages from node 0 to node 1.
fn three_in_one(bench: &mut Bench) -> Sent {
    for group in [4, 5, 6] {
        bench.submit(0, 1, group, &[1, 2, 3]);
    }
    let [packet] = bench.end_turn(0).try_into().expect("one packet");
    packet
}

/// M2: with 64 messages a turn at least eight share a packet, so that sends are far fewer than half; with one message a
/// turn gathering changes nothing.
#[test]
fn packets_are_fewer_at_depth_64_and_the_same_at_depth_1() {
    let packets = |gathering: Gathering, depth: usize| {
        let mut bench = with(gathering, 2);
        let before = bench.counters(0, 1);
        for _ in 0..20 {
            let mut sent = Vec::new();
            for _ in 0..depth {
                sent.extend(bench.submit(0, 1, 1, &[0; 48]));
            }
            sent.extend(bench.end_turn(0));
            bench.give_all(&sent);
            bench.settle();
        }
        assert_eq!(bench.delivered.len(), 20 * depth);
        let counters = bench.counters(0, 1);
        assert_eq!(counters.messages_resent, 0);
        counters.packets_sent - before.packets_sent
    };
    assert_eq!(
        (packets(Gathering::On, 64), packets(Gathering::Off, 64)),
        (20, 1280)
    );
    assert_eq!((packets(Gathering::On, 1), packets(Gathering::Off, 1)), (20, 20));
}

/// A8: a message for a group reaches the node that it was submitted for and no other, and the death of one node stops
/// neither that group nor another one among the rest.
#[test]
fn groups_go_on_among_the_rest_when_a_node_dies() {
    const Y: u16 = 1;
    const G: u16 = 2;
    let mut bench = Bench::new(4, |_| {});
    // Y is shared by nodes 0, 1 and 2; G by nodes 1 and 3.
    let mut sent = Vec::new();
    for (node, peer, group) in [(0, 1, Y), (0, 2, Y), (1, 0, Y), (1, 2, Y), (1, 3, G)] {
        bench.submit(node, peer, group, b"before");
    }
    sent.extend(bench.end_turn(0));
    sent.extend(bench.end_turn(1));
    bench.give_all(&sent);
    assert!(bench.payloads(3, 0, Y).is_empty() && bench.payloads(3, 1, Y).is_empty());
    let reached = |group| {
        let of = |message: &&Message| message.address == Address::Group(group);
        let mut nodes: Vec<usize> = bench
            .delivered
            .iter()
            .filter(of)
            .map(|message| message.to)
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    };
    assert_eq!((reached(Y), reached(G)), (vec![0, 1, 2], vec![3]));
    // Node 0 dies; the rest decide so.
    bench.members.remove(0);
    for node in 1..4 {
        bench.enter(node, 2);
    }
    assert_eq!(
        bench.try_submit(1, 0, Y, b"to the dead"),
        Err(SubmitError::NotMember)
    );
    bench.submit(2, 1, Y, b"after");
    bench.submit(3, 1, G, b"after");
    bench.delivered.clear();
    let sent: Vec<Sent> = (1..4).flat_map(|node| bench.end_turn(node)).collect();
    bench.give_all(&sent);
    assert_eq!(bench.payloads(1, 2, Y), [b"after"]);
    assert_eq!(bench.payloads(1, 3, G), [b"after"]);
}

#[test]
fn a_turn_without_messages_sends_nothing() {
    let mut bench = Bench::new(3, |_| {});
    assert!(bench.end_turn(0).is_empty());
}

#[test]
fn what_exceeds_one_packet_leaves_in_several() {
    let mut bench = Bench::new(2, |config| config.unsent_bytes_max = 1 << 20);
    for number in 0u8..3 {
        bench.submit(0, 1, 1, &vec![number; 100 << 10]);
    }
    let sent = bench.end_turn(0);
    let frames = |sent: &Sent| {
        Packet::parse(&sent.bytes, portable)
            .expect("it is one")
            .frames()
            .count()
    };
    assert_eq!(sent.iter().map(frames).collect::<Vec<_>>(), [2, 1]);
    bench.give_all(&sent);
    bench.settle();
    assert_eq!(bench.payloads(1, 0, 1).len(), 3);
}

/// Steady work takes no memory.
#[test]
fn the_outbox_does_not_grow() {
    let mut bench = Bench::new(2, |_| {});
    let mut capacities = Vec::new();
    for turn in 0..300 {
        for group in 0..20 {
            bench.submit(0, 1, group, &[5; 300]);
        }
        let sent = bench.end_turn(0);
        bench.give_all(&sent);
        bench.settle();
        if turn >= 20 {
            capacities.push(bench.out.capacity());
        }
    }
    capacities.dedup();
    assert_eq!(capacities.len(), 1, "{capacities:?}");
}
