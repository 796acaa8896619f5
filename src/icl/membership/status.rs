//! What people are told about an array's membership.

use std::fmt;

use super::choice::Blocked;
use super::record::Member;
use super::{DriveSet, Epoch, SlotSet};

/// Why a node stopped for good: only a new life of it may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// A record was decided without it.
    LeftOut(Epoch),
    /// A voter refused its heartbeat, or a drive its key: it was fenced. The epoch is the last one that it knew.
    Fenced(Epoch),
    /// A drive told it that its registration was preempted.
    Preempted(Epoch),
    /// Another process writes the blocks of its slot.
    SlotTaken,
    /// It has left as it was asked to.
    Left(Epoch),
}

impl fmt::Display for Halt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOut(epoch) => write!(out, "epoch {epoch} was decided without this node"),
            Self::Fenced(epoch) => write!(out, "fenced: a drive refused this node after epoch {epoch}"),
            Self::Preempted(epoch) => write!(
                out,
                "a drive reported that this node was preempted after epoch {epoch}"
            ),
            Self::SlotTaken => write!(
                out,
                "another process uses the slot of this node: check the configuration"
            ),
            Self::Left(epoch) => write!(out, "left in epoch {epoch}, as asked"),
        }
    }
}

/// What a node is doing, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It reads the voters; no majority has answered yet.
    Reading,
    /// No voter has a record: the array is to be formatted.
    Blank,
    /// It watches whether anyone is alive, and asks to be admitted.
    Outside,
    /// It is a member of a decided epoch that is not open yet.
    Settling,
    /// It is a member of an open epoch.
    Open,
    /// It leaves.
    Leaving,
    /// It has stopped.
    Halted,
}

/// A node's view of its array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is doing.
    pub stage: Stage,
    /// The newest decided epoch that it knows; 0 if none.
    pub epoch: Epoch,
    /// Members of that epoch.
    pub members: Vec<Member>,
    /// Members that are not heard.
    pub silent: SlotSet,
    /// Drives in use in that epoch.
    pub drives: DriveSet,
    /// Drives that vote.
    pub voters: DriveSet,
    /// Drives that it reaches and trusts.
    pub reach: DriveSet,
    /// Drives whose registrants were not what they ought to be: rebuild them.
    pub stale: DriveSet,
    /// How long it may serve without another renewal, in nanoseconds; 0: it may not.
    pub lease_left_ns: u64,
    /// What keeps it from going on.
    pub blocked: Option<Blocked>,
    /// Why it has stopped.
    pub halt: Option<Halt>,
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Reading => "reads the voters",
            Stage::Blank => "finds no array: format it",
            Stage::Outside => "waits to be admitted",
            Stage::Settling => "settles its epoch",
            Stage::Open => "serves",
            Stage::Leaving => "leaves",
            Stage::Halted => "has stopped",
        };
        write!(out, "{stage}; epoch {}, members", self.epoch)?;
        for member in &self.members {
            write!(out, " {}", member.slot)?;
        }
        let voters = self.voters.and(self.reach).count();
        write!(
            out,
            "; {voters} of {} voters, {} drives, lease {} ms",
            self.voters.count(),
            self.drives.count(),
            self.lease_left_ns / 1_000_000
        )?;
        match self.blocked {
            Some(Blocked::Voters(missing)) => write!(out, "; blocked: voters missing:{}", Listed(missing))?,
            Some(Blocked::Drives(missing)) => write!(out, "; blocked: drives missing:{}", Listed(missing))?,
            None => {}
        }
        if let Some(halt) = self.halt {
            write!(out, "; {halt}")?;
        }
        Ok(())
    }
}

/// Numbers of drives, each after a blank.
struct Listed(DriveSet);

impl fmt::Display for Listed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|drive| write!(out, " {drive}"))
    }
}
