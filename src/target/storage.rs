//! Opens the drives of a configuration before any core starts, and reads what they say about themselves.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use config::Backing;
use thiserror::Error;

use super::drives::{DriveSpec, Faults, Medium, MemoryDrive};
use super::fabric::FabricDrive;
use super::fabric::session::{SessionError, Sessions};
use crate::amf::RowIndex;
use crate::amf::group::{Candidate, IntentPage, ListPage};
use crate::amf::intent::IntentMap;
use crate::amf::lost::LostList;
use crate::amf::reserving::Table;
use crate::amf::superblock::RECORD_BYTES;
use crate::drive::DriveError;

const MIB: u64 = 1 << 20;
/// How long a locked drive is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How often a lock is tried meanwhile.
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Smallest logical block that drives have.
const FILE_BLOCK_BYTES: u32 = 512;
/// Alignment in memory that suffices for direct I/O everywhere.
const DIRECT_BLOCK_BYTES_MAX: usize = 4096;

/// Why a drive cannot be used.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The file or device could not be opened.
    #[error("drive \"{drive}\": {path} cannot be opened: {error}. {remedy}", path = path.display())]
    Open {
        /// Name in the configuration.
        drive: String,
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process has it.
    #[error("drive \"{drive}\": {path} is in use by another process. Stop that one first: two openers would destroy the data", path = path.display())]
    InUse {
        /// Name in the configuration.
        drive: String,
        /// Where it is.
        path: PathBuf,
    },
    /// Two names of one file.
    #[error(
        "drives \"{first}\" and \"{second}\" are the same file, device or namespace. Give each drive its own"
    )]
    Same {
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// Neither file nor block device.
    #[error("drive \"{drive}\": {path} is neither a regular file nor a block device. Name one of these", path = path.display())]
    Kind {
        /// Name in the configuration.
        drive: String,
        /// Where it is.
        path: PathBuf,
    },
    /// A memory drive that the system has no address space for.
    #[error("drive \"{drive}\": no memory for it: {error}. Make it smaller")]
    Memory {
        /// Name in the configuration.
        drive: String,
        /// What the system said.
        error: io::Error,
    },
    /// Its shelf is not there, or does not have it.
    #[error("drive \"{drive}\" is not there: {why}")]
    Absent {
        /// Name in the configuration.
        drive: String,
        /// Why.
        why: String,
    },
    /// Its shelf cannot give it to this node.
    #[error("drive \"{drive}\": {why}")]
    Shelf {
        /// Name in the configuration.
        drive: String,
        /// Why, and what to do.
        why: String,
    },
    /// Its metadata could not be read.
    #[error(
        "drive \"{drive}\": reading it failed: {error}. Check the drive; leave it out of the configuration to start without it"
    )]
    Read {
        /// Name in the configuration.
        drive: String,
        /// What the system said.
        error: io::Error,
    },
    /// The same of a drive of a shelf.
    #[error(
        "drive \"{drive}\": reading it failed: {error}. Look into the log of its shelf; leave it out of the configuration to start without it"
    )]
    ReadFabric {
        /// Name in the configuration.
        drive: String,
        /// What it said.
        error: DriveError,
    },
}

/// A drive that was opened, and what was noticed.
pub struct Opened {
    /// The drive.
    pub spec: DriveSpec,
    /// What it does differently than one would like, as sentences.
    pub notes: Vec<String>,
    /// Device and inode, or shelf and namespace, to find two names of one drive.
    identity: Option<(u64, u64)>,
}

impl Opened {
    /// The same drive of a shelf as it is reached now. Operators' faults stay with the one that cores know.
    pub fn reached_as(&self, drive: FabricDrive) -> Self {
        Self {
            spec: DriveSpec {
                name: self.spec.name.clone(),
                medium: Medium::Fabric(drive),
                bytes: self.spec.bytes,
                logical_block_bytes: self.spec.logical_block_bytes,
                fresh: self.spec.fresh,
                faults: Faults::default(),
            },
            notes: Vec::new(),
            identity: self.identity,
        }
    }
}

/// Opens one drive of the configuration; files that do not exist are made if their size is given.
pub fn open(drive: &config::Drive, sessions: &Sessions) -> Result<Opened, StorageError> {
    match &drive.backing {
        Backing::Memory(memory) => open_memory(&drive.name, memory),
        Backing::Path { path, size_mib } => open_path(&drive.name, path, *size_mib),
        Backing::Shelf(namespace) => open_fabric(&drive.name, namespace, sessions),
    }
}

/// Whether a drive could not be opened because it is not there, or answers nothing: it was pulled out, or has died.
pub fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(
            error.raw_os_error(),
            Some(libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM | libc::EIO)
        )
}

/// Refuses two names of one file.
pub fn check_distinct(drives: &[Opened]) -> Result<(), StorageError> {
    for (at, second) in drives.iter().enumerate() {
        let same = |first: &&Opened| first.identity.is_some() && first.identity == second.identity;
        if let Some(first) = drives[..at].iter().find(same) {
            let (first, second) = (first.spec.name.clone(), second.spec.name.clone());
            return Err(StorageError::Same { first, second });
        }
    }
    Ok(())
}

fn open_fabric(
    name: &str,
    namespace: &config::ShelfDrive,
    sessions: &Sessions,
) -> Result<Opened, StorageError> {
    let drive = name.to_owned();
    let fabric = match sessions.open(namespace) {
        Ok(fabric) => fabric,
        Err(SessionError::Absent(why)) => return Err(StorageError::Absent { drive, why }),
        Err(error @ (SessionError::Host(_) | SessionError::Unusable(_))) => {
            let why = error.to_string();
            return Err(StorageError::Shelf { drive, why });
        }
    };
    let identity = (
        u64::MAX - 1 - u64::from(fabric.shelf),
        fabric.namespace.nsid.into(),
    );
    Ok(Opened {
        spec: DriveSpec {
            name: drive,
            bytes: fabric.bytes(),
            logical_block_bytes: fabric.namespace.block_bytes,
            medium: Medium::Fabric(fabric),
            fresh: false,
            faults: Faults::default(),
        },
        notes: Vec::new(),
        identity: Some(identity),
    })
}

fn open_memory(name: &str, memory: &config::MemoryDrive) -> Result<Opened, StorageError> {
    let mut drive = MemoryDrive::new(memory.size_mib * MIB).map_err(|error| StorageError::Memory {
        drive: name.to_owned(),
        error,
    })?;
    drive.delay = u64::from(memory.delay_us) * 1000;
    drive.bandwidth = memory.bandwidth_mib_s.map_or(0, |mib| u64::from(mib.get()) * MIB);
    drive.error_every = memory.error_every.map_or(0, |every| u64::from(every.get()));
    Ok(Opened {
        spec: DriveSpec {
            name: name.to_owned(),
            medium: Medium::Memory(drive),
            bytes: memory.size_mib * MIB,
            logical_block_bytes: FILE_BLOCK_BYTES,
            fresh: true,
            faults: Faults::default(),
        },
        notes: Vec::new(),
        identity: None,
    })
}

fn open_path(name: &str, path: &Path, size_mib: Option<u64>) -> Result<Opened, StorageError> {
    let failed = |error: io::Error| StorageError::Open {
        drive: name.to_owned(),
        path: path.to_owned(),
        remedy: if error.kind() == io::ErrorKind::NotFound {
            "Give `size_mib` to have a file made, or correct the path"
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            "Run as a user who may read and write it"
        } else {
            "Check the path and the device"
        },
        error,
    };
    let mut notes = Vec::new();
    let exists = path.exists();
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(!exists && size_mib.is_some());
    let file = match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            notes.push(format!(
                "drive \"{name}\": its file system has no direct I/O; the page cache is used"
            ));
            options.open(path).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    lock(&file, name, path, failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mut fresh = false;
    if let Some(size_mib) = size_mib.filter(|_| metadata.is_file() && metadata.len() == 0) {
        file.set_len(size_mib * MIB).map_err(failed)?;
        fresh = true;
    }
    let is_block = metadata.file_type().is_block_device();
    if !metadata.is_file() && !is_block {
        return Err(StorageError::Kind {
            drive: name.to_owned(),
            path: path.to_owned(),
        });
    }
    let bytes = (&file).seek(SeekFrom::End(0)).map_err(failed)?;
    let logical_block_bytes = if is_block {
        device_block_bytes(&metadata)
    } else {
        direct_block_bytes(&file)
    };
    let identity = if is_block {
        (u64::MAX, metadata.rdev())
    } else {
        (metadata.dev(), metadata.ino())
    };
    Ok(Opened {
        spec: DriveSpec {
            name: name.to_owned(),
            medium: Medium::File {
                path: path.to_owned(),
                file,
                is_block,
            },
            bytes,
            logical_block_bytes,
            fresh,
            faults: Faults::default(),
        },
        notes,
        identity: Some(identity),
    })
}

/// Locks a drive for this process. A process that was killed keeps its locks until the kernel has taken its rings
/// apart, a fraction of a second later: so a lock is waited for a little.
fn lock(
    file: &File,
    name: &str,
    path: &Path,
    failed: impl Fn(io::Error) -> StorageError,
) -> Result<(), StorageError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => {
                return Err(StorageError::InUse {
                    drive: name.to_owned(),
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// Gives back the locks of drives of which nothing is under way any more. The kernel keeps the files of a ring open for a
/// while after its end, and would keep the locks as long.
pub fn release(drives: &[DriveSpec]) {
    for drive in drives {
        if let Medium::File { file, path, .. } = &drive.medium
            && let Err(error) = file.unlock()
        {
            tracing::warn!(drive = %drive.name, path = %path.display(), %error, "its lock is kept until this process ends");
        }
    }
}

/// Smallest unit of direct I/O on a file: that of the device below its file system, found by trying.
fn direct_block_bytes(file: &File) -> u32 {
    let mut memory = vec![0; 2 * DIRECT_BLOCK_BYTES_MAX];
    let aligned = memory.as_ptr().align_offset(DIRECT_BLOCK_BYTES_MAX);
    let smallest = FILE_BLOCK_BYTES as usize;
    match file.read_at(
        &mut memory[aligned..aligned + smallest],
        u64::from(FILE_BLOCK_BYTES),
    ) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => 4096,
        Ok(_) | Err(_) => FILE_BLOCK_BYTES,
    }
}

/// Logical block size of a block device.
///
/// Source: Linux kernel documentation, ABI/stable/sysfs-block, `queue/logical_block_size`.
fn device_block_bytes(metadata: &std::fs::Metadata) -> u32 {
    let device = metadata.rdev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let folder = format!("/sys/dev/block/{major}:{minor}");
    // A partition has no queue folder of its own: its disk is the folder above.
    [
        format!("{folder}/queue/logical_block_size"),
        format!("{folder}/../queue/logical_block_size"),
    ]
    .iter()
    .find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
    .unwrap_or(FILE_BLOCK_BYTES)
}

/// Reads `bytes` at `offset` of a drive, through the page cache: only before the cores start.
pub fn read_region(spec: &DriveSpec, offset: u64, bytes: usize) -> Result<Vec<u8>, StorageError> {
    let failed = |error: io::Error| StorageError::Read {
        drive: spec.name.clone(),
        error,
    };
    let mut region = vec![0; bytes];
    match &spec.medium {
        Medium::Memory(memory) => {
            memory.memory.read(
                usize::try_from(offset).expect("a memory drive fits the address space"),
                &mut region,
            );
        }
        Medium::File { path, .. } => {
            // A handle of its own without O_DIRECT: the region needs no alignment in memory.
            File::open(path)
                .and_then(|file| file.read_exact_at(&mut region, offset))
                .map_err(failed)?;
        }
        Medium::Fabric(fabric) => {
            region = fabric
                .read(offset, bytes)
                .map_err(|error| StorageError::ReadFabric {
                    drive: spec.name.clone(),
                    error,
                })?;
        }
    }
    Ok(region)
}

/// What lost members of a group have missed, as its other members say, with the rows that a replay has just brought up to date:
/// the journal that named them is dead from now on.
pub fn load_intent(candidate: &Candidate, replayed: &[RowIndex], drives: &[Opened]) -> Option<IntentMap> {
    let read = |copy: IntentPage| {
        let spec = &drives[usize::from(copy.drive)].spec;
        read_region(spec, copy.offset_bytes, RECORD_BYTES).ok()
    };
    let map = candidate.load_intent(read)?;
    if candidate.is_degraded() {
        replayed.iter().for_each(|row| map.mark(*row));
    }
    Some(map)
}

/// What no drive of a group gives back, as its current members say.
pub fn load_lost(candidate: &Candidate, drives: &[Opened]) -> LostList {
    candidate.load_lost(|copy: ListPage| {
        let spec = &drives[usize::from(copy.drive)].spec;
        read_region(spec, copy.offset_bytes, RECORD_BYTES).ok()
    })
}

/// Who has reserved the virtual disks of a group, as its current members say.
pub fn load_pages(candidate: &Candidate, drives: &[Opened]) -> Vec<Table> {
    candidate.load_pages(|drive, offset, bytes| {
        let spec = &drives[usize::from(drive)].spec;
        read_region(spec, offset, bytes).ok()
    })
}

/// 16 random bytes from the operating system, for identities.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_that_was_released_is_free_although_a_ring_still_holds_its_file() {
        let path = std::env::temp_dir().join(format!("braid-storage-{}.img", std::process::id()));
        let opened = open_path("d0", &path, Some(1)).unwrap();
        let Medium::File { file, .. } = &opened.spec.medium else {
            panic!("it is a file");
        };
        let on_ring = file.try_clone().unwrap();
        let again = open_path("d0", &path, None);
        assert!(matches!(again, Err(StorageError::InUse { .. })));
        release(&[opened.spec]);
        let again = open_path("d0", &path, None);
        drop(on_ring);
        std::fs::remove_file(&path).unwrap();
        again.unwrap();
    }
}
