//! A blob that can be read while its pieces arrive.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use oci::{Algorithm, Digest};
use swarm::{Failure, ReaderId};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use torrent::{Description, Geometry, PieceIndex, SwarmName};

use crate::node::Inner;
use crate::pieces::{PieceError, Pin};
use crate::progress::{Progress, Torrent};

/// Most bytes handed to a consumer at a time.
const SLICE_BYTES: usize = 256 * 1024;

/// A blob that cannot be opened. The texts are for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No storage has it.
    #[error("no storage has this blob")]
    Absent,
    /// It cannot be had now; asking again later may help.
    #[error("the blob cannot be had now: {0}")]
    Unavailable(Arc<str>),
    /// Its source does not match its digest, or changed.
    #[error("the blob was revoked: {0}")]
    Revoked(Arc<str>),
    /// Nobody said within the bound how long it is.
    #[error("no tracker or origin answered within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// This node stops.
    #[error("this node is shutting down")]
    Stopped,
}

/// A read that ended before its range did. What was read before is right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Its source does not match its digest, or changed: drop what was read before.
    #[error("the blob was revoked: {0}")]
    Revoked(Arc<str>),
    #[error("the blob cannot be had now: {0}")]
    Unavailable(Arc<str>),
    /// No piece arrived for as long as a reader waits.
    #[error("no piece arrived within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// Too many read at the same time.
    #[error("too many readers; try again later")]
    Busy,
    #[error("this node is shutting down")]
    Stopped,
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Absent => Self::Absent,
            Failure::Unavailable(reason) => Self::Unavailable(reason),
            Failure::Revoked(reason) => Self::Revoked(reason),
        }
    }
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Absent => Self::Unavailable("no storage has it any more".into()),
            Failure::Unavailable(reason) => Self::Unavailable(reason),
            Failure::Revoked(reason) => Self::Revoked(reason),
        }
    }
}

/// Bytes of a blob in order, each out of memory that was hashed.
pub type ReadStream = BoxStream<'static, Result<Bytes, ReadError>>;

/// A blob whose length is known. While it is held, what is here of it is not evicted.
#[derive(Clone, Debug)]
pub struct Blob {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// The blob of zero bytes needs no swarm.
    Empty(SwarmName),
    Swarm {
        node: Arc<Inner>,
        torrent: Arc<Torrent>,
        geometry: Geometry,
        _pin: Pin,
    },
}

impl Blob {
    /// Returns the blob of zero bytes where `name` is its digest.
    pub(crate) fn empty(name: &SwarmName) -> Option<Self> {
        let digest = name.digest()?;
        let is_empty = [Algorithm::Sha256, Algorithm::Sha512]
            .iter()
            .any(|algorithm| *digest == Digest::of(*algorithm, b""));
        is_empty.then_some(Self {
            source: Source::Empty(*name),
        })
    }

    pub(crate) const fn new(
        node: Arc<Inner>,
        torrent: Arc<Torrent>,
        geometry: Geometry,
        pin: Pin,
    ) -> Self {
        let source = Source::Swarm {
            node,
            torrent,
            geometry,
            _pin: pin,
        };
        Self { source }
    }

    #[must_use]
    pub fn name(&self) -> &SwarmName {
        match &self.source {
            Source::Empty(name) => name,
            Source::Swarm { torrent, .. } => &torrent.name,
        }
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match &self.source {
            Source::Empty(_) => 0,
            Source::Swarm { geometry, .. } => geometry.length(),
        }
    }

    /// Returns what is known of the blob; `None` for the blob of zero bytes.
    #[must_use]
    pub fn description(&self) -> Option<Description> {
        match &self.source {
            Source::Empty(_) => None,
            Source::Swarm { torrent, .. } => torrent.now().description,
        }
    }

    /// Returns whether all of it is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match &self.source {
            Source::Empty(_) => true,
            Source::Swarm { torrent, .. } => torrent.now().is_complete(),
        }
    }

    /// Reads `range` in order while its pieces arrive; what lies past the end is cut off. The
    /// first error ends the stream. Dropping it leaves the download to the others.
    #[must_use]
    pub fn read(&self, range: Range<u64>) -> ReadStream {
        let end = range.end.min(self.length());
        let (node, torrent, geometry) = match &self.source {
            Source::Swarm {
                node,
                torrent,
                geometry,
                ..
            } if range.start < end => (node, torrent, *geometry),
            Source::Swarm { .. } | Source::Empty(_) => return stream::empty().boxed(),
        };
        let reader = Reader {
            progress: torrent.watch(),
            node: Arc::clone(node),
            torrent: Arc::clone(torrent),
            geometry,
            position: range.start,
            end,
            slices: Bytes::new(),
            ahead: None,
            registration: None,
            pin: None,
            _blob: self.clone(),
        };
        stream::try_unfold(reader, |mut reader| async move {
            let bytes = reader.next().await?;
            Ok(bytes.map(|bytes| (bytes, reader)))
        })
        .boxed()
    }
}

/// One read of a blob.
struct Reader {
    node: Arc<Inner>,
    torrent: Arc<Torrent>,
    geometry: Geometry,
    progress: watch::Receiver<Progress>,
    /// Offset of what the consumer gets next.
    position: u64,
    end: u64,
    /// Rest of the piece that is being handed out.
    slices: Bytes,
    /// The next piece, being read while this one is handed out.
    ahead: Option<(PieceIndex, Ahead)>,
    registration: Option<Registration>,
    /// Taken once there is something to keep from eviction.
    pin: Option<Pin>,
    _blob: Blob,
}

type Ahead = tokio::task::JoinHandle<Result<Bytes, PieceError>>;

/// A reader that the swarm knows of. Dropping it tells the swarm.
struct Registration {
    node: Arc<Inner>,
    torrent: Arc<Torrent>,
    id: ReaderId,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.torrent.read_ends() {
            self.node.kept.unread(&self.torrent.name);
        }
        self.node.readers.end(self.id);
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let registration = match &self.registration {
            Some(registration) => registration,
            None => {
                let registration = self.register().await?;
                self.registration.insert(registration)
            }
        };
        // The consumer comes again: it took what it got before.
        self.node.readers.at(registration.id, self.position);
        self.torrent.read_at(self.position);
        if let Some(failure @ Failure::Revoked(_)) = &self.torrent.now().failure {
            return Err(failure.clone().into());
        }
        if self.slices.is_empty() {
            if self.position == self.end {
                self.registration = None;
                return Ok(None);
            }
            self.slices = self.next_piece().await?;
        }
        let slice = self.slices.split_to(self.slices.len().min(SLICE_BYTES));
        self.position += slice.len() as u64;
        Ok(Some(slice))
    }

    async fn register(&self) -> Result<Registration, ReadError> {
        let permits = Arc::clone(&self.node.readers.permits);
        let permit = permits.try_acquire_owned().map_err(|_| ReadError::Busy)?;
        let id = self.node.readers.next_id();
        self.torrent.read_begins();
        let registration = Registration {
            node: Arc::clone(&self.node),
            torrent: Arc::clone(&self.torrent),
            id,
            _permit: permit,
        };
        let range = self.position..self.end;
        if !self.node.begin_read(self.torrent.name, id, range).await {
            return Err(ReadError::Stopped);
        }
        Ok(registration)
    }

    /// Returns the bytes of the range that the piece at the position holds.
    async fn next_piece(&mut self) -> Result<Bytes, ReadError> {
        let piece = self.geometry.piece_at(self.position);
        let piece = piece.expect("the end is within the blob");
        let bytes = self.wait_for(piece).await?;
        if self.pin.is_none() {
            self.pin = Some(self.node.pieces.pin(&self.torrent.name).await);
        }
        let whole = self.geometry.range(piece);
        self.read_ahead(whole.end);
        let within = |offset: u64| usize::try_from(offset - whole.start).unwrap_or(usize::MAX);
        Ok(bytes.slice(within(self.position)..within(self.end.min(whole.end))))
    }

    async fn wait_for(&mut self, piece: PieceIndex) -> Result<Bytes, ReadError> {
        let patience = self.node.config.read_timeout;
        let mut deadline = Instant::now() + patience;
        loop {
            let state = {
                let progress = self.progress.borrow_and_update();
                match &progress.failure {
                    Some(failure) => Err(failure.clone()),
                    None => Ok(progress.has(piece)),
                }
            };
            let is_here = state?;
            if let Some(bytes) = self.node.kept.take(&self.torrent.name, piece) {
                return Ok(bytes);
            }
            if is_here {
                match self.read(piece).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(PieceError::Lost) => self.node.lost(&self.torrent, piece).await,
                    Err(PieceError::Storage(error)) => {
                        return Err(ReadError::Unavailable(error.0));
                    }
                }
                if Instant::now() >= deadline {
                    return Err(ReadError::Timeout(patience));
                }
                continue;
            }
            match tokio::time::timeout_at(deadline, self.progress.changed()).await {
                // Something arrived: the download is alive.
                Ok(Ok(())) => deadline = Instant::now() + patience,
                Ok(Err(_)) => return Err(ReadError::Stopped),
                Err(_) => return Err(ReadError::Timeout(patience)),
            }
        }
    }

    async fn read(&mut self, piece: PieceIndex) -> Result<Bytes, PieceError> {
        if let Some((ahead, task)) = self.ahead.take()
            && ahead == piece
            && let Ok(read) = task.await
        {
            return read;
        }
        self.node.pieces.read(&self.torrent.name, piece).await
    }

    /// Begins to read the next piece from storage, where it is there and not in memory.
    fn read_ahead(&mut self, offset: u64) {
        let Some(next) = self.geometry.piece_at(offset) else {
            return;
        };
        if offset >= self.end
            || !self.torrent.now().has(next)
            || self.node.kept.has(&self.torrent.name, next)
        {
            return;
        }
        let (pieces, name) = (Arc::clone(&self.node.pieces), self.torrent.name);
        let task = tokio::spawn(async move { pieces.read(&name, next).await });
        self.ahead = Some((next, task));
    }
}
