//! A shelf: the process that is the only opener of its drives, and exports each of them raw to several nodes.
//!
//! A drive of a shelf is a RAID-0 group of one member, so that connections, commands and drives are those of a node. What is its own is
//! here: the shelf's header of a drive, which keeps the reservations of its data beyond a loss of power, and which namespace is which.
//!
//! The header is [`Record`], in two places of the head that superblocks leave unused. Both are written before the superblocks of a new
//! drive are, so that a drive with superblocks and without a header is none of a shelf, and a node finds the header of a shelf's drive and
//! leaves it alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use nvme::reservation::State;
use nvme::reservation::record::{self, RECORD_BYTES, Record, RecordError};

use super::control::{GroupPlan, GroupSource};
use super::drives::{DriveSpec, Medium};
use super::node::NodeError;
use super::storage::{self, Opened};
use crate::amf::group::{DriveFacts, MemberFinding};
use crate::amf::superblock::{Found, HEAD_BYTES, Uuid};

/// Where the two copies of the header are, in bytes from the start of the drive.
pub const PLACES: [u64; 2] = [64 << 10, 68 << 10];
const _: () = assert!(PLACES[0] + RECORD_BYTES as u64 <= PLACES[1]);
const _: () = assert!(PLACES[1] + RECORD_BYTES as u64 <= HEAD_BYTES);

/// What a drive's header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The drive's group, which the header belongs to.
    group: Uuid,
    /// Sequence number of its newest copy.
    sequence: u64,
    /// Reservations of its data as they were kept, until the namespace is there.
    pub restored: Option<State>,
}

impl Header {
    /// The next copy of the header, with these reservations, and where it goes.
    pub fn next(&mut self, state: State) -> (u64, Box<[u8; RECORD_BYTES]>) {
        self.sequence += 1;
        let record = Record {
            namespace: self.group.0,
            sequence: self.sequence,
            state,
        };
        (PLACES[record.place()], Box::new(record.encode()))
    }

    /// The next copy could not be written: what follows goes to its place again, because the other place may have the only good one.
    pub fn failed(&mut self) {
        self.sequence -= 1;
    }
}

/// Whether a namespace of a shelf is its drive's data. The quorum area of the same drive has the next number.
pub const fn is_data(nsid: u32) -> bool {
    nsid % 2 == 1
}

/// The two copies of a drive's header.
fn copies(spec: &DriveSpec) -> Result<[Box<[u8; RECORD_BYTES]>; 2], NodeError> {
    let read = |at| -> Result<Box<[u8; RECORD_BYTES]>, NodeError> {
        let bytes = storage::read_region(spec, at, RECORD_BYTES)?;
        Ok(Box::new(
            bytes.try_into().expect("as many bytes as were asked for"),
        ))
    };
    Ok([read(PLACES[0])?, read(PLACES[1])?])
}

fn unreadable(drive: &str, error: RecordError) -> NodeError {
    NodeError::Groups(format!(
        "drive \"{drive}\": {error}. Who may write to it is not known, so it is not exported; take it out of the configuration, or overwrite its first MiB to make it anew"
    ))
}

/// Refuses drives of a shelf to a node, because the nodes that share them would not see what it writes, and drives of a node to a shelf.
/// Nothing has been written to them yet.
pub fn check_drives(is_shelf: bool, drives: &[Opened], facts: &[DriveFacts]) -> Result<(), NodeError> {
    for (Opened { spec, .. }, facts) in drives.iter().zip(facts) {
        // A drive that cannot be read is nobody's, and is reported where its superblocks are looked for.
        let Ok([first, second]) = copies(spec) else {
            continue;
        };
        let has_header = [first, second].into_iter().any(|copy| Record::is_marked(&copy));
        let has_group = matches!(facts.existing, Found::Braid(_) | Found::Mixed { .. });
        if !is_shelf && has_header && has_group {
            return Err(NodeError::Groups(format!(
                "drive \"{}\" belongs to a shelf, and other nodes may be using it. Start it with `braid shelf`, or overwrite its first MiB to take it away from there",
                spec.name
            )));
        }
        if is_shelf && has_group && !has_header {
            return Err(NodeError::Groups(format!(
                "drive \"{}\" belongs to a group of a node, not to a shelf. Take it out of the configuration; `braid node` serves it",
                spec.name
            )));
        }
    }
    Ok(())
}

/// Reads the headers of a shelf's drives, makes those of new ones, and gives each to its group.
pub fn read_headers(groups: &mut [GroupPlan], drives: &[Opened]) -> Result<(), NodeError> {
    let mut nsids = BTreeMap::new();
    for plan in groups {
        let name = plan.name().to_string();
        let (group, drive) = match &plan.source {
            GroupSource::Found(candidate) => {
                for vdisk in &candidate.record().vdisks {
                    if let Some(other) = nsids.insert(vdisk.nsid, name.clone()) {
                        return Err(same_nsid(&name, &other));
                    }
                }
                let mut drives = candidate.members.iter().map(MemberFinding::drive_index);
                (candidate.record().group, drives.find_map(|drive| drive))
            }
            GroupSource::New(creation) => {
                let named = (0..).zip(drives).find(|(_, drive)| drive.spec.name == name);
                (creation.record().group, named.map(|(index, _)| index))
            }
        };
        let drive = drive.expect("a group that is started has a member, and a new one is named after it");
        let spec = &drives[usize::from(drive)].spec;
        plan.header = Some(match &plan.source {
            GroupSource::Found(_) => read_header(spec, group)?,
            GroupSource::New(_) => make_header(spec, group)?,
        });
    }
    Ok(())
}

fn same_nsid(drive: &str, other: &str) -> NodeError {
    NodeError::Groups(format!(
        "drives \"{drive}\" and \"{other}\" have the same namespace numbers: they were made by two shelves. Leave one of them with the shelf that made it"
    ))
}

fn read_header(spec: &DriveSpec, group: Uuid) -> Result<Header, NodeError> {
    let [first, second] = copies(spec)?;
    let found = record::newest([&first, &second], group.0).map_err(|error| unreadable(&spec.name, error))?;
    let record = found.ok_or_else(|| {
        NodeError::Groups(format!(
            "drive \"{}\" has the header of another drive of a shelf: it is a copy of one. Take it out of the configuration, or overwrite its first MiB to make it anew",
            spec.name
        ))
    })?;
    Ok(Header {
        group,
        sequence: record.sequence,
        restored: Some(record.state),
    })
}

/// Writes both copies of a new drive's header.
fn make_header(spec: &DriveSpec, group: Uuid) -> Result<Header, NodeError> {
    let mut header = Header {
        group,
        sequence: 0,
        restored: None,
    };
    for _ in PLACES {
        let (at, record) = header.next(State::default());
        write(spec, at, &record[..]).map_err(|error| {
            NodeError::Groups(format!(
                "drive \"{}\" cannot be made one of the shelf: {error}",
                spec.name
            ))
        })?;
    }
    Ok(header)
}

fn write(spec: &DriveSpec, at: u64, bytes: &[u8]) -> std::io::Result<()> {
    match &spec.medium {
        Medium::Memory(memory) => {
            let at = usize::try_from(at).expect("a memory drive fits the address space");
            memory.memory.write(at, bytes);
            Ok(())
        }
        Medium::File { path, .. } => {
            // A handle of its own without O_DIRECT: the bytes need no alignment in memory.
            let file = File::options().write(true).open(path)?;
            file.write_all_at(bytes, at)?;
            file.sync_data()
        }
        Medium::Fabric(_) => unreachable!("the configuration gives a shelf no drives of others"),
    }
}
