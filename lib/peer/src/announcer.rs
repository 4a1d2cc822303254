//! Sessions with trackers: one task each keeps a connection up, with back-off.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::access::{Impostor, check_hello};
use bytes::{Buf as _, BytesMut};
use prometheus_client::metrics::counter::Counter;
use service::tls::{ReadHalf, WriteHalf, is_tls_record};
use swarm::Message;
use swarm::message::VERSION;
use swarm::wire::{self, WireError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torrent::Role;

use crate::dial::{DialError, dial};
use crate::driver::Event;
use crate::node::Inner;

/// Messages that wait for one tracker.
const MAX_QUEUED: usize = 4096;
/// First pause before a tracker is tried again; doubled up to the longest.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(2);
/// How long a tracker may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// After this much silence a tracker is asked for a sign of life, and after as much again given up
/// (`docs/wire.md` §2.4).
const SILENCE: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 16 * 1024;

/// What happens to the session with one tracker, by its index.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// It is there. Cancelling the token ends it.
    Up(mpsc::Sender<Message>, CancellationToken),
    Received(Box<Message>),
    /// It went, or could not be had.
    Down,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the tracker closed it")]
    Closed,
    #[error("the tracker is silent")]
    Silent,
    #[error("the tracker does not take what is sent to it")]
    Behind,
    #[error("this is no tracker; check the addresses of the trackers in the configuration")]
    NoTracker,
    #[error("the tracker speaks TLS; set `tls` in the configuration of this process too")]
    Tls,
    #[error(transparent)]
    Impostor(#[from] Impostor),
}

/// Keeps a session with a tracker until the node stops.
pub(crate) async fn keep(
    node: Arc<Inner>,
    tracker: usize,
    addr: Arc<str>,
    events: mpsc::Sender<Event>,
) {
    let stop = node.stop.clone();
    let session = Session {
        node,
        tracker,
        addr,
        events,
    };
    stop.run_until_cancelled(session.keep()).await;
}

struct Session {
    node: Arc<Inner>,
    tracker: usize,
    addr: Arc<str>,
    events: mpsc::Sender<Event>,
}

impl Session {
    async fn keep(&self) {
        let mut delay = FIRST_DELAY;
        // Said once each time it changes, not at each attempt.
        let mut was_up = true;
        loop {
            let mut is_up = false;
            let Err(error) = self.run(&mut is_up).await;
            if is_up || was_up {
                tracing::warn!(tracker = %self.addr, %error, "no session with a tracker");
            }
            if is_up {
                delay = FIRST_DELAY;
            }
            was_up = is_up;
            self.tell(SessionEvent::Down).await;
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(MAX_DELAY);
        }
    }

    async fn run(&self, is_up: &mut bool) -> Result<std::convert::Infallible, SessionError> {
        let patience = self.node.config.connect_timeout;
        let (socket, caller) = dial(&self.node, &self.addr, Role::Tracker).await?;
        let (read_half, mut write_half) = socket.into_split();
        let me = self.node.me.clone();
        let hello = Message::Hello {
            version: VERSION,
            me,
        };
        self.send(&mut write_half, &[hello], patience).await?;
        let mut reader = Reader {
            socket: read_half,
            buffer: BytesMut::new(),
            received_bytes: self.node.metrics.control_bytes.clone(),
        };
        let hello = tokio::time::timeout(HELLO_TIMEOUT, reader.message()).await;
        let hello = hello.map_err(|_| SessionError::Silent)??;
        let Message::Hello { me, .. } = &hello else {
            return Err(SessionError::NoTracker);
        };
        if me.role != Role::Tracker {
            return Err(SessionError::NoTracker);
        }
        check_hello(caller, me)?;
        *is_up = true;
        tracing::info!(tracker = %self.addr, "session with a tracker");
        let (queue, outgoing) = mpsc::channel(MAX_QUEUED);
        let cut = CancellationToken::new();
        self.tell(SessionEvent::Up(queue.clone(), cut.clone()))
            .await;
        tokio::select! {
            () = cut.cancelled() => Err(SessionError::Behind),
            end = self.read(reader, queue) => end,
            end = self.write(write_half, outgoing) => end,
        }
    }

    async fn read(
        &self,
        mut reader: Reader,
        queue: mpsc::Sender<Message>,
    ) -> Result<std::convert::Infallible, SessionError> {
        let mut asked = 0;
        loop {
            // A half-read frame stays in the buffer: nothing is lost where this is given up.
            let message = match tokio::time::timeout(SILENCE, reader.message()).await {
                Ok(message) => message?,
                Err(_) if asked > 0 => return Err(SessionError::Silent),
                Err(_) => {
                    asked += 1;
                    let ping = Message::Ping { token: asked };
                    let _ = queue.try_send(ping);
                    continue;
                }
            };
            asked = 0;
            if let Message::Ping { token } = message {
                let _ = queue.try_send(Message::Pong { token });
            } else {
                self.tell(SessionEvent::Received(Box::new(message))).await;
            }
        }
    }

    async fn write(
        &self,
        mut socket: WriteHalf,
        mut outgoing: mpsc::Receiver<Message>,
    ) -> Result<std::convert::Infallible, SessionError> {
        let mut batch = Vec::new();
        loop {
            // The reader holds a sender: this ends with the session.
            outgoing.recv_many(&mut batch, 64).await;
            let patience = self.node.config.write_timeout;
            self.send(&mut socket, &batch, patience).await?;
            batch.clear();
        }
    }

    async fn send(
        &self,
        socket: &mut WriteHalf,
        messages: &[Message],
        patience: Duration,
    ) -> Result<(), SessionError> {
        let mut bytes = Vec::new();
        for message in messages {
            wire::encode(message, &mut bytes);
        }
        self.node.metrics.control_bytes.inc_by(bytes.len() as u64);
        let written = async {
            socket.write_all(&bytes).await?;
            socket.flush().await
        };
        let written = tokio::time::timeout(patience, written).await;
        Ok(written.map_err(|_| SessionError::Silent)??)
    }

    async fn tell(&self, event: SessionEvent) {
        let tracker = self.tracker;
        let _ = self.events.send(Event::Session { tracker, event }).await;
    }
}

struct Reader {
    socket: ReadHalf,
    buffer: BytesMut,
    received_bytes: Counter,
}

impl Reader {
    async fn message(&mut self) -> Result<Message, SessionError> {
        loop {
            if is_tls_record(&self.buffer) {
                return Err(SessionError::Tls);
            }
            if let Some((message, length)) = wire::decode(&self.buffer)? {
                if matches!(message, Message::Data { .. }) {
                    return Err(SessionError::NoTracker);
                }
                self.buffer.advance(length);
                self.received_bytes.inc_by(length as u64);
                return Ok(message);
            }
            self.buffer.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(SessionError::Closed);
            }
        }
    }
}
