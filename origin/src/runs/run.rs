//! One run: a file that grows to its end, or fails.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use backend::{Error, Key, Stat};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::LEAST_CHARGE;

/// Bytes of an object, in a file.
pub(super) struct Run {
    path: PathBuf,
    /// The bytes of the object that it has.
    pub(super) range: Range<u64>,
    pub(super) stat: Stat,
    progress: watch::Receiver<Progress>,
    /// The file, while somebody writes or reads it: how many are open has a bound in how many
    /// read, not in how many are here.
    file: Mutex<Weak<File>>,
}

/// How far a run is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Bytes from its start that are in the file.
    pub(super) written: u64,
    /// Another origin was asked, which has not sent anything yet.
    pub(super) waits_for_origin: bool,
    /// Set once nothing more will come.
    pub(super) end: Option<Result<(), Failure>>,
}

/// Why a run is not whole.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The store does not give it.
    Store(Arc<Error>),
    /// This host's disk does not take it.
    Disk,
}

impl Progress {
    pub(super) const fn is_over(&self) -> bool {
        self.end.is_some()
    }
}

impl Run {
    /// Makes a run of which nothing is there yet. Who drops what tells its progress gives it up.
    pub(super) fn new(
        path: PathBuf,
        range: Range<u64>,
        stat: Stat,
        waits_for_origin: bool,
    ) -> (Arc<Self>, watch::Sender<Progress>) {
        let (filling, progress) = watch::channel(Progress {
            waits_for_origin,
            ..Progress::default()
        });
        let run = Self {
            path,
            range,
            stat,
            progress,
            file: Mutex::default(),
        };
        (Arc::new(run), filling)
    }

    pub(super) const fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Returns what it counts against the limit of the cache.
    pub(super) fn charge(&self) -> u64 {
        self.length().max(LEAST_CHARGE)
    }

    pub(super) fn progress(&self) -> watch::Ref<'_, Progress> {
        self.progress.borrow()
    }

    /// Returns what tells how far it is.
    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Makes its file. Blocking.
    pub(super) fn create(&self) -> io::Result<Arc<File>> {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(true);
        let file = Arc::new(options.open(&self.path)?);
        *self.file.lock() = Arc::downgrade(&file);
        Ok(file)
    }

    /// Opens its file, or joins those who have it open. Blocking.
    fn open(&self) -> io::Result<Arc<File>> {
        let mut kept = self.file.lock();
        if let Some(file) = kept.upgrade() {
            return Ok(file);
        }
        let file = Arc::new(File::open(&self.path)?);
        *kept = Arc::downgrade(&file);
        Ok(file)
    }

    /// Reads bytes of the object that were written. Blocking.
    pub(super) fn read(
        &self,
        file: Option<Arc<File>>,
        range: &Range<u64>,
    ) -> io::Result<(Bytes, Arc<File>)> {
        let file = match file {
            Some(file) => file,
            None => self.open()?,
        };
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start - self.range.start)?;
        Ok((bytes.into(), file))
    }

    /// Removes its file, where there is one. Blocking.
    pub(super) fn remove_file(&self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove a cached run");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Returns an error that several are told as one that is each one's own.
pub(crate) fn repeated(error: &Error, key: &Key) -> Error {
    let key = key.clone();
    if error.is_not_found() {
        Error::NotFound { key }
    } else if error.is_precondition() {
        Error::Precondition { key }
    } else if error.is_permanent() {
        Error::Refused {
            operation: "read",
            key: key.to_string(),
            reason: error.to_string(),
        }
    } else {
        Error::Unavailable(error.to_string())
    }
}
