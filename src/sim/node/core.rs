//! One core of a simulated node: an engine with its memory.
//!
//! Owns the bytes of command buffers and scratch, and checks what the engine promises about them: that nothing of a
//! buffer changes while a drive writes from it, and that no two commands use one tag.

use std::collections::BTreeMap;
use std::sync::Arc;

use nvme::crc32c;

use super::LaneCall;
use super::Owner;
use crate::amf::code::mul_add_bytes;
use crate::amf::engine::{
    Action, CommandId, Engine, GroupError, IoTag, Place, ReadCacheConfig, Request, ScrubOutcome,
};
use crate::amf::expansion::{HeldRows, Layout};
use crate::amf::geometry::Geometry;
use crate::amf::hand_over::HandedOver;
use crate::amf::journal::lane::BatchNumber;
use crate::amf::lock::Mode;
use crate::amf::replica::{Copy, Keeping};
use crate::amf::{MemberIndex, MemberSet, RowIndex};
use crate::drive::DriveError;
use crate::drive::block::MemberLba;
use crate::icl::Epoch;
use crate::sim::drive::Command;
use crate::sim::scenario::Mutant;
use crate::sim::stamp::{BLOCK_BYTES, Block};

/// What an untouched buffer holds: easily told from data.
const JUNK: u8 = 0xee;

/// What a core asks of its node.
#[derive(Clone, Debug)]
pub(in crate::sim) enum Ask {
    /// Ask a member's drive.
    Drive {
        io: IoTag,
        member: MemberIndex,
        command: Command,
    },
    /// Tell the core that keeps a row that this one wants it.
    Recall { core: u16, row: RowIndex },
    /// Tell these cores, but never this one, something about the journal's lanes.
    Lane { cores: u16, call: LaneCall },
    /// Tell other cores that a row is free.
    Wake { mask: u16, row: RowIndex },
    /// Get a row from other nodes.
    Want { row: RowIndex, mode: Mode, takes: bool },
    /// Other nodes are to keep a batch.
    Keep(Copy, bool),
    /// A row goes to another node with this dirty data.
    Give { row: RowIndex, data: Arc<HandedOver> },
    /// Dirty data that came with a row is committed.
    Taken { row: RowIndex },
    /// Have the control core see to blocks that a member could not give back.
    Repair(Request),
    /// A write could be acknowledged from memory.
    RamWanted,
    /// What was acknowledged from memory is committed.
    RamCommitted,
    /// What was acknowledged before this epoch is on the drives, or kept.
    KeptAgain(Epoch),
    /// Have what this core has marked made durable.
    PersistIntent,
    /// Nothing of this core is left in the rows of this wave.
    RowsHeld { wave: u64 },
    /// What a scrub found.
    Scrubbed { row: RowIndex, outcome: ScrubOutcome },
    /// Have the control core make the list of lost blocks durable.
    PersistLost,
    /// Tell the control core about a member.
    Fault { member: MemberIndex, error: DriveError },
    /// A command is over; `data` is its buffer if it was a read.
    Complete {
        owner: Owner,
        result: Result<(), GroupError>,
        data: Vec<u8>,
    },
}

/// A drive command under way.
#[derive(Clone, Debug)]
pub(in crate::sim) enum Outstanding {
    /// Where its data goes.
    Read(Place),
    /// Where its data is and what it was when the drive was asked.
    Write(Place, Vec<Block>),
    /// Nothing to move.
    Other,
}

/// One core.
#[derive(Debug)]
pub struct Core {
    pub(in crate::sim) engine: Engine,
    scratch: Vec<u8>,
    /// The image of the core's lane of the journal.
    ring: Vec<u8>,
    /// What the core remembers of what it read.
    clean: Vec<u8>,
    /// What is being adopted.
    handed: Vec<u8>,
    buffers: Vec<Vec<u8>>,
    owners: Vec<Option<(Owner, bool)>>,
    /// Drive commands under way, with the member whose drive has each.
    pub(in crate::sim) outstanding: BTreeMap<u32, (MemberIndex, Outstanding)>,
    /// Members that get another drive when the old one has answered everything.
    moving: Vec<(MemberIndex, u16)>,
    actions: Vec<Action>,
    strip_bytes: usize,
    /// Bytes of a block of the group.
    block_bytes: usize,
    mutant: Mutant,
    /// Drive of each member, as this core knows it.
    pub(in crate::sim) drives: Vec<Option<u16>>,
    /// The wave for which it holds rows, or did so last.
    held_wave: u64,
    /// Nodes serve the group, or are going to.
    is_served: bool,
}

impl Core {
    /// A core with room for `commands` commands.
    pub(in crate::sim) fn new(
        engine: Engine,
        commands: u32,
        scratch_bytes: u32,
        geometry: &Geometry,
        ring_bytes: usize,
        drives: Vec<Option<u16>>,
    ) -> Self {
        Self {
            engine,
            scratch: vec![JUNK; scratch_bytes as usize],
            ring: vec![JUNK; ring_bytes],
            clean: Vec::new(),
            handed: Vec::new(),
            buffers: vec![Vec::new(); commands as usize],
            owners: vec![None; commands as usize],
            outstanding: BTreeMap::new(),
            moving: Vec::new(),
            actions: Vec::new(),
            strip_bytes: geometry.strip_bytes() as usize,
            block_bytes: geometry.block().bytes() as usize,
            mutant: Mutant::None,
            drives,
            held_wave: 0,
            is_served: true,
        }
    }

    /// Lets the core remember what hosts read, and read ahead of them, in memory of this size; called once.
    pub(in crate::sim) fn set_read_cache(&mut self, bytes: u32) {
        self.clean = vec![JUNK; bytes as usize];
        let window_bytes = bytes;
        self.engine
            .set_read_cache(ReadCacheConfig { bytes, window_bytes });
    }

    /// The core makes this mistake from now on.
    pub(in crate::sim) fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.mutant = mutant;
        self
    }

    /// Takes a free command slot with this buffer. Panics if there is none: hosts keep fewer under way.
    pub(in crate::sim) fn take_slot(&mut self, owner: Owner, buffer: Vec<u8>) -> CommandId {
        let slot = self.owners.iter().position(Option::is_none);
        let slot = slot.expect("a core has a slot for whatever may be under way");
        self.owners[slot] = Some((owner, false));
        self.buffers[slot] = buffer;
        CommandId(u32::try_from(slot).expect("few slots"))
    }

    pub(in crate::sim) fn submit(&mut self, command: CommandId, request: Request) {
        let reads = matches!(request, Request::Read { .. } | Request::CachedRead { .. });
        let owner = self.owners[command.0 as usize].as_mut();
        owner.expect("the slot was taken for it").1 = reads;
        self.engine.submit(command, request, &mut self.actions);
        if !self.is_served && self.is_of_host(command) {
            self.engine.refuse(command, &mut self.actions);
        }
    }

    fn is_of_host(&self, command: CommandId) -> bool {
        let owner = self.owners[command.0 as usize].map(|(owner, _)| owner);
        matches!(
            owner,
            Some(Owner::Host(_) | Owner::Comparison(_) | Owner::SwapWrite(_))
        )
    }

    /// Whether nodes serve the group, or are going to, as far as this core has heard.
    pub(in crate::sim) const fn is_served(&self) -> bool {
        self.is_served
    }

    /// No node serves the group any more, or one does again: what hosts wait for ends, now and until then.
    pub(in crate::sim) fn set_served(&mut self, is_served: bool) {
        self.is_served = is_served;
        for command in (0..).map(CommandId).take(self.owners.len()) {
            if !is_served && self.is_of_host(command) {
                self.engine.refuse(command, &mut self.actions);
            }
        }
    }

    pub(in crate::sim) fn give_up(&mut self, command: CommandId) {
        self.engine.give_up(command, &mut self.actions);
    }

    pub(in crate::sim) fn recall(&mut self, row: RowIndex) {
        self.engine.recall(row, &mut self.actions);
    }

    pub(in crate::sim) fn recall_for(&mut self, row: RowIndex, gives: bool) {
        self.engine.recall_for(row, gives, &mut self.actions);
    }

    pub(in crate::sim) fn answer(&mut self, row: RowIndex) {
        self.engine.answer(row, &mut self.actions);
    }

    /// Dirty data came with a row. What it is copied from lies here until that is done.
    pub(in crate::sim) fn adopt(&mut self, row: RowIndex, data: &HandedOver) {
        let pieces = data.extents().filter_map(|(_, piece)| piece);
        self.handed = pieces.flatten().copied().collect();
        self.engine.adopt(row, data, &mut self.actions);
    }

    pub(in crate::sim) fn restore(&mut self, row: RowIndex) {
        self.engine.restore(row, &mut self.actions);
    }

    pub(in crate::sim) fn settle_given(&mut self, row: RowIndex) {
        self.engine.settle_given(row, &mut self.actions);
    }

    /// What goes to other nodes: dirty data of a row, or a batch that they are to keep.
    fn laid_out(&self, action: &Action) -> Ask {
        if let Action::Give { row } = *action {
            let data = self.engine.lay_out(row, |offset_bytes, bytes, out| {
                out.extend(self.load(Place::Ring { offset_bytes }, bytes as usize));
            });
            let data = Arc::new(data);
            return Ask::Give { row, data };
        }
        let Action::Keep {
            offer,
            reports,
            offset_bytes,
            bytes,
        } = *action
        else {
            unreachable!("nobody else has {action:?}")
        };
        let copy = offer.with(self.load(Place::Ring { offset_bytes }, bytes as usize).into());
        Ask::Keep(copy, reports)
    }

    pub(in crate::sim) fn lane(&mut self, from: u16, call: LaneCall) {
        let out = &mut self.actions;
        match call {
            LaneCall::Hurry { below } => self.engine.hurry(from, below, out),
            LaneCall::TailMoved => self.engine.tail_moved(out),
            LaneCall::Commit { flush } => self.engine.commit(from, flush, out),
            LaneCall::Committed { flush } => self.engine.committed_elsewhere(flush, out),
        }
    }

    /// Whether it may acknowledge writes from memory.
    pub(in crate::sim) fn allow_ram(&mut self, allowed: bool) {
        self.engine.allow_ram(allowed, &mut self.actions);
    }

    /// Whether all that it has acknowledged is on the drives, or kept.
    pub(in crate::sim) fn is_kept(&self) -> bool {
        self.engine.is_kept()
    }

    /// Whether something that it may have acknowledged is not on the drives.
    pub(in crate::sim) fn is_ahead_of_drives(&self) -> bool {
        self.engine.is_ahead_of_drives()
    }

    /// Whether other nodes are there to keep what it writes.
    pub(in crate::sim) fn keep(&mut self, keeping: Keeping, epoch: Epoch) {
        self.engine.keep(keeping, epoch, &mut self.actions);
    }

    /// Other nodes keep this batch.
    pub(in crate::sim) fn kept(&mut self, batch: u64) {
        self.engine.kept(BatchNumber(batch), &mut self.actions);
    }

    /// This batch was sent to all nodes that are to keep it.
    pub(in crate::sim) fn sent(&mut self, batch: u64) {
        self.engine.sent(BatchNumber(batch), &mut self.actions);
    }

    /// What this core had marked is durable.
    pub(in crate::sim) fn intent_durable(&mut self) {
        self.engine.intent_durable(&mut self.actions);
    }

    /// Lets no operation begin in these rows; [`Ask::RowsHeld`] says when nothing of this core is left in them.
    pub(in crate::sim) fn hold_rows(&mut self, rows: HeldRows, wave: u64) {
        self.held_wave = wave;
        self.engine.hold_range(rows, &mut self.actions);
    }

    /// Looks blocks up in this layout from now on, and holds no rows any more.
    pub(in crate::sim) fn set_layout(&mut self, layout: Layout) {
        self.engine.set_layout(layout, &mut self.actions);
    }

    pub(in crate::sim) fn lost_durable(&mut self) {
        self.engine.lost_durable(&mut self.actions);
    }

    pub(in crate::sim) fn tick(&mut self) {
        self.engine.tick(&mut self.actions);
    }

    pub(in crate::sim) fn wake(&mut self, row: RowIndex) {
        self.engine.wake(row, &mut self.actions);
    }

    pub(in crate::sim) fn set_members(&mut self, members: MemberSet) {
        self.engine.set_members(members, &mut self.actions);
    }

    /// Another drive carries a member, as soon as the old one has answered: its answers must not count for the new one.
    pub(in crate::sim) fn move_member(&mut self, member: MemberIndex, drive: u16) {
        self.moving.push((member, drive));
    }

    /// Puts drives in their places as far as that may be, and says how many.
    pub(in crate::sim) fn members_moved(&mut self) -> usize {
        let (outstanding, drives) = (&self.outstanding, &mut self.drives);
        let before = self.moving.len();
        self.moving.retain(|&(member, drive)| {
            let is_busy = outstanding.values().any(|(at, _)| *at == member);
            if !is_busy {
                let at = usize::from(member.0);
                if at >= drives.len() {
                    drives.resize(at + 1, None); // An expansion brings members.
                }
                drives[at] = Some(drive);
            }
            is_busy
        });
        before - self.moving.len()
    }

    /// Carries out one read on drives at rest, which `read` reads. Gives back the buffer.
    pub(in crate::sim) fn read_now(
        &mut self,
        request: Request,
        buffer: Vec<u8>,
        mut read: impl FnMut(MemberIndex, u64, u32) -> Vec<Block>,
    ) -> Result<Vec<u8>, GroupError> {
        let command = self.take_slot(Owner::Host(0), buffer);
        self.submit(command, request);
        let mut asked = Vec::new();
        loop {
            self.work(&mut asked);
            for ask in std::mem::take(&mut asked) {
                match ask {
                    Ask::Drive {
                        io,
                        member,
                        command: Command::Read { lba, blocks },
                    } => self.drive_done(io, Ok(read(member, lba, blocks))),
                    Ask::Complete { result, data, .. } => return result.map(|()| data),
                    Ask::Drive { .. }
                    | Ask::Wake { .. }
                    | Ask::Want { .. }
                    | Ask::Give { .. }
                    | Ask::Keep(..)
                    | Ask::Taken { .. }
                    | Ask::Recall { .. }
                    | Ask::Lane { .. }
                    | Ask::Fault { .. }
                    | Ask::PersistLost
                    | Ask::Repair(_)
                    | Ask::PersistIntent
                    | Ask::RamWanted
                    | Ask::RamCommitted
                    | Ask::KeptAgain(_)
                    | Ask::RowsHeld { .. }
                    | Ask::Scrubbed { .. } => {
                        unreachable!("a read alone on sound drives only reads")
                    }
                }
            }
        }
    }

    /// A drive has answered.
    pub(in crate::sim) fn drive_done(&mut self, io: IoTag, result: Result<Vec<Block>, DriveError>) {
        let outstanding = self.outstanding.remove(&io.0);
        let (_, outstanding) = outstanding.expect("a drive answers once");
        let result = match (outstanding, result) {
            (Outstanding::Read(into), Ok(data)) => {
                let bytes: Vec<u8> = data.iter().flat_map(|block| *block.bytes()).collect();
                self.store(into, &bytes);
                Ok(())
            }
            (Outstanding::Write(from, asked), result) => {
                let bytes = asked.len() * BLOCK_BYTES;
                let same = blocks_of(self.load(from, bytes)) == asked;
                assert!(same, "nobody touches what a drive writes from");
                result.map(|_| ())
            }
            (Outstanding::Other, result) => result.map(|_| ()),
            (Outstanding::Read(_), Err(error)) => Err(error),
        };
        self.engine.drive_done(io, result, &mut self.actions);
    }

    /// Works off what the engine wants; what somebody else has to do goes to `asked`.
    pub(in crate::sim) fn work(&mut self, asked: &mut Vec<Ask>) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                self.act(action, asked);
            }
        }
    }

    fn act(&mut self, action: Action, asked: &mut Vec<Ask>) {
        match action {
            Action::DriveRead {
                io,
                member,
                lba,
                blocks,
                into,
            } => {
                let (lba, blocks) = self.on_drive(lba, blocks);
                let command = Command::Read { lba, blocks };
                self.ask(io, member, command, Outstanding::Read(into), asked);
            }
            Action::DriveWrite {
                io,
                member,
                lba,
                blocks,
                from,
                fua,
            } => {
                let data = blocks_of(self.load(from, blocks as usize * self.block_bytes));
                let outstanding = Outstanding::Write(from, data.clone());
                let (lba, _) = self.on_drive(lba, blocks);
                self.ask(io, member, Command::Write { lba, data, fua }, outstanding, asked);
            }
            Action::DriveZero {
                io,
                member,
                lba,
                blocks,
                deallocate: _,
                fua,
            } => {
                let (lba, blocks) = self.on_drive(lba, blocks);
                let data = vec![Block::ZERO; blocks as usize];
                let command = Command::Write { lba, data, fua };
                self.ask(io, member, command, Outstanding::Other, asked);
            }
            Action::DriveFlush { io, member } => {
                self.ask(io, member, Command::Flush, Outstanding::Other, asked);
            }
            step @ (Action::Xor { .. }
            | Action::MulAdd { .. }
            | Action::Copy { .. }
            | Action::Compare { .. }
            | Action::Seal { .. }) => {
                self.compute(step);
            }
            Action::Complete { command, result } => asked.push(self.complete(command, result)),
            gift @ (Action::Give { .. } | Action::Keep { .. }) => asked.push(self.laid_out(&gift)),
            Action::RangeHeld => asked.push(Ask::RowsHeld { wave: self.held_wave }),
            message @ (Action::RecallCore { .. }
            | Action::HurryCores { .. }
            | Action::CommitCores { .. }
            | Action::TailMoved { .. }
            | Action::Committed { .. }
            | Action::ReportMedia { .. }
            | Action::Scrubbed { .. }
            | Action::PersistIntent
            | Action::PersistLost
            | Action::RamWanted
            | Action::RamCommitted
            | Action::KeptAgain(_)
            | Action::WakeCores { .. }
            | Action::WantRow { .. }
            | Action::Taken { .. }
            | Action::ReportFault { .. }) => asked.push(message_to_others(message)),
        }
    }

    /// Does with bytes in memory what the engine wants.
    fn compute(&mut self, step: Action) {
        if let Action::Compare { io, a, b, bytes } = step {
            let equal = self.load(a, bytes as usize) == self.load(b, bytes as usize);
            self.engine.compared(io, equal, &mut self.actions);
        } else if let Action::Seal {
            slot,
            offset_bytes,
            payload_bytes,
        } = step
        {
            self.seal(slot, offset_bytes as usize, payload_bytes as usize);
        } else if let Action::Xor { into, from, bytes } = step {
            self.combine(into, from, bytes, |sum, other| {
                sum.iter_mut().zip(other).for_each(|(sum, byte)| *sum ^= byte);
            });
        } else if let Action::Copy { into, from, bytes } = step {
            self.combine(into, from, bytes, <[u8]>::copy_from_slice);
        } else if let Action::MulAdd {
            into,
            from,
            factor,
            bytes,
        } = step
        {
            self.combine(into, from, bytes, |sum, other| mul_add_bytes(sum, other, factor));
        } else {
            unreachable!("only these compute");
        }
    }

    /// Where blocks of the group are on the drive, in the drive's blocks.
    fn on_drive(&self, lba: MemberLba, blocks: u32) -> (u64, u32) {
        let ratio = u32::try_from(self.block_bytes / BLOCK_BYTES).expect("a block is short");
        (lba.0 * u64::from(ratio), blocks * ratio)
    }

    /// Puts the header of a journal batch before its payload.
    fn seal(&mut self, slot: u8, offset: usize, payload_bytes: usize) {
        let (header, payload) = self.ring[offset..].split_at_mut(self.block_bytes);
        let crc = crc32c::portable(0, &payload[..payload_bytes]);
        self.engine.seal(slot, crc, header);
    }

    fn combine(&mut self, into: Place, from: Place, bytes: u32, how: impl FnOnce(&mut [u8], &[u8])) {
        let forgets = self.mutant == Mutant::StaleParity
            && matches!((into, from), (Place::Scratch { .. }, Place::Ring { .. }));
        if forgets {
            return;
        }
        let mut changed = self.load(into, bytes as usize).to_vec();
        how(&mut changed, self.load(from, bytes as usize));
        self.store(into, &changed);
    }

    fn complete(&mut self, command: CommandId, result: Result<(), GroupError>) -> Ask {
        let slot = command.0 as usize;
        let (owner, reads) = self.owners[slot].take().expect("a command completes once");
        let buffer = std::mem::take(&mut self.buffers[slot]);
        let data = if reads { buffer } else { Vec::new() };
        Ask::Complete { owner, result, data }
    }

    fn ask(
        &mut self,
        io: IoTag,
        member: MemberIndex,
        command: Command,
        outstanding: Outstanding,
        asked: &mut Vec<Ask>,
    ) {
        let twice = self.outstanding.insert(io.0, (member, outstanding));
        assert!(twice.is_none(), "a tag names one drive command");
        asked.push(Ask::Drive { io, member, command });
    }

    fn load(&self, place: Place, bytes: usize) -> &[u8] {
        static ZEROES: [u8; 1 << 20] = [0; 1 << 20];
        match place {
            Place::Command {
                command,
                offset_bytes,
            } => &self.buffers[command.0 as usize][offset_bytes as usize..][..bytes],
            Place::Scratch { offset_bytes } => &self.scratch[offset_bytes as usize..][..bytes],
            Place::Ring { offset_bytes } => &self.ring[offset_bytes as usize..][..bytes],
            Place::Clean { offset_bytes } => &self.clean[offset_bytes as usize..][..bytes],
            Place::Handed { offset_bytes } => &self.handed[offset_bytes as usize..][..bytes],
            Place::Zeroes => {
                assert!(bytes <= self.strip_bytes, "the region of zeroes is a strip long");
                &ZEROES[..bytes]
            }
        }
    }

    fn store(&mut self, place: Place, data: &[u8]) {
        let (memory, offset) = match place {
            Place::Command {
                command,
                offset_bytes,
            } => (&mut self.buffers[command.0 as usize], offset_bytes),
            Place::Scratch { offset_bytes } => (&mut self.scratch, offset_bytes),
            Place::Ring { offset_bytes } => (&mut self.ring, offset_bytes),
            Place::Clean { offset_bytes } => (&mut self.clean, offset_bytes),
            Place::Handed { .. } | Place::Zeroes => unreachable!("only sources"),
        };
        memory[offset as usize..][..data.len()].copy_from_slice(data);
    }
}

/// What an engine says to others than drives and hosts.
fn message_to_others(action: Action) -> Ask {
    match action {
        Action::RecallCore { core, row } => Ask::Recall { core, row },
        Action::HurryCores { below } => Ask::Lane {
            cores: u16::MAX,
            call: LaneCall::Hurry { below },
        },
        Action::CommitCores { flush } => Ask::Lane {
            cores: u16::MAX,
            call: LaneCall::Commit { flush },
        },
        Action::TailMoved { mask } => Ask::Lane {
            cores: mask,
            call: LaneCall::TailMoved,
        },
        Action::Committed { core, flush } => Ask::Lane {
            cores: 1 << core,
            call: LaneCall::Committed { flush },
        },
        Action::ReportMedia {
            member,
            row,
            offset_blocks,
            blocks,
        } => Ask::Repair(Request::Repair {
            row,
            member,
            offset_blocks,
            blocks,
        }),
        Action::Scrubbed { row, outcome } => Ask::Scrubbed { row, outcome },
        Action::WakeCores { mask, row } => Ask::Wake { mask, row },
        Action::WantRow { row, mode, takes } => Ask::Want { row, mode, takes },
        Action::Taken { row } => Ask::Taken { row },
        Action::PersistLost => Ask::PersistLost,
        Action::ReportFault { member, error } => Ask::Fault { member, error },
        Action::PersistIntent => Ask::PersistIntent,
        Action::RamWanted => Ask::RamWanted,
        Action::RamCommitted => Ask::RamCommitted,
        Action::KeptAgain(epoch) => Ask::KeptAgain(epoch),
        Action::DriveRead { .. }
        | Action::DriveWrite { .. }
        | Action::DriveZero { .. }
        | Action::DriveFlush { .. }
        | Action::Xor { .. }
        | Action::MulAdd { .. }
        | Action::Copy { .. }
        | Action::Compare { .. }
        | Action::Give { .. }
        | Action::Keep { .. }
        | Action::Seal { .. }
        | Action::RangeHeld
        | Action::Complete { .. } => unreachable!("the core itself carries these out"),
    }
}

fn blocks_of(bytes: &[u8]) -> Vec<Block> {
    bytes.chunks(BLOCK_BYTES).map(Block::new).collect()
}
