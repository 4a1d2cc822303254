//! Writes are passed on to a proxy: bytes stream both ways, and nothing of them is kept here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body::{Frame, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use service::Role;
use service::tls::{Stream, Tls};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::pull::SwarmPull;

/// How long a proxy may take to accept a connection before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the client and the proxy may both be silent before the answer begins. A proxy waits for
/// storage for 120 s unless told otherwise; what it has to say then shall still arrive.
const SILENCE: Duration = Duration::from_secs(150);

/// Headers that are about one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A write that no proxy took.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("no proxy is configured; push to a proxy, or add one to the agent's configuration")]
    NoProxy,
    #[error("no proxy can be reached ({0}); try again later, or push to a proxy directly")]
    Unreachable(String),
    #[error("the proxy {proxy} broke off: {reason}; push again")]
    Broken { proxy: Arc<str>, reason: String },
}

/// Passes requests on to proxies.
#[derive(Debug)]
pub struct Forwarder {
    /// `host:port` of each.
    proxies: Vec<Arc<str>>,
    tls: Tls,
    /// The one that answered last.
    preferred: AtomicUsize,
}

/// Passes writes on, and has what was deleted forgotten here at once.
#[derive(Debug)]
pub struct Forwarding {
    pub forwarder: Forwarder,
    pub pull: Arc<SwarmPull>,
}

#[async_trait]
impl registry::Forward for Forwarding {
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, registry::Error> {
        let deletes = request.method() == Method::DELETE;
        let forwarded = self.forwarder.pass_on(request).await;
        if deletes {
            // Also where the answer was lost: it may have been done.
            self.pull.forget_all();
        }
        forwarded.map_err(|error| registry::Error::Unavailable(error.to_string()))
    }
}

impl Forwarder {
    #[must_use]
    pub const fn new(proxies: Vec<Arc<str>>, tls: Tls) -> Self {
        Self {
            proxies,
            tls,
            preferred: AtomicUsize::new(0),
        }
    }

    /// Sends a request to the first proxy that takes a connection, and returns its answer. The
    /// body is not touched before there is a connection, so nothing is lost by trying the next.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub async fn pass_on(&self, request: Request<Body>) -> Result<Response<Body>, ForwardError> {
        let (proxy, socket) = self.connect().await?;
        let broken = |error: &dyn std::error::Error| ForwardError::Broken {
            proxy: Arc::clone(&proxy),
            reason: reason(error),
        };
        let request = addressed(request, &proxy).map_err(|error| broken(&error))?;
        let handshake = http1::handshake::<_, Watched>(TokioIo::new(socket)).await;
        let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
        // Ends with the connection, which ends with the answer.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a proxy");
            }
        });
        let (sent, moved) = watch::channel(());
        let request = request.map(|body| Watched { body, moved: sent });
        let response = tokio::select! {
            answer = sender.send_request(request) => answer.map_err(|error| broken(&error))?,
            () = silence(moved) => {
                let text = format!("no byte for {} s", SILENCE.as_secs());
                let error = io::Error::new(io::ErrorKind::TimedOut, text);
                return Err(broken(&error));
            }
        };
        let (mut parts, body) = response.into_parts();
        strip(&mut parts.headers);
        parts.version = Version::HTTP_11;
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    async fn connect(&self) -> Result<(Arc<str>, Stream), ForwardError> {
        let count = self.proxies.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for at in (first..first + count).map(|at| at % count) {
            let proxy = &self.proxies[at];
            match self.connect_to(proxy).await {
                Ok(socket) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok((Arc::clone(proxy), socket));
                }
                Err(error) => {
                    tracing::warn!(%proxy, %error, "cannot reach a proxy");
                    failures.push(format!("{proxy}: {error}"));
                }
            }
        }
        if failures.is_empty() {
            return Err(ForwardError::NoProxy);
        }
        Err(ForwardError::Unreachable(failures.join("; ")))
    }

    async fn connect_to(&self, proxy: &str) -> io::Result<Stream> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(proxy));
        let socket = connecting.await.unwrap_or_else(|_| {
            let text = "it does not answer";
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })?;
        service::socket::prepare(&socket);
        let (stream, _) = self.tls.connect(socket, Role::Proxy).await?;
        Ok(stream)
    }
}

/// The body of a request, which tells when bytes move.
struct Watched {
    body: Body,
    moved: watch::Sender<()>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.moved.send_replace(());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns when nothing has moved for too long.
async fn silence(mut moved: watch::Receiver<()>) {
    loop {
        match tokio::time::timeout(SILENCE, moved.changed()).await {
            Ok(Ok(())) => {}
            // The body was sent: the rest is the proxy's.
            Ok(Err(_)) => break tokio::time::sleep(SILENCE).await,
            Err(_) => break,
        }
    }
}

/// Makes the request one to the proxy: origin-form target, its host, no headers of our connection.
fn addressed(request: Request<Body>, proxy: &str) -> Result<Request<Body>, http::Error> {
    let (mut parts, body) = request.into_parts();
    strip(&mut parts.headers);
    // The body is sent at once: nobody waits to be told to go on.
    parts.headers.remove(header::EXPECT);
    parts
        .headers
        .insert(header::HOST, HeaderValue::from_str(proxy)?);
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    parts.uri = Uri::builder().path_and_query(target).build()?;
    parts.version = Version::HTTP_11;
    Ok(Request::from_parts(parts, body))
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

/// Returns an error with its causes.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::any;
    use futures_util::StreamExt as _;
    use http::StatusCode;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    async fn serve(router: Router) -> Arc<str> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        addr.into()
    }

    /// Answers with what it was asked.
    async fn echo(request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let header = |name: &str| {
            let value = parts.headers.get(name);
            value
                .map_or("-", |value| value.to_str().unwrap())
                .to_owned()
        };
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let text = format!(
            "{} {} {} {} {}",
            parts.method,
            parts.uri,
            header("x-hop"),
            header("content-type"),
            body.len()
        );
        Response::builder()
            .status(StatusCode::ACCEPTED)
            .header(header::LOCATION, "/v2/a/blobs/uploads/1?_state=x")
            .body(text.into())
            .unwrap()
    }

    #[tokio::test]
    async fn the_next_proxy_is_asked_where_one_is_gone() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead: Arc<str> = gone.local_addr().unwrap().to_string().into();
        drop(gone);
        let live = serve(Router::new().fallback(any(echo))).await;
        let forwarder = Forwarder::new(vec![dead, live], Tls::plain());
        for _ in 0..2 {
            let request = Request::builder()
                .method(Method::PATCH)
                .uri("http://agent:5000/v2/a/blobs/uploads/1?_state=x")
                .header(header::CONNECTION, "x-hop")
                .header("x-hop", "1")
                .header(header::CONTENT_TYPE, "text/plain")
                .body(Body::from(vec![1; 1000]))
                .unwrap();
            let response = forwarder.pass_on(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::ACCEPTED);
            let location = response.headers().get(header::LOCATION).unwrap();
            assert_eq!(location, "/v2/a/blobs/uploads/1?_state=x");
            let body = axum::body::to_bytes(response.into_body(), 1000).await;
            let expected = "PATCH /v2/a/blobs/uploads/1?_state=x - text/plain 1000";
            assert_eq!(body.unwrap(), expected);
        }
        assert_eq!(forwarder.preferred.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn bodies_stream_both_ways() {
        let loopback = |request: Request<Body>| async move {
            // Each part comes back before the next one is sent.
            Response::new(Body::from_stream(request.into_body().into_data_stream()))
        };
        let live = serve(Router::new().fallback(any(loopback))).await;
        let forwarder = Forwarder::new(vec![live], Tls::plain());
        let (sender, parts) = mpsc::channel::<Result<Bytes, io::Error>>(1);
        let parts = futures_util::stream::unfold(parts, |mut parts| async move {
            parts.recv().await.map(|part| (part, parts))
        });
        let mut request = Request::new(Body::from_stream(parts));
        *request.method_mut() = Method::PATCH;
        sender.send(Ok(Bytes::from_static(b"one"))).await.unwrap();
        let response = forwarder.pass_on(request).await.unwrap();
        let mut body = response.into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "one");
        sender.send(Ok(Bytes::from_static(b"two"))).await.unwrap();
        assert_eq!(body.next().await.unwrap().unwrap(), "two");
        drop(sender);
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn without_a_proxy_it_says_so() {
        let forwarder = Forwarder::new(Vec::new(), Tls::plain());
        let error = forwarder.pass_on(Request::new(Body::empty())).await;
        assert!(matches!(error, Err(ForwardError::NoProxy)));
    }
}
