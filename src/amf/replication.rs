//! When a host's write to a virtual disk is done, as far as other nodes have to have it.
//!
//! Only what is acknowledged from memory has a choice there. Whatever it is, the records of stripe updates and what other nodes read are on the drives first,
//! so that of a node that is gone only blocks that hosts wrote to it may be as they were before, and never another block (PROTOCOL H21).

/// How far copies are when a host hears that its write is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplicationMode {
    /// All partners keep it: it outlives as many nodes as there are copies but one.
    #[default]
    Sync,
    /// It was sent to all partners, and none of them need have got it: what was on its way is lost with the node if its packets are.
    PseudoSync,
    /// This node has it, and sends it as soon as it can: what it had not sent is lost with it.
    Async,
}

impl ReplicationMode {
    /// All of them, in the order of falling promise.
    pub const ALL: [Self; 3] = [Self::Sync, Self::PseudoSync, Self::Async];

    /// As it stands in configurations, in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::PseudoSync => "pseudo-sync",
            Self::Async => "async",
        }
    }

    /// As it stands in superblocks.
    pub const fn code(self) -> u8 {
        match self {
            Self::Sync => 0,
            Self::PseudoSync => 1,
            Self::Async => 2,
        }
    }

    /// What [`Self::code`] stands for.
    pub fn parse(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.code() == code)
    }
}
