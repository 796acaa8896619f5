//! The control core of a simulated node: group machine, superblocks, resynchronisation, stop.

use super::{Asker, Effect, Mail, Node, Owner, Phase};
use crate::amf::engine::{GroupError, Request};
use crate::amf::group::{Action, Event, RequestId, SuperblockIo, VdiskSize, VdiskSpec};
use crate::amf::superblock::{Name, RECORD_BYTES, Uuid};
use crate::amf::{MemberIndex, MemberSet, RowIndex};
use crate::drive::DriveError;
use crate::sim::drive::Command;
use crate::sim::scenario::Mutant;
use crate::sim::stamp::{BLOCK_BYTES, Block};
use crate::vdisk::VirtualDisk;

/// Rows that are resynchronised at a time.
const RESYNC_WINDOW: u32 = 2;
/// Rows after which the progress is made durable.
const RESYNC_STEP_ROWS: u64 = 4;

/// A resynchronisation that is under way.
#[derive(Debug)]
pub(super) struct Resync {
    next_row: u64,
    in_flight: u32,
    /// First row that the engine could not do.
    failed_row: Option<u64>,
    durable_row: u64,
    flushing: Option<u64>,
}

/// Cores that bring dirty data to its place.
#[derive(Debug)]
pub(super) struct Draining {
    cores: u16,
    then: Then,
}

/// What comes when nothing is dirty any more.
#[derive(Clone, Copy, Debug)]
enum Then {
    Scrub,
    Close,
    GiveUp,
}

impl Node {
    /// Feeds the group machine and carries out what it wants.
    pub(super) fn group_event(&mut self, event: Event, out: &mut Vec<Effect>) {
        let mut actions = Vec::new();
        self.group.handle(event, &mut actions);
        for action in actions {
            self.group_action(action, out);
        }
    }

    fn group_action(&mut self, action: Action, out: &mut Vec<Effect>) {
        match action {
            Action::WriteSuperblock {
                io,
                drive,
                offset_bytes,
                record,
            } => self.write_superblock(io, drive, offset_bytes, &record, out),
            Action::MemberDrive { .. } => unreachable!("no spare drive is there to take a place"),
            Action::RamAllowed | Action::IntentDurable { .. } => {
                unreachable!("nobody acknowledges from memory or marks rows")
            }
            Action::Members(set) => self.announce(set, out),
            Action::Started => self.started(out),
            Action::VdiskAdded(record) => {
                self.disk = Some(VirtualDisk::new(&record));
                out.push(Effect::Started);
            }
            Action::GroupFailed { why, members } => {
                self.phase = Phase::Failed(why);
                self.resync = None;
                self.announce(members, out);
                // Hosts that are there go on, and are told that nothing can be done.
                out.push(Effect::Started);
            }
            Action::Stopped { clean } => {
                if !matches!(self.phase, Phase::Failed(_)) {
                    self.phase = Phase::Stopped;
                }
                out.push(Effect::Stopped { clean });
            }
            Action::VdiskRemoved { .. } => unreachable!("no host of a simulation deletes its disk"),
            // A drive that comes back is rebuilt by nobody yet: it stays lost for every row.
            Action::RebuildNeeded(_) | Action::RebuildOver { .. } => {}
            Action::Reply { .. } | Action::Report(_) => {}
        }
    }

    fn started(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Open;
        if self.group.vdisks().is_empty() {
            let spec = VdiskSpec {
                name: Name::parse("v").expect("a letter is a name"),
                size: VdiskSize::LargestFree,
                nsid: None,
                uuid: Uuid([7; 16]),
                nguid: [9; 16],
            };
            let request = RequestId(1);
            self.group_event(Event::CreateVdisk { request, spec }, out);
        }
        if let Some(left) = self.group.snapshot().resync {
            self.resync = Some(Resync {
                next_row: left.next_row,
                in_flight: 0,
                failed_row: None,
                durable_row: left.next_row,
                flushing: None,
            });
            if self.mutant == Mutant::NoResync {
                self.resync = None;
                self.group_event(Event::ResyncDone, out);
            }
            self.resync_step(out);
        }
    }

    fn announce(&mut self, mut set: MemberSet, out: &mut Vec<Effect>) {
        set.parity_trusted |= self.mutant == Mutant::TrustedParity;
        self.lock.publish(set);
        for to in 0..self.cores.len() {
            out.push(Effect::Mail {
                from: 0,
                to: u16::try_from(to).expect("at most 16 cores"),
                mail: Mail::Members(set),
            });
        }
    }

    fn write_superblock(
        &mut self,
        io: SuperblockIo,
        drive: u16,
        offset_bytes: u64,
        record: &[u8; RECORD_BYTES],
        out: &mut Vec<Effect>,
    ) {
        let forget = self.mutant == Mutant::NoSuperblocks && self.phase == Phase::Open;
        let mut data: Vec<Block> = record.chunks(BLOCK_BYTES).map(Block::new).collect();
        if forget {
            data.clear();
        }
        let lba = offset_bytes / BLOCK_BYTES as u64;
        out.push(Effect::Drive {
            drive,
            command: Command::Write { lba, data, fua: true },
            asker: Asker::Superblock(io),
        });
    }

    /// A superblock write was answered.
    pub fn superblock_done(
        &mut self,
        io: SuperblockIo,
        result: Result<(), DriveError>,
        out: &mut Vec<Effect>,
    ) {
        self.group_event(Event::SuperblockWritten { io, result }, out);
        self.resync_step(out);
    }

    /// A core reports that a member failed a command.
    pub(super) fn member_fault(&mut self, member: MemberIndex, error: DriveError, out: &mut Vec<Effect>) {
        if self.mutant == Mutant::EarlyMembers
            && let Some(members) = self.group.members()
        {
            let failed = members.failed | 1 << member.0;
            let set = MemberSet { failed, ..members };
            for core in &mut self.cores {
                core.set_members(MemberSet {
                    generation: set.generation + 1,
                    ..set
                });
            }
            for core in 0..u16::try_from(self.cores.len()).expect("at most 16 cores") {
                self.pump(core, out);
            }
        }
        self.group_event(Event::MemberFault { member, error }, out);
    }

    /// Time goes by: rows that could not be resynchronised are tried again.
    pub fn tick(&mut self, out: &mut Vec<Effect>) {
        if let Some(resync) = self.resync.as_mut().filter(|resync| resync.in_flight == 0)
            && let Some(row) = resync.failed_row.take()
        {
            resync.next_row = row; // The members may have changed since.
        }
        self.resync_step(out);
        for core in 0..u16::try_from(self.cores.len()).expect("at most 16 cores") {
            self.cores[usize::from(core)].tick();
            self.pump(core, out);
        }
    }

    /// Hands rows to this core's engine until the window is full, and makes progress durable now and then.
    fn resync_step(&mut self, out: &mut Vec<Effect>) {
        if self.group.snapshot().resync.is_none() {
            self.resync = None; // The group has decided that nothing is left to do.
        }
        let rows = self.geometry.rows();
        let core = &mut self.cores[0];
        let Some(resync) = &mut self.resync else { return };
        let step_end = rows.min(resync.durable_row + RESYNC_STEP_ROWS);
        while resync.in_flight < RESYNC_WINDOW
            && resync.failed_row.is_none()
            && resync.flushing.is_none()
            && resync.next_row < step_end
        {
            let row = RowIndex(resync.next_row);
            let command = core.take_slot(Owner::Resync(row.0), Vec::new());
            core.submit(command, Request::Resync { row });
            resync.next_row += 1;
            resync.in_flight += 1;
        }
        let idle = resync.in_flight == 0 && resync.flushing.is_none() && resync.failed_row.is_none();
        if idle && resync.next_row >= step_end {
            resync.flushing = Some(resync.next_row);
            let command = core.take_slot(Owner::ResyncFlush, Vec::new());
            core.submit(command, Request::FlushDrives);
        }
        self.pump(0, out);
    }

    pub(super) fn row_resynchronised(&mut self, row: u64, done: bool, out: &mut Vec<Effect>) {
        let Some(resync) = &mut self.resync else { return };
        resync.in_flight -= 1;
        if !done {
            resync.failed_row = Some(resync.failed_row.map_or(row, |first| first.min(row)));
        }
        self.resync_step(out);
    }

    pub(super) fn resync_flushed(&mut self, done: bool, out: &mut Vec<Effect>) {
        let rows = self.geometry.rows();
        let Some(resync) = &mut self.resync else { return };
        let upto = resync.flushing.take().expect("one flush at a time");
        if !done {
            return; // Comes again with the next tick.
        }
        resync.durable_row = upto;
        if upto < rows {
            self.group_event(Event::ResyncProgress { next_row: upto }, out);
        } else {
            self.resync = None;
            self.group_event(Event::ResyncDone, out);
        }
        self.resync_step(out);
    }

    /// Has the blocks that a member could not give back written anew.
    pub(super) fn repair(&mut self, repair: Request) {
        let Request::Repair { member, .. } = repair else {
            unreachable!("only repairs are asked for")
        };
        let command = self.cores[0].take_slot(Owner::Repair(member), Vec::new());
        self.cores[0].submit(command, repair);
    }

    /// A member whose blocks cannot be written anew has failed.
    pub(super) fn repaired(
        &mut self,
        member: MemberIndex,
        result: Result<(), GroupError>,
        out: &mut Vec<Effect>,
    ) {
        match result {
            // Too much is lost to regenerate these blocks, and what can be read of the member may still be needed.
            Ok(()) | Err(GroupError::TooManyMembersLost | GroupError::ParityNotTrusted) => {}
            Err(_) => self.member_fault(member, DriveError::Media, out),
        }
    }

    /// Brings all dirty data to its place, then looks at every row, one after the other, and writes nothing;
    /// [`Node::scrubbed`] says what was found.
    pub fn scrub(&mut self, out: &mut Vec<Effect>) {
        self.scrubbed.clear();
        self.drain(Then::Scrub, out);
    }

    /// Has every core bring its dirty data to its place.
    fn drain(&mut self, then: Then, out: &mut Vec<Effect>) {
        if !self.journaled {
            return self.drained(then, out);
        }
        let cores = u16::try_from(self.cores.len()).expect("at most 16 cores");
        self.draining = Some(Draining { cores, then });
        for core in 0..cores {
            let at = &mut self.cores[usize::from(core)];
            let command = at.take_slot(Owner::Drain, Vec::new());
            at.submit(command, Request::Drain);
            self.pump(core, out);
        }
    }

    pub(super) fn core_drained(&mut self, done: bool, out: &mut Vec<Effect>) {
        let draining = self
            .draining
            .as_mut()
            .expect("cores drain because they were asked to");
        draining.cores -= 1;
        if !done {
            // What is left stays in the journal, and is replayed at the next start.
            draining.then = Then::GiveUp;
        }
        if draining.cores == 0 {
            let then = draining.then;
            self.draining = None;
            self.drained(then, out);
        }
    }

    fn drained(&mut self, then: Then, out: &mut Vec<Effect>) {
        match then {
            Then::Scrub => self.scrub_row(0, out),
            Then::Close => {
                let command = self.cores[0].take_slot(Owner::Close, Vec::new());
                self.cores[0].submit(command, Request::FlushDrives);
                self.pump(0, out);
            }
            Then::GiveUp => out.push(Effect::Stopped { clean: false }),
        }
    }

    pub(super) fn scrub_row(&mut self, row: u64, out: &mut Vec<Effect>) {
        let row = RowIndex(row);
        if row.0 < self.geometry.rows() {
            let command = self.cores[0].take_slot(Owner::Scrub(row.0), Vec::new());
            self.cores[0].submit(command, Request::Scrub { row, repair: false });
            self.pump(0, out);
        }
    }

    /// Closes the group: hosts are gone, and what they wrote without a Flush must be durable before "clean" is.
    pub fn close(&mut self, out: &mut Vec<Effect>) {
        self.resync = None;
        match self.phase {
            Phase::Open => self.drain(Then::Close, out),
            Phase::Opening => self.group_event(Event::Stop, out),
            Phase::Failed(_) | Phase::Stopped => out.push(Effect::Stopped { clean: false }),
        }
    }

    pub(super) fn close_flushed(&mut self, done: bool, out: &mut Vec<Effect>) {
        if done {
            self.group_event(Event::Stop, out);
        } else {
            out.push(Effect::Stopped { clean: false });
        }
    }
}
