//! What comes: grants, prefetched ones, and the dirty data that some of them wait for.

use super::super::decide::Arbiter;
use super::super::event::{Action, Outbox, Want};
use super::super::message::{Grant, HandOver, Message};
use super::super::name::{Number, Resource, Token};
use super::{Entry, Giving, Holder, Kept, NOTHING, Recall, Waiting};
use crate::amf::lock::{Held, Mode};
use crate::icl::Slot;

impl Holder {
    /// Whether a grant answers what this node has asked for.
    pub(in crate::amf::arbiter) fn expects(&self, resource: Resource, number: Number) -> bool {
        match self.entries.get(resource) {
            Some(Entry::Prefetching { number: asked, .. }) => *asked == number,
            Some(Entry::Waiting(waiting)) => waiting.number == number,
            Some(Entry::Kept(_) | Entry::Giving(_)) | None => false,
        }
    }

    /// A lock comes from its arbiter, `from`.
    pub(in crate::amf::arbiter) fn granted(
        &mut self,
        now_ns: u64,
        from: Slot,
        grant: &Grant,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        let Grant { resource, number, .. } = *grant;
        match self.entries.get_mut(resource) {
            Some(Entry::Waiting(waiting)) if waiting.number == number => {
                let asked = waiting.want.prefetch;
                waiting.grant = Some(*grant);
                for (bit, further) in asked.resources(resource) {
                    self.prefetched(now_ns, further, grant, grant.prefetch.covers(bit), arbiter, out);
                }
                self.complete(now_ns, resource, arbiter, out);
            }
            Some(Entry::Giving(giving)) if giving.number == number => {
                let Giving {
                    token,
                    recalled,
                    then,
                    ..
                } = *giving;
                let held = Kept {
                    number,
                    mode: Mode::Write,
                    token,
                    since_ns: now_ns,
                    recall: Recall::None,
                    is_prefetched: false,
                    owes: None,
                    is_secured: false,
                    then: None,
                };
                self.put(resource, Entry::Kept(held));
                reinstated(resource, token, then, out);
                if let Some(terms) = recalled {
                    self.tell(resource, terms, arbiter, out);
                }
            }
            Some(Entry::Kept(held)) if held.number == number => out.counters.stale += 1,
            Some(Entry::Giving(giving)) if giving.given == number => out.counters.stale += 1,
            Some(Entry::Prefetching { .. } | Entry::Waiting(_) | Entry::Kept(_) | Entry::Giving(_))
            | None => {
                out.counters.stale += 1;
                self.decline(from, resource, number, out);
                for (_, further) in grant.prefetch.resources(resource) {
                    let is_held =
                        matches!(self.entries.get(further), Some(Entry::Kept(held)) if held.number == number);
                    if !is_held {
                        self.decline(from, further, number, out);
                    }
                }
            }
        }
    }

    /// Gives back at once what this node did not ask for, or does not hold.
    pub(super) fn decline(&self, to: Slot, resource: Resource, number: Number, out: &mut Outbox<'_>) {
        let released = Message::Released {
            resource,
            number,
            kept: Held::Nothing,
            is_handed_over: false,
        };
        out.send(to, released);
    }

    /// What became of one further resource of a request.
    pub(super) fn prefetched(
        &mut self,
        now_ns: u64,
        resource: Resource,
        grant: &Grant,
        is_granted: bool,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        let Grant {
            number, mode, token, ..
        } = *grant;
        let recalled = match self.entries.get(resource) {
            Some(Entry::Prefetching {
                number: asked,
                recalled,
            }) if *asked == number => *recalled,
            // It was asked for by itself since then; by that the arbiter knows that this grant is not used.
            Some(Entry::Prefetching { .. } | Entry::Waiting(_) | Entry::Kept(_) | Entry::Giving(_))
            | None => return,
        };
        if !is_granted {
            self.entries.remove(resource);
            return;
        }
        out.counters.prefetched += 1;
        let held = Kept {
            number,
            mode,
            token,
            since_ns: now_ns,
            recall: Recall::None,
            is_prefetched: true,
            owes: None,
            is_secured: false,
            then: None,
        };
        self.put(resource, Entry::Kept(held));
        if let Some(terms) = recalled {
            self.tell(resource, terms, arbiter, out);
        }
    }

    /// Lets users in, if everything that makes the grant valid is here.
    pub(super) fn complete(
        &mut self,
        now_ns: u64,
        resource: Resource,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        let Some(Entry::Waiting(waiting)) = self.entries.get(resource) else {
            return;
        };
        let Waiting {
            number,
            recalled,
            data,
            then,
            ..
        } = *waiting;
        let Some(grant) = waiting.grant else { return };
        if grant.hand_over.is_some() && grant.hand_over != data {
            return;
        }
        let Grant {
            mode,
            token,
            hand_over,
            when_done,
            ..
        } = grant;
        let held = Kept {
            number,
            mode,
            token,
            since_ns: now_ns,
            recall: Recall::None,
            is_prefetched: false,
            owes: hand_over,
            is_secured: false,
            then: None,
        };
        self.put(resource, Entry::Kept(held));
        out.counters.grants += 1;
        out.push(Action::Granted {
            resource,
            mode,
            token,
            hand_over,
        });
        out.counters.hand_overs += u64::from(hand_over.is_some());
        let upgrade = then.filter(|want| !Held::from(mode).covers(want.mode));
        if let Some(Entry::Kept(held)) = self.entries.get_mut(resource) {
            held.then = upgrade;
        }
        out.counters.releases_when_done += u64::from(when_done.is_some());
        // Users that wait are let in by the grant before they hear of this: one operation at least (PROTOCOL H15).
        if let Some(terms) = when_done.or(recalled).or(upgrade.map(|_| NOTHING)) {
            self.tell(resource, terms, arbiter, out);
        }
    }

    /// Dirty data of the last writer has come.
    pub(in crate::amf::arbiter) fn data_came(
        &mut self,
        now_ns: u64,
        resource: Resource,
        hand_over: HandOver,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        if let Some(Entry::Waiting(waiting)) = self.entries.get_mut(resource) {
            let newest = waiting.data.is_none_or(|data| data.token <= hand_over.token);
            if newest {
                waiting.data = Some(hand_over);
            }
            self.complete(now_ns, resource, arbiter, out);
        }
    }

    /// The dirty data that came with a grant is durable here: the giver is told.
    pub(in crate::amf::arbiter) fn secured(&mut self, resource: Resource, out: &mut Outbox<'_>) {
        if let Some(Entry::Kept(held)) = self.entries.get_mut(resource)
            && let Some(HandOver { from, token }) = held.owes
            && !held.is_secured
        {
            held.is_secured = true;
            out.send(from, Message::Taken { resource, token });
        }
    }
}

/// Dirty data that was handed over is this node's again, and the resource with it; whoever has asked for that meanwhile is told.
pub(super) fn reinstated(resource: Resource, token: Token, then: Option<Want>, out: &mut Outbox<'_>) {
    out.push(Action::Reinstated { resource, token });
    if then.is_some() {
        out.push(Action::Granted {
            resource,
            mode: Mode::Write,
            token,
            hand_over: None,
        });
    }
}
