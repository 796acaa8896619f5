//! The control core of a node that shares its group: what `target::control::share` and its `groups` do, in the same order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Bound, CONTROL, Effect, Heard, Mail, Node, Outcome, Phase, Plan, Recovering, Source};
use crate::amf::engine::{Durability, WriteBackConfig};
use crate::amf::group::{
    Action as GroupAction, Event, Group, LanesOver, Opening, Replay, RequestId, TakeOver, VdiskSize,
    VdiskSpec,
};
use crate::amf::lock::HOME;
use crate::amf::peering::note::{Led, Note};
use crate::amf::peering::{Action, Era, MemoryAction, Peering};
use crate::amf::superblock::{self, GroupRecord, JournalRecord, Name, PORTS_ALL, Uuid};
use crate::amf::{MEMBERS_MAX, MemberIndex, MemberSet};
use crate::drive::DriveError;
use crate::icl::membership::record::EpochRecord;
use crate::icl::{Epoch, Slot, SlotSet};
use crate::sim::array::Mutant;
use crate::sim::node::{LaneCall, core_of, write_back_of};
use crate::vdisk::VirtualDisk;

/// What names a simulated drive to all nodes.
fn name_of(drive: u16) -> [u8; 16] {
    let mut name = [0xd5; 16];
    name[..2].copy_from_slice(&drive.to_le_bytes());
    name
}

fn label_of(drive: u16) -> String {
    format!("d{drive}")
}

// Membership.
impl Node {
    /// An epoch is decided, and its barrier begins.
    pub(in crate::sim::array) fn enter_epoch(&mut self, record: EpochRecord, out: &mut Vec<Effect>) {
        let before = self.record.as_ref();
        let leader = self.setting.group_leader(&record).slot;
        let mut era = Era::of(&record, before, record.slots(), leader);
        if era.seniors != record.seniors() {
            self.counters.quick_restarts += 1;
            if self.setting.mutant == Mutant::SameSlot {
                (era.seniors, era.stayed) = (record.seniors(), record.seniors());
            }
        }
        self.counters.interrupted += u64::from(self.recovers.is_some() || self.peering.awaits().is_some());
        self.counters.stale_orders += u64::from(self.steps_down);
        self.link_epoch(&record, out);
        self.record = Some(record);
        // Whoever is to put its pen down is told so anew.
        (self.refused, self.steps_down) = (None, false);
        self.peer(out, |peering, now, out| peering.enter(now, era, out));
        self.pass_barrier(era.epoch, out);
    }

    fn pass_barrier(&self, epoch: Epoch, out: &mut Vec<Effect>) {
        if self.barrier >= epoch {
            out.push(Effect::Heard(Heard::BarrierDone(epoch)));
        }
    }

    fn pass_recovered(&self, epoch: Epoch, out: &mut Vec<Effect>) {
        if self.recovered >= epoch {
            out.push(Effect::Heard(Heard::Recovered(epoch)));
        }
    }

    /// Locks are reported everywhere, and this node leads.
    pub(in crate::sim::array) fn recover(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        self.peer(out, |peering, _, out| peering.recover(epoch, out));
        self.pass_recovered(epoch, out);
    }

    /// The epoch is open.
    pub(in crate::sim::array) fn opened(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        self.peer(out, |peering, now, out| peering.opened(now, epoch, out));
        self.try_listen(out);
    }

    /// These members are not heard.
    pub(in crate::sim::array) fn suspect(&mut self, slots: SlotSet, out: &mut Vec<Effect>) {
        self.peer(out, |peering, now, out| peering.suspect(now, slots, out));
    }

    /// Locks have waited for this.
    pub(in crate::sim::array) fn tick_locks(&mut self, out: &mut Vec<Effect>) {
        if self.peering.wake_at_ns() <= self.now {
            self.peer(out, |peering, now, out| peering.tick(now, out));
        }
    }

    /// A message of another member came in on the link, in this epoch.
    pub(super) fn receive(
        &mut self,
        from: Slot,
        epoch: Epoch,
        (kind, bytes): (u16, &[u8]),
        out: &mut Vec<Effect>,
    ) {
        let mut result = Ok(());
        self.peer(out, |peering, now, out| {
            result = peering.receive(now, (from, epoch), (kind, bytes), out);
        });
        result.expect("nodes understand each other");
    }

    /// Lets the node's part in the group do something, and carries out what it wants.
    pub(super) fn peer(
        &mut self,
        out: &mut Vec<Effect>,
        act: impl FnOnce(&mut Peering, u64, &mut Vec<Action>),
    ) {
        let mut actions = Vec::new();
        act(&mut self.peering, self.now, &mut actions);
        for action in actions {
            self.peering_action(action, out);
        }
    }

    fn peering_action(&mut self, action: Action, out: &mut Vec<Effect>) {
        let tell = |to: u16, mail: Mail| Effect::Mail {
            from: CONTROL,
            to,
            mail,
        };
        match action {
            Action::WakeCores { mask, row } => {
                out.push(Effect::Row(row));
                let cores = (0..self.setting.cores).filter(|core| mask >> core & 1 == 1);
                out.extend(cores.map(|to| tell(to, Mail::Wake(row))));
                if mask >> HOME & 1 == 1 {
                    self.peer(out, |peering, now, out| peering.turn(now, row, out));
                }
            }
            Action::RecallCore { core, row, gives } => out.push(tell(core, Mail::RecallFor(row, gives))),
            Action::Answer { core, row } => out.push(tell(core, Mail::Answer(row))),
            Action::Adopt { core, row, data } => {
                out.extend([Effect::Row(row), tell(core, Mail::Adopt(row, data))]);
            }
            Action::Restore { core, row } => out.extend([Effect::Row(row), tell(core, Mail::Restore(row))]),
            // Its entries stay until it is forgotten.
            Action::Void { .. } => {}
            Action::Settle { core, row } | Action::Forget { core, row } => {
                out.push(tell(core, Mail::Settle(row)));
            }
            Action::Send { to, note } => self.send_note(to, &note),
            Action::TailMoved => self.tell_lanes_moved(u32::MAX, out),
            Action::LanesMoved { lanes } => self.tell_lanes_moved(lanes >> self.first_lane(), out),
            Action::Hurry { lane, below } => {
                if self.bound.is_some() {
                    let call = LaneCall::Hurry { below };
                    out.extend((0..self.setting.cores).map(|to| tell(to, Mail::Lane { lane, call })));
                }
            }
            Action::StepDown => {
                self.steps_down = true;
                self.step_down(out);
            }
            Action::BarrierDone(epoch) => {
                self.barrier = epoch;
                self.pass_barrier(epoch, out);
            }
            Action::Recover(recovery) => out.push(Effect::Heard(Heard::RecoverGroup(recovery))),
            Action::EndEntries { epoch, below } => self.end_entries(epoch, below, out),
            Action::Recovered(epoch) => {
                self.recovered = epoch;
                self.pass_recovered(epoch, out);
            }
            Action::Follow(led) => self.follow(&led, out),
            Action::Refused(why) => self.refused_by(why, out),
            Action::NotServed => {
                self.is_served = false;
                self.tell_served(false, out);
            }
            Action::Serve => {
                self.is_served = true;
                self.tell_served(true, out);
                out.push(Effect::Serves(self.epoch()));
                self.try_listen(out);
            }
            Action::Fault(member, error) => self.count_fault(member, error, out),
            Action::Reserve { .. } => unreachable!("hosts reserve nothing here"),
            Action::Memory(action) => self.memory_action(action, out),
            Action::Misbehaved { peer, what } => panic!("node {peer} breaks the rules: {what:?}"),
        }
    }

    fn tell_served(&self, is_served: bool, out: &mut Vec<Effect>) {
        if self.bound.is_some() {
            out.extend((0..self.setting.cores).map(|to| Effect::Mail {
                from: CONTROL,
                to,
                mail: Mail::Served(is_served),
            }));
        }
    }

    fn memory_action(&mut self, action: MemoryAction, out: &mut Vec<Effect>) {
        let tell = |to, mail| Effect::Mail {
            from: CONTROL,
            to,
            mail,
        };
        let cores = self.setting.cores;
        let to_all = |mail: Mail| (0..cores).map(move |core| tell(core, mail.clone()));
        match action {
            MemoryAction::KeepCopies(keeping, epoch) => out.extend(to_all(Mail::KeepCopies(keeping, epoch))),
            MemoryAction::Kept { core, batch } => out.push(tell(core, Mail::Kept(batch))),
            MemoryAction::Watch { to, name } => {
                self.departing.watch(to, self.links.departures(to), name);
            }
            MemoryAction::Sent { core, batch } => out.push(tell(core, Mail::Sent(batch))),
            MemoryAction::Commit(name) => {
                let (lane, flush) = (name.lane, name.flush);
                let call = LaneCall::Commit { flush };
                out.extend(to_all(Mail::Lane { lane, call }));
            }
            MemoryAction::Committed { core, flush, lanes } => {
                let (lane, call) = (self.first_lane() + core, LaneCall::Committed { flush });
                out.extend((0..lanes).map(|_| tell(core, Mail::Lane { lane, call })));
            }
            MemoryAction::Record(may_be_lost) => {
                if self.bound.is_some() {
                    let event = if may_be_lost {
                        Event::RamDirty
                    } else {
                        Event::RamClean
                    };
                    self.group_event(event, out);
                }
            }
            MemoryAction::Allow(allowed) => out.extend(to_all(Mail::AllowMemory(allowed))),
            MemoryAction::Over => self.leave(out),
        }
    }

    fn send_note(&mut self, to: Slot, note: &Note) {
        let mut bytes = self.peering.context().encode().to_vec();
        note.encode(&mut bytes);
        self.counters.messages += 1;
        self.say(to, note.kind(), &bytes);
    }

    fn tell_lanes_moved(&self, cores: u32, out: &mut Vec<Effect>) {
        if self.bound.is_none() {
            return;
        }
        let told = (0..self.setting.cores).filter(|core| cores >> core & 1 == 1);
        out.extend(told.map(|to| Effect::Mail {
            from: CONTROL,
            to,
            mail: Mail::Lane {
                lane: self.first_lane() + to,
                call: LaneCall::TailMoved,
            },
        }));
    }
}

// The group.
impl Node {
    /// The thread of the life has read and written what the recovery took.
    pub(in crate::sim::array) fn group_recovered(
        &mut self,
        epoch: Epoch,
        outcome: Outcome,
        out: &mut Vec<Effect>,
    ) {
        if self.peering.awaits() != Some(epoch) {
            return; // It has failed meanwhile.
        }
        let next_of = |plan: &Plan| plan.replayed.as_ref().map(|report| report.next_seq);
        // Beside others all entries that are older than what was replayed are to go.
        let (below, next) = match &outcome {
            Outcome::TakeOver(plan) => (next_of(plan), next_of(plan)),
            Outcome::GoOn { next, .. } => (*next, *next),
            Outcome::Open(plan) => (None, next_of(plan)),
            Outcome::Refused(_) => (None, None),
        };
        self.recovers = Some((epoch, Recovering::Replayed { below }));
        self.journal.raise(next.unwrap_or(0));
        match outcome {
            Outcome::Open(_) if self.bound.is_some() => {
                self.counters.opened_beside += 1;
                let why = "it could not be opened before, and what is bound to it would be in the way";
                self.not_led(why, out);
                out.push(Effect::Heard(Heard::Failed(why)));
            }
            Outcome::Open(plan) => {
                let replay = replay_of(&plan);
                match self.bind_led(machine_of(plan), true) {
                    Ok(()) => self.group_event(Event::Start(self.opening(replay)), out),
                    Err(why) => self.not_led(&why, out),
                }
            }
            Outcome::TakeOver(plan) => self.take_over(plan, out),
            Outcome::GoOn { unused, .. } => self.go_on(&unused, out),
            Outcome::Refused(why) => self.not_led(&why, out),
        }
    }

    /// This node goes on to write the group's superblocks.
    fn go_on(&mut self, unused: &[u16], out: &mut Vec<Effect>) {
        let bound = self.bound.as_ref().expect("who goes on has the group open");
        if bound.phase == Phase::Failed {
            return self.not_led(
                "it has failed: stop all nodes, and start them when its drives are back",
                out,
            );
        }
        let is_unused = |drive: &Option<u16>| drive.is_some_and(|drive| unused.contains(&drive));
        let members = (0..).zip(&bound.drives);
        let members = members.filter(|(_, drive)| is_unused(drive));
        // Whoever is gone may not have been fenced there, or what it left was replayed without it.
        let members = members.fold(0, |members, (member, _)| members | 1u32 << member);
        self.group_event(Event::LeftOut { members }, out);
    }

    /// Others have the group open; from now on this node writes its superblocks.
    fn take_over(&mut self, plan: Plan, out: &mut Vec<Effect>) {
        let replay = replay_of(&plan);
        let machine = machine_of(plan);
        match &mut self.bound {
            Some(bound) => {
                assert_one_journal(&bound.machine, machine.journal());
                (bound.machine, bound.leads) = (machine, true);
            }
            None => {
                if let Err(why) = self.bind_led(machine, false) {
                    return self.not_led(&why, out);
                }
            }
        }
        let opening = self.opening(replay);
        // Nothing is over before all nodes have retired what is older.
        let over = LanesOver { lanes: 0, below: 0 };
        self.group_event(Event::TakeOver(TakeOver { opening, over }), out);
    }

    /// All nodes have retired their entries below a number.
    fn end_entries(&mut self, epoch: Epoch, below: u64, out: &mut Vec<Effect>) {
        self.recovers = Some((epoch, Recovering::Ending));
        let bound = self.bound.as_ref().expect("who leads has the group open");
        let journal = bound.machine.journal().expect("entries are in a journal");
        let lanes = journal.lanes_mask();
        self.group_event(Event::LanesOver(LanesOver { lanes, below }), out);
    }

    fn not_led(&mut self, why: &str, out: &mut Vec<Effect>) {
        let Some((epoch, _)) = self.recovers.take() else {
            return;
        };
        self.counters.failed_recoveries += 1;
        self.refused = Some(why.to_owned());
        self.peer(out, |peering, _, out| peering.not_led(epoch, why, out));
        self.try_listen(out);
    }

    const fn opening(&self, replay: Replay) -> Opening {
        Opening {
            lanes: self.setting.lanes(),
            lane_blocks_max: u32::MAX,
            replay,
            // Nodes do not tell each other which rows lost members miss.
            marks_intent: false,
        }
    }

    /// Binds the cores to a group that this node leads. Its lanes are cut anew if it is opened as after a stop.
    fn bind_led(&mut self, machine: Group, is_cut: bool) -> Result<(), String> {
        let journal = if is_cut {
            machine.opening_journal(self.setting.lanes(), u32::MAX)
        } else {
            machine.journal()
        };
        self.bind(machine, journal, true)
    }

    fn bind(&mut self, machine: Group, journal: Option<JournalRecord>, leads: bool) -> Result<(), String> {
        let journal = journal.ok_or("its journal has no room for all lanes")?;
        if journal.lanes != self.setting.lanes() {
            return Err(format!("its journal has {} lanes", journal.lanes));
        }
        let write_back = WriteBackConfig {
            hands_over: true,
            keeps_copies: true,
            durability: if self.setting.is_in_memory() {
                Durability::Ram
            } else {
                Durability::Journal
            },
            first_lane: self.first_lane(),
            // No two lives of a slot number their batches alike.
            first_batch: u64::from(self.epoch().0) << 32,
            ..write_back_of(&machine, &journal, Arc::clone(&self.journal))
        };
        self.peering.take(write_back.fit(&machine.geometry()));
        let shape = &self.setting.shape;
        let core = |core| core_of(core, &machine, &self.table, Some(write_back.clone()), shape);
        let cores = (0..self.setting.cores).map(core).collect();
        let members = 0..machine.geometry().members();
        self.bound = Some(Bound {
            cores,
            drives: members
                .map(|member| machine.drive_of(MemberIndex(member)))
                .collect(),
            machine,
            held: VecDeque::new(),
            phase: Phase::Opening,
            leads,
            disk: None,
            draining: 0,
        });
        Ok(())
    }

    /// The leader's newest record: it is taken in, or the group is opened by it.
    fn follow(&mut self, led: &Led, out: &mut Vec<Effect>) {
        let record = superblock::parse_shared(&led.record[..]);
        let record = record.expect("it is read as it was written");
        if let Some(bound) = &self.bound {
            assert_eq!(bound.machine.uuid(), record.group, "there is one group");
            assert_one_journal(&bound.machine, record.journal);
        } else {
            let bytes = self.setting.drive_bytes();
            let drive_of = |name: &Option<[u8; 16]>| {
                let mut drives = 0..u16::from(self.setting.shape.members);
                let drive = drives.find(|drive| Some(name_of(*drive)) == *name)?;
                Some((drive, label_of(drive), bytes))
            };
            let drives = led.drives.iter().map(drive_of).take(record.members.len());
            let machine = Group::followed(record.clone(), drives.collect());
            let journal = machine.journal();
            if let Err(why) = self.bind(machine, journal, false) {
                self.refused = Some(why.clone());
                return out.push(Effect::Heard(Heard::Unfit(why)));
            }
        }
        self.counters.led_early += u64::from(!self.peering.serves());
        self.group_event(Event::Followed(Box::new(record)), out);
        self.peer(out, |peering, now, out| peering.is_open(now, out));
    }

    /// What followers are to know of a group that this node leads; `None` while nothing of it is durable.
    fn led_of(&self) -> Option<Led> {
        let machine = &self.bound.as_ref()?.machine;
        let record = machine.durable_record()?;
        let members = u8::try_from(MEMBERS_MAX).expect("32");
        let name = |member| machine.drive_of(MemberIndex(member)).map(name_of);
        Some(Led {
            drives: (0..members).map(name).collect(),
            record: superblock::encode_shared(record),
        })
    }

    /// Entries are over, durably.
    fn entries_ended(&mut self, out: &mut Vec<Effect>) {
        let Some(led) = self.led_of() else { return };
        let ended = self.recovers.take_if(|(_, waits)| *waits == Recovering::Ending);
        if let Some((epoch, _)) = ended {
            self.peer(out, |peering, now, out| peering.led(now, epoch, led, out));
        }
    }

    /// What others have left is in its place; goes on when the group is open and all that is known of its members is durable.
    fn tell_replayed(&mut self, out: &mut Vec<Effect>) {
        let Some((epoch, Recovering::Replayed { below })) = self.recovers else {
            return;
        };
        let Some(bound) = &self.bound else { return };
        if bound.phase != Phase::Open || !bound.held.is_empty() || !bound.machine.is_quiet() {
            return;
        }
        let Some(led) = self.led_of() else { return };
        self.recovers = None;
        self.peer(out, |peering, now, out| {
            peering.replayed(now, epoch, led, below, out);
        });
    }

    /// The group that this node leads has failed: the others hear of it.
    fn share_failed(&mut self, why: &str, out: &mut Vec<Effect>) {
        self.counters.failed_recoveries += u64::from(self.recovers.is_some());
        self.recovers = None;
        self.refused = Some(why.to_owned());
        self.peer(out, |peering, _, out| peering.failed(why, out));
    }

    /// Whoever leads the group cannot open it, or it has failed.
    fn refused_by(&mut self, why: String, out: &mut Vec<Effect>) {
        self.refused = Some(why);
        let known = self.table.known();
        if let Some(bound) = &mut self.bound {
            bound.phase = Phase::Failed;
            let members = bound.machine.geometry().members();
            let all = u32::MAX >> (32 - u32::from(members));
            let known = MemberSet {
                failed: known.failed & all,
                rebuilding: known.rebuilding & known.failed & all,
                ..known
            };
            // It came with the message; whoever waits until a member counts as lost hears of it here.
            self.announce(known, out);
        }
        self.try_listen(out);
    }

    /// Something of the group has changed: followers hear of it, and who is to step down may be able to.
    fn share_changed(&mut self, out: &mut Vec<Effect>) {
        self.tell_replayed(out);
        if self.steps_down {
            return self.step_down(out);
        }
        self.look_at_memory(out);
        let set = self.bound.as_ref().and_then(|bound| bound.machine.members());
        if let Some(set) = set {
            self.peering.members(set);
        }
        if !self.peering.leads() || self.peering.told().is_none() {
            return;
        }
        let Some(led) = self.led_of() else { return };
        if self.peering.told() != Some(&led) {
            self.peer(out, |peering, _, out| peering.tell(led, out));
        }
    }

    /// Whether the superblocks that this node writes say durably that what was acknowledged may be lost.
    pub(super) fn may_be_lost(&self) -> bool {
        let record = self
            .bound
            .as_ref()
            .and_then(|bound| bound.machine.durable_record());
        record.is_some_and(|record| record.dirty_ram)
    }

    fn look_at_memory(&mut self, out: &mut Vec<Effect>) {
        let is_durable = self
            .bound
            .as_ref()
            .is_some_and(|bound| bound.machine.durable_record().is_some());
        if is_durable && self.peering.leads() {
            let may_be_lost = self.may_be_lost();
            self.peer(out, |peering, _, out| peering.memory_is(may_be_lost, out));
        }
    }

    /// Puts the pen down once no superblock is under way.
    fn step_down(&mut self, out: &mut Vec<Effect>) {
        let Some(bound) = &mut self.bound else { return };
        if bound.phase == Phase::Failed {
            bound.leads = false; // It writes nothing any more.
            self.steps_down = false;
            return self.peer(out, |peering, _, out| peering.stepped_down(out));
        }
        let Some(record) = bound.machine.durable_record().cloned() else {
            return;
        };
        let is_quiet = bound.held.is_empty() && bound.machine.is_quiet();
        if !is_quiet && self.setting.mutant != Mutant::PenKept {
            return;
        }
        self.steps_down = false;
        let drives = drives_of(&bound.machine, &record, self.setting.drive_bytes());
        bound.machine = Group::followed(record.clone(), drives);
        bound.leads = false;
        self.group_event(Event::Followed(Box::new(record)), out);
        self.peer(out, |peering, _, out| peering.stepped_down(out));
    }

    /// A core reports that a member failed a command.
    pub(super) fn member_fault(&mut self, member: MemberIndex, error: DriveError, out: &mut Vec<Effect>) {
        self.peer(out, |peering, _, out| peering.fault(member, error, out));
    }

    /// This node leads, and a member failed here or elsewhere.
    fn count_fault(&mut self, member: MemberIndex, error: DriveError, out: &mut Vec<Effect>) {
        let Some(bound) = &self.bound else { return };
        if member.0 < bound.machine.geometry().members() {
            self.group_event(Event::MemberFault { member, error }, out);
        }
    }

    /// Feeds the group machine and carries out what it wants.
    pub(super) fn group_event(&mut self, event: Event, out: &mut Vec<Effect>) {
        let bound = self.bound.as_mut().expect("the group is bound");
        let mut actions = Vec::new();
        bound.machine.handle(event, &mut actions);
        bound.held.extend(actions);
        while let Some(action) = self.bound.as_mut().and_then(|bound| bound.held.pop_front()) {
            self.group_action(action, out);
        }
        self.share_changed(out);
    }

    fn group_action(&mut self, action: GroupAction, out: &mut Vec<Effect>) {
        let bound = self.bound.as_mut().expect("the group is bound");
        match action {
            GroupAction::WriteSuperblock {
                io,
                drive,
                offset_bytes,
                record,
            } => Self::write_superblock(io, drive, offset_bytes, &record, out),
            GroupAction::Members(set) => self.announce(set, out),
            GroupAction::Started => {
                bound.phase = Phase::Open;
                self.try_listen(out);
                if self.is_closing {
                    self.close_when_open(out);
                }
            }
            GroupAction::LanesOver(_) => self.entries_ended(out),
            GroupAction::VdiskAdded(record) => {
                bound.disk = Some(VirtualDisk::new(&record));
                self.try_listen(out);
            }
            GroupAction::GroupFailed { why, members } => {
                bound.phase = Phase::Failed;
                self.announce(members, out);
                self.share_failed(&why.to_string(), out);
                self.try_listen(out);
                self.try_finish(out);
            }
            GroupAction::Stopped { .. } => {
                bound.phase = Phase::Stopped;
                self.try_finish(out);
            }
            GroupAction::Layout { .. } | GroupAction::Report(_) | GroupAction::Reply { .. } => {}
            // The record says so, too.
            GroupAction::RamAllowed | GroupAction::RamCleared => {}
            GroupAction::MemberDrive { .. }
            | GroupAction::IntentDurable { .. }
            | GroupAction::LostDurable { .. }
            | GroupAction::PageDurable { .. }
            | GroupAction::VdiskRemoved { .. }
            | GroupAction::VdiskResized(_)
            | GroupAction::VdiskChanged(_)
            | GroupAction::Restored
            | GroupAction::RebuildNeeded(_)
            | GroupAction::RebuildOver { .. } => unreachable!("nobody wants that here: {action:?}"),
        }
    }

    fn announce(&self, set: MemberSet, out: &mut Vec<Effect>) {
        self.table.publish(set);
        out.extend((0..self.setting.cores).map(|to| Effect::Mail {
            from: CONTROL,
            to,
            mail: Mail::Members(set),
        }));
    }

    /// Whoever leads makes the disk that there is to be.
    fn try_listen(&mut self, out: &mut Vec<Effect>) {
        let Some(bound) = &self.bound else { return };
        let is_wanted = bound.machine.vdisks().is_empty() && self.requests == 0;
        if !self.is_served || !self.peering.leads() || bound.phase != Phase::Open || !is_wanted {
            return;
        }
        self.requests += 1;
        let spec = VdiskSpec {
            name: Name::parse("v").expect("a letter is a name"),
            size: VdiskSize::LargestFree,
            nsid: None,
            uuid: Uuid([7; 16]),
            nguid: [70; 16],
            ports: PORTS_ALL,
            replication: self.setting.mode,
        };
        let request = RequestId(self.requests);
        self.group_event(Event::CreateVdisk { request, spec }, out);
    }
}

fn replay_of(plan: &Plan) -> Replay {
    let replayed = plan.replayed.as_ref();
    replayed.map_or(Replay::None, |report| Replay::Done { rows: report.rows })
}

/// What engines write is found again only in the journal that the superblocks name.
fn assert_one_journal(machine: &Group, journal: Option<JournalRecord>) {
    let incarnation = |journal: JournalRecord| journal.incarnation;
    let own = machine.journal().map(incarnation);
    assert_eq!(
        own,
        journal.map(incarnation),
        "a group that is open is not opened anew"
    );
}

fn machine_of(plan: Plan) -> Group {
    match plan.source {
        Source::Found(candidate) => Group::assembled(*candidate).with_lost(plan.lost),
        Source::New(creation) => Group::form(*creation),
    }
}

fn drives_of(machine: &Group, record: &GroupRecord, bytes: u64) -> Vec<Option<(u16, String, u64)>> {
    let members = u8::try_from(record.members.len()).expect("at most 32");
    let of = |member| {
        let drive = machine.drive_of(MemberIndex(member))?;
        Some((drive, label_of(drive), bytes))
    };
    (0..members).map(of).collect()
}
