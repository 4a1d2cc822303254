//! A bucket of an S3-compatible object store.
//!
//! Objects are named as files are in a folder, so that a bucket which docker-registry filled is
//! served as it is. Conditions of writes are `If-Match` and `If-None-Match`; whether a store keeps
//! them is found out by [`crate::probe`].

mod bucket;
mod config;
mod failure;
mod limits;
mod list;
#[cfg(test)]
mod tests;
mod upload;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream as SdkStream, DateTime};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;

pub use self::config::{S3Config, SecretKey};
use self::failure::Failure;
use self::limits::Limits;
use self::upload::{PART_BYTES, next_part};
use crate::object::clip_range;
use crate::{
    Backend, ByteStream, Condition, ETag, Error, Key, List, Listing, Object, PutStream, Stat,
};

const OCTETS: &str = "application/octet-stream";
/// Times that a body which broke off is gone on with, without a byte in between.
const RESUMES: u32 = 4;
/// Times that a write is repeated because somebody else wrote at that moment.
const CONFLICTS: u32 = 6;
/// Pause before the first of those; each next one is twice as long.
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);

/// Objects in a bucket. Clones are the same one.
#[derive(Clone)]
pub struct S3Backend {
    client: Client,
    bucket: Arc<str>,
    /// What every key in the bucket starts with: empty, or a folder and its slash.
    prefix: Arc<str>,
    place: Arc<str>,
    limits: Limits,
    read_timeout: Duration,
    send_once: bool,
}

impl std::fmt::Debug for S3Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Backend")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl S3Backend {
    /// Opens a bucket, which is asked for once.
    ///
    /// # Errors
    /// [`Error::Config`], which says endpoint, bucket and what the store answered.
    pub async fn open(config: &S3Config) -> Result<Self, Error> {
        let client = config.client().await?;
        let prefix = config.prefix.trim_matches('/');
        let backend = Self {
            client,
            bucket: config.bucket.as_str().into(),
            prefix: if prefix.is_empty() {
                "".into()
            } else {
                format!("{prefix}/").into()
            },
            place: config.place().into(),
            limits: Limits::new(
                config.max_requests.get(),
                config.read_bytes_per_s.map(std::num::NonZeroU64::get),
            ),
            read_timeout: config.read_timeout,
            send_once: config.send_once,
        };
        backend.look_for_bucket(config).await?;
        Ok(backend)
    }

    /// Returns the key in the bucket.
    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Asks for bytes of an object; returns its length besides.
    async fn fetch(
        &self,
        key: &Key,
        range: Option<&Range<u64>>,
        version: Option<&ETag>,
    ) -> Result<GetObjectOutput, Failure> {
        let header = range.map(|range| match range.end.checked_sub(1) {
            Some(last) if range.end != u64::MAX => format!("bytes={}-{last}", range.start),
            Some(_) | None => format!("bytes={}-", range.start),
        });
        self.client
            .get_object()
            .bucket(&*self.bucket)
            .key(self.path(key.as_str()))
            .set_range(header)
            .set_if_match(version.map(|version| version.as_str().to_owned()))
            .send()
            .await
            .map_err(|error| Failure::of(&error))
    }

    /// Returns what a request that sends so many bytes is made with.
    fn sending(&self, body_bytes: u64) -> aws_sdk_s3::config::Builder {
        let config = aws_sdk_s3::config::Builder::new();
        match limits::answer_wait(self.read_timeout, body_bytes) {
            Some(wait) => {
                config.timeout_config(TimeoutConfig::builder().read_timeout(wait).build())
            }
            None => config,
        }
    }

    /// Returns what a request is made with that must not be repeated where that does harm.
    fn once(&self, config: aws_sdk_s3::config::Builder) -> aws_sdk_s3::config::Builder {
        if self.send_once {
            config.retry_config(RetryConfig::disabled())
        } else {
            config
        }
    }

    async fn put_once(
        &self,
        key: &Key,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<ETag, Error> {
        let mut pause = CONFLICT_PAUSE;
        for attempt in 1.. {
            let _turn = self.limits.request().await;
            let request = self
                .client
                .put_object()
                .bucket(&*self.bucket)
                .key(self.path(key.as_str()))
                .content_type(OCTETS)
                .body(SdkStream::from(bytes.clone()));
            let request = match condition {
                Condition::Any => request,
                Condition::IfAbsent => request.if_none_match("*"),
                Condition::IfMatch(etag) => request.if_match(etag.as_str()),
            };
            let mut sending = self.sending(bytes.len() as u64);
            if *condition != Condition::Any {
                sending = self.once(sending);
            }
            let request = request.customize().config_override(sending);
            let failure = match request.send().await {
                Ok(put) => return etag_of(put.e_tag, key),
                Err(error) => Failure::of(&error),
            };
            match (failure, condition) {
                // The object whose version it should have had is gone.
                (Failure::NotFound, Condition::IfMatch(_)) => {
                    return Err(Error::Precondition { key: key.clone() });
                }
                (Failure::Conflict, _) if attempt < CONFLICTS => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                (failure, _) => return Err(failure.into_error("write", key)),
            }
        }
        unreachable!("the loop ends by returning")
    }
}

#[async_trait]
impl Backend for S3Backend {
    async fn stat(&self, key: &Key) -> Result<Stat, Error> {
        let _turn = self.limits.request().await;
        let head = self
            .client
            .head_object()
            .bucket(&*self.bucket)
            .key(self.path(key.as_str()))
            .send()
            .await
            .map_err(|error| Failure::of(&error).into_error("look at", key))?;
        let length = head
            .content_length
            .and_then(|length| u64::try_from(length).ok());
        Ok(Stat {
            length: length.ok_or_else(|| no_length(key))?,
            etag: etag_of(head.e_tag, key)?,
            modified: time_of(head.last_modified),
        })
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object, Error> {
        if let Some(range) = &range
            && range.start >= range.end
        {
            // No request can ask for nothing.
            let stat = self.stat(key).await?;
            let range = clip_range(key, Some(range.clone()), stat.length)?;
            return Ok(Object {
                stat,
                range,
                body: stream::empty().boxed(),
            });
        }
        let turn = self.limits.request().await;
        let got = match self.fetch(key, range.as_ref(), None).await {
            Ok(got) => got,
            Err(Failure::Range) => {
                drop(turn);
                let stat = self.stat(key).await?;
                let range = clip_range(key, range, stat.length)?;
                return Ok(Object {
                    stat,
                    range,
                    body: stream::empty().boxed(),
                });
            }
            Err(failure) => return Err(failure.into_error("read", key)),
        };
        let stat = Stat {
            length: whole_length(&got, range.is_some()).ok_or_else(|| no_length(key))?,
            etag: etag_of(got.e_tag.clone(), key)?,
            modified: time_of(got.last_modified),
        };
        let range = clip_range(key, range, stat.length)?;
        let body = Body {
            backend: self.clone(),
            key: key.clone(),
            version: stat.etag.clone(),
            left: range.clone(),
            current: Some(got.body),
            failures: 0,
            _turn: turn,
        };
        Ok(Object {
            stat,
            range,
            body: body.into_stream(),
        })
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Stat), Error> {
        let object = self.get(key, None).await?;
        let stat = object.stat.clone();
        if stat.length > limit_bytes {
            return Err(Error::TooLarge {
                key: key.clone(),
                length: stat.length,
                limit_bytes,
            });
        }
        Ok((object.into_bytes(key).await?, stat))
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<ETag, Error> {
        self.put_once(key, bytes, &condition).await
    }

    async fn put_stream(
        &self,
        key: &Key,
        mut body: PutStream,
        condition: Condition,
    ) -> Result<ETag, Error> {
        let first = next_part(&mut body).await.map_err(|source| Error::Body {
            key: key.clone(),
            source,
        })?;
        if first.len() < PART_BYTES {
            return self.put_once(key, first, &condition).await;
        }
        self.put_parts(key, first, body, &condition).await
    }

    async fn adopt(&self, key: &Key, file: &Path) -> Result<ETag, Error> {
        let io = |operation: &'static str| {
            let path = file.to_owned();
            move |source| Error::Io {
                operation,
                path,
                source,
            }
        };
        let metadata = tokio::fs::metadata(file).await.map_err(io("look at"))?;
        let etag = if metadata.len() <= PART_BYTES as u64 {
            let bytes = tokio::fs::read(file).await.map_err(io("read"))?;
            self.put_once(key, bytes.into(), &Condition::Any).await?
        } else {
            self.put_file(key, file, metadata.len()).await?
        };
        tokio::fs::remove_file(file).await.map_err(io("remove"))?;
        Ok(etag)
    }

    fn staging(&self) -> Option<PathBuf> {
        None
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        let _turn = self.limits.request().await;
        let deleted = self
            .client
            .delete_object()
            .bucket(&*self.bucket)
            .key(self.path(key.as_str()))
            .customize()
            .config_override(self.once(aws_sdk_s3::config::Builder::new()))
            .send()
            .await;
        match deleted.map_err(|error| Failure::of(&error)) {
            Ok(_) | Err(Failure::NotFound) => Ok(()),
            Err(failure) => Err(failure.into_error("remove", key)),
        }
    }

    async fn list(&self, list: List) -> Result<Listing, Error> {
        self.list_pages(list).await
    }
}

/// Bytes of one version of an object. Where they break off they are asked for again from there.
struct Body {
    backend: S3Backend,
    key: Key,
    version: ETag,
    left: Range<u64>,
    current: Option<SdkStream>,
    /// Since the last byte.
    failures: u32,
    _turn: OwnedSemaphorePermit,
}

impl Body {
    fn into_stream(self) -> ByteStream {
        stream::try_unfold(self, |mut body| async move {
            let bytes = body.next().await?;
            Ok(bytes.map(|bytes| (bytes, body)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.left.is_empty() {
            let Some(current) = &mut self.current else {
                self.resume().await?;
                continue;
            };
            let patience = self.backend.read_timeout;
            let reason = match tokio::time::timeout(patience, current.next()).await {
                Ok(Some(Ok(bytes))) if bytes.is_empty() => continue,
                Ok(Some(Ok(bytes))) => {
                    let count = bytes.len() as u64;
                    if count > self.left.end - self.left.start {
                        return Err(Error::Truncated {
                            key: self.key.clone(),
                        });
                    }
                    self.left.start += count;
                    self.failures = 0;
                    self.backend.limits.came(bytes.len()).await;
                    return Ok(Some(bytes));
                }
                Ok(Some(Err(error))) => failure::deepest(&error),
                Ok(None) => "it ended early".to_owned(),
                Err(_) => format!("nothing came for {} s", patience.as_secs()),
            };
            tracing::debug!(key = %self.key, left = ?self.left, reason, "storage broke off");
            self.current = None;
        }
        Ok(None)
    }

    async fn resume(&mut self) -> Result<(), Error> {
        self.failures += 1;
        if self.failures > RESUMES {
            return Err(Error::Truncated {
                key: self.key.clone(),
            });
        }
        let (left, version) = (Some(&self.left), Some(&self.version));
        match self.backend.fetch(&self.key, left, version).await {
            // Some stores do not look at conditions of reads.
            Ok(got) if got.e_tag() != Some(self.version.as_str()) => Err(Error::Truncated {
                key: self.key.clone(),
            }),
            Ok(got) => {
                self.current = Some(got.body);
                Ok(())
            }
            Err(Failure::Unavailable(reason)) => {
                tracing::debug!(key = %self.key, reason, "storage cannot go on yet");
                Ok(())
            }
            // It was replaced: these bytes belong to no version.
            Err(Failure::Precondition | Failure::NotFound | Failure::Range) => {
                Err(Error::Truncated {
                    key: self.key.clone(),
                })
            }
            Err(failure) => Err(failure.into_error("go on reading", &self.key)),
        }
    }
}

fn etag_of(etag: Option<String>, key: &Key) -> Result<ETag, Error> {
    let etag = etag.filter(|etag| !etag.is_empty());
    let missing = || Error::Unavailable(format!("the store gave no ETag for {key}"));
    Ok(ETag::new(etag.ok_or_else(missing)?))
}

fn no_length(key: &Key) -> Error {
    Error::Unavailable(format!("the store did not say how long {key} is"))
}

fn whole_length(got: &GetObjectOutput, is_part: bool) -> Option<u64> {
    match got.content_range() {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        // A store that ignores ranges would give other bytes than were asked for.
        None if is_part => None,
        None => u64::try_from(got.content_length()?).ok(),
    }
}

fn time_of(time: Option<DateTime>) -> SystemTime {
    let time = time.and_then(|time| SystemTime::try_from(time).ok());
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}
