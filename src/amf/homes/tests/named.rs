//! Single cases, step by step.

use std::sync::Arc;

use super::super::*;
use crate::amf::arbiter::message::Grant;
use crate::amf::arbiter::{Config, LastWriter, Number, QueueOrder};
use crate::amf::hand_over::{Content, Extent};
use crate::amf::lock::Acquire;
use crate::drive::block::BlockSize;

const ROW: RowIndex = RowIndex(7);
const EPOCH: Epoch = Epoch(1);
const TOKEN: Token = Token {
    epoch: EPOCH,
    serial: 4,
};

fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

fn data() -> HandedOver {
    let extent = Extent {
        start_blocks: 1,
        blocks: 2,
        content: Content::Zeroes,
    };
    HandedOver::new(BlockSize::B512, vec![extent], Vec::new()).unwrap()
}

/// The second of two nodes, whose core 0 wants a row that the first one arbitrates; and under which number that was asked for.
fn waiting(takes: bool) -> (Homes, Arc<LockTable>, Arc<JournalShared>, Number) {
    let table = LockTable::shared(64);
    let journal = Arc::new(JournalShared::among_nodes(1, 10));
    let arbitration = Arbitration::new(Config {
        local: slot(1),
        order: QueueOrder::Fifo,
        hold_ns_min: 0,
        holder_limit: 8,
        arbiter_limit: 8,
        queue_max: 2,
    });
    let mut homes = Homes::new(slot(1), Arc::clone(&table), Arc::clone(&journal), arbitration);
    let (members, mut out) = (SlotSet(0b11), Vec::new());
    let rule = Rule::LastWriter(LastWriter);
    homes.enter(0, EPOCH, members, SlotSet::EMPTY, rule, &mut out);
    out.clear();
    assert_eq!(table.try_acquire(ROW, Mode::Write, 0), Acquire::Absent);
    homes.want(0, 0, ROW, Mode::Write, takes, &mut out);
    let [
        HomeAction::Send {
            message: Message::Request(request),
            ..
        },
    ] = &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!(request.takes, takes);
    (homes, table, journal, request.number)
}

fn grant(homes: &mut Homes, number: Number, hand_over: Option<HandOver>) -> Vec<HomeAction> {
    let mut out = Vec::new();
    let grant = Grant {
        resource: Resource(ROW.0),
        mode: Mode::Write,
        number,
        token: Token { serial: 5, ..TOKEN },
        when_done: None,
        hand_over,
        prefetch: Prefetch::NONE,
        seat: None,
    };
    homes.received(1, slot(0), EPOCH, Message::Grant(grant), &mut out);
    out
}

fn taken(out: &[HomeAction]) -> bool {
    let is_taken = |action: &HomeAction| {
        matches!(
            action,
            HomeAction::Send {
                message: Message::Taken { .. },
                ..
            }
        )
    };
    out.iter().any(is_taken)
}

#[test]
fn data_is_adopted_by_who_has_asked_and_its_tail_stays_until_it_is_durable() {
    let (mut homes, table, journal, number) = waiting(true);
    let mut out = Vec::new();
    homes.data_came(1, slot(0), ROW, TOKEN, data(), &mut out);
    assert_eq!(
        (&out[..], homes.own_tail()),
        (&[][..], 10),
        "nothing without a grant"
    );
    journal.raise(50);
    assert_eq!((homes.context().tail, homes.context().next), (10, 50));
    assert_eq!(homes.retired(), 10);
    let named = HandOver {
        from: slot(0),
        token: TOKEN,
    };
    let out = grant(&mut homes, number, Some(named));
    let adopt = HomeAction::Adopt {
        core: 0,
        row: ROW,
        data: Arc::new(data()),
    };
    assert_eq!(out, [adopt], "and nobody hears that it is taken");
    let busy = Acquire::Busy { recall: Some(0) };
    assert_eq!(
        table.try_acquire(ROW, Mode::Read, 1),
        busy,
        "it is the writer inside"
    );
    assert_eq!(homes.context().tail, 10);
    let mut out = Vec::new();
    homes.secured(2, ROW, &mut out);
    assert!(taken(&out) && homes.context().tail == 50);
    out.clear();
    homes.secured(2, ROW, &mut out);
    assert_eq!(out, [], "it is said once");
}

#[test]
fn a_want_that_takes_is_answered_also_when_nothing_comes() {
    let (mut homes, table, _, number) = waiting(true);
    assert_eq!(table.withdraw(ROW, 0).0, 0, "the core does not wait any more");
    let answer = HomeAction::Answer { core: 0, row: ROW };
    assert_eq!(grant(&mut homes, number, None), [answer]);
    let (mut homes, _, _, number) = waiting(false);
    let woken = HomeAction::WakeCores { mask: 1, row: ROW };
    assert_eq!(
        grant(&mut homes, number, None),
        [woken],
        "who takes none is woken"
    );
}

#[test]
fn data_that_nobody_takes_or_that_comes_twice_is_dropped() {
    let (mut homes, _, journal, _) = waiting(false);
    let mut out = Vec::new();
    homes.data_came(1, slot(0), ROW, TOKEN, data(), &mut out);
    homes.data_came(1, slot(0), RowIndex(99), TOKEN, data(), &mut out);
    journal.raise(50);
    assert_eq!((&out[..], homes.own_tail()), (&[][..], 50));
    homes.data_came(1, slot(5), ROW, TOKEN, data(), &mut out);
    assert!(
        matches!(out[..], [HomeAction::Misbehaved { .. }]),
        "of no member: {out:?}"
    );
    let (mut homes, _, journal, _) = waiting(true);
    out.clear();
    homes.data_came(1, slot(0), ROW, TOKEN, data(), &mut out);
    homes.data_came(1, slot(0), ROW, TOKEN, data(), &mut out);
    let rule = Rule::LastWriter(LastWriter);
    homes.enter(2, Epoch(2), SlotSet(0b11), SlotSet(0b11), rule, &mut out);
    journal.raise(50);
    assert_eq!(homes.own_tail(), 50, "an epoch drops what no grant has named");
}
