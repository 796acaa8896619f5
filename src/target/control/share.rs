//! Groups that other nodes serve too, on the control core: the link to them, the node's part in each group's locks, and whose pen writes superblocks.
//!
//! All slots of a group's lock table have their homes here; cores ask by message for what the node does not hold. What is decided is decided in
//! [`crate::amf::peering`], and what membership wants comes from the life of the node ([`crate::target::share`]).

mod disks;
mod errands;
mod groups;
mod ports;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use nvme::access::Access;
use nvme::subsystem::{Event as SubsystemEvent, Port as HostPort};
use reactor::{CoreIndex, Errno, Io, Nanos, Received, SendBatch, TimerId};

use super::Control;
use crate::amf::arbiter::{Arbitration, Config as LockConfig, HOLD_NS_MIN, QueueOrder};
use crate::amf::background::Limits;
use crate::amf::homes::Homes;
use crate::amf::journal::JournalShared;
use crate::amf::lock::{HOME, LockTable};
use crate::amf::peering::note::Note;
use crate::amf::peering::{Action, Era, Peering};
use crate::amf::superblock::Name;
use crate::icl::link::{Address, SubmitError};
use crate::icl::membership::record::EpochRecord;
use crate::icl::{Epoch, Node, Slot, SlotSet};
use crate::target::core::{Core, TokenKind, token};
use crate::target::icl::{News, Port, PortSetup};
use crate::target::message::Message;
use crate::target::share::{Heard, ShareOrder};

use disks::Closings;
use errands::Errands;
use ports::Ports;

pub use groups::lanes_of;

/// Lock words of a shared group.
const LOCK_SLOTS: usize = 1 << 16;
/// Rows that the node holds and waits for, of each group, at most; about 220 bytes each.
const HELD_MAX: usize = 1 << 17;
/// Rows that it arbitrates, of each group, at most; about 520 bytes each.
const ARBITRATED_MAX: usize = 1 << 17;
/// Wants that wait for room in the table of held rows, at most.
const WANTS_MAX: usize = 1 << 12;

/// What the control core is told of groups that are shared.
pub struct ShareSetup {
    /// This node's slot.
    pub slot: Slot,
    /// Slots that may have lanes in the journals.
    pub slots: u16,
    /// Slots of the nodes that there are, this one's among them.
    pub nodes: SlotSet,
    /// The link of core 0.
    pub port: PortSetup,
    /// Where it listens.
    pub listener: OwnedFd,
    /// Where hosts reach this node.
    pub ports: Vec<HostPort>,
    /// The groups.
    pub groups: Vec<(Name, Limits)>,
    /// Where the life of the node hears.
    pub ear: Sender<Heard>,
}

/// A group that other nodes serve too.
struct SharedGroup {
    name: Name,
    /// What nodes call it to each other.
    address: u16,
    limits: Limits,
    peering: Peering,
    table: Arc<LockTable>,
    journal: Arc<JournalShared>,
    /// Its number among the groups of the node, once it is open.
    index: Option<u16>,
    /// What the group machine is to make durable before the peering goes on, and in which epoch.
    recovers: Option<(Epoch, Recovering)>,
    /// Superblocks that are under way are to be the last ones.
    steps_down: bool,
    barrier: Epoch,
    recovered: Epoch,
    /// Hosts may have been served: its locks were granted in some epoch.
    is_served: bool,
    /// Why it is not served.
    refused: Option<String>,
    /// Virtual disks that nodes do not serve any more.
    closings: Closings,
}

/// How far a recovery is that this node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovering {
    /// The group is opened, or members are counted as lost, and then entries below are to be retired if something was replayed beside others.
    Replayed { below: Option<u64> },
    /// Entries are to be over.
    Ending,
}

/// A message of another node that was not looked at yet: from whom, for whom, its kind, its bytes.
type Mail = (Slot, Address, u16, Range<usize>);

/// See the module.
pub(super) struct ShareControl {
    local: Slot,
    slots: u16,
    nodes: SlotSet,
    port: Port,
    ports: Ports,
    groups: Vec<SharedGroup>,
    ear: Sender<Heard>,
    record: Option<EpochRecord>,
    inbox: Vec<Mail>,
    inbox_bytes: Vec<u8>,
    /// What found the queue to a node full: group and note.
    outbox: BTreeMap<Slot, VecDeque<(u16, Note)>>,
    errands: Errands,
    body: Vec<u8>,
    timer: Option<(Nanos, TimerId)>,
}

impl ShareControl {
    /// A node that is in no epoch yet.
    pub(super) fn new(setup: ShareSetup, cores: u16) -> Self {
        let group = |(name, limits)| {
            let table = LockTable::shared(LOCK_SLOTS);
            let journal = Arc::new(JournalShared::joining(setup.slots * cores, 1));
            let arbitration = Arbitration::new(LockConfig {
                local: setup.slot,
                order: QueueOrder::Fifo,
                hold_ns_min: HOLD_NS_MIN,
                holder_limit: HELD_MAX,
                arbiter_limit: ARBITRATED_MAX,
                queue_max: WANTS_MAX,
            });
            let homes = Homes::new(setup.slot, Arc::clone(&table), Arc::clone(&journal), arbitration);
            SharedGroup {
                address: address_of(&name),
                name,
                limits,
                peering: Peering::new(setup.slot, cores, homes),
                table,
                journal,
                index: None,
                recovers: None,
                steps_down: false,
                barrier: Epoch(0),
                recovered: Epoch(0),
                is_served: false,
                refused: None,
                closings: Closings::default(),
            }
        };
        Self {
            local: setup.slot,
            slots: setup.slots,
            nodes: setup.nodes,
            port: Port::new(setup.port, Some(setup.listener)),
            ports: Ports::new(setup.ports),
            groups: setup.groups.into_iter().map(group).collect(),
            ear: setup.ear,
            record: None,
            inbox: Vec::new(),
            inbox_bytes: Vec::new(),
            outbox: BTreeMap::new(),
            errands: Errands::default(),
            body: Vec::new(),
            timer: None,
        }
    }

    /// Whether this node serves a virtual disk with these ports.
    pub(super) const fn access_of(&self, ports: SlotSet) -> Access {
        if ports.contains(self.local) {
            Access::Here
        } else if ports.and(self.nodes).is_empty() {
            Access::Nowhere
        } else {
            Access::Elsewhere
        }
    }

    /// Other members that serve a virtual disk with these ports.
    pub(super) fn others_that_serve(&self, ports: SlotSet) -> SlotSet {
        ports.and(self.members()).without(self.local)
    }

    /// The nodes that there are.
    pub(super) const fn nodes(&self) -> SlotSet {
        self.nodes
    }

    /// Those that lead its groups, as far as this node knows.
    fn leaders(&self) -> impl Iterator<Item = Slot> {
        self.groups.iter().filter_map(|group| group.peering.leader())
    }

    /// Those that are members of the epoch.
    pub(super) fn members(&self) -> SlotSet {
        let record = self.record.as_ref();
        record.map_or(SlotSet::EMPTY, EpochRecord::slots)
    }

    fn epoch(&self) -> Epoch {
        self.record.as_ref().map_or(Epoch(0), |record| record.epoch)
    }

    fn tell_life(&self, heard: Heard) {
        let _ = self.ear.send(heard); // The life may be about to end with this core.
    }

    /// The shared group that is this one of the node's.
    fn at(&self, group: u16) -> Option<usize> {
        self.groups.iter().position(|shared| shared.index == Some(group))
    }

    /// Whether all groups are served, or known not to be, but for one at least: who serves nothing is better not reached at all.
    fn is_ready(&self) -> bool {
        let mut groups = self.groups.iter();
        let is_settled = groups.all(|group| group.is_served || group.refused.is_some());
        is_settled && self.groups.iter().any(|group| group.is_served)
    }
}

// The link.
impl Control {
    fn share(&mut self) -> &mut ShareControl {
        self.share
            .as_mut()
            .expect("only a node that shares groups gets here")
    }

    /// Lets the port do something, and keeps what it has to say.
    fn with_port(&mut self, act: impl FnOnce(&mut Port, &mut dyn FnMut(News<'_>))) {
        let ShareControl {
            port,
            inbox,
            inbox_bytes,
            ..
        } = self.share();
        act(port, &mut |news| match news {
            News::Message {
                peer,
                address,
                kind,
                payload,
            } => {
                let start = inbox_bytes.len();
                inbox_bytes.extend_from_slice(payload);
                inbox.push((peer, address, kind, start..inbox_bytes.len()));
            }
            // Who is silent membership finds out by itself, and room is looked for in each turn.
            News::Suspect { .. } | News::Heard { .. } | News::NewerEpoch { .. } | News::Room { .. } => {}
            News::Announcement { .. } | News::Lost { .. } => {
                unreachable!("announcements have a port of their own")
            }
        });
    }

    /// Whether the node shares its groups.
    pub(in crate::target) const fn is_sharing(&self) -> bool {
        self.share.is_some()
    }

    /// The cores are about to end, as they were asked to.
    pub(super) fn tell_stopped(&self) {
        if let Some(share) = &self.share {
            share.tell_life(Heard::Stopped);
        }
    }

    /// The cores run: links may be made.
    pub(super) fn start_share(&mut self, io: &mut Io<Message>) {
        if let Some(share) = &mut self.share {
            share.port.start(io);
        }
    }

    /// Another node has come in on the link.
    pub(in crate::target) fn link_accepted(&mut self, io: &mut Io<Message>, result: Result<OwnedFd, Errno>) {
        self.share().port.accepted(io, result);
    }

    /// Another node was dialled.
    pub(in crate::target) fn link_connected(
        &mut self,
        io: &mut Io<Message>,
        payload: u64,
        result: Result<OwnedFd, Errno>,
    ) {
        self.share().port.connected(io, payload, result);
    }

    /// Bytes of the link.
    pub(in crate::target) fn link_received(
        &mut self,
        io: &mut Io<Message>,
        payload: u64,
        received: Received<'_>,
    ) {
        self.with_port(|port, mut news| port.received(io, payload, received, &mut news));
    }

    /// What was sent on the link has left.
    pub(in crate::target) fn link_sent(
        &mut self,
        io: &mut Io<Message>,
        payload: u64,
        batch: Box<SendBatch>,
        result: Result<(), Errno>,
    ) {
        self.with_port(|port, mut news| port.sent(io, payload, batch, result, &mut news));
    }

    /// A connection of the link is off the ring.
    pub(in crate::target) fn link_closed(&mut self, payload: u64) {
        self.share().port.closed(payload);
    }

    /// The port has waited for this.
    pub(in crate::target) fn link_timer(&mut self, io: &mut Io<Message>) {
        self.with_port(|port, mut news| port.timer(io, &mut news));
    }

    /// Locks have waited for this; they are looked at with the end of the turn.
    pub(in crate::target) fn locks_timer(&mut self) {
        self.share().timer = None;
    }

    /// The end of a turn: what came in is looked at, what is due is done, and what is to be said leaves.
    pub(in crate::target) fn share_turn(&mut self, core: &mut Core, io: &mut Io<Message>) {
        self.read_mail(core, io);
        for at in 0..self.share().groups.len() {
            if self.share().groups[at].peering.wake_at_ns() <= io.now() {
                self.peer(core, io, at, |peering, now, out| peering.tick(now, out));
            }
        }
        self.send_held_back(io);
        self.run_errands(io);
        self.with_port(|port, mut news| port.end_turn(io, &mut news));
        self.wake_for_locks(io);
    }

    fn wake_for_locks(&mut self, io: &mut Io<Message>) {
        let share = self.share();
        let wakes = share.groups.iter().map(|group| group.peering.wake_at_ns());
        let Some(at) = wakes.min() else { return };
        if let Some((due, timer)) = share.timer {
            if due <= at {
                return;
            }
            io.cancel_timer(timer);
        }
        let timer = io.set_timer(at, token(TokenKind::Locks, 0));
        share.timer = timer.map(|timer| (at, timer));
    }

    fn read_mail(&mut self, core: &mut Core, io: &mut Io<Message>) {
        if self.share().inbox.is_empty() {
            return;
        }
        let share = self.share();
        let (inbox, bytes) = (
            std::mem::take(&mut share.inbox),
            std::mem::take(&mut share.inbox_bytes),
        );
        let epoch = share.epoch();
        for (from, address, kind, range) in &inbox {
            let Address::Group(group) = *address else {
                self.hear_node(core, io, *from, *kind, &bytes[range.clone()]);
                continue;
            };
            let at = self
                .share()
                .groups
                .iter()
                .position(|shared| shared.address == group);
            let Some(at) = at else {
                tracing::warn!(peer = %from, group, "a node speaks of a group that this node does not have: the nodes of an array need the same groups in their configurations");
                continue;
            };
            let mut result = Ok(());
            self.peer(core, io, at, |peering, now, out| {
                result = peering.receive(now, (*from, epoch), (*kind, &bytes[range.clone()]), out);
            });
            if let Err(error) = result {
                tracing::error!(peer = %from, kind, %error, "a message of another node is not understood");
            }
        }
        let share = self.share();
        if share.inbox.is_empty() {
            (share.inbox, share.inbox_bytes) = (inbox, bytes);
            share.inbox.clear();
            share.inbox_bytes.clear();
        }
    }

    /// Tells all other members where hosts reach this node, and hosts of which nodes there are.
    fn tell_ports(&mut self, core: &mut Core, io: &mut Io<Message>, members: SlotSet) {
        let share = self.share();
        share.ports.keep(members);
        let told = share.ports.encode();
        for to in members.without(share.local).iter() {
            // All queues are empty when an epoch begins.
            if let Err(error) = share.port.submit(io, to, Address::Node, ports::KIND, &[&told]) {
                tracing::warn!(peer = %to, ?error, "a node is not told where hosts reach this one");
            }
        }
        self.list_ports(core, io);
    }

    fn hear_ports(&mut self, core: &mut Core, io: &mut Io<Message>, from: Slot, bytes: &[u8]) {
        match self.share().ports.heard(from, bytes) {
            Ok(()) => self.list_ports(core, io),
            Err(error) => {
                tracing::error!(peer = %from, %error, "a message of another node is not understood")
            }
        }
    }

    fn list_ports(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let all = self.share().ports.all();
        self.subsystem_event(core, io, SubsystemEvent::PortsChanged(all));
    }

    /// Says something to another node with the end of the turn, or later if its queue is full.
    fn send_note(&mut self, io: &mut Io<Message>, to: Slot, at: usize, note: Note) {
        let share = self.share();
        let group = u16::try_from(at).expect("a node has at most 128 groups");
        let held_back = share.outbox.entry(to).or_default();
        if held_back.is_empty() && share.submit(io, to, group, &note) {
            return;
        }
        let held_back = share.outbox.entry(to).or_default();
        held_back.push_back((group, note));
    }

    fn send_held_back(&mut self, io: &mut Io<Message>) {
        let share = self.share();
        for to in share.outbox.keys().copied().collect::<Vec<Slot>>() {
            while let Some((group, note)) = share.outbox.get_mut(&to).and_then(VecDeque::pop_front) {
                if !share.submit(io, to, group, &note) {
                    share.outbox.entry(to).or_default().push_front((group, note));
                    break;
                }
            }
        }
        share.outbox.retain(|_, held_back| !held_back.is_empty());
    }
}

impl ShareControl {
    /// Queues a note. False if there is no room for it.
    fn submit(&mut self, io: &mut Io<Message>, to: Slot, group: u16, note: &Note) -> bool {
        self.body.clear();
        note.encode(&mut self.body);
        let group = &self.groups[usize::from(group)];
        let context = group.peering.context().encode();
        let address = Address::Group(group.address);
        let payload: [&[u8]; 2] = [&context, &self.body];
        match self.port.submit(io, to, address, note.kind(), &payload) {
            Ok(()) => true,
            Err(SubmitError::Full) => false,
            // It is none any more, and the next epoch says all that counts anew.
            Err(SubmitError::NotMember) => true,
        }
    }
}

// Membership.
impl Control {
    /// The life of the node wants something.
    pub(in crate::target) fn share_order(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        order: ShareOrder,
    ) {
        match order {
            ShareOrder::Enter(record) => self.enter_epoch(core, io, *record),
            ShareOrder::Recover(epoch) => {
                for at in 0..self.share().groups.len() {
                    self.peer(core, io, at, |peering, _, out| peering.recover(epoch, out));
                }
                self.pass_recovered(epoch);
            }
            ShareOrder::GroupRecovered(at, epoch, outcome) => {
                self.group_recovered(core, io, at, epoch, *outcome);
            }
            ShareOrder::Opened(epoch) => {
                for at in 0..self.share().groups.len() {
                    self.peer(core, io, at, |peering, now, out| peering.opened(now, epoch, out));
                }
                self.try_listen(core, io);
            }
            ShareOrder::Suspect(slots) => {
                for at in 0..self.share().groups.len() {
                    self.peer(core, io, at, |peering, now, out| peering.suspect(now, slots, out));
                }
            }
            ShareOrder::Over(node) => self.share().port.is_over(node),
        }
    }

    fn enter_epoch(&mut self, core: &mut Core, io: &mut Io<Message>, record: EpochRecord) {
        self.admit_drives(core, io);
        let nodes: Vec<Node> = record.nodes().collect();
        let share = self.share();
        let era = era_of(&record, share.record.as_ref());
        share.outbox.clear();
        // What came in the last epoch is worth nothing in this one.
        share.inbox.clear();
        share.inbox_bytes.clear();
        share.record = Some(record);
        self.with_port(|port, mut news| port.enter(io, era.epoch, &nodes, &mut news));
        self.end_errands();
        self.tell_ports(core, io, era.members);
        for at in 0..self.share().groups.len() {
            let group = &mut self.share().groups[at];
            group.closings.enter();
            // Whoever is to put its pen down is told so anew.
            (group.refused, group.steps_down) = (None, false);
            self.peer(core, io, at, |peering, now, out| peering.enter(now, era, out));
        }
        self.pass_barrier(era.epoch);
    }

    fn pass_barrier(&mut self, epoch: Epoch) {
        let share = self.share();
        if share.groups.iter().all(|group| group.barrier >= epoch) {
            share.tell_life(Heard::BarrierDone(epoch));
        }
    }

    fn pass_recovered(&mut self, epoch: Epoch) {
        let share = self.share();
        if share.groups.iter().all(|group| group.recovered >= epoch) {
            share.tell_life(Heard::Recovered(epoch));
        }
    }

    /// Lets a group's part in the array do something, and carries out what it wants.
    fn peer(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        at: usize,
        act: impl FnOnce(&mut Peering, Nanos, &mut Vec<Action>),
    ) {
        let mut actions = Vec::new();
        act(&mut self.share().groups[at].peering, io.now(), &mut actions);
        for action in actions {
            self.peering_action(core, io, at, action);
        }
    }

    fn peering_action(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize, action: Action) {
        let index = self.share().groups[at].index;
        match action {
            Action::WakeCores { mask, row } => {
                let group = index.expect("cores that wait serve the group");
                for to in (0..self.cores).filter(|core| mask >> core & 1 == 1) {
                    core.tell(io, CoreIndex(to), Message::Wake { group, row });
                }
                if mask >> HOME & 1 == 1 {
                    self.peer(core, io, at, |peering, now, out| peering.turn(now, row, out));
                }
            }
            Action::RecallCore { core: to, row } => {
                let group = index.expect("cores that hold serve the group");
                core.tell(io, CoreIndex(to), Message::Recall { group, row });
            }
            Action::Send { to, note } => self.send_note(io, to, at, note),
            Action::TailMoved => self.tell_lanes_moved(core, io, at, u32::MAX),
            Action::LanesMoved { lanes } => {
                let first = u32::from(self.share().local.number()) * u32::from(self.cores);
                self.tell_lanes_moved(core, io, at, lanes >> first);
            }
            Action::Hurry { lane, below } => {
                let Some(group) = index else { return };
                for to in 0..self.cores {
                    core.tell(io, CoreIndex(to), Message::Hurry { group, lane, below });
                }
            }
            Action::StepDown => {
                self.share().groups[at].steps_down = true;
                self.step_down(core, io, at);
            }
            Action::BarrierDone(epoch) => {
                self.share().groups[at].barrier = epoch;
                self.pass_barrier(epoch);
            }
            Action::Recover(recovery) => {
                tracing::info!(group = %self.share().groups[at].name, epoch = %recovery.epoch, living = ?recovery.living, rows = recovery.rows.len(), "this node leads the group");
                self.share().tell_life(Heard::RecoverGroup(at, recovery));
            }
            Action::EndEntries { epoch, below } => self.end_entries(core, io, at, epoch, below),
            Action::Recovered(epoch) => {
                self.share().groups[at].recovered = epoch;
                self.pass_recovered(epoch);
            }
            Action::Follow(led) => self.follow(core, io, at, &led),
            Action::Refused(why) => self.refused(core, io, at, why),
            Action::Serve => {
                tracing::info!(group = %self.share().groups[at].name, "shared group is served");
                self.share().groups[at].is_served = true;
                self.subsystem_event(core, io, SubsystemEvent::AccessRenewed);
                if let Some(index) = self.share().groups[at].index {
                    self.tend_disks(core, io, index);
                }
                self.try_listen(core, io);
            }
            Action::Fault(member, error) => self.count_fault(core, io, at, member, error),
            Action::Misbehaved { peer, what } => {
                tracing::error!(%peer, ?what, group = %self.share().groups[at].name, "a node breaks the rules of locks; its message is not followed");
            }
        }
    }

    fn tell_lanes_moved(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize, cores: u32) {
        let Some(group) = self.share().groups[at].index else {
            return;
        };
        for to in (0..self.cores).filter(|core| cores >> core & 1 == 1) {
            core.tell(io, CoreIndex(to), Message::TailMoved { group });
        }
    }
}

/// What nodes call a group to each other: a number that follows from its name. Of the few groups of an array no two have the same, all but certainly.
///
/// The hash is FNV-1a with 32 bits, folded.
pub fn address_of(name: &Name) -> u16 {
    let hash = name.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let folded = hash >> 16 ^ hash & 0xffff;
    u16::try_from(folded)
        .expect("it has 16 bits")
        .min(Address::GROUP_MAX)
}

/// An epoch as the groups see it, after the last one that this node has entered.
fn era_of(record: &EpochRecord, before: Option<&EpochRecord>) -> Era {
    // A slot may have been lost and taken by another life in an epoch that was not entered here.
    let is_known = |slot: &Slot| {
        let life = record.member(*slot).map(|member| member.incarnation);
        before.is_none_or(|before| life.is_some_and(|life| before.names(*slot, life)))
    };
    Era {
        epoch: record.epoch,
        members: record.slots(),
        seniors: record.seniors().iter().filter(is_known).collect(),
        leader: record.senior_leader().slot,
        rule: record.arbiter.into(),
    }
}
