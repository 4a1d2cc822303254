//! Manifests: taken only when all they need is there, and given only after they were hashed.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use api::build_index::{ManifestContent, ManifestStored, WriteId};
use backend::layout;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lru::LruCache;
use oci::{Algorithm, Digest, MAX_MANIFEST_BYTES, Manifest, Reference, RepositoryName, Tag};
use parking_lot::Mutex;

use crate::error::Failure;
use crate::locks::Locks;
use crate::media;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::referrers::Referrers;
use crate::repositories::Repositories;
use crate::storage::Storage;
use crate::tags::{Change, Tags};

/// Links that are looked up at a time for one request.
const LOOKED_UP: usize = 16;
/// Removals that are remembered, so that they are not made again where they are asked for again.
const REMEMBERED_REMOVALS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// What a kept manifest takes besides its own bytes, about.
const ENTRY_BYTES: usize = 512;

/// The manifests of all repositories.
#[derive(Debug)]
pub(crate) struct Manifests {
    storage: Storage,
    repositories: Repositories,
    referrers: Referrers,
    tags: Tags,
    names: Names,
    metrics: Metrics,
    kept: Kept,
    removals: Removals,
    /// Who puts and who removes the same manifest take turns.
    turns: Locks,
}

/// What the manifests are built of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) storage: Storage,
    pub(crate) repositories: Repositories,
    pub(crate) referrers: Referrers,
    pub(crate) tags: Tags,
    pub(crate) names: Names,
    pub(crate) metrics: Metrics,
    /// Most bytes kept in memory.
    pub(crate) kept_bytes: usize,
}

/// A manifest that somebody wants to be stored.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) repository: RepositoryName,
    pub(crate) reference: Reference,
    /// Tags besides the reference.
    pub(crate) tags: Vec<Tag>,
    pub(crate) media_type: Option<String>,
    pub(crate) bytes: Bytes,
    /// Names the change where it may be asked for again.
    pub(crate) write: Option<WriteId>,
}

impl Manifests {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            storage: parts.storage,
            repositories: parts.repositories,
            referrers: parts.referrers,
            tags: parts.tags,
            names: parts.names,
            metrics: parts.metrics,
            kept: Kept::new(parts.kept_bytes),
            removals: Removals::default(),
            turns: Locks::default(),
        }
    }

    /// Returns a manifest of a repository.
    pub(crate) async fn get(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestContent, Failure> {
        let digest = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => self.tags.resolve(repository, tag).await?,
        };
        let Some(digest) = digest else {
            return Err(self.unknown(repository, reference).await?);
        };
        let Some(content) = self.repositories.manifest(repository, &digest).await? else {
            return Err(self.unknown(repository, reference).await?);
        };
        let Some(kept) = self.bytes(&digest, &content).await? else {
            return Err(self.unknown(repository, reference).await?);
        };
        self.repositories.named(repository, &kept.blobs);
        let bytes = kept.bytes;
        let media_type = match kept.stated {
            Some(stated) => stated,
            None => self.recorded_type(&digest, &bytes).await?,
        };
        Ok(ManifestContent {
            media_type,
            digest,
            bytes,
        })
    }

    /// Stores a manifest under its names. When this returns, all of it is in storage.
    pub(crate) async fn put(&self, put: Put) -> Result<ManifestStored, Failure> {
        let Put {
            repository,
            reference,
            tags,
            media_type,
            bytes,
            write,
        } = put;
        let manifest = Manifest::parse(media_type.as_deref(), &bytes)?;
        let sha256 = Digest::sha256(&bytes);
        let digest = match &reference {
            Reference::Tag(_) => sha256,
            Reference::Digest(digest) if Digest::of(digest.algorithm(), &bytes) == *digest => {
                *digest
            }
            Reference::Digest(digest) => return Err(Failure::DigestMismatch(*digest)),
        };
        let missing = self.missing(&repository, &manifest).await?;
        if !missing.is_empty() {
            return Err(Failure::ManifestBlobUnknown {
                repository,
                missing,
            });
        }
        let _turn = self.turns.turn((&repository, &digest)).await;
        self.store(&repository, &digest, &sha256, &manifest, &bytes)
            .await?;
        for tag in reference.tag().into_iter().chain(&tags) {
            match self.tags.put(&repository, tag, &digest, write).await? {
                Change::Made(version) => {
                    tracing::info!(%repository, %tag, %digest, version, "a tag names a manifest");
                }
                Change::Overtaken => {
                    tracing::info!(%repository, %tag, %digest, "a tag was changed again meanwhile");
                }
            }
        }
        let content = Content {
            stated: media::stated(&bytes),
            bytes,
            blobs: blobs_of(&manifest),
        };
        self.repositories.named(&repository, &content.blobs);
        self.kept.put(digest, content);
        self.metrics.manifests_stored.inc();
        Ok(ManifestStored {
            digest,
            subject: manifest.subject.map(|subject| subject.digest),
            tags,
        })
    }

    /// Removes a tag, or a manifest with all tags that name it.
    pub(crate) async fn delete(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        write: Option<WriteId>,
    ) -> Result<(), Failure> {
        match reference {
            Reference::Tag(tag) => {
                if !self.tags.delete(repository, tag, None, write).await? {
                    return Err(self.unknown(repository, reference).await?);
                }
                tracing::info!(%repository, %tag, "a tag was removed");
            }
            Reference::Digest(digest) => {
                let _turn = self.turns.turn((repository, digest)).await;
                let removal = write.map(|write| (write, repository.clone(), *digest));
                if removal.as_ref().is_some_and(|one| self.removals.made(one)) {
                    return Ok(());
                }
                let Some(content) = self.repositories.manifest(repository, digest).await? else {
                    return Err(self.unknown(repository, reference).await?);
                };
                self.untag(repository, digest).await?;
                self.forget_subject(repository, digest, &content).await?;
                // Last, so that whoever was cut off can do it again.
                let link = layout::revision_link(repository, digest);
                self.storage.delete(&link).await?;
                self.removals.add(removal);
                tracing::info!(%repository, %digest, "a manifest was removed");
            }
        }
        Ok(())
    }

    /// Returns why there is no such manifest.
    async fn unknown(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Failure, Failure> {
        let repository = repository.clone();
        Ok(if self.repositories.exists(&repository).await? {
            Failure::ManifestUnknown {
                repository,
                reference: reference.clone(),
            }
        } else {
            Failure::NameUnknown(repository)
        })
    }

    /// Returns the bytes of a manifest, hashed, and what they state.
    async fn bytes(&self, digest: &Digest, content: &Digest) -> Result<Option<Content>, Failure> {
        if let Some(kept) = self.kept.get(digest) {
            return Ok(Some(kept));
        }
        let key = layout::blob(content);
        let read = self.storage.read(&key, MAX_MANIFEST_BYTES as u64).await?;
        let Some((bytes, _)) = read else {
            return Ok(None);
        };
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return Err(Failure::Damaged(*digest));
        }
        let manifest = Manifest::parse(None, &bytes);
        let content = Content {
            stated: media::stated(&bytes),
            bytes,
            blobs: manifest.as_ref().map_or_else(|_| Arc::default(), blobs_of),
        };
        self.kept.put(*digest, content.clone());
        Ok(Some(content))
    }

    /// Returns the media type that a manifest was pushed with, or one that fits.
    async fn recorded_type(&self, digest: &Digest, bytes: &[u8]) -> Result<String, Failure> {
        let record = self.storage.read(&layout::media_type(digest), 1024).await?;
        let recorded = record.and_then(|(text, _)| String::from_utf8(text.into()).ok());
        let recorded = recorded.filter(|text| media::is_media_type(text));
        Ok(recorded.unwrap_or_else(|| media::by_shape(bytes).to_owned()))
    }

    /// Returns what a manifest needs and the repository does not have, in the manifest's order. A
    /// blob that is there with another size than the manifest says is an error: agents believe
    /// what manifests say, and clients refuse the blob.
    async fn missing(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
    ) -> Result<Vec<Digest>, Failure> {
        let mut seen = HashSet::new();
        let needed: Vec<_> = manifest
            .references()
            .filter(|referenced| referenced.role.must_exist())
            .map(|referenced| {
                let needed = referenced.descriptor;
                (referenced.role.is_manifest(), needed.digest, needed.size)
            })
            .filter(|needed| seen.insert(*needed))
            .collect();
        let looked_up = stream::iter(needed).map(|(is_manifest, digest, says)| async move {
            let is_there = if is_manifest {
                self.repositories.has_manifest(repository, &digest).await?
            } else {
                let stat = self.repositories.blob(repository, &digest).await?;
                match stat.and_then(|stat| stat.length) {
                    Some(has) if has != says => {
                        return Err(Failure::SizeDiffers { digest, says, has });
                    }
                    found => found.is_some(),
                }
            };
            Ok::<_, Failure>((!is_there).then_some(digest))
        });
        let missing = looked_up.buffered(LOOKED_UP);
        missing
            .try_filter_map(async |missing| Ok(missing))
            .try_collect()
            .await
    }

    async fn store(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        sha256: &Digest,
        manifest: &Manifest,
        bytes: &Bytes,
    ) -> Result<(), Failure> {
        // The content before what leads to it.
        self.storage
            .put(&layout::blob(sha256), bytes.clone())
            .await?;
        if digest.algorithm() == Algorithm::Sha512 {
            let link = layout::link_to(sha256);
            self.storage.put(&layout::alias(digest), link).await?;
        }
        if media::stated(bytes).is_none() {
            let text = Bytes::from_static(manifest.kind.media_type().as_bytes());
            self.storage.put(&layout::media_type(digest), text).await?;
        }
        let link = layout::revision_link(repository, digest);
        self.storage.put(&link, layout::link_to(sha256)).await?;
        let length = bytes.len();
        self.referrers
            .add(repository, digest, manifest, length)
            .await
    }

    /// Removes all tags that name a manifest: each as a change of its own. A tag that was put again
    /// since the first try must go too, or it would be left without its manifest.
    async fn untag(&self, repository: &RepositoryName, digest: &Digest) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let page = self.names.candidates(repository, after.as_deref()).await?;
            let untagged = stream::iter(page.names).map(|tag| async move {
                // Most tags name something else; those are only looked at.
                if self.tags.read(repository, &tag).await? != Some(*digest) {
                    return Ok(());
                }
                let only = Some(digest);
                self.tags.delete(repository, &tag, only, None).await?;
                tracing::info!(%repository, %tag, %digest, "a tag was removed with its manifest");
                Ok::<_, Failure>(())
            });
            let untagged = untagged.buffer_unordered(LOOKED_UP);
            untagged.try_for_each(|()| async { Ok(()) }).await?;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn forget_subject(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        content: &Digest,
    ) -> Result<(), Failure> {
        let bytes = match self.bytes(digest, content).await {
            Ok(Some(content)) => content.bytes,
            // What cannot be read does not show as a referrer once its link is gone.
            Ok(None) | Err(Failure::Damaged(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let subject = Manifest::parse(None, &bytes)
            .ok()
            .and_then(|parsed| parsed.subject);
        match subject {
            Some(subject) => {
                self.referrers
                    .remove(repository, &subject.digest, digest)
                    .await
            }
            None => Ok(()),
        }
    }
}

/// A manifest that was removed, and the name of that change.
type Removal = (WriteId, RepositoryName, Digest);

/// The removals made of late by this process, the last ones of them. Unlike a tag, a manifest leaves
/// no record, so other processes do not know of them.
#[derive(Debug)]
struct Removals(Mutex<LruCache<Removal, ()>>);

impl Default for Removals {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED_REMOVALS)))
    }
}

impl Removals {
    fn made(&self, removal: &Removal) -> bool {
        self.0.lock().contains(removal)
    }

    fn add(&self, removal: Option<Removal>) {
        if let Some(removal) = removal {
            self.0.lock().put(removal, ());
        }
    }
}

/// A manifest that was hashed.
#[derive(Clone, Debug, Default)]
struct Content {
    /// The media type that it states.
    stated: Option<String>,
    bytes: Bytes,
    /// Digest and length of each blob that its repositories have with it.
    blobs: Arc<[(Digest, u64)]>,
}

impl Content {
    fn size(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.blobs) + ENTRY_BYTES
    }
}

fn blobs_of(manifest: &Manifest) -> Arc<[(Digest, u64)]> {
    let needed = manifest
        .references()
        .filter(|referenced| referenced.role.must_exist() && !referenced.role.is_manifest());
    needed
        .map(|referenced| (referenced.descriptor.digest, referenced.descriptor.size))
        .collect()
}

/// Manifests by digest, bounded by their bytes.
#[derive(Debug)]
struct Kept(Mutex<ByUse>);

#[derive(Debug)]
struct ByUse {
    entries: LruCache<Digest, Content>,
    total_bytes: usize,
    limit_bytes: usize,
}

impl Kept {
    fn new(limit_bytes: usize) -> Self {
        Self(Mutex::new(ByUse {
            entries: LruCache::unbounded(),
            total_bytes: 0,
            limit_bytes,
        }))
    }

    fn get(&self, digest: &Digest) -> Option<Content> {
        self.0.lock().entries.get(digest).cloned()
    }

    fn put(&self, digest: Digest, content: Content) {
        let mut by_use = self.0.lock();
        by_use.total_bytes += content.size();
        if let Some(before) = by_use.entries.put(digest, content) {
            by_use.total_bytes -= before.size();
        }
        while by_use.total_bytes > by_use.limit_bytes
            && let Some((_, oldest)) = by_use.entries.pop_lru()
        {
            by_use.total_bytes -= oldest.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_bytes_are_bounded() {
        let kept = Kept::new(3000);
        let digest = |fill: u8| Digest::sha256(&[fill]);
        let put = |fill: u8, length| {
            let content = Content {
                bytes: vec![fill; length].into(),
                ..Content::default()
            };
            kept.put(digest(fill), content);
            kept.0.lock().total_bytes
        };
        put(1, 800);
        put(2, 800);
        assert_eq!(put(2, 800), 2 * (800 + ENTRY_BYTES), "the same once more");
        assert!(kept.get(&digest(1)).is_some());
        assert!(put(3, 800) <= 3000);
        assert!(kept.get(&digest(2)).is_none(), "used least");
        assert!(kept.get(&digest(1)).is_some());
        assert_eq!(put(4, 5000), 0, "what is too long is not kept");
    }
}
