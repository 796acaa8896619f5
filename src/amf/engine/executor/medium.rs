//! What drives hold: user data as it is without engines, and the bytes of the journal.

use std::sync::Arc;

use nvme::crc32c;

use super::{Action, BLOCK, Core, World, drive_io};
use crate::amf::code::{Solution, factor, mul};
use crate::amf::engine::Place;
use crate::amf::geometry::StripPlace;
use crate::amf::journal::parse;
use crate::amf::{MemberIndex, RowIndex};
use crate::drive::block::{GroupLba, MemberLba};

/// What stands for a header where a block is one byte.
const HEADER: u8 = 0x5E;

impl World {
    /// Whether check data matches data in every row, and copies one another.
    pub fn parity_matches(&self) -> bool {
        let rows = (0..self.geometry.rows()).map(RowIndex);
        rows.filter(|row| !self.layout.is_dead(*row)).all(|row| {
            let g = self.layout.geometry_of_row(row);
            let blocks = 0..g.strip_blocks();
            blocks.clone().all(|offset| {
                let data = |column| self.byte(row, g.copy_place(row, column, 0), offset);
                let copies = (0..g.data_members()).all(|column| {
                    (1..g.copies())
                        .all(|copy| self.byte(row, g.copy_place(row, column, copy), offset) == data(column))
                });
                let checks = (0..g.check_strips()).all(|index| {
                    let sum = (0..g.data_members())
                        .fold(0, |sum, column| sum ^ mul(factor(index, column), data(column)));
                    sum == self.check(row, index, offset)
                });
                copies && checks
            })
        })
    }

    fn byte(&self, row: RowIndex, place: StripPlace, offset: u32) -> u8 {
        let lba = self.geometry.member_lba(row, place.start_blocks + offset);
        self.drives[usize::from(place.member.0)][usize::try_from(lba.0).expect("small")]
    }

    fn check(&self, row: RowIndex, index: u8, offset: u32) -> u8 {
        let geometry = self.layout.geometry_of_row(row);
        let member = geometry.check_member(row, index).expect("it has one");
        let start_blocks = 0;
        self.byte(row, StripPlace { member, start_blocks }, offset)
    }

    /// What the drives hold, without the engine: lost strips are regenerated.
    pub fn contents(&self, failed: u32) -> Vec<u8> {
        let block = |lba| {
            let g = self.layout.geometry(self.layout.side(GroupLba(lba)));
            let at = g.locate(GroupLba(lba));
            let (row, offset) = (at.row, at.offset_blocks);
            let mut copies = (0..g.copies()).map(|copy| g.copy_place(row, at.column, copy));
            if let Some(place) = copies.find(|place| failed >> place.member.0 & 1 == 0) {
                return self.byte(row, place, offset);
            }
            let lost = |member: MemberIndex| failed >> member.0 & 1 == 1;
            let columns = (0..g.data_members()).filter(|column| lost(g.data_member(row, *column)));
            let columns = columns.fold(0, |mask, column| mask | 1 << column);
            let live = |index: &u8| g.check_member(row, *index).is_some_and(|member| !lost(member));
            let checks = (0..3).filter(live).fold(0, |mask, index| mask | 1 << index);
            let solution = Solution::new(columns, checks).expect("the loss is survived");
            let which = solution.columns().iter().position(|lost| *lost == at.column);
            let which = which.expect("it is lost");
            let mut sum = 0;
            for (source, index) in solution.checks().iter().enumerate() {
                sum ^= mul(
                    solution.check_factor(which, source),
                    self.check(row, *index, offset),
                );
            }
            for column in (0..g.data_members()).filter(|column| columns >> column & 1 == 0) {
                let data = self.byte(row, g.copy_place(row, column, 0), offset);
                sum ^= mul(solution.column_factor(which, column), data);
            }
            sum
        };
        (0..self.layout.capacity_blocks()).map(block).collect()
    }

    pub(super) fn seal(&mut self, core: usize, slot: u8, offset_bytes: u32, payload_bytes: u32) {
        let at = (offset_bytes / BLOCK) as usize;
        let payload = &self.cores[core].ring[at + 1..][..(payload_bytes / BLOCK) as usize];
        let mut crc = 0;
        if self.several.is_some() {
            for byte in payload {
                crc = crc32c::portable(crc, &[*byte; BLOCK as usize]);
            }
        }
        let mut header = vec![0; BLOCK as usize];
        self.cores[core].engine.seal(slot, crc, &mut header);
        assert!(parse(&header).is_ok(), "a header can be read back");
        self.cores[core].ring[at] = HEADER;
        self.cores[core].headers.insert(at, header);
    }

    /// A sealed batch in the ring of a core, as it is on the medium.
    pub fn batch_bytes(&self, core: usize, offset_bytes: u32, bytes: u32) -> Arc<[u8]> {
        let at = (offset_bytes / BLOCK) as usize;
        let Core { ring, headers, .. } = &self.cores[core];
        let payload = &ring[at + 1..at + (bytes / BLOCK) as usize];
        let payload = payload.iter().flat_map(|byte| [*byte; BLOCK as usize]);
        headers[&at].iter().copied().chain(payload).collect()
    }

    /// A write has come to the medium: if that is the journal of a shared group, it begins with a header.
    pub(super) fn note_header(
        &mut self,
        core: usize,
        (member, lba): (MemberIndex, MemberLba),
        blocks: u32,
        from: Place,
    ) {
        if self.several.is_none() || lba < self.founding.journal_start {
            return;
        }
        let Place::Ring { offset_bytes } = from else {
            panic!("the journal is written from the ring");
        };
        let header = self.cores[core].headers.get(&((offset_bytes / BLOCK) as usize));
        let header = header.expect("a batch is sealed before it is written").clone();
        let first = at(lba);
        for block in first..first + blocks as usize {
            self.headers.remove(&(usize::from(member.0), block));
        }
        self.headers.insert((usize::from(member.0), first), header);
    }

    /// A block as it is on the medium.
    pub fn block(&self, member: MemberIndex, lba: MemberLba) -> Vec<u8> {
        let (drive, block) = (usize::from(member.0), at(lba));
        let header = self.headers.get(&(drive, block)).cloned();
        header.unwrap_or_else(|| vec![self.drives[drive][block]; BLOCK as usize])
    }

    /// Writes a block to the medium, durably or not.
    pub fn put_block(&mut self, member: MemberIndex, lba: MemberLba, data: &[u8], is_durable: bool) {
        let (drive, block) = (usize::from(member.0), at(lba));
        // Headers and marks; payloads are one byte, like data.
        let is_said = data.iter().any(|other| *other != data[0]);
        let is_header = lba >= self.founding.journal_start && is_said;
        let byte = if is_header { HEADER } else { data[0] };
        self.headers.remove(&(drive, block));
        if is_header {
            assert!(is_durable, "the journal is written durably");
            self.headers.insert((drive, block), data.to_vec());
        } else {
            assert!(data.iter().all(|other| *other == byte), "a block is one byte");
        }
        self.drives[drive][block] = byte;
        if is_durable {
            self.stable[drive][block] = byte;
        }
    }

    /// Whoever gave this drive command is gone: it has had its effect, or not, or in part.
    pub fn end_drive_command(&mut self, core: usize, action: &Action) {
        let member = drive_io(action).1;
        if self.random.chance(30) {
            return;
        }
        let is_whole = self.random.chance(60);
        let (first, blocks, fua) = if let Action::DriveWrite { lba, blocks, fua, .. } = *action {
            (lba.0, u64::from(blocks), fua)
        } else if let Action::DriveZero { lba, blocks, .. } = *action {
            (lba.0, u64::from(blocks), false)
        } else {
            (0, 0, false)
        };
        let lbas = (first..first + blocks).map(MemberLba);
        let drive = usize::from(member.0);
        let old: Vec<_> = lbas
            .map(|lba| (lba, self.block(member, lba), self.stable[drive][at(lba)]))
            .collect();
        self.transfer(core, action);
        for (lba, block, stable) in old {
            if !is_whole && self.random.chance(50) {
                self.put_block(member, lba, &block, fua);
                self.stable[drive][at(lba)] = stable;
            }
        }
    }

    /// The power of all drives goes: of what was not flushed any block may be lost.
    pub fn lose_power(&mut self) {
        for drive in 0..self.drives.len() {
            for block in 0..self.drives[drive].len() {
                if self.drives[drive][block] != self.stable[drive][block] && self.random.chance(50) {
                    self.drives[drive][block] = self.stable[drive][block];
                }
            }
            self.stable[drive] = self.drives[drive].clone();
        }
    }
}

fn at(lba: MemberLba) -> usize {
    usize::try_from(lba.0).expect("small")
}
