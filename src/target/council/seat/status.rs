//! What people are told of a life and its array.

use reactor::Nanos;

use super::Seat;
use crate::icl::membership::DriveSet;
use crate::icl::membership::choice::Blocked;
use crate::icl::membership::status::{Stage, Status};
use crate::icl::{DriveIndex, Incarnation, Slot};
use crate::target::council::drives::State;
use crate::target::manage::{ArrayDriveStatus, ArrayPeerStatus, ArrayStatus};

/// The stage of a member of an epoch that is not open yet, in [`ArrayStatus::stage`].
pub const SETTLING: &str = "settling";
/// The stage of a member that has brought everything to its place, and waits until others go on without it.
pub const LEAVING: &str = "leaving";

impl Seat {
    /// How things are.
    pub(super) fn status(&self, now: Nanos) -> ArrayStatus {
        let machine = self.machine.as_ref().map(|machine| machine.status(now));
        let machine = machine.as_ref();
        let refusals = self.port.refusals();
        let members = machine.map_or(&[][..], |it| &it.members);
        let silent = machine.map(|it| it.silent.iter()).into_iter().flatten();
        ArrayStatus {
            array: self.setup.name.clone(),
            uuid: uuid::Uuid::from_bytes(self.setup.array().0).to_string(),
            slot: self.setup.slot.number(),
            incarnation: hex(self.incarnation),
            stage: machine.map_or("blank", |it| stage_text(it.stage)).to_owned(),
            encryption: self.setup.encryption.name().to_owned(),
            epoch: machine.map_or(0, |it| it.epoch.0),
            members: members
                .iter()
                .map(|member| (member.slot.number(), hex(member.incarnation)))
                .collect(),
            silent: silent.map(Slot::number).collect(),
            serves: self.machine.as_ref().is_some_and(|it| it.may_complete(now)),
            lease_left_ms: machine.map_or(0, |it| it.lease_left_ns / 1_000_000),
            blocked: machine.and_then(|it| {
                let blocked = it.blocked.map(blocked_text);
                blocked.or_else(|| self.outside_text(it))
            }),
            drives: self.drive_statuses(machine),
            peers: self.peer_statuses(),
            refused_connections: refusals.count,
            last_refusal: refusals.last.map(|why| why.to_string()),
            ..ArrayStatus::default()
        }
    }

    /// Why a newcomer is not let in: it lacks drives that the members use.
    fn outside_text(&self, machine: &Status) -> Option<String> {
        let missing = machine.drives.minus(machine.reach).count();
        if machine.stage != Stage::Outside || missing == 0 {
            return None;
        }
        let drives = self.setup.drives.iter().zip(self.drives.iter());
        let unreached = drives.filter(|(_, drive)| !matches!(drive.state, State::Member(_)));
        let mut named: Vec<String> = unreached
            .map(|(spec, drive)| format!("drive \"{}\": {}", spec.name, state_text(&drive.state)))
            .collect();
        if usize::try_from(missing).is_ok_and(|missing| missing > named.len()) {
            named.push("the configuration of this node does not have all drives of the array".to_owned());
        }
        Some(format!(
            "this node is not let in, because every member has to reach all drives in use, and it does not reach {missing} of them; {}. It is let in when it does",
            named.join("; ")
        ))
    }

    fn drive_statuses(&self, machine: Option<&Status>) -> Vec<ArrayDriveStatus> {
        let voters = self.drives.array().map_or(DriveSet::EMPTY, |(_, voters)| voters);
        let in_use = machine.map_or(DriveSet::EMPTY, |it| it.drives);
        let drives = self.setup.drives.iter().zip(self.drives.iter());
        drives
            .map(|(spec, drive)| {
                let place = match drive.state {
                    State::Member(index) => Some(index),
                    State::Away | State::Draining | State::Reading | State::Blank | State::Unfit(_) => None,
                };
                ArrayDriveStatus {
                    name: spec.name.clone(),
                    shelf: self.setup.shelves[usize::from(spec.shelf)].name.clone(),
                    place: place.map(DriveIndex::number),
                    votes: place.is_some_and(|place| voters.contains(place)),
                    in_use: place.is_some_and(|place| in_use.contains(place)),
                    state: state_text(&drive.state),
                    admission: None,
                }
            })
            .collect()
    }

    fn peer_statuses(&self) -> Vec<ArrayPeerStatus> {
        let peers = self.setup.peers.iter();
        peers
            .map(|peer| ArrayPeerStatus {
                slot: peer.slot.number(),
                addresses: peer.addresses.iter().map(ToString::to_string).collect(),
                incarnation: self
                    .port
                    .announces_to(peer.slot)
                    .map(|node| hex(node.incarnation)),
                paths_up: self.port.announcement_paths(peer.slot),
            })
            .collect()
    }
}

fn hex(incarnation: Incarnation) -> String {
    format!("{:016x}", incarnation.0)
}

fn blocked_text(blocked: Blocked) -> String {
    let (what, missing) = match blocked {
        Blocked::Voters(missing) => ("no majority of the drives that vote is reached", missing),
        Blocked::Drives(missing) => ("drives without which there is no data are missing", missing),
    };
    let missing: Vec<String> = missing.iter().map(|drive| drive.to_string()).collect();
    format!("{what}: {}", missing.join(", "))
}

const fn stage_text(stage: Stage) -> &'static str {
    match stage {
        Stage::Reading => "reading",
        Stage::Blank => "blank",
        Stage::Outside => "outside",
        Stage::Settling => SETTLING,
        Stage::Open => "open",
        Stage::Leaving => LEAVING,
        Stage::Halted => "halted",
    }
}

/// How far a drive is, as a sentence.
pub(super) fn state_text(state: &State) -> String {
    match state {
        State::Away => "its shelf is not connected".to_owned(),
        State::Draining => "what a lost connection has left behind is being waited for".to_owned(),
        State::Reading => "its label is being read".to_owned(),
        State::Blank => "blank".to_owned(),
        State::Member(_) => "reached".to_owned(),
        State::Unfit(unfit) => unfit.to_string(),
    }
}
