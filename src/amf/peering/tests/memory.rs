//! Nodes that acknowledge from memory: who keeps what, who may, and what a flush through one of them covers.

use super::*;
use crate::amf::peering::note::FlushName;
use crate::amf::replica::{Copy, Keeping, Name, Replication};

/// Three nodes in an open epoch, which have each write in the memory of two of them.
fn three_in_memory() -> Array {
    let mut array = three_that(Replication::new(2));
    (0..3).for_each(|number| drop(array.wanted(number)));
    array
}

fn three_that(replication: Replication) -> Array {
    let mut array = Array::default();
    (0..3).for_each(|number| array.add_as(number, replication));
    array.enter(1, &[0, 1, 2], &[]);
    array.open(1, &[0, 1, 2], 0);
    array
}

/// CHECKLIST A12, PROTOCOL H18: with fewer nodes than copies those that are there keep them, if the operator says that these will do, and it is known that they are few; else writes wait for the drives.
#[test]
fn fewer_copies_do_where_the_operator_says_so() {
    let wanted = Replication::new(3);
    for (replication, partners, keeping) in [
        (wanted.at_least(2), slots(&[2]), Keeping::Few),
        (wanted, SlotSet::EMPTY, Keeping::Nobody),
    ] {
        let mut array = three_that(replication);
        assert_eq!(array.nodes[&0].peering.partners(), slots(&[1, 2]));
        assert_eq!(array.nodes[&0].keeping, Keeping::All);
        array.nodes.remove(&1);
        array.enter(2, &[0, 2], &[0, 2]);
        array.open(2, &[0, 2], 0);
        assert_eq!(array.nodes[&0].peering.partners(), partners);
        assert_eq!(array.nodes[&0].keeping, keeping);
        drop(array.wanted(0));
        array.act(0, |peering, _, out| peering.keep(&copy(0, 5), false, out));
        array.settle();
        let is_kept = array.wanted(0) == [MemoryAction::Kept { core: 0, batch: 5 }.into()];
        assert_eq!(is_kept, keeping == Keeping::Few);
    }
}

/// CHECKLIST C5, PROTOCOL H45: a leader whose own writes nobody may keep lets those acknowledge from memory that have partners, and goes on letting them.
#[test]
fn a_leader_without_partners_lets_others_acknowledge() {
    let mut array = three_that(Replication::new(2).kept_by(slot(0), SlotSet::EMPTY));
    assert_eq!(array.nodes[&0].peering.partners(), SlotSet::EMPTY);
    (0..3).for_each(|number| drop(array.wanted(number)));
    array.act(1, |peering, _, out| peering.want_memory(out));
    array.settle();
    assert_eq!(array.wanted(0), [MemoryAction::Record(true).into()]);
    array.act(0, |peering, _, out| peering.memory_is(true, out));
    array.settle();
    array.now_ns += BEAT_NS;
    array.act(0, |peering, now, out| peering.tick(now, out));
    array.settle();
    assert_eq!(array.wanted(1), [MemoryAction::Allow(true).into()]);
    assert_eq!(array.wanted(0), []);
}

fn copy(lane: u16, batch: u64) -> Copy {
    Copy {
        name: Name { lane, batch },
        committed: 0,
        seq_max: 1 << 40,
        bytes: vec![9; 600].into(),
    }
}

/// Membership opens an epoch that its leader has recovered, with nothing of others to retire.
fn open(array: &mut Array, epoch: u32, members: &[u8], leader: u8) -> Recovery {
    array.open(epoch, members, leader)
}

/// CHECKLIST C4, C6, PROTOCOL H17, H19: partners keep a batch until it is on the drives; of a node that is gone it goes to the leader before that one recovers, and is forgotten when that is
/// over.
#[test]
fn what_a_node_has_others_keep_comes_to_its_recovery() {
    let mut array = three_in_memory();
    assert_eq!(array.nodes[&1].peering.partners(), slots(&[2]));
    array.act(1, |peering, _, out| peering.keep(&copy(1, 5), false, out));
    array.settle();
    assert_eq!(array.wanted(1), [MemoryAction::Kept { core: 0, batch: 5 }.into()]);
    assert_eq!(array.nodes[&2].peering.kept().bytes(), 600);
    assert_eq!(array.nodes[&0].peering.kept().bytes(), 0);
    array.nodes.remove(&1);
    array.enter(2, &[0, 2], &[0, 2]);
    // However long that takes, and whatever the living have retired of their own.
    for journal in array.nodes.values().map(|node| &node.journal) {
        journal.raise(1 << 41);
    }
    array.now_ns += BEAT_NS;
    for number in [0, 2, 0, 2] {
        array.now_ns += BEAT_NS;
        array.act(number, |peering, now, out| peering.tick(now, out));
        array.settle();
    }
    assert!(
        array
            .wanted(2)
            .contains(&MemoryAction::KeepCopies(Keeping::Nobody, Epoch(2)).into())
    );
    assert_eq!(
        array.nodes[&0].peering.kept().bytes(),
        600,
        "the leader has it now"
    );
    array.act(0, |peering, _, out| peering.recover(Epoch(2), out));
    let wanted = array.wanted(0);
    let is_so = |action: &Action| matches!(action, Action::Recover(recovery) if recovery.copies == [copy(1, 5).bytes]);
    assert!(wanted.iter().any(is_so), "{wanted:?}");
    // The leader is gone before it has recovered: it comes to the next one.
    array.nodes.remove(&0);
    array.enter(3, &[2], &[2]);
    let recovery = open(&mut array, 3, &[2], 2);
    assert_eq!(recovery.copies, [copy(1, 5).bytes]);
    assert_eq!(array.nodes[&2].peering.kept().bytes(), 0, "it is in its place");
    assert_eq!(
        array.nodes[&2].peering.partners(),
        SlotSet::EMPTY,
        "it is alone: writes wait for the drives"
    );
    array.act(2, |peering, _, out| peering.keep(&copy(2, 9), false, out));
    assert_eq!(array.wanted(2), []);
}

/// CHECKLIST C2, C3, PROTOCOL H19: two nodes are gone at once, and a third one in their recovery: whoever leads recovers with what is kept of all of them, whoever has kept it; two that have kept the same bring
/// it once.
#[test]
fn a_recovery_has_the_copies_of_all_that_are_gone() {
    let mut array = Array::default();
    (0..5).for_each(|number| array.add_as(number, Replication::new(3)));
    array.enter(1, &[0, 1, 2, 3, 4], &[]);
    array.open(1, &[0, 1, 2, 3, 4], 0);
    (0..5).for_each(|number| drop(array.wanted(number)));
    for number in 1..4 {
        array.act(number, |peering, _, out| {
            peering.keep(&copy(u16::from(number), 5), false, out);
        });
    }
    array.settle();
    array.nodes.remove(&1);
    array.nodes.remove(&2);
    array.enter(2, &[0, 3, 4], &[0, 3, 4]);
    let names = |array: &Array| -> Vec<u16> {
        let kept = array.nodes[&0].peering.kept();
        kept.of(u32::MAX).map(|copy| copy.name.lane).collect()
    };
    assert_eq!(
        names(&array),
        [1, 2, 3],
        "3 has kept the first, 3 and 4 the second"
    );
    array.act(0, |peering, _, out| peering.recover(Epoch(2), out));
    let of = |wanted: Vec<Action>| -> Vec<usize> {
        let copies = |action: &Action| {
            let Action::Recover(recovery) = action else {
                return None;
            };
            Some(recovery.copies.len())
        };
        wanted.iter().filter_map(copies).collect()
    };
    assert_eq!(of(array.wanted(0)), [2], "3 lives");
    // It is at it when that one dies, too.
    array.nodes.remove(&3);
    array.enter(3, &[0, 4], &[0, 4]);
    array.act(0, |peering, _, out| {
        peering.not_led(Epoch(2), "another epoch begins", out);
    });
    array.act(0, |peering, _, out| peering.recover(Epoch(3), out));
    array.settle();
    assert_eq!(of(array.wanted(0)), [3]);
}

/// PROTOCOL H19, decision 5: a slot is taken again by another life in the same epoch in which the one before it is gone: what was kept of that one is recovered, and forgotten afterwards; what the new one has
/// others keep is not.
#[test]
fn another_life_of_a_slot_is_not_the_one_that_is_recovered() {
    let mut array = three_in_memory();
    array.act(1, |peering, _, out| peering.keep(&copy(1, 5), false, out));
    array.settle();
    array.nodes.remove(&1);
    array.links.clear();
    array.add_as(1, Replication::new(2));
    array.enter(2, &[0, 1, 2], &[0, 2]);
    let recovery = open(&mut array, 2, &[0, 1, 2], 0);
    assert_eq!(recovery.copies, [copy(1, 5).bytes]);
    let kept = |array: &Array, number| array.nodes[&number].peering.kept().bytes();
    assert_eq!((kept(&array, 0), kept(&array, 2)), (0, 0));
    array.act(1, |peering, _, out| {
        peering.keep(&copy(1, (2 << 32) + 1), false, out)
    });
    array.settle();
    assert_eq!(kept(&array, 2), 600);
    array.enter(3, &[0, 1, 2], &[0, 1, 2]);
    open(&mut array, 3, &[0, 1, 2], 0);
    assert_eq!(kept(&array, 2), 600, "nobody is gone");
}

/// CHECKLIST D3, PROTOCOL I15: when all that was written is in its place, partners keep nothing of it, without anything more being written.
#[test]
fn partners_keep_nothing_once_all_is_in_its_place() {
    let mut array = three_in_memory();
    for batch in 1..6 {
        let copy = Copy {
            seq_max: 10 * batch,
            ..copy(1, batch)
        };
        array.act(1, |peering, _, out| peering.keep(&copy, false, out));
    }
    array.settle();
    let kept = |array: &Array| array.nodes[&2].peering.kept().bytes();
    assert_eq!(kept(&array), 5 * 600);
    let journals: Vec<_> = array
        .nodes
        .values()
        .map(|node| Arc::clone(&node.journal))
        .collect();
    assert_eq!(journals[1].enter(1), 1, "it owes the drives something");
    for journal in &journals {
        journal.raise(100);
    }
    for (lowest, left) in [(Some(1), 5), (Some(25), 3), (None, 0)] {
        journals[1].set_lowest(1, lowest);
        for number in 0..3 {
            array.now_ns += BEAT_NS;
            array.act(number, |peering, now, out| peering.tick(now, out));
            array.settle();
        }
        assert_eq!(
            kept(&array),
            left * 600,
            "its writer needs {lowest:?} and newer ones"
        );
    }
}

/// Bad input: a node gives away batches of lanes that are not its own while nobody recovers, or to one that does not lead. Nobody keeps them, and they take nobody's place.
#[test]
fn nobody_keeps_what_others_say_of_lanes_that_are_not_theirs() {
    let mut array = three_in_memory();
    array.act(1, |peering, _, out| peering.keep(&copy(1, 5), false, out));
    array.settle();
    let say = |array: &mut Array, to: u8, epoch, copy: Copy| {
        let note = Note::Copy(copy);
        let mut bytes = array.nodes[&0].peering.context().encode().to_vec();
        note.encode(&mut bytes);
        array.act(to, |peering, now, out| {
            let said = (note.kind(), &bytes[..]);
            peering.receive(now, (slot(0), epoch), said, out).unwrap();
        });
    };
    let false_one = || Copy {
        bytes: vec![1; 900].into(),
        ..copy(1, 5)
    };
    let kept = |array: &Array, number: u8| -> Vec<(Name, usize)> {
        let kept = array.nodes[&number].peering.kept().of(u32::MAX);
        kept.map(|copy| (copy.name, copy.bytes.len())).collect()
    };
    let true_one = (Name { lane: 1, batch: 5 }, 600);
    for lane in [1, 2, 3, super::LANES_MAX - 1] {
        say(
            &mut array,
            2,
            Epoch(1),
            Copy {
                name: Name { lane, batch: 5 },
                ..false_one()
            },
        );
        assert_eq!(kept(&array, 2), [true_one], "lane {lane}");
    }
    // Node 1 is gone, and somebody who knows no better says the same of it to the one that recovers.
    array.nodes.remove(&1);
    array.enter(2, &[0, 2], &[2]);
    say(&mut array, 2, Epoch(2), false_one());
    assert_eq!(kept(&array, 2), [true_one], "what was kept first stays");
    // And to one that does not.
    let mut array = three_in_memory();
    array.nodes.remove(&1);
    array.enter(2, &[0, 2], &[0]);
    say(&mut array, 2, Epoch(2), false_one());
    assert_eq!(kept(&array, 2), []);
}

/// PROTOCOL H22: a partner without room says so, and the writer waits for the drives.
#[test]
fn a_partner_without_room_says_so() {
    let mut array = three_in_memory();
    for batch in 0..40 {
        array.act(1, |peering, _, out| peering.keep(&copy(1, batch), false, out));
    }
    array.settle();
    assert_eq!(array.wanted(1).len(), KEPT_MAX / 600);
    // What is on the drives makes room.
    let committed = Copy {
        committed: 30,
        ..copy(1, 40)
    };
    array.act(1, |peering, _, out| peering.keep(&committed, false, out));
    array.settle();
    assert_eq!(
        array.wanted(1),
        [MemoryAction::Kept { core: 0, batch: 40 }.into()]
    );
}

/// What a node is asked to commit, and for whom.
fn asked(array: &mut Array, number: u8) -> Vec<FlushName> {
    let mut names = Vec::new();
    for action in array.wanted(number) {
        if let Action::Memory(MemoryAction::Commit(name)) = action {
            names.push(name);
        }
    }
    names
}

/// PROTOCOL H38: a flush is over when all nodes have committed what they had; one that is gone has nothing to commit once it is recovered. What was asked in an epoch that is over is asked again, and its
/// answers do not count: they may come twice, and for a flush that is over.
#[test]
fn a_flush_covers_all_nodes() {
    let mut array = three_in_memory();
    let name = FlushName { lane: 1, flush: 7 };
    let committed = |lanes| {
        let (core, flush) = (0, 7);
        Action::from(MemoryAction::Committed { core, flush, lanes })
    };
    let answer = |array: &mut Array, number, name| {
        array.act(number, |peering, _, out| peering.committed(name, out));
        array.settle();
    };
    array.act(1, |peering, _, out| peering.commit(name, 4, out));
    assert_eq!(array.wanted(1), [committed(1)], "nobody lives in slot 3");
    array.settle();
    let first = asked(&mut array, 0);
    assert_eq!((asked(&mut array, 2), first.len()), (first.clone(), 1));
    answer(&mut array, 0, first[0]);
    assert_eq!(array.wanted(1), [committed(1)]);
    // The other one is gone before it has answered.
    array.nodes.remove(&2);
    array.enter(2, &[0, 1], &[0, 1]);
    array.open(2, &[0, 1], 0);
    assert_eq!(asked(&mut array, 0), [], "who has answered is not asked again");
    array.wanted(1);
    // Its name is used again, and an epoch begins before that is answered.
    array.act(1, |peering, _, out| peering.commit(name, 2, out));
    array.settle();
    let second = asked(&mut array, 0);
    array.enter(3, &[0, 1], &[0, 1]);
    array.open(3, &[0, 1], 0);
    let third = asked(&mut array, 0);
    assert_eq!((second.len(), third.len()), (1, 1));
    array.wanted(1);
    for late in [first[0], second[0]] {
        answer(&mut array, 0, late);
        assert_eq!(array.wanted(1), [], "{late:?} was asked in another epoch");
    }
    answer(&mut array, 0, third[0]);
    answer(&mut array, 0, third[0]);
    assert_eq!(array.wanted(1), [committed(1)], "once");
}

/// PROTOCOL H38, H45: whoever waits for others in an epoch that is not served is answered, after cores have been told that what they wait for will not come; likewise what is asked then. In the next epoch others are asked again.
#[test]
fn a_flush_waits_for_nobody_where_the_group_is_not_served() {
    let mut array = three_in_memory();
    let name = FlushName { lane: 1, flush: 7 };
    let answers = |actions: Vec<Action>| -> Vec<Action> {
        let counts = |action: &Action| {
            matches!(
                action,
                Action::NotServed | Action::Memory(MemoryAction::Committed { .. })
            )
        };
        actions.into_iter().filter(counts).collect()
    };
    let (core, flush) = (0, 7);
    let committed = Action::from(MemoryAction::Committed {
        core,
        flush,
        lanes: 2,
    });
    array.act(1, |peering, _, out| peering.commit(name, 3, out));
    assert_eq!(answers(array.wanted(1)), []);
    array.settle();
    array.nodes.remove(&2);
    array.enter(2, &[0, 1], &[0, 1]);
    array.settle();
    array.act(0, |peering, _, out| peering.recover(Epoch(2), out));
    array.wanted(1);
    array.act(0, |peering, _, out| peering.not_led(Epoch(2), "no drives", out));
    array.settle();
    assert_eq!(answers(array.wanted(1)), [Action::NotServed, committed.clone()]);
    array.act(1, |peering, _, out| peering.commit(name, 3, out));
    assert_eq!(answers(array.wanted(1)), [committed]);
    // Whoever leaves does not wait for a leader that cannot write anything.
    for number in [0, 1] {
        array.act(number, |peering, _, out| peering.end_memory(true, out));
    }
    array.settle();
    for number in [0, 1] {
        assert!(
            array.wanted(number).contains(&MemoryAction::Over.into()),
            "{number}"
        );
    }
    array.enter(3, &[0, 1], &[0, 1]);
    array.act(1, |peering, _, out| peering.commit(name, 3, out));
    assert_eq!(answers(array.wanted(1)), []);
}

/// Bad input: a node asks for a flush in the name of a core of the one that it asks.
#[test]
fn nobody_flushes_in_the_name_of_another_node() {
    let mut array = three_in_memory();
    for lane in 0..3 {
        let note = Note::Commit(FlushName { lane, flush: 1 });
        let mut bytes = array.nodes[&1].peering.context().encode().to_vec();
        note.encode(&mut bytes);
        array.act(0, |peering, now, out| {
            let said = (note.kind(), &bytes[..]);
            peering.receive(now, (slot(1), Epoch(1)), said, out).unwrap();
        });
        let names = asked(&mut array, 0);
        assert_eq!(names.len(), usize::from(lane == 1), "lane {lane}");
    }
}

/// PROTOCOL H45: nobody acknowledges from memory before it is durable that it may be lost; and it is not written that nothing can be lost before all have committed what they had.
#[test]
fn memory_is_given_and_taken_back() {
    let mut array = three_in_memory();
    array.act(1, |peering, _, out| peering.want_memory(out));
    array.settle();
    assert_eq!(array.wanted(0), [MemoryAction::Record(true).into()]);
    array.act(2, |peering, _, out| peering.want_memory(out));
    array.settle();
    assert_eq!(array.wanted(0), [], "it is at it");
    array.act(0, |peering, _, out| peering.memory_is(true, out));
    array.settle();
    for number in [1, 2] {
        assert_eq!(array.wanted(number), [MemoryAction::Allow(true).into()]);
    }
    // Nobody writes for a while.
    for _ in 0..40 {
        array.now_ns += BEAT_NS;
        array.act(0, |peering, now, out| peering.tick(now, out));
    }
    array.settle();
    for number in 0..3 {
        assert_eq!(array.wanted(number), [MemoryAction::Allow(false).into()]);
    }
    array.act(2, |peering, _, out| peering.memory_committed(0, out));
    array.act(0, |peering, _, out| peering.memory_committed(0, out));
    array.act(2, |peering, _, out| peering.want_memory(out));
    array.settle();
    assert_eq!(array.wanted(0), [], "one has yet to commit");
    array.act(1, |peering, _, out| peering.memory_committed(0, out));
    array.settle();
    assert_eq!(array.wanted(0), [MemoryAction::Record(false).into()]);
    // Somebody wants it again meanwhile.
    array.act(0, |peering, _, out| peering.memory_is(true, out));
    assert_eq!(array.wanted(0), [], "that is not new");
    array.act(0, |peering, _, out| peering.memory_is(false, out));
    assert_eq!(array.wanted(0), [MemoryAction::Record(true).into()]);
}

/// The same when a leader leaves in good order, and when an epoch begins in the midst of it: whoever has the permission then keeps it, and is asked anew.
#[test]
fn a_leader_that_leaves_has_all_committed_first() {
    let mut array = three_in_memory();
    array.act(1, |peering, _, out| peering.want_memory(out));
    array.settle();
    array.act(0, |peering, _, out| peering.memory_is(true, out));
    array.settle();
    (0..3).for_each(|number| drop(array.wanted(number)));
    // Who does not lead leaves as soon as the others know.
    array.act(2, |peering, _, out| peering.end_memory(true, out));
    assert_eq!(array.wanted(2), []);
    array.settle();
    assert_eq!(array.wanted(2), [MemoryAction::Over.into()]);
    array.act(0, |peering, _, out| peering.end_memory(true, out));
    array.settle();
    assert_eq!(array.wanted(0), [MemoryAction::Allow(false).into()]);
    array.nodes.remove(&2);
    array.act(0, |peering, _, out| peering.memory_committed(0, out));
    array.act(1, |peering, _, out| peering.memory_committed(0, out));
    array.enter(2, &[0, 1], &[0, 1]);
    open(&mut array, 2, &[0, 1], 0);
    (0..2).for_each(|number| drop(array.wanted(number)));
    array.act(0, |peering, _, out| peering.memory_is(true, out));
    array.settle();
    assert_eq!(
        array.wanted(0),
        [MemoryAction::Allow(false).into()],
        "it still leaves"
    );
    array.act(0, |peering, _, out| peering.memory_committed(0, out));
    array.act(1, |peering, _, out| peering.memory_committed(0, out));
    array.settle();
    assert_eq!(array.wanted(0), [MemoryAction::Record(false).into()]);
    // Somebody asks again, and has to wait for the next leader.
    array.act(1, |peering, _, out| peering.want_memory(out));
    array.settle();
    array.act(0, |peering, _, out| peering.memory_is(false, out));
    array.settle();
    assert_eq!(array.wanted(0), [MemoryAction::Over.into()]);
    array.act(1, |peering, _, out| peering.want_memory(out));
    array.settle();
    assert_eq!(array.wanted(0), []);
}

/// PROTOCOL H45: what a node commits because a leader of another epoch has asked is no answer to the one that leads now, which may have let it acknowledge from memory again.
#[test]
fn what_an_earlier_leader_took_back_is_no_answer_to_the_next_one() {
    let mut array = three_in_memory();
    array.act(1, |peering, _, out| peering.want_memory(out));
    array.settle();
    array.act(0, |peering, _, out| peering.memory_is(true, out));
    array.act(0, |peering, _, out| peering.end_memory(true, out));
    array.settle();
    array.act(1, |peering, _, out| peering.want_memory(out));
    // The epoch ends before the node has committed, and the leader lets it acknowledge again.
    array.enter(2, &[0, 1, 2], &[0, 1, 2]);
    array.open(2, &[0, 1, 2], 0);
    array.act(1, |peering, _, out| peering.memory_committed(0, out));
    array.act(0, |peering, _, out| peering.memory_is(true, out));
    for number in [0, 2] {
        array.act(number, |peering, _, out| peering.memory_committed(0, out));
    }
    (0..3).for_each(|number| drop(array.wanted(number)));
    // It takes that back before the answer to the first order is there.
    array.settle();
    for number in [0, 2] {
        array.act(number, |peering, _, out| peering.memory_committed(0, out));
    }
    array.settle();
    assert_eq!(array.wanted(0), [], "node 1 has not committed for this leader");
    array.act(1, |peering, _, out| peering.memory_committed(0, out));
    array.settle();
    assert_eq!(array.wanted(0), [MemoryAction::Record(false).into()]);
}

/// What a recovery is told of nodes that are gone with all who kept copies for them.
fn unkept(array: &mut Array, epoch: u32) -> SlotSet {
    let leader = array.nodes.keys().next().copied().expect("somebody lives");
    array.act(leader, |peering, _, out| peering.recover(Epoch(epoch), out));
    array.settle();
    let recoveries = array.wanted(leader).into_iter();
    let mut recoveries = recoveries.filter_map(|action| {
        let Action::Recover(recovery) = action else {
            return None;
        };
        Some(recovery.unkept)
    });
    recoveries.next_back().expect("it recovers")
}

fn without(array: &mut Array, gone: &[u8], epoch: u32) {
    for slot in gone {
        array.nodes.remove(slot);
    }
    let living: Vec<u8> = array.nodes.keys().copied().collect();
    array.enter(epoch, &living, &living);
    array.settle();
}

/// CHECKLIST C3, PROTOCOL H45: when a node dies with all that kept copies for it, whoever is left knows, though it had nothing to do with that: at once, or one after the other before the first is recovered.
#[test]
fn who_is_gone_with_all_of_its_partners_is_known() {
    for (gone, what) in [(&[1][..], &[][..]), (&[2], &[]), (&[1, 2], &[1])] {
        let mut array = three_in_memory();
        without(&mut array, gone, 2);
        assert_eq!(unkept(&mut array, 2), slots(what), "{gone:?}");
    }
    // It had brought what it kept, before it died as well.
    let mut array = three_in_memory();
    without(&mut array, &[1], 2);
    assert_eq!(unkept(&mut array, 2), SlotSet::EMPTY);
    array.nodes.remove(&2);
    array.enter(3, &[0], &[0]);
    array.act(0, |peering, _, out| {
        peering.not_led(Epoch(2), "another epoch begins", out);
    });
    assert_eq!(unkept(&mut array, 3), SlotSet::EMPTY);
    // It had not.
    let mut array = three_in_memory();
    array.nodes.remove(&1);
    array.enter(2, &[0, 2], &[0, 2]);
    without(&mut array, &[2], 3);
    assert_eq!(unkept(&mut array, 3), slots(&[1]));
}

/// Node 1 has lost its partner, node 2, and the epoch after that is open to the other three.
fn four_of_which_one_has_lost_its_partner() -> Array {
    let mut array = Array::default();
    (0..4).for_each(|number| array.add_as(number, Replication::new(2)));
    array.enter(1, &[0, 1, 2, 3], &[]);
    array.open(1, &[0, 1, 2, 3], 0);
    assert_eq!(array.nodes[&1].peering.partners(), slots(&[2]));
    array.nodes.remove(&2);
    array.enter(2, &[0, 1, 3], &[0, 1, 3]);
    array.open(2, &[0, 1, 3], 0);
    assert_eq!(array.nodes[&1].peering.partners(), slots(&[3]));
    (0..4)
        .filter(|number| *number != 2)
        .for_each(|number| drop(array.wanted(number)));
    array
}

/// CHECKLIST C3, PROTOCOL H45: a node has its new partner keep what it had acknowledged before, and says when it does. If it dies before that, its new partner alone is not enough; an answer of an
/// earlier epoch does not count. When it has said so, its first partner is needed no more.
#[test]
fn a_death_before_what_was_acknowledged_is_kept_again_is_seen() {
    for (said, gone, what) in [
        (None, &[1][..], &[1][..]),
        (Some(1), &[1], &[1]),
        (Some(2), &[1], &[]),
        (Some(2), &[1, 3], &[1]),
        (None, &[3], &[]),
    ] {
        let mut array = four_of_which_one_has_lost_its_partner();
        if let Some(epoch) = said {
            array.act(1, |peering, _, out| peering.kept_again(0, Epoch(epoch), out));
            array.settle();
        }
        without(&mut array, gone, 3);
        assert_eq!(unkept(&mut array, 3), slots(what), "{said:?} {gone:?}");
    }
}

/// PROTOCOL H45: whoever comes later is told who keeps what was acknowledged before.
#[test]
fn who_comes_later_is_told_who_keeps_what() {
    let joined = || {
        let mut array = three_in_memory();
        array.add_as(3, Replication::new(2));
        array.enter(2, &[0, 1, 2, 3], &[0, 1, 2]);
        array.open(2, &[0, 1, 2, 3], 0);
        (0..4).for_each(|number| drop(array.wanted(number)));
        array
    };
    // In this epoch, too, node 2 keeps what node 1 writes, and node 3 what node 2 does, which node 0 has kept before.
    let mut array = joined();
    without(&mut array, &[0, 1, 2], 3);
    assert_eq!(unkept(&mut array, 3), slots(&[0, 1, 2]));
    let mut array = joined();
    without(&mut array, &[1, 2], 3);
    assert_eq!(unkept(&mut array, 3), slots(&[1]));
    // Who comes after that is told of both epochs.
    let mut array = joined();
    array.add_as(4, Replication::new(2));
    array.enter(3, &[0, 1, 2, 3, 4], &[0, 1, 2, 3]);
    array.open(3, &[0, 1, 2, 3, 4], 0);
    (0..5).for_each(|number| drop(array.wanted(number)));
    without(&mut array, &[0, 1, 3], 4);
    assert_eq!(unkept(&mut array, 4), slots(&[0, 3]), "node 2 has what 1 had");
    let mut array = joined();
    without(&mut array, &[2], 3);
    assert_eq!(
        unkept(&mut array, 3),
        SlotSet::EMPTY,
        "its partner of before is there, and node 0 knows that"
    );
    let mut array = joined();
    (0..3).for_each(|number| array.act(number, |peering, _, out| peering.kept_again(0, Epoch(2), out)));
    array.settle();
    without(&mut array, &[0, 1, 2], 3);
    assert_eq!(unkept(&mut array, 3), slots(&[0, 1]), "it has what node 2 had");
}

/// The same where whoever comes leads: it has to hear it from those whom it is about, who may die before they can say that all is kept again.
#[test]
fn who_comes_and_leads_is_told_by_those_whom_it_is_about() {
    for is_restored in [true, false] {
        let mut array = three_in_memory();
        without(&mut array, &[0, 2], 2);
        // Nobody is there to keep what it writes, and nothing of what it has written before is in memory alone, when it has been restored.
        array.open(2, &[1], 1);
        if is_restored {
            array.act(1, |peering, _, out| peering.kept_again(0, Epoch(2), out));
        }
        array.add_as(0, Replication::new(2));
        array.enter(3, &[0, 1], &[0, 1]);
        array.act(1, |peering, _, out| peering.stepped_down(out));
        array.settle();
        without(&mut array, &[1], 4);
        let expected = if is_restored { SlotSet::EMPTY } else { slots(&[1]) };
        assert_eq!(unkept(&mut array, 4), expected);
    }
}

/// PROTOCOL H45: an epoch that was not served here may have been served, and written in, elsewhere.
#[test]
fn epochs_that_were_not_served_here_count() {
    let restored = || {
        let mut array = four_of_which_one_has_lost_its_partner();
        array.act(1, |peering, _, out| peering.kept_again(0, Epoch(2), out));
        array.settle();
        array
    };
    // Slot 2 has another life, which keeps what 1 writes, if they get to serve: 0 and 3 do not, and do not know whether 1, which leads, has opened it. Had 0 led, nobody could have served.
    for (seniors, expected) in [(&[1, 0, 3], slots(&[1])), (&[0, 1, 3], SlotSet::EMPTY)] {
        let mut array = restored();
        array.add_as(2, Replication::new(2));
        array.enter(3, &[0, 1, 2, 3], seniors);
        without(&mut array, &[1, 2], 4);
        assert_eq!(unkept(&mut array, 4), expected);
    }
    // It leads and has told its record: where membership has another leader, the others may serve before it does.
    let mut array = restored();
    array.add_as(2, Replication::new(2));
    array.enter(3, &[0, 1, 2, 3], &[0, 1, 3]);
    array.act(0, |peering, _, out| peering.recover(Epoch(3), out));
    array.act(0, |peering, now, out| {
        peering.replayed(now, Epoch(3), led(7), None, out);
    });
    array.settle();
    without(&mut array, &[1, 2], 4);
    assert_eq!(unkept(&mut array, 4), slots(&[1]));
    let mut array = restored();
    without(&mut array, &[1], 3);
    assert_eq!(unkept(&mut array, 3), SlotSet::EMPTY);
    let mut array = restored();
    without(&mut array, &[1], 4);
    assert_eq!(
        unkept(&mut array, 4),
        SlotSet::EMPTY,
        "an epoch that not all members have entered nobody has served"
    );
}

/// PROTOCOL H45: where everyone is fenced, lives that go on have what they had, and keep what they kept.
#[test]
fn who_lives_on_is_not_missed_where_everyone_was_fenced() {
    let fenced = || {
        let mut array = three_in_memory();
        array.act(1, |peering, _, out| peering.keep(&copy(1, 5), false, out));
        array.settle();
        array.enter_as(2, &[0, 1, 2], &[], &[0, 1, 2]);
        array
    };
    assert_eq!(unkept(&mut fenced(), 2), SlotSet::EMPTY);
    // It dies before it has had its writes kept again.
    let mut array = fenced();
    array.nodes.remove(&1);
    array.enter_as(3, &[0, 2], &[], &[0, 2]);
    let recovery = open(&mut array, 3, &[0, 2], 0);
    assert_eq!((recovery.unkept, recovery.copies.len()), (SlotSet::EMPTY, 1));
}

/// PROTOCOL H45: nodes that leave in good order have nothing in memory alone, however many do at once.
#[test]
fn who_leaves_in_good_order_is_not_missed() {
    let mut array = three_in_memory();
    for number in [1, 2] {
        array.act(number, |peering, _, out| peering.end_memory(false, out));
    }
    array.settle();
    without(&mut array, &[1, 2], 2);
    assert_eq!(unkept(&mut array, 2), SlotSet::EMPTY);
}

/// PROTOCOL H45: whoever leaves in good order goes when all others know that, and says it again where an epoch begins before they do, or somebody comes.
#[test]
fn whoever_leaves_waits_until_nobody_will_miss_it() {
    let mut array = three_in_memory();
    array.act(1, |peering, _, out| peering.end_memory(false, out));
    assert_eq!(array.wanted(1), []);
    // What it has said is lost with the epoch, and one of those who were to hear it is gone.
    array.nodes.remove(&2);
    array.add_as(2, Replication::new(2));
    let over = || MemoryAction::Over.into();
    array.enter(2, &[0, 1, 2], &[0, 1]);
    assert!(array.wanted(1).contains(&over()));
    // It is there for another epoch, and says it again, but goes only once.
    array.enter(3, &[0, 1, 2], &[0, 1, 2]);
    assert!(!array.wanted(1).contains(&over()));
    without(&mut array, &[1, 2], 4);
    assert_eq!(unkept(&mut array, 4), SlotSet::EMPTY);
    // With nobody else there it waits for nobody.
    let mut array = three_in_memory();
    without(&mut array, &[1, 2], 2);
    let _ = unkept(&mut array, 2);
    drop(array.wanted(0));
    array.act(0, |peering, _, out| peering.end_memory(false, out));
    assert_eq!(array.wanted(0), [over()]);
}

/// The same where epochs begin, and do not come to serve, between what they say and their going.
#[test]
fn who_has_said_that_it_leaves_is_not_missed_later() {
    let mut array = three_in_memory();
    for number in [1, 2] {
        array.act(number, |peering, _, out| peering.end_memory(false, out));
    }
    array.settle();
    array.enter(2, &[0, 1, 2], &[0, 1, 2]);
    without(&mut array, &[1, 2], 3);
    assert_eq!(unkept(&mut array, 3), SlotSet::EMPTY);
    // Another life in the slot of one that has left is missed as any.
    let mut array = three_in_memory();
    array.act(1, |peering, _, out| peering.end_memory(false, out));
    array.settle();
    without(&mut array, &[1], 2);
    array.open(2, &[0, 2], 0);
    array.add_as(1, Replication::new(2));
    array.enter(3, &[0, 1, 2], &[0, 2]);
    array.open(3, &[0, 1, 2], 0);
    (0..3).for_each(|number| drop(array.wanted(number)));
    without(&mut array, &[1, 2], 4);
    assert_eq!(unkept(&mut array, 4), slots(&[1]));
}

/// PROTOCOL H45: who has a dead node's copies, or has served since it was recovered, knows better than whoever sees only that its keepers are gone; and copies of the living are not brought.
#[test]
fn who_knows_better_is_believed() {
    let five = || {
        let mut array = Array::default();
        (0..5).for_each(|number| array.add_as(number, Replication::new(2)));
        array.enter(1, &[0, 1, 2, 3, 4], &[]);
        array.open(1, &[0, 1, 2, 3, 4], 0);
        (0..5).for_each(|number| drop(array.wanted(number)));
        array
    };
    // The leader was brought what 2 kept for 1, and others do not know that.
    let mut array = five();
    without(&mut array, &[1], 2);
    assert_eq!(unkept(&mut array, 2), SlotSet::EMPTY);
    array.nodes.remove(&2);
    array.enter(3, &[0, 3, 4], &[0, 3, 4]);
    array.act(0, |peering, _, out| {
        peering.not_led(Epoch(2), "another epoch begins", out);
    });
    array.settle();
    assert_eq!(unkept(&mut array, 3), SlotSet::EMPTY);
    // Nobody brings what is kept for those that live: when they are gone as well, with those, that is known.
    let mut array = five();
    without(&mut array, &[1], 2);
    assert_eq!(unkept(&mut array, 2), SlotSet::EMPTY);
    array.nodes.remove(&3);
    array.nodes.remove(&4);
    array.enter(3, &[0, 2], &[0, 2]);
    array.act(0, |peering, _, out| {
        peering.not_led(Epoch(2), "another epoch begins", out);
    });
    array.settle();
    assert_eq!(unkept(&mut array, 3), slots(&[3]));
    let view = |served, unkept: &[u8], kept: &[u8]| View {
        served: Epoch(served),
        unkept: slots(unkept),
        kept: slots(kept),
    };
    assert_eq!(
        View::unkept(&[view(1, &[0], &[]), view(2, &[], &[])]),
        SlotSet::EMPTY
    );
    assert_eq!(
        View::unkept(&[view(2, &[0, 3], &[]), view(2, &[], &[3])]),
        slots(&[0])
    );
    assert_eq!(View::unkept(&[]), SlotSet::EMPTY);
}
