//! The judgement over one block: is there an order of its commands that explains every answer?
//!
//! Goes through the block's story from the start and keeps every state that the block may be in: its version, and
//! which of the commands under way have taken effect. A command takes effect as late as its answer or another
//! command's answer asks for; a read as soon as the version fits it, because it changes nothing. So the
//! states stay few, as long as few writes are under way at once.
//!
//! Source: Lowe, "Testing for linearizability", Concurrency and Computation 29 (4), 2017: just-in-time linearization.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{Contradiction, Durability, Effect, Entry, Mark};
use crate::sim::stamp::Content;

/// States of one block at one instant. Hosts keep writes under way to a handful a block, which makes a few hundred.
const STATES_MAX: usize = 1 << 16;

/// A version of the block: the entry that made it, or what it began with.
type Version = Option<usize>;

/// A state that the block may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    version: Version,
    /// Which of the commands under way have taken effect, by their slots.
    done: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Start(usize),
    End(usize),
    Mark(Mark),
}

struct Block<'a> {
    entries: &'a [Entry],
    durability: Durability,
    initial: Content,
    states: Vec<State>,
    /// Commands under way.
    slots: [Version; 64],
    /// Versions that were replaced but that the medium may still hold.
    at_risk: BTreeSet<Version>,
    /// Per flush or forced write under way, what will no longer be at risk when it ends.
    settled: BTreeMap<u32, Vec<Version>>,
}

/// Judges one block. Entries stand in the order of their starts.
pub(super) fn judge(
    lba: u64,
    entries: &[Entry],
    marks: &[(u64, Mark)],
    durability: Durability,
    initial: Content,
) -> Result<(), Contradiction> {
    if entries.is_empty() {
        return Ok(());
    }
    let starts = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (entry.start, Point::Start(index)));
    let ends = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (entry.end, Point::End(index)));
    let marks = marks.iter().map(|(at, mark)| (*at, Point::Mark(*mark)));
    let mut points: Vec<(u64, Point)> = starts.chain(ends).chain(marks).collect();
    // A cut has the time of the ends that it makes, and comes after them: the sort is stable.
    points.sort_by_key(|(at, _)| *at);
    let mut block = Block {
        entries,
        durability,
        initial,
        states: vec![State {
            version: None,
            done: 0,
        }],
        slots: [None; 64],
        at_risk: BTreeSet::new(),
        settled: BTreeMap::new(),
    };
    for (at, point) in points {
        if at == u64::MAX {
            break; // Never answered.
        }
        let before = block.states.clone();
        match point {
            Point::Start(index) => block.start(index),
            Point::End(index) => block.end(index),
            Point::Mark(mark) => block.mark(mark),
        }
        if let (true, Point::End(index)) = (block.states.is_empty(), point) {
            return Err(Contradiction {
                lba,
                command: entries[index].command,
                story: block.story(index, &before),
            });
        }
    }
    Ok(())
}

impl Block<'_> {
    fn content(&self, version: Version) -> Content {
        let Some(index) = version else {
            return self.initial;
        };
        match self.entries[index].effect {
            Effect::Write { content } | Effect::Swap { content, .. } => content,
            Effect::Saw { .. } | Effect::Differs { .. } | Effect::Nothing => {
                unreachable!("only writes make versions")
            }
        }
    }

    fn slot(&self, index: usize) -> Option<usize> {
        self.slots.iter().position(|slot| *slot == Some(index))
    }

    fn start(&mut self, index: usize) {
        let entry = self.entries[index];
        if entry.effect == Effect::Nothing {
            return;
        }
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.expect("hosts keep far fewer than 64 commands under way on a block");
        self.slots[slot] = Some(index);
        let mut states = std::mem::take(&mut self.states);
        for state in &mut states {
            self.look(state);
        }
        states.sort_unstable();
        states.dedup();
        self.states = states;
        // A comparison that differed forced nothing.
        if entry.forced && entry.effect.writes() {
            self.settle_later(entry.command, true);
        }
    }

    /// Lets every command under way that only looks take effect, if it fits.
    fn look(&self, state: &mut State) {
        let content = self.content(state.version);
        for (slot, index) in self.slots.iter().enumerate() {
            let Some(index) = *index else { continue };
            let fits = match self.entries[index].effect {
                Effect::Saw { content: seen } => seen == content,
                Effect::Differs { expected } => expected != content,
                Effect::Write { .. } | Effect::Swap { .. } | Effect::Nothing => false,
            };
            if fits {
                state.done |= 1 << slot;
            }
        }
    }

    /// The state after the write in this slot has taken effect; `None` if it cannot.
    fn take_effect(&self, state: State, slot: usize) -> Option<State> {
        let index = self.slots[slot]?;
        if state.done >> slot & 1 == 1 {
            return None;
        }
        let may = match self.entries[index].effect {
            Effect::Write { .. } => true,
            Effect::Swap { expected, .. } => self.content(state.version) == expected,
            Effect::Saw { .. } | Effect::Differs { .. } | Effect::Nothing => false,
        };
        if !may {
            return None;
        }
        let mut next = State {
            version: Some(index),
            done: state.done | 1 << slot,
        };
        self.look(&mut next);
        Some(next)
    }

    /// Every state that can be reached by commands taking effect, with each state that it may have come from. Behind
    /// states for which `stop` holds nothing is explored.
    fn reach(&self, stop: impl Fn(&State) -> bool) -> BTreeSet<(State, State)> {
        let mut reached: BTreeSet<(State, State)> =
            self.states.iter().map(|state| (*state, *state)).collect();
        let mut open: Vec<(State, State)> = reached.iter().copied().collect();
        while let Some((state, from)) = open.pop() {
            if stop(&state) {
                continue;
            }
            for slot in 0..self.slots.len() {
                let Some(next) = self.take_effect(state, slot) else {
                    continue;
                };
                if reached.insert((next, from)) {
                    open.push((next, from));
                }
            }
            assert!(
                reached.len() < STATES_MAX,
                "hosts keep writes under way to a few a block"
            );
        }
        reached
    }

    fn end(&mut self, index: usize) {
        let entry = self.entries[index];
        let Some(slot) = self.slot(index) else {
            return; // It told nothing, or a cut has ended it.
        };
        let bit = 1 << slot;
        let mut kept = BTreeSet::new();
        for (state, from) in self.reach(|state| state.done & bit != 0) {
            // Of an uncertain one also the states in which it never takes effect; others are looked at when they have to be.
            if state.done & bit != 0 || (!entry.certain && state == from) {
                self.note_replaced(from, state);
                kept.insert(State {
                    done: state.done & !bit,
                    ..state
                });
            }
        }
        self.states = kept.into_iter().collect();
        self.slots[slot] = None;
        if let Some(settled) = self.settled.remove(&entry.command)
            && entry.certain
        {
            self.settle(&settled);
        }
    }

    /// Versions that were replaced on the way from one state to another.
    fn note_replaced(&mut self, from: State, to: State) {
        if self.durability == Durability::Acknowledged || from.version == to.version {
            return;
        }
        self.at_risk.insert(from.version);
        let news = to.done & !from.done;
        for slot in (0..self.slots.len()).filter(|slot| news >> slot & 1 == 1) {
            let index = self.slots[slot].expect("what takes effect is under way");
            if self.entries[index].effect.writes() && Some(index) != to.version {
                self.at_risk.insert(Some(index));
            }
        }
    }

    /// Notes which versions cannot come back once the flush or forced write that begins now has ended: those that
    /// are replaced for certain, and before a forced write also what it replaces.
    fn settle_later(&mut self, command: u32, replaces: bool) {
        if self.durability == Durability::Acknowledged {
            return;
        }
        let current: BTreeSet<Version> = self
            .reach(|_| false)
            .into_iter()
            .map(|(state, _)| state.version)
            .collect();
        let under_way = |version: &Version| version.is_some() && self.slots.contains(version);
        let mut settled: Vec<Version> = self
            .at_risk
            .iter()
            .copied()
            .filter(|version| !under_way(version) && !current.contains(version))
            .collect();
        if replaces {
            settled.extend(current.into_iter().filter(|version| !under_way(version)));
        }
        self.settled.insert(command, settled);
    }

    fn settle(&mut self, settled: &[Version]) {
        let current: BTreeSet<Version> = self.states.iter().map(|state| state.version).collect();
        self.at_risk
            .retain(|version| !settled.contains(version) || current.contains(version));
    }

    fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::FlushStart(command) => self.settle_later(command, false),
            Mark::FlushEnd(command) => {
                let settled = self.settled.remove(&command).unwrap_or_default();
                self.settle(&settled);
            }
            Mark::Cut | Mark::CutLosing => {
                let reached = self.reach(|_| false).into_iter().map(|(state, _)| state.version);
                let mut versions: BTreeSet<Version> = reached.collect();
                let at_risk = std::mem::take(&mut self.at_risk);
                if mark == Mark::CutLosing {
                    versions.extend(at_risk);
                }
                self.states = versions
                    .into_iter()
                    .map(|version| State { version, done: 0 })
                    .collect();
                self.slots = [None; 64];
                self.settled.clear();
            }
            Mark::Stop => self.at_risk.clear(),
        }
    }

    /// The last commands on the block up to this one, and what it could have held.
    fn story(&self, index: usize, before: &[State]) -> String {
        let mut story = String::new();
        let end = self.entries[index].end;
        let told: Vec<&Entry> = self.entries.iter().filter(|entry| entry.start < end).collect();
        for entry in told.iter().skip(told.len().saturating_sub(16)) {
            let over = if entry.end == u64::MAX {
                "under way".to_owned()
            } else {
                entry.end.to_string()
            };
            let certain = if entry.certain { "" } else { ", unsure" };
            let forced = if entry.forced { ", forced" } else { "" };
            let line = writeln!(
                story,
                "  command {} from {} to {over}: {:?}{certain}{forced}",
                entry.command, entry.start, entry.effect
            );
            line.expect("text can be appended to a string");
        }
        let contents: BTreeSet<Content> = before.iter().map(|state| self.content(state.version)).collect();
        let last = write!(story, "  it could have held {contents:?}, and what was under way");
        last.expect("text can be appended to a string");
        story
    }
}
