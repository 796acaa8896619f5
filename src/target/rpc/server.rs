//! The server end of the socket: one thread accepts, one thread serves each connection.
//!
//! Invariants: at most `connections_max` connections are served; a connection that is in nobody's call makes room for
//! a new one, so that forgotten clients cannot lock an operator out. The socket file is made for this user only before
//! it gets its name, and a lock file beside it decides which of two nodes that start at once has it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{debug, info, warn};

use super::connection;
use super::place::{PlaceError, Runtime};
use crate::target::manage::Manage;

/// Longest path of a Unix socket in bytes, its terminating zero not counted.
///
/// Source: unix(7), `sun_path[108]`.
const PATH_BYTES_MAX: usize = 107;

/// How long to leave accepting alone when the process has no descriptor or thread left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Connections served at once, at least 1.
    pub connections_max: usize,
    /// How long a connection may be silent between messages.
    pub idle: Duration,
    /// How long a message may take from its first byte to its last.
    pub message: Duration,
    /// How long a client may take to read an answer.
    pub answer: Duration,
    /// How long a stopping server lets calls under way finish.
    pub drain: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 32,
            idle: Duration::from_secs(300),
            message: Duration::from_secs(30),
            answer: Duration::from_secs(10),
            drain: Duration::from_secs(2),
        }
    }
}

/// Why a server does not start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Another process serves this socket.
    #[error("another node serves the socket {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has the name.
    #[error("{} exists and is no socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path does not fit into a socket address.
    #[error("the socket path {} is too long: {bytes} bytes, {PATH_BYTES_MAX} are allowed", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes, of the longer of its two names.
        bytes: usize,
    },
    /// The folder cannot hold it.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The operating system refused.
    #[error("the socket {} cannot be made: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
}

impl ServerError {
    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "stop that node, or give this one another node.name or node.rpc_socket",
            Self::NotASocket { .. } => "move it away, or set node.rpc_socket to another path",
            Self::PathTooLong { .. } => "set node.rpc_socket to a shorter path",
            Self::Place(_) | Self::Io { .. } => "set node.rpc_socket to a path in a folder that you own",
        }
    }
}

/// What the threads of a server share.
pub(super) struct Shared {
    pub(super) manage: Arc<dyn Manage>,
    pub(super) options: ServerOptions,
    stopping: AtomicBool,
    connections: Mutex<Connections>,
    /// Signalled when a connection is gone.
    gone: Condvar,
}

#[derive(Default)]
struct Connections {
    next: u64,
    open: BTreeMap<u64, Open>,
}

/// One connection that is being served.
struct Open {
    stream: UnixStream,
    /// A call of it is being carried out or answered.
    busy: bool,
    /// When it last changed between busy and idle.
    since: Instant,
}

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Notes whether a connection has a call under way.
    pub(super) fn set_busy(&self, key: u64, busy: bool) {
        if let Some(open) = self.lock().open.get_mut(&key) {
            open.busy = busy;
            open.since = Instant::now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Each change of the map is a single call that leaves it whole, so a panic elsewhere is no reason to stop.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection, in place of the one that has been idle longest if there are too many. `None`: all of
    /// them are busy.
    fn enter(&self, stream: UnixStream) -> Option<u64> {
        let mut connections = self.lock();
        if connections.open.len() >= self.options.connections_max {
            let idle = connections.open.iter().filter(|(_, open)| !open.busy);
            let (&key, _) = idle.min_by_key(|(_, open)| open.since)?;
            let evicted = connections
                .open
                .remove(&key)
                .expect("the key was found under this lock");
            debug!("management connection closed to make room connection={key}");
            let _ = evicted.stream.shutdown(Shutdown::Both); // Its thread sees the end and leaves.
        }
        let key = connections.next;
        connections.next += 1;
        connections.open.insert(
            key,
            Open {
                stream,
                busy: false,
                since: Instant::now(),
            },
        );
        Some(key)
    }

    fn leave(&self, key: u64) {
        self.lock().open.remove(&key);
        self.gone.notify_all();
    }

    /// Waits until no connection is open, at most for `wait`.
    fn wait_until_empty(&self, wait: Duration) -> bool {
        let result = self
            .gone
            .wait_timeout_while(self.lock(), wait, |connections| !connections.open.is_empty());
        !result.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn shut_all(&self, how: Shutdown) {
        for open in self.lock().open.values() {
            let _ = open.stream.shutdown(how); // It fails only when the client is gone already.
        }
    }
}

/// Serves a node's methods on a Unix socket until it is stopped or dropped.
pub struct Server {
    shared: Arc<Shared>,
    path: PathBuf,
    /// The listening socket once more, to wake the thread that accepts.
    waker: UnixStream,
    accepting: Option<JoinHandle<()>>,
    /// Device and inode of the socket file, to remove none but our own.
    identity: (u64, u64),
    /// Held as long as the socket is ours. The file stays: removing it would let two nodes hold two locks.
    _lock: File,
}

impl Server {
    /// Starts to serve on `path`. A socket file there is replaced if nobody answers on it.
    pub fn start(path: &Path, manage: Arc<dyn Manage>, options: ServerOptions) -> Result<Self, ServerError> {
        assert!(options.connections_max > 0);
        Runtime::of_this_process().prepare_folder(path)?;
        let lock = take_lock(path)?;
        refuse_what_is_not_ours(path)?;
        let failed = |error| ServerError::Io {
            path: path.to_owned(),
            error,
        };
        let listener = bind_private(path)?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let waker = UnixStream::from(OwnedFd::from(listener.try_clone().map_err(failed)?));
        let shared = Arc::new(Shared {
            manage,
            options,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            gone: Condvar::new(),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            let accept = move || accept(&listener, &shared);
            thread::Builder::new()
                .name("rpc-accept".to_owned())
                .spawn(accept)
                .map_err(failed)?
        };
        info!("management socket open path={}", path.display());
        Ok(Self {
            shared,
            path: path.to_owned(),
            waker,
            accepting: Some(accepting),
            identity: (metadata.dev(), metadata.ino()),
            _lock: lock,
        })
    }

    /// Where it serves.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stops: no new connections, calls under way get their answer within the options' `drain`, then everything is
    /// closed and the socket file is gone. Takes at most twice `drain` plus what [`Manage::call`] takes; must not be
    /// called from within it.
    pub fn stop(mut self) {
        self.close();
    }

    fn close(&mut self) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        self.shared.stopping.store(true, Ordering::Release);
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path); // Gone already is as good.
        }
        // On a listening socket this makes a blocked accept return with EINVAL.
        let _ = self.waker.shutdown(Shutdown::Both);
        if accepting.join().is_err() {
            warn!("the thread that accepts management connections had panicked");
        }
        self.shared.shut_all(Shutdown::Read); // Idle ones end now, busy ones after their answer.
        if !self.shared.wait_until_empty(self.shared.options.drain) {
            self.shared.shut_all(Shutdown::Both);
            if !self.shared.wait_until_empty(self.shared.options.drain) {
                warn!(
                    "management calls are still under way at the end connections={}",
                    self.shared.lock().open.len()
                );
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes the lock file beside the socket.
fn take_lock(path: &Path) -> Result<File, ServerError> {
    let mut name = OsString::from(path);
    name.push(".lock");
    let failed = |error| ServerError::Io {
        path: path.to_owned(),
        error,
    };
    let mut options = OpenOptions::new();
    options
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    let file = options.open(&name).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServerError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Refuses a path that somebody answers on or that is no socket. A stale socket is left for the rename to replace.
fn refuse_what_is_not_ours(path: &Path) -> Result<(), ServerError> {
    let failed = |error| ServerError::Io {
        path: path.to_owned(),
        error,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ServerError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServerError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            info!("stale management socket replaced path={}", path.display());
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

/// Binds a socket that nobody else could have connected to, not even between its making and its mode: it is
/// made in a folder of its own and moved to its name once its mode is right.
fn bind_private(path: &Path) -> Result<UnixListener, ServerError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let failed = |error| ServerError::Io {
        path: path.to_owned(),
        error,
    };
    let unique = format!(".{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = path.with_file_name(unique);
    let new = folder.join("s");
    let bytes = new.as_os_str().len().max(path.as_os_str().len());
    if bytes > PATH_BYTES_MAX {
        return Err(ServerError::PathTooLong {
            path: path.to_owned(),
            bytes,
        });
    }
    // A process of the same id may have died here; the lock says that it is not at work now.
    let _ = fs::remove_file(&new);
    let _ = fs::remove_dir(&folder);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(failed)?;
    let bound = UnixListener::bind(&new).and_then(|listener| {
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(&new, path)?;
        Ok(listener)
    });
    let _ = fs::remove_file(&new); // Only there if the rename failed.
    let _ = fs::remove_dir(&folder);
    bound.map_err(failed)
}

/// Accepts connections until the server stops.
fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    while !shared.is_stopping() {
        match listener.accept() {
            Ok((stream, _)) => begin(stream, shared),
            Err(_) if shared.is_stopping() => return,
            Err(error) => {
                warn!("management connection not accepted error={error}");
                // Waits for a connection to close, which is what can free the descriptor that is missing.
                let open = shared.lock();
                let _woken = shared
                    .gone
                    .wait_timeout(open, ACCEPT_PAUSE)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Gives a connection its thread.
fn begin(stream: UnixStream, shared: &Arc<Shared>) {
    let Ok(twin) = stream.try_clone() else {
        warn!("management connection refused: no descriptor is left");
        return;
    };
    let Some(key) = shared.enter(twin) else {
        connection::refuse(&stream, shared.options.connections_max);
        return;
    };
    let owner = Arc::clone(shared);
    let serve = move || {
        connection::serve(stream, &owner, key);
        owner.leave(key);
    };
    if let Err(error) = thread::Builder::new().name("rpc".to_owned()).spawn(serve) {
        warn!("management connection refused: no thread error={error}");
        shared.leave(key);
    }
}
