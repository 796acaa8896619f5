//! What the arbiter of one resource knows: who holds it, who waits, and who is to have its dirty data.
//!
//! Owns the rules of granting. Invariants: one writer, and no reader beside it (I1); a holder that stands in the way of the first in the
//! queue has been asked for the resource, once; what was granted with others behind it is not asked for at all, because the grant said so.

use super::message::{ClaimKind, Grant, HandOver, Terms, Waiter};
use super::name::{Number, Prefetch, Token};
use super::queue::{Queue, QueueOrder, Waiting};
use crate::amf::lock::{Held, Mode};
use crate::icl::{SLOTS, Slot, SlotSet};

/// Where the arbitership of a resource is, seen from a node that may have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SeatState {
    /// Here.
    #[default]
    Here,
    /// At the other node, or on its way.
    Away {
        /// Which one.
        at: Slot,
    },
}

/// A lock that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    /// Under which number.
    pub number: Number,
    /// For what.
    pub mode: Mode,
    /// It will come back without more words: it was asked for, or granted until done.
    is_recalled: bool,
}

/// What follows from a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Somebody gets it.
    Grant {
        /// Who, and what.
        waiting: Waiting,
        /// Under which terms it has to come back unasked.
        when_done: Option<Terms>,
        /// Dirty data that is on its way to it.
        hand_over: Option<HandOver>,
    },
    /// Somebody is to give it back.
    Recall {
        /// Who.
        slot: Slot,
        /// Its grant.
        number: Number,
        /// What of it.
        terms: Terms,
    },
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Docket {
    /// Where the arbitership is.
    pub seat: SeatState,
    /// The last write grant that is known.
    pub token: Token,
    /// While locks are reported: who has handed its dirty data over, under which number and token.
    pub gives: Option<(Slot, Number, Token)>,
    holdings: [Option<Holding>; SLOTS],
    queue: Queue,
    /// Dirty data that goes with the next write grant.
    hand_over: Option<HandOver>,
    /// The last writer knows the first in the queue as the one that its dirty data goes to.
    is_pinned: bool,
}

impl Docket {
    /// Whether nobody holds or wants it.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.holdings.iter().all(Option::is_none) && self.gives.is_none()
    }

    /// What a node holds.
    pub const fn holding(&self, slot: Slot) -> Option<Holding> {
        self.holdings[slot.index()]
    }

    /// Who holds it.
    pub fn holders(&self) -> SlotSet {
        Slot::all().filter(|slot| self.holding(*slot).is_some()).collect()
    }

    /// Who holds it for writing.
    pub fn writer(&self) -> Option<Slot> {
        Slot::all().find(|slot| self.holding(*slot).is_some_and(|holding| holding.mode.is_write()))
    }

    /// Who waits, in order.
    pub const fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Takes a request; false if it is an old one, which is without effect.
    ///
    /// Whoever asks holds nothing more (PROTOCOL H14). A newer request of a node replaces an older one.
    pub fn request(&mut self, waiting: Waiting, order: QueueOrder) -> bool {
        let slot = waiting.slot;
        let held = self.holding(slot).map(|holding| holding.number);
        if held.max(self.queue.number_of(slot)) >= Some(waiting.waiter.number) {
            return false;
        }
        self.holdings[slot.index()] = None;
        let was_first = self.queue.first().is_some_and(|first| first.slot == slot);
        self.queue.remove(slot);
        self.is_pinned &= !was_first;
        self.queue.insert(waiting, order, self.is_pinned);
        true
    }

    /// A node gives back what it was granted under a number, all but `kept`; false if it does not hold that.
    pub fn released(&mut self, slot: Slot, number: Number, kept: Held, is_handed_over: bool) -> bool {
        let Some(holding) = &mut self.holdings[slot.index()] else {
            return false;
        };
        if holding.number != number {
            return false;
        }
        if is_handed_over && holding.mode.is_write() && self.is_pinned {
            self.hand_over = Some(HandOver {
                from: slot,
                token: self.token,
            });
        }
        match kept {
            Held::Nothing => self.holdings[slot.index()] = None,
            Held::Read => {
                holding.mode = Mode::Read;
                holding.is_recalled = false;
            }
            Held::Write => {}
        }
        true
    }

    /// Notes a lock that was granted outside of the queue: a prefetch, or what came with a moved arbitership.
    ///
    /// Panics if it cannot be granted beside what is held.
    pub fn hold(&mut self, slot: Slot, number: Number, mode: Mode, is_recalled: bool) {
        assert!(self.admits(mode), "a lock is granted to one writer or to readers");
        self.holdings[slot.index()] = Some(Holding {
            number,
            mode,
            is_recalled,
        });
    }

    /// Takes what a node says that it has of the resource when an epoch begins; false if that contradicts what others have said.
    pub fn claim(
        &mut self,
        slot: Slot,
        kind: ClaimKind,
        waiter: Waiter,
        token: Token,
        order: QueueOrder,
    ) -> bool {
        match kind {
            ClaimKind::Wants(_) => {
                self.request(Waiting::new(slot, waiter, Prefetch::NONE), order);
                true
            }
            ClaimKind::Gives => {
                // Of two, the older one was taken by the newer one, which will say so.
                if self.gives.is_none_or(|(_, _, other)| other < token) {
                    self.gives = Some((slot, waiter.number, token));
                }
                true
            }
            ClaimKind::Holds(mode) => {
                let asks_again = self.queue.number_of(slot) > Some(waiter.number);
                if asks_again {
                    return true;
                }
                if self.holding(slot).is_some() || !self.admits(mode) {
                    return false;
                }
                self.token = self.token.max(token);
                self.hold(slot, waiter.number, mode, false);
                true
            }
        }
    }

    /// Grants what can be granted, and asks back what stands in the way of the next; `frozen` nodes get nothing.
    ///
    /// `next_token` makes the token of a write grant. Readers are granted together as long as they are first in the queue (B7).
    pub fn serve(
        &mut self,
        frozen: SlotSet,
        mut next_token: impl FnMut(Token) -> Token,
        out: &mut Vec<Verdict>,
    ) {
        let begin = out.len();
        while let Some(first) = self.queue.first().copied() {
            let mode = first.waiter.mode;
            if frozen.contains(first.slot) || !self.admits(mode) {
                break;
            }
            self.queue.take_first();
            self.is_pinned = false;
            let hand_over = self.hand_over.take();
            if mode.is_write() {
                self.token = next_token(self.token);
            }
            self.hold(first.slot, first.waiter.number, mode, false);
            out.push(Verdict::Grant {
                waiting: first,
                when_done: None,
                hand_over,
            });
        }
        let Some(first) = self.queue.first().copied() else {
            return;
        };
        if frozen.contains(first.slot) {
            return;
        }
        // From the last slot down, as Figure 20 has it (1446, 1448).
        for slot in (0..8).rev().filter_map(Slot::new) {
            self.ask_back(slot, &first, begin, out);
        }
    }

    /// Asks one holder for what the first in the queue needs, or has told it already with its grant.
    fn ask_back(&mut self, slot: Slot, first: &Waiting, begin: usize, out: &mut Vec<Verdict>) {
        let wants_write = first.waiter.mode.is_write();
        let writer_waits = self.queue.iter().any(|waiting| waiting.waiter.mode.is_write());
        let Some(holding) = &mut self.holdings[slot.index()] else {
            return;
        };
        if holding.is_recalled || !(wants_write || holding.mode.is_write()) {
            return;
        }
        holding.is_recalled = true;
        let keep = if writer_waits { Held::Nothing } else { Held::Read };
        let passes_data = first.waiter.takes && wants_write && holding.mode.is_write();
        self.is_pinned |= passes_data;
        let terms = Terms {
            keep,
            next: passes_data.then_some(first.slot),
        };
        let number = holding.number;
        let granted_now = out[begin..].iter_mut().find_map(|verdict| match verdict {
            Verdict::Grant {
                waiting, when_done, ..
            } if waiting.slot == slot => Some(when_done),
            Verdict::Grant { .. } | Verdict::Recall { .. } => None,
        });
        match granted_now {
            Some(when_done) => *when_done = Some(terms),
            None => out.push(Verdict::Recall { slot, number, terms }),
        }
    }

    /// Asks everyone for everything, to make room: only if nobody has been asked and nobody waits.
    pub fn reclaim(&mut self, out: &mut Vec<Verdict>) -> bool {
        let is_asked = self.holdings.iter().flatten().any(|holding| holding.is_recalled);
        if is_asked || !self.queue.is_empty() || self.holders().is_empty() {
            return false;
        }
        for (slot, holding) in Slot::all().zip(&mut self.holdings) {
            if let Some(holding) = holding {
                holding.is_recalled = true;
                out.push(Verdict::Recall {
                    slot,
                    number: holding.number,
                    terms: Terms {
                        keep: Held::Nothing,
                        next: None,
                    },
                });
            }
        }
        true
    }

    /// Moves the arbitership to a node that was just granted the resource for writing; what waits goes with it.
    pub fn move_seat(&mut self, slot: Slot) -> Option<Waiter> {
        let waiting = self.queue.take_first();
        assert!(self.queue.is_empty(), "two nodes share what moves");
        self.holdings = [None; SLOTS];
        self.hand_over = None;
        self.is_pinned = false;
        self.seat = SeatState::Away { at: slot };
        waiting.map(|waiting| waiting.waiter)
    }

    /// The arbitership comes with a write grant to this node, `local`, and with what the former arbiter `from` waits for.
    pub fn take_seat(&mut self, local: Slot, grant: &Grant, from: Slot, order: QueueOrder) {
        self.seat = SeatState::Here;
        self.token = self.token.max(grant.token);
        self.hold(local, grant.number, Mode::Write, grant.when_done.is_some());
        if let Some(waiter) = grant.seat.and_then(|seat| seat.waiting) {
            self.request(Waiting::new(from, waiter, Prefetch::NONE), order);
        }
        self.is_pinned = grant.when_done.is_some_and(|terms| terms.next.is_some());
    }

    fn admits(&self, mode: Mode) -> bool {
        let mut held = self.holdings.iter().flatten();
        held.all(|holding| !mode.is_write() && !holding.mode.is_write())
    }
}
