//! A machine that reads and writes drives while no engine does: the replay of a journal, or what restores rows of an expansion before it.
//!
//! Owns which member's drive is asked for what, and translates between the machine's blocks and those of simulated drives. Who carries the commands out, and
//! when, is the world's business.

use std::collections::BTreeMap;

use super::drive::{Command, Drive};
use super::stamp::{BLOCK_BYTES, Block};
use crate::amf::MemberIndex;
use crate::amf::expansion::Restore;
use crate::amf::group::{Candidate, ListPage};
use crate::amf::journal::replay::{Action, Event, IoId, Replay, ReplayError, Report};
use crate::amf::superblock::RECORD_BYTES;
use crate::drive::DriveError;

/// Which machine it is.
#[derive(Debug)]
pub enum Machine {
    /// The replay of the journal.
    Replay(Box<Replay>),
    /// Puts rows in their place that an expansion had left in the scratch area.
    Restore(Restore),
}

impl Machine {
    fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        match self {
            Self::Replay(replay) => replay.handle(event, out),
            Self::Restore(restore) => restore.handle(event, out),
        }
    }
}

/// What it was that a drive was asked.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Read,
    Write,
    Flush,
}

/// What the machine wants, in terms of drives.
#[derive(Debug)]
pub enum Wanted {
    /// Ask a drive, and answer with [`Replaying::answered`].
    Drive {
        /// Names the command.
        io: IoId,
        /// Which drive.
        drive: u16,
        /// What.
        command: Command,
    },
    /// It is over.
    Done(Report),
    /// It cannot go on.
    Failed(ReplayError),
}

/// A machine that is under way on the drives of a group.
#[derive(Debug)]
pub struct Replaying {
    /// The machine.
    pub machine: Machine,
    /// The group as its drives have it.
    pub candidate: Candidate,
    asked: BTreeMap<IoId, Asked>,
}

impl Replaying {
    /// One that has not begun.
    pub const fn new(machine: Machine, candidate: Candidate) -> Self {
        Self {
            machine,
            candidate,
            asked: BTreeMap::new(),
        }
    }

    /// It begins.
    pub fn start(&mut self) -> Vec<Wanted> {
        self.handle(Event::Start)
    }

    /// A drive has answered.
    ///
    /// Panics if it was not asked.
    pub fn answered(&mut self, io: IoId, result: Result<Vec<Block>, DriveError>) -> Vec<Wanted> {
        let asked = self.asked.remove(&io);
        let event = match asked.expect("a drive answers what it was asked") {
            Asked::Read => Event::ReadDone {
                io,
                result: result.map(|data| data.iter().flat_map(|block| *block.bytes()).collect()),
            },
            Asked::Write => Event::Written {
                io,
                result: result.map(|_| ()),
            },
            Asked::Flush => Event::Flushed {
                io,
                result: result.map(|_| ()),
            },
        };
        self.handle(event)
    }

    fn handle(&mut self, event: Event) -> Vec<Wanted> {
        let mut actions = Vec::new();
        self.machine.handle(event, &mut actions);
        actions
            .into_iter()
            .filter_map(|action| self.wanted(action))
            .collect()
    }

    fn wanted(&mut self, action: Action) -> Option<Wanted> {
        let blocks_each = self.candidate.record().block.bytes() / 512;
        let at = |lba: u64| lba * u64::from(blocks_each);
        let (io, member, command, asked) = match action {
            Action::Read {
                io,
                member,
                lba,
                blocks,
            } => {
                let (lba, blocks) = (at(lba.0), blocks * blocks_each);
                (io, member, Command::Read { lba, blocks }, Asked::Read)
            }
            Action::Write {
                io,
                member,
                lba,
                data,
                fua,
            } => {
                let data = data.chunks(BLOCK_BYTES).map(Block::new).collect();
                let lba = at(lba.0);
                (io, member, Command::Write { lba, data, fua }, Asked::Write)
            }
            Action::Flush { io, member } => (io, member, Command::Flush, Asked::Flush),
            Action::Progress { .. } => return None,
            Action::Done(report) => return Some(Wanted::Done(report)),
            Action::Failed(error) => return Some(Wanted::Failed(error)),
        };
        self.asked.insert(io, asked);
        let drive = self.drive_of(member);
        Some(Wanted::Drive { io, drive, command })
    }

    /// The drive of a member that is asked something.
    pub fn drive_of(&self, member: MemberIndex) -> u16 {
        let finding = &self.candidate.members[usize::from(member.0)];
        let drive = finding.drive_index();
        drive.expect("only members that are there are asked")
    }
}

/// Reads a copy of the list of lost blocks.
pub fn read_page(drive: &Drive, page: ListPage) -> Vec<u8> {
    let blocks = u32::try_from(RECORD_BYTES / BLOCK_BYTES).expect("a page is short");
    let read = drive.read(page.offset_bytes / BLOCK_BYTES as u64, blocks);
    read.iter().flat_map(|block| *block.bytes()).collect()
}
