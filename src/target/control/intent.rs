//! The write-intent bitmaps of the node's groups: cores mark rows, and wait here until marks are durable.

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
}
