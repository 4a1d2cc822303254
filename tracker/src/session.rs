//! Sessions: kept connections of agents and origins, whose messages go to the announcer.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::access::{Impostor, check_hello};
use bytes::{Buf as _, BytesMut};
use service::tls::{Caller, ConnectError, ReadHalf, Tls, WriteHalf, is_tls_record};
use swarm::wire::{self, MAX_SMALL_FRAME_BYTES, WireError};
use swarm::{Message, SessionId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::announce::{Event, Outgoing};
use crate::metrics::{Metrics, Reason};

const READ_BYTES: usize = 16 * 1024;
/// A buffer that grew beyond this is given back once it is empty.
const KEPT_BYTES: usize = 64 * 1024;
/// Messages written at once.
const MAX_BATCH: usize = 64;

/// Limits on sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_sessions: usize,
    pub(crate) max_queued_messages: usize,
    pub(crate) write_timeout: Duration,
}

/// Accepts sessions until shutdown, and ends them all then.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Tls,
    limits: Limits,
    events: mpsc::Sender<Event>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(
        limits.max_sessions.clamp(1, Semaphore::MAX_PERMITS),
    ));
    let sessions = TaskTracker::new();
    let mut next = 0;
    let accept = || service::http::accept(&listener);
    while let Some((socket, addr)) = shutdown.run_until_cancelled(accept()).await {
        // A peer that is refused goes to the next tracker; one that waited here would not.
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            metrics.end(Reason::Refused);
            tracing::warn!(%addr, "refused a session: there are max_sessions already");
            continue;
        };
        next += 1;
        let session = Session {
            id: SessionId(next),
            addr,
            limits,
            events: events.clone(),
            metrics: metrics.clone(),
            _permit: permit,
        };
        sessions.spawn(session.run(socket, tls.clone(), shutdown.child_token()));
    }
    drop(listener);
    sessions.close();
    sessions.wait().await;
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("it takes nothing")]
    Stuck,
    #[error("the tracker ends")]
    Over,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("it speaks TLS; set `tls` in the configuration of this tracker too, or in none")]
    Tls,
    #[error(transparent)]
    Impostor(#[from] Impostor),
}

struct Session {
    id: SessionId,
    addr: SocketAddr,
    limits: Limits,
    events: mpsc::Sender<Event>,
    metrics: Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Session {
    async fn run(self, socket: TcpStream, tls: Tls, cut: CancellationToken) {
        let session = self.id.0;
        service::socket::prepare(&socket);
        let (socket, caller) = match cut.run_until_cancelled(tls.accept(socket)).await {
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => return self.report(&error.into()),
            None => return,
        };
        let (read_half, write_half) = socket.into_split();
        let (queue, outgoing) = mpsc::channel(self.limits.max_queued_messages.max(1));
        let opened = Event::Opened(
            self.id,
            Outgoing {
                queue: queue.clone(),
                cut: cut.clone(),
            },
        );
        if self.events.send(opened).await.is_err() {
            return;
        }
        let addr = self.addr;
        tracing::debug!(session, %addr, "session opened");
        let ended = cut
            .run_until_cancelled(async {
                // The queue ends where the announcer gave it up; this side only keeps it open.
                let _queue = queue;
                tokio::select! {
                    end = self.read(read_half, caller) => end,
                    end = self.write(write_half, outgoing) => end,
                }
            })
            .await;
        // The announcer knows of what it cut itself, and counted it.
        if let Some(Err(error)) = ended {
            self.report(&error);
            // It may be full for a moment; the announcer always goes on.
            let _ = self.events.send(Event::Closed(self.id)).await;
        }
    }

    async fn read(&self, socket: ReadHalf, caller: Caller) -> Result<Infallible, SessionError> {
        let mut reader = Reader {
            socket,
            buffer: BytesMut::new(),
        };
        loop {
            let message = reader.message().await?;
            if let Message::Hello { me, .. } = &message {
                check_hello(caller, me)?;
            }
            let received = Event::Received(self.id, Box::new(message));
            let sent = self.events.send(received).await;
            sent.map_err(|_| SessionError::Over)?;
        }
    }

    async fn write(
        &self,
        mut socket: WriteHalf,
        mut outgoing: mpsc::Receiver<Message>,
    ) -> Result<Infallible, SessionError> {
        let mut batch = Vec::new();
        let mut bytes = Vec::new();
        loop {
            if outgoing.recv_many(&mut batch, MAX_BATCH).await == 0 {
                return Err(SessionError::Over);
            }
            for message in batch.drain(..) {
                wire::encode(&message, &mut bytes);
            }
            let write = async {
                socket.write_all(&bytes).await?;
                // What TLS still holds goes too; plaintext holds nothing.
                socket.flush().await
            };
            let written = tokio::time::timeout(self.limits.write_timeout, write).await;
            written.map_err(|_| SessionError::Stuck)??;
            bytes.clear();
            bytes.shrink_to(KEPT_BYTES);
        }
    }

    fn report(&self, error: &SessionError) {
        let (session, addr) = (self.id.0, self.addr);
        let reason = match error {
            SessionError::Io(_) | SessionError::Over => Reason::Gone,
            SessionError::Wire(_) => Reason::Garbage,
            SessionError::Connect(error) if error.is_departure() => Reason::Gone,
            SessionError::Connect(_) | SessionError::Tls | SessionError::Impostor(_) => {
                Reason::Refused
            }
            SessionError::Stuck => Reason::Behind,
        };
        self.metrics.end(reason);
        match reason {
            Reason::Gone | Reason::Closed => {
                tracing::debug!(session, %addr, %error, "session ended");
            }
            Reason::Refused => tracing::warn!(session, %addr, %error, "refusing a session"),
            Reason::Garbage | Reason::Behind => {
                tracing::warn!(session, %addr, %error, "closing a session");
            }
        }
    }
}

/// Takes messages off a socket.
struct Reader {
    socket: ReadHalf,
    buffer: BytesMut,
}

impl Reader {
    async fn message(&mut self) -> Result<Message, SessionError> {
        loop {
            if is_tls_record(&self.buffer) {
                return Err(SessionError::Tls);
            }
            check_length(&self.buffer)?;
            if let Some((message, length)) = wire::decode(&self.buffer)? {
                self.buffer.advance(length);
                if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES {
                    self.buffer = BytesMut::new();
                }
                return Ok(message);
            }
            self.buffer.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                let end = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(end.into());
            }
        }
    }
}

/// Refuses frames that no message for a tracker can have, before they are buffered.
fn check_length(bytes: &[u8]) -> Result<(), WireError> {
    let Some(length) = bytes.first_chunk::<4>() else {
        return Ok(());
    };
    let length = u32::from_be_bytes(*length) as usize;
    let limit = MAX_SMALL_FRAME_BYTES;
    if length > limit {
        return Err(WireError::TooLong { length, limit });
    }
    Ok(())
}
