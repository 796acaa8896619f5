//! Faults that a drive shows on an operator's word.

use serde::{Deserialize, Serialize};

/// Parameters of `drive.inject`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveInject {
    /// Name of the drive.
    pub drive: String,
    /// What it is to show.
    pub fault: FaultKind,
    /// For `media`: first byte that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_bytes: Option<u64>,
    /// For `media`: how many of the drive's logical blocks; 1 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<u64>,
    /// For `slow`: by how many microseconds every command takes longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_us: Option<u64>,
}

/// A fault that a drive shows on an operator's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// Blocks cannot be read until they are written anew.
    Media,
    /// Every command takes longer.
    Slow,
    /// No command is answered.
    Hang,
    /// Every command fails.
    Error,
    /// The drive is well again.
    Clear,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Media, Self::Slow, Self::Hang, Self::Error, Self::Clear];

    /// The fault as it stands in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Media => "media",
            Self::Slow => "slow",
            Self::Hang => "hang",
            Self::Error => "error",
            Self::Clear => "clear",
        }
    }
}
