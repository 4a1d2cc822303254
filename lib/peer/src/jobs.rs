//! What is asked of storage: each job ends with an event for the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use swarm::message::BlockRange;
use swarm::{ConnId, Input, Message, Priority, RequestId, wire};
use tokio::sync::mpsc;
use tokio::time::Instant;
use torrent::{PieceIndex, SwarmName};

use crate::buffers::Room;
use crate::connection::{Outgoing, Upload, within_piece};
use crate::driver::Event;
use crate::node::Inner;
use crate::pieces::{PieceError, StoreError, Values};
use crate::progress::Torrent;
use crate::turns::{Earlier, Turn};

/// A piece that was received whole.
pub(crate) struct ReceivedPiece {
    pub(crate) conn: ConnId,
    pub(crate) id: RequestId,
    pub(crate) torrent: Arc<Torrent>,
    pub(crate) piece: PieceIndex,
    /// Absent where only some blocks were asked for: there is nothing to check those against.
    pub(crate) bytes: Option<Bytes>,
    pub(crate) room: Room,
}

/// How long a piece waits for the value that it is checked against.
const VALUES_WAIT: Duration = Duration::from_secs(1);

/// How long a piece holds its room while its reader is behind. Others must not wait for a slow
/// client: with all of the room taken, 24 MiB still come in this time.
const SETTLE_WAIT: Duration = Duration::from_millis(40);

/// What came of a received piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Verified,
    Corrupt,
    NotStored,
}

impl ReceivedPiece {
    /// Checks and stores it.
    pub(crate) async fn check(self, node: &Inner, events: &mpsc::Sender<Event>) {
        let Self {
            conn,
            id,
            torrent,
            piece,
            bytes,
            room,
        } = self;
        let name = torrent.name;
        let (verdict, evicted) = match bytes {
            Some(bytes) => store_proven(node, &torrent, piece, bytes).await,
            None => (Verdict::NotStored, Vec::new()),
        };
        if !evicted.is_empty() {
            let _ = events.send(Event::Evicted(evicted)).await;
        }
        let input = match verdict {
            Verdict::Verified => Input::PieceVerified {
                conn,
                id,
                name,
                piece,
            },
            Verdict::Corrupt => Input::PieceCorrupt {
                conn,
                id,
                name,
                piece,
            },
            Verdict::NotStored => Input::PieceNotStored {
                conn,
                id,
                name,
                piece,
            },
        };
        let _ = events.send(Event::of_torrent(torrent, input)).await;
        // Others know of the piece by now. A reader that is behind gets a moment: what it has to
        // read from the disk again must be hashed again too.
        node.kept.settle(&name, piece, SETTLE_WAIT).await;
        drop(room);
    }
}

/// Stores a piece. One that cannot be checked yet is kept for a moment: its value is here and being
/// checked, or comes right behind it.
async fn store_proven(
    node: &Inner,
    torrent: &Arc<Torrent>,
    piece: PieceIndex,
    bytes: Bytes,
) -> (Verdict, Vec<SwarmName>) {
    let mut values = torrent.values.subscribe();
    let deadline = Instant::now() + VALUES_WAIT;
    loop {
        // What a reader waits for now goes before what others sent earlier.
        let turn = if torrent.is_awaited(piece, bytes.len() as u64) {
            None
        } else {
            Some(node.checks.acquire().await)
        };
        let stored = node.pieces.store(&torrent.name, piece, bytes.clone()).await;
        drop(turn);
        if stored != Err(StoreError::Unproven) {
            return judge(node, torrent, piece, bytes, stored);
        }
        match tokio::time::timeout_at(deadline, values.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return judge(node, torrent, piece, bytes, stored),
        }
    }
}

fn judge(
    node: &Inner,
    torrent: &Torrent,
    piece: PieceIndex,
    bytes: Bytes,
    stored: Result<Vec<SwarmName>, StoreError>,
) -> (Verdict, Vec<SwarmName>) {
    let name = torrent.name;
    let length = bytes.len() as u64;
    match stored {
        Ok(evicted) => {
            keep(node, torrent, piece, bytes);
            if torrent.gained(piece) {
                node.metrics.pieces.inc();
            } else {
                node.metrics.duplicate_bytes.inc_by(length);
            }
            (Verdict::Verified, evicted)
        }
        Err(StoreError::Corrupt) => {
            node.metrics.corrupt_pieces.inc();
            (Verdict::Corrupt, Vec::new())
        }
        Err(StoreError::Unproven) => (Verdict::NotStored, Vec::new()),
        Err(StoreError::NotStored(error)) => {
            tracing::warn!(%name, %piece, %error, "cannot store a piece");
            node.metrics.pieces_not_stored.inc();
            // Whoever reads it now gets it all the same.
            keep(node, torrent, piece, bytes);
            torrent.nudge();
            (Verdict::NotStored, Vec::new())
        }
    }
}

/// Keeps a verified piece in memory for who comes next.
fn keep(node: &Inner, torrent: &Torrent, piece: PieceIndex, bytes: Bytes) {
    let ahead_bytes = node.kept.capacity_bytes() as u64 * 2;
    let is_awaited = torrent.is_awaited(piece, ahead_bytes);
    node.kept.insert(torrent.name, piece, bytes, is_awaited);
    // A blob is failed first and forgotten then: one of both sees the other.
    if torrent.now().failure.is_some() {
        node.kept.remove(&torrent.name, piece);
    }
}

/// Sends the chaining values that a peer asked for.
pub(crate) async fn send_cvs(
    node: Arc<Inner>,
    mut turn: Turn,
    name: SwarmName,
    first: u32,
    count: u32,
    queue: mpsc::Sender<Outgoing>,
) {
    let values = node.pieces.values(&name, first, count).await;
    turn.come().await;
    match values {
        Some(Values::All(cvs)) => {
            let cvs = Message::Cvs { name, cvs };
            let _ = queue.send(Outgoing::Message(cvs)).await;
        }
        Some(Values::Signed(generation, values)) => {
            for part in values.chunks(wire::MAX_GROWING_CVS) {
                let part = Message::GrowingCvs {
                    name,
                    generation,
                    cvs: part.to_vec(),
                };
                let _ = queue.send(Outgoing::Message(part)).await;
            }
        }
        // The peer asks somebody else when nothing comes.
        None => {}
    }
}

/// A piece that a peer shall get.
pub(crate) struct Requested {
    pub(crate) conn: ConnId,
    pub(crate) id: RequestId,
    pub(crate) name: SwarmName,
    pub(crate) piece: PieceIndex,
    pub(crate) blocks: Option<BlockRange>,
    pub(crate) priority: Priority,
    pub(crate) cancelled: Arc<AtomicBool>,
}

impl Requested {
    /// Reads it and hands it to the writer of the connection, after the values that were to be
    /// sent before.
    pub(crate) async fn upload(
        self,
        node: Arc<Inner>,
        values: Earlier,
        queue: mpsc::Sender<Outgoing>,
        events: mpsc::Sender<Event>,
    ) {
        let (name, piece) = (self.name, self.piece);
        let read = match node.kept.get(&name, piece) {
            Some(bytes) => Ok(bytes),
            None => node.pieces.read_unchecked(&name, piece).await,
        };
        values.ended().await;
        if self.cancelled.load(Ordering::Relaxed) {
            return;
        }
        let bytes = match read {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::warn!(%name, %piece, %error, "cannot read a piece for a peer");
                if error == PieceError::Lost {
                    let _ = events.send(Event::Lost { name, piece }).await;
                }
                None
            }
        };
        let slice = bytes.and_then(|bytes| self.slice(&node, bytes));
        let Some((offset, bytes)) = slice else {
            let (conn, id) = (self.conn, self.id);
            let _ = events.send(Event::UploadFailed { conn, id }).await;
            return;
        };
        let upload = Upload {
            id: self.id,
            piece: piece.get(),
            offset,
            bytes,
            priority: self.priority,
            cancelled: self.cancelled,
        };
        // Where the connection is gone, so is the request.
        let _ = queue.send(Outgoing::Upload(upload)).await;
    }

    fn slice(&self, node: &Inner, bytes: Bytes) -> Option<(u32, Bytes)> {
        if bytes.is_empty() {
            return None;
        }
        let Some(blocks) = self.blocks else {
            return Some((0, bytes));
        };
        let geometry = node.torrent(&self.name)?.geometry()?;
        let (from, length) = within_piece(&geometry, self.piece, blocks)?;
        let range = from as usize..(from + length) as usize;
        (range.end <= bytes.len()).then(|| (from, bytes.slice(range)))
    }
}

/// Hashes a piece again that somebody complained about.
pub(crate) async fn recheck(
    node: Arc<Inner>,
    name: SwarmName,
    piece: PieceIndex,
    events: mpsc::Sender<Event>,
) {
    if !node.pieces.recheck(&name, piece).await {
        tracing::warn!(%name, %piece, "a stored piece is damaged");
        let _ = events.send(Event::Lost { name, piece }).await;
    }
}
