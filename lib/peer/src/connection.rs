//! A connection with a peer: one task reads, one writes, and the driver holds the handle.

mod expected;
mod reader;
mod writer;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64};

use bytes::Bytes;
use service::tls::{Caller, Stream};
use swarm::{ConnId, Message, Priority, RequestId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torrent::{Peer, Role};

pub(crate) use self::expected::{Asked, Expected, within_piece};
use self::reader::ReadSide;
use self::writer::WriteSide;
use crate::driver::Event;
use crate::node::{Inner, PeerStatus};
use crate::turns::Turns;

/// What goes to the writer.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all of them are messages; none is kept for long"
)]
pub(crate) enum Outgoing {
    Message(Message),
    Upload(Upload),
    /// Close after what came before.
    Close,
}

/// Bytes of a piece for the peer.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) id: RequestId,
    pub(crate) piece: u32,
    /// Offset of `bytes` in the piece.
    pub(crate) offset: u32,
    pub(crate) bytes: Bytes,
    pub(crate) priority: Priority,
    /// Set when the rest is not wanted.
    pub(crate) cancelled: Arc<AtomicBool>,
}

/// What both tasks and the driver know of a connection.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) peer: OnceLock<Peer>,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Known {
    fn role(&self) -> Role {
        self.peer.get().map_or(Role::Agent, |peer| peer.role)
    }

    pub(crate) fn status(&self) -> PeerStatus {
        use std::sync::atomic::Ordering::Relaxed;
        PeerStatus {
            peer: self.peer.get().cloned(),
            received_bytes: self.received_bytes.load(Relaxed),
            sent_bytes: self.sent_bytes.load(Relaxed),
        }
    }
}

/// The driver's end of a connection. Dropping it ends both tasks.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) queue: mpsc::Sender<Outgoing>,
    pub(crate) expected: Arc<Expected>,
    pub(crate) known: Arc<Known>,
    /// Of the jobs that send chaining values: those of a piece go ahead of it.
    pub(crate) values: Turns,
    stop: CancellationToken,
    stop_reading: CancellationToken,
}

impl Connection {
    /// Starts both tasks of a connection that is up.
    pub(crate) fn start(
        node: &Arc<Inner>,
        conn: ConnId,
        (socket, caller): (Stream, Caller),
        events: &mpsc::Sender<Event>,
    ) -> Self {
        socket.prepare();
        let (queue, outgoing) = mpsc::channel(node.config.max_queued_messages);
        let (read_half, write_half) = socket.into_split();
        let expected = Arc::new(Expected::default());
        let known = Arc::new(Known::default());
        let stop = node.stop.child_token();
        let stop_reading = stop.child_token();
        let reader = ReadSide::new(
            Arc::clone(node),
            conn,
            (read_half, caller),
            Arc::clone(&expected),
            Arc::clone(&known),
            events.clone(),
        );
        let writer = WriteSide::new(
            Arc::clone(node),
            conn,
            write_half,
            outgoing,
            Arc::clone(&known),
            events.clone(),
        );
        node.tasks.spawn(reader.run(stop_reading.clone()));
        node.tasks.spawn(writer.run(stop.clone()));
        Self {
            queue,
            expected,
            known,
            values: Turns::default(),
            stop,
            stop_reading,
        }
    }

    /// Closes the connection after what was sent before.
    pub(crate) fn finish(mut self) {
        self.stop_reading.cancel();
        self.expected.clear();
        if self.queue.try_send(Outgoing::Close).is_ok() {
            // The writer ends by itself; its time is bounded.
            self.stop = CancellationToken::new();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stop_reading.cancel();
        self.stop.cancel();
        self.expected.clear();
    }
}
