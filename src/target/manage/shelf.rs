//! What is said of a shelf.

use serde::{Deserialize, Serialize};

/// What a shelf exports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShelfStatus {
    /// Name from the configuration.
    pub name: String,
    /// NVMe Qualified Name of its subsystem.
    pub nqn: String,
    /// Names this start of the process: what was written before and never flushed may be gone. Log page C0h has the same.
    pub instance: String,
    /// Its drives.
    pub drives: Vec<ShelfDriveStatus>,
}

/// A drive of a shelf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShelfDriveStatus {
    /// Its name.
    pub drive: String,
    /// Why it is not served, as a sentence.
    pub failed: Option<String>,
    /// The namespace that nodes reserve.
    pub data: Option<ShelfNamespace>,
    /// The small one beside it that nobody can reserve.
    pub quorum: Option<ShelfNamespace>,
    /// Type of the reservation of its data, if there is one.
    pub reservation: Option<String>,
    /// Whether registrants and reservation outlive a loss of power.
    pub persists: bool,
    /// Counts what changed its registrants.
    pub generation: u32,
    /// Who is registered.
    pub registrants: Vec<RegistrantStatus>,
    /// The lives of hosts that have claimed their names: others of these names change nothing here.
    pub claims: Vec<ClaimStatus>,
    /// Identifiers of lives that were superseded or killed.
    pub barred: Vec<String>,
    /// The lowest epoch that each slot of an array may register with, if keys are held to epochs.
    pub key_epochs: Option<Vec<u32>>,
}

/// A life of a host that has claimed its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimStatus {
    /// The name, if a host of it is connected.
    pub name: Option<String>,
    /// The number that stands for the name.
    pub digest: String,
    /// The identifier of the only life that is admitted; none, if that was killed.
    pub host: Option<String>,
}

/// A namespace of a shelf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShelfNamespace {
    /// Its number.
    pub nsid: u32,
    /// Its UUID.
    pub uuid: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A host that is registered with a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrantStatus {
    /// Its identifier.
    pub host: String,
    /// Its key, in hexadecimal digits.
    pub key: String,
    /// Whether it holds the reservation.
    pub holder: bool,
}
