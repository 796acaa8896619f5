//! Groups that other nodes serve too, on the control core: the link to them, the node's part in each group's locks, and whose pen writes superblocks.
//!
//! All slots of a group's lock table have their homes here; cores ask by message for what the node does not hold. What is decided is decided in
//! [`crate::amf::peering`], and what membership wants comes from the life of the node ([`crate::target::share`]).

mod disks;
mod errands;
mod groups;
mod memory;
mod ports;
mod reserving;
mod resets;
mod roll;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use nvme::access::Access;
use nvme::subsystem::{Event as SubsystemEvent, Port as HostPort};
use reactor::{CoreIndex, Errno, Io, Nanos, Received, SendBatch, TimerId};

use super::{Control, VdiskPlan};
use crate::amf::RowIndex;
use crate::amf::arbiter::{Arbitration, Config as LockConfig, HOLD_NS_MIN, QueueOrder};
use crate::amf::background::Limits;
use crate::amf::homes::Homes;
use crate::amf::journal::JournalShared;
use crate::amf::lock::{HOME, LockTable};
use crate::amf::peering::note::{Note, NoteError};
use crate::amf::peering::roll::Roll;
use crate::amf::peering::{Action, Peering};
use crate::amf::replica::{Name as CopyName, Replication};
use crate::amf::reserving::Reserving;
use crate::amf::superblock::Name;
use crate::icl::link::{Address, Departing, Payload, SubmitError};
use crate::icl::membership::record::EpochRecord;
use crate::icl::{Epoch, Node, Slot, SlotSet};
use crate::target::core::{Core, TokenKind, token};
use crate::target::icl::{News, Port, PortSetup};
use crate::target::message::Hand;
use crate::target::message::Message;
use crate::target::share::{Heard, KEPT_BYTES_MAX, ShareOrder};

use disks::Closings;
use errands::Errands;
use ports::Ports;
pub(super) use reserving::is_of_table;
use roll::Gathering;

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
    pub groups: Vec<SharedPlan>,
    /// Where the life of the node hears.
    pub ear: Sender<Heard>,
}

/// A group that other nodes may serve too.
pub struct SharedPlan {
    /// What it is called.
    pub name: Name,
    /// Limits of its background work.
    pub limits: Limits,
    /// Slots of the nodes that serve it, when they are there.
    pub nodes: SlotSet,
    /// Of which nodes' memory a write is to be in before it is acknowledged from memory.
    pub replication: Replication,
}

/// A group that other nodes serve too.
struct SharedGroup {
    name: Name,
    /// Slots of the nodes that serve it, when they are there.
    nodes: SlotSet,
    /// What nodes call it to each other.
    address: u16,
    limits: Limits,
    peering: Peering,
    reserving: Reserving,
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
    /// Hosts have heard that they cannot use it here, because nobody serves it.
    is_unserved: bool,
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

/// What is said to a node as soon as there is room.
enum HeldBack {
    Note(Note),
    /// Nothing: it is to be heard that what comes before it was sent.
    Watch(CopyName),
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
    /// The epoch that the link is in.
    record: Option<EpochRecord>,
    gathering: Gathering,
    inbox: Vec<Mail>,
    inbox_bytes: Vec<u8>,
    /// What found the queue to a node full, by group.
    outbox: BTreeMap<Slot, VecDeque<(u16, HeldBack)>>,
    /// Batches of groups of which a core wants to hear that they were sent.
    departing: Departing<(usize, CopyName)>,
    errands: Errands,
    body: Vec<u8>,
    timer: Option<(Nanos, TimerId)>,
    resets: resets::NodeResets,
    /// This node is about to go, and others take over what they serve as well.
    departs: bool,
    tables: reserving::Tables,
}

impl ShareControl {
    /// A node that is in no epoch yet.
    pub(super) fn new(setup: ShareSetup, cores: u16) -> Self {
        let group = |plan: SharedPlan| {
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
                address: address_of(&plan.name),
                name: plan.name,
                nodes: plan.nodes,
                limits: plan.limits,
                peering: Peering::new(setup.slot, cores, homes).copying(plan.replication, KEPT_BYTES_MAX),
                reserving: Reserving::new(setup.slot),
                table,
                journal,
                index: None,
                recovers: None,
                steps_down: false,
                barrier: Epoch(0),
                recovered: Epoch(0),
                is_served: false,
                refused: None,
                is_unserved: false,
                closings: Closings::default(),
            }
        };
        let roll = Roll::new(setup.slot, setup.groups.iter().map(|group| group.name.clone()));
        Self {
            local: setup.slot,
            slots: setup.slots,
            nodes: setup.nodes,
            gathering: Gathering::new(roll),
            port: Port::new(setup.port, Some(setup.listener)),
            ports: Ports::new(setup.ports),
            groups: setup.groups.into_iter().map(group).collect(),
            ear: setup.ear,
            record: None,
            inbox: Vec::new(),
            inbox_bytes: Vec::new(),
            outbox: BTreeMap::new(),
            departing: Departing::default(),
            errands: Errands::default(),
            body: Vec::new(),
            timer: None,
            resets: resets::NodeResets::default(),
            departs: false,
            tables: reserving::Tables::default(),
        }
    }

    /// Whether this node serves a virtual disk of a group that has these ports.
    pub(super) fn access_of(&self, group: u16, ports: SlotSet) -> Access {
        let is_left_to_others = self.departs && !self.others_that_serve(group, ports).is_empty();
        let is_unserved = self.at(group).is_some_and(|at| self.groups[at].is_unserved);
        if ports.contains(self.local) && !is_left_to_others && !is_unserved {
            Access::Here
        } else if ports.and(self.nodes_of(group)).is_empty() {
            Access::Nowhere
        } else {
            Access::Elsewhere
        }
    }

    /// This node is about to go: whatever another member serves it leaves to that one.
    pub(super) const fn depart(&mut self) {
        self.departs = true;
    }

    /// Those that serve a group when they are there.
    pub(super) fn nodes_of(&self, group: u16) -> SlotSet {
        let at = self.at(group);
        at.map_or(SlotSet::EMPTY, |at| self.groups[at].nodes.and(self.nodes))
    }

    /// Other members that serve a virtual disk of a group that has these ports.
    pub(super) fn others_that_serve(&self, group: u16, ports: SlotSet) -> SlotSet {
        ports.and(self.members_of(group)).without(self.local)
    }

    /// Members of the epoch that serve a group.
    pub(super) fn members_of(&self, group: u16) -> SlotSet {
        let at = self.at(group);
        at.map_or(SlotSet::EMPTY, |at| self.gathering.sharers(&self.groups[at].name))
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

    /// Why nobody serves a group in this epoch.
    pub(super) fn why_not_served(&self, group: u16) -> Option<&str> {
        let shared = self.at(group).map(|at| &self.groups[at])?;
        shared.refused.as_deref().filter(|_| shared.is_unserved)
    }

    /// Whether this node serves a group of this name.
    fn serves(&self, name: &Name) -> bool {
        self.groups.iter().any(|group| group.name == *name)
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
    /// Why nobody serves a shared group in this epoch.
    pub(super) fn why_not_served(&self, group: u16) -> Option<&str> {
        self.share.as_ref()?.why_not_served(group)
    }

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
            ear,
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
            // Membership finds out by itself who is silent altogether, and has to hear who is so only here.
            News::Suspect { peer, .. } => drop(ear.send(Heard::Unlinked(peer))),
            News::Heard { peer } => drop(ear.send(Heard::Linked(peer))),
            // Room is looked for in each turn.
            News::NewerEpoch { .. } | News::Room { .. } => {}
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
        self.tend_resets(core, io);
        self.answer_reservations(core, io);
        self.send_held_back(io);
        self.run_errands(io);
        self.with_port(|port, mut news| port.end_turn(io, &mut news));
        self.tell_departures(core, io);
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
        for (from, address, kind, range) in &inbox {
            let said = (*kind, &bytes[range.clone()]);
            match *address {
                Address::Group(group) if self.share().has_entered() => {
                    self.hear_group(core, io, *from, group, said);
                }
                Address::Group(group) => self.share().gathering.keep(*from, group, said.0, said.1),
                Address::Node => self.hear_node(core, io, *from, said.0, said.1),
            }
        }
        let share = self.share();
        if share.inbox.is_empty() {
            (share.inbox, share.inbox_bytes) = (inbox, bytes);
            share.inbox.clear();
            share.inbox_bytes.clear();
        }
    }

    /// Another node says something about a group.
    fn hear_group(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        from: Slot,
        group: u16,
        said: (u16, &[u8]),
    ) {
        let share = self.share();
        let epoch = share.epoch();
        let Some(at) = share.groups.iter().position(|shared| shared.address == group) else {
            tracing::error!(peer = %from, group, "a node speaks of a group that this node does not serve");
            return;
        };
        let mut result = Ok(());
        self.peer(core, io, at, |peering, now, out| {
            result = peering.receive(now, (from, epoch), said, out);
        });
        if let Err(error) = result {
            tracing::error!(peer = %from, kind = said.0, %error, "a message of another node is not understood");
            if matches!(error, NoteError::HandOver(_)) {
                // The lock that goes with it waits for it, and whoever sent it for that: what it was is in a journal, and recovered when this life is over.
                let why = format!("node {from} hands over what cannot be taken: {error}");
                self.share().tell_life(Heard::Failed(why));
            }
        }
    }

    /// Tells all other members where hosts reach this node, and hosts of which nodes there are.
    fn tell_ports(&mut self, core: &mut Core, io: &mut Io<Message>, members: SlotSet) {
        let share = self.share();
        share.ports.keep(members);
        let told = share.ports.encode();
        for to in members.without(share.local).iter() {
            // All queues are empty when an epoch begins.
            if let Err(error) =
                share
                    .port
                    .submit(io, to, Address::Node, ports::KIND, Payload::copied(&[&told]))
            {
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
        held_back.push_back((group, HeldBack::Note(note)));
    }

    /// The peering is to hear when all has left that was said to a node by now.
    fn watch_note(&mut self, to: Slot, at: usize, name: CopyName) {
        let share = self.share();
        if !share.has_entered() {
            return; // It was of the last epoch, and not said.
        }
        match share
            .outbox
            .get_mut(&to)
            .filter(|held_back| !held_back.is_empty())
        {
            Some(held_back) => {
                let group = u16::try_from(at).expect("a node has at most 128 groups");
                held_back.push_back((group, HeldBack::Watch(name)));
            }
            None => share.departing.watch(to, share.port.departures(to), (at, name)),
        }
    }

    /// Says what has left, of those things that somebody wants to hear that of.
    fn tell_departures(&mut self, core: &mut Core, io: &mut Io<Message>) {
        loop {
            let share = self.share();
            let Some((to, (at, name))) = share.departing.next(|to| share.port.departures(to)) else {
                return;
            };
            self.peer(core, io, at, |peering, _, out| peering.copy_sent(name, to, out));
        }
    }

    fn send_held_back(&mut self, io: &mut Io<Message>) {
        let share = self.share();
        share.send_words(io);
        if share.outbox.is_empty() {
            return; // As in most turns.
        }
        for to in share.outbox.keys().copied().collect::<Vec<Slot>>() {
            while let Some((group, held_back)) = share.outbox.get_mut(&to).and_then(VecDeque::pop_front) {
                match held_back {
                    HeldBack::Note(note) if share.submit(io, to, group, &note) => {}
                    HeldBack::Note(note) => {
                        let held_back = (group, HeldBack::Note(note));
                        share.outbox.entry(to).or_default().push_front(held_back);
                        break;
                    }
                    HeldBack::Watch(name) => {
                        let what = (usize::from(group), name);
                        share.departing.watch(to, share.port.departures(to), what);
                    }
                }
            }
        }
        share.outbox.retain(|_, held_back| !held_back.is_empty());
    }
}

impl ShareControl {
    /// Queues a note. False if there is no room for it.
    fn submit(&mut self, io: &mut Io<Message>, to: Slot, group: u16, note: &Note) -> bool {
        if !self.has_entered() {
            return true; // It is of the last epoch, which has no link any more; the next one says all that counts anew.
        }
        self.body.clear();
        let shared = note.encode_head(&mut self.body);
        let group = &self.groups[usize::from(group)];
        let context = group.peering.context().encode();
        let address = Address::Group(group.address);
        let payload: [&[u8]; 2] = [&context, &self.body];
        let payload = Payload::copied(&payload).with(shared);
        match self.port.submit(io, to, address, note.kind(), payload) {
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
            ShareOrder::Recover(epoch) => self.recover_epoch(core, io, epoch),
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
                self.share().gathering.suspect(slots);
                for at in 0..self.share().groups.len() {
                    self.peer(core, io, at, |peering, now, out| peering.suspect(now, slots, out));
                }
            }
            ShareOrder::Cut(peer, cut) => self.share().port.cut(peer, cut.muted, cut.deafened),
            ShareOrder::Over(node) => self.share().port.is_over(node),
        }
    }

    fn enter_epoch(&mut self, core: &mut Core, io: &mut Io<Message>, record: EpochRecord) {
        self.admit_drives(core, io);
        let nodes: Vec<Node> = record.nodes().collect();
        let (epoch, members) = (record.epoch, record.slots());
        let share = self.share();
        share.outbox.clear();
        share.departing.clear();
        // What came in the last epoch is worth nothing in this one.
        share.inbox.clear();
        share.inbox_bytes.clear();
        share.gathering.enter(&record);
        share.resets.enter(members);
        share.tables.enter();
        share.record = Some(record);
        self.with_port(|port, mut news| port.enter(io, epoch, &nodes, &mut news));
        self.end_errands();
        let groups = self.share().groups.iter_mut();
        groups.for_each(|group| group.closings.enter());
        self.tell_ports(core, io, members);
        self.tell_groups(core, io, members);
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

    /// Locks are granted: hosts are welcome.
    fn serve_group(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize) {
        tracing::info!(group = %self.share().groups[at].name, "shared group is served");
        let group = &mut self.share().groups[at];
        (group.is_served, group.refused) = (true, None);
        self.renew_service(core, io, at);
        self.subsystem_event(core, io, SubsystemEvent::AccessRenewed);
        if let Some(index) = self.share().groups[at].index {
            self.tend_disks(core, io, index);
        }
        let disks = self.disks_of(at);
        self.reserve(core, io, at, |reserving, out| reserving.serve(&disks, out));
        self.try_listen(core, io);
    }

    /// Whoever leads cannot serve a group: hosts hear that they cannot use it here, and then what they have asked for ends, unless it goes on by itself.
    fn end_service(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize) {
        let shared = &mut self.share().groups[at];
        let Some(group) = shared.index else { return };
        if std::mem::replace(&mut shared.is_unserved, true) {
            return;
        }
        for record in self.groups[usize::from(group)].machine.vdisks().to_vec() {
            self.change_access(core, io, group, &record);
        }
        self.tell_served(core, io, group, false);
    }

    /// A group is served, perhaps again.
    fn renew_service(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize) {
        let shared = &mut self.share().groups[at];
        if let Some(group) = shared.index
            && std::mem::take(&mut shared.is_unserved)
        {
            self.tell_served(core, io, group, true);
            self.show_group(core, io, group);
            self.run_actions(core, io, group);
        }
    }

    fn tell_served(&self, core: &mut Core, io: &mut Io<Message>, group: u16, is_served: bool) {
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::Served { group, is_served });
        }
    }

    /// What becomes of a row and its dirty data goes to the core that has to do with it.
    fn hand(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        at: usize,
        (to, row): (u16, RowIndex),
        hand: Hand,
    ) {
        let index = self.share().groups[at].index;
        let group = index.expect("cores that use rows serve the group");
        core.tell(io, CoreIndex(to), Message::Hand { group, row, hand });
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
            Action::RecallCore { core: to, row, gives } => {
                self.hand(core, io, at, (to, row), Hand::Recall { gives })
            }
            Action::Answer { core: to, row } => self.hand(core, io, at, (to, row), Hand::Answer),
            Action::Adopt { core: to, row, data } => self.hand(core, io, at, (to, row), Hand::Adopt(data)),
            Action::Restore { core: to, row } => self.hand(core, io, at, (to, row), Hand::Restore),
            Action::Settle { core: to, row } | Action::Forget { core: to, row } => {
                self.hand(core, io, at, (to, row), Hand::Settle);
            }
            Action::Void { .. } => {} // Its entries stay until it is forgotten.
            Action::Send { to, note } => self.send_note(io, to, at, note),
            Action::Memory(action) => self.memory_action(core, io, at, action),
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
                self.pass_barrier();
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
            Action::Serve => self.serve_group(core, io, at),
            Action::NotServed => self.end_service(core, io, at),
            Action::Fault(member, error) => self.count_fault(core, io, at, member, error),
            Action::Reserve { from, message } => self.reserve(core, io, at, |reserving, out| {
                reserving.receive(from, message, out);
            }),
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

/// Of the virtual disks that the configuration wants those of groups that this node serves.
pub(super) fn plans_of(share: Option<&ShareControl>, mut plans: Vec<VdiskPlan>) -> Vec<VdiskPlan> {
    if let Some(share) = share {
        plans.retain(|plan| share.serves(&plan.group));
    }
    plans
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
