//! Dirty data that goes with a row's lock, from one node's core over its home to another's.
//!
//! On the giving side a core lays it out and leaves the row to the home, which sends it and keeps it in mind until the taker has it durable. On the taking
//! side it is kept until the grant comes that names it, and then brought to the core that has asked. What is brought to a core, given or come, goes there by the slot's home
//! alone, which may have to wait for its turn: [`Bringing`].
//!
//! Bringing goes first. A home that is in because a core waits for another row of the slot leaves that, because the data's row may be what others wait for, and they may hold
//! the other one; the want is *parted* from its home and answered when its row comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Held, HomeAction, Homes, RowIndex, Wanted};
use crate::amf::arbiter::message::{HandOver, Terms};
use crate::amf::arbiter::{Event, Misbehaviour, Resource, Token};
use crate::amf::hand_over::HandedOver;
use crate::amf::lock::Entry;
use crate::icl::Slot;

/// What a core has laid out.
#[derive(Debug)]
struct Given {
    row: RowIndex,
    core: u16,
    data: HandedOver,
}

/// Data that a slot's home brings to a core.
#[derive(Debug)]
pub(super) struct Bringing {
    row: RowIndex,
    core: u16,
    /// What has come from another node; `None` if the core has it itself.
    data: Option<Arc<HandedOver>>,
    /// It is to go again as soon as it is there.
    recalled: Option<Terms>,
}

impl Bringing {
    pub(super) const fn new(row: RowIndex, core: u16, data: Option<Arc<HandedOver>>) -> Self {
        Self {
            row,
            core,
            data,
            recalled: None,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hands {
    /// By slot.
    given: BTreeMap<u32, Given>,
    /// What is on its way to next writers, and still with the cores that gave it.
    giving: BTreeMap<RowIndex, u16>,
    /// What was on its way to nodes that are gone, and is in journals only.
    void: BTreeMap<RowIndex, u16>,
    /// What has come and no grant has named, at most one for each want that takes.
    coming: BTreeMap<RowIndex, (HandOver, Arc<HandedOver>)>,
    /// Rows whose data was brought or is to be, and is durable at its giver only.
    unsecured: BTreeSet<RowIndex>,
    /// While there is any of both: below what all nodes had retired before, as far as this one knew.
    frozen: Option<u64>,
    /// Wants that take and were asked for, and whose homes have left for something else: which core waits.
    parted: BTreeMap<RowIndex, u16>,
    /// By slot, in order. If there is any, the home is not in, or is about to be told so.
    bringing: BTreeMap<u32, VecDeque<Bringing>>,
}

impl Hands {
    pub(super) fn is_idle(&self) -> bool {
        self.given.is_empty() && self.parted.is_empty() && self.bringing.is_empty()
    }

    pub(super) const fn frozen(&self) -> Option<u64> {
        self.frozen
    }

    pub(super) fn has_given(&self, slot: u32) -> bool {
        self.given.contains_key(&slot)
    }

    pub(super) fn is_bringing(&self, slot: u32) -> bool {
        self.bringing.contains_key(&slot)
    }

    /// How many wants are parted from their homes.
    #[cfg(test)]
    pub(super) fn parted_count(&self) -> usize {
        self.parted.len()
    }

    /// Whether a row is on its way to a next writer.
    #[cfg(test)]
    pub(super) fn is_giving(&self, row: RowIndex) -> bool {
        self.giving.contains_key(&row)
    }

    /// The core whose want of a row is parted from its home, and is answered now.
    pub(super) fn parted_by(&mut self, row: RowIndex) -> Option<u16> {
        self.parted.remove(&row)
    }

    /// What has come of a row that is granted now.
    pub(super) fn came(&mut self, row: RowIndex, named: Option<HandOver>) -> Option<Arc<HandedOver>> {
        let coming = self.coming.remove(&row);
        let named = named.map(|named| {
            let (came, data) = coming.expect("a grant that names data waits for it");
            assert_eq!(came, named, "and for no other");
            self.unsecured.insert(row);
            data
        });
        self.thaw();
        named
    }

    /// Nobody may be told of a later tail while what is taken is durable at its giver only.
    fn thaw(&mut self) {
        if self.coming.is_empty() && self.unsecured.is_empty() {
            self.frozen = None;
        }
    }

    /// An epoch begins: what no grant has named is dropped, and no next writer is named any more.
    pub(super) fn enter(&mut self) {
        self.coming.clear();
        self.thaw();
        let all = self.bringing.values_mut().flatten();
        for terms in all.filter_map(|bringing| bringing.recalled.as_mut()) {
            terms.next = None;
        }
    }

    /// A row is wanted elsewhere: true if it waits until it has been brought to its core.
    pub(super) fn recall(&mut self, slot: u32, row: RowIndex, terms: Terms) -> bool {
        let mut of_slot = self.bringing.get_mut(&slot).into_iter().flatten();
        let bringing = of_slot.find(|bringing| bringing.row == row);
        bringing.is_some_and(|bringing| {
            bringing.recalled = Some(terms);
            true
        })
    }

    fn next(&mut self, slot: u32) -> Option<Bringing> {
        let of_slot = self.bringing.get_mut(&slot)?;
        let next = of_slot.pop_front();
        if of_slot.is_empty() {
            self.bringing.remove(&slot);
        }
        next
    }
}

// What goes.
impl Homes {
    /// A core has laid out its dirty data of a row that it was told to give, and has left the row to the home ([`crate::amf::lock::LockTable::release_to_home`]); its engine keeps data
    /// and entries until it is told what became of them. Comes before the home's turn.
    pub fn given(&mut self, row: RowIndex, core: u16, data: HandedOver) {
        let slot = self.table.slot(row);
        let held = self.table.held(slot);
        assert_eq!(held, Some((row, Held::Write)), "only a writer has dirty data");
        let earlier = self.hands.given.insert(slot, Given { row, core, data });
        assert!(earlier.is_none(), "a row is given once");
    }

    /// The slot's home is in; if a core has laid something out, that goes to the next writer, or back if none is known: an epoch may have begun. Whether there was any.
    pub(super) fn hand_over(&mut self, now_ns: u64, slot: u32, out: &mut Vec<HomeAction>) -> bool {
        let Some(Given { row, core, data }) = self.hands.given.remove(&slot) else {
            return false;
        };
        let recalled = self.recalled.remove(&slot).map(|(_, terms)| terms);
        let Some(to) = recalled.and_then(|terms| terms.next) else {
            let back = Bringing {
                recalled,
                ..Bringing::new(row, core, None)
            };
            self.hands.bringing.entry(slot).or_default().push_front(back);
            self.bring(now_ns, slot, out);
            return true;
        };
        let token = self.arbitration.token(Resource(row.0));
        let earlier = self.hands.giving.insert(row, core);
        assert!(earlier.is_none(), "a row is with one core");
        out.push(HomeAction::SendData { to, row, token, data });
        self.table.set_held(row, Held::Nothing);
        self.leave(now_ns, slot, row, out);
        self.quiesced(now_ns, row, true, out);
        true
    }

    /// The taker has it durable.
    pub(super) fn settled(&mut self, row: RowIndex, out: &mut Vec<HomeAction>) {
        let core = self.hands.giving.remove(&row);
        let core = core.expect("what is settled was given");
        out.push(HomeAction::Settle { core, row });
    }

    /// The taker is gone.
    pub(super) fn voided(&mut self, row: RowIndex, out: &mut Vec<HomeAction>) {
        let core = self.hands.giving.remove(&row);
        let core = core.expect("what is void was given");
        let earlier = self.hands.void.insert(row, core);
        assert!(earlier.is_none(), "nobody gets it before it is recovered");
        out.push(HomeAction::Void { core, row });
    }

    /// Nobody has taken it: it goes back to its core.
    pub(super) fn reinstated(&mut self, now_ns: u64, row: RowIndex, out: &mut Vec<HomeAction>) {
        let core = self.hands.giving.remove(&row);
        let core = core.expect("what comes back was given");
        self.bring_or_call(now_ns, Bringing::new(row, core, None), false, out);
    }

    /// Whoever leads the epoch has brought in its place what journals have of rows that nobody held when it began.
    pub fn replayed(&mut self, out: &mut Vec<HomeAction>) {
        let void = std::mem::take(&mut self.hands.void).into_iter();
        out.extend(void.map(|(row, core)| HomeAction::Forget { core, row }));
    }

    /// Whether recovery needs entries of this node's lanes of rows that it does not hold: what it has given to nodes that are gone.
    pub fn has_void(&self) -> bool {
        !self.hands.void.is_empty()
    }
}

// What comes.
impl Homes {
    /// Dirty data came in on the link, in this epoch, and its context was taken in. What no core has asked for is dropped.
    ///
    /// Panics if the row is none that a group can have.
    pub fn data_came(
        &mut self,
        now_ns: u64,
        from: Slot,
        row: RowIndex,
        token: Token,
        data: HandedOver,
        out: &mut Vec<HomeAction>,
    ) {
        if !self.members.without(self.local).contains(from) {
            let what = Misbehaviour::NotMember;
            return out.push(HomeAction::Misbehaved { peer: from, what });
        }
        let wanted = self.wanted.get(&self.table.slot(row));
        let is_expected = wanted.is_some_and(|wanted| wanted.row == row && wanted.takes);
        let known = self.hands.coming.get(&row);
        let is_newest = known.is_none_or(|(known, _)| known.token < token);
        if !is_newest || !(is_expected || self.hands.parted.contains_key(&row)) {
            return;
        }
        // Of all nodes: at or below the giver's, and so its entries of this row.
        let tail = self.journal.tail();
        self.hands.frozen.get_or_insert(tail);
        let hand_over = HandOver { from, token };
        self.hands.coming.insert(row, (hand_over, Arc::new(data)));
        let resource = Resource(row.0);
        self.handle(now_ns, Event::DataCame { resource, hand_over }, out);
    }

    /// A core has what it adopted durable in its own lane. Without effect if that was said before.
    pub fn secured(&mut self, now_ns: u64, row: RowIndex, out: &mut Vec<HomeAction>) {
        self.hands.unsecured.remove(&row);
        self.hands.thaw();
        let resource = Resource(row.0);
        self.handle(now_ns, Event::Secured { resource }, out);
    }

    /// The slot's home brings something to a core: now, if it is in, on account of a want that is over or of another one, or can come in; and else when its turn has come.
    pub(super) fn bring_or_call(
        &mut self,
        now_ns: u64,
        bringing: Bringing,
        is_in: bool,
        out: &mut Vec<HomeAction>,
    ) {
        let slot = self.table.slot(bringing.row);
        self.hands.bringing.entry(slot).or_default().push_back(bringing);
        if is_in || self.wanted.contains_key(&slot) {
            self.bring(now_ns, slot, out);
        } else {
            self.call_home(now_ns, slot, out);
        }
    }

    fn call_home(&mut self, now_ns: u64, slot: u32, out: &mut Vec<HomeAction>) {
        match self.table.enter_home(slot) {
            Entry::In => self.bring(now_ns, slot, out),
            // A core is about to ask for something, or the home about to be told that its turn has come.
            Entry::Called => {}
            Entry::Busy { recall } => {
                let row = self.table.held(slot).map(|(row, _)| row);
                if let (Some(core), Some(row)) = (recall, row) {
                    let gives = false;
                    out.push(HomeAction::RecallCore { core, row, gives });
                }
            }
        }
    }

    /// The slot's home is in: it leaves, and a core is in with what is brought to it.
    pub(super) fn bring(&mut self, now_ns: u64, slot: u32, out: &mut Vec<HomeAction>) {
        let bringing = self.hands.next(slot);
        let Bringing {
            row,
            core,
            data,
            recalled,
        } = bringing.expect("a home whose turn has come has something to do");
        self.part(slot, out);
        self.table.pass_home(row, core);
        out.push(match data {
            Some(data) => HomeAction::Adopt { core, row, data },
            None => HomeAction::Restore { core, row },
        });
        if let Some(terms) = recalled {
            self.recall(now_ns, row, terms, out);
        }
        if self.hands.is_bringing(slot) {
            self.call_home(now_ns, slot, out);
        }
    }

    /// The home leaves a want. Its core is named, and finds out when its turn has come that it has to ask again; if it takes data, it is answered when the row comes.
    fn part(&mut self, slot: u32, out: &mut Vec<HomeAction>) {
        let Some(Wanted { row, core, takes, .. }) = self.wanted.remove(&slot) else {
            return;
        };
        if !takes {
            return;
        }
        if let Some(core) = self.hands.parted.insert(row, core) {
            out.push(HomeAction::Answer { core, row });
        }
    }
}
