//! A group gets more members, and its rows are laid out anew over all of them.
//!
//! The new members and "nothing is laid out anew yet" are durable in one update. From then on waves of rows come, and each of them
//! is durable here before it counts. A new member that refuses that first update is none, and the expansion has not begun; so it is
//! if a start finds nothing laid out and a new member missing (see `assemble`).

use super::places::NewDrive;
use super::seat::Seat;
use super::{Change, Effect, Group, Phase, forget_ended_rebuild, refuse};
use crate::amf::expansion::{ExpansionError, ExpansionRecord, Layout, ScratchArea, ScratchState, Waves};
use crate::amf::geometry::Level;
use crate::amf::group::{Action, DriveFacts, RequestError, RequestId};
use crate::amf::journal::lane_blocks_min;
use crate::amf::superblock::{GroupRecord, MemberRecord, MemberState, ParityState, Uuid};
use crate::amf::{MEMBERS_MAX, MemberIndex, RowIndex};

/// Members that an update would add, until it is announced.
#[derive(Clone, Debug)]
pub(super) struct Joining {
    request: RequestId,
    /// Members before.
    old_members: u8,
}

impl Group {
    /// Where every block is as far as that is durable.
    pub fn layout(&self) -> Layout {
        self.record.layout()
    }

    /// Whether all data can still be had without these members.
    pub fn survives(&self, failed: u32) -> bool {
        self.record.survives(failed)
    }

    /// How far the expansion is that is going on.
    pub const fn expansion(&self) -> Option<ExpansionRecord> {
        self.record.expansion
    }

    /// Where rows go that overlap their own sources; as of this opening.
    pub fn scratch_area(&self) -> Option<ScratchArea> {
        self.record.scratch_area()
    }

    pub(super) fn expand(
        &mut self,
        request: RequestId,
        drives: &[DriveFacts],
        identities: &[Uuid],
        force: bool,
        out: &mut Vec<Action>,
    ) {
        assert_eq!(
            drives.len(),
            identities.len(),
            "the caller makes one identity for each drive"
        );
        let verdict = self
            .admit()
            .and_then(|()| self.may_expand(drives.len()))
            .and_then(|()| self.check_joining(drives, identities, force));
        match verdict {
            Ok(joining) => self.changes.push_back(Change::Expand(request, joining)),
            Err(error) => refuse(request, error, out),
        }
    }

    /// Whether the group as it is can grow by so many members.
    fn may_expand(&self, count: usize) -> Result<(), RequestError> {
        let waiting = self
            .changes
            .iter()
            .any(|change| matches!(change, Change::Expand(..)));
        if self.record.expansion.is_some() || self.joining.is_some() || waiting {
            return Err(RequestError::ExpansionRunning);
        }
        if self.record.level == Level::Raid1 {
            return Err(RequestError::NotExpandable);
        }
        let old = self.record.members.len();
        let wide = u8::try_from(old.saturating_add(count)).unwrap_or(u8::MAX);
        if count == 0 {
            return Err(RequestError::NoDrives);
        }
        if usize::from(wide) > MEMBERS_MAX {
            return Err(RequestError::TooManyMembers);
        }
        let strips = |members| self.record.level.member_strips(members);
        if strips(wide) != strips(u8::try_from(old).expect("at most 32 members")) {
            return Err(RequestError::OddNumber);
        }
        self.is_whole(&self.record)?;
        self.has_room(wide)
    }

    /// Whether every member is there and every row fits its check data.
    fn is_whole(&self, record: &GroupRecord) -> Result<(), RequestError> {
        let settled = record.parity == ParityState::Trusted;
        if self.lost_mask() == 0 && record.failed_mask() == 0 && settled {
            Ok(())
        } else {
            Err(RequestError::NotHealthy)
        }
    }

    /// Whether scratch area and journal have room for rows of so many members, and the group enough rows.
    fn has_room(&self, wide: u8) -> Result<(), RequestError> {
        let data = |members| self.record.level.data_columns(members);
        let (old, scratch_rows) = (self.record.data_members(), self.record.scratch_rows(wide));
        let waves = Waves::new(old, data(wide), self.record.rows, scratch_rows);
        let waves = waves.map_err(|error| match error {
            ExpansionError::NotWider { .. } => RequestError::NotExpandable,
            ExpansionError::OtherShape | ExpansionError::OtherHeight { .. } => RequestError::OddNumber,
            ExpansionError::NoScratch => RequestError::NoScratch,
        })?;
        // The end of the expansion relies on rows that are cleared when all data has moved.
        if waves.moved_rows() == self.record.rows {
            return Err(RequestError::TooFewRows);
        }
        let geometry = self.record.geometry().with_members(wide);
        let geometry = geometry.expect("the number of members was checked");
        match self.record.journal {
            Some(journal) if journal.lane_blocks < lane_blocks_min(&geometry) => {
                Err(RequestError::ShortLanes)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_joining(
        &self,
        drives: &[DriveFacts],
        identities: &[Uuid],
        force: bool,
    ) -> Result<Vec<NewDrive>, RequestError> {
        let mut joining = Vec::with_capacity(drives.len());
        for (at, (facts, &identity)) in drives.iter().zip(identities).enumerate() {
            if drives[..at].iter().any(|other| other.index == facts.index) {
                return Err(RequestError::DriveTwice);
            }
            if identity == Uuid::NIL
                || identities[..at].contains(&identity)
                || self.is_member_or_spare(identity)
            {
                return Err(RequestError::Identity);
            }
            self.check_fit(facts)?;
            let (drive, wipe) = self.check_new(facts, force)?;
            joining.push(NewDrive {
                drive,
                identity,
                wipe,
            });
        }
        Ok(joining)
    }

    /// Puts new members into the record to come.
    pub(super) fn apply_expand(
        &mut self,
        next: &mut GroupRecord,
        request: RequestId,
        joining: Vec<NewDrive>,
        out: &mut Vec<Action>,
    ) {
        let known = |drive: &NewDrive| next.spares.contains(&drive.identity);
        if joining.iter().any(known) {
            return refuse(request, RequestError::Identity, out);
        }
        // A member may have been lost since it was asked for.
        if let Err(error) = self.is_whole(next) {
            return refuse(request, error, out);
        }
        let old_members = u8::try_from(next.members.len()).expect("at most 32 members");
        for (member, new) in (old_members..).zip(joining) {
            next.members.push(MemberRecord {
                drive: new.identity,
                state: MemberState::Active,
                current_at: next.generation,
            });
            self.seats.push(Seat::new(new.drive, new.wipe));
            self.moved |= 1 << member;
        }
        next.expansion = Some(ExpansionRecord::begin(old_members));
        self.joining = Some(Joining { request, old_members });
        self.effects.push(Effect::Expanding(request));
    }

    /// A new member has refused the very update that makes it one: takes the expansion back.
    pub(super) fn take_back_expansion(&mut self, next: &mut GroupRecord, out: &mut Vec<Action>) {
        let Some(Joining { request, old_members }) = self.joining else {
            return;
        };
        let new = !(u32::MAX >> (u32::BITS - u32::from(old_members)));
        if self.faults & new == 0 {
            return;
        }
        self.joining = None;
        next.expansion = None;
        next.members.truncate(usize::from(old_members));
        self.seats.truncate(usize::from(old_members));
        self.moved &= !new;
        self.faults &= !new;
        self.effects
            .retain(|effect| !matches!(effect, Effect::Expanding(_)));
        refuse(request, RequestError::DriveRefused, out);
    }

    /// What is in the scratch area, or is about to be.
    pub(super) fn expansion_scratch(&mut self, scratch: ScratchState) {
        let due = self.record.expansion.is_some();
        self.changes
            .retain(|change| !matches!(change, Change::ExpansionScratch(_)));
        self.change_once(due, Change::ExpansionScratch(scratch), |_| false);
    }

    /// The rows below `frontier` are laid out anew, and all members were flushed afterwards.
    pub(super) fn expansion_progress(&mut self, frontier: u64) {
        let Some(expansion) = self.record.expansion else {
            return;
        };
        assert!(
            frontier <= self.record.rows,
            "an expansion stays inside the group"
        );
        self.change_once(
            frontier > expansion.frontier,
            Change::ExpansionProgress(frontier),
            |change| matches!(change, Change::ExpansionProgress(_)),
        );
    }

    pub(super) fn apply_scratch(next: &mut GroupRecord, scratch: ScratchState) {
        if let Some(expansion) = &mut next.expansion {
            expansion.scratch = scratch;
        }
    }

    /// While a member is lost no row moves, so that nothing comes to depend on new members that are not there: the wave is given up
    /// instead (PROTOCOL H36).
    pub(super) fn decline_scratch(&mut self, next: &mut GroupRecord) {
        let degraded = next.failed_mask() != 0;
        let (Some(expansion), Some(before)) = (&mut next.expansion, self.record.expansion) else {
            return;
        };
        let holds = matches!(expansion.scratch, ScratchState::Holds { .. });
        if degraded && holds && expansion.scratch != before.scratch {
            expansion.scratch = before.scratch;
            self.declined = true;
        }
    }

    /// Advances the frontier; with the last row the expansion is over.
    pub(super) fn apply_frontier(&self, next: &mut GroupRecord, frontier: u64) {
        let Some(expansion) = &mut next.expansion else {
            return;
        };
        // Members that are away lack what was written by other means than their rows' destage.
        if let Some(keeper) = self.intent.as_ref().filter(|_| self.lost_mask() != 0) {
            (expansion.frontier..frontier).for_each(|row| keeper.map.mark(RowIndex(row)));
        }
        expansion.frontier = frontier;
        expansion.scratch = match expansion.scratch {
            ScratchState::Clean => ScratchState::Clean,
            ScratchState::Dirty | ScratchState::Holds { .. } => ScratchState::Dirty,
        };
        if frontier == next.rows {
            assert_eq!(
                expansion.scratch,
                ScratchState::Clean,
                "the scratch area is cleaned before the expansion is over"
            );
            next.expansion = None;
        }
    }

    /// Whether rows have moved while a member was away, of which it knows nothing and nobody has kept durable marks.
    pub(super) fn has_moved_degraded(&self, next: &GroupRecord) -> bool {
        let frontier = |record: &GroupRecord| record.expansion.map(|expansion| expansion.frontier);
        next.failed_mask() != 0 && frontier(next) != frontier(&self.record)
    }

    /// Tells the runtime of an expansion that begins, goes on or is over.
    pub(super) fn announce_layout(&mut self, out: &mut Vec<Action>) {
        self.joining = None;
        let declined = std::mem::take(&mut self.declined);
        if declined || self.announced_expansion != self.record.expansion {
            self.announced_expansion = self.record.expansion;
            out.push(Action::Layout {
                layout: self.layout(),
                expansion: self.record.expansion,
            });
        }
    }

    /// Notes, before the group is opened, how far [`crate::amf::expansion::Restore`] has come with what was in the scratch area. Answered by
    /// [`Action::Restored`]; then the group is assembled once more.
    ///
    /// Panics after `Event::Start`, and if there is nothing to restore.
    pub(super) fn restored(&mut self, expansion: ExpansionRecord, out: &mut Vec<Action>) {
        assert_eq!(
            self.phase,
            Phase::AwaitingStart,
            "rows are restored before the start"
        );
        let awaits = |expansion: ExpansionRecord| expansion.awaits_restore();
        assert!(
            self.record.expansion.is_some_and(awaits),
            "only what is in the scratch area is restored"
        );
        self.restoring = Some(expansion);
        if !self.roll_forward(out) {
            self.write_restored(expansion, out);
        }
    }

    /// The newest record is on all members: writes the one that says what was restored.
    pub(super) fn write_restored(&mut self, expansion: ExpansionRecord, out: &mut Vec<Action>) {
        self.phase = Phase::Restoring;
        let mut next = self.record.clone();
        self.apply_frontier(&mut next, expansion.frontier);
        Self::apply_scratch(&mut next, expansion.scratch);
        self.mark_lost(&mut next, self.absent_mask());
        forget_ended_rebuild(&mut next);
        if let Err(why) = self
            .settle_parity(&mut next, out)
            .and_then(|()| self.stamp(&mut next, true))
        {
            return self.fail(why, out);
        }
        let targets = self.targets(&next);
        self.write_update(next, &targets, out);
    }

    /// Members without those that an update which was not announced would add.
    pub(super) fn known_width(&self) -> u8 {
        let all = u8::try_from(self.seats.len()).expect("at most 32 members");
        self.joining.as_ref().map_or(all, |joining| joining.old_members)
    }

    /// Whether this member is in the newest record.
    pub(super) fn is_recorded(&self, member: MemberIndex) -> bool {
        usize::from(member.0) < self.record.members.len()
    }
}
