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
    /// Another node dies when there are as many copies of everything again, so many steps into writes of its own.
    Restored(u32),
    /// The same the other way round: in the writer's place it is the one that keeps its copies which dies first.
    Partner(u32),
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
    /// How many nodes have a write in memory when a host is told; 1 if it is in the journal then.
    copies: u8,
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
        Self {
            level,
            members,
            lost,
            copies: 1,
        }
    }

    const fn in_memory(self, copies: u8) -> Self {
        Self { copies, ..self }
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
            journal: Some(if self.copies > 1 {
                Durability::Ram
            } else {
                Durability::Journal
            }),
            ..Shape::SMALL
        };
        let mut array = Array::new(&shape, seed);
        if self.copies > 1 {
            array.acknowledge_from_memory(self.copies);
        }
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

    /// One step of the array while nobody is gone. In every other schedule of groups that acknowledge from memory messages are faster than drives.
    fn step(self, seed: u64, array: &mut Array) -> bool {
        let are_first = self.copies > 1 && seed % 2 == 1 && array.run.random().chance(60);
        let goes_on = are_first && array.run.world.nodes_go_on() || array.run.world.pay_any();
        array.run.check_done();
        goes_on
    }

    /// Steps until all of it is done.
    fn steps(self, seed: u64) -> u32 {
        let mut array = self.set(seed);
        let mut steps = 0;
        while !array.run.running.is_empty() || array.run.background.is_empty() {
            assert!(self.step(seed, &mut array), "something is left to do");
            steps += 1;
        }
        steps
    }

    /// One case: the writer dies after so many steps. What became of it, how many steps its recovery took if nothing else happened among that.
    fn play(self, seed: u64, after: u32, beside: Beside, end: End) -> Played {
        let mut array = self.set(seed);
        for _ in 0..after {
            self.step(seed, &mut array);
        }
        let (first, second) = match beside {
            Beside::Partner(_) => (SECOND, WRITER),
            Beside::Nothing | Beside::Drive | Beside::Node(_) | Beside::Restored(_) => (WRITER, SECOND),
        };
        array.kill(first);
        if beside == Beside::Drive {
            let member = u32::from(self.members) - 1;
            array.run.world.fail_members(1 << member);
        }
        let mut steps = 0;
        while array.is_changing() {
            if beside == Beside::Node(steps) {
                array.kill(second);
            }
            array.recovery_step();
            steps += 1;
        }
        if let Beside::Restored(later) | Beside::Partner(later) = beside {
            self.kill_once_restored(&mut array, second, later);
        }
        match end {
            End::GoOn => array.settle(),
            End::PowerCut => array.lose_power(),
        }
        let copies = array.copies_read();
        Played { steps, copies }
    }

    /// Waits until there are as many copies of everything again; then the node writes once more, and dies so many steps later.
    fn kill_once_restored(self, array: &mut Array, node: usize, later: u32) {
        let mut steps = 0;
        while !array.run.running.is_empty() || !array.is_restored() {
            array.recovery_step();
            steps += 1;
            assert!(steps < STEPS_MAX, "there are as many copies again");
        }
        let row = array.run.world.geometry.row_blocks() as usize;
        for (command, range) in [(0, 0..2), (1, row + 1..2 * row - 1), (2, 3 * row..4 * row)] {
            array.run.submit(node, command, 3, 4, range);
        }
        for _ in 0..later {
            array.recovery_step();
        }
        array.kill(node);
    }
}

/// Longer than a recovery takes until there are as many copies of everything again, by far.
const STEPS_MAX: u32 = 20_000;

/// What became of a case.
#[derive(Clone, Copy, Debug)]
struct Played {
    /// Of the recovery.
    steps: u32,
    /// Copies that replays were given.
    copies: u64,
}

/// Schedules that are asked for, or as many as there is time for each time.
fn schedules() -> (u64, bool) {
    let more = std::env::var("BRAID_SWEEP_SCHEDULES").ok();
    let schedules = more.as_ref().map_or(2, |more| more.parse().expect("a number"));
    (schedules, more.is_some())
}

/// CHECKLIST C1, C2, E2, E3, E4, D3, D4, PROTOCOL H18 to H21, I5 to I8: the writer is killed in each step of its stripe updates, healthy and degraded, alone, together with a drive, and with
/// a second node in each step of the recovery; afterwards check data matches, each block is what it was or what it became, and what a host was told is there.
#[test]
fn every_step_of_a_writer_and_of_its_recovery_may_be_the_last() {
    // All pairs of steps, and of more schedules, on request: here each step of the writer, and one of the recovery each time.
    let (schedules, all) = schedules();
    let (mut cases, mut pairs) = (0_u32, 0_u32);
    let runs = (0..schedules).flat_map(|schedule| STAGES.map(|stage| (schedule, stage)));
    for (schedule, stage) in runs {
        let mut random = Random::new(schedule);
        for after in 0..=stage.steps(schedule) {
            let took = stage.play(schedule, after, Beside::Nothing, End::GoOn).steps;
            stage.play(schedule, after, Beside::Nothing, End::PowerCut);
            cases += 2;
            if stage.has_more() {
                stage.play(schedule, after, Beside::Drive, End::GoOn);
                cases += 1;
            }
            let one = u32::try_from(random.below(u64::from(took))).expect("small");
            let seconds = if all { 0..took } else { one..one + 1 };
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
    let schedules = u32::try_from(schedules).expect("few");
    assert!(
        cases > 700 * schedules && pairs > 250 * schedules,
        "{cases} {pairs}"
    );
}

/// Groups that acknowledge from memory: of each kind of stripe update one, with two copies and with three.
const IN_MEMORY: [Stage; 6] = [
    Stage::new(Level::Raid1, 2, 0).in_memory(2),
    Stage::new(Level::Raid5, 4, 0).in_memory(2),
    Stage::new(Level::Raid6, 5, 1).in_memory(2),
    Stage::new(Level::Raid10, 4, 1).in_memory(3),
    Stage::new(Level::Raid5, 4, 0).in_memory(3),
    Stage::new(Level::Raid6, 5, 1).in_memory(3),
];

/// Cases of one kind each.
#[derive(Debug, Default)]
struct Tally {
    alone: u32,
    drives: u32,
    /// Two nodes in the same moment, and one in the recovery of the other.
    at_once: u32,
    in_recovery: u32,
    /// One after the other, the writer and the keeper of its copies first.
    restored: u32,
    partners: u32,
    copies: u64,
}

impl Stage {
    fn sweep_memory(self, seed: u64, all: bool, tally: &mut Tally) {
        let mut random = Random::new(seed);
        let mut play = |after, beside| {
            let played = self.play(seed, after, beside, End::GoOn);
            tally.copies += played.copies;
            let count = match beside {
                Beside::Nothing => &mut tally.alone,
                Beside::Drive => &mut tally.drives,
                Beside::Node(0) => &mut tally.at_once,
                Beside::Node(_) => &mut tally.in_recovery,
                Beside::Restored(_) => &mut tally.restored,
                Beside::Partner(_) => &mut tally.partners,
            };
            *count += 1;
            played.steps
        };
        for after in 0..=self.steps(seed) {
            let took = play(after, Beside::Nothing);
            if self.has_more() {
                play(after, Beside::Drive);
            }
            let later = u32::try_from(random.below(WRITES_STEPS)).expect("few");
            play(after, Beside::Restored(later));
            play(after, Beside::Partner(later));
            if self.copies < 3 {
                continue; // Two at a time would be as many as there are copies.
            }
            play(after, Beside::Node(0));
            let one = 1 + u32::try_from(random.below(u64::from(took))).expect("small");
            for second in if all { 1..took } else { one..one + 1 } {
                play(after, Beside::Node(second));
            }
        }
    }
}

/// About as many steps as it takes until the last writes of a node are told and on the drives.
const WRITES_STEPS: u64 = 60;

/// CHECKLIST C1, C2, C3, C6, E2, E3, E4, D3, D4, PROTOCOL H17 to H22, I5 to I8: the same where hosts are told once others keep their writes in memory, whatever the drives have of it. The writer dies
/// in each step between a copy that is sent, one that is kept at the first partner, at the last, and a host that is told; alone, together with a drive, where there are three copies together with
/// another node in the same moment and in each step of its recovery, and where there are two with another one as soon as there are two again. And so does the one that keeps the copies.
#[test]
fn every_step_of_a_writer_that_others_keep_copies_for_may_be_the_last() {
    let (schedules, all) = schedules();
    let mut tally = Tally::default();
    for schedule in 0..schedules {
        for stage in IN_MEMORY {
            stage.sweep_memory(schedule, all, &mut tally);
        }
    }
    println!("{tally:?}");
    let schedules = u32::try_from(schedules).expect("few");
    let writers = [tally.alone, tally.restored, tally.partners];
    let few = [tally.drives, tally.at_once, tally.in_recovery];
    assert!(
        writers.iter().all(|count| *count > 300 * schedules)
            && few.iter().all(|count| *count > 150 * schedules)
            && tally.copies > 1000 * u64::from(schedules),
        "{tally:?}"
    );
}
