//! Nodes that enter epochs together: who reports what to whom, who leads, and when locks are granted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::note::{FlushName, Led, Note, NoteError};
use super::*;
use crate::amf::arbiter::{Arbitration, Config, QueueOrder, Token};
use crate::amf::hand_over::{Content, Extent};
use crate::amf::journal::JournalShared;
use crate::amf::lock::{Held, LockTable};
use crate::amf::replica::{Copy, Keeping, Name, Replication};
use crate::amf::reserving::Version;
use crate::amf::superblock::{RECORD_BYTES, Uuid};
use crate::drive::block::BlockSize;
use crate::icl::membership::record::{ArbiterRule, Member};
use crate::icl::{DriveSet, Incarnation};

mod memory;

/// What a node keeps for others in these tests, in bytes.
const KEPT_MAX: usize = 6000;

fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

fn slots(numbers: &[u8]) -> SlotSet {
    numbers.iter().map(|number| slot(*number)).collect()
}

fn led(mark: u8) -> Led {
    Led {
        drives: vec![None; crate::amf::MEMBERS_MAX],
        record: Box::new([mark; RECORD_BYTES]),
    }
}

struct Node {
    peering: Peering,
    table: Arc<LockTable>,
    journal: Arc<JournalShared>,
    epoch: Epoch,
    /// What it wanted of its binding, but for what is sent.
    wanted: Vec<Action>,
    /// What its cores were last told of partners.
    keeping: Keeping,
}

/// Its epoch, kind and bytes.
type Mail = (Epoch, u16, Vec<u8>);

/// Nodes, and what is on its way between them: in order between the same two.
#[derive(Default)]
struct Array {
    nodes: BTreeMap<u8, Node>,
    links: BTreeMap<(u8, u8), VecDeque<Mail>>,
    now_ns: u64,
}

impl Array {
    fn add(&mut self, number: u8) {
        self.add_as(number, Replication::new(1));
    }

    /// One that has each write in the memory of others, too.
    fn add_as(&mut self, number: u8, replication: Replication) {
        let table = LockTable::shared(64);
        let journal = Arc::new(JournalShared::joining(4, 1));
        let arbitration = Arbitration::new(Config {
            local: slot(number),
            order: QueueOrder::Fifo,
            hold_ns_min: 0,
            holder_limit: 64,
            arbiter_limit: 64,
            queue_max: 8,
        });
        let homes = Homes::new(
            slot(number),
            Arc::clone(&table),
            Arc::clone(&journal),
            arbitration,
        );
        let node = Node {
            peering: Peering::new(slot(number), 1, homes).copying(replication, KEPT_MAX),
            table,
            journal,
            epoch: Epoch(0),
            wanted: Vec::new(),
            keeping: Keeping::Nobody,
        };
        assert!(self.nodes.insert(number, node).is_none());
    }

    fn act(&mut self, number: u8, act: impl FnOnce(&mut Peering, u64, &mut Vec<Action>)) {
        let node = self.nodes.get_mut(&number).unwrap();
        let mut out = Vec::new();
        act(&mut node.peering, self.now_ns, &mut out);
        for action in out {
            if let Action::Memory(MemoryAction::KeepCopies(keeping, _)) = action {
                node.keeping = keeping;
            }
            let Action::Send { to, note } = action else {
                node.wanted.push(action);
                continue;
            };
            let mut bytes = node.peering.context().encode().to_vec();
            note.encode(&mut bytes);
            let link = self.links.entry((number, to.number())).or_default();
            link.push_back((node.epoch, note.kind(), bytes));
        }
    }

    /// All that is on its way arrives, as far as its receiver is in the same epoch.
    fn settle(&mut self) {
        while let Some((&(from, to), _)) = self.links.iter().find(|(_, link)| !link.is_empty()) {
            let (epoch, kind, bytes) = self.links.get_mut(&(from, to)).unwrap().pop_front().unwrap();
            if self.nodes.get(&to).is_some_and(|node| node.epoch == epoch) {
                self.act(to, |peering, now, out| {
                    peering
                        .receive(now, (slot(from), epoch), (kind, &bytes), out)
                        .unwrap();
                });
            }
        }
    }

    /// These nodes enter an epoch; those of them that are new are not among the seniors.
    fn enter(&mut self, epoch: u32, members: &[u8], seniors: &[u8]) {
        self.enter_as(epoch, members, seniors, seniors);
    }

    /// The same where these live on, whether or not they have kept their registration.
    fn enter_as(&mut self, epoch: u32, members: &[u8], seniors: &[u8], stayed: &[u8]) {
        let leader = seniors.iter().chain(members).next().unwrap();
        let era = Era {
            epoch: Epoch(epoch),
            members: slots(members),
            seniors: slots(seniors),
            stayed: slots(stayed),
            leader: slot(*leader),
            rule: Rule::preferred(slots(members)),
        };
        for number in members {
            self.nodes.get_mut(number).unwrap().epoch = Epoch(epoch);
            self.act(*number, |peering, now, out| peering.enter(now, era, out));
        }
        self.settle();
    }

    fn wanted(&mut self, number: u8) -> Vec<Action> {
        std::mem::take(&mut self.nodes.get_mut(&number).unwrap().wanted)
    }

    /// Membership and the bindings go on as they do if nothing is in the way. What the leader was asked for.
    fn open(&mut self, epoch: u32, members: &[u8], leader: u8) -> Recovery {
        let epoch = Epoch(epoch);
        for number in members {
            assert!(
                self.wanted(*number).contains(&Action::BarrierDone(epoch)),
                "{number}"
            );
        }
        self.act(leader, |peering, _, out| peering.recover(epoch, out));
        let wanted = self.wanted(leader);
        let [Action::Recover(recovery)] = &wanted[..] else {
            panic!("{wanted:?}")
        };
        self.act(leader, |peering, now, out| {
            peering.replayed(now, epoch, led(7), None, out)
        });
        assert!(self.wanted(leader).contains(&Action::Recovered(epoch)));
        self.settle();
        for number in members {
            if *number != leader {
                assert!(self.wanted(*number).contains(&Action::Follow(led(7))), "{number}");
                self.act(*number, |peering, now, out| peering.is_open(now, out));
            }
            assert!(
                !self.nodes[number].peering.serves(),
                "membership has not opened it"
            );
            self.act(*number, |peering, now, out| peering.opened(now, epoch, out));
            assert!(self.wanted(*number).contains(&Action::Serve), "{number}");
        }
        self.settle();
        recovery.clone()
    }

    /// A core wants a row; whether it has it when everything has arrived.
    fn want(&mut self, number: u8, row: u64, mode: Mode) -> bool {
        let table = Arc::clone(&self.nodes[&number].table);
        // As a core does that finds that the node does not hold the row: the slot is its home's from now on.
        assert_eq!(
            table.try_acquire(RowIndex(row), mode, 0),
            crate::amf::lock::Acquire::Absent
        );
        self.act(number, |peering, now, out| {
            peering.want(now, 0, RowIndex(row), mode, false, out)
        });
        self.settle();
        self.wanted(number)
            .iter()
            .any(|action| matches!(action, Action::WakeCores { mask: 1, row: woken } if woken.0 == row))
    }
}

fn three() -> Array {
    let mut array = Array::default();
    (0..3).for_each(|number| array.add(number));
    array.enter(1, &[0, 1, 2], &[]);
    let recovery = array.open(1, &[0, 1, 2], 0);
    assert_eq!(
        (recovery.living, recovery.goes_on),
        (SlotSet::EMPTY, false),
        "nobody has it open"
    );
    array
}

/// CHECKLIST B15, C2, PROTOCOL 3.4, H12: one member of an epoch leads. It hears which rows survivors hold, before it recovers what others have left; and
/// nobody is granted a lock before that.
#[test]
fn a_lost_node_is_recovered_around_what_survivors_hold() {
    let mut array = three();
    assert!(array.want(1, 5, Mode::Write) && array.want(0, 6, Mode::Read) && array.want(2, 7, Mode::Write));
    array.nodes.remove(&2);
    array.enter(2, &[0, 1], &[0, 1]);
    assert!(
        !array.want(1, 7, Mode::Write),
        "the lost node may have been writing there"
    );
    assert!(array.wanted(0).contains(&Action::BarrierDone(Epoch(2))));
    array.act(0, |peering, _, out| peering.recover(Epoch(2), out));
    let recovery = Recovery {
        epoch: Epoch(2),
        living: slots(&[0, 1]),
        rows: [RowIndex(5), RowIndex(6)].into(),
        retired: 1,
        goes_on: true,
        is_needed: true,
        copies: Vec::new(),
        unkept: SlotSet::EMPTY,
    };
    assert_eq!(array.wanted(0), [Action::Recover(recovery)]);
    // Entries below 40 are to be retired everywhere: none are there, and that is heard when numbers have got there.
    array.act(0, |peering, now, out| {
        peering.replayed(now, Epoch(2), led(8), Some(40), out)
    });
    array.settle();
    assert_eq!(
        array.wanted(0),
        [Action::Hurry { lane: 0, below: 40 }],
        "others may have some"
    );
    let wanted = array.wanted(1);
    assert!(
        wanted.contains(&Action::Follow(led(8))) && wanted.contains(&Action::Hurry { lane: 0, below: 40 })
    );
    for journal in array.nodes.values().map(|node| &node.journal) {
        journal.raise(40);
    }
    array.now_ns += BEAT_NS;
    for number in [1, 0] {
        array.act(number, |peering, now, out| peering.tick(now, out));
        array.settle();
    }
    let ends = Action::EndEntries {
        epoch: Epoch(2),
        below: 40,
    };
    assert!(array.wanted(0).contains(&ends));
    array.act(0, |peering, now, out| peering.led(now, Epoch(2), led(9), out));
    assert!(!array.nodes[&1].peering.serves(), "membership has not opened it");
    array.settle();
    for number in [0, 1] {
        array.act(number, |peering, now, out| peering.opened(now, Epoch(2), out));
    }
    array.settle();
    let wanted = array.wanted(1);
    assert!(wanted.contains(&Action::Follow(led(9))) && wanted.contains(&Action::Serve));
    assert!(
        wanted
            .iter()
            .any(|action| matches!(action, Action::WakeCores { row: RowIndex(7), .. })),
        "{wanted:?}"
    );
}

/// A node that joins is no reason to recover anything, and its standing is that it has nothing.
#[test]
fn a_node_joins_without_a_recovery() {
    let mut array = three();
    array.nodes.remove(&2);
    array.enter(2, &[0, 1], &[0, 1]);
    assert!(array.open(2, &[0, 1], 0).is_needed);
    array.add(2);
    array.enter(3, &[0, 1, 2], &[0, 1]);
    let recovery = array.open(3, &[0, 1, 2], 0);
    assert_eq!((recovery.living, recovery.is_needed), (slots(&[0, 1]), false));
    assert!(array.want(2, 9, Mode::Write), "the new one has its part");
}

/// Who leads changes only when the last one has put its pen down: no two nodes write superblocks.
#[test]
fn a_leader_steps_down_before_the_next_one_takes_over() {
    let mut array = three();
    array.nodes.remove(&0);
    array.enter(2, &[1, 2], &[1, 2]);
    let recovery = array.open(2, &[1, 2], 1);
    assert_eq!(
        (recovery.goes_on, recovery.is_needed),
        (false, true),
        "it takes over"
    );
    array.add(0);
    array.enter(3, &[0, 1, 2], &[1, 2]);
    array.open(3, &[0, 1, 2], 1);
    // In the next epoch the lower slot is no newcomer any more.
    array.nodes.remove(&2);
    array.enter(4, &[0, 1], &[0, 1]);
    assert_eq!(array.wanted(1), [Action::StepDown]);
    assert!(array.nodes[&1].peering.leads());
    array.act(1, |peering, _, out| peering.stepped_down(out));
    let recovery = array.open(4, &[0, 1], 0);
    assert_eq!((recovery.goes_on, recovery.is_needed), (false, true));
    assert!(array.nodes[&0].peering.leads() && !array.nodes[&1].peering.leads());
}

/// PROTOCOL 3.4, I5: a node that is opening the group when another epoch begins says what it has when it knows: nobody opens a group anew beside engines that have just opened it.
#[test]
fn what_a_node_has_is_said_when_it_is_known() {
    let opening = || {
        let mut array = Array::default();
        array.add(1);
        array.enter(1, &[1], &[]);
        array.act(1, |peering, _, out| peering.recover(Epoch(1), out));
        array.wanted(1);
        array.add(0);
        array.enter(2, &[0, 1], &[0, 1]);
        array.enter(3, &[0, 1], &[0, 1]);
        assert_eq!(array.wanted(1), [], "it is still at it");
        array.wanted(0);
        array.act(0, |peering, _, out| peering.recover(Epoch(3), out));
        array.settle();
        assert_eq!(array.wanted(0), [], "the other one may come to have it open");
        array
    };
    let living = |array: &mut Array| {
        array.settle();
        match &array.wanted(0)[..] {
            [Action::Recover(recovery)] => recovery.living,
            other => panic!("{other:?}"),
        }
    };
    let mut array = opening();
    array.act(1, |peering, now, out| {
        peering.replayed(now, Epoch(1), led(1), None, out)
    });
    assert_eq!(array.wanted(1), [Action::StepDown]);
    assert_eq!(living(&mut array), slots(&[1]));
    // The same if it could not be opened, or failed as it was.
    for fails in [false, true] {
        let mut array = opening();
        array.act(1, |peering, _, out| match fails {
            false => peering.not_led(Epoch(1), "no", out),
            true => peering.failed("no", out),
        });
        assert_eq!(array.wanted(1), [Action::BarrierDone(Epoch(3))]);
        assert_eq!(living(&mut array), SlotSet::EMPTY);
    }
}

/// An epoch that ends before its leader has recovered: whoever leads the next one waits until the first one is through.
#[test]
fn a_recovery_that_another_epoch_overtakes_ends_first() {
    let mut array = three();
    array.nodes.remove(&0);
    array.add(0);
    array.enter(2, &[0, 1, 2], &[1, 2]);
    array.act(1, |peering, _, out| peering.recover(Epoch(2), out));
    assert!(
        array
            .wanted(1)
            .iter()
            .any(|action| matches!(action, Action::Recover(_)))
    );
    array.nodes.remove(&2);
    array.enter(3, &[0, 1], &[0, 1]);
    assert_eq!(array.wanted(1), [], "it is still at it");
    array.act(1, |peering, now, out| {
        peering.replayed(now, Epoch(2), led(1), Some(9), out)
    });
    assert_eq!(array.wanted(1), [Action::StepDown]);
    array.act(1, |peering, _, out| peering.stepped_down(out));
    let recovery = array.open(3, &[0, 1], 0);
    assert_eq!(recovery.living, slots(&[1]), "the other one has it open by now");
    // The same if it could not be opened.
    array.enter(4, &[0, 1], &[0, 1]);
    array.wanted(0);
    array.act(0, |peering, _, out| peering.recover(Epoch(4), out));
    array.wanted(0);
    array.act(0, |peering, _, out| peering.not_led(Epoch(4), "no drives", out));
    assert_eq!(array.wanted(0), [Action::NotServed, Action::Recovered(Epoch(4))]);
    array.settle();
    let heard = array.wanted(1);
    assert!(heard.contains(&Action::Refused("no drives".to_owned())) && heard.contains(&Action::NotServed));
}

/// PROTOCOL H19: whoever takes over and is interrupted by another loss begins anew, also if it leads again.
#[test]
fn a_recovery_that_is_interrupted_is_repeated() {
    let mut array = three();
    array.nodes.remove(&0);
    array.enter(2, &[1, 2], &[1, 2]);
    array.act(1, |peering, _, out| peering.recover(Epoch(2), out));
    array.act(1, |peering, now, out| {
        peering.replayed(now, Epoch(2), led(8), Some(40), out)
    });
    array.nodes.remove(&2);
    array.wanted(1);
    array.enter(3, &[1], &[1]);
    array.wanted(1);
    array.act(1, |peering, _, out| peering.recover(Epoch(3), out));
    let wanted = array.wanted(1);
    let [Action::Recover(recovery)] = &wanted[..] else {
        panic!("{wanted:?}")
    };
    assert!(recovery.goes_on && recovery.is_needed, "what two nodes have left");
}

/// PROTOCOL H19: the same where nobody else is lost, and whoever takes over had not been there when somebody was: what was to be over after its recovery is not.
#[test]
fn a_recovery_that_another_epoch_overtakes_is_repeated() {
    let mut array = three();
    array.nodes.remove(&0);
    // The node in slot 0 begins another life, which was a member already in an epoch that nobody has entered.
    array.add(0);
    array.enter_as(2, &[0, 1, 2], &[0, 1, 2], &[1, 2]);
    array.wanted(0);
    array.act(0, |peering, _, out| peering.recover(Epoch(2), out));
    let wanted = array.wanted(0);
    assert!(matches!(&wanted[..], [Action::Recover(recovery)] if recovery.is_needed && !recovery.goes_on));
    array.act(0, |peering, now, out| {
        peering.replayed(now, Epoch(2), led(8), Some(40), out)
    });
    array.enter(3, &[0, 1, 2], &[0, 1, 2]);
    array.wanted(0);
    array.act(0, |peering, _, out| peering.recover(Epoch(3), out));
    let wanted = array.wanted(0);
    assert!(
        matches!(&wanted[..], [Action::Recover(recovery)] if recovery.is_needed && recovery.goes_on),
        "{wanted:?}"
    );
}

/// Engines that were told that a group has failed are not told otherwise: it is not opened again beside them.
#[test]
fn a_failed_group_is_not_opened_again_beside_engines_that_know_it() {
    let mut array = three();
    array.act(0, |peering, _, out| peering.failed("too many drives", out));
    array.settle();
    array.nodes.remove(&0);
    array.enter(2, &[1, 2], &[1, 2]);
    array.wanted(1);
    array.act(1, |peering, _, out| peering.recover(Epoch(2), out));
    let wanted = array.wanted(1);
    assert!(wanted.contains(&Action::Recovered(Epoch(2))), "{wanted:?}");
    assert!(!wanted.iter().any(|action| matches!(action, Action::Recover(_))));
}

/// A group that could not be opened has failed for an epoch: whoever leads the next one opens it, and who has failed before hears so, and begins another life. One that
/// failed while engines had it open has failed for their lives.
#[test]
fn a_group_that_could_not_be_opened_is_opened_in_the_next_epoch() {
    let mut array = Array::default();
    (0..2).for_each(|number| array.add(number));
    array.enter(1, &[1], &[]);
    array.wanted(1);
    array.act(1, |peering, _, out| peering.recover(Epoch(1), out));
    array.act(1, |peering, _, out| {
        peering.failed("its superblocks cannot be written", out)
    });
    assert!(array.wanted(1).contains(&Action::Recovered(Epoch(1))));
    assert!(!array.nodes[&1].peering.has_failed());
    array.enter(2, &[0, 1], &[0, 1]);
    let recovery = array.open(2, &[0, 1], 0);
    assert_eq!(recovery.living, SlotSet::EMPTY);
    array.act(0, |peering, _, out| peering.failed("too many drives", out));
    array.settle();
    assert!((0..2).all(|number| array.nodes[&number].peering.has_failed()));
}

/// A group that fails while others retire what is older holds up no epoch.
#[test]
fn a_group_that_fails_in_its_recovery_is_given_up() {
    let mut array = three();
    array.nodes.remove(&2);
    array.enter(2, &[0, 1], &[0, 1]);
    array.act(0, |peering, _, out| peering.recover(Epoch(2), out));
    array.act(0, |peering, now, out| {
        peering.replayed(now, Epoch(2), led(8), Some(40), out)
    });
    array.wanted(0);
    array.act(0, |peering, _, out| peering.failed("too many drives", out));
    assert_eq!(array.wanted(0), [Action::NotServed, Action::Recovered(Epoch(2))]);
    array.settle();
    assert!(
        array
            .wanted(1)
            .contains(&Action::Refused("too many drives".to_owned()))
    );
    array.act(0, |peering, now, out| peering.opened(now, Epoch(2), out));
    assert!(!array.nodes[&0].peering.serves());
}

/// PROTOCOL H29: a fault is told to whoever leads until that one has counted the member as lost.
#[test]
fn faults_reach_whoever_leads() {
    let mut array = three();
    let (member, error) = (MemberIndex(2), DriveError::Gone);
    array.act(1, |peering, _, out| peering.fault(member, error, out));
    array.settle();
    assert_eq!(array.wanted(0), [Action::Fault(member, error)]);
    // The leader is lost before it has done anything about it.
    array.nodes.remove(&0);
    array.enter(2, &[1, 2], &[1, 2]);
    array.open(2, &[1, 2], 1);
    let mut told = Vec::new();
    for _ in 0..2 {
        array.now_ns += BEAT_NS;
        array.act(1, |peering, now, out| peering.tick(now, out));
        told.extend(array.wanted(1));
    }
    assert!(
        told.contains(&Action::Fault(member, error)),
        "it leads itself now: {told:?}"
    );
    let failed = MemberSet {
        generation: 2,
        failed: 1 << member.0,
        parity: crate::amf::ParityTrust::Everywhere,
        rebuilding: 0,
        rebuilt_rows: 0,
    };
    array.act(1, |peering, _, _| peering.members(failed));
    array.now_ns += BEAT_NS;
    array.act(1, |peering, now, out| peering.tick(now, out));
    assert_eq!(array.wanted(1), []);
}

/// PROTOCOL H29, I19: who takes over counts what its own engines have met before others retire their entries, for these may wait for just that. Found by
/// `braid sim --nodes` (seed 218).
#[test]
fn who_takes_over_counts_its_own_faults_first() {
    let mut array = three();
    let (member, error) = (MemberIndex(2), DriveError::Gone);
    array.act(1, |peering, _, out| peering.fault(member, error, out));
    // The leader is lost before it hears of it.
    array.nodes.remove(&0);
    array.enter(2, &[1, 2], &[1, 2]);
    array.settle();
    array.act(1, |peering, _, out| peering.recover(Epoch(2), out));
    assert!(
        !array.wanted(1).contains(&Action::Fault(member, error)),
        "the group is not its own yet"
    );
    array.act(1, |peering, now, out| {
        peering.replayed(now, Epoch(2), led(8), Some(40), out)
    });
    assert!(array.wanted(1).contains(&Action::Fault(member, error)));
}

/// What a life has in memory is there as long as it lives, whatever key its slot has.
#[test]
fn lives_that_stay_are_known_where_everyone_is_fenced() {
    let member = |number, life, admitted| Member {
        slot: slot(number),
        incarnation: Incarnation(life),
        key: slot(number).key(Epoch(admitted), 7),
    };
    let record = |epoch, fence_all, members: &[Member]| EpochRecord {
        epoch: Epoch(epoch),
        members: members.to_vec(),
        victims: Vec::new(),
        fence_all,
        drives: DriveSet(0b111),
        voters: DriveSet(0b111),
        generation: 1,
        arbiter: ArbiterRule::of(members.len()),
        clean: false,
        dirty_ram: true,
    };
    let before = record(1, true, &[member(0, 10, 1), member(1, 11, 1), member(2, 12, 1)]);
    let era = |record: &EpochRecord| Era::of(record, Some(&before), record.slots(), slot(0));
    let fenced = era(&record(
        2,
        true,
        &[member(0, 10, 2), member(1, 21, 2), member(2, 12, 2)],
    ));
    assert_eq!((fenced.seniors, fenced.stayed), (SlotSet::EMPTY, slots(&[0, 2])));
    let kept = era(&record(
        3,
        false,
        &[member(0, 10, 1), member(1, 21, 2), member(2, 12, 1)],
    ));
    assert_eq!((kept.seniors, kept.stayed), (slots(&[0, 2]), slots(&[0, 2])));
    let all = before.slots();
    assert_eq!(Era::of(&before, None, all, slot(0)).stayed, SlotSet::EMPTY);
}

#[test]
fn a_beat_goes_to_all_others_and_nothing_else_is_due_before() {
    let mut array = three();
    array.now_ns += BEAT_NS;
    array.act(0, |peering, now, out| peering.tick(now, out));
    assert_eq!(array.links.values().map(VecDeque::len).sum::<usize>(), 2);
    assert_eq!(array.nodes[&0].peering.wake_at_ns(), array.now_ns + BEAT_NS);
    assert_eq!(array.nodes[&0].table.held(0), None);
    assert!(Held::Nothing < Held::Read);
}

fn context_of_one() -> Context {
    let mut array = Array::default();
    array.add(0);
    array.nodes[&0].peering.context()
}

fn is_read_as_written(context: Context, note: &Note) {
    let mut bytes = context.encode().to_vec();
    note.encode(&mut bytes);
    assert_eq!(Note::parse(note.kind(), &bytes), Ok((context, note.clone())));
    // Nothing that is cut short or of another kind is taken for anything but an error or another sound note.
    for length in 0..bytes.len().min(80) {
        let _ = Note::parse(note.kind(), &bytes[..length]);
    }
    assert!(Note::parse(99, &bytes).is_err());
}

/// The same of what is said about copies and memory.
#[test]
fn notes_about_memory_are_read_as_they_were_written() {
    let context = context_of_one();
    let notes = [
        Note::Copy(Copy {
            name: Name {
                lane: 9,
                batch: 1 << 33,
            },
            committed: 7,
            seq_max: 1 << 50,
            bytes: vec![3; 1024].into(),
        }),
        Note::Kept {
            name: Name { lane: 2, batch: 8 },
            keeps: true,
        },
        Note::Commit(FlushName { lane: 3, flush: 99 }),
        Note::Committed(FlushName { lane: 3, flush: 99 }),
        Note::Memory,
        Note::MemoryIs(true),
        Note::MemoryEnded,
    ];
    notes.iter().for_each(|note| is_read_as_written(context, note));
    let field = |kind, body: &[u8]| {
        let mut bytes = context.encode().to_vec();
        bytes.extend(body);
        Note::parse(kind, &bytes).unwrap_err()
    };
    let mut copy = [0; 32];
    copy[0] = 200;
    assert_eq!(
        field(12, &copy),
        NoteError::Field("batch"),
        "no journal has the lane"
    );
    assert_eq!(field(12, &copy[..31]), NoteError::Short);
    copy[..3].copy_from_slice(&[0, 0, 1]);
    assert_eq!(field(12, &copy), NoteError::Field("copy"));
    copy[2] = 2;
    assert_eq!(field(13, &copy[..16]), NoteError::Field("kept"));
    assert_eq!(field(14, &[0, 9, 0, 0, 1, 0, 0, 0]), NoteError::Field("flush"));
    assert_eq!(field(17, &[2]), NoteError::Field("memory"));
}

#[test]
fn notes_are_read_as_they_were_written() {
    let extent = |start_blocks, content| Extent {
        start_blocks,
        blocks: 1,
        content,
    };
    let extents = vec![extent(0, Content::Piece), extent(4, Content::Zeroes)];
    let notes = [
        Note::Standing {
            is_open: true,
            has_failed: true,
            tails: vec![(slot(7), 1 << 40), (slot(0), 0)],
            rows: vec![RowIndex(3), RowIndex(1 << 40)],
            view: View {
                served: Epoch(77),
                unkept: slots(&[0, 6]),
                kept: slots(&[7]),
            },
            is_last: false,
        },
        Note::Led(Led {
            drives: (0..32).map(|at| (at % 3 == 0).then_some([at; 16])).collect(),
            record: Box::new([5; RECORD_BYTES]),
        }),
        Note::Refused("why".to_owned()),
        Note::Fault(MemberIndex(4), DriveError::Io { errno: -5 }),
        Note::Hurry { lane: 7, below: 99 },
        Note::TailMoved { lanes: 0x8001 },
        Note::Beat,
        Note::Left,
        Note::LeftHeard,
        Note::Restored,
        Note::KeptBy(vec![]),
        Note::KeptBy(vec![slots(&[1, 7]), SlotSet::EMPTY]),
        Note::HandOver {
            row: RowIndex(77),
            token: Token {
                epoch: Epoch(3),
                serial: 9,
            },
            data: HandedOver::new(BlockSize::B512, extents, vec![8; 512]).unwrap(),
        },
        Note::Replayed,
        Note::Reserve(Reservation::Held {
            disk: Uuid([3; 16]),
            version: Version {
                epoch: Epoch(2),
                count: 7,
            },
        }),
    ];
    let context = context_of_one();
    notes.iter().for_each(|note| is_read_as_written(context, note));
    assert_eq!(Note::parse(8, &[]), Err(NoteError::Short));
    let mut far = context.encode().to_vec();
    far.extend(u64::MAX.to_le_bytes());
    far.extend([0; 16]);
    assert_eq!(
        Note::parse(10, &far),
        Err(NoteError::Field("row")),
        "no group has it"
    );
    far[48..56].fill(0);
    assert!(
        matches!(Note::parse(10, &far), Err(NoteError::HandOver(_))),
        "no data"
    );
    far[71] = 1;
    assert_eq!(Note::parse(10, &far), Err(NoteError::Field("hand over")));
}

/// Bad input: more sets than anybody names.
#[test]
fn who_keeps_copies_is_not_believed_to_be_nobody() {
    let context = context_of_one();
    let parse = |body: &[u8]| {
        let mut bytes = context.encode().to_vec();
        bytes.extend(body);
        Note::parse(21, &bytes)
    };
    assert!(parse(&[1; 32]).is_ok());
    assert_eq!(parse(&[1; 33]).unwrap_err(), NoteError::Field("kept by"));
    // More than anybody needs to know.
    let many = Note::KeptBy((1..60).map(SlotSet).collect());
    let mut body = Vec::new();
    many.encode(&mut body);
    assert_eq!(parse(&body).unwrap().1, Note::KeptBy(vec![SlotSet::EMPTY]));
}

/// PROTOCOL H12: what does not fit the group is refused as it comes in, before a core relies on it.
#[test]
fn what_is_handed_over_has_to_fit_the_group() {
    let mut array = three();
    let fit = |blocks_max| Fit {
        block_size: BlockSize::B512,
        row_blocks: 8,
        blocks_max,
    };
    let extent = Extent {
        start_blocks: 6,
        blocks: 2,
        content: Content::Piece,
    };
    let note = Note::HandOver {
        row: RowIndex(5),
        token: Token {
            epoch: Epoch(1),
            serial: 1,
        },
        data: HandedOver::new(BlockSize::B512, vec![extent], vec![8; 1024]).unwrap(),
    };
    let mut bytes = array.nodes[&1].peering.context().encode().to_vec();
    note.encode(&mut bytes);
    let mut hear = |blocks_max| {
        let mut result = Ok(());
        array.act(0, |peering, now, out| {
            peering.take(fit(blocks_max));
            result = peering.receive(now, (slot(1), Epoch(1)), (note.kind(), &bytes), out);
        });
        result
    };
    assert!(matches!(hear(1), Err(NoteError::HandOver(_))));
    assert_eq!(hear(2), Ok(()));
}

/// PROTOCOL H19: what is replayed of living nodes' lanes begins where the lanes of those that are gone do, as the best informed of the living knows.
#[test]
fn what_gone_nodes_have_retired_is_what_the_living_have_heard() {
    let heard = |tails: &[(u8, u64)]| -> BTreeMap<Slot, u64> {
        tails.iter().map(|(of, tail)| (slot(*of), *tail)).collect()
    };
    let all = [heard(&[(2, 50), (3, 70)]), heard(&[(2, 60), (3, 20)])];
    assert_eq!(
        retired(all.iter()),
        60,
        "two are gone: 60 and 70 is what they have said"
    );
    assert_eq!(retired([].iter()), 0, "nobody is gone");
}
