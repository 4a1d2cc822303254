//! Writes that survive the loss of power, and locks between writers of one host.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rand::TryRng as _;
use rand::rngs::SysRng;

use super::{is_absent, open_tagged};
use crate::{Condition, ETag, Error, Key};

/// A temporary file nobody wrote to for this long belongs to a writer that died.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// How often a write may find its folder gone again, removed by deletes beside it.
const FOLDER_TRIES: u32 = 16;

/// The folder that holds a backend's objects, and its own folders in it.
#[derive(Debug)]
pub(super) struct Volume {
    root: PathBuf,
    /// Makes the names of this volume's temporary files differ from those of any other process:
    /// two containers may well have the same process id.
    process: u64,
    next_temp: AtomicU64,
}

/// A finished file that shall become an object.
#[derive(Debug)]
pub(super) enum Source {
    Temp(Temp),
    File(PathBuf),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::Temp(temp) => &temp.path,
            Self::File(path) => path,
        }
    }

    fn sync(&self) -> Result<(), Error> {
        let synced = match self {
            Self::Temp(temp) => temp.file.sync_all(),
            Self::File(path) => File::open(path).and_then(|file| file.sync_all()),
        };
        synced.map_err(io("sync", self.path()))
    }
}

impl Volume {
    pub(super) fn open(root: PathBuf) -> Result<Self, Error> {
        let folder = |reason| {
            let path = root.clone();
            move |source| Error::Folder {
                path,
                reason,
                source,
            }
        };
        let metadata = fs::metadata(&root).map_err(folder(
            "it is missing; create it, or mount what belongs there",
        ))?;
        if !metadata.is_dir() {
            let error = io::Error::from(io::ErrorKind::NotADirectory);
            return Err(folder("it is a file; name a folder")(error));
        }
        let process = SysRng.try_next_u64().map_err(|error| {
            Error::Unavailable(format!("no randomness from the system: {error}"))
        })?;
        let volume = Self {
            root: root.clone(),
            process,
            next_temp: AtomicU64::new(0),
        };
        for own in [volume.staging(), volume.own("tmp"), volume.own("locks")] {
            fs::create_dir_all(own).map_err(folder(
                "it cannot be written to; give this user the right to",
            ))?;
        }
        let probe = volume.temp().and_then(|mut temp| temp.write(b"probe"));
        probe.map_err(|error| {
            let error = io::Error::other(error);
            folder("a file in it cannot be written; check rights and free space")(error)
        })?;
        volume.sweep();
        Ok(volume)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.own("staging")
    }

    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn own(&self, name: &str) -> PathBuf {
        self.root.join(".shoal").join(name)
    }

    /// Removes what writers that died left behind.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.own("tmp")) else {
            return;
        };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            let age = age.map(|modified| SystemTime::now().duration_since(modified));
            if matches!(age, Ok(Ok(age)) if age > ABANDONED_AFTER) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Makes a new file that is gone again unless it is committed.
    pub(super) fn temp(&self) -> Result<Temp, Error> {
        let folder = self.own("tmp");
        loop {
            let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{:016x}-{number}", self.process));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Temp { path, file }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io("create", &path)(error)),
            }
        }
    }

    /// Makes a finished file the object of `key` where `condition` holds.
    pub(super) fn commit(
        &self,
        key: &Key,
        source: &Source,
        condition: &Condition,
    ) -> Result<ETag, Error> {
        source.sync()?;
        let _lock = self.lock(key)?;
        let path = self.path(key);
        let holds = match condition {
            Condition::Any => true,
            Condition::IfAbsent => tag(&path)?.is_none(),
            Condition::IfMatch(etag) => tag(&path)?.as_ref() == Some(etag),
        };
        if !holds {
            return Err(Error::Precondition { key: key.clone() });
        }
        self.place(source.path(), &path)?;
        tag(&path)?.ok_or_else(|| Error::NotFound { key: key.clone() })
    }

    /// Makes the file somebody else finished the object of `key`.
    pub(super) fn adopt(&self, key: &Key, file: &Path) -> Result<ETag, Error> {
        let source = Source::File(file.to_owned());
        match self.commit(key, &source, &Condition::Any) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {}
            other => return other,
        }
        let mut temp = self.temp()?;
        let mut from = File::open(file).map_err(io("open", file))?;
        io::copy(&mut from, &mut temp.file).map_err(io("copy", file))?;
        let etag = self.commit(key, &Source::Temp(temp), &Condition::Any)?;
        fs::remove_file(file).map_err(io("remove", file))?;
        Ok(etag)
    }

    pub(super) fn delete(&self, key: &Key) -> Result<(), Error> {
        let _lock = self.lock(key)?;
        let path = self.path(key);
        match fs::remove_file(&path) {
            Ok(()) => {}
            // A folder of that name is not the object.
            Err(error) if is_absent(&error) || path.is_dir() => return Ok(()),
            Err(error) => return Err(io("remove", &path)(error)),
        }
        // Empty folders are no folders to anybody who lists; the first one that is not ends it.
        let mut folder = path.parent();
        while let Some(empty) = folder.filter(|folder| *folder != self.root) {
            if fs::remove_dir(empty).is_err() {
                return sync_folder(empty);
            }
            folder = empty.parent();
        }
        sync_folder(&self.root)
    }

    /// Renames a synced file to its place, and makes the rename durable.
    fn place(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let folder = to.parent().unwrap_or(&self.root);
        let mut tries = 0;
        loop {
            make_folder(folder)?;
            #[expect(
                clippy::disallowed_methods,
                reason = "storage lies below store::durable; this is its one rename"
            )]
            match fs::rename(from, to) {
                Ok(()) => return sync_folder(folder),
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < FOLDER_TRIES => {
                    tries += 1;
                }
                Err(error) => return Err(io("write", to)(error)),
            }
        }
    }

    /// Waits for the lock of the key; it is given back when the file is dropped.
    fn lock(&self, key: &Key) -> Result<File, Error> {
        let stripe = blake3::hash(key.as_str().as_bytes()).as_bytes()[0];
        let path = self.own("locks").join(format!("{stripe:02x}"));
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&path);
        let file = file.map_err(io("open", &path))?;
        file.lock().map_err(io("lock", &path))?;
        Ok(file)
    }
}

/// A file that is removed when dropped, unless it was renamed before.
#[derive(Debug)]
pub(super) struct Temp {
    path: PathBuf,
    file: File,
}

impl Temp {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(io("write", &self.path))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // After a commit there is nothing here any more; its name is never used again.
        let _ = fs::remove_file(&self.path);
    }
}

fn tag(path: &Path) -> Result<Option<ETag>, Error> {
    let opened = open_tagged(path).map_err(io("read", path))?;
    Ok(opened.map(|(_, stat, _)| stat.etag))
}

/// Makes a folder and those it stands in, durably. It may be gone again when this returns, removed
/// by a delete beside us.
fn make_folder(folder: &Path) -> Result<(), Error> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut made = fs::create_dir(folder);
    if is_kind(&made, io::ErrorKind::NotFound) {
        if let Some(parent) = folder.parent() {
            make_folder(parent)?;
        }
        made = fs::create_dir(folder);
    }
    // Somebody else may have been quicker, and not have come to the sync yet.
    let there = is_kind(&made, io::ErrorKind::AlreadyExists) && folder.is_dir();
    if made.is_ok() || there {
        return folder.parent().map_or(Ok(()), sync_folder);
    }
    // Where the parent is gone again, the rename finds out and the caller repeats.
    if is_kind(&made, io::ErrorKind::NotFound) {
        return Ok(());
    }
    made.map_err(io("create", folder))
}

fn is_kind(result: &io::Result<()>, kind: io::ErrorKind) -> bool {
    matches!(result, Err(error) if error.kind() == kind)
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // A delete beside us emptied and removed it: there is nothing to keep.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io("sync", folder)),
    }
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}
