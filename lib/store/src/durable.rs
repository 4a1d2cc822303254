//! The only place that renames and fsyncs (storage, which lies beside this crate, has its own).
//!
//! [`write()`] is for what must survive the loss of power: bytes to a new file, fsync, rename, fsync
//! of the folder. [`replace`] is for what a crash may take but must not leave half.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A disk that does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("no space is left for {}; free some, or lower the cache's capacity", .0.display())]
    Full(PathBuf),
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("folder {} cannot be used: {source}; create it, or give this user the right to write to it", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("folder {} is in use by another process; give each its own", .0.display())]
    InUse(PathBuf),
}

impl DiskError {
    /// Returns whether a file is simply not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Adds what was tried, and where, to an IO error.
pub(crate) fn failed(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> DiskError + use<> {
    let path = path.to_owned();
    move |source| {
        let kind = source.kind();
        if matches!(
            kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return DiskError::Full(path);
        }
        DiskError::Io {
            operation,
            path,
            source,
        }
    }
}

/// Writes a file that is whole and there even after the loss of power, once this returns.
///
/// # Errors
/// [`DiskError`]; the file is then what it was before.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    put(path, bytes, true)
}

/// Writes a file so that no reader sees half of it. A crash of the machine may undo it, or leave
/// it empty.
///
/// # Errors
/// [`DiskError`]; the file is then what it was before.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    put(path, bytes, false)
}

fn put(path: &Path, bytes: &[u8], synced: bool) -> Result<(), DiskError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temp = path.with_file_name(name);
    let written = (|| {
        let mut file = File::create(&temp)?;
        file.write_all(bytes)?;
        if synced {
            file.sync_all()?;
        }
        Ok(())
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&temp);
        return Err(failed("write", path)(error));
    }
    if synced {
        put_in_place(&temp, path)
    } else {
        rename(&temp, path)
    }
}

/// Puts a file that was written and synced under another name in the place of `path`, for good.
///
/// # Errors
/// [`DiskError`]; `path` is then what it was before, or what is new.
pub fn put_in_place(temp: &Path, path: &Path) -> Result<(), DiskError> {
    rename(temp, path)?;
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    sync_folder(folder.unwrap_or(Path::new(".")))
}

/// Makes what was written to a file survive the loss of power.
///
/// # Errors
/// [`DiskError`].
pub fn sync(file: &File, path: &Path) -> Result<(), DiskError> {
    file.sync_all().map_err(failed("sync", path))
}

/// Makes what was created, renamed and removed in a folder survive the loss of power.
///
/// # Errors
/// [`DiskError`].
pub fn sync_folder(folder: &Path) -> Result<(), DiskError> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(failed("sync", folder))
}

/// Removes a folder with all that is in it: to its users at once, by a rename to `trash`, then
/// from the disk. What is in `trash` after a crash is removed by [`empty`].
///
/// # Errors
/// [`DiskError`]; a folder that is absent is none.
pub fn remove_folder(folder: &Path, trash: &Path) -> Result<(), DiskError> {
    match rename(folder, trash) {
        Ok(()) => fs::remove_dir_all(trash).map_err(failed("remove", trash)),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes all that is in a folder.
///
/// # Errors
/// [`DiskError`].
pub fn empty(folder: &Path) -> Result<(), DiskError> {
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let path = entry.map_err(failed("read", folder))?.path();
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(failed("remove", &path))?;
    }
    Ok(())
}

/// Takes the folder for this process, and makes it where it is missing. The lock is given back
/// when the file is dropped, or the process ends however it ends.
///
/// # Errors
/// [`DiskError::InUse`] where another process has it, [`DiskError::Folder`] where it cannot be
/// made or written to.
pub fn lock_folder(folder: &Path, lock: &Path) -> Result<File, DiskError> {
    let unusable = |source| DiskError::Folder {
        path: folder.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(unusable)?;
    let file = File::create(lock).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(DiskError::InUse(folder.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(unusable(error)),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place where files are renamed"
    )]
    fs::rename(from, to).map_err(failed("write", to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for put in [write, replace] {
            put(&path, b"one").unwrap();
            put(&path, b"two").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"two");
        }
        // Nothing can be renamed over a folder that is not empty.
        let taken = folder.path().join("taken");
        fs::create_dir_all(taken.join("inner")).unwrap();
        assert!(write(&taken, b"x").is_err());
        assert!(taken.join("inner").is_dir());
    }

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, lock) = (folder.path().join("new"), folder.path().join("new/lock"));
        let held = lock_folder(&cache, &lock).unwrap();
        let error = lock_folder(&cache, &lock).unwrap_err();
        assert!(error.to_string().contains("in use by another process"));
        drop(held);
        lock_folder(&cache, &lock).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = lock_folder(&file, &file.join("lock")).unwrap_err();
        assert!(matches!(error, DiskError::Folder { .. }), "{error}");
    }

    #[test]
    fn a_folder_goes_with_all_that_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        let (folder, trash) = (root.path().join("folder"), root.path().join("trash"));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/file"), "x").unwrap();
        remove_folder(&folder, &trash).unwrap();
        remove_folder(&folder, &trash).unwrap();
        assert!(!folder.exists() && !trash.exists());
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("file"), "x").unwrap();
        empty(&folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}
