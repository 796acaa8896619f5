//! The machine of one group: events in, actions out.
//!
//! At most one update is under way. What arrives meanwhile waits and goes into the next one together.
//! An update writes slot `generation % 2` of the head and then of the tail on every live member; a
//! member that cannot take it is out with the next update, and only an update that every member took
//! is announced.

mod announce;
mod disks;
mod expansion;
mod following;
mod intent;
mod lost;
mod pages;
mod places;
mod seat;
mod snapshot;
mod takeover;
mod update;

use std::collections::VecDeque;
use std::sync::Arc;

use super::assemble::{Candidate, MemberFinding, MemberRole, SpareFinding};
use super::create::{Creation, CreationMember};
use super::status::LossReason;
use super::{
    Action, Event, FailReason, LanesOver, Opening, Replay, Report, RequestError, RequestId, VdiskChange,
    VdiskSize, VdiskSpec, vdisks,
};
use crate::amf::expansion::{ExpansionRecord, ScratchState};
use crate::amf::geometry::Geometry;
use crate::amf::intent::IntentMap;
use crate::amf::journal::lane_blocks_min;
use crate::amf::lost::{LostList, LostMap};
use crate::amf::superblock::{
    Durability, GENERATION_MAX, GroupRecord, JournalRecord, MemberState, Name, ParityState, STEP,
    STEP_WITHOUT_MEMBER, Uuid, VdiskRecord,
};
use crate::amf::{MemberIndex, MemberSet};
use crate::drive::DriveError;
use disks::Leaving;
use expansion::Joining;
use intent::IntentKeeper;
use lost::LostKeeper;
use pages::PageKeeper;
use places::{NewDrive, Wanted};
use seat::{Comeback, Seat, SeatDrive, SpareSeat};
use update::{Target, Update};

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
    /// What was restored of an expansion, on all members. The group is assembled once more afterwards.
    Restoring,
    /// The write-intent bitmap on the drives: the journal that had its rows is dead after the next update.
    Persisting,
    /// "Not clean" on all members.
    Opening,
    /// Anything.
    Open,
    /// Newer records of the node that leads the group. Nothing is written.
    Following,
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
    ResizeVdisk(RequestId, u32, VdiskSize),
    LeaveVdisk(RequestId, u32),
    RemoveVdisk(Option<RequestId>, u32),
    Vdisk(RequestId, u32, VdiskChange),
    FailMember(RequestId, MemberIndex),
    AddSpare(RequestId, Uuid, SeatDrive, bool),
    RemoveSpare(RequestId, Uuid),
    Expand(RequestId, Vec<NewDrive>),
    ExpansionScratch(ScratchState),
    ExpansionProgress(u64),
    ResyncProgress,
    ResyncDone,
    RebuildProgress,
    RebuildDone(u64),
    ScrubProgress(u64),
    RamDirty,
    RamClean,
    LanesOver(LanesOver),
    Close,
}

/// What is said once an update is durable.
#[derive(Clone, Debug)]
enum Effect {
    VdiskCreated(RequestId, VdiskRecord),
    VdiskResized(RequestId, VdiskRecord),
    VdiskChanged(RequestId, VdiskRecord),
    VdiskLeaves(RequestId, u32),
    VdiskRemoved(Option<RequestId>, u32),
    MemberFailed(RequestId, MemberIndex),
    MemberReplaced(RequestId, MemberIndex, Uuid),
    SpareAdded(RequestId, Uuid),
    SpareRemoved(RequestId, Uuid),
    Expanding(RequestId),
    MemberRebuilt(MemberIndex),
    RamAllowed,
    RamCleared,
    LanesOver(LanesOver),
    Closed,
}

impl Effect {
    const fn request(&self) -> Option<RequestId> {
        match self {
            Self::VdiskCreated(request, _)
            | Self::VdiskResized(request, _)
            | Self::VdiskChanged(request, _)
            | Self::VdiskLeaves(request, _)
            | Self::MemberFailed(request, _)
            | Self::MemberReplaced(request, ..)
            | Self::SpareAdded(request, _)
            | Self::SpareRemoved(request, _)
            | Self::Expanding(request) => Some(*request),
            Self::VdiskRemoved(request, _) => *request,
            Self::MemberRebuilt(_)
            | Self::RamAllowed
            | Self::RamCleared
            | Self::LanesOver(_)
            | Self::Closed => None,
        }
    }
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
    /// Drives of spares, and of those that are to be or were just now.
    spares: Vec<SpareSeat>,
    /// Members that the update under way would add.
    joining: Option<Joining>,
    /// What was announced last of an expansion.
    announced_expansion: Option<ExpansionRecord>,
    /// What was to be said of the scratch area was not, because a member was lost.
    declined: bool,
    /// The members are to learn what was restored, and nothing else.
    restoring: Option<ExpansionRecord>,
    /// Places that an operator wants filled.
    wanted: Vec<Wanted>,
    /// Members that have got another drive since the last announcement.
    moved: u32,
    /// Names the rebuild that is going on.
    wave: Option<u64>,
    /// A member has begun to be rebuilt since the last announcement.
    wave_begins: bool,
    /// Rows that are rebuilt and flushed; more than `record` says while an update is under way.
    rebuilt_rows: u64,
    opening: Opening,
    /// Other nodes have the group open already, and these lanes are over.
    taken_over: Option<LanesOver>,
    intent: Option<IntentKeeper>,
    lost_blocks: LostKeeper,
    pages: PageKeeper,
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
        let seat =
            |member: CreationMember| Seat::new((member.index, member.label, member.bytes), member.wipe);
        let seats = creation.members.into_iter().map(seat).collect();
        Self::new(creation.record, seats, Vec::new(), false)
    }

    /// A group that was found on its drives. Writes nothing before `Event::Start`.
    ///
    /// Nothing is known of what lost members have missed, until [`Self::with_intent`] says so.
    pub fn assembled(candidate: Candidate) -> Self {
        let record = candidate.record;
        let lines = candidate.members.into_iter();
        let seat = |finding: MemberFinding| {
            let stale = LossReason::Stale {
                generation: finding.generation,
            };
            let (lost, returning, behind) = match finding.role {
                MemberRole::Current => (None, None, false),
                MemberRole::Behind => (None, None, true),
                MemberRole::Rebuilding { behind } => (None, None, behind),
                MemberRole::Returning { partial: true } => (Some(stale), Some(Comeback::Partial), false),
                MemberRole::Returning { partial: false } => (Some(stale), Some(Comeback::Full), false),
                MemberRole::Lost(reason) => (Some(reason), None, false),
            };
            Seat {
                drive: finding.drive,
                holds: finding.generation,
                behind,
                rewrite: finding.rewrite,
                wipe: false,
                lost,
                list: returning.is_none().then_some(0),
                returning,
            }
        };
        let seats = lines.map(seat).collect();
        let spare = |(identity, finding): (&Uuid, SpareFinding)| SpareSeat {
            identity: *identity,
            seat: Seat {
                drive: finding.drive,
                holds: finding.generation,
                behind: false,
                rewrite: true,
                wipe: false,
                lost: None,
                list: None,
                returning: None,
            },
        };
        let spares = record.spares.iter().zip(candidate.spares).map(spare).collect();
        let group = Self::new(record, seats, spares, candidate.accept_dirty_degraded);
        if let Some(keeper) = &group.intent
            && group
                .record
                .intent
                .is_some_and(|intent| intent.since_generation != 0)
        {
            keeper.map.mark_all();
        }
        group
    }

    /// Says what lost members have missed, as [`Candidate::load_intent`] has read it.
    ///
    /// Panics after `Event::Start`, and for a group that has no write-intent bitmap.
    pub fn with_intent(mut self, map: IntentMap) -> Self {
        assert_eq!(
            self.phase,
            Phase::AwaitingStart,
            "the bitmap is read before the start"
        );
        assert!(self.intent.is_some(), "only a group with redundancy has a bitmap");
        self.intent = Some(IntentKeeper::new(map));
        self
    }

    /// Says what is lost, as [`Candidate::load_lost`] or the replay of the journal has it.
    ///
    /// Panics after `Event::Start`.
    pub fn with_lost(mut self, found: LostList) -> Self {
        assert_eq!(
            self.phase,
            Phase::AwaitingStart,
            "the list is read before the start"
        );
        self.lost_blocks = LostKeeper::new(found);
        self
    }

    fn new(
        record: GroupRecord,
        seats: Vec<Seat>,
        spares: Vec<SpareSeat>,
        accept_dirty_degraded: bool,
    ) -> Self {
        assert_eq!(seats.len(), record.members.len(), "each member has a seat");
        let resync_row = record.parity.next_row().unwrap_or(0);
        let map = record
            .intent
            .map(|intent| IntentMap::new(record.rows, intent.rows_per_bit));
        let record_expansion = record.expansion;
        Self {
            phase: Phase::AwaitingStart,
            rebuilt_rows: record.rebuilt_rows,
            record,
            announced: None,
            seats,
            spares,
            wanted: Vec::new(),
            moved: 0,
            joining: None,
            announced_expansion: record_expansion,
            declined: false,
            restoring: None,
            wave: None,
            wave_begins: true,
            opening: Opening::WRITE_THROUGH,
            taken_over: None,
            intent: map.map(IntentKeeper::new),
            lost_blocks: LostKeeper::default(),
            pages: PageKeeper::default(),
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

    /// The shape with all members, whether or not an expansion has got there yet.
    pub fn geometry(&self) -> Geometry {
        self.record.geometry()
    }

    /// Place in the configuration of a member's drive; `None` if no drive carries it.
    pub fn drive_of(&self, member: MemberIndex) -> Option<u16> {
        self.seats.get(usize::from(member.0))?.index()
    }

    /// Where the journal is and how its lanes lie. After a start they lie otherwise than before.
    pub const fn journal(&self) -> Option<JournalRecord> {
        self.record.journal
    }

    /// When a host's write counts as done.
    pub const fn durability(&self) -> Durability {
        self.record.durability
    }

    /// Which rows lost members have missed; `None` without redundancy. Cores mark rows in it, see [`Opening::marks_intent`].
    pub fn intent(&self) -> Option<&Arc<IntentMap>> {
        self.intent.as_ref().map(|keeper| &keeper.map)
    }

    /// The list of lost blocks; cores add to it and take off, and then ask for [`Event::PersistLost`].
    pub const fn lost_blocks(&self) -> &Arc<LostMap> {
        &self.lost_blocks.map
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
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of event")]
    pub fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        if self.phase == Phase::Following {
            return self.handle_following(event, out);
        }
        match event {
            Event::Start(opening) => self.start(opening, out),
            Event::TakeOver(take_over) => self.take_over(take_over, out),
            Event::LanesOver(over) => self.change_once(true, Change::LanesOver(over), |_| false),
            Event::Followed(_) => {} // Of the node that led the group before this one.
            Event::SuperblockWritten { io, result } => self.superblock_written(io, result, out),
            Event::MemberFault { member, error } => self.member_fault(member, error, out),
            Event::LeftOut { members } => self.leave_out(members, out),
            Event::Evict { member, reason } => self.lose(member, LossReason::Health(reason), out),
            Event::FailMember {
                request,
                member,
                force,
            } => self.fail_member(request, member, force, out),
            Event::CreateVdisk { request, spec } => match self.admit() {
                Ok(()) => self.changes.push_back(Change::CreateVdisk(request, spec)),
                Err(error) => refuse(request, error, out),
            },
            Event::ResizeVdisk { request, nsid, size } => self.resize_vdisk(request, nsid, size, out),
            Event::DeleteVdisk { request, nsid } => self.delete_vdisk(request, nsid, out),
            Event::LeaveVdisk { request, nsid } => self.leave_vdisk(request, nsid, out),
            Event::ChangeVdisk {
                request,
                nsid,
                change,
            } => self.change_vdisk(request, nsid, change, out),
            Event::VdiskDrained { nsid } => self.vdisk_drained(nsid),
            Event::ResyncProgress { next_row } => self.resync_progress(next_row),
            Event::ResyncDone => {
                let due = self.record.parity != ParityState::Trusted;
                self.change_once(due, Change::ResyncDone, |change| {
                    matches!(change, Change::ResyncDone)
                });
            }
            Event::RamDirty => self.ram_dirty(out),
            Event::RamClean => self.change_once(self.record.dirty_ram, Change::RamClean, |change| {
                matches!(change, Change::RamClean)
            }),
            Event::ReplaceMember {
                request,
                member,
                drive,
                identity,
                force,
            } => self.replace_member(request, member, &drive, (identity, force), out),
            Event::AddSpare {
                request,
                drive,
                identity,
                force,
            } => self.add_spare(request, &drive, identity, force, out),
            Event::RemoveSpare { request, spare } => self.remove_spare(request, spare, out),
            Event::Expand {
                request,
                drives,
                identities,
                force,
            } => self.expand(request, &drives, &identities, force, out),
            Event::ExpansionScratch(scratch) => self.expansion_scratch(scratch),
            Event::ExpansionProgress { frontier } => self.expansion_progress(frontier),
            Event::Restored(expansion) => self.restored(expansion, out),
            Event::RebuildProgress { wave, rows } => self.rebuild_progress(wave, rows),
            Event::RebuildDone { wave } => {
                let due = self.wave == Some(wave) && !self.wave_begins;
                self.change_once(due, Change::RebuildDone(wave), |change| {
                    matches!(change, Change::RebuildDone(_))
                });
            }
            Event::ScrubProgress { row } => {
                assert!(row <= self.record.rows, "a scrub stays inside the group");
                self.changes
                    .retain(|change| !matches!(change, Change::ScrubProgress(_)));
                self.change_once(row != self.record.scrub_row, Change::ScrubProgress(row), |_| {
                    false
                });
            }
            Event::PersistIntent { request } => self.persist_intent(request),
            Event::PersistLost { request } => self.persist_lost(request),
            Event::PersistPage(write) => self.persist_page(write),
            Event::Stop => self.stop(out),
        }
        self.advance(out);
    }

    /// Has a change wait for the next update of an open group, unless one like it waits already.
    fn change_once(&mut self, due: bool, change: Change, is_like: impl Fn(&Change) -> bool) {
        if due && self.phase == Phase::Open && !self.changes.iter().any(is_like) {
            self.changes.push_back(change);
        }
    }

    fn start(&mut self, opening: Opening, out: &mut Vec<Action>) {
        assert_eq!(self.phase, Phase::AwaitingStart, "a group is started once");
        self.opening = opening;
        self.changes.push_back(Change::Open);
        self.renew_lost();
        if let Replay::Done { rows } = opening.replay {
            out.push(Action::Report(Report::Replayed { rows }));
        }
        if let Err(why) = self.cut_lanes() {
            return self.fail(why, out);
        }
        assert!(
            !self
                .record
                .expansion
                .is_some_and(|expansion| expansion.awaits_restore()),
            "what an expansion has left in the scratch area is put in its place before the start"
        );
        if !self.roll_forward(out) {
            self.begin_opening(out);
        }
    }

    /// Writes the newest record to the members that lack it; false if none does.
    fn roll_forward(&mut self, out: &mut Vec<Action>) -> bool {
        let is_behind = |&member: &MemberIndex| self.seat(member).behind;
        let behind: Vec<MemberIndex> = self.live().filter(is_behind).collect();
        if behind.is_empty() {
            return false;
        }
        self.phase = Phase::RollingForward;
        if !self.record.forming {
            out.extend(
                behind
                    .iter()
                    .map(|&member| Action::Report(Report::MemberRolledForward { member })),
            );
        }
        let targets: Vec<Target> = behind.into_iter().map(Target::Member).collect();
        self.write_update(self.record.clone(), &targets, out);
        true
    }

    /// The journal as it will be in this incarnation: one lane for each core.
    fn cut_lanes(&self) -> Result<Option<JournalRecord>, FailReason> {
        if self.record.journal.is_none() {
            return Ok(None);
        }
        if self.taken_over.is_some() {
            return Ok(self.journal_taken_over());
        }
        let Opening {
            lanes,
            lane_blocks_max,
            ..
        } = self.opening;
        let cut = self.opening_journal(lanes, lane_blocks_max);
        cut.ok_or(FailReason::JournalTooSmall(lanes)).map(Some)
    }

    /// The journal as it will lie once the group is opened by so many cores; `None` without a journal, or if its region is too small.
    pub fn opening_journal(&self, lanes: u16, lane_blocks_max: u32) -> Option<JournalRecord> {
        let journal = self.record.journal?;
        let least = lane_blocks_min(&self.record.geometry());
        let cut = journal.with_lanes(lanes, least, self.record.block)?;
        // Whole pages, as all regions are measured: the least is rounded up, the most down.
        const PAGE_BYTES: u32 = 4096;
        let page = PAGE_BYTES / self.record.block.bytes();
        let most = (lane_blocks_max - lane_blocks_max % page).max(least.next_multiple_of(page));
        Some(JournalRecord {
            lane_blocks: cut.lane_blocks.min(most),
            incarnation: journal.incarnation + 1,
            ..cut
        })
    }

    /// The newest record is on all members. What the journal alone had to say about lost members has to be durable before the
    /// opening makes the journal's records void (PROTOCOL H31).
    fn begin_opening(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Opening;
        if self.opening.marks_intent && self.lost_mask() != 0 && self.flush_intent(out) {
            self.phase = Phase::Persisting;
        }
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
            Phase::Restoring => unreachable!("such a group is never started"),
            Phase::RollingForward | Phase::Persisting | Phase::Opening | Phase::Open => {
                self.changes.push_back(Change::Close);
            }
            Phase::Failed(_) => out.push(Action::Stopped { clean: false }),
            Phase::Following | Phase::Stopped => {}
        }
    }

    /// Whether a request may wait for the next update.
    fn admit(&self) -> Result<(), RequestError> {
        match self.phase {
            Phase::Failed(_) => Err(RequestError::GroupFailed),
            Phase::Following => Err(RequestError::Led),
            Phase::Open if !self.stop_requested => {
                let waiting =
                    self.changes.len() + self.effects.len() + self.leaving.len() + self.wanted.len();
                if waiting >= REQUESTS_MAX {
                    Err(RequestError::Busy)
                } else {
                    Ok(())
                }
            }
            Phase::AwaitingStart
            | Phase::RollingForward
            | Phase::Restoring
            | Phase::Persisting
            | Phase::Opening
            | Phase::Open
            | Phase::Stopped => Err(RequestError::NotOpen),
        }
    }

    fn fail_member(&mut self, request: RequestId, member: MemberIndex, force: bool, out: &mut Vec<Action>) {
        if let Err(error) = self.admit().and_then(|()| self.may_fail(member, force)) {
            return refuse(request, error, out);
        }
        self.changes.push_back(Change::FailMember(request, member));
        self.lose(member, LossReason::Operator, out);
    }

    fn may_fail(&self, member: MemberIndex, force: bool) -> Result<(), RequestError> {
        if usize::from(member.0) >= self.seats.len() {
            return Err(RequestError::NoSuchMember(member.0));
        }
        if self.seat(member).lost.is_some() {
            return Err(RequestError::AlreadyLost(member.0));
        }
        if force {
            return Ok(());
        }
        if !self.record.survives(self.lost_mask() | 1 << member.0) {
            return Err(RequestError::WouldLoseData(member.0));
        }
        let unproven = matches!(self.record.parity, ParityState::Resync { .. });
        if unproven && !self.accept_dirty_degraded {
            Err(RequestError::Resynchronising(member.0))
        } else {
            Ok(())
        }
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

    fn ram_dirty(&mut self, out: &mut Vec<Action>) {
        assert_eq!(
            self.record.durability,
            Durability::Ram,
            "only a group of this durability acknowledges from memory"
        );
        if self.phase == Phase::Open
            && self.announced.is_some()
            && self.record.dirty_ram
            && self.update.is_none()
        {
            out.push(Action::RamAllowed);
        } else {
            self.change_once(!self.stop_requested, Change::RamDirty, |change| {
                matches!(change, Change::RamDirty)
            });
        }
    }

    /// An engine could not use a member.
    pub(super) fn member_fault(&mut self, member: MemberIndex, error: DriveError, out: &mut Vec<Action>) {
        // Engines use members that were announced. What comes late is about a drive that has left its place.
        let usable = self
            .announced
            .is_none_or(|set| !set.is_failed(member) || set.rebuilding >> member.0 & 1 == 1);
        if usable {
            self.lose(member, LossReason::Drive(error), out);
        }
    }

    /// Notes that a member is lost; the next update makes it durable.
    fn lose(&mut self, member: MemberIndex, reason: LossReason, out: &mut Vec<Action>) {
        assert!(
            usize::from(member.0) < self.seats.len(),
            "the group has this member"
        );
        if self.seat(member).lost.is_some() {
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
            Phase::AwaitingStart
            | Phase::Restoring
            | Phase::Persisting
            | Phase::Following
            | Phase::Stopped
            | Phase::Failed(_) => {}
            Phase::RollingForward => self.fail(FailReason::CreationFailed, out),
            Phase::Opening | Phase::Open => {
                self.propose(out);
                self.advance_intent(out);
                self.advance_lost(out);
                self.advance_pages(out);
            }
        }
    }

    /// Composes the next record from all that waits.
    fn propose(&mut self, out: &mut Vec<Action>) {
        let spare_lost = self.spares.iter().any(|spare| spare.seat.lost.is_some());
        if self.changes.is_empty() && self.faults == 0 && !spare_lost && !self.may_fill() {
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
        self.take_back_expansion(&mut next, out);
        self.mark_lost(&mut next, self.faults);
        self.decline_scratch(&mut next);
        next.spares.retain(|spare| self.is_sound_spare(*spare));
        self.fill_places(&mut next, opening, out);
        forget_ended_rebuild(&mut next);
        if let Err(why) = self.settle_parity(&mut next, out) {
            self.fail(why, out);
            return;
        }
        if next == self.record && !opening {
            assert!(
                self.effects.is_empty(),
                "whatever has an effect changes the record"
            );
            self.announce_layout(out);
            return; // Every request was refused, and every fact was known.
        }
        if let Err(why) = self.stamp(&mut next, opening) {
            self.fail(why, out);
            return;
        }
        let targets = self.targets(&next);
        self.write_update(next, &targets, out);
    }

    /// Gives the record to come its generation, and says in it since when marks count.
    fn stamp(&self, next: &mut GroupRecord, starting: bool) -> Result<(), FailReason> {
        let leaves_out = next.failed_mask() != self.record.failed_mask();
        let step = if starting && leaves_out {
            STEP_WITHOUT_MEMBER
        } else {
            STEP
        };
        if next.generation > GENERATION_MAX - step {
            return Err(FailReason::GenerationsUsedUp);
        }
        next.previous = next.generation;
        next.generation += step;
        for member in next.members.iter_mut().filter(|member| member.state.takes_part()) {
            member.current_at = next.generation;
        }
        self.settle_intent(next);
        let since = |record: &GroupRecord| record.intent.map(|intent| intent.since_generation);
        if since(next) != since(&self.record) && since(next) == Some(next.generation) {
            // The marks on the drives say nothing any more: after a stop nobody knows which rows are left.
            next.rebuild_partial = false;
        }
        Ok(())
    }

    /// Members that were lost before the group was opened, as a mask.
    fn absent_mask(&self) -> u32 {
        let seats = (0u8..).zip(&self.seats);
        let absent = seats.filter(|(_, seat)| seat.lost.is_some());
        absent.fold(0, |mask, (member, _)| mask | 1 << member)
    }

    /// Marks the group open, and members that were not found as missing.
    fn open(&mut self, next: &mut GroupRecord, out: &mut Vec<Action>) {
        let unclean = !next.clean;
        next.clean = false;
        next.forming = false;
        // Nodes that go on have acknowledged from memory what is not lost.
        if next.dirty_ram && self.taken_over.is_none() {
            next.dirty_ram = false;
            out.push(Action::Report(Report::LostWritesAccepted));
        }
        next.journal = self
            .cut_lanes()
            .expect("a group whose lanes do not fit was not started");
        self.mark_lost(next, self.absent_mask());
        // Replaying the journal has finished every row that was being written.
        if unclean && next.is_redundant() && self.opening.replay == Replay::None {
            next.parity = ParityState::Resync { next_row: 0 };
        }
        self.resync_row = next.parity.next_row().unwrap_or(0);
        next.rebuild_partial &= self.opening.marks_intent;
    }

    /// Notes members as lost, with the newest generation that each may have.
    fn mark_lost(&self, next: &mut GroupRecord, mask: u32) {
        let (generation, partial) = (next.generation, next.rebuild_partial);
        for ((index, line), seat) in next.members.iter_mut().enumerate().zip(&self.seats) {
            if mask >> index & 1 == 0 || !line.state.takes_part() {
                continue;
            }
            let filled = line.state == MemberState::Active || partial;
            line.current_at = match (filled, &seat.drive) {
                (false, _) => 0, // Half of a full rebuild is no data to go on from.
                (true, Some(_)) => seat.holds.min(generation),
                (true, None) => generation,
            };
            let reason = seat.lost.expect("who is marked as lost has a reason");
            line.state = if reason.is_absence() {
                MemberState::Missing
            } else {
                MemberState::Failed
            };
        }
    }

    /// A degraded group lives by its check data: says whether it can.
    fn settle_parity(&self, next: &mut GroupRecord, out: &mut Vec<Action>) -> Result<(), FailReason> {
        let lost = next.failed_mask().count_ones();
        if !next.survives(next.failed_mask()) {
            return Err(FailReason::TooManyMembersLost);
        }
        match next.parity {
            ParityState::Resync { .. } if lost > 0 && !self.accept_dirty_degraded => {
                return Err(FailReason::ParityUntrusted);
            }
            ParityState::Resync { next_row } if lost > 0 => {
                out.push(Action::Report(Report::DirtyDegradedAccepted));
                // What the rows hold is taken as it is, but their check strips need not fit one another.
                next.parity = ParityState::Initial { next_row };
            }
            // Every place that a host has written fits its check data; the others hold nobody's data.
            ParityState::Resync { .. } | ParityState::Initial { .. } | ParityState::Trusted => {}
        }
        Ok(())
    }

    /// Applies one change to the record to come, or refuses it.
    fn apply(&mut self, change: Change, next: &mut GroupRecord, out: &mut Vec<Action>) {
        match change {
            Change::Open => self.open(next, out),
            Change::CreateVdisk(request, spec) => match vdisks::create(next, &spec) {
                Ok(vdisk) => self.effects.push(Effect::VdiskCreated(request, vdisk)),
                Err(error) => refuse(request, error, out),
            },
            Change::ResizeVdisk(request, nsid, size) => match vdisks::resize(next, nsid, size) {
                Ok(vdisk) => self.effects.push(Effect::VdiskResized(request, vdisk)),
                Err(error) => refuse(request, error, out),
            },
            Change::Vdisk(request, nsid, change) => match vdisks::change(next, nsid, change) {
                Ok(vdisk) => self.effects.push(Effect::VdiskChanged(request, vdisk)),
                Err(error) => refuse(request, error, out),
            },
            Change::LeaveVdisk(request, nsid) => match vdisks::leave(next, nsid) {
                Ok(()) => self.effects.push(Effect::VdiskLeaves(request, nsid)),
                Err(error) => refuse(request, error, out),
            },
            Change::Expand(request, joining) => self.apply_expand(next, request, joining, out),
            Change::ExpansionScratch(scratch) => Self::apply_scratch(next, scratch),
            Change::ExpansionProgress(frontier) => self.apply_frontier(next, frontier),
            Change::AddSpare(request, identity, drive, wipe) => {
                self.apply_add_spare(next, request, identity, drive, wipe, out);
            }
            Change::RemoveSpare(request, spare) => self.apply_remove_spare(next, request, spare, out),
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
            Change::RebuildProgress => next.rebuilt_rows = self.rebuilt_rows,
            Change::RebuildDone(wave) => self.apply_rebuild_done(next, wave),
            Change::ScrubProgress(row) => next.scrub_row = row,
            Change::RamDirty => {
                if !next.dirty_ram {
                    next.dirty_ram = true;
                    self.effects.push(Effect::RamAllowed);
                }
            }
            Change::RamClean => {
                next.dirty_ram = false;
                self.effects.push(Effect::RamCleared);
            }
            Change::LanesOver(over) => self.apply_lanes_over(next, over, out),
            Change::Close => {
                self.set_resync_row(next);
                next.rebuilt_rows = self.rebuilt_rows;
                next.dirty_ram = false;
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

    fn seat(&self, member: MemberIndex) -> &Seat {
        &self.seats[usize::from(member.0)]
    }

    /// Members that take records as far as we know at this moment.
    fn live(&self) -> impl Iterator<Item = MemberIndex> + '_ {
        participants(&self.record).filter(|member| self.seat(*member).lost.is_none())
    }

    /// Members without which the group has to live, wholly or for some rows, durably or not yet.
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

    /// Members that the newest record calls failed or missing.
    fn gone_mask(&self) -> u32 {
        self.record.failed_mask() & !self.record.rebuilding_mask()
    }
}

/// Members whose drives take a record.
fn participants(record: &GroupRecord) -> impl Iterator<Item = MemberIndex> + '_ {
    let lines = (0u8..).zip(&record.members);
    lines
        .filter(|(_, line)| line.state.takes_part())
        .map(|(member, _)| MemberIndex(member))
}

/// Where no member is under rebuild any more, none has got anywhere.
fn forget_ended_rebuild(record: &mut GroupRecord) {
    if record.rebuilding_mask() == 0 {
        (record.rebuilt_rows, record.rebuild_partial) = (0, false);
    }
}

fn refuse(request: RequestId, error: RequestError, out: &mut Vec<Action>) {
    out.push(Action::Reply {
        request,
        result: Err(error),
    });
}
