//! What the swarm needs of storage.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use swarm::Found;
use torrent::{Bitfield, Cv, Description, Generation, PieceIndex, SignedCv, SwarmName};

/// Storage of the pieces of blobs: a cache of an agent, or what an origin seeds from.
///
/// Methods may be called at the same time, also for one blob. Whoever implements this keeps
/// blocking work off the async threads.
#[async_trait]
pub trait Pieces: fmt::Debug + Send + Sync + 'static {
    /// Makes the blob ready to be read, and written where it is not complete. The signature of
    /// the description is checked here.
    ///
    /// # Errors
    /// [`StorageError`]: the blob cannot be downloaded or seeded now.
    async fn open(&self, description: &Description) -> Result<Opened, StorageError>;

    /// Keeps what is here of the blob from eviction for as long as the pin lives. A blob that is
    /// not here gives an empty pin.
    async fn pin(&self, _name: &SwarmName) -> Pin {
        Pin::default()
    }

    /// Takes the final description of a blob that was growing.
    ///
    /// # Errors
    /// [`ProveError`].
    async fn describe(&self, description: &Description) -> Result<Proven, ProveError>;

    /// Proves chaining values of the whole blob against its root and keeps them.
    ///
    /// # Errors
    /// [`ProveError::Wrong`] where they do not merge to the root.
    async fn prove(&self, name: &SwarmName, cvs: Arc<[Cv]>) -> Result<Proven, ProveError>;

    /// Checks the signatures of values of a growing blob and keeps them; returns their pieces.
    ///
    /// # Errors
    /// [`ProveError::Wrong`] where one is not signed for this blob and generation.
    async fn grow(
        &self,
        name: &SwarmName,
        values: Vec<SignedCv>,
    ) -> Result<Vec<PieceIndex>, ProveError>;

    /// Returns all chaining values where they are proven, else the signed ones that are known of
    /// `count` pieces from `first`; `None` where the blob is not here.
    async fn values(&self, name: &SwarmName, first: u32, count: u32) -> Option<Values>;

    /// Checks bytes that came for a piece against its chaining value, then stores them. Returns
    /// the blobs that were evicted for it.
    ///
    /// # Errors
    /// [`StoreError`]. Bytes for which this is [`StoreError::NotStored`] are right all the same.
    async fn store(
        &self,
        name: &SwarmName,
        piece: PieceIndex,
        bytes: Bytes,
    ) -> Result<Vec<SwarmName>, StoreError>;

    /// Reads a piece, and hashes what was read.
    ///
    /// # Errors
    /// [`PieceError`]; a damaged piece was dropped.
    async fn read(&self, name: &SwarmName, piece: PieceIndex) -> Result<Bytes, PieceError>;

    /// Reads a piece for a peer, which checks it itself.
    ///
    /// # Errors
    /// As [`Self::read`].
    async fn read_unchecked(
        &self,
        name: &SwarmName,
        piece: PieceIndex,
    ) -> Result<Bytes, PieceError> {
        self.read(name, piece).await
    }

    /// Hashes a piece again after somebody said that it is damaged; returns whether it is right.
    /// A damaged one is dropped. Where the disk cannot be asked, the piece counts as damaged.
    async fn recheck(&self, name: &SwarmName, piece: PieceIndex) -> bool {
        self.read(name, piece).await.is_ok()
    }

    /// Lets go of a blob that was opened and of which nothing was stored, unless somebody uses it.
    async fn release(&self, _name: &SwarmName) {}

    /// Drops a blob and everything known of it: it was revoked.
    async fn remove(&self, name: &SwarmName);

    /// Says whether storage has a blob, and begins to hash it where nobody did. Only origins are
    /// asked.
    async fn resolve(&self, _name: &SwarmName) -> Found {
        Found::Absent
    }
}

/// A blob whose storage is ready.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Pieces that are here, hashed again where that is needed to trust them.
    pub have: Bitfield,
    /// Whether the chaining values of all pieces are known.
    pub proven: bool,
    /// Held while the blob is downloaded.
    pub pin: Pin,
}

/// What came of a proof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proven {
    /// Whether the chaining values of all pieces are known now.
    pub proven: bool,
    /// Pieces dropped because they were checked against values that turned out wrong.
    pub dropped: Vec<PieceIndex>,
}

/// Chaining values for a peer.
#[derive(Clone, Debug)]
pub enum Values {
    /// Those of all pieces.
    All(Arc<[Cv]>),
    /// Those signed so far under a generation.
    Signed(Generation, Vec<SignedCv>),
}

/// Keeps a blob from eviction while it lives.
#[derive(Clone, Default)]
pub struct Pin(
    #[expect(dead_code, reason = "held, never looked at")] Option<Arc<dyn Any + Send + Sync>>,
);

impl Pin {
    /// Makes a pin of something that keeps the blob while it is held.
    #[must_use]
    pub fn new(held: Arc<dyn Any + Send + Sync>) -> Self {
        Self(Some(held))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin")
    }
}

/// Storage that does not do what it should. The text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StorageError(pub Arc<str>);

impl StorageError {
    /// Keeps the text of an error.
    pub fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string().into())
    }
}

/// Values that are not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProveError {
    #[error("they are not those of the blob")]
    Wrong,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Bytes that are not stored as a piece.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the bytes are not those of the piece")]
    Corrupt,
    #[error("nothing is known that the piece could be checked against")]
    Unproven,
    #[error("the piece is right, but cannot be stored: {0}")]
    NotStored(StorageError),
}

/// A piece that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    /// It is not here, or was damaged and is not here any more.
    #[error("the piece is not here any more")]
    Lost,
    /// It may be right, and cannot be read now.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
