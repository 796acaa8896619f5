//! Groups that acknowledge from memory: what their superblocks say of it, and what their cores may do.
//!
//! Writes are acknowledged from memory only while the superblocks say that they may be lost. When nobody has written for a
//! while, all lanes are committed and the superblocks say that nothing can be lost: so a node that loses power at rest
//! has nothing to ask its operator about.

use reactor::{CoreIndex, Io};

use super::Control;
use crate::amf::group::Event;
use crate::target::core::Core;
use crate::target::message::Message;

/// Ticks without a write after which everything is committed and the superblocks say so: three seconds. So a host that writes now
/// and then costs at most two updates of the superblocks in that time.
const QUIET_TICKS: u32 = 30;

/// How far a group is with acknowledging from memory, in order of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing can be lost.
    #[default]
    Safe,
    /// A core wants to; it has to be durable first that writes may be lost.
    Asked,
    /// Cores do. The number of entries in the journal at the last tick, and for how many ticks it has not changed.
    Allowed { entries: u64, quiet: u32 },
    /// So many cores are still to say that all they have acknowledged is committed.
    Closing { awaited: u16 },
    /// The superblocks are told that nothing can be lost.
    Clearing,
}

/// One group's.
#[derive(Debug, Default)]
pub(super) struct RamControl {
    state: State,
    /// A core has asked since the permission was taken back.
    wanted: bool,
}

impl Control {
    /// A core has a write that it could acknowledge from memory if that were allowed.
    pub(super) fn ram_wanted(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let ram = &mut self.groups[usize::from(group)].ram;
        match ram.state {
            State::Safe => {
                ram.state = State::Asked;
                self.group_event(core, io, group, Event::RamDirty);
            }
            // Its answer is on the way.
            State::Asked | State::Allowed { .. } => {}
            State::Closing { .. } | State::Clearing => ram.wanted = true,
        }
    }

    /// It is durable that acknowledged writes may be lost.
    pub(super) fn ram_allowed(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let ram = &mut self.groups[usize::from(group)].ram;
        ram.wanted = false;
        ram.state = State::Allowed { entries: 0, quiet: 0 };
        self.tell_ram(core, io, group, true);
    }

    fn tell_ram(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, allowed: bool) {
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::AllowRam { group, allowed });
        }
    }

    /// A core has committed all that it had acknowledged.
    pub(super) fn ram_committed(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let ram = &mut self.groups[usize::from(group)].ram;
        let State::Closing { awaited } = &mut ram.state else {
            unreachable!("cores answer what they were asked")
        };
        *awaited -= 1;
        if *awaited > 0 {
            return;
        }
        if ram.wanted {
            // It is still durable that writes may be lost.
            return self.ram_allowed(core, io, group);
        }
        ram.state = State::Clearing;
        self.group_event(core, io, group, Event::RamClean);
    }

    /// It is durable that nothing can be lost.
    pub(super) fn ram_cleared(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let ram = &mut self.groups[usize::from(group)].ram;
        ram.state = State::Safe;
        if std::mem::take(&mut ram.wanted) {
            self.ram_wanted(core, io, group);
        }
    }

    /// Ten times a second: groups that nobody writes to stop to acknowledge from memory.
    pub(super) fn tend_ram(&mut self, core: &mut Core, io: &mut Io<Message>) {
        for group in 0..self.groups.len() {
            let cores = self.cores;
            let state = &mut self.groups[group];
            let is_open = state.is_open();
            let State::Allowed { entries, quiet } = &mut state.ram.state else {
                continue;
            };
            let journal = state.shared.journal.as_ref().expect("such a group has a journal");
            let now = journal.shared.entered();
            *quiet = if now == *entries { *quiet + 1 } else { 0 };
            *entries = now;
            if *quiet >= QUIET_TICKS && is_open && !self.closing {
                state.ram.state = State::Closing { awaited: cores };
                let group = u16::try_from(group).expect("a node has at most 128 groups");
                self.tell_ram(core, io, group, false);
            }
        }
    }
}
