//! Which blobs and manifests are in a repository, by its links.

use api::build_index::{BlobStat, LinkQuery};
use backend::{List, layout};
use oci::{Algorithm, Digest, RepositoryName};

use crate::error::Failure;
use crate::storage::Storage;

/// The links of all repositories. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Repositories {
    storage: Storage,
}

impl Repositories {
    pub(crate) const fn new(storage: Storage) -> Self {
        Self { storage }
    }

    /// Returns whether there is such a repository: whether it ever had a blob or a manifest, and
    /// still has a link to anything.
    pub(crate) async fn exists(&self, repository: &RepositoryName) -> Result<bool, Failure> {
        let folder = layout::repository(repository);
        // What is inside a repository begins with an underscore; other repositories do not.
        let after = format!("{}_", folder.as_str());
        let list = List::folders(folder, 1).after(after);
        let listing = self.storage.list(&list).await?;
        let first = listing.entries.first().map(backend::Entry::name);
        Ok(matches!(first, Some("_layers" | "_manifests")))
    }

    /// Returns what is known of a blob that a repository has. Its content may not be in storage
    /// yet, or not any more.
    pub(crate) async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<BlobStat>, Failure> {
        let link = layout::layer_link(repository, digest);
        let Some(target) = self.storage.link(&link).await? else {
            return Ok(None);
        };
        let absent = Some(BlobStat { length: None });
        let Some(content) = self.storage.content(&target).await? else {
            return Ok(absent);
        };
        let Some(stat) = self.storage.stat(&layout::blob(&content)).await? else {
            return Ok(absent);
        };
        if content != *digest {
            self.find_by(digest, &content).await;
        }
        let length = Some(stat.length);
        Ok(Some(BlobStat { length }))
    }

    /// Lets others find content by its sha512 which docker-registry took: its link says where that
    /// is. Whoever reads it hashes it.
    async fn find_by(&self, digest: &Digest, content: &Digest) {
        let found = async {
            if self.storage.content(digest).await?.is_none() {
                let link = layout::link_to(content);
                self.storage.put(&layout::alias(digest), link).await?;
            }
            Ok::<_, backend::Error>(())
        };
        if let Err(error) = found.await {
            tracing::warn!(%digest, %error, "content cannot be found by its sha512 yet");
        }
    }

    /// Returns whether a repository has a manifest, and storage its bytes.
    pub(crate) async fn has_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, Failure> {
        let Some(content) = self.manifest(repository, digest).await? else {
            return Ok(false);
        };
        let stat = self.storage.stat(&layout::blob(&content)).await?;
        Ok(stat.is_some())
    }

    /// Returns under which sha256 a manifest of a repository stands in storage.
    pub(crate) async fn manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Digest>, Failure> {
        let link = layout::revision_link(repository, digest);
        let Some(target) = self.storage.link(&link).await? else {
            return Ok(None);
        };
        Ok(self.storage.content(&target).await?)
    }

    /// Puts a blob into a repository: one of a repository, one that storage has, or one that an
    /// origin has taken. Returns its length.
    pub(crate) async fn link(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        query: &LinkQuery,
    ) -> Result<u64, Failure> {
        let from = query.from.as_ref();
        // Whoever gives a length was told by an origin that it holds the blob.
        let (length, content) = match (from, query.length) {
            (Some(from), Some(length)) => (Some(length), self.target(from, digest).await?),
            (None, Some(length)) => (Some(length), query.sha256),
            (Some(from), None) => {
                let stat = self.blob(from, digest).await?;
                let length = stat.and_then(|stat| stat.length);
                (length, self.storage.content(digest).await?)
            }
            (None, None) => {
                let length = self.length(digest).await?;
                (length, self.storage.content(digest).await?)
            }
        };
        let (Some(length), Some(content)) = (length, content) else {
            return Err(Failure::BlobUnknown {
                repository: from.unwrap_or(repository).clone(),
                digest: *digest,
            });
        };
        let link = layout::link_to(&content);
        if content != *digest {
            // docker-registry follows the link below to this one.
            let direct = layout::layer_link(repository, &content);
            self.storage.put(&direct, link.clone()).await?;
        }
        let named = layout::layer_link(repository, digest);
        self.storage.put(&named, link).await?;
        Ok(length)
    }

    /// Returns the sha256 that the link of a blob leads to.
    async fn target(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Digest>, Failure> {
        let link = layout::layer_link(repository, digest);
        let target = self.storage.link(&link).await?;
        Ok(target.filter(|target| target.algorithm() == Algorithm::Sha256))
    }

    /// Takes a blob out of a repository.
    pub(crate) async fn unlink(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), Failure> {
        let link = layout::layer_link(repository, digest);
        if self.storage.link(&link).await?.is_none() {
            return Err(Failure::BlobUnknown {
                repository: repository.clone(),
                digest: *digest,
            });
        }
        Ok(self.storage.delete(&link).await?)
    }

    /// Returns the length of a blob in storage, whoever has it.
    async fn length(&self, digest: &Digest) -> Result<Option<u64>, Failure> {
        let Some(content) = self.storage.content(digest).await? else {
            return Ok(None);
        };
        let stat = self.storage.stat(&layout::blob(&content)).await?;
        Ok(stat.map(|stat| stat.length))
    }
}
