//! Virtual disks that operators want larger, or their writes done at another time. First the group's superblocks know, then every core, and then hosts and the operator.

use super::Control;
use crate::amf::group::{Event, RequestId, VdiskChange, VdiskSize};
use crate::amf::replication::ReplicationMode;
use crate::target::manage::{self, ManageError};

impl Control {
    /// A virtual disk that an operator wants larger.
    pub(super) fn vdisk_to_resize(
        &self,
        resize: &manage::VdiskResize,
    ) -> Result<(usize, impl FnOnce(RequestId) -> Event + use<>), ManageError> {
        let (group, nsid) = self.vdisk_by_name_or_number(&resize.vdisk)?;
        let block = u64::from(self.groups[group].shared.geometry.block().bytes());
        let size = match resize.size {
            manage::Size::All => VdiskSize::LargestFree,
            manage::Size::Bytes(bytes) => VdiskSize::Blocks(bytes.div_ceil(block)),
        };
        Ok((group, move |request| Event::ResizeVdisk { request, nsid, size }))
    }

    /// A virtual disk whose writes an operator wants done at another time.
    pub(super) fn vdisk_to_replicate(
        &self,
        replicate: &manage::VdiskReplicate,
    ) -> Result<(usize, impl FnOnce(RequestId) -> Event + use<>), ManageError> {
        let (group, nsid) = self.vdisk_by_name_or_number(&replicate.vdisk)?;
        let replication = ReplicationMode::from(replicate.replication);
        self.check_replication(group, replication)?;
        let change = VdiskChange::Replication(replication);
        Ok((group, move |request| Event::ChangeVdisk {
            request,
            nsid,
            change,
        }))
    }

    /// Whether writes to a group may be done so: what no other node has a copy of is on the drives first, whatever is asked.
    pub(super) fn check_replication(
        &self,
        group: usize,
        replication: ReplicationMode,
    ) -> Result<(), ManageError> {
        let index = u16::try_from(group).expect("a node has at most 128 groups");
        if replication == ReplicationMode::Sync || self.copies_of(index).is_some() {
            return Ok(());
        }
        Err(ManageError::new(
            ManageError::INVALID,
            format!(
                "group \"{}\" acknowledges nothing from the memory of several nodes",
                self.groups[group].shared.name
            ),
            "leave it at sync, or use a group of an [array] with durability = \"ram\"",
        ))
    }

    fn vdisk_by_name_or_number(&self, wanted: &str) -> Result<(usize, u32), ManageError> {
        let named = self.vdisk_record(|record| record.name.as_str() == wanted);
        let found = named.or_else(|| self.vdisk_record(|record| record.nsid.to_string() == wanted));
        let (group, record) = found.ok_or_else(|| ManageError::not_found("vdisk", wanted))?;
        Ok((group, record.nsid))
    }
}
