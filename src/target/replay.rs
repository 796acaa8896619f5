//! Replays a group's journal before any core starts: drives the pure machine with plain, blocking I/O.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use reactor::{Errno, SharedMemory};

use super::array::drive_error;
use super::drives::{DriveSpec, Medium};
use super::fabric::FabricDrive;
use super::restore::Machine;
use crate::amf::journal::replay::{Action, Event, ReplayError, Report};
use crate::drive::DriveError;
use crate::drive::block::{BlockSize, MemberLba};

/// Rows between two lines of progress in the log.
const PROGRESS_ROWS: u64 = 4096;

/// How a member is reached while there are no cores.
pub(super) enum Reach {
    /// A handle of its own without `O_DIRECT`: buffers need no alignment, and a flush makes the page cache durable.
    File(File),
    Memory(Arc<SharedMemory>),
    Fabric(FabricDrive),
    Missing(DriveError),
}

impl Reach {
    pub(super) fn open(spec: Option<&DriveSpec>) -> Self {
        match spec.map(|spec| &spec.medium) {
            None => Self::Missing(DriveError::Gone),
            Some(Medium::Memory(drive)) => Self::Memory(Arc::clone(&drive.memory)),
            Some(Medium::Fabric(drive)) => Self::Fabric(drive.clone()),
            Some(Medium::File { path, .. }) => match OpenOptions::new().read(true).write(true).open(path) {
                Ok(file) => Self::File(file),
                Err(error) => Self::Missing(error_of(&error)),
            },
        }
    }

    fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>, DriveError> {
        let mut data = vec![0; bytes];
        match self {
            Self::File(file) => file
                .read_exact_at(&mut data, at)
                .map_err(|error| error_of(&error))?,
            Self::Memory(memory) => memory.read(place(at), &mut data),
            Self::Fabric(drive) => return drive.read(at, bytes),
            Self::Missing(error) => return Err(*error),
        }
        Ok(data)
    }

    pub(super) fn write(&self, at: u64, data: &[u8], fua: bool) -> Result<(), DriveError> {
        match self {
            Self::File(file) => {
                let written = file.write_all_at(data, at);
                let durable = written.and_then(|()| if fua { file.sync_data() } else { Ok(()) });
                durable.map_err(|error| error_of(&error))
            }
            Self::Memory(memory) => {
                memory.write(place(at), data);
                Ok(())
            }
            Self::Fabric(drive) => drive.write(at, data, fua),
            Self::Missing(error) => Err(*error),
        }
    }

    fn flush(&self) -> Result<(), DriveError> {
        match self {
            Self::File(file) => file.sync_data().map_err(|error| error_of(&error)),
            Self::Memory(_) => Ok(()),
            Self::Fabric(drive) => drive.flush(),
            Self::Missing(error) => Err(*error),
        }
    }
}

/// Runs a replay, or another machine that asks like one, to its end. `members` are the drives of the group's members, `None` for one that is not there.
pub fn run(
    machine: &mut impl Machine,
    group: &str,
    block: BlockSize,
    members: &[Option<&DriveSpec>],
) -> Result<Report, ReplayError> {
    let members: Vec<Reach> = members.iter().map(|spec| Reach::open(*spec)).collect();
    let byte = |lba: MemberLba| lba.0 << block.shift();
    let mut actions = Vec::new();
    let mut logged = 0;
    machine.handle(Event::Start, &mut actions);
    loop {
        // Answered in the order in which it was asked; the machine takes any order.
        let mut events = Vec::new();
        for action in actions.drain(..) {
            match action {
                Action::Read {
                    io,
                    member,
                    lba,
                    blocks,
                } => {
                    let bytes = blocks as usize * block.bytes() as usize;
                    let result = members[usize::from(member.0)].read(byte(lba), bytes);
                    events.push(Event::ReadDone { io, result });
                }
                Action::Write {
                    io,
                    member,
                    lba,
                    data,
                    fua,
                } => {
                    let result = members[usize::from(member.0)].write(byte(lba), &data, fua);
                    events.push(Event::Written { io, result });
                }
                Action::Flush { io, member } => {
                    let result = members[usize::from(member.0)].flush();
                    events.push(Event::Flushed { io, result });
                }
                Action::Progress { done_rows, rows } => {
                    if done_rows >= logged + PROGRESS_ROWS {
                        logged = done_rows;
                        tracing::info!(group, done_rows, rows, "journal is being replayed");
                    }
                }
                Action::Done(report) => return Ok(report),
                Action::Failed(error) => return Err(error),
            }
        }
        assert!(!events.is_empty(), "a replay asks for something until it ends");
        for event in events {
            machine.handle(event, &mut actions);
        }
    }
}

fn error_of(error: &io::Error) -> DriveError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return DriveError::OutOfRange;
    }
    drive_error(Errno(error.raw_os_error().unwrap_or(0)))
}

/// An offset into a memory drive.
fn place(at: u64) -> usize {
    usize::try_from(at).expect("a memory drive fits the address space")
}
