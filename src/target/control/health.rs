//! What a drive's errors, latencies and silences mean: fed to its health machine, and its verdict carried out.

use reactor::{CoreIndex, Io, Nanos};

use super::{Control, SuperblockWrite};
use crate::amf::MemberIndex;
use crate::amf::group::{Event as GroupEvent, MemberStatus};
use crate::drive::DriveError;
use crate::drive::health::{Decision, Event, Health, LatencyWindow, Policy, State, reference};
use crate::target::core::Core;
use crate::target::drives::{DriveReport, Fault};
use crate::target::manage::{self, ManageError, Reply};
use crate::target::message::Message;

const NANOS_PER_MS: Nanos = 1_000_000;

/// One drive's health, and what the cores told of it.
pub(super) struct DriveHealth {
    machine: Health,
    /// Of the latency window that goes on.
    window: LatencyWindow,
    /// For how long each core has waited for an answer.
    waiting: Box<[Option<Nanos>]>,
    /// Commands of each core that were given up and are unanswered.
    given_up: Box<[u32]>,
    /// The cores have been told that it hangs.
    called_hung: bool,
}

impl DriveHealth {
    pub(super) fn new(policy: Policy, cores: u16) -> Self {
        let cores = usize::from(cores);
        Self {
            machine: Health::new(policy),
            window: LatencyWindow::default(),
            waiting: vec![None; cores].into(),
            given_up: vec![0; cores].into(),
            called_hung: false,
        }
    }

    /// Reads that its medium could not give back.
    pub(super) fn media_errors(&self) -> u64 {
        self.machine.counts().media_errors
    }

    fn unanswered(&self) -> u32 {
        self.given_up.iter().sum()
    }

    /// For the management plane.
    pub(super) fn status(&self) -> manage::HealthStatus {
        let (state, counts) = (self.machine.state(), self.machine.counts());
        manage::HealthStatus {
            state: match state {
                State::Good => manage::HealthState::Good,
                State::Suspect(_) => manage::HealthState::Suspect,
                State::Quarantined(_) => manage::HealthState::Quarantined,
                State::Evicted(_) => manage::HealthState::Evicted,
            },
            reason: state.reason().map(|reason| reason.to_string()),
            media_errors: counts.media_errors,
            repaired: counts.repaired,
            repairs_failed: counts.repairs_failed,
            io_errors: counts.io_errors,
            hangs: counts.hangs,
            slow_windows: counts.slow_windows,
            p99_us: self.machine.p99().map(|p99| p99 / 1000),
            unanswered: self.unanswered(),
        }
    }
}

/// The configuration's thresholds as the machine takes them.
pub(super) fn policy(health: &config::Health) -> Policy {
    Policy {
        hang_ms: health.hang_ms,
        hang_last_ms: health.hang_last_ms,
        media_errors_per_hour: health.media_errors_per_hour,
        io_errors_per_hour: health.io_errors_per_hour,
        io_retries: health.io_retries,
        window_ms: health.window_ms,
        window_commands: health.window_commands,
        slow_factor: health.slow_factor,
        slow_floor_us: health.slow_floor_us,
        slow_windows: health.slow_windows,
    }
}

impl Control {
    /// What one core counted of the drives.
    pub(super) fn take_drive_reports(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        from: CoreIndex,
        reports: &[(u16, DriveReport)],
    ) {
        for (drive, report) in reports {
            let usage = &mut self.drive_uses[usize::from(*drive)];
            usage.reads += report.reads;
            usage.writes += report.writes;
            usage.read_bytes += report.read_bytes;
            usage.written_bytes += report.written_bytes;
            usage.forced += report.forced;
            usage.flushes += report.flushes;
            let health = &mut self.health[usize::from(*drive)];
            health.window.merge(&report.latency);
            health.waiting[from.index()] = report.waiting;
            health.given_up[from.index()] = report.given_up;
            if report.io_errors > 0 {
                let event = Event::Errors {
                    count: report.io_errors,
                    now: io.now(),
                    losable: self.is_losable(*drive),
                };
                self.judge(core, io, *drive, event);
            }
        }
    }

    /// Looks for drives that do not answer, and ends latency windows; ten times a second.
    pub(super) fn health_tick(&mut self, core: &mut Core, io: &mut Io<Message>) {
        for drive in 0..u16::try_from(self.health.len()).expect("a node has at most 1024 drives") {
            self.look_for_hang(core, io, drive);
        }
        self.give_up_superblocks(core, io);
        self.begin_repairs(core, io);
        if io.now() >= self.window_until {
            self.window_until = io.now() + u64::from(self.policy.window_ms) * NANOS_PER_MS;
            self.end_windows(core, io);
        }
    }

    fn look_for_hang(&mut self, core: &mut Core, io: &mut Io<Message>, drive: u16) {
        if self.has_lost(drive) {
            return; // What waits for it waits until the cores end.
        }
        let awake = core.awake.read(io.now());
        let superblocks = self.superblocks.values();
        let superblock = superblocks
            .filter(|write| write.drive == drive && !write.given_up)
            .map(|write| awake.saturating_sub(write.started_awake))
            .max();
        let health = &self.health[usize::from(drive)];
        let waiting = health.waiting.iter().copied().flatten().chain(superblock).max();
        let half = u64::from(self.policy.hang_ms) * NANOS_PER_MS / 2;
        match waiting.filter(|waited| *waited >= half) {
            Some(_) if health.called_hung => {} // The cores are at it.
            Some(waited) => {
                let losable = self.is_losable(drive);
                self.judge(core, io, drive, Event::Waiting { waited, losable });
            }
            None if health.called_hung && waiting.is_none() && !self.owes(drive) => {
                // All memory is back, and what was written late cannot meet anything new any more.
                self.call_hung(core, io, drive, false);
                tracing::info!(drive = %self.drives[usize::from(drive)].name, "drive answers again");
            }
            None => {
                self.judge(core, io, drive, Event::Answered);
            }
        }
    }

    fn end_windows(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let enough = self.policy.window_commands;
        let windows: Vec<Option<Nanos>> = self
            .health
            .iter_mut()
            .map(|health| std::mem::take(&mut health.window))
            .map(|window| window.p99().filter(|_| window.commands() >= enough))
            .collect();
        for group in 0..self.groups.len() {
            let members: Vec<u16> = self.groups[group].drives.iter().copied().flatten().collect();
            let of = |drive: &u16| windows[usize::from(*drive)];
            let mut latencies: Vec<Nanos> = members.iter().filter_map(of).collect();
            let reference = reference(&mut latencies);
            for drive in members {
                let Some(p99) = windows[usize::from(drive)] else {
                    continue;
                };
                let losable = self.is_losable(drive);
                let event = Event::Window {
                    p99: Some(p99),
                    reference,
                    losable,
                };
                self.judge(core, io, drive, event);
            }
        }
    }

    /// Feeds a drive's machine and carries out what it decides; but the one who tells a media error repairs it, because
    /// it has the blocks at hand.
    pub(super) fn judge(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        drive: u16,
        event: Event,
    ) -> Option<Decision> {
        let decision = self.health[usize::from(drive)].machine.handle(event)?;
        let name = &self.drives[usize::from(drive)].name;
        match decision {
            Decision::Repair => {}
            Decision::Suspect(reason) => tracing::warn!(drive = %name, %reason, "drive is suspect"),
            Decision::Quarantine(reason) => {
                tracing::error!(drive = %name, %reason, "drive is quarantined");
                self.call_hung(core, io, drive, true);
                self.evict(core, io, drive, decision);
            }
            Decision::Evict(reason) => {
                tracing::error!(drive = %name, %reason, "drive is evicted");
                self.evict(core, io, drive, decision);
            }
        }
        Some(decision)
    }

    /// Has the drive's group fail it.
    fn evict(&mut self, core: &mut Core, io: &mut Io<Message>, drive: u16, decision: Decision) {
        let Some((group, member)) = self.drive_uses[usize::from(drive)].member else {
            return;
        };
        let member = MemberIndex(member);
        let event = match decision {
            Decision::Evict(reason) | Decision::Quarantine(reason) | Decision::Suspect(reason) => {
                GroupEvent::Evict { member, reason }
            }
            Decision::Repair => return,
        };
        if self.is_shared(group) {
            return self.share_fault(core, io, group, member, DriveError::Gone);
        }
        self.group_event(core, io, group, event);
    }

    fn call_hung(&mut self, core: &mut Core, io: &mut Io<Message>, drive: u16, hung: bool) {
        self.health[usize::from(drive)].called_hung = hung;
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::Hung { drive, hung });
        }
    }

    /// Whether the drive's group would survive its loss on top of those that it has suffered.
    pub(super) fn is_losable(&self, drive: u16) -> bool {
        let Some((group, member)) = self.drive_uses[usize::from(drive)].member else {
            return true;
        };
        let group = &self.groups[usize::from(group)];
        let snapshot = group.machine.snapshot();
        let lost = snapshot
            .members
            .iter()
            .filter(|member| member.status != MemberStatus::Active)
            .fold(0_u32, |lost, member| lost | 1 << member.member.0);
        // Check data that does not yet fit the data replaces nobody.
        snapshot.resync.is_none() && group.machine.survives(lost | 1 << member)
    }

    /// The group of this member fails it for an error.
    pub(super) fn health_failed(&mut self, group: u16, member: MemberIndex, error: DriveError) {
        let drive = self.groups[usize::from(group)].drives[usize::from(member.0)];
        if let Some(drive) = drive {
            let machine = &mut self.health[usize::from(drive)].machine;
            let decision = machine.handle(Event::Failed { error });
            assert_eq!(decision, None, "it is failed already");
        }
    }

    /// The drive becomes the member of a group: what was before counts no more.
    pub(super) fn health_cleared(&mut self, drive: u16) {
        let decision = self.health[usize::from(drive)].machine.handle(Event::Cleared);
        assert_eq!(decision, None, "nothing is wrong with it yet");
    }

    /// Whether a drive may be taken into a group: not while commands that were given up may still reach it.
    pub(super) fn check_usable(&self, drive: usize) -> Result<(), ManageError> {
        self.check_connected(drive)?;
        let health = &self.health[drive];
        if health.called_hung || health.unanswered() > 0 {
            return Err(ManageError::new(
                ManageError::DRIVE,
                format!(
                    "drive \"{}\" has not answered {} commands that were given up: they could still overwrite what is on it",
                    self.drives[drive].name,
                    health.unanswered()
                ),
                "wait until it answers, or restart the node",
            ));
        }
        Ok(())
    }

    /// Whether no core awaits an answer of a drive.
    pub(super) fn is_idle(&self, drive: u16) -> bool {
        let health = &self.health[usize::from(drive)];
        let waits = health.waiting.iter().any(Option::is_some);
        !waits && !health.called_hung && !self.owes(drive)
    }

    /// Whether a command that was given up, or a superblock, is still unanswered.
    fn owes(&self, drive: u16) -> bool {
        let mut superblocks = self.superblocks.values();
        let has_superblock = superblocks.any(|write| write.drive == drive);
        has_superblock || self.health[usize::from(drive)].unanswered() > 0
    }

    /// Answers superblock writes in place of drives that are out and do not answer.
    fn give_up_superblocks(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let mut given_up = Vec::new();
        for (number, write) in &mut self.superblocks {
            let health = &self.health[usize::from(write.drive)];
            if !write.given_up && health.called_hung {
                write.given_up = true;
                given_up.push((*number, write.group, write.name, write.span.is_none()));
            }
        }
        for (number, group, name, parked) in given_up {
            if parked {
                self.superblocks.remove(&number);
            }
            self.superblock_written(core, io, group, name, Err(DriveError::Gone));
        }
    }

    /// A superblock write was answered by its drive.
    pub(in crate::target) fn superblock_done(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        number: u64,
        result: Result<(), DriveError>,
    ) {
        let SuperblockWrite {
            group,
            name,
            span,
            given_up,
            ..
        } = self
            .superblocks
            .remove(&number)
            .expect("its number was given with it");
        self.superblock_spans.extend(span);
        self.retry_superblocks(core, io);
        if !given_up {
            self.superblock_written(core, io, group, name, result);
        }
    }

    /// Has a drive show a fault, for a test.
    pub(super) fn inject(&self, wanted: &manage::DriveInject) -> Result<Reply, ManageError> {
        if !self.fault_injection {
            return Err(ManageError::new(
                ManageError::REFUSED,
                "this node injects no faults",
                "set `allow_fault_injection = true` in [health] of its configuration, on a node whose data nobody needs",
            ));
        }
        let drive = self.drive_named(&wanted.drive)?;
        let spec = &self.drives[drive];
        let invalid =
            |what: &str| ManageError::new(ManageError::INVALID, what, "see `braid drive inject --help`");
        let fault = match wanted.fault {
            manage::FaultKind::Media => {
                let at = wanted
                    .at_bytes
                    .ok_or_else(|| invalid("a media fault needs a place"))?;
                let bytes = wanted
                    .blocks
                    .unwrap_or(1)
                    .checked_mul(u64::from(spec.logical_block_bytes));
                let bytes = bytes.filter(|bytes| at.checked_add(*bytes).is_some_and(|end| end <= spec.bytes));
                let bytes = bytes.ok_or_else(|| invalid("the fault is beyond the end of the drive"))?;
                Fault::Media { at, bytes }
            }
            manage::FaultKind::Slow => {
                let micros = wanted
                    .slow_us
                    .ok_or_else(|| invalid("a slow drive needs a time"))?;
                Fault::Slow(micros.saturating_mul(1000))
            }
            manage::FaultKind::Hang => Fault::Hang,
            manage::FaultKind::Error => Fault::Error,
            manage::FaultKind::Clear => Fault::Clear,
        };
        tracing::warn!(drive = %spec.name, ?fault, "fault injected");
        spec.faults.inject(fault);
        Ok(Reply::Drive(self.drive_status(drive)))
    }
}
