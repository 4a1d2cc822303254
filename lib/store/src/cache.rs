//! The blobs of one folder: open, found again after a restart, evicted by bytes.

mod room;
mod scan;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::Pool;
use parking_lot::Mutex;
use torrent::{ClusterPublicKey, Description, MetaInfoError, SwarmName};

use crate::blob::{Account, Blob, ProofError, VerifiedPiece, WriteError};
use crate::durable::{self, DiskError, failed};
use crate::evict::{self, Candidate, Watermarks};
use crate::layout::CacheTree;

/// Uses between two looks for blobs to close.
const CLOSE_EVERY: u64 = 32;

/// Bytes of buffers that are kept for the next reads while nobody uses them.
const SPARE_BYTES: usize = 2 << 20;

/// How a cache is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the cache; made where it is missing, used by one process at a time.
    pub folder: PathBuf,
    /// When blobs are evicted. The disk may hold more by the pieces that are being written.
    pub marks: Watermarks,
    /// Most blobs kept open while nobody uses them: each is a file descriptor and its values.
    pub max_idle_open: usize,
    /// What the marks are derived from, for people.
    pub capacity_bytes: u64,
}

impl Config {
    /// Returns the settings for a cache of this many bytes: eviction from 95 % down to 85 %.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, capacity_bytes: u64) -> Self {
        Self {
            folder: folder.into(),
            marks: Watermarks {
                high_bytes: capacity_bytes / 20 * 19,
                low_bytes: capacity_bytes / 20 * 17,
            },
            max_idle_open: 256,
            capacity_bytes,
        }
    }
}

/// A blob that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    MetaInfo(#[from] MetaInfoError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<ProofError> for OpenError {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::MetaInfo(error) => Self::MetaInfo(error),
            ProofError::Disk(error) => Self::Disk(error),
        }
    }
}

/// A blob of the cache, as its files claim.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub description: Description,
    /// Whether all pieces are here.
    pub complete: bool,
    /// Bytes of the pieces that are here.
    pub bytes: u64,
}

/// The blobs of one folder.
#[derive(Debug)]
pub struct Cache {
    tree: CacheTree,
    key: ClusterPublicKey,
    config: Config,
    /// What pieces are read into.
    pool: Pool,
    _lock: File,
    total_bytes: Arc<AtomicU64>,
    /// Bytes of pieces that are being written.
    writing: AtomicU64,
    /// Counts uses; orders blobs by their last one.
    ticks: AtomicU64,
    next_trash: AtomicU64,
    /// Held by who evicts; names that nobody was told of yet.
    evicted: Mutex<Vec<SwarmName>>,
    entries: Mutex<HashMap<SwarmName, Arc<Entry>>>,
}

/// A place for a blob. Lock order: a cell first, then the map of entries.
#[derive(Debug)]
struct Entry {
    account: Arc<Account>,
    last_used: AtomicU64,
    cell: Mutex<Cell>,
}

/// Which blob may be taken out.
#[derive(Clone, Copy, Debug)]
enum Takes {
    Any,
    Idle,
    IdleAndEmpty,
}

#[derive(Debug, Default)]
struct Cell {
    blob: Option<Arc<Blob>>,
    /// What was known when it was last open, or found at the start.
    found: Option<Known>,
    /// Set when the entry was taken out of the map: look again.
    dead: bool,
}

impl Cache {
    /// Opens a cache and finds what is in it. Folders that hold no blob signed by this cluster are
    /// removed.
    ///
    /// # Errors
    /// [`DiskError`]: the folder cannot be used, or another process uses it.
    pub fn open(config: Config, key: ClusterPublicKey) -> Result<Self, DiskError> {
        let tree = CacheTree(config.folder.clone());
        let lock = durable::lock_folder(&config.folder, &tree.lock())?;
        for folder in [tree.blobs(), tree.trash()] {
            fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        }
        durable::empty(&tree.trash())?;
        let cache = Self {
            tree,
            key,
            config,
            pool: Pool::new(SPARE_BYTES),
            _lock: lock,
            total_bytes: Arc::default(),
            writing: AtomicU64::new(0),
            ticks: AtomicU64::new(1),
            next_trash: AtomicU64::new(0),
            evicted: Mutex::default(),
            entries: Mutex::default(),
        };
        let found = scan::scan(&cache)?;
        let entries = found.into_iter().map(|known| {
            let entry = cache.entry(known.bytes, Some(known));
            (*known.description.name(), Arc::new(entry))
        });
        cache.entries.lock().extend(entries);
        Ok(cache)
    }

    fn entry(&self, bytes: u64, found: Option<Known>) -> Entry {
        Entry {
            account: Arc::new(Account::new(Arc::clone(&self.total_bytes), bytes)),
            last_used: AtomicU64::new(self.tick()),
            cell: Mutex::new(Cell {
                found,
                ..Cell::default()
            }),
        }
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    fn next_trash(&self) -> PathBuf {
        let number = self.next_trash.fetch_add(1, Ordering::Relaxed);
        self.tree.trash().join(number.to_string())
    }

    /// Returns all blobs here, complete or not.
    #[must_use]
    pub fn known(&self) -> Vec<Known> {
        let entries: Vec<_> = self.entries.lock().values().cloned().collect();
        entries
            .iter()
            .filter_map(|entry| {
                let cell = entry.cell.lock();
                cell.blob.as_deref().map(known).or(cell.found)
            })
            .collect()
    }

    /// Returns the bytes of all pieces here.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Returns the bytes that may be here.
    #[must_use]
    pub const fn capacity_bytes(&self) -> u64 {
        self.config.capacity_bytes
    }

    /// Opens a blob, or makes room for a new one. What is known of it already stays, unless the
    /// description contradicts it; a blob that grew takes its final description.
    ///
    /// Of a blob that is not complete the pieces here are hashed again, which takes as long as
    /// reading them.
    ///
    /// # Errors
    /// [`OpenError::MetaInfo`] where this cluster's key did not sign the description.
    pub fn open_blob(&self, description: &Description) -> Result<Arc<Blob>, OpenError> {
        description.verify(&self.key)?;
        let name = description.name();
        let mut made_room = false;
        let blob = loop {
            let entry = {
                let mut entries = self.entries.lock();
                let entry = entries
                    .entry(*name)
                    .or_insert_with(|| Arc::new(self.entry(0, None)));
                Arc::clone(entry)
            };
            let mut cell = entry.cell.lock();
            if cell.dead {
                continue;
            }
            let opened = self.open_in(&entry, &mut cell, description);
            if opened.is_err() {
                self.forget_empty(name, &entry, &mut cell);
            }
            entry.last_used.store(self.tick(), Ordering::Relaxed);
            if !made_room && matches!(opened, Err(OpenError::Disk(DiskError::Full(_)))) {
                drop(cell);
                made_room = true;
                self.make_room(0);
                continue;
            }
            break opened?;
        };
        self.close_idle();
        Ok(blob)
    }

    fn open_in(
        &self,
        entry: &Entry,
        cell: &mut Cell,
        description: &Description,
    ) -> Result<Arc<Blob>, OpenError> {
        let tree = self.tree.blob(description.name());
        if let Some(blob) = self.load(description.name(), entry, cell)? {
            if fits(&blob, description)? {
                return Ok(blob);
            }
            blob.go();
            cell.blob = None;
            durable::remove_folder(tree.folder(), &self.next_trash())?;
        }
        let account = Arc::clone(&entry.account);
        match Blob::create(tree.clone(), self.key, description, account, &self.pool) {
            Ok(blob) => {
                let blob = Arc::new(blob);
                cell.blob = Some(Arc::clone(&blob));
                Ok(blob)
            }
            Err(error) => {
                // Half a folder is of no use to anybody.
                let _ = durable::remove_folder(tree.folder(), &self.next_trash());
                Err(error.into())
            }
        }
    }

    /// Returns a blob that is here. Holding it keeps it from eviction.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn get(&self, name: &SwarmName) -> Result<Option<Arc<Blob>>, DiskError> {
        let Some(entry) = self.entries.lock().get(name).cloned() else {
            return Ok(None);
        };
        let mut cell = entry.cell.lock();
        if cell.dead {
            return Ok(None);
        }
        let blob = self.load(name, &entry, &mut cell)?;
        if blob.is_none() {
            self.forget_empty(name, &entry, &mut cell);
        }
        drop(cell);
        entry.last_used.store(self.tick(), Ordering::Relaxed);
        self.close_idle();
        Ok(blob)
    }

    /// Returns the blob of a locked cell, from its files where it is not open.
    fn load(
        &self,
        name: &SwarmName,
        entry: &Entry,
        cell: &mut Cell,
    ) -> Result<Option<Arc<Blob>>, DiskError> {
        if let Some(blob) = &cell.blob {
            return Ok(Some(Arc::clone(blob)));
        }
        let tree = self.tree.blob(name);
        if !tree.folder().exists() {
            return Ok(None);
        }
        scan::touch(tree.folder());
        let account = Arc::clone(&entry.account);
        let loaded = Blob::load(tree.clone(), self.key, account, &self.pool)?;
        let Some(blob) = loaded.filter(|blob| blob.name() == name) else {
            durable::remove_folder(tree.folder(), &self.next_trash())?;
            entry.account.set(0);
            return Ok(None);
        };
        let blob = Arc::new(blob);
        cell.blob = Some(Arc::clone(&blob));
        Ok(Some(blob))
    }

    /// Writes a checked piece. Returns the blobs that had to go for it: tell the swarm.
    ///
    /// # Errors
    /// [`WriteError`], [`DiskError::Full`] where the disk is full even though idle blobs were
    /// evicted; the next call returns which.
    pub fn write(&self, blob: &Blob, piece: &VerifiedPiece) -> Result<Vec<SwarmName>, WriteError> {
        match self.write_in_room(blob, piece) {
            Err(WriteError::Disk(DiskError::Full(_))) => {
                // Others fill the same disk: what we hold idle is worth less than this piece.
                self.make_room(blob.geometry().length());
                self.write_in_room(blob, piece)?;
            }
            other => other?,
        }
        Ok(self.evict())
    }

    fn write_in_room(&self, blob: &Blob, piece: &VerifiedPiece) -> Result<(), WriteError> {
        let _taken = self.take_room(piece.bytes().len() as u64)?;
        blob.write(piece)
    }

    /// Evicts idle blobs where there are more bytes than the high watermark allows. Returns those
    /// evicted since the last call: tell the swarm.
    pub fn evict(&self) -> Vec<SwarmName> {
        if self.used_bytes() > self.config.marks.high_bytes {
            self.evict_to(&self.config.marks);
        }
        // Who evicts now tells of it.
        let evicted = self.evicted.try_lock();
        evicted
            .map(|mut names| std::mem::take(&mut *names))
            .unwrap_or_default()
    }

    fn evict_to(&self, marks: &Watermarks) {
        // One at a time; who comes second finds the work done.
        let Some(mut evicted) = self.evicted.try_lock() else {
            return;
        };
        let candidates: Vec<_> = {
            let entries = self.entries.lock();
            entries
                .iter()
                .map(|(name, entry)| Candidate {
                    name: *name,
                    bytes: entry.account.bytes(),
                    last_used: entry.last_used.load(Ordering::Relaxed),
                    busy: entry.cell.try_lock().is_none_or(|cell| cell.is_busy()),
                })
                .collect()
        };
        for name in evict::choose(self.used_bytes(), marks, candidates) {
            match self.take_out(&name, Takes::Idle) {
                Ok(true) => evicted.push(name),
                Ok(false) => {}
                Err(error) => tracing::warn!(%name, %error, "cannot evict"),
            }
        }
    }

    /// Removes a blob, whoever uses it: their reads and writes fail from now on.
    ///
    /// # Errors
    /// [`DiskError`]; a blob that is not here is none.
    pub fn remove(&self, name: &SwarmName) -> Result<(), DiskError> {
        self.take_out(name, Takes::Any).map(|_| ())
    }

    /// Removes a blob of which no piece is here, unless somebody uses it. Returns whether it did.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn remove_empty(&self, name: &SwarmName) -> Result<bool, DiskError> {
        self.take_out(name, Takes::IdleAndEmpty)
    }

    fn take_out(&self, name: &SwarmName, takes: Takes) -> Result<bool, DiskError> {
        let Some(entry) = self.entries.lock().get(name).cloned() else {
            return Ok(false);
        };
        let mut cell = entry.cell.lock();
        let goes = match takes {
            Takes::Any => true,
            Takes::Idle => !cell.is_busy(),
            Takes::IdleAndEmpty => !cell.is_busy() && entry.account.bytes() == 0,
        };
        if cell.dead || !goes {
            return Ok(false);
        }
        if let Some(blob) = cell.blob.take() {
            blob.go();
        }
        durable::remove_folder(self.tree.blob(name).folder(), &self.next_trash())?;
        entry.account.set(0);
        cell.dead = true;
        self.entries.lock().remove(name);
        Ok(true)
    }

    /// Takes an entry out of the map that has nothing on the disk.
    fn forget_empty(&self, name: &SwarmName, entry: &Entry, cell: &mut Cell) {
        if cell.blob.is_none() && !self.tree.blob(name).folder().exists() {
            entry.account.set(0);
            cell.dead = true;
            self.entries.lock().remove(name);
        }
    }

    /// Closes idle blobs that were used least recently, where too many are open. Complete ones
    /// first: the others must be hashed again when they are opened.
    fn close_idle(&self) {
        if !self
            .ticks
            .load(Ordering::Relaxed)
            .is_multiple_of(CLOSE_EVERY)
        {
            return;
        }
        let mut idle: Vec<_> = {
            let entries = self.entries.lock();
            let is_idle = |entry: &&Arc<Entry>| {
                let cell = entry.cell.try_lock();
                cell.is_some_and(|cell| cell.blob.is_some() && !cell.is_busy())
            };
            let idle = entries.values().filter(is_idle).cloned();
            idle.map(|entry| {
                let last_used = entry.last_used.load(Ordering::Relaxed);
                (!entry.is_complete(), last_used, entry)
            })
            .collect()
        };
        if idle.len() <= self.config.max_idle_open {
            return;
        }
        idle.sort_by_key(|(is_partial, last_used, _)| (*is_partial, *last_used));
        let excess = idle.len() - self.config.max_idle_open / 4 * 3;
        for (.., entry) in idle.into_iter().take(excess) {
            let mut cell = entry.cell.lock();
            if !cell.is_busy()
                && let Some(blob) = cell.blob.take()
            {
                cell.found = Some(known(&blob));
            }
        }
    }
}

impl Entry {
    /// Returns whether all pieces are known to be here, as far as that can be seen now.
    fn is_complete(&self) -> bool {
        let cell = self.cell.try_lock();
        cell.is_some_and(|cell| cell.blob.as_ref().is_some_and(|blob| blob.is_complete()))
    }
}

impl Cell {
    fn is_busy(&self) -> bool {
        // While the cell is locked nobody can begin to hold the blob.
        self.blob
            .as_ref()
            .is_some_and(|blob| Arc::strong_count(blob) > 1)
    }
}

fn known(blob: &Blob) -> Known {
    Known {
        description: blob.description(),
        complete: blob.is_complete(),
        bytes: blob.stored_bytes(),
    }
}

/// Returns whether a blob here is the one described, after it took what the description adds.
fn fits(blob: &Blob, description: &Description) -> Result<bool, OpenError> {
    if blob.geometry() != description.geometry() {
        return Ok(false);
    }
    match (blob.description(), description) {
        (Description::Growing(here), Description::Growing(there)) => Ok(here == *there),
        (_, Description::Complete(summary)) => match blob.describe(*summary) {
            Ok(_) => Ok(true),
            Err(ProofError::MetaInfo(_)) => Ok(false),
            Err(ProofError::Disk(error)) => Err(error.into()),
        },
        // We know more than who asks.
        (Description::Complete(_), Description::Growing(_)) => Ok(true),
    }
}

#[cfg(test)]
mod tests;
