//! Starts, stops, power cuts and drive faults.

use super::{Ending, Event, Stage, TICK_NS, Violation, World};
use crate::amf::RowIndex;
use crate::amf::group::{Candidate, DriveFacts, FailReason, Refusal};
use crate::amf::intent::IntentMap;
use crate::amf::journal::replay::{self, IoId, ReplayError};
use crate::amf::superblock::RECORD_BYTES;
use crate::drive::DriveError;
use crate::sim::drive::{Drive, Trouble};
use crate::sim::node::{Asker, BootError, Effect, Node, Phase, drive_facts};
use crate::sim::replaying::{Machine, Replaying, Wanted, read_page};
use crate::sim::scenario::{Fault, Mutant, Stop};
use crate::sim::stamp::{BLOCK_BYTES, Block};

/// How long the power is away.
const DARK_NS: u64 = 1_000_000;

impl World {
    /// Faults and stops whose time has come.
    pub(super) fn things_happen(&mut self) {
        while let Some(&Fault { at, drive, trouble }) = self.scenario.faults.get(self.next_fault)
            && at <= self.issued
        {
            self.next_fault += 1;
            self.drives[usize::from(drive)].begin(trouble);
            match trouble {
                Trouble::Media => self.doubt(u16::from(drive)),
                Trouble::Gone | Trouble::Error | Trouble::Hang => self.harm(u16::from(drive)),
                Trouble::LostWrite | Trouble::Misdirected | Trouble::StaleRead => {}
            }
            let now = self.now;
            self.trace.note(&[now, 6, u64::from(drive)], || {
                format!("{now} drive {drive}: {}", trouble.name())
            });
        }
        if let Some(stop) = self.scenario.stops.get(self.next_stop)
            && stop.at <= self.issued
            && self.stage == Stage::Running
        {
            if stop.clean {
                self.stage = Stage::Draining;
            } else {
                let delay = self.random.below(300_000);
                self.later(delay, Event::Cut);
            }
        }
    }

    /// Goes on to the next stage if what the present one waits for is there.
    pub(super) fn look_around(&mut self) {
        if !self.underway.is_empty() {
            return;
        }
        match self.stage {
            Stage::Draining => {
                self.stage = Stage::Closing;
                self.with_node(Node::close);
            }
            Stage::Settling | Stage::Scrubbing => {
                let Some(node) = &self.node else { return };
                let settled = match node.phase() {
                    Phase::Opening => false,
                    Phase::Failed(_) => true,
                    Phase::Open | Phase::Stopped => node.is_settled(),
                };
                if !settled || !self.askers.is_empty() || self.has_mail() {
                    return;
                }
                if self.stage == Stage::Settling && node.phase() == Phase::Open {
                    self.stage = Stage::Scrubbing;
                    self.with_node(Node::scrub);
                } else {
                    self.audit();
                }
            }
            Stage::Scripted | Stage::Running | Stage::Closing | Stage::Over(_) => {}
        }
    }

    /// Whether all that is left needs blocks which a drive cannot give back, and for which no check data stand in because
    /// they are not believed, or members are lost: a synchronisation, or bringing a row's dirty data to its place.
    pub(super) fn waits_for_unreadable(&self) -> bool {
        let helpless = |node: &Node| {
            let members = node.members();
            let is_redundant = node.geometry().level().is_redundant();
            members
                .is_some_and(|members| !members.parity.regenerates() || members.failed != 0 || !is_redundant)
        };
        let unreadable = self.drives.iter().any(Drive::has_unreadable);
        // Where there is a journal such rows are mended.
        unreadable && !self.scenario.is_journaled() && self.node.as_ref().is_some_and(helpless)
    }

    pub(super) fn has_mail(&self) -> bool {
        self.queue
            .values()
            .any(|event| matches!(event, Event::Mail { .. }))
    }

    /// The node has closed its group, or could not.
    pub(super) fn node_stopped(&mut self, clean: bool) {
        if self.stage != Stage::Closing {
            return;
        }
        if clean && let Some(history) = &mut self.history {
            history.stop();
        }
        // What was said to be durable is all that may be needed.
        self.later(0, Event::Cut);
    }

    /// The power fails: the node is gone, and drives lose what they had not made durable.
    pub(super) fn cut(&mut self) {
        self.cuts += 1;
        let now = self.now;
        self.trace.note(&[now, 7], || format!("{now} power cut"));
        for drive in &mut self.drives {
            drive.cut(&mut self.random);
        }
        self.note_seats();
        self.background_done = 0;
        self.node = None;
        self.replaying = None;
        self.restoring = None;
        self.queue.clear();
        self.askers.clear();
        self.mailed.clear();
        self.underway.clear();
        self.fuse = None;
        if let Some(history) = &mut self.history {
            history.cut();
        }
        if !matches!(self.stage, Stage::Settling | Stage::Scrubbing) {
            self.stage = Stage::Running;
        }
        self.away = 0;
        let stop = self.scenario.stops.get(self.next_stop).copied();
        if let Some(Stop { again, away, .. }) = stop.filter(|stop| stop.at <= self.issued) {
            self.next_stop += 1;
            self.fuse = (again > 0).then_some(again);
            self.away = away.map_or(0, |drive| 1 << drive);
        }
        self.later(DARK_NS, Event::Boot);
    }

    pub(super) fn facts(&self, without: u32) -> Vec<DriveFacts> {
        let drives = (0u16..).zip(&self.drives);
        drives
            .filter(|(index, _)| without >> index & 1 == 0)
            .map(|(index, drive)| {
                let left_out = self.left_out >> index & 1 == 1;
                DriveFacts {
                    left_out,
                    ..drive_facts(index, drive, self.scenario.block)
                }
            })
            .collect()
    }

    /// The node starts from what the drives hold.
    pub(super) fn boot(&mut self) {
        self.starts += 1;
        self.heard = self.now;
        for drive in &mut self.drives {
            // A drive that failed comes back with what it held: the group has to know that this is old.
            if drive.trouble().is_some_and(Trouble::is_told) {
                drive.recover();
            }
        }
        self.accepts_loss = false;
        (self.unreadable, self.left_out) = (0, 0);
        self.boot_again();
    }

    /// Looks for the group on the drives.
    pub(super) fn boot_again(&mut self) {
        let mut found = self.find();
        if found.is_err() && self.away != 0 {
            // The operator brings the drive back.
            self.away = 0;
            found = self.find();
        }
        let now = self.now;
        self.trace.note(&[now, 8, u64::from(found.is_ok())], || {
            let outcome = found.as_ref().map(|_| "found");
            format!("{now} start: {outcome:?}")
        });
        match found {
            Ok(candidate) => {
                for drive in 0..self.scenario.drives() {
                    if self.away >> drive & 1 == 1 {
                        self.harm(u16::from(drive));
                    }
                }
                let record = candidate.record();
                let old = record.expansion.map(|expansion| expansion.old_members);
                self.widths = old.into_iter().chain([record.geometry().members()]).collect();
                match candidate.restore() {
                    Some(machine) => self.begin_restore(candidate, machine),
                    None => self.begin_replay(candidate),
                }
            }
            Err(_) if self.history.is_none() => {
                let mut effects = Vec::new();
                match Node::create(&self.facts(0), &self.scenario, &mut effects) {
                    Ok(node) => self.node_starts(node, effects),
                    Err(error) => self.judge_refusal(&error),
                }
            }
            Err(error) => self.judge_refusal(&error),
        }
    }

    /// Looks for the group on the drives that are there. If writes were acknowledged from memory, it is only started because the operator
    /// accepts that they are lost; and only then they may be.
    fn find(&mut self) -> Result<Candidate, BootError> {
        let facts = self.facts(self.away | self.unreadable);
        let found = Node::find(&facts, self.accepts_loss, &self.scenario);
        if found != Err(BootError::Refused(Refusal::LostWrites)) {
            return found;
        }
        self.accepts_loss = true;
        self.losses += 1;
        if !self.scenario.is_in_memory() {
            let what = "writes count as lost that nobody acknowledged from memory".to_owned();
            self.violate(Violation::Refused(what));
        }
        if let Some(history) = &mut self.history {
            history.lose();
        }
        Node::find(&facts, true, &self.scenario)
    }

    fn node_starts(&mut self, node: Node, effects: Vec<Effect>) {
        self.node = Some(node);
        self.later(TICK_NS, Event::Tick);
        self.note_seats();
        self.carry_out(effects);
    }

    /// Begins the replay of the journal, or the group at once if it has none.
    fn begin_replay(&mut self, candidate: Candidate) {
        let mutant = self.scenario.mutant == Mutant::NoReplay;
        let lost = candidate.load_lost(|page| Some(read_page(&self.drives[usize::from(page.drive)], page)));
        let machine = candidate
            .replay()
            .filter(|_| self.scenario.is_journaled() && !mutant);
        let Some(machine) = machine else {
            let mut effects = Vec::new();
            let pretended = mutant.then(replay::Report::default);
            let missed = self.missed(&candidate, &[]);
            let node = Node::open(candidate, lost, pretended, missed, &self.scenario, &mut effects);
            return self.node_starts(node, effects);
        };
        self.replaying = Some(Replaying::new(
            Machine::Replay(Box::new(machine.with_lost(lost))),
            candidate,
        ));
        self.start_replay();
    }

    /// A drive has answered the replay.
    pub(super) fn replay_answered(&mut self, io: IoId, result: Result<Vec<Block>, DriveError>) {
        let Some(replaying) = &mut self.replaying else {
            return; // It has ended, and whatever was still under way does not matter.
        };
        let wanted = replaying.answered(io, result);
        self.carry_out_replay(wanted);
    }

    pub(super) fn start_replay(&mut self) {
        let replaying = self.replaying.as_mut().expect("a replay is about to begin");
        let wanted = replaying.start();
        self.carry_out_replay(wanted);
    }

    fn carry_out_replay(&mut self, wanted: Vec<Wanted>) {
        for wanted in wanted {
            match wanted {
                Wanted::Drive { io, drive, command } => self.ask_drive(drive, command, Asker::Replay(io)),
                Wanted::Done(report) => self.replayed(report),
                Wanted::Failed(error) => self.judge_replay(error),
            }
        }
    }

    fn replayed(&mut self, report: replay::Report) {
        let Replaying {
            candidate, machine, ..
        } = self.replaying.take().expect("it has just ended");
        let replay = match machine {
            Machine::Restore(restore) => return self.restored(candidate, restore.record()),
            Machine::Replay(replay) => *replay,
        };
        let now = self.now;
        self.trace
            .note(&[now, 9, report.rows], || format!("{now} replayed: {report:?}"));
        let mut effects = Vec::new();
        let missed = self.missed(&candidate, replay.rows());
        let lost = replay.into_lost();
        let node = Node::open(
            candidate,
            lost,
            Some(report),
            missed,
            &self.scenario,
            &mut effects,
        );
        self.node_starts(node, effects);
    }

    /// What lost members miss, as the drives say and the replay has seen.
    fn missed(&self, candidate: &Candidate, replayed: &[RowIndex]) -> Option<IntentMap> {
        let map = candidate.load_intent(|copy| {
            let blocks = u32::try_from(RECORD_BYTES / BLOCK_BYTES).expect("a page is short");
            let drive = &self.drives[usize::from(copy.drive)];
            let data = drive.read(copy.offset_bytes / BLOCK_BYTES as u64, blocks);
            Some(data.iter().flat_map(|block| *block.bytes()).collect())
        })?;
        if candidate.is_degraded() && self.scenario.mutant != Mutant::NoIntent {
            replayed.iter().for_each(|row| map.mark(*row));
        }
        Some(map)
    }

    /// A replay may fail only for want of what is lost.
    fn judge_replay(&mut self, error: ReplayError) {
        let Replaying {
            candidate, machine, ..
        } = self.replaying.take().expect("it has just ended");
        if let Machine::Restore(_) = machine {
            return self.judge_restore(&candidate, error);
        }
        if let ReplayError::LeftOut { member } = error {
            let drive = candidate.members[usize::from(member.0)].drive_index();
            let drive = drive.expect("only members that are there are left out");
            if self.harmed >> member.0 & 1 == 0 {
                let what = format!("drive {drive} has missed nothing: {error}");
                self.violate(Violation::Refused(what));
            }
            self.left_out |= 1 << drive;
            return self.boot_again();
        }
        let legal = match error {
            // What was never synchronised does not say what a member held that may come back.
            ReplayError::CheckDataNotTrusted { .. } => !self.scenario.zeroed && self.harmed != 0,
            ReplayError::Member { .. }
            | ReplayError::LeftOut { .. }
            | ReplayError::TooManyMembersLost
            | ReplayError::TooManyLostBlocks
            | ReplayError::LostAmongLiving { .. }
            | ReplayError::Journal(_) => false,
        };
        self.stage = Stage::Over(Ending::Refused);
        if !legal {
            self.violate(Violation::Refused(format!(
                "{error}; harmed members: {:b}",
                self.harmed
            )));
        }
    }

    /// Whether more may be out of the group than it survives.
    fn is_too_much_lost(&self) -> bool {
        let level = self.scenario.level;
        // Blocks that a wave of an expansion cannot read cost the member.
        let doubtful = if self.scenario.joining > 0 {
            self.doubtful
        } else {
            0
        };
        let missing = self.harmed | doubtful;
        let is_lost = |width: &u8| !level.survives(*width, missing & !(u32::MAX << width));
        self.widths.iter().any(is_lost)
    }

    /// A group may be refused only for a reason that holds.
    fn judge_refusal(&mut self, error: &BootError) {
        let legal = match error {
            BootError::Refused(Refusal::TooManyLost { .. } | Refusal::OthersMayBeNewer { .. }) => {
                self.is_too_much_lost()
            }
            // Without a journal nobody can say what the rows hold that were being written.
            BootError::Refused(Refusal::DirtyDegraded { .. }) => {
                (self.harmed | self.doubtful) != 0 && !self.scenario.is_journaled()
            }
            BootError::Refused(_) | BootError::NotFound | BootError::Create(_) => false,
        };
        self.stage = Stage::Over(Ending::Refused);
        if !legal {
            let what = format!("{error}; harmed members: {:b}", self.harmed);
            self.violate(Violation::Refused(what));
        }
    }

    /// A group may fail only if more is lost than it survives, or while its check data are not believed.
    pub(super) fn judge_failure(&mut self, why: FailReason) {
        let legal = match why {
            FailReason::TooManyMembersLost => self.is_too_much_lost(),
            FailReason::CreationFailed => self.harmed != 0,
            FailReason::ParityUntrusted => self.harmed != 0 && !self.scenario.is_journaled(),
            FailReason::GenerationsUsedUp | FailReason::JournalTooSmall(_) => false,
        };
        self.stage = Stage::Over(Ending::GroupFailed);
        if !legal {
            let what = format!("the group failed: {why}; harmed members: {:b}", self.harmed);
            self.violate(Violation::Unavailable(what));
        }
    }
}
