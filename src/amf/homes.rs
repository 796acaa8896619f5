//! The homes of a node's lock slots: where its lock table meets the lock protocol between nodes.
//!
//! Owns what cores have asked for and what other nodes want of rows that are used here. The lock protocol ([`super::arbiter`]) knows what the node has; the
//! table ([`super::lock`]) says so for at most one row of each slot, which is what cores look at: a row that loses its slot to another one is still the node's, and
//! comes back without a message. Invariants: a word says no more than the protocol has granted; a row is quiet before it is given up; what a core asks for is got, or asked
//! for again, as long as it waits.
//!
//! Where the next writer takes it, dirty data of a row goes with the lock; `hands` has that part. Invariant there: a row whose newest data is not on the drives is seen by
//! no core before the one that lays the data in, and data is with a core, with a home that will bring it to one, or with a node that has it durable.
//!
//! One value serves all slots of a node, or those of one of its cores. Deliberately knows neither engines nor links: it is told by calls and asks by [`HomeAction`].

mod context;
mod hands;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use context::{CONTEXT_BYTES, Context, ContextError};

use super::RowIndex;
use super::arbiter::message::{HandOver, Message, Terms};
use super::arbiter::{Action, Arbitration, Event, Prefetch, Resource, Want};
use super::arbiter::{Misbehaviour, Rule, Token};
use super::hand_over::HandedOver;
use super::journal::JournalShared;
use super::lock::{Entry, Held, LockTable, Mode, WakeMask};
use crate::icl::{Epoch, Slot, SlotSet};
use hands::{Bringing, Hands};

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
        /// The node that wants it writes next and takes dirty data: this may be laid out for it ([`Homes::given`]) instead of being destaged. A core that was told so may
        /// be told once more without.
        gives: bool,
    },
    /// A want that takes dirty data is over, and none comes: the core is woken as ever when its turn has come, or has been already, and then holds the row or
    /// asks again. Each such want has this for an answer or [`Self::Adopt`].
    Answer {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// The other answer: the core is the writer inside of the row, whether or not it still waits for that. It lays the data in, has it in its journal under numbers that it takes
    /// now before anybody else sees the row, and says when that is durable ([`Homes::secured`]).
    Adopt {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
        /// Its dirty data.
        data: Arc<HandedOver>,
    },
    /// What this core has given comes back, and it is the writer inside of the row: its data and the entries of its journal are as if it had never left. Others may want the row:
    /// that is told as ever.
    Restore {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// What this core has given is durable elsewhere: it and its entries are not needed any more.
    Settle {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// Who was to have what this core has given is gone. The data is not the core's own any more and does not come back, and nobody holds the row; its entries have to stay in the
    /// journal until [`Self::Forget`].
    Void {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// What journals have of this row, which is [`Self::Void`], is in its place: the core's entries are not needed any more, and whoever recovers waits for them to be retired.
    Forget {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// Send dirty data to the next writer, before what follows.
    SendData {
        /// To whom.
        to: Slot,
        /// The row.
        row: RowIndex,
        /// Of which grant it is.
        token: Token,
        /// The data.
        data: HandedOver,
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
    /// It takes dirty data, and has to be answered.
    takes: bool,
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
    hands: Hands,
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
            hands: Hands::default(),
            actions: Vec::with_capacity(32),
        }
    }

    /// The protocol's state.
    pub const fn arbitration(&self) -> &Arbitration {
        &self.arbitration
    }

    /// Whether no core waits for a row that is not here, and no other node for one that is.
    pub fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.recalled.is_empty() && self.hands.is_idle()
    }

    /// When [`Self::tick`] is due at the latest.
    pub fn wake_at_ns(&self) -> Option<u64> {
        self.arbitration.wake_at_ns()
    }

    /// A core's engine said [`super::engine::Action::WantRow`]. One that takes dirty data is answered by [`HomeAction::Answer`] or [`HomeAction::Adopt`].
    pub fn want(
        &mut self,
        now_ns: u64,
        core: u16,
        row: RowIndex,
        mode: Mode,
        takes: bool,
        out: &mut Vec<HomeAction>,
    ) {
        let slot = self.table.slot(row);
        let wanted = Wanted {
            row,
            mode,
            core,
            takes,
            is_refused: false,
        };
        let earlier = self.wanted.insert(slot, wanted);
        assert!(
            earlier.is_none(),
            "who asks has found the slot in its home's hands"
        );
        if let Some((recalled, terms)) = self.recalled.remove(&slot) {
            assert!(
                !self.hands.has_given(slot),
                "who gives leaves the row to the home"
            );
            // The home is in on this core's account, which is as good as its own.
            self.keep(recalled, terms);
            self.quiesced(now_ns, recalled, false, out);
        }
        if !self.wanted.contains_key(&slot) {
            // It has left this want for something else meanwhile.
            return self.ask(now_ns, wanted, out);
        }
        if self.hands.is_bringing(slot) {
            // Who waits for what this slot's home brings may hold what is wanted here. It is not asked for yet: the core is named, and asks again.
            self.wanted.remove(&slot);
            if takes {
                out.push(HomeAction::Answer { core, row });
            }
            return self.bring(now_ns, slot, out);
        }
        let parted = takes.then(|| self.hands.parted_by(row)).flatten();
        out.extend(parted.map(|core| HomeAction::Answer { core, row }));
        self.ask(now_ns, wanted, out);
    }

    fn ask(&mut self, now_ns: u64, wanted: Wanted, out: &mut Vec<HomeAction>) {
        let Wanted { row, mode, takes, .. } = wanted;
        let want = Want {
            resource: Resource(row.0),
            mode,
            priority: 0,
            prefetch: Prefetch::NONE,
            takes: takes && mode.is_write(),
        };
        self.handle(now_ns, Event::Want(want), out);
    }

    /// The turn has come to the home of the row's slot: [`super::lock::HOME`] was among the cores to be woken.
    pub fn turn(&mut self, now_ns: u64, row: RowIndex, out: &mut Vec<HomeAction>) {
        let slot = self.table.slot(row);
        if self.hand_over(now_ns, slot, out) {
            return;
        }
        match self.recalled.remove(&slot) {
            Some((row, terms)) => self.give_up(now_ns, slot, row, terms, out),
            None => self.bring(now_ns, slot, out),
        }
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
            if let Some(wanted) = self.wanted.get(&slot).copied() {
                self.ask(now_ns, wanted, out);
            }
        }
    }

    /// What has to go along with each message to another node of the group, whatever it is about, as it is when the message leaves.
    pub fn context(&self) -> Context {
        // The tail first: numbers that are taken meanwhile are not below it.
        let tail = self.own_tail();
        let next = self.journal.entered();
        Context {
            next,
            tail,
            members: self.table.known(),
        }
    }

    /// Below which all entries of this node are retired, as far as others may know. While only the giver has something durable that was taken here, this stays at what the tail of all
    /// nodes was before. That is below all numbers below which entries are said to be over if the giver is lost, so nothing of it is over before it is durable here; and a node
    /// that never heard the giver hears here from where on its entries are needed, if both are lost.
    pub fn own_tail(&self) -> u64 {
        let tail = self.journal.own_tail();
        self.hands.frozen().map_or(tail, |frozen| frozen.min(tail))
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
        for (_, terms) in self.recalled.values_mut() {
            terms.next = None;
        }
        self.hands.enter();
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
            self.replayed(out);
        }
        self.handle(now_ns, Event::Recovered(epoch), out);
    }

    /// A number below which all entries of all members' lanes are retired, as far as this node has heard; those of members that are gone do not count.
    /// Once this is not below the numbers that follow on what such members have left, entries below those may be said to be over. Before, an older entry of a living lane
    /// would come up again when a newer one of a lane that is over has gone.
    pub fn retired(&self) -> u64 {
        let tails = self.tails.values().copied();
        tails.fold(self.own_tail(), u64::min)
    }

    /// The rows that this node has, for reading or writing, as far as the protocol knows, and those that it has given to nodes that live: whoever of the two has the data goes on
    /// with it. At the beginning of an epoch these are all that it has
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
            Action::Granted {
                resource,
                mode,
                hand_over,
                ..
            } => self.granted(now_ns, (row_of(resource), mode), hand_over, out),
            Action::Recall { resource, terms } => self.recall(now_ns, row_of(resource), terms, out),
            Action::Failed { resource, .. } => self.failed(row_of(resource), out),
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
            Action::Settled { resource, .. } => self.settled(row_of(resource), out),
            Action::Voided { resource, .. } => self.voided(row_of(resource), out),
            Action::Reinstated { resource, .. } => self.reinstated(now_ns, row_of(resource), out),
            // The journal stays as long as the giver's tail, which says the same.
            Action::Confirmed { .. } => {}
        }
    }

    /// There is no room for a want now.
    fn failed(&mut self, row: RowIndex, out: &mut Vec<HomeAction>) {
        if let Some(core) = self.hands.parted_by(row) {
            out.push(HomeAction::Answer { core, row });
        }
        let wanted = self.wanted.get_mut(&self.table.slot(row));
        if let Some(wanted) = wanted.filter(|wanted| wanted.row == row) {
            wanted.is_refused = true;
        }
    }

    /// The node has a row: the core that waits for it is let in. If nobody waits any more it is the node's all the same.
    fn granted(
        &mut self,
        now_ns: u64,
        (row, mode): (RowIndex, Mode),
        hand_over: Option<HandOver>,
        out: &mut Vec<HomeAction>,
    ) {
        let coming = self.hands.came(row, hand_over);
        let slot = self.table.slot(row);
        let parted = self.hands.parted_by(row);
        let is_wanted = self.wanted.get(&slot).is_some_and(|wanted| wanted.row == row);
        let wanted = is_wanted.then(|| self.wanted.remove(&slot)).flatten();
        if let Some(data) = coming {
            let taker = wanted.filter(|wanted| wanted.takes).map(|wanted| wanted.core);
            let core = parted.or(taker).expect("data is taken for a want that takes");
            let bringing = Bringing::new(row, core, Some(data));
            return self.bring_or_call(now_ns, bringing, wanted.is_some(), out);
        }
        if let Some(core) = parted {
            out.push(HomeAction::Answer { core, row });
        }
        let Some(Wanted { core, takes, .. }) = wanted else {
            return;
        };
        if takes {
            out.push(HomeAction::Answer { core, row });
        }
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
        if self.hands.recall(slot, row, terms) {
            return; // It comes to a core first, which has its newest data then.
        }
        let is_used = self
            .table
            .held(slot)
            .is_some_and(|(used, held)| used == row && held > terms.keep);
        if !is_used || self.wanted.contains_key(&slot) {
            self.keep(row, terms);
            return self.quiesced(now_ns, row, false, out);
        }
        match self.table.enter_home(slot) {
            Entry::In => self.give_up(now_ns, slot, row, terms, out),
            // A core wants another row, or this one for more, and is about to say so; or the home is about to be told that its turn has come.
            Entry::Called => drop(self.recalled.insert(slot, (row, terms))),
            Entry::Busy { recall } => {
                let earlier = self.recalled.insert(slot, (row, terms));
                assert!(earlier.is_none(), "a slot says one row, which is recalled once");
                if let Some(core) = recall {
                    let gives = terms.next.is_some();
                    out.push(HomeAction::RecallCore { core, row, gives });
                }
            }
        }
    }

    /// The slot's home is in: the node keeps what the terms say of the row, and the home leaves. Only then the protocol hears of it, because it may
    /// want the home to come in again at once.
    fn give_up(&mut self, now_ns: u64, slot: u32, row: RowIndex, terms: Terms, out: &mut Vec<HomeAction>) {
        self.keep(row, terms);
        self.leave(now_ns, slot, row, out);
        self.quiesced(now_ns, row, false, out);
    }

    /// The home is in and has nothing more to do, unless it has to bring something.
    fn leave(&mut self, now_ns: u64, slot: u32, row: RowIndex, out: &mut Vec<HomeAction>) {
        if self.hands.is_bringing(slot) {
            return self.bring(now_ns, slot, out);
        }
        let wake = self.table.leave_home(slot, None);
        wake_cores(wake, row, out);
    }

    /// The word says no more than the terms. If the row has its slot, the slot's home is in.
    fn keep(&self, row: RowIndex, terms: Terms) {
        let has_slot = self.table.held(self.table.slot(row));
        if has_slot.is_some_and(|(used, held)| used == row && held > terms.keep) {
            self.table.set_held(row, terms.keep);
        }
    }

    fn quiesced(&mut self, now_ns: u64, row: RowIndex, is_handed_over: bool, out: &mut Vec<HomeAction>) {
        let quiesced = Event::Quiesced {
            resource: Resource(row.0),
            is_handed_over,
        };
        self.handle(now_ns, quiesced, out);
    }
}

fn wake_cores(wake: WakeMask, row: RowIndex, out: &mut Vec<HomeAction>) {
    if wake.0 != 0 {
        out.push(HomeAction::WakeCores { mask: wake.0, row });
    }
}
