//! The crash-point sweep (PROTOCOL 4.1, L4): after every step of a short life, every state that a power cut could leave.
//!
//! A life is written down as [`Step`]s. After each answer of a drive the group is opened again from everything that a power cut
//! at that moment could leave, whole and without each set of members that it survives, read as a whole and judged. [`Manner::Every`] does so
//! for classes of states that no start can tell apart, and proves that as it goes (`cut`); [`Manner::Sampled`] puts the undecided blocks
//! together one way after the other, as far as a number of states goes, and is there to check that, and for a quick look.
//! From some states the start itself is cut off once more, after each of its own answers. What was looked at before, with the
//! same story of the hosts, is not looked at twice.

mod cut;
mod heads;
mod lanes;

use std::collections::BTreeSet;
use std::fmt;

use super::{Ending, Event, Random, Stage, Violation, World};
use crate::sim::drive::{Drive, Trouble, Undecided};
use crate::sim::history::Wish;
use crate::sim::host::Question;
use crate::sim::node::{Node, Phase};
use crate::sim::random::mix;
use crate::sim::scenario::{OperatorWish, Scenario};
use crate::sim::stamp::{Block, Content};
use crate::sim::trace::{Trace, digest_of};

/// Events of a life; the longest has a few thousand.
const EVENTS_MAX: u32 = 100_000;
/// States from which a start is cut off once more, at each point.
const AGAIN_FROM: usize = 3;
/// States that such a second cut leaves, at each of its points.
const AGAIN_STATES: usize = 4;

/// A step of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What comes before is only there to lead here: from here on every point is looked at.
    Begin,
    /// A host asks, and waits for the answer.
    Ask(Wish, u64, u32),
    /// A host asks, and does not wait.
    Start(Wish, u64, u32),
    /// A drive answers nothing but errors from now on.
    Lose(u8),
    /// An operator wants something.
    Operator(OperatorWish),
    /// Whatever the node does on its own comes to its end.
    Settle,
    /// The life itself is over: what comes behind this happens after each start that follows a cut.
    Afterwards,
}

/// Which of the states that a cut may leave are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// All of them, those that no start can tell apart as one.
    Every,
    /// One by one, so many at each point: where there are more, the telling ones and a sample.
    Sampled(usize),
}

/// How thoroughly a life is swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thoroughness {
    /// Which states are looked at.
    pub manner: Manner,
    /// Each is opened without each set of members that the group survives, too.
    pub lose: bool,
    /// Some starts are cut off once more.
    pub again: bool,
}

/// What a sweep has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Swept {
    /// Steps after which the power failed.
    pub points: u64,
    /// Of these, points at which not every state was looked at, because there are too many.
    pub sampled: u64,
    /// States that the cuts could leave, over all points: products of the versions of blocks.
    pub ways: f64,
    /// States of the whole group that were opened; in [`Manner::Every`] each stands for all that no start can tell from it.
    pub states: u64,
    /// How often a group was opened from one of them.
    pub opened: u64,
    /// Of these, after a second cut.
    pub again: u64,
    /// Torn batches of journals that have the sum of the whole one, and so cannot be told from it; these are not looked at.
    pub ties: f64,
}

impl Swept {
    /// Adds what another sweep has looked at.
    pub fn add(&mut self, other: &Self) {
        self.points += other.points;
        self.sampled += other.sampled;
        self.ways += other.ways;
        self.states += other.states;
        self.opened += other.opened;
        self.again += other.again;
        self.ties += other.ties;
    }
}

/// A state from which the group did not come back as it had to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// What is wrong.
    pub violation: Violation,
    /// After so many steps.
    pub point: u64,
    /// Members that were not there afterwards.
    pub away: u32,
    /// What was left of each undecided block: which of its versions.
    pub left: Vec<usize>,
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cut off at point {}, with versions {:?} left and members {:#b} away: {}",
            self.point, self.left, self.away, self.violation
        )
    }
}

/// What came of opening a group, or a part of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// How far the hosts' story had come.
    pub story: u64,
    /// Drives that were away.
    pub away: u32,
    /// What a block held; `None` if the group was not there any more.
    pub block: Option<(u64, Content)>,
}

/// One sweep under way.
struct Sweep {
    how: Thoroughness,
    swept: Swept,
    seen: BTreeSet<u64>,
    memory: cut::Memory,
    /// Starts are being cut off once more.
    is_again: bool,
    /// How many more starts are cut off once more at this point.
    again_left: usize,
    outcomes: Option<BTreeSet<Outcome>>,
    /// What happens after each start.
    afterwards: Vec<Step>,
}

/// Sweeps a life.
pub fn sweep(scenario: &Scenario, life: &[Step], how: Thoroughness) -> Result<Swept, Box<Hole>> {
    run(scenario, life, how, None).map(|sweep| sweep.swept)
}

/// Sweeps a life, and says everything that came of it.
pub fn sweep_noting(
    scenario: &Scenario,
    life: &[Step],
    how: Thoroughness,
) -> Result<(Swept, BTreeSet<Outcome>), Box<Hole>> {
    let sweep = run(scenario, life, how, Some(BTreeSet::new()))?;
    Ok((sweep.swept, sweep.outcomes.unwrap_or_default()))
}

fn run(
    scenario: &Scenario,
    life: &[Step],
    how: Thoroughness,
    outcomes: Option<BTreeSet<Outcome>>,
) -> Result<Sweep, Box<Hole>> {
    assert_eq!(scenario.block, 512, "a block of a life is one of its drives");
    let mut world = World::new(scenario.clone(), false);
    world.stage = Stage::Scripted;
    world.later(0, Event::Boot);
    let mut sweep = Sweep {
        how,
        swept: Swept::default(),
        seen: BTreeSet::new(),
        memory: cut::Memory::default(),
        is_again: false,
        again_left: 0,
        outcomes,
        afterwards: Vec::new(),
    };
    let mut parts = life.splitn(2, |step| *step == Step::Afterwards);
    let life = parts.next().unwrap_or_default();
    sweep.afterwards = parts.next().unwrap_or_default().to_vec();
    let mut left = life.iter().peekable();
    let mut looks = !life.contains(&Step::Begin);
    let mut closing = false;
    for _ in 0..EVENTS_MAX {
        let Some(((at, _), event)) = world.queue.pop_first() else {
            return Err(sweep.stuck("nothing will ever happen any more"));
        };
        world.now = at;
        let is_answer = matches!(event, Event::Drive { .. });
        world.step(event);
        if let Some(violation) = world.violation.take() {
            return Err(sweep.hole(violation, 0, &[]));
        }
        if is_answer && looks {
            sweep.swept.points += 1;
            sweep.again_left = if how.again { AGAIN_FROM } else { 0 };
            let sets = if how.lose { world.losses() } else { vec![0] };
            match how.manner {
                Manner::Every => sweep.cut(&world, &sets)?,
                Manner::Sampled(most) => sweep.cut_one_by_one(&world, &sets, most)?,
            }
        }
        while world.is_ready_for(left.peek().copied().copied()) {
            match left.next() {
                Some(Step::Begin) => looks = true,
                Some(step) => world.carry_out_step(*step),
                None if std::mem::replace(&mut closing, true) => break,
                None => world.with_node(Node::close),
            }
        }
        if let Some(Phase::Stopped | Phase::Failed(_)) = world.node.as_ref().map(Node::phase) {
            return Ok(sweep);
        }
    }
    Err(sweep.stuck("the life does not end"))
}

impl World {
    /// Whether the next step, or the end, may come.
    fn is_ready_for(&self, step: Option<Step>) -> bool {
        let Some(node) = &self.node else { return false };
        if node.phase() != Phase::Open || self.history.is_none() {
            return false;
        }
        match step {
            Some(Step::Start(..)) => true,
            Some(Step::Settle) => {
                self.underway.is_empty() && node.is_settled() && self.askers.is_empty() && !self.has_mail()
            }
            Some(Step::Ask(..) | Step::Begin | Step::Lose(_) | Step::Operator(_) | Step::Afterwards)
            | None => self.underway.is_empty(),
        }
    }

    fn carry_out_step(&mut self, step: Step) {
        match step {
            Step::Ask(wish, lba, blocks) | Step::Start(wish, lba, blocks) => {
                self.ask(0, Question { wish, lba, blocks });
            }
            Step::Lose(drive) => {
                self.drives[usize::from(drive)].begin(Trouble::Gone);
                self.harm(u16::from(drive));
            }
            Step::Operator(wish) => self.operate(wish),
            Step::Begin | Step::Settle | Step::Afterwards => {}
        }
    }

    /// Sets of drives that may be away at a start: those with which the group survives, as far as is known which drive carries which
    /// member. Others, such as spares, count as if they carried one.
    fn losses(&self) -> Vec<u32> {
        let level = self.scenario.level;
        let seat = |member: u16| self.seats[usize::from(member)].unwrap_or(member);
        let survives_of = |width: u8, set: u32| {
            let members = 0..u16::from(width);
            let lost = members.clone().filter(|member| set >> seat(*member) & 1 == 1);
            let lost = lost.fold(0, |mask, member| mask | 1 << member);
            let seated = members.fold(0, |mask, member| mask | 1 << seat(member));
            let is_few = set.count_ones() <= level.losses_max(width);
            level.survives(width, lost) && (set & !seated == 0 || is_few)
        };
        let survives = |set: &u32| self.widths.iter().all(|width| survives_of(*width, *set));
        (0..1 << self.scenario.drives()).filter(survives).collect()
    }

    /// Starts the node, lets this happen, and goes on to the end.
    fn go_on_after_cut(&mut self, steps: &[Step]) {
        self.afterwards = steps.iter().rev().copied().collect();
        if !steps.is_empty() {
            self.stage = Stage::Scripted;
        }
        self.go_on();
    }

    /// Lets happen after a start what is to happen then.
    pub(super) fn follow_script(&mut self) {
        while self.is_ready_for(self.afterwards.last().copied()) {
            match self.afterwards.pop() {
                Some(step) => self.carry_out_step(step),
                None => return self.settle(),
            }
        }
        if let Some(Phase::Failed(_)) = self.node.as_ref().map(Node::phase) {
            self.settle();
        }
    }

    /// A world in which the node is about to start from these drives, without those that are away.
    fn after_cut(&self, drives: Vec<Drive>, away: u32) -> Self {
        let mut world = Self::new(self.scenario.clone(), false);
        world.drives = drives;
        world.history = self.history.clone();
        if let Some(history) = &mut world.history {
            history.cut();
        }
        world.note_seats();
        world.seats.clone_from(&self.seats);
        world.harmed = self.harmed;
        world.doubtful = self.doubtful;
        world.was_too_much = self.was_too_much;
        world.stage = Stage::Settling;
        world.away = away;
        world.trace = Trace::new(false);
        world.random = Random::new(self.scenario.seed, digest_of(&away.to_le_bytes()));
        world
    }
}

/// A drive's undecided block, with what each of its versions adds to the digest of a state.
struct Choice {
    versions: usize,
    digests: Vec<u64>,
}

impl Sweep {
    fn hole(&self, violation: Violation, away: u32, left: &[usize]) -> Box<Hole> {
        Box::new(Hole {
            violation,
            point: self.swept.points,
            away,
            left: left.to_vec(),
        })
    }

    fn stuck(&self, what: &str) -> Box<Hole> {
        self.hole(Violation::Stuck(what.to_owned()), 0, &[])
    }

    /// Opens the group from one state after the other that a power cut at this moment could leave.
    fn cut_one_by_one(&mut self, world: &World, sets: &[u32], most: usize) -> Result<(), Box<Hole>> {
        let choices = choices_of(&world.drives);
        let versions: Vec<usize> = choices.iter().map(|choice| choice.versions).collect();
        self.swept.ways += product(&versions);
        let all = count(&versions).filter(|all| *all <= most);
        let mut random = Random::new(world.scenario.seed, self.swept.points);
        let ways: Vec<Vec<usize>> = match all {
            Some(all) => (0..all).map(|number| nth(number, &versions)).collect(),
            None => {
                self.swept.sampled += 1;
                sample(&versions, most, &mut random)
            }
        };
        let story = world.history.as_ref().map_or(0, super::History::now);
        let medium = digest_of_media(&world.drives) ^ mix(story);
        for way in &ways {
            let digest = choices.iter().zip(way).fold(medium, |sum, (choice, version)| {
                sum.wrapping_add(choice.digests[*version])
            });
            if !self.seen.insert(digest) {
                continue;
            }
            self.swept.states += 1;
            let drives = left_of(&world.drives, way);
            for &away in sets {
                self.swept.opened += 1;
                let mut again = world.after_cut(drives.clone(), away);
                again.go_on_after_cut(&self.afterwards);
                self.note_outcome(world, &again);
                if let Some(violation) = again.violation {
                    return Err(self.hole(violation, away, way));
                }
            }
            if self.again_left > 0 {
                self.again_left -= 1;
                self.cut_again(world, &drives)?;
            }
        }
        Ok(())
    }

    /// Cuts a start off after each of its answers, until hosts could come.
    fn cut_again(&mut self, before: &World, drives: &[Drive]) -> Result<(), Box<Hole>> {
        let mut start = before.after_cut(drives.to_vec(), 0);
        start.later(0, Event::Boot);
        let mut random = Random::new(before.scenario.seed, self.swept.points);
        let (swept, is_again) = (self.swept, std::mem::replace(&mut self.is_again, true));
        while let Some(((at, _), event)) = start.queue.pop_first() {
            let is_open = start
                .node
                .as_ref()
                .is_some_and(|node| node.phase() == Phase::Open);
            if is_open || start.violation.is_some() || matches!(start.stage, Stage::Over(_)) {
                break;
            }
            start.now = at;
            let is_answer = matches!(event, Event::Drive { .. });
            start.step(event);
            if !is_answer {
                continue;
            }
            let other = 1 << random.below(u64::from(before.scenario.members));
            let sets = if self.how.lose { &[0, other][..] } else { &[0] };
            match self.how.manner {
                Manner::Every => self.cut(&start, sets)?,
                Manner::Sampled(_) => self.cut_one_by_one(&start, sets, AGAIN_STATES)?,
            }
        }
        // How often groups were opened counts, and what they were opened from counts at the points of the life only.
        let opened = self.swept.opened;
        self.swept = swept;
        self.swept.opened = opened;
        self.swept.again += opened - swept.opened;
        self.is_again = is_again;
        Ok(())
    }

    /// Notes what came of a start, if somebody wants to know.
    fn note_outcome(&mut self, before: &World, after: &World) {
        let Some(outcomes) = &mut self.outcomes else {
            return;
        };
        let story = before.history.as_ref().map_or(0, super::History::now);
        let away = after.away;
        match &after.history {
            Some(history) if after.stage == Stage::Over(Ending::Audited) => {
                let blocks = (0..history.len()).map(|lba| Some((lba, history.last_written(lba))));
                outcomes.extend(blocks.map(|block| Outcome { story, away, block }));
            }
            Some(_) | None => {
                let block = None;
                outcomes.insert(Outcome { story, away, block });
            }
        }
    }
}

/// What is undecided on each drive, one drive after the other.
fn choices_of(drives: &[Drive]) -> Vec<Choice> {
    let mut choices = Vec::new();
    for (drive, undecided) in (0u64..).zip(drives.iter().map(Drive::undecided)) {
        choices.extend(undecided.iter().map(|block: &Undecided| {
            Choice {
                versions: block.versions.len(),
                digests: block
                    .versions
                    .iter()
                    .map(|version| {
                        let parts = (block.lba..).zip(version);
                        parts.fold(0, |sum: u64, (lba, part)| {
                            sum.wrapping_add(digest_at(drive, lba, part))
                        })
                    })
                    .collect(),
            }
        }));
    }
    choices
}

/// Sums of these tell states apart: the place and what is there.
fn digest_at(drive: u64, lba: u64, block: &Block) -> u64 {
    mix(block.digest() ^ mix(drive << 40 | lba))
}

/// What is decided: everything but the undecided blocks.
fn digest_of_media(drives: &[Drive]) -> u64 {
    let mut sum = 0_u64;
    for (number, drive) in (0u64..).zip(drives) {
        let undecided: BTreeSet<u64> = drive.undecided().iter().map(|block| block.lba).collect();
        for (lba, block) in drive.written() {
            let first = lba - lba % drive.atom();
            if !undecided.contains(&first) {
                sum = sum.wrapping_add(digest_at(number, lba, block));
            }
        }
    }
    sum
}

/// The drives after a cut that leaves these versions.
fn left_of(drives: &[Drive], way: &[usize]) -> Vec<Drive> {
    let mut drives = drives.to_vec();
    let mut next = way.iter();
    for drive in &mut drives {
        drive.cut_with(|_| *next.next().expect("one for each undecided block"));
    }
    drives
}

/// How many ways there are of choosing one version of each; exact below 2^53.
fn product(versions: &[usize]) -> f64 {
    let versions = versions
        .iter()
        .map(|count| u32::try_from(*count).expect("a block has few versions"));
    versions.map(f64::from).product()
}

fn count(versions: &[usize]) -> Option<usize> {
    versions
        .iter()
        .try_fold(1_usize, |all, versions| all.checked_mul(*versions))
}

/// The `number`th way of choosing one version of each.
fn nth(mut number: usize, versions: &[usize]) -> Vec<usize> {
    let choose = |count: &usize| {
        let version = number % count;
        number /= count;
        version
    };
    versions.iter().map(choose).collect()
}

/// Some ways of choosing: all old, all new, each block alone new or old, the first ones new and the rest old and the other way
/// round, and random ones.
fn sample(versions: &[usize], most: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let old = vec![0; versions.len()];
    let new: Vec<usize> = versions.iter().map(|count| count - 1).collect();
    let mut choices = vec![old.clone(), new.clone()];
    for at in (0..versions.len()).take(most / 8) {
        let mixed = |first: &[usize], then: &[usize]| [&first[..at], &then[at..]].concat();
        let mut alone = old.clone();
        alone[at] = new[at];
        let mut missing = new.clone();
        missing[at] = 0;
        choices.extend([alone, missing, mixed(&new, &old), mixed(&old, &new)]);
    }
    while choices.len() < most {
        choices.push(versions.iter().map(|count| random.index(*count)).collect());
    }
    choices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_choosing_comes_once() {
        let versions = [2, 3, 1, 2];
        let mut ways: Vec<Vec<usize>> = (0..12).map(|number| nth(number, &versions)).collect();
        ways.sort();
        ways.dedup();
        assert_eq!(ways.len(), 12);
        assert_eq!(count(&versions), Some(12));
        let fits = |way: &Vec<usize>| way.iter().zip(versions).all(|(version, count)| *version < count);
        assert!(ways.iter().all(fits));
        let sampled = sample(&versions, 9, &mut Random::new(1, 1));
        assert!(sampled.len() >= 9 && sampled.iter().all(fits));
    }
}
