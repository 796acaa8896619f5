//! The end of groups: dirty data brought to its place, members flushed, "clean" written.

use reactor::{CoreIndex, Io};

use super::Control;
use super::groups::{GroupControl, Phase};
use crate::amf::background::Event as BackgroundEvent;
use crate::amf::engine::Request;
use crate::amf::group::Event;
use crate::target::command::{InternalCommand, Owner};
use crate::target::core::Core;
use crate::target::message::Message;

impl Control {
    /// Closes every group; connections are drained by now.
    pub(in crate::target) fn close_groups(&mut self, core: &mut Core, io: &mut Io<Message>) {
        for group in 0..self.groups.len() {
            let index = u16::try_from(group).expect("a node has at most 128 groups");
            match self.groups[group].phase {
                // It closes as soon as nothing of its background work is under way.
                Phase::Open => self.background_event(core, io, index, BackgroundEvent::Stop),
                // It closes as soon as it has opened; nothing was written to it.
                Phase::Opening => self.group_event(core, io, index, Event::Stop),
                Phase::Failed | Phase::Stopped => {}
            }
        }
        self.try_finish(io);
    }

    /// Goes on with closing a group whose background work has ended.
    pub(super) fn close_when_idle(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let closing = self.closing;
        let state = &mut self.groups[usize::from(group)];
        let may_close = closing && state.phase == Phase::Open && state.background.machine.is_idle();
        if may_close && !std::mem::replace(&mut state.is_closing, true) {
            self.close_open_group(core, io, group);
        }
    }

    /// Closes one group: what hosts wrote without a Flush must be durable before "clean" is.
    fn close_open_group(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        if state.shared.journal.is_some() {
            state.draining = self.cores;
            for to in 0..self.cores {
                core.tell(io, CoreIndex(to), Message::DrainGroup { group });
            }
        } else {
            self.flush_and_close(core, io, group);
        }
    }

    /// A core has brought its dirty data to its place, if it could.
    pub(super) fn group_drained(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, drained: bool) {
        let state = &mut self.groups[usize::from(group)];
        assert!(state.draining > 0, "each core answers once");
        state.draining -= 1;
        if !drained {
            // What is left stays in the journal, and is replayed at the next start.
            self.close_unclean(io, group);
        } else if state.draining == 0 && state.phase == Phase::Open {
            if state.shared.is_shared() {
                return self.leave_in_order(core, io, group);
            }
            self.flush_and_close(core, io, group);
        }
    }

    /// Nothing of this node is left in its lanes. The group stays open for others; whoever is the last leaves a journal that names nothing.
    pub(super) fn leave_shared(&mut self, io: &Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        if state.phase == Phase::Open {
            tracing::info!(group = %state.shared.name, "shared group is left");
            state.phase = Phase::Stopped;
        }
        self.try_finish(io);
    }

    fn flush_and_close(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let owner = Owner::Internal(InternalCommand::Close);
        match core.commands.insert(owner, None) {
            Some(command) => {
                core.queue_group(group, command, Request::FlushDrives);
                core.run_queued(io, group);
            }
            None => self.close_unclean(io, group),
        }
    }

    /// Leaves a group as it is: the next start will notice, and resynchronise.
    pub(super) fn close_unclean(&mut self, io: &Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        tracing::error!(group = %state.shared.name, "group is not closed cleanly: its last writes could not be flushed");
        if state.phase == Phase::Open {
            state.phase = Phase::Stopped;
        }
        self.try_finish(io);
    }

    pub(super) fn try_finish(&mut self, io: &Io<Message>) {
        let is_over = |group: &GroupControl| matches!(group.phase, Phase::Stopped | Phase::Failed);
        if self.closing && self.groups.iter().all(is_over) && !self.begin_leave() {
            self.tell_stopped();
            io.stop();
        }
    }
}
