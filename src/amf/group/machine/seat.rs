//! A member's place in the group, and the order in which its drive takes a record.

use std::collections::VecDeque;

use crate::amf::group::status::LossReason;
use crate::amf::superblock::{Uuid, copy_offsets};

/// Writes to one member for one update as a rule: four copies, two blocks of another program's signatures and two of the list of lost blocks.
const WRITES_MAX: usize = 8;

/// Blocks of the first 16 KiB that hold no copy of a record, but maybe other programs' signatures.
const WIPE_OFFSETS: [u64; 2] = [0, 12288];

/// A drive: place in the configuration, label and size.
pub(super) type SeatDrive = (u16, String, u64);

/// The drive of one member or spare.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    /// Place in the configuration, label and size; `None` if no drive carries the member.
    pub(super) drive: Option<SeatDrive>,
    /// The last generation that is durable on it.
    pub(super) holds: u64,
    /// Lacks the newest record, or has another in its place.
    pub(super) behind: bool,
    /// All four copies have to be written.
    pub(super) rewrite: bool,
    /// Another program's signatures have to go.
    pub(super) wipe: bool,
    /// Why it is, or is about to be, out.
    pub(super) lost: Option<LossReason>,
    /// The version of the list of lost blocks that is durable on it; `None` if that of another time may be.
    pub(super) list: Option<u64>,
    /// Its drive has old data and may be rebuilt: wholly, or only the rows that are marked.
    pub(super) returning: Option<Comeback>,
}

/// How a drive with old data comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comeback {
    /// Every row is rebuilt.
    Full,
    /// Only rows that were written meanwhile.
    Partial,
}

/// A spare drive.
#[derive(Clone, Debug)]
pub(super) struct SpareSeat {
    pub(super) identity: Uuid,
    pub(super) seat: Seat,
}

/// What one write puts there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// The record of the update.
    Record,
    /// Nothing.
    Zeroes,
    /// The list of lost blocks.
    LostBlocks,
    /// The newest page of reservations of a place.
    Page(u8),
}

impl Seat {
    /// A drive that has nothing of this group yet, or nothing that counts.
    pub(super) const fn new(drive: SeatDrive, wipe: bool) -> Self {
        Self {
            drive: Some(drive),
            holds: 0,
            behind: true,
            rewrite: true,
            wipe,
            lost: None,
            list: None,
            returning: None,
        }
    }

    /// Place of the drive in the configuration.
    pub(super) fn index(&self) -> Option<u16> {
        self.drive.as_ref().map(|(index, _, _)| *index)
    }

    /// The writes that take every copy of a record off the drive.
    pub(super) fn wipes(&self) -> VecDeque<(u64, Content)> {
        let (_, _, bytes) = self
            .drive
            .as_ref()
            .expect("only drives that are there are written");
        let offsets = copy_offsets(*bytes).expect("a spare has room for its copies");
        offsets.map(|offset| (offset, Content::Zeroes)).into()
    }

    /// The writes that put a record of this generation on the drive, in the order that never endangers the last good copy:
    /// its own slot first, in the head and then in the tail, and the other slot only once those are good.
    pub(super) fn writes(&self, generation: u64) -> VecDeque<(u64, Content)> {
        let (_, _, bytes) = self
            .drive
            .as_ref()
            .expect("only members with a drive are written");
        let [head_even, head_odd, tail_even, tail_odd] =
            copy_offsets(*bytes).expect("a member has room for its copies");
        let slots = [[head_even, tail_even], [head_odd, tail_odd]];
        let own = usize::from(!generation.is_multiple_of(2));
        let mut writes = VecDeque::with_capacity(WRITES_MAX);
        writes.extend(slots[own].map(|offset| (offset, Content::Record)));
        if self.rewrite {
            writes.extend(slots[1 - own].map(|offset| (offset, Content::Record)));
        }
        if self.wipe {
            writes.extend(WIPE_OFFSETS.map(|offset| (offset, Content::Zeroes)));
        }
        writes
    }

    /// The drive has taken a record of this generation, whole.
    pub(super) const fn took(&mut self, generation: u64) {
        self.holds = generation;
        self.behind = false;
        self.rewrite = false;
        self.wipe = false;
    }
}
