//! The blobs of storage: their content, and the metainfo kept beside it.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use backend::{Backend, Condition, Key, Object, Stat, layout};
use bytes::Bytes;
use lru::LruCache;
use oci::{Algorithm, Digest};
use parking_lot::Mutex;
use tokio::time::Instant;
use torrent::tree::Tree;
use torrent::{ClusterKey, ClusterPublicKey, GeometryError, MetaInfo, PieceIndex, SwarmName};

/// Metainfos kept in memory; each has 32 bytes per piece.
const KEPT_METAINFOS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// How long a blob that was hashed counts as there without another look at storage. Content that
/// somebody removed meanwhile shows when it is read.
pub(crate) const KNOWN_FOR: Duration = Duration::from_secs(30);

/// Longest metainfo read back: the values of the longest blob, and its head.
const MAX_METAINFO_BYTES: u64 = (torrent::metainfo::MAX_PIECES as u64) * 32 + 4096;

/// Storage, and the key that signs what is kept beside the content.
#[derive(Debug)]
pub struct Blobs {
    backend: Arc<dyn Backend>,
    key: ClusterKey,
    metainfos: Mutex<LruCache<Digest, Kept>>,
}

#[derive(Clone, Debug)]
struct Kept {
    metainfo: Arc<MetaInfo>,
    content: Key,
    /// When storage had the content for sure.
    seen: Instant,
}

/// The content of a blob in storage.
#[derive(Clone, Debug)]
pub struct Content {
    pub key: Key,
    pub stat: Stat,
}

/// A blob that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub metainfo: Arc<MetaInfo>,
    /// The name of its content in storage.
    pub sha256: Digest,
}

/// A blob that cannot be had from storage now.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error(transparent)]
    Backend(#[from] backend::Error),
    #[error(transparent)]
    Length(#[from] GeometryError),
}

impl Blobs {
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, key: ClusterKey) -> Self {
        Self {
            backend,
            key,
            metainfos: Mutex::new(LruCache::new(KEPT_METAINFOS)),
        }
    }

    #[must_use]
    pub const fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    #[must_use]
    pub const fn key(&self) -> &ClusterKey {
        &self.key
    }

    #[must_use]
    pub fn public_key(&self) -> ClusterPublicKey {
        self.key.public()
    }

    /// Returns where the content of a blob is; `None` where storage does not have it.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn find(&self, digest: &Digest) -> Result<Option<Content>, BlobError> {
        let content = layout::content_digest(&*self.backend, digest).await?;
        let Some(content) = content else {
            return Ok(None);
        };
        let key = layout::blob(&content);
        match self.backend.stat(&key).await {
            Ok(stat) => Ok(Some(Content { key, stat })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the metainfo of a blob whose content is in storage and was hashed.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn metainfo(&self, digest: &Digest) -> Result<Option<Arc<MetaInfo>>, BlobError> {
        if let Some(kept) = self.kept(digest) {
            if kept.seen.elapsed() < KNOWN_FOR {
                return Ok(Some(kept.metainfo));
            }
            // Another origin, or docker-registry, may have removed it.
            return match self.backend.stat(&kept.content).await {
                Ok(_) => {
                    if let Some(kept) = self.metainfos.lock().get_mut(digest) {
                        kept.seen = Instant::now();
                    }
                    Ok(Some(kept.metainfo))
                }
                Err(error) if error.is_not_found() => {
                    self.metainfos.lock().pop(digest);
                    Ok(None)
                }
                Err(error) => Err(error.into()),
            };
        }
        let read = self
            .backend
            .read(&layout::metainfo(digest), MAX_METAINFO_BYTES)
            .await;
        let bytes = match read {
            Ok((bytes, _)) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Somebody may have removed the content and left what is ours.
        let Some(content) = self.find(digest).await? else {
            return Ok(None);
        };
        let public = self.public_key();
        let parsed = blocking(move || MetaInfo::from_bytes(&public, &bytes)).await;
        match parsed {
            Ok(metainfo)
                if *metainfo.name() == SwarmName::Blob(*digest)
                    && metainfo.summary().length() == content.stat.length =>
            {
                let kept = Kept {
                    metainfo: Arc::new(metainfo),
                    content: content.key,
                    seen: Instant::now(),
                };
                self.metainfos.lock().put(*digest, kept.clone());
                Ok(Some(kept.metainfo))
            }
            Ok(_) => {
                tracing::warn!(%digest, "metainfo in storage is of another blob; hashing again");
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(%digest, %error, "metainfo in storage does not hold; hashing again");
                Ok(None)
            }
        }
    }

    /// Returns a blob that was taken before; `None` where it is not there.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn committed(&self, digest: &Digest) -> Result<Option<Committed>, BlobError> {
        let metainfo = self.metainfo(digest).await?;
        let sha256 = layout::content_digest(&*self.backend, digest).await?;
        let both = metainfo.zip(sha256);
        Ok(both.map(|(metainfo, sha256)| Committed { metainfo, sha256 }))
    }

    /// Returns the metainfo of a blob as this process remembers it, without a look at storage.
    #[must_use]
    pub fn remembered(&self, digest: &Digest) -> Option<Arc<MetaInfo>> {
        self.kept(digest).map(|kept| kept.metainfo)
    }

    /// Forgets what this process remembers of a blob; storage is as it was.
    pub fn forget(&self, digest: &Digest) {
        self.metainfos.lock().pop(digest);
    }

    fn kept(&self, digest: &Digest) -> Option<Kept> {
        self.metainfos.lock().get(digest).cloned()
    }

    /// Signs what hashing a blob yielded and stores it beside the content. Where storage does not
    /// take it, it is known for as long as this process remembers it, and made again later.
    ///
    /// # Errors
    /// A length that no blob may have.
    pub async fn describe(
        &self,
        digest: &Digest,
        content: Key,
        tree: &Tree,
    ) -> Result<Arc<MetaInfo>, GeometryError> {
        self.describe_in(&*self.backend, digest, content, tree)
            .await
    }

    async fn describe_in(
        &self,
        backend: &dyn Backend,
        digest: &Digest,
        content: Key,
        tree: &Tree,
    ) -> Result<Arc<MetaInfo>, GeometryError> {
        let name = SwarmName::Blob(*digest);
        let metainfo = Arc::new(MetaInfo::sign(&self.key, name, tree)?);
        let kept = Kept {
            metainfo: Arc::clone(&metainfo),
            content,
            seen: Instant::now(),
        };
        self.metainfos.lock().put(*digest, kept);
        if let Err(error) = store_metainfo(backend, digest, &metainfo, tree).await {
            tracing::warn!(%digest, %error, "cannot store metainfo; the blob will be hashed again");
        }
        Ok(metainfo)
    }

    /// Starts to read content, or a part of it.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn read(
        &self,
        content: &Content,
        range: Option<Range<u64>>,
    ) -> Result<Object, BlobError> {
        Ok(self.backend.get(&content.key, range).await?)
    }

    /// Reads the bytes of one piece as storage has them: whoever gets them checks them.
    ///
    /// # Errors
    /// A failure of storage, a length that no longer is that of the blob.
    pub async fn read_piece(
        &self,
        digest: &Digest,
        geometry: &torrent::Geometry,
        piece: PieceIndex,
    ) -> Result<Bytes, BlobError> {
        let key = self.content_key(digest).await?;
        let range = geometry.range(piece);
        let length = range.end - range.start;
        let bytes = match self.read_range(&key, range.clone()).await {
            // It was written anew, with the same bytes or others: whoever checks them will see.
            Err(error) if error.is_precondition() => self.read_range(&key, range).await?,
            read => read?,
        };
        if bytes.len() as u64 != length {
            return Err(backend::Error::Truncated { key }.into());
        }
        Ok(bytes)
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, backend::Error> {
        let object = self.backend.get(key, Some(range)).await?;
        object.into_bytes(key).await
    }

    /// Hears that content was found damaged around an offset, or somewhere; returns whether it is
    /// worth reading again.
    pub(crate) fn doubt(&self, content: &Key, offset: Option<u64>) -> bool {
        self.backend.doubt(content, offset)
    }

    /// As [`Self::doubt`], of a piece.
    ///
    /// # Errors
    /// A failure of storage.
    pub(crate) async fn doubt_piece(
        &self,
        digest: &Digest,
        geometry: &torrent::Geometry,
        piece: PieceIndex,
    ) -> Result<bool, BlobError> {
        let key = self.content_key(digest).await?;
        Ok(self.doubt(&key, Some(geometry.range(piece).start)))
    }

    async fn content_key(&self, digest: &Digest) -> Result<Key, BlobError> {
        if let Some(kept) = self.kept(digest) {
            return Ok(kept.content);
        }
        let content = layout::content_digest(&*self.backend, digest).await?;
        let content = content.ok_or_else(|| backend::Error::NotFound {
            key: layout::alias(digest),
        })?;
        Ok(layout::blob(&content))
    }

    /// Stores a finished file as the content of a blob, then what hashing it yielded. Of a blob
    /// that is named by sha512, content and metainfo are also there under its sha256. All of it
    /// goes to `held`, where that is given, instead of storage.
    ///
    /// # Errors
    /// A failure of storage. The file may be gone; what was stored is whole.
    pub async fn adopt(
        &self,
        held: Option<&dyn Backend>,
        digest: &Digest,
        sha256: &Digest,
        file: &std::path::Path,
        tree: &Tree,
    ) -> Result<Arc<MetaInfo>, BlobError> {
        let backend = held.unwrap_or(&*self.backend);
        let content = layout::blob(sha256);
        backend.adopt(&content, file).await?;
        let metainfo = self
            .describe_in(backend, sha256, content.clone(), tree)
            .await?;
        if digest == sha256 {
            return Ok(metainfo);
        }
        let (alias, link) = (layout::alias(digest), layout::link_to(sha256));
        backend.put(&alias, link, Condition::Any).await?;
        Ok(self.describe_in(backend, digest, content, tree).await?)
    }

    /// Removes a blob and what was kept beside it; one that is not there is no error.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn delete(&self, digest: &Digest) -> Result<(), BlobError> {
        let content = layout::content_digest(&*self.backend, digest).await?;
        // Nobody shall find metainfo without content; the other way round it is made again.
        for name in content.iter().chain([digest]) {
            self.metainfos.lock().pop(name);
            self.backend.delete(&layout::metainfo(name)).await?;
            self.backend.delete(&layout::blocks(name)).await?;
        }
        if digest.algorithm() == Algorithm::Sha512 {
            self.backend.delete(&layout::alias(digest)).await?;
        }
        if let Some(content) = content {
            self.backend.delete(&layout::blob(&content)).await?;
        }
        Ok(())
    }
}

async fn store_metainfo(
    backend: &dyn Backend,
    digest: &Digest,
    metainfo: &MetaInfo,
    tree: &Tree,
) -> Result<(), backend::Error> {
    // The blocks first: where the metainfo is, all of it is.
    if !tree.blocks.is_empty() {
        let blocks: Vec<u8> = tree.blocks.iter().flat_map(|cv| cv.0).collect();
        let key = layout::blocks(digest);
        backend.put(&key, blocks.into(), Condition::Any).await?;
    }
    let bytes = metainfo.to_bytes().into();
    let key = layout::metainfo(digest);
    backend.put(&key, bytes, Condition::Any).await?;
    Ok(())
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
