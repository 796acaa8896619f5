//! Rows of which single blocks cannot be read, in groups with a journal: what redundancy gives back is never called lost, what it
//! does not is refused until it is written, and nothing waits for it.

use super::*;
use crate::amf::MemberIndex;
use crate::amf::geometry::Level;
use crate::drive::block::GroupLba;

/// A group with a journal whose drives lose single blocks.
struct Broken {
    world: World,
    /// What each block was last written with.
    model: Vec<u8>,
    /// Blocks that no combination of strips gave back at some time since they were written.
    may_be_lost: Vec<bool>,
    /// Refused reads, and blocks that were on the list.
    refused: u32,
    lost: u32,
    /// Reads that went round blocks of more members than the level may lose.
    kept: u32,
}

impl Broken {
    fn new(level: Level, members: u8, seed: u64) -> Self {
        let shape = Shape {
            level,
            members,
            cores: 2,
            journal: Some(Durability::Journal),
            ..Shape::SMALL
        };
        let world = World::new(&shape, seed);
        let capacity = world.capacity();
        let mut broken = Self {
            world,
            model: vec![0; capacity],
            may_be_lost: vec![false; capacity],
            refused: 0,
            lost: 0,
            kept: 0,
        };
        for start in (0..capacity).step_by(8) {
            broken.write(start, 8.min(capacity - start));
        }
        broken.world.drain();
        broken
    }

    fn write(&mut self, start: usize, blocks: usize) {
        let data: Vec<u8> = (0..blocks).map(|_| self.world.random.byte()).collect();
        self.model[start..start + blocks].copy_from_slice(&data);
        self.may_be_lost[start..start + blocks].fill(false);
        let core = self.world.random.index(2);
        self.world.write(core, 0, start as u64, &data);
        self.world.settle();
        assert_eq!(self.world.result(core, 0), Some(Ok(())), "no write is refused");
    }

    /// The places of a block: of each copy, or its one; and the members that hold something at the same offset of the strips.
    fn copies(&self, lba: usize) -> Vec<(MemberIndex, usize)> {
        let geometry = self.world.geometry;
        let (row, at) = geometry.row_of(GroupLba(lba as u64));
        let strip = geometry.strip_blocks();
        let column = u8::try_from(at / strip).expect("few columns");
        let place = |copy| {
            let place = geometry.copy_place(row, column, copy);
            let offset = place.start_blocks + at % strip;
            let at = geometry.member_lba(row, offset).0;
            (place.member, usize::try_from(at).expect("small"))
        };
        (0..geometry.copies()).map(place).collect()
    }

    fn is_bad(&self, (member, at): (MemberIndex, usize)) -> bool {
        let failed = self.world.members.failed >> member.0 & 1 == 1;
        failed || self.world.bad_blocks.contains(&(usize::from(member.0), at))
    }

    /// Whether the strips that can be read give a block back.
    fn is_given_back(&self, lba: usize) -> bool {
        let geometry = self.world.geometry;
        let copies = self.copies(lba);
        if copies.iter().any(|place| !self.is_bad(*place)) {
            return true;
        }
        let at = copies[0].1;
        let bad = (0..geometry.members()).filter(|member| self.is_bad((MemberIndex(*member), at)));
        !geometry.level().is_mirror() && geometry.survives(bad.fold(0, |mask, member| mask | 1 << member))
    }

    /// Drives forget some blocks of one row, which is clean.
    fn break_blocks(&mut self) {
        let geometry = self.world.geometry;
        let row = RowIndex(self.world.random.below(geometry.rows()));
        for _ in 0..1 + self.world.random.below(6) {
            let member = self.world.random.index(usize::from(geometry.members()));
            let offset = self.world.random.below(u64::from(geometry.member_row_blocks()));
            let at = geometry.member_lba(row, 0).0 + offset;
            if self.world.members.failed >> member & 1 == 0 {
                let at = usize::try_from(at).expect("small");
                self.world.bad_blocks.insert((member, at));
            }
        }
        for lba in 0..self.model.len() {
            self.may_be_lost[lba] |= !self.is_given_back(lba);
        }
    }

    /// As the control core does.
    fn repair(&mut self) {
        for (member, row, offset_blocks, blocks) in std::mem::take(&mut self.world.media) {
            let request = Request::Repair {
                row,
                member,
                offset_blocks,
                blocks,
            };
            self.world.submit(0, 1, request);
            self.world.settle();
            assert_eq!(self.world.result(0, 1), Some(Ok(())), "the row is made whole");
        }
    }

    fn read_all(&mut self) {
        for lba in 0..self.model.len() {
            let core = self.world.random.index(2);
            let round = !self.copies(lba).iter().all(|place| !self.is_bad(*place));
            let is_lost = self.world.lost.contains_any(GroupLba(lba as u64), 1);
            self.world.read(core, 0, lba as u64, 1);
            self.world.settle();
            match self.world.result(core, 0) {
                Some(Ok(())) => {
                    assert!(!is_lost, "block {lba} is lost, and was read");
                    assert_eq!(
                        self.world.cores[core].buffers[0][0], self.model[lba],
                        "block {lba}"
                    );
                    self.kept += u32::from(round);
                }
                Some(Err(GroupError::Unreadable)) => {
                    assert!(self.may_be_lost[lba], "block {lba} can be given back");
                    self.refused += 1;
                }
                other => panic!("block {lba}: {other:?}"),
            }
            self.lost += u32::from(is_lost);
            assert!(!is_lost || self.may_be_lost[lba], "block {lba} is called lost");
        }
    }

    /// Whatever is read after every further loss is what is there now.
    fn check_redundancy(&mut self) {
        let failed = self.world.members.failed;
        assert!(failed != 0 || self.world.parity_matches());
        let contents = self.world.contents(failed);
        for member in 0..self.world.geometry.members() {
            if self.world.geometry.survives(failed | 1 << member) {
                assert_eq!(self.world.contents(failed | 1 << member), contents);
            }
        }
    }

    fn run(&mut self) {
        if self.world.random.chance(40) {
            let member = 1 << self.world.random.index(self.world.drives.len());
            self.world.fail_members(member);
            self.world.settle();
        }
        for _ in 0..12 {
            self.break_blocks();
            for _ in 0..self.world.random.below(6) {
                let start = self.world.random.index(self.model.len());
                let longest = (self.model.len() - start).min(8);
                let blocks = 1 + self.world.random.index(longest);
                self.write(start, blocks);
            }
            if self.world.random.chance(50) {
                self.world.drain();
            }
            self.read_all();
            self.repair();
            self.world.drain();
            assert!(self.world.faults.is_empty(), "no member fails for a few blocks");
            self.read_all();
            if self.world.bad_blocks.is_empty() {
                self.check_redundancy();
            }
        }
        // Whatever is lost is healed by writing it.
        let lost: Vec<u64> = self
            .world
            .lost
            .extents()
            .iter()
            .map(|extent| extent.lba.0)
            .collect();
        for lba in lost {
            let start = usize::try_from(lba).expect("small");
            let blocks = (self.model.len() - start).min(8);
            self.write(start, blocks);
        }
        self.write(0, 1);
        for start in (0..self.model.len()).step_by(8) {
            self.write(start, 8.min(self.model.len() - start));
        }
        self.world.drain();
        assert!(self.world.lost.is_empty(), "all was written");
        self.world.media.clear();
        self.read_all();
        self.check_redundancy();
        self.world.assert_idle();
    }
}

/// Goal: of every level, only blocks that nothing gives back are refused, drains end, and no member fails. Method: drives forget random
/// blocks of clean rows, hosts write and read, and repairs come as they are asked for.
#[test]
fn rows_with_unreadable_blocks_are_mended() {
    let shapes = [
        (Level::Raid1, 2),
        (Level::Raid1, 3),
        (Level::Raid10, 4),
        (Level::Raid10, 5),
        (Level::Raid5, 3),
        (Level::Raid5, 5),
        (Level::Raid6, 5),
        (Level::RaidTp, 6),
    ];
    for (level, members) in shapes {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..12 {
            let mut broken = Broken::new(level, members, seed);
            broken.run();
            assert!(broken.refused >= broken.lost);
            (lost, kept) = (lost + broken.lost, kept + broken.kept);
        }
        assert!(lost > 0 && kept > 0, "{level:?}: {lost} lost, {kept} kept");
    }
}
