//! Telling the arbiters of a new epoch what this node has and wants: batch by batch, to all members at once.
//!
//! A batch follows when the one before was taken, so that neither a queue overflows nor an order of messages is relied on. Nobody keeps a copy: each batch is read
//! from the holder's table as it is then, and what was asked for since the epoch began was sent to its arbiter by itself.

use super::decide::Arbiter;
use super::event::{Action, Outbox};
use super::holder::Holder;
use super::message::{CLAIMS_MAX, Message};
use crate::icl::{SLOTS, Slot, SlotSet};

/// How far the report to one member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Progress {
    /// The batch that is under way.
    batch: u32,
    /// Where in the holder's table the next one begins.
    index: usize,
    /// The one under way is the last.
    is_last: bool,
}

/// See the module.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Reporter {
    progress: [Progress; SLOTS],
    /// Members that do not know everything yet.
    pending: SlotSet,
}

impl Reporter {
    /// An epoch begins.
    pub(super) fn enter(
        &mut self,
        members: SlotSet,
        holder: &Holder,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        self.progress = [Progress::default(); SLOTS];
        self.pending = members;
        for member in members.iter() {
            self.send(member, holder, arbiter, out);
        }
    }

    /// A member has taken a batch.
    pub(super) fn taken(
        &mut self,
        member: Slot,
        batch: u32,
        holder: &Holder,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        let progress = &mut self.progress[member.index()];
        if !self.pending.contains(member) || progress.batch != batch {
            out.counters.stale += 1;
            return;
        }
        if progress.is_last {
            self.pending = self.pending.without(member);
            if self.pending.is_empty() {
                out.push(Action::Reported(arbiter.epoch()));
            }
            return;
        }
        progress.batch += 1;
        self.send(member, holder, arbiter, out);
    }

    fn send(&mut self, member: Slot, holder: &Holder, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        let progress = &mut self.progress[member.index()];
        let mut claims = Vec::new();
        while progress.index < holder.end() && claims.len() < CLAIMS_MAX {
            let claim = holder.claim(progress.index);
            claims.extend(claim.filter(|claim| arbiter.home(claim.resource) == member));
            progress.index += 1;
        }
        progress.is_last = progress.index >= holder.end();
        let report = Message::Report {
            batch: progress.batch,
            is_last: progress.is_last,
            claims,
        };
        out.send(member, report);
    }
}
