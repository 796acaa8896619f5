//! Cross-Controller Resets over nodes: hosts of this node that have lost a controller of another one, and hosts of others that have lost one of this one
//! (PROTOCOL H37). What is decided is decided in [`crate::icl::reset`] and in the subsystem.

use std::collections::{BTreeMap, VecDeque};

use nvme::subsystem::{Event, ResetOutcome, ResetWish};
use reactor::Io;

use super::super::Control;
use crate::icl::link::{Address, Payload};
use crate::icl::reset::{Action, Message as ResetMessage, Resets};
use crate::icl::{Slot, SlotSet};
use crate::target::core::Core;
use crate::target::message::Message;
use crate::target::plant::slot_of;

/// See the module.
#[derive(Default)]
pub(super) struct NodeResets {
    machine: Resets,
    /// Whom the subsystem's answers are for, by the number that it was asked with: the node, and its number.
    askers: BTreeMap<u64, (Slot, u64)>,
    number: u64,
    /// Answers that have not left: there was no room, or the turn has not ended.
    answers: VecDeque<(Slot, u64, ResetOutcome)>,
    actions: Vec<Action>,
}

impl NodeResets {
    /// An epoch begins: whoever has asked asks again, if it is still there.
    pub(super) fn enter(&mut self, members: SlotSet) {
        self.machine.enter(members);
        self.askers.clear();
        self.answers.clear();
    }
}

impl Control {
    /// A host of this node wants a controller of another one ended. Only a subsystem that several nodes serve gets here.
    pub(in super::super) fn reset_elsewhere(&mut self, io: &Io<Message>, number: u64, wish: ResetWish) {
        let slot = slot_of(wish.cntlid).expect("the subsystem knows the identifiers of slots");
        self.share().resets.machine.ask(io.now(), number, slot, wish);
    }

    /// The subsystem answers what another node has asked; it may have done so in an epoch that is over.
    pub(in super::super) fn reset_answered(&mut self, number: u64, outcome: ResetOutcome) {
        let resets = &mut self.share().resets;
        if let Some((to, number)) = resets.askers.remove(&number) {
            resets.answers.push_back((to, number, outcome));
        }
    }

    /// Another node says something about a reset.
    pub(super) fn hear_reset(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        from: Slot,
        kind: u16,
        bytes: &[u8],
    ) {
        match ResetMessage::parse(kind, bytes) {
            Ok(ResetMessage::Ask { number, wish }) => {
                let resets = &mut self.share().resets;
                resets.number += 1;
                let own = resets.number;
                resets.askers.insert(own, (from, number));
                self.subsystem_event(core, io, Event::ResetAsked { number: own, wish });
            }
            Ok(ResetMessage::Answer { number, outcome }) => {
                let NodeResets { machine, actions, .. } = &mut self.share().resets;
                machine.answered(from, number, outcome, actions);
            }
            Err(error) => {
                tracing::error!(peer = %from, kind, %error, "a message of another node is not understood");
            }
        }
    }

    /// The end of a turn: asks, answers, and tells hosts what has become of theirs.
    pub(super) fn tend_resets(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let share = self.share();
        let NodeResets {
            machine,
            answers,
            actions,
            ..
        } = &share.resets;
        if machine.is_idle() && answers.is_empty() && actions.is_empty() {
            return; // As in most turns.
        }
        if !share.resets.machine.is_open() && share.is_over_with_the_past() {
            share.resets.machine.opened();
        }
        let NodeResets { machine, actions, .. } = &mut share.resets;
        // Of this moment, after the epoch was looked up.
        let lease = core.lease.as_ref();
        let has_lease = lease.is_some_and(|lease| lease.covers(reactor::now()));
        machine.poll(io.now(), has_lease, actions);
        while let Some(&(to, number, outcome)) = share.resets.answers.front() {
            let answer = ResetMessage::Answer { number, outcome };
            if !share.submit_reset(io, to, &answer) {
                break;
            }
            share.resets.answers.pop_front();
        }
        for action in std::mem::take(&mut self.share().resets.actions) {
            match action {
                Action::Ask { to, number, wish } => {
                    let ask = ResetMessage::Ask { number, wish };
                    if !self.share().submit_reset(io, to, &ask) {
                        self.share().resets.machine.not_sent(number);
                    }
                }
                Action::Ended { number, outcome } => {
                    self.subsystem_event(core, io, Event::ResetElsewhere { number, outcome });
                }
            }
        }
    }
}

impl super::ShareControl {
    /// Whether nothing that nodes of earlier epochs have left can take effect any more: all groups grant locks in this epoch, but for those that nobody serves.
    fn is_over_with_the_past(&self) -> bool {
        let mut groups = self.groups.iter();
        self.record.is_some()
            && self.has_entered()
            && groups.all(|group| group.peering.serves() || group.refused.is_some())
    }

    /// Queues a message about a reset. False if there is no room for it.
    fn submit_reset(&mut self, io: &mut Io<Message>, to: Slot, message: &ResetMessage) -> bool {
        use crate::icl::link::SubmitError;

        match self.port.submit(
            io,
            to,
            Address::Node,
            message.kind(),
            Payload::copied(&[&message.encode()]),
        ) {
            Ok(()) | Err(SubmitError::NotMember) => true,
            Err(SubmitError::Full) => false,
        }
    }
}
