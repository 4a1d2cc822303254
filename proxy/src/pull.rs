//! Pulls for clients without an agent.

use std::ops::Range;

use api::build_index::{Names, PageQuery};
use api::{BuildIndexClient, OriginClient};
use async_trait::async_trait;
use oci::{Descriptor, Digest, Reference, RepositoryName, Tag};
use registry::{Blob, ByteStream, Error, Extent, Listing, ManifestBytes, Page, Pull};

use crate::failure::{About, of_call};
use crate::relay::{Sources, relay};
use crate::whole::hashed;

/// Reads from the build-index what a repository has, and from origins what is in blobs.
#[derive(Debug)]
pub(crate) struct ClusterPull {
    origins: OriginClient,
    index: BuildIndexClient,
}

impl ClusterPull {
    pub(crate) const fn new(origins: OriginClient, index: BuildIndexClient) -> Self {
        Self { origins, index }
    }
}

#[async_trait]
impl Pull for ClusterPull {
    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestBytes, Error> {
        let found = self.index.manifest(repository, reference).await;
        let about = About::Manifest(repository, reference);
        let found = found.map_err(|error| of_call(&error, about))?;
        Ok(ManifestBytes {
            media_type: found.media_type,
            digest: found.digest,
            bytes: found.bytes,
        })
    }

    async fn blob_length(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64, Error> {
        let about = About::Blob(repository, digest);
        let found = self.index.blob(repository, digest).await;
        let found = found.map_err(|error| of_call(&error, about))?;
        if let Some(length) = found.length {
            return Ok(length);
        }
        // It was pushed a moment ago: origins have it, and storage will.
        let length = self.origins.length(digest).await;
        length.map_err(|error| of_call(&error, about))
    }

    async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Box<dyn Blob>, Error> {
        let length = self.blob_length(repository, digest).await?;
        Ok(Box::new(Found {
            length,
            origins: Origins {
                order: self.origins.order(digest),
                client: self.origins.clone(),
                repository: repository.clone(),
                digest: *digest,
            },
        }))
    }

    async fn tags(&self, repository: &RepositoryName, page: &Page) -> Result<Listing<Tag>, Error> {
        let listed = self.index.tags(repository, &asked(page)).await;
        let listed = listed.map_err(|error| of_call(&error, About::Repository(repository)))?;
        listing(&listed)
    }

    async fn repositories(&self, page: &Page) -> Result<Listing<RepositoryName>, Error> {
        let listed = self.index.repositories(&asked(page)).await;
        listing(&listed.map_err(|error| of_call(&error, About::Nothing))?)
    }

    async fn referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let found = self.index.referrers(repository, digest, artifact_type);
        found
            .await
            .map_err(|error| of_call(&error, About::Repository(repository)))
    }
}

fn asked(page: &Page) -> PageQuery {
    PageQuery {
        n: Some(page.limit),
        last: page.last.clone(),
    }
}

fn listing<T: std::str::FromStr<Err: std::fmt::Display>>(
    names: &Names,
) -> Result<Listing<T>, Error> {
    let parsed = names.names.iter().map(|name| name.parse());
    let parsed: Result<Vec<T>, _> = parsed.collect();
    Ok(Listing {
        names: parsed.map_err(|error| Error::Internal(format!("a list of names: {error}")))?,
        next: names.next.clone(),
    })
}

/// A blob that the repository has.
struct Found {
    length: u64,
    origins: Origins,
}

#[async_trait]
impl Blob for Found {
    fn length(&self) -> u64 {
        self.length
    }

    async fn read(
        self: Box<Self>,
        range: Range<u64>,
        _extent: Extent,
    ) -> Result<ByteStream, Error> {
        let is_whole = range == (0..self.length);
        let digest = self.origins.digest;
        let stream = relay(self.origins, range).await?;
        // A part cannot be checked here; origins send only what they have checked.
        Ok(if is_whole {
            hashed(stream, digest)
        } else {
            stream
        })
    }
}

/// The origins of a cluster as sources of one blob.
struct Origins {
    client: OriginClient,
    order: Vec<usize>,
    repository: RepositoryName,
    digest: Digest,
}

#[async_trait]
impl Sources for Origins {
    fn count(&self) -> usize {
        self.order.len()
    }

    async fn open(&self, source: usize, range: Range<u64>) -> Result<ByteStream, Error> {
        let none = || Error::Unavailable("no origin is known".into());
        let origin = *self.order.get(source).ok_or_else(none)?;
        let opened = self.client.read(origin, &self.digest, range).await;
        let about = About::Blob(&self.repository, &self.digest);
        opened.map_err(|error| of_call(&error, about))
    }
}
