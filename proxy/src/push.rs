//! Pushes: bytes go straight to an origin, the rest to the build-index.

use std::time::Duration;

use api::build_index::{BlobStat, MAX_TAGS, Taken, WriteId};
use api::origin::CommitQuery;
use api::{BuildIndexClient, CallError, ErrorCode, OriginClient};
use async_trait::async_trait;
use bytes::Bytes;
use oci::{Digest, Reference, RepositoryName, Tag};
use registry::{ByteStream, Error, Push, PushedManifest, Upload};

use crate::failure::{About, of_call};
use crate::waiting::Waiting;

/// How long the end of an upload waits for its repository to have a blob that an origin holds: it
/// can still get there with its manifest.
const LINK_WAIT: Duration = Duration::from_secs(5);

/// Takes blobs and manifests to where they are kept.
#[derive(Debug)]
pub(crate) struct ClusterPush {
    origins: OriginClient,
    index: BuildIndexClient,
    /// How long the build-indexes may take together.
    wait: Duration,
    /// How long blobs that a manifest needs may make no progress on their way to storage.
    stall: Duration,
}

impl ClusterPush {
    pub(crate) const fn new(
        origins: OriginClient,
        index: BuildIndexClient,
        wait: Duration,
        stall: Duration,
    ) -> Self {
        Self {
            origins,
            index,
            wait,
            stall,
        }
    }

    /// Waits for a build-index, but not for ever: several may be asked one after the other.
    async fn bounded<T>(
        &self,
        about: About<'_>,
        call: impl Future<Output = Result<T, CallError>> + Send,
    ) -> Result<T, Error> {
        within(self.wait, about, call).await
    }

    /// Puts a blob into a repository that it was pushed to while storage could not take that.
    pub(crate) async fn link_late(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        taken: &Taken,
    ) -> Result<(), Error> {
        let about = About::Blob(repository, digest);
        match self.index.blob(repository, digest).await {
            Err(error) if error.code() == Some(ErrorCode::BlobUnknown) => {}
            other => return other.map(|_| ()).map_err(|error| of_call(&error, about)),
        }
        let linked = self.index.link_taken(repository, digest, taken);
        self.bounded(about, linked).await
    }

    pub(crate) const fn origins(&self) -> &OriginClient {
        &self.origins
    }

    pub(crate) const fn stall(&self) -> Duration {
        self.stall
    }

    /// Mounts a blob that origins have taken, and that is not in storage yet.
    async fn mount_taken(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<bool, Error> {
        match self.index.blob(from, digest).await {
            Ok(BlobStat { length: None, .. }) => {}
            Ok(BlobStat {
                length: Some(_), ..
            })
            | Err(_) => return Ok(false),
        }
        // Whatever goes wrong now, the client can upload the blob instead.
        let Ok(length) = self.origins.length(digest).await else {
            return Ok(false);
        };
        let about = About::Blob(repository, digest);
        let linked = self.index.mount_taken(repository, digest, from, length);
        Ok(self.bounded(about, linked).await?.is_some())
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

async fn within<T>(
    wait: Duration,
    about: About<'_>,
    call: impl Future<Output = Result<T, CallError>> + Send,
) -> Result<T, Error> {
    match tokio::time::timeout(wait, call).await {
        Ok(result) => result.map_err(|error| of_call(&error, about)),
        Err(_) => Err(no_answer(wait)),
    }
}

fn no_answer(wait: Duration) -> Error {
    let text = format!("no build-index answered within {} s", wait.as_secs());
    Error::Unavailable(text)
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
        let query = CommitQuery {
            digest: digest.to_string(),
            mirror_of: None,
            repository: Some(repository.clone()),
        };
        let committed = self
            .origins
            .end_upload(&upload.member, &upload.id, &query)
            .await;
        let committed = committed.map_err(|error| of_call(&error, about))?;
        let length = committed.length;
        let taken = Taken {
            sha256: committed.sha256,
            length,
        };
        let linked = self.index.link_taken(repository, digest, &taken);
        let about = About::Blob(repository, digest);
        let wait = if committed.is_held {
            LINK_WAIT
        } else {
            self.wait
        };
        match within(wait, about, linked).await {
            // The origin remembers which repository it is for: the manifest brings it there.
            Err(Error::Unavailable(reason)) if committed.is_held => {
                tracing::warn!(%repository, %digest, reason, "a blob is not in its repository yet");
            }
            linked => linked?,
        }
        tracing::info!(%repository, %digest, length, "a blob was pushed");
        Ok(())
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
        let about = About::Blob(repository, digest);
        let linked = self.index.link_blob(repository, digest, Some(from));
        if self.bounded(about, linked).await?.is_some() {
            return Ok(true);
        }
        self.mount_taken(repository, digest, from).await
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
        let mut waiting = Waiting::new(self, repository);
        // One change, however often it is asked for.
        let id = WriteId::random();
        let about = About::Manifest(repository, reference);
        let stored = loop {
            let bytes = bytes.clone();
            let put = self
                .index
                .put_manifest_as(id, repository, reference, tags, media_type, bytes);
            let Ok(put) = tokio::time::timeout(self.wait, put).await else {
                return Err(no_answer(self.wait));
            };
            match put {
                Ok(stored) => break stored,
                Err(error) => match error.code() {
                    Some(ErrorCode::ManifestBlobUnknown) => {
                        waiting.wait(of_call(&error, about)).await?;
                    }
                    // The build-index is there, and its storage is not.
                    Some(ErrorCode::Unavailable) => waiting.pause(of_call(&error, about)).await?,
                    _ => return Err(of_call(&error, about)),
                },
            }
        };
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
