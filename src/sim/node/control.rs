//! The control core of a simulated node: group machine, superblocks, members and their drives, stop.

use super::{Asker, Effect, Mail, Node, Owner, Phase};
use crate::amf::engine::{GroupError, Request};
use crate::amf::group::{
    Action, Answer, DriveFacts, Event, MemberStatus, Report, RequestId, SuperblockIo, VdiskSize, VdiskSpec,
};
use crate::amf::ram::{Action as RamAction, Event as RamEvent};
use crate::amf::relayout::Event as RelayoutEvent;
use crate::amf::replication::ReplicationMode;
use crate::amf::superblock::{Name, PORTS_ALL, RECORD_BYTES, Uuid};
use crate::amf::{MemberIndex, MemberSet, ParityTrust, RowIndex};
use crate::drive::DriveError;
use crate::sim::drive::Command;
use crate::sim::random::mix;
use crate::sim::scenario::Mutant;
use crate::sim::stamp::{BLOCK_BYTES, Block};
use crate::vdisk::VirtualDisk;

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
    Flush,
    Retry,
    GiveUp,
}

impl Node {
    /// Feeds the group machine and carries out what it wants.
    pub(super) fn group_event(&mut self, event: Event, out: &mut Vec<Effect>) {
        let mut actions = Vec::new();
        self.group.handle(event, &mut actions);
        self.held.extend(actions);
        self.run_actions(out);
    }

    /// Carries out what the group machine wants, in order, until the cores have to answer first.
    fn run_actions(&mut self, out: &mut Vec<Effect>) {
        while self.awaited == 0 {
            let Some(action) = self.held.pop_front() else {
                break;
            };
            self.group_action(action, out);
        }
        self.background_needs(out);
    }

    /// Tells every core of a member's new drive. Nothing that relies on it is said before all of them know.
    fn move_member(&mut self, member: MemberIndex, drive: u16, out: &mut Vec<Effect>) {
        let at = usize::from(member.0);
        if at >= self.drives.len() {
            self.drives.resize(at + 1, None); // An expansion brings members.
        }
        self.drives[at] = Some(drive);
        self.await_cores(self.core_count());
        self.tell_all(Mail::MemberDrive { member, drive }, out);
    }

    /// Nothing more is done of what the group machine wants before so many answers have come.
    pub(super) fn await_cores(&mut self, answers: u16) {
        assert_eq!(self.awaited, 0, "one thing at a time");
        self.awaited = answers;
    }

    /// One of these answers has come.
    pub(super) fn core_answered(&mut self, out: &mut Vec<Effect>) {
        assert!(self.awaited > 0, "each core answers once");
        self.awaited -= 1;
        self.run_actions(out);
    }

    pub(super) fn core_count(&self) -> u16 {
        u16::try_from(self.cores.len()).expect("at most 16 cores")
    }

    /// Feeds the machine of acknowledging from memory, and carries out what it wants.
    pub(super) fn ram_event(&mut self, event: RamEvent, out: &mut Vec<Effect>) {
        match self.ram.handle(event) {
            Some(RamAction::Dirty) if self.mutant == Mutant::SilentRam => {
                self.ram_event(RamEvent::Allowed, out);
            }
            Some(RamAction::Dirty) => self.group_event(Event::RamDirty, out),
            Some(RamAction::Clean) => self.group_event(Event::RamClean, out),
            Some(RamAction::Tell { allowed }) => self.tell_all(Mail::AllowRam(allowed), out),
            None => {}
        }
    }

    /// Groups that nobody writes to stop to acknowledge from memory.
    fn tend_ram(&mut self, out: &mut Vec<Effect>) {
        if let Some(journal) = &self.entries {
            let event = RamEvent::Tick {
                entries: journal.entered(),
                is_open: self.phase == Phase::Open && !self.closing,
            };
            self.ram_event(event, out);
        }
    }

    /// A core's journal is about to forget rows that lost members miss: their marks have to be durable before.
    pub(super) fn persist_intent(&mut self, from: u16, out: &mut Vec<Effect>) {
        let request = self.request();
        self.marking.insert(request, from);
        self.group_event(Event::PersistIntent { request }, out);
    }

    pub(super) fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    fn group_action(&mut self, action: Action, out: &mut Vec<Effect>) {
        match action {
            Action::WriteSuperblock {
                io,
                drive,
                offset_bytes,
                record,
            } => self.write_superblock(io, drive, offset_bytes, &record, out),
            Action::MemberDrive { member, drive } => self.move_member(member, drive, out),
            Action::IntentDurable { request } => {
                let to = self.marking.remove(&request);
                let to = to.expect("only what a core asked for is answered");
                let mail = Mail::IntentDurable;
                out.push(Effect::Mail { from: 0, to, mail });
            }
            Action::RamAllowed => self.ram_event(RamEvent::Allowed, out),
            Action::RamCleared => self.ram_event(RamEvent::Cleared, out),
            Action::LostDurable { request } => {
                let to = self.listing.remove(&request);
                out.push(Effect::Mail {
                    from: 0,
                    to: to.expect("only what a core asked for is answered"),
                    mail: Mail::LostDurable,
                });
            }
            Action::Members(set) => self.announce(set, out),
            Action::Started => self.started(out),
            Action::VdiskAdded(record) => {
                self.disks.push(VirtualDisk::new(&record));
                if self.disks.len() == usize::from(self.disks_wanted) {
                    out.push(Effect::Started);
                    // An expansion may have ended shortly before the last stop.
                    self.grow_disk(out);
                }
            }
            Action::GroupFailed { why, members } => {
                self.phase = Phase::Failed(why);
                self.announce(members, out);
                self.relayout_event(RelayoutEvent::GroupFailed, out);
                // Hosts that are there go on, and are told that nothing can be done.
                out.push(Effect::Started);
                if self.closing {
                    out.push(Effect::Stopped { clean: false });
                }
            }
            Action::Stopped { clean } => {
                if !matches!(self.phase, Phase::Failed(_)) {
                    self.phase = Phase::Stopped;
                }
                out.push(Effect::Stopped { clean });
            }
            Action::VdiskResized(record) => self.disk_resized(&record, out),
            Action::VdiskChanged(_) => unreachable!("simulated nodes share no group"),
            Action::VdiskRemoved { .. } => unreachable!("no operator of a simulation deletes a disk"),
            Action::Layout { layout, expansion } => {
                self.relayout_event(RelayoutEvent::Durable { layout, expansion }, out);
            }
            Action::LanesOver(_) | Action::PageDurable { .. } => unreachable!("no other node is there"),
            Action::Restored => unreachable!("rows are restored before there is a node"),
            Action::RebuildNeeded(work) => {
                self.work.rebuild = Some(work);
                if work.partial {
                    out.push(Effect::PartialRebuild);
                }
            }
            Action::RebuildOver { .. } => self.work.rebuild = None,
            Action::Reply {
                result: Ok(Answer::VdiskCreated(_)),
                ..
            } => self.next_disk(out),
            Action::Report(Report::MemberRebuilt { member }) => out.push(Effect::Rebuilt(member)),
            Action::Reply { .. } | Action::Report(_) => {}
        }
    }

    fn started(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Open;
        if self.group.vdisks().len() < usize::from(self.disks_wanted) {
            self.next_disk(out);
        }
        for drive in std::mem::take(&mut self.planned) {
            self.add_spare(drive, out);
        }
        self.skip_resync(out);
    }

    /// Has the next virtual disk made, if one is missing.
    fn next_disk(&mut self, out: &mut Vec<Effect>) {
        let there = u8::try_from(self.group.vdisks().len()).expect("few disks");
        if there >= self.disks_wanted {
            return;
        }
        let is_last = there + 1 == self.disks_wanted;
        // Not a whole number of rows, as hosts like it.
        let rows = self.geometry().rows() / u64::from(self.disks_wanted);
        let blocks = rows * u64::from(self.geometry().row_blocks()) - 1;
        let spec = VdiskSpec {
            name: Name::parse(&format!("v{there}")).expect("letters and digits are a name"),
            size: if is_last {
                VdiskSize::LargestFree
            } else {
                VdiskSize::Blocks(blocks)
            },
            nsid: None,
            uuid: Uuid([7 + there; 16]),
            nguid: [70 + there; 16],
            ports: PORTS_ALL,
            replication: ReplicationMode::Sync,
        };
        let request = self.request();
        self.group_event(Event::CreateVdisk { request, spec }, out);
    }

    /// Gives the group a spare drive, whatever is on it.
    pub fn add_spare(&mut self, drive: DriveFacts, out: &mut Vec<Effect>) {
        let request = self.request();
        let event = Event::AddSpare {
            request,
            identity: self.fresh_identity(),
            drive: Box::new(drive),
            force: true,
        };
        self.group_event(event, out);
    }

    /// Brings a drive back that had left: to its own place if that is still empty, else as a spare.
    pub fn bring_back(&mut self, drive: DriveFacts, out: &mut Vec<Effect>) {
        let own = self.drives.iter().position(|own| *own == Some(drive.index));
        let Some(member) = own else {
            return self.add_spare(drive, out);
        };
        let request = self.request();
        let event = Event::ReplaceMember {
            request,
            member: MemberIndex(u8::try_from(member).expect("few members")),
            identity: self.fresh_identity(),
            drive: Box::new(drive),
            force: true,
        };
        self.group_event(event, out);
    }

    /// An operator wants a member out.
    pub fn fail_member(&mut self, member: MemberIndex, out: &mut Vec<Effect>) {
        let request = self.request();
        let event = Event::FailMember {
            request,
            member,
            force: false,
        };
        self.group_event(event, out);
    }

    /// An identity that no drive has: the time tells requests of different lives apart.
    pub(super) fn fresh_identity(&self) -> Uuid {
        let mut bytes = [0xab; 16];
        bytes[..8].copy_from_slice(&mix(self.now).to_le_bytes());
        bytes[8..].copy_from_slice(&mix(self.requests ^ self.now << 20).to_le_bytes());
        Uuid(bytes)
    }

    fn announce(&mut self, mut set: MemberSet, out: &mut Vec<Effect>) {
        if self.mutant == Mutant::TrustedParity {
            set.parity = ParityTrust::Everywhere;
        }
        self.lock.publish(set);
        self.tell_all(Mail::Members(set), out);
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
    }

    /// A core has changed the list of lost blocks.
    pub(super) fn persist_lost(&mut self, from: u16, out: &mut Vec<Effect>) {
        let request = self.request();
        self.listing.insert(request, from);
        self.group_event(Event::PersistLost { request }, out);
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

    /// Time goes by.
    pub fn tick(&mut self, out: &mut Vec<Effect>) {
        self.background_tick(out);
        self.relayout_tick(out);
        self.tend_ram(out);
        for core in 0..u16::try_from(self.cores.len()).expect("at most 16 cores") {
            self.cores[usize::from(core)].tick();
            self.pump(core, out);
        }
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
            Ok(())
            | Err(GroupError::TooManyMembersLost | GroupError::ParityNotTrusted | GroupError::Unreadable) => {
            }
            Err(_) => {
                let snapshot = self.group.snapshot();
                let lines = (0u8..).zip(&snapshot.members);
                let out_of_use = lines.filter(|(_, line)| line.status != MemberStatus::Active);
                let failed = out_of_use.fold(0, |mask, (index, _)| mask | 1 << index);
                // As long as the group can do without it.
                if self.survives(failed | 1 << member.0) {
                    out.push(Effect::Evicted(member));
                    self.member_fault(member, DriveError::Media, out);
                }
            }
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
        let cores = self.core_count();
        self.drainings += 1;
        let number = self.drainings;
        self.draining.insert(number, Draining { cores, then });
        for core in 0..cores {
            let at = &mut self.cores[usize::from(core)];
            let command = at.take_slot(Owner::Drain(number), Vec::new());
            at.submit(command, Request::Drain);
            self.pump(core, out);
        }
    }

    /// Has every core bring to its place what is in the journal by now, and flushes then for the background work.
    pub(super) fn retire_and_flush(&mut self, out: &mut Vec<Effect>) {
        if !self.journaled {
            return self.background_flush();
        }
        self.drainings += 1;
        let (cores, then) = (self.core_count(), Then::Flush);
        self.draining.insert(self.drainings, Draining { cores, then });
        let number = self.drainings;
        self.tell_all(Mail::Retire { number }, out);
    }

    /// Has one core do so.
    pub(super) fn retire(&mut self, core: u16, number: u32) {
        let at = &mut self.cores[usize::from(core)];
        let command = at.take_slot(Owner::Drain(number), Vec::new());
        at.submit(command, Request::Retire);
    }

    pub(super) fn core_drained(&mut self, number: u32, done: bool, out: &mut Vec<Effect>) {
        let draining = self.draining.get_mut(&number);
        let draining = draining.expect("cores drain because they were asked to");
        draining.cores -= 1;
        if !done {
            // What is left stays in the journal, and is replayed at the next start.
            draining.then = match draining.then {
                Then::Flush | Then::Retry => Then::Retry,
                Then::Scrub | Then::Close | Then::GiveUp => Then::GiveUp,
            };
        }
        if draining.cores == 0 {
            let then = draining.then;
            self.draining.remove(&number);
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
            Then::Flush => {
                self.background_flush();
                self.pump(0, out);
            }
            Then::Retry => self.background_flushed(false, out),
            Then::GiveUp => out.push(Effect::Stopped { clean: false }),
        }
    }

    pub(super) fn scrub_row(&mut self, row: u64, out: &mut Vec<Effect>) {
        let row = RowIndex(row);
        if row.0 < self.geometry().rows() {
            let command = self.cores[0].take_slot(Owner::Scrub(row.0), Vec::new());
            self.cores[0].submit(command, Request::Scrub { row, repair: false });
            self.pump(0, out);
        }
    }

    /// Closes the group: hosts are gone, and what they wrote without a Flush must be durable before "clean" is.
    pub fn close(&mut self, out: &mut Vec<Effect>) {
        self.closing = true;
        match self.phase {
            Phase::Open => self.background_stop(out),
            Phase::Opening => self.group_event(Event::Stop, out),
            Phase::Failed(_) | Phase::Stopped => out.push(Effect::Stopped { clean: false }),
        }
    }

    /// Goes on with closing once the background work has ended.
    pub(super) fn close_when_idle(&mut self, out: &mut Vec<Effect>) {
        let may_close = self.closing && self.phase == Phase::Open && self.background_is_idle();
        if may_close && !std::mem::replace(&mut self.is_closing, true) {
            self.drain(Then::Close, out);
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
