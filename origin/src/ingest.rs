//! Uploads: bytes in, a blob out that is durable, hashed and ready for the swarm.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use oci::Digest;
use store::{UploadError, UploadId, Uploads};
use torrent::MetaInfo;

use crate::blobs::{BlobError, Blobs, blocking};
use crate::metrics::Metrics;

/// Bytes hashed and written at a time, while the next ones come in.
const PART_BYTES: usize = 1 << 20;

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
}

/// Takes uploads and makes blobs of them.
#[derive(Debug)]
pub struct Ingest {
    uploads: Arc<Uploads>,
    blobs: Arc<Blobs>,
    metrics: Metrics,
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
            commits: Default::default(),
        }
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
    /// before. Two streams into one upload end one of them.
    ///
    /// # Errors
    /// [`UploadError::Offset`]; [`IngestError::Body`] where the stream breaks off, after what came
    /// was kept.
    pub async fn append(
        &self,
        id: UploadId,
        at: Option<u64>,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<u64, IngestError> {
        let mut offset = self.offset(id).await?;
        if at.is_some_and(|at| at != offset) {
            return Err(UploadError::Offset { offset }.into());
        }
        let mut body = std::pin::pin!(body);
        let mut buffer = BytesMut::new();
        let mut broken = None;
        // The disk and the hashes work on one part while the next one comes in. A part that was
        // begun is written to its end even where this call is dropped.
        let mut writing = None;
        let mut ended = false;
        while !ended {
            match body.next().await {
                Some(Ok(bytes)) => buffer.extend_from_slice(&bytes),
                Some(Err(error)) => {
                    broken = Some(error);
                    ended = true;
                }
                None => ended = true,
            }
            if buffer.len() >= PART_BYTES || ended {
                if let Some(writing) = writing.take() {
                    offset = joined(writing).await?;
                }
                let (part, uploads) = (buffer.split().freeze(), Arc::clone(&self.uploads));
                writing = Some(tokio::task::spawn_blocking(move || {
                    uploads.append(id, Some(offset), &part)
                }));
            }
        }
        if let Some(writing) = writing {
            offset = joined(writing).await?;
        }
        match broken {
            Some(error) => Err(IngestError::Body(error)),
            None => Ok(offset),
        }
    }

    /// Makes a blob of an upload whose digest is right; returns its metainfo. When this returns
    /// the blob is durable in storage. A digest that is in storage already is no error, so that an
    /// answer which was lost can be asked for again.
    ///
    /// # Errors
    /// [`UploadError::Digest`]: the upload is gone, nothing was stored.
    pub async fn commit(&self, id: UploadId, digest: Digest) -> Result<Arc<MetaInfo>, IngestError> {
        let _turn = self.commits[usize::from(id.last_digit())].lock().await;
        match self.finish(id, digest).await {
            Err(error) if is_gone(&error) => match self.blobs.metainfo(&digest).await? {
                Some(metainfo) => Ok(metainfo),
                None => Err(error),
            },
            other => other,
        }
    }

    async fn finish(&self, id: UploadId, digest: Digest) -> Result<Arc<MetaInfo>, IngestError> {
        let finished = self.with(move |uploads| uploads.finish(id, digest)).await?;
        let metainfo = self
            .blobs
            .adopt(&digest, &finished.sha256, &finished.path, &finished.tree)
            .await?;
        self.uploads.forget(id);
        self.metrics.uploads.inc();
        self.metrics.committed_bytes.inc_by(finished.tree.length);
        tracing::info!(%digest, length = finished.tree.length, "stored a pushed blob");
        Ok(metainfo)
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// [`UploadError::Unknown`].
    pub async fn cancel(&self, id: UploadId) -> Result<(), IngestError> {
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
        IngestError::Upload(_) | IngestError::Blob(_) | IngestError::Body(_) => false,
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
