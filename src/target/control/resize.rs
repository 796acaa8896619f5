//! Virtual disks that operators want larger. First the group's superblocks know, then every core, and then hosts and the operator.

use super::Control;
use crate::amf::group::{Event, RequestId, VdiskSize};
use crate::target::manage::{self, ManageError};

impl Control {
    /// A virtual disk that an operator wants larger.
    pub(super) fn vdisk_to_resize(
        &self,
        resize: &manage::VdiskResize,
    ) -> Result<(usize, impl FnOnce(RequestId) -> Event + use<>), ManageError> {
        let wanted = resize.vdisk.as_str();
        let named = self.vdisk_record(|record| record.name.as_str() == wanted);
        let found = named.or_else(|| self.vdisk_record(|record| record.nsid.to_string() == wanted));
        let (group, record) = found.ok_or_else(|| ManageError::not_found("vdisk", wanted))?;
        let nsid = record.nsid;
        let block = u64::from(self.groups[group].shared.geometry.block().bytes());
        let size = match resize.size {
            manage::Size::All => VdiskSize::LargestFree,
            manage::Size::Bytes(bytes) => VdiskSize::Blocks(bytes.div_ceil(block)),
        };
        Ok((group, move |request| Event::ResizeVdisk { request, nsid, size }))
    }
}
