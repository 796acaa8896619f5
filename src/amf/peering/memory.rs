//! Who may acknowledge from memory (`durability = "ram"`): nobody before it is durable in the superblocks that what is acknowledged so may be lost (PROTOCOL H45).
//!
//! Nodes ask the leader, which has that written and then lets them. When nothing was written for a while, or the leader is to leave, it takes the permission back from all members; each commits what it has
//! acknowledged and says so, and then the superblocks say that nothing can be lost. So whoever lost its power at rest has nothing to ask its operator about. The same where too few nodes are left
//! to keep copies.
//!
//! The permission outlives epochs, and so does what the superblocks say; a leader that goes on or takes over finds there whether some may have it.

use super::note::{FlushName, Note};
use super::{Action, Epoch, Peering, Slot, SlotSet};
use crate::amf::replica::{Keeping, Name};

/// How long nothing was written before the permission is taken back.
const QUIET_NS: u64 = 3_000_000_000;

/// What the binding does about acknowledging from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryAction {
    /// Other nodes are there to keep what this node's cores write, or not any more: [`crate::amf::engine::Engine::keep`] on all cores, and [`Peering::kept_again`] for each that says so.
    KeepCopies(Keeping, Epoch),
    /// All partners keep a batch: [`crate::amf::engine::Engine::kept`].
    Kept {
        /// Which core's.
        core: u16,
        /// Which batch.
        batch: u64,
    },
    /// Say [`Peering::copy_sent`] when all that was said to this node before was sent to it, unless another epoch begins.
    Watch {
        /// Which node.
        to: Slot,
        /// What the last of it is.
        name: Name,
    },
    /// A batch was sent to all partners: [`crate::amf::engine::Engine::sent`].
    Sent {
        /// Which core's.
        core: u16,
        /// Which batch.
        batch: u64,
    },
    /// A core of another node has a flush under way: [`crate::amf::engine::Engine::commit`] on all cores, and [`Peering::committed`] for each that has done it.
    Commit(FlushName),
    /// So many lanes of other nodes have done that for a core of this one: as often, [`crate::amf::engine::Engine::committed_elsewhere`].
    Committed {
        /// Which core.
        core: u16,
        /// Which flush of it.
        flush: u32,
        /// So many.
        lanes: u16,
    },
    /// Have it made durable that what is acknowledged from memory may be lost, or that nothing can be; [`Peering::memory_is`] says that it is.
    Record(bool),
    /// [`crate::amf::engine::Engine::allow_ram`] on all cores; where that takes the permission back, [`Peering::memory_committed`] for each that has done it.
    Allow(bool),
    /// What [`Peering::end_memory`] asked for: nobody will miss this node.
    Over,
}

impl From<MemoryAction> for Action {
    fn from(action: MemoryAction) -> Self {
        Self::Memory(action)
    }
}

/// How far the leader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nobody has the permission, or it is not known yet.
    #[default]
    Off,
    /// It is being made durable that writes may be lost.
    Asked,
    /// Whoever asks has it.
    On,
    /// These members have yet to say that they have it no more.
    Closing(SlotSet),
    /// It is being made durable that nothing can be lost.
    Cleaning,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    state: State,
    /// Members that ask, at the leader.
    wanting: SlotSet,
    /// This node asks.
    wants: bool,
    /// This node is to leave, and leaves nothing behind that may be lost.
    ends: bool,
    /// It has nothing in memory alone, and nobody is let acknowledge from memory by it any more.
    is_over: bool,
    /// Members that have yet to hear that, before it may leave; `None` when it may.
    untold: Option<SlotSet>,
    /// Cores of this node that have yet to commit what they have acknowledged, as a mask.
    revoking: u16,
    /// The leader of this epoch is to hear when they have.
    is_awaited: bool,
    /// The permission came again meanwhile.
    again: bool,
    /// Numbers of entries at that time, and when they last changed.
    numbers: u64,
    since_ns: u64,
}

impl Peering {
    /// A core could acknowledge from memory, if it might.
    pub fn want_memory(&mut self, out: &mut Vec<Action>) {
        self.memory.wants = true;
        self.ask_for_memory(out);
    }

    pub(super) fn ask_for_memory(&mut self, out: &mut Vec<Action>) {
        let is_of_use = self.serves() && self.partners() != SlotSet::EMPTY;
        let leader = self.leader().filter(|_| is_of_use && self.memory.wants);
        match leader {
            Some(leader) if leader == self.local => self.memory_wanted(leader, out),
            Some(to) => {
                let note = Note::Memory;
                out.push(Action::Send { to, note });
            }
            None => {}
        }
    }

    /// A member says something about who may acknowledge from memory.
    pub(super) fn memory_noted(&mut self, from: Slot, note: &Note, out: &mut Vec<Action>) {
        if *note == Note::Memory {
            self.memory_wanted(from, out);
        } else if *note == Note::MemoryEnded {
            self.memory_ended(from, out);
        } else if let Note::MemoryIs(is) = *note
            && self.leader() == Some(from)
        {
            self.memory_given(is, out);
        }
    }

    /// A member asks, and this node leads.
    fn memory_wanted(&mut self, by: Slot, out: &mut Vec<Action>) {
        if !self.leads || self.leader() != Some(self.local) || self.memory.is_over {
            return;
        }
        match self.memory.state {
            State::On => self.grant_memory(by, out),
            State::Off => {
                self.memory.wanting = self.memory.wanting.with(by);
                self.memory.state = State::Asked;
                out.push(MemoryAction::Record(true).into());
            }
            State::Asked | State::Closing(_) | State::Cleaning => {
                self.memory.wanting = self.memory.wanting.with(by);
            }
        }
    }

    fn grant_memory(&mut self, to: Slot, out: &mut Vec<Action>) {
        if to == self.local {
            return self.memory_given(true, out);
        }
        let note = Note::MemoryIs(true);
        out.push(Action::Send { to, note });
    }

    /// What the superblocks say that this node writes, durably: whether what was acknowledged may be lost. To be called whenever that may have changed.
    pub fn memory_is(&mut self, may_be_lost: bool, out: &mut Vec<Action>) {
        match self.memory.state {
            State::Off | State::Asked if may_be_lost => {
                self.memory.state = State::On;
                let wanting = std::mem::take(&mut self.memory.wanting);
                for slot in wanting.iter() {
                    self.grant_memory(slot, out);
                }
                if self.memory.ends {
                    self.close_memory(out);
                }
            }
            State::Cleaning if !may_be_lost => {
                self.memory.state = State::Off;
                self.memory_is_over(out);
                let wanting = std::mem::take(&mut self.memory.wanting);
                for slot in wanting.iter() {
                    self.memory_wanted(slot, out);
                }
            }
            State::Off if self.memory.ends => self.memory_is_over(out),
            State::Off | State::Asked | State::On | State::Closing(_) | State::Cleaning => {}
        }
    }

    pub(super) fn memory_is_over(&mut self, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.memory.ends) {
            self.memory.is_over = true;
            self.memory.untold = Some(SlotSet::EMPTY);
            self.keepers.left(self.local);
            self.say_left(out);
        }
    }

    /// This node is about to leave, and nothing of it is dirty: [`MemoryAction::Over`] follows as soon as the superblocks say that nothing can be lost, or another node writes them, or none does in this epoch,
    /// and all others have heard of it.
    pub fn end_memory(&mut self, may_be_lost: bool, out: &mut Vec<Action>) {
        self.memory.ends = true;
        if self.is_refused() {
            return self.memory_is_over(out);
        }
        if self.leader() != Some(self.local) {
            return self.memory_of_another(out);
        }
        if !self.leads {
            return; // It is about to.
        }
        self.memory_is(may_be_lost, out);
        if self.memory.state == State::On {
            self.close_memory(out);
        }
    }

    fn close_memory(&mut self, out: &mut Vec<Action>) {
        let Some(members) = self.now.as_ref().map(|now| now.era.members) else {
            return;
        };
        self.memory.state = State::Closing(members);
        for to in members.without(self.local).iter() {
            let note = Note::MemoryIs(false);
            out.push(Action::Send { to, note });
        }
        self.memory_given(false, out);
    }

    /// The leader gives the permission, or takes it back.
    fn memory_given(&mut self, is_given: bool, out: &mut Vec<Action>) {
        self.memory.is_awaited = !is_given;
        // What a core answers is to be about the last that it was told.
        if self.memory.revoking != 0 {
            self.memory.again = is_given;
            return;
        }
        self.memory.wants &= !is_given;
        if !is_given && !self.is_open {
            return self.memory_revoked(out);
        }
        if !is_given {
            self.memory.revoking = self.all_cores();
        }
        out.push(MemoryAction::Allow(is_given).into());
    }

    /// A core has committed what it had acknowledged from memory, and acknowledges nothing so any more.
    pub fn memory_committed(&mut self, core: u16, out: &mut Vec<Action>) {
        self.memory.revoking &= !(1 << core);
        if self.memory.revoking == 0 {
            self.memory_revoked(out);
            if std::mem::take(&mut self.memory.again) {
                self.memory_given(true, out);
            }
        }
    }

    fn memory_revoked(&mut self, out: &mut Vec<Action>) {
        // Whoever was to hear in an epoch that is over hears nothing: the one that leads now may have given the permission again, and would take this for an answer to what it says next.
        if !std::mem::take(&mut self.memory.is_awaited) {
            return;
        }
        match self.leader() {
            Some(leader) if leader == self.local => self.memory_ended(leader, out),
            Some(to) => {
                let note = Note::MemoryEnded;
                out.push(Action::Send { to, note });
            }
            None => {}
        }
    }

    /// A member has nothing any more that it has acknowledged from memory alone.
    fn memory_ended(&mut self, by: Slot, out: &mut Vec<Action>) {
        if let State::Closing(awaited) = self.memory.state {
            let awaited = awaited.without(by);
            self.memory.state = State::Closing(awaited);
            if awaited == SlotSet::EMPTY {
                self.memory.state = State::Cleaning;
                out.push(MemoryAction::Record(false).into());
            }
        }
    }

    /// An epoch begins.
    pub(super) fn enter_memory(&mut self) {
        (self.memory.wanting, self.memory.is_awaited) = (SlotSet::EMPTY, false);
        let leads = self.leader() == Some(self.local);
        // What is under way to the superblocks goes on.
        if self.memory.state != State::Cleaning || !leads {
            self.memory.state = State::Off;
        }
    }

    /// Another node leads, or cannot, and this one has heard of it: whatever the superblocks say is that one's business. Before that it may be gone, and nobody there to see to it but this node.
    pub(super) fn memory_of_another(&mut self, out: &mut Vec<Action>) {
        let now = self.now.as_ref();
        if now.is_none_or(|now| now.era.leader != self.local && now.is_led) {
            self.memory_is_over(out);
        }
    }

    /// Nobody is to miss what this node has had in memory: it says so in each epoch, for whoever comes, and what it has said in the last one may be lost.
    pub(super) fn say_left(&mut self, out: &mut Vec<Action>) {
        if !self.memory.is_over {
            return;
        }
        let others = self.others();
        for to in others.iter() {
            let note = Note::Left;
            out.push(Action::Send { to, note });
        }
        self.memory.untold = self.memory.untold.map(|_| others);
        self.leave_if_told(out);
    }

    /// A member knows that this node leaves.
    pub(super) fn left_heard(&mut self, by: Slot, out: &mut Vec<Action>) {
        self.memory.untold = self.memory.untold.map(|untold| untold.without(by));
        self.leave_if_told(out);
    }

    fn leave_if_told(&mut self, out: &mut Vec<Action>) {
        if self.memory.untold == Some(SlotSet::EMPTY) {
            self.memory.untold = None;
            out.push(MemoryAction::Over.into());
        }
    }

    /// Whether anybody keeps what some member writes.
    fn has_copies(&self) -> bool {
        let members = self.now.as_ref().map(|now| now.era.members);
        members.is_some_and(|members| self.replication.is_of_use(members))
    }

    /// Time has passed.
    pub(super) fn tick_memory(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let numbers = self.homes.context().next;
        if std::mem::replace(&mut self.memory.numbers, numbers) != numbers {
            self.memory.since_ns = now_ns;
        }
        let is_quiet = now_ns.saturating_sub(self.memory.since_ns) > QUIET_NS;
        // With nobody to keep copies writes wait for the drives. This node may have no partners where others have.
        let is_of_use = !is_quiet && self.has_copies();
        if !is_of_use && self.memory.state == State::On && self.serves() {
            self.close_memory(out);
        }
    }
}
