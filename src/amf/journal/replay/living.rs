//! A replay beside living nodes: where several nodes share a group and one of them is gone, another one replays what it left while the others go on
//! ([`Replay::among_living`]). No lock is granted until that is over. So a row is either held by a living node, and then the one that is gone cannot have written it since,
//! or nobody touches it. Why every step is safe then:
//!
//! - *Settle*, and every other flush: makes durable what is there, whoever wrote it. What the node that is gone had in its place without
//!   a flush is durable from here on, also in rows that are held.
//! - *Scan*: rows that are held are left out, whatever any lane says of them. Of other rows living lanes are read, too, because an entry of theirs may be newer than one
//!   of the node that is gone. It is whole and committed, and not written over while this goes on: a living node keeps its tail at or below what the one that is gone
//!   had told it, and so at or below [`LivingNodes::retired`], until it hears that this is over. Below that number a living lane may have lost any of its entries and have others, and the node that is
//!   gone needs none of its own; so none counts, in no lane of a node. What a living node has let go of is in its place.
//! - *Spread* leaves living lanes alone: their nodes may be writing over what was read. Their batches of rows that nobody holds were committed, on as many members as that takes.
//! - *Redo* and *rounds* read and write rows that nobody holds. The recovery lane belongs to the one replay that goes on.
//! - Numbers of the rounds, and those that begin afterwards, are above all that the node that is gone can have used, also for entries that nobody can see now and
//!   that a member may bring back. Living nodes take numbers meanwhile, for other rows; they continue above [`Report::next_seq`] before they get any of these.
//! - The list of lost blocks is the group's, which may be writing it: nothing is added here, and a row that cannot be read is an error.
//!
//! Afterwards, and before any lock is granted, all living nodes retire what they have of entries below [`Report::next_seq`], and then it is made durable that entries below that are
//! over in *all* lanes. Only the lanes of the node that is gone would not do: an older entry of a living lane, of a row that went from there to the node that is gone,
//! would be the newest one again. And if a row were granted before, a destage that is newer than the rounds would be redone without them once the recovery lane has been used again.

use std::collections::BTreeSet;

use super::{Replay, Step, codec, image};
use crate::amf::RowIndex;
use crate::amf::superblock::LaneFloors;

/// Numbers that a node can have taken since it was heard last, by far: a thousand million writes of a few seconds.
const UNHEARD_NUMBERS: u64 = 1 << 32;

/// What goes on while a replay is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LivingNodes {
    /// Lanes of nodes that live, as a mask.
    pub lanes: u32,
    /// Rows that they hold, for reading or writing.
    pub rows: BTreeSet<RowIndex>,
    /// The nodes that are gone need no entry of theirs below this, and no living node's tail is above it until the replay is over: of what living nodes have heard of each of
    /// them the most, and of that the least. Only nodes count whose lanes are not over.
    pub retired: u64,
}

impl Replay {
    /// Says which entries are over, by lane: as the group's record has it. To be called before the start.
    #[must_use]
    pub fn with_floors(mut self, floors: LaneFloors) -> Self {
        assert_eq!(self.step, Step::Idle, "floors are known before the start");
        self.floors = floors;
        self.scan.set_floors(self.counting_from());
        self
    }

    /// Says that other nodes have the group open and go on; see the head of this file. To be called before the start.
    #[must_use]
    pub fn among_living(mut self, living: LivingNodes) -> Self {
        assert_eq!(self.step, Step::Idle, "who lives is known before the start");
        self.scan.set_living(living.lanes);
        self.living = Some(living);
        self.scan.set_floors(self.counting_from());
        self
    }

    /// Which entries of each lane do not count. The recovery lane is nobody's: it may have entries of a replay that was not heard of.
    fn counting_from(&self) -> LaneFloors {
        let mut floors = self.floors;
        let retired = self.living.as_ref().map_or(0, |living| living.retired);
        for floor in &mut floors[..usize::from(self.journal.recovery_lane())] {
            *floor = retired.max(*floor);
        }
        floors
    }

    /// Whether the node of a lane is living.
    pub(super) fn is_living(&self, lane: u16) -> bool {
        let lanes = self.living.as_ref().map_or(0, |living| living.lanes);
        lanes >> lane & 1 == 1
    }

    /// Leaves out what living nodes hold of what was found.
    pub(super) fn leave_to_living(&mut self) {
        let Some(living) = &self.living else { return };
        let is_ours = |row: &RowIndex| !living.rows.contains(row);
        self.found.batches.retain(|found| {
            let mut rows = found.batch.entries.iter().map(codec::Entry::row);
            rows.any(|row| is_ours(&row))
        });
        self.found.next_seq = self.found.next_seq.max(living.retired) + UNHEARD_NUMBERS;
        let stories = image::stories(&self.found, &self.layout).into_iter();
        self.rows = stories.filter(|(row, _)| is_ours(row)).collect();
    }
}
