//! The reading task: frames to messages, payload to pieces.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::access::{Impostor, check_hello};
use bytes::{Buf as _, BytesMut};
use disk::Buffer;
use service::tls::{Caller, ReadHalf, is_tls_record};
use swarm::wire::{self, WireError};
use swarm::{ConnId, Message, RequestId};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Known;
use super::expected::{Asked, Expected, Lookup, Partial};
use crate::driver::Event;
use crate::jobs;
use crate::metrics::Source;
use crate::node::Inner;

/// Bytes asked of the socket at a time, outside payload.
const READ_BYTES: usize = 16 * 1024;
/// A buffer that grew beyond this for one long frame is given back.
const KEPT_BYTES: usize = 256 * 1024;
/// Longest first frame. A stranger gets no room for more than a HELLO, also one of a later version.
const MAX_FIRST_FRAME_BYTES: usize = 16 * 1024;
/// How long a new connection may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadEnd {
    #[error("the peer closed it")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no HELLO within {} s", HELLO_TIMEOUT.as_secs())]
    NoHello,
    #[error("{0}")]
    Protocol(&'static str),
    #[error("it speaks TLS; set `tls` in the configuration of this process too, or in none")]
    Tls,
    #[error(transparent)]
    Impostor(#[from] Impostor),
}

/// Reads one connection to its end.
pub(super) struct ReadSide {
    node: Arc<Inner>,
    conn: ConnId,
    socket: ReadHalf,
    /// Who is at the other end, as far as its certificate tells.
    caller: Caller,
    buffer: BytesMut,
    is_stranger: bool,
    expected: Arc<Expected>,
    known: Arc<Known>,
    events: mpsc::Sender<Event>,
}

impl ReadSide {
    pub(super) fn new(
        node: Arc<Inner>,
        conn: ConnId,
        (socket, caller): (ReadHalf, Caller),
        expected: Arc<Expected>,
        known: Arc<Known>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            node,
            conn,
            socket,
            caller,
            buffer: BytesMut::with_capacity(READ_BYTES),
            is_stranger: true,
            expected,
            known,
            events,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let Some(end) = stop.run_until_cancelled(self.read()).await else {
            return;
        };
        let conn = self.conn;
        if let ReadEnd::Tls | ReadEnd::Impostor(_) = &end {
            tracing::warn!(conn = conn.0, %end, "refusing a peer");
        }
        let why = end.to_string();
        let _ = self.events.send(Event::Closed { conn, why }).await;
    }

    async fn read(&mut self) -> ReadEnd {
        let first = tokio::time::timeout(HELLO_TIMEOUT, self.message()).await;
        let mut next = match first {
            Ok(first) => first,
            Err(_) => return ReadEnd::NoHello,
        };
        loop {
            let taken = match next {
                Ok(message) => self.take(message).await,
                Err(end) => return end,
            };
            if let Err(end) = taken {
                return end;
            }
            next = self.message().await;
        }
    }

    async fn message(&mut self) -> Result<Message, ReadEnd> {
        loop {
            if self.is_stranger {
                check_first(&self.buffer)?;
            }
            if let Some((message, length)) = wire::decode(&self.buffer)? {
                self.buffer.advance(length);
                self.node.metrics.control_bytes.inc_by(length as u64);
                self.is_stranger = false;
                return Ok(message);
            }
            if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES {
                self.buffer = BytesMut::new();
            }
            self.buffer.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(ReadEnd::Closed);
            }
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), ReadEnd> {
        if let Message::Hello { me, .. } = &message {
            check_hello(self.caller, me)?;
            // A second one is for the swarm to refuse.
            let _ = self.known.peer.set(me.clone());
        }
        if let Message::Reject { id, .. } = &message {
            self.expected.end(*id);
        }
        let mut whole = None;
        if let Message::Data {
            id,
            piece,
            offset,
            length,
            last,
        } = &message
        {
            whole = self.data(*id, *piece, *offset, *length, *last).await?;
        }
        let conn = self.conn;
        let received = Event::Received { conn, message };
        // Only at the end of the node is nobody there.
        let _ = self.events.send(received).await;
        if let Some((id, asked, partial)) = whole {
            self.check(id, asked, partial);
        }
        Ok(())
    }

    /// Reads the payload of a frame; returns the piece when it was the last one.
    async fn data(
        &mut self,
        id: RequestId,
        piece: u32,
        offset: u32,
        length: u32,
        last: bool,
    ) -> Result<Option<(RequestId, Asked, Partial)>, ReadEnd> {
        let (asked, partial) = match self.expected.look_up(id) {
            Lookup::Unknown => return Err(ReadEnd::Protocol("data that nobody asked for")),
            Lookup::Unwanted => {
                self.drain(length).await?;
                self.count(length);
                self.node.metrics.duplicate_bytes.inc_by(length.into());
                if last {
                    self.expected.end(id);
                }
                return Ok(None);
            }
            Lookup::Wanted(asked, partial) => (asked, partial),
        };
        let partial = match partial {
            Some(partial) => Some(partial),
            None => asked.begin(&self.node.buffers, piece).await,
        };
        let fits = partial.filter(|partial| partial.continues(piece, offset, length));
        let Some(mut partial) = fits else {
            return Err(ReadEnd::Protocol("data of another piece, or out of order"));
        };
        self.fill(&mut partial.buffer, length).await?;
        self.count(length);
        asked.torrent.count(self.known.role(), length.into());
        if !last {
            self.expected.put_back(id, partial);
            return Ok(None);
        }
        if !partial.is_whole() {
            return Err(ReadEnd::Protocol("a piece that ended short"));
        }
        // Where it was cancelled meanwhile, it is here all the same.
        self.expected.end(id);
        Ok(Some((id, asked, partial)))
    }

    fn check(&self, id: RequestId, asked: Asked, partial: Partial) {
        let is_whole = asked.is_whole_piece();
        let (piece, bytes, room) = partial.into_bytes();
        let received = jobs::ReceivedPiece {
            conn: self.conn,
            id,
            torrent: asked.torrent,
            piece,
            bytes: is_whole.then_some(bytes),
            room,
        };
        let (node, events) = (Arc::clone(&self.node), self.events.clone());
        self.node
            .tasks
            .spawn(async move { received.check(&node, &events).await });
    }

    async fn fill(&mut self, into: &mut Buffer, length: u32) -> Result<(), ReadEnd> {
        let mut rest = length as usize;
        let there = self.buffer.len().min(rest);
        into.extend_from_slice(&self.buffer[..there]);
        self.buffer.advance(there);
        rest -= there;
        while rest > 0 {
            let read = self.socket.read(into.unfilled(rest)).await?;
            if read == 0 {
                return Err(ReadEnd::Closed);
            }
            into.filled(read);
            rest -= read;
        }
        Ok(())
    }

    async fn drain(&mut self, length: u32) -> Result<(), ReadEnd> {
        let mut rest = length as usize;
        loop {
            let there = self.buffer.len().min(rest);
            self.buffer.advance(there);
            rest -= there;
            if rest == 0 {
                return Ok(());
            }
            self.buffer.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(ReadEnd::Closed);
            }
        }
    }

    fn count(&self, length: u32) {
        let received = &self.known.received_bytes;
        received.fetch_add(length.into(), Ordering::Relaxed);
        let source = Source::from(self.known.role());
        let counter = self.node.metrics.received_bytes.get_or_create(&source);
        counter.inc_by(length.into());
    }
}

/// Refuses a first frame that no HELLO can have, before it is buffered.
fn check_first(bytes: &[u8]) -> Result<(), ReadEnd> {
    if is_tls_record(bytes) {
        return Err(ReadEnd::Tls);
    }
    let length = bytes
        .first_chunk::<4>()
        .map_or(0, |raw| u32::from_be_bytes(*raw));
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let limit = MAX_FIRST_FRAME_BYTES;
    if length > limit {
        return Err(WireError::TooLong { length, limit }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_gets_no_room_for_a_long_frame() {
        let frame = |length: u32| [&length.to_be_bytes()[..], &[0x01]].concat();
        for (bytes, fits) in [
            (Vec::new(), true),
            (vec![0xff; 3], true),
            (frame(60), true),
            (frame(16 * 1024), true),
            (frame(16 * 1024 + 1), false),
            (frame(u32::MAX), false),
        ] {
            assert_eq!(check_first(&bytes).is_ok(), fits, "{bytes:?}");
        }
    }
}
