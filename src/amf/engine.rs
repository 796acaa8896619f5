//! The engine: turns the group commands of one core into drive commands, row by row.
//!
//! Owns the commands of its core from submission to completion. Each is cut into row operations
//! ("pieces"), which take their row's lock, plan by the members of that instant, read, compute and
//! write. Invariants: a row is touched under its lock only, and the lock is released with nothing
//! outstanding; no write completes past a member that is not durably failed; what has begun to write
//! is never planned anew; an operation holds one lock and waits for nothing that another lock's
//! holder could hold, so all of them end. All memory is laid out at the start. Deliberately knows
//! neither time nor threads, drives or buffers: it asks by [`Action`] and is told by calls.

mod answer;
mod clean;
mod hang;
mod machine;
mod mend;
mod piece;
mod rebuild;
pub mod relayout;
mod repair;
mod scratch;
mod scrub;
mod tag;
mod write_back;

pub use clean::{ReadCacheConfig, ReadCacheCounts};
pub use hang::ScratchHold;
pub use machine::{COMMAND_BLOCKS_MAX, Engine, PIECES_MAX, PIECES_PER_COMMAND_MAX};
pub use rebuild::REBUILDS_MAX;
pub use relayout::MovePhase;
pub use write_back::{Durability, HandOverCounts, WriteBackConfig};

use std::sync::Arc;

use thiserror::Error;

use super::expansion::Layout;
use super::lock::{LockTable, Mode};
use super::replica::Offer;
use super::replication::ReplicationMode;
use super::{MemberIndex, MemberSet, RowIndex};
use crate::drive::DriveError;
use crate::drive::block::{GroupLba, MemberLba};
use crate::icl::Epoch;

/// A command in flight on this core, chosen by the caller: below `commands_max` and not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u32);

/// Names one drive command or comparison until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoTag(pub u32);

/// What the group is asked to do. A command's data lies in its own buffer, from byte 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read into the command's buffer, from the drives unless it is dirty.
    Read {
        /// First block.
        lba: GroupLba,
        /// Length in blocks.
        blocks: u32,
    },
    /// Read into the command's buffer; what an engine with a read cache has in memory may be taken from there, and
    /// what a sequential stream will want next be read ahead. An engine without one reads as ever.
    CachedRead {
        /// First block.
        lba: GroupLba,
        /// Length in blocks.
        blocks: u32,
        /// Where the host's disk ends: nothing is read ahead from there on.
        disk_end: GroupLba,
    },
    /// Write the command's buffer.
    Write {
        /// First block.
        lba: GroupLba,
        /// Length in blocks.
        blocks: u32,
        /// Force unit access: on stable media before completion.
        fua: bool,
        /// When it is done, where that is acknowledged from memory.
        replication: ReplicationMode,
    },
    /// Make the blocks read as zeroes.
    Zero {
        /// First block.
        lba: GroupLba,
        /// Length in blocks; any length, since there is no buffer.
        blocks: u64,
        /// The drives may give the space back.
        deallocate: bool,
        /// Force unit access.
        fua: bool,
        /// When it is done, where that is acknowledged from memory.
        replication: ReplicationMode,
    },
    /// Compare the command's buffer with the blocks.
    Compare {
        /// First block.
        lba: GroupLba,
        /// Length in blocks.
        blocks: u32,
    },
    /// Compare the command's buffer with the blocks and, if they are equal, write the buffer of the
    /// command `write` there; nothing comes in between. Both complete, one right after the other.
    CompareWrite {
        /// First block.
        lba: GroupLba,
        /// Length in blocks, inside one stripe row.
        blocks: u32,
        /// The command whose buffer is written.
        write: CommandId,
        /// Force unit access for the write.
        fua: bool,
    },
    /// Make everything written so far durable on all live members.
    Flush,
    /// Make everything that was written in place durable on all live members, whatever the journal says: for those who write past it.
    FlushDrives,
    /// Bring all dirty data of this core to its place and make that durable, so that the journal owes nothing.
    Drain,
    /// Bring what this core has appended to the journal so far to its place and make that durable: a member that is rebuilt has none of
    /// what was appended before its rebuild.
    Retire,
    /// Make the row's check data match its data, or its copies one another, for the resynchronisation
    /// after an unclean stop.
    Resync {
        /// The stripe row.
        row: RowIndex,
    },
    /// Write the strips of all members under rebuild anew, and let them count as live up to this row.
    ///
    /// Rows are asked for in ascending order, by one core, at most [`REBUILDS_MAX`] at a time, without leaving one
    /// out. When one fails, those behind it that are under way complete with
    /// [`GroupError::Aborted`] or an error of their own, and the rebuild goes on from the row that failed.
    Rebuild {
        /// The stripe row.
        row: RowIndex,
        /// Generation of the member set that says what is rebuilt: until this core has heard of it, the row fails.
        wave: u64,
        /// The members under rebuild miss only rows that are marked in the write-intent bitmap: under its lock, a row without
        /// a mark counts as rebuilt as it is.
        only_marked: bool,
    },
    /// Read the whole row and compare its check data or copies with its data: [`Action::Scrubbed`] says what was found.
    Scrub {
        /// The stripe row.
        row: RowIndex,
        /// Whether to write what is wrong anew.
        repair: bool,
    },
    /// Write a range of a member's part of a row anew from the other members, and read it back: for blocks
    /// that the medium could not give back. Nothing happens if the member has failed by then.
    Repair {
        /// The stripe row.
        row: RowIndex,
        /// Which member.
        member: MemberIndex,
        /// First block, from the start of what the member gives to the row.
        offset_blocks: u32,
        /// Length, at least 1.
        blocks: u32,
    },
    /// Take a step with a row of the layout that the group is expanded to; see [`relayout`].
    Move {
        /// The stripe row.
        row: RowIndex,
        /// Which step.
        phase: MovePhase,
    },
}

/// What a scrub found in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubOutcome {
    /// Everything could be read, and all of it fits.
    Clean,
    /// Everything that is live could be read, but nothing was left to compare it with: members are lost or their check
    /// data is not trusted, or the level has no redundancy.
    Unchecked,
    /// Some of it did not fit.
    Mismatch {
        /// The members whose strips are wrong. If nothing proves which, data is believed, and the first of two
        /// copies: these are then the members with the others.
        members: u32,
        /// Whether redundancy proves that it was these.
        located: bool,
        /// Whether they were written anew, so that the row fits again.
        repaired: bool,
    },
}

/// Where bytes come from or go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the buffer of a command.
    Command {
        /// Whose buffer.
        command: CommandId,
        /// From its start.
        offset_bytes: u32,
    },
    /// In the core's scratch region.
    Scratch {
        /// From its start.
        offset_bytes: u32,
    },
    /// In the core's ring, the image of its lane of the journal.
    Ring {
        /// From its start.
        offset_bytes: u32,
    },
    /// In the core's region for what was read, of as many bytes as [`ReadCacheConfig`] says. Only of a [`Action::Copy`].
    Clean {
        /// From its start.
        offset_bytes: u32,
    },
    /// In the dirty data that is being adopted. Only a source.
    Handed {
        /// From its start.
        offset_bytes: u32,
    },
    /// The runtime's region of zeroes, at least one strip long. Only a source.
    Zeroes,
}

/// What the runtime does for the engine, in the order of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read from a member; answer with [`Engine::drive_done`].
    DriveRead {
        /// Comes back with the answer.
        io: IoTag,
        /// Which drive.
        member: MemberIndex,
        /// First block there.
        lba: MemberLba,
        /// Length in blocks.
        blocks: u32,
        /// Where the data goes.
        into: Place,
    },
    /// Write to a member; answer with [`Engine::drive_done`].
    DriveWrite {
        /// Comes back with the answer.
        io: IoTag,
        /// Which drive.
        member: MemberIndex,
        /// First block there.
        lba: MemberLba,
        /// Length in blocks.
        blocks: u32,
        /// Where the data is.
        from: Place,
        /// On stable media before the answer.
        fua: bool,
    },
    /// Make blocks of a member read as zeroes; answer with [`Engine::drive_done`].
    DriveZero {
        /// Comes back with the answer.
        io: IoTag,
        /// Which drive.
        member: MemberIndex,
        /// First block there.
        lba: MemberLba,
        /// Length in blocks, at most a strip.
        blocks: u32,
        /// The drive may give the space back, if it then reads as zeroes.
        deallocate: bool,
        /// On stable media before the answer.
        fua: bool,
    },
    /// Make everything written so far durable; answer with [`Engine::drive_done`].
    DriveFlush {
        /// Comes back with the answer.
        io: IoTag,
        /// Which drive.
        member: MemberIndex,
    },
    /// `into ^= from`, at once.
    Xor {
        /// Changed.
        into: Place,
        /// Read.
        from: Place,
        /// Length.
        bytes: u32,
    },
    /// `into ^= factor * from` in GF(2^8), byte by byte, at once; see [`super::code`]. The two do not overlap.
    MulAdd {
        /// Changed.
        into: Place,
        /// Read.
        from: Place,
        /// Neither 0 nor 1.
        factor: u8,
        /// Length.
        bytes: u32,
    },
    /// `into = from`, at once. The two do not overlap.
    Copy {
        /// Changed.
        into: Place,
        /// Read.
        from: Place,
        /// Length.
        bytes: u32,
    },
    /// Compare two places; answer with [`Engine::compared`].
    Compare {
        /// Comes back with the answer.
        io: IoTag,
        /// One side: what the drives hold.
        a: Place,
        /// The other: what the host believes.
        b: Place,
        /// Length.
        bytes: u32,
    },
    /// Compute the CRC-32C of the payload, which lies in the ring behind the header, then put what [`Engine::seal`] says
    /// into the header's block; at once.
    Seal {
        /// What to tell [`Engine::seal`].
        slot: u8,
        /// Where the header, one block, is in the ring.
        offset_bytes: u32,
        /// Length of the payload.
        payload_bytes: u32,
    },
    /// Have other nodes keep a batch of the journal in memory, which lies in the ring from here on; it is to be copied at once. Answer with [`Engine::kept`] when all of
    /// them do. Only after [`Engine::keep`].
    Keep {
        /// Which batch.
        offer: Offer,
        /// Answer with [`Engine::sent`], too, when it was sent to all of them.
        reports: bool,
        /// Where it is in the ring.
        offset_bytes: u32,
        /// Its length.
        bytes: u32,
    },
    /// Call [`Engine::recall`] with this row on the engine of this core, another one.
    RecallCore {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// Call [`Engine::hurry`] with this core and number on the engines of all other cores.
    HurryCores {
        /// Everything below is to be retired.
        below: u64,
    },
    /// Call [`Engine::commit`] with this core and flush on the engines of all other cores.
    CommitCores {
        /// Names the flush here.
        flush: u32,
    },
    /// Call [`Engine::committed_elsewhere`] on the engine of this core, another one.
    Committed {
        /// Which core.
        core: u16,
        /// Names the flush there.
        flush: u32,
    },
    /// Call [`Engine::tail_moved`] on the engines of these cores.
    TailMoved {
        /// Bit `i` is core `i`; never this engine's own.
        mask: u16,
    },
    /// The node does not hold this row, which other nodes may have, or not for this: the home of its slot, which is in, has to get it
    /// ([`super::lock::LockTable::set_held`]). Never in a group that is this node's alone.
    WantRow {
        /// The row.
        row: RowIndex,
        /// For what.
        mode: Mode,
        /// Dirty data of another node may come along: [`Engine::adopt`] or [`Engine::answer`] follows, one of them once.
        takes: bool,
    },
    /// The dirty data of this row, which [`Engine::lay_out`] copies, goes to the node that wants it: the lock is given back with the next actions. Stays where it is until
    /// [`Engine::settle_given`] or [`Engine::restore`].
    Give {
        /// The row.
        row: RowIndex,
    },
    /// What [`Engine::adopt`] brought is committed.
    Taken {
        /// The row.
        row: RowIndex,
    },
    /// Call [`Engine::wake`] with this row on the engines of these cores, and tell the home of its slot if [`super::lock::HOME`] is among them.
    WakeCores {
        /// Bit `i` is core `i`; never this engine's own.
        mask: u16,
        /// The row.
        row: RowIndex,
    },
    /// A member could not read some blocks. It has not failed: the engine goes round it, and a
    /// [`Request::Repair`] of these blocks should follow, or the member's failure if that is enough.
    ReportMedia {
        /// Which member.
        member: MemberIndex,
        /// The stripe row.
        row: RowIndex,
        /// First block of the read, from the start of what the member gives to the row.
        offset_blocks: u32,
        /// Length of the read.
        blocks: u32,
    },
    /// What [`Request::Scrub`] found; it completes right after.
    Scrubbed {
        /// The stripe row.
        row: RowIndex,
        /// What was found.
        outcome: ScrubOutcome,
    },
    /// Nobody is in the rows of [`Engine::hold_range`] on this core any more, and none of them is dirty here.
    RangeHeld,
    /// A write waits for its commit that could be acknowledged from memory: [`Engine::allow_ram`] may say so once it is durable that
    /// such writes may be lost.
    RamWanted,
    /// The answer to [`Engine::allow_ram`] with `false`.
    RamCommitted,
    /// All that this core had acknowledged when [`Engine::keep`] named this epoch is on the drives, or kept by those that it named.
    KeptAgain(Epoch),
    /// What is marked in the write-intent bitmap at this moment has to be durable before this core's journal forgets rows;
    /// answer with [`Engine::intent_durable`]. One at a time.
    PersistIntent,
    /// The list of lost blocks ([`WriteBackConfig::lost`]) as it is at this moment has to be durable on all live members, and so do
    /// the marks of the write-intent bitmap; answer with [`Engine::lost_durable`]. One at a time.
    PersistLost,
    /// A member did not do what it was asked. The group answers with a member set that calls it
    /// failed, sooner or later: writes wait for that.
    ReportFault {
        /// Which drive.
        member: MemberIndex,
        /// What it said.
        error: DriveError,
    },
    /// The command is over, its buffer is no longer touched and its id is free.
    Complete {
        /// Which command.
        command: CommandId,
        /// How it went.
        result: Result<(), GroupError>,
    },
}

/// Why a group command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GroupError {
    /// More members are lost than the group's level survives.
    #[error("too many members are lost")]
    TooManyMembersLost,
    /// A lost strip could only be had from parity that may not match its data (PROTOCOL H27, H28).
    #[error("a member is lost and parity is not trusted after an unclean stop")]
    ParityNotTrusted,
    /// The blocks differ from the command's buffer.
    #[error("the blocks differ")]
    CompareFailed,
    /// The write was not carried out, because the comparison fused with it did not succeed.
    #[error("the comparison did not succeed")]
    FusedCompareFailed,
    /// The command was aborted before it had any effect, or given up: then some of its rows may have
    /// been carried out, each as a whole or not at all.
    #[error("aborted")]
    Aborted,
    /// No node serves the group any more, and the command waited for others, or would have: some of its rows may have been carried out.
    #[error("no node serves the group")]
    NotServed,
    /// The member that was to be written anew did not take or give back what was written.
    #[error("the member could not be written anew")]
    MemberFailed,
    /// Blocks are lost, or cannot be read: no drive gives them back. [`Action::ReportMedia`] has said which cannot be read; a repair makes
    /// them readable or calls them lost.
    #[error("blocks cannot be read")]
    Unreadable,
    /// Longer than a command may be, or a fused pair that leaves its stripe row.
    #[error("too long")]
    TooLong,
    /// The blocks are not all inside the group.
    #[error("outside of the group")]
    OutOfRange,
}

/// What an engine is made of.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where the group's blocks are.
    pub layout: Layout,
    /// This core, below 16.
    pub core: u16,
    /// Shared by the engines of all cores for this group.
    pub lock: Arc<LockTable>,
    /// Command ids are below this.
    pub commands_max: u32,
    /// Most row operations at a time.
    pub pieces_max: u32,
    /// Size of the core's scratch region, at least [`Engine::scratch_bytes_min`].
    pub scratch_bytes: u32,
    /// As of the last durable generation.
    pub members: MemberSet,
    /// The journal, for groups that have one.
    pub write_back: Option<WriteBackConfig>,
}

#[cfg(test)]
mod cached;
#[cfg(test)]
mod elsewhere;
#[cfg(test)]
mod executor;
#[cfg(test)]
mod expanding;
#[cfg(test)]
mod given_up;
#[cfg(test)]
mod levels;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod several;
#[cfg(test)]
mod striped;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod write_order;
#[cfg(test)]
mod zeroes;
