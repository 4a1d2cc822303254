//! The blobs of storage as the swarm asks for them: descriptions, values, pieces.

use std::sync::Arc;

use bytes::Bytes;
use oci::Digest;
use torrent::{Bitfield, Description, MetaInfo, MetaInfoError, PieceIndex, SignedCv, SwarmName};

use crate::blobs::{BlobError, Blobs, blocking};
use crate::fetch::{Fetcher, Growing, Resolution};

/// Pieces straight from storage: nothing is copied, nothing is evicted.
#[derive(Clone, Debug)]
pub struct Pieces {
    blobs: Arc<Blobs>,
    fetcher: Arc<Fetcher>,
}

/// A piece that storage does not give.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    #[error("{0} is not in storage, or its bytes were not hashed so far")]
    NotHere(SwarmName),
    #[error(transparent)]
    MetaInfo(#[from] MetaInfoError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// What the pieces of a blob are checked against.
enum Known {
    Hashed(Arc<MetaInfo>),
    Growing(Arc<Growing>),
}

impl Pieces {
    #[must_use]
    pub const fn new(blobs: Arc<Blobs>, fetcher: Arc<Fetcher>) -> Self {
        Self { blobs, fetcher }
    }

    /// Returns what storage says about a blob, and begins to hash it where nobody has.
    pub async fn resolve(&self, name: &SwarmName) -> Resolution {
        match name {
            SwarmName::Blob(digest) => self.fetcher.resolve(digest).await,
            // Nothing in storage has such a name.
            SwarmName::Source(_) => Resolution::Absent,
        }
    }

    /// Returns the pieces that can be given now, and whether all values are known.
    ///
    /// # Errors
    /// [`PieceError::NotHere`] where storage has another blob, or none.
    pub async fn open(&self, description: &Description) -> Result<(Bitfield, bool), PieceError> {
        let name = description.name();
        match self.known(name).await? {
            Known::Hashed(metainfo) if metainfo.geometry() == description.geometry() => {
                Ok((Bitfield::full(metainfo.geometry()), true))
            }
            Known::Growing(growing) if *description == Description::Growing(*growing.head()) => {
                let geometry = growing.head().geometry();
                let mut have = Bitfield::empty(geometry);
                for piece in geometry.indexes().take(growing.hashed()) {
                    have.insert(piece);
                }
                Ok((have, false))
            }
            Known::Hashed(_) | Known::Growing(_) => Err(PieceError::NotHere(*name)),
        }
    }

    /// Returns all values of a hashed blob.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn metainfo(&self, name: &SwarmName) -> Result<Option<Arc<MetaInfo>>, PieceError> {
        match name.digest() {
            Some(digest) => Ok(self.blobs.metainfo(digest).await?),
            None => Ok(None),
        }
    }

    /// Returns the values signed so far of at most `count` pieces from `first` of a blob that is
    /// being hashed.
    #[must_use]
    pub fn signed_cvs(&self, name: &SwarmName, first: u32, count: u32) -> Vec<SignedCv> {
        let growing = name
            .digest()
            .and_then(|digest| self.fetcher.growing(digest));
        growing.map_or_else(Vec::new, |growing| growing.signed_cvs(first, count))
    }

    /// Reads a piece as storage has it: whoever gets it checks it.
    ///
    /// # Errors
    /// [`PieceError::NotHere`] for a piece that was not hashed so far.
    pub async fn read(&self, name: &SwarmName, piece: PieceIndex) -> Result<Bytes, PieceError> {
        let (bytes, _) = self.read_with(name, piece).await?;
        Ok(bytes)
    }

    /// Reads a piece again, after somebody said that it is damaged; returns whether it is right.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn recheck(&self, name: &SwarmName, piece: PieceIndex) -> Result<bool, PieceError> {
        let (bytes, known) = self.read_with(name, piece).await?;
        Ok(blocking(move || match known {
            Known::Hashed(metainfo) => metainfo.verifies(piece, &bytes),
            Known::Growing(growing) => growing
                .signed_cv(piece)
                .is_some_and(|signed| growing.head().verifies(piece, &signed.cv, &bytes)),
        })
        .await)
    }

    async fn read_with(
        &self,
        name: &SwarmName,
        piece: PieceIndex,
    ) -> Result<(Bytes, Known), PieceError> {
        let digest = digest_of(name)?;
        // Content that is gone shows when it is read: no need to look before each piece.
        let known = match self.blobs.remembered(digest) {
            Some(metainfo) => Known::Hashed(metainfo),
            None => self.known(name).await?,
        };
        let geometry = match &known {
            Known::Hashed(metainfo) => *metainfo.geometry(),
            Known::Growing(growing) if piece.as_usize() < growing.hashed() => {
                *growing.head().geometry()
            }
            Known::Growing(_) => return Err(PieceError::NotHere(*name)),
        };
        // An index of a longer blob that had this name before.
        if geometry.index(piece.get()).is_none() {
            return Err(PieceError::NotHere(*name));
        }
        let bytes = self.blobs.read_piece(digest, &geometry, piece).await?;
        Ok((bytes, known))
    }

    async fn known(&self, name: &SwarmName) -> Result<Known, PieceError> {
        let digest = digest_of(name)?;
        if let Some(growing) = self.fetcher.growing(digest) {
            return Ok(Known::Growing(growing));
        }
        let metainfo = self.blobs.metainfo(digest).await?;
        metainfo
            .map(Known::Hashed)
            .ok_or(PieceError::NotHere(*name))
    }
}

fn digest_of(name: &SwarmName) -> Result<&Digest, PieceError> {
    name.digest().ok_or(PieceError::NotHere(*name))
}

#[cfg(test)]
mod tests {
    use backend::memory::MemoryBackend;
    use backend::{Backend as _, Condition, layout};
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

    #[tokio::test]
    async fn pieces_come_as_they_are_hashed_and_stay_when_all_are() {
        let backend = Arc::new(MemoryBackend::new());
        let blobs = Blobs::new(backend.clone(), ClusterKey::from_seed([3; 32]));
        let (blobs, limits) = (Arc::new(blobs), Limits::default());
        let (fetcher, mut events) = Fetcher::new(Arc::clone(&blobs), limits);
        let pieces = Pieces::new(blobs, fetcher);
        let bytes = bytes(80 * MIB);
        let digest = Digest::sha256(&bytes);
        let name = SwarmName::Blob(digest);
        let key = layout::blob(&digest);
        backend
            .put(&key, bytes.clone(), Condition::Any)
            .await
            .unwrap();

        let Resolution::Here(description) = pieces.resolve(&name).await else {
            panic!("it is there")
        };
        // The queue of events holds the hashing up: it is not done yet.
        let Some(Event::Hashed { .. }) = events.recv().await else {
            panic!("the first piece comes first")
        };
        let (have, proven) = pieces.open(&description).await.unwrap();
        assert!(!proven && !have.is_empty() && !have.is_full());
        let index = |raw| description.geometry().index(raw).unwrap();
        assert_eq!(pieces.signed_cvs(&name, 0, 1).len(), 1);
        let first = pieces.read(&name, index(0)).await.unwrap();
        assert_eq!(first, slice(&description, &bytes, index(0)));
        assert!(pieces.recheck(&name, index(0)).await.unwrap());
        let late = pieces.read(&name, index(79)).await.unwrap_err();
        assert!(matches!(late, PieceError::NotHere(_)), "{late}");

        let description = loop {
            match events.recv().await.unwrap() {
                Event::Grown { description } => break description,
                Event::Hashed { .. } => {}
                revoked @ Event::Revoked { .. } => panic!("{revoked:?}"),
            }
        };
        while !pieces.signed_cvs(&name, 0, 1).is_empty() {
            tokio::task::yield_now().await;
        }
        let (have, proven) = pieces.open(&description).await.unwrap();
        assert!(proven && have.is_full());
        let last = pieces.read(&name, index(79)).await.unwrap();
        assert_eq!(last, slice(&description, &bytes, index(79)));

        // Somebody damages the content: who complains is right.
        let mut damaged = bytes.to_vec();
        damaged[MIB] ^= 1;
        backend
            .put(&key, damaged.into(), Condition::Any)
            .await
            .unwrap();
        assert!(pieces.recheck(&name, index(0)).await.unwrap());
        assert!(!pieces.recheck(&name, index(1)).await.unwrap());
        backend.delete(&key).await.unwrap();
        assert!(pieces.open(&description).await.is_err());
        assert!(pieces.read(&name, index(0)).await.is_err());
    }
}
