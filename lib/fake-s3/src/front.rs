//! What stands between sockets and the store: counts, and breaks what shall be broken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use s3s::service::S3Service;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::counts::{Counts, Operation};
use crate::fault::{self, Fault, Rule};
use crate::store::{Stale, StaleList};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Error>;

/// What all connections share.
pub(crate) struct Front {
    store: S3Service,
    stale: Stale,
    rules: Mutex<Vec<Rule>>,
    reachable: watch::Sender<bool>,
    counts: Arc<Mutex<Counts>>,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front")
            .field("rules", &self.rules)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl Front {
    pub(crate) fn new(store: S3Service, stale: Stale, reachable: watch::Sender<bool>) -> Self {
        Self {
            store,
            stale,
            rules: Mutex::default(),
            reachable,
            counts: Arc::default(),
        }
    }

    pub(crate) fn set_faults(&self, rules: Vec<Rule>) -> io::Result<()> {
        if rules.iter().any(|rule| rule.fault == Fault::StaleList) {
            self.stale.freeze()?;
        }
        let reachable = rules.iter().all(|rule| rule.fault != Fault::Unreachable);
        *self.rules.lock() = rules;
        self.reachable.send_replace(reachable);
        Ok(())
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    pub(crate) fn reset_counts(&self) {
        *self.counts.lock() = Counts::default();
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Error> {
        let operation = Operation::of(request.method(), request.uri());
        *self.counts.lock().requests.entry(operation).or_default() += 1;
        let fault = fault::next(&mut self.rules.lock(), operation);
        match &fault {
            Some(Fault::Status { status, code }) => return Ok(refusal(*status, code)),
            Some(Fault::Reset | Fault::Unreachable) => return Err("the connection is cut".into()),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(ms)) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Some(Fault::StaleList) => {
                request.extensions_mut().insert(StaleList);
            }
            Some(
                Fault::LateStatus { .. }
                | Fault::LateReset
                | Fault::CutAfter(_)
                | Fault::Stall
                | Fault::WrongEtag,
            )
            | None => {}
        }
        let written = matches!(operation, Operation::Put | Operation::PutPart);
        let request = request.map(|body| {
            let counts = written.then(|| Arc::clone(&self.counts));
            s3s::Body::http_body(Counted::new(body, counts, |counts| {
                &mut counts.written_bytes
            }))
        });
        let response = self.store.call(request).await;
        let mut response = response.map_err(|error| format!("{error:?}"))?;
        match &fault {
            Some(Fault::LateStatus { status, code }) => return Ok(refusal(*status, code)),
            Some(Fault::LateReset) => return Err("the connection is cut".into()),
            Some(Fault::WrongEtag) if response.headers().contains_key(header::ETAG) => {
                let wrong = HeaderValue::from_static("\"0123456789abcdef0123456789abcdef\"");
                response.headers_mut().insert(header::ETAG, wrong);
            }
            Some(_) | None => {}
        }
        let read = operation == Operation::Get && response.status().is_success();
        let counts = read.then(|| Arc::clone(&self.counts));
        Ok(response.map(|body| {
            let body = damaged(body, fault);
            Counted::new(body, counts, |counts| &mut counts.read_bytes).boxed_unsync()
        }))
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve(front: Arc<Front>, socket: TcpStream) {
    let service = service_fn(|request| front.answer(request));
    // How a connection ends concerns nobody here.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

/// A body whose bytes are counted as they pass.
struct Counted<B> {
    body: B,
    counts: Option<Arc<Mutex<Counts>>>,
    which: fn(&mut Counts) -> &mut u64,
}

impl<B> Counted<B> {
    const fn new(
        body: B,
        counts: Option<Arc<Mutex<Counts>>>,
        which: fn(&mut Counts) -> &mut u64,
    ) -> Self {
        Self {
            body,
            counts,
            which,
        }
    }
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(counts)) = (&polled, &self.counts) {
            let count = frame.data_ref().map_or(0, Bytes::len);
            *(self.which)(&mut counts.lock()) += count as u64;
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

fn refusal(status: u16, code: &str) -> Response<Body> {
    let text = format!("<Error><Code>{code}</Code><Message>as told</Message></Error>");
    let body = Full::from(text).map_err(Error::from).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    let xml = HeaderValue::from_static("application/xml");
    response.headers_mut().insert(header::CONTENT_TYPE, xml);
    response
}

fn damaged(body: s3s::Body, fault: Option<Fault>) -> Body {
    let body = body.map_err(|error| error.to_string().into());
    match fault {
        Some(Fault::CutAfter(limit)) => {
            let state = (Box::pin(body), limit);
            let parts = stream::unfold(state, |(mut body, left)| async move {
                let part = match body.frame().await?.map(Frame::into_data) {
                    Ok(Ok(part)) if left > 0 => Ok(part.slice(..part.len().min(left))),
                    Ok(Ok(_)) => {
                        // What comes before the cut is sent while this waits, not thrown away.
                        tokio::task::yield_now().await;
                        Err(Error::from("the body is cut"))
                    }
                    Ok(Err(_)) => return None,
                    Err(error) => Err(error),
                };
                let sent = part.as_ref().map_or(0, Bytes::len);
                Some((part.map(Frame::data), (body, left - sent)))
            });
            StreamBody::new(parts).boxed_unsync()
        }
        Some(Fault::Stall) => StreamBody::new(stream::pending()).boxed_unsync(),
        Some(_) | None => body.boxed_unsync(),
    }
}
