//! What goes: recalls, what the layer below gives back, and dirty data that goes to the next writer.

use super::super::decide::Arbiter;
use super::super::event::{Action, Outbox};
use super::super::message::{HandOver, Message, Terms};
use super::super::name::{Number, Resource, Token};
use super::{Entry, Giving, Holder, Kept, NOTHING, Recall};
use crate::amf::lock::{Held, Mode};
use crate::icl::Slot;

impl Holder {
    /// The arbiter, `from`, asks for something back.
    pub(in crate::amf::arbiter) fn recall(
        &mut self,
        now_ns: u64,
        from: Slot,
        (resource, number): (Resource, Number),
        terms: Terms,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        match self.entries.get_mut(resource) {
            Some(Entry::Prefetching {
                number: asked,
                recalled,
            }) if *asked == number => *recalled = Some(terms),
            Some(Entry::Waiting(waiting)) if waiting.number == number => waiting.recalled = Some(terms),
            Some(Entry::Kept(held)) if held.number == number => {
                let hold = Held::from(held.mode);
                if held.recall != Recall::None {
                    return;
                }
                if terms.keep >= hold {
                    // Its report has told more than it has by now, or this was asked twice.
                    let released = Message::Released {
                        resource,
                        number,
                        kept: hold,
                        is_handed_over: false,
                    };
                    out.send(from, released);
                    return;
                }
                let at_ns = held.since_ns.saturating_add(self.hold_ns_min);
                if at_ns <= now_ns || held.is_prefetched {
                    self.tell(resource, terms, arbiter, out);
                } else {
                    held.recall = Recall::Due { at_ns, terms };
                    self.due.insert((at_ns, resource));
                }
            }
            Some(Entry::Giving(giving)) => {
                if giving.number == number {
                    giving.recalled = Some(terms);
                }
            }
            Some(Entry::Prefetching { .. } | Entry::Waiting(_) | Entry::Kept(_)) | None => {
                // It went before the recall came.
                out.counters.stale += 1;
                self.decline(from, resource, number, out);
            }
        }
    }

    /// Tells the layer below to finish with a resource that is held. What it does not know of goes at once.
    pub(super) fn tell(&mut self, resource: Resource, terms: Terms, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        let Some(Entry::Kept(held)) = self.entries.get_mut(resource) else {
            return;
        };
        if let Recall::Due { at_ns, .. } = held.recall {
            self.due.remove(&(at_ns, resource));
        }
        if held.is_prefetched {
            held.recall = Recall::Quiet {
                terms,
                is_handed_over: false,
            };
            self.release_if_quiet(resource, arbiter, out);
            return;
        }
        held.recall = Recall::Told(terms);
        out.counters.recalls += 1;
        out.push(Action::Recall { resource, terms });
    }

    /// Time has passed.
    pub(in crate::amf::arbiter) fn tick(&mut self, now_ns: u64, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        while let Some(&(at_ns, resource)) = self.due.first() {
            if at_ns > now_ns {
                break;
            }
            self.due.remove(&(at_ns, resource));
            if let Some(Entry::Kept(held)) = self.entries.get(resource)
                && let Recall::Due { terms, .. } = held.recall
            {
                self.tell(resource, terms, arbiter, out);
            }
        }
        if !self.queue.is_empty() && self.entries.is_full() {
            self.evict(arbiter, out);
        }
    }

    /// Asks the layer below for the next resource round the table that nobody has asked for.
    pub(super) fn evict(&mut self, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        let end = self.entries.end();
        for _ in 0..end {
            self.hand = (self.hand + 1) % end;
            let Some((resource, Entry::Kept(held))) = self.entries.at(self.hand) else {
                continue;
            };
            if held.recall == Recall::None {
                out.counters.evictions += 1;
                self.tell(resource, NOTHING, arbiter, out);
                return;
            }
        }
    }

    /// The layer below is done with what it was told to finish with.
    pub(in crate::amf::arbiter) fn quiesced(
        &mut self,
        resource: Resource,
        is_handed_over: bool,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        let Some(Entry::Kept(held)) = self.entries.get_mut(resource) else {
            return;
        };
        let Recall::Told(terms) = held.recall else {
            return;
        };
        assert!(
            !is_handed_over || (held.mode.is_write() && terms.next.is_some()),
            "dirty data goes to the next writer that the recall named"
        );
        held.recall = Recall::Quiet {
            terms,
            is_handed_over,
        };
        self.release_if_quiet(resource, arbiter, out);
    }

    /// Nobody uses it any more.
    pub(in crate::amf::arbiter) fn give_back(
        &mut self,
        resource: Resource,
        keep: Held,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        let Some(Entry::Kept(held)) = self.entries.get_mut(resource) else {
            return;
        };
        if keep >= held.mode.into() {
            return;
        }
        match &mut held.recall {
            Recall::None => {}
            // The arbiter asks again if this is not enough.
            Recall::Due { at_ns, .. } => {
                self.due.remove(&(*at_ns, resource));
            }
            Recall::Quiet { terms, .. } => {
                terms.keep = keep.min(terms.keep);
                return;
            }
            Recall::Told(_) => return,
        }
        held.recall = Recall::Quiet {
            terms: Terms { keep, next: None },
            is_handed_over: false,
        };
        self.release_if_quiet(resource, arbiter, out);
    }

    /// Gives back what is quiet, as soon as the giver of its dirty data knows that this was taken.
    pub(super) fn release_if_quiet(&mut self, resource: Resource, arbiter: &Arbiter, out: &mut Outbox<'_>) {
        let Some(Entry::Kept(held)) = self.entries.get(resource) else {
            return;
        };
        let held = *held;
        let Recall::Quiet {
            terms,
            is_handed_over,
        } = held.recall
        else {
            return;
        };
        if held.owes.is_some() {
            return;
        }
        let mut kept = Held::Nothing;
        if let Some(to) = terms.next.filter(|_| is_handed_over) {
            let giving = Giving {
                number: Number(0),
                given: held.number,
                token: held.token,
                to,
                recalled: None,
                then: held.then,
            };
            self.put(resource, Entry::Giving(giving));
        } else if terms.keep == Held::Read && held.mode.is_write() {
            kept = Held::Read;
            let reader = Kept {
                mode: Mode::Read,
                recall: Recall::None,
                ..held
            };
            self.put(resource, Entry::Kept(reader));
        } else if let Some(want) = held.then {
            // To ask again is to give back.
            self.ask(want, arbiter, out);
            return;
        } else {
            self.entries.remove(resource);
        }
        let released = Message::Released {
            resource,
            number: held.number,
            kept,
            is_handed_over,
        };
        out.send(arbiter.route(resource), released);
        if kept == Held::Read && held.then.is_some() {
            self.tell(resource, NOTHING, arbiter, out);
        }
    }

    /// The next writer says that it has the dirty data.
    pub(in crate::amf::arbiter) fn taken(
        &mut self,
        from: Slot,
        resource: Resource,
        token: Token,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        out.send(from, Message::Noted { resource, token });
        let Some(Entry::Giving(giving)) = self.entries.get(resource) else {
            return;
        };
        let giving = *giving;
        if giving.to != from || giving.token != token {
            return;
        }
        out.push(Action::Settled { resource, token });
        self.entries.remove(resource);
        if let Some(want) = giving.then {
            self.ask(want, arbiter, out);
        }
    }

    /// The last writer knows that its dirty data was taken.
    pub(in crate::amf::arbiter) fn noted(
        &mut self,
        from: Slot,
        resource: Resource,
        token: Token,
        arbiter: &Arbiter,
        out: &mut Outbox<'_>,
    ) {
        if let Some(Entry::Kept(held)) = self.entries.get_mut(resource)
            && held.owes == Some(HandOver { from, token })
        {
            held.owes = None;
            out.push(Action::Confirmed { resource });
            self.release_if_quiet(resource, arbiter, out);
        }
    }
}
