//! What a registry that can be pushed to must do.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use oci::{Digest, Reference, RepositoryName, Tag};

use crate::body::ByteStream;
use crate::error::Error;
use crate::upload::UploadSecret;

/// Taker of blobs and manifests.
///
/// What was answered with success must survive the loss of this process.
#[async_trait]
pub trait Push: Send + Sync + std::fmt::Debug + 'static {
    /// Starts an upload.
    ///
    /// # Errors
    /// A failure.
    async fn start_upload(&self, repository: &RepositoryName) -> Result<Upload, Error>;

    /// Returns how many bytes of an upload have been taken.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`], or a failure.
    async fn upload_offset(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
    ) -> Result<u64, Error>;

    /// Adds bytes to an upload: at `offset`, which must be what it has so far, or at its end.
    /// Returns how many bytes it has then. Where the body fails, what came before is kept.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`], [`Error::UploadOffset`], or a failure.
    async fn append(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
        offset: Option<u64>,
        body: ByteStream,
    ) -> Result<u64, Error>;

    /// Ends an upload: its bytes are those of `digest`, and the blob is in the repository.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`] (the upload is then gone), [`Error::UploadUnknown`], or a failure.
    async fn commit(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
        digest: &Digest,
    ) -> Result<(), Error>;

    /// Gives up an upload.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`], or a failure.
    async fn cancel(&self, repository: &RepositoryName, upload: &Upload) -> Result<(), Error>;

    /// Puts a blob that another repository has into this one. Returns whether it did: `false` where
    /// the blob is not in `from`, or cannot be had without naming a repository.
    ///
    /// # Errors
    /// A failure.
    async fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<bool, Error>;

    /// Stores a manifest under `reference`, and under `tags` besides. Its length and, where
    /// `reference` is a digest, that digest have been checked.
    ///
    /// # Errors
    /// [`Error::ManifestInvalid`], [`Error::ManifestBlobUnknown`], or a failure.
    async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        media_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<PushedManifest, Error>;

    /// Removes a tag, or a manifest with all its tags.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`], or a failure.
    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<(), Error>;

    /// Removes a blob from a repository.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`], or a failure.
    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<(), Error>;
}

/// Name of an upload that goes on: every proxy finds it by these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The origin that has the bytes.
    pub member: String,
    /// Its name there: up to 128 letters, digits, `-` and `_`.
    pub id: String,
}

/// A manifest that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedManifest {
    pub digest: Digest,
    /// Digest of the manifest that this one is about.
    pub subject: Option<Digest>,
    /// Of the tags asked for besides the reference, those that now name it.
    pub tags: Vec<Tag>,
}

/// What becomes of requests that write, and of those that ask how far an upload is.
#[derive(Clone, Debug)]
pub enum Writes {
    /// They are done here. All proxies of a cluster have the same secret, so that each of them can
    /// go on with any upload.
    Here(Arc<dyn Push>, UploadSecret),
    /// They are passed on as they are.
    Forward(Arc<dyn Forward>),
    /// They are answered with 405.
    Refuse,
}

/// Passes requests on to a registry that takes writes.
#[async_trait]
pub trait Forward: Send + Sync + std::fmt::Debug + 'static {
    /// Returns the other registry's answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where there was none.
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, Error>;
}
