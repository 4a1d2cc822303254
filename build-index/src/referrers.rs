//! What refers to a manifest: one small object for each, written with the manifest that refers.

use backend::{Entry, List, layout};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci::{Descriptor, Digest, Manifest, RepositoryName};

use crate::error::Failure;
use crate::repositories::Repositories;
use crate::storage::Storage;

/// Longest entry in bytes: it has the annotations of its manifest.
const MAX_ENTRY_BYTES: u64 = oci::MAX_MANIFEST_BYTES as u64 + 4096;
/// Entries listed at a time.
const LISTED: usize = 500;
/// Entries read at a time.
const READ: usize = 16;
/// Most entries looked at, and bytes of them, for one answer.
const MAX_ENTRIES: usize = 10_000;
const MAX_ANSWER_BYTES: u64 = 12 << 20;

/// The referrers of all repositories. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Referrers {
    storage: Storage,
    repositories: Repositories,
}

impl Referrers {
    pub(crate) const fn new(storage: Storage, repositories: Repositories) -> Self {
        Self {
            storage,
            repositories,
        }
    }

    /// Notes that a manifest refers to another one, where it does.
    pub(crate) async fn add(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        manifest: &Manifest,
        length: usize,
    ) -> Result<(), Failure> {
        let Some(subject) = &manifest.subject else {
            return Ok(());
        };
        let entry = manifest.as_referrer(*digest, length as u64);
        let bytes = serde_json::to_vec(&entry);
        let bytes = bytes.map_err(|error| Failure::Internal(error.to_string()))?;
        let key = layout::referrer(repository, &subject.digest, digest);
        self.storage.put(&key, bytes.into()).await?;
        Ok(())
    }

    /// Forgets that a manifest refers to `subject`.
    pub(crate) async fn remove(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<(), Failure> {
        let key = layout::referrer(repository, subject, digest);
        Ok(self.storage.delete(&key).await?)
    }

    /// Returns what refers to `subject`, of one artifact type where it is given. Where there is too
    /// much for one answer the rest is left out.
    pub(crate) async fn of(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Failure> {
        let folder = layout::referrers(repository, subject);
        let mut found = Vec::new();
        let (mut looked_at, mut bytes) = (0, 0);
        let mut list = List::objects(folder, LISTED);
        loop {
            let listing = self.storage.list(&list).await?;
            looked_at += listing.entries.len();
            let last = listing.entries.last().map(|last| last.as_str().to_owned());
            let read = stream::iter(listing.entries)
                .map(|entry| self.read(repository, entry))
                .buffered(READ);
            let mut read = std::pin::pin!(read);
            while let Some(entry) = read.try_next().await? {
                let Some((descriptor, length)) = entry else {
                    continue;
                };
                let wanted =
                    artifact_type.is_none() || descriptor.artifact_type.as_deref() == artifact_type;
                if !wanted {
                    continue;
                }
                bytes += length;
                if bytes > MAX_ANSWER_BYTES {
                    tracing::warn!(%repository, %subject, "too many referrers for one answer");
                    return Ok(found);
                }
                found.push(descriptor);
            }
            let Some(last) = last.filter(|_| listing.more) else {
                return Ok(found);
            };
            if looked_at >= MAX_ENTRIES {
                tracing::warn!(%repository, %subject, looked_at, "too many referrers to look at");
                return Ok(found);
            }
            list = list.after(last);
        }
    }

    /// Reads an entry, and its length; `None` where its manifest is gone, which docker-registry may
    /// have removed.
    async fn read(
        &self,
        repository: &RepositoryName,
        entry: Entry,
    ) -> Result<Option<(Descriptor, u64)>, Failure> {
        let Entry::Object(key) = entry else {
            return Ok(None);
        };
        let Some((bytes, stat)) = self.storage.read(&key, MAX_ENTRY_BYTES).await? else {
            return Ok(None);
        };
        let descriptor = match serde_json::from_slice::<Descriptor>(&bytes) {
            Ok(descriptor) => descriptor,
            Err(error) => {
                tracing::warn!(%key, %error, "an entry of the referrers cannot be understood");
                return Ok(None);
            }
        };
        let digest = descriptor.digest;
        let is_there = self.repositories.manifest(repository, &digest).await?;
        Ok(is_there.map(|_| (descriptor, stat.length)))
    }
}
