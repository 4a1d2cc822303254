//! One reading of a source from its first byte to its last, through the failures of a network.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use backend::ByteStream;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use crate::blobs::{BlobError, Blobs, Content};
use crate::runs::same_bytes;

/// Times in a row that reading may fail without a byte of progress.
const MAX_ATTEMPTS: u32 = 5;
/// Wait before the second attempt; doubled for each further one.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// How long a source may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Why a source was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("it changed while it was read")]
    Changed,
    #[error("it could not be read: {0}")]
    Unreadable(#[source] backend::Error),
}

/// Reads content in order, in one request where nothing fails. Goes on after a failure where it
/// stopped, as long as the source is the same.
pub(crate) struct Source {
    blobs: Arc<Blobs>,
    content: Content,
    body: Option<ByteStream>,
    /// Bytes taken out of bodies, `buffer` included.
    position: u64,
    buffer: BytesMut,
    attempts: u32,
}

impl Source {
    #[must_use]
    pub(crate) fn starting_at(position: u64, blobs: Arc<Blobs>, content: Content) -> Self {
        Self {
            blobs,
            content,
            body: None,
            position,
            buffer: BytesMut::new(),
            attempts: 0,
        }
    }

    /// Returns the bytes of `range`, which must begin where the last one ended.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) async fn next(&mut self, range: Range<u64>) -> Result<Bytes, SourceError> {
        debug_assert_eq!(range.start, self.position - self.buffer.len() as u64);
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        while self.buffer.len() < length {
            match self.part().await {
                Ok(part) => {
                    self.attempts = 0;
                    self.position += part.len() as u64;
                    if self.buffer.is_empty() && part.len() == length {
                        return Ok(part);
                    }
                    self.buffer.extend_from_slice(&part);
                }
                Err(SourceError::Unreadable(error)) if !error.is_permanent() => {
                    self.body = None;
                    self.attempts += 1;
                    if self.attempts == MAX_ATTEMPTS {
                        return Err(SourceError::Unreadable(error));
                    }
                    tracing::debug!(%error, attempt = self.attempts, "reading the source again");
                    tokio::time::sleep(FIRST_DELAY * (1 << (self.attempts - 1))).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    /// Returns the bytes of `range` anew, because those that came were damaged; `None` where they
    /// would be the same again.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) async fn again(&mut self, range: Range<u64>) -> Result<Option<Bytes>, SourceError> {
        if !self.blobs.doubt(&self.content.key, Some(range.start)) {
            return Ok(None);
        }
        self.body = None;
        self.buffer.clear();
        self.position = range.start;
        self.next(range).await.map(Some)
    }

    async fn part(&mut self) -> Result<Bytes, SourceError> {
        let unreadable = SourceError::Unreadable;
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                let rest = self.position..self.content.stat.length;
                let opening = self.blobs.read(&self.content, Some(rest));
                let object = within(opening).await?;
                let object = object.map_err(|error| match error {
                    BlobError::Backend(error) => lost(error),
                    BlobError::Length(_) => SourceError::Changed,
                })?;
                if !same_bytes(&object.stat, &self.content.stat) {
                    return Err(SourceError::Changed);
                }
                self.body.insert(object.body)
            }
        };
        match within(body.next()).await? {
            Some(part) => part.map_err(lost),
            None => Err(unreadable(backend::Error::Truncated {
                key: self.content.key.clone(),
            })),
        }
    }
}

/// A source that is gone, another one or shorter than it was has changed.
fn lost(error: backend::Error) -> SourceError {
    let is_gone = error.is_not_found() || error.is_precondition();
    if is_gone || matches!(error, backend::Error::Range { .. }) {
        return SourceError::Changed;
    }
    SourceError::Unreadable(error)
}

async fn within<T>(call: impl Future<Output = T>) -> Result<T, SourceError> {
    let silent = |_| {
        let text = format!("no byte for {} s", SILENCE.as_secs());
        SourceError::Unreadable(backend::Error::Unavailable(text))
    };
    tokio::time::timeout(SILENCE, call).await.map_err(silent)
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("content", &self.content)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
