//! The table of virtual disks: who gets which extent.

use super::{RequestError, VdiskSize, VdiskSpec};
use crate::amf::superblock::{GroupRecord, Uuid, VDISKS_MAX, VdiskRecord};
use crate::drive::block::GroupLba;

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

/// The free extents of a group in rows, `(first row, rows)`, in order.
pub(super) fn free_extents(record: &GroupRecord) -> impl Iterator<Item = (u64, u64)> + '_ {
    let taken = record
        .vdisks
        .iter()
        .map(|vdisk| (vdisk.start.0 / record.row_blocks(), record.rows_for(vdisk.blocks)));
    let end = std::iter::once((record.rows, 0));
    let gaps = taken.chain(end).scan(0, |next, (first, rows)| {
        let gap = (*next, first - *next);
        *next = first + rows;
        Some(gap)
    });
    gaps.filter(|&(_, rows)| rows > 0)
}

/// Blocks that no virtual disk has reserved.
pub(super) fn free_blocks(record: &GroupRecord) -> u64 {
    free_extents(record).map(|(_, rows)| rows).sum::<u64>() * record.row_blocks()
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
    let (first_row, blocks) = place(record, spec.size)?;
    let start = GroupLba(first_row * record.row_blocks());
    let vdisk = VdiskRecord {
        nsid,
        name: spec.name.clone(),
        uuid: spec.uuid,
        nguid: spec.nguid,
        start,
        blocks,
    };
    let at = record.vdisks.partition_point(|other| other.start < start);
    record.vdisks.insert(at, vdisk.clone());
    Ok(vdisk)
}

/// Finds the first row of an extent, and the blocks that hosts will see.
fn place(record: &GroupRecord, size: VdiskSize) -> Result<(u64, u64), RequestError> {
    let largest = free_extents(record).map(|(_, rows)| rows).max().unwrap_or(0);
    let no_space = RequestError::NoSpace {
        largest_free_blocks: largest * record.row_blocks(),
    };
    let (rows, blocks) = match size {
        VdiskSize::Blocks(0) => return Err(RequestError::Empty),
        VdiskSize::Blocks(blocks) => (record.rows_for(blocks), blocks),
        VdiskSize::LargestFree if largest == 0 => return Err(no_space),
        VdiskSize::LargestFree => (largest, largest * record.row_blocks()),
    };
    let (first_row, _) = free_extents(record)
        .find(|&(_, free)| free >= rows)
        .ok_or(no_space)?;
    Ok((first_row, blocks))
}
