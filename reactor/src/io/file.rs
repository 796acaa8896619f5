//! Files and block devices: reading, writing, making durable and making zero.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use io_uring::{opcode, squeue, types};

use super::Io;
use crate::arena::{Arena, Span};
use crate::descriptor::{Descriptor, FileId};
use crate::operation::{Event, FileKind, FileOperation, Operation};
use crate::program::{Errno, Token};
use crate::slab::Key;

impl<M: Send + 'static> Io<M> {
    /// Takes a file or block device over, or gives it back when `Options::files_max` are held.
    ///
    /// Opened with O_DIRECT, it wants offsets, lengths and spans that are multiples of its block.
    pub fn add_file(&mut self, file: OwnedFd) -> Result<FileId, OwnedFd> {
        self.add_descriptor(Descriptor::new(file, None)).map(FileId)
    }

    /// The descriptor of a file, for asking it things: its size for example.
    pub fn file_fd(&self, file: FileId) -> Option<BorrowedFd<'_>> {
        Some(self.open(file.0)?.fd.as_fd())
    }

    /// Fills `span` from `offset` bytes into the file. The span belongs to the kernel until the completion.
    pub fn read(&mut self, file: FileId, token: Token, span: Span, offset: u64) {
        self.start_file(file, token, FileKind::Read(span), offset);
    }

    /// Writes `span` to `offset` bytes into the file; `durable`: done only when it would survive a loss of power.
    pub fn write(&mut self, file: FileId, token: Token, span: Span, offset: u64, durable: bool) {
        self.start_file(file, token, FileKind::Write { span, durable }, offset);
    }

    /// Makes durable all that was written before this was called and is done.
    pub fn sync(&mut self, file: FileId, token: Token) {
        self.start_file(file, token, FileKind::Sync, 0);
    }

    /// Makes `bytes` bytes from `offset` zero and gives their blocks back, without changing the file's size.
    ///
    /// `EOPNOTSUPP` means that this file or device cannot: write zeroes then.
    pub fn zero(&mut self, file: FileId, token: Token, offset: u64, bytes: u64) {
        self.start_file(file, token, FileKind::Zero { bytes }, offset);
    }

    /// Gives a file up that does not answer: asks the kernel to end what is in flight on it, and no longer waits for it when
    /// the reactor stops. What ends, ends with its completion as always; the rest keeps its memory.
    pub fn forsake_file(&mut self, file: FileId) {
        let Some(descriptor) = self.open_mut(file.0) else {
            return;
        };
        descriptor.forsaken = true;
        let on_file = |io: &Self, key: &Key| matches!(io.operations.get(*key), Some(Operation::File(operation)) if operation.file == file.0);
        let keys: Vec<Key> = self.operations.keys().filter(|key| on_file(self, key)).collect();
        for key in keys {
            self.cancel_operation(key);
        }
    }

    /// Operations in flight on files that were given up.
    pub(crate) fn forsaken_operations(&self) -> u32 {
        let forsaken = |key: &Key| match self.operations.get(*key) {
            Some(Operation::File(operation)) => {
                let file = self.descriptors.get(operation.file);
                file.expect("it stays while operations are in flight").forsaken
            }
            Some(
                Operation::Accept { .. }
                | Operation::Connect { .. }
                | Operation::Receive { .. }
                | Operation::Send { .. }
                | Operation::Doorbell { .. },
            )
            | None => false,
        };
        let count = self.operations.keys().filter(forsaken).count();
        u32::try_from(count).expect("operations are counted by 32 bits")
    }

    /// Closes a file when nothing of it is in flight; then `Program::closed` comes with `token`.
    pub fn remove_file(&mut self, file: FileId, token: Token) {
        let Some(descriptor) = self.open_mut(file.0) else {
            self.deferred.push_back(Event::Closed { token });
            return;
        };
        assert!(descriptor.socket.is_none(), "a FileId names a file");
        descriptor.closing = Some(token);
        self.close_if_idle(file.0);
    }

    fn start_file(&mut self, file: FileId, token: Token, kind: FileKind, offset: u64) {
        if self.open(file.0).is_none() {
            self.deferred.push_back(Event::FileDone {
                token,
                result: Err(Errno::STALE),
            });
            return;
        }
        let operation = FileOperation {
            file: file.0,
            token,
            kind,
            offset,
            done: 0,
            retries: 0,
        };
        match self.begin(Operation::File(operation)) {
            Ok(key) => {
                let descriptor = self.descriptors.get_mut(file.0).expect("it was found above");
                descriptor.operations += 1;
                descriptor.forsaken = false;
                if let Some((span, lending)) = kind.lends() {
                    self.arena.lend(span, lending);
                }
                self.submit_file(key, operation);
            }
            Err((_, errno)) => self.deferred.push_back(Event::FileDone {
                token,
                result: Err(errno),
            }),
        }
    }

    /// Submits what is left of a file operation.
    pub(super) fn submit_file(&mut self, key: Key, operation: FileOperation) {
        let descriptor = self
            .descriptors
            .get(operation.file)
            .expect("it stays while operations are in flight");
        let target = descriptor.target(operation.file);
        let fd = target.fd;
        let entry = match operation.kind {
            FileKind::Read(span) => self.read_entry(
                fd,
                span.part(operation.done, span.bytes() - operation.done),
                operation,
            ),
            FileKind::Write { span, durable } => {
                let rest = span.part(operation.done, span.bytes() - operation.done);
                self.write_entry(fd, rest, operation, if durable { libc::RWF_DSYNC } else { 0 })
            }
            FileKind::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            FileKind::Zero { bytes } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(fd, bytes)
                    .offset(operation.offset)
                    .mode(mode)
                    .build()
            }
        };
        // SAFETY: the span is lent to the kernel until the operation's last completion.
        unsafe { self.ring.push(entry.flags(target.flags).user_data(key.to_bits())) };
    }

    fn read_entry(&self, fd: types::Fd, rest: Span, operation: FileOperation) -> squeue::Entry {
        let to = self.arena.lent_address(rest).cast_mut();
        let offset = operation.offset + u64::from(operation.done);
        if self.registered_buffers {
            opcode::ReadFixed::new(fd, to, rest.bytes(), Arena::registration_of(rest))
                .offset(offset)
                .build()
        } else {
            opcode::Read::new(fd, to, rest.bytes()).offset(offset).build()
        }
    }

    fn write_entry(&self, fd: types::Fd, rest: Span, operation: FileOperation, flags: i32) -> squeue::Entry {
        let from = self.arena.lent_address(rest);
        let offset = operation.offset + u64::from(operation.done);
        if self.registered_buffers {
            let buffer = Arena::registration_of(rest);
            opcode::WriteFixed::new(fd, from, rest.bytes(), buffer)
                .offset(offset)
                .rw_flags(flags)
                .build()
        } else {
            opcode::Write::new(fd, from, rest.bytes())
                .offset(offset)
                .rw_flags(flags)
                .build()
        }
    }
}
