//! What an operator may ask of a group's background work, and what is shown of it.

use serde::{Deserialize, Serialize};

use super::GroupName;

/// What an operator wants of a group's background work; each is answered by the group as it is afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackgroundRequest {
    /// `group.scrub`: compares all data of a group with its check data or copies.
    Scrub(GroupScrub),
    /// `group.scrub_stop`: ends a scrub.
    ScrubStop(GroupName),
    /// `group.pause`: begins no further row of background work.
    Pause(GroupName),
    /// `group.resume`: goes on with background work.
    Resume(GroupName),
    /// `group.set_rate`: says how fast background work may go, until the node stops.
    SetRate(GroupSetRate),
}

impl BackgroundRequest {
    /// The JSON-RPC method that carries this request.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::Scrub(_) => "group.scrub",
            Self::ScrubStop(_) => "group.scrub_stop",
            Self::Pause(_) => "group.pause",
            Self::Resume(_) => "group.resume",
            Self::SetRate(_) => "group.set_rate",
        }
    }
}

/// Parameters of `group.scrub`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupScrub {
    /// Name of the group.
    pub group: String,
    /// Whether to repair what is found.
    #[serde(default)]
    pub repair: bool,
}

/// Parameters of `group.set_rate`. What is left out is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSetRate {
    /// Name of the group.
    pub group: String,
    /// Most MiB of user data a second; 0 for as fast as the drives go.
    #[serde(default)]
    pub rate_mib_s: u32,
    /// The hosts' p99 latency in microseconds above which the work slows down; 0 for never.
    #[serde(default)]
    pub latency_target_us: u32,
}

/// Background work of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackgroundStatus {
    /// An operator has paused it.
    pub paused: bool,
    /// Most MiB of user data a second; 0 for as fast as the drives go.
    pub rate_mib_s: u32,
    /// The hosts' p99 latency in microseconds above which it slows down; 0 for never.
    pub latency_target_us: u32,
    /// What runs.
    pub process: Option<ProcessStatus>,
    /// The rebuild that runs, or the last one since the node began to serve.
    #[serde(default)]
    pub rebuild: Option<RebuildStatus>,
    /// The scrub that runs or waits, or the last one since the node began to serve.
    pub scrub: Option<ScrubStatus>,
}

/// A background process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// `rebuild`, `sync`, `expansion` or `scrub`.
    pub name: String,
    /// How it gets on: `running`, `held back for hosts`, `paused`, `retrying` or `finishing`.
    pub state: String,
    /// Rows that are done.
    pub rows_done: u64,
    /// Rows of the group.
    pub rows: u64,
    /// User data that it gets through, in bytes a second.
    pub bytes_per_second: u64,
    /// Seconds to the end at this rate, unless nothing moves.
    pub seconds_left: Option<u64>,
}

/// What a rebuild writes anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildStatus {
    /// Whether it is limited to rows that its members missed while they were away.
    pub partial: bool,
    /// Rows that it has written anew, or is going to.
    pub rows: u64,
    /// Whether it is over.
    pub done: bool,
}

/// Where a scrub is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScrubState {
    /// It runs, or waits for something more urgent.
    Running,
    /// It came to the last row.
    Completed,
    /// An operator ended it.
    Stopped,
}

/// A scrub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Where it is in its life.
    pub state: ScrubState,
    /// Whether it repairs what it finds.
    pub repairs: bool,
    /// Rows that were compared.
    pub rows: u64,
    /// Rows whose data did not fit their check data.
    pub mismatches: u64,
    /// Of these, rows that were repaired.
    pub repaired: u64,
    /// Of these, rows in which redundancy proves which strip was wrong.
    pub located: u64,
    /// Rows that could not be read or written.
    pub unreadable: u64,
}
