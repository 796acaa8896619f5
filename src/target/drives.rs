//! Drives of a node bound to a core: files and block devices through the ring, memory drives by copying.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reactor::{Errno, FileId, Io, Nanos, SharedMemory, Span};

use super::array::drive_error;
use super::core::{Core, TokenKind, token};
use super::message::Message;
use crate::amf::engine::IoTag;
use crate::drive::DriveError;

/// A drive of the node, open and ready to be bound to cores.
pub struct DriveSpec {
    /// Name in the configuration.
    pub name: String,
    /// What it is made of.
    pub medium: Medium,
    /// Capacity in bytes.
    pub bytes: u64,
    /// Smallest unit that it reads and writes.
    pub logical_block_bytes: u32,
    /// Whether it was made just now and therefore holds only zeroes.
    pub fresh: bool,
}

/// What a drive is made of.
pub enum Medium {
    /// A file or block device. The handle stays open, and locked, as long as the node runs.
    File {
        /// Where it is.
        path: PathBuf,
        /// The open file.
        file: File,
        /// Whether it is a block device.
        is_block: bool,
    },
    /// Memory of this process, gone with it; for benches and tests.
    Memory(MemoryDrive),
}

/// A memory drive with its injected faults.
pub struct MemoryDrive {
    /// The bytes.
    pub memory: Arc<SharedMemory>,
    /// Time that each command takes, in ns.
    pub delay: Nanos,
    /// Bytes a second, shared by all cores; 0 is no limit.
    pub bandwidth: u64,
    /// Every how many-th command fails with a medium error; 0 is none.
    pub error_every: u64,
    /// Commands so far, over all cores.
    pub commands: AtomicU64,
    /// When the drive's bandwidth is free again.
    pub busy_until: AtomicU64,
}

/// How a core reaches a drive.
#[derive(Clone, Copy, Debug)]
pub enum DriveBinding {
    /// A file on this core's ring.
    File(FileId),
    /// A memory drive.
    Memory,
    /// The file could not be put on the ring.
    Lost,
}

/// Whether a drive command was answered at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer comes later.
    Pending,
    /// This is the answer.
    Done(Result<(), DriveError>),
}

/// Place of reads in a drive's counts.
const READS: usize = 0;
/// Place of writes in a drive's counts.
const WRITES: usize = 1;

/// A zeroing of a file that is under way, for what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Zeroing {
    file: FileId,
    at: u64,
    bytes: u32,
    fua: bool,
}

/// Answers of memory drives that are due later, by time.
#[derive(Default)]
pub struct DelayedIo {
    due: BinaryHeap<Reverse<DueIo>>,
    sequence: u64,
}

/// When an answer is due, its place among those due at the same time, group, `IoTag`, and whether it is a success.
type DueIo = (Nanos, u64, u16, u32, bool);

impl DelayedIo {
    /// Whether none is outstanding.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    fn push(&mut self, due: Nanos, group: u16, tag: IoTag, result: Result<(), DriveError>) {
        self.sequence += 1;
        self.due
            .push(Reverse((due, self.sequence, group, tag.0, result.is_ok())));
    }

    fn pop(&mut self, now: Nanos) -> Option<(u16, IoTag, Result<(), DriveError>)> {
        let &Reverse((due, _, group, tag, ok)) = self.due.peek()?;
        if due > now {
            return None;
        }
        self.due.pop();
        Some((
            group,
            IoTag(tag),
            if ok { Ok(()) } else { Err(DriveError::Media) },
        ))
    }
}

impl MemoryDrive {
    /// A drive of this many bytes, without injected faults.
    pub fn new(bytes: u64) -> std::io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        Ok(Self {
            memory: Arc::new(SharedMemory::map(bytes)?),
            delay: 0,
            bandwidth: 0,
            error_every: 0,
            commands: AtomicU64::new(0),
            busy_until: AtomicU64::new(0),
        })
    }

    /// Whether the next command is one that fails.
    fn fails(&self) -> bool {
        self.error_every > 0
            && (self.commands.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.error_every)
    }

    /// When a command of this many bytes that starts now is done; `None` if that is now.
    fn due(&self, bytes: u64) -> Option<Nanos> {
        if self.delay == 0 && self.bandwidth == 0 {
            return None;
        }
        let now = reactor::now();
        let mut start = now;
        if let Some(takes) = bytes.saturating_mul(1_000_000_000).checked_div(self.bandwidth) {
            let mut busy_until = self.busy_until.load(Ordering::Relaxed);
            loop {
                let done = busy_until.max(now) + takes;
                match self.busy_until.compare_exchange_weak(
                    busy_until,
                    done,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => break start = done,
                    Err(seen) => busy_until = seen,
                }
            }
        }
        Some(start + self.delay)
    }
}

impl Core {
    /// Puts every drive on this core's ring.
    pub(super) fn bind_drives(&mut self, io: &mut Io<Message>) {
        let specs = Arc::clone(&self.drive_specs);
        for spec in specs.iter() {
            let binding = match &spec.medium {
                Medium::Memory(_) => DriveBinding::Memory,
                Medium::File { file, path, .. } => match file.try_clone().map(OwnedFd::from).and_then(|fd| {
                    io.add_file(fd)
                        .map_err(|_| std::io::Error::from(std::io::ErrorKind::QuotaExceeded))
                }) {
                    Ok(id) => DriveBinding::File(id),
                    Err(error) => {
                        tracing::error!(drive = %spec.name, path = %path.display(), %error, "drive is lost: it could not be put on the ring");
                        DriveBinding::Lost
                    }
                },
            };
            self.drives.push(binding);
        }
    }

    /// Carries out a memory drive's command now, and says when its answer is due.
    fn memory_command(
        &mut self,
        drive: u16,
        group: u16,
        tag: IoTag,
        bytes: u64,
        act: impl FnOnce(&SharedMemory),
    ) -> Outcome {
        let Medium::Memory(memory) = &self.drive_specs[usize::from(drive)].medium else {
            unreachable!("a binding is made from its drive's medium")
        };
        let result = if memory.fails() {
            Err(DriveError::Media)
        } else {
            act(&memory.memory);
            Ok(())
        };
        match memory.due(bytes) {
            None => Outcome::Done(result),
            Some(due) => {
                self.delayed.push(due, group, tag, result);
                Outcome::Pending
            }
        }
    }

    pub(super) fn read_drive(
        &mut self,
        io: &mut Io<Message>,
        drive: Option<u16>,
        group: u16,
        tag: IoTag,
        span: Span,
        at: u64,
    ) -> Outcome {
        let Some((drive, binding)) = self.binding(drive) else {
            return Outcome::Done(Err(DriveError::Gone));
        };
        let binding = *binding;
        self.drive_counts[usize::from(drive)][READS] += 1;
        match binding {
            DriveBinding::File(file) => {
                io.read(file, drive_token(group, tag), span, at);
                Outcome::Pending
            }
            DriveBinding::Memory => {
                self.memory_command(drive, group, tag, u64::from(span.bytes()), |memory| {
                    memory.copy_to(place(at), io.arena_mut(), span);
                })
            }
            DriveBinding::Lost => Outcome::Done(Err(DriveError::Gone)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a drive command has this many parts")]
    pub(super) fn write_drive(
        &mut self,
        io: &mut Io<Message>,
        drive: Option<u16>,
        group: u16,
        tag: IoTag,
        span: Span,
        at: u64,
        fua: bool,
    ) -> Outcome {
        let Some((drive, binding)) = self.binding(drive) else {
            return Outcome::Done(Err(DriveError::Gone));
        };
        let binding = *binding;
        self.drive_counts[usize::from(drive)][WRITES] += 1;
        match binding {
            DriveBinding::File(file) => {
                io.write(file, drive_token(group, tag), span, at, fua);
                Outcome::Pending
            }
            DriveBinding::Memory => {
                self.memory_command(drive, group, tag, u64::from(span.bytes()), |memory| {
                    memory.copy_from(place(at), io.arena(), span);
                })
            }
            DriveBinding::Lost => Outcome::Done(Err(DriveError::Gone)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a drive command has this many parts")]
    pub(super) fn zero_drive(
        &mut self,
        io: &mut Io<Message>,
        drive: Option<u16>,
        group: u16,
        tag: IoTag,
        at: u64,
        bytes: u32,
        fua: bool,
    ) -> Outcome {
        let Some((drive, binding)) = self.binding(drive) else {
            return Outcome::Done(Err(DriveError::Gone));
        };
        match *binding {
            DriveBinding::File(file) => {
                self.zeroing
                    .insert((group, tag), Zeroing { file, at, bytes, fua });
                io.zero(file, zero_token(group, tag), at, u64::from(bytes));
                Outcome::Pending
            }
            // Zeroing moves no data over a drive's link: it takes the delay but no bandwidth.
            DriveBinding::Memory => self.memory_command(drive, group, tag, 0, |memory| {
                memory.zero(place(at), bytes as usize);
            }),
            DriveBinding::Lost => Outcome::Done(Err(DriveError::Gone)),
        }
    }

    /// A file answered a request to punch a hole.
    pub(super) fn zero_answered(&mut self, io: &mut Io<Message>, payload: u64, result: Result<(), Errno>) {
        let group = u16::try_from(payload >> 32).expect("the group is 16 bits");
        let tag = IoTag(u32::try_from(payload & 0xffff_ffff).expect("32 bits"));
        let zeroing = self
            .zeroing
            .remove(&(group, tag))
            .expect("its token was given with it");
        match result {
            Ok(()) if zeroing.fua => io.sync(zeroing.file, drive_token(group, tag)),
            Ok(()) => self.drive_answered(io, group, tag, Ok(())),
            // Its file system or device cannot: zeroes are written instead.
            Err(Errno(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) => {
                let zeroes = self.zeroes.expect("allocated at start").part(0, zeroing.bytes);
                io.write(
                    zeroing.file,
                    drive_token(group, tag),
                    zeroes,
                    zeroing.at,
                    zeroing.fua,
                );
            }
            Err(error) => self.drive_answered(io, group, tag, Err(drive_error(error))),
        }
    }

    pub(super) fn flush_drive(
        &mut self,
        io: &mut Io<Message>,
        drive: Option<u16>,
        group: u16,
        tag: IoTag,
    ) -> Outcome {
        let Some((drive, binding)) = self.binding(drive) else {
            return Outcome::Done(Err(DriveError::Gone));
        };
        match *binding {
            DriveBinding::File(file) => {
                io.sync(file, drive_token(group, tag));
                Outcome::Pending
            }
            DriveBinding::Memory => self.memory_command(drive, group, tag, 0, |_| ()),
            DriveBinding::Lost => Outcome::Done(Err(DriveError::Gone)),
        }
    }

    fn binding(&self, drive: Option<u16>) -> Option<(u16, &DriveBinding)> {
        let drive = drive?;
        self.drives
            .get(usize::from(drive))
            .map(|binding| (drive, binding))
    }

    /// Answers the commands of delayed memory drives that are due. True if there was one.
    pub(super) fn run_delayed(&mut self, io: &mut Io<Message>) -> bool {
        let mut any = false;
        while let Some((group, tag, result)) = self.delayed.pop(reactor::now()) {
            any = true;
            self.drive_answered(io, group, tag, result);
        }
        any
    }
}

/// Names an engine's drive command towards the reactor.
fn drive_token(group: u16, tag: IoTag) -> reactor::Token {
    token(TokenKind::Drive, u64::from(group) << 32 | u64::from(tag.0))
}

/// Names an engine's zeroing towards the reactor.
fn zero_token(group: u16, tag: IoTag) -> reactor::Token {
    token(TokenKind::Zero, u64::from(group) << 32 | u64::from(tag.0))
}

/// An offset into a memory drive.
fn place(at: u64) -> usize {
    usize::try_from(at).expect("a memory drive fits the address space")
}
