//! Random commands, against a model that keeps what the specification says in another shape: a map of keys and a set of holders.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::reservation::machine::{Action, Ask};

/// Deterministic random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn kind(&mut self) -> Kind {
        Kind::ALL[usize::try_from(self.below(6)).unwrap()]
    }

    /// Few keys, so that hosts share them and guess them.
    fn key(&mut self) -> Key {
        Key(self.below(4))
    }
}

#[derive(Clone, Default)]
struct Model {
    keys: BTreeMap<HostId, u64>,
    kind: Option<Kind>,
    holders: BTreeSet<HostId>,
    generation: u32,
}

impl Model {
    /// Whether the command succeeds; the holders follow from the type afterwards.
    fn apply(&mut self, host: HostId, command: &Command) -> bool {
        let own = self.keys.get(&host).copied();
        let succeeded = match *command {
            Command::Register { new, .. } => own.is_none_or(|key| key == new.0) && self.set(host, new),
            Command::Replace { current, new, .. } => {
                current.is_none_or(|current| own == Some(current.0)) && self.set(host, new)
            }
            Command::Unregister { current, .. } => {
                own.is_some()
                    && current.is_none_or(|current| own == Some(current.0))
                    && self.drop_hosts(&BTreeSet::from([host]))
            }
            Command::Report { .. }
            | Command::SetPersistence(_)
            | Command::SetFloors(_)
            | Command::Expel { .. }
            | Command::Kill { .. } => true,
            Command::Acquire { current, .. }
            | Command::Preempt { current, .. }
            | Command::Release { current, .. }
            | Command::Clear { current }
                if own != Some(current.0) =>
            {
                false
            }
            Command::Acquire { kind, .. } => match self.kind {
                None => self.hold(host, kind),
                Some(held) => held == kind && self.holders.contains(&host),
            },
            Command::Release { kind, .. } => {
                let holds = self.holders.contains(&host);
                if holds && self.kind == Some(kind) {
                    self.kind = None;
                    self.holders.clear();
                }
                !holds || self.kind.is_none()
            }
            Command::Clear { .. } => {
                *self = Self {
                    generation: self.generation,
                    ..Self::default()
                };
                true
            }
            Command::Preempt { victim, kind, .. } => self.preempt(host, victim.0, kind),
        };
        let counts = matches!(
            command,
            Command::Register { .. }
                | Command::Replace { .. }
                | Command::Unregister { .. }
                | Command::Preempt { .. }
                | Command::Clear { .. }
        );
        self.generation += u32::from(succeeded && counts);
        if self.kind.is_some_and(Kind::is_of_all) {
            self.holders = self.keys.keys().copied().collect();
        }
        if self.holders.is_empty() {
            self.kind = None;
        }
        succeeded
    }

    fn set(&mut self, host: HostId, key: Key) -> bool {
        self.keys.insert(host, key.0);
        true
    }

    fn hold(&mut self, host: HostId, kind: Kind) -> bool {
        self.kind = Some(kind);
        self.holders = BTreeSet::from([host]);
        true
    }

    fn drop_hosts(&mut self, gone: &BTreeSet<HostId>) -> bool {
        self.keys.retain(|host, _| !gone.contains(host));
        self.holders.retain(|host| !gone.contains(host));
        true
    }

    fn preempt(&mut self, host: HostId, victim: u64, kind: Kind) -> bool {
        let of_all = self.kind.is_some_and(Kind::is_of_all);
        let with_key: BTreeSet<HostId> = self
            .keys
            .iter()
            .filter(|(_, key)| **key == victim)
            .map(|(host, _)| *host)
            .collect();
        if of_all && victim == 0 {
            self.keys.retain(|other, _| *other == host);
            return self.hold(host, kind);
        }
        let hits_holder = !of_all && self.holders.iter().any(|holder| with_key.contains(holder));
        if hits_holder {
            let others = with_key.into_iter().filter(|other| *other != host).collect();
            self.drop_hosts(&others);
            return self.hold(host, kind);
        }
        victim != 0 && !with_key.is_empty() && self.drop_hosts(&with_key)
    }

    fn permits(&self, host: HostId, access: Access) -> bool {
        let Some(kind) = self.kind else { return true };
        let may_read = !kind.excludes_readers();
        let has_right = if kind.is_of_one() {
            self.holders.contains(&host)
        } else {
            self.keys.contains_key(&host)
        };
        has_right || (access == Access::Read && may_read)
    }
}

fn command(random: &mut Random) -> Command {
    let (current, kind) = (random.key(), random.kind());
    let new = Key(1 + random.below(3));
    let persistence = Persistence::Keep;
    let named = (random.below(4) > 0).then_some(current);
    match random.below(12) {
        0..=2 => Command::Register { new, persistence },
        3 => Command::Unregister {
            current: named,
            persistence,
        },
        4 => Command::Replace {
            current: named,
            new,
            persistence,
        },
        5..=6 => Command::Acquire { current, kind },
        7..=9 => Command::Preempt {
            current,
            victim: random.key(),
            kind,
            abort: random.below(2) == 0,
        },
        10 => Command::Release { current, kind },
        _ if random.below(4) == 0 => Command::Clear { current },
        _ => REPORT,
    }
}

fn compare(state: &State, model: &Model, seed: u64) {
    let keys: BTreeMap<HostId, u64> = state.registrants.iter().map(|it| (it.host, it.key.0)).collect();
    assert_eq!(keys, model.keys, "seed {seed}");
    assert_eq!(state.reservation.map(|it| it.kind), model.kind, "seed {seed}");
    assert_eq!(state.generation, model.generation, "seed {seed}");
    let rules = state.rules();
    for number in 1..=5 {
        let host = host(number);
        assert_eq!(
            state.is_holder(host),
            model.holders.contains(&host),
            "seed {seed}"
        );
        for access in [Access::Read, Access::Write] {
            assert_eq!(
                rules.permits(host, access),
                model.permits(host, access),
                "seed {seed} {host} {access:?}"
            );
        }
    }
}

#[test]
fn random_commands_end_as_the_model_says() {
    let mut succeeded = 0_u32;
    for seed in 0..400 {
        let mut random = Random(seed);
        let (mut state, mut model) = (State::default(), Model::default());
        for _ in 0..200 {
            let host = host(u8::try_from(1 + random.below(5)).unwrap());
            let command = command(&mut random);
            let mut next = state.clone();
            let result = next.apply(host, &command, false);
            let expected = model.apply(host, &command);
            assert_eq!(
                result.is_ok(),
                expected,
                "seed {seed} {host} {command:?} {state:?}"
            );
            if let Ok(effect) = result {
                succeeded += 1;
                let gone = effect.abort.iter().all(|victim| next.key(*victim).is_none());
                assert!(gone, "only who lost its registration is aborted: seed {seed}");
                assert!(!effect.abort.contains(&host), "seed {seed}");
                state = next;
            }
            compare(&state, &model, seed);
        }
    }
    assert!(succeeded > 20_000, "the commands reach something: {succeeded}");
}

/// A caller that answers late, in any order that is allowed, and a drive that fails now and then.
#[test]
fn random_callers_get_each_command_completed_once_and_in_order() {
    let mut persistent = 0_u32;
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut machine: Machine<u32> = Machine::new(seed % 2 == 0, None);
        let (mut told, mut asked) = (Vec::new(), 0_u32);
        let mut open: Option<Action<u32>> = None;
        let mut durable = State::default();
        for _ in 0..300 {
            let mut out = Vec::new();
            match open.take() {
                Some(Action::Persist(state)) if random.below(2) == 0 => {
                    let succeeded = random.below(8) > 0;
                    if succeeded || random.below(2) == 0 {
                        durable = state;
                    }
                    machine.persisted(succeeded, &mut out);
                }
                Some(Action::Enforce { .. }) if random.below(2) == 0 => machine.enforced(&mut out),
                other => {
                    open = other;
                    asked += 1;
                    let persistence = random.below(6) == 0;
                    let command = if persistence {
                        Command::SetPersistence(random.below(2) == 0)
                    } else {
                        command(&mut random)
                    };
                    let host = host(u8::try_from(1 + random.below(5)).unwrap());
                    machine.ask(
                        Ask {
                            name: asked,
                            host,
                            host_name: HostName::default(),
                            command,
                        },
                        &mut out,
                    );
                }
            }
            let mut succeeded = false;
            for action in out {
                match action {
                    Action::Complete { name, status, .. } => {
                        succeeded |= status.is_success();
                        told.push(name);
                    }
                    Action::Persist(_) | Action::Enforce { .. } => {
                        assert!(open.is_none(), "one thing is under way at a time: seed {seed}");
                        open = Some(action);
                    }
                    Action::Notify { .. } => {}
                }
            }
            if succeeded && machine.state().persists {
                assert_eq!(
                    &durable,
                    machine.state(),
                    "what was told is on the media: seed {seed}"
                );
                persistent += 1;
            } else if succeeded {
                assert!(!durable.persists, "nothing is found that is not so: seed {seed}");
            }
            assert_eq!(machine.is_busy(), open.is_some(), "seed {seed}");
        }
        let expected: Vec<u32> = (1..=u32::try_from(told.len()).unwrap()).collect();
        assert_eq!(told, expected, "first come, first served: seed {seed}");
    }
    assert!(persistent > 1_000, "states persist often enough: {persistent}");
}
