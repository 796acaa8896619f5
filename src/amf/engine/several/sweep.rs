//! A node dies at each moment of its stripe updates, and whoever recovers them at each moment of that.
//!
//! One schedule of a few writes is carried out again and again, and cut short one step later each time. A step is one drive command, message or wake-up, so that all
//! numbered steps of Figures 10, 13a, 13b, 14a and 14b begin and end in some of them.

use super::super::Durability;
use super::super::executor::{Random, Shape};
use super::survivors::Array;
use crate::amf::engine::Request;
use crate::amf::geometry::Level;

/// The writer, and a node that dies in the recovery of it.
const WRITER: usize = 0;
const SECOND: usize = 1;

/// What happens to the array beside the writer's death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// A drive fails in the same moment.
    Drive,
    /// Another node dies so many steps later, while the first one is recovered.
    Node(u32),
}

/// How a case ends, after its recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everybody goes on.
    GoOn,
    /// The power of everything fails, with another drive at times.
    PowerCut,
}

/// A group of three nodes, with this many drives lost from the beginning.
#[derive(Clone, Copy, Debug)]
struct Stage {
    level: Level,
    members: u8,
    lost: u8,
}

const STAGES: [Stage; 7] = [
    Stage::new(Level::Raid1, 2, 0),
    Stage::new(Level::Raid5, 4, 0),
    Stage::new(Level::Raid5, 4, 1),
    Stage::new(Level::Raid6, 5, 0),
    Stage::new(Level::Raid6, 5, 1),
    Stage::new(Level::Raid6, 5, 2),
    Stage::new(Level::Raid10, 4, 1),
];

impl Stage {
    const fn new(level: Level, members: u8, lost: u8) -> Self {
        Self { level, members, lost }
    }

    /// Whether another drive may fail.
    fn has_more(self) -> bool {
        self.lost < if self.level == Level::Raid6 { 2 } else { 1 }
    }

    /// The array in the moment in which the writer's updates are about to begin. The same each time.
    fn set(self, seed: u64) -> Array {
        let shape = Shape {
            level: self.level,
            members: self.members,
            cores: 3,
            nodes: 3,
            rows: 4,
            commands: 4,
            journal: Some(Durability::Journal),
            ..Shape::SMALL
        };
        let mut array = Array::new(&shape, seed);
        for _ in 0..60 {
            array.run.step();
        }
        array.run.world.settle();
        array.run.check_done();
        if self.lost > 0 {
            array.run.world.fail_members((1 << self.lost) - 1);
            array.run.world.settle();
        }
        // A part of a strip, most of a row, a whole row; beside them another node in the same row and in one of its own.
        let row = array.run.world.geometry.row_blocks() as usize;
        let writes = [
            (WRITER, 0, 1..3),
            (WRITER, 1, row + 2..2 * row - 1),
            (WRITER, 2, 2 * row..3 * row),
            (SECOND, 0, 3..4),
            (2, 0, 3 * row..3 * row + 2),
        ];
        for (node, command, range) in writes {
            array.run.submit(node, command, 3, 4, range);
        }
        let drain = array.run.commands;
        array.run.world.submit(WRITER, drain, Request::Drain);
        array
    }

    /// Steps until all of it is done.
    fn steps(self, seed: u64) -> u32 {
        let mut array = self.set(seed);
        let mut steps = 0;
        while !array.run.running.is_empty() || array.run.background.is_empty() {
            assert!(array.run.world.pay_any(), "something is left to do");
            array.run.check_done();
            steps += 1;
        }
        steps
    }

    /// One case: the writer dies after so many steps. How many steps its recovery took, if nothing else happened.
    fn play(self, seed: u64, after: u32, beside: Beside, end: End) -> u32 {
        let mut array = self.set(seed);
        for _ in 0..after {
            array.run.world.pay_any();
            array.run.check_done();
        }
        array.kill(WRITER);
        if beside == Beside::Drive {
            let member = u32::from(self.members) - 1;
            array.run.world.fail_members(1 << member);
        }
        let mut steps = 0;
        while array.is_changing() {
            if beside == Beside::Node(steps) {
                array.kill(SECOND);
            }
            array.recovery_step();
            steps += 1;
        }
        match end {
            End::GoOn => array.settle(),
            End::PowerCut => array.lose_power(),
        }
        steps
    }
}

/// CHECKLIST C1, C2, E2, E3, E4, D3, D4, PROTOCOL H18 to H21, I5 to I8: the writer is killed in each step of its stripe updates, healthy and degraded, alone, together with a drive, and with
/// a second node in each step of the recovery; afterwards check data matches, each block is what it was or what it became, and what a host was told is there.
#[test]
fn every_step_of_a_writer_and_of_its_recovery_may_be_the_last() {
    // All pairs of steps, and of more schedules, on request: here each step of the writer, and one of the recovery each time.
    let more = std::env::var("BRAID_SWEEP_SCHEDULES").ok();
    let schedules: u64 = more.as_ref().map_or(2, |more| more.parse().expect("a number"));
    let (mut cases, mut pairs) = (0_u32, 0_u32);
    let runs = (0..schedules).flat_map(|schedule| STAGES.map(|stage| (schedule, stage)));
    for (schedule, stage) in runs {
        let mut random = Random::new(schedule);
        for after in 0..=stage.steps(schedule) {
            let took = stage.play(schedule, after, Beside::Nothing, End::GoOn);
            stage.play(schedule, after, Beside::Nothing, End::PowerCut);
            cases += 2;
            if stage.has_more() {
                stage.play(schedule, after, Beside::Drive, End::GoOn);
                cases += 1;
            }
            let one = u32::try_from(random.below(u64::from(took))).expect("small");
            let seconds = if more.is_some() { 0..took } else { one..one + 1 };
            for second in seconds {
                let end = if (after + second).is_multiple_of(2) {
                    End::GoOn
                } else {
                    End::PowerCut
                };
                stage.play(schedule, after, Beside::Node(second), end);
                pairs += 1;
            }
        }
    }
    println!("{cases} deaths of a writer, and {pairs} of a second node in the recovery");
    assert!(cases > 1500 && pairs > 500, "{cases} {pairs}");
}
