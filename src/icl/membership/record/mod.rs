//! The records of the quorum area: what nodes leave on the drives for one another.
//!
//! The area has four rows of [`SLOTS`] blocks, one block of the drive for each slot, and a node writes only to the blocks of its own slot.
//! Each record is the first [`RECORD_BYTES`] bytes of its block, so that no drive tears it; the rest of the block is zero.
//!
//! | blocks | record | who may write it |
//! |---|---|---|
//! | 0..8 | [`PaxosBlock`] | whoever decides |
//! | 8..16 | [`EpochRecord`]: the decided one, a copy for each slot | members, once they have learnt of it |
//! | 16..24 | [`Certificate`]: what was fenced on this drive | who fences |
//! | 24..32 | [`Heartbeat`] | members, under the drive's reservation |
//!
//! The first [`QUORUM_BLOCKS`] are read at once ([`codec::parse_quorum`]) and may lie in a namespace without a reservation; the heartbeats
//! have to lie under the reservation, for it is the conflict on them that ends the lease of a fenced node.

pub mod codec;

use thiserror::Error;

use super::{DriveIndex, DriveSet, Epoch, Incarnation, Key, SLOTS, Slot, SlotSet};
use crate::icl::Node;

/// Bytes of a record. Its block may be larger.
pub const RECORD_BYTES: usize = 512;
/// Blocks of the part of the area that is read at once.
pub const QUORUM_BLOCKS: usize = 3 * SLOTS;
/// Blocks of the whole area.
pub const AREA_BLOCKS: usize = 4 * SLOTS;
/// Most voters: two times three check strips, and one.
pub const VOTERS_MAX: u32 = 7;
/// Most nodes that an epoch may have to fence: eight that were members when the last epoch was opened, and eight that were
/// admitted in the next one. Nobody is admitted again before that one is open.
pub const VICTIMS_MAX: usize = 2 * SLOTS;

/// Which of the four records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`PaxosBlock`].
    Paxos,
    /// [`EpochRecord`].
    Decided,
    /// [`Certificate`].
    Certificate,
    /// [`Heartbeat`].
    Heartbeat,
}

impl Kind {
    /// Block of the record of `slot`, counted from the start of the area.
    pub const fn block(self, slot: Slot) -> usize {
        let row = match self {
            Self::Paxos => 0,
            Self::Decided => 1,
            Self::Certificate => 2,
            Self::Heartbeat => 3,
        };
        row * SLOTS + slot.index()
    }

    /// What messages call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paxos => "Paxos block",
            Self::Decided => "decided epoch record",
            Self::Certificate => "fence certificate",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// A node that belongs to an epoch, or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its slot.
    pub slot: Slot,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Its key on the drives.
    pub key: Key,
}

/// How locks are arbitrated in an epoch (PROTOCOL H11, H12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArbiterRule {
    /// The last write holder: one or two members.
    LastWriter,
    /// A fixed map of members and row: more than two.
    Map,
}

impl ArbiterRule {
    /// The rule for so many members.
    pub const fn of(members: usize) -> Self {
        if members <= 2 { Self::LastWriter } else { Self::Map }
    }
}

/// What is decided for one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EpochRecord {
    /// The epoch, from 1.
    pub epoch: Epoch,
    /// Its members by slot, ascending; at least one.
    pub members: Vec<Member>,
    /// Who may still have a way to the drives and has to be fenced before this epoch is opened, by key, ascending.
    pub victims: Vec<Member>,
    /// Everyone who is registered has to be fenced: nobody knows who that is.
    pub fence_all: bool,
    /// Drives in use: all members reach all of them.
    pub drives: DriveSet,
    /// Drives that vote.
    pub voters: DriveSet,
    /// Generation of the groups' configuration.
    pub generation: u64,
    /// How locks are arbitrated.
    pub arbiter: ArbiterRule,
    /// All data is on the drives and nobody serves.
    pub clean: bool,
    /// Writes may be acknowledged that are in memory only.
    pub dirty_ram: bool,
}

impl EpochRecord {
    /// The member of this slot.
    pub fn member(&self, slot: Slot) -> Option<&Member> {
        self.members.iter().find(|member| member.slot == slot)
    }

    /// Whether this life of this slot is a member.
    pub fn names(&self, slot: Slot, incarnation: Incarnation) -> bool {
        self.member(slot)
            .is_some_and(|member| member.incarnation == incarnation)
    }

    /// The slots that have a member.
    pub fn slots(&self) -> SlotSet {
        self.members.iter().map(|member| member.slot).collect()
    }

    /// The member that leads: the lowest slot.
    ///
    /// Panics if there are no members, which [`Self::check`] refuses.
    pub fn leader(&self) -> &Member {
        self.members.first().expect("a checked record has a member")
    }

    /// The members as lives of nodes.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        self.members.iter().map(|member| Node {
            slot: member.slot,
            incarnation: member.incarnation,
        })
    }

    /// Whether a member was one before, in the same life. After everyone was fenced nobody was.
    fn is_senior(&self, member: &Member) -> bool {
        Slot::of_key(member.key).is_some_and(|(admission, _)| admission < self.epoch)
    }

    /// The slots of members that were members of an earlier epoch in the same life.
    pub fn seniors(&self) -> SlotSet {
        let seniors = self.members.iter().filter(|member| self.is_senior(member));
        seniors.map(|member| member.slot).collect()
    }

    /// Who leads the way into this epoch: the lowest slot of those that were members before, for they are registered; else of all.
    ///
    /// Panics if there are no members, which [`Self::check`] refuses.
    pub fn senior_leader(&self) -> &Member {
        let senior = self.members.iter().find(|member| self.is_senior(member));
        senior.unwrap_or(self.leader())
    }

    /// Whether the fields fit one another.
    pub fn check(&self) -> Result<(), RecordFault> {
        let voters = self.voters.count();
        let keys_fit = |member: &Member| {
            Slot::of_key(member.key).is_some_and(|(epoch, slot)| slot == member.slot && epoch <= self.epoch)
        };
        let ascending = |pair: &[Member]| pair[0].slot < pair[1].slot;
        let keys_ascend = |pair: &[Member]| pair[0].key < pair[1].key;
        let is_member = |victim: &Member| self.members.iter().any(|member| member.key == victim.key);
        let faults = [
            (self.epoch == Epoch(0), RecordFault::Epoch),
            (
                self.members.is_empty() || self.members.len() > SLOTS,
                RecordFault::Members,
            ),
            (!self.members.windows(2).all(ascending), RecordFault::Members),
            (self.victims.len() > VICTIMS_MAX, RecordFault::Victims),
            (!self.victims.windows(2).all(keys_ascend), RecordFault::Victims),
            (self.victims.iter().any(is_member), RecordFault::Victims),
            (
                !self.members.iter().chain(&self.victims).all(keys_fit),
                RecordFault::Key,
            ),
            (
                voters.is_multiple_of(2) || voters > VOTERS_MAX,
                RecordFault::Voters,
            ),
            (!self.drives.has_majority_of(self.voters), RecordFault::Drives),
            (self.clean && self.dirty_ram, RecordFault::Flags),
        ];
        let fault = faults
            .into_iter()
            .find_map(|(wrong, fault)| wrong.then_some(fault));
        fault.map_or(Ok(()), Err)
    }
}

/// Number of a ballot: a counter, and below it the slot, so that no two nodes have the same. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot(pub u64);

impl Ballot {
    /// The first ballot of `slot` that is higher than this one.
    #[must_use]
    pub const fn above(self, slot: Slot) -> Self {
        Self(((self.0 >> 3) + 1) << 3 | slot.number() as u64)
    }

    /// Whether `slot` could have made it.
    pub const fn is_of(self, slot: Slot) -> bool {
        self.0 == 0 || (self.0 & 7 == slot.number() as u64 && self.0 >> 3 > 0)
    }
}

/// A node's block of Disk Paxos.
///
/// Source: Gafni and Lamport, "Disk Paxos", Distributed Computing 16 (2003), section 3: `dblock[p]` with `mbal`, `bal` and `inp`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PaxosBlock {
    /// Whose it is.
    pub slot: Slot,
    /// Which life wrote it.
    pub incarnation: Incarnation,
    /// What is being decided: the record of this epoch.
    pub instance: Epoch,
    /// The ballot that the node has begun.
    pub mbal: Ballot,
    /// The ballot in which it has proposed `value`; none as long as there is no value.
    pub bal: Ballot,
    /// What it has proposed.
    pub value: Option<EpochRecord>,
}

impl PaxosBlock {
    /// Whether the fields fit one another.
    pub fn check(&self) -> Result<(), RecordFault> {
        let value_fits = match &self.value {
            Some(value) => {
                value.check()?;
                value.epoch == self.instance && self.bal > Ballot(0)
            }
            None => self.bal == Ballot(0),
        };
        let ballots_fit = self.mbal.is_of(self.slot) && self.bal.is_of(self.slot);
        if self.instance == Epoch(0) || !value_fits {
            Err(RecordFault::Value)
        } else if self.mbal == Ballot(0) || self.bal > self.mbal || !ballots_fit {
            Err(RecordFault::Ballot)
        } else {
            Ok(())
        }
    }
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// Whose.
    pub slot: Slot,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The epoch that it is in.
    pub epoch: Epoch,
    /// Counts up.
    pub seq: u64,
}

/// Says on a drive that nothing of these nodes executes there any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// Who has fenced.
    pub slot: Slot,
    /// For which epoch.
    pub epoch: Epoch,
    /// On which drive.
    pub drive: DriveIndex,
    /// Everyone who was registered before was fenced.
    pub all: bool,
    /// Keys that were fenced, ascending, at most [`VICTIMS_MAX`].
    pub victims: Vec<Key>,
}

impl Certificate {
    /// Whether the fields fit one another.
    pub fn check(&self) -> Result<(), RecordFault> {
        let ascending = self.victims.windows(2).all(|pair| pair[0] < pair[1]);
        let are_keys = self.victims.iter().all(|key| *key != Key::NONE);
        if self.victims.len() > VICTIMS_MAX || !ascending || !are_keys {
            Err(RecordFault::Victims)
        } else if self.epoch == Epoch(0) {
            Err(RecordFault::Epoch)
        } else {
            Ok(())
        }
    }
}

/// What one read of a drive's first [`QUORUM_BLOCKS`] has brought, of all slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Quorum {
    /// Paxos blocks, by slot.
    pub blocks: Vec<PaxosBlock>,
    /// Decided records, with the slots that keep them.
    pub decided: Vec<(Slot, EpochRecord)>,
    /// Certificates, by slot.
    pub certificates: Vec<Certificate>,
}

impl Quorum {
    /// Whether there is no record at all.
    pub const fn is_blank(&self) -> bool {
        self.blocks.is_empty() && self.decided.is_empty() && self.certificates.is_empty()
    }

    /// The newest decided record.
    pub fn newest(&self) -> Option<&EpochRecord> {
        let records = self.decided.iter().map(|(_, record)| record);
        records.max_by_key(|record| record.epoch)
    }

    /// Whether somebody has certified that this key is fenced on the drive.
    pub fn certifies(&self, key: Key) -> bool {
        let mut certificates = self.certificates.iter();
        certificates.any(|certificate| certificate.victims.contains(&key))
    }
}

/// How the fields of a record contradict one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum RecordFault {
    /// Epoch 0.
    #[error("there is no epoch 0")]
    Epoch,
    /// No members, too many, or not in the order of their slots.
    #[error("its members are none, or not in order")]
    Members,
    /// Too many victims, not in order, or members at the same time.
    #[error("its victims are too many, not in order, or members")]
    Victims,
    /// A key that was not made for its owner.
    #[error("a key does not belong to its node")]
    Key,
    /// An even number of voters, or too many.
    #[error("the number of its voters is not odd, or above {VOTERS_MAX}")]
    Voters,
    /// The drives in use are no majority of the voters.
    #[error("its drives have no majority of the voters")]
    Drives,
    /// Clean, and dirty in memory.
    #[error("its flags exclude one another")]
    Flags,
    /// A value without a ballot, of another instance, or the reverse.
    #[error("its value does not fit its ballot or instance")]
    Value,
    /// A ballot that is not the node's own, or in the wrong order.
    #[error("its ballots are not those of its node")]
    Ballot,
}

/// What is wrong with the bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Fault {
    /// Fewer bytes than a record has.
    #[error("{0} bytes instead of {RECORD_BYTES}")]
    Length(usize),
    /// Neither zeros nor a record of this kind.
    #[error("no Braid record")]
    Magic,
    /// The CRC does not fit.
    #[error("its checksum does not fit: torn or damaged")]
    Checksum,
    /// Another format.
    #[error("format version {0} is not known: use the program that wrote it")]
    Version(u16),
    /// The record of another array.
    #[error("it belongs to another array")]
    OtherArray,
    /// The record of another slot.
    #[error("it belongs to slot {0}: misdirected")]
    OtherSlot(u8),
    /// A field has a value that this version does not know.
    #[error("{field} has the unknown value {value}")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u8,
    },
    /// Bytes that ought to be zero are not.
    #[error("reserved bytes are in use: use the program that wrote it")]
    Reserved,
    /// The fields contradict one another.
    #[error("{0}")]
    Record(#[from] RecordFault),
}

/// Why a block of the area could not be read as a record: what, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[error("{} of slot {slot}: {fault}", kind.name())]
pub struct RecordError {
    /// Which record.
    pub kind: Kind,
    /// Whose.
    pub slot: Slot,
    /// What is wrong with it.
    pub fault: Fault,
}
