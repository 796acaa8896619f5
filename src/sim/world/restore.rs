//! Starts of a group of which an expansion has left rows in the scratch area: they go to their place before anything else is done.
//!
//! As `target::restore` and `target::assemble` do it, step by step: a run of the real machine, the superblocks that say so, and
//! another look at the drives.

use super::{Ending, Stage, Violation, World};
use crate::amf::expansion::{ExpansionRecord, Restore};
use crate::amf::group::{Action, Candidate, Event, Group, SuperblockIo};
use crate::amf::journal::replay::ReplayError;
use crate::amf::superblock::RECORD_BYTES;
use crate::drive::DriveError;
use crate::sim::drive::{Command, Drive};
use crate::sim::node::Asker;
use crate::sim::replaying::{Machine, Replaying};
use crate::sim::stamp::{BLOCK_BYTES, Block};

impl World {
    /// Begins a step of what is due for the scratch area.
    pub(super) fn begin_restore(&mut self, candidate: Candidate, machine: Restore) {
        let machine = Machine::Restore(machine);
        self.replaying = Some(Replaying::new(machine, candidate));
        self.start_replay();
    }

    /// Rows are in their place, or the area is wiped: that has to be durable.
    pub(super) fn restored(&mut self, candidate: Candidate, after: ExpansionRecord) {
        let now = self.now;
        self.trace.note(&[now, 12, after.frontier], || {
            format!("{now} restored: {after:?}")
        });
        self.restoring = Some(Group::assembled(candidate));
        self.restoring_event(Event::Restored(after));
    }

    /// A superblock write of a restore was answered; false if there is none.
    pub(super) fn restore_written(&mut self, io: SuperblockIo, result: Result<(), DriveError>) {
        self.restoring_event(Event::SuperblockWritten { io, result });
    }

    fn restoring_event(&mut self, event: Event) {
        let Some(group) = &mut self.restoring else { return };
        let mut actions = Vec::new();
        group.handle(event, &mut actions);
        for action in actions {
            match action {
                Action::WriteSuperblock {
                    io,
                    drive,
                    offset_bytes,
                    record,
                } => self.write_restored(io, drive, offset_bytes, &record),
                Action::Restored => {
                    self.restoring = None;
                    return self.boot_again();
                }
                Action::GroupFailed { why, .. } => {
                    self.restoring = None;
                    return self.judge_failure(why);
                }
                Action::MemberDrive { .. }
                | Action::Layout { .. }
                | Action::Members(_)
                | Action::RamAllowed
                | Action::RamCleared
                | Action::IntentDurable { .. }
                | Action::LostDurable { .. }
                | Action::PageDurable { .. }
                | Action::LanesOver(_)
                | Action::Started
                | Action::VdiskAdded(_)
                | Action::VdiskResized(_)
                | Action::VdiskChanged(_)
                | Action::VdiskRemoved { .. }
                | Action::Reply { .. }
                | Action::Stopped { .. }
                | Action::RebuildNeeded(_)
                | Action::RebuildOver { .. }
                | Action::Report(_) => {}
            }
        }
    }

    fn write_restored(
        &mut self,
        io: SuperblockIo,
        drive: u16,
        offset_bytes: u64,
        record: &[u8; RECORD_BYTES],
    ) {
        let data = record.chunks(BLOCK_BYTES).map(Block::new).collect();
        let lba = offset_bytes / BLOCK_BYTES as u64;
        let command = Command::Write { lba, data, fua: true };
        self.ask_drive(drive, command, Asker::Superblock(io));
    }

    /// Rows could not be put in their place: a drive that failed counts as away, and everything is looked at again without it.
    pub(super) fn judge_restore(&mut self, candidate: &Candidate, error: ReplayError) {
        let Some(member) = error.member() else {
            self.stage = Stage::Over(Ending::Refused);
            return self.violate(Violation::Refused(error.to_string()));
        };
        if !self.drives.iter().any(Drive::has_unreadable) {
            let what = format!("rows were not restored: {error}");
            self.violate(Violation::Refused(what));
        }
        let drive = candidate.members[usize::from(member.0)].drive_index();
        let drive = drive.expect("only members that are there are asked");
        self.unreadable |= 1 << drive;
        self.harm(drive);
        // Nobody waits for what is still under way.
        let asked = |asker: &Asker| matches!(asker, Asker::Replay(_));
        for (_, asker) in self.askers.values_mut().filter(|(_, asker)| asked(asker)) {
            *asker = Asker::Nobody;
        }
        self.boot_again();
    }
}
