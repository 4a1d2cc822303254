//! Uploads on their way in: bytes are appended, hashed as they come, and become a blob when their
//! digest is right.
//!
//! A session is a file, written around the page cache where the disk is fast and what comes lies in
//! memory as it will in the file (`disk::DataFile`). It survives the process, which hashes it again when it is resumed; a
//! session that nobody goes on with is swept.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use disk::{DataFile, Pool};
use oci::{Algorithm, Digest, DigestHasher};
use parking_lot::Mutex;
use rand::TryRng as _;
use rand::rngs::SysRng;
use torrent::tree::Tree;
use torrent::{GeometryError, TreeHasher};

use crate::durable::{self, DiskError, failed};

/// Bytes per read where a file is hashed again.
const READ_BYTES: usize = 1 << 20;

/// Bounds of an upload area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most sessions at a time.
    pub sessions: usize,
    /// Longest blob.
    pub blob_bytes: u64,
    /// How long a session may stand still before it is swept.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 1024,
            blob_bytes: torrent::piece::MAX_LENGTH_BYTES,
            idle: Duration::from_secs(24 * 3600),
        }
    }
}

/// Name of an upload session: 32 hex digits from the system's random source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId([u8; 16]);

/// An upload that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("there is no such upload; begin a new one")]
    Unknown,
    #[error("the upload has {offset} bytes; go on from there")]
    Offset { offset: u64 },
    #[error("too many uploads are open; try again later")]
    TooMany,
    #[error("the bytes have the digest {}, not {}", .0.actual, .0.expected)]
    Digest(Box<WrongDigest>),
    #[error("a blob may have at most {limit_bytes} bytes")]
    TooLong { limit_bytes: u64 },
    #[error(transparent)]
    Length(#[from] GeometryError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What was promised, and what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongDigest {
    pub expected: Digest,
    pub actual: Digest,
}

/// The upload sessions of one folder.
#[derive(Debug)]
pub struct Uploads {
    folder: PathBuf,
    limits: Limits,
    _lock: File,
    sessions: Mutex<HashMap<UploadId, Arc<Mutex<Session>>>>,
}

/// Where a session stands.
#[derive(Debug)]
struct Session {
    path: PathBuf,
    /// Absent until somebody goes on with a session of an earlier process.
    open: Option<Open>,
    over: bool,
}

#[derive(Debug)]
struct Open {
    file: DataFile,
    sha256: DigestHasher,
    tree: TreeHasher,
}

/// An upload whose digest is right and whose bytes are on the disk. The file is the session's
/// until somebody takes it away.
#[derive(Clone, Debug)]
pub struct FinishedUpload {
    pub path: PathBuf,
    /// The digest that the client named.
    pub digest: Digest,
    pub sha256: Digest,
    pub tree: Tree,
}

impl Uploads {
    /// Opens an upload area, and finds the sessions of an earlier process.
    ///
    /// # Errors
    /// [`DiskError`]: the folder cannot be used, or another process uses it.
    pub fn open(folder: impl Into<PathBuf>, limits: Limits) -> Result<Self, DiskError> {
        let folder = folder.into();
        let lock = durable::lock_folder(&folder, &folder.join("lock"))?;
        let mut sessions = HashMap::new();
        for entry in fs::read_dir(&folder).map_err(failed("read", &folder))? {
            let entry = entry.map_err(failed("read", &folder))?;
            let name = entry.file_name();
            if let Some(Ok(id)) = name.to_str().map(UploadId::from_str) {
                let session = Session::found(entry.path());
                sessions.insert(id, Arc::new(Mutex::new(session)));
            }
        }
        Ok(Self {
            folder,
            limits,
            _lock: lock,
            sessions: Mutex::new(sessions),
        })
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// [`UploadError::TooMany`] above the limit of sessions.
    pub fn create(&self) -> Result<UploadId, UploadError> {
        let mut bytes = [0; 16];
        SysRng.try_fill_bytes(&mut bytes).map_err(|error| {
            failed("draw a name for an upload in", &self.folder)(std::io::Error::other(error))
        })?;
        let id = UploadId(bytes);
        let path = self.folder.join(id.to_string());
        let mut sessions = self.sessions.lock();
        if sessions.len() >= self.limits.sessions {
            return Err(UploadError::TooMany);
        }
        File::create_new(&path).map_err(failed("create", &path))?;
        sessions.insert(id, Arc::new(Mutex::new(Session::found(path))));
        Ok(id)
    }

    /// Returns the bytes received so far.
    ///
    /// # Errors
    /// [`UploadError::Unknown`].
    pub fn offset(&self, id: UploadId) -> Result<u64, UploadError> {
        self.with(id, |session| session.offset())
    }

    /// Appends bytes; returns the bytes received so far. `at`, where given, must be the offset
    /// before.
    ///
    /// # Errors
    /// [`UploadError::Offset`] where `at` is not the offset: nothing was written. After
    /// [`UploadError::Disk`] ask for the offset.
    pub fn append(&self, id: UploadId, at: Option<u64>, bytes: &[u8]) -> Result<u64, UploadError> {
        let limit_bytes = self.limits.blob_bytes;
        self.with(id, |session| {
            let offset = session.offset()?;
            if at.is_some_and(|at| at != offset) {
                return Err(UploadError::Offset { offset });
            }
            if offset.saturating_add(bytes.len() as u64) > limit_bytes {
                return Err(UploadError::TooLong { limit_bytes });
            }
            session.append(bytes)
        })
    }

    /// Checks the digest and makes the bytes durable. The file stays until it is taken away, and
    /// then [`Self::forget`] ends the session; until then this may be called again.
    ///
    /// # Errors
    /// [`UploadError::Digest`] where the bytes are others; the upload is then gone.
    pub fn finish(&self, id: UploadId, digest: Digest) -> Result<FinishedUpload, UploadError> {
        let finished = self.with(id, |session| session.finish(digest));
        if matches!(finished, Err(UploadError::Digest(_))) {
            self.remove(id)?;
        }
        finished
    }

    /// Ends a session whose file was taken away.
    pub fn forget(&self, id: UploadId) {
        self.sessions.lock().remove(&id);
    }

    /// Ends a session and removes its bytes.
    ///
    /// # Errors
    /// [`UploadError::Unknown`].
    pub fn remove(&self, id: UploadId) -> Result<(), UploadError> {
        self.with(id, |session| {
            session.over = true;
            session.open = None;
            remove_file(&session.path)
        })?;
        self.forget(id);
        Ok(())
    }

    /// Removes the sessions that stood still for too long at `now`; returns how many.
    pub fn sweep(&self, now: SystemTime) -> usize {
        let ids: Vec<_> = self.sessions.lock().keys().copied().collect();
        let mut swept = 0;
        for id in ids {
            let old = self.with(id, |session| {
                let modified = fs::metadata(&session.path).and_then(|metadata| metadata.modified());
                let modified = modified.map_err(failed("read", &session.path))?;
                let idle = now.duration_since(modified).unwrap_or_default();
                Ok(idle > self.limits.idle)
            });
            let removed = match old {
                Ok(true) => self.remove(id),
                // In use, or over already.
                Ok(false) | Err(UploadError::Unknown) => continue,
                Err(error) => Err(error),
            };
            match removed {
                Ok(()) => swept += 1,
                Err(error) => tracing::warn!(%id, %error, "cannot sweep an upload"),
            }
        }
        swept
    }

    /// Acts on a session when those who came before are done with it.
    fn with<T>(
        &self,
        id: UploadId,
        act: impl FnOnce(&mut Session) -> Result<T, UploadError>,
    ) -> Result<T, UploadError> {
        let session = self.sessions.lock().get(&id).cloned();
        let session = session.ok_or(UploadError::Unknown)?;
        let mut session = session.lock();
        if session.over {
            return Err(UploadError::Unknown);
        }
        act(&mut session)
    }
}

impl Session {
    const fn found(path: PathBuf) -> Self {
        Self {
            path,
            open: None,
            over: false,
        }
    }

    fn offset(&self) -> Result<u64, UploadError> {
        match &self.open {
            Some(open) => Ok(open.tree.length()),
            None => {
                let metadata = fs::metadata(&self.path).map_err(failed("read", &self.path))?;
                Ok(metadata.len())
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<u64, UploadError> {
        let mut open = self.take_open()?;
        // Where this fails the hashes are behind the file: they are made again from it.
        open.file
            .write_all_at(bytes, open.tree.length())
            .map_err(failed("append to", &self.path))?;
        open.update(bytes);
        let offset = open.tree.length();
        self.open = Some(open);
        Ok(offset)
    }

    fn finish(&mut self, digest: Digest) -> Result<FinishedUpload, UploadError> {
        let open = self.take_open()?;
        let sha256 = open.sha256.clone().finish();
        let actual = match digest.algorithm() {
            Algorithm::Sha256 => sha256,
            Algorithm::Sha512 => digest_of(&self.path, Algorithm::Sha512)?,
        };
        if actual != digest {
            let expected = digest;
            return Err(UploadError::Digest(Box::new(WrongDigest {
                expected,
                actual,
            })));
        }
        durable::sync(open.file.as_file(), &self.path)?;
        // A repeated call hashes the file again, which is rare and cheaper than to keep the state.
        Ok(FinishedUpload {
            path: self.path.clone(),
            digest,
            sha256,
            tree: open.tree.finish()?,
        })
    }

    fn take_open(&mut self) -> Result<Open, UploadError> {
        match self.open.take() {
            Some(open) => Ok(open),
            None => Open::resume(&self.path),
        }
    }
}

impl Open {
    fn resume(path: &Path) -> Result<Self, UploadError> {
        // Nothing is read by way of it.
        let file = DataFile::open(path, &Pool::new(0));
        let mut open = Self {
            file: file.map_err(failed("open", path))?,
            sha256: DigestHasher::new(Algorithm::Sha256),
            tree: TreeHasher::new(),
        };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = open
                .file
                .as_file()
                .read(&mut buffer)
                .map_err(failed("read", path))?;
            if count == 0 {
                return Ok(open);
            }
            open.update(&buffer[..count]);
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.tree.update(bytes);
    }
}

fn digest_of(path: &Path, algorithm: Algorithm) -> Result<Digest, DiskError> {
    let mut file = File::open(path).map_err(failed("open", path))?;
    let mut hasher = DigestHasher::new(algorithm);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = file.read(&mut buffer).map_err(failed("read", path))?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..count]);
    }
}

fn remove_file(path: &Path) -> Result<(), UploadError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", path)(error).into())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

impl UploadId {
    /// Returns the last hex digit, to spread uploads over 16 places.
    #[must_use]
    pub const fn last_digit(self) -> u8 {
        self.0[15] & 0xf
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UploadId {
    type Err = UploadError;

    /// Anything that is no id names no upload.
    fn from_str(text: &str) -> Result<Self, UploadError> {
        let lower = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.as_bytes().iter().all(lower) {
            return Err(UploadError::Unknown);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| UploadError::Unknown)?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests;
