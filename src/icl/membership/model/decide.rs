//! Disk Paxos: proposers that are restarted while their writes are on the way, and a drive that is lost.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};

use super::search;
use crate::icl::membership::authority::Authority;
use crate::icl::membership::paxos::{Action, Event, Paxos};
use crate::icl::membership::record::{ArbiterRule, Ballot, EpochRecord, Member, PaxosBlock};
use crate::icl::membership::{DriveIndex, DriveSet, Epoch, Incarnation, Slot};

/// Later than any pause.
const LATER_NS: u64 = 1 << 60;
const DRIVES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// One voter of three is taken for a majority.
    SmallQuorum,
    /// A new life begins without a look at its own block.
    NoRecall,
}

struct Decide {
    proposers: u8,
    restarts: u8,
    losses: u8,
    rounds_max: u64,
    mutant: Mutant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Proposer {
    life: u8,
    paxos: Paxos,
    /// The command that each drive has not carried out.
    asked: [Option<Action>; DRIVES],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    proposers: Vec<Proposer>,
    blocks: [BTreeMap<Slot, PaxosBlock>; DRIVES],
    /// Writes of past lives that are still on their way.
    late: Vec<(usize, PaxosBlock)>,
    lost: DriveSet,
    restarts_left: u8,
    losses_left: u8,
    /// Generations of the records that were decided.
    decided: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Tick(usize),
    Serve(usize, usize),
    Late(usize),
    Restart(usize),
    Lose(usize),
}

fn drive(index: usize) -> DriveIndex {
    DriveIndex::new(u8::try_from(index).unwrap()).unwrap()
}

impl Decide {
    fn proposer(&self, number: u8, life: u8) -> Proposer {
        let slot = Slot::new(number).unwrap();
        let generation = u64::from(number) * 10 + u64::from(life);
        let input = EpochRecord {
            epoch: Epoch(1),
            members: vec![Member {
                slot,
                incarnation: Incarnation(generation + 1),
                key: slot.key(Epoch(1), 1),
            }],
            victims: Vec::new(),
            fence_all: false,
            drives: DriveSet(0b111),
            voters: DriveSet(0b111),
            generation,
            arbiter: ArbiterRule::LastWriter,
            clean: false,
            dirty_ram: false,
        };
        let mut paxos = Paxos::new(0, slot, Incarnation(generation + 1), input);
        if life == 0 {
            paxos.set_expelled(DriveSet(0b111));
        }
        let paxos = match self.mutant {
            Mutant::SmallQuorum => paxos.with_quorum(1),
            Mutant::NoRecall if life > 0 => paxos.without_recall(),
            Mutant::None | Mutant::NoRecall => paxos,
        };
        Proposer {
            life,
            paxos,
            asked: [const { None }; DRIVES],
        }
    }

    fn feed(state: &mut State, number: usize, now_ns: u64, event: Event) {
        let proposer = &mut state.proposers[number];
        let mut out = Vec::new();
        proposer.paxos.handle(now_ns, event, &mut out);
        for action in out {
            match action {
                Action::Expel(drive) | Action::Read(drive) | Action::Write(drive, _) => {
                    let asked = &mut proposer.asked[usize::from(drive.number())];
                    assert!(asked.is_none(), "a drive has one command at a time");
                    *asked = Some(action);
                }
                Action::Decided(record) => {
                    state.decided.insert(record.generation);
                }
                Action::Behind(_) => unreachable!("there is one instance"),
                // Only a mutant lets a past life's write land behind that of the present one.
                Action::SlotTaken(_) => {}
            }
        }
    }

    fn serve(state: &mut State, number: usize, at: usize) {
        let Some(action) = state.proposers[number].asked[at].take() else {
            return;
        };
        let done = !state.lost.contains(drive(at));
        let event = match action {
            Action::Expel(drive) => {
                let slot = Slot::new(u8::try_from(number).unwrap()).unwrap();
                state.late.retain(|(on, block)| *on != at || block.slot != slot);
                Event::Expelled { drive, done }
            }
            Action::Read(drive) => Event::Read {
                drive,
                blocks: done.then(|| state.blocks[at].values().cloned().collect()),
            },
            Action::Write(drive, block) => {
                if done {
                    state.blocks[at].insert(block.slot, block);
                }
                Event::Written { drive, done }
            }
            Action::Decided(_) | Action::Behind(_) | Action::SlotTaken(_) => unreachable!("no commands"),
        };
        Self::feed(state, number, 0, event);
    }

    fn restart(&self, state: &mut State, number: usize) {
        state.restarts_left -= 1;
        let old = state.proposers[number].clone();
        for (at, asked) in old.asked.into_iter().enumerate() {
            if let Some(Action::Write(_, block)) = asked {
                state.late.push((at, block));
            }
        }
        state.proposers[number] = self.proposer(u8::try_from(number).unwrap(), old.life + 1);
    }
}

impl Model for Decide {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            proposers: (0..self.proposers)
                .map(|number| self.proposer(number, 0))
                .collect(),
            blocks: [const { BTreeMap::new() }; DRIVES],
            late: Vec::new(),
            lost: DriveSet::EMPTY,
            restarts_left: self.restarts,
            losses_left: self.losses,
            decided: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (number, proposer) in state.proposers.iter().enumerate() {
            if proposer.paxos.wake_at_ns().is_some() {
                steps.push(Step::Tick(number));
            }
            let asked = (0..DRIVES).filter(|at| proposer.asked[*at].is_some());
            steps.extend(asked.map(|at| Step::Serve(number, at)));
            if state.restarts_left > 0 && proposer.paxos.ballot() > Ballot(0) {
                steps.push(Step::Restart(number));
            }
        }
        steps.extend((0..state.late.len()).map(Step::Late));
        if state.losses_left > 0 {
            steps.extend((0..DRIVES).map(Step::Lose));
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Tick(number) => Self::feed(&mut next, number, LATER_NS, Event::Tick),
            Step::Serve(number, at) => Self::serve(&mut next, number, at),
            Step::Late(index) => {
                let (at, block) = next.late.remove(index);
                next.blocks[at].insert(block.slot, block);
            }
            Step::Restart(number) => self.restart(&mut next, number),
            Step::Lose(at) => {
                next.losses_left -= 1;
                next.lost = next.lost.with(drive(at));
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("I3", |_, state: &State| {
            state.decided.len() <= 1
        })]
    }

    fn within_boundary(&self, state: &State) -> bool {
        let mut proposers = state.proposers.iter();
        proposers.all(|proposer| proposer.paxos.ballot().0 >> 3 <= self.rounds_max)
    }
}

/// States generated; about a third of them are new.
const STATES_MAX: usize = 1_000_000;

#[test]
fn one_record_is_decided_whoever_is_restarted() {
    for (proposers, restarts, losses) in [(1, 2, 1), (2, 0, 0), (2, 1, 1)] {
        let model = Decide {
            proposers,
            restarts,
            losses,
            rounds_max: 2,
            mutant: Mutant::None,
        };
        let found = search(model, STATES_MAX);
        println!(
            "{proposers} proposers, {restarts} restarts, {losses} lost drives: {} states, whole: {}",
            found.states, found.is_whole
        );
        assert_eq!(found.broken, [""; 0]);
        assert!(found.is_whole || found.states > 100_000);
    }
}

fn is_caught(proposers: u8, restarts: u8, mutant: Mutant) {
    let model = Decide {
        proposers,
        restarts,
        losses: 0,
        rounds_max: 2,
        mutant,
    };
    let found = search(model, 6 * STATES_MAX);
    println!("{mutant:?}: {:?} within {} states", found.broken, found.states);
    assert_eq!(found.broken, ["I3"], "{mutant:?}");
}

#[test]
fn a_quorum_of_less_than_a_majority_is_caught() {
    is_caught(2, 0, Mutant::SmallQuorum);
}

#[test]
fn a_life_that_does_not_read_its_own_block_again_is_caught() {
    is_caught(1, 1, Mutant::NoRecall);
}
