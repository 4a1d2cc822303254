//! What is asked of storage: each job ends with an event for the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use swarm::message::BlockRange;
use swarm::{ConnId, Input, Message, Priority, RequestId, wire};
use tokio::sync::mpsc;
use torrent::{ClusterPublicKey, Cv, Description, PieceIndex, SignedCv, SwarmName};

use crate::buffers::Room;
use crate::connection::{Outgoing, Upload, within_piece};
use crate::driver::Event;
use crate::node::Inner;
use crate::pieces::{PieceError, ProveError, Proven, StoreError, Values};
use crate::progress::Torrent;

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
            Some(bytes) => store(node, &torrent, piece, bytes).await,
            None => (Verdict::NotStored, Vec::new()),
        };
        drop(room);
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
    }
}

async fn store(
    node: &Inner,
    torrent: &Arc<Torrent>,
    piece: PieceIndex,
    bytes: Bytes,
) -> (Verdict, Vec<SwarmName>) {
    let name = torrent.name;
    let length = bytes.len() as u64;
    match node.pieces.store(&name, piece, bytes.clone()).await {
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
    node.kept.insert(torrent.name, piece, bytes);
    // A blob is failed first and forgotten then: one of both sees the other.
    if torrent.now().failure.is_some() {
        node.kept.remove(&torrent.name, piece);
    }
}

/// Makes storage ready.
pub(crate) async fn open(
    node: Arc<Inner>,
    torrent: Arc<Torrent>,
    description: Description,
    key: Option<ClusterPublicKey>,
    events: mpsc::Sender<Event>,
) {
    let name = torrent.name;
    let fail = |reason: String| Input::OpenFailed {
        name,
        reason: reason.into(),
    };
    let signed = key.map_or(Ok(()), |key| description.verify(&key));
    let opened = match signed {
        Ok(()) => {
            torrent.describe(description);
            let opened = node.pieces.open(&description).await;
            opened.map_err(|error| fail(error.to_string()))
        }
        Err(error) => Err(fail(error.to_string())),
    };
    let event = match opened {
        Ok(opened) => Event::Opened {
            torrent,
            description,
            opened,
        },
        Err(input) => {
            tracing::warn!(%name, ?input, "cannot open a blob");
            Event::of_torrent(torrent, input)
        }
    };
    let _ = events.send(event).await;
}

/// Takes the final description of a blob that was growing.
pub(crate) async fn describe(
    node: Arc<Inner>,
    torrent: Arc<Torrent>,
    description: Description,
    events: mpsc::Sender<Event>,
) {
    let name = torrent.name;
    match node.pieces.describe(&description).await {
        Ok(Proven { proven, dropped }) => {
            torrent.describe(description);
            lose(&node, &torrent, dropped, &events).await;
            if proven {
                let proven = Input::CvsProven { name };
                let _ = events.send(Event::of_torrent(torrent, proven)).await;
            }
        }
        Err(error) => cannot_prove(torrent, &error, None, &events).await,
    }
}

/// Proves chaining values.
pub(crate) async fn prove(
    node: Arc<Inner>,
    torrent: Arc<Torrent>,
    conn: ConnId,
    cvs: Arc<[Cv]>,
    events: mpsc::Sender<Event>,
) {
    let name = torrent.name;
    match node.pieces.prove(&name, cvs).await {
        Ok(Proven { dropped, .. }) => {
            lose(&node, &torrent, dropped, &events).await;
            let proven = Input::CvsProven { name };
            let _ = events.send(Event::of_torrent(torrent, proven)).await;
        }
        Err(error) => cannot_prove(torrent, &error, Some(conn), &events).await,
    }
}

/// Checks signed values.
pub(crate) async fn grow(
    node: Arc<Inner>,
    torrent: Arc<Torrent>,
    conn: ConnId,
    values: Vec<SignedCv>,
    events: mpsc::Sender<Event>,
) {
    let name = torrent.name;
    match node.pieces.grow(&name, values).await {
        Ok(pieces) => {
            let known = Input::GrowingCvsKnown { name, pieces };
            let _ = events.send(Event::of_torrent(torrent, known)).await;
        }
        Err(error) => cannot_prove(torrent, &error, Some(conn), &events).await,
    }
}

async fn lose(
    node: &Inner,
    torrent: &Arc<Torrent>,
    pieces: Vec<PieceIndex>,
    events: &mpsc::Sender<Event>,
) {
    let name = torrent.name;
    for piece in pieces {
        torrent.lost(piece);
        node.kept.remove(&name, piece);
        node.metrics.pieces_lost.inc();
        let lost = Input::PieceLost { name, piece };
        let _ = events
            .send(Event::of_torrent(Arc::clone(torrent), lost))
            .await;
    }
}

async fn cannot_prove(
    torrent: Arc<Torrent>,
    error: &ProveError,
    conn: Option<ConnId>,
    events: &mpsc::Sender<Event>,
) {
    let name = torrent.name;
    let input = match (error, conn) {
        (ProveError::Wrong, Some(conn)) => Input::CvsWrong { conn, name },
        (ProveError::Wrong | ProveError::Storage(_), _) => {
            tracing::warn!(%name, %error, "cannot keep what proves a blob");
            let reason = error.to_string().into();
            Input::OpenFailed { name, reason }
        }
    };
    let _ = events.send(Event::of_torrent(torrent, input)).await;
}

/// Sends the chaining values that a peer asked for.
pub(crate) async fn send_cvs(
    node: Arc<Inner>,
    name: SwarmName,
    first: u32,
    count: u32,
    queue: mpsc::Sender<Outgoing>,
) {
    match node.pieces.values(&name, first, count).await {
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
    /// Reads it and hands it to the writer of the connection.
    pub(crate) async fn upload(
        self,
        node: Arc<Inner>,
        queue: mpsc::Sender<Outgoing>,
        events: mpsc::Sender<Event>,
    ) {
        let (name, piece) = (self.name, self.piece);
        let read = match node.kept.get(&name, piece) {
            Some(bytes) => Ok(bytes),
            None => node.pieces.read_unchecked(&name, piece).await,
        };
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
