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
//! ```
//!
//! Errors have an [`crate::ErrorBody`].

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::StreamExt as _;
use http::header;
use oci::Digest;
use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde::{Deserialize, Serialize};
use torrent::SwarmName;

use crate::client::{BlobStream, CallError, Http, Turns, not_pausing, silence, text_of, watched};
use crate::cluster::Cluster;
use crate::members::{Addr, Origin};

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
}

/// Query of a part of an upload.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendQuery {
    /// Where the sender believes the upload to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// Query of the end of an upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitQuery {
    pub digest: String,
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
        let request = request
            .query(&AppendQuery { offset })
            .body(reqwest::Body::wrap_stream(body));
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
        let (addr, request) = self.upload(Method::PUT, member, id)?;
        let digest = digest.to_string();
        let request = request.query(&CommitQuery { digest });
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

#[cfg(test)]
mod tests;
