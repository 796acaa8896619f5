//! A group that another node leads: this one writes nothing, and takes what that one has made durable.
//!
//! What an own update would announce is announced here as soon as the record is there. What engines report is the leader's business, to whom the caller
//! hands it on.

use super::seat::{Seat, SeatDrive, SpareSeat};
use super::{Group, Phase, refuse};
use crate::amf::group::status::LossReason;
use crate::amf::group::{Action, Event, Report, RequestError, RequestId};
use crate::amf::superblock::{GroupRecord, MemberRecord, MemberState, Uuid, VdiskRecord};

impl Group {
    /// A group that another node leads, as that node has described it. `drives` are those of the members as this node reaches them: place in the configuration,
    /// label and bytes. Nothing is announced before [`Event::Followed`].
    ///
    /// Panics unless there is a place for each member's drive.
    pub fn followed(record: GroupRecord, drives: Vec<Option<(u16, String, u64)>>) -> Self {
        assert_eq!(
            drives.len(),
            record.members.len(),
            "each member has a drive, or none"
        );
        let lines = record.members.iter().zip(drives);
        let seats = lines.map(|(line, drive)| seat_of(line, drive)).collect();
        let mut group = Self::new(record, seats, Vec::new(), false);
        group.phase = Phase::Following;
        group.settle_followed();
        group
    }

    /// Says which drive carries a member, where the record that comes next with [`Event::Followed`] names another one than before: that brings
    /// [`Action::MemberDrive`]. Without this the member has none.
    ///
    /// Panics unless another node leads the group.
    pub fn follow_drive(&mut self, identity: Uuid, drive: (u16, String, u64)) {
        assert_eq!(self.phase, Phase::Following, "who leads moves members itself");
        let seat = Seat::new(drive, false);
        self.spares.retain(|spare| spare.identity != identity);
        self.spares.push(SpareSeat { identity, seat });
    }

    /// Takes an event of a group that another node leads.
    pub(super) fn handle_following(&mut self, event: Event, out: &mut Vec<Action>) {
        let mut refuse = |request: RequestId| refuse(request, RequestError::Led, out);
        match event {
            Event::Followed(record) => self.follow(*record, out),
            Event::FailMember { request, .. }
            | Event::CreateVdisk { request, .. }
            | Event::ResizeVdisk { request, .. }
            | Event::DeleteVdisk { request, .. }
            | Event::LeaveVdisk { request, .. }
            | Event::ChangeVdisk { request, .. }
            | Event::ReplaceMember { request, .. }
            | Event::AddSpare { request, .. }
            | Event::RemoveSpare { request, .. }
            | Event::Expand { request, .. } => refuse(request),
            Event::Stop => {
                self.phase = Phase::Stopped;
                out.push(Action::Stopped {
                    clean: self.record.clean,
                });
            }
            // The leader hears of these, and what it makes of them comes with its record.
            Event::MemberFault { .. }
            | Event::LeftOut { .. }
            | Event::Evict { .. }
            | Event::VdiskDrained { .. }
            | Event::ResyncProgress { .. }
            | Event::ResyncDone
            | Event::RamDirty
            | Event::RamClean
            | Event::ExpansionScratch(_)
            | Event::ExpansionProgress { .. }
            | Event::RebuildProgress { .. }
            | Event::RebuildDone { .. }
            | Event::ScrubProgress { .. }
            | Event::PersistIntent { .. }
            | Event::PersistLost { .. }
            | Event::PersistPage(_)
            | Event::LanesOver(_) => {}
            Event::Start(_) | Event::TakeOver(_) | Event::Restored(_) | Event::SuperblockWritten { .. } => {
                panic!("a group that another node leads is neither started here nor written")
            }
        }
    }

    /// Takes a record that the leader has made durable, and says what has changed.
    fn follow(&mut self, record: GroupRecord, out: &mut Vec<Action>) {
        assert_eq!(record.group, self.record.group, "it is this group's record");
        let known = self.record.generation;
        let is_first = self.announced.is_none();
        if record.generation < known || record.generation == known && !is_first {
            return;
        }
        self.take_drives(&record);
        let before = std::mem::replace(&mut self.record, record);
        self.settle_followed();
        let members = self.record.member_set();
        self.announced = Some(members);
        self.announce_drives(out);
        self.announce_layout(out);
        out.push(Action::Members(members));
        out.push(Action::Report(Report::Durable(members)));
        if is_first {
            out.push(Action::Started);
            let staying = self.record.vdisks.iter().filter(|vdisk| !vdisk.leaving);
            out.extend(staying.cloned().map(Action::VdiskAdded));
        } else {
            announce_vdisks(&before.vdisks, &self.record.vdisks, out);
        }
    }

    /// Puts drives into the places that a new record gives them.
    fn take_drives(&mut self, record: &GroupRecord) {
        let old = self.record.members.iter().map(|line| line.drive);
        let mut old: Vec<Option<Uuid>> = old.map(Some).collect();
        // An expansion that was given up takes its members away; one that begins brings some.
        old.resize(record.members.len(), None);
        self.seats.truncate(record.members.len());
        for (member, line) in record.members.iter().enumerate() {
            if old[member] == Some(line.drive) {
                continue;
            }
            let given = self.spares.iter().position(|spare| spare.identity == line.drive);
            let drive = given.and_then(|given| self.spares.remove(given).seat.drive);
            if drive.is_some() {
                self.moved |= 1 << member;
            }
            let seat = seat_of(line, drive);
            match self.seats.get_mut(member) {
                Some(place) => *place = seat,
                None => self.seats.push(seat),
            }
        }
    }

    /// What this node keeps beside the record follows it.
    fn settle_followed(&mut self) {
        let record = &self.record;
        for (seat, line) in self.seats.iter_mut().zip(&record.members) {
            *seat = seat_of(line, seat.drive.take());
        }
        let generation = record.generation;
        let is_rebuilding = record.rebuilding_mask() != 0;
        self.wave = is_rebuilding.then(|| self.wave.unwrap_or(generation));
        self.rebuilt_rows = record.rebuilt_rows;
        self.resync_row = record.parity.next_row().unwrap_or(0);
    }
}

/// The place of a member of which the record says this.
fn seat_of(line: &MemberRecord, drive: Option<SeatDrive>) -> Seat {
    let generation = line.current_at;
    Seat {
        drive,
        holds: generation,
        behind: false,
        rewrite: false,
        wipe: false,
        lost: match line.state {
            MemberState::Active | MemberState::Rebuilding => None,
            MemberState::Failed => Some(LossReason::Earlier { generation }),
            MemberState::Missing => Some(LossReason::Missing),
        },
        list: None,
        returning: None,
    }
}

/// Says which virtual disks have come, grown, changed and gone. One that has the number of another that is gone comes after that has gone.
fn announce_vdisks(before: &[VdiskRecord], after: &[VdiskRecord], out: &mut Vec<Action>) {
    let stays = |vdisk: &&VdiskRecord| !vdisk.leaving;
    for gone in before.iter().filter(stays) {
        if !after.iter().filter(stays).any(|vdisk| vdisk.uuid == gone.uuid) {
            out.push(Action::VdiskRemoved { nsid: gone.nsid });
        }
    }
    for vdisk in after.iter().filter(stays) {
        let Some(other) = before.iter().find(|other| other.uuid == vdisk.uuid) else {
            out.push(Action::VdiskAdded(vdisk.clone()));
            continue;
        };
        if other.blocks != vdisk.blocks {
            out.push(Action::VdiskResized(vdisk.clone()));
        }
        if (other.ports, other.replication) != (vdisk.ports, vdisk.replication) {
            out.push(Action::VdiskChanged(vdisk.clone()));
        }
    }
}
