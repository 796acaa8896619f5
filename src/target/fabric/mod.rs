//! Drives of a node that are namespaces of a shelf, reached by the node's own initiator.
//!
//! | file | part |
//! |---|---|
//! | `session` | reads and writes them before the cores run, one command after the other |
//! | `line` | the association of a session, and what becomes of commands that it loses |
//! | `claim` | makes a drive this node's own, by a reservation and a fence |
//! | `paths` | whether each drive may be used at the moment: on core 0 |
//! | `transfer` | the commands of one core: cut to what the target takes, in order, once or again |
//! | `command` | a command as NVMe has it, and what a status means |
//! | `core` | binds a core's queues to its drives |
//!
//! Each core has one I/O queue to each shelf, core 0 its admin queue and the association. What follows is about drives that are one node's
//! alone; how those differ that the nodes of an array share is said at [`Tenure`]. Commands that a lost connection has left
//! unanswered are neither failed nor sent again before the drive is this node's once more: each association has a host identifier of its
//! own, and the next one registers and fences the last with Preempt and Abort. After that nothing of the old one can take effect any
//! more, and the same bytes are written again while their rows are still locked (PROTOCOL H30). A shelf that was started anew may have
//! lost what was not flushed: its drives count as lost members, which are rebuilt when they are brought back (H31).

mod claim;
mod command;
mod core;
mod line;
pub mod paths;
pub mod session;
mod transfer;

use std::sync::Arc;

use nvme::nqn::Nqn;
use nvme::reservation::{Command as Reservation, HostId, Key, Report};
use nvme::status::Status;
use uuid::Uuid;

use super::host::{HostIdOf, Namespace, Target};
use session::Session;

pub use claim::{Claim, Custody, Identity, Refusal, Rivals, Step, give_back};
pub use command::{answer_of, encode_ask, encode_instance, instance_of};
pub use core::{Fabric, FabricJob, FabricOrder, FabricReport};
pub use transfer::{Errand, Route, Wanted};

/// A drive that is a namespace of a shelf.
#[derive(Clone)]
pub struct FabricDrive {
    /// Which of the node's shelves.
    pub shelf: u16,
    /// What the namespace is.
    pub namespace: Namespace,
    /// Who the node is to it since it was taken; `None` if nodes share it, and membership decides who may write.
    pub identity: Option<Identity>,
    /// Reaches it before the cores run.
    pub session: Arc<Session>,
}

/// Who a process is to its shelves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// Its drives are its alone. Each association has a host identifier of its own; it takes the drives, and puts the last one out.
    Alone {
        /// Names this life of the process; drawn at its start.
        incarnation: [u8; 16],
    },
    /// Its drives are an array's, and membership has this life registered at them. All associations are this one host: nothing is claimed
    /// and nothing is given back. What a lost association has left behind is ended by Cross-Controller Reset before anything is sent again,
    /// because a fence of an earlier association would be a fence of the life.
    Shared(Life),
}

/// One life of a node in an array, as shelves know it: reservations and bars are kept by the host identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// The name of its slot.
    pub hostnqn: Nqn,
    /// Of this life alone.
    pub hostid: [u8; 16],
}

/// A shelf that the node is connected to.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// Its name in the configuration.
    pub name: String,
    /// Its subsystem, and who the node is there while its cores run.
    pub target: Target,
    /// Names the start of its process, if it has a page that does.
    pub instance: Option<[u8; 16]>,
}

/// What core 0 may ask of a drive beside the commands of engines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A reservation command on the drive's data.
    Reserve(Reservation),
    /// Read these bytes of the data or of the quorum area.
    Read {
        /// Where.
        area: Area,
        /// First byte, and how many: whole blocks, at most [`ASK_BYTES_MAX`].
        at: u64,
        /// How many.
        bytes: u32,
    },
    /// Write these bytes, forced to stable media.
    Write {
        /// Where.
        area: Area,
        /// First byte.
        at: u64,
        /// Whole blocks, at most [`ASK_BYTES_MAX`].
        data: Vec<u8>,
    },
}

/// Most bytes of an [`Ask`].
pub const ASK_BYTES_MAX: u32 = 64 << 10;

/// A part of a drive as a shelf exports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The reserved namespace.
    Data,
    /// The unreserved one beside it.
    Quorum,
}

impl Area {
    /// The namespace of a shelf's drive whose data this is.
    pub const fn nsid(self, data: u32) -> u32 {
        match self {
            Self::Data => data,
            Self::Quorum => data + 1,
        }
    }
}

/// How a drive answered core 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// These bytes were read.
    Data(Vec<u8>),
    /// To a report.
    Report(Report),
    /// Reservation conflict.
    Conflict,
    /// Command interrupted: the key is gone, but whether its commands are over is not known.
    Interrupted,
    /// It failed with this status; without one the association is torn down, and whether it took effect is not known.
    Failed(Option<Status>),
}

/// The host identifier of an association: the next one fences the last, so each has its own.
pub fn hostid_of(base: [u8; 16], attempt: u32) -> [u8; 16] {
    *Uuid::new_v5(
        &Uuid::from_bytes(base),
        format!("association {attempt}").as_bytes(),
    )
    .as_bytes()
}

/// Who a node is by this host identifier.
pub fn identity_of(hostid: [u8; 16]) -> Identity {
    let [a, b, c, d, e, f, g, h, ..] = *Uuid::new_v5(&Uuid::from_bytes(hostid), b"key").as_bytes();
    Identity {
        host: HostId(hostid),
        key: Key(u64::from_le_bytes([a | 1, b, c, d, e, f, g, h])), // Never 0.
    }
}

/// Who the node is to its shelves in this life: `incarnation` is drawn at the start.
pub fn base_of(incarnation: [u8; 16], phase: &str) -> [u8; 16] {
    *Uuid::new_v5(&Uuid::from_bytes(incarnation), phase.as_bytes()).as_bytes()
}

/// A shelf of the configuration as a target of this life of the node; `phase` tells associations apart that are to be different hosts.
fn target_of(shelf: &config::RemoteShelf, tenure: &Tenure, phase: &str, cores: u16) -> Target {
    let (first, others) = shelf.addresses.split_first().expect("a shelf has an address");
    let (hostnqn, hostid, each): (&Nqn, [u8; 16], Option<HostIdOf>) = match tenure {
        Tenure::Alone { incarnation } => (&shelf.host_nqn, base_of(*incarnation, phase), Some(hostid_of)),
        Tenure::Shared(life) => (&life.hostnqn, life.hostid, None),
    };
    Target {
        other_addresses: others.to_vec(),
        hostid_of: each,
        io_queues: cores,
        depth: DEPTH,
        header_digest: shelf.header_digest,
        data_digest: shelf.data_digest,
        kato_ms: KATO_MS,
        keep_alive: KEEP_ALIVE,
        drain: true,
        command_timeout: COMMAND_TIMEOUT,
        reconnect: RECONNECT,
        loss_timeout: None,
        ..Target::new(*first, shelf.nqn.clone(), hostnqn.clone(), hostid)
    }
}

/// Commands in flight of each core at a shelf; what our shelf grants by default.
const DEPTH: u16 = 127;
/// A shelf ends an association of which it has heard nothing for so long.
const KATO_MS: u32 = 10_000;
/// How often a shelf is asked whether it is there.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(1);
/// An association whose admin queue is silent for so long is torn down. With the time between two questions that is less than the default of
/// `hang_ms`, so that drives are reached by another way before they are given up.
const COMMAND_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);
/// Wait before the first attempt to reconnect; up to five seconds later.
const RECONNECT: std::time::Duration = std::time::Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_association_of_every_life_is_somebody_else() {
        let mut seen = std::collections::BTreeSet::new();
        for incarnation in [[1; 16], [2; 16]] {
            for phase in ["start", "run"] {
                for attempt in 0..100 {
                    let identity = identity_of(hostid_of(base_of(incarnation, phase), attempt));
                    assert!(identity.key != Key::NONE);
                    assert!(seen.insert(identity.host) && seen.len() < 1000);
                }
            }
        }
        assert_eq!(identity_of([7; 16]), identity_of([7; 16]));
    }
}
