//! Array management function (AMF): what one node runs for one redundancy group.
//!
//! Owns the meaning of a group: where a block lives, who may touch its row, which drive commands a
//! host command becomes, and what happens when a member fails. Knows no host, socket or clock.

pub mod arbiter;
pub mod background;
pub mod cache;
pub mod code;
pub mod engine;
pub mod expansion;
pub mod geometry;
pub mod group;
pub mod hand_over;
pub mod homes;
pub mod intent;
pub mod journal;
mod list;
pub mod lock;
pub mod lost;
pub mod peering;
pub mod ram;
pub mod relayout;
pub mod replica;
pub mod replication;
pub mod reserving;
pub mod row;
pub mod superblock;

/// A member drive of a redundancy group, `0..members`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberIndex(pub u8);

/// A stripe row: the row of strips across all members, and the unit that is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowIndex(pub u64);

/// Most members that one redundancy group may have.
pub const MEMBERS_MAX: usize = 32;

/// Which check data may be believed, and so what may be done with it.
///
/// In the order of growing trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParityTrust {
    /// None: rows were being written when the node stopped, and no journal says what they hold. Nothing is regenerated.
    Nowhere,
    /// That of the places which hosts have written, because each write there made all check data fit. The others hold nobody's
    /// data, and there the check strips of a row may fit nothing, not even one another.
    WhereWritten,
    /// All of it.
    Everywhere,
}

impl ParityTrust {
    /// Whether what is lost may be regenerated.
    pub const fn regenerates(self) -> bool {
        match self {
            Self::Nowhere => false,
            Self::WhereWritten | Self::Everywhere => true,
        }
    }

    /// Whether all of a row's check data fits its data, wherever one looks.
    pub const fn is_everywhere(self) -> bool {
        match self {
            Self::Nowhere | Self::WhereWritten => false,
            Self::Everywhere => true,
        }
    }
}

/// Which members may be used, as of one generation of the group's configuration.
///
/// A generation is announced only when it is durable on every member that it calls live, because a
/// write that went past a failed member must never be followed by a start that trusts that member
/// again (PROTOCOL H29, H33).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberSet {
    /// Grows by at least one with each change.
    pub generation: u64,
    /// Bit `i` is set when member `i` has failed or is missing.
    pub failed: u32,
    /// Which check data may be built upon: not that of rows which may never have fitted (PROTOCOL H27).
    pub parity: ParityTrust,
    /// Members of `failed` that are being rebuilt: for rows below `rebuilt_rows` they count as live.
    ///
    /// A member that starts anew, with another drive, must have been announced as failed and not
    /// rebuilding in a generation between: within one rebuild the number of rows only grows.
    pub rebuilding: u32,
    /// Rows that are rebuilt on all of them, as far as that is durable.
    pub rebuilt_rows: u64,
}

impl MemberSet {
    /// Whether this member has failed or is missing.
    pub const fn is_failed(&self, member: MemberIndex) -> bool {
        self.failed >> member.0 & 1 == 1
    }

    /// Whether this member is being rebuilt.
    pub const fn is_rebuilding(&self, member: MemberIndex) -> bool {
        self.rebuilding >> member.0 & 1 == 1
    }

    /// How many members have failed or are missing.
    pub const fn failed_count(&self) -> u32 {
        self.failed.count_ones()
    }
}
