//! Virtual disks that get larger, change otherwise, or go.

use super::{Change, Group, Phase, refuse};
use crate::amf::group::{Action, RequestError, RequestId, VdiskChange, VdiskSize};
use crate::amf::superblock::VdiskRecord;

/// A virtual disk on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) nsid: u32,
    /// `None` if whoever asked has asked the node that led the group before.
    pub(super) request: Option<RequestId>,
    drained: bool,
}

impl Group {
    pub(super) fn delete_vdisk(&mut self, request: RequestId, nsid: u32, out: &mut Vec<Action>) {
        let known = self.record.vdisks.iter().any(|vdisk| vdisk.nsid == nsid);
        let leaving = self.leaving.iter().any(|leaving| leaving.nsid == nsid);
        let verdict = match self.admit() {
            Ok(()) if leaving => Err(RequestError::AlreadyLeaving(nsid)),
            Ok(()) if !known => Err(RequestError::NoSuchVdisk(nsid)),
            verdict => verdict,
        };
        match verdict {
            Ok(()) => {
                self.leaving.push(Leaving {
                    nsid,
                    request: Some(request),
                    drained: false,
                });
                out.push(Action::VdiskRemoved { nsid });
            }
            Err(error) => refuse(request, error, out),
        }
    }

    pub(super) fn resize_vdisk(
        &mut self,
        request: RequestId,
        nsid: u32,
        size: VdiskSize,
        out: &mut Vec<Action>,
    ) {
        let leaving = self.leaving.iter().any(|leaving| leaving.nsid == nsid);
        match self.admit() {
            Ok(()) if leaving => refuse(request, RequestError::AlreadyLeaving(nsid), out),
            Ok(()) => self.changes.push_back(Change::ResizeVdisk(request, nsid, size)),
            Err(error) => refuse(request, error, out),
        }
    }

    pub(super) fn leave_vdisk(&mut self, request: RequestId, nsid: u32, out: &mut Vec<Action>) {
        match self.admit() {
            Ok(()) => self.changes.push_back(Change::LeaveVdisk(request, nsid)),
            Err(error) => refuse(request, error, out),
        }
    }

    pub(super) fn change_vdisk(
        &mut self,
        request: RequestId,
        nsid: u32,
        change: VdiskChange,
        out: &mut Vec<Action>,
    ) {
        match self.admit() {
            Ok(()) => self.changes.push_back(Change::Vdisk(request, nsid, change)),
            Err(error) => refuse(request, error, out),
        }
    }

    /// That a virtual disk goes is durable.
    pub(super) fn vdisk_leaves(&mut self, request: RequestId, nsid: u32, out: &mut Vec<Action>) {
        self.leaving.push(Leaving {
            nsid,
            request: Some(request),
            drained: false,
        });
        out.push(Action::VdiskRemoved { nsid });
    }

    pub(super) fn vdisk_drained(&mut self, nsid: u32) {
        // The record may say that it goes, and whoever was asked for that not lead the group any more.
        let is_recorded = |vdisk: &VdiskRecord| vdisk.nsid == nsid && vdisk.leaving;
        let is_known = self.leaving.iter().any(|leaving| leaving.nsid == nsid);
        if self.phase == Phase::Open && !is_known && self.record.vdisks.iter().any(is_recorded) {
            self.leaving.push(Leaving {
                nsid,
                request: None,
                drained: false,
            });
        }
        // After a failure or a stop the request was answered already, and nothing is deleted any more.
        let mut leaving = self.leaving.iter_mut();
        let Some(leaving) = leaving.find(|leaving| leaving.nsid == nsid && !leaving.drained) else {
            return;
        };
        leaving.drained = true;
        self.changes.push_back(Change::RemoveVdisk(leaving.request, nsid));
    }
}
