//! A folder of the demonstration's own, gone with it unless it is to be kept.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder that only its owner may look into. Dropping it removes it with everything in it.
pub struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    /// Makes a folder that did not exist before, below the system's folder for temporary files.
    pub fn make(number: u64, keep: bool) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("braid-demo-{number:016x}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, keep })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, folder = %self.path.display(), "the demo's folder could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_new_and_removed_with_its_contents() {
        use std::os::unix::fs::PermissionsExt;
        let number = u64::from(std::process::id()) << 32 | 1;
        let folder = Folder::make(number, false).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert!(
            Folder::make(number, false).is_err(),
            "one that exists is not taken over"
        );
        std::fs::write(path.join("drive"), [0]).unwrap();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn it_stays_if_it_is_to_be_kept() {
        let folder = Folder::make(u64::from(std::process::id()) << 32 | 2, true).unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        assert!(path.exists());
        std::fs::remove_dir(path).unwrap();
    }
}
