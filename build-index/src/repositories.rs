//! Which blobs and manifests are in a repository, by its links. What is remembered of them, and how
//! long that is believed, stands in [`crate::belonging`].

use std::sync::Arc;
use std::time::Duration;

use api::ErrorCode;
use api::build_index::{BlobStat, LinkQuery};
use backend::{List, layout};
use oci::{Algorithm, Digest, RepositoryName};

use crate::belonging::{Belonging, Had};
use crate::error::Failure;
use crate::flights::{Flights, Lost};
use crate::metrics::Metrics;
use crate::storage::Storage;

/// The share of the wait for storage after which what is remembered does as well.
const IMPATIENCE: u32 = 4;

/// The links of all repositories. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Repositories {
    storage: Storage,
    metrics: Metrics,
    /// How long a look may take that others wait for too.
    read_wait: Duration,
    lately: Arc<Lately>,
}

#[derive(Debug, Default)]
struct Lately {
    belonging: Belonging,
    looks: Flights<(RepositoryName, Digest), Result<Option<BlobStat>, Failure>>,
}

impl Repositories {
    pub(crate) fn new(storage: Storage, metrics: Metrics, read_wait: Duration) -> Self {
        Self {
            storage,
            metrics,
            read_wait,
            lately: Arc::default(),
        }
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

    /// Returns what is known of a blob that a repository has, from memory where it was looked for
    /// within the last seconds, or where storage cannot be asked. Those who ask at the same time
    /// share one look.
    pub(crate) async fn known(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<BlobStat>, Failure> {
        let belonging = &self.lately.belonging;
        if let Some(had) = belonging.believed(repository, digest) {
            return Ok(Some(stat(had)));
        }
        let look = self.look(repository, digest);
        let Some(had) = belonging.remembered(repository, digest) else {
            return look.await;
        };
        let wait = self.read_wait / IMPATIENCE;
        let looked = tokio::time::timeout(wait, look).await;
        let error = match looked.unwrap_or(Err(Failure::Timeout(wait.as_secs()))) {
            Err(error) if error.code() == ErrorCode::Unavailable => error,
            known => return known,
        };
        tracing::warn!(%repository, %digest, %error, "a blob is known from memory alone");
        self.metrics.stale_blobs.inc();
        Ok(Some(stat(had)))
    }

    /// Looks into storage, together with all who want the same.
    async fn look(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<BlobStat>, Failure> {
        let key = (repository.clone(), *digest);
        let this = self.clone();
        let read = {
            let key = key.clone();
            move || {
                let (this, (repository, digest)) = (this.clone(), key.clone());
                async move {
                    let belonging = &this.lately.belonging;
                    // Those who came during a look need no second one.
                    if let Some(had) = belonging.believed(&repository, &digest) {
                        return Ok(Some(stat(had)));
                    }
                    this.metrics.blob_looks.inc();
                    let look = belonging.look();
                    let wait = this.read_wait;
                    let found = this.blob(&repository, &digest);
                    let found = tokio::time::timeout(wait, found).await;
                    let found = found.unwrap_or(Err(Failure::Timeout(wait.as_secs())))?;
                    let length = found.and_then(|stat| stat.length);
                    belonging.saw(look, &repository, &digest, length);
                    Ok(found)
                }
            }
        };
        let answer = self.lately.looks.ask(&key, read).await;
        answer.unwrap_or_else(|Lost| Err(Failure::Internal("a look was lost".into())))
    }

    /// Notes what a manifest of the repository names that was stored or given: digest and length of
    /// each blob.
    pub(crate) fn named(&self, repository: &RepositoryName, blobs: &[(Digest, u64)]) {
        for (digest, length) in blobs {
            self.lately.belonging.named(repository, *digest, *length);
        }
    }

    /// Returns what storage knows of a blob that a repository has. Its content may not be in
    /// storage yet, or not any more.
    pub(crate) async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<BlobStat>, Failure> {
        let link = layout::layer_link(repository, digest);
        let Some(target) = self.storage.link(&link).await? else {
            return Ok(None);
        };
        let absent = Some(BlobStat::new(None));
        let Some(content) = self.storage.content(&target).await? else {
            return Ok(absent);
        };
        let Some(stat) = self.storage.stat(&layout::blob(&content)).await? else {
            return Ok(absent);
        };
        if content != *digest {
            self.find_by(digest, &content).await;
        }
        Ok(Some(BlobStat::new(Some(stat.length))))
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
        // Whatever becomes of it, it may be gone.
        self.lately.belonging.removed(repository, digest);
        let deleted = self.storage.delete(&link).await;
        self.lately.belonging.removed(repository, digest);
        Ok(deleted?)
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

fn stat(had: Had) -> BlobStat {
    BlobStat {
        length: Some(had.length),
        age_ms: u64::try_from(had.age.as_millis()).unwrap_or(u64::MAX),
    }
}
