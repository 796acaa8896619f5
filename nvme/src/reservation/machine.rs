//! One namespace's reservation commands, one after the other.
//!
//! A command is decided on a copy of the state; then the copy is made durable, if it has to be; then every core is told the new rules and
//! answers once it holds commands to them and has nothing of an aborted host under way; then the command completes. The next one
//! begins only after that, so that whoever finds a preempted key gone knows that its commands are gone, too (PROTOCOL H09).

use std::collections::VecDeque;

use crate::status::Status;

use super::{Command, Effect, HostId, HostName, Life, Notice, Rules, State};

/// Commands that wait for the one under way; a host that sends more is asked to try again.
pub const WAITING_MAX: usize = 512;

/// A command on its way through the machine; `N` is the caller's name for it.
#[derive(Clone, Copy, Debug)]
pub struct Ask<N> {
    /// What the caller calls it.
    pub name: N,
    /// Whose it is.
    pub host: HostId,
    /// The name of that host.
    pub host_name: HostName,
    /// What it asks for.
    pub command: Command,
}

/// What the caller is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<N> {
    /// Make this state durable, forced to stable media, and call [`Machine::persisted`].
    Persist(State),
    /// Hold commands to these rules on all cores, abort what these hosts have under way, and call [`Machine::enforced`] when nothing of
    /// them runs any more.
    Enforce {
        /// The rules from now on.
        rules: Rules,
        /// Hosts whose commands are aborted.
        abort: Vec<HostId>,
        /// Lives were barred: commands of those that the rules do not admit are aborted, also beside.
        bars: bool,
    },
    /// Tell a host that it lost something.
    Notify {
        /// The host.
        host: HostId,
        /// What it lost.
        notice: Notice,
    },
    /// Complete a command.
    Complete {
        /// The caller's name for it.
        name: N,
        /// How it ended.
        status: Status,
        /// What it returns.
        data: Vec<u8>,
    },
}

/// How far the command under way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    AwaitingPersist,
    AwaitingEnforcement,
}

/// The command under way.
#[derive(Clone, Debug)]
struct Active<N> {
    ask: Ask<N>,
    /// Nobody waits for its completion any more.
    is_orphan: bool,
    stage: Stage,
    next: State,
    effect: Effect,
}

/// The reservation machine of one namespace.
#[derive(Clone, Debug)]
pub struct Machine<N> {
    state: State,
    /// What is on stable media; `None` if that is not known, because a write of it failed.
    durable: Option<State>,
    /// Whether there is a place that outlives a loss of power.
    can_persist: bool,
    active: Option<Active<N>>,
    waiting: VecDeque<Ask<N>>,
}

/// What of a state has to be on stable media: all of it while it persists, and otherwise only that nothing does; who is admitted, and
/// which keys are too old, in any case.
fn durable_part(state: &State) -> State {
    if state.persists {
        return state.clone();
    }
    State {
        admission: state.admission.clone(),
        floors: state.floors,
        ..State::default()
    }
}

impl<N: Copy> Machine<N> {
    /// A machine that starts from what is on stable media; without such a place, from nothing.
    pub fn new(can_persist: bool, restored: Option<State>) -> Self {
        let state = restored.unwrap_or_default();
        assert!(
            can_persist || state == State::default(),
            "what was kept has a place to be kept in"
        );
        state.check();
        Self {
            durable: Some(durable_part(&state)),
            state,
            can_persist,
            active: None,
            waiting: VecDeque::new(),
        }
    }

    /// Registrants and reservation as they are.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Whether registrants and reservation can outlive a loss of power.
    pub const fn can_persist(&self) -> bool {
        self.can_persist
    }

    /// What registrants and reservation are going to be when the command under way is through.
    pub fn next(&self) -> &State {
        self.active.as_ref().map_or(&self.state, |active| &active.next)
    }

    /// Whether a command is under way.
    pub const fn is_busy(&self) -> bool {
        self.active.is_some()
    }

    /// Whether the command under way is one that nobody waits for any more.
    pub fn is_orphaned(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.is_orphan)
    }

    /// Takes a command.
    pub fn ask(&mut self, ask: Ask<N>, out: &mut Vec<Action<N>>) {
        if self.waiting.len() >= WAITING_MAX {
            return complete(ask.name, Status::COMMAND_INTERRUPTED, Vec::new(), out);
        }
        self.waiting.push_back(ask);
        self.advance(out);
    }

    /// The state that was to be made durable is, or is not.
    ///
    /// Panics if nothing was to be made durable.
    pub fn persisted(&mut self, succeeded: bool, out: &mut Vec<Action<N>>) {
        let active = self.active.take().expect("a state is made durable for a command");
        assert_eq!(active.stage, Stage::AwaitingPersist, "once for each command");
        if succeeded {
            self.durable = Some(durable_part(&active.next));
            self.enforce(active, out);
        } else {
            // Which of the two is on the media is not known; the next command writes anew before it is answered.
            self.durable = None;
            active.complete(Status::INTERNAL_ERROR, Vec::new(), out);
        }
        self.advance(out);
    }

    /// All cores hold commands to the rules, and nothing of the aborted hosts runs any more.
    ///
    /// Panics if no rules were to be enforced.
    pub fn enforced(&mut self, out: &mut Vec<Action<N>>) {
        let active = self.active.take().expect("rules are enforced for a command");
        assert_eq!(
            active.stage,
            Stage::AwaitingEnforcement,
            "rules are told after they are durable"
        );
        self.finish(active, out);
        self.advance(out);
    }

    /// Forgets waiting commands that nobody waits for any more. The one under way goes on, for it may be half done, but is not completed.
    pub fn withdraw(&mut self, is_gone: impl Fn(&N) -> bool) {
        self.waiting.retain(|ask| !is_gone(&ask.name));
        if let Some(active) = &mut self.active {
            active.is_orphan |= is_gone(&active.ask.name);
        }
    }

    /// The namespace is gone: completes everything.
    pub fn end(&mut self, out: &mut Vec<Action<N>>) {
        let active = self.active.take().filter(|active| !active.is_orphan);
        let active = active.map(|active| active.ask);
        let gone = Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry();
        for ask in active.into_iter().chain(self.waiting.drain(..)) {
            complete(ask.name, gone, Vec::new(), out);
        }
    }

    /// Begins waiting commands until one of them has to wait for the caller, or none is left.
    fn advance(&mut self, out: &mut Vec<Action<N>>) {
        while self.active.is_none()
            && let Some(ask) = self.waiting.pop_front()
        {
            let mut next = self.state.clone();
            let life = Life {
                name: ask.host_name,
                host: ask.host,
            };
            match next.execute(life, &ask.command, self.can_persist) {
                Err(status) => complete(ask.name, status, Vec::new(), out),
                Ok(effect) => self.begin(ask, next, effect, out),
            }
        }
    }

    fn begin(&mut self, ask: Ask<N>, next: State, effect: Effect, out: &mut Vec<Action<N>>) {
        let active = Active {
            ask,
            is_orphan: false,
            stage: Stage::AwaitingPersist,
            next,
            effect,
        };
        let part = durable_part(&active.next);
        if self.can_persist && self.durable.as_ref() != Some(&part) {
            out.push(Action::Persist(part));
            self.active = Some(active);
        } else {
            self.enforce(active, out);
        }
    }

    fn enforce(&mut self, mut active: Active<N>, out: &mut Vec<Action<N>>) {
        let rules = active.next.rules();
        if rules == self.state.rules() && active.effect.abort.is_empty() && !active.effect.bars {
            return self.finish(active, out);
        }
        active.stage = Stage::AwaitingEnforcement;
        out.push(Action::Enforce {
            rules,
            abort: active.effect.abort.clone(),
            bars: active.effect.bars,
        });
        self.active = Some(active);
    }

    fn finish(&mut self, active: Active<N>, out: &mut Vec<Action<N>>) {
        self.state = active.next.clone();
        for (host, notice) in active.effect.notices.iter().copied() {
            out.push(Action::Notify { host, notice });
        }
        let data = match active.ask.command {
            Command::Report {
                extended,
                length_bytes,
            } => {
                let mut data = self.state.report().encode(extended);
                data.truncate(usize::try_from(length_bytes).unwrap_or(usize::MAX));
                data
            }
            Command::Register { .. }
            | Command::Unregister { .. }
            | Command::Replace { .. }
            | Command::Acquire { .. }
            | Command::Preempt { .. }
            | Command::Release { .. }
            | Command::Clear { .. }
            | Command::SetPersistence(_)
            | Command::SetFloors(_)
            | Command::Expel { .. }
            | Command::Kill { .. } => Vec::new(),
        };
        active.complete(Status::SUCCESS, data, out);
    }
}

impl<N: Copy> Active<N> {
    fn complete(&self, status: Status, data: Vec<u8>, out: &mut Vec<Action<N>>) {
        if !self.is_orphan {
            complete(self.ask.name, status, data, out);
        }
    }
}

fn complete<N>(name: N, status: Status, data: Vec<u8>, out: &mut Vec<Action<N>>) {
    out.push(Action::Complete { name, status, data });
}
