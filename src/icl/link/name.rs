//! Links and paths between nodes, addresses of messages.

/// Ways from one node to another at most: two network ports.
pub const PATHS_MAX: usize = 2;

/// Which of the parallel links of two nodes: each core has one to the core of the same number over there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane(pub u8);

/// One way to a peer, below [`PATHS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathId(pub u8);

impl PathId {
    /// As an index. Panics unless it is below [`PATHS_MAX`].
    pub fn index(self) -> usize {
        let index = usize::from(self.0);
        assert!(index < PATHS_MAX, "a node pair has two paths at most");
        index
    }
}

/// For whom on the other node a message is.
///
/// Source: US patent application in `seed/`, Figure 17b: the link routes the messages of the AMFs of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// The AMF of this redundancy group; [`Address::GROUP_MAX`] is the greatest number.
    Group(u16),
    /// The node itself.
    Node,
}

impl Address {
    /// The greatest number of a group.
    pub const GROUP_MAX: u16 = Self::NODE_WIRE - 1;
    const NODE_WIRE: u16 = u16::MAX;

    pub(super) const fn from_wire(code: u16) -> Self {
        match code {
            Self::NODE_WIRE => Self::Node,
            group => Self::Group(group),
        }
    }

    /// Panics for a group beyond [`Address::GROUP_MAX`].
    pub(super) const fn wire(self) -> u16 {
        match self {
            Self::Node => Self::NODE_WIRE,
            Self::Group(group) => {
                assert!(group <= Self::GROUP_MAX, "the last number means the node");
                group
            }
        }
    }
}
