//! What is held is brought to storage, and only then let go.
//!
//! Each blob that is held has a task in a durable queue. The origin that received an upload does
//! its task at once. The one that has the second copy waits, and asks the first whether it is done;
//! it brings the blob to storage itself where the first does not answer, or has lost it. A task is
//! never given up: while storage fails, it is tried again.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::origin::Stored;
use api::{Name, OriginClient};
use async_trait::async_trait;
use backend::{Backend, Condition, Error, Key, layout};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use oci::{Algorithm, Digest, RepositoryName};
use retry::{Outcome, Pending, Queue, QueueError, Schedule};
use serde::{Deserialize, Serialize};

use crate::blobs::blocking;
use crate::held::Held;

/// Longest small object of a blob: the block values of the longest one.
const MAX_SMALL_BYTES: u64 =
    torrent::piece::MAX_LENGTH_BYTES / torrent::piece::BLOCK_BYTES as u64 * 32;

/// How blobs are brought to storage.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Blobs at a time.
    pub parallel: NonZeroUsize,
    /// How often whoever has a second copy asks the first origin whether it is done.
    pub mirror_wait: Duration,
    /// Bytes kept of what storage has.
    pub keep_bytes: u64,
}

/// Brings what is held to storage.
#[derive(Debug)]
pub struct WriteBack {
    held: Arc<Held>,
    store: Arc<dyn Backend>,
    queue: Arc<Queue>,
    origins: OriginClient,
    options: Options,
}

/// What a write-back is made of.
#[derive(Debug)]
pub struct Setup {
    pub held: Arc<Held>,
    pub store: Arc<dyn Backend>,
    pub origins: OriginClient,
    pub options: Options,
}

/// A task, as the queue has it; its key is the sha256 of the blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Task {
    /// The origin that brings the blob to storage before this one has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror_of: Option<Name>,
    /// The repositories that it was pushed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<RepositoryName>,
}

impl WriteBack {
    /// Opens the queue, and adds a task for each blob that is held without one: a queue that was
    /// lost is made again.
    ///
    /// # Errors
    /// [`QueueError`], which says what to do.
    pub async fn open(queue: &Path, setup: Setup) -> Result<Arc<Self>, QueueError> {
        let path = queue.to_owned();
        let queue = blocking(move || Queue::open(&path)).await?;
        let write_back = Self {
            held: setup.held,
            store: setup.store,
            queue: Arc::new(queue),
            origins: setup.origins,
            options: setup.options,
        };
        for content in write_back.held.blobs() {
            if let Some(value) = write_back.queue.value(&key_of(&content)) {
                let task = read(&value);
                write_back.held.note_pushed(&content, &task.repositories);
            } else {
                write_back.add(&content, &Task::default()).await?;
            }
        }
        Ok(Arc::new(write_back))
    }

    /// Has a blob that is held brought to storage, at once, or where the first origin does not do
    /// it. When this returns, no crash makes this origin forget it.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn add(&self, content: &Digest, task: &Task) -> Result<(), QueueError> {
        let wait = match task.mirror_of {
            Some(_) => self.options.mirror_wait,
            None => Duration::ZERO,
        };
        let repositories = self.held.note_pushed(content, &task.repositories);
        let task = Task {
            mirror_of: task.mirror_of.clone(),
            repositories,
        };
        let value = serde_json::to_vec(&task).expect("a task is plain data");
        self.queue.put(key_of(content), value.into(), wait).await
    }

    /// Works until it is dropped. `seed` is that of the pauses after failures.
    pub async fn run(self: Arc<Self>, seed: u64) {
        let queue = Arc::clone(&self.queue);
        let options = retry::Options {
            parallel: self.options.parallel,
            schedule: Schedule::default(),
            seed,
        };
        retry::work(queue, self, options).await;
    }

    /// Returns what is not in storage yet, as the queue has it.
    #[must_use]
    pub fn pending(&self) -> Pending {
        self.queue.pending()
    }

    #[must_use]
    pub const fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Returns how much of a blob is in storage, after at most `wait`, or as soon as all of it is,
    /// and whether it was pushed to `repository`. `None` where neither this origin nor storage has it.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn stored(
        &self,
        digest: &Digest,
        repository: Option<&RepositoryName>,
        wait: Duration,
    ) -> Result<Option<Stored>, Error> {
        let Some(content) = self.content(digest).await? else {
            return Ok(None);
        };
        let waiting = self.held.until(&content, |progress| progress.is_stored);
        let _ = tokio::time::timeout(wait, waiting).await;
        let is_pushed = repository.is_some_and(|name| self.held.is_pushed(&content, name));
        if let Some(progress) = self.held.progress(&content)
            && !progress.is_stored
        {
            return Ok(Some(Stored {
                stored: false,
                written_bytes: progress.written_bytes,
                length: progress.length,
                sha256: content,
                is_pushed,
            }));
        }
        let length = self.length(&layout::blob(&content)).await?;
        Ok(length.map(|length| Stored {
            stored: true,
            written_bytes: length,
            length,
            sha256: content,
            is_pushed,
        }))
    }

    /// Returns the sha256 of a blob, which a sha512 leads to.
    async fn content(&self, digest: &Digest) -> Result<Option<Digest>, Error> {
        if digest.algorithm() == Algorithm::Sha256 {
            return Ok(Some(*digest));
        }
        let alias = layout::alias(digest);
        match layout::read_link(self.held.folder(), &alias).await? {
            Some(content) => Ok(Some(content)),
            None => layout::read_link(&*self.store, &alias).await,
        }
    }

    async fn length(&self, key: &Key) -> Result<Option<u64>, Error> {
        match self.store.stat(key).await {
            Ok(stat) => Ok(Some(stat.length)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings all objects of a blob to storage, the content first: nobody finds what leads to
    /// content that is not there.
    async fn write(&self, content: &Digest) -> Result<(), Error> {
        let keys = self.held.keys(content);
        for (at, key) in keys.iter().enumerate() {
            if at == 0 {
                self.write_content(content, key).await?;
            } else {
                self.write_small(key).await?;
            }
        }
        // Somebody may have removed the blob while it was written.
        if self.held.progress(content).is_none() {
            for key in keys.iter().rev() {
                self.store.delete(key).await?;
            }
        }
        Ok(())
    }

    async fn write_content(&self, content: &Digest, key: &Key) -> Result<(), Error> {
        let object = self.held.folder().get(key, None).await?;
        let length = object.stat.length;
        if self.length(key).await? == Some(length) {
            self.held.note_written(content, length);
            return Ok(());
        }
        let (held, digest, mut written) = (Arc::clone(&self.held), *content, 0);
        let body = object.body.map_err(io::Error::other);
        let body = body.inspect_ok(move |part| {
            written += part.len() as u64;
            held.note_written(&digest, written);
        });
        let body = body.boxed();
        self.store.put_stream(key, body, Condition::Any).await?;
        match self.length(key).await? {
            Some(there) if there == length => Ok(()),
            Some(_) | None => Err(Error::Truncated { key: key.clone() }),
        }
    }

    async fn write_small(&self, key: &Key) -> Result<(), Error> {
        match self.held.folder().read(key, MAX_SMALL_BYTES).await {
            Ok((bytes, _)) => self.store.put(key, bytes, Condition::Any).await.map(|_| ()),
            // It could not be made, and will be where it is needed.
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns what the first origin of a second copy says: `None` where it is this one's turn.
    async fn ask_first(&self, first: &Name, content: &Digest) -> Option<Stored> {
        match self.origins.stored_by(first, content).await {
            Ok(Some(stored)) => Some(stored),
            Ok(None) => {
                tracing::warn!(origin = %first, %content, "an origin lost a blob; writing the copy");
                None
            }
            Err(error) => {
                tracing::warn!(%error, %content, "an origin is away; writing its blob");
                None
            }
        }
    }

    fn finish(finished: Result<(), Error>) -> Outcome {
        match finished {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

#[async_trait]
impl retry::Work for WriteBack {
    async fn run(&self, key: Bytes, value: Bytes) -> Outcome {
        let content = std::str::from_utf8(&key)
            .ok()
            .and_then(|text| text.parse().ok());
        let Some(content) = content else {
            tracing::error!(
                ?key,
                "the queue has a task that makes no sense; dropping it"
            );
            return Outcome::Done;
        };
        // Removed meanwhile, or looked at before.
        let progress = self.held.progress(&content);
        if progress.is_none_or(|progress| progress.is_stored) {
            return Outcome::Done;
        }
        let task = read(&value);
        if let Some(first) = &task.mirror_of
            && let Some(stored) = self.ask_first(first, &content).await
        {
            return if stored.stored {
                // The first one keeps it.
                Self::finish(self.held.release(&content).await)
            } else {
                Outcome::Later(self.options.mirror_wait)
            };
        }
        match self.write(&content).await {
            Ok(()) => {
                tracing::debug!(%content, "a blob is in storage");
                Self::finish(self.held.keep(&content, self.options.keep_bytes).await)
            }
            Err(error) => Outcome::Failed(format!("{content}: {error}")),
        }
    }
}

/// Reads a task. What cannot be read is done as if nobody else did it.
fn read(value: &[u8]) -> Task {
    serde_json::from_slice(value).unwrap_or_default()
}

fn key_of(content: &Digest) -> Bytes {
    content.to_string().into()
}

#[cfg(test)]
mod tests;
