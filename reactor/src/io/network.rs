//! Sockets: accepting, connecting, receiving and sending.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use io_uring::{opcode, types};

use super::Io;
use crate::buffers::GROUP;
use crate::descriptor::{Descriptor, OperationId, Socket, SocketId};
use crate::operation::{Event, Operation};
use crate::program::{Errno, Token};
use crate::send::{Piece, SendBatch};
use crate::slab::Key;
use crate::socket::{self, Address};

impl<M: Send + 'static> Io<M> {
    /// Accepts connections on `listener`, each into `Program::accepted` with `token`, until an error or `cancel`.
    ///
    /// The listener is duplicated: the caller may close its own at any time.
    pub fn accept(&mut self, listener: BorrowedFd<'_>, token: Token) -> Option<OperationId> {
        let refuse = |io: &mut Self, errno| {
            io.deferred.push_back(Event::Accepted {
                token,
                result: Err(errno),
            })
        };
        let listener = match listener.try_clone_to_owned() {
            Ok(listener) => listener,
            Err(error) => {
                refuse(self, Errno::of(&error));
                return None;
            }
        };
        match self.begin(Operation::Accept {
            listener,
            token,
            cancelled: false,
        }) {
            Ok(key) => {
                self.submit_accept(key);
                Some(OperationId(key))
            }
            Err((_, errno)) => {
                refuse(self, errno);
                None
            }
        }
    }

    pub(super) fn submit_accept(&mut self, key: Key) {
        let Some(Operation::Accept { listener, .. }) = self.operations.get(key) else {
            unreachable!("the caller holds the key of an accept");
        };
        let fd = types::Fd(listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd)
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(key.to_bits());
        // SAFETY: the entry points to nothing, and the operation owns the listener until its last completion.
        unsafe { self.ring.push(entry) };
    }

    /// Connects to `address`; the socket comes to `Program::connected`. It waits as long as TCP does: set a timer.
    pub fn connect(&mut self, address: SocketAddr, token: Token) -> Option<OperationId> {
        let refuse = |io: &mut Self, errno| {
            io.deferred.push_back(Event::Connected {
                token,
                result: Err(errno),
            })
        };
        let socket = match socket::stream_socket(address) {
            Ok(socket) => socket,
            Err(error) => {
                refuse(self, Errno::of(&error));
                return None;
            }
        };
        match self.begin(Operation::Connect {
            socket,
            address: Box::new(Address::new(address)),
            token,
        }) {
            Ok(key) => {
                self.submit_connect(key);
                Some(OperationId(key))
            }
            Err((_, errno)) => {
                refuse(self, errno);
                None
            }
        }
    }

    pub(super) fn submit_connect(&mut self, key: Key) {
        let Some(Operation::Connect { socket, address, .. }) = self.operations.get(key) else {
            unreachable!("the caller holds the key of a connect");
        };
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::Connect::new(fd, address.start(), address.length())
            .build()
            .user_data(key.to_bits());
        // SAFETY: the operation owns the address, in a box, until its completion.
        unsafe { self.ring.push(entry) };
    }

    /// Ends an accept or a connect early, with `Errno::CANCELLED` unless its completion is on its way already.
    pub fn cancel(&mut self, operation: OperationId) {
        if let Some(found) = self.operations.get_mut(operation.0) {
            if let Operation::Accept { cancelled, .. } = found {
                *cancelled = true;
            }
            self.cancel_operation(operation.0);
        }
    }

    /// Takes a connected socket over, or gives it back when `Options::files_max` are held.
    ///
    /// It is made blocking, which a ring needs, and TCP_NODELAY is set.
    pub fn add_socket(&mut self, socket: OwnedFd) -> Result<SocketId, OwnedFd> {
        if socket::prepare(&socket).is_err() {
            return Err(socket);
        }
        self.add_descriptor(Descriptor::new(socket, Some(Socket::default())))
            .map(SocketId)
    }

    /// The descriptor of a socket, for asking it things: its addresses for example.
    pub fn socket_fd(&self, socket: SocketId) -> Option<BorrowedFd<'_>> {
        Some(self.open(socket.0)?.fd.as_fd())
    }

    /// Whether the other end has closed the connection, or it is broken, although what came before may not have been received yet. Asks the kernel; of a
    /// socket that is not held any more it is true.
    pub fn has_hung_up(&self, socket: SocketId) -> bool {
        self.socket_fd(socket).is_none_or(socket::has_hung_up)
    }

    /// Starts receiving: bytes come to `Program::received` with `token` until `Received::End` or `Received::Error`.
    pub fn receive(&mut self, socket: SocketId, token: Token) {
        let Some(stream) = self
            .open_mut(socket.0)
            .and_then(|descriptor| descriptor.socket.as_mut())
        else {
            self.deferred.push_back(Event::ReceiveEnded {
                token,
                errno: Some(Errno::STALE),
            });
            return;
        };
        stream.wanted = true;
        stream.receive_token = Some(token);
        self.arm_receive(socket.0);
    }

    /// Stops receiving for now; bytes that the kernel has handed out already still come. Does nothing if it is not on.
    pub fn pause_receive(&mut self, socket: SocketId) {
        let Some(stream) = self
            .open_mut(socket.0)
            .and_then(|descriptor| descriptor.socket.as_mut())
        else {
            return;
        };
        if !stream.wanted {
            return;
        }
        stream.wanted = false;
        if let Some(receiving) = stream.receiving {
            self.cancel_operation(receiving);
        }
    }

    /// Goes on receiving after `pause_receive`. Does nothing if `receive` was never called or the stream has ended.
    pub fn resume_receive(&mut self, socket: SocketId) {
        let Some(stream) = self
            .open_mut(socket.0)
            .and_then(|descriptor| descriptor.socket.as_mut())
        else {
            return;
        };
        if stream.receive_token.is_some() {
            stream.wanted = true;
            self.arm_receive(socket.0);
        }
    }

    /// Arms a receive unless one is in flight, or the one in flight is to be gone first.
    pub(crate) fn arm_receive(&mut self, key: Key) {
        let Some(stream) = self.open(key).and_then(|descriptor| descriptor.socket.as_ref()) else {
            return;
        };
        let Some(token) = stream.receive_token else { return };
        if !stream.wanted || stream.receiving.is_some() {
            return;
        }
        let operation = match self.begin(Operation::Receive { socket: key }) {
            Ok(operation) => operation,
            Err((_, errno)) => {
                self.end_receive(key);
                self.deferred.push_back(Event::ReceiveEnded {
                    token,
                    errno: Some(errno),
                });
                return;
            }
        };
        let multishot = self.multishot_receive;
        let descriptor = self.open_mut(key).expect("it was found above");
        descriptor.operations += 1;
        descriptor.socket.as_mut().expect("it is a socket").receiving = Some(operation);
        let target = descriptor.target(key);
        let entry = if multishot {
            opcode::RecvMulti::new(target.fd, GROUP)
                .build()
                .flags(target.flags)
        } else {
            let flags = target.flags | io_uring::squeue::Flags::BUFFER_SELECT;
            // Length zero: as much as the buffer that the kernel picks holds.
            opcode::Recv::new(target.fd, std::ptr::null_mut(), 0)
                .buf_group(GROUP)
                .build()
                .flags(flags)
        };
        // SAFETY: the buffers belong to the core until the ring is gone.
        unsafe { self.ring.push(entry.user_data(operation.to_bits())) };
    }

    /// The stream is over: `resume_receive` does nothing from here on.
    pub(super) fn end_receive(&mut self, key: Key) {
        let descriptor = self.descriptors.get_mut(key).expect("the caller has found it");
        let stream = descriptor.socket.as_mut().expect("it is a socket");
        stream.wanted = false;
        stream.receive_token = None;
    }

    /// Sends a batch that is not empty, after those before it; it comes back to `Program::sent` with `token`.
    ///
    /// After a batch failed all further ones fail: the stream may have a hole.
    pub fn send(&mut self, socket: SocketId, token: Token, batch: Box<SendBatch>) {
        let draining = self.draining;
        let Some(stream) = self
            .open_mut(socket.0)
            .and_then(|descriptor| descriptor.socket.as_mut())
        else {
            self.deferred.push_back(Event::Sent {
                token,
                batch,
                result: Err(Errno::STALE),
            });
            return;
        };
        let refused = stream.broken.or(draining.then_some(Errno::CANCELLED));
        if let Some(errno) = refused {
            self.deferred.push_back(Event::Sent {
                token,
                batch,
                result: Err(errno),
            });
            return;
        }
        assert!(!batch.is_empty(), "an empty batch would never complete");
        if stream.sending.is_some() {
            stream.queue.push_back((token, batch));
        } else {
            self.start_send(socket.0, token, batch);
        }
    }

    /// Submits the first part of a batch.
    pub(super) fn start_send(&mut self, key: Key, token: Token, mut batch: Box<SendBatch>) {
        batch.depart(&mut self.arena);
        match self.begin(Operation::Send {
            socket: key,
            token,
            batch,
        }) {
            Ok(operation) => {
                let descriptor = self.descriptors.get_mut(key).expect("the caller has found it");
                descriptor.operations += 1;
                descriptor.socket.as_mut().expect("it is a socket").sending = Some(operation);
                self.submit_send(operation);
            }
            Err((Operation::Send { mut batch, .. }, errno)) => {
                batch.arrive(&mut self.arena);
                self.deferred.push_back(Event::Sent {
                    token,
                    batch,
                    result: Err(errno),
                });
                self.fail_queue(key, errno);
            }
            Err(_) => unreachable!("what is given back is what was given"),
        }
    }

    /// Submits the next part of the batch that a send in flight owns.
    pub(super) fn submit_send(&mut self, operation: Key) {
        let Some(Operation::Send { socket, batch, .. }) = self.operations.get_mut(operation) else {
            unreachable!("the caller holds the key of a send");
        };
        let descriptor = self
            .descriptors
            .get(*socket)
            .expect("it stays while operations are in flight");
        let target = descriptor.target(*socket);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = match batch.piece(&self.arena) {
            Piece::Bytes { start, bytes } => opcode::Send::new(target.fd, start, bytes).flags(flags).build(),
            Piece::Gather(message) => {
                let flags = u32::try_from(flags).expect("flags of a message are positive");
                opcode::SendMsg::new(target.fd, message).flags(flags).build()
            }
        };
        // SAFETY: the operation owns the batch, in a box, until its completion; the spans are lent until then.
        unsafe {
            self.ring
                .push(entry.flags(target.flags).user_data(operation.to_bits()))
        };
    }

    /// Fails all batches that wait behind a send that failed.
    pub(super) fn fail_queue(&mut self, key: Key, errno: Errno) {
        let descriptor = self.descriptors.get_mut(key).expect("the caller has found it");
        let stream = descriptor.socket.as_mut().expect("it is a socket");
        stream.broken = Some(errno);
        for (token, batch) in stream.queue.drain(..) {
            self.deferred.push_back(Event::Sent {
                token,
                batch,
                result: Err(errno),
            });
        }
    }

    /// Tells the peer that nothing follows what was sent so far. Receiving goes on. Does nothing for stale names.
    ///
    /// Batches that are not sent yet fail: wait for `Program::sent` first.
    pub fn shutdown(&mut self, socket: SocketId) {
        if let Some(descriptor) = self.open(socket.0) {
            socket::shutdown(descriptor.fd.as_fd(), libc::SHUT_WR);
        }
    }

    /// Drops a connection: what is in flight on it ends, batches with an error; then `Program::closed` comes with `token`.
    ///
    /// Nothing is received from here on. Bytes that the kernel took are still delivered to the peer in the background.
    pub fn remove_socket(&mut self, socket: SocketId, token: Token) {
        let Some(descriptor) = self.open_mut(socket.0) else {
            self.deferred.push_back(Event::Closed { token });
            return;
        };
        descriptor.closing = Some(token);
        let stream = descriptor.socket.as_mut().expect("a SocketId names a socket");
        stream.wanted = false;
        let in_flight = [stream.receiving, stream.sending];
        socket::shutdown(descriptor.fd.as_fd(), libc::SHUT_RDWR);
        for operation in in_flight.into_iter().flatten() {
            self.cancel_operation(operation);
        }
        self.fail_queue(socket.0, Errno::CANCELLED);
        self.close_if_idle(socket.0);
    }
}
