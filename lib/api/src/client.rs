//! Calls between services: connections that are kept, a deadline for each call, and who is asked
//! first where several can answer.

mod secure;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use hashring::{Health, Policy};
use http::header;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use service::Role;
use service::tls::Tls;
use tokio::sync::watch;

use self::secure::Secure;
use crate::error::{ErrorBody, ErrorCode};
use crate::members::Addr;

/// Characters of a path segment that stay as they are (RFC 3986, section 2.3, and `:` of digests).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');

/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(20);

/// Bytes of a blob in order.
pub type BlobStream = BoxStream<'static, io::Result<Bytes>>;

/// How long things may take, and how large answers may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a connection may take.
    pub connect: Duration,
    /// How long an answer to a question may take, but for the bytes of a blob.
    pub answer: Duration,
    /// How long an answer may take that waits for storage: commits, manifests.
    pub commit: Duration,
    /// How long the bytes of a blob may pause.
    pub pause: Duration,
    /// Most bytes of an answer that is kept in memory.
    pub answer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            answer: Duration::from_secs(10),
            commit: Duration::from_secs(120),
            pause: Duration::from_secs(30),
            answer_bytes: 16 << 20,
        }
    }
}

/// A call that came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// It was answered with an error.
    #[error("{member}: {}", body.message)]
    Answer { member: Addr, body: ErrorBody },
    #[error("{member} cannot be reached: {reason}")]
    Unreachable { member: Addr, reason: String },
    #[error("{member} did not answer within {} s", after.as_secs())]
    Timeout { member: Addr, after: Duration },
    /// Whoever is there is not what the configuration says, or of another release.
    #[error("{member} answered what makes no sense ({reason}); check its address and release")]
    Malformed { member: Addr, reason: String },
    /// An error without an [`ErrorBody`].
    #[error("{member} answered {status} and not why; check its address and release")]
    Status { member: Addr, status: u16 },
    /// The body that was to be sent broke off.
    #[error("the bytes to send to {member} broke off: {reason}")]
    Body { member: Addr, reason: String },
    #[error("no {0} is configured; name at least one in `cluster`")]
    NoMember(&'static str),
    #[error("there is no {kind} named {name:?} in `cluster`")]
    UnknownMember { kind: &'static str, name: String },
}

impl CallError {
    /// Returns what the answer says went wrong, where there was one.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Answer { body, .. } => Some(body.code),
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Malformed { .. }
            | Self::Status { .. }
            | Self::Body { .. }
            | Self::NoMember(_)
            | Self::UnknownMember { .. } => None,
        }
    }

    /// Returns whether asking again, also somebody else, would come to the same.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        match self {
            Self::Answer { body, .. } => body.code.is_permanent(),
            Self::NoMember(_) | Self::UnknownMember { .. } | Self::Body { .. } => true,
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Malformed { .. }
            | Self::Status { .. } => false,
        }
    }

    /// Returns whether the member failed, rather than what was asked of it.
    const fn is_members_fault(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Malformed { .. }
            | Self::Status { .. } => true,
            Self::Answer { .. }
            | Self::Body { .. }
            | Self::NoMember(_)
            | Self::UnknownMember { .. } => false,
        }
    }
}

/// Connections to other services. Clones share them.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    /// Sends what the other one made, where there are certificates.
    secure: Option<Secure>,
    limits: Limits,
}

impl Http {
    /// Makes a client of plaintext that has no connections yet.
    ///
    /// # Panics
    /// Where the system has no resources for a client at all.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let client = reqwest::Client::builder()
            // Services are addressed one by one; the proxies of the environment are not for them.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(limits.connect)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
            .build()
            .expect("a client without TLS needs nothing of the system");
        Self {
            client,
            secure: None,
            limits,
        }
    }

    /// As [`Self::new`], over TLS where this process has certificates. Whoever is called must have
    /// the role `expected` then.
    ///
    /// # Panics
    /// As [`Self::new`].
    #[must_use]
    pub fn to(expected: Role, tls: &Tls, limits: Limits) -> Self {
        let secure = !tls.is_plain();
        Self {
            secure: secure.then(|| Secure::new(tls.clone(), expected, &limits)),
            ..Self::new(limits)
        }
    }

    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Begins a request to `member`; each of `segments` is encoded, also its slashes.
    pub(crate) fn request(
        &self,
        method: Method,
        member: &Addr,
        segments: &[&str],
    ) -> RequestBuilder {
        let mut url = format!("http://{member}");
        for segment in segments {
            url.push('/');
            url.extend(utf8_percent_encode(segment, SEGMENT));
        }
        self.client.request(method, url)
    }

    /// Sends a request; returns an answer that is no error. Its body may still fail.
    pub(crate) async fn send(
        &self,
        member: &Addr,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<Response, CallError> {
        let sent = async {
            let Some(secure) = &self.secure else {
                let sent = request.send().await;
                return sent.map_err(|error| failed(member, &error, patience));
            };
            let sent = secure.send(request).await;
            sent.map_err(|reason| CallError::Unreachable {
                member: member.clone(),
                reason,
            })
        };
        let response = tokio::time::timeout(patience, sent).await;
        let response = response.map_err(|_| timeout(member, patience))??;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let is_ours = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
        let body = tokio::time::timeout(patience, self.collect(member, response)).await;
        let body = body.map_err(|_| timeout(member, patience))??;
        let member = member.clone();
        Err(match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) if is_ours => CallError::Answer { member, body },
            Ok(_) | Err(_) => CallError::Status {
                member,
                status: status.as_u16(),
            },
        })
    }

    /// Sends a request and reads an answer in JSON.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        member: &Addr,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<T, CallError> {
        let (_, body) = self.bytes(member, request, patience).await?;
        serde_json::from_slice(&body).map_err(|error| CallError::Malformed {
            member: member.clone(),
            reason: error.to_string(),
        })
    }

    /// Sends a request and reads its answer, with its headers.
    pub(crate) async fn bytes(
        &self,
        member: &Addr,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<(http::HeaderMap, Bytes), CallError> {
        let deadline = Instant::now() + patience;
        let mut response = self.send(member, request, patience).await?;
        let headers = std::mem::take(response.headers_mut());
        let left = deadline.saturating_duration_since(Instant::now());
        let body = tokio::time::timeout(left, self.collect(member, response)).await;
        Ok((headers, body.map_err(|_| timeout(member, patience))??))
    }

    async fn collect(&self, member: &Addr, mut response: Response) -> Result<Bytes, CallError> {
        let mut all = BytesMut::new();
        loop {
            let part = response.chunk().await;
            let part = part.map_err(|error| failed(member, &error, self.limits.pause))?;
            let Some(part) = part else {
                return Ok(all.freeze());
            };
            if all.len() + part.len() > self.limits.answer_bytes {
                return Err(CallError::Malformed {
                    member: member.clone(),
                    reason: format!("more than {} bytes", self.limits.answer_bytes),
                });
            }
            all.extend_from_slice(&part);
        }
    }
}

/// Returns the stream, which ends with an error where it pauses for longer than `patience`.
pub(crate) fn not_pausing(stream: BlobStream, patience: Duration) -> BlobStream {
    stream::unfold(Some(stream), move |stream| async move {
        let mut stream = stream?;
        match tokio::time::timeout(patience, stream.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(stream))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Ok(None) => None,
            Err(_) => {
                let text = format!("no byte for {} s", patience.as_secs());
                Some((Err(io::Error::new(io::ErrorKind::TimedOut, text)), None))
            }
        }
    })
    .boxed()
}

/// Returns the stream, and a signal for each part of it that is taken.
pub(crate) fn watched(stream: BlobStream) -> (BlobStream, watch::Receiver<()>) {
    let (sender, receiver) = watch::channel(());
    let stream = stream.inspect(move |_| sender.send_replace(()));
    (stream.boxed(), receiver)
}

/// Returns when nothing has moved for as long as `patience`.
pub(crate) async fn silence(mut moved: watch::Receiver<()>, patience: Duration) {
    loop {
        match tokio::time::timeout(patience, moved.changed()).await {
            Ok(Ok(())) => {}
            // All was sent: the rest is up to the other side.
            Ok(Err(_)) => break tokio::time::sleep(patience).await,
            Err(_) => break,
        }
    }
}

/// Returns a header's value as text; empty where it is absent or no text.
pub(crate) fn text_of(headers: &http::HeaderMap, name: header::HeaderName) -> &str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn timeout(member: &Addr, after: Duration) -> CallError {
    CallError::Timeout {
        member: member.clone(),
        after,
    }
}

fn failed(member: &Addr, error: &reqwest::Error, patience: Duration) -> CallError {
    if error.is_timeout() && !error.is_connect() {
        return timeout(member, patience);
    }
    let (member, reason) = (member.clone(), cause(error));
    if error.is_body() {
        return CallError::Body { member, reason };
    }
    CallError::Unreachable { member, reason }
}

/// Returns what is at the bottom of an error; the layers above it say nothing to people.
fn cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Members of one ring, and which of them answered lately. Clones share what they know.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    kind: &'static str,
    health: Arc<Mutex<Health>>,
    epoch: Instant,
}

impl Turns {
    pub(crate) fn new(kind: &'static str, members: usize) -> Self {
        Self {
            kind,
            health: Arc::new(Mutex::new(Health::new(members, Policy::default()))),
            epoch: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Puts those that are down at the end: asking them is better than asking nobody.
    pub(crate) fn sort(&self, order: &mut [usize]) {
        let now = self.now();
        let health = self.health.lock();
        order.sort_by_key(|member| !health.is_up(*member, now));
    }

    pub(crate) fn is_up(&self, member: usize) -> bool {
        self.health.lock().is_up(member, self.now())
    }

    /// Notes what came of a call.
    pub(crate) fn note<T>(&self, member: usize, result: &Result<T, CallError>) {
        let now = self.now();
        match result {
            Err(error) if error.is_members_fault() => self.health.lock().failed(member, now),
            Ok(_) | Err(_) => self.health.lock().passed(member),
        }
    }

    /// Asks one member after the other until one gives an answer that all would give.
    ///
    /// # Errors
    /// The last one, or [`CallError::NoMember`].
    pub(crate) async fn ask<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        mut order: Vec<usize>,
        mut call: impl FnMut(usize) -> F,
    ) -> Result<T, CallError> {
        self.sort(&mut order);
        let mut last = CallError::NoMember(self.kind);
        for member in order {
            let result = call(member).await;
            self.note(member, &result);
            match result {
                Err(error) if !error.is_permanent() => {
                    tracing::debug!(kind = self.kind, %error, "asking the next member");
                    last = error;
                }
                result => return result,
            }
        }
        Err(last)
    }
}
