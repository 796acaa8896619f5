//! Virtual disks that get larger or go.

use super::{Change, Group, refuse};
use crate::amf::group::{Action, RequestError, RequestId, VdiskSize};

/// A virtual disk on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) nsid: u32,
    pub(super) request: RequestId,
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
                    request,
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

    pub(super) fn vdisk_drained(&mut self, nsid: u32) {
        // After a failure or a stop the request was answered already, and nothing is deleted any more.
        let Some(leaving) = self.leaving.iter_mut().find(|leaving| leaving.nsid == nsid) else {
            return;
        };
        assert!(!leaving.drained, "a virtual disk drains once");
        leaving.drained = true;
        self.changes.push_back(Change::RemoveVdisk(leaving.request, nsid));
    }
}
