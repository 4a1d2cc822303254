//! What a registry that can be pulled from must know.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Descriptor, Digest, Reference, RepositoryName, Tag};

use crate::body::ByteStream;
use crate::error::Error;
use crate::names::{Listing, Page};

/// Source of the content of a registry.
///
/// A manifest is only answered where every blob of it can be had: clients choose a mirror at the
/// manifest and do not come back.
#[async_trait]
pub trait Pull: Send + Sync + std::fmt::Debug + 'static {
    /// Returns a manifest's bytes, as they were pushed.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] or [`Error::NameUnknown`], or a failure.
    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestBytes, Error>;

    /// Returns what a HEAD request asks of a manifest.
    ///
    /// # Errors
    /// As [`Self::manifest`].
    async fn manifest_info(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestInfo, Error> {
        let manifest = self.manifest(repository, reference).await?;
        Ok(manifest.info())
    }

    /// Returns the length of a blob in bytes. Does not fetch the blob.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`], or a failure.
    async fn blob_length(&self, repository: &RepositoryName, digest: &Digest)
    -> Result<u64, Error>;

    /// Finds a blob in order to read it.
    ///
    /// # Errors
    /// As [`Self::blob_length`].
    async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Box<dyn Blob>, Error>;

    /// Returns tags of a repository after `page.last`, in byte order.
    ///
    /// # Errors
    /// [`Error::NameUnknown`], or a failure.
    async fn tags(&self, repository: &RepositoryName, page: &Page) -> Result<Listing<Tag>, Error>;

    /// Returns names of repositories after `page.last`, in byte order.
    ///
    /// # Errors
    /// A failure.
    async fn repositories(&self, page: &Page) -> Result<Listing<RepositoryName>, Error>;

    /// Returns the descriptors of all manifests whose subject is `digest`, and whose artifact type
    /// is `artifact_type` where it is given. Nothing known of the subject is no error.
    ///
    /// # Errors
    /// A failure.
    async fn referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error>;
}

/// A blob that was found.
#[async_trait]
pub trait Blob: Send {
    /// Returns the length of the whole blob in bytes.
    fn length(&self) -> u64;

    /// Starts to read a part that is not empty. The stream yields only bytes that were verified,
    /// and fails where it cannot go on: a stream that ends early is taken for a failure too.
    ///
    /// # Errors
    /// A failure before the first byte.
    async fn read(self: Box<Self>, range: Range<u64>, extent: Extent) -> Result<ByteStream, Error>;
}

/// What a client that reads a blob will want of it, as far as its request tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// It asked for these bytes only, and may never come for others: images that are mounted are
    /// read so.
    Part,
    /// It reads to the end: from the start, or from where it was interrupted.
    Rest,
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestBytes {
    pub media_type: String,
    /// Digest of `bytes`: the one asked for, if a digest was.
    pub digest: Digest,
    pub bytes: Bytes,
}

impl ManifestBytes {
    /// Returns what there is to know of it without its bytes.
    #[must_use]
    pub fn info(&self) -> ManifestInfo {
        ManifestInfo {
            media_type: self.media_type.clone(),
            digest: self.digest,
            length: self.bytes.len() as u64,
        }
    }
}

/// A manifest without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestInfo {
    pub media_type: String,
    /// The one asked for, if a digest was.
    pub digest: Digest,
    /// Number of bytes.
    pub length: u64,
}
