//! What an operator sees of a shelf.

use nvme::reservation::admission::NOBODY;
use nvme::reservation::{HostName, Life};

use super::Control;
use crate::target::manage::{
    ClaimStatus, ManageError, RegistrantStatus, ShelfDriveStatus, ShelfNamespace, ShelfStatus,
};
use crate::target::shelf::is_data;

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Control {
    /// What the shelf exports, and who has reserved what.
    pub(super) fn shelf_status(&self) -> Result<ShelfStatus, ManageError> {
        if !self.is_shelf {
            return Err(ManageError::new(
                ManageError::INVALID,
                "this is a node, not a shelf",
                "`braid group list` shows its groups; name a shelf by --socket",
            ));
        }
        Ok(ShelfStatus {
            name: self.node.name.clone(),
            nqn: self.nqn.clone(),
            instance: hex(&self.instance),
            drives: self.groups.iter().map(|group| self.shelf_drive(group)).collect(),
        })
    }

    fn shelf_drive(&self, group: &super::groups::GroupControl) -> ShelfDriveStatus {
        let block = u64::from(group.shared.geometry.block().bytes());
        let namespace = |wants_data: bool| {
            let mut records = group.machine.vdisks().iter();
            let record = records.find(|record| is_data(record.nsid) == wants_data)?;
            Some(ShelfNamespace {
                nsid: record.nsid,
                uuid: record.uuid.to_string(),
                bytes: record.blocks * block,
            })
        };
        let data = namespace(true);
        let state = data
            .as_ref()
            .and_then(|data| self.subsystem.reservation(data.nsid));
        let state = state.cloned().unwrap_or_default();
        let registrant = |it: &nvme::reservation::Registrant| RegistrantStatus {
            host: it.host.to_string(),
            key: format!("{:#x}", it.key.0),
            holder: state.is_holder(it.host),
        };
        ShelfDriveStatus {
            drive: group.shared.name.clone(),
            failed: group.failed.clone(),
            quorum: namespace(false),
            data,
            reservation: state.reservation.map(|held| held.kind.text().to_owned()),
            persists: state.persists,
            generation: state.generation,
            registrants: state.registrants.iter().map(registrant).collect(),
            claims: state
                .admission
                .claims
                .iter()
                .map(|life| self.claim(*life))
                .collect(),
            barred: state.admission.barred.iter().map(ToString::to_string).collect(),
            key_epochs: state.floors.map(|floors| floors.0.to_vec()),
        }
    }

    fn claim(&self, life: Life) -> ClaimStatus {
        let mut hosts = self.subsystem.associations().map(|association| association.host);
        ClaimStatus {
            name: hosts
                .find(|host| HostName::of(host) == life.name)
                .map(ToString::to_string),
            digest: format!("{:032x}", life.name.0),
            host: (life.host != NOBODY).then(|| life.host.to_string()),
        }
    }
}
