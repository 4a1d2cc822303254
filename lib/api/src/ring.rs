//! What origins ask each other, so that a cluster reads each byte of the storage once.
//!
//! ```text
//! HEAD /v1/runs/{key}                    is it in storage, or held here    200, 404
//! GET  /v1/runs/{key}?length=&etag=      bytes out of the cache of runs    206
//! HEAD /v1/held/{key}                    does this origin hold it          200, 404
//! GET  /v1/held/{key}                    bytes, also a range               200, 206
//! GET  /v1/described/{digest}            torrent::MetaInfo                 200, 404
//! ```
//!
//! `key` is one of the storage, its slashes encoded. Answers have the object's length and `ETag`.
//! Who is asked here asks no other origin for it, but for what somebody holds: nothing goes round
//! in circles. Errors have an [`crate::ErrorBody`].

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::header;
use oci::Digest;
use reqwest::{Method, Response};
use serde::{Deserialize, Serialize};
use torrent::SwarmName;

use crate::client::{BlobStream, CallError, Http, Turns, text_of};
use crate::cluster::Cluster;
use crate::members::Addr;

/// Path of an object in storage, out of the cache of who reads it.
pub const RUNS: &str = "/v1/runs/{key}";
/// Path of an object that an origin holds.
pub const HELD: &str = "/v1/held/{key}";
/// Path of the metainfo of a blob as its first owner knows it.
pub const DESCRIBED: &str = "/v1/described/{digest}";

/// How long the head of an answer may take that waits for nothing: bytes begin when they come, and
/// what somebody holds is on its own disk. Long for a machine with too much to do, because who is
/// not waited for costs another read of the storage.
const SOON: Duration = Duration::from_secs(2);

/// Query of a part of an object, of which the asker knows what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunQuery {
    /// Bytes of the whole object.
    pub length: u64,
    pub etag: String,
}

/// An object as another origin knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    /// Bytes of the whole object.
    pub length: u64,
    pub etag: String,
}

/// Calls between the origins of a cluster.
#[derive(Clone, Debug)]
pub struct RingClient {
    http: Http,
    cluster: Arc<Cluster>,
    turns: Turns,
    me: usize,
}

impl RingClient {
    /// Makes the client of the origin named `me`.
    ///
    /// # Errors
    /// [`CallError::UnknownMember`].
    pub fn new(http: Http, cluster: Arc<Cluster>, me: &str) -> Result<Self, CallError> {
        let mut origins = cluster.origins.iter();
        let index = origins.position(|origin| origin.name.as_str() == me);
        let index = index.ok_or_else(|| CallError::UnknownMember {
            kind: "origin",
            name: me.into(),
        })?;
        Ok(Self {
            http,
            turns: Turns::new("origin", cluster.origins.len()),
            cluster,
            me: index,
        })
    }

    /// Returns the origins that own a blob, without those that are down; this one never is. The
    /// first is to be asked first.
    #[must_use]
    pub fn owners(&self, name: &SwarmName) -> Vec<usize> {
        let mut order = self.cluster.origin_order(name);
        order.retain(|origin| *origin == self.me || self.turns.is_up(*origin));
        order.truncate(usize::from(self.cluster.replicas.max(1)));
        order
    }

    /// Returns which one this origin is.
    #[must_use]
    pub const fn me(&self) -> usize {
        self.me
    }

    /// Asks an origin for an object in storage, or held there; `None` where it is in neither.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn stat(&self, origin: usize, key: &str) -> Result<Option<ObjectHead>, CallError> {
        // It may have to ask the storage.
        let patience = self.http.limits().answer;
        self.head(origin, "runs", key, patience).await
    }

    /// Begins to read a part of an object out of the cache of an origin.
    ///
    /// # Errors
    /// [`CallError`]; the stream may fail later, or pause.
    pub async fn run(
        &self,
        origin: usize,
        key: &str,
        query: &RunQuery,
        range: Range<u64>,
    ) -> Result<(ObjectHead, BlobStream), CallError> {
        self.read(origin, "runs", key, Some(query), range).await
    }

    /// Asks all other origins at once whether they hold an object; returns the first that does.
    pub async fn who_holds(&self, key: &str) -> Option<(usize, ObjectHead)> {
        let others = (0..self.cluster.origins.len()).filter(|origin| *origin != self.me);
        let mut answers: FuturesUnordered<_> = others
            .map(|origin| async move {
                let head = self.head(origin, "held", key, SOON).await;
                head.ok().flatten().map(|head| (origin, head))
            })
            .collect();
        while let Some(answer) = answers.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// Begins to read a part of an object that an origin holds.
    ///
    /// # Errors
    /// [`CallError`]; the stream may fail later, or pause.
    pub async fn held(
        &self,
        origin: usize,
        key: &str,
        range: Range<u64>,
    ) -> Result<(ObjectHead, BlobStream), CallError> {
        self.read(origin, "held", key, None, range).await
    }

    /// Asks the first owner of a blob for its metainfo, which was hashed or is being hashed there;
    /// `None` where it is not hashed to its end, or not in storage.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn described(
        &self,
        origin: usize,
        digest: &Digest,
    ) -> Result<Option<Bytes>, CallError> {
        let addr = self.addr(origin)?;
        let digest = digest.to_string();
        let request = self
            .http
            .request(Method::GET, &addr, &["v1", "described", &digest]);
        let patience = self.http.limits().answer;
        let answer = self.http.bytes(&addr, request, patience).await;
        self.turns.note(origin, &answer);
        match answer {
            Ok((_, bytes)) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn head(
        &self,
        origin: usize,
        what: &str,
        key: &str,
        patience: Duration,
    ) -> Result<Option<ObjectHead>, CallError> {
        let addr = self.addr(origin)?;
        let request = self.http.request(Method::HEAD, &addr, &["v1", what, key]);
        let sent = self.http.send(&addr, request, patience).await;
        // The answer to HEAD has no body that could say why: that it answered is enough.
        if let Err(CallError::Status { .. }) = &sent {
            self.turns.note(origin, &Ok::<_, CallError>(()));
        } else {
            self.turns.note(origin, &sent);
        }
        let response = match sent {
            Ok(response) => response,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = text_of(response.headers(), header::CONTENT_LENGTH).parse();
        match length {
            Ok(length) => Ok(Some(object_head(length, &response))),
            Err(_) => Err(malformed(addr, "no length")),
        }
    }

    async fn read(
        &self,
        origin: usize,
        what: &str,
        key: &str,
        query: Option<&RunQuery>,
        range: Range<u64>,
    ) -> Result<(ObjectHead, BlobStream), CallError> {
        let addr = self.addr(origin)?;
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else {
            return Err(malformed(addr, "nothing was asked for"));
        };
        let mut request = self
            .http
            .request(Method::GET, &addr, &["v1", what, key])
            .header(header::RANGE, format!("bytes={}-{last}", range.start));
        if let Some(query) = query {
            request = request.query(query);
        }
        let sent = self.http.send(&addr, request, SOON).await;
        self.turns.note(origin, &sent);
        let response = sent?;
        let content_range = text_of(response.headers(), header::CONTENT_RANGE);
        let length = content_range
            .strip_prefix(&format!("bytes {}-{last}/", range.start))
            .and_then(|length| length.parse().ok());
        let Some(length) = length else {
            return Err(malformed(addr, "another range than was asked for"));
        };
        let head = object_head(length, &response);
        let stream = response.bytes_stream();
        let stream = stream.map(|part| part.map_err(io::Error::other)).boxed();
        Ok((head, stream))
    }

    fn addr(&self, origin: usize) -> Result<Addr, CallError> {
        let origin = self.cluster.origins.as_slice().get(origin);
        Ok(origin.ok_or(CallError::NoMember("origin"))?.http.clone())
    }
}

fn object_head(length: u64, response: &Response) -> ObjectHead {
    ObjectHead {
        length,
        etag: text_of(response.headers(), header::ETAG).to_owned(),
    }
}

/// Returns whether the answer is that there is nothing; that to HEAD has no body that says so.
fn is_absent(error: &CallError) -> bool {
    matches!(error, CallError::Status { status: 404, .. })
        || error.code() == Some(crate::ErrorCode::BlobUnknown)
}

fn malformed(member: Addr, reason: &str) -> CallError {
    let reason = reason.into();
    CallError::Malformed { member, reason }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::response::Response;

    use super::*;
    use crate::ErrorCode;
    use crate::fake::{Asked, Server, cluster, error, http, nobody};

    fn client(addrs: &[&Addr]) -> RingClient {
        RingClient::new(http(), cluster(addrs, &[]), "o0").unwrap()
    }

    fn object(_: &Asked) -> Response {
        Response::builder()
            .status(206)
            .header("content-range", "bytes 5-14/100")
            .header("content-length", "10")
            .header("etag", "\"tag\"")
            .body(Body::from(vec![7; 10]))
            .unwrap()
    }

    #[tokio::test]
    async fn parts_come_with_what_they_are_parts_of() {
        let (me, other) = (nobody().await, Server::start(object).await);
        let client = client(&[&me, &other.addr]);
        let query = RunQuery {
            length: 100,
            etag: "\"tag\"".into(),
        };
        let (head, body) = client.run(1, "a/b", &query, 5..15).await.unwrap();
        let whole = ObjectHead {
            length: 100,
            etag: query.etag.clone(),
        };
        assert_eq!(head, whole);
        let body: Vec<_> = body.map(Result::unwrap).collect().await;
        assert_eq!(body.concat(), [7; 10]);
        let (head, _) = client.held(1, "a/b", 5..15).await.unwrap();
        assert_eq!(head, whole);
        let lines = [
            "GET /v1/runs/a%2Fb?length=100&etag=%22tag%22",
            "GET /v1/held/a%2Fb",
        ];
        assert_eq!(other.lines(), lines);
        for range in [5..14, 4..15, 5..5] {
            let read = client.held(1, "a/b", range).await;
            assert!(matches!(read, Err(CallError::Malformed { .. })));
        }
    }

    #[tokio::test]
    async fn absence_is_told_from_failure() {
        let absent = Server::start(|_: &Asked| error(ErrorCode::BlobUnknown)).await;
        let (me, dead) = (nobody().await, nobody().await);
        let client = client(&[&me, &absent.addr, &dead]);
        let digest = Digest::sha256(b"x");
        assert_eq!(client.stat(1, "k").await.unwrap(), None);
        assert_eq!(client.described(1, &digest).await.unwrap(), None);
        assert!(client.stat(2, "k").await.is_err());
        assert!(client.described(2, &digest).await.is_err());
        assert_eq!(client.who_holds("k").await, None);
    }

    /// One that hangs is not waited for where another one has it.
    #[tokio::test]
    async fn whoever_holds_it_is_found() {
        let (me, dead) = (nobody().await, nobody().await);
        let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hanging = Addr::from(hanging.local_addr().unwrap());
        let holder = Server::start(object).await;
        let client = client(&[&me, &dead, &hanging, &holder.addr]);
        let (origin, head) = client.who_holds("k").await.unwrap();
        assert_eq!((origin, head.length), (3, 10));
    }

    #[tokio::test]
    async fn owners_that_are_down_are_replaced_and_this_one_never_is() {
        let (me, dead, third) = (nobody().await, nobody().await, nobody().await);
        let cluster = cluster(&[&me, &dead, &third], &[]);
        let client = RingClient::new(http(), Arc::clone(&cluster), "o0").unwrap();
        let name = SwarmName::Source([1; 32]);
        let order = cluster.origin_order(&name);
        assert_eq!(client.owners(&name), order[..2]);
        for _ in 0..3 {
            let _ = client.stat(1, "k").await;
        }
        let up: Vec<_> = order.into_iter().filter(|origin| *origin != 1).collect();
        assert_eq!(client.owners(&name), up);
        for _ in 0..3 {
            let _ = client.stat(0, "k").await;
        }
        assert!(client.owners(&name).contains(&0));
        let nobody = RingClient::new(http(), cluster, "o9");
        assert!(matches!(nobody, Err(CallError::UnknownMember { .. })));
    }
}
