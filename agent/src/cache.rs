//! The cache on the disk as the swarm asks for it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use peer::{Opened, PieceError, Pieces, Pin, ProveError, Proven, StorageError, StoreError, Values};
use store::{Blob, Cache, ProofError, ReadError, VerifiedPiece, VerifyError};
use torrent::{Cv, Description, PieceIndex, SignedCv, SwarmName};

/// Pieces in a [`store::Cache`]. Each leaves the disk hashed again, but for peers, which hash it
/// themselves.
#[derive(Clone, Debug)]
pub struct CachedPieces {
    cache: Arc<Cache>,
}

impl CachedPieces {
    #[must_use]
    pub const fn new(cache: Arc<Cache>) -> Self {
        Self { cache }
    }

    /// Runs blocking work on an open blob.
    async fn on_blob<T, F>(&self, name: &SwarmName, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&Cache, &Arc<Blob>) -> T + Send + 'static,
    {
        let (cache, name) = (Arc::clone(&self.cache), *name);
        blocking(move || match cache.get(&name) {
            Ok(blob) => blob.map(|blob| work(&cache, &blob)),
            Err(error) => {
                tracing::warn!(%name, %error, "cannot open a cached blob");
                None
            }
        })
        .await
    }

    async fn prove_with<F>(&self, name: &SwarmName, work: F) -> Result<Proven, ProveError>
    where
        F: FnOnce(&Blob) -> Result<Vec<PieceIndex>, ProofError> + Send + 'static,
    {
        let proven = self.on_blob(name, move |_, blob| {
            let dropped = work(blob).map_err(prove_error)?;
            Ok(Proven {
                proven: blob.metainfo().is_some(),
                dropped,
            })
        });
        proven.await.unwrap_or_else(|| Err(not_here().into()))
    }
}

#[async_trait]
impl Pieces for CachedPieces {
    async fn open(&self, description: &Description) -> Result<Opened, StorageError> {
        let (cache, description) = (Arc::clone(&self.cache), *description);
        let opened = blocking(move || cache.open_blob(&description)).await;
        let blob = opened.map_err(StorageError::new)?;
        Ok(Opened {
            have: blob.have(),
            proven: blob.metainfo().is_some(),
            pin: Pin::new(blob),
        })
    }

    async fn pin(&self, name: &SwarmName) -> Pin {
        let blob = self.on_blob(name, |_, blob| Arc::clone(blob)).await;
        blob.map_or_else(Pin::default, |blob| Pin::new(blob))
    }

    async fn describe(&self, description: &Description) -> Result<Proven, ProveError> {
        let Description::Complete(summary) = *description else {
            return Err(ProveError::Wrong);
        };
        self.prove_with(description.name(), move |blob| blob.describe(summary))
            .await
    }

    async fn prove(&self, name: &SwarmName, cvs: Arc<[Cv]>) -> Result<Proven, ProveError> {
        self.prove_with(name, move |blob| blob.prove(cvs)).await
    }

    async fn grow(
        &self,
        name: &SwarmName,
        values: Vec<SignedCv>,
    ) -> Result<Vec<PieceIndex>, ProveError> {
        let grown = self.on_blob(name, move |_, blob| blob.grow(&values).map_err(prove_error));
        grown.await.unwrap_or_else(|| Err(not_here().into()))
    }

    async fn values(&self, name: &SwarmName, first: u32, count: u32) -> Option<Values> {
        let values = self.on_blob(name, move |_, blob| {
            if let Some(metainfo) = blob.metainfo() {
                return Some(Values::All(Arc::clone(metainfo.cvs())));
            }
            let generation = blob.description().generation()?;
            let first = blob.geometry().index(first)?;
            Some(Values::Signed(generation, blob.signed_cvs(first, count)))
        });
        values.await.flatten()
    }

    async fn store(
        &self,
        name: &SwarmName,
        piece: PieceIndex,
        bytes: Bytes,
    ) -> Result<Vec<SwarmName>, StoreError> {
        let stored = self.on_blob(name, move |cache, blob| {
            let verified = blob.verify(piece, bytes).map_err(|error| match error {
                VerifyError::Corrupt { .. } => StoreError::Corrupt,
                VerifyError::Unproven { .. } => StoreError::Unproven,
            })?;
            let written = cache.write(blob, &verified);
            written.map_err(|error| StoreError::NotStored(StorageError::new(error)))
        });
        // Without a blob there is nothing to check it against.
        stored.await.unwrap_or(Err(StoreError::Unproven))
    }

    async fn read(&self, name: &SwarmName, piece: PieceIndex) -> Result<Bytes, PieceError> {
        let read = self.on_blob(name, move |_, blob| blob.read(piece)).await;
        let read = read.unwrap_or(Err(ReadError::Gone(*name)));
        read.map(VerifiedPiece::into_bytes).map_err(piece_error)
    }

    async fn read_unchecked(
        &self,
        name: &SwarmName,
        piece: PieceIndex,
    ) -> Result<Bytes, PieceError> {
        let read = self.on_blob(name, move |_, blob| blob.read_unchecked(piece));
        let read = read.await.unwrap_or(Err(ReadError::Gone(*name)));
        read.map_err(piece_error)
    }

    async fn release(&self, name: &SwarmName) {
        let (cache, name) = (Arc::clone(&self.cache), *name);
        if let Err(error) = blocking(move || cache.remove_empty(&name)).await {
            tracing::warn!(%name, %error, "cannot remove an empty blob from the cache");
        }
    }

    async fn remove(&self, name: &SwarmName) {
        let (cache, name) = (Arc::clone(&self.cache), *name);
        if let Err(error) = blocking(move || cache.remove(&name)).await {
            tracing::error!(%name, %error, "cannot remove a blob from the cache");
        }
    }
}

fn prove_error(error: ProofError) -> ProveError {
    match error {
        ProofError::MetaInfo(_) => ProveError::Wrong,
        ProofError::Disk(error) => StorageError::new(error).into(),
    }
}

fn piece_error(error: ReadError) -> PieceError {
    match error {
        ReadError::Disk(error) => StorageError::new(error).into(),
        error @ ReadError::Corrupt { .. } => {
            tracing::warn!(%error, "fetching it again");
            PieceError::Lost
        }
        ReadError::Missing { .. } | ReadError::Gone(_) => PieceError::Lost,
    }
}

fn not_here() -> StorageError {
    StorageError::new("the blob is not in the cache any more")
}

/// Runs hashing or file work off the async threads.
pub(crate) async fn blocking<T, F>(work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only at the end of the process: nobody is there to care.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use oci::Digest;
    use torrent::{ClusterKey, MetaInfo, TreeHasher};

    use super::*;

    const MIB: usize = 1 << 20;

    struct Bench {
        _dir: tempfile::TempDir,
        cache: Arc<Cache>,
        pieces: CachedPieces,
        bytes: Bytes,
        metainfo: MetaInfo,
        key: ClusterKey,
    }

    fn bench(capacity_bytes: u64) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let key = ClusterKey::from_seed([3; 32]);
        let config = store::Config::new(dir.path().join("cache"), capacity_bytes);
        let cache = Arc::new(Cache::open(config, key.public()).unwrap());
        let (bytes, metainfo) = blob(&key, 2 * MIB + 5, 1);
        Bench {
            _dir: dir,
            pieces: CachedPieces::new(Arc::clone(&cache)),
            cache,
            bytes,
            metainfo,
            key,
        }
    }

    fn blob(key: &ClusterKey, length: usize, seed: usize) -> (Bytes, MetaInfo) {
        let bytes: Bytes = (0..length)
            .map(|i| u8::try_from((i * 7 + seed) % 251).unwrap())
            .collect();
        let mut hasher = TreeHasher::new();
        hasher.update(&bytes);
        let name = SwarmName::Blob(Digest::sha256(&bytes));
        let metainfo = MetaInfo::sign(key, name, &hasher.finish().unwrap()).unwrap();
        (bytes, metainfo)
    }

    fn slice(metainfo: &MetaInfo, bytes: &Bytes, piece: PieceIndex) -> Bytes {
        let range = metainfo.geometry().range(piece);
        bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
    }

    impl Bench {
        /// Stores all pieces; returns what was evicted for them.
        async fn fill(&self, metainfo: &MetaInfo, bytes: &Bytes) -> Vec<SwarmName> {
            let description = Description::Complete(*metainfo.summary());
            let opened = self.pieces.open(&description).await.unwrap();
            assert!(opened.have.is_empty());
            let cvs = Arc::clone(metainfo.cvs());
            let name = metainfo.name();
            let proven = self.pieces.prove(name, cvs).await.unwrap();
            assert!(proven.proven && proven.dropped.is_empty());
            let mut evicted = Vec::new();
            for piece in metainfo.geometry().indexes() {
                let bytes = slice(metainfo, bytes, piece);
                let stored = self.pieces.store(name, piece, bytes).await;
                evicted.extend(stored.unwrap());
            }
            evicted
        }
    }

    #[tokio::test]
    async fn pieces_are_checked_on_their_way_in_and_out() {
        let bench = bench(64 << 20);
        let (metainfo, name) = (&bench.metainfo, bench.metainfo.name());
        let description = Description::Complete(*metainfo.summary());
        let index = |raw| metainfo.geometry().index(raw).unwrap();
        let first = slice(metainfo, &bench.bytes, index(0));
        bench.pieces.open(&description).await.unwrap();
        // Nothing proves it yet.
        let stored = bench.pieces.store(name, index(0), first.clone()).await;
        assert_eq!(stored, Err(StoreError::Unproven));
        let wrong: Arc<[Cv]> = metainfo.cvs().iter().rev().copied().collect();
        let proven = bench.pieces.prove(name, wrong).await;
        assert_eq!(proven, Err(ProveError::Wrong));
        bench.fill(metainfo, &bench.bytes).await;
        let second = slice(metainfo, &bench.bytes, index(1));
        let stored = bench.pieces.store(name, index(0), second).await;
        assert_eq!(stored, Err(StoreError::Corrupt));
        assert_eq!(bench.pieces.read(name, index(0)).await, Ok(first));
        let values = bench.pieces.values(name, 0, 1).await.unwrap();
        assert!(matches!(values, Values::All(cvs) if cvs == *metainfo.cvs()));
        bench.pieces.remove(name).await;
        let read = bench.pieces.read(name, index(0)).await;
        assert_eq!(read, Err(PieceError::Lost));
        assert!(bench.pieces.values(name, 0, 1).await.is_none());
    }

    #[tokio::test]
    async fn another_clusters_description_is_refused() {
        let bench = bench(64 << 20);
        let (_, foreign) = blob(&ClusterKey::from_seed([4; 32]), 100, 1);
        let description = Description::Complete(*foreign.summary());
        assert!(bench.pieces.open(&description).await.is_err());
    }

    #[tokio::test]
    async fn a_pinned_blob_stays_and_an_idle_one_makes_room() {
        let bench = bench(6 << 20);
        let name = *bench.metainfo.name();
        assert!(bench.fill(&bench.metainfo, &bench.bytes).await.is_empty());
        let pin = bench.pieces.pin(&name).await;
        let (bytes, metainfo) = blob(&bench.key, 4 * MIB, 2);
        assert!(bench.fill(&metainfo, &bytes).await.is_empty(), "pinned");
        drop(pin);
        let (bytes, metainfo) = blob(&bench.key, 3 * MIB, 3);
        let evicted = bench.fill(&metainfo, &bytes).await;
        assert!(evicted.contains(&name), "{evicted:?}");
        assert!(bench.cache.used_bytes() <= 6 << 20);
    }
}
