//! What a group says once a record is durable, and how it ends.

use super::{Change, Effect, Group, Phase, participants, refuse};
use crate::amf::group::{Action, Answer, FailReason, Report, RequestError, RequestId};
use crate::amf::superblock::ParityState;
use crate::amf::{MemberIndex, MemberSet, ParityTrust};

impl Group {
    /// The newest record is durable on every member that it calls active: says so, and answers who waited for it.
    pub(super) fn announce(&mut self, out: &mut Vec<Action>) {
        let members = self.durable_members();
        self.announced = Some(members);
        self.announce_drives(out);
        self.announce_layout(out);
        out.push(Action::Members(members));
        out.push(Action::Report(Report::Durable(members)));
        self.settle_bitmap();
        if self.phase == Phase::Opening {
            self.opened(out);
        }
        self.announce_rebuild(out);
        for effect in std::mem::take(&mut self.effects) {
            self.announce_effect(effect, out);
        }
    }

    /// Answers who waited for one effect, which is durable.
    fn announce_effect(&mut self, effect: Effect, out: &mut Vec<Action>) {
        let (request, answer) = match effect {
            Effect::VdiskCreated(request, vdisk) => {
                out.push(Action::VdiskAdded(vdisk.clone()));
                (request, Answer::VdiskCreated(vdisk))
            }
            Effect::VdiskResized(request, vdisk) => {
                out.push(Action::VdiskResized(vdisk.clone()));
                (request, Answer::VdiskResized(vdisk))
            }
            Effect::VdiskChanged(request, vdisk) => {
                out.push(Action::VdiskChanged(vdisk.clone()));
                (request, Answer::VdiskChanged(vdisk))
            }
            Effect::VdiskLeaves(request, nsid) => {
                self.vdisk_leaves(request, nsid, out);
                return;
            }
            Effect::Expanding(request) => (request, Answer::Expanding),
            Effect::VdiskRemoved(request, nsid) => {
                self.leaving.retain(|leaving| leaving.nsid != nsid);
                let Some(request) = request else { return };
                (request, Answer::VdiskDeleted { nsid })
            }
            Effect::MemberFailed(request, member) => (request, Answer::MemberFailed { member }),
            Effect::MemberReplaced(request, member, drive) => {
                let partial = self.record.rebuild_partial;
                let line = &self.record.members[usize::from(member.0)];
                if line.drive != drive || !line.state.takes_part() {
                    refuse(request, RequestError::DriveRefused, out);
                    return;
                }
                (request, Answer::MemberReplaced { member, partial })
            }
            Effect::SpareAdded(request, spare) if self.is_member_or_spare(spare) => {
                (request, Answer::SpareAdded { spare })
            }
            Effect::SpareAdded(request, _) => {
                refuse(request, RequestError::DriveRefused, out);
                return;
            }
            Effect::SpareRemoved(request, spare) => (request, Answer::SpareRemoved { spare }),
            Effect::MemberRebuilt(member) => {
                out.push(Action::Report(Report::MemberRebuilt { member }));
                return;
            }
            Effect::RamCleared => {
                out.push(Action::RamCleared);
                return;
            }
            Effect::LanesOver(over) => {
                out.push(Action::LanesOver(over));
                return;
            }
            Effect::RamAllowed => {
                out.push(Action::RamAllowed);
                return;
            }
            Effect::Closed => {
                self.closed(out);
                return;
            }
        };
        out.push(Action::Reply {
            request,
            result: Ok(answer),
        });
    }

    /// The members of the newest record, which every one of them has.
    fn durable_members(&self) -> MemberSet {
        let members = self.record.member_set();
        assert!(
            self.announced
                .is_none_or(|last| last.generation < members.generation),
            "generations grow"
        );
        let holds = |member: MemberIndex| self.seat(member).holds == members.generation;
        assert!(
            participants(&self.record).all(holds),
            "announced only once durable"
        );
        members
    }

    pub(super) fn opened(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Open;
        if self.stop_requested {
            return; // Hosts are not let in for a moment only.
        }
        out.push(Action::Started);
        let staying = self.record.vdisks.iter().filter(|vdisk| !vdisk.leaving);
        out.extend(staying.cloned().map(Action::VdiskAdded));
        if let Some(from_row) = self.record.parity.next_row() {
            let unclean = matches!(self.record.parity, ParityState::Resync { .. });
            out.push(Action::Report(Report::ResyncNeeded { from_row, unclean }));
        }
    }

    pub(super) fn closed(&mut self, out: &mut Vec<Action>) {
        assert!(
            self.record.clean,
            "clean is durable before the group counts as closed"
        );
        self.phase = Phase::Stopped;
        self.refuse_waiting(RequestError::NotOpen, out);
        out.push(Action::Stopped { clean: true });
    }

    /// Ends the group. Nothing is written: drives that come back tell what they knew before this.
    pub(super) fn fail(&mut self, why: FailReason, out: &mut Vec<Action>) {
        assert!(self.update.is_none(), "writes under way are awaited first");
        self.phase = Phase::Failed(why);
        self.announce_failure(why, out);
        self.refuse_waiting(RequestError::GroupFailed, out);
        if self.stop_requested {
            out.push(Action::Stopped { clean: false });
        }
    }

    /// The members that cores have heard of.
    fn known_members_mask(&self) -> u32 {
        u32::MAX >> (u32::BITS - u32::from(self.known_width()))
    }

    /// Tells the engines under which members nothing is written any more.
    pub(super) fn announce_failure(&mut self, why: FailReason, out: &mut Vec<Action>) {
        let all = self.known_members_mask();
        let failed = match why {
            FailReason::TooManyMembersLost if self.record.expansion.is_none() => self.lost_mask() & all,
            // Cores may not yet know that rows depend on new members, and would go on without those that are lost.
            FailReason::TooManyMembersLost => all,
            // Data of the members that are left must not be mixed with check data that may not fit.
            FailReason::ParityUntrusted
            | FailReason::CreationFailed
            | FailReason::JournalTooSmall(_)
            | FailReason::GenerationsUsedUp => all,
        };
        let last = self
            .announced
            .map_or(0, |members| members.generation)
            .max(self.record.generation);
        let members = MemberSet {
            generation: last + 1,
            failed,
            parity: ParityTrust::Nowhere,
            rebuilding: 0,
            rebuilt_rows: 0,
        };
        self.announced = Some(members);
        out.push(Action::GroupFailed { why, members });
    }

    /// Answers every request that no update will carry out any more.
    pub(super) fn refuse_waiting(&mut self, error: RequestError, out: &mut Vec<Action>) {
        let effects = std::mem::take(&mut self.effects);
        let mut requests: Vec<RequestId> = effects.iter().filter_map(Effect::request).collect();
        for change in std::mem::take(&mut self.changes) {
            match change {
                Change::CreateVdisk(request, _)
                | Change::ResizeVdisk(request, ..)
                | Change::LeaveVdisk(request, _)
                | Change::Vdisk(request, ..)
                | Change::Expand(request, _)
                | Change::FailMember(request, _)
                | Change::AddSpare(request, ..)
                | Change::RemoveSpare(request, _) => requests.push(request),
                // Deletions are in `leaving` as well.
                Change::RemoveVdisk(..) => {}
                Change::Open
                | Change::ExpansionScratch(_)
                | Change::ExpansionProgress(_)
                | Change::ResyncProgress
                | Change::ResyncDone
                | Change::RebuildProgress
                | Change::RebuildDone(_)
                | Change::ScrubProgress(_)
                | Change::RamDirty
                | Change::RamClean
                | Change::LanesOver(_)
                | Change::Close => {}
            }
        }
        requests.extend(self.leaving.drain(..).filter_map(|leaving| leaving.request));
        requests.extend(self.wanted.drain(..).map(|wanted| wanted.request));
        requests.sort_unstable();
        requests.dedup();
        for request in requests {
            refuse(request, error, out);
        }
    }
}
