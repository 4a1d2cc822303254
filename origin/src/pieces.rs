//! The blobs of storage as the swarm asks for them: descriptions, values, pieces.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use oci::Digest;
use peer::Found;
use peer::{Opened, PieceError, Pin, ProveError, Proven, StorageError, StoreError, Values};
use torrent::{Bitfield, Cv, Description, Geometry, MetaInfo, PieceIndex, SignedCv, SwarmName};

use crate::blobs::{BlobError, Blobs, blocking};
use crate::fetch::{Fetcher, Growing};
use crate::recent::Recent;

/// Pieces straight from storage: nothing is copied, nothing is evicted, nothing comes from peers.
#[derive(Clone, Debug)]
pub struct Pieces {
    blobs: Arc<Blobs>,
    fetcher: Arc<Fetcher>,
    recent: Arc<Recent>,
}

/// What the pieces of a blob are checked against.
#[derive(Clone, Debug)]
enum Known {
    Hashed(Arc<MetaInfo>),
    Growing(Arc<Growing>),
}

impl Known {
    fn geometry(&self) -> &Geometry {
        match self {
            Self::Hashed(metainfo) => metainfo.geometry(),
            Self::Growing(growing) => growing.head().geometry(),
        }
    }

    fn is(&self, description: &Description) -> bool {
        match self {
            Self::Hashed(metainfo) => *description == Description::Complete(*metainfo.summary()),
            Self::Growing(growing) => *description == Description::Growing(*growing.head()),
        }
    }

    /// Returns whether the piece was hashed.
    fn has(&self, piece: PieceIndex) -> bool {
        let pieces = match self {
            Self::Hashed(metainfo) => metainfo.geometry().pieces() as usize,
            Self::Growing(growing) => growing.hashed(),
        };
        piece.as_usize() < pieces
    }

    fn have(&self) -> Bitfield {
        let mut have = Bitfield::empty(self.geometry());
        for piece in self
            .geometry()
            .indexes()
            .take_while(|piece| self.has(*piece))
        {
            have.insert(piece);
        }
        have
    }

    fn verifies(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        match self {
            Self::Hashed(metainfo) => metainfo.verifies(piece, bytes),
            Self::Growing(growing) => growing
                .signed_cv(piece)
                .is_some_and(|signed| growing.head().verifies(piece, &signed.cv, bytes)),
        }
    }
}

impl Pieces {
    #[must_use]
    pub const fn new(blobs: Arc<Blobs>, fetcher: Arc<Fetcher>, recent: Arc<Recent>) -> Self {
        Self {
            blobs,
            fetcher,
            recent,
        }
    }

    /// Returns what is known of a blob whose content is in storage.
    async fn known(&self, name: &SwarmName) -> Result<Option<Known>, BlobError> {
        // Nothing in storage is named by a source.
        let Some(digest) = name.digest() else {
            return Ok(None);
        };
        if let Some(growing) = self.fetcher.growing(digest) {
            return Ok(Some(Known::Growing(growing)));
        }
        Ok(self.blobs.metainfo(digest).await?.map(Known::Hashed))
    }

    /// Returns what is known of a blob; content that is gone shows when it is read, so that there
    /// is no need to look before each piece.
    async fn remembered(&self, digest: &Digest) -> Result<Option<Known>, BlobError> {
        match self.blobs.remembered(digest) {
            Some(metainfo) => Ok(Some(Known::Hashed(metainfo))),
            None => self.known(&SwarmName::Blob(*digest)).await,
        }
    }

    /// Reads a piece as storage has it, with what it can be checked against.
    async fn read_with(
        &self,
        name: &SwarmName,
        piece: PieceIndex,
    ) -> Result<(Bytes, Known), PieceError> {
        let digest = name.digest().ok_or(PieceError::Lost)?;
        self.recent.touch(name);
        let known = self.remembered(digest).await.map_err(unreadable)?;
        let known = known
            .filter(|known| known.has(piece))
            .ok_or(PieceError::Lost)?;
        let read = self.blobs.read_piece(digest, known.geometry(), piece).await;
        Ok((read.map_err(unreadable)?, known))
    }

    async fn checked(&self, name: &SwarmName, piece: PieceIndex) -> Result<Bytes, PieceError> {
        loop {
            let (bytes, known) = self.read_with(name, piece).await?;
            let (checker, bytes) = (known.clone(), bytes);
            let (right, bytes) = blocking(move || (checker.verifies(piece, &bytes), bytes)).await;
            if right {
                return Ok(bytes);
            }
            // What was kept of storage may be damaged, and storage may be right: once.
            let digest = name.digest().ok_or(PieceError::Lost)?;
            let doubt = self.blobs.doubt_piece(digest, known.geometry(), piece);
            if !doubt.await.map_err(unreadable)? {
                tracing::error!(%name, %piece, "a piece is damaged in storage");
                return Err(PieceError::Lost);
            }
            tracing::warn!(%name, %piece, "a piece was damaged on its way; reading it again");
        }
    }
}

#[async_trait]
impl peer::Pieces for Pieces {
    async fn open(&self, description: &Description) -> Result<Opened, StorageError> {
        let key = self.blobs.public_key();
        description.verify(&key).map_err(StorageError::new)?;
        let known = self.known(description.name()).await;
        let known = known.map_err(StorageError::new)?;
        let here = known.filter(|known| known.is(description));
        let here = here.ok_or_else(|| {
            StorageError::new(format!("storage has no such {}", description.name()))
        })?;
        Ok(Opened {
            have: here.have(),
            proven: matches!(here, Known::Hashed(_)),
            pin: Pin::default(),
        })
    }

    /// An origin proves what it has by itself; what others say changes nothing.
    async fn describe(&self, description: &Description) -> Result<Proven, ProveError> {
        let known = self.known(description.name()).await;
        match known.map_err(StorageError::new)? {
            Some(Known::Hashed(metainfo)) => {
                if *description != Description::Complete(*metainfo.summary()) {
                    return Err(ProveError::Wrong);
                }
                Ok(Proven {
                    proven: true,
                    dropped: Vec::new(),
                })
            }
            Some(Known::Growing(_)) | None => Ok(Proven::default()),
        }
    }

    async fn prove(&self, name: &SwarmName, cvs: Arc<[Cv]>) -> Result<Proven, ProveError> {
        let known = self.known(name).await;
        match known.map_err(StorageError::new)? {
            Some(Known::Hashed(metainfo)) if *metainfo.cvs() == cvs => Ok(Proven {
                proven: true,
                dropped: Vec::new(),
            }),
            Some(Known::Hashed(_)) => Err(ProveError::Wrong),
            Some(Known::Growing(_)) | None => Ok(Proven::default()),
        }
    }

    /// Values of another origin that reads the same source. Those that contradict our own are
    /// wrong, or ours are.
    async fn grow(
        &self,
        name: &SwarmName,
        values: Vec<SignedCv>,
    ) -> Result<Vec<PieceIndex>, ProveError> {
        let growing = name
            .digest()
            .and_then(|digest| self.fetcher.growing(digest));
        let Some(growing) = growing else {
            return Ok(Vec::new());
        };
        let key = self.blobs.public_key();
        let checked = blocking(move || {
            let mut pieces = Vec::new();
            for theirs in values {
                let piece = growing.head().check_cv(&key, &theirs).ok()?;
                match growing.signed_cv(piece) {
                    Some(ours) if ours.cv == theirs.cv => pieces.push(piece),
                    Some(_) => return None,
                    None => {}
                }
            }
            Some(pieces)
        });
        checked.await.ok_or(ProveError::Wrong)
    }

    async fn values(&self, name: &SwarmName, first: u32, count: u32) -> Option<Values> {
        let known = self.known(name).await;
        match known {
            Ok(Some(Known::Hashed(metainfo))) => Some(Values::All(Arc::clone(metainfo.cvs()))),
            Ok(Some(Known::Growing(growing))) => {
                let signed = growing.signed_cvs(first, count);
                Some(Values::Signed(growing.head().generation(), signed))
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%name, %error, "cannot read metainfo");
                None
            }
        }
    }

    /// An origin takes blobs from storage and from uploads, never from peers.
    async fn store(
        &self,
        name: &SwarmName,
        piece: PieceIndex,
        bytes: Bytes,
    ) -> Result<Vec<SwarmName>, StoreError> {
        let known = self.known(name).await.ok().flatten();
        let known = known.filter(|known| known.has(piece));
        let known = known.ok_or(StoreError::Unproven)?;
        if !blocking(move || known.verifies(piece, &bytes)).await {
            return Err(StoreError::Corrupt);
        }
        let error = StorageError::new("an origin takes no pieces from peers");
        Err(StoreError::NotStored(error))
    }

    async fn read(&self, name: &SwarmName, piece: PieceIndex) -> Result<Bytes, PieceError> {
        self.checked(name, piece).await
    }

    async fn read_unchecked(
        &self,
        name: &SwarmName,
        piece: PieceIndex,
    ) -> Result<Bytes, PieceError> {
        let (bytes, _) = self.read_with(name, piece).await?;
        Ok(bytes)
    }

    /// What was revoked stays in storage, which is not ours to empty; the fetcher remembers that
    /// it is wrong.
    async fn remove(&self, name: &SwarmName) {
        if let Some(digest) = name.digest() {
            self.blobs.forget(digest);
        }
    }

    async fn resolve(&self, name: &SwarmName) -> Found {
        match name {
            SwarmName::Blob(digest) => {
                let found = self.fetcher.resolve(digest).await;
                if matches!(found, Found::Here(_)) {
                    self.recent.touch(name);
                }
                found
            }
            SwarmName::Source(_) => Found::Absent,
        }
    }
}

fn unreadable(error: BlobError) -> PieceError {
    match error {
        BlobError::Backend(
            backend::Error::NotFound { .. }
            | backend::Error::Precondition { .. }
            | backend::Error::Range { .. }
            | backend::Error::Truncated { .. },
        ) => PieceError::Lost,
        BlobError::Backend(_) | BlobError::Length(_) => {
            PieceError::Storage(StorageError::new(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use backend::memory::MemoryBackend;
    use backend::{Backend as _, Condition, layout};
    use peer::Pieces as _;
    use torrent::ClusterKey;

    use super::*;
    use crate::fetch::{Event, Limits};

    const MIB: usize = 1 << 20;

    fn bytes(length: usize) -> Bytes {
        (0..length)
            .map(|i| u8::try_from(i * 17 % 251).unwrap())
            .collect()
    }

    fn slice(description: &Description, bytes: &Bytes, piece: PieceIndex) -> Bytes {
        let range = description.geometry().range(piece);
        bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_come_as_they_are_hashed_and_stay_when_all_are() {
        let backend = Arc::new(MemoryBackend::new());
        let key = ClusterKey::from_seed([3; 32]);
        let blobs = Arc::new(Blobs::new(backend.clone(), key));
        let (fetcher, mut events) = Fetcher::new(Arc::clone(&blobs), Limits::default());
        let pieces = Pieces::new(blobs, fetcher, Arc::default());
        let bytes = bytes(80 * MIB);
        let digest = Digest::sha256(&bytes);
        let name = SwarmName::Blob(digest);
        let at = layout::blob(&digest);
        backend
            .put(&at, bytes.clone(), Condition::Any)
            .await
            .unwrap();

        let Found::Here(description) = pieces.resolve(&name).await else {
            panic!("it is there")
        };
        // The queue of events holds the hashing up: it is not done yet.
        let Some(Event::Begun { description: begun }) = events.recv().await else {
            panic!("that it began comes first")
        };
        assert_eq!(begun, description);
        let Some(Event::Hashed { signed, .. }) = events.recv().await else {
            panic!("then the first piece")
        };
        let opened = pieces.open(&description).await.unwrap();
        assert!(!opened.proven && !opened.have.is_empty() && !opened.have.is_full());
        let index = |raw| description.geometry().index(raw).unwrap();
        let Some(Values::Signed(generation, values)) = pieces.values(&name, 0, 1).await else {
            panic!("values are signed as they come")
        };
        assert_eq!(
            (Some(generation), &values[..]),
            (description.generation(), &[signed][..])
        );
        assert_eq!(pieces.grow(&name, values).await.unwrap(), [index(0)]);
        let first = pieces.read(&name, index(0)).await.unwrap();
        assert_eq!(first, slice(&description, &bytes, index(0)));
        let late = pieces.read(&name, index(79)).await;
        assert_eq!(late, Err(PieceError::Lost), "it was not hashed so far");

        let description = loop {
            match events.recv().await.unwrap() {
                Event::Grown { description } => break description,
                Event::Begun { .. } | Event::Hashed { .. } => {}
                revoked @ Event::Revoked { .. } => panic!("{revoked:?}"),
            }
        };
        let opened = pieces.open(&description).await.unwrap();
        assert!(opened.proven && opened.have.is_full());
        let last = pieces.read_unchecked(&name, index(79)).await.unwrap();
        assert_eq!(last, slice(&description, &bytes, index(79)));

        // Somebody damages the content: who complains is right.
        let mut damaged = bytes.to_vec();
        damaged[MIB] ^= 1;
        backend
            .put(&at, damaged.into(), Condition::Any)
            .await
            .unwrap();
        assert!(pieces.recheck(&name, index(0)).await);
        assert!(!pieces.recheck(&name, index(1)).await);
        backend.delete(&at).await.unwrap();
        assert!(pieces.open(&description).await.is_ok(), "seen just now");
        tokio::time::advance(crate::blobs::KNOWN_FOR).await;
        assert!(pieces.open(&description).await.is_err());
        assert_eq!(pieces.read(&name, index(0)).await, Err(PieceError::Lost));
    }

    #[tokio::test]
    async fn what_peers_say_changes_nothing_in_storage() {
        let backend = Arc::new(MemoryBackend::new());
        let (key, other) = (
            ClusterKey::from_seed([3; 32]),
            ClusterKey::from_seed([4; 32]),
        );
        let blobs = Arc::new(Blobs::new(backend.clone(), key));
        let (fetcher, _events) = Fetcher::new(Arc::clone(&blobs), Limits::default());
        let pieces = Pieces::new(blobs, fetcher, Arc::default());
        let bytes = bytes(2 * MIB);
        let digest = Digest::sha256(&bytes);
        let name = SwarmName::Blob(digest);
        let at = layout::blob(&digest);
        backend
            .put(&at, bytes.clone(), Condition::Any)
            .await
            .unwrap();
        let Found::Here(description) = pieces.resolve(&name).await else {
            panic!("it is there")
        };
        let Description::Complete(summary) = description else {
            panic!("it is short enough to be hashed at once")
        };
        let forged = torrent::Summary::sign(&other, name, 2 << 20, *summary.root()).unwrap();
        assert!(pieces.open(&Description::Complete(forged)).await.is_err());

        let piece = description.geometry().index(1).unwrap();
        let right = slice(&description, &bytes, piece);
        let wrong = slice(
            &description,
            &bytes,
            description.geometry().index(0).unwrap(),
        );
        assert_eq!(
            pieces.store(&name, piece, wrong).await,
            Err(StoreError::Corrupt)
        );
        let stored = pieces.store(&name, piece, right).await;
        assert!(matches!(stored, Err(StoreError::NotStored(_))));
        let no_cvs: Arc<[Cv]> = Arc::new([]);
        assert_eq!(pieces.prove(&name, no_cvs).await, Err(ProveError::Wrong));
        assert!(pieces.describe(&description).await.unwrap().proven);
        pieces.remove(&name).await;
        assert!(
            matches!(pieces.resolve(&name).await, Found::Here(_)),
            "still in storage"
        );
        let source = SwarmName::Source([1; 32]);
        assert!(matches!(pieces.resolve(&source).await, Found::Absent));
        assert!(pieces.values(&source, 0, 1).await.is_none());
    }
}
