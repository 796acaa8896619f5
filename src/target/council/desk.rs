//! What the machine asks of drives, as NVMe commands, and what the answers mean.

use nvme::command::{SubmissionEntry, admin_opcode};
use nvme::feature::fid;
use nvme::reservation::{Report, admission};
use nvme::status::Status;

use super::Setup;
use crate::icl::membership::label::LABEL_BLOCK;
use crate::icl::membership::machine::{Answer, Command};
use crate::icl::membership::record::codec::{parse_heartbeats, parse_quorum};
use crate::icl::membership::record::{QUORUM_BLOCKS, RECORD_BYTES};
use crate::icl::{Incarnation, SLOTS};
use crate::target::host::{Job, JobError, Namespace, Outcome};

/// Where the heartbeats are in the data of a drive, in bytes: in a part of its head that superblocks leave free. They have to lie
/// under the reservation, because it is its conflict on them that ends the lease of a fenced node.
pub const HEARTBEATS_AT: u64 = 128 << 10;

/// A command for a shelf.
pub struct Encoded {
    /// Goes to the admin queue.
    pub is_admin: bool,
    /// The command.
    pub entry: SubmissionEntry,
    /// What it brings.
    pub data: Vec<u8>,
    /// What it wants, in bytes.
    pub read_bytes: u32,
}

impl Encoded {
    fn new(entry: SubmissionEntry, data: Vec<u8>, read_bytes: u32) -> Self {
        Self {
            is_admin: false,
            entry,
            data,
            read_bytes,
        }
    }
}

/// The namespace of the quorum area of a drive whose data this is.
pub const fn quorum_of(data: u32) -> u32 {
    data + 1
}

fn read(nsid: u32, block: u64, blocks: usize, block_bytes: u32) -> Encoded {
    let blocks = u32::try_from(blocks).expect("a few dozen");
    let job = Job::read(nsid, block, blocks, block_bytes, 0);
    Encoded::new(job.entry, Vec::new(), blocks * block_bytes)
}

fn write(nsid: u32, block: u64, record: &[u8; RECORD_BYTES], block_bytes: u32) -> Encoded {
    let job = Job::write(nsid, block, 1, block_bytes, 0).with_fua();
    let mut data = record.to_vec();
    data.resize(block_bytes as usize, 0);
    Encoded::new(job.entry, data, 0)
}

/// Reads the label of a drive.
pub fn read_label(namespace: &Namespace) -> Encoded {
    let block = LABEL_BLOCK as u64;
    read(quorum_of(namespace.nsid), block, 1, namespace.block_bytes)
}

/// Reads the records of a drive's quorum area.
pub fn read_quorum(namespace: &Namespace) -> Encoded {
    let quorum = quorum_of(namespace.nsid);
    read(quorum, 0, QUORUM_BLOCKS, namespace.block_bytes)
}

/// Writes the label of a drive.
pub fn write_label(namespace: &Namespace, label: &[u8; RECORD_BYTES]) -> Encoded {
    let block = LABEL_BLOCK as u64;
    write(quorum_of(namespace.nsid), block, label, namespace.block_bytes)
}

/// Has a drive hold the keys of its registrants to epochs, or not any more.
pub fn hold_keys(namespace: &Namespace, on: bool) -> Encoded {
    let mut entry = SubmissionEntry::new(admin_opcode::SET_FEATURES, 0);
    entry.set_nsid(namespace.nsid);
    entry.set_dword(10, u32::from(fid::KEY_EPOCHS));
    entry.set_dword(11, u32::from(on));
    Encoded {
        is_admin: true,
        ..Encoded::new(entry, Vec::new(), 0)
    }
}

fn heartbeats_block(block_bytes: u32) -> u64 {
    HEARTBEATS_AT / u64::from(block_bytes)
}

/// A command of the machine of this life for a drive.
pub fn encode(setup: &Setup, incarnation: Incarnation, namespace: &Namespace, command: &Command) -> Encoded {
    let Namespace {
        nsid, block_bytes, ..
    } = *namespace;
    let quorum = quorum_of(nsid);
    match command {
        Command::Expel => {
            let own = nvme::reservation::HostId(setup.host_id(setup.slot, incarnation));
            let (entry, data) = admission::expel(0, quorum, own);
            Encoded {
                is_admin: true,
                ..Encoded::new(entry, data, 0)
            }
        }
        Command::Kill(slot, life) => {
            let victim = nvme::reservation::HostId(setup.host_id(*slot, *life));
            let (entry, data) = admission::kill(0, nsid, victim);
            Encoded {
                is_admin: true,
                ..Encoded::new(entry, data, 0)
            }
        }
        Command::ReadQuorum => read_quorum(namespace),
        Command::ReadHeartbeats => read(nsid, heartbeats_block(block_bytes), SLOTS, block_bytes),
        Command::WritePaxos(_) | Command::WriteDecided(_) | Command::WriteCertificate(_) => {
            let (block, record) = record_of(setup, command);
            write(quorum, block as u64, &record, block_bytes)
        }
        Command::WriteHeartbeat(_) => {
            let (block, record) = record_of(setup, command);
            let block = heartbeats_block(block_bytes) + (block - QUORUM_BLOCKS) as u64;
            write(nsid, block, &record, block_bytes)
        }
        Command::Reserve(command) => {
            let (entry, data) = command.encode(0, nsid);
            let read_bytes = if let nvme::reservation::Command::Report { length_bytes, .. } = command {
                u32::try_from(*length_bytes).expect("as many registrants as there may be")
            } else {
                0
            };
            Encoded::new(entry, data, read_bytes)
        }
    }
}

fn record_of(setup: &Setup, command: &Command) -> (usize, [u8; RECORD_BYTES]) {
    command
        .write(setup.array(), setup.slot)
        .expect("it is one of those that write")
}

/// What the end of a command tells the machine; `data` is what it has read.
pub fn answer(setup: &Setup, block_bytes: u32, command: &Command, outcome: &Outcome, data: &[u8]) -> Answer {
    match *outcome {
        Err(JobError::Lost | JobError::NotSent | JobError::TooLarge | JobError::NoMemory) => {
            return Answer::Failed;
        }
        Ok(answer) if answer.status.is_success() => {}
        Ok(answer) => return refusal(answer.status),
    }
    let (array, block_bytes) = (setup.array(), block_bytes as usize);
    match command {
        Command::ReadQuorum => parse_quorum(array, block_bytes, data).map_or(Answer::Failed, Answer::Quorum),
        Command::ReadHeartbeats => Answer::Heartbeats(parse_heartbeats(array, block_bytes, data)),
        Command::Reserve(nvme::reservation::Command::Report { extended, .. }) => {
            Report::parse(data, *extended).map_or(Answer::Failed, Answer::Report)
        }
        Command::Expel
        | Command::Kill(..)
        | Command::WritePaxos(_)
        | Command::WriteDecided(_)
        | Command::WriteCertificate(_)
        | Command::WriteHeartbeat(_)
        | Command::Reserve(_) => Answer::Done,
    }
}

fn refusal(status: Status) -> Answer {
    if status.same_code(Status::RESERVATION_CONFLICT) {
        Answer::Conflict
    } else if status.same_code(Status::COMMAND_INTERRUPTED) {
        Answer::Interrupted
    } else {
        Answer::Failed
    }
}
