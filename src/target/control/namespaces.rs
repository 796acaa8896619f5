//! Namespaces as cores and hosts know them: what the records of the groups say of virtual disks, and which of them this node serves.

use std::sync::Arc;

use nvme::access::Access;
use nvme::identify::Reservable;
use nvme::io::NamespaceFormat;
use nvme::subsystem::{Event as SubsystemEvent, Namespace as SubsystemNamespace};
use reactor::{CoreIndex, Io};

use super::Control;
use super::groups::{COMPARE_WRITE_BLOCKS, GroupControl, Phase};
use crate::amf::group::{Action, Event};
use crate::amf::replication::ReplicationMode;
use crate::amf::superblock::{Uuid, VdiskRecord};
use crate::target::core::Core;
use crate::target::message::Message;
use crate::target::namespaces::{Namespace, Namespaces};
use crate::target::shelf::is_data;
use crate::vdisk::VirtualDisk;

/// A namespace as hosts were told of it.
pub(super) struct Shown {
    pub(super) group: u16,
    pub(super) uuid: Uuid,
    blocks: u64,
    access: Access,
    replication: ReplicationMode,
}

/// What hosts are told once every core knows.
#[derive(Clone, Copy)]
pub(super) enum News {
    /// A namespace has grown to so many blocks.
    Resized(u32, u64),
    /// A namespace has a port here from now on.
    Opened(u32),
    /// Nothing that concerns them: writes of a namespace are done at another time.
    Replicates,
}

/// Commands of a namespace that begin no more are awaited on all cores.
pub(super) struct Drain {
    group: u16,
    nsid: u32,
    uuid: Uuid,
    cores_left: u16,
    /// The virtual disk goes, and not just its port here.
    is_gone: bool,
}

impl Control {
    /// Tells hosts and cores about the namespaces as they are now.
    pub(super) fn publish_namespaces(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let mut table = Namespaces::default();
        let mut added = Vec::new();
        for group in self.groups.iter().filter(|group| group.phase != Phase::Opening) {
            for record in group.machine.vdisks() {
                let shown = self.announced.get(&record.nsid);
                // Where another one with this number is about to go, this one comes after that.
                let waits = shown.is_some_and(|shown| shown.uuid != record.uuid);
                if record.leaving || waits || self.leaving.contains(&record.nsid) {
                    continue;
                }
                let (namespace, facts) =
                    namespace_of(group, record, self.access_of(group.shared.index, record));
                if table.insert(record.nsid, namespace) && shown.is_none() {
                    added.push((facts, record.clone(), group.shared.index));
                }
            }
        }
        for (facts, record, group) in &added {
            self.guard_namespace(core, io, *group, (facts.nsid, record.uuid));
        }
        let table = Arc::new(table);
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::Namespaces(Arc::clone(&table)));
        }
        for (facts, record, group) in added {
            let uuid = record.uuid;
            let shown = Shown {
                group,
                uuid,
                replication: record.replication,
                blocks: facts.format.blocks,
                access: facts.access,
            };
            self.announced.insert(facts.nsid, shown);
            self.subsystem_event(core, io, SubsystemEvent::NamespaceAdded(facts));
            self.restore_reservations(core, io, &facts);
            self.show_table(core, io, group, (facts.nsid, uuid));
        }
    }

    /// Whether this node serves a virtual disk.
    pub(super) fn access_of(&self, group: u16, record: &VdiskRecord) -> Access {
        let share = self.share.as_ref();
        share.map_or(Access::Here, |share| share.access_of(group, record.ports))
    }

    /// Hosts are welcome to a group. Who has followed another node, and leads now, may find that that one has written more than it could tell.
    pub(super) fn show_group(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let vdisks = self.groups[usize::from(group)].machine.vdisks().to_vec();
        let mut news = Vec::new();
        for (nsid, shown) in self.announced.iter().filter(|(_, shown)| shown.group == group) {
            let record = vdisks
                .iter()
                .find(|record| record.uuid == shown.uuid && !record.leaving);
            let Some(record) = record else {
                news.push(Action::VdiskRemoved { nsid: *nsid });
                continue;
            };
            if record.blocks != shown.blocks {
                news.push(Action::VdiskResized(record.clone()));
            }
            if (self.access_of(group, record), record.replication) != (shown.access, shown.replication) {
                news.push(Action::VdiskChanged(record.clone()));
            }
        }
        self.groups[usize::from(group)].hold(news);
        self.publish_namespaces(core, io);
        if !self.is_shared(group) {
            // Of a group that nodes have shared; nobody has served these since.
            for record in vdisks.iter().filter(|record| record.leaving) {
                self.group_event(core, io, group, Event::VdiskDrained { nsid: record.nsid });
            }
        }
    }

    /// Takes a namespace away from hosts and cores; each core says when nothing of it runs any more.
    pub(super) fn remove_namespace(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, nsid: u32) {
        self.leaving.insert(nsid);
        let shown = self.announced.remove(&nsid);
        self.subsystem_event(core, io, SubsystemEvent::NamespaceRemoved { nsid });
        self.publish_namespaces(core, io);
        if let Some(shown) = &shown {
            self.forget_table(core, io, group, shown.uuid);
        }
        self.drain(
            core,
            io,
            Drain {
                group,
                nsid,
                uuid: shown.map_or(Uuid::NIL, |shown| shown.uuid),
                cores_left: self.cores,
                is_gone: true,
            },
        );
    }

    fn drain(&mut self, core: &mut Core, io: &mut Io<Message>, drain: Drain) {
        let number = self.next_request().0;
        let (nsid, is_gone) = (drain.nsid, drain.is_gone);
        self.draining.insert(number, drain);
        for to in 0..self.cores {
            let message = Message::DrainNamespace {
                number,
                nsid,
                is_gone,
            };
            core.tell(io, CoreIndex(to), message);
        }
    }

    /// One core has nothing of a namespace in flight any more of which nothing begins.
    pub(super) fn namespace_drained(&mut self, core: &mut Core, io: &mut Io<Message>, number: u64) {
        let drain = self.draining.get_mut(&number);
        let drain = drain.expect("a core answers what it was asked");
        drain.cores_left -= 1;
        if drain.cores_left > 0 {
            return;
        }
        let Drain {
            group, nsid, is_gone, ..
        } = *drain;
        self.draining.remove(&number);
        if !self.is_shared(group) {
            return self.group_event(core, io, group, Event::VdiskDrained { nsid });
        }
        if is_gone && self.leaving.remove(&nsid) {
            // Another one may have its number by now.
            self.publish_namespaces(core, io);
        }
        self.tend_disks(core, io, group);
    }

    /// Other nodes serve a virtual disk than before, durably, or its writes are done at another time.
    pub(super) fn change_namespace(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        record: &VdiskRecord,
    ) {
        let access = self.access_of(group, record);
        let Some(shown) = self.announced.get_mut(&record.nsid) else {
            return;
        };
        let (nsid, replication) = (record.nsid, record.replication);
        let is_other_access = shown.access != access;
        let is_other_time = std::mem::replace(&mut shown.replication, replication) != replication;
        if is_other_time {
            tracing::info!(
                nsid,
                replication = replication.name(),
                "writes are done at another time"
            );
        }
        if is_other_access {
            self.change_access(core, io, group, record); // Cores hear of both.
        } else if is_other_time {
            self.tell_when_known(core, io, group, News::Replicates);
        }
    }

    /// Where this node begins to serve it, every core knows before hosts do; where it ends, hosts know first, so that whoever is refused
    /// finds out why.
    pub(super) fn change_access(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        record: &VdiskRecord,
    ) {
        let (nsid, access) = (record.nsid, self.access_of(group, record));
        let Some(shown) = self
            .announced
            .get_mut(&nsid)
            .filter(|shown| shown.access != access)
        else {
            return;
        };
        let before = std::mem::replace(&mut shown.access, access);
        tracing::info!(nsid, ?access, "access to a namespace has changed");
        if access == Access::Here {
            return self.tell_when_known(core, io, group, News::Opened(nsid));
        }
        self.subsystem_event(core, io, SubsystemEvent::AccessChanged { nsid, access });
        self.publish_namespaces(core, io);
        if before == Access::Here {
            let uuid = record.uuid;
            self.drain(
                core,
                io,
                Drain {
                    group,
                    nsid,
                    uuid,
                    cores_left: self.cores,
                    is_gone: false,
                },
            );
        }
    }

    /// A virtual disk has got larger, durably: has every core serve the new size before anybody is told.
    pub(super) fn resize_namespace(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        record: &VdiskRecord,
    ) {
        if let Some(shown) = self.announced.get_mut(&record.nsid) {
            shown.blocks = record.blocks;
        }
        self.tell_when_known(core, io, group, News::Resized(record.nsid, record.blocks));
    }

    fn tell_when_known(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16, news: News) {
        self.publish_namespaces(core, io);
        let state = &mut self.groups[usize::from(group)];
        state.news = Some(news);
        state.await_cores(self.cores);
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::SayNamespacesKnown { group });
        }
    }

    /// A core serves all namespaces as it was told.
    pub(super) fn namespaces_known(&mut self, core: &mut Core, io: &mut Io<Message>, group: u16) {
        let state = &mut self.groups[usize::from(group)];
        if !state.core_answered() {
            return;
        }
        let event = match state.news.take() {
            Some(News::Resized(nsid, blocks)) => Some(SubsystemEvent::NamespaceResized { nsid, blocks }),
            Some(News::Opened(nsid)) => Some(SubsystemEvent::AccessChanged {
                nsid,
                access: Access::Here,
            }),
            Some(News::Replicates) | None => None,
        };
        if let Some(event) = event {
            self.subsystem_event(core, io, event);
        }
        self.run_actions(core, io, group);
    }

    /// Virtual disks of a group that this node does not serve, and of which nothing is under way here.
    pub(super) fn closed_disks(&self, group: u16) -> impl Iterator<Item = Uuid> {
        let is_closed = move |record: &&VdiskRecord| {
            let mut shown = self.announced.values();
            let is_shown = shown.any(|shown| shown.uuid == record.uuid && shown.access == Access::Here);
            let is_drained = self.draining.values().all(|drain| drain.uuid != record.uuid);
            let is_served = !record.leaving && self.access_of(group, record) == Access::Here;
            !is_served && !is_shown && is_drained
        };
        let vdisks = self.groups[usize::from(group)].machine.vdisks().iter();
        vdisks.filter(is_closed).map(|record| record.uuid)
    }
}

/// A virtual disk as cores and hosts see it.
fn namespace_of(
    group: &GroupControl,
    record: &VdiskRecord,
    access: Access,
) -> (Namespace, SubsystemNamespace) {
    let shared = &group.shared;
    let geometry = &group.machine.geometry();
    let format = NamespaceFormat {
        blocks: record.blocks,
        block_shift: geometry.block().shift(),
    };
    let facts = SubsystemNamespace {
        nsid: record.nsid,
        nguid: record.nguid,
        uuid: record.uuid.0,
        format,
        access,
        strip_blocks: Some(geometry.strip_blocks()),
        stripe_blocks: Some(geometry.row_blocks()),
        volatile: shared.volatile,
        reservable: match group.header {
            Some(_) if is_data(record.nsid) => Reservable::Persistently,
            Some(_) => Reservable::Never,
            None if shared.is_shared() => Reservable::AcrossNodes,
            None => Reservable::UntilStop,
        },
        admission_of: match group.header {
            Some(_) if !is_data(record.nsid) => Some(record.nsid - 1),
            Some(_) | None => None,
        },
    };
    let disk = VirtualDisk::new(record);
    let namespace = Namespace {
        group: shared.index,
        format,
        access,
        compare_write_blocks_max: COMPARE_WRITE_BLOCKS,
        volatile: shared.volatile,
        replication: record.replication,
        disk,
    };
    (namespace, facts)
}
