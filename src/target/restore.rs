//! Finishes what an expansion had left in the scratch area when the node ended, before any journal is replayed and any core starts.

use super::drives::DriveSpec;
use super::replay::{self, Reach};
use crate::amf::expansion::Restore;
use crate::amf::group::{Action as GroupAction, Candidate, Event as GroupEvent, Group};
use crate::amf::journal::replay::{Action, Event, Replay, ReplayError};
use crate::drive::DriveError;

/// A machine that reads and writes members while there are no cores.
pub trait Machine {
    /// Takes an event; what is to be done next goes to `out`.
    fn handle(&mut self, event: Event, out: &mut Vec<Action>);
}

impl Machine for Replay {
    fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        Self::handle(self, event, out);
    }
}

impl Machine for Restore {
    fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        Self::handle(self, event, out);
    }
}

/// How a step has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable: the drives are to be looked at once more.
    Done,
    /// A drive failed, by its place in the configuration: the same without it.
    DriveFailed(u16, DriveError),
    /// The group cannot go on, and says why.
    Failed(String),
}

/// Does the next step of what is due for a group's scratch area, and makes it durable; `None` if nothing is due. `drives` are all drives
/// of the node.
pub fn step(candidate: &Candidate, drives: &[&DriveSpec]) -> Option<Outcome> {
    let mut machine = candidate.restore()?;
    let after = machine.record();
    let record = candidate.record();
    let of_member = |member: usize| candidate.members[member].drive_index();
    let members: Vec<Option<&DriveSpec>> = (0..candidate.members.len())
        .map(|member| of_member(member).map(|drive| drives[usize::from(drive)]))
        .collect();
    match replay::run(&mut machine, record.name.as_str(), record.block, &members) {
        Ok(_) => {}
        Err(ReplayError::Member { member, error }) => {
            let drive = of_member(usize::from(member.0));
            let drive = drive.expect("only members that are there are asked");
            return Some(Outcome::DriveFailed(drive, error));
        }
        Err(error) => return Some(Outcome::Failed(error.to_string())),
    }
    Some(make_durable(candidate, GroupEvent::Restored(after), drives))
}

/// Writes the superblocks that a group wants written.
fn make_durable(candidate: &Candidate, event: GroupEvent, drives: &[&DriveSpec]) -> Outcome {
    let mut group = Group::assembled(candidate.clone());
    let mut outcome = Outcome::Done;
    let mut actions = Vec::new();
    group.handle(event, &mut actions);
    while !actions.is_empty() {
        for action in std::mem::take(&mut actions) {
            match action {
                GroupAction::WriteSuperblock {
                    io,
                    drive,
                    offset_bytes,
                    record,
                } => {
                    let reach = Reach::open(Some(drives[usize::from(drive)]));
                    let result = reach.write(offset_bytes, &record[..], true);
                    if let Err(error) = result {
                        outcome = Outcome::DriveFailed(drive, error);
                    }
                    group.handle(GroupEvent::SuperblockWritten { io, result }, &mut actions);
                }
                GroupAction::GroupFailed { why, .. } => return Outcome::Failed(why.to_string()),
                GroupAction::Restored
                | GroupAction::Report(_)
                | GroupAction::MemberDrive { .. }
                | GroupAction::Layout { .. }
                | GroupAction::Members(_)
                | GroupAction::LostDurable { .. }
                | GroupAction::PageDurable { .. }
                | GroupAction::LanesOver(_)
                | GroupAction::RamAllowed
                | GroupAction::RamCleared
                | GroupAction::IntentDurable { .. }
                | GroupAction::Started
                | GroupAction::VdiskAdded(_)
                | GroupAction::VdiskResized(_)
                | GroupAction::VdiskChanged(_)
                | GroupAction::VdiskRemoved { .. }
                | GroupAction::Reply { .. }
                | GroupAction::Stopped { .. }
                | GroupAction::RebuildNeeded(_)
                | GroupAction::RebuildOver { .. } => {}
            }
        }
    }
    outcome
}
