//! Pushes: bytes go straight to an origin, the rest to the build-index.

use std::time::Duration;

use api::build_index::MAX_TAGS;
use api::{BuildIndexClient, CallError, OriginClient};
use async_trait::async_trait;
use bytes::Bytes;
use oci::{Digest, Reference, RepositoryName, Tag};
use registry::{ByteStream, Error, Push, PushedManifest, Upload};

use crate::failure::{About, of_call};

/// Times that a blob is looked for which an origin has just stored, and the first pause between
/// them; each next is twice as long.
const LINK_TRIES: u32 = 4;
const LINK_PAUSE: Duration = Duration::from_millis(50);

/// Takes blobs and manifests to where they are kept.
#[derive(Debug)]
pub(crate) struct ClusterPush {
    origins: OriginClient,
    index: BuildIndexClient,
    /// How long the build-indexes may take together.
    wait: Duration,
}

impl ClusterPush {
    pub(crate) const fn new(
        origins: OriginClient,
        index: BuildIndexClient,
        wait: Duration,
    ) -> Self {
        Self {
            origins,
            index,
            wait,
        }
    }

    /// Waits for a build-index, but not for ever: several may be asked one after the other.
    async fn bounded<T>(
        &self,
        about: About<'_>,
        call: impl Future<Output = Result<T, CallError>> + Send,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.wait, call).await {
            Ok(result) => result.map_err(|error| of_call(&error, about)),
            Err(_) => {
                let text = format!("no build-index answered within {} s", self.wait.as_secs());
                Err(Error::Unavailable(text))
            }
        }
    }

    /// Says why bytes did not arrive. A connection that breaks off does not tell: an origin that
    /// refuses a body closes it, and so does one that dies.
    async fn why_broken(&self, upload: &Upload, error: &CallError) -> Error {
        if !matches!(error, CallError::Unreachable { .. }) {
            return of_call(error, About::Upload);
        }
        match self.origins.upload_offset(&upload.member, &upload.id).await {
            Ok(_) => Error::Unavailable(error.to_string()),
            Err(later) => of_call(&later, About::Upload),
        }
    }
}

#[async_trait]
impl Push for ClusterPush {
    async fn start_upload(&self, _: &RepositoryName) -> Result<Upload, Error> {
        let begun = self.origins.begin_upload().await;
        let (origin, id) = begun.map_err(|error| of_call(&error, About::Nothing))?;
        Ok(Upload {
            member: origin.name.to_string(),
            id,
        })
    }

    async fn upload_offset(&self, _: &RepositoryName, upload: &Upload) -> Result<u64, Error> {
        let offset = self.origins.upload_offset(&upload.member, &upload.id).await;
        offset.map_err(|error| of_call(&error, About::Upload))
    }

    async fn append(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
        offset: Option<u64>,
        body: ByteStream,
    ) -> Result<u64, Error> {
        // Asked before any byte is sent: whoever is refused in the middle of sending may not get to
        // read why.
        if let Some(offset) = offset {
            let has = self.upload_offset(repository, upload).await?;
            if has != offset {
                return Err(Error::UploadOffset { offset: has });
            }
        }
        let appended = self
            .origins
            .append(&upload.member, &upload.id, offset, body)
            .await;
        match appended {
            Ok(offset) => Ok(offset),
            Err(error) => Err(self.why_broken(upload, &error).await),
        }
    }

    async fn commit(
        &self,
        repository: &RepositoryName,
        upload: &Upload,
        digest: &Digest,
    ) -> Result<(), Error> {
        let about = About::Commit(digest);
        let committed = self
            .origins
            .commit(&upload.member, &upload.id, digest)
            .await;
        let committed = committed.map_err(|error| of_call(&error, about))?;
        let about = About::Blob(repository, digest);
        let mut pause = LINK_PAUSE;
        for _ in 0..LINK_TRIES {
            let linked = self.index.link_blob(repository, digest, None);
            if self.bounded(about, linked).await?.is_some() {
                let length = committed.length;
                tracing::info!(%repository, %digest, length, "a blob was pushed");
                return Ok(());
            }
            // An origin may have it, and not yet have brought it to storage.
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let text = format!("blob {digest} is not in storage yet");
        Err(Error::Unavailable(text))
    }

    async fn cancel(&self, _: &RepositoryName, upload: &Upload) -> Result<(), Error> {
        let canceled = self.origins.cancel(&upload.member, &upload.id).await;
        canceled.map_err(|error| of_call(&error, About::Upload))
    }

    async fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<bool, Error> {
        // Who names no repository need not have seen the blob anywhere.
        let Some(from) = from else {
            return Ok(false);
        };
        let linked = self.index.link_blob(repository, digest, Some(from));
        let about = About::Blob(repository, digest);
        Ok(self.bounded(about, linked).await?.is_some())
    }

    async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        media_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<PushedManifest, Error> {
        if tags.len() > MAX_TAGS {
            return Err(Error::TooManyTags { limit: MAX_TAGS });
        }
        let put = self
            .index
            .put_manifest(repository, reference, tags, media_type, bytes);
        let about = About::Manifest(repository, reference);
        let stored = self.bounded(about, put).await?;
        Ok(PushedManifest {
            digest: stored.digest,
            subject: stored.subject,
            tags: stored.tags,
        })
    }

    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<(), Error> {
        let deleted = self.index.delete_manifest(repository, reference);
        let about = About::Manifest(repository, reference);
        self.bounded(about, deleted).await
    }

    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<(), Error> {
        let unlinked = self.index.unlink_blob(repository, digest);
        self.bounded(About::Blob(repository, digest), unlinked)
            .await
    }
}
