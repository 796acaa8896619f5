//! What an operator may ask of the array that a node shares with others.

use serde::{Deserialize, Serialize};

/// What an operator wants of the array; each is answered by how it is afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArrayRequest {
    /// `array.show`: the array as this node sees it, and who is a member.
    Show,
    /// `array.create`: makes the array on its drives, which have to be blank.
    Create,
    /// `array.leave`: others go on without this node.
    Leave,
    /// `array.join`: this node comes back after it has left.
    Join,
    /// `array.cut`: cuts the link to another node, for tests; only where the configuration allows it.
    Cut(ArrayCut),
}

impl ArrayRequest {
    /// The JSON-RPC method that carries this request.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::Show => "array.show",
            Self::Create => "array.create",
            Self::Leave => "array.leave",
            Self::Join => "array.join",
            Self::Cut(_) => "array.cut",
        }
    }
}

/// Parameters of `array.cut`. Without any direction the link is whole again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayCut {
    /// Slot of the other node.
    pub peer: u8,
    /// Nothing is sent to it.
    #[serde(default)]
    pub muted: bool,
    /// Nothing of it is heard.
    #[serde(default)]
    pub deafened: bool,
    /// Announcements pass all the same: only the link for locks is cut.
    #[serde(default)]
    pub locks_only: bool,
}

/// A node's view of its array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayStatus {
    /// The array's name.
    pub array: String,
    /// Its UUID.
    pub uuid: String,
    /// This node's slot.
    pub slot: u8,
    /// This life of it.
    pub incarnation: String,
    /// Lives since the process began, this one included.
    pub lives: u32,
    /// How the life before ended.
    pub ended_before: Option<String>,
    /// In how many seconds the next one begins, between two of them.
    #[serde(default)]
    pub next_life_s: Option<u64>,
    /// What this node is doing, as a word: `beginning`, `reading`, `blank`, `outside`, `settling`, `open`,
    /// `leaving`, `halted` (another life follows) or `left` (until it is asked to join).
    pub stage: String,
    /// What protects the connections to other nodes: `none` or `tls`.
    pub encryption: String,
    /// The newest decided epoch; 0 if there is none.
    pub epoch: u32,
    /// Slots and incarnations of its members.
    pub members: Vec<(u8, String)>,
    /// Members that are not heard.
    pub silent: Vec<u8>,
    /// Whether this node may answer hosts at this moment.
    pub serves: bool,
    /// How long it may without another heartbeat, in milliseconds.
    pub lease_left_ms: u64,
    /// What keeps it from going on, or from being let in, and what to do about it.
    pub blocked: Option<String>,
    /// The drives, in the order of the configuration.
    pub drives: Vec<ArrayDriveStatus>,
    /// The other nodes of the configuration.
    pub peers: Vec<ArrayPeerStatus>,
    /// Connections that came to nothing because the other end is not who it should be.
    pub refused_connections: u64,
    /// Why the last one was refused.
    pub last_refusal: Option<String>,
}

/// A drive of an array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayDriveStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Name of its shelf.
    pub shelf: String,
    /// Its place in the array, once its label is known.
    pub place: Option<u8>,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it is in use in the newest epoch.
    pub in_use: bool,
    /// `reached`, `away`, `reading`, `blank`, or why it takes no part.
    pub state: String,
    /// What was found when it was tried out, if this node has made the array.
    pub admission: Option<String>,
}

/// Another node of an array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayPeerStatus {
    /// Its slot.
    pub slot: u8,
    /// Where it is expected.
    pub addresses: Vec<String>,
    /// Its life, if there is a connection to it.
    pub incarnation: Option<String>,
    /// Paths by which announcements go.
    pub paths_up: usize,
}
