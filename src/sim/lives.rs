//! The short lives that the crash-point sweep cuts off everywhere: one for each thing that must not be torn.

use super::history::Wish;
use super::node::STRIP_BYTES;
use super::scenario::{OperatorWish, Scenario};
use super::world::Step;
use crate::amf::RowIndex;
use crate::amf::geometry::{Geometry, Level};
use crate::amf::group::drives_min;
use crate::amf::journal::lane_blocks_min;
use crate::drive::block::{BlockSize, MemberLba};

const WRITE: Wish = Wish::Write { forced: false };
const FORCED: Wish = Wish::Write { forced: true };
const ZERO: Wish = Wish::Zero { forced: false };
const FLUSH: Step = Step::Ask(Wish::Flush, 0, 0);

/// A life, and the group that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// What it is about.
    pub name: &'static str,
    /// The group.
    pub scenario: Scenario,
    /// What happens.
    pub steps: Vec<Step>,
}

/// Numbers of drives that a level is swept with: from the fewest it may have, up to six.
pub fn sizes(level: Level) -> std::ops::RangeInclusive<u8> {
    let least = u8::try_from(drives_min(level)).expect("small");
    least..=6
}

/// All lives of a level with so many drives.
pub fn lives(level: Level, members: u8) -> Vec<Life> {
    let making = Making::new(level, members);
    let mut all = making.of_every_level();
    if level.is_redundant() {
        all.extend(making.of_journals());
        all.extend(making.of_losses());
        all.push(making.without_journal());
    }
    all.extend(making.expansion());
    all
}

/// What lives of one level and size have in common.
struct Making {
    scenario: Scenario,
    /// Blocks of a row, and half of them.
    row: u32,
    half: u64,
}

impl Making {
    fn new(level: Level, members: u8) -> Self {
        let scenario = Scenario {
            seed: 1,
            level,
            members,
            rows: 1,
            cores: 1,
            hosts: 1,
            depth: 1,
            journal: level.is_redundant(),
            ..Scenario::PLAIN
        };
        let row = row_shape(&scenario).row_blocks();
        Self {
            scenario,
            row,
            half: u64::from(row) / 2,
        }
    }

    fn life(&self, name: &'static str, rows: u16, steps: Vec<Step>) -> Life {
        let scenario = Scenario {
            rows,
            ..self.scenario.clone()
        };
        Life {
            name,
            scenario,
            steps,
        }
    }

    /// The first row is written and durable when these steps begin.
    fn with(&self, steps: &[Step]) -> Vec<Step> {
        let filled = [Step::Ask(WRITE, 0, self.row), FLUSH, Step::Begin];
        [&filled[..], steps].concat()
    }

    fn of_every_level(&self) -> Vec<Life> {
        let (row, half) = (self.row, self.half);
        let overlapping = [
            Step::Start(WRITE, 2, 4),
            Step::Start(FORCED, 4, 4),
            Step::Ask(ZERO, 3, 2),
        ];
        let border = [Step::Ask(WRITE, u64::from(row) - 2, 4), Step::Settle];
        vec![
            // The making of the group and its disk, and its first and last superblocks.
            self.life("superblock", 1, Vec::new()),
            self.life("full row", 1, self.with(&[Step::Ask(WRITE, 0, row)])),
            self.life("part of a row", 1, self.with(&[Step::Ask(WRITE, 3, 2)])),
            self.life("forced part", 1, self.with(&[Step::Ask(FORCED, half - 1, 2)])),
            self.life("overlapping", 1, self.with(&overlapping)),
            self.life("two rows", 2, self.with(&border)),
        ]
    }

    fn of_journals(&self) -> Vec<Life> {
        // Every write is a batch of its own, and dirty rows are brought to their place to make room. From shortly before the end of the lane on
        // every point is looked at.
        let write = |number| Step::Ask(WRITE, number % (self.half + 1), 2);
        let around = u64::from(lane_blocks_min(&row_shape(&self.scenario))) / 3;
        let many = (0..around - 4).map(write);
        let looked_at = (around - 4..around + 6).map(write);
        let wrap = many.chain([Step::Begin]).chain(looked_at);
        // Cores take the row from each other.
        let mut cores = self.life(
            "two cores",
            1,
            self.with(&[
                Step::Ask(WRITE, 0, 2),
                Step::Start(WRITE, 1, 2),
                Step::Start(FORCED, self.half, 2),
                Step::Ask(WRITE, 2, 2),
                Step::Ask(WRITE, 1, 1),
                Step::Ask(FORCED, 0, 2),
            ]),
        );
        cores.scenario.cores = 2;
        vec![self.life("journal wrap", 1, wrap.collect()), cores]
    }

    fn of_losses(&self) -> Vec<Life> {
        let half = self.half;
        let degraded = [Step::Lose(0), Step::Ask(WRITE, 1, 3), Step::Ask(FORCED, half, 1)];
        // One member fails while superblocks say that another one has, as far as the level survives both.
        let last = self.scenario.members - 1;
        let both = 1 << last | 1;
        let other = if self.scenario.level.survives(self.scenario.members, both) {
            Step::Lose(last)
        } else {
            Step::Lose(0)
        };
        let failing = [
            Step::Start(FORCED, 1, 2),
            Step::Operator(OperatorWish::Fail(0)),
            other,
            Step::Ask(FORCED, half, 2),
        ];
        let rebuild = [
            Step::Lose(1),
            Step::Ask(FORCED, 2, 2),
            Step::Operator(OperatorWish::Return(1)),
            Step::Ask(WRITE, half, 2),
            Step::Settle,
        ];
        let spare = [
            Step::Lose(0),
            Step::Ask(WRITE, 2, 2),
            Step::Ask(FORCED, half, 2),
            Step::Start(WRITE, u64::from(self.row) - 1, 2),
            Step::Ask(FORCED, 1, 1),
            Step::Settle,
        ];
        let mut spare = self.life("spare", 2, self.with(&spare));
        spare.scenario.spares = 1;
        vec![
            self.life("degraded", 1, self.with(&degraded)),
            self.life("failing", 1, self.with(&failing)),
            self.life("rebuild", 2, self.with(&rebuild)),
            spare,
        ]
    }

    /// Nothing closes the write hole: check data is not believed after a cut until it was computed anew. That has not come to the last row yet
    /// when a member is lost that was not written to, and a host reads it.
    fn without_journal(&self) -> Life {
        let members = u16::from(self.scenario.members);
        let rows = 4 * members + 1;
        let last = u64::from(self.row) * u64::from(rows - 1);
        let shape = row_shape(&self.scenario);
        let column = u8::from(shape.data_members() > 1);
        let other = shape.data_member(RowIndex(0), column);
        let steps = [
            Step::Ask(WRITE, last, self.row),
            FLUSH,
            Step::Begin,
            Step::Ask(FORCED, last + 3, 2),
            Step::Afterwards,
            Step::Lose(other.0),
            Step::Ask(Wish::Read, last, self.row - 1),
        ];
        let mut life = self.life("write-through", rows, steps.to_vec());
        life.scenario.journal = false;
        life
    }

    /// Rows move to a wider layout, wave by wave, and are written meanwhile. So many drives become members that there are six at most.
    fn expansion(&self) -> Option<Life> {
        let level = self.scenario.level;
        let joining = match level {
            // Pairs of copies keep their place only if their number stays even or odd.
            Level::Raid10 => 2,
            Level::Raid0 | Level::Raid5 | Level::Raid6 | Level::RaidTp => 1,
            Level::Raid1 => return None,
        };
        if self.scenario.members + joining > 6 {
            return None;
        }
        // A group of fewer rows cannot be expanded.
        let rows = if level == Level::Raid0 { 18 } else { 5 };
        let steps = [
            Step::Ask(WRITE, 0, 2 * self.row),
            FLUSH,
            Step::Begin,
            Step::Operator(OperatorWish::Expand(joining)),
            Step::Ask(FORCED, self.half, 2),
            Step::Ask(WRITE, u64::from(self.row) + 1, 2),
            Step::Settle,
        ];
        let mut life = self.life("expansion", rows, steps.to_vec());
        life.scenario.joining = joining;
        Some(life)
    }
}

/// The shape of a row: strips are as short as they may be.
fn row_shape(scenario: &Scenario) -> Geometry {
    let block = BlockSize::B512;
    let geometry = Geometry::new(
        scenario.level,
        scenario.members,
        STRIP_BYTES / block.bytes(),
        MemberLba(0),
        1,
        block,
    );
    geometry.expect("these shapes are legal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_life_is_of_a_sound_group() {
        for level in Level::ALL {
            for members in sizes(level) {
                let lives = lives(level, members);
                assert!(lives.len() >= 6);
                assert!(lives.iter().all(|life| life.scenario.is_sound()));
            }
        }
    }
}
