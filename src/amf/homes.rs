//! The homes of a node's lock slots: where its lock table meets the lock protocol between nodes.
//!
//! Owns what cores have asked for and what other nodes want of rows that are used here. The lock protocol ([`super::arbiter`]) knows what the node has; the
//! table ([`super::lock`]) says so for at most one row of each slot, which is what cores look at: a row that loses its slot to another one is still the node's, and
//! comes back without a message. Invariants: a word says no more than the protocol has granted; a row is quiet before it is given up; what a core asks for is got, or asked
//! for again, as long as it waits.
//!
//! One value serves all slots of a node, or those of one of its cores. Deliberately knows neither engines nor links: it is told by calls and asks by [`HomeAction`].

mod context;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use context::{CONTEXT_BYTES, Context, ContextError};

use super::RowIndex;
use super::arbiter::message::{Message, Terms};
use super::arbiter::{Action, Arbitration, Event, Prefetch, Resource, Want};
use super::arbiter::{Misbehaviour, Rule, Token};
use super::journal::JournalShared;
use super::lock::{Entry, Held, LockTable, Mode, WakeMask};
use crate::icl::{Epoch, Slot, SlotSet};

/// What the runtime does for the homes, in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HomeAction {
    /// Call [`super::engine::Engine::wake`] with this row on the engines of these cores.
    WakeCores {
        /// Bit `i` is core `i`.
        mask: u16,
        /// The row.
        row: RowIndex,
    },
    /// Call [`super::engine::Engine::recall`] with this row on the engine of this core: another node wants it.
    RecallCore {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// Send to a peer.
    Send {
        /// To whom.
        to: Slot,
        /// What.
        message: Message,
    },
    /// A member that is gone held this row for writing: it must be recovered before [`Homes::recovered`].
    NeedsRecovery {
        /// The row.
        row: RowIndex,
        /// Who held it.
        holder: Slot,
        /// The last write grant that is known.
        token: Token,
    },
    /// All arbiters of the epoch know what this node has and wants.
    Reported(Epoch),
    /// A peer breaks the rules: its session ends.
    Misbehaved {
        /// Who.
        peer: Slot,
        /// How.
        what: Misbehaviour,
    },
}

/// What a core has asked for: its slot is in its home's hands until it has that.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    row: RowIndex,
    mode: Mode,
    core: u16,
    /// It was refused for want of room, and is asked for again.
    is_refused: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Homes {
    local: Slot,
    members: SlotSet,
    table: Arc<LockTable>,
    journal: Arc<JournalShared>,
    /// What of the journal each other member of the epoch still needs.
    tails: BTreeMap<Slot, u64>,
    /// What was needed of the journal of each node that is gone, when it was heard last; until its lanes are over.
    left: BTreeMap<Slot, u64>,
    /// Nothing from here on is forgotten until the epoch's recovery is over, because somebody reads lanes.
    pinned: Option<u64>,
    arbitration: Arbitration,
    /// By slot.
    wanted: BTreeMap<u32, Wanted>,
    /// Rows that are to go when they are quiet, by slot, and what may be kept of each.
    recalled: BTreeMap<u32, (RowIndex, Terms)>,
    actions: Vec<Action>,
}

/// One lock a row: an engine keeps the slot of each row that it has dirty data of.
const fn row_of(resource: Resource) -> RowIndex {
    RowIndex(resource.0)
}

impl Homes {
    /// The homes of a shared table's slots, whose node is in no epoch yet. The journal is made for several nodes
    /// ([`JournalShared::among_nodes`]).
    pub fn new(
        local: Slot,
        table: Arc<LockTable>,
        journal: Arc<JournalShared>,
        arbitration: Arbitration,
    ) -> Self {
        Self {
            local,
            members: SlotSet::EMPTY,
            table,
            journal,
            tails: BTreeMap::new(),
            left: BTreeMap::new(),
            pinned: None,
            arbitration,
            wanted: BTreeMap::new(),
            recalled: BTreeMap::new(),
            actions: Vec::with_capacity(32),
        }
    }

    /// The protocol's state.
    pub const fn arbitration(&self) -> &Arbitration {
        &self.arbitration
    }

    /// Whether no core waits for a row that is not here, and no other node for one that is.
    pub fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.recalled.is_empty()
    }

    /// When [`Self::tick`] is due at the latest.
    pub fn wake_at_ns(&self) -> Option<u64> {
        self.arbitration.wake_at_ns()
    }

    /// A core's engine said [`super::engine::Action::WantRow`].
    pub fn want(&mut self, now_ns: u64, core: u16, row: RowIndex, mode: Mode, out: &mut Vec<HomeAction>) {
        let slot = self.table.slot(row);
        let wanted = Wanted {
            row,
            mode,
            core,
            is_refused: false,
        };
        let earlier = self.wanted.insert(slot, wanted);
        assert!(
            earlier.is_none(),
            "who asks has found the slot in its home's hands"
        );
        if let Some((recalled, terms)) = self.recalled.remove(&slot) {
            // The home is in on this core's account, which is as good as its own.
            self.keep(recalled, terms);
            self.quiesced(now_ns, recalled, out);
        }
        self.ask(now_ns, row, mode, out);
    }

    fn ask(&mut self, now_ns: u64, row: RowIndex, mode: Mode, out: &mut Vec<HomeAction>) {
        let want = Want {
            resource: Resource(row.0),
            mode,
            priority: 0,
            prefetch: Prefetch::NONE,
        };
        self.handle(now_ns, Event::Want(want), out);
    }

    /// The turn has come to the home of the row's slot: [`super::lock::HOME`] was among the cores to be woken.
    pub fn turn(&mut self, now_ns: u64, row: RowIndex, out: &mut Vec<HomeAction>) {
        let slot = self.table.slot(row);
        let (row, terms) = self
            .recalled
            .remove(&slot)
            .expect("it waits for its turn for a row that is to go");
        self.give_up(now_ns, slot, row, terms, out);
    }

    /// Time has passed: at least every few milliseconds.
    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<HomeAction>) {
        self.handle(now_ns, Event::Tick, out);
        let refused: Vec<u32> = self
            .wanted
            .iter_mut()
            .filter_map(|(slot, wanted)| std::mem::take(&mut wanted.is_refused).then_some(*slot))
            .collect();
        for slot in refused {
            if let Some(Wanted { row, mode, .. }) = self.wanted.get(&slot).copied() {
                self.ask(now_ns, row, mode, out);
            }
        }
    }

    /// What has to go along with each message to another node of the group, whatever it is about, as it is when the message leaves.
    pub fn context(&self) -> Context {
        // The tail first: numbers that are taken meanwhile are not below it.
        let tail = self.journal.own_tail();
        let next = self.journal.entered();
        Context {
            next,
            tail,
            members: self.table.known(),
        }
    }

    /// A message of a member came in, with this context; before anything is made of the message. True if this node's journal may forget more than before: then
    /// cores that wait for room are to be told ([`super::engine::Engine::tail_moved`]).
    pub fn learn(&mut self, from: Slot, context: &Context) -> bool {
        self.journal.raise(context.next);
        self.table.publish(context.members);
        let before = self.journal.tail();
        if let Some(tail) = self.tails.get_mut(&from) {
            *tail = context.tail.max(*tail);
        }
        self.set_elsewhere();
        self.journal.tail() > before
    }

    fn set_elsewhere(&self) {
        let bounds = self.tails.values().chain(self.left.values()).chain(&self.pinned);
        self.journal.set_elsewhere(bounds.min().copied());
    }

    /// A message about locks came in on the link, in this epoch, and its context was taken in.
    pub fn received(
        &mut self,
        now_ns: u64,
        from: Slot,
        epoch: Epoch,
        message: Message,
        out: &mut Vec<HomeAction>,
    ) {
        let event = Event::Message { from, epoch, message };
        self.handle(now_ns, event, out);
    }

    /// These members are not heard.
    pub fn suspect(&mut self, now_ns: u64, members: SlotSet, out: &mut Vec<HomeAction>) {
        self.handle(now_ns, Event::Suspect(members), out);
    }

    /// An epoch was decided; see [`Event::Enter`].
    pub fn enter(
        &mut self,
        now_ns: u64,
        epoch: Epoch,
        members: SlotSet,
        survivors: SlotSet,
        rule: Rule,
        out: &mut Vec<HomeAction>,
    ) {
        // Of a member that is new nothing is needed below what this node has used; of one that is gone everything is, until its lanes are over: its
        // bound stays, whatever a new life of it says.
        let start = self.journal.tail();
        self.pinned = Some(start);
        self.members = members;
        let tails = std::mem::take(&mut self.tails).into_iter();
        let (stay, gone): (Vec<_>, Vec<_>) = tails.partition(|(member, _)| survivors.contains(*member));
        self.tails.extend(stay);
        for (member, bound) in gone {
            let left = self.left.entry(member).or_insert(bound);
            *left = bound.min(*left);
        }
        for member in members.without(self.local).iter() {
            self.tails.entry(member).or_insert(start);
        }
        self.set_elsewhere();
        let event = Event::Enter {
            epoch,
            members,
            survivors,
            rule,
        };
        self.handle(now_ns, event, out);
    }

    /// What members that are gone have left undone is done, and entries below a number are over, durably and in all lanes. Numbers that were used for it were heard of
    /// before ([`JournalShared::raise`]), and so were the members that it was done with ([`LockTable::publish`]): one that was lost has none of it. Afterwards the journal
    /// may forget more, and cores that wait for room are to be told ([`super::engine::Engine::tail_moved`]).
    pub fn recovered(&mut self, now_ns: u64, epoch: Epoch, out: &mut Vec<HomeAction>) {
        if epoch == self.arbitration.epoch() {
            self.left.clear();
            self.pinned = None;
            self.set_elsewhere();
        }
        self.handle(now_ns, Event::Recovered(epoch), out);
    }

    /// A number below which all entries of all members' lanes are retired, as far as this node has heard; those of members that are gone do not count.
    /// Once this is not below the numbers that follow on what such members have left, entries below those may be said to be over. Before, an older entry of a living lane
    /// would come up again when a newer one of a lane that is over has gone.
    pub fn retired(&self) -> u64 {
        let tails = self.tails.values().copied();
        tails.fold(self.journal.own_tail(), u64::min)
    }

    /// The rows that this node has, for reading or writing, as far as the protocol knows. At the beginning of an epoch these are all that it has
    /// before what members that are gone have left undone is done; whoever does that leaves them alone.
    pub fn held_rows(&self) -> Vec<RowIndex> {
        self.arbitration.held().map(row_of).collect()
    }

    /// The same as [`Self::retired_by`], of all that are gone.
    pub fn retired_by_gone(&self) -> impl Iterator<Item = (Slot, u64)> {
        self.left.iter().map(|(slot, bound)| (*slot, *bound))
    }

    /// What a member that is gone, and whose lanes are not over, had retired of its journal when it was heard last: this node's tail stays at or below that.
    pub fn retired_by(&self, gone: Slot) -> Option<u64> {
        self.left.get(&gone).copied()
    }

    fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<HomeAction>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.arbitration.handle(now_ns, event, &mut actions);
        for action in actions.drain(..) {
            self.act(now_ns, action, out);
        }
        // Acting may have begun a list of its own.
        if self.actions.capacity() < actions.capacity() {
            self.actions = actions;
        }
    }

    fn act(&mut self, now_ns: u64, action: Action, out: &mut Vec<HomeAction>) {
        match action {
            Action::Send { to, message } => out.push(HomeAction::Send { to, message }),
            Action::Granted { resource, mode, .. } => self.granted(row_of(resource), mode, out),
            Action::Recall { resource, terms } => self.recall(now_ns, row_of(resource), terms, out),
            Action::Failed { resource, .. } => {
                let slot = self.table.slot(row_of(resource));
                let wanted = self.wanted.get_mut(&slot);
                if let Some(wanted) = wanted.filter(|wanted| wanted.row == row_of(resource)) {
                    wanted.is_refused = true;
                }
            }
            Action::NeedsRecovery {
                resource,
                holder,
                token,
            } => out.push(HomeAction::NeedsRecovery {
                row: row_of(resource),
                holder,
                token,
            }),
            Action::Reported(epoch) => out.push(HomeAction::Reported(epoch)),
            Action::Misbehaved { peer, what } => out.push(HomeAction::Misbehaved { peer, what }),
            Action::Settled { .. } | Action::Confirmed { .. } | Action::Reinstated { .. } => {
                unreachable!("dirty data is destaged and not handed over")
            }
        }
    }

    /// The node has a row: the core that waits for it is let in. If nobody waits any more it is the node's all the same.
    fn granted(&mut self, row: RowIndex, mode: Mode, out: &mut Vec<HomeAction>) {
        let slot = self.table.slot(row);
        if self.wanted.get(&slot).is_none_or(|wanted| wanted.row != row) {
            return;
        }
        let Some(Wanted { core, .. }) = self.wanted.remove(&slot) else {
            return;
        };
        if let Some((other, _)) = self.table.held(slot).filter(|(other, _)| *other != row) {
            self.table.set_held(other, Held::Nothing);
        }
        self.table.set_held(row, mode.into());
        // If it was got for less than is wanted, the core finds out and asks again.
        let wake = self.table.leave_home(slot, Some(core));
        wake_cores(wake, row, out);
    }

    /// Another node wants a row.
    fn recall(&mut self, now_ns: u64, row: RowIndex, terms: Terms, out: &mut Vec<HomeAction>) {
        let slot = self.table.slot(row);
        let is_used = self
            .table
            .held(slot)
            .is_some_and(|(used, held)| used == row && held > terms.keep);
        if !is_used || self.wanted.contains_key(&slot) {
            self.keep(row, terms);
            return self.quiesced(now_ns, row, out);
        }
        match self.table.enter_home(slot) {
            Entry::In => self.give_up(now_ns, slot, row, terms, out),
            // A core wants another row, or this one for more, and is about to say so.
            Entry::Called => drop(self.recalled.insert(slot, (row, terms))),
            Entry::Busy { recall } => {
                let earlier = self.recalled.insert(slot, (row, terms));
                assert!(earlier.is_none(), "a slot says one row, which is recalled once");
                if let Some(core) = recall {
                    out.push(HomeAction::RecallCore { core, row });
                }
            }
        }
    }

    /// The slot's home is in: the node keeps what the terms say of the row, and the home leaves. Only then the protocol hears of it, because it may
    /// want the home to come in again at once.
    fn give_up(&mut self, now_ns: u64, slot: u32, row: RowIndex, terms: Terms, out: &mut Vec<HomeAction>) {
        self.keep(row, terms);
        let wake = self.table.leave_home(slot, None);
        wake_cores(wake, row, out);
        self.quiesced(now_ns, row, out);
    }

    /// The word says no more than the terms. If the row has its slot, the slot's home is in.
    fn keep(&self, row: RowIndex, terms: Terms) {
        let has_slot = self.table.held(self.table.slot(row));
        if has_slot.is_some_and(|(used, held)| used == row && held > terms.keep) {
            self.table.set_held(row, terms.keep);
        }
    }

    fn quiesced(&mut self, now_ns: u64, row: RowIndex, out: &mut Vec<HomeAction>) {
        let quiesced = Event::Quiesced {
            resource: Resource(row.0),
            is_handed_over: false,
        };
        self.handle(now_ns, quiesced, out);
    }
}

fn wake_cores(wake: WakeMask, row: RowIndex, out: &mut Vec<HomeAction>) {
    if wake.0 != 0 {
        out.push(HomeAction::WakeCores { mask: wake.0, row });
    }
}
