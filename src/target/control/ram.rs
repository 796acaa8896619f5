//! Binds the machine of groups that acknowledge from memory to the cores and to the group's machine.

use reactor::{CoreIndex, Io};

use super::Control;
use crate::amf::group::Event as GroupEvent;
use crate::amf::ram::{Action, Event};
use crate::target::core::Core;
use crate::target::message::Message;

/// Ticks without a write after which everything is committed and the superblocks say so: three seconds. So a host that writes now
/// and then costs at most two updates of the superblocks in that time.
pub(super) const QUIET_TICKS: u32 = 30;

impl Control {
    /// Feeds a group's machine and carries out what it wants.
    pub(super) fn ram_event(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, event: Event) {
        match self.groups[usize::from(group)].ram.handle(event) {
            Some(Action::Dirty) => self.group_event(core, io, group, GroupEvent::RamDirty),
            Some(Action::Clean) => self.group_event(core, io, group, GroupEvent::RamClean),
            Some(Action::Tell { allowed }) => {
                for to in 0..self.cores {
                    core.tell(io, CoreIndex(to), Message::AllowRam { group, allowed });
                }
            }
            None => {}
        }
    }

    /// Ten times a second: groups that nobody writes to stop to acknowledge from memory.
    pub(super) fn tend_ram(&mut self, core: &mut Core, io: &mut Io<Message>) {
        for group in 0..self.groups.len() {
            let state = &self.groups[group];
            let Some(journal) = &state.shared.journal else {
                continue;
            };
            let event = Event::Tick {
                entries: journal.shared.entered(),
                is_open: state.is_open() && !self.closing,
            };
            let group = u16::try_from(group).expect("a node has at most 128 groups");
            self.ram_event(core, io, group, event);
        }
    }
}
