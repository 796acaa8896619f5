//! What a replay says to the next one, and what it heeds of the one before ([`mark`]).
//!
//! - Before anything is written in place without a member that is not there, that is said. The member may come back before any superblock says that it is lost,
//!   and must not be read then: it has missed what was written.
//! - Before the first round it is said which destages are in place, of those rows that rounds write. The record of a round is lost with the next one. A run that
//!   found the older destage then, and not the round's, would write the row's old check data over that which belongs to the newer data, and with a lost member
//!   nothing would tell what that had held.

use std::collections::{BTreeMap, VecDeque};

use super::image::RowStory;
use super::{Replay, ReplayError, Step};
use crate::amf::journal::mark::{self, Mark};
use crate::amf::journal::scan::FoundMark;
use crate::amf::{MemberIndex, RowIndex};

impl Replay {
    /// Goes by what an earlier replay has left.
    pub(super) fn heed_mark(&mut self) -> Result<(), ReplayError> {
        let Some(FoundMark { mark, .. }) = &self.found.mark else {
            return Ok(());
        };
        let mut came_back = self
            .all()
            .filter(|member| mark.without & !self.gone() & 1 << member.0 != 0);
        if let Some(member) = came_back.next() {
            return Err(ReplayError::LeftOut { member });
        }
        for (row, story) in &mut self.rows {
            if let Some(seq) = mark.in_place.get(row) {
                story.pass_over(*seq);
            }
        }
        Ok(())
    }

    /// Says which members it goes on without, if that has not been said.
    pub(super) fn say_who_is_gone(&mut self) {
        let gone = self.gone();
        let is_said = |found: &FoundMark| {
            found.mark.without == gone && found.members & self.live_mask() == self.live_mask()
        };
        let is_needed = gone != 0 && !self.rows.is_empty() && !self.layout.widest().level().is_mirror();
        if is_needed && !self.found.mark.as_ref().is_some_and(is_said) {
            self.write_mark(self.carried());
        }
        self.step = Step::SayingWhoIsGone;
    }

    /// Says which destages are in place of rows that have newer data, if that has not been said.
    pub(super) fn say_what_is_in_place(&mut self) {
        let in_place = name_rows(self.carried(), &mut self.later, mark::rows_max(&self.journal));
        let is_said = |found: &FoundMark| {
            found.mark.in_place == in_place && found.members & self.live_mask() == self.live_mask()
        };
        if !self.later.is_empty() && !in_place.is_empty() && !self.found.mark.as_ref().is_some_and(is_said) {
            self.write_mark(in_place);
        }
        self.step = Step::SayingWhatIsInPlace;
    }

    /// What the last mark says that still matters.
    fn carried(&self) -> BTreeMap<RowIndex, u64> {
        let mut in_place = self
            .found
            .mark
            .as_ref()
            .map_or_else(BTreeMap::new, |found| found.mark.in_place.clone());
        let lanes = 0..self.journal.recovery_lane() + 1;
        in_place.retain(|_, seq| self.found.counts_anywhere(lanes.clone(), *seq));
        in_place
    }

    /// Writes the next mark to all members that are there, beside the last one that is whole.
    fn write_mark(&mut self, in_place: BTreeMap<RowIndex, u64>) {
        let last = self.found.mark.as_ref().map(|found| found.mark.number);
        let mut number = self.found.mark_number + 1;
        if last.is_some_and(|last| last % 2 == number % 2) {
            number += 1;
        }
        let mark = Mark {
            number,
            without: self.gone(),
            seq: self.found.next_seq,
            in_place,
        };
        self.found.next_seq += 1;
        self.found.mark_number = number;
        let bytes = mark::encode(&mark, &self.journal);
        let lba = self.journal.lba(
            self.journal.recovery_lane(),
            mark::position(&self.journal, number),
        );
        for member in self.live().collect::<Vec<_>>() {
            self.write(member, lba, &bytes, true);
        }
        let members = self.live_mask();
        self.found.mark = Some(FoundMark { mark, members });
    }

    /// Members of which nothing is there, as a mask.
    const fn gone(&self) -> u32 {
        self.members.failed & !self.members.rebuilding
    }

    fn live_mask(&self) -> u32 {
        self.live()
            .fold(0, |mask, MemberIndex(member)| mask | 1 << member)
    }
}

/// Adds the rows of the rounds that have a destage, as far as there is room. Those that are left out go to the end: the last round's record is not lost to another
/// one. For more than that they have to be very many.
fn name_rows(
    mut in_place: BTreeMap<RowIndex, u64>,
    later: &mut VecDeque<(RowIndex, RowStory)>,
    room: usize,
) -> BTreeMap<RowIndex, u64> {
    let (mut named, mut unnamed) = (VecDeque::with_capacity(later.len()), VecDeque::new());
    for (row, story) in later.drain(..) {
        match story.newest_destage() {
            Some(_) if in_place.len() >= room && !in_place.contains_key(&row) => {
                unnamed.push_back((row, story));
                continue;
            }
            Some(seq) => drop(in_place.insert(row, seq)),
            None => {}
        }
        named.push_back((row, story));
    }
    named.append(&mut unnamed);
    *later = named;
    in_place
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a mark has no room for comes last; what was named before stays, with what is in place by now.
    #[test]
    fn rows_without_room_come_last() {
        let mut later: VecDeque<_> = [
            (1, Some(10)),
            (2, None),
            (3, Some(30)),
            (4, Some(40)),
            (5, Some(50)),
        ]
        .into_iter()
        .map(|(row, destage)| (RowIndex(row), RowStory::with_destage(destage)))
        .collect();
        let carried = [(RowIndex(4), 7), (RowIndex(9), 90)].into();
        let named = name_rows(carried, &mut later, 3);
        let expected = [(1, 10), (4, 40), (9, 90)].map(|(row, seq)| (RowIndex(row), seq));
        assert_eq!(named, expected.into());
        let order: Vec<_> = later.iter().map(|(row, _)| row.0).collect();
        assert_eq!(order, [1, 2, 4, 3, 5]);
    }
}
