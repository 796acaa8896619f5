//! Shared groups on the control core: opened, followed, led, and handed to another node's pen.

use std::sync::Arc;

use reactor::{CoreIndex, Io};

use super::super::Control;
use super::super::groups::{GroupPlan, machine_of, replay_of};
use super::Recovering;
use crate::amf::engine::{Durability, WriteBackConfig};
use crate::amf::group::{Event, Group, LanesOver, Opening, TakeOver};
use crate::amf::hand_over::HandedOver;
use crate::amf::journal::lane::KEPT_BYTES_MAX;
use crate::amf::journal::{JournalLayout, WRITE_BYTES_MAX};
use crate::amf::peering::note::Led;
use crate::amf::reserving::Reserving;
use crate::amf::superblock::{self, GroupRecord, JournalRecord};
use crate::amf::{MEMBERS_MAX, MemberIndex, MemberSet};
use crate::drive::DriveError;
use crate::icl::Epoch;
use crate::target::array::ScratchMemory;
use crate::target::assemble;
use crate::target::core::Core;
use crate::target::drives::Medium;
use crate::target::message::Message;
use crate::target::share::{GoneOn, Heard, Outcome};

/// Why a life ends whose engines cannot serve a group of theirs.
const OPENED_BY_OTHERS: &str = "a group that could not be opened here before is served by others now";
/// Likewise.
const OPENED_ANEW: &str =
    "others have opened a group anew that is open here: what is acknowledged here would not be found again";

impl Control {
    /// The life of the node has read and written what this group's recovery took.
    pub(super) fn group_recovered(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        at: usize,
        epoch: Epoch,
        outcome: Outcome,
    ) {
        let share = self.share();
        if share.groups[at].peering.awaits() != Some(epoch) {
            return; // It has failed meanwhile.
        }
        // Beside others all entries that are older than what was replayed are to go.
        let below = match &outcome {
            Outcome::TakeOver(_, next) => *next,
            Outcome::GoOn(gone_on) => gone_on.next,
            Outcome::Open(_) | Outcome::Refused(_) => None,
        };
        share.groups[at].recovers = Some((epoch, Recovering::Replayed { below }));
        let next = match &outcome {
            Outcome::Open(plan) => plan.replayed.as_ref().map(|report| report.next_seq),
            Outcome::TakeOver(..) | Outcome::GoOn(_) | Outcome::Refused(_) => below,
        };
        share.groups[at].journal.raise(next.unwrap_or(0));
        match outcome {
            Outcome::Open(_) if self.share().groups[at].index.is_some() => {
                let why = "it could not be opened before, and what is bound to it would be in the way";
                self.not_led(core, io, at, why);
                self.share().tell_life(Heard::Failed(why.to_owned()));
            }
            Outcome::Open(plan) => {
                let replay = replay_of(plan.replayed.as_ref());
                let machine = machine_of(plan.source, plan.intent, plan.lost).with_pages(&plan.reserved);
                // Nobody has them in memory: all nodes were stopped.
                self.reserve(core, io, at, |reserving, out| {
                    reserving.restore(plan.reserved, out);
                });
                match self.bind_led(core, io, at, machine, true) {
                    Ok(index) => {
                        let opening = self.opening(index, replay);
                        self.group_event(core, io, index, Event::Start(opening));
                    }
                    Err(why) => self.not_led(core, io, at, &why),
                }
            }
            Outcome::TakeOver(plan, _) => self.take_over(core, io, at, plan),
            Outcome::GoOn(gone_on) => self.go_on(core, io, at, gone_on),
            Outcome::Refused(why) => self.not_led(core, io, at, &why),
        }
    }

    /// This node goes on to write the group's superblocks.
    fn go_on(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize, gone_on: GoneOn) {
        let index = self.share().groups[at].index;
        let index = index.expect("who goes on has the group open");
        if self.groups[usize::from(index)].is_failed() {
            return self.not_led(
                core,
                io,
                at,
                "it has failed: stop all nodes, and start them when its drives are back",
            );
        }
        let uses = gone_on.unused.iter();
        let uses = uses.filter_map(|drive| self.drive_uses[usize::from(*drive)].member);
        let members = uses.filter(|(group, _)| *group == index);
        // Whoever is gone may not have been fenced there, or what it left was replayed without it.
        let members = members.fold(0, |members, (_, member)| members | 1u32 << member);
        self.group_event(core, io, index, Event::LeftOut { members });
    }

    /// Others have the group open; from now on this node writes its superblocks.
    fn take_over(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize, plan: GroupPlan) {
        let replay = replay_of(plan.replayed.as_ref());
        let machine = machine_of(plan.source, plan.intent, plan.lost).with_pages(&plan.reserved);
        let known = self.share().groups[at].index;
        let index = match known {
            Some(index) if self.has_failed_alone(at, index) => {
                self.not_led(core, io, at, "it could not be opened here before");
                return self.begin_anew(OPENED_BY_OTHERS);
            }
            Some(index) if self.writes_apart(index, machine.journal()) => {
                self.not_led(core, io, at, OPENED_ANEW);
                return self.begin_anew(OPENED_ANEW);
            }
            Some(index) => {
                let state = &mut self.groups[usize::from(index)];
                (state.machine, state.leads) = (machine, true);
                index
            }
            None => match self.bind_led(core, io, at, machine, false) {
                Ok(index) => index,
                Err(why) => return self.not_led(core, io, at, &why),
            },
        };
        let opening = self.opening(index, replay);
        // Nothing is over before all nodes have retired what is older.
        let over = LanesOver { lanes: 0, below: 0 };
        self.group_event(core, io, index, Event::TakeOver(TakeOver { opening, over }));
    }

    /// All nodes have retired their entries below a number.
    pub(super) fn end_entries(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        at: usize,
        epoch: Epoch,
        below: u64,
    ) {
        let share = self.share();
        share.groups[at].recovers = Some((epoch, Recovering::Ending));
        let index = share.groups[at].index.expect("who leads has the group open");
        let journal = self.groups[usize::from(index)].machine.journal();
        let lanes = journal.expect("entries are in a journal").lanes_mask();
        self.group_event(core, io, index, Event::LanesOver(LanesOver { lanes, below }));
    }

    fn not_led(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize, why: &str) {
        let share = self.share();
        let group = &mut share.groups[at];
        let Some((epoch, _)) = group.recovers.take() else {
            return;
        };
        tracing::error!(group = %group.name, %why, "shared group cannot be opened");
        group.refused = Some(why.to_owned());
        self.peer(core, io, at, |peering, _, out| peering.not_led(epoch, why, out));
        self.reserve(core, io, at, Reserving::refuse);
        self.try_listen(core, io);
    }

    fn opening(&self, index: u16, replay: crate::amf::group::Replay) -> Opening {
        let share = self.share.as_ref().expect("a shared group is opened");
        let geometry = self.groups[usize::from(index)].machine.geometry();
        Opening {
            lanes: share.slots * self.cores,
            lane_blocks_max: self.lane_blocks_max(&geometry),
            replay,
            // Nodes do not tell each other which rows lost members miss: those are filled whole.
            marks_intent: false,
        }
    }

    fn lane_blocks_max(&self, geometry: &crate::amf::geometry::Geometry) -> u32 {
        assemble::ring_bytes(geometry, self.memory_mib) >> geometry.block().shift()
    }

    /// Binds the cores to a group that this node leads. Its lanes are cut anew if it is opened as after a stop.
    fn bind_led(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        at: usize,
        machine: Group,
        is_cut: bool,
    ) -> Result<u16, String> {
        let share = self.share.as_ref().expect("a shared group is bound");
        let lanes = share.slots * self.cores;
        let journal = if is_cut {
            let cut = machine.opening_journal(lanes, self.lane_blocks_max(&machine.geometry()));
            if machine.journal().is_some() && cut.is_none() {
                return Err(format!(
                    "its journal has no room for {lanes} lanes, one for each core of each node; make it with a larger `journal_mib`"
                ));
            }
            cut
        } else {
            machine.journal()
        };
        self.bind_shared(core, io, at, machine, journal)
    }

    /// Binds the cores to a shared group.
    fn bind_shared(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        at: usize,
        machine: Group,
        journal: Option<JournalRecord>,
    ) -> Result<u16, String> {
        let cores = self.cores;
        let share = self.share.as_ref().expect("a shared group is bound");
        let lanes = share.slots * cores;
        if let Some(journal) = journal.filter(|journal| journal.lanes != lanes) {
            return Err(format!(
                "its journal has {} lanes, and {lanes} are one for each of {cores} cores of {} nodes: nodes of an array need as many cores as each other, and each other in their configurations. Stop all of them after a change",
                journal.lanes, share.slots
            ));
        }
        let geometry = machine.geometry();
        let engines = u64::from(assemble::scratch_bytes(&geometry, self.memory_mib))
            + journal.map_or(0, |journal| {
                u64::from(journal.lane_blocks) << geometry.block().shift()
            });
        let bound = u64::try_from(self.groups.len()).expect("few groups") + 1;
        if engines * bound > u64::from(self.memory_mib) << 19 {
            return Err(format!(
                "its row operations and its lane of the journal need {} MiB of each core's {} MiB, half of which are for hosts. Set `memory_mib` in [reactor] to more",
                engines >> 20,
                self.memory_mib
            ));
        }
        let group = &share.groups[at];
        let write_back = journal.map(|journal| WriteBackConfig {
            first_lane: u16::from(share.local.number()) * cores,
            // No two lives of a slot number their batches alike.
            first_batch: u64::from(share.epoch().0) << 32,
            layout: JournalLayout {
                start: journal.start,
                lane_blocks: journal.lane_blocks,
                lanes: journal.lanes,
                incarnation: journal.incarnation,
                group: machine.uuid(),
                block: machine.geometry().block(),
            },
            shared: Arc::clone(&group.journal),
            durability: match machine.durability() {
                superblock::Durability::Ram => Durability::Ram,
                superblock::Durability::Journal | superblock::Durability::None => Durability::Journal,
            },
            keeps_copies: true,
            hands_over: true,
            write_blocks_max: write_blocks_max(&machine),
            intent: None,
            lost: None,
        });
        let (table, limits) = (Arc::clone(&group.table), group.limits);
        if let Some(write_back) = &write_back {
            self.share().groups[at]
                .peering
                .take(write_back.fit(&machine.geometry()));
        }
        let index = self.bind_group(
            core,
            io,
            machine,
            limits,
            ScratchMemory::Own,
            (table, write_back, Some(cores)),
        );
        self.share().groups[at].index = Some(index);
        Ok(index)
    }

    /// The leader's newest record: it is taken in, or the group is opened by it.
    pub(super) fn follow(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize, led: &Led) {
        let record = match superblock::parse_shared(&led.record[..]) {
            Ok(record) => record,
            Err(error) => {
                let why = format!("the record of the node that leads the group is not understood: {error}");
                return self.share().tell_life(Heard::Unfit(why));
            }
        };
        let known = self.share().groups[at].index;
        let index = match known {
            Some(index) if self.has_failed_alone(at, index) => return self.begin_anew(OPENED_BY_OTHERS),
            Some(index) if self.groups[usize::from(index)].machine.uuid() != record.group => {
                let why = "the node that leads a group has another one of its name".to_owned();
                return self.share().tell_life(Heard::Unfit(why));
            }
            Some(index) if self.writes_apart(index, record.journal) => return self.begin_anew(OPENED_ANEW),
            Some(index) => index,
            None => {
                let drives = self.drives_named(&led.drives);
                let drives = drives.into_iter().take(record.members.len()).collect();
                let machine = Group::followed(record.clone(), drives);
                let journal = machine.journal();
                match self.bind_shared(core, io, at, machine, journal) {
                    Ok(index) => {
                        self.groups[usize::from(index)].leads = false;
                        index
                    }
                    Err(why) => {
                        tracing::error!(group = %self.share().groups[at].name, %why, "shared group cannot be served");
                        self.share().groups[at].refused = Some(why.clone());
                        // Others would wait for locks that this node ought to grant.
                        return self.share().tell_life(Heard::Unfit(why));
                    }
                }
            }
        };
        self.group_event(core, io, index, Event::Followed(Box::new(record)));
        self.peer(core, io, at, |peering, now, out| peering.is_open(now, out));
    }

    /// Whether a group has failed here before it was ever open in this life, so that the others could open it all the same.
    fn has_failed_alone(&mut self, at: usize, index: u16) -> bool {
        let is_failed = self.groups[usize::from(index)].is_failed();
        is_failed && !self.share().groups[at].peering.has_failed()
    }

    /// Whether engines here write a journal that was given up when the group was opened anew: no recovery would read it. Nodes that keep to the rules never come to this.
    fn writes_apart(&self, index: u16, journal: Option<JournalRecord>) -> bool {
        let incarnation = |journal: JournalRecord| journal.incarnation;
        let own = self.groups[usize::from(index)].machine.journal();
        own.map(incarnation) != journal.map(incarnation)
    }

    /// What is bound to a group cannot be taken back within a life, so another one begins.
    fn begin_anew(&mut self, why: &str) {
        self.share().tell_life(Heard::Failed(why.to_owned()));
    }

    /// The drives of this node that these are: place, name, bytes.
    fn drives_named(&self, names: &[Option<[u8; 16]>]) -> Vec<Option<(u16, String, u64)>> {
        let find = |uuid: &[u8; 16]| {
            let mut drives = (0..).zip(self.drives.iter());
            let (index, spec) = drives.find(|(_, spec)| match &spec.medium {
                Medium::Fabric(drive) => drive.namespace.uuid == *uuid,
                Medium::File { .. } | Medium::Memory(_) => false,
            })?;
            Some((index, spec.name.clone(), spec.bytes))
        };
        names.iter().map(|name| name.as_ref().and_then(find)).collect()
    }

    /// What followers are to know of a group that this node leads; `None` while nothing of it is durable.
    fn led_of(&self, group: u16) -> Option<Led> {
        let state = &self.groups[usize::from(group)];
        let record = state.machine.durable_record()?;
        let name = |member: u8| {
            let drive = state.machine.drive_of(MemberIndex(member))?;
            match &self.drives[usize::from(drive)].medium {
                Medium::Fabric(drive) => Some(drive.namespace.uuid),
                Medium::File { .. } | Medium::Memory(_) => None,
            }
        };
        let members = u8::try_from(MEMBERS_MAX).expect("32");
        Some(Led {
            drives: (0..members).map(name).collect(),
            record: superblock::encode_shared(record),
        })
    }

    /// Entries are over, durably.
    pub(in super::super) fn entries_ended(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let Some(at) = self.share.as_ref().and_then(|share| share.at(group)) else {
            return;
        };
        let Some(led) = self.led_of(group) else { return };
        let waits = &mut self.share().groups[at].recovers;
        if let Some((epoch, _)) = waits.take_if(|(_, waits)| *waits == Recovering::Ending) {
            self.peer(core, io, at, |peering, now, out| {
                peering.led(now, epoch, led, out)
            });
        }
    }

    /// What others have left is in its place; goes on when the group is open and all that is known of its members is durable.
    fn tell_replayed(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize, group: u16) {
        let Some((epoch, Recovering::Replayed { below })) = self.share().groups[at].recovers else {
            return;
        };
        let state = &self.groups[usize::from(group)];
        if !state.is_open() || !state.is_settled() || !state.machine.is_quiet() {
            return;
        }
        let Some(led) = self.led_of(group) else { return };
        self.share().groups[at].recovers = None;
        // Before the record, so that who opens the group by it knows already who has reserved what.
        let disks = self.disks_of(at);
        self.reserve(core, io, at, |reserving, out| reserving.lead(epoch, &disks, out));
        self.peer(core, io, at, |peering, now, out| {
            peering.replayed(now, epoch, led, below, out)
        });
    }

    /// A group that this node leads has failed: the others hear of it.
    pub(in super::super) fn share_failed(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        why: &str,
    ) {
        let Some(at) = self.share.as_ref().and_then(|share| share.at(group)) else {
            return;
        };
        let shared = &mut self.share().groups[at];
        shared.recovers = None;
        shared.refused = Some(why.to_owned());
        self.peer(core, io, at, |peering, _, out| peering.failed(why, out));
        self.reserve(core, io, at, Reserving::refuse);
    }

    /// Whoever leads a group cannot open it, or it has failed.
    pub(super) fn refused(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize, why: String) {
        let group = &mut self.share().groups[at];
        tracing::error!(group = %group.name, %why, "the node that leads the group cannot open it, or not any more");
        group.refused = Some(why.clone());
        let (index, known) = (group.index, group.table.known());
        if let Some(index) = index {
            self.groups[usize::from(index)].fail(why);
            let members = self.groups[usize::from(index)].machine.geometry().members();
            let all = u32::MAX >> (32 - u32::from(members));
            let known = MemberSet {
                failed: known.failed & all,
                rebuilding: known.rebuilding & known.failed & all,
                ..known
            };
            // It came with the message; whoever waits until a member counts as lost hears of it here.
            self.announce_members(core, io, index, known);
        }
        self.reserve(core, io, at, Reserving::refuse);
        self.try_listen(core, io);
    }

    /// Something of a group has changed: followers hear of it, and who is to step down may be able to.
    pub(in super::super) fn share_changed(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let Some(at) = self.share.as_ref().and_then(|share| share.at(group)) else {
            return;
        };
        self.tell_replayed(core, io, at, group);
        self.tend_disks(core, io, group);
        if self.share().groups[at].steps_down {
            return self.step_down(core, io, at);
        }
        self.look_at_memory(core, io, at, group);
        let set = self.groups[usize::from(group)].machine.members();
        let peering = &mut self.share().groups[at].peering;
        if let Some(set) = set {
            peering.members(set);
        }
        if !peering.leads() || peering.told().is_none() {
            return;
        }
        let Some(led) = self.led_of(group) else { return };
        if self.share().groups[at].peering.told() != Some(&led) {
            self.peer(core, io, at, |peering, _, out| peering.tell(led, out));
        }
    }

    /// Puts the pen down once no superblock is under way.
    pub(super) fn step_down(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize) {
        let Some(index) = self.share().groups[at].index else {
            return;
        };
        let state = &mut self.groups[usize::from(index)];
        if state.is_failed() {
            state.leads = false; // It writes nothing any more.
            self.share().groups[at].steps_down = false;
            return self.peer(core, io, at, |peering, _, out| peering.stepped_down(out));
        }
        let Some(record) = state.machine.durable_record().cloned() else {
            return;
        };
        if !state.is_settled() || !state.machine.is_quiet() {
            return;
        }
        self.share().groups[at].steps_down = false;
        let drives = self.drives_of(index, &record);
        let state = &mut self.groups[usize::from(index)];
        state.machine = Group::followed(record.clone(), drives);
        (state.rebuild, state.leads) = (None, false);
        tracing::info!(group = %state.shared.name, "another node leads the group from now on");
        self.await_closed_no_more(io, at);
        self.led_no_more(io, index);
        self.group_event(core, io, index, Event::Followed(Box::new(record)));
        self.peer(core, io, at, |peering, _, out| peering.stepped_down(out));
    }

    fn drives_of(&self, group: u16, record: &GroupRecord) -> Vec<Option<(u16, String, u64)>> {
        let members = u8::try_from(record.members.len()).expect("at most 32");
        let machine = &self.groups[usize::from(group)].machine;
        let of = |member: u8| {
            let drive = machine.drive_of(MemberIndex(member))?;
            let spec = &self.drives[usize::from(drive)];
            Some((drive, spec.name.clone(), spec.bytes))
        };
        (0..members).map(of).collect()
    }

    /// A member of a shared group failed here: whoever leads the group decides.
    pub(in super::super) fn share_fault(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        member: MemberIndex,
        error: DriveError,
    ) {
        let at = self.share.as_ref().and_then(|share| share.at(group));
        let at = at.expect("the group is shared");
        self.peer(core, io, at, |peering, _, out| peering.fault(member, error, out));
    }

    /// This node leads, and a member failed here or elsewhere.
    pub(super) fn count_fault(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        at: usize,
        member: MemberIndex,
        error: DriveError,
    ) {
        let Some(index) = self.share().groups[at].index else {
            return;
        };
        let members = self.groups[usize::from(index)].machine.geometry().members();
        if member.0 < members {
            self.group_event(core, io, index, Event::MemberFault { member, error });
        }
    }

    /// Whether a group of this node is another node's to change.
    pub(in super::super) fn is_shared(&self, group: u16) -> bool {
        self.share.as_ref().is_some_and(|share| share.at(group).is_some())
    }

    /// A core wants a row of a shared group.
    pub(in super::super) fn want_row(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        (group, from): (u16, CoreIndex),
        (row, mode): (crate::amf::RowIndex, crate::amf::lock::Mode),
        takes: bool,
    ) {
        let at = self
            .share()
            .at(group)
            .expect("only rows of shared groups are wanted");
        self.peer(core, io, at, |peering, now, out| {
            peering.want(now, from.0, row, mode, takes, out)
        });
    }

    /// A core has left a row to its home, with this dirty data.
    pub(in super::super) fn row_given(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        (group, from): (u16, CoreIndex),
        row: crate::amf::RowIndex,
        data: HandedOver,
    ) {
        let at = self
            .share()
            .at(group)
            .expect("only rows of shared groups are given");
        self.peer(core, io, at, |peering, _, _| peering.given(row, from.0, data));
    }

    /// A core has in its journal what came with a row.
    pub(in super::super) fn row_secured(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        row: crate::amf::RowIndex,
    ) {
        let at = self
            .share()
            .at(group)
            .expect("only rows of shared groups are taken");
        self.peer(core, io, at, |peering, now, out| peering.secured(now, row, out));
    }

    /// The turn has come to a home.
    pub(in super::super) fn home_turn(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        row: crate::amf::RowIndex,
    ) {
        let at = self
            .share()
            .at(group)
            .expect("only rows of shared groups have homes");
        self.peer(core, io, at, |peering, now, out| peering.turn(now, row, out));
    }

    /// A lane of this node waits for other nodes.
    pub(in super::super) fn hurry_nodes(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        lane: u16,
        below: u64,
    ) {
        let at = self
            .share()
            .at(group)
            .expect("only shared groups have lanes elsewhere");
        self.peer(core, io, at, |peering, _, out| peering.hurry(lane, below, out));
    }

    /// A core has retired what lanes of other nodes wait for.
    pub(in super::super) fn lanes_moved(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        lanes: u32,
    ) {
        let at = self
            .share()
            .at(group)
            .expect("only shared groups have lanes elsewhere");
        self.peer(core, io, at, |peering, _, out| peering.tail_moved(lanes, out));
    }

    /// Whether hosts may come as far as shared groups go.
    pub(in super::super) fn share_is_ready(&self) -> bool {
        self.share.as_ref().is_none_or(|share| share.is_ready())
    }

    /// Whether this node may make virtual disks of a group that the configuration wants: whoever leads it does, once it is open.
    pub(in super::super) fn makes_vdisks_of(&self, name: &superblock::Name) -> bool {
        let is_open = |index: u16| self.groups[usize::from(index)].is_open();
        let leads = |share: &super::ShareControl| {
            let mut groups = share.groups.iter();
            groups
                .any(|group| group.name == *name && group.peering.leads() && group.index.is_some_and(is_open))
        };
        self.share.as_deref().is_none_or(leads)
    }

    /// Whether this node knows all namespaces of the subsystem. If it serves groups that other nodes do not, or they some that it does not, it cannot choose a
    /// number for another one.
    pub(in super::super) fn knows_all_namespaces(&self) -> bool {
        self.share
            .as_deref()
            .is_none_or(|share| share.gathering.is_even())
    }
}

/// Longest part of a write that is journaled as one: where other nodes keep it, what they take at once.
fn write_blocks_max(machine: &Group) -> u32 {
    let geometry = machine.geometry();
    let block_bytes = geometry.block().bytes();
    let most = match machine.durability() {
        superblock::Durability::Ram => KEPT_BYTES_MAX - block_bytes,
        superblock::Durability::Journal | superblock::Durability::None => WRITE_BYTES_MAX,
    };
    (most / block_bytes).min(geometry.row_blocks())
}
