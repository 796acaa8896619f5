//! Binds what nodes agree on about acknowledging from memory to the cores and to the group's machine.

use reactor::{CoreIndex, Io};

use super::super::Control;
use crate::amf::group::Event;
use crate::amf::peering::MemoryAction;
use crate::amf::peering::note::FlushName;
use crate::amf::ram::Event as RamEvent;
use crate::amf::replica::Copy;
use crate::icl::{Epoch, Slot};
use crate::target::core::Core;
use crate::target::manage::CopiesStatus;
use crate::target::message::Message;

impl Control {
    /// Carries out what a group's peering wants.
    pub(super) fn memory_action(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        at: usize,
        action: MemoryAction,
    ) {
        let Some(group) = self.share().groups[at].index else {
            return;
        };
        let cores = self.cores;
        let mut tell_all = |message: &dyn Fn() -> Message| {
            (0..cores).for_each(|to| core.tell(io, CoreIndex(to), message()));
        };
        match action {
            MemoryAction::KeepCopies(keeping, epoch) => tell_all(&|| Message::KeepCopies {
                group,
                keeping,
                epoch,
            }),
            MemoryAction::Kept { core: to, batch } => {
                core.tell(io, CoreIndex(to), Message::Kept { group, batch });
            }
            MemoryAction::Watch { to, name } => self.watch_note(to, at, name),
            MemoryAction::Sent { core: to, batch } => {
                core.tell(io, CoreIndex(to), Message::Sent { group, batch });
            }
            MemoryAction::Commit(FlushName { lane, flush }) => {
                tell_all(&|| Message::Commit { group, lane, flush });
            }
            MemoryAction::Committed {
                core: to,
                flush,
                lanes,
            } => {
                for _ in 0..lanes {
                    core.tell(io, CoreIndex(to), Message::Committed { group, flush });
                }
            }
            MemoryAction::Record(may_be_lost) => {
                let event = if may_be_lost {
                    Event::RamDirty
                } else {
                    Event::RamClean
                };
                self.group_event(core, io, group, event);
            }
            MemoryAction::Allow(allowed) => tell_all(&|| Message::AllowRam { group, allowed }),
            MemoryAction::Over => self.leave_shared(io, group),
        }
    }

    /// A core could acknowledge from memory, if it were durable that what is acknowledged may be lost. Where nodes share the group, whoever leads it sees to that.
    pub(in super::super) fn want_memory(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        match self.share.as_ref().and_then(|share| share.at(group)) {
            Some(at) => self.peer(core, io, at, |peering, _, out| peering.want_memory(out)),
            None => self.ram_event(core, io, group, RamEvent::Wanted),
        }
    }

    /// What a core has acknowledged from memory is committed.
    pub(in super::super) fn memory_committed(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        (group, from): (u16, CoreIndex),
    ) {
        match self.share.as_ref().and_then(|share| share.at(group)) {
            Some(at) => self.peer(core, io, at, |peering, _, out| {
                peering.memory_committed(from.0, out)
            }),
            None => self.ram_event(core, io, group, RamEvent::Committed),
        }
    }

    /// What a core had acknowledged before an epoch is on the drives, or kept by others again.
    pub(in super::super) fn kept_again(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        (from, epoch): (CoreIndex, Epoch),
    ) {
        if let Some(at) = self.share.as_ref().and_then(|share| share.at(group)) {
            self.peer(core, io, at, |peering, _, out| {
                peering.kept_again(from.0, epoch, out);
            });
        }
    }

    /// Copies of what this node writes to a group, if that may be acknowledged from memory and other nodes keep any.
    pub(in super::super) fn copies_of(&self, group: u16) -> Option<CopiesStatus> {
        let share = self.share.as_ref()?;
        let peering = &share.groups[share.at(group)?].peering;
        let wanted = peering.copies();
        let partners = peering.partners();
        (wanted > 1).then(|| CopiesStatus {
            wanted,
            now: 1 + u8::try_from(partners.count()).expect("few nodes"),
            partners: partners.iter().map(Slot::number).collect(),
            restored: peering.is_restored(),
        })
    }

    /// Whether the superblocks of a group say durably that what was acknowledged may be lost.
    fn may_be_lost(&self, group: u16) -> Option<bool> {
        let record = self.groups[usize::from(group)].machine.durable_record();
        record.map(|record| record.dirty_ram)
    }

    pub(super) fn look_at_memory(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize, group: u16) {
        let may_be_lost = self.may_be_lost(group);
        let leads = self.share().groups[at].peering.leads();
        if let Some(may_be_lost) = may_be_lost.filter(|_| leads) {
            self.peer(core, io, at, |peering, _, out| {
                peering.memory_is(may_be_lost, out)
            });
        }
    }

    /// Nothing of this node is dirty in a group, and it is about to leave: not before the superblocks say that nothing can be lost, if this node writes them.
    pub(in super::super) fn leave_in_order(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let at = self.share().at(group).expect("other nodes share the group");
        let may_be_lost = self.may_be_lost(group) == Some(true);
        self.peer(core, io, at, |peering, _, out| {
            peering.end_memory(may_be_lost, out)
        });
    }

    /// A core has a flush under way that other nodes have a part in.
    pub(in super::super) fn commit_nodes(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        name: FlushName,
    ) {
        let at = self.share().at(group).expect("other nodes share the group");
        let slots = u8::try_from(self.share().slots).expect("an array has few slots");
        self.peer(core, io, at, |peering, _, out| peering.commit(name, slots, out));
    }

    /// A core has done what a flush of another node asks for.
    pub(in super::super) fn committed_for(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        name: FlushName,
    ) {
        let at = self.share().at(group).expect("other nodes share the group");
        self.peer(core, io, at, |peering, _, out| peering.committed(name, out));
    }

    /// Other nodes are to keep a batch of one of this node's lanes.
    pub(in super::super) fn keep_copy(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        copy: &Copy,
        reports: bool,
    ) {
        let at = self.share().at(group);
        let at = at.expect("only what is written to shared groups is kept by others");
        self.peer(core, io, at, |peering, _, out| peering.keep(copy, reports, out));
    }
}
