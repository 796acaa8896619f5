//! Virtual disks that all nodes know: what each node has closed, and what whoever leads makes of that.
//!
//! A node *has closed* a virtual disk when it does not serve it, as its record says, and nothing of it is under way there. It says so to the node that leads, with the
//! generation of the record: so blocks of a virtual disk that goes are given back, and a port counts as deleted, only after that.
//!
//! A message: address of the group 0..2, zeroes 2..8, generation 8..16, UUIDs of 16 bytes.

use std::collections::{BTreeMap, BTreeSet};

use reactor::Io;
use thiserror::Error;

use super::super::Control;
use super::super::operator::Asker;
use crate::amf::group::Event;
use crate::amf::superblock::{GroupRecord, Uuid};
use crate::icl::{Slot, SlotSet};
use crate::target::core::Core;
use crate::target::message::Message;

/// The kind of such a message from node to node.
pub(super) const KIND: u16 = 7;
const HEAD_BYTES: usize = 16;

/// What a node has closed of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Closed {
    /// By the record of this generation.
    generation: u64,
    disks: BTreeSet<Uuid>,
}

/// Bytes say nothing of what a node has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it says nothing of virtual disks")]
pub(super) struct ClosedError;

impl Closed {
    fn encode(&self, group: u16) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + 16 * self.disks.len());
        bytes.extend(group.to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(self.generation.to_le_bytes());
        self.disks.iter().for_each(|disk| bytes.extend(disk.0));
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<(u16, Self), ClosedError> {
        let (head, disks) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(ClosedError)?;
        let &[low, high, 0, 0, 0, 0, 0, 0, ref generation @ ..] = head else {
            return Err(ClosedError);
        };
        let (disks, []) = disks.as_chunks::<16>() else {
            return Err(ClosedError);
        };
        let closed = Self {
            generation: u64::from_le_bytes(*generation),
            disks: disks.iter().map(|disk| Uuid(*disk)).collect(),
        };
        Ok((u16::from_le_bytes([low, high]), closed))
    }
}

/// A port that an operator has had deleted, and that its node has not closed yet.
struct ClosingPort {
    disk: Uuid,
    slot: Slot,
    /// By the record of this generation.
    since: u64,
    asker: Asker,
}

/// What is closed of one group, as far as this node knows.
#[derive(Default)]
pub(super) struct Closings {
    /// By each member, in this epoch.
    heard: BTreeMap<Slot, Closed>,
    /// What whoever leads was told last in this epoch.
    told: Option<Closed>,
    /// From which generation on records say that a virtual disk goes.
    since: BTreeMap<Uuid, u64>,
    /// Virtual disks that all members have closed, and whose blocks are being given back.
    finishing: BTreeSet<Uuid>,
    waiting: Vec<ClosingPort>,
}

impl Closings {
    /// An epoch begins: each member says anew what it has closed.
    pub(super) fn enter(&mut self) {
        self.heard.clear();
        self.finishing.clear();
        self.told = None;
    }

    /// Whether whoever leads is to hear of this.
    fn is_news(&self, closed: &Closed) -> bool {
        match &self.told {
            None => !closed.disks.is_empty(),
            Some(told) => told != closed && !(told.disks.is_empty() && closed.disks.is_empty()),
        }
    }

    fn has_closed(&self, slot: Slot, disk: Uuid, since: u64) -> bool {
        let closed = self.heard.get(&slot);
        closed.is_some_and(|closed| closed.generation >= since && closed.disks.contains(&disk))
    }

    /// The numbers of virtual disks that go, by this record, and that all members have closed since it says so. Each once in an epoch.
    fn finished(&mut self, record: &GroupRecord, members: SlotSet) -> Vec<u32> {
        let leaving: Vec<(u32, Uuid)> = record
            .vdisks
            .iter()
            .filter(|vdisk| vdisk.leaving)
            .map(|vdisk| (vdisk.nsid, vdisk.uuid))
            .collect();
        self.since
            .retain(|disk, _| leaving.iter().any(|(_, leaving)| leaving == disk));
        let mut finished = Vec::new();
        for (nsid, disk) in leaving {
            let since = *self.since.entry(disk).or_insert(record.generation);
            let is_closed = members.iter().all(|slot| self.has_closed(slot, disk, since));
            if is_closed && self.finishing.insert(disk) {
                finished.push(nsid);
            }
        }
        finished
    }

    /// Those who wait for a port that its node has closed, or that there is no more to wait for, with the name of the virtual disk.
    fn closed_ports(&mut self, record: &GroupRecord, members: SlotSet) -> Vec<(Asker, Option<String>)> {
        let mut over = Vec::new();
        for port in std::mem::take(&mut self.waiting) {
            let mut vdisks = record.vdisks.iter();
            let vdisk = vdisks.find(|vdisk| vdisk.uuid == port.disk && !vdisk.leaving);
            let is_back = vdisk.is_none_or(|vdisk| vdisk.ports.contains(port.slot));
            if is_back || !members.contains(port.slot) || self.has_closed(port.slot, port.disk, port.since) {
                over.push((port.asker, vdisk.map(|vdisk| vdisk.name.to_string())));
            } else {
                self.waiting.push(port);
            }
        }
        over
    }
}

impl Control {
    /// Something of this group's virtual disks may have closed here.
    pub(in super::super) fn tend_disks(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let share = self.share.as_ref().filter(|share| share.has_entered());
        let Some(at) = share.and_then(|share| share.at(group)) else {
            return; // It is done again when the group is served in the epoch.
        };
        let state = &self.groups[usize::from(group)];
        let record = state.machine.durable_record().filter(|_| state.is_settled());
        let Some(generation) = record.map(|record| record.generation) else {
            return;
        };
        let disks = self.closed_disks(group).collect();
        let closed = Closed { generation, disks };
        let share = self.share();
        let local = share.local;
        let shared = &mut share.groups[at];
        if shared.peering.leads() {
            shared.closings.heard.insert(local, closed);
            return self.finish_disks(core, io, at);
        }
        let leader = shared.peering.leader().filter(|leader| *leader != local);
        if let Some(leader) = leader.filter(|_| shared.closings.is_news(&closed)) {
            let bytes = closed.encode(shared.address);
            shared.closings.told = Some(closed);
            self.send_to_node(io, leader, KIND, bytes);
        }
    }

    /// Another node says what it has closed.
    pub(super) fn hear_closed(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        from: Slot,
        bytes: &[u8],
    ) -> Result<(), ClosedError> {
        let (address, closed) = Closed::parse(bytes)?;
        let mut groups = self.share().groups.iter_mut();
        let at = groups.position(|shared| shared.address == address);
        let Some(at) = at else { return Err(ClosedError) };
        self.share().groups[at].closings.heard.insert(from, closed);
        if self.share().groups[at].peering.leads() {
            self.finish_disks(core, io, at);
        }
        Ok(())
    }

    /// Gives the blocks of virtual disks back that all members have closed, and answers whoever waits for a port.
    fn finish_disks(&mut self, core: &mut Core, io: &mut Io<Message>, at: usize) {
        let Some(index) = self.share().groups[at].index else {
            return;
        };
        let record = self.groups[usize::from(index)].machine.durable_record();
        let Some(record) = record.cloned() else { return };
        let share = self.share();
        if !share.has_entered() {
            return; // Who its members are is not known.
        }
        let members = share.members_of(index);
        let closings = &mut share.groups[at].closings;
        let finished = closings.finished(&record, members);
        for (asker, name) in closings.closed_ports(&record, members) {
            let answer = self.port_list(name.as_deref());
            self.answer(io, asker, answer);
        }
        for nsid in finished {
            self.group_event(core, io, index, Event::VdiskDrained { nsid });
        }
    }

    /// A port is deleted, durably: its asker hears of that when its node has closed it.
    pub(in super::super) fn await_closed(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        (disk, slot): (Uuid, Slot),
        asker: Asker,
    ) {
        let since = self.groups[usize::from(group)].machine.durable_record();
        let since = since.map_or(0, |record| record.generation);
        let at = self.share.as_ref().and_then(|share| share.at(group));
        let at = at.expect("only shared groups have ports that are deleted");
        self.share().groups[at].closings.waiting.push(ClosingPort {
            disk,
            slot,
            since,
            asker,
        });
        self.tend_disks(core, io, group);
    }

    /// Another node leads from now on: what was asked of a port is durable, and whoever waited hears so.
    pub(super) fn await_closed_no_more(&mut self, io: &mut Io<Message>, at: usize) {
        for port in std::mem::take(&mut self.share().groups[at].closings.waiting) {
            let answer = self.port_list(None);
            self.answer(io, port.asker, answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u8) -> Slot {
        Slot::new(number).expect("an array has that slot")
    }

    fn closed(generation: u64, disks: &[u8]) -> Closed {
        Closed {
            generation,
            disks: disks.iter().map(|disk| Uuid([*disk; 16])).collect(),
        }
    }

    #[test]
    fn what_is_closed_is_read_as_it_was_written_and_nothing_else_is() {
        for disks in [&[][..], &[1], &[1, 2, 3]] {
            let said = closed(77, disks);
            let bytes = said.encode(0xabcd);
            assert_eq!(Closed::parse(&bytes), Ok((0xabcd, said)));
            for end in (0..bytes.len()).filter(|end| end % 16 != 0 || *end == 0) {
                assert_eq!(Closed::parse(&bytes[..end]), Err(ClosedError));
            }
        }
        let mut strange = closed(1, &[]).encode(1);
        strange[5] = 1;
        assert_eq!(Closed::parse(&strange), Err(ClosedError));
    }

    /// CHECKLIST A9: a node that had closed a virtual disk, and then got a port again, has not closed it for a deletion that comes later.
    #[test]
    fn what_was_closed_before_says_nothing_of_what_goes_now() {
        let disk = Uuid([1; 16]);
        let mut closings = Closings::default();
        closings.heard.insert(slot(1), closed(4, &[1]));
        assert!(closings.has_closed(slot(1), disk, 4));
        assert!(!closings.has_closed(slot(1), disk, 5) && !closings.has_closed(slot(2), disk, 4));
        closings.enter();
        assert!(!closings.has_closed(slot(1), disk, 4), "another epoch");
    }

    #[test]
    fn whoever_leads_hears_what_it_does_not_know() {
        let mut closings = Closings::default();
        assert!(!closings.is_news(&closed(1, &[])), "nothing is closed");
        assert!(closings.is_news(&closed(1, &[1])));
        closings.told = Some(closed(1, &[1]));
        assert!(!closings.is_news(&closed(1, &[1])));
        assert!(closings.is_news(&closed(2, &[1])) && closings.is_news(&closed(2, &[])));
        closings.told = Some(closed(2, &[]));
        assert!(!closings.is_news(&closed(3, &[])));
    }
}
