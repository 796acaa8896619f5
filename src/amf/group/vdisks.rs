//! The table of virtual disks: who gets which extent.

use super::{PortChange, RequestError, VdiskChange, VdiskSize, VdiskSpec};
use crate::amf::superblock::{GroupRecord, Uuid, VDISKS_MAX, VdiskRecord};
use crate::drive::block::GroupLba;
use crate::icl::Slot;

/// Largest namespace identifier; FFFFFFFFh stands for all of them.
const NSID_MAX: u32 = u32::MAX - 1;

/// The lowest namespace identifier that none of these has. `None` if all are taken.
pub fn free_nsid(taken: impl Iterator<Item = u32>) -> Option<u32> {
    let mut taken: Vec<u32> = taken.collect();
    taken.sort_unstable();
    taken.dedup();
    let mut candidate = 1;
    for nsid in taken {
        if nsid > candidate {
            break;
        }
        if nsid == candidate {
            candidate += 1;
        }
    }
    (candidate <= NSID_MAX).then_some(candidate)
}

/// Blocks that no virtual disk has reserved.
pub(super) fn free_blocks(record: &GroupRecord) -> u64 {
    record.free_extents().map(|(_, blocks)| blocks).sum()
}

/// Puts a new virtual disk into the table: whole rows, first fit. Says why not if it cannot be.
pub(super) fn create(record: &mut GroupRecord, spec: &VdiskSpec) -> Result<VdiskRecord, RequestError> {
    if record.vdisks.len() >= VDISKS_MAX {
        return Err(RequestError::TooManyVdisks);
    }
    let vdisks = || record.vdisks.iter();
    if vdisks().any(|other| other.name == spec.name) {
        return Err(RequestError::NameTaken);
    }
    let same = |other: &VdiskRecord| other.uuid == spec.uuid || other.nguid == spec.nguid;
    if spec.uuid == Uuid::NIL || vdisks().any(same) {
        return Err(RequestError::Identity);
    }
    let lowest =
        || free_nsid(vdisks().map(|vdisk| vdisk.nsid)).expect("a group has at most 32 virtual disks");
    let nsid = spec.nsid.unwrap_or_else(lowest);
    if nsid == 0 || nsid > NSID_MAX {
        return Err(RequestError::Nsid(nsid));
    }
    if vdisks().any(|other| other.nsid == nsid) {
        return Err(RequestError::NsidTaken(nsid));
    }
    let (start, blocks) = place(record, spec.size)?;
    let vdisk = VdiskRecord {
        nsid,
        name: spec.name.clone(),
        uuid: spec.uuid,
        nguid: spec.nguid,
        start,
        blocks,
        ports: spec.ports,
        leaving: false,
        replication: spec.replication,
    };
    let at = record.vdisks.partition_point(|other| other.start < start);
    record.vdisks.insert(at, vdisk.clone());
    Ok(vdisk)
}

/// Finds the first block of an extent, and the blocks that hosts will see.
fn place(record: &GroupRecord, size: VdiskSize) -> Result<(GroupLba, u64), RequestError> {
    let largest = record.free_extents().map(|(_, blocks)| blocks).max().unwrap_or(0);
    let no_space = RequestError::NoSpace {
        largest_free_blocks: largest,
    };
    let blocks = match size {
        VdiskSize::Blocks(0) => return Err(RequestError::Empty),
        VdiskSize::Blocks(blocks) => blocks,
        VdiskSize::LargestFree if largest == 0 => return Err(no_space),
        VdiskSize::LargestFree => largest,
    };
    let (start, _) = record
        .free_extents()
        .find(|&(_, free)| free >= blocks)
        .ok_or(no_space)?;
    Ok((GroupLba(start), blocks))
}

/// Makes a virtual disk larger where it is. Says why not if it cannot be, and nothing of it changes then.
pub(super) fn resize(
    record: &mut GroupRecord,
    nsid: u32,
    size: VdiskSize,
) -> Result<VdiskRecord, RequestError> {
    let most = record.blocks_max(nsid).ok_or(RequestError::NoSuchVdisk(nsid))?;
    let vdisk = staying(record, nsid)?;
    let blocks = match size {
        VdiskSize::Blocks(blocks) => blocks,
        VdiskSize::LargestFree => most,
    };
    match size {
        VdiskSize::Blocks(blocks) if blocks <= vdisk.blocks => {
            Err(RequestError::Shrinks { blocks: vdisk.blocks })
        }
        VdiskSize::Blocks(_) | VdiskSize::LargestFree if blocks > most || most == vdisk.blocks => {
            Err(RequestError::NoSpaceBehind { blocks_max: most })
        }
        VdiskSize::Blocks(_) | VdiskSize::LargestFree => {
            vdisk.blocks = blocks;
            Ok(vdisk.clone())
        }
    }
}

/// The virtual disk of this number, unless it is on its way out.
fn staying(record: &mut GroupRecord, nsid: u32) -> Result<&mut VdiskRecord, RequestError> {
    let vdisk = record.vdisks.iter_mut().find(|vdisk| vdisk.nsid == nsid);
    let vdisk = vdisk.ok_or(RequestError::NoSuchVdisk(nsid))?;
    if vdisk.leaving {
        Err(RequestError::AlreadyLeaving(nsid))
    } else {
        Ok(vdisk)
    }
}

/// Changes what a virtual disk is beside its place. Says why not if it cannot be, and nothing changes then.
pub(super) fn change(
    record: &mut GroupRecord,
    nsid: u32,
    change: VdiskChange,
) -> Result<VdiskRecord, RequestError> {
    let vdisk = staying(record, nsid)?;
    match change {
        VdiskChange::Port(slot, change) => change_port(vdisk, slot, change)?,
        VdiskChange::Replication(replication) => vdisk.replication = replication,
    }
    Ok(vdisk.clone())
}

fn change_port(vdisk: &mut VdiskRecord, slot: Slot, change: PortChange) -> Result<(), RequestError> {
    let has = vdisk.ports.contains(slot);
    match change {
        PortChange::Add if has => Err(RequestError::PortExists(slot)),
        PortChange::Delete { .. } if !has => Err(RequestError::NoSuchPort(slot)),
        PortChange::Delete { nodes, force: false } if vdisk.ports.and(nodes).without(slot).is_empty() => {
            Err(RequestError::LastPort(slot))
        }
        PortChange::Add => {
            vdisk.ports = vdisk.ports.with(slot);
            Ok(())
        }
        PortChange::Delete { .. } => {
            vdisk.ports = vdisk.ports.without(slot);
            Ok(())
        }
    }
}

/// Notes that a virtual disk is on its way out. Says why not if it cannot go.
pub(super) fn leave(record: &mut GroupRecord, nsid: u32) -> Result<(), RequestError> {
    staying(record, nsid)?.leaving = true;
    Ok(())
}
