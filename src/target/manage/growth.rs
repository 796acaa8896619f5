//! What an operator asks for who wants more room.

use serde::{Deserialize, Serialize};

/// Parameters of `group.expand`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupExpand {
    /// Name of the group.
    pub group: String,
    /// Names of the drives that it gets, in order of the new members.
    pub drives: Vec<String>,
    /// Whether to take them whatever is on them.
    #[serde(default)]
    pub force: bool,
}
