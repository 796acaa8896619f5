//! What operators ask of virtual disks, and hear of them.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{GroupState, Size};
use crate::amf::replication::ReplicationMode;

/// Parameters of `vdisk.create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VdiskCreate {
    /// Name of the new virtual disk.
    pub name: String,
    /// Name of the group that holds it.
    pub group: String,
    /// Its size, rounded up by the group to whole rows.
    #[serde(rename = "size_bytes")]
    pub size: Size,
    /// Namespace identifier that hosts see; the lowest free one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsid: Option<u32>,
    /// When its writes are done, where that is acknowledged from the memory of several nodes; `sync` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
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

/// Parameters of `vdisk.replicate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VdiskReplicate {
    /// Name of the virtual disk, or its namespace number.
    pub vdisk: String,
    /// When its writes are done from now on.
    pub replication: Replication,
}

/// Parameters of `vdisk.delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VdiskDelete {
    /// Name of the virtual disk.
    pub vdisk: String,
    /// Whether to delete it although hosts are connected to the node.
    #[serde(default)]
    pub force: bool,
}

/// A virtual disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VdiskStatus {
    /// Its name.
    pub name: String,
    /// Name of its group.
    pub group: String,
    /// Namespace identifier that hosts see.
    pub nsid: u32,
    /// Its size in bytes.
    pub capacity_bytes: u64,
    /// Logical block size in bytes.
    pub block_bytes: u32,
    /// UUID that hosts see.
    pub uuid: String,
    /// Namespace Globally Unique Identifier that hosts see, in hexadecimal.
    pub nguid: String,
    /// Health of its group: what hosts can expect of it.
    pub state: GroupState,
    /// When its writes are done, where that is acknowledged from the memory of several nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
}

/// What became of a deleted virtual disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Its name.
    pub vdisk: String,
    /// Bytes that its group has back.
    pub freed_bytes: u64,
}

/// When a host's write is done, in groups that acknowledge from the memory of several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Replication {
    /// All partners have it: no node's death loses it
    Sync,
    /// It was sent to all partners: a node that dies with its network loses what was on the way
    PseudoSync,
    /// The node that the host uses has it, and sends it next: what it had not sent dies with it
    Async,
}

impl From<ReplicationMode> for Replication {
    fn from(replication: ReplicationMode) -> Self {
        match replication {
            ReplicationMode::Sync => Self::Sync,
            ReplicationMode::PseudoSync => Self::PseudoSync,
            ReplicationMode::Async => Self::Async,
        }
    }
}

impl From<Replication> for ReplicationMode {
    fn from(mode: Replication) -> Self {
        match mode {
            Replication::Sync => Self::Sync,
            Replication::PseudoSync => Self::PseudoSync,
            Replication::Async => Self::Async,
        }
    }
}
