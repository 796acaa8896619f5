//! Fence and lease: a victim that may be paused, whose writes are held, and a survivor that fences it, waits, opens, and takes it back.

use stateright::{Model, Property};

use super::search;
use crate::icl::membership::fence::{Answer, Ask, Fence};
use crate::icl::membership::lease::{self, Lease};
use crate::icl::membership::record::{ArbiterRule, EpochRecord, Member};
use crate::icl::membership::times::{LEASE_NS, LEASE_WAIT_NS};
use crate::icl::membership::{DriveIndex, DriveSet, Epoch, Incarnation, Key, Slot};

const DRIVES: usize = 3;
/// Time passes in steps of a second: two of them are a lease, and two without a turn are a gap.
const STEP_NS: u64 = LEASE_NS / 2;
const STEPS_MAX: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// Preempt without abort.
    NoAbort,
    /// The survivor opens as soon as a majority is fenced.
    NoWait,
    /// The next life of the victim has the host identifier and key of the last one.
    IdentityReused,
    /// The certificate is written before the fence is carried out.
    EarlyCertificate,
}

struct Expel {
    /// Drives that may be lost, and pauses of the victim.
    losses: u8,
    pauses: u8,
    mutant: Mutant,
}

/// How far a write of the victim is on a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Write {
    Sent,
    Held,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Drive {
    /// The victim is registered; its next life is, too.
    registered: bool,
    registered_again: bool,
    certified: bool,
    beat: Option<Write>,
    data: Option<Write>,
    /// What the survivor asks.
    asked: Option<Ask>,
    /// A fence that was answered and is still to be carried out: a mutant.
    owed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u64,
    drives: [Drive; DRIVES],
    lost: DriveSet,
    losses_left: u8,
    lease: Lease,
    is_paused: bool,
    pauses_left: u8,
    data_left: u8,
    fence: Option<Fence>,
    is_open: bool,
    /// Something of the victim's old life had effect after the certificate of its drive, or beside the new epoch.
    wrote_late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pass,
    Pause,
    Resume,
    WriteData(usize),
    Check(usize, bool),
    Effect(usize, bool),
    Fence,
    Serve(usize),
    Owed(usize),
    Open,
    Rejoin(usize),
    Lose(usize),
}

fn drive(index: usize) -> DriveIndex {
    DriveIndex::new(u8::try_from(index).unwrap()).unwrap()
}

fn member(number: u8) -> Member {
    let slot = Slot::new(number).unwrap();
    Member {
        slot,
        incarnation: Incarnation(u64::from(number) + 1),
        key: slot.key(Epoch(1), 5),
    }
}

fn record(epoch: u32, drives: DriveSet) -> EpochRecord {
    EpochRecord {
        epoch: Epoch(epoch),
        members: vec![member(0)],
        victims: vec![member(1)],
        fence_all: false,
        drives,
        voters: DriveSet(0b111),
        generation: 0,
        arbiter: ArbiterRule::LastWriter,
        clean: false,
        dirty_ram: false,
    }
}

impl Expel {
    /// The victim's loop takes a turn, if it runs.
    fn turn(state: &mut State) {
        let mut beats = Vec::new();
        state.lease.turn(state.now * STEP_NS, &mut beats);
        for (drive, _) in beats {
            state.drives[usize::from(drive.number())].beat = Some(Write::Sent);
        }
    }

    fn answer_beat(state: &mut State, at: usize, answer: lease::Answer) {
        state.drives[at].beat = None;
        state.lease.answered(drive(at), answer);
    }

    /// A write reaches its drive, which looks at its reservation.
    fn check(&self, state: &mut State, at: usize, is_data: bool) {
        let one = &mut state.drives[at];
        // A drive cannot tell two lives with one identity apart.
        let passes = one.registered || (self.mutant == Mutant::IdentityReused && one.registered_again);
        let passes = passes && !state.lost.contains(drive(at));
        match (is_data, passes) {
            (true, true) => one.data = Some(Write::Held),
            (true, false) => one.data = None,
            (false, true) => one.beat = Some(Write::Held),
            (false, false) if state.lost.contains(drive(at)) => {
                Self::answer_beat(state, at, lease::Answer::Failed);
            }
            (false, false) => Self::answer_beat(state, at, lease::Answer::Conflict),
        }
    }

    fn effect(state: &mut State, at: usize, is_data: bool) {
        let in_use = state
            .fence
            .as_ref()
            .is_some_and(|fence| fence.fenced().contains(drive(at)));
        state.wrote_late |= state.drives[at].certified || (state.is_open && in_use);
        if is_data {
            state.drives[at].data = None;
        } else {
            Self::answer_beat(state, at, lease::Answer::Written);
        }
    }

    /// Takes the victim's registration, and what it has on the drive.
    fn preempt(&self, state: &mut State, at: usize) {
        state.drives[at].registered = false;
        if self.mutant == Mutant::NoAbort {
            return;
        }
        if state.drives[at].data == Some(Write::Held) {
            state.drives[at].data = None;
        }
        if state.drives[at].beat == Some(Write::Held) {
            Self::answer_beat(state, at, lease::Answer::Failed);
        }
    }

    fn serve(&self, state: &mut State, at: usize) {
        let Some(ask) = state.drives[at].asked.take() else {
            return;
        };
        let answer = if state.lost.contains(drive(at)) {
            Answer::Failed
        } else {
            match ask {
                Ask::PreemptAndAbort { .. } if self.mutant == Mutant::EarlyCertificate => {
                    state.drives[at].owed = true;
                    Answer::Done
                }
                Ask::PreemptAndAbort { .. } if state.drives[at].registered => {
                    self.preempt(state, at);
                    Answer::Done
                }
                Ask::PreemptAndAbort { .. } => Answer::Conflict,
                Ask::WriteCertificate(_) => {
                    state.drives[at].certified = true;
                    Answer::Done
                }
                Ask::Report => Answer::Registrants(vec![member(0).key]),
                Ask::ReadCertificates => Answer::Certificates(Vec::new()),
                Ask::Register(_) | Ask::Acquire(_) | Ask::Kill(..) => Answer::Done,
            }
        };
        let mut out = Vec::new();
        if let Some(fence) = &mut state.fence {
            fence.answered(state.now * STEP_NS, drive(at), answer, &mut out);
        }
        Self::note(state, out);
        let failed = state.fence.as_ref().map_or(DriveSet::EMPTY, Fence::failed);
        let left = DriveSet(0b111).minus(failed);
        let is_idle = state.drives.iter().all(|one| one.asked.is_none());
        if !failed.is_empty() && left.count() >= 2 && is_idle {
            // The next record goes on without what has failed.
            Self::begin(state, record(3, left));
        }
    }

    fn begin(state: &mut State, record: EpochRecord) {
        let mut fence = Fence::new(&record, member(0).slot, DriveSet::EMPTY);
        let mut out = Vec::new();
        fence.begin(state.now * STEP_NS, &mut out);
        state.fence = Some(fence);
        Self::note(state, out);
    }

    fn note(state: &mut State, asks: Vec<(DriveIndex, Ask)>) {
        for (drive, ask) in asks {
            state.drives[usize::from(drive.number())].asked = Some(ask);
        }
    }

    fn may_open(&self, state: &State) -> bool {
        let Some(fence) = state.fence.as_ref().filter(|fence| fence.is_complete()) else {
            return false;
        };
        let wait_ns = if self.mutant == Mutant::NoWait {
            0
        } else {
            LEASE_WAIT_NS
        };
        let majority_ns = fence.majority_ns().expect("all drives are a majority");
        !state.is_open && state.now * STEP_NS >= majority_ns + wait_ns
    }
}

impl Model for Expel {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        assert_ne!(member(1).key, Key::NONE);
        let victim = member(1);
        let one = Drive {
            registered: true,
            ..Drive::default()
        };
        let mut state = State {
            now: 0,
            drives: [one.clone(), one.clone(), one],
            lost: DriveSet::EMPTY,
            losses_left: self.losses,
            lease: Lease::new(0, victim.slot, victim.incarnation, Epoch(1), DriveSet(0b111)),
            is_paused: false,
            pauses_left: self.pauses,
            data_left: 1,
            fence: None,
            is_open: false,
            wrote_late: false,
        };
        Self::turn(&mut state);
        // The first round is through: that a lease begins is not what this is about.
        for at in 0..DRIVES {
            Self::answer_beat(&mut state, at, lease::Answer::Written);
        }
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.now < STEPS_MAX {
            steps.push(Step::Pass);
        }
        if state.is_paused {
            steps.push(Step::Resume);
        } else if state.pauses_left > 0 {
            steps.push(Step::Pause);
        }
        let may_write = !state.is_paused && state.lease.is_valid(state.now * STEP_NS);
        if state.fence.is_none() {
            steps.push(Step::Fence);
        }
        if self.may_open(state) {
            steps.push(Step::Open);
        }
        for (at, one) in state.drives.iter().enumerate() {
            if may_write && state.data_left > 0 {
                steps.push(Step::WriteData(at));
            }
            for (write, is_data) in [(one.beat, false), (one.data, true)] {
                match write {
                    Some(Write::Sent) => steps.push(Step::Check(at, is_data)),
                    Some(Write::Held) => steps.push(Step::Effect(at, is_data)),
                    None => {}
                }
            }
            if one.asked.is_some() {
                steps.push(Step::Serve(at));
            }
            if one.owed {
                steps.push(Step::Owed(at));
            }
            if state.is_open && !one.registered_again && one.certified {
                steps.push(Step::Rejoin(at));
            }
            if state.losses_left > 0 {
                steps.push(Step::Lose(at));
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Pass => {
                next.now += 1;
                if !next.is_paused {
                    Self::turn(&mut next);
                }
            }
            Step::Pause => (next.is_paused, next.pauses_left) = (true, next.pauses_left - 1),
            Step::Resume => {
                next.is_paused = false;
                Self::turn(&mut next);
            }
            Step::WriteData(at) => {
                next.data_left -= 1;
                next.drives[at].data = Some(Write::Sent);
            }
            Step::Check(at, is_data) => self.check(&mut next, at, is_data),
            Step::Effect(at, is_data) => Self::effect(&mut next, at, is_data),
            Step::Fence => Self::begin(&mut next, record(2, DriveSet(0b111))),
            Step::Serve(at) => self.serve(&mut next, at),
            Step::Owed(at) => {
                next.drives[at].owed = false;
                self.preempt(&mut next, at);
            }
            Step::Open => next.is_open = true,
            Step::Rejoin(at) => next.drives[at].registered_again = true,
            Step::Lose(at) => {
                next.losses_left -= 1;
                next.lost = next.lost.with(drive(at));
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I4", |_, state: &State| !state.wrote_late),
            Property::always("I10", |_, state: &State| {
                !(state.is_open && state.lease.is_valid(state.now * STEP_NS))
            }),
        ]
    }
}

/// States generated; about a third of them are new.
const STATES_MAX: usize = 1_000_000;

#[test]
fn nothing_of_a_victim_has_effect_beside_the_next_epoch() {
    // Without loss and pause it goes as deep as it takes to catch the mutants.
    let cases = [
        (0, 0, 6 * STATES_MAX),
        (0, 1, STATES_MAX),
        (1, 0, STATES_MAX),
        (1, 1, STATES_MAX),
    ];
    for (losses, pauses, states_max) in cases {
        let model = Expel {
            losses,
            pauses,
            mutant: Mutant::None,
        };
        let found = search(model, states_max);
        println!(
            "{losses} lost drives, {pauses} pauses: {} states, whole: {}",
            found.states, found.is_whole
        );
        assert_eq!(found.broken, [""; 0]);
        assert!(found.is_whole || found.states > 100_000);
    }
}

fn is_caught(mutant: Mutant, property: &str) {
    let model = Expel {
        losses: 0,
        pauses: 0,
        mutant,
    };
    let found = search(model, 6 * STATES_MAX);
    println!("{mutant:?}: {:?} within {} states", found.broken, found.states);
    assert!(found.broken.contains(&property), "{mutant:?}");
}

#[test]
fn a_preempt_without_abort_is_caught() {
    is_caught(Mutant::NoAbort, "I4");
}

#[test]
fn an_epoch_opened_without_waiting_for_the_lease_is_caught() {
    is_caught(Mutant::NoWait, "I10");
}

#[test]
fn an_identity_that_is_used_again_is_caught() {
    is_caught(Mutant::IdentityReused, "I4");
}

#[test]
fn a_certificate_before_the_fence_is_caught() {
    is_caught(Mutant::EarlyCertificate, "I4");
}
