//! Expansions of a simulated group: the real machine of their waves, bound to the cores, to the control core's engine and to the group
//! machine as `target::control::expansion` does it.

use super::{Effect, Mail, Node, Owner};
use crate::amf::background::{Event as BackgroundEvent, Shape};
use crate::amf::engine::Request;
use crate::amf::expansion::Layout;
use crate::amf::group::{DriveFacts, Event as GroupEvent, VdiskSize};
use crate::amf::relayout::{Action, Event, Report};
use crate::amf::superblock::VdiskRecord;
use crate::sim::scenario::Mutant;
use crate::vdisk::VirtualDisk;

impl Node {
    /// An operator wants these drives to be members, whatever is on them.
    pub fn expand(&mut self, drives: Vec<DriveFacts>, out: &mut Vec<Effect>) {
        let mut identities = Vec::new();
        for _ in &drives {
            self.requests += 1;
            identities.push(self.fresh_identity());
        }
        let request = self.request();
        let event = GroupEvent::Expand {
            request,
            drives,
            identities,
            force: true,
        };
        self.group_event(event, out);
    }

    /// Where every block is, as far as that is durable.
    pub fn layout(&self) -> Layout {
        self.group.layout()
    }

    /// Feeds the waves and carries out what they want.
    pub(super) fn relayout_event(&mut self, event: Event, out: &mut Vec<Effect>) {
        let mut actions = Vec::new();
        self.relayout.handle(&self.group, event, &mut actions);
        for action in actions {
            self.relayout_action(action, out);
        }
        self.pump(0, out);
    }

    fn relayout_action(&mut self, action: Action, out: &mut Vec<Effect>) {
        match action {
            Action::Hold { rows, wave } => self.tell_all(Mail::HoldRows { rows, wave }, out),
            Action::Move { row, phase } => {
                let core = &mut self.cores[0];
                let command = core.take_slot(Owner::Move, Vec::new());
                core.submit(command, Request::Move { row, phase });
            }
            Action::Flush if self.mutant == Mutant::MapBeforeData => {
                self.relayout_event(Event::Flushed(Ok(())), out);
            }
            Action::Flush => {
                let core = &mut self.cores[0];
                let command = core.take_slot(Owner::MoveFlush, Vec::new());
                core.submit(command, Request::FlushDrives);
            }
            Action::Scratch(scratch) => self.group_event(GroupEvent::ExpansionScratch(scratch), out),
            Action::Advance { frontier } if self.mutant == Mutant::EarlyFrontier => {
                self.publish_early(frontier, out);
            }
            Action::Advance { frontier } => self.group_event(GroupEvent::ExpansionProgress { frontier }, out),
            Action::SetLayout { layout, news } => {
                if news {
                    self.await_cores(1);
                }
                self.tell_all(Mail::SetLayout(layout), out);
            }
            Action::Published => {
                self.core_answered(out);
                // Before the end this has to be refused: hosts must see nothing of the new members yet.
                self.grow_disk(out);
            }
            Action::Answer { row, answer } => {
                self.work.wave_done(answer);
                self.background_event(BackgroundEvent::RowAnswered { row, answer }, out);
            }
            Action::Report(Report::Begins { layout }) => {
                self.work.set_shape(Shape::of(layout.widest()));
            }
            Action::Report(Report::Over) => out.push(Effect::Expanded),
            Action::Report(Report::NotWiped(_) | Report::NotMoved { .. } | Report::NotPlaced { .. }) => {}
        }
    }

    /// Has the cores look blocks up in rows that are not yet durably theirs, for the mutant that does so; the next tick makes up for it.
    fn publish_early(&mut self, frontier: u64, out: &mut Vec<Effect>) {
        let mut layout = self.group.layout();
        layout.advance(frontier);
        for core in 0..self.core_count() {
            self.cores[usize::from(core)].set_layout(layout);
            self.pump(core, out);
        }
        self.late_frontier = Some(frontier);
    }

    /// Time goes by.
    pub(super) fn relayout_tick(&mut self, out: &mut Vec<Effect>) {
        if let Some(frontier) = self.late_frontier.take() {
            self.group_event(GroupEvent::ExpansionProgress { frontier }, out);
        }
        self.relayout_event(Event::Tick, out);
    }

    /// An operator wants the last disk to have all that is free behind it.
    pub(super) fn grow_disk(&mut self, out: &mut Vec<Effect>) {
        let Some(disk) = self.disks().last().filter(|_| self.grows) else {
            return;
        };
        let nsid = disk.nsid();
        let request = self.request();
        let size = VdiskSize::LargestFree;
        self.group_event(GroupEvent::ResizeVdisk { request, nsid, size }, out);
    }

    /// A disk has got larger.
    pub(super) fn disk_resized(&mut self, record: &VdiskRecord, out: &mut Vec<Effect>) {
        let disk = self.disks.iter_mut().find(|disk| disk.nsid() == record.nsid);
        *disk.expect("only disks that are there get larger") = VirtualDisk::new(record);
        out.push(Effect::Grown);
    }
}
