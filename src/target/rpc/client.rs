//! The client end of the socket: one call at a time, with a time-out and a sentence for everything that can go wrong.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use thiserror::Error;

use super::connection::write_within;
use super::frame::Framer;
use super::message::RpcError;
use super::method::params;
use crate::target::manage::{Reply, Request};

/// Longest answer in bytes: a thousand drives with all their fields are a hundredth of it.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long connecting may take: the kernel does it at once unless the node has stopped accepting.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Why a call has no result.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("no node is running on {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to another user.
    #[error("no permission to use {}", path.display())]
    NoPermission {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be used for another reason.
    #[error("the node on {} cannot be reached: {error}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// The node does not answer.
    #[error("the node on {} did not answer within {} s", path.display(), wait.as_secs_f32())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long it was given.
        wait: Duration,
    },
    /// The node closed the connection before its answer.
    #[error("the node on {} went away before it answered", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// What came back is no answer.
    #[error("{} gave an answer that makes no sense: {what}", path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The node refused the call.
    #[error(transparent)]
    Refused(#[from] RpcError),
}

impl ClientError {
    /// What to do about it; empty if there is nothing.
    pub fn remedy(&self) -> &str {
        match self {
            Self::NotRunning { .. } => {
                "start it with `braid node --config FILE`, or name its socket with --socket"
            }
            Self::NoPermission { .. } => "run this as the user who runs the node",
            Self::Unreachable { .. } => "name the node's socket with --socket",
            Self::TimedOut { .. } => "see in the node's log what it is doing",
            Self::Closed { .. } => "see in the node's log why it stopped",
            Self::Garbled { .. } => {
                "use the same version of braid as the node, or name its socket with --socket"
            }
            Self::Refused(error) => &error.remedy,
        }
    }

    /// Whether the node could not be reached at all, as opposed to refusing.
    pub fn is_unreachable(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// A connection to a node.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    wait: Duration,
    id: u64,
    framer: Framer,
}

impl Client {
    /// Connects to the node on this socket. `wait` bounds each call; connecting takes at most 5 seconds of it.
    pub fn connect(path: &Path, wait: Duration) -> Result<Self, ClientError> {
        let (sender, receiver) = mpsc::channel();
        let socket = path.to_owned();
        // Connecting blocks without bound when the node accepts nothing (stopped in a debugger): a thread can be left.
        let connect = move || sender.send(UnixStream::connect(socket));
        let unreachable = |error| ClientError::Unreachable {
            path: path.to_owned(),
            error,
        };
        thread::Builder::new()
            .name("connect".to_owned())
            .spawn(connect)
            .map_err(unreachable)?;
        let path = path.to_owned();
        let connect_wait = wait.min(CONNECT_WAIT);
        match receiver.recv_timeout(connect_wait) {
            Ok(Ok(stream)) => Ok(Self {
                stream,
                path,
                wait,
                id: 0,
                framer: Framer::with_limit(ANSWER_BYTES_MAX),
            }),
            Ok(Err(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Err(ClientError::NotRunning { path })
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(ClientError::NoPermission { path })
            }
            Ok(Err(error)) => Err(ClientError::Unreachable { path, error }),
            Err(_) => Err(ClientError::TimedOut {
                path,
                wait: connect_wait,
            }),
        }
    }

    /// Carries out one request and gives its result as the node sent it.
    pub fn call_raw(&mut self, request: &Request) -> Result<Value, ClientError> {
        self.id += 1;
        let mut call = json!({"jsonrpc": "2.0", "id": self.id, "method": request.method()});
        if let Some(params) = params(request) {
            call["params"] = params;
        }
        let mut line = call.to_string().into_bytes();
        line.push(b'\n');
        let begun = Instant::now();
        // A node that refuses a connection answers and closes without reading: that answer says more than the failure.
        let written = write_within(&mut self.stream, &line, self.wait);
        let answer = match (self.read_answer(begun), written) {
            (Ok(answer), _) => answer,
            (Err(_), Err(error)) => return Err(self.failed(&error)),
            (Err(error), Ok(())) => return Err(error),
        };
        self.result(answer)
    }

    /// Carries out one request.
    pub fn call(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let result = self.call_raw(request)?;
        Reply::from_json(request, result).map_err(|error| self.garbled(error.to_string()))
    }

    fn read_answer(&mut self, begun: Instant) -> Result<Value, ClientError> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.framer.take() {
                Ok(Some(answer)) => {
                    let parsed = serde_json::from_slice(answer);
                    return parsed.map_err(|error| self.garbled(error.to_string()));
                }
                Ok(None) => {}
                Err(too_long) => return Err(self.garbled(too_long.to_string())),
            }
            let left = self.wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(self.timed_out());
            }
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut buffer));
            match read {
                Ok(0) => {
                    return Err(ClientError::Closed {
                        path: self.path.clone(),
                    });
                }
                Ok(count) => self.framer.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    fn result(&self, mut answer: Value) -> Result<Value, ClientError> {
        if let Some(error) = answer.get("error") {
            return Err(match RpcError::from_json(error) {
                Some(error) => ClientError::Refused(error),
                None => self.garbled("its error has no code and message".to_owned()),
            });
        }
        if answer.get("id").and_then(Value::as_u64) != Some(self.id) {
            return Err(self.garbled("it belongs to another call".to_owned()));
        }
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(self.garbled("it has neither result nor error".to_owned())),
        }
    }

    fn failed(&self, error: &io::Error) -> ClientError {
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return self.timed_out();
        }
        ClientError::Closed {
            path: self.path.clone(),
        }
    }

    fn timed_out(&self) -> ClientError {
        ClientError::TimedOut {
            path: self.path.clone(),
            wait: self.wait,
        }
    }

    fn garbled(&self, what: String) -> ClientError {
        ClientError::Garbled {
            path: self.path.clone(),
            what,
        }
    }
}
