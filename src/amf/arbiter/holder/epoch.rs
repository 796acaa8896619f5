//! What becomes of all entries when an epoch begins, and what is reported of them.

use super::super::decide::Arbiter;
use super::super::event::{Action, Outbox, Want};
use super::super::message::{Claim, ClaimKind, HandOver, Message, Terms};
use super::super::name::{Number, Prefetch, Resource, Token};
use super::grant::reinstated;
use super::{Entry, Giving, Holder, Kept, Recall};
use crate::icl::SlotSet;

impl Holder {
    /// An epoch begins: what is held stays held, what is wanted stays wanted, and what was on its way is not.
    pub(in crate::amf::arbiter) fn enter(
        &mut self,
        survivors: SlotSet,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        self.due.clear();
        for index in 0..self.entries.end() {
            let number = Number(self.last_number + 1);
            let Some((resource, entry)) = self.entries.at_mut(index) else {
                continue;
            };
            match entry {
                Entry::Prefetching { .. } => {
                    self.entries.remove(resource);
                }
                Entry::Waiting(waiting) => {
                    (waiting.want.prefetch, waiting.want.takes) = (Prefetch::NONE, false);
                    (waiting.recalled, waiting.data, waiting.grant) = (None, None, None);
                }
                Entry::Kept(held) => {
                    enter_held(resource, held, survivors, out);
                    self.release_if_quiet(resource, arbiter, out);
                }
                Entry::Giving(giving) => {
                    (giving.number, giving.recalled) = (number, None);
                    self.last_number = number.0;
                    let Giving { to, token, then, .. } = *giving;
                    if !survivors.contains(to) {
                        self.void(resource, number, then);
                        out.push(Action::Voided { resource, token });
                        out.push(Action::NeedsRecovery {
                            resource,
                            holder: to,
                            token,
                        });
                    }
                }
            }
        }
        self.first_number = Number(self.last_number + 1);
    }

    /// What is to be said in reports of the entry at an index.
    pub(in crate::amf::arbiter) fn claim(&self, index: usize) -> Option<Claim> {
        let (resource, entry) = self.entries.at(index)?;
        let (kind, number, token, priority) = match entry {
            Entry::Prefetching { .. } => return None,
            Entry::Waiting(waiting) => {
                let Want { mode, priority, .. } = waiting.want;
                (ClaimKind::Wants(mode), waiting.number, Token::default(), priority)
            }
            Entry::Kept(held) => (ClaimKind::Holds(held.mode), held.number, held.token, 0),
            Entry::Giving(giving) => (ClaimKind::Gives, giving.number, giving.token, 0),
        };
        let claim = Claim {
            resource,
            kind,
            number,
            token,
            priority,
        };
        (number < self.first_number).then_some(claim)
    }
}

/// What becomes of a lock that is held when an epoch begins: new arbiters ask for it by themselves.
fn enter_held(resource: Resource, held: &mut Kept, survivors: SlotSet, out: &mut Outbox<'_>) {
    match held.owes {
        Some(HandOver { from, token }) if survivors.contains(from) && held.is_secured => {
            out.send(from, Message::Taken { resource, token });
        }
        Some(HandOver { from, .. }) if survivors.contains(from) => {}
        Some(_) => {
            held.owes = None;
            out.push(Action::Confirmed { resource });
        }
        None => {}
    }
    match held.recall {
        Recall::None
        | Recall::Quiet {
            is_handed_over: false,
            ..
        } => {}
        Recall::Quiet {
            is_handed_over: true, ..
        } => {
            // The arbiter was never told, and the next writer may be gone.
            held.recall = Recall::None;
            reinstated(resource, held.token, held.then.take(), out);
        }
        Recall::Due { .. } => held.recall = Recall::None,
        // Its next writer may be gone, and the new arbiter has named none.
        Recall::Told(terms) => held.recall = Recall::Told(Terms { next: None, ..terms }),
    }
}
