//! Virtual disks: what hosts see as namespaces, as runs of blocks of a redundancy group.
//!
//! Owns the translation of namespace blocks to group blocks and the bounds check that comes with it.
//! Knows no rows, members or drives.

use thiserror::Error;

use crate::amf::superblock::VdiskRecord;
use crate::drive::block::{GroupLba, NamespaceLba};

/// One virtual disk, as the data path needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualDisk {
    nsid: u32,
    start: GroupLba,
    blocks: u64,
}

/// The blocks lie outside of the virtual disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("blocks beyond the end of the virtual disk")]
pub struct OutOfRange;

impl VirtualDisk {
    /// The virtual disk that a record describes.
    ///
    /// Panics if it ends beyond the last block that can be counted, which a checked record rules out.
    pub fn new(record: &VdiskRecord) -> Self {
        assert!(record.blocks > 0, "a virtual disk has blocks");
        assert!(
            record.start.0.checked_add(record.blocks).is_some(),
            "a virtual disk lies inside its group"
        );
        Self {
            nsid: record.nsid,
            start: record.start,
            blocks: record.blocks,
        }
    }

    /// Its namespace identifier.
    pub const fn nsid(&self) -> u32 {
        self.nsid
    }

    /// Blocks that hosts see: the namespace's size and capacity.
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The group's first block behind it.
    pub const fn group_end(&self) -> GroupLba {
        GroupLba(self.start.0 + self.blocks)
    }

    /// Where a range of blocks starts in the group; the range is as long there, without gaps.
    ///
    /// Errs if any of the blocks is outside of the virtual disk, also if `lba + blocks` overflows.
    pub const fn group_range(&self, lba: NamespaceLba, blocks: u64) -> Result<GroupLba, OutOfRange> {
        match lba.0.checked_add(blocks) {
            Some(end) if end <= self.blocks => Ok(GroupLba(self.start.0 + lba.0)),
            Some(_) | None => Err(OutOfRange),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amf::replication::ReplicationMode;
    use crate::amf::superblock::{Name, PORTS_ALL, Uuid};

    fn disk() -> VirtualDisk {
        VirtualDisk::new(&VdiskRecord {
            nsid: 7,
            name: Name::parse("v").unwrap(),
            uuid: Uuid([1; 16]),
            nguid: [2; 16],
            start: GroupLba(1000),
            blocks: 100,
            ports: PORTS_ALL,
            leaving: false,
            replication: ReplicationMode::Sync,
        })
    }

    #[test]
    fn every_block_maps_behind_the_start() {
        for lba in 0..100 {
            assert_eq!(
                disk().group_range(NamespaceLba(lba), 100 - lba),
                Ok(GroupLba(1000 + lba))
            );
        }
        assert_eq!((disk().nsid(), disk().blocks()), (7, 100));
        assert_eq!(disk().group_end(), GroupLba(1100));
    }

    #[test]
    fn blocks_past_the_end_are_refused() {
        for (lba, blocks) in [
            (0, 101),
            (99, 2),
            (100, 1),
            (1 << 40, 1),
            (u64::MAX, 1),
            (1, u64::MAX),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(
                disk().group_range(NamespaceLba(lba), blocks),
                Err(OutOfRange),
                "{lba}+{blocks}"
            );
        }
    }
}
