//! What operators want during a run, and which members may be out of the group.

use super::{Event, Stage, Violation, World};
use crate::amf::MemberIndex;
use crate::sim::node::{Node, Phase, drive_facts};
use crate::sim::scenario::{OperatorWish, Order};

/// How long an operator waits with a drive of which something is still under way.
const PATIENCE_NS: u64 = 1_000_000;

impl World {
    /// Orders whose time has come.
    pub(super) fn orders_come(&mut self) {
        while let Some(&Order { at, wish }) = self.scenario.orders.get(self.next_order)
            && at <= self.issued
        {
            self.next_order += 1;
            self.later(0, Event::Order(wish));
        }
    }

    /// Does what an operator wants, if there is a node that can.
    pub(super) fn operate(&mut self, wish: OperatorWish) {
        let now = self.now;
        self.trace
            .note(&[now, 10], || format!("{now} the operator wants {wish:?}"));
        let is_open = self.node.as_ref().is_some_and(|node| node.phase() == Phase::Open);
        if !is_open || matches!(self.stage, Stage::Closing | Stage::Scrubbing | Stage::Over(_)) {
            return;
        }
        match wish {
            OperatorWish::Fail(member) => {
                self.put_out(1 << member);
                self.with_node(|node, out| node.fail_member(MemberIndex(member), out));
            }
            OperatorWish::Return(drive) => self.bring_back(drive),
            OperatorWish::Expand(number) => self.expand(number),
            OperatorWish::Scrub
            | OperatorWish::Repair
            | OperatorWish::Pause
            | OperatorWish::Resume
            | OperatorWish::Rate(_)
            | OperatorWish::Latency(_) => self.with_node(|node, out| node.operate(wish, out)),
        }
    }

    /// A drive is sound again.
    fn bring_back(&mut self, drive: u8) {
        let is_busy = self.askers.values().any(|(of, _)| *of == u16::from(drive));
        if is_busy {
            return self.later(PATIENCE_NS, Event::Order(OperatorWish::Return(drive)));
        }
        let at = &mut self.drives[usize::from(drive)];
        at.recover();
        let facts = drive_facts(u16::from(drive), at, self.scenario.block);
        self.with_node(|node, out| node.bring_back(facts, out));
    }

    /// Drives that nobody uses are to be members.
    fn expand(&mut self, number: u8) {
        let Some(node) = &self.node else { return };
        let width = node.geometry().members();
        let first = self.scenario.members + self.scenario.spares;
        let used = |drive: &u16| (0..width).any(|member| node.drive_of(MemberIndex(member)) == Some(*drive));
        let free = (first..self.scenario.drives())
            .map(u16::from)
            .filter(|drive| !used(drive));
        let drives: Vec<u16> = free.take(usize::from(number)).collect();
        if drives.is_empty() {
            return;
        }
        // If that comes to be, this is who they are.
        for (member, drive) in (width..).zip(&drives) {
            self.seats[usize::from(member)] = Some(*drive);
            if self.drives[usize::from(*drive)].trouble().is_some() {
                self.harmed |= 1 << member;
            }
        }
        self.widths
            .insert(width + u8::try_from(drives.len()).expect("few drives"));
        let facts = drives
            .iter()
            .map(|drive| drive_facts(*drive, &self.drives[usize::from(*drive)], self.scenario.block));
        let facts = facts.collect();
        self.with_node(|node, out| node.expand(facts, out));
    }

    /// Notes which drive carries which member.
    pub(super) fn note_seats(&mut self) {
        let Some(node) = &self.node else { return };
        for member in 0..self.scenario.members_max() {
            let drive = node.drive_of(MemberIndex(member));
            self.seats[usize::from(member)] = drive.or(self.seats[usize::from(member)]);
        }
    }

    /// The member of this drive may be out of the group from now on.
    pub(super) fn harm(&mut self, drive: u16) {
        let members = self.members_on(drive);
        self.harm_members(members);
    }

    /// These members may be out of the group from now on.
    pub(super) fn harm_members(&mut self, members: u32) {
        self.harmed |= members;
        self.note_missing();
    }

    /// The member of this drive cannot give back some blocks.
    pub(super) fn doubt(&mut self, drive: u16) {
        self.doubtful |= self.members_on(drive);
        self.note_missing();
    }

    fn members_on(&mut self, drive: u16) -> u32 {
        self.note_seats();
        let seats = self.seats.iter().enumerate();
        let here = seats.filter(|(_, seat)| **seat == Some(drive));
        here.fold(0, |mask, (member, _)| mask | 1 << member)
    }

    /// These members are to be put out of the group. A rebuild of theirs that is just ending does not bring them back.
    pub(super) fn put_out(&mut self, members: u32) {
        self.leaving |= members;
        self.harm_members(members);
    }

    fn note_missing(&mut self) {
        let missing = self.harmed | self.doubtful;
        self.was_too_much |= !self.scenario.level.survives(self.scenario.members, missing);
    }

    /// A member is rebuilt: it is out of the group no more, unless something is about to happen to its new drive.
    pub(super) fn member_rebuilt(&mut self, member: MemberIndex) {
        let now = self.now;
        self.trace.note(&[now, 11, u64::from(member.0)], || {
            format!("{now} member {} is rebuilt", member.0)
        });
        self.note_seats();
        let drive = self.seats[usize::from(member.0)].expect("a member that is rebuilt has a drive");
        let stays = self.leaving >> member.0 & 1 == 0;
        self.leaving &= !(1 << member.0);
        if stays && self.drives[usize::from(drive)].trouble().is_none() {
            self.harmed &= !(1 << member.0);
            self.doubtful &= !(1 << member.0);
        }
    }

    /// What a scrub has found while the group was whole is wrong; and whoever gets on is not stuck.
    pub(super) fn look_at_background(&mut self) {
        let Some(node) = &self.node else { return };
        let done = node.background_done();
        if done != self.background_done {
            self.background_done = done;
            self.heard = self.now;
        }
        if let Some((row, mismatch)) = node.scrub_mismatch() {
            let what = format!("row {} does not fit its check data: {mismatch:?}", row.0);
            self.violate(Violation::Redundancy(what));
        }
    }

    /// Hosts ask nothing more: whatever is paused goes on, so that it comes to its end.
    pub(super) fn settle(&mut self) {
        self.stage = Stage::Settling;
        let is_open = |node: &Node| node.phase() == Phase::Open;
        if self.node.as_ref().is_some_and(is_open) {
            self.with_node(|node, out| node.operate(OperatorWish::Resume, out));
        }
    }
}
