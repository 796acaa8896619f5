//! What becomes of a drive that errs, is slow or does not answer: one machine a drive.
//!
//! Owns the counts and windows that a drive is judged by, and the verdict. Events come in with the time inside, at most
//! one [`Decision`] comes out. Invariants: a drive is judged slow only against the others of its group, so a group that
//! is slow as a whole loses nobody; nothing but an unanswered command makes it ask for a drive that its group could not
//! do without; a verdict stays until an operator or a new group takes it back. Deliberately knows neither groups nor
//! commands: whether the group survives the loss comes with the event (`losable`).

mod window;

use thiserror::Error;

use super::DriveError;

pub use window::{Hourly, LATENCY_BUCKETS, LatencyWindow, reference};

/// Nanoseconds of one clock that never runs backwards.
pub type Nanos = u64;

const NANOS_PER_MS: Nanos = 1_000_000;

/// From where on a drive is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A command that is unanswered for this many ms makes its drive fail.
    pub hang_ms: u32,
    /// The same for a drive that its group cannot do without: giving it up loses data, so it gets more patience.
    pub hang_last_ms: u32,
    /// Media errors within an hour that are repaired; one more, and the drive is evicted.
    pub media_errors_per_hour: u32,
    /// I/O errors within an hour that are borne; one more, and the drive is evicted.
    pub io_errors_per_hour: u32,
    /// Times that a command which failed with an I/O error is tried again before that is its answer.
    pub io_retries: u8,
    /// Length of a latency window in ms.
    pub window_ms: u32,
    /// Fewest commands in a window that say something about a drive.
    pub window_commands: u32,
    /// A drive is slow in a window if its p99 is more than this many times the median of its group's drives.
    pub slow_factor: u32,
    /// A drive whose p99 is at most this many µs is never slow.
    pub slow_floor_us: u32,
    /// Slow windows in a row after which the drive is evicted.
    pub slow_windows: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            hang_ms: 5_000,
            hang_last_ms: 30_000,
            media_errors_per_hour: 50,
            io_errors_per_hour: 10,
            io_retries: 1,
            window_ms: 10_000,
            window_commands: 100,
            slow_factor: 8,
            slow_floor_us: 20_000,
            slow_windows: 6,
        }
    }
}

/// What happened to a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A block could not be read back; it can be had from the other members.
    Media {
        /// When.
        now: Nanos,
        /// The group survives the loss of the drive.
        losable: bool,
    },
    /// What could not be read was rewritten, and read back.
    Repaired,
    /// What could not be read could not be rewritten either.
    RepairFailed {
        /// The group survives the loss of the drive.
        losable: bool,
    },
    /// Commands were refused or broken off, also those that succeeded when tried again.
    Errors {
        /// How many.
        count: u32,
        /// When.
        now: Nanos,
        /// The group survives the loss of the drive.
        losable: bool,
    },
    /// A command is unanswered.
    Waiting {
        /// For how long the oldest one is, in ns; not counting time in which nobody looked, because whoever asks may have
        /// been stopped, and the drive not.
        waited: Nanos,
        /// The group survives the loss of the drive.
        losable: bool,
    },
    /// Nothing is unanswered for long any more.
    Answered,
    /// A latency window is over.
    Window {
        /// How long its slowest commands took, if there were enough to tell.
        p99: Option<Nanos>,
        /// The median of that over the drives of its group, if there are others.
        reference: Option<Nanos>,
        /// The group survives the loss of the drive.
        losable: bool,
    },
    /// The drive's group has failed it, because of this error.
    Failed {
        /// What it answered.
        error: DriveError,
    },
    /// The drive is taken into use anew: what was, counts no more.
    Cleared,
}

/// What is to be done about a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Rewrite what could not be read from the other members.
    Repair,
    /// Nothing yet, but an operator should know.
    Suspect(Reason),
    /// Stop using it, because it does not answer, and give up what it was asked; it may come back as a replacement when it
    /// does answer. Told again with every look at a drive that is out already.
    Quarantine(Reason),
    /// Stop using it for good.
    Evict(Reason),
}

/// Why a drive is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Reason {
    /// Too many blocks could not be read.
    #[error("{count} media errors within an hour")]
    MediaErrors {
        /// How many.
        count: u32,
    },
    /// A block could be neither read nor rewritten.
    #[error("a block that could not be read could not be rewritten either")]
    RepairFailed,
    /// Too many commands were refused or broken off.
    #[error("{count} I/O errors within an hour")]
    IoErrors {
        /// How many.
        count: u32,
    },
    /// A command has been unanswered for too long.
    #[error("a command is unanswered for {waited_ms} ms")]
    Hung {
        /// How long.
        waited_ms: u64,
    },
    /// Its latency is far above that of the others in the group.
    #[error("its p99 latency of {p99_us} us is far above the {reference_us} us of its group")]
    Slow {
        /// Its own.
        p99_us: u64,
        /// The group's.
        reference_us: u64,
    },
    /// Its group failed it for an error.
    #[error("its group gave it up: {0}")]
    Error(DriveError),
}

/// How a drive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// In use, with something to watch.
    Suspect(Reason),
    /// Not in use, because it did not answer or erred.
    Quarantined(Reason),
    /// Not in use for good.
    Evicted(Reason),
}

impl State {
    /// The drive is not to be used.
    pub const fn is_out(self) -> bool {
        matches!(self, Self::Quarantined(_) | Self::Evicted(_))
    }

    /// Its name for people and machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Suspect(_) => "suspect",
            Self::Quarantined(_) => "quarantined",
            Self::Evicted(_) => "evicted",
        }
    }

    /// Why it is not good.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Good => None,
            Self::Suspect(reason) | Self::Quarantined(reason) | Self::Evicted(reason) => Some(reason),
        }
    }
}

/// What was counted of a drive since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks or ranges that could not be read.
    pub media_errors: u64,
    /// Those that were rewritten.
    pub repaired: u64,
    /// Those that could not be.
    pub repairs_failed: u64,
    /// Commands that were refused or broken off.
    pub io_errors: u64,
    /// Times that a command was unanswered for too long.
    pub hangs: u64,
    /// Windows in which it was slow.
    pub slow_windows: u64,
}

/// The health of one drive.
#[derive(Clone, Debug)]
pub struct Health {
    policy: Policy,
    state: State,
    counts: Counts,
    media: Hourly,
    io: Hourly,
    /// Slow windows in a row.
    slow_row: u32,
    /// The p99 of the last window that had enough commands.
    p99: Option<Nanos>,
}

impl Health {
    /// A drive of which nothing is known yet.
    pub fn new(policy: Policy) -> Self {
        assert!(
            policy.hang_ms > 0 && policy.slow_windows > 0,
            "a policy without patience fails every drive"
        );
        Self {
            policy,
            state: State::Good,
            counts: Counts::default(),
            media: Hourly::default(),
            io: Hourly::default(),
            slow_row: 0,
            p99: None,
        }
    }

    /// How it is.
    pub const fn state(&self) -> State {
        self.state
    }

    /// What was counted.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The p99 of its last window.
    pub const fn p99(&self) -> Option<Nanos> {
        self.p99
    }

    /// Takes an event; what is to be done about it, if anything.
    pub fn handle(&mut self, event: Event) -> Option<Decision> {
        match event {
            Event::Media { now, losable } => self.media_error(now, losable),
            Event::Repaired => {
                self.counts.repaired += 1;
                None
            }
            Event::RepairFailed { losable } => {
                self.counts.repairs_failed += 1;
                self.judge(Reason::RepairFailed, losable)
            }
            Event::Errors { count, now, losable } => self.io_errors(count, now, losable),
            Event::Waiting { waited, losable } => self.waiting(waited, losable),
            Event::Answered => {
                if matches!(self.state, State::Suspect(Reason::Hung { .. })) {
                    self.state = State::Good;
                }
                None
            }
            Event::Window {
                p99,
                reference,
                losable,
            } => self.window(p99, reference, losable),
            Event::Failed { error } => {
                if !self.state.is_out() {
                    self.state = State::Quarantined(Reason::Error(error));
                }
                None
            }
            Event::Cleared => {
                let counts = self.counts;
                *self = Self::new(self.policy);
                self.counts = counts;
                None
            }
        }
    }

    fn media_error(&mut self, now: Nanos, losable: bool) -> Option<Decision> {
        self.counts.media_errors += 1;
        self.media.add(now, 1);
        if self.state.is_out() {
            return None;
        }
        let count = self.media.last_hour(now);
        if count <= self.policy.media_errors_per_hour {
            return Some(Decision::Repair);
        }
        match self.judge(Reason::MediaErrors { count }, losable) {
            Some(decision @ Decision::Evict(_)) => Some(decision),
            // It stays, so what it lost has to be written again.
            Some(Decision::Repair | Decision::Suspect(_) | Decision::Quarantine(_)) | None => {
                Some(Decision::Repair)
            }
        }
    }

    fn io_errors(&mut self, count: u32, now: Nanos, losable: bool) -> Option<Decision> {
        self.counts.io_errors += u64::from(count);
        self.io.add(now, count);
        let count = self.io.last_hour(now);
        if self.state.is_out() || count <= self.policy.io_errors_per_hour {
            return None;
        }
        self.judge(Reason::IoErrors { count }, losable)
    }

    fn waiting(&mut self, waited: Nanos, losable: bool) -> Option<Decision> {
        let waited_ms = waited / NANOS_PER_MS;
        let patience = if losable {
            self.policy.hang_ms
        } else {
            self.policy.hang_last_ms.max(self.policy.hang_ms)
        };
        let reason = Reason::Hung { waited_ms };
        if self.state.is_out() {
            // It keeps the reason that it went for; but what it was asked before must not be waited for without end.
            let hangs = waited_ms >= u64::from(self.policy.hang_ms);
            return hangs.then_some(Decision::Quarantine(reason));
        }
        if waited_ms >= u64::from(patience) {
            self.counts.hangs += 1;
            self.state = State::Quarantined(reason);
            return Some(Decision::Quarantine(reason));
        }
        (waited_ms >= u64::from(self.policy.hang_ms).div_ceil(2))
            .then(|| self.suspect(reason))
            .flatten()
    }

    fn window(&mut self, p99: Option<Nanos>, reference: Option<Nanos>, losable: bool) -> Option<Decision> {
        let p99 = p99?;
        self.p99 = Some(p99);
        if self.state.is_out() {
            return None;
        }
        let reference = reference?;
        let limit = reference.saturating_mul(u64::from(self.policy.slow_factor));
        if p99 > limit && p99 > u64::from(self.policy.slow_floor_us) * 1000 {
            self.counts.slow_windows += 1;
            self.slow_row = self.slow_row.saturating_add(1);
            let reason = Reason::Slow {
                p99_us: p99 / 1000,
                reference_us: reference / 1000,
            };
            if self.slow_row >= self.policy.slow_windows {
                return self.judge(reason, losable);
            }
            return (self.slow_row * 2 >= self.policy.slow_windows)
                .then(|| self.suspect(reason))
                .flatten();
        }
        // Between the half and the whole of the limit nothing is counted either way, so that a drive at the limit does
        // not change its state with every window.
        if p99 <= limit / 2 || p99 <= u64::from(self.policy.slow_floor_us) * 1000 {
            self.slow_row = 0;
            if matches!(self.state, State::Suspect(Reason::Slow { .. })) {
                self.state = State::Good;
            }
        }
        None
    }

    /// Evicts the drive if its group can do without it; else it is only suspected.
    fn judge(&mut self, reason: Reason, losable: bool) -> Option<Decision> {
        if self.state.is_out() {
            return None;
        }
        if !losable {
            return self.suspect(reason);
        }
        self.state = State::Evicted(reason);
        Some(Decision::Evict(reason))
    }

    /// Suspects the drive; told once for each kind of reason.
    fn suspect(&mut self, reason: Reason) -> Option<Decision> {
        let known = match self.state {
            State::Suspect(known) => std::mem::discriminant(&known) == std::mem::discriminant(&reason),
            State::Good => false,
            State::Quarantined(_) | State::Evicted(_) => true,
        };
        if self.state.is_out() {
            return None;
        }
        self.state = State::Suspect(reason);
        (!known).then_some(Decision::Suspect(reason))
    }
}

#[cfg(test)]
mod tests;
