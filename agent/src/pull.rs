//! What clients pull: names from the build-index, bytes from the swarm.

use std::str::FromStr;
use std::time::Duration;

use api::build_index::{ManifestContent, Names, PageQuery};
use api::{BuildIndexClient, CallError, ErrorCode};
use async_trait::async_trait;
use oci::{Descriptor, Digest, Reference, RepositoryName, Tag};
use peer::{Node, Priority, Want};
use prometheus_client::metrics::counter::Counter;
use registry::{Blob, Error, Listing, ManifestBytes, ManifestInfo, Page, Pull};
use torrent::SwarmName;

use crate::belonging::Belonging;
use crate::content::SwarmBlob;
use crate::failure;
use crate::manifests::{Checked, Manifests};

/// Most blobs of one manifest that are announced ahead. Nothing is lost with the others: they are
/// announced when they are asked for.
const MAX_AHEAD: usize = 512;

/// Source of a registry whose bytes come from peers.
///
/// A tag is resolved anew for each request. What a digest names never changes; whether a
/// repository has it is asked again after 5 s. While no build-index answers, what belonged to the
/// repository within the last hour still does.
#[derive(Debug)]
pub struct SwarmPull {
    node: Node,
    index: BuildIndexClient,
    /// Blobs up to this many bytes are fetched as soon as their manifest is read.
    prefetch_bytes: u64,
    kept: Manifests,
    manifests: Belonging,
    blobs: Belonging,
    /// Answers given though no build-index could be asked.
    stale: Counter,
}

impl SwarmPull {
    #[must_use]
    pub fn new(node: Node, index: BuildIndexClient, prefetch_bytes: u64, stale: Counter) -> Self {
        Self {
            node,
            index,
            prefetch_bytes,
            kept: Manifests::default(),
            manifests: Belonging::default(),
            blobs: Belonging::default(),
            stale,
        }
    }

    /// Forgets what belongs to which repository: something was deleted.
    pub fn forget_all(&self) {
        self.manifests.clear();
        self.blobs.clear();
    }

    async fn find(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Checked, Error> {
        let digest = reference.digest();
        if let Some(digest) = digest
            && self.manifests.length(repository, digest).is_some()
            && let Some(checked) = self.kept.get(digest)
        {
            return Ok(checked);
        }
        match self.index.manifest(repository, reference).await {
            Ok(content) => self.take(repository, reference, content),
            Err(error) => {
                if let Some(digest) = digest {
                    if let Some(checked) = self.stale_manifest(repository, digest, &error) {
                        return Ok(checked);
                    }
                    self.manifests.forget(repository, digest);
                }
                let absent = || Error::ManifestUnknown {
                    repository: repository.clone(),
                    reference: reference.clone(),
                };
                Err(failure::of_call(&error, Some(repository), absent))
            }
        }
    }

    /// Checks what a build-index gave.
    fn take(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        content: ManifestContent,
    ) -> Result<Checked, Error> {
        let manifest = ManifestBytes {
            media_type: content.media_type,
            digest: content.digest,
            bytes: content.bytes,
        };
        let is_asked = reference
            .digest()
            .is_none_or(|asked| *asked == content.digest);
        let checked = Checked::new(manifest).filter(|_| is_asked);
        let checked = checked.ok_or_else(|| {
            let text = format!("the build-index sent wrong bytes as {repository} {reference}");
            Error::Unavailable(text)
        })?;
        self.kept.put(&checked);
        let length = checked.manifest.bytes.len() as u64;
        self.manifests.note(repository, content.digest, length);
        for (digest, length) in &*checked.blobs {
            self.blobs.note(repository, *digest, *length);
        }
        Ok(checked)
    }

    fn stale_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        error: &CallError,
    ) -> Option<Checked> {
        if error.is_permanent() {
            return None;
        }
        self.manifests.remembered(repository, digest)?;
        let checked = self.kept.get(digest)?;
        tracing::warn!(%repository, %digest, %error, "serving a manifest from memory");
        self.stale.inc();
        Some(checked)
    }

    /// Lets the swarm know what the client will ask for next, all in one message, so that it waits
    /// for the network once and not for each blob.
    async fn announce(&self, checked: &Checked) {
        let wants: Vec<_> = checked.blobs.iter().take(MAX_AHEAD).collect();
        let wants = wants.into_iter().map(|(digest, length)| Want {
            name: SwarmName::Blob(*digest),
            priority: Priority::Prefetch,
            whole: *length <= self.prefetch_bytes,
        });
        let wants: Vec<_> = wants.collect();
        if !wants.is_empty() {
            self.node.prefetch(wants).await;
        }
    }

    async fn swarm_length(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64, Error> {
        let name = SwarmName::Blob(*digest);
        let opened = self.node.open_lazy(name, Priority::Foreground).await;
        let opened = opened.map_err(|error| failure::of_open(&error, repository, digest))?;
        Ok(opened.length())
    }

    async fn length(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64, Error> {
        if let Some(length) = self.blobs.length(repository, digest) {
            return Ok(length);
        }
        let error = match self.index.blob(repository, digest).await {
            Ok(stat) => {
                let length = match stat.length {
                    Some(length) => length,
                    // It was pushed a moment ago: origins have it, and storage will.
                    None => self.swarm_length(repository, digest).await?,
                };
                let age = Duration::from_millis(stat.age_ms);
                self.blobs.note_of(age, repository, *digest, length);
                return Ok(length);
            }
            Err(error) => error,
        };
        if !error.is_permanent()
            && let Some(length) = self.blobs.remembered(repository, digest)
        {
            tracing::warn!(%repository, %digest, %error, "serving a blob of lately");
            self.stale.inc();
            return Ok(length);
        }
        self.blobs.forget(repository, digest);
        let absent = || Error::BlobUnknown {
            repository: repository.clone(),
            digest: *digest,
        };
        Err(failure::of_call(&error, Some(repository), absent))
    }
}

#[async_trait]
impl Pull for SwarmPull {
    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestBytes, Error> {
        let checked = self.find(repository, reference).await?;
        self.announce(&checked).await;
        Ok(checked.manifest)
    }

    async fn manifest_info(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestInfo, Error> {
        // Clients ask so to learn that they have it already: nothing is announced.
        Ok(self.find(repository, reference).await?.manifest.info())
    }

    async fn blob_length(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64, Error> {
        self.length(repository, digest).await
    }

    async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Box<dyn Blob>, Error> {
        let length = self.length(repository, digest).await?;
        let blob = SwarmBlob::new(self.node.clone(), repository.clone(), *digest, length);
        Ok(Box::new(blob))
    }

    async fn tags(&self, repository: &RepositoryName, page: &Page) -> Result<Listing<Tag>, Error> {
        let names = self.index.tags(repository, &query(page)).await;
        let unknown = || Error::NameUnknown(repository.clone());
        listing(names.map_err(|error| failure::of_call(&error, Some(repository), unknown))?)
    }

    async fn repositories(&self, page: &Page) -> Result<Listing<RepositoryName>, Error> {
        let names = self.index.repositories(&query(page)).await;
        let strange = || Error::Internal("the build-index knows no list of repositories".into());
        listing(names.map_err(|error| failure::of_call(&error, None, strange))?)
    }

    async fn referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let found = self
            .index
            .referrers(repository, digest, artifact_type)
            .await;
        match found {
            Ok(descriptors) => Ok(descriptors),
            // Nothing known of the subject is no error.
            Err(error)
                if matches!(
                    error.code(),
                    Some(ErrorCode::NameUnknown | ErrorCode::ManifestUnknown)
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => {
                let unknown = || Error::NameUnknown(repository.clone());
                Err(failure::of_call(&error, Some(repository), unknown))
            }
        }
    }
}

fn query(page: &Page) -> PageQuery {
    PageQuery {
        n: Some(page.limit),
        last: page.last.clone(),
    }
}

fn listing<T: FromStr<Err: std::fmt::Display>>(names: Names) -> Result<Listing<T>, Error> {
    let parsed = names.names.iter().map(|name| {
        name.parse()
            .map_err(|error| Error::Internal(format!("the build-index lists {name:?}: {error}")))
    });
    Ok(Listing {
        names: parsed.collect::<Result<_, _>>()?,
        next: names.next,
    })
}

#[cfg(test)]
mod tests;
