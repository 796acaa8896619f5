//! What a record says while its group is being laid out anew over more members.

use super::{GroupRecord, HEAD_BYTES, RecordError};
use crate::amf::expansion::{Layout, ScratchArea, ScratchState};
use crate::drive::block::MemberLba;

impl GroupRecord {
    /// Members of the layout by which hosts' capacity is counted: until an expansion is over, the old one (PROTOCOL I13).
    pub(super) fn host_width(&self) -> u8 {
        self.expansion
            .map_or_else(|| self.width(), |expansion| expansion.old_members)
    }

    /// The members of the layout that an expansion began with, as a mask; all of them if there is none.
    pub fn old_members_mask(&self) -> u32 {
        u32::MAX >> (u32::BITS - u32::from(self.host_width()))
    }

    /// Whether all data can still be had without the members in this mask: in the old layout as well as in the new one, as far as
    /// anything is there.
    pub fn survives(&self, failed: u32) -> bool {
        let new = self.level.survives(self.width(), failed);
        let Some(expansion) = self.expansion else {
            return new;
        };
        let old_members = failed & self.old_members_mask();
        let old = self.level.survives(expansion.old_members, old_members);
        old && (new || self.is_untouched())
    }

    /// Whether an expansion is going on and no new row is anywhere yet, so that the new members do not matter.
    pub fn is_untouched(&self) -> bool {
        self.expansion.is_some_and(|expansion| {
            let is_held = match expansion.scratch {
                ScratchState::Clean | ScratchState::Dirty => false,
                ScratchState::Holds { .. } => true,
            };
            expansion.frontier == 0 && !is_held
        })
    }

    /// Where the first rows of an expansion go before they are put in their place: the lane of the journal that only replay uses, or
    /// without a journal what was left free before the data. `None` if there is no room.
    pub fn scratch_area(&self) -> Option<ScratchArea> {
        let (start, blocks) = match self.journal {
            Some(journal) => {
                let lane = u64::from(journal.lane_blocks);
                (journal.start.0 + u64::from(journal.lanes) * lane, lane)
            }
            None => {
                let head = HEAD_BYTES / u64::from(self.block.bytes());
                (head, self.data_start.0 - head)
            }
        };
        (blocks > 0).then_some(ScratchArea {
            start: MemberLba(start),
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
        })
    }

    /// Where every block is now.
    ///
    /// Panics if the record was never checked.
    pub fn layout(&self) -> Layout {
        Layout::of(self.geometry(), self.expansion).expect("a checked record describes a layout")
    }

    /// Rows of a group over so many members that fit the scratch area.
    pub fn scratch_rows(&self, members: u8) -> u64 {
        let row = u64::from(self.level.member_strips(members)) * u64::from(self.strip_blocks);
        self.scratch_area().map_or(0, |area| u64::from(area.blocks) / row)
    }

    /// Checks that an expansion leads from one layout to a wider one in which rows have the same place.
    pub(super) fn check_widening(&self) -> Result<(), RecordError> {
        let (Some(expansion), new) = (self.expansion, self.width()) else {
            return Ok(());
        };
        let old = expansion.old_members;
        let wider = old >= self.level.members_min()
            && old < new
            && self.level.data_columns(old) < self.level.data_columns(new)
            && self.level.member_strips(old) == self.level.member_strips(new);
        if wider {
            Ok(())
        } else {
            Err(RecordError::Expansion)
        }
    }

    /// Checks the progress of an expansion against everything else.
    pub(super) fn check_expansion(&self) -> Result<(), RecordError> {
        let Some(expansion) = self.expansion else {
            return Ok(());
        };
        let scratch = match expansion.scratch {
            ScratchState::Clean | ScratchState::Dirty => true,
            ScratchState::Holds { to } => {
                let rows = to.checked_sub(expansion.frontier);
                let fits = |rows| (1..=self.scratch_rows(self.width())).contains(&rows);
                // The last rows are cleared, and nothing goes through the scratch area for that.
                to < self.rows && rows.is_some_and(fits)
            }
        };
        if scratch && expansion.frontier < self.rows && !self.forming {
            Ok(())
        } else {
            Err(RecordError::Expansion)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{expanding, small, striped};
    use super::super::{Level, ParityState};
    use super::*;
    use crate::amf::expansion::ExpansionRecord;

    fn broken(change: impl FnOnce(&mut GroupRecord)) -> Result<(), RecordError> {
        let mut superblock = expanding();
        change(&mut superblock.record);
        superblock.check()
    }

    fn with(change: impl FnOnce(&mut ExpansionRecord)) -> Result<(), RecordError> {
        broken(|record| change(record.expansion.as_mut().unwrap()))
    }

    /// I13.
    #[test]
    fn capacity_is_the_old_one_until_the_end() {
        let mut record = expanding().record;
        assert_eq!(record.capacity_blocks(), small().record.capacity_blocks());
        record.expansion = None;
        assert_eq!(record.capacity_blocks(), small().record.capacity_blocks() / 2 * 3);
    }

    #[test]
    fn progress_that_cannot_be_is_refused() {
        assert_eq!(broken(|_| ()), Ok(()));
        for old in [0, 1, 4, 5, 255] {
            assert_eq!(
                with(|e| e.old_members = old),
                Err(RecordError::Expansion),
                "{old}"
            );
        }
        let held = |from, to| {
            move |e: &mut ExpansionRecord| {
                (e.frontier, e.scratch) = (from, ScratchState::Holds { to });
            }
        };
        for (from, to) in [(7, 6), (6, 6), (31, 33), (33, 34), (0, u64::MAX)] {
            assert_eq!(
                with(held(from, to)),
                Err(RecordError::Expansion),
                "{from} to {to}"
            );
        }
        for (frontier, legal) in [(31, Ok(())), (32, Err(RecordError::Expansion))] {
            let verdict = with(|e| (e.frontier, e.scratch) = (frontier, ScratchState::Dirty));
            assert_eq!(verdict, legal, "an expansion that is over has no record");
        }
        assert_eq!(with(held(30, 31)), Ok(()));
        assert_eq!(with(held(31, 32)), Err(RecordError::Expansion));
        // The recovery lane has 60 blocks, and a strip 16.
        assert_eq!(with(held(5, 8)), Ok(()));
        assert_eq!(with(held(5, 9)), Err(RecordError::Expansion));
        let forming = broken(|record| {
            record.vdisks.clear();
            (record.forming, record.clean) = (true, true);
        });
        assert_eq!(forming, Err(RecordError::Expansion));
    }

    #[test]
    fn mirrors_of_one_strip_get_no_wider_and_pairs_stay_pairs() {
        let mirrored = broken(|record| record.level = Level::Raid1);
        assert_eq!(mirrored, Err(RecordError::Expansion));
        let odd = broken(|record| {
            record.level = Level::Raid10;
            record.rows = 16;
            record.parity = ParityState::Trusted;
        });
        assert_eq!(
            odd,
            Err(RecordError::Expansion),
            "three members have rows of another shape than four"
        );
    }

    #[test]
    fn what_may_be_lost_is_what_both_layouts_survive() {
        let mut record = expanding().record;
        record.members.push(record.members[0]);
        let mut at = |frontier, scratch| {
            let expansion = record.expansion.as_mut().unwrap();
            (expansion.frontier, expansion.scratch) = (frontier, scratch);
            record.clone()
        };
        for scratch in [ScratchState::Clean, ScratchState::Dirty] {
            let record = at(0, scratch);
            assert!(record.survives(0b11000), "nothing is on the new members yet");
            assert!(!record.survives(0b00110) && record.survives(0b11010));
        }
        for (frontier, scratch) in [(0, ScratchState::Holds { to: 1 }), (2, ScratchState::Dirty)] {
            let record = at(frontier, scratch);
            assert!(!record.survives(0b11000) && !record.survives(0b00110) && !record.survives(0b10010));
            assert!(record.survives(0b10000) && record.survives(0b00001));
        }
    }

    #[test]
    fn scratch_is_the_recovery_lane_or_what_is_free_before_the_data() {
        let area = expanding().record.scratch_area().unwrap();
        assert_eq!((area.start, area.blocks), (MemberLba(256 + 3 * 60), 60));
        assert_eq!(expanding().record.scratch_rows(4), 3);
        let mut record = striped(2).record;
        let area = record.scratch_area().unwrap();
        assert_eq!((area.start, area.blocks), (MemberLba(256), 256));
        record.data_start = MemberLba(256);
        assert_eq!((record.scratch_area(), record.scratch_rows(3)), (None, 0));
    }
}
