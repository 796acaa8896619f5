//! The end of a run: everything is read, with every set of members lost that the group survives (I5, I6).

use super::{Ending, Stage, Violation, World};
use crate::amf::engine::{Request, ScrubOutcome};
use crate::drive::block::NamespaceLba;
use crate::sim::history::{Ended, Wish};
use crate::sim::node::{Node, Phase};
use crate::sim::stamp::{Content, recognise};
use crate::vdisk::VirtualDisk;

/// Sets of lost members that are tried, at most: all of them for the groups that are simulated.
const SETS_MAX: usize = 400;

impl World {
    /// Reads everything back. What the first reading finds goes into the history; all others must find the same.
    pub(super) fn audit(&mut self) {
        let Some(node) = self.node.take() else { return };
        if let Phase::Failed(why) = node.phase() {
            return self.judge_failure(why);
        }
        node.assert_idle();
        for (row, outcome) in node.scrubbed() {
            if matches!(outcome, ScrubOutcome::Mismatch { .. }) {
                let what = format!("row {} does not fit its check data: {outcome:?}", row.0);
                return self.violate(Violation::Redundancy(what));
            }
        }
        self.stage = Stage::Over(Ending::Audited);
        let failed = node.members().map_or(0, |members| members.failed);
        let sets = (0..1u32 << node.geometry().members()).filter(|set| set & failed == failed);
        let sets = sets.filter(|set| node.survives(*set)).take(SETS_MAX);
        let mut first: Option<Vec<Content>> = None;
        for set in sets {
            self.audits += 1;
            let contents = match self.read_all(&node, set) {
                Ok(contents) => contents,
                Err(what) => return self.violate(Violation::Redundancy(what)),
            };
            let Some(first) = &first else {
                if let Err(what) = self.note_contents(&node, &contents) {
                    return self.violate(Violation::Redundancy(what));
                }
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
    }

    /// Notes what the disks hold. A lost block tells nothing, and there may be some only if more members could not give back what
    /// they had than the group survives.
    fn note_contents(&mut self, node: &Node, contents: &[Content]) -> Result<(), String> {
        let lost = node.lost_blocks();
        if !lost.is_empty() && !self.was_too_much {
            let (extents, harmed) = (lost.extents(), self.harmed | self.doubtful);
            return Err(format!(
                "blocks are called lost although redundancy is there: {extents:?}; harmed members: {harmed:b}"
            ));
        }
        let history = self.history.as_mut().expect("a node that runs has a history");
        for (lba, content) in (0..).zip(contents) {
            let (disk, there, _) = node.locate(lba);
            let at = disk.group_range(NamespaceLba(there), 1).expect("inside the disk");
            if !lost.contains_any(at, 1) {
                let command = history.begin(Wish::Read, lba, 1);
                history.end(command, Ended::Done, &[*content]);
            }
        }
        Ok(())
    }

    /// Reads the whole disk with these members lost.
    fn read_all(&self, node: &Node, lost: u32) -> Result<Vec<Content>, String> {
        let mut core = node.reader(lost);
        let mut contents = Vec::new();
        let block_bytes = self.scenario.block as usize;
        let row = u64::from(node.geometry().row_blocks());
        let end: u64 = node.disks().iter().map(VirtualDisk::blocks).sum();
        let mut lba = 0;
        while lba < end {
            let (disk, there, left) = node.locate(lba);
            let blocks = u32::try_from(row.min(left)).expect("a row is short");
            let at = disk.group_range(NamespaceLba(there), u64::from(blocks));
            let at = at.expect("inside the disk");
            let request = Request::Read { lba: at, blocks };
            let buffer = vec![0xdd; blocks as usize * block_bytes];
            let data = core.read_now(request, buffer, |member, lba, blocks| {
                let drive = node.drive_of(member);
                let drive = drive.expect("a member that is not lost has a drive");
                self.drives[usize::from(drive)].read(lba, blocks)
            });
            let data = data.map_err(|error| format!("block {lba} with members {lost:#b} lost: {error}"))?;
            let blocks = data.chunks(block_bytes).zip(lba..);
            contents.extend(blocks.map(|(bytes, lba)| recognise(bytes, lba)));
            lba += row.min(left);
        }
        Ok(contents)
    }
}
