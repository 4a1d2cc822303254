//! What an origin answers: uploads, and the bytes of blobs.
//!
//! ```text
//! POST   /v1/uploads                       begin an upload        201 UploadBegun
//! GET    /v1/uploads/{id}                  how far is it          200 UploadOffset
//! PATCH  /v1/uploads/{id}?offset=          add bytes              200 UploadOffset
//! PUT    /v1/uploads/{id}?digest=          it is this blob        201 Committed
//! DELETE /v1/uploads/{id}                  give it up             204
//! GET    /v1/blobs/{digest}                bytes, also a range    200, 206
//! DELETE /v1/blobs/{digest}                remove it              204
//! GET    /v1/blobs/{digest}/metainfo       torrent::MetaInfo      200
//! POST   /v1/blobs/{digest}/verify         is it in storage       200
//! GET    /v1/blobs/{digest}/stored?wait=   how far is it there    200 Stored
//! ```
//!
//! Errors have an [`crate::ErrorBody`].

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::header;
use oci::{Digest, RepositoryName};
use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde::{Deserialize, Serialize};
use torrent::SwarmName;

use crate::client::{BlobStream, CallError, Http, Turns, not_pausing, silence, text_of, watched};
use crate::cluster::Cluster;
use crate::members::{Addr, Name, Origin};

/// Path of the collection of uploads.
pub const UPLOADS: &str = "/v1/uploads";
/// Path of one upload.
pub const UPLOAD: &str = "/v1/uploads/{id}";
/// Path of a blob.
pub const BLOB: &str = "/v1/blobs/{digest}";
/// Path of a blob's metainfo.
pub const METAINFO: &str = "/v1/blobs/{digest}/metainfo";
/// Path of the question whether a blob is in storage.
pub const VERIFY: &str = "/v1/blobs/{digest}/verify";
/// Path of the question how much of a blob is in storage.
pub const STORED: &str = "/v1/blobs/{digest}/stored";

/// Longest that an origin waits with the answer to [`STORED`], in seconds.
pub const MAX_STORED_WAIT_S: u64 = 10;

/// How long one part of an upload may take though its bytes keep moving.
const LONGEST_APPEND: Duration = Duration::from_secs(24 * 3600);

/// Answer to the beginning of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadBegun {
    pub id: String,
}

/// Bytes of an upload received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadOffset {
    pub offset: u64,
}

/// A blob that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    pub digest: Digest,
    pub length: u64,
    /// The name that its content has in storage.
    pub sha256: Digest,
    /// Whether the origin holds it, and so knows for a while which repositories it was pushed to.
    #[serde(default)]
    pub is_held: bool,
}

/// How much of a blob is in storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// All of it, and what was found out about it.
    pub stored: bool,
    pub written_bytes: u64,
    pub length: u64,
    /// The name that its content has, or will have, in storage.
    pub sha256: Digest,
    /// Whether it was pushed to the repository in the question, as far as that is remembered.
    #[serde(default)]
    pub is_pushed: bool,
}

/// Query of how much of a blob is in storage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredQuery {
    /// How many seconds the answer may wait for all of it to be there, at most
    /// [`MAX_STORED_WAIT_S`].
    #[serde(default)]
    pub wait: u64,
    /// The repository that the blob may have been pushed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryName>,
}

/// Query of a part of an upload.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendQuery {
    /// Where the sender believes the upload to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Whether the sender is an origin that keeps a second copy here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mirror: bool,
}

/// Query of the end of an upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitQuery {
    pub digest: String,
    /// The origin that brings the blob to storage, where this is its second copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror_of: Option<Name>,
    /// The repository that it is pushed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryName>,
}

/// Calls of the origins of a cluster.
#[derive(Clone, Debug)]
pub struct OriginClient {
    http: Http,
    cluster: Arc<Cluster>,
    turns: Turns,
    /// Origin that gets the next upload.
    next: Arc<AtomicUsize>,
}

impl OriginClient {
    #[must_use]
    pub fn new(http: Http, cluster: Arc<Cluster>) -> Self {
        let count = cluster.origins.len();
        Self {
            http,
            turns: Turns::new("origin", count),
            cluster,
            next: Arc::default(),
        }
    }

    /// Returns the indexes of all origins, the owners of a blob first, those that are down last.
    #[must_use]
    pub fn order(&self, digest: &Digest) -> Vec<usize> {
        let mut order = self.cluster.origin_order(&SwarmName::Blob(*digest));
        self.turns.sort(&mut order);
        order
    }

    /// Begins an upload at one of the origins, which take turns. Returns whose it is, and its name
    /// there.
    ///
    /// # Errors
    /// [`CallError`], where none of them takes one.
    pub async fn begin_upload(&self) -> Result<(Origin, String), CallError> {
        let count = self.cluster.origins.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let order = (0..count)
            .map(|at| first.wrapping_add(at) % count)
            .collect();
        self.begin_at_one_of(order).await
    }

    /// Begins an upload at one of the origins but for `me`, which take turns.
    ///
    /// # Errors
    /// [`CallError`], where none of them takes one.
    pub async fn begin_mirror(&self, me: &Name) -> Result<(Origin, String), CallError> {
        let count = self.cluster.origins.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let origins = self.cluster.origins.as_slice();
        let order = (0..count)
            .map(|at| first.wrapping_add(at) % count)
            .filter(|index| origins[*index].name != *me)
            .collect();
        self.begin_at_one_of(order).await
    }

    async fn begin_at_one_of(&self, order: Vec<usize>) -> Result<(Origin, String), CallError> {
        let begin = |index: usize| async move {
            let origin = &self.cluster.origins.as_slice()[index];
            let request = self
                .http
                .request(Method::POST, &origin.http, &["v1", "uploads"]);
            let patience = self.http.limits().answer;
            let begun: UploadBegun = self.http.json(&origin.http, request, patience).await?;
            Ok((origin.clone(), begun.id))
        };
        self.turns.ask(order, begin).await
    }

    /// Returns how many bytes an upload has.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn upload_offset(&self, member: &str, id: &str) -> Result<u64, CallError> {
        let (addr, request) = self.upload(Method::GET, member, id)?;
        let patience = self.http.limits().answer;
        let answer: UploadOffset = self.http.json(&addr, request, patience).await?;
        Ok(answer.offset)
    }

    /// Adds bytes to an upload as they come, at `offset` where it is given; returns how many it has
    /// then. There is no bound on the whole; `body` must not pause for ever.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn append(
        &self,
        member: &str,
        id: &str,
        offset: Option<u64>,
        body: BlobStream,
    ) -> Result<u64, CallError> {
        let mirror = false;
        self.send_part(member, id, AppendQuery { offset, mirror }, body)
            .await
    }

    /// Adds bytes as [`Self::append`] does to the second copy of an upload.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn append_mirror(
        &self,
        member: &str,
        id: &str,
        offset: u64,
        body: BlobStream,
    ) -> Result<u64, CallError> {
        let (offset, mirror) = (Some(offset), true);
        self.send_part(member, id, AppendQuery { offset, mirror }, body)
            .await
    }

    async fn send_part(
        &self,
        member: &str,
        id: &str,
        query: AppendQuery,
        body: BlobStream,
    ) -> Result<u64, CallError> {
        let (addr, request) = self.upload(Method::PATCH, member, id)?;
        let (body, moved) = watched(body);
        // Whoever sends is only told that sending failed, not whose fault it was.
        let broken: Arc<Mutex<Option<String>>> = Arc::default();
        let noted = Arc::clone(&broken);
        let body = body.inspect(move |part| {
            if let Err(error) = part {
                *noted.lock() = Some(error.to_string());
            }
        });
        let request = request.query(&query).body(reqwest::Body::wrap_stream(body));
        let patience = self.http.limits().commit;
        // As long as bytes move nothing is wrong.
        let answer: Result<UploadOffset, CallError> = tokio::select! {
            answer = self.http.json(&addr, request, LONGEST_APPEND) => answer,
            () = silence(moved, patience) => {
                let after = patience;
                return Err(CallError::Timeout { member: addr, after });
            }
        };
        let broken = broken.lock().take();
        match (answer, broken) {
            (Ok(answer), _) => Ok(answer.offset),
            (Err(_), Some(reason)) => Err(CallError::Body {
                member: addr,
                reason,
            }),
            (Err(error), None) => Err(error),
        }
    }

    /// Ends an upload: its bytes are those of `digest`. Asking again is safe.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn commit(
        &self,
        member: &str,
        id: &str,
        digest: &Digest,
    ) -> Result<Committed, CallError> {
        let query = CommitQuery {
            digest: digest.to_string(),
            mirror_of: None,
            repository: None,
        };
        self.end_upload(member, id, &query).await
    }

    /// Ends an upload as [`Self::commit`] does; `query` says more about it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn end_upload(
        &self,
        member: &str,
        id: &str,
        query: &CommitQuery,
    ) -> Result<Committed, CallError> {
        let (addr, request) = self.upload(Method::PUT, member, id)?;
        let request = request.query(query);
        self.http
            .json(&addr, request, self.http.limits().commit)
            .await
    }

    /// Gives up an upload.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn cancel(&self, member: &str, id: &str) -> Result<(), CallError> {
        let (addr, request) = self.upload(Method::DELETE, member, id)?;
        self.http
            .send(&addr, request, self.http.limits().answer)
            .await?;
        Ok(())
    }

    /// Begins to read a blob, or a part of it, from one origin of [`Self::order`].
    ///
    /// # Errors
    /// [`CallError`]; the stream may fail later.
    pub async fn read(
        &self,
        origin: usize,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<BlobStream, CallError> {
        if range.is_empty() {
            return Ok(futures_util::stream::empty().boxed());
        }
        let addr = self.addr(origin)?;
        let (first, last) = (range.start, range.end - 1);
        let request = self
            .blob(Method::GET, &addr, digest)
            .header(header::RANGE, format!("bytes={first}-{last}"));
        let sent = self
            .http
            .send(&addr, request, self.http.limits().answer)
            .await;
        self.turns.note(origin, &sent);
        let response = sent?;
        let expected = format!("bytes {first}-{last}/");
        if !text_of(response.headers(), header::CONTENT_RANGE).starts_with(&expected) {
            return Err(CallError::Malformed {
                member: addr,
                reason: "another range than was asked for".into(),
            });
        }
        let stream = response.bytes_stream();
        let stream = stream.map(|part| part.map_err(io::Error::other)).boxed();
        Ok(not_pausing(stream, self.http.limits().pause))
    }

    /// Returns the length of a blob.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn length(&self, digest: &Digest) -> Result<u64, CallError> {
        let order = self.order(digest);
        let ask = |index: usize| async move {
            let addr = self.addr(index)?;
            let request = self.blob(Method::HEAD, &addr, digest);
            let patience = self.http.limits().answer;
            let response = match self.http.send(&addr, request, patience).await {
                // The answer to HEAD has no body that could say so.
                Err(CallError::Status { status: 404, .. }) => {
                    let message = format!("{digest} is not in storage");
                    let body = crate::ErrorBody::new(crate::ErrorCode::BlobUnknown, message);
                    return Err(CallError::Answer { member: addr, body });
                }
                sent => sent?,
            };
            let length = text_of(response.headers(), header::CONTENT_LENGTH).parse();
            length.map_err(|_| CallError::Malformed {
                member: addr,
                reason: "no length".into(),
            })
        };
        self.turns.ask(order, ask).await
    }

    /// Returns how much of a blob is in storage: of all that the origins say, what is furthest.
    /// Waits, at most as long as `wait`, for all of it to be there. `None` where no origin and not
    /// storage has the blob. `repository` is one that it may have been pushed to.
    ///
    /// # Errors
    /// [`CallError`], where an origin did not answer and the others do not have it.
    pub async fn stored(
        &self,
        digest: &Digest,
        repository: &RepositoryName,
        wait: Duration,
    ) -> Result<Option<Stored>, CallError> {
        let query = StoredQuery {
            wait: wait.as_secs().min(MAX_STORED_WAIT_S),
            repository: Some(repository.clone()),
        };
        let count = self.cluster.origins.len();
        let asked = (0..count).map(|origin| self.ask_stored(origin, digest, &query));
        let mut answers: FuturesUnordered<_> = asked.collect();
        let mut found: Option<Stored> = None;
        let mut failed = (count == 0).then_some(CallError::NoMember("origin"));
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(Some(stored)) => found = Some(furthest(found, stored)),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        match (found, failed) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }

    /// Returns how much of a blob one origin has brought to storage; `None` where neither has it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn stored_by(
        &self,
        member: &Name,
        digest: &Digest,
    ) -> Result<Option<Stored>, CallError> {
        let origins = self.cluster.origins.as_slice();
        match origins.iter().position(|origin| origin.name == *member) {
            Some(origin) => {
                let query = StoredQuery::default();
                self.ask_stored(origin, digest, &query).await
            }
            None => Err(CallError::UnknownMember {
                kind: "origin",
                name: member.to_string(),
            }),
        }
    }

    async fn ask_stored(
        &self,
        origin: usize,
        digest: &Digest,
        query: &StoredQuery,
    ) -> Result<Option<Stored>, CallError> {
        let addr = self.addr(origin)?;
        let digest = digest.to_string();
        let segments = ["v1", "blobs", &digest, "stored"];
        let request = self.http.request(Method::GET, &addr, &segments);
        let request = request.query(query);
        let patience = self.http.limits().answer + Duration::from_secs(query.wait);
        let asked = self.http.json(&addr, request, patience).await;
        self.turns.note(origin, &asked);
        match asked {
            Ok(stored) => Ok(Some(stored)),
            Err(error) if error.code() == Some(crate::ErrorCode::BlobUnknown) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a blob from storage, and from what every origin serves.
    ///
    /// # Errors
    /// [`CallError`], where an origin could not be told.
    pub async fn delete(&self, digest: &Digest) -> Result<(), CallError> {
        let mut result = Err(CallError::NoMember("origin"));
        for index in self.order(digest) {
            let addr = self.addr(index)?;
            let request = self.blob(Method::DELETE, &addr, digest);
            let deleted = self
                .http
                .send(&addr, request, self.http.limits().answer)
                .await;
            if result.is_ok() || matches!(result, Err(CallError::NoMember(_))) {
                result = deleted.map(|_| ());
            }
        }
        result
    }

    fn addr(&self, origin: usize) -> Result<Addr, CallError> {
        let origin = self.cluster.origins.as_slice().get(origin);
        Ok(origin.ok_or(CallError::NoMember("origin"))?.http.clone())
    }

    fn blob(&self, method: Method, addr: &Addr, digest: &Digest) -> RequestBuilder {
        let digest = digest.to_string();
        self.http.request(method, addr, &["v1", "blobs", &digest])
    }

    fn upload(
        &self,
        method: Method,
        member: &str,
        id: &str,
    ) -> Result<(Addr, RequestBuilder), CallError> {
        let Some(origin) = self.cluster.origins.get(member) else {
            return Err(CallError::UnknownMember {
                kind: "origin",
                name: member.chars().take(80).collect(),
            });
        };
        let request = self
            .http
            .request(method, &origin.http, &["v1", "uploads", id]);
        Ok((origin.http.clone(), request))
    }
}

/// Joins what two origins say about a blob.
fn furthest(one: Option<Stored>, other: Stored) -> Stored {
    let Some(one) = one else {
        return other;
    };
    Stored {
        stored: one.stored || other.stored,
        written_bytes: one.written_bytes.max(other.written_bytes),
        is_pushed: one.is_pushed || other.is_pushed,
        ..other
    }
}

#[cfg(test)]
mod tests;
