//! The end of a run: everything is read from the drives, with every set of members lost that the group survives (I5, I6).

use super::recovery::find_shared;
use super::world::World;
use crate::amf::engine::Request;
use crate::amf::group::{Candidate, Group, MemberRole};
use crate::drive::block::NamespaceLba;
use crate::sim::history::{Ended, Wish};
use crate::sim::node::{drive_facts, reader_of};
use crate::sim::stamp::{Content, recognise};
use crate::sim::world::Violation;
use crate::vdisk::VirtualDisk;

impl World {
    /// Reads everything back. What the first reading finds goes into the history; all others must find the same.
    pub(super) fn audit(&mut self) {
        if self.hosts.history.is_none() {
            return; // No host ever came.
        }
        let facts: Vec<_> = (0u16..)
            .zip(&self.drives)
            .map(|(index, shared)| drive_facts(index, &shared.drive, self.setting.shape.block))
            .collect();
        let candidate = match find_shared(&facts, false, false) {
            Ok(candidate) => candidate,
            Err(error) => return self.violate(Violation::Refused(format!("in the end: {error}"))),
        };
        let failed = lost_of(&candidate);
        let group = Group::assembled(candidate);
        let sets = (0..1u32 << group.geometry().members()).filter(|set| set & failed == failed);
        let mut first: Option<Vec<Content>> = None;
        for set in sets.filter(|set| group.survives(*set)) {
            let contents = match self.read_all(&group, set) {
                Ok(contents) => contents,
                Err(what) => return self.violate(Violation::Redundancy(what)),
            };
            let Some(first) = &first else {
                first = Some(contents);
                continue;
            };
            let differs = (0u64..)
                .zip(first.iter().zip(&contents))
                .find(|(_, (a, b))| a != b);
            if let Some((lba, (with, without))) = differs {
                let what = format!("block {lba} reads {with:?}, but with members {set:#b} lost {without:?}");
                return self.violate(Violation::Redundancy(what));
            }
        }
        let history = self.hosts.history.as_mut().expect("hosts came");
        for (lba, content) in (0..).zip(first.expect("a group that was found can be read")) {
            let command = history.begin(Wish::Read, lba, 1);
            history.end(command, Ended::Done, &[content]);
        }
    }

    /// Reads the whole disk with these members lost.
    fn read_all(&self, group: &Group, lost: u32) -> Result<Vec<Content>, String> {
        let disk = group.vdisks().first().map(VirtualDisk::new);
        let disk = disk.ok_or("the disk is gone that hosts were served")?;
        let mut core = reader_of(group, lost);
        let block_bytes = self.setting.shape.block as usize;
        let row = u64::from(group.geometry().row_blocks());
        let mut contents = Vec::new();
        let mut lba = 0;
        while lba < disk.blocks() {
            let blocks = u32::try_from(row.min(disk.blocks() - lba)).expect("a row is short");
            let at = disk.group_range(NamespaceLba(lba), u64::from(blocks));
            let lba_there = at.expect("inside the disk");
            let request = Request::Read {
                lba: lba_there,
                blocks,
            };
            let buffer = vec![0xdd; blocks as usize * block_bytes];
            let data = core.read_now(request, buffer, |member, lba, blocks| {
                let drive = group.drive_of(member);
                let drive = drive.expect("a member that is not lost has a drive");
                self.drives[usize::from(drive)].drive.read(lba, blocks)
            });
            let data = data.map_err(|error| format!("block {lba} with members {lost:#b} lost: {error}"))?;
            let blocks_read = data.chunks(block_bytes).zip(lba..);
            contents.extend(blocks_read.map(|(bytes, lba)| recognise(bytes, lba)));
            lba += u64::from(blocks);
        }
        Ok(contents)
    }
}

/// Members that do not have all data.
fn lost_of(candidate: &Candidate) -> u32 {
    let members = candidate.members.iter().enumerate();
    let lost = members.filter(|(_, member)| !matches!(member.role, MemberRole::Current | MemberRole::Behind));
    lost.fold(0, |mask, (member, _)| mask | 1 << member)
}
