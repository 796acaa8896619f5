//! Fence and lease: a victim that may be paused, whose writes are held, and a survivor that fences it, waits, opens, and takes it back.
//!
//! The survivor waits for a lease, without the tenth for clocks that run apart, because clocks are alike here: so a lease that is begun one step later than it believes is noticed.

use stateright::{Model, Property};

use super::search;
use crate::icl::membership::beats::Beats;
use crate::icl::membership::fence::{Answer, Ask, Fence};
use crate::icl::membership::lease::{self, Lease};
use crate::icl::membership::record::{ArbiterRule, EpochRecord, Heartbeat, Member};
use crate::icl::membership::times::LEASE_NS;
use crate::icl::membership::{DriveIndex, DriveSet, Epoch, Incarnation, Key, Slot};

const DRIVES: usize = 3;
/// Time passes in steps of a second: two of them are a lease, and two without a turn are a gap.
const STEP_NS: u64 = LEASE_NS / 2;
const STEPS_MAX: u64 = 4;
/// Until a lease is over that began after one step.
const STEPS_TOLD_MAX: u64 = 3;

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
    /// Heartbeats are read before the victim is fenced.
    EarlyRead,
    /// What one voter shows is taken for what a majority does.
    OneVoter,
    /// A lease counts from the round before the last one.
    RoundBefore,
}

struct Expel {
    /// Drives that may be lost, and pauses of the victim.
    losses: u8,
    pauses: u8,
    /// It is about the wait for the lease: the victim tells of its heartbeats and writes nothing else, drives take each in one step and are fenced in one, and nobody comes back. Else nobody hears of heartbeats.
    tells: bool,
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
    /// The round of heartbeats that is on its way, and the last one that has come, at the end and when the fence began.
    beat: Option<(Write, u64)>,
    shown: u64,
    shown_before: u64,
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
    /// The victim's last announcement names this round, if the survivor has not heard it yet.
    said: Option<u64>,
    heard: Beats,
    tells: bool,
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
    Hear,
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
        let before = state.lease.round();
        state.lease.turn(state.now * STEP_NS, &mut beats);
        for (drive, beat) in beats {
            state.drives[usize::from(drive.number())].beat = Some((Write::Sent, beat.seq));
        }
        if state.tells && state.lease.round() != before {
            state.said = Some(state.lease.round());
        }
    }

    fn answer_beat(state: &mut State, at: usize, answer: lease::Answer) {
        let beat = state.drives[at].beat.take();
        if let (lease::Answer::Written, Some((_, round)), true) = (answer, beat, state.tells) {
            state.drives[at].shown = round;
        }
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
            (false, true) => one.beat = one.beat.map(|(_, round)| (Write::Held, round)),
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
        if matches!(state.drives[at].beat, Some((Write::Held, _))) {
            Self::answer_beat(state, at, lease::Answer::Failed);
        }
    }

    fn serve(&self, state: &mut State, at: usize) {
        while let Some(ask) = state.drives[at].asked.take() {
            self.serve_one(state, at, ask);
            // Without news of heartbeats it makes no difference what is read of them, nor when.
            let is_read = matches!(state.drives[at].asked, Some(Ask::ReadHeartbeats));
            if !is_read && !self.tells {
                break;
            }
        }
        let failed = state.fence.as_ref().map_or(DriveSet::EMPTY, Fence::failed);
        let left = DriveSet(0b111).minus(failed);
        let is_idle = state.drives.iter().all(|one| one.asked.is_none());
        if !failed.is_empty() && left.count() >= 2 && is_idle {
            // The next record goes on without what has failed.
            Self::begin(state, record(3, left));
        }
    }

    fn serve_one(&self, state: &mut State, at: usize, ask: Ask) {
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
                Ask::ReadHeartbeats => Answer::Heartbeats(vec![self.beat_on(state, at)]),
                Ask::Register(_) | Ask::Acquire(_) | Ask::Kill(..) => Answer::Done,
            }
        };
        let mut out = Vec::new();
        if let Some(fence) = &mut state.fence {
            fence.answered(state.now * STEP_NS, drive(at), answer, &mut out);
        }
        Self::note(state, out);
    }

    /// What a drive shows of the victim.
    fn beat_on(&self, state: &State, at: usize) -> Heartbeat {
        let one = &state.drives[at];
        let round = match self.mutant {
            Mutant::EarlyRead => one.shown_before,
            Mutant::OneVoter => state.drives[0].shown,
            Mutant::RoundBefore => one.shown.saturating_sub(1),
            Mutant::None
            | Mutant::NoAbort
            | Mutant::NoWait
            | Mutant::IdentityReused
            | Mutant::EarlyCertificate => one.shown,
        };
        let victim = member(1);
        Heartbeat {
            slot: victim.slot,
            incarnation: victim.incarnation,
            epoch: Epoch(1),
            seq: round,
        }
    }

    fn begin(state: &mut State, record: EpochRecord) {
        for one in &mut state.drives {
            one.shown_before = one.shown;
        }
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
            LEASE_NS
        };
        let majority_ns = fence.majority_ns().expect("all drives are a majority");
        let last = fence.last_round(&member(1));
        let issued_ns = last.and_then(|round| state.heard.issued_before_ns(round));
        let begun_ns = issued_ns.map_or(majority_ns, |issued_ns| issued_ns.min(majority_ns));
        !state.is_open && state.now * STEP_NS >= begun_ns + wait_ns
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
            said: None,
            heard: Beats::default(),
            tells: self.tells,
            is_paused: false,
            pauses_left: self.pauses,
            data_left: u8::from(!self.tells),
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
        let steps_max = if self.tells { STEPS_TOLD_MAX } else { STEPS_MAX };
        if state.now < steps_max {
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
        if state.said.is_some() {
            steps.push(Step::Hear);
        }
        if self.may_open(state) {
            steps.push(Step::Open);
        }
        for (at, one) in state.drives.iter().enumerate() {
            if may_write && state.data_left > 0 {
                steps.push(Step::WriteData(at));
            }
            for (write, is_data) in [(one.beat.map(|(write, _)| write), false), (one.data, true)] {
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
            if state.is_open && !one.registered_again && one.certified && !self.tells {
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
            Step::Check(at, is_data) => {
                self.check(&mut next, at, is_data);
                if self.tells && matches!(next.drives[at].beat, Some((Write::Held, _))) {
                    Self::effect(&mut next, at, false);
                }
            }
            Step::Effect(at, is_data) => Self::effect(&mut next, at, is_data),
            Step::Hear => {
                let round = next.said.take()?;
                next.heard.hear(next.now * STEP_NS, round);
            }
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
            tells: false,
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

/// Goal: the wait counts from the last heartbeats that the survivor knows of, and no lease outlives it (I10).
#[test]
fn no_lease_outlives_the_wait_from_the_last_heartbeat_that_is_known() {
    for (losses, pauses) in [(0, 0), (0, 1), (1, 0)] {
        let model = Expel {
            losses,
            pauses,
            tells: true,
            mutant: Mutant::None,
        };
        let found = search(model, 3 * STATES_MAX);
        println!(
            "{losses} lost drives, {pauses} pauses: {} states, whole: {}",
            found.states, found.is_whole
        );
        assert_eq!(found.broken, [""; 0]);
        assert!(found.is_whole || found.states > 100_000);
    }
}

fn is_caught(mutant: Mutant, property: &str) {
    let tells = matches!(mutant, Mutant::EarlyRead | Mutant::OneVoter | Mutant::RoundBefore);
    let model = Expel {
        losses: 0,
        pauses: 0,
        tells,
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
fn a_lease_that_counts_from_less_than_a_majority_behind_the_fence_shows_is_caught() {
    is_caught(Mutant::EarlyRead, "I10");
    is_caught(Mutant::OneVoter, "I10");
    is_caught(Mutant::RoundBefore, "I10");
}

#[test]
fn an_identity_that_is_used_again_is_caught() {
    is_caught(Mutant::IdentityReused, "I4");
}

#[test]
fn a_certificate_before_the_fence_is_caught() {
    is_caught(Mutant::EarlyCertificate, "I4");
}
