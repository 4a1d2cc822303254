//! What this origin holds and storage may not have yet: blobs that were pushed, whole and hashed,
//! in a folder on the staging volume.
//!
//! The folder is laid out as storage is. What is in it outlives the process: at a start it says
//! which blobs are still to be written. A blob counts as held from the moment that it was pushed
//! until storage has all of it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use backend::fs::FsBackend;
use backend::{Backend, ETag, Entry, Error, Key, List, Object, Stat, layout};
use bytes::Bytes;
use oci::{Digest, RepositoryName};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::blobs::blocking;

/// Most repositories remembered of a blob.
const MAX_REPOSITORIES: usize = 16;
/// Entries per look into the folder.
const LISTED: usize = 1000;

/// The blobs that this origin holds.
#[derive(Debug)]
pub struct Held {
    local: FsBackend,
    state: Mutex<State>,
    /// Changes with each blob that comes or goes, and each byte that is written.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// By the sha256 of the content.
    blobs: HashMap<Digest, Blob>,
    /// Every key of every blob held.
    keys: HashMap<Key, Digest>,
    /// Blobs that storage has, which are kept for those who pull what was just pushed.
    stored: VecDeque<Digest>,
    stored_bytes: u64,
}

#[derive(Clone, Debug, Default)]
struct Blob {
    length: u64,
    /// The sha512 digests it is known by, of which there is one at most but for those who attack
    /// sha512.
    names: Vec<Digest>,
    /// The repositories it was pushed to, the last ones.
    repositories: Vec<RepositoryName>,
    written_bytes: u64,
    is_safe: bool,
    is_stored: bool,
    /// Whether somebody makes a second copy of it.
    is_copied: bool,
}

/// What is known of a blob that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub length: u64,
    /// Bytes of it that storage has taken.
    pub written_bytes: u64,
    /// Whether another origin has it on its disk too.
    pub is_safe: bool,
    /// Whether storage has all of it, so that this copy is a mere cache.
    pub is_stored: bool,
}

/// Blobs held that storage does not have yet, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub blobs: usize,
    pub bytes: u64,
}

/// The turn of whoever makes a second copy of a blob.
#[derive(Debug)]
pub struct Copy<'a> {
    held: &'a Held,
    content: &'a Digest,
}

impl Copy<'_> {
    /// Notes that another origin has the blob on its disk.
    pub fn is_there(self) {
        self.held.change(self.content, |blob| blob.is_safe = true);
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        self.held
            .change(self.content, |blob| blob.is_copied = false);
    }
}

impl Held {
    /// Opens the folder, makes it where it is missing, and finds what an earlier process held.
    ///
    /// # Errors
    /// [`Error::Folder`], which says what to do.
    pub async fn open(folder: PathBuf) -> Result<Self, Error> {
        let local = blocking(move || {
            make(&folder)?;
            FsBackend::open(folder)
        })
        .await?;
        let held = Self {
            local,
            state: Mutex::default(),
            changes: watch::Sender::default(),
        };
        held.scan().await?;
        Ok(held)
    }

    /// Returns the folder as a backend, for what is about to be held.
    #[must_use]
    pub const fn folder(&self) -> &FsBackend {
        &self.local
    }

    async fn scan(&self) -> Result<(), Error> {
        for key in self
            .objects(&List::objects(layout::blobs(), LISTED))
            .await?
        {
            if let Some(content) = layout::content_of(&key) {
                self.hold(&content, None).await?;
            }
        }
        for key in self
            .objects(&List::objects(layout::aliases(), LISTED))
            .await?
        {
            let content = layout::read_link(&self.local, &key).await?;
            if let (Some(name), Some(content)) = (layout::alias_of(&key), content)
                && self.progress(&content).is_some()
            {
                self.hold(&content, Some(&name)).await?;
            }
        }
        Ok(())
    }

    async fn objects(&self, list: &List) -> Result<Vec<Key>, Error> {
        let mut keys = Vec::new();
        let mut list = list.clone();
        loop {
            let listing = self.local.list(list.clone()).await?;
            let last = listing.entries.last().map(|last| last.as_str().to_owned());
            keys.extend(listing.entries.into_iter().filter_map(|entry| match entry {
                Entry::Object(key) => Some(key),
                Entry::Folder(_) => None,
            }));
            match last {
                Some(last) if listing.more => list = list.after(last),
                Some(_) | None => return Ok(keys),
            }
        }
    }

    /// Counts a blob as held whose objects are in the folder; `name` is another digest of it.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub async fn hold(&self, content: &Digest, name: Option<&Digest>) -> Result<(), Error> {
        let length = self.local.stat(&layout::blob(content)).await?.length;
        let mut state = self.state.lock();
        // What comes again is to be looked at again.
        state.unkeep(content);
        let blob = state.blobs.entry(*content).or_default();
        blob.length = length;
        if let Some(name) = name.filter(|name| *name != content)
            && !blob.names.contains(name)
        {
            blob.names.push(*name);
        }
        let keys = blob.keys(content);
        state
            .keys
            .extend(keys.into_iter().map(|key| (key, *content)));
        drop(state);
        self.changes.send_replace(());
        Ok(())
    }

    /// Returns the digests of all blobs held, by their sha256.
    #[must_use]
    pub fn blobs(&self) -> Vec<Digest> {
        self.state.lock().blobs.keys().copied().collect()
    }

    /// Returns what is known of a blob, where it is held. `content` is its sha256.
    #[must_use]
    pub fn progress(&self, content: &Digest) -> Option<Progress> {
        let state = self.state.lock();
        let blob = state.blobs.get(content)?;
        Some(Progress {
            length: blob.length,
            written_bytes: blob.written_bytes,
            is_safe: blob.is_safe,
            is_stored: blob.is_stored,
        })
    }

    /// Returns when something is true of a blob, or when it is not held any more.
    pub async fn until(&self, content: &Digest, is_so: impl Fn(&Progress) -> bool) {
        let mut changes = self.changes.subscribe();
        while let Some(progress) = self.progress(content)
            && !is_so(&progress)
        {
            // The sender is here.
            let _ = changes.changed().await;
        }
    }

    /// Notes how much of a blob was written to storage.
    pub fn note_written(&self, content: &Digest, written_bytes: u64) {
        self.change(content, |blob| blob.written_bytes = written_bytes);
    }

    /// Remembers which repositories a blob was pushed to; returns all that are remembered.
    pub fn note_pushed(
        &self,
        content: &Digest,
        repositories: &[RepositoryName],
    ) -> Vec<RepositoryName> {
        let mut state = self.state.lock();
        let Some(blob) = state.blobs.get_mut(content) else {
            return Vec::new();
        };
        for repository in repositories {
            blob.repositories.retain(|known| known != repository);
            blob.repositories.push(repository.clone());
        }
        let surplus = blob.repositories.len().saturating_sub(MAX_REPOSITORIES);
        blob.repositories.drain(..surplus);
        blob.repositories.clone()
    }

    /// Returns whether a blob was pushed to a repository, as far as that is remembered.
    #[must_use]
    pub fn is_pushed(&self, content: &Digest, repository: &RepositoryName) -> bool {
        let state = self.state.lock();
        let blob = state.blobs.get(content);
        blob.is_some_and(|blob| blob.repositories.contains(repository))
    }

    /// Lets one of those who want a second copy of a blob make it. `None` where somebody else does,
    /// or the blob is not held.
    #[must_use]
    pub fn begin_copy<'a>(&'a self, content: &'a Digest) -> Option<Copy<'a>> {
        let mut state = self.state.lock();
        let blob = state.blobs.get_mut(content)?;
        if std::mem::replace(&mut blob.is_copied, true) {
            return None;
        }
        Some(Copy {
            held: self,
            content,
        })
    }

    /// Notes that storage has all of a blob, and keeps it as long as there is room: at most
    /// `keep_bytes` are kept in all, and those that were stored first go first.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub async fn keep(&self, content: &Digest, keep_bytes: u64) -> Result<(), Error> {
        let surplus = self.state.lock().keep(content, keep_bytes);
        self.changes.send_replace(());
        for blob in surplus {
            self.release(&blob).await?;
        }
        Ok(())
    }

    fn change(&self, content: &Digest, change: impl FnOnce(&mut Blob)) {
        if let Some(blob) = self.state.lock().blobs.get_mut(content) {
            change(blob);
        }
        self.changes.send_replace(());
    }

    /// Returns the keys of a blob's objects in the order in which storage shall get them; those
    /// that hashing yielded need not exist.
    #[must_use]
    pub fn keys(&self, content: &Digest) -> Vec<Key> {
        let state = self.state.lock();
        let blob = state.blobs.get(content);
        blob.map_or_else(Vec::new, |blob| blob.keys(content))
    }

    #[must_use]
    pub fn total(&self) -> Total {
        let state = self.state.lock();
        let pending = || state.blobs.values().filter(|blob| !blob.is_stored);
        Total {
            blobs: pending().count(),
            bytes: pending().map(|blob| blob.length).sum(),
        }
    }

    /// Returns whether an object belongs to a blob that is held.
    #[must_use]
    pub fn has(&self, key: &Key) -> bool {
        self.state.lock().keys.contains_key(key)
    }

    fn is_pending(&self, key: &Key) -> bool {
        let state = self.state.lock();
        let blob = state
            .keys
            .get(key)
            .and_then(|content| state.blobs.get(content));
        blob.is_some_and(|blob| !blob.is_stored)
    }

    /// Returns what is known of an object; `None` where it is not held, or is in storage: others
    /// may have removed it there.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub async fn stat(&self, key: &Key) -> Result<Option<Stat>, Error> {
        if !self.is_pending(key) {
            return Ok(None);
        }
        let stat = absent(self.local.stat(key).await)?;
        Ok(stat.map(|stat| hashed(key, stat)))
    }

    /// Starts to read an object; `None` where it is not held.
    ///
    /// # Errors
    /// As [`Backend::get`].
    pub async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>, Error> {
        if !self.has(key) {
            return Ok(None);
        }
        let object = absent(self.local.get(key, range).await)?;
        Ok(object.map(|object| Object {
            stat: hashed(key, object.stat),
            ..object
        }))
    }

    /// Reads a small object; `None` where it is not held.
    ///
    /// # Errors
    /// As [`Backend::read`].
    pub async fn read(&self, key: &Key, limit: u64) -> Result<Option<(Bytes, Stat)>, Error> {
        if !self.has(key) {
            return Ok(None);
        }
        absent(self.local.read(key, limit).await)
    }

    /// Stops to hold a blob, and removes its objects.
    ///
    /// # Errors
    /// A folder that cannot be written to; the blob is then not held any more, but at a restart.
    pub async fn release(&self, content: &Digest) -> Result<(), Error> {
        let keys = self.forget(content);
        // The content last: what a crash leaves is then found again, and released again.
        for key in keys.iter().rev() {
            self.local.delete(key).await?;
        }
        Ok(())
    }

    fn forget(&self, content: &Digest) -> Vec<Key> {
        let mut state = self.state.lock();
        state.unkeep(content);
        let blob = state.blobs.remove(content);
        let keys = blob.map_or_else(Vec::new, |blob| blob.keys(content));
        for key in &keys {
            state.keys.remove(key);
        }
        drop(state);
        self.changes.send_replace(());
        keys
    }

    /// Removes an object; with its content a blob stops to be held.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub async fn delete(&self, key: &Key) -> Result<(), Error> {
        if let Some(content) = layout::content_of(key) {
            return self.release(&content).await;
        }
        if self.has(key) {
            self.local.delete(key).await?;
        }
        Ok(())
    }
}

impl State {
    /// Returns the blobs that are too many to be kept.
    fn keep(&mut self, content: &Digest, keep_bytes: u64) -> Vec<Digest> {
        let mut surplus = Vec::new();
        let Some(blob) = self.blobs.get_mut(content).filter(|blob| !blob.is_stored) else {
            return surplus;
        };
        blob.is_stored = true;
        blob.written_bytes = blob.length;
        self.stored_bytes += blob.length;
        self.stored.push_back(*content);
        let mut bytes = self.stored_bytes;
        for stored in &self.stored {
            if bytes <= keep_bytes {
                break;
            }
            bytes -= self.blobs.get(stored).map_or(0, |blob| blob.length);
            surplus.push(*stored);
        }
        surplus
    }

    /// Counts a blob as one that storage does not have.
    fn unkeep(&mut self, content: &Digest) {
        let Some(blob) = self.blobs.get_mut(content).filter(|blob| blob.is_stored) else {
            return;
        };
        blob.is_stored = false;
        blob.is_safe = false;
        blob.written_bytes = 0;
        self.stored_bytes -= blob.length;
        self.stored.retain(|stored| stored != content);
    }
}

impl Blob {
    fn keys(&self, content: &Digest) -> Vec<Key> {
        let mut keys = vec![
            layout::blob(content),
            layout::blocks(content),
            layout::metainfo(content),
        ];
        for name in &self.names {
            keys.extend([
                layout::blocks(name),
                layout::metainfo(name),
                layout::alias(name),
            ]);
        }
        keys
    }
}

/// Tags content, whose bytes were hashed when they came, by its digest: the same at every origin.
fn hashed(key: &Key, stat: Stat) -> Stat {
    match layout::content_of(key) {
        Some(content) => Stat {
            etag: ETag::new(content.to_string()),
            ..stat
        },
        None => stat,
    }
}

fn make(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|source: io::Error| Error::Folder {
        path: folder.to_owned(),
        reason: "it cannot be made; give this user the right to write to the staging folder",
        source,
    })
}

fn absent<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
