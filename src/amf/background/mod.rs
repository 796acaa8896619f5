//! What a group does on its own, beside what hosts ask for: rebuild, synchronisation, expansion, scrub.
//!
//! Owns which process runs, how far it is, how fast it may go and when its progress is made durable. Each process
//! is a sequence of row operations of the engine, each under its row's lock, so a host waits for at most one of them
//! (CHECKLIST B4). One process runs at a time, because all of them want the same drives: first what brings redundancy
//! back, then what uses it.
//!
//! Invariants:
//! - Rows are handed out in ascending order. Progress covers a row only when the row and all rows before it were
//!   answered, and it is durable only after a flush of the members that began later than that (PROTOCOL H34, I12).
//! - A row that failed is done again, together with the rows behind it: doing a row twice gives the same bytes.
//! - An expansion goes in waves of rows instead, one at a time, each of which is durable when it is answered: the next begins when the
//!   group has said so.
//! - Nothing is begun while the group is not open, is stopping, or an operator has paused it.
//!
//! Deliberately knows neither engines nor superblocks: it asks by [`Action`] and is told by [`Event`]. Time comes in
//! with each event.

mod machine;
mod run;
#[cfg(test)]
mod tests;
mod throttle;

use thiserror::Error;

use super::RowIndex;
use super::geometry::Geometry;

pub use machine::Background;
pub use throttle::HostLoad;

/// Rows that are under way at a time when no host uses the group: enough to keep fast drives busy.
pub const WINDOW_MAX: u32 = 16;
/// Rows that are under way at a time beside hosts: few enough that their commands find short queues at the drives.
pub const WINDOW_BESIDE_HOSTS: u32 = 4;
/// Bytes of all strips of the rows that are under way: they lie in the engine's scratch memory, which hosts need too.
const WINDOW_BYTES_MAX: u64 = 16 << 20;
/// Rows that an expansion moves at a time beside hosts, who wait for all of them: with 64 KiB strips on four data members 2 MiB.
const WAVE_ROWS_BESIDE_HOSTS: u64 = 8;

/// What a group may be doing, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// Regenerates the strips of members that were replaced or came back.
    Rebuild,
    /// Makes check data fit the data, once, for drives that were not all zeroes.
    Sync,
    /// Lays the rows out anew over more members.
    Expansion,
    /// Reads everything and compares it with its check data.
    Scrub,
}

impl Process {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Rebuild, Self::Sync, Self::Expansion, Self::Scrub];

    /// What logs and management call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::Sync => "sync",
            Self::Expansion => "expansion",
            Self::Scrub => "scrub",
        }
    }
}

/// The measures of a group that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Stripe rows.
    pub rows: u64,
    /// User data of one row in bytes: what rates count.
    pub row_bytes: u64,
    /// All strips of one row in bytes: what memory has to hold.
    pub strips_bytes: u64,
}

impl Shape {
    /// The measures of a group of this geometry.
    pub fn of(geometry: &Geometry) -> Self {
        Self {
            rows: geometry.rows(),
            row_bytes: u64::from(geometry.row_blocks()) * u64::from(geometry.block().bytes()),
            strips_bytes: u64::from(geometry.members()) * u64::from(geometry.strip_bytes()),
        }
    }

    /// Rows that may be under way at a time.
    fn window(&self, hosts_are_active: bool) -> u32 {
        let most = if hosts_are_active {
            WINDOW_BESIDE_HOSTS
        } else {
            WINDOW_MAX
        };
        let fit = WINDOW_BYTES_MAX / self.strips_bytes.max(1);
        u32::try_from(fit).map_or(most, |fit| fit.clamp(1, most))
    }
}

/// How fast background work may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of user data a second, at least 1; `None` for as fast as it goes.
    pub rate: Option<u64>,
    /// The 99th percentile of hosts' latency above which the work slows down, in nanoseconds.
    pub latency_target_ns: Option<u64>,
}

/// A rebuild that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildNeed {
    /// Bit `i` is set when member `i` is to be rebuilt; never 0.
    pub members: u32,
    /// Names the work: differs when a member has another drive, or missed other writes, than the last time.
    pub wave: u64,
    /// First row that is not durably rebuilt.
    pub from_row: u64,
}

/// The next wave of an expansion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpansionNeed {
    /// Its first row: all before it are durably laid out anew.
    pub from_row: u64,
    /// The row behind the last that may go with it.
    pub to_row: u64,
}

/// What a group's members want done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Generation of the member set.
    pub generation: u64,
    /// The group serves. Nothing runs otherwise.
    pub is_open: bool,
    /// A member is lost or being rebuilt: there is nothing to compare with, so a scrub waits.
    pub is_degraded: bool,
    /// Members to rebuild.
    pub rebuild: Option<RebuildNeed>,
    /// First row whose check data was never made to fit.
    pub sync_from: Option<u64>,
    /// Rows that an expansion could move next.
    pub expansion: Option<ExpansionNeed>,
}

/// What a scrub does about what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubMode {
    /// Counts and reports it.
    Check,
    /// Repairs it too.
    Repair,
}

/// A row's data did not fit its check data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Members whose strips were wrong, or were taken to be.
    pub members: u32,
    /// Whether redundancy proves that it was these.
    pub located: bool,
    /// Whether the row fits now.
    pub repaired: bool,
}

/// How the engine got on with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowAnswer {
    /// It is done; a scrub found nothing.
    Done,
    /// A scrub found this.
    Mismatched(Mismatch),
    /// It could not be done with the members as they are.
    Failed,
    /// The engine could not take it just now; no later row was given to it either.
    Refused,
}

/// What happens to the background work of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// What is due, after each change of the group.
    Needs(Needs),
    /// Ten times a second, with what hosts saw since the last time.
    Tick {
        /// The hosts' part.
        hosts: HostLoad,
    },
    /// The instant of [`Background::wake_at_ns`] has come, or a scrub was asked for.
    Wake,
    /// A row operation has ended; each [`Action::Run`] is answered exactly once.
    RowAnswered {
        /// Which row.
        row: RowIndex,
        /// How it went.
        answer: RowAnswer,
    },
    /// The answer to [`Action::Flush`].
    Flushed {
        /// Whether everything written before it is durable.
        done: bool,
    },
    /// An operator wants a scrub ended.
    EndScrub,
    /// An operator wants nothing more begun.
    Pause,
    /// An operator lets it go on.
    Resume,
    /// An operator wants it faster or slower.
    Limits(Limits),
    /// The group is about to be closed: nothing more is begun. [`Background::is_idle`] tells when all has ended.
    Stop,
}

/// One row operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowCommand {
    /// Which process wants it.
    pub process: Process,
    /// Which row.
    pub row: RowIndex,
    /// For a scrub: whether it repairs.
    pub repair: bool,
    /// For a rebuild: names the work.
    pub wave: u64,
    /// For a rebuild: no write has touched the row since its members were lost, as far as is known without the row's
    /// lock. Whoever takes the lock looks again; only then may the row be passed over.
    pub is_clean: bool,
}

/// What the runtime has to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hand a row to the engine and answer with [`Event::RowAnswered`].
    Run(RowCommand),
    /// Carry out a wave of an expansion, whole and durable, and answer with [`Event::RowAnswered`] for its first row. Hosts that want
    /// any of its blocks wait meanwhile.
    Wave {
        /// Its first row.
        from_row: u64,
        /// The row behind the last.
        to_row: u64,
    },
    /// Make everything written so far durable on the members; answer with [`Event::Flushed`].
    Flush {
        /// Before that, bring everything to its place that is in the journal by now. A rebuilt member has only copies of what was
        /// journaled since its rebuild began, and the group will rely on it.
        journal: bool,
    },
    /// Rows below `next_row` are done, and flushed: the superblocks may say so.
    Progress {
        /// Of which process.
        process: Process,
        /// Of which rebuild, as [`RebuildNeed::wave`] said; 0 for other processes.
        wave: u64,
        /// First row that is left.
        next_row: u64,
    },
    /// Every row is done, and flushed.
    Finished {
        /// Of which process.
        process: Process,
        /// Of which rebuild, as [`RebuildNeed::wave`] said; 0 for other processes.
        wave: u64,
    },
    /// A fact for the log.
    Report(Report),
}

/// Facts for the log and the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A process begins, or goes on after it was interrupted.
    Begun {
        /// Which process.
        process: Process,
        /// With which row.
        from_row: u64,
    },
    /// A process gives way: another one is more urgent, or it is not needed any more.
    Interrupted {
        /// Which process.
        process: Process,
        /// First row that was left.
        next_row: u64,
    },
    /// A row failed several times in a row. A scrub passes over it; the others try again and again, ever more slowly.
    Stuck {
        /// Which process.
        process: Process,
        /// At which row.
        row: RowIndex,
    },
    /// A scrub found a row whose data did not fit its check data.
    Mismatch {
        /// Which row.
        row: RowIndex,
        /// What about it.
        mismatch: Mismatch,
    },
}

/// What a scrub has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubTally {
    /// Rows that were compared.
    pub rows: u64,
    /// Rows that did not fit.
    pub mismatches: u64,
    /// Of these, rows that were repaired.
    pub repaired: u64,
    /// Of these, rows in which the wrong strip was located.
    pub located: u64,
    /// Rows that could not be read or written.
    pub unreadable: u64,
}

/// A scrub that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubResult {
    /// What it was asked to do.
    pub mode: ScrubMode,
    /// Whether it got to the last row.
    pub completed: bool,
    /// What it found.
    pub tally: ScrubTally,
}

/// What a process awaits, or why it does not go faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Nothing: it goes as fast as drives and limits allow.
    Running,
    /// Hosts' latency is above its target.
    HeldByHosts,
    /// An operator's word.
    Paused,
    /// The next attempt at a row that failed.
    Retrying,
    /// That its last rows are durable.
    Finishing,
}

impl RunState {
    /// What management calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::HeldByHosts => "held back for hosts",
            Self::Paused => "paused",
            Self::Retrying => "retrying",
            Self::Finishing => "finishing",
        }
    }
}

/// How far a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which process.
    pub process: Process,
    /// How it gets on.
    pub state: RunState,
    /// Rows that are done.
    pub rows_done: u64,
    /// Rows of the group.
    pub rows: u64,
    /// Bytes of user data a second.
    pub bytes_per_second: u64,
    /// Seconds to the end at this rate; `None` as long as nothing moves.
    pub seconds_left: Option<u64>,
    /// The rate that it is held to, in bytes a second.
    pub rate_limit: Option<u64>,
}

/// Why a scrub cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScrubRefusal {
    /// One is going on.
    #[error("a scrub of this group is going on: wait for it, or end it with --stop")]
    GoingOn,
    /// The group is not open.
    #[error("the group is not open: wait for it, or repair its drives")]
    NotOpen,
    /// There is nothing to compare with.
    #[error(
        "a member is lost or being rebuilt, so that there is nothing to compare with: wait until the group is healthy"
    )]
    Degraded,
}
