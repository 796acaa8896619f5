//! The machine of one group: events in, actions out.
//!
//! At most one update is under way. What arrives meanwhile waits and goes into the next one together.
//! An update writes slot `generation % 2` of the head and then of the tail on every live member; a
//! member that cannot take it is out with the next update, and only an update that every member took
//! is announced.

mod seat;
mod snapshot;

use std::collections::VecDeque;

use super::assemble::{Candidate, MemberFinding, MemberRole};
use super::create::{Creation, CreationMember};
use super::status::LossReason;
use super::{
    Action, Answer, Event, FailReason, Report, RequestError, RequestId, SuperblockIo, VdiskSpec, vdisks,
};
use crate::amf::geometry::Geometry;
use crate::amf::superblock::{
    GENERATION_MAX, GroupRecord, MemberState, Name, ParityState, RECORD_BYTES, STEP, STEP_WITHOUT_MEMBER,
    Superblock, Uuid, VdiskRecord, encode,
};
use crate::amf::{MemberIndex, MemberSet};
use crate::drive::DriveError;
use seat::{Content, Seat};

/// Most requests that wait for their update: 64 operators at once are plenty, and each holds some 200 bytes.
pub const REQUESTS_MAX: usize = 64;

/// The position of a resynchronisation is made durable this many times, so that a clean stop costs no repeat of more.
const RESYNC_CHECKPOINTS: u64 = 16;

/// What the group awaits, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `Event::Start`.
    AwaitingStart,
    /// The newest record on the members that lack it.
    RollingForward,
    /// "Not clean" on all members.
    Opening,
    /// Anything.
    Open,
    /// Nothing.
    Stopped,
    /// Nothing, and says why.
    Failed(FailReason),
}

/// What waits for the next update.
#[derive(Clone, Debug)]
enum Change {
    Open,
    CreateVdisk(RequestId, VdiskSpec),
    RemoveVdisk(RequestId, u32),
    FailMember(RequestId, MemberIndex),
    ResyncProgress,
    ResyncDone,
    Close,
}

/// What is said once an update is durable.
#[derive(Clone, Debug)]
enum Effect {
    VdiskCreated(RequestId, VdiskRecord),
    VdiskRemoved(RequestId, u32),
    MemberFailed(RequestId, MemberIndex),
    Closed,
}

impl Effect {
    const fn request(&self) -> Option<RequestId> {
        match self {
            Self::VdiskCreated(request, _)
            | Self::VdiskRemoved(request, _)
            | Self::MemberFailed(request, _) => Some(*request),
            Self::Closed => None,
        }
    }
}

/// A virtual disk on its way out.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    nsid: u32,
    request: RequestId,
    drained: bool,
}

/// An update under way.
#[derive(Clone, Debug)]
struct Update {
    record: GroupRecord,
    writes: Vec<MemberWrites>,
    /// Members that could not take it.
    refused: u32,
}

/// What one member still has to write, one after another.
#[derive(Clone, Debug, Default)]
struct MemberWrites {
    io: Option<SuperblockIo>,
    left: VecDeque<(u64, Content)>,
}

/// One redundancy group.
#[derive(Debug)]
pub struct Group {
    phase: Phase,
    /// The newest record that every member which it calls active and which is not in `faults` has taken.
    record: GroupRecord,
    /// What was announced last.
    announced: Option<MemberSet>,
    seats: Vec<Seat>,
    /// Members that failed and that `record` still calls active.
    faults: u32,
    update: Option<Update>,
    changes: VecDeque<Change>,
    effects: Vec<Effect>,
    leaving: Vec<Leaving>,
    /// First row that was not resynchronised in this run; more than `record` says between two checkpoints.
    resync_row: u64,
    stop_requested: bool,
    accept_dirty_degraded: bool,
    next_io: u32,
}

impl Group {
    /// A group to be created. Writes nothing before `Event::Start`.
    pub fn form(creation: Creation) -> Self {
        let seat = |member: CreationMember| Seat {
            drive: Some((member.index, member.label, member.bytes)),
            holds: 0,
            behind: true,
            rewrite: true,
            wipe: member.wipe,
            lost: None,
        };
        let seats = creation.members.into_iter().map(seat).collect();
        Self::new(creation.record, seats, false)
    }

    /// A group that was found on its drives. Writes nothing before `Event::Start`.
    pub fn assembled(candidate: Candidate) -> Self {
        let seat = |finding: MemberFinding| {
            let lost = match finding.role {
                MemberRole::Lost(reason) => Some(reason),
                MemberRole::Current | MemberRole::Behind => None,
            };
            Seat {
                drive: finding.drive,
                holds: finding.generation,
                behind: finding.role == MemberRole::Behind,
                rewrite: finding.rewrite,
                wipe: false,
                lost,
            }
        };
        let seats = candidate.members.into_iter().map(seat).collect();
        Self::new(candidate.record, seats, candidate.accept_dirty_degraded)
    }

    fn new(record: GroupRecord, seats: Vec<Seat>, accept_dirty_degraded: bool) -> Self {
        assert_eq!(seats.len(), record.members.len(), "each member has a seat");
        let resync_row = record.parity.next_row().unwrap_or(0);
        Self {
            phase: Phase::AwaitingStart,
            record,
            announced: None,
            seats,
            faults: 0,
            update: None,
            changes: VecDeque::new(),
            effects: Vec::new(),
            leaving: Vec::new(),
            resync_row,
            stop_requested: false,
            accept_dirty_degraded,
            next_io: 0,
        }
    }

    /// The group's name.
    pub const fn name(&self) -> &Name {
        &self.record.name
    }

    /// The group's UUID.
    pub const fn uuid(&self) -> Uuid {
        self.record.group
    }

    /// Where its blocks live.
    pub fn geometry(&self) -> Geometry {
        self.record.geometry()
    }

    /// Place in the configuration of a member's drive; `None` if no drive carries it.
    pub fn drive_of(&self, member: MemberIndex) -> Option<u16> {
        self.seats
            .get(usize::from(member.0))?
            .drive
            .as_ref()
            .map(|(index, _, _)| *index)
    }

    /// What was announced last; `None` before the first time.
    pub const fn members(&self) -> Option<MemberSet> {
        self.announced
    }

    /// The virtual disks of the newest record.
    pub fn vdisks(&self) -> &[VdiskRecord] {
        &self.record.vdisks
    }

    /// Advances the group by one event; what has to be done goes to `out`, in order.
    ///
    /// Panics if an event contradicts our own actions: a second `Start`, an answer to a write that was not asked
    /// for, a member that the group does not have.
    pub fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Start => self.start(out),
            Event::SuperblockWritten { io, result } => self.superblock_written(io, result, out),
            Event::MemberFault { member, error } => self.lose(member, LossReason::Drive(error), out),
            Event::Evict { member, reason } => self.lose(member, LossReason::Health(reason), out),
            Event::FailMember {
                request,
                member,
                force,
            } => self.fail_member(request, member, force, out),
            Event::CreateVdisk { request, spec } => match self.admit() {
                Ok(()) => self.changes.push_back(Change::CreateVdisk(request, spec)),
                Err(error) => out.push(Action::Reply {
                    request,
                    result: Err(error),
                }),
            },
            Event::DeleteVdisk { request, nsid } => self.delete_vdisk(request, nsid, out),
            Event::VdiskDrained { nsid } => self.vdisk_drained(nsid),
            Event::ResyncProgress { next_row } => self.resync_progress(next_row),
            Event::ResyncDone => {
                let waiting = self
                    .changes
                    .iter()
                    .any(|change| matches!(change, Change::ResyncDone));
                if self.phase == Phase::Open && self.record.parity != ParityState::Trusted && !waiting {
                    self.changes.push_back(Change::ResyncDone);
                }
            }
            Event::Stop => self.stop(out),
        }
        self.advance(out);
    }

    fn start(&mut self, out: &mut Vec<Action>) {
        assert_eq!(self.phase, Phase::AwaitingStart, "a group is started once");
        self.changes.push_back(Change::Open);
        let behind: Vec<MemberIndex> = self.live().filter(|&member| self.seat(member).behind).collect();
        if behind.is_empty() {
            self.phase = Phase::Opening;
            return;
        }
        self.phase = Phase::RollingForward;
        if !self.record.forming {
            out.extend(
                behind
                    .iter()
                    .map(|&member| Action::Report(Report::MemberRolledForward { member })),
            );
        }
        self.write_update(self.record.clone(), &behind, out);
    }

    fn stop(&mut self, out: &mut Vec<Action>) {
        if self.stop_requested {
            return;
        }
        self.stop_requested = true;
        match self.phase {
            Phase::AwaitingStart => {
                self.phase = Phase::Stopped;
                out.push(Action::Stopped {
                    clean: self.record.clean,
                });
            }
            Phase::RollingForward | Phase::Opening | Phase::Open => self.changes.push_back(Change::Close),
            Phase::Failed(_) => out.push(Action::Stopped { clean: false }),
            Phase::Stopped => {}
        }
    }

    /// Whether a request may wait for the next update.
    fn admit(&self) -> Result<(), RequestError> {
        match self.phase {
            Phase::Failed(_) => Err(RequestError::GroupFailed),
            Phase::Open if !self.stop_requested => {
                let waiting = self.changes.len() + self.effects.len() + self.leaving.len();
                if waiting >= REQUESTS_MAX {
                    Err(RequestError::Busy)
                } else {
                    Ok(())
                }
            }
            Phase::AwaitingStart | Phase::RollingForward | Phase::Opening | Phase::Open | Phase::Stopped => {
                Err(RequestError::NotOpen)
            }
        }
    }

    fn fail_member(&mut self, request: RequestId, member: MemberIndex, force: bool, out: &mut Vec<Action>) {
        if let Err(error) = self.admit().and_then(|()| self.may_fail(member, force)) {
            out.push(Action::Reply {
                request,
                result: Err(error),
            });
            return;
        }
        self.changes.push_back(Change::FailMember(request, member));
        self.lose(member, LossReason::Operator, out);
    }

    fn may_fail(&self, member: MemberIndex, force: bool) -> Result<(), RequestError> {
        if usize::from(member.0) >= self.seats.len() {
            return Err(RequestError::NoSuchMember(member.0));
        }
        let lost = self.lost_mask();
        if lost >> member.0 & 1 == 1 {
            return Err(RequestError::AlreadyLost(member.0));
        }
        if force {
            return Ok(());
        }
        if !self.record.survives(lost | 1 << member.0) {
            return Err(RequestError::WouldLoseData(member.0));
        }
        let unproven = matches!(self.record.parity, ParityState::Resync { .. });
        if unproven && !self.accept_dirty_degraded {
            Err(RequestError::Resynchronising(member.0))
        } else {
            Ok(())
        }
    }

    fn delete_vdisk(&mut self, request: RequestId, nsid: u32, out: &mut Vec<Action>) {
        let known = self.record.vdisks.iter().any(|vdisk| vdisk.nsid == nsid);
        let leaving = self.leaving.iter().any(|leaving| leaving.nsid == nsid);
        let verdict = match self.admit() {
            Ok(()) if leaving => Err(RequestError::AlreadyLeaving(nsid)),
            Ok(()) if !known => Err(RequestError::NoSuchVdisk(nsid)),
            verdict => verdict,
        };
        match verdict {
            Ok(()) => {
                self.leaving.push(Leaving {
                    nsid,
                    request,
                    drained: false,
                });
                out.push(Action::VdiskRemoved { nsid });
            }
            Err(error) => out.push(Action::Reply {
                request,
                result: Err(error),
            }),
        }
    }

    fn vdisk_drained(&mut self, nsid: u32) {
        // After a failure or a stop the request was answered already, and nothing is deleted any more.
        let Some(leaving) = self.leaving.iter_mut().find(|leaving| leaving.nsid == nsid) else {
            return;
        };
        assert!(!leaving.drained, "a virtual disk drains once");
        leaving.drained = true;
        self.changes.push_back(Change::RemoveVdisk(leaving.request, nsid));
    }

    fn resync_progress(&mut self, next_row: u64) {
        assert!(
            next_row <= self.record.rows,
            "a resynchronisation stays inside the group"
        );
        let Some(durable_row) = self.record.parity.next_row() else {
            return;
        };
        if self.phase != Phase::Open || next_row <= self.resync_row {
            return;
        }
        self.resync_row = next_row;
        let due = next_row - durable_row >= self.record.rows.div_ceil(RESYNC_CHECKPOINTS);
        let waiting = self
            .changes
            .iter()
            .any(|change| matches!(change, Change::ResyncProgress));
        if due && !waiting && self.update.is_none() {
            self.changes.push_back(Change::ResyncProgress);
        }
    }

    /// Notes that a member is lost; the next update makes it durable.
    fn lose(&mut self, member: MemberIndex, reason: LossReason, out: &mut Vec<Action>) {
        assert!(
            usize::from(member.0) < self.seats.len(),
            "the group has this member"
        );
        if self.lost_mask() >> member.0 & 1 == 1 {
            return; // Several cores may report one fault.
        }
        self.faults |= 1 << member.0;
        self.seats[usize::from(member.0)].lost = Some(reason);
        out.push(Action::Report(Report::MemberLost { member, reason }));
        if let Phase::Failed(why) = self.phase {
            self.announce_failure(why, out); // An engine waits until its member counts as lost.
        }
    }

    /// Starts the next update if none is under way and something waits for one.
    fn advance(&mut self, out: &mut Vec<Action>) {
        if self.update.is_some() {
            return;
        }
        match self.phase {
            Phase::AwaitingStart | Phase::Stopped | Phase::Failed(_) => {}
            Phase::RollingForward => self.fail(FailReason::CreationFailed, out),
            Phase::Opening | Phase::Open => self.propose(out),
        }
    }

    /// Composes the next record from all that waits.
    fn propose(&mut self, out: &mut Vec<Action>) {
        if self.changes.is_empty() && self.faults == 0 {
            return;
        }
        let opening = self.changes.iter().any(|change| matches!(change, Change::Open));
        if opening && self.stop_requested {
            self.phase = Phase::Stopped; // It was never opened: the drives are as they were.
            self.changes.clear();
            out.push(Action::Stopped {
                clean: self.record.clean,
            });
            return;
        }
        let mut next = self.record.clone();
        let changes = std::mem::take(&mut self.changes);
        for change in changes {
            self.apply(change, &mut next, out);
        }
        self.mark_lost(&mut next, self.faults, MemberState::Failed);
        let leaves_out = next.failed_mask() != self.record.failed_mask();
        let step = if opening && leaves_out {
            STEP_WITHOUT_MEMBER
        } else {
            STEP
        };
        if let Err(why) = self.settle_parity(&mut next, out) {
            self.fail(why, out);
            return;
        }
        if next == self.record && !opening {
            assert!(
                self.effects.is_empty(),
                "whatever has an effect changes the record"
            );
            return; // Every request was refused, and every fact was known.
        }
        if next.generation > GENERATION_MAX - step {
            self.fail(FailReason::GenerationsUsedUp, out);
            return;
        }
        next.previous = next.generation;
        next.generation += step;
        for member in next
            .members
            .iter_mut()
            .filter(|member| member.state == MemberState::Active)
        {
            member.current_at = next.generation;
        }
        let live: Vec<MemberIndex> = live_of(&next).collect();
        self.write_update(next, &live, out);
    }

    /// Marks the group open, and members that were not found as missing.
    fn open(&mut self, next: &mut GroupRecord) {
        let unclean = !next.clean;
        next.clean = false;
        next.forming = false;
        let seats = (0u8..).zip(&self.seats);
        let absent = seats.filter(|(member, seat)| seat.lost.is_some() && self.faults >> member & 1 == 0);
        let mask = absent.fold(0, |mask, (member, _)| mask | 1 << member) & !next.failed_mask();
        self.mark_lost(next, mask, MemberState::Missing);
        if unclean && next.level.is_redundant() {
            next.parity = ParityState::Resync { next_row: 0 };
        }
        self.resync_row = next.parity.next_row().unwrap_or(0);
    }

    fn mark_lost(&self, next: &mut GroupRecord, mask: u32, state: MemberState) {
        for ((index, line), seat) in next.members.iter_mut().enumerate().zip(&self.seats) {
            if mask >> index & 1 == 1 && line.state == MemberState::Active {
                line.state = state;
                line.current_at = seat.holds.min(next.generation);
            }
        }
    }

    /// A degraded group lives by its check data: says whether it can, and from then on believes them.
    fn settle_parity(&self, next: &mut GroupRecord, out: &mut Vec<Action>) -> Result<(), FailReason> {
        let lost = next.failed_mask().count_ones();
        if !next.survives(next.failed_mask()) {
            return Err(FailReason::TooManyMembersLost);
        }
        match next.parity {
            ParityState::Resync { .. } if lost > 0 && !self.accept_dirty_degraded => {
                return Err(FailReason::ParityUntrusted);
            }
            ParityState::Resync { .. } if lost > 0 => {
                out.push(Action::Report(Report::DirtyDegradedAccepted));
                next.parity = ParityState::Trusted;
            }
            // Every row that a host has written fits its check data; the others hold nobody's data.
            ParityState::Initial { .. } if lost > 0 => next.parity = ParityState::Trusted,
            ParityState::Resync { .. } | ParityState::Initial { .. } | ParityState::Trusted => {}
        }
        Ok(())
    }

    /// Applies one change to the record to come, or refuses it.
    fn apply(&mut self, change: Change, next: &mut GroupRecord, out: &mut Vec<Action>) {
        match change {
            Change::Open => self.open(next),
            Change::CreateVdisk(request, spec) => match vdisks::create(next, &spec) {
                Ok(vdisk) => self.effects.push(Effect::VdiskCreated(request, vdisk)),
                Err(error) => out.push(Action::Reply {
                    request,
                    result: Err(error),
                }),
            },
            Change::RemoveVdisk(request, nsid) => {
                let count = next.vdisks.len();
                next.vdisks.retain(|vdisk| vdisk.nsid != nsid);
                assert_eq!(
                    next.vdisks.len() + 1,
                    count,
                    "a leaving virtual disk stays in the table until now"
                );
                self.effects.push(Effect::VdiskRemoved(request, nsid));
            }
            Change::FailMember(request, member) => self.effects.push(Effect::MemberFailed(request, member)),
            Change::ResyncProgress => self.set_resync_row(next),
            Change::ResyncDone => next.parity = ParityState::Trusted,
            Change::Close => {
                self.set_resync_row(next);
                next.clean = true;
                self.effects.push(Effect::Closed);
            }
        }
    }

    const fn set_resync_row(&self, next: &mut GroupRecord) {
        match &mut next.parity {
            ParityState::Trusted => {}
            ParityState::Initial { next_row } | ParityState::Resync { next_row } => {
                *next_row = self.resync_row
            }
        }
    }

    /// Starts writing a record to these members.
    fn write_update(&mut self, record: GroupRecord, members: &[MemberIndex], out: &mut Vec<Action>) {
        assert!(self.update.is_none(), "one update at a time");
        record.check().expect("the group composes sound records only");
        let writes = vec![MemberWrites::default(); self.seats.len()];
        let mut update = Update {
            record,
            writes,
            refused: 0,
        };
        for &member in members {
            let seat = &self.seats[usize::from(member.0)];
            if seat.rewrite && !update.record.forming {
                out.push(Action::Report(Report::CopiesRewritten { member }));
            }
            update.writes[usize::from(member.0)].left = seat.writes(update.record.generation);
        }
        self.update = Some(update);
        for &member in members {
            self.write_next(member, out);
        }
    }

    /// Sends a member its next write, if it has one.
    fn write_next(&mut self, member: MemberIndex, out: &mut Vec<Action>) {
        let io = SuperblockIo(self.next_io);
        let seat = &self.seats[usize::from(member.0)];
        let (_, _, drive_bytes) = seat
            .drive
            .as_ref()
            .expect("only members with a drive are written");
        let update = self.update.as_mut().expect("writes belong to an update");
        let writes = &mut update.writes[usize::from(member.0)];
        assert!(writes.io.is_none(), "one write at a time on each member");
        let Some((offset_bytes, content)) = writes.left.pop_front() else {
            return;
        };
        let record = match content {
            Content::Zeroes => Box::new([0; RECORD_BYTES]),
            Content::Record => {
                let record = update.record.clone();
                encode(&Superblock {
                    record,
                    member,
                    drive_bytes: *drive_bytes,
                })
            }
        };
        writes.io = Some(io);
        self.next_io = self.next_io.wrapping_add(1);
        out.push(Action::WriteSuperblock {
            io,
            member,
            offset_bytes,
            record,
        });
    }

    fn superblock_written(
        &mut self,
        io: SuperblockIo,
        result: Result<(), DriveError>,
        out: &mut Vec<Action>,
    ) {
        let update = self.update.as_mut().expect("a write belongs to an update");
        let index = update
            .writes
            .iter()
            .position(|writes| writes.io == Some(io))
            .expect("each write is answered once");
        let member = MemberIndex(u8::try_from(index).expect("a group has at most 32 members"));
        let writes = &mut update.writes[index];
        writes.io = None;
        if result.is_err() {
            writes.left.clear();
            update.refused |= 1 << member.0;
        }
        let generation = update.record.generation;
        let ended = writes.left.is_empty();
        match result {
            Ok(()) if ended => self.seats[index].took(generation),
            Ok(()) => self.write_next(member, out),
            Err(error) => self.lose(member, LossReason::Superblock(error), out),
        }
        let update = self.update.as_ref().expect("it is still under way");
        if update.writes.iter().all(|writes| writes.io.is_none()) {
            let update = self.update.take().expect("it is still under way");
            self.finish(update, out);
        }
    }

    /// Every write of an update has been answered.
    fn finish(&mut self, update: Update, out: &mut Vec<Action>) {
        let first_failed = self.record.forming && update.record.forming && update.refused != 0;
        self.record = update.record;
        self.faults &= !self.record.failed_mask();
        match self.phase {
            Phase::RollingForward if first_failed => {} // `advance` ends it.
            Phase::RollingForward => self.phase = Phase::Opening,
            Phase::Opening | Phase::Open if update.refused == 0 => self.announce(out),
            // Not announced: the next update, without those that refused, will be.
            Phase::Opening | Phase::Open => {
                assert_ne!(self.faults, 0, "who refused an update is on the way out")
            }
            Phase::AwaitingStart | Phase::Stopped | Phase::Failed(_) => {
                unreachable!("no update is under way then")
            }
        }
    }

    /// The newest record is durable on every member that it calls active: says so, and answers who waited for it.
    fn announce(&mut self, out: &mut Vec<Action>) {
        let members = self.record.member_set();
        assert!(
            self.announced
                .is_none_or(|last| last.generation < members.generation),
            "generations grow"
        );
        let holds = |member: MemberIndex| self.seat(member).holds == members.generation;
        assert!(live_of(&self.record).all(holds), "announced only once durable");
        self.announced = Some(members);
        out.push(Action::Members(members));
        out.push(Action::Report(Report::Durable(members)));
        if self.phase == Phase::Opening {
            self.opened(out);
        }
        for effect in std::mem::take(&mut self.effects) {
            let (request, answer) = match effect {
                Effect::VdiskCreated(request, vdisk) => {
                    out.push(Action::VdiskAdded(vdisk.clone()));
                    (request, Answer::VdiskCreated(vdisk))
                }
                Effect::VdiskRemoved(request, nsid) => {
                    self.leaving.retain(|leaving| leaving.nsid != nsid);
                    (request, Answer::VdiskDeleted { nsid })
                }
                Effect::MemberFailed(request, member) => (request, Answer::MemberFailed { member }),
                Effect::Closed => {
                    self.closed(out);
                    continue;
                }
            };
            out.push(Action::Reply {
                request,
                result: Ok(answer),
            });
        }
    }

    fn opened(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Open;
        if self.stop_requested {
            return; // Hosts are not let in for a moment only.
        }
        out.push(Action::Started);
        out.extend(self.record.vdisks.iter().cloned().map(Action::VdiskAdded));
        if let Some(from_row) = self.record.parity.next_row() {
            let unclean = matches!(self.record.parity, ParityState::Resync { .. });
            out.push(Action::Report(Report::ResyncNeeded { from_row, unclean }));
        }
    }

    fn closed(&mut self, out: &mut Vec<Action>) {
        assert!(
            self.record.clean,
            "clean is durable before the group counts as closed"
        );
        self.phase = Phase::Stopped;
        self.refuse_waiting(RequestError::NotOpen, out);
        out.push(Action::Stopped { clean: true });
    }

    /// Ends the group. Nothing is written: drives that come back tell what they knew before this.
    fn fail(&mut self, why: FailReason, out: &mut Vec<Action>) {
        assert!(self.update.is_none(), "writes under way are awaited first");
        self.phase = Phase::Failed(why);
        self.announce_failure(why, out);
        self.refuse_waiting(RequestError::GroupFailed, out);
        if self.stop_requested {
            out.push(Action::Stopped { clean: false });
        }
    }

    /// Tells the engines under which members nothing is written any more.
    fn announce_failure(&mut self, why: FailReason, out: &mut Vec<Action>) {
        let failed = match why {
            FailReason::TooManyMembersLost => self.lost_mask(),
            // Data of the members that are left must not be mixed with check data that may not fit.
            FailReason::ParityUntrusted | FailReason::CreationFailed | FailReason::GenerationsUsedUp => {
                u32::MAX >> (u32::BITS as usize - self.seats.len())
            }
        };
        let last = self
            .announced
            .map_or(0, |members| members.generation)
            .max(self.record.generation);
        let members = MemberSet {
            generation: last + 1,
            failed,
            parity_trusted: false,
            rebuilding: 0,
            rebuilt_rows: 0,
        };
        self.announced = Some(members);
        out.push(Action::GroupFailed { why, members });
    }

    /// Answers every request that no update will carry out any more.
    fn refuse_waiting(&mut self, error: RequestError, out: &mut Vec<Action>) {
        let effects = std::mem::take(&mut self.effects);
        let mut requests: Vec<RequestId> = effects.iter().filter_map(Effect::request).collect();
        for change in std::mem::take(&mut self.changes) {
            match change {
                Change::CreateVdisk(request, _) | Change::FailMember(request, _) => requests.push(request),
                // Deletions are in `leaving` as well.
                Change::RemoveVdisk(..) => {}
                Change::Open | Change::ResyncProgress | Change::ResyncDone | Change::Close => {}
            }
        }
        requests.extend(self.leaving.drain(..).map(|leaving| leaving.request));
        requests.sort_unstable();
        requests.dedup();
        out.extend(requests.into_iter().map(|request| Action::Reply {
            request,
            result: Err(error),
        }));
    }

    fn seat(&self, member: MemberIndex) -> &Seat {
        &self.seats[usize::from(member.0)]
    }

    /// Members that are usable as far as we know at this moment.
    fn live(&self) -> impl Iterator<Item = MemberIndex> + '_ {
        live_of(&self.record).filter(|member| self.lost_mask() >> member.0 & 1 == 0)
    }

    /// Members that are lost, durably or not yet.
    fn lost_mask(&self) -> u32 {
        let seats = self
            .seats
            .iter()
            .enumerate()
            .filter(|(_, seat)| seat.lost.is_some());
        seats.fold(self.record.failed_mask() | self.faults, |mask, (index, _)| {
            mask | 1 << index
        })
    }
}

/// Members that a record calls active.
fn live_of(record: &GroupRecord) -> impl Iterator<Item = MemberIndex> + '_ {
    let lines = (0u8..).zip(&record.members);
    lines
        .filter(|(_, line)| line.state == MemberState::Active)
        .map(|(member, _)| MemberIndex(member))
}
