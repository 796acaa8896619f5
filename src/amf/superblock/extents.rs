//! Which blocks of a group belong to which virtual disk.
//!
//! A virtual disk gets rows of its own when it is made, as rows are then. An expansion makes rows longer and moves no block to
//! another address, so from then on two virtual disks may share a row; they never share a strip.

use super::{GroupRecord, RecordError, Uuid, VDISKS_MAX, VdiskRecord};

impl VdiskRecord {
    /// Whether a host could take the two for one.
    pub fn shares_identity(&self, other: &Self) -> bool {
        self.nsid == other.nsid
            || self.name == other.name
            || self.uuid == other.uuid
            || self.nguid == other.nguid
    }

    /// The block behind the last strip that it reserves; `None` if that cannot be counted.
    pub fn end_block(&self, strip_blocks: u32) -> Option<u64> {
        let end = self.start.0.checked_add(self.blocks)?;
        end.checked_next_multiple_of(u64::from(strip_blocks))
    }
}

impl GroupRecord {
    /// Free runs of whole rows, as rows are now: first block and blocks of each, in order.
    pub fn free_extents(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let row = self.row_blocks();
        self.gaps().filter_map(move |(from, to)| {
            let (from, to) = (from.next_multiple_of(row), to - to % row);
            (from < to).then(|| (from, to - from))
        })
    }

    /// What lies between virtual disks, before the first and behind the last: first block and the block behind; some are empty.
    fn gaps(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let taken = self.vdisks.iter().map(|vdisk| {
            let end = vdisk.end_block(self.strip_blocks);
            (vdisk.start.0, end.expect("a checked extent lies in the group"))
        });
        let end = std::iter::once((self.capacity_blocks(), 0));
        taken.chain(end).scan(0, |next, (start, end)| {
            let gap = (*next, start);
            *next = end;
            Some(gap)
        })
    }

    /// The most blocks that a virtual disk can have where it is; `None` if the group has none with this number.
    pub fn blocks_max(&self, nsid: u32) -> Option<u64> {
        let at = self.vdisks.iter().position(|vdisk| vdisk.nsid == nsid)?;
        let next = self.vdisks.get(at + 1).map(|next| next.start.0);
        Some(next.unwrap_or_else(|| self.capacity_blocks()) - self.vdisks[at].start.0)
    }

    /// Whether a virtual disk begins within a row, as only an expansion leaves it.
    pub(super) fn has_shared_rows(&self) -> bool {
        let row = self.row_blocks();
        let mut vdisks = self.vdisks.iter();
        vdisks.any(|vdisk| !vdisk.start.0.is_multiple_of(row))
    }

    pub(super) fn check_vdisks(&self) -> Result<(), RecordError> {
        if self.vdisks.len() > VDISKS_MAX {
            return Err(RecordError::Vdisks);
        }
        let mut free_from = 0;
        for (index, vdisk) in self.vdisks.iter().enumerate() {
            if vdisk.nsid == 0 || vdisk.nsid == u32::MAX {
                return Err(RecordError::Nsid);
            }
            if vdisk.uuid == Uuid::NIL {
                return Err(RecordError::NilUuid);
            }
            if self.vdisks[..index]
                .iter()
                .any(|other| other.shares_identity(vdisk))
            {
                return Err(RecordError::VdiskTwice);
            }
            let on_strip = vdisk.start.0.is_multiple_of(u64::from(self.strip_blocks));
            let end = vdisk
                .end_block(self.strip_blocks)
                .filter(|end| *end <= self.capacity_blocks());
            match end {
                Some(end) if on_strip && vdisk.blocks > 0 && vdisk.start.0 >= free_from => free_from = end,
                Some(_) | None => return Err(RecordError::Extent),
            }
        }
        Ok(())
    }
}
