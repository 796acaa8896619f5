//! What an operator asks for who wants more room.

use serde::{Deserialize, Serialize};

use super::Size;

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

/// Parameters of `vdisk.resize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VdiskResize {
    /// Name of the virtual disk, or its namespace number.
    pub vdisk: String,
    /// Its size from now on, at least what it is; `all` takes what is free behind it.
    #[serde(rename = "size_bytes")]
    pub size: Size,
}
