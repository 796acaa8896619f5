//! Virtual disks that get larger: first the group's superblocks know, then every core, and then hosts and the operator.

use nvme::subsystem::Event as SubsystemEvent;
use reactor::{CoreIndex, Io};

use super::Control;
use crate::amf::group::{Event, RequestId, VdiskSize};
use crate::amf::superblock::VdiskRecord;
use crate::target::core::Core;
use crate::target::manage::{self, ManageError};
use crate::target::message::Message;

impl Control {
    /// A virtual disk that an operator wants larger.
    pub(super) fn vdisk_to_resize(
        &self,
        resize: &manage::VdiskResize,
    ) -> Result<(usize, impl FnOnce(RequestId) -> Event + use<>), ManageError> {
        let wanted = resize.vdisk.as_str();
        let named = |record: &VdiskRecord| record.name.as_str() == wanted;
        let numbered = |record: &VdiskRecord| record.nsid.to_string() == wanted;
        let find = |is_it: &dyn Fn(&VdiskRecord) -> bool| {
            let mut groups = self.groups.iter().enumerate();
            groups.find_map(|(at, group)| {
                let record = group.machine.vdisks().iter().find(|record| is_it(record))?;
                Some((at, record.nsid))
            })
        };
        let found = find(&named).or_else(|| find(&numbered));
        let (group, nsid) = found.ok_or_else(|| ManageError::not_found("vdisk", wanted))?;
        let block = u64::from(self.groups[group].shared.geometry.block().bytes());
        let size = match resize.size {
            manage::Size::All => VdiskSize::LargestFree,
            manage::Size::Bytes(bytes) => VdiskSize::Blocks(bytes.div_ceil(block)),
        };
        Ok((group, move |request| Event::ResizeVdisk { request, nsid, size }))
    }

    /// A virtual disk has got larger, durably: has every core serve the new size before anybody is told.
    pub(super) fn resize_namespace(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        record: &VdiskRecord,
    ) {
        self.publish_namespaces(core, io);
        let state = &mut self.groups[usize::from(group)];
        state.resized = Some((record.nsid, record.blocks));
        state.await_cores(self.cores);
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::SayNamespacesKnown { group });
        }
    }

    /// A core serves all namespaces as it was told.
    pub(super) fn namespaces_known(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        if !state.core_answered() {
            return;
        }
        if let Some((nsid, blocks)) = state.resized.take() {
            self.subsystem_event(core, io, SubsystemEvent::NamespaceResized { nsid, blocks });
        }
        self.run_actions(core, io, group);
    }
}
