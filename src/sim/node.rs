//! A simulated node: the real engines, lock table, group machine and superblocks, wired as the program wires them.
//!
//! Owns what a process has in memory, and so what a power cut takes. Calls come in and [`Effect`]s go out: the world
//! carries them out, each in its own time, and answers. What `target` does in `array.rs`, `assemble.rs` and
//! `control/groups.rs` is done here in the same order, without sockets; where a [`Mutant`] is asked for, one step of
//! it is done wrongly.

mod background;
mod boot;
mod control;
mod core;
mod expansion;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

pub(in crate::sim) use boot::drive_bytes;
pub use boot::{BootError, DRIVE_EXTRA_BYTES, STRIP_BYTES, drive_facts};
pub(in crate::sim) use boot::{core_of, creation, find_with, reader_of, write_back_of};
pub(in crate::sim) use core::Ask;
pub use core::Core;

use super::drive::Command;
use super::scenario::Mutant;
use super::stamp::Block;
use crate::amf::background::Process;
use crate::amf::engine::{CommandId, GroupError, IoTag, Request, ScrubOutcome};
use crate::amf::expansion::{HeldRows, Layout};
use crate::amf::geometry::Geometry;
use crate::amf::group::{Action, DriveFacts, FailReason, Group, RequestId, SuperblockIo};
use crate::amf::journal::replay::IoId;
use crate::amf::journal::{Entry, JournalShared, parse};
use crate::amf::lock::LockTable;
use crate::amf::ram::{Event as RamEvent, Ram};
use crate::amf::relayout::{Event as RelayoutEvent, Relayout};
use crate::amf::{MemberIndex, MemberSet, RowIndex};
use crate::drive::DriveError;
use crate::vdisk::VirtualDisk;

/// What the world does for the node.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask a drive, and answer with [`Node::drive_done`] or [`Node::superblock_done`].
    Drive {
        /// Which drive.
        drive: u16,
        /// What.
        command: Command,
        /// Who gets the answer.
        asker: Asker,
    },
    /// Deliver with [`Node::deliver`], in order between the same two cores.
    Mail {
        /// From this core.
        from: u16,
        /// To this core.
        to: u16,
        /// What.
        mail: Mail,
    },
    /// A host's command is over.
    Done {
        /// The host's name for it.
        command: u32,
        /// How.
        result: Result<(), GroupError>,
        /// What was read.
        data: Vec<u8>,
    },
    /// Hosts may come.
    Started,
    /// Call [`Node::background_wake`] at this instant.
    WakeAt(u64),
    /// This member is rebuilt, durably.
    Rebuilt(MemberIndex),
    /// A member is to be rebuilt in marked rows only.
    PartialRebuild,
    /// An expansion has come to its end.
    Expanded,
    /// A disk has got larger.
    Grown,
    /// A member is put out of the group because its blocks could not be written anew.
    Evicted(MemberIndex),
    /// The group is closed; whether in good order.
    Stopped {
        /// "Clean" is durable.
        clean: bool,
    },
}

/// Who waits for a drive's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// An engine.
    Engine {
        /// On this core.
        core: u16,
        /// Its name for the command.
        io: IoTag,
    },
    /// The group machine.
    Superblock(SuperblockIo),
    /// The replay of the journal.
    Replay(IoId),
    /// Nobody any more.
    Nobody,
}

/// What cores tell each other about the lanes of the journal.
#[derive(Clone, Copy, Debug)]
pub enum LaneCall {
    /// Retire what is below this number.
    Hurry {
        /// The number.
        below: u64,
    },
    /// That was done.
    TailMoved,
    /// Commit what is there, for this flush.
    Commit {
        /// The flush.
        flush: u32,
    },
    /// That was done.
    Committed {
        /// The flush.
        flush: u32,
    },
}

/// What cores tell each other.
#[derive(Clone, Copy, Debug)]
pub enum Mail {
    /// A row was released.
    Wake(RowIndex),
    /// A row that the core keeps is wanted.
    Recall(RowIndex),
    /// About the lanes of the journal, from this core.
    Lane {
        /// Who says it.
        from: u16,
        /// What it says.
        call: LaneCall,
    },
    /// These members are durable.
    Members(MemberSet),
    /// This drive carries a member from now on.
    MemberDrive {
        /// Which member.
        member: MemberIndex,
        /// Which drive.
        drive: u16,
    },
    /// To the control core: that is known now.
    MemberDriveSet,
    /// What is in the journal by now has to be in its place.
    Retire {
        /// Names it.
        number: u32,
    },
    /// A wave of an expansion needs these rows for itself.
    HoldRows {
        /// The rows.
        rows: HeldRows,
        /// Names the wave.
        wave: u64,
    },
    /// To the control core: nothing of this core is left in them.
    RowsHeld {
        /// Names the wave.
        wave: u64,
    },
    /// Blocks are looked up like this from now on.
    SetLayout(Layout),
    /// To the control core: that is known now.
    LayoutSet,
    /// To the control core: a member failed a command.
    Fault {
        /// Which.
        member: MemberIndex,
        /// What it said.
        error: DriveError,
    },
    /// To the control core: a core has a write that it could acknowledge from memory.
    RamWanted,
    /// Whether the core may.
    AllowRam(bool),
    /// To the control core: a core that may not any more has committed everything.
    RamCommitted,
    /// To the control core: what this core has marked has to be durable.
    PersistIntent {
        /// Who says it.
        from: u16,
    },
    /// It is.
    IntentDurable,
    /// To the control core: blocks of a member have to be written anew.
    Media(Request),
    /// To the control core: the list of lost blocks is to be durable.
    PersistLost {
        /// Who wants that.
        from: u16,
    },
    /// It is, as it was when the core asked.
    LostDurable,
}

/// Who a command of an engine belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Owner {
    /// A host; the number is its own name for the command.
    Host(u32),
    /// The comparison of a host's Compare and Write.
    Comparison(u32),
    /// Its write.
    SwapWrite(u32),
    /// Background work on a row.
    Row(Process, u64),
    /// The same, of a node that does not wait for it.
    Forgotten,
    /// The flush before progress is made durable.
    BackgroundFlush,
    /// A row of an expansion.
    Move,
    /// The flush after rows of an expansion.
    MoveFlush,
    /// Dirty data of a core is brought to its place, for the draining of this number.
    Drain(u32),
    /// The flush before the group is closed.
    Close,
    /// Blocks of this member are written anew.
    Repair(MemberIndex),
    /// The last look at a row.
    Scrub(u64),
}

/// How far the node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its first generation is being written.
    Opening,
    /// It serves.
    Open,
    /// The group cannot go on.
    Failed(FailReason),
    /// It was closed.
    Stopped,
}

/// One life of the node.
#[derive(Debug)]
pub struct Node {
    lock: Arc<LockTable>,
    cores: Vec<Core>,
    group: Group,
    phase: Phase,
    now: u64,
    work: background::Work,
    /// Carries out the waves of expansions.
    relayout: Relayout,
    /// How far it is with acknowledging from memory.
    ram: Ram,
    /// Counts what enters the journal.
    entries: Option<Arc<JournalShared>>,
    /// What the group machine wants and what is held back until cores have answered; how many answers are awaited.
    held: VecDeque<Action>,
    awaited: u16,
    /// Drive of each member, as the control core sees it.
    drives: Vec<Option<u16>>,
    disks: Vec<VirtualDisk>,
    /// As many disks as there shall be.
    disks_wanted: u8,
    /// The group may be expanded, so that its last disk may grow.
    grows: bool,
    /// Drives that become spares once the group is there.
    planned: Vec<DriveFacts>,
    /// Names the next request of an operator.
    requests: u64,
    /// Cores that wait for the list of lost blocks to be durable, by their requests.
    listing: BTreeMap<RequestId, u16>,
    /// Where a host's command runs.
    places: BTreeMap<u32, (u16, CommandId)>,
    /// Commands that were answered before they had ended, by the mutant that does so.
    acknowledged: BTreeSet<u32>,
    /// How the comparison of a Compare and Write went, until its write ends.
    compared: BTreeMap<u32, Result<(), GroupError>>,
    /// What the last scrub found, row by row.
    scrubbed: Vec<(RowIndex, ScrubOutcome)>,
    /// Cores that wait until what lost members miss is durable.
    marking: BTreeMap<RequestId, u16>,
    /// Cores that still bring dirty data to its place, and what comes then.
    draining: BTreeMap<u32, control::Draining>,
    drainings: u32,
    /// It is to be closed; it is being closed.
    closing: bool,
    is_closing: bool,
    /// Writes end in the journal.
    journaled: bool,
    /// Where the journal is on each drive, in blocks of the drive.
    journal: Range<u64>,
    mutant: Mutant,
    /// What cores know of an expansion that is not yet durable, for the mutant that tells them too early.
    late_frontier: Option<u64>,
    /// Counts wake-ups, for the mutant that loses some.
    wakes: u32,
}

impl Node {
    /// The shape with all members.
    pub fn geometry(&self) -> Geometry {
        self.group.geometry()
    }

    /// How far it has come.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The members as announced last.
    pub const fn members(&self) -> Option<MemberSet> {
        self.group.members()
    }

    /// The virtual disks, once all are there.
    pub fn disks(&self) -> &[VirtualDisk] {
        if self.disks.len() == usize::from(self.disks_wanted) {
            &self.disks
        } else {
            &[]
        }
    }

    /// The disk that has this block of all of them together, the block there, and how many the disk has from it on. Panics beyond the
    /// last.
    pub fn locate(&self, lba: u64) -> (VirtualDisk, u64, u64) {
        let mut lba = lba;
        for disk in self.disks() {
            if lba < disk.blocks() {
                return (*disk, lba, disk.blocks() - lba);
            }
            lba -= disk.blocks();
        }
        unreachable!("hosts stay inside the disks")
    }

    /// Time has gone on.
    pub const fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    /// What the scrub has found so far, row by row.
    pub fn scrubbed(&self) -> &[(RowIndex, ScrubOutcome)] {
        &self.scrubbed
    }

    /// Panics unless all locks and all memory are back, which they are when nothing is under way.
    pub fn assert_idle(&self) {
        assert!(
            self.lock.is_idle(),
            "all locks are back when nothing is under way"
        );
        assert!(
            self.cores.iter().all(|core| core.outstanding.is_empty()),
            "no drive owes an answer when nothing is under way"
        );
    }

    /// A host's command arrives at a core. Its first buffer is what is written or compared with, the second what a
    /// Compare and Write writes.
    pub fn submit(
        &mut self,
        core: u16,
        command: u32,
        request: impl FnOnce(CommandId) -> Request,
        buffers: [Vec<u8>; 2],
        out: &mut Vec<Effect>,
    ) {
        let [first, second] = buffers;
        let is_swap = !second.is_empty();
        let at = &mut self.cores[usize::from(core)];
        let owner = if is_swap {
            Owner::Comparison(command)
        } else {
            Owner::Host(command)
        };
        let id = at.take_slot(owner, first);
        let partner = if is_swap {
            at.take_slot(Owner::SwapWrite(command), second)
        } else {
            id
        };
        let request = request(partner);
        self.places.insert(command, (core, id));
        let writes = matches!(request, Request::Write { .. } | Request::Zero { .. });
        at.submit(id, request);
        if writes && self.mutant == Mutant::EarlyAcknowledge {
            self.acknowledged.insert(command);
            out.push(Effect::Done {
                command,
                result: Ok(()),
                data: Vec::new(),
            });
        }
        self.pump(core, out);
    }

    /// The host is gone: nothing more of its command is begun.
    pub fn give_up(&mut self, command: u32, out: &mut Vec<Effect>) {
        let Some((core, id)) = self.places.get(&command).copied() else {
            return;
        };
        self.cores[usize::from(core)].give_up(id);
        self.pump(core, out);
    }

    /// A drive has answered an engine.
    pub fn drive_done(
        &mut self,
        core: u16,
        io: IoTag,
        result: Result<Vec<Block>, DriveError>,
        out: &mut Vec<Effect>,
    ) {
        self.cores[usize::from(core)].drive_done(io, result);
        self.pump(core, out);
    }

    /// A message arrives at a core.
    pub fn deliver(&mut self, core: u16, mail: Mail, out: &mut Vec<Effect>) {
        let at = &mut self.cores[usize::from(core)];
        match mail {
            Mail::Wake(row) => at.wake(row),
            Mail::Recall(row) => at.recall(row),
            Mail::Lane { from, call } => at.lane(from, call),
            Mail::Members(set) => {
                at.set_members(set);
                self.background_needs(out);
            }
            Mail::MemberDrive { member, drive } => at.move_member(member, drive),
            Mail::MemberDriveSet => self.core_answered(out),
            Mail::Retire { number } => self.retire(core, number),
            Mail::HoldRows { rows, wave } => at.hold_rows(rows, wave),
            Mail::RowsHeld { wave } => self.relayout_event(RelayoutEvent::Held { wave }, out),
            Mail::SetLayout(layout) => {
                at.set_layout(layout);
                out.push(Effect::Mail {
                    from: core,
                    to: 0,
                    mail: Mail::LayoutSet,
                });
            }
            Mail::RamWanted => self.ram_event(RamEvent::Wanted, out),
            Mail::AllowRam(allowed) => at.allow_ram(allowed),
            Mail::RamCommitted => self.ram_event(RamEvent::Committed, out),
            Mail::PersistIntent { from } => self.persist_intent(from, out),
            Mail::IntentDurable => at.intent_durable(),
            Mail::LayoutSet => self.relayout_event(RelayoutEvent::LayoutSet, out),
            Mail::Fault { member, error } => self.member_fault(member, error, out),
            Mail::Media(repair) => self.repair(repair),
            Mail::PersistLost { from } => self.persist_lost(from, out),
            Mail::LostDurable => at.lost_durable(),
        }
        self.pump(core, out);
    }

    /// Carries out what a core's engine asks for, until it asks for nothing more.
    fn pump(&mut self, core: u16, out: &mut Vec<Effect>) {
        let mut asked = Vec::new();
        loop {
            self.cores[usize::from(core)].work(&mut asked);
            if self.mutant == Mutant::NoIntent
                && let Some(map) = self.group.intent()
            {
                map.clear();
            }
            if asked.is_empty() {
                break;
            }
            for ask in asked.drain(..) {
                self.carry_out(core, ask, out);
            }
        }
        for _ in 0..self.cores[usize::from(core)].members_moved() {
            out.push(Effect::Mail {
                from: core,
                to: 0,
                mail: Mail::MemberDriveSet,
            });
        }
    }

    fn carry_out(&mut self, core: u16, ask: core::Ask, out: &mut Vec<Effect>) {
        let tell = |to: u16, mail: Mail| Effect::Mail { from: core, to, mail };
        match ask {
            core::Ask::Drive { io, member, command } => self.ask_drive(core, io, member, command, out),
            core::Ask::Wake { mask, row } => {
                for to in (0..16u16).filter(|to| mask >> to & 1 == 1) {
                    self.wakes += 1;
                    let lost = self.mutant == Mutant::LostWakes && self.wakes.is_multiple_of(4);
                    if !lost {
                        out.push(tell(to, Mail::Wake(row)));
                    }
                }
            }
            core::Ask::Recall { core: to, row } => out.push(tell(to, Mail::Recall(row))),
            core::Ask::Lane { cores, call } => {
                let others = (0..u16::try_from(self.cores.len()).expect("few cores"))
                    .filter(|to| *to != core && cores >> to & 1 == 1);
                out.extend(others.map(|to| Effect::Mail {
                    from: core,
                    to,
                    mail: Mail::Lane { from: core, call },
                }));
            }
            core::Ask::Fault { member, error } => out.push(tell(0, Mail::Fault { member, error })),
            core::Ask::Repair(repair) => out.push(tell(0, Mail::Media(repair))),
            core::Ask::RamWanted => out.push(tell(0, Mail::RamWanted)),
            core::Ask::RamCommitted => out.push(tell(0, Mail::RamCommitted)),
            core::Ask::PersistIntent => out.push(tell(0, Mail::PersistIntent { from: core })),
            core::Ask::RowsHeld { wave } => out.push(tell(0, Mail::RowsHeld { wave })),
            core::Ask::PersistLost => out.push(tell(0, Mail::PersistLost { from: core })),
            core::Ask::Want { .. }
            | core::Ask::Give { .. }
            | core::Ask::Keep(..)
            | core::Ask::KeptAgain(_)
            | core::Ask::Taken { .. } => {
                unreachable!("a group of one node has all of its rows")
            }
            core::Ask::Scrubbed { row, outcome } => {
                self.work.outcomes.insert(row.0, outcome);
            }
            core::Ask::Complete { owner, result, data } => self.completed(owner, result, data, out),
        }
    }

    /// Tells every core.
    fn tell_all(&self, mail: Mail, out: &mut Vec<Effect>) {
        out.extend((0..self.core_count()).map(|to| Effect::Mail { from: 0, to, mail }));
    }

    fn ask_drive(
        &mut self,
        core: u16,
        io: IoTag,
        member: MemberIndex,
        mut command: Command,
        out: &mut Vec<Effect>,
    ) {
        let at = &mut self.cores[usize::from(core)];
        let drive = at.drives.get(usize::from(member.0)).copied().flatten();
        let Some(drive) = drive else {
            return at.drive_done(io, Err(DriveError::Gone));
        };
        let mut asker = Asker::Engine { core, io };
        match &mut command {
            Command::Write { lba, data, fua } => {
                *fua &= self.mutant != Mutant::NoForce;
                let is_batch = self.journal.contains(lba);
                let early =
                    self.mutant == Mutant::EarlyRelease || self.mutant == Mutant::EarlyJournal && is_batch;
                if early {
                    asker = Asker::Nobody;
                    at.drive_done(io, Ok(Vec::new()));
                }
                if self.mutant == Mutant::NoPartialParity && is_batch && is_of_checks(data) {
                    return at.drive_done(io, Ok(Vec::new()));
                }
            }
            Command::Flush if self.mutant == Mutant::NoFlush => return at.drive_done(io, Ok(Vec::new())),
            Command::Flush | Command::Read { .. } => {}
        }
        out.push(Effect::Drive {
            drive,
            command,
            asker,
        });
    }

    fn completed(
        &mut self,
        owner: Owner,
        result: Result<(), GroupError>,
        data: Vec<u8>,
        out: &mut Vec<Effect>,
    ) {
        match owner {
            Owner::Host(command) => {
                self.places.remove(&command);
                if !self.acknowledged.remove(&command) {
                    out.push(Effect::Done {
                        command,
                        result,
                        data,
                    });
                }
            }
            Owner::Comparison(command) => {
                self.compared.insert(command, result);
            }
            Owner::SwapWrite(command) => {
                self.places.remove(&command);
                let compared = self.compared.remove(&command);
                let compared = compared.expect("both halves end, the comparison first");
                out.push(Effect::Done {
                    command,
                    result: compared.and(result),
                    data: Vec::new(),
                });
            }
            Owner::Row(process, row) => self.row_done((process, row), result, out),
            Owner::Forgotten => {}
            Owner::BackgroundFlush => self.background_flushed(result.is_ok(), out),
            Owner::Move => self.relayout_event(RelayoutEvent::Moved(result), out),
            Owner::MoveFlush => self.relayout_event(RelayoutEvent::Flushed(result), out),
            Owner::Repair(member) => self.repaired(member, result, out),
            Owner::Scrub(row) => {
                let found = self.work.outcomes.remove(&row);
                self.scrubbed
                    .extend(found.map(|outcome| (RowIndex(row), outcome)));
                self.scrub_row(row + 1, out);
            }
            Owner::Drain(number) => self.core_drained(number, result.is_ok(), out),
            Owner::Close => self.close_flushed(result.is_ok(), out),
        }
    }
}

/// Whether a batch of the journal says nothing but what check strips hold after destages.
fn is_of_checks(batch: &[Block]) -> bool {
    let header: Vec<u8> = batch.iter().take(1).flat_map(|block| *block.bytes()).collect();
    let of_checks = |entry: &Entry| matches!(entry, Entry::Check { .. } | Entry::Destage { .. });
    parse(&header).is_ok_and(|batch| batch.entries.iter().all(of_checks))
}
