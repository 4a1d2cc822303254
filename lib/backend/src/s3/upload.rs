//! Objects longer than one request: parts, a few of them at a time.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::{ByteStream as SdkStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use futures_util::stream::StreamExt as _;
use tokio::task::JoinSet;

use super::{S3Backend, etag_of};
use crate::s3::failure::Failure;
use crate::{Condition, ETag, Error, Key, PutStream};

/// Bytes of a part; an object of at most as many is one request. 10,000 parts are the most, so
/// streams of unknown length end at 156 GiB; files have longer parts where they need them.
pub(super) const PART_BYTES: usize = 16 << 20;
/// Parts that are sent at the same time.
const PARTS_AT_ONCE: usize = 4;
/// How long the parts of a write that was left may take to be removed.
const ABORT_WAIT: Duration = Duration::from_secs(60);
/// Most parts that an object may have.
const MAX_PARTS: u64 = 10_000;

/// A multipart upload that was begun. Clones are the same one.
#[derive(Clone)]
struct Parts {
    backend: S3Backend,
    key: Key,
    id: String,
}

/// An upload in parts that is no object yet. Where it is dropped before it became one, what was
/// sent of it is removed in the background: it would be paid for without being seen.
struct Begun(Option<Parts>);

impl Begun {
    fn parts(&self) -> Parts {
        self.0.clone().expect("it is there until it ends")
    }

    /// Makes the object of its parts, or forgets them.
    async fn finish(
        mut self,
        sent: Result<Vec<CompletedPart>, Error>,
        condition: &Condition,
    ) -> Result<ETag, Error> {
        let parts = self.parts();
        let done = match sent {
            Ok(sent) => parts.complete(sent, condition).await,
            Err(error) => Err(error),
        };
        if done.is_err() {
            parts.abort().await;
        }
        self.0 = None;
        done
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(parts), Ok(runtime)) = (self.0.take(), runtime) {
            runtime.spawn(async move {
                if tokio::time::timeout(ABORT_WAIT, parts.abort()).await.is_err() {
                    tracing::warn!(key = %parts.key, "parts of a write that was left stay in storage");
                }
            });
        }
    }
}

/// Parts that are under way. Dropping it stops them.
struct Sending {
    parts: Parts,
    tasks: JoinSet<Result<CompletedPart, Error>>,
    sent: Vec<CompletedPart>,
    /// Number of the next part; they count from 1.
    next: i32,
}

impl S3Backend {
    /// Sends a stream whose first part is longer than one request.
    pub(super) async fn put_parts(
        &self,
        key: &Key,
        first: Bytes,
        rest: PutStream,
        condition: &Condition,
    ) -> Result<ETag, Error> {
        let begun = self.begin(key).await?;
        let sent = begun.parts().send_stream(first, rest).await;
        begun.finish(sent, condition).await
    }

    /// Sends a file in parts.
    pub(super) async fn put_file(
        &self,
        key: &Key,
        path: &Path,
        length: u64,
    ) -> Result<ETag, Error> {
        let begun = self.begin(key).await?;
        let sent = begun.parts().send_file(path, length).await;
        begun.finish(sent, &Condition::Any).await
    }

    async fn begin(&self, key: &Key) -> Result<Begun, Error> {
        let _turn = self.limits.request().await;
        let begun = self
            .client
            .create_multipart_upload()
            .bucket(&*self.bucket)
            .key(self.path(key.as_str()))
            .content_type(super::OCTETS)
            .send()
            .await
            .map_err(|error| Failure::of(&error).into_error("begin to write", key))?;
        let id = begun
            .upload_id
            .ok_or_else(|| Error::Unavailable(format!("the store gave no upload id for {key}")))?;
        Ok(Begun(Some(Parts {
            backend: self.clone(),
            key: key.clone(),
            id,
        })))
    }
}

impl Sending {
    fn new(parts: Parts) -> Self {
        Self {
            parts,
            tasks: JoinSet::new(),
            sent: Vec::new(),
            next: 1,
        }
    }

    /// Begins to send a part, as soon as not too many are under way.
    async fn push(&mut self, body: SdkStream, bytes: u64) -> Result<(), Error> {
        while self.tasks.len() >= PARTS_AT_ONCE {
            self.one_more().await?;
        }
        let number = self.next;
        self.next += 1;
        self.tasks
            .spawn(self.parts.clone().send(number, body, bytes));
        Ok(())
    }

    /// Waits for one that is under way; returns whether there was one.
    async fn one_more(&mut self) -> Result<bool, Error> {
        let Some(ended) = self.tasks.join_next().await else {
            return Ok(false);
        };
        let ended = ended.map_err(|error| Error::Unavailable(error.to_string()))?;
        self.sent.push(ended?);
        Ok(true)
    }

    /// Returns all parts in order, when all were sent.
    async fn end(mut self) -> Result<Vec<CompletedPart>, Error> {
        while self.one_more().await? {}
        self.sent.sort_by_key(|part| part.part_number);
        Ok(self.sent)
    }
}

impl Parts {
    async fn send_stream(
        self,
        first: Bytes,
        mut rest: PutStream,
    ) -> Result<Vec<CompletedPart>, Error> {
        let key = self.key.clone();
        let mut sending = Sending::new(self);
        let mut part = first;
        while !part.is_empty() {
            let bytes = part.len() as u64;
            sending.push(SdkStream::from(part), bytes).await?;
            part = next_part(&mut rest).await.map_err(|source| Error::Body {
                key: key.clone(),
                source,
            })?;
        }
        sending.end().await
    }

    async fn send_file(self, path: &Path, length: u64) -> Result<Vec<CompletedPart>, Error> {
        let part_bytes = (PART_BYTES as u64).max(length.div_ceil(MAX_PARTS));
        let mut sending = Sending::new(self);
        let mut from = 0;
        while from < length {
            let size = part_bytes.min(length - from);
            let body = SdkStream::read_from()
                .path(path)
                .offset(from)
                .length(Length::Exact(size))
                .build()
                .await;
            let body = body.map_err(|error| Error::Io {
                operation: "read",
                path: path.to_owned(),
                source: std::io::Error::other(error),
            })?;
            sending.push(body, size).await?;
            from += size;
        }
        sending.end().await
    }

    async fn send(self, number: i32, body: SdkStream, bytes: u64) -> Result<CompletedPart, Error> {
        let _turn = self.backend.limits.request().await;
        let sent = self
            .backend
            .client
            .upload_part()
            .bucket(&*self.backend.bucket)
            .key(self.backend.path(self.key.as_str()))
            .upload_id(&self.id)
            .part_number(number)
            .body(body)
            .customize()
            .config_override(self.backend.sending(bytes))
            .send()
            .await
            .map_err(|error| Failure::of(&error).into_error("write a part of", &self.key))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .build())
    }

    async fn complete(
        &self,
        parts: Vec<CompletedPart>,
        condition: &Condition,
    ) -> Result<ETag, Error> {
        let _turn = self.backend.limits.request().await;
        let whole = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let mut request = self
            .backend
            .client
            .complete_multipart_upload()
            .bucket(&*self.backend.bucket)
            .key(self.backend.path(self.key.as_str()))
            .upload_id(&self.id)
            .multipart_upload(whole);
        request = match condition {
            Condition::Any => request,
            Condition::IfAbsent => request.if_none_match("*"),
            Condition::IfMatch(etag) => request.if_match(etag.as_str()),
        };
        let completed =
            request
                .send()
                .await
                .map_err(|error| match (Failure::of(&error), condition) {
                    // The object whose version it should have had is gone.
                    (Failure::NotFound, Condition::IfMatch(_)) => Error::Precondition {
                        key: self.key.clone(),
                    },
                    (failure, _) => failure.into_error("complete", &self.key),
                })?;
        etag_of(completed.e_tag, &self.key)
    }

    /// Removes what was sent.
    async fn abort(&self) {
        let _turn = self.backend.limits.request().await;
        let aborted = self
            .backend
            .client
            .abort_multipart_upload()
            .bucket(&*self.backend.bucket)
            .key(self.backend.path(self.key.as_str()))
            .upload_id(&self.id)
            .send()
            .await;
        // Where there is no such upload any more, nothing is left of it.
        if let Err(error) = aborted
            && error.code() != Some("NoSuchUpload")
        {
            let reason = super::failure::reason(&error);
            tracing::warn!(key = %self.key, reason, "parts of a failed write stay in storage");
        }
    }
}

/// Returns the next bytes of a stream: a whole part, but at its end.
pub(super) async fn next_part(body: &mut PutStream) -> std::io::Result<Bytes> {
    let mut part = BytesMut::new();
    while part.len() < PART_BYTES
        && let Some(bytes) = body.next().await.transpose()?
    {
        part.extend_from_slice(&bytes);
    }
    Ok(part.freeze())
}
