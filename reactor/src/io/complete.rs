//! Completions: from what the kernel says about an operation to what the program is told.

use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use super::Io;
use crate::operation::{CANCEL, Event, FileKind, FileOperation, Operation, RETRIES_MAX};
use crate::program::Errno;
use crate::ring::Completion;
use crate::slab::Key;

impl<M: Send + 'static> Io<M> {
    /// Handles one completion. A buffer that it carries is the caller's to recycle after the program has seen the event.
    pub(crate) fn complete(&mut self, completion: Completion) -> Option<Event> {
        let key = Key::from_bits(completion.user_data & !CANCEL);
        if completion.user_data & CANCEL != 0 {
            self.cancel_done(key, completion.result);
            return None;
        }
        match self
            .operations
            .get(key)
            .expect("an operation stays until its last completion")
        {
            Operation::Accept { .. } => self.accept_done(key, completion),
            Operation::Connect { .. } => self.connect_done(key, completion),
            Operation::Receive { socket } => {
                let socket = *socket;
                self.receive_done(key, socket, completion)
            }
            Operation::Send { socket, .. } => {
                let socket = *socket;
                self.send_done(key, socket, completion)
            }
            Operation::File(operation) => {
                let operation = *operation;
                self.file_done(key, operation, completion)
            }
            Operation::Doorbell { .. } => {
                self.operations.remove(key);
                self.counters.wakes += 1;
                self.arm_doorbell();
                None
            }
        }
    }

    /// An attempt to cancel came too late or too early (the kernel was just working on it): tried again while it is wanted.
    fn cancel_done(&mut self, key: Key, result: i32) {
        if result != -libc::EALREADY && result != -libc::ENOENT {
            return;
        }
        let wanted = match self.operations.get(key) {
            None | Some(Operation::File(_)) => false,
            Some(Operation::Receive { socket }) => {
                let descriptor = self
                    .descriptors
                    .get(*socket)
                    .expect("it stays while operations are in flight");
                let stream = descriptor.socket.as_ref().expect("it is a socket");
                self.draining || descriptor.closing.is_some() || !stream.wanted
            }
            Some(
                Operation::Accept { .. }
                | Operation::Connect { .. }
                | Operation::Send { .. }
                | Operation::Doorbell { .. },
            ) => true,
        };
        if wanted {
            self.cancel_operation(key);
        }
    }

    fn accept_done(&mut self, key: Key, completion: Completion) -> Option<Event> {
        let Some(Operation::Accept { token, cancelled, .. }) = self.operations.get(key) else {
            unreachable!("the caller has looked");
        };
        let (token, ends) = (*token, *cancelled || self.draining);
        let more = cqueue::more(completion.flags);
        let result = match errno_of(completion.result) {
            // SAFETY: the kernel made this descriptor for us and gives it once.
            None => Ok(unsafe { OwnedFd::from_raw_fd(completion.result) }),
            Some(errno) => Err(errno),
        };
        let passing = matches!(
            result,
            Err(Errno(libc::EINTR | libc::EAGAIN | libc::ECONNABORTED))
        );
        if !more && !ends && (result.is_ok() || passing) {
            self.submit_accept(key);
        } else if !more {
            self.operations.remove(key);
            if ends && result.is_ok() {
                self.deferred.push_back(Event::Accepted {
                    token,
                    result: Err(Errno::CANCELLED),
                });
            } else if ends && passing {
                return Some(Event::Accepted {
                    token,
                    result: Err(Errno::CANCELLED),
                });
            }
        }
        self.counters.accepts += u64::from(result.is_ok());
        (!passing).then_some(Event::Accepted { token, result })
    }

    fn connect_done(&mut self, key: Key, completion: Completion) -> Option<Event> {
        let Some(Operation::Connect { socket, token, .. }) = self.operations.remove(key) else {
            unreachable!("the caller has looked");
        };
        let result = errno_of(completion.result).map_or(Ok(socket), Err);
        Some(Event::Connected { token, result })
    }

    fn receive_done(&mut self, key: Key, socket: Key, completion: Completion) -> Option<Event> {
        let more = cqueue::more(completion.flags);
        let draining = self.draining;
        let descriptor = self
            .descriptors
            .get_mut(socket)
            .expect("it stays while operations are in flight");
        let closing = descriptor.closing.is_some();
        let stream = descriptor.socket.as_mut().expect("it is a socket");
        let (token, wanted) = (stream.receive_token, stream.wanted);
        if !more {
            stream.receiving = None;
            self.operations.remove(key);
            self.descriptor_done(socket);
        }
        if closing {
            return None;
        }
        let token = token?;
        let errno = errno_of(completion.result);
        let passing = matches!(
            errno,
            Some(Errno(
                libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN
            ))
        );
        self.counters.receive_starved += u64::from(errno == Some(Errno(libc::ENOBUFS)));
        if !more && wanted && (completion.result > 0 || passing) {
            if draining {
                self.deferred.push_back(Event::ReceiveEnded {
                    token,
                    errno: Some(Errno::CANCELLED),
                });
            } else {
                self.rearm.push_back(socket);
            }
        }
        if completion.result > 0 {
            let bytes = completion.result.unsigned_abs();
            self.counters.received_bytes += u64::from(bytes);
            let buffer =
                cqueue::buffer_select(completion.flags).expect("every receive is into a buffer of the group");
            return Some(Event::Data { token, buffer, bytes });
        }
        if passing {
            return None;
        }
        self.end_receive(socket);
        Some(Event::ReceiveEnded { token, errno })
    }

    fn send_done(&mut self, key: Key, socket: Key, completion: Completion) -> Option<Event> {
        let descriptor = self
            .descriptors
            .get(socket)
            .expect("it stays while operations are in flight");
        let ends = descriptor.closing.is_some() || self.draining;
        let result = match errno_of(completion.result) {
            None if completion.result == 0 => Err(Errno(libc::EPIPE)),
            Some(Errno(libc::EINTR | libc::EAGAIN)) if !ends => {
                self.submit_send(key);
                return None;
            }
            Some(errno) => Err(errno),
            None => {
                let bytes = u64::from(completion.result.unsigned_abs());
                self.counters.sent_bytes += bytes;
                let Some(Operation::Send { batch, .. }) = self.operations.get_mut(key) else {
                    unreachable!("the caller has looked");
                };
                if batch.advance(bytes) {
                    Ok(())
                } else if ends {
                    Err(Errno::CANCELLED)
                } else {
                    self.counters.sends_continued += 1;
                    self.submit_send(key);
                    return None;
                }
            }
        };
        Some(self.finish_send(key, socket, result))
    }

    fn finish_send(&mut self, key: Key, socket: Key, result: Result<(), Errno>) -> Event {
        let Some(Operation::Send { token, mut batch, .. }) = self.operations.remove(key) else {
            unreachable!("the caller has looked");
        };
        batch.arrive(&mut self.arena);
        self.counters.sends += 1;
        let descriptor = self
            .descriptors
            .get_mut(socket)
            .expect("it stays while operations are in flight");
        let stream = descriptor.socket.as_mut().expect("it is a socket");
        stream.sending = None;
        match result {
            Ok(()) => {
                if let Some((token, batch)) = stream.queue.pop_front() {
                    self.start_send(socket, token, batch);
                }
            }
            Err(errno) => self.fail_queue(socket, errno),
        }
        self.descriptor_done(socket);
        Event::Sent { token, batch, result }
    }

    fn file_done(&mut self, key: Key, mut operation: FileOperation, completion: Completion) -> Option<Event> {
        let length = match operation.kind {
            FileKind::Read(span) | FileKind::Write { span, .. } => span.bytes(),
            FileKind::Sync | FileKind::Zero { .. } => 0,
        };
        let result = match errno_of(completion.result) {
            Some(Errno(libc::EINTR | libc::EAGAIN)) if operation.retries < RETRIES_MAX => {
                operation.retries += 1;
                self.continue_file(key, operation);
                return None;
            }
            Some(errno) => Err(errno),
            None if length > 0 && completion.result == 0 => match operation.kind {
                FileKind::Read(_) => Err(Errno::FILE_ENDED),
                FileKind::Write { .. } | FileKind::Sync | FileKind::Zero { .. } => Err(Errno(libc::EIO)),
            },
            None => {
                operation.done += completion.result.unsigned_abs();
                if operation.done < length {
                    self.continue_file(key, operation);
                    return None;
                }
                Ok(length)
            }
        };
        self.operations.remove(key);
        if let Some((span, lending)) = operation.kind.lends() {
            self.arena.take_back(span, lending);
        }
        self.counters.file_operations += 1;
        match operation.kind {
            FileKind::Read(_) => self.counters.file_read_bytes += u64::from(operation.done),
            FileKind::Write { .. } => self.counters.file_written_bytes += u64::from(operation.done),
            FileKind::Sync | FileKind::Zero { .. } => {}
        }
        self.descriptor_done(operation.file);
        Some(Event::FileDone {
            token: operation.token,
            result,
        })
    }

    /// Submits the rest of a file operation; also while draining, so that no write is left half done.
    fn continue_file(&mut self, key: Key, operation: FileOperation) {
        let Some(Operation::File(place)) = self.operations.get_mut(key) else {
            unreachable!("the caller has looked");
        };
        *place = operation;
        self.submit_file(key, operation);
    }
}

/// The error in the result of a completion.
fn errno_of(result: i32) -> Option<Errno> {
    (result < 0).then(|| Errno(result.saturating_neg()))
}
