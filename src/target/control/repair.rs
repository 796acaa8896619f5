//! Blocks that a member could not read are written anew from the other members.

use std::collections::{BTreeMap, BTreeSet};

use reactor::Io;

use super::Control;
use crate::amf::engine::{GroupError, Request};
use crate::amf::group::MemberStatus;
use crate::drive::health::{Decision, Event};
use crate::target::command::{InternalCommand, Owner};
use crate::target::core::Core;
use crate::target::message::{Message, Repair};

/// Repairs at a time: they take locks on rows that hosts may want.
const UNDER_WAY_MAX: usize = 4;
/// Repairs that wait; further ones are forgotten, because the next read of those blocks tells of them again.
const WAITING_MAX: usize = 4096;

/// The repairs of all groups.
#[derive(Default)]
pub(super) struct Repairs {
    waiting: BTreeSet<Repair>,
    under_way: BTreeMap<u32, Repair>,
    next: u32,
}

impl Repairs {
    /// Adds a repair unless it is known already. False if it is, or if too many wait.
    fn add(&mut self, repair: Repair) -> bool {
        if self.under_way.values().any(|known| *known == repair) || self.waiting.len() >= WAITING_MAX {
            return false;
        }
        self.waiting.insert(repair)
    }

    /// The next repair to begin, with its number.
    fn begin(&mut self) -> Option<(u32, Repair)> {
        if self.under_way.len() >= UNDER_WAY_MAX {
            return None;
        }
        let repair = self.waiting.pop_first()?;
        self.next = self.next.wrapping_add(1);
        let before = self.under_way.insert(self.next, repair);
        assert_eq!(before, None, "fewer than 2^32 are under way");
        Some((self.next, repair))
    }
}

impl Control {
    /// A member could not read some blocks; whoever wanted them has them from the others.
    pub(super) fn media_error(&mut self, core: &mut Core, io: &mut Io<Message>, repair: Repair) {
        let drives = &self.groups[usize::from(repair.group)].drives;
        let Some(drive) = drives[usize::from(repair.member.0)] else {
            return;
        };
        if !self.is_active(repair) || !self.repairs.add(repair) {
            return; // Every command that met the same blocks tells of them.
        }
        self.drive_uses[usize::from(drive)].errors += 1;
        let event = Event::Media {
            now: io.now(),
            losable: self.is_losable(drive),
        };
        let decision = self.judge(core, io, drive, event);
        let health = &self.health[usize::from(drive)];
        // A drive may have any number of them: the first is logged, and then ever fewer.
        if health.media_errors().is_power_of_two() {
            let (name, row) = (&self.drives[usize::from(drive)].name, repair.row.0);
            tracing::warn!(drive = %name, row, offset_blocks = repair.offset_blocks, blocks = repair.blocks,
                errors = health.media_errors(), "drive could not read blocks: they are written anew from the others");
        }
        match decision {
            Some(Decision::Repair) => self.begin_repairs(core, io),
            Some(Decision::Suspect(_) | Decision::Quarantine(_) | Decision::Evict(_)) | None => {
                self.repairs.waiting.remove(&repair);
            }
        }
    }

    /// Whether the member is in use, so that what is on it matters.
    fn is_active(&self, repair: Repair) -> bool {
        let snapshot = self.groups[usize::from(repair.group)].machine.snapshot();
        let member = &snapshot.members[usize::from(repair.member.0)];
        member.status == MemberStatus::Active
    }

    /// Hands repairs to this core's engines until as many are under way as may be.
    pub(super) fn begin_repairs(&mut self, core: &mut Core, io: &mut Io<Message>) {
        while let Some((number, repair)) = self.repairs.begin() {
            let owner = Owner::Internal(InternalCommand::Repair { number });
            let Some(command) = core.commands.insert(owner, None) else {
                self.repairs.under_way.remove(&number);
                self.repairs.waiting.insert(repair);
                return; // The next tick tries again.
            };
            let request = Request::Repair {
                row: repair.row,
                member: repair.member,
                offset_blocks: repair.offset_blocks,
                blocks: repair.blocks,
            };
            core.queue_group(repair.group, command, request);
            core.run_queued(io, repair.group);
        }
    }

    /// An engine has done a repair, or could not.
    pub(super) fn repair_done(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        number: u32,
        result: Result<(), GroupError>,
    ) {
        let repair = self.repairs.under_way.remove(&number);
        let repair = repair.expect("a repair is answered once");
        let drive = self.groups[usize::from(repair.group)].drives[usize::from(repair.member.0)];
        if let Some(drive) = drive.filter(|_| self.is_active(repair)) {
            let event = match result {
                Ok(()) => Event::Repaired,
                Err(error) => {
                    let (name, row) = (&self.drives[usize::from(drive)].name, repair.row.0);
                    tracing::error!(drive = %name, row, %error, "blocks that could not be read could not be written anew");
                    Event::RepairFailed {
                        losable: self.is_losable(drive),
                    }
                }
            };
            self.judge(core, io, drive, event);
        }
        self.begin_repairs(core, io);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amf::{MemberIndex, RowIndex};

    fn repair(row: u64) -> Repair {
        Repair {
            group: 0,
            member: MemberIndex(1),
            row: RowIndex(row),
            offset_blocks: 0,
            blocks: 8,
        }
    }

    #[test]
    fn the_same_blocks_are_repaired_once_at_a_time() {
        let mut repairs = Repairs::default();
        assert!(repairs.add(repair(1)));
        assert!(!repairs.add(repair(1)), "it waits already");
        let (number, begun) = repairs.begin().expect("one waits");
        assert_eq!(begun, repair(1));
        assert!(!repairs.add(repair(1)), "an engine is at it");
        repairs.under_way.remove(&number);
        assert!(
            repairs.add(repair(1)),
            "it was repaired, and has become unreadable again"
        );
    }

    #[test]
    fn few_repairs_are_under_way_and_not_too_many_wait() {
        let mut repairs = Repairs::default();
        let added = (0..10_000).filter(|row| repairs.add(repair(*row))).count();
        assert_eq!(added, WAITING_MAX);
        let begun = std::iter::from_fn(|| repairs.begin()).count();
        assert_eq!(begun, UNDER_WAY_MAX);
    }
}
