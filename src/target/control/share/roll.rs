//! Who serves which groups in an epoch, and the words of nodes to each other about whole nodes: see [`crate::amf::peering::roll`].
//!
//! | kind | what | from whom to whom |
//! |---|---|---|
//! | 1 | where hosts reach it (`ports`) | each member to all others, when an epoch begins |
//! | 2 | which groups it serves | the same |
//! | 3 | all have reported: groups are to be recovered | who leads the epoch to all who lead a group |
//! | 4 | all groups that it leads are recovered | the other way |
//! | 5, 6 | what operators ask, and the answer (`errands`) | any member to whoever leads a group, and back |
//! | 7 | which virtual disks it has closed (`disks`) | members of a group to whoever leads it |
//! | 16, 17 | a host of the one resets a controller of the other, and what became of that (`icl::reset`) | any |
//!
//! Groups enter an epoch here once all members have told what they serve. What others say of groups before is kept for that moment, and what this node's groups
//! still say of the last epoch goes nowhere, as if the link had lost it with its epoch.

use reactor::Io;

use super::super::Control;
use super::{ShareControl, disks, errands};
use crate::amf::peering::Era;
use crate::amf::peering::roll::Roll;
use crate::amf::superblock::Name;
use crate::icl::link::{Address, Payload, SubmitError};
use crate::icl::membership::record::EpochRecord;
use crate::icl::{Epoch, Slot, SlotSet};
use crate::target::core::Core;
use crate::target::message::Message;
use crate::target::share::Heard;

/// Kinds of messages from node to node.
pub(super) const GROUPS: u16 = 2;
const RECOVER: u16 = 3;
const RECOVERED: u16 = 4;

/// A message about a group that came before the group was in its epoch.
#[derive(Debug)]
struct Early {
    from: Slot,
    group: u16,
    kind: u16,
    bytes: Vec<u8>,
}

/// How far this node is with the epoch as a whole.
#[derive(Debug)]
pub(super) struct Gathering {
    roll: Roll,
    /// The newest epoch that the groups are in.
    entered: Option<EpochRecord>,
    early: Vec<Early>,
    /// Members that are not heard.
    suspects: SlotSet,
    /// Groups are to be recovered.
    is_called: bool,
    /// Whoever leads the epoch knows that those that this node leads are.
    has_told: bool,
    /// Others that have said so.
    done: SlotSet,
    /// What is to be said, to whom.
    words: Vec<(Slot, u16)>,
}

impl Gathering {
    pub(super) const fn new(roll: Roll) -> Self {
        Self {
            roll,
            entered: None,
            early: Vec::new(),
            suspects: SlotSet::EMPTY,
            is_called: false,
            has_told: false,
            done: SlotSet::EMPTY,
            words: Vec::new(),
        }
    }

    /// An epoch is decided.
    pub(super) fn enter(&mut self, record: &EpochRecord) {
        self.roll.enter(record.slots(), record.seniors());
        self.early.clear();
        self.words.clear();
        (self.is_called, self.has_told, self.done) = (false, false, SlotSet::EMPTY);
    }

    /// The epoch that the groups are in.
    pub(super) fn epoch(&self) -> Epoch {
        self.entered.as_ref().map_or(Epoch(0), |record| record.epoch)
    }

    /// Other nodes that lead groups.
    pub(super) fn leaders(&self, local: Slot) -> SlotSet {
        self.roll.leaders().without(local)
    }

    /// Who leads a group, also one that this node does not serve.
    pub(super) fn leader_of(&self, group: &str) -> Option<Slot> {
        self.roll.leader(&Name::parse(group).ok()?)
    }

    /// Members that serve a group.
    pub(super) fn sharers(&self, group: &Name) -> SlotSet {
        self.roll.sharers(group)
    }

    pub(super) const fn suspect(&mut self, slots: SlotSet) {
        self.suspects = slots;
    }

    /// Whether all nodes serve the same groups, so that each of them knows all namespaces.
    pub(super) fn is_even(&self) -> bool {
        self.roll.is_even()
    }

    /// Keeps a message about a group until groups are in the epoch.
    pub(super) fn keep(&mut self, from: Slot, group: u16, kind: u16, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        self.early.push(Early {
            from,
            group,
            kind,
            bytes,
        });
    }
}

impl ShareControl {
    /// Whether the groups are in the epoch that the link is in.
    pub(super) fn has_entered(&self) -> bool {
        self.gathering.epoch() == self.epoch()
    }

    fn leader_of_epoch(&self) -> Option<Slot> {
        Some(self.record.as_ref()?.senior_leader().slot)
    }

    /// Says what there is to say of whole nodes, as far as there is room for it.
    pub(super) fn send_words(&mut self, io: &mut Io<Message>) {
        while let Some((to, kind)) = self.gathering.words.last().copied() {
            match self
                .port
                .submit(io, to, Address::Node, kind, Payload::copied(&[]))
            {
                Err(SubmitError::Full) => return,
                Ok(()) | Err(SubmitError::NotMember) => self.gathering.words.pop(),
            };
        }
    }
}

impl Control {
    /// Tells all other members which groups this node serves.
    pub(super) fn tell_groups(&mut self, core: &mut Core, io: &mut Io<Message>, members: SlotSet) {
        let share = self.share();
        let told = share.gathering.roll.encode();
        for to in members.without(share.local).iter() {
            // All queues are empty when an epoch begins.
            if let Err(error) = share
                .port
                .submit(io, to, Address::Node, GROUPS, Payload::copied(&[&told]))
            {
                tracing::error!(peer = %to, ?error, "a node is not told which groups this one serves, and waits for that");
            }
        }
        self.call_roll(core, io);
    }

    /// Another node says something of itself, or of the epoch.
    pub(super) fn hear_node(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        from: Slot,
        kind: u16,
        bytes: &[u8],
    ) {
        let share = self.share();
        let epoch = share.epoch();
        match kind {
            super::ports::KIND => self.hear_ports(core, io, from, bytes),
            GROUPS => match share.gathering.roll.heard(from, bytes) {
                Ok(()) => self.call_roll(core, io),
                Err(error) => {
                    tracing::error!(peer = %from, %error, "a message of another node is not understood");
                }
            },
            RECOVER if share.leader_of_epoch() == Some(from) => self.recover_groups(core, io, epoch),
            RECOVERED => {
                share.gathering.done = share.gathering.done.with(from);
                self.pass_recovered(epoch);
            }
            RECOVER => tracing::error!(peer = %from, "a node that does not lead calls for a recovery"),
            errands::ASKED | errands::ANSWERED | disks::KIND => {
                if !self.hear_errand(core, io, from, kind, bytes) {
                    tracing::error!(peer = %from, kind, "a message of another node is not understood");
                }
            }
            _ => self.hear_reset(core, io, from, kind, bytes),
        }
    }

    /// If all have told what they serve, groups enter the epoch.
    fn call_roll(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let share = self.share();
        if share.has_entered() || !share.gathering.roll.is_whole() {
            return;
        }
        let Some(record) = share.record.clone() else {
            return;
        };
        let before = share.gathering.entered.replace(record.clone());
        let suspects = share.gathering.suspects;
        for at in 0..share.groups.len() {
            let share = self.share();
            let roll = &share.gathering.roll;
            let group = &mut share.groups[at];
            let leader = roll.leader(&group.name).unwrap_or(share.local);
            let era = Era::of(&record, before.as_ref(), roll.sharers(&group.name), leader);
            // Whoever is to put its pen down is told so anew.
            (group.refused, group.steps_down) = (None, false);
            self.reserve(core, io, at, |reserving, out| {
                reserving.enter(era.epoch, era.members, era.leader, out);
            });
            self.peer(core, io, at, |peering, now, out| {
                peering.enter(now, era, out);
                if !suspects.is_empty() {
                    peering.suspect(now, suspects, out);
                }
            });
        }
        self.pass_barrier();
        for early in std::mem::take(&mut self.share().gathering.early) {
            self.hear_group(core, io, early.from, early.group, (early.kind, &early.bytes));
        }
    }

    /// Membership may go on once all of this node's groups have reported.
    pub(super) fn pass_barrier(&mut self) {
        let share = self.share();
        let epoch = share.epoch();
        if share.has_entered() && share.groups.iter().all(|group| group.barrier >= epoch) {
            share.tell_life(Heard::BarrierDone(epoch));
        }
    }

    /// All members have reported, and this node leads the epoch.
    pub(super) fn recover_epoch(&mut self, core: &mut Core, io: &mut Io<Message>, epoch: Epoch) {
        let share = self.share();
        if share.epoch() != epoch || !share.has_entered() {
            return; // There is a newer one.
        }
        let others = share.gathering.roll.leaders().without(share.local);
        share
            .gathering
            .words
            .extend(others.iter().map(|to| (to, RECOVER)));
        self.recover_groups(core, io, epoch);
    }

    /// Recovers the groups that this node leads.
    fn recover_groups(&mut self, core: &mut Core, io: &mut Io<Message>, epoch: Epoch) {
        let share = self.share();
        share.gathering.is_called = true;
        let local = share.local;
        for at in 0..share.groups.len() {
            if self.share().groups[at].peering.leader() == Some(local) {
                self.peer(core, io, at, |peering, _, out| peering.recover(epoch, out));
            }
        }
        self.pass_recovered(epoch);
    }

    /// A group is recovered, or whoever leads others has said so of them.
    pub(super) fn pass_recovered(&mut self, epoch: Epoch) {
        let share = self.share();
        let local = share.local;
        let mut led = share
            .groups
            .iter()
            .filter(|group| group.peering.leader() == Some(local));
        if epoch != share.epoch() || !share.gathering.is_called || !led.all(|group| group.recovered >= epoch)
        {
            return;
        }
        let gathering = &mut share.gathering;
        let others = gathering.roll.leaders().without(local);
        let leader = share.record.as_ref().map(|record| record.senior_leader().slot);
        match leader {
            Some(leader) if leader != local => {
                if !std::mem::replace(&mut gathering.has_told, true) {
                    gathering.words.push((leader, RECOVERED));
                }
            }
            Some(_) | None => {
                if gathering.done.covers(others) {
                    share.tell_life(Heard::Recovered(epoch));
                }
            }
        }
    }
}
