//! Bodies: what goes out is exact, what comes in is bounded in time, and a client that is refused
//! in the middle of sending still gets to read why.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body::{Frame, SizeHint};
use oci::Digest;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::metrics::Metrics;
use crate::router::Options;

/// Bytes that come as they are there.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Most bytes that are read and thrown away after a refusal, so that the client reads the answer
/// instead of a reset connection.
const DRAIN_BYTES: u64 = 32 * 1024 * 1024;

/// How long bytes are thrown away at most.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// How long whoever was given a body may take to let go of it.
const RETURN_TIME: Duration = Duration::from_millis(500);

/// Fails when its stream has had nothing for too long.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    const fn new(limit: Duration) -> Self {
        Self { limit, sleep: None }
    }

    /// Passes on what a stream said; an error after too many `Pending` in a row.
    fn watch<T>(
        &mut self,
        polled: Poll<Option<io::Result<T>>>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<T>>> {
        if polled.is_ready() {
            self.sleep = None;
            return polled;
        }
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| {
            let deadline = Instant::now() + limit;
            Box::pin(tokio::time::sleep_until(deadline))
        });
        ready!(sleep.as_mut().poll(context));
        let text = format!("nothing came for {} s", limit.as_secs());
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, text))))
    }
}

/// Body of an answer: exactly `left` bytes, or a broken connection.
pub(crate) struct Exactly {
    stream: ByteStream,
    left: u64,
    digest: Digest,
    patience: Patience,
    metrics: Metrics,
}

impl Exactly {
    pub(crate) fn new(stream: ByteStream, length: u64, digest: Digest, options: &Options) -> Self {
        Self {
            stream,
            left: length,
            digest,
            patience: Patience::new(options.body_wait),
            metrics: options.metrics.clone(),
        }
    }

    fn take(&mut self, item: Option<io::Result<Bytes>>) -> io::Result<Bytes> {
        let bytes = item.unwrap_or_else(|| {
            let text = format!("the content ended {} bytes early", self.left);
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
        })?;
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("the content is longer than it was said to be"))?;
        Ok(bytes)
    }
}

impl http_body::Body for Exactly {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let polled = self.stream.as_mut().poll_next(context);
        let item = ready!(self.patience.watch(polled, context));
        let taken = self.take(item);
        match &taken {
            Ok(bytes) => {
                self.metrics.sent_bytes.inc_by(bytes.len() as u64);
            }
            Err(error) => {
                self.metrics.bodies_cut.inc();
                let (digest, left_bytes) = (self.digest, self.left);
                tracing::warn!(%digest, left_bytes, %error, "an answer was cut off");
            }
        }
        Poll::Ready(Some(taken.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Body of a request. Whoever drops it gives back what it had not read, see [`Rest`].
pub(crate) struct Incoming {
    body: Option<BodyDataStream>,
    empty: bool,
    touched: bool,
    /// Bytes that must still come, where the request says how many.
    left: Option<u64>,
    patience: Patience,
    received: Counter,
    failed: Arc<AtomicBool>,
    back: Option<oneshot::Sender<Unread>>,
}

struct Unread {
    body: BodyDataStream,
    touched: bool,
}

/// What was not read of a request, after it was answered.
pub(crate) struct Rest {
    back: oneshot::Receiver<Unread>,
    failed: Arc<AtomicBool>,
    /// The client sends only when it is told to go on, which reading does.
    asks_first: bool,
}

impl Incoming {
    pub(crate) fn new(body: Body, asks_first: bool, options: &Options) -> (Self, Rest) {
        let (sender, back) = oneshot::channel();
        let failed = Arc::new(AtomicBool::new(false));
        let incoming = Self {
            empty: http_body::Body::is_end_stream(&body),
            body: Some(body.into_data_stream()),
            touched: false,
            left: None,
            patience: Patience::new(options.body_wait),
            received: options.metrics.received_bytes.clone(),
            failed: Arc::clone(&failed),
            back: Some(sender),
        };
        let rest = Rest {
            back,
            failed,
            asks_first,
        };
        (incoming, rest)
    }

    /// Returns whether it is known that no byte will come.
    pub(crate) const fn is_empty(&self) -> bool {
        self.empty
    }

    /// Makes any other number of bytes an error.
    pub(crate) const fn expect(mut self, count: u64) -> Self {
        self.left = Some(count);
        self
    }

    /// Reads it all; `None` where there are more than `limit` bytes.
    pub(crate) async fn collect(mut self, limit: usize) -> io::Result<Option<Bytes>> {
        let mut all = bytes::BytesMut::new();
        while let Some(bytes) = self.next().await.transpose()? {
            if bytes.len() > limit - all.len() {
                return Ok(None);
            }
            all.extend_from_slice(&bytes);
        }
        Ok(Some(all.freeze()))
    }

    fn take(&mut self, item: Option<io::Result<Bytes>>) -> Option<io::Result<Bytes>> {
        let wrong = |text| Some(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        match (item, &mut self.left) {
            (Some(Ok(bytes)), Some(left)) => match left.checked_sub(bytes.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    Some(Ok(bytes))
                }
                None => wrong("more bytes than Content-Range says"),
            },
            (None, Some(left)) if *left > 0 => {
                self.left = None;
                wrong("fewer bytes than Content-Range says")
            }
            (item, _) => item,
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        this.touched = true;
        let polled = body.poll_next_unpin(context);
        let polled = polled.map(|item| item.map(|item| item.map_err(io::Error::other)));
        let item = ready!(this.patience.watch(polled, context));
        let item = this.take(item);
        match &item {
            Some(Ok(bytes)) => {
                this.received.inc_by(bytes.len() as u64);
            }
            Some(Err(_)) => this.failed.store(true, Ordering::Relaxed),
            None => {}
        }
        Poll::Ready(item)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            let touched = self.touched;
            // Nobody waits for it once the request was answered well.
            let _ = back.send(Unread { body, touched });
        }
    }
}

impl Rest {
    /// Returns whether the client's bytes did not come as announced.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Reads and throws away what a refused client still sends, within bounds: a connection closed
    /// on unread bytes is reset, and the answer lost.
    pub(crate) async fn drain(self) {
        let Ok(Ok(mut unread)) = tokio::time::timeout(RETURN_TIME, self.back).await else {
            return;
        };
        if self.asks_first && !unread.touched {
            return;
        }
        let drain = async {
            let mut count = 0;
            while let Some(Ok(bytes)) = unread.body.next().await {
                count += bytes.len() as u64;
                if count > DRAIN_BYTES {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
    }
}
