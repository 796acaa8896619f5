//! Where a node's socket is: the folder of this user's nodes, and what is allowed to stand there.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{env, fs};

use thiserror::Error;

/// Most sockets that a folder is searched for.
const SOCKETS_MAX: usize = 256;

/// Who runs this process, as far as it decides where sockets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// `XDG_RUNTIME_DIR`, if it is set to an absolute path.
    folder: Option<PathBuf>,
    /// Effective user id.
    uid: u32,
}

/// Why a folder cannot hold the socket.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// The folder could not be made or looked at.
    #[error("the folder {} cannot be used: {error}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// Somebody else could replace the socket.
    #[error("the folder {} belongs to another user or may be written by others", folder.display())]
    NotPrivate {
        /// The folder.
        folder: PathBuf,
    },
}

impl Runtime {
    /// The environment and the user of this process.
    pub fn of_this_process() -> Self {
        let folder = env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|folder| folder.is_absolute());
        Self {
            folder,
            uid: effective_uid(),
        }
    }

    /// The socket of a node with this configuration.
    pub fn socket(&self, node: &config::Node) -> PathBuf {
        node.rpc_socket_or_default(self.folder.as_deref(), self.uid)
    }

    /// The folder of sockets whose configuration names none.
    pub fn socket_folder(&self) -> PathBuf {
        let mut socket = self.socket(&config::Node::named("any"));
        socket.pop();
        socket
    }

    /// Makes sure that the folder of `socket` exists, for this user only if it has to be made. The folder in
    /// `/tmp` is checked as well, because anybody could have made it first.
    pub(super) fn prepare_folder(&self, socket: &Path) -> Result<(), PlaceError> {
        let Some(folder) = socket.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
            return Ok(());
        };
        let failed = |error| PlaceError::Folder {
            folder: folder.to_owned(),
            error,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        if self.folder.is_some()
            || folder != self.socket_folder()
            || self.is_private(folder).map_err(failed)?
        {
            return Ok(());
        }
        Err(PlaceError::NotPrivate {
            folder: folder.to_owned(),
        })
    }

    /// Whether only this user can replace what is in the folder.
    fn is_private(&self, folder: &Path) -> io::Result<bool> {
        let metadata = fs::symlink_metadata(folder)?;
        Ok(metadata.is_dir() && metadata.uid() == self.uid && metadata.mode() & 0o022 == 0)
    }
}

/// The sockets in this user's folder, sorted by name; none if there is no such folder or others may write to it.
pub fn node_sockets(runtime: &Runtime) -> Vec<PathBuf> {
    let folder = runtime.socket_folder();
    if !runtime.is_private(&folder).unwrap_or(false) {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir(&folder) else {
        return Vec::new();
    };
    let mut sockets: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .take(SOCKETS_MAX)
        .collect();
    sockets.sort();
    sockets
}

/// The effective user id, or nobody's (65534) if the kernel does not say.
///
/// Source: proc_pid_status(5): `Uid: Real, effective, saved set, and filesystem UIDs`.
fn effective_uid() -> u32 {
    const NOBODY: u32 = 65_534;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn effective_uid_owns_what_this_process_makes() {
        let folder = env::temp_dir().join(format!("braid-place-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().uid(), effective_uid());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn folder_is_made_private_and_others_may_not_write_to_it() {
        let base = env::temp_dir().join(format!("braid-place-private-{}", std::process::id()));
        let runtime = Runtime {
            folder: Some(base.clone()),
            uid: effective_uid(),
        };
        let socket = runtime.socket(&config::Node::named("a"));
        assert_eq!(socket, base.join("braid/a.sock"));
        assert_eq!(node_sockets(&runtime), Vec::<PathBuf>::new());
        runtime.prepare_folder(&socket).unwrap();
        assert_eq!(
            fs::metadata(runtime.socket_folder()).unwrap().mode() & 0o777,
            0o700
        );
        fs::write(&socket, b"").unwrap();
        assert_eq!(node_sockets(&runtime), [socket]);
        fs::set_permissions(runtime.socket_folder(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(node_sockets(&runtime), Vec::<PathBuf>::new());
        let stranger = Runtime {
            uid: runtime.uid + 1,
            ..runtime.clone()
        };
        assert!(!stranger.is_private(&base).unwrap());
        fs::remove_dir_all(&base).unwrap();
    }
}
