//! The other origins as those who read the same store: each byte of it is read by one of them.
//!
//! The runs of a blob are divided among its owners that are up, in turns; who needs a run that is
//! not its own asks the origin whose it is, and reads the store itself where that one does not
//! answer soon. What is not divided, whether a blob is there and its metainfo, is asked of the
//! first owner. Two origins that do not agree who is up read something twice, and nothing worse:
//! whoever is asked asks nobody else.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use api::ring::{ObjectHead, RunQuery};
use api::{BlobStream, CallError, Limits, RingClient};
use async_trait::async_trait;
use backend::{ETag, Error, Key, Object, Stat, layout};
use bytes::Bytes;
use futures_util::StreamExt as _;
use oci::Digest;
use torrent::SwarmName;

use crate::metrics::{Metrics, Outcome, RingRead, Way};
use crate::runs::Others;

/// The origins of the cluster, seen from one of them.
#[derive(Debug)]
pub struct Ring {
    client: RingClient,
    metrics: Metrics,
}

impl Ring {
    #[must_use]
    pub const fn new(client: RingClient, metrics: Metrics) -> Self {
        Self { client, metrics }
    }

    /// Returns how long the others are waited for: where they are slow the store is asked.
    #[must_use]
    pub fn limits() -> Limits {
        Limits {
            answer: Duration::from_secs(3),
            ..Limits::default()
        }
    }

    /// Returns the first owner of a blob that is up; `None` where that is this origin.
    #[must_use]
    pub fn first(&self, digest: &Digest) -> Option<usize> {
        self.other(digest, 0)
    }

    fn other(&self, digest: &Digest, turn: u64) -> Option<usize> {
        let owners = self.client.owners(&SwarmName::Blob(*digest));
        let at = turn.checked_rem(owners.len() as u64)?;
        let owner = *owners.get(usize::try_from(at).ok()?)?;
        (owner != self.client.me()).then_some(owner)
    }

    /// Asks an origin for an object in the store, or held by anybody; `None` where it is absent.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn stat(&self, origin: usize, key: &Key) -> Result<Option<Stat>, Error> {
        let answer = self.client.stat(origin, key.as_str()).await;
        self.note(answer.as_ref().map(Option::is_some));
        Ok(answer.map_err(unavailable)?.map(stat_of))
    }

    /// Asks all other origins whether they hold an object.
    pub async fn held_stat(&self, key: &Key) -> Option<Stat> {
        let (_, head) = self.client.who_holds(key.as_str()).await?;
        Some(stat_of(head))
    }

    /// Reads a small object that another origin holds; `None` where none does.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; the origin breaks off.
    pub async fn held_bytes(
        &self,
        key: &Key,
        limit_bytes: u64,
    ) -> Result<Option<(Bytes, Stat)>, Error> {
        let Some(stat) = self.held_stat(key).await else {
            return Ok(None);
        };
        let length = stat.length;
        if length > limit_bytes {
            return Err(Error::TooLarge {
                key: key.clone(),
                length,
                limit_bytes,
            });
        }
        if length == 0 {
            return Ok(Some((Bytes::new(), stat)));
        }
        let object = self.held(key, 0..length).await?;
        Ok(Some((object.into_bytes(key).await?, stat)))
    }

    /// Asks the first owner of a blob for its metainfo; `None` where the blob is absent, or is not
    /// hashed to its end.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn described(&self, origin: usize, digest: &Digest) -> Result<Option<Bytes>, Error> {
        let answer = self.client.described(origin, digest).await;
        self.note(answer.as_ref().map(Option::is_some));
        answer.map_err(unavailable)
    }

    /// Counts a question to another origin.
    fn note(&self, answer: Result<bool, &CallError>) {
        let outcome = match answer {
            Ok(true) => Outcome::Done,
            Ok(false) => Outcome::Absent,
            Err(_) => Outcome::Failed,
        };
        let read = RingRead {
            way: Way::Asked,
            outcome,
        };
        self.metrics.ring_reads.get_or_create(&read).inc();
    }

    fn object(
        &self,
        answer: Result<(ObjectHead, BlobStream), CallError>,
        range: Range<u64>,
    ) -> Result<Object, Error> {
        self.note(answer.as_ref().map(|_| true));
        let (head, body) = answer.map_err(unavailable)?;
        let body = body.map(|part| part.map_err(|error| Error::Unavailable(error.to_string())));
        Ok(Object {
            stat: stat_of(head),
            range,
            body: body.boxed(),
        })
    }
}

#[async_trait]
impl Others for Ring {
    fn reader(&self, key: &Key, run: u64) -> Option<usize> {
        self.other(&layout::content_of(key)?, run)
    }

    async fn run(
        &self,
        origin: usize,
        key: &Key,
        stat: &Stat,
        range: Range<u64>,
    ) -> Result<Object, Error> {
        let query = RunQuery {
            length: stat.length,
            etag: stat.etag.to_string(),
        };
        let answer = self
            .client
            .run(origin, key.as_str(), &query, range.clone())
            .await;
        self.object(answer, range)
    }

    async fn held(&self, key: &Key, range: Range<u64>) -> Result<Object, Error> {
        let Some((origin, _)) = self.client.who_holds(key.as_str()).await else {
            return Err(Error::NotFound { key: key.clone() });
        };
        let answer = self.client.held(origin, key.as_str(), range.clone()).await;
        self.object(answer, range)
    }
}

/// When an object was written is not told between origins: none of them asks.
fn stat_of(head: ObjectHead) -> Stat {
    Stat {
        length: head.length,
        etag: ETag::new(head.etag),
        modified: SystemTime::UNIX_EPOCH,
    }
}

fn unavailable(error: CallError) -> Error {
    Error::Unavailable(error.to_string())
}
