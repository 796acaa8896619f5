//! The crash-point sweep (PROTOCOL 4.1, L4): after every step of a short life, every state that a power cut could leave.
//!
//! A life is written down as commands, one after the other: the group is made, the commands are carried out, and the
//! group is closed. After each answer of a drive the drives' undecided blocks are put together in every way, or in as
//! many as are asked for, and with each of them the group is opened again, whole and without each of its members,
//! read as a whole and judged.

use super::{Event, Random, Stage, Violation, World};
use crate::sim::drive::{Drive, Undecided};
use crate::sim::history::Wish;
use crate::sim::host::Question;
use crate::sim::node::{Node, Phase};
use crate::sim::scenario::Scenario;
use crate::sim::trace::{Trace, digest_of};

/// Steps of a life; the longest that is asked for has a few hundred.
const STEPS_MAX: u32 = 100_000;

/// What a sweep has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Steps after which the power failed.
    pub points: u64,
    /// Different states of the drives that were opened.
    pub states: u64,
    /// Points at which not every state was looked at, because there are too many.
    pub sampled: u64,
}

/// Sweeps a life of these commands, with at most `states_max` states at each point. `lose`: each state is opened without
/// each member in turn, too.
pub fn sweep(
    scenario: &Scenario,
    life: &[(Wish, u64, u32)],
    states_max: usize,
    lose: bool,
) -> Result<Swept, Violation> {
    let mut world = World::new(scenario.clone(), false);
    world.stage = Stage::Scripted;
    world.later(0, Event::Boot);
    let mut swept = Swept::default();
    let mut left = life.iter();
    let mut closing = false;
    for _ in 0..STEPS_MAX {
        let Some(((at, _), event)) = world.queue.pop_first() else {
            return Err(Violation::Stuck("nothing will ever happen any more".to_owned()));
        };
        world.now = at;
        let is_answer = matches!(event, Event::Drive { .. });
        world.step(event);
        if is_answer {
            swept.points += 1;
            world.cut_in_every_way(states_max, lose, &mut swept)?;
        }
        if let Some(violation) = world.violation.take() {
            return Err(violation);
        }
        let phase = world.node.as_ref().map(Node::phase);
        match phase {
            Some(Phase::Open) if world.history.is_some() && world.underway.is_empty() => {
                if let Some(&(wish, lba, blocks)) = left.next() {
                    world.ask(0, Question { wish, lba, blocks });
                } else if !std::mem::replace(&mut closing, true) {
                    world.with_node(Node::close);
                }
            }
            Some(Phase::Stopped | Phase::Failed(_)) => return Ok(swept),
            Some(Phase::Open | Phase::Opening) | None => {}
        }
    }
    Err(Violation::Stuck("the life does not end".to_owned()))
}

impl World {
    /// Opens the group from what a power cut at this moment could leave.
    fn cut_in_every_way(&self, states_max: usize, lose: bool, swept: &mut Swept) -> Result<(), Violation> {
        let undecided: Vec<Vec<Undecided>> = self.drives.iter().map(Drive::undecided).collect();
        let versions: Vec<usize> = undecided
            .iter()
            .flatten()
            .map(|block| block.versions.len())
            .collect();
        let all = versions
            .iter()
            .try_fold(1_usize, |all, versions| all.checked_mul(*versions))
            .filter(|all| *all <= states_max);
        let mut random = Random::new(self.scenario.seed, swept.points);
        let choices: Vec<Vec<usize>> = match all {
            Some(all) => (0..all).map(|number| nth(number, &versions)).collect(),
            None => {
                swept.sampled += 1;
                sample(&versions, states_max, &mut random)
            }
        };
        for choice in choices {
            swept.states += 1;
            let mut drives = self.drives.clone();
            let mut next = choice.iter();
            for drive in &mut drives {
                drive.cut_with(|_| *next.next().expect("one for each undecided block"));
            }
            self.open_again(&drives, 0)?;
            for member in (0..self.scenario.members).filter(|_| lose) {
                self.open_again(&drives, 1 << member)?;
            }
        }
        Ok(())
    }

    /// Opens the group from these drives, without those that are away, reads everything and judges it.
    fn open_again(&self, drives: &[Drive], away: u32) -> Result<(), Violation> {
        let mut world = World::new(self.scenario.clone(), false);
        world.drives = drives.to_vec();
        world.history = self.history.clone();
        if let Some(history) = &mut world.history {
            history.cut();
        }
        world.stage = Stage::Settling;
        world.away = away;
        world.trace = Trace::new(false);
        world.random = Random::new(self.scenario.seed, digest_of(&away.to_le_bytes()));
        world.go();
        world.violation.map_or(Ok(()), Err)
    }
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

/// Some ways of choosing: all old, all new, each block alone new or old, and random ones.
fn sample(versions: &[usize], count: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let old = vec![0; versions.len()];
    let new: Vec<usize> = versions.iter().map(|count| count - 1).collect();
    let mut choices = vec![old.clone(), new.clone()];
    for at in 0..versions.len().min(count / 4) {
        let mut choice = old.clone();
        choice[at] = new[at];
        choices.push(choice);
        let mut choice = new.clone();
        choice[at] = 0;
        choices.push(choice);
    }
    while choices.len() < count {
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
        let fits = |way: &Vec<usize>| way.iter().zip(versions).all(|(version, count)| *version < count);
        assert!(ways.iter().all(fits));
        let sampled = sample(&versions, 9, &mut Random::new(1, 1));
        assert!(sampled.len() >= 9 && sampled.iter().all(fits));
    }
}
