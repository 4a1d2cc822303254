//! The folder of `shoal up`.
//!
//! ```text
//! lock          held by the process that uses the folder
//! cluster.key   signs what blobs must hash to
//! upload.secret seals the state of uploads that clients carry
//! backend/      the storage; docker-registry could serve it
//! agent-1/ …    what belongs to a part, and may be lost
//! ```

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The folder of `shoal up`, which no other process uses meanwhile.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

impl Folder {
    /// Opens the folder, making it where it is missing.
    ///
    /// # Errors
    /// It cannot be made or written, or another process uses it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let lock = make(path).with_context(|| {
            format!("cannot write to the folder {name}; name another with --data")
        })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "the folder {name} is used by another process; end that, or name another folder \
                 with --data"
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| {
                    format!("cannot lock the folder {name}; name one on another disk with --data")
                });
            }
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder of the storage, which is there.
    pub(super) fn backend(&self) -> PathBuf {
        backend(&self.path)
    }

    /// Returns the file of the cluster key.
    pub(super) fn key(&self) -> PathBuf {
        self.path.join("cluster.key")
    }

    /// Returns the file of what seals uploads, so that they survive a restart.
    pub(super) fn secret(&self) -> PathBuf {
        self.path.join("upload.secret")
    }

    /// Returns the folder of a part.
    pub(super) fn of(&self, part: &str) -> PathBuf {
        self.path.join(part)
    }
}

fn backend(path: &Path) -> PathBuf {
    path.join("backend")
}

/// Makes the folder and returns its lock file.
fn make(path: &Path) -> io::Result<File> {
    std::fs::create_dir_all(backend(path))?;
    let mut options = File::options();
    let lock = options.create(true).truncate(false).write(true);
    lock.open(path.join("lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("a/data");
        let first = Folder::open(&path).unwrap();
        assert!(first.backend().is_dir());
        let error = Folder::open(&path).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        drop(first);
        assert!(Folder::open(&path).is_ok());
    }

    #[test]
    fn a_folder_that_cannot_be_made() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().join("data");
        let error = Folder::open(&path).unwrap_err().to_string();
        assert!(error.contains("--data"), "{error}");
    }
}
