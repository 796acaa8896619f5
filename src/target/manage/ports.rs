//! Ports of virtual disks: which nodes of an array serve them.

use serde::{Deserialize, Serialize};

/// What an operator asks about ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRequest {
    /// `port.list`: the ports of one virtual disk, or of all.
    List(PortList),
    /// `port.add`: has one more node serve a virtual disk.
    Add(PortAdd),
    /// `port.delete`: has a node stop to serve a virtual disk.
    Delete(PortDelete),
}

impl PortRequest {
    /// The JSON-RPC method that carries this request.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::List(_) => "port.list",
            Self::Add(_) => "port.add",
            Self::Delete(_) => "port.delete",
        }
    }

    /// Whether carrying it out twice differs from once.
    pub const fn changes_state(&self) -> bool {
        match self {
            Self::List(_) => false,
            Self::Add(_) | Self::Delete(_) => true,
        }
    }
}

/// Parameters of `port.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortList {
    /// Name of the virtual disk; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vdisk: Option<String>,
}

/// Parameters of `port.add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortAdd {
    /// Name of the virtual disk.
    pub vdisk: String,
    /// Slot of the node.
    pub node: u8,
}

/// Parameters of `port.delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortDelete {
    /// Name of the virtual disk.
    pub vdisk: String,
    /// Slot of the node.
    pub node: u8,
    /// Whether to delete the last port, too, although no host can use the virtual disk then.
    #[serde(default)]
    pub force: bool,
}

/// A virtual disk at one node of the array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Name of the virtual disk.
    pub vdisk: String,
    /// Namespace identifier that hosts see.
    pub nsid: u32,
    /// Slot of the node.
    pub node: u8,
    /// Whether it has a port there.
    pub port: bool,
    /// What hosts find there.
    pub state: PortState,
}

/// What hosts find at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortState {
    /// They can use the virtual disk.
    Optimized,
    /// They find it and cannot use it.
    Inaccessible,
    /// The node is no member of the array at the moment.
    Away,
}

impl PortState {
    /// The state as it stands in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::Inaccessible => "inaccessible",
            Self::Away => "away",
        }
    }
}
