//! The short lives that the crash-point sweep cuts off everywhere: one for each thing that must not be torn.

use super::history::Wish;
use super::node::STRIP_BYTES;
use super::scenario::{OperatorWish, Scenario};
use super::world::Step;
use crate::amf::geometry::{Geometry, Level};
use crate::amf::group::drives_min;
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
    match level {
        Level::Raid0 | Level::Raid1 => least..=least + 1,
        Level::Raid10 | Level::Raid5 | Level::Raid6 | Level::RaidTp => least.max(3)..=6,
    }
}

/// All lives of a level with so many drives.
pub fn lives(level: Level, members: u8) -> Vec<Life> {
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
    let row = row_blocks(level, members);
    let half = u64::from(row) / 2;
    let filled = [Step::Ask(WRITE, 0, row), FLUSH];
    let with = |steps: &[Step]| -> Vec<Step> { [&filled[..], &[Step::Begin], steps].concat() };
    let life = |name, rows: u16, steps: Vec<Step>| Life {
        name,
        scenario: Scenario {
            rows,
            ..scenario.clone()
        },
        steps,
    };
    let mut all = vec![
        // The making of the group and its disk, and its first and last superblocks.
        life("superblock", 1, Vec::new()),
        life("full row", 1, with(&[Step::Ask(WRITE, 0, row)])),
        life("part of a row", 1, with(&[Step::Ask(WRITE, 3, 2)])),
        life("forced part", 1, with(&[Step::Ask(FORCED, half - 1, 2)])),
        life(
            "overlapping",
            1,
            with(&[
                Step::Start(WRITE, 2, 4),
                Step::Start(FORCED, 4, 4),
                Step::Ask(ZERO, 3, 2),
            ]),
        ),
        life(
            "two rows",
            2,
            with(&[Step::Ask(WRITE, u64::from(row) - 2, 4), Step::Settle]),
        ),
    ];
    if level.is_redundant() {
        all.extend(redundant(&scenario, half, with));
    }
    all
}

/// Lives that need redundancy, and so a journal.
fn redundant(scenario: &Scenario, half: u64, with: impl Fn(&[Step]) -> Vec<Step>) -> Vec<Life> {
    let life = |name, rows: u16, steps: Vec<Step>| Life {
        name,
        scenario: Scenario {
            rows,
            ..scenario.clone()
        },
        steps,
    };
    let mut all = Vec::new();
    // Every write is a batch of its own, and dirty rows are brought to their place to make room.
    let many = (0..40).map(|number| Step::Ask(WRITE, number % (half + 1), 2));
    all.push(life(
        "journal wrap",
        1,
        [Step::Begin].into_iter().chain(many).collect(),
    ));
    all.push(life(
        "degraded",
        1,
        with(&[Step::Lose(0), Step::Ask(WRITE, 1, 3), Step::Ask(FORCED, half, 1)]),
    ));
    all.push(life(
        "rebuild",
        2,
        with(&[
            Step::Lose(1),
            Step::Ask(FORCED, 2, 2),
            Step::Operator(OperatorWish::Return(1)),
            Step::Ask(WRITE, half, 2),
            Step::Settle,
        ]),
    ));
    let mut spared = life(
        "spare",
        1,
        with(&[Step::Lose(0), Step::Ask(WRITE, 2, 2), Step::Settle]),
    );
    spared.scenario.spares = 1;
    all.push(spared);
    all
}

/// Blocks of user data of a row: strips are as short as they may be.
fn row_blocks(level: Level, members: u8) -> u32 {
    let block = BlockSize::B512;
    let geometry = Geometry::new(
        level,
        members,
        STRIP_BYTES / block.bytes(),
        MemberLba(0),
        1,
        block,
    );
    geometry.expect("these shapes are legal").row_blocks()
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
