//! Lost blocks, as management shows them.

use serde::{Deserialize, Serialize};

/// Blocks that no drive gives back: they read as errors until they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostBlocks {
    /// The virtual disk that they belong to, if any does.
    pub vdisk: Option<String>,
    /// First block, counted from the start of the virtual disk, or of the group if there is none.
    pub block: u64,
    /// How many.
    pub blocks: u64,
}
