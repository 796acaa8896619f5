//! Who takes a lost member's place: its own drive that has come back, one that an operator gives, or a spare; and how far the
//! rebuild is.
//!
//! One rebuild at a time: a member that begins to be rebuilt brings the others back to the first row, because they share one
//! frontier. So none begins while another one's rebuild has got anywhere.

use super::seat::{Comeback, Seat, SeatDrive, SpareSeat};
use super::update::Target;
use super::{Change, Effect, Group, Phase, refuse};
use crate::amf::group::assemble::misses_only_marked;
use crate::amf::group::status::LossReason;
use crate::amf::group::{Action, DriveContent, DriveFacts, RebuildWork, Report, RequestError, RequestId};
use crate::amf::superblock::{Found, GroupRecord, MemberState, SPARES_MAX, Superblock, Uuid};
use crate::amf::{MemberIndex, MemberSet};
use crate::drive::DriveError;

/// A place that an operator wants filled.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) request: RequestId,
    member: MemberIndex,
    source: Source,
}

/// A drive that is nothing to the group yet.
#[derive(Clone, Debug)]
pub(super) struct NewDrive {
    pub(super) drive: SeatDrive,
    pub(super) identity: Uuid,
    /// Other signatures have to go.
    pub(super) wipe: bool,
}

/// Where a drive for a lost member comes from.
#[derive(Clone, Debug)]
enum Source {
    /// Its own drive.
    Own(Comeback),
    /// A spare of this group.
    Spare(Uuid),
    /// A drive that is nothing to this group yet.
    New(NewDrive),
}

impl Source {
    /// Place in the configuration of a drive that comes from outside.
    const fn new_drive(&self) -> Option<u16> {
        match self {
            Self::New(new) => Some(new.drive.0),
            Self::Own(_) | Self::Spare(_) => None,
        }
    }
}

impl Group {
    pub(super) fn replace_member(
        &mut self,
        request: RequestId,
        member: MemberIndex,
        drive: &DriveFacts,
        (identity, force): (Uuid, bool),
        out: &mut Vec<Action>,
    ) {
        let verdict = self
            .admit()
            .and_then(|()| self.may_replace(member))
            .and_then(|()| self.source_for(member, drive, identity, force));
        match verdict {
            Ok(source) => self.wanted.push(Wanted {
                request,
                member,
                source,
            }),
            Err(error) => refuse(request, error, out),
        }
    }

    fn may_replace(&self, member: MemberIndex) -> Result<(), RequestError> {
        if !self.record.is_redundant() {
            return Err(RequestError::NoRedundancy);
        }
        // A member that an update under way would add is none yet.
        let seat = self.seats.get(usize::from(member.0));
        let Some(seat) = seat.filter(|_| self.is_recorded(member)) else {
            return Err(RequestError::NoSuchMember(member.0));
        };
        if seat.lost.is_none() {
            return Err(RequestError::NotLost(member.0));
        }
        if self.rebuild_has_begun() || self.wanted.iter().any(|wanted| wanted.member == member) {
            return Err(RequestError::RebuildRunning);
        }
        Ok(())
    }

    /// What a drive would be for a lost member; errs if it cannot be that.
    fn source_for(
        &self,
        member: MemberIndex,
        drive: &DriveFacts,
        identity: Uuid,
        force: bool,
    ) -> Result<Source, RequestError> {
        self.check_fit(drive)?;
        let seat = self.seat(member);
        if seat.index() == Some(drive.index) {
            return Ok(Source::Own(self.comeback(member)));
        }
        let is_it = |spare: &&SpareSeat| spare.seat.index() == Some(drive.index);
        if let Some(spare) = self.spares.iter().find(is_it) {
            return Ok(Source::Spare(spare.identity));
        }
        let (drive, wipe) = self.check_new(drive, force)?;
        Ok(Source::New(NewDrive {
            drive,
            identity,
            wipe,
        }))
    }

    /// What a lost member's own drive lacks.
    fn comeback(&self, member: MemberIndex) -> Comeback {
        let line = &self.record.members[usize::from(member.0)];
        let marked = misses_only_marked(&self.record, line, self.seat(member).holds);
        if marked { Comeback::Partial } else { Comeback::Full }
    }

    pub(super) fn check_fit(&self, drive: &DriveFacts) -> Result<(), RequestError> {
        if !self.record.fits_drive(drive.bytes) {
            return Err(RequestError::DriveTooSmall {
                bytes: drive.bytes,
                needed: self.record.drive_bytes_min(),
            });
        }
        let block = self.record.block.bytes();
        if drive.logical_block > block {
            return Err(RequestError::DriveBlock {
                logical_block: drive.logical_block,
                block,
            });
        }
        Ok(())
    }

    /// A drive that is nothing to this group yet, and whether other signatures have to go; errs if it may not be overwritten.
    pub(super) fn check_new(
        &self,
        drive: &DriveFacts,
        force: bool,
    ) -> Result<(SeatDrive, bool), RequestError> {
        let own = self
            .seats
            .iter()
            .chain(self.spares.iter().map(|spare| &spare.seat));
        let taken = own.filter_map(Seat::index).any(|index| index == drive.index);
        let waiting = self
            .wanted
            .iter()
            .any(|wanted| wanted.source.new_drive() == Some(drive.index));
        let added = |change: &Change| match change {
            Change::AddSpare(_, _, (index, ..), _) => *index == drive.index,
            Change::Expand(_, joining) => joining.iter().any(|new| new.drive.0 == drive.index),
            Change::Open
            | Change::CreateVdisk(..)
            | Change::ResizeVdisk(..)
            | Change::LeaveVdisk(..)
            | Change::RemoveVdisk(..)
            | Change::Vdisk(..)
            | Change::FailMember(..)
            | Change::RemoveSpare(..)
            | Change::ExpansionScratch(_)
            | Change::ExpansionProgress(_)
            | Change::ResyncProgress
            | Change::ResyncDone
            | Change::RebuildProgress
            | Change::RebuildDone(_)
            | Change::ScrubProgress(_)
            | Change::RamClean
            | Change::RamDirty
            | Change::LanesOver(_)
            | Change::Close => false,
        };
        let added = self.changes.iter().any(added);
        if drive.in_use || taken || waiting || added {
            return Err(RequestError::DriveInUse);
        }
        let what = match &drive.existing {
            Found::Blank => None,
            Found::Unreadable => return Err(RequestError::DriveUnreadable),
            Found::Foreign(foreign) => Some(DriveContent::Foreign(foreign.0)),
            Found::Damaged(_) => Some(DriveContent::Damaged),
            Found::Mixed { .. } => Some(DriveContent::Mixed),
            Found::Braid(scan) => {
                let record = &scan.superblock.record;
                match (record.forming, record.group == self.record.group) {
                    // Left over from a creation that was interrupted: no host ever saw that group.
                    (true, false) => None,
                    // Left over from an expansion that never began.
                    (_, true) if holds_nothing_yet(&scan.superblock) => None,
                    (_, true) => Some(DriveContent::OtherMember),
                    (false, false) => Some(DriveContent::OtherGroup(record.group)),
                }
            }
        };
        if let Some(what) = what.filter(|_| !force) {
            return Err(RequestError::DriveNotBlank { what });
        }
        let wipe = !matches!(drive.existing, Found::Blank);
        Ok(((drive.index, drive.label.clone(), drive.bytes), wipe))
    }

    pub(super) fn add_spare(
        &mut self,
        request: RequestId,
        drive: &DriveFacts,
        identity: Uuid,
        force: bool,
        out: &mut Vec<Action>,
    ) {
        let redundant = if self.record.is_redundant() {
            Ok(())
        } else {
            Err(RequestError::NoRedundancy)
        };
        let verdict = self
            .admit()
            .and(redundant)
            .and_then(|()| self.check_fit(drive))
            .and_then(|()| self.check_new(drive, force));
        match verdict {
            Ok((drive, wipe)) => self
                .changes
                .push_back(Change::AddSpare(request, identity, drive, wipe)),
            Err(error) => refuse(request, error, out),
        }
    }

    pub(super) fn apply_add_spare(
        &mut self,
        next: &mut GroupRecord,
        request: RequestId,
        identity: Uuid,
        drive: SeatDrive,
        wipe: bool,
        out: &mut Vec<Action>,
    ) {
        if next.spares.len() >= SPARES_MAX {
            return refuse(request, RequestError::TooManySpares, out);
        }
        if self.is_member_or_spare(identity) || next.spares.contains(&identity) {
            return refuse(request, RequestError::Identity, out);
        }
        next.spares.push(identity);
        let seat = Seat::new(drive, wipe);
        self.spares.push(SpareSeat { identity, seat });
        self.effects.push(Effect::SpareAdded(request, identity));
    }

    pub(super) fn remove_spare(&mut self, request: RequestId, spare: Uuid, out: &mut Vec<Action>) {
        match self.admit() {
            Ok(()) => self.changes.push_back(Change::RemoveSpare(request, spare)),
            Err(error) => refuse(request, error, out),
        }
    }

    pub(super) fn apply_remove_spare(
        &mut self,
        next: &mut GroupRecord,
        request: RequestId,
        spare: Uuid,
        out: &mut Vec<Action>,
    ) {
        let count = next.spares.len();
        next.spares.retain(|other| *other != spare);
        if next.spares.len() == count {
            return refuse(request, RequestError::NoSuchSpare, out);
        }
        self.effects.push(Effect::SpareRemoved(request, spare));
    }

    /// A spare could not take a superblock. One that was to be blank anyway is nobody's concern.
    pub(super) fn lose_spare(&mut self, identity: Uuid, error: DriveError, out: &mut Vec<Action>) {
        let update = self.update.as_ref().expect("a spare is written by an update");
        if !update.record.spares.contains(&identity) {
            return;
        }
        let seat = self.seat_of_mut(Target::Spare(identity));
        seat.lost = Some(LossReason::Superblock(error));
        out.push(Action::Report(Report::SpareLost {
            spare: identity,
            error,
        }));
    }

    /// Whether a spare stays one: its drive took every record so far, or is not there.
    pub(super) fn is_sound_spare(&self, identity: Uuid) -> bool {
        let seat = self.spares.iter().find(|spare| spare.identity == identity);
        seat.is_none_or(|spare| spare.seat.lost.is_none())
    }

    /// Whether the next update would fill a place.
    pub(super) fn may_fill(&self) -> bool {
        let mut members = (0u8..).zip(&self.seats).map(|(member, _)| MemberIndex(member));
        let may_begin = self.phase == Phase::Open && !self.stop_requested && !self.rebuild_has_begun();
        may_begin && members.any(|member| self.is_vacant(member) && self.source(member).is_some())
    }

    /// Whether rows of the members under rebuild count as live, or are about to.
    fn rebuild_has_begun(&self) -> bool {
        self.record.rebuilding_mask() != 0 && self.record.rebuilt_rows.max(self.rebuilt_rows) > 0
    }

    /// Whether a member's loss is durable and every engine has been told, so that another drive can have its place.
    fn is_vacant(&self, member: MemberIndex) -> bool {
        let Some(line) = self.record.members.get(usize::from(member.0)) else {
            return false; // It is about to become a member.
        };
        let gone = !line.state.takes_part() && self.seat(member).lost.is_some();
        let told = |set: MemberSet| set.is_failed(member) && set.rebuilding >> member.0 & 1 == 0;
        gone && self.announced.is_some_and(told)
    }

    /// What fills a place, if anything can: what an operator wants, the member's own drive, a spare.
    fn source(&self, member: MemberIndex) -> Option<Source> {
        if let Some(wanted) = self.wanted.iter().find(|wanted| wanted.member == member) {
            return Some(wanted.source.clone());
        }
        if let Some(comeback) = self.seat(member).returning {
            return Some(Source::Own(comeback));
        }
        let is_here = |spare: &&SpareSeat| {
            let fits = |(_, _, bytes): &SeatDrive| self.record.fits_drive(*bytes);
            spare.seat.lost.is_none()
                && spare.seat.drive.as_ref().is_some_and(fits)
                && self.record.spares.contains(&spare.identity)
        };
        let spare = self.spares.iter().find(is_here)?;
        Some(Source::Spare(spare.identity))
    }

    /// Puts drives into the places of lost members. At the opening only their own: the loss of others is not announced yet.
    pub(super) fn fill_places(&mut self, next: &mut GroupRecord, opening: bool, out: &mut Vec<Action>) {
        if self.stop_requested {
            return;
        }
        if next.rebuilding_mask() != 0 && next.rebuilt_rows.max(self.rebuilt_rows) > 0 {
            for wanted in std::mem::take(&mut self.wanted) {
                refuse(wanted.request, RequestError::RebuildRunning, out);
            }
            return;
        }
        for member in (0u8..)
            .zip(0..next.members.len())
            .map(|(member, _)| MemberIndex(member))
        {
            let source = if opening {
                self.seat(member).returning.map(Source::Own)
            } else if self.is_vacant(member) {
                self.source(member)
            } else {
                None
            };
            if let Some(source) = source {
                self.fill(next, member, source, out);
            }
        }
    }

    fn fill(&mut self, next: &mut GroupRecord, member: MemberIndex, source: Source, out: &mut Vec<Action>) {
        let at = usize::from(member.0);
        let partial = match source {
            Source::Own(comeback) => comeback == Comeback::Partial && self.opening.marks_intent,
            Source::Spare(identity) => {
                let is_it = |spare: &SpareSeat| spare.identity == identity;
                let Some(spare) = self
                    .spares
                    .iter()
                    .position(is_it)
                    .filter(|_| next.spares.contains(&identity))
                else {
                    return self.refuse_wanted(member, RequestError::NoSuchSpare, out);
                };
                self.seats[at] = self.spares.remove(spare).seat;
                next.spares.retain(|other| *other != identity);
                next.members[at].drive = identity;
                let drive = self.seats[at].index().expect("a spare that is taken is there");
                out.push(Action::Report(Report::SpareTaken { member, drive }));
                self.moved |= 1 << member.0;
                false
            }
            Source::New(NewDrive {
                drive,
                identity,
                wipe,
            }) => {
                if identity == Uuid::NIL || self.is_member_or_spare(identity) {
                    return self.refuse_wanted(member, RequestError::Identity, out);
                }
                self.seats[at] = Seat::new(drive, wipe);
                next.members[at].drive = identity;
                self.moved |= 1 << member.0;
                false
            }
        };
        next.rebuild_partial = partial && (next.rebuilding_mask() == 0 || next.rebuild_partial);
        (next.rebuilt_rows, self.rebuilt_rows) = (0, 0);
        next.members[at].state = MemberState::Rebuilding;
        let seat = &mut self.seats[at];
        (seat.lost, seat.returning, seat.rewrite) = (None, None, true);
        self.wave_begins = true;
        if let Some(wanted) = self.wanted.iter().position(|wanted| wanted.member == member) {
            let request = self.wanted.swap_remove(wanted).request;
            let drive = next.members[at].drive;
            self.effects.push(Effect::MemberReplaced(request, member, drive));
        }
    }

    fn refuse_wanted(&mut self, member: MemberIndex, error: RequestError, out: &mut Vec<Action>) {
        if let Some(at) = self.wanted.iter().position(|wanted| wanted.member == member) {
            refuse(self.wanted.swap_remove(at).request, error, out);
        }
    }

    pub(super) fn rebuild_progress(&mut self, wave: u64, rows: u64) {
        assert!(rows <= self.record.rows, "a rebuild stays inside the group");
        let due = self.wave == Some(wave) && !self.wave_begins && rows > self.rebuilt_rows;
        if due && self.phase == Phase::Open {
            self.rebuilt_rows = rows;
            self.change_once(true, Change::RebuildProgress, |change| {
                matches!(change, Change::RebuildProgress)
            });
        }
    }

    /// Every member under rebuild has all its rows, except one that has been lost meanwhile.
    pub(super) fn apply_rebuild_done(&mut self, next: &mut GroupRecord, wave: u64) {
        if self.wave != Some(wave) || self.wave_begins {
            return;
        }
        let lines = (0u8..).zip(next.members.iter_mut().zip(&self.seats));
        for (member, (line, seat)) in lines {
            if line.state == MemberState::Rebuilding && seat.lost.is_none() {
                line.state = MemberState::Active;
                self.effects.push(Effect::MemberRebuilt(MemberIndex(member)));
            }
        }
    }

    /// Tells the runtime of drives that carry members from now on.
    pub(super) fn announce_drives(&mut self, out: &mut Vec<Action>) {
        let moved = std::mem::take(&mut self.moved);
        for member in (0..32)
            .map(MemberIndex)
            .filter(|member| moved >> member.0 & 1 == 1)
        {
            let drive = self.seat(member).index();
            let drive = drive.expect("a drive that has taken a place is there");
            out.push(Action::MemberDrive { member, drive });
        }
    }

    /// Tells the runtime of a rebuild that begins or is over.
    pub(super) fn announce_rebuild(&mut self, out: &mut Vec<Action>) {
        let members = self.record.rebuilding_mask();
        let begins = std::mem::take(&mut self.wave_begins);
        match self.wave {
            Some(wave) if members == 0 => {
                self.wave = None;
                self.rebuilt_rows = 0;
                out.push(Action::RebuildOver { wave });
                if self.record.failed_mask() != 0 {
                    self.rewrite_bitmap();
                }
            }
            Some(_) | None if members != 0 && begins => {
                let wave = self.record.generation;
                self.wave = Some(wave);
                out.push(Action::RebuildNeeded(RebuildWork {
                    wave,
                    members,
                    from_row: self.record.rebuilt_rows,
                    partial: self.record.rebuild_partial,
                }));
            }
            Some(_) | None => {}
        }
    }
}

/// Whether a drive joined a group over whose new members nothing was laid out yet.
fn holds_nothing_yet(superblock: &Superblock) -> bool {
    let member = superblock.member();
    let untouched = superblock
        .record
        .expansion
        .filter(|_| superblock.record.is_untouched());
    untouched
        .zip(member)
        .is_some_and(|(expansion, member)| member.0 >= expansion.old_members)
}
