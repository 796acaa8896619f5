//! Drives that operators and the configuration give to groups: for lost members, and as spares.

use reactor::Io;

use super::Control;
use crate::amf::MemberIndex;
use crate::amf::group::{Event, RequestId};
use crate::amf::superblock::{Found, Uuid};
use crate::target::core::Core;
use crate::target::manage::{self, ManageError};
use crate::target::message::Message;

impl Control {
    /// What an operator wants of a lost member's place.
    pub(super) fn replacement(
        &self,
        replace: &manage::DriveReplace,
        identity: Uuid,
    ) -> Result<(usize, impl FnOnce(RequestId) -> Event + use<>), ManageError> {
        let group = self.group_named(&replace.group)?;
        let drive = self.drive_named(&replace.drive)?;
        self.check_usable(drive)?;
        let (facts, member, force) = (
            self.drive_facts(drive),
            MemberIndex(replace.member),
            replace.force,
        );
        let event = move |request| Event::ReplaceMember {
            request,
            member,
            drive: Box::new(facts),
            identity,
            force,
        };
        Ok((group, event))
    }

    /// A drive that an operator gives to a group as a spare.
    pub(super) fn new_spare(
        &self,
        add: &manage::DriveAddSpare,
        identity: Uuid,
    ) -> Result<(usize, impl FnOnce(RequestId) -> Event + use<>), ManageError> {
        let group = self.group_named(&add.group)?;
        let drive = self.drive_named(&add.drive)?;
        self.check_usable(drive)?;
        let (facts, force) = (self.drive_facts(drive), add.force);
        let event = move |request| Event::AddSpare {
            request,
            drive: Box::new(facts),
            identity,
            force,
        };
        Ok((group, event))
    }

    /// A spare drive that an operator takes away.
    pub(super) fn old_spare(
        &self,
        remove: &manage::DriveRemoveSpare,
    ) -> Result<(usize, impl FnOnce(RequestId) -> Event + use<>), ManageError> {
        let group = self.group_named(&remove.group)?;
        let drive = self.drive_named(&remove.drive)?;
        let spares = self.groups[group].machine.snapshot().spares;
        let index = u16::try_from(drive).expect("a node has at most 1024 drives");
        let spare = spares.iter().find(|spare| spare.drive == Some(index));
        let Some(spare) = spare.map(|spare| spare.drive_uuid) else {
            return Err(ManageError::new(
                ManageError::INVALID,
                format!(
                    "drive \"{}\" is no spare of group \"{}\"",
                    remove.drive, remove.group
                ),
                format!("`braid group show {}` lists its spares", remove.group),
            ));
        };
        Ok((group, move |request| Event::RemoveSpare { request, spare }))
    }

    /// The group of which a drive is a spare.
    pub(super) fn spare_of(&self, drive: usize) -> Option<usize> {
        let index = u16::try_from(drive).expect("a node has at most 1024 drives");
        self.groups.iter().position(|group| {
            let spares = group.machine.snapshot().spares;
            spares.iter().any(|spare| spare.drive == Some(index))
        })
    }

    /// Gives a group that has opened the spares that the configuration lists and that it does not have yet.
    pub(super) fn add_planned_spares(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let planned = std::mem::take(&mut self.groups[usize::from(group)].planned_spares);
        for (drive, identity) in planned {
            let at = usize::from(drive);
            // Whoever is a spare or a member by now has that role on its superblock.
            if self.drive_uses[at].member.is_some() || self.spare_of(at).is_some() {
                continue;
            }
            if !matches!(self.drive_uses[at].existing, Found::Blank) {
                let (group, drive) = (
                    &self.groups[usize::from(group)].shared.name,
                    &self.drives[at].name,
                );
                tracing::warn!(%group, %drive, "spare drive of the configuration is not blank and is left alone; `braid drive add-spare --force` takes it");
                continue;
            }
            let facts = self.drive_facts(at);
            let request = self.next_request();
            let event = Event::AddSpare {
                request,
                drive: Box::new(facts),
                identity,
                force: false,
            };
            self.group_event(core, io, group, event);
        }
    }
}
