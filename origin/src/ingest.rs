//! Uploads: bytes in, a blob out that is durable, hashed and ready for the swarm.

mod parts;

use std::io;
use std::sync::Arc;

use backend::Backend;
use bytes::Bytes;
use disk::Pool;
use futures_util::{Stream, StreamExt as _};
use oci::Digest;
use store::{UploadError, UploadId, Uploads};

use crate::blobs::{BlobError, Blobs, Committed, blocking};
use crate::copies::{Copies, NotSafe, TakeError};
use crate::metrics::Metrics;
use crate::mirror::{CopyOf, Copying};
use crate::write_back::Task;
use parts::{Parts, Writer};

/// Bytes hashed and written at a time, while the next ones come in.
const PART_BYTES: usize = 1 << 20;

/// Bytes of buffers that are kept for the next parts while nobody uses them.
const SPARE_BYTES: usize = 4 << 20;

/// An upload that did not go on.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// What came before is kept: ask for the offset and go on.
    #[error("the body of the upload broke off: {0}")]
    Body(#[source] io::Error),
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error(transparent)]
    NotSafe(#[from] NotSafe),
}

/// Takes uploads and makes blobs of them.
#[derive(Debug)]
pub struct Ingest {
    uploads: Arc<Uploads>,
    blobs: Arc<Blobs>,
    metrics: Metrics,
    /// What parts are put together in.
    pool: Pool,
    /// Where storage is an object store.
    copies: Option<Arc<Copies>>,
    /// Held while an upload becomes a blob, by the last digit of its id: who asks for the same
    /// commit again gets its result.
    commits: [tokio::sync::Mutex<()>; 16],
}

impl Ingest {
    #[must_use]
    pub fn new(uploads: Arc<Uploads>, blobs: Arc<Blobs>, metrics: Metrics) -> Self {
        Self {
            uploads,
            blobs,
            metrics,
            pool: Pool::new(SPARE_BYTES),
            copies: None,
            commits: Default::default(),
        }
    }

    /// Has blobs held here until an object store has them.
    #[must_use]
    pub fn holding(mut self, copies: Arc<Copies>) -> Self {
        self.copies = Some(copies);
        self
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// Too many uploads, or a failure of the disk.
    pub async fn create(&self) -> Result<UploadId, IngestError> {
        self.with(|uploads| uploads.create()).await
    }

    /// Returns the bytes received so far.
    ///
    /// # Errors
    /// [`UploadError::Unknown`].
    pub async fn offset(&self, id: UploadId) -> Result<u64, IngestError> {
        self.with(move |uploads| uploads.offset(id)).await
    }

    /// Appends a stream; returns the bytes received so far. `at`, where given, must be the offset
    /// before. Two streams into one upload end one of them. Another origin gets a copy, unless this
    /// is one.
    ///
    /// # Errors
    /// [`UploadError::Offset`]; [`IngestError::Body`] where the stream breaks off, after what came
    /// was kept.
    pub async fn append(
        &self,
        id: UploadId,
        at: Option<u64>,
        is_mirror: bool,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<u64, IngestError> {
        let offset = self.offset(id).await?;
        if at.is_some_and(|at| at != offset) {
            return Err(UploadError::Offset { offset }.into());
        }
        let copies = self.copies.as_ref().filter(|_| !is_mirror);
        let mut copying = copies.and_then(|copies| copies.begin(id, offset));
        let appended = self.write(id, offset, &mut copying, body).await;
        if let (Some(copying), Err(error)) = (&mut copying, &appended)
            && !matches!(error, IngestError::Body(_))
        {
            copying.give_up();
        }
        appended
    }

    async fn write(
        &self,
        id: UploadId,
        offset: u64,
        copying: &mut Option<Copying>,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<u64, IngestError> {
        let mut body = std::pin::pin!(body);
        let mut parts = Parts::new(&self.pool, offset);
        // The disk and the hashes work on one part while the next one comes in.
        let mut writer = Writer::new(Arc::clone(&self.uploads), id, offset);
        let ended = loop {
            match body.next().await {
                Some(Ok(mut bytes)) => {
                    while let Some(part) = parts.add(&mut bytes) {
                        Self::put(part, &mut writer, copying).await?;
                    }
                }
                Some(Err(error)) => break Err(IngestError::Body(error)),
                None => break Ok(()),
            }
        };
        Self::put(parts.rest(), &mut writer, copying).await?;
        let offset = writer.end().await?;
        ended.map(|()| offset)
    }

    async fn put(
        part: Bytes,
        writer: &mut Writer,
        copying: &mut Option<Copying>,
    ) -> Result<(), IngestError> {
        writer.write(part.clone()).await?;
        if let Some(copying) = copying
            && !part.is_empty()
        {
            copying.send(&part).await;
        }
        Ok(())
    }

    /// Makes a blob of an upload whose digest is right; returns its metainfo. When this returns
    /// the blob is durable: in storage, or where that is an object store, on the disks of two
    /// origins. A digest that is there already is no error, so that an answer which was lost can be
    /// asked for again.
    ///
    /// # Errors
    /// [`UploadError::Digest`]: the upload is gone, nothing was stored.
    pub async fn commit(
        &self,
        id: UploadId,
        digest: Digest,
        task: Task,
    ) -> Result<Committed, IngestError> {
        let is_mirror = task.mirror_of.is_some();
        let repositories = task.repositories.clone();
        let copied = self.end_copy(id, digest, &task).await;
        let turn = self.commits[usize::from(id.last_digit())].lock().await;
        let committed = match self.finish(id, digest, task).await {
            Err(error) if is_gone(&error) => {
                let found = self.blobs.committed(&digest).await?;
                found.ok_or(error)?
            }
            other => other?,
        };
        // Copies take their time.
        drop(turn);
        if let Some(copies) = &self.copies
            && !is_mirror
        {
            let sha256 = committed.sha256;
            let copy = CopyOf {
                content: &sha256,
                digest: &digest,
                repositories: &repositories,
            };
            copies.secure(copy, copied).await?;
        }
        Ok(committed)
    }

    /// Ends the second copy while this one is made durable.
    async fn end_copy(
        &self,
        id: UploadId,
        digest: Digest,
        task: &Task,
    ) -> impl Future<Output = bool> + use<> {
        let copies = self.copies.clone();
        let copies = copies.filter(|_| task.mirror_of.is_none());
        let repositories = task.repositories.clone();
        // Where there is no such upload it may have become a blob before.
        let length = self.offset(id).await.unwrap_or_default();
        let ending = tokio::spawn(async move {
            match copies {
                Some(copies) => copies.commit(id, &digest, length, &repositories).await,
                None => false,
            }
        });
        async move { ending.await.unwrap_or(false) }
    }

    async fn finish(
        &self,
        id: UploadId,
        digest: Digest,
        task: Task,
    ) -> Result<Committed, IngestError> {
        let finished = self.with(move |uploads| uploads.finish(id, digest)).await?;
        let sha256 = finished.sha256;
        let held = self.copies.as_ref().map(|copies| copies.folder());
        let held = held.map(|folder| folder as &dyn Backend);
        let metainfo = self
            .blobs
            .adopt(held, &digest, &sha256, &finished.path, &finished.tree)
            .await?;
        if let Some(copies) = &self.copies {
            copies.take(&sha256, &digest, &task).await?;
        }
        self.uploads.forget(id);
        self.metrics.uploads.inc();
        self.metrics.committed_bytes.inc_by(finished.tree.length);
        tracing::info!(%digest, length = finished.tree.length, "took a pushed blob");
        Ok(Committed { metainfo, sha256 })
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// [`UploadError::Unknown`].
    pub async fn cancel(&self, id: UploadId) -> Result<(), IngestError> {
        if let Some(copies) = self.copies.clone() {
            tokio::spawn(async move { copies.cancel(id).await });
        }
        self.with(move |uploads| uploads.remove(id)).await
    }

    async fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Uploads) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, IngestError> {
        let uploads = Arc::clone(&self.uploads);
        Ok(blocking(move || act(&uploads)).await?)
    }
}

/// Returns whether the upload, or its file, is not there: it may have become a blob before.
fn is_gone(error: &IngestError) -> bool {
    match error {
        IngestError::Upload(UploadError::Unknown) => true,
        IngestError::Upload(UploadError::Disk(error)) => error.is_not_found(),
        IngestError::Upload(_)
        | IngestError::Blob(_)
        | IngestError::Body(_)
        | IngestError::Take(_)
        | IngestError::NotSafe(_) => false,
    }
}

async fn joined(
    writing: tokio::task::JoinHandle<Result<u64, UploadError>>,
) -> Result<u64, IngestError> {
    match writing.await {
        Ok(written) => Ok(written?),
        Err(error) => Err(IngestError::Body(io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests;
