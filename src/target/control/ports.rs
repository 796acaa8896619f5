//! Ports of virtual disks, as operators see and change them.

use super::Control;
use super::operator::WaitingFor;
use crate::amf::group::{Event, PortChange, RequestId, VdiskChange};
use crate::icl::Slot;
use crate::target::manage::{ManageError, PortRequest, PortState, PortStatus, Reply};

/// What a group is asked for, whose number is given, and what whoever asked waits for.
type Asked<E> = (usize, WaitingFor, E);

impl Control {
    /// The ports of one virtual disk, or of all.
    pub(super) fn port_list(&self, vdisk: Option<&str>) -> Result<Reply, ManageError> {
        let share = self.share.as_ref().ok_or_else(not_shared)?;
        let mut ports = Vec::new();
        let records = self.groups.iter().flat_map(|group| {
            let index = group.shared.index;
            let vdisks = group.machine.vdisks().iter();
            vdisks.map(move |record| (index, record))
        });
        for (group, record) in records {
            if record.leaving || vdisk.is_some_and(|wanted| wanted != record.name.as_str()) {
                continue;
            }
            let members = share.members_of(group);
            let is_unserved = share.why_not_served(group).is_some();
            ports.extend(share.nodes_of(group).iter().map(|slot| {
                let port = record.ports.contains(slot);
                PortStatus {
                    vdisk: record.name.to_string(),
                    nsid: record.nsid,
                    node: slot.number(),
                    port,
                    state: if !members.contains(slot) {
                        PortState::Away
                    } else if port && !is_unserved {
                        PortState::Optimized
                    } else {
                        PortState::Inaccessible
                    },
                }
            }));
        }
        match vdisk {
            Some(vdisk) if ports.is_empty() => Err(ManageError::not_found("vdisk", vdisk)),
            Some(_) | None => Ok(Reply::Ports(ports)),
        }
    }

    /// A port that an operator wants added or deleted.
    pub(super) fn port_to_change(
        &self,
        request: &PortRequest,
    ) -> Result<Asked<impl FnOnce(RequestId) -> Event + use<>>, ManageError> {
        let share = self.share.as_ref().ok_or_else(not_shared)?;
        let (vdisk, node, force) = match request {
            PortRequest::Add(add) => (&add.vdisk, add.node, None),
            PortRequest::Delete(delete) => (&delete.vdisk, delete.node, Some(delete.force)),
            PortRequest::List(_) => unreachable!("a list changes nothing"),
        };
        let found = self.vdisk_record(|record| record.name.as_str() == vdisk && !record.leaving);
        let (group, record) = found.ok_or_else(|| ManageError::not_found("vdisk", vdisk))?;
        let nsid = record.nsid;
        let nodes = share.nodes_of(u16::try_from(group).expect("a node has at most 128 groups"));
        let slot = Slot::new(node).filter(|slot| nodes.contains(*slot));
        let slot = slot.ok_or_else(|| {
            let known: Vec<String> = nodes.iter().map(|slot| slot.number().to_string()).collect();
            ManageError::new(
                ManageError::NOT_FOUND,
                format!("no node that serves the group has slot {node}"),
                format!("its nodes have the slots {}", known.join(", ")),
            )
        })?;
        let change = force.map_or(PortChange::Add, |force| PortChange::Delete { nodes, force });
        let closes = force.map(|_| slot);
        let change = VdiskChange::Port(slot, change);
        let event = move |request| Event::ChangeVdisk {
            request,
            nsid,
            change,
        };
        Ok((group, WaitingFor::PortChanged { closes }, event))
    }
}

fn not_shared() -> ManageError {
    ManageError::new(
        ManageError::INVALID,
        "this node shares its groups with no others: it is the one port of all of its virtual disks",
        "ports are for the nodes of an [array]",
    )
}
