//! The write-intent bitmaps and lists of lost blocks of the node's groups: cores mark rows and note blocks, and wait here until that is
//! durable.

use reactor::{CoreIndex, Io};

use super::Control;
use crate::amf::group::{Event, RequestId};
use crate::target::core::Core;
use crate::target::message::Message;

impl Control {
    /// A core's journal is about to forget rows that lost members miss: their marks have to be durable before.
    pub(super) fn persist_intent(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        from: CoreIndex,
    ) {
        let request = self.next_request();
        self.groups[usize::from(group)].marking.insert(request, from);
        self.group_event(core, io, group, Event::PersistIntent { request });
    }

    /// What was marked when a core asked is durable.
    pub(super) fn intent_durable(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        request: RequestId,
    ) {
        let waiting = self.groups[usize::from(group)].marking.remove(&request);
        let to = waiting.expect("only what a core asked for is answered");
        core.tell(io, to, Message::IntentDurable { group });
    }

    /// A core has changed the list of lost blocks.
    pub(super) fn persist_lost(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        from: CoreIndex,
    ) {
        let request = self.next_request();
        self.groups[usize::from(group)].marking.insert(request, from);
        self.group_event(core, io, group, Event::PersistLost { request });
    }

    /// The list is durable as it was when a core asked.
    pub(super) fn lost_durable(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        request: RequestId,
    ) {
        let of_group = &mut self.groups[usize::from(group)];
        let waiting = of_group.marking.remove(&request);
        let to = waiting.expect("only what a core asked for is answered");
        let blocks = of_group.machine.lost_blocks().blocks();
        if std::mem::replace(&mut of_group.lost_blocks, blocks) != blocks {
            let name = &of_group.shared.name;
            if blocks == 0 {
                tracing::info!(group = %name, "no block is lost any more");
            } else {
                tracing::error!(group = %name, blocks, "blocks cannot be given back by any drive: they read as errors until they are written");
            }
        }
        core.tell(io, to, Message::LostDurable { group });
    }
}
